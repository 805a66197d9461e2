"""Address translation: port forwards, 1:1, and sources on their way out."""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import _gateway_kinds as kinds
import _gateway_policy
import _gateway_values as values
from _gateway_iptables import PREFIX, Gateway, Pen, ipv4, joined_ports
from _gateway_keys import EMPTY, REQUIRED, Items, Key, Mapping, Rows, by_name
from _gateway_names import ADDRESSES_ONLY, Names, ends
from _gateway_reader import Section
from _gateway_site import (
    Forward,
    Nat,
    Network,
    Node,
    OneToOne,
    Rule,
    Site,
    text_or_none,
)

# The name of a host, or an address; ``read_nat`` looks it up.
_TARGET = kinds.either(
    values.server_address, "host, alias or address", kinds.HOST_ADDRESS.schema, kinds.NAME.schema
)
_AS_IN_RULES = "As in [rules](#gatewayfirewallinput)."
_NO_FILTER = "is not for address translation"
_FORWARD = by_name(
    Key(
        "port",
        Items(kinds.PORTS, "port, range, or a list of them", "missing"),
        REQUIRED,
        "On the public side: `443`, `[80, 443]`, `8000-8100`. Never `20:21`: YAML reads that as a"
        " number to the base of 60, here port 1221, and nobody can see it afterwards.",
    ),
    Key("proto", kinds.one_of("tcp", "udp", "both"), "tcp", ""),
    Key(
        "to",
        _TARGET,
        REQUIRED,
        "An entry of `hosts` (name or alias; of several addresses it is the first) or an address."
        " It is in a network behind the pair, and not a gateway.",
    ),
    Key(
        "to_port",
        kinds.PORT,
        None,
        "All ports of a list lead to this one; a range leads to the range that begins with it.",
        said="`port`",
    ),
    Key(
        "from",
        ends("ends but `public`, `vpn`, servers, clients"),
        EMPTY,
        "Who may use it.",
        said="anybody",
    ),
    Key(
        "address",
        Items(
            kinds.ADDRESS,
            "address, or a list of them",
            "is empty; leave it out for the virtual IP",
        ),
        EMPTY,
        "The public address: `public:virtual_ip` or one of `public:addresses`. Where a node's"
        " address comes by DHCP, it is each address of its public interface.",
        said="the virtual IP, else the node's public address",
    ),
    Key("comment", kinds.COMMENT, None, "Shown by `iptables -t nat -S`.", said="the host"),
)
_ONE_TO_ONE = by_name(
    Key(
        "address",
        kinds.ADDRESS,
        REQUIRED,
        "One of `public:addresses`; of no other item and no forward.",
    ),
    Key(
        "to",
        _TARGET,
        REQUIRED,
        "In a network behind the pair, not a gateway; in no other item.",
    ),
)
_OUTBOUND = by_name(
    Key(
        "snat",
        kinds.either(
            values.string,
            "`none`, `masquerade`, address",
            lambda: {"enum": ["none", "masquerade"]},
            kinds.ADDRESS.schema,
        ),
        REQUIRED,
        "The source keeps its address, gets that of the public interface, or gets this one:"
        " `public:virtual_ip` or one of `public:addresses`.",
    ),
    Key("from", ends("ends but `public`"), EMPTY, "", said="anybody behind the gateway"),
    Key("to", ends(ADDRESSES_ONLY), EMPTY, "", said="anywhere"),
    _gateway_policy.RULE["proto"]._replace(help=_AS_IN_RULES),
    _gateway_policy.RULE["ports"]._replace(help=_AS_IN_RULES),
    Key("comment", kinds.COMMENT, None, "Shown by `iptables -t nat -S`."),
    Key("limit", kinds.refused(_NO_FILTER), None, ""),
    Key("log", kinds.refused(_NO_FILTER), None, ""),
)
_NAT = by_name(
    Key("forwards", Rows(_FORWARD), EMPTY, "[Port forwards](#gatewaynatforwards)."),
    Key("one_to_one", Rows(_ONE_TO_ONE), EMPTY, "[1:1 NAT](#gatewaynatone_to_one)."),
    Key(
        "outbound",
        Rows(_OUTBOUND),
        EMPTY,
        "[Exceptions for what leaves](#gatewaynatoutbound).",
    ),
)
KEYS = (Key("nat", Mapping(_NAT), EMPTY, "[nat](#gatewaynat)."),)


