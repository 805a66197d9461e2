# Managed by Salt (gateway).
"""What dnsmasq is told and what it tells, as the lines of text that it reads and writes.

The settings of /etc/gateway/leases.json are the planner's (_gateway_leases.py).
"""

from __future__ import annotations

import re
import socket
from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Network
from typing import Any, NamedTuple

from lease_facts import FOREVER, Client, Fact

NOBODY = "id:6e:6f:62:6f:64:79"  # "nobody"; no client has this identifier
MOST_OF_ONE = 8  # addresses of a machine that has no lease of them; one with more is a proxy
EVENT = re.compile(r"(add|old|del) \S+ \d+(\.\d+){3} \d{1,15} \S+ \S*", re.ASCII)
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# By these names programs look for something, and would ask whoever has one (CERT VU#598349).
NEVER_NAMES = {"isatap", "localhost", "wpad"}


def _number(address: str) -> int:
    """An IPv4 address as a number. With ipaddress it takes five times as long, for each lease."""
    return int.from_bytes(socket.inet_pton(socket.AF_INET, address), "big")


class Event(NamedTuple):
    """What dnsmasq's script was called for (dhcp-script in dnsmasq(8))."""

    action: str  # add, old or del
    address: str
    client: Client
    until: float
    name: str


def event(line: str) -> Event | None:
    """A line of `lease-event`; None where it is none."""
    if not EVENT.fullmatch(line):
        return None
    action, mac, address, until, identifier, name = line.split(" ")
    return Event(
        action, address, Client(mac, identifier.strip("*")), float(until) or FOREVER, name.lower()
    )


def database(leases: Iterable[Fact]) -> list[str]:
    """Lines of dnsmasq's lease file. Without names: of two clients with one name dnsmasq would
    take it from the older one."""
    lines = []
    for fact in leases:
        assert fact.client
        until = 0 if fact.until == FOREVER else int(fact.until)
        identifier = fact.client.identifier or "*"
        lines.append(f"{until} {fact.client.mac} {fact.address} * {identifier}")
    return lines


def from_lease_file(text: str) -> list[Event]:
    """The leases of a lease file of dnsmasq's, as it would tell them."""
    rows = [line.split() for line in text.splitlines()]
    lines = [
        f"old {mac} {address} {until} {identifier} {name}"
        for until, mac, address, name, identifier in (row for row in rows if len(row) == 5)
    ]
    return [each for each in map(event, lines) if each]


def without(parts: list[str], others: list[str]) -> list[str]:
    """What is left of parts of a pool ("first,last") when others are taken out."""
    for other in others:
        first, last = map(_number, other.split(","))
        left = []
        for part in parts:
            start, end = map(_number, part.split(","))
            if last < start or end < first:
                left.append(part)
                continue
            left += [_part(start, first - 1)] if start < first else []
            left += [_part(last + 1, end)] if last < end else []
        parts = left
    return parts


def _part(first: int, last: int) -> str:
    ends = (socket.inet_ntop(socket.AF_INET, end.to_bytes(4, "big")) for end in (first, last))
    return ",".join(ends)


