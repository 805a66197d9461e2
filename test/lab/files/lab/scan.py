"""Try every port of an address. Arguments: address, tcp or udp. Prints {open, refused} as JSON.

A port is open when a connection was made or something answered, refused when a reset or an ICMP
error came back; of the others nothing was heard.
"""

from __future__ import annotations

import errno
import json
import select
import socket
import sys
import time

AT_ONCE = 8192
PATIENCE = 1.0  # seconds


def scan_some(address: str, kind: int, ports: range) -> dict[int, str]:
    """Return what was heard of these ports."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    poll = select.epoll()
    sockets = {}
    heard = {}
    for port in ports:
        sock = socket.socket(family, kind)
        sock.setblocking(False)
        error = sock.connect_ex((address, port))
        if error not in (0, errno.EINPROGRESS):
            heard[port] = "refused"
        if kind == socket.SOCK_DGRAM:
            sock.send(b"?")
        sockets[sock.fileno()] = sock, port
        ready = select.EPOLLIN if kind == socket.SOCK_DGRAM else select.EPOLLOUT
        poll.register(sock, ready | select.EPOLLERR)
    end = time.monotonic() + PATIENCE
    while sockets and time.monotonic() < end:
        for number, _ in poll.poll(0.1):
            sock, port = sockets.pop(number)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            heard[port] = "refused" if error else "open"
            poll.unregister(sock)
            sock.close()
    for sock, _ in sockets.values():
        sock.close()
    return heard


def main() -> None:
    address, kind = sys.argv[1], {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}[sys.argv[2]]
    heard: dict[int, str] = {}
    for first in range(1, 65536, AT_ONCE):
        heard |= scan_some(address, kind, range(first, min(first + AT_ONCE, 65536)))
    print(
        json.dumps(
            {
                what: sorted(port for port, answer in heard.items() if answer == what)
                for what in ("open", "refused")
            }
        )
    )


main()
