"""Every command of README.md and docs that is marked as shell works as it is written.

A block runs on the Salt master, line by line. What has to be there before it, as its page says, and
what has to be put back after it, is in WORLDS, by the block's first command.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import documented
import pki
import pytest
from conftest import END_MINION, converge
from documented import Block
from lab import AUTHORITY, Lab

KEY = "/etc/salt/pki/master/ssh/salt-ssh.rsa"
ADDRESSES = {"gw1": "10.99.0.2", "gw2": "10.99.0.3"}
WRONG = re.compile(r"Traceback|is not available|did not return|No minions matched|Unable to")
World = Callable[[Lab], AbstractContextManager[object]]
BLOCKS = [block for block in documented.blocks() if block.runnable]


@contextmanager
def in_a_folder(lab: Lab, script: str) -> Iterator[None]:
    """The folder that commands run in, made by a script."""
    master = lab.host("master")
    master.run(f"rm -rf /root/docs && mkdir /root/docs && cd /root/docs && {script}")
    try:
        yield
    finally:
        master.run("rm -rf /root/docs")


@contextmanager
def without_formula(lab: Lab) -> Iterator[None]:
    """The formula has been cloned, and there is no pillar yet; the lab's own is mounted."""
    master = lab.host("master")
    master.run("mkdir -p /srv/formulas && ln -s /srv/repo /srv/formulas/gateway-formula")
    master.run("mount -t tmpfs none /srv/pillar")
    try:
        yield
        text = master.run("cat /srv/pillar/gateway.sls").stdout
        assert text == lab.example()
    finally:
        master.run("umount /srv/pillar; rm -r /srv/formulas")


@contextmanager
def checkout(lab: Lab) -> Iterator[None]:
    """A folder with the formula and a pillar, as in CI."""
    script = "for f in _modules _states gateway; do ln -s /srv/repo/$f .; done; mkdir pillar;"
    script += " cp /srv/repo/pillar.example pillar/gateway.sls;"
    script += " echo \"base: {'*': [gateway]}\" >pillar/top.sls"
    with in_a_folder(lab, script):
        yield


@contextmanager
def by_ssh(lab: Lab) -> Iterator[None]:
    """The master gets to the gateways by SSH, under their names, and knows their keys."""
    master = lab.host("master")
    hosts = "".join(
        f"Host {name}\n HostName {address}\n IdentityFile {KEY}\n"
        for name, address in ADDRESSES.items()
    )
    master.write("/root/.ssh/config", hosts, 0o600)
    master.run(f"ssh-keyscan {' '.join(ADDRESSES.values())} >/root/.ssh/known_hosts 2>/dev/null")
    try:
        yield
    finally:
        master.run("rm /root/.ssh/config /root/.ssh/known_hosts")


@contextmanager
def over_salt_ssh(lab: Lab) -> Iterator[None]:
    """Nodes where nobody has been over salt-ssh, and a master that has not brought modules."""
    modules = "/var/cache/salt/master/extmods"
    with by_ssh(lab):
        lab.host("master").run(f"rm -rf {modules}")
        yield
    for name in ADDRESSES:
        lab.host(name).run("rm -r /var/tmp/.root_*_salt")
    converge(lab)


@contextmanager
def another_authority(lab: Lab) -> Iterator[None]:
    """There is no authority yet; afterwards there is the lab's again."""
    master, folder = lab.host("master"), AUTHORITY.rpartition("/")[0]
    master.run(f"mv {folder} {folder}.lab")
    try:
        yield
    finally:
        master.run(f"rm -rf {folder} && mv {folder}.lab {folder}")


@contextmanager
def for_alice(lab: Lab) -> Iterator[None]:
    """Nothing of alice is left in the lab's authority."""
    folder = AUTHORITY.rpartition("/")[0]
    with another_authority(lab):
        lab.host("master").run(f"cp -a {folder}.lab {folder}")
        yield
        assert "<key>" in lab.host("master").run("cat /root/alice.ovpn; rm /root/alice.ovpn").stdout


