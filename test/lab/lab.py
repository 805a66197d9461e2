#!/usr/bin/env python3
"""A whole site on one Linux machine: Salt master, two gateways, a backend, the internet, a laptop.

    lab.py up | down | status | shell HOST

Every host is a container with systemd in it (compose.yml), plugged into a switch of the lab's own:
a network namespace with one bridge per network and a veth pair as the cable of each card. There is
no way from there to any real network. Tests import this file and use `Lab`. Needs root.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from select import select
from types import TracebackType
from typing import Any

from engine import (
    DEBIAN,
    LAB,
    LAB_NAME,
    OUT,
    SALT_SERIES,
    LabError,
    build_context,
    build_images,
    compose,
    docker_runs,
    install_tools,
    read_state,
    remember,
    run,
    start_docker,
    step,
    stop_docker,
    wait_for,
)

REPOSITORY = LAB.parent.parent
AUTHORITY = "/etc/salt/pki/gateway/example"  # on the master; made by pki.distribute
NETWORKS = ("lan", "wan", "mgmt", "sync")
GATEWAYS = ("gw1", "gw2")
LEASE_KEY = "5f2d-the-key-of-leases-in-the-lab-alone-b81c"


@dataclass(frozen=True)
class Port:
    """One network card: the network it is plugged into, its address ("" is DHCP) and its MAC."""

    network: str
    address: str
    mac: str


@dataclass(frozen=True)
class Machine:
    """The network side of a host; its cards are eth0, eth1, ... in this order."""

    ports: tuple[Port, ...]
    router: str = ""


def _gateway(number: int) -> Machine:
    return Machine(
        (
            Port("lan", f"10.77.0.{number}/24", f"02:00:00:00:01:0{number}"),
            Port("wan", f"198.51.100.{number}/24", f"02:00:00:00:02:0{number}"),
            Port("mgmt", f"10.99.0.{number}/24", f"02:00:00:00:03:0{number}"),
            Port("sync", f"10.78.0.{number}/24", f"02:00:00:00:04:0{number}"),
        ),
        # It forwards nothing: a gateway has a default route, and no way out of the lab.
        router="198.51.100.100",
    )


# The internet and the laptop know no way to private addresses: what is not NATed gets no answer.
TOPOLOGY = {
    "master": Machine((Port("mgmt", "10.99.0.10/24", "02:00:00:00:03:10"),)),
    "gw1": _gateway(2),
    "gw2": _gateway(3),
    "backend01": Machine((Port("lan", "", "02:00:00:00:00:10"),)),
    "internet": Machine((Port("wan", "198.51.100.100/24", "02:00:00:00:02:64"),)),
    "laptop": Machine((Port("wan", "198.51.100.50/24", "02:00:00:00:02:32"),)),
}
# What a test has plugged in beside them (Lab.further): host, the card's name, its port.
MORE_PORTS: dict[str, dict[str, Port]] = {}


def ports(host: str) -> dict[str, Port]:
    """The ports of a host by the names of its cards."""
    own = {f"eth{number}": port for number, port in enumerate(TOPOLOGY[host].ports)}
    return own | MORE_PORTS.get(host, {})


# --- the switch ---------------------------------------------------------------------------------


def ip_batch(commands: list[str], netns: list[str]) -> None:
    """Run several `ip` commands in one process inside a network namespace."""
    run([*netns, "ip", "-batch", "-"], input="\n".join(commands) + "\n")


def on_switch(*commands: str) -> None:
    """Run `ip` commands in the switch."""
    ip_batch(list(commands), ["ip", "netns", "exec", LAB_NAME])


def set_cables(host: str, setting: str, *ifaces: str) -> None:
    """Change the switch's ends of a host's cables in one stroke: of these cards, or of all but the
    one that Salt's master is on. The setting may name its {network}."""
    on_switch(
        *(
            f"link set {host}-{card} {setting.format(network=port.network)}"
            for card, port in ports(host).items()
            if (card in ifaces if ifaces else port.network != "mgmt")
        )
    )


def switch_exists() -> bool:
    """Tell whether the switch is there."""
    return Path("/run/netns", LAB_NAME).exists()


