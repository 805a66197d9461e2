"""Keys, certificates and revocation lists, as X.509 and OpenVPN have them."""

import base64
import re
import secrets
import struct
import textwrap
from datetime import datetime, timedelta, timezone
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if not hasattr(x509.Certificate, "not_valid_after_utc"):
    raise ImportError("cryptography 42 or newer is needed")

# Certificates are valid a little earlier than now. A gateway with a slow clock would refuse them
# otherwise.
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
# Two algorithms that OpenVPN's TLS libraries all know, and one that OpenSSL alone knows.
_ALGORITHMS = {
    "ec": lambda: ec.generate_private_key(ec.SECP256R1()),
    "rsa3072": lambda: rsa.generate_private_key(65537, 3072),
    "rsa4096": lambda: rsa.generate_private_key(65537, 4096),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}
USAGES = {
    "server": ExtendedKeyUsageOID.SERVER_AUTH,
    "client": ExtendedKeyUsageOID.CLIENT_AUTH,
}
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# A client's name follows the rules for host names. A server's name is its node's minion id.
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
_DNS_PATTERN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PEM_PATTERN = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\n[^-]+-----END \1-----\n?")


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
    for label, block in pem_blocks(text):
        if label == "CERTIFICATE":
            certificate = x509.load_pem_x509_certificate(block.encode())
            what, name = "certificate", common_name(certificate.subject)
            begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        elif label == "X509 CRL":
            crl = x509.load_pem_x509_crl(block.encode())
            what, name = "crl", common_name(crl.issuer)
            begin, end = crl.last_update_utc, last_day(crl)
        else:
            continue
        begun = {"begins": begin.isoformat(), "begun": begin <= now}
        found.append({"type": what, "name": name, **begun, **ending(end, now)})
    return found


def ending(end: datetime, now: datetime) -> dict[str, Any]:
    return {"ends": end.isoformat(), "days_left": (end - now) // timedelta(days=1)}


def last_day(crl: x509.CertificateRevocationList) -> datetime:
    """When a CRL ends. RFC 5280 section 5.1.2.5 wants it said; others may not."""
    return crl.next_update_utc or datetime.max.replace(tzinfo=timezone.utc)


def pem_blocks(text: str) -> list[tuple[str, str]]:
    """The PEM blocks of a text, each with its label."""
    normal = text.replace("\r\n", "\n")
    return [(match[1], match[0]) for match in _PEM_PATTERN.finditer(normal)]


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def new_serial() -> int:
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
        .serial_number(new_serial())
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
        # TLS 1.2 with ECDHE and TLS 1.3 need no other usage, and remote-cert-tls requires this one.
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([USAGES[kind]]), critical=False)
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


def check_name(name: object, kind: str) -> None:
    """Raise ValueError for a name that a server or client cannot have."""
    pattern, rule = _NAMES[kind]
    if not isinstance(name, str) or not pattern.fullmatch(name):
        raise ValueError(f"{name!r} is not {rule}")


def check_days(days: object) -> None:
    """Raise ValueError for what is not a number of days that a certificate can live."""
    if not isinstance(days, int) or isinstance(days, bool) or not 1 <= days <= LONGEST_DAYS:
        raise ValueError(f"{days!r} is not a whole number of days, 1 to {LONGEST_DAYS}")
