"""The firewall's compiler: its rules are read as iptables reads them, and packets go through them.

What holds for the rules of every site is in test_plan_properties.py.
"""

import functools
import ipaddress
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import _gateway_policy
import _gateway_rules
import pytest
from _gateway_iptables import BUILT_IN, CHAINS

# The same texts are read for each site, and the same addresses for each rule that a packet meets.
ip_address = functools.cache(ipaddress.ip_address)
ip_network = functools.cache(ipaddress.ip_network)
split = functools.cache(shlex.split)

# --------------------------------------------------------------------------------------------------
# Reading what iptables-restore and ipset restore read, as strictly as they do

# How many words follow an option, and what must have been said before it.
OPTIONS = {
    "-i": (1, ""),
    "-o": (1, ""),
    "-s": (1, ""),
    "-d": (1, ""),
    "-p": (1, ""),
    "--dport": (1, "-p"),
    "--sport": (1, "-p"),
    "--tcp-flags": (2, "-p"),
    "--icmp-type": (1, "-p"),
    "--icmpv6-type": (1, "-p"),
    "--dports": (1, "multiport"),
    "--ctstate": (1, "conntrack"),
    "--ctorigdst": (1, "conntrack"),
    "--src-type": (1, "addrtype"),
    "--dst-type": (1, "addrtype"),
    "--match-set": (2, "set"),
    "--invert": (0, "rpfilter"),
    "--limit": (1, "limit"),
    "--hashlimit-upto": (1, "hashlimit"),
    "--hashlimit-mode": (1, "hashlimit"),
    "--hashlimit-name": (1, "hashlimit"),
    "--comment": (1, "comment"),
    "--mss": (1, "tcpmss"),
    "--hl-eq": (1, "hl"),
    "--dscp": (1, "dscp"),
    "--mark": (1, "mark"),
    "--ttl-eq": (1, "ttl"),
    "--physdev-is-bridged": (0, "physdev"),
    "--physdev-is-in": (0, "physdev"),
}
# Where a target may be used, and what it wants to be told.
TARGETS = {
    "ACCEPT": (("filter",), ()),  # elsewhere it would keep the packet from Docker's chains
    "DROP": (("raw", "mangle", "filter"), ()),
    "RETURN": (("raw", "mangle", "nat", "filter"), ()),
    "LOG": (("filter",), ("--log-prefix",)),
    "REJECT": (("filter",), ("--reject-with",)),
    "CT": (("raw",), ("--notrack",)),
    "TCPMSS": (("mangle",), ("--set-mss", "--clamp-mss-to-pmtu")),
    "DSCP": (("mangle",), ("--set-dscp",)),
    "DNAT": (("nat",), ("--to-destination",)),
    "SNAT": (("nat",), ("--to-source",)),
    "MASQUERADE": (("nat",), ()),
    "MARK": (("raw", "mangle", "filter"), ("--set-mark", "--set-xmark")),
}
REJECTIONS = {4: "icmp-admin-prohibited", 6: "icmp6-adm-prohibited"}
GATE = "0x40000000/0x40000000"  # the loader's rule of routing
NO_INPUT, NO_OUTPUT = ("OUTPUT", "POSTROUTING"), ("PREROUTING", "INPUT")

Match = tuple[bool, str, tuple[str, ...]]


@dataclass
class Rule:
    """A rule; ``matches`` are (negated, option, values)."""

    text: str
    matches: list[Match]
    target: str
    argument: str

    def values(self, option: str) -> tuple[str, ...]:
        return next((values for _, name, values in self.matches if name == option), ())


def read_rule(words: list[str], table: str, chain: str, version: int) -> Rule:
    matches: list[Match] = []
    modules = set()
    left = iter(words)
    negated = False
    for word in left:
        if word == "!":
            negated = True
        elif word == "-m":
            modules.add(next(left))
        elif word == "-j":
            break
        elif word == "--limit-iface-in":  # it says more about what stands before it
            inverted, option, values = matches.pop()
            assert option == "--dst-type"
            matches.append((inverted, option, (*values, "in")))
        else:
            count, needs = OPTIONS[word]
            known = {name for _, name, _ in matches}
            assert not needs or needs in modules | known, f"{word} without {needs}"
            assert word not in known, f"{word} twice"
            matches.append((negated, word, tuple(next(left) for _ in range(count))))
            negated = False
    target, *rest = left
    rule = Rule(" ".join(words), matches, target, rest[-1] if rest else "")
    check_rule(rule, rest, table, chain, version)
    return rule


def check_rule(rule: Rule, rest: list[str], table: str, chain: str, version: int) -> None:
    if rule.target.startswith("GATEWAY-"):
        assert rest == []
    else:
        tables, options = TARGETS[rule.target]
        assert table in tables
        assert rest[:1] == [] if not options else rest[0] in options
    # In a chain of our own iptables does not say so: such a rule just never matches.
    assert not rule.values("-i") or chain not in NO_INPUT
    assert not rule.values("-o") or chain not in NO_OUTPUT
    proto = "".join(rule.values("-p"))
    if any(rule.values(option) for option in ("--dport", "--sport", "--dports")):
        assert proto in ("tcp", "udp")
    if rule.values("--icmp-type") or rule.values("--icmpv6-type"):
        assert (version, proto) in {(4, "icmp"), (6, "ipv6-icmp")}
    for ports in rule.values("--dports"):
        assert sum(2 if ":" in port else 1 for port in ports.split(",")) <= 15
    for option in ("-s", "-d"):
        assert all(ip_network(value).version == version for value in rule.values(option))
    if rule.target == "REJECT":
        assert rule.argument == ("tcp-reset" if proto == "tcp" else REJECTIONS[version])
    if rule.target == "LOG":
        assert len(rule.argument) <= 29
        assert rule.values("--limit"), "a log without a limit"
    if rule.target == "TCPMSS":
        assert rule.values("--tcp-flags") == ("SYN,RST", "SYN")
    if rule.target in ("DNAT", "SNAT", "MASQUERADE"):
        assert version == 4
        assert chain == ("DNAT" if rule.target == "DNAT" else "POSTROUTING")


Chains = dict[tuple[str, str], list[Rule]]


def read_rules(text: str, version: int) -> Chains:
    """The rules by table and chain; each table is committed, and only chains of it are named."""
    chains: Chains = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            assert not table, "the table before is not committed"
            table = line[1:]
        elif line == "COMMIT":
            table = ""
        elif line.startswith(":"):
            name, policy, counters = line[1:].split()
            assert (policy, counters) == ("-", "[0:0]")
            assert name.startswith("GATEWAY-")
            chains[table, name.removeprefix("GATEWAY-")] = []
        elif not line.startswith("#"):
            verb, name, *words = split(line)
            chain = name.removeprefix("GATEWAY-")
            assert (verb, name) == ("-A", f"GATEWAY-{chain}")
            chains[table, chain].append(read_rule(words, table, chain, version))
            called = chains[table, chain][-1].target
            if called.startswith("GATEWAY-"):
                assert (table, called.removeprefix("GATEWAY-")) in chains
    assert not table, "a table is not committed"
    return chains


def read_sets(text: str) -> dict[str, list[Any]]:
    sets: dict[str, list[Any]] = {}
    families = {}
    for line in text.splitlines():
        words = line.split()
        if words[0] == "create":
            _, name, kind, _, family, _, most = words
            assert kind == "hash:net"
            assert name not in sets
            assert len(name) <= 31
            sets[name], families[name] = [], {"inet": 4, "inet6": 6}[family]
        elif words[0] != "#":
            verb, name, member = words
            assert verb == "add"
            sets[name].append(ip_network(member))
            assert sets[name][-1].version == families[name]
            assert len(sets[name]) <= int(most)
    return sets


# --------------------------------------------------------------------------------------------------
# A node, and what becomes of a packet there


@dataclass
class Packet:
    """A packet, with what the kernel knows beside its header."""

    interface: str
    source: str
    destination: str
    proto: str
    port: int
    states: set[str]
    sport: int = 40000
    hops: int = 64
    over: bool = False  # above each rate that a rule limits
    out: str = ""
    asked: str = ""
    source_as: str = ""
    mss: str = ""
    dscp: int = 0
    mark: int = 0
    logs: list[str] = field(default_factory=list)


def packet(text: str) -> Packet:
    """``eth1 192.0.2.1>198.51.100.2 tcp/443``; more words: a state, ``over``, ``hops=``, ``from=``,
    ``dscp=``.

    ``self`` is the node itself; the number of ICMP is its type. VRRP has 255 hops at first.
    """
    interface, addresses, proto, *more = text.split()
    source, _, destination = addresses.partition(">")
    proto, _, number = proto.partition("/")
    if proto == "icmp" and ":" in source:
        proto = "ipv6-icmp"
    options = dict(word.split("=") for word in more if "=" in word)
    return Packet(
        interface,
        source,
        destination,
        proto,
        int(number or 0),
        {word for word in more if word.isupper()} or {"NEW"},
        sport=int(options.get("from", 40000)),
        hops=int(options.get("hops", 255 if proto == "112" else 64)),
        over="over" in more,
        dscp=int(options.get("dscp", 0)),
        asked=destination,
    )


class Node:
    """A node of a site, as far as its firewall sees it."""

    def __init__(self, plan: dict[str, Any], bridges: Sequence[str] = ()) -> None:
        self.plan = plan
        self.texts = _gateway_rules.ruleset(plan, bridges)
        self.sets = read_sets(self.texts["sets"])
        self.chains = {
            version: read_rules(self.texts[f"v{version}"], version) for version in (4, 6)
        }
        self.local = {plan["node"]["internal"], plan["node"]["public"], "fd77::1", "fd51::1"}
        self.local.add("192.168.9.2")  # on eth9, a management network
        for instance in plan["vrrp"]["instances"]:
            self.local |= {instance["virtual_ip"], *instance["addresses"]}
        self.local |= {server["address"] for server in plan["vpn"]["servers"]}
        inside = plan["internal"]["interface"]
        self.routes = {plan["internal"]["network"]: inside, "fd77::/64": inside}
        self.routes |= {server["subnet"]: server["device"] for server in plan["vpn"]["servers"]}
        self.routes |= {route["destination"]: inside for route in plan["routes"]}
        self.routes |= {"fd08::/64": "vpn-main"}
        self.routes |= {"172.17.0.0/16": "docker0", "fd17::/64": "docker0"}
        self.routes |= {"192.168.9.0/24": "eth9"}

    def way(self, address: str) -> str:
        """The interface towards an address."""
        ip = ip_address(address)
        found = (way for network, way in self.routes.items() if ip in ip_network(network))
        return next(found, str(self.plan["public"]["interface"]))

    def is_spoofed(self, packet: Packet) -> bool:
        source = ip_address(packet.source)
        if source.is_unspecified or source.is_link_local:
            return False
        return packet.source in self.local or self.way(packet.source) != packet.interface

    def matches(self, match: Match, packet: Packet) -> bool:
        negated, option, values = match
        return self.holds(option, values, packet) != negated

    def holds(self, option: str, values: tuple[str, ...], packet: Packet) -> bool:
        value = values[0] if values else ""
        if option in ("-i", "-o"):
            have = packet.interface if option == "-i" else packet.out
            return have == value or (value.endswith("+") and have.startswith(value[:-1]))
        if option in ("-s", "-d"):
            have = packet.source if option == "-s" else packet.destination
            return ip_address(have) in ip_network(value)
        if option == "--match-set":
            have = packet.source if values[1] == "src" else packet.destination
            return any(ip_address(have) in network for network in self.sets[value])
        if option in ("--src-type", "--dst-type"):
            assert value == "LOCAL"
            have = packet.source if option == "--src-type" else packet.destination
            return have in self.local and (
                values[1:] != ("in",) or self.way(have) == packet.interface
            )
        if option in ("--dport", "--dports", "--sport"):
            port = packet.sport if option == "--sport" else packet.port
            ranges = [part.split(":") for part in value.split(",")]
            return any(int(ends[0]) <= port <= int(ends[-1]) for ends in ranges)
        if option in ("--icmp-type", "--icmpv6-type"):
            return packet.port == int(value)
        if option in ("--limit", "--hashlimit-upto"):
            return not packet.over
        simple = {
            "-p": lambda: packet.proto == {"47": "gre"}.get(value, value),
            "--ctstate": lambda: bool(packet.states & set(value.split(","))),
            "--ctorigdst": lambda: packet.asked == value,
            "--invert": lambda: self.is_spoofed(packet),
            "--hl-eq": lambda: packet.hops == int(value),
            "--ttl-eq": lambda: packet.hops == int(value),
            "--physdev-is-bridged": lambda: False,
            "--physdev-is-in": lambda: True,
            "--dscp": lambda: packet.dscp == int(value, 0),
            "--mark": lambda: is_marked(packet, value),
        }
        return option not in simple or simple[option]()

    def walk(self, table: str, chain: str, packet: Packet) -> str:
        """What a chain says of a packet, and does to it; "" where it says nothing."""
        version = ip_address(packet.source).version
        for rule in self.chains[version][table, chain]:
            if not all(self.matches(match, packet) for match in rule.matches):
                continue
            if rule.target.startswith("GATEWAY-"):
                verdict = self.walk(table, rule.target.removeprefix("GATEWAY-"), packet)
                if verdict:
                    return verdict
            elif rule.target == "LOG":
                packet.logs.append(rule.argument)
            elif rule.target == "CT":
                packet.states = {"UNTRACKED"}
            elif rule.target == "TCPMSS":
                fits = "pmtu" if rule.argument.startswith("--clamp") else rule.argument
                packet.mss = packet.mss if fits in packet.mss else f"{packet.mss} {fits}".strip()
            elif rule.target == "DSCP":
                packet.dscp = int(rule.argument, 0)
            elif rule.target == "MARK":
                value, _, mask = rule.argument.partition("/")
                packet.mark = packet.mark & ~int(mask or "0xffffffff", 0) ^ int(value, 0)
            elif rule.target == "DNAT":
                translate(packet, rule.argument)
                return "DNAT"
            elif rule.target in ("SNAT", "MASQUERADE"):
                packet.source_as = rule.argument or packet.out
                return rule.target
            elif rule.target == "REJECT":
                return (
                    "REJECT" if (packet.proto == "tcp") == ("tcp" in rule.argument) else "wrongly"
                )
            else:
                return "" if rule.target == "RETURN" else rule.target
        return ""

    def meets(self, packet: Packet) -> str:
        """What becomes of the packet: dropped, refused, accepted, or nobody says; and where it goes
        (at), with which source (as)."""
        own = packet.interface == "self"
        packet.out = self.way(packet.destination) if own else ""
        if self.walk("raw", "OUTPUT" if own else "PREROUTING", packet) == "DROP":
            return "dropped"
        if not own:
            self.walk("mangle", "PREROUTING", packet)
        if not own and packet.states == {"NEW"}:
            self.walk("nat", "PREROUTING", packet)
        here = packet.destination in self.local or packet.destination == "255.255.255.255"
        if not (here or own or is_marked(packet, GATE)):
            return "gated"
        if not here:
            packet.out = self.way(packet.destination)
            if self.walk("mangle", "FORWARD", packet) == "DROP":
                return "dropped"
        hook = "OUTPUT" if own else "INPUT" if here else "FORWARD"
        verdict = self.walk("filter", hook, packet)
        if verdict not in ("", "ACCEPT"):
            return {"DROP": "dropped", "REJECT": "refused"}.get(verdict, verdict)
        if packet.out and self.walk("mangle", "POSTROUTING", packet) == "DROP":
            return "dropped"
        if packet.out and packet.states & {"NEW"}:
            self.walk("nat", "POSTROUTING", packet)
        result = "accepted" if verdict == "ACCEPT" else "nobody says"
        if packet.destination != packet.asked:
            result += f" at {packet.destination}:{packet.port}"
        if packet.source_as:
            result += f" as {packet.source_as}"
        result += f" dscp={packet.dscp}" if packet.dscp else ""
        return result + (" untracked" if packet.states == {"UNTRACKED"} else "")


