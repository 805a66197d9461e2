"""The journal of leases: what a model of it (`test_leases.py`) cannot see, or not every time."""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "gateway/leases/files"))

import pytest
from lease_journal import BATCH, FOREVER, WRITER, Client, Fact, Journal, knows, newer
from lease_site import Disk

A, B, C, D = (f"10.77.0.{last}" for last in (100, 101, 102, 103))
ONE, TWO = Client("02:00:00:00:00:01"), Client("02:00:00:00:00:02", "01:02")


class Pair:
    """Two journals; the other's clock is an hour ahead. What they say goes through JSON."""

    def __init__(self):
        self.disks = {"gw1": Disk(), "gw2": Disk()}
        self.streams = 0
        self.tick = 0.0
        self.one, self.two = self.start("gw1"), self.start("gw2")

    def start(self, name):
        other = "gw2" if name == "gw1" else "gw1"
        self.streams += 1
        return Journal(name, [other], self.disks[name], f"{name}-{self.streams}")

    def now(self, journal):
        return 1000.0 + self.tick + (3600.0 if journal.node == "gw2" else 0.0)

    def lease(self, journal, address, client, seconds=600.0, name="", is_new=False):
        now = self.now(journal)
        until = FOREVER if seconds == FOREVER else now + seconds
        journal.lease(address, client, until, name, now, is_new)

    def end(self, journal, address, ended=None):
        journal.end(address, self.now(journal), ended)

    def tell(self, source, target, message):
        """It is heard, kept and answered; return the answer."""
        message = json.loads(json.dumps(message))
        now = self.now(target)
        answer = target.receive(source.node, message, now, self.tick)
        target.save()
        if answer is not None:
            answer = json.loads(json.dumps(answer))
            source.kept(target.node, answer, self.now(source))
            source.save()
        return answer

    def begin(self, source, target):
        self.streams += 1
        stream = f"stream {self.streams}"
        return source.begin(target.node, stream, self.now(source), self.tick)

    def news(self, source, target):
        return source.news(target.node, self.now(source), self.tick)

    def connect(self):
        for source, target in ((self.one, self.two), (self.two, self.one)):
            for message in self.begin(source, target):
                self.tell(source, target, message)

    def beat(self, seconds=0.1):
        self.tick += seconds
        for source, target in ((self.one, self.two), (self.two, self.one)):
            self.tell(source, target, self.news(source, target))

    def leases(self, journal):
        return {fact.address: fact.client for fact in journal.leases(self.now(journal))}

    def in_sync(self):
        return [journal.is_in_sync(self.tick) for journal in (self.one, self.two)]


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


def test_no_lease_gets_shorter_and_a_name_stays(pair):
    pair.lease(pair.one, A, ONE, 600.0, "laptop")
    pair.beat()
    version = pair.one.facts[A].version
    pair.lease(pair.one, A, ONE, 600.8)
    pair.lease(pair.one, A, ONE, 300.0)
    assert pair.one.facts[A].version == version
    pair.lease(pair.one, A, ONE, 300.0, "phone")
    held = pair.one.facts[A]
    assert (held.name, held.until, held.version) != ("phone", 1600.0, version)
    assert (held.name, held.until) == ("phone", 1600.0)
    pair.lease(pair.one, A, ONE, 700.0)
    pair.tick += 50
    pair.lease(pair.one, A, ONE, FOREVER)
    held = pair.one.facts[A]
    assert (held.name, held.until, held.since) == ("phone", FOREVER, 1000.0)
    pair.lease(pair.one, A, ONE, 700.0)
    assert pair.one.facts[A].until == FOREVER
    # Another client's is another lease.
    pair.lease(pair.one, A, TWO, 10.0)
    held = pair.one.facts[A]
    assert (held.client, held.name, held.until, held.since) == (TWO, "", 1060.1, 1050.1)


def test_a_new_lease_is_told_also_where_it_is_as_before(pair):
    pair.lease(pair.one, A, ONE)
    pair.beat()
    pair.lease(pair.two, A, ONE, is_new=True)
    pair.end(pair.one, A)
    pair.beat()
    pair.beat()
    assert pair.leases(pair.one) == pair.leases(pair.two) == {A: ONE}


