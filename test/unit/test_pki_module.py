"""What users call to have certificates, with Salt's dunders played by the test."""

import getpass
import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import _gateway_authorities
import _gateway_plan
import _gateway_vpn_profiles
import _gateway_x509
import pytest
import salt.exceptions
import salt.pillar
import salt.utils.minions
from salt.exceptions import CommandExecutionError

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
PRIVATE = "PRIVATE KEY"


@pytest.fixture(scope="module")
def loaded(load):
    return load("_modules/gateway_pki.py")


@pytest.fixture
def host(loaded, monkeypatch, tmp_path, edit):
    """The trusted host: its options, its pillar and its clock. ``host.base`` has the sites."""
    system = SimpleNamespace(
        opts={
            "id": "admin",
            "pki_dir": str(tmp_path / "pki/minion"),
            "conf_file": str(tmp_path / "minion"),
            "__cli": "salt-call",
            "local": True,
        },
        pillar={"gateway": edit({})},
        base=tmp_path / "pki/gateway",
        now=NOW,
    )
    monkeypatch.setattr(loaded, "__opts__", system.opts, raising=False)
    monkeypatch.setattr(loaded, "__pillar__", system.pillar, raising=False)
    monkeypatch.setattr(_gateway_authorities, "now", lambda: system.now)
    monkeypatch.setattr(sys, "stdin", None)
    return system


@pytest.fixture
def pki(loaded, host):
    """The module, with a site that has a gateway and a client."""
    loaded.create_ca("example")
    loaded.issue_server("gw1")
    loaded.issue_client("alice")
    return loaded


def shown(pki):
    return [(entry["name"], entry["kind"], entry["days_left"]) for entry in pki.list_()]


def options(text):
    """The lines of a profile that OpenVPN reads, without what is inline."""
    plain = re.sub(r"<([a-z0-9-]+)>\n.*?</\1>", r"<\1>", text, flags=re.S)
    return [line for line in plain.splitlines() if line and not line.startswith("#")]


# The authority


def test_a_site(pki, host):
    assert shown(pki) == [("example", "ca", 3650), ("alice", "client", 825), ("gw1", "server", 825)]
    assert host.base.stat().st_mode & 0o777 == 0o700
    assert pki.__func_alias__ == {"list_": "list"}


def test_what_is_configured(pki, host):
    other = host.base.with_name("elsewhere")
    host.opts["gateway_pki"] = {
        "directory": str(other), "site": "two", "days": 30, "ca_days": 60, "crl_days": 40,
    }  # fmt: skip
    pki.create_ca("one")
    pki.create_ca("two", days=50)
    pki.issue_client("bob")
    pki.issue_client("carol", days=7)
    assert shown(pki) == [("two", "ca", 50), ("bob", "client", 30), ("carol", "client", 7)]
    assert pki.crl()["days_left"] == 40
    assert [entry["name"] for entry in pki.list_("one")] == ["one"]
    assert pki.list_("example", directory=str(host.base))[0]["name"] == "example"


def test_which_site(loaded, host):
    with pytest.raises(
        CommandExecutionError, match=r"say which site: there is none in /.*/gateway"
    ):
        loaded.list_()
    loaded.create_ca("one")
    loaded.create_ca("two")
    with pytest.raises(CommandExecutionError, match="say which site: there are one, two in"):
        loaded.list_()
    with pytest.raises(CommandExecutionError, match=r"three has no CA; make one with"):
        loaded.list_("three")
    with pytest.raises(CommandExecutionError, match="has no CA"):
        loaded.list_("../one/../../etc")
    with pytest.raises(CommandExecutionError, match="is not a site's name"):
        loaded.create_ca("../three")


def test_the_folder_belongs_to_whom_the_master_runs_as(loaded, host):
    master = host.base.parent / "master"
    master.mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(master, 12345, 23456)
    loaded.create_ca("example")
    for path in [host.base, *host.base.rglob("*")]:
        assert path.stat().st_uid == master.stat().st_uid