def is_marked(packet: Packet, mark: str) -> bool:
    value, _, mask = mark.partition("/")
    return packet.mark & int(mask, 0) == int(value, 0)


def translate(packet: Packet, to: str) -> None:
    """DNAT: ADDRESS, ADDRESS:PORT, or ADDRESS:FIRST-LAST/FIRST as iptables-extensions(8) has it."""
    packet.destination, _, ports = to.partition(":")
    packet.states |= {"DNAT"}
    if ports:
        ports, _, base = ports.partition("/")
        first, _, last = ports.partition("-")
        assert bool(last) == bool(base), "any port of the range"
        packet.port = int(first) + (packet.port - int(base) if base else 0)
        assert packet.port <= int(last or first)


@pytest.fixture
def node(plan):
    """A node of the example after some changes."""
    return lambda changes=None, name="gw1": Node(plan(changes, name))


# --------------------------------------------------------------------------------------------------
# Flows. Where nothing else is said, the node is gw1; the client 10.8.0.6 is its own.

RICH: dict[str, Any] = {
    "public:virtual_ip": "198.51.100.10",
    "public:addresses": ["198.51.100.11", "198.51.100.12"],
    "vpn:servers:tcp": {"network": "10.9.0.0/16", "port": 443, "proto": "tcp", "full_tunnel": True},
    "hosts:guest": {"ip": "10.77.0.40"},
    "firewall": {
        "ssh": {"from": ["admins", "203.0.113.9", "2001:db8:9::/64"], "port": 2222},
        "groups": {
            "admins": ["192.0.2.0/24", "more"],
            "more": ["203.0.113.7", "2001:db8:1::/64"],
            "nobody": [],
        },
        "input": [
            {"from": "guest", "proto": "udp", "action": "drop"},
            {"from": ["internal", "vpn"], "ports": [9100, "9102-9104"]},
            {"from": "internal", "ports": 9101, "limit": "5/minute"},
            {"from": "admins", "proto": "both", "ports": 161, "action": "accept"},
            {"from": "nobody", "proto": "esp"},
            {"to": "198.51.100.11", "ports": 8, "action": "accept"},
            {"from": "2001:db8:2::/64", "ports": 162},
            {"from": "vpn", "ports": 22, "action": "drop"},
            {"from": "vpn", "ports": 9200},
            {"proto": "icmp", "from": "198.51.100.77", "action": "drop"},
            {"from": "tcp", "ports": 9201},
        ],
        "forward": [
            {"from": "guest", "to": "public", "ports": 80, "action": "reject"},
            {"from": "guest", "to": "public", "action": "drop"},
            {"from": "guest", "to": "public", "ports": 443},
            {"from": "vpn", "to": "www", "ports": 443, "action": "reject", "log": True},
            {"from": "public", "to": "10.77.0.20", "ports": 80},
            {"from": "admins", "to": "backend01", "proto": "udp", "ports": 7007},
            {"from": "203.0.113.66", "to": "backend01", "action": "drop"},
            {"from": "main", "to": "tcp", "proto": "gre", "action": "drop"},
            {"from": "public", "to": "internal", "proto": "icmp"},
            {"from": "10.77.0.50", "to": "main", "action": "drop"},
            {"from": "10.77.0.60", "to": "internal"},
        ],
        "raw": {
            "filter": {
                "INPUT": ["-s 203.0.113.13 -j DROP"],
                "FORWARD": ["-p gre -s 10.77.0.40 -j ACCEPT"],
                "OUTPUT": ["-d 192.0.2.77 -j DROP"],
            },
            "nat": {"PREROUTING": ["-s 203.0.113.14 -j RETURN"]},
            "mangle": {"POSTROUTING": ["-j MARK --set-mark 7"]},
        },
        "raw6": {"filter": {"INPUT": ["-s 2001:db8:13::/64 -j ACCEPT"]}},
    },
    "nat:forwards": [
        {"port": 8443, "to": "backend01"},
        {"port": [81, 82], "to": "www", "to_port": 80},
        {"port": "7000-7010", "to": "backend01", "proto": "both"},
        {"port": "9000-9010", "to": "backend01", "to_port": 7100},
        {"port": 8081, "to": "www", "to_port": 80, "from": ["admins", "203.0.113.0/25"]},
        {"port": 8082, "to": "www", "to_port": 80, "from": ["nobody", "2001:db8::/32"]},
        {"port": 80, "to": "www", "address": "198.51.100.11"},
        {"port": 25, "to": "www", "address": ["198.51.100.10", "198.51.100.11"]},
    ],
    "nat:one_to_one": [{"address": "198.51.100.12", "to": "10.77.0.20"}],
    "nat:outbound": [
        {"from": "internal", "to": "192.0.2.0/24", "snat": "none"},
        {"from": "10.77.0.30", "snat": "198.51.100.11", "ports": 25},
        {"from": "10.77.0.31", "snat": "masquerade"},
        {"from": "nobody", "snat": "none"},
        {"from": "2001:db8::/32", "snat": "none"},
        {"from": "10.77.0.20", "to": "203.0.113.80", "snat": "198.51.100.10"},
    ],
}
DENY = {
    "vpn:servers:main:full_tunnel": True,
    "firewall": {
        "egress": "deny",
        "egress_allowed": [
            {"to": "203.0.113.80", "ports": [80, 443], "limit": "99/second"},
            {"from": "backend01", "proto": "icmp"},
            {"to": "2001:db8:80::/64", "ports": 443},
        ],
    },
}
MANY_PORTS = [*range(1, 15), "20-30", "40-50", *range(61, 66)]
SITES: dict[str, dict[str, Any]] = {
    "example": {},
    "rich": RICH,
    "deny": DENY,
    "DHCP": {"nodes:gw1:public": ..., "nodes:gw2:public": ...},
    "no VPN": {"vpn": ...},
    "no spoof protection": {"firewall": {"spoof_protection": False, "mss": 1300}},
    "full tunnel": {"vpn:servers:main:full_tunnel": True},
    "many ports": {"firewall": {"input": [{"from": "public", "ports": MANY_PORTS}]}},
}
AS_VIP = "accepted as 198.51.100.10"

