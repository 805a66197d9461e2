"""Leases that both nodes know: what is planned, let in, said by status and shown to a person."""

import json
from ipaddress import IPv4Address
from itertools import permutations
from typing import Any

import _gateway_leases
import _gateway_plan
import _gateway_rules
import pytest
from hypothesis import example as also
from hypothesis import given
from hypothesis import strategies as st
from iptables_reader import packet
from lease_facts import FOREVER, Client, Fact
from lease_orders import Orders
from on_node import LEASE_KEY, LISTING, SYNC_LINK
from rendered import SITES
from salt.exceptions import CommandExecutionError, SaltException

KEY = {"dhcp:key": LEASE_KEY}
WITHOUT = {"dhcp": {"pool": "10.77.0.100-10.77.0.199"}}
THREE = SITES["three nodes"] | KEY
LINK = SITES["link of their own"]
NETWORKS = SITES["networks"]
DIGEST_OF_KEY = 16  # characters of its hash


@pytest.fixture
def leases(plan):
    return lambda changes=None, node="gw1": plan(changes or {}, node)["leases"]


# --------------------------------------------------------------------------------------------------
# Shares


def addresses(part):
    first, last = (int(IPv4Address(end)) for end in part.split(","))
    return range(first, last + 1)


@given(st.integers(1, 15), st.integers(1, 1000), st.integers(0, 2**24))
@also(1, 1, 0)
@also(15, 14, 0)
@also(15, 15, 0)
@also(2, 3, 255)
def test_shares_are_disjoint_and_are_the_pool(count, size, start):
    first = IPv4Address("10.0.0.0") + start
    names = [f"gw{number}" for number in range(count)]
    shares = _gateway_leases._cut((first, first + size - 1), names)
    parts = [addresses(part) for name in names for part in shares.get(name, [])]
    found = [number for part in parts for number in part]
    assert found == [*range(int(first), int(first) + size)]  # each once, in the order of the nodes
    sizes = [sum(len(addresses(part)) for part in shares.get(name, [])) for name in names]
    assert max(sizes) - min(sizes) <= 1
    assert all(parts)
    assert len(shares) == min(count, size)  # who has nothing is not named


def test_shares_of_the_example(leases):
    for node in ("gw1", "gw2"):
        [pool] = leases({}, node)["pools"]
        assert pool == {
            "network": "internal",
            "before": "",
            "after": ",255.255.255.0,12h",
            "static": "10.77.0.0,static",
            "seconds": 12 * 3600,
            "shares": {
                "gw1": ["10.77.0.100,10.77.0.149"],
                "gw2": ["10.77.0.150,10.77.0.199"],
            },
        }


def test_shares_go_by_the_ids(edit, leases):
    """Whatever the order of the pillar, and whoever reads it."""
    gw3 = {"id": 3, "internal": "10.77.0.4", "public": "198.51.100.4"}
    pillar = edit({"nodes:gw3": gw3, "nodes:gw1:id": 7, **KEY})
    expected = {
        "gw2": ["10.77.0.100,10.77.0.132"],
        "gw3": ["10.77.0.133,10.77.0.165"],
        "gw1": ["10.77.0.166,10.77.0.199"],
    }
    for order in permutations(pillar["nodes"]):
        nodes = {name: pillar["nodes"][name] for name in order}
        site, _ = _gateway_plan.read(pillar | {"nodes": nodes})
        assert site
        for node in order:
            [pool] = _gateway_plan.plan(site, node)["leases"]["pools"]
            assert pool["shares"] == expected


def test_a_pool_that_is_smaller_than_the_nodes_are_many(leases):
    found = leases({**THREE, "dhcp:pool": "10.77.0.100-10.77.0.101"})
    assert found["pools"][0]["shares"] == {
        "gw2": ["10.77.0.100,10.77.0.100"],
        "gw3": ["10.77.0.101,10.77.0.101"],
    }


