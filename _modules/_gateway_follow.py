"""Units that run where the virtual IP is."""

import os
import re
from collections.abc import Collection
from typing import Any

import _gateway_kinds as kinds
import _gateway_machine
import _gateway_values as values
from _gateway_keys import EMPTY, Items, Key, Kind
from _gateway_machine import Facts, Here, Plan, service_unit
from _gateway_reader import Reader, Section
from _gateway_site import Node, Site

# They run where the virtual IP is, or now and then.
FOLLOWERS = (
    *("gateway-virtual-ip.target", "gateway-follow-event.service"),
    "gateway-follow-hooks.service",
)
OURS = ("gateway-", "openvpn-server@gateway-")  # how the names of the formula's units begin
ROLE = "/run/gateway/role"
HOOKS = "/run/gateway/hooks.told"
HOOKS_GRACE = 10  # seconds
FOLDERS = ("/etc/gateway/follow.d", "/etc/gateway/health.d")  # executables in them are the user's
LEFTOVER = re.compile(r"\.|.*(~|\.(dpkg|ucf|rpm)[a-z-]*)\Z")  # of editors and packages


def followed_unit(value: object) -> str:
    return values.unit(value, values.FOLLOWING)


def check_units(
    reader: Reader, site: Site, own: Collection[str], followers: Collection[str]
) -> None:
    """Units of the pillar that the formula starts itself, or that do not run on each node.

    ``own`` are names of the distribution's units, and ``followers`` are those of the formula's own
    that run only where the virtual IP is.
    """
    for unit in site.follow_virtual_ip:
        name = unit.rsplit(".", 1)[0]
        if name in own or name.startswith(OURS):
            reader.fault(reader.claims["unit", unit], f"{unit} is the formula's own")
    for number, unit in enumerate(site.health.services):
        if unit in (*site.follow_virtual_ip, *followers):
            reader.fault(
                f"gateway:health:services:{number}",
                f"{unit} runs only where the virtual IP is, so any other node would be at fault",
            )


def _followed_schema() -> dict[str, Any]:
    own = "|".join(OURS)
    return kinds.text(f"(?!{own})(?:{kinds.unit_pattern(values.FOLLOWING)})", "a unit of yours")


_FOLLOWED = Kind(followed_unit, "unit", _followed_schema)
KEYS = (
    Key(
        "follow_virtual_ip",
        Items(_FOLLOWED, "list of units"),
        EMPTY,
        "systemd units of yours that [run where the internal virtual IP"
        " is](failover.md#units-that-follow): full names of services, sockets, timers, paths or"
        " targets. `nginx` alone is `nginx.service`. Units of ours, of keepalived, conntrackd and"
        " the NTP servers are refused.",
    ),
)


def read_followers(top: Section) -> tuple[str, ...]:
    units = top.placed("follow_virtual_ip")
    for path, unit in units.items():
        top.reader.claim("unit", unit, path)
    return tuple(units.values())


def plan(site: Site, node: Node) -> dict[str, Any]:
    return {
        "follow": {
            "units": list(site.follow_virtual_ip),
            "reassert": site.failover.reassert,
        }
    }


def units(plan: Plan) -> list[dict[str, Any]]:
    return [service_unit("gateway-follow", watched=True)]


def status(plan: Plan, here: Here) -> tuple[Facts, list[str]]:
    """``services``: how the units of ``follow_virtual_ip`` are."""
    units, problems = _unit_status(plan["follow"]["units"], here.role)
    passed_over = [problem for folder in FOLDERS for problem in _passed_over(folder)]
    return {"services": units}, [*problems, *_hook_problems(), *passed_over]


def _unit_status(units: list[str], role: str) -> tuple[dict[str, str], list[str]]:
    """systemd's word for each of these units, and which of them is not in place."""
    states, problems = {}, []
    for unit in units:
        command = ("systemctl", "show", "--property", "LoadState,ActiveState,Type", unit)
        shown = dict(
            line.split("=", 1)
            for line in _gateway_machine.output(*command).splitlines()
            if "=" in line
        )
        now = states[unit] = shown.get("ActiveState", "unknown")
        if shown.get("LoadState") != "loaded":
            problems.append(f"there is no unit {unit}, which shall follow the virtual IP")
        elif now == "failed" or not _in_place(now, role, shown.get("Type")):
            problems.append(f"{unit} is {now} while this node is {role}")
    return states, problems


def _hook_problems() -> list[str]:
    """Whether the executables in follow.d know the role."""
    # ROLE holds "primary 1800000000.25": the role and since when. HOOKS holds what the executables
    # were told, and a third word: the number of the last call, or "failed". They get some time to
    # hear of a new role.
    present = _gateway_machine.text(ROLE)
    late = present and _gateway_machine.now().timestamp() - float(present.split()[1]) > HOOKS_GRACE
    told, _, last = (_gateway_machine.text(HOOKS) or "").rpartition(" ")
    if not late or (told == present and last != "failed"):
        return []
    return [
        "not all in /etc/gateway/follow.d have ended well for the present role;"
        " journalctl -u gateway-follow-hooks says which, and why"
    ]


def _passed_over(folder: str) -> list[str]:
    """What somebody put there to be called and nobody calls, with the reason."""
    problems = []
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        path = os.path.join(folder, name)
        if LEFTOVER.match(name) or os.path.isdir(path):
            continue
        if not re.fullmatch("[A-Za-z0-9_-]+", name):
            reason = "its name has other characters than letters, digits, _ and -"
        elif not os.path.isfile(path):
            reason = "it is no file"
        elif not os.access(path, os.X_OK):
            reason = "it is not executable"
        else:
            continue
        problems.append(f"{path} is passed over: {reason}")
    return problems


def _in_place(now: str, role: str, kind: str | None) -> bool:
    """Whether a unit runs where the virtual IP is; a one-shot service may be through already."""
    if role == "MASTER":
        return now == "active" or kind == "oneshot"
    return now != "active"
