"""A machine in a network namespace, with the compiled rules: what it really does with a packet.

Its cards are taps and its tunnels tuns of this process. The kernel takes a packet on its whole way
while it is written into one of them, so the answer is there when the write returns.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from _gateway_rules import MARK
from machine import Machine
from oracle import DELIVERED, DROPPED, REJECTED, forwarded
from packets import ECHO, ECHO_REPLY, NUMBERS, RST, SYN_ACK, Packet, build, parse

CLONE_NEWNET = 0x40000000
# linux/if_tun.h
TUNSETIFF, TUNSETPERSIST, TUNSETCARRIER = 0x400454CA, 0x400454CB, 0x400454E2
IFF_TUN, IFF_TAP, IFF_NO_PI = 0x0001, 0x0002, 0x1000
ETHER_TYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}
CARD, NEIGHBOUR = "02:00:00:00:00:01", "02:00:00:00:00:02"
# What hosts say of themselves to a link: discovery and listener reports.
CHATTER = range(130, 144)
# Errors that say "administratively prohibited": (type, code).
REFUSALS = {4: (3, 13), 6: (1, 1)}
RTF_LOCAL = 0x80000000  # linux/ipv6_route.h
BUILTIN = re.compile(r":GATEWAY-(PREROUTING|INPUT|FORWARD|OUTPUT|POSTROUTING) ")
GATE = f"""rule add pref 120 nop
rule add pref 118 iif lo goto 120
rule add pref 119 fwmark 0/{MARK} blackhole
"""
# Seconds in which a busy machine finishes what it began.
PATIENCE = 0.2
libc = ctypes.CDLL(None, use_errno=True)


def _call(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


@contextmanager
def namespace() -> Iterator[None]:
    """A network namespace of this thread's own, gone at the end."""
    with Path("/proc/thread-self/ns/net").open("rb") as before:
        _call(libc.unshare(CLONE_NEWNET), "unshare")
        try:
            yield
        finally:
            _call(libc.setns(before.fileno(), CLONE_NEWNET), "setns")


def _tool(*command: str, text: str) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}\n{text}")


def _set(name: str, value: object) -> None:
    Path("/proc/sys", name).write_text(f"{value}\n")


def with_jumps(rules: str, policy: str) -> str:
    """Rules with a jump from each built-in chain to ours, as the loader makes them, and the policy
    of those that filter."""
    lines: list[str] = []
    jumps: list[str] = []
    for line in rules.splitlines():
        if not line.startswith(":"):
            lines += jumps
            jumps = []
        lines.append(line)
        if line == "*filter":
            lines += [f":INPUT {policy} [0:0]", f":FORWARD {policy} [0:0]"]
        found = BUILTIN.match(line)
        if found:
            jumps.append(f"-A {found[1]} -j GATEWAY-{found[1]}")
    return "\n".join(lines) + "\n"


class Port:
    """One interface: a card with Ethernet, or a tunnel without. ``device`` is another name of the
    card itself, where the interface is a bridge and that is its port."""

    def __init__(self, name: str, ethernet: bool, device: str = "") -> None:
        self.name = name
        self.ethernet = ethernet
        self.device = device or name
        self.file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        kind = (IFF_TAP if ethernet else IFF_TUN) | IFF_NO_PI
        fcntl.ioctl(self.file, TUNSETIFF, struct.pack("16sH14x", self.device.encode(), kind))
        self.plug(False)

    def plug(self, plugged: bool) -> None:
        """The cable. A carrier that comes when the card is up is seen at once, not in a second."""
        fcntl.ioctl(self.file, TUNSETCARRIER, struct.pack("i", plugged))

    def close(self) -> None:
        # All interfaces of a namespace go together faster than one by one.
        fcntl.ioctl(self.file, TUNSETPERSIST, 1)
        os.close(self.file)

    def send(self, packet: Packet, to: str = CARD, by: str = NEIGHBOUR) -> None:
        ends = bytes.fromhex((to + by).replace(":", ""))
        head = ends + ETHER_TYPES[packet.version] if self.ethernet else b""
        os.write(self.file, head + build(packet))

    def frames(self) -> list[bytes]:
        """What was sent through it since the last time, as it is on the wire."""
        found = []
        with suppress(BlockingIOError):
            while True:
                found.append(os.read(self.file, 65536))
        return found

    def read(self) -> Iterator[Packet]:
        for frame in self.frames():
            if self.ethernet and frame[12:14] not in ETHER_TYPES.values():
                continue
            packet = parse(self.name, frame[14:] if self.ethernet else frame)
            if packet and not (packet.proto == "icmp6" and packet.kind in CHATTER):
                yield packet


