"""The execution module, with Salt's dunders and the node it runs on played by the test."""

import gc
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import nullcontext, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import _gateway_applied
import _gateway_ca
import _gateway_dhcp
import _gateway_failover
import _gateway_firewall
import _gateway_follow
import _gateway_interfaces
import _gateway_kernel
import _gateway_node
import _gateway_pem
import _gateway_plan
import _gateway_vpn
import _gateway_x509
import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError, SaltReqTimeoutError

SECRET = "c2VjcmV0c2VjcmV0c2VjcmV0"
TOKEN = (
    f"-----BEGIN OpenVPN auth-token server key-----\n{SECRET}\n"
    "-----END OpenVPN auth-token server key-----\n"
)
PRIVATE_KEY = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"

ADDRESSES = {
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
LINK = {
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
    "gateway-follow",
    "keepalived",
    "gateway-health",
]
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


@pytest.fixture(scope="module")
def module(load):
    return load("_modules/gateway.py")


@pytest.fixture(scope="module")
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
def edit(edit, on_the_node):
    """The example's pillar with some values changed, on a node that has what it names."""
    paths = {f"vpn:pki:{name}": path for name, path in on_the_node.items()}
    return lambda changes: edit(paths | changes)


@pytest.fixture
def node(module, monkeypatch, tmp_path, edit):
    """The primary of the example, in good health. What a test changes of it is what Salt sees."""
    system = SimpleNamespace(
        addresses={name: list(values) for name, values in ADDRESSES.items()},
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
            "ntpq": "leap=00, stratum=2, refid=198.51.100.100\n",
        },
        running={*SERVICES, "gateway-dhcp", "gateway-vpn-routes"},
        way_to={
            "198.41.0.4": "eth1",
            "10.77.0.10": "eth0",
            "203.0.113.9": "eth1",
            "203.0.113.7": "eth1",
        },
        pillar={"gateway": edit({})},
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
            case ["-json", "-4", "route", "show", "table", "main"]:
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
        monkeypatch.setattr(_gateway_node, "INTERFACES", str(folder))
        monkeypatch.setattr(_gateway_applied, "APPLIED", str(system.applied))
        monkeypatch.setattr(_gateway_follow, "ROLE", str(tmp_path / "no role"))
        for room, names in {
            _gateway_failover: ("HEALTH", "DRAINING", "DRAINED"),
            _gateway_firewall: ("BACKEND", "BRIDGE_FILTER", "LEGACY_TABLES", "RULES"),
            _gateway_kernel: ("CONNECTIONS", "CONNECTIONS_LIMIT"),
            _gateway_pem: ("CRL",),
            _gateway_interfaces: ("KEEPALIVED",),
            _gateway_dhcp: ("LEASES",),
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
        monkeypatch.setattr(_gateway_node, "_run", run)
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
def break_pillar(node, edit):
    """Put the example with changes into the pillar: a new object, as after a refresh."""

    def broken(changes):
        node.pillar["gateway"] = edit(changes)

    return broken


# --------------------------------------------------------------------------------------------------
# What is planned


def test_a_good_pillar(module, node):
    assert module.validate() == []


@pytest.mark.parametrize(
    ("client", "refused"), [("10.77.0.10", False), ("203.0.113.9", False), ("203.0.113.7", True)]
)
def test_nobody_applies_over_ssh_what_keeps_them_out(
    module, node, break_pillar, monkeypatch, client, refused
):
    break_pillar({"firewall": {"ssh": {"from": "203.0.113.9"}}})
    assert module.validate() == []
    monkeypatch.setenv("SSH_CONNECTION", f"{client} 50000 198.51.100.2 22")
    expected = (
        f"gateway:firewall:ssh:from: you are here by SSH from {client} on the public side, and the"
        " new rules would not let you in again; add that address"
    )
    assert module.validate() == ([expected] if refused else [])


def test_nobody_applies_over_ssh_to_a_forwarded_port(module, node, break_pillar, monkeypatch):
    """Whoever is let in by a rule does not reach this node by a port that leads to a host."""
    monkeypatch.setenv("SSH_CONNECTION", "203.0.113.9 50000 198.51.100.2 443")
    break_pillar({"firewall": {"input": [{"from": "203.0.113.9", "ports": 443}]}})
    assert len(module.validate()) == 1
    break_pillar({"firewall": {"input": [{"from": "203.0.113.9", "ports": 443}]}, "nat": ...})
    assert module.validate() == []
    drop = {"from": "203.0.113.9", "to": "198.51.100.2", "action": "drop"}
    rules = [drop, {"from": "203.0.113.9", "ports": 443}]
    break_pillar({"firewall": {"input": rules}, "nat": ...})
    assert len(module.validate()) == 1


def test_ipv6_that_a_router_gives(module, node, break_pillar):
    """It would end with the advertisements: the pillar has to say what is meant."""
    node.routes6 = [{"dst": "default", "gateway": "fe80::9", "dev": "eth1", "protocol": "ra"}]
    assert module.validate() == [
        "gateway:public:accept_ra: this node has a default route of IPv6 from an advertisement of"
        " fe80::9; say true if it is to keep it, and false if not"
    ]
    for said in (True, False):
        break_pillar({"public:accept_ra": said})
        assert module.validate() == []
    break_pillar({})
    node.routes6[0]["protocol"] = "static"
    assert module.validate() == []


UFW = (Path(__file__).parent / "foreign/ufw-reject.save").read_text()
REFUSES = "on this node ufw (iptables-{}: table filter, chain ufw-reject-input, "
MINE = {"family": "inet", "name": "mine"}
CHAIN = {
    "family": "inet",
    "table": "mine",
    "name": "x",
    "hook": "forward",
    "type": "filter",
    "policy": "drop",
}


def test_another_firewall_that_refuses_what_we_accept(module, node):
    assert module.status()["problems"] == []
    node.tools["iptables-nft-save"] = UFW
    found = module.validate()
    assert found[0].startswith(REFUSES.format("nft"))
    assert module.validate(warnings=False) == found
    assert module.status()["problems"] == found


def test_a_table_of_somebodys_own_is_looked_at(module, node):
    asked = []

    def nft(arguments):
        asked.append(arguments)
        items = [{"table": MINE}] if arguments == ["-j", "list", "tables"] else [{"chain": CHAIN}]
        return json.dumps({"nftables": items})

    node.tools["nft"] = nft
    (found,) = module.validate()
    assert found.startswith("on this node nft: table inet mine, chain x, policy drop refuses ")
    assert asked == [["-j", "list", "tables"], ["-j", "list", "table", "inet", "mine"]]


def test_legacy_is_asked_where_it_has_tables(module, node, tmp_path):
    """Only then: asking would load its modules into the kernel."""
    node.tools["iptables-legacy-save"] = UFW
    assert module.validate() == []
    (tmp_path / "legacy_tables").write_text("filter\n")
    assert module.status()["problems"][0].startswith(REFUSES.format("legacy"))


@pytest.mark.parametrize(
    ("kept", "program", "nft", "expected"),
    [
        (None, "xtables-nft-multi", "", "legacy"),  # all rules are there
        (None, "xtables-nft-multi", "*filter\n-A INPUT -i x\nCOMMIT\n", "nft"),
        (None, "xtables-legacy-multi", "*filter\n-A INPUT -i x\nCOMMIT\n", "legacy"),
        ("nft", "xtables-legacy-multi", "", "nft"),
        ("legacy", "xtables-nft-multi", "*filter\n-A INPUT -i x\nCOMMIT\n", "legacy"),
    ],
)
def test_which_iptables_ours_are_in(module, node, tmp_path, tool, kept, program, nft, expected):
    """In ours, what comes behind our jump is not asked any more; in the other one all of it is."""
    tool(program, "")
    (tmp_path / "bin/iptables").symlink_to(program)
    node.tools |= {"iptables-nft-save": nft, "iptables-legacy-save": UFW}
    (tmp_path / "legacy_tables").write_text("filter\n")
    if kept:
        (tmp_path / "backend").write_text(f"{kept}\n")
    assert ("before our rules" in module.validate()[0]) == (expected == "legacy")


def test_one_apply_asks_for_the_others_once(module, node, break_pillar):
    asked = []

    def save(arguments):
        asked.append(arguments)
        return ""

    node.tools["iptables-nft-save"] = save
    assert [module.validate(warnings=False) for _ in range(3)] == [[], [], []]
    assert len(asked) == 1
    assert module.validate(__pub_fun="gateway.validate") == []  # a person
    assert len(asked) == 2
    module.status()
    assert len(asked) == 3
    break_pillar({})  # the next apply
    module.validate(warnings=False)
    assert len(asked) == 4


def test_plan_of_this_node_and_of_another(module, node, plan):
    assert module.plan() == plan(node="gw1")
    assert module.plan(node="gw2") == plan(node="gw2")


def test_every_node_says_the_same_digest(module, node):
    digest = module.digest()
    node.id = "gw2"
    assert module.digest() == digest == module.plan()["digest"]


def test_vpn_subnets(module, node, break_pillar):
    second = {"network": "10.9.0.0/16", "prefix": 24, "port": 1195, "proto": "tcp"}
    break_pillar({"vpn:servers:second": second, "vpn:servers:main:subnets": {"gw2": "10.8.9.0/24"}})
    assert module.vpn_subnets() == {
        "main": {"gw1": "10.8.0.0/24", "gw2": "10.8.9.0/24"},
        "second": {"gw1": "10.9.0.0/24", "gw2": "10.9.1.0/24"},
    }
    break_pillar({"vpn": ...})
    assert module.vpn_subnets() == {}


def test_routes(module, node):
    assert module.routes() == [{"destination": "10.8.1.0/24", "via": "10.77.0.3"}]
    assert module.routes(node="gw2") == [{"destination": "10.8.0.0/24", "via": "10.77.0.2"}]


def test_ruleset_of_this_node_and_of_another(module, node):
    for name, peer in ((None, "10.77.0.3"), ("gw2", "10.77.0.2")):
        rules = module.ruleset(node=name)
        assert list(rules) == ["sets", "v4", "v6", "closed4", "closed6"]
        assert re.search(rf"-s {peer} .*-p 112 .*-j ACCEPT", rules["v4"])


def test_frames_that_pass_iptables_on_a_bridge(module, node, tmp_path):
    """Their rules come with the next apply after br_netfilter; until then the status says so."""
    (tmp_path / "net/eth0/bridge").mkdir()
    (tmp_path / "rules").write_text(module.ruleset()["v4"])
    assert "physdev" not in module.ruleset()["v4"]
    assert module.status()["problems"] == []
    (tmp_path / "bridge_filter").mkdir()
    assert "-i eth0 -o eth0 -m physdev" in module.ruleset()["v4"]
    assert "-i eth1 -o eth1 -m physdev" not in module.ruleset()["v4"]
    assert "physdev" not in module.ruleset(node="gw2")["v4"]
    assert module.status()["problems"] == [
        "frames from port to port of eth0 pass iptables since the last apply (br_netfilter was"
        " loaded, as Docker does it), and the firewall refuses them: apply again"
    ]
    (tmp_path / "rules").write_text(module.ruleset()["v4"])
    assert module.status()["problems"] == []


def test_the_pillar_is_read_once_for_each_pillar(module, node, break_pillar, monkeypatch):
    calls = []

    def counted(name):
        real = getattr(_gateway_plan, name)

        def call(*arguments):
            calls.append((name, *arguments[1:]))
            return real(*arguments)

        monkeypatch.setattr(_gateway_plan, name, call)

    counted("read")
    counted("plan")
    module.__context__.clear()
    for _ in range(3):
        for ask in (module.validate, module.plan, module.digest, lambda: module.routes("gw2")):
            ask()
    assert calls == [("read",), ("plan", "gw1"), ("plan", "gw2")]
    break_pillar({"internal:virtual_ip": "10.77.0.9"})
    assert module.plan()["internal"]["virtual_ip"] == "10.77.0.9"
    assert module.plan("gw2")["internal"]["virtual_ip"] == "10.77.0.9"
    assert calls.count(("read",)) == 2


@pytest.mark.parametrize("collects", [True, False])
@pytest.mark.parametrize("name", ["read", "plan"])
def test_no_garbage_is_looked_for_while_a_site_is_read(module, node, monkeypatch, name, collects):
    """With 10,000 hosts that was a tenth of an apply. Afterwards all is as it was."""
    real, seen = getattr(_gateway_plan, name), []

    def call(*arguments):
        seen.append(gc.isenabled())
        if len(seen) == 1:
            raise ValueError("wrong")
        return real(*arguments)

    monkeypatch.setattr(_gateway_plan, name, call)
    if not collects:
        gc.disable()
    try:
        for wrong in (True, False):
            module.__context__.clear()
            with pytest.raises((ValueError, CommandExecutionError)) if wrong else nullcontext():
                module.plan()
            assert gc.isenabled() == collects
    finally:
        gc.enable()
    assert seen == [False, False]


def test_what_is_not_told_to_the_peer(module, node, break_pillar):
    """Nothing of the node's own, on whichever interface; tunnels are in their network already."""
    break_pillar(LINK)
    node.addresses["docker0"] = ["172.17.0.1"]
    node.addresses["eth0"].append("10.99.0.2")
    planned = module.plan()["sync"]["ignored"]
    assert module.sync_ignored() == [*planned, "10.99.0.2", "172.17.0.1"]


def test_pem(module, node, break_pillar):
    text = f"Bag attributes:\n{PRIVATE_KEY}</key>\nscript-security 3\n".replace("\n", "\r\n")
    break_pillar({"vpn:pki:key": text})
    assert module.pem("key") == PRIVATE_KEY.strip()
    with pytest.raises(CommandExecutionError) as raised:
        module.pem("key", __pub_fun="gateway.pem")
    assert SECRET not in str(raised.value)
    node.pillar["gateway"]["vpn"]["pki"]["key"] = "no PEM"
    with pytest.raises(CommandExecutionError, match="there is no PEM text for key in the pillar"):
        module.pem("key")


def test_pem_leaves_the_pillar_as_it_is(module, node, break_pillar, monkeypatch):
    """Salt 3008 copies all of a pillar from which a mapping is taken by its key, and the copy would
    be read again."""
    break_pillar({"vpn:pki:key": PRIVATE_KEY})

    class Copied(dict):
        def __getitem__(self, key):
            raise AssertionError("copied")

    monkeypatch.setattr(module, "__pillar__", Copied(node.pillar))
    assert module.pem("key") == PRIVATE_KEY.strip()


@pytest.mark.parametrize("path", ["_modules/gateway.py", "_modules/gateway_pki.py"])
def test_a_new_planner_is_taken_up(load, root, monkeypatch, tmp_path, path):
    """A process that runs on after an upgrade of the formula must not plan with the old one. What
    has not changed is not loaded again: Salt 3008 loads a module twice in an apply."""
    shutil.copytree(root / "_modules", tmp_path / "_modules")
    monkeypatch.syspath_prepend(tmp_path / "_modules")

    def forget():
        for name in [name for name in sys.modules if name.startswith("_gateway_")]:
            monkeypatch.delitem(sys.modules, name)

    forget()

    def planner():
        load(tmp_path / path)
        return sys.modules["_gateway_plan"]

    first = planner()
    assert planner() is first
    with (tmp_path / "_modules/_gateway_plan.py").open("a") as file:
        file.write("TWO = 2\n")
    second = planner()
    assert second is not first
    assert second.TWO == 2
    forget()


FUNCTIONS = [
    "validate",
    "plan",
    "digest",
    "vpn_subnets",
    "routes",
    "ruleset",
    "sync_ignored",
]
# What works while the pillar is wrong, too.
STEADY = ["status", "drain", "undrain"]


@pytest.fixture
def master(module, node, edit, monkeypatch):
    """What the minion's opts and a call look like when it comes from a master with a new pillar."""

    def get_pillar(opts, grains, minion, saltenv, pillarenv):
        assert (opts, minion, grains) == (module.__opts__, "gw1", {"os_family": "Debian"})
        played.asked += 1
        return SimpleNamespace(compile_pillar=played.compiled)

    monkeypatch.setattr(module.salt.pillar, "get_pillar", get_pillar)
    setattr(node, "__cli", "salt-minion")
    played = SimpleNamespace(
        asked=0,
        pillar={"gateway": edit({"internal:virtual_ip": "10.77.0.99"})},
        call={"__pub_fun": "gateway.plan", "__pub_jid": "1"},
    )
    played.compiled = lambda: played.pillar
    return played


@pytest.mark.parametrize("function", [*FUNCTIONS, "status", "undrain"])
def test_the_master_is_asked_for_the_pillar_again(module, master, function):
    """Who calls from there has just edited it; the minion has it from its start."""
    getattr(module, function)()
    assert master.asked == 0
    getattr(module, function)(**master.call)
    assert master.asked == 1
    assert module.plan()["internal"]["virtual_ip"] == "10.77.0.99"


def test_on_the_node_itself_the_pillar_is_fresh(module, node, master):
    setattr(node, "__cli", "salt-call")
    module.plan(**master.call)
    assert master.asked == 0


def test_a_pillar_that_the_master_cannot_render(module, master):
    master.pillar = {"_errors": ["Rendering SLS 'gateway' failed", "Specified SLS is missing"]}
    with pytest.raises(CommandExecutionError) as raised:
        module.plan(**master.call)
    assert str(raised.value).splitlines() == ["The pillar has errors:", *master.pillar["_errors"]]


@pytest.mark.parametrize("function", [*FUNCTIONS, *STEADY, "has_states"])
def test_unknown_arguments(module, node, function):
    with pytest.raises(SaltInvocationError, match="nod"):
        getattr(module, function)(nod="gw2")


# --------------------------------------------------------------------------------------------------
# What is wrong

WRONG = {"domain": "-", "nodes:gw2:id": 1, "vpn:pki:ca": PRIVATE_KEY}
ERRORS = [
    "gateway:domain: - is not a domain name",
    "gateway:nodes:gw2:id: id 1 is taken already, by gateway:nodes:gw1:id",
    "gateway:vpn:pki:ca: is neither an absolute path nor PEM text (CERTIFICATE)",
]


def test_all_errors_of_the_pillar(module, node, break_pillar):
    break_pillar(WRONG)
    assert module.validate() == ERRORS


def test_the_shell_learns_that_something_is_wrong(module, node, break_pillar):
    """And nobody else: not Jinja, in whose run everything goes by other codes."""
    call = {"__pub_fun": "gateway.validate"}
    break_pillar(WRONG)
    module.validate()
    assert "retcode" not in module.__context__
    assert module.validate(**call) == ERRORS
    assert module.__context__["retcode"] == 1
    break_pillar({})
    assert module.validate(**call) == []
    assert module.__context__["retcode"] == 0


def test_units_that_are_not_there(module, node, break_pillar):
    """Named, and no reason not to apply: the package may come with the same apply."""
    states = {
        "a.service": "loaded",
        "d.service": "loaded",
        "b.timer": "not-found",
        "c.service": "not-found",
    }

    def systemctl(arguments):
        units = [name for name in arguments if name in states]
        return "".join(f"{states[name]}\n\n" for name in units)

    break_pillar(
        {
            "follow_virtual_ip": ["a.service", "b.timer"],
            "health:services": ["d.service", "c.service"],
        }
    )
    assert module.validate() == []  # nobody answers
    node.tools["systemctl"] = systemctl
    assert module.validate() == [
        "gateway:follow_virtual_ip: there is no unit b.timer on this node",
        "gateway:health:services: there is no unit c.service on this node",
    ]
    assert module.validate(warnings=False) == []


def test_a_pam_service_that_is_not_there(module, node, break_pillar, monkeypatch, tmp_path):
    monkeypatch.setattr(_gateway_vpn, "PAM", (str(tmp_path / "etc"), str(tmp_path / "lib")))
    break_pillar({"vpn:servers:main:auth": {"pam": "openvpn"}, "vpn:pki:auth_token": TOKEN})
    assert module.validate() == [
        f"gateway:vpn:servers:main:auth:pam: {tmp_path}/etc/openvpn is not there on this node;"
        " nobody gets in"
    ]
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/openvpn").touch()
    assert module.validate() == []


def test_a_pillar_that_does_not_render_is_an_error_like_others(module, node):
    """So `state.apply gateway.clean force=True` finds its way without it."""
    node.pillar["_errors"] = ["Rendering SLS 'gateway' failed"]
    assert module.validate() == module.validate(warnings=False) == node.pillar["_errors"]
    assert module.validate(__pub_fun="gateway.validate") == node.pillar["_errors"]
    assert module.__context__["retcode"] == 1


TITLE = "the pillar cannot be used, so this is judged by what was applied last"


def test_status_while_the_pillar_is_wrong(module, node, break_pillar):
    """As before, of what was applied last; what is wrong with the pillar comes first."""
    before = module.status()
    break_pillar(WRONG)
    status = module.status()
    assert status == before | {
        "digest": {"applied": before["digest"]["applied"], "pillar": None},
        "problems": [*ERRORS, TITLE],
    }
    lose_route(node)
    node.running.remove("keepalived")
    assert module.status()["problems"][len(ERRORS) + 1 :] == [
        "service keepalived is dead",
        "the route to 10.8.1.0/24 is missing",
    ]
    assert SECRET not in json.dumps(module.status())


def break_rendering(node, master):
    master.pillar = {"_errors": ["Rendering SLS 'gateway' failed", "Specified SLS is missing"]}
    return master.pillar["_errors"]


def break_rendering_on_the_node(node, master):
    """Masterless, and where the minion itself has had it so since its start."""
    master.call.clear()
    node.pillar["_errors"] = ["Rendering SLS 'gateway' failed"]
    return node.pillar["_errors"]


def lose_the_master(node, master):
    def compile_pillar():
        raise SaltReqTimeoutError("Message timed out")

    master.compiled = compile_pillar
    return ["the Salt master gives no pillar: Message timed out"]


def lose_pillar(node, master):
    master.pillar = {}
    return ["gateway: missing; see pillar.example"]


def be_somebody_else(node, master):
    del master.pillar["gateway"]["nodes"]["gw1"]
    return ['gateway:nodes: this minion, gw1, is not among them (gw2); did you mean "gw2"?']


@pytest.mark.parametrize(
    "spoil",
    [
        break_rendering,
        break_rendering_on_the_node,
        lose_the_master,
        lose_pillar,
        be_somebody_else,
    ],
)
def test_status_and_drain_whatever_the_pillar_is(module, takeover, master, spoil):
    before = module.status()
    errors = spoil(takeover, master)
    status = module.status(**master.call)
    assert status["problems"] == [*errors, TITLE]
    assert status.keys() == before.keys()
    assert module.drain(**master.call) == "this node is drained"
    assert "openvpn-server@gateway-main" not in takeover.running
    assert module.undrain(**master.call) == "this node is in service again"
    assert "openvpn-server@gateway-main" in takeover.running


@pytest.mark.parametrize(
    ("applied", "digest", "why"),
    [
        (None, None, "the whole formula was never applied on this node"),
        ("", None, "the whole formula was never applied on this node"),
        (
            "0123456701234567\n",
            "0123456701234567",
            "what was applied last is not known: an older version of the formula kept no plan",
        ),
        # Of a version that had other plans.
        ('{"digest": "1", "node": {"name": "gw1"}}', "1", None),
        ('{"digest": "1", "node": {}, "vrrp": [], "vpn": {"servers": [{}]}}', "1", None),
    ],
)
def test_a_wrong_pillar_where_no_plan_is_known(
    module, takeover, break_pillar, applied, digest, why
):
    before = module.status()
    if applied is None:
        takeover.applied.unlink()
    else:
        takeover.applied.write_text(applied)
    break_pillar(WRONG)
    status = module.status()
    assert status.keys() == before.keys()
    assert status["node"] == "gw1"
    assert status["firewall"] == before["firewall"]
    assert status["sync"] == {"enabled": False}
    assert (status["vrrp"], status["services"], status["routes"], status["vpn"]) == ({},) * 4
    assert status["ntp"] == {"synchronised": False, "stratum": None, "source": None}
    assert status["digest"] == {"applied": digest, "pillar": None}
    problems = [*ERRORS, why] if why else ERRORS
    assert status["problems"] == problems
    for function in (module.drain, module.undrain):
        with pytest.raises(CommandExecutionError) as raised:
            function()
        assert str(raised.value).splitlines() == ["The pillar of this site is wrong:", *problems]
    assert not takeover.drained.exists()


VIRTUAL = "and not by keepalived; take it out of what configures the interface"
NOT_REACHED = (
    "gateway:nodes:gw1:{}: this node has {} on {}, which does not reach {}; give it the prefix"
    " length of the network, or the network a route over {}"
)


@pytest.mark.parametrize(
    ("addresses", "configured", "found"),
    [
        # keepalived's own, whether ours or one of before, with the length and device that it says.
        (["eth0 10.77.0.1/32"], "10.77.0.1/32 dev eth0", ""),
        (["eth0 10.77.0.1/32"], "virtual_ipaddress { 10.77.0.1 }", ""),
        (["eth0 10.77.0.1/24"], "virtual_ipaddress { 10.77.0.1/24 label eth0:vip }", ""),
        ([], "", ""),
        # Left in the configuration of the interface.
        (["eth0 10.77.0.1/24"], "10.77.0.1/32 dev eth0", "10.77.0.1/24 on eth0"),
        (["eth0 10.77.0.1/32"], "", "10.77.0.1/32 on eth0"),
        (["tap0 10.77.0.1/32"], "10.77.0.1/32 dev eth0", "10.77.0.1/32 on tap0"),
        (["lo 10.77.0.1/32"], "10.77.0.11/32\n10.77.0.1/24", "10.77.0.1/32 on lo"),
    ],
)
def test_a_virtual_ip_that_a_node_has_by_itself(
    module, node, tmp_path, addresses, configured, found
):
    """It would be the primary before keepalived starts."""
    node.addresses["eth0"] = ["10.77.0.2/24"]
    for text in addresses:
        interface, address = text.split()
        node.addresses[interface].append(address)
    node.keepalived.write_text(configured)
    expected = [f"gateway:internal:virtual_ip: this node has {found}, {VIRTUAL}"] if found else []
    assert module.validate(warnings=False) == expected
    assert [text for text in module.status()["problems"] if VIRTUAL in text] == expected


def test_public_addresses_that_a_node_has_by_itself(module, node, break_pillar):
    more = {"public:virtual_ip": "198.51.100.10", "public:addresses": ["198.51.100.11"]}
    break_pillar({**more, "state_sync": False})
    node.addresses["eth1"] += ["198.51.100.10/24", "198.51.100.11/24"]
    assert module.validate(warnings=False) == [
        f"gateway:public:{key}: this node has 198.51.100.{last}/24 on eth1, {VIRTUAL}"
        for key, last in (("virtual_ip", 10), ("addresses", 11))
    ]


def test_a_network_that_is_not_reached(module, node):
    for side, interface, length in (("internal", "eth0", 32), ("public", "eth1", 25)):
        network = module.plan()[side]["network"]
        address = module.plan()["node"][side]
        node.addresses[interface][0] = f"{address}/{length}"
        del node.on_link[network]
        own = f"{address}/{length}"
        expected = [NOT_REACHED.format(side, own, interface, network, interface)]
        assert module.validate(warnings=False) == expected
        # Or by a route, as some clouds have it; over the right interface.
        node.on_link[network] = "tap0"
        assert module.validate(warnings=False) == expected
        node.on_link[network] = interface
        assert module.validate(warnings=False) == []


NETWORK_WARNINGS = {
    "larger": (
        {"eth0": ["10.77.0.2/16", "10.77.0.1/32"]},
        {},
        "gateway:internal:network: 10.77.0.0/24 here, but this node has 10.77.0.2/16 on eth0",
    ),
    "elsewhere too": (
        {},
        {"on_link": {"10.77.0.0/25": "docker0"}},
        "gateway:internal:network: 10.77.0.0/25, a part of 10.77.0.0/24, is on this node's"
        " interface docker0, and packets for it go there",
    ),
    "VPN": (
        {},
        {"on_link": {"10.8.3.0/24": "eth1"}},
        "gateway:vpn:servers:main:network: 10.8.3.0/24, a part of 10.8.0.0/16, is on this node's"
        " interface eth1, and packets for it go there",
    ),
    "behind a client": (
        {},
        {"on_link": {"10.50.0.9": "eth1"}},
        "gateway:vpn:clients: 10.50.0.9/32, a part of 10.50.0.0/24, is on this node's interface"
        " eth1, and packets for it go there",
    ),
    "larger elsewhere": ({}, {"on_link": {"10.0.0.0/8": "docker0"}}, None),
    "a tunnel of before": ({}, {"on_link": {"10.8.0.0/24": "vpn-old"}}, None),
    "no way out": (
        {},
        {"way_to": {"198.41.0.4": None}},
        "gateway:public:interface: this node has no route to the internet (no default route); it"
        " should lead through eth1",
    ),
    "another way out": (
        {},
        {"way_to": {"198.41.0.4": "eth2"}},
        "gateway:public:interface: this node's way to the internet is eth2; it should lead through"
        " eth1",
    ),
    "by its own DHCP": (
        {},
        {"leases": ["10.77.0.2"]},
        "gateway:nodes:gw1:internal: this node has 10.77.0.2 by DHCP, and the gateways are the DHCP"
        " server; after an outage of both nobody could give it",
    ),
    "public by DHCP": ({}, {"leases": ["198.51.100.2"]}, None),
}


@pytest.mark.parametrize(
    ("addresses", "changes", "warning"), NETWORK_WARNINGS.values(), ids=NETWORK_WARNINGS
)
def test_a_network_that_does_not_go_with_the_pillar(
    module, node, break_pillar, addresses, changes, warning
):
    """It is said, and keeps nothing from being applied."""
    break_pillar({"vpn:clients": {"branch": {"networks": ["10.50.0.0/24"]}}})
    node.routes.append({"dst": "10.50.0.0/24", "gateway": "10.77.0.3", "protocol": "119"})
    node.apply()
    node.addresses.update(addresses)
    for name, value in changes.items():
        present = getattr(node, name)
        setattr(node, name, present | value if isinstance(present, dict) else value)
    expected = [warning] if warning else []
    assert module.validate() == module.status()["problems"] == expected
    assert module.validate(warnings=False) == []


def test_a_lease_of_another_dhcp_server(module, node, break_pillar):
    """It is there when the gateways are not."""
    break_pillar({"dhcp:enabled": False})
    node.leases = ["10.77.0.2"]
    assert module.validate() == []


def test_links_that_are_down(module, node):
    """Of a running node the health monitor says it."""
    node.flags = {"eth0": ["NO-CARRIER", "BROADCAST", "UP"], "eth1": ["BROADCAST"]}
    assert module.validate() == [
        "gateway:internal:interface: eth0 has no carrier",
        "gateway:public:interface: eth1 is down",
    ]
    assert module.validate(warnings=False) == module.status()["problems"] == []


def test_the_end_of_the_link_is_in_another_network(module, node, break_pillar):
    break_pillar({**LINK, "nodes:gw1:sync_interface": "tap0"})
    for address, on_link, well in (
        ("10.78.0.1/24", {}, True),
        ("10.78.0.1/32", {}, False),
        ("10.78.0.1/32", {"10.78.0.2": "tap0"}, True),
        ("10.78.0.1/32", {"10.78.0.2": "eth1"}, False),
    ):
        node.addresses["tap0"], node.on_link = [address], on_link
        expected = (
            "gateway:nodes:gw1:sync: the peer's address, 10.78.0.2, is in no network of this node's"
            " interface tap0"
        )
        assert (expected in module.validate()) != well


MISSING = "gateway:dns:forwarders: missing, and /etc/resolv.conf of this node names"
NOBODY = f"{MISSING} {{}}: names outside of the site are not found"


@pytest.mark.parametrize(
    ("servers", "resolved", "expected"),
    [
        ("192.0.2.53", "", []),
        ("192.0.2.53 10.77.0.1", "", [f"{MISSING} 10.77.0.1, which is the gateway itself"]),
        ("10.77.0.1", "", [NOBODY.format("only the gateway itself (10.77.0.1)")]),
        ("10.77.0.3", "", [NOBODY.format("only the gateway itself (10.77.0.3)")]),
        (
            "10.77.0.2 127.0.0.1",
            "",
            [NOBODY.format("only the gateway itself (10.77.0.2, 127.0.0.1)")],
        ),
        ("::1", "", [NOBODY.format("only the gateway itself (::1)")]),
        ("127.0.0.53", "192.0.2.53", []),
        ("127.0.0.53", "10.77.0.1", [NOBODY.format("only the gateway itself (10.77.0.1)")]),
        ("", "", [NOBODY.format("nobody")]),
        ("nonsense", "", [NOBODY.format("nobody")]),
    ],
)
def test_nobody_is_left_to_ask(
    module, node, break_pillar, monkeypatch, servers, resolved, expected
):
    """Without forwarders dnsmasq asks whom resolv.conf names."""

    def nobody_listens(address, timeout):
        assert address[1] == 53
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", nobody_listens)
    for file, names in zip(node.resolvers, (servers, resolved), strict=True):
        file.write_text("".join(f"nameserver {name}\n" for name in names.split()) + "search x\n")
    assert module.validate() == []
    break_pillar({"dns:forwarders": []})
    node.apply()
    assert module.validate() == module.status()["problems"] == expected
    assert module.validate(warnings=False) == []
    # Whoever says it to dnsmasq itself knows what they do.
    break_pillar({"dns:forwarders": [], "dns:settings": {"server": "192.0.2.53"}})
    assert module.validate() == []
    break_pillar({"dns:forwarders": [], "dns:settings": {"server": "/corp.example/192.0.2.53"}})
    assert module.validate() == expected


@pytest.mark.parametrize("server", ["10.77.0.1", "198.51.100.1"])
def test_the_virtual_ip_is_ourselves_wherever_it_is(module, node, break_pillar, server):
    node.addresses["eth0"].remove("10.77.0.1/32")
    node.resolvers[0].write_text(f"nameserver {server}\n")
    more = {"public:virtual_ip": "198.51.100.1", "state_sync": False}
    break_pillar({**more, "health:internal:targets": [], "dns:forwarders": []})
    assert module.validate() == [NOBODY.format(f"only the gateway itself ({server})")]


def test_a_resolver_of_somebody_else_on_the_node(module, node, break_pillar, monkeypatch):
    listener = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr(socket, "create_connection", lambda *_: listener)
    break_pillar({"dns:forwarders": []})
    node.resolvers[0].write_text("nameserver 127.0.0.1\n")
    assert module.validate() == []


@pytest.mark.parametrize("function", FUNCTIONS[1:])
def test_no_answer_from_a_wrong_pillar(module, node, break_pillar, function):
    break_pillar(WRONG)
    for _ in range(2):  # not the cached one either
        with pytest.raises(CommandExecutionError) as raised:
            getattr(module, function)()
        assert str(raised.value).splitlines() == ["The pillar of this site is wrong:", *ERRORS]
        assert SECRET not in str(raised.value)


def test_no_pillar(module, node):
    del node.pillar["gateway"]
    assert module.validate() == ["gateway: missing; see pillar.example"]


def test_a_minion_that_is_no_node(module, node):
    node.id = "gw3"
    [error] = module.validate()
    message = "gateway:nodes: this minion, gw3, is not among them (gw1, gw2)"
    assert error.startswith(message)
    for function in (module.plan, module.routes):
        with pytest.raises(CommandExecutionError, match="gw3, is not among them"):
            function()
    assert module.plan("gw2")["node"]["name"] == "gw2"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"internal:interface": "lan0"},
            ["gateway:internal:interface: this node has no interface lan0, only {}"],
        ),
        (
            {"public:interface": "wan0", "nodes:gw1:internal_interface": "lan0"},
            [
                "gateway:nodes:gw1:internal_interface: this node has no interface lan0, only {}",
                "gateway:public:interface: this node has no interface wan0, only {}",
            ],
        ),
        (
            {"nodes:gw1:internal": "10.77.0.8", "nodes:gw1:public": "198.51.100.8"},
            [
                "gateway:nodes:gw1:internal: 10.77.0.8 is not on this node's interface eth0",
                "gateway:nodes:gw1:public: 198.51.100.8 is not on this node's interface eth1",
            ],
        ),
        # On the other interface is not there; another node's interfaces are that node's matter.
        (
            {"nodes:gw1:internal_interface": "eth1", "nodes:gw1:public_interface": "eth0"},
            [
                "gateway:nodes:gw1:internal: 10.77.0.2 is not on this node's interface eth1",
                "gateway:nodes:gw1:public: 198.51.100.2 is not on this node's interface eth0",
            ],
        ),
        ({"nodes:gw2:internal_interface": "lan0", "nodes:gw1:public": ...}, []),
        (
            LINK,
            ["gateway:state_sync:interface: this node has no interface eth3, only {}"],
        ),
        (
            {**LINK, "nodes:gw1:sync_interface": "tap0"},
            ["gateway:nodes:gw1:sync: 10.78.0.1 is not on this node's interface tap0"],
        ),
    ],
    ids=[
        *("interface", "a node's own interface", "addresses", "swapped", "not this node's"),
        *("link", "address on the link"),
    ],
)
def test_what_the_pillar_says_and_the_node_does_not_have(
    module, node, break_pillar, changes, expected
):
    break_pillar(changes)
    have = ", ".join(sorted(ADDRESSES))
    assert module.validate() == [error.format(have) for error in expected]