def test_each_pool_of_each_network_is_cut(leases):
    found = leases({**NETWORKS, **KEY, "dhcp:options": {150: "10.77.0.9"}})
    told = [(pool["network"], pool["before"], pool["shares"]) for pool in found["pools"]]
    assert told == [
        (
            "internal",
            "tag:eth0,set:network-internal,",
            {"gw1": ["10.77.0.100,10.77.0.149"], "gw2": ["10.77.0.150,10.77.0.199"]},
        ),
        (
            "guest",
            "tag:eth0.20,set:network-guest,",
            {"gw1": ["10.20.0.50,10.20.0.74"], "gw2": ["10.20.0.75,10.20.0.99"]},
        ),
        (
            "guest",
            "tag:eth0.20,set:network-guest,",
            {"gw1": ["10.20.0.150,10.20.0.199"], "gw2": ["10.20.0.200,10.20.0.250"]},
        ),
        ("servers", "tag:eth3,set:network-servers,", {}),
    ]
    assert found["pools"][1]["after"] == ",255.255.255.0,12h"
    assert found["pools"][-1]["static"] == "10.30.0.0,static"


@pytest.mark.parametrize(
    ("changes", "is_new"),
    [
        ({"dhcp:pool": "10.77.0.100-10.77.0.198"}, True),
        ({"dhcp:lease_time": "1h"}, True),
        ({"nodes:gw3": {"id": 3, "internal": "10.77.0.4", "public": "198.51.100.4"}}, True),
        ({"nodes:gw1:id": 3}, True),  # its share is another one
        ({"hosts:more": {"ip": "10.77.0.20", "mac": "02:00:00:00:00:20"}}, False),
        (KEY, False),
    ],
)
def test_dnsmasq_starts_anew_for_other_ranges(render, changes, is_new):
    """It reads its configuration when it starts. What it may give, leases.py writes then."""
    before, after = (render("example", changes=each).files for each in (KEY | {}, KEY | changes))
    assert (before["/etc/gateway/dhcp.conf"] != after["/etc/gateway/dhcp.conf"]) is is_new


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        *(("12h", 43200), ("120", 120), (300, 300), ("2m", 120), ("3d", 259200), ("1w", 604800)),
        *(("125s", 125), ("infinite", -1)),
    ],
)
def test_how_long_a_lease_lasts(leases, time, seconds):
    assert leases({"dhcp:lease_time": time})["pools"][0]["seconds"] == seconds


def test_a_network_with_options_has_a_tag(leases):
    for changes, tag in (
        ({}, ""),
        ({"dhcp:options": {150: "10.77.0.9"}}, "set:network-internal,"),
        ({"dhcp:boot": {"file": "a", "server": "10.77.0.9"}}, "set:network-internal,"),
    ):
        assert leases(changes)["pools"][0]["before"] == tag


def test_without_dhcp_there_is_nothing(leases, plan):
    off = {**KEY, **LINK, "dhcp:enabled": False}
    assert leases(off) == {"enabled": False}
    assert "3781" not in _gateway_rules.ruleset(plan(off))["v4"]
    assert _gateway_leases.units(plan(off)) == []


def test_a_network_alone_may_have_dhcp(leases):
    found = leases({**NETWORKS, "dhcp": {"enabled": False, "key": LEASE_KEY}})
    assert {pool["network"] for pool in found["pools"]} == {"guest", "servers"}
    assert found["peers"] == {"gw2": "10.77.0.3"}


# --------------------------------------------------------------------------------------------------
# Where they tell each other


NOWHERE: dict[str, Any] = {"interface": None, "address": None, "peers": {}}
LINKS = {
    "over their own link": (
        LINK,
        {"interface": "eth3", "address": "10.78.0.1", "peers": {"gw2": "10.78.0.2"}},
    ),
    "over their own link, with a key": (
        LINK | KEY,
        {"interface": "eth3", "address": "10.78.0.1", "peers": {"gw2": "10.78.0.2"}},
    ),
    "inside, with a key": (
        KEY,
        {"interface": "eth0", "address": "10.77.0.2", "peers": {"gw2": "10.77.0.3"}},
    ),
    "three": (
        THREE,
        {
            "interface": "eth0",
            "address": "10.77.0.2",
            "peers": {"gw2": "10.77.0.3", "gw3": "10.77.0.4"},
        },
    ),
    "on another card": (
        KEY | {"nodes:gw1:internal_interface": "lan0"},
        {"interface": "lan0", "address": "10.77.0.2", "peers": {"gw2": "10.77.0.3"}},
    ),
    "nowhere": ({}, NOWHERE),
    "one node": (KEY | {"nodes:gw2": ...}, NOWHERE),
}


