"""follow-tell, which tells executables and the master of a new role."""

import json
import os
import subprocess
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.scripts


@pytest.fixture
def teller(root, tmp_path, tool):
    """Run follow-tell for a role; `said` is what it was told to whom."""
    run, folder, log, address = (tmp_path / name for name in ("run", "follow.d", "log", "address"))
    run.mkdir()
    folder.mkdir()
    log.touch()

    def hook(name, script="", mode=0o755):
        path = folder / name
        said = "$1 $GATEWAY_ROLE $GATEWAY_SINCE $GATEWAY_REASON"
        path.write_text(f"#!/bin/sh\necho {name} {said} >>{log}\n{script}\n")
        path.chmod(mode)

    def run_it(kind, *arguments, code=0):
        script = root / "gateway/follow/files/follow-tell"
        command = ["bash", script, run, "10.77.0.1", kind, *arguments]
        done = subprocess.run(command, check=False, timeout=20, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done

    def told(kind):
        path = run / f"{kind}.told"
        return path.read_text() if path.exists() else None

    def become(role):
        """The follower has seen it already."""
        (run / "role").write_text(f"{role}\n")
        address.touch() if role.startswith("primary") else address.unlink(missing_ok=True)

    def ask(number, reason):
        (run / "hooks.asked").write_text(f"{number} {reason}\n")

    tool("ip", f'test ! -e {address} || echo "3: eth0 inet $5/32"')
    become("primary 1800000000.25")
    ask(1, "start")
    return SimpleNamespace(
        hook=hook,
        folder=folder,
        run=run,
        address=address,
        become=become,
        ask=ask,
        hooks=lambda **keywords: run_it("hooks", folder, **keywords),
        event=lambda: run_it("event", "gw1", "gateway/site/vrrp", "salt-call", "--config-dir=/x"),
        told=told,
        log=log,
        said=lambda: log.read_text().splitlines(),
    )


def test_hooks_are_called_in_order(teller):
    for name in ("20-b", "10-a", "30_c"):
        teller.hook(name)
    for name in ("10-a.dpkg-old", "backup~", ".hidden"):
        teller.hook(name)
    teller.hook("40-not", mode=0o644)
    (teller.folder / "folder").mkdir()
    teller.hooks()
    assert teller.said() == [
        f"{name} primary primary 1800000000 change" for name in ("10-a", "20-b", "30_c")
    ]
    assert teller.told("hooks") == "primary 1800000000.25 1\n"
    teller.hooks()
    assert len(teller.said()) == 3


def test_without_hooks_all_have_been_told(teller):
    teller.hooks()
    assert teller.told("hooks") == "primary 1800000000.25 1\n"


def test_a_hook_that_fails_does_not_keep_others_from_it(teller):
    teller.hook("10-a", "exit 3")
    teller.hook("20-b")
    assert "10-a primary: exit code 3" in teller.hooks(code=1).stderr
    assert [line.split()[0] for line in teller.said()] == ["10-a", "20-b"]
    assert teller.told("hooks") is None


def become(role, teller):
    """What makes the kernel and then the follower say so, in a script."""
    touch = "touch" if role.startswith("primary") else "rm -f"
    return f"{touch} {teller.address}; echo {role} >{teller.run}/role"


def test_the_last_role_wins(teller):
    """One at a time: who comes after a change hears of the new role only."""
    change = become("secondary 1800000001.5", teller)
    teller.hook(
        "10-a", f"test $1 = secondary || {{ {change}; echo 2 change >{teller.run}/hooks.asked; }}"
    )
    teller.hook("20-b")
    teller.hooks()
    assert [line.split()[:2] for line in teller.said()] == [
        ["10-a", "primary"],
        ["10-a", "secondary"],
        ["20-b", "secondary"],
    ]
    assert teller.told("hooks") == "secondary 1800000001.5 2\n"


def test_a_role_that_was_lost_meanwhile_is_told_anew(teller):
    """It is the same role again, but the peer had it."""
    change = become("primary 1800000001.5", teller)
    teller.hook("10-a", f"test $GATEWAY_SINCE = 1800000001 || {{ {change}; }}")
    teller.hook("20-b")
    teller.hooks()
    assert [line.split()[0] for line in teller.said()] == ["10-a", "10-a", "20-b"]
    assert teller.told("hooks") == "primary 1800000001.5 1\n"


def test_the_kernel_knows_the_role_better_than_the_follower(teller):
    """Each executable hears what is true when it is called. The follower looks once a second."""
    slow = f"( sleep 0.5; {become('secondary 1800000001.5', teller)} ) >/dev/null 2>&1 &"
    teller.hook("10-a", f"test $1 = secondary || {{ rm {teller.address}; {slow} }}")
    teller.hook("20-b")
    teller.hooks()
    assert [line.split()[:2] for line in teller.said()] == [
        ["10-a", "primary"],
        ["10-a", "secondary"],
        ["20-b", "secondary"],
    ]


def test_nobody_is_told_what_kernel_and_follower_do_not_agree_on(teller):
    """A follower that does not run is started by systemd, and asks again."""
    teller.hook("10-a")
    teller.address.unlink()
    teller.hooks(code=1)
    assert teller.said() == []
    assert teller.told("hooks") is None


@pytest.mark.parametrize("reason", ["contest", "start", "reassert"])
def test_hooks_learn_why_they_are_called(teller, reason):
    teller.hook("10-a")
    teller.hooks()
    teller.ask(2, reason)
    teller.hooks()
    assert [line.split()[-1] for line in teller.said()] == ["change", reason]
    assert teller.told("hooks") == "primary 1800000000.25 2\n"


def test_a_change_is_the_reason_until_all_have_ended_well(teller):
    """Else an executable that tells of changes would not hear of one that a contest overtook."""
    good = teller.run / "good"
    teller.hook("10-a", f"test -e {good}")
    teller.hooks(code=1)
    teller.ask(2, "contest")
    teller.hooks(code=1)
    good.touch()
    teller.hooks()
    teller.ask(3, "reassert")
    teller.hooks()
    good.unlink()
    teller.ask(4, "reassert")
    teller.hooks(code=1)
    # The status tells.
    assert teller.told("hooks") == "primary 1800000000.25 failed\n"
    teller.hooks(code=1)
    good.touch()
    teller.hooks()
    assert teller.told("hooks") == "primary 1800000000.25 4\n"
    reasons = [line.split()[-1] for line in teller.said()]
    assert reasons == ["change"] * 3 + ["reassert"] * 4


def test_one_call_at_a_time(teller):
    """What is asked for meanwhile comes afterwards, and once."""
    ask = "".join(f"echo {number} contest >{teller.run}/hooks.asked; " for number in (2, 3))
    teller.hook("10-a", f"test -e {teller.run}/asked || {{ {ask} touch {teller.run}/asked; }}")
    teller.hook("20-b")
    teller.hooks()
    assert [(line.split()[0], line.split()[-1]) for line in teller.said()] == [
        ("10-a", "change"),
        ("20-b", "change"),
        ("10-a", "contest"),
        ("20-b", "contest"),
    ]
    assert teller.told("hooks") == "primary 1800000000.25 3\n"


def test_hooks_have_a_minute(teller, tool):
    tool("timeout", f'echo "$*" >>{teller.log}')
    teller.hook("10-a")
    teller.hooks()
    assert teller.said() == [f"--kill-after=5 60 {teller.folder}/10-a primary"]


def test_the_event(teller, tool):
    tool("salt-call", f'for word; do echo "$word"; done >>{teller.log}; echo \'{{"local": true}}\'')
    teller.event()
    *words, data = teller.said()
    assert words == ["--config-dir=/x", "--out=json", "event.send", "gateway/site/vrrp"]
    assert json.loads(data) == {"node": "gw1", "role": "primary", "time": "2027-01-15T08:00:00Z"}
    assert teller.told("event") == "primary 1800000000.25\n"
    teller.event()
    assert len(teller.said()) == 5


@pytest.mark.parametrize("script", ["exit 1", "echo '{\"local\": false}'", "echo no; exit 2"])
def test_a_master_that_is_away_is_not_an_error(teller, tool, script):
    tool("salt-call", script)
    assert "did not hear it" in teller.event().stdout
    assert teller.told("event") is None


def test_the_event_of_the_last_role_is_the_last(teller, tool):
    change = become("secondary 1800000001.5", teller)
    tool("salt-call", f'echo "$5" >>{teller.log}; {change}; echo true')
    teller.event()
    assert [json.loads(data)["role"] for data in teller.said()] == ["primary", "secondary"]


@pytest.mark.parametrize(
    ("role", "owner", "calls", "code"),
    [
        ("secondary", "gw2", [], 0),
        ("primary", "gw1", ["GET"], 0),
        ("primary", "gw2", ["GET", "PUT", "GET"], 0),
        ("primary", "nobody answers", ["GET"], 1),
        ("primary", "gw2 refuses to go", ["GET", "PUT"], 22),
        ("primary", "gw2 comes back", ["GET", "PUT", "GET"], 1),
    ],
)
def test_the_executable_of_the_documentation(root, tmp_path, tool, role, owner, calls, code):
    """It looks who has the address, claims it, and says so if that was in vain."""
    state, log, hook = (tmp_path / name for name in ("owner", "log", "hook"))
    state.write_text(owner)
    tool(
        "curl",
        f"""case $* in
            *"-X PUT -d gw1 https://"*) set -- PUT ;;
            *) set -- GET ;;
        esac
        echo $1 >>{log}
        case $1,$(cat {state}) in
            GET,nobody*) exit 28 ;;
            GET,*) cut -d' ' -f1 {state} ;;
            PUT,*refuses*) exit 22 ;;
            PUT,*back) ;;
            PUT,*) echo gw1 >{state} ;;
        esac""",
    )
    text = (root / "docs/failover.md").read_text()
    script = text[text.index("/etc/gateway/follow.d/cloud-address`") :].split("```")[1]
    hook.write_text(script.removeprefix("sh\n"))
    hook.chmod(0o755)
    environment = {**os.environ, "GATEWAY_NODE": "gw1"}
    assert subprocess.run([hook, role], check=False, env=environment).returncode == code
    assert (log.read_text().split() if log.exists() else []) == calls
