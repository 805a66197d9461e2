"""Connections through the pair outlive a node, because the nodes tell each other of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import checks
import pytest
from conftest import GATEWAYS, converge, ok, secondary_in_charge, wait_for_primary
from lab import Lab, Sessions, on_switch
from test_failover import primary_cut_off

ADDRESS = checks.PUBLIC_VIRTUAL_IP
FURTHER = "198.51.100.11"
SITE = {
    "public": {"virtual_ip": ADDRESS, "addresses": [FURTHER]},
    "nat": {
        "forwards": [
            {"port": 443, "to": "backend01"},
            {"port": "7007-7008", "to": "backend01"},
        ],
        "one_to_one": [{"address": FURTHER, "to": "www"}],
    },
    "firewall": {"forward": [{"from": "public", "to": "www", "ports": "7007-7008"}]},
}
MORE_VPN = {"network": "10.9.0.0/16", "port": 1195}
COUNT = 200
STALL_MS = 1000


@pytest.fixture(scope="module")
def synced(lab: Lab) -> Iterator[Lab]:
    """The example's site with a public virtual IP, and so with state sync."""
    converge(lab)
    lab.set_pillar({"gateway": SITE})
    ok(lab.apply())
    wait_until_synced(lab)
    lab.forget_connections()
    yield lab
    lab.set_pillar({})
    converge(lab)


def wait_until_synced(lab: Lab) -> None:
    """Return when gw1 is in charge and both nodes hear each other."""

    def heard() -> list[Any]:
        status = lab.salt("gw*", "gateway.status")
        return [status[name]["sync"]["heard"] for name in GATEWAYS]

    assert checks.eventually(heard, lambda now: now == [True, True], 30) == [True, True]
    wait_for_primary(lab)


def known(lab: Lab, name: str) -> int:
    """How many of the sessions' connections a node's kernel has; one that was reset for 10 s."""
    command = "conntrack -L -p tcp --state ESTABLISHED 2>/dev/null | grep -cE 'dport=700[78] '"
    return int(lab.host(name).run(command, check=False).stdout)


def wait_known(lab: Lab, name: str, count: int = COUNT, seconds: float = 25) -> None:
    assert checks.eventually(partial(known, lab, name), lambda now: now == count, seconds) == count


def assert_unharmed(sessions: Sessions, stall_ms: float = STALL_MS) -> None:
    result = sessions.result
    assert (result.opened, result.alive, result.deaths) == (COUNT, COUNT, {})
    print(f"\nsessions: {result.alive} of {result.opened}, {result.worst_stall_ms:.0f} ms")
    assert result.worst_stall_ms <= stall_ms


def problems(lab: Lab, name: str) -> Any:
    return lab.salt(name, "gateway.status")[name]["problems"]


def assert_silent(lab: Lab, peer: str) -> None:
    """gw1 says within 25 s that it hears nothing from this address."""
    silent = f"state sync: nothing is heard of the peer, {peer}"
    assert silent in checks.eventually(lambda: problems(lab, "gw1"), lambda now: silent in now, 25)


def vanish_and_return(lab: Lab) -> None:
    """The primary is cut off for some seconds, then it is in charge again."""
    time.sleep(1)
    with primary_cut_off(lab):
        time.sleep(4)
        assert "gw2" in checks.holders(lab)
    time.sleep(1)
    wait_for_primary(lab)
    time.sleep(2)


def test_sessions_from_outside_outlive_the_primary(synced: Lab) -> None:
    """Through a port forward and through 1:1 NAT; those from inside are in the fault matrix."""
    with (
        synced.sessions(COUNT, "laptop", ADDRESS) as forwarded,
        synced.sessions(COUNT, "laptop", FURTHER) as one_to_one,
    ):
        wait_known(synced, "gw2", 2 * COUNT)
        vanish_and_return(synced)
    assert_unharmed(forwarded)
    assert_unharmed(one_to_one)


@pytest.mark.long
def test_without_state_sync_the_sessions_end(synced: Lab) -> None:
    """Those of which the client only listens: nobody knows any more to whom the answers belong."""
    synced.set_pillar({"gateway": {**SITE, "state_sync": False}})
    results = ok(synced.apply())
    try:
        for name in GATEWAYS:
            assert checks.changes(results[name])["no state sync"]
            gone = (
                "systemctl is-active conntrackd gateway-sync; ls /usr/lib/gateway/sync 2>/dev/null"
            )
            now = synced.host(name).run(gone, check=False).stdout.split()
            assert now == ["inactive", "inactive"]
            assert synced.salt(name, "gateway.status")[name]["sync"] == {"enabled": False}
        synced.forget_connections()
        with synced.sessions(COUNT) as sessions:
            assert known(synced, "gw2") == 0
            vanish_and_return(synced)
        result = sessions.result
        print(f"\nwithout: {result.alive} of {result.opened}, {result.deaths}")
        assert result.opened == COUNT
        assert result.alive <= COUNT / 2
    finally:
        synced.forget_connections()  # what ended on the other node has not ended here
        synced.set_pillar({"gateway": SITE})
        ok(synced.apply())
        wait_until_synced(synced)


