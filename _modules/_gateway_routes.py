"""Routes between the nodes' VPN subnets, and to networks behind routers inside."""

import json
from typing import Any

import _gateway_machine
import _gateway_vpn_clients
from _gateway_machine import Facts, Here, Plan
from _gateway_site import Node, Site


def plan(site: Site, node: Node) -> dict[str, Any]:
    """To the VPN clients of each peer, and to what is behind clients."""
    # The node on which a client is connected has longer prefixes for its networks (files/vpn-
    # routes).
    return {
        "routes": [
            {"destination": str(server.subnet(peer)), "via": str(peer.internal)}
            for server in site.vpn_servers
            for peer in site.peers(node)
        ]
        + [
            {"destination": str(network), "via": str(peer.internal)}
            for network in _gateway_vpn_clients.client_networks(site)
            for peer in site.peers(node)
        ]
    }


UNKNOWN: Facts = {"routes": {}}


def status(plan: Plan, here: Here) -> tuple[Facts, list[str]]:
    """``routes``: by destination, ``via`` and whether it is ``present``."""
    live = _live_routes()
    routes = {
        route["destination"]: {
            "via": route["via"],
            "present": live.get(route["destination"]) == route["via"],
        }
        for route in plan["routes"]
    }
    problems = [
        f"the route to {destination} is missing"
        for destination, route in routes.items()
        if not route["present"]
    ]
    return {"routes": routes}, problems


def _live_routes() -> dict[str, str | None]:
    live = json.loads(
        _gateway_machine.output("ip", "-json", "-4", "route", "show", "table", "main") or "[]"
    )
    return {route["dst"]: route.get("gateway") for route in live}
