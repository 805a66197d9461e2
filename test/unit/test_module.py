"""The execution module: pillar, plan, what is wrong with it."""

import gc
import json
import shutil
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import _gateway_plan
import pytest
from on_node import PRIVATE_KEY, SECRET_TEXT, lose_route
from salt.exceptions import CommandExecutionError, SaltInvocationError, SaltReqTimeoutError

# --------------------------------------------------------------------------------------------------
# What is planned


def test_a_good_pillar(module, node):
    assert module.validate() == []


def test_plan_of_this_node_and_of_another(module, node, edit_here):
    site, _ = _gateway_plan.read(edit_here({}))
    assert site
    assert module.plan() == _gateway_plan.plan(site, "gw1")
    assert module.plan(node="gw2") == _gateway_plan.plan(site, "gw2")


def test_every_node_says_the_same_digest(module, node):
    digest = module.digest()
    node.id = "gw2"
    assert module.digest() == digest == module.plan()["digest"]


def test_the_pillar_is_read_once_for_each_pillar(module, node, break_pillar, monkeypatch):
    calls = []

    def counted(name):
        real = getattr(_gateway_plan, name)

        def call(*arguments):
            calls.append((name, *arguments[1:]))
            return real(*arguments)

        monkeypatch.setattr(_gateway_plan, name, call)

    counted("read")
    counted("plan")
    module.__context__.clear()
    for _ in range(3):
        for ask in (module.validate, module.plan, module.digest, lambda: module.routes("gw2")):
            ask()
    assert calls == [("read",), ("plan", "gw1"), ("plan", "gw2")]
    break_pillar({"internal:virtual_ip": "10.77.0.9"})
    assert module.plan()["internal"]["virtual_ip"] == "10.77.0.9"
    assert module.plan("gw2")["internal"]["virtual_ip"] == "10.77.0.9"
    assert calls.count(("read",)) == 2


@pytest.mark.parametrize("collects", [True, False])
@pytest.mark.parametrize("name", ["read", "plan"])
def test_no_garbage_is_looked_for_while_a_site_is_read(module, node, monkeypatch, name, collects):
    """With 10,000 hosts that was a tenth of an apply. Afterwards all is as it was."""
    real, seen = getattr(_gateway_plan, name), []

    def call(*arguments):
        seen.append(gc.isenabled())
        if len(seen) == 1:
            raise ValueError("wrong")
        return real(*arguments)

    monkeypatch.setattr(_gateway_plan, name, call)
    if not collects:
        gc.disable()
    try:
        for wrong in (True, False):
            module.__context__.clear()
            with pytest.raises((ValueError, CommandExecutionError)) if wrong else nullcontext():
                module.plan()
            assert gc.isenabled() == collects
    finally:
        gc.enable()
    assert seen == [False, False]


@pytest.mark.parametrize("path", ["_modules/gateway.py", "_modules/gateway_pki.py"])
def test_a_new_planner_is_taken_up(load, root, monkeypatch, tmp_path, path):
    """A process that runs on after an upgrade of the formula must not plan with the old one. What
    has not changed is not loaded again: Salt 3008 loads a module twice in an apply."""
    shutil.copytree(root / "_modules", tmp_path / "_modules")
    monkeypatch.syspath_prepend(tmp_path / "_modules")

    def forget():
        for name in [name for name in sys.modules if name.startswith("_gateway_")]:
            monkeypatch.delitem(sys.modules, name)

    forget()

    def planner():
        load(tmp_path / path)
        return sys.modules["_gateway_plan"]

    first = planner()
    assert planner() is first
    with (tmp_path / "_modules/_gateway_plan.py").open("a") as file:
        file.write("TWO = 2\n")
    second = planner()
    assert second is not first
    assert second.TWO == 2
    forget()


FUNCTIONS = [
    "validate",
    "plan",
    "digest",
    "vpn_subnets",
    "routes",
    "ruleset",
    "interfaces",
    "sync_ignored",
]
# What works while the pillar is wrong, too.
STEADY = ["status", "drain", "undrain"]


