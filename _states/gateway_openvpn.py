"""States of the VPN servers: which there are, their clients, revocation lists and sessions."""

import glob
import importlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
from datetime import datetime, timezone

import _gateway_crl as revocation
import _gateway_state as state
import _gateway_vpn_client_files as client_files
from salt.exceptions import CommandExecutionError

# A long-running minion would go on with the libraries that it loaded first.
for library in (state, client_files, revocation):
    if os.stat(library.__file__).st_mtime_ns != library.WRITTEN:
        importlib.reload(library)

STATUS = "/run/openvpn-server"  # its unit writes there, and leaves the file behind
CLIENTS = "/etc/gateway/openvpn"
GRACE = 1  # seconds between telling a client to leave and cutting it off
# What an unprivileged process says is read up to this size.
ANSWER_SIZE = 4 * 1024 * 1024  # a client takes 200 bytes
ANSWER_SECONDS = 10


def servers_only(name, service, instances):
    """
    Of our OpenVPN servers there are no others than these: stopped, disabled, files removed. Of the
    configurations, which may hold keys, there are no copies by Salt.

    name
        The folder of OpenVPN's server configurations. Ours begin with ``gateway-``.
    service
        What comes before an instance's name in the name of its unit.
    instances
        List of the instances that stay.
    """
    ours = sorted(
        file.removesuffix(".conf")
        for file in (os.listdir(name) if os.path.isdir(name) else [])
        if file.startswith("gateway-") and file.endswith(".conf")
    )
    stale = [instance for instance in ours if instance not in instances]
    # Left by backup_mode of older versions, or by a run that was killed.
    copies = glob.glob(f"{__opts__.get('cachedir', '')}/file_backup{name}/gateway-*.conf_*")
    copies += [
        path
        for path in glob.glob(f"{name}/gateway-*.conf*")
        if re.search(r"\.conf[a-z0-9_]{8}$", path)  # as Salt calls it before it renames it
    ]

    def act():
        state.remove(*copies)
        for instance in stale:
            unit = service + instance
            __salt__["service.stop"](unit)
            __salt__["service.disable"](unit)
            drop_in = f"{state.UNITS}/{unit}.service.d"
            state.remove(f"{drop_in}/gateway.conf", f"{STATUS}/status-{instance}.log")
            state.remove_if_empty(drop_in)
            server = instance.removeprefix("gateway-")
            shutil.rmtree(f"{CLIENTS}/{server}", ignore_errors=True)
            # Last, so that the next run finishes one that was killed before this line.
            state.remove(f"{name}/{instance}.conf")

    changes = dict.fromkeys([*copies, *stale], "removed")
    return state.result(__opts__, name, changes, "Removed.", "They would be removed.", act)


# --------------------------------------------------------------------------------------------------
# Clients


def clients(name, server):
    """
    The folder ``name`` has one file for each client of an OpenVPN server, and nothing else. OpenVPN
    reads a client's file when that client connects, so nothing has to be restarted.

    server
        What ``gateway.plan`` has of the server, as JSON text: YAML reads the text of ten thousand
        clients in 15 ms, and takes 3 s for the same as mappings.
    """
    wanted = client_files.client_files(json.loads(server))
    try:
        there = set(os.listdir(name)) if os.path.isdir(name) else set()
        changes = dict.fromkeys(sorted(there - wanted.keys()), "removed")
        for file, text in wanted.items():
            if state.read(f"{name}/{file}") != text:
                changes[file] = "changed" if file in there else "added"
            # OpenVPN reads these files after it has dropped its privileges.
            elif wrong := state.access(f"{name}/{file}", 0o644):
                changes[file] = wrong
    except OSError as error:
        return state.failed(name, str(error))
    changes |= state.folder_changes(__opts__, __running__, f"{name}/client")

    def act():
        state.make_folders(f"{name}/client")
        for file in changes:
            if file in wanted:
                # Not in the same folder: any name there may be a client's.
                state.write(f"{name}/{file}", wanted[file], f"{name}.new")
            elif file in there:
                state.remove(f"{name}/{file}")

    return state.result(__opts__, name, changes, "Clients set.", "Clients would be set.", act)


