"""What the unit tests share: the site of pillar.example, and ways to change it."""

import copy
import functools
import importlib.util
import json
import marshal
import os
import py_compile
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import _gateway_plan
import hypothesis
import jsonschema
import pytest
import yaml

# Fixtures that tests of several rooms ask for.
pytest_plugins = ["cases", "iptables_reader", "loader", "monitor", "on_node", "rendered"]

ROOT = Path(__file__).parents[2]

# The same examples on every run, so that a failure is never a matter of luck. A longer search:
# pytest --hypothesis-profile=thorough
hypothesis.settings.register_profile(
    "quick", deadline=None, database=None, derandomize=True, max_examples=60
)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("quick")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", action="store_true", help="write test/unit/golden anew")


Pillar = dict[str, Any]
Edit = Callable[[dict[str, Any]], Pillar]


def put(pillar: Pillar, path: str, value: Any) -> None:
    """Set one value, or remove it (``...``); ``path`` is a pillar key: ``nat:forwards:0:port``."""
    place: Any = pillar
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(":")]
    for key in parents:
        place = place.setdefault(key, {}) if isinstance(place, dict) else place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value


@pytest.fixture(scope="session")
def load() -> Callable[[str | Path], ModuleType]:
    """Load a file as Salt's loader does, by its path: modules and states share their names."""

    def loaded(path: str | Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(str(path).replace("/", "_"), ROOT / path)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return loaded


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a command of the test's own into PATH, before those of the machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(name: str, script: str) -> None:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    return make


@pytest.fixture(scope="session")
def fake_iptables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fake_iptables.py, compiled."""
    compiled = tmp_path_factory.mktemp("compiled") / "fake_iptables.pyc"
    source = ROOT / "test/unit/fake_iptables.py"
    py_compile.compile(str(source), str(compiled), doraise=True)
    return compiled


@pytest.fixture
def iptables(
    tool: Callable[[str, str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fake_iptables: Path,
) -> Path:
    """iptables and ipset in PATH, network namespaces for them, and the file with what they hold."""
    state = tmp_path / "iptables.state"
    monkeypatch.setenv("FAKE_IPTABLES", str(state))
    fake = shlex.quote(str(fake_iptables))
    names = [f"{ip}-nft-{verb}" for ip in ("iptables", "ip6tables") for verb in ("save", "restore")]
    for name in (*names, "ipset"):
        tool(name, f'exec {shlex.quote(sys.executable)} -I -S {fake} {name} "$@"')
    tool("iptables", "echo 'iptables v1.8.9 (nf_tables)'")
    for name in ("iptables-legacy-save", "ip6tables-legacy-save"):
        tool(name, "exit 0")
    tool(
        "unshare",
        '[ "$1" = --net ] && shift; scratch=$(mktemp); FAKE_IPTABLES=$scratch "$@"; code=$?\n'
        'rm -f "$scratch"; exit $code',
    )
    return state


# As much of iproute2 as the firewall script uses, as strict: what is not there cannot be deleted.
FAKE_IP = """
file={rules}${{1#-}}; touch "$file"; shift
case "$*" in
    'rule show')
        printf '0:\\tfrom all lookup local\\n'; sort -n "$file" | sed 's/$/ /' # as some versions
        printf '32766:\\tfrom all lookup main \\n' ;;
    '-batch -' | '-force -batch -')
        while read -r _ verb _ pref rest; do
            case $verb in
                del) grep -q "^$pref:" "$file" || exit 2; sed -i "/^$pref:/d" "$file" ;;
                add)
                    rest=${{rest% protocol 119}}
                    printf '%s:\\tfrom all %s proto 119\\n' "$pref" "$rest" >>"$file" ;;
            esac
        done ;;
    *) exit 64 ;;
