"""Further networks and routes: what holds for every site that has 0 to 60 and 0 to 100 of them."""

import copy
import json
import re
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise
from typing import Any

import _gateway_plan
import _gateway_rules
from hypothesis import given, settings
from hypothesis import strategies as st
from iptables_reader import Node, packet

INTERNAL = IPv4Network("10.0.0.0/24")
PUBLIC = IPv4Network("198.51.100.0/24")
HIGHEST_ID = 20
# Of the smallest network, of 32 addresses: .1 is virtual, .2 to .21 are for nodes.
POOL, ROUTER, HOST = (22, 24), 25, 26
MOST_NETWORKS, MOST_ROUTES = 60, 100
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"trusted": True},
    {"isolated": True},
    {"names": True},
    {"nat": "none"},
)


def network_of(number, prefix):
    """One of many that do not overlap, none larger than a /22."""
    return IPv4Network((int(IPv4Address("10.64.0.0")) + (number << 10), prefix))


def entry(number, prefix, kind, dhcp):
    network = network_of(number, prefix)
    pool = "-".join(str(network[at]) for at in POOL)
    return {
        "interface": f"eth0.{number}",
        "network": str(network),
        "virtual_ip": str(network[1]),
        **KINDS[kind],
        **({"dhcp": {"pool": pool}} if dhcp else {}),
    }


NUMBERS = st.lists(
    st.tuples(st.integers(22, 27), st.integers(0, len(KINDS) - 1), st.booleans()),
    max_size=MOST_NETWORKS,
)
# Hypothesis prefers small lists; the largest ones have to be among them all the same.
NETWORKS = NUMBERS | NUMBERS.map(
    lambda few: [(few or [(24, 1, True)])[at % max(1, len(few))] for at in range(MOST_NETWORKS)]
)


@st.composite
def pillars(draw, least=1):
    """Valid ones, of 1 to 4 nodes, with VPN servers and networks behind their clients."""
    ids = draw(st.lists(st.integers(1, HIGHEST_ID), min_size=least, max_size=4, unique=True))
    networks = {
        f"net-{number}": entry(number, *each) for number, each in enumerate(draw(NETWORKS), 1)
    }
    owners = [str(INTERNAL), *(each["network"] for each in networks.values())]
    count = draw(st.integers(0, 5) | st.just(MOST_ROUTES))
    step = draw(st.integers(1, 7))
    routes = [
        {
            "network": f"172.16.{number}.0/24",
            "via": str(IPv4Network(owners[number * step % len(owners)])[ROUTER]),
        }
        for number in range(count)
    ]
    servers = draw(st.integers(0, 2))
    vpn = {
        "servers": {
            f"server{number}": {"network": f"10.{8 + number}.0.0/16", "port": 1194 + number}
            for number in range(servers)
        },
        "clients": {
            f"branch{number}": {"networks": [f"192.168.{number}.0/24"]}
            for number in range(draw(st.integers(0, 3)) if len(ids) < 3 else 0)
        },
        "pki": {name: f"/etc/{name}" for name in ("ca", "certificate", "key", "tls_crypt")},
    }
    public = {"interface": "eth1", "network": str(PUBLIC)}
    if draw(st.booleans()):
        public["virtual_ip"] = str(PUBLIC[254])
    return {
        "domain": "example.internal",
        "nodes": {
            f"gw{number}": {
                "id": number,
                "internal": str(INTERNAL[1 + number]),
                "public": str(PUBLIC[number]),
            }
            for number in ids
        },
        "internal": {
            "interface": "eth0",
            "network": str(INTERNAL),
            "virtual_ip": str(INTERNAL[1]),
        },
        "public": public,
        "networks": networks,
        "routes": routes,
        **({"vpn": vpn} if servers else {}),
        "hosts": {
            "roamer": {
                "ip": [str(IPv4Network(owner)[HOST]) for owner in owners],
                "mac": ["02:00:00:00:00:01", "02:00:00:00:00:02"],
            }
        },
    }


def plans(pillar):
    """The plan of each node of a pillar that must be valid."""
    site, errors = _gateway_plan.read(pillar)
    assert site, errors
    return {name: _gateway_plan.plan(site, name) for name in pillar["nodes"]}


def by_name(networks):
    return {network["name"]: network for network in networks}


def larger(pillar):
    """The same site with a further network, whose name is the first in the alphabet."""
    more = copy.deepcopy(pillar)
    more["networks"]["a-first-one"] = entry(MOST_NETWORKS + 1, 24, 0, True)
    return more


# --------------------------------------------------------------------------------------------------
# Nothing is there twice


