"""The nodes have neither a minion nor the master's files: everything goes over salt-ssh."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import checks
import pki
import pytest
from conftest import converge, ok, snapshot
from lab import AUTHORITY, Lab
from pki import Tunnel
from test_services import SERIES, WITHOUT_MASTER

ADDRESS = "198.51.100.2"  # of gw1
ROSTER = "/etc/salt/roster"
KEY = "/etc/salt/pki/master/ssh/salt-ssh.rsa"
CONFIGURATION = "/etc/openvpn/server/gateway-main.conf"
# Where a secret may have been left behind by Salt.
FOLDERS = "/tmp /var/tmp /var/cache /var/log /root /run /etc/gateway /var/lib/gateway"


class OverSsh:
    """salt-ssh and salt-run of a series of Salt, with a cache of their own. gw2 has all series, and
    is the place where the site is managed from; gw1 is managed."""

    def __init__(self, lab: Lab, series: str) -> None:
        self.host = lab.host("gw2")
        self.programs = f"/opt/salt/{series}/bin"
        self.config = f"/etc/salt/ssh-{series}"
        self.cache = f"/var/cache/salt/ssh-{series}"
        options = {
            "cachedir": self.cache,
            "extension_modules": f"{self.cache}/extmods",
            "pki_dir": "/etc/salt/pki/master",
            "file_roots": {"base": ["/srv/formula"]},
            "pillar_roots": {"base": ["/srv/pillar"]},
            "pillar_source_merging_strategy": "recurse",
            "fileserver_list_cache_time": 0,
        }
        self.host.write(f"{self.config}/master", json.dumps(options))
        for path in (ROSTER, KEY):
            text = lab.host("master").run(["cat", path]).stdout
            self.host.write(path, text, 0o600)
        self.host.run(f"cp {ROSTER} {self.config}/roster")

    def run(self, command: str) -> str:
        """A command of Salt's, such as ``salt-run saltutil.sync_all``."""
        program, _, arguments = command.partition(" ")
        command = f"{self.programs}/{program} -c {self.config} {arguments}"
        done = self.host.run(command, check=False, timeout=300)
        return done.stdout + done.stderr

    def pki(self, function: str, *arguments: str) -> None:
        """Call a function of gateway_pki."""
        said = self.run(" ".join(["salt-run salt.cmd", f"gateway_pki.{function}", *arguments]))
        assert "Exception" not in said, said

    def apply(self) -> dict[str, Any]:
        """Apply the formula to gw1 without a failure; what has changed."""
        said = self.run("salt-ssh -i --out=json gw1 state.apply gateway")
        results = json.JSONDecoder().raw_decode(said, said.find("{"))[0]["gw1"]
        assert checks.failures(results) == {}
        return checks.changes(results)


@contextmanager
def over_ssh(lab: Lab, series: str) -> Iterator[OverSsh]:
    """A node as salt-ssh finds it for the first time, and the authority where salt-ssh is."""
    with pki.masterless(lab, "gw2"):
        ssh = OverSsh(lab, series)
        try:
            yield ssh
        finally:
            ssh.host.run(f"rm -rf {ssh.config} {ssh.cache} {ROSTER} {KEY}")
            lab.host("gw1").run("rm -rf /var/tmp/.root_*_salt")
            ok(lab.apply("gw1"), "gw1")  # what the lab's own authority has, which is another now
            converge(lab)


def secret(ssh: OverSsh, name: str) -> str:
    """A line that only this gateway's private key has."""
    return ssh.host.run(["sed", "-n", "2p", f"{AUTHORITY}/issued/{name}.pem"]).stdout.strip()


def has(lab: Lab, host: str, text: str, folders: str = FOLDERS) -> str:
    """The files on a host that have a text, also in archives."""
    script = (
        f"grep -rlF -e '{text}' {folders} 2>/dev/null;"
        f" find {folders} -name '*.tgz' 2>/dev/null | while read -r file; do"
        f" tar -xOf $file pillar.json 2>/dev/null | grep -qF -e '{text}' && echo $file; done"
    )
    return lab.host(host).run(script, check=False).stdout


