"""The packets without which a gateway is none: VRRP and state sync of the peers, DHCP, DNS and time
of the networks behind them, the VPN, and the way to the internet."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from typing import Any

import _gateway_networks

VRRP, TCP, UDP = 112, 6, 17
# Numbers of IANA's. A name that is not among them is none of the protocols that are looked at.
PROTOCOLS = {"icmp": 1, "tcp": TCP, "udp": UDP, "vrrp": VRRP}
# Some of the internet, instead of all: a rule for "not from 10.0.0.0/8" means it, and one against a
# single address does not.
INTERNET = IPv4Network("8.0.0.0/8")
ANY_PORT = (1024, 65535)  # what clients ask from

Plan = dict[str, Any]
Ports = tuple[int, int]  # the first and the last


@dataclass(frozen=True)
class Packet:
    """Packets of one kind. ``chain`` is the built-in one that decides on them."""

    what: str
    chain: str
    source: IPv4Network
    destination: IPv4Network
    proto: int
    sport: Ports = ANY_PORT
    dport: Ports = ANY_PORT
    into: str = ""
    out: str = ""
    state: str = "new"
    to: str = "local"  # type of the destination
    ttl: Ports = (32, 255)

    @property
    def flags(self) -> set[str]:
        """Those of TCP."""
        return {"syn"} if self.state == "new" else {"ack"}

    @property
    def source_type(self) -> str:
        """The type of the source address."""
        if self.chain == "OUTPUT":
            return "local"
        return "unspec" if self.source == net("0.0.0.0") else "unicast"

    @property
    def cast(self) -> str:
        """How the frame was sent."""
        return "broadcast" if self.to == "broadcast" else "unicast"


def net(address: str) -> IPv4Network:
    """A network, or a single address as one."""
    return IPv4Network(address)


def _port(number: int) -> Ports:
    return number, number


def packets(plan: Plan) -> Iterator[Packet]:
    """What has to get through: our rules accept it, and track neither VRRP nor state sync."""
    yield from _election(plan)
    yield from _state_sync(plan)
    yield from _leases(plan)
    for network in _gateway_networks.local(plan):
        yield from _services(network)
    yield from _vpn(plan)
    yield from _internet(plan)


def _election(plan: Plan) -> Iterator[Packet]:
    for instance in plan["vrrp"]["instances"]:
        for peer in instance["peers"]:
            advert = Packet(
                f"VRRP of the peer {peer}",
                "INPUT",
                net(peer),
                net(instance["source"]),
                VRRP,
                into=instance["interface"],
                state="untracked",
                ttl=(255, 255),
            )
            yield advert
            yield _sent(advert, f"VRRP to the peer {peer}")


def _state_sync(plan: Plan) -> Iterator[Packet]:
    sync = plan["sync"]
    if not sync["enabled"]:
        return
    message = Packet(
        "state sync of the peer",
        "INPUT",
        net(sync["peer"]),
        net(sync["address"]),
        UDP,
        dport=_port(sync["port"]),
        into=sync["interface"],
        state="untracked",
    )
    yield message
    yield _sent(message, "state sync to the peer")


def _leases(plan: Plan) -> Iterator[Packet]:
    leases = plan["leases"]
    for name, peer in (leases["peers"] if leases["enabled"] else {}).items():
        told = Packet(
            f"what {name} tells of leases",
            "INPUT",
            net(peer),
            net(leases["address"]),
            TCP,
            dport=_port(leases["port"]),
            into=leases["interface"],
        )
        yield told
        yield _sent(told, f"what this node tells {name} of leases")


def _services(local: Plan) -> Iterator[Packet]:
    """DHCP, DNS and time of a network behind the node."""
    inside, network = local["interface"], net(local["network"])
    node, virtual_ip = net(local["address"]), net(local["virtual_ip"])
    if local["dhcp"]["enabled"]:
        yield Packet(
            "DHCP",
            "INPUT",
            net("0.0.0.0"),
            net("255.255.255.255"),
            UDP,
            _port(68),
            _port(67),
            into=inside,
            to="broadcast",
        )
    for proto in (UDP, TCP):
        question = Packet("DNS", "INPUT", network, virtual_ip, proto, dport=_port(53), into=inside)
        yield question
        answer = replace(question, sport=question.dport, dport=ANY_PORT, state="established")
        yield _sent(answer, "its own answers")
    yield Packet("time", "INPUT", network, node, UDP, dport=_port(123), into=inside)


def _public_address(plan: Plan) -> IPv4Network:
    return net(plan["node"]["public"]) if plan["node"]["public"] else INTERNET


def _vpn(plan: Plan) -> Iterator[Packet]:
    for server in plan["vpn"]["servers"]:
        yield Packet(
            f"the VPN ({server['proto']} port {server['port']})",
            "INPUT",
            INTERNET,
            _public_address(plan),
            PROTOCOLS[server["proto"]],
            dport=_port(server["port"]),
            into=plan["public"]["interface"],
        )
        yield Packet(
            f"what clients of VPN server {server['name']} send to the internal network",
            "FORWARD",
            net(server["subnet"]),
            net(plan["internal"]["network"]),
            TCP,
            into=server["device"],
            out=plan["internal"]["interface"],
            to="unicast",
        )


def _internet(plan: Plan) -> Iterator[Packet]:
    """The way to the internet, for those behind the gateway and for itself."""
    outside = plan["public"]["interface"]
    for local in _gateway_networks.local(plan) if plan["firewall"]["egress"] == "allow" else []:
        way = Packet(
            "the way to the internet",
            "FORWARD",
            net(local["network"]),
            INTERNET,
            TCP,
            dport=_port(443),
            into=local["interface"],
            out=outside,
            to="unicast",
        )
        yield way
        yield replace(way, proto=UDP)
        yield replace(
            way,
            what="the answers of the internet",
            source=way.destination,
            destination=way.source,
            sport=way.dport,
            dport=ANY_PORT,
            into=outside,
            out=local["interface"],
            state="established",
        )
    yield Packet(
        "the answers to this node's own questions",
        "INPUT",
        INTERNET,
        _public_address(plan),
        UDP,
        _port(53),
        into=outside,
        state="established",
    )


def _sent(packet: Packet, what: str) -> Packet:
    """The same packet, from this node to the other end."""
    return replace(
        packet,
        what=what,
        chain="OUTPUT",
        source=packet.destination,
        destination=packet.source,
        into="",
        out=packet.into,
        to="unicast",
    )


def arriving(packet: Packet) -> Packet | None:
    """The packet before it is routed; None where it does not come in, or NAT will change it."""
    if packet.chain == "OUTPUT" or (packet.chain == "FORWARD" and packet.state != "new"):
        return None
    return replace(packet, out="")
