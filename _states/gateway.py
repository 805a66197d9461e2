"""States for what ``file.managed`` and ``service.running`` cannot say.

They get what they need as arguments and call only Salt's own modules (on Salt 3008 a state does not
see the formula's execution modules in the run that brings them).
"""

import contextlib
import difflib
import functools
import glob
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import PurePath

from salt.exceptions import CommandExecutionError

# Salt's own Python has it. Over salt-ssh the node's does the work, which may not, or an old one.
try:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
except ImportError:
    x509 = None

STATE_FOLDER = "/var/lib/gateway"
FOLDERS = ("/etc/gateway", "/usr/lib/gateway", STATE_FOLDER)  # ours, with all that is in them
OWNER = (0, 0)  # of our files and folders: user and group
FIREWALL = "/usr/lib/gateway/firewall"
CHAINS = "GATEWAY-"
SETS = "gateway-"
FAMILIES = {"sets": "sets", "v4": "IPv4", "v6": "IPv6"}
# What the kernel makes of a ruleset, and of the one that is in force where that cannot be loaded.
IN_KERNEL = tuple(f"{folder}kernel/{family}" for folder in ("", "closed/") for family in FAMILIES)
TABLES = "raw mangle filter nat security"
MAX_DIFF = 1000  # lines of one in a return; the first apply of a large site has more
KEPT_SUFFIX = ".before-gateway"
OURS = "Managed by Salt (gateway)"
PROC_SYS = "/proc/sys"
SYSTEMD = "/etc/systemd"
UNITS = f"{SYSTEMD}/system"
READ = "/run/gateway/read"  # what the running units have read of their files
RENDERED = "/run/gateway/rendered.json"  # what templates were rendered from, and what came of it
# What `_origin` knows the answers of.
KNOWN_CALLS = re.compile(r"salt\['gateway\.(plan'\]\(\)|pem'\]\(\w+\))")
UNIT_PROPERTIES = (
    "ActiveState,DropInPaths,NeedDaemonReload,StateChangeTimestampMonotonic,UnitFileState"
)
NETWORKD = "/etc/systemd/network"
NETWORKD_FOLDERS = ("/etc", "/run", "/usr/local/lib", "/usr/lib")
NETWORKD_LINKS = "/run/systemd/netif/links"  # what networkd itself tells networkctl
INTERFACES = "/sys/class/net"
FOLLOWERS = "gateway-follow.conf"
OPENVPN_STATUS = "/run/openvpn-server"  # its unit writes there, and leaves the file behind
OPENVPN_CLIENTS = "/etc/gateway/openvpn"
ISOLATED = "/usr/lib/gateway/isolated"  # where a daemon looks at its new configuration
OPENVPN_GRACE = 1  # seconds between telling a client to leave and cutting it off
# What somebody without privileges has written, or says, is taken up to here.
FOREIGN_SIZE = 4096
ANSWER_SIZE = 4 * 1024 * 1024  # a client takes 200 bytes
ANSWER_SECONDS = 10

# Marks the routes that are ours. Not taken in iproute2's rt_protos.
ROUTE_PROTOCOL = "119"


def _result(name, changes, done, planned, act):
    """Finish a state: nothing to do, what test mode says, or ``act`` and what came of it."""
    ret = {"name": name, "changes": {}, "result": True, "comment": "Nothing to do."}
    if not changes:
        return ret
    if __opts__["test"]:
        return ret | {"changes": changes, "result": None, "comment": planned}
    try:
        act()
    except (CommandExecutionError, OSError) as error:
        return ret | {"result": False, "comment": str(error)}
    return ret | {"changes": changes, "comment": done}


def _failed(name, comment):
    return {"name": name, "changes": {}, "result": False, "comment": comment}


def _run(*command):
    """The output of a command. Raises CommandExecutionError with its message if it fails."""
    done = __salt__["cmd.run_all"](list(command), python_shell=False, ignore_retcode=True)
    if done["retcode"]:
        message = done["stderr"] or done["stdout"]
        raise CommandExecutionError(f"{' '.join(command)}: {message}")
    return done["stdout"]


def _read(path):
    """A file's text, or None where there is no such file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _read_foreign(path):
    """The text of a small file that a process without privileges may have put there; None for all
    else: a link, a pipe on which we would wait, something without end."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return None
        found = os.read(file, FOREIGN_SIZE + 1)
    finally:
        os.close(file)
    return found.decode(errors="replace") if len(found) <= FOREIGN_SIZE else None


def _our_folders(path):
    """The folders on the way to a file that are ours, from the outermost one on."""
    return [
        folder
        for folder in reversed([str(parent) for parent in PurePath(path).parents])
        if f"{folder}/".startswith(tuple(f"{ours}/" for ours in FOLDERS))
        or (folder.startswith(f"{SYSTEMD}/") and folder.endswith(".d"))
    ]


