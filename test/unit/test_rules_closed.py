"""The firewall's rules: where some of them are gone, and the closed ones."""

import pytest
from iptables_reader import SITES, Node, packet, read_rules

FROM_OUTSIDE = [
    "eth1 192.0.2.1>10.77.0.10 tcp/443",
    "eth1 192.0.2.1>10.8.0.6 tcp/443",
    "eth1 2001:db8::1>fd77::9 tcp/443",
    "eth1 2001:db8::1>fd08::9 tcp/443",
]


@pytest.mark.parametrize("flow", FROM_OUTSIDE)
@pytest.mark.parametrize("table", ["raw", "mangle", "nat", "filter"])
def test_without_one_of_its_tables_a_node_lets_nobody_in(router, table, flow):
    found = router()
    for chains in found.chains.values():
        chains.update({place: [] for place in chains if place[0] == table})
    assert found.meets(packet(flow)) == ("gated" if table == "mangle" else "dropped")


def test_without_our_rules_nothing_is_forwarded(router):
    found = router()
    for chains in found.chains.values():
        chains.update({place: [] for place in chains})
    forwarded = [*FROM_OUTSIDE, "eth0 10.77.0.10>192.0.2.1 tcp/443", "eth0 fd77::9>2001:db8::1 gre"]
    assert {found.meets(packet(flow)) for flow in forwarded} == {"gated"}
    assert found.meets(packet("self 10.77.0.2>192.0.2.1 tcp/443")) == "nobody says"


CLOSED = [
    *((flow, "gated") for flow in FROM_OUTSIDE),
    ("eth0 10.77.0.10>192.0.2.1 tcp/443", "gated"),
    ("docker0 172.17.0.2>192.0.2.1 tcp/443", "gated"),
    ("eth1 192.0.2.1>198.51.100.2 tcp/443", "dropped"),  # a port forward
    ("eth1 192.0.2.1>198.51.100.2 udp/1194", "dropped"),
    ("eth1 192.0.2.99>198.51.100.2 tcp/22", "dropped"),
    ("eth1 203.0.113.9>198.51.100.2 tcp/22", "accepted"),
    ("eth1 192.0.2.5>198.51.100.2 tcp/22", "accepted"),  # of a group: there are no sets
    ("eth1 192.0.2.1>198.51.100.2 tcp/4506 ESTABLISHED", "accepted"),
    ("eth1 192.0.2.1>198.51.100.2 icmp/8", "accepted"),
    ("eth0 10.77.0.10>10.77.0.2 tcp/22", "accepted"),
    ("eth0 10.77.0.10>10.77.0.2 udp/53", "dropped"),
    ("eth0 0.0.0.0>255.255.255.255 udp/67 from=68", "dropped"),
    ("vpn-main 10.8.0.6>10.77.0.2 udp/53", "dropped"),
    ("eth0 10.77.0.3>10.77.0.2 112 hops=255", "accepted untracked"),
    ("eth0 10.77.0.66>10.77.0.2 112 hops=255", "dropped"),
    ("eth2 10.99.0.9>10.77.0.2 tcp/22", "nobody says"),
    ("lo 10.77.0.1>10.77.0.1 tcp/9999", "accepted"),
    ("eth1 2001:db8::1>fd51::1 tcp/22", "dropped"),
    ("eth1 fe80::1>fd51::1 icmp/135 hops=255", "accepted"),
    ("eth1 fe80::1>fd51::1 udp/546 from=547", "accepted"),
    ("eth1 192.0.2.1>198.51.100.2 udp/68 from=67", "dropped"),
    ("eth0 fd77::9>fd77::1 udp/53", "dropped"),
]


@pytest.mark.parametrize(("flow", "expected"), CLOSED)
def test_closed(router, flow, expected):
    """What is in force where the rules cannot be loaded."""
    ssh = {"ssh": {"from": ["few", "203.0.113.9"]}, "groups": {"few": ["192.0.2.0/29"]}}
    found = closed(router({"firewall": ssh | {"input": [{"from": "public", "ports": 8080}]}}))
    assert found.meets(packet(flow)) == expected


def test_a_closed_node_keeps_the_address_that_it_gets_by_dhcp(router):
    found = closed(router({"nodes:gw1:public": ..., "nodes:gw2:public": ...}))
    flow = "198.51.100.1>255.255.255.255 udp/68 from=67"
    assert found.meets(packet(f"eth1 {flow}")) == "accepted"
    assert found.meets(packet(f"eth0 {flow}")) == "dropped"


def closed(found):
    found.chains = {
        version: read_rules(found.texts[f"closed{version}"], version) for version in (4, 6)
    }
    found.sets = {}
    return found


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        ("eth0 10.77.0.10>10.77.0.2 tcp/22", "accepted"),
        ("eth0 10.77.0.11>10.77.0.2 tcp/22", "dropped"),
        ("eth1 10.77.0.10>198.51.100.2 tcp/22", "dropped"),  # forged
        ("eth2 10.77.0.10>10.77.0.2 tcp/22", "dropped"),
        ("vpn-main 10.8.0.6>10.77.0.2 tcp/22", "accepted"),
        ("vpn-main 10.8.0.5>10.77.0.2 tcp/22", "dropped"),
        ("eth1 192.0.2.5>198.51.100.2 tcp/22", "dropped"),
        ("eth1 100.64.250.1>198.51.100.2 tcp/22", "dropped"),  # the last one of a long group
        ("eth1 203.0.113.9>198.51.100.2 tcp/22", "accepted"),
        ("eth1 203.0.113.9>198.51.100.2 tcp/8080", "dropped"),
        ("eth1 203.0.113.9>198.51.100.2 udp/22", "dropped"),
        ("eth0 fd77::9>fd77::1 tcp/22", "dropped"),
    ],
)
def test_closed_is_no_more_open_for_ssh_than_the_pillar(router, flow, expected):
    bad = [f"100.64.{n}.1" for n in range(251)]
    rules = [
        {"from": "bad", "action": "drop"},
        {"from": "backend01", "ports": "20-30", "limit": "9/minute"},
        {"from": "internal", "ports": 22, "action": "reject"},
        {"from": "10.8.0.5", "proto": "both", "ports": [80, 22], "action": "drop"},
        {"from": "203.0.113.9", "ports": 8080},
        {"from": "vpn", "ports": 22, "proto": "udp", "action": "drop"},
    ]
    ssh = {"from": ["203.0.113.9", "100.64.0.0/10"]}
    firewall = {"input": rules, "groups": {"bad": [*bad, "192.0.2.5"]}, "ssh": ssh, "log": True}
    found = closed(router({"firewall": firewall}))
    assert found.meets(packet(flow)) == expected
    assert "LOG" not in found.texts["closed4"]


