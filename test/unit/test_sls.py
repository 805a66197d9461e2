"""The SLS files and templates of every site."""

import fnmatch
import importlib
import inspect
import json
import logging
import re
import shutil
import subprocess
from pathlib import PurePath
from typing import Any

import jinja2
import jinja2.meta
import pytest
import yaml
from rendered import (
    CHRONY_CONF,
    ORDER,
    ROOT,
    SITES,
    SLSES,
    WITH_MASTER,
    WRONG_SITE,
    is_service,
    lines,
)

# --------------------------------------------------------------------------------------------------
# Every site


@pytest.fixture(params=SITES)
def each_site(request, render):
    """Each of the sites, on its first node."""
    return render(request.param)


def test_files_are_tidy(each_site):
    assert each_site.files
    for name, text in each_site.files.items():
        if name in ("/var/lib/gateway/applied", "/etc/gateway/leases.key"):
            continue
        assert text.endswith("\n"), name
        assert not text.endswith("\n\n"), name
        assert not text.startswith("\n"), name
        assert not re.search(r"[ \t]$|\t", text, re.MULTILINE), name
        if name.endswith(".json"):
            assert json.loads(text)["managed"] == "by Salt (gateway)"
            continue
        if name.endswith(".py") or text.startswith("#!/usr/bin/python3"):
            # No template, but code: ruff reads it.
            assert text == (ROOT / "gateway/leases/files" / PurePath(name).name).read_text()
            assert "# Managed by Salt (gateway)" in text.splitlines()[int(text.startswith("#!"))]
            continue
        assert "\n\n\n" not in text, name
        words = set(re.findall(r"\w+", re.sub(r"(?m)^\s*#.*", "", text)))
        assert not words & {"None", "Undefined", "True", "False"}, name
        assert not re.search(r"\{\{|\{%|\[\]|[{\[]'", text), name
        assert "Managed by Salt (gateway)" in text.splitlines()[0 if text[0:2] != "#!" else 1]


def test_states_are_sound(each_site, load, root):
    """Salt has compiled them; this is what it would only find out while they run."""
    ids = [chunk["__id__"] for chunk in each_site.low]
    names = [(chunk["state"], chunk["fun"], chunk["name"]) for chunk in each_site.low]
    assert len(set(names)) == len(names)
    ours = {path.stem: load(f"_states/{path.name}") for path in root.glob("_states/gateway*.py")}
    for chunk in each_site.low:
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
    for chunk in each_site.low:
        for requisite in ("require", "watch", "onchanges"):
            for entry in chunk.get(requisite, []):
                [(state, target)] = entry.items()
                assert state == "sls" or any(
                    other["state"] == state and target in (other["__id__"], other["name"])
                    for other in each_site.low
                ), (chunk["__id__"], entry)


def test_every_file_of_ours_has_an_owner_and_a_mode(each_site):
    """gateway.file gives it root and 0644, and opens the folders on its way; whatever else writes a
    file or makes a folder would leave that to the umask of the run."""
    for chunk in each_site.low:
        if chunk["state"] == "file":
            assert chunk["fun"] == "absent", chunk["__id__"]
        if chunk["fun"] in ("file", "checked_file"):
            mode = chunk.get("mode", "0644")
            secret = chunk["name"].startswith(("/etc/openvpn/", "/etc/gateway/leases.key"))
            program = chunk["name"].startswith("/usr/lib/gateway/")
            secret = secret or chunk["name"] == "/var/lib/gateway/applied"  # it says much of a site
            assert mode == ("0600" if secret else "0755" if program else "0644"), chunk["name"]


