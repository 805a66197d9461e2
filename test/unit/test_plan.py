"""The planner, by example. What holds for every site is in test_plan_properties.py."""

import _gateway_nodes
import _gateway_plan
import pytest
from cases import ADDRESSES, EVERYTHING
from on_node import LEASE_KEY

# --------------------------------------------------------------------------------------------------
# What is rejected: a change of the example (`...` removes a key), where the error is, what it says

REJECTED = {
    "unknown key at the top": ({"host": {}}, "host", 'unknown key; did you mean "hosts"?'),
    # one value, and not several
    "public2": ({"public2": {}}, "public2", 'unknown key; there is only one "public"'),
    "vpn_2": (
        {"vpn_2": {}},
        "vpn_2",
        'unknown key; there is only one "vpn"; further servers are gateway:vpn:servers',
    ),
    "hosts2, of which there may be many": (
        {"hosts2": {}},
        "hosts2",
        'unknown key; did you mean "hosts"?',
    ),
    **{
        f"{key} with a prefix length": (
            {key: f"{address}/24"},
            key,
            f"{address}/24 is to be written without prefix length: {address}",
        )
        for key, address in {
            "internal:virtual_ip": "10.77.0.1",
            "nodes:gw1:remote": "198.51.100.2",
            "hosts:backend01:ip": "10.77.0.10",
        }.items()
    },
    # the rest of the services
    **{
        f"{key}, which is {server}": (
            {**changes, key: ["198.51.100.100", server]},
            f"{key}:1",
            f"{server} is the gateway itself",
        )
        for key, server, changes in (
            ("dns:forwarders", "10.77.0.1", {}),
            ("dns:forwarders", "198.51.100.3", {}),
            ("dns:forwarders", "198.51.100.11", ADDRESSES),
            ("ntp:servers", "10.77.0.2", {}),
            ("health:public:targets", "198.51.100.10", ADDRESSES),
            ("health:internal:targets", "10.77.0.3", {}),
        )
    },
}


@pytest.mark.parametrize(("changes", "key", "message"), REJECTED.values(), ids=REJECTED)
def test_rejected(errors, changes, key, message):
    """A mistake is one error, and it names the key of the pillar that is wrong."""
    assert errors(changes) == [f"gateway:{key}: {message}"]


@pytest.mark.parametrize(
    ("pillar", "expected"),
    [
        (None, ["gateway: missing; see pillar.example"]),
        ("gw1", ["gateway: must be a mapping, is text"]),
        ([], ["gateway: must be a mapping, is a list"]),
        (
            {},
            [
                "gateway:domain: missing",
                "gateway:internal: missing",
                "gateway:public: missing",
                "gateway:nodes: a site needs at least one node",
            ],
        ),
    ],
    ids=["nothing", "text", "list", "empty"],
)
def test_rejected_as_a_whole(pillar, expected):
    assert _gateway_plan.read(pillar) == (None, expected)


SECTIONS = [
    "nodes:gw1",
    "nodes:gw1:pki",
    "internal",
    "public",
    "vpn",
    "vpn:servers:main",
    "vpn:servers:main:subnets",
    "vpn:pki",
    "hosts:backend01",
    "nat",
    "nat:forwards:0",
    "firewall",
    "firewall:ssh",
    "firewall:raw:filter",
    "firewall:raw6",
    "dhcp",
    "dns",
    "ntp",
    "keepalived",
]


@pytest.mark.parametrize("section", SECTIONS)
def test_unknown_keys_are_found_everywhere(errors, section):
    assert errors({f"{section}:qqq": 1}) == [f"gateway:{section}:qqq: unknown key"]


def test_names_too_long_to_show_are_still_told_apart(errors):
    one, other = "n" * 100 + "1", "n" * 100 + "2"
    shown = "gateway:nodes:" + "n" * 77 + "..."
    changes = {f"nodes:{one}": {"id": 3, "internal": "10.77.0.9"}}
    assert errors(changes) == []
    assert errors({**changes, f"nodes:{other}": {"id": 4, "internal": "10.77.0.9"}}) == [
        f"{shown}:internal: address 10.77.0.9 is taken already, by {shown}:internal"
    ]


