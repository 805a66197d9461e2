"""The firewall's rules, with the real script on a machine that is played:
_states/gateway_firewall.py."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from time import time_ns
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.scripts

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def module(load):
    return load("_states/gateway_firewall.py")


# --------------------------------------------------------------------------------------------------
# Firewall

V4 = """\
*mangle
:GATEWAY-PREROUTING - [0:0]
-A GATEWAY-PREROUTING -j MARK --set-xmark 0x40000000/0x40000000
COMMIT
*nat
:GATEWAY-PREROUTING - [0:0]
# gateway:nat:forwards:0
-A GATEWAY-PREROUTING -p tcp --dport 443 -j DNAT --to-destination 10.77.0.10
COMMIT
*filter
:GATEWAY-FORWARD - [0:0]
:GATEWAY-INPUT - [0:0]
# gateway:firewall:input:0
-A GATEWAY-INPUT -p 112 -j ACCEPT
# gateway:firewall:input:1
-A GATEWAY-INPUT -m set --match-set gateway-few-1 src -j ACCEPT
COMMIT
"""
V6 = "*filter\n:GATEWAY-INPUT - [0:0]\n:GATEWAY-FORWARD - [0:0]\nCOMMIT\n"
CLOSED = V6.replace("COMMIT", "-A GATEWAY-FORWARD -j DROP\nCOMMIT")
RULESET = {
    "sets": "create gateway-few-1 hash:net family inet maxelem 9\nadd gateway-few-1 192.0.2.0/24\n",
    "v4": V4,
    "v6": V6,
    "closed4": CLOSED,
    "closed6": CLOSED,
}
DROP = RULESET | {"v4": V4.replace("src -j ACCEPT", "src -j DROP")}
PEER, GATEWAY, MASTER = "10.77.0.3", "198.51.100.1", "10.99.0.10"
SAVES = ["iptables-nft-save", "ip6tables-nft-save"]


@pytest.fixture
def site(machine, firewall, module, monkeypatch):
    """A node with the real script; ``unreachable`` never answers, ``cut`` not while on trial."""
    firewall.home = machine.folder / "state/firewall"
    firewall.script.write_text(
        firewall.script.read_text().replace(str(machine.folder / "home"), str(firewall.home))
    )
    site = SimpleNamespace(
        unreachable=set(), cut=set(), commands=[], firewall=firewall, clock=0.0, asked=set()
    )
    machine.opts |= {"master_uri": f"tcp://{MASTER}:4506"}

    def reachable(address):
        site.asked.add(address)
        on_trial = (firewall.home / "pending").is_symlink()
        return address not in site.unreachable | (site.cut if on_trial else set())

    def run_all(command, python_shell, ignore_retcode):
        assert python_shell is False
        assert ignore_retcode is True
        site.commands.append(os.path.basename(command[0]))
        if command[0] == "ping":
            return {"retcode": int(not reachable(command[-1])), "stdout": "", "stderr": ""}
        if command[0] == "ip":
            assert command == ["ip", "-json", "route", "show", "default"]
            return {"retcode": 0, "stdout": json.dumps([{"gateway": GATEWAY}, {}]), "stderr": ""}
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if command[1:2] and command[1] in ("try", "load", "unload", "rollback"):
            machine.calls.append(command[1])
        return {"retcode": done.returncode, "stdout": done.stdout.strip(), "stderr": done.stderr}

    def connect(host, port, timeout):
        assert (port, timeout) == (4506, 2)
        return {"result": reachable(host), "comment": ""}

    def sleep(seconds):
        site.clock += seconds

    monkeypatch.setattr(
        module, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: site.clock, time_ns=time_ns)
    )
    # The loader of the formula, whatever there is on the node.
    loader = machine.folder / "cached"
    loader.write_text(firewall.script.read_text())

    def cache_file(source, saltenv):
        assert (ROOT / source.removeprefix("salt://")).exists()
        assert saltenv == "base"
        return str(loader)

    machine.functions |= {
        "cmd.run_all": run_all,
        "network.connect": connect,
        "cp.cache_file": cache_file,
    }
    return site


def apply(machine, ruleset=RULESET, **keywords):
    return machine.run("loaded", "rules", ruleset, peers=[PEER], **keywords)


def gone(site):
    state = site.firewall.read()
    return "GATEWAY" not in f"{state['v4']} {state['v6']}" and state["sets"] == {}


def test_firewall(machine, site):
    assert list(machine.converges("loaded", "rules", RULESET, peers=[PEER])) == ["diff", "gate"]
    assert site.firewall.read()["v4"]["filter"]["GATEWAY-INPUT"] == [
        "-p vrrp -j ACCEPT",
        "-m set --match-set gateway-few-1 src -j ACCEPT",
    ]
    assert list(machine.converges("loaded", "rules", DROP, peers=[PEER])) == ["diff"]
    assert list(machine.converges("loaded", "rules", {})) == ["diff", "gate"]
    assert gone(site)
    assert os.listdir(site.firewall.home) == []


@pytest.mark.parametrize(("forwards", "said"), [("1", True), ("0", False)])
def test_a_node_that_forwards_without_rules_is_told_so(machine, site, forwards, said):
    apply(machine)
    path = machine.folder / "proc/net/ipv4/ip_forward"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{forwards}\n")
    comment = machine.run("loaded", "rules", {})["comment"]
    assert ("forwards packets without them" in comment) is said


def test_firewall_with_nothing_to_do_is_two_commands(machine, site):
    """One compares, one asks for the gate."""
    bare = RULESET | {"sets": "", "v4": V4.replace("-m set --match-set gateway-few-1 src ", "")}
    for ruleset in (bare, RULESET):
        apply(machine, ruleset)
        site.commands.clear()
        assert apply(machine, ruleset)["changes"] == {}
        assert site.commands == ["firewall"] * 2


def test_a_lost_gate_is_a_change(machine, site):
    apply(machine)
    Path(f"{site.firewall.rules}4").write_text("")
    assert machine.converges("loaded", "rules", RULESET, peers=[PEER]) == {"gate": "set"}


def test_firewall_shows_what_changes(machine, site):
    apply(machine)
    assert apply(machine, DROP, test=True)["changes"]["diff"].splitlines() == [
        "--- IPv4 filter (live)",
        "+++ IPv4 filter (wanted)",
        "@@ -3,4 +3,4 @@",
        " :GATEWAY-INPUT",
        " -A GATEWAY-INPUT -p vrrp -j ACCEPT",
        "--A GATEWAY-INPUT -m set --match-set gateway-few-1 src -j ACCEPT",
        "+-A GATEWAY-INPUT -m set --match-set gateway-few-1 src -j DROP",
        " -A INPUT -j GATEWAY-INPUT",
    ]


def test_firewall_does_not_show_ten_thousand_lines(machine, site):
    rules = "".join(f"-A GATEWAY-INPUT -s 192.0.2.1 --sport {n} -j DROP\n" for n in range(1500))
    many = RULESET | {
        "sets": "",
        "v4": V4.replace("-m set --match-set gateway-few-1 src -j ACCEPT\n", "-j ACCEPT\n" + rules),
    }
    lines = apply(machine, many)["changes"]["diff"].splitlines()
    assert len(lines) == 1001
    assert re.fullmatch(r"\(5\d\d more lines\)", lines[-1])


def spoil(edit):
    return lambda site: site.firewall.change(edit)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (spoil(lambda s: s["v4"]["filter"]["GATEWAY-INPUT"].pop(0)), "+-A GATEWAY-INPUT -p vrrp"),
        (spoil(lambda s: s["v4"]["nat"]["GATEWAY-PREROUTING"].append("-j X")), "--A GATEWAY-PRE"),
        (spoil(lambda s: s["v4"]["nat"]["PREROUTING"].pop(0)), "+-A PREROUTING -j GATEWAY-PRE"),
        (spoil(lambda s: s["v6"]["filter"]["INPUT"].append("-j GATEWAY-INPUT")), "--A INPUT -j"),
        (spoil(lambda s: s["v4"]["filter"].update({"GATEWAY-X": []})), "-:GATEWAY-X"),
        (spoil(lambda s: s["sets"]["gateway-few-1"].pop()), "+add gateway-few-1 192.0.2.0/24"),
        (
            spoil(lambda s: s["sets"].update({"gateway-old-1": ["hash:net"]})),
            "-create gateway-old-1",
        ),
        (lambda site: shutil.rmtree(site.firewall.home), ""),
    ],
    ids=["deleted", "added", "jump", "doubled", "chain", "member", "set", "record"],
)
def test_firewall_is_repaired(machine, site, change, line):
    apply(machine)
    before = site.firewall.read()
    change(site)
    changes = machine.converges("loaded", "rules", RULESET, peers=[PEER])
    after = site.firewall.read()
    assert [after[key] for key in ("v4", "v6", "sets")] == [
        before[key] for key in ("v4", "v6", "sets")
    ]
    if line:
        assert any(found.startswith(line) for found in changes["diff"].splitlines())
    else:
        assert changes == {"record": "written"}


@pytest.mark.parametrize(
    "path", ["current/kernel/v4", "current/kernel/sets", "closed/kernel/v6", "closed"]
)
def test_firewall_files_that_are_damaged_are_written_anew(machine, site, path):
    apply(machine)
    before, home = site.firewall.read(), site.firewall.home
    if path == "closed":
        shutil.rmtree(home / path)
    else:
        (home / path).write_text("")
    site.firewall.run("load", code=1 if path == "current/kernel/v4" else 0)  # as at a boot
    assert machine.converges("loaded", "rules", RULESET, peers=[PEER])
    after = site.firewall.read()
    assert [after[key] for key in ("v4", "v6")] == [before[key] for key in ("v4", "v6")]
    if path != "closed":
        assert (home / path).read_text()
    assert (home / "closed/kernel/v4").read_text()
    site.firewall.run("load")


def test_firewall_does_not_mind_what_others_change(machine, site):
    apply(machine)
    site.firewall.change(lambda s: s["v4"]["filter"]["INPUT"].insert(0, "-j f2b-sshd"))
    site.firewall.change(lambda s: s["sets"].update({"theirs": ["hash:ip", "192.0.2.3"]}))
    rule = '-m comment --comment "not -j GATEWAY-INPUT" -j ACCEPT'
    site.firewall.change(lambda s: s["v4"]["filter"]["OUTPUT"].append(rule))
    try:
        assert apply(machine)["changes"] == {}
    finally:
        site.firewall.change(lambda s: s["v4"]["filter"]["INPUT"].pop(0))
        site.firewall.change(lambda s: s["v4"]["filter"]["OUTPUT"].clear())


def test_firewall_does_not_mind_other_comments(machine, site):
    """An entry of the pillar has another number; the rules are the same."""
    apply(machine)
    renumbered = RULESET | {"v4": V4.replace("input:1", "input:7")}
    for same in (renumbered, dict(reversed(RULESET.items()))):
        site.commands.clear()
        assert apply(machine, same)["changes"] == {}
        assert site.commands == ["firewall"] * 2


@pytest.mark.parametrize("test", [True, False])
def test_firewall_that_the_kernel_refuses(machine, site, test):
    apply(machine)
    before = site.firewall.read()
    wrong = RULESET | {"v4": V4.replace("-p 112", "--wrong").replace("-j DNAT", "--wrong -j DNAT")}
    ret = apply(machine, wrong, test=test)
    assert (ret["result"], ret["changes"]) == (False, {})
    assert ret["comment"].splitlines() == [
        "Nothing was changed: the kernel does not take these rules.",
        'gateway:nat:forwards:0: unknown option "--wrong"',
        "    -A GATEWAY-PREROUTING -p tcp --dport 443 --wrong -j DNAT --to-destination 10.77.0.10",
        'gateway:firewall:input:0: unknown option "--wrong"',
        "    -A GATEWAY-INPUT --wrong -j ACCEPT",
    ]
    assert site.firewall.read() == before


@pytest.mark.parametrize("tool_name", SAVES)
def test_firewall_that_cannot_be_asked(machine, site, tool, tool_name):
    apply(machine)
    tool(tool_name, "echo no such table >&2; exit 1")
    for ruleset in (RULESET, {}):
        ret = apply(machine, ruleset)
        assert (ret["result"], ret["changes"]) == (False, {})
        assert "no such table" in ret["comment"]


def test_firewall_before_its_tools_are_there(machine, site, monkeypatch, module, tool):
    """Test mode on a fresh node: package and script would come in the same run."""
    monkeypatch.setattr(module.shutil, "which", lambda tool: None)
    for name in (*SAVES, "ipset"):
        tool(name, "exit 127")
    ret = apply(machine, test=True)
    assert ret["result"] is None
    assert "+-A GATEWAY-INPUT -p 112 -j ACCEPT" in ret["changes"]["diff"].splitlines()
    site.firewall.script.unlink()
    assert machine.run("loaded", "rules", {})["changes"] == {}


def test_firewall_before_its_script_is_there(machine, site):
    """Test mode where iptables is there already: the real diff, from the master's script."""
    site.firewall.script.unlink()
    ret = apply(machine, test=True)
    assert "+-A GATEWAY-INPUT -p vrrp -j ACCEPT" in ret["changes"]["diff"].splitlines()


