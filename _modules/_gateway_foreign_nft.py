"""The tables of nftables that are somebody else's, as nft --json prints them."""

import json
from collections.abc import Callable
from ipaddress import IPv4Network, ip_address
from typing import Any

from _gateway_foreign_packets import PROTOCOLS, Packet, Ports, net
from _gateway_foreign_rules import (
    Answer,
    Rule,
    Table,
    Test,
    Verdict,
    all_of,
    always,
    any_of,
    is_on,
    negated,
    protocol_number,
    within,
)

TABLES = ("raw", "mangle", "nat", "filter", "security")  # iptables' own

_ADDRESSES: dict[str, Callable[[Packet], IPv4Network]] = {
    "saddr": lambda packet: packet.source,
    "daddr": lambda packet: packet.destination,
}
_INTERFACES: dict[str, Callable[[Packet], str]] = {
    "iifname": lambda packet: packet.into,
    "iif": lambda packet: packet.into,
    "oifname": lambda packet: packet.out,
    "oif": lambda packet: packet.out,
}
_WORDS: dict[str, Callable[[Packet], str]] = {
    "nfproto": lambda packet: "ipv4",
    "protocol": lambda packet: "ip",
    "pkttype": lambda packet: {"unicast": "host"}.get(packet.cast, "broadcast"),
}
# Statements that let a packet go on.
_PASSING = {"counter", "log", "mangle", "notrack", "ct helper", "comment", "last"}


def foreign_tables(listing: str, save: str) -> list[tuple[str, str]]:
    """The tables of nftables that are not iptables' own, as ``(family, name)``.

    listing
        Output of ``nft --json list tables``.
    save
        Output of iptables-nft-save, which shows its own tables, and says which of these names are
        somebody else's ("Table `filter' is incompatible, use 'nft' tool.").
    """
    foreign = []
    for item in _items(listing):
        table = item.get("table")
        if not table or table["family"] not in ("inet", "ip"):
            continue
        name = table["name"]
        shown = f"\n*{name}\n" in f"\n{save}" and f"`{name}' is incompatible" not in save
        if not (table["family"] == "ip" and name in TABLES and shown):
            foreign.append((table["family"], name))
    return foreign


def _items(text: str) -> list[dict[str, Any]]:
    try:
        items: list[dict[str, Any]] = json.loads(text or "{}").get("nftables", [])
    except ValueError:
        return []
    return items


def nft_tables(texts: list[str]) -> list[Table]:
    """The tables of some outputs of ``nft --json list table``."""
    tables: dict[tuple[str, str], Table] = {}
    for item in (item for text in texts for item in _items(text)):
        for kind, content in item.items():
            if kind not in ("chain", "rule", "set", "map"):
                continue
            key = content["family"], content["table"]
            table = tables.setdefault(key, Table(" ".join(key), _rule, "nft"))
            if kind == "rule":
                table.lines.setdefault(content["chain"], []).append(content)
            elif kind == "chain":
                table.lines.setdefault(content["name"], [])
                if "hook" in content:
                    table.bases[content["name"]] = (content["hook"], content.get("policy", ""))
            else:
                table.sets[content["name"]] = content.get("elem", [])
    return list(tables.values())


def _rule(content: dict[str, Any], table: Table) -> Rule:
    text = f"handle {content['handle']}"
    tests: list[Test] = []
    for statement in content["expr"]:
        ((kind, value),) = statement.items()
        if kind == "match":
            tests.append(_match(value, table))
        elif kind == "vmap":
            return Rule(text, tests, _vmap(value, table))
        elif verdict := _verdict(statement):
            return Rule(text, tests, always(verdict))
        elif kind not in _PASSING:
            tests.append(lambda packet: None)
    return Rule(text, tests, always(None))


def _verdict(statement: dict[str, Any]) -> Verdict | None:
    ((kind, value),) = statement.items()
    if kind in ("drop", "reject"):
        return "drop", ""
    if kind in ("accept", "queue"):
        return "accept", ""
    if kind == "return":
        return kind, ""
    return (kind, value["target"]) if kind in ("jump", "goto") else None


def _vmap(vmap: dict[str, Any], table: Table) -> Callable[[Packet], Verdict | None]:
    elements = _elements(vmap["data"], table)

    def verdict(packet: Packet) -> Verdict | None:
        for item, statement in elements or []:
            answer = _is(vmap["key"], _plain(item), packet)
            if answer is not False:
                return _verdict(statement) if answer else None
        return None

    return verdict