def _access(path, mode):
    """Owner, group and mode as {what: {old, new}} where they are not root's and ``mode``."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return {}
    live = {"user": found.st_uid, "group": found.st_gid}
    live["mode"] = f"{stat.S_IMODE(found.st_mode):04o}"
    wanted = {"user": OWNER[0], "group": OWNER[1], "mode": f"{mode:04o}"}
    return {
        key: {"old": live[key], "new": value} for key, value in wanted.items() if live[key] != value
    }


def _set_access(path, mode):
    # In this order: a change of the owner may take bits away.
    os.chown(path, *OWNER)
    os.chmod(path, mode)


def _folder_changes(*paths):
    """What is wrong with our folders on the way to these files: daemons that are not root's go
    through them, whatever the umask was and whoever has been there."""
    changes = {}
    # In test mode what another state of this run would have put right before.
    right = set(_all_keys(__running__)) if __opts__["test"] else set()
    for folder in dict.fromkeys(folder for path in paths for folder in _our_folders(path)):
        if folder in right:
            continue
        wrong = _access(folder, 0o755) if os.path.isdir(folder) else "made"
        if wrong:
            changes[folder] = wrong
    return changes


def _all_keys(tree):
    """The keys of mappings in mappings."""
    for key, value in tree.items():
        yield key
        if isinstance(value, Mapping):
            yield from _all_keys(value)


def _make_folders(path):
    """The folders on the way to a file are there, and ours are open to all daemons."""
    folder, missing = os.path.dirname(path), []
    while folder and not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for folder in reversed(missing):
        os.mkdir(folder)
        _set_access(folder, 0o755)
    for folder in _folder_changes(path):
        _set_access(folder, 0o755)


def _write(path, text, temporary=None):
    """Write a file in one step, by way of a temporary one on the same file system."""
    _make_folders(path)
    temporary = temporary or f"{path}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    _set_access(temporary, 0o644)
    os.replace(temporary, path)


def _write_json(path, data):
    _write(path, json.dumps(data, indent=1, sort_keys=True))


def _remove(*paths):
    for path in paths:
        if os.path.lexists(path):
            os.remove(path)


def refused(name, errors, title="Nothing was changed: the pillar of this site cannot be used."):
    """
    Fails, in test mode too, with what keeps the pillar, or a part of it, from being applied.

    errors
        List of texts.
    title
        The line before them: what came of it.
    """
    return _failed(name, "\n".join([title, *errors]))


# --------------------------------------------------------------------------------------------------
# Kernel settings


def _kernel_value(key):
    text = _read(f"{PROC_SYS}/{key}")
    if text is None:
        # What comes with a module may not be there before the run that loads it.
        if __opts__["test"] and key.startswith("net/netfilter/"):
            return None
        raise CommandExecutionError(f"the kernel has no setting {key}")
    return text.strip()


def _set_kernel(values):
    for key, value in values.items():
        with open(f"{PROC_SYS}/{key}", "w", encoding="utf-8") as file:
            file.write(value)


def _kernel_file(settings):
    return f"# {OURS}.\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())


def kernel_settings(name, settings, forwarding_file, forwarding):
    """
    Kernel settings in the file ``name``, for the next boot, and in the kernel, now. What they were
    before is kept: ``kernel_settings_restored`` brings it back, and so does this state for settings
    that are not wanted any more.

    name
        The file, in /etc/sysctl.d.
    settings
        Mapping of a path below /proc/sys to its value, as text. Those of IPv6 may be missing.
    forwarding_file, forwarding
        Settings that let the node forward, in a file that the loader of the firewall's rules
        applies at boot when these are in force.
    """
    originals_path = f"{STATE_FOLDER}/kernel.json"
    # IPv6 may be off, for the kernel or for an interface: then there is nothing to set.
    settings = {
        key: value
        for key, value in settings.items()
        if not key.startswith("net/ipv6/") or os.path.exists(f"{PROC_SYS}/{key}")
    }
    texts = {name: _kernel_file(settings), forwarding_file: _kernel_file(forwarding)}
    settings = settings | forwarding
    try:
        live = {key: _kernel_value(key) for key in settings}
    except CommandExecutionError as error:
        return _failed(name, str(error))
    originals = json.loads(_read(originals_path) or "{}")
    changes = {
        key: {"old": live[key], "new": value}
        for key, value in settings.items()
        if live[key] != value
    }
    unwanted = {key: value for key, value in originals.items() if key not in settings}
    for key, value in unwanted.items():
        now = (_read(f"{PROC_SYS}/{key}") or value).strip()
        if now != value:
            changes[key] = {"old": now, "new": value}
    kept = {key: originals.get(key, value) for key, value in live.items()}
    right = {path: _read(path) == text for path, text in texts.items()}
    right[originals_path] = kept == originals
    for path, same in right.items():
        wrong = _folder_changes(path) | _access(path, 0o644) if same else "written"
        if wrong:
            changes[path] = wrong

    def act():
        # A setting is forgotten when it is as it was, so that a run that is killed can be finished.
        if originals_path in changes:
            _write_json(originals_path, originals | kept)
        for path, text in texts.items():
            if path in changes:
                _write(path, text)
        _set_kernel({key: change["new"] for key, change in changes.items() if key not in right})
        if unwanted:
            _write_json(originals_path, kept)

    return _result(name, changes, "Kernel settings set.", "Kernel settings would be set.", act)


def kernel_settings_restored(name, forwarding_file):
    """
    The files of ``kernel_settings`` are gone and the kernel has the values of before them. Settings
    of interfaces that are gone are passed over.

    name, forwarding_file
        As for ``kernel_settings``.
    """
    originals_path = f"{STATE_FOLDER}/kernel.json"
    originals = json.loads(_read(originals_path) or "{}")
    changes = {}
    for key, value in originals.items():
        live = (_read(f"{PROC_SYS}/{key}") or value).strip()
        if live != value:
            changes[key] = {"old": live, "new": value}
    files = (forwarding_file, name, originals_path)
    changes |= {path: "removed" for path in files if os.path.exists(path)}

    def act():
        _set_kernel({key: value for key, value in originals.items() if key in changes})
        _remove(*files)

    return _result(name, changes, "Restored.", "Kernel settings would be restored.", act)


# --------------------------------------------------------------------------------------------------
# Routes


def _routes():
    """The main table's routes, with whole destinations and the numbers of their protocols."""
    output = _run("ip", "-N", "-json", "-4", "route", "show", "table", "main")
    return [
        route | {"dst": route["dst"] if "/" in route["dst"] else f"{route['dst']}/32"}
        for route in json.loads(output or "[]")
    ]


def routes(name, routes):
    """
    The kernel has these routes, marked with our protocol number, and no others with that number.
    A route of somebody else's to the same destination is an error, and stays.

    routes
        List of mappings with ``destination`` and ``via``.
    """
    wanted = {route["destination"]: route["via"] for route in routes}
    try:
        found = _routes()
    except CommandExecutionError as error:
        return _failed(name, str(error))
    ours = {route["dst"]: route for route in found if route.get("protocol") == ROUTE_PROTOCOL}
    foreign = sorted(set(wanted) & {route["dst"] for route in found} - set(ours))
    if foreign:
        lines = [f"There is a route to {key} already that is not ours." for key in foreign]
        return _failed(name, "\n".join(lines))
    # One without a gateway is not from here, but has our number.
    live = {key: route.get("gateway") or f"dev {route.get('dev')}" for key, route in ours.items()}
    changes = {
        destination: {"old": live.get(destination), "new": wanted.get(destination)}
        for destination in sorted(live.keys() | wanted.keys())
        if live.get(destination) != wanted.get(destination)
    }

    def act():
        for destination, change in changes.items():
            if change["new"] is None:
                _run("ip", "route", "del", destination, "proto", ROUTE_PROTOCOL)
            else:
                verb = "replace" if change["old"] else "add"
                via = change["new"]
                _run("ip", "route", verb, destination, "via", via, "proto", ROUTE_PROTOCOL)

    return _result(name, changes, "Routes set.", "Routes would be set.", act)


def _networkd_file(interface):
    """The .network file by which systemd-networkd manages an interface; None if it does not."""
    index = (_read(f"{INTERFACES}/{interface}/ifindex") or "").strip()
    link = _read_foreign(f"{NETWORKD_LINKS}/{index}") if index else None
    found = re.search(r"(?m)^NETWORK_FILE=(.+)$", link or "")
    return found[1] if found and found[1] != "/dev/null" else None


def _networkd_keeps(file):
    """What a .network file and its drop-ins say of KeepConfiguration, but for ours."""
    folders = [f"{root}/systemd/network" for root in NETWORKD_FOLDERS]
    base = os.path.basename(file)
    dropped = {}
    for folder in reversed(folders):
        for path in glob.glob(f"{folder}/{glob.escape(base)}.d/*.conf"):
            dropped[os.path.basename(path)] = path
    dropped.pop("gateway.conf", None)
    keeps = "no"
    for path in (file, *(dropped[key] for key in sorted(dropped))):
        for value in re.findall(r"(?m)^\s*KeepConfiguration\s*=\s*(\S*)", _read(path) or ""):
            keeps = value.lower() or "no"
    return keeps


