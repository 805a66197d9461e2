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
import logging
import pathlib

import _gateway_libraries
import salt.utils.args
from salt.exceptions import CommandExecutionError, NotImplemented

_gateway_libraries.forget_changed()

import _gateway_authorities
import _gateway_files
import _gateway_master
import _gateway_vpn_profiles

log = logging.getLogger(__name__)

__func_alias__ = {"list_": "list"}


class PkiError(CommandExecutionError, NotImplemented):
    """What a person did wrong. Of the latter kind salt-run shows the message and no traceback."""


# --------------------------------------------------------------------------------------------------
# How a call begins


@contextlib.contextmanager
def _called(kwargs):
    """The authorities of this host. Refuses unknown arguments, and turns what the libraries raise
    into what Salt shows plainly."""
    unknown = salt.utils.args.clean_kwargs(**kwargs)
    if unknown:
        raise PkiError(f"unknown argument: {', '.join(unknown)}")
    try:
        yield _gateway_authorities.Authorities(__opts__)
    except OSError as error:
        plain = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise PkiError(plain) from error
    except ValueError as error:
        raise PkiError(str(error)) from error


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
    with _called(kwargs) as authorities:
        authority = authorities.to_create(site, directory, encrypt, passphrase_file)
        ca_days = authorities.option("ca_days", days)
        crl_days = authorities.option("crl_days", crl_days)
        authority.create(algorithm, ca_days, crl_days, bool(tls_crypt_v2))
        return authority.entries()[0]


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
    with _called(kwargs) as authorities:
        authority = authorities.to_sign(site, directory, passphrase_file)
        days, crl_days = authorities.option("days", days), authorities.option("crl_days", None)
        authority.issue(name, "server", algorithm, days, crl_days)
        return authority.entry(name) | _name_warning(name)


def _name_warning(name):
    """What is wrong with a server's name, where this host knows who the minions are."""
    known = _gateway_master.known_minions(__opts__, __pillar__)
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
    with _called(kwargs) as authorities:
        authority = authorities.to_sign(site, directory, passphrase_file)
        days, crl_days = authorities.option("days", days), authorities.option("crl_days", None)
        authority.issue(name, "client", algorithm, days, crl_days)
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
    with _called(kwargs) as authorities:
        authority = authorities.to_sign(site, directory, passphrase_file)
        days, crl_days = authorities.option("days", days), authorities.option("crl_days", None)
        authority.renew(name, algorithm, days, crl_days)
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
    with _called(kwargs) as authorities:
        authority = authorities.to_sign(site, directory, passphrase_file)
        days, crl_days = authorities.option("ca_days", days), authorities.option("crl_days", None)
        authority.renew_ca(days, crl_days)
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
    with _called(kwargs) as authorities:
        authority = authorities.to_sign(site, directory, passphrase_file)
        serial = None if serial is None else str(serial).lower()
        serials = authority.revoke(name, serial, authorities.option("crl_days", None))
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
    with _called(kwargs) as authorities:
        authority = authorities.to_read(site, directory)
        entries = authority.entries()
        return _gateway_authorities.lines(entries) if short else entries


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
    with _called(kwargs) as authorities:
        authority = authorities.to_sign(site, directory, passphrase_file)
        authority.renew_crl(authorities.option("crl_days", days), always=True)
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
    with _called(kwargs) as authorities:
        authority = authorities.to_read(site, directory)
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
        authority = _gateway_authorities.Authorities(__opts__).to_read(site, directory)
        return authority.material(node)
    except (ValueError, OSError) as error:
        # An exception would leave the minion without any pillar, and the reason on the master.
        log.error("No VPN certificate for the pillar of %s: %s", node, error)
        return {"error": str(error)}


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
    with _called(kwargs) as authorities:
        authority = authorities.to_read(site, directory)
        return authority.write_material(node, pathlib.Path(folder))


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
    with _called(kwargs) as authorities:
        authority = authorities.to_read(site, directory)
        text = _gateway_vpn_profiles.profile(authority, name, _site(authority))
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
    with _called(kwargs) as authorities:
        authority = authorities.to_read(site, directory)
        return _gateway_vpn_profiles.write_profiles(
            authority, _site(authority), pathlib.Path(folder)
        )


def _site(authority):
    everyone, _ = authority.everyone()
    gateways = [issued.name for issued in everyone if issued.kind == "server"]
    return _gateway_master.site(__opts__, __pillar__, gateways)
