#!/usr/bin/env python3
"""How long a failover is noticed: `make bench-failover`.

    failover.py [--runs 50] [--profiles fast,normal,lossy,article] [--sessions 200,2000,10000]
                [--networks 1,10,60]

For each profile so many crashes (the primary's cables leave the switch, at any moment between two
adverts) and so many clean hand-overs (keepalived is stopped where the virtual IP is), under a probe
of one datagram per millisecond through NAT. `article` is the configuration that is usual for this
(VRRP version 2, adverts each second, notify scripts) on the same hosts. Then TCP sessions through
NAT over a crash, in growing number; and crashes with so many further networks behind the pair,
under a datagram each 10 ms from each of them. Prints p50, p95 and worst, and writes the
distribution to failover.svg beside this file and to the lab's out/bench-failover.json.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))

import checks
import crowd
import further
import measured
import pki
import svg
from engine import LabError
from lab import GATEWAYS, OUT, Lab, ProbeResult, ports, step
from measured import machine
from observe import Holder, Timeline

PICTURE = Path(__file__).with_suffix(".svg")
PROFILES = {"fast": 0.05, "normal": 0.1, "lossy": 1.0, "article": 1.0}  # s between adverts
# The default of preempt_delay keeps a primary that returned waiting. Crashes come one after the
# other here, so it is short; hand-overs go back and forth, so it is long.
QUICK, NEVER = 1, 600
SERIES = {
    "crash": "primary vanishes",
    "handover": "clean hand-over",
    # Its forwarder goes on until the other one announces itself; what asks the virtual IP waits.
    "vacancy": "clean hand-over: the virtual IP is nowhere",
}

# Keywords as in every tutorial; whatever is not said is keepalived's default.
ARTICLE = """
global_defs {{
    router_id {name}
    enable_script_security
    script_user root
}}
vrrp_instance VI_1 {{
    state {state}
    interface eth0
    virtual_router_id 51
    priority {priority}
    advert_int 1
    authentication {{
        auth_type PASS
        auth_pass gateway
    }}
    virtual_ipaddress {{
        10.77.0.1/24
    }}
    notify_master "/etc/keepalived/follow.sh start"
    notify_backup "/etc/keepalived/follow.sh stop"
    notify_fault "/etc/keepalived/follow.sh stop"
}}
"""
ARTICLE_SCRIPT = "#!/bin/sh\nexec systemctl $1 gateway-dhcp\n"


class Bench:
    """The pair under a probe, and who of the two has the virtual IP."""

    def __init__(self, lab: Lab, stack: ExitStack) -> None:
        self.lab = lab
        self.holders = {name: Holder(lab.host(name), (checks.VIRTUAL_IP,)) for name in GATEWAYS}
        for holder in self.holders.values():
            stack.callback(holder.end)

    def masters(self) -> list[str]:
        return [name for name, holder in self.holders.items() if holder.held()]

    def wait_for_one(self, *names: str, calm: float = 1.0, timeout: float = 60) -> str:
        """Return who has been the only holder for so many seconds, if it is one of these."""
        end = time.monotonic() + timeout
        since, last = time.monotonic(), self.masters()
        while time.monotonic() < since + calm:
            now = self.masters()
            if now != last or len(now) != 1 or now[0] not in names:
                since, last = time.monotonic(), now
            if time.monotonic() > end:
                raise LabError(f"the virtual IP is on {now} and not on one of {names}")
            time.sleep(0.005)
        return last[0]

    def wait_until_on(self, name: str, timeout: float = 30) -> None:
        end = time.monotonic() + timeout
        while name not in self.masters():
            if time.monotonic() > end:
                raise LabError(f"{name} did not take the virtual IP")
            time.sleep(0.002)

    def crash(self, interval: float) -> tuple[float, float]:
        """Let gw1 vanish and return; return from when until when it was away."""
        self.wait_for_one("gw1")
        time.sleep(random.uniform(0, interval))
        start = time.monotonic()
        try:
            self.lab.isolate("gw1")
            self.wait_until_on("gw2")
            time.sleep(0.4)
        finally:
            end = time.monotonic()
            self.lab.rejoin("gw1")
        return start, end

    def handover(self, interval: float) -> tuple[float, float]:
        """Stop keepalived where the virtual IP is; return from when until when it was stopped."""
        # Ready means: it listens, and was there long enough to hear the other one.
        master = self.wait_for_one(*GATEWAYS, calm=1.5 + interval)
        time.sleep(random.uniform(0, interval))
        other = next(name for name in GATEWAYS if name != master)
        start = time.monotonic()
        try:
            self.lab.host(master).run("systemctl stop keepalived")
            self.wait_until_on(other)
            time.sleep(0.4)
        finally:
            end = time.monotonic()
            self.lab.host(master).run("systemctl start keepalived")
        return start, end

    def measure(self, what: str, runs: int, interval: float) -> dict[str, list[float]]:
        """Return the longest outage of each run in ms, 0 where nothing was lost; of hand-overs
        also for how long nobody had the virtual IP."""
        play = {"crash": self.crash, "handover": self.handover}[what]
        with self.lab.probe(seconds=1500) as probe:
            spans = [play(interval) for _ in range(runs)]
            self.wait_for_one(*GATEWAYS)
        found = {what: [longest(probe.result, *span) for span in spans]}
        if what == "handover":
            found["vacancy"] = [round(self.history(*span).nobody_ms, 1) for span in spans]
        return found

    def history(self, since: float, until: float) -> Timeline:
        """Return who had the virtual IP in this time."""
        changes = [
            (when, name, bool(held))
            for name, holder in self.holders.items()
            for when, held in holder.changes
        ]
        return Timeline.of_changes(changes, 0, until).between(since, until)


def longest(result: ProbeResult, since: float, until: float) -> float:
    """Return the longest outage in ms of this time. What was under way at its begin counts."""
    found = (o.ms for o in result.all_outages if since < o.end and o.start < until)
    return round(max(found, default=0.0), 1)


def percentile(values: list[float], share: float) -> float:
    """Return the value that so large a share of them does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 100) * len(ordered) // 100) - 1)]


