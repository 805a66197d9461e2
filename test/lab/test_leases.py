"""Leases that both gateways know: no address twice, the same one after a failover, and the name."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import checks
import pytest
from conftest import GATEWAYS, converge, secondary_in_charge, wait_for_primary
from lab import Lab
from machines import Machines, machines

SLEEPERS = range(1, 46)
STRANGERS = range(101, 146)
LATEST = 60  # answered, and at once without power


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


def forget(lab: Lab) -> None:
    """Both forget all leases but the backend's."""
    for name in GATEWAYS:
        lab.host(name).run("systemctl stop gateway-leases; rm /var/lib/gateway/leases.db*")
    for name in GATEWAYS:
        lab.host(name).run("systemctl start gateway-leases")
    lab.host("gw1").run("systemctl restart gateway-dhcp")
    lab.host("backend01").run("systemctl restart lab-dhcp")


def leases(lab: Lab, node: str) -> dict[str, dict[str, str]]:
    """What a node knows, by address."""
    return {each["address"]: each for each in lab.salt(node, "gateway.leases")[node]}


def took_over(lab: Lab, node: str) -> float:
    """When a node became the primary (seconds since 1970)."""
    role, since = lab.host(node).run("cat /run/gateway/role").stdout.split()
    assert role == "primary"
    return float(since)


@contextmanager
def without_power(lab: Lab, node: str) -> Iterator[None]:
    """A node vanishes, and comes back at the end."""
    lab.host(node).kill()
    try:
        yield
    finally:
        lab.host(node).start()
        lab.wait_minions()
        converge(lab)


@pytest.mark.core
def test_no_address_twice_when_the_primary_loses_its_power(site: Lab, crowd: Machines) -> None:
    """Of 45 that sleep each keeps its address, and 45 that come get others; the first within a
    second of the takeover. So does who got an address in the last moment."""
    asleep = crowd.do("new", SLEEPERS)
    assert all(answer.address for answer in asleep.values())
    latest = crowd.do("new", [LATEST])[LATEST]
    with without_power(site, "gw1"):
        began = time.time()
        first = crowd.do("new", [STRANGERS[0]])[STRANGERS[0]]
        waited = began + first.seconds - took_over(site, "gw2")
        print(f"first new lease {waited:.3f} s after the takeover")
        assert first.address
        assert first.server == "10.77.0.3"
        assert waited < 1
        again = crowd.do("reboot", [LATEST])[LATEST]
        assert again.address == latest.address
        strangers = crowd.do("new", STRANGERS[1:])
        given = [answer.address for answer in (first, *strangers.values())]
        taken = {answer.address for answer in (latest, *asleep.values())}
        assert not taken & set(given)
        assert len(set(given)) == len(STRANGERS)
        for what in ("renew", "reboot"):
            kept = crowd.do(what, SLEEPERS)
            assert {n: a.address for n, a in kept.items()} == {
                n: a.address for n, a in asleep.items()
            }
