"""Send one ICMP echo request with any source address. Arguments: source, destination."""

from __future__ import annotations

import socket
import struct
import sys


def checksum(data: bytes) -> int:
    """Return the internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def main() -> None:
    source, destination = sys.argv[1:]
    blank = struct.pack("!BBHHH8s", 8, 0, 0, 7, 7, b"spoofed!")
    echo = blank[:2] + struct.pack("!H", checksum(blank)) + blank[4:]
    # Protocol 255: the header is ours; the kernel fills in length and checksum.
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        addresses = socket.inet_aton(source) + socket.inet_aton(destination)
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(echo), 0, 0, 64, 1, 0) + addresses
        sock.sendto(header + echo, (destination, 0))


main()
