"""DNS: hosts of the site, names, forwarders."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import _gateway_dnsmasq
import _gateway_kinds as kinds
import _gateway_values as values
from _gateway_keys import EMPTY, REQUIRED, Items, Key, Kind, Mapping, Named, Settings, by_name
from _gateway_machine import Plan, opening, service_unit
from _gateway_names import claim_aliases
from _gateway_reader import Reader, Section
from _gateway_site import (
    Dns,
    Host,
    LocalNetwork,
    Node,
    Site,
    plan_settings,
)

# dnsmasq reads lines of up to 1,023 characters, and takes the rest of a longer one for another.
MOST_MACS = 16
# A resolver on the node itself may listen on the loopback interface.
_NO_FORWARDERS = tuple(each for each in values.NO_HOSTS if each != values.LOOPBACK)


def _forwarder(value: object) -> str:
    """An upstream DNS server as dnsmasq writes it: an address, and #PORT where that is not 53."""
    text, mark, number = values.string(value).partition("#")
    try:
        address = values.host_address(text, _NO_FORWARDERS)
        port = values.port(number) if mark else values.DNS_PORT
    except ValueError as error:
        raise ValueError(f"{error}; a forwarder is an address, or ADDRESS#PORT") from error
    return str(address) if port == values.DNS_PORT else f"{address}#{port}"


_FORWARDER = Kind(
    _forwarder,
    "address",
    lambda: kinds.text(
        f"(?!{kinds.inside(_NO_FORWARDERS)}){kinds.ADDRESS_PATTERN}(?:#{kinds.PORT_PATTERN})?",
        "an address, or ADDRESS#PORT",
    ),
)
_HOST = by_name(
    Key(
        "ip",
        Items(kinds.ADDRESS, "address, or a list: one in each of several networks", "is empty"),
        REQUIRED,
        "In the internal network or one of `networks` if there is a `mac` (DHCP is not answered"
        " behind routers); in no VPN network. A host belongs to the network that holds its"
        " address.",
    ),
    Key(
        "mac",
        Items(kinds.MAC, f"text, or a list of at most {MOST_MACS}", most=MOST_MACS),
        EMPTY,
        "Makes a DHCP reservation. Unique, not a group address. Quote it: YAML reads some as"
        " numbers. A list is one machine with several cards, one of which is in use at a time:"
        " when another card asks, it gets the address.",
        said="none",
    ),
    Key(
        "aliases",
        kinds.ALIASES,
        EMPTY,
        "Further names. Without a dot they get the site's domain (`www`, `'*.apps'`). With one"
        " they are taken as they are, also outside of the domain (`www.company.example`,"
        " `'*.company.example'`). A name has at most 253 characters with the domain.",
    ),
)
_SETTINGS = Settings(_gateway_dnsmasq.SETTING, _gateway_dnsmasq.DNS_REFUSED)
_DNS = by_name(
    Key(
        "forwarders",
        Items(_FORWARDER, "list of addresses"),
        EMPTY,
        "Whom the gateways ask. With another port than 53 `ADDRESS#PORT`, in quotes:"
        " `'127.0.0.1#5335'`. No address of the gateways. `gateway.validate` names one in"
        " `resolv.conf` too, and says where nobody else is left to ask.",
        said="those of the node's `/etc/resolv.conf`; where that names systemd-resolved, whom that"
        " asks",
    ),
    Key(
        "public_domain",
        kinds.BOOLEAN,
        False,
        "Whether the site's domain exists outside, too. Then names of it that are not in the"
        " pillar are asked of the forwarders; without it there are no such names.",
    ),
    Key("settings", _SETTINGS, EMPTY, "Lines `keyword=value` in `/etc/gateway/dns.conf`."),
)
KEYS = (
    Key(
        "hosts",
        Named("HOST", kinds.LABEL, _HOST),
        EMPTY,
        "The hosts behind the gateway: [hosts](#gatewayhostshost).",
    ),
    Key("dns", Mapping(_DNS), EMPTY, "[dns](#gatewaydns)."),
)


def read_hosts(top: Section, local: values.Networks, domain: str | None) -> tuple[Host, ...]:
    """``local``: the networks behind the pair."""
    hosts = []
    reader = top.reader
    for entry in top.entries("hosts"):
        section = entry.section
        ips = section.placed("ip")
        macs = section.placed("mac")
        aliases = section.placed("aliases")
        first, *further = (*ips.values(), None)
        host = Host(
            name=entry.name,
            ip=first,
            macs=tuple(macs.values()),
            aliases=tuple(aliases.values()),
            further_ips=tuple(filter(None, further)),
        )
        _check_addresses(reader, ips, local, reserved=bool(macs))
        for path, mac in macs.items():
            reader.claim("MAC address", mac, path)
        if len(macs) > MOST_MACS:
            reader.fault(section.at("mac"), f"{len(macs)} of them; a host has at most {MOST_MACS}")
        reader.claim("host name", host.name, section.path)
        claim_aliases(reader, aliases, domain)
        hosts.append(host)
    return tuple(sorted(hosts, key=lambda host: (int(host.ip or 0), host.name)))


