"""What runs where the virtual IP is, who hears of it, and network managers that restart."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import checks
import pytest
from conftest import GATEWAYS, converge, ok, secondary_in_charge, wait_for_primary
from lab import Host, Lab

Change = Callable[..., dict[str, Any]]
APP = """\
[Service]
ExecStart=sleep infinity
[Install]
WantedBy=multi-user.target
"""
HOOK = '#!/bin/sh\necho "$1 $GATEWAY_NODE $GATEWAY_VIRTUAL_IP" >>/var/tmp/heard\n'
# Whether the executables have heard of the last call, so that none is under way.
TOLD = """\
read -r number _ </run/gateway/hooks.asked
[ "$(cat /run/gateway/hooks.told)" = "$(cat /run/gateway/role) $number" ]
"""
SAY = 'echo "{} $1 $GATEWAY_REASON" >>/var/tmp/heard\n'
SLOW_HOOK = f"#!/bin/sh\n{SAY.format('begin')}sleep 0.5\n{SAY.format('end')}"
LINK = """\
[Match]
Name={name}
[Network]
IPv6AcceptRA=no
Address={address}/24
{more}
"""


def holders_of(lab: Lab, unit: str) -> list[str]:
    """Where a unit runs."""
    ask = f"systemctl is-active --quiet {unit}"
    return [name for name in GATEWAYS if not lab.host(name).run(ask, check=False).returncode]


@pytest.fixture
def app(site: Lab) -> Iterator[Callable[[], list[str]]]:
    """A service of the user's, enabled and running on both nodes; returns where it runs now."""
    for name in GATEWAYS:
        host = site.host(name)
        host.write("/etc/systemd/system/app.service", APP)
        host.run("systemctl daemon-reload; systemctl -q enable --now app")

    yield partial(holders_of, site, "app")
    for name in GATEWAYS:
        site.host(name).run(
            "systemctl -q disable --now app; rm /etc/systemd/system/app.service; "
            "systemctl daemon-reload"
        )


@pytest.fixture
def heard(site: Lab, request: pytest.FixtureRequest) -> Iterator[Callable[[str], list[str]]]:
    """An executable in follow.d on both nodes (HOOK, or the one that a test names); returns what it
    heard on one."""
    hook = getattr(request, "param", HOOK)
    for name in GATEWAYS:
        told = partial(site.host(name).run, TOLD, check=False)
        assert checks.eventually(told, lambda done: not done.returncode, 20).returncode == 0
        site.host(name).write("/etc/gateway/follow.d/10-note", hook, 0o755)
    yield lambda name: site.host(name).run("cat /var/tmp/heard", check=False).stdout.splitlines()
    for name in GATEWAYS:
        site.host(name).run("rm -f /etc/gateway/follow.d/10-note /var/tmp/heard")


def runs(app: Callable[[], list[str]], *names: str) -> None:
    wanted = list(names)
    assert checks.eventually(app, lambda on: on == wanted, 5) == wanted


def test_a_service_follows(site: Lab, app: Callable[[], list[str]], pillar: Change) -> None:
    runs(app, "gw1", "gw2")
    site.set_pillar({"gateway": {"follow_virtual_ip": ["app.service"]}})
    predicted = ok(site.apply(test=True))
    runs(app, "gw1", "gw2")
    done = ok(pillar({"follow_virtual_ip": ["app.service"]}))
    for name in GATEWAYS:
        assert checks.changes(predicted[name]).keys() == checks.changes(done[name]).keys()
    runs(app, "gw1")
    assert {name: checks.changes(ok(site.apply())[name]) for name in GATEWAYS} == {
        name: {} for name in GATEWAYS
    }
    with secondary_in_charge(site):
        runs(app, "gw2")
        # Neither by hand, nor because it is enabled.
        site.host("gw1").run("systemctl start app", check=False)
        runs(app, "gw2")
    runs(app, "gw1")
    site.host("gw2").restart()
    time.sleep(2)
    runs(app, "gw1")
    for name in GATEWAYS:
        status = site.salt(name, "gateway.status")[name]
        assert status["services"]["app.service"] == {"gw1": "active", "gw2": "inactive"}[name]
    # Cut off from each other both have the virtual IP.
    site.isolate("gw1", "eth0")
    runs(app, "gw1", "gw2")
    site.rejoin("gw1", "eth0")
    runs(app, "gw1")
    ok(pillar({}))
    runs(app, "gw1")
    site.host("gw2").run("systemctl start app")
    runs(app, "gw1", "gw2")


