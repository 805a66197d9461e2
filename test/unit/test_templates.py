"""Every SLS and every template, rendered by Salt itself for different sites, and what it means.

The sites go through the real planner; the state compiler and the renderers are Salt's own. Only
what would look at this machine is played by the test.
"""

import copy
import importlib
import inspect
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import Any

import _gateway_client_files
import _gateway_nodes
import _gateway_plan
import _gateway_rules
import jinja2
import jinja2.meta
import pytest
import salt.config
import salt.loader
import salt.state
import salt.utils.templates
import yaml

ROOT = Path(__file__).parents[2]
SECRET = "c2VjcmV0c2VjcmV0c2VjcmV0"
TLS_SECRET = "0123456789abcdef0123456789abcdef"


def pem(label, body):
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"


PEM = {
    "vpn:pki": {
        "ca": "# The site's own.\n" + pem("CERTIFICATE", "Y2E="),
        "certificate": pem("CERTIFICATE", "Y2VydGlmaWNhdGU=").replace("\n", "\r\n"),
        "tls_crypt": pem("OpenVPN Static key V1", TLS_SECRET),
    },
    "nodes:gw1:pki": {"key": pem("PRIVATE KEY", SECRET)},
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
        "vpn:pki:crl": pem("X509 CRL", "Y3Js"),
        "vpn:pki:auth_token": pem("OpenVPN auth-token server key", SECRET),
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

# --------------------------------------------------------------------------------------------------
# Salt


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


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def compiler(tmp_path_factory, root, templates):
    return Salt(tmp_path_factory.mktemp("salt"), root)


@pytest.fixture(scope="module")
def module(load):
    """The execution module, for the plan and for PEM text."""
    return load("_modules/gateway.py")


@pytest.fixture(scope="module")
def kept():
    """What was rendered once."""
    return {}


@pytest.fixture
def render(compiler, module, kept, edit, read_pillar):
    """Compile an SLS for a node of a site and render its files."""

    def functions(pillar, node):
        vars(module).update(__pillar__={"gateway": pillar}, __opts__={"id": node}, __context__={})

        def sync(refresh):
            assert refresh is False
            synced.append(1)
            return []

        synced: list[int] = []
        return {
            "gateway.plan": module.plan,
            "gateway.has_states": lambda: True,
            "gateway.validate": lambda warnings: warnings or _gateway_plan.read(pillar)[1],
            "gateway.pem": module.pem,
            "gateway.ruleset": module.ruleset,
            "gateway.sync_ignored": lambda: [*module.plan()["sync"]["ignored"], "172.17.0.1"],
            "file.file_exists": {"/var/lib/gateway/drained": False}.__getitem__,
            "cp.list_master": lambda prefix: [],
            "saltutil.sync_modules": sync,
            "saltutil.sync_states": sync,
        }, synced

    def rendered(site, sls="gateway", node="gw1", changes=None, stubs=None, **opts):
        key = (site, sls, node)
        usual = not (changes or stubs or opts)
        if not usual or key not in kept:
            pillar = copy.deepcopy(MINIMAL) if site == "minimal" else edit(SITES[site])
            pillar = edit(changes) if changes else pillar
            calls, synced = functions(pillar, node)
            calls |= stubs or {}
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
                synced=len(synced),
                plan=calls["gateway.plan"]() if read_pillar(pillar)[0] else None,
                sources={chunk["source"] for chunk in low if "source" in chunk},
                clients={
                    chunk["name"]: _gateway_client_files.client_files(json.loads(chunk["server"]))
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
            kept[key] = found
        return kept[key]

    return rendered


def is_service(chunk, fun="running"):
    return (chunk["state"], chunk["fun"]) == ("gateway_service", fun)


# A minion with a master, for whose messages salt-call is needed.
MASTER: dict[str, Any] = {
    "file_client": "remote",
    "config_dir": "/etc/salt",
    "stubs": {"cmd.which": {"salt-call": "/usr/bin/salt-call"}.get},
}

# --------------------------------------------------------------------------------------------------
# Every site


@pytest.fixture(params=SITES)
def site(request, render):
    """Each of the sites, on its first node."""
    return render(request.param)


def test_files_are_tidy(site):
    assert site.files
    for name, text in site.files.items():
        if name == "/var/lib/gateway/applied":
            continue
        assert text.endswith("\n"), name
        assert not text.endswith("\n\n"), name
        assert not text.startswith("\n"), name
        assert not re.search(r"[ \t]$|\t|\n\n\n", text, re.MULTILINE), name
        words = set(re.findall(r"\w+", re.sub(r"(?m)^\s*#.*", "", text)))
        assert not words & {"None", "Undefined", "True", "False"}, name
        assert not re.search(r"\{\{|\{%|\[\]|[{\[]'", text), name
        assert "Managed by Salt (gateway)" in text.splitlines()[0 if text[0:2] != "#!" else 1]


def test_states_are_sound(site, load, root):
    """Salt has compiled them; this is what it would only find out while they run."""
    ids = [chunk["__id__"] for chunk in site.low]
    names = [(chunk["state"], chunk["fun"], chunk["name"]) for chunk in site.low]
    assert len(set(names)) == len(names)
    ours = {path.stem: load(f"_states/{path.name}") for path in root.glob("_states/gateway*.py")}
    for chunk in site.low:
        place = ours.get(chunk["state"])
        place = place or importlib.import_module(f"salt.states.{chunk['state']}")
        function = getattr(place, chunk["fun"])
        if chunk["state"] in ours:
            signature = inspect.signature(function)
            signature.bind(**{key: chunk[key] for key in set(chunk) - INTERNAL})
        if chunk.keys() & {"onlyif", "unless", "creates"}:
            # Otherwise Salt loads all of its modules to look for it, which takes half a second.
            assert hasattr(place, "mod_run_check"), chunk["__id__"]
        # A sentence, not a name with underscores; and no two look alike in a log.
        assert re.fullmatch(r"[a-z][\w .'-]+ [\w .'-]+", chunk["__id__"], re.IGNORECASE)
    assert len({name.lower() for name in ids}) == len(set(ids))
    for chunk in site.low:
        for requisite in ("require", "watch", "onchanges"):
            for entry in chunk.get(requisite, []):
                [(state, target)] = entry.items()
                assert state == "sls" or any(
                    other["state"] == state and target in (other["__id__"], other["name"])
                    for other in site.low
                ), (chunk["__id__"], entry)


def test_every_file_of_ours_has_an_owner_and_a_mode(site):
    """gateway.file gives it root and 0644, and opens the folders on its way; whatever else writes a
    file or makes a folder would leave that to the umask of the run."""
    for chunk in site.low:
        if chunk["state"] == "file":
            assert chunk["fun"] == "absent", chunk["__id__"]
        if chunk["fun"] in ("file", "checked_file"):
            mode = chunk.get("mode", "0644")
            secret = chunk["name"].startswith("/etc/openvpn/")
            program = chunk["name"].startswith("/usr/lib/gateway/")
            secret = secret or chunk["name"] == "/var/lib/gateway/applied"  # it says much of a site
            assert mode == ("0600" if secret else "0755" if program else "0644"), chunk["name"]


def test_units_have_in_force_what_is_written(site):
    """Each file that a unit starts with or reads is one that it is restarted or reloaded for, and
    comes before it."""
    states = {chunk["name"]: chunk["__id__"] for chunk in site.low if "file" in chunk["fun"]}
    services = [chunk for chunk in site.low if is_service(chunk)]
    read = set()
    for chunk in services:
        units = {f"/etc/systemd/system/{unit}" for unit in chunk.get("units", [])}
        files = {*chunk.get("reads", []), *chunk.get("rereads", [])}
        needed = {name for entry in chunk["require"] for name in entry.values()}
        assert {states[path] for path in files} <= needed, chunk["__id__"]
        read |= files | units
    assert not [
        chunk
        for chunk in site.low
        if chunk["state"] in ("service", "cmd")
        and chunk["fun"] in ("running", "run")
        and chunk["name"] != "modprobe nf_conntrack"
    ]
    # Read when they are called, when a client connects, at boot, or whenever they are others.
    alone = {
        "vpn-networks",
        *("announce", "firewall", "follow-tell", "vpn-session", "routes", "applied"),
        *("isolated", "check-conntrackd", "check-ntpsec", "check-openvpn"),
    }
    others = {path for path in site.files if path not in read}
    assert {path for path in others if PurePath(path).name not in alone} <= {
        "/etc/modules-load.d/gateway.conf"
    }


INTERNAL = {
    *("state", "fun", "order", "__sls__", "__env__", "__id__", "__sls_included_from__"),
    *(
        "failhard",
        "require",
        "watch",
        "onchanges",
        "require_in",
        "watch_in",
        "reload",
        "force_reload_modules",
    ),
}


def test_services_come_after_their_files(site):
    order = [chunk["__id__"] for chunk in site.low]
    for chunk in site.low:
        for requisite in ("require", "watch", "onchanges"):
            for entry in chunk.get(requisite, []):
                [(state, target)] = entry.items()
                if state != "sls":
                    assert order.index(target) < order.index(chunk["__id__"])


def test_the_plan_is_written_last(site):
    """After what older versions left is gone, for which all the rest has to be in force."""
    before = site.low[-2]
    assert before["name"] == "/usr/lib/gateway"
    parts = {chunk["__sls__"].removesuffix(".clean") for chunk in site.low[:-2]}
    assert parts <= {entry["sls"] for entry in before["require"]} | {"gateway.valid"}
    last = site.low[-1]
    assert last["name"] == "/var/lib/gateway/applied"
    assert last["require"] == [{"gateway": "nothing of older versions"}]
    assert json.loads(site.files[last["name"]]) == site.plan
    assert last["mode"] == "0600"
    assert last["show_changes"] is False


def test_modules_are_synced_once(site):
    assert site.synced in (0, 2)  # 0: kept from a run before
    assert not any(chunk["__sls__"] == "gateway.loaded" for chunk in site.low)


@pytest.mark.parametrize("node", ["gw1", "gw2"])
@pytest.mark.parametrize("name", [name for name in SITES if name != "minimal"])
def test_the_second_node_has_the_same_states(render, name, node):
    found = render(name, node=node)
    assert list(found.ids) == list(render(name).ids)


def test_templates_are_all_used(render, root):
    """A template that no site renders is not shown to work by any test here."""
    used = {source.removeprefix("salt://") for name in SITES for source in render(name).sources}
    used |= {source.removeprefix("salt://") for source in render("example", **MASTER).sources}
    assert used == {
        str(path.relative_to(root)) for path in root.glob("gateway/**/files/*") if path.is_file()
    }


def test_templates_go_by_the_plan_alone(render, root):
    """A file is not rendered again while the plan and the context are the same."""
    checked = {
        chunk["source"]
        for name in SITES
        for chunk in render(name).low
        if (chunk["state"], chunk["fun"]) != ("gateway", "file") and "source" in chunk
    }
    for path in root.glob("gateway/**/*.jinja"):
        if "files" not in path.parts or f"salt://{path.relative_to(root)}" in checked:
            continue
        found = re.findall(
            r"salt\[.*?\]|\b(?:pillar|grains|opts|include|import)\b", path.read_text()
        )
        code = "".join(re.findall(r"\{[{%].*?[%}]\}", path.read_text(), re.DOTALL))
        found = re.findall(r"salt\[.*?\]|\b(?:pillar|grains|opts|include|import)\b", code)
        assert set(found) <= {"salt['gateway.plan']"}, path


# --------------------------------------------------------------------------------------------------
# SLS

ORDER = yaml.safe_load((ROOT / "gateway/services.yaml").read_text(encoding="utf-8"))
SLSES = ["gateway", *(f"gateway.{service}" for service in ORDER)]


def test_no_sls_was_forgotten(compiler):
    assert compiler.slses == sorted(
        [
            *(*SLSES, *(f"{sls}.clean" for sls in SLSES)),
            *("gateway.isolated", "gateway.loaded", "gateway.valid"),
        ]
    )


def test_every_service_is_in_the_order():
    folders = [path.parent.name for path in (ROOT / "gateway").glob("*/init.sls")]
    assert sorted(ORDER) == sorted(folders)


# --------------------------------------------------------------------------------------------------
# What differs between operating systems

OS = {
    path.parent.name: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "gateway").glob("*/os.yaml"))
}