esac
"""


@pytest.fixture
def firewall(
    iptables: Path, tool: Callable[[str, str], None], tmp_path: Path
) -> Iterator[SimpleNamespace]:
    """The firewall script on a machine that has Docker's and fail2ban's rules.

    `home`, `run_folder` and `proc` are its folders, `gate` what the kernel has of the gate; `read`,
    `change` and `timers` are about what is on the machine.
    """
    home, log, run_folder = tmp_path / "home", tmp_path / "timers", tmp_path / "run"
    proc = tmp_path / "proc"
    for file in ("net/ipv4/conf/all/src_valid_mark", "net/ipv4/ip_forward", "net/ipv6/conf/all/x"):
        (proc / file).parent.mkdir(parents=True, exist_ok=True)
        (proc / file).write_text("0\n")
    text = (ROOT / "gateway/firewall/files/firewall").read_text()
    script = tmp_path / "firewall"
    for path, stand_in in {
        "/var/lib/gateway/firewall": home,
        "/run/gateway": run_folder,
        "/etc/gateway": tmp_path / "etc",
        "/proc/sys": proc,
        "/lib/systemd/systemd-sysctl": "systemd-sysctl",
    }.items():
        text = text.replace(path, str(stand_in))
    script.write_text(text)
    script.chmod(0o755)
    routing = tmp_path / "rules"
    tool("ip", FAKE_IP.format(rules=routing))
    tool(
        "systemd-sysctl",
        f'echo 1 >{proc}/net/ipv4/ip_forward; [ "$*" = {tmp_path}/etc/forwarding.conf ]',
    )
    tool("systemd-run", f'echo "start $*" >>{log}')
    tool("systemctl", f'echo "$*" >>{log}')
    foreign = {
        "nat": {
            **{chain: [] for chain in ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")},
            "DOCKER": ["-i docker0 -j RETURN"],
        },
        "filter": {
            "INPUT": ["-p tcp -j f2b-sshd", "-s 192.0.2.1 -j DROP", "-j f2b-sshd"],
            "FORWARD": ["-j DOCKER", "-i docker0 -j ACCEPT"],
            "OUTPUT": [],
            "DOCKER": [],
            "f2b-sshd": ["-j RETURN"],
        },
    }
    foreign["nat"]["PREROUTING"] = ["-m addrtype --dst-type LOCAL -j DOCKER"]
    iptables.write_bytes(marshal.dumps({"v4": foreign}))

    def run(*arguments: Any, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """``code`` None: anything but success."""
        command = ["sh", str(script), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code if code is not None else done.returncode, done.stderr
        return done

    def read() -> dict[str, Any]:
        state: dict[str, Any] = marshal.loads(iptables.read_bytes())
        return state

    def change(edit: Callable[[dict[str, Any]], object]) -> None:
        state = read()
        edit(state)
        iptables.write_bytes(marshal.dumps(state))

    machine = SimpleNamespace(
        run=run,
        script=script,
        home=home,
        run_folder=run_folder,
        rules=routing,
        proc=proc,
        gate=lambda family=4: (
            Path(f"{routing}{family}").read_text() if Path(f"{routing}{family}").exists() else ""
        ),
        state=iptables,
        foreign=foreign,
        read=read,
        change=change,
        timers=lambda: log.read_text().splitlines() if log.exists() else [],
    )
    yield machine
    # Whatever a test did, nothing of anybody else's is gone.
    for table, chains in foreign.items():
        for chain, rules in chains.items():
            now = [rule for rule in read()["v4"][table][chain] if "GATEWAY-" not in rule]
            assert now == rules


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the formula."""
    return ROOT


@pytest.fixture(scope="session")
def example() -> Pillar:
    """The site of pillar.example; not to be changed."""
    pillar = yaml.safe_load((ROOT / "pillar.example").read_text(encoding="utf-8"))
    site: Pillar = pillar["gateway"]
    return site


@pytest.fixture
def edit(example: Pillar) -> Edit:
    """The example's pillar with some values changed, by their keys."""

    def edited(changes: dict[str, Any]) -> Pillar:
        pillar = copy.deepcopy(example)
        for path, value in changes.items():
            put(pillar, path, copy.deepcopy(value))
        return pillar

    return edited


