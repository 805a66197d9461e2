"""The VPN with real clients: who is let in, under which address, what each one reaches, and what
the others notice when something changes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import checks
import pki
import pytest
from conftest import GATEWAYS, ok, wait_for_primary
from lab import AUTHORITY, Host, Lab
from pki import Tunnel

Change = Callable[..., dict[str, Any]]
GW1, GW2 = checks.PUBLIC["gw1"], checks.PUBLIC["gw2"]
KNOWN = {"laptop": {"id": 5}, "internet": {"id": 6}}


def vpn(clients: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """The pillar's part of the VPN: clients, and what else is below `vpn`."""
    return {"vpn": {"clients": KNOWN if clients is None else clients, **more}}


def main(**options: Any) -> dict[str, Any]:
    """The pillar's part of the VPN with more options of the server."""
    return {"servers": {"main": options}}


def connected(lab: Lab) -> dict[str, list[str]]:
    """Who is connected to which gateway, as a person would ask."""
    status = lab.salt("gw*", "gateway.status")
    return {name: sorted(status[name]["vpn"]["main"]["clients"]) for name in GATEWAYS}


def server_processes(lab: Lab) -> dict[str, str]:
    """The process of each gateway's server: the same as long as nothing was restarted."""
    command = "systemctl show -P MainPID openvpn-server@gateway-main"
    return {name: lab.host(name).run(command).stdout for name in GATEWAYS}


@contextmanager
def nothing_lost(host: Host, address: str = checks.BACKEND) -> Iterator[None]:
    """A packet each 20 ms gets its answer meanwhile. (More would measure this machine's load: a
    thousand a second overflow OpenVPN's queue when it does not run for half a second.)"""
    ping = host.spawn(f"exec ping -q -i 0.02 {address} 2>&1")
    time.sleep(0.5)
    try:
        yield
    finally:
        time.sleep(0.5)
        host.run("pkill -INT -x ping")
        said = ping.communicate(timeout=10)[0]
    sent, received = re.findall(r"(\d+) packets transmitted, (\d+) received", said)[0]
    assert int(sent) > 25
    assert int(received) >= int(sent) - 1, said  # the last one may be on its way


def page(host: Host, address: str) -> str:
    return checks.http(host, f"http://{address}/")


def refused(lab: Lab, *remotes: str, **options: Any) -> str:
    """What a client says that gets no connection within six seconds; others need one or two."""
    tunnel = Tunnel(lab, *remotes, **options)
    tunnel.start()
    try:
        assert not tunnel.wait("Initialization Sequence Completed", seconds=6)
        return tunnel.log
    finally:
        tunnel.__exit__()


# --------------------------------------------------------------------------------------------------
# Clients


def test_two_clients_on_two_gateways(site: Lab, pillar: Change) -> None:
    """Addresses as planned, on either gateway; each reaches the LAN, its names, and the other."""
    ok(pillar(vpn(**main(full_tunnel=False))))
    laptop, internet, backend = (site.host(n) for n in ("laptop", "internet", "backend01"))
    for first, second, octet in ((GW1, GW2, 0), (GW2, GW1, 1)):
        with Tunnel(site, first) as one, Tunnel(site, second, client="internet") as other:
            assert one.address == f"10.8.{octet}.5"
            assert other.address == f"10.8.{1 - octet}.6"
            for tunnel in (one, other):
                assert page(tunnel.client, checks.BACKEND) == f"backend01 saw {tunnel.address}"
                name = checks.resolve(tunnel.client, "www.example.internal", checks.VIRTUAL_IP)
                assert name == checks.BACKEND
            assert page(laptop, other.address) == f"internet saw {one.address}"
            assert page(internet, one.address) == f"laptop saw {other.address}"
            assert page(backend, one.address) == f"laptop saw {checks.BACKEND}"
            on = ["laptop", "internet"] if first == GW1 else ["internet", "laptop"]
            expected = {"gw1": on[:1], "gw2": on[1:]}
            # A server forgets a client five seconds after it said that it leaves.
            assert checks.eventually(lambda: connected(site), expected.__eq__, 10) == expected
    # Without the tunnel nothing is left of it.
    assert "10.77" not in laptop.run("ip route").stdout
    assert page(laptop, checks.BACKEND) == ""


def test_adding_changing_and_removing_clients_disturbs_nobody(site: Lab, pillar: Change) -> None:
    """No server is restarted; who has no entry gets an address that no entry can have."""
    ok(pillar(vpn({"internet": {"id": 6}})))
    before = server_processes(site)
    push = "route 192.0.2.0 255.255.255.0"
    with Tunnel(site, GW2, client="internet") as other, nothing_lost(other.client):
        with Tunnel(site, GW2) as tunnel:
            assert tunnel.address == "10.8.1.128"
        expected = {"10.8.1.5": {"id": 5}, "10.8.1.127": {"id": 127, "pushes": [push]}}
        for address, client in expected.items():
            changes = ok(pillar(vpn({"laptop": client, "internet": {"id": 6}})))["gw2"]
            assert list(checks.changes(changes)) == [
                "openvpn clients of main",
                "gateway plan that was applied",
            ]
            with Tunnel(site, GW2) as tunnel:
                assert tunnel.address == address
                assert page(tunnel.client, checks.BACKEND) == f"backend01 saw {address}"
        assert push in tunnel.log
        ok(pillar(vpn({"internet": {"id": 6}})))
        with Tunnel(site, GW2) as tunnel:
            assert tunnel.address == "10.8.1.128"
    assert server_processes(site) == before
    files = site.host("gw2").run("ls /etc/gateway/openvpn/main").stdout
    assert files == "internet\n"