def test_a_folder_that_cannot_be_made(loaded, host, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "makedirs", refuse)
    monkeypatch.setattr(getpass, "getuser", lambda: "salt")
    with pytest.raises(CommandExecutionError, match=r"as root: install -d -m 700 -o salt /.*/gate"):
        loaded.create_ca("example")


def test_errors_are_shown_plainly_by_salt_run_too(pki):
    with pytest.raises(CommandExecutionError, match=r"gateway_pki.renew alice") as caught:
        pki.issue_client("alice")
    assert isinstance(caught.value, salt.exceptions.NotImplemented)
    with pytest.raises(CommandExecutionError, match="unknown argument: dayz"):
        pki.renew("alice", dayz=7)


def test_renew_and_revoke(pki):
    first = pki.list_()[1]["serial"]
    assert pki.renew("alice", days=10)["days_left"] == 10
    revoked = pki.revoke("alice", serial=first.upper())
    assert revoked.pop("next").startswith("apply the formula on every gateway")
    assert revoked == {"name": "alice", "revoked": [first]}
    assert [(entry["days_left"], entry["revoked"]) for entry in pki.list_()[1:3]] == [
        (10, False), (825, True),
    ]  # fmt: skip
    assert len(pki.revoke("alice")["revoked"]) == 2
    assert pki.renew_ca(days=5000)["days_left"] == 5000


def test_a_list_for_people(pki, host):
    pki.renew("alice", days=10)
    pki.revoke("gw1")
    (host.base / "example/issued/bob.pem").write_text("")
    host.now += timedelta(days=11)
    serials = [entry["serial"] for entry in pki.list_()]
    assert pki.list_(short=True) == [
        f"example  ca      {serials[0]}  until 2036-11-19 (3639 days)",
        f"alice    client  {serials[1]}  ended on 2026-12-02",
        f"alice    client  {serials[2]}  until 2029-02-24 (814 days)  replaced by a newer one",
        f"gw1      server  {serials[3]}  until 2029-02-24 (814 days)  revoked",
        f"bob      {pki.list_()[-1]['error']}",
    ]


def test_a_server_that_is_no_minion(pki, host, tmp_path):
    """Of this host's own pillar, or of those whose keys a master has."""
    warning = pki.issue_server("gw11")["warning"]
    assert warning.startswith("no minion is called gw11; known are gw1, gw2. ")
    assert warning.endswith("gateway_pki.revoke gw11")
    assert "warning" not in pki.issue_server("gw2")
    host.pillar.clear()
    assert "warning" not in pki.issue_server("gw12")  # nothing is known here
    minions = tmp_path / "pki/minion/minions"
    minions.mkdir(parents=True)
    (minions / "gw4").touch()
    assert "known are gw4. " in pki.issue_server("gw13")["warning"]
    assert "warning" not in pki.issue_server("gw4")
    # salt-call brings the options of this host's minion: what the master has is in its own file.
    minions = tmp_path / "master's/minions"
    minions.mkdir(parents=True)
    (minions / "gw5").touch()
    (tmp_path / "master").write_text(f"pki_dir: {minions.parent}\n")
    assert "known are gw5. " in pki.issue_server("gw14")["warning"]
    host.opts["__cli"] = "salt-run"
    assert "known are gw4. " in pki.issue_server("gw15", directory=str(host.base))["warning"]


def test_the_clock_has_whole_seconds():
    """As certificates do: what is compared with one must not be newer by a part of a second."""
    now = _gateway_authorities.now()
    assert now.microsecond == 0
    assert timedelta(0) <= datetime.now(timezone.utc) - now < timedelta(minutes=1)


