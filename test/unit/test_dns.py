"""DNS: plan, status, configuration."""

import socket
from types import SimpleNamespace

import _gateway_interfaces
import pytest
from rendered import lines

# --------------------------------------------------------------------------------------------------
# What is planned

REJECTED = {
    # missing
    "missing domain": ({"domain": ...}, "domain", "missing"),
    # wrong type
    "mapping for a list": (
        {"dns:forwarders": {}},
        "dns:forwarders",
        "must be a list, is a mapping",
    ),
    # DNS and DHCP
    "forwarder that is the virtual IP": (
        {"dns:forwarders": ["198.51.100.100", "10.77.0.1#53"]},
        "dns:forwarders:1",
        "10.77.0.1 is the gateway itself",
    ),
    "forwarder that is a node": (
        {"dns:forwarders": ["198.51.100.3#53"]},
        "dns:forwarders:0",
        "198.51.100.3 is the gateway itself",
    ),
    "port of a forwarder": (
        {"dns:forwarders": ["127.0.0.1#0"]},
        "dns:forwarders:0",
        "0 is not in 1 to 65535; a forwarder is an address, or ADDRESS#PORT",
    ),
    "no port of a forwarder": (
        {"dns:forwarders": ["127.0.0.1#"]},
        "dns:forwarders:0",
        "must be a whole number, is text (''); a forwarder is an address, or ADDRESS#PORT",
    ),
    "DHCP's keyword for DNS": (
        {"dns:settings": {"dhcp-range": "10.77.0.200,10.77.0.210"}},
        "dns:settings:dhcp-range",
        "is not possible: it is of DHCP, which is another process: gateway:dhcp:settings",
    ),
    "port of DNS": (
        {"dns:settings": {"port": 5353}},
        "dns:settings:port",
        "is not possible: clients and the firewall know port 53",
    ),
    "DNSSEC that trusts nobody": (
        {"dns:settings": {"dnssec": True}},
        "dns:settings:dnssec",
        "needs trust-anchor or conf-file: /usr/share/dnsmasq-base/trust-anchors.conf",
    ),
    "zone without a server": (
        {"dns:settings": {"auth-zone": "example.org"}},
        "dns:settings:auth-zone",
        "needs auth-server",
    ),
    "program that a check would run": (
        {"dns:settings": {"conf-script": "/bin/true"}},
        "dns:settings:conf-script",
        "is not possible: the check of a new configuration would run it",
    ),
    "forwarder that is nobody": (
        {"dns:forwarders": ["0.0.0.0"]},
        "dns:forwarders:0",
        "0.0.0.0 is inside 0.0.0.0/8, of which no host has an address; a forwarder is an address,"
        " or ADDRESS#PORT",
    ),
    "quote without its second": (
        {"dns:settings": {"txt-record": 'a.example,"v=spf1'}},
        "dns:settings:txt-record",
        'a.example,"v=spf1 has a character that dnsmasq cannot have here (line breaks, anything'
        " but ASCII), or a double quote without its second",
    ),
    "second quote that is hidden": (
        {"dns:settings": {"txt-record": 'a.example,"v=spf1\\"'}},
        "dns:settings:txt-record",
        'a.example,"v=spf1\\" has a character that dnsmasq cannot have here (line breaks, anything'
        " but ASCII), or a double quote without its second",
    ),
    "quote behind a second quote": (
        {"dns:settings": {"txt-record": 'a.example,"v""spf1"'}},
        "dns:settings:txt-record",
        'a.example,"v""spf1" has a character that dnsmasq cannot have here (line breaks, anything'
        " but ASCII), or a double quote without its second",
    ),
    "comment of dnsmasq's": (
        {"dns:settings": {"txt-record": 'a.example,"#" #,x'}},
        "dns:settings:txt-record",
        'a.example,"#" #,x has a comment in it ( #), which dnsmasq would leave out',
    ),
    "line that dnsmasq would break": (
        {"dns:settings": {"txt-record": "x" * 901}},
        "dns:settings:txt-record",
        f"{'x' * 57}... is longer than 900 characters",
    ),
    # names
    "domain": ({"domain": "example..internal"}, "domain", "example..internal is not a domain name"),
    "domain of 254 characters": (
        {"domain": "a." * 126 + "aa"},
        "domain",
        f"{'a.' * 28}a... is not a domain name",
    ),
    "domain that is a number": (
        {"domain": "10.8"},
        "domain",
        "10.8 is not a domain name: its last label is a number",
    ),
    # the rest of the services
    "upstream address": (
        {"dns:forwarders": ["198.51.100.100", "resolver"]},
        "dns:forwarders:1",
        "resolver is not an IPv4 address; a forwarder is an address, or ADDRESS#PORT",
    ),
    "settings": (
        {"dns:settings": ["cache-size=1"]},
        "dns:settings",
        "must be a mapping, is a list",
    ),
    "keyword of a setting": (
        {"dns:settings": {"cache size": 1}},
        "dns:settings:cache size",
        "cache size is not a keyword",
    ),
}