def values_of(mapping, *keys):
    """What stands under these keys, however deep."""
    for key, value in mapping.items():
        if isinstance(value, dict):
            yield from values_of(value, *keys)
        elif key in keys:
            yield from value if isinstance(value, list) else [value]


def test_each_service_knows_the_families_that_are_let_in(render):
    [chunk] = render("example", "gateway.valid", grains={"os_family": "Solaris"}).low
    supported = chunk["errors"][0].rpartition("supported: ")[2].split(", ")
    assert {name: list(families) for name, families in OS.items()} == dict.fromkeys(OS, supported)


def test_packages_and_units_of_a_distribution_are_in_os_yaml_alone(site):
    """What Python calls a unit that is not the formula's own (status, drain) is one of them."""
    services = set(values_of(OS, "service"))
    packages = set(values_of(OS, "package", "packages", "set_packages"))
    installed = [chunk for chunk in site.low if chunk["state"] == "pkg"]
    assert installed
    for chunk in installed:
        assert set(chunk.get("pkgs") or [chunk["name"]]) <= packages
    started = {chunk["name"] for chunk in site.low if is_service(chunk)}
    for name in started | {unit["unit"] for unit in site.plan["units"]}:
        own = list(ROOT.glob(f"gateway/*/files/{name}.service.jinja"))
        assert own or re.sub("@.*", "@", name) in services, name


def test_health_looks_at_no_unit_that_runs_elsewhere_or_now_and_then(render, errors):
    """Whatever the formula starts only where the virtual IP is, or is started by another unit."""
    always = {chunk["name"] for chunk in render("example", **MASTER).low if is_service(chunk)}
    always = {f"{name}.service" for name in always - {"gateway-dhcp"}}
    units = {
        PurePath(path).name for path in render("example", **MASTER).files if "/systemd/" in path
    }
    for unit in sorted(units - always - {"gateway.conf"}):
        assert len(errors({"health:services": [unit]})) == 1, unit


def test_what_runs_is_what_status_looks_at(site):
    """What loads something at boot has nothing to do later; one looks at what it has loaded."""
    at_boot = {"gateway-firewall", "gateway-routes"}
    started = {chunk["name"] for chunk in site.low if is_service(chunk)}
    assert started - at_boot == {unit["unit"] for unit in site.plan["units"]}


@pytest.mark.parametrize("sls", SLSES[1:])
@pytest.mark.parametrize("name", ["example", "minimal", "public virtual IP", "ntpsec"])
def test_each_alone_does_its_part_of_the_whole(render, name, sls):
    alone = render(name, sls)
    whole = render(name)
    assert alone.files == {path: whole.files[path] for path in alone.files}
    slses = (sls, f"{sls}.clean")  # what is off cleans up after itself
    mine = [chunk["__id__"] for chunk in whole.low if chunk["__sls__"] in slses]
    assert mine
    assert [chunk["__id__"] for chunk in alone.low if chunk["__sls__"] in slses] == mine


def test_the_number_of_states_does_not_grow(render):
    few, many = render("example"), render("many")
    assert list(few.ids) == list(many.ids)
    # The rules are one argument of one state.
    sizes = [
        len(json.dumps([chunk | {"ruleset": ""} for chunk in site.low])) for site in (few, many)
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02)
    assert few.files["/etc/gateway/hosts"].count("\n") < 10
    assert many.files["/etc/gateway/hosts"].count("\n") > 90


WRONG = {"domain": "-", "nodes:gw1:id": 0, "hosts:back\"end'": {}, "hosts:a: b {c} %}": {}}


