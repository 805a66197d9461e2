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

import contextlib
import os
import re
import secrets
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import _gateway_files
import _gateway_pem
import _gateway_x509
from cryptography import x509
from cryptography.hazmat.primitives import serialization

# Files of the secrets that OpenVPN's servers have besides certificates, by the planner's names.
KEYS = {
    "tls_crypt": "tls-crypt.key",
    "tls_crypt_v2": "tls-crypt-v2.key",
    "auth_token": "auth-token.key",
}
# What a gateway's files are called; pillar.example has the same names.
GATEWAY_FILES = KEYS | {
    "ca": "ca.crt",
    "certificate": "server.crt",
    "crl": "crl.pem",
    "key": "server.key",
}

_SITE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,50}")


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
        _gateway_x509.check_name(name, "server")  # whose names are those of clients, and more
        if not self._is_issued(name):
            raise ValueError(f"nothing was issued to {name!r} in {self.folder}")
        file = f"issued/{name}.pem"
        text = self.read(file)
        blocks = _gateway_x509.pem_blocks(text)
        # If a broken block were skipped, an older certificate would count as the present one.
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
            kind = next(kind for kind, oid in _gateway_x509.USAGES.items() if oid in usage)
        except (ValueError, StopIteration, x509.ExtensionNotFound) as error:
            raise self._damaged(file, error) from error
        return Issued(name, kind, key, certificates)

    def everyone(self) -> tuple[list[Issued], dict[str, str]]:
        """What was issued to all names, and which of them have a damaged file, and why."""
        readable, damaged = [], {}
        for name in self.names():
            try:
                readable.append(self.issued(name))
            except (ValueError, OSError) as error:
                damaged[name] = str(error)
        return readable, damaged

    def entries(self) -> list[dict[str, Any]]:
        """Every certificate: the CA's, then by name, a name's present one first.

        Each with ``name``, ``kind`` (ca, server, client), ``serial`` (hexadecimal), ``ends``,
        ``days_left``, ``revoked`` and ``current`` (False: there is a newer one). Last come the
        names whose file is damaged: with ``error``, and None where nothing is known.
        """
        revoked = self.revoked()
        entries = [self._entry(self.site, "ca", self.ca, revoked, True)]
        everyone, damaged = self.everyone()
        for issued in everyone:
            for certificate in issued.certificates:
                current = certificate is issued.current
                entries.append(self._entry(issued.name, issued.kind, certificate, revoked, current))
        unknown = dict.fromkeys(("kind", "serial", "ends", "days_left", "revoked"))
        for name, error in damaged.items():
            entries.append({"name": name, **unknown, "current": False, "error": error})
        return entries

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
            "serial": _gateway_x509.serial_text(certificate.serial_number),
            **_gateway_x509.ending(certificate.not_valid_after_utc, self.now),
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

    def material(self, node: str) -> dict[str, str]:
        """What a gateway has of its own, and what all gateways have, by the planner's names."""
        issued = self.good(node)
        if issued.kind != "server":
            raise ValueError(f"{node} is a client, not a gateway")
        material = {
            "ca": self.read("ca.crt"),
            "certificate": _gateway_x509.pem(issued.current),
            "crl": self.read("crl.pem"),
            "key": issued.key,
            **self.keys(),
        }
        for name, text in material.items():
            if not _gateway_pem.is_pem(text, name):
                raise ValueError(f"{name} in {self.folder} is damaged; restore it")
        return material

    def write_material(self, node: str, folder: Path) -> dict[str, str]:
        """Write it as files of a folder. Returns their paths, by the planner's names."""
        material = self.material(node)
        folder.mkdir(0o700, parents=True, exist_ok=True)
        paths = {name: folder / GATEWAY_FILES[name] for name in sorted(material)}
        for name, path in paths.items():
            _gateway_files.write(path, material[name])
        return {name: str(path) for name, path in paths.items()}

    def crl_state(self) -> dict[str, Any]:
        """``number``, ``revoked`` (how many), ``ends`` and ``days_left`` of the CRL."""
        crl = self.crl
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        return {
            "number": number,
            "revoked": len(crl),
            **_gateway_x509.ending(_gateway_x509.last_day(crl), self.now),
        }

    def crl_is_due(self) -> bool:
        """Whether half of the CRL's life is gone, or it has not begun: a clock was ahead."""
        crl = self.crl
        begin = crl.last_update_utc
        return not begin <= self.now < begin + (_gateway_x509.last_day(crl) - begin) / 2

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
        with _gateway_files.locked(self.folder):
            _gateway_files.remove_unfinished(self.folder)
            _gateway_files.remove_unfinished(self.folder / "issued")
            yield key

    def create(self, algorithm: str, days: int, crl_days: int, v2: bool = False) -> None:
        """Make the authority, with everything a site needs but certificates.

        With ``v2`` each client gets a tls-crypt key of its own.
        """
        if not _SITE_PATTERN.fullmatch(self.site):
            raise ValueError(f"{self.site!r} is not a site's name (letters, digits, - and _)")
        _gateway_x509.check_days(days)
        key = _gateway_x509.new_key(algorithm)
        ca = _gateway_x509.ca_certificate(self.site, key, self.now, days)
        end = self._crl_end(ca, crl_days, self.now)
        crl = _gateway_x509.revocation_list(ca, key, {}, 1, self.now, end)
        with _gateway_files.locked(self.folder.parent):
            _gateway_files.remove_unfinished(self.folder.parent, f"{self.site}.")
            if self.folder.exists() and os.listdir(self.folder):
                raise ValueError(f"{self.folder} is there already, and not empty")
            unfinished = self.folder.with_name(
                f".{self.site}.{secrets.token_hex(8)}{_gateway_files.UNFINISHED}"
            )
            _gateway_files.make_folder(unfinished)
            _gateway_files.make_folder(unfinished / "issued")
            _gateway_files.write(unfinished / "ca.key", _gateway_x509.key_pem(key, self.passphrase))
            if v2:
                _gateway_files.write(
                    unfinished / KEYS["tls_crypt_v2"], _gateway_x509.server_key("tls-crypt-v2")
                )
            else:
                _gateway_files.write(unfinished / KEYS["tls_crypt"], _gateway_x509.static_key())
            _gateway_files.write(
                unfinished / KEYS["auth_token"], _gateway_x509.server_key("auth-token")
            )
            _gateway_files.write(unfinished / "crl.pem", _gateway_x509.pem(crl))
            _gateway_files.write(unfinished / "ca.crt", _gateway_x509.pem(ca))
            os.rename(unfinished, self.folder)
            _gateway_files.sync_folder(self.folder.parent)

    def issue(self, name: str, kind: str, algorithm: str | None, days: int, crl_days: int) -> None:
        """Issue a name its first certificate, or a new one after a revocation."""
        _gateway_x509.check_name(name, kind)
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
            self._issue(
                name,
                kind,
                algorithm or _gateway_x509.algorithm_of(key),
                days,
                crl_days,
                key,
                before,
            )

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
            algorithm = algorithm or _gateway_x509.algorithm_of(old)
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
        _gateway_x509.check_days(days)
        ca = self._living_ca()
        key = _gateway_x509.new_key(algorithm)
        new = _gateway_x509.certificate(name, kind, key.public_key(), ca, ca_key, self.now, days)
        # The revocation list is written first: if this is killed in between, nothing harmful is
        # left.
        self._renew_crl_if_due(ca_key, crl_days, new.not_valid_after_utc)
        parts = [_gateway_x509.key_pem(key), *(_gateway_x509.pem(one) for one in (new, *before))]
        _gateway_files.write(self.folder / "issued" / f"{name}.pem", "".join(parts))

    def renew_ca(self, days: int, crl_days: int) -> None:
        """Give the CA a new certificate for its key: everything issued stays valid under it."""
        _gateway_x509.check_days(days)
        with self.changing() as key:
            _gateway_files.write(
                self.folder / "ca.crt",
                _gateway_x509.pem(_gateway_x509.ca_certificate(self.site, key, self.now, days)),
            )
            self._renew_crl_if_due(key, crl_days)

    def revoke(self, name: str, serial: str | None, crl_days: int) -> list[str]:
        """Revoke all certificates of a name, or the one with this serial; returns the serials."""
        with self.changing() as key:
            serials = [one.serial_number for one in self.issued(name).certificates]
            if serial is not None:
                serials = [
                    number
                    for number in serials
                    if _gateway_x509.serial_text(number) == serial.zfill(32)
                ]
                if not serials:
                    raise ValueError(f"{name} has no certificate with the serial {serial}")
            revoked = self.revoked()
            if not set(serials) <= set(revoked):
                self._write_crl(key, dict.fromkeys(serials, self.now) | revoked, crl_days)
            return [_gateway_x509.serial_text(number) for number in serials]

    def renew_crl(self, crl_days: int, always: bool = False) -> None:
        """Make the CRL anew, with the same entries, when it is due or ``always``."""
        with self.changing() as key:
            if always:
                self._write_crl(key, self.revoked(), crl_days)
            else:
                self._renew_crl_if_due(key, crl_days)

    def _renew_crl_if_due(self, key: Any, crl_days: int, at_least: datetime | None = None) -> None:
        if self.crl_is_due() or (at_least and _gateway_x509.last_day(self.crl) < at_least):
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
        crl = _gateway_x509.revocation_list(ca, key, revoked, number, self.now, end)
        _gateway_files.write(self.folder / "crl.pem", _gateway_x509.pem(crl))

    def _crl_end(self, ca: x509.Certificate, crl_days: int, at_least: datetime) -> datetime:
        """A CRL that ends locks everyone out: so never before a certificate does."""
        _gateway_x509.check_days(crl_days)
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
        with _gateway_files.locked(self.folder):
            if target.exists():
                raise ValueError(f"{target} is there already")
            with (
                _gateway_files.new(target) as file,
                tarfile.open(fileobj=file, mode="w:gz") as archive,
            ):
                archive.add(self.folder, self.site, filter=_without_unfinished)


def _without_unfinished(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if member.name.endswith(_gateway_files.UNFINISHED) else member
