"""Further networks behind the pair, and networks behind routers inside."""

import json
import re
import subprocess
from ipaddress import IPv4Address

import _gateway_plan
import _gateway_vpn
import pytest
from iptables_reader import packet
from lease_orders import Orders
from rendered import SITES

SITE = SITES["networks"]
GUEST = {"interface": "eth5", "network": "10.40.0.0/24", "virtual_ip": "10.40.0.1"}

# --------------------------------------------------------------------------------------------------
# The plan


def test_addresses_of_a_node_are_computed_or_given(plan):
    for node, guest, servers in (
        ("gw1", "10.20.0.7", "10.30.0.2"),
        ("gw2", "10.20.0.3", "10.30.0.3"),
    ):
        found = {each["name"]: each for each in plan(SITE, node=node)["networks"]}
        assert found["guest"]["address"] == guest
        assert found["servers"]["address"] == servers
        assert found["dmz"]["interface"] == ("eth4" if node == "gw1" else "eth5")
        assert [peer["name"] for peer in found["guest"]["peers"]] != [node]


# Whatever changes a digest makes nodes of one site differ until each has had an apply, which users
# have to be told. Only another pillar (pillar.example, SITES) has another digest.
DIGESTS = {
    "example": "bb7595bea260aae2",
    "rich": "12bd018808f7b497",
}


@pytest.mark.parametrize("site", DIGESTS)
def test_a_site_without_them_has_the_digest_that_it_had(plan, site):
    assert plan(SITES[site])["digest"] == DIGESTS[site]


def test_a_site_without_them_is_what_it_was(plan):
    """What has come since is empty."""
    found = plan()
    assert (found["networks"], found["inside_routes"], found["ways_back"]) == ([], [], [])
    assert (found["dns"]["others"], found["health"]["networks"]) == ([], [])
    assert [instance["further"] for instance in found["vrrp"]["instances"]] == [[]]
    dhcp = found["dhcp"]
    assert (dhcp["further_pools"], dhcp["options"], dhcp["boot"]) == ([], [], None)
    assert dhcp["domain"] == found["domain"]
    assert found["health"]["penalties"] | {"network": 0} == {
        "cold": 2,
        "uplink": 4,
        "fault": 8,
        "drained": 16,
        "network": 0,
        "draining": found["health"]["penalties"]["draining"],
    }


def test_a_plan_is_plain_data(plan):
    assert json.loads(json.dumps(plan(SITE))) == plan(SITE)


