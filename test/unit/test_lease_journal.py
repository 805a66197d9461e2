"""The journal of leases: facts, and how the nodes tell them each other."""

import json
import time

import pytest
from lease_facts import FOREVER, Client, Fact, knows, newer
from lease_journal import BATCH, Journal
from lease_link import LONGEST_LINE
from lease_pair import ONE, TWO, A, B, Pair
from lease_site import Disk


@pytest.fixture
def pair():
    pair = Pair()
    pair.connect()
    return pair


def fact(client=ONE, until=100.0, **version):
    return Fact(A, client, until, version=version)


def test_the_one_that_knew_of_the_other_is_newer():
    old, new = fact(until=900.0, a=1), fact(None, a=1, b=1)
    assert newer(old, new) is new
    assert newer(new, old) is new
    assert newer(old, old) is old


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (fact(ONE, 100.0, a=1), fact(TWO, 200.0, b=1)),
        (fact(None, 300.0, a=1), fact(TWO, 200.0, b=1)),
        (fact(ONE, 300.0, a=1), fact(TWO, FOREVER, b=1)),
        (fact(ONE, 200.0, a=2, b=1), fact(TWO, 201.0, a=1, b=2)),
    ],
)
def test_of_two_that_did_not_know_of_each_other_the_later_end_holds(one, other):
    for winner in (newer(one, other), newer(other, one)):
        assert (winner.client, winner.until) == (TWO, other.until)
        assert knows(winner.version, one.version)
        assert knows(winner.version, other.version)


def test_two_that_were_put_together_differently_become_one():
    one, other = fact(ONE, 100.0, a=1, b=1), fact(TWO, 100.1, a=1, b=1)
    assert newer(one, other) == newer(other, one)
    gone = fact(None, 100.0, a=1, b=1)
    assert newer(gone, one) is newer(one, gone) is one


@pytest.mark.parametrize("client", [ONE, TWO, None])
@pytest.mark.parametrize("until", [FOREVER, 1600.0])
def test_a_fact_is_said_and_heard_by_another_clock(client, until):
    said = json.loads(
        json.dumps(Fact(A, client, until, 900.0, "name", "gw1", {"a": 3}).said(1000.0))
    )
    heard = Fact.heard(said, 5000.0)
    expected = FOREVER if until == FOREVER else 5600.0
    assert heard == Fact(A, client, expected, 4900.0, "name", "gw1", {"a": 3})


def test_a_lease_that_has_ended_is_said_with_nothing_left():
    assert Fact.heard(fact(until=500.0).said(1000.0), 2000.0).until == 2000.0


def test_in_sync(pair):
    assert pair.in_sync() == [True, True]
    pair.tick += 0.5
    assert pair.in_sync() == [True, True]
    pair.tick += 0.01
    assert pair.in_sync() == [False, False]
    pair.beat()
    assert pair.in_sync() == [True, True]
    # One that only hears, or is only heard, is not.
    for _ in range(6):
        pair.tick += 0.1
        pair.tell(pair.one, pair.two, pair.news(pair.one, pair.two))
    assert pair.in_sync() == [False, False]


def test_not_in_sync_before_all_is_told_and_heard():
    pair = Pair()
    for number in range(BATCH + 1):
        pair.lease(pair.one, f"10.78.{number // 250}.{number % 250}", Client(f"m{number}"))
    messages = pair.begin(pair.one, pair.two)
    assert [message["last"] for message in messages] == [False, True]
    for message in pair.begin(pair.two, pair.one):
        pair.tell(pair.two, pair.one, message)
    pair.tell(pair.one, pair.two, messages[0])
    assert pair.in_sync() == [False, False]
    pair.tell(pair.one, pair.two, messages[1])
    assert pair.in_sync() == [True, True]
    # Of a stream that begins again not, either.
    again = pair.begin(pair.one, pair.two)
    pair.tell(pair.one, pair.two, again[0])
    assert pair.in_sync() == [False, False]


def test_messages_are_taken_in_their_order_and_once(pair):
    first, second = (pair.news(pair.one, pair.two) for _ in range(2))
    assert pair.tell(pair.one, pair.two, second) is None
    assert pair.tell(pair.one, pair.two, first)
    assert pair.tell(pair.one, pair.two, first) is None
    assert pair.tell(pair.one, pair.two, second)


