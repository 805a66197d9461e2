"""gateway.status as a whole."""

import json
from types import SimpleNamespace

import _gateway_plan
import pytest
from on_node import (
    CHRONY,
    HEALTHY,
    LOADED,
    PRIVATE_KEY,
    SECRET_TEXT,
    SERVICES,
    firewall_says,
    lose_route,
)

# --------------------------------------------------------------------------------------------------
# How the node is doing


def test_status_of_a_healthy_primary(module, node):
    digest = module.digest()
    assert module.status() == {
        "node": "gw1",
        "vrrp": {"internal": {"virtual_ip": "10.77.0.1", "role": "MASTER"}},
        "health": {"penalty": 0, "cold": False, "uplink": [], "faults": [], "drained": None},
        "services": dict.fromkeys([*SERVICES, "gateway-dhcp"], "running"),
        "routes": {"10.8.1.0/24": {"via": "10.77.0.3", "present": True}},
        "firewall": LOADED,
        "sync": {"enabled": False},
        "vpn": {"main": {"address": "10.8.0.1", "up": True, "clients": {}}},
        "ntp": {"synchronised": True, "stratum": 3, "source": "198.51.100.100"},
        "leases": {"enabled": True, "count": 0, "in_sync": True, "peers": {"gw2": True}},
        "digest": {"applied": digest, "pillar": digest},
        "formula": {"applied": _gateway_plan.VERSION, "version": _gateway_plan.VERSION},
        "problems": [],
    }


def test_a_further_room_has_its_say(module, node, monkeypatch):
    """By its doors alone, in validate and in status."""
    room = SimpleNamespace(
        errors=lambda plan, here: ["an error"],
        forecasts=lambda plan, here: ["a forecast"],
        warnings=lambda plan, here: [f"a warning of {plan['node']['name']}"],
        status=lambda plan, here: ({"more": {"role": here.role}, "services": {"x": 1}}, ["dead"]),
        status_without_plan=lambda: ({"more": {"known": True}}, ["lost"]),
        UNKNOWN={"more": {"role": None}},
    )
    monkeypatch.setattr(_gateway_plan, "ROOMS", (*_gateway_plan.ROOMS, room))
    status = module.status()
    assert status["more"] == {"role": "MASTER"}
    assert status["services"] == dict.fromkeys([*SERVICES, "gateway-dhcp"], "running") | {"x": 1}
    assert status["problems"] == ["dead", "a warning of gw1"]
    assert module.validate() == ["an error", "a forecast", "a warning of gw1"]
    assert module.validate(warnings=False) == ["an error"]
    node.pillar["gateway"] = None
    assert module.status()["more"] == {"role": "MASTER"}
    node.applied.unlink()
    status = module.status()
    assert status["more"] == {"role": None, "known": True}
    assert "lost" in status["problems"]


def test_status_of_a_healthy_secondary(module, node):
    node.addresses["eth0"].remove("10.77.0.1/32")
    node.running.remove("gateway-dhcp")
    status = module.status()
    assert status["problems"] == []
    assert status["vrrp"]["internal"]["role"] == "BACKUP"
    assert status["services"]["gateway-dhcp"] == "dead"


def lose_virtual_ip(node):
    node.addresses["eth0"].remove("10.77.0.1/32")


def wrong_route(node):
    node.routes[-1]["gateway"] = "10.77.0.99"


def lose_tunnel(node):
    del node.addresses["vpn-main"]


def spoil_applied(node, **changes):
    node.applied.write_text(json.dumps(json.loads(node.applied.read_text()) | changes))


PROBLEMS = {
    "rules changed by hand": (
        firewall_says(drift=True),
        "the firewall rules are not what was loaded: somebody changed them by hand",
    ),
    "no rules": (firewall_says(loaded=False), "the firewall rules are not loaded"),
    "no firewall script": (
        lambda node: node.tools.pop("/usr/lib/gateway/firewall"),
        "the firewall rules are not loaded",
    ),
    "no gate": (
        firewall_says(gate=False),
        "the gate is not set, or another rule of `ip rule` stands before it: without its firewall"
        " rules this node would forward everything",
    ),
    "closed": (
        firewall_says(loaded=False, closed="ipset is gone"),
        "the firewall rules are not in force, nothing is forwarded: ipset is gone",
    ),
    "rules on trial": (
        firewall_says(loaded=False, pending=True),
        "new firewall rules are on trial, and taken back unless they prove good",
    ),
    "DHCP without the virtual IP": (
        lose_virtual_ip,
        "service gateway-dhcp is running while this node is BACKUP",
    ),
    "no DHCP with the virtual IP": (
        lambda node: node.running.remove("gateway-dhcp"),
        "service gateway-dhcp is dead while this node is MASTER",
    ),
    "route missing": (lose_route, "the route to 10.8.1.0/24 is missing"),
    "route to somewhere else": (wrong_route, "the route to 10.8.1.0/24 is missing"),
    "tunnel down": (lose_tunnel, "the tunnel of VPN server main is down"),
    "never applied": (
        lambda node: node.applied.unlink(),
        "the whole formula was never applied on this node",
    ),
    "a formula without plans": (
        lambda node: node.applied.write_text("0123456789abcdef\n"),
        f"the formula is {_gateway_plan.VERSION}, and a version that did not say which was applied"
        " last: apply it",
    ),
    "another formula applied": (
        lambda node: spoil_applied(node, formula="202601-1"),
        f"the formula is {_gateway_plan.VERSION}, and 202601-1 was applied last: apply it",
    ),
    "another pillar applied": (
        lambda node: spoil_applied(node, digest="1", nat={}, dns={}),
        "the pillar is not what was last applied, in dns, nat",
    ),
    "another pillar for others": (
        lambda node: spoil_applied(node, digest="1"),
        "the pillar is not what was last applied, in nothing that is about this node",
    ),
    "clock": (
        lambda node: node.tools.update(chronyc=CHRONY.format(leap="Not synchronised")),
        "the clock is not synchronised",
    ),
}