PAGE = """
import urllib.request
print(urllib.request.urlopen("http://10.50.0.1/", timeout=4).read().decode())
"""


def test_a_network_behind_a_client(site: Lab, pillar: Change) -> None:
    """The LAN and other clients reach it, whichever gateway has its client; and it reaches them."""
    branch, backend = site.host("laptop"), site.host("backend01")
    ok(pillar(vpn({"laptop": {"id": 5, "networks": ["10.50.0.0/24"]}, "internet": {"id": 6}})))
    assert checks.exposures(site.host("gw1"))["gateway-vpn-routes.service"] <= 5
    before = server_processes(site)
    branch.run("ip address add 10.50.0.1/24 dev lo")
    try:
        for first, second in ((GW1, GW2), (GW2, GW1), (GW1, GW1)):
            with Tunnel(site, first) as one, Tunnel(site, second, client="internet") as other:
                assert "route 10.50.0.0 255.255.255.0" in other.log
                assert "10.50.0.0" not in one.log
                seen = checks.eventually(lambda: page(backend, "10.50.0.1"), bool, 10)
                assert seen == f"laptop saw {checks.BACKEND}"
                assert page(other.client, "10.50.0.1") == f"laptop saw {other.address}"
                for target in (checks.BACKEND, other.address):
                    command = ["curl", "-s", "--interface", "10.50.0.1", f"http://{target}/"]
                    assert branch.run(command).stdout.endswith("saw 10.50.0.1\n")
                # The gateways themselves reach it too, also the one that does not have the client.
                for name in GATEWAYS:
                    answer = site.host(name).run(["python3", "-c", PAGE]).stdout  # it has no curl
                    assert answer.startswith("laptop saw 10.")
                    server = checks.INTERNAL[name]
                    query = f"dig +short +time=2 +tries=1 -b 10.50.0.1 @{server} backend01"
                    assert branch.run(query + ".example.internal").stdout == f"{checks.BACKEND}\n"
                size = 2_000_000
                echo = f"head -c {size} /dev/zero | timeout 20 nc -N 10.50.0.1 7007 | wc -c"
                assert int(backend.run(echo).stdout) == size
        # It is nowhere: the gateways do not send its packets to and fro until they are old.
        gw1 = site.host("gw1")
        checks.eventually(lambda: gw1.run("ip route show proto 120").stdout, lambda r: not r, 15)
        count = "cat /sys/class/net/eth0/statistics/tx_packets"
        sent = int(gw1.run(count).stdout)
        backend.run("ping -q -c 20 -i 0.05 -W 1 10.50.0.1", check=False)
        assert int(gw1.run(count).stdout) - sent < 400
    finally:
        branch.run("ip address del 10.50.0.1/24 dev lo")
    assert server_processes(site) == before
    ok(pillar(vpn()))
    for name in GATEWAYS:
        assert "10.50." not in site.host(name).run("ip route; iptables-save").stdout


def test_a_rule_of_the_firewall_names_a_client(site: Lab, pillar: Change) -> None:
    """It means this client on whichever gateway, and nobody else."""
    rule = {"from": "laptop", "to": "backend01", "action": "reject"}
    ok(pillar(vpn() | {"firewall": {"forward": [rule]}}))
    for gateway in (GW1, GW2):
        with Tunnel(site, gateway) as one, Tunnel(site, gateway, client="internet") as other:
            assert checks.answer(one.client, checks.BACKEND, 80) == "refused"
            assert page(other.client, checks.BACKEND) == f"backend01 saw {other.address}"


# --------------------------------------------------------------------------------------------------
# Who is refused


def test_who_is_revoked_is_out_and_the_others_notice_nothing(site: Lab, pillar: Change) -> None:
    """And comes in again with a new certificate only."""
    pki.call(site, "issue_client", "visitor")
    pki.provide(site, "laptop", "visitor")
    clients = {"visitor": {"id": 5}, "internet": {"id": 6}}
    ok(pillar(vpn(clients)))
    before = server_processes(site)
    try:
        lose_its_session(site, pillar, "visitor", "revoked", vpn(clients))
    finally:
        pki.call(site, "revoke", "visitor")
    pki.call(site, "issue_client", "visitor")
    refused(site, GW1, name="visitor")
    pki.provide(site, "laptop", "visitor")
    with Tunnel(site, GW1, name="visitor") as tunnel:
        assert tunnel.address == "10.8.0.5"
    pki.call(site, "revoke", "visitor")
    assert server_processes(site) == before


