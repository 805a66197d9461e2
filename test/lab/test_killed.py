"""A run that is killed, a state that fails, a umask, a chmod: the next apply leaves what an
undisturbed one would, and meanwhile nothing is open that should not be."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import checks
import pki
import pytest
from conftest import converge, have_formula, snapshot, wait_for_primary
from lab import Host, Lab

CALL = "salt-call --config-dir /etc/salt/masterless --out=json"
GW1 = checks.PUBLIC["gw1"]
BEFORE_THE_GATE = "ef1ecc5483b83052be7a0d2a3838bee160563ddb"
PRINTER, PRINTER_MAC = "10.77.0.20", "02:00:00:00:00:20"
FOLLOWER = """
[Service]
ExecStart=sleep infinity
"""
# A change of what each daemon reads, and of what each state writes.
CHANGED: dict[str, Any] = {
    "keepalived": {"settings": {"vrrp_garp_master_refresh": 15}},
    "hosts": {"printer": {"ip": PRINTER, "mac": PRINTER_MAC}},
    "nat": {"forwards": [{"port": 443, "to": "backend01"}, {"port": 8080, "to": "printer"}]},
    "dns": {"settings": {"address": "/changed.test/192.0.2.7"}},
    "dhcp": {"settings": {"dhcp-option": "option:log-server,192.0.2.8"}},
    "ntp": {"servers": ["198.51.100.100", "198.51.100.101"]},
    "vpn": {
        "clients": {"laptop": {"id": 5, "disabled": True}},
        "servers": {
            "main": {"settings": {"mute": 11}},
            "other": {"network": "10.9.0.0/16", "port": 4433},
        },
    },
    "follow_virtual_ip": ["lab-follower.service"],
    "failover": {"preempt_delay": 6},
    "firewall": {"input": [{"ports": 8443, "from": "internal"}]},
}
# All that has to be right about a file or folder of ours but for its text.
ACCESS = """
find /etc/gateway /usr/lib/gateway /var/lib/gateway /etc/keepalived/keepalived.conf \
    /etc/conntrackd /etc/chrony/chrony.conf /etc/openvpn/server /etc/sysctl.d/*gateway* \
    $(find /etc/systemd /etc/modules-load.d -name '*gateway*') \
    /etc/systemd/system/*.service.d -not -path '*/firewall/*' -not -name 'leases.db*' \
    -printf '%m %u %g %p\\n' 2>/dev/null | sort -u
"""
# What was started before a file was written that it reads has not read it. KEEPALIVED and the
# rest that is asked below need no restart for that.
STARTED = r"""
now=$(date +%s%N); read -r up _ </proc/uptime
for pair in gateway-follow:/usr/lib/gateway/follow gateway-health:/etc/gateway/health.conf \
    gateway-follow:/usr/lib/gateway/follow-decisions gateway-health:/usr/lib/gateway/health \
    gateway-health:/usr/lib/gateway/health-decisions gateway-dns:/etc/gateway/dns.conf \
    gateway-dhcp:/etc/gateway/dhcp.conf chrony:/etc/chrony/chrony.conf \
    openvpn-server@gateway-main:/etc/openvpn/server/gateway-main.conf \
    openvpn-server@gateway-other:/etc/openvpn/server/gateway-other.conf; do
    unit=${pair%%:*} file=${pair#*:}
    [ -e "$file" ] || continue
    pid=$(systemctl show -P MainPID "$unit")
    [ "$pid" != 0 ] || { echo "$unit does not run"; continue; }
    age=$(ps -o etimes= -p "$pid")
    [ $(($(date +%s) - age + 1)) -ge "$(stat -c %Y "$file")" ] || echo "$unit has not read $file"
done
systemctl show -p Id -p NeedDaemonReload '*gateway*' keepalived chrony | paste -sd' ' |
    grep -o 'Id=[^ ]* NeedDaemonReload=yes'
"""


def apply(host: Host, sls: str = "gateway", test: bool = False, umask: str = "022") -> Any:
    """Apply without a master and return the results."""
    return checks.local(host, f"umask {umask}; {CALL} state.apply {sls} test={test}")


def ok(results: Any) -> Any:
    assert checks.failures(results) == {}
    return results


def loaded(host: Host) -> dict[str, str]:
    """What the daemons of gw1 have really loaded of what CHANGED is about."""
    dump = "rm -f /tmp/keepalived.data; pkill -USR1 -o -x keepalived; sleep 0.5"
    dump += "; cat /proc/$(pgrep -o -x keepalived)/root/tmp/keepalived.data"
    ask = """
import socket
s = socket.socket(socket.AF_UNIX); s.connect("/run/gateway-main/control/management")
f = s.makefile("rw"); f.write("mute\\n"); f.flush()
while not (line := f.readline()).startswith(("SUCCESS", "ERROR")): pass
print(line.strip())
"""
    refresh = [
        line.strip() for line in host.run(dump).stdout.splitlines() if "refresh timer" in line
    ]
    return {
        "keepalived": "\n".join(refresh),
        "openvpn": host.run(["python3", "-c", ask], check=False).stdout,
        "chrony": host.run("chronyc -n sources | grep -oE '198[.0-9]+'", check=False).stdout,
        "stale": host.run(STARTED, check=False).stdout,
        "follower": host.run("systemctl is-active lab-follower", check=False).stdout,
    }


def state_of_things(lab: Lab) -> dict[str, Any]:
    """Everything that an apply decides on gw1, on disk, in the kernel and in the daemons."""
    gw1, backend = lab.host("gw1"), lab.host("backend01")
    lines = [line for line in snapshot(lab, "gw1") if "/var/lib/gateway/firewall/" not in line]
    return {
        "snapshot": [line for line in lines if "gateway-firewall-back" not in line],
        "access": gw1.run(ACCESS).stdout.splitlines(),
        "name": checks.resolve(backend, "printer.example.internal", checks.INTERNAL["gw1"]),
        "setting": checks.resolve(backend, "changed.test", checks.INTERNAL["gw1"]),
        "lease": [offer["address"] for offer in lab.dhcp_offers(PRINTER_MAC, seconds=1)]
        if knows_printer(gw1)
        else [],
        **loaded(gw1),
    }


def knows_printer(host: Host) -> bool:
    return not host.run("grep -q printer /etc/gateway/dhcp-hosts", check=False).returncode


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """What is other than in an undisturbed apply."""
    return {
        key: (sorted(set(wanted[key]) - set(value)), sorted(set(value) - set(wanted[key])))
        if isinstance(value, list)
        else (wanted[key], value)
        for key, value in found.items()
        if value != wanted[key]
    }


class Undisturbed:
    """gw1 applied without a master, from one of two pillars to the other and back."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.host = lab, lab.host("gw1")
        self.wanted: dict[int, dict[str, Any]] = {}
        self.seconds = 0.0
        self.now = 0

    def want(self, number: int) -> None:
        """Have one of the two pillars."""
        self.now = number
        self.lab.set_pillar({"gateway": CHANGED} if number else {})

    def learn(self) -> None:
        """See what an undisturbed apply leaves, and how long it takes."""
        for number in (1, 0):  # a follower that has left the pillar goes on
            self.want(number)
            start = time.monotonic()
            ok(apply(self.host))
            self.seconds = time.monotonic() - start
            wait_for_primary(self.lab)
            self.wanted[number] = state_of_things(self.lab)
            assert self.wanted[number]["stale"] == ""


@pytest.fixture(scope="module")
def own(lab: Lab) -> Iterator[Lab]:
    """gw1 can be applied without a master."""
    with pki.masterless(lab, "gw1"):
        yield lab


@pytest.fixture(scope="module")
def undisturbed(own: Lab) -> Iterator[Undisturbed]:
    lab = own
    lab.set_pillar({})
    converge(lab)
    undisturbed = Undisturbed(lab)
    undisturbed.host.write("/etc/systemd/system/lab-follower.service", FOLLOWER)
    undisturbed.host.run("systemctl daemon-reload")
    undisturbed.learn()
    yield undisturbed
    lab.set_pillar({})
    lab.apply()
    undisturbed.host.run("rm /etc/systemd/system/lab-follower.service; systemctl daemon-reload")
    converge(lab)


KILLS = [pytest.param(seed, marks=[] if seed == 0 else [pytest.mark.long]) for seed in range(50)]


@pytest.mark.parametrize("seed", KILLS)
def test_an_apply_that_is_killed(undisturbed: Undisturbed, seed: int) -> None:
    """At any moment, with all its children. The next one finishes it, and has nothing left."""
    seconds = random.Random(seed).uniform(0.3, 0.9) * undisturbed.seconds
    host, killed = undisturbed.host, False
    while not killed and seconds > 0.5:
        number = 1 - undisturbed.now
        undisturbed.want(number)
        print(f"seed {seed}: killed after {seconds:.2f} s of {undisturbed.seconds:.2f} s")
        done = host.run(
            f"setsid {CALL} state.apply gateway >/dev/null 2>&1 & pid=$!; sleep {seconds:.2f};"
            " kill -KILL -$pid; wait $pid; echo $?",
            timeout=300,
        )
        killed = done.stdout == "137\n"  # 128 and SIGKILL; else it was faster than the ones before
        seconds /= 2
    assert killed
    ok(apply(host))
    wait_for_primary(undisturbed.lab)
    assert differences(undisturbed.wanted[number], state_of_things(undisturbed.lab)) == {}
    assert checks.changes(ok(apply(host))) == {}


# --------------------------------------------------------------------------------------------------
# Modes

SCRAMBLE = """
chmod 0700 /etc/gateway/openvpn/main; chmod 0600 /etc/gateway/hosts /etc/gateway/dns.conf
chmod 0777 /usr/lib/gateway /etc/systemd/system/keepalived.service.d
chown nobody /etc/gateway/health.conf; chgrp nogroup /etc/systemd/system/gateway-dns.service
chmod 0666 /etc/openvpn/server/gateway-main.conf /etc/sysctl.d/60-gateway.conf
chmod 0640 /etc/gateway/openvpn/main/laptop; chmod 0644 /usr/lib/gateway/follow
chmod 0700 /var/lib/gateway
"""
UNITS = "gateway-dns gateway-dhcp gateway-follow gateway-health keepalived chrony"
UNITS += " openvpn-server@gateway-main"


@pytest.fixture
def laptop_disabled(own: Lab) -> Iterator[Lab]:
    """gw1 without anything of ours, and a pillar in which the laptop may not connect."""
    lab = own
    lab.set_pillar({})
    converge(lab)
    gw1 = lab.host("gw1")
    lab.apply("gw1")  # it may have been applied without a master
    before = gw1.run(ACCESS).stdout
    ok(apply(gw1, "gateway.clean"))
    lab.set_pillar({"gateway": {"vpn": {"clients": {"laptop": {"id": 5, "disabled": True}}}}})
    yield lab
    lab.set_pillar({})
    lab.apply()
    converge(lab)
    assert gw1.run(ACCESS).stdout == before


def refused(lab: Lab) -> str:
    """The server's words on the laptop, which does not get in."""
    since = lab.host("gw1").run("date +%s").stdout.strip()
    tunnel = pki.Tunnel(lab, GW1)
    tunnel.start()
    try:
        assert not tunnel.wait("Initialization Sequence Completed", seconds=6)
    finally:
        tunnel.__exit__()
    log = f"journalctl -q --since @{since} -u openvpn-server@gateway-main"
    return lab.host("gw1").run(log).stdout


@pytest.mark.long
@pytest.mark.parametrize("umask", [pytest.param("027", marks=pytest.mark.long), "077"])
def test_owners_and_modes(laptop_disabled: Lab, umask: str) -> None:
    """A first apply with a umask works as any; what somebody changes by hand is put right without a
    restart; and a server that cannot read who is disabled lets nobody in."""
    lab, gw1 = laptop_disabled, laptop_disabled.host("gw1")
    backend = lab.host("backend01")
    ok(apply(gw1, umask=umask))
    assert checks.resolve(backend, "www.example.internal", checks.INTERNAL["gw1"]) == checks.BACKEND
    refused(lab)
    assert checks.changes(ok(apply(gw1, umask=umask))) == {}
    for line in gw1.run(ACCESS).stdout.splitlines():
        mode, user, group, path = line.split()
        assert (user, group) == ("root", "root") or path.startswith("/etc/chrony"), line
        assert mode in ("644", "755", "600", "700", "777"), line  # 777: a link
    before = gw1.run(ACCESS).stdout
    processes = gw1.run(f"systemctl show -P MainPID {UNITS}").stdout

    gw1.run("chmod 0700 /etc/gateway")
    assert "is refused" in refused(lab)
    gw1.run(SCRAMBLE)
    predicted = checks.changes(ok(apply(gw1, test=True)))
    assert predicted == checks.changes(ok(apply(gw1, umask=umask)))
    assert gw1.run(ACCESS).stdout == before
    assert gw1.run(f"systemctl show -P MainPID {UNITS}").stdout == processes
    assert checks.changes(ok(apply(gw1))) == {}


# --------------------------------------------------------------------------------------------------
# States that fail

FIRST = (  # around what makes a gateway of a node
    "kernel settings",
    "firewall rules",
    "firewall at boot",
    "keepalived service",
)


@pytest.fixture(scope="module")
def alone(own: Lab) -> Iterator[Lab]:
    """gw1, which has to become a gateway by itself; strangers know the way to what is behind it."""
    lab = own
    lab.set_pillar({})
    converge(lab)
    internet, gw2 = lab.host("internet"), lab.host("gw2")
    gw2.run("systemctl stop keepalived")
    internet.run(f"ip route replace 10.77.0.0/24 via {GW1}")
    yield lab
    internet.run("ip route del 10.77.0.0/24")
    lab.apply()
    gw2.run("systemctl start keepalived")
    converge(lab)


def strangers(lab: Lab, act: Callable[[], Any]) -> dict[str, int]:
    """What passes from the public side meanwhile that should not: answers, and packets inside."""
    inside = lab.host("backend01").spawn(
        f"exec tcpdump -lnni eth0 'src {checks.INTERNET} and dst {checks.BACKEND}"
        " and (icmp[icmptype] = icmp-echo or udp dst port 7007 or tcp dst port 80)' 2>/dev/null"
    )
    script = "/usr/local/lib/lab/stranger.py"
    addresses = (checks.VIRTUAL_IP, checks.INTERNAL["gw1"], GW1)
    outside = lab.host("internet").spawn(["python3", script, checks.BACKEND, *addresses])
    assert outside.stdout
    assert outside.stdout.readline() == "{}\n"
    begin = time.monotonic()
    act()
    said = json.loads(outside.communicate(timeout=10)[0])
    lab.host("backend01").run("pkill -INT -x tcpdump")
    packets = [line for line in inside.communicate(timeout=10)[0].splitlines() if " IP " in line]
    assert said["rounds"] > 50
    print(f"answers at {said['when']} s of {time.monotonic() - begin:.1f}")
    passed: dict[str, int] = said["heard"]
    return passed | ({"packets": len(packets)} if packets else {})


def fail_at(lab: Lab, state: str) -> dict[str, int]:
    """Apply on a node without anything of ours, with this state failing; what passes meanwhile,
    and for three seconds after."""
    gw1 = lab.host("gw1")
    ok(apply(gw1, "gateway.clean"))

    def run() -> None:
        python = '"$(dirname "$(readlink -f "$(command -v salt-call)")")/python3"'
        script = f"{python} /usr/local/lib/lab/failing_state.py '{state}'"
        command = CALL.replace("salt-call", script, 1)
        failures = checks.failures(checks.local(gw1, f"{command} state.apply gateway"))
        assert state in failures
        time.sleep(3)

    return strangers(lab, run)


def test_strangers_see_what_is_open(alone: Lab) -> None:
    """The probe itself: without rules, everything passes."""
    gw1 = alone.host("gw1")
    ok(apply(gw1))
    assert strangers(alone, lambda: time.sleep(2)) == {}
    gw1.run("systemctl stop gateway-follow; systemctl stop gateway-firewall-guard")
    gw1.run("/usr/lib/gateway/firewall unload")
    try:
        passed = strangers(alone, lambda: time.sleep(2))
    finally:
        ok(apply(gw1))
    # The time server refuses strangers itself.
    assert passed["packets"]
    assert passed[f"dns {checks.INTERNAL['gw1']}"]


def test_nothing_passes_at_any_time(alone: Lab) -> None:
    """A first apply, a boot that takes long to load rules, another apply, clean, and its return."""
    gw1 = alone.host("gw1")
    ok(apply(gw1, "gateway.clean"))
    slow = "/etc/systemd/system/gateway-firewall.service.d/slow.conf"
    begin = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - begin:.1f} s: {what}")

    def act() -> None:
        tell("first apply")
        ok(apply(gw1))
        gw1.write(slow, "[Service]\nExecStartPre=sleep 2\n")
        tell("boot")
        gw1.restart()
        tell("booted")
        # What it said is to be seen where this fails.
        print(gw1.run("journalctl -qb -o short-precise -u 'gateway-*' | tail -n 200").stdout)
        gw1.run(f"rm -r {slow.rpartition('/')[0]}; systemctl daemon-reload")
        ok(apply(gw1))
        tell("clean")
        ok(apply(gw1, "gateway.clean"))
        time.sleep(1)
        tell("return")
        ok(apply(gw1))
        tell("end")

    assert strangers(alone, act) == {}


def test_an_upgrade_opens_nothing(alone: Lab) -> None:
    """From a formula without a gate, in one apply."""
    gw1 = alone.host("gw1")
    ok(apply(gw1, "gateway.clean"))
    have_formula(gw1, BEFORE_THE_GATE)
    alone.set_site(alone.with_authority(key=False))
    try:
        ok(apply(gw1))
    finally:
        have_formula(gw1)
        alone.set_site(alone.with_authority())
    assert strangers(alone, lambda: ok(apply(gw1))) == {}
    assert "blackhole" in gw1.run("ip rule show").stdout
    assert gw1.run("cat /proc/sys/net/ipv4/ip_forward").stdout == "1\n"
    assert checks.changes(ok(apply(gw1))) == {}


@pytest.mark.parametrize("state", FIRST)
def test_a_state_that_fails_opens_nothing(alone: Lab, state: str) -> None:
    assert fail_at(alone, state) == {}


@pytest.mark.long
def test_no_state_that_fails_opens_anything(alone: Lab) -> None:
    """Each of all the states in turn."""
    gw1 = alone.host("gw1")
    low = checks.local(gw1, f"{CALL} state.show_lowstate")
    if not isinstance(low, list):  # no top file here
        low = checks.local(gw1, f"{CALL} state.show_low_sls gateway")
    states = list(dict.fromkeys(chunk["__id__"] for chunk in low))
    opened = {state: passed for state in states if (passed := fail_at(alone, state))}
    assert opened == {}
