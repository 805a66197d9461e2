"""The further networks behind the pair, and the networks behind routers in them."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import _gateway_dhcp
import _gateway_kinds as kinds
import _gateway_values as values
from _gateway_keys import EMPTY, REQUIRED, Items, Key, Mapping, Named, Rows, Values, by_name
from _gateway_names import Names, claim_aliases
from _gateway_reader import Reader, Section
from _gateway_site import (
    INTERNAL,
    Dhcp,
    InsideRoute,
    LocalNetwork,
    Network,
    Node,
    Site,
)

MOST_NETWORKS = 60
NO_DHCP = Dhcp(enabled=False, pool=None, lease_time="12h", settings=())

NAME = kinds.matching(
    "[a-z][a-z0-9-]{0,31}", "a network's name (small letters, digits and -)", "name"
)
_NETWORK = by_name(
    Key("interface", kinds.INTERFACE, REQUIRED, "The nodes' card in this network."),
    Key("network", kinds.INSIDE_NETWORK, REQUIRED, "Its addresses."),
    Key(
        "virtual_ip",
        kinds.ADDRESS,
        REQUIRED,
        "The address that moves, together with the internal one: router and DNS server of the"
        " network's hosts.",
    ),
    Key(
        "aliases",
        kinds.ALIASES,
        EMPTY,
        "Names for `virtual_ip` in the site's DNS, as [a host's](#gatewayhostshost).",
    ),
    Key(
        "trusted",
        kinds.BOOLEAN,
        False,
        "Whether it has the rights of the internal network: it reaches that and the VPN, and they"
        " reach it.",
    ),
    Key(
        "isolated",
        kinds.BOOLEAN,
        False,
        "Whether its hosts get nothing of the gateway but DNS, DHCP, time and the answer to a ping"
        " at the addresses that the gateways have in this network.",
    ),
    Key(
        "names",
        kinds.BOOLEAN,
        None,
        "Whether DNS answers it with the names of the site; else it gets what the forwarders say.",
        said="`trusted`",
    ),
    Key(
        "nat",
        kinds.one_of("usual", "none"),
        "usual",
        "`none`: its addresses are public ones, which the internet sees as they are.",
    ),
    Key(
        "targets",
        Items(kinds.HOST_ADDRESS, "list of addresses"),
        EMPTY,
        "One of them has to answer pings through this network's interface; silence is a fault.",
    ),
    Key(
        "dhcp",
        Mapping(_gateway_dhcp.OF_NETWORK, table=False),
        EMPTY,
        "What DHCP hands out here: as [gateway:dhcp](#gatewaydhcp), without `settings`.",
    ),
)
_ROUTE = by_name(
    Key("network", kinds.INSIDE_NETWORK, REQUIRED, "The network behind the router."),
    Key("via", kinds.ADDRESS, REQUIRED, "The router's address, in a network behind the pair."),
)
KEYS = (
    Key(
        "networks",
        Named("NETWORK", NAME, _NETWORK, most=MOST_NETWORKS),
        EMPTY,
        "Further networks behind the pair, each with a virtual IP:"
        " [networks](#gatewaynetworksnetwork).",
    ),
    Key(
        "routes",
        Rows(_ROUTE),
        EMPTY,
        "Networks behind a router in one of ours: [routes](#gatewayroutes). They count as part of"
        " the network that the router is in.",
    ),
)
OF_NODE = (
    Key(
        "addresses",
        Values(NAME, kinds.ADDRESS, "mapping of network to address"),
        EMPTY,
        "The node's own addresses in [further networks](#gatewaynetworksnetwork), where they are"
        " not the virtual IP plus `id`.",
        said="computed",
    ),
    Key(
        "interfaces",
        Values(NAME, kinds.INTERFACE, "mapping of network to interface"),
        EMPTY,
        "Where this node's names of further networks' interfaces differ.",
        said="`networks:NETWORK:interface`",
    ),
)


def read_networks(top: Section, domain: str | None) -> tuple[LocalNetwork, ...]:
    """Without their DHCP, which asks for the hosts (``read_dhcp``)."""
    networks = []
    for entry in top.entries("networks"):
        section, reader = entry.section, top.reader
        aliases = section.placed("aliases")
        trusted = section.get("trusted")
        network = LocalNetwork(
            name=entry.name,
            interface=section.get("interface"),
            network=section.get("network"),
            virtual_ip=section.get("virtual_ip"),
            aliases=tuple(aliases.values()),
            trusted=trusted,
            isolated=section.get("isolated"),
            names=section.get("names", default=trusted),
            translated=section.get("nat") != "none",
            targets=section.get("targets"),
            dhcp=NO_DHCP,
        )
        claim_aliases(reader, aliases, domain)
        if entry.name in (*Names.ZONES, "sync"):
            reader.fault(section.path, "is what rules call something else; take another name")
        if network.trusted and network.isolated:
            reader.fault(section.at("isolated"), "what is trusted is not isolated")
        claim_side(section, network)
        for path, target in section.placed("targets").items():
            reader.inside(target, network.network, path)
        networks.append(network)
    if len(networks) > MOST_NETWORKS:
        top.reader.fault(
            top.at("networks"), f"{len(networks)} networks; a site has at most {MOST_NETWORKS}"
        )
    return tuple(sorted(networks, key=lambda network: network.name))


def claim_side(section: Section, side: Network | LocalNetwork) -> None:
    """Its network and its virtual IP are nobody else's, and fit together."""
    section.reader.claim_network(side.network, section.at("network"))
    section.reader.claim("address", side.virtual_ip, section.at("virtual_ip"))
    section.reader.inside(side.virtual_ip, side.network, section.at("virtual_ip"))