@pytest.mark.parametrize(("changes", "expected"), LINKS.values(), ids=LINKS)
def test_where_they_tell_each_other(leases, changes, expected):
    found = leases(changes)
    assert {key: found[key] for key in NOWHERE} == expected
    assert (found["enabled"], found["node"], found["port"]) == (True, "gw1", 3781)


def test_the_other_end_of_their_link(leases):
    found = leases(LINK, "gw2")
    assert (found["interface"], found["address"]) == ("eth4", "10.78.0.2")
    assert found["peers"] == {"gw1": "10.78.0.1"}


def test_whom_clients_ask_that_ask_a_peer(leases):
    assert leases(THREE)["servers"] == ["10.77.0.3", "10.77.0.4"]
    # Where nothing is told, nothing is to be known of the peer.
    assert leases({})["servers"] == leases(KEY | {"nodes:gw2": ...})["servers"] == []
    networks = {**NETWORKS, **KEY}
    assert leases(networks)["servers"] == ["10.77.0.3", "10.20.0.3", "10.30.0.3"]
    assert leases(networks, "gw2")["servers"] == ["10.77.0.2", "10.20.0.7", "10.30.0.2"]


FLOWS = [
    ("eth0 10.77.0.3>10.77.0.2 tcp/3781", "accepted"),
    ("eth0 10.77.0.10>10.77.0.2 tcp/3781", "refused"),
    ("eth0 10.77.0.3>10.77.0.2 udp/3781", "refused"),
    ("eth1 10.77.0.3>10.77.0.2 tcp/3781", "dropped"),
    ("vpn-main 10.8.0.6>10.77.0.2 tcp/3781", "dropped"),
    ("lo 10.77.0.2>10.77.0.2 tcp/3781", "dropped"),
    # It listens at no other address.
    ("eth0 10.77.0.3>10.77.0.1 tcp/3781", "refused"),
    ("eth1 198.51.100.3>198.51.100.2 tcp/3781", "dropped"),
]


@pytest.mark.parametrize(("flow", "expected"), FLOWS)
def test_who_is_let_in(router, flow, expected):
    """Also where a rule of the pillar opens all ports."""
    assert router(KEY).meets(packet(flow)) == expected
    opened = {"firewall:input": [{"from": "internal", "ports": "3781", "action": "accept"}]}
    if expected in ("accepted", "dropped"):
        assert router(KEY | opened).meets(packet(flow)) == expected


def test_nobody_is_let_in_who_has_nothing_to_tell(router, plan):
    assert router({}).meets(packet(FLOWS[0][0])) == "refused"
    for part in _gateway_rules.ruleset(plan({})).values():
        assert "3781" not in part
    rules = _gateway_rules.ruleset(plan(THREE))
    for part in ("v4", "closed4"):  # also where the rules cannot be loaded
        assert rules[part].count("--dport 3781 -j ACCEPT") == 2
    assert "3781" not in rules["v6"] + rules["closed6"]


# --------------------------------------------------------------------------------------------------
# Names