# What the schema cannot say: errors that come of more than one value, of the order of two numbers
# in a text, of bytes or of fractions. It has to know all others.
ACROSS = re.compile(
    "|".join(
        [
            r"is taken already, by",
            r": (?!gateway-|openvpn-server@)\S+ is the formula's own",  # units of the rooms
            r"overlaps \S+ of (gateway|node)",
            r"is inside \S+( of (gateway|VPN)|; a link)",
            r"(?<!/3[0-2]) is not inside",  # of a subnet it knows the sizes
            r"holds \S+( of|, where)",
            r"is the (address of the network|broadcast address)",
            r"is the gateway itself",
            r"is the gateway's own already",
            r"is the (internal|public) interface",
            r"is the name of something else",
            r"is a name for gateway",
            r"is a (\w+ and a \w+; |(zone|server|client); )",
            r"is not among",
            r"is for accept, not for",
            r"is everything; (use full_tunnel|leave the group)",
            r"stands for one host already",
            r": missing[;,] (?!see pillar)",
            r": needs (?!a link)",
            r"means nothing without",
            r"characters; DNS takes",
            r"an interface of",
            r"there is (nothing called|no host|no VPN server)",
            r"this site has no VPN",
            r"has neither id nor networks",
            r"has room for",
            r"contains itself",
            r"does not fit into",
            r"the reserved part of",
            r"does not come from the public side",
            r"goes beyond 65535",
            r"runs only where the virtual IP",
            r"and both have ports",
            r"auth of this server has",
            r"the name of the certificate counts",
            r"own script needs 2",
            r"subnets:gw\d: unknown key",
            r":(from|to|groups:\w+)(:\d)?: .* (is not an address or network|has host bits set)",
            r"ends before it begins",
            r"é+ is not a certificate's common name",
            r"number of hundredths",
            r"must be a whole number, is a number \(\d+\.0\)",  # which JSON cannot tell from \d+
        ]
    )
)


