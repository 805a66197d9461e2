"""The firewall's state: rules and sets in the kernel, and the trial of new ones."""

import difflib
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

# A long-running minion would go on with the library that it loaded first.
if os.stat(state.__file__).st_mtime_ns != state.WRITTEN:
    importlib.reload(state)

FIREWALL = "/usr/lib/gateway/firewall"
CHAINS = "GATEWAY-"
SETS = "gateway-"
FAMILIES = {"sets": "sets", "v4": "IPv4", "v6": "IPv6"}
# What the kernel makes of a ruleset, and of the one that is in force where that cannot be loaded.
IN_KERNEL = tuple(f"{folder}kernel/{family}" for folder in ("", "closed/") for family in FAMILIES)
TABLES = "raw mangle filter nat security"
MAX_DIFF = 1000  # lines of one in a return; the first apply of a large site has more


def loaded(name, ruleset, peers=(), confirm_timeout=30):
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
    folder = f"{state.STATE_FOLDER}/firewall"
    if not ruleset and not os.path.exists(FIREWALL):
        return state.unchanged(name)
    tools = ["iptables", "ipset"] if ruleset.get("sets") else ["iptables"]
    if __opts__["test"] and ruleset and not all(map(shutil.which, tools)):
        # They would come in the same run: what the kernel makes of the rules is not to be had yet.
        diff = _diff(_parse_ruleset({}), _parse_ruleset(ruleset))
        return state.result(__opts__, name, {"diff": diff}, "", "Rules would be loaded.", None)
    digest = _ruleset_digest(ruleset)
    changes = {}
    try:
        script = _script()
        confirmed = _confirmed(folder)
        # Files that are damaged, or not all there, are written anew.
        recorded = state.read(f"{folder}/current/digest") == _record(digest, confirmed)
        kernel = confirmed if recorded else _checked_ruleset(script, ruleset)
        if os.path.lexists(f"{folder}/pending"):
            # Of a run that was killed.
            changes["trial"] = "taken back"
            if not __opts__["test"]:
                state.run(__salt__, FIREWALL, "rollback")
        backend = (
            state.read(f"{folder}/backend") or state.run(__salt__, *script, "backend")
        ).strip()
        live = _live(backend, kernel.get("kernel/sets") or confirmed["kernel/sets"])
        gated = _gated()
    except CommandExecutionError as error:
        return state.failed(name, str(error))
    if changes and __opts__["test"]:
        live = _parse_ruleset(_families(confirmed))
    diff = _diff(live, _parse_ruleset(_families(kernel)))
    if diff:
        changes["diff"] = diff
    elif ruleset and not recorded:
        changes["record"] = "written"
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
            # Nothing is new: what it does to the node has been tried.
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


def _families(files):
    return {family: files.get(f"kernel/{family}") for family in FAMILIES}


def _live(backend, with_sets):
    """What the kernel has of ours. ``backend`` is nft or legacy."""
    return _parse_ruleset(
        {
            "v4": state.run(__salt__, f"iptables-{backend}-save"),
            "v6": state.run(__salt__, f"ip6tables-{backend}-save"),
            "sets": state.run(__salt__, "ipset", "save") if with_sets else "",
        }
    )


def _diff(live, wanted):
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


def _gated():
    """Whether the node has the gate; a node without our loader has none."""
    if not os.path.exists(FIREWALL):
        return False
    command = [FIREWALL, "gate"]
    return not __salt__["cmd.run_all"](command, python_shell=False, ignore_retcode=True)["retcode"]


# --------------------------------------------------------------------------------------------------
# A ruleset, checked and on disk


def _script():
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
        path: state.read(f"{folder}/{'' if path.startswith('closed/') else 'current/'}{path}")
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
            state.write(f"{folder}/{family}", text)
        command = [*script, "check", folder]
        done = __salt__["cmd.run_all"](command, python_shell=False, ignore_retcode=True)
        if done["retcode"]:
            raise CommandExecutionError(_refused(ruleset, done["stdout"]) or done["stderr"])
        return {path: state.read(f"{folder}/{path}") for path in IN_KERNEL}


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
