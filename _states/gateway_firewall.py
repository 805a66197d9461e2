"""The firewall's state: rules and sets in the kernel, and the trial of new ones."""

import functools
import hashlib
import importlib
import json
import os
import re
import shutil
import tempfile
import time

import _gateway_state as state
from salt.exceptions import CommandExecutionError

# Without this a long-running minion keeps the library that it loaded first.
if os.stat(state.__file__).st_mtime_ns != state.WRITTEN:
    importlib.reload(state)

FIREWALL = "/usr/lib/gateway/firewall"
LOADER = "salt://gateway/firewall/files/firewall"
DIFFERS = 10  # the loader's exit code
FAMILIES = {"sets": "sets", "v4": "IPv4", "v6": "IPv6"}
# The kernel's own wording of a ruleset, and of the closed one that replaces it when it cannot be
# loaded.
IN_KERNEL = tuple(f"{folder}kernel/{family}" for folder in ("", "closed/") for family in FAMILIES)


def loaded(name, ruleset, peers=(), confirm_timeout=30, loader=LOADER):
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
    loader
        The source of the script that compares and loads rules. (salt-ssh brings along what a state
        names.)
    """
    folder = f"{state.STATE_FOLDER}/firewall"
    if not ruleset and not os.path.exists(FIREWALL):
        return state.unchanged(name)
    digest = _ruleset_digest(ruleset)
    try:
        kernel, recorded, changes = _compare(folder, ruleset, digest, loader)
        gated = _gated()
    except CommandExecutionError as error:
        return state.failed(name, str(error))
    if gated != bool(ruleset):
        changes["gate"] = "set" if ruleset else "removed"
    access = state.access(folder, 0o700) if ruleset else {}
    if access:
        changes["folder"] = access

    def act():
        if access:
            state.set_access(folder, 0o700)
        if not ruleset:
            state.run(__salt__, FIREWALL, "unload")
        elif recorded:
            # This ruleset has passed its trial before.
            state.run(__salt__, FIREWALL, "load")
        else:
            trial = f"{digest[:12]}-{time.time_ns()}"
            _stage(f"{folder}/.{trial}", ruleset | kernel | {"digest": _record(digest, kernel)})
            _try_ruleset(trial, peers, confirm_timeout)

    done, planned = ("Rules loaded.", "Rules would be loaded.")
    if not ruleset:
        done, planned = ("Rules removed.", "Rules would be removed.")
        if (state.read(f"{state.PROC_SYS}/net/ipv4/ip_forward") or "").strip() == "1":
            done += " This node forwards packets without them: net.ipv4.ip_forward is 1."
    return state.result(__opts__, name, changes, done, planned, act)


# --------------------------------------------------------------------------------------------------
# What the kernel has, and what it shall have


def _compare(folder, ruleset, digest, loader):
    """
    What the kernel makes of a ruleset, by file; whether just that is confirmed already; and what
    has to change. A trial that a killed run has left is taken back before.
    """
    script = _script(ruleset, loader)
    confirmed = _confirmed(folder)
    # Damaged or incomplete files are written again.
    record = state.read(f"{folder}/current/digest")
    recorded = bool(ruleset) and record == _record(digest, confirmed)
    lacking = _lacks_tools(ruleset)
    changes, live = {}, []
    if os.path.lexists(f"{folder}/pending"):
        changes["trial"] = "taken back"
        live = _take_back(folder)
    with tempfile.TemporaryDirectory() as checked:
        wanted = f"{folder}/current"
        if not ruleset:
            kernel, wanted = {}, "none"
        elif lacking:
            kernel, wanted, live = _unchecked(checked, ruleset), checked, ["none"]
        elif recorded:
            kernel = confirmed
        else:
            kernel, wanted = _checked(script, checked, ruleset), checked
        diff = _diff(script, wanted, *live)
    if diff:
        changes["diff"] = diff
    elif ruleset and not recorded:
        changes["record"] = "written"
    return kernel, recorded, changes


def _take_back(folder):
    """The rules from before a trial are in force; in test mode returned is what they would be."""
    if not __opts__["test"]:
        state.run(__salt__, FIREWALL, "rollback")
        return []
    current = f"{folder}/current"
    return [current if os.path.exists(current) else "none"]


def _lacks_tools(ruleset):
    """Whether the packages would come in the same run: what the kernel makes of the rules is not to
    be had yet."""
    tools = ["iptables", "ipset"] if ruleset.get("sets") else ["iptables"]
    return bool(__opts__["test"] and ruleset and not all(map(shutil.which, tools)))


def _script(ruleset, loader):
    """
    The command of our script. Only before rules are loaded it was just installed: in test mode, and
    where all is taken away, the one on the node may be none, or that of an older version.
    """
    if ruleset and not __opts__["test"]:
        return [FIREWALL]
    path = __salt__["cp.cache_file"](loader, __env__)
    if not path:
        raise CommandExecutionError(f"There is no {loader}.")
    return ["sh", path]


def _diff(script, wanted, *live):
    """What differs between the node (or a ruleset) and a ruleset, in the words of the script."""
    command = [*script, "diff", wanted, *live]
    done = __salt__["cmd.run_all"](command, python_shell=False, ignore_retcode=True)
    if done["retcode"] not in (0, DIFFERS):
        raise CommandExecutionError(f"{' '.join(command)}: {done['stderr'] or done['stdout']}")
    return done["stdout"]


def _gated():
    """Whether the node has the gate; a node without our loader has none."""
    if not os.path.exists(FIREWALL):
        return False
    command = [FIREWALL, "gate"]
    return not __salt__["cmd.run_all"](command, python_shell=False, ignore_retcode=True)["retcode"]


# --------------------------------------------------------------------------------------------------
# A ruleset, checked and on disk


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
        path: state.read(f"{folder}/{'' if path.startswith('closed/') else 'current/'}{path}")
        for path in IN_KERNEL
    }


def _checked(script, folder, ruleset):
    """
    Put a ruleset into a folder. Returns what the kernel makes of it, in its own words, by file.
    Raises CommandExecutionError with the pillar's entry, the reason and the rule for what it does
    not take.
    """
    for family, text in ruleset.items():
        state.write(f"{folder}/{family}", text)
    command = [*script, "check", folder]
    done = __salt__["cmd.run_all"](command, python_shell=False, ignore_retcode=True)
    if done["retcode"]:
        raise CommandExecutionError(_refused(ruleset, done["stdout"]) or done["stderr"])
    return {path: state.read(f"{folder}/{path}") for path in IN_KERNEL}


def _unchecked(folder, ruleset):
    """The same in our words, where the kernel cannot be asked."""
    kernel = {f"kernel/{family}": ruleset[family] for family in FAMILIES}
    for path, text in kernel.items():
        state.write(f"{folder}/{path}", text)
    return kernel


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


# --------------------------------------------------------------------------------------------------
# The trial of new rules


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
        state.run(__salt__, "ping", "-n", "-q", "-c", "1", "-W", "1", address)
    except CommandExecutionError:
        return False
    return True


def _default_gateways():
    routes = json.loads(state.run(__salt__, "ip", "-json", "route", "show", "default") or "[]")
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
    state.run(__salt__, FIREWALL, "try", trial, str(timeout))
    lost = _lost(reached, deadline)
    if not lost:
        state.run(__salt__, FIREWALL, "confirm", trial)
        return
    state.run(__salt__, FIREWALL, "rollback", trial)
    raise CommandExecutionError(
        f"With the new rules this node could not reach {' and '.join(lost)} any more, for"
        f" {seconds:.0f} seconds. The rules are again what they were before."
    )
