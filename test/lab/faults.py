"""The fault matrix: what is broken on purpose, and what must hold.

Each row of FAULTS says beforehand what has to be true; play.py plays the rows and judges. A row
never repairs what it broke by anything but undoing its cause: that the site is whole again by
itself is part of every row.
"""

from __future__ import annotations

import copy
import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import checks
import cloud
import crowd
import further
from engine import run
from lab import GATEWAYS, Lab, LabError
from observe import Observation

Pillar = dict[str, Any]
NOTHING = 0.0  # not a single datagram
VANISH_MS = {"fast": 250.0, "normal": 400.0, "lossy": 8500.0}
ZOMBIE_MS = 500.0
HEAL_MS = 50.0
SOON_MS = 1500.0  # the uplink's carrier is gone: the next look of the health monitor
PROBED_MS = 6000.0  # the uplink is silent: some probes in a row
ONE_MASTER_MS = 150.0  # within some adverts
BACK_MS = 1500.0  # hosts ask for a router that was silent once a second
ANNOUNCED_MS = 100.0  # from the first of many networks to the last
DHCP_MS = 1500.0  # asked each 200 ms; a server that stops needs a moment

PUBLIC = {"virtual_ip": checks.PUBLIC_VIRTUAL_IP}
MANY = 60  # further networks, as many as a site may have
MANY_NETWORKS, MANY_CARDS = further.many(MANY)
HEALTH = {"public": {"targets": [checks.INTERNET]}}
# What is merged over pillar.example. All but `plain` have a public virtual IP and replicate the
# state of connections.
SITES: dict[str, Pillar] = {
    "normal": {"public": PUBLIC, **checks.STATE_SYNC, "health": HEALTH},
    "fast": {
        "public": PUBLIC,
        **checks.STATE_SYNC,
        "health": HEALTH,
        "failover": {"profile": "fast"},
    },
    "lossy": {
        "public": PUBLIC,
        **checks.STATE_SYNC,
        "health": HEALTH,
        "failover": {"profile": "lossy"},
    },
    "plain": {"health": HEALTH},
    "networks": {"public": PUBLIC, **checks.STATE_SYNC, "health": HEALTH, **further.PILLAR},
    "networks, fast": {
        "public": PUBLIC,
        **checks.STATE_SYNC,
        "health": HEALTH,
        **further.PILLAR,
        "failover": {"profile": "fast"},
    },
    "many networks": {"public": PUBLIC, **checks.STATE_SYNC, "health": HEALTH, **MANY_NETWORKS},
}
# The gateways' cards in further networks, where a site has some.
CARDS: dict[str, crowd.Cards] = {
    "networks": further.CARDS,
    "networks, fast": further.CARDS,
    "many networks": MANY_CARDS,
}


# --- what can be done to the site ---------------------------------------------------------------


@dataclass
class Stage:
    """Where a row is played: the lab, the pillar of its site, the cards in further networks, and
    who watches (if somebody)."""

    lab: Lab
    pillar: Pillar
    cards: crowd.Cards = field(default_factory=dict)
    seen: Observation | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """The site's virtual IPs."""
        public = (checks.PUBLIC_VIRTUAL_IP,) if "public" in self.pillar else ()
        return (checks.VIRTUAL_IP, *public, *map(crowd.virtual_ip, self.cards.values()))


Step = Callable[[Stage], None]
Steps = tuple[Step, ...]


def on(names: str, command: str, check: bool = True) -> Step:
    """Run a command on one or more hosts."""

    def step(stage: Stage) -> None:
        for name in names.split():
            stage.lab.host(name).run(command, check=check, timeout=120)

    return step


def pause(seconds: float) -> Step:
    return lambda stage: time.sleep(seconds)


def times(count: int, *steps: Step) -> Step:
    def step(stage: Stage) -> None:
        for _ in range(count):
            for each in steps:
                each(stage)

    return step


def cards(action: str, name: str, *names: str) -> Step:
    """Cables of a host, all without names: unplug, plug, isolate, rejoin."""

    def step(stage: Stage) -> None:
        getattr(stage.lab, action)(name, *names)

    return step


