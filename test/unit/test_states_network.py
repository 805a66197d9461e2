"""Kernel settings, routes, systemd-networkd, the virtual IP and what follows it:
_states/gateway_network.py."""

import contextlib
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture(scope="module")
def module(load):
    return load("_states/gateway_network.py")


# --------------------------------------------------------------------------------------------------
# Kernel settings

FORWARD, REDIRECTS = "net/ipv4/ip_forward", "net/ipv4/conf/eth0.7/send_redirects"
SETTINGS = {FORWARD: "1", REDIRECTS: "0"}


@pytest.fixture
def kernel(machine):
    """A kernel with two settings, as /proc/sys shows them, and the file for the next boot."""

    def read():
        return {key: (machine.folder / "proc" / key).read_text().strip() for key in SETTINGS}

    def write(key, value):
        path = machine.folder / "proc" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")

    write(FORWARD, 0)
    write(REDIRECTS, 1)
    file = machine.folder / "sysctl.d/60-gateway.conf"
    forwarding = str(machine.folder / "etc/forwarding.conf")

    def of(settings):
        """The arguments for these settings, of which one lets the node forward."""
        others = {key: value for key, value in settings.items() if key != FORWARD}
        return str(file), others, forwarding, {FORWARD: settings[FORWARD]}

    return SimpleNamespace(
        read=read,
        write=write,
        file=file,
        name=str(file),
        forwarding=forwarding,
        originals=str(machine.folder / "state/kernel.json"),
        of=of,
    )


def test_kernel_settings(machine, kernel):
    changes = machine.converges("kernel_settings", *kernel.of(SETTINGS))
    assert changes == {
        FORWARD: {"old": "0", "new": "1"},
        REDIRECTS: {"old": "1", "new": "0"},
        kernel.name: "written",
        kernel.forwarding: "written",
        kernel.originals: "written",
    }
    assert kernel.read() == SETTINGS
    # systemd-sysctl takes slashes, which leaves the dot in an interface's name alone.
    assert kernel.file.read_text().splitlines()[1:] == [f"{REDIRECTS} = 0"]
    # Not for a boot without rules: the loader switches it on.
    assert Path(kernel.forwarding).read_text().splitlines()[1:] == [f"{FORWARD} = 1"]


def test_a_kernel_setting_that_somebody_changed(machine, kernel):
    machine.run("kernel_settings", *kernel.of(SETTINGS))
    kernel.write(FORWARD, 0)
    changes = machine.converges("kernel_settings", *kernel.of(SETTINGS))
    assert changes == {FORWARD: {"old": "0", "new": "1"}}


def test_a_kernel_setting_that_leaves_is_as_it_was(machine, kernel):
    machine.run("kernel_settings", *kernel.of(SETTINGS))
    changes = machine.converges("kernel_settings", *kernel.of({FORWARD: "1"}))
    assert changes == {
        REDIRECTS: {"old": "0", "new": "1"},
        kernel.name: "written",
        kernel.originals: "written",
    }
    assert REDIRECTS not in kernel.file.read_text()
    assert kernel.read() == {FORWARD: "1", REDIRECTS: "1"}
    # From then on it is somebody else's.
    kernel.write(REDIRECTS, 0)
    assert machine.converges("kernel_settings_restored", kernel.name, kernel.forwarding).keys() == {
        FORWARD,
        kernel.name,
        kernel.forwarding,
        kernel.originals,
    }


@pytest.mark.parametrize("number", range(1, 6))
@pytest.mark.parametrize("function", ["write", "_set_kernel"])
def test_kernel_settings_of_a_run_that_was_killed(
    machine, kernel, module, monkeypatch, function, number
):
    """What a setting was before is not forgotten before it is so again."""
    machine.run("kernel_settings", *kernel.of(SETTINGS))
    with monkeypatch.context() as patch:
        machine.killed_at(patch, module, function, number)
        with contextlib.suppress(machine.Killed):
            machine.run("kernel_settings", *kernel.of({FORWARD: "1"}))
    machine.run("kernel_settings", *kernel.of({FORWARD: "1"}))
    assert kernel.read() == {FORWARD: "1", REDIRECTS: "1"}
    kernel.write(REDIRECTS, 0)
    assert machine.run("kernel_settings", *kernel.of({FORWARD: "1"}))["changes"] == {}
    machine.run("kernel_settings_restored", kernel.name, kernel.forwarding)
    assert kernel.read() == {FORWARD: "0", REDIRECTS: "0"}


