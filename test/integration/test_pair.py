"""What a user notices of the pair: real VRRP, a failover and the way back."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from kitchen_site import VIRTUAL_IP, Gateway, Neighbour, eventually, in_charge
from test_gateway import BACKEND, BACKEND_MAC, INTERNET, NAT_ADDRESS

# The demo measures 0.3 s. A busy machine and the questions themselves take more.
OUTAGE = 3.0


@pytest.mark.parametrize(("name", "network"), [("gw1", "10.8.1.0/24"), ("gw2", "10.8.0.0/24")])
def test_each_reaches_the_vpn_of_the_other_through_it(
    gateways: dict[str, Gateway], name: str, network: str
) -> None:
    peer = next(gateway for gateway in gateways.values() if gateway.name != name)
    route = gateways[name].host.check_output(f"ip route get {network.replace('0/24', '1')}")
    assert f"via {peer.internal} dev lan0" in route


def test_each_says_the_same_of_the_site(gateways: dict[str, Gateway]) -> None:
    assert len({gateway.salt("gateway.digest") for gateway in gateways.values()}) == 1


def outage(backend: Neighbour, during: Callable[[], None]) -> float:
    """How long the internet was away from the backend, in seconds, from `during` on for 8 s."""
    said: list[str] = []
    ask = f"sh -c 'ping -D -n -i 0.05 -w 9 {INTERNET}; date +[%s.%N]'"
    asking = threading.Thread(target=lambda: said.append(backend.run(ask)))
    asking.start()
    time.sleep(1)
    during()
    asking.join()
    *lines, end = said[0].splitlines()
    answers = [line for line in lines if " from " in line]
    assert answers, said[0]
    # To the end as well: it may not have come back.
    times = [float(line[1 : line.index("]")]) for line in [*answers, end]]
    return max(after - before for before, after in itertools.pairwise(times))


@pytest.fixture(scope="module")
def primary_gone(
    backend: Neighbour, internet: Neighbour, gw1: Gateway, gw2: Gateway
) -> Iterator[float]:
    """gw1 vanishes, for all tests that ask for it: how long the internet was away then."""
    in_charge(gw1)
    try:
        yield outage(backend, lambda: gw1.set_cables("down"))
    finally:
        gw1.set_cables("up")
        in_charge(gw1)


def test_the_primary_vanishes_and_the_internet_is_soon_back(primary_gone: float) -> None:
    assert 0.05 < primary_gone < OUTAGE


def test_the_secondary_has_the_virtual_ip(primary_gone: float, gw2: Gateway) -> None:
    assert gw2.has(VIRTUAL_IP)


def test_the_secondary_answers_names(primary_gone: float, backend: Neighbour) -> None:
    assert backend.resolve("www.example.internal", VIRTUAL_IP) == BACKEND


def test_the_secondary_alone_offers_leases(
    primary_gone: float, backend: Neighbour, gw2: Gateway
) -> None:
    assert backend.offers(BACKEND_MAC) == [(gw2.internal, BACKEND)]


def test_the_secondary_translates(
    primary_gone: float, backend: Neighbour, internet: Neighbour, gw2: Gateway
) -> None:
    address = gw2.public if NAT_ADDRESS.endswith(".2") else NAT_ADDRESS
    assert backend.get(f"http://{INTERNET}") == f"internet saw {address}"


def test_the_vpn_goes_through_the_secondary(
    primary_gone: float,
    backend: Neighbour,
    internet: Neighbour,
    gw2: Gateway,
    connect: Callable[[Gateway], str],
) -> None:
    address = connect(gw2)
    assert internet.get(f"http://{BACKEND}") == f"backend01 saw {address}"


def test_the_primary_comes_back(backend: Neighbour, gw1: Gateway, gw2: Gateway) -> None:
    gw1.set_cables("down")
    try:
        in_charge(gw2)
    finally:
        lost = outage(backend, lambda: gw1.set_cables("up"))
    in_charge(gw1)
    assert eventually(lambda: not gw2.has(VIRTUAL_IP))
    assert lost < OUTAGE
    assert eventually(lambda: backend.offers(BACKEND_MAC) == [(gw1.internal, BACKEND)])


def test_a_primary_that_is_stopped_hands_over_and_takes_back(
    backend: Neighbour, internet: Neighbour, gw1: Gateway, gw2: Gateway
) -> None:
    def keepalived(action: str) -> Callable[[], None]:
        return lambda: gw1.host.check_output(f"systemctl {action} keepalived.service")

    assert outage(backend, keepalived("stop")) < OUTAGE
    in_charge(gw2)
    assert outage(backend, keepalived("start")) < OUTAGE
    in_charge(gw1)
