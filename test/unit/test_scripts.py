"""The shell scripts of the formula, with the tools that they call played by the test."""

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import _gateway_foreign_iptables
import pytest

FOLLOW = "gateway/follow/files/follow"
GUARD = "gateway/firewall/files/firewall-guard"

# --------------------------------------------------------------------------------------------------
# firewall

V4 = """\
*raw
:GATEWAY-PREROUTING - [0:0]
# gateway:raw
-A GATEWAY-PREROUTING -p 112 -j CT --notrack
COMMIT
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
:GATEWAY-INPUT - [0:0]
:GATEWAY-FORWARD - [0:0]
:GATEWAY-FORWARD-LOG - [0:0]
# gateway:firewall:input:0
-A GATEWAY-INPUT -m set --match-set gateway-few-1 src -j ACCEPT
# gateway:firewall:input:1
-A GATEWAY-INPUT -j ACCEPT
-A GATEWAY-FORWARD -j GATEWAY-FORWARD-LOG
COMMIT
"""
V6 = "*filter\n:GATEWAY-INPUT - [0:0]\n:GATEWAY-FORWARD - [0:0]\nCOMMIT\n"
CLOSED = "*mangle\n:GATEWAY-PREROUTING - [0:0]\nCOMMIT\n" + V6.replace(
    "COMMIT", "-A GATEWAY-FORWARD -j DROP\nCOMMIT"
)
SETS = """\
create gateway-few-1 hash:net family inet maxelem 65536
add gateway-few-1 192.0.2.0/24
add gateway-few-1 203.0.113.9
"""
JUMPS = {
    ("raw", "PREROUTING"): 0,
    # Docker has its own at the end of this one, so that ours is in front after a boot.
    ("nat", "PREROUTING"): 0,
    # Behind what fail2ban and Docker put in front of others, here and after a boot.
    ("filter", "INPUT"): 1,
    ("filter", "FORWARD"): 2,
}


def stage(firewall, name, v4=V4, v6=V6, sets=SETS, closed=CLOSED):
    """A ruleset as the state leaves it to the script, checked."""
    folder = firewall.home / f".{name}"
    folder.mkdir(parents=True)
    texts = {"v4": v4, "v6": v6, "sets": sets, "closed4": closed, "closed6": closed}
    for file, text in texts.items():
        (folder / file).write_text(text)
    firewall.run("check", folder)


def keep(firewall, name, **texts):
    stage(firewall, name, **texts)
    firewall.run("try", name, 30)
    firewall.run("confirm", name)


@pytest.fixture(scope="module")
def with_rules(tmp_path_factory):
    """What `loaded` has made of a machine's files, once there is one."""
    return tmp_path_factory.mktemp("loaded") / "machine"


@pytest.fixture
def loaded(firewall, with_rules, tmp_path):
    """With the rules in force: a copy of the first such machine, which takes half a second."""
    if with_rules.exists():
        shutil.copytree(with_rules, tmp_path, symlinks=True, dirs_exist_ok=True)
        return firewall
    keep(firewall, "one")
    shutil.copytree(tmp_path, with_rules, symlinks=True)
    # These name the folder of this test.
    shutil.rmtree(with_rules / "bin")
    (with_rules / "firewall").unlink()
    (with_rules / "timers").unlink()
    return firewall


def picture(firewall):
    """What is on the machine, but for counters and the order in a set."""
    state = firewall.read()
    return state["v4"], state["v6"], {name: sorted(s) for name, s in state["sets"].items()}


def files(firewall):
    return sorted(path.name for path in firewall.home.iterdir())


def chain(firewall, table, name, family="v4"):
    return firewall.read()[family][table][name]


def test_check_says_what_the_kernel_makes_of_it(firewall):
    before = firewall.read()
    stage(firewall, "one")
    kernel = firewall.home / ".one/kernel"
    assert "-A PREROUTING -j GATEWAY-PREROUTING\n" in (kernel / "v4").read_text()
    assert "-A GATEWAY-PREROUTING -p vrrp -j CT --notrack\n" in (kernel / "v4").read_text()
    assert "-A INPUT -j GATEWAY-INPUT\n" in (kernel / "v6").read_text()
    assert (kernel / "sets").read_text().splitlines() == sorted(SETS.splitlines(), reverse=True)[
        :1
    ] + sorted(SETS.splitlines()[1:])
    assert firewall.read() == before


@pytest.mark.parametrize(
    ("texts", "refused"),
    [
        (
            {"v4": V4.replace("-j DNAT", "--wrong").replace("-j ACCEPT", "--wrong")},
            ["v4 13", "v4 20", "v4 22"],
        ),
        ({"v6": V6.replace("COMMIT", "-A GATEWAY-NOWHERE -j DROP\nCOMMIT")}, ["v6 4"]),
        # Refused by the kernel, which says no more than that it was something in this table.
        ({"v4": V4.replace("INPUT -j ACCEPT", "INPUT --refused")}, ["v4 22"]),
        ({"v4": V4.replace("-p 112", "--refused")}, ["v4 4"]),
        ({"sets": SETS.replace("192.0.2.0/24", "bad")}, ["sets 2"]),
    ],
    ids=["three", "IPv6", "kernel", "first table", "sets"],
)
def test_check_names_what_is_refused(firewall, texts, refused):
    folder = firewall.home / "draft"
    folder.mkdir(parents=True)
    for file, text in {"v4": V4, "v6": V6, "sets": SETS, **texts}.items():
        (folder / file).write_text(text)
    lines = firewall.run("check", folder, code=1).stdout.splitlines()
    found = {tuple(line.split()[:2]) for line in lines}
    assert [" ".join(place) for place in sorted(found, key=lambda at: int(at[1]))] == refused
    assert all(line.split(" ", 2)[2] for line in lines)


def test_check_says_why_where_no_line_is_refused(firewall, tool):
    folder = firewall.home / ".one"
    folder.mkdir(parents=True)
    for name, text in {"v4": V4, "v6": V6, "sets": SETS, "closed4": "", "closed6": ""}.items():
        (folder / name).write_text(text)
    once, scratch = firewall.home / "once", firewall.home / "scratch"
    tool(
        "unshare",
        f"[ -e {once} ] || {{ : >{once}; echo no memory >&2; exit 1; }}\n"
        f'shift; rm -f {scratch}; FAKE_IPTABLES={scratch} "$@"',
    )
    done = firewall.run("check", folder, code=1)
    assert (done.stdout, done.stderr) == ("", "no memory\n")


def test_load(loaded):
    assert chain(loaded, "raw", "GATEWAY-PREROUTING") == ["-p vrrp -j CT --notrack"]
    assert chain(loaded, "filter", "GATEWAY-FORWARD") == ["-j GATEWAY-FORWARD-LOG"]
    for (table, name), place in JUMPS.items():
        assert chain(loaded, table, name).index(f"-j GATEWAY-{name}") == place
    assert chain(loaded, "filter", "INPUT", "v6") == ["-j GATEWAY-INPUT"]
    assert len(loaded.read()["sets"]["gateway-few-1"]) == 3


def test_who_looks_at_other_firewalls_knows_the_place_of_a_new_jump(firewall):
    save = subprocess.run("iptables-nft-save", capture_output=True, text=True, check=True).stdout
    (table,) = [t for t in _gateway_foreign_iptables.save_tables(save, "") if t.name == "filter"]
    for chain in ("INPUT", "FORWARD"):
        assert _gateway_foreign_iptables.place_of_jump(table, chain) == JUMPS["filter", chain]


