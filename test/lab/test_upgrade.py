"""From the oldest version of the formula that had all of it to the present one, in one apply."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import checks
import pytest
from conftest import GATEWAYS, converge, have_formula, ok, snapshot, wait_for_primary
from lab import Lab
from machines import machines
from test_clean import LEFT

# The first one with failover, firewall, VPN, DNS, DHCP, time and state sync.
OLDEST = "b4161ea693fc762fc10d8a41fda454f8bc2721dd"
# Something of every part, in words that both versions know.
SITE: dict[str, Any] = {
    **checks.STATE_SYNC,
    "public": {"virtual_ip": checks.PUBLIC_VIRTUAL_IP},
    "vpn": {
        "clients": {"laptop": {"id": 5}, "branch": {"id": 9, "networks": ["10.50.0.0/24"]}},
        "servers": {"other": {"network": "10.9.0.0/16", "port": 4433}},
    },
    "firewall": {
        "groups": {"admins": ["203.0.113.0/24", "2001:db8:1::/48"]},
        "ssh": {"from": "admins"},
        "input": [{"ports": 8443, "from": "internal"}],
    },
    "health": {"public": {"targets": [checks.INTERNET]}},
    "follow_virtual_ip": ["lab-follower.service"],
}
FOLLOWER = "[Service]\nExecStart=sleep infinity\n"
UNIT = "/etc/systemd/system/lab-follower.service"
# Beside what a snapshot has: what lies in memory, and what is where systemd looks.
NAMES = r"""
find /run/gateway* /etc/systemd /etc/modules-load.d /etc/sysctl.d /usr/lib/gateway \
    -not -path '*/control/*' -not -path '*/sessions/*' -printf '%p %m %u\n' | sort
systemctl list-unit-files --no-legend '*gateway*'
"""


def inventory(lab: Lab, name: str) -> list[str]:
    """Everything that an apply decides on a gateway: files, units, chains, sets, routes."""
    # Trials of rules have names of their own, a count of repairs is no work of an apply, and of
    # what a unit has read there is a note only if it ran meanwhile.
    passing = (
        "/run/gateway-leases/",
        "/var/lib/gateway/firewall/",
        "gateway-firewall-back",
        "firewall.restored",
        "/read/",
    )
    lines = snapshot(lab, name) + lab.host(name).run(NAMES).stdout.splitlines()
    lines = [re.sub(" initval 0x[0-9a-f]+", "", line) for line in lines]
    return [line for line in lines if not any(word in line for word in passing)]


@pytest.fixture(scope="module")
def rich(lab: Lab) -> Iterator[Lab]:
    lab.set_site(lab.with_authority(key=False))
    lab.set_pillar({"gateway": SITE})
    for name in GATEWAYS:
        lab.host(name).write(UNIT, FOLLOWER)
        lab.host(name).run("systemctl daemon-reload")
    ok(lab.apply())
    settle(lab)
    yield lab
    have_formula(lab.host("master"))
    lab.set_site(lab.with_authority())
    lab.set_pillar({})
    ok(lab.apply())
    for name in GATEWAYS:
        lab.host(name).run(f"rm {UNIT}; systemctl daemon-reload")
    converge(lab)


def settle(lab: Lab) -> None:
    """Return when gw1 has the virtual IPs, and the backend the internet."""
    wait_for_primary(lab)
    backend, url = lab.host("backend01"), f"http://{checks.INTERNET}/"
    seen = f"internet saw {checks.PUBLIC_VIRTUAL_IP}"
    assert checks.eventually(lambda: checks.http(backend, url), lambda s: s == seen, 30) == seen


def apply_oldest(lab: Lab) -> None:
    """Of the present version nothing is left; then the oldest is applied to both nodes."""
    ok(lab.apply(sls="gateway.clean"))
    have_formula(lab.host("master"), OLDEST)
    try:
        ok(lab.apply())
    finally:
        have_formula(lab.host("master"))
    settle(lab)


def test_an_upgrade_loses_and_leaves_nothing(rich: Lab) -> None:
    wanted = {name: inventory(rich, name) for name in GATEWAYS}
    apply_oldest(rich)
    assert rich.host("gw1").run("ls /usr/lib/gateway/alive").stdout
    rich.salt("gw*", "saltutil.sync_all")
    older = rich.salt("gw*", "gateway.status")
    with machines(rich.host("backend01")) as crowd:
        address = crowd.do("new", [1], 10)[1].address
    with rich.probe() as probe:
        ok(rich.apply())
    lost = [(round(outage.ms), outage.lost) for outage in probe.result.all_outages]
    settle(rich)
    left = {name: differences(wanted[name], inventory(rich, name)) for name in GATEWAYS}
    again = rich.apply()
    status = rich.salt("gw*", "gateway.status")
    for name in GATEWAYS:
        leases = rich.salt(name, "gateway.leases")[name]
        assert address in {lease["address"] for lease in leases}
    assert lost == [], left
    assert left == dict.fromkeys(GATEWAYS, ([], [])), left
    for name in GATEWAYS:
        assert checks.changes(again[name]) == {}
        said = "a version that did not say which was applied last"
        assert any(said in text for text in older[name]["problems"])
        assert status[name]["problems"] == []


def differences(wanted: list[str], found: list[str]) -> tuple[list[str], list[str]]:
    """What is too much, and what is missing."""
    return sorted(set(found) - set(wanted)), sorted(set(wanted) - set(found))


@pytest.mark.long
def test_clean_removes_what_the_oldest_version_left(rich: Lab) -> None:
    apply_oldest(rich)
    ok(rich.apply("gw2", "gateway.clean"), "gw2")
    assert rich.host("gw2").run(LEFT, check=False).stdout == ""
