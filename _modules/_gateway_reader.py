"""A mapping of the pillar that hands out its values, and collects every fault with its key."""

import bisect
import fnmatch
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import _gateway_values as values

_REQUIRED: Any = object()


class Reader:
    """Collects what is wrong, and who claimed what, while a pillar is read."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.claims: dict[tuple[str, object], str] = {}
        self.networks: list[tuple[IPv4Network, str]] = []
        # Places in that list, by network, and the networks' first addresses in their order.
        self._places: dict[tuple[int, int], list[int]] = {}
        self._starts: list[tuple[int, int]] = []

    def fault(self, path: str, message: object) -> None:
        self.errors.append(f"{path}: {message}")

    def claim(self, kind: str, value: object, path: str, hint: str = "") -> None:
        """Note that ``path`` takes a value that only one may have."""
        if value is None:
            return
        first = self.claims.get((kind, value))
        if first:
            self.fault(path, f"{kind} {value} is taken already, by {first}{hint}")
        else:
            self.claims[kind, value] = path

    def claim_network(self, network: IPv4Network | None, path: str) -> None:
        if network is None:
            return
        for place in self._overlapping(network):
            other, first = self.networks[place]
            self.fault(path, f"{network} overlaps {other} of {first}")
        key = (int(network.network_address), network.prefixlen)
        self._places.setdefault(key, []).append(len(self.networks))
        bisect.insort(self._starts, key)
        self.networks.append((network, path))

    def _overlapping(self, network: IPv4Network) -> list[int]:
        """Places of what is claimed already: networks overlap where one has the other in it."""
        start, prefix = int(network.network_address), network.prefixlen
        around = {(start >> 32 - bits << 32 - bits, bits) for bits in range(prefix + 1)}
        low = bisect.bisect_left(self._starts, (start, prefix))
        high = bisect.bisect_right(self._starts, (int(network.broadcast_address), 32))
        within = {key for key in self._starts[low:high] if key[1] >= prefix}
        return sorted(place for key in around | within for place in self._places.get(key, ()))

    def inside(self, ip: IPv4Address | None, network: IPv4Network | None, path: str) -> None:
        """Note it as a fault where ``ip`` cannot be a host's address in ``network``."""
        if ip is None or network is None:
            return
        fault = values.no_host(ip, network)
        if fault:
            self.fault(path, fault)


# Where to put what one key has no room for; * is a name.
MORE = {
    "gateway:vpn:servers:*:port": "another one is another server of gateway:vpn:servers",
    "gateway:vpn:servers:*:proto": "another one is another server of gateway:vpn:servers",
    "gateway:public:virtual_ip": "further ones are gateway:public:addresses",
    "gateway:dhcp:pool": "further ranges are dhcp-range lines of gateway:dhcp:settings",
    "gateway:vpn": "further servers are gateway:vpn:servers",
}


