"""The site: every node, network, host and rule of it, checked and frozen; and its digest."""

import functools
import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import _gateway_values as values

# Smallest and largest prefix length of OpenVPN's --server network (its helper.c refuses anything
# longer than /29; a pool holds at most 65,536 addresses).
VPN_PREFIXES = (16, 29)
PUBLIC_MATERIAL = ("ca", "certificate", "crl")  # of vpn:pki; the rest is secret
INSTANCE_PREFIX = "gateway-"
INTERNAL = "internal"  # what the internal network is called among all local ones

# Of a field that came later: without a value it is not in the digest, so a site without it has the
# digest that it had before.
LATER = {"later": True}


@dataclass(frozen=True)
class Material:
    """A certificate or key: a path on the node, or PEM text and its place in the pillar."""

    path: str | None
    keys: tuple[str, ...]
    text: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Node:
    """One gateway; ``name`` is its minion id."""

    name: str
    id: int
    internal: IPv4Address
    public: IPv4Address | None
    aliases: tuple[str, ...]
    remote: str | None
    priority: int
    internal_interface: str
    public_interface: str
    sync: IPv4Address | None
    sync_interface: str | None
    pki: dict[str, Material]
    # In the further networks, by their names: its own address, and what the card is called here.
    addresses: dict[str, IPv4Address] = field(default_factory=dict, metadata=LATER)
    interfaces: dict[str, str] = field(default_factory=dict, metadata=LATER)

    def address_in(self, network: str) -> IPv4Address:
        """The node's own address in a local network."""
        return self.internal if network == INTERNAL else self.addresses[network]

    def interface_in(self, network: str) -> str:
        """The node's interface in a local network."""
        return self.internal_interface if network == INTERNAL else self.interfaces[network]

    @property
    def label(self) -> str | None:
        """The node's name in the site's DNS; None where its minion id cannot be one."""
        label = self.name.split(".")[0].lower()
        return label if values.LABEL_PATTERN.fullmatch(label) else None


@dataclass(frozen=True)
class Network:
    """The internal or the public side. Only the public one may lack a network and a virtual IP,
    have further addresses that move with the virtual IP, or believe what routers of IPv6 say
    (``accept_ra``; None where the pillar does not say)."""

    interface: str
    network: IPv4Network | None
    virtual_ip: IPv4Address | None
    aliases: tuple[str, ...] = ()
    addresses: tuple[IPv4Address, ...] = ()
    accept_ra: bool | None = None

    @functools.cached_property
    def further(self) -> frozenset[IPv4Address]:
        """``addresses``, to look one up."""
        return frozenset(self.addresses)


@dataclass(frozen=True)
class Dhcp:
    """What DHCP hands out in a network beside the reservations. ``settings`` are of all networks,
    and only the internal one has them; so is ``key``, by which the nodes know each other. What is
    None is what the network has anyway."""

    enabled: bool
    pool: tuple[IPv4Address, IPv4Address] | None
    lease_time: str
    settings: tuple[tuple[str, str], ...]
    further_pools: tuple[tuple[IPv4Address, IPv4Address], ...] = field(default=(), metadata=LATER)
    router: IPv4Address | None = field(default=None, metadata=LATER)
    dns: tuple[IPv4Address, ...] = field(default=(), metadata=LATER)
    ntp: tuple[IPv4Address, ...] = field(default=(), metadata=LATER)
    domain: str | None = field(default=None, metadata=LATER)
    options: tuple[tuple[str, str], ...] = field(default=(), metadata=LATER)
    boot: tuple[str, ...] = field(default=(), metadata=LATER)
    register: bool | None = field(default=None, metadata=LATER)
    key: Material | None = field(default=None, metadata=LATER)


