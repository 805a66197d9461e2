"""
What the gateway formula computes from the site's pillar, and how a node is doing.

Each function works from the command line, from Jinja and over salt-ssh.
"""

import contextlib
import gc
import importlib
import json
import os
import re
import socket
import time
from datetime import datetime, timezone
from ipaddress import ip_address, ip_interface, ip_network

import gateway_foreign
import gateway_plan
import gateway_rules
import salt.pillar
import salt.utils.args
import salt.utils.path
from salt.exceptions import CommandExecutionError, SaltException, SaltInvocationError

try:
    import gateway_ca
except ImportError:  # over salt-ssh: the node's own Python may not have what it needs
    gateway_ca = None

# A long-running minion would go on with the planner that it loaded first. What is the same is kept:
# in one apply Salt 3008 loads this module twice.
for _library in filter(None, (gateway_ca, gateway_foreign, gateway_plan, gateway_rules)):
    if getattr(_library, "WRITTEN", None) != os.stat(_library.__file__).st_mtime_ns:
        importlib.reload(_library)

APPLIED = "/var/lib/gateway/applied"  # the plan; older versions wrote its digest alone
CRL = "/etc/gateway/openvpn/crl.pem"
LEASES = "/var/lib/gateway/dhcp.leases"
FIREWALL = "/usr/lib/gateway/firewall"
BACKEND = "/var/lib/gateway/firewall/backend"
LEGACY_TABLES = "/proc/net/ip_tables_names"
ROLE = "/run/gateway/role"
HOOKS = "/run/gateway/hooks.told"
HOOKS_GRACE = 10  # seconds
PAM = ("/etc/pam.d", "/usr/lib/pam.d")
FOLDERS = ("/etc/gateway/follow.d", "/etc/gateway/health.d")  # executables in them are the user's
LEFTOVER = re.compile(r"\.|.*(~|\.(dpkg|ucf|rpm)[a-z-]*)\Z")  # of editors and packages
# Keywords of dnsmasq's with a file or folder that it reads again and again.
READ_BY_DNSMASQ = (
    *("addn-hosts", "hostsdir", "resolv-file", "tftp-root"),
    *("dhcp-hostsfile", "dhcp-hostsdir", "dhcp-optsfile", "dhcp-optsdir", "dhcp-script"),
)
# Keywords of OpenVPN's with a program that it calls without root's rights, and those whose words
# are no files of the node's.
CALLED_BY_OPENVPN = (
    *("auth-user-pass-verify", "down", "ipchange", "learn-address"),
    *("tls-crypt-v2-verify", "tls-verify"),
)
NO_FILES_OF_OPENVPN = ("echo", "push", "setenv")
INTERFACES = "/sys/class/net"
KEEPALIVED = "/etc/keepalived/keepalived.conf"
# The second one has whom systemd-resolved asks, where the first one names it.
RESOLVERS = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
RESOLVED = "127.0.0.53"
# Where is the internet? Nothing is sent to it: an address of a root server of DNS.
FAR_AWAY = "198.41.0.4"
BRIDGE_FILTER = "/proc/sys/net/bridge"
RULES = "/var/lib/gateway/firewall/current/v4"
MANAGEMENT = "/run/{instance}/control/management"
MANAGEMENT_SECONDS = 2
MANAGEMENT_SIZE = 4 * 1024 * 1024  # a client takes 200 bytes
SYNC_REPORT = "/run/gateway/sync.json"
SYNC_SILENCE = 10  # seconds; conntrackd sends something each second
SYNC_TROUBLE = 20  # seconds
CONNECTIONS = "/proc/sys/net/netfilter/nf_conntrack_count"
CONNECTIONS_LIMIT = "/proc/sys/net/netfilter/nf_conntrack_max"
CONNECTIONS_MANY = 0.9  # of the limit; above 0.95 the kernel ends what it may to make room
HEALTH = "/run/gateway/health.json"
DRAINING = "/run/gateway/draining"  # read by /usr/lib/gateway/health
DRAINED = "/var/lib/gateway/drained"
UPTIME = "/proc/uptime"
# What of vpn:pki has an end.
EXPIRING = {
    "ca": "the CA's certificate",
    "certificate": "this node's certificate",
    "crl": "the revocation list",
}
EXPIRY_WARNING = 30  # days


def _called(kwargs):
    """Prepare a call. Raises CommandExecutionError where the pillar does not render."""
    errors = _refreshed(kwargs)
    if errors:
        raise CommandExecutionError("\n".join(["The pillar has errors:", *errors]))


def _refreshed(kwargs):
    """
    What keeps the pillar from being rendered. When the call came from the master, it is asked for
    again: the minion has it from its start or the last refresh, and a person who has just edited it
    means the new one.
    """
    unknown = salt.utils.args.clean_kwargs(**kwargs)
    if unknown:
        raise SaltInvocationError(f"unknown argument: {', '.join(unknown)}")
    if "__pub_fun" in kwargs and __opts__.get("__cli") == "salt-minion":
        compiler = salt.pillar.get_pillar(
            __opts__,
            dict(__grains__),
            __opts__["id"],
            saltenv=__opts__.get("saltenv"),
            pillarenv=__opts__.get("pillarenv"),
        )
        __context__["gateway.pillar"] = compiler.compile_pillar()
    return list(__context__.get("gateway.pillar", __pillar__).get("_errors", []))


def _in_force(kwargs):
    """
    This node's plan, and what keeps the pillar from being used. While something does, the plan is
    the one that was applied last, or has not more than its digest where that is not known.
    """
    try:
        errors = _refreshed(kwargs)
    except SaltInvocationError:
        raise
    except SaltException as error:
        errors = [f"the Salt master gives no pillar: {error}"]
    if not errors:
        site, errors = _site()
        errors = errors or gateway_plan.check_node(site, __opts__["id"])
    if not errors:
        return plan(), []
    applied = _applied()
    if "node" in applied:
        return applied, errors
    why = "the whole formula was never applied on this node"
    if applied["digest"]:
        why = "what was applied last is not known: an older version of the formula kept no plan"
    return applied, [*errors, why]


def _pillar():
    # Not pillar.get: Salt 3008 masks what that returns.
    return __context__.get("gateway.pillar", __pillar__).get("gateway")


def _site():
    """The site and its errors, read once for each pillar: an apply asks many times."""
    pillar = _pillar()
    cached = __context__.get("gateway.site")
    if cached is None or cached[0] is not pillar:
        with _no_garbage():
            cached = (pillar, *gateway_plan.read(pillar))
        __context__["gateway.site"] = cached
        __context__["gateway.plans"] = {}
        __context__.pop("gateway.foreign", None)
    return cached[1], cached[2]


@contextlib.contextmanager
def _no_garbage():
    """A large site is many objects, all of them wanted. While they come, Python would look through
    all that Salt has, again and again, for some that are not."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _valid_site():
    site, errors = _site()
    if errors:
        raise CommandExecutionError("\n".join(["The pillar of this site is wrong:", *errors]))
    return site


def _sides(plan):
    """Interface, this node's address (if the pillar has one) and network (likewise), by side."""
    sides = {
        side: (plan[side]["interface"], plan["node"][side], plan[side]["network"])
        for side in ("internal", "public")
    }
    if plan["node"]["sync"]:
        sides["sync"] = (plan["sync"]["interface"], plan["node"]["sync"], None)
    return sides


