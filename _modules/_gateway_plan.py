"""The planner: from one site's pillar to what each gateway of the site is to be.

A library in plain Python: no Salt, no system, no clock. ``read`` turns the pillar into a frozen
``Site`` or says everything that is wrong with it; ``plan`` computes one node's part of the site as
a plain dict. What users call is the execution module ``gateway``.
"""

import re
from ipaddress import IPv4Address
from typing import Any

import _gateway_clients
import _gateway_dhcp
import _gateway_dns
import _gateway_follow
import _gateway_kernel
import _gateway_nat
import _gateway_ntp
import _gateway_pem
import _gateway_policy
import _gateway_sync
import _gateway_values as values
import _gateway_vpn
from _gateway_names import Names, claim_aliases, own_names
from _gateway_reader import Reader, Section
from _gateway_site import (
    Failover,
    Health,
    Host,
    Network,
    Node,
    Service,
    Site,
    VpnServer,
    client_addresses,
    plan_settings,
    text_or_none,
)

VERSION = "202611-1"  # of the formula, as FORMULA has it

# RFC 9568 section 5.2.4: a backup's priority is 1 to 254. High ones, close together, keep the skew
# ((256 - priority) / 256 advert intervals), and with it a clean hand-over, at milliseconds.
HIGHEST_PRIORITY = 250
HIGHEST_ID = 200
ROUTER_ID = 51  # keepalived's customary one
# Of the formula's own units those that run where the virtual IP is, or now and then.
FOLLOWERS = (
    *("gateway-dhcp.service", "gateway-virtual-ip.target"),
    *("gateway-follow-event.service", "gateway-follow-hooks.service"),
)
WATCHED = ("gateway-dns.service", "gateway-follow.service")  # without them a node is of little use
# What is taken off the priority of a node, in steps; any one step outweighs all differences of
# rank, so it is as large as there are nodes. Each outweighs what stands before it.
PENALTIES = {"cold": 1, "uplink": 2, "fault": 4, "drained": 8}
# So many nodes that the last one with all penalties still has a priority of 1.
MOST_NODES = HIGHEST_PRIORITY // (sum(PENALTIES.values()) + 1)


# --------------------------------------------------------------------------------------------------
# The site


# At 1 s and 8 adverts even a loss of 30 % makes a false failover once in four hours.
FAILOVER_PROFILES: dict[str, dict[str, Any]] = {
    "fast": {"advert_interval": 0.05, "down_adverts": 3, "garp_delay": 1},
    "normal": {"advert_interval": 0.1, "down_adverts": 3, "garp_delay": 1},
    "lossy": {"advert_interval": 1, "down_adverts": 8, "garp_delay": 2},
}


# --------------------------------------------------------------------------------------------------
# Reading: parsers of single values. Each returns the value or raises ValueError with what is wrong.


_KEEPALIVED_MARKS = re.compile(r"[#!]")


def _keepalived_setting(value: object) -> str:
    return values.setting(value, _KEEPALIVED_MARKS)


# --------------------------------------------------------------------------------------------------
# Reading: mappings


