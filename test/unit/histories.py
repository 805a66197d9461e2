"""A pair of gateways, played: links, keepaliveds and what goes wrong are of the test; what monitors
and followers decide is asked of the real deciders.

Time goes in steps of half a second: an advert of keepalived, and a look of the monitor that has no
reason. Nothing of a history but its seed is by chance, so the seed alone reproduces it. All
histories take each step together, so that what many of them ask at that moment is asked once.
"""

from __future__ import annotations

import random
from collections import defaultdict

from deciders import (
    CLOSED,
    NETWORKS,
    NEW_WORKERS,
    NO_CONTEST,
    NO_REPORTS,
    PREEMPT,
    STEP,
    WORKERS,
    Decider,
    Deciders,
    Workers,
    losses,
    word,
)

# As in keepalived.conf.
BASES = (250, 249)
DOWN_ADVERTS = 3
STARTUP = 2  # steps in which a keepalived that starts says nothing
# How many steps what may last. Nobody has the virtual IP: until a peer has missed the adverts, and
# both its monitor and keepalived have looked.
NOBODY = 6
# Both have it and one hears the other: until a contest was too long, and one has stepped back.
BOTH = 9
# A node without firewall rules has it: until its monitor and keepalived have looked.
CLOSES = 1
# From a reason to the move; from a role to its hooks; from a contest to a call for reassertion.
REASON = 8
CALL = 5
REASSERTED = 12
# For so long, and more, somebody steps back who was not heard.
UNHEARD = 50
# After how many steps of misses something may be a fault: services are asked in every other one.
NOTICED = {"target": 2, "uplink target": 2, "service": 6, **dict.fromkeys(NETWORKS, 1)}
SURELY = 2  # steps later it is one
# A node that was frozen for longer has been away.
AWAY = 10
# After the last disturbance: until there is one master; to the end.
SETTLED = 20
QUIET = 25

# What can be wrong with a node for a while, and whether it may last to the end.
CONDITIONS = {
    "target": True,  # no host of the internal side answers
    "uplink target": True,
    "service": True,  # a unit of health:services does not run
    "carrier": True,
    "uplink carrier": True,
    "address": True,  # the node's own internal address is taken away
    "closed": True,  # its firewall rules are not in force
    "drained": True,
    "off": True,
    "deaf": True,  # it does not hear its peer
    "partition": False,
    "frozen": False,
    "api": False,  # what its hooks talk to is away
    **dict.fromkeys(NETWORKS, True),  # the node's cable to a further network
    "dead guest": True,  # the network is dead, on both
    "dead dmz": True,
}
# What a monitor sees in its next look.
AT_ONCE = {"carrier", "uplink carrier", "address", "closed", "drained", *NETWORKS}
WELL = (False, 0)
MOMENTS = ("the monitor restarts", "the follower restarts", "keepalived restarts", "the link flaps")