def apart(stage: Stage) -> None:
    """No frame passes between the gateways; everybody else hears both."""
    stage.lab.part(*GATEWAYS)


def together(stage: Stage) -> None:
    stage.lab.part(*GATEWAYS, apart=False)


def power_off(name: str) -> Step:
    def step(stage: Stage) -> None:
        if stage.seen:
            stage.seen.holders[name].off()
        stage.lab.host(name).kill()

    return step


def power_on(*names: str) -> Step:
    """Return when they have booted."""

    def step(stage: Stage) -> None:
        boots = [threading.Thread(target=stage.lab.host(name).start) for name in names]
        for boot in boots:
            boot.start()
        for boot in boots:
            boot.join()

    return step


def freeze(name: str) -> Step:
    """Stop every process of a host; its kernel goes on."""
    return lambda stage: void(run(["docker", "pause", stage.lab.host(name).container]))


def thaw(name: str) -> Step:
    return lambda stage: void(run(["docker", "unpause", stage.lab.host(name).container]))


def void(_: object) -> None:
    """Drop a value."""


def salt(target: str, function: str, *arguments: str) -> Step:
    """Call a function on one minion and see to it that it did not refuse."""

    def step(stage: Stage) -> None:
        answer = stage.lab.salt(target, function, *arguments).get(target)
        if not answer or str(answer).startswith("ERROR"):
            raise LabError(f"{function} on {target}: {answer}")

    return step


def is_on(name: str) -> Step:
    """See to it that the row does what it is for: the virtual IPs have moved by now."""

    def step(stage: Stage) -> None:
        assert stage.seen
        for address in stage.addresses:
            if (now := stage.seen.masters(address)) != [name]:
                raise LabError(f"{address} is on {' and '.join(now) or 'none'}, not on {name}")

    return step


def taken_by(name: str) -> Step:
    """Wait until the virtual IPs are there, before the row begins."""

    def step(stage: Stage) -> None:
        for address in stage.addresses:
            found = functools.partial(checks.holders, stage.lab, address)
            if checks.eventually(found, lambda now: now == [name], 30) != [name]:
                raise LabError(f"{address} did not come to {name}")

    return step


def with_cloud(stage: Stage) -> None:
    """An executable in follow.d, which has just been called, moves an address of a cloud."""
    cloud.set_up(stage.lab)
    on("gw2 gw1", "systemctl restart gateway-follow")(stage)
    claimed_by("gw1")(stage)


def without_cloud(stage: Stage) -> None:
    cloud.take_down(stage.lab)


def claimed_by(name: str) -> Step:
    """See to it that the cloud's address has come to a gateway."""

    def step(stage: Stage) -> None:
        now = checks.eventually(lambda: cloud.owner(stage.lab), lambda who: who == name, 10)
        if now != name:
            raise LabError(f"the cloud's address is on {now or 'none'}, not on {name}")

    return step


