"""DHCP: plan, status, configuration."""

import os
import subprocess

import pytest
from rendered import is_service, lines

# --------------------------------------------------------------------------------------------------
# What is planned

REJECTED = {
    # wrong type
    "empty mapping": ({"dhcp": None}, "dhcp", "must be a mapping, is empty"),
    "text for truth": (
        {"dhcp:enabled": "no"},
        "dhcp:enabled",
        "must be true or false, is text (no)",
    ),
    # one value, and not several
    "list for truth": (
        {"dhcp:enabled": [True]},
        "dhcp:enabled",
        "must be true or false, is a list",
    ),
    "two pools that overlap": (
        {"dhcp:pool": ["10.77.0.100-10.77.0.120", "10.77.0.120-10.77.0.129"]},
        "dhcp:pool:1",
        "overlaps 10.77.0.100-10.77.0.120 of gateway:dhcp:pool:0",
    ),
    "pools": ({"dhcp:pools": []}, "dhcp:pools", 'unknown key; did you mean "pool"?'),
    # DNS and DHCP
    "DNS's keyword for DHCP": (
        {"dhcp:settings": {"address": "/a.example/10.77.0.20"}},
        "dhcp:settings:address",
        "is not possible: it is of DNS, which is another process: gateway:dns:settings",
    ),
    "what the check does not see": (
        {"dhcp:settings": {"bind-interfaces": True}},
        "dhcp:settings:bind-interfaces",
        "is not possible: the virtual IP comes and goes, and the formula has bind-dynamic for it",
    ),
    "lease that dnsmasq makes longer": (
        {"dhcp:lease_time": 60},
        "dhcp:lease_time",
        "60 is not in 2m to 7101w, nor infinite",
    ),
    "lease that dnsmasq cannot count": (
        {"dhcp:lease_time": "7102w"},
        "dhcp:lease_time",
        "7102w is not in 2m to 7101w, nor infinite",
    ),
    "settings without DHCP": (
        {"dhcp": {"settings": {"log-dhcp": True}}, "hosts:backend01:mac": ...},
        "dhcp:settings",
        "means nothing without DHCP; it is on with a pool, a host's mac or enabled",
    ),
    # the rest of the services
    "no range": (
        {"dhcp:pool": "10.77.0.100"},
        "dhcp:pool",
        "10.77.0.100 is not a range such as 10.77.0.100-10.77.0.199",
    ),
    "range the wrong way round": (
        {"dhcp:pool": "10.77.0.9-10.77.0.8"},
        "dhcp:pool",
        "10.77.0.9-10.77.0.8 ends before it begins",
    ),
    "range outside the internal network": (
        {"dhcp:pool": "10.77.0.200-10.77.1.20"},
        "dhcp:pool",
        "10.77.1.20 is not inside 10.77.0.0/24",
    ),
    "range with a gateway in it": (
        {"dhcp:pool": "10.77.0.3-10.77.0.20"},
        "dhcp:pool",
        "holds 10.77.0.3 of gateway:nodes:gw2:internal",
    ),
    "lease time": (
        {"dhcp:lease_time": "12 hours"},
        "dhcp:lease_time",
        "12 hours is not a time such as 30m, 12h or infinite",
    ),
}


@pytest.mark.parametrize(("changes", "key", "message"), REJECTED.values(), ids=REJECTED)
def test_rejected(errors, changes, key, message):
    """A mistake is one error, and it names the key of the pillar that is wrong."""
    assert errors(changes) == [f"gateway:{key}: {message}"]


def test_dhcp(plan):
    assert plan({"hosts:printer": {"ip": "10.77.0.11"}})["dhcp"] == {
        "enabled": True,
        "pool": ["10.77.0.100", "10.77.0.199"],
        "lease_time": "12h",
        "router": "10.77.0.1",
        "dns": ["10.77.0.1"],
        "ntp": ["10.77.0.2", "10.77.0.3"],
        "reservations": [
            {
                "name": "backend01.example.internal",
                "ip": "10.77.0.10",
                "macs": ["02:00:00:00:00:10"],
            }
        ],
        "settings": [],
        "further_pools": [],
        "domain": "example.internal",
        "options": [],
        "boot": None,
        "register": True,
    }


