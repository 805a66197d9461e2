#!/usr/bin/env python3
"""What further networks cost a gateway beside the apply: `make bench`.

For one, ten and sixty of them: a call of `gateway.validate` and of `gateway.status`, the firewall's
loader with other rules, and new connections and one TCP stream outwards from the last of them.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))

import checks
import crowd
import further
import measured
import pki
from firewall import CLOSED, CONNECT, SECONDS, swap_seconds
from lab import Lab, run

COUNTS = 1, 10, 60
RUNS = 5
IN_CROWD = ["ip", "netns", "exec", crowd.HOME, sys.executable, "-c"]
# As much as goes in so many seconds.
SEND = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 5001)) as session:
    end = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end:
        session.sendall(bytes(1 << 20))
"""
ANOTHER_RULE = r"0,/^-A GATEWAY-INPUT/s//-A GATEWAY-INPUT -i eth9 -j DROP\n&/"


def call(lab: Lab, function: str) -> float:
    """Seconds of a call on gw1, by a minion that runs."""
    start = time.monotonic()
    lab.salt("gw1", function)
    return time.monotonic() - start


def connections() -> float:
    """New connections in a second from the last network."""
    arguments = [checks.INTERNET, str(CLOSED), str(SECONDS)]
    return float(run([*IN_CROWD, CONNECT, *arguments]).stdout)


def stream(lab: Lab) -> float:
    """Gigabits in a second of one TCP connection from the last network."""
    sink = lab.host("internet").spawn("timeout 30 nc -l -p 5001 | wc -c")
    time.sleep(0.3)
    run([*IN_CROWD, SEND, checks.INTERNET, str(SECONDS)])
    return int(sink.communicate(timeout=30)[0]) * 8 / SECONDS / 1e9


def row(lab: Lab, count: int) -> list[str]:
    """A site with so many networks, and a machine in the last one."""
    networks, cards = further.many(count)
    last = f"net{count}"
    gw1 = lab.host("gw1")
    with lab.further(cards), crowd.crowd({last: cards[last]}):
        lab.set_pillar({"gateway": networks})
        for name, result in lab.apply().items():
            if failed := checks.failures(result):
                raise SystemExit(f"apply on {name}: {failed}")
        checks.eventually(lambda: checks.holders(lab), lambda on: on == ["gw1"], 60)
        functions = ("gateway.validate", "gateway.status")
        calls = [statistics.median(call(lab, name) for _ in range(RUNS)) for name in functions]
        rules = gw1.run("iptables-save | grep -c ^-A").stdout.strip()
        loader = statistics.median(swap_seconds(gw1, ANOTHER_RULE) for _ in range(RUNS))
        found = [f"{count}", *(f"{seconds:.2f} s" for seconds in calls), f"{int(rules):,}"]
        found += [f"{loader:.2f} s", f"{connections():,.0f}", f"{stream(lab):.1f} Gbit/s"]
        lab.set_pillar({})
        lab.apply()
    return found


def main() -> None:
    with Lab().visit() as lab:
        pki.distribute(lab)
        rows = [row(lab, count) for count in COUNTS]
    columns = ["further networks", "`gateway.validate`", "`gateway.status`", "rules"]
    columns += ["rules swapped", "new connections per second", "one TCP stream"]
    measured.keep("networks", columns, rows)


if __name__ == "__main__":
    main()