def test_a_new_network_moves_nobody(plan):
    before = plan(SITE)
    more = {**SITE, "networks": {**SITE["networks"], "a-first-one": {**GUEST, "interface": "eth6"}}}
    after = {each["name"]: each for each in plan(more)["networks"]}
    assert {each["name"]: each for each in before["networks"]}.items() <= after.items()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"networks:guest": {**GUEST, "interface": "eth0"}},
            "guest:interface: eth0 is the internal interface already",
        ),
        ({"networks:guest": {**GUEST, "interface": "eth3"}}, "eth3 is the interface of network"),
        ({"networks:guest": {**GUEST, "network": "10.77.0.0/25"}}, "overlaps 10.77.0.0/24"),
        ({"networks:guest": {**GUEST, "virtual_ip": "10.41.0.1"}}, "not inside 10.40.0.0/24"),
        (
            {"networks:guest": {**GUEST, "virtual_ip": "10.40.0.254"}},
            "10.40.0.254 plus id 2 is no address of",
        ),
        ({"networks:vpn": GUEST}, "networks:vpn: is what rules call something else"),
        (
            {"networks:guest": {**GUEST, "trusted": True, "isolated": True}},
            "what is trusted is not isolated",
        ),
        ({"networks:guest": {**GUEST, "targets": ["10.77.0.10"]}}, "not inside 10.40.0.0/24"),
        (
            {"nodes:gw1:addresses": {"gast": "10.20.0.7"}},
            "addresses:gast: there is no such network",
        ),
        ({"nodes:gw2:addresses": {"guest": "10.20.0.1"}}, "address 10.20.0.1 is taken already"),
        ({"nodes:gw2:addresses": {"guest": "10.77.0.9"}}, "not inside 10.20.0.0/24"),
        (
            {"firewall": {"groups": {"some": ["servers-gateway"]}}},
            "servers-gateway is the gateway itself; a rule may name its address",
        ),
        (
            {"nat:forwards:0:to": "10.99.0.1"},
            "nat:forwards:0:to: 10.99.0.1 is in no network behind the pair",
        ),
        (
            {"nat:forwards:0:to": "10.20.0.3"},
            "nat:forwards:0:to: 10.20.0.3 is the gateway itself",
        ),
        (
            {"nat:forwards:0:to": "10.30.0.255"},
            "nat:forwards:0:to: 10.30.0.255 is the broadcast address of 10.30.0.0/24",
        ),
        (
            {"routes": [{"network": "10.50.0.0/16", "via": "10.99.0.1"}]},
            "10.99.0.1 is in no network behind the pair",
        ),
        (
            {"routes": [{"network": "10.50.0.0/16", "via": "10.77.0.3"}]},
            "10.77.0.3 is the gateway itself",
        ),
        ({"routes": [{"network": "10.20.0.0/16", "via": "10.77.0.9"}]}, "overlaps 10.20.0.0/24"),
        (
            {"hosts:printer:ip": ["10.77.0.11", "10.77.0.12"]},
            "10.77.0.11 is in 10.77.0.0/24 already",
        ),
        (
            {"hosts:printer:ip": ["10.77.0.11", "10.60.0.12"]},
            "10.60.0.12 is in no network behind the pair",
        ),
        (
            {"hosts:printer:ip": "10.50.0.12"},  # behind a router
            "10.50.0.12 is in no network behind the pair where DHCP is answered",
        ),
        ({"health:internal:targets": ["10.20.0.3"]}, "10.20.0.3 is the gateway itself"),
        (
            {"dhcp:pool": "10.77.0.250-10.77.0.254"},
            "holds 10.77.0.254 of gateway:routes:0:via",
        ),
        (
            {"firewall": {"groups": {"some": ["public"]}}},
            "public is a zone; here it must be a VPN client, a host, or addresses",
        ),
    ],
)
def test_rejected(edit, changes, error):
    pillar = edit(SITE)
    pillar = edit({**SITE, **changes}) if "networks" not in changes else pillar
    site, errors = _gateway_plan.read(pillar)
    assert site is None
    assert any(error in each for each in errors), errors


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"networks:guest:virtual_ip": "10.20.0.255", "nodes:gw1:addresses": {}},
            "networks:guest:virtual_ip: 10.20.0.255 is the broadcast address of 10.20.0.0/24",
        ),
        (
            {"networks:guest:network": "x", "routes": []},
            "networks:guest:network: x is not an IPv4 network such as 10.77.0.0/24",
        ),
        (
            {"internal:network": "x"},
            "internal:network: x is not an IPv4 network such as 10.77.0.0/24",
        ),
        (
            {"routes": [{"network": "x", "via": "10.77.0.254"}], "nat:forwards:0:to": "10.50.0.9"},
            "routes:0:network: x is not an IPv4 network such as 10.77.0.0/24",
        ),
    ],
)
def test_what_follows_of_an_error_is_none(edit, changes, error):
    """Not what it would be without: addresses in a network that could not be read, say."""
    _, errors = _gateway_plan.read(edit({**SITE, **changes}))
    assert errors == [f"gateway:{error}"]


# --------------------------------------------------------------------------------------------------
# What passes

