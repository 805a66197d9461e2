"""The planner: what holds for every site, and for what is no site at all."""

import copy
import json
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from itertools import pairwise
from typing import Any, NamedTuple

import _gateway_iptables
import _gateway_nodes
import _gateway_plan
import _gateway_reader
import _gateway_rules
from hypothesis import example, given
from hypothesis import strategies as st

# --------------------------------------------------------------------------------------------------
# Networks that overlap

CLOSE_NETWORKS = st.lists(
    st.builds(
        lambda number, prefix: IPv4Network((number, prefix), strict=False),
        st.integers(0, 31) | st.sampled_from([2**31, 2**32 - 1]),
        st.integers(24, 32) | st.sampled_from([0, 1, 31, 32]),
    ),
    max_size=12,
)


@given(CLOSE_NETWORKS)
def test_a_network_is_compared_with_all_before_it(networks):
    reader = _gateway_reader.Reader()
    for number, network in enumerate(networks):
        reader.claim_network(network, str(number))
    assert reader.errors == [
        f"{number}: {network} overlaps {other} of {first}"
        for number, network in enumerate(networks)
        for first, other in enumerate(networks[:number])
        if network.overlaps(other)
    ]


# --------------------------------------------------------------------------------------------------
# Sites of 1 to 12 nodes, 1 to 8 VPN servers and 0 to 200 hosts. Every pillar is valid.

INTERNAL = IPv4Network("10.0.0.0/22")
PUBLIC = IPv4Network("198.51.100.0/24")
VPN = IPv4Address("10.128.0.0")
ID_BITS = 8  # blocks for ids 1 to 200


def node(number, **other):
    return {"id": number, "public": str(PUBLIC[number]), **other}


def host(number, ip):
    found = {"ip": ip}
    mac = f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"
    if number % 3:
        found["mac"] = mac if number % 2 else [mac, mac.replace("02:", "06:", 1)]
    if number % 5 == 0:
        found["aliases"] = [f"alias{number}", f"alias{number}.example.org"]
    if number % 7 == 0:
        found["aliases"] = [*found.get("aliases", []), f"*.sub{number}", f"*.sub{number}.example"]
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
            "full_tunnel": draw(st.booleans()),
        }
        at += size
    return found


IPV4_NETWORKS = st.builds(
    lambda number, prefix: str(IPv4Network((number, prefix), strict=False)),
    st.integers(0, 2**32 - 1),
    st.integers(1, 32),
)
IPV6_NETWORKS = st.builds(
    lambda number, prefix: str(IPv6Network((number, prefix), strict=False)),
    st.integers(0, 2**128 - 1),
    st.integers(1, 128),
)
NETWORKS = IPV4_NETWORKS | IPV6_NETWORKS
PORT = st.integers(1, 65535)
RANGE = st.tuples(PORT, PORT).map(lambda ends: f"{min(ends)}-{max(ends)}")
TEXTS = st.text("ab 19.-/:#%;!$<>", min_size=1, max_size=20)
RATES = st.sampled_from(["1/second", "9999/second", "30/minute", "7/hour", "2/day"])
MOST_GROUPS, MOST_FORWARDS = 6, 6


def optional(**keys):
    return st.fixed_dictionaries({}, optional=keys)


def one_or_some(names):
    return names | st.lists(names, min_size=1, max_size=4)


class End(NamedTuple):
    """Stands for one of a site's names of a kind, or for a network where it has none.

    So the strategies are the same for every site: to make them anew for each would cost more than
    to draw from them.
    """

    kind: str
    number: int
    network: str


def ends(*kinds):
    return st.builds(End, st.sampled_from(["networks", *kinds]), st.integers(0, 10**4), NETWORKS)


def resolved(value, names):
    """What was drawn, with the names of a site, by their kinds."""
    if isinstance(value, End):
        known = names.get(value.kind)
        return known[value.number % len(known)] if known else value.network
    if isinstance(value, dict):
        return {key: resolved(each, names) for key, each in value.items()}
    return [resolved(each, names) for each in value] if isinstance(value, list) else value


GROUPS = st.lists(
    st.tuples(st.integers(0, 20), st.lists(ends("hosts", "groups"), max_size=5)),
    max_size=MOST_GROUPS,
)


