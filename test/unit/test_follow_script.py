"""The follower: the virtual IP, the target, roles, routes."""

import os
import shutil
import subprocess
import time
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.scripts

FOLLOW = "gateway/follow/files/follow"

# --------------------------------------------------------------------------------------------------
# follow


@pytest.fixture
def follower(tool, root, tmp_path):
    """Start the follower on a node; what it calls is in ``calls``."""
    names = ("log", "address", "active", "routes", "kernel", "broken")
    log, address, active, routes, kernel, broken = (tmp_path / name for name in names)
    fifo = tmp_path / "fifo"
    tool(
        "ip",
        f"""test ! -e {broken} || exit 1
        case $* in
            *address*) echo look >>{log}; test ! -e {address} || echo "3: eth0 inet $5/32" ;;
            "-N -4 route show table all proto 119") cat {kernel} ;;
            "-force -batch -") sed 's/^route add //; s/proto 119/dev eth0 /; /^$/d' >>{kernel} ;;
            *) echo "$*" >>{log} ;;
        esac""",
    )
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
    kernel.touch()
    processes = []

    def start(*names, reassert=0, random=32767):
        """``random``: how far, of 32767, from the shortest to the longest time; "" for by chance"""
        command = ["bash", root / FOLLOW, fifo, "10.77.0.1", routes, str(reassert), *names]
        environment = {**os.environ, "FOLLOW_RANDOM": str(random)}
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment))

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
        routes=routes,
        kernel=kernel,
        broken=broken,
        processes=processes,
        run=tmp_path,
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
    looked(follower, times=2)
    # A one-shot unit that follows would run again and again.
    assert follower.calls().count(f"start {TARGET}") == 1


def test_the_target_of_an_earlier_reader_is_stopped(follower):
    follower.active.touch()
    follower.start()
    follower.wait(lambda: not follower.active.exists())
    assert follower.calls()[-1] == f"stop {TARGET}"


def test_a_target_that_is_still_starting_is_stopped(follower):
    """It is not active while what follows it waits, as DHCP does for its peer."""
    follower.address.touch()
    follower.start()
    follower.wait(follower.active.exists)
    follower.active.unlink()
    follower.address.unlink()
    told(follower, 'INSTANCE "internal" BACKUP 250')
    follower.wait(lambda: f"stop {TARGET}" in follower.calls())


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
    command = ["bash", root / FOLLOW, tmp_path, "10.77.0.1", tmp_path / "routes", "60"]
    done = subprocess.run(command, stderr=subprocess.DEVNULL, check=False, timeout=5)
    assert done.returncode == 1


def test_a_target_that_somebody_stopped_is_started(follower):
    follower.address.touch()
    follower.start()
    follower.wait(follower.active.exists)
    follower.active.unlink()
    follower.wait(follower.active.exists, seconds=9)


def test_without_an_answer_of_the_kernel_nothing_changes(follower):
    follower.address.touch()
    follower.start()
    looked(follower, lambda: follower.wait(follower.active.exists), times=2)
    follower.broken.touch()
    time.sleep(0.2)
    before = len(follower.calls())
    follower.tell('INSTANCE "internal" MASTER 250\n')
    time.sleep(0.5)
    assert follower.calls()[before:] == []


HOOKS = "start --no-block gateway-follow-hooks.service"
EVENT = "start --no-block gateway-follow-event.service"
CONTEST = 'INSTANCE "internal" MASTER_RX_LOWER_PRI 250\n'


def role(follower):
    path = follower.run / "role"
    return path.read_text().split()[0] if path.exists() else None


def asked(follower):
    """Why the executables are to be called."""
    return (follower.run / "hooks.asked").read_text().split()[1]


def end_well(follower, *names):
    """As follow-tell does when all have ended well."""
    role = (follower.run / "role").read_text().strip()
    number = (follower.run / "hooks.asked").read_text().split()[0]
    for name in names or ("hooks",):
        text = f"{role} {number}" if name == "hooks" else role
        (follower.run / f"{name}.told").write_text(f"{text}\n")


def called(follower, call, times):
    """When it has been called so often, and not more within some looks after that."""
    follower.wait(lambda: follower.calls().count(call) >= times, seconds=9)
    looked(follower, times=2)
    assert follower.calls().count(call) == times


def primary(follower, **options):
    """A node that has been primary for a while, whose executables have ended well."""
    follower.address.touch()
    follower.start("hooks", "event", **options)
    follower.wait(lambda: EVENT in follower.calls())
    end_well(follower, "hooks", "event")