@pytest.mark.long
def test_who_is_disabled_is_out_and_the_others_notice_nothing(site: Lab, pillar: Change) -> None:
    ok(pillar(vpn()))
    before = server_processes(site)
    disabled = vpn({"laptop": {"id": 5, "disabled": True}, "internet": {"id": 6}})
    lose_its_session(site, pillar, "laptop", "disabled", disabled)
    assert checks.changes(ok(site.apply())["gw1"]) == {}
    ok(pillar(vpn()))
    with Tunnel(site, GW1) as tunnel:
        assert tunnel.address == "10.8.0.5"
    assert server_processes(site) == before


def lose_its_session(
    site: Lab, pillar: Change, name: str, how: str, override: dict[str, Any]
) -> None:
    """An open session ends within 5 s of the apply, and no gateway takes the client again."""
    ended = {f"{name} 10.8.0.5": how}
    with Tunnel(site, GW1, name=name), Tunnel(site, GW1, client="internet") as other:
        assert page(site.host("backend01"), "10.8.0.5") == f"laptop saw {checks.BACKEND}"
        if how == "revoked":
            pki.call(site, "revoke", name)
        predicted = checks.changes(pillar(override, test=True)["gw1"])
        assert predicted["openvpn sessions of main"] == ended
        assert connected(site)["gw1"] == sorted(["internet", name])
        with nothing_lost(other.client):
            results = ok(site.apply())
            end = time.monotonic() + 5
            assert connected(site)["gw1"] == ["internet"]
            assert time.monotonic() < end
            assert page(site.host("backend01"), "10.8.0.5") == ""
        assert checks.changes(results["gw1"])["openvpn sessions of main"] == ended
        assert "openvpn sessions of main" not in checks.changes(results["gw2"])
    for gateway in (GW1, GW2):
        refused(site, gateway, name=name)


def test_without_dynamic_addresses_only_known_clients(site: Lab, pillar: Change) -> None:
    ok(pillar(vpn(**main(dynamic=False))))
    only = {"internet": {"id": 6}}
    with Tunnel(site, GW2) as tunnel:
        assert tunnel.address == "10.8.1.5"
        results = ok(pillar(vpn(only, **main(dynamic=False))))
        changes = checks.changes(results["gw2"])
        assert changes["openvpn sessions of main"] == {
            "laptop 10.8.1.5": "not in gateway:vpn:clients"
        }
    refused(site, GW2)


def test_an_address_that_moves_to_another_client(site: Lab, pillar: Change) -> None:
    """Who has it still, gets its new one at once; never do two have one."""
    ok(pillar(vpn()))
    with Tunnel(site, GW1) as tunnel:
        assert tunnel.address == "10.8.0.5"
        ok(pillar(vpn({"laptop": {"id": 7}, "internet": {"id": 5}})))
        assert checks.eventually(lambda: tunnel.address, lambda a: a == "10.8.0.7", 10)
        with Tunnel(site, GW1, client="internet") as other:
            assert other.address == "10.8.0.5"
            assert tunnel.address == "10.8.0.7"


@pytest.mark.long
def test_a_revocation_list_that_would_lock_everybody_out(site: Lab, pillar: Change) -> None:
    """It stays out; the old one is in force."""
    ok(pillar(vpn(pki={"crl": pki.crl(site, "internet")})))
    expired = pki.crl(site, days=-20)
    for test in (True, False):
        failures = checks.failures(pillar(vpn(pki={"crl": expired}), test=test)["gw1"])
        assert "out of date since" in failures["openvpn revocation list"]
    with Tunnel(site, GW1):
        refused(site, GW1, client="internet")


@pytest.mark.long
def test_revocation_lists_in_a_file_that_openvpn_cannot_read(site: Lab, pillar: Change) -> None:
    """Root's own file of two CAs' lists, the site's own last: OpenVPN reads what was made of it."""
    stranger = pki.library(
        site,
        """
import tempfile
with tempfile.TemporaryDirectory() as folder:
    other = _gateway_ca.Authority(Path(folder) / "other", now)
    other.create("ec", 9, 9)
    print(other.read("ca.crt") + other.read("crl.pem"), end="")
""",
    )
    ca, _, theirs = stranger.partition("-----BEGIN X509 CRL")
    path = "/etc/openvpn/pki/lists.pem"
    lists = f"-----BEGIN X509 CRL{theirs}{pki.crl(site, 'internet', days=40)}"
    for name in GATEWAYS:
        site.host(name).run("mkdir -p /etc/openvpn/pki; chmod 700 /etc/openvpn/pki")
        site.host(name).write(path, lists, 0o600)
    override = vpn(pki={"ca": pki.read(site, "ca.crt") + ca, "crl": path})
    ok(pillar(override))
    validated = site.salt("gw*", "gateway.validate")
    for name in GATEWAYS:
        assert all("of other VPN CA ends on" in text for text in validated[name])
    with Tunnel(site, GW1):
        refused(site, GW1, client="internet")
    # A newer one comes with an apply; until then the status says that there is one.
    site.host("gw1").write(path, lists + pki.crl(site, days=40), 0o600)
    said = site.salt("gw1", "gateway.status")["gw1"]["problems"]
    assert any(f"{path} is not the list that OpenVPN reads" in text for text in said)
    site.host("gw1").run(["rm", path])
    failures = checks.failures(site.apply("gw1")["gw1"])
    assert failures["openvpn revocation list"] == f"{path} is not there"
    # The old list is in force still, for who comes now, and all else was applied.
    with Tunnel(site, GW1):
        refused(site, GW1, client="internet")