def _interface_errors(plan):
    """What the pillar says of this node's interfaces and the node itself does not have."""
    errors = []
    links = _links()
    for side, (interface, address, network) in _sides(plan).items():
        if not os.path.exists(f"{INTERFACES}/{interface}"):
            have = ", ".join(sorted(os.listdir(INTERFACES)))
            errors.append(
                f"{_interface_key(plan, side)}: this node has no interface {interface}, only {have}"
            )
            continue
        key = f"gateway:nodes:{plan['node']['name']}:{side}"
        if address and address not in _on(links, interface):
            errors.append(f"{key}: {address} is not on this node's interface {interface}")
        elif address and network:
            errors += [f"{key}: {fault}" for fault in _reach(links, interface, address, network)]
    return errors + _virtual_ip_errors(plan, links)


def _reach(links, interface, address, network):
    """Why the hosts of a side's network are not reached directly."""
    own = f"{address}/{_on(links, interface)[address]['prefixlen']}"
    # Without the right length a route may say it, as some clouds have it.
    if _holds(ip_interface(own).network, network) or any(
        _holds(found, network) for found, device in _routes_on_link() if device == interface
    ):
        return []
    return [
        f"this node has {own} on {interface}, which does not reach {network}; give it the prefix"
        f" length of the network, or the network a route over {interface}"
    ]


def _holds(network, other):
    return ip_network(other).subnet_of(network)


def _virtual_ip_errors(plan, links):
    """
    An address that moves, and that a node has by itself. It would take itself for the primary
    before keepalived starts, and after keepalived has given the address away.
    """
    configured = _text(KEEPALIVED) or ""
    errors = []
    for instance in plan["vrrp"]["instances"]:
        moving = {"virtual_ip": [instance["virtual_ip"]], "addresses": instance["addresses"]}
        for key, address in [(key, each) for key, found in moving.items() for each in found]:
            for interface in links:
                length = _on(links, interface).get(address, {}).get("prefixlen")
                own = f"{address}/{length}"
                if length is None or _is_keepalived_s(configured, own, interface):
                    continue
                errors.append(
                    f"gateway:{instance['name']}:{key}: this node has {own} on {interface}, and not"
                    " by keepalived; take it out of what configures the interface"
                )
    return errors


def _is_keepalived_s(configuration, address, interface):
    """Whether keepalived's configuration, ours or one of before, has just this address there."""
    names = (address, address.removesuffix("/32"))
    for line in configuration.splitlines():
        words = re.sub("[{}]", " ", line).split()
        device = words[words.index("dev") + 1 :][:1] if "dev" in words else []
        if any(name in words for name in names) and device in ([], [interface]):
            return True
    return False


def _network_warnings(plan):
    """Where this node's addresses, routes and resolv.conf do not go with the pillar."""
    links = _links()
    for interface, address, _ in _sides(plan).values():
        if interface not in links or (address and address not in _on(links, interface)):
            return []  # the rest would follow from that
    routes = _routes_on_link()
    return [
        *_size_warnings(plan, links),
        *_overlap_warnings(plan, routes),
        *_way_out_warnings(plan),
        *_peer_warnings(plan, links, routes),
        *_lease_warnings(plan, links),
        *_resolver_warnings(plan, links),
    ]


def _size_warnings(plan, links):
    """A network that is larger on the node than in the pillar."""
    found = []
    for side, (interface, address, network) in _sides(plan).items():
        length = _on(links, interface).get(address, {}).get("prefixlen")
        if network and length is not None and length < ip_network(network).prefixlen:
            found.append(
                f"gateway:{side}:network: {network} here, but this node has {address}/{length} on"
                f" {interface}"
            )
    return found


def _overlap_warnings(plan, routes):
    """Another interface that takes what is meant for a network of the site."""
    networks = [
        (f"gateway:{side}:network", network, interface)
        for side, (interface, _, network) in _sides(plan).items()
        if network
    ]
    for server in plan["vpn"]["servers"]:
        networks.append((f"gateway:vpn:servers:{server['name']}:network", server["network"], None))
    networks += [("gateway:vpn:clients", network, None) for network in plan["vpn"]["networks"]]
    return [
        f"{key}: {found}, a part of {network}, is on this node's interface {device}, and packets"
        " for it go there"
        for key, network, interface in networks
        for found, device in routes
        if device != interface
        # The tunnels have theirs, also the one of a server that is called otherwise by now.
        and not device.startswith(gateway_plan.DEVICE_PREFIX)
        and found.subnet_of(ip_network(network))
    ]


def _way_out_warnings(plan):
    public = plan["public"]["interface"]
    route = json.loads(_output("ip", "-json", "-4", "route", "get", FAR_AWAY) or "[{}]")[0]
    if route.get("dev") == public:
        return []
    leads = f"this node's way to the internet is {route['dev']}" if route.get("dev") else ""
    leads = leads or "this node has no route to the internet (no default route)"
    return [f"{_interface_key(plan, 'public')}: {leads}; it should lead through {public}"]


def _peer_warnings(plan, links, routes):
    """The ends of the nodes' own link, whose network the pillar does not know."""
    if not plan["sync"]["enabled"]:
        return []
    interface, peer = plan["sync"]["interface"], plan["sync"]["peer"]
    own = _on(links, interface).get(plan["node"]["sync"])
    networks = [network for network, device in routes if device == interface]
    if own:
        networks.append(ip_interface(f"{own['local']}/{own['prefixlen']}").network)
    if any(_holds(network, peer) for network in networks):
        return []
    return [
        f"gateway:nodes:{plan['node']['name']}:sync: the peer's address, {peer}, is in no network"
        f" of this node's interface {interface}"
    ]


def _lease_warnings(plan, links):
    interface, address, _ = _sides(plan)["internal"]
    if not (plan["dhcp"]["enabled"] and _on(links, interface).get(address, {}).get("dynamic")):
        return []
    return [
        f"gateway:nodes:{plan['node']['name']}:internal: this node has {address} by DHCP, and the"
        " gateways are the DHCP server; after an outage of both nobody could give it"
    ]


def _resolver_warnings(plan, links):
    """Without forwarders dnsmasq asks whom resolv.conf names, and that may be the pair itself."""
    if plan["dns"]["forwarders"] or any(_asks_others(*pair) for pair in plan["dns"]["settings"]):
        return []
    servers = _nameservers(RESOLVERS[0])
    if RESOLVED in servers:
        servers = _nameservers(RESOLVERS[1])
    own = {plan["internal"]["virtual_ip"], plan["public"]["virtual_ip"]}
    own |= {address for link in links for address in _on(links, link)}
    own |= {peer[side] for peer in plan["peers"] for side in ("internal", "public")}
    ourselves = [server for server in servers if _is_ourselves(server, own)]
    key = "gateway:dns:forwarders: missing, and /etc/resolv.conf of this node"
    if set(servers) > set(ourselves):
        return [f"{key} names {each}, which is the gateway itself" for each in ourselves]
    named = f"only the gateway itself ({', '.join(ourselves)})" if ourselves else "nobody"
    return [f"{key} names {named}: names outside of the site are not found"]