def _check_addresses(
    reader: Reader, ips: dict[str, IPv4Address], local: values.Networks, reserved: bool
) -> None:
    """A host's addresses are nobody else's, and where its MAC address is known, each is in another
    network behind the pair."""
    taken: dict[IPv4Network, IPv4Address] = {}
    for path, ip in ips.items():
        owner, _, key = reader.claims.get(("address", ip), "").rpartition(":")
        named = key in ("virtual_ip", "internal")
        reader.claim(
            "address", ip, path, f"; a name for it is one of {owner}:aliases" if named else ""
        )
        network = local.holding(ip)
        if network in taken:
            reader.fault(
                path,
                f"{taken[network]} is in {network} already; a name for another"
                " address there is a host of its own",
            )
        if network:
            taken[network] = ip
            reader.inside(ip, network, path)
        elif not reserved or not local.are_known:
            continue
        elif len(local.all) == 1:
            reader.inside(ip, local.all[0], path)
        else:
            reader.fault(path, f"{ip} is in no network behind the pair where DHCP is answered")


# dnsmasq does not start when one of these lacks its counterpart, and `dnsmasq --test` does not
# notice.
_DNS_NEEDS = {
    "dnssec": ("trust-anchor", " or conf-file: /usr/share/dnsmasq-base/trust-anchors.conf"),
    "auth-zone": ("auth-server", ""),
}


def read_dns(top: Section) -> Dns:
    section = top.section("dns")
    dns = Dns(
        forwarders=section.get("forwarders"),
        public_domain=section.get("public_domain"),
        settings=section.settings(),
    )
    there = {keyword for keyword, _ in dns.settings}
    for keyword, (needed, way) in _DNS_NEEDS.items():
        # The file that is named there may contain it.
        if keyword in there and not there & {needed, "conf-file", "conf-dir"}:
            section.reader.fault(f"{section.at('settings')}:{keyword}", f"needs {needed}{way}")
    return dns


def plan(site: Site, node: Node) -> dict[str, Any]:
    return {"dns": _dns(site, node)}


def ports(site: Site) -> dict[str, str]:
    return {f"{values.DNS_PORT}/udp": "DNS", f"{values.DNS_PORT}/tcp": "DNS"}


def openings(plan: Plan) -> list[dict[str, Any]]:
    # At another address the others would be told the names of the site.
    return [
        opening("DNS", proto, values.DNS_PORT, "inside", "others there") for proto in ("udp", "tcp")
    ]


def units(plan: Plan) -> list[dict[str, Any]]:
    others = [service_unit("gateway-dns-others", watched=True)] if plan["dns"]["others"] else []
    return [service_unit("gateway-dns", watched=True), *others]


def _dns(site: Site, node: Node) -> dict[str, Any]:
    """
    ``records`` are lines of a hosts file, ``wildcards`` stand for all names below theirs. Nobody
    else is asked for a name in ``own``; what is below one in ``outside`` is asked of the forwarders
    all the same.
    """
    named = [
        *((peer.internal, (*filter(None, [peer.label]), *peer.aliases)) for peer in site.nodes),
        *((side.virtual_ip, side.aliases) for side in (site.internal, site.public)),
        *((network.virtual_ip, network.aliases) for network in site.networks),
        *((ip, (host.name, *host.aliases)) for host in site.hosts for ip in host.ips),
    ]
    records: list[dict[str, Any]] = []
    wildcards: dict[str, str] = {}
    for ip, names in named:
        plain = tuple(name for name in names if not name.startswith("*."))
        if plain:
            records.append({"ip": str(ip), "names": _names(site, plain)})
        for name in names:
            if name.startswith("*."):
                # dnsmasq has one address for a wildcard: the host's first.
                below = values.full_name(name, site.domain).removeprefix("*.")
                wildcards.setdefault(below, str(ip))
    domain = set() if site.dns.public_domain else {site.domain}
    covered = domain | wildcards.keys()
    own = [
        name
        for record in records
        for name in record["names"]
        if "." in name and name not in domain and covered.isdisjoint(_parents(name))
    ]
    return {
        "listen": _listen(node, [local for local in site.local if local.names]),
        # Who gets no names of the site is answered by an instance that has none.
        "others": _listen(node, [local for local in site.local if not local.names]),
        "forwarders": list(site.dns.forwarders),
        "public_domain": site.dns.public_domain,
        "records": records,
        "wildcards": [{"name": name, "ip": ip} for name, ip in wildcards.items()],
        "own": own,
        "outside": [name for name in own if name not in wildcards],
        "settings": plan_settings(site.dns.settings),
    }


def _listen(node: Node, networks: list[LocalNetwork]) -> list[str]:
    """The node's own address in each of these networks, and the virtual IP."""
    return [
        str(address)
        for network in networks
        for address in (node.address_in(network.name), network.virtual_ip)
    ]


def _parents(name: str) -> Iterator[str]:
    """The names that a name is below, the nearest first."""
    while "." in name:
        name = name.partition(".")[2]
        yield name


def _names(site: Site, names: tuple[str, ...]) -> list[str]:
    """Names as a hosts file lists them: the full one first, which is then what PTR answers."""
    full = [values.full_name(name, site.domain) for name in names]
    return full + [name for name in names if "." not in name]
