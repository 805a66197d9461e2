"""`state.apply gateway`: the first time, every time, in test mode, and with a wrong pillar.

The first tests go through the life of two new servers, in this order.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import checks
import pki
import pytest
from conftest import GATEWAYS, converge, ok, snapshot
from engine import LAB, run
from lab import AUTHORITY, Lab

Change = Callable[..., dict[str, Any]]
WRONG = {
    "internal": {"virtual_ip": "10.78.0.1"},
    "nodes": {"gw2": {"internal": "10.77.0.300"}},
    "keepalived": {"setings": {}},
}
ERRORS = [
    "gateway:internal:virtual_ip: 10.78.0.1 is not inside 10.77.0.0/24",
    "gateway:nodes:gw2:internal: 10.77.0.300 is not an IPv4 address",
    'gateway:keepalived:setings: unknown key; did you mean "settings"?',
]


@pytest.fixture(scope="module")
def fresh(lab: Lab) -> Lab:
    """Two servers on which nobody has done anything yet."""
    lab.set_pillar({})
    lab.renew(*GATEWAYS)
    pki.distribute(lab)
    return lab


@pytest.mark.long
def test_a_lab_that_is_up_can_be_applied(lab: Lab) -> None:
    """`make up` brings the certificates that the pillar asks the master for."""
    master = lab.host("master")
    master.run(f"mv {AUTHORITY} /root/authority")
    try:
        bare = lab.apply(test=True)
        run([sys.executable, str(LAB / "lab.py"), "up"], timeout=180)
        ok(lab.apply(test=True))
    finally:
        master.run(f"rm -rf {AUTHORITY}; mv /root/authority {AUTHORITY}")
        pki.distribute(lab)
    for name in GATEWAYS:
        assert "has no CA" in checks.failures(bare[name])["openvpn certificates"]


def test_a_wrong_pillar_names_every_error_and_changes_nothing(fresh: Lab) -> None:
    before = {name: snapshot(fresh, name) for name in GATEWAYS}
    fresh.set_pillar({"gateway": WRONG})
    try:
        command = "salt --no-color 'gw*' state.apply gateway"
        printed = [
            fresh.host("master").run(command + test, check=False, timeout=120).stdout
            for test in (" test=True", "")
        ]
        results = [fresh.apply(test=True), fresh.apply()]
    finally:
        fresh.set_pillar({})
    for name in GATEWAYS:
        for result in results:
            (failure,) = checks.failures(result[name]).values()
            assert failure.splitlines()[1:] == ERRORS
            assert checks.changes(result[name]) == {}
        assert snapshot(fresh, name) == before[name]
    for text in printed:
        for error in ERRORS:
            assert text.count(error) == len(GATEWAYS)
        assert "Traceback" not in text


@pytest.mark.core
def test_the_first_apply_does_what_test_mode_said(fresh: Lab) -> None:
    before = {name: snapshot(fresh, name) for name in GATEWAYS}
    predicted = ok(fresh.apply(test=True))
    for name in GATEWAYS:
        assert snapshot(fresh, name) == before[name]
    done = ok(fresh.apply())
    for name in GATEWAYS:
        changed = {state["__id__"] for state in done[name].values() if state["changes"]}
        expected = {s["__id__"] for s in predicted[name].values() if s["result"] is None}
        assert changed == expected
        assert len(changed) > 30


@pytest.mark.core
def test_a_second_apply_changes_nothing(fresh: Lab) -> None:
    converge(fresh)
    before = {name: snapshot(fresh, name) for name in GATEWAYS}
    for test in (True, False):
        results = ok(fresh.apply(test=test))
        for name in GATEWAYS:
            assert checks.changes(results[name]) == {}
            assert all(state["result"] is True for state in results[name].values())
    assert {name: snapshot(fresh, name) for name in GATEWAYS} == before


def test_a_wrong_pillar_leaves_a_running_site_alone(site: Lab, pillar: Change) -> None:
    before = {name: snapshot(site, name) for name in GATEWAYS}
    results = pillar(WRONG)
    for name in GATEWAYS:
        (failure,) = checks.failures(results[name]).values()
        assert failure.splitlines()[1:] == ERRORS
        assert snapshot(site, name) == before[name]
    assert site.salt("gw*", "gateway.validate") == dict.fromkeys(GATEWAYS, ERRORS)


def test_status_and_drain_while_the_pillar_is_wrong(site: Lab, pillar: Change) -> None:
    """With a typo in it, and where it does not even render: they go by what was applied last."""
    before = site.salt("gw2", "gateway.status")["gw2"]
    server = "systemctl is-active openvpn-server@gateway-main"
    gw2 = site.host("gw2")
    site.set_pillar({"gateway": WRONG})
    for errors in (ERRORS, None):
        if errors is None:
            site.set_site("gateway: {{ nobody.knows() }}\n")
        try:
            status = site.salt("gw2", "gateway.status")["gw2"]
            assert status.keys() == before.keys()
            assert status["vpn"].keys() == before["vpn"].keys()
            assert status["services"] == before["services"]
            if errors:
                assert status["problems"][:-1] == errors
            else:
                assert any("Rendering SLS" in text for text in status["problems"])
            assert status["problems"][-1].endswith("judged by what was applied last")
            assert site.salt("gw2", "gateway.drain") == {"gw2": "this node is drained"}
            assert gw2.run(server, check=False).stdout == "inactive\n"
            assert site.salt("gw2", "gateway.undrain") == {"gw2": "this node is in service again"}
            assert gw2.run(server).stdout == "active\n"
        finally:
            site.set_site(site.with_authority())


def test_what_the_node_does_not_have_is_an_error(site: Lab, pillar: Change) -> None:
    results = pillar({"public": {"interface": "eth9"}, "nodes": {"gw2": {"internal": "10.77.0.4"}}})
    (failure,) = checks.failures(results["gw2"]).values()
    assert "gateway:public:interface: this node has no interface eth9" in failure
    assert "gateway:nodes:gw2:internal: 10.77.0.4 is not on this node's interface eth0" in failure


REJECTED = {
    "keepalived": (
        {"keepalived": {"settings": {"vrrp_versoin": "3"}}},
        "keepalived configuration",
        "vrrp_versoin",
        ("/etc/keepalived/keepalived.conf", "keepalived"),
    ),
    "dns": (
        {"dns": {"settings": {"cache-sice": 5}}},
        "dns configuration",
        "bad option",
        ("/etc/gateway/dns.conf", "gateway-dns"),
    ),
    "dhcp": (
        {"dhcp": {"settings": {"dhcp-bood": "x"}}},
        "dhcp configuration",
        "bad option",
        ("/etc/gateway/dhcp.conf", "gateway-dhcp"),
    ),
    "ntp": (
        {"ntp": {"settings": {"makestepp": "1 3"}}},
        "ntp configuration",
        "Invalid directive",
        ("/etc/chrony/chrony.conf", "chrony"),
    ),
    "openvpn": (
        {"vpn": {"servers": {"main": {"settings": {"no-such-option": True}}}}},
        "openvpn configuration of main",
        "Unrecognized option",
        ("/etc/openvpn/server/gateway-main.conf", "openvpn-server@gateway-main"),
    ),
}


@pytest.mark.parametrize("daemon", REJECTED)
def test_what_a_daemon_rejects_is_not_applied(site: Lab, pillar: Change, daemon: str) -> None:
    """The state fails with the daemon's own words; old file and running daemon stay."""
    override, state, message, (path, service) = REJECTED[daemon]

    def running() -> str:
        command = f"sha256sum {path}; systemctl show -P MainPID {service}"
        return site.host("gw1").run(command).stdout

    before = running()
    for test in (True, False):
        failures = checks.failures(pillar(override, target="gw1", test=test)["gw1"])
        assert message in failures[state]
        assert running() == before


