"""The certificate authority: real certificates, real files, processes that die and that compete."""

import base64
import contextlib
import hmac
import multiprocessing
import os
import re
import shutil
import subprocess
import tarfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

import _gateway_ca
import _gateway_files
import _gateway_plan
import _gateway_x509
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
DAY = timedelta(days=1)
DAYS = {"days": 825, "crl_days": 1825}
PASSPHRASE = b"correct horse"
FORK = multiprocessing.get_context("fork")


def at(folder, later=timedelta(), passphrase=None):
    return _gateway_ca.Authority(Path(folder), NOW + later, passphrase)


def made(folder, algorithm="ec", passphrase=None):
    authority = at(folder, passphrase=passphrase)
    authority.create(algorithm, 3650, 1825)
    return authority


def contents(folder):
    """Every file of a folder and what is in it, but what a dying process left unfinished."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and ".new" not in str(path.relative_to(folder))
    }


def test_a_file_is_new_and_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    """No link is followed, no file of others is written to, and a loss of power loses nothing."""
    monkeypatch.setattr(_gateway_ca.secrets, "token_hex", lambda size: "00")
    victim, path = tmp_path / "victim", tmp_path / "ca.key"
    victim.write_text("mine")
    unfinished = tmp_path / ".ca.key.00.new"
    for plant in (lambda: unfinished.symlink_to(victim), lambda: unfinished.write_text("planted")):
        plant()
        with pytest.raises(FileExistsError):
            _gateway_files.write(path, "secret")
        assert victim.read_text() == "mine"
        assert not path.exists()
        unfinished.unlink(missing_ok=True)
    done = []

    def full(descriptor):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(_gateway_ca.os, "fsync", full)
        with pytest.raises(OSError, match="no space left"):
            _gateway_files.write(path, "secret")
    assert list(tmp_path.iterdir()) == [victim]

    def noted(name, function):
        def call(*arguments):
            done.append(name)
            return function(*arguments)

        return call

    for name in ("fsync", "rename"):
        monkeypatch.setattr(_gateway_ca.os, name, noted(name, getattr(os, name)))
    _gateway_files.write(path, "secret")
    assert done == ["fsync", "rename", "fsync"]
    assert path.stat().st_mode & 0o777 == 0o600


def key_bytes(text):
    return base64.b64decode("".join(text.strip().splitlines()[1:-1]))


def unwrapped(server, client):
    """What a server finds in a client's tls-crypt-v2 key: the same key, and the metadata."""
    server, client = key_bytes(server), key_bytes(client)
    plain, wrapped = client[:256], client[256:]
    size = wrapped[-2:]
    assert int.from_bytes(size, "big") == len(wrapped)
    tag, text = wrapped[:32], wrapped[32:-2]
    decryptor = Cipher(algorithms.AES256(server[:32]), modes.CTR(tag[:16])).decryptor()
    content = decryptor.update(text) + decryptor.finalize()
    assert hmac.digest(server[64:96], size + content, "sha256") == tag
    assert content[:256] == plain
    return content[256:]


@pytest.fixture
def authority(tmp_path):
    return made(tmp_path / "example")


@pytest.fixture
def issued(authority):
    authority.issue("gw1", "server", None, **DAYS)
    authority.issue("alice", "client", None, **DAYS)
    return authority


def extension(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind)


# What a certificate says


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [
        ("ec", ec.EllipticCurvePrivateKey),
        ("rsa3072", rsa.RSAPrivateKey),
        ("ed25519", ed25519.Ed25519PrivateKey),
    ],
)
def test_chain(tmp_path, algorithm, kind):
    authority = made(tmp_path / "example", algorithm)
    authority.issue("alice", "client", None, **DAYS)
    issued = authority.issued("alice")
    key = serialization.load_pem_private_key(issued.key.encode(), None)
    assert isinstance(key, kind)
    assert key.public_key() == issued.current.public_key()
    issued.current.verify_directly_issued_by(authority.ca)
    authority.ca.verify_directly_issued_by(authority.ca)
    assert authority.crl.is_signature_valid(authority.ca.public_key())


