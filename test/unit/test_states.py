"""The state functions on a machine in a temporary folder: files, routes, rules and services."""

import contextlib
import functools
import inspect
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from time import time_ns
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from salt.exceptions import CommandExecutionError


@pytest.fixture(scope="module")
def module(load):
    return load("_states/gateway.py")


@pytest.fixture
def machine(module, monkeypatch, tmp_path, tmp_path_factory):
    """What the states work on; ``run`` calls one and checks what each of them has to keep to."""
    machine = SimpleNamespace(
        folder=tmp_path,
        opts={"test": False},
        functions={},
        states={},
        calls=[],
        running={},
        context={},
        low=[],
    )
    # Notes for later runs are no change of the machine.
    machine.read = tmp_path_factory.mktemp("read")
    for constant, path in {
        "STATE_FOLDER": "state",
        "PROC_SYS": "proc",
        "SYSTEMD": "etc/systemd",
        "UNITS": "etc/systemd/system",
        "FIREWALL": "firewall",
        "OPENVPN_CLIENTS": "openvpn",
        "NETWORKD": "etc/systemd/network",
        "NETWORKD_LINKS": "links",
        "INTERFACES": "net",
        "READ": machine.read,
        "RENDERED": machine.read / "rendered.json",
    }.items():
        monkeypatch.setattr(module, constant, str(tmp_path / path))
    ours = [str(tmp_path / path) for path in ("state", "openvpn", "etc/gateway")]
    monkeypatch.setattr(module, "FOLDERS", ours)
    monkeypatch.setattr(module, "OWNER", (os.getuid(), os.getgid()))
    for name, value in {
        "__opts__": machine.opts,
        "__salt__": machine.functions,
        "__states__": machine.states,
        "__env__": "base",
        "__running__": machine.running,
        "__context__": machine.context,
        "__lowstate__": machine.low,
    }.items():
        monkeypatch.setattr(module, name, value, raising=False)

    def run(function, *arguments, test=False, **keywords):
        machine.opts["test"] = test
        machine.context.clear()  # each is a run of its own
        before = snapshot(tmp_path)
        calls = len(machine.calls)
        ret = getattr(module, function)(*arguments, **keywords)
        assert set(ret) == {"name", "changes", "result", "comment"}
        assert ret["comment"]
        assert (ret["result"] is None) == bool(test and ret["changes"])
        assert ret["result"] is not False or not ret["changes"]
        if test or (ret["result"] and not ret["changes"]):
            assert machine.calls[calls:] == []
            assert snapshot(tmp_path) == before
        return ret

    machine.run = run
    return machine


def snapshot(folder):
    """Every file below a folder, its mode, and what is in it."""
    return {
        str(path): (path.stat().st_mode, path.stat().st_ino, path.read_bytes())
        if path.is_file()
        else path.lstat().st_mode
        for path in folder.rglob("*")
    }


def mode(path):
    return os.stat(path).st_mode & 0o7777


def converges(machine, *arguments, **keywords):
    """The idiom: test mode predicts what a run then does, and a second run has nothing to do."""
    predicted = machine.run(*arguments, test=True, **keywords)
    assert predicted["result"] is None
    real = machine.run(*arguments, **keywords)
    assert real["result"] is True, real["comment"]
    assert real["changes"] == predicted["changes"]
    assert real["comment"] != predicted["comment"]
    for test in (False, True):
        again = machine.run(*arguments, test=test, **keywords)
        assert (again["result"], again["changes"]) == (True, {})
    return real["changes"]


def test_every_state_is_documented_and_takes_a_name(module):
    functions = {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and name[0] != "_"
    }
    assert len(functions) == 22
    for name, function in functions.items():
        assert inspect.getdoc(function), name
        assert next(iter(inspect.signature(function).parameters)) == "name"


@pytest.mark.parametrize("test", [False, True])
def test_what_is_wrong_with_the_pillar_is_shown_in_test_mode_too(machine, test):
    errors = ["gateway:domain: missing", 'gateway:nodes:gw1:id: "0" is not a number']
    ret = machine.run("refused", "gateway pillar", errors, test=test)
    assert (ret["result"], ret["changes"]) == (False, {})
    assert ret["comment"].splitlines()[1:] == errors
    ret = machine.run("refused", "certificates", errors, title="The rest goes on.", test=test)
    assert ret["comment"].splitlines() == ["The rest goes on.", *errors]
    assert ret["result"] is False


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
    changes = converges(machine, "kernel_settings", *kernel.of(SETTINGS))
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
    changes = converges(machine, "kernel_settings", *kernel.of(SETTINGS))
    assert changes == {FORWARD: {"old": "0", "new": "1"}}


def test_a_kernel_setting_that_leaves_is_as_it_was(machine, kernel):
    machine.run("kernel_settings", *kernel.of(SETTINGS))
    changes = converges(machine, "kernel_settings", *kernel.of({FORWARD: "1"}))
    assert changes == {
        REDIRECTS: {"old": "0", "new": "1"},
        kernel.name: "written",
        kernel.originals: "written",
    }
    assert REDIRECTS not in kernel.file.read_text()
    assert kernel.read() == {FORWARD: "1", REDIRECTS: "1"}
    # From then on it is somebody else's.
    kernel.write(REDIRECTS, 0)
    assert converges(
        machine, "kernel_settings_restored", kernel.name, kernel.forwarding
    ).keys() == {
        FORWARD,
        kernel.name,
        kernel.forwarding,
        kernel.originals,
    }


class Killed(BaseException):
    """What ends a run at once, as SIGKILL does."""


def killed_at(monkeypatch, place, name, number):
    """The call with this number of a function is the last thing that a run does."""
    real, calls = getattr(place, name), []

    def call(*arguments, **keywords):
        calls.append(1)
        if len(calls) == number:
            raise Killed
        return real(*arguments, **keywords)

    monkeypatch.setattr(place, name, call)


@pytest.mark.parametrize("number", range(1, 6))
@pytest.mark.parametrize("function", ["_write", "_set_kernel"])
def test_kernel_settings_of_a_run_that_was_killed(
    machine, kernel, module, monkeypatch, function, number
):
    """What a setting was before is not forgotten before it is so again."""
    machine.run("kernel_settings", *kernel.of(SETTINGS))
    with monkeypatch.context() as patch:
        killed_at(patch, module, function, number)
        with contextlib.suppress(Killed):
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
    changes = converges(machine, "kernel_settings", *kernel.of(SETTINGS))
    assert changes[kernel.name] == {"mode": {"old": "0666", "new": "0644"}}
    assert set(changes) == {kernel.name, kernel.originals}
    assert mode(kernel.file) == mode(kernel.originals) == 0o644
    assert mode(machine.folder / "state") == 0o755


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
    converges(machine, "kernel_settings", *kernel.of(settings))
    assert kernel.read() == SETTINGS
    assert "ipv6" not in kernel.file.read_text()
    kernel.write("net/ipv6/conf/eth0/accept_ra", 1)
    changes = converges(machine, "kernel_settings", *kernel.of(settings))
    assert changes["net/ipv6/conf/eth0/accept_ra"] == {"old": "1", "new": "0"}
    assert "net/ipv6/conf/eth0/accept_ra = 0" in kernel.file.read_text()


@pytest.mark.parametrize(
    "comment", ["GATEWAY-x", "-j", "-g", '"a -j GATEWAY-INPUT b"', '"-j \\" x"']
)
def test_a_rule_of_somebody_else_may_speak_of_us(module, comment):
    """What counts is where it leads."""
    rules = [
        f"-A INPUT -s 192.0.2.7/32 -m comment --comment {comment} -j {target}"
        for target in ("ACCEPT", "GATEWAY-INPUT")
    ]
    found = module._parse_rules("\n".join(["*filter", ":INPUT ACCEPT [0:0]", *rules, "COMMIT"]))
    assert found == {("filter", "INPUT"): [rules[1]]}


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

    monkeypatch.setattr(module, "_write", refuse)
    ret = machine.run("kernel_settings", *kernel.of(SETTINGS))
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "Operation not permitted" in ret["comment"]


def test_kernel_settings_are_restored_to_the_first_originals(machine, kernel):
    machine.run("kernel_settings", *kernel.of({FORWARD: "1"}))
    machine.run("kernel_settings", *kernel.of({FORWARD: "2", REDIRECTS: "0"}))
    changes = converges(machine, "kernel_settings_restored", kernel.name, kernel.forwarding)
    assert changes[FORWARD] == {"old": "2", "new": "0"}
    assert changes[REDIRECTS] == {"old": "0", "new": "1"}
    assert changes[kernel.name] == "removed"
    assert kernel.read() == {FORWARD: "0", REDIRECTS: "1"}
    assert not kernel.file.exists()
    assert not Path(kernel.forwarding).exists()


def test_restoring_passes_over_interfaces_that_are_gone(machine, kernel):
    machine.run("kernel_settings", *kernel.of(SETTINGS))
    shutil.rmtree(machine.folder / "proc/net/ipv4/conf")
    changes = converges(machine, "kernel_settings_restored", kernel.name, kernel.forwarding)
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
    """The kernel's routes as [destination, gateway, protocol], and an ``ip`` that is strict."""
    table: list[list[Any]] = [
        ["default", "198.51.100.1", None],
        ["10.77.0.0/24", None, "2"],
    ]
    machine.broken = None

    def ip(command, python_shell, ignore_retcode):
        assert python_shell is False
        verb = "show" if "show" in command else command[2]
        if verb == machine.broken:
            return {"retcode": 2, "stdout": "", "stderr": "RTNETLINK answers: no"}
        match command:
            case ["ip", "-N", "-json", "-4", "route", "show", "table", "main"]:
                found = [
                    {"dst": dst.removesuffix("/32")}
                    # As `ip` has it: one that a person added is of none.
                    | ({"protocol": proto} if proto else {})
                    | ({"gateway": via} if via else {"dev": "eth0"})
                    for dst, via, proto in table
                ]
                return {"retcode": 0, "stdout": json.dumps(found), "stderr": ""}
            case ["ip", "route", "add" | "replace" as verb, dst, "via", via, "proto", proto]:
                there = [route for route in table if route[0] == dst]
                assert (verb == "replace") == bool(there), "File exists"
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
    changes = converges(machine, "routes", "routes", routes)
    assert changes == {
        BLOCK: {"old": None, "new": "10.77.0.3"},
        "10.8.3.7/32": {"old": None, "new": "10.77.0.4"},
    }
    assert table == [*foreign, [BLOCK, "10.77.0.3", OURS], ["10.8.3.7/32", "10.77.0.4", OURS]]