def test_what_is_written_where_it_cannot_be(pki, tmp_path):
    """Plainly, with the path."""
    missing = f"{tmp_path}/none/alice.ovpn"
    message = f"^there is no folder {tmp_path}/none; make it first$"
    for write in (lambda: pki.profile("alice", file=missing), lambda: pki.backup(missing)):
        with pytest.raises(CommandExecutionError, match=message):
            write()
    with pytest.raises(CommandExecutionError, match=f"^{tmp_path} is a folder; name a file in it$"):
        pki.profile("alice", file=str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(CommandExecutionError, match=f"^{tmp_path}/file: File exists$"):
        pki.profiles(f"{tmp_path}/file")
    with pytest.raises(CommandExecutionError, match=f"^{missing}: No such file or directory$"):
        pki.create_ca("other", encrypt=True, passphrase_file=missing)


def test_backup(pki, host):
    path = pki.backup()
    assert path == f"{host.base}/example-20261122T120000Z.tar.gz"
    assert shown(pki)  # it is no site
    with pytest.raises(CommandExecutionError, match="is there already"):
        pki.backup(path)


@pytest.mark.parametrize("function", ["list_", "pillar", "profiles", "issue"])
def test_any_call_renews_a_crl_that_is_due(pki, host, tmp_path, function):
    host.now += timedelta(days=800)
    pki.renew("gw1")
    host.now += timedelta(days=150)
    calls = {
        "list_": pki.list_,
        "pillar": lambda: pki.pillar("example", "gw1"),
        "profiles": lambda: pki.profiles(str(tmp_path / "profiles")),
        "issue": lambda: pki.issue_client("bob"),
    }
    text = (host.base / "example/crl.pem").read_text()
    assert _gateway_x509.lifetimes(text, host.now)[0]["days_left"] == 875
    calls[function]()
    text = (host.base / "example/crl.pem").read_text()
    assert _gateway_x509.lifetimes(text, host.now)[0]["days_left"] == 1825


# The passphrase


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "passphrase"
    path.write_text("correct horse\nbattery staple\n")
    path.chmod(0o600)
    return path


def test_a_passphrase_in_a_file(loaded, host, secret):
    loaded.create_ca("example", encrypt=True, passphrase_file=str(secret))
    assert "ENCRYPTED" in (host.base / "example/ca.key").read_text()
    with pytest.raises(CommandExecutionError, match=r"passphrase_file=..., or run at a terminal"):
        loaded.issue_client("alice")
    loaded.issue_client("alice", passphrase_file=str(secret))
    host.opts["gateway_pki"] = {"passphrase_file": str(secret)}
    loaded.issue_client("bob")
    assert len(loaded.list_()) == 3


def test_a_passphrase_at_the_terminal(loaded, host, monkeypatch):
    answers = ["correct horse", "correct horse", "correct horse", "one", "another"]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(getpass, "getpass", lambda _: answers.pop(0))
    loaded.create_ca("example", encrypt=True)
    loaded.issue_client("alice")
    with pytest.raises(CommandExecutionError, match="two different passphrases"):
        loaded.create_ca("other", encrypt=True)
    assert not (host.base / "other").exists()


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("correct horse", 0o640, "is open to others"),
        ("abc\n", 0o600, "not 4 to 1023 bytes"),
        (1024 * "a", 0o600, "not 4 to 1023 bytes"),
    ],
)
def test_a_bad_passphrase_file(loaded, host, secret, text, mode, message):
    secret.write_text(text)
    secret.chmod(mode)
    with pytest.raises(CommandExecutionError, match=message) as caught:
        loaded.create_ca("example", encrypt=True, passphrase_file=str(secret))
    assert text not in str(caught.value)


@pytest.mark.parametrize("text", ["abcd", 1023 * "a"], ids=len)
def test_the_shortest_and_the_longest_passphrase(loaded, host, secret, text):
    secret.write_text(text)
    loaded.create_ca("example", encrypt=True, passphrase_file=str(secret))


def test_a_due_crl_waits_for_the_passphrase_and_says_so(loaded, host, secret, caplog):
    loaded.create_ca("example", encrypt=True, passphrase_file=str(secret))
    loaded.issue_server("gw1", passphrase_file=str(secret), days=2000)
    host.now += timedelta(days=1100)
    assert loaded.pillar("example", "gw1")["crl"]
    assert "is due, but: the passphrase is needed; run gateway_pki.crl" in caplog.text
    host.opts["gateway_pki"] = {"passphrase_file": str(secret)}
    caplog.clear()
    text = loaded.pillar("example", "gw1")["crl"]
    assert _gateway_x509.lifetimes(text, host.now)[0]["days_left"] == 1825
    assert not caplog.text


