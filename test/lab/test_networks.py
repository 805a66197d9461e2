"""Several networks behind the pair: who reaches whom, with real packets in both directions."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import checks
import further
import pytest
from conftest import converge, ok, secondary_in_charge, wait_for_primary
from further import Station
from lab import Host, Lab, Sessions
from pki import Tunnel

Table = dict[tuple[str, str], str]
BY_RULE, OTHER = 80, 443  # both serve the same page
PORTS = [BY_RULE, 7007, 7008]
BRANCH = "10.60.0.1"
RULES = [
    ("guest", "servers"),
    ("public", "dmz"),
    ("internal", "guest"),
    ("vpn", "dmz"),
    ("vpn", "guest"),
    ("dmz", "vpn"),
]
PILLAR: dict[str, Any] = {
    **further.PILLAR,
    "public": {"virtual_ip": checks.PUBLIC_VIRTUAL_IP},
    **checks.STATE_SYNC,
    "vpn": {
        "clients": {"laptop": {"id": 5, "networks": ["10.60.0.0/24"]}, "internet": {"id": 6}},
        # Clients hear of trusted networks by themselves.
        "servers": {"main": {"routes": ["203.0.113.16/28", "10.20.0.0/24"]}},
    },
    "firewall": {"forward": [{"from": source, "to": to, "ports": PORTS} for source, to in RULES]},
}
TRUSTED = ("internal", "server", "behind", "vpn1", "vpn2", "branch")
STRANGERS = ("guest", "dmz")
# By the rules above. A network behind a client is no part of `vpn`.
ALLOWED = {
    ("guest", "server"),
    ("outside", "dmz"),
    *((source, "guest") for source in ("internal", "behind", "vpn1", "vpn2")),
    *((client, "dmz") for client in ("vpn1", "vpn2")),
    *(("dmz", client) for client in ("vpn1", "vpn2")),
}


@dataclass(frozen=True)
class End:
    """Who asks, and the address where it is asked."""

    machine: Host
    address: str


@pytest.fixture(scope="module")
def networks(lab: Lab) -> Iterator[Lab]:
    """The site with further networks, applied, and a machine in each."""
    converge(lab)
    with further.networks(lab):
        lab.set_pillar({"gateway": PILLAR})
        ok(lab.apply())
        wait_for_primary(lab)
        yield lab
        lab.set_pillar({})
        ok(lab.apply())


@contextmanager
def all_ends(lab: Lab, laptop_at: str = "gw1") -> Iterator[dict[str, End]]:
    """Everybody, with a VPN client at each gateway; behind the laptop is a network."""
    other = "gw2" if laptop_at == "gw1" else "gw1"
    laptop, internet = lab.host("laptop"), lab.host("internet")
    with ExitStack() as stack:
        laptop.run(f"ip address add {BRANCH}/24 dev lo")
        stack.callback(laptop.run, f"ip address del {BRANCH}/24 dev lo")
        one = stack.enter_context(Tunnel(lab, checks.PUBLIC[laptop_at]))
        two = stack.enter_context(Tunnel(lab, checks.PUBLIC[other], client="internet"))
        yield stations() | {
            "internal": End(lab.host("backend01"), checks.BACKEND),
            "vpn1": End(laptop, one.address),
            "vpn2": End(internet, two.address),
            "branch": End(laptop, BRANCH),
        }


def stations() -> dict[str, End]:
    """Those that need no tunnel."""
    names = ("outside", "guest", "server", "dmz", "behind")
    return {name: End(Station(name), further.address(name)) for name in names}


def table(ends: dict[str, End], port: int) -> Table:
    """What each one gets of each other one. Of who is outside and has no way to clients of the VPN
    but the tunnel itself, and those to it, nothing is asked."""

    def ask(source: str) -> Table:
        end = ends[source]
        asked = {
            f"{ends[to].address}:{port}": (source, to)
            for to in ends
            if ends[to].machine.name != end.machine.name and not passes_by(source, to)
        }
        answers = further.pages(end.machine, end.address, list(asked))
        return {asked[target]: answer for target, answer in answers.items()}

    with ThreadPoolExecutor(len(ends)) as pool:
        return {pair: answer for row in pool.map(ask, ends) for pair, answer in row.items()}


def passes_by(source: str, to: str) -> bool:
    """Clients of the VPN reach the internet on a way of their own."""
    return source in ("vpn1", "vpn2", "branch") and to == "outside"


def expected(ends: dict[str, End], port: int) -> Table:
    """What everybody should get: a page that names who asked, a refusal, or nothing."""
    return {
        (source, to): answer(ends, source, to, port)
        for source in ends
        for to in ends
        if ends[to].machine.name != ends[source].machine.name and not passes_by(source, to)
    }


def answer(ends: dict[str, End], source: str, to: str, port: int) -> str:
    page = f"{ends[to].machine.name} saw {{}}"
    if to == "outside":
        # Private addresses are not seen there; those of the DMZ are public ones.
        return page.format(ends["dmz"].address if source == "dmz" else checks.PUBLIC_VIRTUAL_IP)
    inside = source in TRUSTED and to in TRUSTED
    if inside or (port == BY_RULE and (source, to) in ALLOWED):
        return page.format(ends[source].address)
    return "silent" if source == "outside" else "refused"


def wrong(ends: dict[str, End], port: int) -> dict[tuple[str, str], tuple[str, str]]:
    """Who got something else than what is right: that, and what is right."""
    right = expected(ends, port)
    return {
        pair: (got, right[pair]) for pair, got in table(ends, port).items() if got != right[pair]
    }


def soon(ends: dict[str, End], port: int) -> dict[tuple[str, str], tuple[str, str]]:
    """The same, when the ways to what has just connected are there, or after some seconds."""
    found: dict[tuple[str, str], tuple[str, str]] = checks.eventually(
        partial(wrong, ends, port), lambda amiss: not amiss, 8
    )
    return found


# --------------------------------------------------------------------------------------------------
# Who reaches whom


@pytest.mark.parametrize("laptop_at", ["gw1", "gw2"])
def test_everybody_reaches_whom_they_may(networks: Lab, laptop_at: str) -> None:
    """Before, during and after the virtual IPs are on the other gateway. Clients stay where they
    are, so the ways there and back differ."""
    with all_ends(networks, laptop_at) as ends:
        assert soon(ends, BY_RULE) == {}
        assert wrong(ends, OTHER) == {}
        with secondary_in_charge(networks):
            assert soon(ends, BY_RULE) == {}
            assert wrong(ends, OTHER) == {}
        assert soon(ends, BY_RULE) == {}


def test_nobody_gets_through_while_the_primary_is_lost_and_returns(networks: Lab) -> None:
    """What is refused or silent is never anything else, at any moment; and sessions of each kind
    live on."""
    ends = stations() | {"internal": End(networks.host("backend01"), checks.BACKEND)}
    ended = threading.Event()

    def watch() -> set[tuple[str, str]]:
        """Who got a page that is not for them, at any time."""
        found = set()
        right = expected(ends, OTHER)
        while not ended.is_set():
            for pair, got in table(ends, OTHER).items():
                if " saw " in got and " saw " not in right[pair]:
                    found.add(pair)
        return found

    kinds = [
        *(("internal", to) for to in ("outside", "server", "guest", "behind")),
        *((source, "outside") for source in ("server", "guest", "dmz", "behind")),
        *(("outside", "dmz"), ("guest", "server"), ("server", "behind")),
        *(("vpn2", to) for to in ("internal", "server", "guest", "dmz", "behind")),
        *((source, "vpn2") for source in ("internal", "server", "dmz", "behind")),
    ]
    networks.forget_connections()
    with ExitStack() as stack:
        tunnel = stack.enter_context(Tunnel(networks, checks.PUBLIC["gw2"], client="internet"))
        ends["vpn2"] = End(tunnel.client, tunnel.address)
        talks = {
            kind: Sessions(ends[kind[0]].machine, ends[kind[1]].address, 7007, 4, 60, 0.2)
            for kind in kinds
        }
        for each in talks.values():
            stack.enter_context(each)
        watched = stack.enter_context(ThreadPoolExecutor()).submit(watch)
        try:
            time.sleep(1.5)
            networks.isolate("gw1")
            try:
                assert checks.eventually(
                    lambda: checks.holders(networks, "10.20.0.1"),
                    lambda on: "gw2" in on,
                    5,
                )
                time.sleep(3)
                assert wrong(ends, BY_RULE) == {}
            finally:
                networks.rejoin("gw1")
            wait_for_primary(networks)
            time.sleep(1)
        finally:
            ended.set()
        assert watched.result(30) == set()
    results = {kind: each.result for kind, each in talks.items()}
    assert {kind: result.deaths for kind, result in results.items() if result.deaths} == {}
    assert {result.alive for result in results.values()} == {4}
    stall = {f"{a} to {b}": f"{r.worst_stall_ms:.0f} ms" for (a, b), r in results.items()}
    print(f"\nworst stall of sessions: {stall}")


def test_nobody_has_an_address_of_another_network(networks: Lab) -> None:
    """With an address of the internal network, of servers or of the VPN, from the guests' and the
    DMZ: it does not arrive. With its own it would, where a rule lets it."""
    script = "/usr/local/lib/lab/spoof.py"
    server, guest, dmz = (Station(name) for name in ("server", "guest", "dmz"))
    lies: list[tuple[Host, str]] = [
        (networks.host("backend01"), "10.20.0.60"),
        (guest, "10.77.0.10"),
        (guest, "203.0.113.20"),
        (dmz, "10.77.0.10"),
        (dmz, "10.8.0.9"),
    ]
    with counted(server, "icmp and icmp[icmptype] == icmp-echo") as heard:
        for liar, source in lies:
            liar.run(["python3", script, source, further.address("server")])
        # The way is there: an honest one arrives.
        networks.host("backend01").run(
            ["python3", script, checks.BACKEND, further.address("server")]
        )
        seen = heard()
    assert seen == [checks.BACKEND]


@contextmanager
def counted(machine: Host, what: str) -> Iterator[Callable[[], list[str]]]:
    """Listen on a machine; what is yielded returns the source addresses of what came so far."""
    command = f"exec timeout 30 tcpdump -lnni eth0 '{what}' 2>&1"
    listening = machine.spawn(command)
    assert listening.stdout
    while "listening on" not in listening.stdout.readline():
        pass

    def heard() -> list[str]:
        time.sleep(0.5)
        machine.run("pkill -INT -x tcpdump")
        return re.findall(r"IP (\d+\.\d+\.\d+\.\d+) >", listening.communicate(timeout=10)[0])

    yield heard
    listening.communicate(timeout=10)


# --------------------------------------------------------------------------------------------------
# What the gateways themselves do for each network


def test_names_of_the_site_are_for_its_own(networks: Lab) -> None:
    """Guests and the DMZ get what the forwarders say, and that is nothing of the site."""
    name = "backend01.example.internal"
    for gateway in ("gw1", "gw2"):
        addresses = networks.salt(gateway, "gateway.plan")[gateway]["networks"]
        for own in (each["address"] for each in addresses if each["name"] != "servers"):
            station = Station("guest" if own.startswith("10.20.") else "dmz")
            assert checks.resolve(station, name, own) == ""
            assert checks.resolve(station, "www.example.net", own) == checks.INTERNET
    assert checks.resolve(Station("server"), name, "10.30.0.1") == checks.BACKEND
    assert checks.resolve(Station("behind"), name, checks.VIRTUAL_IP) == checks.BACKEND


def test_what_the_gateway_itself_is_for_a_network(networks: Lab) -> None:
    """Guests are isolated: name service, time and a ping at the gateways' addresses among them."""
    guest, dmz, server = (Station(name) for name in ("guest", "dmz", "server"))
    assert checks.wait_stratum(guest, "10.20.0.1", lambda stratum: stratum < 16, 5) < 16
    assert checks.answer(guest, "10.20.0.1", 22) == "refused"
    assert checks.answer(dmz, "203.0.113.17", 22) == "refused"
    assert checks.answer(server, "10.30.0.1", 22) == "open"
    ping = "ping -q -c 1 -W 1 {}"
    for machine, reached, lost in (
        (guest, ["10.20.0.1", "10.20.0.2"], ["10.77.0.1", "10.77.0.2", "10.30.0.1"]),
        (dmz, ["203.0.113.17", "10.77.0.1"], []),
        (server, ["10.30.0.1", "10.77.0.1"], []),
    ):
        for address in reached:
            assert machine.run(ping.format(address), check=False).returncode == 0, address
        for address in lost:
            assert machine.run(ping.format(address), check=False).returncode == 1, address
    assert checks.resolve(guest, "www.example.net", "10.77.0.1") == ""