def test_a_lease_ends(pair):
    pair.lease(pair.one, A, ONE)
    pair.lease(pair.one, B, ONE)
    pair.lease(pair.one, C, ONE, FOREVER)
    pair.beat()
    for address in (A, C):
        pair.end(pair.one, address, 1000.0)  # as dnsmasq knows that it ended; it was renewed since
    assert pair.leases(pair.one) == {A: ONE, B: ONE, C: ONE}
    pair.end(pair.one, A, 1600.0)
    pair.end(pair.one, B)
    pair.end(pair.one, C)
    pair.end(pair.one, D)
    assert pair.leases(pair.one) == {}
    assert D not in pair.one.facts
    pair.beat()
    assert pair.leases(pair.two) == {}
    # Of what everybody knows to be free nothing is kept.
    pair.beat()
    assert pair.one.facts == pair.two.facts == {}
    assert {*pair.disks["gw1"].kept, *pair.disks["gw2"].kept} == {WRITER}


def test_nobody_gets_what_a_peer_may_believe_to_be_somebody_s(pair):
    pair.lease(pair.one, A, ONE)
    pair.lease(pair.one, B, TWO, 100.0)
    pair.beat()
    pair.end(pair.one, A)
    pair.lease(pair.one, C, TWO)
    pair.one.save()
    assert pair.one.kept_for(pair.now(pair.one)) == {A: None, B: None, C: TWO}
    pair.tick += 200
    assert pair.one.kept_for(pair.now(pair.one)) == {A: None, B: None, C: TWO}
    # Nor after a start.
    pair.one = pair.start("gw1")
    assert pair.one.kept_for(pair.now(pair.one)) == {A: None, B: None, C: TWO}
    pair.connect()
    pair.beat()
    assert pair.one.kept_for(pair.now(pair.one)) == {B: None, C: TWO}
    assert pair.two.kept_for(pair.now(pair.two)) == {B: None, C: TWO}


def test_of_a_client_s_two_leases_the_later_one_counts(pair):
    pair.lease(pair.one, A, ONE, 600.0)
    pair.lease(pair.one, B, ONE, 500.0)
    pair.lease(pair.one, C, TWO, FOREVER)
    assert [*pair.leases(pair.one)] == [B, A, C]
    assert pair.one.kept_for(pair.now(pair.one)) == {A: ONE, B: None, C: TWO}


def test_what_dnsmasq_does_not_know_is_to_be_said_again(pair):
    pair.lease(pair.one, A, ONE)
    pair.beat()
    pair.two.serves, pair.two.is_news = True, False
    pair.end(pair.one, A)
    message = pair.news(pair.one, pair.two)
    assert pair.tell(pair.one, pair.two, message)["again"] == [A]
    assert pair.two.is_news
    assert pair.one.peers["gw2"].believes == {A: [ONE]}
    assert not pair.one.peers["gw2"].fresh
    # Its dnsmasq stops, or starts anew.
    pair.two.is_news = False
    pair.beat()
    assert pair.one.peers["gw2"].believes == {}


def test_a_release_that_dnsmasq_says_without_knowing_the_last_lease(pair):
    pair.two.serves = True
    pair.lease(pair.one, A, ONE)
    pair.beat()
    pair.end(pair.two, A)
    assert pair.leases(pair.two) == {A: ONE}
    pair.two.is_news = False
    pair.end(pair.two, A)
    assert pair.leases(pair.two) == {}


def test_dnsmasq_goes_on_giving_as_it_was_ordered(pair):
    pair.lease(pair.one, A, ONE)
    pair.beat()
    pair.one.serves, pair.one.is_news = True, False
    pair.one.kept_for(pair.now(pair.one))
    pair.end(pair.one, A)
    message = pair.news(pair.one, pair.two)
    assert message["behind"] == {A: [[ONE.mac, ""]]}
    pair.tell(pair.one, pair.two, message)
    assert pair.two.kept_for(pair.now(pair.two)) == {A: None}
    # Also one that has never heard of it.
    pair.disks["gw2"] = Disk()
    pair.two = pair.start("gw2")
    pair.connect()
    assert pair.two.kept_for(pair.now(pair.two)) == {A: None}
    pair.one.is_news = False
    pair.beat()
    assert pair.two.kept_for(pair.now(pair.two)) == {}
    pair.beat()
    assert pair.one.facts == pair.two.facts == {}