@st.composite
def groups(draw, hosts):
    """Groups of networks, hosts and groups before them in the alphabet."""
    found: dict[str, list[str]] = {}
    for number, (length, members) in enumerate(draw(GROUPS)):
        known = {"hosts": hosts, "groups": list(found)}
        found[f"group-{number}-{'x' * length}"] = resolved(members, known)
    return found


def rules(sources, destinations):
    """A rule without its action. Ports go with some protocols only."""
    return st.builds(
        lambda match, rest: {**match, **rest},
        optional(proto=st.sampled_from(["tcp", "udp", "both"]), ports=one_or_some(PORT | RANGE))
        | optional(proto=st.sampled_from(["icmp", "esp", "gre", 4, 132])),
        optional(**{"from": one_or_some(sources), "to": one_or_some(destinations)}, comment=TEXTS),
    )


def filter_rules(sources, destinations):
    return st.builds(
        lambda rule, rest: {**rule, **rest},
        rules(sources, destinations),
        optional(action=st.sampled_from(["drop", "reject"]), log=st.booleans())
        | optional(action=st.just("accept"), limit=RATES, log=st.booleans()),
    )


END, SIDE, INSIDE = (ends("hosts", "groups", *more) for more in ((), ("sides",), ("inside",)))
FIREWALLS = optional(
    confirm_timeout=st.integers(5, 600),
    spoof_protection=st.booleans(),
    log=st.booleans(),
    log_limit=RATES,
    mss=st.just("pmtu") | st.integers(536, 1460),
    ssh=optional(port=st.integers(1, 999), **{"from": one_or_some(END)}),
    input=st.lists(filter_rules(SIDE, END), max_size=4),
    forward=st.lists(filter_rules(SIDE, SIDE), max_size=4),
    raw=optional(filter=optional(INPUT=st.just(["-s 192.0.2.1 -j DROP"]))),
    raw6=optional(nat=optional(PREROUTING=st.just(["-s 2001:db8::1 -j ACCEPT"]))),
)
EGRESS = st.fixed_dictionaries(
    {"egress": st.just("deny"), "egress_allowed": st.lists(rules(INSIDE, END), max_size=4)}
)


@st.composite
def firewalls(draw, hosts, inside):
    """A site's firewall; ``inside`` are what rules may name beside hosts and networks."""
    found = draw(groups(hosts))
    names = {
        "hosts": hosts,
        "groups": list(found),
        "inside": inside,
        "sides": ["public", *inside],
    }
    firewall = draw(FIREWALLS)
    if draw(st.booleans()):
        firewall |= draw(EGRESS)
    return {**resolved(firewall, names), "groups": found}


FORWARDS = st.lists(
    st.tuples(
        st.integers(0, 3),
        optional(
            proto=st.sampled_from(["tcp", "udp", "both"]),
            to_port=PORT.filter(lambda port: port < 65500),
            comment=TEXTS,
            **{"from": one_or_some(ends("groups"))},
        ),
        st.lists(st.integers(0, 3), max_size=3, unique=True),
    ),
    max_size=MOST_FORWARDS,
)
OUTBOUND = st.lists(
    st.tuples(rules(ends("groups", "inside"), ends("groups")), st.integers(0, 5)), max_size=4
)


@st.composite
def nats(draw, hosts, found, inside, public):
    """A site's NAT, with each port once and some public addresses for one host each."""
    names = {"groups": list(found), "inside": inside}
    usual = [public["virtual_ip"]] if "virtual_ip" in public else []
    further = public.get("addresses", [])
    alone = further[: draw(st.integers(0, min(len(further), len(hosts))))]
    addresses = [*usual, *further[len(alone) :]]
    forwards = []
    drawn = zip(hosts, draw(FORWARDS), strict=False)
    for number, (name, (kind, rest, at)) in enumerate(drawn):
        first = 8000 + 10 * number
        ports = [
            first,
            [first, first + 1],
            f"{first}-{first + 9}",
            [first, f"{first + 2}-{first + 5}"],
        ]
        forward = {"port": ports[kind], "to": name, **rest}
        if addresses and at:
            some = (addresses[each % len(addresses)] for each in at)
            forward["address"] = list(dict.fromkeys(some))
        forwards.append(forward)
    snats = ["masquerade", "none", *addresses]
    outbound = [{**rule, "snat": snats[at % len(snats)]} for rule, at in draw(OUTBOUND)]
    return {
        "forwards": resolved(forwards, names),
        "one_to_one": [
            {"address": address, "to": hosts[number]} for number, address in enumerate(alone)
        ],
        "outbound": resolved(outbound, names),
    }


