"""Files and folders of ours: what ``file.managed`` cannot say.

The states of the formula get what they need as arguments and call only Salt's own modules (on Salt
3008 a state does not see the formula's execution modules in the run that brings them).
"""

import hashlib
import importlib
import json
import os
import re
import shutil
import tempfile

import _gateway_state as state

# Without this a long-running minion keeps the library that it loaded first.
if os.stat(state.__file__).st_mtime_ns != state.WRITTEN:
    importlib.reload(state)

KEPT_SUFFIX = ".before-gateway"
RENDERED = "/run/gateway/rendered.json"  # what templates were rendered from, and what came of it
# Calls whose answers are part of what `_origin` hashes: the plan has a digest of the key of leases.
KNOWN_CALLS = re.compile(r"salt\['gateway\.((plan|lease_key)'\]\(\)|pem'\]\(\w+\))")


def refused(name, errors, title="Nothing was changed: the pillar of this site cannot be used."):
    """
    Fails, in test mode too, with what keeps the pillar, or a part of it, from being applied.

    errors
        List of texts.
    title
        The line before them: what came of it.
    """
    return state.failed(name, "\n".join([title, *errors]))


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
    folders = state.folder_changes(__opts__, __running__, name)
    source = options.get("source") and __salt__["cp.cache_file"](options["source"], saltenv=__env__)
    origin, same = None, False
    if source and "template" in options:
        origin = _origin(source, options.get("context"))
        same = origin and _rendered_from().get(name) == [origin, state.digest(name)]
    elif source:
        same = state.digest(source) == state.digest(name)
    if same and not folders and not state.access(name, int(mode, 8)):
        return state.unchanged(name)
    if not __opts__["test"]:
        try:
            state.make_folders(name)
        except OSError as error:
            return state.failed(name, str(error))
    if not int(mode, 8) & 0o077:
        # Any word that Salt does not know means no backup. Without one, or with False, the minion's
        # setting counts.
        options["backup"] = "none"
    ret = __states__["file.managed"](
        name, user="root", group="root", mode=mode, makedirs=True, **options
    )
    if origin and ret["result"] and not __opts__["test"]:
        state.write_json(RENDERED, _rendered_from() | {name: [origin, state.digest(name)]})
    if folders and ret["result"] is not False:
        ret["changes"] = {**ret["changes"], "folders": folders}
        done = "Folders would be changed." if __opts__["test"] else "Folders changed."
        ret |= {"result": None if __opts__["test"] else True, "comment": f"{done} {ret['comment']}"}
    return ret


def _origin(template, context):
    """A digest of all that a template makes a file of; None where that is not known."""
    text = state.read(template) or ""
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
        return json.loads(state.read(RENDERED) or "{}")
    except ValueError:
        return {}


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
    command = state.isolated(name, check, see_network)
    # A diff would show a secret that is in the old file.
    show_changes = show_changes and "-----BEGIN" not in (state.read(name) or "")
    ret = file(
        name,
        mode,
        source=source,
        template="jinja",
        context=context,
        show_changes=show_changes,
        check_cmd=command,
    )
    # A checker that is missing comes with the package, in the same run.
    there = all(shutil.which(program) for program in (state.ISOLATED, check.split()[0]))
    if ret["result"] is not None or not there:
        return ret
    with tempfile.TemporaryDirectory() as folder:
        new = state.render(__salt__, __env__, f"{folder}/new", source, context)
        done = __salt__["cmd.run_all"](f"{command} {new}", ignore_retcode=True)
    if not done["retcode"]:
        return ret
    output = "\n".join(filter(None, (done["stdout"], done["stderr"])))
    return state.failed(name, f"check_cmd execution failed\n{output}")


def folder(name):
    """A folder of ours, in which a user's files may be: root's, and open to all daemons."""
    inside = f"{name}/file"
    changes = state.folder_changes(__opts__, __running__, inside)
    done, planned = "Folder made.", "The folder would be made."
    return state.result(__opts__, name, changes, done, planned, lambda: state.make_folders(inside))


def original_kept(name, shipped=False):
    """
    The file ``name``, as it was before the formula, is kept beside itself.

    shipped
        Whether the package brings the file, which test mode cannot see before it is installed.
    """
    kept = name + KEPT_SUFFIX
    current = state.read(name)
    if current is None:
        wanted = shipped and __opts__["test"]
    else:
        wanted = state.OURS not in current and not os.path.exists(kept)
    changes = {kept: "written"} if wanted else {}

    def act():
        shutil.copy2(name, f"{kept}.new")
        found = os.stat(name)
        os.chown(f"{kept}.new", found.st_uid, found.st_gid)
        os.replace(f"{kept}.new", kept)

    return state.result(__opts__, name, changes, "Copied.", "The file would be copied.", act)


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
    elif or_none and state.OURS in (state.read(name) or ""):
        changes[name] = "removed"

    def act():
        if changes[name] == "restored":
            os.replace(kept, name)
        else:
            state.remove(name)

    return state.result(__opts__, name, changes, "As it was.", "The file would be as it was.", act)


def drop_in_gone(name):
    """The drop-in ``name`` is gone, and its folder where nothing else is in it."""
    folder = os.path.dirname(name)
    others = os.path.isdir(folder) and set(os.listdir(folder)) - {os.path.basename(name)}
    changes = {name: "removed"} if os.path.lexists(name) else {}
    if os.path.isdir(folder) and not others:
        changes[folder] = "removed"

    def act():
        state.remove(name)
        state.remove_if_empty(folder)

    return state.result(__opts__, name, changes, "Removed.", "It would be removed.", act)


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

    return state.result(
        __opts__, name, changes, "Removed.", "They would be removed.", lambda: _remove_all(changes)
    )


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
    return state.result(
        __opts__, name, changes, "Removed.", "They would be removed.", lambda: _remove_all(paths)
    )


def _remove_all(paths):
    for path in paths:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.remove(path)
