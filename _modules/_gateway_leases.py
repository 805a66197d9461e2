"""Leases that all nodes know: who may give which addresses, and what the nodes tell each other."""

import hashlib
import json
import re
from datetime import datetime, timezone
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import _gateway_machine
from _gateway_dhcp import is_served, registers, seconds
from _gateway_iptables import Gateway, Pen, ipv4
from _gateway_machine import Facts, Here, Plan, service_unit
from _gateway_site import INTERNAL, LocalNetwork, Node, Site

PORT = 3781  # nobody else's on a gateway, beside state sync's
FULL = 0.9  # of a pool, when a person should hear of it
ASK = "/usr/lib/gateway/ask-leases"


def plan(site: Site, node: Node) -> dict[str, Any]:
    return {"leases": _leases(site, node)}


def ports(site: Site) -> dict[str, str]:
    tells = any(_links(site, node) for node in site.nodes)
    return {f"{PORT}/tcp": "what the nodes tell each other of leases"} if tells else {}


def units(plan: Plan) -> list[dict[str, Any]]:
    return [service_unit("gateway-leases")] if is_served(plan) else []


def _leases(site: Site, node: Node) -> dict[str, Any]:
    """What gateway/leases/files/leases.py reads (what the plans of DHCP and DNS have for it is in
    lease-hosts.json.jinja), and a digest of the key. ``names``: those that `dns:settings` has."""
    served = [network for network in site.local if network.dhcp.enabled]
    if not served:
        return {"enabled": False}
    links = _links(site, node)
    key = site.dhcp.key
    return {
        "enabled": True,
        "node": node.name,
        **(links or {"interface": None, "address": None, "peers": {}}),
        "port": PORT,
        # Whom clients ask that ask a peer.
        "servers": [
            str(peer.address_in(network.name))
            for peer in site.peers(node)
            for network in served
            if links
        ],
        "key": hashlib.sha256(key.text.encode()).hexdigest()[:16] if key and key.text else None,
        "pools": [pool for network in served for pool in _pools(site, node, network)],
        "domain": site.domain,
        "register": {
            str(network.network): network.dhcp.domain or site.domain
            for network in served
            if registers(site, network)
        },
        "names": sorted(_said(site)),
    }


def _links(site: Site, node: Node) -> dict[str, Any] | None:
    """Where the nodes tell each other: over the link of state sync, which is nobody else's; else
    over the internal side, where it takes a key. None where they do not."""
    peers = site.peers(node)
    if not peers or not any(network.dhcp.enabled for network in site.local):
        return None
    if site.state_sync.interface:
        return {
            "interface": node.sync_interface,
            "address": str(node.sync),
            "peers": {peer.name: str(peer.sync) for peer in peers},
        }
    if not site.dhcp.key:
        return None
    return {
        "interface": node.internal_interface,
        "address": str(node.internal),
        "peers": {peer.name: str(peer.internal) for peer in peers},
    }


def _said(site: Site) -> set[str]:
    """Names in `dns:settings`, which are the site's own like those of hosts: whatever there could
    be one."""
    words = {
        word for _, text in site.dns.settings for word in re.findall(r"\w[\w.-]*", text.lower())
    }
    return {name for word in words for name in (word, f"{word}.{site.domain}")}


def _pools(site: Site, node: Node, network: LocalNetwork) -> list[dict[str, Any]]:
    """The ranges of a network's pools, each with a share for each node. ``before`` and ``after``
    are the rest of dnsmasq's line, ``static`` stands there where a node has no share, ``seconds``
    is how long a lease lasts (-1: for ever)."""
    given = network.dhcp
    # Names of networks might be tags that dnsmasq itself sets, such as `known`, or an interface.
    before = f"set:network-{network.name}," if tagged(site, network) else ""
    if site.networks:
        # Who asks says where (as a relay, or with the address that it has). It is believed for the
        # network of the interface by which it asks; dnsmasq has a tag of its name.
        before = f"tag:{node.interface_in(network.name)},{before}"
    return [
        {
            "network": network.name,
            "before": before,
            "after": f",{network.network.netmask},{given.lease_time}",
            "static": f"{network.network.network_address},static",
            "seconds": seconds(given.lease_time),
            "shares": shares,
        }
        for shares in _shares(site, network)
    ]


