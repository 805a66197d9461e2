"""The schema of the pillar and the planner accept and reject the same.

Beside the examples here, every pillar that the fixtures ``errors`` and ``plan`` read is one
(``read_pillar`` in conftest.py).
"""

import random
import re
from typing import Any

import _gateway_plan
import jsonschema
import pytest
import yaml
from _gateway_keys import REQUIRED, Items, Kind, Named, Settings, Values

Examples = tuple[list[Any], list[Any]]  # right values, and wrong ones
SECRET = "c2VjcmV0c2VjcmV0c2VjcmV0"


def pem(label):
    return f"-----BEGIN {label}-----\n{SECRET}\n-----END {label}-----\n"


@pytest.fixture(scope="session")
def reference(load):
    return load("docs/reference.py")


# --------------------------------------------------------------------------------------------------
# Examples of each key: values that are right in the site below, and wrong ones

SITE = {
    "state_sync": {"interface": "eth3"},
    "nodes:gw1:sync": "10.78.0.2",
    "nodes:gw2:sync": "10.78.0.3",
    "nodes:gw2:pki": {},
    "public:virtual_ip": "198.51.100.10",
    "public:addresses": ["198.51.100.11", "198.51.100.12"],
    "vpn:servers:main:auth": {"pam": "openvpn"},
    "vpn:clients": {"alice": {"id": 5}},
    "networks": {
        "guest": {
            "interface": "eth5",
            "network": "192.168.20.0/24",
            "virtual_ip": "192.168.20.1",
            "dhcp": {"pool": "192.168.20.210-192.168.20.250"},
        }
    },
    "routes": [{"network": "192.168.60.0/24", "via": "10.77.0.254"}],
    "dhcp:boot": {"file": "a", "server": "10.77.0.10"},
    "vpn:pki:auth_token": "/etc/openvpn/pki/auth-token.key",
    "firewall": {
        "egress": "deny",
        "groups": {"admins": ["203.0.113.0/24"]},
        "input": [{"ports": 22}],
        "forward": [{"ports": 22}],
        "egress_allowed": [{"ports": 22}],
    },
    "nat": {
        "one_to_one": [{"address": "198.51.100.11", "to": "backend01"}],
        "outbound": [{"snat": "none"}],
        "forwards": [{"port": 443, "to": "backend01"}],
    },
}
# What else has to change for the examples of a key.
ALSO: dict[str, dict[str, Any]] = {
    "vpn:servers:SERVER:auth:script": {"vpn:servers:main:auth": {}},
    "firewall:egress": {"firewall:egress_allowed": ...},
    "internal:network": {"hosts": ..., "nat": ..., "dhcp": ..., "routes": []},
    "firewall:input:limit": {"firewall:input:0:action": "accept"},
}
NETWORKS = [
    *("10.77.0.0", "10.77.0.2/24", "10.77.0.0/33", "10.77.0.0/24/24", "10.77.0/24", "network", 10),
    "10.77.0.0/24 ",
]
UNROUTED = [*NETWORKS, "127.0.0.0/16", "0.0.0.0/0", "224.0.0.0/8", "64.0.0.0/2", "169.254.1.0/24"]
ADDRESSES = [
    *("10.77.0.2/24", "10.77.0", "10.77.0.256", "10.77.0.02", "2001:db8::1", "gw1", 10, "", True),
    "10.77.0.2\n",
]
NO_HOSTS = [*ADDRESSES, "127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"]
INTERFACES = ["lo", "all", "default", "-eth0", "eth 0", "eth0:1", "x" * 16, "", 0, "eth0\n"]
NAMES = ["-", "a..b", ".a", "a_b", "a.7", "a" * 64, "a.", "", 7, ".".join(["a" * 63] * 4), "ä"]
ALIASES = [*NAMES, "*", "*.", "*.*.a", "a.*.b", "*a"]
NUMBERS = ["", "x", "1.5", 1.5, True, "01", "+1", " 1", "1\n"]
NO_SETTINGS: list[Any] = [False, {}, None, [[]], [False], "ä", "a\nb", "a\n"]
SETTINGS: list[Any] = [
    {"log": True, "number": 7, "float": 0.5, "text": "a b", "several": [1, "b", True]},
    {"empty": "", "none": []},
]
PLAIN = ['"', "'", "`", "{", "}", "\\", "#a", "a #b", "; a", "a ;b"]


