"""Port forwards, 1:1 and outbound NAT."""

import pytest
from cases import ADDRESSES

# --------------------------------------------------------------------------------------------------
# What is rejected: a change of the example (`...` removes a key), where the error is, what it says

REJECTED = {
    "unknown key in a list": (
        {"nat:forwards:0:destination": "backend01"},
        "nat:forwards:0:destination",
        "unknown key",
    ),
    # missing
    "missing target": ({"nat:forwards:0:to": ...}, "nat:forwards:0:to", "missing"),
    # wrong type
    "text for a number": (
        {"nat:forwards:0:to_port": "0443"},
        "nat:forwards:0:to_port",
        "must be a whole number, is text (0443)",
    ),
    # one value, and not several
    "list for one of some": (
        {"nat:forwards:0:proto": ["tcp", "udp"]},
        "nat:forwards:0:proto",
        "must be one of tcp, udp, both, is a list",
    ),
    "ports of a forward": (
        {"nat:forwards:0:ports": [1]},
        "nat:forwards:0:ports",
        'unknown key; did you mean "port"?',
    ),
    # DNS and DHCP
    "forward to a node by its full name": (
        {"nat:forwards:0:to": "gw2.example.internal"},
        "nat:forwards:0:to",
        "gw2 is the gateway itself; what reaches it is for input rules",
    ),
    "forward of a VPN server's port": (
        {"nat:forwards:0": {"port": 1194, "proto": "udp", "to": "backend01"}},
        "nat:forwards:0:port",
        "port 1194/udp is taken already, by gateway:vpn:servers:main:port",
    ),
    "two forwards of one port": (
        {"nat:forwards": [{"port": 443, "to": "backend01"}, {"port": 443, "to": "www"}]},
        "nat:forwards:1:port",
        "port 443/tcp is taken already, by gateway:nat:forwards:0:port",
    ),
    # forwards
    "forward to an unknown host": (
        {"nat:forwards:0:to": "backend02"},
        "nat:forwards:0:to",
        'there is no host backend02 in gateway:hosts; did you mean "backend01"?',
    ),
    "forward to what is neither": (
        {"nat:forwards:0:to": "10.77.0.300"},
        "nat:forwards:0:to",
        "10.77.0.300 is neither an IPv4 address nor a domain name",
    ),
    "forward out of the internal network": (
        {"nat:forwards:0:to": "10.78.0.10"},
        "nat:forwards:0:to",
        "10.78.0.10 is not inside 10.77.0.0/24",
    ),
    "forward to a host elsewhere": (
        {"hosts:far": {"ip": "192.0.2.9"}, "nat:forwards:0:to": "far"},
        "nat:forwards:0:to",
        "far (192.0.2.9) is not inside 10.77.0.0/24",
    ),
    "port 0": ({"nat:forwards:0:port": 0}, "nat:forwards:0:port", "0 is not in 1 to 65535"),
    "port 65536": (
        {"nat:forwards:0:to_port": 65536},
        "nat:forwards:0:to_port",
        "65536 is not in 1 to 65535",
    ),
    "protocol": (
        {"nat:forwards:0:proto": "ucp"},
        "nat:forwards:0:proto",
        'ucp is none of tcp, udp, both; did you mean "udp"?',
    ),
    "forward without a port": ({"nat:forwards:0:port": ...}, "nat:forwards:0:port", "missing"),
    "forward of no port": ({"nat:forwards:0:port": []}, "nat:forwards:0:port", "missing"),
    "port that is no number": (
        {"nat:forwards:0:port": "https"},
        "nat:forwards:0:port",
        "https is neither a port nor a range such as 8000-8100",
    ),
    "port in a list": (
        {"nat:forwards:0:port": [80, 0]},
        "nat:forwards:0:port:1",
        "0 is not in 1 to 65535",
    ),
    "ports the wrong way round": (
        {"nat:forwards:0:port": "81-80"},
        "nat:forwards:0:port",
        "81-80 ends before it begins",
    ),
    "range to ports that there are not": (
        {"nat:forwards:0": {"port": ["80-90", "100-110"], "to": "www", "to_port": 65530}},
        "nat:forwards:0:to_port",
        "the range goes beyond 65535",
    ),
    "range with another forward's port": (
        {"nat:forwards": [{"port": 443, "to": "www"}, {"port": "400-500", "to": "www"}]},
        "nat:forwards:1:port",
        "port 443/tcp is taken already, by gateway:nat:forwards:0:port",
    ),
    "both protocols of a port, one of them taken": (
        {"nat:forwards:0": {"port": 1194, "to": "www", "proto": "both"}},
        "nat:forwards:0:port",
        "port 1194/udp is taken already, by gateway:vpn:servers:main:port",
    ),
    "two forwards of one port and address": (
        {
            **ADDRESSES,
            "nat:forwards": [
                {"port": 80, "to": "www", "address": ["198.51.100.10", "198.51.100.11"]},
                {"port": 80, "to": "backend01", "address": "198.51.100.11"},
            ],
        },
        "nat:forwards:1:port",
        "port 80/tcp of 198.51.100.11 is taken already, by gateway:nat:forwards:0:port",
    ),
    "forward of an address that is not ours": (
        {**ADDRESSES, "nat:forwards:0:address": "198.51.100.99"},
        "nat:forwards:0:address",
        "198.51.100.99 is not among gateway:public:addresses",
    ),
    "wrong address beside a right forward": (
        {
            "nat:forwards": [
                {"port": 443, "to": "www"},
                {"port": 443, "to": "www", "address": "198.51.100.300"},
            ],
        },
        "nat:forwards:1:address",
        "198.51.100.300 is not an IPv4 address",
    ),
    "forward of no address": (
        {**ADDRESSES, "nat:forwards:0:address": []},
        "nat:forwards:0:address",
        "is empty; leave it out for the virtual IP",
    ),
    "forward for nobody": (
        {"nat:forwards:0:from": []},
        "nat:forwards:0:from",
        "is empty; leave it out if any will do",
    ),
    "forward for a zone": (
        {"nat:forwards:0:from": "public"},
        "nat:forwards:0:from",
        "public is a zone; here it must be a group, a host, or addresses such as 10.77.0.0/24",
    ),
    "comment": (
        {"nat:forwards:0:comment": "the customer's"},
        "nat:forwards:0:comment",
        "the customer's is not a comment (ASCII without quotes, braces, backslashes)",
    ),
    # 1:1
    "1:1 without an address": (
        {"nat:one_to_one": [{"to": "www"}]},
        "nat:one_to_one:0:address",
        "missing",
    ),
    "1:1 to nobody": (
        {**ADDRESSES, "nat:one_to_one": [{"address": "198.51.100.11"}]},
        "nat:one_to_one:0:to",
        "missing",
    ),
    "1:1 with the virtual IP": (
        {**ADDRESSES, "nat:one_to_one": [{"address": "198.51.100.10", "to": "www"}]},
        "nat:one_to_one:0:address",
        "198.51.100.10 is not among gateway:public:addresses",
    ),
    "1:1 of one address twice": (
        {
            **ADDRESSES,
            "nat:one_to_one": [
                {"address": "198.51.100.11", "to": "www"},
                {"address": "198.51.100.11", "to": "10.77.0.9"},
            ],
        },
        "nat:one_to_one:1:address",
        "1:1 address 198.51.100.11 is taken already, by gateway:nat:one_to_one:0:address",
    ),
    "1:1 of one host twice": (
        {
            **ADDRESSES,
            "nat:one_to_one": [
                {"address": "198.51.100.11", "to": "www"},
                {"address": "198.51.100.12", "to": "backend01"},
            ],
        },
        "nat:one_to_one:1:to",
        "1:1 host 10.77.0.10 is taken already, by gateway:nat:one_to_one:0:to",
    ),
    "forward of a 1:1 address": (
        {
            **ADDRESSES,
            "nat:one_to_one": [{"address": "198.51.100.11", "to": "www"}],
            "nat:forwards:0:address": "198.51.100.11",
        },
        "nat:forwards:0:address",
        "198.51.100.11 stands for one host already",
    ),
    # outbound
    "outbound without an address": (
        {"nat:outbound": [{"from": "internal"}]},
        "nat:outbound:0:snat",
        "missing",
    ),
    "outbound with another's address": (
        {"nat:outbound": [{"snat": "198.51.100.11"}]},
        "nat:outbound:0:snat",
        "198.51.100.11 is not among gateway:public:addresses; it may also be masquerade or none",
    ),
    "outbound with a word": (
        {"nat:outbound": [{"snat": "no"}]},
        "nat:outbound:0:snat",
        "no is not an IPv4 address; it may also be masquerade or none",
    ),
    "outbound from outside": (
        {"nat:outbound": [{"snat": "none", "from": ["internal", "public"]}]},
        "nat:outbound:0:from",
        "what leaves does not come from the public side",
    ),
    "outbound to a side": (
        {"nat:outbound": [{"snat": "none", "to": "public"}]},
        "nat:outbound:0:to",
        "public is a zone; here it must be a group, a host, or addresses such as 10.77.0.0/24",
    ),
    "outbound with a log": (
        {"nat:outbound": [{"snat": "none", "log": True}]},
        "nat:outbound:0:log",
        "is not for address translation",
    ),
    "outbound with a limit": (
        {"nat:outbound": [{"snat": "none", "limit": "1/day"}]},
        "nat:outbound:0:limit",
        "is not for address translation",
    ),
    "outbound with an action": (
        {"nat:outbound": [{"snat": "none", "action": "drop"}]},
        "nat:outbound:0:action",
        "unknown key",
    ),
    # the rest of the services
    **{
        f"forward to {to}": (
            {"nat:forwards:0:to": to},
            "nat:forwards:0:to",
            message,
        )
        for to, message in {
            "10.77.0.1": "10.77.0.1 is the gateway itself; what reaches it is for input rules",
            "10.77.0.3": "10.77.0.3 is the gateway itself; what reaches it is for input rules",
            "GW2": "gw2 is the gateway itself; what reaches it is for input rules",
            "10.77.0.0": "10.77.0.0 is the address of the network 10.77.0.0/24 itself",
            "10.77.0.255": "10.77.0.255 is the broadcast address of 10.77.0.0/24",
        }.items()
    },
    "forward to an alias of the virtual IP": (
        {"internal:aliases": ["router"], "nat:forwards:0:to": "router"},
        "nat:forwards:0:to",
        "router is the gateway itself; what reaches it is for input rules",
    ),
    "1:1 to a node": (
        {**ADDRESSES, "nat:one_to_one": [{"address": "198.51.100.11", "to": "10.77.0.2"}]},
        "nat:one_to_one:0:to",
        "10.77.0.2 is the gateway itself; what reaches it is for input rules",
    ),
}


