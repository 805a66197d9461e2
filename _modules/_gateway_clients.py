"""VPN clients: names, addresses, networks behind them, and what they are told."""

from ipaddress import IPv4Network
from typing import Any

import _gateway_values as values
from _gateway_reader import Section
from _gateway_site import (
    VPN_PREFIXES,
    Node,
    Site,
    VpnClient,
    VpnServer,
    vpn_subnets,
)

LONGEST_PUSH = 240  # OpenVPN reads lines of up to 255 characters, and this one has 7 more
# OpenVPN's TLS_USERNAME_LEN, and X.520's upper bound for a common name (RFC 5280 appendix A).
LONGEST_COMMON_NAME = 64


def _client_name(value: object) -> str:
    """A common name as OpenVPN sees it: it has made _ of what cannot be printed."""
    text = values.string(value)
    fits = text.isprintable() and 0 < len(text.encode()) <= LONGEST_COMMON_NAME
    if not fits or text != text.strip():
        raise ValueError(
            f"{values.show(value)} is not a certificate's common name (printable characters,"
            f" {LONGEST_COMMON_NAME} bytes at most, no space at its ends)"
        )
    if text in (".", ".."):
        raise ValueError("OpenVPN looks for no file of that name")
    if text == "DEFAULT":
        raise ValueError("this is OpenVPN's name for the clients without an entry")
    return text


def _client_network(value: object) -> IPv4Network:
    network = values.network(value)
    for other in (*values.NO_HOSTS, values.LINK_LOCAL):
        if network.subnet_of(other):
            raise ValueError(f"{network} is inside {other}, of which no host has an address")
    # A node on which the client is connected routes to both halves: a longer prefix wins.
    if not 1 <= network.prefixlen <= 31:
        raise ValueError(f"{network} is not a /1 to /31")
    return network


def _push(value: object) -> str:
    """What OpenVPN would leave out when a client connects, and only its journal would say so."""
    text = values.setting(values.string(value))
    if not text.strip():
        raise ValueError("is empty")
    if "," in text:
        raise ValueError(f"{values.show(text)} has a comma, which OpenVPN does not push")
    if len(text) > LONGEST_PUSH:
        raise ValueError(f"{values.show(text)} is longer than {LONGEST_PUSH} characters")
    return text


def read_clients(
    vpn: Section, servers: tuple[VpnServer, ...], nodes: tuple[Node, ...]
) -> tuple[VpnClient, ...]:
    clients = []
    smallest = max(vpn_subnets(servers, nodes), key=lambda pair: pair[1].prefixlen, default=None)
    for entry in vpn.entries("clients", _client_name):
        section = entry.section
        networks = section.placed("networks", _client_network)
        client = VpnClient(
            name=entry.name,
            id=section.get("id", values.whole(2, (1 << 31 - VPN_PREFIXES[0]) - 1), None),
            networks=tuple(networks.values()),
            pushes=section.items("pushes", _push),
            disabled=section.get("disabled", values.boolean, False),
        )
        section.close()
        # A rule names it in small letters, as it does all names.
        vpn.reader.claim("client name", client.file.lower(), section.path)
        vpn.reader.claim("client id", client.id, section.at("id"))
        for path, network in networks.items():
            vpn.reader.claim_network(network, path)
        if client.networks and len(nodes) > 2:
            section.reader.fault(
                section.at("networks"),
                "needs a site of at most two nodes: of more, none knows which has the client",
            )
        _check_client_id(section, client, smallest)
        clients.append(client)
    if clients and not servers:
        vpn.reader.fault(vpn.at("clients"), "there is no VPN server in gateway:vpn:servers")
    return tuple(clients)


def _check_client_id(
    section: Section, client: VpnClient, smallest: tuple[VpnServer, IPv4Network] | None
) -> None:
    """Below every dynamic range, so first of all below that of the smallest subnet."""
    if not client.id or not smallest:
        return
    server, subnet = smallest
    highest = subnet.num_addresses // 2 - 1
    if client.id > highest:
        section.reader.fault(
            section.at("id"),
            f"{client.id} is not in 2 to {highest}, the reserved part of {subnet}"
            f" (VPN server {server.name}); a /{31 - client.id.bit_length()} would do",
        )


def client_networks(site: Site) -> list[IPv4Network]:
    return [network for client in site.vpn_clients for network in client.networks]


def push_route(network: IPv4Network) -> str:
    return f"route {network.network_address} {network.netmask}"


def plan_client(client: VpnClient, subnet: IPv4Network) -> dict[str, Any]:
    """Its file in the folder of a server. What it is pushed is there and not in the server's own
    configuration, so that one client's networks are no reason to restart a server. The routes to
    the others' networks are the server's ``client_pushes`` without those to its own."""
    return {
        "name": client.name,
        "file": client.file,
        "disabled": client.disabled,
        "address": str(subnet.network_address + client.id) if client.id else None,
        "networks": [
            {
                "address": str(network.network_address),
                "netmask": str(network.netmask),
                "push": push_route(network),
                "halves": [str(half) for half in network.subnets()],
            }
            for network in client.networks
        ],
        "pushes": list(client.pushes),
    }