# --- configurations -----------------------------------------------------------------------------


def pillar(profile: str, delay: int) -> dict[str, Any]:
    """Return what is merged over pillar.example for a profile."""
    return {
        "public": {"virtual_ip": checks.PUBLIC_VIRTUAL_IP},
        **checks.STATE_SYNC,
        "failover": {"profile": profile, "preempt_delay": delay},
    }


def apply(lab: Lab, gateway: dict[str, Any]) -> None:
    lab.set_pillar({"gateway": gateway})
    for name, result in lab.apply().items():
        if failed := checks.failures(result):
            raise LabError(f"apply on {name}: {failed}")


def use_article(lab: Lab) -> None:
    """The usual configuration in the place of the formula's, until it is applied again."""
    apply(lab, {})
    for name, state, priority in (("gw1", "MASTER", 101), ("gw2", "BACKUP", 100)):
        host = lab.host(name)
        config = ARTICLE.format(name=name, state=state, priority=priority)
        host.write("/etc/keepalived/follow.sh", ARTICLE_SCRIPT, 0o755)
        host.write("/etc/keepalived/keepalived.conf", config)
        # Multicast and without the formula's own helpers.
        host.run("iptables -I INPUT -p vrrp -j ACCEPT")
        host.run("systemctl stop gateway-follow; systemctl stop gateway-health", check=False)
        host.run("systemctl restart keepalived")


def leave_article(lab: Lab) -> None:
    for name in GATEWAYS:
        host = lab.host(name)
        host.run("iptables -D INPUT -p vrrp -j ACCEPT; rm -f /etc/keepalived/follow.sh", False)
        host.run("ip address del 10.77.0.1/24 dev eth0", check=False)
    apply(lab, {})


# --- sessions -----------------------------------------------------------------------------------


def sessions(bench: Bench, count: int) -> dict[str, float]:
    """What a crash does to so many TCP sessions through NAT."""
    interval = 0.1 if count <= 500 else 1.0
    bench.wait_for_one("gw1")
    bench.lab.forget_connections()
    with bench.lab.sessions(count, interval=interval, seconds=300) as load:
        time.sleep(3)
        bench.crash(PROFILES["normal"])
        bench.wait_for_one(*GATEWAYS)
    result = load.result
    stalls = list(result.stalls_ms) or [0.0]
    return {
        "count": count,
        "opened": result.opened,
        "alive": result.alive,
        "stall_p50_ms": round(percentile(stalls, 0.5), 1),
        "stall_worst_ms": round(max(stalls), 1),
    }


# --- further networks ---------------------------------------------------------------------------


def networks(bench: Bench, count: int, runs: int) -> dict[str, Any]:
    """What crashes do to so many further networks: the longest outage of each network in each run,
    and in how much time the other gateway announced itself in all of them, in ms."""
    more, cards = further.many(count)
    spans = []
    with bench.lab.further(cards), crowd.crowd(cards):
        apply(bench.lab, pillar("normal", QUICK) | more)
        bench.wait_for_one("gw1")
        time.sleep(3)  # each has asked for its router
        with crowd.CrowdProbe(cards, seconds=1500) as probe:
            for _ in range(runs):
                spans.append(bench.crash(PROFILES["normal"]))
            bench.wait_for_one(*GATEWAYS)
        macs = {network: ports("gw2")[card["card"]].mac for network, card in cards.items()}
        apply(bench.lab, pillar("normal", QUICK))
    result = probe.result
    outages = [list(result.outages_ms(start - 0.05, end).values()) for start, end in spans]
    return {
        "count": count,
        "outages_ms": [round(ms, 1) for each in outages for ms in each],
        "announced_ms": [round(result.announcements_ms(macs, start), 1) for start, _ in spans],
    }


