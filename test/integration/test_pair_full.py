"""What a pair does beyond the example: public virtual IP, state sync, rules, a client's address."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

from kitchen_site import TOOLS, Gateway, Neighbour, eventually, in_charge
from test_gateway import BACKEND, INTERNET, NAT_ADDRESS

SESSIONS = 20


def test_the_primary_alone_has_the_public_virtual_ip(gateways: dict[str, Gateway]) -> None:
    assert [name for name, gateway in gateways.items() if gateway.has(NAT_ADDRESS)] == ["gw1"]


def test_the_internet_reaches_a_forward_through_each(
    backend: Neighbour, internet: Neighbour, gw1: Gateway, gw2: Gateway
) -> None:
    assert internet.get(f"http://{NAT_ADDRESS}:443") == f"backend01 saw {INTERNET}"
    gw1.set_cables("down")
    try:
        in_charge(gw2)
        page = eventually(lambda: internet.get(f"http://{NAT_ADDRESS}:443"))
    finally:
        gw1.set_cables("up")
        in_charge(gw1)
    assert page == f"backend01 saw {INTERNET}"


def test_sessions_outlive_the_primary(
    backend: Neighbour, internet: Neighbour, gw1: Gateway, gw2: Gateway
) -> None:
    def heard() -> list[bool]:
        return [gateway.salt("gateway.status")["sync"]["heard"] for gateway in (gw1, gw2)]

    in_charge(gw1)
    assert eventually(heard, lambda now: now == [True, True], 30) == [True, True]
    said: list[str] = []
    # It ends at the end of its input.
    ask = f"sleep 16 | python3 {TOOLS}/lab/sessions.py {INTERNET} 7007 {SESSIONS} 14 0.1"
    asking = threading.Thread(target=lambda: said.append(backend.run(f"sh -c '{ask}'")))
    asking.start()
    time.sleep(6)  # until the peer knows of them all
    gw1.set_cables("down")
    try:
        in_charge(gw2)
        asking.join()
    finally:
        gw1.set_cables("up")
        in_charge(gw1)
    result = json.loads(said[0].splitlines()[-1])
    assert (result["alive"], result["deaths"]) == (SESSIONS, {})
    assert max(result["stalls"]) < 3


def test_a_rule_keeps_the_backend_from_a_port(backend: Neighbour, internet: Neighbour) -> None:
    assert backend.get(f"http://{INTERNET}:443") == ""
    assert backend.get(f"http://{INTERNET}") == f"internet saw {NAT_ADDRESS}"
    assert internet.get("http://localhost:443").startswith("internet saw ")


def test_alice_has_her_address_and_her_rule_through_each(
    backend: Neighbour,
    internet: Neighbour,
    gateways: dict[str, Gateway],
    connect: Callable[[Gateway], str],
) -> None:
    for gateway in gateways.values():
        address = connect(gateway)
        assert address == f"{gateway.tunnel}.5"
        assert internet.get(f"http://{BACKEND}") == f"backend01 saw {address}"
        assert internet.get(f"http://{BACKEND}:443") == ""