def read_node_addresses(
    section: Section, number: int | None, networks: tuple[LocalNetwork, ...]
) -> dict[str, IPv4Address]:
    """A node's own address in each network: what the pillar says, or the virtual IP plus its id."""
    given = _by_network(section, "addresses", networks)
    addresses: dict[str, IPv4Address] = {}
    for network in networks:
        place = f"{section.at('addresses')}:{network.name}"
        address = given.get(network.name)
        if network.name not in given and number and _is_right(network):
            address = network.virtual_ip + number
            if values.no_host(address, network.network):
                section.reader.fault(
                    place,
                    f"missing; {network.virtual_ip} plus id {number} is no address of"
                    f" {network.network}",
                )
                address = None
        elif address:
            section.reader.inside(address, network.network, place)
        section.reader.claim("address", address, place)
        if address:
            addresses[network.name] = address
    return addresses


def _is_right(network: LocalNetwork) -> bool:
    """Whether a node's address can be worked out; otherwise it has been said already why not."""
    known = network.network and network.virtual_ip
    return bool(known and not values.no_host(network.virtual_ip, network.network))


def read_node_interfaces(section: Section, networks: tuple[LocalNetwork, ...]) -> dict[str, str]:
    """What each network's interface is called on a node."""
    given = _by_network(section, "interfaces", networks)
    return {network.name: given.get(network.name) or network.interface for network in networks}


def _by_network(section: Section, key: str, networks: tuple[LocalNetwork, ...]) -> dict[str, Any]:
    names = [network.name for network in networks]
    inner = section.section(key)
    found = {}
    for name in sorted(inner.values, key=values.safe_repr):
        if name in names:
            found[name] = inner.get(name)
        else:
            hint = values.did_you_mean(name, names)
            section.reader.fault(inner.at(name), f"there is no such network{hint}")
    return found


def check_interfaces(reader: Reader, section: Section, node: Node, link: str | None) -> None:
    """Each network has an interface of its own on each node."""
    taken = {
        node.internal_interface: "the internal interface",
        node.public_interface: "the public interface",
    }
    if link:
        taken[str(node.sync_interface)] = "the interface of state sync"
    for name, interface in sorted(node.interfaces.items()):
        given = section.values.get("interfaces")
        place = f"gateway:networks:{name}:interface"
        if isinstance(given, dict) and name in given:
            place = f"{section.at('interfaces')}:{name}"
        if interface and interface in taken:
            reader.fault(place, f"{interface} is {taken[interface]} already")
        elif interface:
            taken[interface] = f"the interface of network {name}"


