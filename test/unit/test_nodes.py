"""The nodes of a site."""

import pytest
from cases import ADDRESSES, pem

# --------------------------------------------------------------------------------------------------
# What is rejected: a change of the example (`...` removes a key), where the error is, what it says

REJECTED = {
    "unknown key like no other": ({"nodes:gw1:xyz": 1}, "nodes:gw1:xyz", "unknown key"),
    # missing
    "missing id": ({"nodes:gw2:id": ...}, "nodes:gw2:id", "missing"),
    "no nodes": ({"nodes": {}}, "nodes", "a site needs at least one node"),
    "no nodes key": ({"nodes": ...}, "nodes", "a site needs at least one node"),
    # wrong type
    "list for a mapping": ({"nodes:gw1": []}, "nodes:gw1", "must be a mapping, is a list"),
    "fraction": (
        {"nodes:gw1:id": 1.5},
        "nodes:gw1:id",
        "must be a whole number, is a number (1.5)",
    ),
    "truth for a number": (
        {"nodes:gw1:id": True},
        "nodes:gw1:id",
        "must be a whole number, is true or false (True)",
    ),
    # addresses
    "node outside its network": (
        {"nodes:gw2:internal": "10.78.0.3"},
        "nodes:gw2:internal",
        "10.78.0.3 is not inside 10.77.0.0/24",
    ),
    "public address outside its network": (
        {"nodes:gw2:public": "198.51.101.3"},
        "nodes:gw2:public",
        "198.51.101.3 is not inside 198.51.100.0/24",
    ),
    "virtual IP of a node": (
        {"internal:virtual_ip": "10.77.0.3"},
        "nodes:gw2:internal",
        "address 10.77.0.3 is taken already, by gateway:internal:virtual_ip",
    ),
    "public virtual IP of a node": (
        {"public:virtual_ip": "198.51.100.2"},
        "nodes:gw1:public",
        "address 198.51.100.2 is taken already, by gateway:public:virtual_ip",
    ),
    "public virtual IP without a node's address": (
        {"public:virtual_ip": "198.51.100.1", "nodes:gw2:public": ...},
        "nodes:gw2:public",
        "missing; a public virtual IP needs it on each node",
    ),
    "network's own address": (
        {"nodes:gw1:internal": "10.77.0.0"},
        "nodes:gw1:internal",
        "10.77.0.0 is the address of the network 10.77.0.0/24 itself",
    ),
    # duplicates
    "same id": (
        {"nodes:gw2:id": 1},
        "nodes:gw2:id",
        "id 1 is taken already, by gateway:nodes:gw1:id",
    ),
    "same priority": (
        {"nodes:gw2:priority": 250},
        "nodes:gw2:priority",
        "priority 250 is taken already, by gateway:nodes:gw1:priority",
    ),
    "same address of nodes": (
        {"nodes:gw2:public": "198.51.100.2"},
        "nodes:gw2:public",
        "address 198.51.100.2 is taken already, by gateway:nodes:gw1:public",
    ),
    "alias of the virtual IP and a node": (
        {"internal:aliases": "gw1.example.internal"},
        "nodes:gw1",
        "host name gw1 is taken already, by gateway:internal:aliases",
    ),
    # DNS and DHCP
    "space that nobody sees": (
        {"nodes:gw1:internal": "10.77.0.2 "},
        "nodes:gw1:internal",
        "'10.77.0.2 ' is not an IPv4 address",
    ),
    "public address that no host has": (
        {"public:network": ..., "nodes:gw1:public": "127.0.0.1"},
        "nodes:gw1:public",
        "127.0.0.1 is inside 127.0.0.0/8, of which no host has an address",
    ),
    # names
    "minion id": ({"nodes:g w": {}}, "nodes:g w", "g w is not a minion id"),
    "interface name": (
        {"nodes:gw1:public_interface": "eth1;reboot"},
        "nodes:gw1:public_interface",
        "eth1;reboot is not an interface name",
    ),
    "one interface for both sides": (
        {"nodes:gw2:public_interface": "eth0"},
        "nodes:gw2:public_interface",
        "eth0 is the internal interface already",
    ),
    # further public addresses
    "further address of a node": (
        {**ADDRESSES, "public:addresses:1": "198.51.100.3"},
        "nodes:gw2:public",
        "address 198.51.100.3 is taken already, by gateway:public:addresses:1",
    ),
    # the rest of the services
    "id": ({"nodes:gw2:id": 0}, "nodes:gw2:id", "0 is not in 1 to 200"),
    "certificate for a key": (
        {"nodes:gw1:pki": {"key": pem("CERTIFICATE")}},
        "nodes:gw1:pki:key",
        "is neither an absolute path nor PEM text"
        " (PRIVATE KEY or EC PRIVATE KEY or RSA PRIVATE KEY)",
    ),
    "address of a node in the internal network": (
        {"public:network": ..., "nodes:gw1:public": "10.77.0.9"},
        "nodes:gw1:public",
        "10.77.0.9 is inside 10.77.0.0/24 of gateway:internal:network",
    ),
    "address of a node in a VPN network": (
        {"public:network": ..., "nodes:gw1:public": "10.8.200.9"},
        "nodes:gw1:public",
        "10.8.200.9 is inside 10.8.0.0/16 of gateway:vpn:servers:main:network",
    ),
    "address of a node in a client's network": (
        {"public:network": ..., "vpn:clients": {"branch": {"networks": ["198.51.100.2/31"]}}}
        | {"nodes:gw2:public": "203.0.113.3"},
        "nodes:gw1:public",
        "198.51.100.2 is inside 198.51.100.2/31 of gateway:vpn:clients:branch:networks:0",
    ),
    "link in a VPN network": (
        {
            "public:virtual_ip": "198.51.100.10",
            "state_sync": {"interface": "eth3"},
            "nodes:gw1:sync": "10.8.78.2",
            "nodes:gw2:sync": "10.78.0.3",
        },
        "nodes:gw1:sync",
        "10.8.78.2 is inside 10.8.0.0/16 of gateway:vpn:servers:main:network",
    ),
    "word of the kernel for an interface": (
        {"nodes:gw1:public_interface": "all"},
        "nodes:gw1:public_interface",
        "all is not an interface name",
    ),
    "key of a node for the whole site": (
        {"nodes:gw1:pki": {"ca": "/etc/ca.crt"}},
        "nodes:gw1:pki:ca",
        "unknown key",
    ),
}