FLOWS = {
    "example": [
        # From the public side to the gateway: the VPN's port and ICMP.
        ("eth1 192.0.2.1>198.51.100.2 udp/1194", "accepted"),
        ("eth1 192.0.2.1>198.51.100.2 tcp/1194", "dropped"),
        ("eth1 192.0.2.1>198.51.100.2 icmp/8", "accepted"),
        ("eth1 192.0.2.1>198.51.100.2 icmp/3", "accepted"),
        ("eth1 192.0.2.1>198.51.100.2 icmp/11", "accepted"),
        ("eth1 192.0.2.1>198.51.100.2 icmp/12", "accepted"),
        ("eth1 192.0.2.1>198.51.100.2 icmp/5", "dropped"),
        ("eth1 192.0.2.1>198.51.100.2 icmp/13", "dropped"),
        ("eth1 192.0.2.1>198.51.100.2 tcp/22", "dropped"),
        ("eth1 192.0.2.1>198.51.100.2 udp/53", "dropped"),
        ("eth1 192.0.2.1>198.51.100.2 udp/67", "dropped"),
        ("eth1 192.0.2.1>198.51.100.2 udp/68 from=67", "dropped"),
        ("eth1 192.0.2.1>198.51.100.2 udp/123", "dropped"),
        ("eth1 192.0.2.1>198.51.100.2 gre", "dropped"),
        ("eth1 192.0.2.1>198.51.100.2 tcp/22 ESTABLISHED", "accepted"),
        ("eth1 192.0.2.1>198.51.100.2 udp/9 RELATED", "accepted"),
        ("eth1 192.0.2.1>198.51.100.2 udp/1194 INVALID", "dropped"),
        # Not to internal addresses, whatever the port.
        ("eth1 192.0.2.1>10.77.0.1 udp/53", "dropped"),
        ("eth1 192.0.2.1>10.77.0.2 udp/1194", "dropped"),
        ("eth1 192.0.2.1>10.8.0.1 tcp/22", "dropped"),
        ("eth1 192.0.2.1>10.8.0.1 udp/1194", "dropped"),
        # From the inside to the gateway.
        ("eth0 10.77.0.10>10.77.0.1 udp/53", "accepted"),
        ("eth0 10.77.0.10>10.77.0.2 tcp/53", "accepted"),
        ("eth0 10.77.0.10>10.77.0.1 udp/123", "accepted"),
        ("eth0 10.77.0.10>10.77.0.1 tcp/22", "accepted"),
        ("eth0 10.77.0.10>10.77.0.1 icmp/8", "accepted"),
        ("eth0 10.77.0.10>10.77.0.1 icmp/3", "accepted"),
        ("eth0 10.77.0.10>10.77.0.1 icmp/11", "accepted"),
        ("eth0 10.77.0.10>10.77.0.1 icmp/12", "accepted"),
        ("eth0 10.77.0.10>10.77.0.1 udp/67 from=68", "accepted"),
        ("eth0 10.77.0.10>10.77.0.2 udp/1194", "accepted"),
        ("eth0 0.0.0.0>255.255.255.255 udp/67 from=68", "accepted"),
        ("eth0 10.77.0.10>198.51.100.2 tcp/22", "accepted"),
        ("eth0 10.77.0.10>10.77.0.1 tcp/80", "refused"),
        ("eth0 10.77.0.10>10.77.0.1 udp/161", "refused"),
        ("eth0 10.77.0.10>10.77.0.1 udp/53 INVALID", "dropped"),
        ("vpn-main 10.8.0.6>10.77.0.1 udp/53", "accepted"),
        ("vpn-main 10.8.0.6>10.77.0.1 tcp/53", "accepted"),
        ("vpn-main 10.8.0.6>10.77.0.2 udp/123", "accepted"),
        ("vpn-main 10.8.0.6>10.8.0.1 tcp/22", "accepted"),
        ("vpn-main 10.8.0.6>10.8.0.1 icmp/8", "accepted"),
        ("vpn-main 10.8.0.6>10.8.0.1 icmp/3", "accepted"),
        ("vpn-main 10.8.0.6>10.8.0.1 icmp/11", "accepted"),
        ("vpn-main 10.8.0.6>10.8.0.1 icmp/12", "accepted"),
        ("vpn-main 10.8.0.6>10.8.0.1 tcp/80", "refused"),
        ("vpn-main 10.8.0.6>10.8.0.1 udp/67", "refused"),
        ("vpn-main 10.8.0.6>10.8.0.1 udp/1194", "refused"),
        ("eth0 10.8.1.6>10.77.0.1 udp/53", "accepted"),
        ("eth0 10.8.1.6>10.77.0.1 udp/67", "refused"),
        ("eth0 10.8.1.6>10.77.0.2 udp/1194", "refused"),
        ("lo 10.77.0.1>10.77.0.1 tcp/9999", "accepted"),
        # VRRP: from the peers alone, and their side, also with a full conntrack table.
        ("eth0 10.77.0.3>10.77.0.2 112", "accepted untracked"),
        ("eth0 10.77.0.3>10.77.0.2 112 hops=254", "dropped"),
        ("eth0 10.77.0.3>10.77.0.1 112", "dropped"),
        ("eth9 10.77.0.3>10.77.0.2 112", "dropped"),
        ("eth0 10.77.0.10>192.0.2.1 112", "accepted as eth1"),
        ("eth0 10.77.0.66>10.77.0.2 112", "dropped"),
        ("eth1 10.77.0.3>10.77.0.2 112", "dropped"),
        ("eth1 198.51.100.3>198.51.100.2 112", "dropped"),
        ("vpn-main 10.8.0.6>10.77.0.2 112", "dropped"),
        ("self 10.77.0.2>10.77.0.3 112", "nobody says untracked"),
        # To the internet, and back; not in.
        ("eth0 10.77.0.10>192.0.2.1 tcp/443", "accepted as eth1"),
        ("eth0 10.77.0.10>192.0.2.1 gre", "accepted as eth1"),
        ("eth0 10.77.0.10>192.0.2.1 tcp/443 ESTABLISHED", "accepted"),
        ("eth1 192.0.2.1>10.77.0.10 tcp/443 ESTABLISHED", "accepted"),
        ("eth1 192.0.2.1>10.77.0.10 icmp/3 RELATED", "accepted"),
        ("eth1 192.0.2.1>10.77.0.10 tcp/443", "dropped"),
        ("eth1 192.0.2.1>10.77.0.10 icmp/8", "dropped"),
        ("eth1 192.0.2.1>10.8.0.6 tcp/443", "dropped"),
        ("eth1 192.0.2.1>10.8.1.6 tcp/443", "dropped"),
        ("eth1 192.0.2.1>203.0.113.1 tcp/443", "dropped"),
        ("eth0 10.77.0.10>192.0.2.1 tcp/443 INVALID", "dropped"),
        ("eth0 10.77.0.10>10.77.0.11 tcp/443", "refused"),
        ("eth0 10.77.0.10>10.77.0.11 udp/443", "refused"),
        # The node's own traffic keeps its address, also that of a standby.
        ("self 10.77.0.2>192.0.2.1 tcp/443", "nobody says"),
        ("self 10.77.0.1>192.0.2.1 tcp/443", "nobody says"),
        ("self 198.51.100.2>192.0.2.1 tcp/443", "nobody says"),
        ("self 10.8.0.1>192.0.2.1 tcp/443", "nobody says"),
        # VPN: the inside and each other, not the internet.
        ("vpn-main 10.8.0.6>10.77.0.10 tcp/443", "accepted"),
        ("vpn-main 10.8.0.6>10.8.0.7 tcp/443", "accepted"),
        ("vpn-main 10.8.0.6>10.8.1.6 tcp/443", "accepted"),
        ("eth0 10.8.1.6>10.8.0.6 tcp/443", "accepted"),
        ("eth0 10.77.0.10>10.8.0.6 tcp/443", "accepted"),
        ("vpn-main 10.8.0.6>192.0.2.1 tcp/443", "refused"),
        ("vpn-main 10.8.0.6>192.0.2.1 udp/443", "refused"),
        ("vpn-main 10.8.0.6>10.8.99.6 tcp/443", "refused"),  # nobody's: it would leave
        ("vpn-main 10.8.0.6>10.8.99.6 udp/443", "refused"),
        ("eth0 10.8.1.6>192.0.2.1 tcp/443", "refused"),
        # To a peer's client, this node sees one direction. Nothing else goes untracked.
        ("eth0 10.77.0.10>10.8.1.6 tcp/22", "accepted untracked"),
        ("eth0 10.77.0.10>10.8.1.6 tcp/22 INVALID", "accepted untracked"),
        ("eth0 10.77.0.10>10.8.0.6 tcp/22 INVALID", "dropped"),
        ("vpn-main 10.8.0.6>10.8.1.6 tcp/22 INVALID", "dropped"),
        ("eth0 203.0.113.5>10.8.1.6 tcp/22", "dropped"),
        # The forward, from wherever it is asked for by the public address.
        ("eth1 192.0.2.1>198.51.100.2 tcp/443", "accepted at 10.77.0.10:443"),
        ("eth1 192.0.2.1>198.51.100.2 udp/443", "dropped"),
        ("eth1 192.0.2.1>198.51.100.2 tcp/80", "dropped"),
        ("eth1 192.0.2.1>10.77.0.1 tcp/443", "dropped"),
        ("eth0 10.77.0.11>198.51.100.2 tcp/443", "accepted at 10.77.0.10:443 as 10.77.0.1"),
        ("eth1 192.0.2.1>198.51.100.3 tcp/443", "dropped"),
        ("vpn-main 10.8.0.6>198.51.100.2 tcp/443", "accepted at 10.77.0.10:443"),
        ("eth0 10.77.0.11>10.77.0.1 tcp/443", "refused"),
        ("eth0 10.77.0.10>192.0.2.1 tcp/443", "accepted as eth1"),
        # Nobody sends from an address of another side.
        ("eth1 10.77.0.10>198.51.100.2 udp/1194", "dropped"),
        ("eth1 10.77.0.10>198.51.100.2 icmp/8", "dropped"),
        ("eth1 10.77.0.10>198.51.100.2 icmp/3", "dropped"),
        ("eth1 10.8.0.6>10.77.0.10 tcp/22", "dropped"),
        ("eth1 10.8.99.6>10.77.0.10 tcp/22", "dropped"),  # no node's part of the VPN's network
        ("eth1 10.8.99.6>198.51.100.2 udp/1194", "dropped"),
        ("eth0 192.0.2.1>203.0.113.1 tcp/443", "dropped"),
        ("eth0 10.8.0.6>10.77.0.10 tcp/22", "dropped"),
        ("vpn-main 10.77.0.10>192.0.2.1 tcp/443", "dropped"),
        ("vpn-main 192.0.2.66>10.77.0.10 tcp/22", "dropped"),
        ("eth0 10.77.0.2>10.77.0.1 tcp/22", "dropped"),
        # Other interfaces are none of ours, but do not lead inside either.
        ("docker0 172.17.0.2>192.0.2.1 tcp/443", "nobody says"),
        ("docker0 172.17.0.2>10.77.0.1 tcp/8080", "nobody says"),
        ("docker0 172.17.0.2>10.77.0.10 tcp/443", "dropped"),
        ("docker0 172.17.0.2>10.8.0.6 tcp/443", "dropped"),
        ("eth1 192.0.2.1>172.17.0.2 tcp/443", "dropped"),
        ("eth0 10.77.0.10>172.17.0.2 tcp/443", "refused"),
        ("eth9 192.168.9.5>192.168.9.2 tcp/22", "nobody says"),
        ("eth9 192.168.9.5>192.168.9.2 udp/1194", "nobody says"),
        ("eth9 192.168.9.5>192.168.9.2 icmp/8", "nobody says"),
        ("eth9 192.168.9.5>192.168.9.2 icmp/3", "nobody says"),
        ("eth9 192.168.9.5>10.77.0.1 udp/53", "nobody says"),
        ("eth9 0.0.0.0>255.255.255.255 udp/67", "nobody says"),
        ("eth9 192.168.9.5>198.51.100.2 tcp/443", "nobody says"),
        ("eth9 192.168.9.5>10.77.0.10 tcp/443 DNAT", "dropped"),  # another tool's
        ("eth9 192.168.9.5>10.77.0.10 tcp/22", "dropped"),
        ("eth0 10.77.0.10>192.168.9.5 tcp/22", "refused"),
        ("vpn-main 10.8.0.6>192.168.9.5 tcp/22", "refused"),
        ("eth1 192.0.2.1>192.168.9.5 tcp/22", "dropped"),
        # Nobody there has an address of the inside, nor where an interface is called like ours.
        ("eth9 10.77.0.10>10.77.0.1 tcp/8080", "dropped"),
        ("eth9 10.77.0.10>192.0.2.1 tcp/443", "dropped"),
        ("eth9 10.8.0.6>10.77.0.1 tcp/8080", "dropped"),
        ("eth9 10.8.0.6>192.0.2.1 tcp/443", "dropped"),
        ("eth9 10.8.0.6>10.77.0.10 tcp/22", "dropped"),
        ("eth9 10.8.1.6>10.77.0.10 tcp/22", "dropped"),
        ("vpn-other 10.8.0.6>10.77.0.10 tcp/22", "dropped"),
        ("vpn-other 192.168.7.7>10.77.0.1 udp/53", "nobody says"),
        ("vpn-other 192.168.7.7>10.77.0.10 tcp/22", "dropped"),
        # IPv6: the same, though the pillar does not speak of it.
        ("eth1 2001:db8::1>fd51::1 udp/1194", "accepted"),
        ("eth1 2001:db8::1>fd51::1 tcp/22", "dropped"),
        ("eth1 2001:db8::1>fd51::1 udp/53", "dropped"),
        ("eth1 2001:db8::1>fd51::1 icmp/128", "accepted"),
        ("eth1 2001:db8::1>fd51::1 icmp/1", "accepted"),
        ("eth1 2001:db8::1>fd51::1 icmp/2", "accepted"),
        ("eth1 2001:db8::1>fd51::1 icmp/3", "accepted"),
        ("eth1 2001:db8::1>fd51::1 icmp/4", "accepted"),
        ("eth1 2001:db8::1>fd51::1 icmp/129", "dropped"),
        ("eth1 2001:db8::1>fd51::1 icmp/137", "dropped"),
        ("eth1 fe80::1>fd51::1 icmp/135 hops=255", "accepted"),
        ("eth1 2001:db8::1>fd51::1 icmp/135 hops=254", "dropped"),
        ("eth1 fe80::1>fd51::1 icmp/134 hops=255", "dropped"),
        ("eth0 fe80::1>fd77::1 icmp/134 hops=255", "refused"),
        *((f"eth1 fe80::1>fd51::1 icmp/{kind} hops=255", "accepted") for kind in (133, 136)),
        *((f"eth1 fe80::1>fd51::1 icmp/{kind} hops=255", "accepted") for kind in (141, 142)),
        *(
            (f"eth1 fe80::1>fd51::1 icmp/{kind} hops=1", "accepted")
            for kind in (130, 131, 132, 143, 148, 149, 151, 152, 153)
        ),
        ("eth0 fe80::1>fd77::1 icmp/135 hops=255", "accepted"),
        *((f"eth0 fd77::9>fd77::1 icmp/{kind}", "accepted") for kind in (1, 2, 3, 4, 128)),
        *((f"vpn-main fd08::9>fd77::1 icmp/{kind}", "accepted") for kind in (1, 2, 3, 4, 128)),
        *((f"eth9 fd99::9>fd77::1 icmp/{kind}", "nobody says") for kind in (1, 128)),
        ("eth9 fe80::1>fd77::1 icmp/135 hops=255", "nobody says"),
        ("eth9 fe80::1>fd77::1 udp/546 from=547", "nobody says"),
        ("eth9 fd99::9>fd77::1 udp/1194", "nobody says"),
        ("eth0 fe80::1>fd77::1 icmp/133 hops=255", "accepted"),
        ("eth0 fd77::9>fd77::1 icmp/136 hops=255", "accepted"),
        ("eth0 fd77::9>fd77::1 icmp/136 hops=254", "refused"),
        ("eth0 fe80::1>fd77::1 icmp/141 hops=255", "accepted"),
        ("eth0 fe80::1>fd77::1 icmp/142 hops=255", "accepted"),
        ("eth0 fe80::1>fd77::1 icmp/142 hops=254", "refused"),
        *(
            (f"eth0 fe80::1>fd77::1 icmp/{kind} hops=1", "accepted")
            for kind in (130, 131, 132, 143, 148, 149, 151, 152, 153)
        ),
        ("eth0 fe80::1>fd77::1 icmp/144 hops=1", "refused"),
        ("eth1 2001:db8::1>fd51::1 icmp/130 hops=1", "dropped"),
        ("eth1 fe80::1>fd51::1 udp/546 from=547", "accepted"),
        ("eth1 2001:db8::1>fd51::1 udp/546 from=547", "dropped"),
        ("eth1 fe80::1>fd51::1 udp/546", "dropped"),
        ("eth0 fd77::9>fd77::1 udp/53", "accepted"),
        ("eth0 fd77::9>fd77::1 tcp/53", "accepted"),
        ("eth0 fd77::9>fd77::1 udp/123", "accepted"),
        ("eth0 fd77::9>fd77::1 tcp/22", "accepted"),
        ("eth0 fd77::9>fd77::1 tcp/80", "refused"),
        ("eth0 fd77::9>fd77::1 udp/80", "refused"),
        ("lo fd77::1>fd77::1 tcp/9999", "accepted"),
        ("eth0 fd77::9>fd77::1 udp/1194", "accepted"),
        ("eth1 2001:db8::1>fd51::1 tcp/22 ESTABLISHED", "accepted"),
        ("eth1 2001:db8::1>fd51::1 udp/1194 INVALID", "dropped"),
        ("vpn-main fd08::9>fd77::1 udp/53", "accepted"),
        ("vpn-main fd08::9>fd77::1 tcp/53", "accepted"),
        ("vpn-main fd08::9>fd77::1 udp/123", "accepted"),
        ("vpn-main fd08::9>fd77::1 tcp/22", "accepted"),
        ("vpn-main fd08::9>fd77::1 tcp/80", "refused"),
        ("vpn-main fd08::9>fd77::1 udp/80", "refused"),
        ("eth0 fd77::9>2001:db8::1 tcp/443", "accepted"),
        ("eth1 2001:db8::1>fd77::9 tcp/443", "dropped"),
        ("eth1 2001:db8::1>fd77::9 tcp/443 ESTABLISHED", "accepted"),
        ("eth1 2001:db8::1>fd77::9 icmp/128", "dropped"),
        ("eth0 fd77::9>2001:db8::1 tcp/443 INVALID", "dropped"),
        ("eth0 fd77::9>fd77::10 tcp/443", "refused"),
        ("eth0 fd77::9>fd77::10 udp/443", "refused"),
        ("eth1 fd77::9>fd51::1 udp/1194", "dropped"),
        ("vpn-main fd77::9>fd77::10 tcp/443", "dropped"),
        ("eth0 2001:db8::1>2001:db8::2 tcp/443", "dropped"),
        ("vpn-main fd08::9>fd77::9 tcp/443", "accepted"),
        ("vpn-main fd08::9>fd08::8 tcp/443", "accepted"),
        ("eth0 fd77::9>fd08::9 tcp/443", "accepted"),
        ("vpn-main fd08::9>2001:db8::1 tcp/443", "refused"),
        ("vpn-main fd08::9>2001:db8::1 udp/443", "refused"),
        ("docker0 fd17::2>fd77::9 tcp/443", "dropped"),
        ("docker0 fd17::2>fd08::9 tcp/443", "dropped"),
        ("docker0 fd17::2>2001:db8::1 tcp/443", "nobody says"),
        ("eth1 2001:db8::1>fd17::2 tcp/443", "dropped"),
        ("eth1 2001:db8::1>fd08::9 tcp/443", "dropped"),
    ],
    "rich": [
        # SSH from outside: a group and its groups, an address, both families; its own port.
        ("eth1 192.0.2.7>198.51.100.2 tcp/2222", "accepted"),
        ("eth1 203.0.113.7>198.51.100.2 tcp/2222", "accepted"),
        ("eth1 203.0.113.9>198.51.100.2 tcp/2222", "accepted"),
        ("eth1 203.0.113.10>198.51.100.2 tcp/2222", "dropped"),
        ("eth9 203.0.113.9>198.51.100.2 tcp/2222", "nobody says"),
        ("eth9 192.168.9.5>192.168.9.2 tcp/443", "nobody says"),  # the second VPN server's port
        ("eth1 192.0.2.7>198.51.100.2 tcp/22", "dropped"),
        ("eth1 2001:db8:1::7>fd51::1 tcp/2222", "accepted"),
        ("eth1 2001:db8:9::7>fd51::1 tcp/2222", "accepted"),
        ("eth1 2001:db8:2::7>fd51::1 tcp/2222", "dropped"),
        ("eth0 10.77.0.10>10.77.0.1 tcp/2222", "accepted"),
        ("eth0 10.77.0.10>10.77.0.1 tcp/22", "refused"),
        # Input rules, in their order and before the gateway's own services.
        ("eth0 10.77.0.40>10.77.0.1 udp/53", "dropped"),
        ("eth0 10.77.0.40>10.77.0.1 tcp/53", "accepted"),
        ("eth0 10.77.0.41>10.77.0.1 udp/53", "accepted"),
        ("eth0 10.77.0.10>10.77.0.1 tcp/9100", "accepted"),
        ("eth0 10.77.0.10>10.77.0.1 tcp/9103", "accepted"),
        ("eth0 10.77.0.10>10.77.0.1 tcp/9105", "refused"),
        ("eth0 10.77.0.10>10.77.0.1 udp/9100", "refused"),
        ("eth0 fd77::9>fd77::1 tcp/9103", "accepted"),
        ("vpn-main 10.8.0.6>10.77.0.1 tcp/9100", "accepted"),
        ("eth0 10.8.1.6>10.77.0.1 tcp/9200", "accepted"),
        ("vpn-main fd08::6>fd77::1 tcp/9100", "accepted"),
        ("eth1 192.0.2.1>198.51.100.2 tcp/9100", "dropped"),
        ("eth1 10.8.99.6>198.51.100.2 tcp/9200", "dropped"),
        ("eth0 10.77.0.10>10.77.0.1 tcp/9101", "accepted"),
        ("eth0 10.77.0.10>10.77.0.1 tcp/9101 over", "dropped"),
        ("eth1 192.0.2.7>198.51.100.2 udp/161", "accepted"),
        ("eth1 192.0.2.7>198.51.100.2 tcp/161", "accepted"),
        ("eth1 2001:db8:1::7>fd51::1 udp/161", "accepted"),
        ("eth1 203.0.113.66>198.51.100.2 udp/161", "dropped"),
        ("eth1 192.0.2.1>198.51.100.11 tcp/8", "accepted"),
        ("eth1 192.0.2.1>198.51.100.10 tcp/8", "dropped"),
        ("eth1 2001:db8:2::7>fd51::1 tcp/162", "accepted"),
        ("eth1 2001:db8:3::7>fd51::1 tcp/162", "dropped"),
        ("eth1 192.0.2.7>198.51.100.2 tcp/162", "dropped"),
        ("eth1 192.0.2.7>198.51.100.2 esp", "dropped"),
        ("vpn-main 10.8.0.6>10.77.0.1 tcp/22", "dropped"),
        ("vpn-tcp 10.9.0.6>10.77.0.1 tcp/9201", "accepted"),
        ("vpn-main 10.8.0.6>10.77.0.1 tcp/9201", "refused"),
        ("eth1 198.51.100.77>198.51.100.2 icmp/8", "dropped"),
        ("eth1 198.51.100.77>198.51.100.2 icmp/3", "accepted"),  # what a router has to hear
        ("eth1 192.0.2.1>198.51.100.2 tcp/443", "accepted"),  # the second VPN server
        ("eth1 192.0.2.1>198.51.100.2 udp/443", "dropped"),
        ("eth1 198.51.100.3>198.51.100.2 112", "accepted untracked"),
        ("eth1 198.51.100.3>198.51.100.2 112 hops=254", "dropped"),
        ("eth0 198.51.100.3>198.51.100.2 112", "dropped"),
        ("eth1 198.51.100.4>198.51.100.2 112", "dropped"),
        # Raw lines, before all that.
        ("eth1 203.0.113.13>198.51.100.2 udp/1194", "dropped"),
        ("eth1 203.0.113.13>198.51.100.2 udp/1194 ESTABLISHED", "dropped"),
        ("eth1 2001:db8:13::1>fd51::1 tcp/80", "accepted"),
        ("eth0 10.77.0.40>192.0.2.1 gre", "accepted"),
        ("self 198.51.100.2>192.0.2.77 tcp/80", "dropped"),
        ("eth1 203.0.113.14>198.51.100.10 tcp/8443", "dropped"),
        # Forward rules, in their order.
        ("eth0 10.77.0.40>203.0.113.1 tcp/80", "refused"),
        ("eth0 10.77.0.40>203.0.113.1 tcp/443", "dropped"),
        ("eth0 10.77.0.40>203.0.113.1 udp/53", "dropped"),
        ("eth0 10.77.0.40>10.8.0.6 tcp/80", "accepted"),
        ("vpn-main 10.8.0.6>10.77.0.10 tcp/443", "refused"),
        ("vpn-main 10.8.0.6>10.77.0.10 udp/443", "accepted"),
        ("vpn-main 10.8.0.6>10.77.0.11 tcp/443", "accepted"),
        ("vpn-tcp 10.9.0.6>10.77.0.10 tcp/443", "refused"),
        ("eth1 192.0.2.7>10.77.0.10 udp/7007", "accepted"),
        ("eth1 192.0.2.7>10.77.0.10 tcp/7007", "dropped"),
        ("eth1 203.0.113.1>10.77.0.10 udp/7007", "dropped"),
        ("eth1 203.0.113.1>10.77.0.20 tcp/80", "accepted"),
        ("eth1 203.0.113.66>198.51.100.10 tcp/8443", "dropped"),  # rules are before forwards
        ("vpn-main 10.8.0.6>10.9.0.6 gre", "dropped"),
        ("vpn-tcp 10.9.0.6>10.8.0.6 gre", "accepted"),
        ("vpn-main 10.8.0.6>10.9.1.6 tcp/80", "accepted"),
        ("eth1 192.0.2.1>10.77.0.10 icmp/8", "accepted"),
        ("eth1 2001:db8::1>fd77::9 icmp/128", "accepted"),
        ("eth1 2001:db8::1>fd77::9 tcp/80", "dropped"),
        # Port forwards: one, a list, a range, both protocols, sources, further addresses.
        ("eth1 192.0.2.1>198.51.100.10 tcp/8443", "accepted at 10.77.0.10:8443"),
        ("eth1 192.0.2.1>198.51.100.2 tcp/8443", "dropped"),
        ("eth1 192.0.2.1>198.51.100.11 tcp/8443", "dropped"),
        ("eth1 192.0.2.1>198.51.100.10 tcp/81", "accepted at 10.77.0.10:80"),
        ("eth1 192.0.2.1>198.51.100.10 tcp/82", "accepted at 10.77.0.10:80"),
        ("eth1 192.0.2.1>198.51.100.10 tcp/83", "dropped"),
        ("eth1 192.0.2.1>198.51.100.10 tcp/7000", "accepted at 10.77.0.10:7000"),
        ("eth1 192.0.2.1>198.51.100.10 tcp/7007", "accepted at 10.77.0.10:7007"),
        ("eth1 192.0.2.1>198.51.100.10 udp/7010", "accepted at 10.77.0.10:7010"),
        ("eth1 192.0.2.1>198.51.100.10 udp/7011", "dropped"),
        ("eth1 192.0.2.1>198.51.100.10 tcp/9000", "accepted at 10.77.0.10:7100"),
        ("eth1 192.0.2.1>198.51.100.10 tcp/9010", "accepted at 10.77.0.10:7110"),
        ("eth1 192.0.2.1>198.51.100.10 udp/9010", "dropped"),
        ("eth1 192.0.2.1>198.51.100.10 tcp/8081", "accepted at 10.77.0.10:80"),
        ("eth1 203.0.113.100>198.51.100.10 tcp/8081", "accepted at 10.77.0.10:80"),
        ("eth1 203.0.113.200>198.51.100.10 tcp/8081", "dropped"),
        ("eth1 192.0.2.1>198.51.100.10 tcp/8082", "dropped"),
        ("eth1 192.0.2.1>198.51.100.11 tcp/80", "accepted at 10.77.0.10:80"),
        ("eth1 192.0.2.1>198.51.100.10 tcp/80", "dropped"),
        ("eth1 192.0.2.1>198.51.100.10 tcp/25", "accepted at 10.77.0.10:25"),
        ("eth1 192.0.2.1>198.51.100.11 tcp/25", "accepted at 10.77.0.10:25"),
        # Hairpin.
        ("eth0 10.77.0.11>198.51.100.10 tcp/8443", "accepted at 10.77.0.10:8443 as 10.77.0.1"),
        ("eth0 10.77.0.11>198.51.100.11 tcp/80", "accepted at 10.77.0.10:80 as 10.77.0.1"),
        ("eth0 10.77.0.11>198.51.100.12 tcp/80", "accepted at 10.77.0.20:80 as 10.77.0.1"),
        ("eth0 10.77.0.11>198.51.100.10 tcp/8081", "refused"),
        ("eth0 10.77.0.11>198.51.100.10 tcp/83", "refused"),
        ("vpn-main 10.8.0.6>198.51.100.10 tcp/8443", "accepted at 10.77.0.10:8443"),
        ("eth0 10.77.0.60>10.77.0.11 tcp/80", "accepted"),  # without a forward it keeps its address
        # 1:1: what comes in is for forward rules to say.
        ("eth1 192.0.2.1>198.51.100.12 tcp/80", "accepted at 10.77.0.20:80"),
        ("eth1 192.0.2.1>198.51.100.12 tcp/443", "dropped"),
        ("eth1 192.0.2.1>198.51.100.12 icmp/8", "accepted at 10.77.0.20:8"),
        ("eth9 192.168.9.5>198.51.100.12 tcp/80", "nobody says"),
        ("eth9 192.168.9.5>198.51.100.10 tcp/8443", "nobody says"),
        ("eth0 10.77.0.20>203.0.113.1 tcp/443", "accepted as 198.51.100.12"),
        ("eth0 10.77.0.20>10.8.0.6 tcp/443", "accepted"),
        # Outbound exceptions, in their order and before 1:1.
        ("eth0 10.77.0.10>203.0.113.1 tcp/443", AS_VIP),
        ("eth0 10.77.0.10>192.0.2.1 tcp/443", "accepted"),
        ("eth0 10.77.0.20>192.0.2.1 tcp/443", "accepted"),
        ("eth0 10.77.0.30>203.0.113.1 tcp/25", "accepted as 198.51.100.11"),
        ("eth0 10.77.0.30>203.0.113.1 tcp/26", AS_VIP),
        ("eth0 10.77.0.30>203.0.113.1 udp/25", AS_VIP),
        ("eth0 10.77.0.30>192.0.2.1 tcp/25", "accepted"),
        ("eth0 10.77.0.31>203.0.113.1 tcp/25", "accepted as eth1"),
        ("eth0 10.77.0.31>10.8.0.6 tcp/25", "accepted"),  # it does not leave
        ("eth0 10.77.0.30>10.8.0.6 tcp/25", "accepted"),
        ("eth0 10.77.0.20>203.0.113.80 tcp/443", AS_VIP),
        # A tunnel ends on this node: its clients keep to this node's address.
        ("vpn-tcp 10.9.0.6>203.0.113.1 tcp/443", "accepted as eth1"),
        ("vpn-main 10.8.0.6>203.0.113.1 tcp/443", "refused"),
        ("self 198.51.100.10>203.0.113.1 tcp/443", "nobody says"),
        ("self 198.51.100.12>203.0.113.1 tcp/443", "nobody says"),
        ("self 10.77.0.2>203.0.113.1 tcp/443", "nobody says"),
        # A rule does not see the untracked half of a connection: the peer has seen the whole.
        ("eth0 10.77.0.50>10.8.0.6 tcp/22", "dropped"),
        ("eth0 10.77.0.50>10.8.1.6 tcp/22 INVALID", "accepted untracked"),
        # Two servers, two parts of the peer.
        ("eth0 10.77.0.10>10.9.1.6 tcp/22 INVALID", "accepted untracked"),
        ("eth1 10.9.99.6>10.77.0.10 tcp/22", "dropped"),
    ],
    "deny": [
        ("eth0 10.77.0.10>203.0.113.80 tcp/443", "accepted as eth1"),
        ("eth0 10.77.0.10>203.0.113.80 tcp/80", "accepted as eth1"),
        ("eth0 10.77.0.10>203.0.113.80 tcp/80 over", "dropped"),
        ("eth0 10.77.0.10>203.0.113.80 tcp/22", "refused"),
        ("eth0 10.77.0.10>203.0.113.80 udp/443", "refused"),
        ("eth0 10.77.0.10>203.0.113.81 tcp/443", "refused"),
        ("eth0 10.77.0.10>203.0.113.81 icmp/8", "accepted as eth1"),
        ("eth0 10.77.0.10>10.8.99.6 tcp/443", "refused"),  # no node's part of the VPN's network
        ("eth9 10.77.0.10>203.0.113.80 tcp/443", "dropped"),
        ("eth0 10.77.0.11>203.0.113.81 icmp/8", "refused"),
        ("vpn-main 10.8.0.6>203.0.113.80 tcp/443", "accepted as eth1"),
        ("vpn-main 10.8.0.6>203.0.113.81 tcp/443", "refused"),
        ("eth1 192.0.2.1>203.0.113.80 tcp/443", "dropped"),
        ("eth0 fd77::9>2001:db8:80::1 tcp/443", "accepted"),
        ("vpn-main fd08::9>2001:db8:80::1 tcp/443", "accepted"),
        ("eth0 fd77::9>2001:db8:81::1 tcp/443", "refused"),
        ("eth0 fd77::9>2001:db8:80::1 tcp/80", "refused"),
        ("eth1 2001:db8::1>2001:db8:80::1 tcp/443", "dropped"),
        # Inside nothing changes, nor for the gateway itself, nor for what comes in.
        ("vpn-main 10.8.0.6>10.77.0.10 tcp/443", "accepted"),
        ("eth0 10.77.0.10>10.8.0.6 tcp/443", "accepted"),
        ("eth0 10.77.0.10>10.77.0.1 udp/53", "accepted"),
        ("self 198.51.100.2>203.0.113.81 tcp/443", "nobody says"),
        ("eth1 192.0.2.1>198.51.100.2 tcp/443", "accepted at 10.77.0.10:443"),
        ("eth0 10.77.0.10>192.0.2.1 tcp/443 ESTABLISHED", "accepted"),
    ],
    "DHCP": [
        ("eth1 198.51.100.1>255.255.255.255 udp/68 from=67", "accepted"),
        ("eth1 198.51.100.1>255.255.255.255 udp/68 from=66", "dropped"),
        ("eth0 10.77.0.66>255.255.255.255 udp/68 from=67", "refused"),
        ("eth1 192.0.2.1>198.51.100.200 tcp/443", "accepted at 10.77.0.10:443"),
        ("eth0 10.77.0.11>198.51.100.200 tcp/443", "accepted at 10.77.0.10:443 as 10.77.0.1"),
        ("eth1 192.0.2.1>192.168.9.2 tcp/443", "dropped"),
        ("eth9 192.168.9.5>192.168.9.2 tcp/443", "nobody says"),
        ("eth9 192.168.9.5>198.51.100.200 tcp/443", "nobody says"),
        # From inside nobody knows which of its addresses are public.
        ("eth0 10.77.0.11>192.168.9.2 tcp/443", "accepted at 10.77.0.10:443 as 10.77.0.1"),
        ("eth0 10.77.0.11>10.77.0.1 tcp/443", "refused"),
        ("vpn-main 10.8.0.6>10.8.0.1 tcp/443", "refused"),
        ("eth0 10.77.0.10>192.0.2.1 tcp/443", "accepted as eth1"),
    ],
    "no VPN": [
        ("eth1 192.0.2.1>198.51.100.2 udp/1194", "dropped"),
        ("eth0 10.77.0.10>192.0.2.1 tcp/443", "accepted as eth1"),
        ("eth1 192.0.2.1>10.77.0.10 tcp/443", "dropped"),
        ("eth0 10.77.0.10>10.77.0.1 udp/53", "accepted"),
    ],
    "no spoof protection": [
        # Even so nobody outside may use addresses of the inside to get in.
        ("eth1 10.77.0.10>10.77.0.1 udp/53", "dropped"),
        ("eth1 10.77.0.10>198.51.100.2 udp/1194", "dropped"),
        ("eth1 10.8.0.6>10.77.0.10 tcp/22", "dropped"),
        ("eth1 10.8.1.6>10.77.0.10 tcp/22", "dropped"),
        ("eth1 10.77.0.11>10.77.0.10 tcp/22", "dropped"),
        ("eth0 203.0.113.5>192.0.2.1 tcp/443", "refused"),
        ("vpn-main 192.0.2.66>10.77.0.10 tcp/22", "refused"),
        ("eth0 10.77.0.10>192.0.2.1 tcp/443", "accepted as eth1"),
    ],
    "full tunnel": [
        ("vpn-main 10.8.0.6>192.0.2.1 tcp/443", "accepted as eth1"),
        ("vpn-main 10.8.0.6>10.77.0.10 tcp/443", "accepted"),
        ("eth1 10.8.99.6>192.0.2.1 tcp/443", "dropped"),
        ("vpn-main fd08::9>2001:db8::1 tcp/443", "accepted"),
        ("eth1 192.0.2.1>10.8.0.6 tcp/443", "dropped"),
    ],
    "many ports": [
        (f"eth1 192.0.2.1>198.51.100.2 tcp/{port}", expected)
        for port, expected in {
            **dict.fromkeys((1, 14, 20, 25, 30, 40, 50, 61, 65), "accepted"),
            **dict.fromkeys((15, 19, 31, 39, 51, 60, 66), "dropped"),
        }.items()
    ],
}


