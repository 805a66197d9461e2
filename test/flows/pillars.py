"""Pillars by chance, nodes of them, and packets that are near to what the pillars speak of."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from random import Random
from typing import Any

from machine import Machine, Pillar
from oracle import Oracle, as_list
from packets import ECHO, Packet

INTERNET = ["203.0.113.9", "203.0.113.130", "192.0.2.7", "198.51.100.77"]
INTERNET6 = ["2001:db8:1::9", "2001:db8:9::9", "2001:db8:51::77"]
PORTS: list[Any] = [22, 53, 67, 80, 123, 443, 1194, 2222, 3780, 8080, 8443, 9100]
RANGES: list[Any] = ["8000-8100", "50-60", "1-65535", "5000-5010"]
MANY: list[Any] = [*range(7000, 7012), 80, "8000-8100", 443, "5000-5010", 22]
PROTOS: list[Any] = ["tcp", "udp", "both", "icmp", "esp", 47, 112, "vrrp"]


def some(rng: Random, choices: list[Any], most: int = 3) -> list[Any]:
    return rng.sample(choices, rng.randint(1, min(most, len(choices))))


def one_or_some(rng: Random, choices: list[Any]) -> Any:
    return rng.choice(choices) if rng.random() < 0.6 else some(rng, choices)


def pillar(rng: Random) -> Pillar:
    """A site. Few are refused by the planner."""
    network = ip_network(rng.choice(["10.77.0.0/24", "10.77.0.0/22", "192.168.5.0/25"]))
    inside = [str(address) for address in list(network.hosts())]
    virtual = rng.random() < 0.6
    dhcp = not virtual and rng.random() < 0.5
    count = rng.choice([1, 2, 2, 2, 3])
    nodes: dict[str, Any] = {}
    for number in rng.sample([1, 2, 3], count):
        nodes[f"gw{number}"] = {"id": number, "internal": inside[number]}
        if not dhcp:
            nodes[f"gw{number}"]["public"] = f"198.51.100.{number + 1}"
    if rng.random() < 0.2:
        nodes[min(nodes)]["internal_interface"] = "lan0"
    if rng.random() < 0.2:
        nodes[min(nodes)]["public_interface"] = "wan0"
    public: dict[str, Any] = {"interface": "eth1"}
    if virtual or rng.random() < 0.5:
        public["network"] = "198.51.100.0/24"
    if rng.random() < 0.3:
        public["accept_ra"] = True
    if virtual:
        public["virtual_ip"] = "198.51.100.10"
        public["addresses"] = ["198.51.100.11", "198.51.100.12", "198.51.100.13"][
            : rng.randint(0, 3)
        ]
    found: Pillar = {
        "domain": "example.internal",
        "nodes": nodes,
        "internal": {"interface": "eth0", "network": str(network), "virtual_ip": inside[0]},
        "public": public,
        "hosts": {f"host{number}": {"ip": inside[19 + number]} for number in range(5)},
    }
    found["hosts"]["host0"]["aliases"] = ["www"]
    found["state_sync"] = False
    if virtual and count == 2 and rng.random() < 0.6:
        found["state_sync"] = {"interface": "eth3"}
        for node in nodes.values():
            node["sync"] = f"10.78.0.{node['id'] + 1}"
    add_vpn(rng, found, count)
    names = Names(rng, found)
    found["firewall"] = firewall(rng, names)
    found["nat"] = nat(rng, names, found)
    return found


def add_vpn(rng: Random, found: Pillar, count: int) -> None:
    servers: dict[str, Any] = {}
    for name, server in {
        "main": {"network": "10.8.0.0/16", "port": 1194},
        "tcp": {"network": "10.9.0.0/20", "port": 8443, "proto": "tcp", "prefix": 26},
    }.items():
        if rng.random() < 0.7:
            servers[name] = {**server, "full_tunnel": rng.random() < 0.5}
    if not servers:
        return
    clients: dict[str, Any] = {"Alice": {"id": 5}, "bob": {"id": 6}, "guest": {}}
    if count <= 2:
        clients["branch"] = {"id": 9, "networks": ["10.50.0.0/24"]}
        clients["shop"] = {"networks": ["10.51.0.0/25", "10.52.0.0/24"]}
    chosen = {name: clients[name] for name in clients if rng.random() < 0.7}
    if "bob" in chosen and rng.random() < 0.5:
        chosen["bob"]["disabled"] = True
    found["vpn"] = {
        "servers": servers,
        "clients": chosen,
        "pki": {name: f"/etc/{name}" for name in ("ca", "certificate", "key", "tls_crypt")},
    }


class Names:
    """What the rules of a pillar may name."""

    def __init__(self, rng: Random, found: Pillar) -> None:
        vpn = found.get("vpn", {})
        self.servers = list(vpn.get("servers", {}))
        clients = [
            name for name, client in vpn.get("clients", {}).items() if client.keys() - {"disabled"}
        ]
        hosts = [*found["hosts"], "www"]
        network = ip_network(found["internal"]["network"])
        half = str(next(network.subnets()))
        inside = [half, str(network[22]), "10.8.0.5", "10.8.1.0/24", "10.50.0.0/24", "fd77::/64"]
        others = ["203.0.113.0/25", "192.0.2.7", "198.51.100.77", "172.31.0.0/24", "10.78.0.0/29"]
        others += ["2001:db8:1::/48", "2001:db8:9::9", "fd08::/16", "fd77::10", "fd22::/16"]
        self.literals = [*inside, *others, *INTERNET, *INTERNET6]
        self.groups: dict[str, list[str]] = {}
        for name in ("admins", "office", "nobody")[: rng.randint(0, 3)]:
            members = [*self.literals, *hosts, *clients, *self.groups]
            self.groups[name] = [] if name == "nobody" else some(rng, members, 4)
        # As often as the many addresses together.
        self.plain = self.literals + [*hosts, *self.groups] * 2
        zones = ["internal", *(["vpn"] if self.servers else []), *self.servers, *clients]
        self.sources = self.plain + zones * 4
        self.all = self.sources + ["public"] * 5


def match(rng: Random, sources: list[Any], destinations: list[Any]) -> dict[str, Any]:
    """What a rule matches."""
    rule: dict[str, Any] = {}
    if rng.random() < 0.75:
        rule["from"] = one_or_some(rng, sources)
    if rng.random() < 0.5:
        rule["to"] = one_or_some(rng, destinations)
    if rng.random() < 0.5:
        rule["ports"] = rng.choice(
            [one_or_some(rng, PORTS), one_or_some(rng, PORTS + RANGES), MANY]
        )
        if rng.random() < 0.5:
            rule["proto"] = rng.choice(["tcp", "udp", "both"])
    elif rng.random() < 0.4:
        rule["proto"] = rng.choice(PROTOS)
    if rng.random() < 0.1:
        rule["comment"] = "a word, 100 % of it"
    return rule


def filter_rule(rng: Random, sources: list[Any], destinations: list[Any]) -> dict[str, Any]:
    rule = match(rng, sources, destinations)
    rule["action"] = rng.choice(["accept", "accept", "drop", "reject"])
    if rule["action"] == "accept" and rng.random() < 0.2:
        rule["limit"] = "9999/second"
    if rng.random() < 0.1:
        rule["log"] = True
    return rule


def firewall(rng: Random, names: Names) -> dict[str, Any]:
    found: dict[str, Any] = {
        "groups": names.groups,
        "spoof_protection": rng.random() < 0.6,
        "log": rng.random() < 0.1,
        "input": [
            filter_rule(rng, names.all, names.plain) for _ in range(rng.choice([0, 0, 1, 3]))
        ],
        "forward": [
            filter_rule(rng, names.all, names.all) for _ in range(rng.choice([0, 0, 1, 3]))
        ],
    }
    if rng.random() < 0.4:
        found["ssh"] = {"from": one_or_some(rng, names.plain)}
    if rng.random() < 0.2:
        found.setdefault("ssh", {})["port"] = 2222
    if rng.random() < 0.4:
        found["egress"] = "deny"
        found["egress_allowed"] = [
            match(rng, names.sources, names.plain) for _ in range(rng.randint(0, 3))
        ]
    if rng.random() < 0.2:
        chain = rng.choice(["INPUT", "FORWARD"])
        found["raw"] = {"filter": {chain: ["-s 203.0.113.0/25 -j DROP"]}}
        found["raw6"] = {"filter": {chain: ["-s 2001:db8:1::/48 -j DROP"]}}
    return found


def nat(rng: Random, names: Names, found: Pillar) -> dict[str, Any]:
    public = found["public"]
    further = list(public.get("addresses", []))
    hosts = [*found["hosts"], "www"]
    alone = [further.pop() for _ in range(rng.randint(0, min(2, len(further))))]
    usual = [public["virtual_ip"]] if "virtual_ip" in public else []
    forwards = []
    for number in range(rng.choice([0, 1, 2, 4])):
        first = [80, 443, 5000, 9000][number]
        entry: dict[str, Any] = {
            "port": rng.choice([first, f"{first}-{first + 9}", [first, first + 20]]),
            "to": rng.choice(hosts),
        }
        if rng.random() < 0.5:
            entry["proto"] = rng.choice(["tcp", "udp", "both"])
        if rng.random() < 0.5:
            entry["to_port"] = rng.choice([80, 8080, 7000])
        if rng.random() < 0.4:
            entry["from"] = one_or_some(rng, names.plain)
        if (usual or further) and rng.random() < 0.5:
            entry["address"] = one_or_some(rng, usual + further)
        forwards.append(entry)
    outbound = []
    for _ in range(rng.choice([0, 0, 1, 2])):
        entry = match(rng, names.sources, names.plain)
        entry["snat"] = rng.choice(["none", "masquerade", *usual, *further])
        outbound.append(entry)
    to = rng.sample(list(found["hosts"]), len(alone))
    return {
        "forwards": forwards,
        "one_to_one": [
            {"address": address, "to": host} for address, host in zip(alone, to, strict=True)
        ],
        "outbound": outbound,
    }


def machine(rng: Random, found: Pillar) -> Machine:
    """One of the site's nodes, with what is by chance there."""
    clients = found.get("vpn", {}).get("clients", {})
    branches = [
        name
        for name, client in clients.items()
        if client.get("networks") and not client.get("disabled")
    ]
    others = {"eth2": "172.31.0.1/24"}
    if rng.random() < 0.3:
        others["vpn-mgmt"] = "172.30.0.1/24"
    return Machine(
        found,
        rng.choice(list(found["nodes"])),
        holder=rng.random() < 0.7,
        connected=tuple(name for name in branches if rng.random() < 0.6),
        others=others,
        policy=rng.choice(["ACCEPT", "DROP"]),
    )