def test_nothing_of_the_nodes_own_is_sent(synced: Lab) -> None:
    """Each node has connections of its own: to its Salt master, to its time server, to the peer."""
    for name in GATEWAYS:
        sent = synced.host(name).run("conntrackd -i").stdout
        assert [line for line in sent.splitlines() if "10.99.0." in line] == []
        own = f"conntrack -L 2>/dev/null | grep -E 'src={checks.INTERNAL[name]}.* dport=3780'"
        assert synced.host(name).run(own, check=False).stdout == ""


def test_a_rebooted_node_has_all_sessions_again(synced: Lab) -> None:
    """First the standby; then the primary, which gets them from it and takes over again."""
    with synced.sessions(COUNT) as sessions:
        synced.host("gw2").restart()
        wait_known(synced, "gw2")
        synced.host("gw1").kill()
        time.sleep(1)
        synced.host("gw1").start()
        wait_known(synced, "gw1")
        wait_for_primary(synced)
        time.sleep(2)
    assert_unharmed(sessions)
    synced.wait_minions()
    wait_until_synced(synced)


@pytest.mark.long
@pytest.mark.parametrize("name", GATEWAYS)
def test_conntrackd_is_killed(synced: Lab, name: str) -> None:
    """It is back in a moment, and what began or ended meanwhile is known on both nodes."""
    host = synced.host(name)
    before = host.run("pidof conntrackd").stdout
    host.run("systemctl kill --signal=KILL conntrackd")
    with synced.sessions(COUNT) as sessions:
        wait_known(synced, "gw2")
        assert host.run("pidof conntrackd").stdout != before
        with secondary_in_charge(synced):
            time.sleep(2)
        time.sleep(1)
    assert_unharmed(sessions)


@pytest.mark.long
def test_an_apply_that_restarts_conntrackd_loses_nothing(synced: Lab) -> None:
    with synced.sessions(COUNT) as sessions:
        wait_known(synced, "gw2")
        synced.set_pillar({"gateway": {**SITE, "vpn": {"servers": {"more": MORE_VPN}}}})
        results = ok(synced.apply())
        for name in GATEWAYS:
            assert checks.changes(results[name])["conntrackd service"]
        wait_known(synced, "gw2")
        vanish_and_return(synced)
    assert_unharmed(sessions)
    synced.set_pillar({"gateway": SITE})
    ok(synced.apply())


@pytest.mark.long
def test_on_a_link_of_their_own(synced: Lab) -> None:
    """A cable between the nodes; when it is pulled out, nothing goes by another way."""
    gw1, gw2 = (synced.host(name) for name in GATEWAYS)
    sync = {"gw1": {"sync": "10.78.0.2"}, "gw2": {"sync": "10.78.0.3"}}
    on_switch(f"link add eth3 netns {gw1.pid} type veth peer name eth3 netns {gw2.pid}")
    try:
        for host in (gw1, gw2):
            address = sync[host.name]["sync"]
            host.run(f"ip address add {address}/24 dev eth3 && ip link set eth3 up")
        synced.set_pillar({"gateway": {**SITE, "nodes": sync, "state_sync": {"interface": "eth3"}}})
        ok(synced.apply())
        wait_until_synced(synced)
        with synced.sessions(COUNT) as sessions:
            wait_known(synced, "gw2")
            vanish_and_return(synced)
        assert_unharmed(sessions)
        gw2.run("ip link set eth3 down")
        assert_silent(synced, "10.78.0.3")
        gw2.run("ip link set eth3 up")
        wait_until_synced(synced)
    finally:
        synced.set_pillar({"gateway": SITE})
        ok(synced.apply())
        gw1.run("ip link delete eth3")
        wait_until_synced(synced)


def test_status_tells_of_a_silent_peer(synced: Lab) -> None:
    """And of a conntrackd that does not run; afterwards all is well by itself."""
    gw2 = synced.host("gw2")
    gw2.run("systemctl stop conntrackd")
    try:
        assert_silent(synced, "10.77.0.3")
        assert "service conntrackd is dead" in problems(synced, "gw2")
    finally:
        gw2.run("systemctl start conntrackd")
    assert checks.eventually(lambda: problems(synced, "gw1"), lambda now: now == [], 15) == []


def test_nobody_else_reaches_conntrackd(synced: Lab) -> None:
    """A neighbour's message, however well formed, changes no table."""
    count = "conntrackd -s | awk '/Pckts recv/ {n = $4} END {print n}'"
    gw1 = synced.host("gw1")
    flood = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(500): s.sendto(bytes(64), ("10.77.0.2", 3780))
"""
    before = int(gw1.run(count).stdout)
    synced.host("backend01").run(["python3", "-c", flood])
    time.sleep(1)
    assert int(gw1.run(count).stdout) - before < 100
