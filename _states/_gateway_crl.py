"""Certificate revocation lists: what is in one, and whose it is.

Salt's loader passes over a file with an underscore in front. Salt's own Python has cryptography.
Over salt-ssh the node's Python does the work, which may have none or an old one: there the program
openssl reads the list, as crl(1ssl) of OpenSSL 3 says.
"""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

try:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
except ImportError:
    x509 = None  # type: ignore[assignment]

WRITTEN = os.stat(__file__).st_mtime_ns  # loaded again when that is another

OPENSSL_SECONDS = 10


@dataclass(frozen=True)
class RevocationList:
    """One list of one CA: its PEM ``text``, from when until when it is valid (``end`` may be
    None), and the ``serials`` of the certificates that it revokes."""

    text: str
    begin: datetime
    end: datetime | None
    serials: frozenset[int]

    def is_of(self, authorities: str) -> bool:
        """Whether one of these CAs, certificates as PEM text, has signed it.

        Raises ValueError where there is no certificate or one is broken, OSError where nothing
        here reads a list.
        """
        certificates = _blocks(authorities, "CERTIFICATE")
        if not _has_cryptography():
            return any(_verified_by_openssl(self.text, each) for each in certificates)
        crl = x509.load_pem_x509_crl(self.text.encode())
        loaded = [x509.load_pem_x509_certificate(each.encode()) for each in certificates]
        issuers = [ca.public_key() for ca in loaded if ca.subject == crl.issuer]
        return any(crl.is_signature_valid(key) for key in issuers)  # type: ignore[arg-type]


def read(text: str) -> list[RevocationList]:
    """The lists in a PEM text, one for each CA: OpenVPN reads them all.

    Raises ValueError where there is none or one is broken, OSError where nothing here reads one.
    """
    parse = _by_cryptography if _has_cryptography() else _by_openssl
    return [parse(block) for block in _blocks(text, "X509 CRL")]


def _blocks(text: str, label: str) -> list[str]:
    begin, end = f"-----BEGIN {label}-----", f"-----END {label}-----"
    blocks = re.findall(f"{begin}.*?{end}", text, re.DOTALL)
    if not blocks or text.count(begin) != len(blocks):
        raise ValueError(f"its PEM text ({label}) has no beginning or no end")
    return blocks


def _has_cryptography() -> bool:
    lists = getattr(x509, "CertificateRevocationList", None)
    return hasattr(lists, "next_update_utc")  # from version 42 on


def _by_cryptography(block: str) -> RevocationList:
    try:
        crl = x509.load_pem_x509_crl(block.encode())
        serials = frozenset(entry.serial_number for entry in crl)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    return RevocationList(block, crl.last_update_utc, crl.next_update_utc, serials)


def _by_openssl(block: str) -> RevocationList:
    done = _openssl(block, "-lastupdate", "-nextupdate", "-text")
    if done.returncode:
        raise ValueError(next(iter(done.stderr.splitlines()), "openssl cannot read it"))
    times = dict(_times(done.stdout))
    serials = re.findall(r"^ *Serial Number: ([0-9A-F]+)$", done.stdout, re.MULTILINE)
    found = frozenset(int(serial, 16) for serial in serials)
    return RevocationList(block, times["lastUpdate"], times.get("nextUpdate"), found)


def _times(text: str) -> Iterator[tuple[str, datetime]]:
    for key, value in re.findall(r"^(lastUpdate|nextUpdate)=(.*GMT)$", text, re.MULTILINE):
        yield key, datetime.fromtimestamp(ssl.cert_time_to_seconds(value), timezone.utc)


def _verified_by_openssl(block: str, certificate: str) -> bool:
    with tempfile.NamedTemporaryFile("w", suffix=".crt") as file:
        file.write(certificate)
        file.flush()
        # It exits with 0 also where it says "verify failure".
        return "verify OK" in _openssl(block, "-verify", "-CAfile", file.name).stderr


def _openssl(block: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["openssl", "crl", "-noout", *options]
    try:
        return subprocess.run(
            command,
            check=False,
            input=block,
            capture_output=True,
            text=True,
            timeout=OPENSSL_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        readers = "Python's cryptography, 42 or newer, or the program openssl"
        raise OSError(f"a revocation list takes {readers}: {error}") from error