@pytest.mark.parametrize(("changes", "key", "message"), REJECTED.values(), ids=REJECTED)
def test_rejected(errors, changes, key, message):
    """A mistake is one error, and it names the key of the pillar that is wrong."""
    assert errors(changes) == [f"gateway:{key}: {message}"]


def test_dns(plan):
    changes = {"hosts:mail": {"ip": "192.0.2.25", "aliases": ["mx.example.org"]}}
    assert plan(changes, "gw2")["dns"] == {
        "listen": ["10.77.0.3", "10.77.0.1"],
        "others": [],
        "forwarders": ["198.51.100.100"],
        "records": [
            {"ip": "10.77.0.2", "names": ["gw1.example.internal", "gw1"]},
            {"ip": "10.77.0.3", "names": ["gw2.example.internal", "gw2"]},
            {
                "ip": "10.77.0.10",
                "names": ["backend01.example.internal", "www.example.internal", "backend01", "www"],
            },
            {"ip": "192.0.2.25", "names": ["mail.example.internal", "mx.example.org", "mail"]},
        ],
        "public_domain": False,
        "wildcards": [],
        "own": ["mx.example.org"],
        "outside": ["mx.example.org"],
        "settings": [],
    }


def test_who_is_asked_for_names_that_are_ours(plan):
    """Nobody; but others may have what is below one that is not in the site's domain."""
    aliases = [
        *(
            "www",
            "company.example",
            "a.company.example",
            "apps.company.example",
            "b.example.internal",
            "example.internal",
        ),
        *("*.apps.company.example", "x.apps.company.example", "*.apps", "*.old.example"),
    ]
    dns = plan({"hosts:backend01:aliases": aliases})["dns"]
    assert dns["wildcards"] == [
        {"name": "apps.company.example", "ip": "10.77.0.10"},
        {"name": "apps.example.internal", "ip": "10.77.0.10"},
        {"name": "old.example", "ip": "10.77.0.10"},
    ]
    assert dns["own"] == ["company.example", "a.company.example", "apps.company.example"]
    assert dns["outside"] == ["company.example", "a.company.example"]
    assert not [name for record in dns["records"] for name in record["names"] if "*" in name]


def test_a_domain_that_exists_outside(plan):
    changes = {"dns:public_domain": True, "hosts:backend01:aliases": ["example.internal", "*.apps"]}
    dns = plan(changes)["dns"]
    names = [f"{name}.example.internal" for name in ("gw1", "gw2", "backend01")]
    assert dns["public_domain"] is True
    assert dns["own"] == dns["outside"] == [*names, "example.internal"]


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("127.0.0.1#5335", "127.0.0.1#5335"),
        ("198.51.100.100#53", "198.51.100.100"),
        ("10.77.0.2#5335", "10.77.0.2#5335"),
    ],
)
def test_forwarders_with_a_port(plan, server, expected):
    assert plan({"dns:forwarders": [server]})["dns"]["forwarders"] == [expected]


@pytest.mark.parametrize("part", ["dns", "dhcp"])
@pytest.mark.parametrize(
    "value",
    [
        '0,"Boot"',
        'a.example,"v=spf1 -all"',
        '"a \\" #b"',
        "Boot\\x64\\wdsnbp.com",
        "it's",
        "${net0}",
    ],
)
def test_what_dnsmasq_takes_is_let_through(plan, part, value):
    found = plan({f"{part}:settings": {"enable-tftp": value}})
    assert found[part]["settings"] == [["enable-tftp", value]]


