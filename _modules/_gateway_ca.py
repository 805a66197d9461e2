"""A site's certificate authority: one folder, what lies in it, and what changes it.

A library in plain Python and ``cryptography`` (42 or newer): no Salt. What users call is the
execution module ``gateway_pki``. ::

    SITE/                  0700; every file 0600
      ca.crt  ca.key       the key may be encrypted
      tls-crypt.key        what all servers and clients of the site share; or, or also:
      tls-crypt-v2.key     what the servers share, and each client's key is made from
      auth-token.key       what the servers share, for clients who have given a password
      crl.pem              the record of what is revoked, not a copy of one
      issued/NAME.pem      the key of NAME, its certificate, and the certificates it had before

Every change is one new file in the place of an old one, and so happens whole or not at all.
"""

import base64
import contextlib
import fcntl
import os
import re
import secrets
import shutil
import struct
import tarfile
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, BinaryIO

from cryptography import x509
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if not hasattr(x509.Certificate, "not_valid_after_utc"):
    raise ImportError("cryptography 42 or newer is needed")

# Clocks differ: what is made now is valid a little earlier, or a slow gateway would refuse it.
BACKDATED = timedelta(hours=1)
LONGEST_DAYS = 36500
# X.520's upper bound for a common name, as in RFC 5280 appendix A.
LONGEST_NAME = 64
# RFC 5280 section 4.1.2.2 allows 20 octets.
SERIAL_BITS = 128
STATIC_KEY_BYTES = 256  # OpenVPN's format: 2048 bits, 16 bytes a line
# OpenVPN's `struct key`: 64 bytes for a cipher and 64 for an HMAC, of which it takes the first.
SERVER_KEY_BYTES = 128
CIPHER_KEY, HMAC_KEY = slice(0, 32), slice(64, 96)
TIMESTAMP = 1  # the kind of metadata that OpenVPN puts into a client's key by itself

# The files of what OpenVPN's servers have beside certificates, by the planner's names.
KEYS = {
    "tls_crypt": "tls-crypt.key",
    "tls_crypt_v2": "tls-crypt-v2.key",
    "auth_token": "auth-token.key",
}
LOCK_SECONDS = 60

# Two algorithms that OpenVPN's TLS libraries all know, and one that OpenSSL alone knows.
_ALGORITHMS = {
    "ec": lambda: ec.generate_private_key(ec.SECP256R1()),
    "rsa3072": lambda: rsa.generate_private_key(65537, 3072),
    "rsa4096": lambda: rsa.generate_private_key(65537, 4096),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}
_USAGES = {
    "server": ExtendedKeyUsageOID.SERVER_AUTH,
    "client": ExtendedKeyUsageOID.CLIENT_AUTH,
}
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# A client is called as a host is; a server has the minion id of its node.
_NAMES = {
    "client": (
        re.compile(_LABEL),
        "a client's name: small letters, digits and inner hyphens, at most 63",
    ),
    "server": (
        re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}"),
        f"a server's name: the minion id of its node, at most {LONGEST_NAME} characters",
    ),
}
_SITE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,50}")
_DNS_PATTERN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PEM_PATTERN = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\n[^-]+-----END \1-----\n?")
_UNFINISHED = ".new"


# --------------------------------------------------------------------------------------------------
# Certificates: nothing here reads or writes a file


def new_key(algorithm: str) -> Any:
    """A new private key. Raises ValueError for an unknown algorithm."""
    if algorithm not in _ALGORITHMS:
        raise ValueError(f"algorithm {algorithm!r} is none of {', '.join(_ALGORITHMS)}")
    return _ALGORITHMS[algorithm]()


def algorithm_of(key: Any) -> str:
    """The name of a private key's algorithm, as ``new_key`` takes it."""
    if isinstance(key, rsa.RSAPrivateKey):
        return "rsa3072" if key.key_size <= 3072 else "rsa4096"
    return "ed25519" if isinstance(key, ed25519.Ed25519PrivateKey) else "ec"


