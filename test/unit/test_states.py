"""Files and folders: the states of _states/gateway.py."""

import functools
import inspect
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="module")
def module(load):
    return load("_states/gateway.py")


STATES = [
    "gateway",
    *(f"gateway_{name}" for name in ("firewall", "network", "openvpn", "service")),
]


def test_every_state_is_documented_and_takes_a_name(load):
    functions = [
        value
        for module in (load(f"_states/{name}.py") for name in STATES)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and name[0] != "_"
    ]
    assert len(functions) == 22
    for function in functions:
        assert inspect.getdoc(function), function
        assert next(iter(inspect.signature(function).parameters)) == "name"


@pytest.mark.parametrize("name", STATES)
def test_a_new_library_is_taken_up(load, monkeypatch, tmp_path, name):
    """A minion that runs on after an upgrade of the formula must not go on with the old one."""
    library = tmp_path / "_gateway_state.py"
    written = "import os\nWRITTEN = os.stat(__file__).st_mtime_ns\n"
    library.write_text(f"{written}VERSION = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "_gateway_state")
    first = load(f"_states/{name}.py").state
    assert first.VERSION == 1
    first.KEPT = True
    # What is the same is not read again.
    assert load(f"_states/{name}.py").state.KEPT
    library.write_text(f"{written}VERSION = 'two'\n")
    assert load(f"_states/{name}.py").state.VERSION == "two"


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
# Files and services


@pytest.fixture
def checked(machine, module, tmp_path, monkeypatch):
    """``checked_file`` with a file.managed that says ``answer``, and a checker that says no."""
    isolated = tmp_path / "isolated"
    isolated.write_text("")
    isolated.chmod(0o755)
    monkeypatch.setattr(module.state, "ISOLATED", str(isolated))
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
    assert machine.converges("original_kept", str(conf)) == {str(kept): "written"}
    assert kept.stat().st_mode == conf.stat().st_mode
    conf.write_text("ours\n")
    assert machine.run("original_kept", str(conf))["changes"] == {}
    assert machine.converges("original_restored", str(conf)) == {str(conf): "restored"}
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
    changes = machine.converges("original_restored", str(conf), or_none=True)
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
        raise machine.Killed

    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "copy2", copy)
        with pytest.raises(machine.Killed):
            machine.run("original_kept", str(conf))
    machine.converges("original_kept", str(conf))
    assert conf.with_name("chrony.conf.before-gateway").read_text() == conf.read_text()
    assert len(os.listdir(machine.folder)) == 2


# --------------------------------------------------------------------------------------------------
# Owners and modes


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
    changes = machine.converges("file", str(managed), contents="x")
    assert changes == {"diff": "x", "folders": ours}
    assert machine.mode(managed) == 0o644
    assert [machine.mode(folder) for folder in list(managed.parents)[:3]] == [0o755, 0o755, 0o700]
    assert machine.options == {}
    managed.parent.chmod(0o750)
    managed.chmod(0o600)
    changes = machine.converges("file", str(managed), contents="x")
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
        machine.converges("file", str(file), contents="x")
        assert machine.mode(file.parent) == expected, path


def test_somebody_elses_files_become_roots(machine, managed, module, monkeypatch):
    managed.parent.mkdir(parents=True)
    changed = []
    monkeypatch.setattr(module.state, "OWNER", (os.getuid() + 1, os.getgid()))
    monkeypatch.setattr(module.os, "chown", lambda *call: changed.append(call))
    changes = machine.run("file", str(managed), contents="x")["changes"]
    owner = {"user": {"old": os.getuid(), "new": os.getuid() + 1}}
    assert changes["folders"][str(managed.parent)] == owner
    assert (str(managed.parent), os.getuid() + 1, os.getgid()) in changed


def test_files_are_roots(load):
    """Tests have an owner of their own, who need not be root."""
    assert load("_states/gateway.py").state.OWNER == (0, 0)


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
        return f"{machine.mode(path):04o}"

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
        assert machine.mode(rendered.file) == 0o644
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
    changes = machine.converges("folder", str(folder))
    assert changes == {str(folder.parent): "made", str(folder): "made"}
    folder.chmod(0o777)
    assert set(machine.converges("folder", str(folder))) == {str(folder)}
    assert machine.mode(folder) == machine.mode(folder.parent) == 0o755


def test_a_folder_that_goes_leaves_what_is_the_users(machine):
    folder = machine.folder / "gone"
    for path in ("follow.d/10-mine", "health.d", "openvpn/main", "routes"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    (folder / "health.d").unlink()
    (folder / "health.d").mkdir()
    keep = ["follow.d", "health.d"]
    changes = machine.converges("folder_gone", str(folder), keep=keep)
    assert sorted(changes) == [f"{folder}/{name}" for name in ("health.d", "openvpn", "routes")]
    assert os.listdir(folder) == ["follow.d"]
    (folder / "follow.d/10-mine").unlink()
    assert machine.converges("folder_gone", str(folder), keep=keep) == {str(folder): "removed"}
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
    assert list(machine.converges(*arguments, older=older)) == [*gone, older[0]]
    assert os.listdir(folder) == ["firewall"]
    assert (machine.folder / "other").exists()
    shutil.rmtree(folder)
    assert machine.run(*arguments)["changes"] == {}


@pytest.mark.parametrize("other", [False, True])
def test_a_drop_in_goes_with_its_folder(machine, other):
    folder = machine.folder / "etc/systemd/system/x.service.d"
    folder.mkdir(parents=True)
    path = folder / "gateway.conf"
    path.touch()
    if other:
        (folder / "admin.conf").touch()
    changes = machine.converges("drop_in_gone", str(path))
    assert set(changes) == {str(path)} | (set() if other else {str(folder)})
    assert folder.exists() is other
    if not other:
        folder.mkdir()  # a run was killed in between
        assert machine.converges("drop_in_gone", str(path)) == {str(folder): "removed"}