def test_routes_that_are_stale_or_moved(machine, table):
    foreign = [list(route) for route in table]
    machine.run("routes", "routes", wanted(block="10.77.0.3", host="10.77.0.4"))
    changes = converges(machine, "routes", "routes", wanted(block="10.77.0.9", other="10.77.0.4"))
    assert changes == {
        BLOCK: {"old": "10.77.0.3", "new": "10.77.0.9"},
        "10.8.3.7/32": {"old": "10.77.0.4", "new": None},
        OTHER: {"old": None, "new": "10.77.0.4"},
    }
    converges(machine, "routes", "routes", [])
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
    converges(machine, "routes", "routes", routes)


# --------------------------------------------------------------------------------------------------
# Firewall

V4 = """\
*mangle
:GATEWAY-PREROUTING - [0:0]
-A GATEWAY-PREROUTING -j MARK --set-xmark 0x40000000/0x40000000
COMMIT
*nat
:GATEWAY-PREROUTING - [0:0]
# gateway:nat:forwards:0
-A GATEWAY-PREROUTING -p tcp --dport 443 -j DNAT --to-destination 10.77.0.10
COMMIT
*filter
:GATEWAY-FORWARD - [0:0]
:GATEWAY-INPUT - [0:0]
# gateway:firewall:input:0
-A GATEWAY-INPUT -p 112 -j ACCEPT
# gateway:firewall:input:1
-A GATEWAY-INPUT -m set --match-set gateway-few-1 src -j ACCEPT
COMMIT
"""
V6 = "*filter\n:GATEWAY-INPUT - [0:0]\n:GATEWAY-FORWARD - [0:0]\nCOMMIT\n"
CLOSED = V6.replace("COMMIT", "-A GATEWAY-FORWARD -j DROP\nCOMMIT")
RULESET = {
    "sets": "create gateway-few-1 hash:net family inet maxelem 9\nadd gateway-few-1 192.0.2.0/24\n",
    "v4": V4,
    "v6": V6,
    "closed4": CLOSED,
    "closed6": CLOSED,
}
DROP = RULESET | {"v4": V4.replace("src -j ACCEPT", "src -j DROP")}
PEER, GATEWAY, MASTER = "10.77.0.3", "198.51.100.1", "10.99.0.10"
SAVES = ["iptables-nft-save", "ip6tables-nft-save"]


@pytest.fixture
def site(machine, firewall, module, monkeypatch):
    """A node with the real script; ``unreachable`` never answers, ``cut`` not while on trial."""
    firewall.home = machine.folder / "state/firewall"
    firewall.script.write_text(
        firewall.script.read_text().replace(str(machine.folder / "home"), str(firewall.home))
    )
    site = SimpleNamespace(
        unreachable=set(), cut=set(), commands=[], firewall=firewall, clock=0.0, asked=set()
    )
    machine.opts |= {"master_uri": f"tcp://{MASTER}:4506"}

    def reachable(address):
        site.asked.add(address)
        on_trial = (firewall.home / "pending").is_symlink()
        return address not in site.unreachable | (site.cut if on_trial else set())

    def run_all(command, python_shell, ignore_retcode):
        assert python_shell is False
        assert ignore_retcode is True
        site.commands.append(os.path.basename(command[0]))
        if command[0] == "ping":
            return {"retcode": int(not reachable(command[-1])), "stdout": "", "stderr": ""}
        if command[0] == "ip":
            assert command == ["ip", "-json", "route", "show", "default"]
            return {"retcode": 0, "stdout": json.dumps([{"gateway": GATEWAY}, {}]), "stderr": ""}
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if command[1:2] and command[1] in ("try", "load", "unload", "rollback"):
            machine.calls.append(command[1])
        return {"retcode": done.returncode, "stdout": done.stdout.strip(), "stderr": done.stderr}

    def connect(host, port, timeout):
        assert (port, timeout) == (4506, 2)
        return {"result": reachable(host), "comment": ""}

    def sleep(seconds):
        site.clock += seconds

    monkeypatch.setattr(
        module, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: site.clock, time_ns=time_ns)
    )
    machine.functions |= {"cmd.run_all": run_all, "network.connect": connect}
    return site


def apply(machine, ruleset=RULESET, **keywords):
    return machine.run("firewall", "rules", ruleset, peers=[PEER], **keywords)


def gone(site):
    state = site.firewall.read()
    return "GATEWAY" not in f"{state['v4']} {state['v6']}" and state["sets"] == {}


def test_firewall(machine, site):
    assert list(converges(machine, "firewall", "rules", RULESET, peers=[PEER])) == ["diff", "gate"]
    assert site.firewall.read()["v4"]["filter"]["GATEWAY-INPUT"] == [
        "-p vrrp -j ACCEPT",
        "-m set --match-set gateway-few-1 src -j ACCEPT",
    ]
    assert list(converges(machine, "firewall", "rules", DROP, peers=[PEER])) == ["diff"]
    assert list(converges(machine, "firewall", "rules", {})) == ["diff", "gate"]
    assert gone(site)
    assert os.listdir(site.firewall.home) == []


@pytest.mark.parametrize(("forwards", "said"), [("1", True), ("0", False)])
def test_a_node_that_forwards_without_rules_is_told_so(machine, site, forwards, said):
    apply(machine)
    path = machine.folder / "proc/net/ipv4/ip_forward"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{forwards}\n")
    comment = machine.run("firewall", "rules", {})["comment"]
    assert ("forwards packets without them" in comment) is said


def test_firewall_with_nothing_to_do_is_three_processes(machine, site):
    bare = RULESET | {"sets": "", "v4": V4.replace("-m set --match-set gateway-few-1 src ", "")}
    for ruleset, more in ((bare, []), (RULESET, ["ipset"])):
        apply(machine, ruleset)
        site.commands.clear()
        assert apply(machine, ruleset)["changes"] == {}
        assert site.commands == [*SAVES, *more, "firewall"]


def test_a_lost_gate_is_a_change(machine, site):
    apply(machine)
    Path(f"{site.firewall.rules}4").write_text("")
    assert converges(machine, "firewall", "rules", RULESET, peers=[PEER]) == {"gate": "set"}


def test_firewall_shows_what_changes(machine, site):
    apply(machine)
    assert apply(machine, DROP, test=True)["changes"]["diff"].splitlines() == [
        "--- IPv4 filter (live)",
        "+++ IPv4 filter (wanted)",
        "@@ -3,4 +3,4 @@",
        " :GATEWAY-INPUT",
        " -A GATEWAY-INPUT -p vrrp -j ACCEPT",
        "--A GATEWAY-INPUT -m set --match-set gateway-few-1 src -j ACCEPT",
        "+-A GATEWAY-INPUT -m set --match-set gateway-few-1 src -j DROP",
        " -A INPUT -j GATEWAY-INPUT",
    ]


def test_firewall_does_not_show_ten_thousand_lines(machine, site):
    rules = "".join(f"-A GATEWAY-INPUT -s 192.0.2.1 --sport {n} -j DROP\n" for n in range(1500))
    many = RULESET | {
        "sets": "",
        "v4": V4.replace("-m set --match-set gateway-few-1 src -j ACCEPT\n", "-j ACCEPT\n" + rules),
    }
    lines = apply(machine, many)["changes"]["diff"].splitlines()
    assert len(lines) == 1001
    assert re.fullmatch(r"\(5\d\d more lines\)", lines[-1])


def spoil(edit):
    return lambda site: site.firewall.change(edit)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (spoil(lambda s: s["v4"]["filter"]["GATEWAY-INPUT"].pop(0)), "+-A GATEWAY-INPUT -p vrrp"),
        (spoil(lambda s: s["v4"]["nat"]["GATEWAY-PREROUTING"].append("-j X")), "--A GATEWAY-PRE"),
        (spoil(lambda s: s["v4"]["nat"]["PREROUTING"].pop(0)), "+-A PREROUTING -j GATEWAY-PRE"),
        (spoil(lambda s: s["v6"]["filter"]["INPUT"].append("-j GATEWAY-INPUT")), "--A INPUT -j"),
        (spoil(lambda s: s["v4"]["filter"].update({"GATEWAY-X": []})), "-:GATEWAY-X"),
        (spoil(lambda s: s["sets"]["gateway-few-1"].pop()), "+add gateway-few-1 192.0.2.0/24"),
        (
            spoil(lambda s: s["sets"].update({"gateway-old-1": ["hash:net"]})),
            "-create gateway-old-1",
        ),
        (lambda site: shutil.rmtree(site.firewall.home), ""),
    ],
    ids=["deleted", "added", "jump", "doubled", "chain", "member", "set", "record"],
)
def test_firewall_is_repaired(machine, site, change, line):
    apply(machine)
    before = site.firewall.read()
    change(site)
    changes = converges(machine, "firewall", "rules", RULESET, peers=[PEER])
    after = site.firewall.read()
    assert [after[key] for key in ("v4", "v6", "sets")] == [
        before[key] for key in ("v4", "v6", "sets")
    ]
    if line:
        assert any(found.startswith(line) for found in changes["diff"].splitlines())
    else:
        assert changes == {"record": "written"}


@pytest.mark.parametrize(
    "path", ["current/kernel/v4", "current/kernel/sets", "closed/kernel/v6", "closed"]
)
def test_firewall_files_that_are_damaged_are_written_anew(machine, site, path):
    apply(machine)
    before, home = site.firewall.read(), site.firewall.home
    if path == "closed":
        shutil.rmtree(home / path)
    else:
        (home / path).write_text("")
    site.firewall.run("load", code=1 if path == "current/kernel/v4" else 0)  # as at a boot
    assert converges(machine, "firewall", "rules", RULESET, peers=[PEER])
    after = site.firewall.read()
    assert [after[key] for key in ("v4", "v6")] == [before[key] for key in ("v4", "v6")]
    if path != "closed":
        assert (home / path).read_text()
    assert (home / "closed/kernel/v4").read_text()
    site.firewall.run("load")


def test_firewall_does_not_mind_what_others_change(machine, site):
    apply(machine)
    site.firewall.change(lambda s: s["v4"]["filter"]["INPUT"].insert(0, "-j f2b-sshd"))
    site.firewall.change(lambda s: s["sets"].update({"theirs": ["hash:ip", "192.0.2.3"]}))
    rule = '-m comment --comment "not -j GATEWAY-INPUT" -j ACCEPT'
    site.firewall.change(lambda s: s["v4"]["filter"]["OUTPUT"].append(rule))
    try:
        assert apply(machine)["changes"] == {}
    finally:
        site.firewall.change(lambda s: s["v4"]["filter"]["INPUT"].pop(0))
        site.firewall.change(lambda s: s["v4"]["filter"]["OUTPUT"].clear())


