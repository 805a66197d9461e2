"""A site with two nodes that give addresses, a network and a clock: all simulated but the journal
of leases, which is the real one."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from lease_facts import Client
from lease_journal import Journal, Message

POOL = [f"10.77.0.{last}" for last in range(100, 108)]
SHARES = {"gw1": POOL[:4], "gw2": POOL[4:]}
NODES = ("gw1", "gw2")
MACHINES = 9
LEASE = 600.0
STEP = 0.05
BEAT = 0.1  # the daemon looks so often after dnsmasq
PATIENCE = 1.0  # without an answer for so long a stream begins again
WAIT = 5.0  # a node that has the virtual IP waits so long for its peer
RARE = ("crash", "daemon", "parted", "lossy", "full", "disk")


class Disk:
    """What a power cut leaves is what was committed. A full one refuses."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.full = False

    def load(self) -> dict[str, str]:
        return dict(self.kept)

    def write(self, texts: dict[str, str | None]) -> None:
        if self.full:
            raise OSError("no space left on device")
        for name, text in texts.items():
            if text is None:
                self.kept.pop(name, None)
            else:
                self.kept[name] = text


@dataclass
class Grant:
    """What a machine was given last."""

    node: str
    address: str
    tick: float
    in_sync: bool  # its server gave of all shares
    idle: float = 0.0  # seconds since somebody gave the address back
    told: bool = False  # the other node has kept it
    cause: str = ""  # the corner in which it was lost
    is_hasty: bool = False  # the other node gave it another address within the last second
    is_shared: bool = False  # another machine has it


@dataclass
class Machine:
    """A client, and the address that it takes for its own until a moment of true time."""

    name: str
    side: str = "gw1"
    address: str = ""
    until: float = 0.0
    known: str = ""  # the address that it had last, which it may ask for again
    grant: Grant | None = None

    @property
    def client(self) -> Client:
        return Client(self.name)


@dataclass
class Server:
    """dnsmasq: its leases (client and end by its clock), and what it was told when it started."""

    in_sync: bool
    life: int  # of the daemon that gave the orders
    leases: dict[str, tuple[str, float]] = field(default_factory=dict)
    lines: dict[str, Client | None] = field(default_factory=dict)
    declined: dict[str, float] = field(default_factory=dict)  # until (its clock)
    forgot: dict[str, str] = field(default_factory=dict)  # what the node did not know at its start

    def lease_of(self, name: str) -> str:
        """The later one of two, as dnsmasq finds them."""
        return next((a for a, (who, _) in reversed(self.leases.items()) if who == name), "")

    def line_of(self, name: str, now: float) -> str:
        for address, client in self.lines.items():
            if client and client.mac == name and self.declined.get(address, 0) <= now:
                return address
        return ""


class Node:
    """One gateway with the real journal."""

    def __init__(self, name: str, offset: float) -> None:
        self.name, self.offset, self.disk = name, offset, Disk()
        self.peer = "gw2" if name == "gw1" else "gw1"
        self.lives = 0
        self.is_up = False
        self.journal: Journal | None = None
        self.server: Server | None = None
        # What dnsmasq's script has still to say: when it arrives, and what.
        self.events: list[tuple[float, str, str, str, float]] = []
        self.streams = 0
        self.sent = 0.0
        self.is_cut = False
        self.wants: float | None = None  # since when it waits to serve
        self.due: float | None = None  # when dnsmasq gets other orders
        self.answered = float("-inf")  # when it last said to have kept something
        self.forgot: dict[str, str] = {}  # addresses of which it does not know, and why


