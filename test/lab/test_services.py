"""What the network behind the pair has while both gateways live. Every test sends real packets."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import checks
import pki
import pytest
from conftest import END_MINION, GATEWAYS, ok, wait_for_primary
from lab import SALT_SERIES, Host, Lab

Change = Callable[..., dict[str, Any]]
SERIES = ("3006", "3007", "3008")


@pytest.mark.core
def test_internet_through_nat(site: Lab) -> None:
    page = checks.http(site.host("backend01"), f"http://{checks.INTERNET}/")
    assert page == "internet saw 198.51.100.2"


@pytest.mark.core
def test_the_nodes_own_traffic_is_not_translated(site: Lab) -> None:
    """Whichever node has the virtual IP, each one reaches the internet as itself."""
    for name, public in checks.PUBLIC.items():
        fetch = f"from urllib.request import *; print(urlopen('http://{checks.INTERNET}/').read().decode())"
        assert (
            site.host(name).run(["python3", "-c", fetch]).stdout.strip() == f"internet saw {public}"
        )


@pytest.mark.core
def test_port_forward(site: Lab) -> None:
    page = checks.http(site.host("laptop"), "http://198.51.100.2:443/")
    assert page == "backend01 saw 198.51.100.50"


@pytest.mark.core
def test_the_public_side_gets_no_further_than_the_forwards(site: Lab) -> None:
    """A neighbour on the public network who routes to us reaches neither the LAN nor its DNS."""
    laptop = site.host("laptop")
    laptop.run("ip route add 10.77.0.0/24 via 198.51.100.2")
    try:
        assert checks.http(laptop, f"http://{checks.BACKEND}/") == ""
        assert checks.resolve(laptop, "www.example.internal", checks.VIRTUAL_IP) == ""
    finally:
        laptop.run("ip route del 10.77.0.0/24")


@pytest.mark.core
@pytest.mark.parametrize("server", [checks.VIRTUAL_IP, *checks.INTERNAL.values()])
def test_dns(site: Lab, server: str) -> None:
    backend = site.host("backend01")
    assert checks.resolve(backend, "www.example.internal", server) == checks.BACKEND
    assert checks.resolve(backend, "gw2.example.internal", server) == "10.77.0.3"
    assert checks.resolve(backend, checks.BACKEND, server, "PTR") == "backend01.example.internal."
    assert checks.resolve(backend, "nobody.example.internal", server) == ""
    assert checks.resolve(backend, "www.example.net", server) == checks.INTERNET


ELSEWHERE = """
port=5335
no-resolv
no-hosts
pid-file=
host-record=www.example.org,198.51.100.100,2001:db8::100
host-record=mail.www.example.org,198.51.100.100,2001:db8::100
host-record=shop.example.internal,198.51.100.100
"""


def ask(host: Host, name: str, kind: str, server: str = checks.VIRTUAL_IP) -> tuple[str, str]:
    """The status of a DNS server's answer, and its last record's value or ""."""
    command = f"dig +time=2 +tries=2 +noall +comments +answer @{server} {name} {kind}"
    lines = host.run(command).stdout.splitlines()
    [status] = [line.split("status: ")[1].split(",")[0] for line in lines if "status: " in line]
    values = [line.split(None, 4)[4] for line in lines if line and not line.startswith(";")]
    return status, (values or [""])[-1]


def test_names_that_are_ours(site: Lab, pillar: Change) -> None:
    """What is ours is ours alone, and what is not is asked elsewhere, on any port."""
    internet, backend = site.host("internet"), site.host("backend01")
    internet.write("/run/lab-5335.conf", ELSEWHERE)
    serve = "/usr/sbin/dnsmasq --keep-in-foreground --conf-file=/run/lab-5335.conf"
    internet.run(f"systemd-run --quiet --unit lab-5335 {serve}")
    second = "02:00:00:00:00:99"
    host: dict[str, Any] = {"mac": [checks.BACKEND_MAC, second]}
    gateway: dict[str, Any] = {
        "dns": {
            "forwarders": ["198.51.100.100#5335"],
            "settings": {"txt-record": 'spf.example.internal,"v=spf1 -all"'},
        },
        "internal": {"aliases": ["gateway"]},
        "nodes": {"gw2": {"aliases": ["spare"]}},
        "hosts": {"backend01": {**host, "aliases": ["www.example.org", "*.apps"]}},
    }
    ours, nothing = ("NOERROR", checks.BACKEND), ("NOERROR", "")
    try:
        ok(pillar(gateway))
        for server in (checks.VIRTUAL_IP, *checks.INTERNAL.values()):
            for name in ("www.example.org", "x.apps.example.internal", "y.x.apps.example.internal"):
                assert ask(backend, name, "A", server) == ours
                assert ask(backend, name, "AAAA", server) == nothing
                assert ask(backend, name, "HTTPS", server) == nothing
        assert ask(backend, "mail.www.example.org", "AAAA") == ("NOERROR", "2001:db8::100")
        assert ask(backend, "gateway.example.internal", "A") == ("NOERROR", checks.VIRTUAL_IP)
        assert ask(backend, "spare.example.internal", "A") == ("NOERROR", "10.77.0.3")
        assert ask(backend, "spf.example.internal", "TXT") == ("NOERROR", '"v=spf1 -all"')
        assert ask(backend, "shop.example.internal", "A") == ("NXDOMAIN", "")
        for mac in host["mac"]:
            assert [offer["address"] for offer in site.dhcp_offers(mac)] == [checks.BACKEND]
        # A name more is no reason to restart anything, and one that is gone is somebody else's.
        show = "systemctl show -P MainPID gateway-dns"
        before = site.host("gw1").run(show).stdout
        gateway["hosts"]["backend01"]["aliases"] = ["mail.www.example.org", "*.apps"]
        ok(pillar(gateway))
        assert ask(backend, "www.example.org", "AAAA") == ("NOERROR", "2001:db8::100")
        assert ask(backend, "mail.www.example.org", "AAAA") == nothing
        assert site.host("gw1").run(show).stdout == before
        # An earlier test may have had it ask the other node.
        backend.run("systemctl restart lab-dhcp")
        known = checks.eventually(
            lambda: site.salt("gw1", "gateway.leases")["gw1"],
            lambda leases: checks.BACKEND_MAC in {lease["mac"] for lease in leases},
            10,
        )
        assert checks.BACKEND_MAC in {lease["mac"] for lease in known}
        # The site's domain exists outside, too; and the backend's address is another machine's.
        gateway["dns"]["public_domain"] = True
        gateway["hosts"]["backend01"]["mac"] = second
        ok(pillar(gateway))
        assert ask(backend, "shop.example.internal", "A") == ("NOERROR", checks.INTERNET)
        assert ask(backend, "backend01.example.internal", "A") == ours
        assert ask(backend, "backend01.example.internal", "AAAA") == nothing
        assert ask(backend, "x.apps.example.internal", "AAAA") == nothing
        [problem] = site.salt("gw1", "gateway.status")["gw1"]["problems"]
        reserved = f"DHCP: {checks.BACKEND} is reserved for backend01.example.internal"
        assert problem.startswith(f"{reserved}, but {checks.BACKEND_MAC} has it until 20")
    finally:
        internet.run("systemctl stop lab-5335; rm -f /run/lab-5335.conf")


@pytest.mark.core
def test_dhcp_gives_the_reservation_and_the_site_s_options(site: Lab) -> None:
    lease = checks.lease(site)
    assert lease["fixed-address"] == checks.BACKEND
    assert lease["routers"] == checks.VIRTUAL_IP
    assert lease["domain-name-servers"] == checks.VIRTUAL_IP
    assert lease["ntp-servers"] == "10.77.0.2,10.77.0.3"
    assert lease["domain-name"] == "example.internal"
    backend = site.host("backend01")
    assert backend.run(["getent", "hosts", "www"]).stdout.split()[0] == checks.BACKEND


@pytest.mark.core
def test_dhcp_is_answered_by_one_server(site: Lab) -> None:
    reserved = site.dhcp_offers(checks.BACKEND_MAC, seconds=2)
    assert [(o["server"], o["address"]) for o in reserved] == [("10.77.0.2", checks.BACKEND)]
    dynamic = site.dhcp_offers("02:00:00:00:00:99", seconds=2)
    assert [offer["server"] for offer in dynamic] == ["10.77.0.2"]
    assert dynamic[0]["address"].startswith("10.77.0.1")


@pytest.mark.core
@pytest.mark.parametrize("server", [checks.VIRTUAL_IP, *checks.INTERNAL.values()])
def test_time(site: Lab, server: str) -> None:
    backend = site.host("backend01")
    # One below the internet's.
    assert checks.wait_stratum(backend, server, lambda stratum: stratum == 3, 30) == 3
    assert checks.ntp_stratum(site.host("laptop"), "198.51.100.2") == 16  # not for the public side


def lan_time_without_uplink(site: Lab, service: str) -> None:
    """Restart both NTP servers while no upstream answers: the LAN has time all the same."""
    internet, backend = site.host("internet"), site.host("backend01")
    internet.run("systemctl stop lab-ntp")
    try:
        for name in GATEWAYS:
            site.host(name).run(f"systemctl restart {service}")
        for server in (checks.VIRTUAL_IP, *checks.INTERNAL.values()):
            stratum = checks.wait_stratum(backend, server, lambda s: 10 <= s < 16, 90)
            assert 10 <= stratum <= 12, server
    finally:
        internet.run("systemctl start lab-ntp")
        for name in GATEWAYS:
            site.host(name).run(f"systemctl restart {service}")
        for server in checks.INTERNAL.values():
            assert checks.wait_stratum(backend, server, lambda s: s == 3, 60) == 3


def test_time_goes_on_without_uplink(site: Lab) -> None:
    lan_time_without_uplink(site, "chrony")


@pytest.mark.long
def test_time_by_ntpsec(site: Lab, pillar: Change) -> None:
    """The other provider replaces chrony, serves the same, and gives way again."""
    backend = site.host("backend01")
    ok(pillar({"ntp": {"provider": "ntpsec"}}))
    for server in (checks.VIRTUAL_IP, *checks.INTERNAL.values()):
        assert checks.wait_stratum(backend, server, lambda s: s == 3, 60) == 3, server
    results = ok(site.apply())
    for name in GATEWAYS:
        assert checks.changes(results[name]) == {}
        assert site.salt(name, "gateway.status")[name]["problems"] == []
        assert site.host(name).run("systemctl is-active chrony", check=False).stdout != "active\n"
    failures = checks.failures(
        pillar({"ntp": {"provider": "ntpsec", "settings": {"no-such": "x"}}}, target="gw1")["gw1"]
    )
    assert "syntax error" in failures["ntp configuration"]
    lan_time_without_uplink(site, "ntpsec")


@pytest.mark.core
@pytest.mark.parametrize("name", GATEWAYS)
def test_vpn(site: Lab, name: str) -> None:
    """Through each gateway, also the one without the virtual IP, opened from either side."""
    backend, laptop = site.host("backend01"), site.host("laptop")
    with pki.Tunnel(site, checks.PUBLIC[name]) as tunnel:
        assert tunnel.address.startswith(checks.TUNNEL_NETWORK[name])
        assert checks.http(laptop, f"http://{checks.BACKEND}/") == f"backend01 saw {tunnel.address}"
        assert checks.http(backend, f"http://{tunnel.address}/") == f"laptop saw {checks.BACKEND}"
        for host, other in ((laptop, checks.BACKEND), (backend, tunnel.address)):
            size = 2_000_000
            echo = f"head -c {size} /dev/zero | timeout 20 nc -N {other} 7007 | wc -c"
            assert int(host.run(echo).stdout) == size
        assert checks.resolve(laptop, "www.example.internal", checks.VIRTUAL_IP) == checks.BACKEND
        # The test before may have restarted the servers.
        assert checks.wait_stratum(laptop, checks.VIRTUAL_IP, lambda s: s == 3, 60) == 3
        for push in ("route 10.77.0.0 255.255.255.0", "dhcp-option DNS 10.77.0.1"):
            assert push in tunnel.log
        assert "dhcp-option DOMAIN example.internal" in tunnel.log


@pytest.mark.core
def test_routes_to_the_peers(site: Lab) -> None:
    routes = {"gw1": "10.8.1.0/24 via 10.77.0.3", "gw2": "10.8.0.0/24 via 10.77.0.2"}
    for name, route in routes.items():
        assert site.host(name).run("ip route show proto 119").stdout.startswith(f"{route} dev eth0")


@pytest.mark.core
def test_status_and_the_other_functions(site: Lab) -> None:
    status = site.salt("gw*", "gateway.status")
    assert status["gw1"]["vrrp"]["internal"] == {"virtual_ip": "10.77.0.1", "role": "MASTER"}
    assert status["gw2"]["vrrp"]["internal"] == {"virtual_ip": "10.77.0.1", "role": "BACKUP"}
    assert status["gw1"]["digest"] == status["gw2"]["digest"]
    assert [status[name]["problems"] for name in GATEWAYS] == [[], []]
    site.host("gw2").run("systemctl stop gateway-follow gateway-dns; ip route del 10.8.0.0/24")
    try:
        problems = site.salt("gw2", "gateway.status")["gw2"]["problems"]
        assert {
            "service gateway-dns is dead",
            "service gateway-follow is dead",
            "the route to 10.8.0.0/24 is missing",
        } <= set(problems)
    finally:
        ok(site.apply("gw2"), "gw2")


@pytest.mark.core
@pytest.mark.parametrize("name", GATEWAYS)
def test_services_may_do_only_what_they_need(site: Lab, name: str) -> None:
    """That they have what they need is what all other tests here show."""
    found = checks.exposures(site.host(name))
    daemons = ("keepalived", "openvpn-server@gateway-main", "chrony")
    scripts = (
        "firewall",
        "firewall-guard",
        "routes",
        "dns",
        "dhcp",
        "follow",
        "follow-hooks",
        "follow-event",
    )
    assert {f"{unit}.service" for unit in daemons} <= found.keys()
    assert {f"gateway-{unit}.service" for unit in (*scripts, "health")} <= found.keys()
    assert {unit: level for unit, level in found.items() if level > 5} == {}
    # And it is in force: a process may be older than its unit.
    for unit in found:
        show = f"cat /proc/$(systemctl show -P MainPID {unit})/status"
        status = site.host(name).run(show, check=False).stdout
        assert not status or "Seccomp:\t2\n" in status, unit
    assert site.host(name).run("systemctl --failed --no-legend").stdout == ""


MAY = [
    "ping -q -c 1 -W 2 10.77.0.3",
    "exec 3<>/dev/tcp/198.51.100.100/80",
    "cat /etc/shadow",
    "systemctl is-active gateway-dns && systemctl try-restart chrony",
    "ip address add 192.0.2.7/32 dev lo && ip address del 192.0.2.7/32 dev lo",
    "iptables -N LAB && iptables -X LAB",
    "runuser -u nobody true",
    *(f"touch {folder}/lab && rm {folder}/lab" for folder in ("/var/lib", "/run", "/tmp", "/root")),
    # The way out.
    "systemd-run --quiet --wait --collect --pipe sh -c 'touch /usr/lab && rm /usr/lab'",
]
MAY_NOT = ["touch /usr/lab", "mount -t tmpfs lab /mnt", "unshare --net true", "ls /dev/net/tun"]


@pytest.mark.parametrize("folder", ["follow.d", "health.d"])
def test_what_executables_of_the_user_may_do(site: Lab, folder: str) -> None:
    """As docs/security.md says; it is what such things do."""
    gw1, path = site.host("gw1"), f"/etc/gateway/{folder}/lab"
    script = "".join(
        f"timeout 20 bash -c {shlex.quote(command)} >/dev/null 2>&1; echo $? >>/run/lab.new\n"
        for command in (*MAY, *MAY_NOT)
    )
    # A check has five seconds, on a machine that is busy with all of the lab.
    begin = "mkdir /run/lab-begun 2>/dev/null || exit 0\n"
    end = "mv /run/lab.new /run/lab.done\n"
    text = f"{script}{end}" if folder == "follow.d" else f"{{\n{script}{end}}} &\n"
    gw1.write(path, f"#!/bin/bash\n{begin}{text}", 0o755)
    try:
        gw1.run("systemctl restart gateway-follow")
        ask = "cat /run/lab.done"
        said = checks.eventually(lambda: gw1.run(ask, check=False).stdout, bool, 90).split()
        assert [code == "0" for code in said] == [True] * len(MAY) + [False] * len(MAY_NOT)
    finally:
        gw1.run(f"rm -rf {path} /run/lab.new /run/lab.done /run/lab-begun")


# What tells the master who has the virtual IP goes, where there is none.
WITHOUT_MASTER = {
    "nobody tells a Salt master",
    "follower unit",
    "follower service",
}


@pytest.mark.parametrize("series", SERIES)
def test_every_series_of_salt(site: Lab, masterless: Host, series: str) -> None:
    """Module from the command line and states, masterless, from an empty cache."""
    gw1 = masterless
    call = f"/opt/salt/{series}/bin/salt-call --config-dir /etc/salt/masterless --out=json"
    gw1.run("rm -rf /var/cache/salt/masterless")
    results = checks.local(gw1, f"{call} state.apply gateway")
    assert checks.failures(results) == {}
    assert checks.changes(results).keys() <= WITHOUT_MASTER
    master = site.salt("gw1", "gateway.plan")["gw1"]
    assert checks.local(gw1, f"{call} gateway.plan") == master
    assert checks.local(gw1, f"{call} gateway.plan node=gw2")["node"]["name"] == "gw2"
    assert checks.local(gw1, f"{call} gateway.validate") == []
    assert checks.local(gw1, f"{call} gateway.digest") == master["digest"]
    assert checks.local(gw1, f"{call} gateway.vpn_subnets") == {
        "main": {"gw1": "10.8.0.0/24", "gw2": "10.8.1.0/24"}
    }
    assert checks.local(gw1, f"{call} gateway.routes") == master["routes"]
    assert checks.local(gw1, f"{call} gateway.status")["problems"] == []


OTHER_SERIES = [series for series in SERIES if series != SALT_SERIES]


@pytest.mark.parametrize(
    "series",
    [OTHER_SERIES[0], *(pytest.param(each, marks=pytest.mark.long) for each in OTHER_SERIES[1:])],
)
def test_a_minion_of_every_series(site: Lab, series: str) -> None:
    """It gets modules, states and their libraries from the master, and has nothing to do; then it
    takes all away, and does all of it from nothing."""
    gw1 = site.host("gw1")
    ok(site.apply())  # a node that was applied without a master has nobody who tells it
    digest = site.salt("gw1", "gateway.digest")
    become = (
        f"{END_MINION}; rm -rf /var/cache/salt/minion/extmods;"
        " ln -sfn /opt/salt/{} /opt/salt/current; systemctl start salt-minion"
    )
    gw1.run(become.format(series))
    try:
        site.wait_minions()
        assert str(site.salt("gw1", "grains.get", "saltversion")["gw1"]).startswith(series)
        results = ok(site.apply("gw1"), "gw1")["gw1"]
        assert checks.changes(results) == {}
        assert site.salt("gw1", "gateway.digest") == digest
        ok(site.apply("gw1", "gateway.clean"), "gw1")
        assert len(checks.changes(ok(site.apply("gw1"), "gw1")["gw1"])) > 30
        assert checks.changes(ok(site.apply("gw1"), "gw1")["gw1"]) == {}
        wait_for_primary(site)
        assert site.salt("gw1", "gateway.status")["gw1"]["problems"] == []
    finally:
        gw1.run(become.format(SALT_SERIES))
        site.wait_minions()
