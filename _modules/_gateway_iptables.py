"""How iptables' rules and ipset's sets are written: chains, and the pen that writes into one.

A library in plain Python. It knows iptables' words and one node's interfaces and networks, and no
policy: what is accepted and refused is written with it in ``_gateway_rules``.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import _gateway_networks

# iptables' own chains; ours of the same name are called from them. Jumps are made by the loader.
BUILT_IN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
# Our chains by table, in the order in which they are loaded; the same in both families, empty or
# not. The others are called from those that a built-in chain leads to: DNAT has the forwards,
# SOURCES drops who has an address of the inside and comes from elsewhere, INSIDE accepts what stays
# inside, BRANCH what a network behind a client sends there, EGRESS what is listed of what leaves.
CHAINS = {
    "raw": ("PREROUTING", "OUTPUT", "FORGED", "ONEWAY", "OTHERS", "BRANCH"),
    "mangle": ("PREROUTING", "FORWARD", "POSTROUTING", "UNJUDGED", "CIRCLES"),
    "nat": ("PREROUTING", "POSTROUTING", "DNAT"),
    "filter": (
        *("INPUT", "FORWARD", "OUTPUT", "SOURCES", "INSIDE", "BRANCH", "EGRESS"),
        *("TOBRANCH", "TRANSLATED", "LOCAL", "TRUSTED", "HAIRPIN", "ISOLATED"),
    ),
}
PREFIX = "GATEWAY-"
# What is refused in a chain of these is logged as if it were in one that leads there.
LOGGED_AS = {"SOURCES": "source", "TRANSLATED": "forward", "ISOLATED": "input"}
# multiport(8 of iptables-extensions): 15 ports, and a range counts as two.
MULTIPORT = 15
# IPSET_MAXNAMELEN is 32 with the closing zero.
SET_NAME_LENGTH = 31
# The kernel takes 29 characters of a log's prefix; two are for ": ".
LOG_PREFIX_LENGTH = 27

_Plan = dict[str, Any]
Ports = Sequence[int]  # the first and the last
# Matches for the members of a group as sources ("s") or destinations ("d").
Members = Callable[[str, str], list[str]]


@dataclass(frozen=True)
class Gateway:
    """One node in one address family. ``log``: whether what is refused at the end is logged."""

    plan: _Plan
    version: int
    bridges: Sequence[str]
    log: bool

    @property
    def firewall(self) -> _Plan:
        """The policy of the pillar."""
        policy: _Plan = self.plan["firewall"]
        return policy

    @cached_property
    def internal(self) -> str:
        """The internal interface."""
        return str(self.plan["internal"]["interface"])

    @cached_property
    def public(self) -> str:
        """The public interface."""
        return str(self.plan["public"]["interface"])

    @cached_property
    def local(self) -> list[_Plan]:
        """All networks behind the gateway, the internal one first (``_gateway_networks.local``)."""
        return _gateway_networks.local(self.plan)

    @cached_property
    def local_networks(self) -> list[str]:
        """Their addresses, with what is behind routers in them; IPv4."""
        return [network for local in self.local for network in local["all"]]

    @cached_property
    def trusted(self) -> list[str]:
        """The interfaces of the internal network and of those with its rights."""
        return [local["interface"] for local in self.local if local["trusted"]]

    @cached_property
    def untrusted(self) -> list[str]:
        """The interfaces of the other networks."""
        return [local["interface"] for local in self.local if not local["trusted"]]

    @cached_property
    def vpn_networks(self) -> list[str]:
        """The networks of the VPN's servers, of all nodes; IPv4."""
        return [server["network"] for server in self.plan["vpn"]["servers"]]

    @cached_property
    def client_networks(self) -> list[str]:
        """The networks behind VPN clients; IPv4."""
        return list(self.plan["vpn"]["networks"])

    @cached_property
    def devices(self) -> list[str]:
        """The VPN's interfaces."""
        return [server["device"] for server in self.plan["vpn"]["servers"]]

    @cached_property
    def inside(self) -> list[str]:
        """The interfaces of those who live behind the gateway."""
        return [*(local["interface"] for local in self.local), *self.devices]

    def from_local(self, local: _Plan) -> list[str]:
        """Matches for one of the networks; clients of a peer come by the internal interface too."""
        interface = f"-i {local['interface']}"
        if self.version == 6:
            return [interface]
        return [f"{interface} -s {each}" for each in local["all"]]

    def to_local(self, local: _Plan) -> list[str]:
        """Matches for what goes to one of the networks."""
        if self.version == 4:
            return [f"-d {each}" for each in local["all"]]
        return [f"-o {local['interface']}"]

    @cached_property
    def set_names(self) -> dict[str, str]:
        """The sets of this family, by group; a group that has nobody there has none."""
        return {
            group: set_name(group, families[f"v{self.version}"], self.version)
            for group, families in self.firewall["groups"].items()
            if families[f"v{self.version}"]
        }

    def in_set(self, group: str, side: str) -> list[str]:
        """The match for a group's members, by its set."""
        name = self.set_names.get(group)
        return [f"-m set --match-set {name} {'src' if side == 's' else 'dst'}"] if name else []

    def ends(self, targets: list[_Plan], side: str, members: Members | None = None) -> list[str]:
        """Matches for the sources ("s") or destinations ("d") that this family has; [""]: any."""
        if not targets:
            return [""]
        # What several names stand for may be the same.
        found = (match for target in targets for match in self.end(target, side, members))
        return list(dict.fromkeys(found))

    def end(self, target: _Plan, side: str, members: Members | None = None) -> list[str]:
        """Matches for one of them; none where this family does not have it."""
        if "group" in target:
            return (members or self.in_set)(target["group"], side)
        address = target.get("address")
        version = target.get("family") or (address and (6 if ":" in address else 4))
        if version and version != self.version:
            return []
        interface = target.get("interface")
        return [
            joined(
                f"-{'i' if side == 's' else 'o'} {interface}" if interface else "",
                f"-{side} {address}" if address else "",
            )
        ]

    def matches(self, rule: _Plan) -> Iterator[tuple[str, str]]:
        """What the rule matches: its protocol and the rest, for each combination that it takes."""
        sources = self.ends(rule["from"], "s")
        destinations = self.ends(rule["to"], "d")
        protocols = _protocols(rule["proto"], self.version)
        ports = list(_ports(rule["ports"])) if rule["ports"] else [""]
        comment = f'-m comment --comment "{rule["comment"]}"' if rule["comment"] else ""
        for proto, *rest in product(protocols, sources, destinations, ports):
            yield proto, joined(*rest, comment)


