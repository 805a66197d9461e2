"""The daemon that keeps leases, two of them on this machine."""

import asyncio
import copy
import fcntl
import hmac
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import lease_facts
import lease_journal
import lease_orders
import lease_server
import lease_store
import leases
import pytest

pytestmark = pytest.mark.scripts

FILES = Path(__file__).resolve().parents[2] / "gateway/leases/files"
F_SETPIPE_SZ = 1031  # fcntl(2)
ADDRESSES = {"gw1": "127.0.0.11", "gw2": "127.0.0.12"}
POOL = {
    "before": "",
    "after": ",255.255.255.0,12h",
    "static": "10.77.0.0,static",
    "seconds": 43200,
    "shares": {"gw1": ["10.77.0.100,10.77.0.149"], "gw2": ["10.77.0.150,10.77.0.199"]},
}

SETTINGS = {
    "servers": [],
    "pools": [POOL],
    "reserved": [],
    "reserved_macs": [],
    "domain": "example.internal",
    "register": {"10.77.0.0/24": "example.internal"},
    "names": [],
    "wildcards": [],
}


def free_port():
    with socket.socket() as probe:
        probe.bind((ADDRESSES["gw1"], 0))
        return probe.getsockname()[1]


class Daemon:
    def __init__(self, folder, name, port, key="secret", **settings):
        self.name, self.folder = name, folder / name
        self.folder.mkdir()
        self.key = self.folder / "key"
        self.key.write_text(key)
        peer = "gw2" if name == "gw1" else "gw1"
        self.settings = {
            **copy.deepcopy(SETTINGS),
            "node": name,
            "address": ADDRESSES[name],
            "port": port,
            "peers": {peer: ADDRESSES[peer]},
            "names": ["www.example.internal"],
            **settings,
        }
        tools = self.folder / "bin"
        tools.mkdir()
        (self.folder / "told").touch()
        (self.folder / "neighbours").write_text("[]")
        (self.folder / "state").write_text("active\n")
        for tool, does in (
            ("systemctl", f"echo $* >> {self.folder}/told; cat {self.folder}/state"),
            ("ip", f"cat {self.folder}/neighbours"),
        ):
            (tools / tool).write_text(f"#!/bin/sh\n{does}\n")
            (tools / tool).chmod(0o755)
        self.process = None

    def start(self):
        (self.folder / "settings").write_text(json.dumps(self.settings))
        self.process = subprocess.Popen(
            [
                sys.executable,
                FILES / "leases.py",
                self.folder / "settings",
                self.folder / "settings",
                self.key,
                self.folder,
                self.folder,
            ],
            env={"PATH": f"{self.folder}/bin:/usr/bin:/bin"},
        )
        wait(lambda: self.ask("list"))
        return self

    def hup(self):
        (self.folder / "settings").write_text(json.dumps(self.settings))
        assert self.process
        os.kill(self.process.pid, signal.SIGHUP)

    def kill(self):
        if self.process:
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

    def tell(self, *lines):
        """As dnsmasq's script does."""
        with open(self.folder / "events", "w", encoding="ascii") as events:
            for line in lines:
                print(line, file=events, flush=True)

    def lease(self, address, number, name="", seconds=3600, action="add"):
        self.tell(f"{action} {mac(number)} {address} {int(time.time()) + seconds} * {name}")

    def has(self):
        return {each["address"]: each["mac"] for each in self.ask("list")["leases"]}

    def file(self, name):
        return (self.folder / name).read_text().splitlines()

    def reservations(self):
        folder = self.folder / "reservations"
        return sorted(line for file in folder.iterdir() for line in file.read_text().splitlines())

    def was_told(self, what):
        return what in (self.folder / "told").read_text()


def mac(number):
    return f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"


