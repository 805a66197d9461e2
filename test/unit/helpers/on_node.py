"""A node of the example, in good health, as gateway.* sees it."""

import json
import subprocess
from datetime import datetime, timezone
from types import SimpleNamespace

import _gateway_applied
import _gateway_ca
import _gateway_drain
import _gateway_failover
import _gateway_firewall
import _gateway_follow
import _gateway_interfaces
import _gateway_kernel
import _gateway_machine
import _gateway_pem
import _gateway_x509
import pytest

SECRET_TEXT = "c2VjcmV0c2VjcmV0c2VjcmV0"
PRIVATE_KEY = f"-----BEGIN PRIVATE KEY-----\n{SECRET_TEXT}\n-----END PRIVATE KEY-----\n"
NODE_ADDRESSES = {
    "lo": ["127.0.0.1/8"],
    "eth0": ["10.77.0.2/24", "10.77.0.1/32"],
    "eth1": ["198.51.100.2/24"],
    "vpn-main": ["10.8.0.1/24"],
    "tap0": [],
}
CHRONY = (
    "C6336464,198.51.100.100,3,1700000000.1,0.000012,0.000010,0.000020,-1.2,0.0,0.1,0.001,0.002,"
    "64.2,{leap}\n"
)
SYNC_LINK = {
    "health:internal:targets": [],
    "public:virtual_ip": "198.51.100.10",
    "state_sync": {"interface": "eth3"},
    "nodes:gw1:sync": "10.78.0.1",
    "nodes:gw2:sync": "10.78.0.2",
}
SERVICES = [
    "gateway-firewall-guard",
    "chrony",
    "openvpn-server@gateway-main",
    "gateway-dns",
    "gateway-leases",
    "gateway-follow",
    "keepalived",
    "gateway-health",
]
LEASE_KEY = "a-key-of-leases-for-tests-and-nobody-else"
LISTING = {
    "leases": [],
    "in_sync": True,
    "serves": True,
    "peers": {"gw2": {"heard": True, "refused": "", "same_pools": True}},
    "kept": True,
    "fault": "",
}
HEALTHY = {
    "penalty": 0,
    "holder": True,
    "cold": False,
    "drained": False,
    "uplink": [],
    "faults": [],
}


def firewall_status(**changes):
    return json.dumps(LOADED | changes)


LOADED = {
    "backend": "nft",
    "loaded": True,
    "drift": False,
    "pending": False,
    "gate": True,
    "closed": None,
    "restored": 0,
}


@pytest.fixture(scope="session")
def module(load):
    return load("_modules/gateway.py")


