"""Frames that a bridge of the node passes on from port to port, with br_netfilter in the way."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import _gateway_plan
import _gateway_rules
import pytest
from machine import Machine, Pillar
from packets import SYN_ACK, Packet, build
from world import World, namespace

OTHER = "02:00:00:00:00:03"  # a machine behind the other port
ALL = "ff:ff:ff:ff:ff:ff"
SITE: Pillar = {
    "domain": "example.internal",
    "nodes": {
        "gw1": {"id": 1, "internal": "10.77.0.2", "public": "198.51.100.2"},
        "gw2": {"id": 2, "internal": "10.77.0.3", "public": "198.51.100.3"},
    },
    "internal": {"interface": "br0", "network": "10.77.0.0/24", "virtual_ip": "10.77.0.1"},
    "public": {
        "interface": "br1",
        "network": "198.51.100.0/24",
        "virtual_ip": "198.51.100.10",
    },
    "hosts": {"backend01": {"ip": "10.77.0.10"}},
    "nat": {"forwards": [{"port": 443, "to": "backend01"}]},
    "firewall": {"forward": [{"from": "internal", "to": "internal", "action": "drop"}]},
    "vpn": {
        "servers": {"main": {"network": "10.8.0.0/16"}},
        "clients": {"branch": {"id": 9, "networks": ["10.50.0.0/24"]}},
        "pki": dict.fromkeys(("ca", "certificate", "key", "tls_crypt"), "/etc/pki"),
    },
}
BRIDGES = ("br0", "br1")

pytestmark = pytest.mark.skipif(
    not Path("/proc/sys/net/bridge").exists(), reason="the kernel has no br_netfilter"
)


@contextmanager
def world(backend: str = "nft", known: bool = True, holder: bool = False) -> Iterator[World]:
    """A node whose two sides are bridges. ``known``: the compiler was told so."""
    site, errors = _gateway_plan.read(SITE)
    assert site, errors
    plan: dict[str, Any] = _gateway_plan.plan(site, "gw1")
    rules = _gateway_rules.ruleset(plan, BRIDGES if known else ())
    with namespace():
        found = World(Machine(SITE, "gw1", holder, ()), plan, rules, BRIDGES, backend)
        try:
            yield found
        finally:
            found.close()


def passes(node: World, packet: Packet) -> bool:
    """Whether a machine behind the other port of the bridge gets a frame for it, as it was."""
    here, there = node.ports[packet.interface], node.others[packet.interface]
    # The bridge learns where that machine is.
    there.send(Packet(packet.interface, "0.0.0.0", "255.255.255.255", "udp", 68, 68), ALL, OTHER)
    here.frames()
    there.frames()
    here.send(packet, OTHER)
    return build(packet) in [frame[14:] for frame in there.frames()]


TCP = ("tcp", 40000, 80)
BRIDGED = {
    "hosts of the network": Packet("br0", "10.77.0.20", "10.77.0.10", *TCP),
    "another network on the same wire": Packet("br0", "192.168.7.1", "192.168.7.2", *TCP),
    "an answer to what took another way": Packet(
        "br0", "10.77.0.20", "10.77.0.10", *TCP, flags=SYN_ACK
    ),
    "an address of the public side": Packet("br0", "198.51.100.9", "10.77.0.10", *TCP),
    "for the peer's virtual IP": Packet("br0", "10.77.0.20", "198.51.100.10", "tcp", 40000, 443),
    "for a network behind the peer's client": Packet("br0", "10.77.0.20", "10.50.0.1", *TCP),
    "DHCP": Packet("br0", "0.0.0.0", "255.255.255.255", "udp", 68, 67),
    "IPv6": Packet("br0", "fd99::1", "fd99::2", *TCP),
    "neighbours outside": Packet("br1", "198.51.100.9", "198.51.100.8", *TCP),
    "an internal address outside": Packet("br1", "10.77.0.20", "198.51.100.8", *TCP),
}


@pytest.mark.parametrize("backend", ["nft", "legacy"])
def test_a_bridge_passes_on_what_it_would_without_us(backend: str) -> None:
    with world(backend) as node:
        for what, packet in BRIDGED.items():
            assert passes(node, packet), what


def test_what_is_for_the_node_is_still_led_on() -> None:
    """The holder's port forward, asked by a host behind a port of its own bridge."""
    with world(holder=True) as node:
        node.ports["br0"].send(Packet("br0", "10.77.0.20", "198.51.100.10", "tcp", 40000, 443))
        save = subprocess.run(
            ["iptables-nft-save", "-c", "-t", "nat"], capture_output=True, text=True, check=True
        )
    (led,) = [line for line in save.stdout.splitlines() if "-j DNAT" in line]
    assert led.startswith("[1:")


def test_without_the_rules_for_it_frames_are_refused() -> None:
    """What this is about: the same frames, and a compiler that knows of no bridge."""
    with world(known=False) as node:
        passing = [what for what, packet in BRIDGED.items() if passes(node, packet)]
    assert passing == []
