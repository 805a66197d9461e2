"""The firewall's policy, as the pillar says it."""

import pytest

# --------------------------------------------------------------------------------------------------
# What is rejected: a change of the example (`...` removes a key), where the error is, what it says

REJECTED = {
    # one value, and not several
    "list of protocols": (
        {"firewall": {"input": [{"proto": ["tcp", "udp"], "ports": 53}]}},
        "firewall:input:0:proto",
        "must be one protocol (both is tcp and udp), is a list",
    ),
    "wildcard in a rule": (
        {"hosts:backend01:aliases": ["*.apps"]}
        | {"firewall": {"input": [{"from": "*.apps", "action": "drop"}]}},
        "firewall:input:0:from",
        "there is nothing called *.apps",
    ),
    # DNS and DHCP
    "rule for a node by its name": (
        {"firewall:input": [{"from": "GW2.example.internal"}]},
        "firewall:input:0:from",
        "gw2.example.internal is the gateway itself; a rule may name its address",
    ),
    "rule for the virtual IP by its name": (
        {"internal:aliases": ["gateway"], "firewall:groups": {"own": ["gateway"]}},
        "firewall:groups:own:0",
        "gateway is the gateway itself; a rule may name its address",
    ),
    "client and host of one name": (
        {
            "vpn:clients": {"backend01.example.internal": {"id": 5}},
            "firewall:input": [{"from": "backend01.example.internal"}],
        },
        "firewall:input:0:from",
        "backend01.example.internal is a client and a host; rename one of them",
    ),
    # forwards
    "forward of SSH's port": (
        {"nat:forwards:0:port": 22, "firewall": {"ssh": {"from": "192.0.2.1"}}},
        "firewall:ssh",
        "port 22/tcp is taken already, by gateway:nat:forwards:0:port",
    ),
    # groups
    "group name": (
        {"firewall": {"groups": {"Admins": []}}},
        "firewall:groups:Admins",
        "Admins is not a group name (small letters, digits, _ and -)",
    ),
    "group called as a side": (
        {"firewall": {"groups": {"vpn": []}}},
        "firewall:groups:vpn",
        "this is the name of something else that rules can name",
    ),
    "group called as a VPN server": (
        {"firewall": {"groups": {"main": []}}},
        "firewall:groups:main",
        "this is the name of something else that rules can name",
    ),
    "group called as an alias": (
        {"firewall": {"groups": {"www": []}}},
        "firewall:groups:www",
        "this is the name of something else that rules can name",
    ),
    "group that is no list": (
        {"firewall": {"groups": {"admins": {"192.0.2.1": None}}}},
        "firewall:groups:admins",
        "must be a list, is a mapping",
    ),
    "group of unknown hosts": (
        {"firewall": {"groups": {"admins": ["backend01", "backend02"]}}},
        "firewall:groups:admins:1",
        'there is nothing called backend02; did you mean "backend01"?',
    ),
    "group of everything": (
        {"firewall": {"groups": {"admins": ["::/0"]}}},
        "firewall:groups:admins:0",
        "::/0 is everything; leave the group out of the rule",
    ),
    "group in itself": (
        {"firewall": {"groups": {"admins": ["admins"]}}},
        "firewall:groups:admins",
        "contains itself",
    ),
    "groups in a circle": (
        {"firewall": {"groups": {"a": ["b"], "b": ["c", "192.0.2.1"], "c": ["a"], "d": ["a"]}}},
        "firewall:groups:a",
        "contains itself",
    ),
    # what a rule names
    "unknown name": (
        {"firewall": {"forward": [{"from": "intern"}]}},
        "firewall:forward:0:from",
        'there is nothing called intern; did you mean "internal"?',
    ),
    "unknown name in a list": (
        {"firewall": {"forward": [{"to": ["internal", "x"]}]}},
        "firewall:forward:0:to:1",
        "there is nothing called x",
    ),
    "VPN where there is none": (
        {"vpn": ..., "firewall": {"input": [{"from": "vpn"}]}},
        "firewall:input:0:from",
        "this site has no VPN server",
    ),
    "name of two things": (
        {"hosts:main": {"ip": "10.77.0.11"}, "firewall": {"input": [{"from": "main"}]}},
        "firewall:input:0:from",
        "main is a server and a host; rename one of them",
    ),
    "number for a name": (
        {"firewall": {"input": [{"from": 10}]}},
        "firewall:input:0:from",
        "must be text, is a number (10); put it in quotes",
    ),
    "malformed address in a rule": (
        {"firewall": {"input": [{"from": "10.77.0.310"}]}},
        "firewall:input:0:from",
        "10.77.0.310 is not an address or network",
    ),
    "malformed IPv6 network in a rule": (
        {"firewall": {"input": [{"from": "2001:db8::/129"}]}},
        "firewall:input:0:from",
        "2001:db8::/129 is not an address or network",
    ),
    "IPv6 address with a zone": (
        {"firewall": {"input": [{"from": "fe80::1%eth0"}]}},
        "firewall:input:0:from",
        "fe80::1%eth0 is not an address or network",
    ),
    "network in a rule with host bits": (
        {"firewall": {"input": [{"from": "2001:db8::1/64"}]}},
        "firewall:input:0:from",
        "2001:db8::1/64 has host bits set; the network is 2001:db8::/64",
    ),
    "nobody in a rule": (
        {"firewall": {"input": [{"from": []}]}},
        "firewall:input:0:from",
        "is empty; leave it out if any will do",
    ),
    "no destination in a rule": (
        {"firewall": {"forward": [{"to": []}]}},
        "firewall:forward:0:to",
        "is empty; leave it out if any will do",
    ),
    "no ports in a rule": (
        {"firewall": {"forward": [{"ports": []}]}},
        "firewall:forward:0:ports",
        "is empty; leave it out if any will do",
    ),
    "side as the destination of input": (
        {"firewall": {"input": [{"to": "public"}]}},
        "firewall:input:0:to",
        "public is a zone; here it must be a group, a host, or addresses such as 10.77.0.0/24",
    ),
    "VPN server as the source of SSH": (
        {"firewall": {"ssh": {"from": "main"}}},
        "firewall:ssh:from",
        "main is a server; here it must be a group, a host, or addresses such as 10.77.0.0/24",
    ),
    # the rest of a rule
    "rule that is no mapping": (
        {"firewall": {"input": ["ssh"]}},
        "firewall:input:0",
        "must be a mapping, is text",
    ),
    "rules that are no list": (
        {"firewall": {"forward": {"to": "www"}}},
        "firewall:forward",
        "must be a list, is a mapping",
    ),
    "action": (
        {"firewall": {"input": [{"action": "allow"}]}},
        "firewall:input:0:action",
        "allow is none of accept, drop, reject",
    ),
    "protocol of a rule": (
        {"firewall": {"input": [{"proto": "TCP/IP"}]}},
        "firewall:input:0:proto",
        "TCP/IP is not a protocol such as tcp, udp, both, icmp or esp",
    ),
    "number of a protocol": (
        {"firewall": {"input": [{"proto": 256}]}},
        "firewall:input:0:proto",
        "256 is not in 1 to 255",
    ),
    "ports of what has none": (
        {"firewall": {"input": [{"proto": "icmp", "ports": 8}]}},
        "firewall:input:0:ports",
        "only tcp, udp and both have ports",
    ),
    "port of a rule": (
        {"firewall": {"input": [{"ports": [22, "80-"]}]}},
        "firewall:input:0:ports:1",
        "80- is neither a port nor a range such as 8000-8100",
    ),
    "limit": (
        {"firewall": {"input": [{"limit": "10/fortnight"}]}},
        "firewall:input:0:limit",
        "10/fortnight is not a rate such as 10/minute (second, minute, hour, day)",
    ),
    "limit of a refusal": (
        {"firewall": {"forward": [{"limit": "10/minute", "action": "drop"}]}},
        "firewall:forward:0:limit",
        "is for accept, not for drop",
    ),
    "limit that the kernel does not take": (
        {"firewall": {"log_limit": "10001/second"}},
        "firewall:log_limit",
        "10001/second is not a rate such as 10/minute (second, minute, hour, day)",
    ),
    "log of a rule": (
        {"firewall": {"input": [{"log": "yes"}]}},
        "firewall:input:0:log",
        "must be true or false, is text (yes)",
    ),
    "comment of a rule": (
        {"firewall": {"input": [{"comment": ""}]}},
        "firewall:input:0:comment",
        "'' is not a comment (ASCII without quotes, braces, backslashes)",
    ),
    "key of a rule": (
        {"firewall": {"input": [{"port": 22}]}},
        "firewall:input:0:port",
        'unknown key; did you mean "ports"?',
    ),
    # the rest of the firewall
    "egress": (
        {"firewall": {"egress": "denied"}},
        "firewall:egress",
        'denied is none of allow, deny; did you mean "deny"?',
    ),
    "allowed where all is": (
        {"firewall": {"egress_allowed": [{"to": "192.0.2.1"}]}},
        "firewall:egress_allowed",
        "means nothing without egress: deny",
    ),
    "allowed with an action": (
        {"firewall": {"egress": "deny", "egress_allowed": [{"action": "accept"}]}},
        "firewall:egress_allowed:0:action",
        "unknown key",
    ),
    "allowed from outside": (
        {"firewall": {"egress": "deny", "egress_allowed": [{"from": "public"}]}},
        "firewall:egress_allowed:0:from",
        "what leaves does not come from the public side",
    ),
    "time to confirm": (
        {"firewall": {"confirm_timeout": 4}},
        "firewall:confirm_timeout",
        "4 is not in 5 to 600",
    ),
    "spoof protection": (
        {"firewall": {"spoof_protection": 1}},
        "firewall:spoof_protection",
        "must be true or false, is a number (1)",
    ),
    "segment size": ({"firewall": {"mss": 1500}}, "firewall:mss", "1500 is not in 536 to 1460"),
    "SSH's port": (
        {"firewall": {"ssh": {"port": 0}}},
        "firewall:ssh:port",
        "0 is not in 1 to 65535",
    ),
    "raw line": (
        {"firewall": {"raw": {"filter": {"INPUT": ["-p 47 -j ACCEPT", "ACCEPT"]}}}},
        "firewall:raw:filter:INPUT:1",
        "ACCEPT is not the rest of an iptables rule such as -s 192.0.2.1 -j DROP",
    ),
    "raw line in a chain that there is not": (
        {"firewall": {"raw": {"filter": {"PREROUTING": []}}}},
        "firewall:raw:filter:PREROUTING",
        "unknown key",
    ),
    "raw line in a table that there is not": (
        {"firewall": {"raw6": {"security": {}}}},
        "firewall:raw6:security",
        "unknown key",
    ),
    "raw lines that are no list": (
        {"firewall": {"raw6": {"nat": {"PREROUTING": None}}}},
        "firewall:raw6:nat:PREROUTING",
        "must be a list, is empty",
    ),
}


