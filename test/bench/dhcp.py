#!/usr/bin/env python3
"""What leases that both gateways know cost, and what a failover does to DHCP: `make bench`.

How many machines a second get an address, by Kea's perfdhcp, with the exchange between the nodes
and without it. Then, with 10,000 leases on both: how long after a takeover a new machine and one
that renews are answered, how long a node without any lease needs to have all, and what the daemon
takes of memory and processor.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lab"))

import checks
import crowd
import measured
import pki
from engine import LabError, install_tools, step
from lab import GATEWAYS, Host, Lab, first_line, run
from machines import Machines

NETWORK = "many"
CARDS = {NETWORK: {"card": NETWORK, "gw1": "10.200.0.2/16", "gw2": "10.200.0.3/16"}}
SHARES = "10.200.1.0", "10.200.51.0"  # where that of each node begins
PILLAR = {
    "networks": {
        NETWORK: {
            "interface": NETWORK,
            "network": "10.200.0.0/16",
            "virtual_ip": "10.200.0.1",
            "dhcp": {"pool": "10.200.1.0-10.200.100.255", "lease_time": "4h"},
        }
    },
    # Each crash waits for the primary to be back.
    "failover": {"preempt_delay": 1},
}
LEASES = 10_000
RATES = 100, 200, 400, 800  # machines that come in a second
SECONDS = 5  # for each rate
RUNS = 3
IDLE = 30  # seconds over which the processor of an idle daemon is counted
IN_CROWD = ["ip", "netns", "exec", crowd.HOME]
PERFDHCP = [*IN_CROWD, "perfdhcp", "-4", "-l", NETWORK, "-B", "-s", "1", "-W", "1000000"]
MACHINES = [*IN_CROWD, sys.executable, str(crowd.PROGRAMS / "dhcp_machines.py"), NETWORK]
# Tells the daemon of leases, as dnsmasq's script does.
FILL = """
import ipaddress, os, random, sys, time
begin, count, seed = ipaddress.ip_address(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
end, chance = int(time.time()) + 14400, random.Random(seed)
events = os.open("/run/gateway-leases/events", os.O_WRONLY)
for number in range(count):
    mac = "02:" + ":".join(f"{chance.randrange(256):02x}" for _ in range(5))
    os.write(events, f"add {mac} {begin + 2 * number} {end} * pc-{number}-{seed}\\n".encode())
"""
MAIN_PID = "systemctl show --property MainPID gateway-dhcp"
LIST = "exec /usr/lib/gateway/ask-leases list"
DAEMON = "/usr/lib/gateway/leases.py"
DHCP = "/run/gateway-leases/dnsmasq.conf"
Row = list[str]


# --- the lab ------------------------------------------------------------------------------------


def apply(lab: Lab, gateway: dict[str, Any]) -> None:
    lab.set_pillar({"gateway": gateway})
    for name, result in lab.apply().items():
        if failed := checks.failures(result):
            raise LabError(f"apply on {name}: {failed}")


def listing(host: Host) -> dict[str, Any]:
    """What the daemon of a node says. Raises LabError where it says nothing."""
    said: dict[str, Any] = json.loads(host.run(LIST).stdout)
    return said


@dataclass(frozen=True)
class Process:
    """A process of a gateway, with those that it has started and that have ended."""

    host: Host
    pid: int

    @staticmethod
    def of(host: Host, words: str) -> list[Process]:
        """Those whose command line has these words, the oldest first."""
        found = host.run(["pgrep", "--full", words], check=False).stdout
        return [Process(host, int(pid)) for pid in found.split()]

    def seconds(self) -> float:
        """What it has had of a processor."""
        text = self.host.run(["cat", f"/proc/{self.pid}/stat"]).stdout.rpartition(") ")[2]
        return sum(map(int, text.split()[11:15])) / 100

    def megabytes(self) -> float:
        """What it has in memory."""
        text = self.host.run(["cat", f"/proc/{self.pid}/status"]).stdout
        return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024


def settled(lab: Lab) -> None:
    """Return when gw1 serves in sync, both nodes know the same, and dnsmasq has told everything."""
    gw1, gw2 = (lab.host(name) for name in GATEWAYS)

    def is_settled() -> bool:
        one, other = listing(gw1), listing(gw2)
        serving = gw1.run("cat /run/gateway-leases/serving", check=False).stdout.strip()
        same = len(one["leases"]) == len(other["leases"])
        in_sync = one["in_sync"] and other["in_sync"] and not other["serves"]
        return bool(serving == "in sync" and same and in_sync)

    for _ in range(2):
        if checks.eventually(is_settled, bool, 120) is not True:
            raise LabError("the nodes do not agree")
        quiet(gw1)


def fill(lab: Lab, count: int) -> None:
    """Have so many leases, half of them in each node's share. dnsmasq begins with them."""
    for seed, begin in enumerate(SHARES):
        lab.host("gw1").run(["python3", "-c", FILL, begin, str(count // 2), str(seed)])
    lab.host("gw1").run("systemctl restart gateway-dhcp", timeout=120)
    settled(lab)


def forget(lab: Lab, *names: str) -> None:
    """Have these nodes know nothing of leases."""
    for name in names:
        lab.host(name).run("systemctl stop gateway-dhcp gateway-leases", timeout=120)
        lab.host(name).run("rm -f /var/lib/gateway/leases.db*")
    for name in names:
        lab.host(name).run("systemctl start gateway-leases")
    lab.host("gw1").run("systemctl start gateway-dhcp", timeout=120)


# --- how many machines a second -----------------------------------------------------------------


@contextmanager
def hardware_addresses(seed: int) -> Iterator[str]:
    """A file of many, of which perfdhcp takes one for each machine (65,536 at most)."""
    chance = random.Random(seed)
    with tempfile.NamedTemporaryFile("w", suffix=".macs") as file:
        for _ in range(60_000):
            file.write("06:" + ":".join(f"{chance.randrange(256):02x}" for _ in range(5)) + "\n")
        file.flush()
        yield file.name


def come(rate: int, seed: int) -> Row:
    """Machines that come at this rate: how many got an address in a second, the mean and the worst
    time of both questions, and how many were not answered in a second."""
    count = rate * SECONDS
    with hardware_addresses(seed) as macs:
        options = ["-M", macs, "-r", str(rate), "-n", str(count)]
        # Its exit code says that some were not answered.
        said = run([*PERFDHCP, *options, "255.255.255.255"], check=False, timeout=120).stdout
    _, asked, requested = said.split("***Statistics for")
    means, worsts = (
        [float(f"0{value}") for value in re.findall(rf"{what} delay: ([\d.]+) ms", said)]
        for what in ("avg", "max")
    )
    got = int(re.findall(r"received packets: (\d+)", requested)[0])
    lost = int(re.findall(r"sent packets: (\d+)", asked)[0]) - got
    mean, worst = (f"{sum(values):.0f} ms" if got else "-" for values in (means, worsts))
    return [f"{got / SECONDS:.0f}", mean, worst, f"{lost / count:.0%}"]


def rates(lab: Lab, leases: int, has_exchange: bool, seed: int) -> Iterator[Row]:
    """A row for each rate; dnsmasq has told everything before the next."""
    gw1 = lab.host("gw1")
    for number, rate in enumerate(RATES):
        with step(f"{rate} machines a second, {leases:,} leases, exchange: {has_exchange}"):
            before = gw1.run(MAIN_PID).stdout
            found = come(rate, seed + number)
            quiet(gw1)
            # Whether it was started anew, because the nodes were too slow to hear each other.
            found.append("no" if gw1.run(MAIN_PID).stdout == before else "yes")
            if has_exchange:
                settled(lab)
        yield [f"{leases:,}", "yes" if has_exchange else "no", f"{rate}", *found]


def quiet(host: Host, seconds: float = 120) -> None:
    """Return when dnsmasq has told the daemon everything: it and its script have nothing to do."""
    used, calm = -1.0, 0

    def is_quiet() -> bool:
        nonlocal used, calm
        before, used = used, sum(process.seconds() for process in Process.of(host, DHCP))
        calm = calm + 1 if used - before < 0.02 else 0
        time.sleep(0.4)
        return calm == 3

    checks.eventually(is_quiet, bool, seconds)


@contextmanager
def alone(lab: Lab) -> Iterator[None]:
    """gw1 has nobody to tell anything."""
    gw2 = lab.host("gw2")
    gw2.run("systemctl stop gateway-leases")
    time.sleep(3)  # gw1 has taken note, and gives of its own share
    quiet(lab.host("gw1"))
    try:
        yield
    finally:
        gw2.run("systemctl start gateway-leases")
        settled(lab)


# --- a takeover ---------------------------------------------------------------------------------


@contextmanager
def two_machines() -> Iterator[tuple[Machines, Machines]]:
    """Two that ask at the same time."""
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(MACHINES, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    try:
        for process in processes:
            first_line(process, "machines")
        yield Machines(processes[0]), Machines(processes[1])
    finally:
        for process in processes:
            process.communicate(timeout=30)


def takeover(
    lab: Lab, begin: Callable[[], Any], end: Callable[[], Any], number: int
) -> list[float]:
    """Seconds from gw2's takeover until a new machine has an address, and until one that has a
    lease has renewed it."""
    gw2 = lab.host("gw2")
    with two_machines() as (new, old), ThreadPoolExecutor(3) as pool:
        old.do("new", [30_000 + number])
        time.sleep(1)
        changes = pool.submit(begin)
        time.sleep(0.1)
        show = partial(gw2.run, "cat /run/gateway/role")
        checks.eventually(lambda: show().stdout, lambda role: role.startswith("primary"), 20)
        began = time.time()
        asked = [
            pool.submit(new.do, "new", [20_000 + number], 20),
            pool.submit(old.do, "renew", [30_000 + number], 20),
        ]
        answers = [next(iter(each.result().values())) for each in asked]
        role, since = gw2.run("cat /run/gateway/role").stdout.split()
        changes.result()
    end()
    # At a hand-over it may be the last word of gw1's dnsmasq, which knows no less.
    if role != "primary" or not all(answer.address for answer in answers):
        raise LabError(f"gw2 is {role}, and answered were {answers}")
    settled(lab)
    return [began + answer.seconds - float(since) for answer in answers]


def takeovers(lab: Lab) -> Iterator[Row]:
    kinds: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "primary vanishes": (partial(lab.isolate, "gw1"), partial(lab.rejoin, "gw1")),
        "planned hand-over": (
            partial(lab.salt, "gw1", "gateway.drain"),
            partial(lab.salt, "gw1", "gateway.undrain"),
        ),
    }
    for what, (begin, end) in kinds.items():
        with step(f"{what}, {RUNS} times"):
            found = [takeover(lab, begin, end, run) for run in range(RUNS)]
        worst = [f"{max(column):.2f} s" for column in zip(*found, strict=True)]
        yield [what, f"{RUNS}", *worst]


# --- what it takes ------------------------------------------------------------------------------


def exchange(lab: Lab) -> float:
    """Seconds that a daemon without a lease needs from its start until it is in sync."""
    gw2 = lab.host("gw2")
    wanted = len(listing(lab.host("gw1"))["leases"])
    gw2.run("systemctl stop gateway-leases; rm -f /var/lib/gateway/leases.db*")
    begin = time.monotonic()
    gw2.run("systemctl start gateway-leases")

    def has_all() -> bool:
        said = listing(gw2)
        return bool(said["in_sync"] and len(said["leases"]) >= wanted)

    checks.eventually(has_all, bool, 60)
    seconds = time.monotonic() - begin
    settled(lab)
    return seconds


def idle(host: Host) -> float:
    """The share of a core that a daemon with nothing to do takes."""
    (daemon,) = Process.of(host, DAEMON)
    before = daemon.seconds()
    time.sleep(IDLE)
    return (daemon.seconds() - before) / IDLE


def start_of_dnsmasq(lab: Lab) -> list[float]:
    """What a start with all leases costs until dnsmasq has told of each: seconds by the clock, of
    dnsmasq and its script, and of the daemon."""
    gw1 = lab.host("gw1")
    (daemon,) = Process.of(gw1, DAEMON)
    before, begin = daemon.seconds(), time.monotonic()
    gw1.run("systemctl restart gateway-dhcp", timeout=120)
    quiet(gw1)
    seconds = time.monotonic() - begin
    script = sum(process.seconds() for process in Process.of(gw1, DHCP))
    return [seconds, script, daemon.seconds() - before]


def costs(lab: Lab, count: int) -> Row:
    """A row of the table: idle daemons with so many leases."""
    hosts = [lab.host(name) for name in GATEWAYS]
    with step(f"idle with {count:,} leases"), ThreadPoolExecutor(2) as pool:
        shares = list(pool.map(idle, hosts))
    memory = [process.megabytes() for host in hosts for process in Process.of(host, DAEMON)]
    return [
        f"{count:,}",
        *(f"{share:.1%}" for share in shares),
        *(f"{size:.0f} MB" for size in memory),
    ]


def main() -> None:
    install_tools({"perfdhcp": "kea-admin"})
    with Lab().visit() as lab:
        pki.distribute(lab)
        with lab.further(CARDS), crowd.crowd(CARDS):
            apply(lab, PILLAR)
            settled(lab)
            measure(lab)
            apply(lab, {})


def measure(lab: Lab) -> None:
    idle_rows = [costs(lab, 0)]
    rate_rows = [*rates(lab, 0, True, 100)]
    forget(lab, *GATEWAYS)
    settled(lab)
    with alone(lab):
        rate_rows += rates(lab, 0, False, 200)
    forget(lab, *GATEWAYS)
    settled(lab)
    with step(f"{LEASES:,} leases"):
        fill(lab, LEASES)
    idle_rows.append(costs(lab, LEASES))
    measured.keep(
        "leases-idle",
        [
            "leases",
            "idle where they are given",
            "idle on the other",
            "memory there",
            "on the other",
        ],
        idle_rows,
    )
    columns = ["what happens", "runs", "first new lease", "first renewal"]
    measured.keep("leases-takeover", columns, takeovers(lab))
    with step("a node without a lease, and dnsmasq's start"):
        found = [exchange(lab), *start_of_dnsmasq(lab)]
    columns = ["all leases to a node without any", "dnsmasq starts and tells of each lease"]
    columns += ["processor of it and its script", "of the daemon"]
    measured.keep("leases-exchange", columns, [[f"{seconds:.2f} s" for seconds in found]])
    rate_rows += rates(lab, LEASES, True, 300)
    columns = ["leases", "exchange", "machines come in a second", "get an address in a second"]
    columns += ["mean", "worst", "not answered within 1 s", "dnsmasq started anew"]
    measured.keep("leases-rate", columns, rate_rows)


if __name__ == "__main__":
    main()