@given(pillars())
def test_every_address_is_of_one_alone_and_in_its_network(pillar):
    found = plans(pillar)
    [virtual] = {
        tuple((each["name"], each["virtual_ip"], each["network"]) for each in plan["networks"])
        for plan in found.values()
    }
    addresses = [address for _, address, _ in virtual]
    for plan in found.values():
        for each in plan["networks"]:
            addresses.append(each["address"])
            hosts = set(IPv4Network(each["network"]).hosts())
            assert {IPv4Address(each["address"]), IPv4Address(each["virtual_ip"])} <= hosts
            number = pillar["nodes"][plan["node"]["name"]]["id"]
            assert (
                int(IPv4Address(each["address"])) == int(IPv4Address(each["virtual_ip"])) + number
            )
    assert len(set(addresses)) == len(addresses) == len(pillar["networks"]) * (1 + len(found))
    for name, plan in found.items():
        for each in plan["networks"]:
            assert {peer["address"] for peer in each["peers"]} == {
                by_name(found[peer]["networks"])[each["name"]]["address"]
                for peer in found
                if peer != name
            }
        [instance, *_] = plan["vrrp"]["instances"]
        assert [each["address"] for each in instance["further"]] == [each[1] for each in virtual]
        announced = plan["health"]["announced"]  # each address behind its interface
        pairs = set(zip(announced[::2], announced[1::2], strict=True))
        assert {(each["interface"], each["virtual_ip"]) for each in plan["networks"]} <= pairs


@given(pillars())
def test_networks_do_not_overlap(pillar):
    for plan in plans(pillar).values():
        networks = [INTERNAL, PUBLIC, *map(IPv4Network, plan["vpn"]["networks"])]
        networks += [IPv4Network(server["network"]) for server in plan["vpn"]["servers"]]
        networks += [IPv4Network(each["network"]) for each in plan["networks"]]
        networks += [IPv4Network(route["destination"]) for route in plan["inside_routes"]]
        for one, other in pairwise(sorted(networks)):
            assert one.broadcast_address < other.network_address


@given(pillars())
def test_a_table_is_of_one_network_and_nobody_else_s(pillar):
    """The kernel's own tables are 0 and 253 to 255; few number theirs above 65,535."""
    for plan in plans(pillar).values():
        tables = [way["table"] for way in plan["ways_back"]]
        assert len(set(tables)) == len(tables)
        assert all(65535 < table < 2**32 for table in tables)
        assert len({way["interface"] for way in plan["ways_back"]}) == len(tables)
        elsewhere = [(route["destination"], route["via"]) for route in plan["routes"]]
        assert len(tables) == (len(plan["networks"]) if elsewhere else 0)
        for way, network in zip(plan["ways_back"], plan["networks"], strict=False):
            assert way["interface"] == network["interface"]
            assert [each["destination"] for each in way["routes"]] == [to for to, _ in elsewhere]
            assert {each["via"] for each in way["routes"]} <= {
                peer["address"] for peer in network["peers"]
            }


# --------------------------------------------------------------------------------------------------
# Nothing moves


@given(pillars())
def test_a_new_network_moves_nothing(pillar):
    if len(pillar["networks"]) == MOST_NETWORKS:
        pillar["hosts"] = {}
        pillar["routes"] = []
        pillar["networks"].popitem()
    before, after = plans(pillar), plans(larger(pillar))
    for name, old in before.items():
        new = after[name]
        assert old["digest"] != new["digest"]
        networks = by_name(new["networks"])
        assert len(networks) == len(old["networks"]) + 1
        assert by_name(old["networks"]).items() <= networks.items()
        for key in ("routes", "inside_routes", "peers", "vpn", "internal", "dhcp", "node"):
            assert old[key] == new[key], key
        for some, more in (
            (old["ways_back"], new["ways_back"]),
            (old["dns"]["records"], new["dns"]["records"]),
            (each["vrrp"]["instances"][0]["further"] for each in (old, new)),
        ):
            assert all(each in more for each in some)
        assert old["kernel"].items() <= new["kernel"].items()


@given(pillars(least=2))
def test_a_new_node_moves_nothing(pillar):
    fewer = copy.deepcopy(pillar)
    gone, _ = fewer["nodes"].popitem()
    before, after = plans(fewer), plans(pillar)
    for name, old in before.items():
        for one, other in zip(old["networks"], after[name]["networks"], strict=True):
            peers = [peer for peer in other["peers"] if peer["name"] != gone]
            ntp = [each for each in other["dhcp"]["ntp"] if each in one["dhcp"]["ntp"]]
            dhcp = {**other["dhcp"], "ntp": ntp}
            assert {**other, "peers": peers, "dhcp": dhcp} == one
            assert len(other["dhcp"]["ntp"]) == len(ntp) + 1