# The gateways' part


def test_a_gateways_pillar(pki, edit, read_pillar):
    pki.issue_server("gw2")
    found = {name: pki.pillar("example", name) for name in ("gw1", "gw2")}
    for name, material in found.items():
        expected = ["auth_token", "ca", "certificate", "crl", "key", "tls_crypt"]
        assert sorted(material) == expected
        assert _gateway_x509.lifetimes(material["certificate"], NOW)[0]["name"] == name
        assert material["certificate"].count("BEGIN") == 1
    sites = [read_pillar(edit({"vpn:pki": found[name]})) for name in found]
    assert [errors for _, errors in sites] == [[], []]
    assert len({site and site.digest for site, _ in sites}) == 1
    for material in ("auth_token", "ca", "crl", "tls_crypt"):
        assert found["gw1"][material] == found["gw2"][material]
    assert found["gw1"]["key"] != found["gw2"]["key"]


def test_a_tls_crypt_key_for_each_client(loaded, host, edit, read_pillar):
    loaded.create_ca("example", tls_crypt_v2=True)
    loaded.issue_server("gw1")
    loaded.issue_client("alice")
    material = loaded.pillar("example", "gw1")
    assert {"tls_crypt", "tls_crypt_v2"} & set(material) == {"tls_crypt_v2"}
    assert read_pillar(edit({"vpn:pki": material}))[1] == []
    text = loaded.profile("alice")
    assert options(text)[-1] == "<tls-crypt-v2>"
    assert "OpenVPN tls-crypt-v2 client key" in text
    assert material["tls_crypt_v2"].splitlines()[1] not in text
    # While clients move over the gateways take either kind.
    (host.base / "example/tls-crypt.key").write_text(_gateway_x509.static_key())
    assert {"tls_crypt", "tls_crypt_v2"} <= set(loaded.pillar("example", "gw1"))
    assert options(loaded.profile("alice"))[-1] == "<tls-crypt-v2>"


def test_a_profile_where_a_password_is_asked_for(pki, host, edit):
    assert "auth-user-pass" not in options(pki.profile("alice"))
    auth = {"vpn:servers:main:auth": {"pam": "openvpn"}, "vpn:pki:auth_token": "/etc/token"}
    host.pillar["gateway"] = edit(auth)
    assert "auth-user-pass" in options(pki.profile("alice"))


@pytest.mark.parametrize(
    ("site", "node", "message"),
    [
        ("example", "gw3", "nothing was issued to 'gw3'"),
        ("example", "alice", "alice is a client, not a gateway"),
        ("other", "gw1", "other has no CA"),
        ("example", "../ca", "is not a server's name"),
        ("example", None, "is not a server's name"),
    ],
)
def test_a_pillar_without_a_certificate_says_why(pki, caplog, edit, site, node, message):
    found = pki.pillar(site, node)
    assert list(found) == ["error"]
    assert message in found["error"]
    assert message in caplog.text
    described, errors = _gateway_plan.read(edit({"vpn:pki": found}))
    assert errors == []
    assert described
    assert described.vpn_error == found["error"]


def test_files_for_a_gateway(pki, host, tmp_path, example):
    """As pillar.example names them, for their owner alone; what was there is replaced."""
    folder = tmp_path / "to/gw1"
    material = pki.pillar("example", "gw1")
    for _ in range(2):
        paths = pki.export("gw1", str(folder))
        assert sorted(paths) == sorted(material)
        for name, path in paths.items():
            assert (folder / os.path.basename(path)).read_text() == material[name]
            assert os.stat(path).st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    there = {os.path.basename(path) for path in example["vpn"]["pki"].values()}
    assert there <= {path.name for path in folder.iterdir()}
    with pytest.raises(CommandExecutionError, match="alice is a client"):
        pki.export("alice", str(folder))
    pki.revoke("gw1")
    with pytest.raises(CommandExecutionError, match="the certificate of gw1 is revoked"):
        pki.export("gw1", str(folder))


def test_a_revoked_gateway_gets_nothing(pki):
    pki.revoke("gw1")
    assert pki.pillar("example", "gw1") == {"error": "the certificate of gw1 is revoked"}


