"""Fixtures of the tests that Test Kitchen runs; kitchen_site.py has what they ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from kitchen_site import GATEWAYS, PROBLEMS, SUITE, TOOLS, Gateway, Neighbour, eventually

collect_ignore = {
    "single": ["test_pair.py", "test_pair_full.py"],
    "pair": ["test_pair_full.py"],
    "pair-full": [],
}[SUITE]


@pytest.fixture(scope="session")
def gateways() -> dict[str, Gateway]:
    """The gateways that are on, by name."""
    return {name: Gateway(int(name[2:])) for name in GATEWAYS}


@pytest.fixture(scope="session")
def gw1(gateways: dict[str, Gateway]) -> Gateway:
    """The primary."""
    return gateways["gw1"]


@pytest.fixture(scope="session")
def gw2(gateways: dict[str, Gateway]) -> Gateway:
    """The secondary."""
    return gateways["gw2"]


@pytest.fixture(scope="session", autouse=True)
def settled(gateways: dict[str, Gateway]) -> None:
    """The gateways had time to settle after the converge."""
    for gateway in gateways.values():
        eventually(gateway.problems, lambda problems: problems == PROBLEMS, 60)


@pytest.fixture(scope="session")
def backend() -> Iterator[Neighbour]:
    """The host behind the gateways, with a web server."""
    machine = Neighbour("backend01")
    machine.start("backend01-web", f"python3 {TOOLS}/lab/services.py")
    eventually(lambda: machine.get("http://localhost"))
    yield machine
    machine.stop("backend01-web")


@pytest.fixture(scope="session")
def internet() -> Iterator[Neighbour]:
    """The other side: a web server, and the gateways' name server."""
    machine = Neighbour("internet")
    machine.start("internet-web", f"python3 {TOOLS}/lab/services.py")
    names = f"{TOOLS}/etc/lab/internet-dns.conf"
    machine.start("internet-dns", f"dnsmasq --keep-in-foreground --pid-file= --conf-file={names}")
    eventually(lambda: machine.get("http://localhost"))
    yield machine
    machine.stop("internet-web", "internet-dns")


@pytest.fixture
def connect(internet: Neighbour) -> Iterator[Callable[[Gateway], str]]:
    """Connects a VPN client on the internet through a gateway: its address in the tunnel, or ""."""

    def address() -> str:
        found = internet.run("ip -brief -4 address show dev tun0").split()
        return found[2].split("/")[0] if len(found) > 2 else ""

    def connected(gateway: Gateway) -> str:
        pki = "/etc/openvpn/pki"
        internet.start(
            "vpn-client",
            f"openvpn --client --nobind --dev tun0 --remote {gateway.public} 1194 udp"
            f" --remote-cert-tls server --ca {pki}/ca.crt --tls-crypt {pki}/tls-crypt.key"
            f" --cert {pki}/client.crt --key {pki}/client.key",
        )
        return str(eventually(address))

    yield connected
    internet.stop("vpn-client")
