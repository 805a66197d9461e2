"""
The certificates of a site's VPN: made, renewed, revoked and handed out, away from the gateways.

On a Salt master that has this formula in its ``file_roots``:

.. code-block:: bash

    salt-run saltutil.sync_modules                          # once, and after an upgrade
    salt-run salt.cmd gateway_pki.create_ca example
    salt-run salt.cmd gateway_pki.issue_server gw1          # the minion id of a node
    salt-run salt.cmd gateway_pki.issue_client alice
    salt-run salt.cmd gateway_pki.profile alice file=/root/alice.ovpn

A master that runs as a user of its own may have to be given the folder first; the error of
``create_ca`` says how. The pillar of the site has:

.. code-block:: jinja

    pki: {{ salt['gateway_pki.pillar']('example', opts.id) | tojson }}

Any trusted host can do the same masterless, with ``salt-call --local`` instead of ``salt-run
salt.cmd``.

What every function takes:

site
    Name of the site; may be left out where there is only one.
directory
    Folder of all sites; ``gateway`` beside the ``pki_dir`` by default, /etc/salt/pki/gateway.
passphrase_file
    Owner-only file whose first line is the passphrase of the CA's key. Without one it is asked for
    at the terminal. A passphrase is never an argument: processes and jobs show theirs.

Each of these, and ``days``, ``ca_days`` and ``crl_days``, can be an option in the configuration of
the master, or of the minion for ``salt-call``:

.. code-block:: yaml

    gateway_pki:
      directory: /srv/pki
      passphrase_file: /etc/salt/pki/gateway.passphrase
      days: 825
"""

import contextlib
import getpass
import hashlib
import logging
import os
import pathlib
import sys
from datetime import datetime, timezone

import _gateway_libraries
import salt.config
import salt.pillar
import salt.utils.args
import salt.utils.minions
from salt.exceptions import CommandExecutionError, NotImplemented

_gateway_libraries.forget_changed()

import _gateway_ca
import _gateway_files
import _gateway_pem
import _gateway_plan
import _gateway_x509

log = logging.getLogger(__name__)

__func_alias__ = {"list_": "list"}

DEFAULTS = {
    "ca_days": 3650,
    # What Apple's systems grant a certificate of a private CA (support.apple.com/HT210176).
    "days": 825,
    # Renewed when half of it is gone, and then it still outlives every certificate.
    "crl_days": 1825,
}
# OpenVPN's CONNECTION_LIST_SIZE
MOST_REMOTES = 64
CONFIG = "gateway_pki"
# What an exported file is called; pillar.example has the same names.
FILES = _gateway_ca.KEYS | {
    "ca": "ca.crt",
    "certificate": "server.crt",
    "crl": "crl.pem",
    "key": "server.key",
}


class PkiError(CommandExecutionError, NotImplemented):
    """What a person did wrong. Of the latter kind salt-run shows the message and no traceback."""


# --------------------------------------------------------------------------------------------------
# How a call begins


@contextlib.contextmanager
def _called(kwargs):
    """Refuse unknown arguments, and turn what the libraries raise into what Salt shows plainly."""
    unknown = salt.utils.args.clean_kwargs(**kwargs)
    if unknown:
        raise PkiError(f"unknown argument: {', '.join(unknown)}")
    try:
        yield
    except OSError as error:
        plain = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise PkiError(plain) from error
    except ValueError as error:
        raise PkiError(str(error)) from error


def _option(name, given):
    if given is not None:
        return given
    return (__opts__.get(CONFIG) or {}).get(name, DEFAULTS.get(name))


def _base(directory):
    beside = pathlib.Path(__opts__["pki_dir"]).parent / "gateway"
    return pathlib.Path(_option("directory", directory) or beside)


