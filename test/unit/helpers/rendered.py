"""What Salt makes of the formula's SLS files and templates."""

import copy
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import _gateway_plan
import _gateway_vpn_client_files
import jinja2
import jinja2.meta
import pytest
import salt.config
import salt.loader
import salt.state
import salt.utils.templates
import yaml

ROOT = Path(__file__).parents[3]
RESOLV_CONF = "/etc/resolv.conf"
KEY_TEXT = "c2VjcmV0c2VjcmV0c2VjcmV0"
TLS_SECRET = "0123456789abcdef0123456789abcdef"


def pem_text(label, body):
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"


PEM = {
    "vpn:pki": {
        "ca": "# The site's own.\n" + pem_text("CERTIFICATE", "Y2E="),
        "certificate": pem_text("CERTIFICATE", "Y2VydGlmaWNhdGU=").replace("\n", "\r\n"),
        "tls_crypt": pem_text("OpenVPN Static key V1", TLS_SECRET),
    },
    "nodes:gw1:pki": {"key": pem_text("PRIVATE KEY", KEY_TEXT)},
    "nodes:gw2:pki": {"certificate": "/etc/gw2.crt", "key": "/etc/gw2.key"},
}
SETTINGS = {"alone": True, "listed": ["1", "two words"], "number": 1.5, "text": "a,b=c"}
MINIMAL = {
    "domain": "small.test",
    "nodes": {"gw1": {"id": 1, "internal": "192.168.7.1"}},
    "internal": {
        "interface": "lan0",
        "network": "192.168.7.0/24",
        "virtual_ip": "192.168.7.254",
    },
    "public": {"interface": "wan0"},
}
SITES: dict[str, dict[str, Any]] = {  # changes of pillar.example, or a whole pillar
    "example": {},
    "minimal": MINIMAL,
    "public virtual IP": {"public:virtual_ip": "198.51.100.1"},
    "link of their own": {
        "public:virtual_ip": "198.51.100.1",
        "state_sync": {"interface": "eth3"},
        "nodes:gw1:sync": "10.78.0.1",
        "nodes:gw2:sync": "10.78.0.2",
        "nodes:gw2:sync_interface": "eth4",
    },
    "further addresses": {
        "public:virtual_ip": "198.51.100.1",
        "public:addresses": ["198.51.100.11", "198.51.100.12"],
        "vpn:servers:main:full_tunnel": True,
    },
    "VPN servers": {
        "vpn:servers:second": {"network": "10.9.0.0/16", "port": 443, "proto": "tcp"},
        "vpn:servers:small": {"network": "10.10.0.0/20", "prefix": 28, "port": 443},
        "nat": ...,
    },
    "three nodes": {
        "nodes:gw3": {"id": 7, "internal": "10.77.0.4", "public": "198.51.100.4"},
        "dhcp:key": "a-key-of-leases-for-tests-and-nobody-else",
    },
    "reservations only": {"dhcp": ...},
    "no DHCP": {"dhcp:enabled": False},
    "ntpsec": {"ntp": {"provider": "ntpsec", "servers": ["ntp.test", "192.0.2.9"]}},
    "PEM": PEM,
    "VPN clients": {
        "vpn:clients": {
            "alice": {"id": 5, "pushes": ["route 192.0.2.0 255.255.255.0"]},
            "branch": {"id": 9, "networks": ["10.50.0.0/24"]},
            "gone": {"disabled": True},
        },
        "vpn:servers:main:dynamic": False,
        "vpn:servers:main:auth": {"script": "/usr/local/bin/check", "token_lifetime": 3600},
        "vpn:pki:crl": pem_text("X509 CRL", "Y3Js"),
        "vpn:pki:auth_token": pem_text("OpenVPN auth-token server key", KEY_TEXT),
    },
    "networks": {
        "networks": {
            "guest": {
                "interface": "eth0.20",
                "network": "10.20.0.0/24",
                "virtual_ip": "10.20.0.1",
                "isolated": True,
                "dhcp": {
                    "pool": ["10.20.0.50-10.20.0.99", "10.20.0.150-10.20.0.250"],
                    "domain": "guest.example.net",
                    "options": {150: "10.20.0.9", "ip-forward-enable": 0},
                    "boot": {
                        "file": "pxelinux.0",
                        "efi_file": "grubx64.efi",
                        "server": "10.20.0.9",
                    },
                },
            },
            "servers": {
                "interface": "eth3",
                "network": "10.30.0.0/24",
                "virtual_ip": "10.30.0.1",
                "aliases": ["servers-gateway"],
                "trusted": True,
            },
            "dmz": {
                "interface": "eth4",
                "network": "203.0.113.16/28",
                "virtual_ip": "203.0.113.17",
                "nat": "none",
                "targets": ["203.0.113.20"],
            },
        },
        "routes": [{"network": "10.50.0.0/16", "via": "10.77.0.254"}],
        "nodes:gw1:addresses": {"guest": "10.20.0.7"},
        "nodes:gw2:interfaces": {"dmz": "eth5"},
        "hosts:printer": {"ip": ["10.77.0.11", "10.30.0.11"], "mac": "02:00:00:00:00:11"},
    },
    "names": {
        "internal:aliases": ["gateway"],
        "hosts:backend01:mac": ["02:00:00:00:00:10", "02:00:00:00:00:11"],
        "hosts:backend01:aliases": ["www.example.org", "*.apps", "*.example.net", "example.net"],
        "dns:forwarders": ["127.0.0.1#5335"],
        "dns:settings": {"cache-size": 7, "txt-record": 'a.example,"v=spf1 -all"'},
        "dhcp:settings": {"dhcp-lease-max": 7, "pxe-service": '0,"Boot"'},
    },
    "public domain": {"dns:public_domain": True},
    "followers": {"follow_virtual_ip": ["my-app.service", "vm@one.service", "report.timer"]},
    "settings": {
        "vpn:servers:main:settings": SETTINGS,
        "dhcp:settings": SETTINGS,
        "dns:settings": SETTINGS,
        "ntp:settings": SETTINGS,
        "keepalived": {"router_id": 7, "settings": SETTINGS},
    },
    "many": {
        "hosts": {
            f"host{n}": {"ip": f"10.77.0.{n}", "mac": f"02:00:00:00:00:{n:02x}"}
            for n in range(4, 100)
        },
        "nat:forwards": [{"port": 1000 + n, "to": f"host{n}"} for n in range(4, 100)],
    },
}
# Much of what there is, at once.
SITES["rich"] = {
    key: value
    for name in ("link of their own", "further addresses", "VPN clients", "names", "followers")
    for key, value in SITES[name].items()
} | {
    "dns:settings": {"cache-size": 7},
    "dhcp:settings": {"dhcp-lease-max": 7},
    "ntp:settings": {"minsources": 2},
    "health:internal:targets": ["10.77.0.10"],
    "firewall": {
        "ssh": {"from": ["203.0.113.0/24"]},
        "groups": {"partners": ["192.0.2.0/24", "2001:db8::/32"]},
        "input": [{"from": "partners", "proto": "tcp", "ports": [9100], "limit": "10/minute"}],
        "forward": [{"from": "alice", "to": "internal", "action": "reject", "log": True}],
    },
    "nat:one_to_one": [{"address": "198.51.100.12", "to": "backend01"}],
}


