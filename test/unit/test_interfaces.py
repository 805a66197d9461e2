"""The two sides of a node, and what somebody else does on them."""

from pathlib import Path

import _gateway_machine
import pytest
from cases import ADDRESSES
from on_node import LEASE_KEY, NODE_ADDRESSES, SYNC_LINK

# --------------------------------------------------------------------------------------------------
# What is planned

REJECTED = {
    # missing
    "missing section": ({"public": ...}, "public", "missing"),
    "missing virtual IP": ({"internal:virtual_ip": ...}, "internal:virtual_ip", "missing"),
    # wrong type
    "number for text": (
        {"internal:interface": 0},
        "internal:interface",
        "must be text, is a number (0); put it in quotes",
    ),
    # addresses
    "virtual IP outside its network": (
        {"internal:virtual_ip": "10.78.0.1"},
        "internal:virtual_ip",
        "10.78.0.1 is not inside 10.77.0.0/24",
    ),
    "public virtual IP outside its network": (
        {"public:virtual_ip": "192.0.2.1"},
        "public:virtual_ip",
        "192.0.2.1 is not inside 198.51.100.0/24",
    ),
    "public virtual IP without a network": (
        {"public": {"interface": "eth1", "virtual_ip": "198.51.100.1"}},
        "public:network",
        "missing; a public virtual IP needs it",
    ),
    # networks
    "malformed network": (
        {"public:network": "198.51.100.0/33"},
        "public:network",
        "198.51.100.0/33 is not an IPv4 network such as 10.77.0.0/24",
    ),
    "network with host bits": (
        {"internal:network": "10.77.0.1/24"},
        "internal:network",
        "10.77.0.1/24 has host bits set; the network is 10.77.0.0/24",
    ),
    "public overlaps the internal network": (
        {
            "public:network": "10.77.0.128/25",
            "nodes:gw1:public": "10.77.0.201",
            "nodes:gw2:public": "10.77.0.202",
        },
        "public:network",
        "10.77.0.128/25 overlaps 10.77.0.0/24 of gateway:internal:network",
    ),
    # duplicates
    "alias of no public virtual IP": (
        {"public:aliases": ["www2"]},
        "public:aliases:0",
        "is a name for gateway:public:virtual_ip, and there is none",
    ),
    "alias too long with the domain": (
        {"domain": ".".join(["d" * 61] * 4), "internal:aliases": ["*.apps"]}
        | {"nodes:gw1:aliases": [], "hosts": {}, "nat": {}},
        "internal:aliases:0",
        "*.apps.dddddddddddddddddddddddddddddd... has 254 characters; DNS takes 253",
    ),
    # one value, and not several
    "list for one text": (
        {"internal:interface": ["eth0", "eth2"]},
        "internal:interface",
        "must be one text, is a list",
    ),
    "nothing for a text": (
        {"internal:interface": None},
        "internal:interface",
        "must be one text, is empty",
    ),
    "two public virtual IPs": (
        {"public:virtual_ip": ["198.51.100.10", "198.51.100.11"]},
        "public:virtual_ip",
        "must be one text, is a list; further ones are gateway:public:addresses",
    ),
    "interfaces": (
        {"internal:interfaces": []},
        "internal:interfaces",
        'unknown key; there is only one "interface"',
    ),
    # names
    "interface name too long": (
        {"internal:interface": "enp0s31f6-vlan77"},
        "internal:interface",
        "enp0s31f6-vlan77 is longer than 15 characters",
    ),
    # further public addresses
    "further address outside its network": (
        {**ADDRESSES, "public:addresses:1": "198.51.101.12"},
        "public:addresses:1",
        "198.51.101.12 is not inside 198.51.100.0/24",
    ),
    "further addresses without a virtual IP": (
        {"public:addresses": ["198.51.100.11"]},
        "public:virtual_ip",
        "missing; further public addresses move with it",
    ),
    # the rest of the services
    "internal network of no hosts": (
        {"internal:network": "169.254.1.0/24"},
        "internal:network",
        "169.254.1.0/24 overlaps 169.254.0.0/16, of which no host has an address",
    ),
    "public network of no hosts": (
        {"public:network": "240.0.0.0/24"},
        "public:network",
        "240.0.0.0/24 overlaps 240.0.0.0/4, of which no host has an address",
    ),
    "loopback for a side": (
        {"internal:interface": "lo"},
        "internal:interface",
        "lo is not an interface name",
    ),
}


@pytest.mark.parametrize(("changes", "key", "message"), REJECTED.values(), ids=REJECTED)
def test_rejected(errors, changes, key, message):
    """A mistake is one error, and it names the key of the pillar that is wrong."""
    assert errors(changes) == [f"gateway:{key}: {message}"]