# --------------------------------------------------------------------------------------------------
# Chains


class Pen:
    """Writes the rules of one chain, from top to bottom."""

    def __init__(self, gateway: Gateway, table: str, chain: str) -> None:
        self.gateway = gateway
        self.table = table
        self.chain = chain
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        """A comment for the rules that follow: their entry of the pillar, or what they are for."""
        self.lines.append(f"# {text}")

    def add(self, *parts: str) -> None:
        """One rule, of its matches and its target."""
        self.lines.append(joined(f"-A {PREFIX}{self.chain}", *parts))

    def rule(self, rule: _Plan) -> None:
        """A rule of the pillar's vocabulary, in table filter."""
        self.note(rule["key"])
        place = rule["key"].removeprefix("gateway:firewall:").replace("_allowed", "")
        # Per source address: one that asks too often must not lock out the others. The kernel keeps
        # the rate by this name: a new rate needs a new one.
        limit = ""
        if rule["limit"]:
            limit = (
                f"-m hashlimit --hashlimit-upto {rule['limit']} --hashlimit-mode srcip"
                f" --hashlimit-name gateway-{_digest(rule['key'], rule['limit'])}"
            )
        for proto, match in self.gateway.matches(rule):
            if rule["log"]:
                self.log(f"{place} {rule['action']}", proto, match)
            if rule["action"] == "reject":
                self.reject(proto, match, limit)
            else:
                self.add(proto, match, limit, f"-j {rule['action'].upper()}")
            if limit:
                self.add(proto, match, "-j DROP")

    def log(self, what: str, *match: str) -> None:
        """A line in the kernel's log, at a bounded rate."""
        prefix = f"gateway {what}"[:LOG_PREFIX_LENGTH] + ": "
        rate = f"-m limit --limit {self.gateway.firewall['log_limit']}"
        self.add(*match, rate, f'-j LOG --log-prefix "{prefix}"')

    def reject(self, proto: str, *match: str) -> None:
        """Say no at once: a reset for TCP, an ICMP error for the rest (RFC 4890 section 4.3.2)."""
        say = "icmp-admin-prohibited" if self.gateway.version == 4 else "icmp6-adm-prohibited"
        if proto in ("", "-p tcp"):
            self.add("-p tcp", *match, "-j REJECT --reject-with tcp-reset")
        if proto != "-p tcp":
            self.add(proto, *match, f"-j REJECT --reject-with {say}")

    def refuse(self, how: str, *match: str) -> None:
        """The end of a chain for some packets: logged if wished, and dropped or rejected."""
        if self.gateway.log:
            self.log(LOGGED_AS.get(self.chain, self.chain.lower()), *match)
        if how == "reject":
            self.reject("", *match)
        else:
            self.add(*match, "-j DROP")