REGISTERED = {
    "by default": ({}, {"10.77.0.0/24": "example.internal"}),
    "off": ({"dhcp:register": False}, {}),
    "a public domain": ({"dns:public_domain": True}, {}),
    "a public domain, on": (
        {"dns:public_domain": True, "dhcp:register": True},
        {"10.77.0.0/24": "example.internal"},
    ),
    "a domain of its own": ({"dhcp:domain": "lan"}, {}),
    "the site's domain, said": (
        {"dhcp:domain": "example.internal"},
        {"10.77.0.0/24": "example.internal"},
    ),
    "a domain of its own, on": (
        {"dhcp:domain": "lan", "dhcp:register": True},
        {"10.77.0.0/24": "lan"},
    ),
    "networks": (
        NETWORKS,
        {"10.77.0.0/24": "example.internal", "10.30.0.0/24": "example.internal"},
    ),
    "guests with names": (
        {**NETWORKS, "networks:guest:names": True, "networks:guest:dhcp:domain": ...},
        {
            "10.77.0.0/24": "example.internal",
            "10.20.0.0/24": "example.internal",
            "10.30.0.0/24": "example.internal",
        },
    ),
    "guests, on; servers, off": (
        {
            **NETWORKS,
            "networks:guest:dhcp:register": True,
            "networks:servers:dhcp": {"register": False},
        },
        {"10.77.0.0/24": "example.internal", "10.20.0.0/24": "guest.example.net"},
    ),
}


@pytest.mark.parametrize(("changes", "expected"), REGISTERED.values(), ids=REGISTERED)
def test_networks_whose_clients_have_names(leases, render, changes, expected):
    assert leases(changes)["register"] == expected
    found = render("example", "gateway.dnsmasq", changes=changes)
    hosts = "/run/gateway-leases/hosts"
    assert (f"hostsdir={hosts}" in found.files["/etc/gateway/dns.conf"]) is bool(expected)
    unit = found.files["/etc/systemd/system/gateway-dns.service"]
    assert (f"mkdir -p {hosts}" in unit) is bool(expected)


def test_who_gets_no_names_of_the_site_gets_none_of_clients(render):
    changes = {**NETWORKS, "networks:guest:dhcp:register": True}
    found = render("example", "gateway.dnsmasq", changes=changes)
    others = found.files["/etc/gateway/dns-others.conf"]
    assert "gateway-leases" not in others
    unit = found.files["/etc/systemd/system/gateway-dns-others.service"]
    assert "gateway-leases" not in unit


def told(found):
    parts = [json.loads(found.files[f"/etc/gateway/{n}.json"]) for n in ("leases", "lease-hosts")]
    return parts[0] | parts[1]


def test_what_the_daemon_is_told_of_the_site(render):
    settings = {"address": "/a.example/B.Example.org/192.0.2.1", "host-record": "Tv,192.0.2.5"}
    changes = {
        **KEY,
        "dns:settings": settings,
        "hosts:backend01:aliases": ["www", "*.apps"],
        "hosts:backend01:mac": ["02:00:00:00:00:10", "02:00:00:00:00:11"],
    }
    found = told(render("example", "gateway.leases", changes=changes))
    assert found["reserved"] == ["10.77.0.10"]
    assert found["reserved_macs"] == ["02:00:00:00:00:10", "02:00:00:00:00:11"]
    assert found["wildcards"] == ["apps.example.internal"]
    assert found["domain"] == "example.internal"
    for name in ("backend01", "www", "gw1", "gw2"):
        assert f"{name}.example.internal" in found["names"]
    for name in ("a.example", "b.example.org", "tv", "tv.example.internal"):
        assert name in found["names"]
    orders = Orders(found)
    assert orders.ranges(True)
    assert orders.ranges(False)


def test_a_wildcard_of_the_whole_domain_has_all_names(render):
    """Where a host has them all, no client has one."""
    pc = Fact("10.77.0.100", Client("02:00:00:00:00:99"), FOREVER, name="pc")
    for aliases, expected in (
        (["*.apps"], ["10.77.0.100 pc.example.internal pc"]),
        (["*.example.internal"], []),
    ):
        changes = {"hosts:backend01:aliases": aliases}
        found = told(render("example", "gateway.leases", changes=changes))
        assert Orders(found).hosts([pc]) == expected


# --------------------------------------------------------------------------------------------------
# The key