class Node:
    """A gateway: what is wrong with it, its keepalived, its monitor and its follower."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.base = BASES[number]
        self.wrong: dict[str, int] = {}  # and the step in which it began
        self.downs = 0
        self.seen_ill = 0  # the last step in which its monitor had a reason to take it for ill
        self.able_from = 0  # since then it can have the virtual IP
        # The last step in which what was before counts no more (a flap, or it was away), its peer
        # was the better one, it did not hear it, it heard that the peer is a master too.
        self.seen_anew = self.worse = self.deaf = self.contested = -99
        self.is_master = False
        self.penalty = 0
        self.look_around()

    def boot(self, step: int, penalty: int) -> None:
        """Nothing is known from before."""
        now = step * STEP
        self.is_master = False
        self.silent = 0
        self.looks_from = step
        self.speaks_from = step + STARTUP
        self.penalty = penalty
        self.health = (
            f"is_cold=yes since={now} was_holder=no last_downs={self.downs} last={now - STEP}"
            f" {losses(())}"
        )
        self.contest = NO_CONTEST
        self.workers: Workers = (NEW_WORKERS, *NO_REPORTS)
        self.follow = ""
        self.notes = " "  # the role, and since when
        self.wanted = self.told = ""
        self.call_ends = 0

    def look_around(self) -> None:
        """What the monitor finds at once."""
        wrong = self.wrong
        self.is_here = "off" not in wrong and "frozen" not in wrong
        self.is_ill = bool(wrong.keys() & AT_ONCE)
        self.hits = tuple(name not in wrong for _, name in WORKERS)
        self.facts = (
            f"internal_carrier={int('carrier' not in wrong)} downs={self.downs}"
            f" public_carrier={int('uplink carrier' not in wrong)}"
            f" internal_lost={'10.77.0.2' if 'address' in wrong else ''}"
            f" {word('is_closed', 'closed' in wrong)} {word('is_drained', 'drained' in wrong)}"
            f" link_reasons=({' '.join(f'[{name}]=lost' for name in NETWORKS if name in wrong)})"
        )

    def is_able(self, step: int) -> bool:
        """Whether it could have the virtual IP, well or not."""
        wrong = self.wrong
        return (
            self.is_here
            and step >= self.speaks_from
            and "carrier" not in wrong
            and "closed" not in wrong
        )

    def rank(self, step: int, peer: Node | None = None, faulty: bool = False) -> tuple[bool, int]:
        """The order of docs/failover.md, of what can have been noticed: the lower the better. A
        fault weighs more than an uplink, and as much as that a second network that is lost. What
        the peer has lost, too, makes no difference to it, whoever sees it first."""
        wrong = self.wrong
        if not wrong and not faulty:
            return WELL
        seen = {
            kind
            for kind, lag in NOTICED.items()
            if kind in wrong and step - max(wrong[kind], self.looks_from) >= lag
        }
        seen |= wrong.keys() & (peer.wrong.keys() if peer else ()) & set(NETWORKS)
        lost = len(seen & set(NETWORKS))
        is_faulty = (
            lost or faulty or wrong.keys() & {"address", "carrier"} or seen & {"target", "service"}
        )
        more = lost - 1 if lost > 1 and "drained" not in wrong else 0
        is_cut_off = "uplink carrier" in wrong or "uplink target" in seen
        return "drained" in wrong, 2 * bool(is_faulty) + is_cut_off + more


class Pair:
    """A history: what happens when, what came of it, and what of that should not be."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        chance = random.Random(seed)
        self.is_preempting = chance.random() < 0.75
        self.reassert = chance.choice((0, 4))
        self.settings = (
            f"{word('preempt', self.is_preempting)} patience=0",
            f"reassert={self.reassert} FOLLOW_RANDOM={chance.choice((0, 32767))}",
        )
        self.events: dict[int, list[tuple[str, int, bool]]] = defaultdict(list)
        self.last = 0
        self.invent(chance)
        self.end = self.last + QUIET
        self.nodes = Node(0), Node(1)
        # Whose it is in the world outside, by what the hooks have said, and since when.
        self.address, self.told = -1, 0
        self.holder = -1  # who had the virtual IP alone, last
        self.nobody = self.both = 0  # for so many steps
        # The last step in which both were master, one did not hear the other, the holder changed.
        self.clash = self.blind = self.moved = -99
        self.failure = ""
        self.story: list[str] | None = None

    def invent(self, chance: random.Random) -> None:
        free: dict[tuple[str, int], int] = defaultdict(int)
        step = chance.randrange(1, 16)
        for _ in range(chance.randint(1, 5)):
            number, kind = chance.randrange(2), chance.choice((*CONDITIONS, *MOMENTS))
            length = chance.choice((1, 2, 3, 5, 8, 13))
            if kind == "api":
                length = min(length, 5)
            is_lasting = CONDITIONS.get(kind) and chance.random() < 0.35
            affected = (0, 1) if kind == "partition" or kind.startswith("dead ") else (number,)
            kind = "deaf" if kind == "partition" else kind.removeprefix("dead ")
            # One of them sees it first, and another one, by chance, that it is back.
            late = chance.choice(((0, 0), (0, 1), (1, 0)))
            late_end = chance.choice(((0, 0), (0, 1), (1, 0)))
            if kind in MOMENTS:
                self.happens(step, kind, number, True)
            elif all(free[kind, each] <= step for each in affected):
                # Two that never hear each other have two masters for ever, as they should.
                is_lasting = is_lasting and not (kind == "deaf" and free[kind, 1 - number] > step)
                for each in affected:
                    is_dead = kind in NETWORKS and len(affected) == 2
                    begin = step + (late[each] if is_dead else 0)
                    end = step + length + (1 + late_end[each] if is_dead else 0)
                    self.happens(begin, kind, each, True)
                    free[kind, each] = 10**6 if is_lasting else end + 1
                    if not is_lasting:
                        self.happens(end, kind, each, False)
                if is_lasting and kind == "deaf":
                    free[kind, 1 - number] = 10**6
            step += chance.choice((0, 1, 2, 4, 8))

    def happens(self, step: int, kind: str, number: int, begins: bool) -> None:
        self.events[step].append((kind, number, begins))
        self.last = max(self.last, step)

    def disturb(self, step: int, deciders: Deciders) -> None:
        for kind, number, begins in self.events.get(step, ()):
            node = self.nodes[number]
            self.tell(step, f"gw{number + 1}: {kind}{'' if begins else ' no more'}")
            if kind in CONDITIONS:
                began = node.wrong.pop(kind, step)
                if begins:
                    node.wrong[kind] = step
                elif kind == "frozen" and step - max(began, node.looks_from) > AWAY:
                    node.seen_anew = step
                node.downs += kind == "carrier" and begins
                node.look_around()
            if kind == "deaf":
                self.both = 0
            elif kind == "off":
                penalty = deciders.prepare("drained" in node.wrong, "closed" in node.wrong)
                node.boot(step, penalty)
            elif kind == "frozen":
                node.looks_from = step
            elif kind == "the link flaps" and node.is_here:
                node.downs += 1
                node.seen_anew = step
                node.look_around()
            elif kind == "the monitor restarts":
                self.restart_monitor(node, step)
            elif kind == "the follower restarts":
                node.follow = ""
            elif kind == "keepalived restarts" and node.is_here:
                self.give_up(node)
                node.silent, node.speaks_from = 0, step + STARTUP

    def restart_monitor(self, node: Node, step: int) -> None:
        """It knows from before if the node was cold, since when, and with the virtual IP, and what
        its workers have reported."""
        warmth = " ".join(node.health.split()[:3])
        lost = losses(each for each in NETWORKS if each in node.wrong)
        node.health = f"{warmth} last_downs={node.downs} last={(step - 1) * STEP} {lost}"
        self.both = 0
        node.contest = NO_CONTEST
        node.workers = (NEW_WORKERS, *node.workers[1:])

    def tell(self, step: int, text: str) -> None:
        if self.story is not None:
            self.story.append(f"{step / 2:5.1f} s  {text}")

    # --- keepalived -------------------------------------------------------------------------------

    def hears(self, node: Node, peer: Node) -> bool:
        return (
            peer.is_here
            and "deaf" not in node.wrong
            and "carrier" not in node.wrong
            and "carrier" not in peer.wrong
        )

    def give_up(self, node: Node) -> None:
        """An advert of priority 0: who hears it takes over at once."""
        peer = self.nodes[1 - node.number]
        if node.is_master and self.hears(peer, node):
            peer.silent = DOWN_ADVERTS
        node.is_master = False

    def elect(self, step: int) -> list[Node]:
        """A step of both keepaliveds; who has heard an advert of a lower priority as a master."""
        first, second = self.nodes
        if first.base - first.penalty < second.base - second.penalty:
            first, second = second, first
        spoke = {first: first.is_master, second: second.is_master}
        contested = []
        for node, peer in ((first, second), (second, first)):
            if not node.is_here:
                continue
            if step < node.speaks_from or "carrier" in node.wrong or node.penalty >= CLOSED:
                self.give_up(node)
                node.silent = 0
                continue
            is_heard = spoke[peer] and self.hears(node, peer)
            if is_heard and node is second:
                node.is_master = False
                node.silent = 0
            elif node.is_master:
                if is_heard:
                    contested.append(node)
            else:
                node.silent += 1
                if node.silent >= DOWN_ADVERTS:
                    node.is_master = spoke[node] = True
                    node.silent = 0
        return contested

    # --- what should not be -----------------------------------------------------------------------

    def fail(self, step: int, text: str) -> None:
        if not self.failure:
            self.failure = f"at {step / 2} s: {text}"
            self.tell(step, text)

    def look(self, step: int) -> None:
        holders = [node for node in self.nodes if node.is_master and node.is_here]
        for node, peer in (self.nodes, self.nodes[::-1]):
            if not node.is_able(step):
                node.able_from = step + 1
            if (node.wrong or peer.wrong) and node.rank(step, peer) > peer.rank(step, node):
                node.worse = step
            if "deaf" in node.wrong:
                node.deaf = step
            if "deaf" in node.wrong or "frozen" in node.wrong:
                self.blind = step
        self.nobody = 0 if holders else self.nobody + 1
        self.both = self.both + 1 if len(holders) == 2 and not self.is_excused(step) else 0
        for node in holders:
            if step - max(node.wrong.get("closed", step), node.looks_from) > CLOSES:
                self.fail(step, f"gw{node.number + 1} has the virtual IP without firewall rules")
        is_deaf = any("deaf" in node.wrong for node in self.nodes)
        if len(holders) == 2 and not is_deaf and step - self.last >= SETTLED:
            self.fail(step, "both are still master")
        if self.nobody > NOBODY:
            for node in self.nodes:
                if step - node.able_from >= self.nobody:
                    self.fail(step, f"nobody has the virtual IP, and gw{node.number + 1} could")
        if self.both > BOTH:
            self.fail(step, "both have the virtual IP")
        if len(holders) == 1:
            if self.holder != holders[0].number:
                self.tell(step, f"gw{holders[0].number + 1} has the virtual IP")
                if self.holder >= 0:
                    self.judge_move(step, self.nodes[self.holder], holders[0])
                self.moved = step
            self.holder = holders[0].number
        if all(node.is_master for node in self.nodes):
            self.clash = step
        for node in self.nodes:
            is_ill = node.is_master or node.is_ill or node.seen_anew == step
            is_ill = is_ill or any(node.rank(step - SURELY))
            if "off" in node.wrong or (node.is_here and is_ill):
                node.seen_ill = step

    def is_excused(self, step: int) -> bool:
        """Two masters that do not hear each other; or one that is not heard has stepped back, as
        far as a fault goes, and is the better one still."""
        silent = [node for node in self.nodes if "deaf" in node.wrong]
        if len(silent) != 1:
            return bool(silent)
        [deaf] = silent
        unheard = self.nodes[1 - deaf.number]
        rank = unheard.rank(step, faulty=True)
        return (*rank, -unheard.base) < (*deaf.rank(step), -deaf.base)

    def judge_move(self, step: int, before: Node, after: Node) -> None:
        """It was not able to have it; or was the worse one, or was not heard; or both had it, which
        one ends; or the one of the higher priority is back, and has been well for long enough."""
        warm = step - after.seen_ill - DOWN_ADVERTS
        is_back = self.is_preempting and after.base > before.base and warm >= PREEMPT
        reason = max(before.able_from, before.worse, self.clash)
        is_unheard = step - after.deaf < UNHEARD
        if not is_back and not is_unheard and step - reason > REASON:
            self.fail(step, f"it has moved to gw{after.number + 1} without a reason")

    def look_at_the_end(self, step: int) -> None:
        holders = [node for node in self.nodes if node.is_master and node.is_here]
        # Who was not heard steps back for long, and then tries again.
        if step - max(self.moved, self.clash) < CALL:
            return
        for node in self.nodes:
            role = "primary" if node.is_master else "secondary"
            if node.is_here and node.told.partition(" ")[0] != role:
                self.fail(step, f"the hooks of gw{node.number + 1}, {role}, know of {node.told!r}")
        if len(holders) == 1:
            self.judge_holder(step, holders[0], self.nodes[1 - holders[0].number])

    def judge_holder(self, step: int, holder: Node, peer: Node) -> None:
        # Who has heard nothing of its peer since does not know that it told the world otherwise.
        is_told = (
            self.blind < 0
            or holder.contested >= self.told
            or (self.reassert and step - self.clash > REASSERTED)
        )
        if self.address != holder.number and is_told:
            self.fail(step, f"outside, the address is gw{self.address + 1}'s")
        # Who was not heard may step back for longer than this.
        if self.blind >= 0 or not peer.is_able(step):
            return
        rank, other = holder.rank(step), peer.rank(step)
        if rank > other:
            self.fail(step, "the other one is better")
        if self.is_preempting and other == WELL and rank == other and peer.base > holder.base:
            self.fail(step, "the other one has been well for long enough")