def _open(site=None, directory=None):
    """The authority of a site, without the passphrase of its key."""
    base = _base(directory)
    name = _option("site", site)
    if name is None:
        sites = sorted(path.parent.name for path in base.glob("[!.]*/ca.crt"))
        if len(sites) != 1:
            there = f"there are {', '.join(sites)}" if sites else "there is none"
            raise ValueError(f"say which site: {there} in {base}")
        name = sites[0]
    # The name is a part of a path, and may be a number for YAML.
    return _gateway_ca.Authority(base / os.path.basename(str(name)), _now()).check()


def _open_to_sign(site, directory, passphrase_file):
    """The authority of a site, and all that it takes to sign."""
    authority = _open(site, directory)
    if not authority.encrypted:
        return authority
    passphrase = _passphrase(passphrase_file)
    return _gateway_ca.Authority(authority.folder, authority.now, passphrase)


def _now():
    return datetime.now(timezone.utc).replace(microsecond=0)


def _passphrase(passphrase_file, new=False):
    path = _option("passphrase_file", passphrase_file)
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


def _passphrase_of(path):
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise ValueError(f"{path} is open to others; close it with chmod 600")
        first = file.readline().rstrip(b"\r\n")
    return _usable_passphrase(first, f"the first line of {path}")


def _usable_passphrase(passphrase, what):
    # OpenSSL's own tools take 4 to 1023 bytes.
    if not 4 <= len(passphrase) <= 1023:
        raise ValueError(f"{what} is not 4 to 1023 bytes long")
    return passphrase


def _refresh_crl(authority):
    """Make the CRL anew when it is due, if that takes nobody's presence."""
    try:
        if not authority.crl_is_due():
            return
        if authority.encrypted and not authority.passphrase:
            path = _option("passphrase_file", None)
            if not path:
                raise ValueError("the passphrase is needed; run gateway_pki.crl")
            authority = _gateway_ca.Authority(authority.folder, authority.now, _passphrase_of(path))
        authority.renew_crl(_option("crl_days", None))
    except (ValueError, OSError) as error:
        # The one there is goes on for a while; gateway.status tells how long.
        log.warning("The CRL in %s is due, but: %s", authority.folder, error)


def _refuse_to_be_stored():
    """Refuse to return a private key to where it would be stored, as in a master's job cache."""
    local = __opts__.get("local") or __opts__.get("file_client") == "local"
    stored = __opts__.get("cache_jobs") or __opts__.get("return")
    if __opts__.get("__cli") != "salt-call" or not local or stored:
        raise PkiError(
            "this shows a private key, and the job's result would be stored:"
            " name a file=... to write it to, or call it with salt-call --local"
        )


# --------------------------------------------------------------------------------------------------
# The authority


def create_ca(
    site,
    algorithm="ec",
    days=None,
    crl_days=None,
    encrypt=False,
    tls_crypt_v2=False,
    directory=None,
    passphrase_file=None,
    **kwargs,
):
    """
    Make the certificate authority of a site: key, certificate, empty CRL, and OpenVPN's own keys.

    algorithm
        ``ec`` (P-256), ``rsa3072``, ``rsa4096``, or ``ed25519``, which not every VPN app knows.
        Certificates get keys of the same kind unless told otherwise.
    days
        How long the CA lives; 3650 unless ``ca_days`` is configured.
    encrypt
        Protect the CA's key by a passphrase.
    tls_crypt_v2
        Give each client a tls-crypt key of its own, so that none has what guards the others.
        OpenVPN knows such keys from 2.5 on.

    Returns its entry, as in ``gateway_pki.list``. Raises CommandExecutionError if it exists.

    CLI Example:

    .. code-block:: bash

        salt-run salt.cmd gateway_pki.create_ca example
        salt-run salt.cmd gateway_pki.create_ca example encrypt=True
    """
    with _called(kwargs):
        base = _base(directory)
        _make_base(base)
        passphrase = _passphrase(passphrase_file, new=True) if encrypt else None
        if not isinstance(site, str) or "/" in site:
            raise ValueError(f"{site!r} is not a site's name")
        authority = _gateway_ca.Authority(base / site, _now(), passphrase)
        ca_days, crl_days = _option("ca_days", days), _option("crl_days", crl_days)
        authority.create(algorithm, ca_days, crl_days, bool(tls_crypt_v2))
        return authority.entries()[0]


