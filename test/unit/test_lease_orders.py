"""What dnsmasq is told of leases and what it tells, and its script."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from lease_facts import FOREVER, Client, Fact
from lease_orders import (
    MOST_OF_ONE,
    NOBODY,
    Event,
    Orders,
    database,
    event,
    from_lease_file,
)

FILES = Path(__file__).resolve().parents[2] / "gateway/leases/files"

MAC, OTHER, THIRD = (f"02:00:00:00:00:{last}" for last in ("0a", "0b", "0c"))
IDENTIFIER = f"01:{OTHER}"


def pool(*shares, before="", network="internal"):
    return {
        "network": network,
        "before": before,
        "after": ",255.255.255.0,12h",
        "static": "10.77.0.0,static",
        "seconds": 43200,
        "shares": {f"gw{number}": [share] for number, share in enumerate(shares, 1) if share},
    }


POOL = pool("10.77.0.100,10.77.0.149", "10.77.0.150,10.77.0.199")
SETTINGS = {
    "node": "gw2",
    "pools": [POOL],
    "reserved": ["10.77.0.10", "10.77.0.120"],
    "reserved_macs": [MAC],
    "domain": "example.internal",
    "register": {
        "10.77.0.0/24": "example.internal",
        "10.60.0.0/24": "phones.example.internal",
        "10.61.0.0/24": "lan",
    },
    "names": [
        "www.example.internal",
        "www",
        "gw1.example.internal",
        "print.phones.example.internal",
    ],
    "wildcards": ["apps.example.internal"],
}


def orders(**settings):
    return Orders(SETTINGS | settings)


# --------------------------------------------------------------------------------------------------
# What it may give


RANGES = {
    "one pool": (
        [POOL],
        ["10.77.0.150,10.77.0.199", "10.77.0.100,10.77.0.149"],
        ["10.77.0.150,10.77.0.199"],
    ),
    "no pool": ([pool()], ["10.77.0.0,static"], ["10.77.0.0,static"]),
    "no share for this node": (
        [pool("10.77.0.100,10.77.0.100")],
        ["10.77.0.100,10.77.0.100"],
        ["10.77.0.0,static"],
    ),
    "a tag, and two pools": (
        [pool("10.77.0.9,10.77.0.9", "10.77.0.20,10.77.0.21", before="set:a,"), POOL],
        [
            *("set:a,10.77.0.20,10.77.0.21", "set:a,10.77.0.9,10.77.0.9"),
            *("10.77.0.150,10.77.0.199", "10.77.0.100,10.77.0.149"),
        ],
        ["set:a,10.77.0.20,10.77.0.21", "10.77.0.150,10.77.0.199"],
    ),
}


@pytest.mark.parametrize(("pools", "in_sync", "alone"), RANGES.values(), ids=RANGES)
def test_ranges(pools, in_sync, alone):
    """In sync its own share comes first; else it is the only one."""
    given = orders(pools=pools)
    for ranges, expected in ((given.ranges(True), in_sync), (given.ranges(False), alone)):
        assert ranges == [f"dhcp-range={each},255.255.255.0,12h" for each in expected]


OF_PEERS = {
    "nothing": (["10.77.0.100,10.77.0.149"], ["10.77.0.150,10.77.0.199"], []),
    "all": (["10.77.0.100,10.77.0.255"], [], ["10.77.0.150,10.77.0.199"]),
    "the end": (
        ["10.77.0.180,10.77.1.9"],
        ["10.77.0.150,10.77.0.179"],
        ["10.77.0.180,10.77.0.199"],
    ),
    "the middle, and one": (
        ["10.77.0.160,10.77.0.169", "10.77.0.150,10.77.0.150"],
        ["10.77.0.151,10.77.0.159", "10.77.0.170,10.77.0.199"],
        ["10.77.0.150,10.77.0.150", "10.77.0.160,10.77.0.169"],
    ),
}


@pytest.mark.parametrize(("theirs", "own", "both"), OF_PEERS.values(), ids=OF_PEERS)
def test_ranges_where_a_peer_has_other_pools(theirs, own, both):
    """What both take for their own is given by neither alone, and by one in sync only then."""
    given = orders()

    def lines(parts):
        return [f"dhcp-range={each},255.255.255.0,12h" for each in parts]

    assert given.ranges(False, theirs) == lines(own or ["10.77.0.0,static"])
    assert given.ranges(True, theirs) == lines([*own, *both, "10.77.0.100,10.77.0.149"])


NOBODYS = f"{NOBODY}:0a:4d:00:6e"
RESERVATIONS = {
    "a client": (Client(OTHER), f"{OTHER},10.77.0.110"),
    "with an identifier": (Client(OTHER, IDENTIFIER), f"id:{IDENTIFIER},10.77.0.110"),
    "with one of a single byte": (Client(OTHER, "41"), "id:41:,10.77.0.110"),
    "nobody": (None, f"{NOBODYS},10.77.0.110"),
    # Else dnsmasq would give that one this address, and not its own.
    "one with a reservation": (Client(MAC), f"{NOBODYS},10.77.0.110"),
    "the same with an identifier": (Client(MAC, "ff:01"), f"{NOBODYS},10.77.0.110"),
}


@pytest.mark.parametrize(("client", "line"), RESERVATIONS.values(), ids=RESERVATIONS)
def test_what_keeps_an_address(client, line):
    given = orders()
    assert given.reservation("10.77.0.110", client) == line
    assert given.reservation("10.77.0.120", client) is None  # the pillar keeps it


def test_nobody_is_another_one_for_each_address():
    """Of two lines with one identifier dnsmasq would take one."""
    given = orders()
    found = {given.reservation(f"10.77.{net}.{last}", None) for net in (0, 1) for last in (1, 110)}
    assert len({line.split(",")[0] for line in found}) == 4


def test_who_uses_an_address_without_a_lease():
    inside = [f"10.77.0.{last}" for last in range(130, 130 + MOST_OF_ONE)]
    seen = {"10.77.0.99": OTHER, "10.77.0.100": OTHER, "10.77.0.199": MAC, "10.77.0.200": MAC}
    assert orders().unleased(seen, set()) == {
        "10.77.0.100": Client(OTHER),
        "10.77.0.199": Client(MAC),
    }
    assert orders().unleased(seen, {"10.77.0.199"}) == {"10.77.0.100": Client(OTHER)}
    # A few addresses of one machine may be its own; of one that answers for all, none is kept.
    assert orders().unleased(dict.fromkeys(inside, THIRD), set()).keys() == set(inside)
    proxy = dict.fromkeys([*inside, "10.77.0.190"], THIRD)
    assert orders().unleased(proxy | seen, set()).keys() == {"10.77.0.100", "10.77.0.199"}
    assert orders(pools=[pool()]).unleased(seen, set()) == {}


def test_how_long_a_lease_lasts():
    forever = pool("10.60.0.5,10.60.0.6", "10.60.0.7,10.60.0.7") | {"seconds": -1}
    times = {
        "10.77.0.99": None,
        "10.77.0.100": 43200,
        "10.77.0.120": None,  # a host's of the pillar
        "10.77.0.199": 43200,
        "10.77.0.200": None,
        "10.60.0.5": -1,
        "10.60.0.7": -1,
        "10.60.0.8": None,
    }
    given = orders(pools=[POOL, forever])
    assert {address: given.lease_time(address) for address in times} == times


# --------------------------------------------------------------------------------------------------
# Names


def lease(name, address="10.77.0.101", since=1.0):
    return Fact(address, Client(MAC), FOREVER, since=since, name=name)


LONGEST = "a" * 63
NAMES = {
    "usual": ("pc", "pc.example.internal pc"),
    "one letter": ("x", "x.example.internal x"),
    "digits": ("4711", "4711.example.internal 4711"),
    "of the longest kind": (LONGEST, f"{LONGEST}.example.internal {LONGEST}"),
    "too long": (f"{LONGEST}a", None),
    "none": ("", None),
    "in the own domain": ("pc.example.internal", "pc.example.internal pc"),
    "in another domain": ("pc.example.org", None),
    "below the own domain": ("a.b.example.internal", None),
    "the domain": ("example.internal", None),
    "a dot": (".", None),
    "a dot at the end": ("pc.", None),
    "the domain's dot": (".example.internal", None),
    "twice the domain": ("pc.example.internal.example.internal", None),
    "a hyphen at its begin": ("-pc", None),
    "a hyphen at its end": ("pc-", None),
    "an underscore": ("my_pc", None),
    "a wildcard": ("*", None),
    "a space": ("pc www", None),
    "a line": ("pc\n192.0.2.1 bank", None),
    "a line's end": ("pc\n", None),
    "other letters": ("bücher", None),
    "other digits": ("\u0663", None),
    "a host's": ("www", None),
    "a host's, whole": ("www.example.internal", None),
    "a gateway's": ("gw1", None),
    "what programs look for": ("wpad", None),
    "what Windows looks for": ("isatap.example.internal", None),
    "this machine": ("localhost", None),
    "below a wildcard": ("pc.apps.example.internal", None),
}


@pytest.mark.parametrize(("name", "names"), NAMES.values(), ids=NAMES)
def test_names(name, names):
    assert orders().hosts([lease(name)]) == ([f"10.77.0.101 {names}"] if names else [])


@pytest.mark.parametrize(
    ("wildcards", "address", "expected"),
    {
        "of the domain": (["example.internal"], "10.77.0.101", []),
        "of the network's domain": (["phones.example.internal"], "10.60.0.5", []),
        "of what is above it": (["example.internal"], "10.60.0.5", []),
        "of another": (["ample.internal"], "10.77.0.101", ["10.77.0.101 pc.example.internal pc"]),
    }.values(),
)
def test_what_a_wildcard_has_no_client_gets(wildcards, address, expected):
    assert orders(wildcards=wildcards).hosts([lease("pc", address)]) == expected


def test_names_of_networks():
    given = orders()
    leases = [
        *(lease("a", "10.60.0.5"), lease("b.phones.example.internal", "10.60.0.6")),
        *(lease("print", "10.60.0.7"), lease("www", "10.60.0.8"), lease("a", "10.61.0.5")),
        *(lease("a", "10.62.0.5"), lease("a", "10.77.0.10"), lease("a", "10.77.0.101")),
    ]
    assert given.hosts(leases) == [
        "10.60.0.5 a.phones.example.internal",
        "10.60.0.6 b.phones.example.internal",
        # `print` is a host's there. `www` is one's in the site's domain alone.
        "10.60.0.8 www.phones.example.internal",
        "10.61.0.5 a.lan",
        # 10.62.0.0/24 registers nothing, and 10.77.0.10 is a host's of the pillar.
        "10.77.0.101 a.example.internal a",
    ]


def test_a_network_whose_domain_is_above_the_site_s():
    """There a name may be the site's domain itself, which is the site's."""
    given = orders(register={"10.61.0.0/24": "internal"})
    assert given.hosts([lease("example", "10.61.0.5")]) == []
    assert given.hosts([lease("sample", "10.61.0.5")]) == ["10.61.0.5 sample.internal"]


def test_of_two_with_one_name_the_first_has_it():
    other = Client(OTHER)
    first = replace(lease("pc", "10.77.0.150", since=5.0), client=other)
    second = lease("pc", since=7.0)
    for leases in ([first, second], [second, first]):
        assert orders().hosts(leases) == ["10.77.0.150 pc.example.internal pc"]
    assert orders().hosts([second]) == ["10.77.0.101 pc.example.internal pc"]
    # Both nodes say the same of two that came at once.
    pair = [replace(lease("pc", "10.77.0.102"), client=other), lease("pc", "10.77.0.101")]
    assert orders().hosts(pair) == orders().hosts(pair[::-1]) == orders().hosts(pair[1:])


# --------------------------------------------------------------------------------------------------
# Lines


EVENTS = {
    "usual": (
        f"add {MAC} 10.77.0.101 1800000000 * pc",
        Event("add", "10.77.0.101", Client(MAC), 1.8e9, "pc"),
    ),
    "for ever, with an identifier, in capitals": (
        f"old {MAC} 10.77.0.101 0 {IDENTIFIER} My-PC.Example.INTERNAL",
        Event("old", "10.77.0.101", Client(MAC, IDENTIFIER), FOREVER, "my-pc.example.internal"),
    ),
    "no name": (
        f"del {MAC} 10.77.0.101 1800000000 * ",
        Event("del", "10.77.0.101", Client(MAC), 1.8e9, ""),
    ),
    "a word too few": (f"del {MAC} 10.77.0.101 1800000000 *", None),
    "a word more": (f"add {MAC} 10.77.0.101 1800000000 * pc www", None),
    "another action": (f"tftp {MAC} 10.77.0.101 1800000000 * pc", None),
    "no time": (f"add {MAC} 10.77.0.101 soon * pc", None),
    "a time before all": (f"add {MAC} 10.77.0.101 -1 * pc", None),
    "a digit that is no number": (f"add {MAC} 10.77.0.101 \u00b2 * pc", None),
    "no address": (f"add {MAC} 10.77.0 1800000000 * pc", None),
    "an address of IPv6": (f"add {MAC} fd00::1 1800000000 * pc", None),
    "nothing": ("", None),
    "half of a line": ("10.77.0.101 1800000000 * pc", None),
    "what is no text": ("\ufffd\ufffd", None),
}


@pytest.mark.parametrize(("line", "expected"), EVENTS.values(), ids=EVENTS)
def test_events(line, expected):
    assert event(line) == expected


def test_what_dnsmasq_begins_with_is_what_it_would_write():
    leases = [
        Fact("10.77.0.101", Client(MAC), 1.8e9 + 0.7, name="pc"),
        Fact("10.77.0.102", Client(OTHER, IDENTIFIER), FOREVER),
    ]
    lines = database(leases)
    assert lines == [
        f"1800000000 {MAC} 10.77.0.101 * *",
        f"0 {OTHER} 10.77.0.102 * {IDENTIFIER}",
    ]
    assert [
        (each.address, each.client, each.until) for each in from_lease_file("\n".join(lines))
    ] == [
        ("10.77.0.101", Client(MAC), 1.8e9),
        ("10.77.0.102", Client(OTHER, IDENTIFIER), FOREVER),
    ]


def test_a_lease_file_of_before():
    text = (
        f"1800000000 {MAC} 10.77.0.101 My-PC {IDENTIFIER}\n0 {OTHER} 10.77.0.102 * *\n\n"
        f"duid 00:01:02\n1800000000\nx {MAC} 10.77.0.103 pc *\n{MAC}\n"
    )
    assert from_lease_file(text) == [
        # Small letters, as in a line of the script: else it is no name.
        Event("old", "10.77.0.101", Client(MAC, IDENTIFIER), 1.8e9, "my-pc"),
        Event("old", "10.77.0.102", Client(OTHER), FOREVER, "*"),
    ]


# --------------------------------------------------------------------------------------------------
# The script


@pytest.fixture
def script(tmp_path):
    """Run lease-event, with a file in the place of the FIFO; returns what it has written there."""
    text = (FILES / "lease-event").read_text()
    assert text.count("/run/gateway-leases") == 1
    copy = tmp_path / "lease-event"
    copy.write_text(text.replace("/run/gateway-leases", str(tmp_path)))
    (tmp_path / "database").write_text(f"0 {MAC} 10.77.0.101 * *\n")
    fifo = tmp_path / "events"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)

    def run(*arguments, **variables):
        environment = {os.fsencode(name): os.fsencode(text) for name, text in variables.items()}
        command = ["/bin/sh", copy, *arguments]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=10
        )
        assert (done.returncode, done.stderr) == (0, "")
        try:
            written = os.read(reading, 65536).decode()
        except BlockingIOError:
            written = ""
        return written, done.stdout

    yield run
    os.close(reading)


LEASE = ("add", MAC, "10.77.0.101")
SENT = {
    "usual": ("pc", "pc"),
    "capitals": ("My-PC.example.internal", "My-PC.example.internal"),
    "a line of its own": (f"pc\nadd {OTHER} 10.77.0.1 0 * www", ""),
    "a line's end": ("pc\n", ""),
    "spaces": ("pc 1800000000", ""),
    "a tab": ("pc\twww", ""),
    "letters of others": ("bücher", ""),
    "bytes that are no text": (b"\xff\xfe\x00"[:2], ""),
    "a wildcard": ("*", ""),
    "a pattern": ("[a-z]", ""),
    "a format": ("%s%n\\n", ""),
    "a command": ("$(touch /tmp/x)`id`", ""),
    "255 bytes": ("a" * 255, "a" * 255),
    "255 bytes of others": ("ü" * 127, ""),
}


@pytest.mark.scripts
@pytest.mark.parametrize(("sent", "name"), SENT.values(), ids=SENT)
def test_whatever_a_client_sends_the_script_writes_one_line(script, sent, name):
    ends = {"DNSMASQ_LEASE_EXPIRES": "1800000000", "DNSMASQ_CLIENT_ID": IDENTIFIER}
    written, _ = script(*LEASE, **ends, DNSMASQ_SUPPLIED_HOSTNAME=sent)
    assert written == f"add {MAC} 10.77.0.101 1800000000 {IDENTIFIER} {name}\n"
    # The name by which dnsmasq knows it is as little believed.
    by_argument, _ = script(*LEASE, os.fsencode(sent), **ends)
    assert by_argument == written
    found = event(written[:-1])
    assert found == Event("add", "10.77.0.101", Client(MAC, IDENTIFIER), 1.8e9, name.lower())


@pytest.mark.scripts
def test_the_script_without_what_is_optional(script):
    assert script("old", *LEASE[1:])[0] == f"old {MAC} 10.77.0.101 0 * \n"
    assert script("del", *LEASE[1:], "pc")[0] == f"del {MAC} 10.77.0.101 0 * pc\n"
    # What the client says now, not what was known.
    assert script(*LEASE, "old", DNSMASQ_SUPPLIED_HOSTNAME="new")[0].endswith(" new\n")


@pytest.mark.scripts
def test_the_script_has_nothing_to_say_of_other_things(script):
    for action in ("tftp", "arp-add", "arp-del", "relay-snoop", ""):
        assert script(action, MAC, "10.77.0.101") == ("", "")


@pytest.mark.scripts
def test_the_script_gives_dnsmasq_what_it_begins_with(script):
    assert script("init") == ("", f"0 {MAC} 10.77.0.101 * *\n")


def test_a_line_of_the_script_is_written_at_once():
    """Two processes write into one FIFO: what is longer than PIPE_BUF could be mixed."""
    longest = len(f"add 20-{MAC} 255.255.255.255 {10**10} {'00:' * 255} {'a' * 255}\n")
    assert longest < os.pathconf("/", "PC_PIPE_BUF")
    assert (FILES / "lease-event").read_text().count("$run/events") == 1


def test_a_time_that_is_none():
    assert event(f"add {MAC} 10.77.0.101 {'9' * 15} * ")
    assert event(f"add {MAC} 10.77.0.101 {'9' * 400} * ") is None
