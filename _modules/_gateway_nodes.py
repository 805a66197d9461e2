"""The nodes, and both sides of the pair: internal and public."""

from typing import Any

import _gateway_kinds as kinds
import _gateway_networks
import _gateway_pem
import _gateway_sync
import _gateway_values as values
from _gateway_keys import EMPTY, REQUIRED, Items, Key, Mapping, Named, by_name
from _gateway_names import claim_aliases
from _gateway_reader import Reader, Section
from _gateway_site import (
    LocalNetwork,
    Network,
    Node,
    Site,
    text_or_none,
)

# RFC 9568 section 5.2.4: a backup's priority is 1 to 254. High ones, close together, keep the skew
# ((256 - priority) / 256 advert intervals), and with it a clean hand-over, at milliseconds.
HIGHEST_PRIORITY = 250
HIGHEST_ID = 200
# Steps by which a node's priority is lowered. One step is as large as the number of nodes, so that
# it outweighs all differences of rank. Each penalty outweighs the sum of those before it.
PENALTIES = {"cold": 1, "uplink": 2, "fault": 4, "drained": 8}
# Each lost network beyond the first one, so that the node that has lost fewer is better also while
# it is cold. What is left of the priorities says how many of these count (``networks_counted``).
NETWORK_PENALTY = 2
# With this many nodes the last one, with all penalties, still has a priority of 1.
MOST_NODES = HIGHEST_PRIORITY // (sum(PENALTIES.values()) + 1)


