"""The firewall's policy: rules, groups, egress and raw lines, as the pillar has them."""

import re
from ipaddress import ip_address, ip_network
from typing import Any

import _gateway_kinds as kinds
import _gateway_values as values
from _gateway_iptables import BUILT_IN, CHAINS
from _gateway_keys import EMPTY, Items, Key, Mapping, Rows, Values, by_name
from _gateway_machine import Plan, opening, service_unit
from _gateway_names import ADDRESSES_ONLY, EMPTY_IS_ALL, GROUP, MEMBERS, Names, ends
from _gateway_reader import Reader, Section
from _gateway_site import (
    Firewall,
    Node,
    Rule,
    Site,
    Target,
)

_PROTOCOL_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,15}")
_PROTOCOL_NUMBER = kinds.whole(1, 255)
# RFC 9293 section 3.7.1: 536 is what a host must take; 1460 is Ethernet's.
_SEGMENT = kinds.whole(536, 1460)


def _protocol(value: object) -> str:
    """A protocol by its name in /etc/protocols, or by its number; ``both`` is tcp and udp."""
    values.one(value, "one protocol (both is tcp and udp)")
    number = isinstance(value, int) and not isinstance(value, bool)
    if number or (isinstance(value, str) and values.NUMBER_PATTERN.fullmatch(value)):
        return str(_PROTOCOL_NUMBER.parse(value))
    return values.matching(_PROTOCOL_PATTERN, "a protocol such as tcp, udp, both, icmp or esp")(
        value
    )


def _mss(value: object) -> int | None:
    return None if value == "pmtu" else _SEGMENT.parse(value)


