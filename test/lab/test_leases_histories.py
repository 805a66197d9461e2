"""No address for two machines at a time, in random histories with the real dnsmasq and daemons.

Twenty histories, one after the other: who sleeps at the end of one sleeps on in the next, so that
leases end, too. There are more machines than addresses. The seed is the number of the test; a
history prints what happened, so that it can be read beside the nodes' journals.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from typing import Any

import checks
import pytest
from conftest import GATEWAYS, converge, ok, wait_for_primary
from lab import Host, Lab
from machines import Answer, Machines, machines

HISTORIES = 20
SECONDS = 22.0  # of each, before all is healed
LEASE = 120.0  # dnsmasq has no shorter one
POOL = {"pool": "10.77.0.100-10.77.0.115", "lease_time": "2m"}
CROWD = range(200, 221)
# What is given so long after a failure may be in a corner; this machine may be slow.
NOT_TOLD, NO_DAEMON = 1.5, 4.0
PATIENCE = 1.0  # of a machine; when no address is left nobody answers
HEALED = 5.0  # seconds after which nodes that hear each other know the same for sure
WITHOUT_POWER = (7, 15)  # histories in which a node loses its power; that takes long
UNHEARD = "-p tcp -m multiport --ports 3781 -j DROP"
FULL = 4096  # no file may be longer: a page of the journal's database is


@dataclass
class Held:
    """What a machine believes that it has."""

    address: str
    until: float  # time.monotonic(); counted from its question, as RFC 2131 says
    node: str
    doubtful: bool = False  # given in one of the corners of docs/internals.md


@dataclass
class Broken:
    """Something that has failed, until then (time.monotonic())."""

    what: str
    until: float
    stack: ExitStack


@dataclass
class World:
    """The machines, and what is broken."""

    lab: Lab
    crowd: Machines
    held: dict[int, Held] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    doubts: list[tuple[float, float]] = field(default_factory=list)  # from when until when
    excused: int = 0
    apart: float = 0.0  # when the nodes did not hear each other for the last time
    counts: dict[str, int] = field(default_factory=dict)

    def say(self, text: str) -> None:
        now = datetime.now(timezone.utc).strftime("%H:%M:%S.%f")[:-3]
        print(f"{now} {text}", flush=True)

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def has(self, number: int) -> Held | None:
        """The lease of a machine while it lasts."""
        held = self.held.get(number)
        return held if held and held.until > time.monotonic() else None

    def act(self, what: str, numbers: list[int]) -> None:
        """Have machines do something together, and look at what came of it."""
        began = time.monotonic()
        if what in ("release", "decline"):
            for number in numbers:
                del self.held[number]
        answers = self.crowd.do(what, numbers, PATIENCE)
        for number, answer in answers.items():
            self.count(f"{what} {'given' if answer.address else 'not given'}")
            said = {None: "-", "": "refused"}.get(answer.address, answer.address)
            self.say(f"{what} {number}: {said} {answer.server[-1:]}")
        for number, answer in sorted(answers.items(), key=lambda item: item[1].seconds):
            if answer.address:
                self._given(number, answer, began)
            elif answer.address == "":
                if (lost := self.has(number)) and self.is_known(lost):
                    self.refused.append(f"{what} {number}: {lost.address}")
                self.held.pop(number, None)

    def is_known(self, held: Held) -> bool:
        """Whether both nodes know of a lease for sure: they heard each other since, and before."""
        now = time.monotonic()
        if any(each.what in APART for each in self.broken):
            self.apart = now
        given = held.until - LEASE
        return not held.doubtful and given > self.apart + HEALED and now > given + 1

    def _given(self, number: int, answer: Answer, began: float) -> None:
        assert answer.address
        now, old = time.monotonic(), self.held.get(number)
        is_same = bool(old and old.address == answer.address)
        doubtful = bool(is_same and old and old.doubtful) or any(
            start < now and began < end for start, end in self.doubts
        )
        new = self.held[number] = Held(answer.address, began + LEASE, answer.server, doubtful)
        for other, held in self.held.items():
            if other != number and held.address == answer.address and held.until > now:
                text = (
                    f"{answer.address}: {other} has it of {held.node} for"
                    f" {held.until - now:.0f} s more, {number} got it of {answer.server}"
                )
                excused = doubtful or held.doubtful
                self.say(f"{'twice, in a corner' if excused else 'TWICE'}: {text}")
                self.excused += excused
                self.twice += [] if excused else [text]
                new.doubtful = held.doubtful = True

    def doubt(self, what: str, seconds: float) -> None:
        """Something fails now, for so long. What is given next may be in a corner."""
        now = time.monotonic()
        if what in CABLES or what == "unheard":
            for held in self.held.values():
                held.doubtful |= held.until - LEASE > now - NOT_TOLD
            self.doubts.append((now, now + NOT_TOLD))
        elif what == "killed":
            self.doubts.append((now, now + NO_DAEMON))
        elif what == "full_disk":
            self.doubts.append((now, now + seconds + NOT_TOLD))

    def step(self, chance: random.Random) -> None:
        """Something that one or a few machines do."""
        awake = chance.sample(CROWD, chance.choice([1, 1, 2, 4]))
        have = [number for number in awake if self.has(number)]
        old = [number for number in awake if number in self.held and number not in have]
        none = [number for number in awake if number not in self.held]
        kinds = ["renew", "reboot", "new", "release", "decline"]
        if have:
            self.act(chance.choices(kinds, [8, 5, 2, 4, 0.3])[0], have)
        if old:
            self.act(chance.choice(["reboot", "new"]), old)
        if none:
            self.act("new", none)


# --- what fails ---------------------------------------------------------------------------------


@contextmanager
def cut_off(lab: Lab, node: str) -> Iterator[None]:
    lab.isolate(node)
    try:
        yield
    finally:
        lab.rejoin(node)


@contextmanager
def parted(lab: Lab, _: str) -> Iterator[None]:
    """Both answer, and each machine hears both."""
    lab.part(*GATEWAYS)
    try:
        yield
    finally:
        lab.part(*GATEWAYS, apart=False)


@contextmanager
def unheard(lab: Lab, node: str) -> Iterator[None]:
    """The daemons do not hear each other, all else does."""
    lab.host(node).run(f"iptables -t raw -I PREROUTING {UNHEARD}")
    try:
        yield
    finally:
        lab.host(node).run(f"iptables -t raw -D PREROUTING {UNHEARD}")


@contextmanager
def handed_over(lab: Lab, node: str) -> Iterator[None]:
    lab.host(node).run("systemctl stop keepalived")
    try:
        yield
    finally:
        lab.host(node).run("systemctl start keepalived")


@contextmanager
def full_disk(lab: Lab, node: str) -> Iterator[None]:
    """What the daemon keeps for ever does not get longer."""
    limit = "systemctl show -P MainPID gateway-leases | xargs -r prlimit --fsize={}: --pid"
    lab.host(node).run(limit.format(FULL), check=False)
    try:
        yield
    finally:
        lab.host(node).run(limit.format("unlimited"), check=False)


@contextmanager
def killed(lab: Lab, node: str) -> Iterator[None]:
    lab.host(node).run("systemctl kill --signal=KILL gateway-leases")
    yield


@contextmanager
def without_dnsmasq(lab: Lab, node: str) -> Iterator[None]:
    lab.host(node).run("systemctl kill --signal=KILL gateway-dhcp", check=False)
    yield


@contextmanager
def without_power(lab: Lab, node: str) -> Iterator[None]:
    lab.host(node).kill()
    try:
        yield
    finally:
        lab.host(node).start()


Failure = Callable[[Lab, str], Any]
FAILURES: list[Failure] = [
    cut_off,
    cut_off,
    parted,
    parted,
    unheard,
    handed_over,
    full_disk,
    killed,
    killed,
    without_dnsmasq,
]


# One at a time: all of them are about the same cables.
CABLES = {"cut_off", "parted", "without_power"}
APART = {*CABLES, "unheard", "full_disk"}


# --- histories ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(lab: Lab) -> Iterator[World]:
    """A small pool with short leases, and machines that outlive a test."""
    converge(lab)
    lab.set_pillar({"gateway": {"dhcp": POOL}})
    ok(lab.apply())
    wait_for_primary(lab)
    assert checks.eventually(partial(in_sync, lab), all, 30) == [True, True]
    with machines(lab.host("backend01")) as crowd:
        yield World(lab, crowd)
    lab.set_pillar({})
    converge(lab)


def listing(host: Host) -> dict[str, Any]:
    """What the daemon of a node says."""
    said = host.run(["/usr/lib/gateway/ask-leases", "list"], check=False).stdout
    found: dict[str, Any] = json.loads(said or "{}")
    return found


def known(lab: Lab, node: str) -> dict[str, str]:
    """MAC addresses by addresses, without the backend's own."""
    leases = listing(lab.host(node)).get("leases", [])
    return {each["address"]: each["mac"] for each in leases if each["address"] != checks.BACKEND}


