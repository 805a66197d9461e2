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
import _gateway_nodes
import _gateway_ntp
import _gateway_pem
import _gateway_policy
import _gateway_sync
import _gateway_values as values
import _gateway_vpn
from _gateway_names import Names, own_names
from _gateway_reader import Reader, Section
from _gateway_site import (
    Failover,
    Health,
    Node,
    Service,
    Site,
    client_addresses,
    plan_settings,
    text_or_none,
)

VERSION = "202611-1"  # of the formula, as FORMULA has it

ROUTER_ID = 51  # keepalived's customary one
# Of the formula's own units those that run where the virtual IP is, or now and then.
FOLLOWERS = (
    *("gateway-dhcp.service", "gateway-virtual-ip.target"),
    *("gateway-follow-event.service", "gateway-follow-hooks.service"),
)
WATCHED = ("gateway-dns.service", "gateway-follow.service")  # without them a node is of little use


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
    internal = _gateway_nodes.read_internal(top.section("internal", required=True), domain)
    public = _gateway_nodes.read_public(top.section("public", required=True), domain)
    link = _gateway_sync.read_sync_link(top)
    nodes = _gateway_nodes.read_nodes(top, internal, public, link, domain)
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
    _gateway_nodes.check_places(reader, internal, public, nodes, servers, hosts)
    _gateway_nodes.check_names(reader, domain, internal, public, nodes, hosts)
    _gateway_nodes.check_own_ports(reader, site)
    _gateway_nodes.check_own_addresses(reader, site)
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


# --------------------------------------------------------------------------------------------------
# Planning


def plan(site: Site, name: str) -> dict[str, Any]:
    """What node ``name`` of the site is to be: dicts, lists, text, numbers and booleans only.

    Addresses and networks are text, times are seconds. Raises ValueError for a node that the site
    does not have.
    """
    errors = _gateway_nodes.check_node(site, name)
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
        "internal": _gateway_nodes.plan_side(site.internal, node.internal_interface),
        "public": {
            **_gateway_nodes.plan_side(site.public, node.public_interface),
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
    return _gateway_nodes.HIGHEST_PRIORITY - len(better)


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
            **{name: number * step for name, number in _gateway_nodes.PENALTIES.items()},
            # A drain that has to be proven first: just below a peer that is cold and else in
            # good health, and above one that is not.
            "draining": _priority(site, node) - (lowest_peer - step - 1),
        },
        # Seconds in which a healthy peer has taken over from a node that is worse.
        "takeover": failover.advert_interval * (failover.down_adverts + 2) + 2,
    }
