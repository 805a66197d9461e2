"""States for what ``file.managed`` and ``service.running`` cannot say.

They get what they need as arguments and call only Salt's own modules (on Salt 3008 a state does not
see the formula's execution modules in the run that brings them).
"""

import hashlib
import json
import os
import shutil
import tempfile

from salt.exceptions import CommandExecutionError

STATE_FOLDER = "/var/lib/gateway"
FIREWALL = "/usr/lib/gateway/firewall"
KEPT_SUFFIX = ".before-gateway"
OURS = "Managed by Salt (gateway)"
PROC_SYS = "/proc/sys"
UNITS = "/etc/systemd/system"
OPENVPN_STATUS = "/run/openvpn-server"  # its unit writes there, and leaves the file behind

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


def _write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(temporary, path)


def _remove(*paths):
    for path in paths:
        if os.path.lexists(path):
            os.remove(path)


# --------------------------------------------------------------------------------------------------
# Kernel settings


def _kernel_value(key):
    text = _read(f"{PROC_SYS}/{key}")
    if text is None:
        raise CommandExecutionError(f"the kernel has no setting {key}")
    return text.strip()


def kernel_settings(name, settings):
    """
    Kernel settings in the file ``name``, for the next boot, and in the kernel, now. What they were
    before is kept, so that ``kernel_settings_restored`` can bring it back.

    name
        The file, in /etc/sysctl.d.
    settings
        Mapping of a path below /proc/sys to its value, as text.
    """
    originals_path = f"{STATE_FOLDER}/kernel.json"
    text = f"# {OURS}.\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())
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
    if _read(name) != text:
        changes[name] = "written"

    def act():
        missing = {key: value for key, value in live.items() if key not in originals}
        if missing:
            _write(originals_path, json.dumps(originals | missing, indent=1, sort_keys=True))
        _write(name, text)
        for key, value in settings.items():
            if live[key] != value:
                with open(f"{PROC_SYS}/{key}", "w", encoding="utf-8") as file:
                    file.write(value)

    return _result(name, changes, "Kernel settings set.", "Kernel settings would be set.", act)


def kernel_settings_restored(name):
    """
    The file ``name`` of ``kernel_settings`` is gone and the kernel has the values of before it.
    Settings of interfaces that are gone are passed over.
    """
    originals_path = f"{STATE_FOLDER}/kernel.json"
    originals = json.loads(_read(originals_path) or "{}")
    changes = {}
    for key, value in originals.items():
        live = (_read(f"{PROC_SYS}/{key}") or value).strip()
        if live != value:
            changes[key] = {"old": live, "new": value}
    for path in (name, originals_path):
        if os.path.exists(path):
            changes[path] = "removed"

    def act():
        for key in originals:
            if key in changes:
                with open(f"{PROC_SYS}/{key}", "w", encoding="utf-8") as file:
                    file.write(originals[key])
        _remove(name, originals_path)

    return _result(name, changes, "Restored.", "Kernel settings would be restored.", act)


# --------------------------------------------------------------------------------------------------
# Routes


def _routes(protocol=None):
    """The main table's routes as {destination: route}, of one protocol or of all."""
    selection = ["proto", protocol] if protocol else []
    output = _run("ip", "-json", "-4", "route", "show", "table", "main", *selection)
    return {
        route["dst"] if "/" in route["dst"] else f"{route['dst']}/32": route
        for route in json.loads(output or "[]")
    }


def routes(name, routes):
    """
    The kernel has these routes, marked with our protocol number, and no others with that number.
    A route of somebody else's to the same destination is an error, and stays.

    routes
        List of mappings with ``destination`` and ``via``.
    """
    wanted = {route["destination"]: route["via"] for route in routes}
    try:
        everyones = _routes()
        ours = _routes(ROUTE_PROTOCOL)
    except CommandExecutionError as error:
        return _failed(name, str(error))
    foreign = sorted(set(wanted) & set(everyones) - set(ours))
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


# --------------------------------------------------------------------------------------------------
# Firewall


def _firewall_live():
    """Our chains and jumps as iptables-save prints them; None before the first time."""
    return _run(FIREWALL, "show") if os.path.exists(FIREWALL) else None


