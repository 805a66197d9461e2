"""The planner: what holds for every site, and for what is no site at all."""

import copy
import json
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise

import gateway_plan
from hypothesis import example, given
from hypothesis import strategies as st

# --------------------------------------------------------------------------------------------------
# Sites of 1 to 16 nodes, 1 to 8 VPN servers and 0 to 200 hosts. Every pillar is valid.

INTERNAL = IPv4Network("10.0.0.0/22")
PUBLIC = IPv4Network("198.51.100.0/24")
VPN = IPv4Address("10.128.0.0")
ID_BITS = 8  # blocks for ids 1 to 200


def node(number, **other):
    return {"id": number, "public": str(PUBLIC[number]), **other}


def host(number, ip):
    found = {"ip": ip}
    if number % 3:
        found["mac"] = f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"
    if number % 5 == 0:
        found["aliases"] = [f"alias{number}", f"alias{number}.example.org"]
    return found


@st.composite
def servers(draw, count):
    """VPN servers whose networks lie one after the other, as close as their sizes allow."""
    found = {}
    at = int(VPN)
    for number in range(count):
        prefix = draw(st.integers(22, 29))
        size = 1 << (32 - prefix + ID_BITS)
        at = -(-at // size) * size
        found[f"server{number}"] = {
            "network": f"{IPv4Address(at)}/{prefix - ID_BITS}",
            "prefix": prefix,
            "port": 1194 + number,
            "proto": draw(st.sampled_from(["udp", "tcp"])),
        }
        at += size
    return found


@st.composite
def clients(draw, servers):
    """VPN clients with an id that the smallest subnet has room for, and one without."""
    highest = min(1 << (31 - server["prefix"]) for server in servers.values()) - 1
    ids = draw(st.lists(st.integers(2, highest), max_size=20, unique=True))
    return {f"client{number}": {"id": number} for number in ids} | {"guest": {}}


@st.composite
def pillars(draw, spare=False):
    """A site; with ``spare``, one that has a node, a server and a host to take away again."""
    least = 1 + spare
    ids = draw(st.lists(st.integers(1, 200), min_size=least, max_size=16, unique=True))
    hosts = draw(st.integers(least - 1, 200))
    # 1021 is a prime, so that each step leads to all the addresses of the network.
    step = draw(st.integers(1, 1020))
    addresses = iter([str(INTERNAL[1 + at * step % 1021]) for at in range(1 + 16 + 200)])
    public = {"interface": "eth1", "network": str(PUBLIC)}
    if draw(st.booleans()):
        public["virtual_ip"] = str(PUBLIC[254])
    forwards = draw(st.integers(0, hosts // 10))
    vpn_servers = draw(servers(draw(st.integers(least, 8))))
    return {
        "domain": "example.internal",
        "internal": {
            "interface": "eth0",
            "network": str(INTERNAL),
            "virtual_ip": next(addresses),
        },
        "public": public,
        "nodes": {f"gw{number}": node(number, internal=next(addresses)) for number in ids},
        "vpn": {
            "servers": vpn_servers,
            "clients": draw(clients(vpn_servers)),
            "pki": {name: f"/etc/{name}" for name in ("ca", "certificate", "key", "tls_crypt")},
        },
        "hosts": {f"host{number}": host(number, next(addresses)) for number in range(hosts)},
        "nat": {
            "forwards": [
                {"port": 8000 + n, "to": f"host{n}", "to_port": 80} for n in range(forwards)
            ]
        },
        "dhcp": {"enabled": True},
        "dns": {"forwarders": ["198.51.100.100"]},
        "ntp": {"servers": ["ntp.example.org"]},
    }


def plans(pillar):
    """The plan of each node of a pillar that must be valid."""
    site, errors = gateway_plan.read(pillar)
    assert site, errors
    return {name: gateway_plan.plan(site, name) for name in pillar["nodes"]}


@given(pillars())
def test_subnets_do_not_overlap(pillar):
    """Nor do they overlap the internal and the public network, or leave their server's network."""
    subnets = [INTERNAL, PUBLIC]
    for plan in plans(pillar).values():
        for server in plan["vpn"]["servers"]:
            subnet = IPv4Network(server["subnet"])
            assert subnet.subnet_of(
                IPv4Network(pillar["vpn"]["servers"][server["name"]]["network"])
            )
            assert IPv4Address(server["address"]) in subnet
            subnets.append(subnet)
    assert len(subnets) == 2 + len(pillar["nodes"]) * len(pillar["vpn"]["servers"])
    for one, next_one in pairwise(sorted(subnets)):
        assert one.broadcast_address < next_one.network_address


@given(pillars())
def test_no_two_vpn_clients_have_one_address(pillar):
    """Nor the server's, nor one that a client without an id may get."""
    for plan in plans(pillar).values():
        for server in plan["vpn"]["servers"]:
            fixed = [IPv4Address(c["address"]) for c in server["clients"] if c["address"]]
            first, last = map(IPv4Address, server["dynamic_range"])
            assert len({*fixed, IPv4Address(server["address"])}) == len(fixed) + 1
            assert all(address < first for address in fixed)
            assert {*fixed, first, last} <= set(IPv4Network(server["subnet"]).hosts())


@given(pillars())
def test_routes_lead_to_the_subnets_of_the_peers(pillar):
    found = plans(pillar)
    for name, plan in found.items():
        assert {(route["destination"], route["via"]) for route in plan["routes"]} == {
            (server["subnet"], pillar["nodes"][peer]["internal"])
            for peer in found
            for server in found[peer]["vpn"]["servers"]
            if peer != name
        }


def growth(old, new, path=""):
    """Where ``new`` has more than ``old``. Whatever else is different is a failure.

    A list may have gained elements anywhere, but those it had are there, in their order.
    """
    if isinstance(old, dict):
        assert old.keys() == new.keys(), path
        return {p for key in old for p in growth(old[key], new[key], f"{path}.{key}".lstrip("."))}
    if not isinstance(old, list):
        assert old == new, path
        return set()
    found = {path} if len(new) > len(old) else set()
    rest = iter(new)
    for item in old:
        for candidate in rest:
            try:
                found |= growth(item, candidate, path)
                break
            except AssertionError:
                found.add(path)
        else:
            raise AssertionError(f"{path}: {item} is gone")
    return found


def added(pillar, where):
    """Where the plans of the nodes grow when the last entry of a mapping is added."""
    smaller = copy.deepcopy(pillar)
    group = smaller["vpn"]["servers"] if where == "servers" else smaller[where]
    new = group.popitem()[0]
    smaller["nat"]["forwards"] = pillar["nat"]["forwards"] = [
        forward for forward in pillar["nat"]["forwards"] if forward["to"] != new
    ]
    before, after = plans(smaller), plans(pillar)
    digests = {plan.pop("digest") for plan in (*before.values(), *after.values())}
    assert len(digests) == 2
    return [growth(before[name], after[name]) for name in before]


@given(pillars(spare=True))
def test_adding_a_node_changes_nothing_that_exists(pillar):
    instances = {"vrrp.instances.peers"}
    expected = {"peers", "routes", "dhcp.ntp", "dns.records", "ntp.peers"} | instances
    assert all(where == expected for where in added(pillar, "nodes"))


@given(pillars(spare=True))
def test_adding_a_server_changes_nothing_that_exists(pillar):
    expected = {"vpn.servers", "vpn.servers.pushes", "routes", "nat.sources", "ntp.allow"}
    assert all(where - {"routes"} == expected - {"routes"} for where in added(pillar, "servers"))


@given(pillars(spare=True))
def test_adding_a_host_changes_nothing_that_exists(pillar):
    assert all(
        where in ({"dns.records"}, {"dns.records", "dhcp.reservations"})
        for where in added(pillar, "hosts")
    )


def shuffled(value, random):
    if isinstance(value, list):
        return [shuffled(item, random) for item in value]
    if isinstance(value, dict):
        keys = random.sample(list(value), len(value))
        return {key: shuffled(value[key], random) for key in keys}
    return value


@given(pillars(), st.randoms(use_true_random=False))
def test_order_does_not_matter(pillar, random):
    """Of mappings, that is. Compared as text: the plan's own order is the same, too."""
    one, other = plans(pillar), plans(shuffled(pillar, random))
    assert {plan["digest"] for plan in one.values()} == {plan["digest"] for plan in other.values()}
    for name, plan in one.items():
        assert json.dumps(plan) == json.dumps(other[name])


@given(pillars())
def test_json_round_trip(pillar):
    found = plans(pillar)
    assert json.loads(json.dumps(found)) == found
    assert plans(json.loads(json.dumps(pillar))) == found


# --------------------------------------------------------------------------------------------------
# Garbage

TEXT = st.text() | st.text("ab1.-/:\n\"'`{}\\#;% \t\0\x7f\u2028\ud800", max_size=12)
HUGE = st.integers(4000, 5000).map(lambda digits: 10**digits)  # Python refuses to print some
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | HUGE
    | st.floats()
    | st.binary(max_size=8)
    | st.dates()
    | TEXT
)
KEYS = (
    TEXT
    | HUGE
    | st.sampled_from([None, True, 0, -1, 1.5, float("nan"), b"nodes", (), ("id", 1)])
    | st.sampled_from(["nodes", "internal", "public", "vpn", "hosts", "nat", "dns", "ntp", "dhcp"])
)
GARBAGE = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=5)
        | st.frozensets(TEXT, max_size=3)
    ),
    max_leaves=30,
)