@dataclass(frozen=True)
class LocalNetwork:
    """A network behind the pair, with a virtual IP: the internal one, or a further one.

    ``trusted``: with the rights of the internal network. ``isolated``: nothing of the gateway but
    its services at its addresses there. ``names``: whether it gets the names of the site.
    ``translated``: whether its addresses are hidden from the internet (NAT). ``routed`` are
    networks behind routers in it, ``targets`` who has to answer there on a healthy node.
    """

    name: str
    interface: str
    network: IPv4Network
    virtual_ip: IPv4Address
    aliases: tuple[str, ...]
    trusted: bool
    isolated: bool
    names: bool
    translated: bool
    targets: tuple[IPv4Address, ...]
    dhcp: Dhcp
    routed: tuple[IPv4Network, ...] = ()

    @property
    def all_networks(self) -> tuple[IPv4Network, ...]:
        """Its own, and those behind routers in it."""
        return (self.network, *self.routed)


@dataclass(frozen=True)
class InsideRoute:
    """The way to a network behind a router in the local network called ``through``."""

    key: str
    network: IPv4Network
    via: IPv4Address
    through: str


@dataclass(frozen=True)
class StateSync:
    """The interface of the nodes' own link, over which they tell each other of connections; None:
    they do not. ``undecided``: they could, and the pillar says nothing of it."""

    interface: str | None
    undecided: bool


@dataclass(frozen=True)
class VpnAuth:
    """Who checks names and passwords, PAM or a script; a token lives so many seconds.
    ``same_name``: the name has to be that of the certificate."""

    pam: str | None
    script: str | None
    token_lifetime: int
    same_name: bool


@dataclass(frozen=True)
class VpnClient:
    """A client that the site knows by its certificate's common name; ``id`` is its host part in
    every subnet, ``networks`` are behind it."""

    name: str
    id: int | None
    networks: tuple[IPv4Network, ...]
    pushes: tuple[str, ...]
    disabled: bool

    @property
    def file(self) -> str:
        """What OpenVPN calls its file (gen_path in misc.c)."""
        return self.name.replace("/", "_")


