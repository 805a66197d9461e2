"""The nodes' own link, over which they tell each other their connections (conntrackd)."""

import json
from ipaddress import ip_address, ip_network
from typing import Any

import _gateway_interfaces
import _gateway_kernel
import _gateway_kinds as kinds
import _gateway_machine
import _gateway_values as values
from _gateway_iptables import Gateway, Pen, ipv4
from _gateway_keys import REQUIRED, Key, Kind, Mapping, by_name
from _gateway_machine import Facts, Here, Plan, service_unit
from _gateway_reader import Section
from _gateway_site import (
    Network,
    Node,
    Site,
    StateSync,
)

OWN_UNITS = ("conntrackd",)
SYNC_PORT = 3780  # conntrackd's customary one
SYNC_REPORT = "/run/gateway/sync.json"
SYNC_SILENCE = 10  # seconds; conntrackd sends something each second
SYNC_TROUBLE = 20  # seconds


def _no_state_sync(value: object) -> bool:
    if value is True:
        raise ValueError(
            "needs a link of the nodes' own: state_sync: {interface: eth3}, and nodes:NODE:sync for"
            " each node; over the internal side any machine there could add connections that no"
            " rule has let in"
        )
    if value is not False:
        shown = f"{values.kind(value)} ({values.show(value)})"
        raise ValueError(f"must be false or a mapping with interface, is {shown}")
    return False


_STATE_SYNC = by_name(
    Key(
        "interface",
        kinds.INTERFACE,
        REQUIRED,
        "The card on the link between the nodes; neither the internal nor the public one. Every"
        " node then needs `sync`.",
    ),
)
KEYS = (
    Key(
        "state_sync",
        Mapping(
            _STATE_SYNC,
            "mapping, or false",
            instead=Kind(_no_state_sync, "false", lambda: {"const": False}),
        ),
        False,
        "The nodes tell each other of their connections, so that these survive a failover:"
        " [state_sync](#gatewaystate_sync). `false` says that it is not wanted. Without the key, a"
        " site with a public virtual IP is advised to have it.",
        said="off",
    ),
)


def read_sync_link(top: Section) -> str | None:
    """The interface of the nodes' own link; None where there is no link, "" for a wrong one."""
    if isinstance(top.values.get("state_sync"), dict):
        return top.section("state_sync").get("interface") or ""
    return None if top.get("state_sync", _no_state_sync) is False else ""


def check_sync_link(
    section: Section, node: Node, internal: Network, public: Network, link: str | None
) -> None:
    """A node's end of the link: an interface, an address, and a network of its own."""
    reader = section.reader
    for key in ("sync", "sync_interface"):
        if link is None and key in section.values:
            reader.fault(section.at(key), "means nothing without gateway:state_sync:interface")
    if link is None:
        return
    if link and "sync" not in section.values and section.readable:
        reader.fault(section.at("sync"), "missing; gateway:state_sync:interface needs it")
    reader.claim("address", node.sync, section.at("sync"))
    for side in (internal, public):
        if node.sync and side.network and node.sync in side.network:
            reader.fault(
                section.at("sync"),
                f"{node.sync} is inside {side.network}; a link of its own has a network of its own",
            )
    place = section.at("sync_interface")
    if "sync_interface" not in section.values:
        place = "gateway:state_sync:interface"
    sides = {"internal": node.internal_interface, "public": node.public_interface}
    for name, interface in sides.items():
        if node.sync_interface and node.sync_interface == interface:
            reader.fault(place, f"{interface} is the {name} interface; a link has one of its own")


def check_state_sync(
    top: Section, public: Network, nodes: tuple[Node, ...], link: str | None
) -> StateSync:
    """Where it would be of use: with a public virtual IP, for two nodes."""
    value = top.values.get("state_sync")
    wanted = value is True or isinstance(value, dict)
    path = top.at("state_sync")
    sides = top.values.get("public")
    if wanted and isinstance(sides, dict) and "virtual_ip" not in sides:
        top.reader.fault(
            path,
            "needs gateway:public:virtual_ip: without it connections are translated to the address"
            " of one node, and end with it",
        )
    if wanted and len(nodes) != 2:
        top.reader.fault(path, f"needs a site of two nodes; this one has {len(nodes)}")
    useful = public.virtual_ip is not None and len(nodes) == 2
    return StateSync(interface=link, undecided=useful and "state_sync" not in top.values)