def test_files_of_the_kernel_settings_have_their_modes(machine, kernel):
    machine.run("kernel_settings", *kernel.of(SETTINGS))
    kernel.file.chmod(0o666)
    (machine.folder / "state").chmod(0o700)
    changes = machine.converges("kernel_settings", *kernel.of(SETTINGS))
    assert changes[kernel.name] == {"mode": {"old": "0666", "new": "0644"}}
    assert set(changes) == {kernel.name, kernel.originals}
    assert machine.mode(kernel.file) == machine.mode(kernel.originals) == 0o644
    assert machine.mode(machine.folder / "state") == 0o755


def test_a_kernel_setting_of_a_module_that_is_not_loaded_yet(machine, kernel):
    """In test mode it may be one that the run itself would load."""
    settings = {**SETTINGS, "net/netfilter/nf_conntrack_tcp_loose": "1"}
    ret = machine.run("kernel_settings", *kernel.of(settings), test=True)
    assert ret["result"] is None
    assert ret["changes"]["net/netfilter/nf_conntrack_tcp_loose"] == {"old": None, "new": "1"}
    ret = machine.run("kernel_settings", *kernel.of(settings))
    assert ret["comment"] == "the kernel has no setting net/netfilter/nf_conntrack_tcp_loose"


def test_a_kernel_without_ipv6(machine, kernel):
    """Nothing to set, and nothing for the next boot. With IPv6 it is a setting like any other."""
    settings = {**SETTINGS, "net/ipv6/conf/eth0/accept_ra": "0"}
    machine.converges("kernel_settings", *kernel.of(settings))
    assert kernel.read() == SETTINGS
    assert "ipv6" not in kernel.file.read_text()
    kernel.write("net/ipv6/conf/eth0/accept_ra", 1)
    changes = machine.converges("kernel_settings", *kernel.of(settings))
    assert changes["net/ipv6/conf/eth0/accept_ra"] == {"old": "1", "new": "0"}
    assert "net/ipv6/conf/eth0/accept_ra = 0" in kernel.file.read_text()


@pytest.mark.parametrize("test", [True, False])
def test_a_kernel_setting_that_does_not_exist(machine, kernel, test):
    settings = {**SETTINGS, "net/ipv4/conf/eth9/send_redirects": "0"}
    ret = machine.run("kernel_settings", *kernel.of(settings), test=test)
    assert (ret["result"], ret["changes"]) == (False, {})
    assert ret["comment"] == "the kernel has no setting net/ipv4/conf/eth9/send_redirects"
    assert kernel.read() == {FORWARD: "0", REDIRECTS: "1"}
    assert not kernel.file.exists()


def test_a_kernel_that_refuses(machine, kernel, module, monkeypatch):
    def refuse(path, text):
        raise PermissionError(1, "Operation not permitted", path)

    monkeypatch.setattr(module.state, "write", refuse)
    ret = machine.run("kernel_settings", *kernel.of(SETTINGS))
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "Operation not permitted" in ret["comment"]


def test_kernel_settings_are_restored_to_the_first_originals(machine, kernel):
    machine.run("kernel_settings", *kernel.of({FORWARD: "1"}))
    machine.run("kernel_settings", *kernel.of({FORWARD: "2", REDIRECTS: "0"}))
    changes = machine.converges("kernel_settings_restored", kernel.name, kernel.forwarding)
    assert changes[FORWARD] == {"old": "2", "new": "0"}
    assert changes[REDIRECTS] == {"old": "0", "new": "1"}
    assert changes[kernel.name] == "removed"
    assert kernel.read() == {FORWARD: "0", REDIRECTS: "1"}
    assert not kernel.file.exists()
    assert not Path(kernel.forwarding).exists()


def test_restoring_passes_over_interfaces_that_are_gone(machine, kernel):
    machine.run("kernel_settings", *kernel.of(SETTINGS))
    shutil.rmtree(machine.folder / "proc/net/ipv4/conf")
    changes = machine.converges("kernel_settings_restored", kernel.name, kernel.forwarding)
    assert REDIRECTS not in changes
    assert not (machine.folder / "proc/net/ipv4/conf").exists()


