"""One gateway dies, returns, reboots, changes under load: what the LAN notices of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import checks
import pki
import pytest
from conftest import GATEWAYS, converge, ok, secondary_in_charge, snapshot, wait_for_primary
from lab import Lab

Change = Callable[..., dict[str, Any]]
OUTAGE_MS = 400


@contextmanager
def primary_cut_off(lab: Lab) -> Iterator[None]:
    """The primary vanishes from both networks without a sign of it; later it is there again."""
    lab.isolate("gw1")
    try:
        yield
    finally:
        lab.rejoin("gw1")


@pytest.mark.core
def test_the_primary_vanishes_and_returns(site: Lab) -> None:
    """Internet within 400 ms, then everything else; the virtual IP goes back to the primary."""
    backend = site.host("backend01")
    with site.probe() as vanish:
        time.sleep(1)
        with primary_cut_off(site):
            time.sleep(3)
            assert "gw2" in checks.holders(site)
            assert checks.http(backend, f"http://{checks.INTERNET}/") == "internet saw 198.51.100.3"
            assert checks.resolve(backend, "www.example.net", checks.VIRTUAL_IP) == checks.INTERNET
            internal = checks.resolve(backend, "www.example.internal", checks.VIRTUAL_IP)
            assert internal == checks.BACKEND
            assert checks.ntp_stratum(backend, checks.VIRTUAL_IP) < 16
            offers = site.dhcp_offers(checks.BACKEND_MAC, seconds=2)
            assert [(o["server"], o["address"]) for o in offers] == [("10.77.0.3", checks.BACKEND)]
            returned = time.monotonic()
        time.sleep(3)
    lost = vanish.result.outages()
    assert lost, "nothing was lost: the probe did not go through the gateway"
    assert vanish.result.longest_outage_ms() <= OUTAGE_MS
    assert vanish.result.longest_outage_ms(since=returned) <= OUTAGE_MS
    wait_for_primary(site)
    assert checks.http(backend, f"http://{checks.INTERNET}/") == "internet saw 198.51.100.2"
    offers = site.dhcp_offers(checks.BACKEND_MAC, seconds=2)
    assert [offer["server"] for offer in offers] == ["10.77.0.2"]


def test_a_lease_is_renewed_by_the_other_node(site: Lab) -> None:
    """A client that asks for its own address again gets it, though the other node gave it."""
    backend = site.host("backend01")
    with secondary_in_charge(site):
        backend.run("systemctl restart lab-dhcp")
        lease = checks.eventually(
            lambda: checks.lease(site), lambda it: it["dhcp-server-identifier"] == "10.77.0.3", 10
        )
        assert lease["dhcp-server-identifier"] == "10.77.0.3"
        assert lease["fixed-address"] == checks.BACKEND
    backend.run("systemctl restart lab-dhcp")


def test_vpn_through_the_primary_while_the_secondary_has_the_virtual_ip(site: Lab) -> None:
    backend, laptop = site.host("backend01"), site.host("laptop")
    with secondary_in_charge(site), pki.Tunnel(site, checks.PUBLIC["gw1"]) as tunnel:
        assert checks.http(laptop, f"http://{checks.BACKEND}/") == f"backend01 saw {tunnel.address}"
        assert checks.http(backend, f"http://{tunnel.address}/") == f"laptop saw {checks.BACKEND}"
        size = 2_000_000
        for host, other in ((laptop, checks.BACKEND), (backend, tunnel.address)):
            echo = f"head -c {size} /dev/zero | timeout 20 nc -N {other} 7007 | wc -c"
            assert int(host.run(echo).stdout) == size


@pytest.mark.core
def test_an_apply_on_both_at_once_loses_no_packet(site: Lab, pillar: Change) -> None:
    """A benign change of everything: NAT loses nothing, a VPN session and its server live on."""
    backend, laptop = site.host("backend01"), site.host("laptop")
    server = "systemctl show -P MainPID openvpn-server@gateway-main"
    before = {name: site.host(name).run(server).stdout for name in GATEWAYS}
    more = {
        "keepalived": {"settings": {"vrrp_garp_master_refresh": 15}},
        "hosts": {"printer": {"ip": "10.77.0.20", "mac": "02:00:00:00:00:20"}},
        "nat": {"forwards": [{"port": 443, "to": "backend01"}, {"port": 8080, "to": "printer"}]},
    }
    with pki.Tunnel(site, checks.PUBLIC["gw2"]) as tunnel:
        with site.probe() as through_nat, site.probe("laptop", checks.BACKEND) as through_vpn:
            results = ok(pillar(more))
            ok(site.apply(test=True))
        assert checks.http(laptop, f"http://{checks.BACKEND}/") == f"backend01 saw {tunnel.address}"
    for name in GATEWAYS:
        for state in ("keepalived service", "firewall rules", "dns service"):
            assert checks.changes(results[name])[state]
    for probe in (through_nat, through_vpn):
        assert probe.result.sent > 3000
        assert probe.result.received == probe.result.sent
    assert {name: site.host(name).run(server).stdout for name in GATEWAYS} == before
    assert checks.holders(site) == ["gw1"]
    assert checks.resolve(backend, "printer.example.internal", checks.VIRTUAL_IP) == "10.77.0.20"


def everything_but_salt(lab: Lab, name: str) -> set[str]:
    return {line for line in snapshot(lab, name) if "salt" not in line}


@pytest.mark.core
@pytest.mark.parametrize("name", [pytest.param("gw2", marks=pytest.mark.long), "gw1"])
def test_a_reboot_restores_everything_without_salt(site: Lab, name: str) -> None:
    host = site.host(name)
    before = everything_but_salt(site, name)
    host.run("systemctl disable --quiet salt-minion")  # nobody but the node itself
    try:
        host.restart()
        wait_for_primary(site)
        after = checks.eventually(
            lambda: everything_but_salt(site, name), lambda now: now == before, 20
        )
        assert after - before == set()
        assert before - after == set()
        assert host.run("systemctl is-active salt-minion", check=False).stdout != "active\n"
        with pki.Tunnel(site, checks.PUBLIC[name]) as tunnel:
            page = checks.http(site.host("laptop"), f"http://{checks.BACKEND}/")
            assert page == f"backend01 saw {tunnel.address}"
    finally:
        host.run("systemctl enable --quiet --now salt-minion")
        site.wait_minions()
    assert site.salt(name, "gateway.status")[name]["problems"] == []


def test_a_public_virtual_ip(site: Lab, pillar: Change) -> None:
    """It is the LAN's address in the internet and that of the forwards, on whichever node."""
    backend, laptop = site.host("backend01"), site.host("laptop")
    address = checks.PUBLIC_VIRTUAL_IP
    full_tunnel = {"servers": {"main": {"full_tunnel": True}}}
    ok(pillar({"public": {"virtual_ip": address}, "vpn": full_tunnel}))

    def check(holder: str) -> None:
        assert holder in checks.holders(site, address)
        assert checks.http(backend, f"http://{checks.INTERNET}/") == f"internet saw {address}"
        assert checks.http(laptop, f"http://{address}:443/") == "backend01 saw 198.51.100.50"

    on_gw1 = checks.eventually(lambda: checks.holders(site, address), lambda on: on == ["gw1"], 15)
    assert on_gw1 == ["gw1"]
    check("gw1")
    with site.probe() as probe:
        time.sleep(1)
        with primary_cut_off(site):
            time.sleep(2)
            check("gw2")
        time.sleep(3)
    assert 0 < probe.result.longest_outage_ms() <= OUTAGE_MS
    wait_for_primary(site)
    assert checks.holders(site, address) == ["gw1"]
    check("gw1")
    # The standby's own tunnels still reach the internet: as the node itself, not as the virtual IP.
    with pki.Tunnel(site, checks.PUBLIC["gw2"]):
        laptop.run(f"ip route add {checks.INTERNET} dev tun0")
        assert checks.http(laptop, f"http://{checks.INTERNET}/") == "internet saw 198.51.100.3"
    status = site.salt("gw1", "gateway.status")["gw1"]
    assert status["vrrp"]["public"] == {"virtual_ip": address, "role": "MASTER"}
    ok(pillar({}))
    assert checks.holders(site, address) == []


def test_dhcp_follows_the_virtual_ip_through_quick_changes(site: Lab) -> None:
    """Back and forth in quick order: at the end exactly the holder answers."""
    gw1 = site.host("gw1")
    try:
        for _ in range(4):
            gw1.run("systemctl stop keepalived; sleep 0.3; systemctl start keepalived; sleep 0.3")
        gw1.run("pkill -9 -f /usr/lib/gateway/follow", check=False)
        wait_for_primary(site)
    finally:
        gw1.run("systemctl start keepalived")
    running = {"gw1": "active", "gw2": "inactive"}

    def dhcp() -> dict[str, str]:
        ask = "systemctl is-active gateway-dhcp"
        return {name: site.host(name).run(ask, check=False).stdout.strip() for name in GATEWAYS}

    assert checks.eventually(dhcp, lambda now: now == running, 10) == running
    offers = site.dhcp_offers(checks.BACKEND_MAC, seconds=2)
    assert [offer["server"] for offer in offers] == ["10.77.0.2"]
    converge(site)
