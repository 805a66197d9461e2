"""What other firewalls on a node refuse although the gateway lives from it.

A library in plain Python, like ``_gateway_plan``. Packets without which a gateway is none walk
through what iptables-save and nft print: VRRP and state sync of the peers, DHCP, DNS and time of
the internal network, the VPN, and the way to the internet. Whoever drops or rejects one of them,
before our rules are asked or whatever they say, is named.

It knows what common rules match by. A rule with anything else (a mark, a rate, a set of ipset's)
counts as one that does not match: it neither refuses nor lets through.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, ip_address, summarize_address_range
from typing import Any

PREFIX = "GATEWAY-"
VRRP, TCP, UDP = 112, 6, 17
# Numbers of IANA's. A name that is not among them is none of the protocols that are looked at.
PROTOCOLS = {"icmp": 1, "tcp": TCP, "udp": UDP, "vrrp": VRRP}
# Some of the internet, instead of all: a rule for "not from 10.0.0.0/8" means it, and one against a
# single address does not.
INTERNET = IPv4Network("8.0.0.0/8")
ANY_PORT = (1024, 65535)  # what clients ask from
TABLES = ("raw", "mangle", "nat", "filter", "security")  # iptables' own
REFUSING = ("DROP", "REJECT", "TARPIT")
# A program decides then, and whom it asks is not to be seen here.
ACCEPTING = ("ACCEPT", "QUEUE", "NFQUEUE")
# The kernel follows 16 jumps (NFT_JUMP_STACK_SIZE).
DEPTH = 20

_Plan = dict[str, Any]
_Ports = tuple[int, int]
_Found = bool | None  # whether it matches; None: for some of these packets, or nobody knows


# --------------------------------------------------------------------------------------------------
# Packets


@dataclass(frozen=True)
class _Packet:
    """Packets of one kind. ``chain`` is the built-in one that decides on them."""

    what: str
    chain: str
    source: IPv4Network
    destination: IPv4Network
    proto: int
    sport: _Ports = ANY_PORT
    dport: _Ports = ANY_PORT
    into: str = ""
    out: str = ""
    state: str = "new"
    to: str = "local"  # type of the destination
    ttl: _Ports = (32, 255)

    @property
    def flags(self) -> set[str]:
        """Those of TCP."""
        return {"syn"} if self.state == "new" else {"ack"}


def _net(address: str) -> IPv4Network:
    return IPv4Network(address)


def _port(number: int) -> _Ports:
    return number, number


def _packets(plan: _Plan) -> Iterator[_Packet]:
    """What has to get through: our rules accept it, and track neither VRRP nor state sync."""
    inside, outside = plan["internal"]["interface"], plan["public"]["interface"]
    network = _net(plan["internal"]["network"])
    node, virtual_ip = _net(plan["node"]["internal"]), _net(plan["internal"]["virtual_ip"])
    public = _net(plan["node"]["public"]) if plan["node"]["public"] else INTERNET
    for instance in plan["vrrp"]["instances"]:
        own, interface = _net(instance["source"]), instance["interface"]
        for peer in instance["peers"]:
            advert = _Packet(
                f"VRRP of the peer {peer}",
                "INPUT",
                _net(peer),
                own,
                VRRP,
                into=interface,
                state="untracked",
                ttl=(255, 255),
            )
            yield advert
            yield _sent(advert, f"VRRP to the peer {peer}")
    sync = plan["sync"]
    if sync["enabled"]:
        message = _Packet(
            "state sync of the peer",
            "INPUT",
            _net(sync["peer"]),
            _net(sync["address"]),
            UDP,
            dport=_port(sync["port"]),
            into=sync["interface"],
            state="untracked",
        )
        yield message
        yield _sent(message, "state sync to the peer")
    if plan["dhcp"]["enabled"]:
        yield _Packet(
            "DHCP",
            "INPUT",
            _net("0.0.0.0"),
            _net("255.255.255.255"),
            UDP,
            _port(68),
            _port(67),
            into=inside,
            to="broadcast",
        )
    for proto in (UDP, TCP):
        question = _Packet("DNS", "INPUT", network, virtual_ip, proto, dport=_port(53), into=inside)
        yield question
        answer = replace(question, sport=question.dport, dport=ANY_PORT, state="established")
        yield _sent(answer, "its own answers")
    yield _Packet("time", "INPUT", network, node, UDP, dport=_port(123), into=inside)
    for server in plan["vpn"]["servers"]:
        yield _Packet(
            f"the VPN ({server['proto']} port {server['port']})",
            "INPUT",
            INTERNET,
            public,
            PROTOCOLS[server["proto"]],
            dport=_port(server["port"]),
            into=outside,
        )
        yield _Packet(
            f"what clients of VPN server {server['name']} send to the internal network",
            "FORWARD",
            _net(server["subnet"]),
            network,
            TCP,
            into=server["device"],
            out=inside,
            to="unicast",
        )
    if plan["firewall"]["egress"] == "allow":
        way = _Packet(
            "the way to the internet",
            "FORWARD",
            network,
            INTERNET,
            TCP,
            dport=_port(443),
            into=inside,
            out=outside,
            to="unicast",
        )
        yield way
        yield replace(way, proto=UDP)
        yield _Packet(
            "the answers of the internet",
            "FORWARD",
            INTERNET,
            network,
            TCP,
            _port(443),
            into=outside,
            out=inside,
            state="established",
            to="unicast",
        )
    yield _Packet(
        "the answers to this node's own questions",
        "INPUT",
        INTERNET,
        public,
        UDP,
        _port(53),
        into=outside,
        state="established",
    )


def _sent(packet: _Packet, what: str) -> _Packet:
    """The same packet, from this node to the other end."""
    return replace(
        packet,
        what=what,
        chain="OUTPUT",
        source=packet.destination,
        destination=packet.source,
        into="",
        out=packet.into,
        to="unicast",
    )


def _arriving(packet: _Packet) -> _Packet | None:
    """The packet before it is routed; None where it does not come in, or NAT will change it."""
    if packet.chain == "OUTPUT" or (packet.chain == "FORWARD" and packet.state != "new"):
        return None
    return replace(packet, out="")


# --------------------------------------------------------------------------------------------------
# Matching: whether all packets of a kind (True), or none (False), or who knows (None)


def _not(found: _Found) -> _Found:
    return None if found is None else not found


def _any(found: list[_Found]) -> _Found:
    if any(found):
        return True
    return None if None in found else False


def _all(found: list[_Found]) -> _Found:
    if False in found:
        return False
    return None if None in found else True


def _within(ports: _Ports, first: int, last: int) -> _Found:
    if first <= ports[0] and ports[1] <= last:
        return True
    return False if last < ports[0] or ports[1] < first else None


def _in_networks(network: IPv4Network, others: list[IPv4Network]) -> _Found:
    if any(network.subnet_of(other) for other in others):
        return True
    return None if any(network.overlaps(other) for other in others) else False


def _networks(first: str, last: str) -> list[IPv4Network]:
    ends = ip_address(first), ip_address(last)
    return [net for net in summarize_address_range(*ends) if isinstance(net, IPv4Network)]


def _protocol(name: Any) -> int:
    return int(name) if str(name).isdigit() else PROTOCOLS.get(str(name), -1)


def _on(interface: str, name: str, wildcard: str) -> _Found:
    """Whether an interface has this name; nobody knows of one that there is not (yet)."""
    if not interface:
        return None
    return interface.startswith(name[:-1]) if name.endswith(wildcard) else interface == name


# --------------------------------------------------------------------------------------------------
# Rules


_Test = Callable[[_Packet], _Found]
_Verdict = tuple[str, str]  # accept, drop, return, jump or goto; where to


@dataclass(frozen=True)
class _Rule:
    """``verdict`` says what becomes of a packet that passes the tests; None: it goes on."""

    text: str
    tests: list[_Test]
    verdict: Callable[[_Packet], _Verdict | None]
    target: str = ""


@dataclass
class _Table:
    """Chains of one table: its rules are read when a packet gets there."""

    name: str
    read: Callable[[Any, "_Table"], _Rule]
    program: str  # which shows it
    lines: dict[str, list[Any]] = field(default_factory=dict)
    bases: dict[str, tuple[str, str]] = field(default_factory=dict)  # hook, policy
    sets: dict[str, Any] = field(default_factory=dict)
    rules: dict[str, list[_Rule]] = field(default_factory=dict)

    def rules_of(self, chain: str) -> list[_Rule]:
        if chain not in self.rules:
            self.rules[chain] = [self._rule(line) for line in self.lines.get(chain, [])]
        return self.rules[chain]

    def _rule(self, line: Any) -> _Rule:
        try:
            return self.read(line, self)
        except _STRANGE:
            return _Rule("", [], _always(None))


# Others may write what nobody expects here. It must not keep anything from being applied.
_STRANGE = (AttributeError, IndexError, KeyError, TypeError, ValueError)


@dataclass(frozen=True)
class _Refusal:
    """Where packets end. ``rule`` is empty for a chain's policy; ``first``: ours come behind it."""

    program: str
    table: str
    chain: str
    rule: str
    owner: str
    first: bool = False