def read_nat(
    top: Section,
    names: Names,
    inside: values.Networks,  # all of those behind the pair
    public: Network,
    gateways: set[IPv4Address | None],
) -> Nat:
    nat = top.section("nat")

    def target(value: object) -> tuple[str, IPv4Address]:
        name = names.short(values.server_address(value))
        host = names.hosts.get(name)
        try:
            ip = host.ip if host else IPv4Address(name)
        except ValueError:
            if name in names.own:
                raise ValueError(
                    f"{name} is the gateway itself; {_gateway_policy.FOR_INPUT}"
                ) from None
            hint = values.did_you_mean(name, names.hosts)
            raise ValueError(f"there is no host {name} in gateway:hosts{hint}") from None
        network = inside.holding(ip)
        if ip and inside.are_known and not network:
            shown = name if name == str(ip) else f"{name} ({ip})"
            where = f"not inside {inside.all[0]}"
            if len(inside.all) > 1:
                where = "in no network behind the pair"
            raise ValueError(f"{shown} is {where}")
        if not host:  # of a host it is said where it stands
            if ip in gateways:
                raise ValueError(f"{ip} is the gateway itself; {_gateway_policy.FOR_INPUT}")
            fault = values.no_host(ip, network) if network else None
            if fault:
                raise ValueError(fault)
        return name, ip

    one_to_one = [_read_one_to_one(entry, target, public) for entry in nat.sections("one_to_one")]
    taken = {entry.address for entry in one_to_one}
    return Nat(
        forwards=tuple(
            forward
            for entry in nat.sections("forwards")
            for forward in _read_forward(entry, names, target, public, taken)
        ),
        outbound=tuple(_read_outbound(entry, names, public) for entry in nat.sections("outbound")),
        one_to_one=tuple(one_to_one),
    )


_ParseTarget = Callable[[object], tuple[str, IPv4Address]]


def _public_address(public: Network, *more: IPv4Address | None) -> Callable[[object], IPv4Address]:
    """A parser of an address that moves with the public virtual IP."""

    def parse(value: object) -> IPv4Address:
        address = values.address(value)
        if address not in public.further and address not in more:
            raise ValueError(f"{address} is not among gateway:public:addresses")
        return address

    return parse


def _read_one_to_one(section: Section, target: _ParseTarget, public: Network) -> OneToOne:
    address = section.get("address", _public_address(public))
    found: Any = section.get("to", target) or (None, None)
    to, ip = found
    section.reader.claim("1:1 address", address, section.at("address"))
    section.reader.claim("1:1 host", ip, section.at("to"))
    return OneToOne(key=section.path, address=address, to=to, ip=ip)


def _read_forward(
    section: Section,
    names: Names,
    target: _ParseTarget,
    public: Network,
    taken: set[IPv4Address],
) -> Iterator[Forward]:
    """One entry, as one forward for each of its ports (or ranges), protocols and addresses."""
    ports = section.get("port")
    proto = section.get("proto")
    found: Any = section.get("to", target) or (None, None)
    to, ip = found
    to_port = section.get("to_port")
    sources = section.get("from", names.target("group", "local"))
    parse_address = _public_address(public, public.virtual_ip)
    addresses: tuple[IPv4Address | None, ...] = (public.virtual_ip,)
    if "address" in section.values:
        addresses = section.get("address", parse_address)
    comment = section.get("comment")
    for address in addresses:
        if address and address in taken:
            section.reader.fault(section.at("address"), f"{address} stands for one host already")
    if to_port and any(to_port + last - first > 65535 for first, last in ports):
        section.reader.fault(section.at("to_port"), "the range goes beyond 65535")
    for first, last in ports:
        for protocol in ("tcp", "udp") if proto == "both" else filter(None, (proto,)):
            for address in addresses:
                _claim_ports(section, first, last, protocol, public, address)
                yield Forward(
                    key=section.path,
                    ports=(first, last),
                    proto=protocol,
                    to=to,
                    ip=ip,
                    to_port=to_port or first,
                    sources=sources,
                    address=address,
                    comment=comment,
                )


def _claim_ports(
    section: Section,
    first: int,
    last: int,
    proto: str,
    public: Network,
    address: IPv4Address | None,
) -> None:
    """Each port once for each address. On the usual one the gateway's own services count too."""
    where = "" if address == public.virtual_ip else f" of {address}"
    faults = len(section.reader.errors)
    for port in range(first, last + 1):
        section.reader.claim("port", f"{port}/{proto}{where}", section.at("port"))
        if len(section.reader.errors) > faults:  # one is enough for a range
            return


