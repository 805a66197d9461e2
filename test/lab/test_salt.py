"""The formula as people have it in their Salt: where its files and its pillar come from, and who
calls it. Whatever the way, both gateways are applied, people behind them notice it, and a second
apply has nothing to do. Each begins with minions that know nothing of the formula.

More ways have tests elsewhere: masterless and minions of each series in test_services.py, salt-ssh
in test_salt_ssh.py, a first `test=True` in test_apply.py.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import checks
import pki
import pytest
import yaml
from conftest import (
    END_MINION,
    GATEWAYS,
    converge,
    have_formula,
    ok,
    snapshot,
    wait_for_primary,
)
from lab import Lab
from test_services import SERIES

Apply = Callable[[], dict[str, Any]]
# What each way brings, for people to see: a host more, with a name.
PRINTER = {"gateway": {"hosts": {"printer": {"ip": "10.77.0.20"}}}}
OTHERS = "/srv/others"  # formulas of somebody else, on the master
MOTD = """
/etc/lab-motd:
  file.managed:
    - contents: {{ salt['lab_motd.line']() }}
"""
COPY = "cp -r /srv/repo/gateway /srv/repo/_modules /srv/repo/_states"


@pytest.fixture
def printer(site: Lab) -> Iterator[Lab]:
    """The site, with a host in its pillar that nobody has applied yet, and new minions."""
    site.set_pillar(PRINTER)
    forget(site)
    yield site
    site.set_pillar({})
    ok(site.apply())
    converge(site)


def restart_minions(lab: Lab, before: str = "true") -> None:
    """Restart the minions of both gateways, with a command between their end and their start."""
    for name in GATEWAYS:
        lab.host(name).run(f"{END_MINION}; {before}; systemctl start salt-minion")
    lab.wait_minions()


def forget(lab: Lab) -> None:
    """Minions as on the first day: nothing is left of what a master has ever given to them."""
    restart_minions(lab, "rm -rf /var/cache/salt/minion")


def restart_master(lab: Lab) -> None:
    lab.host("master").run("systemctl restart salt-master", timeout=120)
    lab.wait_minions(90)


@contextmanager
def master_with(lab: Lab, **settings: Any) -> Iterator[None]:
    """The master has these settings in the place of the lab's. A further file of configuration
    would not do: Salt joins the lists of all."""
    master, path = lab.host("master"), "/etc/salt/master.d/lab.conf"
    usual = master.run(["cat", path]).stdout
    master.write(path, json.dumps({**yaml.safe_load(usual), **settings}, indent=1))
    restart_master(lab)
    try:
        yield
    finally:
        master.write(path, usual)
        restart_master(lab)


@contextmanager
def other_formulas(lab: Lab, top: dict[str, Any]) -> Iterator[None]:
    """The master has another formula with a module of its own, and a top file."""
    master = lab.host("master")
    master.write(f"{OTHERS}/motd/init.sls", MOTD)
    master.write(f"{OTHERS}/_modules/lab_motd.py", "def line():\n    return 'a gateway'\n")
    master.write(f"{OTHERS}/top.sls", json.dumps(top))
    try:
        yield
    finally:
        master.run(["rm", "-r", OTHERS])
        for name in GATEWAYS:
            lab.host(name).run("rm -f /etc/lab-motd")


@contextmanager
def repository(lab: Lab, name: str, fill: str) -> Iterator[str]:
    """A git repository on the master, with branch main and tag 1.0; its address."""
    master, folder = lab.host("master"), f"/srv/git/{name}"
    commit = "git -c user.name=lab -c user.email=lab@example.internal commit -qm lab"
    master.run(
        f"rm -rf {folder} && mkdir -p {folder} && cd {folder} && git init -q -b main . && {fill}"
        f" && git add -A && {commit} && git tag 1.0 && git clone -q --bare . {folder}.git"
    )
    try:
        yield f"file://{folder}.git"
    finally:
        master.run(["rm", "-r", "/srv/git"])


def both(value: Any) -> dict[str, Any]:
    """The same for each gateway."""
    return dict.fromkeys(GATEWAYS, value)


def serves(lab: Lab) -> None:
    """What people behind the pair notice: virtual IP, NAT, and the name that is new."""
    backend = lab.host("backend01")
    wait_for_primary(lab)
    page = checks.eventually(lambda: checks.http(backend, f"http://{checks.INTERNET}/"), bool, 30)
    assert page == "internet saw 198.51.100.2"
    for server in (checks.VIRTUAL_IP, *checks.INTERNAL.values()):
        found = checks.resolve(backend, "printer.example.internal", server)
        assert found == "10.77.0.20", server


def twice(lab: Lab, apply: Apply) -> None:
    """Both nodes are applied, which is noticed. Then there is nothing left to do."""
    first = ok(apply())
    for name in GATEWAYS:
        assert "dns names" in checks.changes(first[name])
    serves(lab)
    second = ok(apply())
    assert {name: checks.changes(second[name]) for name in GATEWAYS} == both({})


def printed(lab: Lab, command: str) -> dict[str, Any]:
    """What a command on the master prints as JSON: one object, or one for each minion."""
    done = lab.host("master").run(command, check=False, timeout=300)
    decoder, text = json.JSONDecoder(), done.stdout.strip()
    found: dict[str, Any] = {}
    assert text.startswith("{"), done.stdout + done.stderr
    while text:
        answer, end = decoder.raw_decode(text)
        found |= answer
        text = text[end:].strip()
    return found


# --------------------------------------------------------------------------------------------------
# Where the formula comes from


@pytest.mark.long
def test_gitfs_beside_another_formula_on_bare_servers(printer: Lab) -> None:
    """A tag of its repository, two folders of file_roots, a top file, packages in one go."""
    lab, top = printer, {"base": {"gw*": ["motd", "gateway"]}}
    with other_formulas(lab, top), repository(lab, "gateway", f"{COPY} .") as address:
        settings = {
            "fileserver_backend": ["roots", "gitfs"],
            "gitfs_remotes": [{address: [{"base": "1.0"}]}],
            "file_roots": {"base": ["/srv/nothing", OTHERS]},
            "state_aggregate": True,
        }
        with master_with(lab, **settings):
            lab.renew(*GATEWAYS)
            before = {name: snapshot(lab, name) for name in GATEWAYS}
            preview = ok(lab.salt("gw*", "state.highstate", "test=True", timeout=300))
            for name in GATEWAYS:
                assert snapshot(lab, name) == before[name]
                assert len(checks.changes(preview[name])) > 30
            twice(lab, lambda: lab.salt("gw*", "state.highstate", timeout=300))
            assert lab.host("gw2").run("cat /etc/lab-motd").stdout == "a gateway\n"
            assert lab.salt("gw*", "gateway.validate") == both([])


@pytest.mark.long
def test_an_environment_of_its_own(printer: Lab) -> None:
    """`saltenv=prod`, of which base knows nothing; other formulas stay where they are. Then a top
    file that names both environments, and base with another version of the formula."""
    lab, top = printer, {"base": {"gw*": ["motd"]}}
    master, gw1 = lab.host("master"), lab.host("gw1")
    roots = {"base": [OTHERS], "prod": ["/srv/formula"]}
    with other_formulas(lab, top), master_with(lab, file_roots=roots):
        lab.salt("gw*", "saltutil.sync_all")
        twice(lab, lambda: lab.apply(saltenv="prod"))
        assert lab.salt("gw*", "lab_motd.line") == both("a gateway")

        named = {**top, "prod": {"gw*": ["gateway"]}}
        master.write(f"{OTHERS}/top.sls", json.dumps(named))
        forget(lab)
        for changes in ({"/etc/lab-motd"}, set()):
            results = ok(lab.salt("gw*", "state.highstate", timeout=300))
            for name in GATEWAYS:
                assert checks.changes(results[name]).keys() == changes

        edit = (
            "sed -i 's/^HIGHEST_PRIORITY = 250/HIGHEST_PRIORITY = 240/' _modules/_gateway_nodes.py"
        )
        master.run(f"{COPY} {OTHERS} && cd {OTHERS} && {edit}")
        for environment, priority in (("base", "240"), ("prod", "250"), ("base", "240")):
            ok(lab.apply(saltenv=environment))
            assert f"priority {priority}" in gw1.run("cat /etc/keepalived/keepalived.conf").stdout
            assert checks.changes(ok(lab.apply(saltenv=environment))["gw1"]) == {}
        # Each of its SLS in prod, whatever there is in base.
        for _ in range(2):
            results = ok(lab.salt("gw*", "state.highstate", timeout=300))
            assert "priority 250" in gw1.run("cat /etc/keepalived/keepalived.conf").stdout
        assert checks.changes(results["gw1"]) == {}


@pytest.mark.long
def test_a_package_of_salt_s_package_manager(printer: Lab) -> None:
    """`spm` of each series builds it of the repository and installs the whole formula."""
    lab, gw1 = printer, printer.host("gw1")
    package = "/srv/spm_build/gateway-202611-1.spm"
    install = f"spm build /srv/repo-copy && spm -y local install {package}"
    copy = f"rm -rf /srv/repo-copy && mkdir /srv/repo-copy && {COPY} /srv/repo-copy &&"
    copy += (
        " cd /srv/repo && cp FORMULA README.md CHANGELOG.md LICENSE pillar.example /srv/repo-copy"
    )
    gone = "rm -rf /srv/spm /srv/spm_build /srv/repo-copy /var/cache/salt/spm"
    try:
        for series in SERIES:
            gw1.run(
                f"{gone}; {copy} && PATH=/opt/salt/{series}/bin:$PATH && {install}", timeout=120
            )
            for folder in ("_modules", "_states", "gateway"):
                different = f"diff -r -x README.md /srv/spm/salt/{folder} /srv/repo-copy/{folder}"
                assert gw1.run(different).stdout == ""
            gw1.run("cmp /srv/spm/pillar/gateway.sls.orig /srv/repo/pillar.example")
        programs = "PATH=/opt/salt/current/bin:$PATH"
        lab.host("master").run(f"{copy} && {programs} && {install}", timeout=120)
        with master_with(lab, file_roots={"base": ["/srv/spm/salt"]}):
            twice(lab, lab.apply)
    finally:
        for name in ("gw1", "master"):
            lab.host(name).run(gone)


@pytest.mark.parametrize("folder", ["_modules", "_states"])
def test_half_of_the_formula(site: Lab, folder: str) -> None:
    """Somebody has copied its SLS alone to where all others are."""
    master = site.host("master")
    before = snapshot(site, "gw1")
    master.run(f"mv /srv/formula/{folder} /srv/away")
    try:
        site.salt("gw1", "saltutil.sync_all")  # removes what is not there any more
        for sls in ("gateway", "gateway.openvpn"):
            results = site.apply("gw1", sls)
            [failure] = checks.failures(results["gw1"]).values()
            assert "the formula's own states are not here" in failure
            assert "in the file_roots of environment base" in failure
            assert checks.changes(results["gw1"]) == {}
        assert snapshot(site, "gw1") == before
    finally:
        master.run(f"mv /srv/away /srv/formula/{folder}")
    assert checks.changes(ok(site.apply("gw1"), "gw1")["gw1"]) == {}


# --------------------------------------------------------------------------------------------------
# Where the pillar comes from


def certificates(lab: Lab) -> dict[str, str]:
    """Each gateway's certificates, as files of a tree that Salt's pillar file_tree reads."""
    files: dict[str, str] = {}
    for name in GATEWAYS:
        key, certificate = pki.split(pki.read(lab, f"issued/{name}.pem"))
        texts = {"ca": pki.read(lab, "ca.crt"), "tls_crypt": pki.read(lab, "tls-crypt.key")}
        texts |= {"certificate": certificate, "key": key}
        files |= {f"hosts/{name}/gateway/vpn/pki/{key}": text for key, text in texts.items()}
    return files


@pytest.mark.long
@pytest.mark.parametrize("source", ["cmd_yaml", "git"])
def test_external_pillars(printer: Lab, source: str) -> None:
    """The site from a command or a repository, certificates and keys from a tree of files."""
    lab, master = printer, printer.host("master")
    site = yaml.safe_load(lab.example())
    del site["gateway"]["vpn"]["pki"]
    site["gateway"]["hosts"] |= PRINTER["gateway"]["hosts"]
    text = json.dumps(site)
    for path, content in certificates(lab).items():
        master.write(f"/srv/tree/{path}", content, 0o600)
    master.write("/srv/site.yaml", text)
    fill = "cp /srv/site.yaml gateway.sls && echo \"base: {'gw*': [gateway]}\" >top.sls"
    try:
        with repository(lab, "pillar", fill) as address:
            first: dict[str, Any] = {"git": [{f"main {address}": [{"env": "base"}]}]}
            if source == "cmd_yaml":
                first = {"cmd_yaml": "cat /srv/site.yaml"}
            externals = [first, {"file_tree": {"root_dir": "/srv/tree"}}]
            nothing = {"base": ["/srv/nothing"]}
            with master_with(lab, pillar_roots=nothing, ext_pillar=externals):
                if source == "git":
                    master.run("salt-run git_pillar.update", timeout=60)
                twice(lab, lab.apply)
                assert lab.salt("gw*", "gateway.validate") == both([])
                digests = lab.salt("gw*", "gateway.digest")
                assert digests["gw1"] == digests["gw2"]
                with pki.Tunnel(lab, checks.PUBLIC["gw2"]) as tunnel:
                    page = checks.http(lab.host("laptop"), f"http://{checks.BACKEND}/")
                    assert page == f"backend01 saw {tunnel.address}"
    finally:
        master.run("rm -rf /srv/tree /srv/site.yaml")


@pytest.mark.long
def test_an_environment_of_the_pillar(printer: Lab) -> None:
    """`pillarenv=prod` for a run, and in the minion's configuration for all calls."""
    lab, master = printer, printer.host("master")
    lab.set_pillar({})
    master.run("cp -r /srv/pillar /srv/pillar-prod")
    master.write("/srv/pillar-prod/overrides.sls", json.dumps(PRINTER))
    master.write("/srv/pillar-prod/top.sls", "prod: {'gw*': [site, overrides]}\n")
    configured = "/etc/salt/minion.d/way.conf"
    try:
        with master_with(lab, pillar_roots={"prod": ["/srv/pillar-prod"]}):
            twice(lab, lambda: lab.apply(pillarenv="prod"))
            restart_minions(lab, f"echo 'pillarenv: prod' >{configured}")
            assert checks.changes(ok(lab.apply())["gw1"]) == {}
            status = lab.salt("gw*", "gateway.status")
            assert [status[name]["problems"] for name in GATEWAYS] == [[], []]
    finally:
        restart_minions(lab, f"rm -f {configured}")
        master.run("rm -rf /srv/pillar-prod")