@pytest.fixture(scope="session")
def on_the_node(tmp_path_factory):
    """Certificates and keys in files, as a user brings them."""
    folder = tmp_path_factory.mktemp("pki")
    authority = _gateway_ca.Authority(folder / "example", datetime.now(timezone.utc))
    authority.create("ec", 3650, 3650)
    authority.issue("gw1", "server", None, 825, 3650)
    issued = authority.issued("gw1")
    pem = _gateway_x509.pem(issued.current)
    files = {
        "ca": authority.read("ca.crt"),
        "certificate": f"Certificate:\n    as openssl shows it\n{pem}",
        "key": issued.key,
        "tls_crypt": f"#\n# 2048 bit OpenVPN static key\n#\n{authority.keys()['tls_crypt']}",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return {name: str(folder / name) for name in files}


@pytest.fixture
def edit_here(edit, on_the_node):
    """The example's pillar with some values changed, on a node that has what it names."""
    paths = {f"vpn:pki:{name}": path for name, path in on_the_node.items()}
    return lambda changes: edit(paths | {"dhcp:key": LEASE_KEY} | changes)


@pytest.fixture
def node(module, monkeypatch, tmp_path, edit_here):
    """The primary of the example, in good health. What a test changes of it is what Salt sees."""
    system = SimpleNamespace(
        addresses={name: list(values) for name, values in NODE_ADDRESSES.items()},
        routes=[
            {"dst": "default", "gateway": "198.51.100.1"},
            {"dst": "10.77.0.0/24", "dev": "eth0"},
            {"dst": "10.8.1.0/24", "gateway": "10.77.0.3", "protocol": "119"},
        ],
        routes6=[],
        on_link={"10.77.0.0/24": "eth0", "198.51.100.0/24": "eth1", "10.8.0.0/24": "vpn-main"},
        flags={},
        leases=(),
        tools={
            "chronyc": CHRONY.format(leap="Normal"),
            "/usr/lib/gateway/firewall": firewall_status(),
            "/usr/lib/gateway/ask-leases": json.dumps(LISTING),
            "ntpq": "leap=00, stratum=2, refid=198.51.100.100\n",
        },
        running={*SERVICES, "gateway-dhcp", "gateway-vpn-routes"},
        way_to={
            "198.41.0.4": "eth1",
            "10.77.0.10": "eth0",
            "203.0.113.9": "eth1",
            "203.0.113.7": "eth1",
        },
        pillar={"gateway": edit_here({})},
        id="gw1",
        applied=tmp_path / "applied",
    )

    def run(tool, *arguments):
        if tool == "setpriv":
            found = subprocess.run([tool, *arguments], check=False)
            return found.returncode, ""
        if tool == "ip" and "ip" not in system.tools:
            return done(ip(list(arguments)))
        if (tool, *arguments[:1]) == ("systemctl", "is-active"):
            names = arguments[1:]
            words = ["active" if name in system.running else "inactive" for name in names]
            return 0 if "active" in words else 3, "\n".join(words)
        answer = system.tools.get(tool)
        if answer is None:
            return 127, ""
        return done(answer(list(arguments)) if callable(answer) else answer)

    def done(answer):
        failed = isinstance(answer, int)
        return answer if failed else 0, "" if failed else answer

    def ip(arguments):
        match arguments:
            case ["-json", "address", "show"]:
                pass
            case ["-json", "route", "get", address]:
                return json.dumps([{"dst": address, "dev": system.way_to[address]}])
            case ["-json", "-4", "route", "get", address]:
                way = system.way_to.get(address)
                return json.dumps([{"dst": address, "dev": way}]) if way else 2
            case ["-json", "-4", "route", "show", "table", "main", "scope", "link"]:
                routes = [{"dst": dst, "dev": dev} for dst, dev in system.on_link.items()]
                return json.dumps([{}, {"dst": "default", "dev": "ppp0"}, *routes])
            case ["-json", "-6", "route", "show", "default", "dev", "eth1"]:
                return json.dumps(system.routes6)
            case ["-json", "-6", "route", "show", "default", "dev", _]:
                return "[]"
            case ["-json", "-4", "route", "show", "table", "all"]:
                return json.dumps(system.routes)
            case _:
                raise AssertionError(arguments)
        # Some versions print empty objects.
        links = [
            {
                "ifname": name,
                "flags": system.flags.get(name, ["UP", "LOWER_UP"]),
                "addr_info": [address_info(each) for each in addresses]
                + [{"family": "inet6", "address": "fe80::1"}],
            }
            for name, addresses in system.addresses.items()
        ]
        return json.dumps([{}, *links])

    def address_info(text):
        address, _, length = text.partition("/")
        dynamic = {"dynamic": True} if address in system.leases else {}
        return {"local": address, "prefixlen": int(length or 32)} | dynamic

    def inject():
        folder = tmp_path / "net"
        for name in system.addresses:
            (folder / name).mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(_gateway_machine, "INTERFACES", str(folder))
        monkeypatch.setattr(_gateway_applied, "APPLIED", str(system.applied))
        monkeypatch.setattr(_gateway_follow, "ROLE", str(tmp_path / "no role"))
        for room, names in {
            _gateway_drain: ("DRAINING", "DRAINED"),
            _gateway_failover: ("HEALTH",),
            _gateway_firewall: ("BACKEND", "BRIDGE_FILTER", "LEGACY_TABLES", "RULES"),
            _gateway_kernel: ("CONNECTIONS", "CONNECTIONS_LIMIT"),
            _gateway_pem: ("CRL",),
            _gateway_interfaces: ("KEEPALIVED",),
        }.items():
            for name in names:
                monkeypatch.setattr(room, name, str(tmp_path / name.lower()))
        system.resolvers = (tmp_path / "resolv.conf", tmp_path / "resolved.conf")
        monkeypatch.setattr(_gateway_interfaces, "RESOLVERS", system.resolvers)
        system.keepalived = tmp_path / "keepalived"
        system.keepalived.write_text(
            "".join(
                f"        {address}/32 dev {dev}\n"
                for address, dev in (("10.77.0.1", "eth0"), ("198.51.100.1", "eth1"))
            )
        )
        system.connections = tmp_path / "connections"
        (tmp_path / "connections_limit").write_text("1000\n")
        system.health = tmp_path / "health"
        system.drained, system.draining = tmp_path / "drained", tmp_path / "draining"
        monkeypatch.setattr(_gateway_machine, "_run", run)
        functions = {
            "service.stop": system.running.remove,
            "service.start": system.running.add,
        }
        for name, value in {
            "__salt__": functions,
            "__context__": {},
            "__opts__": system.__dict__,
            "__grains__": {"os_family": "Debian"},
            "__pillar__": system.pillar,
        }.items():
            monkeypatch.setattr(module, name, value, raising=False)

    inject()
    system.apply = lambda: system.applied.write_text(json.dumps(module.plan()) + "\n")
    system.apply()
    system.health.write_text(json.dumps(HEALTHY) + "\n")
    return system


@pytest.fixture
def break_pillar(node, edit_here):
    """Put the example with changes into the pillar: a new object, as after a refresh."""

    def broken(changes):
        node.pillar["gateway"] = edit_here(changes)

    return broken


def lose_route(node):
    del node.routes[-1]


def firewall_says(**changes):
    return lambda node: node.tools.update({"/usr/lib/gateway/firewall": firewall_status(**changes)})


@pytest.fixture
def takeover(module, node, monkeypatch, tmp_path):
    """A peer takes the virtual IP as soon as this node is worse; no time passes."""

    def sleep(seconds):
        clock[0] += seconds
        assert node.draining.read_text() == "4711\n"
        if node.peer and "10.77.0.1/32" in node.addresses["eth0"]:
            node.addresses["eth0"].remove("10.77.0.1/32")

    clock = [0.0]
    node.peer = True
    (tmp_path / "uptime").write_text("4711.86 9000.50\n")
    monkeypatch.setattr(_gateway_machine, "UPTIME", str(tmp_path / "uptime"))
    monkeypatch.setattr(
        _gateway_drain, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: clock[0])
    )
    return node
