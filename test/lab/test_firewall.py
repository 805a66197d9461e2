"""The firewall as packets meet it: what may pass, what may not, and what NAT makes of it.

How rules get into the kernel, and out again, is test_firewall_state.py's.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import checks
import pki
import pytest
from conftest import GATEWAYS, converge, ok, secondary_in_charge, wait_for_primary
from lab import Host, Lab

Change = Callable[..., dict[str, Any]]
PUBLIC_IPS = {"virtual": "198.51.100.10", "second": "198.51.100.11", "one to one": "198.51.100.12"}
LAPTOP = "198.51.100.50"
# More hosts behind the pair: further addresses of the backend.
NEIGHBOUR, FRIEND, GUEST = "10.77.0.20", "10.77.0.30", "10.77.0.40"

# The site of most tests here: one of everything.
RICH = {
    "public": {
        "virtual_ip": PUBLIC_IPS["virtual"],
        "addresses": [PUBLIC_IPS["second"], PUBLIC_IPS["one to one"]],
    },
    "hosts": {"guest": {"ip": GUEST}},
    "firewall": {
        "ssh": {"from": ["admins"]},
        "groups": {
            "admins": [LAPTOP, "friends"],
            "friends": ["198.51.100.51", "2001:db8:51::/64"],
        },
        "input": [
            {"from": GUEST, "proto": "udp", "action": "drop", "comment": "not even DNS"},
            {"from": ["internal", "vpn"], "ports": [9100, "9102-9104"]},
            {"from": "internal", "ports": 9101, "limit": "5/minute"},
        ],
        "forward": [
            {"from": "guest", "to": "public", "ports": 80, "action": "reject"},
            {"from": "guest", "to": "public", "action": "drop"},
            {"from": "vpn", "to": "www", "ports": 443, "action": "reject"},
            {"from": "public", "to": NEIGHBOUR, "ports": 80},
            {"from": "admins", "to": "backend01", "proto": "udp", "ports": 7007},
        ],
    },
    "nat": {
        "forwards": [
            {"port": 443, "to": "backend01"},
            {"port": 8443, "to": "backend01", "to_port": 443},
            {"port": [81, 82], "to": "www", "to_port": 80},
            {"port": "7000-7010", "to": "backend01", "proto": "both"},
            {"port": "9000-9010", "to": "backend01", "to_port": 7000},
            {"port": 8081, "to": "backend01", "to_port": 80, "from": "admins"},
            {"port": 8082, "to": "backend01", "to_port": 80, "from": ["203.0.113.0/24"]},
            {"port": 80, "to": "backend01", "address": PUBLIC_IPS["second"]},
        ],
        "one_to_one": [{"address": PUBLIC_IPS["one to one"], "to": NEIGHBOUR}],
        "outbound": [
            {"from": "internal", "to": LAPTOP, "snat": "none"},
            {"from": FRIEND, "snat": PUBLIC_IPS["second"]},
        ],
    },
}


@pytest.fixture(scope="module")
def rich(lab: Lab) -> Iterator[Lab]:
    """The site with one of everything; afterwards the example's again."""
    backend = lab.host("backend01")
    converge(lab)
    lab.set_pillar({"gateway": RICH})
    ok(lab.apply())
    aliases = (NEIGHBOUR, FRIEND, GUEST)
    backend.run(" && ".join(f"ip address add {alias}/24 dev eth0" for alias in aliases))
    wait_for_primary(lab)
    yield lab
    backend.run("; ".join(f"ip address del {alias}/24 dev eth0" for alias in aliases))
    lab.set_pillar({})
    ok(lab.apply())
    wait_for_primary(lab)


@contextmanager
def listening(host: Host, *ports: int) -> Iterator[None]:
    """Something that takes TCP connections on these ports."""
    script = """
import selectors, socket, sys
s = [socket.create_server(("", int(p)), family=socket.AF_INET6, dualstack_ipv6=True)
     for p in sys.argv[1:]]
print("ready", flush=True); sys.stdin.read()
"""
    process = host.spawn(["python3", "-c", script, *map(str, ports)])
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    try:
        yield
    finally:
        process.communicate(timeout=10)


def page(host: Host, url: str, source: str = "") -> str:
    """The web page, asked for from one of the host's addresses."""
    interface = ["--interface", source] if source else []
    command = ["curl", "-s", "--max-time", "3", *interface, url]
    return host.run(command, check=False).stdout.strip()


