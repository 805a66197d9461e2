"""Leases that both gateways know: no address twice, the same one after a failover, and the name."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import checks
import pytest
from conftest import GATEWAYS, converge, wait_for_primary
from lab import Lab
from machines import Answer, Machines, machines
from test_failover import primary_cut_off

SLEEPERS = range(1, 46)
STRANGERS = range(101, 146)
LATEST = 60  # answered, and at once the node is gone
NAMED, SECOND = 70, 71
SHARES = {"gw1": range(100, 150), "gw2": range(150, 200)}  # the last byte


@pytest.fixture
def crowd(site: Lab) -> Iterator[Machines]:
    """Machines without an address; afterwards no lease of theirs is left."""
    in_sync(site)
    with machines(site.host("backend01")) as crowd:
        yield crowd
    forget(site)


def in_sync(lab: Lab) -> None:
    """Return when both nodes know the same, and gw1 gives addresses."""

    def state() -> list[Any]:
        status = lab.salt("gw*", "gateway.status")
        return [status[name].get("leases", {}).get("in_sync") for name in GATEWAYS]

    wait_for_primary(lab)
    assert checks.eventually(state, lambda now: now == [True, True], 30) == [True, True]
    told = partial(lab.host("gw1").run, "cat /run/gateway-leases/serving", check=False)
    assert (
        checks.eventually(lambda: told().stdout, lambda now: now == "in sync\n", 40) == "in sync\n"
    )


def forget(lab: Lab) -> None:
    """Both forget all leases but the backend's."""
    for name in GATEWAYS:
        lab.host(name).run("systemctl stop gateway-dhcp gateway-leases")
        # Who was there without a lease a moment ago keeps its address.
        lab.host(name).run("rm /var/lib/gateway/leases.db*; ip neigh flush dev eth0")
    for name in GATEWAYS:
        lab.host(name).run("systemctl start gateway-leases")
    lab.host("gw1").run("systemctl start gateway-dhcp")
    lab.host("backend01").run("systemctl restart lab-dhcp")


def known(lab: Lab, node: str) -> dict[str, str]:
    """What a node knows: MAC addresses by addresses."""
    return {each["address"]: each["mac"] for each in lab.salt(node, "gateway.leases")[node]}


def took_over(lab: Lab, node: str) -> float:
    """When a node became the primary (seconds since 1970)."""
    role, since = lab.host(node).run("cat /run/gateway/role").stdout.split()
    assert role == "primary"
    return float(since)


@contextmanager
def without_power(lab: Lab) -> Iterator[None]:
    """The primary has no power; at the end it has it again."""
    lab.host("gw1").kill()
    try:
        yield
    finally:
        lab.host("gw1").start()
        lab.wait_minions()
        converge(lab)


def addresses(crowd: Machines, numbers: Iterable[int]) -> dict[int, str | None]:
    return {number: crowd.leases[number].address for number in numbers}


@pytest.mark.parametrize(
    "death",
    [
        pytest.param(primary_cut_off, id="cut off", marks=pytest.mark.core),
        pytest.param(without_power, id="without power", marks=pytest.mark.long),
    ],
)
def test_no_address_twice_when_the_primary_is_lost(site: Lab, crowd: Machines, death: Any) -> None:
    """45 that sleep keep their addresses, 45 that come get others. Who got an address in the last
    moment keeps it too."""
    crowd.do("new", [*SLEEPERS, LATEST])
    asleep, latest = addresses(crowd, SLEEPERS), crowd.do("reboot", [LATEST])[LATEST]
    newest = crowd.do("new", [LATEST + 1])[LATEST + 1]
    with death(site):
        began = time.time()
        first = crowd.do("new", [STRANGERS[0]], 10)[STRANGERS[0]]
        waited = began + first.seconds - took_over(site, "gw2")
        print(f"first new lease {waited:.3f} s after the takeover")
        assert (first.server, bool(first.address)) == ("10.77.0.3", True)
        again = crowd.do("reboot", [LATEST, LATEST + 1])
        assert [each.address for each in again.values()] == [latest.address, newest.address]
        strangers = crowd.do("new", STRANGERS[1:])
        given = {first.address, *(answer.address for answer in strangers.values())}
        assert len(given) == len(STRANGERS)
        assert None not in given
        assert not given & {latest.address, newest.address, *asleep.values()}
        for what in ("renew", "reboot"):
            kept = crowd.do(what, SLEEPERS)
            assert {number: answer.address for number, answer in kept.items()} == asleep
    in_sync(site)
    everybody = addresses(crowd, [*SLEEPERS, *STRANGERS, LATEST, LATEST + 1])
    for what in ("renew", "reboot"):
        kept = crowd.do(what, everybody)
        assert {number: answer.address for number, answer in kept.items()} == everybody
        assert {answer.server for answer in kept.values()} == {"10.77.0.2"}
    assert known(site, "gw1") == known(site, "gw2")


