"""The better gateway has the virtual IP: drained, ill, or without an uplink."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import checks
import pytest
from conftest import GATEWAYS, ok, wait_for_primary
from lab import Lab

Change = Callable[..., dict[str, Any]]
VPN = "openvpn-server@gateway-main"


def wait_for(lab: Lab, *names: str, seconds: float = 15) -> None:
    """Return when the virtual IP is on these, and only there."""
    wanted = list(names)
    assert (
        checks.eventually(lambda: checks.holders(lab), lambda on: on == wanted, seconds) == wanted
    )


def active(lab: Lab, name: str, unit: str) -> str:
    return lab.host(name).run(["systemctl", "is-active", unit], check=False).stdout.strip()


def status(lab: Lab, name: str) -> dict[str, Any]:
    found: dict[str, Any] = lab.salt(name, "gateway.status")[name]
    return found


def test_drain_and_undrain(site: Lab) -> None:
    """No packet is lost, nothing but `undrain` ends it, and the last gateway is not drained."""
    try:
        with site.probe() as probe:
            time.sleep(1)
            assert site.salt("gw1", "gateway.drain")["gw1"] == "this node is drained"
            assert checks.holders(site) == ["gw2"]
            time.sleep(1)
        assert probe.result.received == probe.result.sent
        assert active(site, "gw1", VPN) == "inactive"
        [problem] = status(site, "gw1")["problems"]
        assert problem.startswith("this node is drained since")
        refusal = site.salt("gw2", "gateway.drain")["gw2"]
        assert "no healthy peer took the virtual IP" in refusal
        assert checks.holders(site) == ["gw2"]
        results = ok(site.apply())
        assert {name: checks.changes(results[name]) for name in GATEWAYS} == {"gw1": {}, "gw2": {}}
        site.host("gw1").restart()
        site.wait_minions()
        assert checks.holders(site) == ["gw2"]
        assert active(site, "gw1", VPN) == "inactive"
        assert site.host("gw1").run("systemctl --failed --no-legend").stdout == ""
    finally:
        with site.probe() as probe:
            site.salt("gw1", "gateway.undrain")
            wait_for_primary(site)
    assert probe.result.received == probe.result.sent
    assert active(site, "gw1", VPN) == "active"


def test_a_check_of_the_user_fails(site: Lab) -> None:
    """On one node it moves the virtual IP, on both it does not."""
    check = "/etc/gateway/health.d/lab"
    for name in GATEWAYS:
        site.host(name).write(check, "#!/bin/sh\necho all; test ! -e /run/ill\n", mode=0o755)
    try:
        with site.probe() as probe:
            site.host("gw1").run("touch /run/ill")
            wait_for(site, "gw2")
            assert status(site, "gw1")["health"]["faults"] == ["check lab fails: all"]
            site.host("gw2").run("touch /run/ill")
            time.sleep(9)
            assert checks.holders(site) == ["gw2"]
        assert probe.result.received == probe.result.sent
    finally:
        for name in GATEWAYS:
            site.host(name).run(f"rm -f {check} /run/ill")
    wait_for_primary(site)


def test_uplinks(site: Lab) -> None:
    """Without an uplink the virtual IP goes where there is one; if there is none, it stays."""
    try:
        site.unplug("gw1", "eth1")
        wait_for(site, "gw2", seconds=3)
        site.unplug("gw2", "eth1")
        time.sleep(2)
        assert checks.holders(site) == ["gw2"]
        backend = site.host("backend01")
        assert checks.resolve(backend, "backend01.example.internal", checks.VIRTUAL_IP)
    finally:
        for name in GATEWAYS:
            site.plug(name, "eth1")
            site.host(name).run("ip route replace default via 198.51.100.100", check=False)
    wait_for_primary(site)


def test_a_link_that_flaps(site: Lab) -> None:
    """The virtual IP moves once, and back when the link has been up for some seconds."""
    held = []
    try:
        for _ in range(5):
            site.unplug("gw1", "eth0")
            time.sleep(0.4)
            site.plug("gw1", "eth0")
            time.sleep(0.6)
            held.append(checks.holders(site))
    finally:
        site.plug("gw1", "eth0")
    assert held == [["gw2"]] * 5
    wait_for_primary(site)


def penalties(lab: Lab) -> list[str]:
    return [lab.host(name).run("cat /run/gateway/penalty").stdout.strip() for name in GATEWAYS]


def test_a_restart_of_the_monitor_moves_nothing(site: Lab) -> None:
    nothing = ["0", "0"]
    assert checks.eventually(lambda: penalties(site), lambda now: now == nothing, 10) == nothing
    with site.probe() as probe:
        for how in ("restart", "kill --signal=KILL"):
            for name in ("gw2", "gw1"):
                site.host(name).run(f"systemctl {how} gateway-health")
            time.sleep(2.5)
            assert checks.holders(site) == ["gw1"]
            assert penalties(site) == nothing
    assert probe.result.received == probe.result.sent


@pytest.mark.parametrize("profile", ["lossy", "fast"])
def test_another_profile_loses_nothing(site: Lab, pillar: Change, profile: str) -> None:
    pid = "systemctl show -P MainPID keepalived"
    before = {name: site.host(name).run(pid).stdout for name in GATEWAYS}
    with site.probe() as probe:
        ok(pillar({"failover": {"profile": profile}}))
        time.sleep(2)
    assert probe.result.received == probe.result.sent
    assert {name: site.host(name).run(pid).stdout for name in GATEWAYS} == before
    assert checks.holders(site) == ["gw1"]
