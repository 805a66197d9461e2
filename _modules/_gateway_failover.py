"""VRRP: who has the virtual IP, how fast it moves, and what is a reason to move it."""

import json
import re
from typing import Any

import _gateway_drain
import _gateway_kinds as kinds
import _gateway_machine
import _gateway_nodes
import _gateway_values as values
from _gateway_keys import EMPTY, Items, Key, Kind, Mapping, Settings, by_name, not_possible
from _gateway_machine import Facts, Here, Plan, service_unit
from _gateway_reader import Section
from _gateway_site import (
    Failover,
    Health,
    Node,
    Service,
    Site,
    plan_settings,
)

SHORTEST_ADVERT, LONGEST_ADVERT = 0.01, 40  # seconds
SHORTEST_REASSERT, LONGEST_REASSERT = 10, 86400  # seconds
_REASSERT_SECONDS = kinds.whole(SHORTEST_REASSERT, LONGEST_REASSERT)
ROUTER_ID = 51  # keepalived's customary one
OWN_UNITS = ("keepalived",)
# At 1 s and 8 adverts, even with 30 % loss there is one false failover in four hours.
FAILOVER_PROFILES: dict[str, dict[str, Any]] = {
    "fast": {"advert_interval": 0.05, "down_adverts": 3, "garp_delay": 1},
    "normal": {"advert_interval": 0.1, "down_adverts": 3, "garp_delay": 1},
    "lossy": {"advert_interval": 1, "down_adverts": 8, "garp_delay": 2},
}
# What breaks keepalived, or the formula's own lines, and the way round.
KEEPALIVED_OWN = {
    "max_auto_priority": "use gateway:failover:realtime_priority",
    "vrrp_down_timer_adverts": "use gateway:failover:down_adverts",
    "vrrp_garp_lower_prio_delay": "after a partition hosts would be late to learn who has won",
    "vrrp_higher_prio_send_advert": "a partition that heals is over when the winner has said so",
    "vrrp_rlimit_rttime": "with gateway:failover:realtime_priority the kernel would end keepalived",
    "vrrp_rt_priority": "use gateway:failover:realtime_priority",
    "vrrp_strict": "keepalived would drop all that is for a virtual IP, such as DNS",
}
_KEEPALIVED_MARKS = re.compile(r"[#!]")
HEALTH = "/run/gateway/health.json"


def keepalived_setting(value: object) -> str:
    return values.setting(value, _KEEPALIVED_MARKS)


def _reassert(value: object) -> int:
    """Seconds between two calls of executables that may ask somebody's API; 0 for no such calls."""
    seconds = values.whole(0, LONGEST_REASSERT)(value)
    if 0 < seconds < SHORTEST_REASSERT:
        raise ValueError(f"{seconds} is neither 0 nor in {_REASSERT_SECONDS.words}")
    return seconds


def _advert(value: object) -> float:
    """Seconds between two adverts. VRRP version 3 has 12 bits for hundredths (RFC 9568 5.2.7)."""
    values.one(value, "one number of seconds")
    if isinstance(value, str) and values.DECIMAL_PATTERN.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(
            f"must be a number of seconds, is {values.kind(value)} ({values.show(value)})"
        )
    if not SHORTEST_ADVERT <= value <= LONGEST_ADVERT:
        bounds = f"{SHORTEST_ADVERT} to {LONGEST_ADVERT}"
        raise ValueError(f"{values.show(value)} is not in {bounds} seconds")
    if abs(value * 100 - round(value * 100)) > 1e-6:
        raise ValueError(f"{values.show(value)} is not a whole number of hundredths of a second")
    return round(value * 100) / 100