def test_a_gateway_without_a_certificate_gets_all_the_rest(site: Lab, pillar: Change) -> None:
    """Its VPN servers go on as they are, with the list that they have."""
    error = {"vpn": {"pki": {"error": "the certificate of gw1 is revoked"}}}
    rule = {"firewall": {"input": [{"from": "internal", "ports": 9100, "comment": "anew"}]}}
    before = server_processes(site)
    with Tunnel(site, GW1) as tunnel, nothing_lost(tunnel.client):
        for test in (True, False):
            results = pillar(error | rule, test=test)
            for name in GATEWAYS:
                failed = checks.failures(results[name])
                assert failed.pop("openvpn certificates").endswith(
                    "gateway:vpn:pki:error: the certificate of gw1 is revoked"
                )
                last = {"nothing of older versions", "gateway plan that was applied"}
                assert failed.keys() == last
        for name in GATEWAYS:
            assert "--comment anew" in site.host(name).run("iptables-save").stdout
    assert server_processes(site) == before
    status = site.salt("gw1", "gateway.status")["gw1"]["problems"]
    assert "gateway:vpn:pki:error: the certificate of gw1 is revoked" in status


@contextmanager
def later(lab: Lab, days: int) -> Iterator[None]:
    """gw1's VPN server lives so many days later than everybody else."""
    gw1 = lab.host("gw1")
    drop_in = "/run/systemd/system/openvpn-server@gateway-main.service.d/lab-clock.conf"
    library = "/opt/faketime/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
    clock = f"[Service]\nEnvironment=LD_PRELOAD={library} FAKETIME=+{days}d\n"
    restart = "systemctl daemon-reload; systemctl restart openvpn-server@gateway-main"
    gw1.write(drop_in, clock)
    gw1.run(restart)
    try:
        yield
    finally:
        gw1.run(f"rm {drop_in}; {restart}")


def test_certificates_end_and_are_renewed(site: Lab) -> None:
    """With the clock beyond the end of most of them: who has a new one is in, with the others'
    profiles as they were."""
    if "visitor" in (item["name"] for item in pki.call(site, "list")):
        pki.call(site, "revoke", "visitor")
    pki.call(site, "issue_client", "visitor", "days=2", "algorithm=rsa3072")
    pki.provide(site, "laptop", "visitor")
    with Tunnel(site, GW1, name="visitor"):
        pass
    gw1 = site.host("gw1")
    with later(site, 3):
        refused(site, GW1, name="visitor")
        said = gw1.run("journalctl -q --no-pager -n 100 -u openvpn-server@gateway-main").stdout
        assert "certificate has expired" in said
        with Tunnel(site, GW1, client="internet"):
            pass
        pki.call(site, "renew", "visitor", "days=9", "algorithm=ed25519")
        pki.provide(site, "laptop", "visitor")
        with Tunnel(site, GW1, name="visitor"):
            pass
    pki.call(site, "revoke", "visitor")


@pytest.mark.long
def test_a_revocation_list_that_ends(site: Lab, pillar: Change) -> None:
    """It is named a month before; when it has ended nobody is let in until there is a new one."""
    ok(pillar(vpn(pki={"crl": pki.crl(site)})))
    status = site.salt("gw*", "gateway.status")
    for name in GATEWAYS:
        (problem,) = status[name]["problems"]
        assert "gateway:vpn:pki:crl: the revocation list of example VPN CA ends on" in problem
    with later(site, 11):
        refused(site, GW1)
        ok(pillar(vpn()))
        with Tunnel(site, GW1):
            pass


def test_strangers(site: Lab) -> None:
    """Another CA's certificate, another tls-crypt key, a server's certificate: no connection."""
    laptop = site.host("laptop")
    make = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 9"
        " -subj /CN=laptop -addext extendedKeyUsage=clientAuth 2>/dev/null"
    )
    other_ca = laptop.run(f"{make} -keyout /dev/stdout -out /dev/stdout").stdout
    strangers = {"another CA": pki.split(other_ca)}
    strangers["a server"] = pki.split(pki.read(site, "issued/gw1.pem"))
    for what, (key, certificate) in strangers.items():
        tunnel = Tunnel(site, GW1, GW2)
        tunnel.replace("key", key)
        tunnel.replace("cert", certificate)
        tunnel.start()
        assert not tunnel.wait("Initialization Sequence Completed", seconds=6), what
        tunnel.__exit__()
    keyed = Tunnel(site, GW1)
    keyed.replace("tls-crypt", laptop.run("openvpn --genkey tls-crypt").stdout)
    keyed.start()
    assert not keyed.wait("TLS: Initial packet", seconds=5)
    keyed.__exit__()
    with Tunnel(site, GW1):
        pass