def _asks_others(keyword, value):
    """Whether a setting says whom dnsmasq is to ask; not if it is for some names only."""
    if keyword == "server":
        return not value.startswith("/")
    return keyword in ("resolv-file", "no-resolv", "conf-file", "conf-dir")


def _nameservers(path):
    rows = [line.split() for line in (_text(path) or "").splitlines()]
    found = [row[1] for row in rows if row[:1] == ["nameserver"] and len(row) > 1]
    return [server for server in found if _is_address(server)]


def _is_address(text):
    try:
        return bool(ip_address(text))
    except ValueError:
        return False


def _is_ourselves(server, own):
    """On the loopback interface a server of somebody else may listen; ours does not."""
    if not ip_address(server).is_loopback:
        return server in own
    try:
        socket.create_connection((server, 53), 0.5).close()
    except OSError:
        return True
    return False


def _link_warnings(plan):
    """Of a running node the health monitor says it."""
    links = _links()
    found = []
    for side, (interface, _, _) in _sides(plan).items():
        flags = links.get(interface, {}).get("flags", ["UP"])
        if "UP" not in flags or "NO-CARRIER" in flags:
            what = "has no carrier" if "UP" in flags else "is down"
            found.append(f"{_interface_key(plan, side)}: {interface} {what}")
    return found


def _advertisement_errors(plan):
    """Who has IPv6 from a router on the public side would lose it without a word."""
    if plan["public"]["accept_ra"] is not None:
        return []
    command = ["ip", "-json", "-6", "route", "show", "default", "dev", plan["public"]["interface"]]
    routes = json.loads(_output(*command) or "[]")
    return [
        "gateway:public:accept_ra: this node has a default route of IPv6 from an advertisement of"
        f" {route.get('gateway')}; say true if it is to keep it, and false if not"
        for route in routes
        if route.get("protocol") == "ra"
    ]


def _ssh_errors(plan):
    """Who applies this over SSH from the public side must be able to come again."""
    connection = os.environ.get("SSH_CONNECTION", "").split()
    if len(connection) != 4:
        return []
    client, port, to = connection[0], int(connection[3]), connection[2]
    route = json.loads(_output("ip", "-json", "route", "get", client) or "[{}]")[0]
    public = plan["public"]["interface"]
    if route.get("dev") != public or gateway_rules.lets_in(plan, client, port, to):
        return []
    return [
        f"gateway:firewall:ssh:from: you are here by SSH from {client} on the public side, and the"
        " new rules would not let you in again; add that address"
    ]


def _foreign_errors(plan):
    """What other firewalls on this node refuse. IPv4 only, as what the site lives from."""
    # Without tables of its own, iptables-legacy would have its kernel modules loaded.
    legacy = _output("iptables-legacy-save") if _text(LEGACY_TABLES) else ""
    saves = {"nft": _output("iptables-nft-save"), "legacy": legacy}
    listing = _output("nft", "-j", "list", "tables")
    tables = gateway_foreign.foreign_tables(listing, saves["nft"])
    listed = [_output("nft", "-j", "list", "table", *table) for table in tables]
    return gateway_foreign.refusals(plan, _backend(saves), saves, listed)


def _foreign_errors_once(plan):
    """The same, looked for once for each pillar: an apply asks many times."""
    if "gateway.foreign" not in __context__:
        __context__["gateway.foreign"] = _foreign_errors(plan)
    return __context__["gateway.foreign"]


def _backend(saves):
    """Which iptables our rules are in, or will go to: as find_backend of the firewall loader."""
    kept = _text(BACKEND)
    if kept:
        return kept
    program = os.path.realpath(salt.utils.path.which("iptables") or "")
    usual, other = ("legacy", "nft") if "legacy" in program else ("nft", "legacy")
    return other if "\n-A " in saves[other] and "\n-A " not in saves[usual] else usual


def _vpn_warnings():
    """
    What is wrong with this node's VPN, or soon will be: with certificates, keys, the revocation
    list, and with programs that OpenVPN calls. It is no reason not to apply all the rest.
    """
    site = _valid_site()
    if not site.vpn_servers:
        return []
    if site.vpn_error:
        return [f"gateway:vpn:pki:error: {site.vpn_error}"]
    node = next(node for node in site.nodes if node.name == __opts__["id"])
    found = []
    for name, material in sorted((site.vpn_pki | node.pki).items()):
        found += [f"{':'.join(material.keys)}: {fault}" for fault in _faults(name, material)]
    for server in site.vpn_servers:
        if server.auth and server.auth.script:
            key = f"gateway:vpn:servers:{server.name}:auth:script"
            found += [f"{key}: {fault}" for fault in _script_faults(server.auth.script)]
        service = server.auth and server.auth.pam
        if service and not any(os.path.exists(f"{folder}/{service}") for folder in PAM):
            key = f"gateway:vpn:servers:{server.name}:auth:pam"
            found.append(f"{key}: {PAM[0]}/{service} is not there on this node; nobody gets in")
        for keyword, value in server.settings:
            key = f"gateway:vpn:servers:{server.name}:settings:{keyword}"
            found += [f"{key}: {fault}" for fault in _option_faults(keyword, value)]
    return found


def _option_faults(keyword, value):
    """Files that OpenVPN's check sees, as root and outside of the unit, and the server does not."""
    if keyword in NO_FILES_OF_OPENVPN:
        return []
    paths = [word for word in value.split() if word.startswith("/")]
    if keyword in CALLED_BY_OPENVPN and paths:
        return _script_faults(paths[0])
    return list(filter(None, map(_out_of_sight, paths)))


def _unit_warnings(wanted):
    """Units of the user's that are not there. The package may be yet to come."""
    services = [unit for unit in wanted["health"]["services"] if unit not in gateway_plan.WATCHED]
    keys = {"follow_virtual_ip": wanted["follow"]["units"], "health:services": services}
    found = []
    for key, units in keys.items():
        command = ("systemctl", "show", "--property", "LoadState", "--value")
        states = _output(*command, *units).split() if units else []
        # Without an answer from systemd nothing is known.
        if len(states) == len(units):
            found += [
                f"gateway:{key}: there is no unit {unit} on this node"
                for unit, state in zip(units, states, strict=True)
                if state == "not-found"
            ]
    return found


def _dnsmasq_warnings(wanted):
    """Files that dnsmasq shall read and cannot: it goes on without them, only its log says so."""
    found = []
    for part in ("dns", "dhcp"):
        for keyword, value in wanted[part]["settings"]:
            path = value.split(",")[0]
            if keyword in READ_BY_DNSMASQ and path.startswith("/"):
                key = f"gateway:{part}:settings:{keyword}"
                fault = _dnsmasq_fault(path, read=keyword != "dhcp-script")  # root calls that
                found += [f"{key}: {fault}"] if fault else []
    return found


