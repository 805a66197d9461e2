"""The script that OpenVPN calls when a client has come or gone."""

import subprocess

import pytest

SCRIPT = "gateway/openvpn/files/vpn-session"


@pytest.fixture
def session(root, tmp_path):
    """Call it as OpenVPN does, for alice's certificate."""

    def call(*more, script_type="client-connect", code=0, **env):
        env = {
            "PATH": "/usr/bin:/bin",
            "script_type": script_type,
            "ifconfig_pool_remote_ip": "10.8.0.5",
            "tls_serial_0": "77",
            "common_name": "alice",
            **env,
        }
        command = ["sh", str(root / SCRIPT), str(tmp_path), *more]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done

    return call


@pytest.fixture
def note(tmp_path):
    """What is written of alice's session."""
    return tmp_path / "10.8.0.5"


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