@pytest.mark.parametrize("sls", [*SLSES, "gateway.valid"])
def test_a_wrong_pillar_is_one_failing_state(render, errors, sls):
    found = errors(WRONG)
    [chunk] = render("example", sls, changes=WRONG).low
    assert (chunk["__id__"], chunk["state"]) == ("gateway pillar", "gateway")
    assert chunk["fun"] == "refused"
    assert chunk["errors"] == found


@pytest.mark.parametrize("sls", [*SLSES, "gateway.valid"])
def test_another_family_of_systems_is_one_failing_state(render, sls):
    [chunk] = render("example", sls, grains={"os_family": "Solaris"}).low
    assert chunk["__id__"] == "gateway pillar"
    assert "Solaris" in chunk["errors"][0]
    assert "Debian" in chunk["errors"][0]


def test_new_modules_are_loaded_before_anything_else(render):
    stubs = {"saltutil.sync_modules": lambda refresh: ["modules.gateway"]}
    for sls in ("gateway", "gateway.ntp.clean"):
        first = render("example", sls, stubs=stubs).low[0]
        assert (first["state"], first["fun"]) == ("test", "nop")
        assert first["force_reload_modules"] is True


def test_modules_are_synced_before_one_of_ours_is_asked(root):
    """Salt does not load it again in that run: an older one would answer, or none be found."""
    text = re.sub(r"(?s){#.*?#}", "", (root / "gateway/map.jinja").read_text())
    assert 0 < text.index("saltutil.sync_modules") < text.index("gateway.")


@pytest.mark.parametrize("stale", ["modules", "states", "missing", None])
def test_only_what_is_not_current_is_synced(render, tmp_path, stale):
    """A file that is another on the file server, or not there yet."""
    names = ("gateway", "_gateway_b")
    ours = {f"_{form}/{name}.py" for form in ("modules", "states") for name in names}
    served = {*ours, "_modules/somebody_s.py"}
    copies = {f"{tmp_path}/{path[1:]}" for path in ours}
    if stale == "missing":
        copies.discard(f"{tmp_path}/states/_gateway_b.py")

    def get_hash(path, kind):
        assert (kind, path in copies) == ("sha256", True)
        return "old" if path == f"{tmp_path}/{stale}/_gateway_b.py" else "new"

    stubs = {
        "cp.list_master": lambda prefix: [path for path in served if path.startswith(prefix)],
        "cp.hash_file": lambda path: {"hash_type": "sha256", "hsum": "new"},
        "file.file_exists": copies.__contains__,
        "file.get_hash": get_hash,
    }
    opts = {"extension_modules": str(tmp_path)}
    assert render("example", stubs=stubs, **opts).synced == (2 if stale else 0)


def test_files_are_made_of_the_plan_and_their_context(root):
    """``gateway.file`` takes a file for right whose plan and context are as they were."""
    others = {
        "environ",
        "grains",
        "opts",
        "pillar",
        "proxy",
        "saltenv",
        "sls",
        "slspath",
        "tplpath",
    }
    environment = jinja2.Environment(extensions=["jinja2.ext.do"])
    for path in root.glob("gateway/**/files/*.jinja"):
        parsed = environment.parse(path.read_text())
        assert not jinja2.meta.find_undeclared_variables(parsed) & others, path
        assert not list(jinja2.meta.find_referenced_templates(parsed)), path


def test_over_ssh_nothing_is_synced(render):
    assert render("example", "gateway", __master_opts__={}).synced == 0
    assert render("example", "gateway", id="gw1").synced == 2


@pytest.mark.parametrize("changes", [None, WRONG], ids=["good pillar", "wrong pillar"])
@pytest.mark.parametrize("sls", [*SLSES, *(f"{sls}.clean" for sls in SLSES)])
def test_without_the_formula_s_states_nothing_is_touched(render, sls, changes):
    """With states of Salt's own, and in test mode too, where it shows a name and no comment."""
    stubs = {"gateway.has_states": lambda: False}
    found = render("example", sls, changes=changes, stubs=stubs).low
    assert (found[0]["state"], found[0]["fun"]) == ("test", "fail_without_changes")
    for words in (found[0]["name"], found[0]["comment"]):
        assert words.startswith("Nothing was changed: the formula's own states are not here.")
    assert found[0]["failhard"] is True
    assert len(found) == 1 or sls.endswith(".clean")


# --------------------------------------------------------------------------------------------------
# Order

# What is removed, and what must have been done before, for what runs may still read it; where.
NOT_BEFORE: dict[str, tuple[tuple[str, Any, str], str, list[str]]] = {
    "revocation list": (
        ("example", {}, "gateway.openvpn"),
        "no openvpn revocation list of ours",
        [
            "openvpn configuration of main",
            "openvpn server main",
            "no other openvpn servers of ours",
        ],
    ),
    "revocation list of servers that have left": (
        ("minimal", None, "gateway.openvpn"),
        "no openvpn revocation list of ours",
        ["no other openvpn servers of ours"],
    ),
    "programs and clients of servers that have left": (
        ("example", None, "gateway.openvpn.clean"),
        "openvpn files are gone",
        ["no openvpn servers of ours"],
    ),
    "event unit": (
        ("example", None, "gateway.follow"),
        "nobody tells a Salt master",
        ["follower unit", "follower service"],
    ),
    "kernel modules": (
        ("example", None, "gateway.kernel"),
        "no kernel modules",
        ["kernel settings"],
    ),
    "kernel modules of a clean": (
        ("example", None, "gateway.kernel.clean"),
        "no kernel modules",
        ["kernel settings are as they were"],
    ),
    "the other NTP server": (
        ("ntpsec", None, "gateway.ntp"),
        "chrony configuration is as it was",
        ["ntp package", "ntp service"],
    ),
    "check of NTPsec": (
        ("ntpsec", None, "gateway.ntp.clean"),
        "ntp files are gone",
        ["ntpsec configuration is as it was"],
    ),
    "unit settings of keepalived": (
        ("example", None, "gateway.keepalived.clean"),
        "keepalived unit settings are gone",
        ["keepalived is stopped"],
    ),
}


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


@pytest.mark.parametrize(("where", "removal", "first"), NOT_BEFORE.values(), ids=NOT_BEFORE)
def test_what_a_running_configuration_names_goes_after_the_new_one(render, where, removal, first):
    site, changes, sls = where
    found = render(site, sls, changes=changes)
    assert set(first) <= needed(found, removal)


@pytest.mark.parametrize("sls", [*SLSES, *(f"{sls}.clean" for sls in SLSES)])
@pytest.mark.parametrize("name", SITES)
def test_nothing_is_removed_whatever_came_of_the_rest(render, name, sls):
    # The follower puts back what is in the file.
    deliberate = {"routes file is gone"}
    for chunk in render(name, sls).low:
        if chunk["fun"] == "absent" and chunk["__id__"] not in deliberate:
            assert chunk.get("require"), chunk["__id__"]


@pytest.mark.parametrize("name", ["example", "VPN clients"])
def test_what_an_openvpn_server_reads_is_there_first(render, name):
    """A configuration that names what is not there would keep the server down after a reboot."""
    found = render(name, "gateway.openvpn")
    first = needed(found, "openvpn configuration of main")
    assert {"openvpn clients of main", "openvpn notes of who is connected"} <= first
    assert ("openvpn revocation list" in first) is (name == "VPN clients")
    assert "openvpn configuration of main" in needed(found, "openvpn server main")