class Section:
    """A mapping of the pillar: hands out its values and knows which keys nobody asked for."""

    def __init__(self, reader: Reader, path: str, value: object) -> None:
        self.reader = reader
        self.path = path
        self.known: list[str] = []
        self.single: set[str] = set()  # the known keys that have one value
        self.readable = isinstance(value, dict)
        self.values: dict[Any, Any] = value if isinstance(value, dict) else {}
        if not self.readable:
            reader.fault(path, f"must be a mapping, is {values.kind(value)}")

    def at(self, key: object) -> str:
        return f"{self.path}:{values.show(key, 80)}"

    def get(self, key: str, parse: Callable[[Any], Any], default: Any = _REQUIRED) -> Any:
        """The parsed value of ``key``, the default, or None where it is missing or wrong."""
        self.known.append(key)
        self.single.add(key)
        if key not in self.values:
            if default is _REQUIRED:
                if self.readable:
                    self.reader.fault(self.at(key), "missing")
                return None
            return default
        try:
            return parse(self.values[key])
        except ValueError as error:
            several = isinstance(self.values[key], list) or self.values[key] == "both"
            more = self._more(key) if several else ""
            self.reader.fault(self.at(key), f"{error}{more}")
            return None

    def _more(self, key: str) -> str:
        """Where further values of a key go that has only one."""
        ways = (way for place, way in MORE.items() if fnmatch.fnmatchcase(self.at(key), place))
        return next((f"; {way}" for way in ways), "")

    def items(self, key: str, parse: Callable[[Any], Any]) -> tuple[Any, ...]:
        """What is right in the list under ``key``, parsed. A value may stand for a list of one."""
        return tuple(self.placed(key, parse).values())

    def placed(self, key: str, parse: Callable[[Any], Any]) -> dict[str, Any]:
        """The same, each with its path."""
        self.known.append(key)
        if key not in self.values:
            return {}
        value = self.values[key]
        if value is None or isinstance(value, (dict, tuple, set, frozenset)):
            self.reader.fault(self.at(key), f"must be a list, is {values.kind(value)}")
            return {}
        items = {self.at(key): value}
        if isinstance(value, list):
            items = {f"{self.at(key)}:{number}": item for number, item in enumerate(value)}
        parsed = {}
        for path, item in items.items():
            try:
                parsed[path] = parse(item)
            except ValueError as error:
                self.reader.fault(path, error)
        return parsed

    def settings(
        self,
        parse: Callable[[Any], Any] = values.setting,
        refuse: Callable[[str], str | None] = lambda keyword: None,
    ) -> tuple[tuple[str, str], ...]:
        """
        Pass-through settings as pairs (keyword, value); a bare keyword's value is empty.
        ``refuse`` says why a keyword is not possible.
        """
        group = self.section("settings")
        pairs: list[tuple[str, str]] = []
        for key in sorted(group.values, key=values.safe_repr):
            try:
                keyword = values.keyword(key)
            except ValueError as error:
                self.reader.fault(group.at(key), error)
                continue
            reason = refuse(keyword)
            if reason:
                self.reader.fault(group.at(key), f"is not possible: {reason}")
            elif isinstance(group.values[key], list):
                pairs += [(keyword, value) for value in group.items(keyword, parse)]
            else:
                pairs.append((keyword, group.get(keyword, parse)))
        return tuple(pairs)

    def sections(self, key: str) -> Iterator["Section"]:
        """The mappings in the list under ``key``."""
        self.known.append(key)
        value = self.values.get(key, [])
        if not isinstance(value, list):
            self.reader.fault(self.at(key), f"must be a list, is {values.kind(value)}")
            return
        for number, item in enumerate(value):
            yield Section(self.reader, f"{self.at(key)}:{number}", item)

    def section(self, key: str, required: bool = False) -> "Section":
        self.known.append(key)
        self.single.add(key)
        if key not in self.values and required and self.readable:
            self.reader.fault(self.at(key), "missing")
            return self._silent(key)
        if key not in self.values:
            return self._silent(key)
        return Section(self.reader, self.at(key), self.values[key])

    def _silent(self, key: str) -> "Section":
        """An empty section that does not say again that it is missing."""
        section = Section(self.reader, self.at(key), {})
        section.readable = False
        return section

    def entries(self, key: str, parse_name: Callable[[object], str]) -> Iterator["_Named"]:
        """The named sections under ``key`` whose name is right, in the order of their names."""
        group = self.section(key)
        self.single.discard(key)
        for name in sorted(group.values, key=values.safe_repr):
            try:
                parsed = parse_name(name)
            except ValueError as error:
                self.reader.fault(group.at(name), error)
                continue
            yield _Named(parsed, Section(self.reader, group.at(name), group.values[name]))

    def close(self) -> None:
        """Say which keys are not known. To be called when all that may be there was asked for."""
        for key in self.values:
            if key not in self.known:
                self.reader.fault(self.at(key), f"unknown key{self._hint(key)}")

    def _hint(self, key: object) -> str:
        """``pools`` and ``pool2`` are no typing errors: who writes them wants more than one."""
        one = re.sub(r"(?:e?s|[-_]?[0-9]+)\Z", "", key) if isinstance(key, str) else ""
        for known in (one, f"{one}e"):
            if known in self.single:
                return f'; there is only one "{known}"{self._more(known)}'
        return values.did_you_mean(key, self.known)


@dataclass(frozen=True)
class _Named:
    name: str
    section: Section