@pytest.fixture
def master(module, node, edit_here, monkeypatch):
    """What the minion's opts and a call look like when it comes from a master with a new pillar."""

    def get_pillar(opts, grains, minion, saltenv, pillarenv):
        assert (opts, minion, grains) == (module.__opts__, "gw1", {"os_family": "Debian"})
        played.asked += 1
        return SimpleNamespace(compile_pillar=played.compiled)

    monkeypatch.setattr(module.salt.pillar, "get_pillar", get_pillar)
    setattr(node, "__cli", "salt-minion")
    played = SimpleNamespace(
        asked=0,
        pillar={"gateway": edit_here({"internal:virtual_ip": "10.77.0.99"})},
        call={"__pub_fun": "gateway.plan", "__pub_jid": "1"},
    )
    played.compiled = lambda: played.pillar
    return played


@pytest.mark.parametrize("function", [*FUNCTIONS, "status", "undrain"])
def test_the_master_is_asked_for_the_pillar_again(module, master, function):
    """Who calls from there has just edited it; the minion has it from its start."""
    getattr(module, function)()
    assert master.asked == 0
    getattr(module, function)(**master.call)
    assert master.asked == 1
    assert module.plan()["internal"]["virtual_ip"] == "10.77.0.99"


def test_on_the_node_itself_the_pillar_is_fresh(module, node, master):
    setattr(node, "__cli", "salt-call")
    module.plan(**master.call)
    assert master.asked == 0


def test_a_pillar_that_the_master_cannot_render(module, master):
    master.pillar = {"_errors": ["Rendering SLS 'gateway' failed", "Specified SLS is missing"]}
    with pytest.raises(CommandExecutionError) as raised:
        module.plan(**master.call)
    assert str(raised.value).splitlines() == ["The pillar has errors:", *master.pillar["_errors"]]


@pytest.mark.parametrize("function", [*FUNCTIONS, *STEADY, "has_states", "prepared"])
def test_unknown_arguments(module, node, function):
    with pytest.raises(SaltInvocationError, match="nod"):
        getattr(module, function)(nod="gw2")


# --------------------------------------------------------------------------------------------------
# What is wrong

WRONG_PILLAR = {"domain": "-", "nodes:gw2:id": 1, "vpn:pki:ca": PRIVATE_KEY}
ERRORS = [
    "gateway:domain: - is not a domain name",
    "gateway:nodes:gw2:id: id 1 is taken already, by gateway:nodes:gw1:id",
    "gateway:vpn:pki:ca: is neither an absolute path nor PEM text (CERTIFICATE)",
]


def test_all_errors_of_the_pillar(module, node, break_pillar):
    break_pillar(WRONG_PILLAR)
    assert module.validate() == ERRORS


def test_a_function_that_salt_ssh_gives_no_pillar(module, node):
    node.root_dir = "/var/tmp/.root_dd2a94_salt/running_data"
    assert module.validate() == []
    module.__pillar__ = {}
    [error] = module.validate()
    assert "state.single module.run name=gateway" in error
    node.root_dir = "/"
    module.__context__.clear()
    assert module.validate() == ["gateway: missing; see pillar.example"]


def test_the_shell_learns_that_something_is_wrong(module, node, break_pillar):
    """And nobody else: not Jinja, in whose run everything goes by other codes."""
    call = {"__pub_fun": "gateway.validate"}
    break_pillar(WRONG_PILLAR)
    module.validate()
    assert "retcode" not in module.__context__
    assert module.validate(**call) == ERRORS
    assert module.__context__["retcode"] == 1
    break_pillar({})
    assert module.validate(**call) == []
    assert module.__context__["retcode"] == 0


def test_units_that_are_not_there(module, node, break_pillar):
    """Named, and no reason not to apply: the package may come with the same apply."""
    states = {
        "a.service": "loaded",
        "d.service": "loaded",
        "b.timer": "not-found",
        "c.service": "not-found",
    }

    def systemctl(arguments):
        units = [name for name in arguments if name in states]
        return "".join(f"{states[name]}\n\n" for name in units)

    break_pillar(
        {
            "follow_virtual_ip": ["a.service", "b.timer"],
            "health:services": ["d.service", "c.service"],
        }
    )
    assert module.validate() == []  # nobody answers
    node.tools["systemctl"] = systemctl
    assert module.validate() == [
        "gateway:follow_virtual_ip: there is no unit b.timer on this node",
        "gateway:health:services: there is no unit c.service on this node",
    ]
    assert module.validate(warnings=False) == []


