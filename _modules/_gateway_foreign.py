"""What other firewalls on a node refuse although the gateway lives from it.

A library in plain Python, like ``_gateway_plan``. The packets that have to get through
(``_gateway_foreign_packets``) walk through what iptables-save and nft print
(``_gateway_foreign_iptables``, ``_gateway_foreign_nft``). Whoever drops or rejects one of them,
before our rules are asked or whatever they say, is named.
"""

from dataclasses import dataclass

from _gateway_foreign_iptables import place_of_jump, plan_output, save_tables
from _gateway_foreign_nft import nft_tables
from _gateway_foreign_packets import Packet, Plan, arriving, packets
from _gateway_foreign_rules import PREFIX, Table, walk


@dataclass(frozen=True)
class Refusal:
    """Where packets end. ``rule`` is empty for a chain's policy; ``first``: ours come behind it."""

    program: str
    table: str
    chain: str
    rule: str
    owner: str
    first: bool = False


_Refusals = dict[Refusal, dict[str, None]]


def refusals(plan: Plan, backend: str, saves: dict[str, str], nft: list[str]) -> list[str]:
    """What others refuse and a gateway lives from, as sentences with the way out.

    backend
        In which iptables our rules are, or would be: ``nft`` or ``legacy``.
    saves
        The output of iptables-nft-save as ``nft`` and of iptables-legacy-save as ``legacy``, or "".
    nft
        The output of ``nft --json list table``, for each table that is foreign.
    """
    now: _Refusals = {}
    later: _Refusals = {}
    saved = [
        (kind == backend, table)
        for kind, text in saves.items()
        for table in save_tables(text, f"iptables-{kind}")
    ]
    for ours, table in saved:
        if ours and table.name == "filter" and "OUTPUT" in table.bases:
            plan_output(table, plan)
    tables = nft_tables(nft)
    for packet in packets(plan):
        for ours, table in saved:
            _ask_iptables(table, packet, ours, now, later)
        for table in tables:
            _note(now, _ask_nft(table, packet), packet)
    return [
        *(_sentence(refusal, "refuses", what) for refusal, what in now.items()),
        *(
            _sentence(refusal, "will, when our rules are loaded anew (at a boot), refuse", what)
            for refusal, what in later.items()
            if refusal not in now
        ),
    ]


def _note(refusals: _Refusals, refusal: Refusal | None, packet: Packet) -> None:
    if refusal:
        # In the order of the packets, each once.
        refusals.setdefault(refusal, {})[packet.what] = None


def _refused(
    table: Table, chain: str, packet: Packet, ours: bool = False, place: int | None = None
) -> Refusal | None:
    """Who refuses a packet that enters a table by one of its base chains."""
    end = walk(table, chain, packet, ours, place)
    # Where our jump is at the end of what was walked, our chain decides.
    policy = "accept" if place is not None else table.bases[chain][1]
    kind, where, rule = end or (policy, chain, "")
    # What our own chains refuse is the pillar's will.
    if kind != "drop" or where.startswith(PREFIX):
        return None
    return Refusal(table.program, table.name, where, rule, _owner(table, where, rule), ours)


def _ask_iptables(
    table: Table, packet: Packet, ours: bool, now: _Refusals, later: _Refusals
) -> None:
    before = arriving(packet)
    if before and "PREROUTING" in table.bases:
        _note(now, _refused(table, "PREROUTING", before), packet)
    if packet.chain not in table.bases:
        return
    # Ours accepts what comes in or passes; what goes out it leaves to the others.
    if not (ours and table.name == "filter") or packet.chain == "OUTPUT":
        _note(now, _refused(table, packet.chain, packet), packet)
        return
    place = place_of_jump(table, packet.chain)
    if any(rule.target.startswith(PREFIX) for rule in table.rules_of(packet.chain)):
        _note(now, _refused(table, packet.chain, packet, True), packet)
        _note(later, _refused(table, packet.chain, packet, True, place), packet)
    else:
        _note(now, _refused(table, packet.chain, packet, True, place), packet)


def _ask_nft(table: Table, packet: Packet) -> Refusal | None:
    hooks = {"prerouting": arriving(packet), packet.chain.lower(): packet}
    for chain, (hook, _) in table.bases.items():
        passing = hooks.get(hook)
        refusal = _refused(table, chain, passing) if passing else None
        if refusal:
            return refusal
    return None


def _owner(table: Table, chain: str, rule: str) -> str:
    """Whose a chain is, as far as it has a name."""
    if table.name == "inet firewalld" or any(name.endswith("_direct") for name in table.lines):
        return "firewalld"
    policy_of_ufw = not rule and any(name.startswith("ufw-") for name in table.lines)
    return "ufw" if chain.startswith("ufw-") or policy_of_ufw else ""


WAYS_OUT = {
    "ufw": "`ufw disable`, and write its rules as gateway:firewall:input and forward",
    "firewalld": "`systemctl disable --now firewalld`, and write its rules as"
    " gateway:firewall:input and forward",
}


def _sentence(refusal: Refusal, verb: str, refused: dict[str, None]) -> str:
    rule = refusal.rule.removeprefix(f"-A {refusal.chain} ")
    how = f"{refusal.program}: table {refusal.table}, chain {refusal.chain}, "
    how += f"rule {rule}" if rule else "policy drop"
    who = f"{refusal.owner} ({how})" if refusal.owner else how
    way = "take that away, or let it pass there before"
    if refusal.program == "nft":
        way = (
            "let it pass there too, by plain rules, or delete the table where it is loaded from and"
            " write its rules as gateway:firewall:input and forward"
        )
    why = "before our rules are asked" if refusal.first else "whatever our rules say"
    what = ", ".join(refused)
    return f"on this node {who} {verb} {what}, {why}: {WAYS_OUT.get(refusal.owner, way)}"
