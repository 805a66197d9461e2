"""VPN clients: addresses, networks, authentication."""

import json
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import _gateway_plan
import _gateway_rules
import pytest

SECRET = "c2VjcmV0c2VjcmV0c2VjcmV0"


def pem(label, body=SECRET):
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"


TOKEN = pem("OpenVPN auth-token server key")
BRANCH = {"id": 5, "networks": ["10.50.0.0/24", "10.60.0.0/23"]}
REJECTED = {
    "id beyond the reserved part": (
        {"vpn:clients": {"alice": {"id": 128}}},
        "vpn:clients:alice:id",
        "128 is not in 2 to 127, the reserved part of 10.8.0.0/24 (VPN server main);"
        " a /23 would do",
    ),
    "id beyond that of the smallest server": (
        {
            "vpn:servers:tiny": {"network": "10.9.0.0/28", "prefix": 29, "port": 443},
            "vpn:clients": {"alice": {"id": 4}},
        },
        "vpn:clients:alice:id",
        "4 is not in 2 to 3, the reserved part of 10.9.0.0/29 (VPN server tiny); a /28 would do",
    ),
    "id beyond that of one node's subnet": (
        {
            "vpn:servers:main:subnets": {"gw2": "10.8.9.0/28"},
            "vpn:clients": {"alice": {"id": 8}},
        },
        "vpn:clients:alice:id",
        "8 is not in 2 to 7, the reserved part of 10.8.9.0/28 (VPN server main); a /27 would do",
    ),
    "id of the gateway": (
        {"vpn:clients": {"alice": {"id": 1}}},
        "vpn:clients:alice:id",
        "1 is not in 2 to 32767",
    ),
    "one id twice": (
        {"vpn:clients": {"alice": {"id": 5}, "bob": {"id": 5}}},
        "vpn:clients:bob:id",
        "client id 5 is taken already, by gateway:vpn:clients:alice:id",
    ),
    "one name in two cases": (
        {"vpn:clients": {"Alice": {}, "alice": {}}},
        "vpn:clients:alice",
        "client name alice is taken already, by gateway:vpn:clients:Alice",
    ),
    "name that is too long": (
        {"vpn:clients": {"é" * 33: {}}},
        "vpn:clients:" + "é" * 33,
        f"{'é' * 33} is not a certificate's common name (printable characters, 64 bytes at most,"
        " no space at its ends)",
    ),
    "push that says nothing": (
        {"vpn:clients": {"alice": {"pushes": [" "]}}},
        "vpn:clients:alice:pushes:0",
        "is empty",
    ),
    "push that OpenVPN leaves out": (
        {"vpn:clients": {"alice": {"pushes": ["dhcp-option DOMAIN-SEARCH a.test,b.test"]}}},
        "vpn:clients:alice:pushes:0",
        "dhcp-option DOMAIN-SEARCH a.test,b.test has a comma, which OpenVPN does not push",
    ),
    "push that becomes two lines": (
        {"vpn:clients": {"alice": {"pushes": ["x" * 241]}}},
        "vpn:clients:alice:pushes:0",
        f"{'x' * 57}... is longer than 240 characters",
    ),
    "name with a space at its end": (
        {"vpn:clients": {"John ": {}}},
        "vpn:clients:'John '",
        "'John ' is not a certificate's common name (printable characters, 64 bytes at most,"
        " no space at its ends)",
    ),
    "name of a folder": (
        {"vpn:clients": {"..": {}}},
        "vpn:clients:..",
        "OpenVPN looks for no file of that name",
    ),
    "names with one file": (
        {"vpn:clients": {"a/b": {}, "a_b": {}}},
        "vpn:clients:a_b",
        "client name a_b is taken already, by gateway:vpn:clients:a/b",
    ),
    "name of all the others": (
        {"vpn:clients": {"DEFAULT": {}}},
        "vpn:clients:DEFAULT",
        "this is OpenVPN's name for the clients without an entry",
    ),
    "network of the site": (
        {"vpn:clients": {"branch": {"networks": ["10.77.0.0/16"]}}},
        "vpn:clients:branch:networks:0",
        "10.77.0.0/16 overlaps 10.77.0.0/24 of gateway:internal:network",
    ),
    "network of another client": (
        {
            "vpn:clients": {
                "branch": {"networks": ["10.50.0.0/24"]},
                "shop": {"networks": ["10.60.0.0/24", "10.50.0.0/25"]},
            }
        },
        "vpn:clients:shop:networks:1",
        "10.50.0.0/25 overlaps 10.50.0.0/24 of gateway:vpn:clients:branch:networks:0",
    ),
    "network that is everything": (
        {"vpn:clients": {"branch": {"networks": ["0.0.0.0/0"]}}},
        "vpn:clients:branch:networks:0",
        "0.0.0.0/0 is not a /1 to /31",
    ),
    "network of no hosts": (
        {"vpn:clients": {"branch": {"networks": ["127.8.0.0/16"]}}},
        "vpn:clients:branch:networks:0",
        "127.8.0.0/16 is inside 127.0.0.0/8, of which no host has an address",
    ),
    "client of a server without room for it": (
        {"vpn:servers:main:network": "10.8.0.128/25", "vpn:clients": {"alice": {"id": 5}}},
        "vpn:servers:main:prefix",
        "a /24 does not fit into 10.8.0.128/25: a network of /23 or prefix 26 would do",
    ),
    "client of a node without a subnet": (
        {"nodes:gw2:id": 99, "vpn:servers:main:network": "223.255.255.0/24"}
        | {"vpn:clients": {"alice": {"id": 5}}},
        "vpn:servers:main:network",
        "223.255.255.0/24 has room for 1 subnet of /24; node gw2 has id 99:"
        " a network of /17 would do",
    ),
    "client of a node whose subnet is elsewhere": (
        {"vpn:servers:main:subnets": {"gw2": "255.255.255.254/31"}}
        | {"vpn:clients": {"alice": {"id": 5}}},
        "vpn:servers:main:subnets:gw2",
        "255.255.255.254/31 is not inside 10.8.0.0/16",
    ),
    "name of the certificate, and of the user instead": (
        {
            "vpn:servers:main:auth": {"pam": "openvpn", "same_name": True},
            "vpn:servers:main:settings": {"username-as-common-name": True},
            "vpn:pki:auth_token": "/etc/token",
        },
        "vpn:servers:main:settings:username-as-common-name",
        "with auth:same_name the name of the certificate counts",
    ),
    "network that has no halves": (
        {"vpn:clients": {"branch": {"networks": ["10.50.0.1/32"]}}},
        "vpn:clients:branch:networks:0",
        "10.50.0.1/32 is not a /1 to /31",
    ),
    "network and three nodes": (
        {
            "nodes:gw3": {"id": 3, "internal": "10.77.0.4", "public": "198.51.100.4"},
            "vpn:clients": {"branch": {"networks": ["10.50.0.0/24"]}},
        },
        "vpn:clients:branch:networks",
        "needs a site of at most two nodes: of more, none knows which has the client",
    ),
    "push": (
        {"vpn:clients": {"alice": {"pushes": ['route 192.0.2.0"']}}},
        "vpn:clients:alice:pushes:0",
        'route 192.0.2.0" has a character that a configuration file cannot hold here'
        " (line breaks, quotes, braces, backslashes, anything but ASCII)",
    ),
    "unknown key of a client": (
        {"vpn:clients": {"alice": {"disable": True}}},
        "vpn:clients:alice:disable",
        'unknown key; did you mean "disabled"?',
    ),
    "clients without a server": (
        {"vpn": {"clients": {"alice": {}}}},
        "vpn:clients",
        "there is no VPN server in gateway:vpn:servers",
    ),
    "two ways to check passwords": (
        {
            "vpn:servers:main:auth": {"pam": "openvpn", "script": "/usr/bin/true"},
            "vpn:pki:auth_token": "/etc/token",
        },
        "vpn:servers:main:auth",
        "needs either pam or script",
    ),
    "no way to check passwords": (
        {"vpn:servers:main:auth": {}, "vpn:pki:auth_token": "/etc/token"},
        "vpn:servers:main:auth",
        "needs either pam or script",
    ),
    "script that is no path": (
        {"vpn:servers:main:auth": {"script": "check"}, "vpn:pki:auth_token": "/etc/token"},
        "vpn:servers:main:auth:script",
        "check is not an absolute path",
    ),
    "PAM service": (
        {"vpn:servers:main:auth": {"pam": "../x"}, "vpn:pki:auth_token": "/etc/token"},
        "vpn:servers:main:auth:pam",
        "../x is not the name of a PAM service",
    ),
    "tokens without their key": (
        {"vpn:servers:main:auth": {"pam": "openvpn"}},
        "vpn:pki:auth_token",
        "missing; gateway:vpn:servers:main:auth needs it",
    ),
    "no tls-crypt key": (
        {"vpn:pki:tls_crypt": ...},
        "vpn:pki:tls_crypt",
        "missing; a VPN server needs it",
    ),
    "certificate for a revocation list": (
        {"vpn:pki:crl": pem("CERTIFICATE")},
        "vpn:pki:crl",
        "is neither an absolute path nor PEM text (X509 CRL)",
    ),
    "setting that is the formula's": (
        {"vpn:servers:main:settings": {"crl-verify": "/etc/crl.pem"}},
        "vpn:servers:main:settings:crl-verify",
        "use gateway:vpn:pki:crl",
    ),
    "where whoever has the virtual IP is, without one": (
        {"vpn:remote": "vpn.example.com"},
        "vpn:remote",
        "needs gateway:public:virtual_ip, the address that moves with it",
    ),
    "remote that is no address": (
        {"vpn:remote": "vpn_1", "public:virtual_ip": "198.51.100.1"},
        "vpn:remote",
        "vpn_1 is neither an IPv4 address nor a domain name",
    ),
    "further route": (
        {"vpn:servers:main:routes": ["192.0.2.1/24"]},
        "vpn:servers:main:routes:0",
        "192.0.2.1/24 has host bits set; the network is 192.0.2.0/24",
    ),
    "rule for a client without an address": (
        {"vpn:clients": {"guest": {}}, "firewall": {"forward": [{"from": "guest"}]}},
        "firewall:forward:0:from",
        "client guest has neither id nor networks, so no fixed address",
    ),
    "rule for a client that is a host too": (
        {
            "vpn:clients": {"backend01": {"id": 5}},
            "firewall": {"forward": [{"from": "backend01"}]},
        },
        "firewall:forward:0:from",
        "backend01 is a client and a host; rename one of them",
    ),
}