def test_firewall_does_not_mind_other_comments(machine, site):
    """An entry of the pillar has another number; the rules are the same."""
    apply(machine)
    renumbered = RULESET | {"v4": V4.replace("input:1", "input:7")}
    for same in (renumbered, dict(reversed(RULESET.items()))):
        site.commands.clear()
        assert apply(machine, same)["changes"] == {}
        assert site.commands == [*SAVES, "ipset", "firewall"]


@pytest.mark.parametrize("test", [True, False])
def test_firewall_that_the_kernel_refuses(machine, site, test):
    apply(machine)
    before = site.firewall.read()
    wrong = RULESET | {"v4": V4.replace("-p 112", "--wrong").replace("-j DNAT", "--wrong -j DNAT")}
    ret = apply(machine, wrong, test=test)
    assert (ret["result"], ret["changes"]) == (False, {})
    assert ret["comment"].splitlines() == [
        "Nothing was changed: the kernel does not take these rules.",
        'gateway:nat:forwards:0: unknown option "--wrong"',
        "    -A GATEWAY-PREROUTING -p tcp --dport 443 --wrong -j DNAT --to-destination 10.77.0.10",
        'gateway:firewall:input:0: unknown option "--wrong"',
        "    -A GATEWAY-INPUT --wrong -j ACCEPT",
    ]
    assert site.firewall.read() == before


@pytest.mark.parametrize("tool_name", SAVES)
def test_firewall_that_cannot_be_asked(machine, site, tool, tool_name):
    apply(machine)
    tool(tool_name, "echo no such table >&2; exit 1")
    for ruleset in (RULESET, {}):
        ret = apply(machine, ruleset)
        assert (ret["result"], ret["changes"]) == (False, {})
        assert "no such table" in ret["comment"]


def test_firewall_before_its_tools_are_there(machine, site, monkeypatch, module):
    """Test mode on a fresh node: package and script would come in the same run."""
    monkeypatch.setattr(module.shutil, "which", lambda tool: None)
    ret = apply(machine, test=True)
    assert ret["result"] is None
    assert "+-A GATEWAY-INPUT -p 112 -j ACCEPT" in ret["changes"]["diff"].splitlines()
    site.firewall.script.unlink()
    assert machine.run("firewall", "rules", {})["changes"] == {}


def test_firewall_before_its_script_is_there(machine, site, root):
    """Test mode where iptables is there already: the real diff, from the master's script."""
    site.firewall.script.rename(machine.folder / "cached")

    def cache_file(source, saltenv):
        assert (root / source.removeprefix("salt://")).exists()
        assert saltenv == "base"
        return str(machine.folder / "cached")

    machine.functions["cp.cache_file"] = cache_file
    ret = apply(machine, test=True)
    assert "+-A GATEWAY-INPUT -p vrrp -j ACCEPT" in ret["changes"]["diff"].splitlines()


# New rules are kept only if the node still reaches what it reached before


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        ({MASTER}, f"the Salt master ({MASTER} port 4506)"),
        ({PEER}, f"its peer {PEER}"),
        ({PEER, MASTER}, f"its peer {PEER} and the Salt master ({MASTER} port 4506)"),
    ],
    ids=["master", "peer", "both"],
)
def test_firewall_that_cuts_the_node_off(machine, site, cut, words):
    apply(machine)
    before = site.firewall.read()
    site.cut = cut
    ret = apply(machine, DROP)
    assert (ret["result"], ret["changes"]) == (False, {})
    assert ret["comment"] == (
        f"With the new rules this node could not reach {words} any more, for 20 seconds."
        " The rules are again what they were before."
    )
    assert 20 < site.clock < 25
    after = site.firewall.read()
    assert (after["v4"], after["sets"]) == (before["v4"], before["sets"])
    assert apply(machine)["changes"] == {}


def test_firewall_whose_first_rules_cut_the_node_off(machine, site):
    site.cut = {MASTER}
    assert apply(machine, confirm_timeout=6)["result"] is False
    assert gone(site)
    assert 4 < site.clock < 6


def test_firewall_does_not_wait_for_what_was_away_before(machine, site):
    site.unreachable = {MASTER, PEER}
    assert apply(machine)["result"] is True
    assert site.clock == 0


def test_firewall_waits_for_what_comes_back(machine, site, module, monkeypatch):
    def sleep(seconds):
        site.clock += seconds
        site.cut = set() if site.clock > 3 else site.cut

    monkeypatch.setattr(module.time, "sleep", sleep)
    site.cut = {MASTER}
    assert apply(machine)["result"] is True
    assert 3 < site.clock < 4


@pytest.mark.parametrize(
    ("opts", "asked"),
    [
        ({}, {PEER, MASTER}),
        ({"master_uri": "tcp://[fd00::1]:4506"}, {PEER, "fd00::1"}),
        ({"master_uri": None, "master": "salt.test"}, {PEER, "salt.test"}),
        ({"master_uri": None, "master": ["one", "two"], "file_client": "remote"}, {PEER, "one"}),
        ({"master_uri": None, "master": "salt", "file_client": "local"}, {PEER, GATEWAY}),
    ],
    ids=["minion", "IPv6", "name", "two masters", "masterless"],
)
def test_firewall_asks_the_master_or_the_default_gateway(machine, site, opts, asked):
    machine.opts |= opts
    apply(machine)
    assert site.asked == asked


def test_firewall_where_one_of_two_masters_is_enough(machine, site):
    machine.opts |= {"master_uri": None, "master": ["one", "two"]}
    site.cut = {"one"}
    assert apply(machine)["result"] is True
    site.cut = {"one", "two"}
    assert apply(machine, DROP)["result"] is False


def test_firewall_takes_back_what_a_killed_run_left_on_trial(machine, site, module, monkeypatch):
    apply(machine)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_lost", killed)
        with pytest.raises(KeyboardInterrupt):
            apply(machine, DROP)
    assert "src -j DROP" in str(site.firewall.read()["v4"])
    changes = converges(machine, "firewall", "rules", RULESET, peers=[PEER])
    assert changes == {"trial": "taken back"}
    assert "src -j DROP" not in str(site.firewall.read()["v4"])


def test_firewall_that_was_taken_back_by_the_timer(machine, site, module, monkeypatch):
    """The verdict comes too late: what is said is what is."""
    apply(machine)

    def late(lifelines, deadline):
        site.firewall.run("rollback")
        return []

    monkeypatch.setattr(module, "_lost", late)
    ret = apply(machine, DROP)
    assert ret["result"] is False
    assert "has been taken back already" in ret["comment"]
    assert "src -j DROP" not in str(site.firewall.read()["v4"])


def test_firewall_keeps_its_files_to_itself(machine, site):
    apply(machine)
    assert site.firewall.home.stat().st_mode & 0o777 == 0o700
    site.firewall.home.chmod(0o755)
    changes = converges(machine, "firewall", "rules", RULESET, peers=[PEER])
    assert changes == {"folder": {"mode": {"old": "0755", "new": "0700"}}}
    assert mode(site.firewall.home) == 0o700


# --------------------------------------------------------------------------------------------------
# Files and services


@pytest.fixture
def checked(machine, module, tmp_path, monkeypatch):
    """``checked_file`` with a file.managed that says ``answer``, and a checker that says no."""
    isolated = tmp_path / "isolated"
    isolated.write_text("")
    isolated.chmod(0o755)
    monkeypatch.setattr(module, "ISOLATED", str(isolated))
    checked = SimpleNamespace(
        isolated=str(isolated),
        answer={"name": "conf", "changes": {"diff": "New"}, "result": None, "comment": "managed"},
        given=None,
        asked=[],
        code=1,
        rendered=None,
    )

    def managed(name, **arguments):
        checked.given = {"name": name, **arguments}
        return checked.answer

    def get_template(source, destination, template, saltenv, **context):
        checked.rendered = (source, template, saltenv, context)
        Path(destination).write_text("new")
        return destination

    def run_all(command, ignore_retcode):
        *words, path = command.split()
        checked.asked.append((words, Path(path).read_text()))
        return {"retcode": checked.code, "stdout": "line 3", "stderr": "unknown keyword"}

    machine.states["file.managed"] = managed
    machine.functions |= {
        "cp.cache_file": lambda source, saltenv: "",
        "cp.get_template": get_template,
        "cmd.run_all": run_all,
    }
    return checked


CHECK = ("conf", "salt://conf.jinja", "sh -n")


def test_checked_file_is_managed_with_a_check(machine, checked):
    checked.answer |= {"result": True}
    ret = machine.run("checked_file", *CHECK, context={"a": 1}, mode="0600", show_changes=False)
    assert ret == checked.answer
    assert checked.given == {
        "name": "conf",
        "source": "salt://conf.jinja",
        "template": "jinja",
        "context": {"a": 1},
        "mode": "0600",
        "user": "root",
        "group": "root",
        "makedirs": True,
        "show_changes": False,
        "check_cmd": f"{checked.isolated} conf sh -n",
        "backup": "none",
    }
    assert checked.asked == []


@pytest.mark.parametrize(
    ("old", "shown"), [(b"-----BEGIN PRIVATE KEY-----\n", False), (b"key caf\xe9\n", True)]
)
def test_checked_file_shows_no_key_of_the_old_file(machine, checked, old, shown):
    """Where the key was text and is a path now, a diff would have it."""
    file = machine.folder / "conf"
    file.write_bytes(old)
    machine.run("checked_file", str(file), *CHECK[1:], show_changes=True, test=True)
    assert checked.given["show_changes"] is shown


def test_checked_file_of_a_daemon_that_looks_at_interfaces(machine, checked):
    machine.run("checked_file", *CHECK, see_network=True)
    assert checked.given["check_cmd"] == f"{checked.isolated} --see-network conf sh -n"


@pytest.mark.parametrize("code", [0, 1])
def test_checked_file_asks_in_test_mode_too(machine, checked, code):
    checked.code = code
    ret = machine.run("checked_file", *CHECK, test=True, context={"a": 1})
    assert checked.asked == [([checked.isolated, "conf", "sh", "-n"], "new")]
    assert checked.rendered == ("salt://conf.jinja", "jinja", "base", {"a": 1})
    if code:
        assert (ret["result"], ret["changes"]) == (False, {})
        assert ret["comment"] == "check_cmd execution failed\nline 3\nunknown keyword"
    else:
        assert ret == checked.answer


