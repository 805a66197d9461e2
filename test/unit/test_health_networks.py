"""Health of a node with further networks: which are lost, and where their virtual IPs are."""

import os
import shutil
import subprocess
import time
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.scripts

NETWORKS = {  # own address and virtual IP, by interface
    "eth0.20": ("10.20.0.2", "10.20.0.1"),
    "eth3": ("10.30.0.2", "10.30.0.1"),
    "eth4": ("203.0.113.18", "203.0.113.17"),
}
SETTINGS = {
    "networks": "(guest eth0.20 10.20.0.2 10.20.0.1 servers eth3 10.30.0.2 10.30.0.1"
    " dmz eth4 203.0.113.18 203.0.113.17)",
    "network_targets": "([dmz]='203.0.113.20 203.0.113.21')",
    "announced": "(eth0 10.77.0.1 eth0.20 10.20.0.1 eth3 10.30.0.1 eth4 203.0.113.17)",
    "network": 4,
    "networks_counted": 1,  # beyond the first
    "drained": 20,
}


@pytest.fixture
def node(monitor, tmp_path):
    """A node with three networks. ``answers`` has who answers, as `ask-targets` says it."""
    answers = tmp_path / "answers"
    answers.write_text("dmz\n")
    ask = tmp_path / "usr/lib/gateway/ask-targets"
    ask.write_text(
        f'#!/bin/sh\necho "$*" >> {tmp_path}/questions\nwhile sleep 0.1; do cat {answers}; done\n'
    )
    ask.chmod(0o755)

    def make(interface):
        (monitor.net / interface).mkdir()
        carrier(interface, 1)
        give(interface)

    def give(interface, has=True):
        own, _ = NETWORKS[interface]
        text = f"7: {interface}    inet {own}/24 scope global {interface}\n"
        (tmp_path / f"own-{interface}").write_text(text if has else "")

    def carrier(interface, number):
        (monitor.net / interface / "carrier").write_text(f"{number}\n")

    def virtual(interface, has=True):
        path = tmp_path / f"own-virtual-{interface}"
        if has:
            _, address = NETWORKS[interface]
            path.write_text(f"7: {interface}    inet {address}/32 scope global {interface}\n")
        elif path.exists():
            path.unlink()

    def delete(interface):
        shutil.rmtree(monitor.net / interface)
        give(interface, has=False)
        virtual(interface, has=False)

    def start(is_holder):
        if is_holder:
            monitor.address.touch()
        for interface in NETWORKS:
            make(interface)
            virtual(interface, has=is_holder)
        monitor.start(**SETTINGS)
        monitor.wait(0)

    def lines(name):
        path = tmp_path / name
        return path.read_text().splitlines() if path.exists() else []

    return SimpleNamespace(
        **vars(monitor)
        | {"start": start, "restart": lambda: monitor.start(**SETTINGS), "lines": lines},
        make=make,
        give=give,
        carrier=carrier,
        virtual=virtual,
        delete=delete,
        answers=answers,
        asked=lambda: lines("asked"),
    )


@pytest.mark.parametrize("is_holder", [True, False])
def test_networks_that_are_lost(node, is_holder):
    """More of them are worse, as many as there is room for. Without the virtual IPs a node is cold,
    too."""
    cold = 0 if is_holder else 2
    node.start(is_holder)
    node.carrier("eth0.20", 0)
    node.wait(-8 - cold)
    node.says("faults", "network guest: no carrier on eth0.20")
    node.give("eth3", has=False)
    node.wait(-12 - cold)
    node.delete("eth4")
    node.says(
        "faults",
        "network guest: no carrier on eth0.20",
        "network servers: eth3 has lost its address 10.30.0.2",
        "network dmz: no carrier on eth4",
    )
    assert node.penalty() == -12 - cold
    node.carrier("eth0.20", 1)
    node.give("eth3")
    node.wait(-8 - cold)
    node.make("eth4")
    node.wait(0)
    assert node.words() == ""