FLOWS = [
    # A network of strangers: the internet, and three services of the gateway's.
    ("eth0.20 10.20.0.60>192.0.2.1 tcp/443", "accepted as eth1"),
    ("eth0.20 10.20.0.60>10.20.0.1 udp/53", "accepted"),
    ("eth0.20 10.20.0.60>10.20.0.7 udp/123", "accepted"),
    ("eth0.20 0.0.0.0>255.255.255.255 udp/67 from=68", "accepted"),
    ("eth0.20 10.20.0.60>10.20.0.1 tcp/22", "refused"),
    ("eth0.20 10.20.0.60>10.77.0.10 tcp/443", "refused"),
    ("eth0.20 10.20.0.60>10.30.0.10 tcp/443", "refused"),
    ("eth0.20 10.20.0.60>203.0.113.20 tcp/443", "refused"),
    ("eth0.20 10.20.0.60>10.50.0.9 tcp/443", "refused"),
    ("eth0.20 10.20.0.60>10.8.0.6 tcp/443", "refused"),
    ("eth0.20 10.20.0.60>10.77.0.1 udp/53", "dropped"),
    ("eth0.20 fd20:2::60>fd77::1 icmp/128", "dropped"),
    ("eth0.20 fd20:2::60>fd20:2::1 icmp/128", "accepted"),
    ("eth0.20 fd20:2::60>fd77::10 tcp/80", "refused"),
    ("eth0.20 fd20:2::60>fd20:3::10 tcp/80", "refused"),
    ("eth0.20 fd20:2::60>2001:db8::1 tcp/80", "accepted"),
    ("eth4 fd20:1::60>fd77::1 icmp/128", "accepted"),
    ("eth3 fd20:3::60>fd77::10 tcp/80", "accepted"),
    ("eth0 fd77::10>fd20:3::60 tcp/80", "accepted"),
    ("eth0 fd77::10>fd20:2::60 tcp/80", "refused"),
    ("eth0.20 10.20.0.60>10.77.0.1 icmp/8", "dropped"),
    ("eth0.20 10.20.0.60>10.20.0.1 icmp/8", "accepted"),
    ("eth0.20 10.20.0.60>10.20.0.255 udp/123", "accepted"),
    ("eth0.20 10.20.0.60>10.77.0.255 udp/123", "dropped"),
    ("eth0.20 10.20.0.60>203.0.113.31 udp/67 from=68", "dropped"),
    # Another one, not isolated.
    ("eth4 203.0.113.20>192.0.2.1 tcp/443", "accepted"),
    ("eth4 203.0.113.20>10.77.0.1 icmp/8", "accepted"),
    # There it would be told the names of the site.
    ("eth4 203.0.113.20>10.77.0.1 udp/53", "refused"),
    ("eth4 203.0.113.20>10.77.0.2 tcp/53", "refused"),
    ("eth4 203.0.113.20>203.0.113.17 udp/53", "accepted"),
    ("eth4 203.0.113.20>203.0.113.18 tcp/53", "accepted"),
    ("eth4 203.0.113.20>10.77.0.1 udp/123", "accepted"),
    ("eth4 203.0.113.20>10.77.0.10 tcp/443", "refused"),
    ("eth4 203.0.113.20>10.20.0.60 tcp/443", "refused"),
    ("eth1 192.0.2.1>203.0.113.20 tcp/443", "dropped"),
    # Nobody reaches them but those who may.
    ("eth0 10.77.0.10>10.20.0.60 tcp/80", "refused"),
    ("eth0 10.77.0.10>203.0.113.20 tcp/80", "refused"),
    ("vpn-main 10.8.0.6>10.20.0.60 tcp/80", "refused"),
    # Trusted is as internal.
    ("eth3 10.30.0.11>10.77.0.10 tcp/80", "accepted"),
    ("eth0 10.77.0.10>10.30.0.11 tcp/80", "accepted"),
    ("eth3 10.30.0.11>10.8.0.6 tcp/80", "accepted"),
    ("vpn-main 10.8.0.6>10.30.0.11 tcp/80", "accepted"),
    ("eth3 10.30.0.11>10.30.0.1 tcp/22", "accepted"),
    ("eth3 10.30.0.11>10.20.0.60 tcp/80", "refused"),
    # A network behind a router is a part of the router's network.
    ("eth0 10.50.0.9>192.0.2.1 tcp/443", "accepted as eth1"),
    ("eth0 10.50.0.9>10.77.0.1 udp/53", "accepted"),
    ("eth0 10.50.0.9>10.30.0.11 tcp/80", "accepted"),
    ("eth3 10.30.0.11>10.50.0.9 tcp/80", "accepted"),
    ("eth0 10.77.0.10>10.50.0.9 tcp/80", "accepted untracked"),
    ("eth0 10.77.0.10>10.50.0.9 tcp/80 INVALID", "accepted untracked"),
    # Half of a connection: the answer to a client of the peer's VPN.
    ("eth3 10.30.0.11>10.8.1.6 tcp/22 INVALID", "accepted untracked"),
    ("eth0.20 10.20.0.60>10.8.1.6 tcp/22 INVALID", "accepted untracked"),
    # Nobody has an address of another network.
    ("eth0.20 10.30.0.60>10.77.0.10 tcp/80", "dropped"),
    ("eth0 10.20.0.60>192.0.2.1 tcp/80", "dropped"),
    ("eth1 10.20.0.60>10.77.0.10 tcp/80", "dropped"),
    ("eth0 203.0.113.20>10.30.0.10 tcp/80", "dropped"),
    # Forwards are for everybody.
    ("eth0.20 10.20.0.60>198.51.100.2 tcp/443", "accepted at 10.77.0.10:443"),
    ("eth1 192.0.2.1>198.51.100.2 tcp/443", "accepted at 10.77.0.10:443"),
]