@pytest.mark.parametrize(
    ("changes", "enabled"),
    [
        ({"dhcp": ...}, True),
        ({"hosts:backend01:mac": ...}, True),
        ({"dhcp": ..., "hosts:backend01:mac": ...}, False),
        ({"dhcp:enabled": False}, False),
    ],
    ids=["reservations", "a range", "neither", "switched off"],
)
def test_dhcp_where_there_is_something_to_give(plan, changes, enabled):
    assert plan(changes)["dhcp"]["enabled"] is enabled


# --------------------------------------------------------------------------------------------------
# How a node is doing


def test_a_lease_of_another_dhcp_server(module, node, break_pillar):
    """It is there when the gateways are not."""
    break_pillar({"dhcp:enabled": False})
    node.leases = ["10.77.0.2"]
    assert module.validate() == []


def test_files_that_dnsmasq_cannot_read(module, node, tmp_path, edit_here, monkeypatch):
    """It goes on without them, so nobody would see why they have no effect."""
    home = tmp_path / "home"
    monkeypatch.setattr(os.path, "realpath", lambda path: path.replace(str(home), "/root"))
    home.mkdir()
    for path in (tmp_path / "hosts", home / "hosts"):
        path.write_text("")
    answers = {"true": 0, "test": 1}

    def setpriv(command, **_):
        return subprocess.CompletedProcess(command, answers[command[4]])

    monkeypatch.setattr(subprocess, "run", setpriv)
    paths = [str(tmp_path / "hosts"), str(home / "hosts"), "/nowhere/hosts"]
    node.pillar["gateway"] = edit_here(
        {
            "dns:settings": {"addn-hosts": paths, "address": "/a.example/192.0.2.1"},
            "dhcp:settings": {"dhcp-hostsfile": "/nowhere/list"},
        }
    )
    node.apply()
    key = "gateway:dns:settings:addn-hosts"
    expected = [
        f"{key}: user dnsmasq may not read {paths[0]}",
        f"{key}: {paths[1]} is in a home directory, and dnsmasq's unit sees none; put it elsewhere",
        f"{key}: /nowhere/hosts is not there on this node",
        "gateway:dhcp:settings:dhcp-hostsfile: /nowhere/list is not there on this node",
    ]
    assert module.validate() == expected
    assert module.validate(warnings=False) == []
    assert module.status()["problems"] == expected
    answers["test"] = 0
    assert module.validate() == expected[1:]
    answers.update(true=1, test=1)  # dnsmasq is not installed yet
    assert module.validate() == expected[1:]


def test_no_word_about_dhcp_where_there_is_none(module, node, break_pillar):
    break_pillar({"dhcp:enabled": False})
    assert "gateway-dhcp" not in module.status()["services"]


# --------------------------------------------------------------------------------------------------
# What is written


def test_a_reservation_for_several_cards(render):
    assert lines(render("names"), "/etc/gateway/dhcp-hosts") == [
        "02:00:00:00:00:10,02:00:00:00:00:11,10.77.0.10,backend01.example.internal"
    ]


@pytest.mark.parametrize("name", ["example", "reservations only"])
def test_configuration_of_dhcp(render, name):
    found = lines(render(name, node="gw2"), "/etc/gateway/dhcp.conf")
    assert not [line for line in found if line.startswith("dhcp-range=")]  # gateway-leases has them
    for line in [
        "port=0",
        "interface=eth0",
        "dhcp-hostsfile=/etc/gateway/dhcp-hosts",
        "dhcp-option=option:router,10.77.0.1",
        "dhcp-option=option:dns-server,10.77.0.1",
        "dhcp-option=option:ntp-server,10.77.0.2,10.77.0.3",
        "dhcp-option=option:domain-search,example.internal",
    ]:
        assert line in found
    assert lines(render(name), "/etc/gateway/dhcp-hosts") == [
        "02:00:00:00:00:10,10.77.0.10,backend01.example.internal"
    ]


@pytest.mark.parametrize("name", ["no DHCP", "minimal"])
def test_no_dhcp(render, name):
    found = render(name)
    assert not [path for path in found.files if "dhcp" in path]
    assert "gateway-dhcp" in [chunk["name"] for chunk in found.low if is_service(chunk, "off")]
    gone = {chunk["name"] for chunk in found.low if chunk["fun"] == "absent"}
    written = {path for path in render("example").files if "dhcp" in path}
    assert written < gone
