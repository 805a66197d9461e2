"""The firewall's rules: networks behind clients, state sync, bridges, segments."""

import re

import _gateway_rules
import pytest
from iptables_reader import SITES, Node, idle_rules, packet

# Networks behind clients: 10.50.0.0/24, whose client is connected to gw1 or to gw2, and
# 10.60.0.0/24, whose client is at gw2.
BRANCHES = {
    "vpn:clients": {
        "branch": {"networks": ["10.50.0.0/24"]},
        "shop": {"networks": ["10.60.0.0/24"]},
    },
    "firewall": {"spoof_protection": False},
}
BRANCH_FLOWS = {
    "here": [
        # Between it and the internal network a node may see one direction only: both go untracked.
        ("eth0 10.77.0.10>10.50.0.5 tcp/22", "accepted untracked"),
        ("vpn-main 10.50.0.5>10.77.0.10 tcp/22", "accepted untracked"),
        ("vpn-main 10.50.0.5>10.77.0.10 tcp/22 INVALID", "accepted untracked"),
        ("vpn-main 10.50.0.5>10.8.0.6 tcp/22", "accepted"),
        ("vpn-main 10.8.0.6>10.50.0.5 tcp/22", "accepted"),
        ("vpn-main 10.50.0.5>10.8.0.6 tcp/22 INVALID", "dropped"),
        ("eth0 10.8.1.6>10.50.0.5 tcp/22", "accepted"),
        ("eth0 10.60.0.5>10.50.0.5 tcp/22", "accepted"),
        ("vpn-main 10.50.0.5>10.60.0.5 tcp/22", "accepted dscp=63"),
        # What the peer has sent on arrives as it was.
        ("eth0 10.77.0.10>10.50.0.5 tcp/22 dscp=63", "accepted untracked"),
        ("eth0 10.77.0.10>10.50.0.5 tcp/22 dscp=10", "accepted dscp=10 untracked"),
        ("eth0 10.60.0.5>10.50.0.5 tcp/22 dscp=63", "accepted"),
        # The gateway's own services, but not the internet. It sees both directions of what is its
        # own, so that is tracked, as are answers to what it asks itself.
        ("vpn-main 10.50.0.5>10.77.0.1 udp/53", "accepted"),
        ("vpn-main 10.50.0.5>10.77.0.2 udp/40000 ESTABLISHED", "accepted"),
        ("vpn-main 10.50.0.5>192.0.2.1 tcp/443", "refused"),
        # A forward too: its answer comes to this node itself.
        (
            "vpn-main 10.50.0.5>198.51.100.2 tcp/443",
            "accepted at 10.77.0.10:443 as 10.77.0.2",
        ),
        ("eth0 10.77.0.10>10.77.0.2 tcp/40000 ESTABLISHED", "accepted"),
        ("eth1 192.0.2.1>198.51.100.2 tcp/443", "accepted at 10.77.0.10:443"),
        ("eth9 10.50.0.5>10.77.0.10 tcp/22", "dropped"),
        ("eth9 10.50.0.5>192.168.9.2 tcp/22", "dropped"),
        # Nobody outside has such an address, nor a way to it.
        ("eth1 10.50.0.5>10.77.0.10 tcp/22", "dropped"),
        ("eth1 10.50.0.5>10.8.0.6 tcp/22", "dropped"),
        ("eth1 10.50.0.5>198.51.100.2 udp/1194", "dropped"),
        ("eth1 192.0.2.1>10.50.0.5 tcp/22", "dropped"),
        ("docker0 172.17.0.2>10.50.0.5 tcp/22", "dropped"),
    ],
    "at the peer": [
        # It goes on to the peer, with a mark; with that mark it does not go back.
        ("eth0 10.77.0.10>10.50.0.5 tcp/22", "accepted dscp=63 untracked"),
        ("vpn-main 10.8.0.6>10.50.0.5 tcp/22", "accepted dscp=63"),
        ("eth0 10.77.0.10>10.50.0.5 tcp/22 dscp=63", "dropped"),
        ("eth0 10.8.1.6>10.50.0.5 tcp/22 dscp=63", "dropped"),
        ("eth0 10.50.0.5>10.8.0.6 tcp/22", "accepted"),
        ("eth0 10.50.0.5>192.0.2.1 tcp/443", "refused"),
        ("eth0 10.50.0.5>10.77.0.1 udp/53", "accepted"),
        ("eth0 10.50.0.5>10.77.0.2 udp/40000 ESTABLISHED", "accepted"),
        ("eth1 10.50.0.5>10.77.0.10 tcp/22", "dropped"),
        ("eth1 192.0.2.1>10.50.0.5 tcp/22", "dropped"),
    ],
}