class World:
    """A machine that is up, with its firewall loaded."""

    def __init__(
        self,
        machine: Machine,
        plan: dict[str, Any],
        rules: dict[str, str],
        bridges: tuple[str, ...] = (),
        backend: str = "nft",
    ) -> None:
        self.machine = machine
        self.bridges = bridges
        self.backend = backend
        self.ports: dict[str, Port] = {}
        self.others: dict[str, Port] = {}  # the other port of a bridge
        self.sockets: list[socket.socket] = []
        self.passed: Packet | None = None  # how the last packet left, if it did
        self._prepare(plan)
        self._plug()
        self._load(rules)
        self._listen()

    def close(self) -> None:
        for port in (*self.ports.values(), *self.others.values()):
            port.close()
        for each in self.sockets:
            each.close()

    def _prepare(self, plan: dict[str, Any]) -> None:
        for name, value in {
            # Addresses are there at once, and hosts need no asking for.
            "net/ipv6/conf/default/accept_dad": 0,
            "net/ipv6/conf/default/accept_ra": 0,
            "net/ipv6/conf/default/router_solicitations": 0,
            "net/ipv6/conf/all/forwarding": 1,
            "net/ipv4/conf/default/rp_filter": 0,
            "net/ipv4/conf/default/send_redirects": 0,
            # Every refusal is said, however many there are.
            "net/ipv4/icmp_ratelimit": 0,
            "net/ipv6/icmp/ratelimit": 0,
        }.items():
            _set(name, value)
        for name in ("icmp_msgs_per_sec", "icmp_msgs_burst"):  # older kernels: not by namespace
            with suppress(OSError):
                _set(f"net/ipv4/{name}", 100000)
        self.kernel = {**plan["kernel"], **plan["forwarding"]}
        self.ways_back = plan["ways_back"]

    def _plug(self) -> None:
        machine = self.machine
        tunnels = set(machine.tunnels.values())
        commands = ["link set lo up"]
        for name, addresses in machine.addresses.items():
            commands += self._ports(name, name not in tunnels)
            commands += [f"address add {each} dev {name}" for each in addresses]
            # Nobody is asked for his card's address.
            card = f"address {CARD}" if self.ports[name].ethernet else ""
            commands += [f"link set {name} {card} arp off up"]
        for network, interface, router in machine.routes:
            via = f"via {router} " if router else ""
            commands.append(f"route add {network} {via}dev {interface}")
        for way in self.ways_back:
            for route in way["routes"]:
                table = f"via {route['via']} table {way['table']}"
                commands.append(f"route add {route['destination']} {table}")
            commands.append(f"rule add pref 121 iif {way['interface']} lookup {way['table']}")
        _tool("ip", "-batch", "-", text="\n".join(commands) + "\n")
        for port in self.ports.values():
            port.plug(True)
        for name, value in self.kernel.items():
            _set(name, value)
        end = time.monotonic() + 10
        while not self._is_ready():
            if time.monotonic() > end:
                raise RuntimeError("the interfaces are not up")
            time.sleep(0.001)

    def _ports(self, name: str, ethernet: bool) -> list[str]:
        """Make an interface's card, or the ports of a bridge; what is left to do for ip."""
        if name not in self.bridges:
            self.ports[name] = Port(name, ethernet)
            return []
        self.ports[name] = Port(name, ethernet, f"one-{name}"[:15])
        self.others[name] = Port(name, ethernet, f"two-{name}"[:15])
        commands = [f"link add {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"]
        for port in (self.ports[name], self.others[name]):
            commands += [f"link set {port.device} addrgenmode none up master {name}"]
            port.plug(True)
        # What the node sends goes to one port.
        return [*commands, f"link set {self.others[name].device} type bridge_slave flood off"]

    def _is_ready(self) -> bool:
        """The kernel's own threads do the last steps of IPv6; they come after all of IPv4's."""
        lines = Path("/proc/thread-self/net/ipv6_route").read_text().splitlines()
        table = [line.split() for line in lines]
        groups = {row[9] for row in table if row[0].startswith("ff") and row[1] == "08"}
        local = {row[0] for row in table if int(row[8], 16) & RTF_LOCAL}
        wanted = {ip_address(each).packed.hex() for each in self.machine.local if ":" in each}
        return groups >= self.ports.keys() and local >= wanted

    def _load(self, rules: dict[str, str]) -> None:
        if rules["sets"]:
            _tool("ipset", "restore", text=rules["sets"])
        for version, tool in (("v4", "iptables"), ("v6", "ip6tables")):
            restore = f"{tool}-{self.backend}-restore"
            _tool(restore, text=with_jumps(rules[version], self.machine.policy))
        # As the loader does it: what our rules have not marked is not forwarded.
        _set("net/ipv4/conf/all/src_valid_mark", 1)
        for family in ("-4", "-6"):
            _tool("ip", family, "-batch", "-", text=GATE)

    def _listen(self) -> None:
        """Raw sockets hear what all hooks of netfilter have let in, and change nothing."""
        for family, other in ((socket.AF_INET, "icmp6"), (socket.AF_INET6, "icmp")):
            for name, number in NUMBERS.items():
                if name != other:
                    each = socket.socket(family, socket.SOCK_RAW, number)
                    each.setblocking(False)
                    self.sockets.append(each)
        self._drain()

    # ----------------------------------------------------------------------------------------------

    def _drain(self) -> tuple[list[Packet], set[str]]:
        """What was sent since the last time, and from whom the gateway itself took something."""
        sent = [packet for port in self.ports.values() for packet in port.read()]
        taken = set()
        for each in self.sockets:
            with suppress(BlockingIOError):
                while True:
                    taken.add(each.recvfrom(65536)[1][0].partition("%")[0])
        return sent, taken

    def does(self, packet: Packet, expected: str) -> str:
        """What becomes of a packet. What is not as expected gets a moment more."""
        self._drain()
        self.passed = None
        self.ports[packet.interface].send(packet)
        sent, taken = self._drain()
        verdict = self._verdict(packet, sent, taken)
        end = time.monotonic() + PATIENCE
        while verdict != expected and time.monotonic() < end:
            time.sleep(0.01)
            more, also = self._drain()
            sent += more
            taken |= also
            verdict = self._verdict(packet, sent, taken)
        return verdict

    def _verdict(self, packet: Packet, sent: list[Packet], taken: set[str]) -> str:
        if packet.source in taken:
            return DELIVERED
        passed = [each for each in sent if is_same(packet, each)]
        if passed:
            (out,) = passed
            self.passed = out
            return forwarded(out.interface, out.source, out.destination, out.dport)
        return REJECTED if any(is_refusal(packet, each) for each in sent) else DROPPED

    def loses_answer(self, packet: Packet) -> str:
        """What is wrong with the way back of an answer to the packet before; "" for nothing."""
        assert self.passed
        answer = turned(self.passed)
        self.ports[answer.interface].send(answer)
        sent, _ = self._drain()
        right = replace(turned(packet), ttl=0, code=0, flags=0)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if [replace(each, ttl=0, code=0, flags=0) for each in sent] == [right]:
                return ""
            time.sleep(0.01)
            sent += self._drain()[0]
        return f"its answer ({answer}) became {', '.join(map(str, sent)) or 'nothing'}"