@st.composite
def clients(draw, servers):
    """VPN clients with an id that the smallest subnet has room for, and one without."""
    highest = min(1 << (31 - server["prefix"]) for server in servers.values()) - 1
    ids = draw(st.lists(st.integers(2, highest), max_size=20, unique=True))
    return {f"client{number}": {"id": number} for number in ids} | {"guest": {}}


@st.composite
def pillars(draw, spare=False):
    """A site; with ``spare``, one that has a node, a server and a host to take away again.

    Then no rule names what can be taken away.
    """
    least = 1 + spare
    ids = draw(st.lists(st.integers(1, 200), min_size=least, max_size=12, unique=True))
    hosts = draw(st.integers(least - 1, 20) | st.integers(least - 1, 200))
    # 1021 is a prime, so that each step leads to all the addresses of the network.
    step = draw(st.integers(1, 1020))
    addresses = iter([str(INTERNAL[1 + at * step % 1021]) for at in range(1 + 16 + 200)])
    public: dict[str, Any] = {"interface": "eth1", "network": str(PUBLIC)}
    if draw(st.booleans()):
        public["virtual_ip"] = str(PUBLIC[254])
        public["addresses"] = [str(PUBLIC[250 + n]) for n in range(draw(st.integers(0, 3)))]
    vpn = draw(servers(draw(st.integers(least, 8))))
    vpn_clients = draw(clients(vpn))
    stay = [f"host{number}" for number in range(hosts - spare)]
    names = ["internal", *([] if spare else ["vpn"]), *list(vpn)[: len(vpn) - spare]]
    firewall = draw(firewalls(stay, names))
    nodes = {f"gw{number}": node(number, internal=next(addresses)) for number in ids}
    for name in draw(st.sets(st.sampled_from(sorted(nodes)))):
        nodes[name]["aliases"] = [f"router-{name}", f"*.{name}", f"{name}.example.net"]
    # State sync is for two.
    link = {}
    if "virtual_ip" in public and len(nodes) == 2 and draw(st.booleans()):
        link = {"state_sync": {"interface": "eth3"}}
        for number, each in enumerate(nodes.values()):
            each["sync"] = f"10.78.0.{2 + number}"
    return {
        **link,
        "domain": "example.internal",
        "internal": {
            "interface": "eth0",
            "network": str(INTERNAL),
            "virtual_ip": next(addresses),
            "aliases": draw(st.sampled_from(["gateway", ["gateway", "gateway.example.net"], []])),
        },
        "public": public,
        "nodes": nodes,
        "vpn": {
            "servers": vpn,
            "clients": vpn_clients,
            "pki": {name: f"/etc/{name}" for name in ("ca", "certificate", "key", "tls_crypt")},
        },
        "hosts": {f"host{number}": host(number, next(addresses)) for number in range(hosts)},
        "firewall": firewall,
        "nat": draw(nats(stay, firewall["groups"], names, public)),
        "dhcp": {"enabled": True},
        "dns": {
            "forwarders": ["192.0.2.53", "127.0.0.1#5335"],
            "public_domain": draw(st.booleans()),
        },
        "ntp": {"servers": ["ntp.example.org"]},
    }


def plans(pillar, most=None):
    """The plan of each node of a pillar that must be valid, or of the first ones."""
    site, errors = _gateway_plan.read(pillar)
    assert site, errors
    return {name: _gateway_plan.plan(site, name) for name in list(pillar["nodes"])[:most]}


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
    if old == new:
        return set()
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
    group.popitem()
    before, after = plans(smaller), plans(pillar)
    digests = {plan.pop("digest") for plan in (*before.values(), *after.values())}
    assert len(digests) == 2
    for plan in (*before.values(), *after.values()):  # ranks among so many nodes
        for part, key in (("vrrp", "priority"), ("health", "penalties")):
            del plan[part][key]
    return [growth(before[name], after[name]) for name in before]


