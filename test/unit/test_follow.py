"""What follows the virtual IP: plan, status, units."""

import re
import time

import _gateway_follow
import pytest
from rendered import WITH_MASTER, block, keepalived_conf, options_of

# --------------------------------------------------------------------------------------------------
# What is planned


def test_units_that_follow(plan):
    assert plan()["follow"]["units"] == []
    units = ["nginx.service", "vm@web.01.service", "report.timer", "app.socket", "my.target"]
    assert plan({"follow_virtual_ip": units})["follow"]["units"] == units
    assert plan({"follow_virtual_ip": "nginx"})["follow"]["units"] == ["nginx.service"]


def test_units_that_have_to_run(plan):
    units = ["nginx", "vm@web.01.service", "srv-data.mount"]
    health = plan({"health": {"services": units}})["health"]
    assert health["services"][-3:] == ["nginx.service", "vm@web.01.service", "srv-data.mount"]


@pytest.mark.parametrize(("value", "seconds"), [(None, 60), (0, 0), (10, 10), (86400, 86400)])
def test_how_often_executables_are_called_again(plan, value, seconds):
    changes = {} if value is None else {"failover:reassert": value}
    assert plan(changes)["follow"]["reassert"] == seconds


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        ("nginx.servce", "is not the name of a systemd unit"),
        ("vm@.service", "is not the name of a systemd unit"),
        ("../x.service", "is not the name of a systemd unit"),
        ("a b.service", "is not the name of a systemd unit"),
        ("x.mount", "is not the name of a systemd unit"),
        (7, "must be text"),
        ("x" * 200 + ".service", "is longer than 200 characters"),
        ("keepalived.service", "is the formula's own"),
        ("keepalived", "is the formula's own"),
        ("gateway-dns.service", "is the formula's own"),
        ("openvpn-server@gateway-main.service", "is the formula's own"),
        ("conntrackd.service", "is the formula's own"),
        ("chrony.service", "is the formula's own"),
        ("chronyd.service", "is the formula's own"),
        ("ntpsec.service", "is the formula's own"),
        ("gateway-virtual-ip.target", "is the formula's own"),
    ],
)
def test_units_that_cannot_follow(errors, unit, message):
    [error] = errors({"follow_virtual_ip": [unit]})
    assert error.startswith("gateway:follow_virtual_ip:0: ")
    assert message in error


def test_units_that_follow_twice(errors):
    assert errors({"follow_virtual_ip": ["a.service", "a.service"]}) == [
        "gateway:follow_virtual_ip:1: unit a.service is taken already,"
        " by gateway:follow_virtual_ip:0"
    ]


# --------------------------------------------------------------------------------------------------
# How a node is doing


@pytest.mark.parametrize(
    ("master", "shown", "problem"),
    [
        (True, "loaded active simple", None),
        (True, "loaded inactive simple", "app.service is inactive while this node is MASTER"),
        (True, "loaded inactive oneshot", None),
        (True, "loaded failed oneshot", "app.service is failed while this node is MASTER"),
        (True, "loaded activating simple", "app.service is activating while this node is MASTER"),
        (False, "loaded inactive simple", None),
        (False, "loaded active simple", "app.service is active while this node is BACKUP"),
        (False, "loaded failed simple", "app.service is failed while this node is BACKUP"),
        (
            True,
            "not-found inactive simple",
            "there is no unit app.service, which shall follow the virtual IP",
        ),
    ],
)
def test_what_follows_the_virtual_ip(module, node, break_pillar, master, shown, problem):
    break_pillar({"follow_virtual_ip": ["app.service"], "dhcp:enabled": False})
    load, active, kind = shown.split()
    node.tools["systemctl"] = f"LoadState={load}\nActiveState={active}\nType={kind}\n"
    node.apply()
    if not master:
        node.addresses["eth0"].remove("10.77.0.1/32")
    status = module.status()
    assert status["services"]["app.service"] == active
    assert status["problems"] == ([problem] if problem else [])


@pytest.mark.parametrize(
    ("told", "well"),
    [
        (None, False),
        ("", False),
        ("secondary 1.5 100", False),
        ("primary 1.4 100", False),
        ("primary 1.5 100", True),  # whatever has been asked for since then
        ("primary 1.5 failed", False),
    ],
)
def test_executables_that_did_not_end_well(module, node, monkeypatch, tmp_path, told, well):
    monkeypatch.setattr(_gateway_follow, "ROLE", str(tmp_path / "role"))
    monkeypatch.setattr(_gateway_follow, "HOOKS", str(tmp_path / "told"))
    (tmp_path / "role").write_text("primary 1.5\n")
    if told is not None:
        (tmp_path / "told").write_text(f"{told}\n")
    problem = (
        "not all in /etc/gateway/follow.d have ended well for the present role;"
        " journalctl -u gateway-follow-hooks says which, and why"
    )
    assert module.status()["problems"] == ([] if well else [problem])
    (tmp_path / "role").write_text(f"secondary {time.time()}\n")
    assert module.status()["problems"] == []