def test_units_have_in_force_what_is_written(each_site):
    """Each file that a unit starts with or reads is one that it is restarted or reloaded for, and
    comes before it."""
    states = {chunk["name"]: chunk["__id__"] for chunk in each_site.low if "file" in chunk["fun"]}
    services = [chunk for chunk in each_site.low if is_service(chunk)]
    read = set()
    for chunk in services:
        units = {f"/etc/systemd/system/{unit}" for unit in chunk.get("units", [])}
        files = {*chunk.get("reads", []), *chunk.get("rereads", [])}
        needed = {name for entry in chunk["require"] for name in entry.values()}
        assert {states[path] for path in files} <= needed, chunk["__id__"]
        read |= files | units
    assert not [
        chunk
        for chunk in each_site.low
        if chunk["state"] in ("service", "cmd")
        and chunk["fun"] in ("running", "run")
        and chunk["name"] != "modprobe nf_conntrack"
    ]
    # Read when they are called, when a client connects, at boot, or whenever they are others.
    alone = {
        "vpn-networks",
        *("ask-leases", "lease-event"),
        *("announce", "firewall", "follow-tell", "vpn-session", "routes", "applied"),
        *("isolated", "check-conntrackd", "check-ntpsec", "check-openvpn"),
    }
    others = {path for path in each_site.files if path not in read}
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
        "aggregate",
    ),
}


def test_services_come_after_their_files(each_site):
    order = [chunk["__id__"] for chunk in each_site.low]
    for chunk in each_site.low:
        for requisite in ("require", "watch", "onchanges"):
            for entry in chunk.get(requisite, []):
                [(state, target)] = entry.items()
                if state != "sls":
                    assert order.index(target) < order.index(chunk["__id__"])


def test_the_plan_is_written_last(each_site):
    """After what older versions left is gone, for which all the rest has to be in force."""
    before = each_site.low[-2]
    assert before["name"] == "/usr/lib/gateway"
    parts = {chunk["__sls__"] for chunk in each_site.low[:-2]} - {"gateway.valid"}
    required = {entry["sls"] for entry in before["require"]}
    assert all(any(fnmatch.fnmatch(part, each) for each in required) for part in parts)
    # With Salt 3006 over salt-ssh an SLS that has no states of its own cannot be required.
    assert all(fnmatch.filter(parts, each) for each in required)
    last = each_site.low[-1]
    assert last["name"] == "/var/lib/gateway/applied"
    assert last["require"] == [{"gateway": "nothing of older versions"}]
    assert json.loads(each_site.files[last["name"]]) == each_site.plan
    assert last["mode"] == "0600"
    assert last["show_changes"] is False


@pytest.mark.parametrize("node", ["gw1", "gw2"])
@pytest.mark.parametrize("name", [name for name in SITES if name != "minimal"])
def test_the_second_node_has_the_same_states(render, name, node):
    found = render(name, node=node)
    assert list(found.ids) == list(render(name).ids)


def test_templates_are_all_used(render, root):
    """A template that no site renders is not shown to work by any test here."""
    used = {source.removeprefix("salt://") for name in SITES for source in render(name).sources}
    used |= {source.removeprefix("salt://") for source in render("example", **WITH_MASTER).sources}
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
        # The plan has a digest of the key of leases.
        assert set(found) <= {"salt['gateway.plan']", "salt['gateway.lease_key']"}, path


# --------------------------------------------------------------------------------------------------
# SLS


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


def test_packages_and_units_of_a_distribution_are_in_os_yaml_alone(each_site):
    """What Python calls a unit that is not the formula's own (status, drain) is one of them."""
    services = set(values_of(OS, "service"))
    packages = set(values_of(OS, "package", "packages", "set_packages"))
    installed = [chunk for chunk in each_site.low if chunk["state"] == "pkg"]
    assert installed
    for chunk in installed:
        assert set(chunk.get("pkgs") or [chunk["name"]]) <= packages
    started = {chunk["name"] for chunk in each_site.low if is_service(chunk)}
    for name in started | {unit["unit"] for unit in each_site.plan["units"]}:
        own = f"/etc/systemd/system/{name}.service" in each_site.files
        assert own or re.sub("@.*", "@", name) in services, name


