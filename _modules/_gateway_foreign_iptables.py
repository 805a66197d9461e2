"""The rules of other firewalls as iptables-save prints them."""

import re
import shlex
from collections.abc import Callable
from ipaddress import IPv4Network

from _gateway_foreign_packets import Packet, Plan, Ports, net
from _gateway_foreign_rules import (
    PREFIX,
    Rule,
    Table,
    Test,
    Verdict,
    always,
    any_of,
    in_networks,
    is_on,
    negated,
    networks_between,
    protocol_number,
    within,
)

REFUSING = ("DROP", "REJECT", "TARPIT")
# A program decides then, and whom it asks is not to be seen here.
ACCEPTING = ("ACCEPT", "QUEUE", "NFQUEUE")
# Matches that say nothing by themselves: their options do.
_MATCHES = ["tcp", "udp", "multiport", "conntrack", "state", "addrtype", "ttl", "comment"]
_MATCHES += ["iprange", "pkttype"]


def save_tables(text: str, program: str) -> list[Table]:
    """The tables of an iptables-save, with or without counters."""
    tables: list[Table] = []
    for line in text.splitlines():
        if line.startswith("*"):
            tables.append(Table(line[1:], _rule, program))
        elif line.startswith(":"):
            chain, policy = line[1:].split()[:2]
            tables[-1].lines[chain] = []
            if policy != "-":
                tables[-1].bases[chain] = (chain, policy.lower())
        elif line.startswith(("-A ", "[")):
            rule = line.partition("] ")[2] if line.startswith("[") else line
            tables[-1].lines.setdefault(rule.split(" ", 2)[1], []).append(rule)
    return tables


def _rule(line: str, table: Table) -> Rule:
    words = (shlex.split(line) if '"' in line else line.split())[2:]
    tests: list[Test] = []
    invert = False
    while words and words[0] not in ("-j", "-g"):
        option = words.pop(0)
        if option == "!":
            invert = True
            continue
        values = [words.pop(0)] if option == "--comment" else []
        while words and not words[0].startswith("-") and words[0] != "!":
            values.append(words.pop(0))
        test = _test(option, values)
        tests.append(_inverted(test) if invert else test)
        invert = False
    if not words:
        return Rule(line, tests, always(None))
    target = words[1]
    return Rule(line, tests, always(_verdict(words[0], target, table)), target)


def _inverted(test: Test) -> Test:
    return lambda packet: negated(test(packet))


def _verdict(how: str, target: str, table: Table) -> Verdict | None:
    if target in REFUSING:
        return "drop", ""
    if target in ACCEPTING:
        return "accept", ""
    if target == "RETURN":
        return "return", ""
    if target in table.lines:
        return ("goto" if how == "-g" else "jump"), target
    return None  # LOG, MARK and the like


def _test(option: str, values: list[str]) -> Test:
    """What one option says of a packet."""
    return _OPTIONS[option](values) if option in _OPTIONS else lambda packet: None


_Read = Callable[[list[str]], Test]  # of the values of an option


def _module(values: list[str]) -> Test:
    return lambda packet: values[0] in _MATCHES or None


def _interface(of: Callable[[Packet], str]) -> _Read:
    return lambda values: lambda packet: is_on(of(packet), values[0], "+")


def _address(of: Callable[[Packet], IPv4Network]) -> _Read:
    def read(values: list[str]) -> Test:
        networks = networks_between(*values[0].split("-")) if "-" in values[0] else [net(values[0])]
        return lambda packet: in_networks(of(packet), networks)

    return read


def _protocol(values: list[str]) -> Test:
    return lambda packet: values[0] in ("all", "0") or packet.proto == protocol_number(values[0])


def _numbers(of: Callable[[Packet], Ports]) -> _Read:
    def read(values: list[str]) -> Test:
        ranges = [_range(item) for item in values[0].split(",")]
        return lambda packet: any_of([within(of(packet), *item) for item in ranges])

    return read


def _range(text: str) -> Ports:
    first, _, last = text.partition(":")
    return int(first), int(last or first)


def _word(of: Callable[[Packet], str]) -> _Read:
    def read(values: list[str]) -> Test:
        words = values[0].lower().split(",")
        return lambda packet: of(packet) in words

    return read


def _ttl(between: Callable[[int], Ports]) -> _Read:
    def read(values: list[str]) -> Test:
        first, last = between(int(values[0]))
        return lambda packet: within(packet.ttl, first, last)

    return read


def _flags(values: list[str]) -> Test:
    mask, wanted = (set(flags.lower().split(",")) for flags in values)
    return lambda packet: packet.flags & mask == wanted - {"none"}


_source, _destination = (_address(lambda p: p.source), _address(lambda p: p.destination))
_sports, _dports = (_numbers(lambda p: p.sport), _numbers(lambda p: p.dport))
_state = _word(lambda packet: packet.state)
_OPTIONS: dict[str, _Read] = {
    "-m": _module,
    "--comment": lambda values: lambda packet: True,
    "-i": _interface(lambda packet: packet.into),
    "-o": _interface(lambda packet: packet.out),
    "-s": _source,
    "-d": _destination,
    "--src-range": _source,
    "--dst-range": _destination,
    "-p": _protocol,
    "--sport": _sports,
    "--sports": _sports,
    "--dport": _dports,
    "--dports": _dports,
    "--ctstate": _state,
    "--state": _state,
    "--src-type": _word(lambda packet: packet.source_type),
    "--dst-type": _word(lambda packet: packet.to),
    "--pkt-type": _word(lambda packet: packet.cast),
    "--tcp-flags": _flags,
    "--ttl-eq": _ttl(lambda number: (number, number)),
    "--ttl-lt": _ttl(lambda number: (0, number - 1)),
    "--ttl-gt": _ttl(lambda number: (number + 1, 255)),
    "-f": lambda values: lambda packet: False,  # fragments but the first
}


def place_of_jump(table: Table, chain: str) -> int:
    """Where the loader puts a new jump: see compare_rules in gateway/firewall/files/firewall."""
    number = 0
    for rule in table.rules_of(chain):
        if rule.target.startswith(PREFIX):
            continue
        others = rule.target in table.lines
        if not (others or re.search(r" -[io] (docker|br-)", rule.text)):
            break
        number += 1
    return number


def plan_output(table: Table, plan: Plan) -> None:
    """Our chain as it will be: what it lets out need not be loaded yet."""
    chain = f"{PREFIX}OUTPUT"
    place = place_of_jump(table, "OUTPUT")
    table.lines[chain] = [
        f"-A {chain} {raw['line']}"
        for raw in plan["firewall"]["raw"]
        if (raw["family"], raw["table"], raw["chain"]) == (4, "filter", "OUTPUT")
    ]
    jump = f"-A OUTPUT -j {chain}"
    if jump not in table.lines["OUTPUT"]:
        table.lines["OUTPUT"].insert(place, jump)
    table.rules.clear()
