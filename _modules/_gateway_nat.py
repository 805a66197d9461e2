"""Address translation: port forwards, 1:1, and sources on their way out."""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from typing import Any

import _gateway_kinds as kinds
import _gateway_policy
import _gateway_values as values
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
        "An entry of `hosts` (name or alias) or an address. It is inside the internal network,"
        " and not a gateway.",
    ),
    Key(
        "to_port",
        kinds.PORT,
        None,
        "All ports of a list lead to this one; a range leads to the range that begins with it.",
        said="`port`",
    ),
    Key("from", ends(ADDRESSES_ONLY), EMPTY, "Who may use it.", said="anybody"),
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
        "Inside the internal network, not a gateway; in no other item.",
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
    top: Section, names: Names, internal: Network, public: Network, nodes: tuple[Node, ...]
) -> Nat:
    nat = top.section("nat")
    gateways = {internal.virtual_ip, *(node.internal for node in nodes)}

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
        if ip and internal.network and ip not in internal.network:
            shown = name if name == str(ip) else f"{name} ({ip})"
            raise ValueError(f"{shown} is not inside {internal.network}")
        if not host:  # of a host it is said where it stands
            if ip in gateways:
                raise ValueError(f"{ip} is the gateway itself; {_gateway_policy.FOR_INPUT}")
            fault = values.no_host(ip, internal.network) if internal.network else None
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
    sources = section.get("from", names.target("group"))
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
    sources = [{"network": str(site.internal.network), "to": virtual_ip}]
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
                "ports": _gateway_policy.plan_ports(forward.ports),
                "to": forward.to,
                "ip": str(forward.ip),
                "to_ports": _gateway_policy.plan_ports(
                    (forward.to_port, forward.to_port + forward.ports[1] - forward.ports[0])
                ),
                "from": _gateway_policy.plan_targets(site, node, forward.sources),
                "address": text_or_none(forward.address),
                "comment": forward.comment,
            }
            for forward in site.nat.forwards
        ],
    }
