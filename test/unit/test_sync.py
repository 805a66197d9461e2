"""State sync: what is planned, what the firewall lets through, the scripts, and the status."""

import json
import os
import re
import subprocess
import time
from types import SimpleNamespace

import _gateway_kernel
import _gateway_machine
import _gateway_rules
import _gateway_sync
import pytest

ADDRESS = {"public:virtual_ip": "198.51.100.10"}
LINK = {
    **ADDRESS,
    "state_sync": {"interface": "eth3"},
    "nodes:gw1:sync": "10.78.0.1",
    "nodes:gw2:sync": "10.78.0.2",
}
THIRD = {"nodes:gw3": {"id": 3, "internal": "10.77.0.4", "public": "198.51.100.4"}}
SYSCTLS = {
    "net/netfilter/nf_conntrack_tcp_be_liberal": "1",
    "net/netfilter/nf_conntrack_tcp_loose": "1",
}

# --------------------------------------------------------------------------------------------------
# The plan


@pytest.mark.parametrize(
    "changes",
    [
        {},
        ADDRESS,
        {**ADDRESS, "state_sync": False},
        {"state_sync": False},
        {**ADDRESS, **THIRD},
        {**ADDRESS, "nodes:gw2": ...},
    ],
    ids=[
        *("no public virtual IP", "without a word", "off", "off where it was off"),
        *("three nodes", "one node"),
    ],
)
def test_off(plan, changes):
    """Where it could be on, and the pillar does not say a word, somebody has to decide."""
    found = plan(changes)
    assert found["sync"] == {"enabled": False, "undecided": changes == ADDRESS}
    assert not SYSCTLS.keys() & found["kernel"].keys()
    rules = _gateway_rules.ruleset(found)
    assert "3780" not in rules["v4"] + rules["v6"]


def test_on(plan):
    changes = {**LINK, "public:addresses": ["198.51.100.11"]}
    found = plan(changes)
    sync = found["sync"]
    assert sync == {
        "enabled": True,
        "interface": "eth3",
        "address": "10.78.0.1",
        "peer": "10.78.0.2",
        "port": 3780,
        "ignored": sync["ignored"],
    }
    assert set(sync["ignored"]) == {
        "127.0.0.0/8",
        *("10.77.0.1", "10.77.0.2", "10.77.0.3"),
        *("198.51.100.2", "198.51.100.3", "198.51.100.10", "198.51.100.11"),
        *("10.78.0.1", "10.78.0.2"),
        "10.8.0.0/16",
    }
    assert found["kernel"].items() >= SYSCTLS.items()
    other = plan(changes, "gw2")["sync"]
    assert (other["address"], other["peer"]) == ("10.78.0.2", "10.78.0.1")
    assert other["ignored"] == sync["ignored"]


def test_another_name_on_one_node(plan):
    changes = {**LINK, "nodes:gw2:sync_interface": "eth4"}
    for node, expected in {
        "gw1": ("eth3", "10.78.0.1", "10.78.0.2"),
        "gw2": ("eth4", "10.78.0.2", "10.78.0.1"),
    }.items():
        sync = plan(changes, node)["sync"]
        assert (sync["interface"], sync["address"], sync["peer"]) == expected