def test_what_leaves_the_pillar_leaves_the_machine(site: Lab, pillar: Change) -> None:
    """A VPN server, a forward, a host and DHCP come, work, and are gone again."""
    gw1, backend, laptop = site.host("gw1"), site.host("backend01"), site.host("laptop")
    more = {
        "vpn": {"servers": {"tcp": {"network": "10.9.0.0/16", "port": 443, "proto": "tcp"}}},
        "nat": {
            "forwards": [
                {"port": 8080, "to": "backend01", "to_port": 80},
                {"port": 7007, "to": "www", "proto": "udp"},
            ]
        },
        "hosts": {"printer": {"ip": "10.77.0.20", "mac": "02:00:00:00:00:20"}},
    }
    ok(pillar(more))
    assert checks.http(laptop, "http://198.51.100.2:8080/") == "backend01 saw 198.51.100.50"
    assert checks.resolve(backend, "printer.example.internal", checks.VIRTUAL_IP) == "10.77.0.20"
    assert checks.resolve(backend, "10.77.0.20", checks.VIRTUAL_IP, "PTR").startswith("printer.")
    offers = site.dhcp_offers("02:00:00:00:00:20", seconds=2)
    assert [offer["address"] for offer in offers] == ["10.77.0.20"]
    with pki.Tunnel(site, "198.51.100.3", port=443, proto="tcp-client") as tunnel:
        assert tunnel.address == "10.9.1.128"
        assert checks.http(laptop, f"http://{checks.BACKEND}/") == "backend01 saw 10.9.1.128"
    assert "10.9.1.0/24 via 10.77.0.3" in gw1.run("ip route").stdout

    ok(pillar({"dhcp": {"enabled": False}}))
    assert checks.http(laptop, "http://198.51.100.2:8080/") == ""
    assert checks.resolve(backend, "printer.example.internal", checks.VIRTUAL_IP) == ""
    assert site.dhcp_offers("02:00:00:00:00:10", seconds=2) == []
    for name in GATEWAYS:
        left = site.host(name).run(
            "ip route; ip -brief link; ls -R /etc/gateway /etc/openvpn/server /etc/systemd/system;"
            " systemctl list-units --all '*gateway-tcp*' '*gateway-dhcp*' --no-legend --plain;"
            " iptables-save"
        )
        for trace in ("10.9.", "vpn-tcp", "gateway-tcp", "gateway-dhcp", "8080", "dhcp.conf"):
            assert trace not in left.stdout, trace


