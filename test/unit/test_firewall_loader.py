"""The firewall's loader: check and load."""

import json
import subprocess
import time

import _gateway_foreign_iptables
import pytest
from loader import SETS, V4, V6, chain, files, keep, picture, stage

pytestmark = pytest.mark.scripts

JUMPS = {
    ("raw", "PREROUTING"): 0,
    # Docker has its own at the end of this one, so that ours is in front after a boot.
    ("nat", "PREROUTING"): 0,
    # Behind what fail2ban and Docker put in front of others, here and after a boot.
    ("filter", "INPUT"): 1,
    ("filter", "FORWARD"): 2,
}


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
    for hook in ("INPUT", "FORWARD"):
        assert _gateway_foreign_iptables.place_of_jump(table, hook) == JUMPS["filter", hook]


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
