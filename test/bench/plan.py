#!/usr/bin/env python3
"""How long the planner takes for sites of 10 to 10,000 hosts, with a tenth as many forwards."""

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

SIZES = 10, 100, 1_000, 10_000
RUNS = 5
FIRST_HOST = IPv4Address("10.77.1.0")


def pillar(hosts: int) -> dict[str, Any]:
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
        {"port": 10_000 + number, "to": f"host{number:05}"} for number in range(hosts // 10)
    ]
    return site


def seconds(site: dict[str, Any]) -> tuple[float, float]:
    """How long reading the site and planning one node of it takes, in seconds."""
    start = time.perf_counter()
    checked, errors = gateway_plan.read(site)
    middle = time.perf_counter()
    if checked is None:
        raise SystemExit("\n".join(errors))
    gateway_plan.plan(checked, "gw1")
    return middle - start, time.perf_counter() - middle


def main() -> None:
    print(f"{'hosts':>6} {'forwards':>8} {'read':>10} {'plan':>10} {'both':>10} {'each host':>10}")
    for hosts in SIZES:
        site = pillar(hosts)
        runs = [seconds(site) for _ in range(RUNS)]
        read, plan = (statistics.median(column) * 1000 for column in zip(*runs, strict=True))
        both = read + plan
        print(
            f"{hosts:6} {hosts // 10:8} {read:7.1f} ms {plan:7.1f} ms {both:7.1f} ms"
            f" {both * 1000 / hosts:7.1f} us"
        )


if __name__ == "__main__":
    main()