def test_routes_are_repaired_and_foreign_ones_left_alone(site: Lab) -> None:
    gw1 = site.host("gw1")
    gw1.run("systemctl stop gateway-follow")  # which would put ours back
    gw1.run("ip route add 10.200.0.0/24 via 10.77.0.9; ip route add 10.201.0.0/24 via 10.77.0.9")
    gw1.run("ip route add 10.202.0.0/24 via 10.77.0.9 proto 119; ip route del 10.8.1.0/24")
    try:
        before = gw1.run("ip route").stdout
        assert site.apply("gw1", "gateway.routes", test=True)
        assert gw1.run("ip route").stdout == before
        ok(site.apply("gw1", "gateway.routes"), "gw1")
        after = gw1.run("ip route").stdout
        assert "10.8.1.0/24 via 10.77.0.3" in after
        assert "10.202.0.0/24" not in after
        assert "10.200.0.0/24" in after
        assert "10.201.0.0/24" in after
        gw1.run("ip route del 10.8.1.0/24; ip route add 10.8.1.0/24 via 10.77.0.9")
        failures = checks.failures(site.apply("gw1", "gateway.routes")["gw1"])
        assert failures["routes to the peers' VPN subnets"] == (
            "There is a route to 10.8.1.0/24 already that is not ours."
        )
        assert "10.8.1.0/24 via 10.77.0.9" in gw1.run("ip route").stdout
    finally:
        gw1.run("for n in 10.200.0.0/24 10.201.0.0/24 10.8.1.0/24; do ip route del $n; done")
        ok(site.apply("gw1", "gateway.routes"), "gw1")
        gw1.run("systemctl start gateway-follow")