def test_all_errors_at_once(errors):
    assert errors(
        {
            "domain": "-",
            "internal:virtual_ip": "10.77.0.2",
            "nodes:gw2:id": 1,
            "vpn:servers:main:port": 0,
            "vpn:servers:main:settings": {"verb": {}, "push": ["a", "b\n", "}"]},
            "hosts:backend01:ip": "10.78.0.10",
            "hosts:backend01:mac": "02:00",
            "dns:forwarder": [],
            "zone": 1,
        }
    ) == [
        "gateway:domain: - is not a domain name",
        "gateway:nodes:gw1:internal: address 10.77.0.2 is taken already,"
        " by gateway:internal:virtual_ip",
        "gateway:nodes:gw2:id: id 1 is taken already, by gateway:nodes:gw1:id",
        "gateway:vpn:servers:main:port: 0 is not in 1 to 65535",
        "gateway:vpn:servers:main:settings:push:1: 'b\\n' has a character that a configuration"
        " file cannot hold here (line breaks, quotes, braces, backslashes, anything but ASCII)",
        "gateway:vpn:servers:main:settings:push:2: } has a character that a configuration"
        " file cannot hold here (line breaks, quotes, braces, backslashes, anything but ASCII)",
        "gateway:vpn:servers:main:settings:verb: must be text, a number, true, or a list of"
        " these; is a mapping",
        "gateway:hosts:backend01:mac: 02:00 is not a MAC address such as 02:00:00:00:00:10",
        "gateway:nat:forwards:0:to: backend01 (10.78.0.10) is not inside 10.77.0.0/24",
        'gateway:dns:forwarder: unknown key; did you mean "forwarders"?',
        "gateway:zone: unknown key",
    ]


# --------------------------------------------------------------------------------------------------
# What is planned

BOUNDS = {
    "keepalived:router_id": (1, 255),
    "nodes:gw2:id": (1, 200),
    "nodes:gw2:priority": (1, 254),
    "failover:down_adverts": (2, 100),
    "failover:garp_repeat": (1, 20),
    "failover:garp_delay": (0, 60),
    "failover:garp_refresh": (0, 3600),
    "failover:startup_delay": (0, 60),
    "failover:realtime_priority": (0, 99),
    "failover:preempt_delay": (0, 3600),
    "firewall:mss": (536, 1460),
    "firewall:confirm_timeout": (5, 600),
    "firewall:ssh:port": (1, 65535),
    "nat:forwards:0:port": (1, 65535),
    "vpn:servers:main:port": (1, 65535),
    "vpn:servers:main:prefix": (16, 29),
    "vpn:servers:main:auth:token_lifetime": (600, 31_536_000),
}


@pytest.mark.parametrize("key", BOUNDS)
def test_bounds(errors, key):
    low, high = BOUNDS[key]

    def said(number):
        pam = {"vpn:servers:main:auth": {"pam": "openvpn"}} if "auth" in key else {}
        return [line for line in errors(pam | {key: number}) if line.startswith(f"gateway:{key}:")]

    for number in (low, high):
        assert not any("is not in" in line for line in said(number))
    for number in (low - 1, high + 1):
        assert said(number)[0].startswith(f"gateway:{key}: {number} is not in {low} to {high}")


@pytest.mark.parametrize(
    ("value", "good"),
    [(0.01, True), (40, True), (0.29, True), (0.009, False), (40.01, False), (0.015, False)],
)
def test_seconds_between_adverts(errors, value, good):
    assert (errors({"failover:advert_interval": value}) == []) is good


def test_every_wrong_keyword_of_the_settings_is_named(errors):
    found = errors({"dns:settings": {"a b": 1, "c d": 1}})
    assert [line.split(": ")[0] for line in found] == [
        "gateway:dns:settings:a b",
        "gateway:dns:settings:c d",
    ]


def test_the_longest_names_of_interfaces(plan):
    """Linux takes 15 characters."""
    server = {"network": "10.9.0.0/16", "port": 1195}
    found = plan({"internal:interface": 15 * "x", f"vpn:servers:{11 * 'x'}": server})
    assert [each["device"] for each in found["vpn"]["servers"]] == ["vpn-main", "vpn-" + 11 * "x"]