def read(pillar: object) -> tuple[Site | None, list[str]]:
    """Read a site from the value of the pillar key ``gateway``.

    Returns the site and no errors, or None and every error, each as ``pillar:key: what is wrong``.
    """
    reader = Reader()
    if pillar is None:
        return None, ["gateway: missing; see pillar.example"]
    top = Section(reader, "gateway", pillar)
    domain = top.get("domain", values.dns_name)
    internal = _read_internal(top.section("internal", required=True), domain)
    public = _read_public(top.section("public", required=True), domain)
    link = _gateway_sync.read_sync_link(top)
    nodes = _read_nodes(top, internal, public, link, domain)
    state_sync = _gateway_sync.check_state_sync(top, public, nodes, link)
    vpn = top.section("vpn")
    servers = _gateway_vpn.read_servers(vpn, nodes, public)
    clients = _gateway_clients.read_clients(vpn, servers, nodes)
    found = vpn.section("pki")
    refusal = _gateway_pem.read_refusal(found)
    pki = _gateway_pem.read_pki(found, ("gateway", "vpn", "pki"), tuple(_gateway_pem.PEM_LABELS))
    remote = _gateway_vpn.read_remote(vpn, public)
    vpn.close()
    if servers and refusal is None:
        _gateway_pem.check_pki(reader, pki, nodes, servers)
    hosts = _gateway_dns.read_hosts(top, internal, domain)
    addresses = client_addresses(clients, servers, nodes)
    own = own_names(internal, public, nodes)
    names = Names(reader, hosts, domain, own, servers, addresses)
    firewall = _gateway_policy.read_firewall(top.section("firewall"), names)
    nat = _gateway_nat.read_nat(top.section("nat"), names, internal, public, nodes)
    if firewall.ssh_from and firewall.ssh_port:
        reader.claim("port", f"{firewall.ssh_port}/tcp", "gateway:firewall:ssh")
    dhcp = _gateway_dhcp.read_dhcp(top.section("dhcp"), internal, hosts)
    ntp = top.section("ntp")
    keepalived = top.section("keepalived")
    units = top.placed("follow_virtual_ip", _gateway_follow.followed_unit)
    site = Site(
        domain=domain,
        nodes=nodes,
        internal=internal,
        public=public,
        router_id=keepalived.get("router_id", values.whole(1, 255), ROUTER_ID),
        state_sync=state_sync,
        failover=_read_failover(top.section("failover")),
        health=_read_health(top.section("health")),
        vpn_servers=servers,
        vpn_clients=clients,
        vpn_pki=pki,
        vpn_error=refusal,
        vpn_remote=remote,
        hosts=hosts,
        firewall=firewall,
        nat=nat,
        dns=_gateway_dns.read_dns(top.section("dns")),
        dhcp=dhcp,
        ntp=Service(
            ntp.items("servers", values.server_address),
            ntp.settings(refuse=_gateway_ntp.refuse_ntp),
        ),
        ntp_provider=ntp.get("provider", values.one_of("chrony", "ntpsec"), "chrony"),
        keepalived=Service((), keepalived.settings(_keepalived_setting, _KEEPALIVED_OWN.get)),
        follow_virtual_ip=tuple(units.values()),
    )
    _check_places(reader, internal, public, nodes, servers, hosts)
    _check_names(reader, domain, internal, public, nodes, hosts)
    _check_own_ports(reader, site)
    _check_own_addresses(reader, site)
    for path, unit in units.items():
        reader.claim("unit", unit, path)
    for number, unit in enumerate(site.health.services):
        if unit in (*units.values(), *FOLLOWERS):
            reader.fault(
                f"gateway:health:services:{number}",
                f"{unit} runs only where the virtual IP is, so any other node would be at fault",
            )
    for section in (ntp, keepalived, top):
        section.close()
    # What each node meets in a value that stands there once is said once.
    return (None, list(dict.fromkeys(reader.errors))) if reader.errors else (site, [])


def _read_internal(section: Section, domain: str | None) -> Network:
    aliases = section.placed("aliases", values.alias)
    network = Network(
        interface=section.get("interface", values.interface),
        network=section.get("network", values.inside_network),
        virtual_ip=section.get("virtual_ip", values.address),
        aliases=tuple(aliases.values()),
    )
    section.close()
    claim_aliases(section.reader, aliases, domain)
    _claim_side(section, network)
    return network


def _read_public(section: Section, domain: str | None) -> Network:
    aliases = section.placed("aliases", values.alias)
    addresses = section.placed("addresses", values.address)
    network = Network(
        interface=section.get("interface", values.interface),
        network=section.get("network", values.host_network, None),
        virtual_ip=section.get("virtual_ip", values.address, None),
        aliases=tuple(aliases.values()),
        addresses=tuple(addresses.values()),
        accept_ra=section.get("accept_ra", values.boolean, None),
    )
    section.close()
    claim_aliases(section.reader, aliases, domain)
    if "virtual_ip" not in section.values:
        for path in aliases:
            section.reader.fault(path, "is a name for gateway:public:virtual_ip, and there is none")
    if network.addresses and "virtual_ip" not in section.values:
        section.reader.fault(
            section.at("virtual_ip"), "missing; further public addresses move with it"
        )
    for path, address in addresses.items():
        section.reader.claim("address", address, path)
        section.reader.inside(address, network.network, path)
    if network.virtual_ip and "network" not in section.values:
        section.reader.fault(section.at("network"), "missing; a public virtual IP needs it")
    _claim_side(section, network)
    return network