def _elements(right: Any, table: Table) -> list[Any] | None:
    """What the right side of a match names, one by one; None where nobody knows."""
    if isinstance(right, str) and right.startswith("@"):
        return table.sets.get(right[1:])
    if isinstance(right, dict) and "set" in right:
        inner: list[Any] = right["set"] if isinstance(right["set"], list) else [right["set"]]
        return inner
    return right if isinstance(right, list) else [right]


def _plain(item: Any) -> Any:
    return item["elem"]["val"] if isinstance(item, dict) and "elem" in item else item


def _match(match: dict[str, Any], table: Table) -> Test:
    left, operator = match["left"], match["op"]
    items = _elements(match["right"], table)
    key = left.get("payload", {}).get("field")
    # Lists of banned addresses are long, and each packet is asked: they are read once.
    blocks = _blocks(items) if items and key in _ADDRESSES else None

    def test(packet: Packet) -> Answer:
        if items is None or not _has(left, packet):
            return None  # in neither sense
        if blocks is not None:
            answer = _in_blocks(_ADDRESSES[key](packet), blocks)
        else:
            answer = any_of([_is(left, _plain(item), packet) for item in items])
        return {"==": answer, "in": answer, "!=": negated(answer)}.get(operator)

    return test


def _has(left: dict[str, Any], packet: Packet) -> bool:
    """Whether a packet has what is looked at: not the port of another protocol."""
    if "concat" in left:
        return all(_has(part, packet) for part in left["concat"])
    if "&" in left:
        return _has(left["&"][0], packet)
    protocol = left.get("payload", {}).get("protocol")
    return protocol in (None, "ip", "th") or packet.proto == PROTOCOLS.get(protocol)


def _is(left: dict[str, Any], item: Any, packet: Packet) -> Answer:
    """Whether a packet has this one value."""
    if "concat" in left:
        if not isinstance(item, dict) or "concat" not in item:
            return None
        pairs = zip(left["concat"], item["concat"], strict=True)
        return all_of([_is(part, value, packet) for part, value in pairs])
    if "&" in left:
        return _flags(left["&"][0], left["&"][1], item, packet)
    ((kind, value),) = left.items()
    key = value.get("key", "") if kind in ("meta", "ct") else value.get("field", "")
    if kind == "payload" and not _has(left, packet):
        return False
    if key in _INTERFACES:
        return is_on(_INTERFACES[key](packet), str(item), "*")
    if kind == "payload" and key in _ADDRESSES:
        return _address(_ADDRESSES[key](packet), item)
    if key in ("dport", "sport", "ttl"):
        ports: Ports = getattr(packet, key)
        return _number(ports, item)
    if (kind, key) in (("meta", "l4proto"), ("payload", "protocol")):
        return packet.proto == protocol_number(item) if isinstance(item, (str, int)) else None
    if kind == "ct":
        return packet.state == item if key == "state" else False if key == "status" else None
    if kind == "fib":
        return packet.to == item if value["result"] == "type" else None
    if key == "flags":
        return item in packet.flags if isinstance(item, str) else None
    return _WORDS[key](packet) == item if key in _WORDS and kind == "meta" else None


def _flags(left: dict[str, Any], mask: Any, wanted: Any, packet: Packet) -> Answer:
    if left.get("payload", {}).get("field") != "flags":
        return None
    masked = packet.flags & set([mask] if isinstance(mask, str) else mask)
    return masked == {wanted} if isinstance(wanted, str) else None


def _number(ports: Ports, item: Any) -> Answer:
    if isinstance(item, dict) and "range" in item:
        first, last = item["range"]
        return within(ports, first, last)
    return within(ports, item, item) if isinstance(item, int) else None


def _address(network: IPv4Network, item: Any) -> Answer:
    blocks = _blocks([item])
    return None if blocks is None else _in_blocks(network, blocks)


_Block = tuple[int, int]  # the first and the last address of it


def _blocks(items: list[Any]) -> list[_Block] | None:
    """Addresses, networks and ranges as nft names them; None where one is something else."""
    blocks = []
    for item in map(_plain, items):
        if isinstance(item, dict) and "range" in item:
            first, last = map(ip_address, item["range"])
        elif isinstance(item, dict) and "prefix" in item:
            network = net(f"{item['prefix']['addr']}/{item['prefix']['len']}")
            first, last = network[0], network[-1]
        elif isinstance(item, str):
            first = last = ip_address(item)
        else:
            return None
        blocks.append((int(first), int(last)))
    return blocks


def _in_blocks(network: IPv4Network, blocks: list[_Block]) -> Answer:
    first, last = int(network[0]), int(network[-1])
    if any(low <= first and last <= high for low, high in blocks):
        return True
    return None if any(low <= last and first <= high for low, high in blocks) else False