@pytest.mark.parametrize(("changes", "key", "message"), REJECTED.values(), ids=REJECTED)
def test_rejected(errors, changes, key, message):
    """A mistake is one error, and it names the key of the pillar that is wrong."""
    assert errors(changes) == [f"gateway:{key}: {message}"]


# --------------------------------------------------------------------------------------------------
# What is planned


def test_firewall_without_any(plan):
    assert plan()["firewall"] == {
        "confirm_timeout": 30,
        "spoof_protection": True,
        "log": False,
        "log_limit": "5/second",
        "mss": None,
        "ssh": {"port": 22, "from": []},
        "egress": "allow",
        "egress_allowed": [],
        "groups": {},
        "input": [],
        "forward": [],
        "raw": [],
    }


def test_firewall_rules(plan):
    firewall = {
        "input": [{"from": "vpn", "ports": [22, "80-90"], "limit": "3/minute"}],
        "forward": [{"to": ["WWW", "friends"], "proto": 47, "log": True, "comment": "a tunnel"}],
        "groups": {"friends": ["192.0.2.0/24"]},
    }
    found = plan({"firewall": firewall})["firewall"]
    assert found["input"] == [
        {
            "key": "gateway:firewall:input:0",
            "from": [{"address": "10.8.0.0/16"}, {"interface": "vpn-main", "family": 6}],
            "to": [],
            "proto": "tcp",
            "ports": [[22, 22], [80, 90]],
            "action": "accept",
            "limit": "3/minute",
            "log": False,
            "comment": None,
        }
    ]
    assert found["forward"] == [
        {
            "key": "gateway:firewall:forward:0",
            "from": [],
            "to": [{"address": "10.77.0.10"}, {"group": "friends"}],
            "proto": "47",
            "ports": [],
            "action": "accept",
            "limit": None,
            "log": True,
            "comment": "a tunnel",
        }
    ]


