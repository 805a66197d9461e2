"""A node as a machine: interfaces, addresses and routes, as the pillar and its owner have them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_interface, ip_network
from itertools import islice
from typing import Any

Pillar = dict[str, Any]
LOWEST = IPv4Network("198.51.100.0/24")  # the public side, also where the pillar does not say so
PUBLIC_ROUTER = "198.51.100.254"


@dataclass(frozen=True)
class Machine:
    """One node of a site. ``others`` are further interfaces with an address each, ``policy`` is
    what the built-in chains do: both are its owner's business."""

    pillar: Pillar
    name: str
    holder: bool
    connected: tuple[str, ...]  # clients with networks that are connected here
    others: dict[str, str] = field(default_factory=dict)
    policy: str = "ACCEPT"

    def __str__(self) -> str:
        holds = "holds" if self.holder else "does not hold"
        here = f", {', '.join(self.connected)} connected" if self.connected else ""
        more = f"has also {self.others}, policy {self.policy}"
        return f"{self.name}, {holds} the virtual IPs{here}, {more}"

    @cached_property
    def node(self) -> dict[str, Any]:
        return dict(self.pillar["nodes"][self.name])

    @cached_property
    def peers(self) -> dict[str, dict[str, Any]]:
        return {name: node for name, node in self.pillar["nodes"].items() if name != self.name}

    @cached_property
    def internal(self) -> str:
        return str(self.node.get("internal_interface", self.pillar["internal"]["interface"]))

    @cached_property
    def public(self) -> str:
        return str(self.node.get("public_interface", self.pillar["public"]["interface"]))

    @cached_property
    def networks(self) -> dict[str, tuple[str, str, str]]:
        """Each further network: its interface here, the node's address and the virtual IP, both
        with the length of the network's prefix."""
        found = {}
        for name, entry in sorted(self.pillar.get("networks", {}).items()):
            length = IPv4Network(entry["network"]).prefixlen
            virtual = IPv4Address(entry["virtual_ip"])
            own = self.node.get("addresses", {}).get(name, virtual + self.node["id"])
            interface = self.node.get("interfaces", {}).get(name, entry["interface"])
            found[name] = (str(interface), f"{own}/{length}", f"{virtual}/{length}")
        return found

    @cached_property
    def sync_interface(self) -> str | None:
        link = self.pillar.get("state_sync")
        return str(link["interface"]) if isinstance(link, dict) else None

    @cached_property
    def servers(self) -> dict[str, dict[str, Any]]:
        return dict(self.pillar.get("vpn", {}).get("servers", {}))

    @cached_property
    def clients(self) -> dict[str, dict[str, Any]]:
        return dict(self.pillar.get("vpn", {}).get("clients", {}))

    @cached_property
    def tunnels(self) -> dict[str, str]:
        """The device of each VPN server."""
        return {server: f"vpn-{server}" for server in self.servers}

    def subnet(self, server: str, node: dict[str, Any]) -> IPv4Network:
        """The VPN subnet of a node: the block of its id."""
        network = IPv4Network(self.servers[server]["network"])
        subnets = network.subnets(new_prefix=self.servers[server].get("prefix", 24))
        return next(islice(subnets, int(node["id"]) - 1, None))

    @cached_property
    def public_address(self) -> str:
        """The node's own, from the pillar or by DHCP."""
        return str(self.node.get("public", LOWEST[200 + self.node["id"]]))

    @cached_property
    def addresses(self) -> dict[str, list[str]]:
        """By interface, with prefix lengths; the first one is the interface's own."""
        pillar = self.pillar
        inside = IPv4Network(pillar["internal"]["network"])
        found = {
            self.internal: [f"{self.node['internal']}/{inside.prefixlen}", "fd77::1/64"],
            self.public: [f"{self.public_address}/{LOWEST.prefixlen}", "2001:db8:51::1/64"],
        }
        if self.holder:
            found[self.internal].append(f"{pillar['internal']['virtual_ip']}/32")
            public = pillar["public"]
            moving = [public.get("virtual_ip"), *public.get("addresses", [])]
            found[self.public] += [f"{address}/32" for address in moving if address]
        for number, (interface, own, virtual) in enumerate(self.networks.values(), 1):
            found[interface] = [own, f"fd20:{number}::1/64"]
            if self.holder:
                found[interface].append(f"{ip_interface(virtual).ip}/32")
        for number, (server, device) in enumerate(self.tunnels.items()):
            subnet = self.subnet(server, self.node)
            found[device] = [f"{subnet[1]}/{subnet.prefixlen}", f"fd08:{number + 1}::1/64"]
        if self.sync_interface:
            found[self.sync_interface] = [f"{self.node['sync']}/29"]
        for number, (interface, address) in enumerate(self.others.items()):
            found[interface] = [address, f"fd22:{number + 1}::1/64"]
        return found

    @cached_property
    def local(self) -> frozenset[str]:
        every = (each for addresses in self.addresses.values() for each in addresses)
        return frozenset(str(ip_interface(each).ip) for each in every)

    @cached_property
    def broadcasts(self) -> frozenset[str]:
        found = {"255.255.255.255"}
        for address in (each for addresses in self.addresses.values() for each in addresses):
            network = ip_interface(address).network
            if network.version == 4 and network.prefixlen < 31:
                found.add(str(network.broadcast_address))
        return frozenset(found)

    @cached_property
    def branches(self) -> dict[str, list[IPv4Network]]:
        return {
            name: [IPv4Network(network) for network in client.get("networks", [])]
            for name, client in self.clients.items()
            if client.get("networks")
        }

    @cached_property
    def routes(self) -> list[tuple[str, str, str]]:
        """(network, interface, router or ""), without those that come with addresses."""
        found = [("0.0.0.0/0", self.public, PUBLIC_ROUTER), ("::/0", self.public, "fe80::99")]
        for peer in self.peers.values():
            for server in self.servers:
                found.append((str(self.subnet(server, peer)), self.internal, peer["internal"]))
            for networks in self.branches.values():
                found += [(str(each), self.internal, peer["internal"]) for each in networks]
        for route in self.pillar.get("routes", []):
            router = ip_address(route["via"])
            through = [
                interface
                for interface, own, _ in self.networks.values()
                if router in ip_interface(own).network
            ]
            found.append((route["network"], (through or [self.internal])[0], str(router)))
        for client in self.connected:
            device = next(iter(self.tunnels.values()))
            halves = (half for network in self.branches[client] for half in network.subnets())
            found += [(str(half), device, "") for half in halves]
        return found

    @cached_property
    def _table(self) -> list[tuple[Any, str]]:
        table = [(ip_network(network), interface) for network, interface, _ in self.routes]
        for interface, addresses in self.addresses.items():
            table += [(ip_interface(each).network, interface) for each in addresses]
        return sorted(table, key=lambda row: -row[0].prefixlen)

    def way(self, address: str) -> str:
        """The interface towards an address."""
        ip = ip_address(address)
        return next(interface for network, interface in self._table if ip in network)

    def client_addresses(self, client: str) -> list[IPv4Network]:
        """What a client has wherever it is connected, and what is behind it."""
        found = list(self.branches.get(client, []))
        number = self.clients[client].get("id")
        if number:
            for server in self.servers:
                for node in self.pillar["nodes"].values():
                    address: IPv4Address = self.subnet(server, node)[number]
                    found.append(IPv4Network(address))
        return found