def settings(refused, *more):
    """Keywords that are refused, and values that this daemon does not take."""
    keywords = ["a b", "7", "-a", "", "a\n", *refused]
    wrong = [*({each: 1} for each in keywords), *({"a": each} for each in (*NO_SETTINGS, *more))]
    return SETTINGS, [*wrong, [], "a"]


def bounds(lowest, highest, *good):
    """The bounds as numbers and as text."""
    return (
        [lowest, highest, str(lowest), str(highest), *good],
        [lowest - 1, highest + 1, str(lowest - 1), str(highest + 1), *NUMBERS],
    )


BOOLEANS = ([True, False], ["true", "yes", 1, 0, None, []])
ENDS = (
    ["203.0.113.9", "203.0.113.0/24", "2001:db8::/32", "admins", "BACKEND01", ["www", "admins"]],
    [7, True, "", {}, None, [], ["admins", 7], [None]],
)
PORTS = (
    [1, 65535, "22", "8000-8100", [80, "443", "8000-8100"]],
    [0, 65536, "0", "1-65536", "0-1", "1-", "-1", "a", "1-2-3", "1 - 2", 1.5, True, [], [[]], [{}]],
)
PROTOCOLS = (
    ["tcp", "udp", "both"],
    ["TCP", "tcp ", "", "-x", 0, 256, "0", "256", True, "a" * 17, [], ["tcp"]],
)
COMMENTS = (["a", "a" * 200, "#; a"], ["", "a" * 201, *PLAIN[:6], "ä", "a\n", 7, ["a"]])
RATES = (
    ["1/second", "9999/day", "10/minute", "7/hour"],
    ["0/second", "10000/second", "10", "10/week", "01/day", "10/minutes", 10, ["1/second"]],
)
MATERIALS = {
    "ca": ["CERTIFICATE"],
    "certificate": ["CERTIFICATE"],
    "key": ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"],
    "tls_crypt": ["OpenVPN Static key V1"],
    "tls_crypt_v2": ["OpenVPN tls-crypt-v2 server key"],
    "auth_token": ["OpenVPN auth-token server key"],
    "crl": ["X509 CRL"],
}


def material(name):
    right = [pem(label) for label in MATERIALS[name]]
    other = pem("CERTIFICATE" if name == "crl" else "X509 CRL")
    one = right[0]
    good = [*("/etc/a.crt", "/a-b/c_d.e@f+g"), *right, one.strip(), one * 2, f"# told\n{one}# end"]
    good += [one.replace("\n", "\r\n"), f"{one}\n\n", one + pem("EC PARAMETERS"), " " + one]
    broken = one.replace("-----END", "-----ENDE")
    bad = ["a.crt", "/a b", "/", "", 7, None, [], {}, True, other, one + other, broken]
    return good, [*bad, one + broken, one[20:], pem("EC PARAMETERS"), one.replace(SECRET, "!")]