def test_health_looks_at_no_unit_that_runs_elsewhere_or_now_and_then(render, errors):
    """Whatever the formula starts only where the virtual IP is, or is started by another unit."""
    always = {chunk["name"] for chunk in render("example", **WITH_MASTER).low if is_service(chunk)}
    always = {f"{name}.service" for name in always - {"gateway-dhcp"}}
    units = {
        PurePath(path).name
        for path in render("example", **WITH_MASTER).files
        if "/systemd/" in path
    }
    for unit in sorted(units - always - {"gateway.conf"}):
        assert len(errors({"health:services": [unit]})) == 1, unit


def test_what_runs_is_what_status_looks_at(each_site):
    """What loads something at boot has nothing to do later; one looks at what it has loaded."""
    at_boot = {"gateway-firewall", "gateway-routes"}
    started = {chunk["name"] for chunk in each_site.low if is_service(chunk)}
    assert started - at_boot == {unit["unit"] for unit in each_site.plan["units"]}


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
        len(json.dumps([chunk | {"ruleset": ""} for chunk in each_site.low]))
        for each_site in (few, many)
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02)
    assert few.files["/etc/gateway/hosts"].count("\n") < 10
    assert many.files["/etc/gateway/hosts"].count("\n") > 90


@pytest.mark.parametrize("sls", [*SLSES, "gateway.valid"])
def test_a_wrong_pillar_is_one_failing_state(render, errors, sls):
    found = errors(WRONG_SITE)
    [chunk] = render("example", sls, changes=WRONG_SITE).low
    assert (chunk["__id__"], chunk["state"]) == ("gateway pillar", "gateway")
    assert chunk["fun"] == "refused"
    assert chunk["errors"] == found


@pytest.mark.parametrize("sls", [*SLSES, "gateway.valid"])
def test_another_family_of_systems_is_one_failing_state(render, sls):
    [chunk] = render("example", sls, grains={"os_family": "Solaris"}).low
    assert chunk["__id__"] == "gateway pillar"
    assert "Solaris" in chunk["errors"][0]
    assert "Debian" in chunk["errors"][0]


OURS = {
    f"_{form}/{name}.py" for form in ("modules", "states") for name in ("gateway", "_gateway_b")
}


def served(folder, copies):
    """What a file server of Salt's answers that has our modules and somebody's, while a node has
    these of ours in a folder, as ``{file: hash}``."""

    def list_master(saltenv, prefix):
        assert saltenv == "base"
        files = {*OURS, "_modules/somebody_s.py", "gateway/init.sls"}
        return [path for path in files if path.startswith(prefix)]

    def hash_file(source, saltenv):
        assert (source.removeprefix("salt://") in OURS, saltenv) == (True, "base")
        return {"hash_type": "sha256", "hsum": "new"}

    def get_hash(path, kind):
        assert kind == "sha256"
        return there[path]

    there = {f"{folder}/{path[1:]}": found for path, found in copies.items()}
    return {
        "cp.list_master": list_master,
        "cp.hash_file": hash_file,
        "file.file_exists": there.__contains__,
        "file.get_hash": get_hash,
    }


def test_with_state_aggregate_no_package_comes_before_the_firewall(each_site):
    """What aggregates first takes all later packages along, and Debian starts what it installs."""
    [firewall, *others] = [chunk for chunk in each_site.low if chunk["state"] == "pkg"]
    assert (firewall["__id__"], firewall["aggregate"]) == ("firewall packages", False)
    assert not any("aggregate" in chunk for chunk in others)
    # Who aggregates forgets a package that is its name (mod_aggregate of Salt's pkg state).
    assert all("pkgs" in chunk for chunk in others)


def test_new_modules_are_loaded_before_anything_else(render, tmp_path):
    stubs = served(tmp_path, {})
    for sls in ("gateway", "gateway.ntp.clean"):
        first = render("example", sls, stubs=stubs, extension_modules=str(tmp_path)).low[0]
        assert (first["state"], first["fun"]) == ("test", "nop")
        assert first["force_reload_modules"] is True


