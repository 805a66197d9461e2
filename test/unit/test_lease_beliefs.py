"""The journal of leases: what ends when, what a peer may believe, and what the disk has of it."""

import pytest
from lease_facts import FOREVER, knows
from lease_journal import WRITER
from lease_pair import ONE, TWO, A, B, C, D, Pair
from lease_site import Disk


@pytest.fixture
def pair():
    pair = Pair()
    pair.connect()
    return pair


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
    assert answer
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
    assert answer
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