# --------------------------------------------------------------------------------------------------
# How the node is doing


def test_status_of_a_healthy_primary(module, node):
    digest = module.digest()
    assert module.status() == {
        "node": "gw1",
        "vrrp": {"internal": {"virtual_ip": "10.77.0.1", "role": "MASTER"}},
        "health": {"penalty": 0, "cold": False, "uplink": [], "faults": [], "drained": None},
        "services": dict.fromkeys([*SERVICES, "gateway-dhcp"], "running"),
        "routes": {"10.8.1.0/24": {"via": "10.77.0.3", "present": True}},
        "firewall": LOADED,
        "sync": {"enabled": False},
        "vpn": {"main": {"address": "10.8.0.1", "up": True, "clients": {}}},
        "ntp": {"synchronised": True, "stratum": 3, "source": "198.51.100.100"},
        "digest": {"applied": digest, "pillar": digest},
        "formula": {"applied": _gateway_plan.VERSION, "version": _gateway_plan.VERSION},
        "problems": [],
    }


def test_a_further_room_has_its_say(module, node, monkeypatch):
    """By its doors alone, in validate and in status."""
    room = SimpleNamespace(
        errors=lambda plan, here: ["an error"],
        forecasts=lambda plan, here: ["a forecast"],
        warnings=lambda plan, here: [f"a warning of {plan['node']['name']}"],
        status=lambda plan, here: ({"more": {"role": here.role}, "services": {"x": 1}}, ["dead"]),
        status_without_plan=lambda: ({"more": {"known": True}}, ["lost"]),
        UNKNOWN={"more": {"role": None}},
    )
    monkeypatch.setattr(_gateway_plan, "ROOMS", (*_gateway_plan.ROOMS, room))
    status = module.status()
    assert status["more"] == {"role": "MASTER"}
    assert status["services"] == dict.fromkeys([*SERVICES, "gateway-dhcp"], "running") | {"x": 1}
    assert status["problems"] == ["dead", "a warning of gw1"]
    assert module.validate() == ["an error", "a forecast", "a warning of gw1"]
    assert module.validate(warnings=False) == ["an error"]
    node.pillar["gateway"] = None
    assert module.status()["more"] == {"role": "MASTER"}
    node.applied.unlink()
    status = module.status()
    assert status["more"] == {"role": None, "known": True}
    assert "lost" in status["problems"]


