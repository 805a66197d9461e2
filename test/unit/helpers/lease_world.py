"""Histories of a site with two nodes that give addresses (`lease_site.py`) and of its clients.

What a history may have beside asking clients, planned hand-overs and two nodes that both have the
virtual IP is in `rare`. `collisions` has what no machine may ever see, `refused` clients that lost
their address while they asked for it. What one of the corners in docs/internals.md explains is in
`excused` instead, by its name.
"""

from __future__ import annotations

from lease_journal import TAKEOVER, Journal
from lease_site import LEASE, NODES, POOL, SHARES, STEP, Grant, Machine, Node, Server, Site

DECLINED = 600.0  # dnsmasq does not give a client an address that it has declined
# The rare things that may explain what went wrong.
CORNERS = {
    "not told": {"crash", "daemon", "parted", "lossy", "full", "disk"},
    "last moment": {"crash", "daemon", "disk"},
    "no daemon": {"daemon"},
    "full disk": {"full"},
    "new disk": {"disk"},
}


class World(Site):
    """Play `run` and then `heal`."""

    # --- what happens -------------------------------------------------------------------------

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
        if what in ("sides", "parted"):
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
        is_ordered = node.server and not node.server.in_sync and self.is_sudden(new)
        if not cause and ((is_unknown and self.is_sudden(grant)) or is_ordered):
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
