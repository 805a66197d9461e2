"""How well a node is: the numbers of the plan, and the monitor that finds it out."""

import os
import signal
import subprocess
import time
from pathlib import Path

import _gateway_nodes
import pytest

pytestmark = pytest.mark.scripts

GW3 = {"nodes:gw3": {"id": 3, "internal": "10.77.0.4", "public": "198.51.100.4"}}

# --------------------------------------------------------------------------------------------------
# The plan


def test_only_the_order_of_the_pillar_s_priorities_counts(plan):
    changes = {"nodes:gw1:priority": 3, "nodes:gw2:priority": 200, **GW3}
    found = {name: plan(changes, name)["vrrp"]["priority"] for name in ("gw1", "gw2", "gw3")}
    assert found == {"gw3": 250, "gw2": 249, "gw1": 248}


@pytest.mark.parametrize(
    ("profile", "interval", "down"), [("fast", 0.05, 3), ("normal", 0.1, 3), ("lossy", 1, 8)]
)
def test_profiles(plan, profile, interval, down):
    vrrp = plan({"failover": {"profile": profile}})["vrrp"]
    assert (vrrp["advert_interval"], vrrp["down_adverts"]) == (interval, down)


def test_every_value_of_a_profile_can_be_overridden(plan):
    changes = {"profile": "fast", "advert_interval": 0.25, "down_adverts": 5, "garp_delay": 7}
    more = {"garp_repeat": 2, "garp_refresh": 30, "startup_delay": 4, "realtime_priority": 0}
    vrrp = plan({"failover": changes | more})["vrrp"]
    assert (vrrp["advert_interval"], vrrp["down_adverts"]) == (0.25, 5)
    assert vrrp["garp"] == {"repeat": 2, "delay": 7, "refresh": 30}
    assert (vrrp["startup_delay"], vrrp["realtime_priority"]) == (4, 0)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"failover": {"profile": "quick"}}, "failover:profile: quick is none of fast,"),
        ({"failover": {"advert_interval": 0.001}}, "failover:advert_interval: 0.001 is not in"),
        (
            {"failover": {"advert_interval": 0.055}},
            "failover:advert_interval: 0.055 is not a whole",
        ),
        ({"failover": {"advert_interval": "1s"}}, "failover:advert_interval: must be a number"),
        ({"failover": {"preempt": "no"}}, "failover:preempt: must be true or false"),
        ({"failover": {"advert": 1}}, "failover:advert: unknown key"),
        ({"failover": {"reassert": 9}}, "failover:reassert: 9 is neither 0 nor in 10 to 86400"),
        ({"failover": {"reassert": 1}}, "failover:reassert: 1 is neither 0 nor in 10 to 86400"),
        ({"failover": {"reassert": -1}}, "failover:reassert: -1 is not in 0 to 86400"),
        ({"failover": {"reassert": 86401}}, "failover:reassert: 86401 is not in 0 to 86400"),
        ({"failover": {"reassert": 60.0}}, "failover:reassert: must be a whole number, is a"),
        ({"failover": {"reassert": "1m"}}, "failover:reassert: must be a whole number, is text"),
        ({"failover": {"reassert": False}}, "failover:reassert: must be a whole number, is"),
        ({"health": {"services": ["a b"]}}, "health:services:0: a b is not the name of"),
        ({"health": {"public": {"targets": ["x"]}}}, "health:public:targets:0: x is not an IPv4"),
        ({"health": {"wan": {}}}, "health:wan: unknown key"),
    ],
)
def test_what_is_rejected(errors, changes, error):
    [found] = errors(changes)
    assert found.startswith(f"gateway:{error}")


def many(count):
    return {
        f"nodes:gw{n}": {"id": n, "internal": f"10.77.0.{n + 50}", "public": f"198.51.100.{n + 50}"}
        for n in range(1, count + 1)
    }


def test_more_nodes_than_priorities(errors):
    assert errors(many(15)) == []
    assert errors(many(16)) == ["gateway:nodes: 16 nodes; a site has at most 15"]