def _read_outbound(section: Section, names: Names, public: Network) -> Rule:
    address = _public_address(public, public.virtual_ip)

    def snat(value: object) -> str:
        if value in ("masquerade", "none"):
            return str(value)
        try:
            return str(address(value))
        except ValueError as error:
            raise ValueError(f"{error}; it may also be masquerade or none") from error

    action = section.get("snat", snat)
    rule = _gateway_policy.read_rule(
        section, names, values.EVERYTHING, ("group",), action or "none"
    )
    _gateway_policy.check_leaves(section, rule)
    return rule


def plan(site: Site, node: Node) -> dict[str, Any]:
    return {"nat": _nat(site, node)}


def _nat(site: Site, node: Node) -> dict[str, Any]:
    """Sources to translate on their way out, and the address to use (None: the interface's)."""
    virtual_ip = text_or_none(site.public.virtual_ip)
    sources: list[dict[str, Any]] = [
        {"network": str(network), "to": virtual_ip}
        for local in site.local
        if local.translated
        for network in local.all_networks
    ]
    # A tunnel ends on this node, so replies must come back to this node's own address, whoever
    # holds the virtual IP.
    sources += [{"network": str(server.subnet(node)), "to": None} for server in site.vpn_servers]
    return {
        "sources": sources,
        "outbound": _gateway_policy.plan_rules(site, node, site.nat.outbound),
        "one_to_one": [
            {"key": entry.key, "address": str(entry.address), "to": entry.to, "ip": str(entry.ip)}
            for entry in site.nat.one_to_one
        ],
        "forwards": [
            {
                "key": forward.key,
                "proto": forward.proto,
                "ports": list(forward.ports),
                "to": forward.to,
                "ip": str(forward.ip),
                "to_ports": [
                    forward.to_port,
                    forward.to_port + forward.ports[1] - forward.ports[0],
                ],
                "from": _gateway_policy.plan_targets(site, node, forward.sources),
                "address": text_or_none(forward.address),
                "comment": forward.comment,
            }
            for forward in site.nat.forwards
        ],
    }


# --------------------------------------------------------------------------------------------------
# Its rules


@ipv4
def to_forwards(pen: Pen, gateway: Gateway) -> None:
    """Who may use forwards (nat PREROUTING)."""
    for bridge in gateway.bridges:
        # Whether it will be passed on or routed is not known here.
        pen.note(f"A bridge may bring what is for the peer's {bridge}.")
        elsewhere = "-m physdev --physdev-is-in -m addrtype ! --dst-type LOCAL"
        pen.add(f"-i {bridge} {elsewhere} -j RETURN")
    pen.note("Forwards are for these sides.")
    for interface in (gateway.public, *gateway.inside):
        pen.add(f"-i {interface} -j {PREFIX}DNAT")


@ipv4
def one_to_one(pen: Pen, gateway: Gateway) -> None:
    """Addresses that stand for one host (chain DNAT)."""
    for entry in gateway.plan["nat"]["one_to_one"]:
        pen.note(entry["key"])
        pen.add(f"-d {entry['address']}", f"-j DNAT --to-destination {entry['ip']}")


@ipv4
def forwards(pen: Pen, gateway: Gateway) -> None:
    """Port forwards (chain DNAT): of further addresses, and then of the usual one."""
    usual = gateway.plan["public"]["virtual_ip"]
    forwards = gateway.plan["nat"]["forwards"]
    for forward in forwards:
        if forward["address"] != usual:
            _forward_port(pen, gateway, forward, f"-d {forward['address']}")
    pen.note("Forwards of the usual public address.")
    for match in _not_usual(gateway):
        pen.add(match, "-j RETURN")
    for forward in forwards:
        if forward["address"] == usual:
            _forward_port(pen, gateway, forward)


def _not_usual(gateway: Gateway) -> list[str]:
    """What is not for the address on which forwards listen: the virtual IP or the node's."""
    address = gateway.plan["public"]["virtual_ip"] or gateway.plan["node"]["public"]
    if address:
        return [f"! -d {address}"]
    # By DHCP: an address of the public interface. Who asks from inside does not come by it:
    # there it is any of the node's addresses but those of the inside.
    inside = [*gateway.local_networks, *gateway.vpn_networks]
    return [
        f"-i {gateway.public} -m addrtype ! --dst-type LOCAL --limit-iface-in",
        "-m addrtype ! --dst-type LOCAL",
        *(f"-d {network}" for network in inside),
    ]