def make_switch() -> None:
    """Create the switch with its bridges unless it is there."""
    if switch_exists():
        return
    run(["ip", "netns", "add", LAB_NAME])
    # Bridged packets are nobody's business but the bridge's.
    sysctl = "/proc/sys/net/bridge/bridge-nf-call-iptables"
    run(["ip", "netns", "exec", LAB_NAME, "sh", "-c", f"[ ! -e {sysctl} ] || echo 0 > {sysctl}"])
    make_bridges(*NETWORKS)


def make_bridges(*names: str) -> None:
    """Give the switch more networks."""
    for name in names:
        on_switch(
            f"link add {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"link set {name} addrgenmode none up",
        )


def allow_real_time(pid: int) -> None:
    """Let daemons on a host have real-time priority, as on a real machine. With control groups of
    version 1 that takes a share of each second for the host, and for all of them together. What
    has used up its share stands still until the next second. Two labs at once take all there is; a
    third one goes without."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        group = Path("/sys/fs/cgroup", controllers, path[1:])
        if "cpu" in controllers.split(",") and (group / "cpu.rt_runtime_us").exists():
            (group.parent / "cpu.rt_runtime_us").write_text("900000")
            with suppress(OSError):
                (group / "cpu.rt_runtime_us").write_text("200000")


def plug_in(name: str, pid: int, card: str, port: Port) -> list[str]:
    """Plug a cable between a card of a host and the switch; return what is left to do inside."""
    socket = f"{name}-{card}"
    run(["ip", "-n", LAB_NAME, "link", "del", socket], check=False)  # of its former life
    on_switch(
        f"link add {socket} type veth peer name {card} address {port.mac} netns {pid}",
        f"link set {socket} master {port.network} addrgenmode none up",
    )
    address = [f"addr add {port.address} broadcast + dev {card}"] if port.address else []
    return [*address, f"link set {card} up"]


def wire(name: str, pid: int) -> None:
    """Plug the cables of a host that just started and let it boot."""
    inside = []
    for card, port in ports(name).items():
        inside += plug_in(name, pid, card, port)
    if name in GATEWAYS:
        allow_real_time(pid)
    if TOPOLOGY[name].router:
        inside.append(f"route add default via {TOPOLOGY[name].router}")
    enter = ["nsenter", "--net", "--target", str(pid)]
    # As a machine does; a container's network begins with the settings of the host's.
    run([*enter, "sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward"])
    ip_batch(inside, enter)
    Path(f"/proc/{pid}/root/run/lab-wired").touch()


# --- hosts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Host:
    """One machine of the lab."""

    name: str

    @property
    def container(self) -> str:
        return f"{LAB_NAME}-{self.name}"

    @property
    def pid(self) -> int:
        """The process id of the host's init, 0 while it is off."""
        shown = run(["docker", "inspect", "-f", "{{.State.Pid}}", self.container], check=False)
        return int(shown.stdout.strip() or 0)

    def _exec(self, cmd: str | list[str], interactive: bool) -> list[str]:
        command = ["sh", "-c", cmd] if isinstance(cmd, str) else cmd
        return ["docker", "exec", *(["-i"] if interactive else []), self.container, *command]

    def run(
        self,
        cmd: str | list[str],
        check: bool = True,
        timeout: float = 60,
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host (a string goes to its shell) and return it with its output.

        Raises LabError if it takes longer than `timeout` seconds, or with `check` if it fails.
        """
        return run(self._exec(cmd, input is not None), check, timeout, input)

    def spawn(self, cmd: str | list[str]) -> subprocess.Popen[str]:
        """Start a command on the host with pipes to it. End it by closing its input or on the
        host: killing the returned process would only cut the pipes."""
        pipe = subprocess.PIPE
        command = self._exec(cmd, interactive=True)
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file on the host, with its directories."""
        script = 'mkdir -p "$(dirname "$1")" && umask 077 && cat > "$1" && chmod "$2" "$1"'
        self.run(["sh", "-c", script, "sh", path, f"{mode:o}"], input=text)

    def kill(self) -> None:
        """Pull the power plug."""
        # A network without processes forwards until it is cleaned up, at the end without its NAT.
        set_cables(self.name, "down")
        run(["docker", "kill", self.container])

    def start(self) -> None:
        """Switch the host on; return when systemd has started everything."""
        run(["docker", "start", self.container])
        wire(self.name, self.pid)
        self.wait_booted()

    def restart(self) -> None:
        """Reboot: shut down in order and start again; return when systemd has started all."""
        run(["docker", "stop", "--time", "20", self.container])
        self.start()

    def boot_state(self) -> str:
        """Return what systemd says of itself: running, degraded, starting, ... or "" while off."""
        return self.run("systemctl is-system-running", check=False).stdout.strip()

    def wait_booted(self, timeout: float = 90) -> None:
        """Return when systemd has started everything (running; degraded: a service failed)."""
        booted = ("running", "degraded")
        wait_for(f"boot of {self.name}", lambda: self.boot_state() in booted, timeout)


# --- programs that watch ------------------------------------------------------------------------


def first_line(process: subprocess.Popen[str], name: str) -> str:
    """Return the line by which a program says that it has begun. Raises LabError with its errors if
    it ends without one."""
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        raise LabError(f"{name}: {process.communicate()[1].strip()}")
    return line


def last_words(process: subprocess.Popen[str], name: str, timeout: float) -> str:
    """End a program by closing its input, and return what it has printed since. Raises LabError
    with its errors if it failed."""
    output, errors = process.communicate(timeout=timeout)
    if process.returncode:
        raise LabError(f"{name}: {errors.strip()}")
    return output


# --- the probe ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outage:
    """Consecutive lost datagrams: from the first lost one's departure until the departure of the
    first that came back again (CLOCK_MONOTONIC seconds, as time.monotonic() gives)."""

    start: float
    end: float
    lost: int

    @property
    def ms(self) -> float:
        return (self.end - self.start) * 1000


@dataclass(frozen=True)
class ProbeResult:
    """What became of the datagrams, one per millisecond."""

    start: float  # time.monotonic() of the first datagram
    sent: int
    received: int
    slowest_echo_ms: float
    longest_send_gap_ms: float  # how late the sender itself was: its noise
    all_outages: tuple[Outage, ...]

    def outages(self, since: float = 0.0, longer_than_ms: float = 5.0) -> list[Outage]:
        """Return the outages longer than so many ms that ended after time.monotonic() `since`."""
        return [o for o in self.all_outages if o.end >= since and o.ms > longer_than_ms]

    def longest_outage_ms(self, since: float = 0.0) -> float:
        """Return the longest outage in ms, 0 if nothing was lost."""
        return max((o.ms for o in self.outages(since, 0.0)), default=0.0)


class Probe:
    """Sends from one host to the echo server at an address, 1000 datagrams a second, from entry
    to exit of a `with` block (or start() to stop()), but never longer than `seconds`. With `name`
    it asks a DNS server for that name, 100 times a second."""

    def __init__(self, host: Host, dst: str, port: int, seconds: float, name: str = "") -> None:
        self._host = host
        script = "/usr/local/lib/lab/probe.py"
        self._command = ["python3", script, dst, str(port), str(seconds)]
        if name:
            self._command += ["0.01", name]
        self._result: ProbeResult | None = None

    def start(self) -> Probe:
        """Start; return when the first datagram is on its way."""
        self._process = self._host.spawn(self._command)
        first_line(self._process, "probe")
        return self

    def stop(self) -> ProbeResult:
        """Stop and return the result, at most a second later."""
        if not self._result:
            self._result = self._parse(json.loads(last_words(self._process, "probe", 30)))
        return self._result

    @property
    def result(self) -> ProbeResult:
        """The result of a probe, which stops it."""
        return self.stop()

    @staticmethod
    def _parse(raw: dict[str, Any]) -> ProbeResult:
        start = raw["start"]
        return ProbeResult(
            start,
            raw["sent"],
            raw["received"],
            raw["slowest_echo"] * 1000,
            raw["longest_send_gap"] * 1000,
            tuple(Outage(start + first, start + end, lost) for first, end, lost in raw["lost"]),
        )

    def __enter__(self) -> Probe:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


@dataclass(frozen=True)
class SessionsResult:
    """What became of the sessions. A session is alive if it still does what it is for; it stood
    still for as long as it did not."""

    start: float  # time.monotonic() when all were open
    opened: int
    alive: int
    alive_talking: int  # of those in which the client talks, every second one
    deaths: dict[str, int]  # why: ECONNRESET, closed, silent, ...
    stalls_ms: tuple[float, ...]  # the longest of each that is alive, in ascending order

    @property
    def worst_stall_ms(self) -> float:
        return max(self.stalls_ms, default=0.0)


class Sessions:
    """TCP connections on which a line comes each `interval` seconds, from entry to exit of a
    `with` block (or start() to stop()), but never longer than `seconds`. On every second one the
    client only listens. They go to two ports, of which the echo server's is the first."""

    def __init__(
        self, host: Host, dst: str, port: int, count: int, seconds: float, interval: float
    ) -> None:
        self._host = host
        script = "/usr/local/lib/lab/sessions.py"
        arguments = (dst, port, count, seconds, interval)
        self._command = ["python3", script, *map(str, arguments)]
        self._result: SessionsResult | None = None

    def start(self) -> Sessions:
        """Start; return when all are open, or 15 s later."""
        self._process = self._host.spawn(self._command)
        self._start = float(json.loads(first_line(self._process, "sessions"))["start"])
        return self

    def stop(self) -> SessionsResult:
        """Stop and return the result, at once or, if one is silent, five seconds later."""
        if not self._result:
            raw = json.loads(last_words(self._process, "sessions", 60))
            stalls = tuple(seconds * 1000 for seconds in raw.pop("stalls"))
            self._result = SessionsResult(start=self._start, stalls_ms=stalls, **raw)
        return self._result

    @property
    def result(self) -> SessionsResult:
        """The result of the sessions, which stops them."""
        return self.stop()

    def __enter__(self) -> Sessions:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


# --- the lab ------------------------------------------------------------------------------------


class Lab:
    """The whole site. With `tests` the gateways have what tests ask for beside the demo."""

    hosts = tuple(TOPOLOGY)

    def __init__(self, tests: bool = False) -> None:
        self._node = "test-node" if tests else "node"
        self._caller: subprocess.Popen[str] | None = None  # salt_calls.py on the master

    def host(self, name: str) -> Host:
        """Return a host by its name."""
        if name not in TOPOLOGY:
            raise LabError(f"no host {name}; there are {', '.join(TOPOLOGY)}")
        return Host(name)

    def up(self) -> None:
        """Set everything up, or find it up already. Takes minutes the first time (images)."""
        if os.geteuid():
            raise LabError("the lab needs root: network namespaces and containers")
        (OUT / "pillar").mkdir(parents=True, exist_ok=True)
        install_tools()
        start_docker()
        if read_state().get("definition") == self._definition("test-node"):
            self._node = "test-node"  # is there already, and does for all
        remember(node=self._node)
        build_images(self._node)
        self.set_site(self.with_authority())
        self.set_pillar({})
        (OUT / "pillar" / "top.sls").write_text("base: {'gw*': [site, overrides]}\n")
        definition = self._definition(self._node)
        if read_state().get("definition") != definition or not switch_exists():
            self._remove_hosts()
        make_switch()
        self._start_hosts()
        self._plug_all()
        with step("Salt minions"):
            self.wait_minions()
        remember(definition=definition)

    def down(self) -> None:
        """Remove hosts, switch, and the Docker daemon if the lab started it. Images stay."""
        if docker_runs():
            self._remove_hosts()
        if switch_exists():
            run(["ip", "netns", "del", LAB_NAME])
        stop_docker()

    @contextmanager
    def visit(self) -> Iterator[Lab]:
        """Have the lab up, and remove it afterwards unless it was up before."""
        stays = self.is_up()
        try:
            self.up()
            yield self
        finally:
            if not stays:
                self.down()

    def is_up(self) -> bool:
        """Whether any of it is up."""
        return docker_runs() and any(self.status().values())

    def renew(self, *names: str) -> None:
        """Replace hosts by new ones, on which nobody has done anything yet."""
        with step(f"new machines: {', '.join(names)}"):
            compose("rm", "--stop", "--force", *names)
            for name in names:
                # The master knows the old one's key, and would refuse the new one.
                Host("master").run(["salt-key", "--yes", "--delete", name], check=False)
            self._start_hosts()
            self.wait_minions()

    def status(self) -> dict[str, str]:
        """Return for each host what its systemd says ("" for a host that is not up)."""
        return {name: Host(name).boot_state() for name in TOPOLOGY}

    @staticmethod
    def example() -> str:
        """Return pillar.example."""
        return (REPOSITORY / "pillar.example").read_text()

    def with_authority(self, key: bool = True) -> str:
        """Return pillar.example with the line of docs/vpn.md in the place of certificates, and the
        key of docs/dhcp.md, which older versions do not know."""
        line = "    pki: {{ salt['gateway_pki.pillar']('example', opts.id) | tojson }}\n"
        text, times = re.subn(r"^    pki:.*\n(      .*\n)+", line, self.example(), flags=re.M)
        assert times == 1
        if key:
            text, times = re.subn(r"^  dhcp: {", f"  dhcp: {{key: {LEASE_KEY}, ", text, flags=re.M)
            assert times == 1
        return text

    def set_site(self, text: str) -> None:
        """Replace the site's pillar (`with_authority` at each `up`)."""
        (OUT / "pillar" / "site.sls").write_text(text)

    def set_pillar(self, overrides: dict[str, Any]) -> None:
        """Merge these values over the site's pillar from now on; {} takes them back."""
        text = f"#!json\n{json.dumps(overrides, indent=1)}\n"
        (OUT / "pillar" / "overrides.sls").write_text(text)

    # cables, in one stroke; `ifaces` are the host's own names of the cards, without them all but
    # the one that Salt's master is on

    def unplug(self, host: str, *ifaces: str) -> None:
        """Pull cables: both ends lose their carrier."""
        set_cables(host, "down", *ifaces)

    def plug(self, host: str, *ifaces: str) -> None:
        """Put the cables back."""
        set_cables(host, "up", *ifaces)

    def isolate(self, host: str, *ifaces: str) -> None:
        """Cut cards off their networks without a sign of it: the carrier stays."""
        set_cables(host, "nomaster", *ifaces)

    def rejoin(self, host: str, *ifaces: str) -> None:
        """Undo isolate."""
        set_cables(host, "master {network}", *ifaces)

    @contextmanager
    def further(self, cards: dict[str, dict[str, str]]) -> Iterator[None]:
        """Have more networks, and in each a card of both gateways: the network's name, the card's,
        and the address of each gateway with its prefix length."""
        make_bridges(*cards)
        for number, (network, card) in enumerate(cards.items()):
            for gateway in GATEWAYS:
                mac = f"02:00:00:01:{number:02x}:0{gateway[-1]}"
                MORE_PORTS.setdefault(gateway, {})[card["card"]] = Port(network, card[gateway], mac)
        for gateway in GATEWAYS:
            self.plug_more(gateway, *MORE_PORTS[gateway])
        try:
            yield
        finally:
            MORE_PORTS.clear()
            for network, card in cards.items():
                for end in (*(f"{gateway}-{card['card']}" for gateway in GATEWAYS), network):
                    run(["ip", "-n", LAB_NAME, "link", "del", end], check=False)

    def plug_more(self, gateway: str, *cards: str) -> None:
        """Give a gateway cards that `further` knows, as new ones."""
        pid = self.host(gateway).pid
        inside = []
        for card in cards:
            inside += plug_in(gateway, pid, card, MORE_PORTS[gateway][card])
        ip_batch(inside, ["nsenter", "--net", "--target", str(pid)])

    def forget_connections(self) -> None:
        """Empty the gateways' tables of connections. Ports come again within minutes here, and a
        session that meets a leftover of one node alone is not told to the other one."""
        for name in GATEWAYS:
            if (gateway := self.host(name)).pid:
                gateway.run("! command -v conntrack >/dev/null || conntrack -F")

    def part(self, *hosts: str, apart: bool = True) -> None:
        """Keep these hosts from hearing each other; all others still hear all of them."""
        for name in hosts:
            set_cables(name, f"type bridge_slave isolated {'on' if apart else 'off'}")

    @contextmanager
    def tap(self, network: str, mac: str) -> Iterator[list[str]]:
        """Have one more socket on a network, with a card in the switch itself; return how to run
        a command there. The card is called tap and has no address."""
        run(["ip", "-n", LAB_NAME, "link", "del", "tap"], check=False)
        on_switch(
            f"link add tap address {mac} type veth peer name tap-socket",
            f"link set tap-socket master {network} addrgenmode none up",
            "link set tap addrgenmode none up",
        )
        try:
            yield ["ip", "netns", "exec", LAB_NAME]
        finally:
            run(["ip", "-n", LAB_NAME, "link", "del", "tap"])

    # Salt

    def wait_minions(self, timeout: float = 150) -> None:
        """Return when the minions of both gateways answer the master."""
        wait_for("Salt minions", lambda: self._minions_answer(timeout), timeout)

    def salt(self, target: str, fun: str, *args: str, timeout: float = 120) -> dict[str, Any]:
        """Run an execution module on the minions and return what each one returned."""
        script = "/usr/local/lib/lab/salt_calls.py"
        python = '"$(dirname "$(readlink -f "$(command -v salt)")")/python3"'
        caller, self._caller = self._caller, None
        if not caller or caller.poll() is not None:  # the master was switched off meanwhile
            caller = Host("master").spawn(f"exec {python} {script} 2>/dev/null")
        assert caller.stdin
        assert caller.stdout
        with suppress(BrokenPipeError):
            caller.stdin.write(json.dumps([target, fun, args, timeout]) + "\n")
            caller.stdin.flush()
        heard, _, _ = select([caller.stdout], [], [], timeout + 30)
        line = caller.stdout.readline() if heard else ""
        answer: dict[str, Any] | str = json.loads(line or '"no answer"')
        if line:
            self._caller = caller
        else:
            caller.kill()
            caller.communicate()  # without input it ends over there too
        if isinstance(answer, str):
            raise LabError(f"{shlex.join(['salt', target, fun, *args])}: {answer}")
        return answer

    def apply(
        self,
        target: str = "gw*",
        sls: str = "gateway",
        test: bool = False,
        timeout: float = 300,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Apply states and return, per minion, the results by state id (a list of errors when
        the states could not be rendered). Further keywords go to state.apply, like pillar={}."""
        options = {"test": test, **kwargs}
        arguments = [f"{key}={json.dumps(value)}" for key, value in options.items()]
        return self.salt(target, "state.apply", sls, *arguments, timeout=timeout)

    # measuring

    def probe(
        self,
        src: str = "backend01",
        dst: str = "198.51.100.100",
        port: int = 7007,
        seconds: float = 120,
    ) -> Probe:
        """Return a probe (see there): `with lab.probe() as p: ...` and then `p.result`."""
        return Probe(self.host(src), dst, port, seconds)

    def questions(self, name: str, dst: str, src: str = "backend01", seconds: float = 120) -> Probe:
        """Return a probe that asks the DNS server at `dst` for a name, every 10 ms."""
        return Probe(self.host(src), dst, 53, seconds, name)

    def sessions(
        self,
        count: int = 200,
        src: str = "backend01",
        dst: str = "198.51.100.100",
        port: int = 7007,
        seconds: float = 120,
        interval: float = 0.1,
    ) -> Sessions:
        """Return sessions (see there): `with lab.sessions() as s: ...` and then `s.result`. A
        line each 0.1 s is for some hundred of them; for thousands take a second."""
        return Sessions(self.host(src), dst, port, count, seconds, interval)

    def dhcp_offers(
        self, mac: str, src: str = "backend01", seconds: float = 4
    ) -> list[dict[str, Any]]:
        """Ask for a lease as a machine with this MAC and return every offer that comes in time:
        server, address, seconds."""
        script = "/usr/local/lib/lab/dhcp_offers.py"
        done = self.host(src).run(["python3", script, "eth0", mac, str(seconds)])
        offers: list[dict[str, Any]] = json.loads(done.stdout)
        return offers

    # parts of up and down

    @staticmethod
    def _definition(node: str) -> str:
        """Return a digest of everything that makes a lab with this image of gateways what it is."""
        parts = [build_context(), (LAB / "compose.yml").read_bytes()]
        parts.append(f"{TOPOLOGY}{DEBIAN}{SALT_SERIES}{node}".encode())
        return hashlib.sha256(b"".join(parts)).hexdigest()

    def _remove_hosts(self) -> None:
        with step("removing the machines"):
            compose("down", "--timeout", "3")

    def _start_hosts(self) -> None:
        if all(state in ("running", "degraded") for state in self.status().values()):
            return
        with step("starting the machines"):
            compose("up", "--detach", "--no-build")
            for name in TOPOLOGY:
                pid = Host(name).pid
                if not Path(f"/proc/{pid}/root/run/lab-wired").exists():
                    wire(name, pid)
            for name in TOPOLOGY:
                Host(name).wait_booted()
            self._enable_salt_ssh()

    def _plug_all(self) -> None:
        """Put every cable where it belongs, whatever an interrupted test left behind."""
        on_switch(
            *(
                f"link set {name}-{card} master {port.network} up"
                for name in TOPOLOGY
                for card, port in ports(name).items()
            )
        )

    def _enable_salt_ssh(self) -> None:
        """Let the master into the gateways with a key of its own."""
        master = Host("master")
        gateways = [name for name in TOPOLOGY if name.startswith("gw")]
        key = "/etc/salt/pki/master/ssh/salt-ssh.rsa"  # where salt-ssh looks for it
        make = f"mkdir -p $(dirname {key}); [ -e {key} ] || ssh-keygen -q -t rsa -N '' -f {key}"
        public = master.run(f"{make}; cat {key}.pub").stdout
        roster = {}
        for name in gateways:
            Host(name).write("/root/.ssh/authorized_keys", public, 0o600)
            on = {port.network: port for port in TOPOLOGY[name].ports}
            address = on["mgmt"].address.partition("/")[0]
            # A node has none of the master's files; those of the lab have them for masterless runs.
            options = {"id": name, "file_roots": {}, "pillar_roots": {}}
            roster[name] = {"host": address, "user": "root", "minion_opts": options}
        master.write("/etc/salt/roster", json.dumps(roster, indent=1))

    def _minions_answer(self, timeout: float) -> bool:
        gateways = [name for name in TOPOLOGY if name.startswith("gw")]
        # Salt waits long for a minion that missed the question: ask when all are connected.
        connected = "ss -Htn state established dport = :4505 | grep -q ."
        if any(Host(name).run(connected, check=False).returncode for name in gateways):
            return False
        ping = "salt --out=json --static --timeout=2 'gw*' test.ping"
        answer = Host("master").run(ping, check=False, timeout=timeout).stdout
        return all(f'"{name}": true' in answer for name in gateways)


def shell(name: str) -> None:
    """Replace this process by a shell on the host."""
    container = Lab().host(name).container
    os.execvp("docker", ["docker", "exec", "-it", container, "bash", "--login"])


def main() -> int:
    parser = argparse.ArgumentParser(description="A whole site on one Linux machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="set the lab up, or find it up already")
    commands.add_parser("down", help="remove it; images stay for the next time")
    commands.add_parser("status", help="show which hosts are up")
    commands.add_parser("shell", help="get into a host").add_argument("host", choices=TOPOLOGY)
    arguments = parser.parse_args()
    lab = Lab()
    try:
        if arguments.command == "shell":
            shell(arguments.host)
        elif arguments.command == "up":
            lab.up()
            # Not at the top: it imports this file.
            import_module("pki").distribute(lab)
            print("the lab is up; for instance: make shell HOST=master, and there:")
            print("  salt 'gw*' state.apply gateway")
        elif arguments.command == "status":
            for name, state in lab.status().items():
                print(f"{name:10} {state or 'off'}")
        else:
            getattr(lab, arguments.command)()
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
