#!/usr/bin/env python3
"""How long the planner and the firewall's compiler take for sites of up to 10,000 hosts."""

import statistics
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "_modules"), str(ROOT / "test/lab")]

import _gateway_plan  # noqa: E402
import _gateway_rules  # noqa: E402
import measured  # noqa: E402

SIZES = (10, 1), (100, 10), (1_000, 100), (10_000, 1_000), (10_000, 10_000)  # hosts, forwards
RUNS = 5
NETWORKS = (0, 0), (1, 0), (10, 0), (60, 0), (0, 100), (60, 100)  # and routes
MANY = 1_000, 2_000, 4_000  # of one kind of entry
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
            "aliases": [f"alias{number:05}", f"alias{number:05}.example.org", f"*.w{number:05}"],
        }
        for number in range(hosts)
    }
    site["nat"]["forwards"] = [
        {"port": 10_000 + number, "to": f"host{number:05}"} for number in range(forwards)
    ]
    return site


def name(number: int) -> str:
    return f"client{number:05}"


def with_clients(entries: int, **keys: Any) -> dict[str, Any]:
    """A site with VPN subnets that have room for them; a key's value may depend on the number."""
    site = pillar(10, 1)
    site["vpn"]["servers"]["main"].update(network="10.128.0.0/12", prefix=16)
    site["vpn"]["clients"] = {
        name(number): {key: value(number) for key, value in keys.items()}
        for number in range(entries)
    }
    return site


def with_rules(entries: int, kind: str) -> dict[str, Any]:
    """A rule of the firewall that names its own host or client."""
    if kind == "client":
        site = with_clients(entries, id=lambda number: number + 2)
        names = [name(number) for number in range(entries)]
    else:
        site = pillar(entries, 1)
        names = list(site["hosts"])
    site["firewall"] = {
        "forward": [{"from": each, "to": "public", "proto": "tcp", "ports": 25} for each in names]
    }
    return site


def with_group(entries: int) -> dict[str, Any]:
    site = pillar(entries, 1)
    site["firewall"] = {"groups": {"all": list(site["hosts"])}, "forward": [{"from": "all"}]}
    return site


def one_to_one(entries: int) -> dict[str, Any]:
    site = pillar(entries, 1)
    site["public"]["network"] = "198.18.0.0/15"
    for node, number in (("gw1", 2), ("gw2", 3)):
        site["nodes"][node]["public"] = f"198.18.0.{number}"
    first = IPv4Address("198.18.1.0")
    site["public"]["virtual_ip"] = "198.18.0.1"
    site["public"]["addresses"] = [str(first + number) for number in range(entries)]
    site["nat"]["one_to_one"] = [
        {"address": str(first + number), "to": each} for number, each in enumerate(site["hosts"])
    ]
    return site


def with_networks(networks: int, routes: int) -> dict[str, Any]:
    """A third of them trusted, a third isolated, each with DHCP; routes by routers in all of them,
    and a host that has an address in each."""
    site = pillar(10, 1)
    prefixes = [f"10.{100 + number}.0" for number in range(networks)]
    site["networks"] = {
        f"network{number:02}": {
            "interface": f"eth0.{number + 10}",
            "network": f"{prefix}.0/24",
            "virtual_ip": f"{prefix}.1",
            "trusted": number % 3 == 0,
            "isolated": number % 3 == 1,
            "dhcp": {"pool": f"{prefix}.50-{prefix}.99"},
        }
        for number, prefix in enumerate(prefixes)
    }
    routers = [f"{prefix}.9" for prefix in prefixes] or ["10.77.0.9"]
    site["routes"] = [
        {"network": f"172.20.{number}.0/24", "via": routers[number % len(routers)]}
        for number in range(routes)
    ]
    if prefixes:
        site["hosts"]["everywhere"] = {
            "ip": [f"{prefix}.10" for prefix in prefixes],
            "mac": "06:00:00:00:00:01",
        }
    return site


# What a pillar may have thousands of.
KINDS: dict[str, Callable[[int], dict[str, Any]]] = {
    "hosts": lambda entries: pillar(entries, 1),
    "forwards": lambda entries: (
        pillar(10, 1)
        | {"nat": {"forwards": [{"port": 10_000 + n, "to": "host00000"} for n in range(entries)]}}
    ),
    "clients, an address each": lambda entries: with_clients(entries, id=lambda n: n + 2),
    "clients, a network each": lambda entries: with_clients(
        entries, networks=lambda n: [str(IPv4Address("172.16.0.0") + 256 * n) + "/24"]
    ),
    "rules that name a host": lambda entries: with_rules(entries, "host"),
    "rules that name a client": lambda entries: with_rules(entries, "client"),
    "members of a group": with_group,
    "1:1 addresses": one_to_one,
}


def seconds(site: dict[str, Any]) -> tuple[float, float, float]:
    """How long reading the site, planning one node and compiling its rules take, in seconds."""
    start = time.perf_counter()
    checked, errors = _gateway_plan.read(site)
    after_read = time.perf_counter()
    if checked is None:
        raise SystemExit("\n".join(errors))
    plan = _gateway_plan.plan(checked, "gw1")
    after_plan = time.perf_counter()
    _gateway_rules.ruleset(plan)
    return after_read - start, after_plan - after_read, time.perf_counter() - after_plan


def main() -> None:
    rows = []
    for hosts, forwards in SIZES:
        site = pillar(hosts, forwards)
        runs = [seconds(site) for _ in range(RUNS)]
        steps = [statistics.median(column) * 1000 for column in zip(*runs, strict=True)]
        times = [f"{step:.0f} ms" for step in (*steps, sum(steps))]
        rows.append([f"{hosts:,}", f"{forwards:,}", *times])
    measured.keep("plan", ["hosts", "forwards", "read", "plan", "compile", "all"], rows)
    rows = []
    for networks, routes in NETWORKS:
        site = with_networks(networks, routes)
        runs = [seconds(site) for _ in range(RUNS)]
        steps = [statistics.median(column) * 1000 for column in zip(*runs, strict=True)]
        times = [f"{step:.1f} ms" for step in (*steps, sum(steps))]
        rows.append([str(networks), str(routes), *times])
    headings = ["networks", "routes", "read", "plan", "compile", "all"]
    measured.keep("plan-networks", headings, rows)
    rows = []
    for kind, make in KINDS.items():
        totals = [
            statistics.median(sum(seconds(make(entries))) for _ in range(RUNS)) for entries in MANY
        ]
        times = [f"{total * 1000:.0f} ms" for total in totals]
        rows.append([kind, *times, f"{totals[-1] / totals[0]:.1f}"])
    growth = f"time for {MANY[-1] // MANY[0]} times as many"
    measured.keep("plan-many", ["entries", *(f"{many:,}" for many in MANY), growth], rows)


if __name__ == "__main__":
    main()