def test_the_follower_dies_while_the_virtual_ip_moves(
    site: Lab, app: Callable[[], list[str]], pillar: Change
) -> None:
    ok(pillar({"follow_virtual_ip": ["app.service"]}))
    runs(app, "gw1")
    for name in GATEWAYS:
        site.host(name).run("systemctl kill -s KILL gateway-follow")
    with secondary_in_charge(site):
        runs(app, "gw2")
        for name in GATEWAYS:
            site.host(name).run("systemctl kill -s KILL gateway-follow")
    runs(app, "gw1")


def test_executables_hear_of_it(site: Lab, heard: Callable[[str], list[str]]) -> None:
    for name in GATEWAYS:
        site.host(name).run("systemctl restart gateway-follow")
    first = ["primary gw1 10.77.0.1"]
    assert checks.eventually(lambda: heard("gw1"), lambda said: said == first, 10) == first
    with secondary_in_charge(site):
        wanted = {"gw1": "secondary gw1 10.77.0.1", "gw2": "primary gw2 10.77.0.1"}
        last = checks.eventually(
            lambda: {name: (heard(name) or [""])[-1] for name in GATEWAYS},
            lambda it: it == wanted,
            10,
        )
        assert last == wanted


def test_an_executable_that_hangs_delays_nothing(
    site: Lab, heard: Callable[[str], list[str]]
) -> None:
    gw1 = site.host("gw1")
    gw1.write("/etc/gateway/follow.d/05-hangs", "#!/bin/sh\nsleep 600\n", 0o755)
    gw1.run("systemctl restart gateway-follow")
    try:
        with secondary_in_charge(site):
            runs(partial(holders_of, site, "gateway-dhcp"), "gw2")
    finally:
        gw1.run("rm /etc/gateway/follow.d/05-hangs; systemctl stop gateway-follow-hooks")
    said = checks.eventually(partial(heard, "gw1"), bool, 30)
    assert said[-1] == "primary gw1 10.77.0.1"


@pytest.mark.parametrize("heard", [pytest.param(SLOW_HOOK, id="slow")], indirect=True)
def test_executables_are_asked_again(
    site: Lab, pillar: Change, heard: Callable[[str], list[str]]
) -> None:
    """After a contest, which gw1 wins without a change of its role, and from time to time; one call
    at a time."""

    def hears(name: str, line: str, seconds: float) -> None:
        said = checks.eventually(partial(heard, name), lambda said: line in said, seconds)
        assert line in said, said

    ok(pillar({"failover": {"reassert": 10}}))
    hears("gw1", "end primary start", 5)
    hears("gw2", "end secondary start", 5)
    site.isolate("gw1", "eth0")
    hears("gw2", "end primary change", 5)
    site.rejoin("gw1", "eth0")
    hears("gw1", "end primary contest", 5)
    hears("gw2", "end secondary change", 5)
    hears("gw1", "end primary reassert", 13)
    # Meanwhile another one is asked for, twice.
    site.host("gw1").run(3 * "systemctl restart gateway-follow; sleep 0.3; ")
    time.sleep(3)
    for name in GATEWAYS:
        said = heard(name)
        assert said[::2] == [line.replace("end", "begin") for line in said[1::2]]
    assert "reassert" not in " ".join(heard("gw2"))