# --------------------------------------------------------------------------------------------------
# Names and passwords

PAM = "auth required pam_unix.so\naccount required pam_unix.so\n"
SCRIPT = """#!/bin/sh
{ read -r user; read -r password; } < "$1"
[ "$user" = alice ] && [ "$password" = lab-password ]
"""
HOW = {"pam": "openvpn", "script": "/usr/local/sbin/check-password"}


@pytest.fixture
def accounts(site: Lab) -> Iterator[None]:
    """Somebody's name and password: an account on each gateway, and in a script."""
    for name in GATEWAYS:
        host = site.host(name)
        host.run("useradd -M alice; echo alice:lab-password | chpasswd")
        host.write("/etc/pam.d/openvpn", PAM)
        host.write(HOW["script"], SCRIPT, 0o755)
    site.host("laptop").write("/srv/vpn/good", "alice\nlab-password\n", 0o600)
    site.host("laptop").write("/srv/vpn/bad", "alice\nwrong\n", 0o600)
    yield
    for name in GATEWAYS:
        site.host(name).run(f"userdel alice; rm /etc/pam.d/openvpn {HOW['script']}")


@pytest.mark.parametrize("how", [pytest.param("pam", marks=pytest.mark.long), "script"])
def test_passwords_and_tokens(site: Lab, pillar: Change, accounts: None, how: str) -> None:
    """Certificate and password are asked for; a move to the other gateway asks for none again."""
    secret = pki.read(site, "auth-token.key").splitlines()[1]
    results = pillar(vpn(**main(auth={how: HOW[how]})))
    assert secret not in str(ok(results))
    assert secret not in str(site.salt("gw*", "gateway.plan"))
    assert "AUTH_FAILED" in refused(site, GW1, more="auth-user-pass /srv/vpn/bad\n")
    refused(site, GW1)
    laptop = site.host("laptop")
    with Tunnel(site, GW1, GW2, more="auth-user-pass /srv/vpn/good\n") as tunnel:
        assert page(laptop, checks.BACKEND) == f"backend01 saw {tunnel.address}"
        # From now on the password is good for nothing: what lets it in again is its token.
        for name in GATEWAYS:
            site.host(name).run(f"usermod -L alice; echo exit 1 > {HOW['script']}")
        site.host("gw1").run("systemctl stop openvpn-server@gateway-main")
        try:
            assert tunnel.wait("Initialization Sequence Completed", times=2, seconds=20)
            assert page(laptop, checks.BACKEND) == "backend01 saw 10.8.1.5"
        finally:
            site.host("gw1").run("systemctl start openvpn-server@gateway-main")
    refused(site, GW2, more="auth-user-pass /srv/vpn/good\n")


def test_a_user_comes_with_the_certificate_of_that_name(
    site: Lab, pillar: Change, accounts: None
) -> None:
    """Where the pillar wants it, a good password is of no use with somebody else's certificate."""
    script = SCRIPT.replace('"$user" = alice', '"$user" != bob')
    for name in GATEWAYS:
        site.host(name).write(HOW["script"], script, 0o755)
    ok(pillar(vpn(**main(auth={"script": HOW["script"], "same_name": True}))))
    assert "AUTH_FAILED" in refused(site, GW1, more="auth-user-pass /srv/vpn/good\n")
    laptop = site.host("laptop")
    laptop.write("/srv/vpn/own", "laptop\nlab-password\n", 0o600)
    with Tunnel(site, GW1, more="auth-user-pass /srv/vpn/own\n") as tunnel:
        assert page(laptop, checks.BACKEND) == f"backend01 saw {tunnel.address}"


# --------------------------------------------------------------------------------------------------
# Servers


@pytest.mark.long
def test_udp_and_tcp_side_by_side(site: Lab, pillar: Change) -> None:
    """Also where UDP is blocked. One that stops leaves the other alone."""
    tcp = {"network": "10.9.0.0/16", "port": 443, "proto": "tcp"}
    ok(pillar(vpn(servers={"tcp": tcp}) | {"nat": {"forwards": []}}))
    gw2, laptop = site.host("gw2"), site.host("laptop")
    with Tunnel(site, GW2, client="internet") as other:
        assert other.address == "10.8.1.6"
        blocked = f"OUTPUT -p udp -d {GW1},{GW2} -j DROP"
        laptop.run(f"iptables -A {blocked}")
        try:
            profile = pki.call(site, "profile", "laptop", "file=/root/tcp.ovpn")
            mixed = Tunnel(site)
            mixed.config = site.host("master").run(["cat", profile]).stdout
            with mixed as tunnel:
                assert tunnel.address in ("10.9.0.5", "10.9.1.5")
                assert page(laptop, checks.BACKEND) == f"backend01 saw {tunnel.address}"
                assert page(laptop, other.address) == f"internet saw {tunnel.address}"
                with nothing_lost(other.client):
                    gw2.run("systemctl restart openvpn-server@gateway-tcp")
        finally:
            laptop.run(f"iptables -D {blocked}")