@pytest.fixture
def branch(router):
    """gw1 of a site with networks behind clients; whether the branch's client is there."""

    def connected(here, name="gw1"):
        found = router(BRANCHES, name)
        halves = dict.fromkeys(("10.50.0.0/25", "10.50.0.128/25"), "vpn-main") if here else {}
        found.routes = halves | found.routes
        return found

    return connected


@pytest.mark.parametrize(
    ("where", "flow", "expected"),
    [(where, flow, expected) for where, flows in BRANCH_FLOWS.items() for flow, expected in flows],
)
def test_networks_behind_clients(branch, where, flow, expected):
    assert branch(where == "here").meets(packet(flow)) == expected


def test_no_rule_for_networks_behind_clients_is_without_a_flow(branch):
    idle = [idle_rules(branch(where == "here"), flows) for where, flows in BRANCH_FLOWS.items()]
    # As in IDLE: only a rule of the pillar would keep the untracked direction back.
    assert {rule for rule in set.intersection(*idle) if "10.50.0.0/24" in rule} == {
        "-d 10.50.0.0/24 -j GATEWAY-HAIRPIN"
    }


# State sync over eth3. While the link is down, the way to the peer's address there is the default
# route. Rules of the pillar and spoof protection are no part of what keeps it closed.
LINK = {
    "public:virtual_ip": "198.51.100.10",
    "state_sync": {"interface": "eth3"},
    "nodes:gw1:sync": "10.78.0.2",
    "nodes:gw2:sync": "10.78.0.3",
    "firewall": {
        "spoof_protection": False,
        "input": [{"ports": "1-65535", "proto": "both", "action": "accept"}],
    },
}
LINK_FLOWS = {
    "up": [
        ("eth3 10.78.0.3>10.78.0.2 udp/3780", "accepted untracked"),
        ("self 10.78.0.2>10.78.0.3 udp/3780", "nobody says untracked"),
        ("eth3 10.78.0.3>10.78.0.2 tcp/3781", "accepted"),
        ("eth3 10.78.0.9>10.78.0.2 tcp/3781", "dropped"),
        ("lo 10.78.0.2>10.78.0.2 tcp/3781", "dropped"),
        ("lo 10.78.0.3>10.78.0.2 tcp/3781", "dropped"),
        ("eth0 10.78.0.3>10.78.0.2 tcp/3781", "dropped"),
        ("eth1 10.78.0.3>10.78.0.2 tcp/3781", "dropped"),
        ("docker0 172.17.0.2>10.78.0.2 tcp/3781", "dropped"),
        # Nobody else on the link, from nowhere else, to no other address.
        ("eth3 10.78.0.9>10.78.0.2 udp/3780", "dropped"),
        ("eth3 10.78.0.3>10.77.0.2 udp/3780", "dropped"),
        ("eth3 10.77.0.3>10.78.0.2 udp/3780", "dropped"),
        ("eth3 fe80::3>fd77::1 udp/3780", "dropped"),
        ("eth0 10.77.0.3>10.77.0.2 udp/3780", "dropped"),
        ("eth0 10.77.0.3>10.78.0.2 udp/3780", "dropped"),
        ("eth0 10.78.0.3>10.78.0.2 udp/3780", "dropped"),
        ("eth0 fd77::9>fd77::1 udp/3780", "dropped"),
        ("vpn-main 10.8.0.6>10.77.0.2 udp/3780", "dropped"),
        ("docker0 172.17.0.2>10.78.0.2 udp/3780", "dropped"),
        # No program of the node's own either, whatever address it takes.
        ("lo 10.78.0.2>10.78.0.2 udp/3780", "dropped"),
        ("lo 10.78.0.3>10.78.0.2 udp/3780", "dropped"),
        # The peer's address is on the link alone, and so is the node's.
        ("eth0 10.78.0.3>10.77.0.2 tcp/22", "dropped"),
        ("eth0 10.78.0.3>192.0.2.1 tcp/443", "dropped"),
        ("eth1 10.78.0.3>198.51.100.2 tcp/22", "dropped"),
        ("eth0 10.77.0.10>10.78.0.2 tcp/22", "dropped"),
        ("docker0 172.17.0.2>10.78.0.2 tcp/22", "dropped"),
        ("lo 10.78.0.2>10.78.0.2 tcp/22", "accepted"),
        # What else the nodes say on it is left to the machine's own rules.
        ("eth3 10.78.0.3>10.78.0.2 icmp/8", "nobody says"),
        # It leads nowhere.
        ("docker0 172.17.0.2>10.78.0.3 tcp/22", "dropped"),
        ("docker0 fd17::2>fd78::3 tcp/22", "dropped"),
        ("eth0 10.77.0.10>10.78.0.3 udp/3780", "refused"),
        ("eth3 10.78.0.3>172.17.0.2 tcp/22", "dropped"),
        ("eth3 10.78.0.3>192.0.2.1 tcp/443", "dropped"),
        ("eth3 10.78.0.3>10.77.0.10 tcp/443", "dropped"),
        ("eth3 fd78::3>fd17::2 tcp/443", "dropped"),
    ],
    "down": [
        ("self 10.78.0.2>10.78.0.3 udp/3780", "dropped"),
        ("eth1 10.78.0.3>10.78.0.2 udp/3780", "dropped"),
        ("eth1 10.78.0.3>198.51.100.2 udp/3780", "dropped"),
        ("eth0 10.78.0.3>10.78.0.2 udp/3780", "dropped"),
    ],
}