def leaves(value):
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def check(pillar):
    """A pillar, whatever it is, gives errors that can be read or plans that cannot do harm."""
    site, errors = gateway_plan.read(pillar)
    assert (site is None) == bool(errors)
    for error in errors:
        assert error.startswith("gateway:")
        assert error.isprintable()
        assert len(error) < 500
    if site is None:
        return
    for node in site.nodes:
        plan = gateway_plan.plan(site, node.name)
        assert json.loads(json.dumps(plan, allow_nan=False)) == plan
        for text in leaves(plan):
            if isinstance(text, str):
                assert text.isascii()
                assert text.isprintable()
                assert not set(text) & set("\"'`{}\\")


@given(GARBAGE)
@example({"nodes": {(): {}, 10**5000: {}, float("nan"): {}, None: []}})
@example({"hosts": {"a": {"ip": 10**5000, "mac": 10**5000, "aliases": [b"", ()]}}})
@example({"dns": {"settings": {"a": 10**5000, 10**5000: 1}}, "nat": {"forwards": [[], {1: 2}]}})
def test_garbage(pillar):
    check(pillar)


EVERY_KEY = {
    "domain": "example.internal",
    "nodes": {
        "gw1": {
            "id": 1,
            "internal": "10.77.0.2",
            "public": "198.51.100.2",
            "remote": "vpn.example.org",
            "priority": 254,
            "internal_interface": "lan0",
            "public_interface": "wan0",
            "pki": {"certificate": "/etc/gw1.crt", "key": "/etc/gw1.key"},
        },
        "gw2": {"id": 2, "internal": "10.77.0.3", "public": "198.51.100.3"},
    },
    "internal": {"interface": "eth0", "network": "10.77.0.0/24", "virtual_ip": "10.77.0.1"},
    "public": {"interface": "eth1", "network": "198.51.100.0/24", "virtual_ip": "198.51.100.1"},
    "vpn": {
        "servers": {
            "main": {
                "network": "10.8.0.0/16",
                "prefix": 24,
                "port": 1194,
                "proto": "udp",
                "subnets": {"gw2": "10.8.9.0/24"},
                "settings": {"push": ["route 192.0.2.0 255.255.255.0"], "float": True},
            },
        },
        "pki": {"ca": "/ca.crt", "certificate": "/vpn.crt", "key": "/vpn.key", "tls_crypt": "/tc"},
    },
    "hosts": {"web": {"ip": "10.77.0.10", "mac": "02:00:00:00:00:10", "aliases": ["www"]}},
    "nat": {"forwards": [{"port": 443, "proto": "tcp", "to": "web", "to_port": 8443}]},
    "dhcp": {"pool": "10.77.0.100-10.77.0.199", "lease_time": "12h", "settings": {"log": True}},
    "dns": {"forwarders": ["198.51.100.100"], "settings": {"cache-size": 1000}},
    "ntp": {"servers": ["ntp1.example.org"], "provider": "chrony", "settings": {"maxslew": 1}},
    "keepalived": {"router_id": 51, "settings": {"garp_lower_prio_repeat": 1}},
}