def test_a_gateway_whose_certificate_is_over_keeps_it(pki, host, edit):
    """Its server goes on and learns who is revoked; its clients refuse it, the status says so."""
    host.now = NOW + timedelta(days=826)
    found = pki.pillar("example", "gw1")
    assert "error" not in found
    assert _gateway_x509.lifetimes(found["certificate"], host.now)[0]["days_left"] == -1
    assert _gateway_plan.read(edit({"vpn:pki": found}))[1] == []


@pytest.mark.parametrize("file", ["tls-crypt.key", "ca.crt", "crl.pem", "issued/gw1.pem"])
@pytest.mark.parametrize("text", ["", "-----BEGIN X-----\n", "\xff\xfe"])
def test_an_authority_that_is_damaged(pki, host, file, text):
    """A person learns which file it is; the pillar has the reason and is there all the same."""
    path = host.base / "example" / file
    path.write_bytes(text.encode("latin-1"))
    [(key, reason)] = pki.pillar("example", "gw1").items()
    assert key == "error"
    assert "is damaged" in reason
    assert (file in reason) or file == "tls-crypt.key"


@pytest.mark.parametrize("text", ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n", "\xff\xfe"])
def test_one_damaged_client_breaks_nothing_of_the_others(pki, host, tmp_path, caplog, text):
    pki.issue_client("bob")
    pki.issue_client("zoe")
    folder = tmp_path / "profiles"
    pki.profiles(str(folder))
    path = host.base / "example/issued/bob.pem"
    path.write_bytes(text.encode("latin-1"))
    names = [entry["name"] for entry in pki.list_()]
    assert names == ["example", "alice", "gw1", "zoe", "bob"]
    damaged = pki.list_()[-1]
    assert f"{path} is damaged; restore it from a backup" in damaged["error"]
    assert (damaged["current"], damaged["days_left"]) == (False, None)
    assert [entry.keys() for entry in pki.list_()[:-1]] == [pki.list_()[0].keys()] * 4
    assert pki.profiles(str(folder)) == [f"{folder}/{name}.ovpn" for name in ("alice", "zoe")]
    assert (folder / "bob.ovpn").exists()
    assert "No profile for bob" in caplog.text
    assert "certificate" in pki.pillar("example", "gw1")
    assert pki.revoke("alice")["revoked"]
    assert pki.crl()["revoked"] == 1
    for function in (pki.profile, pki.revoke, pki.renew, pki.issue_client):
        arguments = {"file": str(tmp_path / "x")} if function is pki.profile else {}
        with pytest.raises(CommandExecutionError, match=f"{path} is damaged"):
            function("bob", **arguments)


@pytest.mark.parametrize("arg", [["gateway_pki.pillar", "example"], ["fun=gateway_pki.pillar"]])
def test_no_key_on_a_command_line(pki, host, arg):
    with pytest.raises(CommandExecutionError, match="would show a key"):
        pki.pillar("example", "gw1", __pub_fun="gateway_pki.pillar")
    host.opts["arg"] = arg
    with pytest.raises(CommandExecutionError, match="would show a key"):
        pki.pillar("example", "gw1")


# The clients' part

TCP = {"vpn:servers:tcp": {"network": "10.9.0.0/16", "port": 1443, "proto": "tcp"}}


def test_a_profile(pki):
    assert options(pki.profile("alice")) == [
        "client",
        "dev tun",
        "nobind",
        "remote 198.51.100.2 1194 udp",
        "remote 198.51.100.3 1194 udp",
        "remote-random",
        "server-poll-timeout 3",
        "hand-window 15",
        "connect-retry 0 2",
        "explicit-exit-notify 1",
        "remote-cert-tls server",
        "tls-version-min 1.2",
        "data-ciphers AES-256-GCM:CHACHA20-POLY1305:AES-128-GCM",
        "verb 3",
        "<ca>",
        "<cert>",
        "<key>",
        "<tls-crypt>",
    ]


SHARED = {"public:virtual_ip": "198.51.100.1", "vpn:remote": "vpn.example.com"}


def test_a_profile_that_names_the_virtual_ip(pki, host, edit):
    """First, and twice; the nodes after it, in the order that a client has for ever."""
    host.pillar["gateway"] = edit(SHARED)
    found = options(pki.profile("alice"))
    remotes = [line.split()[1:] for line in found if line.startswith("remote ")]
    assert remotes[:2] == [["vpn.example.com", "1194", "udp"]] * 2
    assert sorted(remotes[2:]) == [[f"198.51.100.{n}", "1194", "udp"] for n in (2, 3)]
    assert "remote-random" not in found
    assert "connect-retry 0 2" in found


def test_the_virtual_ip_of_several_servers(pki, host, edit):
    host.pillar["gateway"] = edit(SHARED | TCP)
    found = options(pki.profile("alice"))
    remotes = [line.split()[1:] for line in found if line.startswith("remote ")]
    assert [name for name, _, proto in remotes if proto == "tcp"][:2] == ["vpn.example.com"] * 2
    assert [proto for *_, proto in remotes] == ["udp"] * 8 + ["tcp"] * 4
    assert remotes[:4] == remotes[4:8]


def test_what_is_inline(pki, host):
    text = pki.profile("alice")
    issued = (host.base / "example/issued/alice.pem").read_text()
    assert text.count("BEGIN CERTIFICATE") == 2
    for block in re.findall(r"-----BEGIN .*?-----END [^-]*-----", issued, re.S):
        assert block in text
    assert "OpenVPN Static key V1" in text
    assert (host.base / "example/ca.key").read_text().strip() not in text
    assert "good until 2029-02-24" in text.splitlines()[0]


def test_udp_twice_and_then_tcp(pki, host, edit):
    host.pillar["gateway"] = edit(TCP)
    found = options(pki.profile("alice"))
    remotes = [line.split()[1:] for line in found if line.startswith("remote ")]
    assert [proto for *_, proto in remotes] == ["udp"] * 4 + ["tcp"] * 2
    assert remotes[:2] == remotes[2:4]
    # What OpenVPN shuffles, it shuffles whole; and 2.5 refuses the notice beside TCP.
    assert "remote-random" not in found
    assert "explicit-exit-notify 1" not in found
    assert pki.profile("alice") == pki.profile("alice")


def test_clients_spread_over_the_gateways(loaded):
    remotes = [
        (f"gw{n}", f"198.51.100.{n}", port, "udp") for n in (1, 2, 3) for port in (443, 1194)
    ]
    first = [_gateway_vpn_profiles.in_order(remotes, f"client-{n}")[0][0][0] for n in range(300)]
    for node in ("gw1", "gw2", "gw3"):
        assert 70 < first.count(node) < 130
    ordered, _ = _gateway_vpn_profiles.in_order(remotes, "alice")
    assert sorted(ordered) == sorted(remotes)
    # The next to try is never on the gateway that has just failed.
    assert all(one[0] != other[0] for one, other in itertools.pairwise(ordered))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes:gw2:public": ..., "public:network": ...}, "gateway:nodes:gw2:remote: missing"),
        ({"vpn": ...}, "gateway:vpn:servers: missing"),
        ({"domain": 7}, "gateway:domain: must be text"),
    ],
)
def test_a_site_that_has_no_profile(pki, host, edit, changes, message):
    host.pillar["gateway"] = edit(changes)
    with pytest.raises(CommandExecutionError, match=message):
        pki.profile("alice")