def test_status_of_a_healthy_secondary(module, node):
    node.addresses["eth0"].remove("10.77.0.1/32")
    node.running.remove("gateway-dhcp")
    status = module.status()
    assert status["problems"] == []
    assert status["vrrp"]["internal"]["role"] == "BACKUP"
    assert status["services"]["gateway-dhcp"] == "dead"


def test_who_is_connected(module, node, monkeypatch, tmp_path):
    """As OpenVPN says through its management socket; who is not let in yet has no address."""
    monkeypatch.chdir(tmp_path)  # a path that is short enough for a socket
    monkeypatch.setattr(_gateway_vpn, "MANAGEMENT", "{instance}")
    rows = [">INFO:hello", "TITLE\tOpenVPN", "HEADER\tCLIENT_LIST\tCommon Name"]
    for name, address in [("alice", "10.8.0.5"), ("alice", "10.8.0.130"), ("UNDEF", "")]:
        rows.append(f"CLIENT_LIST\t{name}\t192.0.2.1:5000\t{address}\t\t1")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("gateway-main")
        listener.listen()

        def answer():
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(100) == b"status 3\n"
                connection.sendall("\r\n".join([*rows, "END", ""]).encode())
                connection.recv(1)

        server = threading.Thread(target=answer)
        server.start()
        found = module.status()["vpn"]["main"]["clients"]
        server.join()
    assert found == {"alice": ["10.8.0.5", "10.8.0.130"]}


