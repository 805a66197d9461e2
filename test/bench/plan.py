#!/usr/bin/env python3
"""How long the planner and the firewall's compiler take for sites of up to 10,000 hosts."""

import statistics
import sys
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "_modules"))

import gateway_plan  # noqa: E402
import gateway_rules  # noqa: E402

SIZES = (10, 1), (100, 10), (1_000, 100), (10_000, 1_000), (10_000, 10_000)  # hosts, forwards
RUNS = 5
FIRST_HOST = IPv4Address("10.77.1.0")


def pillar(hosts: int, forwards: int) -> dict[str, Any]:
    """The site of pillar.example in a larger network, with other hosts and forwards."""
    example = yaml.safe_load((ROOT / "pillar.example").read_text(encoding="utf-8"))
    site: dict[str, Any] = example["gateway"]
    site["internal"]["network"] = "10.77.0.0/16"
    site["hosts"] = {
        f"host{number:05}": {
            "ip": str(FIRST_HOST + number),
            "mac": f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}",
            "aliases": [f"alias{number:05}"],
        }
        for number in range(hosts)
    }
    site["nat"]["forwards"] = [
        {"port": 10_000 + number, "to": f"host{number:05}"} for number in range(forwards)
    ]
    return site


def seconds(site: dict[str, Any]) -> tuple[float, float, float]:
    """How long reading the site, planning one node and compiling its rules take, in seconds."""
    start = time.perf_counter()
    checked, errors = gateway_plan.read(site)
    after_read = time.perf_counter()
    if checked is None:
        raise SystemExit("\n".join(errors))
    plan = gateway_plan.plan(checked, "gw1")
    after_plan = time.perf_counter()
    gateway_rules.ruleset(plan)
    return after_read - start, after_plan - after_read, time.perf_counter() - after_plan


def main() -> None:
    print(f"{'hosts':>6} {'forwards':>8} {'read':>10} {'plan':>10} {'compile':>10} {'all':>10}")
    for hosts, forwards in SIZES:
        site = pillar(hosts, forwards)
        runs = [seconds(site) for _ in range(RUNS)]
        steps = [statistics.median(column) * 1000 for column in zip(*runs, strict=True)]
        shown = " ".join(f"{step:7.1f} ms" for step in (*steps, sum(steps)))
        print(f"{hosts:6} {forwards:8} {shown}")


if __name__ == "__main__":
    main()