def test_too_many_remotes(pki, host, edit):
    nodes = {
        f"gw{n}": {"id": n, "internal": f"10.77.0.{n + 100}", "public": f"198.51.100.{n + 100}"}
        for n in range(1, 12)
    }
    servers = {f"s{n}": {"network": f"10.{n}.0.0/16", "port": 1200 + n} for n in range(20, 26)}
    host.pillar["gateway"] = edit({"nodes": nodes, "dhcp": ..., "vpn:servers": servers})
    with pytest.raises(CommandExecutionError, match="66 remotes: OpenVPN takes 64 at most"):
        pki.profile("alice")


@pytest.mark.parametrize(
    ("name", "message"),
    [("gw1", "gw1 is a gateway, not a client"), ("bob", "nothing was issued to 'bob'")],
)
def test_who_has_no_profile(pki, name, message):
    with pytest.raises(CommandExecutionError, match=message):
        pki.profile(name)


def test_a_profile_of_the_masters_view(pki, host, monkeypatch, edit):
    pillar = host.pillar.pop("gateway")

    class Pillar:
        def __init__(self, opts, grains, minion_id, saltenv):
            assert (opts, grains, minion_id, saltenv) == (host.opts, {"id": "gw1"}, "gw1", "base")

        def compile_pillar(self):
            return {"gateway": pillar}

    monkeypatch.setattr(salt.pillar, "Pillar", Pillar)
    monkeypatch.setattr(salt.utils.minions, "get_minion_data", lambda *_: (None, None, None))
    assert "remote 198.51.100.3 1194 udp" in options(pki.profile("alice"))
    pillar = None
    monkeypatch.setattr(Pillar, "compile_pillar", lambda _: {})
    with pytest.raises(CommandExecutionError, match="no gateway of this site has a pillar here"):
        pki.profile("alice")