NEEDS_ADDRESS = (
    "gateway:state_sync: needs gateway:public:virtual_ip: without it connections are translated to"
    " the address of one node, and end with it"
)
NEEDS_LINK = (
    "gateway:state_sync: needs a link of the nodes' own: state_sync: {interface: eth3}, and"
    " nodes:NODE:sync for each node; over the internal side any machine there could add connections"
    " that no rule has let in"
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({**ADDRESS, "state_sync": True}, [NEEDS_LINK]),
        ({**LINK, "state_sync": True}, [NEEDS_LINK]),
        ({"state_sync": True}, [NEEDS_LINK, NEEDS_ADDRESS]),
        ({**LINK, "public:virtual_ip": ...}, [NEEDS_ADDRESS]),
        (
            {**ADDRESS, "state_sync": "yes"},
            ["gateway:state_sync: must be false or a mapping with interface, is text (yes)"],
        ),
        ({**LINK, "state_sync": {}}, ["gateway:state_sync:interface: missing"]),
        (
            {**LINK, "state_sync": {"interface": "eth3", "address": "10.78.0.1"}},
            ["gateway:state_sync:address: unknown key"],
        ),
        (
            {**LINK, **THIRD, "nodes:gw3:sync": "10.78.0.3"},
            ["gateway:state_sync: needs a site of two nodes; this one has 3"],
        ),
        (
            {**LINK, "nodes:gw2:sync": ...},
            ["gateway:nodes:gw2:sync: missing; gateway:state_sync:interface needs it"],
        ),
        (
            {**LINK, "nodes:gw2:sync": "10.78.0.1"},
            [
                "gateway:nodes:gw2:sync: address 10.78.0.1 is taken already, by"
                " gateway:nodes:gw1:sync"
            ],
        ),
        (
            {**LINK, "nodes:gw2:sync": "10.77.0.9"},
            [
                "gateway:nodes:gw2:sync: 10.77.0.9 is inside 10.77.0.0/24; a link of its own has a"
                " network of its own"
            ],
        ),
        (
            {**LINK, "state_sync": False},
            [
                f"gateway:nodes:{node}:sync: means nothing without gateway:state_sync:interface"
                for node in ("gw1", "gw2")
            ],
        ),
        (
            {**LINK, "nodes:gw2:sync_interface": "eth1"},
            [
                "gateway:nodes:gw2:sync_interface: eth1 is the public interface; a link has one of"
                " its own"
            ],
        ),
        (
            {**LINK, "state_sync": {"interface": "eth0"}},
            [
                "gateway:state_sync:interface: eth0 is the internal interface; a link has one of"
                " its own"
            ],
        ),
    ],
)
def test_errors(errors, changes, expected):
    assert errors({key: value for key, value in changes.items() if value is not ...}) == expected


def test_a_wrong_virtual_ip_is_one_error(errors):
    found = errors({**LINK, "public:virtual_ip": "198.51.100.999"})
    assert [error.split(": ")[0] for error in found] == ["gateway:public:virtual_ip"]


# --------------------------------------------------------------------------------------------------
# The firewall


def test_it_is_decided_before_everything_else(plan):
    """Raw lines of the pillar and the node's own packets too. Packets go through in test_rules."""
    raw = {
        "firewall:raw": {
            "raw": {"PREROUTING": ["-j DROP"], "OUTPUT": ["-j DROP"]},
            "filter": {"INPUT": ["-j DROP"]},
        },
        "firewall:raw6": {"filter": {"INPUT": ["-j ACCEPT"]}},
    }
    rules = _gateway_rules.ruleset(plan({**LINK, **raw}))
    lines = {
        chain: [
            line
            for line in rules["v4"].splitlines()
            if line.startswith(f"-A GATEWAY-{chain}") and "-p 112" not in line
        ]
        for chain in ("PREROUTING", "OUTPUT", "INPUT")
    }
    news = "-p udp --dport 3780"
    assert lines["PREROUTING"][:3] == [
        f"-A GATEWAY-PREROUTING {text}"
        for text in (
            "! -i eth3 -s 10.78.0.2 -j DROP",
            f"-i eth3 -s 10.78.0.2 -d 10.78.0.1 {news} -j CT --notrack",
            "-j DROP",
        )
    ]
    assert lines["OUTPUT"][:3] == [
        f"-A GATEWAY-OUTPUT {text}"
        for text in (
            f"! -o eth3 -d 10.78.0.2 {news} -j DROP",
            f"-o eth3 -s 10.78.0.1 -d 10.78.0.2 {news} -j CT --notrack",
            "-j DROP",
        )
    ]
    assert lines["INPUT"][:4] == [
        f"-A GATEWAY-INPUT {text}"
        for text in (
            f"-i eth3 -s 10.78.0.2 -d 10.78.0.1 {news} -j ACCEPT",
            f"{news} -j DROP",
            # What the peer tells of leases, as early.
            "-i eth3 -s 10.78.0.2 -d 10.78.0.1 -p tcp --dport 3781 -j ACCEPT",
            "-d 10.78.0.1 -p tcp --dport 3781 -j DROP",
        )
    ]
    (first, *_) = [line for line in rules["v6"].splitlines() if line.startswith("-A GATEWAY-INPUT")]
    assert first == f"-A GATEWAY-INPUT {news} -j DROP"