@pytest.mark.parametrize(("changes", "key", "message"), REJECTED.values(), ids=REJECTED)
def test_rejected(errors, changes, key, message):
    found = errors(changes)
    assert [error for error in found if error.startswith(f"gateway:{key}:")] == [
        f"gateway:{key}: {message}"
    ]
    assert len(found) == 1


OPTIONS_OF_OURS = {
    **{f"management-{end}": "gateway.status" for end in ("hold", "client-auth", "up-down")},
    **dict.fromkeys(("ca", "cert", "key", "tls-crypt", "tls-crypt-v2"), "gateway:vpn:pki"),
    **dict.fromkeys(("dev", "dev-node", "dev-type"), "by its device"),
    **dict.fromkeys(("ifconfig", "server", "server-bridge"), "use network, prefix"),
    **dict.fromkeys(("group", "user"), "for user nobody"),
    **dict.fromkeys(("client-connect", "client-disconnect"), "who is connected"),
    **dict.fromkeys(("lport", "port", "proto"), "use p"),
    "auth-gen-token-secret": "gateway:vpn:pki:auth_token",
    "ccd-exclusive": "dynamic",
    "chroot": "find the clients' files",
    "client-config-dir": "gateway:vpn:clients",
    "client-to-client": "the firewall",
    "daemon": "systemd",
    "ifconfig-noexec": "needs its address",
    "ifconfig-pool": "an address of its own",
    "local": "firewall:input",
    "remote-cert-tls": "clients",
    "script-security": "needs 2",
    "syslog": "journalctl -u openvpn-server@gateway-",
    "topology": "topology subnet",
}