@pytest.mark.parametrize("count", [2, 3, 15])
def test_each_state_outweighs_the_ones_below_it(plan, count):
    """Whatever the ranks. And all of them together still leave a priority."""
    plans = [plan(many(count), f"gw{n}") for n in range(1, count + 1)]
    ranks = [plan["vrrp"]["priority"] for plan in plans]
    lost = plans[0]["health"]["penalties"]
    cold, uplink, fault, drained = (lost[name] for name in _gateway_nodes.PENALTIES)
    assert cold > max(ranks) - min(ranks)
    assert uplink > cold + max(ranks) - min(ranks) - 1
    assert fault > uplink + cold
    assert drained > fault + uplink + cold
    everything = cold + uplink + fault + drained
    assert min(ranks) - everything >= 1


@pytest.mark.parametrize(("node", "peer"), [("gw1", "gw2"), ("gw2", "gw1")])
def test_a_drain_is_tried_just_below_a_healthy_peer(plan, node, peer):
    """Also below one that is cold, as without preemption, and not below one with a lost uplink."""
    own, other = plan(node=node), plan(node=peer)
    tried = own["vrrp"]["priority"] - own["health"]["penalties"]["draining"]
    lost = other["health"]["penalties"]
    rank = other["vrrp"]["priority"]
    assert rank - lost["uplink"] < tried < rank - lost["cold"]


# --------------------------------------------------------------------------------------------------
# The monitor


def test_a_node_is_cold_until_it_has_been_well_for_some_time(monitor):
    monitor.start()
    assert monitor.penalty() == -2
    monitor.wait(0)


def test_without_preemption_until_it_has_the_virtual_ip(monitor):
    monitor.start(preempt="no")
    time.sleep(1.8)
    assert monitor.penalty() == -2
    monitor.address.touch()
    monitor.wait(0)
    monitor.address.unlink()
    monitor.wait(-2)
    assert (monitor.home / "announced").read_text() == "eth0 10.77.0.1\n"


def test_a_restart_leaves_it_as_warm_or_cold_as_it_was(monitor):
    monitor.start()
    monitor.wait(0)
    for _ in range(2):
        monitor.stop()
        monitor.start(preempt_delay=60)
        time.sleep(0.7)
        assert monitor.penalty() == 0


@pytest.mark.parametrize("preempt", ["yes", "no"])
def test_who_loses_the_virtual_ip_while_the_monitor_is_away_is_cold(monitor, preempt):
    """Else it would take it back at once."""
    monitor.address.touch()
    monitor.start(preempt=preempt, preempt_delay=60)
    monitor.wait(0)
    monitor.stop()
    monitor.address.unlink()
    monitor.start(preempt=preempt, preempt_delay=60)
    monitor.wait(-2)


def test_who_has_the_virtual_ip_is_not_cold(monitor):
    monitor.address.touch()
    monitor.start(preempt_delay=60)
    monitor.wait(0)
    monitor.address.unlink()
    monitor.wait(-2)


def test_a_link_that_was_down_for_a_moment(monitor):
    monitor.start()
    monitor.wait(0)
    (monitor.net / "eth0/carrier_down_count").write_text("2\n")
    monitor.wait(-2)
    monitor.wait(0)


def test_uplink(monitor):
    monitor.address.touch()
    monitor.start()
    monitor.wait(0)
    (monitor.net / "eth1/carrier").write_text("0\n")
    monitor.wait(-4)
    monitor.says("uplink", "no carrier on eth1")
    (monitor.net / "eth1/carrier").write_text("1\n")
    monitor.wait(0)
    answered = monitor.lines("pinged")
    monitor.silent.touch()
    monitor.wait(-4)
    monitor.says("uplink", "no answer from 192.0.2.1 on eth1")
    assert monitor.lines("pinged")[-1] == "-q -n -c 1 -W 1 -I eth1 192.0.2.1"
    # Three in a row, one of which may have been on its way.
    assert 3 <= len(monitor.lines("pinged")) - len(answered) <= 5
    monitor.silent.unlink()
    monitor.wait(0)


