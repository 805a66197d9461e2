"""Routes between the nodes' VPN subnets."""

import json
from typing import Any

import _gateway_node
from _gateway_node import Plan


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