RULE: dict[str, Examples] = {
    "from": ENDS,
    "to": ENDS,
    "proto": PROTOCOLS,
    "ports": PORTS,
    "action": (["accept", "drop", "reject"], ["DROP", "", True, ["accept"]]),
    "limit": RATES,
    "log": BOOLEANS,
    "comment": COMMENTS,
}
LINES: list[Any] = ["", "-", "a", "-ä", "-a\n", 7, [7], {}]
BAD_LINES: list[Any] = [{"filter": {"INPUT": line}} for line in LINES]
EXAMPLES: dict[str, Examples] = {
    "domain": (["example.internal", "EXAMPLE.com", "a.b-c"], [*NAMES, ["a"]]),
    "nodes:NODE:id": ([2, 200, "200"], bounds(1, 200)[1]),  # 1 is taken
    "nodes:NODE:internal": (["10.77.0.9"], ADDRESSES),
    "nodes:NODE:public": (["198.51.100.99"], NO_HOSTS),
    "nodes:NODE:aliases": (["a", ["a", "b.c", "*.d"], []], [*ALIASES, ["a", "-"], {}, None]),
    "nodes:NODE:remote": (["gw2.example.org", "198.51.100.3"], [*NO_HOSTS[:4], "-", "a b", 7]),
    "nodes:NODE:priority": ([1, "254"], bounds(1, 254)[1]),
    "nodes:NODE:internal_interface": (["eth7", "x" * 15, "a.b-c_d"], INTERFACES),
    "nodes:NODE:public_interface": (["eth7"], INTERFACES),
    "nodes:NODE:sync": (["10.78.0.9"], NO_HOSTS),
    "nodes:NODE:sync_interface": (["eth7"], INTERFACES),
    "nodes:NODE:pki:certificate": material("certificate"),
    "nodes:NODE:pki:key": material("key"),
    "internal:interface": (["eth7"], INTERFACES),
    "internal:network": (["10.77.0.0/25", "10.77.0.0/255.255.255.0", "10.77.0.0/024"], UNROUTED),
    "internal:virtual_ip": (["10.77.0.9"], ADDRESSES),
    "internal:aliases": (["gateway", ["*.a"]], ALIASES),
    "public:interface": (["eth7"], INTERFACES),
    "public:network": (["198.51.100.0/25"], UNROUTED[:-1]),
    "public:virtual_ip": (["198.51.100.20"], [*ADDRESSES, ["198.51.100.20"]]),
    "public:aliases": (["pair", []], ALIASES),
    "public:accept_ra": BOOLEANS,
    "public:addresses": (["198.51.100.11", ["198.51.100.11"]], [*ADDRESSES, {}, None, [None]]),
    "failover:profile": (["fast", "normal", "lossy"], ["slow", "", True, ["fast"]]),
    "failover:advert_interval": (
        [0.01, 40, 1, "0.05", "0.1000", "40.00", "1"],
        [0, 40.01, 0.009, "0", "0.00", "0.005", "40.01", "41", ".5", "1.", "1e1", True, "", [1]],
    ),
    "failover:down_adverts": bounds(2, 100),
    "failover:garp_delay": bounds(0, 60),
    "failover:garp_repeat": bounds(1, 20),
    "failover:garp_refresh": bounds(0, 3600),
    "failover:startup_delay": bounds(0, 60),
    "failover:realtime_priority": bounds(0, 99),
    "failover:preempt": BOOLEANS,
    "failover:preempt_delay": bounds(0, 3600),
    "failover:reassert": ([0, "0", 10, 86400, "10"], [1, 9, "9", 86401, -1, *NUMBERS]),
    "health:services": (
        ["nginx", "a@b.service", ["srv-data.mount", "x.timer"], "a" * 192, "a" * 192 + ".service"],
        ["a b", "a.slice", ".service", "@a", "a" * 193, "a.service\n", "", 7, {}, [None]],
    ),
    "health:public:targets": (["192.0.2.9", ["192.0.2.9"], []], NO_HOSTS),
    "health:internal:targets": (["10.77.0.9", []], NO_HOSTS),
    "state_sync:interface": (["eth7"], INTERFACES),
    "vpn:remote": (["vpn.example.org", "198.51.100.10"], [*NO_HOSTS[:4], "-", "a b", 7]),
    "vpn:servers:SERVER:network": (["10.8.0.0/16", "10.0.0.0/10"], UNROUTED),
    "vpn:servers:SERVER:prefix": ([17, 28, "24"], bounds(16, 29)[1]),  # /16 is for one node alone
    "vpn:servers:SERVER:port": bounds(1, 65535, 1194),
    "vpn:servers:SERVER:proto": (["udp", "tcp"], ["both", "UDP", ["udp", "tcp"]]),
    "vpn:servers:SERVER:subnets": (
        [{}, {"gw2": "10.8.9.0/24"}, {"gw1": "10.8.8.0/25", "gw2": "10.8.9.0/28"}],
        [[], None, "10.8.9.0/24", {"gw2": ["10.8.9.0/24"]}, {"gw2": 7}, {"g w": "10.8.9.0/24"}]
        + [{"gw2": each} for each in (*NETWORKS, "10.8.9.0/30")],
    ),
    "vpn:servers:SERVER:full_tunnel": BOOLEANS,
    "vpn:servers:SERVER:routes": (["192.0.2.0/24", ["192.0.2.0/24"], []], [*NETWORKS, {}, [7]]),
    "vpn:servers:SERVER:dynamic": BOOLEANS,
    "vpn:servers:SERVER:auth:pam": (["openvpn", "a.b-c_d"], ["", "a b", "-a", "a/b", 7, ["a"]]),
    "vpn:servers:SERVER:auth:script": (["/usr/bin/check"], ["check", "/a b", "/", 7, "/a\n"]),
    "vpn:servers:SERVER:auth:same_name": BOOLEANS,
    "vpn:servers:SERVER:auth:token_lifetime": bounds(600, 31_536_000),
    "vpn:servers:SERVER:settings": settings(
        ["management", "management-client", "dev", "tls-crypt-v2"], *PLAIN
    ),
    "vpn:clients:CLIENT:id": ([2, 127, "5"], [1, 32768, "1", "32768", *NUMBERS]),
    "vpn:clients:CLIENT:networks": (
        ["10.50.0.0/24", ["10.50.0.0/31", "172.16.0.0/12"], []],
        [*NETWORKS, "127.8.0.0/16", "0.0.0.0/0", "10.9.0.1/32", "169.254.1.0/24", {}],
    ),
    "vpn:clients:CLIENT:pushes": (
        ["route 192.0.2.0 255.255.255.0", ["a", "b" * 240]],
        ["", " ", "a,b", "a" * 241, *PLAIN, "a\n", 7, True, {}, [None]],
    ),
    "vpn:clients:CLIENT:disabled": BOOLEANS,
    **{f"vpn:pki:{name}": material(name) for name in MATERIALS},
    "vpn:pki:error": (["why", ""], [7, True, None, [], {}]),
    "hosts:HOST:ip": (["10.77.0.11", ["10.77.0.11", "192.168.20.11"]], [*ADDRESSES, [], {}]),
    "hosts:HOST:mac": (
        ["02:00:00:00:00:99", "0A-bb-CC-00-00-01", ["02:00:00:00:00:99"], []],
        [
            *("02:00", "03:00:00:00:00:01", "020000000001", "02:00:00:00:00:0g", 7, "", {}, None),
            *("02:00:00:00:00:01\n", [f"02:00:00:00:01:{n:02x}" for n in range(17)]),
        ],
    ),
    "hosts:HOST:aliases": (["a", ["*.b", "c.d.e"]], ALIASES),
    "firewall:ssh:from": (ENDS[0], [7, True, "", {}, None, ["admins", 7]]),
    "firewall:ssh:port": bounds(1, 65535),
    "firewall:egress": (["allow", "deny"], ["drop", "", True, ["deny"]]),
    "firewall:groups": (
        [{}, {"a": "203.0.113.9", "b-c_d": ["a", "2001:db8::1", "backend01"], "e": []}],
        [
            *([], None, {"A": []}, {"a b": []}, {"7": []}, {"a" * 33: []}, {"a": {}}, {"a": None}),
            *({"a": 7}, {"a": [7]}, {"a": ""}),
        ],
    ),
    **{
        f"firewall:{raw}": (
            [{}, {"filter": {"INPUT": "-j ACCEPT"}}, {"nat": {"POSTROUTING": ["-j ACCEPT"]}}],
            [[], None, {"filters": {}}, {"filter": {"input": []}}, {"filter": []}, *BAD_LINES],
        )
        for raw in ("raw", "raw6")
    },
    "firewall:log": BOOLEANS,
    "firewall:log_limit": RATES,
    "firewall:spoof_protection": BOOLEANS,
    "firewall:mss": (["pmtu", 536, 1460, "1400"], [535, 1461, "535", "mtu", *NUMBERS, ["pmtu"]]),
    "firewall:confirm_timeout": bounds(5, 600),
    **{f"firewall:input:{key}": examples for key, examples in RULE.items()},
    "nat:forwards:port": PORTS,
    "nat:forwards:proto": (PROTOCOLS[0], [*PROTOCOLS[1], "icmp"]),
    "nat:forwards:to": (["backend01", "WWW", "10.77.0.20"], [*NO_HOSTS[:4], "a b", 7, ["www"]]),
    "nat:forwards:to_port": bounds(1, 65535),
    "nat:forwards:from": ENDS,
    "nat:forwards:address": (
        ["198.51.100.10", ["198.51.100.10", "198.51.100.12"]],
        [*ADDRESSES, [], {}, None, [None]],
    ),
    "nat:forwards:comment": COMMENTS,
    "nat:one_to_one:address": (["198.51.100.12"], [*ADDRESSES, ["198.51.100.12"]]),
    "nat:one_to_one:to": (["10.77.0.20", "backend01"], [*NO_HOSTS[:4], "a b", 7, ["www"]]),
    "nat:outbound:snat": (["none", "masquerade", "198.51.100.10"], [*ADDRESSES, "None", ["none"]]),
    "nat:outbound:from": ENDS,
    "nat:outbound:to": ENDS,
    "nat:outbound:proto": PROTOCOLS,
    "nat:outbound:ports": PORTS,
    "nat:outbound:comment": COMMENTS,
    "nat:outbound:limit": ([], ["1/second", None]),
    "nat:outbound:log": ([], [True, False]),
    "dhcp:enabled": BOOLEANS,
    "dhcp:pool": (
        [
            *("10.77.0.100-10.77.0.199", " 10.77.0.100 - 10.77.0.100 ", []),
            ["10.77.0.100-10.77.0.109", "10.77.0.120-10.77.0.129"],
        ],
        [
            *("10.77.0.100", "10.77.0.100-199", "10.77.0.100-10.77.0.1-10.77.0.2", 7, "", ["a"]),
            *("10.77.0.100-10.77.0.256", "10.77.0.100\n-10.77.0.199"),
        ],
    ),
    "dhcp:lease_time": (
        ["12h", "infinite", "120", 120, "2m", "1h", "999999h", "49710d", "7101w", 999_999],
        [
            *("119", 119, "1m", "119s", "49711d", "7102w", "1000000", 1000000, "0h", "01h", "1y"),
            *("", "h", "Infinite", 1.5, True, ["12h"]),
        ],
    ),
    "dhcp:register": BOOLEANS,
    "dhcp:key": (
        ["a" * 32, "!" * 256, "0123456789abcdef" * 4],
        [
            *("a" * 31, "a" * 257, f"{'a' * 32} ", f"{'a' * 16} {'a' * 16}", f"{'a' * 32}\n"),
            *("ä" * 32, 10**32, "", ["a" * 32], True),
        ],
    ),
    "dhcp:router": (["10.77.0.254"], ADDRESSES),
    "dhcp:dns": (["192.0.2.9", ["192.0.2.9", "10.77.0.5"], []], [*NO_HOSTS, {}]),
    "dhcp:ntp": (["192.0.2.9", ["192.0.2.9", "10.77.0.5"], []], [*NO_HOSTS, {}]),
    "dhcp:domain": (["example.org"], [*NAMES, ["a"]]),
    "dhcp:options": (
        [{}, {"150": "10.77.0.20", "252": ["a", "b"], "time-offset": 0}],
        [
            *([], None, {"0": "a"}, {"255": "a"}, {"A": "a"}, {"": "a"}, {"-": "a"}, {"01": "a"}),
            *({"3": "10.77.0.1"}, {"router": "10.77.0.1"}, {"67": "a"}, {"51": 60}),
            *({"150": {}}, {"150": None}, {"150": "a\n"}),
        ],
    ),
    "dhcp:boot:file": (["pxelinux.0", "a/b_c-d"], ["", "a,b", "a b", "ä", "a" * 128, 7, ["a"]]),
    "dhcp:boot:efi_file": (["grubx64.efi"], ["", "a,b", "a b", "ä", "a" * 128, 7, ["a"]]),
    "dhcp:boot:server": (["10.77.0.20", "192.0.2.9"], NO_HOSTS),
    "networks:NETWORK:interface": (["eth7", "x" * 15, "a.b-c_d"], INTERFACES),
    "networks:NETWORK:network": (["192.168.20.0/24"], UNROUTED),
    "networks:NETWORK:virtual_ip": (["192.168.20.9"], ADDRESSES),
    "networks:NETWORK:aliases": (["a", ["a", "b.c", "*.d"], []], [*ALIASES, ["a", "-"], {}, None]),
    "networks:NETWORK:trusted": BOOLEANS,
    "networks:NETWORK:isolated": BOOLEANS,
    "networks:NETWORK:names": BOOLEANS,
    "networks:NETWORK:nat": (["usual", "none"], ["None", "", True, None, ["none"]]),
    "networks:NETWORK:targets": (["192.168.20.9", ["192.168.20.9"], []], [*NO_HOSTS, {}]),
    "networks:NETWORK:dhcp": (
        [{}, {"pool": ["192.168.20.50-192.168.20.59"], "lease_time": "1h"}, {"enabled": False}],
        [[], None, 7, {"pool": 7}, {"settings": {}}, {"lease_time": 1}, {"boot": {"file": "a"}}],
    ),
    "routes:network": (["192.168.61.0/24"], UNROUTED),
    "routes:via": (["10.77.0.254"], ADDRESSES),
    "nodes:NODE:addresses": (
        [{}, {"guest": "192.168.20.9"}],
        [[], None, 7, {"guest": 7}, {"guest": "192.168.20.9/24"}, {"A": "192.168.20.9"}],
    ),
    "nodes:NODE:interfaces": (
        [{}, {"guest": "eth7"}],
        [[], None, 7, {"guest": 7}, {"guest": "lo"}, {"A": "eth7"}],
    ),
    "dhcp:settings": settings(
        ["user", "port", "dhcp-leasefile", "cache-size", "auth-zone"],
        *('a"', "a #b", "a" * 901, '"a""', '"\\"'),
    ),
    "dns:forwarders": (
        ["192.0.2.9", "127.0.0.1#5335", ["192.0.2.9#53", "192.0.2.8"], []],
        [*ADDRESSES, "0.0.0.0", "224.0.0.1", "192.0.2.9#", "192.0.2.9#0", "192.0.2.9#65536", {}],
    ),
    "dns:public_domain": BOOLEANS,
    "dns:settings": settings(
        ["user", "port", "servers-file", "dhcp-range", "pxe-prompt", "tag-if"],
        *('a"', "a #b", "a" * 901, '"a""', '"\\"'),
    ),
    "ntp:provider": (["chrony", "ntpsec"], ["ntp", "Chrony", "", ["chrony"]]),
    "ntp:servers": (["192.0.2.9", ["pool.ntp.test"], []], [*NO_HOSTS[:4], "-", "a b", 7, {}]),
    "ntp:settings": settings(["port", "Port", "bindAddress", "USER"], *PLAIN),
    "keepalived:router_id": bounds(1, 255),
    "keepalived:settings": settings(["vrrp_strict", "vrrp_rt_priority"], *PLAIN[:6], "a#b", "a!"),
    "follow_virtual_ip": (
        ["nginx", "a@b.timer", ["x.socket", "y.path", "z.target"], []],
        [
            *("a.mount", "gateway-dns", "gateway-dns.timer"),
            *("openvpn-server@gateway-main", "a b", "", 7, {}, [None]),
        ],
    ),
}
NAMED = {
    "NETWORK": "guest",
    "NODE": "gw2",
    "SERVER": "main",
    "CLIENT": "alice",
    "HOST": "backend01",
}