@pytest.mark.parametrize(("flow", "expected"), FLOWS)
def test_flows(router, flow, expected):
    assert router(SITE).meets(packet(flow)) == expected


def test_rules_name_a_network(router):
    rules = {
        "firewall": {
            "forward": [
                {"from": "guest", "to": "servers", "ports": 631},
                {"from": "public", "to": "dmz", "ports": [80, 443]},
                {"from": "guest", "to": "internal", "ports": 631},
            ]
        }
    }
    found = router({**SITE, **rules})
    for flow, expected in (
        ("eth0.20 10.20.0.60>10.30.0.11 tcp/631", "accepted"),
        ("eth0.20 10.20.0.60>10.30.0.11 tcp/632", "refused"),
        ("eth0.20 10.20.0.60>10.50.0.11 tcp/631", "accepted"),
        ("eth0 10.20.0.60>10.30.0.11 tcp/631", "dropped"),
        ("eth1 192.0.2.1>203.0.113.20 tcp/443", "accepted"),
        ("eth1 192.0.2.1>203.0.113.20 tcp/22", "dropped"),
    ):
        assert found.meets(packet(flow)) == expected, flow


def test_what_is_for_a_network_behind_a_client_does_not_go_round(router):
    """The node without the client sends it to the peer by the network that it came from, once."""
    found = router({**SITE, "vpn:clients": {"branch": {"networks": ["10.60.0.0/24"]}}})
    for source, rest in (("eth0.20 10.20.0.60", ""), ("eth3 10.30.0.11", " untracked")):
        flow = f"{source}>10.60.0.5 tcp/22"
        assert found.meets(packet(flow)) == f"accepted dscp=63{rest}"
        assert found.meets(packet(f"{flow} dscp=63")) == "dropped"


def test_a_forward_is_for_everybody_and_an_address_for_one_host_is_not(router):
    """Whoever comes by a forward reaches its host, and is answered. An address that stands for a
    host translates; who may go there is for rules to say."""
    found = router(
        {
            **SITE,
            "vpn:clients": {"branch": {"networks": ["10.60.0.0/24"]}},
            "public:virtual_ip": "198.51.100.10",
            "public:addresses": ["198.51.100.20", "198.51.100.21"],
            "nat": {
                "forwards": [
                    {"port": 8080, "to": "10.20.0.9"},
                    {"port": 8081, "to": "10.50.0.9"},
                    {"port": 8082, "to": "10.30.0.9"},
                ],
                "one_to_one": [
                    {"address": "198.51.100.20", "to": "10.20.0.9"},
                    {"address": "198.51.100.21", "to": "10.30.0.9"},
                ],
            },
        }
    )
    found.routes = {"10.60.0.0/25": "vpn-main"} | found.routes
    for flow, expected in (
        ("eth1 192.0.2.1>198.51.100.10 tcp/8080", "accepted at 10.20.0.9:8080"),
        ("eth0 10.77.0.10>198.51.100.10 tcp/8080", "accepted at 10.20.0.9:8080"),
        ("eth0.20 10.20.0.60>198.51.100.10 tcp/8080", "accepted at 10.20.0.9:8080 as 10.20.0.1"),
        ("eth0.20 10.20.0.60>198.51.100.10 tcp/8081", "accepted at 10.50.0.9:8081"),
        ("eth0 10.50.0.60>198.51.100.10 tcp/8081", "accepted at 10.50.0.9:8081 as 10.77.0.1"),
        ("vpn-main 10.8.0.6>198.51.100.10 tcp/8080", "accepted at 10.20.0.9:8080"),
        ("vpn-main 10.60.0.6>198.51.100.10 tcp/8080", "accepted at 10.20.0.9:8080 as 10.20.0.7"),
        ("vpn-main 10.60.0.6>198.51.100.10 tcp/8082", "accepted at 10.30.0.9:8082 as 10.30.0.2"),
        ("eth0 10.77.0.10>198.51.100.20 tcp/80", "refused"),
        ("vpn-main 10.8.0.6>198.51.100.20 tcp/80", "refused"),
        ("eth1 192.0.2.1>198.51.100.20 tcp/80", "dropped"),
        ("eth0 10.77.0.10>198.51.100.21 tcp/80", "accepted at 10.30.0.9:80"),
        ("eth0.20 10.20.0.60>198.51.100.21 tcp/80", "dropped"),
    ):
        assert found.meets(packet(flow)) == expected, flow


