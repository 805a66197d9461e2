"""Routes between the nodes' VPN subnets."""

import json
from typing import Any

import _gateway_clients
import _gateway_node
from _gateway_node import Plan
from _gateway_site import Node, Site


def plan(site: Site, node: Node) -> dict[str, Any]:
    """To the VPN clients of each peer, and to what is behind clients."""
    # Where a client is connected, its networks have longer routes (files/vpn-routes).
    return {
        "routes": [
            {"destination": str(server.subnet(peer)), "via": str(peer.internal)}
            for server in site.vpn_servers
            for peer in site.peers(node)
        ]
        + [
            {"destination": str(network), "via": str(peer.internal)}
            for network in _gateway_clients.client_networks(site)
            for peer in site.peers(node)
        ]
    }


def status(wanted: Plan, problems: list[str]) -> dict[str, Any]:
    live = _live_routes()
    found = {}
    for route in wanted["routes"]:
        present = live.get(route["destination"]) == route["via"]
        found[route["destination"]] = {"via": route["via"], "present": present}
        if not present:
            problems.append(f"the route to {route['destination']} is missing")
    return found


def _live_routes() -> dict[str, str | None]:
    live = json.loads(
        _gateway_node.output("ip", "-json", "-4", "route", "show", "table", "main") or "[]"
    )
    return {route["dst"]: route.get("gateway") for route in live}