def test_so_it_is_where_the_rules_cannot_be_loaded(plan):
    """The nodes still hear each other, and nobody else is let in."""
    rules = _gateway_rules.ruleset(plan(LINK))
    for family in "46":
        usual, closed = (rules[f"{kind}{family}"].splitlines() for kind in ("v", "closed"))
        told = [line for line in usual if "3780" in line or "! -i eth3" in line]
        assert told
        assert [line for line in closed if line in told] == told


# --------------------------------------------------------------------------------------------------
# The status

COUNTERS = """\
cache internal:
current active connections:\t         206
connections created:\t\t         421\tfailed:\t           0
connections updated:\t\t         315\tfailed:\t           0
connections destroyed:\t\t         215\tfailed:\t           0

external inject:
connections created:\t\t          90\tfailed:\t           2
connections updated:\t\t         521\tfailed:\t           1
connections destroyed:\t\t          30\tfailed:\t           0

traffic processed:
                   0 Bytes                         0 Pckts

UDP traffic (active device=eth3):
               54956 Bytes sent                  872 Bytes recv
                 145 Pckts sent                   55 Pckts recv
                   0 Error send                    0 Error recv

message tracking:
                   0 Malformed msgs                   10 Lost msgs

"""


@pytest.fixture
def node(load, monkeypatch, tmp_path, plan):
    """What gateway.status says of state sync on a node whose conntrackd says COUNTERS."""
    places = {
        "SYNC_REPORT": _gateway_sync,
        "UPTIME": _gateway_machine,
        "CONNECTIONS": _gateway_kernel,
    }
    paths = {name: tmp_path / name for name in places}
    for name, room in places.items():
        monkeypatch.setattr(room, name, str(paths[name]))
    said = {"conntrackd": COUNTERS}

    monkeypatch.setattr(_gateway_machine, "output", lambda tool, *_: said.get(tool) or "")
    paths["UPTIME"].write_text("5000.12 9000.5\n")
    paths["CONNECTIONS"].write_text("260\n")

    def report(**changes):
        usual = {"role": "master", "silent": 0, "lost": 10, "failed": 3, "trouble": -1000}
        paths["SYNC_REPORT"].write_text(json.dumps({**usual, "uptime": 4999, **changes}))

    def status(changes=LINK):
        here = _gateway_machine.Here(links={}, role="MASTER", drained=False)
        facts, problems = _gateway_sync.status(plan(changes), here)
        return facts["sync"], problems

    report()
    return SimpleNamespace(report=report, status=status, said=said, paths=paths)


def test_status(node):
    assert node.status() == (
        {
            "enabled": True,
            "peer": "10.78.0.2",
            "heard": True,
            "here": 260,
            "sent": 206,
            "received": 60,
            "lost": 10,
            "failed": 3,
        },
        [],
    )


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"silent": 40}, ["state sync: nothing is heard of the peer, 10.78.0.2"]),
        ({"uptime": 4900}, ["state sync: it does not run, or has not for the last seconds"]),
        (
            {"trouble": 4990},
            [
                "state sync: messages of the peer's were lost, or the kernel did not take them, in"
                " the last 20 seconds"
            ],
        ),
        ({"trouble": 4970}, []),
    ],
    ids=["silent", "old report", "trouble", "trouble in the past"],
)
def test_problems(node, report, expected):
    node.report(**report)
    assert node.status()[1] == expected