def place(path):
    """The key in the site of an example."""
    path = re.sub("[A-Z]+", lambda found: NAMED[found[0]], path)
    return re.sub(r"\b(input|forwards|one_to_one|outbound|routes)\b:(?=[a-z])", r"\1:0:", path)


CASES = [
    pytest.param(path, value, kind == 0, id=f"{path}-{'right' if kind == 0 else 'wrong'}-{number}")
    for path, examples in EXAMPLES.items()
    for kind in (0, 1)
    for number, value in enumerate(examples[kind])
]


@pytest.mark.parametrize(("path", "value", "right"), CASES)
def test_planner_and_schema_agree(edit, schema_errors, path, value, right):
    pillar = edit({**SITE, **ALSO.get(path, {}), place(path): value})
    errors = _gateway_plan.read(pillar)[1]
    assert (errors == []) is right
    assert (schema_errors(pillar) == []) is right, errors


def test_every_key_has_examples(reference):
    """Both right and wrong ones. What a mapping has in it are keys of their own."""
    keys = {
        f"{title}:{name}".removeprefix("gateway:")
        for title, records in reference.sections()
        for name, key in records.items()
        if isinstance(key.kind, (Kind, Items, Values, Settings))
        or not getattr(key.kind, "table", 1)
    } - {"firewall:forward", "firewall:egress_allowed"}  # of the same items as input
    assert keys == EXAMPLES.keys()
    for path, (right, wrong) in EXAMPLES.items():
        assert right or path in ("nat:outbound:limit", "nat:outbound:log")
        assert wrong


