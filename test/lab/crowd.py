"""One machine with a card in each of many networks, which asks the internet through all of them.

It is a network namespace beside the switch: sixty machines would cost too much. From each card a
datagram leaves every 10 ms for an echo server, by the network's virtual IP; and it is noted which
gateway announces itself on which card, and when. This file is what runs there, too:

    crowd.py ADDRESS PORT SECONDS CARD...

It prints lines of JSON: `{"start": ...}` (CLOCK_MONOTONIC) when the first datagrams leave; and when
its standard input ends, or SECONDS later, for each CARD its outages (first, end, lost) and who
announced an address as its own (time, hardware address, address).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path
from types import TracebackType

sys.path.insert(0, str(Path(__file__).parent / "files" / "lab"))

import checks
import probe
from lab import LAB_NAME, LabError, Outage, first_line, ip_batch, last_words, on_switch, run

PROGRAMS = Path(probe.__file__).parent
HOME = f"{LAB_NAME}-crowd"
INTERVAL = 0.01
GRACE = 0.5  # how long an answer may take after the last question, seconds
ETH_P_ARP = 0x0806
ARP_OF_IPV4 = struct.pack("!HHBB", 1, 0x0800, 6, 4)  # RFC 826, on Ethernet
FOREVER = float("inf")
Cards = dict[str, dict[str, str]]  # as Lab.further takes them


# --- the machine --------------------------------------------------------------------------------


def virtual_ip(card: dict[str, str]) -> str:
    """The virtual IP of a network: gw1, whose id is 1, has the address after it."""
    return str(IPv4Interface(card["gw1"]).ip - 1)


def address(card: dict[str, str]) -> str:
    """The crowd's own address in a network."""
    return str(IPv4Interface(card["gw1"]).ip + 7)


def prefix(card: dict[str, str]) -> int:
    """The length of a network's prefix."""
    return IPv4Interface(card["gw1"]).network.prefixlen


@contextmanager
def crowd(cards: Cards) -> Iterator[None]:
    """Have the machine, with a card in each of these networks, which are there already."""
    leave()
    run(["ip", "netns", "add", HOME])
    enter = ["ip", "netns", "exec", HOME]
    # All of its cards lead to the same place.
    run([*enter, "sh", "-c", "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done"])
    plugs, inside = [], []
    for number, (network, card) in enumerate(cards.items()):
        socket_ = f"crowd-{number}"
        mac = f"02:00:00:03:{number:02x}:00"
        plugs += [
            f"link add {socket_} type veth peer name {network} address {mac} netns {HOME}",
            f"link set {socket_} master {network} addrgenmode none up",
        ]
        inside += [
            f"addr add {address(card)}/{prefix(card)} broadcast + dev {network}",
            f"link set {network} up",
            f"route add default via {virtual_ip(card)} dev {network} metric {number + 1}",
        ]
    try:
        on_switch(*plugs)
        ip_batch(inside, enter)
        yield
    finally:
        leave()


def leave() -> None:
    """Its cables go with it."""
    if Path("/run/netns", HOME).exists():
        run(["ip", "netns", "del", HOME])


def lease(network: str) -> str:
    """Ask for a lease in a network as a machine that comes there, and return the address that was
    offered. Raises LabError if none was."""
    command = ["ip", "netns", "exec", HOME, sys.executable, str(PROGRAMS / "dhcp_offers.py")]
    offers = json.loads(run([*command, network, "02:00:00:03:ff:00", "2"]).stdout)
    if not offers:
        raise LabError(f"nobody offers a lease in {network}")
    return str(offers[0]["address"])


@dataclass(frozen=True)
class CrowdResult:
    """What became of the datagrams, by network, and who announced an address where."""

    start: float
    outages: dict[str, tuple[Outage, ...]]
    announced: tuple[tuple[float, str, str, str], ...]  # when, network, hardware address, address
    longest_send_gap_ms: float

    def worst(self, network: str, since: float, until: float = FOREVER) -> Outage | None:
        """The longest outage of a network of those that began in this time."""
        found = [each for each in self.outages[network] if since <= each.start < until]
        return max(found, key=lambda each: each.ms, default=None)

    def outages_ms(self, since: float, until: float = FOREVER) -> dict[str, float]:
        """For each network the longest outage that began in this time, 0 for none."""
        worst = {network: self.worst(network, since, until) for network in self.outages}
        return {network: outage.ms if outage else 0.0 for network, outage in worst.items()}

    def announcements_ms(self, macs: dict[str, str], since: float) -> float:
        """How long after the first announcement each network had one: of the virtual IP, by the
        gateway that has this hardware address there. Infinity if one has none."""
        first: dict[str, float] = {}
        for when, network, mac, _ in self.announced:
            if when >= since and mac == macs[network]:
                first.setdefault(network, when)
        if first.keys() != macs.keys():
            return FOREVER
        return (max(first.values()) - min(first.values())) * 1000