def test_a_tls_crypt_key_for_each_client(site: Lab, pillar: Change) -> None:
    """Clients with a key of their own are let in beside those with the common one."""
    master, laptop = site.host("master"), site.host("laptop")
    key = f"{AUTHORITY}/tls-crypt-v2.key"
    master.run(f"umask 077; openvpn --genkey tls-crypt-v2-server {key}")
    try:
        ok(pillar(vpn()))
        pki.provide(site, "laptop", "laptop")
        assert "<tls-crypt-v2>" in laptop.run("cat /srv/vpn/laptop.ovpn").stdout
        with Tunnel(site, GW1), Tunnel(site, GW1, client="internet") as other:
            assert page(laptop, checks.BACKEND) == "backend01 saw 10.8.0.5"
            assert page(other.client, checks.BACKEND) == "backend01 saw 10.8.0.6"
    finally:
        master.run(["rm", key])
        pki.provide(site, "laptop", "laptop")


def test_full_tunnel_and_further_routes(site: Lab, pillar: Change) -> None:
    """All of a client's traffic leaves through the gateway, as the gateway."""
    ok(pillar(vpn(**main(full_tunnel=True, routes=["203.0.113.0/24"]))))
    laptop, internet, far = site.host("laptop"), site.host("internet"), "192.0.2.80"
    # It is the laptop's router: the packets of the tunnel go by it too.
    internet.run(f"ip address add {far}/32 dev lo; sysctl -w net.ipv4.ip_forward=1")
    laptop.run(f"ip route add default via {checks.INTERNET}")
    try:
        assert page(laptop, far) == "internet saw 198.51.100.50"
        for gateway in (GW1, GW2):
            with Tunnel(site, gateway) as tunnel:
                assert page(laptop, far) == f"internet saw {gateway}"
                assert "203.0.113.0/24 via" in laptop.run("ip route").stdout
                # Its IPv6 does not go beside the tunnel; it is told so, once the device is ready.
                assert " dev tun0 " in laptop.run("ip -6 route get 2001:db8:9::1").stdout
                ping = laptop.run("ping -6 -c 5 -i 0.5 -W 3 2001:db8:9::1", check=False).stdout
                assert "No route" in ping
                assert "route 203.0.113.0 255.255.255.0" in tunnel.log
        assert page(laptop, far) == "internet saw 198.51.100.50"
    finally:
        laptop.run("ip route del default")
        internet.run(f"ip address del {far}/32 dev lo; sysctl -w net.ipv4.ip_forward=0")


def test_a_setting_that_openvpn_refuses(site: Lab, pillar: Change) -> None:
    """Its message is the state's; the server and its clients go on. In test mode as well."""
    ok(pillar(vpn()))
    before = server_processes(site)
    wrong = main(settings={"cipher": "NO-SUCH-CIPHER", "tun-mtu": "none"})
    with Tunnel(site, GW1) as tunnel:
        with nothing_lost(tunnel.client):
            for test in (True, False):
                failures = checks.failures(pillar(vpn(**wrong), test=test, target="gw1")["gw1"])
                assert "NO-SUCH-CIPHER" in failures["openvpn configuration of main"]
        # Who is disabled with the same apply is out all the same.
        gone = {"laptop": {"disabled": True}}
        changes = checks.changes(pillar(vpn(gone, **wrong), target="gw1")["gw1"])
        assert changes["openvpn sessions of main"] == {"laptop 10.8.0.5": "disabled"}
    assert server_processes(site) == before


def test_settings_whose_check_would_do_something(site: Lab, pillar: Change) -> None:
    """OpenVPN looks at them and is content; no script has run, no log is there, no process left."""
    gw1 = site.host("gw1")
    gw1.write("/usr/local/sbin/up", "#!/bin/sh\ntouch /root/up-was-here\n", 0o755)
    settings = {"verb": 0, "log-append": "/root/openvpn.log", "up": "/usr/local/sbin/up"}
    shared = {"network": "10.9.0.0/16", "port": 4433, "proto": "tcp"}
    # A check may write to /tmp, which is its own.
    shared["settings"] = {"port-share": "127.0.0.1 8443", "log": "/tmp/shared.log"}
    servers = {"main": {"settings": settings}, "shared": shared}
    # In test mode OpenVPN is asked too, and nothing else happens.
    found = ok(pillar(vpn(servers=servers), test=True, target="gw1"), "gw1")["gw1"]
    assert "openvpn configuration of shared" in checks.changes(found)
    written = "ls /root/up-was-here /root/openvpn.log /tmp/shared.log"
    assert gw1.run(written, check=False).stdout == ""
    running = gw1.run("pgrep -a openvpn").stdout
    assert [line for line in running.splitlines() if "gateway-main.conf" not in line] == []


