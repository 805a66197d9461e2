"""What everybody notices while something breaks: one observation with many eyes.

From entry to exit of `with Observation(lab) as seen:` these run side by side, all on the clock that
the machines of the lab share (time.monotonic()):

- a datagram each millisecond from the backend through NAT to the internet and back;
- TCP sessions on the same way;
- a DNS question each 10 ms to the virtual IP;
- on each gateway, the kernel's own report of who has the virtual IPs;
- on the LAN, a witness: who answers ARP for the virtual IP (10 ms), who offers a lease (200 ms);
- where there are further networks, a datagram each 10 ms from each of them (crowd.py);
- if wished, an intruder: the internet sends datagrams to the backend by either gateway (5 ms), and
  the backend counts what it gets.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import checks
from crowd import Cards, CrowdProbe, CrowdResult
from lab import (
    GATEWAYS,
    TOPOLOGY,
    Host,
    Lab,
    Outage,
    ProbeResult,
    SessionsResult,
    first_line,
    last_words,
)

WITNESS = Path(__file__).parent / "files" / "lab" / "witness.py"
WITNESS_MAC = "02:00:00:00:00:fe"
NAME = "www.example.internal"
INTRUDER = ["python3", "/usr/local/lib/lab/intruder.py"]
INTRUDER_PORT = "4444"
FOREVER = float("inf")


# --- who has it, over time ----------------------------------------------------------------------


@dataclass(frozen=True)
class Span:
    """From `start` until `end` (seconds) these had it."""

    start: float
    end: float
    who: tuple[str, ...]

    @property
    def ms(self) -> float:
        return (self.end - self.start) * 1000


class Timeline:
    """Who had something, without gaps from the first to the last moment."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self.spans: list[Span] = []
        for span in spans:
            if span.end <= span.start:
                continue
            if self.spans and self.spans[-1].who == span.who:
                self.spans[-1] = Span(self.spans[-1].start, span.end, span.who)
            else:
                self.spans.append(span)

    @classmethod
    def of_changes(
        cls, changes: list[tuple[float, str, bool]], start: float, end: float
    ) -> Timeline:
        """Return it from changes: when, who, whether it has it from then on."""
        have: set[str] = set()
        spans = []
        last = start
        for when, who, has in sorted(changes, key=lambda change: change[0]):
            spans.append(Span(last, min(max(when, start), end), tuple(sorted(have))))
            last = max(min(when, end), last)
            (have.add if has else have.discard)(who)
        spans.append(Span(last, end, tuple(sorted(have))))
        return cls(spans)

    def between(self, since: float, until: float) -> Timeline:
        """Return a part of it."""
        return Timeline(Span(max(s.start, since), min(s.end, until), s.who) for s in self.spans)

    def longest_ms(self, matches: Callable[[int], bool]) -> float:
        """Return the longest time in ms, 0 for none, with a number of holders that matches."""
        parts = Timeline(Span(s.start, s.end, ("yes",) * matches(len(s.who))) for s in self.spans)
        return max((span.ms for span in parts.spans if span.who), default=0.0)

    @property
    def nobody_ms(self) -> float:
        return self.longest_ms(lambda count: count == 0)

    @property
    def several_ms(self) -> float:
        return self.longest_ms(lambda count: count > 1)

    @property
    def moves(self) -> int:
        """How often somebody came to have it, for how short a time ever."""
        return sum(len(set(after.who) - set(before.who)) for before, after in pairwise(self.spans))

    def text(self, zero: float) -> str:
        """Return it in ms since `zero`: "gw1 -1203, none 1203-1490, gw2 1490-"."""
        last = len(self.spans) - 1
        return ", ".join(
            f"{'+'.join(span.who) or 'none'} "
            f"{'' if number == 0 else f'{(span.start - zero) * 1000:.0f}'}-"
            f"{'' if number == last else f'{(span.end - zero) * 1000:.0f}'}"
            for number, span in enumerate(self.spans)
        )


class Holder:
    """What one gateway's kernel says of the virtual IPs it has, through power cuts and boots."""

    def __init__(self, host: Host, addresses: tuple[str, ...]) -> None:
        self.host, self.addresses = host, addresses
        self.changes: list[tuple[float, frozenset[str]]] = []
        self._ended = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._ended.is_set():
            command = ["python3", "/usr/local/lib/lab/watch.py", *self.addresses]
            self._process = process = self.host.spawn(command)
            assert process.stdout
            for line in process.stdout:
                change = json.loads(line)
                self.changes.append((change["time"], frozenset(change["held"])))
            process.wait()
            if not self._ended.is_set():
                self.off()
                self._ended.wait(0.2)

    def off(self) -> None:
        """Note that the machine has been switched off just now."""
        self.changes.append((time.monotonic(), frozenset()))

    def held(self) -> frozenset[str]:
        """Return what it has now."""
        return self.changes[-1][1] if self.changes else frozenset()

    def end(self) -> None:
        """Let the watcher on the host end."""
        self._ended.set()
        if self._process and self._process.stdin:
            with suppress(OSError):
                self._process.stdin.close()
        self._thread.join(5)


def spans_of_answers(answers: list[tuple[float, set[str]]], hold: float) -> Timeline:
    """Return who answered over time; an answer counts for `hold` seconds or until the next."""
    spans = []
    for (when, who), (following, _) in pairwise([*answers, (FOREVER, set())]):
        spans.append(Span(when, min(following, when + hold), tuple(sorted(who))))
    return Timeline(spans)