def test_a_network_in_a_group_is_all_its_addresses(plan):
    groups = {"wired": ["internal", "guest"], "more": ["wired", "printer", "192.0.2.1"]}
    found = plan({**SITE, "firewall:groups": groups})["firewall"]["groups"]
    assert found["wired"]["v4"] == ["10.20.0.0/24", "10.50.0.0/16", "10.77.0.0/24"]
    assert set(found["more"]["v4"]) - set(found["wired"]["v4"]) == {
        "10.30.0.11",
        "10.77.0.11",
        "192.0.2.1",
    }


def test_a_rule_that_names_a_host_means_all_its_addresses(router):
    rule = {"from": "guest", "to": "printer", "ports": 631}
    found = router({**SITE, "firewall:forward": [rule]})
    for address, expected in (
        ("10.77.0.11", "accepted"),
        ("10.30.0.11", "accepted"),
        ("10.77.0.12", "refused"),
    ):
        assert found.meets(packet(f"eth0.20 10.20.0.60>{address} tcp/631")) == expected, address


def test_a_forward_is_for_the_network_that_it_names(router):
    forward = {"port": 8443, "to": "10.30.0.20", "from": ["guest", "internal"]}
    found = router({**SITE, "nat:forwards": [forward]})
    for flow, expected in (
        ("eth0.20 10.20.0.60>198.51.100.2 tcp/8443", "accepted at 10.30.0.20:8443"),
        ("eth0 10.50.0.60>198.51.100.2 tcp/8443", "accepted at 10.30.0.20:8443"),
        ("eth4 203.0.113.20>198.51.100.2 tcp/8443", "refused"),
        ("eth1 192.0.2.1>198.51.100.2 tcp/8443", "dropped"),
    ):
        assert found.meets(packet(flow)) == expected, flow


def test_nat_is_of_the_networks_that_it_names(router):
    """An exception for one network, and none for a block of public addresses."""
    virtual = {"public:virtual_ip": "198.51.100.10", "public:addresses": ["198.51.100.11"]}
    rules = [{"from": "guest", "snat": "198.51.100.11"}, {"from": "servers", "snat": "none"}]
    found = router({**SITE, **virtual, "nat:outbound": rules})
    for flow, expected in (
        ("eth0.20 10.20.0.60>192.0.2.1 tcp/443", "accepted as 198.51.100.11"),
        ("eth3 10.30.0.60>192.0.2.1 tcp/443", "accepted"),
        ("eth0 10.77.0.60>192.0.2.1 tcp/443", "accepted as 198.51.100.10"),
        ("eth0 10.50.0.60>192.0.2.1 tcp/443", "accepted as 198.51.100.10"),
        ("eth4 203.0.113.20>192.0.2.1 tcp/443", "accepted"),
    ):
        assert found.meets(packet(flow)) == expected, flow


def test_egress_is_of_all_networks_or_of_those_that_a_rule_names(router):
    allowed = [{"ports": 443}, {"from": "servers", "ports": 25}]
    egress = {"firewall": {"egress": "deny", "egress_allowed": allowed}}
    found = router({**SITE, **egress})
    for source in ("eth0.20 10.20.0.60", "eth0 10.50.0.60", "eth3 10.30.0.60"):
        assert found.meets(packet(f"{source}>192.0.2.1 tcp/443")).startswith("accepted"), source
        assert found.meets(packet(f"{source}>192.0.2.1 tcp/80")) == "refused", source
    assert found.meets(packet("eth3 10.30.0.60>192.0.2.1 tcp/25")).startswith("accepted")
    assert found.meets(packet("eth0 10.77.0.60>192.0.2.1 tcp/25")) == "refused"


def test_a_network_and_a_server_may_have_one_name(plan):
    """As long as no rule says it; what is meant without a name is not mixed up."""
    changes = {
        "networks:main": {**GUEST, "interface": "eth6"},
        "vpn:servers:main:full_tunnel": True,
        "firewall": {"egress": "deny", "egress_allowed": [{"ports": 443}]},
    }
    [rule] = plan({**SITE, **changes})["firewall"]["egress_allowed"]
    addresses = [each["address"] for each in rule["from"] if "address" in each]
    assert addresses.count("10.40.0.0/24") == addresses.count("10.8.0.0/16") == 1


