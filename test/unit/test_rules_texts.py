"""The firewall's rules: their texts, sets and logs, and who may come in."""

import re
from typing import Any

import _gateway_policy
import _gateway_rules
import pytest
from _gateway_iptables import BUILT_IN, CHAINS
from iptables_reader import RICH, SITES, packet

# --------------------------------------------------------------------------------------------------
# What is logged


def logs(router, flow):
    found = packet(flow)
    router.meets(found)
    return found.logs


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        ("eth1 192.0.2.1>198.51.100.2 tcp/22", ["gateway input: "]),
        ("eth1 192.0.2.1>10.77.0.1 tcp/22", ["gateway input: "]),
        ("eth1 10.77.0.9>198.51.100.2 tcp/22", []),  # spoof protection does not log
        ("eth9 10.77.0.9>192.168.9.2 tcp/22", ["gateway input: "]),
        ("eth9 10.77.0.9>10.77.0.10 tcp/22", ["gateway forward: "]),
        ("eth1 10.8.99.1>198.51.100.2 tcp/22", ["gateway source: "]),
        ("eth1 10.8.99.1>10.77.0.10 tcp/22", ["gateway source: "]),
        ("eth0 10.77.0.10>10.77.0.1 tcp/80", ["gateway input: "]),
        ("vpn-main 10.8.0.6>192.0.2.1 tcp/80", ["gateway forward: "]),
        ("eth1 192.0.2.1>10.77.0.10 tcp/22", ["gateway forward: "]),
        ("docker0 172.17.0.2>10.77.0.10 tcp/22", ["gateway forward: "]),
        ("eth1 2001:db8::1>fd51::1 tcp/22", ["gateway input: "]),
        ("eth1 192.0.2.1>198.51.100.2 tcp/22 over", []),
        ("eth0 10.77.0.10>192.0.2.1 tcp/443", []),
        ("eth0 10.77.0.10>10.77.0.1 udp/53", []),
    ],
)
def test_what_is_refused_is_logged(router, flow, expected):
    assert logs(router({"firewall": {"log": True}}), flow) == expected
    assert logs(router(), flow) == []


def test_what_a_1_to_1_address_does_not_let_in_is_logged(router):
    changes = {key: value for key, value in RICH.items() if key.startswith("public")}
    one_to_one = {"nat:one_to_one": RICH["nat:one_to_one"], "firewall": {"log": True}}
    assert logs(router(changes | one_to_one), "eth1 192.0.2.1>198.51.100.12 tcp/443") == [
        "gateway forward: "
    ]


@pytest.mark.parametrize("interface", ["eth0", "vpn-main", "eth1", "docker0"])
def test_what_may_leave_comes_from_inside(router, interface):
    """Whatever addresses the list names: the public side is not led back to the public side."""
    listed = [{"from": ["203.0.113.0/24", "2001:db8:9::/64"]}]
    rules = {"egress": "deny", "egress_allowed": listed, "spoof_protection": False}
    found = router({"firewall": rules})
    expected = {"eth1": "dropped", "docker0": "nobody says"}.get(interface, "accepted")
    for flow in ("203.0.113.9>192.0.2.1 tcp/443", "2001:db8:9::9>2001:db8::1 tcp/443"):
        assert found.meets(packet(f"{interface} {flow}")) == expected


def test_logs_of_rules(router):
    rules = {
        "egress": "deny",
        "egress_allowed": [{"ports": 443, "log": True}],
        "input": [{}, {"from": "public", "ports": 25, "action": "drop", "log": True}],
        "forward": [{"from": "internal", "proto": "udp", "action": "reject", "log": True}],
        "log_limit": "7/minute",
    }
    found = router({"firewall": {**rules, "input": rules["input"][1:]}})
    for flow, expected in [
        ("eth1 192.0.2.1>198.51.100.2 tcp/25", "gateway input:0 drop: "),
        ("eth0 10.77.0.10>192.0.2.1 udp/53", "gateway forward:0 reject: "),
        ("eth0 10.77.0.10>192.0.2.1 tcp/443", "gateway egress:0 accept: "),
        ("eth0 fd77::9>2001:db8::1 udp/53", "gateway forward:0 reject: "),
    ]:
        assert logs(found, flow) == [expected]
    assert logs(found, "eth1 192.0.2.1>198.51.100.2 tcp/26") == []
    assert found.texts["v4"].count("--limit 7/minute ") == found.texts["v4"].count("-j LOG ")


# --------------------------------------------------------------------------------------------------
# The texts


@pytest.mark.parametrize("site", SITES)
def test_both_families_have_the_same_chains(router, site):
    """Empty ones as well: the jumps to them never change. Of each chain that is written in there is
    one: a part for another one would be lost."""
    found = router(SITES[site])
    chains = [(table, chain) for table, names in CHAINS.items() for chain in names]
    assert list(found.chains[4]) == list(found.chains[6]) == chains
    assert set(chains) >= {*_gateway_rules.POLICY, *_gateway_rules.CLOSED}


