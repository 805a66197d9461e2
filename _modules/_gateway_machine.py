"""This machine: its files, addresses, routes and units, and what commands say of it."""

import json
import os
import subprocess
from dataclasses import dataclass, field
from datetime import datetime, timezone
from ipaddress import IPv4Network, ip_network
from itertools import zip_longest
from typing import Any

from _gateway_site import Site

Plan = dict[str, Any]  # what `plan` of _gateway_plan returns
Links = dict[str, dict[str, Any]]  # interfaces by name, as `ip` shows them
Routes = list[tuple[IPv4Network, str]]  # network and interface
Facts = dict[str, Any]  # what `gateway.status` has of a room: dicts, by their keys in it

INTERFACES = "/sys/class/net"
UPTIME = "/proc/uptime"


@dataclass(frozen=True)
class Here:
    """This node at one moment: what the rooms need beside its plan to say how it is doing.

    ``role`` is ``MASTER`` where the internal virtual IP is, else ``BACKUP``. ``site``,
    ``interface_keys`` and ``address_keys`` (where the pillar says what each side's interface is
    called, and which address the node has there) are of the pillar, so they are empty while it is
    wrong. ``kept`` is for what takes long to find out, and is
    found out once in an apply.
    """

    links: Links
    role: str
    drained: bool
    site: Site | None = None
    interface_keys: dict[str, str] = field(default_factory=dict)
    address_keys: dict[str, str] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)


def holds(network: IPv4Network, other: str) -> bool:
    return IPv4Network(other).subnet_of(network)


def overlap(one: str, other: str) -> bool:
    first, second = ip_network(one), ip_network(other)
    return first.version == second.version and first.overlaps(second)


def file_text(path: str) -> str:
    """A file's text. Raises ValueError: what cannot be read is never taken for empty."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        raise ValueError(f"{path} is not there on this node") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not PEM text of that kind, or is damaged") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def out_of_sight(path: str, whose: str = "OpenVPN's") -> str | None:
    """Why the servers do not see a file (ProtectHome in their units); None where they do."""
    real = os.path.realpath(path)
    if not f"{real}/".startswith(("/home/", "/root/", "/run/user/")):
        return None
    return f"{path} is in a home directory, and {whose} unit sees none; put it elsewhere"


def now() -> datetime:
    return datetime.now(timezone.utc)


def links() -> Links:
    """This node's interfaces, by name, as ``ip`` shows them."""
    found = json.loads(output("ip", "-json", "address", "show") or "[]")
    return {link["ifname"]: link for link in found if "ifname" in link}


def addresses_on(links: Links, interface: str) -> dict[str, dict[str, Any]]:
    """An interface's addresses, each with what ``ip`` says of it."""
    items = links.get(interface, {}).get("addr_info", [])
    return {item["local"]: item for item in items if "local" in item}


def prefix_length(links: Links, interface: str, address: str | None) -> int | None:
    """That of an interface's address; None where it has no such address."""
    length: int | None = addresses_on(links, interface).get(address or "", {}).get("prefixlen")
    return length


def addresses_of(links: Links) -> list[str]:
    """All addresses of these interfaces, without prefix lengths."""
    return [address for interface in links for address in addresses_on(links, interface)]


def addresses() -> list[str]:
    """This node's addresses, without prefix lengths."""
    return addresses_of(links())


def routes_on_link() -> Routes:
    """The networks that this node reaches without a router, and the interface of each."""
    command = ["ip", "-json", "-4", "route", "show", "table", "main", "scope", "link"]
    routes = json.loads(output(*command) or "[]")
    return [
        (IPv4Network(route["dst"]), route["dev"])
        for route in routes
        if "dev" in route and route["dst"] != "default"
    ]


def _run(*command: str) -> tuple[int, str]:
    """Exit code and standard output of a command; 127 where it is not there (yet)."""
    environment = os.environ | {"LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
        )
    except OSError:
        return 127, ""
    return done.returncode, done.stdout


def output(*command: str) -> str:
    """A command's standard output; empty when it fails or is not there (yet)."""
    code, output = _run(*command)
    return "" if code else output


def said(*command: str) -> str:
    """A command's standard output, also where it fails."""
    return _run(*command)[1]


def succeeds(*command: str) -> bool:
    return _run(*command)[0] == 0


def service_states(names: list[str]) -> dict[str, str]:
    """``running`` or ``dead`` for each systemd unit, asked for in one go."""
    if not names:
        return {}
    words = _run("systemctl", "is-active", *names)[1].split()
    return {
        name: "running" if word in ("active", "reloading") else "dead"
        for name, word in zip_longest(names, words[: len(names)], fillvalue="unknown")
    }


def write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(text + "\n")
    os.chmod(f"{path}.new", 0o644)  # whatever the umask is
    os.replace(f"{path}.new", path)


def remove(path: str) -> None:
    if os.path.exists(path):
        os.remove(path)


def service_unit(
    name: str, *, watched: bool = False, where: str = "all", drained: bool = False
) -> dict[str, Any]:
    """A systemd unit that has to run on a gateway: on all, or on the ``primary``.

    A node is of little use without one that is ``watched``, and gives the virtual IP away; one with
    ``drained`` is stopped by a drain.
    """
    return {"unit": name, "watched": watched, "where": where, "drained": drained}


def opening(what: str, proto: str, port: int, *sources: str, version: int = 0) -> dict[str, Any]:
    """What the firewall lets in for a service of the node's, from whom, and why.

    ``sources``: ``inside`` (the internal side, networks with its rights, and VPN clients),
    ``hosts`` (of the internal side and those networks), ``others`` (hosts of the other networks),
    ``others there`` (only at the node's and the virtual address in their network),
    ``new hosts`` (without an address yet) and ``public``. ``version`` is of IP; 0 for both.
    """
    return {"what": what, "proto": proto, "port": port, "from": list(sources), "version": version}


def text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except FileNotFoundError:
        return None


def number(path: str) -> int | None:
    """The whole number at the beginning of a file of the kernel's."""
    try:
        with open(path, encoding="utf-8") as file:
            return int(float(file.read().split()[0]))
    except (OSError, ValueError, IndexError):
        return None
