"""Try all the time what nobody on the public side may: to reach a host behind the gateway, and the
gateway's own DNS and time.

    stranger.py HOST ADDRESS...

Each 20 ms it sends to HOST an echo request, a SYN and a datagram, and a question for a name and for
the time to each ADDRESS. Prints `{}` when it has begun, and when its standard input ends a line of
JSON: how many rounds there were, how often it got which answer, and when it got the first and the
last one, in seconds from the beginning. What HOST itself gets, whose answers may go another way,
HOST has to say.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections import Counter

INTERVAL = 0.02
NAME = b"\x07example\x08internal\0"
QUESTIONS = {
    "dns": (53, struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + NAME + struct.pack("!2H", 6, 1)),
    "time": (123, b"\x23" + bytes(47)),
}


def datagrams(host: str, addresses: list[str]) -> dict[socket.socket, tuple[str, bytes]]:
    """Return a socket for each question, with its name and its text."""
    wanted = {f"udp {host}": (host, 7007, b"?")}
    for address in addresses:
        wanted |= {f"{what} {address}": (address, *ask) for what, ask in QUESTIONS.items()}
    found = {}
    for what, (address, port, text) in wanted.items():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.connect((address, port))
        found[sock] = what, text
    return found


def main() -> None:
    host, *addresses = sys.argv[1:]
    asked = datagrams(host, addresses)
    heard: Counter[str] = Counter()
    when: dict[str, tuple[float, float]] = {}
    begin = time.monotonic()
    echo = subprocess.Popen(
        ["ping", "-q", "-n", "-i", str(INTERVAL), host], stdout=subprocess.PIPE, text=True
    )
    print("{}", flush=True)
    rounds, syn = 0, None
    while not select.select([0], [], [], INTERVAL)[0] or os.read(0, 1):
        rounds += 1
        if syn is None or rounds % 5 == 0:
            if syn:
                syn.close()
            syn = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            syn.setblocking(False)
            syn.connect_ex((host, 80))
        if select.select([], [syn], [], 0)[1] and not syn.getsockopt(
            socket.SOL_SOCKET, socket.SO_ERROR
        ):
            heard[f"tcp {host}"] += 1
        for sock, (what, text) in asked.items():
            try:  # an ICMP error is an answer of somebody on the way
                sock.send(text)
                sock.recv(512)
                heard[what] += 1
                now = round(time.monotonic() - begin, 2)
                when[what] = when.get(what, (now,))[0], now
            except OSError:
                pass
    echo.send_signal(2)
    said = echo.communicate()[0]
    received = next(line for line in said.splitlines() if "received" in line).split()[3]
    heard[f"echo {host}"] += int(received)
    print(json.dumps({"rounds": rounds, "heard": +heard, "when": when}))


main()
