"""The firewall on this node: what the loader says, and what other firewalls refuse."""

import json
import os
import shutil
from typing import Any

import _gateway_foreign
import _gateway_foreign_nft
import _gateway_machine
import _gateway_policy
from _gateway_machine import Facts, Here, Plan

FIREWALL = "/usr/lib/gateway/firewall"
BACKEND = "/var/lib/gateway/firewall/backend"
LEGACY_TABLES = "/proc/net/ip_tables_names"
BRIDGE_FILTER = "/proc/sys/net/bridge"
RULES = "/var/lib/gateway/firewall/current/v4"


def errors(plan: Plan, here: Here) -> list[str]:
    """Whom the new rules would lock out, and what other firewalls refuse."""
    if "foreign" not in here.kept:
        here.kept["foreign"] = _foreign_errors(plan)
    return [*_ssh_errors(plan), *here.kept["foreign"]]


def _ssh_errors(plan: Plan) -> list[str]:
    """Who applies this over SSH from the public side must be able to come again."""
    connection = os.environ.get("SSH_CONNECTION", "").split()
    if len(connection) != 4:
        return []
    client, port, to = connection[0], int(connection[3]), connection[2]
    route = json.loads(_gateway_machine.output("ip", "-json", "route", "get", client) or "[{}]")[0]
    public = plan["public"]["interface"]
    if route.get("dev") != public or _gateway_policy.lets_in(plan, client, port, to):
        return []
    return [
        f"gateway:firewall:ssh:from: you are here by SSH from {client} on the public side, and the"
        " new rules would not let you in again; add that address"
    ]


def _foreign_errors(plan: Plan) -> list[str]:
    """What other firewalls on this node refuse. IPv4 only, as what the site lives from."""
    # Calling iptables-legacy loads its kernel modules, so it is asked only where they are loaded
    # already.
    legacy = (
        _gateway_machine.output("iptables-legacy-save")
        if _gateway_machine.text(LEGACY_TABLES)
        else ""
    )
    saves = {"nft": _gateway_machine.output("iptables-nft-save"), "legacy": legacy}
    listing = _gateway_machine.output("nft", "-j", "list", "tables")
    tables = _gateway_foreign_nft.foreign_tables(listing, saves["nft"])
    listed = [_gateway_machine.output("nft", "-j", "list", "table", *table) for table in tables]
    return _gateway_foreign.refusals(plan, _backend(saves), saves, listed)


def _backend(saves: dict[str, str]) -> str:
    """Which iptables our rules are in, or will go to: as find_backend of the firewall loader."""
    kept = _gateway_machine.text(BACKEND)
    if kept:
        return kept
    path = os.pathsep.join([*os.get_exec_path(), "/usr/sbin", "/sbin"])
    program = os.path.realpath(shutil.which("iptables", path=path) or "")
    usual, other = ("legacy", "nft") if "legacy" in program else ("nft", "legacy")
    return other if "\n-A " in saves[other] and "\n-A " not in saves[usual] else usual


def bridges(plan: Plan) -> list[str]:
    """Interfaces of ours that are bridges whose frames pass iptables from port to port."""
    if not os.path.exists(BRIDGE_FILTER):
        return []
    sides = (plan["internal"], plan["public"], *plan["networks"])
    interfaces = [side["interface"] for side in sides]
    return [
        name
        for name in interfaces
        if os.path.exists(f"{_gateway_machine.INTERFACES}/{name}/bridge")
    ]


def _bridge_problems(plan: Plan) -> list[str]:
    """Rules that were made when no frame of a bridge passed iptables refuse those frames."""
    rules = _gateway_machine.text(RULES)
    return [
        f"frames from port to port of {bridge} pass iptables since the last apply (br_netfilter was"
        " loaded, as Docker does it), and the firewall refuses them: apply again"
        for bridge in bridges(plan)
        if rules is not None and f"-i {bridge} -o {bridge} -m physdev" not in rules
    ]


def status(plan: Plan, here: Here) -> tuple[Facts, list[str]]:
    """``firewall``: what the loader says. Other firewalls have nothing to show but problems."""
    facts, problems = status_without_plan()
    return facts, [*problems, *_foreign_errors(plan), *_bridge_problems(plan)]


def status_without_plan() -> tuple[Facts, list[str]]:
    """
    ``firewall``: what the loader says. ``closed`` is why the rules are not in force and the node
    forwards nothing, ``restored`` how often since the boot somebody's flush was made good.
    """
    loader: dict[str, Any] = {
        **dict.fromkeys(("loaded", "drift", "pending", "gate"), False),
        "backend": None,
        "closed": None,
        "restored": 0,
    }
    loader |= json.loads(_gateway_machine.output(FIREWALL, "status") or "{}")
    return {"firewall": loader}, _loader_problems(loader)


def _loader_problems(loader: dict[str, Any]) -> list[str]:
    if loader["closed"]:
        # In the words of the health monitor, which says it as well: then it stands there once.
        return [f"the firewall rules are not in force, nothing is forwarded: {loader['closed']}"]
    if loader["pending"]:
        return ["new firewall rules are on trial, and taken back unless they prove good"]
    if not loader["loaded"]:
        return ["the firewall rules are not loaded"]
    if not loader["gate"]:
        return [
            "the gate is not set, or another rule of `ip rule` stands before it: without its"
            " firewall rules this node would forward everything"
        ]
    if loader["drift"]:
        return ["the firewall rules are not what was loaded: somebody changed them by hand"]
    return []
