"""Rules, read as iptables reads them, and packets that meet them."""

import functools
import ipaddress
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import _gateway_rules
import pytest

# The same texts are read for each site, and the same addresses for each rule that a packet meets.
ip_address = functools.cache(ipaddress.ip_address)
ip_network = functools.cache(ipaddress.ip_network)
split = functools.cache(shlex.split)
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
    if "rpfilter" in modules and "--invert" not in words:
        matches.append((True, "--invert", ()))
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
        for number, network in enumerate(plan["networks"], 1):
            self.local |= {network["address"], network["virtual_ip"], f"fd20:{number}::1"}
            self.routes[network["network"]] = network["interface"]
            self.routes[f"fd20:{number}::/64"] = network["interface"]
        for route in plan["inside_routes"]:
            self.routes[route["destination"]] = route["interface"]
        self.ways_back = {
            (way["interface"], route["destination"])
            for way in plan["ways_back"]
            for route in way["routes"]
        }
        # A broadcast address is a local one, from whichever side somebody asks for it.
        self.broadcasts = {"255.255.255.255": ""}
        for side in (plan["internal"], *plan["networks"]):
            last = str(ip_network(side["network"]).broadcast_address)
            self.broadcasts[last] = side["interface"]
        self.routes |= {"fd08::/64": "vpn-main"}
        self.routes |= {"172.17.0.0/16": "docker0", "fd17::/64": "docker0"}
        self.routes |= {"192.168.9.0/24": "eth9"}

    def way(self, address: str, came_by: str = "") -> str:
        """The interface towards an address, for what came by an interface."""
        ip = ip_address(address)
        if any(by == came_by and ip in ip_network(network) for by, network in self.ways_back):
            return came_by
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
            if value == "BROADCAST":
                there = self.broadcasts.get(packet.destination)
                limits = ("", packet.interface) if values[1:] == ("in",) else (there,)
                return there is not None and there in limits
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
        here = packet.destination in self.local or packet.destination in self.broadcasts
        if not (here or own or is_marked(packet, GATE)):
            return "gated"
        if not here:
            packet.out = self.way(packet.destination, packet.interface)
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
def router(plan):
    """A node of the example after some changes."""
    return lambda changes=None, name="gw1": Node(plan(changes, name))


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
