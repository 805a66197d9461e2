"""OpenVPN: servers with a subnet for each node."""

import hashlib
import os
import re
import socket
import time
from dataclasses import dataclass
from typing import Any

import _gateway_kinds as kinds
import _gateway_machine
import _gateway_networks
import _gateway_pem
import _gateway_values as values
import _gateway_vpn_clients
import _gateway_vpn_servers
from _gateway_keys import EMPTY, Key, Mapping, Named, by_name
from _gateway_machine import Facts, Here, Plan, opening, service_unit
from _gateway_reader import Section
from _gateway_site import (
    INSTANCE_PREFIX,
    PUBLIC_MATERIAL,
    Material,
    Network,
    Node,
    Site,
    VpnClient,
    VpnServer,
    plan_settings,
)

# Options of OpenVPN, its own or pushed, that put IPv6 addresses or routes on the tunnel. block-ipv6
# does not, nor does a path that contains the word.
_SETS_IPV6 = re.compile(r"^(?:push )?(?:ifconfig-ipv6(?:-pool)?|route-ipv6|tun-ipv6)(?: |$)")
PAM = ("/etc/pam.d", "/usr/lib/pam.d")
# Keywords whose program OpenVPN calls without root's rights, and keywords whose words are not files
# on the node.
CALLED_BY_OPENVPN = (
    *("auth-user-pass-verify", "down", "ipchange", "learn-address"),
    *("tls-crypt-v2-verify", "tls-verify"),
)
NO_FILES_OF_OPENVPN = ("echo", "push", "setenv")
MANAGEMENT = "/run/{instance}/control/management"
MANAGEMENT_SECONDS = 2
MANAGEMENT_SIZE = 4 * 1024 * 1024  # a client takes 200 bytes


_VPN = by_name(
    Key(
        "remote",
        kinds.SERVER,
        None,
        "Where clients find the node that has the public virtual IP, which must be there. It"
        " comes [first in each profile](vpn.md#when-a-gateway-or-a-line-fails). Nothing on the"
        " nodes depends on it.",
    ),
    Key(
        "servers",
        Named("SERVER", _gateway_vpn_servers.SERVER, _gateway_vpn_servers.OF_SERVER),
        EMPTY,
        "[servers](#gatewayvpnserversserver).",
    ),
    Key(
        "clients",
        Named("CLIENT", _gateway_vpn_clients.CLIENT, _gateway_vpn_clients.OF_CLIENT),
        EMPTY,
        "[clients](#gatewayvpnclientsclient).",
    ),
    Key(
        "pki", Mapping(_gateway_pem.OF_SITE), EMPTY, "Certificates and keys: [pki](#gatewayvpnpki)."
    ),
)
KEYS = (
    Key(
        "vpn",
        Mapping(_VPN),
        EMPTY,
        "[vpn](#gatewayvpn).",
        more="further servers are gateway:vpn:servers",
    ),
)


@dataclass(frozen=True)
class Vpn:
    """What the site has of the VPN. ``error``: why there are no certificates."""

    servers: tuple[VpnServer, ...]
    clients: tuple[VpnClient, ...]
    pki: dict[str, Material]
    error: str | None
    remote: str | None


def read_vpn(top: Section, nodes: tuple[Node, ...], public: Network) -> Vpn:
    section = top.section("vpn")
    servers = _gateway_vpn_servers.read_servers(section, nodes, public)
    pki = section.section("pki")
    vpn = Vpn(
        servers=servers,
        clients=_gateway_vpn_clients.read_clients(section, servers, nodes),
        pki=_gateway_pem.read_pki(pki, ("gateway", "vpn", "pki")),
        error=_gateway_pem.read_refusal(pki),
        remote=_read_remote(section, public),
    )
    if servers and vpn.error is None:
        _gateway_pem.check_pki(top.reader, vpn.pki, nodes, servers)
    return vpn


def _read_remote(vpn: Section, public: Network) -> str | None:
    """Where clients find the node that has the public virtual IP."""
    remote: str | None = vpn.get("remote")
    if remote and not public.virtual_ip:
        vpn.reader.fault(
            vpn.at("remote"), "needs gateway:public:virtual_ip, the address that moves with it"
        )
    return remote


def plan(site: Site, node: Node) -> dict[str, Any]:
    return {"vpn": _vpn(site, node)}


def openings(plan: Plan) -> list[dict[str, Any]]:
    """Its clients are on the public side, and some at home behind the gateway."""
    return [
        opening(f"VPN server {server['name']}", server["proto"], server["port"], "public", "hosts")
        for server in plan["vpn"]["servers"]
    ]


def units(plan: Plan) -> list[dict[str, Any]]:
    servers = [
        service_unit(f"openvpn-server@{server['instance']}", drained=True)
        for server in plan["vpn"]["servers"]
    ]
    # It brings the routes to networks behind clients.
    return [*servers, *([service_unit("gateway-vpn-routes")] if plan["vpn"]["networks"] else [])]