@pytest.mark.parametrize("name", ["guest", "internal", "public", "vpn", "other"])
def test_a_full_tunnel_leaves_whatever_its_server_is_called(router, name):
    """A rule without `from` is for full tunnels, also of a server that is called as a network."""
    found = router(
        {
            **SITE,
            "vpn:servers": {
                name: {"network": "10.9.0.0/16", "port": 1195, "full_tunnel": True},
                "split": {"network": "10.10.0.0/16", "port": 1196},
            },
            "firewall": {"egress": "deny", "egress_allowed": [{"ports": 443}]},
        }
    )
    for flow, expected in (
        (f"vpn-{name} 10.9.0.6>192.0.2.1 tcp/443", "accepted as eth1"),
        (f"vpn-{name} 10.9.0.6>192.0.2.1 tcp/80", "refused"),
        ("vpn-split 10.10.0.6>192.0.2.1 tcp/443", "refused"),
        ("eth0.20 10.20.0.60>192.0.2.1 tcp/443", "accepted as eth1"),
    ):
        assert found.meets(packet(flow)) == expected, flow


def test_vpn_clients_get_routes_to_trusted_networks_alone(plan):
    routes = [*SITE["routes"], {"network": "10.51.0.0/16", "via": "10.30.0.9"}]
    routes.append({"network": "10.52.0.0/16", "via": "10.20.0.9"})
    [server] = plan({**SITE, "routes": routes})["vpn"]["servers"]
    assert [each for each in server["pushes"] if each.startswith("route ")] == [
        "route 10.77.0.0 255.255.255.0",
        "route 10.50.0.0 255.255.0.0",
        "route 10.30.0.0 255.255.255.0",
        "route 10.51.0.0 255.255.0.0",
        "route 10.8.0.0 255.255.0.0",
    ]


@pytest.mark.parametrize(("to", "lacking"), [("dmz", False), ("guest", True)])
def test_a_route_to_another_network_needs_a_rule(plan, to, lacking):
    routes = {"vpn:servers:main:routes": ["203.0.113.16/28"]}
    found = plan({**SITE, **routes, "firewall:forward": [{"from": "main", "to": to}]})
    assert bool(_gateway_vpn._route_warnings(found)) is lacking
    trusted = plan({**SITE, **routes, "networks:dmz:trusted": True})
    assert _gateway_vpn._route_warnings(trusted) == []


# --------------------------------------------------------------------------------------------------
# Services


def test_who_gets_no_names_is_answered_by_another_dns_server(plan):
    dns = plan(SITE)["dns"]
    assert dns["listen"] == ["10.77.0.2", "10.77.0.1", "10.30.0.2", "10.30.0.1"]
    assert dns["others"] == ["203.0.113.18", "203.0.113.17", "10.20.0.7", "10.20.0.1"]
    named = plan({**SITE, "networks:guest:names": True, "networks:servers:names": False})["dns"]
    assert named["listen"] == ["10.77.0.2", "10.77.0.1", "10.20.0.7", "10.20.0.1"]
    assert named["others"] == ["203.0.113.18", "203.0.113.17", "10.30.0.2", "10.30.0.1"]
    records = {name: record["ip"] for record in dns["records"] for name in record["names"]}
    assert records["servers-gateway"] == "10.30.0.1"
    printer = [record["ip"] for record in dns["records"] if "printer" in record["names"]]
    assert printer == ["10.77.0.11", "10.30.0.11"]


def test_a_wildcard_of_a_host_with_several_addresses_is_its_first(plan):
    found = plan({**SITE, "hosts:printer:aliases": ["*.print"]})["dns"]["wildcards"]
    assert found == [{"name": "print.example.internal", "ip": "10.77.0.11"}]


def test_time_is_for_all_networks(plan):
    assert plan(SITE)["ntp"]["allow"] == [
        *("10.77.0.0/24", "10.50.0.0/16", "203.0.113.16/28", "10.20.0.0/24", "10.30.0.0/24"),
        "10.8.0.0/16",
    ]


