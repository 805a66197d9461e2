"""Ask for a DHCP lease in the name of some machine and list who offers one; takes none.

    dhcp_offers.py INTERFACE MAC SECONDS

Prints a JSON list: `{"server": identifier, "address": offered, "seconds": after the question}`.
"""

import json
import os
import select
import socket
import struct
import sys
import time

COOKIE = b"\x63\x82\x53\x63"  # RFC 2131, section 3
MESSAGE_TYPE, SERVER_ID, END = 53, 54, 255
DISCOVER, OFFER = 1, 2


def checksum(data: bytes) -> int:
    """Return the internet checksum (RFC 1071) of an even number of octets."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def discover(mac: bytes, transaction: bytes) -> bytes:
    """Return the Ethernet frame of a DISCOVER that asks for an answer by broadcast."""
    bootp = struct.pack("!4B4s2H16s", 1, 1, 6, 0, transaction, 0, 0x8000, b"")
    bootp += mac.ljust(16, b"\0") + bytes(192) + COOKIE
    bootp += bytes([MESSAGE_TYPE, 1, DISCOVER, 55, 3, 1, 3, 6, END])
    return broadcast(mac, bootp)


def broadcast(mac: bytes, bootp: bytes, source: bytes = bytes(4)) -> bytes:
    """Return the Ethernet frame in which a client says something to all servers."""
    udp = struct.pack("!4H", 68, 67, 8 + len(bootp), 0) + bootp  # checksum 0: not used
    ip = struct.pack("!2B3H2BH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, source, b"\xff" * 4)
    ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
    return b"\xff" * 6 + mac + b"\x08\x00" + ip + udp


def options(data: bytes) -> dict[int, bytes]:
    """Return the DHCP options, which follow the cookie as type, length, value."""
    found = {}
    while data and data[0] != END:
        if data[0] == 0:  # padding
            data = data[1:]
            continue
        found[data[0]] = data[2 : 2 + data[1]]
        data = data[2 + data[1] :]
    return found


def offer(frame: bytes, transaction: bytes) -> dict[str, str] | None:
    """Return server and address of an OFFER that answers this transaction, else None."""
    packet = frame[14:]
    if len(packet) < 20 or frame[12:14] != b"\x08\x00" or packet[9] != 17:
        return None
    bootp = packet[(packet[0] & 15) * 4 + 8 :]
    if len(bootp) < 240 or bootp[0] != 2 or bootp[4:8] != transaction:
        return None
    answered = options(bootp[240:])
    if answered.get(MESSAGE_TYPE) != bytes([OFFER]):
        return None
    return {
        "server": socket.inet_ntoa(answered[SERVER_ID]),
        "address": socket.inet_ntoa(bootp[16:20]),
    }


def main(interface: str, mac: str, seconds: float) -> None:
    transaction = os.urandom(4)
    offers: list[dict[str, object]] = []
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as sock:
        sock.bind((interface, 0x0800))
        start = time.monotonic()
        sock.send(discover(bytes.fromhex(mac.replace(":", "")), transaction))
        while (left := start + seconds - time.monotonic()) > 0:
            if select.select([sock], [], [], left)[0]:
                found = offer(sock.recv(2048), transaction)
                if found:
                    offers.append({**found, "seconds": round(time.monotonic() - start, 3)})
    print(json.dumps(offers))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