def test_modules_are_synced_before_one_of_ours_is_asked(root):
    """Salt does not load it again in that run: an older one would answer, or none be found."""
    text = re.sub(r"(?s){#.*?#}", "", (root / "gateway/map.jinja").read_text())
    assert 0 < text.index("cp.get_file") < text.index("gateway.")


@pytest.mark.parametrize("stale", ["_modules/_gateway_b.py", "_states/gateway.py", "missing", None])
def test_only_what_is_not_current_is_synced(render, tmp_path, stale):
    """A file that is another on the file server, or not there yet; once for all SLS. What is not
    ours is left alone."""
    copies = dict.fromkeys(OURS, "new") | ({stale: "old"} if stale in OURS else {})
    if stale == "missing":
        stale = "_states/_gateway_b.py"
        del copies[stale]
    found = render("example", stubs=served(tmp_path, copies), extension_modules=str(tmp_path))
    assert found.synced == ([f"{tmp_path}/{stale[1:]}"] if stale else [])
    assert any(chunk["__sls__"] == "gateway.loaded" for chunk in found.low) is bool(stale)


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


def test_over_ssh_a_state_is_asked_and_nothing_synced(render, tmp_path):
    """What Jinja calls over salt-ssh runs on the node without the pillar; a state has it."""
    usual = render("example")
    stubs: dict[str, Any] = {**served(tmp_path, {}), "gateway.prepared": None}
    found = render("example", stubs=stubs, __master_opts__={}, extension_modules=str(tmp_path))
    assert found.synced == []
    assert found.files["/etc/gateway/dns.conf"] == usual.files["/etc/gateway/dns.conf"]
    state = {"changes": {}, "comment": "this node lacks it"}
    answer = {"local": {"return": {"module_|-x_|-x_|-run": state}}}
    stubs["state.single"] = lambda *_, **__: answer
    logging.disable()  # Salt keeps what it logs, and shows it after the last test
    try:
        with pytest.raises(AssertionError, match="this node lacks it"):
            render("example", stubs=stubs, __master_opts__={})
    finally:
        logging.disable(logging.NOTSET)


def test_with_a_master_modules_are_synced(render, tmp_path):
    stubs = served(tmp_path, {})
    found = render("example", "gateway", stubs=stubs, extension_modules=str(tmp_path))
    assert len(found.synced) == len(OURS)


@pytest.mark.parametrize("changes", [None, WRONG_SITE], ids=["good pillar", "wrong pillar"])
@pytest.mark.parametrize("sls", [*SLSES, *(f"{sls}.clean" for sls in SLSES)])
@pytest.mark.parametrize("modules_are_there", [True, False])
def test_without_the_formula_s_states_nothing_is_touched(render, sls, changes, modules_are_there):
    """With states of Salt's own, and in test mode too, where it shows a name and no comment. Nor
    where not even the modules are there."""
    answer = {"lacking": True, "errors": [], "plan": {}, "ruleset": {}, "resolver": ""}
    stubs = {"gateway.prepared": (lambda supported: answer) if modules_are_there else None}
    found = render("example", sls, changes=changes, stubs=stubs).low
    assert (found[0]["state"], found[0]["fun"]) == ("test", "fail_without_changes")
    for words in (found[0]["name"], found[0]["comment"]):
        assert words.startswith("Nothing was changed: the formula's own states are not here.")
        assert "in the file_roots of environment base." in words
    assert found[0]["failhard"] is True
    assert len(found) == 1 or sls.endswith(".clean")


# --------------------------------------------------------------------------------------------------
# dnsmasq, NTP, settings


@pytest.mark.parametrize(
    ("path", "between"),
    [
        ("/etc/gateway/dns.conf", "="),
        ("/etc/gateway/dhcp.conf", "="),
        (CHRONY_CONF, " "),
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


def test_services_may_do_only_what_they_need(each_site, render, exposure):
    """Drop-ins too, as if the distribution's own unit closed nothing."""
    files = each_site.files | render("example", **WITH_MASTER).files
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