@pytest.mark.parametrize(
    ("result", "check", "isolated"),
    [
        (True, "sh -n", True),
        (False, "sh -n", True),
        (None, "/nowhere/check -f", True),
        (None, "sh -n", False),
    ],
)
def test_checked_file_does_not_ask(machine, checked, result, check, isolated):
    """Nothing would change; it failed anyway; the checker comes with this run."""
    checked.answer |= {"result": result, "changes": {} if result is not None else {"diff": "New"}}
    if not isolated:
        Path(checked.isolated).unlink()
    ret = machine.run("checked_file", "conf", "salt://conf.jinja", check, test=True)
    assert ret == checked.answer
    assert checked.asked == []


@pytest.fixture
def conf(machine):
    path = machine.folder / "chrony.conf"
    path.write_text("the distribution's\n")
    path.chmod(0o640)
    return path


def test_original_is_kept_and_restored(machine, conf):
    kept = conf.with_name("chrony.conf.before-gateway")
    assert converges(machine, "original_kept", str(conf)) == {str(kept): "written"}
    assert kept.stat().st_mode == conf.stat().st_mode
    conf.write_text("ours\n")
    assert machine.run("original_kept", str(conf))["changes"] == {}
    assert converges(machine, "original_restored", str(conf)) == {str(conf): "restored"}
    assert conf.read_text() == "the distribution's\n"
    assert not kept.exists()


@pytest.mark.parametrize("shipped", [False, True])
def test_original_that_does_not_exist(machine, shipped):
    """In test mode the package that brings it may be yet to come."""
    name = str(machine.folder / "conf")
    assert machine.run("original_kept", name, shipped=shipped)["changes"] == {}
    predicted = machine.run("original_kept", name, test=True, shipped=shipped)
    assert predicted["result"] is (None if shipped else True)


def test_what_is_ours_is_no_original(machine, conf):
    """The file that was kept is lost; ours must not be restored in its place one day."""
    conf.write_text("# Managed by Salt (gateway).\n")
    assert machine.run("original_kept", str(conf))["changes"] == {}


def test_a_file_of_ours_where_there_was_none(machine, conf):
    """It goes only where its service can do without; a user's own stays."""
    assert machine.run("original_restored", str(conf), or_none=True)["changes"] == {}
    conf.write_text("# Managed by Salt (gateway).\n")
    assert machine.run("original_restored", str(conf))["changes"] == {}
    changes = converges(machine, "original_restored", str(conf), or_none=True)
    assert changes == {str(conf): "removed"}
    assert not conf.exists()


def test_original_that_cannot_be_copied(machine, conf, module, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.shutil, "copy2", refuse)
    ret = machine.run("original_kept", str(conf))
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "No space left on device" in ret["comment"]


def test_an_original_of_which_a_part_was_copied(machine, conf, module, monkeypatch):
    """By a run that was killed: the next one copies it all."""

    def copy(_, kept):
        Path(kept).write_text("the dis")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "copy2", copy)
        with pytest.raises(Killed):
            machine.run("original_kept", str(conf))
    converges(machine, "original_kept", str(conf))
    assert conf.with_name("chrony.conf.before-gateway").read_text() == conf.read_text()
    assert len(os.listdir(machine.folder)) == 2


# --------------------------------------------------------------------------------------------------
# Owners and modes


@pytest.fixture
def umask():
    """The run has the umask of a careful administrator."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture
def managed(machine):
    """``gateway.file`` with a file.managed that does what Salt's does, for text and mode."""

    def managed(name, user, group, mode, makedirs, contents, **options):
        assert (user, group, makedirs) == ("root", "root", True)
        machine.options = options
        path, changes = Path(name), {}
        if not path.exists() or path.read_text() != contents:
            changes["diff"] = contents
        elif f"{path.stat().st_mode & 0o7777:04o}" != mode:
            changes["mode"] = mode
        if changes and not machine.opts["test"]:
            path.write_text(contents)
            path.chmod(int(mode, 8))
        result = None if changes and machine.opts["test"] else True
        comment = f"{machine.opts['test']} {changes}"
        return {"name": name, "changes": changes, "result": result, "comment": comment}

    machine.states["file.managed"] = managed
    return machine.folder / "etc/gateway/deep/conf"


@pytest.mark.usefixtures("umask")
def test_a_file_and_the_folders_on_its_way(machine, managed):
    (machine.folder / "etc").mkdir(mode=0o700)
    ours = {str(parent): "made" for parent in list(managed.parents)[:2]}
    changes = converges(machine, "file", str(managed), contents="x")
    assert changes == {"diff": "x", "folders": ours}
    assert mode(managed) == 0o644
    assert [mode(folder) for folder in list(managed.parents)[:3]] == [0o755, 0o755, 0o700]
    assert machine.options == {}
    managed.parent.chmod(0o750)
    managed.chmod(0o600)
    changes = converges(machine, "file", str(managed), contents="x")
    wrong = {"mode": {"old": "0750", "new": "0755"}}
    assert changes == {"mode": "0644", "folders": {str(managed.parent): wrong}}


def test_a_folder_is_put_right_once(machine, managed):
    """Test mode says it of the state that would do it, and of no other one."""
    managed.parent.mkdir(parents=True)
    managed.parent.chmod(0o700)
    first = machine.run("file", str(managed), test=True, contents="x")
    machine.running["first"] = first
    second = machine.run("file", f"{managed}-2", test=True, contents="x")
    assert str(managed.parent) in first["changes"]["folders"]
    assert second["changes"] == {"diff": "x"}


@pytest.mark.usefixtures("umask")
def test_drop_in_folders_are_ours_and_others_are_not(machine, managed):
    for path, expected in {
        "etc/systemd/system/x.service.d/gateway.conf": 0o755,
        "etc/systemd/system/x.service": 0o711,
        "etc/keepalived/keepalived.conf": 0o711,
    }.items():
        file = machine.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.parent.chmod(0o711)
        converges(machine, "file", str(file), contents="x")
        assert mode(file.parent) == expected, path


def test_somebody_elses_files_become_roots(machine, managed, module, monkeypatch):
    managed.parent.mkdir(parents=True)
    changed = []
    monkeypatch.setattr(module, "OWNER", (os.getuid() + 1, os.getgid()))
    monkeypatch.setattr(module.os, "chown", lambda *call: changed.append(call))
    changes = machine.run("file", str(managed), contents="x")["changes"]
    owner = {"user": {"old": os.getuid(), "new": os.getuid() + 1}}
    assert changes["folders"][str(managed.parent)] == owner
    assert (str(managed.parent), os.getuid() + 1, os.getgid()) in changed


def test_files_are_roots(load):
    """Tests have an owner of their own, who need not be root."""
    assert load("_states/gateway.py").OWNER == (0, 0)


def test_a_file_where_a_folder_is_to_be(machine, managed):
    (machine.folder / "etc/gateway").mkdir(parents=True)
    managed.parent.write_text("somebody's")
    ret = machine.run("file", str(managed), contents="x")
    assert ret["result"] is False
    assert str(managed.parent) in ret["comment"]
    assert managed.parent.read_text() == "somebody's"


def test_of_a_secret_no_copy_is_kept(machine, managed):
    machine.run("file", str(managed), mode="0600", contents="x")
    # Not False: that would be the minion's setting.
    assert machine.options == {"backup": "none"}


@pytest.fixture
def rendered(machine, tmp_path_factory):
    """``gateway.file`` with a template that the file server has."""
    cache = tmp_path_factory.mktemp("cache") / "conf.jinja"
    cache.write_text("template 1")
    rendered = SimpleNamespace(
        cache=cache,
        times=0,
        plan={"a": 1, "vpn": {"pki": {"key": {"pillar": []}, "ca": {"path": "/etc/ca"}}}},
        pem={"key": "a key"},
        file=machine.folder / "etc/gateway/conf",
    )
    rendered.call = {"source": "salt://conf.jinja", "template": "jinja", "context": {"b": 2}}

    def managed(name, source, template, context, mode, **_):
        rendered.times += 1
        path = Path(name)
        text = f"{cache.read_text()} {rendered.plan} {context} {rendered.pem}"
        wrong = not path.exists() or path.read_text() != text or mode_of(path) != mode
        if wrong and not machine.opts["test"]:
            path.write_text(text)
            path.chmod(int(mode, 8))
        changes = {"diff": text} if wrong else {}
        result = None if wrong and machine.opts["test"] else True
        return {"name": name, "changes": changes, "result": result, "comment": f"{changes}"}

    def mode_of(path):
        return f"{mode(path):04o}"

    machine.states["file.managed"] = managed
    machine.functions |= {
        "cp.cache_file": lambda source, saltenv: "unknown" not in source and str(cache),
        "gateway.plan": lambda: rendered.plan,
        "gateway.pem": rendered.pem.__getitem__,
    }
    return rendered


def test_a_file_is_not_rendered_again_for_nothing(machine, rendered):
    run = functools.partial(machine.run, "file", str(rendered.file))
    assert run(**rendered.call)["changes"]
    assert rendered.times == 1
    for test in (True, False):
        assert not run(test=test, **rendered.call)["changes"]
    assert rendered.times == 1


@pytest.mark.parametrize(
    "what", ["template", "plan", "key", "context", "text", "mode", "gone", "notes"]
)
@pytest.mark.parametrize("test", [True, False])
def test_a_file_is_rendered_again_after_any_change(machine, rendered, what, test):
    rendered.cache.write_text("{{ salt['gateway.pem'](material) }}")
    machine.run("file", str(rendered.file), **rendered.call)
    wanted = rendered.file.read_text()
    call = rendered.call
    if what == "template":
        rendered.cache.write_text("template 2")
    elif what == "plan":
        rendered.plan["a"] = 2
    elif what == "key":
        rendered.pem["key"] = "another key"
    elif what == "context":
        call = call | {"context": {"b": 3}}
    elif what == "text":
        rendered.file.write_text("somebody's")
    elif what == "mode":
        rendered.file.chmod(0o600)
    elif what == "gone":
        rendered.file.unlink()
    else:
        (machine.read / "rendered.json").write_text("{")
    changes = machine.run("file", str(rendered.file), test=test, **call)["changes"]
    assert rendered.times == 2
    assert bool(changes) == (what != "notes")
    if not test:
        assert (rendered.file.read_text() == wanted) == (what in ("text", "mode", "gone", "notes"))
        assert mode(rendered.file) == 0o644
        machine.run("file", str(rendered.file), **call)
        assert rendered.times == 2


