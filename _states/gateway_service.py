"""Units of systemd's: what ``service.running`` and ``service.dead`` cannot say."""

import importlib
import json
import os
import time

import _gateway_state as state
from salt.exceptions import CommandExecutionError

# Without this a long-running minion keeps the library that it loaded first.
if os.stat(state.__file__).st_mtime_ns != state.WRITTEN:
    importlib.reload(state)

READ = "/run/gateway/read"  # what the running units have read of their files
DONE = {
    "start": "started",
    "try-restart": "restarted",
    "reload": "reloaded",
}  # by verb of systemctl


def _units(*names):
    """
    What systemd knows of these units, in this order.

    Asking takes longer than all else in a state that has nothing to do. So all that the run will
    want to know is asked at once, and the answer counts until something has changed or failed.
    """
    if any(ret["changes"] or ret["result"] is False for ret in __running__.values()):
        return state.show_units(__salt__, names)
    known = __context__.setdefault("gateway_units", {})
    if not set(names) <= known.keys():
        ours = {
            name
            for chunk in __lowstate__
            if chunk["state"] == "gateway_service"
            for name in (
                chunk["name"],
                *chunk.get("units", ()),
                *filter(None, [chunk.get("target")]),
            )
        }
        wanted = sorted(ours.union(names))
        known.update(zip(wanted, state.show_units(__salt__, wanted), strict=True))
    return [known[name] for name in names]


def _written_by_this_run():
    """The files whose text this run has changed, or would."""
    access = {"user", "group", "mode", "folders"}
    return {ret["name"] for ret in __running__.values() if ret["changes"].keys() - access}


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
        if (unread and path.startswith(f"{state.UNITS}/")) or path in unknown:
            return True
        return os.path.exists(path) and os.stat(path).st_mtime > loaded

    return [path for path in files if path in written or differs(path)]


def running(name, reads=(), rereads=(), units=(), enable=True, start=True, target=None):
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
        note = json.loads(state.read(note_path) or "{}")
    except (CommandExecutionError, OSError, ValueError) as error:
        return state.failed(name, str(error))
    files = {path: state.digest(path) for path in (*reads, *rereads)}
    start = start and (not target or state.is_active(others[-1]))
    unknown = _unknown_drop_ins(name, unit, files)
    active = state.is_active(unit)
    stale = _not_in_force(note, unit, files, unknown) if active else []
    verb = _verb(active, start, stale, reads)
    changes = {"enabled": True} if enable and unit["UnitFileState"] != "enabled" else {}
    if verb:
        changes[DONE[verb]] = stale or True
    if unknown or _unread_units((unit, *others), units, files, stale):
        changes["systemd"] = "reads its units again"

    def write_note(unit):
        new = {"since": unit["StateChangeTimestampMonotonic"], "files": files}
        if enable and files and state.is_active(unit) and new != note:
            state.write_json(note_path, new)

    if not changes and not __opts__["test"]:
        write_note(unit)
    planned = "The unit would be changed."
    return state.result(
        __opts__,
        name,
        changes,
        "In force.",
        planned,
        lambda: write_note(_change(name, changes, verb, start, target)),
    )


def _unknown_drop_ins(name, unit, files):
    """Those of the files that systemd does not know yet: of a folder of drop-ins that is new, it
    does not say that it has to be read."""
    drop_ins = {path for path in files if f"/{name}.service.d/" in path and os.path.exists(path)}
    return drop_ins - set(unit["DropInPaths"].split())


def _verb(active, start, stale, reads):
    """What systemctl has to do with the unit; None for nothing."""
    if not active:
        return "start" if start else None
    if set(stale) & set(reads):
        return "try-restart"
    return "reload" if stale else None


def _unread_units(shown, units, files, stale):
    """Whether systemd has to read the unit's own files again, or those of the further units."""
    unit_files = {f"{state.UNITS}/{unit}" for unit in units} | {
        path for path in files if path.startswith(f"{state.UNITS}/")
    }
    return bool(unit_files & (_written_by_this_run() | set(stale))) or any(
        unit["NeedDaemonReload"] == "yes" for unit in shown
    )


def _change(name, changes, verb, start, target):
    """
    Do what ``running`` found, and return what systemd knows of the unit then. Raises
    CommandExecutionError where it does not run and shall.
    """
    if "systemd" in changes or "enabled" in changes or verb == "start":
        state.run(__salt__, "systemctl", "daemon-reload")
    if "enabled" in changes:
        state.run(__salt__, "systemctl", "enable", name)
    if verb:
        state.run(__salt__, "systemctl", verb, name)
    unit, *targets = state.show_units(__salt__, (name, *filter(None, [target])))
    if verb == "start" and target and not state.is_active(targets[-1]):
        state.run(__salt__, "systemctl", "stop", name)  # the target went meanwhile
    elif verb and start and not state.is_active(unit):
        raise CommandExecutionError(f"{name} does not run; journalctl -u {name} says why")
    return unit


def off(name, ours=None):
    """
    A unit of systemd's does not run and does not start at boot; there may be none. That it has
    failed is forgotten: systemd would show it so until the next boot, also without its file.

    ours
        The file without which the unit is somebody else's and stays as it is.
    """
    try:
        (unit,) = _units(name)
    except CommandExecutionError as error:
        return state.failed(name, str(error))
    changes = {}
    if ours is None or os.path.exists(ours):
        if unit["ActiveState"] not in ("inactive", "failed"):
            changes["stopped"] = True
        if unit["UnitFileState"] == "enabled":
            changes["disabled"] = True
        if unit["ActiveState"] == "failed":
            changes["failure forgotten"] = True

    def act():
        if "stopped" in changes:
            state.run(__salt__, "systemctl", "stop", name)
        if "disabled" in changes:
            state.run(__salt__, "systemctl", "disable", name)
        # What is stopped at its work has failed only now.
        (now,) = state.show_units(__salt__, [name])
        if now["ActiveState"] == "failed":
            state.run(__salt__, "systemctl", "reset-failed", name)

    return state.result(
        __opts__, name, changes, "It is off.", "The unit would be stopped or disabled.", act
    )