class Salt:
    """Salt's renderers and state compiler, as any user may run them."""

    def __init__(self, folder, root):
        self.root = root
        (folder / "roots").mkdir()
        (folder / "roots/gateway").symlink_to(root / "gateway")
        self.opts = salt.config.minion_config(None, minion_id=True)
        self.opts.update(
            id="gw1",
            file_client="local",
            file_roots={"base": [str(folder / "roots")]},
            root_dir=str(folder),
            cachedir=str(folder / "cache"),
            extension_modules=str(folder / "extmods"),
            grains={"os_family": "Debian"},
            pillar={},
        )
        self.high = salt.state.HighState(self.opts, initial_pillar={"not": "used"})
        # Which states have a mod_watch, and one question that the compiler asks.
        self.high.state.states = {f"{name}.mod_watch" for name in ("service", "cmd")}
        self.high.state._trusted_functions = {"config.option": lambda option: False}
        self.slses = sorted(
            ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".init")
            for path in root.glob("gateway/**/*.sls")
        )
        self.usual = dict(self.opts)
        self.pillar = {}
        self.kept = {}

    def renderers(self, functions, opts):
        """Salt's renderers for another run, loaded once for the same options."""
        self.pillar.clear()  # where map.jinja notes what it has found out
        if opts not in self.kept:
            called: dict[str, Any] = {}
            self.kept[opts] = (
                called,
                salt.loader.render(
                    self.opts,
                    called,
                    context=self.high.state.state_con,
                    file_client=self.high.client,
                    pillar=self.pillar,
                ),
            )
        called, renderers = self.kept[opts]
        called.clear()
        called.update(functions)
        return renderers

    def compile(self, sls, functions, **opts):
        """The states of an SLS in the order they would run, as Salt's low data."""
        for name in ("__master_opts__", "config_dir"):
            self.opts.pop(name, None)
        self.opts.update(self.usual | opts)
        self.high.state.rend = self.renderers(functions, json.dumps(opts, default=id))
        self.high.building_highstate = salt.state.HashableOrderedDict()
        compiler = self.high.state
        high, errors = self.high.render_highstate({"base": [sls]})
        high, more = compiler.reconcile_extend(high)
        errors += more + compiler.verify_high(high)
        high, more = compiler.requisite_in(high)
        low, last = compiler.compile_high_data(high)
        assert errors + more + last == []
        return low

    def render(self, low, functions):
        """The text of the file that a state manages; None where it has none."""
        if "source" not in low:
            return low.get("contents")
        path = self.root / low["source"].removeprefix("salt://")
        if low["fun"] != "checked_file" and low.get("template") != "jinja":
            return path.read_text()
        done = salt.utils.templates.JINJA(
            str(path),
            to_str=True,
            salt=functions,
            opts=self.opts,
            grains=self.opts["grains"],
            pillar={},
            saltenv="base",
            fileclient=self.high.client,
            context=low.get("context") or {},
        )
        assert done["result"], done["data"]
        return done["data"]