# --------------------------------------------------------------------------------------------------
# Mappings and lists


def mappings(reference):
    """The mappings of the site, by place, with their records."""
    for title, records in reference.sections():
        if title != "gateway":
            path = place(title.removeprefix("gateway:"))
            yield re.sub("(input|forwards|one_to_one|outbound|^routes)$", r"\1:0", path), records


def test_mappings_are_mappings_without_unknown_keys(reference, edit, schema_errors):
    for path, _ in mappings(reference):
        changes: list[tuple[str, Any]] = [
            (path, None),
            (path, []),
            (path, "text"),
            (path, 7),
            (f"{path}:qqq", 1),
        ]
        for change in changes:
            pillar = edit({**SITE, **dict([change])})
            assert _gateway_plan.read(pillar)[1], change
            assert schema_errors(pillar), change


def test_what_is_required_is(reference, edit, schema_errors):
    found = []
    for path, records in mappings(reference):
        for name, key in records.items():
            if key.default is REQUIRED:
                pillar = edit({**SITE, f"{path}:{name}": ...})
                assert f"gateway:{path}:{name}: missing" in _gateway_plan.read(pillar)[1]
                assert schema_errors(pillar)
                found.append(name)
    assert len(found) > 12
    for name in ("domain", "nodes", "internal", "public"):
        pillar = edit({name: ...})
        assert _gateway_plan.read(pillar)[1]
        assert schema_errors(pillar)


