"""Send a numbered datagram every millisecond to an echo server and tell which came back.

    probe.py ADDRESS PORT SECONDS

Prints two lines of JSON: `{"start": ...}` (CLOCK_MONOTONIC, which all machines of the lab share)
when the first datagram leaves; the result after SECONDS or when its standard input ends.
"""

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


def send(sock: socket.socket, to: tuple[str, int], number: int) -> None:
    """Send one datagram. One that cannot leave (no route, no address) is lost like any other."""
    with contextlib.suppress(OSError):
        sock.sendto(struct.pack("!I", number), to)


def receive(sock: socket.socket, back: dict[int, float], now: float) -> None:
    """Note every echo that has arrived."""
    while True:
        try:
            (number,) = struct.unpack("!I", sock.recv(64))
        except BlockingIOError:
            return
        back.setdefault(number, now)


def probe(
    sock: socket.socket, to: tuple[str, int], seconds: float
) -> tuple[float, list[float], dict[int, float]]:
    """Send for so long, or until standard input ends; return start, send times, echo times."""
    sent: list[float] = []
    back: dict[int, float] = {}
    start = time.monotonic()
    print(json.dumps({"start": start}), flush=True)
    sources: list[Any] = [sock, sys.stdin]
    end = start + seconds
    while (now := time.monotonic()) < end + GRACE:
        due = start + len(sent) * INTERVAL  # absolute: a late one delays no other
        if now >= due and due < end:
            sent.append(now - start)
            send(sock, to, len(sent) - 1)
            continue
        wait = due - now if due < end else end + GRACE - now
        ready = select.select(sources, [], [], max(0.0, wait))[0]
        if sock in ready:
            receive(sock, back, time.monotonic() - start)
        if sys.stdin in ready:
            sources.remove(sys.stdin)
            end = min(end, time.monotonic())
        if due >= end and len(back) == len(sent):
            break
    return start, sent, back


def main(address: str, port: int, seconds: float) -> None:
    os.nice(-20)  # measure the network, not this machine's load
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        start, sent, back = probe(sock, (address, port), seconds)
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
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
