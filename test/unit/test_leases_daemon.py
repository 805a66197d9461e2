"""The daemon that keeps leases, two of them on this machine."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

FILES = Path(__file__).resolve().parents[2] / "gateway/leases/files"
ADDRESSES = {"gw1": "127.0.0.11", "gw2": "127.0.0.12"}
POOL = {
    "before": "",
    "after": ",255.255.255.0,12h",
    "shares": {"gw1": ["10.77.0.100,10.77.0.149"], "gw2": ["10.77.0.150,10.77.0.199"]},
}


class Daemon:
    def __init__(self, folder, name, key="secret", pools=(POOL,)):
        self.name, self.folder = name, folder / name
        (self.folder / "hosts").mkdir(parents=True, exist_ok=True)
        peer = "gw2" if name == "gw1" else "gw1"
        (self.folder / "key").write_text(key)
        settings = {
            "node": name,
            "address": ADDRESSES[name],
            "port": 37999,
            "peers": {peer: ADDRESSES[peer]},
            "key": str(self.folder / "key"),
            "run": str(self.folder),
            "state": str(self.folder),
            "pools": list(pools),
            "reserved": [],
            "register": {"10.77.0.0/24": "example.internal"},
            "names": ["www.example.internal"],
        }
        (self.folder / "settings").write_text(json.dumps(settings))
        tools = self.folder / "bin"
        tools.mkdir(exist_ok=True)
        (tools / "systemctl").write_text(f"#!/bin/sh\necho $* >> {self.folder}/told\n")
        (tools / "systemctl").chmod(0o755)
        (self.folder / "told").touch()
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, FILES / "leases", self.folder / "settings"],
            env={"PATH": f"{self.folder}/bin:/usr/bin:/bin"},
        )
        wait(lambda: (self.folder / "socket").exists() and self.ask("list"))

    def kill(self):
        self.process.kill()
        self.process.wait()

    def ask(self, what, **more):
        with socket.socket(socket.AF_UNIX) as line:
            try:
                line.connect(str(self.folder / "socket"))
            except OSError:
                return None
            line.sendall(json.dumps({"ask": what, **more}).encode() + b"\n")
            return json.loads(line.makefile().readline())

    def lease(self, address, number, name="", seconds=3600):
        mac = f"02:00:00:00:00:{number:02x}"
        until = time.time() + seconds
        assert not self.ask(
            "lease", address=address, mac=mac, identifier="", until=until, name=name
        )

    def has(self):
        return {each["address"]: each["mac"][-2:] for each in self.ask("list")["leases"]}

    def file(self, name):
        return (self.folder / name).read_text().splitlines()


def wait(asked, seconds=5):
    end = time.monotonic() + seconds
    while not (answer := asked()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return answer


@pytest.fixture
def pair(tmp_path):
    nodes = [Daemon(tmp_path, name) for name in ADDRESSES]
    for node in nodes:
        node.start()
    wait(lambda: all(node.ask("list")["in_sync"] for node in nodes))
    yield nodes
    for node in nodes:
        if node.process.poll() is None:
            node.kill()


def test_what_one_knows_the_other_knows(pair):
    one, other = pair
    one.lease("10.77.0.100", 1, "Laptop")
    wait(lambda: other.has() == {"10.77.0.100": "01"}, 0.5)
    wait(lambda: other.file("hosts/leases") == ["10.77.0.100 laptop.example.internal"], 1)
    other.lease("10.77.0.150", 2, "laptop")
    wait(lambda: one.has() == {"10.77.0.100": "01", "10.77.0.150": "02"}, 0.5)
    one.ask("end", address="10.77.0.100")
    wait(lambda: other.has() == {"10.77.0.150": "02"}, 0.5)
    wait(lambda: one.file("hosts/leases") == ["10.77.0.150 laptop.example.internal"], 1)


def test_it_survives_a_kill_and_the_other_s_silence(pair):
    one, other = pair
    other.kill()
    one.lease("10.77.0.101", 1)
    one.kill()
    one.start()
    assert one.has() == {"10.77.0.101": "01"}
    other.start()
    wait(lambda: other.has() == one.has(), 3)
    wait(lambda: other.ask("list")["in_sync"], 3)


def test_orders_for_dnsmasq(pair):
    one, other = pair
    one.lease("10.77.0.160", 1)
    one.ask("ready")
    assert one.file("ranges") == [
        "dhcp-range=10.77.0.100,10.77.0.149,255.255.255.0,12h",
        "dhcp-range=10.77.0.150,10.77.0.199,255.255.255.0,12h",
    ]
    assert one.file("reservations") == []
    other.kill()
    wait(lambda: "try-restart gateway-dhcp" in (one.folder / "told").read_text(), 3)
    start = time.monotonic()
    one.ask("ready")
    assert time.monotonic() - start < 1
    assert one.file("ranges") == ["dhcp-range=10.77.0.100,10.77.0.149,255.255.255.0,12h"]
    assert one.file("reservations") == ["02:00:00:00:00:01,10.77.0.160"]
    lines = one.ask("database")["lines"]
    assert [line.split()[1:] for line in lines] == [
        ["02:00:00:00:00:01", "10.77.0.160", "*", "*"]
    ]


def test_who_has_another_key_is_not_heard(tmp_path):
    one, other = Daemon(tmp_path, "gw1"), Daemon(tmp_path, "gw2", key="another")
    try:
        one.start()
        other.start()
        other.lease("10.77.0.150", 2)
        time.sleep(1)
        assert one.has() == {}
        assert not one.ask("list")["in_sync"]
    finally:
        one.kill()
        other.kill()


def test_many(pair):
    """10,000 leases: told in two seconds, and again to one that starts anew."""
    one, other = pair
    start = time.monotonic()
    with socket.socket(socket.AF_UNIX):
        for number in range(2000):
            one.lease(f"10.78.{number // 250}.{number % 250 + 1}", number % 256)
    print("events", time.monotonic() - start)
    wait(lambda: len(other.has()) == 2000)
    other.kill()
    (other.folder / "leases.db").unlink()
    other.start()
    start = time.monotonic()
    wait(lambda: len(other.has()) == 2000)
    print("exchange", time.monotonic() - start)