def test_a_node_without_a_certificate(render):
    """The VPN says why, and its servers are left alone. All else is applied as ever."""
    refusal = {"vpn:pki": {"error": "the certificate of gw1 is revoked"}}
    found, usual = render("example", changes=refusal), render("example")
    assert found.ids["openvpn certificates"]["fun"] == "refused"
    assert found.ids["openvpn certificates"]["errors"] == [
        "gateway:vpn:pki:error: the certificate of gw1 is revoked"
    ]
    assert usual.ids.keys() - found.ids.keys() == {
        "no openvpn revocation list of ours",
        "openvpn configuration of main",
        "openvpn server main",
        "openvpn unit settings of main",
    }

    def others(low):
        return [chunk | {"order": 0} for chunk in low if chunk["__sls__"] != "gateway.openvpn"]

    assert others(found.low) == others(usual.low)
    # Nobody waits for the VPN but what comes last, and the plan that is noted after that.
    waits = [
        chunk["__id__"]
        for chunk in others(found.low)
        if {"sls": "gateway.openvpn"} in chunk.get("require", [])
        or any(found.ids[i]["__sls__"] == "gateway.openvpn" for i in needed(found, chunk["__id__"]))
    ]
    assert waits == ["nothing of older versions"]


# --------------------------------------------------------------------------------------------------
# Clean

CLEANS = [f"{sls}.clean" for sls in SLSES]
RESTORED = {"folder_gone", "drop_in_gone", "original_restored", "kernel_settings_restored"}


@pytest.mark.parametrize("sls", SLSES)
@pytest.mark.parametrize("name", SITES)
def test_clean_takes_back_all_that_was_written(render, compiler, name, sls):
    """By the names of files and units; what the lab shows is that it does."""
    done = render(name, sls).low
    # An SLS alone brings the follower along, for others to use too.
    done = [chunk for chunk in done if sls == "gateway" or chunk["__sls__"] == sls]
    undone = render(name, f"{sls}.clean").low
    removed = {chunk["name"] for chunk in undone if chunk["fun"] in {"absent", *RESTORED}}
    stopped = {chunk["name"] for chunk in undone if is_service(chunk, "off")}
    kept = {"chrony", "ntpsec"}  # the distribution's, with its own configuration again
    for chunk in done:
        if "openvpn-server@" in chunk["name"] or chunk["name"].startswith("/etc/openvpn/"):
            continue  # by gateway_openvpn.servers_only
        if chunk["fun"] == "folder" and sls != "gateway":
            continue  # what is in it is the user's
        if chunk["fun"] in ("file", "folder", "checked_file", "kernel_settings"):
            folders = [str(parent) for parent in PurePath(chunk["name"]).parents]
            assert removed & {chunk["name"], *folders}
        elif is_service(chunk):
            assert chunk["name"] in stopped | kept
    called = {(chunk["state"], chunk["fun"]) for chunk in undone}
    for make, unmake in {
        ("gateway_firewall", "loaded"): "loaded",
        ("gateway", "original_kept"): "original_restored",
        ("gateway_network", "kernel_settings"): "kernel_settings_restored",
        ("gateway_openvpn", "servers_only"): "servers_only",
        ("gateway_network", "routes"): "routes",
        ("gateway_network", "followers"): "followers",
        ("gateway_network", "networkd"): "networkd",
    }.items():
        if any((chunk["state"], chunk["fun"]) == make for chunk in done):
            assert (make[0], unmake) in called
    for chunk in undone:
        for argument in ("routes", "instances", "ruleset", "units", "interfaces"):
            assert not chunk.get(argument)


@pytest.mark.parametrize("sls", CLEANS)
def test_clean_works_with_a_wrong_pillar(render, sls):
    wrong = render("example", sls, changes=WRONG)
    assert [chunk["name"] for chunk in wrong.low] == [
        chunk["name"] for chunk in render("example", sls).low
    ]


# --------------------------------------------------------------------------------------------------
# Secrets


@pytest.mark.parametrize("node", ["gw1", "gw2"])
def test_secrets_are_in_one_file_and_in_no_state(render, node):
    found = render("PEM", node=node)
    secrets = [SECRET, TLS_SECRET] if node == "gw1" else [TLS_SECRET]
    conf = "/etc/openvpn/server/gateway-main.conf"
    for secret in secrets:
        assert secret not in json.dumps([found.low, found.plan])
        assert [name for name, text in found.files.items() if secret in text] == [conf]
    assert found.ids["openvpn configuration of main"]["mode"] == "0600"


@pytest.mark.parametrize("node", ["gw1", "gw2"])
def test_secrets_are_in_no_diff(render, node):
    """The second node's key is a path; but the text of the tls-crypt key is in the file."""
    found = render("PEM", node=node)
    assert found.ids["openvpn configuration of main"]["show_changes"] is False


def test_a_diff_is_shown_where_it_holds_no_secret(render):
    assert render("example").ids["openvpn configuration of main"]["show_changes"] is True


# --------------------------------------------------------------------------------------------------
# keepalived


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


def keepalived(node):
    return braces(node.files["/etc/keepalived/keepalived.conf"])


def options(tree):
    return {words[0]: words[1:] for words, body in tree if body is None}


@pytest.mark.parametrize("name", SITES)
def test_keepalived(render, name):
    for node in ("gw1",) if name == "minimal" else ("gw1", "gw2"):
        found = render(name, node=node)
        tree = keepalived(found)
        settings = options(block(tree, "global_defs"))
        assert settings["vrrp_version"] == ["3"]  # what knows tenths of a second
        vrrp = found.plan["vrrp"]
        names = [header[1] for header, _ in tree if header[0] == "vrrp_instance"]
        assert names == [instance["name"] for instance in vrrp["instances"]]
        for instance in vrrp["instances"]:
            body = block(tree, "vrrp_instance", instance["name"])
            given = options(body)
            assert given["state"] == ["BACKUP"]
            assert given["interface"] == [instance["interface"]]
            assert given["virtual_router_id"] == [str(vrrp["router_id"])]
            assert given["priority"] == [str(vrrp["priority"])]
            assert given["advert_int"] == ["0.1"]
            # In a sync group it is the group that tracks.
            grouped = len(names) > 1
            assert any(words[0] == "track_file" for words, _ in body) is not grouped
            assert block(body, "virtual_ipaddress") == [
                ([f"{instance['virtual_ip']}/32", "dev", instance["interface"]], None)
            ]
            # Without a peer to send to it would multicast, which harms nobody.
            assert ("unicast_src_ip" in given) == bool(instance["peers"])
            if instance["peers"]:
                assert given["unicast_src_ip"] == [instance["source"]]
                peers = [words for words, _ in block(body, "unicast_peer")]
                assert peers == [[peer, "min_ttl", "255"] for peer in instance["peers"]]
            assert ("dont_track_primary" in given) == (instance["name"] == "public")


@pytest.mark.parametrize(("seconds", "written"), [(0, None), (30, ["30"])])
def test_keepalived_listens_first(render, seconds, written):
    """It takes no 0 there."""
    found = render("example", changes={"failover": {"startup_delay": seconds}})
    settings = options(block(keepalived(found), "global_defs"))
    assert settings.get("vrrp_startup_delay") == written


def test_keepalived_nodes_are_each_others_peers(render):
    bodies = [
        block(keepalived(render("example", node=node)), "vrrp_instance", "internal")
        for node in ("gw1", "gw2")
    ]
    one, other = map(options, bodies)
    own = ["min_ttl", "255"]
    assert block(bodies[0], "unicast_peer") == [([*other["unicast_src_ip"], *own], None)]
    assert block(bodies[1], "unicast_peer") == [([*one["unicast_src_ip"], *own], None)]
    assert one["virtual_router_id"] == other["virtual_router_id"]
    assert int(one["priority"][0]) > int(other["priority"][0]) > 200


def test_keepalived_moves_both_addresses_together(render):
    tree = keepalived(render("public virtual IP"))
    group = block(block(tree, "vrrp_sync_group", "gateway"), "group")
    assert group == [(["internal"], None), (["public"], None)]
    group = block(tree, "vrrp_sync_group", "gateway")
    assert (["sync_group_tracking_weight"], None) in group
    assert block(group, "track_file") == [(["penalty"], None)]
    assert not [header for header, _ in keepalived(render("example")) if "sync" in header[0]]