def _make_base(base):
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


def issue_server(
    name,
    site=None,
    algorithm=None,
    days=None,
    directory=None,
    passphrase_file=None,
    **kwargs,
):
    """
    Issue a gateway its server certificate.

    name
        Minion id of the gateway: its pillar gets the certificate, and no other minion's.
    algorithm
        As for ``create_ca``; that of the CA by default.
    days
        How long it lives, 825 by default; it never outlives the CA.

    Returns its entry, as in ``gateway_pki.list``, with a ``warning`` where no minion is known by
    that name. Raises CommandExecutionError where the name has a certificate that is not revoked.

    CLI Example:

    .. code-block:: bash

        salt-run salt.cmd gateway_pki.issue_server gw1
    """
    with _called(kwargs):
        entry = _issue("server", name, site, algorithm, days, directory, passphrase_file)
        return entry | _name_warning(name)


def _name_warning(name):
    """What is wrong with a server's name, where this host knows who the minions are."""
    known = set((__pillar__.get("gateway") or {}).get("nodes") or {})
    with contextlib.suppress(OSError):  # no master, or not for this user to see
        known |= set(os.listdir(pathlib.Path(_master_opts()["pki_dir"], "minions")))
    if not known or name in known:
        return {}
    return {
        "warning": f"no minion is called {name}; known are {', '.join(sorted(known))}. Only the"
        " minion with that id gets this certificate. If that is a mistake:"
        f" gateway_pki.revoke {name}"
    }


def issue_client(
    name,
    site=None,
    algorithm=None,
    days=None,
    directory=None,
    passphrase_file=None,
    **kwargs,
):
    """
    Issue a person or device a client certificate. ``gateway_pki.profile`` then has its profile.

    name
        Small letters, digits and inner hyphens.
    algorithm
        As for ``create_ca``; that of the CA by default.
    days
        How long it lives, 825 by default; it never outlives the CA.

    Returns its entry, as in ``gateway_pki.list``. Raises CommandExecutionError where the name has
    a certificate that is not revoked.

    CLI Example:

    .. code-block:: bash

        salt-run salt.cmd gateway_pki.issue_client alice
        salt-run salt.cmd gateway_pki.issue_client visitor days=7
    """
    with _called(kwargs):
        return _issue("client", name, site, algorithm, days, directory, passphrase_file)


def _issue(kind, name, site, algorithm, days, directory, passphrase_file):
    authority = _open_to_sign(site, directory, passphrase_file)
    authority.issue(name, kind, algorithm, _option("days", days), _option("crl_days", None))
    return authority.entry(name)


def renew(
    name,
    site=None,
    algorithm=None,
    days=None,
    directory=None,
    passphrase_file=None,
    **kwargs,
):
    """
    Give a name a new certificate and a new key.

    The certificate before stays valid until it ends, or is revoked by its serial. A gateway has the
    new one after the next ``state.apply``, which restarts its VPN servers; clients go on with the
    profile that they have. A client needs its new profile.

    Returns its entry, as in ``gateway_pki.list``.

    CLI Example:

    .. code-block:: bash

        salt-run salt.cmd gateway_pki.renew alice
    """
    with _called(kwargs):
        authority = _open_to_sign(site, directory, passphrase_file)
        authority.renew(name, algorithm, _option("days", days), _option("crl_days", None))
        return authority.entry(name)