# --------------------------------------------------------------------------------------------------
# Who calls it

ORCHESTRATION = """
first gateway:
  salt.state:
    - tgt: gw1
    - sls: gateway

second gateway:
  salt.state:
    - tgt: gw2
    - sls: gateway
    - require:
      - salt: first gateway
"""


def orchestrated(lab: Lab) -> dict[str, Any]:
    """What `state.orchestrate` returns, for each state of it."""
    answer = printed(lab, "salt-run --out=json state.orchestrate orchestration")
    [results] = answer["data"].values()
    return {state["__id__"]: state for state in results.values()}


@pytest.mark.long
def test_orchestrate(printer: Lab) -> None:
    """One gateway after the other; the second one only where the first one went well."""
    lab, sls = printer, "/srv/formula/orchestration.sls"
    names = {"gw1": "first gateway", "gw2": "second gateway"}
    lab.host("master").write(sls, ORCHESTRATION)

    def apply() -> dict[str, Any]:
        states = orchestrated(lab)
        assert [states[name]["result"] for name in names.values()] == [True, True]
        return {
            minion: (states[name]["changes"] or {"ret": {minion: {}}})["ret"][minion]
            for minion, name in names.items()
        }

    try:
        twice(lab, apply)
        lab.set_pillar({"gateway": {"internal": {"virtual_ip": "10.78.0.1"}}})
        states = orchestrated(lab)
        assert [states[name]["result"] for name in names.values()] == [False, False]
        assert "requisite failed" in states["second gateway"]["comment"]
    finally:
        lab.host("master").run(["rm", sls])


