"""What all states of the formula share: how a state ends, and how it reads, writes and asks.

Salt's loader passes over a file with an underscore in front, so it gives no ``__opts__`` and
``__salt__`` here: a state passes them in.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from salt.exceptions import CommandExecutionError

WRITTEN = os.stat(__file__).st_mtime_ns  # loaded again when that is another

STATE_FOLDER = "/var/lib/gateway"
FOLDERS = ("/etc/gateway", "/usr/lib/gateway", STATE_FOLDER)  # ours, with all that is in them
OWNER = (0, 0)  # of our files and folders: user and group
OURS = "Managed by Salt (gateway)"
PROC_SYS = "/proc/sys"
SYSTEMD = "/etc/systemd"
UNITS = f"{SYSTEMD}/system"
UNIT_PROPERTIES = (
    "ActiveState,DropInPaths,NeedDaemonReload,StateChangeTimestampMonotonic,SubState,UnitFileState"
)
ISOLATED = "/usr/lib/gateway/isolated"  # where a daemon looks at its new configuration
# A file that an unprivileged process may write is read up to this size.
FOREIGN_SIZE = 4096

Return = dict[str, Any]  # name, changes, result and comment, as Salt wants them of a state
Functions = Mapping[str, Callable[..., Any]]  # __salt__

# --------------------------------------------------------------------------------------------------
# How a state ends


def unchanged(name: str) -> Return:
    """A state that has nothing to do."""
    return {"name": name, "changes": {}, "result": True, "comment": "Nothing to do."}


def failed(name: str, comment: str) -> Return:
    """A state that cannot do what it shall."""
    return {"name": name, "changes": {}, "result": False, "comment": comment}


def result(
    opts: Mapping[str, Any],
    name: str,
    changes: Mapping[str, Any],
    done: str,
    planned: str,
    act: Callable[[], object],
) -> Return:
    """Finish a state: nothing to do, what test mode says, or ``act`` and what came of it."""
    ret = unchanged(name)
    if not changes:
        return ret
    if opts["test"]:
        return ret | {"changes": changes, "result": None, "comment": planned}
    try:
        act()
    except (CommandExecutionError, OSError) as error:
        return failed(name, str(error))
    return ret | {"changes": changes, "comment": done}


# --------------------------------------------------------------------------------------------------
# Commands


def run(salt: Functions, *command: str, stdin: str | None = None) -> str:
    """The output of a command. Raises CommandExecutionError with its message if it fails."""
    more = {} if stdin is None else {"stdin": stdin}
    done = salt["cmd.run_all"](list(command), python_shell=False, ignore_retcode=True, **more)
    if done["retcode"]:
        message = done["stderr"] or done["stdout"]
        raise CommandExecutionError(f"{' '.join(command)}: {message}")
    output: str = done["stdout"]
    return output


def show_units(salt: Functions, names: Iterable[str]) -> list[dict[str, str]]:
    """What systemd knows of these units, in this order."""
    output = run(salt, "systemctl", "show", f"--property={UNIT_PROPERTIES}", *names)
    return [
        dict(line.split("=", 1) for line in lines.splitlines()) for lines in output.split("\n\n")
    ]


def is_active(unit: Mapping[str, str]) -> bool:
    """Whether a unit of ``show_units`` runs, or is about to: DHCP asks its peer before."""
    return unit["ActiveState"] in ("active", "reloading") or unit["SubState"] == "start-pre"


def render(
    salt: Functions, env: str, path: str, source: str, context: Mapping[str, Any] | None
) -> str:
    """Render a template to a file. Returns its path, or "" where that cannot be done."""
    rendered: str = salt["cp.get_template"](
        source, path, template="jinja", saltenv=env, **(context or {})
    )
    return rendered


def isolated(name: str, check: str, see_network: bool) -> str:
    """The command with which a daemon looks at a new file ``name`` where nothing comes of it."""
    return f"{ISOLATED} {'--see-network ' if see_network else ''}{name} {check}"


# --------------------------------------------------------------------------------------------------
# Files, read


def read(path: str) -> str | None:
    """A file's text, or None where there is no such file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return None


def read_foreign(path: str) -> str | None:
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


