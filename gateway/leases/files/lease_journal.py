# Managed by Salt (gateway).
"""What this node knows of the leases, what each peer may know, and what may be given to whom.

Plain Python without a socket, a clock or a process, so a test can play any history with it. Who
gives addresses is dnsmasq, where the virtual IP is; the daemon is `leases.py` beside this file.

The promise: an address is valid for at most one machine at a time, also while the nodes do not hear
each other and both answer. It rests on three rules (the failover protocol of ISC's DHCP server has
similar ones):

- A node that is not in sync with all its peers, or that serves while a peer does, gives new leases
  from its own share of the pools only, and the shares are disjoint.
- It goes on with what it knows: a client keeps its address, whoever gave it.
- It gives no address to somebody else of which a peer may still believe that a client has it. The
  peer may have renewed that lease meanwhile, so when it ends as this node knows it says nothing.

Of two facts about an address the one that knew of the other is the newer one (version vectors). Of
two that did not know of each other the lease that ends later holds: that is never too short.

Times: `now` is this node's wall clock in seconds, for leases; `tick` its monotonic clock, for who
hears whom. Clocks of nodes may differ, so a peer hears how long a lease still lasts.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from lease_facts import FOREVER, SECOND, Client, Fact, end_of, newer

Message = dict[str, Any]
BATCH = 500  # facts in a message
# So long after a peer said for the last time that it hears this node, the node takes itself for in
# sync. A peer that takes over waits for longer (TAKEOVER): by then this node knows.
IN_SYNC = 0.5
TAKEOVER = 0.7
NEVER = float("-inf")
WRITER = "writer"  # the name under which the journal's own is kept; no address
# A journal counts on so far above what its disk knows: more than a full disk can have let it tell.
UNKEPT = 1 << 30
ALL = ""  # in the place of each address


class Store(Protocol):
    """Where it survives: texts by name. All of what is written is there afterwards, or none of it;
    OSError says that it is none. None as a text takes a name away."""

    def load(self) -> dict[str, str]: ...
    def write(self, texts: dict[str, str | None]) -> None: ...


@dataclass
class Peer:
    """What is known of a peer, and two streams of messages, one each way.

    A stream begins with all facts. Its messages are numbered from 0. Who receives takes them in
    this order only, and says which it has kept.
    """

    name: str
    # The clients of which it may believe that they have an address, by the address.
    believes: dict[str, list[Client]] = field(default_factory=dict)
    # To it: messages that it has not said to have kept (when they left, and their facts), and the
    # number of the last one of the beginning.
    fresh: set[str] = field(default_factory=set)  # addresses of which it has to hear
    later: set[str] = field(default_factory=set)  # and again, but with the next message only
    stream: str = ""
    number: int = 0
    unsaid: dict[int, tuple[float, list[Fact]]] = field(default_factory=dict)
    # When the first message left of those that say that this node serves and that it has kept,
    # since this node serves. And which messages say so of which it has not said yet to keep them.
    warned: float = NEVER
    warnings: set[int] = field(default_factory=set)
    under_way: dict[str, list[Fact]] = field(default_factory=dict)  # the same facts, by address
    beginning: int = -1
    has_all: bool = False
    began: float = NEVER  # tick
    heard: float = NEVER  # the departure of the last message that it has kept (tick)
    # From it.
    its_stream: str = ""
    its_streams: list[str] = field(default_factory=list)  # the last ones; none begins twice
    expected: int = 0
    is_complete: bool = False
    said: float = NEVER  # when this node said for the last time to have kept one (tick)
    serves: bool = False  # it gives addresses, as it said
    # The parts of pools ("first,last") that are its own, as it said last; None: it never did.
    share: list[str] | None = None

    def may_believe(self, address: str, *clients: Client | None) -> bool:
        """It has one of these, or what is under way to it. Returns whether that is something else
        than before."""
        under_way = [fact.client for fact in self.under_way.get(address, [])]
        found = {client.key: client for client in (*clients, *under_way) if client}
        before = self.believes.pop(address, [])
        if found:
            self.believes[address] = list(found.values())
        return before != list(found.values())

    def arrived(self, number: int) -> tuple[float, list[Fact]]:
        """When a message left, and its facts, which are under way no more."""
        departure, facts = self.unsaid.pop(number)
        for fact in facts:
            left = self.under_way[fact.address]
            left.remove(fact)  # once: it may be under way twice
            if not left:
                del self.under_way[fact.address]
        return departure, facts

    def is_in_sync(self, tick: float) -> bool:
        """Whether it has all, has told all, and both have just now heard the other."""
        return self.has_all and self.is_complete and tick - min(self.heard, self.said) <= IN_SYNC


class Journal:
    """The leases of one node. `writer` is a name that no journal had before, on any node."""

    def __init__(self, node: str, peers: Iterable[str], store: Store, writer: str) -> None:
        self.node = node
        self.peers = {name: Peer(name) for name in peers}
        self.facts: dict[str, Fact] = {}
        self._store = store
        self._changed: set[str] = set()
        # Of which addresses a peer has told what dnsmasq does not know, and who had them before.
        # ALL: it may know nothing.
        self._behind: dict[str, list[Client]] = {}
        # Whom dnsmasq gives an address, as it was told; and which address a client.
        self._ordered: dict[str, Client] = {}
        self._orders: dict[str, str] = {}
        self._owed: set[str] = set()  # told as what dnsmasq does not know
        self.serves = False  # dnsmasq gives addresses on this node, or is about to
        self.share: list[str] = []  # of this node, as a peer is told it
        self._first: float | None = None  # tick
        saved = store.load()
        kept = json.loads(saved.pop(WRITER, "null")) or [writer, 0, {}]
        self.writer, self._count = str(kept[0]), int(kept[1]) + UNKEPT
        for name, share in (kept[2] if len(kept) > 2 else {}).items():
            if name in self.peers:
                self.peers[name].share = share
        for text in saved.values():
            self._restore(json.loads(text))
        try:
            self._store.write({WRITER: self._own_text()})
        except OSError:
            # Nobody may ever tell two facts with one number, also not who starts twice like this.
            self.writer = writer

    @property
    def is_news(self) -> bool:
        """Whether a peer has told something that dnsmasq does not know. Setting it to False says
        that dnsmasq, which does not run now, will start with all that is known; to True, that it
        runs and may know nothing of it, as where it is older than this journal."""
        return bool(self._behind)

    @is_news.setter
    def is_news(self, is_news: bool) -> None:
        self._behind = {ALL: []} if is_news else {}
        self._ordered, self._orders = {}, {}

    def _is_behind(self, address: str) -> bool:
        """Whether dnsmasq, which runs, may give an address as it was before a peer told of it, or
        to the client that had it when dnsmasq was told so. It forgets no order while it runs."""
        if not self.serves:
            return False
        if address in self._behind or ALL in self._behind:
            return True
        fact = self.facts.get(address)
        return address in self._ordered and (fact and fact.client) != self._ordered[address]

    def _may_give_to(self, address: str) -> list[list[str]]:
        """The clients to which dnsmasq, which is behind, may give an address."""
        clients = [*self._behind.get(address, [])]
        if address in self._ordered:
            clients.append(self._ordered[address])
        return [[client.mac, client.identifier] for client in clients]

    # --- what dnsmasq says ------------------------------------------------------------------------

    def lease(
        self,
        address: str,
        client: Client,
        until: float,
        name: str,
        now: float,
        is_new: bool = False,
    ) -> None:
        """It has given (`is_new`) or renewed a lease, or says again what it has. Without a name the
        client keeps the one that it said before.

        One that is new is told also if it is as before: a peer may say at the same time that the
        client has given it back, to the peer. dnsmasq may not know yet what a peer has told, so it
        makes no lease of a client shorter.
        """
        ordered = self._orders.get(client.key, address)
        if ordered != address:
            # It declined that one. Some minutes later dnsmasq would take this one from it for that.
            self._behind.setdefault(ordered, [client])
        old = self.facts.get(address)
        since = now
        if old and old.client and old.client.key == client.key:
            since, name = old.since, name or old.name
            if old.lasts(until) and name == old.name and not is_new:
                return
            if old.lasts(until):
                until = old.until
        self._write(Fact(address, client, until, since, name, self.node))

    def end(self, address: str, now: float, ended: float | None = None) -> None:
        """A lease was given back. `ended`: it was not, but has ended then as dnsmasq knows it.

        What dnsmasq does not know yet may be that the same client has the address again, from the
        peer. So it lasts until it ends by itself.
        """
        old = self.facts.get(address)
        if ended is None and self._is_behind(address):
            return
        if old and old.client and (ended is None or not old.lasts(ended + 2 * SECOND)):
            self._write(Fact(address, None, now, now, "", self.node))

    def _write(self, fact: Fact) -> None:
        old = self.facts.get(fact.address)
        self._count += 1
        version = {**(old.version if old else {}), self.writer: self._count}
        self._keep(replace(fact, version=version))

    def _keep(self, fact: Fact, heard_from: str = "") -> None:
        self.facts[fact.address] = fact
        self._changed.add(fact.address)
        for peer in self.peers.values():
            if peer.name != heard_from:
                peer.fresh.add(fact.address)

    def clock_went(self, seconds: float, now: float, longest: dict[str, float]) -> None:
        """This node's clock was set forward by so many seconds, and says now. Leases last on for as
        long as they would have, but no longer than one of now (`longest`, by address).

        An end may be of the right clock, from before; then the lease is kept for too long here."""
        for fact in list(self.facts.values()):
            if fact.until != FOREVER and fact.holds(now - seconds) and fact.address in longest:
                until = max(fact.until, min(fact.until + seconds, now + longest[fact.address]))
                since = fact.since + seconds
                since = since if since <= now else fact.since
                self.facts[fact.address] = replace(fact, until=until, since=since)
                self._changed.add(fact.address)

    # --- what may be given ------------------------------------------------------------------------

    def shares_of_peers(self) -> list[str]:
        """The parts of pools that peers take for their own. While the pillar's pools are other ones
        on one node already, there may be parts of this node's share among them. Neither gives
        these to a new client while they do not hear each other; it is enough that one knows so."""
        return [part for peer in self.peers.values() for part in peer.share or []]

    def leases(self, now: float) -> list[Fact]:
        """All that have not ended, in the order of their ends. A client may have two: one of each
        node. It uses the later one, and dnsmasq takes the last one of its file for the client's."""
        found = [fact for fact in self.facts.values() if fact.holds(now)]
        return sorted(found, key=lambda fact: (end_of(fact), fact.since, fact.address))

    def kept_for(self, now: float) -> dict[str, Client | None]:
        """Whose each address is that nobody else may be given. None: nobody's at all. As this node
        knows it is free, but a peer may believe that it is not, and may have renewed the lease; or
        its client has a later one. dnsmasq takes one address for each client.

        Whoever asks is about to order it to dnsmasq."""
        believed = {address for peer in self.peers.values() for address in peer.believes}
        ended = {fact.address for fact in self.facts.values() if fact.client}
        kept: dict[str, Client | None] = dict.fromkeys(sorted(believed | ended))
        latest = {fact.client.key: fact for fact in self.leases(now) if fact.client}
        for fact in latest.values():
            kept[fact.address] = fact.client
            if fact.client:
                self._ordered.setdefault(fact.address, fact.client)
                self._orders.setdefault(fact.client.key, fact.address)
        return kept

    def is_in_sync(self, tick: float) -> bool:
        """Whether each peer has all that this node knows, has told all that it knows, and each has
        just now heard the other. Not where both give addresses: neither knows yet what the other
        gives at this moment."""
        return all(
            peer.is_in_sync(tick) and not (self.serves and peer.serves)
            for peer in self.peers.values()
        )

    def may_serve(self, tick: float) -> bool:
        """Whether each peer has heard that this node serves, and does not; or cannot take itself
        for in sync with this node any more, as it has heard that so long ago, or nothing. Who
        begins to serve before might give what a peer gives."""
        first = self._started(tick)  # who has just started may have said something before
        return all(
            (peer.is_in_sync(tick) and not peer.serves and peer.warned > NEVER)
            or tick - max(peer.said, first) > TAKEOVER
            or NEVER < peer.warned < tick - TAKEOVER
            for peer in self.peers.values()
        )

    def _started(self, tick: float) -> float:
        if self._first is None:
            self._first = tick
        return self._first

    # --- to a peer --------------------------------------------------------------------------------

    def begin(self, name: str, stream: str, now: float, tick: float) -> list[Message]:
        """The first messages of a new stream to a peer: all facts."""
        peer = self.peers[name]
        self._started(tick)
        peer.stream, peer.number, peer.has_all = stream, 0, False
        peer.unsaid, peer.under_way = {}, {}
        peer.warned, peer.warnings = NEVER, set()
        peer.began = tick
        peer.fresh, peer.later = set(), set()
        facts = [fact for _, fact in sorted(self.facts.items())]
        parts = [facts[start : start + BATCH] for start in range(0, len(facts), BATCH)] or [[]]
        peer.beginning = len(parts) - 1
        return [self._message(peer, part, now, tick) for part in parts]

    def news(self, name: str, now: float, tick: float) -> Message:
        """The next message of a stream. Without news it says that this node is there."""
        peer = self.peers[name]
        known = {address for address in self._owed if not self._is_behind(address)}
        for each in self.peers.values():
            each.fresh |= known
        self._owed -= known
        peer.fresh |= peer.later
        peer.later = set()
        addresses = sorted(peer.fresh)[:BATCH]
        peer.fresh -= set(addresses)
        facts = [self.facts[address] for address in addresses if address in self.facts]
        return self._message(peer, facts, now, tick)

    def _message(self, peer: Peer, facts: list[Fact], now: float, tick: float) -> Message:
        number, peer.number = peer.number, peer.number + 1
        behind = {
            fact.address: self._may_give_to(fact.address)
            for fact in facts
            if self._is_behind(fact.address)
        }
        self._owed.update(behind)
        peer.unsaid[number] = tick, facts
        # A peer that hears that this one does not serve (any more) takes itself for in sync. Not
        # before it has heard all that was given.
        serves = self.serves or bool(peer.fresh)
        if self.serves:
            peer.warnings.add(number)
        else:
            peer.warned, peer.warnings = NEVER, set()
        for fact in facts:
            if peer.may_believe(fact.address, *peer.believes.get(fact.address, []), fact.client):
                self._changed.add(fact.address)
            peer.under_way.setdefault(fact.address, []).append(fact)
        return {
            "serves": serves,
            "stream": peer.stream,
            "number": number,
            "last": number >= peer.beginning,
            "share": self.share,
            "facts": [fact.said(now) for fact in facts],
            "behind": behind,
        }

    def kept(self, name: str, answer: Message, now: float) -> None:
        """A peer says which message it has kept, and of which addresses it knows better; and of
        which it has to hear again, because its dnsmasq may still give them as before."""
        peer = self.peers[name]
        number = int(answer["number"])
        if answer["stream"] != peer.stream or number not in peer.unsaid:
            return
        # An answer that a full disk kept back. What it would have said is to be heard again.
        for missed in list(itertools.takewhile(number.__gt__, peer.unsaid)):
            peer.fresh |= {fact.address for fact in peer.arrived(missed)[1]}
        departure, facts = peer.arrived(number)
        better = {fact.address: fact for fact in (Fact.heard(f, now) for f in answer["better"])}
        again = set(answer["again"])
        for fact in facts:
            believed = peer.believes.get(fact.address, []) if fact.address in again else []
            arrived = better.get(fact.address, fact).client
            # Of an address that everybody knows to be free nothing is kept.
            if peer.may_believe(fact.address, *believed, arrived) or not fact.client:
                self._changed.add(fact.address)
            known = self.facts.get(fact.address)
            if known and known.version != fact.version and fact.address not in peer.under_way:
                # The peer has told it since. What it has now it says when it hears this.
                peer.fresh.add(fact.address)
        peer.later |= again
        if number in peer.warnings:
            peer.warnings.remove(number)
            peer.warned = departure if peer.warned == NEVER else peer.warned
        for fact in better.values():
            self._merge(fact, name)
        peer.heard = max(peer.heard, departure)
        if number >= peer.beginning:
            peer.has_all = True

    # --- from a peer ------------------------------------------------------------------------------

    def receive(self, name: str, message: Message, now: float, tick: float) -> Message | None:
        """Take a message of a peer; return what it is to be told when `save` is done. None: it
        has to begin again, or said this before."""
        peer = self.peers[name]
        stream, number = str(message["stream"]), int(message["number"])
        if number == 0 and stream not in peer.its_streams:
            peer.its_stream, peer.expected, peer.is_complete = stream, 0, False
            peer.its_streams = [*peer.its_streams[-9:], stream]
        if stream != peer.its_stream or number != peer.expected:
            return None
        peer.expected += 1
        better, again, its_behind = [], [], message["behind"]
        for said in message["facts"]:
            heard = Fact.heard(said, now)
            self._merge(heard, name)
            known = self.facts[heard.address]
            believed: list[Client | None] = []
            if known.version != heard.version:
                better.append(known.said(now))
                # It may have either. Only what it has kept of a message says which.
                believed = [*peer.believes.get(heard.address, []), known.client]
                peer.fresh.add(heard.address)
            elif heard.address in its_behind:
                others = [Client(*client) for client in its_behind[heard.address]]
                believed = [*peer.believes.get(heard.address, []), *others]
            if peer.may_believe(heard.address, *believed, heard.client) or not heard.client:
                self._changed.add(heard.address)
            if self._is_behind(heard.address):
                again.append(heard.address)
        if message["last"]:
            peer.is_complete = True
        peer.said, peer.serves = tick, bool(message["serves"])
        share = [str(part) for part in message["share"]]
        if share != peer.share:
            peer.share = share
            self._changed.add(WRITER)
        return {"stream": stream, "number": number, "better": better, "again": again}

    def _merge(self, heard: Fact, name: str) -> None:
        known = self.facts.get(heard.address)
        if known is None:
            if heard.client:
                self._behind.setdefault(heard.address, [])
            self._keep(heard, name)
        elif (winner := newer(known, heard)) is not known:
            if winner.client or known.client:
                before = self._behind.setdefault(heard.address, [])
                if known.client and known.client not in before:
                    before.append(known.client)
            # One that is made of both is news for the peer, too.
            self._keep(winner, name if winner.version == heard.version else "")

    # --- what survives ----------------------------------------------------------------------------

    def unsaved(self) -> set[str]:
        """The addresses of which something is not kept yet."""
        return set(self._changed)

    def save(self) -> None:
        """Keep what has changed. Raises OSError as the store does; then it is still to be kept."""
        texts = self.collect()
        try:
            self._store.write(texts)
        except OSError:
            self.not_saved(texts)
            raise

    def collect(self) -> dict[str, str | None]:
        """What has changed, for the store. From now on it counts as kept."""
        addresses = sorted(self._changed - {WRITER})
        texts = {address: self._text(address) for address in addresses}
        texts[WRITER] = self._own_text()
        self._changed = set()
        return texts

    def _own_text(self) -> str:
        shares = {peer.name: peer.share for peer in self.peers.values() if peer.share is not None}
        return json.dumps([self.writer, self._count, shares])

    def not_saved(self, texts: Iterable[str]) -> None:
        """The store did not take what was collected."""
        # The writer's goes with any other one.
        self._changed |= ({*texts} - {WRITER}) or {WRITER}

    def _text(self, address: str) -> str | None:
        fact = self.facts.get(address)
        believed = {
            peer.name: [[client.mac, client.identifier] for client in peer.believes[address]]
            for peer in self.peers.values()
            if address in peer.believes
        }
        if fact and not fact.client and self._is_behind(address):
            self._owed.add(address)
        is_due = address in self._owed or any(
            address in peer.under_way for peer in self.peers.values()
        )
        if fact and not fact.client and not believed and not is_due:
            # Everybody knows that it is free.
            del self.facts[address]
            fact = None
        return json.dumps([address, _plain(fact), believed]) if fact or believed else None

    def _restore(self, saved: list[Any]) -> None:
        address, plain, believed = saved
        if plain:
            client, until, since, name, node, version = plain
            self.facts[address] = Fact(
                address, Client(*client) if client else None, until, since, name, node, version
            )
        for name, clients in believed.items():
            if name in self.peers:
                self.peers[name].believes[address] = [Client(*client) for client in clients]


def _plain(fact: Fact | None) -> list[Any] | None:
    if fact is None:
        return None
    client = [fact.client.mac, fact.client.identifier] if fact.client else None
    return [client, fact.until, fact.since, fact.name, fact.node, fact.version]