# --------------------------------------------------------------------------------------------------
# Without a firewall in the pillar


@pytest.mark.parametrize("name", ["gw1", pytest.param("gw2", marks=pytest.mark.long)])
def test_the_public_side_finds_nothing_but_vpn_and_the_forwards(site: Lab, name: str) -> None:
    """Every port of TCP and UDP. That the VPN answers there: test_services.py."""
    laptop, backend = site.host("laptop"), site.host("backend01")
    # Without a public virtual IP a forward answers where the internal one is.
    forwards = [443] if name == "gw1" else []
    assert checks.scan(laptop, checks.PUBLIC[name]) == {"open": forwards, "refused": []}
    assert checks.scan(laptop, checks.PUBLIC[name], "udp") == {"open": [], "refused": []}
    assert laptop.run(f"ping -c 1 -W 2 {checks.PUBLIC[name]}").returncode == 0
    # The scanner can see: the inside has these services, and is told at once what it has not.
    inside = checks.scan(backend, checks.INTERNAL[name])
    assert inside["open"] == [22, 53]
    assert len(inside["refused"]) == 65535 - 2


def test_the_public_side_gets_no_way_in(site: Lab) -> None:
    """Also not if it knows the internal network and routes to it."""
    laptop, backend = site.host("laptop"), site.host("backend01")
    laptop.run("ip route add 10.77.0.0/24 via 198.51.100.2")
    try:
        for target in (checks.BACKEND, checks.VIRTUAL_IP, checks.INTERNAL["gw2"]):
            for port, proto in ((22, "tcp"), (53, "tcp"), (80, "tcp"), (7007, "udp")):
                found = checks.answer(laptop, target, port, proto=proto)
                assert found == "silent", (target, port, proto)
            assert laptop.run(f"ping -c 1 -W 1 {target}", check=False).returncode == 1, target
        assert checks.answer(backend, checks.INTERNET, 7007, proto="udp") == "open"
    finally:
        laptop.run("ip route del 10.77.0.0/24")


@contextmanager
def with_ipv6(lab: Lab) -> Iterator[None]:
    """Both sides have IPv6 and the primary forwards it, though the pillar does not speak of it."""
    add = {
        "gw1": "ip -6 address add fd77::2/64 dev eth0 nodad;"
        " ip -6 address add fd51::2/64 dev eth1 nodad; sysctl -qw net.ipv6.conf.all.forwarding=1",
        "backend01": "ip -6 address add fd77::10/64 dev eth0 nodad;"
        " ip -6 route add default via fd77::2",
        "laptop": "ip -6 address add fd51::50/64 dev eth0 nodad;"
        " ip -6 route add fd77::/64 via fd51::2",
    }
    for name, commands in add.items():
        lab.host(name).run(commands)
    try:
        yield
    finally:
        lab.host("gw1").run("sysctl -qw net.ipv6.conf.all.forwarding=0")
        for name, commands in add.items():
            for command in re.findall(r"ip -6 \w+ add [^;]+", commands):
                undo = command.replace(" add ", " del ").removesuffix(" nodad")
                lab.host(name).run(undo, check=False)


def test_ipv6_is_not_open_either(site: Lab) -> None:
    laptop, backend, gw1 = (site.host(name) for name in ("laptop", "backend01", "gw1"))
    with with_ipv6(site), listening(gw1, 9100):
        assert laptop.run("ping -c 1 -W 2 fd51::2").returncode == 0
        assert checks.scan(laptop, "fd51::2") == {"open": [], "refused": []}
        assert checks.answer(laptop, "fd77::2", 22) == "silent"
        assert checks.answer(backend, "fd77::2", 22) == "open"
        assert checks.answer(backend, "fd77::2", 9100) == "refused"
        # Out, but not in.
        assert checks.answer(backend, "fd51::50", 80) == "open"
        for port, proto in ((80, "tcp"), (7007, "udp")):
            assert checks.answer(laptop, "fd77::10", port, proto=proto) == "silent"
        assert laptop.run("ping -c 1 -W 1 fd77::10", check=False).returncode == 1


def test_only_a_peer_takes_part_in_the_election(site: Lab) -> None:
    """A raw socket hears what the firewall lets through: who sends, with how many hops left."""
    listen = """
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112); s.settimeout(0.2)
heard, end = set(), time.monotonic() + 3
print("ready", flush=True)
while time.monotonic() < end:
    try: data, (address, _) = s.recvfrom(999)
    except TimeoutError: continue
    heard.add(f"{address}/{data[8]}")
print(*sorted(heard))
"""
    # VRRPv3 (RFC 9568 section 5.1): version and type, router id 51, priority 255, an address, 0.1 s
    send = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112)