def test_the_role_is_written_and_told_once(follower):
    follower.start("hooks", "event")
    follower.wait(lambda: role(follower) == "secondary")
    follower.wait(lambda: follower.calls()[-2:] == [HOOKS, EVENT])
    assert asked(follower) == "start"
    end_well(follower, "hooks", "event")
    follower.address.touch()
    follower.tell('INSTANCE "internal" MASTER 250\n')
    follower.wait(lambda: role(follower) == "primary")
    follower.wait(lambda: follower.calls()[-2:] == [HOOKS, EVENT])
    assert asked(follower) == "change"
    assert f"start {TARGET}" in follower.calls()
    end_well(follower, "hooks", "event")
    called(follower, HOOKS, 2)
    called(follower, EVENT, 2)


@pytest.mark.parametrize("name", ["hooks", "event"])
@pytest.mark.parametrize(("random", "first", "second"), [(0, 1, 2), (32767, 2, 4)])
def test_who_could_not_be_told_is_told_later(follower, name, random, first, second):
    """After 1 to 2 s, then 2 to 4 s, and so on; it looks about once a second."""
    follower.start(name, random=random)
    times = []
    for count in (1, 2, 3):
        follower.wait(lambda: len(starts(follower)) == count, seconds=9)  # noqa: B023
        times.append(time.monotonic())
    assert first - 0.2 < times[1] - times[0] < first + 1.5
    assert second - 0.2 < times[2] - times[1] < second + 1.5
    end_well(follower, name)


def starts(follower):
    return [call for call in follower.calls() if call in (HOOKS, EVENT)]


def test_waits_differ_by_chance(root):
    """Between a part of the time and all of it, and seldom the same."""
    for percent in (50, 90):
        loop = f"for _ in {{1..200}}; do about {percent} 300; echo $time; done"
        script = f". {root / FOLLOW}-decisions; {loop}"
        said = subprocess.run(["bash", "-uc", script], capture_output=True, check=True).stdout
        times = [int(line) for line in said.split()]
        width = 30000 - 300 * percent
        assert 300 * percent <= min(times) < 300 * percent + 0.2 * width
        assert 30000 - 0.2 * width < max(times) <= 30000
        assert len(set(times)) > 150


def test_after_a_restart_hooks_hear_the_role_again_and_the_master_does_not(follower):
    primary(follower)
    before = (follower.run / "role").read_text()
    follower.processes[0].kill()
    follower.processes[0].wait()
    calls = len(follower.calls())
    looked(follower, lambda: follower.start("hooks", "event"), times=2)
    told = {call for call in follower.calls()[calls:] if "gateway-follow-" in call}
    assert told == {HOOKS}
    assert asked(follower) == "start"
    assert (follower.run / "role").read_text() == before


def test_after_a_contest_hooks_of_the_winner_are_called_again(follower):
    """Once, when it is over; the master has nothing new to hear."""
    primary(follower)
    before = (follower.run / "role").read_text()
    for _ in range(15):
        follower.tell(CONTEST)
        time.sleep(0.1)
    assert follower.calls().count(HOOKS) == 1
    follower.wait(lambda: follower.calls().count(HOOKS) == 2, seconds=3)
    assert asked(follower) == "contest"
    assert (follower.run / "role").read_text() == before
    end_well(follower)
    called(follower, HOOKS, 2)
    assert follower.calls().count(EVENT) == 1
    follower.tell(CONTEST)
    follower.wait(lambda: follower.calls().count(HOOKS) == 3)
    # They did not end well.
    follower.wait(lambda: follower.calls().count(HOOKS) == 4)


def test_after_a_contest_hooks_of_the_loser_hear_of_the_change_alone(follower):
    primary(follower)
    follower.address.unlink()
    follower.tell(CONTEST + 'INSTANCE "internal" BACKUP 249\n')
    follower.wait(lambda: role(follower) == "secondary")
    follower.wait(lambda: follower.calls().count(HOOKS) == 2)
    end_well(follower, "hooks", "event")
    looked(follower, times=2)
    called(follower, HOOKS, 2)
    assert asked(follower) == "change"


def test_hooks_of_a_primary_are_called_again_and_again(follower):
    """So long after all have ended well. A secondary has nothing to assert, the master to hear."""
    primary(follower, reassert=2)
    for count in (2, 3):
        start = time.monotonic()
        follower.wait(lambda: follower.calls().count(HOOKS) == count)  # noqa: B023
        assert time.monotonic() - start > 1
        assert asked(follower) == "reassert"
        end_well(follower)
    assert follower.calls().count(EVENT) == 1
    follower.address.unlink()
    follower.wait(lambda: follower.calls().count(EVENT) == 2)
    assert asked(follower) == "change"
    end_well(follower, "hooks", "event")
    looked(follower, times=3)
    called(follower, HOOKS, 4)


def test_hooks_are_not_called_again_where_the_pillar_says_so(follower):
    primary(follower, reassert=0)
    looked(follower, times=3)
    called(follower, HOOKS, 1)