SECOND_TARGETS = [{"address": "10.9.0.0/16"}, {"interface": "vpn-second", "family": 6}]
VPN_TARGETS = [{"address": "10.8.0.0/16"}, {"interface": "vpn-main", "family": 6}]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("public", [{"interface": "wan0"}]),
        (
            "internal",
            [
                {"interface": "lan0", "address": "10.77.0.0/24"},
                {"interface": "lan0", "family": 6},
            ],
        ),
        ("main", VPN_TARGETS),
        ("vpn", [*VPN_TARGETS, *SECOND_TARGETS]),
        ("Backend01", [{"address": "10.77.0.10"}]),
        ("www", [{"address": "10.77.0.10"}]),
        ("friends", [{"group": "friends"}]),
        ("192.0.2.1/32", [{"address": "192.0.2.1"}]),
        ("2001:DB8:0::/48", [{"address": "2001:db8::/48"}]),
    ],
)
def test_what_a_name_stands_for(plan, name, expected):
    changes = {
        "nodes:gw2:internal_interface": "lan0",
        "nodes:gw2:public_interface": "wan0",
        "vpn:servers:second": {"network": "10.9.0.0/16", "port": 1195},
        "firewall": {"groups": {"friends": []}, "forward": [{"from": name}, {"to": name}]},
    }
    one, other = plan(changes, "gw2")["firewall"]["forward"]
    assert one["from"] == other["to"] == expected


