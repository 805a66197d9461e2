"""What configures a node's interfaces as the plan has them, for who manages them on the node: the
formula itself configures none.

The virtual IPs are never in it: they are keepalived's.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

import _gateway_interfaces
from _gateway_interfaces import Side
from _gateway_machine import Plan

Files = dict[str, str]  # texts, by their paths

HIGHEST_VLAN = 4094  # IEEE 802.1Q: 4095 is reserved
# What a name says of a VLAN, as vlan-interfaces(5) and everybody else call them.
ON_A_DEVICE = re.compile(r"(?P<device>.+)\.(?P<id>[0-9]+)")
BY_NUMBER = re.compile(r"vlan(?P<id>[0-9]+)")
# What consists of other devices, and what netplan calls it; the pillar does not know of which.
COMPOUNDS = {"bond": "bonds", "br": "bridges", "vmbr": "bridges"}


@dataclass(frozen=True)
class Device:
    """An interface of the node. ``title`` says what it is for; ``address`` has a prefix length, and
    is empty where the node has none; ``unsaid`` is an address whose prefix length is not known."""

    name: str
    title: str
    address: str = ""
    unsaid: str = ""
    dhcp: bool = False
    accepts_ra: bool = False
    takes_router: bool = False
    waited_for: bool = False
    vlan: int | None = None
    on: str | None = None  # the device that a VLAN is on, if its name says so
    carries: tuple[str, ...] = ()  # the VLANs on it

    @property
    def is_bare(self) -> bool:
        """Whether the plan has nothing of it but VLANs on it."""
        return not (self.address or self.unsaid or self.dhcp)

    @property
    def compound(self) -> str | None:
        """The section of netplan for what consists of other devices; None for a card."""
        kind = re.match("[a-z]*", self.name)
        return COMPOUNDS.get(kind[0]) if kind and self.vlan is None else None


def files(plan: Plan, kind: str, router: IPv4Address | None) -> Files:
    """What the files of one kind hold. ``router`` is that of the default route, if it is known."""
    return KINDS[kind](plan, _devices(plan), router)


def _devices(plan: Plan) -> list[Device]:
    """Those of the plan, and what VLANs among them are on; first what others are on."""
    devices = {
        device.name: device
        for device in (
            _device(plan, name, side) for name, side in _gateway_interfaces.sides(plan).items()
        )
    }
    todo = list(devices.values())
    while todo:
        device = todo.pop()
        if device.on and device.on not in devices:
            vlan, on = _vlan(device.on)
            devices[device.on] = Device(device.on, "only VLANs of it", vlan=vlan, on=on)
            todo.append(devices[device.on])
    return [
        replace(
            device,
            carries=tuple(sorted(other.name for other in devices.values() if other.on == name)),
        )
        for name, device in sorted(devices.items(), key=lambda item: (item[0].count("."), item[0]))
    ]


def _device(plan: Plan, name: str, side: Side) -> Device:
    titles = {"internal": "the internal network", "public": "the public side"}
    titles["sync"] = "the nodes' own link"
    prefix = _prefix_length(plan, name, side)
    public = name == "public"
    vlan, on = _vlan(side.interface)
    return Device(
        side.interface,
        titles.get(name, f"network {name}"),
        address=f"{side.address}/{prefix}" if side.address and prefix else "",
        unsaid=side.address or "" if not prefix else "",
        dhcp=not side.address,
        accepts_ra=public and bool(plan["public"]["accept_ra"]),
        takes_router=public and bool(side.address and prefix),
        # A boot waits two minutes for what it waits for.
        waited_for=name in ("internal", "public"),
        vlan=vlan,
        on=on,
    )


def _prefix_length(plan: Plan, name: str, side: Side) -> int | None:
    """Of the nodes' own link the pillar has the two ends alone: what holds both is enough."""
    if side.network:
        return IPv4Network(side.network).prefixlen
    if name != "sync" or not side.address:
        return None
    ends = {IPv4Address(side.address), IPv4Address(plan["sync"]["peer"])}
    for length in range(30, 0, -1):
        network = IPv4Network(f"{side.address}/{length}", strict=False)
        outermost = {network.network_address, network.broadcast_address}
        if all(end in network for end in ends) and not ends & outermost:
            return length
    return None


def _vlan(name: str) -> tuple[int | None, str | None]:
    """What an interface's name says of its VLAN: its number, and the device that it is on."""
    said = ON_A_DEVICE.fullmatch(name) or BY_NUMBER.fullmatch(name)
    if not said or not 1 <= int(said["id"]) <= HIGHEST_VLAN:
        return None, None
    return int(said["id"]), said.groupdict().get("device")


def _heading(plan: Plan, what: str = "") -> list[str]:
    return [
        f"# {plan['node']['name']}{what}, as gateway.interfaces says. Virtual IPs do not belong"
        " here: keepalived adds them."
    ]


def _router_line(line: str, router: IPv4Address | None) -> str:
    """The default route, or where it would stand."""
    if router:
        return line.format(router)
    indent = " " * (len(line) - len(line.lstrip()))
    return f"{indent}# The default route: {line.strip().format('ROUTER')}"


def _missing_length(device: Device) -> str:
    return (
        f"# {device.unsaid} belongs here. Its prefix length is not known:"
        " gateway:public:network is missing."
    )


