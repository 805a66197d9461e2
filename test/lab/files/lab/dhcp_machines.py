"""Machines that ask for addresses by DHCP, and between that answer nobody, as if they slept.

    dhcp_machines.py INTERFACE

Reads requests, a line of JSON each, and prints an answer for each when all of its machines are
done: `{"do": WHAT, "machines": [...], "seconds": PATIENCE}`, where a machine is a mapping with
`mac` and, as needed, `address`, `server`, `name` and `identifier` (hexadecimal). WHAT is

- `new`: DISCOVER and REQUEST, of what `server` offers, or of what is offered first;
- `reboot`: REQUEST for `address` (INIT-REBOOT, RFC 2131, section 4.3.2);
- `renew`: REQUEST from `address`, by broadcast as in REBINDING; the answer comes to that address;
- `release` or `decline`: `address` of `server`; there is no answer to these.

The answer is a list in the order of the machines: `{"mac", "address", "server", "seconds"}`; the
address is "" for who was refused, and None for who was not answered.
"""

import json
import os
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from dhcp_offers import COOKIE, END, MESSAGE_TYPE, SERVER_ID, broadcast, options

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE = 1, 2, 3, 4, 5, 6, 7
REQUESTED, HOST_NAME, IDENTIFIER = 50, 12, 61
AGAIN = 0.25  # seconds until a message is sent again
TOGETHER = 20  # machines that wait for an answer at one time


def option(number: int, value: bytes) -> bytes:
    return bytes([number, len(value)]) + value


@dataclass
class Machine:
    """One that asks; `answer` is what came of it."""

    mac: str
    address: str = ""
    server: str = ""
    name: str = ""
    identifier: str = ""
    transaction: bytes = field(default_factory=lambda: os.urandom(4))
    offered: dict[str, str] = field(default_factory=dict)
    began: float = 0.0
    sent: float = 0.0
    answer: dict[str, Any] | None = None

    def frame(self, kind: int, more: bytes, source: str = "0.0.0.0") -> bytes:
        """The Ethernet frame of a message."""
        own, mac = socket.inet_aton(source), bytes.fromhex(self.mac.replace(":", ""))
        flags = 0 if any(own) else 0x8000  # by broadcast
        bootp = struct.pack("!4B4s2H4s12x", 1, 1, 6, 0, self.transaction, 0, flags, own)
        bootp += mac.ljust(16, b"\0") + bytes(192) + COOKIE + option(MESSAGE_TYPE, bytes([kind]))
        if self.name:
            bootp += option(HOST_NAME, self.name.encode())
        if self.identifier:
            bootp += option(IDENTIFIER, bytes.fromhex(self.identifier))
        bootp += more + bytes([END])
        return broadcast(mac, bootp, own)

    def message(self, what: str) -> bytes:
        """What it says next."""
        wanted = option(REQUESTED, socket.inet_aton(self.address)) if self.address else b""
        if self.offered:
            wanted = option(REQUESTED, socket.inet_aton(self.offered["address"]))
            return self.frame(REQUEST, wanted + self._to(self.offered["server"]))
        if what == "new":
            return self.frame(DISCOVER, wanted)
        if what == "reboot":
            return self.frame(REQUEST, wanted)
        if what == "renew":
            return self.frame(REQUEST, b"", self.address)
        if what == "decline":
            return self.frame(DECLINE, wanted + self._to(self.server))
        return self.frame(RELEASE, self._to(self.server), self.address)

    @staticmethod
    def _to(server: str) -> bytes:
        return option(SERVER_ID, socket.inet_aton(server))

    def end(self, address: str | None, server: str = "") -> None:
        seconds = round(time.monotonic() - self.began, 3)
        self.answer = {"mac": self.mac, "address": address, "server": server, "seconds": seconds}


def answered(frame: bytes) -> tuple[bytes, int, dict[str, str]] | None:
    """Transaction, kind, and address and server of a server's message."""
    packet = frame[14:]
    if len(packet) < 28 or frame[12:14] != b"\x08\x00" or packet[9] != 17:
        return None
    bootp = packet[(packet[0] & 15) * 4 + 8 :]
    if len(bootp) < 240 or bootp[0] != 2 or bootp[236:240] != COOKIE:
        return None
    said = options(bootp[240:])
    if MESSAGE_TYPE not in said or SERVER_ID not in said:
        return None
    found = {
        "address": socket.inet_ntoa(bootp[16:20]),
        "server": socket.inet_ntoa(said[SERVER_ID]),
    }
    return bootp[4:8], said[MESSAGE_TYPE][0], found


class Card:
    """The network card of all machines."""

    def __init__(self, interface: str) -> None:
        self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self._sock.bind((interface, 0x0800))
        self._arp = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
        self._arp.bind((interface, 0x0806))

    def play(self, what: str, machines: list[Machine], seconds: float) -> None:
        """Have all do something; each has so many seconds."""
        waiting: dict[bytes, Machine] = {}
        todo = list(machines)
        while todo or waiting:
            while todo and len(waiting) < TOGETHER:
                machine = todo.pop(0)
                machine.began = time.monotonic()
                if what in ("release", "decline"):
                    self._sock.send(machine.message(what))
                    machine.end(None)
                else:
                    waiting[machine.transaction] = machine
            self._send(what, waiting, seconds)
            self._listen(waiting)

    def _send(self, what: str, waiting: dict[bytes, Machine], seconds: float) -> None:
        now = time.monotonic()
        for machine in list(waiting.values()):
            if now > machine.began + seconds:
                machine.end(None)
                del waiting[machine.transaction]
            elif now > machine.sent + AGAIN:
                machine.sent = now
                self._sock.send(machine.message(what))

    def _listen(self, waiting: dict[bytes, Machine]) -> None:
        end = time.monotonic() + 0.05
        both = [self._sock, self._arp]
        while waiting and (ready := select.select(both, [], [], max(0, end - time.monotonic()))[0]):
            if self._arp in ready:
                self._here(self._arp.recv(2048), waiting)
            if self._sock in ready:
                self._take(self._sock.recv(2048), waiting)

    def _take(self, frame: bytes, waiting: dict[bytes, Machine]) -> None:
        heard = answered(frame)
        machine = waiting.get(heard[0]) if heard else None
        if not heard or not machine:
            return
        _, kind, said = heard
        if kind == OFFER and not machine.offered and machine.server in ("", said["server"]):
            machine.offered, machine.sent = said, time.monotonic()
            self._sock.send(machine.message("new"))
        elif kind == NAK and not machine.address:
            # A new one: somebody else was offered the same, and was faster.
            machine.offered, machine.sent = {}, 0.0
        elif kind in (ACK, NAK):
            machine.end(said["address"] if kind == ACK else "", said["server"])
            del waiting[machine.transaction]

    def _here(self, frame: bytes, waiting: dict[bytes, Machine]) -> None:
        """Answer who looks for a machine that is awake (RFC 826)."""
        if len(frame) < 42 or frame[20:22] != b"\0\1":
            return
        wanted = socket.inet_ntoa(frame[38:42])
        for machine in waiting.values():
            if machine.address == wanted:
                mac = bytes.fromhex(machine.mac.replace(":", ""))
                answer = frame[12:20] + b"\0\2" + mac + frame[38:42] + frame[22:32]
                self._arp.send(frame[6:12] + mac + answer)


def main(interface: str) -> None:
    card = Card(interface)
    print("{}", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        machines = [Machine(**each) for each in request["machines"]]
        card.play(request["do"], machines, request["seconds"])
        print(json.dumps([machine.answer for machine in machines]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
