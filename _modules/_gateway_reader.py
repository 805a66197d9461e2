"""A mapping of the pillar that hands out its values, and collects every fault with its key."""

import bisect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import _gateway_values as values
from _gateway_keys import REQUIRED, Items, Key

_RECORDED: Any = object()  # the default that the record has


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


class Section:
    """A mapping of the pillar: hands out its values, and says which keys nobody knows."""

    def __init__(self, reader: Reader, path: str, value: object, keys: dict[str, Key]) -> None:
        self.reader = reader
        self.path = path
        self.keys = keys
        self.readable = isinstance(value, dict)
        self.values: dict[Any, Any] = value if isinstance(value, dict) else {}
        if not self.readable:
            reader.fault(path, f"must be a mapping, is {values.kind(value)}")

    def _inner(self, path: str, value: object, keys: dict[str, Key]) -> "Section":
        section = Section(self.reader, path, value, keys)
        section.refuse_unknown()
        return section

    def refuse_unknown(self) -> None:
        """Say which keys nobody knows."""
        for key in self.values:
            if key not in self.keys:
                self.reader.fault(self.at(key), f"unknown key{self._hint(key)}")

    def at(self, key: object) -> str:
        return f"{self.path}:{values.show(key, 80)}"

    def record(self, name: str) -> Key:
        """The record of a key that is read now."""
        return self.keys[name]

    def get(
        self, name: str, parse: Callable[[Any], Any] | None = None, default: Any = _RECORDED
    ) -> Any:
        """The value of ``name``, parsed; its default where it is missing, and None where it is
        wrong. A list is a tuple of what is right in it. ``parse`` and ``default`` are for what is
        known only here, such as which names there are."""
        record = self.record(name)
        if isinstance(record.kind, Items):
            return tuple(self.placed(name, parse).values())
        if name not in self.values:
            if record.default is REQUIRED:
                self._missing(name)
                return None
            return record.default if default is _RECORDED else default
        value = self.values[name]
        try:
            return (parse or record.kind.parse)(value)
        except ValueError as error:
            more = record.more if isinstance(value, list) or value == "both" else ""
            self.reader.fault(self.at(name), f"{error}{_way(more)}")
            return None

    def _missing(self, name: str, fault: str = "missing") -> None:
        """Of what is no mapping it is not said what it lacks."""
        if self.readable:
            self.reader.fault(self.at(name), fault)

    def placed(self, name: str, parse: Callable[[Any], Any] | None = None) -> dict[str, Any]:
        """What is right in a list, parsed, each with its path. A value may stand for a list."""
        record = self.record(name)
        if name not in self.values:
            if record.default is REQUIRED:
                self._missing(name)
            return {}
        value = self.values[name]
        if value is None or isinstance(value, (dict, tuple, set, frozenset)):
            self.reader.fault(self.at(name), f"must be a list, is {values.kind(value)}")
            return {}
        if value == [] and record.kind.empty:
            self.reader.fault(self.at(name), record.kind.empty)
        items = {self.at(name): value}
        if isinstance(value, list):
            items = _numbered(self.at(name), value)
        return self._parsed(items, parse or record.kind.kind.parse)

    def _parsed(self, items: dict[str, Any], parse: Callable[[Any], Any]) -> dict[str, Any]:
        parsed = {}
        for path, item in items.items():
            try:
                parsed[path] = parse(item)
            except ValueError as error:
                self.reader.fault(path, error)
        return parsed

    def settings(self) -> tuple[tuple[str, str], ...]:
        """Pass-through settings as pairs (keyword, value); a bare keyword's value is empty."""
        kind = self.record("settings").kind
        group = self.section("settings")
        pairs: list[tuple[str, str]] = []
        for key in sorted(group.values, key=values.safe_repr):
            try:
                keyword = values.keyword(key)
            except ValueError as error:
                self.reader.fault(group.at(key), error)
                continue
            refusal = kind.refusal(keyword)
            if refusal:
                self.reader.fault(group.at(key), refusal)
                continue
            value = group.values[key]
            if isinstance(value, list):
                lines = self._parsed(_numbered(group.at(key), value), kind.kind.parse)
                pairs += [(keyword, line) for line in lines.values()]
            else:
                pairs.append((keyword, group.get(keyword)))
        return tuple(pairs)

    def sections(self, name: str) -> Iterator["Section"]:
        """The mappings in a list."""
        keys = self.record(name).kind.keys
        value = self.values.get(name, [])
        if not isinstance(value, list):
            self.reader.fault(self.at(name), f"must be a list, is {values.kind(value)}")
            return
        for number, item in enumerate(value):
            yield self._inner(f"{self.at(name)}:{number}", item, keys)

    def section(self, name: str) -> "Section":
        """A mapping; an empty one where it is missing."""
        record = self.record(name)
        keys = record.kind.keys
        if name in self.values:
            return self._inner(self.at(name), self.values[name], keys)
        if record.default is REQUIRED:
            self._missing(name)
        section = Section(self.reader, self.at(name), {}, keys)
        section.readable = False  # it does not say again what is missing
        return section

    def entries(self, name: str) -> Iterator["_Entry"]:
        """Mappings whose name is right, in the order of their names."""
        kind = self.record(name).kind
        group = self.values.get(name, {})
        if not isinstance(group, dict):
            self.reader.fault(self.at(name), f"must be a mapping, is {values.kind(group)}")
            return
        if not group and kind.empty:
            self._missing(name, kind.empty)
        for key in sorted(group, key=values.safe_repr):
            path = f"{self.at(name)}:{values.show(key, 80)}"
            try:
                parsed = kind.name.parse(key)
            except ValueError as error:
                self.reader.fault(path, error)
                continue
            yield _Entry(parsed, self._inner(path, group[key], kind.keys))

    def _hint(self, key: object) -> str:
        """``pools`` and ``pool2`` are no typing errors: who writes them wants more than one."""
        one = re.sub(r"(?:e?s|[-_]?[0-9]+)\Z", "", key) if isinstance(key, str) else ""
        for name in (one, f"{one}e"):
            if name in self.keys and self.keys[name].single:
                return f'; there is only one "{name}"{_way(self.keys[name].more)}'
        return values.did_you_mean(key, self.keys)


def _numbered(path: str, value: list[Any]) -> dict[str, Any]:
    return {f"{path}:{number}": item for number, item in enumerate(value)}


def _way(more: str) -> str:
    return f"; {more}" if more else ""


@dataclass(frozen=True)
class _Entry:
    name: str
    section: Section
