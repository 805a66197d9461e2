"""Both cards of a node on one switch: each hears who asks for an address of the other."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import _gateway_plan
import _gateway_rules
import pytest
from machine import Machine, Pillar
from world import World, namespace

SITE: Pillar = {
    "domain": "example.internal",
    "nodes": {
        "gw1": {"id": 1, "internal": "10.77.0.2", "public": "198.51.100.2", "sync": "10.78.0.2"},
        "gw2": {"id": 2, "internal": "10.77.0.3", "public": "198.51.100.3", "sync": "10.78.0.3"},
    },
    "internal": {"interface": "eth0", "network": "10.77.0.0/24", "virtual_ip": "10.77.0.1"},
    "public": {
        "interface": "eth1",
        "network": "198.51.100.0/24",
        "virtual_ip": "198.51.100.10",
        "addresses": ["198.51.100.11"],
    },
    "state_sync": {"interface": "eth3"},
}
CARDS = {name: f"02:00:00:00:01:0{number}" for number, name in enumerate(("eth0", "eth1", "eth3"))}
HOST = "02:00:00:00:00:03"
# Whose card has which address, and a host that asks for it.
ADDRESSES = {
    "10.77.0.1": ("eth0", "10.77.0.20"),
    "10.77.0.2": ("eth0", "10.77.0.20"),
    "10.78.0.2": ("eth3", "10.78.0.3"),
    "198.51.100.2": ("eth1", "198.51.100.254"),
    "198.51.100.10": ("eth1", "198.51.100.254"),
    "198.51.100.11": ("eth1", "198.51.100.254"),
}


@contextmanager
def switch(settings: bool = True) -> Iterator[World]:
    """The virtual IPs' holder, whose cards speak ARP. ``settings``: with the formula's."""
    site, errors = _gateway_plan.read(SITE)
    assert site, errors
    plan: dict[str, Any] = _gateway_plan.plan(site, "gw1")
    if not settings:
        plan["kernel"] = {key: value for key, value in plan["kernel"].items() if "/arp_" not in key}
    with namespace():
        node = World(Machine(SITE, "gw1", True, ()), plan, _gateway_rules.ruleset(plan, ()))
        try:
            for name, card in CARDS.items():
                subprocess.run(
                    ["ip", "link", "set", name, "address", card, "arp", "on"], check=True
                )
            yield node
        finally:
            node.close()


def bare(card: str) -> bytes:
    return bytes.fromhex(card.replace(":", ""))


def arp(node: World, operation: int) -> list[tuple[str, bytes]]:
    """Requests (1) or answers (2) that came out since the last time: the interface, and the ARP
    message from the sender's card on."""
    found = []
    for name, port in node.ports.items():
        for frame in port.frames():
            if frame[12:14] == b"\x08\x06" and frame[20:22] == operation.to_bytes(2, "big"):
                found.append((name, frame[22:42]))
    return found


def who_has(node: World, address: str, asks: str) -> list[tuple[str, bytes]]:
    """All answers. The switch floods a request, so every card hears it."""
    arp(node, 2)
    kind = b"\x00\x01\x08\x00\x06\x04\x00\x01"  # Ethernet, IPv4, a request
    ends = bare(HOST) + socket.inet_aton(asks) + bytes(6) + socket.inet_aton(address)
    for port in node.ports.values():
        frame = b"\xff" * 6 + bare(HOST) + b"\x08\x06" + kind + ends
        os.write(port.file, frame)
    return arp(node, 2)


@pytest.mark.parametrize("address", ADDRESSES)
def test_only_the_card_that_has_an_address_answers_for_it(address: str) -> None:
    interface, asks = ADDRESSES[address]
    with switch() as node:
        ((card, answer),) = who_has(node, address, asks)
    assert card == interface
    assert answer[:10] == bare(CARDS[interface]) + socket.inet_aton(address)


def test_without_the_settings_the_other_card_answers_too() -> None:
    """What this is about."""
    with switch(settings=False) as node:
        cards = {card for card, _ in who_has(node, "10.77.0.1", "10.77.0.20")}
    assert cards == set(CARDS)


def test_the_node_asks_from_an_address_of_the_card() -> None:
    """Who is asked learns the sender's card with it: a packet that goes out by another card with
    the virtual IP as its source would lead the hosts to that card."""
    with switch() as node, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        arp(node, 1)
        sender.bind(("10.77.0.1", 0))
        sender.sendto(b"", ("198.51.100.77", 9))
        ((card, request),) = arp(node, 1)
    assert card == "eth1"
    assert request[6:10] == socket.inet_aton("198.51.100.2")
