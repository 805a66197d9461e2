"""The firewall's rules come, stay, are repaired, and are taken back when they cut the node off."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import checks
import pytest
from conftest import converge, ok, snapshot, wait_for_primary
from lab import Host, Lab

FIREWALL = "/usr/lib/gateway/firewall"
STATE = "firewall rules"
CUT_OFF = {"raw": {"filter": {"INPUT": ["-s 10.99.0.0/24 -j DROP"]}}}
ONE_MORE = {"raw": {"filter": {"INPUT": ["-s 192.0.2.7 -j DROP"]}}}
WITH_A_SET = {
    "groups": {"few": ["192.0.2.0/24", "203.0.113.9"]},
    "input": [{"from": "few", "action": "drop"}],
}
GUARD = "systemctl kill --signal={} --kill-who=all gateway-firewall-guard"
FORWARD_443 = "http://198.51.100.2:443/"
Rules = Callable[..., dict[str, Any]]


@pytest.fixture
def rules(site: Lab) -> Iterator[Rules]:
    """Put something into the pillar's `firewall`, and apply; afterwards all is as before."""

    def change(firewall: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        site.set_pillar({"gateway": {"firewall": firewall}})
        result: dict[str, Any] = site.apply("gw1", "gateway.firewall", **kwargs)["gw1"]
        return result

    yield change
    site.set_pillar({})
    ok(site.apply("gw1", "gateway.firewall"), "gw1")
    converge(site)


def live(host: Host, counters: bool = False) -> str:
    """Everybody's rules, both families, and sets."""
    sets = "if command -v ipset >/dev/null; then ipset save | sort; fi"
    command = f"iptables-save -c; ip6tables-save -c; {sets}"
    text = re.sub(r"(?m)^#.*\n", "", host.run(command).stdout)
    return text if counters else re.sub(r"\[\d+:\d+\]|(?<=initval )\S+", "", text)


def own(host: Host) -> list[str]:
    """Our own rules and sets."""
    return [line for line in live(host).splitlines() if "GATEWAY-" in line or " gateway-" in line]


def begin_trial_of_cut_off(lab: Lab) -> None:
    """Return when gw1 has rules that cut it off, and has not taken them back yet."""
    lab.set_pillar({"gateway": {"firewall": CUT_OFF}})
    lab.host("master").run("salt --async gw1 state.apply gateway.firewall")
    gw1 = lab.host("gw1")
    assert checks.eventually(lambda: "10.99.0.0/24" in live(gw1), bool, 20) is True


def apply(lab: Lab, **kwargs: Any) -> dict[str, Any]:
    result: dict[str, Any] = ok(lab.apply("gw1", "gateway.firewall", **kwargs), "gw1")["gw1"]
    return checks.changes(result)


# --------------------------------------------------------------------------------------------------
# Lock-out


def test_rules_that_cut_the_node_off_are_taken_back(site: Lab, rules: Rules) -> None:
    gw1 = site.host("gw1")
    before = live(gw1)
    results = rules(CUT_OFF)
    (seconds,) = [s["duration"] / 1000 for s in results.values() if s["__id__"] == STATE]
    assert seconds < 25
    assert checks.failures(results)[STATE] == (
        "With the new rules this node could not reach the Salt master (10.99.0.10 port 4506) any"
        " more, for 20 seconds. The rules are again what they were before."
    )
    assert live(gw1) == before
    assert "gateway-firewall" not in gw1.run("systemctl list-timers --all").stdout
    assert checks.changes(rules({})) == {}
    assert site.salt("gw1", "gateway.status")["gw1"]["problems"] == []


@pytest.mark.long
def test_they_are_taken_back_without_the_minion(site: Lab, rules: Rules) -> None:
    """Killed between the new rules and the verdict on them."""
    gw1 = site.host("gw1")
    before = live(gw1)
    begin_trial_of_cut_off(site)
    start = time.monotonic()
    gw1.run("systemctl kill --signal=KILL --kill-who=all salt-minion")
    ssh = "ssh-keyscan -T 2 10.99.0.2 2>/dev/null | grep -q ."
    assert site.host("master").run(ssh, check=False).returncode == 1
    assert checks.eventually(lambda: live(gw1) == before, bool, 40) is True
    assert time.monotonic() - start < 31
    site.wait_minions()
    assert site.host("master").run(ssh, check=False).returncode == 0
    assert checks.changes(rules({})) == {}
    assert site.salt("gw1", "gateway.status")["gw1"]["problems"] == []


def test_a_reboot_takes_them_back_too(site: Lab, rules: Rules) -> None:
    gw1 = site.host("gw1")
    before = own(gw1)
    begin_trial_of_cut_off(site)
    gw1.kill()
    gw1.start()
    site.wait_minions()
    assert own(gw1) == before
    # The loader needs no Salt to be asked what is the matter.
    assert json.loads(gw1.run(f"{FIREWALL} status").stdout)["pending"] is False


def test_a_wrong_rule_is_refused_with_its_pillar_entry(site: Lab, rules: Rules) -> None:
    gw1 = site.host("gw1")
    before = live(gw1)
    wrong = {
        "filter": {"INPUT": ["-p tcp --dport 22 -j ACCEPT", "-p tcp --dprt 22 -j ACCEPT"]},
        "nat": {"PREROUTING": ["-j MASQUERADE"]},
    }
    for test in (True, False):
        failure = checks.failures(rules({"raw": wrong}, test=test))[STATE].splitlines()
        assert failure[0] == "Nothing was changed: the kernel does not take these rules."
        nat, nat_rule, entry, entry_rule = failure[1:]
        assert nat.startswith("gateway:firewall:raw:nat:PREROUTING:0: ")
        assert nat_rule == "    -A GATEWAY-PREROUTING -j MASQUERADE"
        assert entry.startswith("gateway:firewall:raw:filter:INPUT:1: ")
        assert 'unknown option "--dprt"' in entry
        assert entry_rule == "    -A GATEWAY-INPUT -p tcp --dprt 22 -j ACCEPT"
        assert live(gw1) == before


# --------------------------------------------------------------------------------------------------
# Drift

DRIFT = {
    "rule added": (
        "iptables -I GATEWAY-FORWARD -s 10.3.3.3 -j DROP",
        "--A GATEWAY-FORWARD -s 10.3",
    ),
    "rule deleted": ("iptables -t nat -D GATEWAY-DNAT 1", "+-A GATEWAY-DNAT ! -d 198"),
    "chain flushed": ("iptables -t nat -F GATEWAY-DNAT", "+-A GATEWAY-DNAT -p tcp"),
    "jump lost": ("iptables -D FORWARD -j GATEWAY-FORWARD", "+-A FORWARD -j GATEWAY-FORWARD"),
    "jump twice": ("iptables -A FORWARD -j GATEWAY-FORWARD", "--A FORWARD -j GATEWAY-FORWARD"),
    "chain added": ("iptables -N GATEWAY-OTHER", "-:GATEWAY-OTHER"),
    "IPv6 jump lost": ("ip6tables -D INPUT -j GATEWAY-INPUT", "+-A INPUT -j GATEWAY-INPUT"),
    "member gone": ("ipset del $(ipset list -n) 192.0.2.0/24", "+add gateway-few-"),
    "member added": ("ipset add $(ipset list -n) 192.0.3.0/24", "-add gateway-few-"),
}


@pytest.fixture
def without_guard(site: Lab) -> Iterator[None]:
    """The guard of gw1 stands still: what is flushed waits for the next apply."""
    site.host("gw1").run(GUARD.format("STOP"))
    yield
    site.host("gw1").run(GUARD.format("CONT"))


@pytest.mark.usefixtures("without_guard")
@pytest.mark.parametrize("spoil", DRIFT)
def test_what_somebody_changed_is_shown_and_put_right(site: Lab, rules: Rules, spoil: str) -> None:
    command, line = DRIFT[spoil]
    gw1 = site.host("gw1")
    assert checks.failures(rules(WITH_A_SET)) == {}
    good = own(gw1)
    gw1.run(command)
    assert own(gw1) != good
    before = snapshot(site, "gw1")
    problems = site.salt("gw1", "gateway.status")["gw1"]["problems"]
    # That only the firewall was applied is another.
    assert "the firewall rules are not what was loaded: somebody changed them by hand" in problems
    predicted = apply(site, test=True)
    assert snapshot(site, "gw1") == before
    assert list(predicted) == [STATE]
    assert any(found.startswith(line) for found in predicted[STATE]["diff"].splitlines())
    assert apply(site) == predicted
    assert own(gw1) == good
    assert apply(site) == {}


def test_rules_and_sets_come_and_go(site: Lab, rules: Rules) -> None:
    """A set of 10,000 entries that a LAN host is in: it works, test mode told the truth."""
    gw1, backend = site.host("gw1"), site.host("backend01")
    bare = own(gw1)
    assert STATE in checks.changes(rules(WITH_A_SET))  # installs ipset
    many = [f"100.{64 + n // 256}.{n % 256}.0/24" for n in range(10000)]
    match = {"forward": [{"from": "many", "action": "drop"}]}
    caught = match | {"groups": {"many": [*many, "backend01"]}}
    predicted = checks.changes(rules(caught, test=True))
    assert "many" not in live(gw1)
    assert checks.changes(rules(caught)) == predicted
    assert gw1.run("ipset list -t | grep entries").stdout == "Number of entries: 10001\n"
    assert checks.http(backend, "http://198.51.100.100/") == ""
    assert list(checks.changes(rules(caught))) == []

    # Another content is another set, and nobody is caught by the old one.
    assert list(checks.changes(rules(match | {"groups": {"many": many}}))) == [STATE]
    assert checks.http(backend, "http://198.51.100.100/") == "internet saw 198.51.100.2"
    assert gw1.run("ipset list -n").stdout.count("\n") == 1
    assert list(checks.changes(rules({}))) == [STATE]
    assert own(gw1) == bare


# --------------------------------------------------------------------------------------------------
# Others


DOCKER = """
mkdir /tmp/docker && cd /tmp/docker
for package in docker.io containerd runc; do
    dpkg -x /var/cache/apt/archives/"${package}"_*.deb .
done
"""
DOCKER_START = """
cd /tmp/docker && export PATH="$PWD/usr/bin:$PWD/usr/sbin:$PATH"
setsid dockerd --storage-driver=vfs --data-root=/tmp/docker/data --exec-root=/tmp/docker/run \
    --pidfile=/tmp/docker/pid --host=unix:///tmp/docker/sock >/tmp/docker/log 2>&1 &
for n in $(seq 100); do
    grep -q 'API listen' /tmp/docker/log && exit; sleep 0.1
done
cat /tmp/docker/log; exit 1
"""
DOCKER_STOP = "kill $(cat /tmp/docker/pid); while [ -e /tmp/docker/pid ]; do sleep 0.1; done"
FAIL2BAN = """
iptables -N f2b-sshd; iptables -A f2b-sshd -j RETURN
iptables -I INPUT -p tcp -m multiport --dports 22 -j f2b-sshd
"""


def places(host: Host) -> dict[str, list[str]]:
    """The targets of the rules in each built-in chain, in their order."""
    found: dict[str, list[str]] = {}
    for table in ("raw", "filter", "nat"):
        for line in host.run(f"iptables -t {table} -S").stdout.splitlines():
            if re.match(r"-A (PREROUTING|INPUT|FORWARD|OUTPUT|POSTROUTING) ", line):
                chain = f"{table} {line.split()[1]}"
                found.setdefault(chain, []).append(line.split(" -j ")[1])
    return found


def test_docker_and_fail2ban_stay_and_keep_their_place(site: Lab, rules: Rules) -> None:
    """A real dockerd, and the rules that fail2ban makes. They come second or first: the same."""
    gw1 = site.host("gw1")
    before = gw1.run("iptables-save").stdout
    gw1.run(DOCKER)
    try:
        gw1.run(DOCKER_START, timeout=30)
        gw1.run(FAIL2BAN)
        both = places(gw1)
        assert both["filter FORWARD"][0] == "DOCKER-USER"
        assert both["filter FORWARD"][-1] == "GATEWAY-FORWARD"
        foreign = [line for line in live(gw1).splitlines() if "GATEWAY-" not in line]

        assert list(checks.changes(rules(ONE_MORE)))
        assert places(gw1) == both
        gw1.run(f"{FIREWALL} load")
        assert places(gw1) == both
        ok(site.apply("gw1", "gateway.firewall.clean"), "gw1")
        assert [line for line in live(gw1).splitlines() if "GATEWAY-" not in line] == foreign
        assert own(gw1) == []
        assert checks.failures(rules({})) == {}
        assert places(gw1) == both
        assert [line for line in live(gw1).splitlines() if "GATEWAY-" not in line] == foreign
    finally:
        gw1.run(DOCKER_STOP, check=False)
        gw1.run("iptables-restore", input=before)
        gw1.run("rm -rf /tmp/docker; ip link del docker0", check=False)
    wait_for_primary(site)  # without its rules gw1 stepped back
    assert checks.http(site.host("laptop"), FORWARD_443) == "backend01 saw 198.51.100.50"


def test_counters_of_unchanged_rules_go_on(site: Lab, rules: Rules) -> None:
    gw1 = site.host("gw1")

    def packets() -> int:
        (rule,) = [line for line in live(gw1, True).splitlines() if "--dport 443" in line]
        return int(re.findall(r"\d+", rule)[0])

    for _ in range(3):
        checks.http(site.host("laptop"), FORWARD_443)
    before = packets()
    assert before >= 3
    assert list(checks.changes(rules({"raw": {"nat": {"PREROUTING": ["-s 192.0.2.7 -j RETURN"]}}})))
    assert packets() >= before


def test_a_reboot_brings_everything_back_without_salt(site: Lab, rules: Rules) -> None:
    gw1 = site.host("gw1")
    assert checks.failures(rules(WITH_A_SET)) == {}
    before = own(gw1)
    gw1.run("systemctl disable salt-minion")
    try:
        gw1.restart()
        assert own(gw1) == before
        # Its reply comes by way of the virtual IP, which comes back to this node first.
        page = checks.eventually(lambda: checks.http(site.host("laptop"), FORWARD_443), bool, 20)
        assert page == "backend01 saw 198.51.100.50"
    finally:
        gw1.run("systemctl enable --now salt-minion")
        site.wait_minions()
    assert apply(site) == {}


# --------------------------------------------------------------------------------------------------
# Both kinds of iptables


@pytest.fixture
def legacy(site: Lab) -> Iterator[Lab]:
    """gw1 with iptables-legacy instead of nft."""
    gw1 = site.host("gw1")

    def switch(kind: str) -> None:
        ok(site.apply("gw1", "gateway.firewall.clean"), "gw1")
        for tool in ("iptables", "ip6tables"):
            gw1.run(f"update-alternatives --set {tool} /usr/sbin/{tool}-{kind}")
        ok(site.apply("gw1", "gateway.firewall"), "gw1")
        # Without rules it gives the virtual IP away, and answers of the LAN would leave by gw2.
        wait_for_primary(site)

    switch("legacy")
    yield site
    switch("nft")
    converge(site)


@pytest.mark.long
def test_iptables_legacy(legacy: Lab, rules: Rules) -> None:
    gw1 = legacy.host("gw1")
    assert legacy.salt("gw1", "gateway.status")["gw1"]["firewall"] == {
        "backend": "legacy",
        "loaded": True,
        "drift": False,
        "pending": False,
        "gate": True,
        "closed": None,
        "restored": 0,
    }
    assert "GATEWAY" in gw1.run("iptables-legacy-save").stdout
    assert "GATEWAY" not in gw1.run("iptables-nft-save").stdout
    assert checks.http(legacy.host("laptop"), FORWARD_443) == "backend01 saw 198.51.100.50"
    good = own(gw1)
    gw1.run(GUARD.format("STOP"))
    gw1.run("iptables -t nat -F GATEWAY-PREROUTING; iptables -D FORWARD -j GATEWAY-FORWARD")
    predicted = apply(legacy, test=True)
    assert apply(legacy) == predicted
    assert own(gw1) == good
    gw1.run(GUARD.format("CONT"))

    # It stays there, whatever the distribution's choice becomes.
    gw1.run("update-alternatives --set iptables /usr/sbin/iptables-nft")
    assert apply(legacy) == {}
    gw1.run("update-alternatives --set iptables /usr/sbin/iptables-legacy")

    # A rule that only the kernel knows to be wrong; legacy does not say which.
    wrong = {"nat": {"PREROUTING": ["-s 192.0.2.7 -j RETURN", "-j MASQUERADE"]}}
    failure = checks.failures(rules({"raw": wrong}))[STATE].splitlines()
    assert failure[1].startswith("gateway:firewall:raw:nat:PREROUTING:1: ")
    assert failure[2:] == ["    -A GATEWAY-PREROUTING -j MASQUERADE"]

    # Another program has the lock for some seconds.
    holder = gw1.spawn("exec flock /run/xtables.lock sleep 4")
    checks.eventually(
        lambda: gw1.run("flock -n /run/xtables.lock true", check=False).returncode, bool, 5
    )
    start = time.monotonic()
    assert list(checks.changes(rules(ONE_MORE)))
    assert time.monotonic() - start > 2
    assert holder.wait(10) == 0
    gw1.restart()
    legacy.wait_minions()
    assert "-s 192.0.2.7/32 -j DROP" in gw1.run("iptables-legacy-save").stdout
    assert checks.failures(rules({})) == {}
    assert own(gw1) == good


# --------------------------------------------------------------------------------------------------
# Nothing is lost

STEADY = """
import socket, sys, time
s = socket.create_connection(("198.51.100.100", 7007), 5)
s.settimeout(10); worst = n = 0
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    start = time.monotonic(); s.sendall(b"x"); assert s.recv(1) == b"x"
    worst = max(worst, time.monotonic() - start); n += 1; time.sleep(0.005)
print(n, worst)
"""
ALTERNATE = f"""
cd /var/lib/gateway/firewall && cp -rL current /tmp/0 && cp -rL current /tmp/1
awk '/^-A GATEWAY-/ && !seen[$2]++ {{ print "-A", $2, "-s 192.0.2.7/32 -j RETURN" }} 1' \\
    current/kernel/v4 >/tmp/1/kernel/v4
for n in $(seq 100); do
    cp -r /tmp/$((n % 2)) .change$n
    {FIREWALL} try change$n 30 && {FIREWALL} confirm change$n || exit 1
done
rm -r /tmp/0 /tmp/1
"""


@pytest.mark.long
def test_a_hundred_changes_lose_nothing(site: Lab, rules: Rules) -> None:
    """With a packet a millisecond through NAT, and a connection that is open all the time."""
    gw1, backend = site.host("gw1"), site.host("backend01")
    steady = backend.spawn(["python3", "-c", STEADY, "40"])
    with site.probe(seconds=100) as probe:
        start = time.monotonic()
        gw1.run(ALTERNATE, timeout=90)
        seconds = time.monotonic() - start
    output, errors = steady.communicate(timeout=60)
    assert errors == ""
    echoes, worst = output.split()
    print(json.dumps({"seconds": seconds, "echoes": echoes, "worst": worst}))
    assert int(echoes) > 1000
    assert float(worst) < 0.2
    assert probe.result.sent > 3000
    assert probe.result.received == probe.result.sent
    assert apply(site) == {}