class CrowdProbe:
    """Asks from entry to exit of a `with` block, but never longer than `seconds`."""

    def __init__(self, cards: Cards, seconds: float) -> None:
        self._cards = cards
        script = str(Path(__file__).resolve())
        arguments = [checks.INTERNET, "7007", str(seconds), *cards]
        self._command = ["ip", "netns", "exec", HOME, sys.executable, script, *arguments]
        self._result: CrowdResult | None = None

    def __enter__(self) -> CrowdProbe:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            self._command, stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        self._start = float(json.loads(first_line(self._process, "crowd"))["start"])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        raw = json.loads(last_words(self._process, "crowd", 30))
        outages = {
            network: tuple(
                Outage(self._start + first, self._start + end, lost) for first, end, lost in found
            )
            for network, found in raw["lost"].items()
        }
        announced = tuple((when, *rest) for when, *rest in raw["announced"])
        gap = raw["longest_send_gap"] * 1000
        self._result = CrowdResult(self._start, outages, announced, gap)

    @property
    def result(self) -> CrowdResult:
        """The result, after the end."""
        assert self._result
        return self._result


# --- what runs there ----------------------------------------------------------------------------


def announcement(frame: bytes) -> tuple[str, str] | None:
    """Who announces which address as its own, if an ARP packet does that."""
    if len(frame) < 28 or frame[:6] != ARP_OF_IPV4 or frame[14:18] != frame[24:28]:
        return None
    return frame[8:14].hex(":"), socket.inet_ntoa(frame[14:18])


class Asker:
    """A socket for each card, and one that hears the ARP of all."""

    def __init__(self, to: tuple[str, int], cards: list[str]) -> None:
        self.to, self.cards = to, cards
        self.sent: list[float] = []  # seconds since the start, of each round
        self.back: dict[str, set[int]] = {card: set() for card in cards}
        self.announced: list[tuple[float, str, str, str]] = []
        self.heard = select.epoll()
        self.sockets: dict[int, tuple[socket.socket, str]] = {}
        for card in cards:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, card.encode())
            self._listen(sock, card)
        kind = socket.SOCK_DGRAM
        self.arp = socket.socket(socket.AF_PACKET, kind, socket.htons(ETH_P_ARP))
        self.arp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._listen(self.arp, "")
        self.heard.register(sys.stdin, select.EPOLLIN)

    def _listen(self, sock: socket.socket, card: str) -> None:
        sock.setblocking(False)
        self.sockets[sock.fileno()] = sock, card
        self.heard.register(sock, select.EPOLLIN)

    def ask(self, now: float) -> None:
        """A datagram from each card. One that cannot leave is lost like any other."""
        data = struct.pack("!I", len(self.sent))
        self.sent.append(now)
        for sock, card in self.sockets.values():
            if card:
                with contextlib.suppress(OSError):
                    sock.sendto(data, self.to)

    def hear(self, wait: float) -> bool:
        """Take what comes within so many seconds; tell whether standard input has ended."""
        ended = False
        for number, _ in self.heard.poll(max(wait, 0.0)):
            if number not in self.sockets:
                ended = True
                self.heard.unregister(number)
                continue
            sock, card = self.sockets[number]
            with contextlib.suppress(OSError):
                while True:
                    self._take(card, *sock.recvfrom(512))
        return ended

    def _take(self, card: str, data: bytes, sender: tuple[str, int]) -> None:
        if card:
            self.back[card].add(struct.unpack("!I", data)[0])
        elif said := announcement(data):
            self.announced.append((time.monotonic(), sender[0], *said))

    def result(self) -> dict[str, object]:
        gaps = (after - before for before, after in itertools.pairwise(self.sent))
        return {
            "lost": {card: probe.runs_lost(self.sent, self.back[card]) for card in self.cards},
            "announced": self.announced,
            "longest_send_gap": max(gaps, default=0.0),
        }


def main(address: str, port: int, seconds: float, cards: list[str]) -> None:
    os.nice(-20)  # measure the network, not this machine's load
    asker = Asker((address, port), cards)
    start = time.monotonic()
    end = start + seconds
    print(json.dumps({"start": start}), flush=True)
    while (now := time.monotonic()) < end + GRACE:
        due = start + len(asker.sent) * INTERVAL  # absolute: a late round delays no other
        if now >= due and due < end:
            asker.ask(now - start)
        elif asker.hear(due - now if due < end else end + GRACE - now):
            end = min(end, time.monotonic())
    print(json.dumps(asker.result()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])