class Orders:
    """What may be given to whom, by the settings of a node."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._node: str = settings["node"]
        self._pools: list[dict[str, Any]] = settings["pools"]
        self._reserved = set(settings["reserved"])
        self._reserved_macs = set(settings["reserved_macs"])
        networks = {IPv4Network(text): domain for text, domain in settings["register"].items()}
        self._register = [
            (int(network.network_address), int(network.netmask), domain)
            for network, domain in networks.items()
        ]
        self._names = set(settings["names"])
        self._domain: str = settings["domain"]
        self._below = tuple(f".{name}" for name in settings["wildcards"])
        # Of each part of a pool: its ends, and how long leases there last.
        self._spans = [
            (_number(first), _number(last), pool["seconds"])
            for pool in self._pools
            for parts in pool["shares"].values()
            for first, last in (part.split(",") for part in parts)
        ]

    def share(self, node: str) -> list[str]:
        """The parts of all pools that are a node's own."""
        return [part for pool in self._pools for part in pool["shares"].get(node, [])]

    def ranges(self, in_sync: bool, of_peers: Iterable[str] = ()) -> list[str]:
        """In sync those of all nodes, this one's first; else those of this one alone. `of_peers`:
        parts that peers take for their own, which may have other pools."""
        lines, of_peers = [], list(of_peers)
        for pool in self._pools:
            own = pool["shares"].get(self._node, [])
            parts = without(own, of_peers)
            if in_sync:
                others = [node for node in pool["shares"] if node != self._node]
                parts = parts + without(own, parts)
                parts += [part for node in others for part in pool["shares"][node]]
            # Without any range dnsmasq does not answer those either who have an address.
            parts = parts or [pool["static"]]
            lines += [f"dhcp-range={pool['before']}{part}{pool['after']}" for part in parts]
        return lines

    def reservation(self, address: str, client: Client | None) -> str | None:
        """A line that keeps an address for a client, or for nobody; None where the pillar does."""
        if address in self._reserved:
            return None
        who = NOBODY + "".join(f":{int(byte):02x}" for byte in address.split("."))
        if client and client.mac not in self._reserved_macs:
            # Without any colon dnsmasq takes it for a text, as it would one of a single byte.
            colon = "" if ":" in client.identifier else ":"
            who = f"id:{client.identifier}{colon}" if client.identifier else client.mac
        return f"{who},{address}"

    def unleased(self, neighbours: dict[str, str], leased: set[str]) -> dict[str, Client]:
        """Who uses an address of a pool without a lease, of MAC addresses by addresses."""
        strangers = {
            address: mac
            for address, mac in neighbours.items()
            if address not in leased and self.lease_time(address)
        }
        counts = Counter(strangers.values())
        return {
            address: Client(mac) for address, mac in strangers.items() if counts[mac] <= MOST_OF_ONE
        }

    def lease_time(self, address: str) -> float | None:
        """How long a lease of an address lasts, in seconds; None where it is in no pool, or has a
        reservation."""
        number = _number(address)
        times = (seconds for first, last, seconds in self._spans if first <= number <= last)
        return None if address in self._reserved else next(times, None)

    def hosts(self, leases: Iterable[Fact]) -> list[str]:
        """Lines of a hosts file: names that clients have sent, in networks that register them. Of
        two machines with one name, whoever has had a lease for longer has it. One machine may be
        two clients (its firmware and its system): then it is at the lease that ends last."""
        claims: dict[tuple[str, str], list[Fact]] = {}
        for fact in leases:
            if fact.client and (name := self._name(fact)):
                claims.setdefault((name, fact.client.mac), []).append(fact)
        taken: set[str] = set()
        lines = []
        for (name, _), facts in sorted(claims.items(), key=lambda claim: _first(claim[1])):
            if name not in taken:
                taken.add(name)
                short = name.removesuffix(f".{self._domain}")
                names = [name, short] if "." not in short else [name]
                lines.append(f"{min(facts, key=_last).address} {' '.join(names)}")
        return sorted(lines)

    def _name(self, fact: Fact) -> str | None:
        """The whole name; None where it is no name, not wanted, or one of the site's."""
        if not fact.name or fact.address in self._reserved:
            return None
        number = _number(fact.address)
        domain = next((end for first, mask, end in self._register if number & mask == first), None)
        if domain is None:
            return None
        label = fact.name.removesuffix(f".{domain}")
        name = f"{label}.{domain}"
        allowed = LABEL.fullmatch(label) and label not in NEVER_NAMES and name != self._domain
        return name if allowed and name not in self._names and not self._is_below(name) else None

    def _is_below(self, name: str) -> bool:
        return bool(self._below) and name.endswith(self._below)


def _first(facts: list[Fact]) -> tuple[float, str]:
    return min((fact.since, fact.address) for fact in facts)


def _last(fact: Fact) -> tuple[float, str]:
    """The one that ends last comes first."""
    return (float("-inf") if fact.until == FOREVER else -fact.until, fact.address)