def test_firewall_with_the_script_of_an_older_version(machine, site):
    """Before the new one is there: in test mode, and where all is taken away at once."""
    apply(machine)
    old = site.firewall.script.read_text().replace("[123]:diff)", "[123]:unknown)")
    site.firewall.script.write_text(old)
    assert apply(machine, test=True)["changes"] == {}
    changes = machine.run("loaded", "rules", {}, test=True)["changes"]
    assert "--A INPUT -j GATEWAY-INPUT" in changes["diff"].splitlines()
    assert machine.run("loaded", "rules", {})["changes"] == changes
    assert gone(site)


def test_firewall_whose_script_is_nowhere(machine, site):
    machine.functions["cp.cache_file"] = lambda source, saltenv: ""
    assert apply(machine, test=True)["comment"] == (
        "There is no salt://gateway/firewall/files/firewall."
    )


# New rules are kept only if the node still reaches what it reached before


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        ({MASTER}, f"the Salt master ({MASTER} port 4506)"),
        ({PEER}, f"its peer {PEER}"),
        ({PEER, MASTER}, f"its peer {PEER} and the Salt master ({MASTER} port 4506)"),
    ],
    ids=["master", "peer", "both"],
)
def test_firewall_that_cuts_the_node_off(machine, site, cut, words):
    apply(machine)
    before = site.firewall.read()
    site.cut = cut
    ret = apply(machine, DROP)
    assert (ret["result"], ret["changes"]) == (False, {})
    assert ret["comment"] == (
        f"With the new rules this node could not reach {words} any more, for 20 seconds."
        " The rules are again what they were before."
    )
    assert 20 < site.clock < 25
    after = site.firewall.read()
    assert (after["v4"], after["sets"]) == (before["v4"], before["sets"])
    assert apply(machine)["changes"] == {}