class Site:
    """Two nodes, each with a journal and dnsmasq, and the network between them."""

    def __init__(self, seed: int, rare: tuple[str, ...] | None = None) -> None:
        self.random = random.Random(seed)
        if rare is None:
            some = self.random.choice((0, 1, 1, 2, 3, len(RARE)))
            rare = tuple(self.random.sample(RARE, some))
        self.rare = rare
        self.time = 1_000_000.0
        self.tick = 1_000.0
        offset = self.random.choice((0, 3600, -3600))
        self.nodes = {n: Node(n, o) for n, o in zip(NODES, (0, offset), strict=True)}
        self.both = list(self.nodes.values())
        self.machines = [Machine(f"02:00:00:00:00:{n:02x}") for n in range(MACHINES)]
        self.by_name = {machine.name: machine for machine in self.machines}
        self.parted = self.split = self.lossy = False
        self.drained = ""
        self.is_well = False  # nothing fails any more
        self.repairs: list[tuple[int, str, str]] = []  # after which act, what, where
        self.acts = 0
        self.wires: list[tuple[str, str, Message]] = []  # to, kind, message
        # What a server that gave of all shares has given, until the other node knows: by node,
        # address, machine.
        self.untold: dict[tuple[str, str, str], Grant] = {}
        self.freed: dict[str, float] = {}  # when an address was given back
        self.collisions: list[str] = []
        self.refused: list[str] = []
        self.excused: Counter[str] = Counter()
        self.given = {True: 0, False: 0}
        self.events: Counter[str] = Counter()
        self.history: list[str] = []
        for node in self.both:
            self.boot(node)

    def note(self, text: str) -> None:
        self.history.append(f"{self.tick:.2f} {text}")

    # --- time ---------------------------------------------------------------------------------

    def now(self, node: Node) -> float:
        return self.time + node.offset

    def pass_time(self, seconds: float) -> None:
        self.time += seconds
        self.tick += seconds
        for node in self.both:
            if node.journal:
                self.listen(node)
            if node.server:
                self.expire(node)
            self.serve(node)
            if node.journal:
                self.talk(node)
        self.deliver()

    # --- dnsmasq on a node --------------------------------------------------------------------

    def holds(self, node: Node) -> bool:
        """Whether it has the virtual IP: the primary, or who does not hear it."""
        if self.parted or self.split:
            return node.is_up
        first = "gw2" if self.drained == "gw1" else "gw1"
        return node.is_up and (node.name == first or not self.nodes[node.peer].is_up)

    def serve(self, node: Node) -> None:
        """As the daemon does: start dnsmasq, stop it, or start it anew with other orders."""
        journal = node.journal
        if not self.holds(node):
            if node.server:
                self.stop(node)
            node.wants = None
            if journal:
                journal.serves = False
            return
        if not journal:
            return
        journal.serves = True
        server = node.server
        if server:
            in_sync = journal.is_in_sync(self.tick)
            if server.in_sync == in_sync and not journal.is_news:
                node.due = None
            elif node.due is None:
                node.due = self.tick + self.random.random() * BEAT
            elif self.tick >= node.due:
                self.stop(node)
        if node.server is None:
            node.wants = self.tick if node.wants is None else node.wants
            if journal.may_serve(self.tick) or self.tick - node.wants > WAIT:
                self.start(node)
        elif not node.server.in_sync and node.server.life == node.lives:
            # It is told more while it runs, and forgets nothing.
            node.server.lines = {**journal.kept_for(self.now(node)), **node.server.lines}

    def start(self, node: Node) -> None:
        journal, now = node.journal, self.now(node)
        assert journal
        node.wants = node.due = None
        in_sync = journal.is_in_sync(self.tick)
        journal.is_news = False
        server = node.server = Server(in_sync, node.lives)
        server.forgot = dict(node.forgot)
        self.events[f"start, in sync: {in_sync}"] += 1
        if not in_sync:
            server.lines = journal.kept_for(now)
            return
        for fact in list(journal.facts.values()):
            if fact.client and not fact.holds(now):
                journal.end(fact.address, now)
        for fact in journal.leases(now):
            assert fact.client
            server.leases[fact.address] = fact.client.mac, fact.until

    def stop(self, node: Node) -> None:
        """All that its script has to say is said before it is gone, if somebody listens."""
        if node.journal:
            for event in node.events:
                self.hear_event(node, *event[1:])
            self.save(node)
        else:
            self.lose(node)
        node.events = []
        node.server = node.due = None

    def lose(self, node: Node) -> None:
        """Nobody will ever hear what its script has to say."""
        for _, kind, address, name, _ in node.events:
            grant = self.by_name[name].grant
            if (
                kind in ("add", "lease")
                and grant
                and grant.address == address
                and grant.node == node.name
            ):
                grant.cause = grant.cause or "last moment"
            elif kind == "release":
                node.forgot.setdefault(address, "last moment")

    def say(self, node: Node, kind: str, address: str, name: str, until: float = 0.0) -> None:
        """dnsmasq calls its script, one call after another."""
        late = self.random.choice((0.0, 0.0, 0.0, 0.02, 0.02, 0.3))
        before = node.events[-1][0] if node.events else 0.0
        node.events.append((max(before, self.tick + late), kind, address, name, until))
        if node.journal:
            self.listen(node)

    def listen(self, node: Node) -> None:
        while node.events and node.events[0][0] <= self.tick:
            self.hear_event(node, *node.events.pop(0)[1:])
        self.save(node)

    def hear_event(self, node: Node, kind: str, address: str, name: str, until: float) -> None:
        journal, now = node.journal, self.now(node)
        assert journal
        if kind == "lease":
            journal.lease(address, Client(name), until, "", now)
        elif kind == "add":
            journal.lease(address, Client(name), until, "", now, is_new=True)
        else:
            journal.end(address, now, until or None)

    def expire(self, node: Node) -> None:
        server, now = node.server, self.now(node)
        assert server
        for address, (name, until) in list(server.leases.items()):
            if until <= now:
                del server.leases[address]
                self.say(node, "expire", address, name, until)

    # --- what the daemon says to its peer -----------------------------------------------------

    def talk(self, node: Node) -> None:
        journal = node.journal
        assert journal
        peer = journal.peers[node.peer]
        now = self.now(node)
        silence = self.tick - max(peer.heard, peer.began)
        if not peer.stream or silence > PATIENCE or (node.is_cut and silence > BEAT):
            node.is_cut = False
            node.streams += 1
            stream = f"{node.name}-{node.lives}-{node.streams}"
            sent = journal.begin(node.peer, stream, now, self.tick)
        elif peer.fresh or self.tick - node.sent >= BEAT:
            sent = [journal.news(node.peer, now, self.tick)]
        else:
            return
        node.sent = self.tick
        self.save(node)  # without a disk it is told all the same
        for message in sent:
            self.send(node.peer, "facts", message)

    def save(self, node: Node) -> bool:
        journal = node.journal
        assert journal
        if journal.unsaved():
            try:
                journal.save()
            except OSError:
                return False
        return True

    def send(self, to: str, kind: str, message: Message) -> None:
        times = self.random.choice((0, 1, 1, 1, 1, 1, 1, 2)) if self.lossy else 1
        self.wires += [(to, kind, message)] * times

    def deliver(self) -> None:
        wires, self.wires = self.wires, []
        if self.lossy:
            self.random.shuffle(wires)
            late = [n for n in range(len(wires)) if self.random.random() < 0.1]
            self.wires = [wires[n] for n in late]
            wires = [each for n, each in enumerate(wires) if n not in late]
        for to, kind, message in wires:
            node = self.nodes[to]
            if self.parted or not node.journal:
                continue
            now = self.now(node)
            if kind == "kept":
                node.journal.kept(node.peer, message, now)
                continue
            answer = node.journal.receive(node.peer, message, now, self.tick)
            if answer is None and not self.lossy:
                self.nodes[node.peer].is_cut = True  # the connection ends
            if answer and self.save(node):
                node.answered = self.tick
                self.was_told(node, message)
                self.send(node.peer, "kept", answer)

    def was_told(self, node: Node, message: Message) -> None:
        assert node.journal
        if node.forgot and node.journal.peers[node.peer].is_complete:
            node.forgot = {}
        for address, client, *_ in message["facts"]:
            if not client:
                continue
            self.untold.pop((node.peer, address, client[0]), None)
            grant = self.by_name[client[0]].grant
            if grant and grant.address == address and grant.node == node.peer:
                grant.told = True
                if grant.cause == "no daemon" and not grant.is_shared:
                    grant.cause = ""

    # --- nodes fail and come back -------------------------------------------------------------

    def boot(self, node: Node) -> None:
        """The node, or its daemon alone while dnsmasq goes on."""
        node.is_up = True
        node.lives += 1
        name = f"{node.name}-{node.lives}"
        node.journal = Journal(node.name, [node.peer], node.disk, name)
        if node.server:
            node.journal.serves = node.journal.is_news = True
            # dnsmasq is made to say all its leases again.
            for address, (who, until) in node.server.leases.items():
                self.say(node, "lease", address, who, until)

    def kill_daemon(self, node: Node) -> None:
        assert node.journal
        for address in node.journal.unsaved():
            node.forgot[address] = "full disk"
            for machine in self.machines:
                grant = machine.grant
                if grant and grant.address == address and grant.node == node.name:
                    grant.cause = grant.cause or ("" if grant.told else "full disk")
        node.journal = None

    def kill(self, node: Node) -> None:
        """A crash, or the power: what was committed stays."""
        if node.journal:
            self.kill_daemon(node)
        self.lose(node)
        node.events = []
        node.server = node.wants = node.due = None
        node.is_up = False

    def change_disk(self, node: Node) -> None:
        if node.is_up:
            self.kill(node)
        node.disk = Disk()
        node.forgot = dict.fromkeys(POOL, "new disk")
        for machine in self.machines:
            grant = machine.grant
            # Nobody knows it, as where both have lost what they knew.
            if grant and (
                (grant.node == node.name and not grant.told)
                or grant.address in self.nodes[node.peer].forgot
            ):
                grant.cause = grant.cause or "new disk"