@pytest.mark.parametrize("option", OPTIONS_OF_OURS)
def test_an_option_that_breaks_what_is_ours(errors, option):
    """Named once, with the reason, whatever its value."""
    for value in (True, "1", ["1", "x"]):
        [found] = errors({"vpn:servers:main:settings": {option: value}})
        assert found.startswith(f"gateway:vpn:servers:main:settings:{option}: ")
        assert OPTIONS_OF_OURS[option] in found


def test_options_that_are_the_users(errors):
    settings = {
        "verb": 4,
        "log-append": "/var/log/openvpn.log",
        "port-share": "127.0.0.1 8443",
        "up": "/usr/local/sbin/up",
        "script-security": 3,
        "keepalive": "10 120",
        "explicit-exit-notify": 1,
        "auth-user-pass-verify": "/usr/local/sbin/ask via-file",
    }
    assert errors({"vpn:servers:main:settings": settings}) == []
    auth = {"vpn:servers:main:auth": {"pam": "openvpn"}, "vpn:pki:auth_token": "/etc/token"}
    [found] = errors({"vpn:servers:main:settings": settings, **auth})
    assert found.endswith("auth-user-pass-verify: auth of this server has its own; use auth:script")


def test_names_that_openvpn_takes(plan):
    """Its file is called as OpenVPN calls it, and rules know it."""
    names = ["John Doe", 'O\'Brien, "Pat" {x}', "ou/Jörg\\"]
    changes = {
        "vpn:clients": {name: {"id": number} for number, name in enumerate(names, 2)},
        "firewall": {"forward": [{"from": "john doe", "to": ["OU/JÖRG\\"]}]},
    }
    clients = {client["name"]: client["file"] for client in server(plan, changes)["clients"]}
    assert clients == {name: name.replace("/", "_") for name in names}
    [rule] = plan(changes)["firewall"]["forward"]
    assert rule["from"] == [{"address": "10.8.0.2"}, {"address": "10.8.1.2"}]
    assert rule["to"] == [{"address": "10.8.0.4"}, {"address": "10.8.1.4"}]