def merged(base: Pillar, over: Pillar) -> Pillar:
    """Return `base` with `over` merged over it, as Salt does it."""
    result = copy.deepcopy(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


def apply(over: Pillar | None = None, sls: str = "gateway", fails: bool = False) -> Step:
    """Change the site's pillar (or back to what it was) and apply it to both at once."""

    def step(stage: Stage) -> None:
        stage.lab.set_pillar({"gateway": merged(stage.pillar, over or {})})
        for name, result in stage.lab.apply(sls=sls).items():
            if bool(checks.failures(result)) != fails:
                raise LabError(f"apply on {name}: {checks.failures(result) or 'no error'}")

    return step


# --- what must hold -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Must:
    """What must hold; None is for what a row cannot promise. Times in ms."""

    outage_ms: float | None = NOTHING  # the longest, from the break until it is mended
    heal_ms: float | None = NOTHING  # the longest, from then on
    dns_ms: float | None = 1000.0
    stall_ms: float | None = 1000.0  # of TCP sessions, where their state is replicated
    lost_sessions: int | None = 0  # likewise
    moves: int | None = 0  # how often a node takes the virtual IP, at most
    parted: bool = False  # while it is broken nobody can keep both from being master
    two_masters_ms: float = ONE_MASTER_MS
    two_dhcp_ms: float = DHCP_MS
    reached: int | None = (
        None  # datagrams of somebody outside that a host inside got; None: not tried
    )
    claimed_s: float | None = None  # until a cloud's address is where the virtual IP is
    whole_s: float = 30.0  # until gw1 has the virtual IPs and nobody has a problem
    further_ms: float | None = NOTHING  # as outage_ms, of further networks, but for
    dead: tuple[str, ...] = ()  # those that nobody can serve
    back_ms: float = BACK_MS  # how soon these are back when it is mended
    announced_ms: float | None = None  # the primary's peer in all further networks; None: not tried


def vanishes(profile: str = "normal", **other: Any) -> Must:
    """The primary is gone without a word."""
    limit = VANISH_MS[profile]
    stall = 1000.0 if limit < 1000 else 2 * limit + 1000
    expected = {"outage_ms": limit, "further_ms": limit, "heal_ms": HEAL_MS}
    expected |= {"dns_ms": limit + 100, "stall_ms": stall}
    return Must(**{**expected, "moves": 2, "parted": True, **other})


GRACEFUL = Must(moves=2)
UNDISTURBED = Must()


@dataclass(frozen=True)
class Fault:
    """One row: what breaks, for how long, what mends it, and what must hold. `before` and `after`
    are set and taken back without an observer."""

    name: str
    breaks: Steps
    must: Must
    mends: Steps = ()
    seconds: float = 3.0
    before: Steps = ()
    after: Steps = ()
    site: str = "normal"
    core: bool = False  # part of `make test`


# --- the rows -----------------------------------------------------------------------------------

CUT = (cards("isolate", "gw1"),)
UNCUT = (cards("rejoin", "gw1"),)
VRRP = "iptables -t raw -{} PREROUTING -p vrrp -j DROP"
DEAF = VRRP.format("I")
HEARS = VRRP.format("D")
LOSS = "iptables -t raw -{} PREROUTING -p vrrp -m statistic --mode random --probability 0.3 -j DROP"
MUTE = "iptables -{} OUTPUT -p vrrp -j DROP"
PARENT = "$(systemctl show -P MainPID keepalived)"
BUSY = "for _ in $(seq $(nproc)); do (timeout {} sh -c 'while :; do :; done' &); done"
MORE = {
    "hosts": {"printer": {"ip": "10.77.0.20", "mac": "02:00:00:00:00:20"}},
    "nat": {"forwards": [{"port": 443, "to": "backend01"}, {"port": 8080, "to": "printer"}]},
    "keepalived": {"settings": {"vrrp_garp_master_refresh": 15}},
}
WITH_A_SET = {
    "firewall": {
        "groups": {"few": ["192.0.2.0/24"]},
        "input": [{"from": "few", "action": "drop"}],
    }
}
WRONG = {"nodes": {"gw2": {"internal": "10.78.0.3"}}}

# Another clock for the daemons of a gateway. The machine's own is shared with everything else on
# it and is not touched; the monotonic clock is real, as it is when a clock is set.
FAKETIME = "/opt/faketime/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
CLOCKED = "gateway-dhcp keepalived gateway-follow gateway-health gateway-dns conntrackd"
# DHCP first: where keepalived starts again the role may go, and DHCP is stopped meanwhile.
AGAIN = f"""
systemctl daemon-reload
for unit in {CLOCKED}; do systemctl try-restart $unit; done
"""
OTHER_CLOCK = f"""
echo +0 > /run/faketime
for unit in {CLOCKED}; do
    mkdir -p /run/systemd/system/$unit.service.d
    printf '[Service]\\nEnvironment=%s\\n' 'LD_PRELOAD={FAKETIME} FAKETIME_DONT_FAKE_MONOTONIC=1 \
FAKETIME_TIMESTAMP_FILE=/run/faketime FAKETIME_CACHE_DURATION=1' \
        > /run/systemd/system/$unit.service.d/clock.conf
done
{AGAIN}
sleep 2
grep -q libfaketime /proc/{PARENT}/maps
"""
OWN_CLOCK = f"""
for unit in {CLOCKED}; do rm -f /run/systemd/system/$unit.service.d/clock.conf; done
{AGAIN}"""

# As many connections as the table takes, of the kind that is not thrown out for new ones. In parts:
# the filling itself should not take all of the kernel's time.
FULL_TABLE = """
command -v conntrack >/dev/null || apt-get -qq install conntrack >/dev/null
max=$(cat /proc/sys/net/netfilter/nf_conntrack_max)
mkdir -p /tmp/connections
awk -v max="$max" 'BEGIN { for (i = 0; i < max; i++) printf "-A -p tcp -s 10.77.0.200 " \
    "-d 203.0.113.%d --sport %d --dport %d --state ESTABLISHED -u ASSURED -t 60\\n", \
    1 + i / 60000, 1024 + i % 60000, 1024 + i % 60000 }' | split -l 4000 - /tmp/connections/
"""
FILL_TABLE = """
cd /proc/sys/net/netfilter
for part in /tmp/connections/*; do
    conntrack --load-file "$part" >/dev/null 2>&1
    sleep 0.1
done
test "$(cat nf_conntrack_count)" -ge $(($(cat nf_conntrack_max) - 1000))
"""

# The folders of the system on a disk of 1 MB, which is full.
FULL_DISK = """
mkdir -p /tmp/disk && mount -t tmpfs -o size=1m full /tmp/disk
for folder in etc var; do
    mkdir /tmp/disk/$folder /tmp/disk/$folder.work
    upper=/tmp/disk/$folder
    mount -t overlay -o lowerdir=/$folder,upperdir=$upper,workdir=$upper.work overlay /$folder
done
head -c 2m /dev/zero > /tmp/disk/fill 2>/dev/null
! echo something > /etc/gateway/something 2>/dev/null || exit 1
"""
DISK_AGAIN = "umount -l /etc /var; umount -l /tmp/disk; rmdir /tmp/disk"

NETWORKD = """
for card in 'eth0 10.77.0.{0}/24' 'eth1 198.51.100.{0}/24'; do
    set -- $card
    printf '[Match]\\nName=%s\\n[Network]\\nAddress=%s\\n' "$1" "$2" \
        > /etc/systemd/network/$1.network
done
printf 'Gateway=198.51.100.100\\n' >> /etc/systemd/network/eth1.network
systemctl start systemd-networkd
timeout 20 sh -c 'until networkctl status eth0 eth1 | grep -c "configured)" | grep -qx 2; do
    sleep 0.2; done'
"""
NO_NETWORKD = """
systemctl stop systemd-networkd.socket systemd-networkd
rm -f /etc/systemd/network/eth?.network
"""

# Somebody else's tool takes all rules away; iptables-legacy has no such thing as a ruleset.
FLUSH = "nft flush ruleset"
LEGACY_FLUSH = """
for ip in iptables ip6tables; do
    for table in raw mangle nat filter; do $ip-legacy -t $table -F; $ip-legacy -t $table -X; done
done
"""
BACKEND = """
for tool in iptables ip6tables; do update-alternatives --set $tool /usr/sbin/$tool-{}; done
"""


def backend(kind: str) -> Steps:
    """Move the rules to the other kind of iptables, nft or legacy."""
    clean = apply(sls="gateway.firewall.clean")
    # Without rules a node gives the virtual IP away.
    return (clean, on("gw1 gw2", BACKEND.format(kind)), apply(), taken_by("gw1"))


def flushed(**other: Any) -> Must:
    """Nobody gets in. What answers while there is no NAT is refused, and may end its session."""
    limits = {"outage_ms": 2500.0, "dns_ms": 2500.0, "stall_ms": None, "lost_sessions": None}
    return Must(**{**limits, "moves": 2, "reached": 0, **other})


def closed(name: str) -> Step:
    """See to it that a gateway knows that it has no rules, and says so."""

    def step(stage: Stage) -> None:
        status = stage.lab.salt(name, "gateway.status")[name]
        report = stage.lab.host(name).run("cat /run/gateway/health.json").stdout
        if not status["firewall"]["closed"] or "nothing is forwarded" not in report:
            raise LabError(f"{name} is not closed: {status['firewall']}, {report}")

    return step


# Debian 13's keepalived, with its own libraries.
TRIXIE = "/opt/trixie/usr"
OTHER_VERSION = f"""
printf '#!/bin/sh\\nexec %s --library-path %s %s "$@"\\n' {TRIXIE}/lib64/ld-linux-x86-64.so.2 \
    {TRIXIE}/lib/x86_64-linux-gnu {TRIXIE}/sbin/keepalived > /run/keepalived-2.3
chmod 755 /run/keepalived-2.3
cp /opt/trixie/etc/keepalived/keepalived.config-opts /etc/keepalived/
systemctl stop keepalived
mount --bind /run/keepalived-2.3 /usr/sbin/keepalived
systemctl start keepalived
keepalived --version 2>&1 | grep -q v2.3.3
"""
OWN_VERSION = """
systemctl stop keepalived
umount /usr/sbin/keepalived
rm -f /etc/keepalived/keepalived.config-opts
systemctl start keepalived
"""


def per_gateway(script: str) -> Steps:
    """Run a script on each with the last number of its addresses in the place of {0}."""
    return tuple(on(f"gw{number - 1}", script.format(number)) for number in (2, 3))


FAULTS: tuple[Fault, ...] = (
    # keepalived itself
    Fault(
        "keepalived stopped",
        (on("gw1", "systemctl stop keepalived"),),
        GRACEFUL,
        mends=(on("gw1", "systemctl start keepalived"),),
        core=True,
    ),
    Fault("keepalived restarted", (on("gw1", "systemctl restart keepalived"),), GRACEFUL),
    Fault(
        "keepalived reloaded ten times",
        (times(10, on("gw1 gw2", "systemctl reload keepalived")),),
        UNDISTURBED,
        core=True,
    ),
    Fault(
        "keepalived killed, parent", (on("gw1", f"kill -9 {PARENT}"),), Must(outage_ms=400, moves=2)
    ),
    Fault(
        "keepalived killed, child",
        (on("gw1", f"pkill -9 -P {PARENT}"),),
        Must(outage_ms=ZOMBIE_MS, moves=2, two_masters_ms=3000, two_dhcp_ms=3000),
    ),
    Fault(
        "keepalived killed, both",
        (on("gw1", "pkill -9 -x keepalived"),),
        Must(outage_ms=ZOMBIE_MS, moves=2, two_masters_ms=3000, two_dhcp_ms=3000),
        core=True,
    ),
    Fault(
        "keepalived stands still",
        (on("gw1", "pkill -STOP -x keepalived"),),
        vanishes(outage_ms=ZOMBIE_MS),
        mends=(on("gw1", "pkill -CONT -x keepalived"),),
    ),
    # the primary is gone
    Fault("primary vanishes", CUT, vanishes(), mends=UNCUT, core=True),
    Fault(
        "primary loses power",
        (power_off("gw1"),),
        vanishes(parted=False),
        mends=(power_on("gw1"),),
    ),
    Fault(
        "primary boots while the secondary is master",
        (power_on("gw1"), pause(12)),
        Must(moves=1, dns_ms=1000),
        before=(power_off("gw1"), pause(2)),
    ),
    Fault(
        "both boot at once",
        (power_off("gw1"), power_off("gw2"), power_on("gw1", "gw2")),
        Must(None, None, None, None, None, 2, two_masters_ms=1000, whole_s=60),
    ),
    Fault(
        "primary frozen for 30 s",
        (freeze("gw1"),),
        vanishes(outage_ms=ZOMBIE_MS),
        mends=(thaw("gw1"),),
        seconds=30,
    ),
    # links
    Fault(
        "LAN link down",
        (cards("unplug", "gw1", "eth0"),),
        vanishes(),
        mends=(cards("plug", "gw1", "eth0"),),
    ),
    Fault(
        "WAN link down",
        (cards("unplug", "gw1", "eth1"),),
        vanishes(outage_ms=SOON_MS, stall_ms=2 * SOON_MS, parted=False),
        mends=(cards("plug", "gw1", "eth1"),),
        core=True,
    ),
    Fault(
        "both links down",
        (cards("unplug", "gw1", "eth0", "eth1"),),
        vanishes(),
        mends=(cards("plug", "gw1", "eth0", "eth1"),),
    ),
    Fault(
        "LAN link flaps",
        (
            times(
                5, cards("unplug", "gw1", "eth0"), pause(1), cards("plug", "gw1", "eth0"), pause(1)
            ),
        ),
        vanishes(),
    ),
    Fault(
        "WAN link flaps",
        (
            times(
                5, cards("unplug", "gw1", "eth1"), pause(1), cards("plug", "gw1", "eth1"), pause(1)
            ),
        ),
        vanishes(outage_ms=SOON_MS, stall_ms=2 * SOON_MS, parted=False),
    ),
    Fault(
        "upstream of one dead, its link up",
        (cards("isolate", "gw1", "eth1"),),
        vanishes(outage_ms=PROBED_MS, dns_ms=1000, stall_ms=2 * PROBED_MS + 1000, parted=False),
        mends=(cards("rejoin", "gw1", "eth1"),),
        seconds=10,
        core=True,
    ),
    Fault(
        "upstream of both dead, links up",
        (cards("isolate", "gw1", "eth1"), cards("isolate", "gw2", "eth1")),
        Must(outage_ms=None, heal_ms=None, stall_ms=None, moves=0),
        mends=(cards("rejoin", "gw1", "eth1"), cards("rejoin", "gw2", "eth1")),
        seconds=10,
    ),
    Fault(
        "LAN of one dead, its link up, with targets",
        (cards("isolate", "gw1", "eth0"), pause(10), is_on("gw2")),
        vanishes(outage_ms=PROBED_MS, dns_ms=PROBED_MS, stall_ms=2 * PROBED_MS + 1000),
        mends=(cards("rejoin", "gw1", "eth0"),),
        before=(apply({"health": {"internal": {"targets": [checks.BACKEND]}}}),),
        after=(apply(),),
    ),
    # partitions
    Fault(
        "partition of VRRP",
        (on("gw1 gw2", DEAF),),
        vanishes(outage_ms=ZOMBIE_MS),
        mends=(on("gw1 gw2", HEARS),),
        seconds=5,
    ),
    Fault(
        "partition of VRRP, one way",
        (on("gw2", DEAF),),
        vanishes(outage_ms=ZOMBIE_MS),
        mends=(on("gw2", HEARS),),
        seconds=5,
    ),
    Fault(
        "partition of everything",
        (apart,),
        vanishes(outage_ms=ZOMBIE_MS),
        mends=(together,),
        seconds=5,
    ),
    Fault(
        "zombie primary",
        (on("gw1", MUTE.format("I")),),
        vanishes(outage_ms=ZOMBIE_MS),
        mends=(on("gw1", MUTE.format("D")),),
        seconds=5,
        core=True,
    ),
    Fault(
        "internal partition, and an address of a cloud",
        (cards("isolate", "gw1", "eth0"), claimed_by("gw2")),
        vanishes(stall_ms=None, lost_sessions=None, claimed_s=5),
        mends=(cards("rejoin", "gw1", "eth0"),),
        before=(with_cloud,),
        after=(without_cloud,),
        site="plain",
    ),
    # the door
    Fault("rules flushed on the holder", (on("gw1", FLUSH),), flushed(moves=0), core=True),
    Fault("rules flushed on both", (on("gw1 gw2", FLUSH),), flushed(moves=0)),
    Fault(
        "table filter flushed on the holder, policy ACCEPT", (on("gw1", "iptables -F"),), flushed()
    ),
    Fault(
        "rules flushed in a loop on the holder",
        (on("gw1", f"timeout 8 sh -c 'while :; do {FLUSH}; sleep 0.3; done' || :"), is_on("gw2")),
        flushed(whole_s=90),
    ),
    Fault(
        "rules flushed on the holder, iptables-legacy",
        (on("gw1", LEGACY_FLUSH),),
        flushed(moves=0),
        before=backend("legacy"),
        after=backend("nft"),
    ),
    Fault(
        "rules not loadable at boot",
        (power_off("gw1"), pause(2), power_on("gw1"), pause(8), is_on("gw2"), closed("gw1")),
        vanishes(parted=False, reached=0, whole_s=60),
        mends=(on("gw1", "mv /usr/sbin/ipset.away /usr/sbin/ipset"),),
        before=(apply(WITH_A_SET), on("gw1", "mv /usr/sbin/ipset /usr/sbin/ipset.away")),
        after=(apply(),),
    ),
    # a bad day
    Fault("CPU starved for a minute", (on("gw1 gw2", BUSY.format(60)),), UNDISTURBED, seconds=61),
    Fault(
        "clock an hour ahead, then an hour behind",
        (
            on("gw1 gw2", "echo +1h > /run/faketime"),
            pause(8),
            on("gw1 gw2", "echo -1h > /run/faketime"),
            pause(8),
        ),
        UNDISTURBED,
        mends=(on("gw1 gw2", "echo +0 > /run/faketime"),),
        before=(on("gw2 gw1", OTHER_CLOCK), pause(8)),
        after=(on("gw2 gw1", OWN_CLOCK),),
    ),
    Fault(
        "connection table full",
        (on("gw1", FILL_TABLE),),
        # There is no room for what is new, as the DNS client's questions and those of the health
        # monitor to its target; what is open goes on. The status tells for a minute that the peer
        # could not be told of all of them.
        Must(dns_ms=None, moves=2, whole_s=150),
        before=(on("gw1", FULL_TABLE),),
        after=(on("gw1", "rm -rf /tmp/connections"),),
        seconds=10,
    ),
    Fault(
        "primary vanishes with both disks full",
        CUT,
        vanishes(),
        mends=UNCUT,
        before=(on("gw1 gw2", FULL_DISK),),
        after=(on("gw1 gw2", DISK_AGAIN),),
    ),
    # processes
    Fault("follower killed", (on("gw1", "pkill -9 -f '[/]usr/lib/gateway/follow'"),), UNDISTURBED),
    Fault(
        "health monitor killed", (on("gw1", "systemctl kill -s KILL gateway-health"),), UNDISTURBED
    ),
    Fault(
        "health monitor stands still",
        (on("gw1", "systemctl kill -s STOP gateway-health"),),
        UNDISTURBED,
        seconds=30,
    ),
    Fault("dnsmasq killed", (on("gw1", "systemctl kill -s KILL gateway-dns"),), Must(dns_ms=2000)),
    Fault(
        "dnsmasq gone for good",
        (on("gw1", "systemctl stop gateway-dns"), pause(8), is_on("gw2")),
        Must(dns_ms=5000, moves=2),
        mends=(on("gw1", "systemctl start gateway-dns"),),
    ),
    Fault("conntrackd killed", (on("gw1", "systemctl kill -s KILL conntrackd"),), UNDISTURBED),
    Fault("openvpn killed", (on("gw1", "systemctl kill -s KILL 'openvpn-server@*'"),), UNDISTURBED),
    # our own doing
    Fault(
        "firewall applied again and again",
        (times(4, apply(MORE, "gateway.firewall"), apply(sls="gateway.firewall")),),
        UNDISTURBED,
    ),
    Fault(
        "changed pillar applied to both", (apply(MORE),), UNDISTURBED, mends=(apply(),), core=True
    ),
    Fault(
        "broken pillar applied to both", (apply(WRONG, fails=True),), UNDISTURBED, mends=(apply(),)
    ),
    Fault(
        "drained and undrained",
        (salt("gw1", "gateway.drain"), pause(3), is_on("gw2")),
        GRACEFUL,
        mends=(salt("gw1", "gateway.undrain"),),
        core=True,
    ),
    Fault(
        "networkd restarted",
        (times(3, on("gw1 gw2", "systemctl restart systemd-networkd"), pause(2)),),
        UNDISTURBED,
        before=(*per_gateway(NETWORKD), apply()),
        after=(on("gw1 gw2", NO_NETWORKD), apply()),
    ),
    Fault(
        "primary vanishes, other node has keepalived 2.3.3",
        CUT,
        vanishes(),
        mends=UNCUT,
        before=(on("gw2", OTHER_VERSION), apply()),
        after=(on("gw2", OWN_VERSION), apply()),
    ),
    Fault(
        "secondary loses its address",
        (on("gw2", "ip address delete 10.77.0.3/24 dev eth0"),),
        UNDISTURBED,
        mends=(on("gw2", "ip address add 10.77.0.3/24 broadcast + dev eth0"),),
    ),
    Fault(
        "primary loses its address",
        (on("gw1", "ip address delete 10.77.0.2/24 dev eth0"),),
        vanishes(),
        mends=(on("gw1", "ip address add 10.77.0.2/24 broadcast + dev eth0"),),
    ),
    # other sites
    Fault("primary vanishes, fast", CUT, vanishes("fast"), mends=UNCUT, site="fast"),
    Fault(
        "zombie primary, fast",
        (on("gw1", MUTE.format("I")),),
        vanishes(outage_ms=ZOMBIE_MS),
        mends=(on("gw1", MUTE.format("D")),),
        seconds=5,
        site="fast",
    ),
    Fault(
        "CPU starved for a minute, fast",
        (on("gw1 gw2", BUSY.format(60)),),
        UNDISTURBED,
        seconds=61,
        site="fast",
    ),
    Fault(
        "primary vanishes, lossy",
        CUT,
        vanishes("lossy", two_masters_ms=1500),  # an advert a second
        mends=UNCUT,
        seconds=12,
        site="lossy",
    ),
    Fault(
        "30 % of adverts lost for two minutes",
        (on("gw1 gw2", LOSS.format("I")),),
        UNDISTURBED,
        mends=(on("gw1 gw2", LOSS.format("D")),),
        seconds=120,
        site="lossy",
    ),
    Fault(
        "primary vanishes, plain",
        CUT,
        vanishes(stall_ms=None, lost_sessions=None),
        mends=UNCUT,
        site="plain",
    ),
    Fault(
        "keepalived stopped, plain",
        (on("gw1", "systemctl stop keepalived"),),
        Must(moves=2, stall_ms=None, lost_sessions=None),
        mends=(on("gw1", "systemctl start keepalived"),),
        site="plain",
    ),
    Fault(
        "partition of everything, plain",
        (apart,),
        vanishes(outage_ms=ZOMBIE_MS, stall_ms=None, lost_sessions=None),
        mends=(together,),
        seconds=5,
        site="plain",
    ),
)


def unpause(stage: Stage) -> None:
    for name in GATEWAYS:
        run(["docker", "unpause", stage.lab.host(name).container], check=False)


# After a row that could not be played to its end.
REPAIRS: Steps = (
    unpause,
    together,
    without_cloud,
    *(cards(action, name) for action in ("rejoin", "plug") for name in GATEWAYS),
    on("gw1 gw2", "pkill -CONT -x keepalived; systemctl kill -s CONT gateway-health", check=False),
    on("gw1 gw2", f"{HEARS}; {MUTE.format('D')}; {LOSS.format('D')}", check=False),
    on("gw1 gw2", f"{DISK_AGAIN}; {OWN_CLOCK}; {NO_NETWORKD}", check=False),
    on("gw1 gw2", f"if umount /usr/sbin/keepalived; then {OWN_VERSION} fi", check=False),
    on("gw1", "ip address add 10.77.0.2/24 broadcast + dev eth0", check=False),
    on("gw2", "ip address add 10.77.0.3/24 broadcast + dev eth0", check=False),
    on("gw1 gw2", "rm -f /var/lib/gateway/drained; systemctl start keepalived", check=False),
)