advert = bytes([0x31, 51, 255, 1, 0, 10, 0, 0, 10, 77, 0, 1])
for _ in range(20): s.sendto(advert, ("10.77.0.3", 0))
# As the peer, but from behind a router: one hop is gone.
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
header = bytes([0x45, 0, 0, 32, 0, 0, 0, 0, 254, 112, 0, 0, 10, 77, 0, 2, 10, 77, 0, 3])
for _ in range(20): s.sendto(header + advert, ("10.77.0.3", 0))
"""
    process = site.host("gw2").spawn(["python3", "-c", listen])
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    site.host("backend01").run(["python3", "-c", send])
    assert process.communicate(timeout=10)[0].split() == ["10.77.0.2/255"]
    assert checks.holders(site) == ["gw1"]


@contextmanager
def hearing(host: Host, what: str) -> Iterator[Callable[[], int]]:
    """Count packets that arrive on eth0, by a filter of tcpdump's."""
    file = "/tmp/heard"
    tcpdump = f"tcpdump -n -p -l --immediate-mode -i eth0 -Q in '{what}'"
    start = f"rm -f {file}*; {tcpdump} > {file} 2> {file}.log & echo $!"
    pid = host.run(start).stdout.strip()
    host.run(f"timeout 5 sh -c 'until grep -q listening {file}.log; do sleep 0.05; done'")
    try:
        yield lambda: len(host.run(["cat", file]).stdout.splitlines())
    finally:
        host.run(f"kill {pid}", check=False)


def test_spoofed_sources(site: Lab, pillar: Change) -> None:
    """Nobody on one side sends as somebody of another side."""
    backend, laptop = site.host("backend01"), site.host("laptop")

    def spoof(host: Host, source: str, destination: str) -> None:
        host.run(["python3", "/usr/local/lib/lab/spoof.py", source, destination])

    def answers(claimed: Host, liar: Host, source: str, gateway: str) -> int:
        """How often the gateway answers to the host that the liar claims to be."""
        with hearing(claimed, f"icmp and src {gateway}") as heard:
            for _ in range(3):
                spoof(liar, source, gateway)
            time.sleep(0.5)
            return heard()

    def outside() -> int:
        return answers(backend, laptop, checks.BACKEND, checks.PUBLIC["gw1"])

    def inside() -> int:
        return answers(laptop, backend, LAPTOP, checks.INTERNAL["gw1"])

    def inside_out() -> int:
        internet = site.host("internet")
        with hearing(internet, "icmp[icmptype] == icmp-echo") as heard:
            for _ in range(3):
                spoof(backend, "203.0.113.5", checks.INTERNET)
            time.sleep(0.5)
            return heard()

    assert (outside(), inside(), inside_out()) == (0, 0, 0)
    ok(pillar({"firewall": {"spoof_protection": False}}))
    assert inside() == 3
    # Even so nobody outside has an address of the inside, and nothing else is forwarded.
    assert (outside(), inside_out()) == (0, 0)


def test_vpn_clients_reach_each_other_and_the_site_but_not_the_internet(site: Lab) -> None:
    """One client on each gateway; neither server is a full tunnel."""
    laptop, internet = site.host("laptop"), site.host("internet")
    with (
        pki.Tunnel(site, checks.PUBLIC["gw1"]) as first,
        pki.Tunnel(site, checks.PUBLIC["gw2"], client="internet") as second,
    ):
        assert page(laptop, f"http://{second.address}/") == f"internet saw {first.address}"
        assert page(internet, f"http://{first.address}/") == f"laptop saw {second.address}"
        for client in (laptop, internet):
            for gateway in checks.INTERNAL.values():
                assert checks.answer(client, gateway, 22) == "open"
                assert checks.answer(client, gateway, 9100) == "refused"
        laptop.run(f"ip route add 198.51.100.77 dev {first.device}")
        try:
            assert checks.answer(laptop, "198.51.100.77", 80) == "refused"
        finally:
            laptop.run("ip route del 198.51.100.77")


# --------------------------------------------------------------------------------------------------
# Changes of their own