def networkd(name, interfaces):
    """
    systemd-networkd leaves addresses and routes of others alone: the file ``name`` says so for
    routes, and for each interface that it manages a drop-in below its .network file for addresses.
    It reads them when it starts, which is left to others: nothing is lost meanwhile.

    name
        The file, in /etc/systemd/networkd.conf.d.
    interfaces
        Names of interfaces; none: there are no such files.
    """
    wanted = {}
    for file in filter(None, map(_networkd_file, interfaces)):
        # Who keeps even what DHCP gave has a reason.
        more = _networkd_keeps(file) in ("yes", "true", "1", "on", "y", "t", "dhcp")
        path = f"{NETWORKD}/{os.path.basename(file)}.d/gateway.conf"
        wanted[path] = f"# {OURS}.\n[Network]\nKeepConfiguration={'yes' if more else 'static'}\n"
    if wanted:
        wanted[name] = (
            f"# {OURS}.\n[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n"
        )
    live = {path: _read(path) for path in glob.glob(f"{NETWORKD}/*.network.d/gateway.conf")}
    live[name] = _read(name)
    changes = _file_changes(wanted, live)

    def act():
        for path in changes:
            _change_file(path, wanted)

    return _result(name, changes, "Files written.", "Files would be written.", act)


def _file_changes(wanted, live):
    """What has to be done for small files, ``{path: text}``; those that are not wanted go."""
    changes = {path: "removed" for path, text in live.items() if text and path not in wanted}
    for path, text in wanted.items():
        wrong = "written" if _read(path) != text else _folder_changes(path) | _access(path, 0o644)
        if wrong:
            changes[path] = wrong
    return changes


def _change_file(path, wanted):
    if path in wanted:
        _write(path, wanted[path])
        return
    _remove(path)
    _remove_if_empty(os.path.dirname(path))


def _remove_if_empty(folder):
    if os.path.isdir(folder) and not os.listdir(folder):
        os.rmdir(folder)


# --------------------------------------------------------------------------------------------------
# What follows the virtual IP


def followers(name, units):
    """
    These units run while the target ``name`` is active, and only then: drop-ins bind them to it.
    Units that were bound before and are not listed any more stay as they are.

    units
        List of names of systemd units.
    """
    text = (
        f"# {OURS}: runs where the virtual IP is.\n"
        # Not BindsTo: a unit that the distribution starts at boot would start the target.
        f"[Unit]\nRequisite={name}\nPartOf={name}\nAfter={name}\n"
    )
    wanted = {f"{UNITS}/{unit}.d/{FOLLOWERS}": text for unit in units}
    # Written last: what is not in it has not been bound to the end, by a run that was killed.
    bond = f"{UNITS}/{name}.d/{FOLLOWERS}"
    if units:
        lines = "".join(f"Wants={unit}\n" for unit in units)
        wanted[bond] = f"# {OURS}.\n[Unit]\n{lines}"
    live = {path: _read(path) for path in [*glob.glob(f"{UNITS}/*.d/{FOLLOWERS}"), bond]}
    changes = _file_changes(wanted, live)
    bound = re.findall(r"(?m)^Wants=(.+)$", live[bond] or "")

    def act():
        for path in changes:
            if path != bond:
                _change_file(path, wanted)
        new = [
            unit
            for unit in units
            if unit not in bound or changes.get(f"{UNITS}/{unit}.d/{FOLLOWERS}") == "written"
        ]
        if new:
            _run("systemctl", "daemon-reload")
        for unit in new:
            if not _active(name) and _active(unit):
                _run("systemctl", "stop", unit)
            # Also where the virtual IP came meanwhile; elsewhere the drop-in refuses it.
            if _active(name):
                _run("systemctl", "start", "--no-block", unit)
        if bond in changes:
            _change_file(bond, wanted)
            _run("systemctl", "daemon-reload")

    return _result(name, changes, "Files written.", "Files would be written.", act)


def _active(unit):
    command = ["systemctl", "is-active", "--quiet", unit]
    return not __salt__["cmd.retcode"](command, python_shell=False, ignore_retcode=True)


# --------------------------------------------------------------------------------------------------
# Firewall


def _parse_rules(saved):
    """
    What iptables-save printed, as {(table, chain): lines}: our chains, and the jumps into them from
    others. Two are equal if they do the same, whatever else there is.
    """
    found = {}
    table = None
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(f":{CHAINS}"):
            chain = line[1:].split()[0]
            found[table, chain] = [f":{chain}"]
        elif line.startswith("-A "):
            chain = line.split(" ", 2)[1]
            if chain.startswith(CHAINS) or (CHAINS in line and _leads_to_us(line)):
                found.setdefault((table, chain), []).append(line)
    return found


def _leads_to_us(rule):
    """Whether its target is a chain of ours. A comment may say anything, quoted or not."""
    said = re.sub(r' --comment ("(\\.|[^"\\])*"|\S+)', "", rule)
    return re.search(rf" -[jg] {CHAINS}", re.sub(r'"(\\.|[^"\\])*"', "", said)) is not None


def _parse_sets(saved):
    """What ipset save printed, as {("", set): lines}: our sets, without what the kernel chose."""
    found = {}
    for line in saved.splitlines():
        verb, name, _ = f"{line}  ".split(" ", 2)
        if name.startswith(SETS):
            found.setdefault(("", name), []).append(
                re.sub(r" (hashsize|bucketsize|initval) \S+", "", line)
                if verb == "create"
                else line
            )
    return {
        key: sorted(lines, key=lambda line: (line[0] != "c", line)) for key, lines in found.items()
    }


def _parse_ruleset(texts):
    return {
        family: (_parse_sets if family == "sets" else _parse_rules)(texts.get(family) or "")
        for family in FAMILIES
    }


def _firewall_live(backend, with_sets):
    """What the kernel has of ours. ``backend`` is nft or legacy."""
    return _parse_ruleset(
        {
            "v4": _run(f"iptables-{backend}-save"),
            "v6": _run(f"ip6tables-{backend}-save"),
            "sets": _run("ipset", "save") if with_sets else "",
        }
    )