def test_the_closed_rules_need_nothing_that_was_wrong_with_the_others(router):
    """No sets, no lines of the pillar's, no NAT; a group of thousands does not make it long."""
    many = [f"10.{n // 256}.{n % 256}.0/24" for n in range(3000)]
    raw = {"filter": {"INPUT": ["-s 192.0.2.77 -j ACCEPT"]}}
    firewall = {"ssh": {"from": "many"}, "groups": {"many": many}, "raw": raw}
    texts = router({"firewall": firewall}).texts
    for family in ("closed4", "closed6"):
        assert "--match-set" not in texts[family]
        assert "192.0.2.77" not in texts[family]
        assert len(texts[family].splitlines()) < 300


def test_nobody_elsewhere_is_taken_for_somebody_inside(router):
    """Whoever a rule names by an address of the inside: elsewhere nobody has it."""
    found = router(
        {
            "vpn:clients": {"alice": {"id": 9}, "branch": {"networks": ["10.50.0.0/24"]}},
            "firewall": {
                "spoof_protection": False,
                "groups": {"admins": ["alice", "backend01", "branch"]},
                "input": [{"from": ["admins", "vpn", "alice", "10.77.0.11"], "ports": 9100}],
                "forward": [{"from": ["admins", "main"], "to": "public"}],
            },
        }
    )
    for source, inside in [
        *(("10.8.0.9", side) for side in ("vpn-main",)),
        *(("10.8.1.9", side) for side in ("eth0", "vpn-main")),
        *(("10.50.0.5", side) for side in ("eth0", "vpn-main")),
        ("10.77.0.10", "eth0"),
    ]:
        for interface in ("eth0", "vpn-main", "eth1", "eth9", "vpn-other"):
            there = interface == inside or (source, interface) in {
                ("10.8.1.9", "eth0"),
                ("10.8.1.9", "vpn-main"),
                ("10.50.0.5", "eth0"),
                ("10.50.0.5", "vpn-main"),
            }
            expected = "accepted" if there else "dropped"
            flow = f"{interface} {source}>198.51.100.2 tcp/9100"
            assert found.meets(packet(flow)) == expected, flow
            flow = f"{interface} {source}>192.0.2.1 tcp/443"
            assert found.meets(packet(flow)).split(" as ")[0] == expected, flow


def test_router_advertisements_where_the_pillar_wants_them(router):
    found = router({"public:accept_ra": True})
    assert found.meets(packet("eth1 fe80::1>fd51::1 icmp/134 hops=255")) == "accepted"
    assert found.meets(packet("eth1 fe80::1>fd51::1 icmp/134 hops=64")) == "dropped"
    assert found.meets(packet("eth0 fe80::1>fd77::1 icmp/134 hops=255")) == "refused"


@pytest.mark.parametrize("site", SITES)
def test_only_tunnels_of_ours_are_the_inside(router, site):
    """An interface of a user's may be called alike."""
    assert "vpn-+" not in router(SITES[site]).texts["v4"] + router(SITES[site]).texts["v6"]


def named(rule):
    return {(option, values) for _, option, values in rule.matches}


def called_with_the_way(chains, place, asked):
    """Whether whatever leads to a chain of ours names the way by which a packet comes."""
    callers = [
        (other, rule)
        for other, rules in chains.items()
        for rule in rules
        if other[0] == place[0] and rule.target == f"GATEWAY-{place[1]}"
    ]
    return bool(callers) and all(
        rule.values("-i") or named(rule) & asked or called_with_the_way(chains, other, asked)
        for other, rule in callers
    )


@pytest.mark.parametrize("site", SITES)
def test_what_accepts_a_new_connection_names_the_way_it_comes(router, site):
    """Itself, or by an address that chain SOURCES has asked about."""
    plan = router(SITES[site]).plan
    for kind in ("input", "forward", "egress_allowed", "raw"):  # the pillar's say what they like
        plan["firewall"][kind] = []
    found = Node(plan)
    networks = found.plan["vpn"]["servers"]
    asked = {("-s", (server["network"],)) for server in networks} | {("-s", ("10.77.0.0/24",))}
    for chains in found.chains.values():
        for place, rules in chains.items():
            if place[1] == "OUTPUT" or called_with_the_way(chains, place, asked):
                continue
            for rule in rules:
                if rule.target not in ("ACCEPT", "CT"):
                    continue
                if rule.values("--ctstate") == ("RELATED,ESTABLISHED",):
                    continue
                assert rule.values("-i") or named(rule) & asked, (place, rule.text)