def test_executables_that_are_passed_over(module, node, monkeypatch, tmp_path):
    """Named in the status, but not what editors and packages leave."""
    folders = [tmp_path / name for name in ("follow.d", "health.d", "not there")]
    monkeypatch.setattr(_gateway_follow, "FOLDERS", tuple(map(str, folders)))
    for folder in folders[:2]:
        folder.mkdir()
        for name in (
            "10-good",
            "20-b.sh",
            "30-c",
            "a b",
            ".hidden",
            "x~",
            "y.dpkg-old",
            "z.rpmsave",
        ):
            (folder / name).touch(0o755)
        (folder / "30-c").chmod(0o644)
        (folder / "40-gone").symlink_to("nowhere")
        (folder / "lib.d").mkdir()
    characters = "its name has other characters than letters, digits, _ and -"
    assert module.status()["problems"] == [
        f"{folder}/{name} is passed over: {reason}"
        for folder in folders[:2]
        for name, reason in (
            ("20-b.sh", characters),
            ("30-c", "it is not executable"),
            ("40-gone", "it is no file"),
            ("a b", characters),
        )
    ]


# --------------------------------------------------------------------------------------------------
# What is written


def test_the_follower_reads_what_keepalived_writes(render):
    found = render("example")
    [fifo] = options_of(block(keepalived_conf(found), "global_defs"))["vrrp_notify_fifo"]
    unit = found.files["/etc/systemd/system/gateway-follow.service"]
    follow = f"ExecStart=/usr/lib/gateway/follow {fifo} 10.77.0.1 /etc/gateway/routes 60 hooks"
    assert f"{follow}\n" in unit
    assert f"mkfifo -m 0600 {fifo}" in unit
    target = found.ids["virtual IP target"]["name"].rsplit("/", 1)[1]
    assert f"target={target}\n" in found.files["/usr/lib/gateway/follow"]
    assert f"WantedBy={target}\n" in found.files["/etc/systemd/system/gateway-dhcp.service"]


def test_units_follow_the_target(render):
    state = render("followers").ids["units that follow the virtual IP"]
    assert (state["fun"], state["name"]) == ("followers", "gateway-virtual-ip.target")
    assert state["units"] == ["my-app.service", "vm@one.service", "report.timer"]


def test_executables_learn_where_they_are(render):
    each_site = render("public virtual IP", node="gw2")
    unit = each_site.files["/etc/systemd/system/gateway-follow-hooks.service"]
    assert dict(pair.split("=") for pair in re.findall(r"GATEWAY_\w+=\S*", unit)) == {
        "GATEWAY_NODE": "gw2",
        "GATEWAY_DOMAIN": "example.internal",
        "GATEWAY_INTERFACE": "eth0",
        "GATEWAY_VIRTUAL_IP": "10.77.0.1",
        "GATEWAY_PUBLIC_INTERFACE": "eth1",
        "GATEWAY_PUBLIC_VIRTUAL_IP": "198.51.100.1",
    }
    folder = each_site.ids["folder for those who want to know the role"]["name"]
    tell = f"/usr/lib/gateway/follow-tell /run/gateway 10.77.0.1 hooks {folder}"
    assert f"ExecStart={tell}\n" in unit


def test_the_follower_s_unit_says_how_often_executables_are_called_again(render):
    each_site = render("example", changes={"failover:reassert": 0})
    assert (
        " /etc/gateway/routes 0 hooks\n"
        in each_site.files["/etc/systemd/system/gateway-follow.service"]
    )


EVENT = "/etc/systemd/system/gateway-follow-event.service"


def test_a_master_is_told(render):
    each_site = render("example", **WITH_MASTER)
    command = (
        "/usr/lib/gateway/follow-tell /run/gateway 10.77.0.1"
        " event gw1 gateway/example.internal/vrrp /usr/bin/salt-call --config-dir=/etc/salt"
    )
    assert f"ExecStart={command}\n" in each_site.files[EVENT]
    assert "Nice=19\n" in each_site.files[EVENT]
    assert " hooks event\n" in each_site.files["/etc/systemd/system/gateway-follow.service"]


@pytest.mark.parametrize(
    ("python", "salt_call"),
    [
        ("/opt/saltstack/salt/bin/python3.10", "/opt/saltstack/salt/salt-call"),
        ("/opt/venv/bin/python3", "/opt/venv/bin/salt-call"),
    ],
    ids=["onedir", "pip"],
)
def test_salt_call_is_found_beside_its_python(render, python, salt_call):
    stubs = {"cmd.which": {salt_call: salt_call}.get}
    grains = {"os_family": "Debian", "pythonexecutable": python}
    each_site = render("example", **WITH_MASTER | {"stubs": stubs, "grains": grains})
    assert f"{salt_call} --config-dir" in each_site.files[EVENT]


@pytest.mark.parametrize(
    "without",
    [
        {"file_client": "local"},
        {"__master_opts__": {}},
        {"stubs": {"cmd.which": lambda name: None}},
    ],
    ids=["masterless", "salt-ssh", "no salt-call"],
)
def test_where_there_is_no_master_nobody_is_told(render, without):
    each_site = render("example", **WITH_MASTER | without)
    assert each_site.ids["nobody tells a Salt master"]["name"] == EVENT
    assert " hooks\n" in each_site.files["/etc/systemd/system/gateway-follow.service"]