def test_restoring_where_nothing_was_ever_applied(machine, kernel):
    ret = machine.run("kernel_settings_restored", kernel.name, kernel.forwarding)
    assert (ret["result"], ret["changes"]) == (True, {})


# --------------------------------------------------------------------------------------------------
# Routes

OURS = "119"
BLOCK, OTHER = "10.8.1.0/24", "10.8.2.0/24"


@pytest.fixture
def table(machine):
    """The kernel's routes as [destination, gateway, protocol] (those of other tables have their
    numbers in the destination), its rules as (interface, table), and an ``ip`` that is strict."""
    table: list[list[Any]] = [
        ["default", "198.51.100.1", None],
        ["10.77.0.0/24", None, "2"],
    ]
    machine.broken = None
    machine.rules = []
    machine.meanwhile = lambda: None  # what somebody else does just before a batch

    def ip(command, python_shell, ignore_retcode, stdin=""):
        assert python_shell is False
        verb = "show" if "show" in command else command[2]
        if verb == machine.broken:
            return {"retcode": 2, "stdout": "", "stderr": "RTNETLINK answers: no"}
        match command:
            case ["ip", "-4", "-force", "-batch", "-"]:
                machine.meanwhile()
                done = [ip(["ip", *line.split()], False, True) for line in stdin.splitlines()]
                failed = [each for each in done if each["retcode"]]
                return failed[0] | {"retcode": 1} if failed else done[0]
            case ["ip", "-N", "-json", "-4", "rule", "show"]:
                shown = [
                    {"priority": 121, "iif": iif, "table": number, "protocol": "121"}
                    for iif, number in machine.rules
                ]
                shown += [{"priority": 119, "iif": "lo", "protocol": "119"}, {"table": "254"}]
                return {"retcode": 0, "stdout": json.dumps(shown), "stderr": ""}
            case ["ip", "rule", verb, "pref", "121", "iif", iif, "lookup", number, *rest]:
                assert rest == ["protocol", "121"]
                if verb == "add" and (iif, number) in machine.rules:
                    return {"retcode": 2, "stdout": "", "stderr": "RTNETLINK answers: File exists"}
                # What it leads to is there as long as it is.
                assert [route for route in table if route[0].endswith(f" table {number}")]
                (machine.rules.append if verb == "add" else machine.rules.remove)((iif, number))
            case ["ip", "-N", "-json", "-4", "route", "show", "table", "all"]:
                found = [
                    {"dst": dst.partition(" ")[0].removesuffix("/32")}
                    | ({"table": dst.rpartition(" ")[2]} if " table " in dst else {})
                    # As `ip` has it: one that a person added is of none.
                    | ({"protocol": proto} if proto else {})
                    | ({"gateway": via} if via else {"dev": "eth0"})
                    for dst, via, proto in table
                ]
                return {"retcode": 0, "stdout": json.dumps(found), "stderr": ""}
            case ["ip", "route", verb, dst, *more, "table", number, "proto", proto]:
                return ip(
                    ["ip", "route", verb, f"{dst} table {number}", *more, "proto", proto],
                    python_shell,
                    ignore_retcode,
                )
            case ["ip", "route", "add" | "replace" as verb, dst, "via", via, "proto", proto]:
                there = [route for route in table if route[0] == dst]
                if verb == "add" and there:
                    return {"retcode": 2, "stdout": "", "stderr": "RTNETLINK answers: File exists"}
                table[:] = [route for route in table if route not in there]
                table.append([dst, via, proto])
            case ["ip", "route", "del", dst, "proto", proto]:
                [gone] = [route for route in table if (route[0], route[2]) == (dst, proto)]
                table.remove(gone)
            case _:
                raise AssertionError(command)
        machine.calls.append(command)
        return {"retcode": 0, "stdout": "", "stderr": ""}

    machine.functions["cmd.run_all"] = ip
    return table


def wanted(**via):
    names = {"block": BLOCK, "other": OTHER, "host": "10.8.3.7/32"}
    return [{"destination": names[key], "via": value} for key, value in via.items()]


def test_routes(machine, table):
    foreign = [list(route) for route in table]
    routes = wanted(block="10.77.0.3", host="10.77.0.4")
    changes = machine.converges("routes", "routes", routes)
    assert changes == {
        BLOCK: {"old": None, "new": "10.77.0.3"},
        "10.8.3.7/32": {"old": None, "new": "10.77.0.4"},
    }
    assert table == [*foreign, [BLOCK, "10.77.0.3", OURS], ["10.8.3.7/32", "10.77.0.4", OURS]]