@pytest.mark.parametrize("text", ["", "garbage:\nfailed: x\nLost msgs", "a\tb\n: 7 8 9"])
def test_status_without_an_answer(node, text):
    node.said["conntrackd"] = text
    node.paths["CONNECTIONS"].unlink()
    found, problems = node.status()
    assert {found[key] for key in ("here", "sent", "received", "lost", "failed")} == {None}
    assert problems == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"uptime": "x"}', "{}"])
def test_status_without_a_report(node, text):
    node.paths["SYNC_REPORT"].write_text(text)
    found, problems = node.status()
    assert found["heard"] is False
    assert problems == ["state sync: it does not run, or has not for the last seconds"]


# --------------------------------------------------------------------------------------------------
# The scripts


@pytest.fixture
def watcher(root, tool, tmp_path):
    """gateway-sync on a node; what it asks conntrackd for is in ``calls``."""
    log, holds, stats, socket = (tmp_path / name for name in ("log", "holds", "stats", "socket"))
    report = tmp_path / "sync.json"
    tool("ip", f"test ! -e {holds} || echo '3: eth1 inet'")
    answer = f"test -e {stats} && cat {stats}"
    tool("conntrackd", f'[ "$1" = -s ] || {{ printf "%s\\n" "$*" >>{log}; exit; }}\n{answer}')
    tool("sleep", "exec /bin/sleep 0.05")
    script = (root / "gateway/conntrackd/files/sync").read_text()
    script = script.replace("/run/conntrackd.ctl", str(socket))
    script = script.replace("/run/gateway/sync.json", str(report))
    script = script.replace("silence=5", "silence=1")
    log.touch()
    processes = []

    def start():
        command = ["bash", "-c", script, "sync", "198.51.100.10"]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))

    def say(received, lost=0):
        text = COUNTERS.replace("55 Pckts recv", f"{received} Pckts recv")
        stats.with_suffix(".new").write_text(text.replace("10 Lost msgs", f"{lost} Lost msgs"))
        os.replace(stats.with_suffix(".new"), stats)

    def calls(count):
        """The first so many calls, and that there are no more of them soon."""
        end = time.monotonic() + 5
        while len(log.read_text().splitlines()) < count and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.3)
        found = log.read_text().splitlines()
        log.write_text("")
        return found

    def reported(key, wanted, seconds=5):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if report.exists() and wanted(json.loads(report.read_text())[key]):
                return True
            time.sleep(0.02)
        return False

    socket.touch()
    os.utime(socket, (0, 0))
    yield SimpleNamespace(
        start=start,
        say=say,
        calls=calls,
        reported=reported,
        holds=holds,
        stats=stats,
        socket=socket,
    )
    for process in processes:
        process.kill()
        process.wait()


ASK = ["-f internal", "-n"]
TELL = ["-f internal", "-R", "-R", "-B"]
KNOW = ["-f internal", "-R", "-R"]


def test_a_standby_asks_when_it_starts(watcher):
    watcher.say(7)
    watcher.start()
    assert watcher.calls(2) == ASK
    assert watcher.reported("role", lambda role: role == "backup")


def test_who_is_in_charge_tells_when_it_starts(watcher):
    watcher.holds.touch()
    watcher.say(7)
    watcher.start()
    assert watcher.calls(4) == TELL
    assert watcher.reported("role", lambda role: role == "master")


def test_a_takeover_needs_no_answer(watcher):
    """It learns what the kernel has, for a peer that asks; as a standby again it forgets it."""
    watcher.say(7)
    watcher.start()
    watcher.calls(2)
    watcher.holds.touch()
    assert watcher.calls(3) == KNOW
    watcher.holds.unlink()
    assert watcher.calls(1) == ["-f internal"]