def test_numbers_as_text(plan):
    """As Jinja gives them."""
    changes = {
        "nodes:gw2:id": "2",
        "vpn:servers:main:port": "1195",
        "nat:forwards:0": {"port": ["443", "8000-8001"], "to": "backend01", "to_port": "8443"},
        "firewall": {"ssh": {"port": "23"}, "input": [{"proto": "47"}], "mss": "1300"},
        "failover": {"advert_interval": "0.2"},
        "dhcp:lease_time": 3600,
    }
    found = plan(changes)
    as_numbers = {
        "nodes:gw2:id": 2,
        "vpn:servers:main:port": 1195,
        "nat:forwards:0": {"port": [443, "8000-8001"], "to": "backend01", "to_port": 8443},
        "firewall": {"ssh": {"port": 23}, "input": [{"proto": 47}], "mss": 1300},
        "failover": {"advert_interval": 0.2},
        "dhcp:lease_time": "3600",
    }
    assert found == plan(as_numbers)


def test_a_single_value_for_a_list(plan):
    one = {
        "dns:forwarders": "198.51.100.100",
        "ntp:servers": "ntp.example.org",
        "hosts:backend01:aliases": "www",
        "health": {"public": {"targets": "198.51.100.100"}},
        "firewall": {"groups": {"admins": "192.0.2.0/24"}, "raw": {"filter": {"INPUT": "-p 47"}}},
        "vpn:servers:main:routes": "192.0.2.0/24",
    }
    many = {
        "dns:forwarders": ["198.51.100.100"],
        "ntp:servers": ["ntp.example.org"],
        "hosts:backend01:aliases": ["www"],
        "health": {"public": {"targets": ["198.51.100.100"]}},
        "firewall": {
            "groups": {"admins": ["192.0.2.0/24"]},
            "raw": {"filter": {"INPUT": ["-p 47"]}},
        },
        "vpn:servers:main:routes": ["192.0.2.0/24"],
    }
    found, expected = plan(one), plan(many)
    raw = found["firewall"]["raw"][0].pop("key"), expected["firewall"]["raw"][0].pop("key")
    assert raw == ("gateway:firewall:raw:filter:INPUT", "gateway:firewall:raw:filter:INPUT:0")
    del found["digest"], expected["digest"]  # it has the keys
    assert found == expected


def test_without_what_is_optional(plan):
    found = plan(
        {
            **dict.fromkeys(("vpn", "hosts", "nat", "dhcp", "dns", "ntp", "nodes:gw2"), ...),
            **dict.fromkeys(("nodes:gw1:public", "public:network"), ...),
        }
    )
    assert found["node"]["public"] is None
    assert found["node"]["remote"] is None
    assert found["peers"] == found["routes"] == found["nat"]["forwards"] == []
    assert found["vpn"] == {"error": None, "pki": {}, "networks": [], "servers": []}
    assert found["dhcp"]["enabled"] is False


@pytest.mark.parametrize(
    ("key", "where"),
    [
        ("keepalived:settings", "vrrp"),
        ("dns:settings", "dns"),
        ("dhcp:settings", "dhcp"),
        ("ntp:settings", "ntp"),
        ("vpn:servers:main:settings", "vpn"),
    ],
)
def test_settings(plan, key, where):
    """Keywords in their order in the alphabet; a list is one keyword several times."""
    found = plan({key: {"sndbuf": 0, "bare": True, "push": ["route 192.0.2.0", "x"], "ratio": 0.5}})
    section = found["vpn"]["servers"][0] if where == "vpn" else found[where]
    assert section["settings"] == [
        ["bare", ""],
        ["push", "route 192.0.2.0"],
        ["push", "x"],
        ["ratio", "0.5"],
        ["sndbuf", "0"],
    ]


@pytest.mark.parametrize("file", ["conf-file", "conf-dir"])
def test_another_file_may_have_what_a_setting_needs(plan, file):
    settings = {"dnssec": True, file: "/usr/share/dnsmasq-base/trust-anchors.conf"}
    assert ["dnssec", ""] in plan({"dns:settings": settings})["dns"]["settings"]


SYNCED = {
    "public:virtual_ip": "198.51.100.10",
    "state_sync": {"interface": "eth3"},
    "nodes:gw1:sync": "10.78.0.2",
    "nodes:gw2:sync": "10.78.0.3",
}
BY_DHCP = "the DHCP client of a node without a public address in the pillar"