def test_routes_that_are_stale_or_moved(machine, table):
    foreign = [list(route) for route in table]
    machine.run("routes", "routes", wanted(block="10.77.0.3", host="10.77.0.4"))
    changes = machine.converges("routes", "routes", wanted(block="10.77.0.9", other="10.77.0.4"))
    assert changes == {
        BLOCK: {"old": "10.77.0.3", "new": "10.77.0.9"},
        "10.8.3.7/32": {"old": "10.77.0.4", "new": None},
        OTHER: {"old": None, "new": "10.77.0.4"},
    }
    machine.converges("routes", "routes", [])
    assert table == foreign


@pytest.mark.parametrize("test", [True, False])
def test_a_route_of_somebody_else_is_refused(machine, table, test):
    table.append([BLOCK, "10.77.0.3", "static"])
    routes = wanted(block="10.77.0.3", other="10.77.0.3")
    ret = machine.run("routes", "routes", routes, test=test)
    assert (ret["result"], ret["changes"]) == (False, {})
    assert ret["comment"] == f"There is a route to {BLOCK} already that is not ours."


@pytest.mark.parametrize("verb", ["show", "add", "del"])
def test_routes_that_the_kernel_refuses(machine, table, verb):
    machine.run("routes", "routes", wanted(block="10.77.0.3"))
    machine.broken = verb
    routes = wanted(other="10.77.0.3") if verb == "add" else []
    ret = machine.run("routes", "routes", wanted(block="10.77.0.3") + routes if routes else [])
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "RTNETLINK answers: no" in ret["comment"]
    assert ret["comment"].startswith("ip ")


@pytest.mark.parametrize("routes", [wanted(block="10.77.0.3"), []], ids=["replaced", "removed"])
def test_a_route_with_our_number_and_no_gateway(machine, table, routes):
    table.append([BLOCK, None, OURS])
    machine.converges("routes", "routes", routes)


def way(interface, table, **via):
    return {"interface": interface, "table": table, "routes": wanted(**via)}


def test_ways_back(machine, table):
    """A rule comes after what it leads to and goes before it; one of two networks leaves alone."""
    foreign = [list(route) for route in table]
    guest, voice = (way(*each, block="10.20.0.3") for each in (("eth0.20", 20), ("eth0.30", 30)))
    changes = machine.converges("routes", "routes", wanted(block="10.77.0.3"), [guest, voice])
    assert changes == {
        BLOCK: {"old": None, "new": "10.77.0.3"},
        f"{BLOCK} in table 20": {"old": None, "new": "10.20.0.3"},
        f"{BLOCK} in table 30": {"old": None, "new": "10.20.0.3"},
        "from eth0.20": {"old": None, "new": 20},
        "from eth0.30": {"old": None, "new": 30},
    }
    assert machine.rules == [("eth0.20", "20"), ("eth0.30", "30")]
    changes = machine.converges("routes", "routes", wanted(block="10.77.0.3"), [voice])
    assert changes == {
        f"{BLOCK} in table 20": {"old": "10.20.0.3", "new": None},
        "from eth0.20": {"old": 20, "new": None},
    }
    assert machine.rules == [("eth0.30", "30")]
    machine.converges("routes", "routes", [])
    assert (table, machine.rules) == (foreign, [])


def test_a_way_back_by_another_table(machine, table):
    """Of another virtual IP. Somebody has put the old one back meanwhile."""
    machine.run("routes", "routes", [], [way("eth0.20", 20, block="10.20.0.3")])
    machine.rules.insert(0, ("eth0.20", "21"))
    table.append([f"{BLOCK} table 21", "10.20.0.3", OURS])
    machine.converges("routes", "routes", [], [way("eth0.20", 21, block="10.20.0.3")])
    assert machine.rules == [("eth0.20", "21")]
    machine.converges("routes", "routes", [])
    assert machine.rules == []