def test_keepalived_gets_a_further_election_without_the_group_first(render):
    """Else both would begin anew; of its own each loses what is wrong with the node."""
    found = render("public virtual IP")
    states = list(found.ids)
    first, then = "keepalived elections side by side", "keepalived configuration"
    assert states.index(first) < states.index(then)
    assert found.ids[first]["addresses"] == ["10.77.0.1", "198.51.100.1"]
    assert found.ids[first]["patience"] == found.plan["health"]["takeover"]
    (text,) = found.apart
    apart, together = braces(text), keepalived(found)
    assert not [header for header, _ in apart if "sync" in header[0]]
    for name in ("internal", "public"):
        alone = block(apart, "vrrp_instance", name)
        assert block(alone, "track_file") == [(["penalty"], None)]
        rest = [entry for entry in alone if entry[0] != ["track_file"]]
        assert rest == block(together, "vrrp_instance", name)
    assert first not in render("example").ids


def test_keepalived_moves_further_addresses_without_announcing_them(render):
    """Adverts that differ, as they do while one node is applied, would make two masters."""
    body = block(keepalived(render("further addresses")), "vrrp_instance", "public")
    assert [words[0] for words, _ in block(body, "virtual_ipaddress")] == ["198.51.100.1/32"]
    assert block(body, "virtual_ipaddress_excluded") == [
        (["198.51.100.11/32", "dev", "eth1"], None),
        (["198.51.100.12/32", "dev", "eth1"], None),
    ]
    assert (
        "virtual_ipaddress_excluded"
        not in render("example").files["/etc/keepalived/keepalived.conf"]
    )


def test_keepalived_follows_the_monitor(render):
    found = render("example")
    tree = keepalived(found)
    # Both FIFOs are theirs who are named before.
    words = [header[0] for header, _ in block(tree, "global_defs")]
    assert words.index("script_user") < words.index("vrrp_notify_fifo")
    health = found.files["/usr/lib/gateway/health"]
    [fifo] = options(block(tree, "global_defs"))["notify_fifo"]
    [path] = options(block(tree, "track_file", "penalty"))["file"]
    assert fifo == path.replace("penalty", "health.fifo")
    assert f"run=$root{path.removesuffix('/penalty')} " in health
    # While it starts a process it says nothing, and a busy machine takes seconds for that.
    text = found.files["/etc/keepalived/keepalived.conf"]
    assert not re.search(r"(?m)^\s*(vrrp_script|track_script|notify(_(?!fifo)\w+)?)\b", text)


def test_no_openvpn_server_is_started_on_a_drained_node(render):
    """And its unit would not let anybody else do it."""
    found = render("example", stubs={"file.file_exists": lambda path: True})
    assert found.ids["openvpn server main"]["start"] is False
    assert render("example").ids["openvpn server main"]["start"] is True
    [unit] = [text for name, text in found.files.items() if "openvpn-server@" in name]
    assert "ConditionPathExists=!/var/lib/gateway/drained\n" in unit


def test_the_follower_reads_what_keepalived_writes(render):
    found = render("example")
    [fifo] = options(block(keepalived(found), "global_defs"))["vrrp_notify_fifo"]
    unit = found.files["/etc/systemd/system/gateway-follow.service"]
    follow = f"ExecStart=/usr/lib/gateway/follow {fifo} 10.77.0.1 /etc/gateway/routes 60 hooks"
    assert f"{follow}\n" in unit
    assert f"mkfifo -m 0600 {fifo}" in unit
    target = found.ids["virtual IP target"]["name"].rsplit("/", 1)[1]
    assert f"target={target}\n" in found.files["/usr/lib/gateway/follow"]
    assert f"WantedBy={target}\n" in found.files["/etc/systemd/system/gateway-dhcp.service"]


# --------------------------------------------------------------------------------------------------
# Routes and kernel


def test_units_follow_the_target(render):
    state = render("followers").ids["units that follow the virtual IP"]
    assert (state["fun"], state["name"]) == ("followers", "gateway-virtual-ip.target")
    assert state["units"] == ["my-app.service", "vm@one.service", "report.timer"]


def test_executables_learn_where_they_are(render):
    site = render("public virtual IP", node="gw2")
    unit = site.files["/etc/systemd/system/gateway-follow-hooks.service"]
    assert dict(pair.split("=") for pair in re.findall(r"GATEWAY_\w+=\S*", unit)) == {
        "GATEWAY_NODE": "gw2",
        "GATEWAY_DOMAIN": "example.internal",
        "GATEWAY_INTERFACE": "eth0",
        "GATEWAY_VIRTUAL_IP": "10.77.0.1",
        "GATEWAY_PUBLIC_INTERFACE": "eth1",
        "GATEWAY_PUBLIC_VIRTUAL_IP": "198.51.100.1",
    }
    folder = site.ids["folder for those who want to know the role"]["name"]
    tell = f"/usr/lib/gateway/follow-tell /run/gateway 10.77.0.1 hooks {folder}"
    assert f"ExecStart={tell}\n" in unit


def test_how_often_executables_are_called_again(render):
    site = render("example", changes={"failover:reassert": 0})
    assert (
        " /etc/gateway/routes 0 hooks\n" in site.files["/etc/systemd/system/gateway-follow.service"]
    )


EVENT = "/etc/systemd/system/gateway-follow-event.service"


def test_a_master_is_told(render):
    site = render("example", **MASTER)
    command = (
        "/usr/lib/gateway/follow-tell /run/gateway 10.77.0.1"
        " event gw1 gateway/example.internal/vrrp /usr/bin/salt-call --config-dir=/etc/salt"
    )
    assert f"ExecStart={command}\n" in site.files[EVENT]
    assert "Nice=19\n" in site.files[EVENT]
    assert " hooks event\n" in site.files["/etc/systemd/system/gateway-follow.service"]


@pytest.mark.parametrize(
    ("python", "salt_call"),
    [
        ("/opt/saltstack/salt/bin/python3.10", "/opt/saltstack/salt/salt-call"),
        ("/opt/venv/bin/python3", "/opt/venv/bin/salt-call"),
    ],
    ids=["onedir", "pip"],
)
def test_salt_call_is_found_beside_its_python(render, python, salt_call):
    stubs = {"cmd.which": {salt_call: salt_call}.get}
    grains = {"os_family": "Debian", "pythonexecutable": python}
    site = render("example", **MASTER | {"stubs": stubs, "grains": grains})
    assert f"{salt_call} --config-dir" in site.files[EVENT]


@pytest.mark.parametrize(
    "without",
    [
        {"file_client": "local"},
        {"__master_opts__": {}},
        {"stubs": {"cmd.which": lambda name: None}},
    ],
    ids=["masterless", "salt-ssh", "no salt-call"],
)
def test_where_there_is_no_master_nobody_is_told(render, without):
    site = render("example", **MASTER | without)
    assert site.ids["nobody tells a Salt master"]["name"] == EVENT
    assert " hooks\n" in site.files["/etc/systemd/system/gateway-follow.service"]


def test_network_managers_leave_both_sides_alone(render):
    site = render("example", node="gw2", changes={"nodes:gw2:public_interface": "wan0"})
    assert site.ids["systemd-networkd keeps what is ours"]["interfaces"] == ["eth0", "wan0"]


def test_conntrackd(render):
    """The nodes send to each other; what is the nodes' own stays where it is."""
    ends = {}
    for node in ("gw1", "gw2"):
        found = render("link of their own", node=node)
        text = re.sub(r"(?m)^\s*#.*\n", "", found.files["/etc/conntrackd/conntrackd.conf"])
        words = dict(re.findall(r"(?m)^ {8}(\w+) (\S+)$", text))
        assert words["Port"] == "3780"
        assert words["DisableExternalCache"] == "yes"
        ends[node] = (words["Interface"], words["IPv4_address"], words["IPv4_Destination_Address"])
        [ignored] = re.findall(r"Address Ignore \{(.*?)\}", text, re.DOTALL)
        addresses = re.findall(r"IPv4_address (\S+)", ignored)
        assert addresses == [*found.plan["sync"]["ignored"], "172.17.0.1"]
        assert text.count("{") == text.count("}")
        watcher = found.files["/etc/systemd/system/gateway-sync.service"]
        assert "ExecStart=/usr/lib/gateway/sync 198.51.100.1\n" in watcher
    assert ends == {
        "gw1": ("eth3", "10.78.0.1", "10.78.0.2"),
        "gw2": ("eth4", "10.78.0.2", "10.78.0.1"),
    }


