"""The script that OpenVPN calls when a client has come or gone."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.scripts

SCRIPT = "gateway/openvpn/files/vpn-session"
NOBODY = 65534 if os.geteuid() == 0 else None  # root may read everything


@pytest.fixture
def node():
    """The folders of a node with a server called main, which nobody may enter."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        clients, notes = base / "openvpn/main", base / "run/gateway-main/sessions"
        for path in (clients, notes):
            path.mkdir(parents=True)
        base.chmod(0o755)
        if NOBODY:
            os.chown(notes, NOBODY, NOBODY)
        yield base
        for place in filter(Path.exists, (clients.parent, clients)):
            place.chmod(0o755)


@pytest.fixture
def session(root, node):
    """Call it as OpenVPN does, for alice's certificate and without the rights of root."""
    text = (root / SCRIPT).read_text().replace("/etc/gateway/openvpn", f"{node}/openvpn")
    script = node / "vpn-session"
    script.write_text(text.replace("/run/gateway-", f"{node}/run/gateway-"))

    def call(*more, script_type="client-connect", code=0, **env):
        env = {
            "PATH": "/usr/bin:/bin",
            "script_type": script_type,
            "ifconfig_pool_remote_ip": "10.8.0.5",
            "tls_serial_0": "77",
            "common_name": "alice",
            **env,
        }
        command = ["sh", str(script), str(node / "run/gateway-main/sessions"), *more]
        done = subprocess.run(
            command,
            env=env,
            user=NOBODY,
            group=NOBODY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done

    return call


@pytest.fixture
def note(node):
    """What is written of alice's session."""
    return node / "run/gateway-main/sessions/10.8.0.5"


def test_the_note_of_a_session(session, note):
    session()
    assert note.read_text() == "77 alice\n"
    session(script_type="client-disconnect")
    assert not note.exists()


def test_a_folder_that_is_gone_keeps_nobody_out(session, note):
    note.mkdir()
    session()


def test_any_user_may_come_with_any_certificate(session, note):
    """Unless the pillar says otherwise."""
    session(username="bob")
    assert note.read_text() == "77 alice\n"


def test_the_user_of_the_certificate_alone(session, note):
    session("same-name", username="alice")
    assert note.read_text() == "77 alice\n"
    session("same-name", script_type="client-disconnect", username="bob")
    assert not note.exists()


@pytest.mark.parametrize("username", ["bob", "Alice", "alice2", "", None])
def test_another_user_is_refused(session, note, username):
    """And leaves no note: nobody is here."""
    named = {} if username is None else {"username": username}
    done = session("same-name", code=1, **named)
    assert done.stdout == f"user '{username or ''}' came with the certificate of 'alice'\n"
    assert not note.exists()


@pytest.mark.parametrize("name", ["alice", "John Doe"])
def test_who_has_a_file_that_can_be_read_is_let_in(session, node, note, name):
    for file in (f"main/{name}", "crl.pem"):
        (node / "openvpn" / file).touch()
    session(common_name=name)
    assert note.read_text() == f"77 {name}\n"


@pytest.mark.parametrize("closed", ["main", "main/alice", "crl.pem", ".", "gone"])
def test_nobody_gets_in_where_it_cannot_be_read_who_may_not(session, node, note, closed):
    """OpenVPN takes what it cannot read for nothing, and would let in who is disabled."""
    for file in ("main/alice", "crl.pem"):
        (node / "openvpn" / file).touch()
    if closed == "gone":
        shutil.rmtree(node / "openvpn/main")
    else:
        (node / "openvpn" / closed).chmod(0)
    assert "alice is refused" in session(code=1).stderr
    assert not note.exists()


def test_a_file_that_openvpn_calls_otherwise_than_the_client(session, node, note):
    file = node / "openvpn/main/ou_John Doe"
    file.touch()
    session(common_name="ou/John Doe")
    assert note.read_text() == "77 ou/John Doe\n"
    note.unlink()
    file.chmod(0)
    assert "ou/John Doe is refused" in session(common_name="ou/John Doe", code=1).stderr
    assert not note.exists()
