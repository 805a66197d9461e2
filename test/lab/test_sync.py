"""Connections through the pair outlive a node, because the nodes tell each other of them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import checks
import hostile
import pytest
from conftest import GATEWAYS, converge, ok, secondary_in_charge, wait_for_primary
from lab import Lab, Sessions
from test_failover import primary_cut_off

ADDRESS = checks.PUBLIC_VIRTUAL_IP
FURTHER = "198.51.100.11"
WITHOUT = {
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
SITE = {**WITHOUT, **checks.STATE_SYNC}
MORE_VPN = {"network": "10.9.0.0/16", "port": 1195}
COUNT = 200
STALL_MS = 1000


@pytest.fixture(scope="module")
def synced(lab: Lab) -> Iterator[Lab]:
    """The example's site with a public virtual IP, and state sync over a link of the nodes' own."""
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
    """All are alive, and stood still for no longer than that."""
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


@pytest.mark.core
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
    synced.set_pillar({"gateway": {**WITHOUT, "state_sync": False}})
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
        own = f"conntrack -L 2>/dev/null | grep -E 'src={checks.LINK[name]}.* dport=3780'"
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


def test_when_the_link_is_down_nothing_goes_by_another_way(synced: Lab) -> None:
    """The way to the peer's address is the default route then, and what is told is clear text."""
    gw1 = synced.host("gw1")
    tell = f"""
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(bytes(16), ("{checks.LINK["gw2"]}", 3780))
"""
    gw1.run("ip link set eth3 down")
    try:
        assert "dev eth1" in gw1.run(f"ip route get {checks.LINK['gw2']}").stdout
        assert "PermissionError" in gw1.run(["python3", "-c", tell], check=False).stderr
        assert hostile.news(hostile.heard("gw1", "eth1", 3)) == {}
        assert_silent(synced, checks.LINK["gw2"])
    finally:
        gw1.run("ip link set eth3 up")
    wait_until_synced(synced)
    assert checks.eventually(lambda: problems(synced, "gw1"), lambda now: now == [], 30) == []


def test_status_tells_of_a_silent_peer(synced: Lab) -> None:
    """And of a conntrackd that does not run; afterwards all is well by itself."""
    gw2 = synced.host("gw2")
    gw2.run("systemctl stop conntrackd")
    try:
        assert_silent(synced, checks.LINK["gw2"])
        assert "service conntrackd is dead" in problems(synced, "gw2")
    finally:
        gw2.run("systemctl start conntrackd")
    assert checks.eventually(lambda: problems(synced, "gw1"), lambda now: now == [], 15) == []


def test_its_services_may_do_only_what_they_need(synced: Lab) -> None:
    for name in GATEWAYS:
        found = checks.exposures(synced.host(name))
        assert {"conntrackd.service", "gateway-sync.service"} <= found.keys()
        assert {unit: level for unit, level in found.items() if level > 5} == {}


def test_no_program_of_the_node_reaches_conntrackd(synced: Lab) -> None:
    """Which any user could start, and which needs no way through the link."""
    count = "conntrackd -s | awk '/Pckts recv/ {n = $4} END {print n}'"
    gw1 = synced.host("gw1")
    flood = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(500): s.sendto(bytes(64), ("{checks.LINK["gw1"]}", 3780))
