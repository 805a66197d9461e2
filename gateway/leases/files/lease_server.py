# Managed by Salt (gateway).
"""dnsmasq, which gives addresses on this node: its orders, and who is there beside its clients."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lease_facts import FOREVER, Client
from lease_journal import Journal
from lease_orders import Orders, database

DHCP = "gateway-dhcp.service"
ENDED = ("inactive", "failed")  # what systemd says of it where it does not run
STAYS = 60.0  # who uses an address without a lease for so long, keeps it
ENDING = 60.0  # a lease that dnsmasq gave is kept for its client so long before its end
AWAKE, GONE = {"REACHABLE", "DELAY", "PROBE"}, {"FAILED", "INCOMPLETE", "PERMANENT", "NOARP"}
DISCARD = 9  # a port at which nobody listens (RFC 863)


class Neighbour(NamedTuple):
    """A machine that the kernel knows (arp(7)); `is_awake`: it has answered in the last seconds."""

    mac: str
    is_awake: bool


class Server:
    """dnsmasq, which gives addresses on this node: its orders, and what it has told."""

    def __init__(self, run: Path, orders: Orders, journal: Journal) -> None:
        self._run, self.orders, self._journal = run, orders, journal
        self._lines: dict[str, Client | None] = {}  # what it was told to keep, for whom
        self._given: dict[str, float] = {}  # the ends of leases that it has given since
        self._files = 0
        self._ranges: list[str] = []  # what it was told to give; empty: this daemon has not
        self._seen: dict[str, float] = {}  # since when somebody uses an address without a lease
        self.began = 0.0  # when it was told so (monotonic clock)
        # Whether it was told that the nodes are in sync; None while it does not run.
        self.mode: bool | None = None
        with suppress(OSError):
            self.mode = (run / "serving").read_text() == "in sync\n"
        if self.mode is not None:
            # It runs, and may know nothing of what the peers are about to tell.
            journal.serves = journal.is_news = True

    def begin(self, in_sync: bool, there: dict[str, Neighbour]) -> None:
        """Write its orders, before it starts. `there`: the neighbours."""
        now = time.time()
        leases = self._journal.leases(now) if in_sync else []
        self._ranges = self._ranges_now(in_sync)
        write(self._run / "dnsmasq.conf", ["conf-file=/etc/gateway/dhcp.conf", *self._ranges])
        write(self._run / "database", database(leases))
        for file in (self._run / "reservations").iterdir():
            file.unlink()
        self._lines, self._given, self._files = {}, {}, 0
        self.mode, self.began = in_sync, time.monotonic()
        self.add({address: each.mac for address, each in there.items() if each.is_awake})
        write(self._run / "serving", ["in sync" if in_sync else "own share"])

    def _ranges_now(self, in_sync: bool) -> list[str]:
        return self.orders.ranges(in_sync, self._journal.shares_of_peers())

    def has_other_ranges(self) -> bool:
        """Whether it gives of its own share, and a peer has said since that it has other pools."""
        return self.mode is False and self._ranges not in ([], self._ranges_now(False))

    def ended(self) -> None:
        self.mode = None
        (self._run / "serving").unlink(missing_ok=True)

    def look(self, there: dict[str, Neighbour]) -> None:
        """Have it keep what it has to keep by now, also for who stays without a lease. Not for who
        has just given one back."""
        tick = time.monotonic()
        strangers = self._strangers({address: each.mac for address, each in there.items()})
        self._seen = {address: self._seen.get(address, tick) for address in strangers}
        for address in strangers:
            if not there[address].is_awake:
                wake(address)
        stay = {a: there[a].mac for a, since in self._seen.items() if tick - since >= STAYS}
        self.add(stay)

    def _strangers(self, neighbours: dict[str, str]) -> dict[str, Client]:
        leased = {fact.address for fact in self._journal.leases(time.time())}
        return self.orders.unleased(neighbours, leased)

    def add(self, neighbours: dict[str, str]) -> None:
        """Have it keep what it has to keep by now, and for these neighbours what they use. It can
        be told more while it runs, but to forget nothing."""
        now = time.time()
        wanted: dict[str, Client | None] = {}
        if not self.mode:
            wanted = {
                address: client
                for address, client in self._journal.kept_for(now).items()
                if self._given.get(address, 0.0) < now + ENDING
            }
        wanted |= self._strangers(neighbours)
        new = {address: who for address, who in wanted.items() if address not in self._lines}
        lines = [self.orders.reservation(address, client) for address, client in new.items()]
        if any(lines):
            write(self._run / "reservations" / str(self._files + 1), [*filter(None, lines)])
            self._files += 1
        self._lines |= new

    def tells(self, address: str, until: float | None) -> None:
        """It has given a lease until then, or ended one (None)."""
        if until is None:
            self._given.pop(address, None)
        else:
            self._given[address] = float("inf") if until == FOREVER else until


def write(path: Path, lines: list[str]) -> None:
    """Make a file of these lines, at once. One that has them already is left alone: dnsmasq reads
    what is written."""
    text = "".join(f"{line}\n" for line in lines)
    if path.exists() and path.read_text() == text:
        return
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.rename(path)


async def dnsmasq_is() -> str:
    """What systemd says of dnsmasq: active, inactive, failed, activating, ..."""
    return (await output("systemctl", "is-active", DHCP)).decode().strip()


async def control(*words: str) -> None:
    """Tell systemd, and do not wait until it is done."""
    await output("systemctl", "--no-block", *words)


async def who_is_there() -> dict[str, Neighbour]:
    """The neighbours, by their IPv4 addresses."""
    try:
        rows = json.loads(await output("ip", "-json", "-4", "neigh", "show") or b"[]")
    except ValueError:
        rows = []
    return {
        row["dst"]: Neighbour(row["lladdr"], bool(AWAKE & {*row["state"]}))
        for row in rows
        if "lladdr" in row and not GONE & {*row["state"]}
    }


def wake(address: str) -> None:
    """Have the kernel ask whether somebody is at an address: it does where something is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending, suppress(OSError):
        sending.sendto(b"", (address, DISCARD))


async def output(*command: str) -> bytes:
    """What a command prints; nothing where it is not there."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
    except OSError as error:
        print(f"{command[0]}: {error}", flush=True)
        return b""
    return (await process.communicate())[0]