# --------------------------------------------------------------------------------------------------
# Revocation lists


def _rendered(source, material):
    """
    PEM text of the pillar by way of a template: it may be secret, so nothing stays on the disk. In
    one run it is rendered once, whoever asks for it.
    """
    known = __context__.setdefault("gateway_rendered", {})
    if (source, material) not in known:
        with tempfile.TemporaryDirectory() as folder:
            context = {"material": material}
            path = state.render(__salt__, __env__, f"{folder}/text", source, context)
            if not path:
                raise CommandExecutionError(f"{source} cannot be rendered")
            known[source, material] = state.read(path)
    return known[source, material]


def _material(name, source=None, path=None):
    """The text of a certificate or list: of the file ``path`` on this node, or of the pillar."""
    if not path:
        return _rendered(source, name)
    text = state.read(path)
    if text is None:
        raise CommandExecutionError(f"{path} is not there")
    return text


def _crls(text):
    """The revocation lists in a PEM text. Raises CommandExecutionError where one is broken."""
    try:
        return revocation.read(text)
    except ValueError as error:
        raise CommandExecutionError(f"this is no revocation list: {error}") from error


def _crl_errors(crl, authorities):
    """With such a list OpenVPN would refuse every client."""
    if not crl.is_of(authorities):
        yield "the revocation list is not of the CA in gateway:vpn:pki:ca"
    now = datetime.now(timezone.utc)
    if crl.end and crl.end < now:
        yield f"the revocation list is out of date since {crl.end:%Y-%m-%d %H:%M} UTC"
    if crl.begin > now:
        yield (
            f"the revocation list is not valid before {crl.begin:%Y-%m-%d %H:%M} UTC, and this"
            f" node's clock says {now:%Y-%m-%d %H:%M}: one of the two is wrong, that clock or the"
            " clock of the machine that made the list"
        )


def crl(name, source, path=None, ca=None):
    """
    The certificate revocation list ``name``, swapped in one step; OpenVPN reads it when a client
    connects, as user nobody. One with which OpenVPN would refuse every client is an error, and the
    old one stays.

    source
        Template of the list (with the context ``material: crl``) and of the CA's certificate.
    path, ca
        The list and the CA's certificate on this node, where the pillar has a path and not text.
    """
    try:
        text = _material("crl", source, path)
        authority = _material("ca", source, ca)
        errors = [error for crl in _crls(text) for error in _crl_errors(crl, authority)]
    except (CommandExecutionError, OSError, ValueError) as error:
        errors = [str(error)]
    if errors:
        return state.failed(name, "\n".join(errors))
    wrong = state.file_changes(__opts__, __running__, {name: text}, {})
    changes = {"revocation list": wrong[name]} if wrong else {}

    def act():
        state.write(name, text)

    return state.result(__opts__, name, changes, "List written.", "The list would be written.", act)


# --------------------------------------------------------------------------------------------------
# Sessions