def _vpn(site: Site, node: Node) -> dict[str, Any]:
    if not site.vpn_servers:
        return {"error": None, "pki": {}, "networks": [], "servers": []}
    return {
        "error": site.vpn_error,
        "pki": {
            name: _plan_material(name, material)
            for name, material in sorted((site.vpn_pki | node.pki).items())
        },
        "networks": [str(network) for network in _gateway_vpn_clients.client_networks(site)],
        "servers": [_plan_server(site, server, node) for server in site.vpn_servers],
    }


def _plan_material(name: str, material: Material) -> dict[str, Any]:
    """A path on the node, or the keys that lead to the PEM text in the pillar: a plan is shown and
    logged, so it never holds the text itself. Of what is public it has a hash, by which one sees
    that it is another one."""
    if material.path:
        return {"path": material.path}
    planned: dict[str, Any] = {"pillar": list(material.keys)}
    if name in PUBLIC_MATERIAL:
        planned["hash"] = hashlib.sha256((material.text or "").encode()).hexdigest()[:16]
    return planned


def _has_ipv6(server: VpnServer) -> bool:
    """Whether the pillar has set IPv6 up in the tunnel by itself."""
    return any(_SETS_IPV6.search(f"{keyword} {value}") for keyword, value in server.settings)


def _push_everything(server: VpnServer) -> list[str]:
    """A full tunnel. IPv6 is led into it as well, where the client answers that there is no way;
    else it would go beside the tunnel. (No ``ifconfig-ipv6``: a Linux client whose IPv6 is off
    would end with it.)"""
    if _has_ipv6(server):
        return ["redirect-gateway def1"]
    return ["redirect-gateway def1 ipv6", "block-ipv6"]


def _plan_server(site: Site, server: VpnServer, node: Node) -> dict[str, Any]:
    subnet = server.subnet(node)
    reachable = [
        *(network for local in site.local if local.trusted for network in local.all_networks),
        *(other.network for other in site.vpn_servers),
        *server.routes,
    ]
    return {
        "name": server.name,
        "instance": INSTANCE_PREFIX + server.name,
        "device": values.DEVICE_PREFIX + server.name,
        "port": server.port,
        "proto": server.proto,
        "network": str(server.network),
        "subnet": str(subnet),
        "subnet_address": str(subnet.network_address),
        "netmask": str(subnet.netmask),
        "address": str(subnet.network_address + 1),
        # The servers' whole networks and not the nodes' subnets, so that a new node does not change
        # what is pushed.
        "pushes": [
            _gateway_vpn_clients.push_route(network) for network in reachable if network != subnet
        ]
        + (_push_everything(server) if server.full_tunnel else [])
        + [f"dhcp-option DNS {site.internal.virtual_ip}", f"dhcp-option DOMAIN {site.domain}"],
        "full_tunnel": server.full_tunnel,
        "block_ipv6": server.full_tunnel and not _has_ipv6(server),
        "routes": [str(network) for network in server.routes],
        "dynamic": server.dynamic,
        "dynamic_range": [str(end) for end in server.dynamic_range(node)],
        "auth": dict(vars(server.auth)) if server.auth else None,
        "clients": [
            _gateway_vpn_clients.plan_client(client, subnet) for client in site.vpn_clients
        ],
        "client_pushes": [
            _gateway_vpn_clients.push_route(network)
            for network in _gateway_vpn_clients.client_networks(site)
        ],
        "settings": plan_settings(server.settings),
    }


def warnings(plan: Plan, here: Here) -> list[str]:
    """
    What is wrong with this node's VPN, or soon will be: with its routes, certificates, keys, the
    revocation list, and with programs that OpenVPN calls. It is no reason not to apply all the
    rest.
    """
    site = here.site
    if not site or not site.vpn_servers:
        return []
    if site.vpn_error:
        return [*_route_warnings(plan), f"gateway:vpn:pki:error: {site.vpn_error}"]
    node = next(node for node in site.nodes if node.name == plan["node"]["name"])
    return [*_route_warnings(plan), *_material_warnings(site, node), *_program_warnings(site)]


def _material_warnings(site: Site, node: Node) -> list[str]:
    return [
        f"{':'.join(material.keys)}: {fault}"
        for name, material in sorted((site.vpn_pki | node.pki).items())
        for fault in _gateway_pem.faults(name, material)
    ]