def test_firewall_whose_first_rules_cut_the_node_off(machine, site):
    site.cut = {MASTER}
    assert apply(machine, confirm_timeout=6)["result"] is False
    assert gone(site)
    assert 4 < site.clock < 6


def test_firewall_does_not_wait_for_what_was_away_before(machine, site):
    site.unreachable = {MASTER, PEER}
    assert apply(machine)["result"] is True
    assert site.clock == 0


def test_firewall_waits_for_what_comes_back(machine, site, module, monkeypatch):
    def sleep(seconds):
        site.clock += seconds
        site.cut = set() if site.clock > 3 else site.cut

    monkeypatch.setattr(module.time, "sleep", sleep)
    site.cut = {MASTER}
    assert apply(machine)["result"] is True
    assert 3 < site.clock < 4


@pytest.mark.parametrize(
    ("opts", "asked"),
    [
        ({}, {PEER, MASTER}),
        ({"master_uri": "tcp://[fd00::1]:4506"}, {PEER, "fd00::1"}),
        ({"master_uri": None, "master": "salt.test"}, {PEER, "salt.test"}),
        ({"master_uri": None, "master": ["one", "two"], "file_client": "remote"}, {PEER, "one"}),
        ({"master_uri": None, "master": "salt", "file_client": "local"}, {PEER, GATEWAY}),
    ],
    ids=["minion", "IPv6", "name", "two masters", "masterless"],
)
def test_firewall_asks_the_master_or_the_default_gateway(machine, site, opts, asked):
    machine.opts |= opts
    apply(machine)
    assert site.asked == asked


