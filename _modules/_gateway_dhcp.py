"""DHCP: one pool, and addresses by MAC."""

import re
from datetime import datetime, timezone
from ipaddress import IPv4Address
from typing import Any

import _gateway_dnsmasq
import _gateway_kinds as kinds
import _gateway_machine
import _gateway_values as values
from _gateway_keys import EMPTY, Key, Kind, Mapping, Settings, by_name
from _gateway_machine import Facts, Here, Plan, opening, service_unit
from _gateway_reader import Section
from _gateway_site import (
    Dhcp,
    Host,
    Network,
    Node,
    Site,
    plan_settings,
)

# dnsmasq turns a shorter lease into 120 seconds. It counts in 32 bits, and all ones mean
# "infinite".
SHORTEST_LEASE, LONGEST_LEASE = 120, 2**32 - 2
MOST_LEASE = 999_999  # of whatever unit
LEASE_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LEASE_PATTERN = re.compile(r"[1-9][0-9]{0,5}[smhdw]?|infinite")
FOLLOWERS = ("gateway-dhcp.service",)
LEASES = "/var/lib/gateway/dhcp.leases"


def _lease_time(value: object) -> str:
    """A number alone is seconds."""
    number = isinstance(value, int) and not isinstance(value, bool)
    text = values.matching(_LEASE_PATTERN, "a time such as 30m, 12h or infinite")(
        values.safe_repr(value) if number else value
    )
    if text == "infinite":
        return text
    seconds = int(text.rstrip("smhdw")) * LEASE_UNITS.get(text[-1], 1)
    if not SHORTEST_LEASE <= seconds <= LONGEST_LEASE:
        raise ValueError(
            f"{text} is not in 2m to {LONGEST_LEASE // LEASE_UNITS['w']}w, nor infinite"
        )
    return text


def _pool(value: object) -> tuple[IPv4Address, IPv4Address]:
    first, dash, last = values.string(value).partition("-")
    if not dash:
        raise ValueError(f"{values.show(value)} is not a range such as 10.77.0.100-10.77.0.199")
    pool = values.address(first.strip(" ")), values.address(last.strip(" "))
    if pool[0] > pool[1]:
        raise ValueError(f"{values.show(value)} ends before it begins")
    return pool


