"""How a row of the fault matrix is played, judged and shown."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import checks
import cloud
from crowd import Cards, CrowdResult
from faults import CARDS, SITES, Fault, Must, Stage
from lab import GATEWAYS, Lab, ports
from observe import Observation, Record, Timeline


@dataclass
class Outcome:
    """What came of a row."""

    name: str
    site: str
    figures: dict[str, Any] = field(default_factory=dict)
    masters: str = ""
    failed: list[str] = field(default_factory=list)
    whole: bool = False  # the site was as it should be at the end


def whole(stage: Stage) -> str:
    """Return what is not as it should be, "" for a site that needs nobody."""
    lab = stage.lab
    held = {name: checks.addresses(lab, name) for name in GATEWAYS}
    for address in stage.addresses:
        if (now := [name for name in GATEWAYS if address in held[name]]) != ["gw1"]:
            return f"{address} is on {' and '.join(now) or 'no gateway'}"
    for name, status in lab.salt("gw*", "gateway.status", timeout=20).items():
        problems = status["problems"] if isinstance(status, dict) else [status]
        if problems:
            return f"{name}: {'; '.join(problems)}"
    page = checks.http(lab.host("backend01"), f"http://{checks.INTERNET}/")
    return "" if page.startswith("internet saw") else "no internet"


def wait_whole(stage: Stage, seconds: float) -> str:
    """Return what is still amiss after so many seconds at most."""
    return str(checks.eventually(lambda: whole(stage), lambda amiss: not amiss, seconds))


def settle(stage: Stage, seconds: float) -> None:
    """Return when the virtual IPs have been on gw1 alone for a second, or when time is up."""
    assert stage.seen
    end = time.monotonic() + seconds
    since = time.monotonic()
    while time.monotonic() < end and time.monotonic() < since + 1:
        if any(stage.seen.masters(address) != ["gw1"] for address in stage.addresses):
            since = time.monotonic()
        time.sleep(0.02)


def claimed_after(lab: Lab, healed: float) -> float:
    """Return after how many seconds the cloud's address came to where it is, which has to be where
    the kernel has the virtual IP."""
    when, who = cloud.claims(lab)[-1]
    return max(0.0, when - healed) if [who] == checks.holders(lab) else float("inf")


def play(lab: Lab, fault: Fault) -> Outcome:
    """Break, watch, mend, watch, and say what of the promises was not kept."""
    stage = Stage(lab, SITES[fault.site], CARDS.get(fault.site, {}))
    try:
        for step in fault.before:
            step(stage)
        lab.forget_connections()
        intruder = fault.must.reached is not None
        with Observation(
            lab, addresses=stage.addresses, intruder=intruder, cards=stage.cards
        ) as stage.seen:
            time.sleep(1)
            broken = time.monotonic()
            try:
                for step in fault.breaks:
                    step(stage)
                time.sleep(fault.seconds)
            finally:
                mended = time.monotonic()
                for step in fault.mends:
                    step(stage)
                healed = time.monotonic()
            settle(stage, fault.must.whole_s)
            claimed = None
            if fault.must.claimed_s is not None:
                time.sleep(max(0.0, healed + fault.must.claimed_s - time.monotonic()))
                claimed = claimed_after(lab, healed)
        record = stage.seen.record
        stage.seen = None
    finally:
        for step in fault.after:
            step(stage)
    amiss = wait_whole(stage, max(5.0, fault.must.whole_s - (time.monotonic() - mended)))
    outcome = judge(fault, record, broken, mended, healed, claimed, stage.cards)
    outcome.figures["whole_s"] = round(time.monotonic() - mended, 1)
    outcome.whole = not amiss
    if amiss:
        outcome.failed.append(f"not whole again after {fault.must.whole_s:g} s: {amiss}")
    return outcome


def judge(
    fault: Fault,
    record: Record,
    broken: float,
    mended: float,
    healed: float,
    claimed_s: float | None = None,
    cards: Cards | None = None,
) -> Outcome:
    """Compare what was seen with what must hold. Mending went on from `mended` to `healed`."""
    must = fault.must
    watched = healed if must.parted else broken  # for more than one at once
    holders = record.holders[checks.VIRTUAL_IP]
    sessions = record.sessions

    def longest(timelines: list[Timeline]) -> float:
        return max(line.between(watched, record.end).several_ms for line in timelines)

    outcome = Outcome(fault.name, fault.site, masters=holders.text(broken))
    found: dict[str, float] = {
        # What was under way when it broke counts.
        "outage_ms": record.outage_ms(broken - 0.05, mended),
        "heal_ms": record.outage_ms(mended),
        "dns_ms": record.dns_ms(broken - 0.05),
        "moves": holders.moves,
        "two_masters_ms": longest(list(record.holders.values())),
        "two_dhcp_ms": longest([record.dhcp]),
    }
    if record.reached is not None:
        found["reached"] = record.reached
    if claimed_s is not None:
        found["claimed_s"] = claimed_s
    if sessions:
        found["stall_ms"] = sessions.worst_stall_ms
        found["lost_sessions"] = sessions.opened - sessions.alive
    if record.crowd and cards:
        of_crowd = judged_crowd(record.crowd, must, cards, broken, mended, healed)
        found["heal_ms"] = max(found["heal_ms"], of_crowd.pop("heal_ms"))
        found |= of_crowd
    for name, value in found.items():
        limit = getattr(must, name)
        if limit is not None and value > limit:
            outcome.failed.append(f"{name} is {value:.0f}, allowed {limit:.0f}")
    outcome.figures = {name: round(value, 1) for name, value in found.items()} | {
        "total_ms": round(record.total_ms(broken - 0.05), 1),
        "lost": record.lost(broken - 0.05),
        "sessions": sessions.opened if sessions else 0,
        "deaths": sessions.deaths if sessions else {},
        "nobody_ms": round(holders.nobody_ms, 1),
        "two_at_all_ms": round(holders.several_ms, 1),
        "two_arp_ms": round(record.arp.several_ms, 1),
        "parted_s": round(mended - broken, 1),
    }
    return outcome


def judged_crowd(
    crowd: CrowdResult, must: Must, cards: Cards, broken: float, mended: float, healed: float
) -> dict[str, float]:
    """What further networks noticed: the longest outage of all that could be served, what came
    when it was mended, how late those came back that could not, and how long it took the other
    gateway to announce itself in all of them."""
    then, later = crowd.outages_ms(broken - 0.05, mended), crowd.outages_ms(mended)
    found = {
        "further_ms": max(ms for network, ms in then.items() if network not in must.dead),
        "heal_ms": max(later.values()),
    }
    worst = [crowd.worst(network, broken - 0.05, mended) for network in must.dead]
    if must.dead:
        found["back_ms"] = max((each.end - healed) * 1000 if each else 0.0 for each in worst)
    if must.announced_ms is not None:
        macs = {network: ports("gw2")[card["card"]].mac for network, card in cards.items()}
        found["announced_ms"] = crowd.announcements_ms(macs, broken)
    return found


# --- the table ----------------------------------------------------------------------------------

COLUMNS = {  # title: figure
    "outage": "outage_ms",
    "further": "further_ms",
    "heal": "heal_ms",
    "lost": "lost",
    "dns": "dns_ms",
    "stall": "stall_ms",
    "cut": "lost_sessions",
    "moves": "moves",
    "two": "two_masters_ms",
    "dhcp": "two_dhcp_ms",
    "whole": "whole_s",
}


def header() -> str:
    """Return the head of the table: ms, but for what is counted and `whole`, in s."""
    return f"{'fault':50}" + "".join(f"{title:>8}" for title in COLUMNS) + "  masters"


def line(outcome: Outcome) -> str:
    """Return one row of the table."""
    figures = (f"{outcome.figures.get(name, float('nan')):8.0f}" for name in COLUMNS.values())
    verdict = "".join(f"\n    FAILED: {text}" for text in outcome.failed)
    return f"{outcome.name:50}{''.join(figures)}  {outcome.masters}{verdict}"


# --- the table in docs/measurements.md ----------------------------------------------------------

DOCUMENTED = ["broken", "outage", "when it mends", "DNS away", "200 TCP sessions, stall", "promise"]


def lasted(ms: float) -> str:
    """An outage, in words."""
    return f"{ms:.0f} ms" if ms else "nothing lost"


def documented(outcome: Outcome) -> list[str]:
    """Return the cells of DOCUMENTED, for people."""
    figures = outcome.figures
    if not figures:
        return [outcome.name, "not run", "", "", "", ""]
    lost = figures["lost_sessions"]
    sessions = "all live" if not lost else f"{lost} of {figures['sessions']} cut"
    further = (
        f"; further networks {lasted(figures['further_ms'])}" if "further_ms" in figures else ""
    )
    announced = (
        f", announced within {figures['announced_ms']:.0f} ms" if "announced_ms" in figures else ""
    )
    return [
        outcome.name,
        f"{lasted(figures['outage_ms'])}{further}{announced}",
        lasted(figures["heal_ms"]),
        f"{figures['dns_ms']:.0f} ms",
        f"{sessions}, {figures['stall_ms']:.0f} ms",
        "failed" if outcome.failed else "held",
    ]
