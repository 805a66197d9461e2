"""VPN clients: names, addresses, networks behind them, and what they are told."""

from ipaddress import IPv4Network
from typing import Any

import _gateway_kinds as kinds
import _gateway_values as values
from _gateway_keys import EMPTY, Items, Key, Kind, by_name
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
# The node on which the client is connected has routes to both halves of the network. The longer
# prefix wins.
CLIENT_PREFIXES = range(1, 32)


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
    if network.prefixlen not in CLIENT_PREFIXES:
        raise ValueError(f"{network} is not a /{CLIENT_PREFIXES[0]} to /{CLIENT_PREFIXES[-1]}")
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


# As far as a pattern can say it: bytes are not characters.
CLIENT = Kind(
    _client_name,
    "text",
    lambda: kinds.text(
        r"(?!DEFAULT$|\.\.?$| |[^\n]* $)"
        rf"[^\x00-\x1f\x7f-\xa0\u2028\u2029\ud800-\udfff]{{1,{LONGEST_COMMON_NAME}}}",
        "a certificate's common name",
    ),
)
_NETWORK = Kind(
    _client_network,
    "network",
    lambda: kinds.text(
        f"(?!{kinds.within((*values.NO_HOSTS, values.LINK_LOCAL))})"
        + kinds.network_pattern(CLIENT_PREFIXES),
        "an IPv4 network of /1 to /31",
    ),
)
_PUSH = Kind(
    _push,
    "text",
    lambda: kinds.text(
        rf"(?=[^\n,]{{1,{LONGEST_PUSH}}}$)(?! *$){kinds.SETTING_PATTERN}",
        "an option without quotes and commas",
    ),
)
OF_CLIENT = by_name(
    Key(
        "id",
        kinds.whole(2, (1 << 31 - VPN_PREFIXES[0]) - 1, "2 to half a subnet - 1"),
        None,
        "Unique. The client's host part in each subnet of each server and node: with 5 it has"
        " 10.8.0.5 through gw1 and 10.8.1.5 through gw2. The smallest subnet decides how high it"
        " may be: 127 in a /24. The upper half of each subnet is for clients without an id.",
    ),
    Key(
        "networks",
        Items(_NETWORK, "list of networks"),
        EMPTY,
        "Networks behind the client, /1 to /31, overlapping nothing else of the site. They are"
        " connected with the internal network, the VPN networks and each other. At most two nodes."
        " The client must forward packets; its network needs routes to the site's networks through"
        " it.",
    ),
    Key(
        "pushes",
        Items(_PUSH, "list of text"),
        EMPTY,
        "Options that OpenVPN pushes to this client alone, such as `route 192.0.2.0"
        " 255.255.255.0`; at most 240 characters, without commas.",
    ),
    Key("disabled", kinds.BOOLEAN, False, "Refused on every node, whatever its certificate says."),
)


def read_clients(
    vpn: Section, servers: tuple[VpnServer, ...], nodes: tuple[Node, ...]
) -> tuple[VpnClient, ...]:
    clients = []
    smallest = max(vpn_subnets(servers, nodes), key=lambda pair: pair[1].prefixlen, default=None)
    for entry in vpn.entries("clients"):
        section = entry.section
        networks = section.placed("networks")
        client = VpnClient(
            name=entry.name,
            id=section.get("id"),
            networks=tuple(networks.values()),
            pushes=section.get("pushes"),
            disabled=section.get("disabled"),
        )
        # Rules use lower case for all names.
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