def differences(firewall, *arguments):
    """What `diff` prints, by table: what is too much there (-), and what is missing (+)."""
    command = ["sh", firewall.script, "diff", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == (10 if done.stdout else 0), done.stderr
    found: dict[str, list[str]] = {}
    place = ""
    for line in done.stdout.splitlines():
        if line.startswith("--- "):
            place = line.removeprefix("--- ").removesuffix(" (live)")
        elif line[0] in "+-" and not line.startswith("+++"):
            found.setdefault(place, []).append(line)
    return found


@pytest.mark.parametrize(
    "comment", ["GATEWAY-x", "-j", "-g", '"a -j GATEWAY-INPUT b"', '"-j \\" x"']
)
def test_a_rule_of_somebody_else_may_speak_of_us(loaded, comment):
    """What counts is where it leads."""
    rules = [
        f"-s 192.0.2.7/32 -m comment --comment {comment} -j {target}"
        for target in ("ACCEPT", "GATEWAY-INPUT")
    ]
    before = loaded.read()
    loaded.change(lambda state: state["v4"]["filter"]["INPUT"].extend(rules))
    found = differences(loaded)
    loaded.change(lambda state: state.update(before))
    assert found == {"IPv4 filter": [f"--A INPUT {rules[1]}"]}


def test_a_diff_between_two_rulesets(loaded):
    """Whatever the kernel has; none of both is the node without us."""
    stage(loaded, "two", v4=V4.replace("-p 112", "-p 2"), sets=SETS.replace("few-1", "few-2"))
    loaded.change(lambda state: state["v4"].pop("raw"))
    one, two = loaded.home / "current", loaded.home / ".two"
    assert differences(loaded, two, one) == {
        "sets": [
            *(f"-{line}" for line in SETS.splitlines()),
            *(f"+{line.replace('few-1', 'few-2')}" for line in SETS.splitlines()),
        ],
        "IPv4 raw": [
            "--A GATEWAY-PREROUTING -p vrrp -j CT --notrack",
            "+-A GATEWAY-PREROUTING -p 2 -j CT --notrack",
        ],
    }
    assert differences(loaded, one, one) == differences(loaded, "none", "none") == {}
    assert differences(loaded, "none", one)["IPv6 filter"] == [
        "-:GATEWAY-INPUT",
        "-:GATEWAY-FORWARD",
        "--A INPUT -j GATEWAY-INPUT",
        "--A FORWARD -j GATEWAY-FORWARD",
    ]
    assert list(differences(loaded)) == ["IPv4 raw"]


def test_a_diff_of_what_cannot_be_read_is_none(loaded, tool):
    """Neither "nothing differs" nor "all of it is missing"."""
    tool("ipset", "echo no such protocol >&2; exit 1")
    done = loaded.run("diff", code=1)
    assert (done.stdout, done.stderr) == ("", "no such protocol\n")


def test_load_again_has_nothing_to_do(loaded):
    before = loaded.state.stat().st_mtime_ns
    loaded.run("load")
    assert loaded.state.stat().st_mtime_ns == before


def test_a_change_leaves_nothing_of_the_old(loaded):
    other = V4.replace("few-1", "few-2").replace("-j ACCEPT", "-j DROP")
    other = other.replace("-A GATEWAY-FORWARD -j GATEWAY-FORWARD-LOG\n", "")
    other = other.replace(":GATEWAY-FORWARD-LOG - [0:0]\n", "")
    keep(loaded, "two", v4=other, sets=SETS.replace("few-1", "few-2"))
    assert chain(loaded, "filter", "GATEWAY-INPUT") == [
        "-m set --match-set gateway-few-2 src -j DROP",
        "-j DROP",
    ]
    assert "GATEWAY-FORWARD-LOG" not in loaded.read()["v4"]["filter"]
    assert list(loaded.read()["sets"]) == ["gateway-few-2"]
    assert files(loaded) == ["backend", "closed", "current", "src_valid_mark", "two"]


def test_counters_of_unchanged_rules_go_on(loaded):
    key = "v4 filter GATEWAY-INPUT -j ACCEPT"
    loaded.change(lambda state: state["counters"].update({key: "[7:420]"}))
    keep(loaded, "two", v4=V4.replace("-A GATEWAY-FORWARD -j", "-A GATEWAY-FORWARD -i eth0 -j"))
    assert loaded.read()["counters"][key] == "[7:420]"


def test_counters_of_a_rule_that_is_there_twice(loaded):
    """Each keeps its own."""
    twice = V4.replace("-A GATEWAY-INPUT -j ACCEPT", "-A GATEWAY-INPUT -s 192.0.2.1 -j ACCEPT")
    keep(loaded, "two", v4=twice)
    key = "v4 filter GATEWAY-INPUT -s 192.0.2.1 -j ACCEPT"
    loaded.change(lambda state: state["counters"].update({key: "[3:180]"}))
    keep(loaded, "three", v4=V4)
    keep(loaded, "four", v4=twice)
    # It was away meanwhile.
    assert loaded.read()["counters"].get(key, "[0:0]") == "[0:0]"


def test_the_door_has_its_new_form_before_anybody_is_led_to_it(loaded):
    """Table filter before nat, in one run of the loader."""
    loaded.change(lambda state: state.update(committed=[]))
    changed = V4.replace("INPUT -j ACCEPT", "INPUT -j DROP").replace("10.77.0.10", "10.77.0.11")
    stage(loaded, "two", v4=changed)
    loaded.run("try", "two", 30)
    assert loaded.read()["committed"] == ["v4 filter", "v4 nat"]


def test_what_is_marked_is_judged_at_any_moment(loaded):
    """From rules that do not mark what table filter has to judge, to rules that do, and back: what
    is marked while nobody takes the mark away would be lost."""
    mark, clear = "MARK --set-xmark 0x20000000/0x20000000", "MARK --set-xmark 0x0/0x20000000"
    marking = V4.replace(
        "*mangle\n", f"*mangle\n:GATEWAY-FORWARD - [0:0]\n-A GATEWAY-FORWARD -i eth1 -j {mark}\n"
    ).replace("-j GATEWAY-FORWARD-LOG", f"-i eth1 -j {clear}")
    for name, text, order in (("two", marking, "filter mangle"), ("three", V4, "mangle filter")):
        loaded.change(lambda state: state.update(committed=[]))
        keep(loaded, name, v4=text)
        assert loaded.read()["committed"] == [f"v4 {table}" for table in order.split()]


def test_one_loader_at_a_time(loaded):
    """Whoever changes rules waits for who does so already."""
    holder = subprocess.Popen(
        ["flock", str(loaded.home), "sh", "-c", "echo held; sleep 1"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    start = time.monotonic()
    loaded.run("load")
    assert time.monotonic() - start > 0.8
    assert holder.wait() == 0


SPOILS = {
    "lost jump": lambda state: state["v4"]["filter"]["FORWARD"].remove("-j GATEWAY-FORWARD"),
    "second jump": lambda state: state["v4"]["filter"]["INPUT"].append("-j GATEWAY-INPUT"),
    "strange jump": lambda state: state["v4"]["filter"]["OUTPUT"].append("-j GATEWAY-INPUT"),
    "strange chain": lambda state: state["v4"]["nat"].update({"GATEWAY-X": ["-j RETURN"]}),
    "lost rule": lambda state: state["v4"]["filter"]["GATEWAY-INPUT"].pop(),
    "lost chains": lambda state: state["v6"].clear(),
    "lost member": lambda state: state["sets"]["gateway-few-1"].pop(),
    "another member": lambda state: state["sets"]["gateway-few-1"].append("192.0.2.7"),
    "another first one": lambda state: state["sets"]["gateway-few-1"].__setitem__(1, "192.0.2.7"),
    "another last one": lambda state: state["sets"]["gateway-few-1"].__setitem__(2, "192.0.2.7"),
    "another type": lambda state: state["sets"]["gateway-few-1"].__setitem__(0, "hash:ip"),
    "half a set": lambda state: state["sets"].update({"gateway-new": ["hash:net"]}),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_load_repairs(loaded, spoil):
    before = picture(loaded)
    assert json.loads(loaded.run("status").stdout)["drift"] is False
    loaded.change(SPOILS[spoil])
    assert json.loads(loaded.run("status").stdout)["drift"] is True
    loaded.run("load")
    assert picture(loaded) == before
    assert json.loads(loaded.run("status").stdout)["drift"] is False


def test_a_jump_stays_where_somebody_put_it(loaded):
    def move(state):
        rules = state["v4"]["filter"]["INPUT"]
        rules.remove("-j GATEWAY-INPUT")
        rules.append("-j GATEWAY-INPUT")

    loaded.change(move)
    keep(loaded, "two", v4=V4.replace("INPUT -j ACCEPT", "INPUT -j DROP"))
    assert chain(loaded, "filter", "INPUT").index("-j GATEWAY-INPUT") == 3


@pytest.mark.parametrize("comment", ["GATEWAY-x", "-j", "-g"])
def test_a_comment_without_quotes_is_no_jump_either(loaded, comment):
    """iptables-save has quotes only around what needs them."""
    rule = f"-s 192.0.2.7/32 -m comment --comment {comment}"
    loaded.change(lambda state: state["v4"]["filter"]["INPUT"].append(f"{rule} -j ACCEPT"))
    assert json.loads(loaded.run("status").stdout)["drift"] is False
    jump = f"{rule} -j GATEWAY-INPUT"
    loaded.change(lambda state: state["v4"]["filter"]["INPUT"].append(jump))
    assert json.loads(loaded.run("status").stdout)["drift"] is True
    loaded.run("load")
    assert jump not in chain(loaded, "filter", "INPUT")
    loaded.change(lambda state: state["v4"]["filter"]["INPUT"].remove(f"{rule} -j ACCEPT"))


def test_a_comment_is_no_jump(loaded):
    rule = '-m comment --comment "as in -j GATEWAY-INPUT" -j ACCEPT'
    loaded.change(lambda state: state["v4"]["filter"]["OUTPUT"].append(rule))
    assert json.loads(loaded.run("status").stdout)["drift"] is False


# What becomes of a ruleset on trial


def test_a_trial_has_its_timer_before_its_rules(loaded, tool):
    stage(loaded, "two", v4=V4.replace("INPUT -j ACCEPT", "INPUT -j DROP"))
    before = chain(loaded, "filter", "GATEWAY-INPUT")
    tool("systemd-run", "exit 1")
    loaded.run("try", "two", 30, code=1)
    assert chain(loaded, "filter", "GATEWAY-INPUT") == before
    assert not (loaded.home / "pending").is_symlink()


def test_a_trial_is_taken_back(loaded):
    before = picture(loaded)
    stage(loaded, "two", v4=V4.replace("few-1", "few-2"), sets=SETS.replace("few-1", "few-2"))
    loaded.run("try", "two", 30)
    assert loaded.timers()[-1].startswith(
        "start --quiet --collect --unit=gateway-firewall-back-two"
    )
    assert "--on-active=30s" in loaded.timers()[-1]
    assert loaded.timers()[-1].endswith(f"{loaded.script} rollback two")
    assert json.loads(loaded.run("status").stdout)["pending"] is True
    assert sorted(loaded.read()["sets"]) == ["gateway-few-1", "gateway-few-2"]
    assert loaded.run("rollback", "two").stdout == "ruleset two was taken back\n"
    assert picture(loaded) == before
    assert loaded.timers()[-1] == "stop gateway-firewall-back-two.timer"
    assert files(loaded) == ["backend", "closed", "current", "one", "src_valid_mark"]
    loaded.run("confirm", "two", code=1)  # too late
    assert picture(loaded) == before


@pytest.mark.parametrize("end", ["rollback", "load"])
def test_the_first_trial_leaves_nothing(firewall, end):
    stage(firewall, "one")
    before = firewall.read()
    firewall.run("try", "one", 30)
    firewall.run(end)
    assert not (firewall.home / "pending").is_symlink()
    assert own(firewall) == set()
    assert firewall.read()["sets"] == {}
    assert before["v4"]["filter"] == firewall.read()["v4"]["filter"]


def own(firewall):
    state = firewall.read()
    return {
        (family, table, name)
        for family in ("v4", "v6")
        for table, chains in state[family].items()
        for name, rules in chains.items()
        if "GATEWAY-" in f"{name} {rules}"
    }


@pytest.mark.parametrize("end", [("load",), ("rollback", "one"), ("rollback", "two")], ids=str)
def test_a_timer_that_is_late_does_no_harm(loaded, end):
    """A reboot, the timer of a trial before, the one of a trial that was confirmed."""
    stage(loaded, "two", v4=V4.replace("INPUT -j ACCEPT", "INPUT -j DROP"))
    loaded.run("try", "two", 30)
    if end[0] == "load":
        loaded.run("load")
        assert "-j ACCEPT" in chain(loaded, "filter", "GATEWAY-INPUT")
    elif end[1] == "one":
        loaded.run(*end)
        assert "-j DROP" in chain(loaded, "filter", "GATEWAY-INPUT")
        loaded.run("confirm", "two")
    else:
        loaded.run("confirm", "two")
        loaded.run(*end)
        assert "-j DROP" in chain(loaded, "filter", "GATEWAY-INPUT")
    assert not (loaded.home / "pending").is_symlink()


def test_a_second_trial_takes_the_first_back(loaded):
    for name, target in (("two", "DROP"), ("three", "REJECT")):
        stage(loaded, name, v4=V4.replace("INPUT -j ACCEPT", f"INPUT -j {target}"))
        loaded.run("try", name, 30)
    loaded.run("confirm", "two", code=1)
    loaded.run("rollback", "two")
    loaded.run("confirm", "three")
    assert "-j REJECT" in chain(loaded, "filter", "GATEWAY-INPUT")


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_trial_that_does_not_load_is_taken_back_at_once(loaded, family):
    before = picture(loaded)
    stage(loaded, "two", v4=V4.replace("-j ACCEPT", "-j DROP"))
    kernel = loaded.home / f".two/kernel/{family}"
    kernel.write_text(kernel.read_text().replace("COMMIT", "-A GATEWAY-INPUT --wrong\nCOMMIT"))
    assert "--wrong" in loaded.run("try", "two", 30, code=1).stderr
    assert picture(loaded) == before


@pytest.mark.parametrize("arguments", [("load",), ("unload",), ("rollback",), ("status",)], ids=str)
def test_without_a_look_at_the_kernel_nothing_is_done(loaded, tool, arguments):
    """Who does not know what is there would put every jump in twice."""
    stage(loaded, "two", v4=V4.replace("-j ACCEPT", "-j DROP"))
    loaded.run("try", "two", 30)
    before = loaded.read()["v4"]
    tool("iptables-nft-save", "echo 'iptables-save: no' >&2; exit 1")
    assert "iptables-save: no" in loaded.run(*arguments, code=None).stderr
    assert loaded.read()["v4"] == before


def test_unload_leaves_what_was_there_before(loaded):
    for _ in range(2):  # nothing is left to do
        loaded.run("unload")
        assert own(loaded) == set()
        assert loaded.read()["sets"] == {}
        assert list(loaded.home.iterdir()) == []
        assert loaded.gate(4) == loaded.gate(6) == ""
        assert (loaded.proc / "net/ipv4/conf/all/src_valid_mark").read_text() == "0\n"
        assert said(loaded) == ""


# Closed where it fails

GATE = """\
120:	from all nop proto 119
118:	from all iif lo goto 120 proto 119
119:	from all fwmark 0/0x40000000 blackhole proto 119
"""


def said(firewall):
    """What the health monitor reads."""
    path = firewall.run_folder / "firewall"
    return path.read_text().strip() if path.exists() else ""


def is_closed(firewall):
    """The closed rules are in force in both families, behind the gate, and it is said why."""
    assert said(firewall).startswith("closed ")
    assert firewall.gate(4) == firewall.gate(6) == GATE
    for family in ("v4", "v6"):
        assert chain(firewall, "filter", "GATEWAY-FORWARD", family) == ["-j DROP"]
        assert "-j GATEWAY-FORWARD" in chain(firewall, "filter", "FORWARD", family)
    assert "GATEWAY-PREROUTING" in firewall.read()["v4"]["mangle"]
    assert chain(firewall, "mangle", "GATEWAY-PREROUTING") == []
    return True


def forward(firewall):
    file = firewall.home.parent / "etc/forwarding.conf"
    file.parent.mkdir()
    file.write_text("net/ipv4/ip_forward = 1\n")


def test_the_gate_comes_with_the_rules(loaded):
    assert loaded.gate(4) == loaded.gate(6) == GATE
    assert (loaded.proc / "net/ipv4/conf/all/src_valid_mark").read_text() == "1\n"
    assert said(loaded) == "loaded"
    loaded.run("gate")
    for family in (4, 6):
        rules = loaded.gate(family).splitlines(keepends=True)
        Path(f"{loaded.rules}{family}").write_text("".join(rules[:2]))
        loaded.run("gate", code=1)
        assert json.loads(loaded.run("status").stdout)["gate"] is False
        loaded.run("load")
        assert loaded.gate(family) == GATE
    (loaded.proc / "net/ipv4/conf/all/src_valid_mark").write_text("0\n")
    loaded.run("gate", code=1)


@pytest.fixture
def guard(root, tmp_path, monkeypatch):
    """firewall-guard, whose loader notes its calls and does as `says` says; seconds are shorter."""
    calls, script = tmp_path / "calls", tmp_path / "usr/lib/gateway/firewall"
    run, home = tmp_path / "run/gateway", tmp_path / "var/lib/gateway/firewall"
    for folder in (script.parent, run / "health", home):
        folder.mkdir(parents=True)
    limits = {"REST": 0.02, "CLOSED_REST": 0.1, "CALM": 1, "SILENT_IDLE": 0.1}
    # It hears those of nftables only as root; the other one speaks of routes.
    limits["NETFILTER"] = socket.NETLINK_ROUTE
    for name, value in limits.items():
        monkeypatch.setenv(f"GUARD_{name}", str(value))
    monkeypatch.setenv("GATEWAY_ROOT", str(tmp_path))
    (home / "backend").write_text("nft\n")
    processes = []

    def says(shell):
        new = script.with_name("firewall.next")
        new.write_text(f"#!/bin/sh\necho $1 >>{calls}\n{shell}\n")
        new.chmod(0o755)
        new.replace(script)

    def start(*command):
        processes.append(subprocess.Popen([*command, "perl", str(root / GUARD)]))
        return processes[-1]

    def count():
        return len(calls.read_text().splitlines()) if calls.exists() else 0

    def wait(condition):
        limit = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < limit
            time.sleep(0.02)

    says("exit 0")
    yield SimpleNamespace(
        says=says, start=start, count=count, wait=wait, calls=calls, run=run, home=home
    )
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("end", ["kill -9 $$", "exit 2", "exit 1"])
def test_the_guard_asks_again_where_nothing_was_repaired(guard, end):
    """The kernel says once that something has changed."""
    guard.says(f"[ $(wc -l <{guard.calls}) -gt 1 ] || {end}")
    guard.start()
    guard.wait(lambda: guard.count() == 2)
    time.sleep(0.7)
    assert guard.calls.read_text() == "repair\nrepair\n"


@pytest.mark.parametrize(
    ("backend", "sets", "often"), [("nft", "", False), ("nft", "x", True), ("legacy", "", True)]
)
def test_the_guard_looks_often_where_the_kernel_says_nothing(guard, backend, sets, often):
    (guard.home / "backend").write_text(f"{backend}\n")
    (guard.home / "current/kernel").mkdir(parents=True)
    (guard.home / "current/kernel/sets").write_text(sets)
    guard.start()
    guard.wait(guard.count)
    time.sleep(1)
    assert (guard.count() > 3) is often
    assert not (guard.run / "firewall.restored").exists()


def test_the_guard_waits_where_there_is_no_firewall_yet(guard):
    (guard.home / "backend").unlink()
    guard.start()
    guard.wait(guard.count)
    time.sleep(0.5)
    assert guard.count() == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a network of its own")
def test_the_guard_hears_the_kernel(guard):
    process = guard.start("unshare", "--net")
    guard.wait(guard.count)
    time.sleep(0.3)
    for calls in (2, 3):
        command = f"nsenter --net=/proc/{process.pid}/ns/net ip rule add pref {calls} lookup main"
        subprocess.run(command.split(), check=True)
        guard.wait(lambda calls=calls: guard.count() == calls)
        time.sleep(0.3)
        assert guard.count() == calls


def test_who_takes_rules_away_again_and_again_is_a_fault_of_the_node(guard, tmp_path):
    (guard.home / "backend").write_text("legacy\n")
    restored, fault = guard.run / "firewall.restored", guard.run / "health/firewall"
    restored.write_text("5\n")
    fault.write_text("of an earlier guard\n")
    os.mkfifo(guard.run / "health.fifo")
    monitor = os.open(guard.run / "health.fifo", os.O_RDWR | os.O_NONBLOCK)
    guard.says(f"[ $(wc -l <{guard.calls}) -gt 2 ] || exit 10")
    guard.start()
    guard.wait(lambda: guard.count() > 4)
    assert restored.read_text() == "7\n"
    assert not fault.exists()
    guard.says("exit 10")
    guard.wait(fault.exists)
    assert fault.read_text() == "something takes the firewall rules away again and again\n"
    assert int(restored.read_text()) >= 8
    time.sleep(0.5)
    assert os.read(monitor, 100) == b"firewall\n"  # once
    guard.says("exit 0")
    time.sleep(0.5)
    assert fault.exists()
    guard.wait(lambda: not fault.exists())
    assert os.read(monitor, 100) == b"firewall\n"
    # What was before counts no more.
    guard.says(f"[ -e {tmp_path}/once ] && exit 0; : >{tmp_path}/once; exit 10")
    guard.wait((tmp_path / "once").exists)
    time.sleep(0.5)
    assert not fault.exists()
    os.close(monitor)


@pytest.mark.parametrize(
    ("rule", "gate"),
    [
        ("100:\tfrom all lookup main ", False),
        ("119:\tfrom 10.0.0.0/8 lookup 7 ", False),
        ("110:\tfrom all iif lo lookup 7 ", True),
        ("110:\tfrom 192.0.2.1 blackhole ", True),
        ("99:\tfrom all lookup local ", True),
        ("119:\tfrom all lookup main ", None),
        ("1000:\tfrom all lookup 7 ", True),
    ],
)
def test_a_rule_before_the_gate_leads_around_it(loaded, rule, gate):
    """``gate`` None: of the same priority, and asked after it."""
    path = Path(f"{loaded.rules}6")
    ours = path.read_text()
    # `ip` of the test sorts by number; what is equal by the text after it.
    path.write_text(f"{ours}{rule}\n" if gate is None else f"{rule}\n{ours}")
    assert json.loads(loaded.run("status").stdout)["gate"] is (gate is not False)
    # Nothing can be put right: it is somebody else's.
    assert loaded.run("repair").stdout == ""
    loaded.run("gate")


def test_rules_without_a_mark_have_no_gate(firewall):
    """Of an older version of the formula: nothing would be forwarded any more."""
    keep(firewall, "one", v4=V4.replace("-j MARK --set-xmark 0x40000000/0x40000000", "-j RETURN"))
    assert firewall.gate(4) == ""
    firewall.run("load")
    assert firewall.gate(4) == ""
    assert said(firewall) == "loaded"
    assert firewall.run("repair").stdout == ""


def test_forwarding_is_switched_on_when_the_rules_are_in_force(loaded):
    def forwards():
        return (loaded.proc / "net/ipv4/ip_forward").read_text() == "1\n"

    loaded.run("load")
    assert not forwards()
    forward(loaded)
    loaded.change(lambda state: state["sets"].clear() or state["v4"].update({}))
    loaded.run("load")
    assert forwards()


def test_a_trial_switches_forwarding_on_where_the_boot_has_not(loaded):
    """Who is in force has to forward: the node takes the virtual IP then."""
    forward(loaded)
    (loaded.home / "one/kernel/v4").write_text("")
    loaded.run("load", code=1)
    assert (loaded.proc / "net/ipv4/ip_forward").read_text() == "0\n"
    keep(loaded, "two")
    assert said(loaded) == "loaded"
    assert (loaded.proc / "net/ipv4/ip_forward").read_text() == "1\n"


@pytest.mark.parametrize("end", ["rollback", "load"])
def test_a_closed_node_is_closed_again_after_a_trial(loaded, end):
    """Without confirmed rules it was not as before the formula."""
    (loaded.home / "current").unlink()
    loaded.run("load", code=1)
    stage(loaded, "two")
    loaded.run("try", "two", 30)
    assert said(loaded) == "loaded"
    assert "this node is closed: there are no confirmed rules" in loaded.run(end).stderr
    assert is_closed(loaded)
    assert not (loaded.home / "pending").is_symlink()


def test_it_is_said_that_nothing_can_be_loaded(loaded, tool):
    forward(loaded)
    for name in ("iptables-nft-restore", "ip6tables-nft-restore"):
        tool(name, "echo 'no table for you' >&2; exit 1")
    loaded.change(lambda state: state["v4"].update(loaded.foreign))
    loaded.change(lambda state: state["v6"].clear())
    loaded.run("load", code=1)
    assert said(loaded) == "closed no table for you no table for you no table for you"
    assert loaded.gate(4) == loaded.gate(6) == GATE


def break_sets(firewall, tool):
    firewall.change(lambda state: [state[key].clear() for key in ("v4", "v6", "sets")])
    firewall.change(lambda state: state["v4"].update(firewall.foreign))
    tool("ipset", 'case $1 in restore) echo "no such type" >&2; exit 1 ;; esac')


def break_rules(firewall, tool):
    path = firewall.home / "one/kernel/v4"
    path.write_text(path.read_text().replace("-p vrrp", "--refused"))


LOST = {
    "a set": break_sets,
    "a rule": break_rules,
    "no file": lambda firewall, tool: (firewall.home / "one/kernel/v6").unlink(),
    "empty file": lambda firewall, tool: (firewall.home / "one/kernel/v4").write_text(""),
    "half a file": lambda firewall, tool: (firewall.home / "one/kernel/v4").write_text(V4[:300]),
    "no sets file": lambda firewall, tool: (firewall.home / "one/kernel/sets").unlink(),
    "no ruleset": lambda firewall, tool: (firewall.home / "current").unlink(),
}


@pytest.mark.parametrize("loss", LOST)
def test_what_cannot_be_loaded_closes_the_node(loaded, tool, loss):
    """At boot, say; the rules of before are there or not."""
    forward(loaded)
    LOST[loss](loaded, tool)
    assert "this node is closed: " in loaded.run("load", code=1).stderr
    assert is_closed(loaded)
    assert (loaded.proc / "net/ipv4/ip_forward").read_text() == "0\n"
    status = json.loads(loaded.run("status").stdout)
    assert (status["loaded"], status["closed"]) == (False, said(loaded).removeprefix("closed "))
    loaded.run("repair", code=1)
    assert is_closed(loaded)


def test_it_opens_when_they_can_be_loaded_again(loaded, tool):
    before, path = picture(loaded), loaded.home / "one/kernel/v4"
    good = path.read_text()
    path.write_text("")
    loaded.run("load", code=1)
    path.write_text(good)
    assert loaded.run("repair", code=10).stdout.startswith("put back: ")
    assert picture(loaded) == before
    assert said(loaded) == "loaded"


def test_a_node_without_the_closed_rules_has_the_least(loaded):
    shutil.rmtree(loaded.home)
    loaded.run("load", code=1)
    assert is_closed(loaded)
    for family, icmp in (("v4", "icmp"), ("v6", "ipv6-icmp")):
        assert chain(loaded, "filter", "GATEWAY-INPUT", family) == [
            "-i lo -j ACCEPT",
            "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            f"-p {icmp} -j ACCEPT",
            "-j DROP",
        ]


def test_without_a_gate_nothing_is_forwarded_at_all(loaded, tool):
    (loaded.proc / "net/ipv4/ip_forward").write_text("1\n")
    (loaded.proc / "net/ipv6/conf/all/forwarding").write_text("1\n")
    (loaded.home / "one/kernel/v4").write_text("")
    for family in (4, 6):
        Path(f"{loaded.rules}{family}").write_text("")
    tool("ip", "case $* in *show*) ;; *) exit 1 ;; esac")
    loaded.run("load", code=1)
    assert said(loaded).startswith("closed ")
    assert (loaded.proc / "net/ipv4/ip_forward").read_text() == "0\n"
    assert (loaded.proc / "net/ipv6/conf/all/forwarding").read_text() == "0\n"


def test_closed_rules_that_the_kernel_refuses_are_found_by_the_check(firewall):
    folder = firewall.home / "draft"
    folder.mkdir(parents=True)
    closed = CLOSED.replace("-j DROP", "--wrong")
    texts = {"v4": V4, "v6": V6, "sets": SETS, "closed4": CLOSED, "closed6": closed}
    for file, text in texts.items():
        (folder / file).write_text(text)
    assert "--wrong" in firewall.run("check", folder, code=1).stderr


# What is put back

FLUSHES = {
    "everything": (
        lambda state: [state["v4"].clear(), state["v6"].clear(), state["counters"].clear()],
        "v4 filter, v4 mangle, v4 nat, v4 raw, v6 filter",
    ),
    "a table": (lambda state: state["v4"].pop("raw"), "v4 raw"),
    "its rules": (
        lambda state: [rules.clear() for rules in state["v4"]["mangle"].values()],
        "v4 mangle",
    ),
    "a jump": (lambda state: state["v6"]["filter"]["FORWARD"].clear(), "v6 filter"),
    "a chain's rules": (lambda state: state["v4"]["nat"]["GATEWAY-PREROUTING"].clear(), "v4 nat"),
    "a set's members": (
        lambda state: state["sets"]["gateway-few-1"].__delitem__(slice(1, None)),
        "set gateway-few-1",
    ),
}


@pytest.mark.parametrize("flush", FLUSHES)
def test_what_somebody_flushes_is_put_back(loaded, flush):
    spoil, lost = FLUSHES[flush]
    before = picture(loaded)
    assert loaded.run("repair").stdout == ""
    loaded.change(spoil)
    loaded.change(lambda state: state["v4"].update(loaded.foreign) if not state["v4"] else None)
    assert loaded.run("repair", code=10).stdout.startswith(f"put back: {lost}")
    assert picture(loaded) == before
    assert loaded.run("repair").stdout == ""


def test_a_warning_is_no_loss(loaded, tool, tmp_path):
    """iptables says so on each call where there are rules in the other kind of it."""
    real = (tmp_path / "bin/iptables-nft-save").read_text().splitlines()[1]
    warning = "# Warning: iptables-legacy tables present, use iptables-legacy-save to see them"
    tool("iptables-nft-save", f"echo '{warning}' >&2\n{real}")
    done = loaded.run("repair")
    assert done.stdout == ""


def test_what_cannot_be_compared_is_loaded_anew(loaded, tool):
    tool("ip6tables-nft-save", "exit 1")
    loaded.run("repair", code=1)
    assert said(loaded).startswith("closed ")


def test_a_lost_gate_is_put_back(loaded):
    Path(f"{loaded.rules}6").write_text("")
    assert loaded.run("repair", code=10).stdout == "put back: the gate\n"
    assert loaded.gate(6) == GATE


def test_what_is_on_trial_is_put_back_too(loaded):
    stage(loaded, "two", v4=V4.replace("-j ACCEPT", "-j DROP"))
    loaded.run("try", "two", 30)
    before = picture(loaded)
    loaded.change(lambda state: state["v4"]["filter"]["GATEWAY-INPUT"].clear())
    loaded.run("repair", code=10)
    assert picture(loaded) == before
    loaded.run("confirm", "two")


def test_a_rule_more_or_less_is_not_put_back(loaded):
    """Somebody's doing: gateway.status shows it, and the next apply."""
    loaded.change(lambda state: state["v4"]["filter"]["GATEWAY-INPUT"].pop())
    loaded.change(lambda state: state["v4"]["filter"]["GATEWAY-INPUT"].insert(0, "-j X"))
    before = picture(loaded)
    assert loaded.run("repair").stdout == ""
    assert picture(loaded) == before


# nft or legacy


@pytest.mark.parametrize(
    ("version", "nft", "legacy", "expected"),
    [
        ("v1.8.9 (nf_tables)", "", "", "nft"),
        ("v1.8.9 (legacy)", "", "", "legacy"),
        ("v1.6.0", "", "", "legacy"),
        ("v1.8.9 (nf_tables)", "", "-A INPUT -j DROP", "legacy"),
        ("v1.8.9 (nf_tables)", "-A INPUT -j DROP", "-A INPUT -j DROP", "nft"),
        ("v1.8.9 (legacy)", ":INPUT ACCEPT", "-A INPUT -j DROP", "legacy"),
    ],
)
def test_backend(firewall, tool, version, nft, legacy, expected):
    tool("iptables", f"echo 'iptables {version}'")
    tool("iptables-nft-save", f"echo '{nft}'")
    tool("iptables-legacy-save", f"echo '{legacy}'")
    assert firewall.run("backend").stdout == f"{expected}\n"


def test_backend_stays(loaded, tool):
    tool("iptables", "echo 'iptables v1.8.9 (legacy)'")
    assert loaded.run("backend").stdout == "nft\n"


@pytest.mark.parametrize("arguments", [(), ("check",), ("try", "x"), ("show",), ("load", "x")])
def test_usage(firewall, arguments):
    usage = firewall.run(*arguments, code=64).stderr
    lines = [line.split()[1] for line in usage.splitlines() if line.startswith("  firewall")]
    assert " ".join(lines) == (
        "backend check try confirm rollback load repair unload gate diff status"
    )


# --------------------------------------------------------------------------------------------------
# follow


@pytest.fixture
def follower(tool, root, tmp_path):
    """Start the follower on a node; what it calls is in ``calls``."""
    names = ("log", "address", "active", "routes", "kernel", "broken")
    log, address, active, routes, kernel, broken = (tmp_path / name for name in names)
    fifo = tmp_path / "fifo"
    tool(
        "ip",
        f"""test ! -e {broken} || exit 1
        case $* in
            *address*) echo look >>{log}; test ! -e {address} || echo "3: eth0 inet $5/32" ;;
            "-4 route show proto 119") cat {kernel} ;;
            "-force -batch -") sed 's/^route add //; s/proto 119/dev eth0 /; /^$/d' >>{kernel} ;;
        esac""",
    )
    tool(
        "systemctl",
        f"""echo "$*" >>{log}
        case $1 in
            start) touch {active} ;;
            stop) rm -f {active} ;;
            is-active) test -e {active} ;;
        esac""",
    )
    os.mkfifo(fifo)
    log.touch()
    kernel.touch()
    processes = []

    def start(*names, reassert=0, random=32767):
        """``random``: how far, of 32767, from the shortest to the longest time; "" for by chance"""
        command = ["bash", root / FOLLOW, fifo, "10.77.0.1", routes, str(reassert), *names]
        environment = {**os.environ, "FOLLOW_RANDOM": str(random)}
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment))

    def tell(text):
        with open(os.open(fifo, os.O_RDWR), "wb", buffering=0) as pipe:
            pipe.write(text if isinstance(text, bytes) else text.encode())

    def wait(condition, seconds=4):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.01)

    node = SimpleNamespace(
        start=start,
        tell=tell,
        wait=wait,
        address=address,
        active=active,
        routes=routes,
        kernel=kernel,
        broken=broken,
        processes=processes,
        run=tmp_path,
        calls=lambda: log.read_text().splitlines(),
    )
    yield node
    for process in processes:
        process.kill()
        process.wait()


TARGET = "--no-block gateway-virtual-ip.target"


def looked(follower, act=None, times=1):
    """Do something, and wait until the follower has looked at the node's addresses after it."""
    before = follower.calls().count("look")
    if act:
        act()
    follower.wait(lambda: follower.calls().count("look") >= before + times)


def told(follower, line):
    looked(follower, lambda: follower.tell(f"{line}\n"))


def test_the_target_is_up_where_the_address_is(follower):
    follower.address.touch()
    follower.start()
    follower.wait(follower.active.exists)
    assert follower.calls()[:2] == ["look", f"start {TARGET}"]
    looked(follower, times=2)
    # A one-shot unit that follows would run again and again.
    assert follower.calls().count(f"start {TARGET}") == 1


def test_the_target_of_an_earlier_reader_is_stopped(follower):
    follower.active.touch()
    follower.start()
    follower.wait(lambda: not follower.active.exists())
    assert follower.calls()[-1] == f"stop {TARGET}"


def test_where_the_address_never_was_nothing_is_stopped(follower):
    looked(follower, follower.start)
    told(follower, 'INSTANCE "internal" BACKUP 249')
    assert {call.split()[0] for call in follower.calls()} == {"look", "is-active"}


def test_lines_only_wake(follower):
    """What counts is the kernel: a MASTER line without the address starts nothing."""
    looked(follower, follower.start)
    told(follower, 'INSTANCE "internal" MASTER 250')
    assert not follower.active.exists()
    follower.address.touch()
    follower.tell('INSTANCE "internal" BACKUP 250\n')
    follower.wait(follower.active.exists)
    follower.address.unlink()
    follower.tell('INSTANCE "internal" MASTER 250\n')
    follower.wait(lambda: not follower.active.exists())


def test_a_burst_is_one_wake(follower):
    looked(follower, follower.start, times=2)
    before = len(follower.calls())
    follower.address.touch()
    follower.tell("".join(f'INSTANCE "internal" {s} 250\n' for s in ["MASTER", "BACKUP"] * 50))
    follower.wait(follower.active.exists)
    follower.address.unlink()
    follower.tell('INSTANCE "internal" BACKUP 250\n')
    follower.wait(lambda: not follower.active.exists())
    assert follower.calls()[before:].count("look") <= 4


def test_an_address_that_comes_after_its_line(follower):
    looked(follower, follower.start, times=2)
    told(follower, 'INSTANCE "internal" MASTER 250')
    follower.address.touch()
    follower.wait(follower.active.exists, seconds=2)


@pytest.mark.parametrize(
    "garbage",
    [b"\n\n\n", b"\0\xff\xfe\n", b"$(touch x) `touch x` \\\n", b"x" * 3000, b"no line break"],
    ids=["empty", "bytes", "shell", "long", "unfinished"],
)
def test_garbage_does_no_harm(follower, garbage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    looked(follower, follower.start)
    follower.tell(garbage)
    follower.address.touch()
    follower.tell('\nINSTANCE "internal" MASTER 250\n')
    follower.wait(follower.active.exists)
    assert not (tmp_path / "x").exists()


def test_without_its_fifo_it_fails(follower, root, tmp_path):
    """systemd then starts it again."""
    command = ["bash", root / FOLLOW, tmp_path, "10.77.0.1", tmp_path / "routes", "60"]
    done = subprocess.run(command, stderr=subprocess.DEVNULL, check=False, timeout=5)
    assert done.returncode == 1


def test_a_target_that_somebody_stopped_is_started(follower):
    follower.address.touch()
    follower.start()
    follower.wait(follower.active.exists)
    follower.active.unlink()
    follower.wait(follower.active.exists, seconds=9)


def test_without_an_answer_of_the_kernel_nothing_changes(follower):
    follower.address.touch()
    follower.start()
    looked(follower, lambda: follower.wait(follower.active.exists), times=2)
    follower.broken.touch()
    time.sleep(0.2)
    before = len(follower.calls())
    follower.tell('INSTANCE "internal" MASTER 250\n')
    time.sleep(0.5)
    assert follower.calls()[before:] == []


HOOKS = "start --no-block gateway-follow-hooks.service"
EVENT = "start --no-block gateway-follow-event.service"
CONTEST = 'INSTANCE "internal" MASTER_RX_LOWER_PRI 250\n'


def role(follower):
    path = follower.run / "role"
    return path.read_text().split()[0] if path.exists() else None


def asked(follower):
    """Why the executables are to be called."""
    return (follower.run / "hooks.asked").read_text().split()[1]


def end_well(follower, *names):
    """As follow-tell does when all have ended well."""
    role = (follower.run / "role").read_text().strip()
    number = (follower.run / "hooks.asked").read_text().split()[0]
    for name in names or ("hooks",):
        text = f"{role} {number}" if name == "hooks" else role
        (follower.run / f"{name}.told").write_text(f"{text}\n")


def called(follower, call, times):
    """When it has been called so often, and not more within some looks after that."""
    follower.wait(lambda: follower.calls().count(call) >= times, seconds=9)
    looked(follower, times=2)
    assert follower.calls().count(call) == times


def primary(follower, **options):
    """A node that has been primary for a while, whose executables have ended well."""
    follower.address.touch()
    follower.start("hooks", "event", **options)
    follower.wait(lambda: EVENT in follower.calls())
    end_well(follower, "hooks", "event")


def test_the_role_is_written_and_told_once(follower):
    follower.start("hooks", "event")
    follower.wait(lambda: role(follower) == "secondary")
    follower.wait(lambda: follower.calls()[-2:] == [HOOKS, EVENT])
    assert asked(follower) == "start"
    end_well(follower, "hooks", "event")
    follower.address.touch()
    follower.tell('INSTANCE "internal" MASTER 250\n')
    follower.wait(lambda: role(follower) == "primary")
    follower.wait(lambda: follower.calls()[-2:] == [HOOKS, EVENT])
    assert asked(follower) == "change"
    assert f"start {TARGET}" in follower.calls()
    end_well(follower, "hooks", "event")
    called(follower, HOOKS, 2)
    called(follower, EVENT, 2)


@pytest.mark.parametrize("name", ["hooks", "event"])
@pytest.mark.parametrize(("random", "first", "second"), [(0, 1, 2), (32767, 2, 4)])
def test_who_could_not_be_told_is_told_later(follower, name, random, first, second):
    """After 1 to 2 s, then 2 to 4 s, and so on; it looks about once a second."""
    follower.start(name, random=random)
    times = []
    for count in (1, 2, 3):
        follower.wait(lambda: len(starts(follower)) == count, seconds=9)  # noqa: B023
        times.append(time.monotonic())
    assert first - 0.2 < times[1] - times[0] < first + 1.5
    assert second - 0.2 < times[2] - times[1] < second + 1.5
    end_well(follower, name)


def starts(follower):
    return [call for call in follower.calls() if call in (HOOKS, EVENT)]


def test_waits_differ_by_chance(root):
    """Between a part of the time and all of it, and seldom the same."""
    for percent in (50, 90):
        loop = f"for _ in {{1..200}}; do about {percent} 300; echo $time; done"
        script = f". {root / FOLLOW}-decisions; {loop}"
        said = subprocess.run(["bash", "-uc", script], capture_output=True, check=True).stdout
        times = [int(line) for line in said.split()]
        width = 30000 - 300 * percent
        assert 300 * percent <= min(times) < 300 * percent + 0.2 * width
        assert 30000 - 0.2 * width < max(times) <= 30000
        assert len(set(times)) > 150


def test_after_a_restart_hooks_hear_the_role_again_and_the_master_does_not(follower):
    primary(follower)
    before = (follower.run / "role").read_text()
    follower.processes[0].kill()
    follower.processes[0].wait()
    calls = len(follower.calls())
    looked(follower, lambda: follower.start("hooks", "event"), times=2)
    told = {call for call in follower.calls()[calls:] if "gateway-follow-" in call}
    assert told == {HOOKS}
    assert asked(follower) == "start"
    assert (follower.run / "role").read_text() == before


def test_after_a_contest_hooks_of_the_winner_are_called_again(follower):
    """Once, when it is over; the master has nothing new to hear."""
    primary(follower)
    before = (follower.run / "role").read_text()
    for _ in range(15):
        follower.tell(CONTEST)
        time.sleep(0.1)
    assert follower.calls().count(HOOKS) == 1
    follower.wait(lambda: follower.calls().count(HOOKS) == 2, seconds=3)
    assert asked(follower) == "contest"
    assert (follower.run / "role").read_text() == before
    end_well(follower)
    called(follower, HOOKS, 2)
    assert follower.calls().count(EVENT) == 1
    follower.tell(CONTEST)
    follower.wait(lambda: follower.calls().count(HOOKS) == 3)
    # They did not end well.
    follower.wait(lambda: follower.calls().count(HOOKS) == 4)


def test_after_a_contest_hooks_of_the_loser_hear_of_the_change_alone(follower):
    primary(follower)
    follower.address.unlink()
    follower.tell(CONTEST + 'INSTANCE "internal" BACKUP 249\n')
    follower.wait(lambda: role(follower) == "secondary")
    follower.wait(lambda: follower.calls().count(HOOKS) == 2)
    end_well(follower, "hooks", "event")
    looked(follower, times=2)
    called(follower, HOOKS, 2)
    assert asked(follower) == "change"


def test_hooks_of_a_primary_are_called_again_and_again(follower):
    """So long after all have ended well. A secondary has nothing to assert, the master to hear."""
    primary(follower, reassert=2)
    for count in (2, 3):
        start = time.monotonic()
        follower.wait(lambda: follower.calls().count(HOOKS) == count)  # noqa: B023
        assert time.monotonic() - start > 1
        assert asked(follower) == "reassert"
        end_well(follower)
    assert follower.calls().count(EVENT) == 1
    follower.address.unlink()
    follower.wait(lambda: follower.calls().count(EVENT) == 2)
    assert asked(follower) == "change"
    end_well(follower, "hooks", "event")
    looked(follower, times=3)
    called(follower, HOOKS, 4)


def test_hooks_are_not_called_again_where_the_pillar_says_so(follower):
    primary(follower, reassert=0)
    looked(follower, times=3)
    called(follower, HOOKS, 1)


def test_what_fails_is_not_called_more_often_than_its_backoff_says(follower):
    """It counts from when all have ended well."""
    primary(follower, reassert=1)
    follower.wait(lambda: follower.calls().count(HOOKS) == 2, seconds=9)
    start = time.monotonic()
    follower.wait(lambda: follower.calls().count(HOOKS) == 4, seconds=12)
    assert time.monotonic() - start > 5.5  # 2 and 4 s
    assert asked(follower) == "reassert"


ROUTES = """\
# Managed by Salt.
route replace 10.8.1.0/24 via 10.77.0.3 proto 119
route replace 10.9.1.0/24 via 10.77.0.3 proto 119
"""


def test_routes_are_put_back(follower):
    follower.routes.write_text(ROUTES)
    follower.kernel.write_text("10.9.1.0/24 via 10.77.0.3 dev eth0 \n")
    follower.start()
    both = ["10.8.1.0/24 via 10.77.0.3 dev eth0 ", "10.9.1.0/24 via 10.77.0.3 dev eth0 "]
    follower.wait(lambda: sorted(follower.kernel.read_text().splitlines()) == both)
    looked(follower, times=2)
    assert sorted(follower.kernel.read_text().splitlines()) == both
    follower.kernel.write_text("")
    follower.wait(lambda: sorted(follower.kernel.read_text().splitlines()) == both)


def test_routes_that_leave_are_not_put_back(follower):
    follower.routes.write_text(ROUTES)
    follower.start()
    follower.wait(lambda: follower.kernel.read_text().count("via") == 2)
    follower.routes.write_text(ROUTES.replace("route replace 10.9", "# 10.9"))
    follower.kernel.write_text("10.8.1.0/24 via 10.77.0.3 dev eth0 \n")
    looked(follower, times=2)
    follower.routes.unlink()
    follower.kernel.write_text("")
    looked(follower, times=2)
    assert follower.kernel.read_text() == ""


def test_new_routes_are_left_to_the_apply_that_brings_them(follower):
    follower.routes.write_text("")
    looked(follower, follower.start)
    follower.routes.write_text(ROUTES)
    looked(follower, times=3)
    assert follower.kernel.read_text() == ""
    follower.wait(lambda: follower.kernel.read_text().count("via") == 2, seconds=9)


# --------------------------------------------------------------------------------------------------
# follow-tell


@pytest.fixture
def teller(root, tmp_path, tool):
    """Run follow-tell for a role; `said` is what it was told to whom."""
    run, folder, log, address = (tmp_path / name for name in ("run", "follow.d", "log", "address"))
    run.mkdir()
    folder.mkdir()
    log.touch()

    def hook(name, script="", mode=0o755):
        path = folder / name
        said = "$1 $GATEWAY_ROLE $GATEWAY_SINCE $GATEWAY_REASON"
        path.write_text(f"#!/bin/sh\necho {name} {said} >>{log}\n{script}\n")
        path.chmod(mode)

    def run_it(kind, *arguments, code=0):
        script = root / "gateway/follow/files/follow-tell"
        command = ["bash", script, run, "10.77.0.1", kind, *arguments]
        done = subprocess.run(command, check=False, timeout=20, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done

    def told(kind):
        path = run / f"{kind}.told"
        return path.read_text() if path.exists() else None

    def become(role):
        """The follower has seen it already."""
        (run / "role").write_text(f"{role}\n")
        address.touch() if role.startswith("primary") else address.unlink(missing_ok=True)

    def ask(number, reason):
        (run / "hooks.asked").write_text(f"{number} {reason}\n")

    tool("ip", f'test ! -e {address} || echo "3: eth0 inet $5/32"')
    become("primary 1800000000.25")
    ask(1, "start")
    return SimpleNamespace(
        hook=hook,
        folder=folder,
        run=run,
        address=address,
        become=become,
        ask=ask,
        hooks=lambda **keywords: run_it("hooks", folder, **keywords),
        event=lambda: run_it("event", "gw1", "gateway/site/vrrp", "salt-call", "--config-dir=/x"),
        told=told,
        log=log,
        said=lambda: log.read_text().splitlines(),
    )


def test_hooks_are_called_in_order(teller):
    for name in ("20-b", "10-a", "30_c"):
        teller.hook(name)
    for name in ("10-a.dpkg-old", "backup~", ".hidden"):
        teller.hook(name)
    teller.hook("40-not", mode=0o644)
    (teller.folder / "folder").mkdir()
    teller.hooks()
    assert teller.said() == [
        f"{name} primary primary 1800000000 change" for name in ("10-a", "20-b", "30_c")
    ]
    assert teller.told("hooks") == "primary 1800000000.25 1\n"
    teller.hooks()
    assert len(teller.said()) == 3


def test_without_hooks_all_have_been_told(teller):
    teller.hooks()
    assert teller.told("hooks") == "primary 1800000000.25 1\n"


def test_a_hook_that_fails_does_not_keep_others_from_it(teller):
    teller.hook("10-a", "exit 3")
    teller.hook("20-b")
    assert "10-a primary: exit code 3" in teller.hooks(code=1).stderr
    assert [line.split()[0] for line in teller.said()] == ["10-a", "20-b"]
    assert teller.told("hooks") is None


def become(role, teller):
    """What makes the kernel and then the follower say so, in a script."""
    touch = "touch" if role.startswith("primary") else "rm -f"
    return f"{touch} {teller.address}; echo {role} >{teller.run}/role"


def test_the_last_role_wins(teller):
    """One at a time: who comes after a change hears of the new role only."""
    change = become("secondary 1800000001.5", teller)
    teller.hook(
        "10-a", f"test $1 = secondary || {{ {change}; echo 2 change >{teller.run}/hooks.asked; }}"
    )
    teller.hook("20-b")
    teller.hooks()
    assert [line.split()[:2] for line in teller.said()] == [
        ["10-a", "primary"],
        ["10-a", "secondary"],
        ["20-b", "secondary"],
    ]
    assert teller.told("hooks") == "secondary 1800000001.5 2\n"


def test_a_role_that_was_lost_meanwhile_is_told_anew(teller):
    """It is the same role again, but the peer had it."""
    change = become("primary 1800000001.5", teller)
    teller.hook("10-a", f"test $GATEWAY_SINCE = 1800000001 || {{ {change}; }}")
    teller.hook("20-b")
    teller.hooks()
    assert [line.split()[0] for line in teller.said()] == ["10-a", "10-a", "20-b"]
    assert teller.told("hooks") == "primary 1800000001.5 1\n"


def test_the_kernel_knows_the_role_better_than_the_follower(teller):
    """Each executable hears what is true when it is called. The follower looks once a second."""
    slow = f"( sleep 0.5; {become('secondary 1800000001.5', teller)} ) >/dev/null 2>&1 &"
    teller.hook("10-a", f"test $1 = secondary || {{ rm {teller.address}; {slow} }}")
    teller.hook("20-b")
    teller.hooks()
    assert [line.split()[:2] for line in teller.said()] == [
        ["10-a", "primary"],
        ["10-a", "secondary"],
        ["20-b", "secondary"],
    ]


def test_nobody_is_told_what_kernel_and_follower_do_not_agree_on(teller):
    """A follower that does not run is started by systemd, and asks again."""
    teller.hook("10-a")
    teller.address.unlink()
    teller.hooks(code=1)
    assert teller.said() == []
    assert teller.told("hooks") is None


@pytest.mark.parametrize("reason", ["contest", "start", "reassert"])
def test_hooks_learn_why_they_are_called(teller, reason):
    teller.hook("10-a")
    teller.hooks()
    teller.ask(2, reason)
    teller.hooks()
    assert [line.split()[-1] for line in teller.said()] == ["change", reason]
    assert teller.told("hooks") == "primary 1800000000.25 2\n"


def test_a_change_is_the_reason_until_all_have_ended_well(teller):
    """Else an executable that tells of changes would not hear of one that a contest overtook."""
    good = teller.run / "good"
    teller.hook("10-a", f"test -e {good}")
    teller.hooks(code=1)
    teller.ask(2, "contest")
    teller.hooks(code=1)
    good.touch()
    teller.hooks()
    teller.ask(3, "reassert")
    teller.hooks()
    good.unlink()
    teller.ask(4, "reassert")
    teller.hooks(code=1)
    # The status tells.
    assert teller.told("hooks") == "primary 1800000000.25 failed\n"
    teller.hooks(code=1)
    good.touch()
    teller.hooks()
    assert teller.told("hooks") == "primary 1800000000.25 4\n"
    reasons = [line.split()[-1] for line in teller.said()]
    assert reasons == ["change"] * 3 + ["reassert"] * 4


def test_one_call_at_a_time(teller):
    """What is asked for meanwhile comes afterwards, and once."""
    ask = "".join(f"echo {number} contest >{teller.run}/hooks.asked; " for number in (2, 3))
    teller.hook("10-a", f"test -e {teller.run}/asked || {{ {ask} touch {teller.run}/asked; }}")
    teller.hook("20-b")
    teller.hooks()
    assert [(line.split()[0], line.split()[-1]) for line in teller.said()] == [
        ("10-a", "change"),
        ("20-b", "change"),
        ("10-a", "contest"),
        ("20-b", "contest"),
    ]
    assert teller.told("hooks") == "primary 1800000000.25 3\n"


def test_hooks_have_a_minute(teller, tool):
    tool("timeout", f'echo "$*" >>{teller.log}')
    teller.hook("10-a")
    teller.hooks()
    assert teller.said() == [f"--kill-after=5 60 {teller.folder}/10-a primary"]


def test_the_event(teller, tool):
    tool("salt-call", f'for word; do echo "$word"; done >>{teller.log}; echo \'{{"local": true}}\'')
    teller.event()
    *words, data = teller.said()
    assert words == ["--config-dir=/x", "--out=json", "event.send", "gateway/site/vrrp"]
    assert json.loads(data) == {"node": "gw1", "role": "primary", "time": "2027-01-15T08:00:00Z"}
    assert teller.told("event") == "primary 1800000000.25\n"
    teller.event()
    assert len(teller.said()) == 5


@pytest.mark.parametrize("script", ["exit 1", "echo '{\"local\": false}'", "echo no; exit 2"])
def test_a_master_that_is_away_is_not_an_error(teller, tool, script):
    tool("salt-call", script)
    assert "did not hear it" in teller.event().stdout
    assert teller.told("event") is None


def test_the_event_of_the_last_role_is_the_last(teller, tool):
    change = become("secondary 1800000001.5", teller)
    tool("salt-call", f'echo "$5" >>{teller.log}; {change}; echo true')
    teller.event()
    assert [json.loads(data)["role"] for data in teller.said()] == ["primary", "secondary"]


@pytest.mark.parametrize(
    ("role", "owner", "calls", "code"),
    [
        ("secondary", "gw2", [], 0),
        ("primary", "gw1", ["GET"], 0),
        ("primary", "gw2", ["GET", "PUT", "GET"], 0),
        ("primary", "nobody answers", ["GET"], 1),
        ("primary", "gw2 refuses to go", ["GET", "PUT"], 22),
        ("primary", "gw2 comes back", ["GET", "PUT", "GET"], 1),
    ],
)
def test_the_executable_of_the_documentation(root, tmp_path, tool, role, owner, calls, code):
    """It looks who has the address, claims it, and says so if that was in vain."""
    state, log, hook = (tmp_path / name for name in ("owner", "log", "hook"))
    state.write_text(owner)
    tool(
        "curl",
        f"""case $* in
            *"-X PUT -d gw1 https://"*) set -- PUT ;;
            *) set -- GET ;;
        esac
        echo $1 >>{log}
        case $1,$(cat {state}) in
            GET,nobody*) exit 28 ;;
            GET,*) cut -d' ' -f1 {state} ;;
            PUT,*refuses*) exit 22 ;;
            PUT,*back) ;;
            PUT,*) echo gw1 >{state} ;;
        esac""",
    )
    text = (root / "docs/failover.md").read_text()
    script = text[text.index("/etc/gateway/follow.d/cloud-address`") :].split("```")[1]
    hook.write_text(script.removeprefix("sh\n"))
    hook.chmod(0o755)
    environment = {**os.environ, "GATEWAY_NODE": "gw1"}
    assert subprocess.run([hook, role], check=False, env=environment).returncode == code
    assert (log.read_text().split() if log.exists() else []) == calls


# --------------------------------------------------------------------------------------------------
# vpn-routes


@pytest.fixture
def vpn_routes(root, tmp_path, tool):
    """The script on a node with two VPN servers, and what it has `ip` do."""
    done = tmp_path / "done"
    done.touch()
    tool(
        "ip",
        'case "$*" in *show*) echo "10.9.9.0/25 dev vpn-old scope link"; '
        f"echo >>{tmp_path}/shown;; *) cat >>{done};; esac",
    )
    text = (root / "gateway/openvpn/files/vpn-routes").read_text()
    script = tmp_path / "vpn-routes"
    script.write_text(
        text.replace("/run/gateway", f"{tmp_path}/run/gateway").replace("/etc/", f"{tmp_path}/etc/")
    )
    for server in ("main", "two"):
        (tmp_path / f"run/gateway-{server}/sessions").mkdir(parents=True)
    networks = tmp_path / "etc/gateway/vpn-networks"
    networks.parent.mkdir(parents=True)
    networks.write_text(
        "# comment\n"
        "10.50.0.0/25 branch\n10.50.0.128/25 branch\n"
        "10.60.0.1/32 host\n10.60.0.1/32 ou_Jörg Doe\n"
    )

    def run_it(count, meanwhile=None):
        process = subprocess.Popen(["perl", script], stderr=subprocess.PIPE, text=True)
        try:
            end = time.monotonic() + 10
            while meanwhile and time.monotonic() < end:
                if done.read_text():
                    meanwhile()
                    break
                time.sleep(0.05)
            while done.read_text().count("\n") < count and time.monotonic() < end:
                time.sleep(0.05)
        finally:
            process.kill()
        assert process.communicate()[1] == ""
        return sorted(done.read_text().splitlines())

    return SimpleNamespace(run=run_it, notes=tmp_path / "run", folder=tmp_path, networks=networks)


def test_routes_to_networks_of_who_is_connected(vpn_routes):
    (vpn_routes.notes / "gateway-main/sessions/10.8.0.5").write_text("7 branch\n")
    (vpn_routes.notes / "gateway-main/sessions/10.8.0.6").write_text("8 nobody\n")
    (vpn_routes.notes / "gateway-two/sessions/10.9.0.5").write_text("9 ou/Jörg Doe\n")
    assert vpn_routes.run(4) == [
        "route del 10.9.9.0/25 dev vpn-old proto 120",
        "route replace 10.50.0.0/25 dev vpn-main proto 120",
        "route replace 10.50.0.128/25 dev vpn-main proto 120",
        "route replace 10.60.0.1 dev vpn-two proto 120",
    ]


def test_the_kernel_is_asked_when_somebody_comes_and_seldom_else(vpn_routes):
    shown = vpn_routes.folder / "shown"

    def come():
        time.sleep(1.6)
        assert len(shown.read_text().splitlines()) == 1
        (vpn_routes.notes / "gateway-two/sessions/10.9.0.5").write_text("9 host\n")

    start = time.monotonic()
    assert "route replace 10.60.0.1 dev vpn-two proto 120" in vpn_routes.run(3, come)
    assert time.monotonic() - start < 4.5  # not at the next look without a reason, after five
    assert len(shown.read_text().splitlines()) == 2


def test_networks_that_come_to_a_client_who_is_connected(vpn_routes):
    """With an apply, which puts another file in the place of the old one."""

    def apply():
        new = vpn_routes.folder / "new"
        new.write_text("10.70.0.0/25 branch\n10.70.0.128/25 branch\n")
        new.replace(vpn_routes.networks)

    (vpn_routes.notes / "gateway-main/sessions/10.8.0.5").write_text("7 branch\n")
    # The stand-in for `ip` always shows the same routes.
    assert vpn_routes.run(6, apply) == [
        *("route del 10.9.9.0/25 dev vpn-old proto 120" for _ in range(2)),
        *(
            f"route replace {network} dev vpn-main proto 120"
            for network in ("10.50.0.0/25", "10.50.0.128/25", "10.70.0.0/25", "10.70.0.128/25")
        ),
    ]


def test_a_note_that_is_none_does_no_harm(vpn_routes):
    """OpenVPN, which has no privileges, can put anything there: it is not followed, waited for, or
    read to its end."""
    notes = vpn_routes.notes / "gateway-main/sessions"
    (vpn_routes.folder / "outside").write_text("7 branch\n")
    (notes / "link").symlink_to(vpn_routes.folder / "outside")
    os.mkfifo(notes / "pipe")
    (notes / "folder").mkdir()
    (notes / "large").touch()
    os.truncate(notes / "large", 1 << 40)
    (notes / "path").write_text("7 ../two/host\n")
    (notes / "none").touch()
    (vpn_routes.notes / "gateway-two/sessions/10.9.0.5").write_text("9 host\n")
    assert vpn_routes.run(2) == [
        "route del 10.9.9.0/25 dev vpn-old proto 120",
        "route replace 10.60.0.1 dev vpn-two proto 120",
    ]