@pytest.mark.parametrize("talk", ["endless", "slow", "short"])
def test_who_is_connected_is_asked_for_a_while(module, node, monkeypatch, tmp_path, talk):
    """Whoever has taken over OpenVPN, which has no privileges, shall not hold up the status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_gateway_vpn, "MANAGEMENT", "{instance}")
    monkeypatch.setattr(_gateway_vpn, "MANAGEMENT_SECONDS", 30 if talk == "endless" else 0.5)
    monkeypatch.setattr(_gateway_vpn, "MANAGEMENT_SIZE", 100_000)
    text = {"endless": 20_000 * b"x", "slow": b"x\n", "short": b"CLIENT_LIST\nEND\n"}[talk]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("gateway-main")
        listener.listen()

        def answer():
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                while True:
                    connection.sendall(text)
                    time.sleep(0.05)

        server = threading.Thread(target=answer)
        server.start()
        begin = time.monotonic()
        assert module.status()["vpn"]["main"]["clients"] == {}
        assert time.monotonic() - begin < 3
        server.join()


def lose_virtual_ip(node):
    node.addresses["eth0"].remove("10.77.0.1/32")


def lose_route(node):
    del node.routes[-1]


def wrong_route(node):
    node.routes[-1]["gateway"] = "10.77.0.99"


def lose_tunnel(node):
    del node.addresses["vpn-main"]


def firewall(**changes):
    return lambda node: node.tools.update({"/usr/lib/gateway/firewall": firewall_status(**changes)})


def spoil_applied(node, **changes):
    node.applied.write_text(json.dumps(json.loads(node.applied.read_text()) | changes))


PROBLEMS = {
    "rules changed by hand": (
        firewall(drift=True),
        "the firewall rules are not what was loaded: somebody changed them by hand",
    ),
    "no rules": (firewall(loaded=False), "the firewall rules are not loaded"),
    "no firewall script": (
        lambda node: node.tools.pop("/usr/lib/gateway/firewall"),
        "the firewall rules are not loaded",
    ),
    "no gate": (
        firewall(gate=False),
        "the gate is not set, or another rule of `ip rule` stands before it: without its firewall"
        " rules this node would forward everything",
    ),
    "closed": (
        firewall(loaded=False, closed="ipset is gone"),
        "the firewall rules are not in force, nothing is forwarded: ipset is gone",
    ),
    "rules on trial": (
        firewall(loaded=False, pending=True),
        "new firewall rules are on trial, and taken back unless they prove good",
    ),
    "DHCP without the virtual IP": (
        lose_virtual_ip,
        "service gateway-dhcp is running while this node is BACKUP",
    ),
    "no DHCP with the virtual IP": (
        lambda node: node.running.remove("gateway-dhcp"),
        "service gateway-dhcp is dead while this node is MASTER",
    ),
    "route missing": (lose_route, "the route to 10.8.1.0/24 is missing"),
    "route to somewhere else": (wrong_route, "the route to 10.8.1.0/24 is missing"),
    "tunnel down": (lose_tunnel, "the tunnel of VPN server main is down"),
    "never applied": (
        lambda node: node.applied.unlink(),
        "the whole formula was never applied on this node",
    ),
    "a formula without plans": (
        lambda node: node.applied.write_text("0123456789abcdef\n"),
        f"the formula is {_gateway_plan.VERSION}, and a version that did not say which was applied"
        " last: apply it",
    ),
    "another formula applied": (
        lambda node: spoil_applied(node, formula="202601-1"),
        f"the formula is {_gateway_plan.VERSION}, and 202601-1 was applied last: apply it",
    ),
    "another pillar applied": (
        lambda node: spoil_applied(node, digest="1", nat={}, dns={}),
        "the pillar is not what was last applied, in dns, nat",
    ),
    "another pillar for others": (
        lambda node: spoil_applied(node, digest="1"),
        "the pillar is not what was last applied, in nothing that is about this node",
    ),
    "clock": (
        lambda node: node.tools.update(chronyc=CHRONY.format(leap="Not synchronised")),
        "the clock is not synchronised",
    ),
}


def test_the_version_is_that_of_the_release(module, node, root):
    lines = (root / "FORMULA").read_text().splitlines()
    formula = dict(line.split(": ", 1) for line in lines)
    assert module.plan()["formula"] == f"{formula['version']}-{formula['release']}"


def test_a_revocation_list_that_was_not_applied(module, node, break_pillar, on_the_node):
    """As after gateway_pki.revoke: it is named, and the rest of the pillar with it or not."""
    texts = [Path(on_the_node["ca"]).parent / f"example/{name}" for name in ("crl.pem", "ca.crt")]
    crl, ca = (path.read_text() for path in texts)
    break_pillar({"vpn:pki:crl": crl, "vpn:pki:ca": ca})
    node.apply()
    assert module.status()["problems"] == []
    said = "the revocation list is not the one that was applied last: apply it"
    newer = {"vpn:pki:crl": crl + crl, "vpn:pki:ca": ca}
    break_pillar(newer)
    assert module.status()["problems"] == [said]
    break_pillar(newer | {"domain": "other.example"})
    pillar = "the pillar is not what was last applied, in dhcp, dns, domain, vpn"
    assert module.status()["problems"] == [said, pillar]


def test_a_certificate_that_was_not_applied(module, node, break_pillar, on_the_node):
    """It is no part of the digest: each node has its own."""
    text = Path(on_the_node["certificate"]).read_text()
    break_pillar({"vpn:pki:certificate": text})
    node.apply()
    break_pillar({"vpn:pki:certificate": text + text})
    said = "this node's certificate is not the one that was applied last: apply it"
    assert module.status()["problems"] == [said]


@pytest.mark.parametrize(("spoil", "problem"), PROBLEMS.values(), ids=PROBLEMS)
def test_one_problem_is_one_line(module, node, spoil, problem):
    spoil(node)
    assert module.status()["problems"] == [problem]


@pytest.fixture
def pki(module, node, monkeypatch, tmp_path, break_pillar):
    """A certificate for 50 days and a revocation list for 70 in the pillar; ``pass_days``."""
    pki = SimpleNamespace(now=datetime.now(timezone.utc).replace(microsecond=0))
    authority = _gateway_ca.Authority(tmp_path / "example", pki.now)
    authority.create("ec", 3650, 70)
    authority.issue("gw1", "server", None, 50, 70)
    issued = authority.issued("gw1")
    pki.pillar = {
        "ca": authority.read("ca.crt"),
        "certificate": _gateway_x509.pem(issued.current),
        "key": issued.key,
        "crl": authority.read("crl.pem"),
        **authority.keys(),
    }

    def pass_days(days):
        at = pki.now + timedelta(days=days)
        monkeypatch.setattr(_gateway_node, "now", lambda: at)

    pki.pass_days = pass_days
    pki.authority = authority
    pki.day = lambda days: f"{pki.now + timedelta(days=days):%Y-%m-%d}"
    break_pillar({"vpn:pki": pki.pillar})
    node.apply()
    return pki


def test_certificates_that_end_soon(module, pki):
    """A person is told, by both functions; an apply is not kept from what it does."""
    key, crl = "gateway:vpn:pki:certificate", "gateway:vpn:pki:crl"
    certificate, revoked = "the certificate of gw1", "the revocation list of example VPN CA"
    for days, expected in {
        20: [],
        21: [f"{key}: {certificate} ends on {pki.day(50)}, in 29 days"],
        41: [
            f"{key}: {certificate} ends on {pki.day(50)}, in 9 days",
            f"{crl}: {revoked} ends on {pki.day(70)}, in 29 days",
        ],
        51: [
            f"{key}: {certificate} ended on {pki.day(50)}",
            f"{crl}: {revoked} ends on {pki.day(70)}, in 19 days",
        ],
    }.items():
        pki.pass_days(days)
        assert module.status()["problems"] == expected
        assert module.validate() == expected
        assert module.validate(warnings=False) == []


def test_certificates_on_the_node_that_end_soon(module, pki, tmp_path, break_pillar):
    """The node's own, where it has one."""
    path = tmp_path / "server.crt"
    path.write_text(pki.pillar["certificate"])
    break_pillar({"nodes:gw1:pki": {"certificate": str(path)}})
    pki.pass_days(30)
    [warning] = module.validate()
    assert warning.startswith("gateway:nodes:gw1:pki:certificate: the certificate of gw1 ends on")


