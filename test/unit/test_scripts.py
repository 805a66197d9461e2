"""The shell scripts of the formula, with the tools that they call played by the test."""

import json
import os
import subprocess
import time
from types import SimpleNamespace

import pytest

FIREWALL = "gateway/firewall/files/firewall"
FOLLOW = "gateway/follow/files/follow"

# --------------------------------------------------------------------------------------------------
# firewall

RULES = """\
# A comment.
*raw
:GATEWAY-PREROUTING - [0:0]
-I PREROUTING -j GATEWAY-PREROUTING
-A GATEWAY-PREROUTING -p 112 -j CT --notrack
COMMIT
*filter
:GATEWAY-INPUT - [0:0]
:GATEWAY-FORWARD - [0:0]
-I INPUT -j GATEWAY-INPUT
-I FORWARD -j GATEWAY-FORWARD
-A GATEWAY-INPUT -j ACCEPT
-A GATEWAY-FORWARD -j GATEWAY-INPUT
COMMIT
"""
LIVE = """\
*raw
:GATEWAY-PREROUTING -
-A PREROUTING -j GATEWAY-PREROUTING
-A GATEWAY-PREROUTING -p vrrp -j CT --notrack
*filter
:GATEWAY-INPUT -
:GATEWAY-FORWARD -
-A INPUT -j GATEWAY-INPUT
-A FORWARD -j GATEWAY-FORWARD
-A GATEWAY-INPUT -j ACCEPT
-A GATEWAY-FORWARD -j GATEWAY-INPUT
"""
FOREIGN = {
    "raw": {"PREROUTING": [], "OUTPUT": []},
    "nat": {
        "PREROUTING": ["-j DOCKER"],
        "INPUT": [],
        "OUTPUT": [],
        "POSTROUTING": [],
        "DOCKER": ["-i docker0 -j RETURN"],
    },
    "filter": {"INPUT": ["-j f2b-sshd"], "FORWARD": [], "OUTPUT": [], "f2b-sshd": ["-j RETURN"]},
}


@pytest.fixture
def firewall(iptables, root, tmp_path):
    """Run the script on a machine that has Docker's and fail2ban's rules."""
    iptables.write_text(json.dumps(FOREIGN))
    rules = tmp_path / "rules"
    rules.write_text(RULES)

    def run(*arguments, code=0):
        """``code`` None: anything but success."""
        done = subprocess.run(
            ["sh", root / FIREWALL, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == code if code is not None else done.returncode, done.stderr
        return done

    return SimpleNamespace(
        run=run, rules=rules, state=iptables, tables=lambda: json.loads(iptables.read_text())
    )


def test_show_where_nothing_is_ours(firewall):
    assert firewall.run("show").stdout == ""


def test_load_and_show(firewall):
    firewall.run("load", firewall.rules)
    assert firewall.run("show").stdout == LIVE
    tables = firewall.tables()
    assert tables["nat"] == FOREIGN["nat"]
    assert tables["filter"]["INPUT"] == ["-j GATEWAY-INPUT", "-j f2b-sshd"]
    assert tables["filter"]["f2b-sshd"] == ["-j RETURN"]


def test_load_again_puts_no_second_jump_and_no_old_rule(firewall):
    firewall.run("load", firewall.rules)
    firewall.rules.write_text(
        RULES.replace("-A GATEWAY-INPUT -j ACCEPT", "-A GATEWAY-INPUT -j DROP")
    )
    firewall.run("load", firewall.rules)
    assert firewall.run("show").stdout == LIVE.replace("INPUT -j ACCEPT", "INPUT -j DROP")


def test_load_brings_a_lost_jump_back(firewall):
    firewall.run("load", firewall.rules)
    tables = firewall.tables()
    tables["filter"]["FORWARD"].clear()
    firewall.state.write_text(json.dumps(tables))
    firewall.run("load", firewall.rules)
    assert firewall.run("show").stdout == LIVE


def test_a_jump_in_one_table_is_not_one_in_another(firewall):
    """nat has a PREROUTING chain too: raw's jump must not pass for nat's."""
    firewall.run("load", firewall.rules)
    firewall.rules.write_text(RULES + RULES[RULES.index("*raw") :].replace("*raw", "*nat", 1))
    firewall.run("load", firewall.rules)
    assert firewall.tables()["nat"]["PREROUTING"] == ["-j GATEWAY-PREROUTING", "-j DOCKER"]


@pytest.mark.parametrize("verb", ["test", "load"])
@pytest.mark.parametrize("loaded", [False, True], ids=["first", "again"])
def test_a_wrong_file_changes_nothing(firewall, verb, loaded):
    if loaded:
        firewall.run("load", firewall.rules)
    before = firewall.tables()
    firewall.rules.write_text(RULES.replace("-A GATEWAY-PREROUTING", "-A GATEWAY-NOWHERE"))
    assert "GATEWAY-NOWHERE" in firewall.run(verb, firewall.rules, code=1).stderr
    assert firewall.tables() == before


@pytest.mark.parametrize("verb", ["test", "load"])
def test_a_missing_file_is_an_error(firewall, verb):
    """iptables-restore is content with an empty input."""
    assert "absent" in firewall.run(verb, firewall.rules.parent / "absent", code=None).stderr


@pytest.mark.parametrize("arguments", [("show",), ("load",), ("unload",)], ids=" ".join)
def test_without_a_look_at_the_kernel_nothing_is_done(firewall, tool, arguments):
    """Who does not know what is there would put every jump in twice."""
    firewall.run("load", firewall.rules)
    before = firewall.tables()
    tool("iptables-save", "echo 'iptables-save: no' >&2; exit 1")
    files = [firewall.rules] if arguments == ("load",) else []
    assert "iptables-save: no" in firewall.run(*arguments, *files, code=None).stderr
    assert firewall.tables() == before


def test_test_changes_nothing(firewall):
    firewall.run("test", firewall.rules)
    assert firewall.tables() == FOREIGN


def test_unload_leaves_what_was_there_before(firewall):
    firewall.run("load", firewall.rules)
    firewall.run("unload")
    assert firewall.tables() == FOREIGN
    firewall.run("unload")  # nothing is left to do
    assert firewall.tables() == FOREIGN


@pytest.mark.parametrize(
    "arguments", [(), ("load",), ("test",), ("flush",), ("show", "x"), ("unload", "x")], ids=str
)
def test_usage(firewall, arguments):
    usage = firewall.run(*arguments, code=64).stderr
    lines = [line.split()[:2] for line in usage.splitlines() if line.startswith("  ")]
    assert lines == [["firewall", verb] for verb in ("show", "test", "load", "unload")]
    assert firewall.tables() == FOREIGN


# --------------------------------------------------------------------------------------------------
# follow


@pytest.fixture
def follower(tool, root, tmp_path):
    """Start the follower on a node; what it calls is in ``calls``."""
    log, address, active = (tmp_path / name for name in ("log", "address", "active"))
    fifo = tmp_path / "fifo"
    tool("ip", f'echo look >>{log}; test ! -e {address} || echo "3: eth0 inet $5/32"')
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
    processes = []

    def start():
        command = ["bash", root / FOLLOW, fifo, "10.77.0.1"]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))

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
    command = ["bash", root / FOLLOW, tmp_path, "10.77.0.1"]
    done = subprocess.run(command, stderr=subprocess.DEVNULL, check=False, timeout=5)
    assert done.returncode == 1
