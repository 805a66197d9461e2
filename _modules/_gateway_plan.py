"""The planner: from one site's pillar to what each gateway of the site is to be.

A library in plain Python: no Salt, no system, no clock. ``read`` turns the pillar into a frozen
``Site`` or says everything that is wrong with it; ``plan`` computes one node's part of the site as
a plain dict. What users call is the execution module ``gateway``.
"""

from collections import ChainMap
from collections.abc import Callable
from typing import Any

import _gateway_dhcp
import _gateway_dns
import _gateway_dnsmasq
import _gateway_failover
import _gateway_firewall
import _gateway_follow
import _gateway_interfaces
import _gateway_kernel
import _gateway_leases
import _gateway_nat
import _gateway_networks
import _gateway_nodes
import _gateway_ntp
import _gateway_policy
import _gateway_routes
import _gateway_sync
import _gateway_values as values
import _gateway_vpn
from _gateway_keys import by_name
from _gateway_names import Names, own_names
from _gateway_reader import Reader, Section
from _gateway_site import Site, client_addresses

VERSION = "202611-1"  # of the formula, as FORMULA has it
# A room for each service, from the ground up: the order of rules and units. `gateway.status` tells
# them the other way round. Each has those of these doors that it needs: `plan`, `openings` and
# `units` of what a node is to be; and of how it is doing, what _gateway_status asks for.
ROOMS: tuple[Any, ...] = (
    _gateway_nodes,
    _gateway_networks,
    _gateway_interfaces,
    _gateway_policy,
    _gateway_nat,
    _gateway_kernel,
    _gateway_sync,
    _gateway_ntp,
    _gateway_vpn,
    _gateway_firewall,
    _gateway_routes,
    _gateway_dnsmasq,
    _gateway_dns,
    _gateway_dhcp,
    _gateway_leases,
    _gateway_follow,
    _gateway_failover,
)
# Units that are not for the pillar's follow_virtual_ip, and those that are not for health:services.
OWN_UNITS = [name for room in ROOMS for name in getattr(room, "OWN_UNITS", ())]
FOLLOWERS = [name for room in ROOMS for name in getattr(room, "FOLLOWERS", ())]


def doors(name: str) -> list[Callable[..., Any]]:
    """The functions of this name that the rooms have, in their order."""
    return [getattr(room, name) for room in ROOMS if hasattr(room, name)]


# The records of all keys below ``gateway``.
KEYS = by_name(*(key for room in ROOMS for key in getattr(room, "KEYS", ())))


def read(pillar: object) -> tuple[Site | None, list[str]]:
    """Read a site from the value of the pillar key ``gateway``.

    Returns the site and no errors, or None and every error, each as ``pillar:key: what is wrong``.
    """
    if pillar is None:
        return None, ["gateway: missing; see pillar.example"]
    reader = Reader()
    top = Section(reader, "gateway", pillar, KEYS)
    site = _read_site(top)
    _gateway_policy.claim_ssh(reader, site.firewall)
    _gateway_nodes.check_places(reader, site)
    _gateway_nodes.check_names(reader, site)
    ports = [ports(site) for ports in doors("ports")]
    _gateway_nodes.check_own_ports(reader, site, dict(ChainMap(*ports)))
    _gateway_nodes.check_own_addresses(reader, site)
    _gateway_follow.check_units(reader, site, OWN_UNITS, FOLLOWERS)
    top.refuse_unknown()
    # What each node meets in a value that stands there once is said once.
    return (None, list(dict.fromkeys(reader.errors))) if reader.errors else (site, [])


def _read_site(top: Section) -> Site:
    """What each room reads of it. A part that is wrong or missing is None."""
    domain = top.get("domain")
    internal = _gateway_nodes.read_internal(top, domain)
    public = _gateway_nodes.read_public(top, domain)
    networks = _gateway_networks.read_networks(top, domain)
    link = _gateway_sync.read_sync_link(top)
    nodes = _gateway_nodes.read_nodes(top, internal, public, networks, link, domain)
    vpn = _gateway_vpn.read_vpn(top, nodes, public)
    routes = _gateway_networks.read_routes(top, internal, networks)
    own_networks = (internal.network, *(network.network for network in networks))
    behind = values.Networks(own_networks)
    hosts = _gateway_dns.read_hosts(top, behind, domain)
    clients = client_addresses(vpn.clients, vpn.servers, nodes)
    own = own_names(internal, public, networks, nodes)
    local = _gateway_networks.addresses(internal, networks, routes)
    names = Names(top.reader, hosts, domain, own, vpn.servers, clients, local)
    followers = _gateway_follow.read_followers(top)
    inside = values.Networks((*own_networks, *(route.network for route in routes)))
    gateways = {internal.virtual_ip, *(network.virtual_ip for network in networks)}
    for node in nodes:
        gateways |= {node.internal, *node.addresses.values()}
    known = _gateway_dhcp.known(top.reader, behind, hosts)
    router_id, keepalived = _gateway_failover.read_keepalived(top)
    ntp_provider, ntp = _gateway_ntp.read_ntp(top)
    return Site(
        domain=domain,
        nodes=nodes,
        internal=internal,
        public=public,
        router_id=router_id,
        state_sync=_gateway_sync.check_state_sync(top, public, nodes, link),
        failover=_gateway_failover.read_failover(top),
        health=_gateway_failover.read_health(top),
        vpn_servers=vpn.servers,
        vpn_clients=vpn.clients,
        vpn_pki=vpn.pki,
        vpn_error=vpn.error,
        vpn_remote=vpn.remote,
        hosts=hosts,
        firewall=_gateway_policy.read_firewall(top, names),
        nat=_gateway_nat.read_nat(top, names, inside, public, gateways),
        dns=_gateway_dns.read_dns(top),
        dhcp=_gateway_dhcp.read_dhcp(top, internal, known),
        ntp=ntp,
        ntp_provider=ntp_provider,
        keepalived=keepalived,
        follow_virtual_ip=followers,
        networks=_gateway_networks.read_dhcp(top, networks, known),
        routes=routes,
    )


def plan(site: Site, name: str) -> dict[str, Any]:
    """What node ``name`` of the site is to be: dicts, lists, text, numbers and booleans only.

    Addresses and networks are text, times are seconds. Raises ValueError for a node that the site
    does not have.
    """
    errors = _gateway_nodes.check_node(site, name)
    if errors:
        raise ValueError(errors[0])
    node = next(node for node in site.nodes if node.name == name)
    planned: dict[str, Any] = {"formula": VERSION, "digest": site.digest, "domain": site.domain}
    for planned_by in doors("plan"):
        planned |= planned_by(site, node)
    planned["openings"] = [each for openings in doors("openings") for each in openings(planned)]
    planned["units"] = [unit for units in doors("units") for unit in units(planned)]
    watched = [f"{unit['unit']}.service" for unit in planned["units"] if unit["watched"]]
    health = planned["health"]
    health["services"] = list(dict.fromkeys((*watched, *health["services"])))
    return planned