_ADVERT = Kind(
    _advert,
    kinds.SECONDS.format(SHORTEST_ADVERT, LONGEST_ADVERT),
    lambda: kinds.number_or_text(
        SHORTEST_ADVERT,
        LONGEST_ADVERT,
        r"(?=[0-9]{1,4}(?:[.][0-9]{1,4})?$)(?!0*(?:[.]0*)?$)"
        rf"0*(?:(?:{kinds.digits(0, LONGEST_ADVERT - 1)})(?:[.][0-9]{{1,2}}0*)?"
        rf"|{LONGEST_ADVERT}(?:[.]0+)?)",
    ),
)
_REASSERT = kinds.either(
    _reassert,
    f"0, or {_REASSERT_SECONDS.words} s",
    kinds.whole(0, 0).schema,
    _REASSERT_SECONDS.schema,
)
_TARGETS = Items(kinds.HOST_ADDRESS, "list of addresses")
_SETTINGS = Settings(
    kinds.setting(keepalived_setting, rf"(?![^\n]*[#!]){values.PLAIN}*"),
    not_possible(KEEPALIVED_OWN),
)


def _of_profiles(name: str) -> str:
    return ", ".join(str(profile[name]) for profile in FAILOVER_PROFILES.values())


_FAILOVER = by_name(
    Key(
        "profile",
        kinds.one_of(*FAILOVER_PROFILES),
        "normal",
        "Sets `advert_interval`, `down_adverts` and `garp_delay`. Their three defaults below are"
        " in this order.",
    ),
    Key(
        "advert_interval",
        _ADVERT,
        None,
        "How often the holder says that it lives; in hundredths of a second.",
        said=_of_profiles("advert_interval"),
    ),
    Key(
        "down_adverts",
        kinds.whole(2, 100),
        None,
        "So many missed adverts in a row are a failover. With `lossy` it takes 8 s, and a link"
        " that loses 30 % of its packets causes none.",
        said=_of_profiles("down_adverts"),
    ),
    Key(
        "garp_delay",
        kinds.whole(0, 60, kinds.SECONDS),
        None,
        "After a takeover the addresses are announced at once, and once more after this time.",
        said=_of_profiles("garp_delay"),
    ),
    Key("garp_repeat", kinds.whole(1, 20), 5, "Announcements each time."),
    Key(
        "garp_refresh",
        kinds.whole(0, 3600, kinds.SECONDS),
        0,
        "Announce the addresses for ever, this often; 0 does not. A node with a fault that nobody"
        " notices would draw the traffic to itself each time.",
    ),
    Key(
        "startup_delay",
        kinds.whole(0, 60, kinds.SECONDS),
        1,
        "How long keepalived only listens after its start.",
    ),
    Key(
        "realtime_priority",
        kinds.whole(0, 99),
        50,
        "keepalived's real-time priority, so that busy processors cause no failover; 0 for none."
        " Where the machine does not allow it, keepalived runs without.",
    ),
    Key(
        "preempt",
        kinds.BOOLEAN,
        True,
        "Whether a better node that comes back takes the virtual IPs from a working one.",
    ),
    Key(
        "preempt_delay",
        kinds.whole(0, 3600, kinds.SECONDS),
        5,
        "How long it has to be in good health first. Each fault, lost uplink, flap of the"
        " internal link, drain and stall of the node begins the time anew.",
    ),
    Key(
        "reassert",
        _REASSERT,
        60,
        "How often the primary's executables in `/etc/gateway/follow.d` [are called"
        " again](failover.md#executables-that-follow); 0 for never.",
    ),
)
_PUBLIC_HEALTH = by_name(
    Key(
        "targets",
        _TARGETS,
        EMPTY,
        "One of them has to answer pings through the public interface. Otherwise the uplink"
        " counts as lost, after about four seconds.",
    ),
)
_INTERNAL_HEALTH = by_name(
    Key(
        "targets",
        _TARGETS,
        EMPTY,
        "One of them has to answer pings through the internal interface; silence is a fault. Name"
        " hosts that are always there, such as switches. With a public virtual IP"
        " `gateway.validate` advises to have some; `[]` says that it is not wanted.",
    ),
)
_HEALTH = by_name(
    Key(
        "services",
        Items(kinds.UNIT, "list of systemd units"),
        EMPTY,
        "Units of yours that have to run, such as `nginx.service`, `nginx` (the same) or"
        " `srv-data.mount`. One that has not run for about four seconds is a fault, as with"
        " `gateway-dns` and `gateway-follow`. None of `follow_virtual_ip`, which run on one node"
        " only: look at those with a [check of your own](failover.md#health) that asks"
        " `/run/gateway/role` first.",
    ),
    Key(
        "public",
        Mapping(_PUBLIC_HEALTH),
        EMPTY,
        "[Targets on the public side](#gatewayhealthpublic).",
    ),
    Key(
        "internal",
        Mapping(_INTERNAL_HEALTH),
        EMPTY,
        "[Targets on the internal side](#gatewayhealthinternal).",
    ),
)
_KEEPALIVED = by_name(
    Key(
        "router_id",
        kinds.whole(1, 255),
        ROUTER_ID,
        "VRRP's virtual router id, on both sides. No other VRRP router on these networks may use"
        " it.",
    ),
    Key("settings", _SETTINGS, EMPTY, "Lines `keyword value` at the end of `global_defs`."),
)
KEYS = (
    Key(
        "failover",
        Mapping(_FAILOVER),
        EMPTY,
        "How the primary is elected: [failover](#gatewayfailover).",
    ),
    Key("health", Mapping(_HEALTH), EMPTY, "What a healthy node is: [health](#gatewayhealth)."),
    Key("keepalived", Mapping(_KEEPALIVED), EMPTY, "[keepalived](#gatewaykeepalived)."),
)