def forwarding(site):
    """The changes that make a site, with one forward where it has none of its own."""
    return {"nat:forwards:0": {"port": 443, "to": "www"}, **SITES[site]}


@pytest.mark.parametrize(
    ("site", "flow", "expected"),
    [(site, flow, expected) for site, flows in FLOWS.items() for flow, expected in flows],
)
def test_flows(node, site, flow, expected):
    found = node(forwarding(site))
    public = found.plan["node"]["public"] or "198.51.100.200"
    found.local.add(public)
    assert found.meets(packet(flow)) == expected


# What other sites, or other tests, show the worth of: without a full tunnel nobody of the VPN
# leaves, without spoofing nobody outside has such an address, without rules of the pillar nothing
# keeps the untracked direction back.
IDLE = {
    "-s 10.8.0.0/24 -o eth1 -j MASQUERADE",
    "-i eth0 -o eth0 -d 10.8.1.0/24 -m conntrack --ctstate UNTRACKED -j ACCEPT",
    "-i vpn-main -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
    "-o vpn-main -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
    "-i eth1 -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
    "-o eth1 -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
    # These count when table filter is flushed.
    "-i eth1 -o eth0 -j MARK --set-xmark 0x20000000/0x20000000",
    "-i eth1 -o vpn-main -j MARK --set-xmark 0x20000000/0x20000000",
    "-m mark --mark 0x20000000/0x20000000 -j DROP",
}


