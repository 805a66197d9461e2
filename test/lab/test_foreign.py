"""Other firewalls on a gateway: what they refuse is said before anything is changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import checks
import pytest
from conftest import converge, ok, snapshot, wait_for_primary
from lab import Host, Lab

INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get -qy --no-install-recommends install"
PURGE = "DEBIAN_FRONTEND=noninteractive apt-get -qy purge"
UFW = "ufw default reject incoming; ufw allow 22/tcp; ufw --force enable"
# One that somebody would write for a server, and what it lacks here.
MINE = """
table inet mine {{
    chain input {{
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iifname "lo" accept
        tcp dport 22 accept
        {more}
    }}
}}
"""
VITAL = "VRRP of the peer 10.77.0.3, what gw2 tells of leases"
LACKING = 'meta l4proto 112 accept; iifname "eth0" accept; udp dport 1194 accept'


@pytest.fixture
def gw1(site: Lab) -> Iterator[Host]:
    """gw1 with ufw and nftables, not in use; afterwards without them, and as it was."""
    host = site.host("gw1")
    host.run(f"{INSTALL} nftables ufw", timeout=60)
    try:
        yield host
    finally:
        host.run("ufw disable; nft delete table inet mine", check=False)
        host.run("for chain in INPUT FORWARD; do iptables -P $chain ACCEPT; done")
        host.run(f"{PURGE} nftables ufw; rm -rf /etc/ufw", timeout=60)
        # It leaves its chains behind, and jumps to them.
        host.run("for ip in iptables ip6tables; do $ip-save | grep -v ufw | $ip-restore; done")
        ok(site.apply("gw1", "gateway.firewall"), "gw1")
        converge(site)


def refused(lab: Lab, **kwargs: Any) -> str:
    """What an apply on gw1 says when it does nothing."""
    results = lab.apply("gw1", "gateway.firewall", **kwargs)["gw1"]
    assert checks.changes(results) == {}
    failures = checks.failures(results)
    assert list(failures) == ["gateway pillar"]
    return failures["gateway pillar"]


def problems(lab: Lab) -> list[str]:
    found: list[str] = lab.salt("gw1", "gateway.status")["gw1"]["problems"]
    return [problem for problem in found if problem.startswith("on this node ")]


def test_ufw_is_there_before_us(site: Lab, gw1: Host) -> None:
    """Nothing is changed while it refuses the peer's VRRP; without it, all is well."""
    ok(site.apply("gw1", "gateway.firewall.clean"), "gw1")
    gw1.run(UFW)
    before = snapshot(site, "gw1")
    for test in (True, False):
        message = refused(site, test=test)
        assert message.startswith("Nothing was changed: ")
        assert "on this node ufw (" in message
        assert f"refuses {VITAL}, DNS, time, the VPN (" in message
        assert "`ufw disable`" in message
        assert snapshot(site, "gw1") == before
    # It is true.
    backend = site.host("backend01")
    assert checks.resolve(backend, "www.example.internal", "10.77.0.2") == ""

    gw1.run("ufw disable")
    ok(site.apply("gw1", "gateway.firewall"), "gw1")
    wait_for_primary(site)
    assert problems(site) == []

    # Its jumps have stayed, empty, and ours came behind them.
    gw1.run("ufw --force enable")
    found = "\n".join(problems(site))
    assert "on this node ufw (" in found
    assert f"refuses {VITAL}, DNS, time, the VPN (" in found
    assert "before our rules are asked" in found


def test_a_table_with_policy_drop_beside_ours(site: Lab, gw1: Host) -> None:
    """Named while it refuses, and not when it lets pass what a gateway lives from."""
    gw1.run("nft -f -", input=MINE.format(more=""))
    (found,) = problems(site)
    assert found.startswith(
        f"on this node nft: table inet mine, chain input, policy drop refuses {VITAL}, DHCP, DNS,"
        " time, the VPN (udp port 1194), whatever our rules say: "
    )
    assert refused(site).endswith(found)
    assert checks.resolve(site.host("backend01"), "www.example.internal", "10.77.0.2") == ""

    gw1.run("nft delete table inet mine")
    gw1.run("nft -f -", input=MINE.format(more=LACKING))
    assert problems(site) == []
    wait_for_primary(site)
    served(site)
    assert checks.changes(ok(site.apply("gw1", "gateway.firewall"), "gw1")["gw1"]) == {}


def test_policies_of_drop_are_in_nobodys_way(site: Lab, gw1: Host) -> None:
    """As Docker sets one; ours accept before, and real packets pass."""
    gw1.run("iptables -P INPUT DROP; iptables -P FORWARD DROP")
    assert problems(site) == []
    assert checks.changes(ok(site.apply("gw1", "gateway.firewall"), "gw1")["gw1"]) == {}
    assert checks.holders(site) == ["gw1"]
    served(site)


def served(lab: Lab) -> None:
    """The internet, DNS and time by way of gw1."""
    backend = lab.host("backend01")
    assert checks.http(backend, f"http://{checks.INTERNET}/") == "internet saw 198.51.100.2"
    assert checks.resolve(backend, "www.example.internal", checks.VIRTUAL_IP) == checks.BACKEND
    assert checks.wait_stratum(backend, "10.77.0.2", lambda found: found < 16, 20) < 16