def test_dhcp_of_a_network_says_what_the_network_has(plan):
    found = {each["name"]: each["dhcp"] for each in plan(SITE)["networks"]}
    assert found["servers"] == {
        "enabled": True,  # for the printer alone
        "pool": None,
        "further_pools": [],
        "lease_time": "12h",
        "router": "10.30.0.1",
        "dns": ["10.30.0.1"],
        "ntp": ["10.30.0.2", "10.30.0.3"],
        "domain": "example.internal",
        "options": [],
        "boot": None,
        "register": True,
    }
    assert found["dmz"]["enabled"] is False
    assert found["guest"] == {
        "enabled": True,
        "pool": ["10.20.0.50", "10.20.0.99"],
        "further_pools": [["10.20.0.150", "10.20.0.250"]],
        "lease_time": "12h",
        "router": "10.20.0.1",
        "dns": ["10.20.0.1"],
        "ntp": ["10.20.0.7", "10.20.0.3"],
        "domain": "guest.example.net",
        "options": [["ip-forward-enable", "0"], ["150", "10.20.0.9"]],
        "boot": {"file": "pxelinux.0", "efi_file": "grubx64.efi", "server": "10.20.0.9"},
        "register": False,  # it has no names of the site
    }


def test_dhcp_of_a_network_says_what_the_pillar_says(plan):
    said = {
        "pool": "10.30.0.50-10.30.0.59",
        "lease_time": "1d",
        "router": "10.30.0.9",
        "dns": ["192.0.2.53", "192.0.2.54"],
        "ntp": ["192.0.2.123"],
        "options": {"tftp-server-address": ["10.30.0.8", "10.30.0.9"]},
        "boot": {"efi_file": "grubx64.efi", "server": "10.30.0.9"},
    }
    found = {
        each["name"]: each["dhcp"]
        for each in plan({**SITE, "networks:servers:dhcp": said})["networks"]
    }["servers"]
    assert found == {
        **said,
        "enabled": True,
        "pool": ["10.30.0.50", "10.30.0.59"],
        "further_pools": [],
        "domain": "example.internal",
        "options": [["tftp-server-address", "10.30.0.8,10.30.0.9"]],
        "boot": {"file": "grubx64.efi", "efi_file": "grubx64.efi", "server": "10.30.0.9"},
        "register": True,
    }


@pytest.mark.parametrize(
    "option",
    [1, "3", "router", 6, 15, "domain-search", 42, 51, 54, 61, 67, "bootfile-name", 0, 255],
)
def test_what_dhcp_says_by_itself_is_no_option(edit, option):
    pillar = edit({**SITE, "networks:guest:dhcp:options": {option: "10.20.0.9"}})
    site, errors = _gateway_plan.read(pillar)
    assert site is None
    assert any(
        each.startswith(f"gateway:networks:guest:dhcp:options:{option}: ") for each in errors
    )


def test_where_phones_find_their_settings_is_text(plan):
    """dnsmasq makes four bytes of an address without quotes."""
    options = {66: "10.20.0.9", "tftp-server": "http://10.20.0.9/a", 150: "10.20.0.9"}
    [guest] = [
        each
        for each in plan({**SITE, "networks:guest:dhcp:options": options})["networks"]
        if each["name"] == "guest"
    ]
    assert guest["dhcp"]["options"] == [
        ["tftp-server", '"http://10.20.0.9/a"'],
        ["150", "10.20.0.9"],
        ["66", '"10.20.0.9"'],
    ]


@pytest.mark.parametrize("node", ["gw1", "gw2"])
def test_ways_back_lead_to_the_peer_in_the_same_network(plan, node):
    clients = {"branch": {"networks": ["10.60.0.0/24"]}}
    found = plan({**SITE, "vpn:clients": clients}, node=node)
    peer = {each["name"]: each["peers"][0]["address"] for each in found["networks"]}
    subnet = "10.8.1.0/24" if node == "gw1" else "10.8.0.0/24"
    assert found["ways_back"] == [
        {
            "interface": each["interface"],
            "table": int(IPv4Address(each["virtual_ip"])),
            "routes": [
                {"destination": subnet, "via": peer[each["name"]]},
                {"destination": "10.60.0.0/24", "via": peer[each["name"]]},
            ],
        }
        for each in found["networks"]
    ]
    assert peer["guest"] == ("10.20.0.3" if node == "gw1" else "10.20.0.7")
    assert found["inside_routes"] == [
        {
            "destination": "10.50.0.0/16",
            "via": "10.77.0.254",
            "network": "internal",
            "interface": "eth0",
        }
    ]


# --------------------------------------------------------------------------------------------------
# What is rendered


def many(count):
    """So many networks, each with DHCP."""
    return {
        f"net{number:02}": {
            "interface": f"eth0.{number + 10}",
            "network": f"10.{100 + number}.0.0/24",
            "virtual_ip": f"10.{100 + number}.0.1",
            "dhcp": {"pool": f"10.{100 + number}.0.50-10.{100 + number}.0.99"},
        }
        for number in range(count)
    }