def test_addresses_that_are_taken_away(monitor):
    monitor.address.touch()
    monitor.start()
    monitor.wait(0)
    text = monitor.own["eth1"].read_text()
    monitor.own["eth1"].write_text("")
    monitor.wait(-4)
    monitor.says("uplink", "eth1 has lost its address 198.51.100.2")
    monitor.own["eth1"].write_text(text)
    monitor.wait(0)
    # On another interface it is of no use.
    monitor.own["eth0"].write_text(monitor.own["eth0"].read_text().replace("eth0", "eth1"))
    monitor.wait(-8)
    monitor.says("faults", "eth0 has lost its address 10.77.0.2")


def test_a_public_address_that_nobody_promised(monitor):
    monitor.address.touch()
    monitor.own["eth1"].write_text("")
    monitor.start(public_address="")
    monitor.wait(0)
    monitor.says("uplink")


def test_faults(monitor):
    monitor.address.touch()
    check = monitor.checks / "mine"
    check.write_text(f"#!/bin/sh\necho >> {monitor.home}/checked\nexit 3\n")
    check.chmod(0o755)
    (monitor.checks / "other.dpkg-old").symlink_to(check)
    monitor.start()
    monitor.wait(-8)
    monitor.says("faults", "check mine fails")
    assert len(monitor.lines("checked")) == 2
    assert monitor.words() == ""
    # A restart in the middle of it forgets nothing.
    monitor.stop()
    monitor.start()
    time.sleep(1)
    assert monitor.penalty() == -8
    check.unlink()
    monitor.wait(0)
    alive = monitor.lines("asked-for")
    monitor.dead.touch()
    monitor.wait(-8)
    monitor.says("faults", "service some.service is failed")
    assert 4 <= len(monitor.lines("asked-for")) - len(alive) <= 6


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo first; echo '  disk is full '; echo; exit 1", ":   disk is full "),
        (r"""printf 'a "b" \\ \303\274\033[31m\n' >&2; exit 1""", ": a 'b' ? ???[31m"),
        (r"yes 0123456789 | head -c 30000000; printf '\nno-end'; exit 1", ": no-end"),
        ("printf '\\000\\n'; exit 1", ""),
        ("date +%N; exit 1", None),
        ("sleep 60 & echo left something behind; exit 1", ""),
    ],
)
def test_what_a_check_says_last(monitor, script, words):
    """It comes through as JSON, one line of it, and the same for as long as the check fails."""
    monitor.address.touch()
    check = monitor.checks / "mine"
    check.write_text(f"#!/bin/sh\n{script}\n")
    check.chmod(0o755)
    monitor.start()
    monitor.wait(-8, seconds=25)
    monitor.published()
    (first,) = monitor.health()["faults"]
    if words is None:
        time.sleep(4)
        assert monitor.health()["faults"] == [first]
        words = first.removeprefix("check mine fails")
        assert words[2:].isdigit()
    assert first == f"check mine fails{words}"


def test_a_check_that_does_not_end(monitor):
    monitor.address.touch()
    check = monitor.checks / "mine"
    check.write_text("#!/bin/sh\necho so far; exec sleep 60\n")
    check.chmod(0o755)
    monitor.start()
    monitor.wait(-8, seconds=20)
    monitor.says("faults", "check mine fails: no end within 5 s")


def test_drained(monitor):
    """While it runs, and from the start: keepalived must not see a better number first."""
    monitor.start()
    monitor.wait(0)
    monitor.mark.touch()
    monitor.wait(-18)
    monitor.stop()
    (monitor.run / "penalty").unlink()
    monitor.start()
    assert monitor.penalty() == -18
    monitor.mark.unlink()
    monitor.wait(-2)
    monitor.wait(0)


def test_a_drain_that_is_tried(monitor):
    monitor.address.touch()
    monitor.start()
    monitor.wait(0)
    uptime = Path("/proc/uptime").read_text().split(".")[0]
    (monitor.run / "draining").write_text(f"{uptime}\n")
    monitor.wait(-3)
    # Who asked for it was killed.
    (monitor.run / "draining").write_text(f"{int(uptime) - 61}\n")
    monitor.wait(0)