def test_a_client_that_gets_another_address_than_ordered_needs_other_orders(pair):
    pair.lease(pair.one, A, ONE)
    pair.one.serves, pair.one.is_news = True, False
    pair.one.kept_for(pair.now(pair.one))
    pair.lease(pair.one, A, ONE, 700.0)
    assert not pair.one.is_news
    pair.lease(pair.one, B, ONE)
    assert pair.one.is_news


def test_a_daemon_that_starts_beside_dnsmasq_says_what_is_not_sure(pair):
    pair.lease(pair.one, A, ONE)
    pair.one.save()
    pair.one = pair.start("gw1")
    pair.one.serves = pair.one.is_news = True
    assert pair.begin(pair.one, pair.two)[0]["behind"] == {A: []}
    pair.one.is_news = False
    assert pair.begin(pair.one, pair.two)[0]["behind"] == {}


def test_no_count_is_used_twice():
    pair = Pair()
    pair.lease(pair.one, A, ONE)
    pair.one.save()
    pair.disks["gw1"].full = True
    pair.lease(pair.one, A, TWO)
    told = pair.one.facts[A].version
    with pytest.raises(OSError, match="space"):
        pair.one.save()
    assert pair.one.unsaved() == {A}
    # Who starts with a full disk is another writer.
    for is_full in (True, True, False):
        pair.disks["gw1"].full = is_full
        pair.one = pair.start("gw1")
        assert pair.leases(pair.one) == {A: ONE}
        pair.lease(pair.one, A, ONE, 700.0)
        new = pair.one.facts[A].version
        assert not knows(told, new)
        assert new != told
        told = new


def test_what_was_not_kept_is_still_to_be_kept():
    pair = Pair()
    pair.lease(pair.one, A, ONE)
    texts = pair.one.collect()
    assert {*texts} == {A, WRITER}
    assert pair.one.unsaved() == set()
    pair.one.not_saved(texts)
    assert pair.one.unsaved() == {A}
    pair.one.save()
    assert pair.leases(pair.start("gw1")) == {A: ONE}


def test_what_a_peer_knows_better_comes_with_the_answer(pair):
    pair.lease(pair.one, A, ONE)
    pair.beat()
    pair.lease(pair.two, A, ONE, 900.0)
    pair.lease(pair.one, A, ONE, 700.0)
    pair.end(pair.one, A)
    answer = pair.tell(pair.one, pair.two, pair.news(pair.one, pair.two))
    assert [each[:2] for each in answer["better"]] == [[A, [ONE.mac, ""]]]
    assert pair.leases(pair.one) == {A: ONE}
    assert pair.one.facts[A].until == 1000.1 + 900.0
    pair.beat()
    pair.beat()
    assert pair.one.facts[A].version == pair.two.facts[A].version
    assert pair.one.peers["gw2"].believes == pair.two.peers["gw1"].believes == {A: [ONE]}


def test_a_late_answer_does_not_bring_a_belief_back(pair):
    pair.lease(pair.one, A, ONE)
    message = pair.news(pair.one, pair.two)
    answer = pair.two.receive("gw1", message, pair.now(pair.two), pair.tick)
    pair.two.save()
    pair.end(pair.two, A)
    pair.tell(pair.two, pair.one, pair.news(pair.two, pair.one))
    pair.one.kept("gw2", answer, pair.now(pair.one))
    pair.beat()
    pair.beat()
    assert pair.one.kept_for(pair.now(pair.one)) == {}


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


def test_what_a_peer_may_believe_survives():
    pair = Pair()
    pair.lease(pair.one, A, ONE)
    pair.one.save()
    pair.begin(pair.one, pair.two)
    assert pair.one.unsaved() == {A}
    pair.one.save()
    pair.one = pair.start("gw1")
    pair.end(pair.one, A)
    assert pair.one.kept_for(pair.now(pair.one)) == {A: None}
    # Also what it has told itself, and not any longer than that.
    pair = Pair()
    pair.lease(pair.one, A, ONE)
    pair.connect()
    pair.two.save()
    pair.two = pair.start("gw2")
    pair.end(pair.two, A)
    assert pair.two.kept_for(pair.now(pair.two)) == {A: None}
    pair.connect()
    pair.beat()
    assert pair.one.unsaved() == pair.two.unsaved() == set()
    assert {*pair.disks["gw1"].kept, *pair.disks["gw2"].kept} == {WRITER}