def _lease_schema() -> dict[str, Any]:
    """Of each unit so many as are between the shortest and the longest, in up to six digits."""
    forms = ["infinite"]
    for unit, size in {**LEASE_UNITS, "": 1}.items():
        shortest = -(-SHORTEST_LEASE // size)
        forms.append(f"(?:{kinds.digits(shortest, min(MOST_LEASE, LONGEST_LEASE // size))}){unit}")
    return kinds.number_or_text(SHORTEST_LEASE, MOST_LEASE, "|".join(forms))


_POOL = Kind(
    _pool,
    "`FIRST-LAST`",
    lambda: kinds.text(
        f" *{kinds.ADDRESS_PATTERN} *- *{kinds.ADDRESS_PATTERN} *",
        "a range such as 10.77.0.100-10.77.0.199",
    ),
)
_LEASE_TIME = Kind(_lease_time, "text", _lease_schema)
_SETTINGS = Settings(_gateway_dnsmasq.SETTING, _gateway_dnsmasq.DHCP_REFUSED)
_DHCP = by_name(
    Key(
        "enabled",
        kinds.BOOLEAN,
        None,
        "",
        said="true if there is a `pool` or a host with a `mac`",
    ),
    Key(
        "pool",
        _POOL,
        None,
        "Addresses for unknown machines: inside the internal network, without nodes and virtual"
        " IPs, one range (further ones are `dhcp-range` lines of `settings`). Reserved addresses"
        " may lie in it. Without a pool only reservations are answered.",
        more="further ranges are dhcp-range lines of gateway:dhcp:settings",
    ),
    Key(
        "lease_time",
        _LEASE_TIME,
        "12h",
        "A number with `s`, `m`, `h`, `d` or `w`, or without a letter (seconds), or `infinite`."
        " At least two minutes: dnsmasq knows no shorter ones.",
    ),
    Key("settings", _SETTINGS, EMPTY, "Lines `keyword=value` in `/etc/gateway/dhcp.conf`."),
)
KEYS = (Key("dhcp", Mapping(_DHCP), EMPTY, "[dhcp](#gatewaydhcp)."),)


def read_dhcp(top: Section, internal: Network, hosts: tuple[Host, ...]) -> Dhcp:
    reader, section = top.reader, top.section("dhcp")
    pool = section.get("pool")
    wanted = bool(pool or any(host.macs for host in hosts))
    dhcp = Dhcp(
        enabled=section.get("enabled", default=wanted),
        pool=pool,
        lease_time=section.get("lease_time"),
        settings=section.settings(),
    )
    if dhcp.enabled is False and "enabled" not in section.values:
        for key in section.values:
            if key in section.keys:
                reader.fault(
                    section.at(key),
                    "means nothing without DHCP; it is on with a pool, a host's mac or enabled",
                )
    if pool and internal.network:
        for end in pool:
            reader.inside(end, internal.network, section.at("pool"))
        for (kind, value), path in list(reader.claims.items()):
            taken_by_gateway = kind == "address" and not path.startswith("gateway:hosts:")
            if taken_by_gateway and pool[0] <= value <= pool[1]:
                reader.fault(section.at("pool"), f"holds {value} of {path}")
    return dhcp


def plan(site: Site, node: Node) -> dict[str, Any]:
    return {"dhcp": _dhcp(site)}


def ports(site: Site) -> dict[str, str]:
    return {"67/udp": "DHCP"} if site.dhcp.enabled else {}


def openings(plan: Plan) -> list[dict[str, Any]]:
    return [opening("DHCP", "udp", 67, "hosts", "new hosts", version=4)]


def units(plan: Plan) -> list[dict[str, Any]]:
    """One node answers: the one that has the virtual IP."""
    return [service_unit("gateway-dhcp", where="primary")] if plan["dhcp"]["enabled"] else []


def _dhcp(site: Site) -> dict[str, Any]:
    virtual_ip = str(site.internal.virtual_ip)
    return {
        "enabled": site.dhcp.enabled,
        "pool": [str(end) for end in site.dhcp.pool] if site.dhcp.pool else None,
        "lease_time": site.dhcp.lease_time,
        "router": virtual_ip,
        "dns": [virtual_ip],
        # The nodes' own addresses: a client must not see its time source change on a failover.
        "ntp": [str(node.internal) for node in site.nodes],
        "reservations": [
            # dnsmasq reads short names such as 3d, 42 or ignore as something else.
            {"name": f"{host.name}.{site.domain}", "ip": str(host.ip), "macs": list(host.macs)}
            for host in site.hosts
            if host.macs
        ],
        "settings": plan_settings(site.dhcp.settings),
    }


def status(plan: Plan, here: Here) -> tuple[Facts, list[str]]:
    """It has nothing to show. What another node remembers of leases is old."""
    if not plan["dhcp"]["enabled"] or here.role != "MASTER":
        return {}, []
    return {}, _lease_problems(plan["dhcp"]["reservations"])


def _lease_problems(reservations: list[dict[str, Any]]) -> list[str]:
    """
    Reserved addresses that another machine has a lease of: until that ends, or the machine gives it
    back, the one that it is reserved for gets an address of the pool.
    """
    # A plan that an older version applied has one MAC address for each host.
    reserved = {
        host["ip"]: (host["name"], host.get("macs") or [host["mac"]]) for host in reservations
    }
    problems = []
    for line in (_gateway_machine.text(LEASES) or "").splitlines():
        # Columns: end of the lease (0 for never), MAC address, IP address, name, client id (dhcp-
        # leasefile in dnsmasq(8)). There are no IPv6 leases.
        end, mac, ip, *_ = [*line.split(), "", "", ""]
        name, macs = reserved.get(ip, (None, []))
        if (
            not name
            or mac in macs
            or not end.isdigit()
            or 0 < int(end) < _gateway_machine.now().timestamp()
        ):
            continue
        until = "for ever"
        if int(end):
            until = f"until {datetime.fromtimestamp(int(end), timezone.utc):%Y-%m-%d %H:%M} UTC"
        problems.append(f"DHCP: {ip} is reserved for {name}, but {mac} has it {until}")
    return problems