_PROTOCOL = kinds.either(
    _protocol,
    f"text, {_PROTOCOL_NUMBER.words}",
    _PROTOCOL_NUMBER.schema,
    lambda: kinds.text(_PROTOCOL_PATTERN.pattern),
)
_MSS = kinds.either(_mss, f"`pmtu`, {_SEGMENT.words}", lambda: {"const": "pmtu"}, _SEGMENT.schema)
# A line of iptables-restore, without the leading "-A CHAIN".
_LINE = kinds.matching(
    "-[ -~]{1,1000}", "the rest of an iptables rule such as -s 192.0.2.1 -j DROP", "line"
)
_RAW = Mapping(
    {
        table: Key(
            table,
            Mapping(
                {
                    chain: Key(chain, Items(_LINE, "list of lines"), EMPTY, "")
                    for chain in chains
                    if chain in BUILT_IN
                },
                table=False,
            ),
            EMPTY,
            "",
        )
        for table, chains in CHAINS.items()
    },
    "mapping of table, chain and list of lines",
    table=False,
)
PORTS = Items(kinds.PORTS, "port, range, or a list of them", EMPTY_IS_ALL)
RULE = by_name(
    Key("from", ends(), EMPTY, "Where the packet comes from.", said="anybody"),
    Key(
        "to",
        ends(),
        EMPTY,
        "Where it goes. In `input` and `egress_allowed` hosts, groups and addresses only.",
        said="anywhere",
    ),
    Key(
        "proto",
        _PROTOCOL,
        None,
        "`tcp`, `udp`, `both` (of them), `icmp` (ICMPv6 in IPv6), another name of"
        " `/etc/protocols`, or a number.",
        said="`tcp` with `ports`, else any",
    ),
    Key(
        "ports",
        PORTS,
        EMPTY,
        "Destination ports: `443`, `8000-8100`, `[80, 443, 8000-8100]`. With `tcp`, `udp` and"
        " `both`.",
        said="any",
    ),
    Key(
        "action",
        kinds.one_of("accept", "drop", "reject"),
        "accept",
        "`drop` says nothing; `reject` answers with a TCP reset or an ICMP error. Not in"
        " `egress_allowed`.",
    ),
    Key(
        "limit",
        kinds.RATE,
        None,
        "For `accept`: so many new connections of each source address, after 5 at once. What is"
        " beyond is dropped.",
    ),
    Key(
        "log",
        kinds.BOOLEAN,
        False,
        "Log what matches, as `gateway input:0 drop: ` (the number counts from 0).",
    ),
    Key("comment", kinds.COMMENT, None, "Shown by `iptables -S`."),
)
_EGRESS_RULE = {name: key for name, key in RULE.items() if name != "action"}
_RULES = "list of [rules](#gatewayfirewallinput)"
_SSH = by_name(
    Key(
        "from",
        ends(ADDRESSES_ONLY, empty=""),
        EMPTY,
        "Who may reach SSH from the public side. From the inside everybody may.",
        said="nobody",
    ),
    Key("port", kinds.PORT, 22, "The port of the gateways' SSH server."),
)
_FIREWALL = by_name(
    Key("ssh", Mapping(_SSH), EMPTY, "[ssh](#gatewayfirewallssh)."),
    Key(
        "input",
        Rows(RULE, _RULES),
        EMPTY,
        "For packets to the gateway itself.",
    ),
    Key(
        "forward",
        Rows(RULE, _RULES, table=False),
        EMPTY,
        "For packets that the gateway passes on.",
    ),
    Key(
        "egress",
        kinds.one_of("allow", "deny"),
        "allow",
        "Whether those behind the gateway may reach everything on the public side, or only what"
        " is listed.",
    ),
    Key(
        "egress_allowed",
        Rows(_EGRESS_RULE, f"{_RULES} without `action`", table=False),
        EMPTY,
        "The list, with `egress: deny`. `to` is hosts, groups or addresses. Without `from` a rule"
        " is for the networks behind the pair and the clients of full tunnels. Whatever a rule"
        " names, it is only for what comes from there.",
    ),
    Key(
        "groups",
        Values(GROUP, MEMBERS, "mapping of name to list"),
        EMPTY,
        "Named networks: [groups](#gatewayfirewallgroups).",
    ),
    Key(
        "raw",
        _RAW,
        EMPTY,
        "Lines of iptables: [raw](#gatewayfirewallraw).",
    ),
    Key("raw6", _RAW, EMPTY, "Lines of ip6tables."),
    Key(
        "log",
        kinds.BOOLEAN,
        False,
        "Log what the default policy refuses, as `gateway input: ` and `gateway forward: ` in the"
        " kernel's log; and as `gateway source: ` what has an address of a VPN and comes from"
        " elsewhere.",
    ),
    Key("log_limit", kinds.RATE, "5/second", "For each rule that logs, in all."),
    Key(
        "spoof_protection",
        kinds.BOOLEAN,
        True,
        "Drop packets from an interface to which the way back to their source does not lead."
        " Switch it off where a side has several uplinks.",
    ),
    Key(
        "mss",
        _MSS,
        None,
        "The largest TCP segment through a VPN and through the public side, in both directions."
        " With `pmtu` both ends are told what fits into the interfaces and routes on the way, so"
        " an uplink with a smaller MTU (PPPoE, tunnels, clouds) needs no setting if its interface"
        " has that MTU. Give a number (MTU less 40) where only a router further on is that narrow,"
        " and downloads hang.",
        said="`pmtu`",
    ),
    Key(
        "confirm_timeout",
        kinds.whole(5, 600, kinds.SECONDS),
        30,
        "Time until rules that cut the node off are [taken"
        " back](firewall.md#loading-and-taking-back).",
    ),
)
KEYS = (
    Key(
        "firewall",
        Mapping(_FIREWALL),
        EMPTY,
        "[firewall](#gatewayfirewall). Without it the [default"
        " policy](firewall.md#the-default-policy) is in force.",
    ),
)


def read_rule(
    section: Section,
    names: Names,
    sources: tuple[str, ...],
    destinations: tuple[str, ...],
    action: str | None = None,
) -> Rule:
    """One rule, which names things of these kinds. ``action``: where it does not say it itself."""
    ports = section.get("ports")
    rule = Rule(
        key=section.path,
        sources=section.get("from", names.target(*sources)),
        destinations=section.get("to", names.target(*destinations)),
        proto=section.get("proto", default="tcp" if ports else None),
        ports=ports,
        action=action or section.get("action"),
        limit=section.get("limit"),
        log=section.get("log"),
        comment=section.get("comment"),
    )
    if ports and rule.proto not in ("tcp", "udp", "both", None):
        section.reader.fault(section.at("ports"), "only tcp, udp and both have ports")
    if rule.limit and rule.action in ("drop", "reject"):
        section.reader.fault(section.at("limit"), f"is for accept, not for {rule.action}")
    return rule


def check_leaves(section: Section, rule: Rule) -> None:
    if Target("zone", "public") in rule.sources:
        section.reader.fault(section.at("from"), "what leaves does not come from the public side")


