"""The nodes, and both sides of the pair: internal and public."""

from typing import Any

import _gateway_pem
import _gateway_sync
import _gateway_values as values
from _gateway_names import claim_aliases
from _gateway_reader import Reader, Section
from _gateway_site import (
    Host,
    Network,
    Node,
    Site,
    VpnServer,
    text_or_none,
)

# RFC 9568 section 5.2.4: a backup's priority is 1 to 254. High ones, close together, keep the skew
# ((256 - priority) / 256 advert intervals), and with it a clean hand-over, at milliseconds.
HIGHEST_PRIORITY = 250
HIGHEST_ID = 200
# What is taken off the priority of a node, in steps; any one step outweighs all differences of
# rank, so it is as large as there are nodes. Each outweighs what stands before it.
PENALTIES = {"cold": 1, "uplink": 2, "fault": 4, "drained": 8}
# So many nodes that the last one with all penalties still has a priority of 1.
MOST_NODES = HIGHEST_PRIORITY // (sum(PENALTIES.values()) + 1)


def read_internal(section: Section, domain: str | None) -> Network:
    aliases = section.placed("aliases", values.alias)
    network = Network(
        interface=section.get("interface", values.interface),
        network=section.get("network", values.inside_network),
        virtual_ip=section.get("virtual_ip", values.address),
        aliases=tuple(aliases.values()),
    )
    section.close()
    claim_aliases(section.reader, aliases, domain)
    _claim_side(section, network)
    return network


def read_public(section: Section, domain: str | None) -> Network:
    aliases = section.placed("aliases", values.alias)
    addresses = section.placed("addresses", values.address)
    network = Network(
        interface=section.get("interface", values.interface),
        network=section.get("network", values.host_network, None),
        virtual_ip=section.get("virtual_ip", values.address, None),
        aliases=tuple(aliases.values()),
        addresses=tuple(addresses.values()),
        accept_ra=section.get("accept_ra", values.boolean, None),
    )
    section.close()
    claim_aliases(section.reader, aliases, domain)
    if "virtual_ip" not in section.values:
        for path in aliases:
            section.reader.fault(path, "is a name for gateway:public:virtual_ip, and there is none")
    if network.addresses and "virtual_ip" not in section.values:
        section.reader.fault(
            section.at("virtual_ip"), "missing; further public addresses move with it"
        )
    for path, address in addresses.items():
        section.reader.claim("address", address, path)
        section.reader.inside(address, network.network, path)
    if network.virtual_ip and "network" not in section.values:
        section.reader.fault(section.at("network"), "missing; a public virtual IP needs it")
    _claim_side(section, network)
    return network


def _claim_side(section: Section, side: Network) -> None:
    section.reader.claim_network(side.network, section.at("network"))
    section.reader.claim("address", side.virtual_ip, section.at("virtual_ip"))
    section.reader.inside(side.virtual_ip, side.network, section.at("virtual_ip"))


def read_nodes(
    top: Section, internal: Network, public: Network, link: str | None, domain: str | None
) -> tuple[Node, ...]:
    nodes = []
    for entry in top.entries("nodes", values.matching(values.MINION_PATTERN, "a minion id")):
        aliases = entry.section.placed("aliases", values.alias)
        nodes.append(
            _read_node(entry.name, entry.section, internal, public, link, tuple(aliases.values()))
        )
        claim_aliases(top.reader, aliases, domain)
    if top.readable and top.values.get("nodes", {}) == {}:
        top.reader.fault(top.at("nodes"), "a site needs at least one node")
    if len(nodes) > MOST_NODES:
        top.reader.fault(top.at("nodes"), f"{len(nodes)} nodes; a site has at most {MOST_NODES}")
    return tuple(sorted(nodes, key=lambda node: (node.id or 0, node.name)))


def _read_node(
    name: str,
    section: Section,
    internal: Network,
    public: Network,
    link: str | None,
    aliases: tuple[str, ...],
) -> Node:
    reader = section.reader
    number = section.get("id", values.whole(1, HIGHEST_ID))
    node = Node(
        name=name,
        id=number,
        internal=section.get("internal", values.address),
        public=section.get("public", values.host_address, None),
        aliases=aliases,
        remote=section.get("remote", values.server_address, None),
        priority=section.get(
            "priority", values.whole(1, 254), HIGHEST_PRIORITY + 1 - (number or 1)
        ),
        internal_interface=section.get("internal_interface", values.interface, internal.interface),
        public_interface=section.get("public_interface", values.interface, public.interface),
        sync=section.get("sync", values.host_address, None),
        sync_interface=section.get("sync_interface", values.interface, link),
        pki=_gateway_pem.read_pki(
            section.section("pki"), ("gateway", "nodes", name, "pki"), ("certificate", "key")
        ),
    )
    section.close()
    twin = ("id", node.id) in reader.claims
    reader.claim("id", node.id, section.at("id"))
    if node.id and not twin:
        reader.claim("priority", node.priority, section.at("priority"))
    reader.claim("host name", node.label, section.path)
    reader.claim("address", node.internal, section.at("internal"))
    reader.claim("address", node.public, section.at("public"))
    reader.inside(node.internal, internal.network, section.at("internal"))
    reader.inside(node.public, public.network, section.at("public"))
    if public.virtual_ip and "public" not in section.values and section.readable:
        reader.fault(section.at("public"), "missing; a public virtual IP needs it on each node")
    if node.internal_interface and node.internal_interface == node.public_interface:
        reader.fault(
            section.at("public_interface"),
            f"{node.public_interface} is the internal interface already",
        )
    _gateway_sync.check_sync_link(section, node, internal, public, link)
    return node