def test_both_answer_and_give_of_their_own(site: Lab, crowd: Machines) -> None:
    """They do not hear each other, and every machine hears both."""
    crowd.do("new", SLEEPERS[:10])
    asleep = addresses(crowd, SLEEPERS[:10])
    site.part(*GATEWAYS)
    try:
        both = checks.eventually(partial(checks.holders, site), lambda on: len(on) == 2, 10)
        assert both == ["gw1", "gw2"]
        time.sleep(3)  # both have taken note
        strangers: dict[int, Answer] = {}
        for name, numbers in (("gw1", STRANGERS[:15]), ("gw2", STRANGERS[15:30])):
            answers = crowd.do("new", numbers, server=checks.INTERNAL[name])
            for answer in answers.values():
                assert answer.address
                assert int(answer.address.rpartition(".")[2]) in SHARES[name]
            strangers |= answers
        given = {answer.address for answer in strangers.values()}
        assert len(given) == 30
        assert not given & set(asleep.values())
        kept = crowd.do("renew", asleep)
        assert {number: answer.address for number, answer in kept.items()} == asleep
    finally:
        site.part(*GATEWAYS, apart=False)
    in_sync(site)
    everybody = addresses(crowd, [*asleep, *STRANGERS[:30]])
    kept = crowd.do("renew", everybody)
    assert {number: answer.address for number, answer in kept.items()} == everybody
    assert known(site, "gw1") == known(site, "gw2")


def test_a_hand_over_loses_nothing(site: Lab, crowd: Machines) -> None:
    """Machines come one after the other while the virtual IP goes to gw2 and back; each gets an
    address, none gets another's, and both nodes know all."""
    given: dict[int, str | None] = {}

    def come(numbers: Iterable[int]) -> None:
        for number in numbers:
            given[number] = crowd.do("new", [number], 10)[number].address

    come(range(1, 6))
    drained = site.host("master").spawn("salt gw1 gateway.drain")
    try:
        come(range(6, 26))
        assert drained.communicate(timeout=60)[1] == ""
        assert checks.holders(site) == ["gw2"]
        come(range(26, 31))
    finally:
        site.salt("gw1", "gateway.undrain")
    come(range(31, 41))
    in_sync(site)
    come(range(41, 46))
    assert None not in given.values()
    assert len(set(given.values())) == len(given)
    assert set(given.values()) <= known(site, "gw1").keys()
    assert known(site, "gw1") == known(site, "gw2")


def names(lab: Lab, name: str, address: str) -> list[tuple[str, str]]:
    """What each gateway says of a name and of an address."""
    backend = lab.host("backend01")
    return [
        (
            checks.resolve(backend, name, server),
            checks.resolve(backend, address, server, "PTR"),
        )
        for server in checks.INTERNAL.values()
    ]


@pytest.mark.core
def test_names_of_clients(site: Lab, crowd: Machines) -> None:
    """They come and go with the lease, on both nodes. Nobody takes another's name, nor one of the
    registry's."""
    name = "laptop.example.internal"
    crowd.names = {NAMED: "Laptop", SECOND: "laptop", 72: "www", 73: "*", 74: "evil host\nx"}
    address = crowd.do("new", [NAMED])[NAMED].address
    assert address
    ask = partial(names, site, name, address)
    there = [(address, f"{name}.")] * 2
    assert checks.eventually(ask, lambda now: now == there, 2) == there
    crowd.do("new", [SECOND, 72, 73, 74])
    time.sleep(1)
    assert ask() == there
    backend = site.host("backend01")
    for server in checks.INTERNAL.values():
        assert checks.resolve(backend, "www.example.internal", server) == checks.BACKEND
        for number in (72, 73, 74):
            other = crowd.leases[number].address
            assert other
            assert checks.resolve(backend, other, server, "PTR") == ""
    second = crowd.leases[SECOND].address
    crowd.do("release", [NAMED])
    gone = [(second, ""), (second, "")]
    assert checks.eventually(ask, lambda now: now == gone, 2) == gone


def test_the_daemon_is_killed(site: Lab, crowd: Machines) -> None:
    """What it had not written down it asks dnsmasq for; meanwhile clients are answered."""
    crowd.do("new", SLEEPERS[:5])
    gw1 = site.host("gw1")
    gw1.run("systemctl kill --signal=KILL gateway-leases")
    crowd.do("new", SLEEPERS[5:10])
    gw1.run("systemctl kill --signal=KILL gateway-leases; rm /var/lib/gateway/leases.db*")
    in_sync(site)
    wanted = set(addresses(crowd, SLEEPERS[:10]).values())
    for name in GATEWAYS:
        has = checks.eventually(partial(known, site, name), lambda now: wanted <= now.keys(), 10)
        assert wanted <= has.keys()


def test_a_lease_is_ended(site: Lab, crowd: Machines) -> None:
    """By the other node, too: the name goes, and the next one who comes can have the address."""
    crowd.names = {NAMED: "laptop"}
    address = crowd.do("new", [NAMED])[NAMED].address
    assert address
    said = site.salt("gw2", "gateway.lease_end", address)["gw2"]
    assert said.startswith(f"{address} of {crowd.leases[NAMED].mac} (laptop)")
    for name in GATEWAYS:
        now = checks.eventually(partial(known, site, name), lambda now: address not in now, 5)
        assert address not in now
    gone = [("", "")] * 2
    ask = partial(names, site, "laptop.example.internal", address)
    assert checks.eventually(ask, lambda now: now == gone, 2) == gone
    assert checks.eventually(
        lambda: crowd.do("reboot", [NAMED])[NAMED].address, lambda now: now == address, 5
    )
    refused = site.salt("gw1", "gateway.lease_end", "10.77.0.199")["gw1"]
    assert "nobody has a lease of 10.77.0.199" in refused


def test_nobody_else_tells_leases(site: Lab) -> None:
    """A machine of the internal network does not get to the port, and knows no key."""
    backend = site.host("backend01")
    for address in checks.INTERNAL.values():
        asked = backend.run(["nc", "-z", "-w", "2", address, "3781"], check=False)
        assert asked.returncode