# --------------------------------------------------------------------------------------------------
# How a node is doing

MISSING = "gateway:dns:forwarders: missing, and /etc/resolv.conf of this node names"
NOBODY = f"{MISSING} {{}}: names outside of the site are not found"


@pytest.mark.parametrize(
    ("servers", "resolved", "expected"),
    [
        ("192.0.2.53", "", []),
        ("192.0.2.53 10.77.0.1", "", [f"{MISSING} 10.77.0.1, which is the gateway itself"]),
        ("10.77.0.1", "", [NOBODY.format("only the gateway itself (10.77.0.1)")]),
        ("10.77.0.3", "", [NOBODY.format("only the gateway itself (10.77.0.3)")]),
        (
            "10.77.0.2 127.0.0.1",
            "",
            [NOBODY.format("only the gateway itself (10.77.0.2, 127.0.0.1)")],
        ),
        ("::1", "", [NOBODY.format("only the gateway itself (::1)")]),
        ("127.0.0.53", "192.0.2.53", []),
        ("127.0.0.53", "10.77.0.1", [NOBODY.format("only the gateway itself (10.77.0.1)")]),
        ("", "", [NOBODY.format("nobody")]),
        ("nonsense", "", [NOBODY.format("nobody")]),
    ],
)
def test_nobody_is_left_to_ask(
    module, node, break_pillar, monkeypatch, servers, resolved, expected
):
    """Without forwarders dnsmasq asks whom resolv.conf names."""

    def nobody_listens(address, timeout):
        assert address[1] == 53
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", nobody_listens)
    for file, names in zip(node.resolvers, (servers, resolved), strict=True):
        file.write_text("".join(f"nameserver {name}\n" for name in names.split()) + "search x\n")
    assert module.validate() == []
    break_pillar({"dns:forwarders": []})
    node.apply()
    assert module.validate() == module.status()["problems"] == expected
    assert module.validate(warnings=False) == []
    # Whoever says it to dnsmasq itself knows what they do.
    break_pillar({"dns:forwarders": [], "dns:settings": {"server": "192.0.2.53"}})
    assert module.validate() == []
    break_pillar({"dns:forwarders": [], "dns:settings": {"server": "/corp.example/192.0.2.53"}})
    assert module.validate() == expected


@pytest.mark.parametrize("server", ["10.77.0.1", "198.51.100.1"])
def test_the_virtual_ip_is_ourselves_wherever_it_is(module, node, break_pillar, server):
    node.addresses["eth0"].remove("10.77.0.1/32")
    node.resolvers[0].write_text(f"nameserver {server}\n")
    more = {"public:virtual_ip": "198.51.100.1", "state_sync": False}
    break_pillar({**more, "health:internal:targets": [], "dns:forwarders": []})
    assert module.validate() == [NOBODY.format(f"only the gateway itself ({server})")]


def test_a_resolver_of_somebody_else_on_the_node(module, node, break_pillar, monkeypatch):
    listener = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr(socket, "create_connection", lambda *_: listener)
    break_pillar({"dns:forwarders": []})
    node.resolvers[0].write_text("nameserver 127.0.0.1\n")
    assert module.validate() == []


# --------------------------------------------------------------------------------------------------
# What is written


def test_configuration_of_dns(render):
    found = lines(render("example", node="gw2"), "/etc/gateway/dns.conf")
    for line in [
        "bind-dynamic",
        "listen-address=10.77.0.3",
        "listen-address=10.77.0.1",
        "domain=example.internal",
        "local=/example.internal/",
        "addn-hosts=/etc/gateway/hosts",
        "no-resolv",
        "server=198.51.100.100",
        "dns-loop-detect",
    ]:
        assert line in found
    assert lines(render("example"), "/etc/gateway/hosts") == [
        "10.77.0.2 gw1.example.internal gw1",
        "10.77.0.3 gw2.example.internal gw2",
        "10.77.0.10 backend01.example.internal www.example.internal backend01 www",
    ]