def read_firewall(top: Section, names: Names) -> Firewall:
    reader, section = top.reader, top.section("firewall")
    names.read_groups(section)

    def rules(key: str, destinations: tuple[str, ...]) -> tuple[Rule, ...]:
        return tuple(
            read_rule(entry, names, values.EVERYTHING, destinations)
            for entry in section.sections(key)
        )

    ssh = section.section("ssh")
    firewall = Firewall(
        confirm_timeout=section.get("confirm_timeout"),
        spoof_protection=section.get("spoof_protection"),
        log=section.get("log"),
        log_limit=section.get("log_limit"),
        mss=section.get("mss"),
        ssh_port=ssh.get("port"),
        ssh_from=ssh.get("from", names.target("group")),
        egress=section.get("egress"),
        egress_allowed=tuple(
            _read_egress(entry, names) for entry in section.sections("egress_allowed")
        ),
        groups=names.groups,
        input=rules("input", ("group",)),
        forward=rules("forward", values.EVERYTHING),
        raw=(*_read_raw(section, "raw", 4), *_read_raw(section, "raw6", 6)),
    )
    if firewall.egress_allowed and firewall.egress == "allow":
        reader.fault(section.at("egress_allowed"), "means nothing without egress: deny")
    return firewall


def claim_ssh(reader: Reader, firewall: Firewall) -> None:
    """Its port, behind those of VPN servers and forwards, where it is open to the public side."""
    if firewall.ssh_from and firewall.ssh_port:
        reader.claim("port", f"{firewall.ssh_port}/tcp", "gateway:firewall:ssh")


def _read_egress(section: Section, names: Names) -> Rule:
    rule = read_rule(section, names, values.EVERYTHING, ("group",), "accept")
    check_leaves(section, rule)
    return rule


def _read_raw(firewall: Section, key: str, family: int) -> list[tuple[int, str, str, str, str]]:
    found = []
    tables = firewall.section(key)
    for table, chains in CHAINS.items():
        section = tables.section(table)
        for chain in (chain for chain in chains if chain in BUILT_IN):
            lines = section.placed(chain)
            found += [(family, table, chain, path, line) for path, line in lines.items()]
    return found


FOR_INPUT = "what reaches it is for input rules"


def plan(site: Site, node: Node) -> dict[str, Any]:
    return {"firewall": _firewall(site, node)}


def ports(site: Site) -> dict[str, str]:
    """Where SSH is open to the public side, it has claimed its port in the pillar."""
    return {} if site.firewall.ssh_from else {f"{site.firewall.ssh_port}/tcp": "SSH"}


def openings(plan: Plan) -> list[dict[str, Any]]:
    """SSH; from elsewhere it is for `firewall:ssh:from` to say."""
    return [opening("SSH", "tcp", plan["firewall"]["ssh"]["port"], "inside")]


def units(plan: Plan) -> list[dict[str, Any]]:
    return [service_unit("gateway-firewall-guard")]


def _firewall(site: Site, node: Node) -> dict[str, Any]:
    """What ``_gateway_rules`` makes iptables' rules of. Rates are packets per unit of time."""
    firewall = site.firewall
    return {
        "confirm_timeout": firewall.confirm_timeout,
        "spoof_protection": firewall.spoof_protection,
        "log": firewall.log,
        "log_limit": firewall.log_limit,
        "mss": firewall.mss,
        "ssh": {
            "port": firewall.ssh_port,
            "from": plan_targets(site, node, firewall.ssh_from),
        },
        "egress": firewall.egress,
        "egress_allowed": plan_rules(site, node, firewall.egress_allowed, _inside(site)),
        "groups": {
            name: {
                "v4": [member for member in members if ":" not in member],
                "v6": [member for member in members if ":" in member],
            }
            for name, members in firewall.groups.items()
        },
        "input": plan_rules(site, node, firewall.input),
        "forward": plan_rules(site, node, firewall.forward),
        "raw": [
            {"family": family, "table": table, "chain": chain, "key": key, "line": line}
            for family, table, chain, key, line in firewall.raw
        ],
    }


def _inside(site: Site) -> tuple[Target, ...]:
    """Who may go to the internet through the pair unless a rule says otherwise."""
    servers = [Target("server", server.name) for server in site.vpn_servers if server.full_tunnel]
    return (*(Target("zone", local.name) for local in site.local), *servers)


