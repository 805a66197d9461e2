"""Time: chrony or ntpsec on each node, with each other as peers."""

from typing import Any

from _gateway_site import (
    Node,
    Site,
    plan_settings,
)

# What the check of chrony or NTPsec lets through, and then nobody gets the time.
_NTP_OWN = {
    "bindaddress": "each node has addresses of its own, and the firewall says who may ask",
    "binddevice": "each node has interfaces of its own, and the firewall says who may ask",
    "pidfile": "systemd waits for the distribution's",
    "port": "clients and the firewall know port 123",
    "user": "it runs as the distribution's user",
}


def refuse_ntp(keyword: str) -> str | None:
    return _NTP_OWN.get(keyword.lower())  # chrony does not mind the case


def plan_ntp(site: Site, peers: list[Node]) -> dict[str, Any]:
    return {
        "provider": site.ntp_provider,
        # A name stands for all the addresses behind it.
        "servers": [
            {"address": server, "pool": not server.rsplit(".", 1)[-1].isdigit()}
            for server in site.ntp.servers
        ],
        "peers": [str(peer.internal) for peer in peers],
        "allow": [str(site.internal.network)]
        + [str(server.network) for server in site.vpn_servers],
        "settings": plan_settings(site.ntp.settings),
    }
