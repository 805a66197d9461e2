"""Send a numbered datagram every millisecond to an echo server and tell which came back.

    probe.py ADDRESS PORT SECONDS [INTERVAL NAME]

With NAME it asks a DNS server for that name's address each INTERVAL seconds (up to 65,536 times)
instead: an answer without an address is none.

Prints two lines of JSON: `{"start": ...}` (CLOCK_MONOTONIC, which all machines of the lab share)
when the first datagram leaves; the result after SECONDS or when its standard input ends.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import socket
import struct
import sys
import time
from typing import Any

INTERVAL = 0.001
GRACE = 1.0  # how long an echo may take after the last datagram, seconds


def runs_lost(sent: list[float], back: set[int]) -> list[tuple[float, float, int]]:
    """Return each run of consecutive lost datagrams: when its first one left, when the next one
    left that came back (or the last of all), and how many were lost."""
    runs = []
    first = None
    for number, when in enumerate(sent):
        if number not in back:
            first = number if first is None else first
        elif first is not None:
            runs.append((sent[first], when, number - first))
            first = None
    if first is not None:
        runs.append((sent[first], sent[-1], len(sent) - first))
    return runs


class Echo:
    """Datagrams that come back as they are."""

    def write(self, number: int) -> bytes:
        return struct.pack("!I", number)

    def read(self, data: bytes) -> int | None:
        """Return the number of the datagram that this is the answer to."""
        (number,) = struct.unpack("!I", data)
        return int(number)


class Question(Echo):
    """DNS questions for the address of one name (RFC 1035, section 4)."""

    def __init__(self, name: str) -> None:
        labels = [label.encode() for label in name.split(".")]
        self.name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"

    def write(self, number: int) -> bytes:
        return struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + self.name + struct.pack("!2H", 1, 1)

    def read(self, data: bytes) -> int | None:
        number, flags, _, answers = struct.unpack_from("!4H", data)
        return int(number) if not flags & 15 and answers else None


def send(sock: socket.socket, to: tuple[str, int], data: bytes) -> None:
    """Send one datagram. One that cannot leave (no route, no address) is lost like any other."""
    with contextlib.suppress(OSError):
        sock.sendto(data, to)


def receive(sock: socket.socket, kind: Echo, back: dict[int, float], now: float) -> None:
    """Note every answer that has arrived."""
    while True:
        try:
            number = kind.read(sock.recv(512))
        except BlockingIOError:
            return
        if number is not None:
            back.setdefault(number, now)


def probe(
    sock: socket.socket, to: tuple[str, int], seconds: float, interval: float, kind: Echo
) -> tuple[float, list[float], dict[int, float]]:
    """Send for so long, or until standard input ends; return start, send times, answer times."""
    sent: list[float] = []
    back: dict[int, float] = {}
    start = time.monotonic()
    print(json.dumps({"start": start}), flush=True)
    sources: list[Any] = [sock, sys.stdin]
    end = start + seconds
    while (now := time.monotonic()) < end + GRACE:
        due = start + len(sent) * interval  # absolute: a late one delays no other
        if now >= due and due < end:
            sent.append(now - start)
            send(sock, to, kind.write(len(sent) - 1))
            continue
        wait = due - now if due < end else end + GRACE - now
        ready = select.select(sources, [], [], max(0.0, wait))[0]
        if sock in ready:
            receive(sock, kind, back, time.monotonic() - start)
        if sys.stdin in ready:
            sources.remove(sys.stdin)
            end = min(end, time.monotonic())
        if due >= end and len(back) == len(sent):
            break
    return start, sent, back


def main(address: str, port: int, seconds: float, interval: float, name: str) -> None:
    os.nice(-20)  # measure the network, not this machine's load
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        start, sent, back = probe(
            sock, (address, port), seconds, interval, Question(name) if name else Echo()
        )
    delays = [back[number] - sent[number] for number in back]
    result = {
        "start": start,
        "sent": len(sent),
        "received": len(back),
        "slowest_echo": max(delays, default=0.0),
        "longest_send_gap": max((b - a for a, b in itertools.pairwise(sent)), default=0.0),
        "lost": runs_lost(sent, set(back)),
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    more = (float(sys.argv[4]), sys.argv[5]) if len(sys.argv) > 4 else (INTERVAL, "")
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), *more)