def test_only_the_card_that_has_an_address_answers_for_it(plan):
    """The larger one of `all` and the interface's counts: `all` would be for everybody's."""
    link = {
        "public:virtual_ip": "198.51.100.10",
        "state_sync": {"interface": "eth3"},
        "nodes:gw1:sync": "10.78.0.1",
        "nodes:gw2:sync": "10.78.0.2",
    }
    for changes, interfaces in (({}, ("eth0", "eth1")), (link, ("eth0", "eth1", "eth3"))):
        found = plan(changes)["kernel"]
        arp = {name: value for name, value in found.items() if "/arp_" in name}
        assert arp == {
            f"net/ipv4/conf/{interface}/{name}": value
            for interface in interfaces
            for name, value in (("arp_ignore", "1"), ("arp_announce", "2"))
        }


def test_routers_of_ipv6_are_not_believed(plan):
    """None inside, ever; none outside, unless the pillar wants it."""
    inside, outside = (f"net/ipv6/conf/{side}/accept_ra" for side in ("eth0", "eth1"))
    for changes, expected in (({}, "0"), ({"public:accept_ra": False}, "0")):
        found = plan(changes)["kernel"]
        assert (found[inside], found[outside]) == ("0", expected)
    found = plan({"public:accept_ra": True})
    assert found["kernel"][inside] == "0"
    assert outside not in found["kernel"]
    assert found["public"]["accept_ra"] is True


def test_public_networks_of_the_link(errors):
    """Between two routers such a network is usual, and nobody routes it."""
    changes = {"public:network": "169.254.9.0/24"}
    changes |= {f"nodes:gw{n}:public": f"169.254.9.{n}" for n in (1, 2)}
    assert errors(changes) == []


# --------------------------------------------------------------------------------------------------
# How a node is doing


def test_ipv6_that_a_router_gives(module, node, break_pillar):
    """It would end with the advertisements: the pillar has to say what is meant."""
    node.routes6 = [{"dst": "default", "gateway": "fe80::9", "dev": "eth1", "protocol": "ra"}]
    assert module.validate() == [
        "gateway:public:accept_ra: this node has a default route of IPv6 from an advertisement of"
        " fe80::9; say true if it is to keep it, and false if not"
    ]
    for said in (True, False):
        break_pillar({"public:accept_ra": said})
        assert module.validate() == []
    break_pillar({})
    node.routes6[0]["protocol"] = "static"
    assert module.validate() == []


VIRTUAL = "and not by keepalived; take it out of what configures the interface"
NOT_REACHED = (
    "gateway:nodes:gw1:{}: this node has {} on {}, which does not reach {}; give it the prefix"
    " length of the network, or the network a route over {}"
)


@pytest.mark.parametrize(
    ("addresses", "configured", "found"),
    [
        # keepalived's own, whether ours or one of before, with the length and device that it says.
        (["eth0 10.77.0.1/32"], "10.77.0.1/32 dev eth0", ""),
        (["eth0 10.77.0.1/32"], "virtual_ipaddress { 10.77.0.1 }", ""),
        (["eth0 10.77.0.1/24"], "virtual_ipaddress { 10.77.0.1/24 label eth0:vip }", ""),
        ([], "", ""),
        # Left in the configuration of the interface.
        (["eth0 10.77.0.1/24"], "10.77.0.1/32 dev eth0", "10.77.0.1/24 on eth0"),
        (["eth0 10.77.0.1/32"], "", "10.77.0.1/32 on eth0"),
        (["tap0 10.77.0.1/32"], "10.77.0.1/32 dev eth0", "10.77.0.1/32 on tap0"),
        (["lo 10.77.0.1/32"], "10.77.0.11/32\n10.77.0.1/24", "10.77.0.1/32 on lo"),
    ],
)
def test_a_virtual_ip_that_a_node_has_by_itself(
    module, node, tmp_path, addresses, configured, found
):
    """It would be the primary before keepalived starts."""
    node.addresses["eth0"] = ["10.77.0.2/24"]
    for text in addresses:
        interface, address = text.split()
        node.addresses[interface].append(address)
    node.keepalived.write_text(configured)
    expected = [f"gateway:internal:virtual_ip: this node has {found}, {VIRTUAL}"] if found else []
    assert module.validate(warnings=False) == expected
    assert [text for text in module.status()["problems"] if VIRTUAL in text] == expected


