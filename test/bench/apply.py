#!/usr/bin/env python3
"""How long an apply with nothing to do takes on gw1, beside an empty SLS: `make bench`.

Prints medians of salt-call (masterless, so that no network is in it) for the example's site and for
one with 10,000 hosts more. A site of that size comes from an inventory, so its pillar is JSON.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))

import checks
import pki
from lab import Host, Lab

RUNS = 7
HOSTS = 10_000
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


def apply_once(host: Host, command: str) -> float:
    """Run it and return its seconds; fail if a state failed or changed something."""
    start = time.monotonic()
    results = checks.local(host, command)
    seconds = time.monotonic() - start
    if checks.failures(results) or checks.changes(results):
        raise SystemExit(f"{command}: {checks.failures(results)} {checks.changes(results)}")
    return seconds


def measure(host: Host, *commands: str) -> list[float]:
    """Median seconds of each command, taken in turns."""
    samples = [[apply_once(host, command) for command in commands] for _ in range(RUNS)]
    return [statistics.median(column) for column in zip(*samples, strict=True)]


def main() -> None:
    with Lab().visit() as lab:
        pki.distribute(lab)
        lab.apply()  # it brings the modules, which the pillar's line asks for
        with pki.masterless(lab, "gw1"):
            rows = bench(lab)
    print(f"\nNothing to do, median of {RUNS}  empty SLS   gateway   factor")
    for name, nothing, seconds in rows:
        print(f"{name:29}{nothing:9.2f} s {seconds:7.2f} s {seconds / nothing:8.2f}")
    print(f"many hosts / example site: {rows[1][2] / rows[0][2]:.2f}")


def bench(lab: Lab) -> list[tuple[str, float, float]]:
    """Name of the site, seconds of an empty SLS, seconds of the formula."""
    gw1 = lab.host("gw1")
    gw1.write(f"{EMPTY}/empty.sls", "{}\n")
    empty = f"{CALL} --file-root={EMPTY} state.apply empty"
    gateway = f"{CALL} state.apply gateway"
    rows: list[tuple[str, float, float]] = []
    sites: dict[str, dict[str, Any]] = {
        "example site": {},
        f"{HOSTS:,} hosts more": many_hosts(),
    }
    for name, override in sites.items():
        lab.set_pillar({"gateway": override} if override else {})
        checks.local(gw1, gateway)
        nothing, seconds = measure(gw1, empty, gateway)
        rows.append((name, nothing, seconds))
    lab.set_pillar({})
    checks.local(gw1, gateway)
    return rows


if __name__ == "__main__":
    main()