def _firewall_record(path):
    """What is written down after a load: which file it was, and what iptables made of it."""
    digest = hashlib.sha256((_read(path) or "").encode()).hexdigest()
    return f"{digest}\n{_firewall_live()}\n"


def firewall_loaded(name):
    """
    The rules file ``name`` is what the kernel has in our chains. iptables prints rules in its own
    words, so the live chains are compared with what it printed right after the last load.
    """
    record_path = f"{STATE_FOLDER}/firewall.live"
    try:
        current = _read(record_path) == _firewall_record(name)
    except CommandExecutionError as error:
        return _failed(name, str(error))

    def act():
        _run(FIREWALL, "load", name)
        _write(record_path, _firewall_record(name))

    changes = {} if current else {"rules": "loaded"}
    return _result(name, changes, "Rules loaded.", "Rules would be loaded.", act)


def mod_watch(name, sfun=None, **kwargs):
    """The rules file changed after ``firewall_loaded`` found nothing to do: test mode, mostly."""
    if sfun != "firewall_loaded":
        return _failed(name, f"gateway.{sfun} watches nothing")
    if __opts__["test"]:
        changes = {"rules": "loaded"}
        return _result(name, changes, "", "Rules would be loaded.", None)
    return firewall_loaded(name)


def firewall_unloaded(name):
    """Our chains and the jumps into them are gone."""
    try:
        live = _firewall_live()
    except CommandExecutionError as error:
        return _failed(name, str(error))
    changes = {"rules": "removed"} if live else {}
    return _result(
        name, changes, "Rules removed.", "Rules would be removed.", lambda: _run(FIREWALL, "unload")
    )


# --------------------------------------------------------------------------------------------------
# Files and services


def checked_file(name, source, check, context=None, mode="0644", show_changes=True):
    """
    A configuration file from a Jinja template, which its daemon has seen before it replaces the old
    one. This is ``file.managed`` with a ``check_cmd``; but in test mode the daemon is asked too.

    check
        Command that gets the name of the new file as its last argument and fails if it is wrong.
    """
    # A diff would show a key that is in the old file.
    show_changes = show_changes and "-----BEGIN" not in (_read(name) or "")
    ret = __states__["file.managed"](
        name,
        source=source,
        template="jinja",
        context=context,
        mode=mode,
        makedirs=True,
        show_changes=show_changes,
        check_cmd=check,
    )
    # A checker that is not there yet comes with the package.
    if ret["result"] is not None or not shutil.which(check.split()[0]):
        return ret
    with tempfile.TemporaryDirectory() as folder:
        new = __salt__["cp.get_template"](
            source, f"{folder}/new", template="jinja", saltenv=__env__, **(context or {})
        )
        done = __salt__["cmd.run_all"](f"{check} {new}", ignore_retcode=True)
    if not done["retcode"]:
        return ret
    output = "\n".join(filter(None, (done["stdout"], done["stderr"])))
    return _failed(name, f"check_cmd execution failed\n{output}")


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
    return _result(
        name, changes, "Copied.", "The file would be copied.", lambda: shutil.copy2(name, kept)
    )


def original_restored(name):
    """The file ``name`` is again what ``original_kept`` kept."""
    kept = name + KEPT_SUFFIX
    changes = {name: "restored"} if os.path.exists(kept) else {}
    return _result(
        name, changes, "Restored.", "The file would be restored.", lambda: os.replace(kept, name)
    )


def openvpn_servers_only(name, service, instances):
    """
    Of our OpenVPN servers there are no others than these: stopped, disabled, files removed.

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

    def act():
        for instance in stale:
            unit = service + instance
            __salt__["service.stop"](unit)
            __salt__["service.disable"](unit)
            drop_in = f"{UNITS}/{unit}.service.d"
            _remove(
                f"{drop_in}/gateway.conf",
                f"{name}/{instance}.conf",
                f"{OPENVPN_STATUS}/status-{instance}.log",
            )
            if os.path.isdir(drop_in) and not os.listdir(drop_in):
                os.rmdir(drop_in)

    changes = dict.fromkeys(stale, "removed")
    return _result(name, changes, "Removed.", "They would be removed.", act)
