"""The example's site with more networks behind the pair, and a machine in each.

The machines are network namespaces of the backend, so that they have its programs and cost nothing.
The kernel of the lab may have no VLANs: what is called eth0.20 is a card with a cable of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import checks
from lab import LAB_NAME, Host, Lab, make_bridges, on_switch, run

HOME = "backend01"
GUEST = {
    "interface": "eth0.20",
    "network": "10.20.0.0/24",
    "virtual_ip": "10.20.0.1",
    "isolated": True,
    "dhcp": {"pool": "10.20.0.50-10.20.0.250", "lease_time": "1h"},
}
SERVERS = {
    "interface": "eth5",
    "network": "10.30.0.0/24",
    "virtual_ip": "10.30.0.1",
    "trusted": True,
    "dhcp": {
        "pool": "10.30.0.100-10.30.0.150",
        "domain": "servers.example.internal",
        "boot": {"file": "pxelinux.0", "server": "10.30.0.60"},
    },
}
DMZ = {
    "interface": "eth4",
    "network": "203.0.113.16/28",
    "virtual_ip": "203.0.113.17",
    "nat": "none",
}
ROUTES = [{"network": "10.50.0.0/16", "via": "10.77.0.254"}]
PILLAR: dict[str, Any] = {
    "networks": {"guest": GUEST, "servers": SERVERS, "dmz": DMZ},
    "routes": ROUTES,
    # The second of its cards is the one of the station in `servers`.
    "hosts": {
        "twohomed": {
            "ip": ["10.77.0.77", "10.30.0.77"],
            "mac": ["02:00:00:00:00:77", "02:00:00:02:02:00"],
        }
    },
}
# What Lab.further plugs in: each gateway's address is the virtual IP plus its id.
CARDS = {
    "guest": {"card": "eth0.20", "gw1": "10.20.0.2/24", "gw2": "10.20.0.3/24"},
    "servers": {"card": "eth5", "gw1": "10.30.0.2/24", "gw2": "10.30.0.3/24"},
    "dmz": {"card": "eth4", "gw1": "203.0.113.18/28", "gw2": "203.0.113.19/28"},
}


@dataclass(frozen=True)
class Station(Host):
    """A machine of a network: one card, called eth0, and what a machine of the lab serves."""

    @property
    def container(self) -> str:
        return f"{LAB_NAME}-{HOME}"

    def _exec(self, cmd: str | list[str], interactive: bool) -> list[str]:
        words = super()._exec(cmd, interactive)
        place = words.index(self.container) + 1
        return [*words[:place], "ip", "netns", "exec", self.name, *words[place:]]


def many(count: int) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """A pillar with so many further networks of all three kinds, and the cards of the gateways."""
    kinds: tuple[dict[str, bool], ...] = ({}, {"isolated": True}, {"trusted": True})
    pillar: dict[str, Any] = {}
    cards = {}
    for number in range(1, count + 1):
        name, start = f"net{number}", f"10.100.{number}"
        pillar[name] = {
            "interface": name,
            "network": f"{start}.0/24",
            "virtual_ip": f"{start}.1",
            "dhcp": {"pool": f"{start}.50-{start}.250"},
            **kinds[number % len(kinds)],
        }
        cards[name] = {"card": name, "gw1": f"{start}.2/24", "gw2": f"{start}.3/24"}
    return {"networks": pillar}, cards


# Each machine: its cards (the network of the switch and the address there), and its router.
# Outside knows the ways inside, as a neighbour's router might: what it reaches, rules let it reach.
STATIONS = {
    "outside": ({"eth0": ("wan", "198.51.100.60/24")}, checks.PUBLIC_VIRTUAL_IP),
    "guest": ({"eth0": ("guest", "10.20.0.60/24")}, "10.20.0.1"),
    "server": ({"eth0": ("servers", "10.30.0.60/24")}, "10.30.0.1"),
    "dmz": ({"eth0": ("dmz", "203.0.113.20/28")}, "203.0.113.17"),
    "router": (
        {"eth0": ("lan", "10.77.0.254/24"), "eth1": ("behind", "10.50.0.1/16")},
        "10.77.0.1",
    ),
    "behind": ({"eth0": ("behind", "10.50.0.9/16")}, "10.50.0.1"),
}


def address(name: str) -> str:
    """The address of a station."""
    return STATIONS[name][0]["eth0"][1].partition("/")[0]


def mac(name: str, card: str = "eth0") -> str:
    """The hardware address of a station's card."""
    return f"02:00:00:02:{list(STATIONS).index(name):02x}:{card[-1]:0>2}"


