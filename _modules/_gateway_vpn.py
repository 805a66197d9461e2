"""OpenVPN: servers with a subnet for each node."""

import hashlib
import os
import re
import socket
import time
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import _gateway_clients
import _gateway_node
import _gateway_pem
import _gateway_values as values
from _gateway_node import Facts, Here, Plan, opening, service_unit
from _gateway_reader import Section
from _gateway_site import (
    INSTANCE_PREFIX,
    PUBLIC_MATERIAL,
    VPN_PREFIXES,
    Material,
    Network,
    Node,
    Site,
    VpnAuth,
    VpnServer,
    plan_settings,
)

TOKEN_LIFETIME = 12 * 3600  # seconds: a working day without being asked for a password again
_SERVER_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]*")
_PAM_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# OpenVPN's options, its own or pushed, that give the tunnel addresses or routes of IPv6; block-ipv6
# and a path with that word in it do not.
_SETS_IPV6 = re.compile(r"^(?:push )?(?:ifconfig-ipv6(?:-pool)?|route-ipv6|tun-ipv6)(?: |$)")
PAM = ("/etc/pam.d", "/usr/lib/pam.d")
# Keywords of OpenVPN's with a program that it calls without root's rights, and those whose words
# are no files of the node's.
CALLED_BY_OPENVPN = (
    *("auth-user-pass-verify", "down", "ipchange", "learn-address"),
    *("tls-crypt-v2-verify", "tls-verify"),
)
NO_FILES_OF_OPENVPN = ("echo", "push", "setenv")
MANAGEMENT = "/run/{instance}/control/management"
MANAGEMENT_SECONDS = 2
MANAGEMENT_SIZE = 4 * 1024 * 1024  # a client takes 200 bytes


def _server_name(value: object) -> str:
    text = values.matching(_SERVER_PATTERN, "a server name (small letters, digits, hyphens)")(value)
    longest = values.DEVICE_NAME_LENGTH - len(values.DEVICE_PREFIX)
    if len(text) > longest:
        raise ValueError(f"{values.show(value)} is longer than {longest} characters")
    return text


def _read_routes(
    section: Section, nodes: tuple[Node, ...], public: Network
) -> tuple[IPv4Network, ...]:
    """What a client is to send into the tunnel cannot hold where the tunnel itself leads to, unless
    it is a full one: then the client has a route of its own to there."""
    places: list[tuple[object, str]] = [(public.virtual_ip, "the virtual IP")]
    places += [(where, node.name) for node in nodes for where in (node.public, node.remote)]
    routes: dict[str, IPv4Network] = section.placed("routes", values.network)
    for path, network in routes.items() if section.values.get("full_tunnel") is not True else ():
        if not network.prefixlen:
            section.reader.fault(path, f"{network} is everything; use full_tunnel")
            continue
        for where, name in places:
            if _is_in(where, network):
                section.reader.fault(
                    path,
                    f"{network} holds {where}, where clients find {name}: their tunnel would lead"
                    " into itself",
                )
    return tuple(routes.values())


def _is_in(where: object, network: IPv4Network) -> bool:
    """Whether a place is an address in the network; it may also be a name, or none."""
    try:
        return IPv4Address(str(where)) in network
    except ValueError:
        return False


def read_servers(vpn: Section, nodes: tuple[Node, ...], public: Network) -> tuple[VpnServer, ...]:
    servers = []
    for entry in vpn.entries("servers", _server_name):
        section = entry.section
        server = VpnServer(
            name=entry.name,
            network=section.get("network", values.inside_network),
            prefix=section.get("prefix", values.whole(*VPN_PREFIXES), 24),
            port=section.get("port", values.port, 1194),
            proto=section.get("proto", values.one_of("udp", "tcp"), "udp"),
            subnets=_read_subnets(section.section("subnets"), nodes),
            full_tunnel=section.get("full_tunnel", values.boolean, False),
            routes=_read_routes(section, nodes, public),
            dynamic=section.get("dynamic", values.boolean, True),
            auth=_read_auth(section),
            settings=section.settings(),
        )
        section.close()
        refused = {key: _own_option(server, key, value) for key, value in server.settings}
        for keyword, why in refused.items():
            if why:
                section.reader.fault(f"{section.at('settings')}:{keyword}", why)
        if server.port and server.proto:
            vpn.reader.claim("port", f"{server.port}/{server.proto}", section.at("port"))
        vpn.reader.claim_network(server.network, section.at("network"))
        if server.network and server.prefix:
            _check_blocks(section, server, nodes)
        servers.append(server)
    return tuple(servers)