def test_an_algorithm_of_its_own(issued):
    issued.issue("phone", "client", "rsa3072", **DAYS)
    assert issued.issued("phone").current.public_key().key_size == 3072
    issued.renew("phone", None, **DAYS)
    assert issued.issued("phone").current.public_key().key_size == 3072


def test_the_ca_can_do_nothing_but_sign(authority):
    basic = extension(authority.ca, x509.BasicConstraints)
    assert basic.critical
    assert basic.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = extension(authority.ca, x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature


@pytest.mark.parametrize(
    ("name", "usage"),
    [("gw1", ExtendedKeyUsageOID.SERVER_AUTH), ("alice", ExtendedKeyUsageOID.CLIENT_AUTH)],
)
def test_extensions(issued, name, usage):
    certificate = issued.issued(name).current
    assert _gateway_x509.common_name(certificate.subject) == name
    assert list(extension(certificate, x509.ExtendedKeyUsage).value) == [usage]
    assert not extension(certificate, x509.ExtendedKeyUsage).critical
    assert extension(certificate, x509.BasicConstraints).value.ca is False
    assert extension(certificate, x509.KeyUsage).value.digital_signature
    assert not extension(certificate, x509.KeyUsage).value.key_cert_sign
    assert (
        extension(certificate, x509.AuthorityKeyIdentifier).value.key_identifier
        == extension(issued.ca, x509.SubjectKeyIdentifier).value.digest
    )


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("gw1.example.net", ["gw1.example.net"]),
        ("GW1", ["gw1"]),
        ("gw_1", None),
        ("10.0.0.1", None),
    ],
)
def test_a_server_bears_its_name_where_that_is_one_of_dns(authority, name, found):
    authority.issue(name, "server", None, **DAYS)
    certificate = authority.issued(name).current
    names = None
    if any(isinstance(one.value, x509.SubjectAlternativeName) for one in certificate.extensions):
        value = extension(certificate, x509.SubjectAlternativeName).value
        names = value.get_values_for_type(x509.DNSName)
    assert names == found


def test_serials_are_random_and_128_bits_long(issued):
    for name in ("alice", "gw1"):
        for _ in range(5):
            issued.renew(name, None, **DAYS)
    serials = [entry["serial"] for entry in issued.entries()]
    assert len(set(serials)) == len(serials) == 13
    assert all(re.fullmatch("[0-9a-f]{32}", serial) for serial in serials)
    assert max(int(serial, 16).bit_length() for serial in serials) > 120


def test_lifetimes_of_what_is_issued(issued):
    certificate = issued.issued("alice").current
    assert certificate.not_valid_after_utc == NOW + 825 * DAY
    assert NOW - DAY <= certificate.not_valid_before_utc < NOW
    assert issued.entries()[0]["days_left"] == 3650


def test_nothing_outlives_the_ca(issued):
    late = at(issued.folder, 3000 * DAY)
    late.issue("bob", "client", None, **DAYS)
    assert late.issued("bob").current.not_valid_after_utc == late.ca.not_valid_after_utc
    assert _gateway_x509.last_day(late.crl) == late.ca.not_valid_after_utc
    with pytest.raises(ValueError, match=r"ended on 2036-11-19; gateway_pki.renew_ca"):
        at(issued.folder, 3651 * DAY).issue("carol", "client", None, **DAYS)


def test_a_renewed_ca_knows_what_the_old_one_issued(issued):
    issued.revoke("alice", None, 1825)
    before = issued.ca
    late = at(issued.folder, 3000 * DAY)
    late.renew_ca(**DAYS | {"days": 3650})
    assert late.entries()[0]["days_left"] == 3650
    assert late.ca.serial_number != before.serial_number
    issued.issued("gw1").current.verify_directly_issued_by(late.ca)
    assert late.entry("alice")["revoked"]


def test_the_tls_crypt_key_is_openvpns(authority):
    lines = authority.read("tls-crypt.key").splitlines()
    assert lines[0] == "-----BEGIN OpenVPN Static key V1-----"
    assert lines[-1] == "-----END OpenVPN Static key V1-----"
    assert [len(line) for line in lines[1:-1]] == [32] * 16
    assert len(set(bytes.fromhex("".join(lines[1:-1])))) > 100