def _forward_port(pen: Pen, gateway: Gateway, forward: dict[str, Any], *match: str) -> None:
    pen.note(forward["key"])
    to = joined_ports(forward["to_ports"], "-")
    if "-" in to:
        to += f"/{forward['ports'][0]}"  # port for port, not any of the range
    ports = f"-p {forward['proto']} --dport {joined_ports(forward['ports'], ':')}"
    comment = f'-m comment --comment "{forward["comment"] or forward["to"]}"'
    target = f"-j DNAT --to-destination {forward['ip']}:{to}"
    for source in gateway.ends(forward["from"], "s"):
        pen.add(source, *match, ports, comment, target)


@ipv4
def neighbours(pen: Pen, gateway: Gateway) -> None:
    """What needs this node's address so that the answer comes back by it (nat POSTROUTING)."""
    pen.note("The node's own traffic keeps its address.")
    pen.add("-m addrtype --src-type LOCAL -j RETURN")
    pen.note("A host that reaches a neighbour by a public address.")
    for local in gateway.local:
        neighbour = f"-o {local['interface']} -m conntrack --ctstate DNAT"
        for network in local["all"]:
            snat = f"-j SNAT --to-source {local['virtual_ip']}"
            pen.add(f"-s {network}", neighbour, snat)
    for network in gateway.client_networks if gateway.plan["routes"] else []:
        # Elsewhere than at the node itself the answer would pass untracked.
        pen.note(f"{network}, behind a client, asks by a forward.")
        for local in gateway.local:
            translated = f"-o {local['interface']} -m conntrack --ctstate DNAT"
            pen.add(f"-s {network}", translated, f"-j SNAT --to-source {local['address']}")


@ipv4
def outbound(pen: Pen, gateway: Gateway) -> None:
    """Sources on their way out (nat POSTROUTING)."""
    nat = gateway.plan["nat"]
    out = f"-o {gateway.public}"
    for rule in nat["outbound"]:
        pen.note(rule["key"])
        # There a packet has no interface any more that it came from.
        sources = [{**source, "interface": None} for source in rule["from"]]
        for proto, match in gateway.matches({**rule, "from": sources}):
            pen.add(proto, match, out, _snat(rule["action"]))
    for entry in nat["one_to_one"]:
        pen.note(entry["key"])
        pen.add(f"-s {entry['ip']}", out, _snat(entry["address"]))
    pen.note("Who lives behind the gateway.")
    for source in nat["sources"]:
        pen.add(f"-s {source['network']}", out, _snat(source["to"] or "masquerade"))


def _snat(action: str) -> str:
    if action == "masquerade":
        return "-j MASQUERADE"
    return "-j RETURN" if action == "none" else f"-j SNAT --to-source {action}"


@ipv4
def forwarded(pen: Pen, gateway: Gateway) -> None:
    """Connections that table nat has led to a host (filter FORWARD)."""
    pen.note("Port forwards; who may use one was decided in table nat.")
    for interface in (gateway.public, *gateway.untrusted):
        pen.add(f"-i {interface} -m conntrack --ctstate DNAT -j {PREFIX}TRANSLATED")
    # Those of the VPN may go to a trusted network anyway.
    devices = gateway.devices if gateway.untrusted else []
    for interface in (*gateway.trusted, *devices):
        pen.add(f"-i {interface} -m conntrack --ctstate DNAT -j {PREFIX}LOCAL")


@ipv4
def translated(pen: Pen, gateway: Gateway) -> None:
    """Connections from outside that table nat has led to a host (chain TRANSLATED)."""
    for entry in gateway.plan["nat"]["one_to_one"]:
        pen.note("It translates; what may come in through it is for forward rules to say.")
        pen.refuse("drop", f"-m conntrack --ctorigdst {entry['address']}")
    pen.note("Whoever is behind the gateway.")
    pen.add(f"-j {PREFIX}LOCAL")


@ipv4
def into_local(pen: Pen, gateway: Gateway) -> None:
    """The ways that lead to a host behind the gateway (chain LOCAL)."""
    trusted = values.Networks(
        IPv4Network(network)
        for local in gateway.local
        if local["trusted"]
        for network in local["all"]
    )
    for entry in gateway.plan["nat"]["one_to_one"]:
        if not trusted.holding(IPv4Address(entry["ip"])):
            pen.note("It translates; who may go there is for rules to say.")
            pen.add(f"-m conntrack --ctorigdst {entry['address']} -j RETURN")
    pen.note("Out of these, whatever the routes say.")
    for local in gateway.local:
        pen.add(f"-o {local['interface']} -j ACCEPT")