def digest(path: str) -> str | None:
    """A hash of a file; None where there is no such file."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()
    return None


# --------------------------------------------------------------------------------------------------
# Owners and modes


def access(path: str, mode: int) -> dict[str, Any]:
    """Owner, group and mode as {what: {old, new}} where they are not root's and ``mode``."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return {}
    live: dict[str, Any] = {"user": found.st_uid, "group": found.st_gid}
    live["mode"] = f"{stat.S_IMODE(found.st_mode):04o}"
    wanted = {"user": OWNER[0], "group": OWNER[1], "mode": f"{mode:04o}"}
    return {
        key: {"old": live[key], "new": value} for key, value in wanted.items() if live[key] != value
    }


def set_access(path: str, mode: int) -> None:
    """Make a file or folder root's, with this mode."""
    # In this order: chown may clear bits of the mode.
    os.chown(path, *OWNER)
    os.chmod(path, mode)


def _our_folders(path: str) -> list[str]:
    """The folders on the way to a file that are ours, from the outermost one on."""
    return [
        folder
        for folder in reversed([str(parent) for parent in PurePath(path).parents])
        if f"{folder}/".startswith(tuple(f"{ours}/" for ours in FOLDERS))
        or (folder.startswith(f"{SYSTEMD}/") and folder.endswith(".d"))
    ]


def folder_changes(
    opts: Mapping[str, Any], running: Mapping[str, Any], *paths: str
) -> dict[str, Any]:
    """What is wrong with our folders on the way to these files: daemons that are not root's go
    through them, whatever the umask was and whoever has been there."""
    # In test mode: folders that an earlier state of this run would have put right.
    right = set(_all_keys(running)) if opts["test"] else set()
    return {path: wrong for path, wrong in _wrong_folders(*paths).items() if path not in right}


def _wrong_folders(*paths: str) -> dict[str, Any]:
    changes = {}
    for folder in dict.fromkeys(folder for path in paths for folder in _our_folders(path)):
        wrong = access(folder, 0o755) if os.path.isdir(folder) else "made"
        if wrong:
            changes[folder] = wrong
    return changes


def _all_keys(tree: Mapping[str, Any]) -> Iterator[str]:
    """The keys of mappings in mappings."""
    for key, value in tree.items():
        yield key
        if isinstance(value, Mapping):
            yield from _all_keys(value)


def make_folders(path: str) -> None:
    """The folders on the way to a file are there, and ours are open to all daemons."""
    folder, missing = os.path.dirname(path), []
    while folder and not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for folder in reversed(missing):
        os.mkdir(folder)
        set_access(folder, 0o755)
    for folder in _wrong_folders(path):
        set_access(folder, 0o755)


# --------------------------------------------------------------------------------------------------
# Files, written


def write(path: str, text: str, temporary: str | None = None) -> None:
    """Write a file in one step, by way of a temporary one on the same file system."""
    make_folders(path)
    temporary = temporary or f"{path}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    set_access(temporary, 0o644)
    os.replace(temporary, path)


def write_json(path: str, data: object) -> None:
    """Write a file that a later run reads."""
    write(path, json.dumps(data, indent=1, sort_keys=True))


def remove(*paths: str) -> None:
    """Remove those of these files that are there."""
    for path in paths:
        if os.path.lexists(path):
            os.remove(path)


def remove_if_empty(folder: str) -> None:
    """Remove a folder in which nothing is left."""
    if os.path.isdir(folder) and not os.listdir(folder):
        os.rmdir(folder)


def file_changes(
    opts: Mapping[str, Any],
    running: Mapping[str, Any],
    wanted: Mapping[str, str],
    live: Mapping[str, str | None],
) -> dict[str, Any]:
    """What has to be done for small files, ``{path: text}``; those that are not wanted go."""
    changes: dict[str, Any] = {
        path: "removed" for path, text in live.items() if text and path not in wanted
    }
    for path, text in wanted.items():
        wrong: Any = "written"
        if read(path) == text:
            wrong = folder_changes(opts, running, path) | access(path, 0o644)
        if wrong:
            changes[path] = wrong
    return changes


def change_file(path: str, wanted: Mapping[str, str]) -> None:
    """Do for one of the files what ``file_changes`` found."""
    if path in wanted:
        write(path, wanted[path])
        return
    remove(path)
    remove_if_empty(os.path.dirname(path))