def test_public_addresses_that_a_node_has_by_itself(module, node, break_pillar):
    more = {"public:virtual_ip": "198.51.100.10", "public:addresses": ["198.51.100.11"]}
    break_pillar({**more, "state_sync": False})
    node.addresses["eth1"] += ["198.51.100.10/24", "198.51.100.11/24"]
    assert module.validate(warnings=False) == [
        f"gateway:public:{key}: this node has 198.51.100.{last}/24 on eth1, {VIRTUAL}"
        for key, last in (("virtual_ip", 10), ("addresses", 11))
    ]


def test_a_network_that_is_not_reached(module, node):
    for side, interface, length in (("internal", "eth0", 32), ("public", "eth1", 25)):
        network = module.plan()[side]["network"]
        address = module.plan()["node"][side]
        node.addresses[interface][0] = f"{address}/{length}"
        del node.on_link[network]
        own = f"{address}/{length}"
        expected = [NOT_REACHED.format(side, own, interface, network, interface)]
        assert module.validate(warnings=False) == expected
        # Or by a route, as some clouds have it; over the right interface.
        node.on_link[network] = "tap0"
        assert module.validate(warnings=False) == expected
        node.on_link[network] = interface
        assert module.validate(warnings=False) == []


NETWORK_WARNINGS = {
    "larger": (
        {"eth0": ["10.77.0.2/16", "10.77.0.1/32"]},
        {},
        "gateway:internal:network: 10.77.0.0/24 here, but this node has 10.77.0.2/16 on eth0",
    ),
    "elsewhere too": (
        {},
        {"on_link": {"10.77.0.0/25": "docker0"}},
        "gateway:internal:network: 10.77.0.0/25, a part of 10.77.0.0/24, is on this node's"
        " interface docker0, and packets for it go there",
    ),
    "VPN": (
        {},
        {"on_link": {"10.8.3.0/24": "eth1"}},
        "gateway:vpn:servers:main:network: 10.8.3.0/24, a part of 10.8.0.0/16, is on this node's"
        " interface eth1, and packets for it go there",
    ),
    "behind a client": (
        {},
        {"on_link": {"10.50.0.9": "eth1"}},
        "gateway:vpn:clients: 10.50.0.9/32, a part of 10.50.0.0/24, is on this node's interface"
        " eth1, and packets for it go there",
    ),
    "larger elsewhere": ({}, {"on_link": {"10.0.0.0/8": "docker0"}}, None),
    "a tunnel of before": ({}, {"on_link": {"10.8.0.0/24": "vpn-old"}}, None),
    "no way out": (
        {},
        {"way_to": {"198.41.0.4": None}},
        "gateway:public:interface: this node has no route to the internet (no default route); it"
        " should lead through eth1",
    ),
    "another way out": (
        {},
        {"way_to": {"198.41.0.4": "eth2"}},
        "gateway:public:interface: this node's way to the internet is eth2; it should lead through"
        " eth1",
    ),
    "by its own DHCP": (
        {},
        {"leases": ["10.77.0.2"]},
        "gateway:nodes:gw1:internal: this node has 10.77.0.2 by DHCP, and the gateways are the DHCP"
        " server; after an outage of both nobody could give it",
    ),
    "public by DHCP": ({}, {"leases": ["198.51.100.2"]}, None),
}


@pytest.mark.parametrize(
    ("addresses", "changes", "warning"), NETWORK_WARNINGS.values(), ids=NETWORK_WARNINGS
)
def test_a_network_that_does_not_go_with_the_pillar(
    module, node, break_pillar, addresses, changes, warning
):
    """It is said, and keeps nothing from being applied."""
    break_pillar({"vpn:clients": {"branch": {"networks": ["10.50.0.0/24"]}}})
    node.routes.append({"dst": "10.50.0.0/24", "gateway": "10.77.0.3", "protocol": "119"})
    node.apply()
    node.addresses.update(addresses)
    for name, value in changes.items():
        present = getattr(node, name)
        setattr(node, name, present | value if isinstance(present, dict) else value)
    expected = [warning] if warning else []
    assert module.validate() == module.status()["problems"] == expected
    assert module.validate(warnings=False) == []


def test_links_that_are_down(module, node):
    """Of a running node the health monitor says it."""
    node.flags = {"eth0": ["NO-CARRIER", "BROADCAST", "UP"], "eth1": ["BROADCAST"]}
    assert module.validate() == [
        "gateway:internal:interface: eth0 has no carrier",
        "gateway:public:interface: eth1 is down",
    ]
    assert module.validate(warnings=False) == module.status()["problems"] == []


