"""This node's interfaces, addresses and routes beside what the pillar says of them."""

import json
import os
import re
import socket
from collections.abc import Mapping
from ipaddress import IPv4Interface, IPv4Network, ip_address, ip_network
from typing import Any, NamedTuple

import _gateway_machine
import _gateway_values
from _gateway_machine import Facts, Here, Links, Plan, Routes

KEEPALIVED = "/etc/keepalived/keepalived.conf"
# Where the first file names the stub of systemd-resolved, the second one has whom that asks.
RESOLVERS = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
RESOLVED = "127.0.0.53"
# The kernel is asked for its route to this address (a DNS root server). Nothing is sent to it.
FAR_AWAY = "198.41.0.4"


class Side(NamedTuple):
    """One of a node's interfaces in the pillar: its name here, the node's own address (if the
    pillar has one), the network (likewise); the section that describes it, and the key of the
    address in the node's section."""

    interface: str
    address: str | None
    network: str | None
    section: str
    address_key: str

    @property
    def interface_key(self) -> str:
        """The key in the node's section that says what the interface is called there."""
        if self.section.startswith("networks:"):
            return self.section.replace("networks:", "interfaces:")
        return f"{self.address_key}_interface"


def sides(plan: Plan) -> dict[str, Side]:
    """All of them, by side: internal, public, the further networks by their names, and sync."""
    sides = {
        side: Side(plan[side]["interface"], plan["node"][side], plan[side]["network"], side, side)
        for side in ("internal", "public")
    }
    for each in plan["networks"]:
        sides[each["name"]] = Side(
            each["interface"],
            each["address"],
            each["network"],
            f"networks:{each['name']}",
            f"addresses:{each['name']}",
        )
    if plan["node"]["sync"]:
        sides["sync"] = Side(
            plan["sync"]["interface"], plan["node"]["sync"], None, "state_sync", "sync"
        )
    return sides


def interface_keys(plan: Plan, pillar: Mapping[str, Any]) -> dict[str, str]:
    """Where the pillar says what each side's interface is called on this node."""
    return {
        side: _node_key(plan, pillar, found.interface_key) or f"gateway:{found.section}:interface"
        for side, found in sides(plan).items()
    }


def address_keys(plan: Plan, pillar: Mapping[str, Any]) -> dict[str, str]:
    """Where the pillar says which address this node has on each side."""
    return {
        # The node's address in a further network is the virtual IP plus its id, if nothing is said.
        side: _node_key(plan, pillar, found.address_key) or f"gateway:{found.section}"
        for side, found in sides(plan).items()
    }


def _node_key(plan: Plan, pillar: Mapping[str, Any], key: str) -> str | None:
    """The whole key, if this node's section of the pillar has it."""
    name = plan["node"]["name"]
    value: Any = pillar["nodes"][name]
    for part in key.split(":"):
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if value is None else f"gateway:nodes:{name}:{key}"


def errors(plan: Plan, here: Here) -> list[str]:
    """What the pillar says of this node's interfaces and the node itself does not have."""
    return [
        *_interface_errors(plan, here),
        *_advertisement_errors(plan),
    ]


def status(plan: Plan, here: Here) -> tuple[Facts, list[str]]:
    """It has nothing to show, and says where an address that moves is the node's own."""
    return {}, _virtual_ip_errors(plan, here.links)


def _interface_errors(plan: Plan, here: Here) -> list[str]:
    errors, links = [], here.links
    for side, found in sides(plan).items():
        interface, address, network, *_ = found
        if not os.path.exists(f"{_gateway_machine.INTERFACES}/{interface}"):
            have = ", ".join(sorted(os.listdir(_gateway_machine.INTERFACES)))
            errors.append(
                f"{here.interface_keys[side]}: this node has no interface {interface}, only {have}"
            )
            continue
        key = here.address_keys[side]
        if address and address not in _gateway_machine.addresses_on(links, interface):
            errors.append(f"{key}: {address} is not on this node's interface {interface}")
        elif address and network:
            errors += [f"{key}: {fault}" for fault in _reach(links, interface, address, network)]
    return errors + _virtual_ip_errors(plan, links)


def _reach(links: Links, interface: str, address: str, network: str) -> list[str]:
    """Why the hosts of a side's network are not reached directly."""
    own = f"{address}/{_gateway_machine.addresses_on(links, interface)[address]['prefixlen']}"
    # Some clouds give the address a /32 and a route for the network.
    if _gateway_machine.holds(IPv4Interface(own).network, network) or any(
        _gateway_machine.holds(found, network)
        for found, device in _gateway_machine.routes_on_link()
        if device == interface
    ):
        return []
    return [
        f"this node has {own} on {interface}, which does not reach {network}; give it the prefix"
        f" length of the network, or the network a route over {interface}"
    ]


