"""VPN servers as the pillar has them: networks, subnets of the nodes, names and passwords."""

import re
from ipaddress import IPv4Address, IPv4Network

import _gateway_kinds as kinds
import _gateway_nodes
import _gateway_values as values
from _gateway_keys import (
    EMPTY,
    REQUIRED,
    Items,
    Key,
    Kind,
    Mapping,
    Settings,
    Values,
    by_name,
)
from _gateway_reader import Section
from _gateway_site import VPN_PREFIXES, Network, Node, VpnAuth, VpnServer

TOKEN_LIFETIME = 12 * 3600  # seconds: a working day without being asked for a password again
_SERVER_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]*")
_LONGEST_SERVER = values.DEVICE_NAME_LENGTH - len(values.DEVICE_PREFIX)
_ANOTHER = "another one is another server of gateway:vpn:servers"


def _server_name(value: object) -> str:
    text = values.matching(_SERVER_PATTERN, "a server name (small letters, digits, hyphens)")(value)
    if len(text) > _LONGEST_SERVER:
        raise ValueError(f"{values.show(value)} is longer than {_LONGEST_SERVER} characters")
    return text


# These break the formula's own lines, the firewall or the check of the file. Each with what to do
# instead.
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
    "management.*": "see gateway.status",
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
SERVER = Kind(
    _server_name,
    "name",
    lambda: kinds.text(_SERVER_PATTERN.pattern, "a VPN server's name", _LONGEST_SERVER),
)
_SUBNET = Kind(
    values.network,  # the prefix length is looked at where its place is
    "network",
    lambda: kinds.text(
        kinds.network_pattern(range(VPN_PREFIXES[0], VPN_PREFIXES[1] + 1)),
        f"an IPv4 network of /{VPN_PREFIXES[0]} to /{VPN_PREFIXES[1]}",
    ),
)
_SETTINGS = Settings(kinds.SETTING, OWN_OPTIONS)
_AUTH = by_name(
    Key(
        "pam",
        kinds.matching(r"[A-Za-z0-9][A-Za-z0-9._-]*", "the name of a PAM service"),
        None,
        "A PAM service: a file in `/etc/pam.d`, yours to make, that checks name and password.",
    ),
    Key(
        "script",
        kinds.PATH,
        None,
        "Instead of `pam`: a program that gets a file with name and password (a line each) as its"
        " argument, and exits with 0 if they are right. It runs as user `nobody`, who must be"
        " allowed to run it, and it lies outside of home directories; `gateway.validate` looks.",
    ),
    Key(
        "same_name",
        kinds.BOOLEAN,
        False,
        "The user's name has to be the common name of the client's certificate. Not with"
        " `username-as-common-name` in `settings`.",
    ),
    Key(
        "token_lifetime",
        kinds.whole(600, 31_536_000),
        TOKEN_LIFETIME,
        "Seconds for which a client needs no password again, on either gateway.",
    ),
)
OF_SERVER = by_name(
    Key("network", kinds.INSIDE_NETWORK, REQUIRED, "Divided into one subnet for each node."),
    Key(
        "prefix",
        kinds.whole(*VPN_PREFIXES),
        24,
        "Prefix length of the subnets; not shorter than that of `network`. The node with id n"
        " gets the n-th subnet, so the highest id decides how large `network` has to be.",
    ),
    Key("port", kinds.PORT, 1194, "The port, on all addresses of each node.", more=_ANOTHER),
    Key("proto", kinds.one_of("udp", "tcp"), "udp", "", more=_ANOTHER),
    Key(
        "subnets",
        Values(_gateway_nodes.MINION, _SUBNET, "mapping of node to network"),
        EMPTY,
        "Subnets of your choice instead of the n-th: inside `network`, /16 to /29, overlapping no"
        " other node's.",
    ),
    Key(
        "full_tunnel",
        kinds.BOOLEAN,
        False,
        "Clients send everything through the tunnel (the server pushes `redirect-gateway def1`)"
        " and may reach the internet; their IPv6 [is blocked](vpn.md#full-tunnels-and-ipv6).",
    ),
    Key(
        "routes",
        Items(kinds.NETWORK, "list of networks"),
        EMPTY,
        "Further routes to push, beside the internal network and all VPN networks. A rule of"
        " [`firewall:forward`](#gatewayfirewallinput) has to let through what is sent there"
        " (`gateway.validate` says which is missing). The nodes need a route to it, and it needs"
        " one back. Without a full tunnel none may hold the address under which clients find a"
        " node: the tunnel would lead into itself.",
    ),
    Key(
        "dynamic",
        kinds.BOOLEAN,
        True,
        "Whether clients without an entry below `clients` are let in.",
    ),
    Key(
        "auth", Mapping(_AUTH), EMPTY, "Names and passwords: [auth](#gatewayvpnserversserverauth)."
    ),
    Key(
        "settings",
        _SETTINGS,
        EMPTY,
        "Lines `keyword value` in the server's configuration file. Refused, with the reason and"
        " the way round, is what would break the formula's own lines, the firewall or the start:"
        " names and paths of certificates and keys, `port`, `proto`, `local`, `dev`, `topology`,"
        " `server`, `user`, `chroot`, `management`, `client-connect`, `client-to-client`,"
        " `daemon`, `syslog` and such. Scripts (`up`, `learn-address`, ...), `verb`, `log-append`,"
        " `port-share` and all the rest are possible. `gateway.validate` names files in home"
        " directories, which the unit does not see, and programs that user `nobody`, as whom all"
        " but `up` and `route-up` are called, may not execute.",
    ),
)


