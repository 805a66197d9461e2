"""`gateway.clean` leaves nothing of ours and touches nothing else; each part works alone."""

from __future__ import annotations

import time
from collections.abc import Iterator

import checks
import pki
import pytest
from conftest import converge, ok, snapshot
from lab import Lab

# Those that leave something on every site; what state sync does is in test_sync, networkd's part in
# test_follow. dnsmasq brings the follower along, and many the firewall, which therefore come first.
PARTS = (
    "firewall",
    "ntp",
    "follow",
    "dnsmasq",
    "openvpn",
    "routes",
    "kernel",
    "health",
    "keepalived",
)
PACKAGES = "chrony dnsmasq-base iptables iputils-ping keepalived openvpn"
FOREIGN = """
iptables -N MINE; iptables -A MINE -s 192.0.2.1 -j DROP; iptables -I INPUT -j MINE
ip route add 10.200.0.0/24 via 10.77.0.9
echo '# by hand' > /etc/keepalived/keepalived.conf
"""
UNDO_FOREIGN = """
iptables -D INPUT -j MINE; iptables -F MINE; iptables -X MINE
ip route del 10.200.0.0/24
"""
LEFT = r"""
find /etc /run /usr/lib /var/lib \( -name '*gateway*' -o -name '*vrrp*' \) -not -path '*/salt/*' \
    -not -path '/usr/lib/python3*' -not -path '/usr/lib/modules/*'
grep -rlE 'Managed by Salt|GATEWAY-' /etc /usr/lib/systemd /var/lib --exclude-dir=salt
systemctl list-unit-files --no-legend '*gateway*'
systemctl list-units --all --no-legend --plain '*gateway*' 'keepalived*'
{ iptables-save; ip6tables-save; ipset save; } | grep -E 'GATEWAY|gateway|10\.8\.|10\.77\.'
ip route show table all proto 119; ip rule show | grep -E '119|121'; ip -6 rule show | grep 119
ip -brief link show | grep vpn; ip address show to 10.77.0.1
"""


@pytest.fixture(scope="module")
def fresh(lab: Lab) -> Iterator[Lab]:
    """A new gw2, with things on it that are somebody else's."""
    lab.set_pillar({})
    lab.renew("gw2")
    pki.distribute(lab)
    lab.host("gw2").run("apt-get -qqy install iptables keepalived >/dev/null; " + FOREIGN)
    yield lab
    lab.host("gw2").run(UNDO_FOREIGN)


def kernel(lines: list[str]) -> list[str]:
    """The part of a snapshot that is the kernel's: addresses, routes, rules, settings. A table that
    was used once stays there, empty."""
    starts = ("/proc/", "-A ", ":MINE", "eth")
    return [
        line for line in lines if line.startswith(starts) or " dev " in line or "\tfrom " in line
    ]


def settled(lab: Lab, name: str) -> list[str]:
    """A snapshot of a gateway on which nothing moves any more."""
    found: list[list[str]] = [[], []]

    def still() -> bool:
        found[:] = [found[1], snapshot(lab, name)]
        return found[0] == found[1]

    assert checks.eventually(still, bool, 40) is True
    return found[1]


@pytest.mark.core
def test_clean_leaves_nothing_of_ours_and_all_else_as_it_was(fresh: Lab) -> None:
    gw2 = fresh.host("gw2")
    before = snapshot(fresh, "gw2")
    ok(fresh.apply("gw2"), "gw2")
    time.sleep(7)  # a node that comes up takes the virtual IP after preempt_delay, if nobody has it
    applied = settled(fresh, "gw2")
    assert kernel(applied) != kernel(before)

    predicted = ok(fresh.apply("gw2", "gateway.clean", test=True), "gw2")["gw2"]
    assert snapshot(fresh, "gw2") == applied
    done = ok(fresh.apply("gw2", "gateway.clean"), "gw2")["gw2"]
    assert set(checks.changes(done)) == {
        state["__id__"] for state in predicted.values() if state["result"] is None
    }

    assert gw2.run(LEFT, check=False).stdout == ""
    assert kernel(snapshot(fresh, "gw2")) == kernel(before)
    assert gw2.run("cat /etc/keepalived/keepalived.conf").stdout == "# by hand\n"
    assert gw2.run(f"dpkg --verify {PACKAGES}").stdout == ""
    assert checks.changes(ok(fresh.apply("gw2", "gateway.clean"), "gw2")["gw2"]) == {}


def test_clean_where_the_pillar_does_not_render(fresh: Lab) -> None:
    """Salt refuses such a run, unless it is told not to."""
    fresh.set_site("gateway: {{ nobody.knows() }}\n")
    try:
        refused = fresh.apply("gw2", "gateway.clean", test=True)["gw2"]
        ok(fresh.apply("gw2", "gateway.clean", test=True, force=True), "gw2")
        wrong = fresh.apply("gw2", test=True, force=True)["gw2"]
    finally:
        fresh.set_site(fresh.with_authority())
    assert "Rendering SLS" in str(refused)
    assert list(checks.failures(wrong)) == ["gateway pillar"]


@pytest.mark.parametrize("part", PARTS)
def test_each_part_alone(fresh: Lab, part: str) -> None:
    """From nothing, without the others; a second time nothing is left to do."""
    first = ok(fresh.apply("gw2", f"gateway.{part}"), "gw2")["gw2"]
    assert checks.changes(first)
    assert checks.changes(ok(fresh.apply("gw2", f"gateway.{part}"), "gw2")["gw2"]) == {}


def test_the_parts_together_are_the_whole(fresh: Lab) -> None:
    assert fresh.salt("gw2", "gateway.status")["gw2"]["problems"] == [
        "the whole formula was never applied on this node"
    ]
    last = ok(fresh.apply("gw2"), "gw2")["gw2"]
    assert set(checks.changes(last)) == {"gateway plan that was applied"}
    converge(fresh)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_is_cleaned_alone(fresh: Lab, part: str) -> None:
    """What one part's clean removes, an apply of that part brings back."""
    ok(fresh.apply("gw2", f"gateway.{part}.clean"), "gw2")
    assert fresh.salt("gw2", "gateway.status")["gw2"]["problems"] or part == "kernel"
    assert checks.changes(ok(fresh.apply("gw2", f"gateway.{part}"), "gw2")["gw2"])


def test_nothing_else_was_missing(fresh: Lab) -> None:
    assert checks.changes(ok(fresh.apply("gw2"), "gw2")["gw2"]) == {}
    assert fresh.salt("gw2", "gateway.status")["gw2"]["problems"] == []