class _Management:
    """OpenVPN's management interface; see its management-notes.txt. OpenVPN has no privileges: an
    answer has a size and a time."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(ANSWER_SECONDS)
        self.socket.connect(path)
        self.lines = self._lines()
        self.deadline = self.room = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def _lines(self):
        rest = b""
        while True:
            self.socket.settimeout(max(0.001, self.deadline - time.monotonic()))
            chunk = self.socket.recv(65536)
            self.room -= len(chunk)
            if not chunk or self.room < 0:
                raise OSError("OpenVPN closed its management socket, or says too much there")
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines

    def ask(self, command, last):
        """Send a command and return the lines of its answer, up to one that begins with ``last``"""
        self.deadline = time.monotonic() + ANSWER_SECONDS
        self.room = ANSWER_SIZE
        self.socket.sendall(f"{command}\n".encode())
        answer = []
        for line in self.lines:
            if not line or line.startswith(b">"):  # what happens meanwhile
                continue
            answer.append(line.decode(errors="replace").rstrip("\r"))
            if answer[-1].startswith(last):
                break
        return answer

    def sessions(self):
        """Who is connected, as mappings with ``client``, ``address``, ``real`` and ``id``."""
        rows = [line.split("\t") for line in self.ask("status 3", "END")]
        header = next((row[2:] for row in rows if row[:2] == ["HEADER", "CLIENT_LIST"]), [])
        if not set(header) >= {"Common Name", "Virtual Address", "Real Address", "Client ID"}:
            raise OSError("OpenVPN does not say who is connected")
        clients = [
            dict(zip(header, row[1:], strict=False)) for row in rows if row[0] == "CLIENT_LIST"
        ]
        return [
            {
                "client": row["Common Name"],
                "address": row["Virtual Address"],
                "real": row["Real Address"],
                "id": row["Client ID"],
            }
            for row in clients
            if row.get("Virtual Address") and "Client ID" in row  # others are not let in yet
        ]

    def end(self, sessions):
        """End sessions: the clients are told to connect again, whoever stays is cut off."""
        for session in sessions:
            self.ask(f"client-kill {session['id']}", ("SUCCESS", "ERROR"))
        # Without it a client that ignores the message stays for another five seconds.
        time.sleep(GRACE)
        ids = {session["id"] for session in sessions}
        for session in self.sessions():
            if session["id"] in ids:
                self.ask(f"kill {session['real']}", ("SUCCESS", "ERROR"))


def _serial(folder, session):
    """A session's certificate serial as ``vpn-session`` noted it; None if that is not known."""
    note = state.read_foreign(f"{folder}/{os.path.basename(session['address'])}")
    words = re.fullmatch(r"([0-9]{1,60}) (.+)", (note or "").strip())
    return int(words[1]) if words and words[2] == session["client"] else None


def _judge(server, revoked):
    """A function that says why a session could not be opened now, and None where it could."""
    by_file = {client["file"]: client for client in server["clients"]}
    by_address = {client["address"]: client for client in server["clients"]}
    files = client_files.client_files(server)

    def refusal(session, serial):
        file = session["client"].replace("/", "_")  # as OpenVPN calls its client's file
        client = by_file.get(file)
        if client and client["disabled"]:
            return "disabled"
        if not server["dynamic"] and file not in files:
            return "not in gateway:vpn:clients"
        if serial in revoked:
            return "revoked"
        owner = by_address.get(session["address"], client)
        return None if owner is client else f"its address is {owner['file']}'s now"

    return refusal


def sessions(name, server, notes, crl=None):
    """
    Nobody is connected to an OpenVPN server who could not connect now. It ends a session whose
    client is disabled, revoked, or has an address that is another's now; no other one notices.

    name
        OpenVPN's management socket.
    server
        As for ``clients``. Only where it is ``dynamic`` clients without an entry are let in.
    notes
        Folder with the serials of the clients' certificates.
    crl
        ``{source: template}`` or ``{path: file}`` of the revocation list.
    """
    if not os.path.exists(name):
        return state.unchanged(name)
    try:
        lists = _crls(_material("crl", **crl)) if crl else []
        revoked = {serial for each in lists for serial in each.serials}
        with _Management(name) as management:
            sessions = management.sessions()
    except (CommandExecutionError, OSError) as error:
        return state.failed(name, str(error))
    refusal = _judge(json.loads(server), revoked)
    changes, refused = {}, []
    for session in sessions:
        why = refusal(session, _serial(notes, session))
        if why:
            refused.append(session)
            changes[f"{session['client']} {session['address']}"] = why

    def act():
        with _Management(name) as management:
            management.end(refused)

    return state.result(__opts__, name, changes, "Sessions ended.", "Sessions would be ended.", act)