# Names and numbers


@pytest.mark.parametrize("name", ["alice", "a", "x" * 63, "laptop-2"])
def test_good_names_of_clients(name):
    _gateway_x509.check_name(name, "client")


@pytest.mark.parametrize(
    "name", ["", "Alice", "-a", "a-", "a.b", "a b", "../ca", "a/b", "a\n", "x" * 64, "ä", None, 7]
)
def test_bad_names_of_clients(authority, name):
    with pytest.raises(ValueError, match="is not a client's name"):
        authority.issue(name, "client", None, **DAYS)
    assert not authority.names()


@pytest.mark.parametrize("name", ["", ".gw1", "../ca", "a/b", "gw 1", "x" * 65, "gw1\n", None])
def test_bad_names_of_servers(authority, name):
    with pytest.raises(ValueError, match="is not a server's name"):
        authority.issue(name, "server", None, **DAYS)


@given(name=st.text(max_size=80))
def test_no_name_leaves_its_folder(name):
    try:
        _gateway_x509.check_name(name, "server")
    except ValueError:
        return
    assert Path("issued", f"{name}.pem").parent == Path("issued")
    assert not name.startswith(".")


@pytest.mark.parametrize("site", ["", "..", "a b", ".a", "ä"])
def test_bad_names_of_sites(tmp_path, site):
    with pytest.raises(ValueError, match="is not a site's name"):
        made(tmp_path / "base" / site if site else "/")


@pytest.mark.parametrize("days", [0, -1, 36501, True, "7", None, 1.5])
def test_bad_lifetimes(issued, days):
    before = contents(issued.folder)
    with pytest.raises(ValueError, match="is not a whole number of days"):
        issued.renew("alice", None, days, 1825)
    assert contents(issued.folder) == before


def test_an_unknown_algorithm(authority):
    with pytest.raises(ValueError, match="'dsa' is none of ec, rsa3072, rsa4096, ed25519"):
        authority.issue("alice", "client", "dsa", **DAYS)


# Issue, renew, revoke


def test_to_issue_twice_says_how_to_renew(issued):
    before = contents(issued.folder)
    for kind in ("client", "server"):
        with pytest.raises(
            ValueError, match=r"client certificate already; gateway_pki.renew alice"
        ):
            issued.issue("alice", kind, None, **DAYS)
    assert contents(issued.folder) == before


def test_a_renewal_has_a_new_key_and_leaves_the_old_certificate_valid(issued):
    before = issued.issued("alice")
    others = issued.issued("gw1")
    late = at(issued.folder, 800 * DAY)
    late.renew("alice", None, **DAYS)
    after = late.issued("alice")
    assert after.key != before.key
    assert after.certificates == (after.current, before.current)
    assert late.entry("alice")["days_left"] == 825
    assert not late.revoked()
    assert late.issued("gw1") == others
    assert [entry["current"] for entry in late.entries()] == [True, True, False, True]


def test_revoke(issued):
    issued.renew("alice", None, **DAYS)
    serials = issued.revoke("alice", None, 1825)
    assert len(serials) == 2
    assert {_gateway_x509.serial_text(serial) for serial in issued.revoked()} == set(serials)
    assert [entry["name"] for entry in issued.entries() if entry["revoked"]] == ["alice", "alice"]
    number = issued.crl_state()["number"]
    assert issued.revoke("alice", None, 1825) == serials
    assert issued.crl_state() == {
        "number": number,
        "revoked": 2,
        "ends": "2031-11-21T12:00:00+00:00",
        "days_left": 1825,
    }


def test_revoke_only_what_was_before_a_renewal(issued):
    old = _gateway_x509.serial_text(issued.issued("alice").current.serial_number)
    issued.renew("alice", None, **DAYS)
    with pytest.raises(ValueError, match="alice has no certificate with the serial abc"):
        issued.revoke("alice", "abc", 1825)
    assert issued.revoke("alice", old, 1825) == [old]
    assert not issued.entry("alice")["revoked"]
    assert issued.usable("alice")


