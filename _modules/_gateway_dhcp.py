"""DHCP: pools, and addresses by MAC, in each network."""

import bisect
import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from operator import itemgetter
from typing import Any, NamedTuple

import _gateway_dnsmasq
import _gateway_kinds as kinds
import _gateway_values as values
from _gateway_keys import (
    EMPTY,
    REQUIRED,
    Items,
    Key,
    Kind,
    Mapping,
    Settings,
    Values,
    by_name,
)
from _gateway_machine import Plan, opening, service_unit
from _gateway_reader import Reader, Section
from _gateway_site import (
    Dhcp,
    Host,
    LocalNetwork,
    Material,
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


def _lease_time(value: object) -> str:
    """A number alone is seconds."""
    number = isinstance(value, int) and not isinstance(value, bool)
    text = values.matching(_LEASE_PATTERN, "a time such as 30m, 12h or infinite")(
        values.safe_repr(value) if number else value
    )
    if text == "infinite":
        return text
    if not SHORTEST_LEASE <= seconds(text) <= LONGEST_LEASE:
        raise ValueError(
            f"{text} is not in 2m to {LONGEST_LEASE // LEASE_UNITS['w']}w, nor infinite"
        )
    return text


def seconds(lease_time: str) -> int:
    """How long that is; -1 for ever."""
    if lease_time == "infinite":
        return -1
    return int(lease_time.rstrip("smhdw")) * LEASE_UNITS.get(lease_time[-1], 1)


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
DEFAULT_LEASE = "12h"
# dnsmasq parts an option's values, and what a boot line has, by commas.
_BOOT_FILE = kinds.matching("[A-Za-z0-9._/-]{1,127}", "a file such as pxelinux.0", "file")
# What of RFC 2132 has a key of its own, or is what DHCP says by itself.
OPTIONS_REFUSED = {
    "1|netmask": "it is that of the network",
    "3|router": "use router",
    "6|dns-server": "use dns",
    "15|domain-name|119|domain-search": "use domain",
    "42|ntp-server": "use ntp",
    "5[0-9]|6[01]|lease-time|requested-address|server-identifier": "it is DHCP's own",
    "67|bootfile-name": "use boot",
}
# The name of a server, or a URL for phones; dnsmasq would send the four bytes of an address.
_TFTP_SERVER = ("66", "tftp-server")
OPTION_PATTERN = f"(?:{kinds.digits(1, 254)})|[a-z][a-z0-9-]{{1,40}}"


def _option_name(value: object) -> str:
    """A number is text, too."""
    number = isinstance(value, int) and not isinstance(value, bool)
    name = values.matching(re.compile(OPTION_PATTERN), "an option's number or name")(
        str(value) if number else value
    )
    for refused, why in OPTIONS_REFUSED.items():
        if re.fullmatch(refused, name):
            raise ValueError(f"is not possible: {why}")
    return name


_SETTINGS = Settings(_gateway_dnsmasq.SETTING, _gateway_dnsmasq.DHCP_REFUSED)
_OPTION_NAME = kinds.either(
    _option_name,
    "number or name of an option",
    lambda: kinds.text(
        f"(?!(?:{'|'.join(OPTIONS_REFUSED)})$)(?:{OPTION_PATTERN})", "an option's number or name"
    ),
)
SHORTEST_KEY, LONGEST_KEY = 32, 256  # characters
_KEY_PATTERN = f"[!-~]{{{SHORTEST_KEY},{LONGEST_KEY}}}"


def _key(value: object) -> str:
    """Nothing of it is in the error."""
    if not isinstance(value, str) or not re.fullmatch(_KEY_PATTERN, value):
        raise ValueError(
            f"must be a text of {SHORTEST_KEY} to {LONGEST_KEY} characters of ASCII, without spaces"
        )
    return value


_KEY = Kind(_key, "text", lambda: kinds.text(_KEY_PATTERN, "32 characters or more"))
_BOOT = by_name(
    Key("file", _BOOT_FILE, None, "What a machine with a BIOS loads."),
    Key("efi_file", _BOOT_FILE, None, "What a machine with UEFI (64 bits) loads.", said="`file`"),
    Key(
        "server",
        kinds.HOST_ADDRESS,
        REQUIRED,
        "The TFTP server.",
    ),
)
OF_NETWORK = by_name(
    Key(
        "enabled",
        kinds.BOOLEAN,
        None,
        "",
        said="true if there is a `pool` or a host with a `mac`",
    ),
    Key(
        "pool",
        Items(_POOL, "`FIRST-LAST`, or a list"),
        EMPTY,
        "Addresses for unknown machines: inside the network, without nodes and virtual IPs."
        " Reserved addresses may lie in it. Without a pool only reservations are answered.",
    ),
    Key(
        "lease_time",
        _LEASE_TIME,
        DEFAULT_LEASE,
        "A number with `s`, `m`, `h`, `d` or `w`, or without a letter (seconds), or `infinite`."
        " At least two minutes: dnsmasq knows no shorter ones.",
    ),
    Key("router", kinds.ADDRESS, None, "Inside the network.", said="`virtual_ip`"),
    Key("dns", Items(kinds.HOST_ADDRESS, "list of addresses"), EMPTY, "", said="`virtual_ip`"),
    Key(
        "ntp",
        Items(kinds.HOST_ADDRESS, "list of addresses"),
        EMPTY,
        "A client must not see its time source change on a failover, so these are no virtual IPs.",
        said="the nodes' own addresses",
    ),
    Key("domain", kinds.NAME, None, "", said="`domain` of the site"),
    Key(
        "options",
        Values(_OPTION_NAME, Items(_gateway_dnsmasq.SETTING, "text, or a list"), "mapping"),
        EMPTY,
        "Further options by number or name (`dnsmasq --help dhcp`), such as `{150: 10.77.0.20}`. 66"
        " is what phones ask for: an address, a name or a URL.",
    ),
    Key("boot", Mapping(_BOOT), EMPTY, "Booting from the network (PXE): [boot](#gatewaydhcpboot)."),
    Key(
        "register",
        kinds.BOOLEAN,
        None,
        "Whether the names that clients send come into DNS, as long as they have an address. Never"
        " one that the pillar has, nor another client's.",
        said="true where the network gets the site's names, and its `domain` is the site's alone"
        " (no `dns:public_domain`)",
    ),
)
_DHCP = by_name(
    *OF_NETWORK.values(),
    Key(
        "key",
        _KEY,
        None,
        "A secret of the nodes, by which they believe each other what they tell of leases. Needed"
        " where they have no link of their own (`state_sync`). Make one: `openssl rand -hex 32`.",
    ),
    Key("settings", _SETTINGS, EMPTY, "Lines `keyword=value` in `/etc/gateway/dhcp.conf`."),
)
KEYS = (Key("dhcp", Mapping(_DHCP), EMPTY, "[dhcp](#gatewaydhcp)."),)


class Known(NamedTuple):
    """What DHCP asks of the rest of the site: the addresses of the gateways and of other routers,
    in their order, with their keys; and in which networks hosts have reserved addresses."""

    taken: list[tuple[IPv4Address, str]]
    reserved: set[IPv4Network | None]


def known(reader: Reader, local: values.Networks, hosts: tuple[Host, ...]) -> Known:
    """``local`` are the networks behind the pair."""
    taken = [
        (value, path)
        for (kind, value), path in reader.claims.items()
        if kind in ("address", "router")
        and isinstance(value, IPv4Address)
        and not path.startswith("gateway:hosts:")
    ]
    reserved = {local.holding(ip) for host in hosts if host.macs for ip in host.ips}
    return Known(sorted(taken), reserved - {None})


def read_dhcp(top: Section, internal: Network, known: Known) -> Dhcp:
    """That of the internal network, with the settings that are of all of them."""
    section = top.section("dhcp")
    key = section.get("key")
    return replace(
        read_section(section, internal.network, known),
        settings=section.settings(),
        key=Material(path=None, keys=("gateway", "dhcp", "key"), text=key) if key else None,
    )


def read_section(section: Section, network: IPv4Network | None, known: Known) -> Dhcp:
    """What DHCP hands out in one network; ``settings`` aside."""
    pools = section.placed("pool")
    boot = section.section("boot")
    first, *further = (*pools.values(), None)
    dhcp = Dhcp(
        enabled=section.get("enabled", default=bool(pools or network in known.reserved)),
        pool=first,
        lease_time=section.get("lease_time"),
        settings=(),
        further_pools=tuple(filter(None, further)),
        router=section.get("router"),
        dns=section.get("dns"),
        ntp=section.get("ntp"),
        domain=section.get("domain"),
        options=_read_options(section),
        boot=_read_boot(boot) if "boot" in section.values else (),
        register=section.get("register"),
    )
    if dhcp.enabled is False and "enabled" not in section.values:
        for key in section.values:
            if key in section.keys:
                section.reader.fault(
                    section.at(key),
                    "means nothing without DHCP; it is on with a pool, a host's mac or enabled",
                )
    section.reader.inside(dhcp.router, network, section.at("router"))
    _check_pools(section.reader, pools, network, known)
    return dhcp


def _check_pools(
    reader: Reader,
    pools: dict[str, tuple[IPv4Address, IPv4Address]],
    network: IPv4Network | None,
    known: Known,
) -> None:
    if not network:
        return
    before: dict[str, tuple[IPv4Address, IPv4Address]] = {}
    for path, pool in pools.items():
        for end in pool:
            reader.inside(end, network, path)
        first = bisect.bisect_left(known.taken, pool[0], key=itemgetter(0))
        last = bisect.bisect_right(known.taken, pool[1], key=itemgetter(0))
        for value, owner in known.taken[first:last]:
            reader.fault(path, f"holds {value} of {owner}")
        for other, earlier in before.items():
            if pool[0] <= earlier[1] and earlier[0] <= pool[1]:
                reader.fault(path, f"overlaps {earlier[0]}-{earlier[1]} of {other}")
        before[path] = pool


def _read_options(section: Section) -> tuple[tuple[str, str], ...]:
    """Pairs of an option's number or name, and its value (several are separated by commas)."""
    inner = section.section("options")
    options = []
    for key in sorted(inner.values, key=values.safe_repr):
        try:
            name = _OPTION_NAME.parse(key)
        except ValueError as error:
            section.reader.fault(inner.at(key), error)
            continue
        value = ",".join(inner.get(key))
        if name in _TFTP_SERVER and '"' not in value:
            value = f'"{value}"'
        options.append((name, value))
    return tuple(options)


def _read_boot(section: Section) -> tuple[str, ...]:
    """File, file for UEFI, and server."""
    file, efi_file = section.get("file"), section.get("efi_file")
    if section.readable and not section.values.keys() & {"file", "efi_file"}:
        section.reader.fault(section.at("file"), "missing")
    return (file or "", efi_file or "", str(section.get("server") or ""))


def plan(site: Site, node: Node) -> dict[str, Any]:
    """That of the internal network, with what is of all networks. What a further one hands out
    stands with the network, in the same shape."""
    return {
        "dhcp": {
            **plan_network(site, site.local[0]),
            "reservations": [
                # dnsmasq reads short names such as 3d, 42 or ignore as something else.
                {"name": f"{host.name}.{site.domain}", "ip": str(ip), "macs": list(host.macs)}
                for host in site.hosts
                if host.macs
                for ip in host.ips
            ],
            "settings": plan_settings(site.dhcp.settings),
        }
    }


def plan_network(site: Site, network: LocalNetwork) -> dict[str, Any]:
    """What is handed out in one network."""
    dhcp = network.dhcp
    file, efi_file, server = dhcp.boot or ("", "", "")
    own = [node.address_in(network.name) for node in site.nodes]
    return {
        "enabled": dhcp.enabled,
        "pool": [str(end) for end in dhcp.pool] if dhcp.pool else None,
        "further_pools": [[str(end) for end in pool] for pool in dhcp.further_pools],
        "lease_time": dhcp.lease_time,
        "router": str(dhcp.router or network.virtual_ip),
        "dns": [str(each) for each in dhcp.dns or (network.virtual_ip,)],
        # The nodes' own addresses: a client must not see its time source change on a failover.
        "ntp": [str(each) for each in dhcp.ntp or own],
        "domain": dhcp.domain or site.domain,
        "options": [list(option) for option in dhcp.options],
        "register": registers(site, network),
        "boot": {"file": file or efi_file, "efi_file": efi_file or file, "server": server}
        if dhcp.boot
        else None,
    }


def registers(site: Site, network: LocalNetwork) -> bool:
    """Whether its clients' names come into DNS. Without a word where nobody outside could mean the
    same names, and from networks that get the site's names themselves."""
    if network.dhcp.register is not None:
        return network.dhcp.register
    own = network.dhcp.domain in (None, site.domain) and not site.dns.public_domain
    return network.names and own


def is_served(plan: Plan) -> bool:
    """Whether any network has DHCP."""
    return any(each["enabled"] for each in (plan["dhcp"], *(n["dhcp"] for n in plan["networks"])))


def ports(site: Site) -> dict[str, str]:
    return {"67/udp": "DHCP"} if any(network.dhcp.enabled for network in site.local) else {}


def openings(plan: Plan) -> list[dict[str, Any]]:
    return [opening("DHCP", "udp", 67, "hosts", "others", "new hosts", version=4)]


def units(plan: Plan) -> list[dict[str, Any]]:
    """One node answers: the one that has the virtual IP."""
    return [service_unit("gateway-dhcp", where="primary")] if is_served(plan) else []