def tagged(site: Site, network: LocalNetwork) -> bool:
    """Whether what a network hands out has its tag."""
    return bool(site.networks or network.dhcp.options or network.dhcp.boot)


def _shares(site: Site, network: LocalNetwork) -> list[dict[str, list[str]]]:
    """For each pool a part for each node, in the order of their ids as the VPN's subnets are: so
    nodes that do not hear each other give no address twice. One empty pool where there is none."""
    pools = [pool for pool in (network.dhcp.pool, *network.dhcp.further_pools) if pool]
    nodes = sorted(site.nodes, key=lambda node: node.id)
    return [_cut(pool, [node.name for node in nodes]) for pool in pools] or [{}]


def _cut(pool: tuple[IPv4Address, IPv4Address], nodes: list[str]) -> dict[str, list[str]]:
    first, size = pool[0], int(pool[1]) - int(pool[0]) + 1
    ends = [size * number // len(nodes) for number in range(len(nodes) + 1)]
    return {
        node: [f"{first + start},{first + end - 1}"]
        for node, start, end in zip(nodes, ends, ends[1:], strict=False)
        if start < end
    }


# --------------------------------------------------------------------------------------------------
# Its rule


@ipv4
def from_peers(pen: Pen, gateway: Gateway) -> None:
    """Before the node's own packets: programs on it must not speak for a peer either."""
    leases = gateway.plan["leases"]
    if not leases["enabled"] or not leases["peers"]:
        return
    pen.note(
        "What the peers tell of leases; nobody else, for over a link of theirs it takes no key."
    )
    news = f"-p tcp --dport {leases['port']}"
    for peer in leases["peers"].values():
        way = f"-i {leases['interface']} -s {peer} -d {leases['address']}"
        pen.add(way, news, "-j ACCEPT")
    if leases["interface"] == gateway.internal:
        # As every other port inside.
        pen.reject("-p tcp", f"-i {gateway.internal} -d {leases['address']} --dport {PORT}")
    pen.add(f"-d {leases['address']}", news, "-j DROP")


# --------------------------------------------------------------------------------------------------
# Status


def warnings(plan: Plan, here: Here) -> list[str]:
    """Nodes that cannot tell each other anything."""
    leases = plan["leases"]
    alone = not plan["peers"] or (leases["enabled"] and leases["peers"])
    if not leases["enabled"] or alone or not any(pool["shares"] for pool in leases["pools"]):
        return []
    return [
        "gateway:dhcp:key: missing, so the nodes do not tell each other of leases: after a failover"
        " an address may be given twice; any text of 32 characters or more (openssl rand -hex 32),"
        " or a link of the nodes' own (gateway:state_sync:interface)"
    ]


UNKNOWN: Facts = {"leases": {"enabled": False}}


def status(plan: Plan, here: Here) -> tuple[Facts, list[str]]:
    """``leases``: how many there are, whether all nodes know the same (``in_sync``), and which
    peers are heard."""
    leases = plan["leases"]
    if not leases["enabled"]:
        return UNKNOWN, []
    listing = ask("list")
    if "error" in listing:
        return UNKNOWN, [f"DHCP: {listing['error']}"]
    facts = {
        "enabled": True,
        "count": len(listing["leases"]),
        "in_sync": listing["in_sync"],
        "peers": {name: peer["heard"] for name, peer in listing["peers"].items()},
    }
    problems = [*_faults(listing), *_full_pools(plan, listing)]
    if here.role == "MASTER":
        problems += _lease_problems(plan["dhcp"]["reservations"], listing["leases"])
    return {"leases": facts}, problems


def ask(question: str, *words: str) -> dict[str, Any]:
    """What the daemon of leases on this node answers; ``{"error": ...}`` where it does not."""
    text = _gateway_machine.said(ASK, question, *words)
    try:
        answer: dict[str, Any] = json.loads(text)
    except ValueError:
        answer = {"error": "gateway-leases does not answer"}
    return answer


def _faults(listing: dict[str, Any]) -> list[str]:
    problems = [f"DHCP: leases cannot be kept: {listing['fault']}"] if listing["fault"] else []
    for name, peer in listing["peers"].items():
        if not peer["same_pools"]:
            problems.append(
                f"DHCP: {name} has other pools than this node: what both take for their own share"
                " is given to nobody new while they do not hear each other (apply to both)"
            )
        if peer["refused"]:
            problems.append(
                f"DHCP: {name} is not believed what it tells of leases: {peer['refused']}"
                " (gateway:dhcp:key)"
            )
        elif not peer["heard"]:
            problems.append(
                f"DHCP: {name} tells nothing of leases; until it does, new machines get addresses"
                " of one node's share of the pool"
            )
    return problems


def _full_pools(plan: Plan, listing: dict[str, Any]) -> list[str]:
    """Pools of which little is left: all shares of a network, or this node's where it may give
    no other."""
    leases = plan["leases"]
    shares: dict[str, list[str]] = {}
    for pool in leases["pools"]:
        nodes = pool["shares"] if listing["in_sync"] else [leases["node"]]
        shares.setdefault(pool["network"], []).extend(
            part for node in nodes for part in pool["shares"].get(node, [])
        )
    whose = "pool" if listing["in_sync"] else f"{leases['node']}'s share of the pool"
    reserved = {int(IPv4Address(host["ip"])) for host in plan["dhcp"]["reservations"]}
    used = {int(IPv4Address(lease["address"])) for lease in listing["leases"]} - reserved
    problems = []
    for network, parts in shares.items():
        spans = [tuple(int(IPv4Address(end)) for end in part.split(",")) for part in parts]
        size = sum(last - first + 1 for first, last in spans)
        size -= sum(_within(number, spans) for number in reserved)
        taken = sum(_within(number, spans) for number in used)
        if size and taken >= FULL * size:
            problems.append(
                f"DHCP: {taken} of {size} addresses in {network}'s {whose} are given away"
            )
    return problems


def _within(number: int, spans: list[tuple[int, ...]]) -> bool:
    return any(first <= number <= last for first, last in spans)


def _lease_problems(reservations: list[dict[str, Any]], leases: list[dict[str, Any]]) -> list[str]:
    """
    Reserved addresses that another machine has a lease of: until that ends, or the machine gives it
    back, the one that it is reserved for gets an address of the pool.
    """
    # A plan that an older version applied has one MAC address for each host.
    reserved = {
        host["ip"]: (host["name"], host.get("macs") or [host["mac"]]) for host in reservations
    }
    problems = []
    for lease in leases:
        name, macs = reserved.get(lease["address"], (None, []))
        if name and lease["mac"] not in macs:
            until = "for ever"
            if lease["until"]:
                until = f"until {_time(lease['until']):%Y-%m-%d %H:%M} UTC"
            whose = f"reserved for {name}, but {lease['mac']} has it {until}"
            problems.append(f"DHCP: {lease['address']} is {whose}")
    return problems


# --------------------------------------------------------------------------------------------------
# What a person asks for


def networks(plan: Plan) -> dict[str, str]:
    """The names of the networks behind the pair, by the networks; none where no plan is known."""
    found = {network["network"]: network["name"] for network in plan.get("networks", [])}
    return found | ({plan["internal"]["network"]: INTERNAL} if "internal" in plan else {})


def shown(plan: Plan, leases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leases as ``gateway.leases`` returns them: with the network's name, and times as text."""
    known = [(IPv4Network(network), name) for network, name in networks(plan).items()]
    return [
        {
            "address": lease["address"],
            "mac": lease["mac"],
            "name": lease["name"],
            "network": next((n for net, n in known if IPv4Address(lease["address"]) in net), ""),
            "since": f"{_time(lease['since']):%Y-%m-%d %H:%M:%S} UTC",
            "until": f"{_time(lease['until']):%Y-%m-%d %H:%M:%S} UTC" if lease["until"] else "",
            "node": lease["node"],
        }
        for lease in sorted(leases, key=lambda lease: int(IPv4Address(lease["address"])))
    ]


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)