def _firewall_diff(live, wanted):
    """How to get from one to the other, as unified diffs of each table; "" if they are equal."""
    text = []
    for family, title in FAMILIES.items():
        places = live[family].keys() | wanted[family].keys()
        for table in sorted({table for table, _ in places}, key=f"{TABLES} ".find):
            old, new = (
                [
                    line
                    for place in sorted(places)
                    if place[0] == table
                    for line in side.get(place, [])
                ]
                for side in (live[family], wanted[family])
            )
            if old != new:  # difflib takes long to find that ten thousand lines are equal
                what = f"{title} {table}".strip()
                names = f"{what} (live)", f"{what} (wanted)"
                text += difflib.unified_diff(old, new, *names, n=2, lineterm="")
    if len(text) > MAX_DIFF:
        text[MAX_DIFF:] = [f"({len(text) - MAX_DIFF} more lines)"]
    return "\n".join(text)


def _firewall_script():
    """The command of our script; in test mode a run may be the one that would install it."""
    if os.path.exists(FIREWALL):
        return [FIREWALL]
    return ["sh", __salt__["cp.cache_file"]("salt://gateway/firewall/files/firewall", __env__)]


def _ruleset_digest(ruleset):
    """A hash of what counts: the comments say which entry of the pillar a rule comes from."""
    texts = {key: re.sub(r"(?m)^#.*\n", "", text) for key, text in ruleset.items()}
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()


def _record(digest, kernel):
    """What is noted of a ruleset: which it is, and a hash of all that a boot loads of it."""
    return f"{digest} {hashlib.sha256(json.dumps(kernel, sort_keys=True).encode()).hexdigest()}"


def _confirmed(folder):
    """The files that a boot loads, by their names in a ruleset."""
    return {
        path: _read(f"{folder}/{'' if path.startswith('closed/') else 'current/'}{path}")
        for path in IN_KERNEL
    }


def _checked_ruleset(script, ruleset):
    """
    What the kernel makes of a ruleset, in its own words, by file. Raises CommandExecutionError with
    the pillar's entry, the reason and the rule for what it does not take.
    """
    if not ruleset:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        for family, text in ruleset.items():
            _write(f"{folder}/{family}", text)
        command = [*script, "check", folder]
        done = __salt__["cmd.run_all"](command, python_shell=False, ignore_retcode=True)
        if done["retcode"]:
            raise CommandExecutionError(_refused(ruleset, done["stdout"]) or done["stderr"])
        return {path: _read(f"{folder}/{path}") for path in IN_KERNEL}


def _refused(ruleset, output):
    """The script's list of refused lines, in words for the person who wrote the pillar."""
    text = []
    for entry in output.splitlines():
        family, number, why = entry.split(" ", 2)
        lines = ruleset[family].splitlines()[: int(number)]
        keys = [line[2:] for line in lines if line.startswith("# ")]
        text.append(f"{keys[-1] if keys else FAMILIES[family]}: {why}")
        text += [f"    {lines[-1]}"] if lines else []
    return "\n".join(
        ["Nothing was changed: the kernel does not take these rules.", *text] if text else []
    )