def _claim_side(section: Section, side: Network) -> None:
    section.reader.claim_network(side.network, section.at("network"))
    section.reader.claim("address", side.virtual_ip, section.at("virtual_ip"))
    section.reader.inside(side.virtual_ip, side.network, section.at("virtual_ip"))


def _read_nodes(
    top: Section, internal: Network, public: Network, link: str | None, domain: str | None
) -> tuple[Node, ...]:
    nodes = []
    for entry in top.entries("nodes", values.matching(values.MINION_PATTERN, "a minion id")):
        aliases = entry.section.placed("aliases", values.alias)
        nodes.append(
            _read_node(entry.name, entry.section, internal, public, link, tuple(aliases.values()))
        )
        claim_aliases(top.reader, aliases, domain)
    if top.readable and top.values.get("nodes", {}) == {}:
        top.reader.fault(top.at("nodes"), "a site needs at least one node")
    if len(nodes) > MOST_NODES:
        top.reader.fault(top.at("nodes"), f"{len(nodes)} nodes; a site has at most {MOST_NODES}")
    return tuple(sorted(nodes, key=lambda node: (node.id or 0, node.name)))


def _read_node(
    name: str,
    section: Section,
    internal: Network,
    public: Network,
    link: str | None,
    aliases: tuple[str, ...],
) -> Node:
    reader = section.reader
    number = section.get("id", values.whole(1, HIGHEST_ID))
    node = Node(
        name=name,
        id=number,
        internal=section.get("internal", values.address),
        public=section.get("public", values.host_address, None),
        aliases=aliases,
        remote=section.get("remote", values.server_address, None),
        priority=section.get(
            "priority", values.whole(1, 254), HIGHEST_PRIORITY + 1 - (number or 1)
        ),
        internal_interface=section.get("internal_interface", values.interface, internal.interface),
        public_interface=section.get("public_interface", values.interface, public.interface),
        sync=section.get("sync", values.host_address, None),
        sync_interface=section.get("sync_interface", values.interface, link),
        pki=_gateway_pem.read_pki(
            section.section("pki"), ("gateway", "nodes", name, "pki"), ("certificate", "key")
        ),
    )
    section.close()
    twin = ("id", node.id) in reader.claims
    reader.claim("id", node.id, section.at("id"))
    if node.id and not twin:
        reader.claim("priority", node.priority, section.at("priority"))
    reader.claim("host name", node.label, section.path)
    reader.claim("address", node.internal, section.at("internal"))
    reader.claim("address", node.public, section.at("public"))
    reader.inside(node.internal, internal.network, section.at("internal"))
    reader.inside(node.public, public.network, section.at("public"))
    if public.virtual_ip and "public" not in section.values and section.readable:
        reader.fault(section.at("public"), "missing; a public virtual IP needs it on each node")
    if node.internal_interface and node.internal_interface == node.public_interface:
        reader.fault(
            section.at("public_interface"),
            f"{node.public_interface} is the internal interface already",
        )
    _gateway_sync.check_sync_link(section, node, internal, public, link)
    return node


def _check_places(
    reader: Reader,
    internal: Network,
    public: Network,
    nodes: tuple[Node, ...],
    servers: tuple[VpnServer, ...],
    hosts: tuple[Host, ...],
) -> None:
    """What is in a network where nothing can reach it, and names that two interfaces would have.
    Networks that overlap have been named already."""
    vpn = [pair for pair in reader.networks if pair[1].startswith("gateway:vpn:")]
    for node in nodes:
        inside = [(internal.network, "gateway:internal:network"), *vpn] if internal.network else vpn
        for key, address, networks in (
            ("public", node.public, [] if public.network else inside),
            ("sync", node.sync, vpn),
        ):
            for network, path in networks:
                if address and address in network:
                    reader.fault(
                        f"gateway:nodes:{node.name}:{key}",
                        f"{address} is inside {network} of {path}",
                    )
        for interface in (node.internal_interface, node.public_interface, node.sync_interface):
            for server in servers:
                if interface == values.DEVICE_PREFIX + server.name:
                    reader.fault(
                        f"gateway:vpn:servers:{server.name}",
                        f"its device would be {interface}, an interface of {node.name} already",
                    )
    elsewhere = [
        host for host in hosts if host.ip and not (internal.network and host.ip in internal.network)
    ]
    for host in elsewhere:
        for server in servers:
            if server.network and host.ip in server.network:
                reader.fault(
                    f"gateway:hosts:{host.name}:ip",
                    f"{host.ip} is inside {server.network} of VPN server {server.name}, which has"
                    " clients and no hosts (gateway:vpn:clients)",
                )