def places(value):
    """Each container of a pillar, with each of its keys."""
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    for key, item in pairs:
        yield value, key
        if isinstance(item, (dict, list)):
            yield from places(item)


@st.composite
def mutants(draw):
    """A good pillar with one to four things wrong."""
    pillar = copy.deepcopy(EVERY_KEY)
    for _ in range(draw(st.integers(1, 4))):
        everywhere = list(places(pillar))
        if not everywhere:
            break
        container, key = draw(st.sampled_from(everywhere))
        value = container[key]
        change = draw(st.sampled_from(["replace", "append", "insert", "swap", "remove", "rename"]))
        if change == "remove":
            del container[key]
        elif change == "rename" and isinstance(container, dict):
            extended = [str(key) + draw(TEXT)] if isinstance(key, str) else [key]
            container[draw(KEYS | st.sampled_from(extended))] = container.pop(key)
        elif change == "append" and isinstance(value, str):
            container[key] = value + draw(TEXT)
        elif change == "insert" and isinstance(value, str):
            at = draw(st.integers(0, len(value)))
            container[key] = value[:at] + draw(TEXT) + value[at:]
        elif change == "swap":
            other, other_key = draw(st.sampled_from(everywhere))
            container[key] = copy.deepcopy(other.get(other_key) if isinstance(other, dict) else 1)
        else:
            container[key] = draw(GARBAGE)
    return pillar


@given(mutants())
def test_garbage_in_a_good_pillar(pillar):
    check(pillar)


@given(TEXT)
def test_any_minion_may_ask(name):
    site, _ = gateway_plan.read(EVERY_KEY)
    assert site
    errors = gateway_plan.check_node(site, name)
    assert bool(errors) == (name not in EVERY_KEY["nodes"])
    assert all(error.isprintable() for error in errors)
