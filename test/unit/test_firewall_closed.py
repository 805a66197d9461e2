"""The firewall's loader: closed where it fails, and what is put back."""

import json
import shutil
from pathlib import Path

import pytest
from loader import CLOSED, SETS, V4, V6, chain, keep, picture, said, stage

pytestmark = pytest.mark.scripts

# Closed where it fails

GATE = """\
120:	from all nop proto 119
118:	from all iif lo goto 120 proto 119
119:	from all fwmark 0/0x40000000 blackhole proto 119
"""


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