# --- the observation ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """What was seen from `start` to `end`."""

    start: float
    end: float
    datagrams: ProbeResult
    questions: ProbeResult
    sessions: SessionsResult | None
    holders: dict[str, Timeline]  # of each virtual IP
    arp: Timeline  # who answered for the internal virtual IP, in steps of 50 ms
    dhcp: Timeline  # who offered a lease
    reached: int | None  # datagrams of the intruder that a host inside got
    crowd: CrowdResult | None  # where there are further networks

    def lost(self, since: float = 0.0, until: float = FOREVER) -> int:
        """Return how many datagrams were lost in outages that began in this time."""
        return sum(o.lost for o in self._outages(self.datagrams, since, until))

    def outage_ms(self, since: float = 0.0, until: float = FOREVER) -> float:
        """Return the longest outage that began in this time, 0 for none."""
        return max((o.ms for o in self._outages(self.datagrams, since, until)), default=0.0)

    def total_ms(self, since: float = 0.0, until: float = FOREVER) -> float:
        """Return the sum of the outages that began in this time."""
        return sum(o.ms for o in self._outages(self.datagrams, since, until))

    def dns_ms(self, since: float = 0.0, until: float = FOREVER) -> float:
        """Return the longest time without an answer of the DNS server."""
        return max((o.ms for o in self._outages(self.questions, since, until)), default=0.0)

    @staticmethod
    def _outages(result: ProbeResult, since: float, until: float) -> list[Outage]:
        return [o for o in result.all_outages if since <= o.start < until]


class Observation:
    """See above. `sessions` is how many TCP sessions, 0 for none; `cards` are those of further
    networks, in which a crowd is."""

    def __init__(
        self,
        lab: Lab,
        sessions: int = 200,
        addresses: tuple[str, ...] = (checks.VIRTUAL_IP,),
        seconds: float = 500,
        intruder: bool = False,
        cards: Cards | None = None,
    ) -> None:
        self.lab = lab
        self._crowd = CrowdProbe(cards, seconds) if cards else None
        self._intruder = intruder
        self._reached: int | None = None
        self.addresses = addresses
        self._stack = ExitStack()
        self._sessions = lab.sessions(sessions, seconds=seconds) if sessions else None
        self._datagrams = lab.probe(seconds=seconds)
        self._questions = lab.questions(NAME, checks.VIRTUAL_IP, seconds=seconds)
        self.holders = {name: Holder(lab.host(name), addresses) for name in GATEWAYS}
        self._record: Record | None = None

    def __enter__(self) -> Observation:
        with ExitStack() as stack:
            self._witness = self._start_witness(stack)
            if self._intruder:
                self._start_intruder(stack)
            for holder in self.holders.values():
                stack.callback(holder.end)
            if self._sessions:
                stack.enter_context(self._sessions)
            if self._crowd:
                stack.enter_context(self._crowd)
            stack.enter_context(self._questions)
            stack.enter_context(self._datagrams)
            self._stack = stack.pop_all()
        self.start = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end = time.monotonic()
        self._stack.__exit__(kind, error, trace)

    def masters(self, address: str = checks.VIRTUAL_IP) -> list[str]:
        """Return who has a virtual IP now."""
        return [name for name, holder in self.holders.items() if address in holder.held()]

    @property
    def record(self) -> Record:
        """What was seen, after the end."""
        if not self._record:
            arp, dhcp = self._parse_witness()
            self._record = Record(
                self.start,
                self.end,
                self._datagrams.result,
                self._questions.result,
                self._sessions.result if self._sessions else None,
                {address: self._timeline(address) for address in self.addresses},
                arp.between(self.start, self.end),
                dhcp.between(self.start, self.end),
                self._reached,
                self._crowd.result if self._crowd else None,
            )
        return self._record

    def _timeline(self, address: str) -> Timeline:
        changes = [
            (when, name, address in held)
            for name, holder in self.holders.items()
            for when, held in holder.changes
        ]
        return Timeline.of_changes(changes, self.start, self.end)

    def _start_witness(self, stack: ExitStack) -> subprocess.Popen[str]:
        prefix = stack.enter_context(self.lab.tap("lan", WITNESS_MAC))
        arguments = ["tap", checks.VIRTUAL_IP, checks.BACKEND_MAC]
        pipe = subprocess.PIPE
        command = [*prefix, sys.executable, str(WITNESS), *arguments]
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        first_line(process, "witness")
        stack.callback(self._end_witness, process)
        return process

    def _start_intruder(self, stack: ExitStack) -> None:
        macs = [TOPOLOGY[name].ports[1].mac for name in GATEWAYS]
        counting = self.lab.host("backend01").spawn([*INTRUDER, "count", INTRUDER_PORT])
        stack.callback(self._end_intruder, counting)
        target = ["eth0", checks.BACKEND, INTRUDER_PORT]
        sending = self.lab.host("internet").spawn([*INTRUDER, "send", *target, *macs])
        stack.callback(sending.communicate, timeout=10)
        for process in (counting, sending):
            first_line(process, "intruder")

    def _end_intruder(self, counting: subprocess.Popen[str]) -> None:
        self._reached = int(last_words(counting, "intruder", 10))

    def _end_witness(self, process: subprocess.Popen[str]) -> None:
        self._heard = last_words(process, "witness", 10)

    def _parse_witness(self) -> tuple[Timeline, Timeline]:
        heard = json.loads(self._heard)
        cards = {TOPOLOGY[name].ports[0].mac: name for name in GATEWAYS}
        servers = {address: name for name, address in checks.INTERNAL.items()}
        steps: dict[int, set[str]] = {}
        for when, mac in heard["arp"]:
            steps.setdefault(int(when / 0.05), set()).add(cards.get(mac, mac))
        answers = [(step * 0.05, who) for step, who in sorted(steps.items())]
        offers = [(when, {servers.get(s, s) for s in who}) for when, who in heard["dhcp"]]
        return spans_of_answers(answers, 0.1), spans_of_answers(offers, 0.4)