# What breaks the formula's own lines, the firewall or the check of the file, and the way round.
OWN_OPTIONS = {
    "auth-gen-token-secret": "use gateway:vpn:pki:auth_token",
    "ca": "use gateway:vpn:pki:ca",
    "ccd-exclusive": "use dynamic: false",
    "cert": "use gateway:vpn:pki:certificate",
    "chroot": "OpenVPN would no longer find the clients' files and the revocation list",
    "client-config-dir": "clients are in gateway:vpn:clients",
    "client-connect": "the formula's own script notes who is connected",
    "client-disconnect": "the formula's own script notes who is connected",
    "client-to-client": "clients reach each other through the firewall; this would pass it by",
    "crl-verify": "use gateway:vpn:pki:crl",
    "daemon": "systemd starts the server, and waits for it",
    "dev": "routes and firewall rules know the server by its device",
    "dev-node": "routes and firewall rules know the server by its device",
    "dev-type": "routes and firewall rules know the server by its device",
    "group": "the clients' files and the notes of who is connected are for user nobody",
    "ifconfig": "use network, prefix and subnets",
    "ifconfig-noexec": "the server needs its address",
    "ifconfig-pool": "it lies where no client has an address of its own",
    "key": "use gateway:vpn:pki:key",
    "local": "each node has addresses of its own; who may connect is a rule of firewall:input",
    "lport": "use port",
    "management": "see gateway.status",
    "port": "use port beside settings",
    "proto": "use proto beside settings",
    "remote-cert-tls": "only certificates of clients are let in",
    "server": "use network, prefix and subnets",
    "server-bridge": "use network, prefix and subnets",
    "server-ipv6": "use ifconfig-ipv6, ifconfig-ipv6-pool and push: [tun-ipv6]",
    "syslog": "the journal has it: journalctl -u openvpn-server@gateway-SERVER",
    "tls-crypt": "use gateway:vpn:pki:tls_crypt",
    "tls-crypt-v2": "use gateway:vpn:pki:tls_crypt_v2",
    "topology": "the clients' addresses are planned for topology subnet",
    "user": "the clients' files and the notes of who is connected are for user nobody",
}


def _own_option(server: VpnServer, keyword: str, value: str) -> str | None:
    """Why this line cannot be in a server's ``settings``; None where it can."""
    if keyword.startswith("management"):
        keyword = "management"
    if keyword == "script-security" and value not in ("2", "3"):
        return "the formula's own script needs 2"
    if keyword == "auth-user-pass-verify" and server.auth:
        return "auth of this server has its own; use auth:script"
    if keyword == "username-as-common-name" and server.auth and server.auth.same_name:
        return "with auth:same_name the name of the certificate counts"
    return OWN_OPTIONS.get(keyword)


def _read_auth(server: Section) -> VpnAuth | None:
    section = server.section("auth")
    auth = VpnAuth(
        pam=section.get("pam", values.matching(_PAM_PATTERN, "the name of a PAM service"), None),
        script=section.get(
            "script", values.matching(values.PATH_PATTERN, "an absolute path"), None
        ),
        token_lifetime=section.get("token_lifetime", values.whole(600, 31_536_000), TOKEN_LIFETIME),
        same_name=section.get("same_name", values.boolean, False),
    )
    section.close()
    if not section.readable:
        return None
    if ("pam" in section.values) == ("script" in section.values):
        section.reader.fault(section.path, "needs either pam or script")
    return auth


def _read_subnets(section: Section, nodes: tuple[Node, ...]) -> dict[str, IPv4Network]:
    found = {node.name: section.get(node.name, values.network, None) for node in nodes}
    section.close()
    return {name: subnet for name, subnet in found.items() if subnet}


def _check_blocks(section: Section, server: VpnServer, nodes: tuple[Node, ...]) -> None:
    """Every node's subnet must be a block inside the server's network that no other node has."""
    if server.prefix < server.network.prefixlen:
        way = _way_out(server, max((each.id or 1 for each in nodes), default=1))
        section.reader.fault(
            section.at("prefix"), f"a /{server.prefix} does not fit into {server.network}: {way}"
        )
        return
    blocks = 1 << (server.prefix - server.network.prefixlen)
    taken: list[tuple[IPv4Network, Node]] = []
    for node in nodes:
        path = section.at("network")
        if node.name in server.subnets:
            path = f"{section.at('subnets')}:{node.name}"
        elif not node.id:
            continue
        elif node.id > blocks:
            section.reader.fault(
                path,
                f"{server.network} has room for {blocks} subnet{'s' * (blocks > 1)} of"
                f" /{server.prefix}; node {node.name} has id {node.id}:"
                f" {_way_out(server, max(each.id or 0 for each in nodes))}",
            )
            continue
        subnet = server.subnet(node)
        if not subnet.subnet_of(server.network):
            section.reader.fault(path, f"{subnet} is not inside {server.network}")
        elif not VPN_PREFIXES[0] <= subnet.prefixlen <= VPN_PREFIXES[1]:
            section.reader.fault(
                path, f"{subnet} is not a /{VPN_PREFIXES[0]} to /{VPN_PREFIXES[1]}"
            )
        for other, owner in taken:
            if subnet.overlaps(other) and owner.id != node.id:
                section.reader.fault(path, f"{subnet} overlaps {other} of node {owner.name}")
        taken.append((subnet, node))