def _dnsmasq_fault(path, read):
    """Why dnsmasq has nothing of a file; it reads files when it has dropped its privileges."""
    if not os.path.exists(path):
        return f"{path} is not there on this node"
    if _out_of_sight(path):
        return _out_of_sight(path, "dnsmasq's")
    dnsmasq = ("setpriv", "--reuid=dnsmasq", "--regid=nogroup", "--clear-groups")
    # The user comes with the package.
    if read and _succeeds(*dnsmasq, "true") and not _succeeds(*dnsmasq, "test", "-r", path):
        return f"user dnsmasq may not read {path}"
    return None


def _sync_warnings(wanted):
    """Sessions could outlive a node of this site, and the pillar does not say a word of it."""
    if not wanted["sync"].get("undecided"):
        return []
    return [
        "gateway:state_sync: connections end when the virtual IP moves; give the nodes a link of"
        " their own (state_sync: {interface: eth3}, and nodes:NODE:sync), or say false"
    ]


def _target_warnings(wanted):
    """A site whose primary would stay in charge with a dead port, and that may not know it."""
    if not (wanted["peers"] and wanted["health"]["internal"]["undecided"]):
        return []
    return [
        "gateway:health:internal:targets: missing; beside a public virtual IP a primary whose"
        " internal port is dead stays in charge unless one of these hosts has to answer; name some,"
        " or say [] if it is to be so"
    ]


def _vpn_route_warnings(wanted):
    """Networks to which a VPN server's clients are sent, and no rule lets them through."""
    accepting = [rule for rule in wanted["firewall"]["forward"] if rule["action"] == "accept"]
    open_to_all = [
        wanted["internal"]["network"],
        *wanted["vpn"]["networks"],
        *(server["network"] for server in wanted["vpn"]["servers"]),
    ]
    return [
        f"gateway:vpn:servers:{server['name']}:routes: clients send what is for {network} into the"
        " tunnel, and no rule lets it through; add one to gateway:firewall:forward, such as"
        f" {{from: {server['name']}, to: {network}}}"
        for server in wanted["vpn"]["servers"]
        for network in server["routes"]
        if not server["full_tunnel"]
        and not any(_overlap(network, other) for other in open_to_all)
        and not any(
            _may_be(rule["from"], server["network"]) and _may_be(rule["to"], network)
            for rule in accepting
        )
    ]


def _may_be(targets, network):
    """Whether what a rule names (nothing is everything) may be addresses of an IPv4 network."""
    return not targets or any(
        _overlap(target["address"], network) if "address" in target else target.get("family") != 6
        for target in targets
    )


def _overlap(one, other):
    one, other = ip_network(one), ip_network(other)
    return one.version == other.version and one.overlaps(other)


def _faults(name, material):
    """What is wrong with a certificate or key, or soon will be."""
    path = material.path
    try:
        text = material.text or _file_text(path)
        if path and not gateway_plan.is_pem(text, name, alone=False):
            raise ValueError(f"{path} is not PEM text of that kind, or is damaged")
        items = gateway_ca.lifetimes(text, _now()) if gateway_ca and name in EXPIRING else []
    except ValueError as error:
        return [str(error)]
    faults = [_expiry(item) for item in items if not _is_lasting(item)]
    if path and _out_of_sight(path) and name != "crl":
        faults.append(_out_of_sight(path))
    if path and name == "crl" and _text(CRL) not in (None, text.strip()):
        faults.append(f"{path} is not the list that OpenVPN reads, {CRL}; apply to bring it there")
    return faults


def _file_text(path):
    """A file's text. Raises ValueError: what cannot be read is never taken for empty."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        raise ValueError(f"{path} is not there on this node") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not PEM text of that kind, or is damaged") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def _out_of_sight(path, whose="OpenVPN's"):
    """Why the servers do not see a file (ProtectHome in their units); None where they do."""
    real = os.path.realpath(path)
    if not f"{real}/".startswith(("/home/", "/root/", "/run/user/")):
        return None
    return f"{path} is in a home directory, and {whose} unit sees none; put it elsewhere"


def _script_faults(path):
    """OpenVPN calls it when it has dropped its privileges."""
    if not os.path.isfile(path):
        return [f"{path} is not there on this node"]
    if _out_of_sight(path):
        return [_out_of_sight(path)]
    with open(path, "rb") as file:
        needs = ["-x", "-r"] if file.read(2) == b"#!" else ["-x"]
    nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    if all(_succeeds(*nobody, "test", need, path) for need in needs):
        return []
    return [f"user nobody, as whom OpenVPN calls it, may not execute {path}"]


def _now():
    return datetime.now(timezone.utc)


def _is_lasting(item):
    return item["begun"] and item["days_left"] >= EXPIRY_WARNING


def _expiry(item):
    what = "the certificate of" if item["type"] == "certificate" else "the revocation list of"
    if not item["begun"]:
        begin = item["begins"][:16].replace("T", " ")
        return (
            f"{what} {item['name']} is not valid before {begin} UTC;"
            " look at this node's clock, and at that of the machine that made it"
        )
    day, days = item["ends"][:10], item["days_left"]
    if days < 0:
        return f"{what} {item['name']} ended on {day}"
    return f"{what} {item['name']} ends on {day}, in {days} days"


def _interface_key(plan, side):
    """Where the pillar says what a side's interface is called on this node."""
    name = plan["node"]["name"]
    if f"{side}_interface" in _pillar()["nodes"][name]:
        return f"gateway:nodes:{name}:{side}_interface"
    return f"gateway:{'state_sync' if side == 'sync' else side}:interface"


def _links():
    """This node's interfaces, by name, as ``ip`` shows them."""
    links = json.loads(_output("ip", "-json", "address", "show") or "[]")
    return {link["ifname"]: link for link in links if "ifname" in link}


def _on(links, interface):
    """An interface's addresses, each with what ``ip`` says of it."""
    items = links.get(interface, {}).get("addr_info", [])
    return {item["local"]: item for item in items if "local" in item}


def _addresses():
    """This node's addresses, without prefix lengths."""
    links = _links()
    return [address for interface in links for address in _on(links, interface)]


def _routes_on_link():
    """The networks that this node reaches without a router, and the interface of each."""
    command = ["ip", "-json", "-4", "route", "show", "table", "main", "scope", "link"]
    routes = json.loads(_output(*command) or "[]")
    return [
        (ip_network(route["dst"]), route["dev"])
        for route in routes
        if "dev" in route and route["dst"] != "default"
    ]


def _output(*command):
    """A command's standard output; empty when it fails or is not there (yet)."""
    try:
        done = __salt__["cmd.run_all"](list(command), python_shell=False, ignore_retcode=True)
    except CommandExecutionError:
        return ""
    return "" if done["retcode"] else done["stdout"]


def _bridges(plan):
    """Interfaces of ours that are bridges whose frames pass iptables from port to port."""
    if not os.path.exists(BRIDGE_FILTER):
        return []
    interfaces = [plan[side]["interface"] for side in ("internal", "public")]
    return [name for name in interfaces if os.path.exists(f"{INTERFACES}/{name}/bridge")]