@pytest.fixture(scope="session")
def schema_errors(root: Path) -> Callable[[Pillar], list[str]]:
    """What docs/pillar.schema.json says of a pillar."""
    schema = json.loads((root / "docs/pillar.schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft7Validator(schema)
    return lambda pillar: [
        f"{':'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        for error in validator.iter_errors({"gateway": pillar})
    ]


@pytest.fixture(scope="session")
def read_pillar(schema_errors: Callable[[Pillar], list[str]]) -> Callable[[Pillar], Any]:
    """The planner's ``read``, which agrees with the schema about every pillar of the tests."""

    @functools.cache
    def is_refused(text: str) -> bool:
        return bool(schema_errors(json.loads(text)))

    def agreed(pillar: Pillar) -> Any:
        site, found = _gateway_plan.read(pillar)
        try:
            text = json.dumps(pillar)
        except TypeError:  # YAML has more types, for a mapping's keys too
            return site, found
        if json.loads(text) == pillar:
            alone = [error for error in found if not ACROSS.search(error)]
            assert bool(alone) == is_refused(text), (found, schema_errors(pillar))
        return site, found

    return agreed


@pytest.fixture
def errors(
    edit: Edit, read_pillar: Callable[[Pillar], Any]
) -> Callable[[dict[str, Any]], list[str]]:
    """What is wrong with the example after some changes."""
    return lambda changes: read_pillar(edit(changes))[1]


@pytest.fixture
def plan(edit: Edit, read_pillar: Callable[[Pillar], Any]) -> Callable[..., dict[str, Any]]:
    """A node's plan in the example after some changes."""

    def planned(changes: dict[str, Any] | None = None, node: str = "gw1") -> dict[str, Any]:
        site, found = read_pillar(edit(changes or {}))
        assert site, found
        return _gateway_plan.plan(site, node)

    return planned


# --------------------------------------------------------------------------------------------------
# The machine of the states


@pytest.fixture
def umask():
    """The run has the umask of a careful administrator."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def snapshot(folder):
    """Every file below a folder, its mode, and what is in it."""
    return {
        str(path): (path.stat().st_mode, path.stat().st_ino, path.read_bytes())
        if path.is_file()
        else path.lstat().st_mode
        for path in folder.rglob("*")
    }


def mode(path):
    return os.stat(path).st_mode & 0o7777


class Killed(BaseException):
    """What ends a run at once, as SIGKILL does."""


@pytest.fixture
def machine(module, monkeypatch, tmp_path, tmp_path_factory):
    """What the states work on; ``run`` calls one and checks what each of them has to keep to.
    Whoever uses it has a fixture ``module`` with the file of states."""
    machine = SimpleNamespace(
        folder=tmp_path,
        opts={"test": False},
        functions={},
        states={},
        calls=[],
        running={},
        context={},
        low=[],
    )
    # Notes for later runs are no change of the machine.
    machine.read = tmp_path_factory.mktemp("read")
    for constant, path in {
        "STATE_FOLDER": "state",
        "PROC_SYS": "proc",
        "SYSTEMD": "etc/systemd",
        "UNITS": "etc/systemd/system",
        "FIREWALL": "firewall",
        "CLIENTS": "openvpn",
        "NETWORKD": "etc/systemd/network",
        "NETWORKD_LINKS": "links",
        "INTERFACES": "net",
        "READ": machine.read,
        "RENDERED": machine.read / "rendered.json",
    }.items():
        for place in (module, module.state):
            if hasattr(place, constant):
                monkeypatch.setattr(place, constant, str(tmp_path / path))
    ours = [str(tmp_path / path) for path in ("state", "openvpn", "etc/gateway")]
    monkeypatch.setattr(module.state, "FOLDERS", ours)
    monkeypatch.setattr(module.state, "OWNER", (os.getuid(), os.getgid()))
    for name, value in {
        "__opts__": machine.opts,
        "__salt__": machine.functions,
        "__states__": machine.states,
        "__env__": "base",
        "__running__": machine.running,
        "__context__": machine.context,
        "__lowstate__": machine.low,
    }.items():
        monkeypatch.setattr(module, name, value, raising=False)

    def run(function, *arguments, test=False, **keywords):
        machine.opts["test"] = test
        machine.context.clear()  # each is a run of its own
        before = snapshot(tmp_path)
        calls = len(machine.calls)
        ret = getattr(module, function)(*arguments, **keywords)
        assert set(ret) == {"name", "changes", "result", "comment"}
        assert ret["comment"]
        assert (ret["result"] is None) == bool(test and ret["changes"])
        assert ret["result"] is not False or not ret["changes"]
        if test or (ret["result"] and not ret["changes"]):
            assert machine.calls[calls:] == []
            assert snapshot(tmp_path) == before
        return ret

    def converges(*arguments, **keywords):
        """The idiom: test mode predicts what a run then does, a second run has nothing to do."""
        predicted = machine.run(*arguments, test=True, **keywords)
        assert predicted["result"] is None
        real = machine.run(*arguments, **keywords)
        assert real["result"] is True, real["comment"]
        assert real["changes"] == predicted["changes"]
        assert real["comment"] != predicted["comment"]
        for test in (False, True):
            again = machine.run(*arguments, test=test, **keywords)
            assert (again["result"], again["changes"]) == (True, {})
        return real["changes"]

    def killed_at(patch, place, name, number):
        """The call with this number of a function is the last thing that a run does."""
        if not hasattr(place, name):
            place = place.state
        real, calls = getattr(place, name), []

        def call(*arguments, **keywords):
            calls.append(1)
            if len(calls) == number:
                raise Killed
            return real(*arguments, **keywords)

        patch.setattr(place, name, call)

    machine.run, machine.converges, machine.killed_at = run, converges, killed_at
    machine.Killed, machine.mode = Killed, mode
    return machine
