"""Packets between several networks: the kernel does with them what the unit tests' reader of rules
says (test/unit/helpers/iptables_reader.py)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import count, product
from pathlib import Path
from typing import Any

import _gateway_plan
import _gateway_rules
import pytest
import yaml
from iptables_reader import Node
from iptables_reader import packet as read
from machine import Machine
from oracle import DELIVERED, DROPPED, REJECTED, forwarded
from packets import Packet
from world import World, namespace

EXAMPLE = Path(__file__).parents[2] / "pillar.example"
NETWORKS: dict[str, Any] = {
    "networks": {
        "dmz": {
            "interface": "eth4",
            "network": "203.0.113.16/28",
            "virtual_ip": "203.0.113.17",
            "nat": "none",
        },
        "guest": {
            "interface": "eth0.20",
            "network": "10.20.0.0/24",
            "virtual_ip": "10.20.0.1",
            "isolated": True,
        },
        "servers": {
            "interface": "eth3",
            "network": "10.30.0.0/24",
            "virtual_ip": "10.30.0.1",
            "trusted": True,
        },
    },
    "routes": [
        {"network": "10.50.0.0/16", "via": "10.77.0.254"},
        {"network": "10.51.0.0/16", "via": "10.20.0.254"},
    ],
    "firewall": {"forward": [{"from": "guest", "to": ["servers", "vpn"], "ports": 631}]},
}
# Hosts of each network and their interface; and who pretends to be one.
SOURCES = {
    "10.77.0.10": "eth0",
    "10.50.0.9": "eth0",
    "203.0.113.20": "eth4",
    "10.20.0.60": "eth0.20",
    "10.51.0.9": "eth0.20",
    "10.30.0.60": "eth3",
    "10.8.0.6": "vpn-main",
    "10.60.0.6": "vpn-main",
    "192.0.2.1": "eth1",
}
FORGED = (
    ("eth0.20", "10.30.0.60"),
    ("eth0", "10.20.0.60"),
    ("eth4", "10.8.0.6"),
    ("eth1", "10.20.0.60"),
)
GATEWAY = ("10.77.0.1", "10.77.0.2", "10.20.0.1", "10.20.0.2", "203.0.113.17", "10.30.0.2")
ENDS = (*SOURCES, *GATEWAY, "10.8.1.6", "198.51.100.2")
SOURCES6 = {"fd77::10": "eth0", "fd20:1::9": "eth4", "fd20:2::9": "eth0.20", "fd20:3::9": "eth3"}
ENDS6 = (*SOURCES6, "2001:db8::1", "fd77::1", "fd20:1::1", "fd20:2::1", "fd20:3::1")
SERVICES = ("tcp/22", "tcp/443", "tcp/631", "udp/53", "udp/123")


def pillar() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))["gateway"]
    found |= copy.deepcopy(NETWORKS)
    found["vpn"]["clients"] = {"branch": {"networks": ["10.60.0.0/24"]}}
    return found


def flows() -> Iterator[str]:
    """In the words of the unit tests."""
    ways = [(interface, source) for source, interface in SOURCES.items()]
    for (interface, source), to in product((*ways, *FORGED), ENDS):
        if source != to:
            for service in (*SERVICES, "icmp/8"):
                yield f"{interface} {source}>{to} {service}"
    for (source, interface), to in product(SOURCES6.items(), ENDS6):
        if source != to:
            for service in (*SERVICES, "icmp/128"):
                yield f"{interface} {source}>{to} {service}"


def on_the_wire(flow: str, number: int) -> Packet:
    interface, ends, service = flow.split()
    source, to = ends.split(">")
    proto, port = service.split("/")
    if proto == "icmp":
        name = "icmp6" if ":" in to else "icmp"
        return Packet(interface, source, to, name, sport=number, kind=int(port))
    return Packet(interface, source, to, proto, sport=number, dport=int(port))


def verdict(node: Node, machine: Machine, packet: Packet, said: str) -> str:
    """The reader's answer in the words of the world."""
    names = {"dropped": DROPPED, "refused": REJECTED}
    if said in names:
        return names[said]
    answer, *words = said.split()
    assert answer == "accepted"
    source, to, port = packet.source, packet.destination, packet.dport
    if "at" in words:
        to, _, number = words[words.index("at") + 1].partition(":")
        port = int(number)
    if to in node.local:
        return DELIVERED
    if "as" in words:
        source = words[words.index("as") + 1]
        source = machine.public_address if source == machine.public else source
    return forwarded(node.way(to, packet.interface), source, to, port)


@pytest.mark.parametrize("connected", [(), ("branch",)])
def test_the_reader_says_what_the_kernel_does(connected: tuple[str, ...]) -> None:
    site, errors = _gateway_plan.read(pillar())
    assert site, errors
    plan = _gateway_plan.plan(site, "gw1")
    node = Node(plan)
    if connected:
        node.routes = {"10.60.0.0/25": "vpn-main"} | node.routes
    wrong = []
    with namespace():
        machine = Machine(pillar(), "gw1", True, connected)
        world = World(machine, plan, _gateway_rules.ruleset(plan))
        try:
            # Each is a connection of its own.
            for flow, number in zip(flows(), count(20000), strict=False):
                packet = on_the_wire(flow, number)
                said = verdict(node, machine, packet, node.meets(read(flow)))
                real = world.does(packet, said)
                if real != said:
                    wrong.append(f"{flow}: {said}, but is {real}")
        finally:
            world.close()
    assert wrong == []