HOSTILE = """#!/bin/sh
touch /etc/gateway/hostile /var/lib/gateway/hostile /run/gateway/hostile
echo 0 >/proc/sys/net/ipv4/ip_forward
mount -o remount,bind,rw /
ip link set eth0 down
systemctl stop keepalived
kill -9 1
echo "I saw $(cat "$1")"
sleep 6666 &
setsid sleep 6666
"""


@pytest.mark.parametrize("network", ["", "--see-network"])
def test_nothing_comes_of_a_check(site: Lab, network: str) -> None:
    """Whatever it tries, on the node all is as it was; and it does not go on for ever."""
    gw1 = site.host("gw1")
    gw1.write("/tmp/hostile", HOSTILE, 0o755)
    gw1.write("/tmp/new", "the new text", 0o600)
    gw1.run("mkdir -p /opt/hostile; cp /tmp/hostile /opt/hostile; rm /tmp/hostile")
    look = "systemctl show -P MainPID keepalived; cat /proc/sys/net/ipv4/ip_forward"
    look += "; ip -brief link show dev eth0; sha256sum /etc/gateway/dns.conf"
    before = gw1.run(look).stdout
    check = f"/usr/lib/gateway/isolated {network} /etc/gateway/dns.conf /opt/hostile/hostile"
    begin = time.monotonic()
    done = gw1.run(f"{check} /tmp/new", check=False)
    assert time.monotonic() - begin < 10
    assert done.returncode
    assert "I saw the new text" in done.stdout
    assert "no answer within two seconds" in done.stderr
    assert gw1.run(look).stdout == before
    left = "pgrep -f 'sleep 666[6]'; find /etc/gateway /var/lib/gateway /run/gateway -name hostile"
    assert gw1.run(left, check=False).stdout == ""
    gw1.run("rm -r /opt/hostile /tmp/new")


def test_the_management_socket_is_root_s(site: Lab) -> None:
    gw1 = site.host("gw1")
    path = "/run/gateway-main/control/management"
    ask = f"python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect(\"{path}\")'"
    assert gw1.run(ask).returncode == 0
    denied = gw1.run(["setpriv", "--reuid=nobody", "--clear-groups", "sh", "-c", ask], check=False)
    assert "PermissionError" in denied.stderr


# --------------------------------------------------------------------------------------------------
# Failover


def systemctl(action: str) -> Callable[[Lab], Any]:
    return lambda lab: lab.host("gw2").run(f"systemctl {action} openvpn-server@gateway-main")


STOPS: dict[str, tuple[Callable[[Lab], Any], Callable[[Lab], Any]]] = {  # and how it is undone
    "its server": (systemctl("stop"), systemctl("start")),
    "reboot": (lambda lab: lab.host("gw2").restart(), systemctl("start")),
    "drain": (
        lambda lab: lab.salt("gw2", "gateway.drain"),
        lambda lab: lab.salt("gw2", "gateway.undrain"),
    ),
}


@pytest.mark.parametrize(
    "how", ["its server", pytest.param("reboot", marks=pytest.mark.long), "drain"]
)
def test_a_gateway_that_is_stopped(site: Lab, how: str) -> None:
    """Its clients are back within 3 s; those of the other gateway notice nothing."""
    with Tunnel(site, GW2, GW1) as tunnel, Tunnel(site, GW1, client="internet") as other:
        assert tunnel.address.startswith("10.8.1.")
        stop, undo = STOPS[how]
        with nothing_lost(other.client):
            try:
                assert checks.gap(tunnel.client, lambda: stop(site), 6) < 3
            finally:
                undo(site)
        assert tunnel.address.startswith("10.8.0.")
    site.wait_minions()


def test_a_gateway_that_vanishes(site: Lab) -> None:
    """Its clients are back within 10 s; those of the other gateway notice nothing."""
    with Tunnel(site, GW2, GW1) as tunnel, Tunnel(site, GW1, client="internet") as other:
        assert tunnel.address.startswith("10.8.1.")
        with nothing_lost(other.client):
            try:
                assert 0.5 < checks.gap(tunnel.client, lambda: site.isolate("gw2"), 14) < 10
            finally:
                site.rejoin("gw2")
        assert tunnel.address.startswith("10.8.0.")


SHARED = checks.PUBLIC_VIRTUAL_IP
BY_VIRTUAL_IP = {
    "public": {"virtual_ip": SHARED},
    "vpn": {"remote": SHARED},
    "state_sync": False,
}


def cut_the_line(lab: Lab, seconds: float = 6) -> None:
    lab.isolate("laptop")
    try:
        time.sleep(seconds)
    finally:
        lab.rejoin("laptop")