def in_sync(lab: Lab) -> list[bool]:
    return [listing(lab.host(name)).get("in_sync", False) for name in GATEWAYS]


def breaks(world: World, chance: random.Random, failures: list[Failure], end: ExitStack) -> None:
    """Something fails, for some seconds."""
    failure, node = chance.choice(failures), chance.choice(GATEWAYS)
    what = failure.__name__
    now = {each.what for each in world.broken}
    if what in now or (what in CABLES and now & CABLES):
        return
    if now and "without_power" in {what, *now}:
        return  # the other one would be about a node that is off, or gone with it
    world.say(f"{what} {node}")
    world.count(what)
    stack = end.enter_context(ExitStack())
    stack.callback(world.say, f"{what} {node}: no more")
    seconds = chance.choice([0.3, 1, 3, 6])
    world.broken.append(Broken(what, time.monotonic() + seconds, stack))
    world.doubt(what, seconds)
    stack.enter_context(failure(world.lab, node))
    failures[:] = FAILURES


def play(world: World, chance: random.Random, failures: list[Failure]) -> None:
    """One history: things fail and are whole again while machines come and go."""
    end = time.monotonic() + SECONDS
    with ExitStack() as at_the_end:
        at_the_end.callback(world.broken.clear)
        while time.monotonic() < end:
            for each in [each for each in world.broken if each.until < time.monotonic()]:
                each.stack.close()
                if each.what in APART:
                    world.apart = time.monotonic()
                world.broken.remove(each)
            if len(world.broken) < 2 and chance.random() < 0.35:
                breaks(world, chance, failures, at_the_end)
            world.step(chance)
            time.sleep(chance.choice([0, 0, 0.2, 0.5]))
    world.apart = time.monotonic()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, HISTORIES + 1))
def test_no_address_twice_in_a_random_history(world: World, seed: int) -> None:
    chance = random.Random(seed)
    began = time.monotonic()
    world.twice, world.refused, world.counts, world.excused = [], [], {}, 0
    failures: list[Failure] = [without_power] if seed in WITHOUT_POWER else [*FAILURES]
    play(world, chance, failures)
    wait_for_primary(world.lab)
    healed = checks.eventually(partial(in_sync, world.lab), all, 30)
    assert healed == [True, True]
    one = checks.eventually(
        lambda: [known(world.lab, name) for name in GATEWAYS], lambda both: both[0] == both[1], 5
    )
    print(f"seed {seed}: {time.monotonic() - began:.0f} s, {world.excused} in a corner,", end=" ")
    print(world.counts, world.refused)
    twice, world.held = world.twice, {} if world.twice else world.held
    assert twice == []
    assert one[0] == one[1]
    wanted = {
        held.address: number
        for number, held in world.held.items()
        if world.has(number) and not held.doubtful
    }
    assert wanted.keys() <= one[0].keys()
    # Everybody keeps what it has.
    world.apart = float("-inf")
    world.act("renew", list(wanted.values()))
    assert world.refused == []