@pytest.mark.parametrize("bad", list("\n\r\0\u2028\ud800"), ids=ascii)
def test_no_name_breaks_out(edit, read_pillar, bad):
    site, found = read_pillar(edit({"vpn:clients": {f"ali{bad}ce": {}}}))
    assert site is None
    assert all(error.isprintable() for error in found)


@pytest.mark.parametrize("bad", list("\n\r\0\"'`{}\\\u2028é"), ids=ascii)
def test_no_text_breaks_out(edit, read_pillar, bad):
    cases: list[dict[str, Any]] = [
        {"vpn:clients": {"alice": {"pushes": [f"route{bad}"]}}},
        {"vpn:servers:main:auth": {"pam": f"x{bad}"}, "vpn:pki:auth_token": "/etc/token"},
        {"vpn:servers:main:auth": {"script": f"/x{bad}"}, "vpn:pki:auth_token": "/etc/token"},
    ]
    for changes in cases:
        site, found = read_pillar(edit(changes))
        assert site is None
        assert all(error.isprintable() for error in found)


def server(plan, changes, node="gw1", name="main"):
    return next(s for s in plan(changes, node)["vpn"]["servers"] if s["name"] == name)


def test_one_host_part_everywhere(plan):
    changes: dict[str, Any] = {
        "vpn:servers:wide": {"network": "10.16.0.0/12", "prefix": 16, "port": 443},
        "vpn:clients": {"alice": {"id": 127}, "guest": {}},
    }
    for node, name, address in [
        ("gw1", "main", "10.8.0.127"),
        ("gw2", "main", "10.8.1.127"),
        ("gw1", "wide", "10.16.0.127"),
        ("gw2", "wide", "10.17.0.127"),
    ]:
        alice, guest = server(plan, changes, node, name)["clients"]
        assert (alice["name"], alice["address"]) == ("alice", address)
        assert (guest["name"], guest["address"]) == ("guest", None)


@pytest.mark.parametrize("prefix", range(16, 30))
def test_reserved_and_dynamic_never_collide(plan, prefix):
    """The highest id that is allowed is right below the dynamic range, whatever the size."""
    highest = (1 << 32 - prefix) // 2 - 1
    main = {"network": "10.0.0.0/13", "prefix": prefix}
    for node in ("gw1", "gw2"):
        found = server(
            plan, {"vpn:servers": {"main": main}, "vpn:clients": {"a": {"id": highest}}}, node
        )
        first, last = map(IPv4Address, found["dynamic_range"])
        subnet = IPv4Network(found["subnet"])
        assert IPv4Address(found["clients"][0]["address"]) + 1 == first
        assert last + 1 == subnet.broadcast_address
        assert first < last