@given(pillars(spare=True))
def test_adding_a_node_changes_nothing_that_exists(pillar):
    expected = {"peers", "vrrp.instances.peers", "routes", "dhcp.ntp", "dns.records", "ntp.peers"}
    names = {"dns.own", "dns.outside", "dns.wildcards"}
    # State sync is for two.
    nodes = {name: {**each} for name, each in pillar["nodes"].items()}
    for each in nodes.values():
        each.pop("sync", None)
    without = {**pillar, "nodes": nodes, "state_sync": False}
    assert all(where - names == expected for where in added(without, "nodes"))


@given(pillars(spare=True))
def test_adding_a_server_changes_nothing_that_exists(pillar):
    expected = {"vpn.servers", "vpn.servers.pushes", "routes", "nat.sources", "ntp.allow"}
    expected |= {"openings", "units"}
    # Who may go to the internet by a full tunnel, may do so as far as egress allows it.
    # With state sync, the peer is not told of the connections of VPN clients.
    either = {"routes", "firewall.egress_allowed.from", "sync.ignored"}
    assert all(where - either == expected - either for where in added(pillar, "servers"))


@given(pillars(spare=True))
def test_adding_a_host_changes_nothing_that_exists(pillar):
    names = {"dns.own", "dns.outside", "dns.wildcards"}
    assert all(
        where - names in ({"dns.records"}, {"dns.records", "dhcp.reservations"})
        for where in added(pillar, "hosts")
    )


def answer(dns, name):
    """What dnsmasq does with a question for a name: by its manual, the longest pattern counts."""
    if any(name in record["names"] for record in dns["records"]):
        return "ours"
    domain = [] if dns["public_domain"] else ["example.internal"]
    found = [
        *((len(each) + 1, "wildcard") for each in wildcard_names(dns) if name.endswith(f".{each}")),
        *((len(each) + 1, "outside") for each in dns["outside"] if name.endswith(f".{each}")),
        *((len(each), "nothing") for each in dns["own"] if f".{name}".endswith(f".{each}")),
        *((len(each), "nothing") for each in domain if f".{name}".endswith(f".{each}")),
    ]
    return max(found, default=(0, "outside"))[1]


def wildcard_names(dns):
    return [wildcard["name"] for wildcard in dns["wildcards"]]


@given(pillars(), st.data())
def test_who_answers_for_a_name(pillar, data):
    """A name of ours is ours alone, a wildcard has what is below it, and no more is taken."""
    [plan] = plans(pillar, 1).values()
    dns = plan["dns"]
    full = [name for record in dns["records"] for name in record["names"] if "." in name]
    name = data.draw(st.sampled_from(full))
    below = f"qqq.{name}"
    inside = below.endswith(".example.internal") and not pillar["dns"]["public_domain"]
    covered = [each for each in wildcard_names(dns) if below.endswith(f".{each}")]
    assert answer(dns, name) == "ours"
    # For what there is no record of, such as an IPv6 address: nobody else is asked.
    assert answer({**dns, "records": []}, name) in ("nothing", "wildcard")
    assert answer(dns, below) == ("wildcard" if covered else "nothing" if inside else "outside")
    assert answer(dns, "www.example.com") == "outside"
    for wildcard in wildcard_names(dns):
        assert answer(dns, f"a.b.{wildcard}") == "wildcard"


def shuffled(value, random):
    if isinstance(value, list):
        return [shuffled(item, random) for item in value]
    if isinstance(value, dict):
        keys = random.sample(list(value), len(value))
        return {key: shuffled(value[key], random) for key in keys}
    return value


@given(pillars(), st.randoms(use_true_random=True))
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
# The firewall's rules

LINE = re.compile(
    r"-A GATEWAY-[A-Z]+ (.+ )?"
    r"-j (ACCEPT|DROP|RETURN|LOG|REJECT|CT|TCPMSS|DSCP|MARK|DNAT|SNAT|MASQUERADE"
    r"|GATEWAY-[A-Z]+)\b.*"
)
SOURCE = re.compile(r"(?<!\S)(-s \S+|-i \S+|-m set --match-set \S+ src)(?!\S)")


def by_key(text):
    """The rules below each comment line."""
    found: dict[str, list[str]] = {}
    key = ""
    for line in text.splitlines():
        if line.startswith("# "):
            key = line[2:]
        elif line.startswith("-A "):
            found.setdefault(key, []).append(re.sub(r'--comment "[^"]*"', "--comment x", line))
    return found