def read_failover(top: Section) -> Failover:
    section = top.section("failover")
    usual = FAILOVER_PROFILES[section.get("profile") or "normal"]
    return Failover(
        advert_interval=section.get("advert_interval", default=usual["advert_interval"]),
        down_adverts=section.get("down_adverts", default=usual["down_adverts"]),
        garp_repeat=section.get("garp_repeat"),
        garp_delay=section.get("garp_delay", default=usual["garp_delay"]),
        garp_refresh=section.get("garp_refresh"),
        startup_delay=section.get("startup_delay"),
        realtime_priority=section.get("realtime_priority"),
        preempt=section.get("preempt"),
        preempt_delay=section.get("preempt_delay"),
        reassert=section.get("reassert"),
    )


def read_health(top: Section) -> Health:
    section = top.section("health")
    public, internal = section.section("public"), section.section("internal")
    return Health(
        services=section.get("services"),
        public_targets=public.get("targets"),
        internal_targets=internal.get("targets"),
        undecided="targets" not in internal.values,
    )


def read_keepalived(top: Section) -> tuple[int, Service]:
    """The virtual router id, and what keepalived is told."""
    section = top.section("keepalived")
    return section.get("router_id"), Service((), section.settings())


def plan(site: Site, node: Node) -> dict[str, Any]:
    """What keepalived reads, and what the health monitor does."""
    return {"vrrp": _vrrp(site, node), "health": _health(site, node)}


def units(plan: Plan) -> list[dict[str, Any]]:
    """keepalived, and who tells it how the node is."""
    return [service_unit("keepalived"), service_unit("gateway-health")]


def _vrrp(site: Site, node: Node) -> dict[str, Any]:
    peers = site.peers(node)
    instances = [
        {
            "name": "internal",
            "interface": node.internal_interface,
            "virtual_ip": str(site.internal.virtual_ip),
            "addresses": [],
            "further": [
                {
                    "interface": node.interface_in(network.name),
                    "address": str(network.virtual_ip),
                }
                for network in site.networks
            ],
            "source": str(node.internal),
            "peers": [str(peer.internal) for peer in peers],
        }
    ]
    if site.public.virtual_ip:
        instances.append(
            {
                "name": "public",
                "interface": node.public_interface,
                "virtual_ip": str(site.public.virtual_ip),
                "addresses": [str(address) for address in site.public.addresses],
                "further": [],
                "source": str(node.public),
                "peers": [str(peer.public) for peer in peers],
            }
        )
    failover = site.failover
    return {
        "router_id": site.router_id,
        "priority": _priority(site, node),
        "advert_interval": failover.advert_interval,
        "down_adverts": failover.down_adverts,
        "garp": {
            "repeat": failover.garp_repeat,
            "delay": failover.garp_delay,
            "refresh": failover.garp_refresh,
        },
        "startup_delay": failover.startup_delay,
        "realtime_priority": failover.realtime_priority,
        "instances": instances,
        "settings": plan_settings(site.keepalived.settings),
    }


