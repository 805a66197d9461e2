"""Ask a network again and again who has an address, and who gives out leases.

    witness.py INTERFACE ADDRESS MAC

Asks by ARP each 10 ms for ADDRESS (as one who has no address yet, so that nobody learns anything
from it; RFC 5227) and by DHCP each 200 ms for a lease for MAC, which it does not take. Prints `{}`
when it has begun, and when its standard input ends a line of JSON, with times of CLOCK_MONOTONIC:
`{"arp": [[time, MAC that answered], ...], "dhcp": [[time of the question, [servers]], ...]}`.
"""

import json
import os
import select
import socket
import struct
import sys
import time

from dhcp_offers import discover, offer

ARP, IP = 0x0806, 0x0800
ARP_INTERVAL, DHCP_INTERVAL = 0.01, 0.2


def who_has(address: str, mac: bytes) -> bytes:
    """Return the Ethernet frame of an ARP probe."""
    question = struct.pack("!HHBBH", 1, IP, 6, 4, 1) + mac + bytes(10)
    return b"\xff" * 6 + mac + struct.pack("!H", ARP) + question + socket.inet_aton(address)


def answered(frame: bytes, address: str) -> str:
    """Return the MAC of who says that it has the address, "" if the frame does not say that."""
    if frame[12:14] != struct.pack("!H", ARP) or frame[20:22] != b"\0\2":
        return ""
    return frame[22:28].hex(":") if frame[28:32] == socket.inet_aton(address) else ""


class Witness:
    """What was asked, and what has come of it."""

    def __init__(self, interface: str, address: str, mac: bytes) -> None:
        self.address, self.mac = address, mac
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.sock.bind((interface, 3))  # every protocol
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.own = self.sock.getsockname()[4]
        self.arp: list[tuple[float, str]] = []
        self.dhcp: list[tuple[float, set[str]]] = []
        self.open: dict[bytes, int] = {}

    def ask_arp(self) -> None:
        self.sock.send(who_has(self.address, self.own))

    def ask_dhcp(self) -> None:
        transaction = os.urandom(4)
        self.open[transaction] = len(self.dhcp)
        self.dhcp.append((time.monotonic(), set()))
        frame = discover(self.mac, transaction)
        # The switch must not think that the machine with this MAC is here.
        self.sock.send(frame[:6] + self.own + frame[12:])

    def receive(self) -> None:
        frame = self.sock.recv(2048)
        if who := answered(frame, self.address):
            self.arp.append((time.monotonic(), who))
        elif frame[23:24] == b"\x11" and frame[46:50] in self.open:  # UDP, and our transaction
            found = offer(frame, frame[46:50])
            self.dhcp[self.open[frame[46:50]]][1].update({found["server"]} if found else ())

    def run(self) -> None:
        """Ask until standard input ends."""
        due = {self.ask_arp: time.monotonic(), self.ask_dhcp: time.monotonic()}
        every = {self.ask_arp: ARP_INTERVAL, self.ask_dhcp: DHCP_INTERVAL}
        while True:
            for ask, when in due.items():
                if time.monotonic() >= when:
                    ask()
                    due[ask] = max(when + every[ask], time.monotonic() - 0.1)
            wait = max(0.0, min(due.values()) - time.monotonic())
            ready = select.select([self.sock, sys.stdin], [], [], wait)[0]
            if sys.stdin in ready:
                return
            if ready:
                self.receive()


def main(interface: str, address: str, mac: str) -> None:
    os.nice(-20)
    witness = Witness(interface, address, bytes.fromhex(mac.replace(":", "")))
    print("{}", flush=True)
    witness.run()
    dhcp = [(when, sorted(servers)) for when, servers in witness.dhcp]
    print(json.dumps({"arp": witness.arp, "dhcp": dhcp}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:4])
