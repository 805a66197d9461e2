"""The network as it is in the field: narrow uplinks, addresses left on a node, a dead port."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import checks
from conftest import GATEWAYS, ok, wait_for_primary
from lab import Lab

Change = Callable[..., dict[str, Any]]
BOTH = {
    "public": {"virtual_ip": "198.51.100.10"},
    "state_sync": False,
    "health": {"internal": {"targets": []}},
}


def test_an_uplink_that_is_narrower_than_the_lan(site: Lab) -> None:
    """Hosts on both sides are told what fits, so no segment has to be refused."""
    gw1, internet = site.host("gw1"), site.host("internet")
    gw1.run("ip link set eth1 mtu 1400")
    try:
        internet.run(
            "rm -f /tmp/syn; timeout 10 tcpdump -n -p --immediate-mode -i eth0 -c 1"
            " 'tcp[tcpflags] == tcp-syn' > /tmp/syn 2> /tmp/syn.log &"
        )
        internet.run("timeout 5 sh -c 'until grep -q listening /tmp/syn.log; do sleep 0.05; done'")
        checks.http(site.host("backend01"), f"http://{checks.INTERNET}/")
        seen = internet.run("sleep 0.3; grep -o 'mss [0-9]*' /tmp/syn").stdout.strip()
        assert seen == "mss 1360"
    finally:
        gw1.run("ip link set eth1 mtu 1500")


def test_a_virtual_ip_in_the_configuration_of_an_interface(site: Lab) -> None:
    """The node that has it by itself says so, and takes nothing new until it is gone."""
    gw2 = site.host("gw2")
    gw2.run("ip address add 10.77.0.1/24 dev lo")
    try:
        found = site.salt("gw*", "gateway.validate")
        assert found["gw1"] == []
        (error,) = found["gw2"]
        assert error.startswith("gateway:internal:virtual_ip: this node has 10.77.0.1/24 on lo")
    finally:
        gw2.run("ip address del 10.77.0.1/24 dev lo")


def test_a_dead_internal_port(site: Lab, pillar: Change) -> None:
    """With an election on each side nothing moves; the status of both says what is the matter."""
    ok(pillar(BOTH))
    wait_for_primary(site)
    site.isolate("gw1", "eth0")
    try:
        time.sleep(3)
        assert checks.holders(site) == ["gw1"]
        for name, problems in site.salt("gw*", "gateway.status").items():
            peer = next(each for each in GATEWAYS if each != name)
            (said,) = [text for text in problems["problems"] if "is not heard" in text]
            assert said.startswith(f"{peer} is not heard on the internal side"), name
    finally:
        site.rejoin("gw1", "eth0")


def test_a_public_virtual_ip_comes_and_goes(site: Lab, pillar: Change) -> None:
    """Nothing that is open notices, and the virtual IP stays where it is."""
    for change in (BOTH, {}):
        with site.probe() as probe:
            time.sleep(1)
            ok(pillar(change))
            time.sleep(3)
        assert probe.result.outages() == []
        assert checks.holders(site) == ["gw1"]
    wait_for_primary(site)