def _priority(site: Site, node: Node) -> int:
    """VRRP's number. Of the pillar's numbers only the order counts: close together, any penalty
    outweighs them."""
    better = [other for other in site.nodes if other.priority > node.priority]
    return _gateway_nodes.HIGHEST_PRIORITY - len(better)


def _health(site: Site, node: Node) -> dict[str, Any]:
    """What the monitor of a node looks at, and what it takes off the node's priority for it."""
    step = len(site.nodes)
    lowest_peer = min(
        (_priority(site, other) for other in site.nodes if other is not node), default=0
    )
    failover = site.failover
    counted = _gateway_nodes.networks_counted(len(site.nodes), len(site.networks))
    most_lost = _gateway_nodes.NETWORK_PENALTY * counted
    return {
        "services": list(site.health.services),
        "public": {
            "interface": node.public_interface,
            "address": str(node.public) if node.public else "",
            "targets": [str(target) for target in site.health.public_targets],
        },
        "internal": {
            "interface": node.internal_interface,
            "address": str(node.internal),
            "targets": [str(target) for target in site.health.internal_targets],
            # With two elections, the one on the public side goes on when the internal side is dead.
            "undecided": bool(site.health.undecided and site.public.virtual_ip),
        },
        "networks": [
            {
                "name": network.name,
                "interface": node.interface_in(network.name),
                "address": str(node.address_in(network.name)),
                "virtual_ip": str(network.virtual_ip),
                "targets": [str(target) for target in network.targets],
            }
            for network in site.networks
        ],
        "networks_counted": counted,
        "virtual_ip": str(site.internal.virtual_ip),
        "announced": _announced(site, node),
        "preempt": failover.preempt,
        "preempt_delay": failover.preempt_delay,
        "advert": max(1, int(failover.advert_interval * 80)),
        "penalties": {
            **{name: number * step for name, number in _gateway_nodes.PENALTIES.items()},
            "drained": (_gateway_nodes.PENALTIES["drained"] + most_lost) * step,
            "network": _gateway_nodes.NETWORK_PENALTY * step,
            # While it is not yet known whether the peer can take over: just below a healthy peer
            # that is still cold, and above a peer with a fault.
            "draining": _priority(site, node) - (lowest_peer - step - 1),
        },
        # Seconds after which a healthy peer has taken over from a worse node.
        "takeover": failover.advert_interval * (failover.down_adverts + 2) + 2,
    }


def _announced(site: Site, node: Node) -> list[str]:
    """The addresses that move, each behind its interface."""
    moving = [
        (node.internal_interface, site.internal.virtual_ip),
        *((node.interface_in(local.name), local.virtual_ip) for local in site.networks),
        (node.public_interface, site.public.virtual_ip),
        *((node.public_interface, address) for address in site.public.addresses),
    ]
    return [word for interface, address in moving if address for word in (interface, str(address))]


def forecasts(plan: Plan, here: Here) -> list[str]:
    """What the status of a node that runs has as peers not heard and as services."""
    return [*_target_forecasts(plan), *_unit_forecasts(plan)]