def test_every_certificate_and_list_of_a_file(module, pki, tmp_path, break_pillar):
    """OpenVPN reads them all."""
    other = _gateway_ca.Authority(tmp_path / "other", pki.now)
    other.create("ec", 25, 20)
    both = {
        name: pki.pillar[name] + other.read(f) for name, f in (("ca", "ca.crt"), ("crl", "crl.pem"))
    }
    (tmp_path / "lists").write_text(both["crl"])
    break_pillar({"vpn:pki": pki.pillar | both | {"crl": str(tmp_path / "lists")}})
    pki.pass_days(0)
    assert module.validate() == [
        f"gateway:vpn:pki:{key}: the {what} of other VPN CA ends on {pki.day(days)}, in {days} days"
        for key, what, days in [("ca", "certificate", 25), ("crl", "revocation list", 20)]
    ]


def test_what_is_not_valid_yet(module, pki, node):
    """Whoever made it had a clock that is ahead, or this node's is behind."""
    pki.pass_days(-1)
    begin = f"{pki.now - timedelta(hours=1):%Y-%m-%d %H:%M}"
    assert module.status()["problems"] == [
        f"gateway:vpn:pki:{key}: {what} is not valid before {begin} UTC;"
        " look at this node's clock, and at that of the machine that made it"
        for key, what in {
            "ca": "the certificate of example VPN CA",
            "certificate": "the certificate of gw1",
            "crl": "the revocation list of example VPN CA",
        }.items()
    ]


