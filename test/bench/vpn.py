#!/usr/bin/env python3
"""How long a VPN client is without the network when its gateway goes: `make bench`.

Ten runs of each case, with a profile as gateway_pki makes them, with one that names the virtual IP
(`vpn:remote`), and with OpenVPN's usual one (`keepalive 10 120` and its default timers). The worst
counts. Then the client's own line is cut for six seconds under a TCP session, and an idle client
stays connected for five minutes on a line that loses one packet in ten, each way.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
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
SHARED = checks.PUBLIC_VIRTUAL_IP
BY_VIRTUAL_IP = {
    "public": {"virtual_ip": SHARED},
    "vpn": {"remote": SHARED},
    "state_sync": False,
}
# Profile: the remotes that a client asks, and the gateway that it then has.
PROFILES = {"ours": ((GW2, GW1), "gw2"), "virtual": ((SHARED, SHARED, GW1, GW2), "gw1")}
USUAL = {"vpn": {"servers": {"main": {"settings": SETTINGS}}}}


def stop(lab: Lab, name: str) -> None:
    lab.host(name).run(f"systemctl stop {UNIT}")


def start(lab: Lab, name: str) -> None:
    lab.host(name).run(f"systemctl start {UNIT}")


CASES: dict[str, tuple[Callable[[Lab, str], None], Callable[[Lab, str], None]]] = {
    "gateway stopped": (stop, start),
    "gateway vanishes": (Lab.isolate, Lab.rejoin),
}


def usual(tunnel: pki.Tunnel) -> None:
    """Take the profile's short timers out."""
    short = ("server-poll-timeout", "hand-window", "connect-retry")
    lines = tunnel.config.splitlines(keepends=True)
    tunnel.config = "".join(line for line in lines if not line.startswith(short))


def settle(lab: Lab, profile: str) -> None:
    """gw1 has the virtual IPs."""
    for address in (checks.VIRTUAL_IP, *([SHARED] if profile == "virtual" else [])):
        checks.eventually(partial(checks.holders, lab, address), lambda on: on == ["gw1"], 30)
    time.sleep(2)


def measure(
    lab: Lab, case: str, runs: int, seconds: float, profile: str = "ours", change: Any = None
) -> list[float]:
    """Seconds without an answer from the backend, of each run."""
    cut, undo = CASES[case]
    remotes, gateway = PROFILES[profile]
    found = []
    for _ in range(runs):
        settle(lab, profile)
        tunnel = pki.Tunnel(lab, *remotes)
        if change:
            change(tunnel)
        with tunnel:
            try:
                found.append(checks.gap(tunnel.client, lambda: cut(lab, gateway), seconds))
            finally:
                undo(lab, gateway)
    return found


def own_line(lab: Lab, runs: int, seconds: float, profile: str) -> list[float]:
    """Seconds for which a TCP session stands still when the client's line is cut for a while;
    infinity where it dies."""

    def cut() -> None:
        lab.isolate("laptop")
        time.sleep(seconds)
        lab.rejoin("laptop")

    found = []
    for _ in range(runs):
        settle(lab, profile)
        with pki.Tunnel(lab, *PROFILES[profile][0]) as tunnel:
            found.append(checks.stall(tunnel.client, cut, seconds + 12))
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
        for profile, pillar in (("ours", {}), ("virtual", BY_VIRTUAL_IP)):
            lab.set_pillar({"gateway": pillar})
            lab.apply()
            pki.provide(lab, "laptop", "laptop")
            for case in CASES:
                show(case, profile, measure(lab, case, RUNS, 14, profile))
            show("line cut for 6 s", profile, own_line(lab, RUNS, 6, profile))
        lab.set_pillar({})
        lab.apply()
        pki.provide(lab, "laptop", "laptop")
        again = lossy_line(lab, 300)
        print(f"reconnects of an idle client in 5 minutes at 10 % loss: {again}")
        lab.set_pillar({"gateway": USUAL})
        lab.apply()
        try:
            # Two minutes each: once shows the order of magnitude.
            for case in CASES:
                show(case, "usual", measure(lab, case, 1, 150, change=usual))
        finally:
            lab.set_pillar({})
            lab.apply()


if __name__ == "__main__":
    main()
