"""Packets: from words to bytes and back."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address

NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "icmp6": 58, "vrrp": 112}
NAMES = {number: name for name, number in NUMBERS.items()}
ERRORS = {4: (3, 4, 5, 11, 12), 6: (1, 2, 3, 4)}  # types of ICMP that speak of another packet
ECHO = {4: 8, 6: 128}
ECHO_REPLY = {4: 0, 6: 129}
SYN, SYN_ACK, RST = 0x02, 0x12, 0x04


@dataclass(frozen=True)
class Packet:
    """A packet as it arrives at a node. ``kind`` is the type of ICMP.

    ``sport`` tells packets apart: it is the identifier of ICMP too, the first word of ESP and GRE.
    """

    interface: str
    source: str
    destination: str
    proto: str
    sport: int = 0
    dport: int = 0
    kind: int = 0
    code: int = 0
    ttl: int = 64
    flags: int = SYN

    @property
    def version(self) -> int:
        return 6 if ":" in self.destination else 4

    def __str__(self) -> str:
        ends = f"{self.interface}: {self.source} > {self.destination} {self.proto}"
        if self.proto in ("tcp", "udp"):
            ends += f" {self.sport} > {self.dport}"
        if self.proto.startswith("icmp"):
            ends += f" type {self.kind}"
        return ends + (f" ttl {self.ttl}" if self.ttl != 64 else "")


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _address(text: str) -> bytes:
    return ip_address(text).packed


def _pseudo(packet: Packet, length: int) -> bytes:
    ends = _address(packet.source) + _address(packet.destination)
    number = NUMBERS[packet.proto]
    if packet.version == 4:
        return ends + struct.pack("!BBH", 0, number, length)
    return ends + struct.pack("!IHBB", length, 0, 0, number)


def _payload(packet: Packet) -> bytes:
    if packet.proto == "tcp":
        ports = struct.pack("!HH", packet.sport, packet.dport)
        body = ports + struct.pack("!IIBBHHH", 1, 1, 5 << 4, packet.flags, 8192, 0, 0)
        at = 16
    elif packet.proto == "udp":
        body = struct.pack("!HHHH", packet.sport, packet.dport, 12, 0) + b"flow"
        at = 6
    elif packet.proto.startswith("icmp"):
        body = struct.pack("!BBHHH", packet.kind, packet.code, 0, packet.sport, 1) + _quoted(packet)
        at = 2
    elif packet.proto == "vrrp":
        body = struct.pack("!BBBBHHI", 0x31, 51, 254, 1, 10, 0, 0x0A4D0001)
        at = 6
    else:
        return struct.pack("!IIII", packet.sport, 1, 0, 0)
    # Not the RFC's for VRRP in IPv4: before it refuses, the kernel looks, and knows no better.
    alone = packet.proto == "icmp" or (packet.proto == "vrrp" and packet.version == 4)
    pseudo = b"" if alone else _pseudo(packet, len(body))
    value = checksum(pseudo + body) or 0xFFFF
    return body[:at] + struct.pack("!H", value) + body[at + 2 :]


def _quoted(packet: Packet) -> bytes:
    """What an error quotes: a packet of a connection that nobody has."""
    if packet.kind in ERRORS[packet.version]:
        lost = Packet("", packet.destination, packet.source, "udp", 9, 9)
        return build(lost)
    return b"\0" * 16


def build(packet: Packet) -> bytes:
    """The packet's bytes, beginning with the header of IP."""
    body = _payload(packet)
    number = NUMBERS[packet.proto]
    ends = _address(packet.source) + _address(packet.destination)
    if packet.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(body), number, packet.ttl) + ends + body
    head = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(body), 1, 0, packet.ttl, number)
    value = struct.pack("!H", checksum(head + b"\0\0" + ends))
    return head + value + ends + body


def parse(interface: str, data: bytes) -> Packet | None:
    """What was sent through an interface; None for what tests do not care about."""
    if data[0] >> 4 == 4:
        length = (data[0] & 15) * 4
        number, ttl = data[9], data[8]
        source, destination = (socket.inet_ntop(socket.AF_INET, data[i : i + 4]) for i in (12, 16))
    else:
        length, number, ttl = 40, data[6], data[7]
        source, destination = (socket.inet_ntop(socket.AF_INET6, data[i : i + 16]) for i in (8, 24))
    proto = NAMES.get(number)
    if proto is None:
        return None
    body = data[length:]
    sport = dport = kind = code = flags = 0
    if proto in ("tcp", "udp"):
        sport, dport = struct.unpack("!HH", body[:4])
        flags = body[13] if proto == "tcp" else 0
    elif proto.startswith("icmp"):
        kind, code = body[0], body[1]
        sport = struct.unpack("!H", body[4:6])[0]
    elif proto in ("esp", "gre"):
        sport = struct.unpack("!I", body[:4])[0]
    return Packet(interface, source, destination, proto, sport, dport, kind, code, ttl, flags)
