"""VPN servers, their clients, revocation lists and sessions: _states/gateway_openvpn.py."""

import contextlib
import itertools
import json
import os
import re
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from salt.exceptions import CommandExecutionError


@pytest.fixture(scope="module")
def module(load):
    return load("_states/gateway_openvpn.py")


def test_a_new_library_is_taken_up(module, load, monkeypatch, tmp_path):
    """As the one that all states share."""
    library = tmp_path / "_gateway_vpn_client_files.py"
    written = "import os\nWRITTEN = os.stat(__file__).st_mtime_ns\n"
    library.write_text(f"{written}VERSION = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "_gateway_vpn_client_files")
    assert load("_states/gateway_openvpn.py").client_files.VERSION == 1
    library.write_text(f"{written}VERSION = 'two'\n")
    assert load("_states/gateway_openvpn.py").client_files.VERSION == "two"


@pytest.fixture
def openvpn(machine):
    """A node with two servers of ours, one of somebody else, and drop-ins for all."""
    servers, units = machine.folder / "server", machine.folder / "etc/systemd/system"
    for instance in ("gateway-main", "gateway-old", "office"):
        drop_in = units / f"openvpn-server@{instance}.service.d"
        drop_in.mkdir(parents=True)
        (drop_in / "gateway.conf").touch()
        servers.mkdir(exist_ok=True)
        (servers / f"{instance}.conf").touch()
        (machine.folder / "openvpn" / instance.removeprefix("gateway-")).mkdir(parents=True)
    (machine.folder / "openvpn/office").rmdir()
    (servers / "gateway-notes.txt").touch()
    for verb in ("stop", "disable"):
        machine.functions[f"service.{verb}"] = lambda unit, verb=verb: machine.calls.append(
            (verb, unit)
        )
    return SimpleNamespace(
        call=("servers_only", str(servers), "openvpn-server@"),
        servers=lambda: sorted(os.listdir(servers)),
        units=units,
    )


def test_openvpn_servers_that_left_the_pillar(machine, openvpn):
    changes = machine.converges(*openvpn.call, ["gateway-main", "gateway-new"])
    assert changes == {"gateway-old": "removed"}
    unit = "openvpn-server@gateway-old"
    assert machine.calls == [("stop", unit), ("disable", unit)]
    assert openvpn.servers() == ["gateway-main.conf", "gateway-notes.txt", "office.conf"]
    assert not (openvpn.units / f"{unit}.service.d").exists()
    assert (openvpn.units / "openvpn-server@office.service.d/gateway.conf").exists()
    assert (openvpn.units / "openvpn-server@gateway-main.service.d/gateway.conf").exists()
    assert os.listdir(machine.folder / "openvpn") == ["main"]


@pytest.mark.parametrize("number", range(1, 7))
def test_openvpn_server_that_was_being_removed(machine, openvpn, module, monkeypatch, number):
    """By a run that was killed: the next one sees that, and nothing is left."""
    (machine.folder / "openvpn/old/alice").touch()
    with monkeypatch.context() as patch:
        machine.killed_at(patch, module.os, "remove" if number % 2 else "rmdir", (number + 1) // 2)
        with contextlib.suppress(machine.Killed):
            machine.run(*openvpn.call, ["gateway-main"])
    machine.run(*openvpn.call, ["gateway-main"])
    assert openvpn.servers() == ["gateway-main.conf", "gateway-notes.txt", "office.conf"]
    assert not (openvpn.units / "openvpn-server@gateway-old.service.d").exists()
    assert os.listdir(machine.folder / "openvpn") == ["main"]


def test_copies_of_keys_by_salt(machine, openvpn):
    """Of backup_mode, and of a run that was killed before it renamed the new file."""
    servers = Path(openvpn.call[1])
    machine.opts["cachedir"] = str(machine.folder / "cache")
    backups = Path(f"{machine.folder}/cache/file_backup{servers}")
    backups.mkdir(parents=True)
    mine = [backups / "office.conf_Thu_Nov_26_2026", servers / "gateway-main.conf.by-hand"]
    theirs = [backups / "gateway-main.conf_Thu_Nov_26_2026", servers / "gateway-main.confab1_x9yz"]
    for path in (*mine, *theirs):
        path.touch()
    changes = machine.converges(*openvpn.call, ["gateway-main", "gateway-old"])
    assert changes == dict.fromkeys(map(str, theirs), "removed")
    assert all(path.exists() for path in mine)


def test_openvpn_leaves_the_drop_ins_of_others(machine, openvpn):
    other = openvpn.units / "openvpn-server@gateway-old.service.d/admin.conf"
    other.touch()
    machine.converges(*openvpn.call, ["gateway-main"])
    assert os.listdir(other.parent) == ["admin.conf"]


def test_openvpn_that_is_not_installed(machine):
    name = str(machine.folder / "nowhere")
    assert machine.run("servers_only", name, "openvpn-server@", [])["changes"] == {}


def test_openvpn_that_does_not_stop(machine, openvpn):
    def refuse(unit):
        raise CommandExecutionError(f"{unit} hangs")

    machine.functions["service.stop"] = refuse
    ret = machine.run(*openvpn.call, [])
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "openvpn-server@gateway-main hangs" in ret["comment"]
    assert "gateway-main.conf" in openvpn.servers()


# --------------------------------------------------------------------------------------------------
# VPN clients

ALICE = {"address": "10.8.0.5"}
BOB = {"address": "10.8.0.6", "disabled": True}
ALICES_FILE = "# Managed by Salt (gateway).\nifconfig-push 10.8.0.5 255.255.255.0\n"
NOW = datetime.now(timezone.utc)


def plan_of_a_server(clients, **changes):
    """What the plan has of it, as the SLS passes it; of a client what is not usual."""
    usual: dict[str, Any] = {"disabled": False, "address": None, "networks": [], "pushes": []}
    server = {
        "netmask": "255.255.255.0",
        "dynamic": True,
        "client_pushes": [],
        "clients": [{"file": file, **usual, **client} for file, client in clients.items()],
    }
    return json.dumps(server | changes)


@pytest.fixture
def templates(machine):
    """What the template of PEM text renders to."""
    templates = SimpleNamespace(pem={})

    def get_template(source, destination, template, saltenv, **context):
        assert source == "salt://pem"
        Path(destination).write_text(templates.pem[context["material"]])
        return destination

    machine.functions["cp.get_template"] = get_template
    return templates


class Clients:
    """The folder of a server's clients. ``of`` is what the pillar has of them, ``call`` the state
    and its arguments."""

    def __init__(self, folder):
        self.folder = folder
        self.of = {"alice": ALICE, "bob": BOB}

    @property
    def call(self):
        return ("clients", str(self.folder), plan_of_a_server(self.of))


@pytest.fixture
def clients(machine):
    return Clients(machine.folder / "openvpn/main")


def test_clients_come_change_and_go(machine, clients):
    added = machine.converges(*clients.call)
    made = dict.fromkeys(map(str, (clients.folder, clients.folder.parent)), "made")
    assert added == {"alice": "added", "bob": "added", **made}
    assert (clients.folder / "alice").read_text() == ALICES_FILE
    for path in (clients.folder.parent, clients.folder):
        assert path.stat().st_mode & 0o777 == 0o755
    assert (clients.folder / "bob").stat().st_mode & 0o777 == 0o644
    kept = (clients.folder / "alice").stat().st_ino
    clients.of = {"alice": ALICE, "carol": ALICE, "bob": ALICE}
    assert machine.converges(*clients.call) == {"bob": "changed", "carol": "added"}
    clients.of = {"alice": ALICE}
    (clients.folder / "stale.new").touch()
    removed = dict.fromkeys(("bob", "carol", "stale.new"), "removed")
    assert machine.converges(*clients.call) == removed
    assert (clients.folder / "alice").stat().st_ino == kept
    clients.of = {}
    assert machine.converges(*clients.call) == {"alice": "removed"}
    clients.of = {"alice": ALICE, "alice.new": BOB}
    assert set(machine.converges(*clients.call).values()) == {"added"}


def test_no_clients_are_an_empty_folder(machine, clients):
    clients.of = {}
    assert set(machine.converges(*clients.call).values()) == {"made"}
    assert os.listdir(clients.folder) == []


@pytest.mark.usefixtures("umask")
def test_clients_can_be_read_by_openvpn_without_privileges(machine, clients):
    """It takes a file that it cannot read for none, and would let in who is disabled."""
    machine.run(*clients.call)
    paths = [clients.folder.parent, clients.folder, clients.folder / "bob"]
    assert list(map(machine.mode, paths)) == [0o755, 0o755, 0o644]
    for path in paths:
        expected = machine.mode(path)
        path.chmod(0o600)
        name = "bob" if path.name == "bob" else str(path)
        wrong = {"mode": {"old": "0600", "new": f"{expected:04o}"}}
        assert machine.converges(*clients.call) == {name: wrong}
        assert machine.mode(path) == expected


def test_what_is_in_the_files_of_clients(machine, clients):
    branch = {
        "address": "10.50.0.0",
        "netmask": "255.255.255.0",
        "push": "route 10.50.0.0 255.255.255.0",
        "halves": ["10.50.0.0/25", "10.50.0.128/25"],
    }
    of = {
        "alice": {**ALICE, "pushes": ["dhcp-option NTP 10.77.0.2"]},
        "bob": BOB,
        "branch": {"networks": [branch]},
        "visitor": {},
    }
    pushes = ["route 10.50.0.0 255.255.255.0", "route 10.60.0.0 255.255.255.0"]
    server = plan_of_a_server(of, client_pushes=pushes)
    machine.converges("clients", str(clients.folder), server)
    files = {path.name: path.read_text().splitlines() for path in clients.folder.iterdir()}
    told = [f'push "{push}"' for push in pushes]
    managed = "# Managed by Salt (gateway)."
    assert files == {
        "alice": [
            managed,
            "ifconfig-push 10.8.0.5 255.255.255.0",
            *told,
            'push "dhcp-option NTP 10.77.0.2"',
        ],
        "bob": [managed, "disable", "ifconfig-push 10.8.0.6 255.255.255.0", *told],
        # Not the way to what is behind itself.
        "branch": [managed, "iroute 10.50.0.0 255.255.255.0", told[1]],
        "visitor": [managed, *told],
        "DEFAULT": ["# Managed by Salt (gateway): for clients without a file of their own.", *told],
    }


@pytest.fixture(scope="module")
def authority():
    """A CA that signs revocation lists, and its certificate."""

    def make(name="CA"):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        dates = {"not_valid_before": NOW - timedelta(9), "not_valid_after": NOW + timedelta(9)}
        builder = x509.CertificateBuilder(
            subject,
            subject,
            key.public_key(),
            1,
            dates["not_valid_before"],
            dates["not_valid_after"],
        )
        certificate = builder.sign(key, hashes.SHA256())

        def revoke(*serials, days=5, begin=-8):
            crl = x509.CertificateRevocationListBuilder(
                subject, NOW + timedelta(begin), NOW + timedelta(days)
            )
            for serial in serials:
                entry = x509.RevokedCertificateBuilder(serial, NOW - timedelta(1))
                crl = crl.add_revoked_certificate(entry.build())
            made = crl.sign(key, hashes.SHA256())
            return made.public_bytes(serialization.Encoding.PEM).decode()

        pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        return SimpleNamespace(pem=pem, revoke=revoke)

    return make


@pytest.fixture(params=["cryptography", "openssl"])
def reader(request, module, monkeypatch):
    """What reads revocation lists: over salt-ssh the node's Python may have no cryptography."""
    if request.param == "openssl":
        monkeypatch.setattr(module.revocation, "x509", None)
    return request.param


def test_revocation_list(machine, templates, authority, reader):
    ca, name = authority(), str(machine.folder / "crl.pem")
    # Two certificates of the CA: the list is of the second.
    templates.pem = {"ca": authority().pem + ca.pem, "crl": ca.revoke(7)}
    changes = machine.converges("crl", name, "salt://pem")
    assert changes == {"revocation list": "written"}
    Path(name).chmod(0o600)
    wrong = {"mode": {"old": "0600", "new": "0644"}}
    assert machine.converges("crl", name, "salt://pem") == {"revocation list": wrong}
    assert machine.mode(name) == 0o644
    templates.pem["crl"] = ca.revoke(7, 8)
    assert machine.converges("crl", name, "salt://pem") == changes
    (machine.folder / "ca.crt").write_text(ca.pem)
    del templates.pem["ca"]
    path = str(machine.folder / "ca.crt")
    assert machine.run("crl", name, "salt://pem", ca=path)["result"] is True


def test_revocation_list_at_a_path_that_openvpn_cannot_read(machine, templates, authority):
    """It is copied to where user nobody can, and checked as any other."""
    ca, name, path = authority(), machine.folder / "crl.pem", machine.folder / "root/list.pem"
    path.parent.mkdir(0o700)
    path.write_text(ca.revoke(7))
    path.chmod(0o600)
    templates.pem = {"ca": ca.pem}
    call = ("crl", str(name), "salt://pem", str(path))
    assert machine.converges(*call) == {"revocation list": "written"}
    assert name.read_text() == path.read_text()
    assert name.stat().st_mode & 0o777 == 0o644
    path.write_text(ca.revoke(7, days=-1))
    ret = machine.run(*call)
    assert (ret["result"], ret["changes"]) == (False, {})
    path.unlink()
    ret = machine.run(*call)
    assert (ret["result"], ret["comment"]) == (False, f"{path} is not there")
    assert "X509 CRL" in name.read_text()


@pytest.mark.parametrize("wrong", [None, "expired", "not valid yet", "not its CA's", "cut off"])
def test_every_list_of_every_ca_is_checked(machine, templates, authority, reader, wrong):
    """OpenVPN reads them all, each for its own CA."""
    one, two, name = authority("one"), authority("two"), str(machine.folder / "crl.pem")
    second = {
        None: two.revoke(8),
        "expired": two.revoke(8, days=-1),
        "not valid yet": two.revoke(8, begin=1),
        "not its CA's": authority("two").revoke(8),
        "cut off": two.revoke(8)[:-30],
    }[wrong]
    templates.pem = {"ca": one.pem + two.pem, "crl": one.revoke(7) + second}
    assert machine.run("crl", name, "salt://pem")["result"] is (wrong is None)


def test_revocation_list_without_what_reads_it(machine, module, templates, authority, monkeypatch):
    """Over salt-ssh, with a Python of the node's that has no cryptography, or an old one."""
    ca, name = authority(), machine.folder / "crl.pem"
    templates.pem = {"ca": ca.pem, "crl": ca.revoke(7)}
    monkeypatch.setenv("PATH", str(machine.folder))
    for found in (None, SimpleNamespace(CertificateRevocationList=object)):
        monkeypatch.setattr(module.revocation, "x509", found)
        ret = machine.run("crl", str(name), "salt://pem")
        assert ret["result"] is False
        assert "takes Python's cryptography, 42 or newer, or the program openssl" in ret["comment"]
        assert "no revocation list" not in ret["comment"]
    assert not name.exists()


@pytest.mark.parametrize("serial", [7, 2**158 + 11])
def test_both_readers_say_the_same(module, authority, monkeypatch, serial):
    ca = authority()
    [crl] = module.revocation.read(ca.revoke(8, serial))
    assert crl.serials == {8, serial}
    monkeypatch.setattr(module.revocation, "x509", None)
    assert module.revocation.read(crl.text) == [crl]


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize(
    "wrong", ["expired", "not valid yet", "another CA's", "no list", "empty", "no CA", "broken CA"]
)
def test_revocation_list_that_would_lock_everybody_out(
    machine, templates, authority, reader, wrong, test
):
    ca, name = authority(), machine.folder / "crl.pem"
    name.write_text("old")
    crl, message = {
        "expired": (ca.revoke(7, days=-1), "out of date since"),
        "not valid yet": (
            ca.revoke(7, begin=1),
            "one of the two is wrong, that clock or the clock",
        ),
        "empty": ("", "no revocation"),
        "another CA's": (authority().revoke(7), "is not of the CA"),
        "no list": ("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "no revocation"),
        "no CA": (ca.revoke(7), "is not there"),
        "broken CA": (ca.revoke(7), ""),
    }[wrong]
    templates.pem = {"ca": "x" if wrong == "broken CA" else ca.pem, "crl": crl}
    path = str(machine.folder / "nowhere") if wrong == "no CA" else None
    ret = machine.run("crl", str(name), "salt://pem", ca=path, test=test)
    assert ret["result"] is False
    assert message in ret["comment"]
    assert name.read_text() == "old"


HEADER = (
    "HEADER\tCLIENT_LIST\tCommon Name\tReal Address\tVirtual Address\tVirtual IPv6 Address\t"
    "Bytes Received\tBytes Sent\tConnected Since\tConnected Since (time_t)\tUsername\tClient ID\t"
    "Peer ID\tData Channel Cipher"
)


@pytest.fixture
def server(machine, monkeypatch, module, templates, authority):
    """A running OpenVPN server as its management socket shows it, with three clients."""
    server = SimpleNamespace(
        sessions={"0": ("alice", "10.8.0.5"), "1": ("carol", "10.8.0.200"), "2": ("UNDEF", "")},
        asked=[],
        stubborn=set(),
        nonsense=None,
        ca=authority(),
    )
    monkeypatch.setattr(module, "GRACE", 0)
    # A path that is short enough for a socket.
    monkeypatch.chdir(machine.folder)
    notes = machine.folder / "notes"
    notes.mkdir()
    (notes / "10.8.0.5").write_text("7 alice\n")
    (notes / "10.8.0.200").write_text("8 carol\n")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("socket")
    listener.listen()

    def answer(command):
        if command == "status 3":
            rows = [
                f"CLIENT_LIST\t{name}\t192.0.2.1:{number}\t{address}\t\t1\t1\tx\t1\tUNDEF\t{number}\t0\tx"
                for number, (name, address) in server.sessions.items()
            ]
            return ["TITLE\tx", HEADER, ">CLIENT:ADDRESS,1", *rows, "GLOBAL_STATS\tx\t0", "END"]
        server.asked.append(command)
        number = re.findall(r"\d+", command)[-1]
        if command.startswith("kill") or number not in server.stubborn:
            server.sessions.pop(number)
        return ["SUCCESS: done"]

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rw") as lines:
                lines.write(">INFO:hello\n")
                lines.flush()
                for line in lines:
                    if server.nonsense is not None:
                        talk(connection)
                        return
                    lines.write("".join(f"{row}\r\n" for row in answer(line.strip())))
                    lines.flush()

    def talk(connection):
        with suppress(OSError):
            for text in server.nonsense:
                connection.sendall(text.encode())
                time.sleep(0.05)
            connection.recv(1)

    threading.Thread(target=serve, daemon=True).start()
    server.of = {"alice": ALICE, "bob": BOB}
    server.call = lambda **changes: (
        *("sessions", "socket", plan_of_a_server(server.of, **changes)),
        str(notes),
    )
    server.revoke = lambda *serials: templates.pem.update(crl=server.ca.revoke(*serials))
    server.crl = {"source": "salt://pem"}
    server.notes = notes
    yield server
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_sessions_that_are_all_right(machine, server):
    server.revoke(1, 2, 3)
    crls: tuple[Any, ...] = (None, {}, server.crl)
    for crl in crls:
        assert machine.run(*server.call(), crl=crl)["changes"] == {}
    assert server.asked == []


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("why", ["disabled", "revoked", "not in gateway:vpn:clients", "moved"])
def test_sessions_of_who_is_refused(machine, server, why, stubborn):
    """They are asked to leave; who stays is cut off; nobody else is even asked."""
    options, plan = {}, {}
    session, number = "alice 10.8.0.5", "0"
    if why == "disabled":
        server.of["alice"] = {**ALICE, "disabled": True}
    elif why == "revoked":
        server.revoke(7, 99)
        options["crl"] = server.crl
    elif why == "moved":
        server.of = {"bob": ALICE}
        why = "its address is bob's now"
    else:
        plan["dynamic"] = False
        session, number = "carol 10.8.0.200", "1"
    if stubborn:
        server.stubborn.add(number)
    assert machine.converges(*server.call(**plan), **options) == {session: why}
    ways = [f"client-kill {number}", f"kill 192.0.2.1:{number}"]
    assert server.asked == ways[: 1 + stubborn]


def test_a_name_that_a_file_cannot_have(machine, server):
    """OpenVPN calls the file otherwise."""
    server.sessions = {"0": ("ou/John Doe", "10.8.0.5")}
    server.of = {"ou_John Doe": {"disabled": True}}
    assert machine.converges(*server.call()) == {"ou/John Doe 10.8.0.5": "disabled"}


def test_an_address_that_is_the_beginning_of_another(machine, server):
    """10.8.0.5 is not 10.8.0.50, and not the end of 110.8.0.5."""
    server.of["bob"] = {"address": "10.8.0.50"}
    server.of["eve"] = {"address": "110.8.0.5"}
    assert machine.run(*server.call())["changes"] == {}


def test_a_client_whose_name_is_that_of_the_file_for_all_others(machine, server):
    """OpenVPN finds a file for it, so it would come in again."""
    server.sessions = {"0": ("DEFAULT", "10.8.0.200")}
    told = server.call(dynamic=False, client_pushes=["route 10.50.0.0 255.255.255.0"])
    assert machine.run(*told)["changes"] == {}
    refused = {"DEFAULT 10.8.0.200": "not in gateway:vpn:clients"}
    assert machine.run(*server.call(dynamic=False))["changes"] == refused


def test_a_revoked_client_where_only_those_with_an_entry_get_in(machine, server):
    server.of["carol"] = {"address": "10.8.0.200"}
    server.revoke(8)
    changes = machine.run(*server.call(dynamic=False), crl=server.crl)["changes"]
    assert changes == {"carol 10.8.0.200": "revoked"}


def test_a_note_of_somebody_else_is_no_proof(machine, server):
    """What is left of an earlier client with this address says nothing of this one."""
    server.revoke(6)
    (server.notes / "10.8.0.5").write_text("6 zoe\n")
    assert machine.run(*server.call(), crl=server.crl)["changes"] == {}


def test_a_note_is_small_and_a_file(machine, server):
    """OpenVPN, which has no privileges, can put anything there: it is not followed, waited for, or
    read to its end."""
    server.revoke(7)
    note = server.notes / "10.8.0.5"
    for text, known in {
        "7 alice": True,
        f"7 alice\n{4089 * ' '}": False,
        "\u00b2 alice": False,
    }.items():
        note.write_text(text)
        changes = machine.run(*server.call(), crl=server.crl)["changes"]
        assert changes == ({"alice 10.8.0.5": "revoked"} if known else {})
        server.sessions["0"] = ("alice", "10.8.0.5")
    (server.notes / "elsewhere").write_text("7 alice")
    (machine.folder / "outside").write_text("7 alice")
    os.symlink("elsewhere", server.notes / "10.8.0.7")
    os.mkfifo(server.notes / "10.8.0.8")
    for address in ("10.8.0.7", "10.8.0.8", "10.8.0.9", "../outside", ".."):
        server.sessions["0"] = ("alice", address)
        assert machine.run(*server.call(), crl=server.crl)["changes"] == {}


@pytest.mark.parametrize("says", ["endless", "slow", "nothing", "nonsense"])
def test_an_answer_of_openvpn_has_its_bounds(machine, module, server, monkeypatch, says):
    """Whoever has taken it over shall not keep an apply from its end."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 30 if says == "endless" else 0.5)
    monkeypatch.setattr(module, "ANSWER_SIZE", 100_000)
    server.nonsense = {
        "endless": itertools.repeat(20_000 * "x"),
        "slow": itertools.repeat("x\n"),
        "nothing": [],
        "nonsense": ["HEADER\tCLIENT_LIST\tx\nCLIENT_LIST\ty\nEND\n"],
    }[says]
    begin = time.monotonic()
    assert machine.run(*server.call())["result"] is False
    assert time.monotonic() - begin < 3


def test_sessions_and_a_list_on_the_node(machine, server):
    path = machine.folder / "crl.pem"
    path.write_text(server.ca.revoke(8))
    changes = machine.run(*server.call(), crl={"path": str(path)})["changes"]
    assert changes == {"carol 10.8.0.200": "revoked"}
    path.unlink()
    assert machine.run(*server.call(), crl={"path": str(path)})["result"] is False


def test_sessions_and_the_lists_of_two_cas(machine, server, authority, reader):
    path = machine.folder / "crl.pem"
    path.write_text(server.ca.revoke(6) + authority("other").revoke(8))
    changes = machine.run(*server.call(), crl={"path": str(path)})["changes"]
    assert changes == {"carol 10.8.0.200": "revoked"}


def test_sessions_of_a_server_that_does_not_run(machine, server):
    os.rename("socket", "elsewhere")
    assert machine.run(*server.call())["changes"] == {}
    Path("socket").touch()
    ret = machine.run(*server.call())
    assert ret["result"] is False
    os.remove("socket")