@pytest.mark.parametrize(("changes", "key", "message"), REJECTED.values(), ids=REJECTED)
def test_rejected(errors, changes, key, message):
    """A mistake is one error, and it names the key of the pillar that is wrong."""
    assert errors(changes) == [f"gateway:{key}: {message}"]


# --------------------------------------------------------------------------------------------------
# What is planned


def test_ports_that_are_wrong_are_not_taken_either(errors):
    two = {"network": "10.9.0.0/16", "port": 0}
    found = errors({"vpn:servers:main:port": 0, "vpn:servers:two": two})
    assert [line.split(": ")[0] for line in found] == [
        "gateway:vpn:servers:main:port",
        "gateway:vpn:servers:two:port",
    ]


def test_nat(plan):
    assert plan(node="gw2")["nat"] == {
        "sources": [
            {"network": "10.77.0.0/24", "to": None},
            {"network": "10.8.1.0/24", "to": None},
        ],
        "outbound": [],
        "one_to_one": [],
        "forwards": [
            {
                "key": "gateway:nat:forwards:0",
                "proto": "tcp",
                "ports": [443, 443],
                "to": "backend01",
                "ip": "10.77.0.10",
                "to_ports": [443, 443],
                "from": [],
                "address": None,
                "comment": None,
            }
        ],
    }


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("backend01", ("backend01", "10.77.0.10")),
        ("WWW", ("www", "10.77.0.10")),
        ("10.77.0.99", ("10.77.0.99", "10.77.0.99")),
    ],
    ids=["host", "alias", "address"],
)
def test_forward_targets(plan, to, expected):
    forward = {"port": 25, "proto": "udp", "to": to, "to_port": 2525}
    [found] = plan({"nat:forwards": [forward]})["nat"]["forwards"]
    assert (found["to"], found["ip"]) == expected
    assert (found["ports"], found["proto"], found["to_ports"]) == (
        [25, 25],
        "udp",
        [2525, 2525],
    )