def renew_ca(site=None, days=None, directory=None, passphrase_file=None, **kwargs):
    """
    Give the CA a new certificate for the key it has, well before the old one ends.

    What it issued stays valid. Clients go on with the profile they have until the old certificate
    of the CA ends, and need a new profile by then.

    Returns its entry, as in ``gateway_pki.list``.

    CLI Example:

    .. code-block:: bash

        salt-run salt.cmd gateway_pki.renew_ca
    """
    with _called(kwargs):
        authority = _open_to_sign(site, directory, passphrase_file)
        authority.renew_ca(_option("ca_days", days), _option("crl_days", None))
        return authority.entries()[0]


def revoke(name, serial=None, site=None, directory=None, passphrase_file=None, **kwargs):
    """
    Revoke every certificate of a name. Gateways know of it after the next ``state.apply``.

    serial
        Revoke this one only, the one before a renewal say.

    Returns the serials, and what to do ``next``. To revoke again changes nothing.

    CLI Example:

    .. code-block:: bash

        salt-run salt.cmd gateway_pki.revoke alice
        salt 'gw*' state.apply gateway
    """
    with _called(kwargs):
        authority = _open_to_sign(site, directory, passphrase_file)
        serial = None if serial is None else str(serial).lower()
        serials = authority.revoke(name, serial, _option("crl_days", None))
        return {
            "name": name,
            "revoked": serials,
            "next": "apply the formula on every gateway: until then they let it in",
        }


def list_(site=None, directory=None, short=False, **kwargs):
    """
    Every certificate of a site: first the CA's, then by name, a name's present one first.

    Each has ``name``, ``kind`` (ca, server, client), ``serial`` (hexadecimal), ``ends``,
    ``days_left`` (whole days, negative when over), ``revoked`` and ``current`` (False: the name has
    a newer one). A name whose file is damaged comes last, with an ``error`` and nothing else.

    short
        Return a line of text for each, for a person to read.

    CLI Example:

    .. code-block:: bash

        salt-run salt.cmd gateway_pki.list
        salt-run salt.cmd gateway_pki.list short=True
    """
    with _called(kwargs):
        authority = _open(site, directory)
        _refresh_crl(authority)
        entries = authority.entries()
        return _lines(entries) if short else entries


def _lines(entries):
    width = max(len(entry["name"]) for entry in entries)
    return [f"{entry['name']:{width}}  {_in_words(entry)}" for entry in entries]


def _in_words(entry):
    if "error" in entry:
        return entry["error"]
    day, days = entry["ends"][:10], entry["days_left"]
    end = f"ended on {day}" if days < 0 else f"until {day} ({days} days)"
    words = [f"{entry['kind']:6}", entry["serial"], end]
    words += ["revoked"] if entry["revoked"] else []
    words += [] if entry["current"] else ["replaced by a newer one"]
    return "  ".join(words)


def crl(site=None, days=None, directory=None, passphrase_file=None, **kwargs):
    """
    Make the revocation list anew now, with the same entries.

    That happens by itself when half of its life is gone, whenever a function of this module runs or
    a pillar is rendered. It takes this function where the CA's key has a passphrase that only a
    person knows.

    Returns its ``number``, how many are ``revoked``, when it ``ends`` and ``days_left``.

    CLI Example:

    .. code-block:: bash

        salt-run salt.cmd gateway_pki.crl
    """
    with _called(kwargs):
        authority = _open_to_sign(site, directory, passphrase_file)
        authority.renew_crl(_option("crl_days", days), always=True)
        return authority.crl_state()


def backup(target=None, site=None, directory=None, **kwargs):
    """
    Write all of a site's authority into one owner-only file, keys included.

    target
        The file, which must not exist yet; by default SITE-TIME.tar.gz in the folder of all sites.

    Returns its path. To restore it, unpack it in the folder of all sites: ``tar -xpf``.

    CLI Example:

    .. code-block:: bash

        salt-run salt.cmd gateway_pki.backup /media/safe/example.tar.gz
    """
    with _called(kwargs):
        authority = _open(site, directory)
        _refresh_crl(authority)
        name = f"{authority.site}-{authority.now:%Y%m%dT%H%M%SZ}.tar.gz"
        path = pathlib.Path(target or authority.folder.parent / name)
        authority.backup(path)
        return str(path)