@pytest.mark.parametrize("works", [True, False])
def test_keepalived_that_does_nothing_is_ended(monitor, works):
    """But not before it had a reason to wake: the file that it follows is a new one."""
    child = f"(while true; do sleep {0.2 if works else 60}; done) & wait"
    with subprocess.Popen(["bash", "-c", child], start_new_session=True) as keepalived:
        try:
            (monitor.home / "keepalived").write_text(f"{keepalived.pid}\n")
            monitor.start()
            monitor.wait(0)
            file = (monitor.run / "penalty").stat().st_ino
            time.sleep(5)
        finally:
            # Leaving the block waits for it.
            os.killpg(keepalived.pid, signal.SIGKILL)
    killed = monitor.home / "killed"
    assert (monitor.run / "penalty").stat().st_ino == file or not works
    assert killed.exists() != works
    if not works:
        assert killed.read_text().splitlines()[0] == "kill --signal=KILL keepalived"
        assert (monitor.run / "penalty").stat().st_ino != file


@pytest.mark.parametrize("number", range(5))
def test_it_ends_with_any_of_its_workers(monitor, number):
    """Without it something would not be looked at any more; systemd starts all of them again."""
    process = monitor.start()
    monitor.wait(0)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[number]), signal.SIGKILL)
    assert process.wait(timeout=8) == 1


def test_systemd_hears_of_it_while_its_loop_turns(monitor):
    process = monitor.start()
    notified = monitor.home / "notified"

    def heard(before):
        end = time.monotonic() + 8
        while (words := notified.read_text() if notified.exists() else "") == before:
            assert time.monotonic() < end
            time.sleep(0.05)
        return words

    assert set(heard("").splitlines()) == {"WATCHDOG=1"}
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    assert uptime - 60 < int((monitor.run / "heartbeat").read_text()) <= uptime
    process.send_signal(signal.SIGSTOP)
    time.sleep(2.5)
    before = notified.read_text()
    time.sleep(0.6)
    assert notified.read_text() == before
    process.send_signal(signal.SIGCONT)
    heard(before)


def test_peers_that_do_not_hear_it(monitor):
    monitor.address.touch()
    monitor.start(advert=20)
    monitor.wait(0)
    line = 'INSTANCE "internal" MASTER_RX_LOWER_PRI 250'
    for _ in range(2):  # partitions that heal
        for _ in range(3):
            monitor.tell(line)
        time.sleep(0.9)
        assert monitor.penalty() == 0
    for _ in range(12):  # one advert after the other
        monitor.tell(line)
        time.sleep(0.12)
    monitor.wait(-8)
    monitor.says("faults", "its peers do not hear this node")
    # What it knew of the peers' hardware addresses is from before the partition.
    flushed = (monitor.home / "asked").read_text().splitlines()
    assert flushed == ["neigh flush to 10.77.0.3", "neigh flush to 198.51.100.3"] * 3
    # And each time the hosts are told once more who has the virtual IP.
    assert (monitor.home / "announced").read_text() == "eth0 10.77.0.1\n" * 3


# --------------------------------------------------------------------------------------------------
# The firewall's rules

NOT_IN_FORCE = "the firewall rules are not in force, nothing is forwarded"


def test_without_its_rules_a_node_is_no_gateway(monitor):
    """keepalived takes less than -253 for a fault: the node gives up the virtual IP."""
    monitor.loader.touch()
    monitor.start()
    assert monitor.penalty() == -254
    monitor.says("faults", NOT_IN_FORCE)
    (monitor.run / "firewall").write_text("closed ipset is gone\n")
    monitor.tell("firewall")
    monitor.says("faults", f"{NOT_IN_FORCE}: ipset is gone")
    assert monitor.penalty() == -254
    (monitor.run / "firewall").write_text("loaded\n")
    monitor.tell("firewall")
    monitor.wait(-2)
    monitor.wait(0)
    monitor.says("faults")


def test_a_node_whose_rules_somebody_takes_away_all_the_time_is_at_fault(monitor):
    monitor.start()
    monitor.wait(0)
    (monitor.run / "health/firewall").write_text("something takes them away\n")
    monitor.tell("firewall")
    monitor.wait(-10)
    (monitor.run / "health/firewall").unlink()
    monitor.wait(0)


def test_where_nobody_wants_rules_there_are_none(monitor):
    """After gateway.firewall.clean."""
    monitor.start()
    monitor.wait(0)