def test_one_port_of_two_protocols(plan):
    forwards = [{"port": 53, "proto": proto, "to": "backend01"} for proto in ("udp", "tcp")]
    found = plan({"nat:forwards": forwards})["nat"]["forwards"]
    assert [forward["proto"] for forward in found] == ["udp", "tcp"]


def test_forwards_of_several_ports_protocols_and_addresses(plan):
    forward = {
        "port": [80, "8000-8010"],
        "to": "www",
        "to_port": 9000,
        "proto": "both",
        "address": ["198.51.100.10", "198.51.100.11"],
        "from": ["backend01", "2001:db8::/32"],
        "comment": "all of them",
    }
    found = plan({**ADDRESSES, "nat:forwards": [forward]})["nat"]["forwards"]
    assert [[each[key] for key in ("ports", "to_ports", "proto", "address")] for each in found] == [
        [ports, to_ports, proto, address]
        for ports, to_ports in (([80, 80], [9000, 9000]), ([8000, 8010], [9000, 9010]))
        for proto in ("tcp", "udp")
        for address in ("198.51.100.10", "198.51.100.11")
    ]
    for each in found:
        assert each["key"] == "gateway:nat:forwards:0"
        assert each["from"] == [{"address": "10.77.0.10"}, {"address": "2001:db8::/32"}]
        assert each["comment"] == "all of them"


def test_one_to_one_and_outbound(plan):
    found = plan(
        {
            **ADDRESSES,
            "nat:one_to_one": [{"address": "198.51.100.12", "to": "www"}],
            "nat:outbound": [
                {"from": "internal", "to": "192.0.2.0/24", "snat": "none"},
                {"from": "backend01", "snat": "198.51.100.11", "ports": 25},
            ],
        }
    )["nat"]
    assert found["one_to_one"] == [
        {
            "key": "gateway:nat:one_to_one:0",
            "address": "198.51.100.12",
            "to": "www",
            "ip": "10.77.0.10",
        }
    ]
    exception, mail = found["outbound"]
    assert (exception["action"], mail["action"]) == ("none", "198.51.100.11")
    assert exception["to"] == [{"address": "192.0.2.0/24"}]
    assert (mail["from"], mail["proto"], mail["ports"]) == (
        [{"address": "10.77.0.10"}],
        "tcp",
        [[25, 25]],
    )