def is_same(packet: Packet, seen: Packet) -> bool:
    """Whether what came out is what went in, translated or not."""
    if (seen.proto, seen.kind) != (packet.proto, packet.kind):
        return False
    if packet.proto == "tcp" and seen.flags & RST:
        return False
    return packet.proto in ("esp", "gre", "vrrp") or seen.sport == packet.sport


def is_refusal(packet: Packet, seen: Packet) -> bool:
    if seen.destination != packet.source:
        return False
    if packet.proto == "tcp":
        return seen.proto == "tcp" and bool(seen.flags & RST) and seen.dport == packet.sport
    return seen.proto.startswith("icmp") and (seen.kind, seen.code) == REFUSALS[packet.version]


def turned(packet: Packet) -> Packet:
    """The answer to a packet."""
    kind = packet.kind
    if packet.proto.startswith("icmp") and kind == ECHO[packet.version]:
        kind = ECHO_REPLY[packet.version]
    ports = (packet.sport, packet.dport)
    if packet.proto in ("tcp", "udp"):
        ports = (packet.dport, packet.sport)
    return replace(
        packet,
        source=packet.destination,
        destination=packet.source,
        sport=ports[0],
        dport=ports[1],
        kind=kind,
        ttl=64,
        flags=SYN_ACK,
    )