WRONG = [LEASE_KEY[:31], f"{LEASE_KEY} {LEASE_KEY}", f"{LEASE_KEY}\n", LEASE_KEY * 10, [LEASE_KEY]]


@pytest.mark.parametrize("key", WRONG)
def test_a_refused_key_is_in_no_error(errors, key):
    found = errors({"dhcp:key": key})
    assert len(found) == 1
    assert found[0].startswith("gateway:dhcp:key: must be a text of 32 to 256 characters")
    assert LEASE_KEY[:8] not in str(found)


def test_what_is_beside_a_key_is_shown_without_it(errors):
    for changes in ({"dhcp:pool": "x"}, {"dhcp:kei": "y"}, {"networks": {"a": {"dhcp": KEY}}}):
        found = errors({**KEY, **changes})
        assert found
        assert LEASE_KEY[:8] not in str(found)


@pytest.mark.parametrize("node", ["gw1", "gw2"])
def test_the_key_is_in_one_file_and_in_no_state(render, node):
    found = render("example", node=node, changes=KEY)
    assert LEASE_KEY not in json.dumps([found.low, found.plan])
    secret = [name for name, text in found.files.items() if LEASE_KEY in text]
    assert secret == ["/etc/gateway/leases.key"]
    state = found.ids["lease key"]
    assert (state["mode"], state["show_changes"]) == ("0600", False)
    assert "lease key" in {
        name for entry in found.ids["lease service"]["require"] for name in entry.values()
    }
    assert "/etc/gateway/leases.key" in found.ids["lease service"]["reads"]


def test_the_key_is_in_no_answer(module, node):
    for answer in (module.plan(), module.status(), module.ruleset(), module.validate()):
        assert LEASE_KEY not in json.dumps(answer)
    assert LEASE_KEY not in node.applied.read_text()


def test_the_key_for_the_template(module, node, break_pillar):
    assert module.lease_key() == LEASE_KEY
    with pytest.raises(CommandExecutionError, match="is for a template") as refused:
        module.lease_key(__pub_fun="gateway.lease_key")
    assert LEASE_KEY not in str(refused.value)
    break_pillar(WITHOUT)
    assert module.lease_key() == ""


def test_another_key_is_another_plan_and_digest(plan):
    """So the daemon starts anew, and status says that the nodes differ."""
    other = {"dhcp:key": LEASE_KEY[::-1]}
    plans = [plan(changes) for changes in ({}, KEY, other)]
    assert len({each["digest"] for each in plans}) == 3
    digests = [each["leases"]["key"] for each in plans]
    assert digests[0] is None
    assert len({*digests}) == 3
    assert all(len(each) == DIGEST_OF_KEY for each in digests[1:])
    assert plan(KEY, "gw2")["leases"]["key"] == digests[1]


@pytest.mark.parametrize("where", ["dhcp", "networks:guest:dhcp"])
def test_a_word_on_names_is_in_the_digest(plan, where):
    digests = {
        plan({**NETWORKS, f"{where}:register": value})["digest"] for value in (True, False)
    } | {plan(NETWORKS)["digest"]}
    assert len(digests) == 3


# --------------------------------------------------------------------------------------------------
# Settings, and warnings


OWN = {
    "dhcp-script": "/usr/local/bin/x",
    "dhcp-luascript": "/x.lua",
    "dhcp-scriptuser": "nobody",
    "dhcp-hostsdir": "/etc/x",
    "dhcp-leasefile": "/x",
    "leasefile-ro": True,
    "no-ping": True,
}


@pytest.mark.parametrize("keyword", OWN)
def test_settings_that_are_the_formula_s(errors, keyword):
    found = errors({"dhcp:settings": {keyword: OWN[keyword]}})
    assert len(found) == 1
    assert found[0].startswith(f"gateway:dhcp:settings:{keyword}: ")
    assert "leases" in found[0] or "formula" in found[0]


WARNED = {
    "no key": (WITHOUT, True),
    "a key": ({}, False),
    "a link": (WITHOUT | SYNC_LINK, False),
    "one node": (WITHOUT | {"nodes:gw2": ...}, False),
    "reservations alone": ({"dhcp": ...}, False),
    "no DHCP": ({"dhcp": {"enabled": False}}, False),
}