def _check_names(
    reader: Reader,
    domain: str | None,
    internal: Network,
    public: Network,
    nodes: tuple[Node, ...],
    hosts: tuple[Host, ...],
) -> None:
    """DNS has the names without a dot with the site's domain behind them."""
    names = [(node.label, f"gateway:nodes:{node.name}") for node in nodes if node.label]
    names += [(host.name, f"gateway:hosts:{host.name}") for host in hosts]
    aliased = [(f"gateway:nodes:{node.name}", node.aliases) for node in nodes]
    aliased += [("gateway:internal", internal.aliases), ("gateway:public", public.aliases)]
    aliased += [(f"gateway:hosts:{host.name}", host.aliases) for host in hosts]
    for path, aliases in aliased:
        names += [(alias, f"{path}:aliases:{number}") for number, alias in enumerate(aliases)]
    for name, path in names:
        full = values.full_name(name, domain)
        if domain and len(full) > values.LONGEST_NAME:
            length = f"{len(full)} characters; DNS takes {values.LONGEST_NAME}"
            reader.fault(path, f"{values.show(full, 40)} has {length}")


def _check_own_ports(reader: Reader, site: Site) -> None:
    """A VPN server listens on all addresses, also on those where a service of ours does."""
    own = dict(values.SERVICE_PORTS)
    if site.dhcp.enabled:
        own["67/udp"] = "DHCP"
    if not all(node.public for node in site.nodes):
        own["68/udp"] = "the DHCP client of a node without a public address in the pillar"
    if site.state_sync.interface:
        own[f"{_gateway_sync.SYNC_PORT}/udp"] = "state sync"
    # Where SSH is open to the public side, it has claimed its port.
    if not site.firewall.ssh_from:
        own[f"{site.firewall.ssh_port}/tcp"] = "SSH"
    for server in site.vpn_servers:
        port = f"{server.port}/{server.proto}"
        if port in own:
            reader.fault(
                f"gateway:vpn:servers:{server.name}:port",
                f"port {port} is the gateway's own already, for {own[port]}",
            )


def _check_own_addresses(reader: Reader, site: Site) -> None:
    """A gateway that asks itself gets no answer, or the one that it would like to have."""
    sides = (site.internal, site.public)
    own = {str(side.virtual_ip) for side in sides} | {str(each) for each in site.public.addresses}
    for node in site.nodes:
        own |= {str(each) for each in (node.internal, node.public, node.sync)}
    for key, servers in (
        ("dns:forwarders", site.dns.forwarders),
        ("ntp:servers", site.ntp.servers),
        ("health:public:targets", site.health.public_targets),
        ("health:internal:targets", site.health.internal_targets),
    ):
        for number, server in enumerate(map(str, servers)):
            if server in own:
                reader.fault(f"gateway:{key}:{number}", f"{server} is the gateway itself")
    for number, target in enumerate(site.health.internal_targets):
        if site.internal.network and target in site.internal.network:
            reader.inside(
                target, site.internal.network, f"gateway:health:internal:targets:{number}"
            )


def _read_failover(section: Section) -> Failover:
    profile = section.get("profile", values.one_of(*FAILOVER_PROFILES), "normal")
    usual = FAILOVER_PROFILES[profile or "normal"]
    failover = Failover(
        advert_interval=section.get("advert_interval", _advert, usual["advert_interval"]),
        down_adverts=section.get("down_adverts", values.whole(2, 100), usual["down_adverts"]),
        garp_repeat=section.get("garp_repeat", values.whole(1, 20), 5),
        garp_delay=section.get("garp_delay", values.whole(0, 60), usual["garp_delay"]),
        garp_refresh=section.get("garp_refresh", values.whole(0, 3600), 0),
        startup_delay=section.get("startup_delay", values.whole(0, 60), 1),
        realtime_priority=section.get("realtime_priority", values.whole(0, 99), 50),
        preempt=section.get("preempt", values.boolean, True),
        preempt_delay=section.get("preempt_delay", values.whole(0, 3600), 5),
        reassert=section.get("reassert", _reassert, 60),
    )
    section.close()
    return failover