@contextmanager
def exported(lab: Lab) -> Iterator[None]:
    with by_ssh(lab):
        yield
    gw1 = lab.host("gw1")
    names = gw1.run(f"ls {pki.ON_GATEWAY}; rm -r {pki.ON_GATEWAY}").stdout.split()
    assert {"ca.crt", "server.crt", "server.key", "tls-crypt.key", "crl.pem"} <= set(names)


@contextmanager
def with_a_backup(lab: Lab) -> Iterator[None]:
    """A new master, and a backup of the authority."""
    backup = f"tar -czf example-20260131T120000Z.tar.gz -C {AUTHORITY.rpartition('/')[0]} example"
    with in_a_folder(lab, backup), another_authority(lab):
        yield


@contextmanager
def a_new_gateway(lab: Lab) -> Iterator[None]:
    """The old one is off, and the new one asks for its place when it is told to (HAPPENS)."""
    gw1 = lab.host("gw1")
    gw1.run(END_MINION)
    try:
        yield
    finally:
        gw1.run("systemctl start salt-minion")
        lab.wait_minions()
    converge(lab)


def ask_for_a_place(lab: Lab) -> None:
    """As the master notes it that does not accept whoever comes, as the lab's does."""
    key = lab.host("gw1").run("cat /etc/salt/pki/minion/minion.pub").stdout
    lab.host("master").write("/etc/salt/pki/master/minions_pre/gw1", key)


def start_minion(lab: Lab) -> None:
    lab.host("gw1").run("systemctl start salt-minion")
    lab.wait_minions()


@contextmanager
def afterwards_whole(lab: Lab) -> Iterator[None]:
    yield
    converge(lab)


WORLDS: dict[str, World] = {
    "cp /srv/formulas/gateway-formula/pillar.example /srv/pillar/gateway.sls": without_formula,
    "salt gw1 gateway.drain": afterwards_whole,
    "salt-ssh 'gw*' test.ping": over_salt_ssh,
    "salt-ssh 'gw*' state.single module.run name=gateway.status": by_ssh,
    "salt-call --local --id gw1 --file-root . --pillar-root pillar saltutil.sync_modules": checkout,
    "salt-key -d gw1": a_new_gateway,
    "salt gw2 state.apply gateway.clean test=True": afterwards_whole,
    "salt-run saltutil.sync_modules": another_authority,
    "salt-run salt.cmd gateway_pki.issue_client alice": for_alice,
    "salt-run salt.cmd gateway_pki.export gw1 /root/gw1": exported,
    "install -d -m 700 /etc/salt/pki/gateway": with_a_backup,
}
# What happens after a command, as its page says or by itself.
HAPPENS: dict[str, Callable[[Lab], None]] = {
    "salt-key -d gw1": ask_for_a_place,
    "salt-key -a gw1": start_minion,
}


def run(lab: Lab, command: str) -> None:
    """Run a command on the master, where somebody says yes to what it asks."""
    folder = "cd /root/docs 2>/dev/null;"
    done = lab.host("master").run(f"{folder} {command}", check=False, timeout=300, input="y\n")
    shown = f"$ {command}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, shown
    assert not WRONG.search(done.stdout + done.stderr), shown
    if command in HAPPENS:
        HAPPENS[command](lab)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(
            block,
            id=block.place,
            # Each command is a whole run of salt-ssh.
            marks=[pytest.mark.long] * any("salt-ssh" in command for command in block.runnable),
        )
        for block in BLOCKS
    ],
)
def test_commands_work_as_they_are_written(site: Lab, block: Block) -> None:
    world = WORLDS.get(block.runnable[0])
    with world(site) if world else nullcontext():
        for command in block.runnable:
            run(site, command)


def test_no_world_is_for_a_command_that_nobody_has_written() -> None:
    assert set(WORLDS) <= {block.runnable[0] for block in BLOCKS}