def test_firewall_where_one_of_two_masters_is_enough(machine, site):
    machine.opts |= {"master_uri": None, "master": ["one", "two"]}
    site.cut = {"one"}
    assert apply(machine)["result"] is True
    site.cut = {"one", "two"}
    assert apply(machine, DROP)["result"] is False


def test_firewall_takes_back_what_a_killed_run_left_on_trial(machine, site, module, monkeypatch):
    apply(machine)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_lost", killed)
        with pytest.raises(KeyboardInterrupt):
            apply(machine, DROP)
    assert "src -j DROP" in str(site.firewall.read()["v4"])
    changes = machine.converges("loaded", "rules", RULESET, peers=[PEER])
    assert changes == {"trial": "taken back"}
    assert "src -j DROP" not in str(site.firewall.read()["v4"])


def test_firewall_that_was_taken_back_by_the_timer(machine, site, module, monkeypatch):
    """The verdict comes too late: what is said is what is."""
    apply(machine)

    def late(lifelines, deadline):
        site.firewall.run("rollback")
        return []

    monkeypatch.setattr(module, "_lost", late)
    ret = apply(machine, DROP)
    assert ret["result"] is False
    assert "has been taken back already" in ret["comment"]
    assert "src -j DROP" not in str(site.firewall.read()["v4"])


def test_firewall_keeps_its_files_to_itself(machine, site):
    apply(machine)
    assert site.firewall.home.stat().st_mode & 0o777 == 0o700
    site.firewall.home.chmod(0o755)
    changes = machine.converges("loaded", "rules", RULESET, peers=[PEER])
    assert changes == {"folder": {"mode": {"old": "0755", "new": "0700"}}}
    assert machine.mode(site.firewall.home) == 0o700