@pytest.mark.parametrize(
    ("text", "more", "times"),
    [
        ("{{ salt['gateway.plan']().domain }}", {}, 0),
        ("# salt-call, or salt://, is no call of Salt's.", {}, 0),
        ("{{ salt['gateway.plan']().domain }}", {"check_cmd": "sh -n"}, 0),
        ("{{ salt['gateway.plan']('gw2').domain }}", {}, 1),
        ("{{ salt['gateway.plan']() }}{{ salt['gateway.pem'](material) }}", {}, 0),
        ("{{ salt['gateway.pem'](material, node='gw2') }}", {}, 1),
        ("{{ salt['gateway.plan']() }}{{ salt['gateway.sync_ignored']() }}", {}, 1),
        ("{{ salt.gateway.sync_ignored() }}", {"check_cmd": "sh -n"}, 1),
    ],
)
def test_only_what_plan_and_keys_say_is_taken_as_known(machine, rendered, text, more, times):
    """Other answers of Salt's may differ today. A check is for new files: Salt has none looked at
    that stays as it is."""
    rendered.cache.write_text(text)
    for _ in range(3):
        machine.run("file", str(rendered.file), **rendered.call, **more)
    assert rendered.times == 1 + 2 * times


def test_a_file_that_is_no_template(machine, rendered):
    """It is what the file server has, or it is not."""
    rendered.cache.write_text("as it comes")
    rendered.file.parent.mkdir(parents=True)
    calls = []

    def managed(name, mode, **_):
        calls.append(name)
        Path(name).write_text("as it comes")
        Path(name).chmod(int(mode, 8))
        return {"name": name, "changes": {"diff": "new"}, "result": True, "comment": "New."}

    machine.states["file.managed"] = managed
    for wrong in (
        lambda: None,
        lambda: rendered.file.write_text("x"),
        lambda: rendered.file.chmod(0o600),
    ):
        wrong()
        assert machine.run("file", str(rendered.file), source="salt://conf")["changes"]
        assert not machine.run("file", str(rendered.file), source="salt://conf")["changes"]
    assert len(calls) == 3


def test_a_source_that_is_not_there_is_for_salt_to_name(machine, rendered):
    call = rendered.call | {"source": "salt://unknown"}
    for _ in range(2):
        machine.run("file", str(rendered.file), **call)
    assert rendered.times == 2


@pytest.mark.usefixtures("umask")
def test_a_folder_for_a_users_files(machine):
    folder = machine.folder / "etc/gateway/health.d"
    changes = converges(machine, "folder", str(folder))
    assert changes == {str(folder.parent): "made", str(folder): "made"}
    folder.chmod(0o777)
    assert set(converges(machine, "folder", str(folder))) == {str(folder)}
    assert mode(folder) == mode(folder.parent) == 0o755


# --------------------------------------------------------------------------------------------------
# Services


@pytest.fixture
def unit(machine, monkeypatch, module):
    """A unit that reads `conf` at its start and `hosts` when it is reloaded, and systemd."""
    unit = SimpleNamespace(
        active={"other.target"},
        enabled=set(),
        since={},
        unread=set(),
        drop_ins=set(),
        broken=set(),
        clock=1000.0,
    )
    conf, hosts = machine.folder / "conf", machine.folder / "hosts"
    drop_in = machine.folder / "etc/systemd/system/app.service"
    drop_in.parent.mkdir(parents=True)
    monkeypatch.setattr(module.time, "time", lambda: unit.clock)
    monkeypatch.setattr(module.time, "monotonic", lambda: unit.clock - 900)

    def show(name):
        since = unit.since.get(name, 0)
        return (
            f"ActiveState={'active' if name in unit.active else 'inactive'}\n"
            f"DropInPaths={' '.join(unit.drop_ins)}\n"
            f"NeedDaemonReload={'yes' if name in unit.unread else 'no'}\n"
            f"StateChangeTimestampMonotonic={int(since * 1e6)}\n"
            f"UnitFileState={'enabled' if name in unit.enabled else 'disabled'}\n"
        )

    def run_all(command, **_):
        _, verb, *names = command
        if verb == "show":
            return {"retcode": 0, "stdout": "\n".join(map(show, names[1:])), "stderr": ""}
        machine.calls.append(" ".join(command[1:]))
        if verb == "daemon-reload":
            unit.unread.clear()
            unit.drop_ins |= set(map(str, machine.folder.rglob("*.service.d/*.conf")))
        elif verb == "enable":
            unit.enabled.add(*names)
        elif verb == "disable":
            unit.enabled.discard(*names)
        else:
            assert verb in ("start", "try-restart", "reload", "stop")
            assert verb == "start" or names[0] in unit.active
            unit.load(*names)
            if verb == "stop" or names[0] in unit.broken:
                unit.active.discard(names[0])
        return {"retcode": 0, "stdout": "", "stderr": ""}

    def load(name):
        unit.clock += 1
        unit.active.add(name)
        unit.since[name] = unit.clock - 900

    def write(path, text):
        """By this run or an earlier one."""
        unit.clock += 1
        path.write_text(text)
        os.utime(path, (unit.clock, unit.clock))
        unit.clock += 1

    unit.load, unit.write = load, write
    unit.conf, unit.hosts, unit.drop_in = conf, hosts, drop_in
    for path in (conf, hosts, drop_in):
        write(path, "1")
    unit.reads, unit.rereads = [str(conf), str(drop_in)], [str(hosts)]
    machine.functions["cmd.run_all"] = run_all
    unit.call = {"reads": unit.reads, "rereads": unit.rereads}
    return unit


def test_a_unit_is_enabled_and_started(machine, unit):
    changes = converges(machine, "service", "app", **unit.call)
    assert changes == {"enabled": True, "started": True}
    assert machine.calls == ["daemon-reload", "enable app", "start app"]


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
        if tool == module.ISOLATED:
            assert arguments[:-1] == ["--see-network", str(found.conf), "keepalived", "-t"]
            machine.calls.append("check")
            return {"retcode": found.code, "stdout": "", "stderr": "no such keyword"}
        if arguments[0] == "show":
            state = "active" if found.active else "inactive"
            output = f"ActiveState={state}"
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


def test_a_unit_that_does_not_start(machine, unit):
    unit.broken.add("app")
    ret = machine.run("service", "app", **unit.call)
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "journalctl -u app" in ret["comment"]


RESTART, RELOAD = ["try-restart app"], ["reload app"]
CHANGED = [("conf", RESTART), ("hosts", RELOAD), ("drop_in", RESTART), ("both", RESTART)]


@pytest.mark.parametrize(("what", "expected"), CHANGED)
def test_a_unit_takes_what_a_run_wrote_that_was_killed(machine, unit, what, expected):
    """Nothing of it is this run's change."""
    machine.run("service", "app", **unit.call)
    machine.calls.clear()
    for path in (unit.conf, unit.hosts) if what == "both" else [getattr(unit, what)]:
        unit.write(path, "2")
    if what == "drop_in":
        expected = ["daemon-reload", *expected]
    converges(machine, "service", "app", **unit.call)
    assert machine.calls == expected


@pytest.mark.parametrize(("what", "expected"), CHANGED[:3])
@pytest.mark.parametrize("how", ["boot", "by hand"])
def test_a_unit_that_somebody_else_has_started(machine, unit, what, expected, how):
    """It has read what was there; what a killed run wrote after that it has not."""
    machine.run("service", "app", **unit.call)
    machine.calls.clear()
    if how == "boot":
        shutil.rmtree(machine.read)
    for path in (unit.conf, unit.hosts, unit.drop_in):
        unit.write(path, "2")
    unit.load("app")
    assert machine.run("service", "app", **unit.call)["changes"] == {}
    if how == "boot":
        shutil.rmtree(machine.read)
    unit.load("app")
    unit.write(getattr(unit, what), "3")
    converges(machine, "service", "app", **unit.call)
    assert machine.calls == (["daemon-reload"] if what == "drop_in" else []) + expected


def test_a_unit_goes_on_where_nothing_has_changed(machine, unit):
    """After an upgrade from a formula without notes, a boot, a chmod, and a new list of files."""
    unit.enabled.add("app")
    unit.load("app")
    assert machine.run("service", "app", **unit.call)["changes"] == {}
    unit.conf.chmod(0o600)
    more = unit.call | {"reads": [*unit.reads, str(unit.hosts)]}
    assert machine.run("service", "app", **more)["changes"] == {}
    os.utime(unit.conf, (unit.clock + 9, unit.clock + 9))
    assert machine.run("service", "app", **more)["changes"] == {}


def test_a_unit_and_the_files_of_this_run(machine, unit):
    """Also in test mode, where they are as they were; their modes are none of its business."""
    machine.run("service", "app", **unit.call)
    machine.calls.clear()
    access = {"mode": "0644", "user": "root", "group": "root", "folders": {"/": "made"}}
    machine.running["hosts"] = {"name": str(unit.hosts), "changes": access}
    machine.running["conf"] = {"name": str(unit.conf), "changes": {}}
    assert machine.run("service", "app", **unit.call)["changes"] == {}
    machine.running["hosts"]["changes"]["diff"] = "x"
    for test in (True, False):
        changes = machine.run("service", "app", test=test, **unit.call)["changes"]
        assert changes == {"reloaded": [str(unit.hosts)]}
    assert machine.calls == RELOAD


def test_a_folder_of_drop_ins_that_is_new(machine, unit):
    """systemd says that a file has changed, but not that there is a folder of them."""
    drop_in = machine.folder / "etc/systemd/system/app.service.d/gateway.conf"
    drop_in.parent.mkdir()
    call = unit.call | {"reads": [*unit.reads, str(drop_in)]}
    machine.run("service", "app", **call)
    machine.calls.clear()
    unit.write(drop_in, "1")
    os.utime(drop_in, (1, 1))
    shutil.rmtree(machine.read)
    changes = converges(machine, "service", "app", **call)
    assert changes == {"restarted": [str(drop_in)], "systemd": "reads its units again"}
    assert machine.calls == ["daemon-reload", *RESTART]


def test_units_that_systemd_has_to_know(machine, unit):
    machine.run("service", "app", **unit.call)
    machine.calls.clear()
    unit.unread.add("other.service")
    changes = converges(machine, "service", "app", **unit.call, units=["other.service"])
    assert changes == {"systemd": "reads its units again"}
    assert machine.calls == ["daemon-reload"]
    path = str(machine.folder / "etc/systemd/system/other.service")
    machine.running["other"] = {"name": path, "changes": {"removed": path}}
    for test in (True, False):
        ret = machine.run("service", "app", test=test, **unit.call, units=["other.service"])
        assert ret["changes"] == changes