def test_sixty_networks_take_no_state_more_than_one(render):
    """An apply with nothing to do takes its time by states."""
    one, sixty = (render("example", changes={"networks": many(count)}) for count in (1, 60))
    assert sixty.ids.keys() == one.ids.keys()
    assert sixty.files.keys() == one.files.keys()


def ranges(found, in_sync=True):
    """The ranges that gateway-leases tells dnsmasq."""
    parts = [json.loads(found.files[f"/etc/gateway/{n}.json"]) for n in ("leases", "lease-hosts")]
    return Orders(parts[0] | parts[1]).ranges(in_sync)


def test_no_network_has_a_tag_that_is_dnsmasq_s_own_or_another_s(render):
    """Known clients have the tag `known`, and who comes by an interface has its name."""
    boot = {"file": "a.0", "server": "192.0.2.9"}
    names = ("known", "guest", "efi-guest")
    networks = dict(zip(names, many(3).values(), strict=True))
    networks["guest"]["dhcp"]["boot"] = boot
    found = render("example", changes={"networks": networks})
    text = found.files["/etc/gateway/dhcp.conf"]
    told = [*text.splitlines(), *ranges(found)]
    tags = {line.split("set:")[1].split(",")[0] for line in told if "set:" in line}
    assert tags == {"network-internal", *(f"network-{name}" for name in names), "efi-guest"}
    assert "dhcp-boot=tag:network-guest,tag:efi-guest,a.0,,192.0.2.9" in text.splitlines()


def test_without_table_filter_nothing_gets_in_from_the_public_side(router):
    """What is for somebody else's interface is for others to judge."""
    found = router(SITE)
    found.chains[4]["filter", "FORWARD"].clear()
    inside = ("10.77.0.10", "10.20.0.60", "10.30.0.60", "203.0.113.20", "10.8.0.6")
    for address in inside:
        assert found.meets(packet(f"eth1 192.0.2.1>{address} tcp/80")) == "dropped", address
    for flow in ("eth1 192.0.2.1>172.17.0.2 tcp/80", "eth0 10.77.0.10>192.0.2.1 tcp/80"):
        assert found.meets(packet(flow)).startswith("nobody says"), flow


@pytest.mark.parametrize("node", ["gw1", "gw2"])
def test_nobody_gets_addresses_of_a_network_by_another_s_interface(render, node):
    """A relay says for which network it asks, and so does who renews an address. A guest that says
    so could take the pool of another network."""
    changes = {**SITE, "networks:dmz:dhcp": {"pool": "203.0.113.20-203.0.113.25"}}
    found = render("example", node=node, changes=changes)
    assert "dhcp-range" not in found.files["/etc/gateway/dhcp.conf"]
    for in_sync in (True, False):
        shares = 2 if in_sync else 1  # of each pool, for each node
        assert [line.split(",")[:2] for line in ranges(found, in_sync)] == [
            [f"dhcp-range=tag:{interface}", f"set:network-{name}"]
            for interface, name in (
                *[("eth0", "internal")] * shares,
                *[("eth4" if node == "gw1" else "eth5", "dmz")] * shares,
                *[("eth0.20", "guest")] * 2 * shares,
                ("eth3", "servers"),
            )
        ]


# --------------------------------------------------------------------------------------------------
# Ways back


@pytest.mark.scripts
def test_the_unit_of_the_routes_starts_where_they_are_already(render, plan, tmp_path):
    """At a first apply the state has set them before the unit starts."""
    found = render("networks")
    routes = tmp_path / "routes"
    routes.write_text(found.files["/etc/gateway/routes"])
    unit = found.files["/etc/systemd/system/gateway-routes.service"]
    starts = [
        command.replace("/etc/gateway/routes", str(routes))
        for command in re.findall(r"(?m)^ExecStart\w*=(.+)$", unit)
    ]
    own = plan(SITE)
    sides = [{**own["internal"], "address": own["node"]["internal"]}, *own["networks"]]
    script = ["set -e"]
    for number, side in enumerate(sides):
        card, length = side["interface"], side["network"].partition("/")[2]
        script += [
            f"ip link add {card} type veth peer name peer{number}",
            f"ip link set {card} up; ip link set peer{number} up",
            f"ip address add {side['address']}/{length} dev {card}",
        ]
    script += [*starts, *starts, "ip -4 rule show"]
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", "\n".join(script)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.count("proto 121") == len(own["ways_back"]) > 1