def plan(site: Site, node: Node) -> dict[str, Any]:
    return {"sync": _sync(site, node)}


def ports(site: Site) -> dict[str, str]:
    return {f"{SYNC_PORT}/udp": "state sync"} if site.state_sync.interface else {}


def units(plan: Plan) -> list[dict[str, Any]]:
    names = ("conntrackd", "gateway-sync") if plan["sync"]["enabled"] else ()
    return [service_unit(name) for name in names]


# --------------------------------------------------------------------------------------------------
# Its rules


def _message(gateway: Gateway) -> str:
    return f"-p udp --dport {gateway.plan['sync']['port']}"


@ipv4
def untracked_from_peer(pen: Pen, gateway: Gateway) -> None:
    """The peer's address on the link is on no other side, whether the link is up or not."""
    sync = gateway.plan["sync"]
    if not sync["enabled"]:
        return
    link, peer, message = sync["interface"], sync["peer"], _message(gateway)
    pen.note("State sync: the link, and nobody tracks its messages.")
    pen.add(f"! -i {link} -s {peer} -j DROP")
    pen.add(f"-i {link} -s {peer} -d {sync['address']} {message} -j CT --notrack")


@ipv4
def untracked_to_peer(pen: Pen, gateway: Gateway) -> None:
    """What this node tells the peer goes over the link, and nobody tracks it."""
    sync = gateway.plan["sync"]
    if not sync["enabled"]:
        return
    link, peer, message = sync["interface"], sync["peer"], _message(gateway)
    pen.note("State sync: without the link it goes nowhere.")
    pen.add(f"! -o {link} -d {peer} {message} -j DROP")
    pen.add(f"-o {link} -s {sync['address']} -d {peer} {message} -j CT --notrack")


def from_peer(pen: Pen, gateway: Gateway) -> None:
    """Before the node's own packets: programs on it must not speak for the peer either."""
    sync = gateway.plan["sync"]
    if not sync["enabled"]:
        return
    pen.note("State sync: what the peer tells on the link, nobody else.")
    if gateway.version == 4:
        link = f"-i {sync['interface']} -s {sync['peer']} -d {sync['address']}"
        pen.add(link, _message(gateway), "-j ACCEPT")
    pen.add(_message(gateway), "-j DROP")


@ipv4
def nobody_else(pen: Pen, gateway: Gateway) -> None:
    """The node's address on the link is only for the link."""
    sync = gateway.plan["sync"]
    if sync["enabled"]:
        pen.note("No other side knows the address on the link.")
        pen.refuse("drop", f"! -i {sync['interface']} -d {sync['address']}")


def nothing_passes(pen: Pen, gateway: Gateway) -> None:
    """The link is no way to anywhere."""
    sync = gateway.plan["sync"]
    if not sync["enabled"]:
        return
    pen.note("The link of state sync ends here.")
    for end in ("-i", "-o"):
        pen.refuse("drop", f"{end} {sync['interface']}")


# --------------------------------------------------------------------------------------------------
# Plan and status


def _sync(site: Site, node: Node) -> dict[str, Any]:
    """The link to the peer, and whose connections are no business of the peer's."""
    if not site.state_sync.interface:
        return {"enabled": False, "undecided": site.state_sync.undecided}
    (peer,) = site.peers(node)
    addresses = [
        *(each for node in site.nodes for each in (node.internal, node.public, node.sync)),
        *(each for node in site.nodes for each in node.addresses.values()),
        *(side.virtual_ip for side in (site.internal, site.public)),
        *(network.virtual_ip for network in site.networks),
        *site.public.addresses,
    ]
    return {
        "enabled": True,
        "interface": node.sync_interface,
        "address": str(node.sync),
        "peer": str(peer.sync),
        "port": SYNC_PORT,
        "ignored": [
            "127.0.0.0/8",
            *(str(address) for address in addresses if address),
            *(str(server.network) for server in site.vpn_servers),
        ],
    }