def rulesets(pillar):
    return {name: _gateway_rules.ruleset(plan) for name, plan in plans(pillar).items()}


@given(pillars())
def test_rules_are_lines_of_one_family(pillar):
    for rules in rulesets(pillar).values():
        texts = [(4, "v4"), (6, "v6"), (4, "closed4"), (6, "closed6")]
        for version, text in ((version, rules[name]) for version, name in texts):
            assert text.endswith("COMMIT\n")
            for lines in by_key(text).values():
                for line in lines:
                    assert LINE.fullmatch(line)
                    for address in re.findall(r" (?:-s|-d|--to-source) (\S+)", line):
                        assert (":" in address) == (version == 6)


@given(pillars())
def test_every_set_that_a_rule_names_is_there(pillar):
    for rules in rulesets(pillar).values():
        created = re.findall(r"(?m)^create (\S+) hash:net family (inet6?) ", rules["sets"])
        sets = dict(created)
        assert len(sets) == len(created)
        assert all(len(name) <= 31 for name in sets)
        for family, text in (("inet", rules["v4"]), ("inet6", rules["v6"])):
            for name in re.findall(r"--match-set (\S+) ", text):
                assert sets[name] == family
        for name, member in re.findall(r"(?m)^add (\S+) (\S+)$", rules["sets"]):
            assert (sets[name] == "inet6") == (":" in member)


@given(pillars())
def test_who_is_named_is_meant(pillar):
    """A rule that names sources matches them, or is not there: it is never for everybody."""
    for name, plan in plans(pillar).items():
        rules = _gateway_rules.ruleset(plan)
        firewall = plan["firewall"]
        named = [rule for kind in ("input", "forward", "egress_allowed") for rule in firewall[kind]]
        named += [*plan["nat"]["forwards"], *plan["nat"]["outbound"]]
        for version in (4, 6):
            lines = by_key(rules[f"v{version}"])
            for rule in named:
                below = lines.get(rule["key"], [])
                if rule["from"]:
                    assert all(SOURCE.search(line) for line in below), (name, rule)
                if rule["from"] and not any(
                    is_of(target, version, firewall["groups"]) for target in rule["from"]
                ):
                    assert below == []


def is_of(target, version, groups):
    """Whether what a name stands for exists in a family."""
    if "group" in target:
        return bool(groups[target["group"]][f"v{version}"])
    if "address" in target:
        return (":" in target["address"]) == (version == 6)
    return target.get("family", version) == version


@given(pillars(), st.data())
def test_a_set_s_name_changes_with_its_members_and_only_then(pillar, data):
    found = pillar["firewall"]["groups"]
    if not found:
        return
    name = data.draw(st.sampled_from(sorted(found)))
    changed = copy.deepcopy(pillar)
    members = data.draw(st.permutations(found[name]))
    changed["firewall"]["groups"][name] = members + data.draw(st.lists(NETWORKS, max_size=1))
    [before], [after] = (plans(each, 1).values() for each in (pillar, changed))
    for group, old in before["firewall"]["groups"].items():
        new = after["firewall"]["groups"][group]
        for version in (4, 6):
            names = {
                _gateway_iptables.set_name(group, each[f"v{version}"], version)
                for each in (old, new)
            }
            assert len(names) == 1 + (old[f"v{version}"] != new[f"v{version}"])


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
    | st.sampled_from(["firewall", "groups", "forward", "forwards", "from", "to", "ports"])
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
    site, errors = _gateway_plan.read(pillar)
    assert (site is None) == bool(errors)
    for error in errors:
        assert error.startswith("gateway:")
        assert error.isprintable()
        assert len(error) < 500
    if site is None:
        return
    for node in site.nodes:
        plan = _gateway_plan.plan(site, node.name)
        assert json.loads(json.dumps(plan, allow_nan=False)) == plan
        raw = {line["line"] for line in plan["firewall"]["raw"]}  # iptables' own words
        settings = {text for part in ("dns", "dhcp") for _, text in plan[part]["settings"]}
        for text in leaves(plan):
            if isinstance(text, str):
                assert text.isascii()
                assert text.isprintable()
                assert text in raw | settings or not set(text) & set("\"'`{}\\")
        for text in settings:
            # dnsmasq's own reading: no quote is left open, and nothing is taken for a comment.
            bare = re.sub(r'"(\\.|[^"\\])*"', "", text)
            assert '"' not in bare
            assert " #" not in bare
        rules = _gateway_rules.ruleset(plan)
        for text in (rules["v4"], rules["v6"]):
            for lines in by_key(text).values():
                assert all(LINE.fullmatch(line) for line in lines if not is_raw(line, raw))


