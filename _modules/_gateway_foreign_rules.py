"""Rules of other firewalls, whatever program shows them, and what becomes of a packet in them.

A test says of all packets of a kind whether they match (True), whether none does (False), or that
they differ or nobody knows (None). A rule with a match that is not known here (a mark, a rate, a
set of ipset's) counts as one that does not match: it neither refuses nor lets through.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, ip_address, summarize_address_range
from typing import Any

from _gateway_foreign_packets import PROTOCOLS, Packet, Ports

PREFIX = "GATEWAY-"
# The kernel follows 16 jumps (NFT_JUMP_STACK_SIZE).
DEPTH = 20

Answer = bool | None  # whether it matches; None: for some of these packets, or nobody knows


# --------------------------------------------------------------------------------------------------
# Matching


def negated(answer: Answer) -> Answer:
    """Whether it does not match."""
    return None if answer is None else not answer


def any_of(answers: list[Answer]) -> Answer:
    """Whether one of these matches."""
    if any(answers):
        return True
    return None if None in answers else False


def all_of(answers: list[Answer]) -> Answer:
    """Whether all of these match."""
    if False in answers:
        return False
    return None if None in answers else True


def within(ports: Ports, first: int, last: int) -> Answer:
    """Whether ports (or other numbers) are inside a range."""
    if first <= ports[0] and ports[1] <= last:
        return True
    return False if last < ports[0] or ports[1] < first else None


def in_networks(network: IPv4Network, others: list[IPv4Network]) -> Answer:
    """Whether a network is inside one of these."""
    if any(network.subnet_of(other) for other in others):
        return True
    return None if any(network.overlaps(other) for other in others) else False


def networks_between(first: str, last: str) -> list[IPv4Network]:
    """The networks from one address to another one."""
    ends = ip_address(first), ip_address(last)
    return [net for net in summarize_address_range(*ends) if isinstance(net, IPv4Network)]


def protocol_number(name: Any) -> int:
    """The number of a protocol, by its name or number; -1: none that is looked at."""
    return int(name) if str(name).isdigit() else PROTOCOLS.get(str(name), -1)


def is_on(interface: str, name: str, wildcard: str) -> Answer:
    """Whether an interface has this name; nobody knows of one that there is not (yet)."""
    if not interface:
        return None
    return interface.startswith(name[:-1]) if name.endswith(wildcard) else interface == name


# --------------------------------------------------------------------------------------------------
# Rules and tables


Test = Callable[[Packet], Answer]
Verdict = tuple[str, str]  # accept, drop, return, jump or goto; where to


@dataclass(frozen=True)
class Rule:
    """``verdict`` says what becomes of a packet that passes the tests; None: it goes on."""

    text: str
    tests: list[Test]
    verdict: Callable[[Packet], Verdict | None]
    target: str = ""


@dataclass
class Table:
    """Chains of one table: its rules are read when a packet gets there."""

    name: str
    read: Callable[[Any, "Table"], Rule]
    program: str  # which shows it
    lines: dict[str, list[Any]] = field(default_factory=dict)
    bases: dict[str, tuple[str, str]] = field(default_factory=dict)  # hook, policy
    sets: dict[str, Any] = field(default_factory=dict)
    rules: dict[str, list[Rule]] = field(default_factory=dict)

    def rules_of(self, chain: str) -> list[Rule]:
        if chain not in self.rules:
            self.rules[chain] = [self._rule(line) for line in self.lines.get(chain, [])]
        return self.rules[chain]

    def _rule(self, line: Any) -> Rule:
        try:
            return self.read(line, self)
        except STRANGE:
            return Rule("", [], always(None))


# Others may write what nobody expects here. It must not keep anything from being applied.
STRANGE = (AttributeError, IndexError, KeyError, TypeError, ValueError)


def always(verdict: Verdict | None) -> Callable[[Packet], Verdict | None]:
    """The verdict of a rule that says the same of each packet."""
    return lambda packet: verdict


def walk(
    table: Table, chain: str, packet: Packet, ours: bool, place: int | None = None, depth: int = 0
) -> tuple[str, str, str] | None:
    """What becomes of a packet in a chain, and by which rule of which chain; None: it came through.

    ours
        Our chain decides for good, whatever comes behind it.
    place
        How many of the others' rules our jump stands behind, instead of where it is now.
    """
    rules = table.rules_of(chain)
    if place is not None:
        rules = [rule for rule in rules if not rule.target.startswith(PREFIX)][:place]
    for rule in rules:
        if ours and rule.target.startswith(PREFIX):
            return "accept", chain, rule.text
        kind, target = _verdict(rule, packet)
        if kind in ("accept", "drop"):
            return kind, chain, rule.text
        if kind == "return":
            return None
        if kind in ("jump", "goto") and depth < DEPTH:
            end = walk(table, target, packet, ours, depth=depth + 1)
            if end or kind == "goto":
                return end
    return None


def _verdict(rule: Rule, packet: Packet) -> Verdict:
    try:
        passes = all_of([test(packet) for test in rule.tests])
        return (rule.verdict(packet) if passes else None) or ("", "")
    except STRANGE:
        return "", ""