def test_a_lease_in_each_network(networks: Lab) -> None:
    """With the network's own router, servers and domain; whoever has the virtual IPs."""
    guest, server = Station("guest"), Station("server")
    one, two = lease(guest), lease(server)
    assert one["routers"] == one["domain-name-servers"] == "10.20.0.1"
    # A client asks an NTP server for hours: each gateway by the address that it keeps.
    assert one["ntp-servers"] == "10.20.0.2,10.20.0.3"
    assert re.fullmatch(r"10\.20\.0\.\d+", one["fixed-address"])
    assert 50 <= int(one["fixed-address"].rpartition(".")[2]) <= 250
    assert one["dhcp-lease-time"] == "3600"
    assert one["domain-name"] == "example.internal"
    # A machine with two cards has a reservation in each network.
    assert two["fixed-address"] == "10.30.0.77"
    assert two["domain-name"] == "servers.example.internal"
    assert two["routers"] == "10.30.0.1"
    assert two["filename"] == "pxelinux.0"
    with secondary_in_charge(networks):
        again = lease(guest)
        assert again["dhcp-server-identifier"] == "10.20.0.3"
        assert again["routers"] == "10.20.0.1"
        assert again["fixed-address"] == one["fixed-address"]


def lease(machine: Station) -> dict[str, str]:
    """What a machine is given by DHCP: option name to value. Nothing is done with it."""
    file = f"/tmp/{machine.name}.leases"
    ask = f"dhclient -1 -sf /bin/true -lf {file} -pf {file}.pid -cf /etc/lab/dhclient.conf eth0"
    # It comes back before the process that stays has written its number.
    end = f"timeout 5 sh -c 'until kill $(cat {file}.pid); do sleep 0.1; done' 2>/dev/null"
    machine.run(f"rm -f {file}; {ask} && {end}")
    text = machine.run(f"cat {file}").stdout
    options = re.findall(r"^\s+(?:option )?([a-z-]+) (.+);$", text, re.MULTILINE)
    return {name: value.strip('"') for name, value in options}