def notes(text):
    """The comment line over each rule, and the rule, in their order."""
    note = ""
    for line in text.splitlines():
        if line.startswith("#"):
            note = line[2:]
        elif line.startswith("-A"):
            yield note, line


def test_each_rule_of_the_pillar_is_below_its_key(router):
    """So that one which iptables does not take can be named."""
    found = {
        (note, line) for family in ("v4", "v6") for note, line in notes(router(RICH).texts[family])
    }
    keys = {note for note, _ in found if note.startswith("gateway:")}
    assert keys == {
        *(f"gateway:firewall:input:{n}" for n in range(11) if n != 4),  # nobody's
        *(f"gateway:firewall:forward:{n}" for n in range(11)),
        *(f"gateway:nat:forwards:{n}" for n in range(8) if n != 5),
        *(f"gateway:nat:outbound:{n}" for n in (0, 1, 2, 5)),
        "gateway:nat:one_to_one:0",
        *(f"gateway:firewall:raw:filter:{chain}:0" for chain in ("INPUT", "FORWARD", "OUTPUT")),
        "gateway:firewall:raw:nat:PREROUTING:0",
        "gateway:firewall:raw:mangle:POSTROUTING:0",
        "gateway:firewall:raw6:filter:INPUT:0",
    }
    lines = {"-A GATEWAY-OUTPUT -d 192.0.2.77 -j DROP": "gateway:firewall:raw:filter:OUTPUT:0"}
    for note, line in found:
        assert ("-j DNAT" in line) <= note.startswith("gateway:nat:")
        assert lines.get(line, note) == note


def test_raw_lines_have_every_chain(router):
    """Those of the pillar's first key are of IPv4, those of the second of IPv6."""
    lines = {
        table: {
            chain: ["-m addrtype --src-type LOCAL -j RETURN"]
            for chain in chains
            if chain in BUILT_IN
        }
        for table, chains in CHAINS.items()
    }
    for key, version in (("raw", 4), ("raw6", 6)):
        before, after = router().chains, router({"firewall": {key: lines}}).chains
        for place, rules in after[version].items():
            more = place[1] in BUILT_IN
            assert len(rules) == len(before[version][place]) + more, place
        assert after[10 - version] == before[10 - version]


def test_comments(router):
    """A rule has its own; a forward without one has the name of its host. Rejecting reads none."""
    changes = {
        "firewall": {
            "input": [{"ports": 25, "action": "reject", "comment": "no mail, see RFC 5321"}],
            "forward": [{"action": "reject", "comment": "-p tcp is not meant"}],
        },
        "nat:forwards": [{"port": 80, "to": "www"}, {"port": 81, "to": "www", "comment": "shop 2"}],
    }
    found = router(changes)
    comments = [
        (rule.values("--comment"), rule.target, "".join(rule.values("-p")))
        for chain in (("filter", "INPUT"), ("filter", "FORWARD"), ("nat", "DNAT"))
        for rule in found.chains[4][chain]
        if rule.values("--comment")
    ]
    assert comments == [
        (("no mail, see RFC 5321",), "REJECT", "tcp"),
        (("-p tcp is not meant",), "REJECT", "tcp"),
        (("-p tcp is not meant",), "REJECT", ""),
        (("www",), "DNAT", "tcp"),
        (("shop 2",), "DNAT", "tcp"),
    ]


def test_a_limit_counts_each_source_for_itself(router):
    """Under a name of its own, which a new rate changes: the kernel keeps the old one's rate."""

    def limits(*rates):
        rules = [{"from": "internal", "ports": 80, "limit": rate} for rate in rates]
        found = router({"firewall": {"input": rules}}).chains[4]["filter", "INPUT"]
        return {
            rule.values("--hashlimit-name"): rule.values("--hashlimit-upto")
            for rule in found
            if rule.values("--hashlimit-mode") == ("srcip",)
        }

    assert list(limits("1/minute", "1/minute").values()) == [("1/minute",)] * 2
    assert not set(limits("1/minute")) & set(limits("2/minute"))
    assert limits("1/minute") == limits("1/minute")


def test_sets(router):
    found = router(RICH)
    groups = re.findall(r"(?m)^# gateway:firewall:groups:(\w+)\ncreate ", found.texts["sets"])
    assert groups == ["admins", "admins", "more", "more"]
    assert {tuple(map(str, members)) for members in found.sets.values()} == {
        ("192.0.2.0/24", "203.0.113.7/32"),
        ("2001:db8:1::/64",),
        ("203.0.113.7/32",),
    }