def test_a_pillar_that_does_not_render_is_an_error_like_others(module, node):
    """So `state.apply gateway.clean force=True` finds its way without it."""
    node.pillar["_errors"] = ["Rendering SLS 'gateway' failed"]
    assert module.validate() == module.validate(warnings=False) == node.pillar["_errors"]
    assert module.validate(__pub_fun="gateway.validate") == node.pillar["_errors"]
    assert module.__context__["retcode"] == 1


TITLE = "the pillar cannot be used, so this is judged by what was applied last"


def test_status_while_the_pillar_is_wrong(module, node, break_pillar):
    """As before, of what was applied last; what is wrong with the pillar comes first."""
    before = module.status()
    break_pillar(WRONG_PILLAR)
    status = module.status()
    assert status == before | {
        "digest": {"applied": before["digest"]["applied"], "pillar": None},
        "problems": [*ERRORS, TITLE],
    }
    lose_route(node)
    node.running.remove("keepalived")
    assert module.status()["problems"][len(ERRORS) + 1 :] == [
        "service keepalived is dead",
        "the route to 10.8.1.0/24 is missing",
    ]
    assert SECRET_TEXT not in json.dumps(module.status())


@pytest.mark.parametrize("function", ["status", "drain"])
def test_a_plan_of_a_version_that_knew_no_further_networks(
    module, takeover, break_pillar, function
):
    """What was applied last, before an upgrade of the formula."""
    plan = json.loads(takeover.applied.read_text())
    for part, names in (
        (plan, ("networks", "inside_routes", "ways_back")),
        (plan["dns"], ("others",)),
        (plan["dhcp"], ("further_pools", "options", "boot", "domain")),
        (plan["health"], ("networks", "networks_counted")),
        (plan["health"]["penalties"], ("network",)),
        (plan["vrrp"]["instances"][0], ("further",)),
    ):
        for name in names:
            del part[name]
    break_pillar(WRONG_PILLAR)
    expected = module.status()
    takeover.applied.write_text(json.dumps(plan))
    if function == "status":
        assert module.status() == expected
        assert expected["services"]
    else:
        assert module.drain() == "this node is drained"


def break_rendering(node, master):
    master.pillar = {"_errors": ["Rendering SLS 'gateway' failed", "Specified SLS is missing"]}
    return master.pillar["_errors"]


def break_rendering_on_the_node(node, master):
    """Masterless, and where the minion itself has had it so since its start."""
    master.call.clear()
    node.pillar["_errors"] = ["Rendering SLS 'gateway' failed"]
    return node.pillar["_errors"]


def lose_the_master(node, master):
    def compile_pillar():
        raise SaltReqTimeoutError("Message timed out")

    master.compiled = compile_pillar
    return ["the Salt master gives no pillar: Message timed out"]


def lose_pillar(node, master):
    master.pillar = {}
    return ["gateway: missing; see pillar.example"]


def be_somebody_else(node, master):
    del master.pillar["gateway"]["nodes"]["gw1"]
    return ['gateway:nodes: this minion, gw1, is not among them (gw2); did you mean "gw2"?']


@pytest.mark.parametrize(
    "spoil",
    [
        break_rendering,
        break_rendering_on_the_node,
        lose_the_master,
        lose_pillar,
        be_somebody_else,
    ],
)
def test_status_and_drain_whatever_the_pillar_is(module, takeover, master, spoil):
    before = module.status()
    errors = spoil(takeover, master)
    status = module.status(**master.call)
    assert status["problems"] == [*errors, TITLE]
    assert status.keys() == before.keys()
    assert module.drain(**master.call) == "this node is drained"
    assert "openvpn-server@gateway-main" not in takeover.running
    assert module.undrain(**master.call) == "this node is in service again"
    assert "openvpn-server@gateway-main" in takeover.running