def test_a_unit_that_runs_with_a_target_only(machine, unit):
    call = unit.call | {"target": "my.target"}
    assert converges(machine, "service", "app", **call) == {"enabled": True}
    unit.load("my.target")
    assert converges(machine, "service", "app", **call) == {"started": True}
    unit.active -= {"my.target", "app"}
    unit.write(unit.conf, "2")
    assert machine.run("service", "app", **call)["changes"] == {}


def test_a_target_that_goes_while_its_unit_is_started(machine, unit):
    unit.load("my.target")
    real = machine.functions["cmd.run_all"]

    def run_all(command, **keywords):
        if command[1] == "start":
            unit.active.discard("my.target")
        return real(command, **keywords)

    machine.functions["cmd.run_all"] = run_all
    machine.run("service", "app", target="my.target", **unit.call)
    assert "app" not in unit.active


def test_a_unit_that_is_only_told(machine, unit):
    """It is the distribution's, and may be off."""
    call = unit.call | {"enable": None, "start": False}
    assert machine.run("service", "app", **call)["changes"] == {}
    unit.load("app")
    unit.write(unit.conf, "2")
    assert converges(machine, "service", "app", **call) == {"restarted": [str(unit.conf)]}
    assert machine.calls == RESTART
    assert not (machine.read / "app.json").exists()


def test_notes_that_cannot_be_read(machine, unit):
    machine.read.joinpath("app.json").write_text("{")
    assert machine.run("service", "app", **unit.call)["result"] is False


@pytest.mark.parametrize("was", [{"stopped"}, {"disabled"}, {"stopped", "disabled"}])
def test_a_unit_that_is_off(machine, unit, was):
    if "stopped" in was:
        unit.load("app")
    if "disabled" in was:
        unit.enabled.add("app")
    assert converges(machine, "service_off", "app") == dict.fromkeys(was, True)
    assert not unit.active & {"app"}
    assert not unit.enabled


def test_a_unit_that_may_be_somebody_elses(machine, unit):
    """It is not touched without the file that makes it ours."""
    unit.load("app")
    unit.enabled.add("app")
    ours = machine.folder / "ours"
    assert machine.run("service_off", "app", ours=str(ours))["changes"] == {}
    ours.touch()
    changes = converges(machine, "service_off", "app", ours=str(ours))
    assert changes == {"stopped": True, "disabled": True}


@pytest.fixture
def asked(machine, unit):
    """Which units systemd was asked about, call by call."""
    real, asked = machine.functions["cmd.run_all"], []

    def run_all(command, **keywords):
        if command[1] == "show":
            asked.append(command[3:])
        return real(command, **keywords)

    machine.functions["cmd.run_all"] = run_all
    unit.load("app")
    unit.enabled.add("app")
    more = {"units": ["app.socket"], "target": "other.target"}
    for fun, name, keywords in (("service", "app", more), ("service_off", "other", {})):
        machine.low.append({"state": "gateway", "fun": fun, "name": name, **keywords})
    machine.low.append({"state": "gateway", "fun": "file", "name": "/etc/file"})
    machine.low.append({"state": "service", "fun": "running", "name": "somebody's"})
    return asked


def test_systemd_is_asked_once_while_nothing_changes(machine, module, unit, asked):
    machine.opts["test"] = False
    machine.running["file"] = {"name": "/etc/file", "changes": {}, "result": True}
    assert not module.service("app", units=["app.socket"], target="other.target")["changes"]
    assert not module.service_off("other")["changes"]
    assert asked == [["app", "app.socket", "other", "other.target"]]
    assert not module.service_off("unheard-of")["changes"]
    assert asked[1:] == [["app", "app.socket", "other", "other.target", "unheard-of"]]


@pytest.mark.parametrize(
    "ret", [{"changes": {"x": 1}, "result": True}, {"changes": {}, "result": False}]
)
def test_what_systemd_said_does_not_count_after_a_change(machine, module, unit, asked, ret):
    machine.opts["test"] = False
    assert not module.service_off("other")["changes"]
    unit.load("other")
    machine.running["file"] = {"name": "/etc/file", **ret}
    assert module.service_off("other")["changes"] == {"stopped": True}
    assert "other" not in unit.active


def test_a_unit_cannot_be_off_without_systemd(machine):
    machine.functions["cmd.run_all"] = lambda *_, **__: {
        "retcode": 1,
        "stdout": "",
        "stderr": "System has not been booted with systemd",
    }
    ret = machine.run("service_off", "app")
    assert ret["result"] is False
    assert "not been booted" in ret["comment"]


