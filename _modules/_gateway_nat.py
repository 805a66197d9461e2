"""Address translation: port forwards, 1:1, and sources on their way out."""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from typing import Any

import _gateway_policy
import _gateway_values as values
from _gateway_names import Names
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


def read_nat(
    nat: Section, names: Names, internal: Network, public: Network, nodes: tuple[Node, ...]
) -> Nat:
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
    found = Nat(
        forwards=tuple(
            forward
            for entry in nat.sections("forwards")
            for forward in _read_forward(entry, names, target, public, taken)
        ),
        outbound=tuple(_read_outbound(entry, names, public) for entry in nat.sections("outbound")),
        one_to_one=tuple(one_to_one),
    )
    nat.close()
    return found


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
    section.close()
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
    if section.values.get("port", []) == [] and section.readable:
        section.reader.fault(section.at("port"), "missing")
    ports = section.items("port", values.ports)
    proto = section.get("proto", values.one_of("tcp", "udp", "both"), "tcp")
    found: Any = section.get("to", target) or (None, None)
    to, ip = found
    to_port = section.get("to_port", values.port, None)
    sources = section.items("from", names.target("group"))
    _gateway_policy.check_not_empty(section, "from")
    if section.values.get("address") == []:
        section.reader.fault(section.at("address"), "is empty; leave it out for the virtual IP")
    parse_address = _public_address(public, public.virtual_ip)
    addresses: tuple[IPv4Address | None, ...] = (public.virtual_ip,)
    if "address" in section.values:
        addresses = section.items("address", parse_address)
    comment = section.get("comment", values.comment, None)
    section.close()
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
    for key in ("limit", "log"):
        if key in section.values:
            section.reader.fault(section.at(key), "is not for address translation")
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