def test_a_node_without_a_certificate_is_told_so(module, node, break_pillar):
    """It is no error of the pillar: all but the VPN can be applied."""
    break_pillar({"vpn:pki": {"error": "the certificate of gw1 is revoked"}})
    said = "gateway:vpn:pki:error: the certificate of gw1 is revoked"
    assert module.validate(warnings=False) == []
    assert module.validate() == [said]
    assert module.plan()["vpn"]["error"] == "the certificate of gw1 is revoked"
    assert said in module.status()["problems"]


DAMAGED = PRIVATE_KEY.replace("PRIVATE KEY", "CERTIFICATE")
UNUSABLE = {  # what is at the path, or in the pillar
    "nothing": (None, "{} is not there on this node"),
    "a folder": (..., "{} cannot be read: Is a directory"),
    "empty": ("", "{} is not PEM text of that kind, or is damaged"),
    "a key": (PRIVATE_KEY, "{} is not PEM text of that kind, or is damaged"),
    "cut off": (DAMAGED[:-9], "{} is not PEM text of that kind, or is damaged"),
    "binary": (b"\x30\x82\xff\xfe", "{} is not PEM text of that kind, or is damaged"),
    "damaged": (DAMAGED, "error parsing asn1 value"),
}


@pytest.mark.parametrize("where", ["vpn:pki:ca", "nodes:gw1:pki:certificate", "vpn:pki:crl"])
@pytest.mark.parametrize(("text", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_what_cannot_be_read_is_not_passed_over(
    module, node, break_pillar, tmp_path, where, text, message
):
    """It is said with its pillar key, and keeps nothing but the VPN from being applied."""
    path = tmp_path / "material"
    if text is ...:
        path.mkdir()
    elif text is not None:
        text = text if isinstance(text, bytes) else text.encode()
        kind = b"X509 CRL" if where.endswith("crl") else b"CERTIFICATE"
        path.write_bytes(text.replace(b"CERTIFICATE", kind))
    break_pillar({where: str(path)})
    [fault] = module.validate()
    assert fault.startswith(f"gateway:{where}: {message.format(path)}")
    assert SECRET not in fault
    assert fault in module.status()["problems"]
    assert module.validate(warnings=False) == []


def test_a_file_for_more_than_one_purpose(module, node, break_pillar, on_the_node, tmp_path):
    """OpenVPN takes the certificate and the key of one file each from where they are."""
    both = tmp_path / "both.pem"
    with open(on_the_node["key"]) as key, open(on_the_node["certificate"]) as certificate:
        both.write_text(key.read() + certificate.read())
    break_pillar({"vpn:pki:key": str(both), "vpn:pki:certificate": str(both)})
    assert module.validate() == []


def test_a_list_that_is_newer_than_what_openvpn_reads(module, pki, tmp_path, break_pillar):
    path, copy = tmp_path / "list.pem", tmp_path / "crl"
    path.write_text(pki.pillar["crl"])
    break_pillar({"vpn:pki": pki.pillar | {"crl": str(path)}})
    assert module.validate() == []  # there is no copy yet
    copy.write_text(pki.pillar["crl"])
    assert module.validate() == []
    pki.authority.revoke("gw1", None, 70)
    path.write_text(pki.authority.read("crl.pem"))
    [said] = module.validate()
    assert said == (
        f"gateway:vpn:pki:crl: {path} is not the list that OpenVPN reads, {copy};"
        " apply to bring it there"
    )


@pytest.mark.parametrize("home", ["/root", "/home/alice", "/run/user/0"])
def test_what_openvpn_s_unit_does_not_see(module, node, break_pillar, monkeypatch, home):
    there = _gateway_node.file_text
    monkeypatch.setattr(
        _gateway_node, "file_text", lambda path: PRIVATE_KEY if home in path else there(path)
    )
    break_pillar({"vpn:pki:key": f"{home}/server.key"})
    [fault] = module.validate()
    assert fault == (
        f"gateway:vpn:pki:key: {home}/server.key is in a home directory, and OpenVPN's unit sees"
        " none; put it elsewhere"
    )


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        ({"up": "/root/up dev"}, False),
        ({"dh": "/home/alice/dh.pem"}, False),
        ({"push": ["route 192.0.2.0 255.255.255.0"], "setenv": "HOME /root/x"}, True),
        ({"log-append": "/var/log/openvpn.log"}, True),
    ],
)
def test_files_of_settings_that_openvpn_s_unit_does_not_see(module, break_pillar, settings, seen):
    break_pillar({"vpn:servers:main:settings": settings})
    [(keyword, value)] = list(settings.items())[:1]
    path = "" if seen else value.split()[0]
    fault = f"{path} is in a home directory, and OpenVPN's unit sees none; put it elsewhere"
    key = f"gateway:vpn:servers:main:settings:{keyword}"
    assert module.validate() == ([] if seen else [f"{key}: {fault}"])