def _bridge_problems(plan):
    """Rules that were made when no frame of a bridge passed iptables refuse those frames."""
    rules = _text(RULES)
    return [
        f"frames from port to port of {bridge} pass iptables since the last apply (br_netfilter was"
        " loaded, as Docker does it), and the firewall refuses them: apply again"
        for bridge in _bridges(plan)
        if rules is not None and f"-i {bridge} -o {bridge} -m physdev" not in rules
    ]


def _succeeds(*command):
    done = __salt__["cmd.run_all"](list(command), python_shell=False, ignore_retcode=True)
    return done["retcode"] == 0


def validate(warnings=True, **kwargs):
    """
    Everything that is wrong with the site's pillar, and with this node's place in it: an interface
    that is not there, a network that is not reached, a virtual IP that the node has by itself,
    another firewall that refuses what the gateway lives from.

    warnings
        Also name what keeps nothing else from being applied: what is wrong with the VPN's
        certificates, keys and programs on this node, what of them ends within 30 days, files that
        dnsmasq shall read and cannot, where links, addresses, routes and resolv.conf do not go with
        the pillar, units of the pillar that are not there, routes that no rule lets VPN clients
        use, and a missing word on state sync or on internal targets.

    Returns a list of ``pillar:key: what is wrong``; an empty one when all is good. From the command
    line, ``salt`` and ``salt-call`` exit with 1 where it is not empty.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' gateway.validate
        salt 'gw*' gateway.validate warnings=False
    """
    by_a_person = "__pub_fun" in kwargs
    found = _refreshed(kwargs) or _faults_of_the_pillar(by_a_person, warnings)
    if by_a_person:
        __context__["retcode"] = 1 if found else 0
    return found


def _faults_of_the_pillar(by_a_person, warnings):
    site, errors = _site()
    if errors:
        return errors
    errors = gateway_plan.check_node(site, __opts__["id"])
    if errors:
        return errors
    here = plan()
    errors = [*_interface_errors(here), *_advertisement_errors(here), *_ssh_errors(here)]
    errors += _foreign_errors(here) if by_a_person else _foreign_errors_once(here)
    if not warnings:
        return errors
    return [
        *errors,
        *_link_warnings(here),
        *_network_warnings(here),
        *_target_warnings(here),
        *_sync_warnings(here),
        *_dnsmasq_warnings(here),
        *_unit_warnings(here),
        *_vpn_route_warnings(here),
        *_vpn_warnings(),
    ]


def has_states(**kwargs):
    """
    Whether the formula's states are where Salt looks for them. They may not be where its modules
    are: over salt-ssh, or where a minion could not fetch them. Nothing may be applied then.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' gateway.has_states
    """
    unknown = salt.utils.args.clean_kwargs(**kwargs)
    if unknown:
        raise SaltInvocationError(f"unknown argument: {', '.join(unknown)}")
    folders = [
        *(f"{folder}/states" for folder in __opts__.get("module_dirs") or []),
        *(__opts__.get("states_dirs") or []),
        f"{__opts__['extension_modules']}/states",
    ]
    return any(os.path.exists(f"{folder}/gateway.py") for folder in folders)


def plan(node=None, **kwargs):
    """
    What a node of the site is to be, as a mapping; nothing in it is secret.

    node
        Minion id of a node; this minion's own by default.

    Raises CommandExecutionError with every error when the pillar is wrong.

    CLI Example:

    .. code-block:: bash

        salt gw1 gateway.plan
        salt gw1 gateway.plan node=gw2
    """
    _called(kwargs)
    site = _valid_site()
    name = node or __opts__["id"]
    plans = __context__["gateway.plans"]
    if name not in plans:
        try:
            with _no_garbage():
                plans[name] = gateway_plan.plan(site, name)
        except ValueError as error:
            raise CommandExecutionError(str(error)) from error
    return plans[name]


def digest(**kwargs):
    """
    A short hash of the site, 16 hexadecimal digits: the same on every node with the same pillar.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' gateway.digest
    """
    _called(kwargs)
    return _valid_site().digest


def vpn_subnets(**kwargs):
    """
    Every node's VPN subnets, as ``{server: {node: subnet}}``.

    CLI Example:

    .. code-block:: bash

        salt gw1 gateway.vpn_subnets
    """
    _called(kwargs)
    subnets = {}
    for node in _valid_site().nodes:
        for server in plan(node.name)["vpn"]["servers"]:
            subnets.setdefault(server["name"], {})[node.name] = server["subnet"]
    return subnets


def routes(node=None, **kwargs):
    """
    A node's routes to the VPN subnets of its peers, as a list of ``{destination, via}``.

    node
        Minion id of a node; this minion's own by default.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' gateway.routes
    """
    _called(kwargs)
    return plan(node)["routes"]


def ruleset(node=None, **kwargs):
    """
    A node's firewall as ``{sets, v4, v6}``: what ipset restore, iptables-restore and
    ip6tables-restore read. Comment lines name the pillar key that the rules after them come from.

    node
        Minion id of a node; this minion's own by default. Where an interface of this minion's is a
        bridge whose frames pass iptables, there are rules that let them pass.

    CLI Example:

    .. code-block:: bash

        salt gw1 gateway.ruleset
    """
    _called(kwargs)
    wanted = plan(node)
    # What another node's interfaces are is not known here.
    bridges = _bridges(wanted) if wanted["node"]["name"] == __opts__["id"] else []
    return gateway_rules.ruleset(wanted, bridges)


def sync_ignored(**kwargs):
    """
    Addresses and networks whose connections are no business of the peer's: those of the plan, and
    this node's addresses on interfaces that the pillar does not know. Empty without state sync.

    CLI Example:

    .. code-block:: bash

        salt gw1 gateway.sync_ignored
    """
    _called(kwargs)
    sync = plan()["sync"]
    if not sync["enabled"]:
        return []
    ignored = sync["ignored"]
    networks = [ip_network(network) for network in ignored]
    own = {ip_address(address) for address in _addresses() if ":" not in address}
    others = {address for address in own if not any(address in network for network in networks)}
    return [*ignored, *map(str, sorted(others))]


def pem(material, **kwargs):
    """
    A certificate or key from the pillar, for the templates: PEM text without a last line break.

    material
        A key of ``vpn:pki``, such as ``certificate`` or ``tls_crypt``.

    Raises CommandExecutionError when called from a command line: a key would be shown and logged.
    """
    if "__pub_fun" in kwargs:
        raise CommandExecutionError("gateway.pem is for templates: it would show a key")
    value = _pillar()
    # Not from __pillar__[...]: Salt 3008 copies the whole pillar for that, and it is read again.
    for key in plan()["vpn"]["pki"][material]["pillar"][1:]:
        value = value[key]
    text = gateway_plan.pem_blocks(value).strip()
    if not text:
        raise CommandExecutionError(f"there is no PEM text for {material} in the pillar")
    return text