def test_no_rule_is_without_a_flow(node):
    """Each rule of the default policy decides a flow above: take it away, and it shows."""
    assert idle_rules(node(), FLOWS["example"]) == IDLE


def idle_rules(found, table):
    """The rules that decide none of these flows."""
    flows = [(packet(flow), expected) for flow, expected in table]

    def decides():
        """Whether the rules as they are treat one of the packets in another way."""
        return any(
            found.meets(replace(each, states=set(each.states), logs=[])) != expected
            for each, expected in flows
        )

    idle = set()
    for chains in found.chains.values():
        for place, rules in chains.items():
            for number, rule in enumerate(rules):
                chains[place] = [*rules[:number], *rules[number + 1 :]]
                if not decides():
                    idle.add(rule.text)
            chains[place] = rules
    return idle


# --------------------------------------------------------------------------------------------------
# Rules that somebody has flushed, until they are back

FROM_OUTSIDE = [
    "eth1 192.0.2.1>10.77.0.10 tcp/443",
    "eth1 192.0.2.1>10.8.0.6 tcp/443",
    "eth1 2001:db8::1>fd77::9 tcp/443",
    "eth1 2001:db8::1>fd08::9 tcp/443",
]


@pytest.mark.parametrize("flow", FROM_OUTSIDE)
@pytest.mark.parametrize("table", ["raw", "mangle", "nat", "filter"])
def test_without_one_of_its_tables_a_node_lets_nobody_in(node, table, flow):
    found = node()
    for chains in found.chains.values():
        chains.update({place: [] for place in chains if place[0] == table})
    assert found.meets(packet(flow)) == ("gated" if table == "mangle" else "dropped")