# --- the report ---------------------------------------------------------------------------------


def rows(found: dict[str, dict[str, list[float]]]) -> list[svg.Row]:
    """Return the rows of the picture, by what happened."""
    intervals = {name: f"{seconds:g} s" for name, seconds in PROFILES.items()}
    return [
        svg.Row(
            text,
            f"{profile} ({intervals[profile]})",
            values[what],
            percentile(values[what], 0.5),
            percentile(values[what], 0.95),
        )
        for what, text in SERIES.items()
        for profile, values in found.items()
        if values.get(what)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="How long a failover is noticed.")
    parser.add_argument("--runs", type=int, default=50, help="crashes and hand-overs per profile")
    parser.add_argument("--profiles", default=",".join(PROFILES))
    parser.add_argument("--sessions", default="200,2000,10000", help="numbers, or nothing")
    parser.add_argument("--networks", default="1,10,60", help="numbers, or nothing")
    parser.add_argument("--out", type=Path, default=PICTURE, help="the picture")
    options = parser.parse_args()
    profiles = [name for name in options.profiles.split(",") if name]
    counts = [int(count) for count in options.sessions.split(",") if count]
    found: dict[str, dict[str, list[float]]] = {}
    survived: list[dict[str, float]] = []
    further_networks: list[dict[str, Any]] = []
    with Lab().visit() as lab, ExitStack() as stack:
        pki.distribute(lab)
        bench = Bench(lab, stack)
        stack.callback(apply, lab, {})
        for profile in profiles:
            measured = found[profile] = {}
            for what, delay in (("crash", QUICK), ("handover", NEVER)):
                if profile != "article":
                    apply(lab, pillar(profile, delay))
                elif what == "crash":
                    use_article(lab)
                with step(f"{profile}: {options.runs} times {SERIES[what]}"):
                    measured |= bench.measure(what, options.runs, PROFILES[profile])
            if profile == "article":
                leave_article(lab)
        if counts:
            apply(lab, pillar("normal", QUICK))
        for count in counts:
            with step(f"a crash under {count} TCP sessions"):
                survived.append(sessions(bench, count))
        for number in (int(count) for count in options.networks.split(",") if count):
            with step(f"{options.runs} crashes with {number} further networks"):
                further_networks.append(networks(bench, number, options.runs))
    report(found, survived, further_networks, options.out)


def report(
    found: dict[str, dict[str, list[float]]],
    survived: list[dict[str, float]],
    further_networks: list[dict[str, Any]],
    picture: Path,
) -> None:
    """Print the figures, and write them and the picture."""
    drawn = rows(found)
    if drawn:
        measured.keep(
            "failover",
            ["what happens", "profile (adverts)", "runs", "p50", "p95", "worst"],
            [
                [each.group, each.name, str(len(each.values))]
                + [f"{ms:.0f} ms" for ms in (each.p50, each.p95, max(each.values))]
                for each in drawn
            ],
        )
        subtitle = f"a datagram each ms through NAT; {machine()}, all hosts in containers on it"
        picture.write_text(svg.dots("How long the network is away", subtitle, drawn))
    if survived:
        measured.keep(
            "sessions",
            ["TCP sessions", "alive", "stall, median", "stall, worst"],
            [
                [
                    f"{each['opened']:,.0f}",
                    f"{each['alive'] / max(each['opened'], 1):.1%}",
                    f"{each['stall_p50_ms']:.0f} ms",
                    f"{each['stall_worst_ms']:.0f} ms",
                ]
                for each in survived
            ],
        )
    if further_networks:
        measured.keep(
            "failover-networks",
            ["further networks", "crashes", "p50", "p95", "worst", "announced within"],
            [
                [f"{each['count']}", f"{len(each['announced_ms'])}"]
                + [
                    f"{ms:.0f} ms"
                    for ms in (
                        percentile(each["outages_ms"], 0.5),
                        percentile(each["outages_ms"], 0.95),
                        max(each["outages_ms"]),
                        max(each["announced_ms"]),
                    )
                ]
                for each in further_networks
            ],
        )
    result = {
        "machine": machine(),
        "outages_ms": found,
        "sessions": survived,
        "networks": further_networks,
    }
    (OUT / "bench-failover.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