def _walk(
    table: _Table, chain: str, packet: _Packet, ours: bool, place: int | None = None, depth: int = 0
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
            found = _walk(table, target, packet, ours, depth=depth + 1)
            if found or kind == "goto":
                return found
    return None


def _verdict(rule: _Rule, packet: _Packet) -> _Verdict:
    try:
        passes = _all([test(packet) for test in rule.tests])
        return (rule.verdict(packet) if passes else None) or ("", "")
    except _STRANGE:
        return "", ""


# --------------------------------------------------------------------------------------------------
# iptables-save

_NUMBERED: dict[str, Callable[[_Packet], _Ports]] = {
    "--dport": lambda packet: packet.dport,
    "--dports": lambda packet: packet.dport,
    "--sport": lambda packet: packet.sport,
    "--sports": lambda packet: packet.sport,
}
# Matches that say nothing by themselves: their options do.
_MATCHES = ["tcp", "udp", "multiport", "conntrack", "state", "addrtype", "ttl", "comment"]
_MATCHES += ["iprange", "pkttype"]


def _save_tables(text: str, program: str) -> list[_Table]:
    """The tables of an iptables-save, with or without counters."""
    tables: list[_Table] = []
    for line in text.splitlines():
        if line.startswith("*"):
            tables.append(_Table(line[1:], _save_rule, program))
        elif line.startswith(":"):
            chain, policy = line[1:].split()[:2]
            tables[-1].lines[chain] = []
            if policy != "-":
                tables[-1].bases[chain] = (chain, policy.lower())
        elif line.startswith(("-A ", "[")):
            rule = line.partition("] ")[2] if line.startswith("[") else line
            tables[-1].lines.setdefault(rule.split(" ", 2)[1], []).append(rule)
    return tables


def _save_rule(line: str, table: _Table) -> _Rule:
    words = (shlex.split(line) if '"' in line else line.split())[2:]
    tests: list[_Test] = []
    invert = False
    while words and words[0] not in ("-j", "-g"):
        option = words.pop(0)
        if option == "!":
            invert = True
            continue
        values = [words.pop(0)] if option == "--comment" else []
        while words and not words[0].startswith("-") and words[0] != "!":
            values.append(words.pop(0))
        test = _save_test(option, values)
        tests.append(_inverted(test) if invert else test)
        invert = False
    if not words:
        return _Rule(line, tests, _always(None))
    target = words[1]
    return _Rule(line, tests, _always(_save_verdict(words[0], target, table)), target)


def _always(verdict: _Verdict | None) -> Callable[[_Packet], _Verdict | None]:
    return lambda packet: verdict


def _inverted(test: _Test) -> _Test:
    return lambda packet: _not(test(packet))


def _save_verdict(how: str, target: str, table: _Table) -> _Verdict | None:
    if target in REFUSING:
        return "drop", ""
    if target in ACCEPTING:
        return "accept", ""
    if target == "RETURN":
        return "return", ""
    if target in table.lines:
        return ("goto" if how == "-g" else "jump"), target
    return None  # LOG, MARK and the like


def _save_test(option: str, values: list[str]) -> _Test:
    """What one option says of a packet."""
    value = values[0] if values else ""
    if option == "--comment" or (option == "-m" and value in _MATCHES):
        return lambda packet: True
    if option in ("-i", "-o"):
        return lambda packet: _on(packet.into if option == "-i" else packet.out, value, "+")
    if option in ("-s", "-d"):
        networks = [_net(value)]
        return lambda packet: _in_networks(
            packet.source if option == "-s" else packet.destination, networks
        )
    if option in ("--src-range", "--dst-range"):
        networks = _networks(*value.split("-"))
        return lambda packet: _in_networks(
            packet.source if option == "--src-range" else packet.destination, networks
        )
    if option == "-p":
        return lambda packet: value in ("all", "0") or packet.proto == _protocol(value)
    if option in _NUMBERED:
        ranges = [_range(item, ":") for item in value.split(",")]
        return lambda packet: _any([_within(_NUMBERED[option](packet), *item) for item in ranges])
    if option in ("--ctstate", "--state"):
        states = value.lower().split(",")
        return lambda packet: packet.state in states
    if option in ("--dst-type", "--src-type"):
        types = value.lower().split(",")
        return lambda packet: (packet.to if option == "--dst-type" else _from(packet)) in types
    if option == "--pkt-type":
        return lambda packet: _cast(packet) == value
    if option == "--tcp-flags":
        mask, wanted = (set(flags.lower().split(",")) for flags in values)
        return lambda packet: packet.flags & mask == wanted - {"none"}
    if option in ("--ttl-eq", "--ttl-lt", "--ttl-gt"):
        number = int(value)
        first = number + 1 if option == "--ttl-gt" else 0 if option == "--ttl-lt" else number
        last = number - 1 if option == "--ttl-lt" else 255 if option == "--ttl-gt" else number
        return lambda packet: _within(packet.ttl, first, last)
    if option == "-f":
        return lambda packet: False
    return lambda packet: None


def _range(text: str, between: str) -> _Ports:
    first, _, last = text.partition(between)
    return int(first), int(last or first)


def _from(packet: _Packet) -> str:
    """The type of the source."""
    if packet.chain == "OUTPUT":
        return "local"
    return "unspec" if packet.source == _net("0.0.0.0") else "unicast"


def _cast(packet: _Packet) -> str:
    return "broadcast" if packet.to == "broadcast" else "unicast"


def _place(table: _Table, chain: str) -> int:
    """Where the loader puts a new jump: see rules_to_do in gateway/firewall/files/firewall."""
    number = 0
    for rule in table.rules_of(chain):
        if rule.target.startswith(PREFIX):
            continue
        others = rule.target in table.lines
        if not (others or re.search(r" -[io] (docker|br-)", rule.text)):
            break
        number += 1
    return number


# --------------------------------------------------------------------------------------------------
# nft --json

_ADDRESSES: dict[str, Callable[[_Packet], IPv4Network]] = {
    "saddr": lambda packet: packet.source,
    "daddr": lambda packet: packet.destination,
}
_INTERFACES: dict[str, Callable[[_Packet], str]] = {
    "iifname": lambda packet: packet.into,
    "iif": lambda packet: packet.into,
    "oifname": lambda packet: packet.out,
    "oif": lambda packet: packet.out,
}
_WORDS: dict[str, Callable[[_Packet], str]] = {
    "nfproto": lambda packet: "ipv4",
    "protocol": lambda packet: "ip",
    "pkttype": lambda packet: {"unicast": "host"}.get(_cast(packet), "broadcast"),
}
# Statements that let a packet go on.
_PASSING = {"counter", "log", "mangle", "notrack", "ct helper", "comment", "last"}


def foreign_tables(listing: str, save: str) -> list[tuple[str, str]]:
    """The tables of nftables that are not iptables' own, as ``(family, name)``.

    listing
        Output of ``nft --json list tables``.
    save
        Output of iptables-nft-save, which shows its own tables, and says which of these names are
        somebody else's ("Table `filter' is incompatible, use 'nft' tool.").
    """
    found = []
    for item in _items(listing):
        table = item.get("table")
        if not table or table["family"] not in ("inet", "ip"):
            continue
        name = table["name"]
        shown = f"\n*{name}\n" in f"\n{save}" and f"`{name}' is incompatible" not in save
        if not (table["family"] == "ip" and name in TABLES and shown):
            found.append((table["family"], name))
    return found


def _items(text: str) -> list[dict[str, Any]]:
    try:
        items: list[dict[str, Any]] = json.loads(text or "{}").get("nftables", [])
    except ValueError:
        return []
    return items


def _nft_tables(texts: list[str]) -> list[_Table]:
    tables: dict[tuple[str, str], _Table] = {}
    for item in (item for text in texts for item in _items(text)):
        for kind, content in item.items():
            if kind not in ("chain", "rule", "set", "map"):
                continue
            key = content["family"], content["table"]
            table = tables.setdefault(key, _Table(" ".join(key), _nft_rule, "nft"))
            if kind == "rule":
                table.lines.setdefault(content["chain"], []).append(content)
            elif kind == "chain":
                table.lines.setdefault(content["name"], [])
                if "hook" in content:
                    table.bases[content["name"]] = (content["hook"], content.get("policy", ""))
            else:
                table.sets[content["name"]] = content.get("elem", [])
    return list(tables.values())


def _nft_rule(content: dict[str, Any], table: _Table) -> _Rule:
    text = f"handle {content['handle']}"
    tests: list[_Test] = []
    for statement in content["expr"]:
        ((kind, value),) = statement.items()
        if kind == "match":
            tests.append(_nft_match(value, table))
        elif kind == "vmap":
            return _Rule(text, tests, _nft_vmap(value, table))
        elif verdict := _nft_verdict(statement):
            return _Rule(text, tests, _always(verdict))
        elif kind not in _PASSING:
            tests.append(lambda packet: None)
    return _Rule(text, tests, _always(None))


def _nft_verdict(statement: dict[str, Any]) -> _Verdict | None:
    ((kind, value),) = statement.items()
    if kind in ("drop", "reject"):
        return "drop", ""
    if kind in ("accept", "queue"):
        return "accept", ""
    if kind == "return":
        return kind, ""
    return (kind, value["target"]) if kind in ("jump", "goto") else None


def _nft_vmap(vmap: dict[str, Any], table: _Table) -> Callable[[_Packet], _Verdict | None]:
    elements = _elements(vmap["data"], table)

    def verdict(packet: _Packet) -> _Verdict | None:
        for item, statement in elements or []:
            found = _nft_is(vmap["key"], _plain(item), packet)
            if found is not False:
                return _nft_verdict(statement) if found else None
        return None

    return verdict


def _elements(right: Any, table: _Table) -> list[Any] | None:
    """What the right side of a match names, one by one; None where nobody knows."""
    if isinstance(right, str) and right.startswith("@"):
        return table.sets.get(right[1:])
    if isinstance(right, dict) and "set" in right:
        inner: list[Any] = right["set"] if isinstance(right["set"], list) else [right["set"]]
        return inner
    return right if isinstance(right, list) else [right]


def _plain(item: Any) -> Any:
    return item["elem"]["val"] if isinstance(item, dict) and "elem" in item else item


def _nft_match(match: dict[str, Any], table: _Table) -> _Test:
    left, operator = match["left"], match["op"]
    items = _elements(match["right"], table)
    field = left.get("payload", {}).get("field")
    # Lists of banned addresses are long, and each packet is asked: they are read once.
    blocks = _blocks(items) if items and field in _ADDRESSES else None

    def test(packet: _Packet) -> _Found:
        if items is None or not _nft_has(left, packet):
            return None  # in neither sense
        if blocks is not None:
            found = _in_blocks(_ADDRESSES[field](packet), blocks)
        else:
            found = _any([_nft_is(left, _plain(item), packet) for item in items])
        return {"==": found, "in": found, "!=": _not(found)}.get(operator)

    return test


def _nft_has(left: dict[str, Any], packet: _Packet) -> bool:
    """Whether a packet has what is looked at: not the port of another protocol."""
    if "concat" in left:
        return all(_nft_has(part, packet) for part in left["concat"])
    if "&" in left:
        return _nft_has(left["&"][0], packet)
    protocol = left.get("payload", {}).get("protocol")
    return protocol in (None, "ip", "th") or packet.proto == PROTOCOLS.get(protocol)


def _nft_is(left: dict[str, Any], item: Any, packet: _Packet) -> _Found:
    """Whether a packet has this one value."""
    if "concat" in left:
        if not isinstance(item, dict) or "concat" not in item:
            return None
        pairs = zip(left["concat"], item["concat"], strict=True)
        return _all([_nft_is(part, value, packet) for part, value in pairs])
    if "&" in left:
        return _nft_flags(left["&"][0], left["&"][1], item, packet)
    ((kind, value),) = left.items()
    key = value.get("key", "") if kind in ("meta", "ct") else value.get("field", "")
    if kind == "payload" and not _nft_has(left, packet):
        return False
    if key in _INTERFACES:
        return _on(_INTERFACES[key](packet), str(item), "*")
    if kind == "payload" and key in _ADDRESSES:
        return _nft_address(_ADDRESSES[key](packet), item)
    if key in ("dport", "sport", "ttl"):
        ports: _Ports = getattr(packet, key)
        return _nft_number(ports, item)
    if (kind, key) in (("meta", "l4proto"), ("payload", "protocol")):
        return packet.proto == _protocol(item) if isinstance(item, (str, int)) else None
    if kind == "ct":
        return packet.state == item if key == "state" else False if key == "status" else None
    if kind == "fib":
        return packet.to == item if value["result"] == "type" else None
    if key == "flags":
        return item in packet.flags if isinstance(item, str) else None
    return _WORDS[key](packet) == item if key in _WORDS and kind == "meta" else None


def _nft_flags(left: dict[str, Any], mask: Any, wanted: Any, packet: _Packet) -> _Found:
    if left.get("payload", {}).get("field") != "flags":
        return None
    masked = packet.flags & set([mask] if isinstance(mask, str) else mask)
    return masked == {wanted} if isinstance(wanted, str) else None


def _nft_number(ports: _Ports, item: Any) -> _Found:
    if isinstance(item, dict) and "range" in item:
        first, last = item["range"]
        return _within(ports, first, last)
    return _within(ports, item, item) if isinstance(item, int) else None


def _nft_address(network: IPv4Network, item: Any) -> _Found:
    blocks = _blocks([item])
    return None if blocks is None else _in_blocks(network, blocks)


_Block = tuple[int, int]  # the first and the last address of it


def _blocks(items: list[Any]) -> list[_Block] | None:
    """Addresses, networks and ranges as nft names them; None where one is something else."""
    blocks = []
    for item in map(_plain, items):
        if isinstance(item, dict) and "range" in item:
            first, last = map(ip_address, item["range"])
        elif isinstance(item, dict) and "prefix" in item:
            network = _net(f"{item['prefix']['addr']}/{item['prefix']['len']}")
            first, last = network[0], network[-1]
        elif isinstance(item, str):
            first = last = ip_address(item)
        else:
            return None
        blocks.append((int(first), int(last)))
    return blocks


def _in_blocks(network: IPv4Network, blocks: list[_Block]) -> _Found:
    first, last = int(network[0]), int(network[-1])
    if any(low <= first and last <= high for low, high in blocks):
        return True
    return None if any(low <= last and first <= high for low, high in blocks) else False


# --------------------------------------------------------------------------------------------------
# Who refuses what

_Refusals = dict[_Refusal, dict[str, None]]


def refusals(plan: _Plan, backend: str, saves: dict[str, str], nft: list[str]) -> list[str]:
    """What others refuse and a gateway lives from, as sentences with the way out.

    backend
        In which iptables our rules are, or would be: ``nft`` or ``legacy``.
    saves
        The output of iptables-nft-save as ``nft`` and of iptables-legacy-save as ``legacy``, or "".
    nft
        The output of ``nft --json list table``, for each of ``foreign_tables``.
    """
    now: _Refusals = {}
    later: _Refusals = {}
    saved = [
        (kind == backend, table)
        for kind, text in saves.items()
        for table in _save_tables(text, f"iptables-{kind}")
    ]
    for ours, table in saved:
        if ours and table.name == "filter" and "OUTPUT" in table.bases:
            _plan_output(table, plan)
    tables = _nft_tables(nft)
    for packet in _packets(plan):
        for ours, table in saved:
            _ask_iptables(table, packet, ours, now, later)
        for table in tables:
            _note(now, _ask_nft(table, packet), packet)
    return [
        *(_sentence(refusal, "refuses", what) for refusal, what in now.items()),
        *(
            _sentence(refusal, "will, when our rules are loaded anew (at a boot), refuse", what)
            for refusal, what in later.items()
            if refusal not in now
        ),
    ]


def _plan_output(table: _Table, plan: _Plan) -> None:
    """Our chain as it will be: what it lets out need not be loaded yet."""
    chain = f"{PREFIX}OUTPUT"
    place = _place(table, "OUTPUT")
    table.lines[chain] = [
        f"-A {chain} {raw['line']}"
        for raw in plan["firewall"]["raw"]
        if (raw["family"], raw["table"], raw["chain"]) == (4, "filter", "OUTPUT")
    ]
    jump = f"-A OUTPUT -j {chain}"
    if jump not in table.lines["OUTPUT"]:
        table.lines["OUTPUT"].insert(place, jump)
    table.rules.clear()


def _note(found: _Refusals, refusal: _Refusal | None, packet: _Packet) -> None:
    if refusal:
        # In the order of the packets, each once.
        found.setdefault(refusal, {})[packet.what] = None


def _refused(
    table: _Table, chain: str, packet: _Packet, ours: bool = False, place: int | None = None
) -> _Refusal | None:
    """Who refuses a packet that enters a table by one of its base chains."""
    found = _walk(table, chain, packet, ours, place)
    # Where our jump is at the end of what was walked, our chain decides.
    policy = "accept" if place is not None else table.bases[chain][1]
    kind, where, rule = found or (policy, chain, "")
    # What our own chains refuse is the pillar's will.
    if kind != "drop" or where.startswith(PREFIX):
        return None
    return _Refusal(table.program, table.name, where, rule, _owner(table, where, rule), ours)


def _ask_iptables(
    table: _Table, packet: _Packet, ours: bool, now: _Refusals, later: _Refusals
) -> None:
    arriving = _arriving(packet)
    if arriving and "PREROUTING" in table.bases:
        _note(now, _refused(table, "PREROUTING", arriving), packet)
    if packet.chain not in table.bases:
        return
    # Ours accepts what comes in or passes; what goes out it leaves to the others.
    if not (ours and table.name == "filter") or packet.chain == "OUTPUT":
        _note(now, _refused(table, packet.chain, packet), packet)
        return
    place = _place(table, packet.chain)
    if any(rule.target.startswith(PREFIX) for rule in table.rules_of(packet.chain)):
        _note(now, _refused(table, packet.chain, packet, True), packet)
        _note(later, _refused(table, packet.chain, packet, True, place), packet)
    else:
        _note(now, _refused(table, packet.chain, packet, True, place), packet)


def _ask_nft(table: _Table, packet: _Packet) -> _Refusal | None:
    arriving = _arriving(packet)
    hooks = {"prerouting": arriving, packet.chain.lower(): packet}
    for chain, (hook, _) in table.bases.items():
        passing = hooks.get(hook)
        refusal = _refused(table, chain, passing) if passing else None
        if refusal:
            return refusal
    return None


def _owner(table: _Table, chain: str, rule: str) -> str:
    """Whose a chain is, as far as it has a name."""
    if table.name == "inet firewalld" or any(name.endswith("_direct") for name in table.lines):
        return "firewalld"
    policy_of_ufw = not rule and any(name.startswith("ufw-") for name in table.lines)
    return "ufw" if chain.startswith("ufw-") or policy_of_ufw else ""


WAYS_OUT = {
    "ufw": "`ufw disable`, and write its rules as gateway:firewall:input and forward",
    "firewalld": "`systemctl disable --now firewalld`, and write its rules as"
    " gateway:firewall:input and forward",
}


def _sentence(refusal: _Refusal, verb: str, refused: dict[str, None]) -> str:
    rule = refusal.rule.removeprefix(f"-A {refusal.chain} ")
    how = f"{refusal.program}: table {refusal.table}, chain {refusal.chain}, "
    how += f"rule {rule}" if rule else "policy drop"
    who = f"{refusal.owner} ({how})" if refusal.owner else how
    way = "take that away, or let it pass there before"
    if refusal.program == "nft":
        way = (
            "let it pass there too, by plain rules, or delete the table where it is loaded from and"
            " write its rules as gateway:firewall:input and forward"
        )
    why = "before our rules are asked" if refusal.first else "whatever our rules say"
    what = ", ".join(refused)
    return f"on this node {who} {verb} {what}, {why}: {WAYS_OUT.get(refusal.owner, way)}"