def is_raw(line, raw):
    return any(line.endswith(re.sub(r'--comment "[^"]*"', "--comment x", own)) for own in raw)


@given(GARBAGE)
@example({"nodes": {(): {}, 10**5000: {}, float("nan"): {}, None: []}})
@example({"hosts": {"a": {"ip": 10**5000, "mac": 10**5000, "aliases": [b"", ()]}}})
@example(
    {"firewall": {"groups": {10**5000: [], "a": [10**5000, (), None]}, "input": [{"from": {}}]}}
)
@example(
    {"firewall": {"raw": {"filter": {"INPUT": [b"", [], 10**5000]}}}, "nat": {"outbound": [1]}}
)
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
            "sync": "10.78.0.2",
            "sync_interface": "sync0",
            "aliases": ["first", "*.first", "first.example.org"],
            "addresses": {"guest": "10.20.0.7"},
            "interfaces": {"guest": "lan20"},
            "pki": {"certificate": "/etc/gw1.crt", "key": "/etc/gw1.key"},
        },
        "gw2": {"id": 2, "internal": "10.77.0.3", "public": "198.51.100.3", "sync": "10.78.0.3"},
    },
    "internal": {
        "interface": "eth0",
        "network": "10.77.0.0/24",
        "virtual_ip": "10.77.0.1",
        "aliases": "gateway",
    },
    "public": {
        "aliases": ["vpn"],
        "interface": "eth1",
        "network": "198.51.100.0/24",
        "virtual_ip": "198.51.100.1",
        "addresses": ["198.51.100.11", "198.51.100.12"],
        "accept_ra": True,
    },
    "networks": {
        "guest": {
            "interface": "eth0.20",
            "network": "10.20.0.0/24",
            "virtual_ip": "10.20.0.1",
            "aliases": "guests-gateway",
            "isolated": True,
            "names": True,
            "targets": ["10.20.0.9"],
            "dhcp": {
                "pool": ["10.20.0.50-10.20.0.99", "10.20.0.150-10.20.0.199"],
                "router": "10.20.0.1",
                "dns": ["192.0.2.53"],
                "ntp": ["192.0.2.123"],
                "domain": "guest.example.org",
                "register": True,
                "options": {150: "10.20.0.9"},
                "boot": {"file": "a.0", "efi_file": "a.efi", "server": "10.20.0.9"},
            },
        },
        "servers": {
            "interface": "eth5",
            "network": "10.30.0.0/24",
            "virtual_ip": "10.30.0.1",
            "trusted": True,
            "nat": "none",
        },
    },
    "routes": [{"network": "10.60.0.0/16", "via": "10.30.0.254"}],
    "state_sync": {"interface": "eth3"},
    "failover": {
        "profile": "fast",
        "advert_interval": 0.2,
        "down_adverts": 4,
        "garp_repeat": 3,
        "garp_delay": 2,
        "garp_refresh": 60,
        "startup_delay": 2,
        "realtime_priority": 40,
        "preempt": False,
        "preempt_delay": 9,
        "reassert": 10,
    },
    "health": {
        "services": ["nginx"],
        "public": {"targets": ["198.51.100.100"]},
        "internal": {"targets": ["10.77.0.9"]},
    },
    "follow_virtual_ip": ["app.service"],
    "vpn": {
        "servers": {
            "main": {
                "network": "10.8.0.0/16",
                "prefix": 24,
                "port": 1194,
                "proto": "udp",
                "subnets": {"gw2": "10.8.9.0/24"},
                "full_tunnel": True,
                "routes": ["192.0.2.0/24"],
                "dynamic": False,
                "auth": {"pam": "openvpn", "token_lifetime": 3600, "same_name": True},
                "settings": {"push": ["route 192.0.2.0 255.255.255.0"], "float": True},
            },
            "other": {"network": "10.9.0.0/22", "port": 443, "auth": {"script": "/check"}},
        },
        "clients": {
            "Alice": {"id": 5, "pushes": ["route 192.0.2.0 255.255.255.0"]},
            "branch": {"id": 6, "networks": ["10.50.0.0/24"], "disabled": True},
        },
        "pki": {
            **{name: f"/etc/{name}" for name in ("ca", "certificate", "key", "tls_crypt")},
            **{name: f"/etc/{name}" for name in ("tls_crypt_v2", "auth_token", "crl")},
        },
    },
    "hosts": {
        "web": {"ip": "10.77.0.10", "mac": "02:00:00:00:00:10", "aliases": ["www"]},
        "laptop": {
            "ip": "10.77.0.11",
            "mac": ["02:00:00:00:00:11", "02:00:00:00:00:12"],
            "aliases": ["*.apps", "www.example.com", "*.example.com"],
        },
    },
    "firewall": {
        "confirm_timeout": 30,
        "spoof_protection": True,
        "log": True,
        "log_limit": "5/second",
        "mss": 1300,
        "ssh": {"port": 22, "from": ["admins", "2001:db8::/32"]},
        "egress": "deny",
        "egress_allowed": [{"to": "192.0.2.1", "ports": [80, "8000-8100"], "comment": "updates"}],
        "groups": {"admins": ["192.0.2.0/24", "web", "more"], "more": ["2001:db8:1::/64"]},
        "input": [
            {"from": ["vpn", "main"], "ports": 9100, "proto": "both", "limit": "9/minute"},
            {"from": "alice", "to": "198.51.100.11", "ports": 443},
        ],
        "forward": [{"from": "public", "to": ["internal"], "action": "reject", "log": True}],
        "raw": {"filter": {"INPUT": ["-p 47 -j ACCEPT"]}},
        "raw6": {"mangle": {"FORWARD": ["-p 47 -j MARK --set-mark 7"]}},
    },
    "nat": {
        "forwards": [
            {"port": "443", "proto": "tcp", "to": "web", "to_port": "8443", "comment": "a shop"},
            {"port": ["7000-7009"], "to": "www", "from": "admins", "address": ["198.51.100.11"]},
        ],
        "one_to_one": [{"address": "198.51.100.12", "to": "10.77.0.20"}],
        "outbound": [{"from": "internal", "to": ["192.0.2.0/24"], "snat": "none"}],
    },
    "dhcp": {
        "enabled": True,
        "pool": "10.77.0.100-10.77.0.199",
        "lease_time": "12h",
        "register": False,
        "key": "a-key-of-leases-for-tests-and-nobody-else",
        "settings": {"log-dhcp": True, "pxe-service": '0,"Boot"'},
    },
    "dns": {
        "forwarders": ["198.51.100.100", "127.0.0.1#5335"],
        "public_domain": True,
        "settings": {"cache-size": 1000, "txt-record": 'a.example,"v=spf1 -all"'},
    },
    "ntp": {"servers": ["ntp1.example.org"], "provider": "chrony", "settings": {"maxslew": 1}},
    "keepalived": {"router_id": 51, "settings": {"garp_lower_prio_repeat": 1}},
}


def keys_of(records):
    """The keys of some records, and those of the mappings among them."""
    found = set(records)
    for record in records.values():
        found |= keys_of(getattr(record.kind, "keys", {}))
    return found


def test_the_pillar_of_every_key_has_every_key():
    """A new key of the pillar is to be in it: what follows finds faults in what it has."""
    have = {key for container, key in places(EVERY_KEY) if isinstance(container, dict)}
    # What cannot be beside others of these, and chains that are read as those that it has.
    others = {"error", "PREROUTING", "POSTROUTING", "OUTPUT"}
    assert keys_of(_gateway_plan.KEYS) - have - others == set()
    assert {"public", "internal", "settings", "state_sync", "crl", "sync", "same_name"} <= have
    site, errors = _gateway_plan.read(EVERY_KEY)
    assert site, errors


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
    site, _ = _gateway_plan.read(EVERY_KEY)
    assert site
    errors = _gateway_nodes.check_node(site, name)
    assert bool(errors) == (name not in EVERY_KEY["nodes"])
    assert all(error.isprintable() for error in errors)