def ignored(plan: Plan) -> list[str]:
    """What conntrackd leaves out on this node: the plan's addresses and networks, and the node's
    own addresses outside of them. Empty without state sync."""
    if not plan["sync"]["enabled"]:
        return []
    planned = plan["sync"]["ignored"]
    networks = [ip_network(network) for network in planned]
    # Not a virtual IP that is about to go: the next apply would find it gone, and restart all.
    lasting = _gateway_interfaces.lasting_addresses(_gateway_machine.links())
    own = {ip_address(address) for address in lasting if ":" not in address}
    others = {address for address in own if not any(address in network for network in networks)}
    return [*planned, *map(str, sorted(others))]


def warnings(plan: Plan, here: Here) -> list[str]:
    """Sessions could outlive a node of this site, and the pillar does not say a word of it."""
    if not plan["sync"].get("undecided"):
        return []
    return [
        "gateway:state_sync: connections end when the virtual IP moves; give the nodes a link of"
        " their own (state_sync: {interface: eth3}, and nodes:NODE:sync), or say false"
    ]


UNKNOWN: Facts = {"sync": {"enabled": False}}


def status(plan: Plan, here: Here) -> tuple[Facts, list[str]]:
    """
    ``sync``, what conntrackd says: ``here`` are all connections in the kernel, ``sent`` those that
    the peer was told of, ``received`` those that it told us of since conntrackd started. ``lost``
    messages of the peer's come again; ``failed`` could not be put into the kernel.
    """
    if not plan["sync"]["enabled"]:
        return UNKNOWN, []
    report = _sync_report()
    silent = report.get("silent")
    heard = silent is not None and silent < SYNC_SILENCE
    sync = {
        "enabled": True,
        "peer": plan["sync"]["peer"],
        "heard": heard,
        "here": _gateway_machine.number(_gateway_kernel.CONNECTIONS),
        **_sync_counters(_gateway_machine.output("conntrackd", "-s")),
    }
    return {"sync": sync}, _sync_problems(report, heard, plan["sync"]["peer"])


def _sync_problems(report: dict[str, int], heard: bool, peer: str) -> list[str]:
    if not report:
        return ["state sync: it does not run, or has not for the last seconds"]
    if not heard:
        return [f"state sync: nothing is heard of the peer, {peer}"]
    if report["trouble"] > report["uptime"] - SYNC_TROUBLE:
        return [
            "state sync: messages of the peer's were lost, or the kernel did not take them,"
            f" in the last {SYNC_TROUBLE} seconds"
        ]
    return []


def _sync_report() -> dict[str, int]:
    """What gateway-sync noted in the last seconds, or nothing."""
    try:
        with open(SYNC_REPORT, encoding="utf-8") as file:
            report = json.load(file)
        age = (_gateway_machine.number(_gateway_machine.UPTIME) or 0) - int(report["uptime"])
        numbers = {key: int(report[key]) for key in ("silent", "trouble", "uptime")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return numbers if age < SYNC_SILENCE else {}


def _sync_counters(text: str) -> dict[str, int | None]:
    """The numbers that count in the output of ``conntrackd -s``; None for what is not there."""
    part, lost = "", None
    counters: dict[tuple[str, str], int] = {}
    for line in text.splitlines():
        words = line.split()
        if line.endswith(":") and not line.startswith(("\t", " ")):
            part = line.rstrip(":")
        elif line.startswith("connections ") and len(words) == 5 and words[2].isdigit():
            counters[part, words[1].rstrip(":")] = int(words[2])
            counters[part, "failed"] = counters.get((part, "failed"), 0) + int(words[4])
        elif line.startswith("current active connections:"):
            counters[part, "active"] = int(words[-1])
        elif len(words) > 2 and words[-2:] == ["Lost", "msgs"]:
            lost = int(words[-3])
    received = counters.get(("external inject", "created"))
    if received is not None:
        received -= counters.get(("external inject", "destroyed"), 0)
    return {
        "sent": counters.get(("cache internal", "active")),
        "received": received,
        "lost": lost,
        "failed": counters.get(("external inject", "failed")),
    }
