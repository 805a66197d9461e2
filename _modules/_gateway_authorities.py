"""The authorities of this host: where they lie, which one is meant, who may open its key.

What a call does not say is an option of Salt's configuration, under ``gateway_pki``, or has a
default here.
"""

import getpass
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from _gateway_ca import Authority

log = logging.getLogger(__name__)

CONFIG = "gateway_pki"
DEFAULTS = {
    "ca_days": 3650,
    # What Apple's systems grant a certificate of a private CA (support.apple.com/HT210176).
    "days": 825,
    # Renewed when half of it is gone, and then it still outlives every certificate.
    "crl_days": 1825,
}


def now() -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0)


@dataclass(frozen=True)
class Authorities:
    """Those of a host with this configuration of Salt's.

    Every method raises ValueError, with what to do about it, or OSError.
    """

    opts: Mapping[str, Any]

    def option(self, name: str, given: Any) -> Any:
        """What was given in the call, else what is configured, else the default."""
        if given is not None:
            return given
        return (self.opts.get(CONFIG) or {}).get(name, DEFAULTS.get(name))

    def base(self, directory: str | None) -> Path:
        """The folder of all sites."""
        beside = Path(self.opts["pki_dir"]).parent / "gateway"
        return Path(self.option("directory", directory) or beside)

    def named(self, site: str | None, directory: str | None) -> Authority:
        """The authority of a site as it is, without the passphrase of its key."""
        base = self.base(directory)
        name = self.option("site", site)
        if name is None:
            sites = sorted(path.parent.name for path in base.glob("[!.]*/ca.crt"))
            if len(sites) != 1:
                there = f"there are {', '.join(sites)}" if sites else "there is none"
                raise ValueError(f"say which site: {there} in {base}")
            name = sites[0]
        # The name is a part of a path, and may be a number for YAML.
        return Authority(base / os.path.basename(str(name)), now()).check()

    def to_read(self, site: str | None, directory: str | None) -> Authority:
        """The authority of a site, its CRL made anew when it is due and takes nobody's presence."""
        authority = self.named(site, directory)
        try:
            self._renew_crl_if_due(authority)
        except (ValueError, OSError) as error:
            # The one there is goes on for a while; gateway.status tells how long.
            log.warning("The CRL in %s is due, but: %s", authority.folder, error)
        return authority

    def to_sign(
        self, site: str | None, directory: str | None, passphrase_file: str | None
    ) -> Authority:
        """The authority of a site, and all that it takes to sign."""
        authority = self.named(site, directory)
        if not authority.encrypted:
            return authority
        return replace(authority, passphrase=self._passphrase(passphrase_file))

    def to_create(
        self, site: object, directory: str | None, encrypt: bool, passphrase_file: str | None
    ) -> Authority:
        """The authority that a site is to have, in a folder of all sites that is there."""
        base = self.base(directory)
        _make_base(base)
        passphrase = self._passphrase(passphrase_file, new=True) if encrypt else None
        if not isinstance(site, str) or "/" in site:
            raise ValueError(f"{site!r} is not a site's name")
        return Authority(base / site, now(), passphrase)

    def _renew_crl_if_due(self, authority: Authority) -> None:
        if not authority.crl_is_due():
            return
        if authority.encrypted:
            path = self.option("passphrase_file", None)
            if not path:
                raise ValueError("the passphrase is needed; run gateway_pki.crl")
            authority = replace(authority, passphrase=_passphrase_of(path))
        authority.renew_crl(self.option("crl_days", None))

    def _passphrase(self, passphrase_file: str | None, new: bool = False) -> bytes:
        path = self.option("passphrase_file", passphrase_file)
        if path:
            return _passphrase_of(path)
        if not sys.stdin or not sys.stdin.isatty():
            raise ValueError(
                "the CA's key takes a passphrase: passphrase_file=..., or run at a terminal"
            )
        passphrase = getpass.getpass("Passphrase of the CA's key: ")
        if new and getpass.getpass("Once more: ") != passphrase:
            raise ValueError("these were two different passphrases")
        return _usable_passphrase(passphrase.encode(), "the passphrase")


def _passphrase_of(path: str) -> bytes:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise ValueError(f"{path} is open to others; close it with chmod 600")
        first = file.readline().rstrip(b"\r\n")
    return _usable_passphrase(first, f"the first line of {path}")


def _usable_passphrase(passphrase: bytes, what: str) -> bytes:
    # OpenSSL's own tools take 4 to 1023 bytes.
    if not 4 <= len(passphrase) <= 1023:
        raise ValueError(f"{what} is not 4 to 1023 bytes long")
    return passphrase


def _make_base(base: Path) -> None:
    """Make the folder of all sites. It belongs to the user whom the master runs as."""
    if base.is_dir():
        return
    owner = base.parent / "master"
    try:
        os.makedirs(base, 0o700)
        if os.geteuid() == 0 and owner.is_dir():
            os.chown(base, owner.stat().st_uid, owner.stat().st_gid)
    except PermissionError:
        user = getpass.getuser()
        raise ValueError(
            f"{user} may not make {base}; as root: install -d -m 700 -o {user} {base}"
        ) from None


def lines(entries: list[dict[str, Any]]) -> list[str]:
    """What ``Authority.entries`` returns, as a line of text for each."""
    width = max(len(entry["name"]) for entry in entries)
    return [f"{entry['name']:{width}}  {_in_words(entry)}" for entry in entries]


def _in_words(entry: dict[str, Any]) -> str:
    if "error" in entry:
        return str(entry["error"])
    day, days = entry["ends"][:10], entry["days_left"]
    end = f"ended on {day}" if days < 0 else f"until {day} ({days} days)"
    words = [f"{entry['kind']:6}", entry["serial"], end]
    words += ["revoked"] if entry["revoked"] else []
    words += [] if entry["current"] else ["replaced by a newer one"]
    return "  ".join(words)
