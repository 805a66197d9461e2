"""Time: chrony or ntpsec on each node, with each other as peers."""

from typing import Any

import _gateway_kinds as kinds
import _gateway_machine
from _gateway_keys import EMPTY, Items, Key, Mapping, Settings, by_name, not_possible
from _gateway_machine import Facts, Here, Plan, opening, service_unit
from _gateway_reader import Section
from _gateway_site import (
    Node,
    Service,
    Site,
    plan_settings,
)

# The check of chrony or NTPsec accepts these, and then nobody gets the time.
_NTP_OWN = {
    "bindaddress": "each node has addresses of its own, and the firewall says who may ask",
    "binddevice": "each node has interfaces of its own, and the firewall says who may ask",
    "pidfile": "systemd waits for the distribution's",
    "port": "clients and the firewall know port 123",
    "user": "it runs as the distribution's user",
}

# Each name of the units of a provider's package.
OWN_UNITS = ("chrony", "chronyd", "chrony-wait", "ntpsec", "ntp", "ntpd", "ntpsec-wait")


# chrony does not mind the case.
_SETTINGS = Settings(
    kinds.SETTING,
    not_possible({kinds.any_case(keyword): why for keyword, why in _NTP_OWN.items()}),
)
_NTP = by_name(
    Key("provider", kinds.one_of("chrony", "ntpsec"), "chrony", ""),
    Key(
        "servers",
        Items(kinds.SERVER, "list of addresses or names"),
        EMPTY,
        "A name stands for all addresses behind it (`pool`).",
    ),
    Key(
        "settings",
        _SETTINGS,
        EMPTY,
        "Lines `keyword value` in the NTP server's configuration file.",
    ),
)
KEYS = (Key("ntp", Mapping(_NTP), EMPTY, "[ntp](#gatewayntp)."),)


def read_ntp(top: Section) -> tuple[str, Service]:
    """The provider, and what it is told."""
    section = top.section("ntp")
    return section.get("provider"), Service(section.get("servers"), section.settings())


def plan(site: Site, node: Node) -> dict[str, Any]:
    return {"ntp": _ntp(site, node)}


def ports(site: Site) -> dict[str, str]:
    """IANA's numbers. 323 is chrony's, for commands of the node itself."""
    return {"123/udp": "time", "323/udp": "time"}


def openings(plan: Plan) -> list[dict[str, Any]]:
    return [opening("time", "udp", 123, "inside", "others")]


def units(plan: Plan) -> list[dict[str, Any]]:
    return [service_unit(plan["ntp"]["provider"])]


def _ntp(site: Site, node: Node) -> dict[str, Any]:
    return {
        "provider": site.ntp_provider,
        # A name is used as a pool: all addresses that it resolves to.
        "servers": [
            {"address": server, "pool": not server.rsplit(".", 1)[-1].isdigit()}
            for server in site.ntp.servers
        ],
        "peers": [str(peer.internal) for peer in site.peers(node)],
        "allow": [str(network) for local in site.local for network in local.all_networks]
        + [str(server.network) for server in site.vpn_servers],
        "settings": plan_settings(site.ntp.settings),
    }


_NO_CLOCK: dict[str, Any] = {"synchronised": False, "stratum": None, "source": None}
UNKNOWN: Facts = {"ntp": _NO_CLOCK}


def status(plan: Plan, here: Here) -> tuple[Facts, list[str]]:
    """``ntp``: what the NTP server says of the clock."""
    clock = _clock(plan["ntp"]["provider"])
    return {"ntp": clock}, [] if clock["synchronised"] else ["the clock is not synchronised"]


def _clock(provider: str) -> dict[str, Any]:
    """``{synchronised: bool, stratum: int, source: text}`` of the node's NTP server."""
    if provider == "chrony":
        # Fields of -c: reference id, its name, stratum, ... and the leap status at the end.
        fields = _gateway_machine.output("chronyc", "-c", "tracking").strip().split(",")
        if len(fields) < 14:
            return _NO_CLOCK
        return {
            "synchronised": fields[-1] != "Not synchronised",
            "stratum": int(fields[2]),
            "source": fields[1] or fields[0],
        }
    output = _gateway_machine.output("ntpq", "-c", "rv 0 leap,stratum,refid")
    values = dict(item.strip().split("=", 1) for item in output.split(",") if "=" in item)
    if "stratum" not in values:
        return _NO_CLOCK
    # Leap indicator 3 is "unsynchronised" (RFC 5905 section 7.3).
    return {
        "synchronised": values.get("leap") not in ("3", "11"),
        "stratum": int(values["stratum"]),
        "source": values.get("refid"),
    }