def wait(asked, seconds=5):
    end = time.monotonic() + seconds
    while not (answer := asked()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return answer


def in_sync(*nodes):
    wait(lambda: all(node.ask("list")["in_sync"] for node in nodes))


@pytest.fixture
def make(tmp_path):
    port, nodes = free_port(), []

    def daemon(name, **settings):
        nodes.append(Daemon(tmp_path, name, port, **settings))
        return nodes[-1]

    yield daemon
    for node in nodes:
        node.kill()


@pytest.fixture
def pair(make):
    nodes = [make(name).start() for name in ADDRESSES]
    in_sync(*nodes)
    return nodes


def test_what_one_knows_the_other_knows(pair):
    one, other = pair
    one.lease("10.77.0.100", 1, "Laptop")
    wait(lambda: other.has() == {"10.77.0.100": mac(1)}, 0.5)
    wait(lambda: other.file("hosts/leases") == ["10.77.0.100 laptop.example.internal laptop"], 1)
    other.lease("10.77.0.150", 2, "laptop")
    wait(lambda: one.has() == {"10.77.0.100": mac(1), "10.77.0.150": mac(2)}, 0.5)
    one.lease("10.77.0.100", 1, action="del")
    wait(lambda: other.has() == {"10.77.0.150": mac(2)}, 0.5)
    wait(lambda: one.file("hosts/leases") == ["10.77.0.150 laptop.example.internal laptop"], 1)


def test_names_go_when_a_lease_ends(pair):
    one, other = pair
    one.lease("10.77.0.100", 1, "laptop", seconds=2)
    for node in pair:
        wait(lambda node=node: node.file("hosts/leases"), 1)
    for node in pair:
        wait(lambda node=node: not node.file("hosts/leases"), 3)
    assert other.has() == {}


def test_it_survives_a_kill_and_the_other_s_silence(pair):
    one, other = pair
    other.kill()
    one.lease("10.77.0.101", 1)
    wait(lambda: one.has() and one.ask("list")["kept"])
    one.kill()
    one.start()
    assert one.has() == {"10.77.0.101": mac(1)}
    other.start()
    wait(lambda: other.has() == one.has(), 3)
    in_sync(one, other)


def test_orders_in_sync(pair):
    one, _ = pair
    one.lease("10.77.0.160", 1)
    wait(one.has)
    assert one.ask("ready") == {}
    assert one.file("dnsmasq.conf") == [
        "conf-file=/etc/gateway/dhcp.conf",
        "dhcp-range=10.77.0.100,10.77.0.149,255.255.255.0,12h",
        "dhcp-range=10.77.0.150,10.77.0.199,255.255.255.0,12h",
    ]
    assert one.reservations() == []
    assert [line.split()[1:] for line in one.file("database")] == [
        [mac(1), "10.77.0.160", "*", "*"]
    ]


def test_orders_without_the_peer(pair):
    one, other = pair
    one.ask("ready")
    one.lease("10.77.0.160", 1)
    wait(other.has)
    other.kill()
    wait(lambda: one.was_told("try-restart gateway-dhcp"), 3)
    start = time.monotonic()
    one.ask("stopped")
    one.ask("ready")
    assert time.monotonic() - start < 1
    assert one.file("dnsmasq.conf")[1:] == ["dhcp-range=10.77.0.100,10.77.0.149,255.255.255.0,12h"]
    assert one.reservations() == [f"{mac(1)},10.77.0.160"]
    assert one.file("database") == []
    # A lease that it gives now is kept for its client when it is given back.
    one.lease("10.77.0.101", 2)
    wait(lambda: len(one.has()) == 2)
    assert one.reservations() == [f"{mac(1)},10.77.0.160"]


def test_it_is_told_when_the_peer_is_back(pair):
    one, other = pair
    other.kill()
    wait(lambda: not one.ask("list")["in_sync"])
    one.ask("ready")
    assert len(one.file("dnsmasq.conf")) == 2
    other.start()
    wait(lambda: one.was_told("try-restart gateway-dhcp"), 6)
    one.ask("stopped")
    one.ask("ready")
    assert len(one.file("dnsmasq.conf")) == 3


def test_the_new_server_waits_for_the_old_one(pair):
    one, other = pair
    one.ask("ready")
    wait(lambda: not other.ask("list")["in_sync"] or other.ask("list")["in_sync"])
    ready = subprocess.Popen(
        [sys.executable, FILES / "ask-leases", "ready"],
        env={**os.environ, "LEASES_SOCKET": str(other.folder / "socket")},
        stdout=subprocess.DEVNULL,
    )
    time.sleep(0.7)
    assert ready.poll() is None
    one.lease("10.77.0.100", 1)
    one.ask("stopped")
    assert ready.wait(2) == 0
    assert len(other.file("dnsmasq.conf")) == 3
    assert [line.split()[2] for line in other.file("database")] == ["10.77.0.100"]


def test_two_that_serve_give_of_their_own(pair):
    one, other = pair
    one.ask("ready")
    other.ask("ready")  # after five seconds of waiting
    assert [len(node.file("dnsmasq.conf")) for node in pair] == [3, 2]
    wait(lambda: one.was_told("try-restart gateway-dhcp"))


def test_a_daemon_that_was_killed_asks_dnsmasq(pair):
    one, _ = pair
    one.ask("ready")
    one.kill()
    one.start()
    wait(lambda: one.was_told("reload gateway-dhcp"))
    assert one.ask("list")["serves"]


def test_who_has_another_key_is_not_heard(make):
    one, other = make("gw1").start(), make("gw2", key="another").start()
    other.lease("10.77.0.150", 2)
    wait(other.has)
    time.sleep(1)
    assert one.has() == {}
    assert not one.ask("list")["in_sync"]
    assert one.ask("list")["peers"]["gw2"]["refused"] == "it has another key"


def test_who_uses_an_address_without_a_lease_keeps_it(make):
    one = make("gw1", peers={})
    one.start()
    there = [
        neighbour(120, 9),
        neighbour(20, 8),  # in no pool
        neighbour(121, 6, "STALE"),  # it may have left
        *(neighbour(last, 7) for last in range(130, 140)),  # a proxy
    ]
    (one.folder / "neighbours").write_text(json.dumps(there))
    one.ask("ready")
    assert one.reservations() == [f"{mac(9)},10.77.0.120"]


def test_other_hosts_are_read_again(pair):
    one, _ = pair
    one.lease("10.77.0.101", 1, "laptop")
    one.ask("ready")
    one.settings["names"].append("laptop.example.internal")
    one.hup()
    wait(lambda: one.file("hosts/leases") == [], 2)
    one.settings["reserved"].append("10.77.0.101")
    one.hup()
    time.sleep(0.5)
    assert not one.was_told("restart")  # dnsmasq has no line for the address


def test_an_address_that_is_reserved_is_kept_no_more(make):
    """dnsmasq has a line for it, and forgets none while it runs."""
    one = make("gw1").start()
    one.lease("10.77.0.101", 1)
    wait(one.has)
    one.ask("ready")
    assert one.reservations() == [f"{mac(1)},10.77.0.101"]
    one.settings["reserved"].append("10.77.0.101")
    one.hup()
    wait(lambda: one.was_told("try-restart gateway-dhcp"), 2)
    one.ask("stopped")
    one.ask("ready")
    assert one.reservations() == []


def neighbour(last, number, state="REACHABLE"):
    return {"dst": f"10.77.0.{last}", "lladdr": mac(number), "state": [state]}


def test_who_stays_without_a_lease_keeps_the_address(tmp_path, monkeypatch):
    """Not who has just given it back, or has left. Who is silent is asked."""
    (tmp_path / "reservations").mkdir()
    settings = {**SETTINGS, "node": "gw1"}
    journal = lease_journal.Journal("gw1", [], Nowhere(), "one")
    server = lease_server.Server(tmp_path, lease_orders.Orders(settings), journal)
    ticks = iter((0.0, 0.0, 30.0, 61.0, 62.0))
    monkeypatch.setattr(leases.time, "monotonic", lambda: next(ticks))
    asked: list[str] = []
    monkeypatch.setattr(lease_server, "wake", asked.append)
    server.begin(in_sync=True, there={})
    silent, other = lease_server.Neighbour(mac(1), False), lease_server.Neighbour(mac(2), True)
    server.look({"10.77.0.101": silent, "10.77.0.102": other})
    assert asked == ["10.77.0.101"]
    server.look({"10.77.0.101": silent})
    server.look({"10.77.0.101": silent, "10.77.0.102": other})
    lines: list[str] = [file.read_text() for file in (tmp_path / "reservations").iterdir()]
    assert lines == [f"{mac(1)},10.77.0.101\n"]


def test_a_clock_that_is_set_forward_ends_no_lease(tmp_path, monkeypatch):
    """A node that had no clock of its own while it was off, for instance."""
    settings = {**SETTINGS, "node": "gw1", "address": "", "port": 0, "peers": {}}
    (tmp_path / "settings").write_text(json.dumps(settings))
    clock: list[float] = [1000.0]
    monkeypatch.setattr(leases.time, "time", lambda: clock[0])
    daemon = leases.Leases(settings, tmp_path / "settings", b"", tmp_path, tmp_path)
    daemon.events, told = os.pipe()
    os.set_blocking(daemon.events, False)

    def tell(line):
        os.write(told, f"{line}\n".encode())
        daemon.read_events()

    ends = {100: 2800, 101: 1010, 102: 0}
    for last, until in ends.items():
        tell(f"add {mac(last)} 10.77.0.{last} {until} * name")
    daemon.server.mode, daemon.journal.is_news = True, False
    clock[0] = 1e9 + 20
    # dnsmasq has seen it first.
    tell(f"del {mac(100)} 10.77.0.100 2800 * name")
    found = {fact.address: (fact.since, fact.until) for fact in daemon.journal.leases(clock[0])}
    assert found["10.77.0.100"][0] == pytest.approx(1e9 + 20, abs=1)
    assert found["10.77.0.100"][1] == pytest.approx(1e9 + 1820, abs=1)
    assert found["10.77.0.102"][1] == lease_facts.FOREVER
    assert daemon.journal.is_news
    # Ends of the right clock: for no longer than a lease of now.
    clock[0] += 1e9
    daemon.watch_clock()
    longest: float = max(fact.until for fact in daemon.journal.leases(clock[0]))
    assert longest <= clock[0] + 43200
    clock[0] -= 3600
    daemon.journal.is_news = False
    daemon.watch_clock()
    assert not daemon.journal.is_news


def test_a_full_folder_for_dnsmasq_ends_nothing(make):
    """Names are written when there is room again. Nothing is taken for told that was not."""
    one = make("gw1", peers={}).start()
    names, hidden = one.folder / "hosts", one.folder / "hidden"
    names.rename(hidden)
    names.touch()  # as good as a full one
    one.lease("10.77.0.100", 1, "laptop")
    wait(lambda: "Not a directory" in one.ask("list")["fault"])
    assert one.has() == {"10.77.0.100": mac(1)}
    names.unlink()
    hidden.rename(names)
    wait(lambda: one.file("hosts/leases") and not one.ask("list")["fault"])
    assert one.process.poll() is None


def test_an_order_that_was_not_written_is_written_again(tmp_path):
    settings = {**SETTINGS, "node": "gw1"}
    journal = lease_journal.Journal("gw1", [], Nowhere(), "one")
    server = lease_server.Server(tmp_path, lease_orders.Orders(settings), journal)
    with pytest.raises(FileNotFoundError):
        server.add({"10.77.0.101": mac(1)})
    (tmp_path / "reservations").mkdir()
    server.add({"10.77.0.101": mac(1)})
    assert (tmp_path / "reservations/1").read_text() == f"{mac(1)},10.77.0.101\n"


def test_dnsmasq_is_not_started_all_the_time(tmp_path, monkeypatch):
    """Where both serve, and there is news each second; and where a peer is heard now and then."""
    settings = {**SETTINGS, "node": "gw1", "address": "", "port": 0, "peers": {}}
    (tmp_path / "settings").write_text(json.dumps(settings))
    daemon = leases.Leases(settings, tmp_path / "settings", b"", tmp_path, tmp_path)
    clock, starts = [1000.0], []
    monkeypatch.setattr(leases.time, "monotonic", lambda: clock[0])

    async def control(*_):
        starts.append(clock[0])
        daemon.server.begin(in_sync=False, there={})

    monkeypatch.setattr(leases, "control", control)

    def play(seconds):
        starts.clear()
        daemon.journal.is_news = False
        daemon.server.begin(in_sync=False, there={})
        for _ in range(seconds):
            clock[0] += 1
            daemon.journal.is_news = True
            asyncio.run(daemon._order(0.0, None))
        return len(starts)

    assert play(300) < 16
    daemon.journal.is_news = False
    clock[0] += 100
    asyncio.run(daemon._order(100.0, None))  # calm again
    clock[0] += 100
    assert play(4) == 1
    # What the peer gave while it was not heard: its clients may ask at any moment.
    starts.clear()
    daemon.journal.is_news = True
    asyncio.run(daemon._order(0.1, None))
    assert len(starts) == 1


class Nowhere:
    """A store that keeps nothing."""

    def load(self):
        return {}

    def write(self, texts):
        pass


def test_a_dnsmasq_that_ended_while_nobody_listened_serves_no_more(make):
    one = make("gw1", peers={}).start()
    one.ask("ready")
    one.kill()
    (one.folder / "state").write_text("inactive\n")
    one.start()
    wait(lambda: not one.ask("list")["serves"], 2)


def test_leases_of_before_are_taken_over(make):
    one = make("gw1", peers={})
    end = int(time.time()) + 600
    (one.folder / "dhcp.leases").write_text(
        f"{end} {mac(1)} 10.77.0.110 laptop 01:{mac(1)}\n0 {mac(2)} 10.77.0.111 * *\nduid 00:01\n"
    )
    one.start()
    found = {each["address"]: each for each in one.ask("list")["leases"]}
    assert found["10.77.0.110"]["name"] == "laptop"
    assert found["10.77.0.110"]["identifier"] == f"01:{mac(1)}"
    assert found["10.77.0.111"]["until"] is None
    # A dnsmasq that runs may still write it.
    assert (one.folder / "dhcp.leases").exists()
    one.kill()
    (one.folder / "state").write_text("inactive\n")
    one.start()
    wait(lambda: not (one.folder / "dhcp.leases").exists(), 2)
    assert len(one.has()) == 2


def test_a_broken_database_is_set_aside(make):
    one = make("gw1", peers={})
    (one.folder / "leases.db").write_text("no database at all, but a text of some length" * 100)
    one.start()
    one.lease("10.77.0.110", 1)
    wait(one.has)
    assert (one.folder / "leases.db.broken").exists()


def test_a_broken_page_is_found_before_the_database_is_used(tmp_path):
    path = tmp_path / "leases.db"
    kept = lease_store.Database(path)
    kept.write({str(number): "text" * 1000 for number in range(20)})
    kept.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"no page" * (len(data[4096:]) // 7)
    path.write_bytes(data)
    assert lease_store.Database(path).load() == {}
    assert path.with_name("leases.db.broken").exists()


def test_a_database_on_a_full_disk_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "leases.db"
    kept = lease_store.Database(path)
    kept.write({"10.77.0.110": "text"})
    assert not path.with_name("leases.db-shm").exists()
    kept.close()

    def full(*_, **__):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(lease_store.sqlite3, "connect", full)
        with pytest.raises(sqlite3.OperationalError):
            lease_store.Database(path)
    assert lease_store.Database(path).load() == {"10.77.0.110": "text"}


def test_a_peer_that_takes_nothing_is_left(make, tmp_path):
    """Also where more than the kernel takes is on its way: the line ends, and a new one is made."""
    one = make("gw1").start()
    for number in range(4000):
        address = f"10.78.{number // 250}.{number % 250 + 1}"
        one.tell(f"add {mac(number)} {address} {int(time.time()) + 3600} {LONGEST} name")
    wait(lambda: len(one.has()) == 4000)
    with socket.create_server((ADDRESSES["gw2"], one.settings["port"])) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(6)
        for line in [agreed(peer), agreed(peer)]:
            line.close()


LONGEST = ":".join(["ff"] * 255)


def agreed(peer):
    """A line of a peer that knows the key, and hears nothing after that."""
    line = peer.accept()[0]
    line.settimeout(5)
    me, number = line.recv(200).decode().split()
    said = b'{"node":"gw2"}'
    text = json.dumps([(me, number), ("gw2", "01")])
    key = hmac.digest(b"secret", text.encode(), "sha256")
    code = hmac.digest(key, b"b 0 " + said, "sha256").hex().encode()
    line.sendall(b"gw2 01\n" + code + b" " + said + b"\n")
    return line


def test_a_lease_is_ended(pair):
    one, other = pair
    one.lease("10.77.0.100", 1, "laptop")
    wait(other.has)
    one.ask("ready")
    assert other.ask("end", address="10.77.0.100")["lease"]["name"] == "laptop"
    wait(lambda: not one.has())
    wait(lambda: one.was_told("try-restart gateway-dhcp"))
    assert "nobody has a lease" in other.ask("end", address="10.77.0.100")["error"]


def test_a_burst_keeps_nobody_waiting(make):
    """Who asks meanwhile is answered before all of it is read."""
    one = make("gw1", peers={}).start()
    lines = [
        f"add {mac(number)} 10.78.{number >> 8}.{number & 255} {int(time.time()) + 3600} *"
        for number in range(12_000)
    ]
    one.process.send_signal(signal.SIGSTOP)
    with open(one.folder / "events", "wb") as events:
        fcntl.fcntl(events, F_SETPIPE_SZ, 1 << 20)
        events.write("".join(f"{line} \n" for line in lines).encode())
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(one.folder / "socket"))
        line.sendall(b'{"ask": "list"}\n')
        one.process.send_signal(signal.SIGCONT)
        answer = json.loads(line.makefile().readline())
    assert len(answer["leases"]) < len(lines)
    wait(lambda: len(one.has()) == len(lines))


def test_what_is_known_has_no_names_written(make):
    """dnsmasq tells of all its leases when it starts."""
    one = make("gw1", peers={}).start()
    one.lease("10.77.0.100", 1, "laptop")
    names = one.folder / "hosts/leases"
    wait(names.read_text)
    before = names.stat()
    one.lease("10.77.0.100", 1, "laptop", seconds=3000, action="old")
    time.sleep(0.6)
    assert names.stat().st_ino == before.st_ino


def test_many(pair):
    """2,000 leases: told, and again to one that starts anew."""
    one, other = pair
    start = time.monotonic()
    for number in range(2000):
        one.lease(f"10.78.{number // 250}.{number % 250 + 1}", number)
    wait(lambda: len(other.has()) == 2000)
    print("told", time.monotonic() - start)
    other.kill()
    for file in other.folder.glob("leases.db*"):
        file.unlink()
    start = time.monotonic()
    other.start()
    wait(lambda: len(other.has()) == 2000)
    print("exchange", time.monotonic() - start)


def test_dnsmasq_has_stopped_and_nobody_has_said_so(pair):
    """Else both seem to serve when the other one does, and are never in sync again."""
    one, other = pair
    (one.folder / "state").write_text("failed\n")
    one.ask("ready")
    wait(lambda: not one.ask("list")["serves"], 2)
    other.ask("ready")
    in_sync(one, other)
    (other.folder / "state").write_text("activating\n")
    other.ask("ready")
    time.sleep(0.3)
    assert other.ask("list")["serves"]
