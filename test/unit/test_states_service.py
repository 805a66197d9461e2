"""Units of a systemd that is played: the states of _states/gateway_service.py."""

import os
import shutil
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="module")
def module(load):
    return load("_states/gateway_service.py")


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
        failed=set(),
        starting=set(),
        clock=1000.0,
    )
    conf, hosts = machine.folder / "conf", machine.folder / "hosts"
    drop_in = machine.folder / "etc/systemd/system/app.service"
    drop_in.parent.mkdir(parents=True)
    monkeypatch.setattr(module.time, "time", lambda: unit.clock)
    monkeypatch.setattr(module.time, "monotonic", lambda: unit.clock - 900)

    def show(name):
        since = unit.since.get(name, 0)
        off = "failed" if name in unit.failed else "inactive"
        return (
            f"ActiveState={'active' if name in unit.active else off}\n"
            f"DropInPaths={' '.join(unit.drop_ins)}\n"
            f"NeedDaemonReload={'yes' if name in unit.unread else 'no'}\n"
            f"StateChangeTimestampMonotonic={int(since * 1e6)}\n"
            f"SubState={'start-pre' if name in unit.starting else 'dead'}\n"
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
        elif verb == "reset-failed":
            unit.failed.remove(*names)
        else:
            assert verb in ("start", "try-restart", "reload", "stop")
            assert verb == "start" or names[0] in unit.active
            unit.load(*names)
            if verb == "stop" or names[0] in unit.broken:
                unit.active.discard(names[0])
            if verb == "stop" and names[0] in unit.broken:
                unit.failed.add(names[0])
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
    changes = machine.converges("running", "app", **unit.call)
    assert changes == {"enabled": True, "started": True}
    assert machine.calls == ["daemon-reload", "enable app", "start app"]


def test_a_unit_that_does_not_start(machine, unit):
    unit.broken.add("app")
    ret = machine.run("running", "app", **unit.call)
    assert (ret["result"], ret["changes"]) == (False, {})
    assert "journalctl -u app" in ret["comment"]


RESTART, RELOAD = ["try-restart app"], ["reload app"]
CHANGED = [("conf", RESTART), ("hosts", RELOAD), ("drop_in", RESTART), ("both", RESTART)]


@pytest.mark.parametrize(("what", "expected"), CHANGED)
def test_a_unit_takes_what_a_run_wrote_that_was_killed(machine, unit, what, expected):
    """Nothing of it is this run's change."""
    machine.run("running", "app", **unit.call)
    machine.calls.clear()
    for path in (unit.conf, unit.hosts) if what == "both" else [getattr(unit, what)]:
        unit.write(path, "2")
    if what == "drop_in":
        expected = ["daemon-reload", *expected]
    machine.converges("running", "app", **unit.call)
    assert machine.calls == expected


@pytest.mark.parametrize(("what", "expected"), CHANGED[:3])
@pytest.mark.parametrize("how", ["boot", "by hand"])
def test_a_unit_that_somebody_else_has_started(machine, unit, what, expected, how):
    """It has read what was there; what a killed run wrote after that it has not."""
    machine.run("running", "app", **unit.call)
    machine.calls.clear()
    if how == "boot":
        shutil.rmtree(machine.read)
    for path in (unit.conf, unit.hosts, unit.drop_in):
        unit.write(path, "2")
    unit.load("app")
    assert machine.run("running", "app", **unit.call)["changes"] == {}
    if how == "boot":
        shutil.rmtree(machine.read)
    unit.load("app")
    unit.write(getattr(unit, what), "3")
    machine.converges("running", "app", **unit.call)
    assert machine.calls == (["daemon-reload"] if what == "drop_in" else []) + expected


def test_a_unit_that_is_about_to_start(machine, unit):
    """What it has to do before may take a second."""
    machine.converges("running", "app", **unit.call)
    machine.calls.clear()
    unit.active.discard("app")
    unit.starting.add("app")
    assert machine.run("running", "app", **unit.call)["changes"] == {}
    assert machine.calls == []


def test_a_unit_goes_on_where_nothing_has_changed(machine, unit):
    """After an upgrade from a formula without notes, a boot, a chmod, and a new list of files."""
    unit.enabled.add("app")
    unit.load("app")
    assert machine.run("running", "app", **unit.call)["changes"] == {}
    unit.conf.chmod(0o600)
    more = unit.call | {"reads": [*unit.reads, str(unit.hosts)]}
    assert machine.run("running", "app", **more)["changes"] == {}
    os.utime(unit.conf, (unit.clock + 9, unit.clock + 9))
    assert machine.run("running", "app", **more)["changes"] == {}


def test_a_unit_and_the_files_of_this_run(machine, unit):
    """Also in test mode, where they are as they were; their modes are none of its business."""
    machine.run("running", "app", **unit.call)
    machine.calls.clear()
    access = {"mode": "0644", "user": "root", "group": "root", "folders": {"/": "made"}}
    machine.running["hosts"] = {"name": str(unit.hosts), "changes": access}
    machine.running["conf"] = {"name": str(unit.conf), "changes": {}}
    assert machine.run("running", "app", **unit.call)["changes"] == {}
    machine.running["hosts"]["changes"]["diff"] = "x"
    for test in (True, False):
        changes = machine.run("running", "app", test=test, **unit.call)["changes"]
        assert changes == {"reloaded": [str(unit.hosts)]}
    assert machine.calls == RELOAD


def test_a_folder_of_drop_ins_that_is_new(machine, unit):
    """systemd says that a file has changed, but not that there is a folder of them."""
    drop_in = machine.folder / "etc/systemd/system/app.service.d/gateway.conf"
    drop_in.parent.mkdir()
    call = unit.call | {"reads": [*unit.reads, str(drop_in)]}
    machine.run("running", "app", **call)
    machine.calls.clear()
    unit.write(drop_in, "1")
    os.utime(drop_in, (1, 1))
    shutil.rmtree(machine.read)
    changes = machine.converges("running", "app", **call)
    assert changes == {"restarted": [str(drop_in)], "systemd": "reads its units again"}
    assert machine.calls == ["daemon-reload", *RESTART]


def test_units_that_systemd_has_to_know(machine, unit):
    machine.run("running", "app", **unit.call)
    machine.calls.clear()
    unit.unread.add("other.service")
    changes = machine.converges("running", "app", **unit.call, units=["other.service"])
    assert changes == {"systemd": "reads its units again"}
    assert machine.calls == ["daemon-reload"]
    path = str(machine.folder / "etc/systemd/system/other.service")
    machine.running["other"] = {"name": path, "changes": {"removed": path}}
    for test in (True, False):
        ret = machine.run("running", "app", test=test, **unit.call, units=["other.service"])
        assert ret["changes"] == changes


def test_a_unit_that_runs_with_a_target_only(machine, unit):
    call = unit.call | {"target": "my.target"}
    assert machine.converges("running", "app", **call) == {"enabled": True}
    unit.load("my.target")
    assert machine.converges("running", "app", **call) == {"started": True}
    unit.active -= {"my.target", "app"}
    unit.write(unit.conf, "2")
    assert machine.run("running", "app", **call)["changes"] == {}


def test_a_target_that_goes_while_its_unit_is_started(machine, unit):
    unit.load("my.target")
    real = machine.functions["cmd.run_all"]

    def run_all(command, **keywords):
        if command[1] == "start":
            unit.active.discard("my.target")
        return real(command, **keywords)

    machine.functions["cmd.run_all"] = run_all
    machine.run("running", "app", target="my.target", **unit.call)
    assert "app" not in unit.active


def test_a_unit_that_is_only_told(machine, unit):
    """It is the distribution's, and may be off."""
    call = unit.call | {"enable": None, "start": False}
    assert machine.run("running", "app", **call)["changes"] == {}
    unit.load("app")
    unit.write(unit.conf, "2")
    assert machine.converges("running", "app", **call) == {"restarted": [str(unit.conf)]}
    assert machine.calls == RESTART
    assert not (machine.read / "app.json").exists()


def test_notes_that_cannot_be_read(machine, unit):
    machine.read.joinpath("app.json").write_text("{")
    assert machine.run("running", "app", **unit.call)["result"] is False


@pytest.mark.parametrize("was", [{"stopped"}, {"disabled"}, {"stopped", "disabled"}])
def test_a_unit_that_is_off(machine, unit, was):
    if "stopped" in was:
        unit.load("app")
    if "disabled" in was:
        unit.enabled.add("app")
    assert machine.converges("off", "app") == dict.fromkeys(was, True)
    assert not unit.active & {"app"}
    assert not unit.enabled


@pytest.mark.parametrize(
    ("was", "change"), [("failed", "failure forgotten"), ("active", "stopped")]
)
def test_a_unit_that_is_off_has_not_failed(machine, unit, was, change):
    """It had before, or it does because it is stopped at its work."""
    unit.broken.add("app")
    if was == "active":
        unit.load("app")
    else:
        unit.failed.add("app")
    assert machine.converges("off", "app") == {change: True}
    assert not unit.failed


def test_a_unit_that_may_be_somebody_elses(machine, unit):
    """It is not touched without the file that makes it ours."""
    unit.load("app")
    unit.enabled.add("app")
    ours = machine.folder / "ours"
    assert machine.run("off", "app", ours=str(ours))["changes"] == {}
    ours.touch()
    changes = machine.converges("off", "app", ours=str(ours))
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
    for fun, name, keywords in (("running", "app", more), ("off", "other", {})):
        machine.low.append({"state": "gateway_service", "fun": fun, "name": name, **keywords})
    machine.low.append({"state": "gateway", "fun": "file", "name": "/etc/file"})
    machine.low.append({"state": "service", "fun": "running", "name": "somebody's"})
    return asked


def test_systemd_is_asked_once_while_nothing_changes(machine, module, unit, asked):
    machine.opts["test"] = False
    machine.running["file"] = {"name": "/etc/file", "changes": {}, "result": True}
    assert not module.running("app", units=["app.socket"], target="other.target")["changes"]
    assert not module.off("other")["changes"]
    assert asked == [["app", "app.socket", "other", "other.target"]]
    assert not module.off("unheard-of")["changes"]
    assert asked[1:] == [["app", "app.socket", "other", "other.target", "unheard-of"]]


@pytest.mark.parametrize(
    "ret", [{"changes": {"x": 1}, "result": True}, {"changes": {}, "result": False}]
)
def test_what_systemd_said_does_not_count_after_a_change(machine, module, unit, asked, ret):
    machine.opts["test"] = False
    assert not module.off("other")["changes"]
    unit.load("other")
    machine.running["file"] = {"name": "/etc/file", **ret}
    assert module.off("other")["changes"] == {"stopped": True}
    assert "other" not in unit.active


def test_a_unit_cannot_be_off_without_systemd(machine):
    machine.functions["cmd.run_all"] = lambda *_, **__: {
        "retcode": 1,
        "stdout": "",
        "stderr": "System has not been booted with systemd",
    }
    ret = machine.run("off", "app")
    assert ret["result"] is False
    assert "not been booted" in ret["comment"]