def test_nothing_is_written_for_what_both_know(pair):
    pair.lease(pair.one, A, ONE)
    pair.beat()
    messages = pair.begin(pair.one, pair.two)
    assert pair.one.unsaved() == set()
    answer = pair.two.receive("gw1", messages[0], pair.now(pair.two), pair.tick)
    assert pair.two.unsaved() == set()
    pair.one.kept("gw2", answer, pair.now(pair.one))
    assert pair.one.unsaved() == set()


def test_only_a_lease_holds():
    assert fact(until=100.0).holds(99.0)
    assert not fact(until=100.0).holds(100.0)
    assert fact(until=FOREVER).holds(100.0)
    assert not fact(None, until=FOREVER).holds(0.0)
    assert not fact(None, until=100.0).holds(0.0)


def test_what_a_peer_has_heard_of_a_stream_before_counts_no_more(pair):
    pair.two.serves = True
    pair.beat()
    assert pair.two.may_serve(pair.tick)
    pair.begin(pair.two, pair.one)
    assert not pair.two.may_serve(pair.tick)


def test_each_peer_has_to_agree():
    journal = Journal("gw1", ["gw2", "gw3"], Disk(), "gw1-1")
    other = Journal("gw2", ["gw1"], Disk(), "gw2-1")
    journal.serves = True
    journal.begin("gw3", "a", 10.0, 1.0)
    for source, target in ((journal, other), (other, journal)):
        for message in source.begin(target.node, "b", 10.0, 1.0):
            answer = target.receive(source.node, message, 10.0, 1.0)
            source.kept(target.node, answer, 10.0)
    assert other.is_in_sync(1.0)
    assert not journal.is_in_sync(1.0)
    assert not journal.may_serve(1.0)


def test_dnsmasq_says_the_same_once_more():
    pair = Pair()
    pair.one.lease(A, ONE, 1600.0, "", 1000.0)
    version = pair.one.facts[A].version
    pair.one.lease(A, ONE, 1600.0, "", 1000.0)
    assert pair.one.facts[A].version == version


def test_another_client_that_dnsmasq_does_not_know_is_to_be_said_again(pair):
    pair.lease(pair.one, A, ONE)
    pair.beat()
    pair.two.serves, pair.two.is_news = True, False
    pair.lease(pair.one, A, TWO)
    pair.beat()
    assert pair.one.peers["gw2"].believes == {A: [ONE, TWO]}
    pair.beat()
    assert pair.one.peers["gw2"].believes == {A: [ONE, TWO]}
    pair.two.is_news = False
    pair.beat()
    assert pair.one.peers["gw2"].believes == {A: [TWO]}
    assert pair.news(pair.one, pair.two)["facts"] == []


def test_who_told_something_older_may_believe_it_or_what_is_newer():
    pair = Pair()
    pair.lease(pair.two, A, ONE)
    for message in pair.begin(pair.two, pair.one):
        pair.tell(pair.two, pair.one, message)
    pair.lease(pair.two, A, TWO)
    message = pair.begin(pair.one, pair.two)[0]
    answer = pair.two.receive("gw1", message, pair.now(pair.two), pair.tick)
    assert [each[0] for each in answer["better"]] == [A]
    assert {each.key for each in pair.two.peers["gw1"].believes[A]} == {ONE.key, TWO.key}


def test_two_that_did_not_know_of_each_other_agree_when_they_hear_each_other():
    pair = Pair()
    pair.lease(pair.one, A, ONE, 700.0)
    pair.lease(pair.two, A, TWO, 900.0)
    pair.connect()
    pair.beat()
    pair.beat()
    assert pair.leases(pair.one) == pair.leases(pair.two) == {A: TWO}
    assert pair.one.facts[A].version == pair.two.facts[A].version
    assert pair.one.peers["gw2"].believes == pair.two.peers["gw1"].believes == {A: [TWO]}
