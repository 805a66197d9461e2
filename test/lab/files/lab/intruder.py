"""Try to reach a host behind the gateways from the public side, or count what arrives there.

    intruder.py send INTERFACE ADDRESS PORT MAC...
    intruder.py count PORT

`send` hands each MAC a datagram for ADDRESS each 5 ms, as a neighbour does that believes it to be
the way there. `count` prints how many came. Both print a line when they have begun, and end with
their input.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys

PAUSE = 0.005


def checksum(data: bytes) -> int:
    """Return the internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def datagram(source: str, destination: str, port: int) -> bytes:
    """Return an IPv4 packet with a UDP datagram; its own checksum may be left out (RFC 768)."""
    text = b"let me in"
    udp = struct.pack("!4H", 4445, port, 8 + len(text), 0) + text
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    start = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP)
    header = start + struct.pack("!H", checksum(start + b"\0\0" + addresses)) + addresses
    return header + udp


def own_address(destination: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((destination, 9))
        return str(sock.getsockname()[0])


def send(interface: str, address: str, port: str, *macs: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as sock:
        sock.bind((interface, 0))
        packet = datagram(own_address("198.51.100.1"), address, int(port))
        own = sock.getsockname()[4]
        frames = [bytes.fromhex(mac.replace(":", "")) + own + b"\x08\0" + packet for mac in macs]
        print("sending", flush=True)
        while not (select.select([0], [], [], PAUSE)[0] and not os.read(0, 1)):
            for frame in frames:
                sock.send(frame)


def count(port: str) -> None:
    arrived = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", int(port)))
        print("counting", flush=True)
        while True:
            ready = select.select([0, sock.fileno()], [], [])[0]
            if sock.fileno() in ready:
                sock.recv(100)
                arrived += 1
            elif not os.read(0, 1):
                print(arrived)
                return


if sys.argv[1] == "send":
    send(*sys.argv[2:])
else:
    count(*sys.argv[2:])