@pytest.mark.parametrize("site", ["example", "public virtual IP"])
def test_without_state_sync_nothing_of_it_is_there(render, site):
    """conntrackd itself is stopped only if it was ours."""
    found = render(site)
    assert "/etc/conntrackd/conntrackd.conf" not in found.files
    assert found.ids["no state sync"]["ours"].endswith("/conntrackd.service.d/gateway.conf")
    assert "kernel modules" not in found.ids


@pytest.mark.parametrize(
    ("name", "peers", "announced"),
    [
        ("minimal", [], ["192.168.7.254"]),
        ("example", ["10.77.0.3", "198.51.100.3"], ["10.77.0.1"]),
        (
            "further addresses",
            ["10.77.0.3", "198.51.100.3"],
            ["10.77.0.1", "198.51.100.1", "198.51.100.11", "198.51.100.12"],
        ),
        (
            "three nodes",
            ["10.77.0.3", "10.77.0.4", "198.51.100.3", "198.51.100.4"],
            ["10.77.0.1"],
        ),
    ],
)
def test_what_the_monitor_reads(render, name, peers, announced):
    found = render(name)
    text = found.files["/etc/gateway/health.conf"]
    show = f'{text}\necho "${{peers[*]}}|${{announced[*]}}|$cold $uplink $fault $drained"'
    answer = subprocess.run(["bash", "-euc", show], capture_output=True, text=True, check=True)
    found_peers, own, lost = answer.stdout.split("|")
    assert found_peers.split() == peers
    assert own.split()[1::2] == announced
    penalties = found.plan["health"]["penalties"]
    assert lost.split() == [str(penalties[state]) for state in _gateway_nodes.PENALTIES]
    # Where the monitor has not run yet, the node is cold.
    keepalived = found.files["/etc/keepalived/keepalived.conf"]
    assert f"    init_file -{penalties['cold']}\n" in keepalived


def test_routes(render):
    found = render("VPN servers", node="gw2")
    lines = found.files["/etc/gateway/routes"].splitlines()[1:]
    assert lines == [
        "route replace 10.8.0.0/24 via 10.77.0.2 proto 119",
        "route replace 10.9.0.0/24 via 10.77.0.2 proto 119",
        "route replace 10.10.0.0/28 via 10.77.0.2 proto 119",
    ]
    live = found.ids["routes to the peers' VPN subnets"]["routes"]
    assert [f"route replace {r['destination']} via {r['via']} proto 119" for r in live] == lines


def test_routes_have_one_protocol_number(load, render):
    number = load("_states/gateway_network.py").ROUTE_PROTOCOL
    assert f"proto {number}\n" in render("example").files["/etc/gateway/routes"]


def test_kernel(render):
    found = render("example")
    state = found.ids["kernel settings"]
    assert state["settings"] == found.plan["kernel"]
    assert state["forwarding"] == found.plan["forwarding"]


# What lets packets in, sends them on, or takes the virtual IP.
BEHIND_THE_FIREWALL = ("kernel", "ntp", "openvpn", "dnsmasq", "keepalived", "conntrackd")


@pytest.mark.parametrize("sls", ["gateway", *(f"gateway.{name}" for name in BEHIND_THE_FIREWALL)])
def test_the_firewall_comes_first_and_its_failure_is_the_end(render, sls):
    """Each alone, too: nothing is opened on a node without rules."""
    low = [chunk for chunk in render("link of their own", sls).low if chunk["fun"] != "nop"]
    firewall = [chunk for chunk in low if chunk["__sls__"] == "gateway.firewall"]
    assert low[: len(firewall)] == firewall
    assert all(chunk["failhard"] is True for chunk in firewall)
    assert [chunk["__id__"] for chunk in firewall][-3:-1] != []
    names = [chunk["name"] for chunk in firewall]
    assert names.index("gateway-firewall-guard") == len(names) - 1


def test_a_setting_of_somebody_elses_does_not_switch_forwarding_off_at_boot(root):
    """The loader switches it on, and a file in sysctl.d may say the opposite."""
    unit = (root / "gateway/firewall/files/gateway-firewall.service.jinja").read_text()
    after = re.findall(r"(?m)^After=(.*)", unit)
    assert "systemd-sysctl.service" in " ".join(after).split()


def test_the_firewall_goes_last(render):
    """Forwarding before the rules, and the guard before both: it would put them back."""
    ids = list(render("example", "gateway.clean").ids)
    order = ["kernel settings are as they were", "no firewall guard", "no firewall rules of ours"]
    assert sorted(order, key=ids.index) == order


def test_the_gate_asks_for_the_mark_that_the_rules_set(root):
    loader = (root / "gateway/firewall/files/firewall").read_text()
    assert f"\nmark={_gateway_rules.MARK} " in loader


# --------------------------------------------------------------------------------------------------
# OpenVPN


def openvpn(node, server="main"):
    """Options as lists of words, and the inline files by their tags."""
    found: list[list[str]] = []
    inline: dict[str, list[str]] = {}
    tag = None
    for line in node.files[f"/etc/openvpn/server/gateway-{server}.conf"].splitlines():
        opened = re.fullmatch(r"<([a-z-]+)>", line)
        if tag and line == f"</{tag}>":
            tag = None
        elif tag:
            inline[tag].append(line)
        elif opened:
            tag = opened[1]
            inline[tag] = []
        elif not line.startswith("#"):
            found.append(shlex.split(line))
    assert tag is None
    assert all(found)
    return found, {key: "\n".join(lines) + "\n" for key, lines in inline.items()}


def test_openvpn(render):
    found, inline = openvpn(render("example", node="gw2"))
    assert inline == {}
    for line in [
        "port 1194",
        "proto udp",
        "dev vpn-main",
        "dev-type tun",
        "topology subnet",
        "server 10.8.1.0 255.255.255.0 nopool",
        "ifconfig-pool 10.8.1.128 10.8.1.254",
        "client-config-dir /etc/gateway/openvpn/main",
        "management /run/gateway-main/control/management unix",
        "explicit-exit-notify 2",
        "ca /etc/openvpn/pki/ca.crt",
        "cert /etc/openvpn/pki/server.crt",
        "key /etc/openvpn/pki/server.key",
        "tls-crypt /etc/openvpn/pki/tls-crypt.key",
    ]:
        assert line.split() in found
    pushes = [words[1] for words in found if words[0] == "push"]
    assert pushes == [
        "route 10.77.0.0 255.255.255.0",
        "route 10.8.0.0 255.255.0.0",
        "dhcp-option DNS 10.77.0.1",
        "dhcp-option DOMAIN example.internal",
    ]
    names = [words[0] for words in found if words[0] != "push"]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["on", "0x1f"])
def test_openvpn_server_whose_name_looks_like_something_else(render, name):
    server = {"network": "10.9.0.0/16", "port": 443}
    found, _ = openvpn(render("example", changes={f"vpn:servers:{name}": server}), name)
    assert ["port", "443"] in found


def test_openvpn_full_tunnel(render):
    found, _ = openvpn(render("further addresses"))
    pushes = [words[1] for words in found if words[0] == "push"]
    assert pushes.count("redirect-gateway def1 ipv6") == pushes.count("block-ipv6") == 1
    # Those that do not know what they are pushed are answered here.
    assert ["block-ipv6"] in found
    found, _ = openvpn(render("example"))
    assert ["block-ipv6"] not in found


def test_openvpn_over_tcp(render):
    found, _ = openvpn(render("VPN servers"), "second")
    assert ["proto", "tcp-server"] in found
    # What only UDP has: OpenVPN refuses it here.
    assert not {"explicit-exit-notify", "multihome"} & {words[0] for words in found}