def drain(force=False, **kwargs):
    """
    Take this node out of service, for maintenance: the virtual IPs go to a peer and no packet is
    lost, its VPN servers stop and tell their clients, who then use the other gateway. It stays so
    through reboots and applies until ``gateway.undrain``.

    Nothing is changed unless a peer in good health takes the virtual IPs. While this node is
    drained it has them only if there is nobody else.

    While the pillar is wrong it goes by what was applied last.

    force
        Drain it also where no peer takes over.

    Returns what was done. Raises CommandExecutionError when no peer took the virtual IPs, or, where
    another node has them, that node does not answer.

    CLI Example:

    .. code-block:: bash

        salt gw1 gateway.drain
        salt gw1 gateway.drain force=True
    """
    health, units = _to_drain(kwargs)
    if os.path.exists(DRAINED):
        return "this node is drained already"
    try:
        if not force:
            _hand_over(health)
        _write(DRAINED, datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"))
    finally:
        _remove(DRAINING)
    for unit in units:
        __salt__["service.stop"](unit)
    return "this node is drained"


def undrain(**kwargs):
    """
    Put a drained node into service again. It gets the virtual IPs back as a node does that comes
    back: after ``failover:preempt_delay``, if it is the better one and there is ``preempt``.

    CLI Example:

    .. code-block:: bash

        salt gw1 gateway.undrain
    """
    _, units = _to_drain(kwargs)
    if not os.path.exists(DRAINED):
        return "this node is not drained"
    _remove(DRAINED)
    for unit in units:
        __salt__["service.start"](unit)
    return "this node is in service again"


def _to_drain(kwargs):
    """What a drain has to know: ``virtual_ip`` and ``takeover``, and the VPN servers' units."""
    wanted, errors = _in_force(kwargs)
    try:
        health = {key: wanted["health"][key] for key in ("virtual_ip", "takeover")}
        return health, [_vpn_unit(server) for server in wanted["vpn"]["servers"]]
    except KeyError:
        message = "\n".join(["The pillar of this site is wrong:", *errors])
        raise CommandExecutionError(message) from None


def _hand_over(health):
    """Return when another node has the virtual IP, and could keep it."""
    address = health["virtual_ip"]
    if address not in _addresses():
        # Whoever has it is in as good a state as this node at least, else this one would have it.
        if not _output("ping", "-c", "1", "-W", "2", address):
            raise CommandExecutionError(
                f"no other node answers on the virtual IP {address}; nothing was changed"
                " (force=True drains this node all the same)"
            )
        return
    with open(UPTIME, encoding="ascii") as file:
        _write(DRAINING, file.read().split(".")[0])
    end = time.monotonic() + health["takeover"]
    while time.monotonic() < end:
        time.sleep(0.1)
        if address not in _addresses():
            return
    raise CommandExecutionError(
        f"no healthy peer took the virtual IP {address}; nothing was changed"
        " (force=True drains this node all the same)"
    )


def _write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(text + "\n")
    os.chmod(f"{path}.new", 0o644)  # whatever the umask is
    os.replace(f"{path}.new", path)


def _remove(path):
    if os.path.exists(path):
        os.remove(path)


def _vpn_unit(server):
    return f"openvpn-server@{server['instance']}"


def status(**kwargs):
    """
    How this node is doing, as a mapping: ``vrrp`` (role and virtual IPs as the kernel has them),
    ``health`` (what its priority loses, and why; since when it is drained), ``services``,
    ``routes``, ``firewall`` (which iptables; whether rules are loaded, changed by hand, wait for
    their confirmation), ``sync`` (whether the peer is heard, how many connections it was told of,
    and told us of), ``vpn`` (tunnel addresses, and who is connected), ``ntp``, ``digest`` (of what
    was last applied, and of the pillar) and ``formula`` (the version that was last applied, and
    that of the modules here). ``problems`` lists what a person should look at. While the pillar is
    wrong, the node is judged by what was applied last, and the pillar's errors are the first
    problems.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' gateway.status
    """
    wanted, errors = _in_force(kwargs)
    if not errors:
        return _status(wanted, [])
    title = "the pillar cannot be used, so this is judged by what was applied last"
    try:
        return _status(wanted, [*errors, title])
    except (KeyError, TypeError):
        # There is none, or it is of a version of the formula that had other plans.
        return _status_without_a_plan(errors)


def _status(wanted, problems):
    """``problems`` are those of the pillar; without any the plan is the pillar's."""
    by_pillar = not problems
    links = _links()
    addresses = [address for interface in links for address in _on(links, interface)]
    vrrp = _vrrp_status(wanted, addresses, problems)
    health = _health_status(problems)
    if health["drained"]:
        wanted = wanted | {"vpn": wanted["vpn"] | {"servers": []}}
    return {
        "node": wanted["node"]["name"],
        "vrrp": vrrp,
        "health": health,
        "services": _service_status(wanted, vrrp["internal"]["role"], problems),
        "routes": _route_status(wanted, problems),
        "firewall": _firewall_status(problems),
        "sync": _sync_status(wanted, problems),
        "vpn": _vpn_status(wanted, addresses, problems),
        "ntp": _ntp_status(wanted, problems),
        "digest": _digest_status(wanted if by_pillar else None, problems),
        "formula": _formula_status(),
        "problems": [
            *problems,
            *_foreign_errors(wanted),
            *_bridge_problems(wanted),
            *_connection_warnings(),
            *_virtual_ip_errors(wanted, links),
            *_silence(wanted),
            *(_network_warnings(wanted) if by_pillar else []),
            *(_sync_warnings(wanted) if by_pillar else []),
            *(_dnsmasq_warnings(wanted) if by_pillar else []),
            *(_vpn_route_warnings(wanted) if by_pillar else []),
            *(_vpn_warnings() if by_pillar else []),
        ],
    }


def _status_without_a_plan(errors):
    """As far as it can be told of a node without knowing what it is to be."""
    problems = [*errors]
    return {
        "node": __opts__["id"],
        "vrrp": {},
        "health": _health_status(problems),
        "services": {},
        "routes": {},
        "firewall": _firewall_status(problems),
        "sync": {"enabled": False},
        "vpn": {},
        "ntp": {"synchronised": False, "stratum": None, "source": None},
        "digest": _digest_status(None, problems),
        "formula": _formula_status(),
        "problems": problems,
    }


def _vrrp_status(wanted, addresses, problems):
    found = {}
    for instance in wanted["vrrp"]["instances"]:
        address = instance["virtual_ip"]
        role = "MASTER" if address in addresses else "BACKUP"
        found[instance["name"]] = {"virtual_ip": address, "role": role}
    if len({instance["role"] for instance in found.values()}) > 1:
        problems.append("the virtual IPs are not on one node")
    return found


def _silence(wanted):
    """
    On which side a peer is not heard while it is on another. With an election on each the node in
    charge stays in charge then, also where it is its own port that is dead.
    """
    found = []
    for peer in wanted["peers"]:
        ways = {
            instance["name"]: (instance["interface"], peer[instance["name"]])
            for instance in wanted["vrrp"]["instances"]
        }
        silent = [side for side, way in ways.items() if not _answers(*way)]
        if not silent or len(silent) == len(ways):
            continue  # all is well, or the peer is off
        for side in silent:
            interface, address = ways[side]
            if _answers(interface, address):  # one packet may be lost
                continue
            text = f"{peer['name']} is not heard on the {side} side ({address} on {interface})"
            if not wanted["health"][side]["targets"]:
                text += (
                    ", only elsewhere: nothing moves for that, since nobody knows whose port is"
                    f" dead (gateway:health:{side}:targets would say it)"
                )
            found.append(text)
    return found


def _answers(interface, address):
    return bool(_output("ping", "-q", "-n", "-c", "1", "-W", "1", "-I", interface, address))


def _health_status(problems):
    """What the monitor says; a node that is drained has nothing more to say."""
    nothing = {"penalty": None, "cold": None, "uplink": [], "faults": []}
    found = json.loads(_text(HEALTH) or "null") or nothing
    drained = _text(DRAINED)
    if drained is not None:
        problems.append(f"this node is drained since {drained}")
    problems += found["uplink"] + found["faults"]
    if found["penalty"] is None:
        problems.append("nothing is known of this node's health")
    return {name: found[name] for name in nothing} | {"drained": drained}


def _connection_warnings():
    count, limit = _number(CONNECTIONS), _number(CONNECTIONS_LIMIT)
    if count is None or limit is None or count < limit * CONNECTIONS_MANY:
        return []
    return [
        f"{count} of {limit} connections: where no room is left, what is new is dropped, DNS too"
        " (net.netfilter.nf_conntrack_max)"
    ]


def _text(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except FileNotFoundError:
        return None


def _service_status(wanted, role, problems):
    names = ["keepalived", "gateway-health", "gateway-follow", "gateway-dns"]
    names += ["gateway-firewall-guard"]
    names += [wanted["ntp"]["provider"]]
    names += ["conntrackd", "gateway-sync"] if wanted["sync"]["enabled"] else []
    names += [_vpn_unit(server) for server in wanted["vpn"]["servers"]]
    found = {name: _service_state(name) for name in names}
    problems += [f"service {name} is {now}" for name, now in found.items() if now != "running"]
    if wanted["dhcp"]["enabled"]:
        now = found["gateway-dhcp"] = _service_state("gateway-dhcp")
        # It runs where the virtual IP is, and only there.
        if (now == "running") != (role == "MASTER"):
            problems.append(f"service gateway-dhcp is {now} while this node is {role}")
        if role == "MASTER":
            problems += _lease_problems(wanted["dhcp"]["reservations"])
    return found | _followers_status(wanted, role, problems)


def _lease_problems(reservations):
    """
    Reserved addresses that another machine has a lease of: until that ends, or the machine gives it
    back, the one that it is reserved for gets an address of the pool.
    """
    # A plan that an older version applied has one MAC address for each.
    wanted = {
        host["ip"]: (host["name"], host.get("macs") or [host["mac"]]) for host in reservations
    }
    found = []
    for line in (_text(LEASES) or "").splitlines():
        # When it ends (0 for never), MAC address, address, name, client id. dhcp-leasefile of
        # dnsmasq(8); of IPv6 there are none.
        end, mac, ip, *_ = [*line.split(), "", "", ""]
        name, macs = wanted.get(ip, (None, []))
        if not name or mac in macs or not end.isdigit() or 0 < int(end) < _now().timestamp():
            continue
        until = "for ever"
        if int(end):
            until = f"until {datetime.fromtimestamp(int(end), timezone.utc):%Y-%m-%d %H:%M} UTC"
        found.append(f"DHCP: {ip} is reserved for {name}, but {mac} has it {until}")
    return found


def _followers_status(wanted, role, problems):
    """The units of ``follow_virtual_ip``, and whether follow.d knows the role."""
    found = {}
    for unit in wanted["follow"]["units"]:
        command = ("systemctl", "show", "--property", "LoadState,ActiveState,Type", unit)
        shown = dict(line.split("=", 1) for line in _output(*command).splitlines() if "=" in line)
        now = found[unit] = shown.get("ActiveState", "unknown")
        if shown.get("LoadState") != "loaded":
            problems.append(f"there is no unit {unit}, which shall follow the virtual IP")
        elif now == "failed" or not _in_place(now, role, shown.get("Type")):
            problems.append(f"{unit} is {now} while this node is {role}")
    # "primary 1800000000.25": the role and since when. They are given some time to hear of it. What
    # was told has another word behind it: the number of the last call, or that it failed.
    now = _text(ROLE)
    late = now and _now().timestamp() - float(now.split()[1]) > HOOKS_GRACE
    told, _, last = (_text(HOOKS) or "").rpartition(" ")
    if late and (told != now or last == "failed"):
        problems.append(
            "not all in /etc/gateway/follow.d have ended well for the present role;"
            " journalctl -u gateway-follow-hooks says which, and why"
        )
    for folder in FOLDERS:
        problems += _passed_over(folder)
    return found


def _passed_over(folder):
    """What somebody put there to be called and nobody calls, with the reason."""
    found = []
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        path = os.path.join(folder, name)
        if LEFTOVER.match(name) or os.path.isdir(path):
            continue
        if not re.fullmatch("[A-Za-z0-9_-]+", name):
            reason = "its name has other characters than letters, digits, _ and -"
        elif not os.path.isfile(path):
            reason = "it is no file"
        elif not os.access(path, os.X_OK):
            reason = "it is not executable"
        else:
            continue
        found.append(f"{path} is passed over: {reason}")
    return found


def _in_place(now, role, kind):
    """Whether a unit runs where the virtual IP is; a one-shot service may be through already."""
    if role == "MASTER":
        return now == "active" or kind == "oneshot"
    return now != "active"


def _service_state(name):
    return "running" if __salt__["service.status"](name) else "dead"


def _route_status(wanted, problems):
    live = _live_routes()
    found = {}
    for route in wanted["routes"]:
        present = live.get(route["destination"]) == route["via"]
        found[route["destination"]] = {"via": route["via"], "present": present}
        if not present:
            problems.append(f"the route to {route['destination']} is missing")
    return found


def _firewall_status(problems):
    """
    What the loader says. ``closed`` is why the rules are not in force and the node forwards
    nothing, ``restored`` how often since the boot somebody's flush was made good.
    """
    nothing = {"backend": None, "loaded": False, "drift": False, "pending": False, "gate": False}
    nothing |= {"closed": None, "restored": 0}
    found = nothing | json.loads(_output(FIREWALL, "status") or "{}")
    if found["closed"]:
        # The health monitor has said the same, if it runs.
        closed = f"the firewall rules are not in force, nothing is forwarded: {found['closed']}"
        problems += [closed] if closed not in problems else []
    elif found["pending"]:
        problems.append("new firewall rules are on trial, and taken back unless they prove good")
    elif not found["loaded"]:
        problems.append("the firewall rules are not loaded")
    elif not found["gate"]:
        problems.append(
            "the gate is not set, or another rule of `ip rule` stands before it: without its"
            " firewall rules this node would forward everything"
        )
    elif found["drift"]:
        problems.append("the firewall rules are not what was loaded: somebody changed them by hand")
    return found


def _sync_status(wanted, problems):
    """
    What conntrackd says: ``here`` are all connections in the kernel, ``sent`` those that the peer
    was told of, ``received`` those that it told us of since conntrackd started. ``lost`` messages
    of the peer's come again; ``failed`` could not be put into the kernel.
    """
    if not wanted["sync"]["enabled"]:
        return {"enabled": False}
    report = _sync_report()
    counters = _sync_counters(_output("conntrackd", "-s"))
    silent = report.get("silent")
    found = {
        "enabled": True,
        "peer": wanted["sync"]["peer"],
        "heard": silent is not None and silent < SYNC_SILENCE,
        "here": _number(CONNECTIONS),
        **counters,
    }
    if not report:
        problems.append("state sync: it does not run, or has not for the last seconds")
    elif not found["heard"]:
        problems.append(f"state sync: nothing is heard of the peer, {found['peer']}")
    elif report["trouble"] > report["uptime"] - SYNC_TROUBLE:
        problems.append(
            "state sync: messages of the peer's were lost, or the kernel did not take them,"
            f" in the last {SYNC_TROUBLE} seconds"
        )
    return found


def _sync_report():
    """What gateway-sync noted in the last seconds, or nothing."""
    try:
        with open(SYNC_REPORT, encoding="utf-8") as file:
            report = json.load(file)
        age = _number(UPTIME, 0) - int(report["uptime"])
        found = {key: int(report[key]) for key in ("silent", "trouble", "uptime")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if age < SYNC_SILENCE else {}


def _sync_counters(text):
    """The numbers that count in the output of ``conntrackd -s``; None for what is not there."""
    part = ""
    counters = {}
    for line in text.splitlines():
        words = line.split()
        if line.endswith(":") and not line.startswith(("\t", " ")):
            part = line.rstrip(":")
        elif line.startswith("connections ") and len(words) == 5 and words[2].isdigit():
            counters[part, words[1].rstrip(":")] = int(words[2])
            counters[part, "failed"] = counters.get((part, "failed"), 0) + int(words[4])
        elif line.startswith("current active connections:"):
            counters[part, "active"] = int(words[-1])
        elif len(words) > 2 and words[-2:] == ["Lost", "msgs"]:
            counters["lost"] = int(words[-3])
    received = counters.get(("external inject", "created"))
    if received is not None:
        received -= counters.get(("external inject", "destroyed"), 0)
    return {
        "sent": counters.get(("cache internal", "active")),
        "received": received,
        "lost": counters.get("lost"),
        "failed": counters.get(("external inject", "failed")),
    }


def _number(path, default=None):
    """The whole number at the beginning of a file of the kernel's."""
    try:
        with open(path, encoding="utf-8") as file:
            return int(float(file.read().split()[0]))
    except (OSError, ValueError, IndexError):
        return default


def _vpn_status(wanted, addresses, problems):
    found = {}
    for server in wanted["vpn"]["servers"]:
        up = server["address"] in addresses
        found[server["name"]] = {
            "address": server["address"],
            "up": up,
            "clients": _vpn_clients(server["instance"]),
        }
        if not up:
            problems.append(f"the tunnel of VPN server {server['name']} is down")
    return found


def _vpn_clients(instance):
    """Who is connected, as ``{common name: [addresses]}``; empty where OpenVPN cannot be asked."""
    try:
        rows = _management(MANAGEMENT.format(instance=instance), "status 3")
    except OSError:
        return {}
    found = {}
    for row in rows:
        # Name, real address, address in the tunnel (none before the client was let in), ...
        if row[0] == "CLIENT_LIST" and any(row[3:4]):
            found.setdefault(row[1], []).append(row[3])
    return found


def _management(path, command):
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


def _ntp_status(wanted, problems):
    found = _ntp(wanted["ntp"]["provider"])
    if not found["synchronised"]:
        problems.append("the clock is not synchronised")
    return found


def _digest_status(wanted, problems):
    """``wanted`` is the pillar's plan; None while the pillar is wrong."""
    applied = _applied()
    if wanted:
        problems += _not_applied(applied, wanted)
    return {"applied": applied["digest"], "pillar": wanted and wanted["digest"]}


def _formula_status():
    return {"applied": _applied().get("formula"), "version": gateway_plan.VERSION}


def _not_applied(applied, wanted):
    """What of the formula and the pillar is not what was applied last."""
    if not applied["digest"]:
        return ["the whole formula was never applied on this node"]
    if applied.get("formula") != wanted["formula"]:
        before = applied.get("formula") or "a version that did not say which"
        # The pillar may mean something else to it. There is no telling what is whose.
        return [f"the formula is {wanted['formula']}, and {before} was applied last: apply it"]
    hashes = [_material_hashes(plan) for plan in (applied, wanted)]
    newer = [
        words
        for name, words in EXPIRING.items()
        if name in hashes[1] and hashes[0].get(name) != hashes[1][name]
    ]
    found = [f"{words} is not the one that was applied last: apply it" for words in newer]
    parts = [
        name
        for name in wanted
        if name != "digest" and _without_hashes(applied, name) != _without_hashes(wanted, name)
    ]
    if applied["digest"] != wanted["digest"] and (parts or not newer):
        here = (
            f", in {', '.join(sorted(parts))}" if parts else ", in nothing that is about this node"
        )
        found.append(f"the pillar is not what was last applied{here}")
    return found


def _material_hashes(plan):
    pki = plan.get("vpn", {}).get("pki", {})
    return {name: material["hash"] for name, material in pki.items() if "hash" in material}


def _without_hashes(plan, part):
    found = plan.get(part)
    if part != "vpn" or not found:
        return found
    pki = {
        name: {key: value for key, value in material.items() if key != "hash"}
        for name, material in found.get("pki", {}).items()
    }
    return found | {"pki": pki}


def _live_routes():
    live = json.loads(_output("ip", "-json", "-4", "route", "show", "table", "main") or "[]")
    return {route["dst"]: route.get("gateway") for route in live}


def _ntp(provider):
    """``{synchronised: bool, stratum: int, source: text}`` of the node's NTP server."""
    unknown = {"synchronised": False, "stratum": None, "source": None}
    if provider == "chrony":
        # Fields of -c: reference id, its name, stratum, ... and the leap status at the end.
        fields = _output("chronyc", "-c", "tracking").strip().split(",")
        if len(fields) < 14:
            return unknown
        return {
            "synchronised": fields[-1] != "Not synchronised",
            "stratum": int(fields[2]),
            "source": fields[1] or fields[0],
        }
    output = _output("ntpq", "-c", "rv 0 leap,stratum,refid")
    values = dict(item.strip().split("=", 1) for item in output.split(",") if "=" in item)
    if "stratum" not in values:
        return unknown
    # Leap indicator 3 is "unsynchronised" (RFC 5905 section 7.3).
    return {
        "synchronised": values.get("leap") not in ("3", "11"),
        "stratum": int(values["stratum"]),
        "source": values.get("refid"),
    }


def _applied():
    """The plan that was applied last as a whole; of an older version its digest alone."""
    text = _text(APPLIED)
    try:
        found = json.loads(text or "")
    except ValueError:
        found = None
    return found if isinstance(found, dict) and "digest" in found else {"digest": text or None}
