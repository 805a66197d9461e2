"""The firewall's loader, with the tools that it calls played by a test."""

import shutil

import pytest

V4 = """\
*raw
:GATEWAY-PREROUTING - [0:0]
# gateway:raw
-A GATEWAY-PREROUTING -p 112 -j CT --notrack
COMMIT
*mangle
:GATEWAY-PREROUTING - [0:0]
-A GATEWAY-PREROUTING -j MARK --set-xmark 0x40000000/0x40000000
COMMIT
*nat
:GATEWAY-PREROUTING - [0:0]
# gateway:nat:forwards:0
-A GATEWAY-PREROUTING -p tcp --dport 443 -j DNAT --to-destination 10.77.0.10
COMMIT
*filter
:GATEWAY-INPUT - [0:0]
:GATEWAY-FORWARD - [0:0]
:GATEWAY-FORWARD-LOG - [0:0]
# gateway:firewall:input:0
-A GATEWAY-INPUT -m set --match-set gateway-few-1 src -j ACCEPT
# gateway:firewall:input:1
-A GATEWAY-INPUT -j ACCEPT
-A GATEWAY-FORWARD -j GATEWAY-FORWARD-LOG
COMMIT
"""
V6 = "*filter\n:GATEWAY-INPUT - [0:0]\n:GATEWAY-FORWARD - [0:0]\nCOMMIT\n"
CLOSED = "*mangle\n:GATEWAY-PREROUTING - [0:0]\nCOMMIT\n" + V6.replace(
    "COMMIT", "-A GATEWAY-FORWARD -j DROP\nCOMMIT"
)
SETS = """\
create gateway-few-1 hash:net family inet maxelem 65536
add gateway-few-1 192.0.2.0/24
add gateway-few-1 203.0.113.9
"""


def stage(firewall, name, v4=V4, v6=V6, sets=SETS, closed=CLOSED):
    """A ruleset as the state leaves it to the script, checked."""
    folder = firewall.home / f".{name}"
    folder.mkdir(parents=True)
    texts = {"v4": v4, "v6": v6, "sets": sets, "closed4": closed, "closed6": closed}
    for file, text in texts.items():
        (folder / file).write_text(text)
    firewall.run("check", folder)


def keep(firewall, name, **texts):
    stage(firewall, name, **texts)
    firewall.run("try", name, 30)
    firewall.run("confirm", name)


@pytest.fixture(scope="session")
def with_rules(tmp_path_factory):
    """What `loaded` has made of a machine's files, once there is one."""
    return tmp_path_factory.mktemp("loaded") / "machine"


@pytest.fixture
def loaded(firewall, with_rules, tmp_path):
    """With the rules in force: a copy of the first such machine, which takes half a second."""
    if with_rules.exists():
        shutil.copytree(with_rules, tmp_path, symlinks=True, dirs_exist_ok=True)
        return firewall
    keep(firewall, "one")
    shutil.copytree(tmp_path, with_rules, symlinks=True)
    # These name the folder of this test.
    shutil.rmtree(with_rules / "bin")
    (with_rules / "firewall").unlink()
    (with_rules / "timers").unlink()
    return firewall


def picture(firewall):
    """What is on the machine, but for counters and the order in a set."""
    state = firewall.read()
    return state["v4"], state["v6"], {name: sorted(s) for name, s in state["sets"].items()}


def files(firewall):
    return sorted(path.name for path in firewall.home.iterdir())


def chain(firewall, table, name, family="v4"):
    return firewall.read()[family][table][name]


def said(firewall):
    """What the health monitor reads."""
    path = firewall.run_folder / "firewall"
    return path.read_text().strip() if path.exists() else ""