def test_names_that_are_ours_alone(render):
    """What is below them is asked of others, unless it is a wildcard's."""
    found = render("names")
    assert lines(found, "/etc/gateway/own-names") == [
        "server=/www.example.org/",
        "server=/example.net/",
        "server=/*.www.example.org/#",
    ]
    conf = lines(found, "/etc/gateway/dns.conf")
    assert "servers-file=/etc/gateway/own-names" in conf
    assert [line for line in conf if line.startswith(("address", "local"))] == [
        "local=/example.internal/",
        "address=/*.apps.example.internal/10.77.0.10",
        "local=/*.apps.example.internal/",
        "address=/*.example.net/10.77.0.10",
        "local=/*.example.net/",
    ]
    assert lines(found, "/etc/gateway/hosts")[2:] == [
        "10.77.0.1 gateway.example.internal gateway",
        "10.77.0.10 backend01.example.internal www.example.org example.net backend01",
    ]
    assert lines(render("example"), "/etc/gateway/own-names") == []


def test_a_domain_that_exists_outside_is_asked_there(render):
    found = render("public domain")
    assert "local=/example.internal/" not in lines(found, "/etc/gateway/dns.conf")
    names = [f"{name}.example.internal" for name in ("gw1", "gw2", "backend01", "www")]
    assert lines(found, "/etc/gateway/own-names") == [
        *(f"server=/{name}/" for name in names),
        *(f"server=/*.{name}/#" for name in names),
    ]


def test_settings_of_dnsmasq_that_replace_the_formula_s(render):
    """dnsmasq takes each of these once."""
    for path, keyword, usual in [
        ("/etc/gateway/dns.conf", "cache-size", "10000"),
        ("/etc/gateway/dhcp.conf", "dhcp-lease-max", "100000"),
    ]:
        for name, value in (("example", usual), ("names", "7")):
            found = lines(render(name), path)
            assert [line for line in found if keyword in line] == [f"{keyword}={value}"]


def test_quotes_reach_dnsmasq(render):
    found = render("names")
    assert 'txt-record=a.example,"v=spf1 -all"' in lines(found, "/etc/gateway/dns.conf")
    assert 'pxe-service=0,"Boot"' in lines(found, "/etc/gateway/dhcp.conf")


def test_dns_without_forwarders_asks_whom_the_node_asks(render):
    found = lines(render("minimal"), "/etc/gateway/dns.conf")
    assert not [line for line in found if line.startswith(("server=", "no-resolv"))]
    assert "dns-loop-detect" in found


RESOLVED = "/run/systemd/resolve/resolv.conf"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [f"resolv-file={RESOLVED}"]),
        ({"server": "/corp.example/192.0.2.53"}, [f"resolv-file={RESOLVED}"]),
        # dnsmasq takes the newest of several files.
        ({"resolv-file": "/etc/mine"}, ["resolv-file=/etc/mine"]),
    ],
)
def test_dns_asks_whom_resolved_asks(render, settings, expected):
    """Without forwarders, where the stub of systemd-resolved is all that resolv.conf names."""
    changes = {"dns:forwarders": [], "dns:settings": settings}
    site = render("example", changes=changes, resolver_file=RESOLVED)
    found = lines(site, "/etc/gateway/dns.conf")
    assert [line for line in found if "resolv" in line] == expected
    # dnsmasq does not start where the folder is missing.
    made = "ExecStartPre=mkdir -p /run/systemd/resolve"
    assert made in lines(site, "/etc/systemd/system/gateway-dns.service")
    found = lines(render("example", resolver_file=RESOLVED), "/etc/gateway/dns.conf")
    assert [line for line in found if "resolv" in line] == ["no-resolv"]


@pytest.mark.parametrize(
    ("servers", "resolved", "expected"),
    [
        ("192.0.2.53", None, 0),
        ("192.0.2.53", "192.0.2.54", 0),
        ("127.0.0.1", "192.0.2.54", 0),
        ("127.0.0.53", "192.0.2.54", 1),
        ("127.0.0.53", None, 0),  # the stub of something else
    ],
)
def test_the_file_with_whom_the_node_asks(node, servers, resolved, expected):
    for file, names in zip(node.resolvers, (servers, resolved), strict=True):
        file.unlink(missing_ok=True)
        if names:
            file.write_text(f"nameserver {names}\n")
    assert _gateway_interfaces.resolver_file() == node.resolvers[expected]
