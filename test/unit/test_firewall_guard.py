"""The guard of the firewall, which hears of what others do to the rules."""

import os
import socket
import subprocess
import time
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.scripts

GUARD = "gateway/firewall/files/firewall-guard"

# --------------------------------------------------------------------------------------------------
# firewall


# Closed where it fails


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
    time.sleep(0.5)  # the monitor is told after that
    assert os.read(monitor, 100) == b"firewall\n"
    # What was before counts no more.
    guard.says(f"[ -e {tmp_path}/once ] && exit 0; : >{tmp_path}/once; exit 10")
    guard.wait((tmp_path / "once").exists)
    time.sleep(0.5)
    assert not fault.exists()
    os.close(monitor)