def test_what_the_follower_has_put_back_meanwhile_is_no_error(machine, table):
    """It looks every second, and an apply on a busy node takes longer."""
    ways = [way(f"eth0.{number}", number, block="10.20.0.3") for number in (20, 30)]

    def follower():
        table.append([f"{BLOCK} table 20", "10.20.0.3", OURS])
        machine.rules.append(("eth0.20", "20"))

    machine.meanwhile = follower
    ret = machine.run("routes", "routes", [], ways)
    assert ret["result"] is True, ret
    assert machine.rules == [("eth0.20", "20"), ("eth0.30", "30")]
    # What is not there afterwards is one.
    machine.meanwhile = lambda: None
    machine.run("routes", "routes", [])
    machine.meanwhile = lambda: table.append([f"{BLOCK} table 20", "10.20.0.9", OURS])
    ret = machine.run("routes", "routes", [], ways)
    assert ret["result"] is False
    assert "File exists" in ret["comment"]


def test_many_ways_back_are_set_by_one_command(machine, table):
    ways = [way(f"eth0.{number}", number, block="10.20.0.3") for number in range(20, 80)]
    called = []
    run = machine.functions["cmd.run_all"]

    def noting(command, **how):
        called.append(command)
        return run(command, **how)

    machine.functions["cmd.run_all"] = noting
    assert machine.run("routes", "routes", [], ways)["result"] is True
    assert len([command for command in called if "show" not in command]) == 1
    assert len(machine.rules) == 60


OLD = "# Managed by Salt (gateway).\nvrrp_instance internal {}\n"
ADDRESSES = ["10.77.0.1", "198.51.100.10"]


@pytest.fixture
def elections(machine, module, monkeypatch):
    """A keepalived that has the virtual IP, reads its file after a while, and takes another one a
    while after that."""
    found = SimpleNamespace(
        conf=machine.folder / "keepalived.conf",
        active=True,
        here=["10.77.0.1"],
        code=0,
        shown=0,
        slow=3,
        clock=0.0,
        read=[],
        events=[],
    )
    found.conf.write_text(OLD)

    def get_template(source, path, template, saltenv, alone):
        assert alone is True
        Path(path).write_text(f"{source}, apart\n")
        return path

    def run_all(command, **_):
        tool, *arguments = command
        if tool == "ip":
            items = [{"local": address} for address in found.here]
            output = json.dumps([{}, {"addr_info": [*items, {"address": "fe80::1"}]}])
            return {"retcode": 0, "stdout": output, "stderr": ""}
        if tool == module.state.ISOLATED:
            assert arguments[:-1] == ["--see-network", str(found.conf), "keepalived", "-t"]
            machine.calls.append("check")
            return {"retcode": found.code, "stdout": "", "stderr": "no such keyword"}
        if arguments[0] == "show":
            state = "active" if found.active else "inactive"
            output = f"ActiveState={state}\nSubState=dead"
            return {"retcode": found.shown, "stdout": output, "stderr": "no bus"}
        machine.calls.append(" ".join(arguments))
        found.left = found.slow
        return {"retcode": 0, "stdout": "", "stderr": ""}

    def sleep(seconds):
        found.clock += seconds
        found.left -= 1
        found.read.append(found.conf.read_text())
        if not found.left:
            found.here = list(ADDRESSES)

    machine.functions |= {"cp.get_template": get_template, "cmd.run_all": run_all}
    monkeypatch.setattr(module.time, "sleep", sleep)
    monkeypatch.setattr(module.time, "monotonic", lambda: found.clock)
    found.call = ("election_added", str(found.conf), "salt://conf", "keepalived -t", "keepalived")
    found.call += (ADDRESSES, 2.5)
    return found


def test_a_further_election_is_held_apart_first(machine, elections):
    """keepalived has read it, and has both addresses, before the file is as it was."""
    for test in (True, False):
        ret = machine.run(*elections.call, test=test)
        assert ret["changes"] == {"elections": "held apart at first"}
    assert machine.calls == ["check", "reload keepalived"]
    assert elections.read == ["salt://conf, apart\n"] * elections.slow
    assert elections.here == ADDRESSES
    assert elections.conf.read_text() == OLD


def test_a_further_election_that_nobody_wins(machine, elections):
    """The side may be dead: it is waited for no longer than it could take."""
    elections.slow = 1000
    assert machine.run(*elections.call)["result"] is True
    assert 2.5 <= elections.clock < 2.7
    assert elections.conf.read_text() == OLD


def test_a_further_election_that_keepalived_does_not_take(machine, elections):
    elections.code = 1
    ret = machine.run(*elections.call)
    assert ret["result"] is False
    assert "no such keyword" in ret["comment"]
    assert machine.calls == ["check"]
    assert elections.conf.read_text() == OLD