def check_places(
    reader: Reader,
    internal: Network,
    public: Network,
    nodes: tuple[Node, ...],
    servers: tuple[VpnServer, ...],
    hosts: tuple[Host, ...],
) -> None:
    """What is in a network where nothing can reach it, and names that two interfaces would have.
    Networks that overlap have been named already."""
    vpn = [pair for pair in reader.networks if pair[1].startswith("gateway:vpn:")]
    for node in nodes:
        inside = [(internal.network, "gateway:internal:network"), *vpn] if internal.network else vpn
        for key, address, networks in (
            ("public", node.public, [] if public.network else inside),
            ("sync", node.sync, vpn),
        ):
            for network, path in networks:
                if address and address in network:
                    reader.fault(
                        f"gateway:nodes:{node.name}:{key}",
                        f"{address} is inside {network} of {path}",
                    )
        for interface in (node.internal_interface, node.public_interface, node.sync_interface):
            for server in servers:
                if interface == values.DEVICE_PREFIX + server.name:
                    reader.fault(
                        f"gateway:vpn:servers:{server.name}",
                        f"its device would be {interface}, an interface of {node.name} already",
                    )
    elsewhere = [
        host for host in hosts if host.ip and not (internal.network and host.ip in internal.network)
    ]
    for host in elsewhere:
        for server in servers:
            if server.network and host.ip in server.network:
                reader.fault(
                    f"gateway:hosts:{host.name}:ip",
                    f"{host.ip} is inside {server.network} of VPN server {server.name}, which has"
                    " clients and no hosts (gateway:vpn:clients)",
                )


def check_names(
    reader: Reader,
    domain: str | None,
    internal: Network,
    public: Network,
    nodes: tuple[Node, ...],
    hosts: tuple[Host, ...],
) -> None:
    """DNS has the names without a dot with the site's domain behind them."""
    names = [(node.label, f"gateway:nodes:{node.name}") for node in nodes if node.label]
    names += [(host.name, f"gateway:hosts:{host.name}") for host in hosts]
    aliased = [(f"gateway:nodes:{node.name}", node.aliases) for node in nodes]
    aliased += [("gateway:internal", internal.aliases), ("gateway:public", public.aliases)]
    aliased += [(f"gateway:hosts:{host.name}", host.aliases) for host in hosts]
    for path, aliases in aliased:
        names += [(alias, f"{path}:aliases:{number}") for number, alias in enumerate(aliases)]
    for name, path in names:
        full = values.full_name(name, domain)
        if domain and len(full) > values.LONGEST_NAME:
            length = f"{len(full)} characters; DNS takes {values.LONGEST_NAME}"
            reader.fault(path, f"{values.show(full, 40)} has {length}")


def ports(site: Site) -> dict[str, str]:
    if all(node.public for node in site.nodes):
        return {}
    return {"68/udp": "the DHCP client of a node without a public address in the pillar"}


def check_own_ports(reader: Reader, site: Site, own: dict[str, str]) -> None:
    """A VPN server listens on all addresses, also on those where a service of ours does.

    ``own`` has what each room's ``ports`` gives: ``53/udp``, and what it is for.
    """
    for server in site.vpn_servers:
        port = f"{server.port}/{server.proto}"
        if port in own:
            reader.fault(
                f"gateway:vpn:servers:{server.name}:port",
                f"port {port} is the gateway's own already, for {own[port]}",
            )


def check_own_addresses(reader: Reader, site: Site) -> None:
    """A gateway that asks itself gets no answer, or the one that it would like to have."""
    sides = (site.internal, site.public)
    own = {str(side.virtual_ip) for side in sides} | {str(each) for each in site.public.addresses}
    for node in site.nodes:
        own |= {str(each) for each in (node.internal, node.public, node.sync)}
    for key, servers in (
        ("dns:forwarders", site.dns.forwarders),
        ("ntp:servers", site.ntp.servers),
        ("health:public:targets", site.health.public_targets),
        ("health:internal:targets", site.health.internal_targets),
    ):
        for number, server in enumerate(map(str, servers)):
            if server in own:
                reader.fault(f"gateway:{key}:{number}", f"{server} is the gateway itself")
    for number, target in enumerate(site.health.internal_targets):
        if site.internal.network and target in site.internal.network:
            reader.inside(
                target, site.internal.network, f"gateway:health:internal:targets:{number}"
            )


def check_node(site: Site, name: str) -> list[str]:
    """What keeps the minion ``name`` from being a node of the site: at most one error."""
    names = [node.name for node in site.nodes]
    if name in names:
        return []
    hint = values.did_you_mean(name, names)
    known = ", ".join(names)
    return [
        f"gateway:nodes: this minion, {values.show(name, 80)}, is not among them ({known}){hint}"
    ]


def plan(site: Site, node: Node) -> dict[str, Any]:
    """The node, its peers, and both sides."""
    return {
        "node": {
            "name": node.name,
            "id": node.id,
            "internal": str(node.internal),
            "public": text_or_none(node.public),
            "sync": text_or_none(node.sync),
            "remote": node.remote or text_or_none(node.public),
        },
        "peers": [
            {
                "name": peer.name,
                "id": peer.id,
                "internal": str(peer.internal),
                "public": text_or_none(peer.public),
            }
            for peer in site.peers(node)
        ],
        "internal": _side(site.internal, node.internal_interface),
        "public": {
            **_side(site.public, node.public_interface),
            "accept_ra": site.public.accept_ra,
        },
    }


def _side(side: Network, interface: str) -> dict[str, Any]:
    return {
        "interface": interface,
        "network": text_or_none(side.network),
        "netmask": text_or_none(side.network and side.network.netmask),
        "virtual_ip": text_or_none(side.virtual_ip),
    }