@pytest.mark.long
@pytest.mark.parametrize("series", SERIES)
def test_certificates_over_salt_ssh(site: Lab, series: str) -> None:
    """The line of the pillar is the one that it is with a master, after one command."""
    visitor = f"visitor{series}"
    with over_ssh(site, series) as ssh:
        assert "gateway_pki.pillar" in ssh.run("salt-ssh -i gw1 state.apply gateway test=True")
        ssh.run("salt-run saltutil.sync_all")
        ssh.pki("renew", "gw1")
        ssh.pki("issue_client", visitor)
        ssh.pki("profile", visitor, f"file=/root/{visitor}.ovpn")
        profile = ssh.host.run(f"cat /root/{visitor}.ovpn; rm /root/{visitor}.ovpn").stdout
        site.host("laptop").write(f"{pki.FOLDER}/{visitor}.ovpn", profile, 0o600)
        vpn = {"openvpn configuration of main", "openvpn server main"}
        assert ssh.apply().keys() >= WITHOUT_MASTER | vpn
        assert ssh.apply() == {}
        keys_are_where_they_belong(site, ssh)
        with Tunnel(site, ADDRESS, name=visitor) as tunnel:
            address = tunnel.address
            page = checks.http(tunnel.client, f"http://{checks.BACKEND}/")
            assert page == f"backend01 saw {address}"
            ssh.pki("revoke", visitor)
            changes = ssh.apply()
            assert changes["openvpn sessions of main"] == {f"{visitor} {address}": "revoked"}


def keys_are_where_they_belong(site: Lab, ssh: OverSsh) -> None:
    own, others = secret(ssh, "gw1"), secret(ssh, "gw2")
    assert has(site, "gw1", own, CONFIGURATION) == f"{CONFIGURATION}\n"
    assert has(site, "gw1", others, f"{FOLDERS} {CONFIGURATION}") == ""
    # Only root gets to what salt-ssh has brought.
    left = has(site, "gw1", own).split()
    assert len(left) == 1
    owner = site.host("gw1").run(f"stat -c '%a %U' $(dirname {left[0]})").stdout
    assert owner == "700 root\n"
    # What an apply returned is kept where it came from.
    assert has(site, "gw2", own, f"/tmp {ssh.cache}") == ""


def call(site: Lab, *arguments: str) -> Any:
    """What gw1 answers over the salt-ssh of the lab's own master."""
    command = " ".join(["salt-ssh -i --out=json gw1", *arguments])
    return checks.local(site.host("master"), command, "gw1")


@pytest.mark.long
def test_functions_over_salt_ssh(site: Lab) -> None:
    """A function that is called by itself has no pillar, and says so; what a state calls has."""
    for function in ("gateway.digest", "gateway.validate", "gateway.routes", "gateway.plan"):
        [state] = call(site, "state.single module.run", f"name={function}").values()
        assert state["changes"]["ret"] == site.salt("gw1", function)["gw1"]
    error, *others = call(site, "gateway.status")["problems"]
    assert "state.single module.run" in error
    assert others == ["the pillar cannot be used, so this is judged by what was applied last"]
    # What takes the rules away compares them too, by a script that has to be brought along.
    results = call(site, "state.apply gateway.firewall.clean test=True")
    assert checks.failures(results) == {}
    assert "diff" in checks.changes(results)["no firewall rules of ours"]


@pytest.mark.long
def test_salt_ssh_without_the_formulas_states(site: Lab) -> None:
    """Nothing is done, not the half of it that Salt's own could."""
    master = site.host("master")
    before = snapshot(site, "gw1")
    ours = "/srv/formula/_states"
    cached = "/var/cache/salt/master/extmods/states/*gateway*.py"
    # The master keeps the list of its files for 20 s, and salt-ssh on the node what it brought.
    forget = "salt-run fileserver.clear_file_list_cache"
    site.host("gw1").run("rm -rf /var/tmp/.root_*_salt")
    master.run(f"mv {ours} {ours}.away; rm -f {cached}; {forget}", timeout=60)
    try:
        for sls in ("gateway", "gateway.openvpn", "gateway.clean"):
            for test in ("test=True", ""):
                results = call(site, "state.apply", sls, test)
                state, *others = sorted(results.values(), key=lambda s: s["__run_num__"])
                assert "the formula's own states are not here" in state["name"]
                assert (state["result"], state["changes"]) == (False, {})
                # In test mode Salt goes on with the rest of a clean.
                assert not others or (test and sls == "gateway.clean")
    finally:
        master.run(f"mv {ours}.away {ours}; {forget}", timeout=60)
    assert snapshot(site, "gw1") == before