@pytest.fixture
def linked(router):
    """gw1 with a link of the nodes' own; whether that is up."""

    def found(up):
        gateway = router(LINK)
        gateway.local.add("10.78.0.2")
        gateway.routes |= {"10.78.0.0/24": "eth3", "fd78::/64": "eth3"} if up else {}
        return gateway

    return found


@pytest.mark.parametrize(
    ("where", "flow", "expected"),
    [(where, flow, expected) for where, flows in LINK_FLOWS.items() for flow, expected in flows],
)
def test_the_link_of_state_sync(linked, where, flow, expected):
    assert linked(where == "up").meets(packet(flow)) == expected


def test_no_rule_for_the_link_is_without_a_flow(linked):
    idle = [idle_rules(linked(where == "up"), flows) for where, flows in LINK_FLOWS.items()]
    ours = re.compile("eth3|3780|10[.]78[.]")
    assert {rule for rule in set.intersection(*idle) if ours.search(rule)} == set()


def test_the_standby_translates_for_its_own_clients_alone(router):
    """A client of gw1's never leaves through gw2; the node itself keeps its address."""
    gw2 = router(SITES["full tunnel"], "gw2")
    assert gw2.meets(packet("vpn-main 10.8.1.6>192.0.2.1 tcp/443")) == "accepted as eth1"
    assert gw2.meets(packet("eth0 10.8.0.6>192.0.2.1 tcp/443")) == "accepted"
    assert gw2.meets(packet("self 10.77.0.3>192.0.2.1 tcp/443")) == "nobody says"
    assert gw2.meets(packet("eth0 10.77.0.10>10.8.0.6 tcp/22 INVALID")) == "accepted untracked"
    assert gw2.meets(packet("eth0 10.77.0.2>10.77.0.3 112")) == "accepted untracked"