# --------------------------------------------------------------------------------------------------
# Packets


class Aim:
    """Packets for one node, each of a connection of its own."""

    def __init__(self, rng: Random, machine: Machine) -> None:
        self.rng = rng
        self.machine = machine
        self.oracle = Oracle(machine)  # for what names stand for
        self.spoof_protection = machine.pillar["firewall"]["spoof_protection"]
        self.sport = 20000
        self.used: set[str] = set()
        network = ip_network(machine.pillar["internal"]["network"])
        hosts = [host["ip"] for host in machine.pillar["hosts"].values()]
        peers = machine.peers.values()
        self.places: dict[str, list[str]] = {
            "internal": [*hosts, str(network[40]), "fd77::10", "fd77::11"],
            "public": [*INTERNET, *INTERNET6],
            "own": sorted(machine.local),
            "peers": [node[key] for node in peers for key in ("internal", "public") if key in node],
            "sync": [node["sync"] for node in machine.pillar["nodes"].values() if "sync" in node],
            "moving": self._moving(),
            "vpn": self._vpn(),
            "branch": [str(net[7]) for nets in machine.branches.values() for net in nets],
            "other": ["172.31.0.9", "172.30.0.9", "fd22:1::9"],
            "all": sorted(machine.broadcasts),
        }
        self.places = {place: found for place, found in self.places.items() if found}
        self.daemons = self._daemons()
        self.homes = {machine.internal: ["internal"], machine.public: ["public"]}
        self.homes[machine.internal] += ["vpn", "branch", "peers"]
        self.homes |= {device: ["vpn", "branch"] for device in machine.tunnels.values()}
        self.homes |= {interface: ["other"] for interface in machine.others}
        if machine.sync_interface:
            self.homes[machine.sync_interface] = ["sync"]

    def _moving(self) -> list[str]:
        public = self.machine.pillar["public"]
        found = [self.machine.pillar["internal"]["virtual_ip"], public.get("virtual_ip")]
        return [each for each in (*found, *public.get("addresses", [])) if each]

    def _vpn(self) -> list[str]:
        machine = self.machine
        found = []
        for number, server in enumerate(machine.servers):
            subnets = [machine.subnet(server, node) for node in machine.pillar["nodes"].values()]
            found += [str(subnet[host]) for subnet in subnets for host in (5, 6, 9, 40)]
            found += [str(ip_network(machine.servers[server]["network"])[-7])]
            found += [f"fd08:{number + 1}::5", f"fd08:{number + 1}::6"]
        return found

    def packet(self) -> Packet:
        while True:
            packet = self._packet()
            if self._is_new(packet):
                return packet

    def _is_new(self, packet: Packet) -> bool:
        """Of a connection of its own. Without ports, addresses alone make one."""
        if packet.source == packet.destination:
            return False
        own = self.machine.local
        if packet.version == 6 and packet.source in own and not self.spoof_protection:
            return False  # a refusal would go to the gateway itself
        if packet.source.startswith("fe80:") and packet.destination not in {*own, "ff02::1"}:
            return False  # the kernel's own rules for these are not ours
        if packet.proto in ("tcp", "udp", "icmp", "icmp6"):
            return True
        if packet.proto == "vrrp" and packet.destination in own - set(self.places["moving"]):
            return f"vrrp {packet.source}" not in self.used  # it might be an answer
        ends = {f"{packet.proto} {end}" for end in (packet.source, packet.destination)}
        new = not ends & self.used
        self.used |= ends
        return new

    def _packet(self) -> Packet:
        rng = self.rng
        if rng.random() < 0.15:
            return self._daemon(rng.choice(self.daemons))
        rule: dict[str, Any] = {}
        if rng.random() < 0.6:
            rule = self._theme()
        version = 6 if rng.random() < 0.25 else 4
        source, interface = self._source(rule, version)
        destination = self._destination(rule, version, source)
        if (":" in source) != (":" in destination):
            return replace(self._fallback(version), sport=self._number())
        version = 6 if ":" in source else 4
        proto = self._proto(rule, version)
        packet = Packet(interface, source, destination, proto, self._number())
        if proto in ("tcp", "udp"):
            return replace(packet, dport=self._port(rule))
        if proto.startswith("icmp"):
            return self._icmp(packet)
        if proto == "vrrp":
            return replace(packet, sport=0, ttl=rng.choice([255, 255, 254]))
        return packet

    def _fallback(self, version: int) -> Packet:
        """What no rule speaks of: what hosts say to a link, and the like."""
        rng = self.rng
        interface = rng.choice(list(self.homes))
        if version == 6:
            if rng.random() < 0.3:
                return Packet(interface, "fe80::5", "ff02::1", "udp", dport=546)
            kind = rng.choice([133, 134, 135, 136, 130, 131, 143])
            source = rng.choice(["fe80::5", "fe80::5", "2001:db8:9::9"])
            ttl = 255 if kind > 132 and kind != 143 and rng.random() < 0.7 else 1
            return Packet(interface, source, "ff02::1", "icmp6", kind=kind, ttl=ttl)
        return Packet(interface, "0.0.0.0", "255.255.255.255", "udp", dport=67)

    def _daemons(self) -> list[Packet]:
        """What daemons of the peers say to this node's, and servers of DHCP."""
        machine = self.machine
        leases = [
            Packet(machine.public, "198.51.100.77", machine.public_address, "udp", 67, 68),
            Packet(machine.public, "198.51.100.77", "255.255.255.255", "udp", 67, 68),
            Packet(machine.public, "fe80::5", "2001:db8:51::1", "udp", 547, 546),
            Packet(machine.internal, "0.0.0.0", "255.255.255.255", "udp", 68, 67),
        ]
        link = Packet(machine.public, "fe80::5", "ff02::1", "icmp6", kind=134, ttl=255)
        routers = [link, replace(link, interface=machine.internal), replace(link, kind=135)]
        found = [*leases, *routers]
        for peer in machine.peers.values():
            for side, interface in (("internal", machine.internal), ("public", machine.public)):
                if side in peer:
                    to = machine.node[side]
                    found += [Packet(interface, peer[side], to, "vrrp", ttl=255)] * 4
            if machine.sync_interface:
                ends = (machine.sync_interface, peer["sync"], machine.node["sync"])
                found += [Packet(*ends, "udp", 3780, 3780)] * 8
        return found

    def _daemon(self, packet: Packet) -> Packet:
        """What a daemon says, or nearly that."""
        rng = self.rng
        if rng.random() < 0.4:
            return packet
        places = [place for place in self.places if place != "all"]
        found = self.places[rng.choice(["own", *places])]
        found = [each for each in found if (":" in each) == (packet.version == 6)]
        other = rng.choice(found or [packet.source])
        near = [
            replace(packet, interface=rng.choice(list(self.homes))),
            replace(packet, source=other),
            replace(packet, destination=other),
            replace(packet, ttl=254),
        ]
        return rng.choice(near)

    def _number(self) -> int:
        self.sport += 1
        return self.sport

    def _theme(self) -> dict[str, Any]:
        """Something that the pillar speaks of, or the default policy."""
        if self.rng.random() < 0.3:
            sides = [
                side for side in ("internal", "public", "vpn", "branch") if side in self.places
            ]
            servers = self.machine.servers.values()
            ports = [22, 53, 67, 123, 2222, *(server["port"] for server in servers)]
            to = self.rng.choice([*sides, "own", "own"])
            rule = {"from": self.rng.choice(sides), "to": to}
            return {**rule, "ports": ports, "proto": "both"} if to == "own" else rule
        firewall, nat = self.machine.pillar["firewall"], self.machine.pillar["nat"]
        rules = [*firewall["input"], *firewall["forward"], *firewall.get("egress_allowed", [])]
        rules += nat["outbound"]
        for entry in nat["forwards"] + nat["one_to_one"]:
            usual = self.machine.pillar["public"].get("virtual_ip", self.machine.public_address)
            to = entry.get("address", usual)
            rules.append({**entry, "to": to, "ports": entry.get("port", PORTS[:6])})
        if "ssh" in firewall:
            ssh = firewall["ssh"]
            rules.append(
                {"from": ssh.get("from", "public"), "to": "own", "ports": ssh.get("port", 22)}
            )
        return self.rng.choice(rules) if rules else {}

    def _meant(self, end: str, version: int) -> list[str]:
        """Addresses that an end of a rule means."""
        if end in self.places:
            found = self.places[end]
        elif end in self.machine.servers:
            network = ip_network(self.machine.servers[end]["network"])
            vpn = self.places["vpn"]
            found = [each for each in vpn if ":" in each or ip_address(each) in network]
        else:
            networks = self.oracle.networks_of(end)
            found = [str(each[min(5, each.num_addresses - 1)]) for each in networks]
        return [each for each in found if (":" in each) == (version == 6)] or found

    def _source(self, rule: dict[str, Any], version: int) -> tuple[str, str]:
        rng = self.rng
        ends = as_list(rule.get("from"))
        found: list[str] = []
        if ends and rng.random() < 0.8:
            found = self._meant(rng.choice(ends).lower(), version)
        if not found:
            interface = rng.choice(list(self.homes))
            homes = [home for home in self.homes[interface] if home in self.places]
            if rng.random() < 0.25 or not homes:
                homes = [place for place in self.places if place != "all"]
            found = self.places[rng.choice(homes[:1] * 2 + homes)]
            found = [each for each in found if (":" in each) == (version == 6)] or found
            return rng.choice(found), interface
        source = rng.choice(found)
        interface = self.machine.way(source)
        if rng.random() < 0.2 or interface not in self.homes:
            interface = rng.choice(list(self.homes))
        return source, interface

    def _destination(self, rule: dict[str, Any], version: int, source: str) -> str:
        rng = self.rng
        version = 6 if ":" in source else 4
        ends = as_list(rule.get("to"))
        found: list[str] = []
        if ends and rng.random() < 0.8:
            found = self._meant(rng.choice(ends).lower(), version)
        if not found:
            places = [place for place in self.places if place != "sync" or rng.random() < 0.5]
            weights = [
                3 if place in ("own", "moving", "internal", "public") else 1 for place in places
            ]
            found = self.places[rng.choices(places, weights)[0]]
        return rng.choice([each for each in found if (":" in each) == (version == 6)] or found)

    def _proto(self, rule: dict[str, Any], version: int) -> str:
        rng = self.rng
        proto = rule.get("proto", "tcp" if "ports" in rule else None)
        if proto is None or rng.random() < 0.2:
            proto = rng.choices(
                ["tcp", "udp", "icmp", "esp", "vrrp", "gre"], [40, 35, 14, 3, 6, 2]
            )[0]
        proto = {"both": rng.choice(["tcp", "udp"]), 47: "gre", 112: "vrrp"}.get(proto, proto)
        return "icmp6" if proto == "icmp" and version == 6 else str(proto)

    def _port(self, rule: dict[str, Any]) -> int:
        rng = self.rng
        ports = rule.get("ports")
        if ports is None or rng.random() < 0.25:
            ports = PORTS
        first, _, last = str(rng.choice(as_list(ports))).partition("-")
        ends = [int(first), int(last or first)]
        port = rng.choice([*ends, rng.randint(*ends), ends[0] - 1, ends[1] + 1])
        return min(max(port, 1), 19999)

    def _icmp(self, packet: Packet) -> Packet:
        echo = ECHO[packet.version]
        others = [3, 11, 12, 13, 0, 5] if packet.version == 4 else [1, 2, 3, 4, 129]
        kind = self.rng.choice([echo, echo, echo, self.rng.choice(others)])
        return replace(packet, kind=kind)