def test_a_network_behind_a_client(plan):
    """Routes on both nodes to each other, its client and the other clients."""
    changes = {"vpn:clients": {"branch": BRANCH, "alice": {"pushes": ["ping 9"]}}}
    found = server(plan, changes)
    alice, branch = found["clients"]
    routes = ["route 10.50.0.0 255.255.255.0", "route 10.60.0.0 255.255.254.0"]
    assert alice["pushes"] == ["ping 9"]
    assert found["client_pushes"] == routes
    assert branch["pushes"] == []
    assert branch["networks"] == [
        {
            "address": "10.50.0.0",
            "netmask": "255.255.255.0",
            "push": routes[0],
            "halves": ["10.50.0.0/25", "10.50.0.128/25"],
        },
        {
            "address": "10.60.0.0",
            "netmask": "255.255.254.0",
            "push": routes[1],
            "halves": ["10.60.0.0/24", "10.60.1.0/24"],
        },
    ]
    for node, peer in (("gw1", "10.77.0.3"), ("gw2", "10.77.0.2")):
        assert {"destination": "10.50.0.0/24", "via": peer} in plan(changes, node)["routes"]
        assert plan(changes, node)["vpn"]["networks"] == ["10.50.0.0/24", "10.60.0.0/23"]


@pytest.mark.parametrize(
    "entry", [lambda n: {"id": n}, lambda n: {"networks": [f"172.16.{n}.0/24"]}]
)
def test_what_is_made_of_clients_grows_as_they_do(plan, entry):
    """And not with the square of their number: a site may have thousands."""

    def size(count):
        clients = {f"c{n:02}": entry(n) for n in range(10, 10 + count)}
        rules = [{"from": name, "to": "backend01", "ports": 22} for name in clients]
        found = plan({"vpn:clients": clients, "firewall:forward": rules})
        return len(json.dumps(found)), len(_gateway_rules.ruleset(found)["v4"].splitlines())

    some, more, most = size(20), size(40), size(80)
    for a, b, c in zip(some, more, most, strict=True):
        assert c - b == pytest.approx(2 * (b - a), rel=0.02)


def test_clients_do_not_change_what_a_server_is_started_with(plan):
    """Its configuration has nothing of them, so it is never restarted for one."""
    none, some = server(plan, {}), server(plan, {"vpn:clients": {"branch": BRANCH}})
    for key in none:
        if key not in ("clients", "client_pushes"):
            assert none[key] == some[key]


def test_pushes_of_a_server(plan):
    changes = {"vpn:servers:main:routes": ["203.0.113.0/24"], "vpn:servers:main:full_tunnel": True}
    pushes = server(plan, changes)["pushes"]
    assert "route 203.0.113.0 255.255.255.0" in pushes
    assert pushes[-4:-2] == ["redirect-gateway def1 ipv6", "block-ipv6"]


def test_a_full_tunnel_leaves_ipv6_to_who_has_set_it_up(plan):
    changes: dict[str, Any] = {"vpn:servers:main:full_tunnel": True}
    assert server(plan, changes)["block_ipv6"] is True
    changes["vpn:servers:main:settings"] = {"push": ["route-ipv6 2000::/3"]}
    found = server(plan, changes)
    assert "redirect-gateway def1" in found["pushes"]
    assert "block-ipv6" not in found["pushes"]
    assert found["block_ipv6"] is False
    for settings in (
        {"ifconfig-ipv6": "fd00::1/64 fd00::2"},
        {"ifconfig-ipv6-pool": "fd00::1000/64"},
        {"push": ["tun-ipv6"]},
    ):
        changes["vpn:servers:main:settings"] = settings
        assert server(plan, changes)["block_ipv6"] is False


@pytest.mark.parametrize(
    "settings",
    [{"push": ["block-ipv6"]}, {"block-ipv6": True}, {"log-append": "/var/log/ipv6.log"}],
)
def test_who_only_blocks_ipv6_has_not_set_it_up(plan, settings):
    """Without the route of IPv6 into the tunnel there is nothing to be blocked, and it leaks."""
    changes = {"vpn:servers:main:full_tunnel": True, "vpn:servers:main:settings": settings}
    assert server(plan, changes)["block_ipv6"] is True


def test_where_clients_look_for_the_pair_changes_no_node(plan):
    changes = {"public:virtual_ip": "198.51.100.1"}
    assert plan(changes) == plan({**changes, "vpn:remote": "vpn.example.com"})


