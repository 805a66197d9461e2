"""The hosts of a site, which DNS, DHCP and port forwards use."""

import pytest
from cases import ADDRESSES

# --------------------------------------------------------------------------------------------------
# What is rejected: a change of the example (`...` removes a key), where the error is, what it says

REJECTED = {
    "key that is no text": (
        {"hosts": {7: {"ip": "10.77.0.7"}}, "nat": ...},
        "hosts:7",
        "must be text, is a number (7); put it in quotes",
    ),
    # missing
    "missing address": ({"hosts:backend01:ip": ...}, "hosts:backend01:ip", "missing"),
    # addresses
    "malformed address": (
        {"hosts:backend01:ip": "10.77.0.310"},
        "hosts:backend01:ip",
        "10.77.0.310 is not an IPv4 address",
    ),
    "broadcast address": (
        {"hosts:backend01:ip": "10.77.0.255"},
        "hosts:backend01:ip",
        "10.77.0.255 is the broadcast address of 10.77.0.0/24",
    ),
    "reservation outside the internal network": (
        {"hosts:cam": {"ip": "10.78.0.9", "mac": "02:00:00:00:00:09"}},
        "hosts:cam:ip",
        "10.78.0.9 is not inside 10.77.0.0/24",
    ),
    # duplicates
    "host with a node's address": (
        {"hosts:backend01:ip": "10.77.0.2"},
        "hosts:backend01:ip",
        "address 10.77.0.2 is taken already, by gateway:nodes:gw1:internal;"
        " a name for it is one of gateway:nodes:gw1:aliases",
    ),
    "host with the virtual IP": (
        {"hosts:gateway": {"ip": "10.77.0.1"}},
        "hosts:gateway:ip",
        "address 10.77.0.1 is taken already, by gateway:internal:virtual_ip;"
        " a name for it is one of gateway:internal:aliases",
    ),
    "host with the public virtual IP": (
        {**ADDRESSES, "hosts:gateway": {"ip": "198.51.100.10"}},
        "hosts:gateway:ip",
        "address 198.51.100.10 is taken already, by gateway:public:virtual_ip;"
        " a name for it is one of gateway:public:aliases",
    ),
    "host with an address of its own at a node": (
        {"hosts:gateway": {"ip": "198.51.100.2"}},
        "hosts:gateway:ip",
        "address 198.51.100.2 is taken already, by gateway:nodes:gw1:public",
    ),
    "same MAC address in a list": (
        {"hosts:backend01:mac": ["02:00:00:00:00:10", "02:00:00:00:00:11", "02-00-00-00-00-10"]},
        "hosts:backend01:mac:2",
        "MAC address 02:00:00:00:00:10 is taken already, by gateway:hosts:backend01:mac:0",
    ),
    "too many MAC addresses": (
        {"hosts:backend01:mac": [f"02:00:00:00:01:{n:02}" for n in range(17)]},
        "hosts:backend01:mac",
        "17 of them; a host has at most 16",
    ),
    "alias of a node and a host": (
        {"nodes:gw2:aliases": ["www"]},
        "hosts:backend01:aliases:0",
        "host name www is taken already, by gateway:nodes:gw2:aliases:0",
    ),
    "wildcard of two": (
        {"nodes:gw2:aliases": ["*.apps"], "hosts:backend01:aliases": ["*.apps.example.internal"]},
        "hosts:backend01:aliases:0",
        "host name *.apps is taken already, by gateway:nodes:gw2:aliases:0",
    ),
    "wildcard alone": (
        {"hosts:backend01:aliases": ["*"]},
        "hosts:backend01:aliases:0",
        "* is not a domain name",
    ),
    "wildcard within": (
        {"hosts:backend01:aliases": ["a.*.b"]},
        "hosts:backend01:aliases:0",
        "a.*.b is not a domain name",
    ),
    # one value, and not several
    "macs, of which there may be some": (
        {"hosts:backend01:macs": []},
        "hosts:backend01:macs",
        'unknown key; did you mean "mac"?',
    ),
    # DNS and DHCP
    "name with a dot at its end": (
        {"hosts:backend01:aliases": ["www.Company.example."]},
        "hosts:backend01:aliases:0",
        "www.Company.example. is not a domain name; write it without the dot at its end:"
        " www.company.example",
    ),
    "same MAC address": (
        {"hosts:cam": {"ip": "10.77.0.11", "mac": "02-00-00-00-00-10"}},
        "hosts:cam:mac",
        "MAC address 02:00:00:00:00:10 is taken already, by gateway:hosts:backend01:mac",
    ),
    "same host name in other letters": (
        {"hosts:Backend01": {"ip": "10.77.0.11"}},
        "hosts:backend01",
        "host name backend01 is taken already, by gateway:hosts:Backend01",
    ),
    "host called as a node": (
        {"hosts:gw2": {"ip": "10.77.0.11"}},
        "hosts:gw2",
        "host name gw2 is taken already, by gateway:nodes:gw2",
    ),
    "alias of another host": (
        {"hosts:cam": {"ip": "10.77.0.11", "aliases": ["tv", "www"]}},
        "hosts:cam:aliases:1",
        "host name www is taken already, by gateway:hosts:backend01:aliases:0",
    ),
    "alias of another host, in full": (
        {"hosts:cam": {"ip": "10.77.0.11", "aliases": ["www.example.internal"]}},
        "hosts:cam:aliases:0",
        "host name www is taken already, by gateway:hosts:backend01:aliases:0",
    ),
    # names
    "host name": (
        {"hosts:back_end": {"ip": "10.77.0.11"}},
        "hosts:back_end",
        "back_end is not a host name (letters, digits and inner hyphens)",
    ),
    "host name of 64 characters": (
        {f"hosts:{'a' * 64}": {"ip": "10.77.0.11"}},
        "hosts:" + "a" * 64,
        f"{'a' * 57}... is not a host name (letters, digits and inner hyphens)",
    ),
    "alias": (
        {"hosts:backend01:aliases": ["www", "-"]},
        "hosts:backend01:aliases:1",
        "- is not a domain name",
    ),
    "MAC address": (
        {"hosts:backend01:mac": "02:00:00:00:00"},
        "hosts:backend01:mac",
        "02:00:00:00:00 is not a MAC address such as 02:00:00:00:00:10",
    ),
    "MAC address without quotes": (
        {"hosts:backend01:mac": 1555200010},
        "hosts:backend01:mac",
        "YAML read a number (1555200010); put the MAC address in quotes",
    ),
    "MAC address of a group": (
        {"hosts:backend01:mac": "01:00:5e:00:00:01"},
        "hosts:backend01:mac",
        "01:00:5e:00:00:01 is a group address; no host has it",
    ),
    # the rest of the services
    "host at an address of a VPN": (
        {"hosts:alice": {"ip": "10.8.0.5"}},
        "hosts:alice:ip",
        "10.8.0.5 is inside 10.8.0.0/16 of VPN server main, which has clients and no hosts"
        " (gateway:vpn:clients)",
    ),
    "host at the broadcast address": (
        {"hosts:other": {"ip": "10.77.0.255"}},
        "hosts:other:ip",
        "10.77.0.255 is the broadcast address of 10.77.0.0/24",
    ),
    "name too long with the domain": (
        {"domain": ".".join(["d" * 61] * 4), "hosts:backend01:aliases": []},
        "hosts:backend01",
        "backend01.ddddddddddddddddddddddddddd... has 257 characters; DNS takes 253",
    ),
}