@pytest.mark.parametrize(
    "change",
    [
        {"state_sync": True},
        {"state_sync": None},
        {"nodes": {}},
        {"nodes:gw 3": {"id": 3, "internal": "10.77.0.9"}},
        {"vpn:servers:Main": {"network": "10.9.0.0/16", "port": 1}},
        {"vpn:servers": {"x" * 12: {"network": "10.9.0.0/16", "port": 1}}},
        *({"vpn:clients": {name: {}}} for name in ("DEFAULT", ".", "..", " a", "a ", "", "a" * 65)),
        {"hosts:a_b": {"ip": "10.77.0.9"}},
        {"hosts:a.b": {"ip": "10.77.0.9"}},
        {"nat:forwards": {}},
        {"nat:forwards": None},
        {"firewall:input": "ACCEPT"},
        {"firewall:egress_allowed": [{"action": "accept"}], "firewall:egress": "deny"},
    ],
    ids=str,
)
def test_names_and_lists_that_are_wrong(errors, change):
    """The fixture compares with the schema."""
    assert errors(change)


def test_names_and_lists_that_are_right(errors):
    assert errors({"state_sync": False}) == []
    assert errors({"nodes:gw3.example.org": {"id": 3, "internal": "10.77.0.9"}}) == []
    assert errors({"vpn:clients": {"John Doe": {}, "a/b": {}, "ä" * 32: {}, "a" * 64: {}}}) == []
    assert errors({"hosts:Printer-2": {"ip": "10.77.0.9"}, "nat:forwards": []}) == []