# What writes some rules of a chain; and for each table and chain all of them, from top to bottom.
Part = Callable[[Pen, Gateway], None]
Policy = Mapping[tuple[str, str], Sequence[Part]]


def ipv4(part: Part) -> Part:
    """Of a part that IPv6 does not have."""

    def only_ipv4(pen: Pen, gateway: Gateway) -> None:
        if gateway.version == 4:
            part(pen, gateway)

    return only_ipv4


def raw(pen: Pen, gateway: Gateway) -> None:
    """The pillar's own lines of iptables for this chain."""
    place = (gateway.version, pen.table, pen.chain)
    for line in gateway.firewall["raw"]:
        if (line["family"], line["table"], line["chain"]) == place:
            pen.note(line["key"])
            pen.add(line["line"])


def bridged(target: str) -> Part:
    """Frames from port to port of a bridge are no business of a router's."""

    def part(pen: Pen, gateway: Gateway) -> None:
        for bridge in gateway.bridges:
            ways = f"-o {bridge}" if pen.chain == "POSTROUTING" else f"-i {bridge} -o {bridge}"
            pen.note(f"What {bridge} itself passes on.")
            pen.add(f"{ways} -m physdev --physdev-is-bridged -j {target}")

    return part


def write(gateway: Gateway, policy: Policy) -> str:
    """The text for iptables-restore."""
    lines = []
    for table, chains in CHAINS.items():
        lines.append(f"*{table}")
        lines += [f":{PREFIX}{chain} - [0:0]" for chain in chains]
        for chain in chains:
            pen = Pen(gateway, table, chain)
            for part in policy.get((table, chain), ()):
                part(pen, gateway)
            lines += pen.lines
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"


# --------------------------------------------------------------------------------------------------
# Sets


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def set_name(group: str, members: list[str], version: int) -> str:
    """A name that changes with the members: rules and the set that they mean change together."""
    digest = _digest(group, *members)
    room = SET_NAME_LENGTH - len(f"gateway--{digest}-{version}")
    return f"gateway-{group[:room]}-{digest}-{version}"


def write_sets(plan: _Plan) -> Iterator[str]:
    """The lines for ipset restore, of both families."""
    for group, families in plan["firewall"]["groups"].items():
        for version, family in ((4, "inet"), (6, "inet6")):
            members = families[f"v{version}"]
            if not members:
                continue
            name = set_name(group, members, version)
            yield f"# gateway:firewall:groups:{group}\n"
            yield f"create {name} hash:net family {family} maxelem {max(len(members), 64)}\n"
            yield from (f"add {name} {member}\n" for member in members)


# --------------------------------------------------------------------------------------------------
# Words


def joined(*parts: str) -> str:
    """The parts of a rule that say something."""
    return " ".join(part for part in parts if part)


def joined_ports(ports: Ports, between: str) -> str:
    """One port, or the first and the last with a sign between."""
    first, last = ports
    return str(first) if first == last else f"{first}{between}{last}"


def _ports(ports: list[Ports]) -> Iterator[str]:
    """Matches for these destination ports, as few as may be."""
    if len(ports) == 1:
        yield f"--dport {joined_ports(ports[0], ':')}"
        return
    chunk: list[str] = []
    size = 0
    for first, last in ports:
        weight = 1 if first == last else 2
        if size + weight > MULTIPORT:
            yield f"-m multiport --dports {','.join(chunk)}"
            chunk, size = [], 0
        chunk.append(joined_ports((first, last), ":"))
        size += weight
    yield f"-m multiport --dports {','.join(chunk)}"


def _protocols(proto: str | None, version: int) -> list[str]:
    if proto is None:
        return [""]
    if proto == "both":
        return ["-p tcp", "-p udp"]
    if version == 6 and proto == "icmp":
        return ["-p ipv6-icmp"]
    return [f"-p {proto}"]
