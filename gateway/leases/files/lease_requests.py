# Managed by Salt (gateway).
"""What a node hears of clients that ask its peer for an address.

A client asks everybody (RFC 2131, section 4.3.2, but for renewals), so the node that is not in
charge hears it too, before the peer has answered. If the peer dies before it can tell what it gave,
the client's address is known all the same.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections import deque
from ipaddress import IPv4Address

from lease_facts import Client

PORT = 67
REMEMBERED = 10.0  # seconds; long enough until a node that lost its peer is in charge
MOST = 1000  # requests that are remembered
COOKIE = bytes((99, 130, 83, 99))  # RFC 2131, section 3
REQUEST = 3  # RFC 2132, section 9.6
ETHERNET = 1
NAME = re.compile(r"[a-z0-9.-]*")  # as lease-event lets it through
PAD, HOST_NAME, WANTED, KIND, SERVER, IDENTIFIER, END = 0, 12, 50, 53, 54, 61, 255


def request(packet: bytes, servers: set[str]) -> tuple[str, Client, str] | None:
    """The address that a client asks for, the client, and its name. None for anything else, and
    where it asks a server that is none of these."""
    if len(packet) < 240 or packet[0] != 1 or packet[236:240] != COOKIE or not 0 < packet[2] <= 16:
        return None
    options = _options(packet[240:])
    server, wanted = options.get(SERVER, b""), options.get(WANTED, packet[12:16])
    if options.get(KIND) != bytes((REQUEST,)) or len(wanted) != 4 or len(server) not in (0, 4):
        return None
    if server and str(IPv4Address(server)) not in servers:
        return None
    mac = packet[28 : 28 + packet[2]].hex(":")
    if packet[1] != ETHERNET:
        # As dnsmasq writes it.
        mac = f"{packet[1]:02x}-{mac}"
    client = Client(mac, options[IDENTIFIER].hex(":") if options.get(IDENTIFIER) else "")
    name = options.get(HOST_NAME, b"").decode("ascii", "replace").lower()
    return str(IPv4Address(wanted)), client, name if NAME.fullmatch(name) else ""


def _options(data: bytes) -> dict[int, bytes]:
    """By their numbers (RFC 2132, section 2)."""
    options, place = {}, 0
    while place < len(data) and data[place] != END:
        if data[place] == PAD:
            place += 1
            continue
        if place + 2 > len(data) or place + 2 + data[place + 1] > len(data):
            break
        options[data[place]] = data[place + 2 : place + 2 + data[place + 1]]
        place += 2 + data[place + 1]
    return options


class Ear(asyncio.DatagramProtocol):
    """Hears requests, while no dnsmasq on this node does."""

    def __init__(self, servers: set[str]) -> None:
        self._servers = servers
        self._heard: deque[tuple[float, str, Client, str]] = deque()  # the oldest first
        self._transport: asyncio.BaseTransport | None = None

    async def open(self, port: int = PORT) -> None:
        """Begin to hear. Without an error: where somebody else has the port, nothing is heard."""
        if self._transport or not self._servers:
            return
        listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("", port))
        except OSError as error:
            print(f"requests of clients to the peer are not heard: {error}", flush=True)
            listening.close()
            return
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=listening)

    def close(self) -> None:
        if self._transport:
            self._transport.close()
            self._transport = None

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._forget()
        heard = request(data, self._servers)
        if heard and len(self._heard) < MOST:
            self._heard.append((time.monotonic(), *heard))

    def _forget(self) -> None:
        oldest = time.monotonic() - REMEMBERED
        while self._heard and self._heard[0][0] < oldest:
            self._heard.popleft()

    def take(self, since: float = float("-inf")) -> dict[str, tuple[Client, str]]:
        """Who asked in the last seconds, and since then (time.monotonic()), for which address, and
        under which name. Of two that were offered the same the first one gets it."""
        self._forget()
        heard: dict[str, tuple[Client, str]] = {}
        for tick, address, client, name in self._heard:
            first = heard.get(address)
            if tick >= since and (first is None or first[0].key == client.key):
                heard[address] = client, name
        self._heard.clear()
        return heard