def test_the_end_of_the_link_is_in_another_network(module, node, break_pillar):
    break_pillar({**SYNC_LINK, "nodes:gw1:sync_interface": "tap0"})
    for address, on_link, well in (
        ("10.78.0.1/24", {}, True),
        ("10.78.0.1/32", {}, False),
        ("10.78.0.1/32", {"10.78.0.2": "tap0"}, True),
        ("10.78.0.1/32", {"10.78.0.2": "eth1"}, False),
    ):
        node.addresses["tap0"], node.on_link = [address], on_link
        expected = (
            "gateway:nodes:gw1:sync: the peer's address, 10.78.0.2, is in no network of this node's"
            " interface tap0"
        )
        assert (expected in module.validate()) != well


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"internal:interface": "lan0"},
            ["gateway:internal:interface: this node has no interface lan0, only {}"],
        ),
        (
            {"public:interface": "wan0", "nodes:gw1:internal_interface": "lan0"},
            [
                "gateway:nodes:gw1:internal_interface: this node has no interface lan0, only {}",
                "gateway:public:interface: this node has no interface wan0, only {}",
            ],
        ),
        (
            {"nodes:gw1:internal": "10.77.0.8", "nodes:gw1:public": "198.51.100.8"},
            [
                "gateway:nodes:gw1:internal: 10.77.0.8 is not on this node's interface eth0",
                "gateway:nodes:gw1:public: 198.51.100.8 is not on this node's interface eth1",
            ],
        ),
        # On the other interface is not there; another node's interfaces are that node's matter.
        (
            {"nodes:gw1:internal_interface": "eth1", "nodes:gw1:public_interface": "eth0"},
            [
                "gateway:nodes:gw1:internal: 10.77.0.2 is not on this node's interface eth1",
                "gateway:nodes:gw1:public: 198.51.100.2 is not on this node's interface eth0",
            ],
        ),
        ({"nodes:gw2:internal_interface": "lan0", "nodes:gw1:public": ...}, []),
        (
            SYNC_LINK,
            ["gateway:state_sync:interface: this node has no interface eth3, only {}"],
        ),
        (
            {**SYNC_LINK, "nodes:gw1:sync_interface": "tap0"},
            ["gateway:nodes:gw1:sync: 10.78.0.1 is not on this node's interface tap0"],
        ),
    ],
    ids=[
        *("interface", "a node's own interface", "addresses", "swapped", "not this node's"),
        *("link", "address on the link"),
    ],
)
def test_what_the_pillar_says_and_the_node_does_not_have(
    module, node, break_pillar, changes, expected
):
    break_pillar(changes)
    have = ", ".join(sorted(NODE_ADDRESSES))
    assert module.validate() == [error.format(have) for error in expected]


# --------------------------------------------------------------------------------------------------
# Further networks: the same as for the internal one

GUEST = {"interface": "eth0.20", "network": "10.20.0.0/24", "virtual_ip": "10.20.0.1"}
NETWORKS = {
    "networks": {
        "guest": {**GUEST, "dhcp": {"pool": "10.20.0.50-10.20.0.99"}},
        "servers": {"interface": "eth3", "network": "10.30.0.0/24", "virtual_ip": "10.30.0.1"},
    },
    "nodes:gw1:addresses": {"servers": "10.30.0.7"},
    "nodes:gw1:interfaces": {"servers": "lan3"},
    "routes": [{"network": "10.50.0.0/16", "via": "10.77.0.254"}],
    "vpn": ...,
}


@pytest.fixture
def networks(module, node, break_pillar):
    """The node with two networks more, in good health."""
    break_pillar(NETWORKS)
    node.addresses |= {"eth0.20": ["10.20.0.2/24"], "lan3": ["10.30.0.7/24"]}
    node.on_link |= {"10.20.0.0/24": "eth0.20", "10.30.0.0/24": "lan3"}
    node.routes.append({"dst": "10.50.0.0/16", "gateway": "10.77.0.254", "protocol": "119"})
    node.running |= {"gateway-dns-others"}
    folder = Path(_gateway_machine.INTERFACES)
    for name in ("eth0.20", "lan3"):
        (folder / name).mkdir()
    node.apply()
    assert module.validate() == module.status()["problems"] == []
    return node