@pytest.mark.parametrize(("spoil", "problem"), PROBLEMS.values(), ids=PROBLEMS)
def test_one_problem_is_one_line(module, node, spoil, problem):
    spoil(node)
    assert module.status()["problems"] == [problem]


@pytest.mark.parametrize("service", SERVICES)
def test_a_dead_service(module, node, service):
    node.running.remove(service)
    status = module.status()
    assert status["services"][service] == "dead"
    assert status["problems"] == [f"service {service} is dead"]


def test_a_word_on_the_internal_targets(module, node, break_pillar):
    both = {"public:virtual_ip": "198.51.100.1", "state_sync": False}
    missing = "gateway:health:internal:targets: missing; beside a public virtual IP"
    for changes, warned in (
        ({}, False),
        (both, True),
        ({**both, "health:internal:targets": []}, False),
        ({**both, "health:internal:targets": ["10.77.0.9"]}, False),
        ({**both, "health:internal": {}}, True),
        ({**both, "nodes:gw2": ...}, False),
    ):
        break_pillar(changes)
        found = module.validate()
        assert [text.startswith(missing) for text in found] == [True] * warned
        assert module.validate(warnings=False) == []


@pytest.mark.parametrize("ip", [None, 1, ""], ids=["not there", "fails", "says nothing"])
def test_status_without_tools(module, node, ip):
    node.tools = {"ip": ip}
    node.running.clear()
    status = module.status()
    assert status["vrrp"]["internal"]["role"] == "BACKUP"
    assert status["problems"] == [
        *(f"service {service} is dead" for service in SERVICES),
        "DHCP: gateway-leases does not answer",
        "the route to 10.8.1.0/24 is missing",
        "the firewall rules are not loaded",
        "the tunnel of VPN server main is down",
        "the clock is not synchronised",
    ]


def test_what_is_shown_is_plain_and_not_secret(module, node, break_pillar):
    break_pillar({"vpn:pki:key": PRIVATE_KEY})
    for answer in (module.plan(), module.status(), module.routes(), module.ruleset()):
        assert json.loads(json.dumps(answer)) == answer
        assert SECRET_TEXT not in json.dumps(answer)


# --------------------------------------------------------------------------------------------------
# Drain


@pytest.mark.parametrize(
    ("changes", "undecided"),
    [
        ({"public:virtual_ip": "198.51.100.1"}, True),
        ({"public:virtual_ip": "198.51.100.1", "state_sync": False}, False),
        ({}, False),
    ],
    ids=["without a word", "not wanted", "of no use"],
)
def test_a_word_on_state_sync(module, node, break_pillar, changes, undecided):
    """Advice, and no error: it keeps nothing from being applied."""
    break_pillar({"health:internal:targets": [], **changes})
    node.addresses["eth1"] += ["198.51.100.1"] if changes else []
    node.apply()
    said = (
        "gateway:state_sync: connections end when the virtual IP moves; give the nodes a link of"
        " their own (state_sync: {interface: eth3}, and nodes:NODE:sync), or say false"
    )
    assert module.validate() == module.status()["problems"] == [said] * undecided
    assert module.validate(warnings=False) == []


def test_status_says_what_ails_the_node(module, node):
    ill = {
        "penalty": 6,
        "cold": True,
        "uplink": ["no carrier on eth1"],
        "faults": ["check x fails"],
    }
    node.health.write_text(json.dumps(HEALTHY | ill))
    assert module.status()["problems"] == ["no carrier on eth1", "check x fails"]
    node.health.unlink()
    assert module.status()["problems"] == ["nothing is known of this node's health"]