# --------------------------------------------------------------------------------------------------
# The gateways' part


def pillar(site, node, directory=None, **kwargs):
    """
    What a gateway's pillar has under ``gateway:vpn:pki``: its own certificate and key, the CA's
    certificate, the CRL, the tls-crypt keys and the secret of auth tokens, as PEM text.

    node
        Minion id of the gateway. In a pillar that is ``opts.id``, which the master itself sets: no
        minion gets another's key by calling itself something else.

    A certificate that is over is given all the same: the server goes on, its clients refuse it, and
    ``gateway.status`` says so. For a minion without a server certificate, or with a revoked one,
    there is nothing but ``error``, the reason.

    Raises CommandExecutionError when called from a command line: a key would be shown and stored.

    .. code-block:: jinja

        gateway:
          vpn:
            pki: {{ salt['gateway_pki.pillar']('example', opts.id) | tojson }}
    """
    # From salt and salt-call; from salt-run salt.cmd, which keeps the former to itself.
    if "__pub_fun" in kwargs or "gateway_pki.pillar" in str(__opts__.get("arg")):
        raise PkiError("gateway_pki.pillar is for pillars: it would show a key")
    try:
        authority = _open(site, directory)
        _refresh_crl(authority)
        return _material(authority, node)
    except (ValueError, OSError) as error:
        # An exception would leave the minion without any pillar, and the reason on the master.
        log.error("No VPN certificate for the pillar of %s: %s", node, error)
        return {"error": str(error)}


def _material(authority, node):
    """What a gateway has of its own, and what all gateways have, by the pillar's keys."""
    issued = authority.good(node)
    if issued.kind != "server":
        raise ValueError(f"{node} is a client, not a gateway")
    found = {
        "ca": authority.read("ca.crt"),
        "certificate": _gateway_x509.pem(issued.current),
        "crl": authority.read("crl.pem"),
        "key": issued.key,
        **authority.keys(),
    }
    for name, text in found.items():
        if not _gateway_pem.is_pem(text, name):
            raise ValueError(f"{name} in {authority.folder} is damaged; restore it")
    return found


def export(node, folder, site=None, directory=None, **kwargs):
    """
    Write what a gateway needs as files, to be copied to it: where its pillar cannot have the text,
    as over salt-ssh, or masterless away from this host.

    node
        Minion id of the gateway.
    folder
        Made for its owner alone if it is not there. Files in it are replaced.

    Returns ``{key of vpn:pki: path}``. Raises CommandExecutionError where nothing was issued to
    that node, or it was revoked.

    CLI Example:

    .. code-block:: bash

        salt-run salt.cmd gateway_pki.export gw1 /root/gw1
        salt-call --local gateway_pki.export gw1 /root/gw1
    """
    with _called(kwargs):
        authority = _open(site, directory)
        _refresh_crl(authority)
        material = _material(authority, node)
        target = pathlib.Path(folder)
        target.mkdir(0o700, parents=True, exist_ok=True)
        paths = {name: target / FILES[name] for name in sorted(material)}
        for name, path in paths.items():
            _gateway_files.write(path, material[name])
        return {name: str(path) for name, path in paths.items()}


# --------------------------------------------------------------------------------------------------
# The clients' part


def profile(name, file=None, site=None, directory=None, **kwargs):
    """
    One file with everything that a client needs: an OpenVPN profile, its private key included.

    file
        Write it there, for the owner of that folder alone, and return the path.

    Returns the text otherwise. Raises CommandExecutionError where that would be stored as the
    result of a job: with ``salt`` and ``salt-run``.

    CLI Example:

    .. code-block:: bash

        salt-run salt.cmd gateway_pki.profile alice file=/root/alice.ovpn
        salt-call --local --out=json gateway_pki.profile alice | jq -r .local
    """
    if not file:
        _refuse_to_be_stored()
    with _called(kwargs):
        authority = _open(site, directory)
        _refresh_crl(authority)
        text = _profile(authority, name, _site(authority))
        if not file:
            return text
        _gateway_files.write(pathlib.Path(file), text)
        return str(file)