def test_a_folder_that_goes_leaves_what_is_the_users(machine):
    folder = machine.folder / "gone"
    for path in ("follow.d/10-mine", "health.d", "openvpn/main", "routes"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    (folder / "health.d").unlink()
    (folder / "health.d").mkdir()
    keep = ["follow.d", "health.d"]
    changes = converges(machine, "folder_gone", str(folder), keep=keep)
    assert sorted(changes) == [f"{folder}/{name}" for name in ("health.d", "openvpn", "routes")]
    assert os.listdir(folder) == ["follow.d"]
    (folder / "follow.d/10-mine").unlink()
    assert converges(machine, "folder_gone", str(folder), keep=keep) == {str(folder): "removed"}
    assert machine.run("folder_gone", str(folder), keep=keep)["changes"] == {}


def test_nothing_of_older_versions(machine):
    folder = machine.folder / "lib"
    folder.mkdir()
    older = [str(machine.folder / name) for name in ("beat", "never was")]
    for name in ("lib/alive", "lib/.alive.swp", "lib/firewall", "beat", "other"):
        (machine.folder / name).write_text("x")
    (folder / "cache").mkdir()
    (folder / "cache/x").write_text("x")
    machine.running["scripts"] = {"name": f"{folder}/firewall", "changes": {}}
    arguments = ("folder_only_ours", str(folder))
    gone = [f"{folder}/{name}" for name in (".alive.swp", "alive", "cache")]
    assert list(converges(machine, *arguments, older=older)) == [*gone, older[0]]
    assert os.listdir(folder) == ["firewall"]
    assert (machine.folder / "other").exists()
    shutil.rmtree(folder)
    assert machine.run(*arguments)["changes"] == {}


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
    changes = converges(machine, "followers", TARGET, ["app.service", "report.timer"])
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
    converges(machine, "followers", TARGET, ["app.service", "report.timer"])
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
@pytest.mark.parametrize("function", ["_write", "_run"])
@pytest.mark.parametrize("here", [{TARGET}, set()], ids=["holder", "other"])
def test_followers_of_a_run_that_was_killed(
    machine, systemd, module, monkeypatch, here, function, number
):
    """The next one makes of it what an undisturbed run would."""
    systemd.active |= here | {"app.service"}
    with monkeypatch.context() as patch:
        killed_at(patch, module, function, number)
        with contextlib.suppress(Killed):
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
    changes = converges(machine, "followers", TARGET, ["stays.service"])
    assert sorted(changes.values()) == ["removed", "written"]
    assert machine.calls == ["daemon-reload"]
    assert systemd.active == before
    assert os.listdir(systemd.units / "app.service.d") == ["admin.conf"]
    converges(machine, "followers", TARGET, [])
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
    changes = converges(machine, "networkd", networkd.conf, ["eth0", "eth1"])
    drop_ins = [networkd.network / f"{name}.network.d/gateway.conf" for name in ("10-lan", "wan")]
    assert sorted(changes) == sorted([networkd.conf, *map(str, drop_ins)])
    assert "[Network]\nManageForeignRoutes=no\n" in Path(networkd.conf).read_text()
    for path in drop_ins:
        assert path.read_text().endswith("[Network]\nKeepConfiguration=static\n")
    converges(machine, "networkd", networkd.conf, [])
    assert [path for path in networkd.network.parent.rglob("*") if path.is_file()] == []


def test_networkd_with_another_file(machine, networkd):
    machine.run("networkd", networkd.conf, ["eth0", "eth1"])
    networkd.link(2, "eth0", WAN)
    changes = converges(machine, "networkd", networkd.conf, ["eth0", "eth1"])
    assert changes == {str(networkd.network / "10-lan.network.d/gateway.conf"): "removed"}


def test_where_networkd_manages_neither_there_is_nothing(machine, networkd):
    networkd.link(3, "eth1", "/dev/null")
    assert machine.run("networkd", networkd.conf, ["eth1", "eth2", "eth9"])["changes"] == {}


@pytest.mark.parametrize(
    ("said", "ours"),
    [("yes", "yes"), ("dhcp", "yes"), ("static", "static"), ("dhcp-on-stop", "static")],
)
@pytest.mark.parametrize("place", ["wan.network", "wan.network.d/admin.conf"])
def test_who_keeps_more_than_we_need_goes_on(machine, networkd, said, ours, place):
    path = networkd.network / place
    path.parent.mkdir(parents=True)
    path.write_text(f"[Network]\nKeepConfiguration={said}\n")
    networkd.link(3, "eth1", networkd.network / "wan.network")
    converges(machine, "networkd", networkd.conf, ["eth1"])
    text = (networkd.network / "wan.network.d/gateway.conf").read_text()
    assert text.endswith(f"KeepConfiguration={ours}\n")


@pytest.fixture
def openvpn(machine):
    """A node with two servers of ours, one of somebody else, and drop-ins for all."""
    servers, units = machine.folder / "server", machine.folder / "etc/systemd/system"
    for instance in ("gateway-main", "gateway-old", "office"):
        drop_in = units / f"openvpn-server@{instance}.service.d"
        drop_in.mkdir(parents=True)
        (drop_in / "gateway.conf").touch()
        servers.mkdir(exist_ok=True)
        (servers / f"{instance}.conf").touch()
        (machine.folder / "openvpn" / instance.removeprefix("gateway-")).mkdir(parents=True)
    (machine.folder / "openvpn/office").rmdir()
    (servers / "gateway-notes.txt").touch()
    for verb in ("stop", "disable"):
        machine.functions[f"service.{verb}"] = lambda unit, verb=verb: machine.calls.append(
            (verb, unit)
        )
    return SimpleNamespace(
        call=("openvpn_servers_only", str(servers), "openvpn-server@"),
        servers=lambda: sorted(os.listdir(servers)),
        units=units,
    )


def test_openvpn_servers_that_left_the_pillar(machine, openvpn):
    changes = converges(machine, *openvpn.call, ["gateway-main", "gateway-new"])
    assert changes == {"gateway-old": "removed"}
    unit = "openvpn-server@gateway-old"
    assert machine.calls == [("stop", unit), ("disable", unit)]
    assert openvpn.servers() == ["gateway-main.conf", "gateway-notes.txt", "office.conf"]
    assert not (openvpn.units / f"{unit}.service.d").exists()
    assert (openvpn.units / "openvpn-server@office.service.d/gateway.conf").exists()
    assert (openvpn.units / "openvpn-server@gateway-main.service.d/gateway.conf").exists()
    assert os.listdir(machine.folder / "openvpn") == ["main"]


@pytest.mark.parametrize("number", range(1, 7))
def test_openvpn_server_that_was_being_removed(machine, openvpn, module, monkeypatch, number):
    """By a run that was killed: the next one sees that, and nothing is left."""
    (machine.folder / "openvpn/old/alice").touch()
    with monkeypatch.context() as patch:
        killed_at(patch, module.os, "remove" if number % 2 else "rmdir", (number + 1) // 2)
        with contextlib.suppress(Killed):
            machine.run(*openvpn.call, ["gateway-main"])
    machine.run(*openvpn.call, ["gateway-main"])
    assert openvpn.servers() == ["gateway-main.conf", "gateway-notes.txt", "office.conf"]
    assert not (openvpn.units / "openvpn-server@gateway-old.service.d").exists()
    assert os.listdir(machine.folder / "openvpn") == ["main"]


def test_copies_of_keys_by_salt(machine, openvpn):
    """Of backup_mode, and of a run that was killed before it renamed the new file."""
    servers = Path(openvpn.call[1])
    machine.opts["cachedir"] = str(machine.folder / "cache")
    backups = Path(f"{machine.folder}/cache/file_backup{servers}")
    backups.mkdir(parents=True)
    mine = [backups / "office.conf_Thu_Nov_26_2026", servers / "gateway-main.conf.by-hand"]
    theirs = [backups / "gateway-main.conf_Thu_Nov_26_2026", servers / "gateway-main.confab1_x9yz"]
    for path in (*mine, *theirs):
        path.touch()
    changes = converges(machine, *openvpn.call, ["gateway-main", "gateway-old"])
    assert changes == dict.fromkeys(map(str, theirs), "removed")
    assert all(path.exists() for path in mine)


@pytest.mark.parametrize("other", [False, True])
def test_a_drop_in_goes_with_its_folder(machine, other):
    folder = machine.folder / "etc/systemd/system/x.service.d"
    folder.mkdir(parents=True)
    path = folder / "gateway.conf"
    path.touch()
    if other:
        (folder / "admin.conf").touch()
    changes = converges(machine, "drop_in_gone", str(path))
    assert set(changes) == {str(path)} | (set() if other else {str(folder)})
    assert folder.exists() is other
    if not other:
        folder.mkdir()  # a run was killed in between
        assert converges(machine, "drop_in_gone", str(path)) == {str(folder): "removed"}


def test_openvpn_leaves_the_drop_ins_of_others(machine, openvpn):
    other = openvpn.units / "openvpn-server@gateway-old.service.d/admin.conf"
    other.touch()
    converges(machine, *openvpn.call, ["gateway-main"])
    assert os.listdir(other.parent) == ["admin.conf"]


def test_openvpn_that_is_not_installed(machine):
    name = str(machine.folder / "nowhere")
    assert machine.run("openvpn_servers_only", name, "openvpn-server@", [])["changes"] == {}


def test_openvpn_that_does_not_stop(machine, openvpn):
    def refuse(unit):
        raise CommandExecutionError(f"{unit} hangs")

    machine.functions["service.stop"] = refuse
    ret = machine.run(*openvpn.call, [])
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "openvpn-server@gateway-main hangs" in ret["comment"]
    assert "gateway-main.conf" in openvpn.servers()


# --------------------------------------------------------------------------------------------------
# VPN clients

ALICE = "# ours\nifconfig-push 10.8.0.5 255.255.255.0\n"
BOB = "# ours\ndisable\nifconfig-push 10.8.0.6 255.255.255.0\n"
NOW = datetime.now(timezone.utc)


@pytest.fixture
def templates(machine):
    """What the templates of the clients and of PEM text render to."""
    templates = SimpleNamespace(clients={"alice": ALICE, "bob": BOB}, pem={})

    def get_template(source, destination, template, saltenv, **context):
        if source == "salt://pem":
            text = templates.pem[context["material"]]
        else:
            assert context == {"server_name": "main"}
            text = "# comment\n" + "".join(f"## {k}\n{v}" for k, v in templates.clients.items())
        Path(destination).write_text(text)
        return destination

    machine.functions["cp.get_template"] = get_template
    return templates


@pytest.fixture
def clients(machine, templates):
    folder = machine.folder / "openvpn/main"
    return SimpleNamespace(
        call=("openvpn_clients", str(folder), "salt://clients", {"server_name": "main"}),
        folder=folder,
        templates=templates,
    )


def test_clients_come_change_and_go(machine, clients):
    added = converges(machine, *clients.call)
    made = dict.fromkeys(map(str, (clients.folder, clients.folder.parent)), "made")
    assert added == {"alice": "added", "bob": "added", **made}
    assert (clients.folder / "alice").read_text() == ALICE
    for path in (clients.folder.parent, clients.folder):
        assert path.stat().st_mode & 0o777 == 0o755
    assert (clients.folder / "bob").stat().st_mode & 0o777 == 0o644
    kept = (clients.folder / "alice").stat().st_ino
    clients.templates.clients = {"alice": ALICE, "carol": ALICE, "bob": ALICE}
    assert converges(machine, *clients.call) == {"bob": "changed", "carol": "added"}
    clients.templates.clients = {"alice": ALICE}
    (clients.folder / "stale.new").touch()
    removed = dict.fromkeys(("bob", "carol", "stale.new"), "removed")
    assert converges(machine, *clients.call) == removed
    assert (clients.folder / "alice").stat().st_ino == kept
    clients.templates.clients = {}
    assert converges(machine, *clients.call) == {"alice": "removed"}
    clients.templates.clients = {"alice": ALICE, "alice.new": BOB}
    assert set(converges(machine, *clients.call).values()) == {"added"}


def test_no_clients_are_an_empty_folder(machine, clients):
    clients.templates.clients = {}
    assert set(converges(machine, *clients.call).values()) == {"made"}
    assert os.listdir(clients.folder) == []


@pytest.mark.usefixtures("umask")
def test_clients_can_be_read_by_openvpn_without_privileges(machine, clients):
    """It takes a file that it cannot read for none, and would let in who is disabled."""
    machine.run(*clients.call)
    paths = [clients.folder.parent, clients.folder, clients.folder / "bob"]
    assert list(map(mode, paths)) == [0o755, 0o755, 0o644]
    for path in paths:
        expected = mode(path)
        path.chmod(0o600)
        name = "bob" if path.name == "bob" else str(path)
        wrong = {"mode": {"old": "0600", "new": f"{expected:04o}"}}
        assert converges(machine, *clients.call) == {name: wrong}
        assert mode(path) == expected


def test_clients_are_rendered_once_in_a_run(machine, module, clients):
    """Two states ask for them, and Jinja is most of what they cost."""
    real, asked = machine.functions["cp.get_template"], []

    def get_template(*arguments, **context):
        asked.append(context)
        return real(*arguments, **context)

    machine.functions["cp.get_template"] = get_template
    for _ in range(2):
        for _ in range(2):
            assert module.openvpn_clients(*clients.call[1:])["result"]
        machine.context.clear()
    assert len(asked) == 2


def test_clients_that_cannot_be_rendered(machine, clients):
    machine.functions["cp.get_template"] = lambda *_, **__: ""
    assert machine.run(*clients.call)["result"] is False


@pytest.fixture(scope="module")
def authority():
    """A CA that signs revocation lists, and its certificate."""

    def make(name="CA"):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        dates = {"not_valid_before": NOW - timedelta(9), "not_valid_after": NOW + timedelta(9)}
        builder = x509.CertificateBuilder(
            subject,
            subject,
            key.public_key(),
            1,
            dates["not_valid_before"],
            dates["not_valid_after"],
        )
        certificate = builder.sign(key, hashes.SHA256())

        def revoke(*serials, days=5, begin=-8):
            crl = x509.CertificateRevocationListBuilder(
                subject, NOW + timedelta(begin), NOW + timedelta(days)
            )
            for serial in serials:
                entry = x509.RevokedCertificateBuilder(serial, NOW - timedelta(1))
                crl = crl.add_revoked_certificate(entry.build())
            made = crl.sign(key, hashes.SHA256())
            return made.public_bytes(serialization.Encoding.PEM).decode()

        pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        return SimpleNamespace(pem=pem, revoke=revoke)

    return make


def test_revocation_list(machine, templates, authority):
    ca, name = authority(), str(machine.folder / "crl.pem")
    # Two certificates of the CA: the list is of the second.
    templates.pem = {"ca": authority().pem + ca.pem, "crl": ca.revoke(7)}
    changes = converges(machine, "openvpn_crl", name, "salt://pem")
    assert changes == {"revocation list": "written"}
    Path(name).chmod(0o600)
    wrong = {"mode": {"old": "0600", "new": "0644"}}
    assert converges(machine, "openvpn_crl", name, "salt://pem") == {"revocation list": wrong}
    assert mode(name) == 0o644
    templates.pem["crl"] = ca.revoke(7, 8)
    assert converges(machine, "openvpn_crl", name, "salt://pem") == changes
    (machine.folder / "ca.crt").write_text(ca.pem)
    del templates.pem["ca"]
    path = str(machine.folder / "ca.crt")
    assert machine.run("openvpn_crl", name, "salt://pem", ca=path)["result"] is True


def test_revocation_list_at_a_path_that_openvpn_cannot_read(machine, templates, authority):
    """It is copied to where user nobody can, and checked as any other."""
    ca, name, path = authority(), machine.folder / "crl.pem", machine.folder / "root/list.pem"
    path.parent.mkdir(0o700)
    path.write_text(ca.revoke(7))
    path.chmod(0o600)
    templates.pem = {"ca": ca.pem}
    call = ("openvpn_crl", str(name), "salt://pem", str(path))
    assert converges(machine, *call) == {"revocation list": "written"}
    assert name.read_text() == path.read_text()
    assert name.stat().st_mode & 0o777 == 0o644
    path.write_text(ca.revoke(7, days=-1))
    ret = machine.run(*call)
    assert (ret["result"], ret["changes"]) == (False, {})
    path.unlink()
    ret = machine.run(*call)
    assert (ret["result"], ret["comment"]) == (False, f"{path} is not there")
    assert "X509 CRL" in name.read_text()


@pytest.mark.parametrize("wrong", [None, "expired", "not valid yet", "not its CA's", "cut off"])
def test_every_list_of_every_ca_is_checked(machine, templates, authority, wrong):
    """OpenVPN reads them all, each for its own CA."""
    one, two, name = authority("one"), authority("two"), str(machine.folder / "crl.pem")
    second = {
        None: two.revoke(8),
        "expired": two.revoke(8, days=-1),
        "not valid yet": two.revoke(8, begin=1),
        "not its CA's": authority("two").revoke(8),
        "cut off": two.revoke(8)[:-30],
    }[wrong]
    templates.pem = {"ca": one.pem + two.pem, "crl": one.revoke(7) + second}
    assert machine.run("openvpn_crl", name, "salt://pem")["result"] is (wrong is None)


def test_revocation_list_without_what_reads_it(machine, module, templates, authority, monkeypatch):
    """Over salt-ssh, with a Python of the node's that has no cryptography, or an old one."""
    ca, name = authority(), machine.folder / "crl.pem"
    templates.pem = {"ca": ca.pem, "crl": ca.revoke(7)}
    for found in (None, SimpleNamespace(CertificateRevocationList=object)):
        monkeypatch.setattr(module, "x509", found)
        ret = machine.run("openvpn_crl", str(name), "salt://pem")
        assert ret["result"] is False
        assert "takes Python's cryptography, 42 or newer" in ret["comment"]
    assert not name.exists()


@pytest.mark.parametrize("test", [False, True])
@pytest.mark.parametrize(
    "wrong", ["expired", "not valid yet", "another CA's", "no list", "empty", "no CA", "broken CA"]
)
def test_revocation_list_that_would_lock_everybody_out(machine, templates, authority, wrong, test):
    ca, name = authority(), machine.folder / "crl.pem"
    name.write_text("old")
    crl, message = {
        "expired": (ca.revoke(7, days=-1), "out of date since"),
        "not valid yet": (
            ca.revoke(7, begin=1),
            "one of the two is wrong, that clock or the clock",
        ),
        "empty": ("", "no revocation"),
        "another CA's": (authority().revoke(7), "is not of the CA"),
        "no list": ("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "no revocation"),
        "no CA": (ca.revoke(7), "is not there"),
        "broken CA": (ca.revoke(7), ""),
    }[wrong]
    templates.pem = {"ca": "x" if wrong == "broken CA" else ca.pem, "crl": crl}
    path = str(machine.folder / "nowhere") if wrong == "no CA" else None
    ret = machine.run("openvpn_crl", str(name), "salt://pem", ca=path, test=test)
    assert ret["result"] is False
    assert message in ret["comment"]
    assert name.read_text() == "old"


HEADER = (
    "HEADER\tCLIENT_LIST\tCommon Name\tReal Address\tVirtual Address\tVirtual IPv6 Address\t"
    "Bytes Received\tBytes Sent\tConnected Since\tConnected Since (time_t)\tUsername\tClient ID\t"
    "Peer ID\tData Channel Cipher"
)


@pytest.fixture
def server(machine, monkeypatch, module, templates, authority):
    """A running OpenVPN server as its management socket shows it, with three clients."""
    server = SimpleNamespace(
        sessions={"0": ("alice", "10.8.0.5"), "1": ("carol", "10.8.0.200"), "2": ("UNDEF", "")},
        asked=[],
        stubborn=set(),
        nonsense=None,
        ca=authority(),
    )
    monkeypatch.setattr(module, "OPENVPN_GRACE", 0)
    # A path that is short enough for a socket.
    monkeypatch.chdir(machine.folder)
    notes = machine.folder / "notes"
    notes.mkdir()
    (notes / "10.8.0.5").write_text("7 alice\n")
    (notes / "10.8.0.200").write_text("8 carol\n")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("socket")
    listener.listen()

    def answer(command):
        if command == "status 3":
            rows = [
                f"CLIENT_LIST\t{name}\t192.0.2.1:{number}\t{address}\t\t1\t1\tx\t1\tUNDEF\t{number}\t0\tx"
                for number, (name, address) in server.sessions.items()
            ]
            return ["TITLE\tx", HEADER, ">CLIENT:ADDRESS,1", *rows, "GLOBAL_STATS\tx\t0", "END"]
        server.asked.append(command)
        number = re.findall(r"\d+", command)[-1]
        if command.startswith("kill") or number not in server.stubborn:
            server.sessions.pop(number)
        return ["SUCCESS: done"]

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rw") as lines:
                lines.write(">INFO:hello\n")
                lines.flush()
                for line in lines:
                    if server.nonsense is not None:
                        talk(connection)
                        return
                    lines.write("".join(f"{row}\r\n" for row in answer(line.strip())))
                    lines.flush()

    def talk(connection):
        with suppress(OSError):
            for text in server.nonsense:
                connection.sendall(text.encode())
                time.sleep(0.05)
            connection.recv(1)

    threading.Thread(target=serve, daemon=True).start()
    server.call = ("openvpn_sessions", "socket", "salt://clients", {"server_name": "main"})
    server.call += (str(notes),)
    server.templates = templates
    server.revoke = lambda *serials: templates.pem.update(crl=server.ca.revoke(*serials))
    server.crl = {"source": "salt://pem"}
    server.notes = notes
    yield server
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_sessions_that_are_all_right(machine, server):
    server.revoke(1, 2, 3)
    crls: tuple[Any, ...] = (None, {}, server.crl)
    for crl in crls:
        assert machine.run(*server.call, crl=crl)["changes"] == {}
    assert server.asked == []


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("why", ["disabled", "revoked", "not in gateway:vpn:clients", "moved"])
def test_sessions_of_who_is_refused(machine, server, why, stubborn):
    """They are asked to leave; who stays is cut off; nobody else is even asked."""
    options = {}
    session, number = "alice 10.8.0.5", "0"
    if why == "disabled":
        server.templates.clients["alice"] += "disable\n"
    elif why == "revoked":
        server.revoke(7, 99)
        options["crl"] = server.crl
    elif why == "moved":
        server.templates.clients = {"bob": ALICE}
        why = "its address is bob's now"
    else:
        options["dynamic"] = False
        session, number = "carol 10.8.0.200", "1"
    if stubborn:
        server.stubborn.add(number)
    assert converges(machine, *server.call, **options) == {session: why}
    ways = [f"client-kill {number}", f"kill 192.0.2.1:{number}"]
    assert server.asked == ways[: 1 + stubborn]


def test_a_name_that_a_file_cannot_have(machine, server):
    """OpenVPN calls the file otherwise."""
    server.sessions = {"0": ("ou/John Doe", "10.8.0.5")}
    server.templates.clients = {"ou_John Doe": "disable\n"}
    assert converges(machine, *server.call) == {"ou/John Doe 10.8.0.5": "disabled"}


def test_an_address_that_is_the_beginning_of_another(machine, server):
    """10.8.0.5 is not 10.8.0.50, and not the end of 110.8.0.5."""
    server.templates.clients["bob"] = ALICE.replace("10.8.0.5 ", "10.8.0.50 ")
    server.templates.clients["eve"] = ALICE.replace("10.8.0.5 ", "110.8.0.5 ")
    assert "10.8.0.50 " in server.templates.clients["bob"]
    assert machine.run(*server.call)["changes"] == {}


def test_a_revoked_client_where_only_those_with_an_entry_get_in(machine, server):
    server.templates.clients["carol"] = ALICE.replace("10.8.0.5 ", "10.8.0.200 ")
    server.revoke(8)
    changes = machine.run(*server.call, dynamic=False, crl=server.crl)["changes"]
    assert changes == {"carol 10.8.0.200": "revoked"}


def test_a_note_of_somebody_else_is_no_proof(machine, server):
    """What is left of an earlier client with this address says nothing of this one."""
    server.revoke(6)
    (server.notes / "10.8.0.5").write_text("6 zoe\n")
    assert machine.run(*server.call, crl=server.crl)["changes"] == {}


def test_a_note_is_small_and_a_file(machine, server):
    """OpenVPN, which has no privileges, can put anything there: it is not followed, waited for, or
    read to its end."""
    server.revoke(7)
    note = server.notes / "10.8.0.5"
    for text, known in {
        "7 alice": True,
        f"7 alice\n{4089 * ' '}": False,
        "\u00b2 alice": False,
    }.items():
        note.write_text(text)
        changes = machine.run(*server.call, crl=server.crl)["changes"]
        assert changes == ({"alice 10.8.0.5": "revoked"} if known else {})
        server.sessions["0"] = ("alice", "10.8.0.5")
    (server.notes / "elsewhere").write_text("7 alice")
    (machine.folder / "outside").write_text("7 alice")
    os.symlink("elsewhere", server.notes / "10.8.0.7")
    os.mkfifo(server.notes / "10.8.0.8")
    for address in ("10.8.0.7", "10.8.0.8", "10.8.0.9", "../outside", ".."):
        server.sessions["0"] = ("alice", address)
        assert machine.run(*server.call, crl=server.crl)["changes"] == {}


@pytest.mark.parametrize("says", ["endless", "slow", "nothing", "nonsense"])
def test_an_answer_of_openvpn_has_its_bounds(machine, module, server, monkeypatch, says):
    """Whoever has taken it over shall not keep an apply from its end."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 30 if says == "endless" else 0.5)
    monkeypatch.setattr(module, "ANSWER_SIZE", 100_000)
    server.nonsense = {
        "endless": itertools.repeat(20_000 * "x"),
        "slow": itertools.repeat("x\n"),
        "nothing": [],
        "nonsense": ["HEADER\tCLIENT_LIST\tx\nCLIENT_LIST\ty\nEND\n"],
    }[says]
    begin = time.monotonic()
    assert machine.run(*server.call)["result"] is False
    assert time.monotonic() - begin < 3


def test_sessions_and_a_list_on_the_node(machine, server):
    path = machine.folder / "crl.pem"
    path.write_text(server.ca.revoke(8))
    changes = machine.run(*server.call, crl={"path": str(path)})["changes"]
    assert changes == {"carol 10.8.0.200": "revoked"}
    path.unlink()
    assert machine.run(*server.call, crl={"path": str(path)})["result"] is False


def test_sessions_and_the_lists_of_two_cas(machine, server, authority):
    path = machine.folder / "crl.pem"
    path.write_text(server.ca.revoke(6) + authority("other").revoke(8))
    changes = machine.run(*server.call, crl={"path": str(path)})["changes"]
    assert changes == {"carol 10.8.0.200": "revoked"}


def test_sessions_of_a_server_that_does_not_run(machine, server):
    os.rename("socket", "elsewhere")
    assert machine.run(*server.call)["changes"] == {}
    Path("socket").touch()
    ret = machine.run(*server.call)
    assert ret["result"] is False
    os.remove("socket")