def test_egress_deny(site: Lab, pillar: Change) -> None:
    """Only what is listed leaves, and only from where it is allowed; answers still come back."""
    backend, laptop, gw1 = (site.host(name) for name in ("backend01", "laptop", "gw1"))
    allowed = [
        {"to": checks.INTERNET, "ports": 80, "comment": "updates"},
        {"from": "backend01", "proto": "icmp"},
    ]
    ok(pillar({"firewall": {"egress": "deny", "egress_allowed": allowed}}))
    assert page(backend, f"http://{checks.INTERNET}/") == "internet saw 198.51.100.2"
    assert checks.answer(backend, checks.INTERNET, 443) == "refused"
    assert checks.answer(backend, checks.INTERNET, 7007, proto="udp") == "refused"
    assert checks.answer(backend, LAPTOP, 80) == "refused"
    assert backend.run(f"ping -c 1 -W 2 {LAPTOP}").returncode == 0
    # DNS goes by the gateway, which may ask; and forwards still lead in.
    assert checks.resolve(backend, "www.example.net", checks.VIRTUAL_IP) == checks.INTERNET
    assert page(laptop, "http://198.51.100.2:443/") == f"backend01 saw {LAPTOP}"
    fetch = f"import socket; socket.create_connection(('{checks.INTERNET}', 443), 3)"
    gw1.run(["python3", "-c", fetch])


def test_nobody_applies_over_ssh_what_keeps_them_out(masterless: Host) -> None:
    """Who is there from the public side, where SSH is not open, hears it before it is too late."""
    call = "salt-call --config-dir /etc/salt/masterless --out=json state.apply gateway"
    for client, errors in ((LAPTOP, 1), (checks.BACKEND, 0)):
        session = f"SSH_CONNECTION='{client} 50000 198.51.100.2 22'"
        failures = checks.failures(checks.local(masterless, f"{session} {call}"))
        assert len(failures) == errors, failures
        assert all("you are here by SSH from" in text for text in failures.values())


def test_full_tunnel(site: Lab, pillar: Change) -> None:
    """A server that is a full tunnel takes its clients to the internet, by each gateway."""
    ok(pillar({"vpn": {"servers": {"main": {"full_tunnel": True}}}}))
    laptop = site.host("laptop")
    for name, public in checks.PUBLIC.items():
        with pki.Tunnel(site, public):
            seen = checks.eventually(lambda: page(laptop, f"http://{checks.INTERNET}/"), bool, 5)
            assert seen == f"internet saw {LAPTOP}"  # on its own link; what is beyond:
            assert " dev tun0" in laptop.run("ip route get 203.0.113.9").stdout
            laptop.run(f"ip route add {checks.INTERNET} dev tun0")
            try:
                assert page(laptop, f"http://{checks.INTERNET}/") == f"internet saw {public}", name
            finally:
                laptop.run(f"ip route del {checks.INTERNET}")


def test_tcp_through_a_tunnel_gets_segments_that_fit(site: Lab, pillar: Change) -> None:
    def mss() -> str:
        """What a host behind the gateway offers, as it arrives at the VPN client."""
        laptop, backend = site.host("laptop"), site.host("backend01")
        with pki.Tunnel(site, checks.PUBLIC["gw1"]) as tunnel:
            laptop.run(
                "rm -f /tmp/syn; timeout 10 tcpdump -n -p --immediate-mode -i tun0 -c 1"
                " 'tcp[tcpflags] == tcp-syn' > /tmp/syn 2> /tmp/syn.log &"
            )
            laptop.run(
                "timeout 5 sh -c 'until grep -q listening /tmp/syn.log; do sleep 0.05; done'"
            )
            assert page(backend, f"http://{tunnel.address}/") == f"laptop saw {checks.BACKEND}"
            return laptop.run("sleep 0.3; grep -o 'mss [0-9]*' /tmp/syn").stdout.strip()

    ok(pillar({"vpn": {"servers": {"main": {"settings": {"tun-mtu": 1400}}}}}))
    assert mss() == "mss 1360"
    ok(pillar({"firewall": {"mss": 1200}}))
    assert mss() == "mss 1200"


MEGABYTES = 100


def transfer(host: Host, target: str, megabytes: int = MEGABYTES) -> int:
    """Send so much to the echo server of another host; how many bytes came back."""
    echo = f"head -c {megabytes * 1_000_000} /dev/zero | timeout 120 nc -N {target} 7007 | wc -c"
    return int(host.run(echo, timeout=150).stdout)