@pytest.fixture(scope="session")
def templates():
    """Compile each template once. Salt has an environment for each rendering, and would do so in
    each: that is half of the time."""
    compiled: dict[Any, Any] = {}
    original = jinja2.Environment.compile

    def once(environment, source, *arguments, **keywords):
        # The lexer is the same for the same settings of the syntax.
        syntax = environment.lexer, *environment.extensions
        key = (syntax, source, arguments, *keywords.items())
        if key not in compiled:
            compiled[key] = original(environment, source, *arguments, **keywords)
        return compiled[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jinja2.Environment, "compile", once)
        yield


@pytest.fixture(scope="session")
def compiler(tmp_path_factory, root, templates):
    return Salt(tmp_path_factory.mktemp("salt"), root)


@pytest.fixture(scope="session")
def execution_module(load):
    """The execution module, for the plan and for PEM text."""
    return load("_modules/gateway.py")


@pytest.fixture(scope="session")
def rendered_once():
    """What was rendered once."""
    return {}


@pytest.fixture
def render(compiler, execution_module, rendered_once, edit, read_pillar):
    """Compile an SLS for a node of a site and render its files."""
    resolver = {"file": RESOLV_CONF}

    def functions(pillar, node):
        vars(execution_module).update(
            __pillar__={"gateway": pillar}, __opts__={"id": node}, __context__={}
        )

        def get_file(source, copy, saltenv, makedirs):
            assert (source.startswith("salt://_"), saltenv, makedirs) == (True, "base", True)
            synced.append(copy)

        def single(fun, name, test, **functions):
            """Over salt-ssh: a state that calls functions on the node."""
            [(function, [arguments])] = functions.items()
            assert (fun, test, function) == ("module.run", False, "gateway.prepared")
            state = {"changes": {function: prepared(pillar, **arguments)}}
            return {"local": {"return": {"module_|-x_|-x_|-run": state}}}

        synced: list[str] = []
        return {
            "state.single": single,
            "gateway.plan": execution_module.plan,
            "gateway.prepared": lambda supported: prepared(pillar, supported),
            "gateway.pem": execution_module.pem,
            "gateway.lease_key": execution_module.lease_key,
            "gateway.sync_ignored": lambda: [
                *execution_module.plan()["sync"]["ignored"],
                "172.17.0.1",
            ],
            "file.file_exists": {"/var/lib/gateway/drained": False}.__getitem__,
            "cp.list_master": lambda saltenv, prefix: [],
            "cp.get_file": get_file,
        }, synced

    def prepared(pillar, supported):
        errors = _gateway_plan.read(pillar)[1] if supported else []
        answer: dict[str, Any] = {"lacking": False, "errors": errors, "plan": {}, "ruleset": {}}
        answer["resolver"] = ""
        if supported and not errors:
            answer["plan"] = execution_module.plan()
            answer["ruleset"] = execution_module.ruleset()
            answer["resolver"] = resolver["file"]
        return answer

    def rendered(
        each_site,
        sls="gateway",
        node="gw1",
        changes=None,
        stubs=None,
        resolver_file=RESOLV_CONF,
        **opts,
    ):
        key = (each_site, sls, node, resolver_file)
        resolver["file"] = resolver_file
        usual = not (changes or stubs or opts)
        if not usual or key not in rendered_once:
            pillar = copy.deepcopy(MINIMAL) if each_site == "minimal" else edit(SITES[each_site])
            pillar = edit(changes) if changes else pillar
            calls, synced = functions(pillar, node)
            calls |= stubs or {}
            calls = {name: call for name, call in calls.items() if call}  # None: it is not there
            opts = {"grains": {"os_family": "Debian"}} | opts
            low = compiler.compile(sls, calls, **opts)
            files = {
                chunk["name"]: compiler.render(chunk, calls)
                for chunk in low
                if chunk["fun"] in ("file", "checked_file")
            }
            found = SimpleNamespace(
                low=low,
                ids={chunk["__id__"]: chunk for chunk in low},
                files=files,
                synced=synced,
                plan=calls["gateway.plan"]() if read_pillar(pillar)[0] else None,
                sources={chunk["source"] for chunk in low if "source" in chunk},
                clients={
                    chunk["name"]: _gateway_vpn_client_files.client_files(
                        json.loads(chunk["server"])
                    )
                    for chunk in low
                    if (chunk["state"], chunk["fun"]) == ("gateway_openvpn", "clients")
                },
                apart=[
                    compiler.render(
                        {**chunk, "fun": "checked_file", "context": {"alone": True}}, calls
                    )
                    for chunk in low
                    if chunk["fun"] == "election_added"
                ],
            )
            if not usual:
                return found
            rendered_once[key] = found
        return rendered_once[key]

    return rendered