def test_three_nodes(router):
    third = {"nodes:gw3": {"id": 7, "internal": "10.77.0.4", "public": "198.51.100.4"}}
    found = router(third)
    for peer in ("10.77.0.3", "10.77.0.4"):
        assert found.meets(packet(f"eth0 {peer}>10.77.0.2 112")) == "accepted untracked"
    for client in ("10.8.1.6", "10.8.6.6"):
        assert (
            found.meets(packet(f"eth0 10.77.0.10>{client} tcp/22 INVALID")) == "accepted untracked"
        )


# --------------------------------------------------------------------------------------------------
# The size of segments


@pytest.mark.parametrize(
    ("flow", "clamped"),
    [
        ("vpn-main 10.8.0.6>10.77.0.10 tcp/443", True),
        ("eth0 10.77.0.10>10.8.0.6 tcp/443", True),
        ("vpn-main fd08::9>fd77::9 tcp/443", True),
        ("eth0 10.77.0.10>192.0.2.1 tcp/443", True),
        ("eth1 198.51.100.50>198.51.100.2 tcp/443", True),
        ("eth1 2001:db8::1>fd77::9 tcp/443", True),
        ("eth9 192.168.9.9>172.17.0.2 tcp/443", False),
        ("eth0 10.77.0.10>172.17.0.2 tcp/443", False),
        ("vpn-main 10.8.0.6>10.77.0.10 udp/443", False),
        ("eth0 10.77.0.10>192.0.2.1 udp/443", False),
    ],
)
def test_segments_fit_into_a_tunnel_and_the_uplink(router, flow, clamped):
    for mss, expected in (("pmtu", "pmtu"), (1300, "pmtu 1300")):
        found = packet(flow)
        router({"firewall": {"mss": mss}}).meets(found)
        assert found.mss == (expected if clamped else "")


def test_a_fixed_size_only_replaces_larger_ones(router):
    def clamps(found):
        rules = found.chains[4]["mangle", "FORWARD"]
        return [rule.values("--mss") for rule in rules if rule.target == "TCPMSS"]

    # On the uplink and in the tunnel, in both directions; what fits into the path always counts.
    assert clamps(router({"firewall": {"mss": 1300}})) == [(), ("1301:65535",)] * 4
    assert clamps(router()) == [()] * 4
    assert clamps(router({"vpn": ...})) == [()] * 2


# --------------------------------------------------------------------------------------------------
# Bridges (test/flows/test_bridge.py sends frames through one)


def test_only_a_node_that_needs_it_asks_for_bridged_frames(plan):
    """The match makes the kernel load a module, with which every bridge's frames pass iptables."""
    found = plan()
    assert "physdev" not in str(_gateway_rules.ruleset(found))
    texts = _gateway_rules.ruleset(found, ["eth0"])
    for family in ("v4", "v6"):
        assert "-A GATEWAY-FORWARD -i eth0 -o eth0 -m physdev --physdev-is-bridged -j ACCEPT" in (
            texts[family].splitlines()
        )
        closed = texts[f"closed{family[1]}"]
        assert "physdev" not in closed
        assert closed.index("-i eth0 -o eth0 -j ACCEPT") < closed.index("FORWARD -j DROP")


@pytest.mark.parametrize(
    "flow", ["eth0 203.0.113.9>10.77.0.1 udp/53", "eth0 fd99::9>fd77::1 udp/53"]
)
def test_a_bridge_does_not_make_forged_sources_welcome(plan, flow):
    for bridges in ([], ["eth0"]):
        found = Node(plan(), bridges)
        assert found.meets(packet(flow)) == "dropped"
    on = flow.replace("10.77.0.1", "192.0.2.1").replace("fd77::1", "2001:db8::1")
    assert found.meets(packet(on)) == "dropped"
    # Without the protection nobody looks.
    careless = Node(plan({"firewall": {"spoof_protection": False}}), ["eth0"])
    assert careless.meets(packet(flow)) == "accepted"