def test_what_fails_is_not_called_more_often_than_its_backoff_says(follower):
    """It counts from when all have ended well."""
    primary(follower, reassert=1)
    follower.wait(lambda: follower.calls().count(HOOKS) == 2, seconds=9)
    start = time.monotonic()
    follower.wait(lambda: follower.calls().count(HOOKS) == 4, seconds=12)
    assert time.monotonic() - start > 5.5  # 2 and 4 s
    assert asked(follower) == "reassert"


ROUTES = """\
# Managed by Salt.
route replace 10.8.1.0/24 via 10.77.0.3 proto 119
route replace 10.9.1.0/24 via 10.77.0.3 proto 119
"""


def test_routes_are_put_back(follower):
    follower.routes.write_text(ROUTES)
    follower.kernel.write_text("10.9.1.0/24 via 10.77.0.3 dev eth0 \n")
    follower.start()
    both = ["10.8.1.0/24 via 10.77.0.3 dev eth0 ", "10.9.1.0/24 via 10.77.0.3 dev eth0 "]
    follower.wait(lambda: sorted(follower.kernel.read_text().splitlines()) == both)
    looked(follower, times=2)
    assert sorted(follower.kernel.read_text().splitlines()) == both
    follower.kernel.write_text("")
    follower.wait(lambda: sorted(follower.kernel.read_text().splitlines()) == both)


def test_routes_that_leave_are_not_put_back(follower):
    follower.routes.write_text(ROUTES)
    follower.start()
    follower.wait(lambda: follower.kernel.read_text().count("via") == 2)
    follower.routes.write_text(ROUTES.replace("route replace 10.9", "# 10.9"))
    follower.kernel.write_text("10.8.1.0/24 via 10.77.0.3 dev eth0 \n")
    looked(follower, times=2)
    follower.routes.unlink()
    follower.kernel.write_text("")
    looked(follower, times=2)
    assert follower.kernel.read_text() == ""


def test_new_routes_are_left_to_the_apply_that_brings_them(follower):
    follower.routes.write_text("")
    looked(follower, follower.start)
    follower.routes.write_text(ROUTES)
    looked(follower, times=3)
    assert follower.kernel.read_text() == ""
    follower.wait(lambda: follower.kernel.read_text().count("via") == 2, seconds=9)


NETWORKS = """\
route replace 10.8.1.0/24 via 10.77.0.3 proto 119
route replace 10.9.1.7/32 via 10.77.0.3 proto 119
# What comes in by guest0 leaves for the peer by it.
route replace 10.8.1.0/24 via 10.20.0.3 table 169082881 proto 119
route replace 10.9.1.7/32 via 10.20.0.3 table 169082881 proto 119
rule add pref 121 iif guest0 lookup 169082881 protocol 121
# What comes in by voice0 leaves for the peer by it.
route replace 10.8.1.0/24 via 10.30.0.3 table 169738241 proto 119
route replace 10.9.1.7/32 via 10.30.0.3 table 169738241 proto 119
rule add pref 121 iif voice0 lookup 169738241 protocol 121
"""
ADDRESSES = {"lan0": "10.77.0.2/24", "guest0": "10.20.0.2/24", "voice0": "10.30.0.2/24"}