# --------------------------------------------------------------------------------------------------
# ifupdown: interfaces(5), vlan-interfaces(5)


def _ifupdown(plan: Plan, devices: list[Device], router: IPv4Address | None) -> Files:
    lines = [
        *_heading(plan),
        "# It takes the place of what /etc/network/interfaces has for these interfaces.",
    ]
    if any(device.vlan is not None for device in devices):
        lines.append("# VLANs take the package vlan.")
    for device in devices:
        lines += ["", *_ifupdown_device(device, router)]
    return {"/etc/network/interfaces.d/gateway": _text(lines)}


def _ifupdown_device(device: Device, router: IPv4Address | None) -> Iterator[str]:
    yield f"# {device.name}: {device.title}"
    method = "static" if device.address else "dhcp" if device.dhcp else "manual"
    yield f"auto {device.name}"
    yield f"iface {device.name} inet {method}"
    if device.address:
        yield f"    address {device.address}"
    if device.unsaid:
        yield f"    {_missing_length(device)}"
    if device.takes_router:
        yield _router_line("    gateway {}", router)
    if device.vlan is not None and not device.on:
        yield "    # Its card: vlan-raw-device CARD"
    if device.compound == "bonds":
        yield "    # The cards of it: bond-slaves CARD CARD"
    if device.compound == "bridges":
        yield "    # The cards of it: bridge_ports CARD CARD"


# --------------------------------------------------------------------------------------------------
# systemd-networkd: systemd.network(5), systemd.netdev(5)


def _networkd(plan: Plan, devices: list[Device], router: IPv4Address | None) -> Files:
    found = {}
    for device in devices:
        name = f"/etc/systemd/network/50-gateway-{device.name}"
        heading = _heading(plan, f": {device.name}, {device.title}")
        if device.vlan is not None:
            found[f"{name}.netdev"] = _text(heading + list(_netdev(device)))
        found[f"{name}.network"] = _text(heading + list(_network(device, router)))
    return found


def _netdev(device: Device) -> Iterator[str]:
    if not device.on:
        yield f"# The .network file of its card needs, in [Network]: VLAN={device.name}"
    yield from ("[NetDev]", f"Name={device.name}", "Kind=vlan", "", "[VLAN]", f"Id={device.vlan}")


def _network(device: Device, router: IPv4Address | None) -> Iterator[str]:
    if device.compound:
        yield f"# The .netdev file of {device.name}, and what it consists of, are yours."
    if device.is_bare:
        yield "# If you have a .network file of it, put the last lines there instead."
    yield from ("[Match]", f"Name={device.name}", "")
    if not device.waited_for:
        yield from ("[Link]", "RequiredForOnline=no", "")
    yield "[Network]"
    if device.address:
        yield f"Address={device.address}"
    if device.unsaid:
        yield _missing_length(device)
    if device.dhcp:
        yield "DHCP=ipv4"
    if device.takes_router:
        yield _router_line("Gateway={}", router)
    if device.is_bare:
        yield "LinkLocalAddressing=no"
    # networkd has an ear of its own for them, whatever the kernel is told.
    yield f"IPv6AcceptRA={'yes' if device.accepts_ra else 'no'}"
    for vlan in device.carries:
        yield f"VLAN={vlan}"


# --------------------------------------------------------------------------------------------------
# netplan: its YAML reference


def _netplan(plan: Plan, devices: list[Device], router: IPv4Address | None) -> Files:
    lines = [*_heading(plan), "network:", "  version: 2"]
    for section in ("ethernets", "bonds", "bridges", "vlans"):
        inside = [device for device in devices if _section(device) == section]
        if inside:
            lines.append(f"  {section}:")
        for device in inside:
            # netplan refuses all of its files where a VLAN does not say what it is on.
            mark = "# " if device.vlan is not None and not device.on else ""
            lines += [f"    {mark}{line}" for line in _netplan_device(device, router)]
    return {"/etc/netplan/60-gateway.yaml": _text(lines)}


def _section(device: Device) -> str:
    return "vlans" if device.vlan is not None else device.compound or "ethernets"


def _netplan_device(device: Device, router: IPv4Address | None) -> Iterator[str]:
    if device.is_bare and device.vlan is None:
        yield f"{device.name}: {{}} # {device.title}"
        return
    yield f"{device.name}: # {device.title}"
    if device.vlan is not None:
        yield f"  id: {device.vlan}"
        yield f"  link: {device.on or 'CARD'}"
    if device.compound:
        yield "  # What it consists of: interfaces: [CARD, CARD]"
    if device.address:
        yield f"  addresses: [{device.address}]"
    if device.unsaid:
        yield f"  {_missing_length(device)}"
    if device.takes_router:
        yield _router_line("  routes: [{{to: default, via: {}}}]", router)
    if device.is_bare:
        return
    yield f"  dhcp4: {_truth(device.dhcp)}"
    yield f"  accept-ra: {_truth(device.accepts_ra)}"
    if not device.waited_for:
        yield "  optional: true # a boot does not wait for its cable"


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _text(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


KINDS: dict[str, Callable[[Plan, list[Device], IPv4Address | None], Files]] = {
    "ifupdown": _ifupdown,
    "networkd": _networkd,
    "netplan": _netplan,
}
