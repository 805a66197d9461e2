"""A site with two nodes that give addresses, clients, a network and a clock: all simulated but the
journal of leases, which is the real one."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import dataclass, field

from lease_journal import FOREVER, Client, Journal, Message

POOL = [f"10.77.0.{last}" for last in range(100, 112)]
SHARES = {"gw1": POOL[:6], "gw2": POOL[6:]}
NODES = ("gw1", "gw2")
LEASE = 600.0
STEP = 0.05


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
class Machine:
    """A client, and the address that it takes for its own until a moment of true time."""

    name: str
    side: str
    address: str = ""
    until: float = 0.0
    known: str = ""  # the address that it had last, which it may ask for again

    @property
    def client(self) -> Client:
        return Client(self.name)


@dataclass
class Server:
    """dnsmasq: what it has in memory, and what it was told when it started."""

    in_sync: bool
    kept: dict[str, Client | None]
    leases: dict[str, tuple[str, float]] = field(default_factory=dict)  # client, end (its clock)


class Node:
    """One gateway with the real journal."""

    def __init__(self, name: str, offset: float) -> None:
        self.name, self.offset, self.disk = name, offset, Disk()
        self.lives = 0
        self.server: Server | None = None
        self.journal: Journal | None = None
        self.streams = 0

    @property
    def peer(self) -> str:
        return "gw2" if self.name == "gw1" else "gw1"

    def boot(self) -> None:
        self.lives += 1
        self.journal = Journal(self.name, [self.peer], self.disk, f"{self.name}-{self.lives}")

    def die(self) -> None:
        self.journal, self.server = None, None


class World:
    """Play `steps` random steps; `collisions` has what no machine may ever see."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.time = 1_000_000.0
        self.tick = 0.0
        self.nodes = {
            name: Node(name, offset)
            for name, offset in zip(NODES, (0.0, self.random.choice((0, 3600, -3600))), strict=True)
        }
        self.machines = [Machine(f"02:00:00:00:00:{n:02x}", "gw1") for n in range(12)]
        self.parted = False
        self.lossy = False
        self.wires: list[tuple[str, str, Message]] = []  # to, kind, message
        self.unrecorded: set[tuple[str, str]] = set()  # machine, address: nobody wrote it down
        self.collisions: list[str] = []
        self.excused = 0
        self.given = {True: 0, False: 0}
        self.history: list[str] = []
        for node in self.nodes.values():
            node.boot()

    # --- time ---------------------------------------------------------------------------------

    def now(self, node: Node) -> float:
        return self.time + node.offset

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.act()
            for _ in range(self.random.randrange(1, 20)):
                self.pass_time(STEP)
            if self.random.random() < 0.25:
                self.sleep(self.random.choice((100.0, 300.0, 700.0, 1500.0, 90_000.0)))

    def sleep(self, seconds: float) -> None:
        """A long time, in which machines that are awake keep their leases."""
        awake = [machine for machine in self.machines if self.random.random() < 0.5]
        while seconds > 0:
            part = min(seconds, LEASE / 2 if seconds < 10 * LEASE else seconds)
            seconds -= part
            self.time += part
            self.tick += part
            for _ in range(25):
                self.pass_time(STEP)
            for machine in awake:
                if machine.address and self.time < machine.until:
                    self.ask(machine, "renew")

    def pass_time(self, seconds: float) -> None:
        self.time += seconds
        self.tick += seconds
        for node in self.nodes.values():
            if node.journal:
                self.serve(node)
                self.talk(node)
        self.deliver()
        for node in self.nodes.values():
            if node.journal:
                self.save(node)

    # --- the nodes ----------------------------------------------------------------------------

    def holds(self, node: Node) -> bool:
        """Whether it has the virtual IP: the primary, or who does not hear it."""
        other = self.nodes[node.peer]
        return node.name == "gw1" or self.parted or other.journal is None

    def serve(self, node: Node) -> None:
        """As the daemon does: start dnsmasq, stop it, or start it anew with other orders."""
        journal, server = node.journal, node.server
        assert journal
        if not self.holds(node):
            node.server, journal.serves = None, False
            return
        if server is None and not (journal.may_serve(self.tick) or self.is_late(node)):
            return
        journal.serves = True
        in_sync = journal.is_in_sync(self.tick)
        now = self.now(node)
        if server is None or server.in_sync != in_sync or (in_sync and journal.is_news):
            journal.is_news = False
            server = node.server = Server(in_sync, {})
            if in_sync:
                for fact in list(journal.facts.values()):
                    if fact.client and not fact.holds(now):
                        journal.end(fact.address, now)
                for fact in journal.leases(now):
                    assert fact.client
                    server.leases[fact.address] = fact.client.mac, fact.until
        if not in_sync:
            # It is told more while it runs, and forgets nothing.
            server.kept = {**journal.kept_for(now), **server.kept}
        for address, (_, until) in list(server.leases.items()):
            if until != FOREVER and until <= now:
                del server.leases[address]
                journal.end(address, now, until)

    def is_late(self, node: Node) -> bool:
        """Whether a node has waited for its peer for long enough (a rare one that goes on)."""
        return self.random.random() < 0.01

    def talk(self, node: Node) -> None:
        journal = node.journal
        assert journal
        peer = journal.peers[node.peer]
        now = self.now(node)
        if not peer.stream or self.tick - max(peer.heard, peer.began) > 1.0:
            node.streams += 1
            stream = f"{node.name}-{node.lives}-{node.streams}"
            sent = journal.begin(node.peer, stream, now, self.tick)
        else:
            sent = [journal.news(node.peer, now, self.tick)]
        if self.save(node):
            for message in sent:
                self.send(node.peer, "facts", message)

    def save(self, node: Node) -> bool:
        try:
            assert node.journal
            node.journal.save()
        except OSError:
            return False
        return True

    # --- the network between them -------------------------------------------------------------

    def send(self, to: str, kind: str, message: Message) -> None:
        plain = json.loads(json.dumps(message))
        times = 1
        if self.lossy:
            times = self.random.choice((0, 1, 1, 1, 2))
        for _ in range(times):
            self.wires.append((to, kind, copy.deepcopy(plain)))

    def deliver(self) -> None:
        wires, self.wires = self.wires, []
        if self.lossy:
            self.random.shuffle(wires)
            late = [each for each in wires if self.random.random() < 0.1]
            self.wires += late
            wires = [each for each in wires if each not in late]
        for to, kind, message in wires:
            node = self.nodes[to]
            if self.parted or not node.journal:
                continue
            now = self.now(node)
            if kind == "kept":
                node.journal.kept(node.peer, message, now)
                continue
            answer = node.journal.receive(node.peer, message, now, self.tick)
            if answer and self.save(node):
                self.send(node.peer, "kept", answer)

    # --- what happens -------------------------------------------------------------------------

    def act(self) -> None:
        choice = self.random.random()
        machine = self.random.choice(self.machines)
        if choice < 0.62:
            kind = self.random.choice(("discover", "renew", "reboot", "discover", "renew"))
            self.ask(machine, kind)
        elif choice < 0.70:
            self.release(machine)
        elif choice < 0.78:
            for machine in self.random.sample(self.machines, 4):
                machine.side = self.random.choice(NODES)
        elif choice < 0.86:
            self.parted = not self.parted and self.random.random() < 0.7
            self.note(f"parted: {self.parted}")
        elif choice < 0.94:
            self.fail_or_boot(self.nodes[self.random.choice(NODES)])
        elif choice < 0.97:
            self.lossy = not self.lossy and self.random.random() < 0.5
            self.note(f"lossy: {self.lossy}")
        else:
            disk = self.nodes[self.random.choice(NODES)].disk
            disk.full = not disk.full and self.random.random() < 0.5
            self.note(f"full: {disk.full}")

    def note(self, text: str) -> None:
        self.history.append(f"{self.tick:.2f} {text}")

    def fail_or_boot(self, node: Node) -> None:
        if node.journal and self.random.random() < 0.5:
            return
        if node.journal:
            self.kill(node, "dies")
        else:
            self.note(f"{node.name} boots")
            node.boot()

    def kill(self, node: Node, how: str) -> None:
        self.note(f"{node.name} {how}")
        assert node.journal
        for address in node.journal.unsaved():
            # A full disk.
            fact = node.journal.facts.get(address)
            if fact and fact.client:
                self.unrecorded.add((fact.client.mac, address))
        node.die()

    def server_of(self, machine: Machine) -> Node | None:
        """Who answers a machine: the holder on its side."""
        for node in self.nodes.values():
            if node.server and (not self.parted or node.name == machine.side):
                return node
        return None

    def ask(self, machine: Machine, kind: str) -> None:
        node = self.server_of(machine)
        if not node:
            return
        wants = machine.address if self.time < machine.until else ""
        if kind == "reboot":
            wants = wants or machine.known
        if kind == "discover" and not wants:
            wants = machine.known if self.random.random() < 0.5 else ""
        address = self.choose(node, machine, wants, kind)
        if not address:
            if kind in ("renew", "reboot"):  # DHCPNAK
                machine.address = ""
            return
        self.grant(node, machine, address)

    def choose(self, node: Node, machine: Machine, wants: str, kind: str) -> str:
        """As dnsmasq does, which is authoritative."""
        server = node.server
        assert server
        for address, (who, _) in server.leases.items():
            if who == machine.name:
                return address if kind == "discover" or wants in ("", address) else ""
        for address, client in server.kept.items():
            if client and client.mac == machine.name and address not in server.leases:
                return address
        share = SHARES[node.name]
        ranges = share + [a for a in POOL if a not in share] if server.in_sync else share
        free = [a for a in ranges if a not in server.leases and a not in server.kept]
        if wants in free:
            return wants
        if kind != "discover":
            return ""
        own = [a for a in free if a in share]
        return self.random.choice(own or free) if free else ""

    def grant(self, node: Node, machine: Machine, address: str) -> None:
        """The machine has it before anybody else knows."""
        assert node.server
        assert node.journal
        until = self.time + LEASE
        for other in self.machines:
            if other is not machine and other.address == address and other.until > self.time:
                text = (
                    f"{self.tick:.2f} {node.name} gave {address} of {other.name} to {machine.name}"
                )
                if (other.name, address) in self.unrecorded or (
                    machine.name,
                    address,
                ) in self.unrecorded:
                    self.excused += 1
                else:
                    self.collisions.append(text)
        machine.address, machine.until, machine.known = address, until, address
        self.note(f"{node.name} gives {address} to {machine.name} (in sync: {node.server.in_sync})")
        self.given[node.server.in_sync] += 1
        if self.random.random() < 0.02:
            self.unrecorded.add((machine.name, address))
            self.kill(node, "dies before anybody knows")
            return
        self.unrecorded.discard((machine.name, address))
        node.server.leases[address] = machine.name, self.now(node) + LEASE
        node.journal.lease(address, machine.client, self.now(node) + LEASE, "", self.now(node))

    def release(self, machine: Machine) -> None:
        node = self.server_of(machine)
        if not node or not machine.address or self.time >= machine.until:
            return
        assert node.server
        assert node.journal
        server = node.server
        self.note(f"{machine.name} releases {machine.address} at {node.name}")
        if server.leases.get(machine.address, ("",))[0] == machine.name:
            del server.leases[machine.address]
            node.journal.end(machine.address, self.now(node))
        machine.address = ""