@pytest.mark.parametrize(("changes", "warned"), WARNED.values(), ids=WARNED)
def test_nodes_that_cannot_tell_each_other(module, node, break_pillar, changes, warned):
    break_pillar(changes)
    found = [each for each in module.validate() if "gateway:dhcp:key" in each]
    assert [each.startswith("gateway:dhcp:key: missing, ") for each in found] == [True] * warned
    assert not [each for each in module.validate(warnings=False) if "dhcp:key" in each]


# --------------------------------------------------------------------------------------------------
# Status


@pytest.fixture
def says(node):
    """What the daemon answers from now on."""

    def answer(leases=(), **changes):
        listing = LISTING | {"leases": list(leases)} | changes
        node.tools["/usr/lib/gateway/ask-leases"] = json.dumps(listing)

    return answer


def lease(address, mac="02:00:00:00:00:99", until=4102444800.0, name="pc", node="gw2"):
    return {
        "address": address,
        "mac": mac,
        "identifier": "",
        "name": name,
        "since": 1800000000.25,
        "until": until,
        "node": node,
    }


def peer(heard=True, refused="", same_pools=True):
    return {"gw2": {"heard": heard, "refused": refused, "same_pools": same_pools}}


SAID = {
    "well": ({}, {"in_sync": True, "peers": {"gw2": True}}, []),
    "not heard": (
        {"in_sync": False, "peers": peer(False)},
        {"in_sync": False, "peers": {"gw2": False}},
        [
            "DHCP: gw2 tells nothing of leases; until it does, new machines get addresses of one"
            " node's share of the pool"
        ],
    ),
    "refused": (
        {"in_sync": False, "peers": peer(False, "it has another key")},
        {"in_sync": False, "peers": {"gw2": False}},
        [
            "DHCP: gw2 is not believed what it tells of leases: it has another key"
            " (gateway:dhcp:key)"
        ],
    ),
    "other pools": (
        {"peers": peer(same_pools=False)},
        {"in_sync": True, "peers": {"gw2": True}},
        [
            "DHCP: gw2 has other pools than this node: what both take for their own share is given"
            " to nobody new while they do not hear each other (apply to both)"
        ],
    ),
    "a full disk": (
        {"fault": "database or disk is full"},
        {"in_sync": True, "peers": {"gw2": True}},
        ["DHCP: leases cannot be kept: database or disk is full"],
    ),
}


@pytest.mark.parametrize(("changes", "facts", "problems"), SAID.values(), ids=SAID)
def test_status(module, says, changes, facts, problems):
    says([lease("10.77.0.100")], **changes)
    found = module.status()
    assert found["leases"] == {"enabled": True, "count": 1} | facts
    assert found["problems"] == problems


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, "gateway-leases does not answer"),
        (1, "gateway-leases does not answer"),
        ("", "gateway-leases does not answer"),
        ('{"error": "gateway-leases does not answer: [Errno 2]"}', ""),
        ('{"error": "KeyError: x"}', "KeyError: x"),
    ],
)
def test_a_daemon_that_is_silent(module, node, answer, said):
    node.tools["/usr/lib/gateway/ask-leases"] = answer
    found = module.status()
    assert found["leases"] == {"enabled": False}
    expected = said or "gateway-leases does not answer: [Errno 2]"
    assert found["problems"] == [f"DHCP: {expected}"]


def test_status_without_dhcp(module, node, break_pillar):
    break_pillar({"dhcp": {"enabled": False}})
    node.apply()
    node.tools["/usr/lib/gateway/ask-leases"] = None
    node.running -= {"gateway-leases", "gateway-dhcp"}
    found = module.status()
    assert (found["leases"], found["problems"]) == ({"enabled": False}, [])


def some(first, count):
    start = IPv4Address("10.77.0.0") + first
    return [lease(str(start + number), f"02:00:00:00:01:{number:02x}") for number in range(count)]