def _virtual_ip_errors(plan: Plan, links: Links) -> list[str]:
    """
    An address that moves, and that a node has by itself. It would take itself for the primary
    before keepalived starts, and after keepalived has given the address away.
    """
    configured = _gateway_machine.text(KEEPALIVED) or ""
    errors = []
    for instance in plan["vrrp"]["instances"]:
        moving = [
            (f"{instance['name']}:virtual_ip", instance["virtual_ip"]),
            *((f"{instance['name']}:addresses", each) for each in instance["addresses"]),
        ]
        if instance["name"] == "internal":
            moving += [
                (f"networks:{each['name']}:virtual_ip", each["virtual_ip"])
                for each in plan["networks"]
            ]
        for key, address in moving:
            for interface in links:
                length = _gateway_machine.prefix_length(links, interface, address)
                own = f"{address}/{length}"
                if length is None or _is_keepalived_s(configured, own, interface):
                    continue
                errors.append(
                    f"gateway:{key}: this node has {own} on {interface}, and not"
                    " by keepalived; take it out of what configures the interface"
                )
    return errors


def lasting_addresses(links: Links) -> list[str]:
    """This node's addresses but for those that keepalived has added, be it by a configuration that
    is about to change."""
    configured = _gateway_machine.text(KEEPALIVED) or ""
    return [
        address
        for interface in links
        for address, facts in _gateway_machine.addresses_on(links, interface).items()
        if not _is_keepalived_s(configured, f"{address}/{facts['prefixlen']}", interface)
    ]


def _is_keepalived_s(configuration: str, address: str, interface: str) -> bool:
    """Whether keepalived's configuration, ours or one of before, has just this address there."""
    names = (address, address.removesuffix("/32"))
    for line in configuration.splitlines():
        words = re.sub("[{}]", " ", line).split()
        device = words[words.index("dev") + 1 :][:1] if "dev" in words else []
        if any(name in words for name in names) and device in ([], [interface]):
            return True
    return False


def warnings(plan: Plan, here: Here) -> list[str]:
    """Where this node's addresses, routes and resolv.conf do not go with the pillar."""
    links = here.links
    for interface, address, *_ in sides(plan).values():
        if interface not in links or (
            address and address not in _gateway_machine.addresses_on(links, interface)
        ):
            return []  # the rest would follow from that
    routes = _gateway_machine.routes_on_link()
    return [
        *_size_warnings(plan, links),
        *_overlap_warnings(plan, routes),
        *_way_out_warnings(plan, here.interface_keys),
        *_peer_warnings(plan, links, routes),
        *_lease_warnings(plan, here),
        *_resolver_warnings(plan, links),
    ]


def _size_warnings(plan: Plan, links: Links) -> list[str]:
    """A network that is larger on the node than in the pillar."""
    found = []
    for interface, address, network, section, _ in sides(plan).values():
        length = _gateway_machine.prefix_length(links, interface, address)
        if network and length is not None and length < ip_network(network).prefixlen:
            found.append(
                f"gateway:{section}:network: {network} here, but this node has {address}/{length}"
                f" on {interface}"
            )
    return found


def _overlap_warnings(plan: Plan, routes: Routes) -> list[str]:
    """Another interface that takes what is meant for a network of the site."""
    networks: list[tuple[str, str, str | None]] = [
        (f"gateway:{side.section}:network", side.network, side.interface)
        for side in sides(plan).values()
        if side.network
    ]
    for server in plan["vpn"]["servers"]:
        networks.append((f"gateway:vpn:servers:{server['name']}:network", server["network"], None))
    networks += [("gateway:vpn:clients", network, None) for network in plan["vpn"]["networks"]]
    networks += [("gateway:routes", each["destination"], None) for each in plan["inside_routes"]]
    return [
        f"{key}: {found}, a part of {network}, is on this node's interface {device}, and packets"
        " for it go there"
        for key, network, interface in networks
        for found, device in routes
        if device != interface
        # A tunnel has routes for its own networks, also the tunnel of a server that has been
        # renamed since.
        and not device.startswith(_gateway_values.DEVICE_PREFIX)
        and found.subnet_of(IPv4Network(network))
    ]


def _way_out_warnings(plan: Plan, keys: dict[str, str]) -> list[str]:
    public = plan["public"]["interface"]
    route = json.loads(
        _gateway_machine.output("ip", "-json", "-4", "route", "get", FAR_AWAY) or "[{}]"
    )[0]
    if route.get("dev") == public:
        return []
    leads = f"this node's way to the internet is {route['dev']}" if route.get("dev") else ""
    leads = leads or "this node has no route to the internet (no default route)"
    return [f"{keys['public']}: {leads}; it should lead through {public}"]