def invalid_drops(lab: Lab) -> int:
    """How many forwarded packets both gateways have dropped as invalid."""
    count = "iptables -t filter -vnxL GATEWAY-FORWARD | awk '/INVALID/ { n += $1 } END { print n }'"
    return sum(int(lab.host(name).run(count).stdout) for name in GATEWAYS)


@pytest.mark.long
def test_the_asymmetric_way_carries_much(site: Lab) -> None:
    """A client of the standby's VPN: what it gets goes by the virtual IP, what it sends does not.
    Opened from either side, before and after a failover, and with one in between."""
    laptop, backend = site.host("laptop"), site.host("backend01")
    size = MEGABYTES * 1_000_000
    before = invalid_drops(site)
    with pki.Tunnel(site, checks.PUBLIC["gw2"]) as tunnel:
        assert transfer(laptop, checks.BACKEND) == size
        assert transfer(backend, tunnel.address) == size
        echo = f"head -c {size} /dev/zero | timeout 120 nc -N {tunnel.address} 7007 | wc -c"
        under_way = backend.spawn(echo)
        time.sleep(1)
        with secondary_in_charge(site):
            output, _ = under_way.communicate(timeout=150)
            assert int(output) == size
            assert checks.holders(site) == ["gw2"]
        assert transfer(laptop, checks.BACKEND, 10) == size // 10
    with secondary_in_charge(site), pki.Tunnel(site, checks.PUBLIC["gw1"]) as tunnel:
        assert transfer(laptop, checks.BACKEND) == size
        assert transfer(backend, tunnel.address) == size
    assert invalid_drops(site) == before


def test_what_is_refused_can_be_logged(site: Lab, pillar: Change) -> None:
    """The kernel logs only for the machine's own network, so the rule's counter has to do."""
    laptop, gw1 = site.host("laptop"), site.host("gw1")
    ok(pillar({"firewall": {"log": True, "log_limit": "1/minute"}}))
    count = "iptables -vnxL GATEWAY-INPUT | awk '/LOG .* eth1 / { print $1 }' | tail -1"
    for _ in range(20):
        assert checks.answer(laptop, checks.PUBLIC["gw1"], 23) == "silent"
    assert 1 <= int(gw1.run(count).stdout) <= 6


# --------------------------------------------------------------------------------------------------
# One of everything

FORWARDS = {
    "a port": ("tcp", "virtual", 443, "open"),
    "to another port": ("tcp", "virtual", 8443, "open"),
    "first of a list": ("tcp", "virtual", 81, "open"),
    "last of a list": ("tcp", "virtual", 82, "open"),
    "in a range": ("tcp", "virtual", 7007, "open"),
    "in a range of UDP": ("udp", "virtual", 7007, "open"),
    "a closed port in a range": ("tcp", "virtual", 7009, "refused"),
    "a range to another range": ("tcp", "virtual", 9007, "open"),
    "another range is TCP only": ("udp", "virtual", 9007, "silent"),
    "allowed source": ("tcp", "virtual", 8081, "open"),
    "other sources": ("tcp", "virtual", 8082, "silent"),
    "no forward": ("tcp", "virtual", 8083, "silent"),
    "on a second address": ("tcp", "second", 80, "open"),
    "of the first on the second": ("tcp", "second", 443, "silent"),
    "1:1, allowed": ("tcp", "one to one", 80, "open"),
    "1:1, not allowed": ("tcp", "one to one", 443, "silent"),
}


@pytest.mark.core
@pytest.mark.parametrize(("proto", "address", "port", "expected"), FORWARDS.values(), ids=FORWARDS)
def test_forwards(rich: Lab, proto: str, address: str, port: int, expected: str) -> None:
    laptop = rich.host("laptop")
    assert checks.answer(laptop, PUBLIC_IPS[address], port, proto=proto) == expected


@pytest.mark.core
def test_forwards_see_the_client_s_address(rich: Lab) -> None:
    laptop = rich.host("laptop")
    for url in (
        "http://198.51.100.10:8443/",
        "http://198.51.100.10:82/",
        "http://198.51.100.11/",
        "http://198.51.100.12/",
    ):
        assert page(laptop, url) == f"backend01 saw {LAPTOP}", url