def test_a_stream_of_before_does_not_begin_again(pair):
    old = pair.begin(pair.one, pair.two)
    new = pair.begin(pair.one, pair.two)
    assert pair.tell(pair.one, pair.two, old[0])
    assert pair.tell(pair.one, pair.two, new[0])
    assert pair.tell(pair.one, pair.two, old[0]) is None
    assert pair.tell(pair.one, pair.two, pair.news(pair.one, pair.two))


def test_an_answer_to_a_stream_of_before_says_nothing(pair):
    pair.lease(pair.one, A, ONE)
    message = pair.news(pair.one, pair.two)
    answer = pair.two.receive("gw1", message, pair.now(pair.two), pair.tick)
    pair.begin(pair.one, pair.two)
    pair.one.kept("gw2", answer, pair.now(pair.one))
    assert not pair.one.is_in_sync(pair.tick)
    assert pair.one.peers["gw2"].unsaid


def test_an_answer_that_a_full_disk_kept_back(pair):
    pair.lease(pair.one, A, ONE)
    pair.two.receive("gw1", pair.news(pair.one, pair.two), pair.now(pair.two), pair.tick)
    assert pair.tell(pair.one, pair.two, pair.news(pair.one, pair.two))
    assert not pair.one.peers["gw2"].unsaid
    # What it would have said is asked for.
    assert [each[0] for each in pair.news(pair.one, pair.two)["facts"]] == [A]
    # So it is with the answer to the beginning.
    pair.two.receive("gw1", pair.begin(pair.one, pair.two)[0], pair.now(pair.two), pair.tick)
    assert not pair.one.is_in_sync(pair.tick)
    pair.beat()
    assert pair.in_sync() == [True, True]


def test_a_node_serves_when_the_other_knows_and_does_not(pair):
    assert not pair.two.may_serve(pair.tick)
    pair.two.serves = True
    pair.beat()
    assert pair.two.may_serve(pair.tick)
    pair.one.serves = True
    pair.beat()
    assert pair.in_sync() == [False, False]
    assert not pair.one.may_serve(pair.tick)
    pair.two.serves = False
    pair.beat()
    pair.beat()
    assert pair.in_sync() == [True, True]
    assert pair.one.may_serve(pair.tick)
    assert not pair.two.may_serve(pair.tick)


def test_a_node_serves_beside_one_that_has_heard_of_it_for_long_enough(pair):
    pair.one.serves = pair.two.serves = True
    for _ in range(6):
        pair.beat()
        assert not pair.one.may_serve(pair.tick)
    for _ in range(3):
        pair.beat()
    assert pair.one.may_serve(pair.tick)
    # What it has heard before this node stopped counts no more.
    pair.one.serves = False
    message = pair.news(pair.one, pair.two)
    pair.one.serves = True
    assert not pair.one.may_serve(pair.tick)
    pair.tell(pair.one, pair.two, message)
    pair.beat()
    assert not pair.one.may_serve(pair.tick)


def test_a_node_serves_when_the_other_cannot_think_that_it_hears_it(pair):
    pair.tick += 0.5
    assert not pair.two.may_serve(pair.tick)
    pair.tick += 0.21
    assert pair.two.may_serve(pair.tick)


def test_who_has_just_started_may_have_been_heard_before():
    pair = Pair()
    pair.tick = 50.0
    assert not pair.one.may_serve(pair.tick)
    assert not pair.one.may_serve(pair.tick + 0.69)
    assert pair.one.may_serve(pair.tick + 0.71)
    pair.begin(pair.two, pair.one)
    assert pair.two.may_serve(pair.tick + 0.71)


def test_a_node_serves_as_its_peer_hears_until_all_is_told(pair):
    pair.one.serves = True
    for number in range(BATCH + 1):
        pair.lease(pair.one, f"10.78.{number // 250}.{number % 250}", Client(f"m{number}"))
    pair.one.serves = False
    assert pair.news(pair.one, pair.two)["serves"]
    assert not pair.news(pair.one, pair.two)["serves"]