def test_groups(plan):
    """Groups of groups, in any order; nothing twice; each family for itself."""
    groups = {
        "all": ["one", "two", "192.0.2.1", "Backend01"],
        "one": ["192.0.2.1/32", "2001:db8::/64", "two"],
        "two": ["WWW", "2001:db8:0:0::/64", "203.0.113.0/24"],
        "none": [],
    }
    networks = ["10.77.0.10", "203.0.113.0/24"]
    assert plan({"firewall": {"groups": groups}})["firewall"]["groups"] == {
        "all": {"v4": ["10.77.0.10", "192.0.2.1", "203.0.113.0/24"], "v6": ["2001:db8::/64"]},
        "none": {"v4": [], "v6": []},
        "one": {"v4": ["10.77.0.10", "192.0.2.1", "203.0.113.0/24"], "v6": ["2001:db8::/64"]},
        "two": {"v4": networks, "v6": ["2001:db8::/64"]},
    }


def test_egress_is_for_who_may_go_out_anyway(plan):
    """The internal network, and the clients of full tunnels; unless the rule names somebody."""
    firewall = {"egress": "deny", "egress_allowed": [{"ports": 443}, {"from": "www", "ports": 80}]}
    changes = {
        "firewall": firewall,
        "vpn:servers:second": {"network": "10.9.0.0/16", "port": 1195, "full_tunnel": True},
    }
    found = plan(changes)
    one, other = found["firewall"]["egress_allowed"]
    assert [target.get("address") for target in one["from"]] == [
        "10.77.0.0/24",
        None,
        "10.9.0.0/16",
        None,
    ]
    assert other["from"] == [{"address": "10.77.0.10"}]
    main, second = found["vpn"]["servers"]
    assert "redirect-gateway def1 ipv6" in second["pushes"]
    assert "redirect-gateway def1 ipv6" not in main["pushes"]


def test_raw_lines(plan):
    firewall = {
        "raw": {"filter": {"INPUT": ["-p 47 -j ACCEPT", '-m comment --comment "x" -j DROP']}},
        "raw6": {"mangle": {"POSTROUTING": ["-j MARK --set-mark 7"]}},
    }
    found = plan({"firewall": firewall})["firewall"]["raw"]
    assert [(raw["family"], raw["table"], raw["chain"], raw["line"]) for raw in found] == [
        (4, "filter", "INPUT", "-p 47 -j ACCEPT"),
        (4, "filter", "INPUT", '-m comment --comment "x" -j DROP'),
        (6, "mangle", "POSTROUTING", "-j MARK --set-mark 7"),
    ]
    assert [raw["key"] for raw in found] == [
        "gateway:firewall:raw:filter:INPUT:0",
        "gateway:firewall:raw:filter:INPUT:1",
        "gateway:firewall:raw6:mangle:POSTROUTING:0",
    ]


def test_mss(plan):
    assert plan({"firewall": {"mss": "pmtu"}})["firewall"]["mss"] is None
    assert plan({"firewall": {"mss": 1300}})["firewall"]["mss"] == 1300


def test_ssh_that_is_open_to_the_public_side_has_its_port(errors):
    server = {"vpn:servers:main:port": 22, "vpn:servers:main:proto": "tcp"}
    assert errors({**server, "firewall": {"ssh": {"from": "192.0.2.1"}}}) == [
        "gateway:firewall:ssh: port 22/tcp is taken already, by gateway:vpn:servers:main:port"
    ]