def play(pairs: list[Pair], deciders: Deciders) -> None:
    """All of them to their ends."""
    for pair in pairs:
        for node in pair.nodes:
            node.boot(0, deciders.prepare(False, False))
    step = 0
    running = pairs
    while running:
        contested = []
        for pair in running:
            if step in pair.events:
                pair.disturb(step, deciders)
            contested += [(pair, node) for node in pair.elect(step)]
        settle_contests(step, contested, deciders)
        decide_health(step, running, deciders)
        decide_follow(step, running, {node for _, node in contested}, deciders)
        for pair in running:
            pair.look(step)
            if step >= pair.end:
                pair.look_at_the_end(step)
        running = [pair for pair in running if step < pair.end and not pair.failure]
        step += 1


def answered(
    decider: Decider, name: str, common: str, wanted: list[tuple[Node, str]]
) -> list[tuple[Node, list[str]]]:
    """Each node with its answer; what is equal is asked once."""
    rows = list(dict.fromkeys(row for _, row in wanted))
    answers = dict(zip(rows, decider.ask(name, common, rows), strict=True))
    return [(node, answers[row]) for node, row in wanted]


def settle_contests(step: int, contested: list[tuple[Pair, Node]], deciders: Deciders) -> None:
    """What the monitor makes of keepalived's lines, since its last look."""
    wanted = [(node, f"{node.health} {node.contest}") for _, node in contested]
    for node, [state] in answered(deciders.health, "contest", f"now={step * STEP}", wanted):
        node.contest, node.contested = state, step