def test_after_a_revocation_a_name_is_issued_anew_not_renewed(issued):
    issued.revoke("alice", None, 1825)
    with pytest.raises(ValueError, match=r"is revoked; gateway_pki.issue_client alice"):
        issued.renew("alice", None, **DAYS)
    with pytest.raises(ValueError, match="the certificate of alice is revoked"):
        issued.usable("alice")
    with pytest.raises(ValueError, match="alice was the name of a client"):
        issued.issue("alice", "server", None, **DAYS)
    issued.issue("alice", "client", None, **DAYS)
    assert issued.usable("alice")
    assert len(issued.revoked()) == 1


def test_what_is_over_is_renewed(issued):
    late = at(issued.folder, 826 * DAY)
    with pytest.raises(ValueError, match=r"alice is over; gateway_pki.renew alice"):
        late.usable("alice")
    assert late.entry("alice")["days_left"] == -1
    late.renew("alice", None, **DAYS)
    assert late.usable("alice")


def test_a_list_of_a_clock_that_was_ahead_is_made_anew(issued):
    """Until then every client would be refused."""
    issued.revoke("alice", None, 1825)
    ahead = at(issued.folder, 90 * DAY)
    ahead.renew_crl(1825, always=True)
    assert not ahead.crl_is_due()
    assert issued.crl_is_due()
    issued.renew_crl(1825)
    assert issued.crl.last_update_utc < NOW
    assert len(issued.revoked()) == 1
    assert not issued.crl_is_due()


def test_a_ca_that_is_not_valid_yet_signs_nothing(issued):
    early = at(issued.folder, -DAY)
    with pytest.raises(ValueError, match=r"not valid before 2026-11-22; look at the clock of this"):
        early.issue("bob", "client", None, **DAYS)


@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_broken_block_is_not_passed_over(issued, block):
    """A certificate from before a renewal would be taken for the present one."""
    issued.renew("alice", None, **DAYS)
    path = issued.folder / "issued/alice.pem"
    blocks = re.findall(r"-----BEGIN .*?-----END [A-Z ]+-----\n", path.read_text(), re.DOTALL)
    assert len(blocks) == 3
    blocks[block] = blocks[block].replace("-----END", "----END")
    path.write_text("".join(blocks))
    with pytest.raises(ValueError, match=r"issued/alice.pem is damaged; restore it from a backup"):
        issued.issued("alice")


@pytest.mark.parametrize("what", ["the CA's", "nothing"])
def test_a_file_with_another_certificate_is_damaged(issued, what):
    path = issued.folder / "issued/alice.pem"
    (key, *_) = re.findall(r"-----BEGIN .*?-----END [A-Z ]+-----\n", path.read_text(), re.DOTALL)
    nothing = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    other = issued.ca.public_bytes(serialization.Encoding.PEM).decode()
    path.write_text(key + (nothing if what == "nothing" else other))
    with pytest.raises(ValueError, match=r"issued/alice.pem is damaged; restore it from a backup"):
        issued.issued("alice")


@pytest.mark.parametrize("name", ["bob", "../ca", "", None])
def test_nothing_was_issued_to(issued, name):
    with pytest.raises(ValueError, match=r"nothing was issued to|is not a server's name"):
        issued.revoke(name, None, 1825)


# The revocation list


def test_the_crl_is_due_when_half_of_its_life_is_gone(issued):
    issued.revoke("alice", None, 1825)
    assert not at(issued.folder, 912 * DAY).crl_is_due()
    late = at(issued.folder, 914 * DAY)
    assert late.crl_is_due()
    before = late.crl_state()["number"]
    late.renew_crl(1825)
    assert not late.crl_is_due()
    assert late.crl_state()["number"] == before + 1
    assert late.crl_state()["days_left"] == 1825
    assert late.revoked() == issued.revoked()
    late.renew_crl(1825)
    assert late.crl_state()["number"] == before + 1
    late.renew_crl(1825, always=True)
    assert late.crl_state()["number"] == before + 2