def test_without_our_rules_nothing_is_forwarded(node):
    found = node()
    for chains in found.chains.values():
        chains.update({place: [] for place in chains})
    forwarded = [*FROM_OUTSIDE, "eth0 10.77.0.10>192.0.2.1 tcp/443", "eth0 fd77::9>2001:db8::1 gre"]
    assert {found.meets(packet(flow)) for flow in forwarded} == {"gated"}
    assert found.meets(packet("self 10.77.0.2>192.0.2.1 tcp/443")) == "nobody says"


CLOSED = [
    *((flow, "gated") for flow in FROM_OUTSIDE),
    ("eth0 10.77.0.10>192.0.2.1 tcp/443", "gated"),
    ("docker0 172.17.0.2>192.0.2.1 tcp/443", "gated"),
    ("eth1 192.0.2.1>198.51.100.2 tcp/443", "dropped"),  # a port forward
    ("eth1 192.0.2.1>198.51.100.2 udp/1194", "dropped"),
    ("eth1 192.0.2.99>198.51.100.2 tcp/22", "dropped"),
    ("eth1 203.0.113.9>198.51.100.2 tcp/22", "accepted"),
    ("eth1 192.0.2.5>198.51.100.2 tcp/22", "accepted"),  # of a group: there are no sets
    ("eth1 192.0.2.1>198.51.100.2 tcp/4506 ESTABLISHED", "accepted"),
    ("eth1 192.0.2.1>198.51.100.2 icmp/8", "accepted"),
    ("eth0 10.77.0.10>10.77.0.2 tcp/22", "accepted"),
    ("eth0 10.77.0.10>10.77.0.2 udp/53", "dropped"),
    ("eth0 0.0.0.0>255.255.255.255 udp/67 from=68", "dropped"),
    ("vpn-main 10.8.0.6>10.77.0.2 udp/53", "dropped"),
    ("eth0 10.77.0.3>10.77.0.2 112 hops=255", "accepted untracked"),
    ("eth0 10.77.0.66>10.77.0.2 112 hops=255", "dropped"),
    ("eth2 10.99.0.9>10.77.0.2 tcp/22", "nobody says"),
    ("lo 10.77.0.1>10.77.0.1 tcp/9999", "accepted"),
    ("eth1 2001:db8::1>fd51::1 tcp/22", "dropped"),
    ("eth1 fe80::1>fd51::1 icmp/135 hops=255", "accepted"),
    ("eth1 fe80::1>fd51::1 udp/546 from=547", "accepted"),
    ("eth1 192.0.2.1>198.51.100.2 udp/68 from=67", "dropped"),
    ("eth0 fd77::9>fd77::1 udp/53", "dropped"),
]


@pytest.mark.parametrize(("flow", "expected"), CLOSED)
def test_closed(node, flow, expected):
    """What is in force where the rules cannot be loaded."""
    ssh = {"ssh": {"from": ["few", "203.0.113.9"]}, "groups": {"few": ["192.0.2.0/29"]}}
    found = closed(node({"firewall": ssh | {"input": [{"from": "public", "ports": 8080}]}}))
    assert found.meets(packet(flow)) == expected


def test_a_closed_node_keeps_the_address_that_it_gets_by_dhcp(node):
    found = closed(node({"nodes:gw1:public": ..., "nodes:gw2:public": ...}))
    flow = "198.51.100.1>255.255.255.255 udp/68 from=67"
    assert found.meets(packet(f"eth1 {flow}")) == "accepted"
    assert found.meets(packet(f"eth0 {flow}")) == "dropped"


def closed(found):
    found.chains = {
        version: read_rules(found.texts[f"closed{version}"], version) for version in (4, 6)
    }
    found.sets = {}
    return found


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        ("eth0 10.77.0.10>10.77.0.2 tcp/22", "accepted"),
        ("eth0 10.77.0.11>10.77.0.2 tcp/22", "dropped"),
        ("eth1 10.77.0.10>198.51.100.2 tcp/22", "dropped"),  # forged
        ("eth2 10.77.0.10>10.77.0.2 tcp/22", "dropped"),
        ("vpn-main 10.8.0.6>10.77.0.2 tcp/22", "accepted"),
        ("vpn-main 10.8.0.5>10.77.0.2 tcp/22", "dropped"),
        ("eth1 192.0.2.5>198.51.100.2 tcp/22", "dropped"),
        ("eth1 100.64.250.1>198.51.100.2 tcp/22", "dropped"),  # the last one of a long group
        ("eth1 203.0.113.9>198.51.100.2 tcp/22", "accepted"),
        ("eth1 203.0.113.9>198.51.100.2 tcp/8080", "dropped"),
        ("eth1 203.0.113.9>198.51.100.2 udp/22", "dropped"),
        ("eth0 fd77::9>fd77::1 tcp/22", "dropped"),
    ],
)
def test_closed_is_no_more_open_for_ssh_than_the_pillar(node, flow, expected):
    bad = [f"100.64.{n}.1" for n in range(251)]
    rules = [
        {"from": "bad", "action": "drop"},
        {"from": "backend01", "ports": "20-30", "limit": "9/minute"},
        {"from": "internal", "ports": 22, "action": "reject"},
        {"from": "10.8.0.5", "proto": "both", "ports": [80, 22], "action": "drop"},
        {"from": "203.0.113.9", "ports": 8080},
        {"from": "vpn", "ports": 22, "proto": "udp", "action": "drop"},
    ]
    ssh = {"from": ["203.0.113.9", "100.64.0.0/10"]}
    firewall = {"input": rules, "groups": {"bad": [*bad, "192.0.2.5"]}, "ssh": ssh, "log": True}
    found = closed(node({"firewall": firewall}))
    assert found.meets(packet(flow)) == expected
    assert "LOG" not in found.texts["closed4"]


def test_the_closed_rules_need_nothing_that_was_wrong_with_the_others(node):
    """No sets, no lines of the pillar's, no NAT; a group of thousands does not make it long."""
    many = [f"10.{n // 256}.{n % 256}.0/24" for n in range(3000)]
    raw = {"filter": {"INPUT": ["-s 192.0.2.77 -j ACCEPT"]}}
    firewall = {"ssh": {"from": "many"}, "groups": {"many": many}, "raw": raw}
    texts = node({"firewall": firewall}).texts
    for family in ("closed4", "closed6"):
        assert "--match-set" not in texts[family]
        assert "192.0.2.77" not in texts[family]
        assert len(texts[family].splitlines()) < 300


# Networks behind clients: 10.50.0.0/24, whose client is connected to gw1 or to gw2, and
# 10.60.0.0/24, whose client is at gw2.
BRANCHES = {
    "vpn:clients": {
        "branch": {"networks": ["10.50.0.0/24"]},
        "shop": {"networks": ["10.60.0.0/24"]},
    },
    "firewall": {"spoof_protection": False},
}
BRANCH_FLOWS = {
    "here": [
        # Between it and the internal network a node may see one direction only: both go untracked.
        ("eth0 10.77.0.10>10.50.0.5 tcp/22", "accepted untracked"),
        ("vpn-main 10.50.0.5>10.77.0.10 tcp/22", "accepted untracked"),
        ("vpn-main 10.50.0.5>10.77.0.10 tcp/22 INVALID", "accepted untracked"),
        ("vpn-main 10.50.0.5>10.8.0.6 tcp/22", "accepted"),
        ("vpn-main 10.8.0.6>10.50.0.5 tcp/22", "accepted"),
        ("vpn-main 10.50.0.5>10.8.0.6 tcp/22 INVALID", "dropped"),
        ("eth0 10.8.1.6>10.50.0.5 tcp/22", "accepted"),
        ("eth0 10.60.0.5>10.50.0.5 tcp/22", "accepted"),
        ("vpn-main 10.50.0.5>10.60.0.5 tcp/22", "accepted dscp=63"),
        # What the peer has sent on arrives as it was.
        ("eth0 10.77.0.10>10.50.0.5 tcp/22 dscp=63", "accepted untracked"),
        ("eth0 10.77.0.10>10.50.0.5 tcp/22 dscp=10", "accepted dscp=10 untracked"),
        ("eth0 10.60.0.5>10.50.0.5 tcp/22 dscp=63", "accepted"),
        # The gateway's own services, but not the internet. It sees both directions of what is its
        # own, so that is tracked, as are answers to what it asks itself.
        ("vpn-main 10.50.0.5>10.77.0.1 udp/53", "accepted"),
        ("vpn-main 10.50.0.5>10.77.0.2 udp/40000 ESTABLISHED", "accepted"),
        ("vpn-main 10.50.0.5>192.0.2.1 tcp/443", "refused"),
        # A forward too: its answer comes to this node itself.
        (
            "vpn-main 10.50.0.5>198.51.100.2 tcp/443",
            "accepted at 10.77.0.10:443 as 10.77.0.2",
        ),
        ("eth0 10.77.0.10>10.77.0.2 tcp/40000 ESTABLISHED", "accepted"),
        ("eth1 192.0.2.1>198.51.100.2 tcp/443", "accepted at 10.77.0.10:443"),
        ("eth9 10.50.0.5>10.77.0.10 tcp/22", "dropped"),
        ("eth9 10.50.0.5>192.168.9.2 tcp/22", "dropped"),
        # Nobody outside has such an address, nor a way to it.
        ("eth1 10.50.0.5>10.77.0.10 tcp/22", "dropped"),
        ("eth1 10.50.0.5>10.8.0.6 tcp/22", "dropped"),
        ("eth1 10.50.0.5>198.51.100.2 udp/1194", "dropped"),
        ("eth1 192.0.2.1>10.50.0.5 tcp/22", "dropped"),
        ("docker0 172.17.0.2>10.50.0.5 tcp/22", "dropped"),
    ],
    "at the peer": [
        # It goes on to the peer, with a mark; with that mark it does not go back.
        ("eth0 10.77.0.10>10.50.0.5 tcp/22", "accepted dscp=63 untracked"),
        ("vpn-main 10.8.0.6>10.50.0.5 tcp/22", "accepted dscp=63"),
        ("eth0 10.77.0.10>10.50.0.5 tcp/22 dscp=63", "dropped"),
        ("eth0 10.8.1.6>10.50.0.5 tcp/22 dscp=63", "dropped"),
        ("eth0 10.50.0.5>10.8.0.6 tcp/22", "accepted"),
        ("eth0 10.50.0.5>192.0.2.1 tcp/443", "refused"),
        ("eth0 10.50.0.5>10.77.0.1 udp/53", "accepted"),
        ("eth0 10.50.0.5>10.77.0.2 udp/40000 ESTABLISHED", "accepted"),
        ("eth1 10.50.0.5>10.77.0.10 tcp/22", "dropped"),
        ("eth1 192.0.2.1>10.50.0.5 tcp/22", "dropped"),
    ],
}


@pytest.fixture
def branch(node):
    """gw1 of a site with networks behind clients; whether the branch's client is there."""

    def connected(here, name="gw1"):
        found = node(BRANCHES, name)
        halves = dict.fromkeys(("10.50.0.0/25", "10.50.0.128/25"), "vpn-main") if here else {}
        found.routes = halves | found.routes
        return found

    return connected


@pytest.mark.parametrize(
    ("where", "flow", "expected"),
    [(where, flow, expected) for where, flows in BRANCH_FLOWS.items() for flow, expected in flows],
)
def test_networks_behind_clients(branch, where, flow, expected):
    assert branch(where == "here").meets(packet(flow)) == expected


def test_no_rule_for_networks_behind_clients_is_without_a_flow(branch):
    idle = [idle_rules(branch(where == "here"), flows) for where, flows in BRANCH_FLOWS.items()]
    # As in IDLE: only a rule of the pillar would keep the untracked direction back.
    assert {rule for rule in set.intersection(*idle) if "10.50.0.0/24" in rule} == {
        "-i eth0 -o eth0 -d 10.50.0.0/24 -m conntrack --ctstate UNTRACKED -j ACCEPT"
    }