def key_pem(key: Any, passphrase: bytes | None = None) -> str:
    """A private key as PEM text (PKCS 8), encrypted where there is a passphrase."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase)
    encoded: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    return encoded.decode()


def pem(thing: x509.Certificate | x509.CertificateRevocationList) -> str:
    """A certificate or revocation list as PEM text."""
    return thing.public_bytes(serialization.Encoding.PEM).decode()


def static_key() -> str:
    """A new key for ``tls-crypt``, in OpenVPN's own format."""
    digits = secrets.token_hex(STATIC_KEY_BYTES)
    lines = [digits[at : at + 32] for at in range(0, len(digits), 32)]
    label = "OpenVPN Static key V1"
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def server_key(what: str) -> str:
    """A new key that servers alone have, for ``tls-crypt-v2`` or ``auth-token``."""
    return _key_block(f"{what} server", secrets.token_bytes(SERVER_KEY_BYTES))


def _key_block(what: str, content: bytes) -> str:
    lines = textwrap.wrap(base64.b64encode(content).decode(), 64)
    label = f"OpenVPN {what} key"
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def tls_crypt_v2_key(server: str, now: datetime) -> str:
    """A new client's key for ``tls-crypt-v2``: the key, and the same wrapped for the servers.

    As in OpenVPN's doc/tls-crypt-v2.txt: an HMAC over length, key and metadata is also the IV with
    which key and metadata are encrypted, and the length comes last.
    """
    key = base64.b64decode("".join(server.splitlines()[1:-1]))
    client = secrets.token_bytes(STATIC_KEY_BYTES)
    content = client + struct.pack(">BQ", TIMESTAMP, int(now.timestamp()))
    tag_size = hashes.SHA256.digest_size
    size = struct.pack(">H", tag_size + len(content) + 2)
    mac = hmac.HMAC(key[HMAC_KEY], hashes.SHA256())
    mac.update(size + content)
    tag = mac.finalize()
    cipher = Cipher(algorithms.AES256(key[CIPHER_KEY]), modes.CTR(tag[:16])).encryptor()
    wrapped = tag + cipher.update(content) + cipher.finalize() + size
    return _key_block("tls-crypt-v2 client", client + wrapped)


def common_name(name: x509.Name) -> str:
    """The common name in a subject or issuer; empty where there is none."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def lifetimes(text: str, now: datetime) -> list[dict[str, Any]]:
    """How long the certificates and revocation lists in a PEM text go on; keys are passed over.

    Returns for each, in their order, ``type`` (``certificate`` or ``crl``), ``name`` (of the
    subject; of a CRL the issuer), ``begins`` and ``ends`` (ISO 8601), ``begun`` (False: it is not
    valid yet) and ``days_left``: whole days from ``now`` on, negative when it is over. Raises
    ValueError where a block is not what it says.
    """
    found = []
    for label, block in _blocks(text):
        if label == "CERTIFICATE":
            certificate = x509.load_pem_x509_certificate(block.encode())
            what, name = "certificate", common_name(certificate.subject)
            begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        elif label == "X509 CRL":
            crl = x509.load_pem_x509_crl(block.encode())
            what, name = "crl", common_name(crl.issuer)
            begin, end = crl.last_update_utc, _last(crl)
        else:
            continue
        begun = {"begins": begin.isoformat(), "begun": begin <= now}
        found.append({"type": what, "name": name, **begun, **_end(end, now)})
    return found


def _end(end: datetime, now: datetime) -> dict[str, Any]:
    return {"ends": end.isoformat(), "days_left": (end - now) // timedelta(days=1)}


def _last(crl: x509.CertificateRevocationList) -> datetime:
    """When a CRL ends. RFC 5280 section 5.1.2.5 wants it said; others may not."""
    return crl.next_update_utc or datetime.max.replace(tzinfo=timezone.utc)


def _blocks(text: str) -> list[tuple[str, str]]:
    """The PEM blocks of a text, each with its label."""
    normal = text.replace("\r\n", "\n")
    return [(match[1], match[0]) for match in _PEM_PATTERN.finditer(normal)]


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _serial() -> int:
    return secrets.randbits(SERIAL_BITS) or 1


def serial_text(serial: int) -> str:
    """A serial as openssl and OpenVPN's logs show it, but with all its digits."""
    return f"{serial:032x}"