def _way_out(server: VpnServer, nodes: int) -> str:
    """What gives a server subnets for so many nodes."""
    bits = (nodes - 1).bit_length()
    ways = [f"a network of /{server.prefix - bits}"]
    if server.network.prefixlen + bits <= VPN_PREFIXES[1]:
        ways.append(f"prefix {server.network.prefixlen + bits}")
    return f"{' or '.join(ways)} would do"


def read_remote(vpn: Section, public: Network) -> str | None:
    """Where clients find the node that has the public virtual IP."""
    remote: str | None = vpn.get("remote", values.server_address, None)
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
        "networks": [str(network) for network in _gateway_clients.client_networks(site)],
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
        site.internal.network,
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
        # The servers' whole networks, not the peers' subnets: a new node changes no push.
        "pushes": [
            _gateway_clients.push_route(network)
            for network in reachable
            if network and network != subnet
        ]
        + (_push_everything(server) if server.full_tunnel else [])
        + [f"dhcp-option DNS {site.internal.virtual_ip}", f"dhcp-option DOMAIN {site.domain}"],
        "full_tunnel": server.full_tunnel,
        "block_ipv6": server.full_tunnel and not _has_ipv6(server),
        "routes": [str(network) for network in server.routes],
        "dynamic": server.dynamic,
        "dynamic_range": [str(end) for end in server.dynamic_range(node)],
        "auth": dict(vars(server.auth)) if server.auth else None,
        "clients": [_gateway_clients.plan_client(client, subnet) for client in site.vpn_clients],
        "client_pushes": [
            _gateway_clients.push_route(network)
            for network in _gateway_clients.client_networks(site)
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
    return list(filter(None, map(_gateway_node.out_of_sight, paths)))


def _route_warnings(plan: Plan) -> list[str]:
    """Networks to which a VPN server's clients are sent, and no rule lets them through."""
    accepting = [rule for rule in plan["firewall"]["forward"] if rule["action"] == "accept"]
    open_to_all = [
        plan["internal"]["network"],
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
        and not any(_gateway_node.overlap(network, other) for other in open_to_all)
        and not any(
            _may_be(rule["from"], server["network"]) and _may_be(rule["to"], network)
            for rule in accepting
        )
    ]


def _may_be(targets: list[dict[str, Any]], network: str) -> bool:
    """Whether what a rule names (nothing is everything) may be addresses of an IPv4 network."""
    return not targets or any(
        _gateway_node.overlap(target["address"], network)
        if "address" in target
        else target.get("family") != 6
        for target in targets
    )


def _script_faults(path: str) -> list[str]:
    """OpenVPN calls it when it has dropped its privileges."""
    if not os.path.isfile(path):
        return [f"{path} is not there on this node"]
    hidden = _gateway_node.out_of_sight(path)
    if hidden:
        return [hidden]
    with open(path, "rb") as file:
        needs = ["-x", "-r"] if file.read(2) == b"#!" else ["-x"]
    nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    if all(_gateway_node.succeeds(*nobody, "test", need, path) for need in needs):
        return []
    return [f"user nobody, as whom OpenVPN calls it, may not execute {path}"]


UNKNOWN: Facts = {"vpn": {}}


def status(plan: Plan, here: Here) -> tuple[Facts, list[str]]:
    """``vpn``: by server, its tunnel and who is connected. A drain stops them all."""
    addresses = _gateway_node.addresses_of(here.links)
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
        # Name, real address, address in the tunnel (none before the client was let in), ...
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
            # OpenVPN has no privileges: its answer has a size and a time.
            connection.settimeout(max(0.001, end - time.monotonic()))
            chunk = connection.recv(65536)
            size += len(chunk)
            if not chunk or size > MANAGEMENT_SIZE:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            rows += [line.decode(errors="replace").rstrip().split("\t") for line in lines if line]
    return rows
