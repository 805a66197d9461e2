"""The firewall on this node: what the loader says, and what other firewalls refuse."""

import json
import os
import shutil
from typing import Any

import _gateway_foreign
import _gateway_foreign_nft
import _gateway_node
import _gateway_policy
from _gateway_node import Plan

FIREWALL = "/usr/lib/gateway/firewall"
BACKEND = "/var/lib/gateway/firewall/backend"
LEGACY_TABLES = "/proc/net/ip_tables_names"
BRIDGE_FILTER = "/proc/sys/net/bridge"
RULES = "/var/lib/gateway/firewall/current/v4"


def ssh_errors(plan: Plan) -> list[str]:
    """Who applies this over SSH from the public side must be able to come again."""
    connection = os.environ.get("SSH_CONNECTION", "").split()
    if len(connection) != 4:
        return []
    client, port, to = connection[0], int(connection[3]), connection[2]
    route = json.loads(_gateway_node.output("ip", "-json", "route", "get", client) or "[{}]")[0]
    public = plan["public"]["interface"]
    if route.get("dev") != public or _gateway_policy.lets_in(plan, client, port, to):
        return []
    return [
        f"gateway:firewall:ssh:from: you are here by SSH from {client} on the public side, and the"
        " new rules would not let you in again; add that address"
    ]


def foreign_errors(plan: Plan) -> list[str]:
    """What other firewalls on this node refuse. IPv4 only, as what the site lives from."""
    # Without tables of its own, iptables-legacy would have its kernel modules loaded.
    legacy = (
        _gateway_node.output("iptables-legacy-save") if _gateway_node.text(LEGACY_TABLES) else ""
    )
    saves = {"nft": _gateway_node.output("iptables-nft-save"), "legacy": legacy}
    listing = _gateway_node.output("nft", "-j", "list", "tables")
    tables = _gateway_foreign_nft.foreign_tables(listing, saves["nft"])
    listed = [_gateway_node.output("nft", "-j", "list", "table", *table) for table in tables]
    return _gateway_foreign.refusals(plan, _backend(saves), saves, listed)


def _backend(saves: dict[str, str]) -> str:
    """Which iptables our rules are in, or will go to: as find_backend of the firewall loader."""
    kept = _gateway_node.text(BACKEND)
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
    interfaces = [plan[side]["interface"] for side in ("internal", "public")]
    return [
        name for name in interfaces if os.path.exists(f"{_gateway_node.INTERFACES}/{name}/bridge")
    ]


def bridge_problems(plan: Plan) -> list[str]:
    """Rules that were made when no frame of a bridge passed iptables refuse those frames."""
    rules = _gateway_node.text(RULES)
    return [
        f"frames from port to port of {bridge} pass iptables since the last apply (br_netfilter was"
        " loaded, as Docker does it), and the firewall refuses them: apply again"
        for bridge in bridges(plan)
        if rules is not None and f"-i {bridge} -o {bridge} -m physdev" not in rules
    ]


def status(problems: list[str]) -> dict[str, Any]:
    """
    What the loader says. ``closed`` is why the rules are not in force and the node forwards
    nothing, ``restored`` how often since the boot somebody's flush was made good.
    """
    found: dict[str, Any] = {
        **dict.fromkeys(("loaded", "drift", "pending", "gate"), False),
        "backend": None,
        "closed": None,
        "restored": 0,
    }
    found |= json.loads(_gateway_node.output(FIREWALL, "status") or "{}")
    if found["closed"]:
        # The health monitor has said the same, if it runs.
        closed = f"the firewall rules are not in force, nothing is forwarded: {found['closed']}"
        problems += [closed] if closed not in problems else []
    elif found["pending"]:
        problems.append("new firewall rules are on trial, and taken back unless they prove good")
    elif not found["loaded"]:
        problems.append("the firewall rules are not loaded")
    elif not found["gate"]:
        problems.append(
            "the gate is not set, or another rule of `ip rule` stands before it: without its"
            " firewall rules this node would forward everything"
        )
    elif found["drift"]:
        problems.append("the firewall rules are not what was loaded: somebody changed them by hand")
    return found