@pytest.mark.parametrize(
    ("applied", "digest", "why"),
    [
        (None, None, "the whole formula was never applied on this node"),
        ("", None, "the whole formula was never applied on this node"),
        (
            "0123456701234567\n",
            "0123456701234567",
            "what was applied last is not known: an older version of the formula kept no plan",
        ),
        # Of a version that had other plans.
        ('{"digest": "1", "node": {"name": "gw1"}}', "1", None),
        ('{"digest": "1", "node": {}, "vrrp": [], "vpn": {"servers": [{}]}}', "1", None),
    ],
)
def test_a_wrong_pillar_where_no_plan_is_known(
    module, takeover, break_pillar, applied, digest, why
):
    before = module.status()
    if applied is None:
        takeover.applied.unlink()
    else:
        takeover.applied.write_text(applied)
    break_pillar(WRONG_PILLAR)
    status = module.status()
    assert status.keys() == before.keys()
    assert status["node"] == "gw1"
    assert status["firewall"] == before["firewall"]
    assert status["sync"] == {"enabled": False}
    assert (status["vrrp"], status["services"], status["routes"], status["vpn"]) == ({},) * 4
    assert status["ntp"] == {"synchronised": False, "stratum": None, "source": None}
    assert status["digest"] == {"applied": digest, "pillar": None}
    problems = [*ERRORS, why] if why else ERRORS
    assert status["problems"] == problems
    for function in (module.drain, module.undrain):
        with pytest.raises(CommandExecutionError) as raised:
            function()
        assert str(raised.value).splitlines() == ["The pillar of this site is wrong:", *problems]
    assert not takeover.drained.exists()


@pytest.mark.parametrize("function", FUNCTIONS[1:])
def test_no_answer_from_a_wrong_pillar(module, node, break_pillar, function):
    break_pillar(WRONG_PILLAR)
    for _ in range(2):  # not the cached one either
        with pytest.raises(CommandExecutionError) as raised:
            getattr(module, function)()
        assert str(raised.value).splitlines() == ["The pillar of this site is wrong:", *ERRORS]
        assert SECRET_TEXT not in str(raised.value)


def test_no_pillar(module, node):
    del node.pillar["gateway"]
    assert module.validate() == ["gateway: missing; see pillar.example"]


def test_a_minion_that_is_no_node(module, node):
    node.id = "gw3"
    [error] = module.validate()
    message = "gateway:nodes: this minion, gw3, is not among them (gw1, gw2)"
    assert error.startswith(message)
    for function in (module.plan, module.routes):
        with pytest.raises(CommandExecutionError, match="gw3, is not among them"):
            function()
    assert module.plan("gw2")["node"]["name"] == "gw2"


# --------------------------------------------------------------------------------------------------
# How the node is doing


def test_the_version_is_that_of_the_release(module, node, root):
    lines = (root / "FORMULA").read_text().splitlines()
    formula = dict(line.split(": ", 1) for line in lines)
    assert module.plan()["formula"] == f"{formula['version']}-{formula['release']}"


@pytest.mark.parametrize("where", [None, "extension_modules", "module_dirs", "states_dirs"])
def test_whether_the_states_have_come_along(module, node, tmp_path, where):
    node.extension_modules = str(tmp_path / "extmods")
    folder = tmp_path / "elsewhere/states"
    if where == "extension_modules":
        folder = tmp_path / "extmods/states"
    elif where:
        own = {"module_dirs": folder.parent, "states_dirs": folder}
        setattr(node, where, [str(own[where])])
    if where:
        folder.mkdir(parents=True)
        for name in module.STATES:
            assert module.has_states() is False
            (folder / f"{name}.py").touch()
    assert module.has_states() is (where is not None)


@pytest.mark.parametrize("what", ["good", "wrong pillar", "no states", "another system"])
def test_what_an_apply_has_to_know(module, node, break_pillar, monkeypatch, what):
    monkeypatch.setattr(module, "has_states", lambda: what != "no states")
    if what == "wrong pillar":
        break_pillar(WRONG_PILLAR)
    good = what == "good"
    assert module.prepared(supported=what != "another system") == {
        "lacking": what == "no states",
        "errors": ERRORS if what == "wrong pillar" else [],
        "plan": module.plan() if good else {},
        "ruleset": module.ruleset() if good else {},
        "resolver": node.resolvers[0] if good else "",
    }


def test_no_state_file_is_forgotten(module, root):
    assert sorted(module.STATES) == sorted(path.stem for path in root.glob("_states/*.py"))