def networks_counted(nodes: int, networks: int) -> int:
    """Of how many lost networks beyond the first one it counts that they are lost: of all where
    there is room for it, with two nodes of 54."""
    room = (HIGHEST_PRIORITY - 1) // nodes - sum(PENALTIES.values())
    return max(0, min(networks - 1, room // NETWORK_PENALTY))


OWN_SIDES = ("gateway:internal:network", "gateway:public:network")  # keys of their networks
MINION = kinds.matching(values.MINION_PATTERN.pattern, "a minion id")
_NODE = by_name(
    Key(
        "id",
        kinds.whole(1, HIGHEST_ID),
        REQUIRED,
        "Unique. It picks the node's VPN subnets and its priority. Never change it: it keeps"
        " subnets where they are when nodes come and go.",
    ),
    Key(
        "internal",
        kinds.ADDRESS,
        REQUIRED,
        "The node's address on the internal side. It is inside `internal:network` and on the"
        " node's interface.",
    ),
    Key(
        "public",
        kinds.HOST_ADDRESS,
        None,
        "The node's address on the public side. It is on the node's interface, and inside"
        " `public:network` if that is given, else in no other network of the site. Leave it out"
        " where it comes by DHCP. Required with a public virtual IP.",
    ),
    Key(
        "aliases",
        kinds.ALIASES,
        EMPTY,
        "Further names for `internal` in DNS, as [a host's](#gatewayhostshost).",
    ),
    Key(
        "remote",
        kinds.SERVER,
        None,
        "Where VPN clients find the node. It stands in profiles; nothing on the node depends on"
        " it.",
        said="`public`",
    ),
    Key(
        "priority",
        kinds.whole(1, 254),
        None,
        "Unique. The highest is the primary. Only the order counts: VRRP's own numbers are 250,"
        " 249, ...",
        said=f"{HIGHEST_PRIORITY + 1} - `id`",
    ),
    Key(
        "internal_interface",
        kinds.INTERFACE,
        None,
        "Where this node's name differs.",
        said="`internal:interface`",
    ),
    Key(
        "public_interface",
        kinds.INTERFACE,
        None,
        "Where this node's name differs. It is not the internal interface.",
        said="`public:interface`",
    ),
    Key(
        "sync",
        kinds.HOST_ADDRESS,
        None,
        "The node's address on the link of [state sync](#gatewaystate_sync). It is on that"
        " interface, and in no other network of the site.",
    ),
    Key(
        "sync_interface",
        kinds.INTERFACE,
        None,
        "Where this node's name differs.",
        said="`state_sync:interface`",
    ),
    Key(
        "pki",
        Mapping(_gateway_pem.OF_NODE),
        EMPTY,
        "This node's own certificate: [below](#gatewaynodesnodepki).",
    ),
    *_gateway_networks.OF_NODE,
)
_INTERNAL = by_name(
    Key("interface", kinds.INTERFACE, REQUIRED, "The nodes' card on the internal side."),
    Key("network", kinds.INSIDE_NETWORK, REQUIRED, "The internal network."),
    Key(
        "virtual_ip",
        kinds.ADDRESS,
        REQUIRED,
        "The address that moves: router and DNS server of the clients. It is inside `network`,"
        " and no node's or host's address.",
    ),
    Key(
        "aliases",
        kinds.ALIASES,
        EMPTY,
        "Names for it in DNS, such as `gateway`, as [a host's](#gatewayhostshost).",
    ),
)
_PUBLIC = by_name(
    Key("interface", kinds.INTERFACE, REQUIRED, "The nodes' card on the public side."),
    Key("network", kinds.HOST_NETWORK, None, "The public network. Required with `virtual_ip`."),
    Key(
        "virtual_ip",
        kinds.ADDRESS,
        None,
        "Moves together with the internal one. Then it is the NAT address of the internal"
        " network, and the address on which port forwards answer.",
        more="further ones are gateway:public:addresses",
    ),
    Key(
        "aliases",
        kinds.ALIASES,
        EMPTY,
        "Names for `virtual_ip` in the site's DNS, as [a host's](#gatewayhostshost).",
    ),
    Key(
        "accept_ra",
        kinds.BOOLEAN,
        None,
        "Whether the nodes believe the router advertisements of IPv6 on this side. Say true where"
        " their own IPv6 address or default route comes from one: a node that has such a route is"
        " refused without it. On the internal side they never believe them.",
        said="false",
    ),
    Key(
        "addresses",
        Items(kinds.ADDRESS, "list of addresses"),
        EMPTY,
        "Further public addresses, which move with the virtual IP. They are inside `network`."
        " [Port forwards](#gatewaynatforwards), [1:1 NAT](#gatewaynatone_to_one) and [outbound"
        " NAT](#gatewaynatoutbound) name them.",
    ),
)
KEYS = (
    Key("domain", kinds.NAME, REQUIRED, "The site's DNS domain. Its last label is not a number."),
    Key(
        "nodes",
        Named("NODE", MINION, _NODE, "a site needs at least one node", MOST_NODES),
        REQUIRED,
        "The gateways, one to fifteen: [nodes](#gatewaynodesnode).",
    ),
    Key(
        "internal",
        Mapping(_INTERNAL),
        REQUIRED,
        "The side with the clients: [internal](#gatewayinternal).",
    ),
    Key(
        "public",
        Mapping(_PUBLIC),
        REQUIRED,
        "The side with the internet: [public](#gatewaypublic).",
    ),
)


def read_internal(top: Section, domain: str | None) -> Network:
    section = top.section("internal")
    aliases = section.placed("aliases")
    network = Network(
        interface=section.get("interface"),
        network=section.get("network"),
        virtual_ip=section.get("virtual_ip"),
        aliases=tuple(aliases.values()),
    )
    claim_aliases(section.reader, aliases, domain)
    _gateway_networks.claim_side(section, network)
    return network


def read_public(top: Section, domain: str | None) -> Network:
    section = top.section("public")
    aliases = section.placed("aliases")
    addresses = section.placed("addresses")
    network = Network(
        interface=section.get("interface"),
        network=section.get("network"),
        virtual_ip=section.get("virtual_ip"),
        aliases=tuple(aliases.values()),
        addresses=tuple(addresses.values()),
        accept_ra=section.get("accept_ra"),
    )
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
    _gateway_networks.claim_side(section, network)
    return network


def read_nodes(
    top: Section,
    internal: Network,
    public: Network,
    networks: tuple[LocalNetwork, ...],
    link: str | None,
    domain: str | None,
) -> tuple[Node, ...]:
    nodes = []
    for entry in top.entries("nodes"):
        aliases = entry.section.placed("aliases")
        node = _read_node(
            entry.name, entry.section, internal, public, networks, link, tuple(aliases.values())
        )
        _claim_node(entry.section, node, internal, public)
        _gateway_networks.check_interfaces(top.reader, entry.section, node, link)
        _gateway_sync.check_sync_link(entry.section, node, internal, public, link)
        claim_aliases(top.reader, aliases, domain)
        nodes.append(node)
    if len(nodes) > MOST_NODES:
        top.reader.fault(top.at("nodes"), f"{len(nodes)} nodes; a site has at most {MOST_NODES}")
    return tuple(sorted(nodes, key=lambda node: (node.id or 0, node.name)))


def _read_node(
    name: str,
    section: Section,
    internal: Network,
    public: Network,
    networks: tuple[LocalNetwork, ...],
    link: str | None,
    aliases: tuple[str, ...],
) -> Node:
    number = section.get("id")
    return Node(
        name=name,
        id=number,
        internal=section.get("internal"),
        public=section.get("public"),
        aliases=aliases,
        remote=section.get("remote"),
        priority=section.get("priority", default=HIGHEST_PRIORITY + 1 - (number or 1)),
        internal_interface=section.get("internal_interface", default=internal.interface),
        public_interface=section.get("public_interface", default=public.interface),
        sync=section.get("sync"),
        sync_interface=section.get("sync_interface", default=link),
        pki=_gateway_pem.read_pki(section.section("pki"), ("gateway", "nodes", name, "pki")),
        addresses=_gateway_networks.read_node_addresses(section, number, networks),
        interfaces=_gateway_networks.read_node_interfaces(section, networks),
    )


def _claim_node(section: Section, node: Node, internal: Network, public: Network) -> None:
    """What is this node's alone, and where its addresses have to be."""
    reader = section.reader
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


def check_places(reader: Reader, site: Site) -> None:
    """What is in a network where nothing can reach it, and names that two interfaces would have.
    Networks that overlap have been named already."""
    behind = ("gateway:internal:", "gateway:networks:", "gateway:routes:")
    local = [pair for pair in reader.networks if pair[1].startswith(behind)]
    vpn = [pair for pair in reader.networks if pair[1].startswith("gateway:vpn:")]
    for node in site.nodes:
        inside = [*local, *vpn]
        for key, address, networks in (
            ("public", node.public, [] if site.public.network else inside),
            # Those of the internal and the public side have been named already.
            ("sync", node.sync, [*vpn, *(pair for pair in local if pair[1] not in OWN_SIDES)]),
        ):
            for network, path in networks:
                if address and address in network:
                    reader.fault(
                        f"gateway:nodes:{node.name}:{key}",
                        f"{address} is inside {network} of {path}",
                    )
        interfaces = (node.internal_interface, node.public_interface, node.sync_interface)
        for interface in (*interfaces, *node.interfaces.values()):
            for server in site.vpn_servers:
                if interface == values.DEVICE_PREFIX + server.name:
                    reader.fault(
                        f"gateway:vpn:servers:{server.name}",
                        f"its device would be {interface}, an interface of {node.name} already",
                    )
    behind_us = values.Networks(network for network, _ in local)
    pairs = [(host, ip) for host in site.hosts for ip in host.ips if ip]
    elsewhere = [(host, ip) for host, ip in pairs if not behind_us.holding(ip)]
    for host, ip in elsewhere:
        for server in site.vpn_servers:
            if server.network and ip in server.network:
                reader.fault(
                    f"gateway:hosts:{host.name}:ip",
                    f"{ip} is inside {server.network} of VPN server {server.name}, which has"
                    " clients and no hosts (gateway:vpn:clients)",
                )


def check_names(reader: Reader, site: Site) -> None:
    """DNS has the names without a dot with the site's domain behind them."""
    names = [(node.label, f"gateway:nodes:{node.name}") for node in site.nodes if node.label]
    names += [(host.name, f"gateway:hosts:{host.name}") for host in site.hosts]
    aliased = [(f"gateway:nodes:{node.name}", node.aliases) for node in site.nodes]
    aliased += [
        ("gateway:internal", site.internal.aliases),
        ("gateway:public", site.public.aliases),
        *((f"gateway:networks:{network.name}", network.aliases) for network in site.networks),
    ]
    aliased += [(f"gateway:hosts:{host.name}", host.aliases) for host in site.hosts]
    for path, aliases in aliased:
        names += [(alias, f"{path}:aliases:{number}") for number, alias in enumerate(aliases)]
    for name, path in names:
        full = values.full_name(name, site.domain)
        if site.domain and len(full) > values.LONGEST_NAME:
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
    moving = (*(side.virtual_ip for side in (site.internal, site.public)), *site.public.addresses)
    own = {str(each) for each in (*moving, *(network.virtual_ip for network in site.networks))}
    for node in site.nodes:
        addresses = (node.internal, node.public, node.sync, *node.addresses.values())
        own |= {str(each) for each in addresses}
    for key, servers in (
        ("dns:forwarders", site.dns.forwarders),
        ("ntp:servers", site.ntp.servers),
        ("health:public:targets", site.health.public_targets),
        ("health:internal:targets", site.health.internal_targets),
        *((f"networks:{network.name}:targets", network.targets) for network in site.networks),
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