def test_an_upgrade_of_the_formula_takes_effect_at_once(site: Lab) -> None:
    """Planner, state and template change on the master; one apply, no sync, no restart."""
    master = site.host("master")
    master.run(
        "cd /srv/formula && rm _modules _states gateway && cp -a /srv/repo/_modules"
        " /srv/repo/_states /srv/repo/gateway . &&"
        " sed -i 's/^HIGHEST_PRIORITY = 250/HIGHEST_PRIORITY = 240/' _modules/_gateway_nodes.py &&"
        " sed -i 's/60-gateway.conf/61-gateway.conf/' gateway/kernel/init.sls &&"
        " sed -i 's/Kernel settings set/Upgraded/' _states/gateway_network.py &&"
        " sed -i 's/# Managed by/# Maintained by/' gateway/keepalived/files/keepalived.conf.jinja"
    )
    try:
        results = ok(site.apply("gw2"), "gw2")["gw2"]
        comments = {state["__id__"]: state["comment"] for state in results.values()}
        assert comments["kernel settings"] == "Upgraded."
        config = site.host("gw2").run("cat /etc/keepalived/keepalived.conf").stdout
        assert "priority 239" in config
        assert "Maintained by Salt" in config
    finally:
        master.run(
            "cd /srv/formula && rm -r _modules _states gateway &&"
            " ln -s /srv/repo/_modules /srv/repo/_states /srv/repo/gateway ."
        )
        site.host("gw2").run("rm /etc/sysctl.d/61-gateway.conf")
        ok(site.apply("gw2"), "gw2")


def secret(text: str) -> str:
    """A line of a private key that no other file has."""
    return text.splitlines()[2]


def test_keys_of_the_authority_reach_the_daemon_and_nothing_else(site: Lab) -> None:
    """A gateway's certificate is renewed; its clients come with the profile that they have. No key
    is seen anywhere."""
    returns = ""
    secrets = [secret(pki.read(site, name)) for name in ("ca.key", "issued/laptop.pem")]
    for _ in range(2):
        renewed = pki.call(site, "renew", "gw1")
        secrets.append(secret(pki.read(site, "issued/gw1.pem")))
        returns += str(renewed) + str(site.apply(test=True))
        results = ok(site.apply())
        returns += str(results)
        assert "openvpn configuration of main" in checks.changes(results["gw1"])
        assert checks.changes(results["gw2"]) == {}
        returns += str(site.salt("gw*", "gateway.plan")) + str(site.salt("gw*", "gateway.status"))
        with pki.Tunnel(site, "198.51.100.2") as tunnel:
            page = checks.http(site.host("laptop"), f"http://{checks.BACKEND}/")
            assert page == f"backend01 saw {tunnel.address}"
    in_force = site.host("gw1").run("cat /etc/openvpn/server/gateway-main.conf").stdout
    assert secrets[-1] in in_force
    mode = site.host("gw1").run("stat -c %a /etc/openvpn/server/gateway-main.conf").stdout
    assert mode == "600\n"
    places = {
        "master": "/var/cache/salt/master/jobs /var/log",
        "gw1": "/var/log /etc /var/lib /tmp",
        "gw2": "/var/log /etc /var/lib /tmp",
    }
    assert all(key not in returns for key in secrets)
    patterns = "\n".join(secrets)
    for name, folders in places.items():
        host = site.host(name)
        found = host.run(f"grep -rlaF -f - {folders}", check=False, input=patterns).stdout.split()
        assert set(found) <= {"/etc/openvpn/server/gateway-main.conf"}
        said = host.run("journalctl --no-pager -q").stdout
        assert all(key not in said for key in secrets)


@pytest.mark.long
def test_certificates_of_one_s_own(site: Lab) -> None:
    """pillar.example as it is: paths on the gateways. The VPN works, in and out of it."""
    with pki.brought_by_the_user(site):
        ok(site.apply())
        config = site.host("gw1").run("cat /etc/openvpn/server/gateway-main.conf").stdout
        assert f"{pki.ON_GATEWAY}/server.key" in config
        assert "BEGIN" not in config
        with pki.Tunnel(site, "198.51.100.2") as tunnel:
            page = checks.http(site.host("laptop"), f"http://{checks.BACKEND}/")
            assert page == f"backend01 saw {tunnel.address}"
    converge(site)