def test_a_program_of_settings_that_openvpn_calls_as_nobody(module, node, break_pillar, tmp_path):
    break_pillar({"vpn:servers:main:settings": {"learn-address": f"{tmp_path}/learn it"}})
    key = "gateway:vpn:servers:main:settings:learn-address"
    assert module.validate() == [f"{key}: {tmp_path}/learn is not there on this node"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as somebody else")
@pytest.mark.parametrize(
    ("file", "folder", "text", "good"),
    [
        (0o755, 0o755, "#!/bin/sh\n", True),
        (0o711, 0o711, "\x7fELF", True),
        (0o711, 0o755, "#!/bin/sh\n", False),  # the shell could not read it
        (0o644, 0o755, "#!/bin/sh\n", False),
        (0o700, 0o755, "#!/bin/sh\n", False),
        (0o755, 0o700, "#!/bin/sh\n", False),
        (None, 0o755, "", False),
    ],
)
def test_a_program_that_openvpn_calls_as_nobody(
    module, node, break_pillar, tmp_path, file, folder, text, good
):
    path = tmp_path / "folder/check"
    path.parent.mkdir()
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_mode & 0o001 == 0:
            parent.chmod(0o755)
    if file:
        path.write_text(text)
        path.chmod(file)
    path.parent.chmod(folder)
    break_pillar({"vpn:servers:main:auth": {"script": str(path)}, "vpn:pki:auth_token": TOKEN})
    key = "gateway:vpn:servers:main:auth:script"
    why = f"user nobody, as whom OpenVPN calls it, may not execute {path}"
    why = why if file else f"{path} is not there on this node"
    assert module.validate() == ([] if good else [f"{key}: {why}"])


def test_a_program_that_openvpn_cannot_see(module, break_pillar, monkeypatch, tmp_path):
    path = tmp_path / "check"
    path.write_text("#!/bin/sh\n")
    monkeypatch.setattr(os.path, "realpath", lambda name: name.replace(str(path), "/root/x"))
    break_pillar({"vpn:servers:main:auth": {"script": str(path)}, "vpn:pki:auth_token": TOKEN})
    said = "is in a home directory, and OpenVPN's unit sees none; put it elsewhere"
    assert module.validate() == [f"gateway:vpn:servers:main:auth:script: {path} {said}"]


def test_certificates_that_no_server_uses(module, break_pillar):
    break_pillar({"vpn": {"pki": {"ca": "/nowhere/ca.pem"}}})
    assert module.validate() == []


def test_without_what_reads_certificates(load, module, pki, monkeypatch):
    """Over salt-ssh, with a Python of the node's that has no cryptography."""
    monkeypatch.setitem(sys.modules, "_gateway_x509", None)
    assert load("_modules/_gateway_pem.py")._gateway_x509 is None
    monkeypatch.setattr(_gateway_pem, "_gateway_x509", None)
    pki.pass_days(60)
    assert module.validate() == module.status()["problems"] == []


@pytest.mark.parametrize("where", [None, "extension_modules", "module_dirs", "states_dirs"])
def test_whether_the_states_have_come_along(module, node, tmp_path, where):
    node.extension_modules = str(tmp_path / "extmods")
    folder = tmp_path / "elsewhere/states"
    if where == "extension_modules":
        folder = tmp_path / "extmods/states"
    elif where:
        own = {"module_dirs": folder.parent, "states_dirs": folder}
        setattr(node, where, [str(own[where])])
    if where:
        folder.mkdir(parents=True)
        for name in module.STATES:
            assert module.has_states() is False
            (folder / f"{name}.py").touch()
    assert module.has_states() is (where is not None)


def test_no_state_file_is_forgotten(module, root):
    assert sorted(module.STATES) == sorted(path.stem for path in root.glob("_states/*.py"))


def test_the_routes_to_networks_behind_clients(module, node, break_pillar):
    """Where there are such networks, somebody has to bring their routes."""
    assert "gateway-vpn-routes" not in module.status()["services"]
    break_pillar({"vpn:clients": {"branch": {"networks": ["10.50.0.0/24"]}}})
    node.routes.append({"dst": "10.50.0.0/24", "gateway": "10.77.0.3", "protocol": "119"})
    node.running.remove("gateway-vpn-routes")
    node.apply()
    assert module.status()["problems"] == ["service gateway-vpn-routes is dead"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_dead_service(module, node, service):
    node.running.remove(service)
    status = module.status()
    assert status["services"][service] == "dead"
    assert status["problems"] == [f"service {service} is dead"]


@pytest.mark.parametrize(
    ("master", "shown", "problem"),
    [
        (True, "loaded active simple", None),
        (True, "loaded inactive simple", "app.service is inactive while this node is MASTER"),
        (True, "loaded inactive oneshot", None),
        (True, "loaded failed oneshot", "app.service is failed while this node is MASTER"),
        (True, "loaded activating simple", "app.service is activating while this node is MASTER"),
        (False, "loaded inactive simple", None),
        (False, "loaded active simple", "app.service is active while this node is BACKUP"),
        (False, "loaded failed simple", "app.service is failed while this node is BACKUP"),
        (
            True,
            "not-found inactive simple",
            "there is no unit app.service, which shall follow the virtual IP",
        ),
    ],
)
def test_what_follows_the_virtual_ip(module, node, break_pillar, master, shown, problem):
    break_pillar({"follow_virtual_ip": ["app.service"], "dhcp:enabled": False})
    load, active, kind = shown.split()
    node.tools["systemctl"] = f"LoadState={load}\nActiveState={active}\nType={kind}\n"
    node.apply()
    if not master:
        node.addresses["eth0"].remove("10.77.0.1/32")
    status = module.status()
    assert status["services"]["app.service"] == active
    assert status["problems"] == ([problem] if problem else [])


@pytest.mark.parametrize(
    ("told", "well"),
    [
        (None, False),
        ("", False),
        ("secondary 1.5 100", False),
        ("primary 1.4 100", False),
        ("primary 1.5 100", True),  # whatever has been asked for since then
        ("primary 1.5 failed", False),
    ],
)
def test_executables_that_did_not_end_well(module, node, monkeypatch, tmp_path, told, well):
    monkeypatch.setattr(_gateway_follow, "ROLE", str(tmp_path / "role"))
    monkeypatch.setattr(_gateway_follow, "HOOKS", str(tmp_path / "told"))
    (tmp_path / "role").write_text("primary 1.5\n")
    if told is not None:
        (tmp_path / "told").write_text(f"{told}\n")
    problem = (
        "not all in /etc/gateway/follow.d have ended well for the present role;"
        " journalctl -u gateway-follow-hooks says which, and why"
    )
    assert module.status()["problems"] == ([] if well else [problem])
    (tmp_path / "role").write_text(f"secondary {time.time()}\n")
    assert module.status()["problems"] == []


def test_executables_that_are_passed_over(module, node, monkeypatch, tmp_path):
    """Named in the status, but not what editors and packages leave."""
    folders = [tmp_path / name for name in ("follow.d", "health.d", "not there")]
    monkeypatch.setattr(_gateway_follow, "FOLDERS", tuple(map(str, folders)))
    for folder in folders[:2]:
        folder.mkdir()
        for name in (
            "10-good",
            "20-b.sh",
            "30-c",
            "a b",
            ".hidden",
            "x~",
            "y.dpkg-old",
            "z.rpmsave",
        ):
            (folder / name).touch(0o755)
        (folder / "30-c").chmod(0o644)
        (folder / "40-gone").symlink_to("nowhere")
        (folder / "lib.d").mkdir()
    characters = "its name has other characters than letters, digits, _ and -"
    assert module.status()["problems"] == [
        f"{folder}/{name} is passed over: {reason}"
        for folder in folders[:2]
        for name, reason in (
            ("20-b.sh", characters),
            ("30-c", "it is not executable"),
            ("40-gone", "it is no file"),
            ("a b", characters),
        )
    ]


def test_virtual_ips_on_two_nodes(module, node, break_pillar):
    break_pillar({"public:virtual_ip": "198.51.100.1", "state_sync": False})
    node.apply()
    status = module.status()
    assert [instance["role"] for instance in status["vrrp"].values()] == ["MASTER", "BACKUP"]
    assert status["problems"] == ["the virtual IPs are not on one node"]
    node.addresses["eth1"].append("198.51.100.1")
    assert module.status()["problems"] == []


@pytest.mark.parametrize(
    ("deaf", "lost", "targets", "expected"),
    [
        ([], 0, [], []),
        ([], 1, [], []),
        (["eth0"], 0, [], ["internal side (10.77.0.3 on eth0), only elsewhere: nothing moves"]),
        (["eth0"], 0, ["10.77.0.9"], ["internal side (10.77.0.3 on eth0)"]),
        (["eth1"], 0, ["10.77.0.9"], ["public side (198.51.100.3 on eth1), only elsewhere"]),
        (["eth0", "eth1"], 0, [], []),
    ],
)
def test_a_peer_that_is_heard_on_one_side_only(
    module, node, break_pillar, deaf, lost, targets, expected
):
    """Where the peer is off, nothing is to be said: it is missing among the answers."""
    left = [0]

    def ping(arguments):
        assert arguments[:-2] == ["-q", "-n", "-c", "1", "-W", "1", "-I"]
        left[0] -= 1
        return 1 if left[0] == 0 or arguments[-2] in deaf else "1 packets transmitted, 1 received"

    node.tools["ping"] = ping
    node.addresses["eth1"].append("198.51.100.1/32")
    assert module.status()["problems"] == []  # one election, so the network itself decides
    both = {"public:virtual_ip": "198.51.100.1", "state_sync": False}
    break_pillar({**both, "health:internal:targets": targets})
    node.apply()
    left[0] = lost
    problems = module.status()["problems"]
    assert len(problems) == len(expected)
    for problem, beginning in zip(problems, expected, strict=True):
        assert problem.startswith(f"gw2 is not heard on the {beginning}")
        assert problem.endswith("targets would say it)" if ", only" in beginning else " on eth0)")


def test_a_word_on_the_internal_targets(module, node, break_pillar):
    both = {"public:virtual_ip": "198.51.100.1", "state_sync": False}
    missing = "gateway:health:internal:targets: missing; beside a public virtual IP"
    for changes, warned in (
        ({}, False),
        (both, True),
        ({**both, "health:internal:targets": []}, False),
        ({**both, "health:internal:targets": ["10.77.0.9"]}, False),
        ({**both, "health:internal": {}}, True),
        ({**both, "nodes:gw2": ...}, False),
    ):
        break_pillar(changes)
        found = module.validate()
        assert [text.startswith(missing) for text in found] == [True] * warned
        assert module.validate(warnings=False) == []


RESERVED = "DHCP: 10.77.0.10 is reserved for backend01.example.internal, but 02:00:00:00:00:99"
LEASES = {
    "another machine's": ("4102444800 {other} 10.77.0.10 pc *\n", "until 2100-01-01 00:00 UTC"),
    "another machine's for ever": ("0 {other} 10.77.0.10 * 01:02\n", "for ever"),
    "its own": ("4102444800 {own} 10.77.0.10 backend01 *\n", None),
    "its other card's": ("4102444800 {second} 10.77.0.10 backend01 *\n", None),
    "one that has ended": ("1000000000 {other} 10.77.0.10 pc *\n", None),
    "of another address": ("4102444800 {other} 10.77.0.100 pc *\n", None),
    "broken": ("4102444800\n\nduid 00:01\nx {other} 10.77.0.10 pc *\n", None),
    "none": (None, None),
}


@pytest.mark.parametrize(("text", "until"), LEASES.values(), ids=LEASES)
def test_reserved_addresses_that_another_machine_has(module, node, tmp_path, edit, text, until):
    macs = ["02:00:00:00:00:10", "02:00:00:00:00:11"]
    node.pillar["gateway"] = edit({"hosts:backend01:mac": macs})
    node.apply()
    if text:
        other = "02:00:00:00:00:99"
        (tmp_path / "leases").write_text(text.format(own=macs[0], second=macs[1], other=other))
    assert module.status()["problems"] == ([f"{RESERVED} has it {until}"] if until else [])
    node.addresses["eth0"].remove("10.77.0.1/32")
    node.running.remove("gateway-dhcp")
    assert module.status()["problems"] == []  # what the standby remembers is old


def test_files_that_dnsmasq_cannot_read(module, node, tmp_path, edit, monkeypatch):
    """It goes on without them, so nobody would see why they have no effect."""
    home = tmp_path / "home"
    monkeypatch.setattr(os.path, "realpath", lambda path: path.replace(str(home), "/root"))
    home.mkdir()
    for path in (tmp_path / "hosts", home / "hosts", tmp_path / "script"):
        path.write_text("")
    answers = {"true": 0, "test": 1}
    calls = []

    def setpriv(command, **_):
        calls.append(command)
        return subprocess.CompletedProcess(command, answers[command[4]])

    monkeypatch.setattr(subprocess, "run", setpriv)
    paths = [str(tmp_path / "hosts"), str(home / "hosts"), "/nowhere/hosts"]
    script = str(tmp_path / "script")
    node.pillar["gateway"] = edit(
        {
            "dns:settings": {"addn-hosts": paths, "address": "/a.example/192.0.2.1"},
            "dhcp:settings": {"dhcp-script": script, "dhcp-hostsfile": "/nowhere/list"},
        }
    )
    node.apply()
    key = "gateway:dns:settings:addn-hosts"
    expected = [
        f"{key}: user dnsmasq may not read {paths[0]}",
        f"{key}: {paths[1]} is in a home directory, and dnsmasq's unit sees none; put it elsewhere",
        f"{key}: /nowhere/hosts is not there on this node",
        "gateway:dhcp:settings:dhcp-hostsfile: /nowhere/list is not there on this node",
    ]
    assert module.validate() == expected
    assert module.validate(warnings=False) == []
    assert module.status()["problems"] == expected
    assert not any(script in command for command in calls)  # root calls it
    answers["test"] = 0
    assert module.validate() == expected[1:]
    answers.update(true=1, test=1)  # dnsmasq is not installed yet
    assert module.validate() == expected[1:]


def test_no_word_about_dhcp_where_there_is_none(module, node, break_pillar):
    break_pillar({"dhcp:enabled": False})
    assert "gateway-dhcp" not in module.status()["services"]


@pytest.mark.parametrize(
    ("provider", "output", "expected"),
    [
        ("chrony", CHRONY.format(leap="Insert second"), (True, 3, "198.51.100.100")),
        (
            "chrony",  # its own clock, orphaned: the reference has no name
            "7F7F0101,,10,1700000000.1,0,0,0,-1.2,0.0,0.1,0.000,0.000,64.2,Normal\n",
            (True, 10, "7F7F0101"),
        ),
        (
            "chrony",
            "00000000,,0,0.000000000,0,0,0,-1.2,0.0,0.0,1.0,1.0,0.0,Not synchronised\n",
            (False, 0, "00000000"),
        ),
        ("chrony", "506 Cannot talk to daemon\n", (False, None, None)),
        ("chrony", 1, (False, None, None)),
        ("chrony", None, (False, None, None)),
        (
            "ntpsec",
            "leap=00, stratum=2,\nrefid=198.51.100.100\n",
            (True, 2, "198.51.100.100"),
        ),
        ("ntpsec", "leap=01, stratum=3, refid=GPS\n", (True, 3, "GPS")),
        ("ntpsec", "leap=11, stratum=16, refid=INIT\n", (False, 16, "INIT")),
        ("ntpsec", "leap=3, stratum=16, refid=STEP\n", (False, 16, "STEP")),
        ("ntpsec", "stratum=2, refid=198.51.100.100\n", (True, 2, "198.51.100.100")),
        ("ntpsec", "***Request timed out\n", (False, None, None)),
        ("ntpsec", None, (False, None, None)),
    ],
)
def test_ntp(module, node, break_pillar, provider, output, expected):
    break_pillar({"ntp:provider": provider})
    node.tools.pop("ntpq" if provider == "chrony" else "chronyc")  # the other one's is not asked
    node.tools["chronyc" if provider == "chrony" else "ntpq"] = output
    node.running.add(provider)
    node.apply()
    status = module.status()
    assert tuple(status["ntp"].values()) == expected
    assert status["problems"] == ([] if expected[0] else ["the clock is not synchronised"])
    assert provider in status["services"]


@pytest.mark.parametrize("ip", [None, 1, ""], ids=["not there", "fails", "says nothing"])
def test_status_without_tools(module, node, ip):
    node.tools = {"ip": ip}
    node.running.clear()
    status = module.status()
    assert status["vrrp"]["internal"]["role"] == "BACKUP"
    assert status["problems"] == [
        *(f"service {service} is dead" for service in SERVICES),
        "the route to 10.8.1.0/24 is missing",
        "the firewall rules are not loaded",
        "the tunnel of VPN server main is down",
        "the clock is not synchronised",
    ]


def test_what_is_shown_is_plain_and_not_secret(module, node, break_pillar):
    break_pillar({"vpn:pki:key": PRIVATE_KEY})
    for answer in (module.plan(), module.status(), module.routes(), module.ruleset()):
        assert json.loads(json.dumps(answer)) == answer
        assert SECRET not in json.dumps(answer)


# --------------------------------------------------------------------------------------------------
# Drain


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
    monkeypatch.setattr(_gateway_node, "UPTIME", str(tmp_path / "uptime"))
    monkeypatch.setattr(
        _gateway_failover, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: clock[0])
    )
    return node


def test_drain_and_undrain(module, takeover):
    assert module.drain() == "this node is drained"
    assert takeover.drained.exists()
    assert not takeover.draining.exists()
    assert "openvpn-server@gateway-main" not in takeover.running
    takeover.running.remove("gateway-dhcp")
    [problem] = module.status()["problems"]
    assert problem.startswith("this node is drained since 2")
    assert module.drain() == "this node is drained already"
    assert module.undrain() == "this node is in service again"
    assert "openvpn-server@gateway-main" in takeover.running
    assert not takeover.drained.exists()
    assert module.undrain() == "this node is not drained"


def test_drain_without_a_peer(module, takeover):
    takeover.peer = False
    with pytest.raises(CommandExecutionError, match="no healthy peer took the virtual IP"):
        module.drain()
    assert not takeover.drained.exists()
    assert not takeover.draining.exists()
    assert "openvpn-server@gateway-main" in takeover.running
    module.drain(force=True)
    assert takeover.drained.exists()


def test_drain_of_the_secondary(module, takeover):
    takeover.addresses["eth0"].remove("10.77.0.1/32")
    with pytest.raises(CommandExecutionError, match="no other node answers on the virtual IP"):
        module.drain()
    takeover.tools["ping"] = "1 received"
    assert module.drain() == "this node is drained"


@pytest.mark.parametrize(("count", "many"), [(None, False), (899, False), (900, True)])
def test_status_of_a_full_table_of_connections(module, node, count, many):
    if count is not None:
        node.connections.write_text(f"{count}\n")
    said = "900 of 1000 connections: where no room is left, what is new is dropped, DNS too"
    assert [text.startswith(said) for text in module.status()["problems"]] == [True] * many


def test_a_closed_node_is_one_problem(module, node):
    """The health monitor and the loader say the same."""
    said = "the firewall rules are not in force, nothing is forwarded: ipset is gone"
    node.health.write_text(json.dumps(HEALTHY | {"penalty": 254, "faults": [said]}))
    firewall(loaded=False, closed="ipset is gone")(node)
    assert module.status()["problems"] == [said]


def test_status_of_a_loader_of_an_older_version(module, node):
    old = {"backend": "nft", "loaded": True, "drift": False, "pending": False}
    node.tools["/usr/lib/gateway/firewall"] = json.dumps(old)
    assert module.status()["firewall"] == LOADED | {"gate": False}


@pytest.mark.parametrize(
    ("changes", "undecided"),
    [
        ({"public:virtual_ip": "198.51.100.1"}, True),
        ({"public:virtual_ip": "198.51.100.1", "state_sync": False}, False),
        ({}, False),
    ],
    ids=["without a word", "not wanted", "of no use"],
)
def test_a_word_on_state_sync(module, node, break_pillar, changes, undecided):
    """Advice, and no error: it keeps nothing from being applied."""
    break_pillar({"health:internal:targets": [], **changes})
    node.addresses["eth1"] += ["198.51.100.1"] if changes else []
    node.apply()
    said = (
        "gateway:state_sync: connections end when the virtual IP moves; give the nodes a link of"
        " their own (state_sync: {interface: eth3}, and nodes:NODE:sync), or say false"
    )
    assert module.validate() == module.status()["problems"] == [said] * undecided
    assert module.validate(warnings=False) == []


@pytest.mark.parametrize(
    ("changes", "lacking"),
    [
        ({}, True),
        ({"firewall": {"forward": [{"from": "main", "to": "172.16.0.0/12"}]}}, False),
        ({"firewall": {"forward": [{"to": "public"}]}}, False),
        ({"firewall": {"forward": [{"from": "vpn"}]}}, False),
        ({"firewall": {"forward": [{"from": "vpn", "to": "internal"}]}}, True),
        ({"firewall": {"forward": [{"from": "internal"}]}}, True),
        ({"firewall": {"forward": [{"from": "main", "action": "reject"}]}}, True),
        ({"vpn:servers:main:full_tunnel": True}, False),
        ({"vpn:clients": {"branch": {"networks": ["172.16.0.0/16"]}}}, False),
    ],
)
def test_a_route_that_no_rule_lets_clients_use(module, node, break_pillar, changes, lacking):
    break_pillar({"vpn:servers:main:routes": ["172.16.5.0/24"], **changes})
    node.applied.write_text(module.digest() + "\n")
    said = (
        "gateway:vpn:servers:main:routes: clients send what is for 172.16.5.0/24 into the tunnel,"
        " and no rule lets it through; add one to gateway:firewall:forward, such as"
        " {from: main, to: 172.16.5.0/24}"
    )
    assert module.validate() == [said] * lacking
    assert (said in module.status()["problems"]) is lacking
    assert module.validate(warnings=False) == []


def test_status_says_what_ails_the_node(module, node):
    ill = {
        "penalty": 6,
        "cold": True,
        "uplink": ["no carrier on eth1"],
        "faults": ["check x fails"],
    }
    node.health.write_text(json.dumps(HEALTHY | ill))
    assert module.status()["problems"] == ["no carrier on eth1", "check x fails"]
    node.health.unlink()
    assert module.status()["problems"] == ["nothing is known of this node's health"]
