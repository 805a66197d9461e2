"""Two real journals of leases that tell each other what a test has them tell."""

from __future__ import annotations

import json

from lease_facts import FOREVER, Client
from lease_journal import Journal, Message
from lease_site import Disk

A, B, C, D = (f"10.77.0.{last}" for last in (100, 101, 102, 103))
ONE, TWO = Client("02:00:00:00:00:01"), Client("02:00:00:00:00:02", "01:02")


class Pair:
    """Two journals; the other's clock is an hour ahead. What they say goes through JSON."""

    def __init__(self) -> None:
        self.disks = {"gw1": Disk(), "gw2": Disk()}
        self.streams = 0
        self.tick = 0.0
        self.one, self.two = self.start("gw1"), self.start("gw2")

    def start(self, name: str) -> Journal:
        other = "gw2" if name == "gw1" else "gw1"
        self.streams += 1
        return Journal(name, [other], self.disks[name], f"{name}-{self.streams}")

    def now(self, journal: Journal) -> float:
        return 1000.0 + self.tick + (3600.0 if journal.node == "gw2" else 0.0)

    def lease(
        self,
        journal: Journal,
        address: str,
        client: Client,
        seconds: float = 600.0,
        name: str = "",
        is_new: bool = False,
    ) -> None:
        now = self.now(journal)
        until = FOREVER if seconds == FOREVER else now + seconds
        journal.lease(address, client, until, name, now, is_new)

    def end(self, journal: Journal, address: str, ended: float | None = None) -> None:
        journal.end(address, self.now(journal), ended)

    def tell(self, source: Journal, target: Journal, message: Message) -> Message | None:
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

    def begin(self, source: Journal, target: Journal) -> list[Message]:
        self.streams += 1
        stream = f"stream {self.streams}"
        return source.begin(target.node, stream, self.now(source), self.tick)

    def news(self, source: Journal, target: Journal) -> Message:
        return source.news(target.node, self.now(source), self.tick)

    def connect(self) -> None:
        for source, target in ((self.one, self.two), (self.two, self.one)):
            for message in self.begin(source, target):
                self.tell(source, target, message)

    def beat(self, seconds: float = 0.1) -> None:
        self.tick += seconds
        for source, target in ((self.one, self.two), (self.two, self.one)):
            self.tell(source, target, self.news(source, target))

    def leases(self, journal: Journal) -> dict[str, Client | None]:
        return {fact.address: fact.client for fact in journal.leases(self.now(journal))}

    def in_sync(self) -> list[bool]:
        return [journal.is_in_sync(self.tick) for journal in (self.one, self.two)]
