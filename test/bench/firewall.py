#!/usr/bin/env python3
"""What the firewall costs: `make bench`.

Applying it with nothing to do and with a change, for sites of 10 to 10,000 port forwards, beside an
empty SLS and beside states of Salt's own iptables module; and what its rules cost packets, beside
bare forwarding. salt-call is masterless, so that no network is in it.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))

import checks
import measured
import pki
from apply import CALL, EMPTY, measure
from lab import Host, Lab

FORWARDS = (10, 100, 1_000, 10_000)
MOST_STATES = 500  # of iptables.append: 500 take minutes already
SECONDS = 3  # of each measurement of traffic
FIREWALL = f"{CALL} state.apply gateway.firewall"
# The loader alone, with what a script of sed makes of the rules; afterwards all is as before.
SWAP = """
set -e
cd /var/lib/gateway/firewall
rm -rf .bench; cp -r current/ .bench
sed -i '{}' .bench/kernel/v4
start=$(date +%s%N)
/usr/lib/gateway/firewall try bench 60
end=$(date +%s%N)
/usr/lib/gateway/firewall rollback > /dev/null
echo $((end - start))
"""
OTHER_FORWARD = r"s/10\.77\.0\.10:1001$/10.77.0.10:2/"
# New connections, one after the other. To a closed port: its reset comes from the kernel, so this
# measures the way there and back, and no server.
CONNECT = """
import errno, socket, sys, time
address, port, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
end, count = time.monotonic() + seconds, 0
while time.monotonic() < end:
    with socket.socket() as s:
        error = s.connect_ex((address, port))
    assert error == errno.ECONNREFUSED, error
    count += 1
print(count / seconds)
"""
CLOSED = 2


def forwards(number: int, shift: int = 0) -> dict[str, Any]:
    """So many forwards from port 1001 on. With ``shift`` the first leads to another port."""
    entries = [{"port": 1001 + index, "to": "backend01"} for index in range(number)]
    entries[0]["to_port"] = 1001 + shift
    entries[-1]["to_port"] = CLOSED  # to be measured
    return {"gateway": {"nat": {"forwards": entries}}}


def timed(host: Host, command: str) -> float:
    """Seconds of an apply that has to change something."""
    start = time.monotonic()
    results = checks.local(host, command)
    if checks.failures(results) or not checks.changes(results):
        raise SystemExit(f"{command}: {checks.failures(results)} {checks.changes(results)}")
    return time.monotonic() - start


def swap_seconds(gateway: Host, script: str) -> float:
    """Seconds of the loader with rules of which one differs, as a script of sed makes it."""
    return int(gateway.run(SWAP.format(script)).stdout) / 1e9


def applies(lab: Lab) -> None:
    """A line for each number of forwards."""
    gw1 = lab.host("gw1")
    gw1.write(f"{EMPTY}/empty.sls", "{}\n")
    empty = f"{CALL} --local --file-root={EMPTY} state.apply empty"
    rows = []
    for number in FORWARDS:
        lab.set_pillar(forwards(number))
        timed(gw1, FIREWALL)
        (nothing, _), (seconds, _) = measure(gw1, empty, FIREWALL)
        changed = []
        for shift in (1, 2, 3):
            lab.set_pillar(forwards(number, shift))
            changed.append(timed(gw1, FIREWALL))
        swap = statistics.median(swap_seconds(gw1, OTHER_FORWARD) for _ in range(3))
        times = (nothing, seconds, statistics.median(changed), swap)
        shown = [f"{time:.2f} s" for time in times]
        rows.append([f"{number:,}", *shown[:2], f"{seconds / nothing:.2f}", *shown[2:]])
    columns = [
        "port forwards",
        "empty SLS",
        "nothing to do",
        "factor",
        "one changed",
        "rules swapped",
    ]
    measured.keep("firewall", columns, rows)


def states(gw1: Host, number: int) -> None:
    """Write an SLS with a state of Salt's iptables module for each rule."""
    rules = {
        f"rule {index}": {
            "iptables.append": [
                {"table": "nat"},
                {"chain": "BENCH"},
                {"jump": "DNAT"},
                {"proto": "tcp"},
                {"dport": 1001 + index},
                {"to-destination": f"10.77.0.10:{1001 + index}"},
                {"save": True},
            ]
        }
        for index in range(number)
    }
    gw1.write(f"{EMPTY}/states.sls", json.dumps(rules))