def _digest(key: Any) -> Any:
    """What is hashed before it is signed; Ed25519 does that itself."""
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def _key_usage(**given: bool) -> x509.KeyUsage:
    known = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: given.get(name, False) for name in known})


def _unsigned(
    subject: x509.Name, issuer: x509.Name, public: Any, start: datetime, end: datetime
) -> Any:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(_serial())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def ca_certificate(site: str, key: Any, now: datetime, days: int) -> x509.Certificate:
    """A site's own root. Extensions as RFC 5280 section 4.2.1 wants them of a CA."""
    public = key.public_key()
    subject = _name(f"{site} VPN CA")
    end = now + timedelta(days=days)
    certificate: x509.Certificate = (
        _unsigned(subject, subject, public, now - BACKDATED, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, _digest(key))
    )
    return certificate


def certificate(
    name: str, kind: str, public: Any, ca: x509.Certificate, ca_key: Any, now: datetime, days: int
) -> x509.Certificate:
    """A server's or a client's certificate; never longer than that of the CA."""
    end = min(now + timedelta(days=days), ca.not_valid_after_utc)
    start = max(now - BACKDATED, ca.not_valid_before_utc)
    builder = (
        _unsigned(_name(name), ca.subject, public, start, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        # All that TLS 1.2 with ECDHE and TLS 1.3 do with it; remote-cert-tls wants it there.
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_USAGES[kind]]), critical=False)
        .add_extension(_authority(ca), critical=False)
    )
    dns = name.lower()
    if kind == "server" and _DNS_PATTERN.fullmatch(dns) and not dns.rsplit(".", 1)[-1].isdigit():
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(dns)]), critical=False
        )
    signed: x509.Certificate = builder.sign(ca_key, _digest(ca_key))
    return signed