@pytest.mark.parametrize(("changes", "key", "message"), REJECTED.values(), ids=REJECTED)
def test_rejected(errors, changes, key, message):
    """A mistake is one error, and it names the key of the pillar that is wrong."""
    assert errors(changes) == [f"gateway:{key}: {message}"]


# --------------------------------------------------------------------------------------------------
# What is planned


def test_node(plan):
    found = plan(node="gw2")
    assert found["node"] == {
        "name": "gw2",
        "id": 2,
        "internal": "10.77.0.3",
        "public": "198.51.100.3",
        "sync": None,
        "remote": "198.51.100.3",
    }
    assert found["peers"] == [
        {"name": "gw1", "id": 1, "internal": "10.77.0.2", "public": "198.51.100.2"}
    ]
    assert found["internal"] == {
        "interface": "eth0",
        "network": "10.77.0.0/24",
        "netmask": "255.255.255.0",
        "virtual_ip": "10.77.0.1",
    }
    assert found["public"]["interface"] == "eth1"
    assert found["public"]["virtual_ip"] is None


def test_a_node_whose_minion_id_is_no_name_has_aliases(plan):
    changes = {"nodes:gw_3": {"id": 3, "internal": "10.77.0.4", "aliases": ["third"]}}
    assert plan(changes)["dns"]["records"][2] == {
        "ip": "10.77.0.4",
        "names": ["third.example.internal", "third"],
    }


def test_overrides_of_a_node(plan):
    changes = {
        "nodes:gw2:priority": 254,
        "nodes:gw2:internal_interface": "lan0",
        "nodes:gw2:public_interface": "wan0",
        "nodes:gw2:remote": "vpn2.example.org",
        "nodes:gw2:public": ...,
        "keepalived": {"router_id": 7},
    }
    one, two = plan(changes, "gw1"), plan(changes, "gw2")
    assert (one["vrrp"]["priority"], two["vrrp"]["priority"]) == (249, 250)
    assert (two["internal"]["interface"], two["public"]["interface"]) == ("lan0", "wan0")
    assert (one["internal"]["interface"], one["public"]["interface"]) == ("eth0", "eth1")
    assert two["vrrp"]["instances"][0]["interface"] == "lan0"
    assert two["node"]["remote"] == "vpn2.example.org"
    assert two["vrrp"]["router_id"] == one["vrrp"]["router_id"] == 7


def test_ids_give_the_order_not_names(plan):
    changes = {"nodes:a": {"id": 3, "internal": "10.77.0.4"}}
    found = plan(changes)
    assert [peer["name"] for peer in found["peers"]] == ["gw2", "a"]
    assert found["dhcp"]["ntp"] == ["10.77.0.2", "10.77.0.3", "10.77.0.4"]