@pytest.mark.long
def test_called_on_the_node_and_in_batches(printer: Lab) -> None:
    """`salt-call` on each gateway, with its master; then `salt --batch`, the way to take one after
    the other without an orchestration."""
    lab = printer

    def on_the_nodes() -> dict[str, Any]:
        call = "salt-call --out=json state.apply gateway"
        return {name: checks.local(lab.host(name), call) for name in GATEWAYS}

    twice(lab, on_the_nodes)
    lab.set_pillar({})
    command = "salt --batch 1 --static --out=json 'gw*' state.apply gateway"
    assert "dns names" in checks.changes(ok(printed(lab, command))["gw2"])
    assert checks.changes(ok(printed(lab, command))["gw1"]) == {}


@pytest.mark.long
def test_a_minion_of_one_process(printer: Lab) -> None:
    """`multiprocessing: False`: what one job has loaded, the next one finds. After an upgrade each
    call goes by the new version."""
    lab, configured = printer, "/etc/salt/minion.d/way.conf"
    setting = "multiprocessing: False"
    restart_minions(
        lab, f"echo {shlex.quote(setting)} >{configured}; rm -rf /var/cache/salt/minion"
    )
    try:
        twice(lab, lab.apply)
        status = lab.salt("gw*", "gateway.status")
        assert [status[name]["problems"] for name in GATEWAYS] == [[], []]
        # A pillar that is new is seen, and so is one that is wrong.
        lab.set_pillar({"gateway": {"internal": {"virtual_ip": "10.78.0.1"}}})
        wrong = "gateway:internal:virtual_ip: 10.78.0.1 is not inside 10.77.0.0/24"
        assert lab.salt("gw*", "gateway.validate") == both([wrong])
        (failure,) = checks.failures(lab.apply()["gw1"]).values()
        assert wrong in failure
        lab.set_pillar({})
        master = lab.host("master")
        edit = 'sed -i \'s/^VERSION = "[0-9]*-1"/VERSION = "299912-1"/\' _modules/_gateway_plan.py'
        folders = "_modules _states gateway"
        master.run(f"cd /srv/formula && rm {folders} && {COPY} . && {edit}")
        try:
            ok(lab.apply())
            status = lab.salt("gw*", "gateway.status")
            for name in GATEWAYS:
                assert status[name]["problems"] == []
                assert set(status[name]["formula"].values()) == {"299912-1"}
        finally:
            master.run(f"cd /srv/formula && rm -r {folders}")
            have_formula(master)
    finally:
        restart_minions(lab, f"rm -f {configured}")