@pytest.mark.parametrize(("changes", "key", "message"), REJECTED.values(), ids=REJECTED)
def test_rejected(errors, changes, key, message):
    """A mistake is one error, and it names the key of the pillar that is wrong."""
    assert errors(changes) == [f"gateway:{key}: {message}"]


# --------------------------------------------------------------------------------------------------
# What is planned


def test_names_of_what_is_the_formula_s_own(plan):
    changes = {
        **ADDRESSES,
        "internal:aliases": "gateway",
        "public:aliases": ["vpn", "vpn.example.org"],
        "nodes:gw2:aliases": ["spare", "*.gw2"],
    }
    dns = plan(changes)["dns"]
    assert [record for record in dns["records"] if "gw1" not in record["names"]][:3] == [
        {
            "ip": "10.77.0.3",
            "names": ["gw2.example.internal", "spare.example.internal", "gw2", "spare"],
        },
        {"ip": "10.77.0.1", "names": ["gateway.example.internal", "gateway"]},
        {"ip": "198.51.100.10", "names": ["vpn.example.internal", "vpn.example.org", "vpn"]},
    ]
    assert dns["wildcards"] == [{"name": "gw2.example.internal", "ip": "10.77.0.3"}]


def test_machines_with_several_cards(plan):
    macs = ["02:00:00:00:00:10", "02:00:00:00:00:11"]
    [reservation] = plan({"hosts:backend01:mac": macs})["dhcp"]["reservations"]
    assert reservation["macs"] == macs


def test_full_names_of_hosts(plan):
    """Whether a name is written with the site's domain or without is the same everywhere."""
    found = plan(
        {
            "hosts:backend01:aliases": ["www.example.internal", "www.company.example"],
            "nat:forwards": [
                {"port": 443, "to": "www"},
                {"port": 80, "to": "backend01.example.internal"},
                {"port": 81, "to": "WWW.company.example"},
            ],
            "firewall:groups": {"web": ["www"]},
            "firewall:forward": [{"from": "backend01.example.internal", "to": "www"}],
        }
    )
    assert {forward["ip"] for forward in found["nat"]["forwards"]} == {"10.77.0.10"}
    assert found["firewall"]["groups"]["web"]["v4"] == ["10.77.0.10"]
    (rule,) = found["firewall"]["forward"]
    assert rule["from"] == rule["to"] == [{"address": "10.77.0.10"}]


def test_names_that_dns_just_takes(errors):
    """253 characters are the longest; with a dot in it a name stands alone."""
    domain = ".".join([*["d" * 60] * 3, "d" * 59])
    found = errors({"domain": domain, "hosts:backend01:aliases": ["a" * 10, "a.example.org"]})
    assert found == []
    found = errors({"domain": domain, "hosts:backend01:aliases": ["a" * 11]})
    assert [error.split(": ")[0] for error in found] == ["gateway:hosts:backend01:aliases:0"]
    found = errors({"domain": domain, "nodes:gateway-one": {"id": 9, "internal": "10.77.0.9"}})
    assert [error.split(": ")[0] for error in found] == ["gateway:nodes:gateway-one"]