@pytest.mark.core
def test_hairpin(rich: Lab) -> None:
    """A host behind the pair reaches a forward by its public address."""
    backend = rich.host("backend01")
    for address in ("virtual", "second"):
        port = 8443 if address == "virtual" else 80
        url = f"http://{PUBLIC_IPS[address]}:{port}/"
        assert page(backend, url, NEIGHBOUR) == f"backend01 saw {checks.VIRTUAL_IP}"
    assert checks.answer(backend, PUBLIC_IPS["virtual"], 8083, NEIGHBOUR) == "refused"
    # The internal virtual IP's own ports stay its own.
    assert checks.answer(backend, checks.VIRTUAL_IP, 8443, NEIGHBOUR) == "refused"


@pytest.mark.core
def test_outbound_addresses(rich: Lab) -> None:
    backend, laptop = rich.host("backend01"), rich.host("laptop")
    seen = {
        checks.BACKEND: PUBLIC_IPS["virtual"],
        NEIGHBOUR: PUBLIC_IPS["one to one"],
        FRIEND: PUBLIC_IPS["second"],
    }
    for source, expected in seen.items():
        assert page(backend, f"http://{checks.INTERNET}/", source) == f"internet saw {expected}"
    # The exception: the laptop knows the way back.
    laptop.run("ip route add 10.77.0.0/24 via 198.51.100.10")
    try:
        assert page(backend, f"http://{LAPTOP}/", FRIEND) == f"laptop saw {FRIEND}"
    finally:
        laptop.run("ip route del 10.77.0.0/24")


@pytest.mark.core
def test_rules_for_the_gateway_itself(rich: Lab) -> None:
    laptop, internet, backend = (rich.host(name) for name in ("laptop", "internet", "backend01"))
    for name in GATEWAYS:
        assert checks.answer(laptop, checks.PUBLIC[name], 22) == "open"
        assert checks.answer(internet, checks.PUBLIC[name], 22) == "silent"
        with listening(rich.host(name), 9100, 9102, 9104, 9105):
            ports = {9100: "open", 9102: "open", 9104: "open", 9105: "refused"}
            for port, expected in ports.items():
                assert checks.answer(backend, checks.INTERNAL[name], port) == expected, port
            assert checks.answer(laptop, checks.PUBLIC[name], 9100) == "silent"
    # The guest's rule comes before what everybody inside may do.
    dig = "dig +short +time=1 +tries=1 -b {} @10.77.0.1 www.example.internal"
    assert backend.run(dig.format(NEIGHBOUR)).stdout.strip() == checks.BACKEND
    assert backend.run(dig.format(GUEST), check=False).returncode == 9  # no reply


@pytest.mark.core
def test_a_limit_counts_each_source_for_itself(rich: Lab) -> None:
    backend = rich.host("backend01")
    with listening(rich.host("gw1"), 9101):
        tries = [checks.answer(backend, checks.INTERNAL["gw1"], 9101, FRIEND) for _ in range(8)]
        assert tries[:5] == ["open"] * 5
        assert "silent" in tries[5:]
        assert checks.answer(backend, checks.INTERNAL["gw1"], 9101, NEIGHBOUR) == "open"


@pytest.mark.core
def test_rules_for_what_is_forwarded(rich: Lab) -> None:
    backend, laptop = rich.host("backend01"), rich.host("laptop")
    assert checks.answer(backend, checks.INTERNET, 80, GUEST) == "refused"
    assert checks.answer(backend, checks.INTERNET, 443, GUEST) == "silent"
    assert checks.answer(backend, checks.INTERNET, 443, FRIEND) == "open"
    # A group's member may come in where a rule says so, though there is no forward.
    laptop.run("ip route add 10.77.0.0/24 via 198.51.100.10")
    try:
        assert checks.answer(laptop, checks.BACKEND, 7007, proto="udp") == "open"
        assert checks.answer(laptop, checks.BACKEND, 7007) == "silent"
    finally:
        laptop.run("ip route del 10.77.0.0/24")
    with pki.Tunnel(rich, checks.PUBLIC["gw1"]):
        assert checks.answer(laptop, checks.BACKEND, 443) == "refused"
        assert checks.answer(laptop, checks.BACKEND, 80) == "open"


@pytest.mark.core
def test_further_addresses_follow_the_virtual_ip(rich: Lab) -> None:
    laptop = rich.host("laptop")
    with secondary_in_charge(rich):
        for url in ("http://198.51.100.10:8443/", "http://198.51.100.11/", "http://198.51.100.12/"):
            seen = checks.eventually(lambda url=url: page(laptop, url), bool, 5)  # type: ignore[misc]
            assert seen == f"backend01 saw {LAPTOP}", url
