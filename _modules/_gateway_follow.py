"""Units that run where the virtual IP is."""

import os
import re
from typing import Any

import _gateway_kinds as kinds
import _gateway_node
import _gateway_values as values
from _gateway_keys import EMPTY, Items, Key, Kind
from _gateway_node import Plan, service_unit
from _gateway_reader import Section
from _gateway_site import Node, Site

ROLE = "/run/gateway/role"
HOOKS = "/run/gateway/hooks.told"
HOOKS_GRACE = 10  # seconds
FOLDERS = ("/etc/gateway/follow.d", "/etc/gateway/health.d")  # executables in them are the user's
LEFTOVER = re.compile(r"\.|.*(~|\.(dpkg|ucf|rpm)[a-z-]*)\Z")  # of editors and packages


def followed_unit(value: object) -> str:
    unit = values.unit(value, values.FOLLOWING)
    name = unit.rsplit(".", 1)[0]
    if name in values.OWN_UNITS or name.startswith(("gateway-", "openvpn-server@gateway-")):
        raise ValueError(f"{unit} is the formula's own")
    return unit


def _followed_schema() -> dict[str, Any]:
    own = f"gateway-|openvpn-server@gateway-|(?:{'|'.join(values.OWN_UNITS)})(?:[.][a-z]+)?$"
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


def status(wanted: Plan, role: str, problems: list[str]) -> dict[str, Any]:
    """The units of ``follow_virtual_ip``, and whether follow.d knows the role."""
    found = {}
    for unit in wanted["follow"]["units"]:
        command = ("systemctl", "show", "--property", "LoadState,ActiveState,Type", unit)
        shown = dict(
            line.split("=", 1)
            for line in _gateway_node.output(*command).splitlines()
            if "=" in line
        )
        now = found[unit] = shown.get("ActiveState", "unknown")
        if shown.get("LoadState") != "loaded":
            problems.append(f"there is no unit {unit}, which shall follow the virtual IP")
        elif now == "failed" or not _in_place(now, role, shown.get("Type")):
            problems.append(f"{unit} is {now} while this node is {role}")
    # "primary 1800000000.25": the role and since when. They are given some time to hear of it. What
    # was told has another word behind it: the number of the last call, or that it failed.
    present = _gateway_node.text(ROLE)
    late = present and _gateway_node.now().timestamp() - float(present.split()[1]) > HOOKS_GRACE
    told, _, last = (_gateway_node.text(HOOKS) or "").rpartition(" ")
    if late and (told != present or last == "failed"):
        problems.append(
            "not all in /etc/gateway/follow.d have ended well for the present role;"
            " journalctl -u gateway-follow-hooks says which, and why"
        )
    for folder in FOLDERS:
        problems += _passed_over(folder)
    return found


def _passed_over(folder: str) -> list[str]:
    """What somebody put there to be called and nobody calls, with the reason."""
    found = []
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
        found.append(f"{path} is passed over: {reason}")
    return found


def _in_place(now: str, role: str, kind: str | None) -> bool:
    """Whether a unit runs where the virtual IP is; a one-shot service may be through already."""
    if role == "MASTER":
        return now == "active" or kind == "oneshot"
    return now != "active"
