"""A client's OpenVPN profile: all servers of the site in an order, and the client's keys."""

import hashlib
import logging
from pathlib import Path

import _gateway_ca
import _gateway_files
import _gateway_plan
import _gateway_x509
from _gateway_site import Site

log = logging.getLogger(__name__)

# OpenVPN's CONNECTION_LIST_SIZE
MOST_REMOTES = 64

# Node, its name or address for clients, port and protocol; without a node, what moves with the
# public virtual IP.
Remote = tuple[str, str, int, str]


def profile(authority: _gateway_ca.Authority, name: str, site: Site) -> str:
    """The profile of a client, its private key included.

    Raises ValueError where the name has no certificate to use or is a gateway's, and where the site
    has no servers, or too many.
    """
    issued = authority.usable(name)
    if issued.kind != "client":
        raise ValueError(f"{name} is a gateway, not a client")
    ordered, shuffled = in_order(_remotes(site), name)
    if len(ordered) > MOST_REMOTES:
        raise ValueError(f"{len(ordered)} remotes: OpenVPN takes {MOST_REMOTES} at most")
    end = issued.current.not_valid_after_utc
    lines = [
        f"# VPN profile of {name} for the site {authority.site}, good until {end:%Y-%m-%d}.",
        "# It holds a private key: whoever has this file is in. Keep it to its owner.",
        *_connection(ordered, shuffled),
        *_login(site),
        *_protection(),
        *_inline("ca", authority.read("ca.crt")),
        *_inline("cert", _gateway_x509.pem(issued.current)),
        *_inline("key", issued.key),
        *_tls_crypt(authority),
        "",
    ]
    return "\n".join(lines)


def write_profiles(authority: _gateway_ca.Authority, site: Site, folder: Path) -> list[str]:
    """Write NAME.ovpn for each client with a good certificate, and remove those of all others.

    Returns the paths. A client whose file is damaged is passed over, and logged.
    """
    folder.mkdir(0o700, parents=True, exist_ok=True)
    written = []
    for entry in authority.entries():
        if "error" in entry:
            log.error("No profile for %s: %s", entry["name"], entry["error"])
        if entry["kind"] != "client" or not entry["current"]:
            continue
        path = folder / f"{entry['name']}.ovpn"
        if entry["revoked"] or entry["days_left"] < 0:
            path.unlink(missing_ok=True)
            continue
        _gateway_files.write(path, profile(authority, entry["name"], site))
        written.append(str(path))
    return written


def _remotes(site: Site) -> list[Remote]:
    """Every server of every node, server by server; before them that of whoever has the public
    virtual IP, where the pillar names it."""
    remotes = []
    for server in site.vpn_servers:
        if site.vpn_remote:
            remotes.append(("", site.vpn_remote, server.port, server.proto))
        for node in site.nodes:
            address = _gateway_plan.plan(site, node.name)["node"]["remote"]
            if not address:
                raise ValueError(
                    f"gateway:nodes:{node.name}:remote: missing; its public address is not known,"
                    " and VPN clients need a name or address"
                )
            remotes.append((node.name, address, server.port, server.proto))
    if not remotes:
        raise ValueError("gateway:vpn:servers: missing; there is nothing to connect to")
    return remotes


def in_order(remotes: list[Remote], name: str) -> tuple[list[Remote], bool]:
    """
    The remotes as the profile of a client lists them, and whether OpenVPN may shuffle them.

    Clients are to spread over the nodes, and to try TCP last. OpenVPN shuffles all or nothing, so
    where there is more than one server, the order of the nodes comes from the client's name.

    What moves with the virtual IP comes first, and twice: a client that has lost its gateway asks
    the address again that it had, and finds the other gateway there; one whose own line was cut has
    time to come back to the same. Nothing else can tell the two apart.
    """
    shared = [remote for remote in remotes if not remote[0]]
    remotes = [remote for remote in remotes if remote[0]]
    nodes = {node for node, *_ in remotes}
    if len(remotes) == len(nodes) and not shared:
        return remotes, True

    def place(remote: Remote) -> tuple[str, int, str]:
        node, _, port, proto = remote
        mixed = hashlib.sha256(f"{name} {node}".encode()).hexdigest()
        return proto, port, mixed

    def listed(proto: str) -> list[Remote]:
        first = [remote for remote in shared if remote[3] == proto]
        return first * 2 + sorted((one for one in remotes if one[3] == proto), key=place)

    udp, tcp = listed("udp"), listed("tcp")
    # OpenVPN goes on from where it is in the list. After UDP's last remote comes TCP's first, even
    # where UDP works: so UDP's come twice, and one failover does not end at TCP.
    return udp * (2 if tcp else 1) + tcp, False


def _connection(remotes: list[Remote], shuffled: bool) -> list[str]:
    """Where the gateways are, and how soon the next one is tried."""
    lines = [
        "client",
        "dev tun",
        "nobind",
        "",
        "# Every gateway is an entry to the same network. When one is gone, the next is tried.",
        *(f"remote {address} {port} {proto}" for _, address, port, proto in remotes),
        *(["remote-random"] if shuffled else []),
        "",
        "# Seconds: OpenVPN's own 120 and 60 are minutes without network when a gateway dies.",
        "server-poll-timeout 3",
        "hand-window 15",
        # No pause: what it asks first, after silence, is answered at once or not at all.
        "connect-retry 0 2",
    ]
    if all(proto == "udp" for *_, proto in remotes):
        # OpenVPN 2.5 refuses it in a profile that has a TCP remote.
        lines += ["# Tell the gateway when this client leaves.", "explicit-exit-notify 1"]
    # No persist-tun: a full tunnel to a dead gateway would swallow the way to the next one.
    return lines


def _login(site: Site) -> list[str]:
    if not any(server.auth for server in site.vpn_servers):
        return []
    return ["# Ask for a name and a password, once.", "auth-user-pass"]


def _protection() -> list[str]:
    """What a gateway has to prove, and how DNS is set up by hand."""
    return [
        "",
        "# Only a gateway's certificate will do, no other client's.",
        "remote-cert-tls server",
        "tls-version-min 1.2",
        "data-ciphers AES-256-GCM:CHACHA20-POLY1305:AES-128-GCM",
        "verb 3",
        "",
        "# Linux without NetworkManager: with the package openvpn-systemd-resolved, these lines",
        "# make names of the network known while the tunnel is up.",
        "#script-security 2",
        "#up /etc/openvpn/update-systemd-resolved",
        "#down /etc/openvpn/update-systemd-resolved",
        "#down-pre",
        "",
    ]


def _tls_crypt(authority: _gateway_ca.Authority) -> list[str]:
    keys = authority.keys()
    if "tls_crypt_v2" in keys:
        return _inline(
            "tls-crypt-v2", _gateway_x509.tls_crypt_v2_key(keys["tls_crypt_v2"], authority.now)
        )
    return _inline("tls-crypt", authority.read(_gateway_ca.KEYS["tls_crypt"]))


def _inline(tag: str, text: str) -> list[str]:
    return [f"<{tag}>", text.strip(), f"</{tag}>"]