def test_of_a_drained_node_no_lost_network_counts(node):
    """Whatever is wrong with it, it is worse than one that is not drained."""
    node.start(is_holder=False)
    node.mark.touch()
    node.wait(-22)
    node.carrier("eth0.20", 0)
    node.wait(-30)
    node.carrier("eth3", 0)
    node.says(
        "faults", "network guest: no carrier on eth0.20", "network servers: no carrier on eth3"
    )
    assert node.penalty() == -30


def test_who_has_the_virtual_ips_waits_for_the_other_one_to_see_it(node):
    node.start(is_holder=True)
    node.carrier("eth3", 0)
    node.tell("wake")
    time.sleep(0.2)
    assert node.penalty() == 0
    node.wait(-8, seconds=1)


def test_who_does_not_have_them_does_not_wait(node, monkeypatch):
    monkeypatch.setenv("HEALTH_LINK_GRACE", "100000")
    node.start(is_holder=False)
    node.carrier("eth3", 0)
    node.wait(-10)


def test_who_does_not_have_them_waits_when_it_is_back(node, monkeypatch):
    """So nothing moves where a network was dead on both and one sees first that it is back."""
    monkeypatch.setenv("HEALTH_TARGET_GRACE", "100000")
    node.start(is_holder=False)
    node.carrier("eth3", 0)
    node.wait(-10)
    node.carrier("eth3", 1)
    time.sleep(1.2)
    assert node.penalty() == -10
    node.says("faults", "network servers: no carrier on eth3")
    node.address.touch()
    node.wait(0)
    assert node.words() == ""


def test_nobody_answers_in_a_network(node):
    node.start(is_holder=True)
    dmz = "dmz eth4 203.0.113.20 dmz eth4 203.0.113.21"
    assert node.lines("questions") == [f"0.5 {dmz}"]
    node.answers.write_text("\n")
    node.wait(-8)
    fault = "network dmz: no answer from 203.0.113.20 203.0.113.21 on eth4"
    node.says("faults", fault)
    # A restart in the middle of it forgets nothing.
    node.stop()
    node.restart()
    time.sleep(0.8)
    assert node.penalty() == -8
    node.answers.write_text("dmz\n")
    node.wait(0)
    assert node.words() == ""


def test_it_ends_with_who_asks(node):
    """systemd starts both again."""
    node.start(is_holder=True)
    process = node.processes[-1]
    for line in subprocess.check_output(
        ["pgrep", "-g", str(process.pid), "-a"], text=True
    ).splitlines():
        if "ask-targets" in line:
            os.kill(int(line.split()[0]), 9)
    assert process.wait(timeout=8) == 1


def test_a_virtual_ip_that_went_with_its_interface(node):
    """keepalived does not watch it. It comes back, and the hosts hear of it, as soon as there is an
    interface again."""
    node.start(is_holder=True)
    told = len(node.lines("announced"))
    node.delete("eth3")
    node.wait(-8)
    time.sleep(1)
    assert node.asked() == []
    node.make("eth3")
    node.wait(0)
    put = ["address add 10.30.0.1/32 dev eth3"]
    end = time.monotonic() + 4
    while node.asked() != put or len(node.lines("announced")) == told:
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(1)
    assert node.asked() == put
    assert node.lines("announced")[told:] == [
        "eth0 10.77.0.1 eth0.20 10.20.0.1 eth3 10.30.0.1 eth4 203.0.113.17"
    ]


def test_a_virtual_ip_that_was_left_behind(node):
    """What keepalived did not set it does not take away."""
    node.start(is_holder=True)
    node.address.unlink()
    node.virtual("eth3", has=False)
    node.virtual("eth4", has=False)
    node.wait(-2)
    end = time.monotonic() + 4
    while not node.asked():
        assert time.monotonic() < end
        time.sleep(0.02)
    node.wait(0)
    assert node.asked() == ["address del 10.20.0.1/32 dev eth0.20"]


def test_virtual_ips_on_their_way_are_left_to_keepalived(node):
    node.start(is_holder=True)
    for has in (False, True) * 3:
        node.virtual("eth3", has)
        node.tell("wake")
        time.sleep(0.1)
    assert node.asked() == []