FAULTS = {
    "no interface": (
        lambda node: Path(_gateway_machine.INTERFACES, "eth0.20").rmdir(),
        "networks:guest:interface: this node has no interface eth0.20, only eth0, eth1, lan3, lo,"
        " tap0, vpn-main",
    ),
    "no interface of its own name": (
        lambda node: Path(_gateway_machine.INTERFACES, "lan3").rmdir(),
        "nodes:gw1:interfaces:servers: this node has no interface lan3, only eth0, eth0.20, eth1,"
        " lo, tap0, vpn-main",
    ),
    "no computed address": (
        lambda node: node.addresses.update({"eth0.20": []}),
        "networks:guest: 10.20.0.2 is not on this node's interface eth0.20",
    ),
    "no address": (
        lambda node: node.addresses.update({"lan3": ["10.30.0.2/24"]}),
        "nodes:gw1:addresses:servers: 10.30.0.7 is not on this node's interface lan3",
    ),
    "not reached": (
        lambda node: (
            node.addresses.update({"eth0.20": ["10.20.0.2/32"]}),
            node.on_link.pop("10.20.0.0/24"),
        ),
        "networks:guest: this node has 10.20.0.2/32 on eth0.20, which does not reach 10.20.0.0/24;"
        " give it the prefix length of the network, or the network a route over eth0.20",
    ),
    "virtual IP": (
        lambda node: node.addresses["eth0.20"].append("10.20.0.1/24"),
        f"networks:guest:virtual_ip: this node has 10.20.0.1/24 on eth0.20, {VIRTUAL}",
    ),
}
WARNINGS = {
    "larger": (
        lambda node: node.addresses.update({"lan3": ["10.30.0.7/16"]}),
        "networks:servers:network: 10.30.0.0/24 here, but this node has 10.30.0.7/16 on lan3",
    ),
    "elsewhere too": (
        lambda node: node.on_link.update({"10.20.0.0/25": "docker0"}),
        "networks:guest:network: 10.20.0.0/25, a part of 10.20.0.0/24, is on this node's interface"
        " docker0, and packets for it go there",
    ),
    "behind a router, and here": (
        lambda node: node.on_link.update({"10.50.9.0/24": "docker0"}),
        "routes: 10.50.9.0/24, a part of 10.50.0.0/16, is on this node's interface docker0, and"
        " packets for it go there",
    ),
    "by its own DHCP": (
        lambda node: setattr(node, "leases", ["10.20.0.2"]),
        "networks:guest: this node has 10.20.0.2 by DHCP, and the gateways are the DHCP server;"
        " after an outage of both nobody could give it",
    ),
    # In servers nobody gives addresses.
    "by somebody's DHCP": (lambda node: setattr(node, "leases", ["10.30.0.7"]), ""),
}


@pytest.mark.parametrize(("spoil", "error"), FAULTS.values(), ids=FAULTS)
def test_a_network_that_the_node_does_not_have(module, networks, spoil, error):
    spoil(networks)
    assert module.validate(warnings=False) == [f"gateway:{error}"]


@pytest.mark.parametrize(("spoil", "warning"), WARNINGS.values(), ids=WARNINGS)
def test_a_further_network_that_does_not_go_with_the_pillar(module, networks, spoil, warning):
    spoil(networks)
    expected = [f"gateway:{warning}"] if warning else []
    assert module.validate() == module.status()["problems"] == expected
    assert module.validate(warnings=False) == []


def test_an_internal_address_by_somebody_s_dhcp(module, networks, break_pillar):
    break_pillar(NETWORKS | {"dhcp": {"enabled": False, "key": LEASE_KEY}})
    networks.apply()
    networks.leases = ["10.77.0.2"]
    assert module.validate() == []


def test_links_of_networks_that_are_down(module, networks):
    networks.flags = {"eth0.20": ["NO-CARRIER", "UP"], "lan3": ["BROADCAST"]}
    assert module.validate() == [
        "gateway:networks:guest:interface: eth0.20 has no carrier",
        "gateway:nodes:gw1:interfaces:servers: lan3 is down",
    ]


@pytest.mark.parametrize("server", ["10.20.0.1", "10.20.0.2", "10.20.0.3", "10.30.0.1"])
def test_a_node_that_asks_itself_in_a_further_network(module, networks, break_pillar, server):
    """By the virtual IP, its own address, or the peer's."""
    break_pillar(NETWORKS | {"dns:forwarders": []})
    networks.resolvers[0].write_text(f"nameserver {server}\n")
    [warning] = module.validate()
    assert f"names only the gateway itself ({server})" in warning


# --------------------------------------------------------------------------------------------------
# What is written


def test_network_managers_leave_further_networks_alone(render):
    """Each has a virtual IP."""
    interfaces = render("networks", node="gw2").ids["systemd-networkd keeps what is ours"][
        "interfaces"
    ]
    assert sorted(interfaces) == ["eth0", "eth0.20", "eth1", "eth3", "eth5"]


def test_network_managers_leave_both_sides_alone(render):
    each_site = render("example", node="gw2", changes={"nodes:gw2:public_interface": "wan0"})
    assert each_site.ids["systemd-networkd keeps what is ours"]["interfaces"] == ["eth0", "wan0"]