def _unit_forecasts(plan: Plan) -> list[str]:
    """Units of the user's that are not there. The package may be yet to come."""
    own = {f"{each['unit']}.service" for each in plan["units"]}
    services = [unit for unit in plan["health"]["services"] if unit not in own]
    keys = {"follow_virtual_ip": plan["follow"]["units"], "health:services": services}
    missing = []
    for key, units in keys.items():
        command = ("systemctl", "show", "--property", "LoadState", "--value")
        states = _gateway_machine.output(*command, *units).split() if units else []
        # Without an answer from systemd, no unit can be called missing.
        if len(states) == len(units):
            missing += [
                f"gateway:{key}: there is no unit {unit} on this node"
                for unit, state in zip(units, states, strict=True)
                if state == "not-found"
            ]
    return missing


def _target_forecasts(plan: Plan) -> list[str]:
    """A site whose primary would stay in charge with a dead port, and that may not know it."""
    if not (plan["peers"] and plan["health"]["internal"]["undecided"]):
        return []
    return [
        "gateway:health:internal:targets: missing; beside a public virtual IP a primary whose"
        " internal port is dead stays in charge unless one of these hosts has to answer; name some,"
        " or say [] if it is to be so"
    ]


UNKNOWN: Facts = {"vrrp": {}}


def status(plan: Plan, here: Here) -> tuple[Facts, list[str]]:
    """``vrrp``: by side, the virtual IP and the node's role; and ``health``."""
    vrrp, vrrp_problems = _vrrp_status(plan, _gateway_machine.addresses_of(here.links))
    facts, health_problems = status_without_plan()
    return {"vrrp": vrrp, **facts}, [*vrrp_problems, *health_problems, *_silence(plan)]


def status_without_plan() -> tuple[Facts, list[str]]:
    """``health``: what the monitor says, and since when the node is drained."""
    nothing: dict[str, Any] = {"penalty": None, "cold": None, "uplink": [], "faults": []}
    report = json.loads(_gateway_machine.text(HEALTH) or "null") or nothing
    since = _gateway_drain.drained_since()
    problems = [] if since is None else [f"this node is drained since {since}"]
    problems += report["uplink"] + report["faults"]
    if report["penalty"] is None:
        problems.append("nothing is known of this node's health")
    return {"health": {name: report[name] for name in nothing} | {"drained": since}}, problems


def role(virtual_ip: str, addresses: list[str]) -> str:
    """Keepalived's word for a node that has a virtual IP, or has not."""
    return "MASTER" if virtual_ip in addresses else "BACKUP"


def _vrrp_status(plan: Plan, addresses: list[str]) -> tuple[dict[str, Any], list[str]]:
    sides = {
        instance["name"]: {
            "virtual_ip": instance["virtual_ip"],
            "role": role(instance["virtual_ip"], addresses),
        }
        for instance in plan["vrrp"]["instances"]
    }
    apart = len({side["role"] for side in sides.values()}) > 1
    return sides, ["the virtual IPs are not on one node"] if apart else []


def _silence(plan: Plan) -> list[str]:
    """
    On which side a peer is not heard while it is on another. With an election on each the node in
    charge stays in charge then, also where it is its own port that is dead.
    """
    silences = []
    for peer in plan["peers"]:
        ways = {
            instance["name"]: (instance["interface"], peer[instance["name"]])
            for instance in plan["vrrp"]["instances"]
        }
        silent = [side for side, way in ways.items() if not _answers(*way)]
        if not silent or len(silent) == len(ways):
            continue  # all is well, or the peer is off
        for side in silent:
            interface, address = ways[side]
            if _answers(interface, address):  # one packet may be lost
                continue
            silence = f"{peer['name']} is not heard on the {side} side ({address} on {interface})"
            if not plan["health"][side]["targets"]:
                silence += (
                    ", only elsewhere: nothing moves for that, since nobody knows whose port is"
                    f" dead (gateway:health:{side}:targets would say it)"
                )
            silences.append(silence)
    return silences


def _answers(interface: str, address: str) -> bool:
    return bool(
        _gateway_machine.output("ping", "-q", "-n", "-c", "1", "-W", "1", "-I", interface, address)
    )