def test_the_crl_outlives_every_certificate(issued):
    issued.issue("bob", "client", None, days=3000, crl_days=10)
    assert issued.crl_state()["days_left"] == 3000
    assert not issued.crl_is_due()


def test_a_lost_or_foreign_crl_is_not_made_anew(issued, tmp_path):
    (issued.folder / "crl.pem").write_text(made(tmp_path / "other").read("crl.pem"))
    with pytest.raises(ValueError, match="is not of this CA; restore it"):
        issued.renew_crl(1825, always=True)
    (issued.folder / "crl.pem").unlink()
    with pytest.raises(FileNotFoundError):
        issued.revoke("alice", None, 1825)


# The passphrase


def test_an_encrypted_key(tmp_path):
    authority = made(tmp_path / "example", passphrase=PASSPHRASE)
    assert "BEGIN ENCRYPTED PRIVATE KEY" in authority.read("ca.key")
    authority.issue("alice", "client", None, **DAYS)
    without = at(authority.folder)
    assert without.entry("alice")
    with pytest.raises(ValueError, match="is encrypted; give its passphrase"):
        without.issue("bob", "client", None, **DAYS)
    with pytest.raises(ValueError, match="the passphrase is wrong"):
        at(authority.folder, passphrase=b"battery staple").issue("bob", "client", None, **DAYS)
    assert authority.names() == ["alice"]


def test_nothing_secret_in_a_repr(issued):
    shown = repr((issued.issued("alice"), at(issued.folder, passphrase=PASSPHRASE)))
    assert "PRIVATE" not in shown
    assert PASSPHRASE.decode() not in shown


# Files


def test_everything_is_its_owners_alone(issued):
    for path in [issued.folder, *issued.folder.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_a_folder_that_is_open_to_others(issued):
    issued.folder.chmod(0o750)
    with pytest.raises(ValueError, match="is open to others; close it with chmod 700"):
        issued.check()


def test_to_create_twice(issued):
    before = contents(issued.folder)
    with pytest.raises(ValueError, match="is there already, and not empty"):
        made(issued.folder)
    assert contents(issued.folder) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_leaves_files_to_the_owner_of_the_folder(tmp_path):
    os.chown(tmp_path, 12345, 23456)
    authority = made(tmp_path / "example")
    authority.issue("alice", "client", None, **DAYS)
    for path in [authority.folder, *authority.folder.rglob("*")]:
        assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456), path


def test_backup(issued, tmp_path):
    target = tmp_path / "example.tar.gz"
    (issued.folder / ".ca.crt.123.new").touch()
    issued.backup(target)
    assert target.stat().st_mode & 0o777 == 0o600
    with tarfile.open(target) as archive:
        archive.extractall(tmp_path / "restored")
    assert contents(tmp_path / "restored/example") == contents(issued.folder)
    assert at(tmp_path / "restored/example").check().entries() == issued.entries()
    assert not list((tmp_path / "restored").rglob("*.new"))
    with pytest.raises(ValueError, match="is there already"):
        issued.backup(target)


# Two calls at once


def compete(folder, number, results):
    """What one of several processes does at the same time as the others."""
    authority = at(folder)
    with contextlib.suppress(ValueError):  # another was first
        authority.issue("shared", "client", None, **DAYS)
        results.put(number)
    authority.issue(f"own-{number}", "client", None, **DAYS)
    authority.revoke(f"own-{number}", None, 1825)