"""
    before = int(gw1.run(count).stdout)
    gw1.run(["setpriv", "--reuid=nobody", "--clear-groups", "python3", "-c", flood])
    time.sleep(1)
    assert int(gw1.run(count).stdout) - before < 100


# --- a hostile machine --------------------------------------------------------------------------

LAPTOP = "198.51.100.50"
STRANGE = (LAPTOP, 6666, ADDRESS, 2222)  # no rule lets it in


def flows(lab: Lab, name: str) -> list[tuple[str, int, str, int]]:
    """The laptop's sessions, as a node's kernel has them: source and destination."""
    listed = lab.host(name).run(f"conntrack -L -p tcp -s {LAPTOP} 2>/dev/null").stdout
    ends = re.findall(r"ESTABLISHED src=\S+ dst=(\S+) sport=(\d+) dport=(\d+)", listed)
    return [(LAPTOP, int(sport), to, int(dport)) for to, sport, dport in ends]


def lies(lab: Lab, name: str, sources: list[str], destinations: list[str]) -> list[bytes]:
    """What conntrackd on a node would take if its peer had sent it: a connection that is not there,
    and the end of two that are, one sudden and one as by itself. From each to each address."""
    number = hostile.news(hostile.heard(name, "eth3", 3))[checks.LINK[peer_of(name)]] + 100
    first, second, *_ = flows(lab, name)
    return [
        hostile.datagram(source, destination, 3780, message)
        for source in sources
        for destination in destinations
        for message in (
            hostile.told(hostile.NEW, number, STRANGE, checks.BACKEND),
            hostile.told(hostile.END, number + 1, first, checks.BACKEND),
            hostile.told(hostile.UPDATE, number + 2, second, checks.BACKEND, hostile.CLOSE, 1),
        )
    ]


def peer_of(name: str) -> str:
    (peer,) = set(GATEWAYS) - {name}
    return peer


def strange(lab: Lab, name: str) -> bool:
    listed = lab.host(name).run(f"conntrack -L -p tcp --sport {STRANGE[1]} 2>/dev/null")
    return bool(listed.stdout)


def test_a_machine_of_the_lan_adds_changes_and_ends_no_connection(synced: Lab) -> None:
    """It speaks conntrackd's language and takes the peer's addresses. Who is on the link can do all
    of it: the same messages work there."""
    with synced.sessions(COUNT, "laptop", ADDRESS) as sessions:
        wait_known(synced, "gw2")
        for name in GATEWAYS:
            peer = peer_of(name)
            addresses = (checks.LINK, checks.INTERNAL, checks.PUBLIC)
            sources = [*(each[peer] for each in addresses), "10.77.0.66"]
            packets = lies(synced, name, sources, [each[name] for each in addresses])
            for card in ("eth0", "eth1"):
                hostile.send(name, card, packets)
        time.sleep(2)
        for name in GATEWAYS:
            assert not strange(synced, name)
            assert known(synced, name) == COUNT
        on_the_link = lies(synced, "gw2", [checks.LINK["gw1"]], [checks.LINK["gw2"]])
        hostile.send("gw2", "eth3", on_the_link)
        assert checks.eventually(lambda: strange(synced, "gw2"), bool, 5) is True
        wait_known(synced, "gw2", COUNT - 2, 5)
    assert_unharmed(sessions)
    for name in GATEWAYS:
        synced.host(name).run("conntrack -F; systemctl restart conntrackd")
    wait_until_synced(synced)


def adverts(name: str, card: str, source: str, ttl: int = 255) -> list[bytes]:
    """A better router's on this node's side."""
    side, address = {
        "eth0": (checks.INTERNAL, checks.VIRTUAL_IP),
        "eth1": (checks.PUBLIC, ADDRESS),
    }[card]
    return [hostile.advert(source, side[name], address, 254, ttl)]


def assert_unmoved(lab: Lab, seconds: float = 2) -> None:
    """Both virtual IPs are on gw1, and only there."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for address in (checks.VIRTUAL_IP, ADDRESS):
            assert checks.holders(lab, address) == ["gw1"]


@pytest.mark.parametrize("source", ["10.77.0.66", checks.BACKEND, checks.LINK["gw2"]])
def test_adverts_of_a_stranger_move_nothing(synced: Lab, source: str) -> None:
    with (
        hostile.Sending("gw1", "eth0", adverts("gw1", "eth0", source), 30),
        hostile.Sending("gw2", "eth0", adverts("gw2", "eth0", source), 30),
    ):
        assert_unmoved(synced)


@pytest.mark.parametrize("card", ["eth0", "eth1"])
def test_adverts_from_beyond_a_router_move_nothing(synced: Lab, card: str) -> None:
    """Each router on the way takes one off the 255 hops that they begin with (RFC 9568 5.1.1.3)."""
    side = {"eth0": checks.INTERNAL, "eth1": checks.PUBLIC}[card]
    with (
        hostile.Sending("gw1", card, adverts("gw1", card, side["gw2"], 254), 30),
        hostile.Sending("gw2", card, adverts("gw2", card, side["gw1"], 254), 30),
    ):
        assert_unmoved(synced)


def test_who_takes_the_peer_s_address_on_the_lan_can_move_the_virtual_ip(synced: Lab) -> None:
    """What docs/security.md says of it: as with ARP, nobody can tell. It ends with the liar's
    adverts, and no session ends with it."""
    with synced.sessions(COUNT) as sessions:
        wait_known(synced, "gw2")
        with hostile.Sending("gw1", "eth0", adverts("gw1", "eth0", checks.INTERNAL["gw2"]), 30):
            moved = checks.eventually(lambda: checks.holders(synced), lambda on: on == ["gw2"], 10)
            assert moved == ["gw2"]
        wait_for_primary(synced)
        time.sleep(2)
    assert_unharmed(sessions, 2 * STALL_MS)