def _peer_warnings(plan: Plan, links: Links, routes: Routes) -> list[str]:
    """The ends of the nodes' own link, whose network the pillar does not know."""
    if not plan["sync"]["enabled"]:
        return []
    interface, peer = plan["sync"]["interface"], plan["sync"]["peer"]
    own = _gateway_machine.addresses_on(links, interface).get(plan["node"]["sync"])
    networks = [network for network, device in routes if device == interface]
    if own:
        networks.append(IPv4Interface(f"{own['local']}/{own['prefixlen']}").network)
    if any(_gateway_machine.holds(network, peer) for network in networks):
        return []
    return [
        f"gateway:nodes:{plan['node']['name']}:sync: the peer's address, {peer}, is in no network"
        f" of this node's interface {interface}"
    ]


def _lease_warnings(plan: Plan, here: Here) -> list[str]:
    """Own addresses from the DHCP server that the gateways are themselves."""
    found = sides(plan)
    served = {network["name"]: network["dhcp"]["enabled"] for network in plan["networks"]}
    served["internal"] = plan["dhcp"]["enabled"]
    return [
        f"{here.address_keys[side]}: this node has {address} by DHCP, and the gateways are the DHCP"
        " server; after an outage of both nobody could give it"
        for side, (interface, address, *_) in found.items()
        if served.get(side)
        and _gateway_machine.addresses_on(here.links, interface)
        .get(address or "", {})
        .get("dynamic")
    ]


def _resolver_warnings(plan: Plan, links: Links) -> list[str]:
    """Without forwarders dnsmasq asks whom resolv.conf names, and that may be the pair itself."""
    if plan["dns"]["forwarders"] or any(_asks_others(*pair) for pair in plan["dns"]["settings"]):
        return []
    servers = _nameservers(resolver_file())
    own = {plan["internal"]["virtual_ip"], plan["public"]["virtual_ip"]}
    own |= {network["virtual_ip"] for network in plan["networks"]}
    own |= {address for link in links for address in _gateway_machine.addresses_on(links, link)}
    own |= {peer[side] for peer in plan["peers"] for side in ("internal", "public")}
    own |= {peer["address"] for network in plan["networks"] for peer in network["peers"]}
    ourselves = [server for server in servers if _is_ourselves(server, own)]
    key = "gateway:dns:forwarders: missing, and /etc/resolv.conf of this node"
    if set(servers) > set(ourselves):
        return [f"{key} names {each}, which is the gateway itself" for each in ourselves]
    named = f"only the gateway itself ({', '.join(ourselves)})" if ourselves else "nobody"
    return [f"{key} names {named}: names outside of the site are not found"]


def resolver_file() -> str:
    """The file with the DNS servers that this node asks."""
    stub, servers = RESOLVERS
    return servers if RESOLVED in _nameservers(stub) and os.path.exists(servers) else stub


def _asks_others(keyword: str, value: str) -> bool:
    """Whether a setting says whom dnsmasq is to ask; not if it is for some names only."""
    if keyword == "server":
        return not value.startswith("/")
    return keyword in ("resolv-file", "no-resolv", "conf-file", "conf-dir")


def _nameservers(path: str) -> list[str]:
    rows = [line.split() for line in (_gateway_machine.text(path) or "").splitlines()]
    found = [row[1] for row in rows if row[:1] == ["nameserver"] and len(row) > 1]
    return [server for server in found if _is_address(server)]


def _is_address(text: str) -> bool:
    try:
        return bool(ip_address(text))
    except ValueError:
        return False


def _is_ourselves(server: str, own: set[str]) -> bool:
    """On the loopback interface a server of somebody else may listen; ours does not."""
    if not ip_address(server).is_loopback:
        return server in own
    try:
        socket.create_connection((server, 53), 0.5).close()
    except OSError:
        return True
    return False


def forecasts(plan: Plan, here: Here) -> list[str]:
    """Links without a carrier. Of a running node the health monitor says it."""
    found = []
    for side, (interface, *_) in sides(plan).items():
        flags = here.links.get(interface, {}).get("flags", ["UP"])
        if "UP" not in flags or "NO-CARRIER" in flags:
            what = "has no carrier" if "UP" in flags else "is down"
            found.append(f"{here.interface_keys[side]}: {interface} {what}")
    return found


def _advertisement_errors(plan: Plan) -> list[str]:
    """Who has IPv6 from a router on the public side would lose it without a word."""
    if plan["public"]["accept_ra"] is not None:
        return []
    command = ["ip", "-json", "-6", "route", "show", "default", "dev", plan["public"]["interface"]]
    routes = json.loads(_gateway_machine.output(*command) or "[]")
    return [
        "gateway:public:accept_ra: this node has a default route of IPv6 from an advertisement of"
        f" {route.get('gateway')}; say true if it is to keep it, and false if not"
        for route in routes
        if route.get("protocol") == "ra"
    ]