def test_calls_at_the_same_time(authority):
    results = FORK.Queue()
    workers = [
        FORK.Process(target=compete, args=(authority.folder, number, results))
        for number in range(8)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 8
    results.get(timeout=5)
    assert results.empty()
    assert len(authority.names()) == 9
    assert len(authority.revoked()) == 8
    assert authority.crl_state()["number"] == 9


def test_a_lock_that_nobody_gives_back(authority, monkeypatch):
    monkeypatch.setattr(_gateway_files, "LOCK_SECONDS", 0.1)
    with (
        authority.changing(),
        pytest.raises(ValueError, match=r"another call has held .* for 0.1 s"),
    ):
        at(authority.folder).issue("alice", "client", None, **DAYS)


# Dying half-way

# Everything that changes a disk.
STEPS = ("open", "write", "fsync", "rename", "mkdir", "unlink", "chmod")


def die_at(step, work):
    """In a process of its own: do the work, but die before its ``step``-th step."""
    count = 0

    def counted(real):
        def wrapper(*args, **kwargs):
            nonlocal count
            count += 1
            if count == step:
                os._exit(9)
            return real(*args, **kwargs)

        return wrapper

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    work()
    os._exit(0)


def deaths(prepare, work):
    """Yield what is left of a prepared folder after a death before each step of the work."""
    for step in range(1, 200):
        folder = prepare(step)
        process = FORK.Process(target=die_at, args=(step, lambda folder=folder: work(folder)))
        process.start()
        process.join(60)
        yield folder
        if process.exitcode == 0:
            assert step > 5
            return
        assert process.exitcode == 9


WORK = {
    "issue": lambda folder: at(folder).issue("bob", "client", None, **DAYS),
    "issue for long": lambda folder: at(folder).issue("bob", "client", None, 3000, 1825),
    "renew": lambda folder: at(folder).renew("alice", None, **DAYS),
    "revoke": lambda folder: at(folder).revoke("alice", None, 1825),
    "renew_crl": lambda folder: at(folder).renew_crl(1825, always=True),
    "renew_ca": lambda folder: at(folder).renew_ca(3650, 1825),
}


@pytest.mark.parametrize("work", WORK)
def test_a_death_loses_nothing_and_leaves_nothing_half_done(issued, tmp_path, work):
    before = contents(issued.folder)

    def prepare(step):
        copy = tmp_path / str(step) / "example"
        shutil.copytree(issued.folder, copy)
        return copy

    for folder in deaths(prepare, WORK[work]):
        after = at(folder).check()
        for name, content in before.items():
            # Old or new, and never in between: what is new reads well.
            if contents(folder)[name] != content:
                assert after.entries()
                assert len(after.revoked()) == (1 if work == "revoke" else 0)
        assert len(after.entries()) in (3, 4)
        after.issued("alice").current.verify_directly_issued_by(after.ca)
        if not (work.startswith("issue") and "bob" in after.names()):
            WORK[work](folder)
        # The next change clears up, and does what the dead one left to do.
        after.issue("carol", "client", None, **DAYS)
        assert not list(folder.rglob("*.new"))
        assert not after.crl_is_due()


def test_a_death_while_a_ca_is_created(tmp_path):
    def prepare(step):
        base = tmp_path / str(step)
        base.mkdir()
        return base / "example"

    for folder in deaths(prepare, made):
        if not folder.exists():
            made(folder)
        at(folder).check().issue("alice", "client", None, **DAYS)
        assert [path.name for path in folder.parent.iterdir()] == ["example"]


def test_a_backup_is_whole_or_not_there(issued, tmp_path):
    def prepare(step):
        target = tmp_path / str(step)
        target.mkdir()
        return target / "example.tar.gz"

    for target in deaths(prepare, issued.backup):
        if target.exists():
            with tarfile.open(target) as archive:
                assert "example/ca.key" in archive.getnames()


# What others read


def test_lifetimes(issued):
    text = issued.read("ca.crt") + issued.read("issued/alice.pem") + issued.read("crl.pem")
    assert _gateway_x509.lifetimes(text, NOW + DAY / 2) == [
        {
            "type": "certificate",
            "name": "example VPN CA",
            "begins": "2026-11-22T11:00:00+00:00",
            "begun": True,
            "ends": "2036-11-19T12:00:00+00:00",
            "days_left": 3649,
        },
        {
            "type": "certificate",
            "name": "alice",
            "begins": "2026-11-22T11:00:00+00:00",
            "begun": True,
            "ends": "2029-02-24T12:00:00+00:00",
            "days_left": 824,
        },
        {
            "type": "crl",
            "name": "example VPN CA",
            "begins": "2026-11-22T11:00:00+00:00",
            "begun": True,
            "ends": "2031-11-21T12:00:00+00:00",
            "days_left": 1824,
        },
    ]
    assert _gateway_x509.lifetimes(text.replace("\n", "\r\n"), NOW)[0]["days_left"] == 3650
    assert _gateway_x509.lifetimes(text, NOW + 826 * DAY)[1]["days_left"] == -1
    early = NOW - _gateway_x509.BACKDATED
    for now, begun in ((early, True), (early - timedelta(seconds=1), False)):
        assert [item["begun"] for item in _gateway_x509.lifetimes(text, now)] == [begun] * 3
    assert _gateway_x509.lifetimes("", NOW) == []
    with pytest.raises(ValueError, match=r"\w"):
        _gateway_x509.lifetimes(
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", NOW
        )


def test_the_planner_takes_it(issued, edit):
    node = issued.usable("gw1")
    pillar = edit(
        {
            "vpn:pki:ca": issued.read("ca.crt"),
            "vpn:pki:certificate": _gateway_x509.pem(node.current),
            "vpn:pki:key": node.key,
            **{f"vpn:pki:{name}": text for name, text in issued.keys().items()},
        }
    )
    assert _gateway_plan.read(pillar)[1] == []


def test_keys_of_openvpn(tmp_path, authority):
    """A tls-crypt key for all, or one for each client; and the secret of tokens."""
    assert set(authority.keys()) == {"tls_crypt", "auth_token"}
    assert len(key_bytes(authority.keys()["auth_token"])) == 128
    other = at(tmp_path / "two")
    other.create("ec", 3650, 1825, v2=True)
    assert set(other.keys()) == {"tls_crypt_v2", "auth_token"}
    server = other.keys()["tls_crypt_v2"]
    alice, bob = (_gateway_x509.tls_crypt_v2_key(server, NOW) for _ in range(2))
    assert alice != bob
    assert unwrapped(server, alice) == b"\1" + int(NOW.timestamp()).to_bytes(8, "big")


@pytest.mark.skipif(not shutil.which("openvpn"), reason="no openvpn here")
def test_openvpn_makes_the_same_of_a_tls_crypt_v2_key(tmp_path):
    server = _gateway_x509.server_key("tls-crypt-v2")
    (tmp_path / "server").write_text(server)
    command = ["openvpn", "--tls-crypt-v2", "server", "--genkey", "tls-crypt-v2-client", "client"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    client = (tmp_path / "client").read_text()
    assert unwrapped(server, client)[:1] == b"\1"
    mine = _gateway_x509.tls_crypt_v2_key(server, NOW)
    assert [len(line) for line in mine.splitlines()] == [len(line) for line in client.splitlines()]
    assert mine.splitlines()[0] == client.splitlines()[0]


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl here")
@pytest.mark.parametrize("algorithm", ["ec", "ed25519"])
def test_openssl_agrees(tmp_path, algorithm):
    # openssl has no clock but that of the machine.
    now = datetime.now(timezone.utc).replace(microsecond=0)
    authority = _gateway_ca.Authority(tmp_path / "example", now)
    authority.create(algorithm, 3650, 1825)
    for name, kind in (("gw1", "server"), ("alice", "client")):
        authority.issue(name, kind, None, **DAYS)
        (tmp_path / name).write_text(_gateway_x509.pem(authority.issued(name).current))

    def verify(name, purpose):
        folder = authority.folder
        files = ["-CAfile", folder / "ca.crt", "-CRLfile", folder / "crl.pem", tmp_path / name]
        return subprocess.run(
            ["openssl", "verify", "-x509_strict", "-crl_check", "-purpose", purpose, *files],
            capture_output=True,
            text=True,
            check=False,
        )

    assert verify("gw1", "sslserver").stdout.endswith(": OK\n")
    assert verify("alice", "sslclient").stdout.endswith(": OK\n")
    assert "unsuitable certificate purpose" in verify("alice", "sslserver").stderr.lower()
    authority.revoke("alice", None, 1825)
    assert "certificate revoked" in verify("alice", "sslclient").stderr
    assert verify("gw1", "sslserver").stdout.endswith(": OK\n")