def test_a_further_election_where_systemd_does_not_answer(machine, elections):
    elections.shown = 1
    for test in (True, False):
        ret = machine.run(*elections.call, test=test)
        assert ret["result"] is False
        assert "no bus" in ret["comment"]
    assert machine.calls == []


@pytest.mark.parametrize(
    "change",
    [
        {"here": []},
        {"active": False},
        {"text": OLD + "vrrp_sync_group gateway {}\n"},
        {"text": "vrrp_instance internal {}\n"},
    ],
    ids=["secondary", "not running", "there already", "not ours"],
)
def test_no_further_election(machine, elections, change):
    elections.conf.write_text(change.get("text", OLD))
    vars(elections).update(change)
    for test in (True, False):
        assert machine.run(*elections.call, test=test)["changes"] == {}


# --------------------------------------------------------------------------------------------------
# What follows the virtual IP

TARGET = "gateway-virtual-ip.target"


@pytest.fixture
def systemd(machine):
    """systemd with the units in ``active``."""
    active: set[str] = set()
    units = machine.folder / "etc/systemd/system"
    known: dict[str, str] = {}

    def drop_ins():
        return {path.parent.name: path.read_text() for path in units.rglob("*.conf")}

    def answer(command, **_):
        verb, unit = command[1], command[-1]
        machine.calls.append(" ".join(command[1:]))
        if verb == "daemon-reload":
            known.clear()
            known.update(drop_ins())
        if verb == "stop":
            active.discard(unit)
        if verb == "start":
            active.add(unit)
        code = 0 if verb != "is-active" or unit in active else 3
        return {"retcode": code, "stdout": "", "stderr": ""}

    machine.functions["cmd.run_all"] = answer
    machine.functions["cmd.retcode"] = lambda command, **_: answer(command)["retcode"]
    return SimpleNamespace(
        active=active,
        units=units,
        unread=lambda: {name for name, text in drop_ins().items() if known.get(name) != text},
    )


def test_followers_are_bound(machine, systemd):
    systemd.active |= {TARGET}
    changes = machine.converges("followers", TARGET, ["app.service", "report.timer"])
    drop_ins = [f"{name}.d/gateway-follow.conf" for name in ("app.service", "report.timer", TARGET)]
    assert sorted(changes) == sorted(str(systemd.units / path) for path in drop_ins)
    text = (systemd.units / drop_ins[0]).read_text()
    for line in (f"Requisite={TARGET}", f"PartOf={TARGET}", f"After={TARGET}"):
        assert f"{line}\n" in text
    text = (systemd.units / drop_ins[2]).read_text()
    assert "Wants=app.service\nWants=report.timer\n" in text
    assert machine.calls[0] == "daemon-reload"
    assert systemd.active == {TARGET, "app.service", "report.timer"}


def test_followers_stop_where_the_virtual_ip_is_not(machine, systemd):
    systemd.active |= {"app.service", "other.service"}
    machine.converges("followers", TARGET, ["app.service", "report.timer"])
    assert systemd.active == {"other.service"}


def test_a_virtual_ip_that_comes_meanwhile(machine, systemd):
    systemd.active |= {"app.service"}
    answer = machine.functions["cmd.run_all"]

    def arrives(command, **keywords):
        if command[1] == "stop":
            systemd.active.add(TARGET)
        return answer(command, **keywords)

    machine.functions["cmd.run_all"] = arrives
    machine.run("followers", TARGET, ["app.service"])
    assert "app.service" in systemd.active


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("function", ["write", "run"])
@pytest.mark.parametrize("here", [{TARGET}, set()], ids=["holder", "other"])
def test_followers_of_a_run_that_was_killed(
    machine, systemd, module, monkeypatch, here, function, number
):
    """The next one makes of it what an undisturbed run would."""
    systemd.active |= here | {"app.service"}
    with monkeypatch.context() as patch:
        machine.killed_at(patch, module, function, number)
        with contextlib.suppress(machine.Killed):
            machine.run("followers", TARGET, ["app.service", "report.timer"])
    machine.run("followers", TARGET, ["app.service", "report.timer"])
    assert systemd.active == here | ({"app.service", "report.timer"} if here else set())
    # Of the target's own gateway.service sees that.
    assert systemd.unread() <= {f"{TARGET}.d"}