@dataclass(frozen=True)
class VpnServer:
    """One OpenVPN server of the site: an instance on each node, with a subnet each."""

    name: str
    network: IPv4Network
    prefix: int
    port: int
    proto: str
    subnets: dict[str, IPv4Network]
    full_tunnel: bool
    routes: tuple[IPv4Network, ...]
    dynamic: bool
    auth: VpnAuth | None
    settings: tuple[tuple[str, str], ...]

    def block(self, number: int) -> IPv4Network:
        """Block ``number`` (from 0) of the server's network."""
        size: int = 1 << (32 - self.prefix)
        return IPv4Network((int(self.network.network_address) + number * size, self.prefix))

    def subnet(self, node: Node) -> IPv4Network:
        """The node's own subnet: what the pillar says, or block id - 1."""
        return self.subnets.get(node.name) or self.block(node.id - 1)

    def dynamic_range(self, node: Node) -> tuple[IPv4Address, IPv4Address]:
        """First and last address for clients without one of their own: the subnet's upper half."""
        subnet = self.subnet(node)
        return subnet[subnet.num_addresses // 2], subnet[-2]


@dataclass(frozen=True)
class Host:
    """An entry of the site's registry of hosts."""

    name: str
    ip: IPv4Address
    macs: tuple[str, ...]
    aliases: tuple[str, ...]
    further_ips: tuple[IPv4Address, ...] = field(default=(), metadata=LATER)

    @property
    def ips(self) -> tuple[IPv4Address, ...]:
        """All its addresses, in the order of the pillar."""
        return (self.ip, *self.further_ips)


@dataclass(frozen=True)
class Target:
    """What a rule names: ``kind`` is zone, server, client, group, host (one with several addresses)
    or network (an address, too, and that of any other host)."""

    kind: str
    name: str


@dataclass(frozen=True)
class Rule:
    """What a filter or NAT rule matches and does; empty means any. ``key`` is its pillar key."""

    key: str
    sources: tuple[Target, ...]
    destinations: tuple[Target, ...]
    proto: str | None
    ports: tuple[tuple[int, int], ...]
    action: str
    limit: str | None
    log: bool
    comment: str | None


@dataclass(frozen=True)
class Forward:
    """Ports of the public side, first to last, that lead to a host behind the gateway."""

    key: str
    ports: tuple[int, int]
    proto: str
    to: str
    ip: IPv4Address
    to_port: int
    sources: tuple[Target, ...]
    address: IPv4Address | None
    comment: str | None


@dataclass(frozen=True)
class OneToOne:
    """A public address that stands for one host, in both directions."""

    key: str
    address: IPv4Address
    to: str
    ip: IPv4Address


@dataclass(frozen=True)
class Nat:
    """Address translation. In ``outbound`` a rule's action is masquerade, none or an address."""

    forwards: tuple[Forward, ...]
    outbound: tuple[Rule, ...]
    one_to_one: tuple[OneToOne, ...]


@dataclass(frozen=True)
class Firewall:
    """The site's rules; ``raw`` are lines of iptables as (family, table, chain, key, line)."""

    confirm_timeout: int
    spoof_protection: bool
    log: bool
    log_limit: str
    mss: int | None
    ssh_port: int
    ssh_from: tuple[Target, ...]
    egress: str
    egress_allowed: tuple[Rule, ...]
    groups: dict[str, tuple[str, ...]]
    input: tuple[Rule, ...]
    forward: tuple[Rule, ...]
    raw: tuple[tuple[int, str, str, str, str], ...]


@dataclass(frozen=True)
class Dns:
    """Whom to ask for names that are not the site's. ``public_domain``: its domain exists outside,
    too."""

    forwarders: tuple[str, ...]
    public_domain: bool
    settings: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Failover:
    """How fast the virtual IPs move; times in seconds. ``down_adverts`` is how many adverts in
    a row have to be missed; ``reassert`` how often the executables of the holder are called again,
    0 for never."""

    advert_interval: float
    down_adverts: int
    garp_repeat: int
    garp_delay: int
    garp_refresh: int
    startup_delay: int
    realtime_priority: int
    preempt: bool
    preempt_delay: int
    reassert: int


@dataclass(frozen=True)
class Health:
    """What has to work on a node that is to have the virtual IPs: systemd units, and of each side
    one of the addresses has to answer. ``undecided``: the pillar says nothing of internal ones."""

    services: tuple[str, ...]
    public_targets: tuple[IPv4Address, ...]
    internal_targets: tuple[IPv4Address, ...]
    undecided: bool


@dataclass(frozen=True)
class Service:
    """What NTP and keepalived have in common: upstream servers, pass-through settings."""

    servers: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Site:
    """A whole site, checked: every node, network and host of it."""

    domain: str
    nodes: tuple[Node, ...]
    internal: Network
    public: Network
    router_id: int
    state_sync: StateSync
    failover: Failover
    health: Health
    vpn_servers: tuple[VpnServer, ...]
    vpn_clients: tuple[VpnClient, ...]
    vpn_pki: dict[str, Material]
    vpn_error: str | None
    vpn_remote: str | None
    hosts: tuple[Host, ...]
    firewall: Firewall
    nat: Nat
    dns: Dns
    dhcp: Dhcp
    ntp: Service
    ntp_provider: str
    keepalived: Service
    follow_virtual_ip: tuple[str, ...]
    networks: tuple[LocalNetwork, ...] = field(default=(), metadata=LATER)
    routes: tuple[InsideRoute, ...] = field(default=(), metadata=LATER)

    @functools.cached_property
    def local(self) -> tuple[LocalNetwork, ...]:
        """All networks behind the pair: the internal one, and the further ones."""
        internal = LocalNetwork(
            name=INTERNAL,
            interface=self.internal.interface,
            network=self.internal.network,  # type: ignore[arg-type] # it has both
            virtual_ip=self.internal.virtual_ip,  # type: ignore[arg-type]
            aliases=self.internal.aliases,
            trusted=True,
            isolated=False,
            names=True,
            translated=True,
            targets=self.health.internal_targets,
            dhcp=self.dhcp,
        )
        routed: dict[str, list[IPv4Network]] = {}
        for route in self.routes:
            routed.setdefault(route.through, []).append(route.network)
        return tuple(
            replace(network, routed=tuple(routed.get(network.name, ())))
            for network in (internal, *self.networks)
        )

    @functools.cached_property
    def local_by_name(self) -> dict[str, LocalNetwork]:
        """The same, by what rules call them."""
        return {network.name: network for network in self.local}

    def addresses_of(self, host: str) -> tuple[IPv4Address, ...]:
        """Those of an entry of ``hosts``."""
        return self._addresses[host]

    @functools.cached_property
    def _addresses(self) -> dict[str, tuple[IPv4Address, ...]]:
        return {host.name: host.ips for host in self.hosts}

    def peers(self, node: Node) -> tuple[Node, ...]:
        """The other nodes of the site."""
        return tuple(other for other in self.nodes if other is not node)

    @functools.cached_property
    def client_addresses(self) -> dict[str, tuple[str, ...]]:
        """Addresses and networks of each VPN client, by its name in small letters."""
        return client_addresses(self.vpn_clients, self.vpn_servers, self.nodes)

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits; the same for every node, whatever the order of the pillar."""
        # The digest says whether both nodes were given the same site. A missing certificate
        # concerns one node, and vpn:remote concerns only the clients' profiles.
        others = ("vpn_error", "vpn_remote")
        site = {name: value for name, value in _fields(self).items() if name not in others}
        text = json.dumps(site, default=_plain, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _fields(value: Any) -> dict[str, Any]:
    """What a part of a site was made of, without what was worked out of it since, and without what
    came later and is not used."""
    parts = ((name, getattr(value, name), later) for name, later in _field_names(value.__class__))
    return {name: part for name, part, later in parts if part or part is False or not later}


@functools.cache
def _field_names(kind: Any) -> tuple[tuple[str, bool], ...]:
    """Each field, and whether it came later."""
    return tuple((each.name, "later" in each.metadata) for each in fields(kind))


def _plain(value: Any) -> Any:
    """What ``json`` shall write for a part of a site. Never the text of a key: only its hash."""
    if isinstance(value, Material):
        # Each node's pillar may have that node's own certificate there (gateway_pki.pillar).
        own = value.keys[1] == "vpn" and value.keys[-1] in ("certificate", "key")
        text = "" if own else value.text or ""
        return [value.path, hashlib.sha256(text.encode()).hexdigest()]
    if isinstance(value, (IPv4Address, IPv4Network)):
        return str(value)
    return _fields(value)


def vpn_subnets(
    servers: tuple[VpnServer, ...], nodes: tuple[Node, ...]
) -> list[tuple[VpnServer, IPv4Network]]:
    """Every node's subnet of every server, as far as what the pillar says of them can be."""
    found = [(server, _fitting_subnet(server, node)) for server in servers for node in nodes]
    return [(server, subnet) for server, subnet in found if subnet]


def _fitting_subnet(server: VpnServer, node: Node) -> IPv4Network | None:
    """The node's subnet; None where there is none for it (``_check_blocks`` says why)."""
    if not (server.network and server.prefix and node.id):
        return None
    if node.name not in server.subnets:
        blocks = 1 << max(0, server.prefix - server.network.prefixlen)
        if server.prefix < server.network.prefixlen or node.id > blocks:
            return None
    subnet = server.subnet(node)
    fits = VPN_PREFIXES[0] <= subnet.prefixlen <= VPN_PREFIXES[1]
    return subnet if fits and subnet.subnet_of(server.network) else None


def client_addresses(
    clients: tuple[VpnClient, ...], servers: tuple[VpnServer, ...], nodes: tuple[Node, ...]
) -> dict[str, tuple[str, ...]]:
    """By name in small letters, as rules have it: what a client has wherever it is connected, and
    the networks behind it."""
    starts = [subnet.network_address for _, subnet in vpn_subnets(servers, nodes)]
    return {
        client.name.lower(): (
            *(str(start + client.id) for start in starts if client.id),
            *(str(network) for network in client.networks),
        )
        for client in clients
    }


def text_or_none(value: object) -> str | None:
    return None if value is None else str(value)


def plan_settings(settings: tuple[tuple[str, str], ...]) -> list[list[str]]:
    return [list(pair) for pair in settings]