def _stage(folder, files):
    """A new folder with these files, on disk for good before anything points to it."""
    os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
    folders = sorted({os.path.dirname(f"{folder}/{path}") for path in files}, reverse=True)
    for each in folders:
        os.makedirs(each, exist_ok=True)
    for path, text in files.items():
        with open(f"{folder}/{path}", "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    for path in (*folders, os.path.dirname(folder)):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def _masters():
    """Addresses and ports of the Salt master, or masters; none for a run without one."""
    uri = re.fullmatch(r"tcp://\[?(.+?)\]?:(\d+)", __opts__.get("master_uri") or "")
    if uri:
        return [(uri[1], int(uri[2]))]
    if __opts__.get("file_client") == "local":
        return []
    masters = __opts__.get("master") or []
    masters = [masters] if isinstance(masters, str) else masters
    return [(master, __opts__.get("master_port", 4506)) for master in masters]


def _connects(host, port):
    return __salt__["network.connect"](host, port, timeout=2)["result"]


def _answers(address):
    """Whether it answers a ping. Salt's own network.ping takes three seconds to find out."""
    try:
        _run("ping", "-n", "-q", "-c", "1", "-W", "1", address)
    except CommandExecutionError:
        return False
    return True


def _default_gateways():
    routes = json.loads(_run("ip", "-json", "route", "show", "default") or "[]")
    return [route["gateway"] for route in routes if "gateway" in route]


def _lifelines(peers):
    """What a node must not lose by its new rules, each with a question that opens a connection."""
    masters = _masters()
    found = {f"its peer {peer}": functools.partial(_answers, peer) for peer in peers}
    if masters:
        words = ", ".join(f"{host} port {port}" for host, port in masters)
        found[f"the Salt master ({words})"] = lambda: any(_connects(*master) for master in masters)
    else:
        for address in _default_gateways():
            found[f"the default gateway {address}"] = functools.partial(_answers, address)
    return found


def _lost(lifelines, deadline):
    """Those that do not answer until time is up."""
    while True:
        lifelines = {words: asks for words, asks in lifelines.items() if not asks()}
        if not lifelines or time.monotonic() > deadline:
            return sorted(lifelines)
        time.sleep(0.2)


def _try_ruleset(trial, peers, timeout):
    """
    Load a staged ruleset and keep it if the node still reaches what it reached before. A timer of
    systemd's takes it back if this process does not live to decide.

    Raises CommandExecutionError when it was taken back.
    """
    reached = {words: asks for words, asks in _lifelines(peers).items() if asks() or asks()}
    seconds = timeout * 2 / 3
    deadline = time.monotonic() + seconds
    _run(FIREWALL, "try", trial, str(timeout))
    lost = _lost(reached, deadline)
    if not lost:
        _run(FIREWALL, "confirm", trial)
        return
    _run(FIREWALL, "rollback", trial)
    raise CommandExecutionError(
        f"With the new rules this node could not reach {' and '.join(lost)} any more, for"
        f" {seconds:.0f} seconds. The rules are again what they were before."
    )


def firewall(name, ruleset, peers=(), confirm_timeout=30):
    """
    The kernel has these rules in our chains, jumps to them, and these sets; the same after a boot.
    Rules of others are left alone. What somebody changed by hand is put right. New rules that cut
    the node off from its Salt master, a peer or (where there is no master) its default gateway are
    taken back.

    ruleset
        What ``gateway.ruleset`` returns; empty: nothing of ours is left.
    peers
        Addresses of the other nodes.
    confirm_timeout
        Seconds until the old rules are back if the new ones cut the node off.
    """
    folder = f"{STATE_FOLDER}/firewall"
    if not ruleset and not os.path.exists(FIREWALL):
        return _result(name, {}, "", "", None)
    tools = ["iptables", "ipset"] if ruleset.get("sets") else ["iptables"]
    if __opts__["test"] and ruleset and not all(map(shutil.which, tools)):
        # They would come in the same run: what the kernel makes of the rules is not to be had yet.
        diff = _firewall_diff(_parse_ruleset({}), _parse_ruleset(ruleset))
        return _result(name, {"diff": diff}, "", "Rules would be loaded.", None)
    digest = _ruleset_digest(ruleset)
    changes = {}
    try:
        script = _firewall_script()
        confirmed = _confirmed(folder)
        # Files that are damaged, or not all there, are written anew.
        recorded = _read(f"{folder}/current/digest") == _record(digest, confirmed)
        kernel = confirmed if recorded else _checked_ruleset(script, ruleset)
        if os.path.lexists(f"{folder}/pending"):
            # Of a run that was killed.
            changes["trial"] = "taken back"
            if not __opts__["test"]:
                _run(FIREWALL, "rollback")
        backend = (_read(f"{folder}/backend") or _run(*script, "backend")).strip()
        live = _firewall_live(backend, kernel.get("kernel/sets") or confirmed["kernel/sets"])
        gated = _gated()
    except CommandExecutionError as error:
        return _failed(name, str(error))
    if changes and __opts__["test"]:
        live = _parse_ruleset(_families(confirmed))
    diff = _firewall_diff(live, _parse_ruleset(_families(kernel)))
    if diff:
        changes["diff"] = diff
    elif ruleset and not recorded:
        changes["record"] = "written"
    if gated != bool(ruleset):
        changes["gate"] = "set" if ruleset else "removed"
    access = _access(folder, 0o700) if ruleset else {}
    if access:
        changes["folder"] = access

    def act():
        if access:
            _set_access(folder, 0o700)
        if not ruleset:
            _run(FIREWALL, "unload")
        elif recorded:
            # Nothing is new: what it does to the node has been tried.
            _run(FIREWALL, "load")
        else:
            trial = f"{digest[:12]}-{time.time_ns()}"
            _stage(f"{folder}/.{trial}", ruleset | kernel | {"digest": _record(digest, kernel)})
            _try_ruleset(trial, peers, confirm_timeout)

    done, planned = ("Rules loaded.", "Rules would be loaded.")
    if not ruleset:
        done, planned = ("Rules removed.", "Rules would be removed.")
        if (_read(f"{PROC_SYS}/net/ipv4/ip_forward") or "").strip() == "1":
            done += " This node forwards packets without them: net.ipv4.ip_forward is 1."
    return _result(name, changes, done, planned, act)


def _families(files):
    return {family: files.get(f"kernel/{family}") for family in FAMILIES}


def _gated():
    """Whether the node has the gate; a node without our loader has none."""
    if not os.path.exists(FIREWALL):
        return False
    command = [FIREWALL, "gate"]
    return not __salt__["cmd.run_all"](command, python_shell=False, ignore_retcode=True)["retcode"]


# --------------------------------------------------------------------------------------------------
# Files and services


def _render(path, source, context):
    """Render a template to a file. Returns its path."""
    return __salt__["cp.get_template"](
        source, path, template="jinja", saltenv=__env__, **(context or {})
    )


def file(name, mode="0644", **options):
    """
    A file of ours, as ``file.managed`` has it: root's, with this mode, in folders that a daemon
    which is not root's can go through; whatever the umask of the run is, and whoever has changed
    that. An owner-only file is a secret: of what it was before, no copy is kept (``backup_mode``).

    What is right already is found out without ``file.managed``. A template that asks Salt for
    nothing but the plan and the pillar's keys has only these and its ``context`` to go by: if all
    and the template are what they were when this file was rendered, and it is what came of it, it
    is not rendered again.

    options
        Further ones of ``file.managed``.
    """
    folders = _folder_changes(name)
    source = options.get("source") and __salt__["cp.cache_file"](options["source"], saltenv=__env__)
    origin, same = None, False
    if source and "template" in options:
        origin = _origin(source, options.get("context"))
        same = origin and _rendered_from().get(name) == [origin, _digest(name)]
    elif source:
        same = _digest(source) == _digest(name)
    if same and not folders and not _access(name, int(mode, 8)):
        return _result(name, {}, "", "", None)
    if not __opts__["test"]:
        try:
            _make_folders(name)
        except OSError as error:
            return _failed(name, str(error))
    if not int(mode, 8) & 0o077:
        # Any word that Salt does not know. Without one, or with False, it is the minion's setting.
        options["backup"] = "none"
    ret = __states__["file.managed"](
        name, user="root", group="root", mode=mode, makedirs=True, **options
    )
    if origin and ret["result"] and not __opts__["test"]:
        _write_json(RENDERED, _rendered_from() | {name: [origin, _digest(name)]})
    if folders and ret["result"] is not False:
        ret["changes"] = {**ret["changes"], "folders": folders}
        done = "Folders would be changed." if __opts__["test"] else "Folders changed."
        ret |= {"result": None if __opts__["test"] else True, "comment": f"{done} {ret['comment']}"}
    return ret


def _origin(template, context):
    """A digest of all that a template makes a file of; None where that is not known."""
    text = _read(template) or ""
    if re.search(r"\bsalt\s*[.[]", KNOWN_CALLS.sub("", text)):
        return None
    plan = __salt__["gateway.plan"]()
    if "gateway_plan" not in __context__:
        __context__["gateway_plan"] = hashlib.sha256(json.dumps(plan).encode()).hexdigest()
    made_of = [text, context, __context__["gateway_plan"]]
    if "gateway.pem" in text:
        material = plan["vpn"]["pki"].items()
        made_of += [__salt__["gateway.pem"](key) for key, found in material if "pillar" in found]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def _rendered_from():
    """For each file that was rendered since the node started: its origin, and its own digest."""
    try:
        return json.loads(_read(RENDERED) or "{}")
    except ValueError:
        return {}


def folder(name):
    """A folder of ours, in which a user's files may be: root's, and open to all daemons."""
    inside = f"{name}/file"
    changes = _folder_changes(inside)
    done, planned = "Folder made.", "The folder would be made."
    return _result(name, changes, done, planned, lambda: _make_folders(inside))


def _isolated(name, check, see_network):
    """The command with which a daemon looks at a new file ``name`` where nothing comes of it."""
    return f"{ISOLATED} {'--see-network ' if see_network else ''}{name} {check}"


def checked_file(
    name, source, check, context=None, mode="0644", show_changes=True, see_network=False
):
    """
    A configuration file from a Jinja template, which its daemon has seen before it replaces the old
    one. This is ``gateway.file`` with a ``check_cmd``; but in test mode the daemon is asked too.

    check
        Command that gets the name of the new file as its last argument and fails if it is wrong. It
        runs where it can change nothing.
    see_network
        Whether it has to see the node's interfaces.
    """
    command = _isolated(name, check, see_network)
    # A diff would show a key that is in the old file.
    show_changes = show_changes and "-----BEGIN" not in (_read(name) or "")
    ret = file(
        name,
        mode,
        source=source,
        template="jinja",
        context=context,
        show_changes=show_changes,
        check_cmd=command,
    )
    # A checker that is not there yet comes with the package.
    there = all(shutil.which(program) for program in (ISOLATED, check.split()[0]))
    if ret["result"] is not None or not there:
        return ret
    with tempfile.TemporaryDirectory() as folder:
        new = _render(f"{folder}/new", source, context)
        done = __salt__["cmd.run_all"](f"{command} {new}", ignore_retcode=True)
    if not done["retcode"]:
        return ret
    output = "\n".join(filter(None, (done["stdout"], done["stderr"])))
    return _failed(name, f"check_cmd execution failed\n{output}")


def _units(*names):
    """
    What systemd knows of these units, in this order.

    Asking takes longer than all else in a state that has nothing to do. So all that the run will
    want to know is asked at once, and the answer counts until something has changed or failed.
    """
    if any(ret["changes"] or ret["result"] is False for ret in __running__.values()):
        return _show(names)
    known = __context__.setdefault("gateway_units", {})
    if not set(names) <= known.keys():
        ours = {
            name
            for chunk in __lowstate__
            if chunk["state"] == "gateway" and chunk["fun"] in ("service", "service_off")
            for name in (
                chunk["name"],
                *chunk.get("units", ()),
                *filter(None, [chunk.get("target")]),
            )
        }
        wanted = sorted(ours.union(names))
        known.update(zip(wanted, _show(wanted), strict=True))
    return [known[name] for name in names]


def _show(names):
    output = _run("systemctl", "show", f"--property={UNIT_PROPERTIES}", *names)
    return [
        dict(line.split("=", 1) for line in lines.splitlines()) for lines in output.split("\n\n")
    ]


def _is_active(unit):
    return unit["ActiveState"] in ("active", "reloading")


def _written_by_this_run():
    """The files whose text this run has changed, or would."""
    access = {"user", "group", "mode", "folders"}
    return {ret["name"] for ret in __running__.values() if ret["changes"].keys() - access}


def _digest(path):
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()
    return None


def _not_in_force(note, unit, files, unknown):
    """
    Those of the files that a running unit has not read as they are now.

    What a run has seen to is in a note, which counts until the unit is started or reloaded by
    somebody else. Then it has read what is older than that: after a boot, a crash, an update. (A
    clock that was set meanwhile makes one restart too many.)
    """
    since = unit["StateChangeTimestampMonotonic"]
    known = note["files"] if note.get("since") == since else {}
    loaded = time.time() - time.monotonic() + int(since) / 1_000_000
    unread = unit["NeedDaemonReload"] == "yes"
    written = _written_by_this_run()

    def differs(path):
        if path in known:
            return known[path] != files[path]
        if (unread and path.startswith(f"{UNITS}/")) or path in unknown:
            return True
        return os.path.exists(path) and os.stat(path).st_mtime > loaded

    return [path for path in files if path in written or differs(path)]


def service(name, reads=(), rereads=(), units=(), enable=True, start=True, target=None):
    """
    A unit of systemd's is enabled, runs, and has in force what its files say. That is judged by
    what it has read, not by what this run has changed: a run that was killed or has failed after it
    had written a file is finished by the next one.

    reads
        Files that the unit reads when it starts, its own and systemd's: it is restarted for them.
    rereads
        Files that it reads when it is reloaded.
    units
        Further units, with files of ours, of which systemd has to know all.
    enable
        Whether it starts at boot; None: as it is.
    start
        Whether it is started if it does not run.
    target
        A unit that starts and stops it. Where that is not active, it is not started.
    """
    note_path = f"{READ}/{name}.json"
    try:
        unit, *others = _units(name, *units, *filter(None, [target]))
        note = json.loads(_read(note_path) or "{}")
    except (CommandExecutionError, OSError, ValueError) as error:
        return _failed(name, str(error))
    files = {path: _digest(path) for path in (*reads, *rereads)}
    unit_files = {f"{UNITS}/{other}" for other in units} | {
        path for path in files if path.startswith(f"{UNITS}/")
    }
    start = start and (not target or _is_active(others[-1]))
    # Of a folder of drop-ins that is new, systemd does not say that it has to be read.
    drop_ins = {path for path in files if f"/{name}.service.d/" in path and os.path.exists(path)}
    unknown = drop_ins - set(unit["DropInPaths"].split())
    changes, verb, stale = {}, None, []
    if enable and unit["UnitFileState"] != "enabled":
        changes["enabled"] = True
    if _is_active(unit):
        stale = _not_in_force(note, unit, files, unknown)
        verb = "try-restart" if set(stale) & set(reads) else "reload" if stale else None
        if stale:
            changes["restarted" if verb == "try-restart" else "reloaded"] = stale
    elif start:
        changes["started"], verb = True, "start"
    unread = unit_files & (_written_by_this_run() | set(stale)) | unknown
    if unread or any(other["NeedDaemonReload"] == "yes" for other in (unit, *others)):
        changes["systemd"] = "reads its units again"

    def act():
        if "systemd" in changes or "enabled" in changes or verb == "start":
            _run("systemctl", "daemon-reload")
        if "enabled" in changes:
            _run("systemctl", "enable", name)
        if verb:
            _run("systemctl", verb, name)
        now, *rest = _show((name, *filter(None, [target])))
        if verb == "start" and target and not _is_active(rest[-1]):
            _run("systemctl", "stop", name)  # the target went meanwhile
        elif verb and not _is_active(now) and start:
            raise CommandExecutionError(f"{name} does not run; journalctl -u {name} says why")
        write_note(now)

    def write_note(unit):
        new = {"since": unit["StateChangeTimestampMonotonic"], "files": files}
        if enable and files and _is_active(unit) and new != note:
            _write_json(note_path, new)

    if not changes and not __opts__["test"]:
        write_note(unit)
    return _result(name, changes, "In force.", "The unit would be changed.", act)


def election_added(name, source, check, service, addresses, patience):
    """
    keepalived holds an election on a further side, apart from the one that it holds already. In one
    group with a new election the old one would begin anew: nobody would have the virtual IP, and it
    could move. When both have found the same holder, they can be made a group for nothing.

    source
        The template of keepalived's configuration, which has no group where ``alone`` is true.
    check
        Command that gets the name of the new file as its last argument and fails if it is wrong.
    service
        keepalived's unit.
    addresses
        The virtual IPs, one of each side.
    patience
        Seconds in which they have come together if the new side works.
    """
    current = _read(name) or ""
    # Before the formula, or with the group already, there is nothing to be kept.
    if OURS not in current or "vrrp_sync_group" in current:
        return _result(name, {}, "", "", None)

    def here():
        links = json.loads(_run("ip", "-json", "-4", "address", "show"))
        found = {item.get("local") for link in links for item in link.get("addr_info", [])}
        return found & set(addresses)

    try:
        (unit,) = _units(service)
        # Only who holds something can lose it.
        changes = {"elections": "held apart at first"} if _is_active(unit) and here() else {}
    except CommandExecutionError as error:
        return _failed(name, str(error))

    def act():
        with tempfile.TemporaryDirectory() as folder:
            new = _render(f"{folder}/new", source, {"alone": True})
            _run(*_isolated(name, check, see_network=True).split(), new)
            _write(name, _read(new))
        try:
            _run("systemctl", "reload", service)
            end = time.monotonic() + patience
            while time.monotonic() < end and len(here()) not in (0, len(addresses)):
                time.sleep(0.1)
        finally:
            _write(name, current)  # what comes for good is for the next state to write

    done = "The elections have the same holder."
    return _result(name, changes, done, "The elections would be held apart at first.", act)


def service_off(name, ours=None):
    """
    A unit of systemd's does not run and does not start at boot; there may be none.

    ours
        The file without which the unit is somebody else's and stays as it is.
    """
    try:
        (unit,) = _units(name)
    except CommandExecutionError as error:
        return _failed(name, str(error))
    changes = {}
    if ours is None or os.path.exists(ours):
        if unit["ActiveState"] not in ("inactive", "failed"):
            changes["stopped"] = True
        if unit["UnitFileState"] == "enabled":
            changes["disabled"] = True

    def act():
        if "stopped" in changes:
            _run("systemctl", "stop", name)
        if "disabled" in changes:
            _run("systemctl", "disable", name)

    return _result(name, changes, "It is off.", "The unit would be stopped or disabled.", act)


def original_kept(name, shipped=False):
    """
    The file ``name``, as it was before the formula, is kept beside itself.

    shipped
        Whether the package brings the file, which test mode cannot see before it is installed.
    """
    kept = name + KEPT_SUFFIX
    current = _read(name)
    if current is None:
        wanted = shipped and __opts__["test"]
    else:
        wanted = OURS not in current and not os.path.exists(kept)
    changes = {kept: "written"} if wanted else {}

    def act():
        shutil.copy2(name, f"{kept}.new")
        found = os.stat(name)
        os.chown(f"{kept}.new", found.st_uid, found.st_gid)
        os.replace(f"{kept}.new", kept)

    return _result(name, changes, "Copied.", "The file would be copied.", act)


def original_restored(name, or_none=False):
    """
    The file ``name`` is again what ``original_kept`` kept.

    or_none
        Whether it goes, if it is ours, where there was none before.
    """
    kept = name + KEPT_SUFFIX
    changes = {}
    if os.path.exists(kept):
        changes[name] = "restored"
    elif or_none and OURS in (_read(name) or ""):
        changes[name] = "removed"

    def act():
        if changes[name] == "restored":
            os.replace(kept, name)
        else:
            _remove(name)

    return _result(name, changes, "As it was.", "The file would be as it was.", act)


def folder_gone(name, keep=()):
    """
    The folder ``name`` is gone, with all that is in it.

    keep
        Names of folders in it that stay, unless they are empty: what is in them is the user's.
    """
    entries = sorted(os.listdir(name)) if os.path.isdir(name) else []
    kept = [entry for entry in keep if os.path.isdir(f"{name}/{entry}")]
    kept = [entry for entry in kept if os.listdir(f"{name}/{entry}")]
    gone = [f"{name}/{entry}" for entry in entries if entry not in kept]
    changes = dict.fromkeys(gone, "removed")
    if not kept and os.path.isdir(name):
        changes = {name: "removed"}

    return _result(
        name, changes, "Removed.", "They would be removed.", lambda: _remove_all(changes)
    )


def _remove_all(paths):
    for path in paths:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.remove(path)


def folder_only_ours(name, older=()):
    """
    The folder ``name``, which is ours as a whole, has what states of this run have put there, and
    nothing that an older version of the formula did. It comes after them: what runs names none of
    it then.

    older
        Files that older versions had elsewhere.
    """
    put = {ret["name"] for ret in __running__.values()}
    entries = sorted(os.listdir(name)) if os.path.isdir(name) else []
    paths = [f"{name}/{entry}" for entry in entries if f"{name}/{entry}" not in put]
    paths += [path for path in older if os.path.lexists(path)]
    changes = dict.fromkeys(paths, "removed")
    return _result(name, changes, "Removed.", "They would be removed.", lambda: _remove_all(paths))


def openvpn_servers_only(name, service, instances):
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
    found = sorted(
        file.removesuffix(".conf")
        for file in (os.listdir(name) if os.path.isdir(name) else [])
        if file.startswith("gateway-") and file.endswith(".conf")
    )
    stale = [instance for instance in found if instance not in instances]
    # By backup_mode, before there was a word against it; and by a run that was killed.
    copies = glob.glob(f"{__opts__.get('cachedir', '')}/file_backup{name}/gateway-*.conf_*")
    copies += [
        path
        for path in glob.glob(f"{name}/gateway-*.conf*")
        if re.search(r"\.conf[a-z0-9_]{8}$", path)  # as Salt calls it before it renames it
    ]

    def act():
        _remove(*copies)
        for instance in stale:
            unit = service + instance
            __salt__["service.stop"](unit)
            __salt__["service.disable"](unit)
            drop_in = f"{UNITS}/{unit}.service.d"
            _remove(f"{drop_in}/gateway.conf", f"{OPENVPN_STATUS}/status-{instance}.log")
            _remove_if_empty(drop_in)
            server = instance.removeprefix("gateway-")
            shutil.rmtree(f"{OPENVPN_CLIENTS}/{server}", ignore_errors=True)
            # Last: a run that is killed before that is finished by the next one.
            _remove(f"{name}/{instance}.conf")

    changes = dict.fromkeys([*copies, *stale], "removed")
    return _result(name, changes, "Removed.", "They would be removed.", act)


def drop_in_gone(name):
    """The drop-in ``name`` is gone, and its folder where nothing else is in it."""
    folder = os.path.dirname(name)
    others = os.path.isdir(folder) and set(os.listdir(folder)) - {os.path.basename(name)}
    changes = {name: "removed"} if os.path.lexists(name) else {}
    if os.path.isdir(folder) and not others:
        changes[folder] = "removed"

    def act():
        _remove(name)
        _remove_if_empty(folder)

    return _result(name, changes, "Removed.", "It would be removed.", act)


# --------------------------------------------------------------------------------------------------
# VPN clients


def _rendered(source, context):
    """
    The text of a template, which may be secret: nothing of it stays on the disk. In one run it is
    rendered once, whoever asks for it.
    """
    known = __context__.setdefault("gateway_rendered", {})
    key = json.dumps([source, context])
    if key not in known:
        with tempfile.TemporaryDirectory() as folder:
            path = _render(f"{folder}/text", source, context)
            if not path:
                raise CommandExecutionError(f"{source} cannot be rendered")
            known[key] = _read(path)
    return known[key]


def _client_files(source, context):
    """The files of a server's clients: what follows each line ``## NAME`` of the template."""
    _, *parts = re.split(r"^## (.+)\n", _rendered(source, context), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def openvpn_clients(name, source, context=None):
    """
    The folder ``name`` has one file for each client of an OpenVPN server, and nothing else. OpenVPN
    reads a client's file when that client connects, so nothing has to be restarted.

    source
        Template of all the files: each begins with a line ``## NAME``.
    """
    try:
        wanted = _client_files(source, context)
        found = sorted(os.listdir(name)) if os.path.isdir(name) else []
    except (CommandExecutionError, OSError) as error:
        return _failed(name, str(error))
    changes = {client: "removed" for client in found if client not in wanted}
    # OpenVPN has dropped its privileges when it reads them.
    for client, text in wanted.items():
        if _read(f"{name}/{client}") != text:
            changes[client] = "changed" if client in found else "added"
        elif wrong := _access(f"{name}/{client}", 0o644):
            changes[client] = wrong
    changes |= _folder_changes(f"{name}/client")

    def act():
        _make_folders(f"{name}/client")
        for client in changes:
            if client in wanted:
                # Not beside it: any name there may be a client's.
                _write(f"{name}/{client}", wanted[client], f"{name}.new")
            elif client in found:
                _remove(f"{name}/{client}")

    return _result(name, changes, "Clients set.", "Clients would be set.", act)


def _need_cryptography():
    lists = getattr(x509, "CertificateRevocationList", None)
    if not hasattr(lists, "next_update_utc"):
        raise CommandExecutionError("a revocation list takes Python's cryptography, 42 or newer")


def _material(name, source=None, path=None):
    """The text of a certificate or list: of the file ``path`` on this node, or of the pillar."""
    if not path:
        return _rendered(source, {"material": name})
    text = _read(path)
    if text is None:
        raise CommandExecutionError(f"{path} is not there")
    return text


def _crls(text):
    """
    The revocation lists in a PEM text, one for each CA: OpenVPN reads them all. Raises
    CommandExecutionError where there is none, or where one is broken.
    """
    _need_cryptography()
    begin, end = "-----BEGIN X509 CRL-----", "-----END X509 CRL-----"
    blocks = re.findall(f"{begin}.*?{end}", text, re.DOTALL)
    try:
        if not blocks or text.count(begin) != len(blocks):
            raise ValueError("its PEM text has no beginning or no end")
        return [x509.load_pem_x509_crl(block.encode()) for block in blocks]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CommandExecutionError(f"this is no revocation list: {error}") from error


def _crl_errors(crl, authorities):
    """With such a list OpenVPN would refuse every client."""
    issuer = [ca for ca in authorities if ca.subject == crl.issuer]
    if not any(crl.is_signature_valid(ca.public_key()) for ca in issuer):
        yield "the revocation list is not of the CA in gateway:vpn:pki:ca"
    now = datetime.now(timezone.utc)
    begin, end = crl.last_update_utc, crl.next_update_utc
    if end and end < now:
        yield f"the revocation list is out of date since {end:%Y-%m-%d %H:%M} UTC"
    if begin > now:
        yield (
            f"the revocation list is not valid before {begin:%Y-%m-%d %H:%M} UTC, and this node's"
            f" clock says {now:%Y-%m-%d %H:%M}: one of the two is wrong, that clock or the clock of"
            " the machine that made the list"
        )


def openvpn_crl(name, source, path=None, ca=None):
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
        _need_cryptography()
        authorities = x509.load_pem_x509_certificates(authority.encode())
        errors = [error for crl in _crls(text) for error in _crl_errors(crl, authorities)]
    except (CommandExecutionError, OSError, ValueError) as error:
        errors = [str(error)]
    if errors:
        return _failed(name, "\n".join(errors))
    wrong = _file_changes({name: text}, {})
    changes = {"revocation list": wrong[name]} if wrong else {}

    def act():
        _write(name, text)

    return _result(name, changes, "List written.", "The list would be written.", act)


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
        found = [
            dict(zip(header, row[1:], strict=False)) for row in rows if row[0] == "CLIENT_LIST"
        ]
        return [
            {
                "client": row["Common Name"],
                "address": row["Virtual Address"],
                "real": row["Real Address"],
                "id": row["Client ID"],
            }
            for row in found
            if row.get("Virtual Address") and "Client ID" in row  # others are not let in yet
        ]

    def end(self, sessions):
        """End sessions: the clients are told to connect again, whoever stays is cut off."""
        for session in sessions:
            self.ask(f"client-kill {session['id']}", ("SUCCESS", "ERROR"))
        # Whoever does not obey would stay for another five seconds.
        time.sleep(OPENVPN_GRACE)
        ids = {session["id"] for session in sessions}
        for session in self.sessions():
            if session["id"] in ids:
                self.ask(f"kill {session['real']}", ("SUCCESS", "ERROR"))


def _serial(folder, session):
    """A session's certificate serial as ``vpn-session`` noted it; None if that is not known."""
    text = _read_foreign(f"{folder}/{os.path.basename(session['address'])}")
    found = re.fullmatch(r"([0-9]{1,60}) (.+)", (text or "").strip())
    return int(found[1]) if found and found[2] == session["client"] else None


def _refusal(session, serial, files, revoked, dynamic):
    """Why a session could not be opened now; None where it could."""
    client = session["client"].replace("/", "_")  # as OpenVPN calls its file
    lines = files.get(client, "").splitlines()
    if "disable" in lines:
        return "disabled"
    if not dynamic and client not in files:
        return "not in gateway:vpn:clients"
    if serial in revoked:
        return "revoked"
    owners = [
        other
        for other, text in files.items()
        if other != client and f"\nifconfig-push {session['address']} " in f"\n{text}"
    ]
    return f"its address is {owners[0]}'s now" if owners else None


def openvpn_sessions(name, source, context, notes, dynamic=True, crl=None):
    """
    Nobody is connected to an OpenVPN server who could not connect now. It ends a session whose
    client is disabled, revoked, or has an address that is another's now; no other one notices.

    name
        OpenVPN's management socket.
    source, context
        As for ``openvpn_clients``.
    notes
        Folder with the serials of the clients' certificates.
    dynamic
        Whether clients without a file are let in.
    crl
        ``{source: template}`` or ``{path: file}`` of the revocation list.
    """
    if not os.path.exists(name):
        return _result(name, {}, "", "", None)
    try:
        files = _client_files(source, context)
        lists = _crls(_material("crl", **crl)) if crl else []
        revoked = {entry.serial_number for each in lists for entry in each}
        with _Management(name) as management:
            sessions = management.sessions()
    except (CommandExecutionError, OSError) as error:
        return _failed(name, str(error))
    changes, refused = {}, []
    for session in sessions:
        why = _refusal(session, _serial(notes, session), files, revoked, dynamic)
        if why:
            refused.append(session)
            changes[f"{session['client']} {session['address']}"] = why

    def act():
        with _Management(name) as management:
            management.end(refused)

    return _result(name, changes, "Sessions ended.", "Sessions would be ended.", act)
