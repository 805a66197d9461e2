"""A site with two nodes that give addresses, clients, a network and a clock: all simulated but the
journal of leases, which is the real one.

What a history may have beside asking clients, planned hand-overs and two nodes that both have the
virtual IP is in `rare`. `collisions` has what no machine may ever see, `refused` clients that lost
their address while they asked for it. What one of the corners in docs/internals.md explains is in
`excused` instead, by its name.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from lease_journal import TAKEOVER, Client, Journal, Message

POOL = [f"10.77.0.{last}" for last in range(100, 108)]
SHARES = {"gw1": POOL[:4], "gw2": POOL[4:]}
NODES = ("gw1", "gw2")
MACHINES = 9
LEASE = 600.0
STEP = 0.05
BEAT = 0.1  # the daemon looks so often after dnsmasq
PATIENCE = 1.0  # without an answer for so long a stream begins again
WAIT = 5.0  # a node that has the virtual IP waits so long for its peer
DECLINED = 600.0  # dnsmasq does not give a client an address that it has declined
RARE = ("crash", "daemon", "parted", "lossy", "full", "disk")
# The rare things that may explain what went wrong.
CORNERS = {
    "late": set(),
    "not told": {"crash", "daemon", "parted", "lossy", "full", "disk"},
    "last moment": {"crash", "daemon", "disk"},
    "no daemon": {"daemon"},
    "full disk": {"full"},
    "new disk": {"disk"},
}


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


class World:
    """Play `run` and then `heal`."""

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

    def run(self, acts: int) -> None:
        for _ in range(acts):
            self.acts += 1
            for repair in [each for each in self.repairs if each[0] <= self.acts]:
                self.repairs.remove(repair)
                self.repair(*repair[1:])
            for _ in range(self.random.choice((1, 1, 2, 3))):
                self.act()
            step = self.random.choice((STEP, STEP, 2 * STEP))
            for _ in range(self.random.choice((0, 1, 2, 3, 8))):
                self.pass_time(step)
            if self.random.random() < 0.12:
                self.sleep(self.random.choice((100.0, 300.0, 700.0, 1500.0, 90_000.0)))

    def sleep(self, seconds: float) -> None:
        """A long time, in which machines that are awake keep their leases. A day is so long that
        nobody's lasts. The nodes go on as before, so they are not looked at."""
        self.note(f"{seconds} s pass")
        lossy, self.lossy = self.lossy, False
        for _ in range(3):
            self.deliver()  # no message takes so long
        self.lossy = lossy
        awake = [machine for machine in self.machines if self.random.random() < 0.5]
        while seconds > 0:
            part = seconds if seconds > 10 * LEASE else min(seconds, LEASE / 2)
            seconds -= part
            self.time += part
            for _ in range(5):
                self.pass_time(2 * STEP)
            for machine in awake:
                if machine.address and self.time < machine.until:
                    self.ask(machine, "renew")

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

    def fail(self) -> None:
        """One of the things that a history may have, for some acts."""
        what = self.random.choice(("drain", "split", "sides", *self.rare, *self.rare))
        node = self.random.choice(self.both)
        self.note(f"{what} ({node.name})")
        self.events[what] += 1
        lasts = self.random.choice((1, 3, 10, 25))
        if what in ("parted", "split", "lossy"):
            setattr(self, what, True)
        elif what == "drain":
            self.drained = node.name
        elif what == "full":
            node.disk.full = True
        elif what == "disk":
            self.change_disk(node)
        elif what == "crash" and node.is_up:
            self.kill(node)
        elif what == "daemon" and node.journal:
            self.kill_daemon(node)
            lasts = self.random.choice((1, 1, 2))
        if what == "sides" or what == "parted":
            for machine in self.machines:
                machine.side = self.random.choice(NODES)
        self.repairs.append((self.acts + lasts, what, node.name))

    def repair(self, what: str, where: str) -> None:
        node = self.nodes[where]
        self.note(f"end of {what} ({where})")
        if what in ("parted", "split", "lossy"):
            setattr(self, what, False)
        elif what == "drain":
            self.drained = ""
        elif what == "full":
            node.disk.full = False
        elif not node.journal and (what != "daemon" or node.is_up):
            self.boot(node)

    # --- clients ------------------------------------------------------------------------------

    def act(self) -> None:
        choice = self.random.random()
        machine = self.random.choice(self.machines)
        if choice < 0.84:
            kind = self.random.choice(("discover", "discover", "renew", "renew", "reboot"))
            self.ask(machine, kind)
        elif choice < 0.90:
            self.give_back(machine, "releases")
        elif choice < 0.92:
            self.give_back(machine, "declines")
        elif choice < 0.94:
            machine.side = self.random.choice(NODES)
        else:
            self.fail()

    def server_of(self, machine: Machine) -> Node | None:
        """Who answers a machine: where both hold the virtual IP, the holder on its side."""
        for node in self.both:
            if node.server and (not (self.parted or self.split) or node.name == machine.side):
                return node
        return None

    def ask(self, machine: Machine, kind: str) -> None:
        node = self.server_of(machine)
        if not node:
            return
        has = machine.address if self.time < machine.until else ""
        wants = has
        if kind == "reboot" or (kind == "discover" and self.random.random() < 0.5):
            wants = wants or machine.known
        if kind != "discover" and not wants:
            kind = "discover"
        address = self.choose(node, machine, wants, kind)
        if address:
            self.grant(node, machine, address)
        elif kind != "discover":  # DHCPNAK
            if has:
                self.judge_refusal(node, machine)
            machine.address = ""

    def choose(self, node: Node, machine: Machine, wants: str, kind: str) -> str:
        """As dnsmasq does, which is authoritative."""
        server, name = node.server, machine.name
        assert server
        lease, line = server.lease_of(name), server.line_of(name, self.now(node))
        if line and server.leases.get(line, (name,))[0] != name:
            line = ""
        fixed = line or lease
        if fixed:
            return fixed if kind == "discover" or wants == fixed else ""
        share = SHARES[node.name]
        free = [a for a in (POOL if server.in_sync else share) if self.is_free(server, a)]
        if wants in free:
            return wants
        if kind != "discover" or not free:
            return ""
        return self.random.choice([a for a in free if a in share] or free)

    @staticmethod
    def is_free(server: Server, address: str) -> bool:
        return address not in server.leases and address not in server.lines

    def grant(self, node: Node, machine: Machine, address: str) -> None:
        """The machine has it before anybody else knows."""
        server = node.server
        assert server
        grant = Grant(node.name, address, self.tick, server.in_sync)
        grant.cause = node.forgot.get(address) or server.forgot.get(address, "")
        self.note(f"{node.name} gives {address} to {machine.name} (in sync: {server.in_sync})")
        self.given[server.in_sync] += 1
        origin = (node.name, address, machine.name)
        is_new = machine.address != address or machine.until <= self.time
        if not node.journal or server.life != node.lives:
            grant.cause = "no daemon"
        first = self.untold.get(origin)
        if first and not (is_new and server.in_sync):
            # The other node knows as little as before. This one may have an order for the machine.
            grant.tick, grant.idle, grant.in_sync = first.tick, first.idle, first.in_sync
            grant.cause = grant.cause or first.cause
        elif server.in_sync or grant.cause:
            grant.idle = self.tick - self.freed.get(address, 0.0)
            self.untold[origin] = grant
        before = machine.grant
        if before and before.node != node.name and before.address != address:
            grant.is_hasty = self.tick - before.tick < 1.0
        elif before and before.address == address:
            grant.is_hasty = before.is_hasty
        declined = False
        for other in self.machines:
            if other is not machine and other.address == address and other.until > self.time:
                declined |= self.judge_collision(node, machine, other, grant) and is_new
        machine.address, machine.until, machine.known = address, self.time + LEASE, address
        machine.grant = grant
        lease = server.lease_of(machine.name)
        if lease not in ("", address):
            del server.leases[lease]
            self.freed[lease] = self.tick
            self.say(node, "release", lease, machine.name)
        kind = "lease" if server.leases.pop(address, None) else "add"
        server.leases[address] = machine.name, self.now(node) + LEASE
        self.say(node, kind, address, machine.name, self.now(node) + LEASE)
        if "crash" in self.rare and not self.is_well and self.random.random() < 0.01:
            self.note(f"{node.name} dies at once")
            self.kill(node)
            self.repairs.append((self.acts + 3, "crash", node.name))
        elif declined and self.random.random() < 0.7:
            self.give_back(machine, "declines")

    def give_back(self, machine: Machine, how: str) -> None:
        node = self.server_of(machine)
        if not node or not machine.address or self.time >= machine.until:
            return
        server, address = node.server, machine.address
        assert server
        self.note(f"{machine.name} {how} {address} at {node.name}")
        self.events[how] += 1
        if how == "declines" and server.line_of(machine.name, self.now(node)) == address:
            server.declined[address] = self.now(node) + DECLINED
        if server.leases.get(address, ("",))[0] == machine.name:
            del server.leases[address]
            self.freed[address] = self.tick
            self.say(node, "release", address, machine.name)
        machine.address = ""

    # --- what is promised ---------------------------------------------------------------------

    def knows(self, node: Node, machine: Machine) -> bool:
        fact = node.journal.facts.get(machine.address) if node.journal else None
        return bool(fact and fact.client and fact.client.mac == machine.name)

    def corner(self, node: Node, machine: Machine) -> str:
        """Why a node may not know what a machine has. Empty: it has to."""
        grant = machine.grant
        assert grant
        if grant.cause:
            return grant.cause
        if not node.journal or (node.server and node.server.life != node.lives):
            return "no daemon"
        older = node.server.forgot if node.server else {}
        return node.forgot.get(grant.address) or older.get(grant.address, "")

    def is_sudden(self, grant: Grant) -> bool:
        """Whether it was given, of all shares, in the moment before a node was cut off or died. An
        address of the node's own share is no other's: it was given back in that moment, too."""
        silence = self.nodes["gw2" if grant.node == "gw1" else "gw1"].answered
        is_own = grant.address in SHARES[grant.node]
        return (
            grant.in_sync
            and grant.tick <= silence + TAKEOVER + 2 * STEP
            and (not is_own or grant.idle < 1.0)
        )

    def judge_collision(self, node: Node, machine: Machine, other: Machine, new: Grant) -> bool:
        """Whether a corner explains that both have an address."""
        grant = other.grant
        assert grant
        cause = new.cause or self.corner(node, other)
        is_late = node.journal and node.journal._is_behind(grant.address)
        is_unknown = grant.node != node.name and (is_late or not grant.told)
        if not cause and is_unknown and self.is_sudden(grant):
            cause = "not told"
        elif not cause and node.server and not node.server.in_sync and self.is_sudden(new):
            cause = "not told"
        text = f"{node.name} gives {grant.address} of {other.name} to {machine.name}"
        if not cause:
            self.collisions.append(f"{self.tick:.2f} {text}")
            return False
        self.note(f"excused ({cause}): {text}")
        self.excused[cause] += 1
        new.cause = grant.cause = cause
        new.is_shared = grant.is_shared = True
        return True

    def judge_refusal(self, node: Node, machine: Machine) -> None:
        grant = machine.grant
        assert grant
        cause = self.corner(node, machine)
        is_late = node.journal and node.journal._is_behind(grant.address)
        if not cause and grant.node != node.name and (is_late or not grant.told):
            cause = "late" if is_late else "not told"
        if not cause and grant.is_hasty:
            cause = "two at once"
        text = f"{node.name} refuses {machine.name} its {machine.address}"
        server = node.server
        assert server
        now = self.now(node)
        text += (
            f" (lease {server.lease_of(machine.name)}, line {server.line_of(machine.name, now)})"
        )
        self.note(text)
        if cause:
            self.excused[f"refused: {cause}"] += 1
        else:
            self.refused.append(f"{self.tick:.2f} {text}")

    # --- the end ------------------------------------------------------------------------------

    def heal(self) -> list[str]:
        """All is well again; return what is not as it should be then."""
        self.note("all is well again")
        self.is_well = True
        for _, what, where in self.repairs:
            self.repair(what, where)
        self.parted = self.split = self.lossy = False
        self.drained = ""
        for node in self.both:
            node.disk.full = False
            if not node.journal:
                self.boot(node)
        for _ in range(80):
            self.pass_time(2 * STEP)
        faults = self.differences()
        for machine in self.machines:
            if machine.address and self.time < machine.until:
                self.ask(machine, "renew")
        server = self.both[0].server
        leases = len(server.leases) if server else 0
        new = Machine("02:00:00:00:00:ff")
        self.machines.append(new)
        self.by_name[new.name] = new
        self.ask(new, "discover")
        if not new.address and leases < len(POOL):
            faults.append("a new client gets nothing")
        self.time += 2 * LEASE
        for _ in range(60):
            self.pass_time(2 * STEP)
        for journal in self.journals():
            believed = [peer.believes for peer in journal.peers.values() if peer.believes]
            if journal.facts or believed:
                faults.append(f"{journal.node} still has {journal.facts} {believed}")
        return faults

    def journals(self) -> list[Journal]:
        return [node.journal for node in self.both if node.journal]

    def differences(self) -> list[str]:
        """What the nodes do not agree about."""
        faults = []
        known = []
        for node in self.both:
            assert node.journal
            if not node.journal.is_in_sync(self.tick):
                faults.append(f"{node.name} is not in sync")
            facts = node.journal.leases(self.now(node))
            known.append({f.address: (f.client, f.until - node.offset) for f in facts})
        one, other = known
        for address in sorted({*one, *other}):
            a, b = one.get(address), other.get(address)
            if not a or not b or a[0] != b[0] or abs(a[1] - b[1]) > 2.0:
                faults.append(f"{address}: {a} and {b}")
        if not self.both[0].server or not self.both[0].server.in_sync:
            faults.append("dnsmasq does not give all")
        return faults