def test_openvpn_with_text_from_the_pillar(render):
    found, inline = openvpn(render("PEM"))
    assert list(inline) == ["ca", "cert", "key", "tls-crypt"]
    assert inline["key"] == pem("PRIVATE KEY", SECRET)
    assert inline["tls-crypt"] == pem("OpenVPN Static key V1", TLS_SECRET)
    assert inline["cert"] == pem("CERTIFICATE", "Y2VydGlmaWNhdGU=")
    assert inline["ca"] == pem("CERTIFICATE", "Y2E=")
    assert not {"ca", "cert", "key", "tls-crypt"} & {words[0] for words in found}


def test_openvpn_with_text_and_paths(render):
    found, inline = openvpn(render("PEM", node="gw2"))
    assert list(inline) == ["ca", "tls-crypt"]
    assert ["cert", "/etc/gw2.crt"] in found
    assert ["key", "/etc/gw2.key"] in found


def test_openvpn_instances_that_stay(render):
    state = "no other openvpn servers of ours"
    assert render("example").ids[state]["instances"] == ["gateway-main"]
    assert render("minimal").ids[state]["instances"] == []
    assert list(render("minimal", "gateway.openvpn").ids)[-2] == state


def clients(node, server="main"):
    """The files of a server's clients, as the state writes them."""
    return node.clients[f"/etc/gateway/openvpn/{server}"]


def test_openvpn_clients(render):
    found = clients(render("VPN clients", node="gw2"))
    assert {name: text.splitlines()[1:] for name, text in found.items()} == {
        "alice": [
            "ifconfig-push 10.8.1.5 255.255.255.0",
            'push "route 10.50.0.0 255.255.255.0"',
            'push "route 192.0.2.0 255.255.255.0"',
        ],
        "branch": [
            "ifconfig-push 10.8.1.9 255.255.255.0",
            "iroute 10.50.0.0 255.255.255.0",
        ],
        "gone": ["disable", 'push "route 10.50.0.0 255.255.255.0"'],
        "DEFAULT": ['push "route 10.50.0.0 255.255.255.0"'],
    }
    assert clients(render("example")) == {}
    odd = {"vpn:clients": {'ou/Pat "{x}" Doe': {"disabled": True}}}
    assert clients(render("example", changes=odd)) == {
        'ou_Pat "{x}" Doe': "# Managed by Salt (gateway).\ndisable\n"
    }


def test_networks_behind_clients_are_known_before_the_clients_files_are_new(render):
    """An older version's script has them from these files, and would take the routes away."""
    found = render("VPN clients")
    assert lines(found, "/etc/gateway/vpn-networks") == [
        "10.50.0.0/25 branch",
        "10.50.0.128/25 branch",
    ]
    assert "openvpn networks behind clients" in needed(found, "openvpn routes service")
    states = list(found.ids)
    assert states.index("openvpn routes service") < states.index("openvpn clients of main")
    assert "/etc/gateway/vpn-networks" not in render("example").files
    absent = {chunk["name"] for chunk in render("example").low if chunk["fun"] == "absent"}
    assert "/etc/gateway/vpn-networks" in absent


def test_openvpn_knows_nothing_of_its_clients(render):
    """What it is started with is the same with and without them."""
    path = "/etc/openvpn/server/gateway-main.conf"
    some = render("example", changes={"vpn:clients": {"alice": {"id": 5, "pushes": ["x"]}}})
    assert render("example").files[path] == some.files[path]


def test_openvpn_with_passwords(render):
    found, inline = openvpn(render("VPN clients"))
    assert ["auth-user-pass-verify", "/usr/local/bin/check", "via-file"] in found
    assert ["auth-gen-token", "3600"] in found
    assert ["crl-verify", "/etc/gateway/openvpn/crl.pem"] in found
    assert ["ccd-exclusive"] in found
    assert inline["auth-gen-token-secret"] == pem("OpenVPN auth-token server key", SECRET)
    changes = {"vpn:servers:main:auth": {"pam": "vpn"}, "vpn:pki:auth_token": "/etc/token"}
    found, _ = openvpn(render("example", changes=changes))
    pam = ["plugin", "openvpn-plugin-auth-pam.so", "vpn login USERNAME password PASSWORD"]
    assert pam in found
    assert ["auth-gen-token-secret", "/etc/token"] in found
    session = "/usr/lib/gateway/vpn-session /run/gateway-main/sessions"
    assert ["client-connect", session] in found
    changes |= {"vpn:servers:main:auth": {"pam": "vpn", "same_name": True}}
    found, _ = openvpn(render("example", changes=changes))
    assert ["client-connect", f"{session} same-name"] in found
    assert ["client-disconnect", session] in found


def test_openvpn_revocation_list_on_the_node(render):
    found = render("example", changes={"vpn:pki:crl": "/srv/crl.pem"})
    assert ["crl-verify", "/etc/gateway/openvpn/crl.pem"] in openvpn(found)[0]
    state = found.ids["openvpn revocation list"]
    assert (state["path"], state["ca"]) == ("/srv/crl.pem", "/etc/openvpn/pki/ca.crt")
    assert found.ids["openvpn sessions of main"]["crl"] == {"path": "/srv/crl.pem"}


# --------------------------------------------------------------------------------------------------
# dnsmasq, NTP, settings


def lines(node, path):
    return [line for line in node.files[path].splitlines() if not line.startswith("#")]


def test_dns(render):
    found = lines(render("example", node="gw2"), "/etc/gateway/dns.conf")
    for line in [
        "bind-dynamic",
        "listen-address=10.77.0.3",
        "listen-address=10.77.0.1",
        "domain=example.internal",
        "local=/example.internal/",
        "addn-hosts=/etc/gateway/hosts",
        "no-resolv",
        "server=198.51.100.100",
        "dns-loop-detect",
    ]:
        assert line in found
    assert lines(render("example"), "/etc/gateway/hosts") == [
        "10.77.0.2 gw1.example.internal gw1",
        "10.77.0.3 gw2.example.internal gw2",
        "10.77.0.10 backend01.example.internal www.example.internal backend01 www",
    ]


def test_names_that_are_ours_alone(render):
    """What is below them is asked of others, unless it is a wildcard's."""
    found = render("names")
    assert lines(found, "/etc/gateway/own-names") == [
        "server=/www.example.org/",
        "server=/example.net/",
        "server=/*.www.example.org/#",
    ]
    conf = lines(found, "/etc/gateway/dns.conf")
    assert "servers-file=/etc/gateway/own-names" in conf
    assert [line for line in conf if line.startswith(("address", "local"))] == [
        "local=/example.internal/",
        "address=/*.apps.example.internal/10.77.0.10",
        "local=/*.apps.example.internal/",
        "address=/*.example.net/10.77.0.10",
        "local=/*.example.net/",
    ]
    assert lines(found, "/etc/gateway/hosts")[2:] == [
        "10.77.0.1 gateway.example.internal gateway",
        "10.77.0.10 backend01.example.internal www.example.org example.net backend01",
    ]
    assert lines(render("example"), "/etc/gateway/own-names") == []


def test_a_domain_that_exists_outside_is_asked_there(render):
    found = render("public domain")
    assert "local=/example.internal/" not in lines(found, "/etc/gateway/dns.conf")
    names = [f"{name}.example.internal" for name in ("gw1", "gw2", "backend01", "www")]
    assert lines(found, "/etc/gateway/own-names") == [
        *(f"server=/{name}/" for name in names),
        *(f"server=/*.{name}/#" for name in names),
    ]


def test_settings_of_dnsmasq_that_replace_the_formula_s(render):
    """dnsmasq takes each of these once."""
    for path, keyword, usual in [
        ("/etc/gateway/dns.conf", "cache-size", "10000"),
        ("/etc/gateway/dhcp.conf", "dhcp-lease-max", "100000"),
    ]:
        for name, value in (("example", usual), ("names", "7")):
            found = lines(render(name), path)
            assert [line for line in found if keyword in line] == [f"{keyword}={value}"]