# State sync over eth3. While the link is down, the way to the peer's address there is the default
# route. Rules of the pillar and spoof protection are no part of what keeps it closed.
LINK = {
    "public:virtual_ip": "198.51.100.10",
    "state_sync": {"interface": "eth3"},
    "nodes:gw1:sync": "10.78.0.2",
    "nodes:gw2:sync": "10.78.0.3",
    "firewall": {
        "spoof_protection": False,
        "input": [{"ports": "1-65535", "proto": "both", "action": "accept"}],
    },
}
LINK_FLOWS = {
    "up": [
        ("eth3 10.78.0.3>10.78.0.2 udp/3780", "accepted untracked"),
        ("self 10.78.0.2>10.78.0.3 udp/3780", "nobody says untracked"),
        # Nobody else on the link, from nowhere else, to no other address.
        ("eth3 10.78.0.9>10.78.0.2 udp/3780", "dropped"),
        ("eth3 10.78.0.3>10.77.0.2 udp/3780", "dropped"),
        ("eth3 10.77.0.3>10.78.0.2 udp/3780", "dropped"),
        ("eth3 fe80::3>fd77::1 udp/3780", "dropped"),
        ("eth0 10.77.0.3>10.77.0.2 udp/3780", "dropped"),
        ("eth0 10.77.0.3>10.78.0.2 udp/3780", "dropped"),
        ("eth0 10.78.0.3>10.78.0.2 udp/3780", "dropped"),
        ("eth0 fd77::9>fd77::1 udp/3780", "dropped"),
        ("vpn-main 10.8.0.6>10.77.0.2 udp/3780", "dropped"),
        ("docker0 172.17.0.2>10.78.0.2 udp/3780", "dropped"),
        # No program of the node's own either, whatever address it takes.
        ("lo 10.78.0.2>10.78.0.2 udp/3780", "dropped"),
        ("lo 10.78.0.3>10.78.0.2 udp/3780", "dropped"),
        # The peer's address is on the link alone, and so is the node's.
        ("eth0 10.78.0.3>10.77.0.2 tcp/22", "dropped"),
        ("eth0 10.78.0.3>192.0.2.1 tcp/443", "dropped"),
        ("eth1 10.78.0.3>198.51.100.2 tcp/22", "dropped"),
        ("eth0 10.77.0.10>10.78.0.2 tcp/22", "dropped"),
        ("docker0 172.17.0.2>10.78.0.2 tcp/22", "dropped"),
        ("lo 10.78.0.2>10.78.0.2 tcp/22", "accepted"),
        # What else the nodes say on it is left to the machine's own rules.
        ("eth3 10.78.0.3>10.78.0.2 icmp/8", "nobody says"),
        # It leads nowhere.
        ("docker0 172.17.0.2>10.78.0.3 tcp/22", "dropped"),
        ("docker0 fd17::2>fd78::3 tcp/22", "dropped"),
        ("eth0 10.77.0.10>10.78.0.3 udp/3780", "refused"),
        ("eth3 10.78.0.3>172.17.0.2 tcp/22", "dropped"),
        ("eth3 10.78.0.3>192.0.2.1 tcp/443", "dropped"),
        ("eth3 10.78.0.3>10.77.0.10 tcp/443", "dropped"),
        ("eth3 fd78::3>fd17::2 tcp/443", "dropped"),
    ],
    "down": [
        ("self 10.78.0.2>10.78.0.3 udp/3780", "dropped"),
        ("eth1 10.78.0.3>10.78.0.2 udp/3780", "dropped"),
        ("eth1 10.78.0.3>198.51.100.2 udp/3780", "dropped"),
        ("eth0 10.78.0.3>10.78.0.2 udp/3780", "dropped"),
    ],
}


@pytest.fixture
def linked(node):
    """gw1 with a link of the nodes' own; whether that is up."""

    def found(up):
        gateway = node(LINK)
        gateway.local.add("10.78.0.2")
        gateway.routes |= {"10.78.0.0/24": "eth3", "fd78::/64": "eth3"} if up else {}
        return gateway

    return found


@pytest.mark.parametrize(
    ("where", "flow", "expected"),
    [(where, flow, expected) for where, flows in LINK_FLOWS.items() for flow, expected in flows],
)
def test_the_link_of_state_sync(linked, where, flow, expected):
    assert linked(where == "up").meets(packet(flow)) == expected


def test_no_rule_for_the_link_is_without_a_flow(linked):
    idle = [idle_rules(linked(where == "up"), flows) for where, flows in LINK_FLOWS.items()]
    ours = re.compile("eth3|3780|10[.]78[.]")
    assert {rule for rule in set.intersection(*idle) if ours.search(rule)} == set()


def test_the_standby_translates_for_its_own_clients_alone(node):
    """A client of gw1's never leaves through gw2; the node itself keeps its address."""
    gw2 = node(SITES["full tunnel"], "gw2")
    assert gw2.meets(packet("vpn-main 10.8.1.6>192.0.2.1 tcp/443")) == "accepted as eth1"
    assert gw2.meets(packet("eth0 10.8.0.6>192.0.2.1 tcp/443")) == "accepted"
    assert gw2.meets(packet("self 10.77.0.3>192.0.2.1 tcp/443")) == "nobody says"
    assert gw2.meets(packet("eth0 10.77.0.10>10.8.0.6 tcp/22 INVALID")) == "accepted untracked"
    assert gw2.meets(packet("eth0 10.77.0.2>10.77.0.3 112")) == "accepted untracked"


def test_three_nodes(node):
    third = {"nodes:gw3": {"id": 7, "internal": "10.77.0.4", "public": "198.51.100.4"}}
    found = node(third)
    for peer in ("10.77.0.3", "10.77.0.4"):
        assert found.meets(packet(f"eth0 {peer}>10.77.0.2 112")) == "accepted untracked"
    for client in ("10.8.1.6", "10.8.6.6"):
        assert (
            found.meets(packet(f"eth0 10.77.0.10>{client} tcp/22 INVALID")) == "accepted untracked"
        )


def test_nobody_elsewhere_is_taken_for_somebody_inside(node):
    """Whoever a rule names by an address of the inside: elsewhere nobody has it."""
    found = node(
        {
            "vpn:clients": {"alice": {"id": 9}, "branch": {"networks": ["10.50.0.0/24"]}},
            "firewall": {
                "spoof_protection": False,
                "groups": {"admins": ["alice", "backend01", "branch"]},
                "input": [{"from": ["admins", "vpn", "alice", "10.77.0.11"], "ports": 9100}],
                "forward": [{"from": ["admins", "main"], "to": "public"}],
            },
        }
    )
    for source, inside in [
        *(("10.8.0.9", side) for side in ("vpn-main",)),
        *(("10.8.1.9", side) for side in ("eth0", "vpn-main")),
        *(("10.50.0.5", side) for side in ("eth0", "vpn-main")),
        ("10.77.0.10", "eth0"),
    ]:
        for interface in ("eth0", "vpn-main", "eth1", "eth9", "vpn-other"):
            there = interface == inside or (source, interface) in {
                ("10.8.1.9", "eth0"),
                ("10.8.1.9", "vpn-main"),
                ("10.50.0.5", "eth0"),
                ("10.50.0.5", "vpn-main"),
            }
            expected = "accepted" if there else "dropped"
            flow = f"{interface} {source}>198.51.100.2 tcp/9100"
            assert found.meets(packet(flow)) == expected, flow
            flow = f"{interface} {source}>192.0.2.1 tcp/443"
            assert found.meets(packet(flow)).split(" as ")[0] == expected, flow


def test_router_advertisements_where_the_pillar_wants_them(node):
    found = node({"public:accept_ra": True})
    assert found.meets(packet("eth1 fe80::1>fd51::1 icmp/134 hops=255")) == "accepted"
    assert found.meets(packet("eth1 fe80::1>fd51::1 icmp/134 hops=64")) == "dropped"
    assert found.meets(packet("eth0 fe80::1>fd77::1 icmp/134 hops=255")) == "refused"


@pytest.mark.parametrize("site", SITES)
def test_only_tunnels_of_ours_are_the_inside(node, site):
    """An interface of a user's may be called alike."""
    assert "vpn-+" not in node(SITES[site]).texts["v4"] + node(SITES[site]).texts["v6"]


@pytest.mark.parametrize("site", SITES)
def test_what_accepts_a_new_connection_names_the_way_it_comes(node, site):
    """Itself, or by an address that chain SOURCES has asked about."""
    plan = node(SITES[site]).plan
    for kind in ("input", "forward", "egress_allowed", "raw"):  # the pillar's say what they like
        plan["firewall"][kind] = []
    found = Node(plan)
    networks = found.plan["vpn"]["servers"]
    asked = {("-s", (server["network"],)) for server in networks} | {("-s", ("10.77.0.0/24",))}
    for chains in found.chains.values():
        for place, rules in chains.items():
            for rule in rules:
                if rule.target not in ("ACCEPT", "CT") or place[1] in ("OUTPUT", "INSIDE"):
                    continue
                if rule.values("--ctstate") == ("RELATED,ESTABLISHED",):
                    continue
                named = {(option, values) for _, option, values in rule.matches}
                assert rule.values("-i") or named & asked, rule.text


# --------------------------------------------------------------------------------------------------
# What is logged


def logs(node, flow):
    found = packet(flow)
    node.meets(found)
    return found.logs


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        ("eth1 192.0.2.1>198.51.100.2 tcp/22", ["gateway input: "]),
        ("eth1 192.0.2.1>10.77.0.1 tcp/22", ["gateway input: "]),
        ("eth1 10.77.0.9>198.51.100.2 tcp/22", []),  # spoof protection does not log
        ("eth9 10.77.0.9>192.168.9.2 tcp/22", ["gateway input: "]),
        ("eth9 10.77.0.9>10.77.0.10 tcp/22", ["gateway forward: "]),
        ("eth1 10.8.99.1>198.51.100.2 tcp/22", ["gateway source: "]),
        ("eth1 10.8.99.1>10.77.0.10 tcp/22", ["gateway source: "]),
        ("eth0 10.77.0.10>10.77.0.1 tcp/80", ["gateway input: "]),
        ("vpn-main 10.8.0.6>192.0.2.1 tcp/80", ["gateway forward: "]),
        ("eth1 192.0.2.1>10.77.0.10 tcp/22", ["gateway forward: "]),
        ("docker0 172.17.0.2>10.77.0.10 tcp/22", ["gateway forward: "]),
        ("eth1 2001:db8::1>fd51::1 tcp/22", ["gateway input: "]),
        ("eth1 192.0.2.1>198.51.100.2 tcp/22 over", []),
        ("eth0 10.77.0.10>192.0.2.1 tcp/443", []),
        ("eth0 10.77.0.10>10.77.0.1 udp/53", []),
    ],
)
def test_what_is_refused_is_logged(node, flow, expected):
    assert logs(node({"firewall": {"log": True}}), flow) == expected
    assert logs(node(), flow) == []


def test_what_a_1_to_1_address_does_not_let_in_is_logged(node):
    changes = {key: value for key, value in RICH.items() if key.startswith("public")}
    one_to_one = {"nat:one_to_one": RICH["nat:one_to_one"], "firewall": {"log": True}}
    assert logs(node(changes | one_to_one), "eth1 192.0.2.1>198.51.100.12 tcp/443") == [
        "gateway forward: "
    ]


@pytest.mark.parametrize("interface", ["eth0", "vpn-main", "eth1", "docker0"])
def test_what_may_leave_comes_from_inside(node, interface):
    """Whatever addresses the list names: the public side is not led back to the public side."""
    listed = [{"from": ["203.0.113.0/24", "2001:db8:9::/64"]}]
    rules = {"egress": "deny", "egress_allowed": listed, "spoof_protection": False}
    found = node({"firewall": rules})
    expected = {"eth1": "dropped", "docker0": "nobody says"}.get(interface, "accepted")
    for flow in ("203.0.113.9>192.0.2.1 tcp/443", "2001:db8:9::9>2001:db8::1 tcp/443"):
        assert found.meets(packet(f"{interface} {flow}")) == expected


def test_logs_of_rules(node):
    rules = {
        "egress": "deny",
        "egress_allowed": [{"ports": 443, "log": True}],
        "input": [{}, {"from": "public", "ports": 25, "action": "drop", "log": True}],
        "forward": [{"from": "internal", "proto": "udp", "action": "reject", "log": True}],
        "log_limit": "7/minute",
    }
    found = node({"firewall": {**rules, "input": rules["input"][1:]}})
    for flow, expected in [
        ("eth1 192.0.2.1>198.51.100.2 tcp/25", "gateway input:0 drop: "),
        ("eth0 10.77.0.10>192.0.2.1 udp/53", "gateway forward:0 reject: "),
        ("eth0 10.77.0.10>192.0.2.1 tcp/443", "gateway egress:0 accept: "),
        ("eth0 fd77::9>2001:db8::1 udp/53", "gateway forward:0 reject: "),
    ]:
        assert logs(found, flow) == [expected]
    assert logs(found, "eth1 192.0.2.1>198.51.100.2 tcp/26") == []
    assert found.texts["v4"].count("--limit 7/minute ") == found.texts["v4"].count("-j LOG ")


# --------------------------------------------------------------------------------------------------
# The size of segments