def test_rules_name_clients(plan):
    changes = {
        "vpn:clients": {"Alice": {"id": 9}, "branch": BRANCH, "guest": {}},
        "firewall": {
            "groups": {"admins": ["alice", "192.0.2.7"]},
            "forward": [{"from": "alice"}, {"from": "internal", "to": "branch"}],
        },
    }
    found = plan(changes)["firewall"]
    first, second = found["forward"]
    assert first["from"] == [{"address": "10.8.0.9"}, {"address": "10.8.1.9"}]
    assert second["to"] == [
        {"address": address} for address in ("10.8.0.5", "10.8.1.5", "10.50.0.0/24", "10.60.0.0/23")
    ]
    assert found["groups"]["admins"]["v4"] == ["10.8.0.9", "10.8.1.9", "192.0.2.7"]


def test_firewall_of_a_network_behind_a_client(plan):
    rules = _gateway_rules.ruleset(
        plan({"vpn:clients": {"branch": {"networks": ["10.50.0.0/24"]}}})
    )
    text = rules["v4"].splitlines()
    for line in [
        "-A GATEWAY-PREROUTING -d 10.50.0.0/24 -j GATEWAY-ONEWAY",
        "-A GATEWAY-ONEWAY -i eth0 -s 10.77.0.0/24 -j CT --notrack",
        "-A GATEWAY-PREROUTING -i vpn-main -s 10.50.0.0/24 -j GATEWAY-BRANCH",
        "-A GATEWAY-BRANCH -d 10.77.0.0/24 -m addrtype ! --dst-type LOCAL -j CT --notrack",
        "-A GATEWAY-FORWARD -d 10.50.0.0/24 -j GATEWAY-CIRCLES",
        "-A GATEWAY-CIRCLES -i eth0 -o eth0 -m dscp --dscp 0x3f -j DROP",
        "-A GATEWAY-FORWARD -s 10.50.0.0/24 ! -d 10.50.0.0/24 -j GATEWAY-BRANCH",
        "-A GATEWAY-BRANCH -d 10.77.0.0/24 -j GATEWAY-INSIDE",
        "-A GATEWAY-FORWARD -d 10.50.0.0/24 -j GATEWAY-TOBRANCH",
        "-A GATEWAY-TOBRANCH -s 10.77.0.0/24 -j GATEWAY-INSIDE",
        "-A GATEWAY-TOBRANCH -s 10.8.0.0/16 -j GATEWAY-INSIDE",
        "# 10.50.0.0/24, behind a VPN client.",
        "# 10.50.0.0/24, behind a client, asks by a forward.",
    ]:
        assert line in text
    assert "10.50." not in rules["v6"]
    alone = {"nodes:gw2": ..., "vpn:clients": {"branch": {"networks": ["10.50.0.0/24"]}}}
    single = _gateway_rules.ruleset(plan(alone))["v4"]
    assert "notrack" not in single.replace("-p 112 -j CT --notrack", "")
    assert "dscp" not in single
    assert "-s 10.50.0.0/24 ! -d 10.50.0.0/24 -j GATEWAY-BRANCH" in single
    assert "--to-source 10.77.0.2" not in single


def test_authentication(plan, edit):
    changes = {"vpn:servers:main:auth": {"pam": "openvpn"}, "vpn:pki:auth_token": TOKEN}
    assert server(plan, changes)["auth"] == {
        "pam": "openvpn",
        "script": None,
        "token_lifetime": 43200,
        "same_name": False,
    }
    found = plan(changes)
    assert found["vpn"]["pki"]["auth_token"] == {"pillar": ["gateway", "vpn", "pki", "auth_token"]}
    site, _ = _gateway_plan.read(edit(changes))
    assert SECRET not in repr(found) + repr(site)
    changes["vpn:pki:auth_token"] = pem("OpenVPN auth-token server key", SECRET[::-1])
    assert plan(changes)["digest"] != found["digest"]


def test_tls_crypt_of_version_2(plan):
    """Alone, or beside the other while clients move over."""
    both = {"vpn:pki:tls_crypt_v2": pem("OpenVPN tls-crypt-v2 server key")}
    assert set(plan(both)["vpn"]["pki"]) >= {"tls_crypt", "tls_crypt_v2"}
    assert "tls_crypt" not in plan({**both, "vpn:pki:tls_crypt": ...})["vpn"]["pki"]


def test_a_full_tunnel_may_have_routes_that_hold_the_server(plan):
    """Its clients have a route of their own to the server."""
    route = {"vpn:servers:main:routes": ["198.51.100.0/24"], "vpn:servers:main:full_tunnel": True}
    assert plan(route)["vpn"]["servers"][0]["routes"] == ["198.51.100.0/24"]