def test_followers_that_run_where_the_virtual_ip_is_go_on(machine, systemd):
    systemd.active |= {TARGET, "app.service"}
    machine.run("followers", TARGET, ["app.service"])
    assert [call for call in machine.calls if call.startswith("stop")] == []


@pytest.mark.parametrize("here", [{TARGET}, set()], ids=["holder", "other"])
def test_followers_that_leave_the_list_stay_as_they_are(machine, systemd, here):
    systemd.active |= here
    machine.run("followers", TARGET, ["app.service", "stays.service"])
    (systemd.units / "app.service.d/admin.conf").touch()
    before = set(systemd.active)
    del machine.calls[:]
    changes = machine.converges("followers", TARGET, ["stays.service"])
    assert sorted(changes.values()) == ["removed", "written"]
    assert machine.calls == ["daemon-reload"]
    assert systemd.active == before
    assert os.listdir(systemd.units / "app.service.d") == ["admin.conf"]
    machine.converges("followers", TARGET, [])
    assert os.listdir(systemd.units) == ["app.service.d"]


# --------------------------------------------------------------------------------------------------
# systemd-networkd

LAN, WAN = "/run/systemd/network/10-lan.network", "/etc/systemd/network/wan.network"


@pytest.fixture
def networkd(machine, module, monkeypatch):
    """A machine whose interfaces networkd manages as ``link`` says."""
    monkeypatch.setattr(module, "NETWORKD_FOLDERS", [str(machine.folder / "etc")])

    def link(index, name, file):
        (machine.folder / "net" / name).mkdir(parents=True, exist_ok=True)
        (machine.folder / "net" / name / "ifindex").write_text(f"{index}\n")
        (machine.folder / "links").mkdir(exist_ok=True)
        managed = f"NETWORK_FILE={file}\n" if file else ""
        (machine.folder / "links" / str(index)).write_text(f"ADMIN_STATE=x\n{managed}DNS=\n")

    link(2, "eth0", LAN)
    link(3, "eth1", WAN)
    link(4, "eth2", None)
    return SimpleNamespace(
        link=link,
        conf=str(machine.folder / "etc/systemd/networkd.conf.d/gateway.conf"),
        network=machine.folder / "etc/systemd/network",
    )


def test_networkd(machine, networkd):
    changes = machine.converges("networkd", networkd.conf, ["eth0", "eth1"])
    drop_ins = [networkd.network / f"{name}.network.d/gateway.conf" for name in ("10-lan", "wan")]
    assert sorted(changes) == sorted([networkd.conf, *map(str, drop_ins)])
    assert "[Network]\nManageForeignRoutes=no\n" in Path(networkd.conf).read_text()
    for path in drop_ins:
        assert path.read_text().endswith("[Network]\nKeepConfiguration=static\n")
    machine.converges("networkd", networkd.conf, [])
    assert [path for path in networkd.network.parent.rglob("*") if path.is_file()] == []


def test_networkd_with_another_file(machine, networkd):
    machine.run("networkd", networkd.conf, ["eth0", "eth1"])
    networkd.link(2, "eth0", WAN)
    changes = machine.converges("networkd", networkd.conf, ["eth0", "eth1"])
    assert changes == {str(networkd.network / "10-lan.network.d/gateway.conf"): "removed"}


def test_where_networkd_manages_neither_there_is_nothing(machine, networkd):
    networkd.link(3, "eth1", "/dev/null")
    assert machine.run("networkd", networkd.conf, ["eth1", "eth2", "eth9"])["changes"] == {}


@pytest.mark.parametrize(
    ("said", "ours"),
    [
        ("yes", "yes"),
        ("dhcp", "yes"),
        ("dynamic", "yes"),  # systemd 257 and later
        ("static", "static"),
        ("dhcp-on-stop", "static"),
    ],
)
@pytest.mark.parametrize("place", ["wan.network", "wan.network.d/admin.conf"])
def test_who_keeps_more_than_we_need_goes_on(machine, networkd, said, ours, place):
    path = networkd.network / place
    path.parent.mkdir(parents=True)
    path.write_text(f"[Network]\nKeepConfiguration={said}\n")
    networkd.link(3, "eth1", networkd.network / "wan.network")
    machine.converges("networkd", networkd.conf, ["eth1"])
    text = (networkd.network / "wan.network.d/gateway.conf").read_text()
    assert text.endswith(f"KeepConfiguration={ours}\n")