def _program_warnings(site: Site) -> list[str]:
    faults = []
    for server in site.vpn_servers:
        if server.auth and server.auth.script:
            key = f"gateway:vpn:servers:{server.name}:auth:script"
            faults += [f"{key}: {fault}" for fault in _script_faults(server.auth.script)]
        service = server.auth and server.auth.pam
        if service and not any(os.path.exists(f"{folder}/{service}") for folder in PAM):
            key = f"gateway:vpn:servers:{server.name}:auth:pam"
            faults.append(f"{key}: {PAM[0]}/{service} is not there on this node; nobody gets in")
        for keyword, value in server.settings:
            key = f"gateway:vpn:servers:{server.name}:settings:{keyword}"
            faults += [f"{key}: {fault}" for fault in _option_faults(keyword, value)]
    return faults


def _option_faults(keyword: str, value: str) -> list[str]:
    """Files that OpenVPN's check sees, as root and outside of the unit, and the server does not."""
    if keyword in NO_FILES_OF_OPENVPN:
        return []
    paths = [word for word in value.split() if word.startswith("/")]
    if keyword in CALLED_BY_OPENVPN and paths:
        return _script_faults(paths[0])
    return list(filter(None, map(_gateway_machine.out_of_sight, paths)))


def _route_warnings(plan: Plan) -> list[str]:
    """Networks to which a VPN server's clients are sent, and no rule lets them through."""
    accepting = [rule for rule in plan["firewall"]["forward"] if rule["action"] == "accept"]
    open_to_all = [
        *(net for each in _gateway_networks.local(plan) if each["trusted"] for net in each["all"]),
        *plan["vpn"]["networks"],
        *(server["network"] for server in plan["vpn"]["servers"]),
    ]
    return [
        f"gateway:vpn:servers:{server['name']}:routes: clients send what is for {network} into the"
        " tunnel, and no rule lets it through; add one to gateway:firewall:forward, such as"
        f" {{from: {server['name']}, to: {network}}}"
        for server in plan["vpn"]["servers"]
        for network in server["routes"]
        if not server["full_tunnel"]
        and not any(_gateway_machine.overlap(network, other) for other in open_to_all)
        and not any(
            _may_be(rule["from"], server["network"]) and _may_be(rule["to"], network)
            for rule in accepting
        )
    ]


def _may_be(targets: list[dict[str, Any]], network: str) -> bool:
    """Whether what a rule names (nothing is everything) may be addresses of an IPv4 network."""
    return not targets or any(
        _gateway_machine.overlap(target["address"], network)
        if "address" in target
        else target.get("family") != 6
        for target in targets
    )


def _script_faults(path: str) -> list[str]:
    """OpenVPN calls it when it has dropped its privileges."""
    if not os.path.isfile(path):
        return [f"{path} is not there on this node"]
    hidden = _gateway_machine.out_of_sight(path)
    if hidden:
        return [hidden]
    with open(path, "rb") as file:
        needs = ["-x", "-r"] if file.read(2) == b"#!" else ["-x"]
    nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    if all(_gateway_machine.succeeds(*nobody, "test", need, path) for need in needs):
        return []
    return [f"user nobody, as whom OpenVPN calls it, may not execute {path}"]


UNKNOWN: Facts = {"vpn": {}}


def status(plan: Plan, here: Here) -> tuple[Facts, list[str]]:
    """``vpn``: by server, its tunnel and who is connected. A drain stops them all."""
    addresses = _gateway_machine.addresses_of(here.links)
    servers = {
        server["name"]: {
            "address": server["address"],
            "up": server["address"] in addresses,
            "clients": _vpn_clients(server["instance"]),
        }
        for server in ([] if here.drained else plan["vpn"]["servers"])
    }
    problems = [
        f"the tunnel of VPN server {name} is down"
        for name, server in servers.items()
        if not server["up"]
    ]
    return {"vpn": servers}, problems


def _vpn_clients(instance: str) -> dict[str, list[str]]:
    """Who is connected, as ``{common name: [addresses]}``; empty where OpenVPN cannot be asked."""
    try:
        rows = _management(MANAGEMENT.format(instance=instance), "status 3")
    except OSError:
        return {}
    addresses: dict[str, list[str]] = {}
    for row in rows:
        # Columns: name, real address, address in the tunnel (empty before the client was let in),
        # ...
        if row[0] == "CLIENT_LIST" and any(row[3:4]):
            addresses.setdefault(row[1], []).append(row[3])
    return addresses


def _management(path: str, command: str) -> list[list[str]]:
    """The answer of an OpenVPN server to a command, up to its END, as rows of fields."""
    end = time.monotonic() + MANAGEMENT_SECONDS
    rows, size, rest = [], 0, b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(MANAGEMENT_SECONDS)
        connection.connect(path)
        connection.sendall(f"{command}\n".encode())
        while ["END"] not in rows:
            # OpenVPN runs without privileges and is not trusted: its answer is limited in size and
            # time.
            connection.settimeout(max(0.001, end - time.monotonic()))
            chunk = connection.recv(65536)
            size += len(chunk)
            if not chunk or size > MANAGEMENT_SIZE:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            rows += [line.decode(errors="replace").rstrip().split("\t") for line in lines if line]
    return rows