def test_only_a_lease_holds():
    assert fact(until=100.0).holds(99.0)
    assert not fact(until=100.0).holds(100.0)
    assert fact(until=FOREVER).holds(100.0)
    assert not fact(None, until=FOREVER).holds(0.0)
    assert not fact(None, until=100.0).holds(0.0)


def test_a_full_exchange_is_cheap():
    """10,000 leases: less than half a second of each side (measured: 0.15 s)."""
    pair = Pair()
    for number in range(10_000):
        address = f"10.{number >> 8}.{number & 255}.1"
        pair.lease(pair.one, address, Client(f"m{number}"))
    start = time.process_time()
    for message in pair.begin(pair.one, pair.two):
        pair.tell(pair.one, pair.two, message)
    assert time.process_time() - start < 1.0
    assert len(pair.two.facts) == 10_000


def test_each_peer_has_to_agree():
    journal = Journal("gw1", ["gw2", "gw3"], Disk(), "gw1-1")
    other = Journal("gw2", ["gw1"], Disk(), "gw2-1")
    journal.serves = True
    journal.begin("gw3", "a", 10.0, 1.0)
    for source, target in ((journal, other), (other, journal)):
        for message in source.begin(target.node, "b", 10.0, 1.0):
            answer = target.receive(source.node, message, 10.0, 1.0)
            assert answer
            source.kept(target.node, answer, 10.0)
    assert other.is_in_sync(1.0)
    assert not journal.is_in_sync(1.0)
    assert not journal.may_serve(1.0)


def test_what_a_peer_has_heard_of_a_stream_before_counts_no_more(pair):
    pair.two.serves = True
    pair.beat()
    assert pair.two.may_serve(pair.tick)
    pair.begin(pair.two, pair.one)
    assert not pair.two.may_serve(pair.tick)


def test_an_identifier_is_no_hardware_address():
    """One that has the bytes of another machine's address is another client."""
    pair = Pair()
    forger = Client("02:00:00:00:00:09", ONE.mac)
    pair.lease(pair.one, A, ONE, 600)
    pair.lease(pair.one, B, forger, 6000)
    assert pair.one.kept_for(pair.now(pair.one)) == {A: ONE, B: forger}


def test_the_longest_message_is_a_line():
    """All clients have the longest identifier and name, and dnsmasq may give to two others."""
    longest = [Client("02:00:00:00:00:01", f"{number:02x}" + ":ff" * 254) for number in range(3)]
    pair = Pair()
    pair.one.serves = True
    for number in range(BATCH):
        address = f"10.77.{100 + number // 250}.{number % 250}"
        pair.one.lease(address, longest[0], 1e9, "a" * 255, 0.0)
        pair.one._behind[address] = longest[1:]
    (message,) = pair.begin(pair.one, pair.two)
    assert len(message["behind"]) == BATCH
    assert len(json.dumps(message)) + 100 < LONGEST_LINE


def test_what_a_peer_has_for_its_own_survives():
    """Also a full disk at the first try."""
    pair = Pair()
    pair.two.share = ["10.77.0.150,10.77.0.199"]
    assert pair.one.shares_of_peers() == []
    pair.connect()
    assert pair.one.shares_of_peers() == pair.two.share
    pair.two.share = ["10.77.0.160,10.77.0.199"]
    pair.disks["gw1"].full = True
    message = json.loads(json.dumps(pair.news(pair.two, pair.one)))
    pair.one.receive("gw2", message, 0.0, 0.0)
    with pytest.raises(OSError, match="space"):
        pair.one.save()
    assert pair.one.unsaved()
    pair.disks["gw1"].full = False
    pair.one.save()
    assert not pair.one.unsaved()
    assert pair.start("gw1").shares_of_peers() == pair.two.share


@pytest.mark.parametrize("time", [float("inf"), float("nan")])
def test_no_time_is_not_taken(time):
    """JSON of Python has such numbers; no line of a lease file can."""
    pair = Pair()
    pair.lease(pair.one, A, ONE)
    (message,) = pair.begin(pair.one, pair.two)
    message["facts"][0][2] = time
    with pytest.raises(ValueError, match="no time"):
        pair.tell(pair.one, pair.two, message)
    assert pair.two.facts == {}