def test_quotes_reach_dnsmasq(render):
    found = render("names")
    assert 'txt-record=a.example,"v=spf1 -all"' in lines(found, "/etc/gateway/dns.conf")
    assert 'pxe-service=0,"Boot"' in lines(found, "/etc/gateway/dhcp.conf")


def test_a_reservation_for_several_cards(render):
    assert lines(render("names"), "/etc/gateway/dhcp-hosts") == [
        "02:00:00:00:00:10,02:00:00:00:00:11,10.77.0.10,backend01.example.internal"
    ]


def test_dns_without_forwarders_asks_whom_the_node_asks(render):
    found = lines(render("minimal"), "/etc/gateway/dns.conf")
    assert not [line for line in found if line.startswith(("server=", "no-resolv"))]
    assert "dns-loop-detect" in found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("example", "10.77.0.100,10.77.0.199,255.255.255.0,12h"),
        ("reservations only", "10.77.0.0,static,255.255.255.0,12h"),
    ],
)
def test_dhcp(render, name, expected):
    found = lines(render(name, node="gw2"), "/etc/gateway/dhcp.conf")
    assert [line for line in found if line.startswith("dhcp-range=")] == [f"dhcp-range={expected}"]
    for line in [
        "port=0",
        "interface=eth0",
        "dhcp-hostsfile=/etc/gateway/dhcp-hosts",
        "dhcp-option=option:router,10.77.0.1",
        "dhcp-option=option:dns-server,10.77.0.1",
        "dhcp-option=option:ntp-server,10.77.0.2,10.77.0.3",
        "dhcp-option=option:domain-search,example.internal",
    ]:
        assert line in found
    assert lines(render(name), "/etc/gateway/dhcp-hosts") == [
        "02:00:00:00:00:10,10.77.0.10,backend01.example.internal"
    ]


@pytest.mark.parametrize("name", ["no DHCP", "minimal"])
def test_no_dhcp(render, name):
    found = render(name)
    assert not [path for path in found.files if "dhcp" in path]
    assert "gateway-dhcp" in [chunk["name"] for chunk in found.low if is_service(chunk, "off")]
    gone = {chunk["name"] for chunk in found.low if chunk["fun"] == "absent"}
    written = {path for path in render("example").files if "dhcp" in path}
    assert written < gone


CHRONY = "/etc/chrony/chrony.conf"
NTPSEC = "/etc/ntpsec/ntp.conf"


def test_chrony(render):
    found = lines(render("example", node="gw2"), CHRONY)
    assert found[:4] == [
        "server 198.51.100.100 iburst",
        "peer 10.77.0.2",
        "allow 10.77.0.0/24",
        "allow 10.8.0.0/16",
    ]
    assert "local stratum 10 orphan" in found  # time goes on without an uplink
    assert lines(render("minimal"), CHRONY)[:2] == [
        "allow 192.168.7.0/24",
        "local stratum 10 orphan",
    ]


def test_ntpsec(render):
    found = render("ntpsec", node="gw2")
    assert CHRONY not in found.files
    assert found.ids["chrony configuration is as it was"]["name"] == CHRONY
    text = lines(found, NTPSEC)
    assert text[:3] == [
        "pool ntp.test iburst",
        "server 192.0.2.9 iburst",
        "server 10.77.0.2 iburst",
    ]
    assert any(line.startswith("tos orphan 10") for line in text)
    # They would refuse the answers of the node's own servers as well.
    default = next(line.split() for line in text if line.startswith("restrict default"))
    assert {"nomodify", "noquery"} <= set(default)
    assert not {"noserve", "ignore"} & set(default)


@pytest.mark.parametrize(
    ("path", "between"),
    [
        ("/etc/gateway/dns.conf", "="),
        ("/etc/gateway/dhcp.conf", "="),
        (CHRONY, " "),
        ("/etc/openvpn/server/gateway-main.conf", " "),
        ("/etc/keepalived/keepalived.conf", " "),
    ],
)
def test_settings(render, path, between):
    expected = ["alone", "listed 1", "listed two words", "number 1.5", "text a,b=c"]
    expected = [line.replace(" ", between, 1) for line in expected]
    found = [line.strip() for line in lines(render("settings"), path)]
    start = found.index("alone")
    assert found[start : start + 5] == expected
    assert not set(expected) & {line.strip() for line in lines(render("example"), path)}


def test_settings_of_keepalived_are_global(render):
    tree = keepalived(render("settings"))
    assert options(block(tree, "global_defs"))["number"] == ["1.5"]
    assert options(block(tree, "vrrp_instance", "internal"))["virtual_router_id"] == ["7"]


def test_settings_of_openvpn_that_are_pushed(render):
    changes = {"vpn:servers:main:settings": {"push": ["route 192.0.2.0 255.255.255.0", "ping 3"]}}
    found, _ = openvpn(render("example", changes=changes))
    assert [words[1:] for words in found if words[0] == "push"][-2:] == [
        ["route 192.0.2.0 255.255.255.0"],
        ["ping 3"],
    ]


def test_settings_of_ntpsec(render):
    changes = {"ntp": {"provider": "ntpsec", "settings": SETTINGS}}
    found = lines(render("example", changes=changes), NTPSEC)
    assert found[-5:] == ["alone", "listed 1", "listed two words", "number 1.5", "text a,b=c"]


# --------------------------------------------------------------------------------------------------
# Units


@pytest.fixture(scope="module")
def exposure(tmp_path_factory):
    """What systemd thinks of a service's file: from 0 (locked in) to 10 (may do everything)."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("this machine has no systemd-analyze")
    folder = tmp_path_factory.mktemp("units")

    def judge(name, text):
        (folder / name).write_text(text)
        command = ["systemd-analyze", "security", "--offline=true", f"./{name}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        [level] = re.findall(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
        # A directive that it does not know does nothing.
        assert re.sub(r"(?m)^.*Command .* is not executable: .*\n", "", done.stderr) == ""
        return float(level)

    return judge


def test_services_may_do_only_what_they_need(site, render, exposure):
    """Drop-ins too, as if the distribution's own unit closed nothing."""
    files = site.files | render("example", **MASTER).files
    services = {
        PurePath(name).parent.name.removesuffix(".d") if name.endswith(".conf") else name: text
        for name, text in files.items()
        if re.fullmatch(r"/etc/systemd/system/[^/]+\.service(\.d/gateway\.conf)?", name)
    }
    services = {PurePath(name).name: text for name, text in services.items()}
    assert len(services) >= 10
    for name, text in services.items():
        command = "" if "ExecStart=" in text else "ExecStart=/bin/true\n"
        whole = text.replace("[Service]\n", f"[Service]\n{command}")
        assert exposure(name, whole) <= 5, name


# --------------------------------------------------------------------------------------------------
# Whole configurations, for a reader: `make golden` writes them anew, and the diff is to be read


@pytest.mark.parametrize("name", ["example", "rich"])
def test_whole_configurations(render, root, request, name):
    """What gw1 gets, file by file, and its firewall."""
    found = render(name)
    made = {
        chunk["name"].lstrip("/"): found.files[chunk["name"]]
        for chunk in found.low
        if chunk["fun"] == "checked_file" or chunk.get("template") == "jinja"
        if not chunk["name"].startswith(("/var/lib/gateway/", "/etc/systemd/"))
        if chunk["name"] in found.files
    }
    made |= {
        f"{folder[1:]}/{name}": text
        for folder, files in found.clients.items()
        for name, text in files.items()
    }
    made |= {
        f"firewall/{part}": text
        for part, text in _gateway_rules.ruleset(found.plan).items()
        if text
    }
    folder = root / "test/unit/golden" / name
    if request.config.getoption("golden"):
        shutil.rmtree(folder, ignore_errors=True)
        for path, text in made.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    kept = {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert made == kept
