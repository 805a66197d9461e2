"""Routes to the VPN subnets of the peers."""

import json
from types import SimpleNamespace
from typing import Any

import _gateway_machine
import _gateway_routes
import pytest
from rendered import SITES

HERE: Any = None  # what is asked of the kernel says it all

# --------------------------------------------------------------------------------------------------
# How a node is doing


def test_routes_of_the_node(module, node):
    assert module.routes() == [{"destination": "10.8.1.0/24", "via": "10.77.0.3"}]
    assert module.routes(node="gw2") == [{"destination": "10.8.0.0/24", "via": "10.77.0.2"}]


@pytest.mark.parametrize(
    ("changes", "lacking"),
    [
        ({}, True),
        ({"firewall": {"forward": [{"from": "main", "to": "172.16.0.0/12"}]}}, False),
        ({"firewall": {"forward": [{"to": "public"}]}}, False),
        ({"firewall": {"forward": [{"from": "vpn"}]}}, False),
        ({"firewall": {"forward": [{"from": "vpn", "to": "internal"}]}}, True),
        ({"firewall": {"forward": [{"from": "internal"}]}}, True),
        ({"firewall": {"forward": [{"from": "main", "action": "reject"}]}}, True),
        ({"vpn:servers:main:full_tunnel": True}, False),
        ({"vpn:clients": {"branch": {"networks": ["172.16.0.0/16"]}}}, False),
    ],
)
def test_a_route_that_no_rule_lets_clients_use(module, node, break_pillar, changes, lacking):
    break_pillar({"vpn:servers:main:routes": ["172.16.5.0/24"], **changes})
    node.applied.write_text(module.digest() + "\n")
    said = (
        "gateway:vpn:servers:main:routes: clients send what is for 172.16.5.0/24 into the tunnel,"
        " and no rule lets it through; add one to gateway:firewall:forward, such as"
        " {from: main, to: 172.16.5.0/24}"
    )
    assert module.validate() == [said] * lacking
    assert (said in module.status()["problems"]) is lacking
    assert module.validate(warnings=False) == []


@pytest.fixture
def kernel(plan, monkeypatch):
    """A node's plan with several networks, and the routes and rules that its kernel has for it, as
    ip prints them."""
    found = plan(SITES["networks"])
    routes = [
        {"dst": "default", "gateway": "198.51.100.1", "dev": "eth1"},
        {"dst": "10.20.0.7", "table": "local", "type": "local"},
        *(
            {"dst": route["destination"], "gateway": route["via"]}
            for route in (*found["routes"], *found["inside_routes"])
        ),
        *(
            {"dst": route["destination"], "gateway": route["via"], "table": str(way["table"])}
            for way in found["ways_back"]
            for route in way["routes"]
        ),
    ]
    rules = [
        {"priority": 0, "src": "all", "table": "255"},
        *(
            {"priority": 121, "src": "all", "iif": way["interface"], "table": str(way["table"])}
            for way in found["ways_back"]
        ),
    ]

    def printed(*command):
        assert command[0] == "ip"
        return json.dumps(rules if "rule" in command else routes)

    monkeypatch.setattr(_gateway_machine, "output", printed)
    return SimpleNamespace(plan=found, routes=routes, rules=rules)


def problems(kernel):
    return _gateway_routes.status(kernel.plan, HERE)[1]


def test_ways_back_that_are_there(kernel):
    assert problems(kernel) == []
    assert _gateway_routes.status(kernel.plan, HERE)[0]["routes"] == {
        "10.8.1.0/24": {"via": "10.77.0.3", "present": True},
        "10.50.0.0/16": {"via": "10.77.0.254", "present": True},
    }


def test_a_way_back_is_a_rule_and_routes(kernel):
    """What has come in by the interface would go the usual way without either."""
    missing = ["the way back from eth0.20 to VPN clients of a peer is missing"]
    rule = next(each for each in kernel.rules if each.get("iif") == "eth0.20")
    table, rule["table"] = rule["table"], "7"
    assert problems(kernel) == missing
    rule["table"] = table
    route = next(each for each in kernel.routes if each.get("table") == table)
    route["gateway"] = "10.20.0.9"
    assert problems(kernel) == missing
    kernel.routes.remove(route)
    assert problems(kernel) == missing


def test_the_same_route_of_another_table_is_none(kernel):
    kernel.routes.remove({"dst": "10.50.0.0/16", "gateway": "10.77.0.254"})
    kernel.routes.append({"dst": "10.50.0.0/16", "gateway": "10.77.0.254", "table": "7"})
    assert problems(kernel) == ["the route to 10.50.0.0/16 is missing"]


def test_without_ways_back_no_rules_are_asked_for(plan, monkeypatch):
    asked: list[tuple[str, ...]] = []

    def nothing(*command):
        asked.append(command)
        return ""

    monkeypatch.setattr(_gateway_machine, "output", nothing)
    _, found = _gateway_routes.status(plan(), HERE)
    assert found == ["the route to 10.8.1.0/24 is missing"]
    assert len(asked) == 1
    assert len(_gateway_routes.status(plan(SITES["networks"]), HERE)[1]) == 2 + 3


@pytest.mark.parametrize(
    ("network", "shown"), [("10.50.0.1/32", "10.50.0.1"), ("10.50.0.0/16", "10.50.0.0/16")]
)
def test_a_route_behind_a_router_is_seen(module, node, break_pillar, network, shown):
    """ip shows a single address without its length."""
    break_pillar({"routes": [{"network": network, "via": "10.77.0.254"}]})
    for gateway, present in (("10.77.0.254", True), ("10.77.0.253", False)):
        node.routes.append({"dst": shown, "gateway": gateway, "dev": "eth0", "protocol": "119"})
        status = module.status()
        assert status["routes"][network]["present"] is present
        assert (f"the route to {network} is missing" in status["problems"]) is not present


# --------------------------------------------------------------------------------------------------
# What is written


def test_routes(render):
    found = render("VPN servers", node="gw2")
    lines = found.files["/etc/gateway/routes"].splitlines()[1:]
    assert lines == [
        "route replace 10.8.0.0/24 via 10.77.0.2 proto 119",
        "route replace 10.9.0.0/24 via 10.77.0.2 proto 119",
        "route replace 10.10.0.0/28 via 10.77.0.2 proto 119",
    ]
    live = found.ids["routes to the peers' VPN subnets"]["routes"]
    assert [f"route replace {r['destination']} via {r['via']} proto 119" for r in live] == lines


def test_routes_have_one_protocol_number(load, render):
    number = load("_states/gateway_network.py").ROUTE_PROTOCOL
    assert f"proto {number}\n" in render("example").files["/etc/gateway/routes"]