@pytest.mark.parametrize(
    ("flow", "clamped"),
    [
        ("vpn-main 10.8.0.6>10.77.0.10 tcp/443", True),
        ("eth0 10.77.0.10>10.8.0.6 tcp/443", True),
        ("vpn-main fd08::9>fd77::9 tcp/443", True),
        ("eth0 10.77.0.10>192.0.2.1 tcp/443", True),
        ("eth1 198.51.100.50>198.51.100.2 tcp/443", True),
        ("eth1 2001:db8::1>fd77::9 tcp/443", True),
        ("eth9 192.168.9.9>172.17.0.2 tcp/443", False),
        ("eth0 10.77.0.10>172.17.0.2 tcp/443", False),
        ("vpn-main 10.8.0.6>10.77.0.10 udp/443", False),
        ("eth0 10.77.0.10>192.0.2.1 udp/443", False),
    ],
)
def test_segments_fit_into_a_tunnel_and_the_uplink(node, flow, clamped):
    for mss, expected in (("pmtu", "pmtu"), (1300, "pmtu 1300")):
        found = packet(flow)
        node({"firewall": {"mss": mss}}).meets(found)
        assert found.mss == (expected if clamped else "")


def test_a_fixed_size_only_replaces_larger_ones(node):
    def clamps(found):
        rules = found.chains[4]["mangle", "FORWARD"]
        return [rule.values("--mss") for rule in rules if rule.target == "TCPMSS"]

    # On the uplink and in the tunnel, in both directions; what fits into the path always counts.
    assert clamps(node({"firewall": {"mss": 1300}})) == [(), ("1301:65535",)] * 4
    assert clamps(node()) == [()] * 4
    assert clamps(node({"vpn": ...})) == [()] * 2


# --------------------------------------------------------------------------------------------------
# Bridges (test/flows/test_bridge.py sends frames through one)


def test_only_a_node_that_needs_it_asks_for_bridged_frames(plan):
    """The match makes the kernel load a module, with which every bridge's frames pass iptables."""
    found = plan()
    assert "physdev" not in str(_gateway_rules.ruleset(found))
    texts = _gateway_rules.ruleset(found, ["eth0"])
    for family in ("v4", "v6"):
        assert "-A GATEWAY-FORWARD -i eth0 -o eth0 -m physdev --physdev-is-bridged -j ACCEPT" in (
            texts[family].splitlines()
        )
        closed = texts[f"closed{family[1]}"]
        assert "physdev" not in closed
        assert closed.index("-i eth0 -o eth0 -j ACCEPT") < closed.index("FORWARD -j DROP")


@pytest.mark.parametrize(
    "flow", ["eth0 203.0.113.9>10.77.0.1 udp/53", "eth0 fd99::9>fd77::1 udp/53"]
)
def test_a_bridge_does_not_make_forged_sources_welcome(plan, flow):
    for bridges in ([], ["eth0"]):
        found = Node(plan(), bridges)
        assert found.meets(packet(flow)) == "dropped"
    on = flow.replace("10.77.0.1", "192.0.2.1").replace("fd77::1", "2001:db8::1")
    assert found.meets(packet(on)) == "dropped"
    # Without the protection nobody looks.
    careless = Node(plan({"firewall": {"spoof_protection": False}}), ["eth0"])
    assert careless.meets(packet(flow)) == "accepted"


# --------------------------------------------------------------------------------------------------
# The texts


@pytest.mark.parametrize("site", SITES)
def test_both_families_have_the_same_chains(node, site):
    """Empty ones as well: the jumps to them never change. Of each chain that is written in there is
    one: a part for another one would be lost."""
    found = node(SITES[site])
    chains = [(table, chain) for table, names in CHAINS.items() for chain in names]
    assert list(found.chains[4]) == list(found.chains[6]) == chains
    assert set(chains) >= {*_gateway_rules.POLICY, *_gateway_rules.CLOSED}


def notes(text):
    """The comment line over each rule, and the rule, in their order."""
    note = ""
    for line in text.splitlines():
        if line.startswith("#"):
            note = line[2:]
        elif line.startswith("-A"):
            yield note, line


def test_each_rule_of_the_pillar_is_below_its_key(node):
    """So that one which iptables does not take can be named."""
    found = {
        (note, line) for family in ("v4", "v6") for note, line in notes(node(RICH).texts[family])
    }
    keys = {note for note, _ in found if note.startswith("gateway:")}
    assert keys == {
        *(f"gateway:firewall:input:{n}" for n in range(11) if n != 4),  # nobody's
        *(f"gateway:firewall:forward:{n}" for n in range(11)),
        *(f"gateway:nat:forwards:{n}" for n in range(8) if n != 5),
        *(f"gateway:nat:outbound:{n}" for n in (0, 1, 2, 5)),
        "gateway:nat:one_to_one:0",
        *(f"gateway:firewall:raw:filter:{chain}:0" for chain in ("INPUT", "FORWARD", "OUTPUT")),
        "gateway:firewall:raw:nat:PREROUTING:0",
        "gateway:firewall:raw:mangle:POSTROUTING:0",
        "gateway:firewall:raw6:filter:INPUT:0",
    }
    lines = {"-A GATEWAY-OUTPUT -d 192.0.2.77 -j DROP": "gateway:firewall:raw:filter:OUTPUT:0"}
    for note, line in found:
        assert ("-j DNAT" in line) <= note.startswith("gateway:nat:")
        assert lines.get(line, note) == note


def test_raw_lines_have_every_chain(node):
    """Those of the pillar's first key are of IPv4, those of the second of IPv6."""
    lines = {
        table: {
            chain: ["-m addrtype --src-type LOCAL -j RETURN"]
            for chain in chains
            if chain in BUILT_IN
        }
        for table, chains in CHAINS.items()
    }
    for key, version in (("raw", 4), ("raw6", 6)):
        before, after = node().chains, node({"firewall": {key: lines}}).chains
        for place, rules in after[version].items():
            more = place[1] in BUILT_IN
            assert len(rules) == len(before[version][place]) + more, place
        assert after[10 - version] == before[10 - version]


def test_comments(node):
    """A rule has its own; a forward without one has the name of its host. Rejecting reads none."""
    changes = {
        "firewall": {
            "input": [{"ports": 25, "action": "reject", "comment": "no mail, see RFC 5321"}],
            "forward": [{"action": "reject", "comment": "-p tcp is not meant"}],
        },
        "nat:forwards": [{"port": 80, "to": "www"}, {"port": 81, "to": "www", "comment": "shop 2"}],
    }
    found = node(changes)
    comments = [
        (rule.values("--comment"), rule.target, "".join(rule.values("-p")))
        for chain in (("filter", "INPUT"), ("filter", "FORWARD"), ("nat", "DNAT"))
        for rule in found.chains[4][chain]
        if rule.values("--comment")
    ]
    assert comments == [
        (("no mail, see RFC 5321",), "REJECT", "tcp"),
        (("-p tcp is not meant",), "REJECT", "tcp"),
        (("-p tcp is not meant",), "REJECT", ""),
        (("www",), "DNAT", "tcp"),
        (("shop 2",), "DNAT", "tcp"),
    ]


def test_a_limit_counts_each_source_for_itself(node):
    """Under a name of its own, which a new rate changes: the kernel keeps the old one's rate."""

    def limits(*rates):
        rules = [{"from": "internal", "ports": 80, "limit": rate} for rate in rates]
        found = node({"firewall": {"input": rules}}).chains[4]["filter", "INPUT"]
        return {
            rule.values("--hashlimit-name"): rule.values("--hashlimit-upto")
            for rule in found
            if rule.values("--hashlimit-mode") == ("srcip",)
        }

    assert list(limits("1/minute", "1/minute").values()) == [("1/minute",)] * 2
    assert not set(limits("1/minute")) & set(limits("2/minute"))
    assert limits("1/minute") == limits("1/minute")


def test_sets(node):
    found = node(RICH)
    groups = re.findall(r"(?m)^# gateway:firewall:groups:(\w+)\ncreate ", found.texts["sets"])
    assert groups == ["admins", "admins", "more", "more"]
    assert {tuple(map(str, members)) for members in found.sets.values()} == {
        ("192.0.2.0/24", "203.0.113.7/32"),
        ("2001:db8:1::/64",),
        ("203.0.113.7/32",),
    }


def test_groups_that_look_alike_have_sets_of_their_own(node):
    """The name of a set is short: the beginning of the group's name and a digest."""
    groups = {f"{'a' * 31}{n}": ["192.0.2.0/24", "2001:db8::/32"] for n in range(3)}
    found = node({"firewall": {"groups": groups}})
    assert len(found.sets) == 6


def test_a_set_has_room_for_a_large_group(node):
    members = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(10_000)]
    [(_, networks)] = node({"firewall": {"groups": {"many": members}}}).sets.items()
    assert len(networks) == 10_000


# --------------------------------------------------------------------------------------------------
# Who may come in

VISITORS = [
    ("198.51.100.77", 22),
    ("203.0.113.9", 22),
    ("203.0.113.9", 2222),
    ("203.0.113.7", 2222),
    ("192.0.2.200", 2222),
    ("192.0.3.1", 2222),
    ("192.0.2.1", 161),
    ("192.0.2.1", 162),
    ("192.0.2.1", 8080),
    ("192.0.2.9", 8080),
    ("192.0.2.1", 9100),
    ("192.0.2.1", 8090),
    ("192.0.2.1", 8101),
    ("192.0.2.1", 8200),
    ("192.0.2.1", 8300),
    ("192.0.2.1", 8301),
    ("192.0.2.1", 443),
    ("192.0.2.1", 8500),
    ("192.0.2.9", 8500),
    ("2001:db8:1::9", 2222),
    ("2001:db8:9::9", 2222),
    ("2001:db8:7::9", 2222),
]


@pytest.mark.parametrize(("address", "port"), VISITORS)
@pytest.mark.parametrize("site", ["default", "ssh", "rules"])
def test_who_is_let_in_says_what_the_rules_do(node, site, address, port):
    """The same answer as a packet gets that goes through the compiled rules."""
    ssh = {"ssh": {"from": ["admins", "203.0.113.9", "2001:db8:9::/64"], "port": 2222}}
    groups = {
        "groups": {
            "admins": ["192.0.2.0/24", "203.0.113.7", "2001:db8:1::/64"],
            "ours": ["198.51.100.2"],
        }
    }
    rules = {
        "input": [
            {"from": "192.0.2.9", "action": "drop"},
            {"from": "internal", "ports": 9100},
            {"from": "admins", "proto": "udp", "ports": 162},
            {"from": "admins", "proto": "both", "ports": 161},
            {"from": "public", "ports": ["8090-8100", 8080]},
            {"from": "203.0.113.7", "proto": "tcp", "action": "reject"},
            {"to": "198.51.100.9", "ports": 22},
            {"to": ["198.51.100.9", "198.51.100.2"], "ports": 8200, "action": "drop"},
            {"to": "198.51.100.9", "ports": 8300, "action": "drop"},
            {"to": "ours", "ports": 8301},
            {"from": "public", "ports": [443, 8200, 8300, 8301, 8500]},
        ]
    }
    forwards = [
        {"port": 443, "to": "backend01"},
        {"port": "8499-8510", "to": "backend01", "from": "192.0.2.9"},
        {"port": "8200-8301", "to": "backend01", "proto": "udp"},
    ]
    firewall = {"default": {}, "ssh": ssh | groups, "rules": ssh | groups | rules}[site]
    target = "fd51::1" if ":" in address else "198.51.100.2"
    # The forwards of a virtual IP are not those of the node's own address.
    virtual: dict[str, Any] = {
        "public:virtual_ip": "198.51.100.10",
        "public:addresses": ["198.51.100.12"],
    }
    virtual["nat:one_to_one"] = [{"address": "198.51.100.12", "to": "10.77.0.20"}]
    by_dhcp = {"nodes:gw1:public": ..., "nodes:gw2:public": ...}
    for changes, more in (({}, ()), (by_dhcp, ()), (virtual, ("198.51.100.10", "198.51.100.12"))):
        found = node({"firewall": firewall, "nat:forwards": forwards, **changes})
        found.local.add("198.51.100.2")
        for to in (target, *(more if ":" not in address else ())):
            accepted = found.meets(packet(f"eth1 {address}>{to} tcp/{port}")) == "accepted"
            assert _gateway_policy.lets_in(found.plan, address, port, to) is accepted


def test_with_lines_of_iptables_nobody_can_tell(node):
    raw = {"filter": {"INPUT": ["-p tcp --dport 22 -j ACCEPT"]}}
    found = node({"firewall": {"raw": raw}})
    assert _gateway_policy.lets_in(found.plan, "192.0.2.1", 22, "198.51.100.2") is True
    assert _gateway_policy.lets_in(found.plan, "2001:db8::1", 22, "fd51::1") is False
    raw = {"nat": {"PREROUTING": ["-s 192.0.2.1 -j RETURN"]}}
    found = node({"firewall": {"raw": raw}})
    assert _gateway_policy.lets_in(found.plan, "192.0.2.1", 22, "198.51.100.2") is True