def plan_rules(
    site: Site, node: Node, rules: tuple[Rule, ...], sources: tuple[Target, ...] = ()
) -> list[dict[str, Any]]:
    """Rules as plain data, with the first and the last of each range of ports; ``sources`` are
    those of a rule that names none."""
    return [
        {
            "key": rule.key,
            "from": plan_targets(site, node, rule.sources or sources),
            "to": plan_targets(site, node, rule.destinations),
            "proto": rule.proto,
            "ports": [list(ports) for ports in rule.ports],
            "action": rule.action,
            "limit": rule.limit,
            "log": rule.log,
            "comment": rule.comment,
        }
        for rule in rules
    ]


def plan_targets(site: Site, node: Node, targets: tuple[Target, ...]) -> list[dict[str, Any]]:
    """What each name stands for on this node: an interface, an address, a group, or several.

    An interface alone is of both families (IPv6 has no networks in the pillar).
    """
    return [plain for target in targets for plain in _plan_target(site, node, target)]


def _plan_target(site: Site, node: Node, target: Target) -> list[dict[str, Any]]:
    if target.kind == "group":
        return [{"group": target.name}]
    if target.kind == "network":
        return [{"address": target.name}]
    if target.kind == "host":
        return [{"address": str(ip)} for ip in site.addresses_of(target.name)]
    if target.kind == "client":
        return [{"address": address} for address in site.client_addresses[target.name]]
    # A VPN server may be called as one of these: nobody has to name it in a rule.
    if target == Target("zone", "public"):
        return [{"interface": node.public_interface}]
    local = site.local_by_name.get(target.name)
    if local and target.kind == "zone":
        interface = node.interface_in(local.name)
        return [
            *({"interface": interface, "address": str(each)} for each in local.all_networks),
            {"interface": interface, "family": 6},
        ]
    # A peer's VPN clients arrive on the internal interface, so their address decides and not the
    # interface.
    return [
        plain
        for server in site.vpn_servers
        if target in (Target("zone", "vpn"), Target("server", server.name))
        for plain in (
            {"address": str(server.network)},
            {"interface": values.DEVICE_PREFIX + server.name, "family": 6},
        )
    ]


# --------------------------------------------------------------------------------------------------
# Who may come in


def lets_in(plan: Plan, address: str, port: int, to: str) -> bool:
    """Whether ``address``, on the public side, may open TCP connections to this port of the node,
    at its address ``to``.

    True also where it cannot be told: the pillar has lines of iptables for a chain on the way.
    """
    firewall = plan["firewall"]
    version = ip_address(address).version
    chains = ("PREROUTING", "INPUT")
    if any(raw["family"] == version and raw["chain"] in chains for raw in firewall["raw"]):
        return True
    if _leads_on(plan, address, port, to):
        return False
    for rule in firewall["input"]:
        if not is_about(rule, port):
            continue
        if rule["to"] and not any(_is_from(plan, end, to) for end in rule["to"]):
            continue
        if not rule["from"] or any(_is_from(plan, source, address) for source in rule["from"]):
            return bool(rule["action"] == "accept")
    ssh = firewall["ssh"]
    return port == ssh["port"] and any(_is_from(plan, source, address) for source in ssh["from"])


def _leads_on(plan: Plan, address: str, port: int, to: str) -> bool:
    """Whether table nat leads the connection to a host behind the node."""
    nat, usual = plan["nat"], plan["public"]["virtual_ip"]
    if any(entry["address"] == to for entry in nat["one_to_one"]):
        return True
    if ip_address(to).version == 6:
        return False
    return any(
        # Without a virtual IP a forward has the node's own address.
        (forward["address"] or usual or to) == to
        and forward["proto"] == "tcp"
        and forward["ports"][0] <= port <= forward["ports"][1]
        and (not forward["from"] or any(_is_from(plan, end, address) for end in forward["from"]))
        for forward in nat["forwards"]
    )


def is_about(rule: Plan, port: int) -> bool:
    """Whether a rule of the plan is about this TCP port, whoever comes and to whatever address."""
    if rule["proto"] not in (None, "both", "tcp", "6"):
        return False
    return not rule["ports"] or any(first <= port <= last for first, last in rule["ports"])


def _is_from(plan: Plan, source: Plan, address: str) -> bool:
    """Whether an end of a rule means this address of the public side."""
    if "group" in source:
        members = plan["firewall"]["groups"][source["group"]]
        return any(_is_in(address, member) for member in members["v4"] + members["v6"])
    if "address" in source:
        return "interface" not in source and _is_in(address, source["address"])
    return bool(source["interface"] == plan["public"]["interface"])


def _is_in(address: str, network: str) -> bool:
    return ip_address(address) in ip_network(network)