# --------------------------------------------------------------------------------------------------
# Texts that are nearly right


def kinds(records):
    """All kinds of single values below some records, of names too."""
    for key in records.values():
        kind = key.kind
        if isinstance(kind, Kind):
            yield kind
        elif isinstance(kind, (Items, Settings, Values)):
            yield kind.kind if isinstance(kind.kind, Kind) else kind.kind.kind
        else:
            yield from kinds(kind.keys)
        if isinstance(kind, (Named, Values)):
            yield kind.name


def nearly(text, chance):
    """The text with a character more, less or another."""
    at = chance.randrange(len(text) + 1)
    more = chance.choice("0129afz.-_/#* :@!;,\"'`\\{}\n+é" + text)
    return text[:at] + chance.choice(["", more]) + text[at + chance.choice([0, 1]) :]


def test_the_schema_is_as_strict_as_the_parser():
    """Of each kind: texts that are nearly right, and what the parser and the schema say of them."""
    texts = {
        str(value)
        for right, _ in EXAMPLES.values()
        for value in right
        if isinstance(value, (str, int)) and not isinstance(value, bool)
    }
    chance = random.Random(1)
    every = {kind.parse: kind for kind in kinds(_gateway_plan.KEYS)}
    assert len(every) > 50
    compared = 0
    for kind in every.values():
        validator = jsonschema.Draft7Validator(kind.schema())
        right = [text for text in sorted(texts) if not fault(kind, text)]
        for text in chance.sample(right, min(len(right), 40)):
            for made in (nearly(text, chance) for _ in range(12)):
                why = fault(kind, made)
                # Neither order nor bytes are for a pattern.
                if "ends before" not in why and (made.isascii() or "64 bytes" not in why):
                    assert validator.is_valid(made) == (not why), (kind.words, made, why)
                    compared += 1
    assert compared > 10_000


def fault(kind, text):
    try:
        kind.parse(text)
    except ValueError as error:
        return str(error)
    return ""


def test_the_example_is_right_as_a_file(root, schema_errors):
    pillar = yaml.safe_load((root / "pillar.example").read_text(encoding="utf-8"))
    assert list(pillar) == ["gateway"]
    assert schema_errors(pillar["gateway"]) == []
