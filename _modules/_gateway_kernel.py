"""Kernel settings of a gateway: forwarding, ARP, conntrack."""

from typing import Any

import _gateway_machine
from _gateway_machine import Facts, Here, Plan
from _gateway_site import (
    Node,
    Site,
)

CONNECTIONS = "/proc/sys/net/netfilter/nf_conntrack_count"
CONNECTIONS_LIMIT = "/proc/sys/net/netfilter/nf_conntrack_max"
CONNECTIONS_MANY = 0.9  # of the limit; above 0.95 the kernel ends what it may to make room


def plan(site: Site, node: Node) -> dict[str, Any]:
    """What is set at once, and what only when the firewall's rules are in force."""
    return {"kernel": _settings(site, node), "forwarding": {"net/ipv4/ip_forward": "1"}}


def _settings(site: Site, node: Node) -> dict[str, str]:
    """Kernel settings, by the name under /proc/sys (with slashes: an interface may have dots)."""
    settings = {
        # Services may bind to the virtual IP also on the node that does not hold it.
        "net/ipv4/ip_nonlocal_bind": "1",
        # Packets and their replies may pass different nodes. The kernel uses the larger one of
        # `all` and the interface's value.
        "net/ipv4/conf/all/rp_filter": "2",
    }
    link = node.sync_interface if site.state_sync.interface else None
    # A redirect would give a host a route through the peer, which dies with it. The kernel sends
    # redirects when `all` or the interface allows it. `default` is for tunnels that are created
    # later.
    local = [node.interface_in(network.name) for network in site.local]
    for scope in ("all", "default", *local, node.public_interface):
        settings[f"net/ipv4/conf/{scope}/send_redirects"] = "0"
        settings[f"net/ipv4/conf/{scope}/accept_redirects"] = "0"
    # If both cards are on one switch, each hears ARP requests for the other's address. Only the
    # card that has the address answers (1), and it asks with an address of its own (2). Not set for
    # `all`: that would change other interfaces, too.
    for interface in filter(None, (*local, node.public_interface, link)):
        settings[f"net/ipv4/conf/{interface}/arp_ignore"] = "1"
        settings[f"net/ipv4/conf/{interface}/arp_announce"] = "2"
    # A host behind the gateway must not give it its IPv6 default route.
    for interface in local:
        settings[f"net/ipv6/conf/{interface}/accept_ra"] = "0"
    if not site.public.accept_ra:
        settings[f"net/ipv6/conf/{node.public_interface}/accept_ra"] = "0"
    if site.state_sync.interface:
        # After a failover the replicated sequence numbers of a connection are out of date.
        settings["net/netfilter/nf_conntrack_tcp_be_liberal"] = "1"
        # A connection that was not replicated in time is picked up in the middle.
        settings["net/netfilter/nf_conntrack_tcp_loose"] = "1"
    return settings


def status(plan: Plan, here: Here) -> tuple[Facts, list[str]]:
    """It has nothing to show, and says when there is little room for new connections."""
    return {}, _connection_problems()


def _connection_problems() -> list[str]:
    count, limit = _gateway_machine.number(CONNECTIONS), _gateway_machine.number(CONNECTIONS_LIMIT)
    if count is None or limit is None or count < limit * CONNECTIONS_MANY:
        return []
    return [
        f"{count} of {limit} connections: where no room is left, what is new is dropped, DNS too"
        " (net.netfilter.nf_conntrack_max)"
    ]
