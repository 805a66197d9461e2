"""The site that a suite of Test Kitchen made, and how tests ask it. test/kitchen/site makes it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import testinfra

INSTANCE = os.environ.get("KITCHEN_INSTANCE", "single")
SUITE = os.environ.get("KITCHEN_SUITE", "single")
GATEWAYS = ("gw1",) if SUITE == "single" else ("gw1", "gw2")
VIRTUAL_IP = "10.77.0.1"
# What a gateway complains about whose peer is off.
PROBLEMS = [
    "DHCP: gw2 tells nothing of leases; until it does, new machines get addresses of one node's"
    " share of the pool"
] * (SUITE == "single")
TOOLS = "/srv/test/lab/files"


def eventually(
    ask: Callable[[], Any], wanted: Callable[[Any], object] = bool, seconds: float = 20
) -> Any:
    """Ask until the answer is as wanted and return it; the last answer when time is up."""
    end = time.monotonic() + seconds
    while not wanted(answer := ask()) and time.monotonic() < end:
        time.sleep(0.2)
    return answer


def in_charge(gateway: Gateway) -> None:
    """Return when the gateway has the virtual IP; that is an assertion."""
    assert eventually(lambda: gateway.has(VIRTUAL_IP), seconds=30), gateway.name


def container(name: str) -> Any:
    """Return testinfra's host for a container of the site: gw1, gw2 or site."""
    return testinfra.get_host(f"docker://gateway-kitchen-{INSTANCE}-{name}")


class Gateway:
    """A gateway: `host` is testinfra's, `salt` calls functions as Kitchen does."""

    def __init__(self, number: int) -> None:
        self.name = f"gw{number}"
        self.internal = f"10.77.0.{number + 1}"
        self.public = f"198.51.100.{number + 1}"
        self.tunnel = f"10.8.{number - 1}"
        self.host = container(self.name)

    def salt(self, function: str, *arguments: str) -> Any:
        """Return what a function of Salt returns on the gateway."""
        call = "salt-call --config-dir=/tmp/kitchen/etc/salt --out=json --log-level=error"
        done = self.host.run(f"{call} --id={self.name} {function} {' '.join(arguments)}")
        assert done.stdout.startswith("{"), done.stdout + done.stderr
        return json.loads(done.stdout)["local"]

    def problems(self) -> Any:
        """Return what the gateway's status complains about."""
        return self.salt("gateway.status")["problems"]

    def has(self, address: str) -> bool:
        """Tell whether the gateway has an address now."""
        return bool(self.host.check_output(f"ip -brief address show to {address}"))

    def set_cables(self, setting: str) -> None:
        """Set the switches' ends of its cables `down`, so that it vanishes for others, or `up`."""
        for network in ("lan", "wan", "sync"):
            container("site").check_output(f"ip link set {self.name}-{network} {setting}")


class Neighbour:
    """A machine beside the gateways: a network namespace of the site's container."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.site = container("site")

    def run(self, command: str) -> str:
        """Run a command there and return its output, whatever became of it."""
        return str(self.site.run(f"ip netns exec {self.name} {command}").stdout).strip()

    def start(self, unit: str, command: str) -> None:
        """Start a daemon there, anew if it is left from an interrupted run; `stop` ends it."""
        self.stop(unit)
        inside = f"hostname {self.name}; exec {command}"
        self.site.check_output(
            f"systemd-run --quiet --collect --unit={unit}"
            f" ip netns exec {self.name} unshare --uts sh -c %s",
            inside,
        )

    def stop(self, *units: str) -> None:
        """End daemons that were started here."""
        self.site.run("systemctl stop " + " ".join(units))

    def get(self, url: str) -> str:
        """Return the page, which is `<server> saw <client address>`; "" without an answer."""
        return self.run(f"curl -s --max-time 4 {url}")

    def resolve(self, name: str, server: str) -> str:
        """Return what a name server says of a name; "" without an answer."""
        answer = self.run(f"dig +short +time=1 +tries=2 @{server} {name}")
        return "" if answer.startswith(";") else answer

    def offers(self, mac: str) -> list[tuple[str, str]]:
        """Return who offers a DHCP lease to this MAC, and which address."""
        found = json.loads(self.run(f"python3 {TOOLS}/lab/dhcp_offers.py eth0 {mac} 2"))
        return [(offer["server"], offer["address"]) for offer in found]
