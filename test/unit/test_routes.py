"""Routes to the VPN subnets of the peers."""

import pytest

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
