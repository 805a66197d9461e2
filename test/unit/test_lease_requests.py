"""What a node hears of clients that ask its peer: whatever is in a packet, it is read or left."""

from ipaddress import IPv4Address

import lease_requests
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lease_facts import Client
from lease_requests import Ear, request

MAC = "02:00:00:00:00:0a"
PEER, STRANGER = "10.77.0.3", "10.77.0.99"
SERVERS = {PEER, "10.20.0.3"}
ADDRESS = "10.77.0.101"
REQUEST = bytes((53, 1, 3))
WANTED = bytes((50, 4)) + IPv4Address(ADDRESS).packed
SERVER = bytes((54, 4)) + IPv4Address(PEER).packed
NAME = bytes((12, 5)) + b"My-PC"
IDENTIFIER = bytes((61, 3)) + b"\xff\x01\x02"
END = b"\xff"


def dhcp(*options, op=1, kind=1, length=6, mine="0.0.0.0", cookie=bytes((99, 130, 83, 99))):
    """A packet of DHCP (RFC 2131, section 2)."""
    head = bytes((op, kind, length, 0)) + bytes(8) + IPv4Address(mine).packed + bytes(12)
    mac = bytes.fromhex(MAC.replace(":", "")) + bytes(10)
    return head + mac + bytes(192) + cookie + b"".join(options)


HEARD = (ADDRESS, Client(MAC), "")
PACKETS = {
    "usual": (dhcp(REQUEST, WANTED, SERVER, END), HEARD),
    "after a reboot": (dhcp(REQUEST, WANTED, END), HEARD),
    "that asks to go on": (dhcp(REQUEST, END, mine=ADDRESS), HEARD),
    "with all": (
        dhcp(REQUEST, b"\0\0", WANTED, SERVER, NAME, IDENTIFIER, END),
        (ADDRESS, Client(MAC, "ff:01:02"), "my-pc"),
    ),
    "without an end": (dhcp(REQUEST, WANTED), HEARD),
    "with what comes after the end": (dhcp(REQUEST, WANTED, END, NAME), HEARD),
    "with half an option": (dhcp(REQUEST, WANTED, NAME[:4]), HEARD),
    "with the number of an option": (dhcp(REQUEST, WANTED, NAME[:1]), HEARD),
    "with an empty identifier": (dhcp(REQUEST, WANTED, bytes((61, 0)), END), HEARD),
    "of another kind of card": (
        dhcp(REQUEST, WANTED, END, kind=6),
        (ADDRESS, Client(f"06-{MAC}"), ""),
    ),
    "of another server": (
        dhcp(REQUEST, WANTED, SERVER[:2] + IPv4Address(STRANGER).packed, END),
        None,
    ),
    "of half a server": (dhcp(REQUEST, WANTED, bytes((54, 2, 10, 77)), END), None),
    "of half an address": (dhcp(REQUEST, bytes((50, 2, 10, 77)), END), None),
    "a discovery": (dhcp(bytes((53, 1, 1)), WANTED, END), None),
    "an answer": (dhcp(REQUEST, WANTED, END, op=2), None),
    "no kind": (dhcp(WANTED, END), None),
    "no hardware address": (dhcp(REQUEST, WANTED, END, length=0), None),
    "a longer one than there is": (dhcp(REQUEST, WANTED, END, length=17), None),
    "BOOTP": (dhcp(REQUEST, WANTED, END, cookie=bytes(4)), None),
    "short": (dhcp(REQUEST, WANTED, END)[:239], None),
    "nothing": (b"", None),
}


@pytest.mark.parametrize(("packet", "expected"), PACKETS.values(), ids=PACKETS)
def test_requests(packet, expected):
    assert request(packet, SERVERS) == expected


@given(st.binary(max_size=400), st.binary(max_size=80))
def test_whatever_comes_is_no_error(packet, options):
    assert request(packet, SERVERS) is None or len(packet) >= 240
    request(dhcp(options), SERVERS)
    found = request(dhcp(REQUEST, WANTED, options), SERVERS)
    assert found is None or IPv4Address(found[0])


def test_what_is_heard_is_known_for_some_seconds(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(lease_requests.time, "monotonic", lambda: clock[0])
    ear = Ear(SERVERS)
    ear.datagram_received(dhcp(REQUEST, WANTED, NAME, END), ("10.77.0.101", 68))
    ear.datagram_received(dhcp(END), ("10.77.0.101", 68))
    clock[0] += lease_requests.REMEMBERED
    assert ear.take() == {ADDRESS: (Client(MAC), "my-pc")}
    assert ear.take() == {}
    ear.datagram_received(dhcp(REQUEST, WANTED, END), ("10.77.0.101", 68))
    clock[0] += lease_requests.REMEMBERED + 0.1
    assert ear.take() == {}


def test_what_the_peer_has_told_since_is_not_remembered(monkeypatch):
    """Of two that asked for one address the first has it, unless the peer was heard between."""
    clock = [1000.0]
    monkeypatch.setattr(lease_requests.time, "monotonic", lambda: clock[0])
    other = dhcp(REQUEST, WANTED, END).replace(bytes.fromhex(MAC.replace(":", "")), bytes(5) + b"b")
    for since, mac in ((1000.0, MAC), (1000.5, "00:00:00:00:00:62")):
        clock[0] = 1000.0
        ear = Ear(SERVERS)
        ear.datagram_received(dhcp(REQUEST, WANTED, END), ("10.77.0.101", 68))
        clock[0] = 1001.0
        ear.datagram_received(other, ("10.77.0.101", 68))
        assert ear.take(since) == {ADDRESS: (Client(mac), "")}


def test_a_flood_of_requests_is_bounded(monkeypatch):
    monkeypatch.setattr(lease_requests.time, "monotonic", lambda: 1000.0)
    ear = Ear(SERVERS)
    for number in range(lease_requests.MOST + 10):
        wanted = bytes((50, 4)) + (IPv4Address("10.64.0.0") + number).packed
        ear.datagram_received(dhcp(REQUEST, wanted, END), ("10.64.0.1", 68))
    assert len(ear.take()) == lease_requests.MOST


def test_who_asks_again_is_remembered_for_longer(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(lease_requests.time, "monotonic", lambda: clock[0])
    ear = Ear(SERVERS)
    other = bytes((50, 4)) + IPv4Address("10.64.0.1").packed
    for tick, wanted in ((0.0, WANTED), (1.0, other), (9.0, WANTED)):
        clock[0] = tick
        ear.datagram_received(dhcp(REQUEST, wanted, END), ("10.64.0.1", 68))
    clock[0] = lease_requests.REMEMBERED + 1.5
    assert ear.take().keys() == {ADDRESS}