def _read_routes(
    section: Section, nodes: tuple[Node, ...], public: Network
) -> tuple[IPv4Network, ...]:
    """What a client is to send into the tunnel cannot hold where the tunnel itself leads to, unless
    it is a full one: then the client has a route of its own to there."""
    places: list[tuple[object, str]] = [(public.virtual_ip, "the virtual IP")]
    places += [(where, node.name) for node in nodes for where in (node.public, node.remote)]
    routes: dict[str, IPv4Network] = section.placed("routes")
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
    for entry in vpn.entries("servers"):
        section = entry.section
        server = VpnServer(
            name=entry.name,
            network=section.get("network"),
            prefix=section.get("prefix"),
            port=section.get("port"),
            proto=section.get("proto"),
            subnets=_read_subnets(section.section("subnets"), nodes),
            full_tunnel=section.get("full_tunnel"),
            routes=_read_routes(section, nodes, public),
            dynamic=section.get("dynamic"),
            auth=_read_auth(section),
            settings=section.settings(),
        )
        refused = {key: _needless(server, key, value) for key, value in server.settings}
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


def _needless(server: VpnServer, keyword: str, value: str) -> str | None:
    """Why this line cannot be there beside the server's other keys; None where it can."""
    if keyword == "script-security" and value not in ("2", "3"):
        return "the formula's own script needs 2"
    if keyword == "auth-user-pass-verify" and server.auth:
        return "auth of this server has its own; use auth:script"
    if keyword == "username-as-common-name" and server.auth and server.auth.same_name:
        return "with auth:same_name the name of the certificate counts"
    return None


def _read_auth(server: Section) -> VpnAuth | None:
    section = server.section("auth")
    auth = VpnAuth(
        pam=section.get("pam"),
        script=section.get("script"),
        token_lifetime=section.get("token_lifetime"),
        same_name=section.get("same_name"),
    )
    if not section.readable:
        return None
    if ("pam" in section.values) == ("script" in section.values):
        section.reader.fault(section.path, "needs either pam or script")
    return auth


def _read_subnets(section: Section, nodes: tuple[Node, ...]) -> dict[str, IPv4Network]:
    names = [node.name for node in nodes]
    for name in section.values:
        if name not in names:
            hint = values.did_you_mean(name, names)
            section.reader.fault(section.at(name), f"unknown key{hint}")
    found = {name: section.get(name) for name in names}
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