def _reassert(value: object) -> int:
    """Seconds between two calls of executables that may ask somebody's API; 0 for no such calls."""
    seconds = values.whole(0, 86400)(value)
    if 0 < seconds < 10:
        raise ValueError(f"{seconds} is neither 0 nor in 10 to 86400")
    return seconds


def _advert(value: object) -> float:
    """Seconds between two adverts. VRRP version 3 has 12 bits for hundredths (RFC 9568 5.2.7)."""
    values.one(value, "one number of seconds")
    if isinstance(value, str) and values.DECIMAL_PATTERN.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(
            f"must be a number of seconds, is {values.kind(value)} ({values.show(value)})"
        )
    if not 0.01 <= value <= 40:
        raise ValueError(f"{values.show(value)} is not in 0.01 to 40 seconds")
    if abs(value * 100 - round(value * 100)) > 1e-6:
        raise ValueError(f"{values.show(value)} is not a whole number of hundredths of a second")
    return round(value * 100) / 100


def _read_health(section: Section) -> Health:
    said = set()

    def targets(side: str) -> tuple[IPv4Address, ...]:
        part = section.section(side)
        found = part.items("targets", values.host_address)
        part.close()
        if "targets" in part.values:
            said.add(side)
        return found

    health = Health(
        services=section.items("services", values.unit),
        public_targets=targets("public"),
        internal_targets=targets("internal"),
        undecided="internal" not in said,
    )
    section.close()
    return health


# The same of keepalived.
_KEEPALIVED_OWN = {
    "max_auto_priority": "use gateway:failover:realtime_priority",
    "vrrp_down_timer_adverts": "use gateway:failover:down_adverts",
    "vrrp_garp_lower_prio_delay": "after a partition hosts would be late to learn who has won",
    "vrrp_higher_prio_send_advert": "a partition that heals is over when the winner has said so",
    "vrrp_rlimit_rttime": "with gateway:failover:realtime_priority the kernel would end keepalived",
    "vrrp_rt_priority": "use gateway:failover:realtime_priority",
    "vrrp_strict": "keepalived would drop all that is for a virtual IP, such as DNS",
}


def check_node(site: Site, name: str) -> list[str]:
    """What keeps the minion ``name`` from being a node of the site: at most one error."""
    names = [node.name for node in site.nodes]
    if name in names:
        return []
    hint = values.did_you_mean(name, names)
    known = ", ".join(names)
    return [
        f"gateway:nodes: this minion, {values.show(name, 80)}, is not among them ({known}){hint}"
    ]


# --------------------------------------------------------------------------------------------------
# Planning


def plan(site: Site, name: str) -> dict[str, Any]:
    """What node ``name`` of the site is to be: dicts, lists, text, numbers and booleans only.

    Addresses and networks are text, times are seconds. Raises ValueError for a node that the site
    does not have.
    """
    errors = check_node(site, name)
    if errors:
        raise ValueError(errors[0])
    node = next(node for node in site.nodes if node.name == name)
    peers = [peer for peer in site.nodes if peer is not node]
    return {
        "formula": VERSION,
        "digest": site.digest,
        "domain": site.domain,
        "node": {
            "name": node.name,
            "id": node.id,
            "internal": str(node.internal),
            "public": text_or_none(node.public),
            "sync": text_or_none(node.sync),
            "remote": node.remote or text_or_none(node.public),
        },
        "peers": [
            {
                "name": peer.name,
                "id": peer.id,
                "internal": str(peer.internal),
                "public": text_or_none(peer.public),
            }
            for peer in peers
        ],
        "internal": _plan_side(site.internal, node.internal_interface),
        "public": {
            **_plan_side(site.public, node.public_interface),
            "accept_ra": site.public.accept_ra,
        },
        "kernel": _gateway_kernel.plan_kernel(site, node),
        # Apart from the rest: it is switched on when the rules are in force, and not before.
        "forwarding": {"net/ipv4/ip_forward": "1"},
        "vrrp": _plan_vrrp(site, node, peers),
        "sync": _gateway_sync.plan_sync(site, node, peers),
        "health": _plan_health(site, node),
        "vpn": _gateway_vpn.plan_vpn(site, node),
        "routes": [
            {"destination": str(server.subnet(peer)), "via": str(peer.internal)}
            for server in site.vpn_servers
            for peer in peers
        ]
        # Where a client is connected, its networks have longer routes (files/vpn-routes).
        + [
            {"destination": str(network), "via": str(peer.internal)}
            for network in _gateway_clients.client_networks(site)
            for peer in peers
        ],
        "firewall": _gateway_policy.plan_firewall(site, node),
        "nat": _gateway_nat.plan_nat(site, node),
        "dhcp": _gateway_dhcp.plan_dhcp(site),
        "dns": _gateway_dns.plan_dns(site, node),
        "ntp": _gateway_ntp.plan_ntp(site, peers),
        "follow": {
            "units": list(site.follow_virtual_ip),
            "reassert": site.failover.reassert,
        },
    }