ALONE = {"in_sync": False, "peers": peer()}
POOLS = {
    "nearly": (some(100, 89), {}, None),
    "full": (some(100, 90), {}, "90 of 100 addresses in internal's pool"),
    "all": (some(100, 100), {}, "100 of 100 addresses in internal's pool"),
    "others": ([*some(20, 60), *some(100, 60)], {}, None),
    "the first and the last": (
        [*some(100, 1), *some(101, 88), *some(199, 1)],
        {},
        "90 of 100 addresses in internal's pool",
    ),
    "own share, nearly": ([*some(100, 44), *some(150, 50)], ALONE, None),
    "own share": (some(100, 45), ALONE, "45 of 50 addresses in internal's gw1's share of the pool"),
    "the peer's share": (some(150, 50), ALONE, None),
}


@pytest.mark.parametrize(("leases", "changes", "problem"), POOLS.values(), ids=POOLS)
def test_a_pool_of_which_little_is_left(module, says, leases, changes, problem):
    says(leases, **changes)
    expected = [f"DHCP: {problem} are given away"] if problem else []
    assert module.status()["problems"] == expected


def test_reserved_addresses_are_no_part_of_a_pool(module, node, says, edit_here):
    """Ten of the pool are reserved, and nine of these are in use: neither counts."""
    hosts = {
        f"hosts:h{last}": {"ip": f"10.77.0.{last}", "mac": f"02:00:00:00:01:{last - 100:02x}"}
        for last in range(100, 110)
    }
    node.pillar["gateway"] = edit_here({**hosts, "dhcp:pool": "10.77.0.100-10.77.0.129"})
    node.apply()
    says(some(100, 27))
    assert module.status()["problems"] == []
    says(some(100, 28))
    assert module.status()["problems"] == [
        "DHCP: 18 of 20 addresses in internal's pool are given away"
    ]


def test_a_pool_with_reservations_alone_is_never_full(module, node, says, edit_here):
    hosts = {"hosts:h": {"ip": "10.77.0.100", "mac": "02:00:00:00:01:00"}}
    node.pillar["gateway"] = edit_here({**hosts, "dhcp:pool": "10.77.0.100-10.77.0.100"})
    node.apply()
    says(some(100, 1))
    assert module.status()["problems"] == []


def test_pools_of_one_network_count_together(module, node, says, edit_here):
    pools = ["10.77.0.100-10.77.0.109", "10.77.0.120-10.77.0.129"]
    node.pillar["gateway"] = edit_here({"dhcp:pool": pools})
    node.apply()
    says(some(100, 10))
    assert module.status()["problems"] == []
    says([*some(100, 10), *some(120, 8)])
    assert module.status()["problems"] == [
        "DHCP: 18 of 20 addresses in internal's pool are given away"
    ]


RESERVED = "DHCP: 10.77.0.10 is reserved for backend01.example.internal, but 02:00:00:00:00:99"
MACS = ["02:00:00:00:00:10", "02:00:00:00:00:11"]
HOLDERS = {
    "another machine's": ([lease("10.77.0.10")], "until 2100-01-01 00:00 UTC"),
    "another machine's for ever": ([lease("10.77.0.10", until=None)], "for ever"),
    "its own": ([lease("10.77.0.10", MACS[0])], None),
    "its other card's": ([lease("10.77.0.10", MACS[1])], None),
    "of another address": ([lease("10.77.0.100")], None),
    "none": ([], None),
}


@pytest.mark.parametrize(("leases", "until"), HOLDERS.values(), ids=HOLDERS)
def test_reserved_addresses_that_another_machine_has(module, node, says, edit_here, leases, until):
    node.pillar["gateway"] = edit_here({"hosts:backend01:mac": MACS})
    node.apply()
    says(leases)
    assert module.status()["problems"] == ([f"{RESERVED} has it {until}"] if until else [])
    node.addresses["eth0"].remove("10.77.0.1/32")
    node.running.remove("gateway-dhcp")
    assert module.status()["problems"] == []  # the node that serves says it