def decide_health(step: int, pairs: list[Pair], deciders: Deciders) -> None:
    wanted = []
    for pair in pairs:
        for node in pair.nodes:
            if not node.is_here:
                continue
            node.workers = deciders.work(node.workers, node.hits, step % 2 == 0)
            row = (
                f"{node.health} {node.contest} {pair.settings[0]} {node.facts} {node.workers[2]}"
                f" holder={'yes' if node.is_master else 'no'}"
            )
            wanted.append((node, row))
    for node, [state, penalty] in answered(deciders.health, "decide", f"now={step * STEP}", wanted):
        node.health, node.penalty = state, int(penalty)


def decide_follow(step: int, pairs: list[Pair], contested: set[Node], deciders: Deciders) -> None:
    wanted = []
    for pair in pairs:
        for node in pair.nodes:
            if not node.is_here:
                continue
            if node.call_ends == step and "api" not in node.wrong and node.wanted:
                end_call(step, pair, node)
            if not node.follow:
                node.follow = deciders.begin(node.notes)
            row = (
                f"{node.follow} found={'primary' if node.is_master else 'secondary'}"
                f" heard={'yes' if node in contested else 'no'} {pair.settings[1]}"
                f" told[hooks]='{node.told}'"
            )
            wanted.append((node, row))
    common = f"uptime={step * STEP} wall={step * STEP}"
    for node, [state, notes, asked, calls] in answered(deciders.follow, "decide", common, wanted):
        node.follow, node.notes, node.wanted = state, notes, f"{notes} {asked}"
        if calls and node.call_ends <= step:
            node.call_ends = step + 1


def end_call(step: int, pair: Pair, node: Node) -> None:
    """What follow-tell does: the hooks hear of the role if kernel and follower agree on it."""
    role = "primary" if node.is_master else "secondary"
    if node.notes.partition(" ")[0] == role:
        node.told = node.wanted
        if node.is_master:
            pair.address, pair.told = node.number, step