@pytest.mark.parametrize(
    "changes",
    [
        {"__cli": "salt-run"},
        {"__cli": "salt-minion"},
        {"local": False},
        {"return": "mysql"},
        {"cache_jobs": True},
    ],
)
def test_no_key_in_the_result_of_a_job(pki, host, tmp_path, changes):
    host.opts.update(changes)
    with pytest.raises(CommandExecutionError, match=r"name a file=... to write it to") as caught:
        pki.profile("alice")
    assert PRIVATE not in str(caught.value)
    path = tmp_path / "alice.ovpn"
    assert pki.profile("alice", file=str(path)) == str(path)
    assert PRIVATE in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_key_in_any_other_result(pki, tmp_path):
    results = [
        pki.create_ca("other"),
        pki.issue_client("bob", "example"),
        pki.issue_server("gw2", "example"),
        pki.renew("bob", "example"),
        pki.list_("example"),
        pki.crl("example"),
        pki.revoke("bob", site="example"),
        pki.backup(site="example"),
        pki.profiles(str(tmp_path / "profiles"), "example"),
    ]
    assert PRIVATE not in str(results)


def test_profiles(pki, host, tmp_path):
    folder = tmp_path / "some/profiles"
    pki.issue_client("bob")
    pki.issue_client("visitor", days=7)
    assert pki.profiles(str(folder)) == [f"{folder}/{n}.ovpn" for n in ("alice", "bob", "visitor")]
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_text() == pki.profile(path.stem)
    pki.revoke("bob")
    host.now += timedelta(days=8)
    (folder / "mine.ovpn").touch()
    assert pki.profiles(str(folder)) == [f"{folder}/alice.ovpn"]
    assert sorted(path.name for path in folder.iterdir()) == ["alice.ovpn", "mine.ovpn"]


# OpenVPN itself


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("openvpn"), reason="no openvpn, or not root"
)
@pytest.mark.parametrize(("changes", "v2"), [({}, False), (TCP, False), ({}, True)])
def test_openvpn_reads_a_profile(pki, host, tmp_path, edit, changes, v2):
    host.now = datetime.now(timezone.utc).replace(microsecond=0)
    host.pillar["gateway"] = edit(changes)
    pki.issue_client("phone")
    if v2:
        key = _gateway_x509.server_key("tls-crypt-v2")
        (host.base / "example/tls-crypt-v2.key").write_text(key)
    path = pki.profile("phone", file=str(tmp_path / "phone.ovpn"))
    # Nothing answers in a network namespace of its own: it goes through its list of remotes.
    log = tmp_path / "log"
    command = ["unshare", "--net", "openvpn", "--config", path, "--log", str(log)]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and process.poll() is None:
            if log.exists() and "link remote:" in log.read_text():
                break
            time.sleep(0.05)
        process.kill()
    text = log.read_text()
    assert "link remote: [AF_INET]198.51.100" in text, text
    assert "WARNING" not in text
    assert "Options error" not in text