@contextmanager
def station(lab: Lab, name: str) -> Iterator[Station]:
    """Have one of STATIONS."""
    cards, router = STATIONS[name]
    home = lab.host(HOME)
    home.run(f"ip netns del {name}", check=False)
    home.run(f"ip netns add {name}; ip -n {name} link set lo up")
    machine = Station(name)
    for card, (network, address) in cards.items():
        here = f"{name}-{card}"
        on_switch(
            f"link add {here} type veth peer name {here} address {mac(name, card)}"
            f" netns {home.pid}",
            f"link set {here} master {network} addrgenmode none up",
        )
        home.run(f"ip link set {here} netns {name} name {card}")
        machine.run(f"ip address add {address} broadcast + dev {card}; ip link set {card} up")
    machine.run(f"ip route add default via {router}; echo 1 > /proc/sys/net/ipv4/ip_forward")
    serve = f"hostname {name}; exec nice -n -20 python3 /usr/local/lib/lab/services.py"
    serving = machine.spawn(["unshare", "--uts", "sh", "-c", serve])
    serves = "until ss -Hltn sport = :7008 | grep -q .; do sleep 0.1; done"
    try:
        machine.run(["timeout", "10", "sh", "-c", serves])
        yield machine
    finally:
        for card in cards:
            run(["ip", "-n", LAB_NAME, "link", "del", f"{name}-{card}"], check=False)
        # Nobody else is in there.
        home.run(f"kill $(ip netns pids {name}); ip netns del {name}", check=False)
        serving.communicate(timeout=10)


@contextmanager
def known_outside(lab: Lab) -> Iterator[None]:
    """The internet knows the way to the DMZ, whose addresses are public ones."""
    internet, way = lab.host("internet"), f"{DMZ['network']} via {checks.PUBLIC_VIRTUAL_IP}"
    internet.run(f"ip route replace {way}")
    try:
        yield
    finally:
        internet.run(f"ip route del {way}")


# Asks for the page of each address and port at once, from an address of its own.
ASK = """
import concurrent.futures, errno, json, socket, sys
def page(target):
    address, _, port = target.partition(":")
    try:
        with socket.create_connection((address, int(port)), 1.5, (sys.argv[1], 0)) as connection:
            connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            return connection.makefile().read().rpartition("\\n\\n")[2].strip()
    except TimeoutError:
        return "silent"
    except OSError as error:
        return {errno.ECONNREFUSED: "refused"}.get(error.errno, str(error))
with concurrent.futures.ThreadPoolExecutor(50) as pool:
    print(json.dumps(dict(zip(sys.argv[2:], pool.map(page, sys.argv[2:])))))
"""


def pages(machine: Host, source: str, targets: list[str]) -> dict[str, str]:
    """What a machine gets of each ADDRESS:PORT with one of its addresses as the source: a page, or
    "refused", or "silent"."""
    answers: dict[str, str] = json.loads(
        machine.run(["python3", "-c", ASK, source, *targets]).stdout
    )
    return answers


@contextmanager
def networks(lab: Lab) -> Iterator[dict[str, Station]]:
    """Cards of the gateways in each network of PILLAR, which is the caller's to apply, and the
    stations by name."""
    with lab.further(CARDS), ExitStack() as stack:
        make_bridges("behind")
        stack.callback(on_switch, "link del behind")
        yield {name: stack.enter_context(station(lab, name)) for name in STATIONS}
