#!/usr/bin/env python3
"""How long a VPN client is without the network when its gateway goes: `make bench`.

Ten runs of each case, with a profile as gateway_pki makes them and with OpenVPN's usual one
(`keepalive 10 120` and its default timers). The worst counts. At the end an idle client stays
connected for five minutes on a line that loses one packet in ten, each way.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))

import checks
import pki
from lab import Lab

RUNS = 10
GW1, GW2 = checks.PUBLIC["gw1"], checks.PUBLIC["gw2"]
UNIT = "openvpn-server@gateway-main"
SETTINGS = {"keepalive": "10 120", "explicit-exit-notify": "1"}
USUAL = {"vpn": {"servers": {"main": {"settings": SETTINGS}}}}


def stop(lab: Lab) -> None:
    lab.host("gw2").run(f"systemctl stop {UNIT}")


def start(lab: Lab) -> None:
    lab.host("gw2").run(f"systemctl start {UNIT}")


CASES: dict[str, tuple[Callable[[Lab], None], Callable[[Lab], None]]] = {
    "gateway stopped": (stop, start),
    "gateway vanishes": (lambda lab: lab.isolate("gw2"), lambda lab: lab.rejoin("gw2")),
}


def usual(tunnel: pki.Tunnel) -> None:
    """Take the profile's short timers out."""
    short = ("server-poll-timeout", "hand-window", "connect-retry")
    lines = tunnel.config.splitlines(keepends=True)
    tunnel.config = "".join(line for line in lines if not line.startswith(short))


def measure(lab: Lab, case: str, runs: int, seconds: float, change: Any = None) -> list[float]:
    """Seconds without an answer from the backend, of each run."""
    cut, undo = CASES[case]
    found = []
    for _ in range(runs):
        tunnel = pki.Tunnel(lab, GW2, GW1)
        if change:
            change(tunnel)
        with tunnel:
            try:
                found.append(checks.gap(tunnel.client, lambda: cut(lab), seconds))
            finally:
                undo(lab)
        time.sleep(2)
    return found


def lossy_line(lab: Lab, seconds: float) -> int:
    """How often an idle client had to connect again in this time."""
    laptop = lab.host("laptop")
    lose = "-p udp -m statistic --mode random --probability 0.1 -j DROP"
    with pki.Tunnel(lab, GW1, GW2) as tunnel:
        laptop.run(f"iptables -A INPUT {lose}; iptables -A OUTPUT {lose}")
        try:
            time.sleep(seconds)
        finally:
            laptop.run(f"iptables -D INPUT {lose}; iptables -D OUTPUT {lose}")
        return tunnel.log.count("Initialization Sequence Completed") - 1


def show(case: str, profile: str, found: list[float]) -> None:
    middle = sorted(found)[len(found) // 2]
    print(f"{case:18} {profile:9} {len(found):4} {middle:9.1f} s {max(found):7.1f} s", flush=True)


def main() -> None:
    with Lab().visit() as lab:
        pki.distribute(lab)
        lab.set_pillar({})
        lab.apply()
        print("case               profile   runs    median     worst")
        for case in CASES:
            show(case, "ours", measure(lab, case, RUNS, 14))
        again = lossy_line(lab, 300)
        print(f"reconnects of an idle client in 5 minutes at 10 % loss: {again}")
        lab.set_pillar({"gateway": USUAL})
        lab.apply()
        try:
            # Two minutes each: once shows the order of magnitude.
            for case in CASES:
                show(case, "usual", measure(lab, case, 1, 150, usual))
        finally:
            lab.set_pillar({})
            lab.apply()


if __name__ == "__main__":
    main()