def read_dhcp(
    top: Section, networks: tuple[LocalNetwork, ...], known: _gateway_dhcp.Known
) -> tuple[LocalNetwork, ...]:
    """The networks with their DHCP."""
    sections = {entry.name: entry.section for entry in top.entries("networks")}
    return tuple(
        replace(
            network,
            dhcp=_gateway_dhcp.read_section(
                sections[network.name].section("dhcp"), network.network, known
            ),
        )
        for network in networks
    )


def read_routes(
    top: Section, internal: Network, networks: tuple[LocalNetwork, ...]
) -> tuple[InsideRoute, ...]:
    """Networks behind routers inside."""
    local = {INTERNAL: internal.network, **{each.name: each.network for each in networks}}
    named = {network: name for name, network in local.items()}
    holders = values.Networks(local.values())
    routes = []
    for section in top.sections("routes"):
        network, via = section.get("network"), section.get("via")
        section.reader.claim_network(network, section.at("network"))
        if via:  # of several networks it may be the same
            section.reader.claims.setdefault(("router", via), section.at("via"))
        holder = holders.holding(via)
        if via and not holder and holders.are_known:
            section.reader.fault(section.at("via"), f"{via} is in no network behind the pair")
        section.reader.inside(via, holder, section.at("via"))
        owner = section.reader.claims.get(("address", via), "")
        if owner and not owner.startswith("gateway:hosts:"):
            section.reader.fault(section.at("via"), f"{via} is the gateway itself ({owner})")
        routes.append(InsideRoute(section.path, network, via, named.get(holder, INTERNAL)))
    return tuple(routes)


def addresses(
    internal: Network, networks: tuple[LocalNetwork, ...], routes: tuple[InsideRoute, ...]
) -> dict[str, tuple[IPv4Network, ...]]:
    """Of each network behind the pair, the internal one first: its own addresses, and those behind
    routers in it."""
    own = {INTERNAL: internal.network, **{each.name: each.network for each in networks}}
    found: dict[str, list[IPv4Network]] = {name: [*filter(None, (own[name],))] for name in own}
    for route in routes:
        if route.network:
            found[route.through].append(route.network)
    return {name: tuple(each) for name, each in found.items()}


def plan(site: Site, node: Node) -> dict[str, Any]:
    """``networks`` are the further ones; ``inside_routes`` the ways to what is behind routers, in
    the internal network too."""
    return {
        "networks": [_plan_network(site, node, network) for network in site.local[1:]],
        "inside_routes": [
            {
                "destination": str(route.network),
                "via": str(route.via),
                "network": route.through,
                "interface": node.interface_in(route.through),
            }
            for route in site.routes
        ],
    }


def local(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """All networks behind the pair, the internal one first, of one node's plan: as in its
    ``networks``, and in ``all`` also what is behind routers in them."""
    internal = {
        "name": INTERNAL,
        **plan["internal"],
        "address": plan["node"]["internal"],
        "peers": [{"name": peer["name"], "address": peer["internal"]} for peer in plan["peers"]],
        "trusted": True,
        "isolated": False,
        "names": True,
        "translated": True,
        "targets": plan["health"]["internal"]["targets"],
        "dhcp": plan["dhcp"],
    }
    networks = (internal, *plan["networks"])
    behind: dict[str, list[str]] = {network["name"]: [network["network"]] for network in networks}
    for route in plan["inside_routes"]:
        behind[route["network"]].append(route["destination"])
    return [{**network, "all": behind[network["name"]]} for network in networks]


def _plan_network(site: Site, node: Node, network: LocalNetwork) -> dict[str, Any]:
    return {
        "name": network.name,
        "interface": node.interface_in(network.name),
        "network": str(network.network),
        "netmask": str(network.network.netmask),
        "virtual_ip": str(network.virtual_ip),
        "address": str(node.address_in(network.name)),
        "peers": [
            {"name": peer.name, "address": str(peer.address_in(network.name))}
            for peer in site.peers(node)
        ],
        "trusted": network.trusted,
        "isolated": network.isolated,
        "names": network.names,
        "translated": network.translated,
        "targets": [str(target) for target in network.targets],
        "dhcp": _gateway_dhcp.plan_network(site, network),
    }
