"""What a user notices of one converged gateway: gw1 of pillar.example's site, while gw2 is off."""

import json

import pytest

VIRTUAL_IP = "10.77.0.1"
INTERNAL = "10.77.0.2"
PUBLIC = "198.51.100.2"
BACKEND = "10.77.0.10"
BACKEND_MAC = "02:00:00:00:00:10"
INTERNET = "198.51.100.100"

ASK_TIME = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(2)
s.connect(("{server}", 123))
s.send(b"\\x23" + 47 * b"\\0")
print(*s.recv(2))
"""


def test_the_gateway_holds_the_virtual_ip(host):
    assert VIRTUAL_IP in host.interface("lan0").addresses


@pytest.mark.parametrize(
    "service",
    [
        "keepalived",
        "gateway-follow",
        "gateway-dns",
        "gateway-dhcp",
        "chrony",
        "openvpn-server@gateway-main",
    ],
)
def test_the_service_runs(host, service):
    assert host.service(service).is_running


@pytest.mark.parametrize("name", ["backend01.example.internal", "www.example.internal"])
def test_the_virtual_ip_answers_internal_names(backend, name):
    assert backend.resolve(name, VIRTUAL_IP) == BACKEND


def test_the_virtual_ip_answers_names_of_the_internet(backend, internet):
    assert backend.resolve("www.example.net", VIRTUAL_IP) == INTERNET


def test_a_known_host_is_offered_its_address(backend):
    offers = backend.run(f"python3 /srv/test/lab/files/lab/dhcp_offers.py eth0 {BACKEND_MAC} 2")
    assert [(o["server"], o["address"]) for o in json.loads(offers)] == [(INTERNAL, BACKEND)]


@pytest.mark.parametrize("server", [VIRTUAL_IP, INTERNAL])
def test_time_is_served_even_without_an_upstream_server(backend, server):
    first, stratum = map(int, backend.run(f"python3 -c '{ASK_TIME.format(server=server)}'").split())
    assert first >> 6 != 3  # leap indicator: not synchronised
    assert 1 <= stratum < 16


def test_the_backend_reaches_the_internet_by_nat(backend, internet):
    assert backend.get(f"http://{INTERNET}") == f"internet saw {PUBLIC}"


def test_a_forwarded_port_reaches_the_backend(backend, internet):
    assert internet.get(f"http://{PUBLIC}:443") == f"backend01 saw {INTERNET}"


def test_the_vpn_server_listens_and_has_its_address(host):
    assert host.socket("udp://0.0.0.0:1194").is_listening
    assert "10.8.0.1" in host.check_output("ip -brief -4 address show")


def test_a_vpn_client_reaches_the_backend(backend, internet, vpn_client):
    assert internet.get(f"http://{BACKEND}") == f"backend01 saw {vpn_client}"


def test_the_peers_vpn_is_behind_the_peer(host):
    route = host.check_output("ip route show 10.8.1.0/24")
    assert route.startswith("10.8.1.0/24 via 10.77.0.3 dev lan0")


def test_the_status_has_no_problems(problems):
    assert problems == []


def test_a_second_apply_changes_nothing(salt):
    states = salt("state.apply", "gateway")
    assert {name for name, state in states.items() if not state["result"]} == set()
    assert {name: state["changes"] for name, state in states.items() if state["changes"]} == {}