def test_clients_that_look_for_the_virtual_ip(site: Lab, pillar: Change) -> None:
    """A gateway that vanishes moves its clients at once when they notice; a gap of their own line
    moves nobody, and their TCP sessions go on."""
    ok(pillar(BY_VIRTUAL_IP))
    holder = checks.eventually(lambda: checks.holders(site, SHARED), lambda on: on == ["gw1"], 20)
    assert holder == ["gw1"]
    pki.provide(site, "laptop", "laptop")
    try:
        with Tunnel(site, SHARED, SHARED, GW1, GW2) as tunnel:
            before = tunnel.address
            assert before.startswith("10.8.0.")
            assert checks.stall(tunnel.client, lambda: cut_the_line(site), 16) < 30
            assert tunnel.address == before
            try:
                assert 0.5 < checks.gap(tunnel.client, lambda: site.isolate("gw1"), 10) < 8
            finally:
                site.rejoin("gw1")
            assert tunnel.address.startswith("10.8.1.")
        site.wait_minions()
        wait_for_primary(site)
        ok(pillar({}))
    finally:
        pki.provide(site, "laptop", "laptop")


@pytest.mark.long
def test_a_short_gap_of_a_clients_line(site: Lab) -> None:
    """It goes back to its gateway, gets its address again, and its TCP sessions go on."""
    with Tunnel(site, GW2, GW1) as tunnel:
        before = tunnel.address
        assert checks.stall(tunnel.client, lambda: cut_the_line(site), 16) < 30
        assert tunnel.address == before


def test_a_server_that_is_killed(site: Lab) -> None:
    """It is back, and so is its client, which knows no other gateway."""
    with Tunnel(site, GW2) as tunnel:
        kill = "kill -9 $(systemctl show -P MainPID openvpn-server@gateway-main)"
        assert 0.5 < checks.gap(tunnel.client, lambda: site.host("gw2").run(kill), 15) < 12
        assert page(tunnel.client, checks.BACKEND) == f"backend01 saw {tunnel.address}"


@pytest.mark.long
def test_an_idle_client_on_a_bad_line_stays(site: Lab) -> None:
    """One packet in ten is lost, each way, for five minutes: one connection, from begin to end."""
    laptop = site.host("laptop")
    with Tunnel(site, GW1, GW2) as tunnel:
        rule = f"-p udp -s {GW1} -m statistic --mode random --probability 0.1 -j DROP"
        out = f"-p udp -d {GW1} -m statistic --mode random --probability 0.1 -j DROP"
        laptop.run(f"iptables -A INPUT {rule}; iptables -A OUTPUT {out}")
        try:
            time.sleep(300)
        finally:
            laptop.run(f"iptables -D INPUT {rule}; iptables -D OUTPUT {out}")
        assert tunnel.log.count("Initialization Sequence Completed") == 1
        assert page(laptop, checks.BACKEND) == f"backend01 saw {tunnel.address}"


MANY = """
set -eu
cd /srv/vpn
for n in $(seq 50); do
    openvpn --config many.ovpn --dev many$n --cert many$n.pem --key many$n.pem \\
        --writepid /run/many$n.pid --log /run/many$n.log --daemon
done
"""
ISSUE_MANY = """
import json
site = authority()
for number in range(1, 51):
    if f"many{number}" not in site.names():
        site.issue(f"many{number}", "client", None, 30, 1825)
print(json.dumps({f"many{n}.pem": site.read(f"issued/many{n}.pem") for n in range(1, 51)}))
"""
UNPACK = """
import json, os, sys
os.umask(0o077)
for name, text in json.load(sys.stdin).items():
    open(f"/srv/vpn/{name}", "w").write(text)
"""


def test_fifty_clients_at_once(site: Lab, pillar: Change) -> None:
    """All of them, each with its own address; all of them gone again."""
    laptop = site.host("laptop")
    laptop.run(["python3", "-c", UNPACK], input=pki.library(site, ISSUE_MANY))
    profile = Tunnel(site, GW1, more="route-nopull\n").config
    profile = re.sub(r"^dev .*\n", "", profile, flags=re.MULTILINE)
    profile = re.sub(r"<(cert|key)>.*</\1>\n", "", profile, flags=re.DOTALL)
    laptop.write("/srv/vpn/many.ovpn", profile)
    clients = {f"many{n}": {"id": n + 10} for n in range(1, 26)}
    ok(pillar(vpn(clients)))
    try:
        laptop.run(MANY, timeout=120)

        def addresses() -> list[str]:
            found = site.salt("gw1", "gateway.status")["gw1"]["vpn"]["main"]["clients"]
            return [address for each in found.values() for address in each]

        found = checks.eventually(addresses, lambda now: len(now) >= 50, 60)
        assert len(found) == len(set(found)) == 50
        fixed = {f"10.8.0.{n + 10}" for n in range(1, 26)}
        assert fixed <= set(found)
        assert all(int(a.rpartition(".")[2]) >= 128 for a in set(found) - fixed)
    finally:
        laptop.run("kill $(cat /run/many*.pid); rm -f /run/many*")
    assert checks.eventually(addresses, lambda now: now == [], 30) == []