def test_the_master_hears_of_it(site: Lab) -> None:
    """Also after it was away, and then of the last role."""
    master = site.host("master")
    listen = "exec env PYTHONUNBUFFERED=1 timeout 120 salt-run state.event 'gateway/*' >/tmp/bus"

    def heard() -> dict[str, str]:
        found = {}
        for line in master.run("cat /tmp/bus").stdout.splitlines():
            tag, _, text = line.partition("\t")
            assert tag == "gateway/example.internal/vrrp"
            data = json.loads(text)["data"]
            assert data["time"].endswith("Z")
            found[data["node"]] = data["role"]
        return found

    bus = master.spawn(listen)
    time.sleep(3)
    try:
        with secondary_in_charge(site):
            wanted = {"gw1": "secondary", "gw2": "primary"}
            assert checks.eventually(heard, lambda it: it == wanted, 40) == wanted
            master.run("systemctl stop salt-master")
        time.sleep(2)
        master.run("systemctl start salt-master")
        wanted = {"gw1": "primary", "gw2": "secondary"}
        assert checks.eventually(heard, lambda it: it == wanted, 60) == wanted
    finally:
        master.run(
            "systemctl start salt-master; pkill -f '[s]tate.event'; rm /tmp/bus", check=False
        )
        bus.wait()
        site.wait_minions()


def route_is_back(host: Host) -> None:
    ask = "ip -4 route show proto 119"
    assert checks.eventually(lambda: host.run(ask).stdout, bool, 3).startswith("10.8.1.0/24 via")


def test_a_virtual_ip_that_is_taken_away_goes_to_the_peer(site: Lab) -> None:
    gw1 = site.host("gw1")
    with site.probe() as probe:
        time.sleep(0.5)
        gw1.run("ip address del 10.77.0.1/32 dev eth0; ip route flush proto 119")
        time.sleep(1)
    assert probe.result.longest_outage_ms() <= 400
    assert len(checks.holders(site)) == 1
    route_is_back(gw1)
    wait_for_primary(site)


def test_an_interface_that_is_restarted(site: Lab) -> None:
    """What ifdown and ifup do."""
    gw1 = site.host("gw1")
    with site.probe() as probe:
        time.sleep(0.5)
        gw1.run("ip address del 10.77.0.2/24 dev eth0; ip link set eth0 down; sleep 1")
        gw1.run("ip address add 10.77.0.2/24 dev eth0; ip link set eth0 up")
        route_is_back(gw1)
        wait_for_primary(site)
        time.sleep(1)
    assert probe.result.longest_outage_ms() <= 400


@pytest.fixture
def networkd(site: Lab) -> Iterator[Host]:
    """gw1, whose interfaces systemd-networkd manages."""
    gw1 = site.host("gw1")
    gateway = f"Gateway={checks.INTERNET}"
    for name, address, more in (
        ("eth0", checks.INTERNAL["gw1"], ""),
        ("eth1", checks.PUBLIC["gw1"], gateway),
    ):
        text = LINK.format(name=name, address=address, more=more)
        gw1.write(f"/run/systemd/network/10-{name}.network", text, 0o644)
    gw1.run("systemctl start systemd-networkd")
    yield gw1
    gw1.run("rm /run/systemd/network/10-*; systemctl stop systemd-networkd.socket systemd-networkd")
    # All as a boot makes it. Its drop-ins go with the next apply.
    gw1.restart()
    site.wait_minions()
    ok(site.apply())
    assert gw1.run("ls -A /etc/systemd/network").stdout == ""
    converge(site)


@pytest.mark.long
def test_networkd_takes_nothing_away(site: Lab, networkd: Host) -> None:
    state = "systemd-networkd keeps what is ours"
    predicted = checks.changes(ok(site.apply(sls="gateway.network", test=True))["gw1"])[state]
    done = ok(site.apply(sls="gateway.network"))
    assert checks.changes(done["gw1"])[state] == predicted
    assert checks.changes(done["gw2"]) == {}
    assert checks.changes(ok(site.apply(sls="gateway.network"))["gw1"]) == {}
    began = networkd.run("date +%s").stdout.strip()
    for again in (
        "systemctl restart systemd-networkd",
        # In a container a restart finds nothing to remove. A changed file is read as at a boot.
        "touch /run/systemd/network/*; networkctl reload",
    ):
        with site.probe() as probe:
            networkd.run(f"sleep 0.5; {again}; sleep 2")
        assert probe.result.received == probe.result.sent
        assert networkd.run("ip route show proto 119 10.8.1.0/24").stdout
        assert checks.holders(site) == ["gw1"]
    since = networkd.run(f"journalctl -u keepalived --since @{began} -o cat").stdout
    assert "BACKUP" not in since