def test_a_plan_of_an_older_version(module, node, says, edit_here, break_pillar):
    """It has one MAC address for each host, and no leases: nobody is asked."""
    says([lease("10.77.0.10", MACS[1])])
    old = module.plan()
    for host in old["dhcp"]["reservations"]:
        [host["mac"]] = host.pop("macs")
    old.pop("leases")
    node.applied.write_text(json.dumps(old))
    break_pillar({"domain": "-"})
    found = module.status()
    assert found["leases"] == {"enabled": False}
    assert not [each for each in found["problems"] if each.startswith("DHCP")]
    problems = _gateway_leases._lease_problems(
        old["dhcp"]["reservations"], [lease("10.77.0.10"), lease("10.77.0.10", "02:00:00:00:00:10")]
    )
    assert problems == [f"{RESERVED} has it until 2100-01-01 00:00 UTC"]


# --------------------------------------------------------------------------------------------------
# What a person asks for


SHOWN = {
    "address": "10.77.0.100",
    "mac": "02:00:00:00:00:99",
    "name": "pc",
    "network": "internal",
    "since": "2027-01-15 08:00:00 UTC",
    "until": "2100-01-01 00:00:00 UTC",
    "node": "gw2",
}


def test_leases_are_listed(module, says):
    nine = lease("10.77.0.99", name="", until=None, node="gw1")
    says([lease("10.77.0.100"), nine])
    found = module.leases()
    assert found == [
        SHOWN | {"address": "10.77.0.99", "name": "", "until": "", "node": "gw1"},
        SHOWN,
    ]
    assert module.leases(network="internal") == found
    with pytest.raises(CommandExecutionError, match="guest is no network of this site"):
        module.leases(network="guest")


def test_leases_of_networks(module, node, says):
    says([lease("10.77.0.100"), lease("10.20.0.60"), lease("10.99.0.1")])
    plan = module.plan() | {"networks": [{"network": "10.20.0.0/24", "name": "guest"}]}
    listing = json.loads(node.tools["/usr/lib/gateway/ask-leases"])
    found = _gateway_leases.shown(plan, listing["leases"])
    assert [(each["address"], each["network"]) for each in found] == [
        ("10.20.0.60", "guest"),
        ("10.77.0.100", "internal"),
        ("10.99.0.1", ""),  # of a network that has left
    ]


def test_leases_while_the_pillar_is_wrong(module, node, says, break_pillar):
    says([lease("10.77.0.100")])
    break_pillar({"domain": "-"})
    assert module.leases() == [SHOWN]
    node.applied.unlink()
    assert module.leases() == [SHOWN | {"network": ""}]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            "10.77.0.100 of 02:00:00:00:00:99 (pc) was leased until 2100-01-01 00:00:00 UTC; that",
        ),
        ({"until": None, "name": ""}, "10.77.0.100 of 02:00:00:00:00:99 was leased for ever; that"),
    ],
)
def test_a_lease_is_ended(module, node, changes, expected):
    asked = []

    def answer(words):
        asked.append(words)
        return json.dumps({"lease": lease("10.77.0.100") | changes})

    node.tools["/usr/lib/gateway/ask-leases"] = answer
    text = module.lease_end("10.77.0.100")
    assert asked == [["end", "10.77.0.100"]]
    assert text == (
        f"{expected} is over. The client is not told: while it is on, it uses the address until it"
        " asks to renew the lease"
    )


def test_errors_are_the_daemon_s(module, node):
    node.tools["/usr/lib/gateway/ask-leases"] = '{"error": "nobody has a lease of 10.77.0.100"}'
    with pytest.raises(CommandExecutionError, match=r"^nobody has a lease of 10\.77\.0\.100$"):
        module.lease_end("10.77.0.100")
    for silent in (None, ""):
        node.tools["/usr/lib/gateway/ask-leases"] = silent
        for call in (module.leases, lambda: module.lease_end("10.77.0.100")):
            with pytest.raises(SaltException, match="gateway-leases does not answer"):
                call()
