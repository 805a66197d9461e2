"""Numbers for a monitoring system: a small service, to show what a new one takes."""

from typing import Any

from _gateway_machine import Plan, opening, service_unit
from _gateway_site import Node, Site

PORT = 9100
FOLLOWERS = ("gateway-exporter.service",)


def plan(site: Site, node: Node) -> dict[str, Any]:
    return {"exporter": {"port": PORT}}


def ports(site: Site) -> dict[str, str]:
    return {f"{PORT}/tcp": "the exporter"}


def openings(plan: Plan) -> list[dict[str, Any]]:
    return [opening("exporter", "tcp", plan["exporter"]["port"], "inside")]


def units(plan: Plan) -> list[dict[str, Any]]:
    return [service_unit("gateway-exporter", where="primary")]
