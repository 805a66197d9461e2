"""The firewall's loader: what becomes of a ruleset on trial."""

import json

import pytest
from loader import SETS, V4, chain, files, picture, said, stage

pytestmark = pytest.mark.scripts


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
