"""What the health monitor and the follower decide, asked by the thousand."""

import itertools
import os

import pytest
from deciders import PENALTIES, Deciders, word
from histories import BASES, Pair, play

pytestmark = pytest.mark.scripts

# A failing history is printed as a seed: HISTORIES_SEED=7 plays that one alone.
SEED = int(os.environ.get("HISTORIES_SEED", "0"))
COUNT = int(os.environ.get("HISTORIES", "1" if "HISTORIES_SEED" in os.environ else "10000"))


@pytest.fixture
def deciders(tmp_path):
    found = Deciders(tmp_path)
    yield found
    found.close()


def stories(seeds, deciders):
    """What happens in histories, line by line."""
    pairs = [Pair(seed) for seed in seeds]
    for pair in pairs:
        pair.story = []
    play(pairs, deciders)
    return ["\n".join(pair.story) for pair in pairs]


def test_histories(deciders):
    """Never are both down while one could; none without firewall rules is up; nothing moves without
    a reason; ten seconds after the last disturbance there is one master, the better one, and the
    hooks know it."""
    pairs = [Pair(seed) for seed in range(SEED, SEED + COUNT)]
    play(pairs, deciders)
    failed = [pair.seed for pair in pairs if pair.failure]
    if failed:
        [story] = stories(failed[:1], deciders)
        pytest.fail(f"{len(failed)} of {COUNT}; HISTORIES_SEED={failed[0]}\n{story}")


@pytest.mark.parametrize(
    ("broken", "failure"),
    [
        ("fault=254", "nobody has the virtual IP, and"),
        (
            "decide_drain() { is_forgotten=no; [ $is_drained = no ] || penalty=254; }",
            "nobody has the virtual IP, and",
        ),
        ("closed=16", "without firewall rules"),
        ("preempt_delay=1", "without a reason"),
        ("HEALTH_SERVICE_MISSES=1", "without a reason"),
        ("cold=0", "without a reason"),
        ("HEALTH_CONTEST_LIMIT=1000", "both have the virtual IP"),
        ("uplink=0", "the other one is better"),
        ("networks_counted=0", "the other one is better"),
        ("FOLLOW_CONTEST=100000", "outside, the address is"),
        ("decide_delay() { due[$1]=1000000; }", "the hooks of"),
        ("decide_calls() { calls=(); }", "know of ''"),
    ],
)
def test_a_broken_decision_shows(tmp_path, broken, failure):
    """So each of the sentences above can be false."""
    deciders = Deciders(tmp_path, broken)
    for seed in range(0, 3000, 200):
        pairs = [Pair(number) for number in range(seed, seed + 200)]
        play(pairs, deciders)
        if any(failure in pair.failure for pair in pairs):
            break
    else:
        pytest.fail("no history shows it")
    deciders.close()


def test_a_seed_reproduces_its_history(deciders):
    """Alone as among others."""
    found = stories(range(200), deciders)
    for seed in range(0, 200, 40):
        assert stories([seed], deciders) == [found[seed]]


def test_what_is_decided_depends_on_what_is_asked_alone(deciders):
    """Not on what was asked before."""
    for decider in (deciders.health, deciders.follow):
        decider.said = []
    play([Pair(seed) for seed in range(100)], deciders)
    for decider in (deciders.health, deciders.follow):
        said, decider.said = decider.said, None
        assert sum(len(rows) for _, _, rows, _ in said) > 2000
        for name, common, rows, answers in reversed(said):
            again = decider.ask(name, common, rows[::-1])
            assert ["|".join(words) + "\n" for words in again[::-1]] == answers


def test_the_first_difference_decides(deciders):
    """The order of docs/failover.md, for all pairs of states: drained, closed, fault, uplink, cold,
    and the place in the pillar. Without its rules a node is out, whatever else it is."""
    states = list(itertools.product((False, True), repeat=5))
    rows = [
        f"{word('is_drained', drained)} {word('is_closed', closed)} {word('is_cold', cold)}"
        f" faults=({'x' if fault else ''}) problems=({'x' if uplink else ''}) lost=0"
        for drained, closed, fault, uplink, cold in states
    ]
    penalties = [int(penalty) for [penalty] in deciders.health.ask("prepare", "", rows)]
    nodes = [
        ((drained, fault, uplink, cold, place), BASES[place] - penalty)
        for place in (0, 1)
        for (drained, closed, fault, uplink, cold), penalty in zip(states, penalties, strict=True)
        if not closed
    ]
    for (state, priority), (other, least) in itertools.permutations(nodes, 2):
        if state[:-1] != other[:-1] or state[-1] != other[-1]:
            assert (priority > least) == (state < other)
    assert all(
        penalty == 254 if closed else penalty <= sum(PENALTIES.values())
        for (_, closed, *_), penalty in zip(states, penalties, strict=True)
    )