def states_of_salt(lab: Lab) -> None:
    """The same for iptables.append, one state a rule."""
    gw1 = lab.host("gw1")
    command = f"{CALL} --local --file-root={EMPTY} state.apply states"
    rows = []
    for number in (count for count in (*FORWARDS, MOST_STATES) if count <= MOST_STATES):
        gw1.run("iptables -t nat -N BENCH")
        states(gw1, number)
        seconds = []
        for _ in range(2):
            start = time.monotonic()
            done = gw1.run(command, timeout=590)
            failed = checks.failures(json.loads(done.stdout)["local"])
            if failed:
                raise SystemExit(str(failed))
            seconds.append(time.monotonic() - start)
        gw1.run("iptables -t nat -F BENCH; iptables -t nat -X BENCH; rm -rf /etc/iptables")
        rows.append([f"{number:,}", *(f"{time:.1f} s" for time in seconds)])
    measured.keep("iptables-append", ["rules", "first time", "nothing to do"], rows)


def connections(host: Host, address: str, port: int) -> float:
    """New connections in a second."""
    command = ["python3", "-c", CONNECT, address, str(port), str(SECONDS)]
    return float(host.run(command).stdout)


def throughput(source: Host, target: Host, address: str) -> float:
    """Megabits in a second of one TCP connection."""
    sink = target.spawn("timeout 30 nc -l -p 5001 | wc -c")
    time.sleep(0.3)
    source.run(f"timeout {SECONDS} cat /dev/zero | nc -N {address} 5001", timeout=30)
    return int(sink.communicate(timeout=30)[0]) * 8 / SECONDS / 1e6


def traffic(lab: Lab) -> None:
    """What packets pay for the rules."""
    gw1, backend, internet, laptop = (
        lab.host(name) for name in ("gw1", "backend01", "internet", "laptop")
    )
    internet_page = f"http://{checks.INTERNET}/"
    checks.eventually(lambda: checks.http(backend, internet_page), bool, 60)  # it has its lease
    rows = []

    def row(name: str, inward: str, port: int) -> None:
        outwards = connections(backend, checks.INTERNET, CLOSED)
        inwards = connections(laptop, inward, port)
        stream = throughput(backend, internet, checks.INTERNET) / 1000
        rows.append([name, f"{outwards:,.0f}", f"{inwards:,.0f}", f"{stream:.1f} Gbit/s"])

    for number in (FORWARDS[0], FORWARDS[-1]):
        lab.set_pillar(forwards(number))
        checks.local(gw1, FIREWALL)
        row(f"{number:,} forwards", "198.51.100.2", 1000 + number)
    # Without rules there is no NAT: the outside has to know the way back.
    for host in (internet, laptop):
        host.run("ip route add 10.77.0.0/24 via 198.51.100.2")
    try:
        gw1.run("systemctl stop gateway-firewall-guard; /usr/lib/gateway/firewall unload")
        row("bare forwarding", checks.BACKEND, CLOSED)
    finally:
        for host in (internet, laptop):
            host.run("ip route del 10.77.0.0/24")
    columns = ["rules", "new connections per second outwards", "inwards, by the last forward"]
    measured.keep("traffic", [*columns, "one TCP stream"], rows)


def main() -> None:
    with Lab().visit() as lab:
        pki.distribute(lab)
        lab.apply()
        # A salt-call of 10,000 forwards takes memory and time; nobody else shall apply meanwhile.
        with pki.masterless(lab, "gw1"):
            applies(lab)
            traffic(lab)
        states_of_salt(lab)
        lab.set_pillar({})
        lab.apply()


if __name__ == "__main__":
    main()
