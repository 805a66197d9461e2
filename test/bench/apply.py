#!/usr/bin/env python3
"""How long an apply with nothing to do takes on gw1, beside an empty SLS: `make bench`.

Prints medians of salt-call (masterless, so that no network is in it) for the example's site, for
one with 10,000 hosts more, and for sites with one and with sixty further networks: seconds by the
clock, and of the processor. A site of that size comes from an inventory, so its pillar is JSON.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))

import checks
import further
import measured
import pki
from lab import Host, Lab

RUNS = 7
HOSTS = 10_000
NETWORKS = 1, 60
CALL = "salt-call --config-dir /etc/salt/masterless --out=json"
EMPTY = "/srv/bench"


def many_hosts() -> dict[str, Any]:
    """As many hosts outside the DHCP pool, in a wider internal network."""
    hosts = {
        f"host{number}": {
            "ip": f"10.77.{number // 250 + 1}.{number % 250 + 1}",
            "mac": f"02:01:00:00:{number >> 8:02x}:{number & 255:02x}",
        }
        for number in range(HOSTS)
    }
    return {"internal": {"network": "10.77.0.0/16"}, "hosts": hosts}


def apply_once(host: Host, command: str) -> tuple[float, float]:
    """Run it; its seconds, and those of the processor. Fails if a state failed or did something."""
    start = time.monotonic()
    said = host.run(f"{command} > {EMPTY}/result.json; times", timeout=180).stdout
    seconds = time.monotonic() - start
    results = checks.local(host, f"cat {EMPTY}/result.json")
    if checks.failures(results) or checks.changes(results):
        raise SystemExit(f"{command}: {checks.failures(results)} {checks.changes(results)}")
    # The second line of a shell's `times` is its children's: in themselves, and in the kernel.
    of_processor = sum(
        60 * int(minutes) + float(rest)
        for minutes, rest in re.findall(r"(\d+)m([\d.]+)s", said.splitlines()[-1])
    )
    return seconds, of_processor


def measure(host: Host, *commands: str) -> list[tuple[float, float]]:
    """Median seconds of each command, by the clock and of the processor, taken in turns."""
    samples = [[apply_once(host, command) for command in commands] for _ in range(RUNS)]
    return [
        (
            statistics.median(pair[0] for pair in column),
            statistics.median(pair[1] for pair in column),
        )
        for column in zip(*samples, strict=True)
    ]


def main() -> None:
    with Lab().visit() as lab:
        pki.distribute(lab)
        lab.apply()  # it brings the modules, which the pillar's line asks for
        with pki.masterless(lab, "gw1"):
            rows = bench(lab)
    # By the clock and of the processor, for each site.
    small = [seconds for _, _, seconds in rows[:2]]
    measured.keep(
        "apply",
        ["nothing to do", "empty SLS", "gateway", "factor", "to the example's"],
        [
            [
                name,
                f"{nothing:.2f} s",
                f"{seconds:.2f} s",
                f"{seconds / nothing:.2f}",
                f"{seconds / small[number % 2]:.2f}",
            ]
            for number, (name, nothing, seconds) in enumerate(rows)
        ],
    )


def bench(lab: Lab) -> list[tuple[str, float, float]]:
    """Name of the site, seconds of an empty SLS, seconds of the formula."""
    gw1 = lab.host("gw1")
    gw1.write(f"{EMPTY}/empty.sls", "{}\n")
    empty = f"{CALL} --local --file-root={EMPTY} state.apply empty"
    gateway = f"{CALL} state.apply gateway"
    rows: list[tuple[str, float, float]] = []

    def site(name: str, override: dict[str, Any]) -> None:
        lab.set_pillar({"gateway": override} if override else {})
        failed = checks.failures(checks.local(gw1, gateway))
        if failed:
            raise SystemExit(f"{name}: {failed}")
        nothing, everything = measure(gw1, empty, gateway)
        for kind, before, after in zip(("clock", "processor"), nothing, everything, strict=True):
            rows.append((f"{name}, {kind}", before, after))

    site("example site", {})
    # The larger site's network is wider than the interface's.
    gw1.run("ip route add 10.77.0.0/16 dev eth0")
    site(f"{HOSTS:,} hosts more", many_hosts())
    gw1.run("ip route del 10.77.0.0/16 dev eth0")
    for count in NETWORKS:
        networks, cards = further.many(count)
        with lab.further(cards):
            site(f"{count} further network{'s' if count > 1 else ''}", networks)
            lab.set_pillar({})
            checks.local(gw1, gateway)
    lab.set_pillar({})
    checks.local(gw1, gateway)
    return rows


if __name__ == "__main__":
    main()
