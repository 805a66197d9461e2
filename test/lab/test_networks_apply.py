"""Further networks come to a running pair, and leave it, by an apply on both at once: on the others
nothing is lost, and nothing stays of them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import checks
import further
import pytest
from conftest import GATEWAYS, converge, ok, snapshot, wait_for_primary
from further import Station
from lab import Lab, Probe
from test_clean import LEFT, settled

pytestmark = pytest.mark.long

# Milliseconds: how long a dnsmasq is away that has to listen somewhere else.
RESTART = 1500
TARGETS = "/run/gateway/health/networks"
NAME = "backend01.example.internal"
BASE: dict[str, Any] = {
    "public": {"virtual_ip": checks.PUBLIC_VIRTUAL_IP},
    **checks.STATE_SYNC,
    "networks": {"dmz": further.DMZ},
}
# Guests get no names of the site, so the server that has them is left alone.
GUESTS: dict[str, Any] = {
    **BASE,
    "networks": {"dmz": further.DMZ, "guest": {**further.GUEST, "targets": ["10.20.0.60"]}},
}
ALL: dict[str, Any] = {
    **GUESTS,
    "networks": {**GUESTS["networks"], "servers": further.SERVERS},
    "routes": further.ROUTES,
}


@pytest.fixture(scope="module")
def running(lab: Lab) -> Iterator[Lab]:
    """A pair with one network more, and cards in others that the pillar does not know."""
    converge(lab)
    with further.networks(lab):
        lab.set_pillar({"gateway": BASE})
        ok(lab.apply())
        wait_for_primary(lab)
        yield lab
        lab.set_pillar({})
        ok(lab.apply())


def applied(lab: Lab, gateway: dict[str, Any], dns_ms: float) -> None:
    """Apply it on both at once. What there was before goes on: the virtual IPs stay, no datagram
    through NAT or from the DMZ is lost, and a name is found but for so long."""
    began = {name: lab.host(name).run("date +%s").stdout.strip() for name in GATEWAYS}
    lab.set_pillar({"gateway": gateway})
    with ExitStack() as stack:
        nat = stack.enter_context(lab.probe())
        dmz = stack.enter_context(Probe(Station("dmz"), further.address("outside"), 7007, 120))
        dns = stack.enter_context(lab.questions(NAME, checks.VIRTUAL_IP))
        time.sleep(0.5)
        results = lab.apply()
        time.sleep(2)
    lost = {
        "NAT": nat.result.longest_outage_ms(),
        "DMZ": dmz.result.longest_outage_ms(),
        "DNS": dns.result.longest_outage_ms(),
    }
    print(f"\n{list(gateway['networks'])}: {lost}")
    ok(results)
    for name, since in began.items():
        said = lab.host(name).run(f"journalctl -u keepalived --since @{since} -o cat").stdout
        assert "Entering" not in said, said
    assert nat.result.received == nat.result.sent
    assert dmz.result.received == dmz.result.sent
    assert lost["DNS"] <= dns_ms
    assert checks.holders(lab) == ["gw1"]
    for network in gateway["networks"].values():
        assert checks.holders(lab, network["virtual_ip"]) == ["gw1"]
    again = ok(lab.apply())
    assert {name: checks.changes(again[name]) for name in GATEWAYS} == {"gw1": {}, "gw2": {}}
    status = lab.salt("gw*", "gateway.status")
    assert [status[name]["problems"] for name in GATEWAYS] == [[], []]


def timeless(lab: Lab, name: str) -> list[str]:
    """A snapshot, when nothing moves any more, without the time at which rules were loaded."""
    return [re.sub("(/firewall/[0-9a-f]+)-[0-9]+", r"\1", line) for line in settled(lab, name)]


def test_networks_come_and_go(running: Lab) -> None:
    before = {name: timeless(running, name) for name in GATEWAYS}
    guest, server = Station("guest"), Station("server")
    outside = f"http://{further.address('outside')}/"

    applied(running, GUESTS, dns_ms=0)
    assert checks.http(guest, outside) == f"outside saw {checks.PUBLIC_VIRTUAL_IP}"
    applied(running, ALL, dns_ms=RESTART)
    assert checks.http(server, outside) == f"outside saw {checks.PUBLIC_VIRTUAL_IP}"
    assert checks.resolve(server, NAME, "10.30.0.1") == checks.BACKEND
    # What the monitor notes of targets in further networks is in no snapshot.
    for name in GATEWAYS:
        running.host(name).run(f"test -e {TARGETS}")

    applied(running, GUESTS, dns_ms=RESTART)
    applied(running, BASE, dns_ms=0)
    for name in GATEWAYS:
        now = timeless(running, name)
        assert sorted(set(now) ^ set(before[name])) == []
        running.host(name).run(f"! test -e {TARGETS}")
    assert checks.holders(running, "10.20.0.1") == []
    assert checks.http(guest, f"http://{checks.BACKEND}/") == ""


def test_clean_takes_networks_along(running: Lab) -> None:
    running.set_pillar({"gateway": ALL})
    ok(running.apply())
    predicted = ok(running.apply("gw2", "gateway.clean", test=True), "gw2")["gw2"]
    done = ok(running.apply("gw2", "gateway.clean"), "gw2")["gw2"]
    assert set(checks.changes(done)) == {
        state["__id__"] for state in predicted.values() if state["result"] is None
    }
    gw2 = running.host("gw2")
    assert gw2.run(LEFT, check=False).stdout == ""
    names = gw2.run("grep -l 1 /proc/sys/net/ipv4/conf/*/arp_ignore", check=False).stdout
    assert names == ""
    ok(running.apply())
    wait_for_primary(running)


def test_snapshots_see_what_networks_are(running: Lab) -> None:
    """Else the test above would compare nothing."""
    text = "\n".join(snapshot(running, "gw1"))
    for part in ("203.0.113.17/32", "/proc/sys/net/ipv4/conf/eth4/arp_ignore:1"):
        assert part in text