@given(pillars(), st.randoms(use_true_random=False))
def test_order_and_json_change_nothing(pillar, random):
    """The order of networks and nodes, that is; of routes it is the pillar's own."""
    turned = copy.deepcopy(pillar)
    for key in ("networks", "nodes"):
        names = random.sample(list(pillar[key]), len(pillar[key]))
        turned[key] = {name: turned[key][name] for name in names}
    one, other = plans(pillar), plans(json.loads(json.dumps(turned)))
    for name, plan in one.items():
        assert json.loads(json.dumps(plan)) == plan
        assert json.dumps(plan) == json.dumps(other[name])


# --------------------------------------------------------------------------------------------------
# All errors at once

FAULTS = [
    ("interface", "a b", "interface: "),
    ("trusted", "perhaps", "trusted: must be true or false"),
    ("nat", "some", "nat: "),
    ("targets", ["192.0.2.1"], "targets:0: 192.0.2.1 is not inside"),
    ("aliases", ["-x-"], "aliases:0: "),
    ("dhcp", {"enabled": True, "lease_time": "1s"}, "dhcp:lease_time: 1s is not in"),
    ("dhcp", {"enabled": True, "router": "192.0.2.1"}, "dhcp:router: 192.0.2.1 is not inside"),
    ("dhcp", {"enabled": True, "options": {3: "192.0.2.1"}}, "dhcp:options:3: is not possible"),
    ("dhcp", {"enabled": True, "boot": {"server": "192.0.2.1"}}, "dhcp:boot:file: missing"),
    ("color", "red", "color: unknown key"),
]


@given(pillars(), st.lists(st.integers(0, len(FAULTS) - 1), max_size=MOST_NETWORKS), st.data())
def test_all_errors_are_said_at_once(pillar, faults, data):
    expected = []
    for (name, network), number in zip(pillar["networks"].items(), faults, strict=False):
        key, value, error = FAULTS[number]
        network[key] = value
        expected.append(f"gateway:networks:{name}:{error}")
    for number, route in enumerate(pillar["routes"]):
        if data.draw(st.booleans()) and number < 10:
            route["via"] = "192.0.2.1"
            expected.append(f"gateway:routes:{number}:via: 192.0.2.1 is in no network behind")
    _, errors = _gateway_plan.read(pillar)
    for error in expected:
        assert [each for each in errors if each.startswith(error)], (error, errors)
    assert len(errors) == len(expected), errors


# --------------------------------------------------------------------------------------------------
# The rules

LINE = re.compile(r"-A GATEWAY-[A-Z]+ (.+ )?-j [A-Z-]+\b.*")


@given(pillars())
@settings(max_examples=30)
def test_there_are_rules_for_each_and_not_for_each_pair(pillar):
    """Each network, route, server and network behind a client adds a bounded number."""
    plan = next(iter(plans(pillar).values()))
    rules = _gateway_rules.ruleset(plan)
    networks = 1 + len(plan["networks"])
    sources = networks + len(plan["inside_routes"])
    servers = len(plan["vpn"]["servers"])
    for text, each in ((rules["v4"], 36), (rules["v6"], 36)):
        lines = [line for line in text.splitlines() if line.startswith("-A ")]
        assert all(LINE.fullmatch(line) for line in lines)
        assert len(lines) < 100 + each * networks + 16 * sources + 3 * servers * (sources + 40)


def host(network):
    return str(IPv4Network(network)[HOST])


@given(pillars(least=2), st.data())
@settings(max_examples=30)
def test_who_reaches_whom(pillar, data):
    """By default: the internet everybody, and each other those that are trusted."""
    plan = next(iter(plans(pillar).values()))
    node = Node(plan)
    local = [
        ("eth0", str(INTERNAL), True, str(INTERNAL[1])),
        *(
            (each["interface"], each["network"], each["trusted"], each["virtual_ip"])
            for each in plan["networks"]
        ),
    ]
    known = {interface: trusted for interface, _, trusted, _ in local}
    ends = [(interface, host(network)) for interface, network, _, _ in local]
    ends += [(each["interface"], host(each["destination"])) for each in plan["inside_routes"]]
    for _ in range(8):
        (came_by, source), (leaves_by, to) = (data.draw(st.sampled_from(ends)) for _ in "12")
        assert node.meets(packet(f"{came_by} {source}>192.0.2.1 tcp/443")).startswith("accepted")
        assert node.meets(packet(f"eth1 192.0.2.1>{to} tcp/443")) == "dropped"
        if came_by == leaves_by:
            continue
        flow = f"{came_by} {source}>{to} tcp/443"
        both = known[came_by] and known[leaves_by]
        assert node.meets(packet(flow)) == ("accepted" if both else "refused"), flow
        assert node.meets(packet(f"{leaves_by} {source}>{to} tcp/443")) == "dropped"
        virtual = next(each[3] for each in local if each[0] == came_by)
        assert node.meets(packet(f"{came_by} {source}>{virtual} udp/53")) == "accepted"
        ssh = node.meets(packet(f"{came_by} {source}>{virtual} tcp/22"))
        assert ssh == ("accepted" if known[came_by] else "refused")