def is_service(chunk, fun="running"):
    return (chunk["state"], chunk["fun"]) == ("gateway_service", fun)


# A minion with a master, for whose messages salt-call is needed.
WITH_MASTER: dict[str, Any] = {
    "file_client": "remote",
    "config_dir": "/etc/salt",
    "stubs": {"cmd.which": {"salt-call": "/usr/bin/salt-call"}.get},
}
ORDER = yaml.safe_load((ROOT / "gateway/services.yaml").read_text(encoding="utf-8"))
SLSES = ["gateway", *(f"gateway.{service}" for service in ORDER)]
WRONG_SITE = {"domain": "-", "nodes:gw1:id": 0, "hosts:back\"end'": {}, "hosts:a: b {c} %}": {}}


def needed(found, name):
    """All that must have gone well before a state runs."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        chunk = found.ids[todo.pop()]
        for requisite in ("require", "watch"):
            for entry in chunk.get(requisite, []):
                [(state, target)] = entry.items()
                if state != "sls" and target not in seen:
                    seen.add(target)
                    todo.append(target)
    return seen


def braces(text):
    """keepalived's configuration as nested lists of (words, block or None)."""
    top: list[Any] = []
    stack = [top]
    for line in text.splitlines():
        words = re.sub(r"[#!].*", "", line).split()
        if words == ["}"]:
            stack.pop()
        elif words and words[-1] == "{":
            stack[-1].append((words[:-1], []))
            stack.append(stack[-1][-1][1])
        elif words:
            assert not {"{", "}"} & set(words), line
            stack[-1].append((words, None))
    assert len(stack) == 1, "a block is not closed"
    return top


def block(tree, *words):
    [found] = [body for header, body in tree if header == list(words)]
    return found


def keepalived_conf(node):
    return braces(node.files["/etc/keepalived/keepalived.conf"])


def options_of(tree):
    return {words[0]: words[1:] for words, body in tree if body is None}


def lines(node, path):
    return [line for line in node.files[path].splitlines() if not line.startswith("#")]


CHRONY_CONF = "/etc/chrony/chrony.conf"
