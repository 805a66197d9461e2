"""What docs/firewall.md says of the first packet of a connection, read from the pillar alone.

This is a second reading of the policy. It shares no code with the planner or the compiler, and
says things in the order of that page, not in that of iptables.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any

from machine import Machine
from packets import ECHO, ECHO_REPLY, ERRORS, NUMBERS, Packet

Rule = dict[str, Any]
Network = Any  # of either family

DROPPED, REJECTED, DELIVERED = "dropped", "rejected", "to the gateway"
ERRORS_HEARD = {4: (3, 11, 12), 6: (1, 2, 3, 4)}
ROUTERS = 134  # advertisements
NEIGHBOURS = (133, 135, 136, 141, 142)
LISTENERS = (130, 131, 132, 143, 148, 149, 151, 152, 153)


def forwarded(out: str, source: str, destination: str, port: int) -> str:
    return f"forwarded to {out} as {source} > {destination}" + (f" port {port}" if port else "")


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def in_ports(port: int, ports: Any) -> tuple[int, int] | None:
    """The range of a list of ports that holds this one."""
    for each in as_list(ports):
        first, _, last = str(each).partition("-")
        if int(first) <= port <= int(last or first):
            return int(first), int(last or first)
    return None


@dataclass
class Flow:
    """A packet on its way: where it leads to now, and how it was translated."""

    packet: Packet
    destination: str
    port: int
    translated: dict[str, Any] | None = None  # the forward or the 1:1 address that led it
    out: str = ""


class Oracle:
    """The policy of one node."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.pillar = machine.pillar
        self.firewall = self.pillar.get("firewall", {})
        self.nat = self.pillar.get("nat", {})
        self.network = IPv4Network(self.pillar["internal"]["network"])
        self.vpn = {
            name: IPv4Network(server["network"]) for name, server in machine.servers.items()
        }
        self.branches = [each for networks in machine.branches.values() for each in networks]
        self.tunnels = set(machine.tunnels.values())
        self.inside = {machine.internal, *self.tunnels}
        self.sides = {*self.inside, machine.public}
        # The link of state sync, and the nodes' addresses on it.
        self.link = machine.sync_interface
        self.own_end = machine.node.get("sync")
        self.peers_end = next((peer.get("sync") for peer in machine.peers.values()), None)
        self.hosts: dict[str, str] = {}
        for name, host in self.pillar.get("hosts", {}).items():
            self.hosts |= dict.fromkeys((name, *host.get("aliases", [])), host["ip"])

    # ----------------------------------------------------------------------------------------------

    def says(self, packet: Packet) -> str:
        """What becomes of a packet."""
        if not self.is_possible(packet) or self.is_spoofed(packet):
            return DROPPED
        flow = Flow(packet, packet.destination, packet.dport)
        self.lead(flow)
        machine = self.machine
        here = flow.destination in machine.local | machine.broadcasts
        if here or ip_address(flow.destination).is_multicast:
            return self.told(self.to_gateway(flow), flow)
        if any(ip_address(end).is_link_local for end in (packet.source, flow.destination)):
            return DROPPED
        flow.out = machine.way(flow.destination)
        answer = self.through(flow)
        if answer != "accept":
            return self.told(answer, flow)
        return forwarded(flow.out, self.source_outside(flow), flow.destination, flow.port)

    def told(self, answer: str, flow: Flow) -> str:
        """A refusal is told by an answer; some packets have none (RFC 1812 section 4.3.2.7)."""
        packet = flow.packet
        to_all = not flow.out and flow.destination not in self.machine.local
        error = packet.proto.startswith("icmp") and packet.kind in ERRORS[packet.version]
        silent = to_all or error or packet.source in self.machine.local
        return DROPPED if silent and answer == REJECTED else answer

    def has_answer(self, packet: Packet, passed: Packet) -> bool:
        """Whether the answer to what was passed on comes back, and through this node."""
        if packet.proto.startswith("icmp") and packet.kind != ECHO[packet.version]:
            return False
        if packet.version == 4:
            inside = [*self.vpn.values(), *self.branches]
            ends = (ip_address(packet.source), ip_address(packet.destination))
            if packet.proto == "vrrp" or any(end in each for end in ends for each in inside):
                return False
        # Raw lines stand before all else.
        refused = self.raw_drop("FORWARD", replace(packet, source=passed.destination))
        return not refused and not self.is_elsewhere(packet)

    def is_elsewhere(self, packet: Packet) -> bool:
        """Whether the way back to the source does not lead through the interface it came from."""
        if packet.source in self.machine.local:
            return True
        return self.machine.way(packet.source) != packet.interface

    def is_possible(self, packet: Packet) -> bool:
        """What the kernel itself refuses: sources that nobody can have."""
        if packet.version == 6:
            return True
        if packet.source == "0.0.0.0":
            return packet.destination == "255.255.255.255"
        return packet.source not in self.machine.local | self.machine.broadcasts

    def is_spoofed(self, packet: Packet) -> bool:
        if self.link and packet.source == self.peers_end and packet.interface != self.link:
            return True
        if not self.firewall.get("spoof_protection", True):
            return False
        if packet.interface not in self.sides or packet.source == "0.0.0.0":
            return False
        if ip_address(packet.source).is_link_local:
            return False
        return self.is_elsewhere(packet)

    # What rules name

    def from_inside(self, packet: Packet) -> bool:
        return packet.interface in self.inside

    def comes_from(self, end: str, packet: Packet) -> bool:
        machine = self.machine
        if end == "public":
            return packet.interface == machine.public
        if end == "internal":
            return self.is_internal(packet)
        if end in ("vpn", *self.vpn):
            return any(self.is_client(name, packet) for name in self.vpn if end in ("vpn", name))
        if end in self.lower_clients():
            return self.from_inside(packet) and self.is_member(end, packet.source)
        return self.is_member(end, packet.source)

    def leads_to(self, end: str, destination: str, out: str) -> bool:
        machine = self.machine
        v4 = ":" not in destination
        if end == "public":
            return out == machine.public
        if end == "internal":
            return out == machine.internal and (not v4 or ip_address(destination) in self.network)
        if end in ("vpn", *self.vpn):
            names = [name for name in self.vpn if end in ("vpn", name)]
            if v4:
                return any(ip_address(destination) in self.vpn[name] for name in names)
            return out in {machine.tunnels[name] for name in names}
        return self.is_member(end, destination)

    def lower_clients(self) -> dict[str, str]:
        return {name.lower(): name for name in self.machine.clients}

    def is_member(self, end: str, address: str) -> bool:
        ip = ip_address(address)
        return any(
            ip in network for network in self.networks_of(end) if network.version == ip.version
        )

    def networks_of(self, end: str) -> list[Network]:
        """What a group, a client, a host, an address or a network stands for."""
        end = end.lower()
        if end in self.firewall.get("groups", {}):
            members = self.firewall["groups"][end]
            return [network for member in members for network in self.networks_of(member)]
        if end in self.lower_clients():
            return list(self.machine.client_addresses(self.lower_clients()[end]))
        return [ip_network(self.hosts.get(end, end))]

    def is_internal(self, packet: Packet) -> bool:
        """The internal network, by its interface and addresses."""
        if packet.interface != self.machine.internal:
            return False
        return packet.version == 6 or ip_address(packet.source) in self.network

    def is_client(self, server: str, packet: Packet) -> bool:
        """A client of this server, here or at a peer (then it comes over the internal side)."""
        if packet.version == 6:
            return packet.interface == self.machine.tunnels[server]
        return self.from_inside(packet) and ip_address(packet.source) in self.vpn[server]

    def is_branch(self, packet: Packet) -> IPv4Network | None:
        ip = ip_address(packet.source)
        found = (network for network in self.branches if ip in network)
        return next(found, None) if self.from_inside(packet) else None

    # Rules

    def matches(self, rule: Rule, flow: Flow) -> bool:
        packet = flow.packet
        if "from" in rule and not any(
            self.comes_from(end.lower(), packet) for end in as_list(rule["from"])
        ):
            return False
        if "to" in rule and not any(
            self.leads_to(end.lower(), flow.destination, flow.out) for end in as_list(rule["to"])
        ):
            return False
        proto = rule.get("proto", "tcp" if "ports" in rule else None)
        if proto == "both" and packet.proto not in ("tcp", "udp"):
            return False
        if proto == "icmp" and not packet.proto.startswith("icmp"):
            return False
        if proto not in (None, "both", "icmp"):
            number = proto if isinstance(proto, int) else NUMBERS[proto]
            if NUMBERS[packet.proto] != number:
                return False
        return "ports" not in rule or in_ports(flow.port, rule["ports"]) is not None

    def decided(self, rules: list[Rule], flow: Flow) -> str | None:
        """The action of the first rule that matches."""
        found = (rule.get("action", "accept") for rule in rules if self.matches(rule, flow))
        return next(found, None)

    def raw_drop(self, chain: str, packet: Packet) -> bool:
        """Whether a raw line drops it. The generator writes them in one form only."""
        key = "raw" if packet.version == 4 else "raw6"
        lines = self.firewall.get(key, {}).get("filter", {}).get(chain, [])
        return any(self.is_member(line.split()[1], packet.source) for line in lines)

    def is_invalid(self, packet: Packet) -> bool:
        """What belongs to a connection that nobody knows."""
        if not packet.proto.startswith("icmp") or self.is_untracked(packet):
            return False
        unknown = (*ERRORS[packet.version], ECHO_REPLY[packet.version])
        return packet.kind in unknown

    def is_untracked(self, packet: Packet) -> bool:
        """What may go one way through this node and the other way through its peer."""
        if packet.version == 6 or not self.machine.peers:
            return False
        source, destination = ip_address(packet.source), ip_address(packet.destination)
        if self.is_internal(packet):
            return any(destination in network for network in self.at_peers())
        return (
            packet.interface in self.tunnels
            and any(source in each for each in self.branches)
            and destination in self.network
            and packet.destination not in self.machine.local
        )

    def at_peers(self) -> list[IPv4Network]:
        """The clients of the peers' VPN servers, and who may be behind one."""
        peers = self.machine.peers.values()
        subnets = [self.machine.subnet(server, peer) for server in self.vpn for peer in peers]
        return subnets + (self.branches if peers else [])

    def claims_inside(self, packet: Packet) -> bool:
        """An address of the inside, from where nobody has it."""
        if packet.version == 6:
            return False
        source = ip_address(packet.source)
        if source in self.network:
            return packet.interface != self.machine.internal
        if not any(source in network for network in (*self.vpn.values(), *self.branches)):
            return False
        if packet.interface in self.tunnels:
            return False
        # A peer sends on what its clients say.
        theirs = any(source in network for network in self.at_peers())
        return not (theirs and packet.interface == self.machine.internal)

    # To the gateway

    def to_gateway(self, flow: Flow) -> str:
        packet, machine = flow.packet, self.machine
        if packet.version == 4 and packet.proto == "vrrp":
            return DELIVERED if self.is_election(packet) else DROPPED
        if self.link and packet.proto == "udp" and flow.port == 3780:
            return DELIVERED if self.is_sync(flow) else DROPPED
        if self.link and packet.interface != self.link and flow.destination == self.own_end:
            return DROPPED
        if self.raw_drop("INPUT", packet):
            return DROPPED
        if self.is_heard(packet):
            return DELIVERED
        if self.is_invalid(packet):
            return DROPPED
        if self.claims_inside(packet):
            return DROPPED
        public = packet.interface == machine.public
        if public and packet.version == 4:
            to = ip_address(flow.destination)
            if any(to in network for network in (self.network, *self.vpn.values())):
                return DROPPED
        action = self.decided(self.firewall.get("input", []), flow)
        if action:
            return {"accept": DELIVERED, "drop": DROPPED, "reject": REJECTED}[action]
        if packet.interface not in self.sides:
            return DELIVERED if machine.policy == "ACCEPT" else DROPPED
        if self.is_service(flow):
            return DELIVERED
        return DROPPED if public else REJECTED

    def is_election(self, packet: Packet) -> bool:
        """An advert of a peer, on the side that it is about, which has passed no router."""
        sides = {self.machine.internal: "internal"}
        if self.pillar["public"].get("virtual_ip"):
            sides[self.machine.public] = "public"
        side = sides.get(packet.interface, "")
        from_peer = packet.source in [peer.get(side) for peer in self.machine.peers.values()]
        to_node = packet.destination == self.machine.node.get(side)
        return from_peer and to_node and packet.ttl == 255

    def is_sync(self, flow: Flow) -> bool:
        packet = flow.packet
        ends = (packet.interface, packet.source, flow.destination)
        return ends == (self.link, self.peers_end, self.own_end)

    def is_heard(self, packet: Packet) -> bool:
        """ICMP that a router has to hear, before all rules."""
        if not packet.proto.startswith("icmp") or packet.interface not in self.sides:
            return False
        if packet.kind in ERRORS_HEARD[packet.version]:
            return True
        if packet.version == 4 or packet.interface in self.tunnels:
            return False
        if packet.kind == ROUTERS:
            believed = self.pillar["public"].get("accept_ra") and packet.ttl == 255
            return packet.interface == self.machine.public and bool(believed)
        if packet.kind in NEIGHBOURS:
            return packet.ttl == 255
        return packet.kind in LISTENERS and ip_address(packet.source).is_link_local

    def is_service(self, flow: Flow) -> bool:
        """The default policy's row for this side and the gateway."""
        packet, machine = flow.packet, self.machine
        if packet.proto.startswith("icmp"):
            return packet.kind == ECHO[packet.version]
        wanted = (packet.proto, flow.port)
        ssh = self.firewall.get("ssh", {})
        vpn_ports = [
            (server.get("proto", "udp"), server.get("port", 1194))
            for server in machine.servers.values()
        ]
        if packet.interface == machine.public:
            if wanted == ("tcp", ssh.get("port", 22)):
                return any(self.comes_from(end, packet) for end in as_list(ssh.get("from")))
            return wanted in vpn_ports or self.is_lease(packet)
        if wanted in [("udp", 53), ("tcp", 53), ("udp", 123), ("tcp", ssh.get("port", 22))]:
            return True
        if wanted == ("udp", 67):
            return packet.version == 4 and (
                self.is_internal(packet)
                or (packet.interface == machine.internal and packet.source == "0.0.0.0")
            )
        return wanted in vpn_ports and self.is_internal(packet)

    def is_lease(self, packet: Packet) -> bool:
        """An answer of the DHCP server that gives the node its public address."""
        if packet.version == 4:
            ports = (packet.sport, packet.dport) == (67, 68)
            return packet.proto == "udp" and ports and not self.machine.node.get("public")
        ports = (packet.sport, packet.dport) == (547, 546)
        return packet.proto == "udp" and ports and ip_address(packet.source).is_link_local

    # Through the gateway

    def lead(self, flow: Flow) -> None:
        """Port forwards and 1:1 addresses: for the public side and those inside."""
        packet = flow.packet
        if packet.version == 6 or packet.interface not in self.sides or self.is_invalid(packet):
            return
        for entry in self.nat.get("one_to_one", []):
            if packet.destination == entry["address"]:
                flow.destination = self.host(entry["to"])
                flow.translated = entry
                return
        usual = self.usual_addresses(packet)
        for entry in self.nat.get("forwards", []):
            protos = {"both": ("tcp", "udp")}.get(entry.get("proto", "tcp"))
            ports = in_ports(flow.port, entry["port"])
            if (
                packet.destination in (as_list(entry.get("address")) or usual)
                and packet.proto in (protos or (entry.get("proto", "tcp"),))
                and ports
                and ("from" not in entry or self.may_use(entry, packet))
            ):
                flow.destination = self.host(entry["to"])
                if "to_port" in entry:
                    flow.port = entry["to_port"] + flow.port - ports[0]
                flow.translated = entry
                return

    def usual_addresses(self, packet: Packet) -> list[str]:
        """Where forwards listen that do not say where."""
        machine = self.machine
        known = self.pillar["public"].get("virtual_ip") or machine.node.get("public")
        if known:
            return [known]
        # By DHCP. Inside nobody knows which of the node's addresses that is.
        if packet.interface == machine.public:
            return [machine.public_address]
        inside = (self.network, *self.vpn.values())
        v4 = (ip_address(address) for address in machine.local if ":" not in address)
        return [str(ip) for ip in v4 if not any(ip in network for network in inside)]

    def may_use(self, entry: dict[str, Any], packet: Packet) -> bool:
        return any(self.comes_from(end.lower(), packet) for end in as_list(entry["from"]))

    def host(self, name: str) -> str:
        return self.hosts.get(name.lower(), name)

    def through(self, flow: Flow) -> str:
        packet, machine = flow.packet, self.machine
        if self.is_passed_to_peer(flow):
            return "accept"
        if self.raw_drop("FORWARD", packet) or self.is_invalid(packet):
            return DROPPED
        if self.claims_inside(packet):
            return DROPPED
        action = self.decided(self.firewall.get("forward", []), flow)
        if action:
            return {"drop": DROPPED, "reject": REJECTED}.get(action, action)
        if self.is_led(flow) or self.is_outward(flow) or self.is_between(flow):
            return "accept"
        if packet.interface in self.inside:
            return REJECTED
        if packet.interface == machine.public or flow.out in self.inside:
            return DROPPED
        if self.link and self.link in (packet.interface, flow.out):
            return DROPPED
        return "accept" if machine.policy == "ACCEPT" else DROPPED

    def is_passed_to_peer(self, flow: Flow) -> bool:
        """To a client of a peer: the peer asks the rules, this node sees one direction only."""
        if flow.packet.version == 6 or flow.translated or not self.is_internal(flow.packet):
            return False
        if flow.out != self.machine.internal:
            return False
        return any(ip_address(flow.destination) in network for network in self.at_peers())

    def is_led(self, flow: Flow) -> bool:
        """A port forward needs no rule; a 1:1 address opens nothing to the public side."""
        sides = (self.machine.internal, self.machine.public)
        if not flow.translated or flow.packet.interface not in sides:
            return False
        one_to_one = "address" in flow.translated and "port" not in flow.translated
        return not (one_to_one and flow.packet.interface == self.machine.public)

    def is_outward(self, flow: Flow) -> bool:
        packet, machine = flow.packet, self.machine
        if flow.out != machine.public or packet.interface not in self.inside:
            return False
        full = [name for name, server in machine.servers.items() if server.get("full_tunnel")]
        usual = ["internal", *full]
        if self.firewall.get("egress", "allow") == "allow":
            return any(self.comes_from(end, packet) for end in usual)
        rules = [{"from": usual, **rule} for rule in self.firewall.get("egress_allowed", [])]
        return self.decided(rules, flow) is not None

    def is_between(self, flow: Flow) -> bool:
        """Internal, VPN and the networks behind clients: everything, and not to themselves."""
        packet = flow.packet
        if packet.interface not in self.inside or flow.out not in self.inside:
            return False
        branch = None if packet.version == 6 else self.is_branch(packet)
        client = any(self.is_client(name, packet) for name in self.vpn)
        ends = ["internal"] if client or branch else []
        ends += ["vpn"] if self.vpn and (self.is_internal(packet) or client or branch) else []
        if any(self.leads_to(end, flow.destination, flow.out) for end in ends):
            return True
        if packet.version == 6 or not (self.is_internal(packet) or client or branch):
            return False
        to = [each for each in self.branches if ip_address(flow.destination) in each]
        return bool(to) and to[0] != branch

    # How it is translated

    def source_outside(self, flow: Flow) -> str:
        packet, machine = flow.packet, self.machine
        ip = ip_address(packet.source)
        if packet.version == 6:
            return packet.source
        if flow.out == machine.internal and flow.translated:
            # The answer has to come back through this node.
            if ip in self.network:
                return str(self.pillar["internal"]["virtual_ip"])
            if machine.peers and any(ip in network for network in self.branches):
                return str(machine.node["internal"])
        if flow.out != machine.public:
            return packet.source
        for rule in self.nat.get("outbound", []):
            ends = {key: value for key, value in rule.items() if key != "from"}
            sources = as_list(rule.get("from"))
            if self.matches(ends, flow) and (
                not sources or any(self.is_source(end.lower(), packet) for end in sources)
            ):
                known = {"none": packet.source, "masquerade": machine.public_address}
                return str(known.get(rule["snat"], rule["snat"]))
        for entry in self.nat.get("one_to_one", []):
            if packet.source == self.host(entry["to"]):
                return str(entry["address"])
        if ip in self.network:
            return str(self.pillar["public"].get("virtual_ip") or machine.public_address)
        own = (machine.subnet(server, machine.node) for server in self.vpn)
        return machine.public_address if any(ip in subnet for subnet in own) else packet.source

    def is_source(self, end: str, packet: Packet) -> bool:
        """Outbound rules know sources by their addresses alone."""
        ip = ip_address(packet.source)
        if end == "internal":
            return ip in self.network
        if end in ("vpn", *self.vpn):
            return any(ip in self.vpn[name] for name in self.vpn if end in ("vpn", name))
        return self.is_member(end, packet.source)