def profiles(folder, site=None, directory=None, **kwargs):
    """
    Write the profiles of all clients whose certificates are good, as NAME.ovpn in a folder.

    folder
        Made for its owner alone if it is not there. Profiles in it are replaced; those of clients
        that have no good certificate any more are removed.

    Returns the paths. A client whose file is damaged is passed over, and logged.

    CLI Example:

    .. code-block:: bash

        salt-run salt.cmd gateway_pki.profiles /root/profiles
    """
    with _called(kwargs):
        authority = _open(site, directory)
        _refresh_crl(authority)
        described = _site(authority)
        target = pathlib.Path(folder)
        target.mkdir(0o700, parents=True, exist_ok=True)
        written = []
        for entry in authority.entries():
            if "error" in entry:
                log.error("No profile for %s: %s", entry["name"], entry["error"])
            if entry["kind"] != "client" or not entry["current"]:
                continue
            path = target / f"{entry['name']}.ovpn"
            if entry["revoked"] or entry["days_left"] < 0:
                path.unlink(missing_ok=True)
                continue
            _gateway_files.write(path, _profile(authority, entry["name"], described))
            written.append(str(path))
        return written


def _site(authority):
    """The site that the pillar describes: this minion's own pillar, or that of a gateway."""
    errors = []
    for found in _pillars(authority):
        site, errors = _gateway_plan.read(found)
        if site:
            return site
    if errors:
        raise ValueError("\n".join(["The pillar of this site is wrong:", *errors]))
    raise ValueError("no gateway of this site has a pillar here; a profile needs its VPN servers")


def _pillars(authority):
    if "gateway" in __pillar__:
        yield __pillar__["gateway"]
        return
    opts = dict(_master_opts())
    saltenv = opts.get("saltenv") or "base"
    everyone, _ = authority.everyone()
    for issued in everyone:
        if issued.kind == "server":
            name = issued.name
            _, grains, _ = salt.utils.minions.get_minion_data(name, opts)
            compiler = salt.pillar.Pillar(opts, grains or {"id": name}, name, saltenv)
            compiled = compiler.compile_pillar()
            if "gateway" in compiled:
                yield compiled["gateway"]


def _master_opts():
    """The master's options, where this host is one: salt-call brings those of a minion."""
    path = os.path.join(os.path.dirname(__opts__["conf_file"]), "master")
    if __opts__.get("__cli") == "salt-call" and os.path.exists(path):
        return salt.config.master_config(path)
    return __opts__


def _remotes(site):
    """
    Every server of every node, as ``(node, address, port, proto)``, server by server; before them
    that of whoever has the public virtual IP, with an empty node, where the pillar names it.
    """
    remotes = []
    for server in site.vpn_servers:
        if site.vpn_remote:
            remotes.append(("", site.vpn_remote, server.port, server.proto))
        for node in site.nodes:
            address = _gateway_plan.plan(site, node.name)["node"]["remote"]
            if not address:
                raise ValueError(
                    f"gateway:nodes:{node.name}:remote: missing; its public address is not known,"
                    " and VPN clients need a name or address"
                )
            remotes.append((node.name, address, server.port, server.proto))
    if not remotes:
        raise ValueError("gateway:vpn:servers: missing; there is nothing to connect to")
    return remotes