def test_a_peer_that_comes_back_is_told(watcher):
    watcher.holds.touch()
    watcher.say(7)
    watcher.start()
    watcher.calls(4)
    assert watcher.reported("silent", lambda seconds: seconds >= 2)
    watcher.say(8, lost=5000)
    assert watcher.calls(4) == TELL
    assert watcher.reported("silent", lambda seconds: seconds < 2)
    # What was lost on the way meanwhile comes again; what is lost from now on is trouble.
    assert watcher.reported("trouble", lambda when: when < 0)
    watcher.say(9, lost=5001)
    assert watcher.reported("trouble", lambda when: when > 0)


@pytest.mark.parametrize("trace", ["socket", "counters", "away"])
def test_a_new_conntrackd_is_noticed(watcher, trace):
    watcher.say(7)
    watcher.start()
    watcher.calls(2)
    if trace == "socket":
        os.utime(watcher.socket, (time.time() + 5, time.time() + 5))
        watcher.say(8)
    elif trace == "counters":
        watcher.say(1)
    else:
        watcher.stats.unlink()
        time.sleep(0.3)
        watcher.say(8)
    assert watcher.calls(2)[:2] == ASK


def test_what_conntrackd_says_that_is_no_answer(watcher):
    watcher.stats.write_text("no numbers here\n")
    watcher.start()
    assert watcher.calls(0) == []
    watcher.say(1)
    assert watcher.calls(2) == ASK


@pytest.mark.parametrize(
    ("said", "accepted"),
    [
        ("[ERROR] can't connect: is conntrackd running?", True),
        ("[ERROR] parsing config file in line (17), symbol 'HashSiz': syntax error", False),
        ("[warning] eth9 is an invalid interface\n[ERROR] can't connect: is it?", False),
        ("", False),
    ],
)
def test_check(root, tool, tmp_path, said, accepted):
    """As a client it looks at the file; nothing that a running conntrackd has is touched."""
    used = tmp_path / "used"
    (tmp_path / "said").write_text(f"{said}\n" if said else "")
    tool("conntrackd", f'cat "$2" >{used}; cat {tmp_path}/said >&2; exit 1')
    config = tmp_path / "config"
    config.write_text("General {\n    UNIX {\n        Path /run/conntrackd.ctl\n    }\n}\n")
    script = root / "gateway/conntrackd/files/check-conntrackd"
    done = subprocess.run(["sh", script, config], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is accepted
    assert "/run/conntrackd.ctl" not in used.read_text()
    assert accepted or said in done.stderr


# --------------------------------------------------------------------------------------------------
# What is written


def test_conntrackd(render):
    """The nodes send to each other; what is the nodes' own stays where it is."""
    ends = {}
    for node in ("gw1", "gw2"):
        found = render("link of their own", node=node)
        text = re.sub(r"(?m)^\s*#.*\n", "", found.files["/etc/conntrackd/conntrackd.conf"])
        words = dict(re.findall(r"(?m)^ {8}(\w+) (\S+)$", text))
        assert words["Port"] == "3780"
        assert words["DisableExternalCache"] == "on"
        ends[node] = (words["Interface"], words["IPv4_address"], words["IPv4_Destination_Address"])
        [ignored] = re.findall(r"Address Ignore \{(.*?)\}", text, re.DOTALL)
        addresses = re.findall(r"IPv4_address (\S+)", ignored)
        assert addresses == [*found.plan["sync"]["ignored"], "172.17.0.1"]
        assert text.count("{") == text.count("}")
        watcher = found.files["/etc/systemd/system/gateway-sync.service"]
        assert "ExecStart=/usr/lib/gateway/sync 198.51.100.1\n" in watcher
    assert ends == {
        "gw1": ("eth3", "10.78.0.1", "10.78.0.2"),
        "gw2": ("eth4", "10.78.0.2", "10.78.0.1"),
    }


@pytest.mark.parametrize("site", ["example", "public virtual IP"])
def test_without_state_sync_nothing_of_it_is_there(render, site):
    """conntrackd itself is stopped only if it was ours."""
    found = render(site)
    assert "/etc/conntrackd/conntrackd.conf" not in found.files
    assert found.ids["no state sync"]["ours"].endswith("/conntrackd.service.d/gateway.conf")
    assert "kernel modules" not in found.ids