def _authority(ca: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def revocation_list(
    ca: x509.Certificate,
    ca_key: Any,
    revoked: dict[int, datetime],
    number: int,
    now: datetime,
    end: datetime,
) -> x509.CertificateRevocationList:
    """A CRL (RFC 5280 section 5) with these serials and the moments of their revocation."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.subject)
        .last_update(max(now - BACKDATED, ca.not_valid_before_utc))
        .next_update(end)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_authority(ca), critical=False)
    )
    for serial, moment in sorted(revoked.items()):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(ca_key, _digest(ca_key))


# --------------------------------------------------------------------------------------------------
# Files


def write(path: Path, text: str | bytes) -> None:
    """Put a file in its place, whole and on the disk, for nobody but its owner to read.

    Root leaves it to whoever owns the folder: a Salt master may run as a user of its own.
    """
    content = text.encode() if isinstance(text, str) else text
    with _new(path) as file:
        _give(file.fileno(), path.parent)
        file.write(content)


@contextlib.contextmanager
def _new(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its place when it is whole and on the disk, and otherwise never was."""
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file in it")
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_UNFINISHED}")
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(unfinished, flags, 0o600)
    try:
        with open(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.rename(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise
    _sync_folder(path.parent)


def _give(descriptor: int, folder: Path) -> None:
    owner = os.stat(folder)
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    os.mkdir(folder, 0o700)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _give(descriptor, folder.parent)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Be the only one who changes something in a folder; remove what others left unfinished."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _wait_for_lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, folder: Path) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ValueError(f"another call has held {folder} for {LOCK_SECONDS} s") from None
            time.sleep(0.02)


def _remove_unfinished(folder: Path, name: str = "") -> None:
    for path in folder.glob(f".{name}*{_UNFINISHED}"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


# --------------------------------------------------------------------------------------------------
# The authority


@dataclass(frozen=True)
class Issued:
    """What was issued to a name: its key, its certificate, and those it had before."""

    name: str
    kind: str
    key: str = field(repr=False)
    certificates: tuple[x509.Certificate, ...]

    @property
    def current(self) -> x509.Certificate:
        return self.certificates[0]


@dataclass(frozen=True)
class Authority:
    """A site's certificate authority as it is ``now`` (with a time zone).

    Every method raises ValueError, with what to do about it, or OSError.
    """

    folder: Path
    now: datetime
    passphrase: bytes | None = field(default=None, repr=False)

    # What is there

    @property
    def site(self) -> str:
        return self.folder.name

    def check(self) -> "Authority":
        """Raise ValueError unless the folder is an authority that nobody else can look into."""
        try:
            mode = os.stat(self.folder).st_mode
            os.stat(self.folder / "ca.crt")
        except FileNotFoundError:
            raise ValueError(
                f"{self.folder} has no CA; make one with gateway_pki.create_ca"
            ) from None
        if mode & 0o077:
            raise ValueError(f"{self.folder} is open to others; close it with chmod 700")
        return self

    def read(self, name: str) -> str:
        """The text of one of the authority's files."""
        try:
            return (self.folder / name).read_text(encoding="ascii")
        except UnicodeDecodeError:
            raise self._damaged(name, "it is no text") from None

    def keys(self) -> dict[str, str]:
        """What is there of ``KEYS``."""
        there = {name: file for name, file in KEYS.items() if (self.folder / file).exists()}
        return {name: self.read(file) for name, file in there.items()}

    def _damaged(self, name: str, why: object) -> ValueError:
        path = self.folder / name
        return ValueError(f"{path} is damaged; restore it from a backup ({why})")

    @property
    def ca(self) -> x509.Certificate:
        text = self.read("ca.crt")
        try:
            return x509.load_pem_x509_certificate(text.encode())
        except ValueError as error:
            raise self._damaged("ca.crt", error) from error

    @property
    def encrypted(self) -> bool:
        """Whether it takes a passphrase to sign."""
        return "ENCRYPTED" in self.read("ca.key")

    def ca_key(self) -> Any:
        """The key of the CA, with which a change begins: without it there is none."""
        if self.encrypted and not self.passphrase:
            raise ValueError(f"the CA's key in {self.folder} is encrypted; give its passphrase")
        passphrase = self.passphrase if self.encrypted else None
        try:
            return serialization.load_pem_private_key(self.read("ca.key").encode(), passphrase)
        except (ValueError, TypeError):
            why = "the passphrase is wrong" if passphrase else "it is damaged"
            raise ValueError(f"cannot read the CA's key in {self.folder}: {why}") from None

    @property
    def crl(self) -> x509.CertificateRevocationList:
        """The revocation list. A lost one is not made anew: that would revoke nothing."""
        text = self.read("crl.pem")
        try:
            crl = x509.load_pem_x509_crl(text.encode())
        except ValueError as error:
            raise self._damaged("crl.pem", error) from error
        if not crl.is_signature_valid(self.ca.public_key()):  # type: ignore[arg-type]
            raise ValueError(f"{self.folder}/crl.pem is not of this CA; restore it from a backup")
        return crl

    def revoked(self) -> dict[int, datetime]:
        """Serials of the revoked certificates, and when they were revoked."""
        return {entry.serial_number: entry.revocation_date_utc for entry in self.crl}

    def names(self) -> list[str]:
        """Whom something was issued to."""
        return sorted(path.stem for path in (self.folder / "issued").glob("[!.]*.pem"))

    def _is_issued(self, name: str) -> bool:
        return (self.folder / "issued" / f"{name}.pem").exists()

    def issued(self, name: str) -> Issued:
        """What was issued to a name."""
        check_name(name, "server")  # whose names are those of clients, and more
        if not self._is_issued(name):
            raise ValueError(f"nothing was issued to {name!r} in {self.folder}")
        file = f"issued/{name}.pem"
        text = self.read(file)
        blocks = _blocks(text)
        # A broken block would be passed over, and a certificate from before be the present one.
        if (
            len(blocks) < 2
            or not blocks[0][0].endswith("PRIVATE KEY")
            or len(blocks) != text.count("-----BEGIN")
        ):
            raise self._damaged(file, "a key and at least one certificate should be in it")
        (_, key), *others = blocks
        try:
            certificates = tuple(
                x509.load_pem_x509_certificate(block.encode()) for _, block in others
            )
            usage = certificates[0].extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            kind = next(kind for kind, oid in _USAGES.items() if oid in usage)
        except (ValueError, StopIteration, x509.ExtensionNotFound) as error:
            raise self._damaged(file, error) from error
        return Issued(name, kind, key, certificates)

    def everyone(self) -> tuple[list[Issued], dict[str, str]]:
        """What was issued to all names, and which of them have a damaged file, and why."""
        found, damaged = [], {}
        for name in self.names():
            try:
                found.append(self.issued(name))
            except (ValueError, OSError) as error:
                damaged[name] = str(error)
        return found, damaged

    def entries(self) -> list[dict[str, Any]]:
        """Every certificate: the CA's, then by name, a name's present one first.

        Each with ``name``, ``kind`` (ca, server, client), ``serial`` (hexadecimal), ``ends``,
        ``days_left``, ``revoked`` and ``current`` (False: there is a newer one). Last come the
        names whose file is damaged: with ``error``, and None where nothing is known.
        """
        revoked = self.revoked()
        found = [self._entry(self.site, "ca", self.ca, revoked, True)]
        everyone, damaged = self.everyone()
        for issued in everyone:
            for certificate in issued.certificates:
                current = certificate is issued.current
                found.append(self._entry(issued.name, issued.kind, certificate, revoked, current))
        unknown = dict.fromkeys(("kind", "serial", "ends", "days_left", "revoked"))
        for name, error in damaged.items():
            found.append({"name": name, **unknown, "current": False, "error": error})
        return found

    def entry(self, name: str) -> dict[str, Any]:
        """The present certificate of a name, as ``entries`` shows it."""
        issued = self.issued(name)
        return self._entry(name, issued.kind, issued.current, self.revoked(), True)

    def _entry(
        self,
        name: str,
        kind: str,
        certificate: x509.Certificate,
        revoked: dict[int, datetime],
        current: bool,
    ) -> dict[str, Any]:
        return {
            "name": name,
            "kind": kind,
            "serial": serial_text(certificate.serial_number),
            **_end(certificate.not_valid_after_utc, self.now),
            "revoked": certificate.serial_number in revoked,
            "current": current,
        }

    def good(self, name: str) -> Issued:
        """What was issued to a name, when it is not revoked; it may be over."""
        issued = self.issued(name)
        if issued.current.serial_number in self.revoked():
            raise ValueError(f"the certificate of {name} is revoked")
        return issued

    def usable(self, name: str) -> Issued:
        """What was issued to a name, when it is neither revoked nor over."""
        issued = self.good(name)
        if issued.current.not_valid_after_utc < self.now:
            raise ValueError(f"the certificate of {name} is over; gateway_pki.renew {name}")
        return issued

    def crl_state(self) -> dict[str, Any]:
        """``number``, ``revoked`` (how many), ``ends`` and ``days_left`` of the CRL."""
        crl = self.crl
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        return {"number": number, "revoked": len(crl), **_end(_last(crl), self.now)}

    def crl_is_due(self) -> bool:
        """Whether half of the CRL's life is gone, or it has not begun: a clock was ahead."""
        crl = self.crl
        begin = crl.last_update_utc
        return not begin <= self.now < begin + (_last(crl) - begin) / 2

    def _last_certificate(self) -> datetime:
        everyone, _ = self.everyone()
        ends = [
            certificate.not_valid_after_utc
            for issued in everyone
            for certificate in issued.certificates
        ]
        return min(max(ends, default=self.now), self.ca.not_valid_after_utc)

    # What changes it

    @contextlib.contextmanager
    def changing(self) -> Iterator[Any]:
        """Be the only one who changes this authority; gives its key."""
        key = self.ca_key()
        with _locked(self.folder):
            _remove_unfinished(self.folder)
            _remove_unfinished(self.folder / "issued")
            yield key

    def create(self, algorithm: str, days: int, crl_days: int, v2: bool = False) -> None:
        """Make the authority, with everything a site needs but certificates.

        With ``v2`` each client gets a tls-crypt key of its own.
        """
        if not _SITE_PATTERN.fullmatch(self.site):
            raise ValueError(f"{self.site!r} is not a site's name (letters, digits, - and _)")
        check_days(days)
        key = new_key(algorithm)
        ca = ca_certificate(self.site, key, self.now, days)
        end = self._crl_end(ca, crl_days, self.now)
        crl = revocation_list(ca, key, {}, 1, self.now, end)
        with _locked(self.folder.parent):
            _remove_unfinished(self.folder.parent, f"{self.site}.")
            if self.folder.exists() and os.listdir(self.folder):
                raise ValueError(f"{self.folder} is there already, and not empty")
            unfinished = self.folder.with_name(f".{self.site}.{secrets.token_hex(8)}{_UNFINISHED}")
            _make_folder(unfinished)
            _make_folder(unfinished / "issued")
            write(unfinished / "ca.key", key_pem(key, self.passphrase))
            if v2:
                write(unfinished / KEYS["tls_crypt_v2"], server_key("tls-crypt-v2"))
            else:
                write(unfinished / KEYS["tls_crypt"], static_key())
            write(unfinished / KEYS["auth_token"], server_key("auth-token"))
            write(unfinished / "crl.pem", pem(crl))
            write(unfinished / "ca.crt", pem(ca))
            os.rename(unfinished, self.folder)
            _sync_folder(self.folder.parent)

    def issue(self, name: str, kind: str, algorithm: str | None, days: int, crl_days: int) -> None:
        """Issue a name its first certificate, or a new one after a revocation."""
        check_name(name, kind)
        with self.changing() as key:
            before: tuple[x509.Certificate, ...] = ()
            if self._is_issued(name):
                issued = self.issued(name)
                if issued.current.serial_number not in self.revoked():
                    raise ValueError(
                        f"{name} has a {issued.kind} certificate already;"
                        f" gateway_pki.renew {name} makes a new one"
                    )
                if issued.kind != kind:
                    raise ValueError(f"{name} was the name of a {issued.kind}; take another")
                before = issued.certificates
            self._issue(name, kind, algorithm or algorithm_of(key), days, crl_days, key, before)

    def renew(self, name: str, algorithm: str | None, days: int, crl_days: int) -> None:
        """Issue a name a new certificate with a new key; the old one is valid until it ends."""
        with self.changing() as key:
            issued = self.issued(name)
            if issued.current.serial_number in self.revoked():
                raise ValueError(
                    f"the certificate of {name} is revoked;"
                    f" gateway_pki.issue_{issued.kind} {name} issues a new one"
                )
            old = serialization.load_pem_private_key(issued.key.encode(), None)
            algorithm = algorithm or algorithm_of(old)
            before = issued.certificates
            self._issue(name, issued.kind, algorithm, days, crl_days, key, before)

    def _issue(
        self,
        name: str,
        kind: str,
        algorithm: str,
        days: int,
        crl_days: int,
        ca_key: Any,
        before: tuple[x509.Certificate, ...],
    ) -> None:
        check_days(days)
        ca = self._living_ca()
        key = new_key(algorithm)
        new = certificate(name, kind, key.public_key(), ca, ca_key, self.now, days)
        # First the CRL that outlives it: a death in between leaves nothing that does harm.
        self._renew_crl_if_due(ca_key, crl_days, new.not_valid_after_utc)
        parts = [key_pem(key), *(pem(one) for one in (new, *before))]
        write(self.folder / "issued" / f"{name}.pem", "".join(parts))

    def renew_ca(self, days: int, crl_days: int) -> None:
        """Give the CA a new certificate for its key: everything issued stays valid under it."""
        check_days(days)
        with self.changing() as key:
            write(self.folder / "ca.crt", pem(ca_certificate(self.site, key, self.now, days)))
            self._renew_crl_if_due(key, crl_days)

    def revoke(self, name: str, serial: str | None, crl_days: int) -> list[str]:
        """Revoke all certificates of a name, or the one with this serial; returns the serials."""
        with self.changing() as key:
            serials = [one.serial_number for one in self.issued(name).certificates]
            if serial is not None:
                serials = [number for number in serials if serial_text(number) == serial.zfill(32)]
                if not serials:
                    raise ValueError(f"{name} has no certificate with the serial {serial}")
            revoked = self.revoked()
            if not set(serials) <= set(revoked):
                self._write_crl(key, dict.fromkeys(serials, self.now) | revoked, crl_days)
            return [serial_text(number) for number in serials]

    def renew_crl(self, crl_days: int, always: bool = False) -> None:
        """Make the CRL anew, with the same entries, when it is due or ``always``."""
        with self.changing() as key:
            if always:
                self._write_crl(key, self.revoked(), crl_days)
            else:
                self._renew_crl_if_due(key, crl_days)

    def _renew_crl_if_due(self, key: Any, crl_days: int, at_least: datetime | None = None) -> None:
        if self.crl_is_due() or (at_least and _last(self.crl) < at_least):
            self._write_crl(key, self.revoked(), crl_days, at_least)

    def _write_crl(
        self,
        key: Any,
        revoked: dict[int, datetime],
        crl_days: int,
        at_least: datetime | None = None,
    ) -> None:
        ca = self._living_ca()
        last = max(self._last_certificate(), at_least or self.now)
        end = self._crl_end(ca, crl_days, last)
        number = self.crl_state()["number"] + 1
        crl = revocation_list(ca, key, revoked, number, self.now, end)
        write(self.folder / "crl.pem", pem(crl))

    def _crl_end(self, ca: x509.Certificate, crl_days: int, at_least: datetime) -> datetime:
        """A CRL that ends locks everyone out: so never before a certificate does."""
        check_days(crl_days)
        end = max(self.now + timedelta(days=crl_days), at_least)
        return min(end, ca.not_valid_after_utc)

    def _living_ca(self) -> x509.Certificate:
        ca = self.ca
        if ca.not_valid_after_utc <= self.now:
            raise ValueError(
                f"the CA in {self.folder} ended on {ca.not_valid_after_utc:%Y-%m-%d};"
                " gateway_pki.renew_ca prolongs it"
            )
        if ca.not_valid_before_utc > self.now:
            raise ValueError(
                f"the CA in {self.folder} is not valid before {ca.not_valid_before_utc:%Y-%m-%d};"
                " look at the clock of this machine"
            )
        return ca

    def backup(self, target: Path) -> None:
        """Write everything into one compressed tar file; never over another file."""
        with _locked(self.folder):
            if target.exists():
                raise ValueError(f"{target} is there already")
            with _new(target) as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
                archive.add(self.folder, self.site, filter=_without_unfinished)


def _without_unfinished(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if member.name.endswith(_UNFINISHED) else member


def check_name(name: object, kind: str) -> None:
    """Raise ValueError for a name that a server or client cannot have."""
    pattern, rule = _NAMES[kind]
    if not isinstance(name, str) or not pattern.fullmatch(name):
        raise ValueError(f"{name!r} is not {rule}")


def check_days(days: object) -> None:
    """Raise ValueError for what is not a number of days that a certificate can live."""
    if not isinstance(days, int) or isinstance(days, bool) or not 1 <= days <= LONGEST_DAYS:
        raise ValueError(f"{days!r} is not a whole number of days, 1 to {LONGEST_DAYS}")