def _in_order(remotes, name):
    """
    The remotes as the profile of a client lists them, and whether OpenVPN may shuffle them.

    Clients are to spread over the nodes, and to try TCP last. OpenVPN shuffles all or nothing, so
    where there is more than one server, the order of the nodes comes from the client's name.

    What moves with the virtual IP comes first, and twice: a client that has lost its gateway asks
    the address again that it had, and finds the other gateway there; one whose own line was cut has
    time to come back to the same. Nothing else can tell the two apart.
    """
    shared = [remote for remote in remotes if not remote[0]]
    remotes = [remote for remote in remotes if remote[0]]
    nodes = {node for node, *_ in remotes}
    if len(remotes) == len(nodes) and not shared:
        return remotes, True

    def place(remote):
        node, _, port, proto = remote
        mixed = hashlib.sha256(f"{name} {node}".encode()).hexdigest()
        return proto, port, mixed

    def listed(proto):
        first = [remote for remote in shared if remote[3] == proto]
        return first * 2 + sorted((one for one in remotes if one[3] == proto), key=place)

    udp, tcp = listed("udp"), listed("tcp")
    # OpenVPN goes on from where it is in the list. After UDP's last remote comes TCP's first, even
    # where UDP works: so UDP's come twice, and one failover does not end at TCP.
    return udp * (2 if tcp else 1) + tcp, False


def _profile(authority, name, site):
    issued = authority.usable(name)
    if issued.kind != "client":
        raise ValueError(f"{name} is a gateway, not a client")
    ordered, shuffled = _in_order(_remotes(site), name)
    if len(ordered) > MOST_REMOTES:
        raise ValueError(f"{len(ordered)} remotes: OpenVPN takes {MOST_REMOTES} at most")
    end = issued.current.not_valid_after_utc
    lines = [
        f"# VPN profile of {name} for the site {authority.site}, good until {end:%Y-%m-%d}.",
        "# It holds a private key: whoever has this file is in. Keep it to its owner.",
        "client",
        "dev tun",
        "nobind",
        "",
        "# Every gateway is an entry to the same network. When one is gone, the next is tried.",
        *(f"remote {address} {port} {proto}" for _, address, port, proto in ordered),
        *(["remote-random"] if shuffled else []),
        "",
        "# Seconds: OpenVPN's own 120 and 60 are minutes without network when a gateway dies.",
        "server-poll-timeout 3",
        "hand-window 15",
        # No pause: what it asks first, after silence, is answered at once or not at all.
        "connect-retry 0 2",
    ]
    if all(proto == "udp" for *_, proto in ordered):
        # OpenVPN 2.5 refuses it in a profile that has a TCP remote.
        lines += ["# Tell the gateway when this client leaves.", "explicit-exit-notify 1"]
    if any(server.auth for server in site.vpn_servers):
        lines += ["# Ask for a name and a password, once.", "auth-user-pass"]
    # No persist-tun: a full tunnel to a dead gateway would swallow the way to the next one.
    lines += [
        "",
        "# Only a gateway's certificate will do, no other client's.",
        "remote-cert-tls server",
        "tls-version-min 1.2",
        "data-ciphers AES-256-GCM:CHACHA20-POLY1305:AES-128-GCM",
        "verb 3",
        "",
        "# Linux without NetworkManager: with the package openvpn-systemd-resolved, these lines",
        "# make names of the network known while the tunnel is up.",
        "#script-security 2",
        "#up /etc/openvpn/update-systemd-resolved",
        "#down /etc/openvpn/update-systemd-resolved",
        "#down-pre",
        "",
        *_inline("ca", authority.read("ca.crt")),
        *_inline("cert", _gateway_x509.pem(issued.current)),
        *_inline("key", issued.key),
        *_tls_crypt(authority),
        "",
    ]
    return "\n".join(lines)


def _tls_crypt(authority):
    keys = authority.keys()
    if "tls_crypt_v2" in keys:
        return _inline(
            "tls-crypt-v2", _gateway_x509.tls_crypt_v2_key(keys["tls_crypt_v2"], authority.now)
        )
    return _inline("tls-crypt", authority.read(_gateway_ca.KEYS["tls_crypt"]))


def _inline(tag, text):
    return [f"<{tag}>", text.strip(), f"</{tag}>"]
