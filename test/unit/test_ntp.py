"""Time: plan, status, configurations of chrony and NTPsec."""

import pytest
from on_node import CHRONY
from rendered import CHRONY_CONF, SETTINGS, lines

# --------------------------------------------------------------------------------------------------
# What is planned

REJECTED = {
    # DNS and DHCP
    "server with a dot at its end": (
        {"ntp:servers": ["pool.ntp.org."]},
        "ntp:servers:0",
        "pool.ntp.org. is neither an IPv4 address nor a domain name; write it without the dot at"
        " its end: pool.ntp.org",
    ),
    "time from itself": (
        {"ntp:servers": ["127.0.0.1"]},
        "ntp:servers:0",
        "127.0.0.1 is inside 127.0.0.0/8, of which no host has an address",
    ),
    "what chrony's check does not see, in any case": (
        {"ntp:settings": {"Port": 0}},
        "ntp:settings:Port",
        "is not possible: clients and the firewall know port 123",
    ),
    "for what systemd would wait": (
        {"ntp:settings": {"pidfile": "/tmp/pid"}},
        "ntp:settings:pidfile",
        "is not possible: systemd waits for the distribution's",
    ),
    "comment at the beginning of a setting": (
        {"ntp:settings": {"server": ";192.0.2.1"}},
        "ntp:settings:server",
        ";192.0.2.1 has a comment in it (;), which the daemon would leave out",
    ),
    # the rest of the services
    "upstream server": (
        {"ntp:servers": ["198.51.100.1000"]},
        "ntp:servers:0",
        "198.51.100.1000 is neither an IPv4 address nor a domain name",
    ),
    "provider": (
        {"ntp:provider": "ntpd"},
        "ntp:provider",
        'ntpd is none of chrony, ntpsec; did you mean "ntpsec"?',
    ),
}


@pytest.mark.parametrize(("changes", "key", "message"), REJECTED.values(), ids=REJECTED)
def test_rejected(errors, changes, key, message):
    """A mistake is one error, and it names the key of the pillar that is wrong."""
    assert errors(changes) == [f"gateway:{key}: {message}"]


def test_ntp(plan):
    servers = ["198.51.100.100", "ntp.example.org", "ntp1"]
    assert plan({"ntp:servers": servers}, "gw2")["ntp"] == {
        "provider": "chrony",
        "servers": [
            {"address": "198.51.100.100", "pool": False},
            {"address": "ntp.example.org", "pool": True},
            {"address": "ntp1", "pool": True},
        ],
        "peers": ["10.77.0.2"],
        "allow": ["10.77.0.0/24", "10.8.0.0/16"],
        "settings": [],
    }


# --------------------------------------------------------------------------------------------------
# How a node is doing


@pytest.mark.parametrize(
    ("provider", "output", "expected"),
    [
        ("chrony", CHRONY.format(leap="Insert second"), (True, 3, "198.51.100.100")),
        (
            "chrony",  # its own clock, orphaned: the reference has no name
            "7F7F0101,,10,1700000000.1,0,0,0,-1.2,0.0,0.1,0.000,0.000,64.2,Normal\n",
            (True, 10, "7F7F0101"),
        ),
        (
            "chrony",
            "00000000,,0,0.000000000,0,0,0,-1.2,0.0,0.0,1.0,1.0,0.0,Not synchronised\n",
            (False, 0, "00000000"),
        ),
        ("chrony", "506 Cannot talk to daemon\n", (False, None, None)),
        ("chrony", 1, (False, None, None)),
        ("chrony", None, (False, None, None)),
        (
            "ntpsec",
            "leap=00, stratum=2,\nrefid=198.51.100.100\n",
            (True, 2, "198.51.100.100"),
        ),
        ("ntpsec", "leap=01, stratum=3, refid=GPS\n", (True, 3, "GPS")),
        ("ntpsec", "leap=11, stratum=16, refid=INIT\n", (False, 16, "INIT")),
        ("ntpsec", "leap=3, stratum=16, refid=STEP\n", (False, 16, "STEP")),
        ("ntpsec", "stratum=2, refid=198.51.100.100\n", (True, 2, "198.51.100.100")),
        ("ntpsec", "***Request timed out\n", (False, None, None)),
        ("ntpsec", None, (False, None, None)),
    ],
)
def test_status_of_ntp(module, node, break_pillar, provider, output, expected):
    break_pillar({"ntp:provider": provider})
    node.tools.pop("ntpq" if provider == "chrony" else "chronyc")  # the other one's is not asked
    node.tools["chronyc" if provider == "chrony" else "ntpq"] = output
    node.running.add(provider)
    node.apply()
    status = module.status()
    assert tuple(status["ntp"].values()) == expected
    assert status["problems"] == ([] if expected[0] else ["the clock is not synchronised"])
    assert provider in status["services"]


# --------------------------------------------------------------------------------------------------
# What is written

NTPSEC = "/etc/ntpsec/ntp.conf"


def test_chrony(render):
    found = lines(render("example", node="gw2"), CHRONY_CONF)
    assert found[:4] == [
        "server 198.51.100.100 iburst",
        "peer 10.77.0.2",
        "allow 10.77.0.0/24",
        "allow 10.8.0.0/16",
    ]
    assert "local stratum 10 orphan" in found  # time goes on without an uplink
    assert lines(render("minimal"), CHRONY_CONF)[:2] == [
        "allow 192.168.7.0/24",
        "local stratum 10 orphan",
    ]


def test_ntpsec(render):
    found = render("ntpsec", node="gw2")
    assert CHRONY_CONF not in found.files
    assert found.ids["chrony configuration is as it was"]["name"] == CHRONY_CONF
    text = lines(found, NTPSEC)
    assert text[:3] == [
        "pool ntp.test iburst",
        "server 192.0.2.9 iburst",
        "server 10.77.0.2 iburst",
    ]
    assert any(line.startswith("tos orphan 10") for line in text)
    # They would refuse the answers of the node's own servers as well.
    default = next(line.split() for line in text if line.startswith("restrict default"))
    assert {"nomodify", "noquery"} <= set(default)
    assert not {"noserve", "ignore"} & set(default)


def test_settings_of_ntpsec(render):
    changes = {"ntp": {"provider": "ntpsec", "settings": SETTINGS}}
    found = lines(render("example", changes=changes), NTPSEC)
    assert found[-5:] == ["alone", "listed 1", "listed two words", "number 1.5", "text a,b=c"]