@pytest.mark.parametrize(
    ("port", "proto", "service", "changes"),
    [
        (53, "udp", "DNS", {}),
        (53, "tcp", "DNS", {}),
        (123, "udp", "time", {}),
        (323, "udp", "time", {}),
        (67, "udp", "DHCP", {}),
        (68, "udp", BY_DHCP, {"nodes:gw2:public": ...}),
        (3780, "udp", "state sync", SYNCED),
        (3781, "tcp", "what the nodes tell each other of leases", SYNCED),
        (3781, "tcp", "what the nodes tell each other of leases", {"dhcp:key": LEASE_KEY}),
        (22, "tcp", "SSH", {}),
        (2222, "tcp", "SSH", {"firewall": {"ssh": {"port": 2222}}}),
    ],
)
def test_ports_of_the_gateway_itself(errors, port, proto, service, changes):
    """A VPN server listens on all addresses: it would take them, or not start."""
    server = {"vpn:servers:main:port": port, "vpn:servers:main:proto": proto}
    assert errors({**server, **changes}) == [
        "gateway:vpn:servers:main:port:"
        f" port {port}/{proto} is the gateway's own already, for {service}"
    ]


@pytest.mark.parametrize(
    ("port", "proto", "changes"),
    [
        (53, "udp", {"nat:forwards": []}),
        (3780, "udp", {}),  # no state sync
        (3781, "tcp", {}),  # no key of leases
        (3781, "udp", SYNCED),
        (3781, "tcp", {**SYNCED, "dhcp:enabled": False}),
        (67, "udp", {"dhcp:enabled": False}),
        (68, "udp", {}),
        (22, "udp", {}),
        (22, "tcp", {"firewall": {"ssh": {"port": 2222}}}),
    ],
)
def test_ports_that_nobody_else_uses(errors, port, proto, changes):
    """On the public address a port of the gateway's own may lead to a host, as ever."""
    forwards = [{"port": port, "proto": "both", "to": "www"}]
    assert errors({"nat:forwards": forwards}) == []
    if port != 53:
        server = {"vpn:servers:main:port": port, "vpn:servers:main:proto": proto}
        assert errors({**server, **changes}) == []


def test_unknown_node(example):
    site, _ = _gateway_plan.read(example)
    assert site
    message = 'gateway:nodes: this minion, gw3, is not among them (gw1, gw2); did you mean "gw2"?'
    assert _gateway_nodes.check_node(site, "gw1") == []
    assert _gateway_nodes.check_node(site, "gw3") == [message]
    with pytest.raises(ValueError, match="this minion, gw3, is not among them"):
        _gateway_plan.plan(site, "gw3")


# --------------------------------------------------------------------------------------------------
# The digest


def test_both_nodes_have_one_digest(plan):
    one, two = plan(node="gw1"), plan(node="gw2")
    assert one["digest"] == two["digest"]
    assert len(one["digest"]) == 16


def test_no_change_escapes_the_digest(plan):
    changes = {
        **EVERYTHING,
        "public:virtual_ip": "198.51.100.1",
        "public:addresses": [],
        "domain": "example.org",
        "nodes:gw1:internal": "10.77.0.4",
        "nodes:gw1:public": "198.51.100.9",
        "nodes:gw1:priority": 200,
        "internal:virtual_ip": "10.77.0.5",
        "vpn:pki:ca": "/etc/other.crt",
        "vpn:servers:main:proto": "tcp",
        "hosts:backend01:mac": "02:00:00:00:00:11",
        "hosts:backend01:aliases": [],
        "nat:forwards": [],
        "nat:forwards:0:to_port": 8443,
        "nat:forwards:0:comment": "the shop",
        "vpn:servers:main:full_tunnel": True,
        "firewall:log": True,
        "firewall:mss": 1300,
        "firewall:egress": "deny",
        "firewall:spoof_protection": False,
        "firewall:confirm_timeout": 60,
        "firewall:groups:admins": ["192.0.2.1"],
        "firewall:input": [{"proto": "esp"}],
        "firewall:forward": [{"proto": "esp"}],
        "firewall:ssh:port": 2222,
        "firewall:raw:filter:INPUT": ["-p 47 -j ACCEPT"],
        "firewall:raw6:filter:INPUT": ["-p 47 -j ACCEPT"],
        "dhcp:pool": "10.77.0.100-10.77.0.198",
        "dhcp:enabled": False,
        "dns:forwarders": [],
        "ntp:provider": "ntpsec",
        "follow_virtual_ip": ["app.service"],
    }
    digests = {plan(ADDRESSES)["digest"]}
    digests |= {plan({**ADDRESSES, key: value})["digest"] for key, value in changes.items()}
    assert len(digests) == 1 + len(changes)
