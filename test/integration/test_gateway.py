"""What a user notices of one converged gateway, gw1 of pillar.example's site, in all suites."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kitchen_site import PROBLEMS, SUITE, VIRTUAL_IP, Gateway, Neighbour

BACKEND = "10.77.0.10"
BACKEND_MAC = "02:00:00:00:00:10"
INTERNET = "198.51.100.100"
NAT_ADDRESS = "198.51.100.10" if SUITE == "pair-full" else "198.51.100.2"

ASK_TIME = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(2)
s.connect(("{server}", 123))
s.send(b"\\x23" + 47 * b"\\0")
print(*s.recv(2))
"""


def test_a_second_converge_changes_nothing(gateways: dict[str, Gateway]) -> None:
    for gateway in gateways.values():
        states = gateway.salt("state.highstate")
        failed = {name for name, state in states.items() if not state["result"]}
        changed = {
            state["__id__"]: state["changes"] for state in states.values() if state["changes"]
        }
        assert (gateway.name, failed, changed) == (gateway.name, set(), {})


def test_the_status_has_no_problems(gateways: dict[str, Gateway]) -> None:
    assert [gateway.problems() for gateway in gateways.values()] == [PROBLEMS] * len(gateways)


def test_the_primary_holds_the_virtual_ip(gateways: dict[str, Gateway]) -> None:
    assert [name for name, gateway in gateways.items() if gateway.has(VIRTUAL_IP)] == ["gw1"]


@pytest.mark.parametrize("name", ["backend01.example.internal", "www.example.internal"])
def test_the_virtual_ip_answers_internal_names(backend: Neighbour, name: str) -> None:
    assert backend.resolve(name, VIRTUAL_IP) == BACKEND


def test_the_virtual_ip_answers_names_of_the_internet(
    backend: Neighbour, internet: Neighbour
) -> None:
    assert backend.resolve("www.example.net", VIRTUAL_IP) == INTERNET


def test_one_gateway_offers_a_known_host_its_address(backend: Neighbour, gw1: Gateway) -> None:
    assert backend.offers(BACKEND_MAC) == [(gw1.internal, BACKEND)]


@pytest.mark.parametrize("server", [VIRTUAL_IP, "10.77.0.2"])
def test_time_is_served_even_without_an_upstream_server(backend: Neighbour, server: str) -> None:
    said = backend.run(f"python3 -c '{ASK_TIME.format(server=server)}'")
    first, stratum = map(int, said.split())
    assert first >> 6 != 3  # leap indicator: not synchronised
    assert 1 <= stratum < 16


def test_the_backend_reaches_the_internet_by_nat(backend: Neighbour, internet: Neighbour) -> None:
    assert backend.get(f"http://{INTERNET}") == f"internet saw {NAT_ADDRESS}"


def test_a_forwarded_port_reaches_the_backend(backend: Neighbour, internet: Neighbour) -> None:
    assert internet.get(f"http://{NAT_ADDRESS}:443") == f"backend01 saw {INTERNET}"


def test_the_internet_finds_no_way_to_private_addresses(
    backend: Neighbour, internet: Neighbour, gw1: Gateway
) -> None:
    internet.run(f"ip route add 10.77.0.0/24 via {gw1.public}")
    try:
        assert internet.get(f"http://{BACKEND}") == ""
    finally:
        internet.run("ip route del 10.77.0.0/24")


def test_a_vpn_client_reaches_the_backend_and_the_backend_reaches_it(
    backend: Neighbour,
    internet: Neighbour,
    gateways: dict[str, Gateway],
    connect: Callable[[Gateway], str],
) -> None:
    for gateway in gateways.values():
        address = connect(gateway)
        assert address.startswith(gateway.tunnel + "."), gateway.name
        assert internet.get(f"http://{BACKEND}") == f"backend01 saw {address}"
        assert backend.get(f"http://{address}") == f"internet saw {BACKEND}"
