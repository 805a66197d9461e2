#!/usr/bin/python3
# Managed by Salt (gateway): leases.py SETTINGS HOSTS KEY RUN STATE
"""Keeps the journal of leases, tells it to the peers, and has dnsmasq give what may be given.

The other lease_*.py beside this file decide; here are sockets, clocks and files. HOSTS has what the
site says of hosts and names; at SIGHUP it is read again. Files of RUN:

- `events`, a FIFO: dnsmasq's script (`lease-event`) writes a line into it for each lease;
- `dnsmasq.conf`, `database` and `reservations/`: what dnsmasq may give, and what it begins with;
- `serving`, while it runs: whether it was told that the nodes are in sync;
- `hosts/leases`: the clients' names, for the dnsmasq that answers for names;
- `socket`: one question and its answer, a line of JSON each (`ask-leases`).
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from lease_facts import FOREVER, Fact
from lease_journal import IN_SYNC, NEVER, TAKEOVER, Journal
from lease_link import LONGEST_LINE, Line, Message
from lease_orders import Orders, event, from_lease_file
from lease_requests import Ear
from lease_server import DHCP, ENDED, Neighbour, Server, control, dnsmasq_is, who_is_there, write
from lease_store import KEEP, Database, Keeper

BEAT = 0.1  # seconds between two messages to a peer that has nothing to hear
PATIENCE = 2.0  # without an answer for so long a connection is made anew
CLOCK_STEP = 2.0  # seconds by which the clock was set, and did not only go
STABLE = 2.0  # in sync for so long, dnsmasq is told so
# Twice as long after each start that was followed by another one soon, up to half a minute: where
# the nodes hear each other now and then, dnsmasq would start all the time, and answer nobody.
SOON, MOST_STABLE = 15.0, 30.0
WAIT = 5.0  # for who asks whether dnsmasq may start, at most
SETTLE = 0.2  # names are written so long after a change
TELLING = 0.5  # seconds until a peer has told what it gave, at most
LOOK = 10.0  # between two looks at the neighbours, and at whether dnsmasq runs
FREEBIND = 15  # IP_FREEBIND of ip(7), which Python before 3.13 has no name for
PORT_BYTES = 65536  # what a read of the FIFO takes at most: all that fits into it (pipe(7))


class Leases:
    """The daemon."""

    def __init__(self, settings: dict[str, Any], hosts: Path, key: bytes, run: Path, state: Path):
        self.settings, self.file = settings, hosts
        self.hosts = json.loads(hosts.read_text())
        self.node: str = settings["node"]
        self.address, self.port = settings["address"], int(settings["port"])
        self.peers: dict[str, str] = settings["peers"]
        self.key, self.run = key, run
        for folder in ("hosts", "reservations"):
            (run / folder).mkdir(exist_ok=True)
        store = Database(state / "leases.db")
        self.old = state / "dhcp.leases"
        self.journal = Journal(self.node, self.peers, store, f"{self.node}-{secrets.token_hex(6)}")
        self.orders = Orders(settings | self.hosts)
        self.journal.share = self.orders.share(self.node)
        self.server = Server(run, self.orders, self.journal)
        self.keeper = Keeper(self.journal, store)
        self.ear = Ear(set(settings["servers"]))
        self.wake: dict[str, asyncio.Event] = {name: asyncio.Event() for name in self.peers}
        self.hup = asyncio.Event()
        self.lines: set[Line] = set()
        self.refused: dict[str, str] = {}  # why the last connection from a peer was not taken
        self.asked = 0  # how often dnsmasq was about to start, or had stopped
        self.names_due = 0.0  # when names are to be written (monotonic clock)
        self.next_end = 0.0  # when the first lease ends (wall clock)
        self.unread = b""
        self.stable = STABLE
        self.fault = ""  # why something could not be written for dnsmasq
        self.booted = booted()
        self._take_over()

    def _take_over(self) -> None:
        """The leases that dnsmasq kept itself, before there was a journal; where the journal does
        not know better."""
        if not self.old.exists():
            return
        for each in from_lease_file(self.old.read_text(errors="replace")):
            known = self.journal.facts.get(each.address)
            if known is None or (known.client and known.client.key == each.client.key):
                name = each.name.strip("*")
                self.journal.lease(each.address, each.client, each.until, name, time.time())

    async def _forget_old(self) -> None:
        """The dnsmasq that wrote it does not run any more."""
        if await self.keeper.saved():
            self.old.unlink(missing_ok=True)

    async def read_again(self) -> None:
        """Other hosts and names."""
        before, self.hosts = self.hosts, json.loads(self.file.read_text())
        self.orders = self.server.orders = Orders(self.settings | self.hosts)
        self.write_names()
        if self.server.mode is False and before["reserved"] != self.hosts["reserved"]:
            # It can be told to keep more, but not less.
            await self.restart()

    async def restart(self) -> None:
        """Have dnsmasq read all again: it does when it starts, and asks before (`ready`)."""
        if self.server.mode is not None:
            self.server.mode = None
            await control("try-restart", DHCP)

    def watch_clock(self) -> None:
        """Where the clock was set forward, no lease ends by that: its client does not know of it.
        dnsmasq starts anew with the ends as they are now."""
        before, self.booted = self.booted, booted()
        step = self.booted - before
        if step < CLOCK_STEP:
            return
        print(f"the clock was set forward by {step:.0f} s", flush=True)
        times = {address: self.orders.lease_time(address) for address in self.journal.facts}
        longest = {
            address: float("inf") if seconds == FOREVER else seconds
            for address, seconds in times.items()
            if seconds
        }
        self.journal.clock_went(step, time.time(), longest)
        if self.server.mode is not None:
            self.journal.is_news = True
        self.changed()

    # --- the journal has changed ------------------------------------------------------------------

    def changed(self) -> None:
        for name, wake in self.wake.items():
            if self.journal.peers[name].fresh:
                wake.set()
        self.keeper.keep()
        if not self.names_due:
            self.names_due = time.monotonic() + SETTLE

    def write_names(self) -> None:
        now = time.time()
        leases = self.journal.leases(now)
        self.next_end = min(
            (fact.until for fact in leases if fact.until != FOREVER), default=now + 3600
        )
        with self.goes_on():
            self.names_due = time.monotonic() + KEEP
            write(self.run / "hosts" / "leases", self.orders.hosts(leases))
            self.names_due = 0.0

    @contextmanager
    def goes_on(self) -> Iterator[None]:
        """What cannot be written now is tried again. Who is gone tells nobody of leases."""
        try:
            yield
            self.fault = ""
        except OSError as error:
            if not self.fault:
                print(f"dnsmasq cannot be told: {error}", flush=True)
            self.fault = str(error)

    # --- to the peers -----------------------------------------------------------------------------

    async def tell(self, name: str) -> None:
        """Keep a stream to a peer."""
        while True:
            line = None
            try:
                opened = asyncio.open_connection(
                    self.peers[name],
                    self.port,
                    limit=LONGEST_LINE,
                    local_addr=(self.address, 0),
                )
                line = Line(*await asyncio.wait_for(opened, PATIENCE))
                self.lines.add(line)
                if await line.agree(self.key, self.node, True) != name:
                    raise ConnectionError("another node")
                await self._stream(name, line)
            except (OSError, ValueError, asyncio.TimeoutError):
                pass
            finally:
                if line:
                    self.lines.discard(line)
                    line.close()
            await asyncio.sleep(2 * BEAT)

    async def _stream(self, name: str, line: Line) -> None:
        loop, wake = asyncio.get_running_loop(), self.wake[name]
        begun = self.journal.begin(name, secrets.token_hex(6), time.time(), time.monotonic())
        answers = asyncio.ensure_future(self._answers(name, line))
        try:
            await self.keeper.saved()
            for message in begun:
                await line.say(message)
            while not answers.done():
                timer = loop.call_later(BEAT, wake.set)
                await wake.wait()
                timer.cancel()
                wake.clear()
                message = self.journal.news(name, time.time(), time.monotonic())
                if message["facts"]:
                    # What a peer may believe has to be known after a crash. On a full disk it is
                    # better that the peer knows.
                    await self.keeper.saved()
                await line.say(message)
                if self.journal.peers[name].fresh:
                    wake.set()
        finally:
            answers.cancel()
            with suppress(asyncio.CancelledError, OSError, ValueError, KeyError, TypeError):
                await answers

    async def _answers(self, name: str, line: Line) -> None:
        while True:
            answer = await line.hear()
            self.journal.kept(name, answer, time.time())
            if answer["better"]:
                self.changed()

    # --- from the peers ---------------------------------------------------------------------------

    async def listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What a peer tells."""
        line, name = Line(reader, writer), ""
        self.lines.add(line)
        try:
            name = await line.agree(self.key, self.node, False)
            if name not in self.peers:
                raise ConnectionError("no peer of this node")
            self.refused.pop(name, None)
            while True:
                message = await line.hear()
                answer = self.journal.receive(name, message, time.time(), time.monotonic())
                if answer is None:
                    raise ConnectionError("out of order")
                if message["facts"]:
                    self.changed()
                # What is not kept is not said to be.
                if await self.keeper.saved():
                    await line.say(answer)
        except (OSError, ValueError, KeyError, TypeError) as error:
            if not name:
                address = writer.get_extra_info("peername")[0]
                self.refused.update((n, str(error)) for n, a in self.peers.items() if a == address)
        finally:
            self.lines.discard(line)
            line.close()

    # --- dnsmasq ----------------------------------------------------------------------------------

    def read_events(self) -> None:
        """Take what its script has written, at most once what fits into the FIFO: peers are to be
        heard between."""
        ended = False
        with suppress(BlockingIOError):
            *lines, self.unread = (self.unread + os.read(self.events, PORT_BYTES)).split(b"\n")
            self.watch_clock()
            for line in lines:
                ended = self._take(line.decode(errors="replace")) or ended
        if ended and self.server.mode is False and not self.journal.is_news:
            # A peer may not know it yet.
            with self.goes_on():
                self.server.add({})
        # Most of what dnsmasq says when it starts is known.
        if self.journal.unsaved():
            self.changed()

    def _take(self, line: str) -> bool:
        """Tell the journal; return whether a lease has ended."""
        told = event(line)
        now = time.time()
        if told is None:
            print(f"not understood of dnsmasq: {line!r}", flush=True)
            return False
        if told.action == "del":
            self.server.tells(told.address, None)
            has_ended = told.until != FOREVER and told.until <= now + 1
            self.journal.end(told.address, now, told.until if has_ended else None)
            return True
        self.server.tells(told.address, told.until)
        is_new = told.action == "add"
        self.journal.lease(told.address, told.client, told.until, told.name, now, is_new)
        return False

    async def ready(self) -> None:
        """Return when dnsmasq may start, with its orders written. Raises ValueError where it has
        stopped meanwhile."""
        self.asked += 1
        asked, end = self.asked, time.monotonic() + WAIT
        # The peers are to know before this node takes itself for in sync.
        self.journal.serves = True
        self._wake_all()
        while not self.journal.may_serve(time.monotonic()) and time.monotonic() < end:
            await asyncio.sleep(BEAT / 5)
        there = await who_is_there()
        self.ear.close()
        self._take_over()
        await self._forget_old()
        if asked != self.asked:
            raise ValueError("it has stopped again")
        self.read_events()
        in_sync = self.journal.is_in_sync(time.monotonic())
        self.journal.is_news = False
        if in_sync:
            self._end_expired()
        else:
            self._remember_requests()
        self.server.begin(in_sync, there)

    def _remember_requests(self) -> None:
        """The peer may have given what it had no time to tell. What came of older requests it has
        told: a client may have given back what it asked for, and somebody else may have it."""
        now = time.time()
        told = max((peer.said for peer in self.journal.peers.values()), default=NEVER)
        leased = {fact.address for fact in self.journal.leases(now)}
        for address, (client, name) in self.ear.take(told - TELLING).items():
            seconds = self.orders.lease_time(address)
            if seconds and address not in leased:
                until = FOREVER if seconds == FOREVER else now + seconds
                self.journal.lease(address, client, until, name, now)
        self.changed()

    async def stopped(self) -> None:
        self.asked += 1
        self.read_events()
        self.server.ended()
        self.journal.serves = False
        self._wake_all()
        await self.ear.open()

    def _wake_all(self) -> None:
        for wake in self.wake.values():
            wake.set()

    def _end_expired(self) -> None:
        """dnsmasq, which starts without them, will not say that they have ended."""
        now = time.time()
        for fact in list(self.journal.facts.values()):
            if fact.client and not fact.holds(now):
                self.journal.end(fact.address, now)
        self.changed()

    async def look_after(self) -> None:
        """Write names, and give dnsmasq other orders where something has changed."""
        if self.old.exists() and await dnsmasq_is() in ENDED:
            await self._forget_old()
        if self.server.mode is not None:
            # It has told what this one had not kept when it ended.
            await control("reload", DHCP)
        since, look, check = time.monotonic(), 0.0, 0.0
        patience = since + TAKEOVER  # it has just begun; the peers hear of it now
        while True:
            await asyncio.sleep(BEAT)
            tick = time.monotonic()
            self.watch_clock()
            for line in [line for line in self.lines if tick - line.heard > PATIENCE]:
                line.close()
            if not self.journal.is_in_sync(tick):
                since = tick
            if self.hup.is_set():
                self.hup.clear()
                await self.read_again()
            if self.server.mode is not None and tick > patience:
                is_time = tick >= look
                if is_time:
                    look = tick + LOOK
                there = await who_is_there() if is_time else None
                await self._order(tick - since, there)
            if self.journal.serves and tick >= check:
                check = tick + LOOK
                await self._notice_end()
            if (self.names_due and tick >= self.names_due) or time.time() >= self.next_end:
                self.write_names()

    async def _notice_end(self) -> None:
        """Take note where dnsmasq does not run. Who says so when it stops may have been killed, and
        two that both seem to serve are never in sync."""
        asked = self.asked
        if await dnsmasq_is() in ENDED and asked == self.asked:
            await self.stopped()

    async def _order(self, in_sync_for: float, there: dict[str, Neighbour] | None) -> None:
        """Start dnsmasq anew, or tell it more. `there`: the neighbours, if it is time for them."""
        server, is_news = self.server, self.journal.is_news
        if server.mode is None:
            return
        if server.mode:
            is_due = is_news or not in_sync_for
        else:
            # While both give addresses there is news all the time.
            is_late = time.monotonic() > server.began + self.stable
            is_news = is_news and (in_sync_for > 0 or is_late)
            is_due = is_news or in_sync_for > self.stable or server.has_other_ranges()
        if is_due:
            is_soon = time.monotonic() < server.began + max(SOON, 2 * self.stable)
            self.stable = min(2 * self.stable, MOST_STABLE) if is_soon else STABLE
            await self.restart()
        elif there is not None:
            with self.goes_on():
                server.look(there)

    # --- those who ask on this node ---------------------------------------------------------------

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One question and its answer."""
        try:
            question = json.loads(await asyncio.wait_for(reader.readline(), WAIT))
            answer = await self.answer(question)
        except (OSError, ValueError, KeyError, TypeError, asyncio.TimeoutError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        with suppress(OSError):
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def answer(self, question: Message) -> Message:
        ask = question["ask"]
        if ask == "ready":
            await self.ready()
        elif ask == "stopped":
            await self.stopped()
        elif ask == "end":
            return self.end(question["address"])
        elif ask == "list":
            return self.listing()
        else:
            raise ValueError(f"{ask} is no question")
        return {}

    def end(self, address: str) -> Message:
        """End a lease; return what it was."""
        now = time.time()
        lease = next((fact for fact in self.journal.leases(now) if fact.address == address), None)
        if lease is None:
            raise ValueError(f"nobody has a lease of {address}")
        self.journal.end(address, now)
        # dnsmasq is to forget it: here, or where the peer hears of it.
        if self.server.mode is not None:
            self.journal.is_news = True
        self.changed()
        return {"lease": shown(lease)}

    def listing(self) -> Message:
        tick = time.monotonic()
        return {
            "leases": [shown(fact) for fact in self.journal.leases(time.time())],
            "in_sync": self.journal.is_in_sync(tick),
            "serves": self.journal.serves,
            "peers": {
                name: {
                    "heard": tick - min(peer.heard, peer.said) <= IN_SYNC,
                    "refused": self.refused.get(name, ""),
                    "same_pools": peer.share in (None, self.orders.share(name)),
                }
                for name, peer in self.journal.peers.items()
            },
            "kept": self.keeper.is_idle(),
            "fault": self.keeper.fault or self.fault,
        }

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        fifo = self.run / "events"
        if not fifo.is_fifo():
            os.mkfifo(fifo, 0o600)
        # Also for writing: else it ends with each who writes into it.
        self.events = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        self.write_names()
        if self.server.mode is None:
            await self.ear.open()
        socket_file = self.run / "socket"
        servers = [await asyncio.start_unix_server(self.serve, socket_file, limit=LONGEST_LINE)]
        socket_file.chmod(0o600)
        tasks = [self.keeper.run(), self.look_after()]
        if self.peers:
            listening = listener(self.address, self.port)
            servers.append(
                await asyncio.start_server(self.listen, sock=listening, limit=LONGEST_LINE)
            )
            tasks += [self.tell(name) for name in self.peers]
        loop.add_reader(self.events, self.read_events)
        loop.add_signal_handler(signal.SIGHUP, self.hup.set)
        await asyncio.gather(*tasks, *(server.serve_forever() for server in servers))


def booted() -> float:
    """When this machine was booted, as the wall clock now says (seconds)."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def shown(fact: Fact) -> Message:
    """A lease as the others on this node are told it."""
    assert fact.client
    return {
        "address": fact.address,
        "mac": fact.client.mac,
        "identifier": fact.client.identifier,
        "name": fact.name,
        "since": fact.since,
        "until": None if fact.until == FOREVER else fact.until,
        "node": fact.node,
    }


def listener(address: str, port: int) -> socket.socket:
    """A socket at an address that may not be there yet."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.IPPROTO_IP, FREEBIND, 1)
    listening.bind((address, port))
    listening.setblocking(False)
    return listening


def main() -> None:
    """Run until it is ended."""
    settings, hosts, key, run, state = map(Path, sys.argv[1:])
    secret = key.read_bytes().strip() if key.exists() else b""
    told = json.loads(settings.read_text())
    asyncio.run(Leases(told, hosts, secret, run, state).main())


if __name__ == "__main__":
    main()