def test_groups_that_look_alike_have_sets_of_their_own(router):
    """The name of a set is short: the beginning of the group's name and a digest."""
    groups = {f"{'a' * 31}{n}": ["192.0.2.0/24", "2001:db8::/32"] for n in range(3)}
    found = router({"firewall": {"groups": groups}})
    assert len(found.sets) == 6


def test_a_set_has_room_for_a_large_group(router):
    members = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(10_000)]
    [(_, networks)] = router({"firewall": {"groups": {"many": members}}}).sets.items()
    assert len(networks) == 10_000


# --------------------------------------------------------------------------------------------------
# Who may come in

VISITORS = [
    ("198.51.100.77", 22),
    ("203.0.113.9", 22),
    ("203.0.113.9", 2222),
    ("203.0.113.7", 2222),
    ("192.0.2.200", 2222),
    ("192.0.3.1", 2222),
    ("192.0.2.1", 161),
    ("192.0.2.1", 162),
    ("192.0.2.1", 8080),
    ("192.0.2.9", 8080),
    ("192.0.2.1", 9100),
    ("192.0.2.1", 8090),
    ("192.0.2.1", 8101),
    ("192.0.2.1", 8200),
    ("192.0.2.1", 8300),
    ("192.0.2.1", 8301),
    ("192.0.2.1", 443),
    ("192.0.2.1", 8500),
    ("192.0.2.9", 8500),
    ("2001:db8:1::9", 2222),
    ("2001:db8:9::9", 2222),
    ("2001:db8:7::9", 2222),
]


@pytest.mark.parametrize(("address", "port"), VISITORS)
@pytest.mark.parametrize("site", ["default", "ssh", "rules"])
def test_who_is_let_in_says_what_the_rules_do(router, site, address, port):
    """The same answer as a packet gets that goes through the compiled rules."""
    ssh = {"ssh": {"from": ["admins", "203.0.113.9", "2001:db8:9::/64"], "port": 2222}}
    groups = {
        "groups": {
            "admins": ["192.0.2.0/24", "203.0.113.7", "2001:db8:1::/64"],
            "ours": ["198.51.100.2"],
        }
    }
    rules = {
        "input": [
            {"from": "192.0.2.9", "action": "drop"},
            {"from": "internal", "ports": 9100},
            {"from": "admins", "proto": "udp", "ports": 162},
            {"from": "admins", "proto": "both", "ports": 161},
            {"from": "public", "ports": ["8090-8100", 8080]},
            {"from": "203.0.113.7", "proto": "tcp", "action": "reject"},
            {"to": "198.51.100.9", "ports": 22},
            {"to": ["198.51.100.9", "198.51.100.2"], "ports": 8200, "action": "drop"},
            {"to": "198.51.100.9", "ports": 8300, "action": "drop"},
            {"to": "ours", "ports": 8301},
            {"from": "public", "ports": [443, 8200, 8300, 8301, 8500]},
        ]
    }
    forwards = [
        {"port": 443, "to": "backend01"},
        {"port": "8499-8510", "to": "backend01", "from": "192.0.2.9"},
        {"port": "8200-8301", "to": "backend01", "proto": "udp"},
    ]
    firewall = {"default": {}, "ssh": ssh | groups, "rules": ssh | groups | rules}[site]
    target = "fd51::1" if ":" in address else "198.51.100.2"
    # The forwards of a virtual IP are not those of the node's own address.
    virtual: dict[str, Any] = {
        "public:virtual_ip": "198.51.100.10",
        "public:addresses": ["198.51.100.12"],
    }
    virtual["nat:one_to_one"] = [{"address": "198.51.100.12", "to": "10.77.0.20"}]
    by_dhcp = {"nodes:gw1:public": ..., "nodes:gw2:public": ...}
    for changes, more in (({}, ()), (by_dhcp, ()), (virtual, ("198.51.100.10", "198.51.100.12"))):
        found = router({"firewall": firewall, "nat:forwards": forwards, **changes})
        found.local.add("198.51.100.2")
        for to in (target, *(more if ":" not in address else ())):
            accepted = found.meets(packet(f"eth1 {address}>{to} tcp/{port}")) == "accepted"
            assert _gateway_policy.lets_in(found.plan, address, port, to) is accepted


def test_with_lines_of_iptables_nobody_can_tell(router):
    raw = {"filter": {"INPUT": ["-p tcp --dport 22 -j ACCEPT"]}}
    found = router({"firewall": {"raw": raw}})
    assert _gateway_policy.lets_in(found.plan, "192.0.2.1", 22, "198.51.100.2") is True
    assert _gateway_policy.lets_in(found.plan, "2001:db8::1", 22, "fd51::1") is False
    raw = {"nat": {"PREROUTING": ["-s 192.0.2.1 -j RETURN"]}}
    found = router({"firewall": {"raw": raw}})
    assert _gateway_policy.lets_in(found.plan, "192.0.2.1", 22, "198.51.100.2") is True
