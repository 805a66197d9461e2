"""Routes between the nodes' VPN subnets, and to networks behind routers inside."""

import json
from typing import Any

import _gateway_machine
import _gateway_vpn_clients
from _gateway_machine import Facts, Here, Plan
from _gateway_site import Node, Site


def plan(site: Site, node: Node) -> dict[str, Any]:
    """
    ``routes``: to the VPN clients of each peer, and to what is behind clients. ``ways_back``: the
    same for what comes in from a further network, by its interface. It goes to the peer in that
    network, so there it is as if the host had sent it to the peer: nothing is forged, and rules
    that name the network mean it.
    """
    # The node on which a client is connected has longer prefixes for its networks (files/vpn-
    # routes).
    destinations = [
        (str(server.subnet(peer)), peer) for server in site.vpn_servers for peer in site.peers(node)
    ] + [
        (str(network), peer)
        for network in _gateway_vpn_clients.client_networks(site)
        for peer in site.peers(node)
    ]
    return {
        "routes": [
            {"destination": destination, "via": str(peer.internal)}
            for destination, peer in destinations
        ],
        "ways_back": [
            {
                "interface": node.interface_in(network.name),
                # Tables have numbers of 32 bits, and networks virtual IPs of their own.
                "table": int(network.virtual_ip),
                "routes": [
                    {"destination": destination, "via": str(peer.address_in(network.name))}
                    for destination, peer in destinations
                ],
            }
            for network in site.networks
            if destinations
        ],
    }


UNKNOWN: Facts = {"routes": {}}


def status(plan: Plan, here: Here) -> tuple[Facts, list[str]]:
    """``routes``: by destination, ``via`` and whether it is ``present``."""
    live = _live_routes()
    facts = {
        route["destination"]: {
            "via": route["via"],
            "present": live.get((route["destination"], None)) == route["via"],
        }
        for route in (*plan["routes"], *plan["inside_routes"])
    }
    problems = [
        f"the route to {destination} is missing"
        for destination, route in facts.items()
        if not route["present"]
    ]
    return {"routes": facts}, problems + _way_back_problems(plan, live)


def _way_back_problems(plan: Plan, live: dict[tuple[str, int | None], str | None]) -> list[str]:
    if not plan["ways_back"]:
        return []
    rules = json.loads(_gateway_machine.output("ip", "-N", "-json", "-4", "rule", "show") or "[]")
    looked_up = {(rule.get("iif"), rule.get("table")) for rule in rules}
    return [
        f"the way back from {way['interface']} to VPN clients of a peer is missing"
        for way in plan["ways_back"]
        if (way["interface"], str(way["table"])) not in looked_up
        or any(
            live.get((route["destination"], way["table"])) != route["via"]
            for route in way["routes"]
        )
    ]


def _live_routes() -> dict[tuple[str, int | None], str | None]:
    """The router of each destination and table (None: the main one). ip leaves out a /32."""
    command = ("ip", "-json", "-4", "route", "show", "table", "all")
    live = json.loads(_gateway_machine.output(*command) or "[]")
    return {
        (dst if "/" in dst else f"{dst}/32", int(table) if table and table.isdigit() else None): (
            route.get("gateway")
        )
        for route in live
        for dst, table in ((route["dst"], route.get("table")),)
        if table in (None, "main") or table.isdigit()
    }
