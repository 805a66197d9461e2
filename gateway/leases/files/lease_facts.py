# Managed by Salt (gateway).
"""What can be known of an address, and which of two facts about it holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

Version = dict[str, int]  # how much of each writer a fact knows
FOREVER = -1.0  # `until` of a lease without an end
SECOND = 1.0


@dataclass(frozen=True)
class Client:
    """Whom an address belongs to. dnsmasq tells clients apart by the identifier that they send, and
    by their hardware address where they send none."""

    mac: str
    identifier: str = ""  # hexadecimal, with colons

    @property
    def key(self) -> str:
        # An identifier may have the bytes of another machine's hardware address.
        return f"id:{self.identifier}" if self.identifier else self.mac


@dataclass(frozen=True)
class Fact:
    """What is known of one address: a lease, or that there is none any more (`client` is None)."""

    address: str
    client: Client | None
    until: float
    since: float = 0.0
    name: str = ""
    node: str = ""  # who gave it, or renewed it last
    version: Version = field(default_factory=dict)

    def holds(self, now: float) -> bool:
        """Whether it is a lease that has not ended."""
        return self.client is not None and (self.until == FOREVER or self.until > now)

    def lasts(self, until: float) -> bool:
        """Whether it ends then at the earliest. dnsmasq knows whole seconds."""
        return self.until == FOREVER or (until != FOREVER and self.until > until - SECOND)

    def said(self, now: float) -> list[Any]:
        """It as plain data, with how long it still lasts in the place of when it ends."""
        left = FOREVER if self.until == FOREVER else max(0.0, self.until - now)
        client = [self.client.mac, self.client.identifier] if self.client else None
        age = max(0.0, now - self.since)
        return [self.address, client, left, age, self.name, self.node, self.version]

    @staticmethod
    def heard(said: list[Any], now: float) -> Fact:
        """The opposite of `said`. Raises what unpacking raises for anything else."""
        address, client, left, age, name, node, version = said
        if not (math.isfinite(left) and math.isfinite(age)):
            raise ValueError("no time")
        return Fact(
            str(address),
            Client(str(client[0]), str(client[1])) if client else None,
            FOREVER if left == FOREVER else now + float(left),
            now - float(age),
            str(name),
            str(node),
            {str(writer): int(count) for writer, count in version.items()},
        )


def knows(one: Version, other: Version) -> bool:
    """Whether the first has all that is in the other."""
    return all(one.get(writer, 0) >= count for writer, count in other.items())


def newer(one: Fact, other: Fact) -> Fact:
    """Which of two facts about an address holds."""
    if one.version == other.version and _key(one) != _key(other):
        # Each node put the same two together. Their ends were so close that they chose differently.
        return max(one, other, key=_key)
    if knows(one.version, other.version):
        return one
    if knows(other.version, one.version):
        return other

    def lasts(fact: Fact) -> tuple[float, str]:
        return (end_of(fact) if fact.client else float("-inf"), _key(fact))

    winner = max(one, other, key=lasts)
    both = {
        writer: max(one.version.get(writer, 0), other.version.get(writer, 0))
        for writer in {*one.version, *other.version}
    }
    return replace(winner, version=both)


def end_of(fact: Fact) -> float:
    """When a lease ends (wall clock); infinity where it does not."""
    return float("inf") if fact.until == FOREVER else fact.until


def _key(fact: Fact) -> str:
    return fact.client.key if fact.client else ""