@pytest.fixture
def kernel(root, tmp_path, tool):
    """The follower of a node with further networks, in a kernel's network of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root has a network of its own")
    tool("systemctl", "exit 0")
    routes, fifo = tmp_path / "routes", tmp_path / "fifo"
    routes.write_text(NETWORKS)
    os.mkfifo(fifo)
    asked = tmp_path / "asked"
    ip = shutil.which("ip") or "ip"
    tool("ip", f'echo "$*" >>{asked}; exec {ip} "$@"')
    command = ["unshare", "--net", "bash", root / FOLLOW, fifo, "10.77.0.1", routes, "0"]
    environment = {**os.environ, "FOLLOW_LOOK": "0.2", "FOLLOW_PATIENCE": "50"}
    said = tmp_path / "said"
    with said.open("w") as output:
        process = subprocess.Popen(command, stdout=output, env=environment)

    def run(text):
        """Commands of `ip`, one a line, and what they say."""
        command = ["nsenter", f"--net=/proc/{process.pid}/ns/net", ip, "-N", "-batch", "-"]
        return subprocess.run(
            command, input=text, capture_output=True, text=True, check=True
        ).stdout

    def make(*interfaces):
        for each in interfaces:
            run(
                f"link add {each} type veth peer name {each}p\nlink set {each}p up\n"
                f"link set {each} up\naddress add {ADDRESSES[each]} dev {each}\n"
            )

    def has():
        """What the kernel has, as the file says it."""
        found = {
            " ".join(line.split()) for line in run("route show table all proto 119").splitlines()
        }
        rules = [line for line in run("rule show").splitlines() if "proto 121" in line]
        return found | {line.split(":", 1)[1].strip() for line in rules}

    def wait(wanted):
        end = time.monotonic() + 4
        while has() != wanted:
            assert time.monotonic() < end, has() ^ wanted
            time.sleep(0.02)

    end = time.monotonic() + 4
    while os.readlink(f"/proc/{process.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
        assert time.monotonic() < end
        time.sleep(0.01)
    make(*ADDRESSES)
    yield SimpleNamespace(
        run=run, make=make, has=has, wait=wait, routes=routes, asked=asked, said=said
    )
    process.kill()
    process.wait()


WHOLE = {
    "10.8.1.0/24 via 10.77.0.3 dev lan0",
    "10.9.1.7 via 10.77.0.3 dev lan0",
    "10.8.1.0/24 via 10.20.0.3 dev guest0 table 169082881",
    "10.9.1.7 via 10.20.0.3 dev guest0 table 169082881",
    "10.8.1.0/24 via 10.30.0.3 dev voice0 table 169738241",
    "10.9.1.7 via 10.30.0.3 dev voice0 table 169738241",
    "from all iif guest0 lookup 169082881 proto 121",
    "from all iif voice0 lookup 169738241 proto 121",
}


def test_ways_back_are_put_back(kernel):
    """Whatever took them: a tool of somebody's, networkd, or an interface that is made anew."""
    kernel.wait(WHOLE)
    for lost in (
        "rule del pref 121 iif guest0",
        "rule flush\nrule add pref 32766 lookup main",
        "route flush table 169738241",
        "route del 10.9.1.7 table 169082881",
        "link set guest0 down\nlink set guest0 up",
        "address flush dev voice0\naddress add 10.30.0.2/24 dev voice0",
        "route flush table all proto 119\nrule flush\nrule add pref 32766 lookup main",
    ):
        before = kernel.said.read_text().count("put back")
        kernel.run(lost)
        end = time.monotonic() + 4
        while kernel.said.read_text().count("put back") == before:
            assert time.monotonic() < end, lost
            time.sleep(0.02)
        kernel.wait(WHOLE)
    kernel.run("link del guest0")
    gone = {line for line in WHOLE if "dev guest0" in line}
    detached = {line.replace("guest0", "guest0 [detached]") for line in WHOLE - gone}
    kernel.wait(detached)
    # What is of other networks comes back meanwhile.
    kernel.run("route flush table 169738241\nrule del pref 121 iif voice0")
    kernel.wait(detached)
    kernel.make("guest0")
    kernel.wait(WHOLE)


def test_a_way_back_that_is_whole_is_left_alone(kernel):
    """And a rule comes after what it leads to."""
    kernel.wait(WHOLE)
    time.sleep(0.5)
    kernel.asked.write_text("")
    kernel.said.write_text("")
    time.sleep(1)
    assert "batch" not in kernel.asked.read_text()
    together = (
        "route add 10.8.1.0/24 via 10.20.0.3 table 169082881 proto 119; "
        "route add 10.9.1.7/32 via 10.20.0.3 table 169082881 proto 119; "
        "rule add pref 121 iif guest0 lookup 169082881 protocol 121; "
    )

    def put_back():
        """Who asks for the routes before they go, and for the rules then, sees half of it."""
        kernel.run("route flush table 169082881\nrule del pref 121 iif guest0")
        kernel.wait(WHOLE)
        time.sleep(0.5)
        return kernel.said.read_text().splitlines()[-1].partition("put back: ")[2]

    assert any(put_back() == together for _ in range(4))


def test_ways_back_that_leave_are_not_put_back(kernel):
    kernel.wait(WHOLE)
    lines = [line for line in NETWORKS.splitlines(keepends=True) if "guest0" not in line]
    kernel.routes.write_text("".join(line for line in lines if "169082881" not in line))
    kernel.run("route flush table 169082881\nrule del pref 121 iif guest0")
    left = {line for line in WHOLE if "169082881" not in line}
    time.sleep(1)
    assert kernel.has() == left
    kernel.routes.unlink()
    kernel.run("route flush table all proto 119\nrule del pref 121 iif voice0")
    time.sleep(1)
    assert kernel.has() == set()


def test_a_way_back_that_comes_is_looked_after_soon(kernel):
    """The apply that brings it has a moment to set it by itself."""
    kernel.wait(WHOLE)
    time.sleep(0.5)  # it has seen so
    new = "10.50.0.0/24 via 10.20.0.3 {}table 169082881"
    kernel.routes.write_text(f"{NETWORKS}route replace {new.format('')} proto 119\n")
    kernel.wait(WHOLE | {new.format("dev guest0 ")})