def _plan_side(side: Network, interface: str) -> dict[str, Any]:
    return {
        "interface": interface,
        "network": text_or_none(side.network),
        "netmask": text_or_none(side.network and side.network.netmask),
        "virtual_ip": text_or_none(side.virtual_ip),
    }


def _plan_vrrp(site: Site, node: Node, peers: list[Node]) -> dict[str, Any]:
    instances = [
        {
            "name": "internal",
            "interface": node.internal_interface,
            "virtual_ip": str(site.internal.virtual_ip),
            "addresses": [],
            "source": str(node.internal),
            "peers": [str(peer.internal) for peer in peers],
        }
    ]
    if site.public.virtual_ip:
        instances.append(
            {
                "name": "public",
                "interface": node.public_interface,
                "virtual_ip": str(site.public.virtual_ip),
                "addresses": [str(address) for address in site.public.addresses],
                "source": str(node.public),
                "peers": [str(peer.public) for peer in peers],
            }
        )
    failover = site.failover
    return {
        "router_id": site.router_id,
        "priority": _priority(site, node),
        "advert_interval": failover.advert_interval,
        "down_adverts": failover.down_adverts,
        "garp": {
            "repeat": failover.garp_repeat,
            "delay": failover.garp_delay,
            "refresh": failover.garp_refresh,
        },
        "startup_delay": failover.startup_delay,
        "realtime_priority": failover.realtime_priority,
        "instances": instances,
        "settings": plan_settings(site.keepalived.settings),
    }


def _priority(site: Site, node: Node) -> int:
    """VRRP's number. Of the pillar's numbers only the order counts: close together, any penalty
    outweighs them."""
    better = [other for other in site.nodes if other.priority > node.priority]
    return HIGHEST_PRIORITY - len(better)


def _plan_health(site: Site, node: Node) -> dict[str, Any]:
    """What the monitor of a node looks at, and what it takes off the node's priority for it."""
    step = len(site.nodes)
    lowest_peer = min(
        (_priority(site, other) for other in site.nodes if other is not node), default=0
    )
    failover = site.failover
    return {
        "services": list(dict.fromkeys((*WATCHED, *site.health.services))),
        "public": {
            "interface": node.public_interface,
            "address": str(node.public) if node.public else "",
            "targets": [str(target) for target in site.health.public_targets],
        },
        "internal": {
            "interface": node.internal_interface,
            "address": str(node.internal),
            "targets": [str(target) for target in site.health.internal_targets],
            # With two elections, that of the other side goes on where this one is dead.
            "undecided": bool(site.health.undecided and site.public.virtual_ip),
        },
        "virtual_ip": str(site.internal.virtual_ip),
        # Interface and address by turns.
        "announced": [
            text
            for interface, address in [
                (node.internal_interface, site.internal.virtual_ip),
                (node.public_interface, site.public.virtual_ip),
                *((node.public_interface, address) for address in site.public.addresses),
            ]
            if address
            for text in (interface, str(address))
        ],
        "preempt": failover.preempt,
        "preempt_delay": failover.preempt_delay,
        "advert": max(1, int(failover.advert_interval * 80)),
        "penalties": {
            **{name: number * step for name, number in PENALTIES.items()},
            # A drain that has to be proven first: just below a peer that is cold and else in
            # good health, and above one that is not.
            "draining": _priority(site, node) - (lowest_peer - step - 1),
        },
        # Seconds in which a healthy peer has taken over from a node that is worse.
        "takeover": failover.advert_interval * (failover.down_adverts + 2) + 2,
    }
