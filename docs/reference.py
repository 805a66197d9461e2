#!/usr/bin/env python3
"""Make the reference of the pillar from the records of its keys (``_gateway_keys``).

In ``pillar.md`` the tables of keys, each under the heading of its mapping; all else there is
written by hand. And ``pillar.schema.json``, a JSON schema of a whole pillar file, for editors.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "_modules"))

import _gateway_kinds  # noqa: E402
import _gateway_plan  # noqa: E402
import _gateway_values  # noqa: E402
from _gateway_keys import (  # noqa: E402
    EMPTY,
    REQUIRED,
    Items,
    Key,
    Kind,
    Mapping,
    Named,
    Rows,
    Settings,
    Values,
)

PAGE = ROOT / "docs/pillar.md"
SCHEMA = ROOT / "docs/pillar.schema.json"
HEAD = "| key | type or values | default | meaning |\n|---|---|---|---|\n"
TOP = "gateway"
Keys = dict[str, Key]
Schema = dict[str, Any]

# --------------------------------------------------------------------------------------------------
# The page


def sections(title: str = TOP, keys: Keys = _gateway_plan.KEYS) -> Iterator[tuple[str, Keys]]:
    """The mappings that have a table, by the heading above it."""
    yield title, keys
    for name, key in keys.items():
        kind = key.kind
        if isinstance(kind, Named):
            yield from sections(f"{title}:{name}:{kind.title}", kind.keys)
        elif isinstance(kind, (Mapping, Rows)) and kind.table:
            yield from sections(f"{title}:{name}", kind.keys)


def default(key: Key) -> str:
    """The default as the reference has it."""
    if key.said:
        return key.said
    if key.default is REQUIRED:
        return "required"
    if key.default is None:
        return "none"
    if key.default is EMPTY:
        return "empty"
    if isinstance(key.default, bool):
        return str(key.default).lower()
    return f"`{key.default}`" if isinstance(key.default, str) else str(key.default)


def table(keys: Keys) -> str:
    """The rows of all keys that may be there."""
    rows = [
        f"| `{key.name}` | {key.kind.words} | {default(key)} | {key.help} |"
        for key in keys.values()
        if key.kind.words
    ]
    return "".join(f"{row.replace('|  |', '| |')}\n" for row in rows)


def page(text: str) -> str:
    """The page with the tables of today. Raises ValueError where it lacks a heading, or has one
    with a table and nothing has such keys."""
    wanted = dict(sections())
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    for number, part in enumerate(parts):
        if HEAD not in part:
            continue
        title = part.partition("\n")[0].removeprefix("## ")
        if title not in wanted:
            raise ValueError(f"there are no keys of {title}")
        before, _, behind = part.partition(HEAD)
        rest = re.sub(r"\A(?:\|.*\n)*", "", behind)
        parts[number] = before + HEAD + table(wanted.pop(title)) + rest
    if wanted:
        raise ValueError(f"no heading with a table of keys for {', '.join(wanted)}")
    return "".join(parts)


# --------------------------------------------------------------------------------------------------
# The schema


def schema() -> Schema:
    """The schema of a pillar file, of which other formulas may have a part."""
    definitions: dict[str, Any] = {}
    gateway = _mapping(_gateway_plan.KEYS, definitions)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Pillar of the gateway formula",
        "type": "object",
        "properties": {TOP: gateway},
        "required": [TOP],
        "definitions": dict(sorted(definitions.items())),
    }


def _mapping(keys: Keys, definitions: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {name: _key(key, definitions) for name, key in keys.items()},
        "required": [name for name, key in keys.items() if key.default is REQUIRED],
        "additionalProperties": False,
    }


def _key(key: Key, definitions: Schema) -> Any:
    found = _schema(key.kind, definitions)
    if found is False:  # a key that is known and always refused
        return found
    said: Schema = {}
    if key.help:
        said["description"] = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", key.help)
    if isinstance(key.default, (bool, int, float, str)):
        said["default"] = key.default
    # In this draft nothing beside a reference counts.
    return said | ({"allOf": [found]} if "$ref" in found else found)


def _schema(kind: Any, definitions: Schema) -> Any:
    """The schema of one of the kinds of ``_gateway_keys``. Those with a name are definitions."""
    if isinstance(kind, Kind):
        if not kind.name:
            return kind.schema()
        definitions[kind.name] = kind.schema()
        return {"$ref": f"#/definitions/{kind.name}"}
    if isinstance(kind, Items):
        item = _schema(kind.kind, definitions)
        return {"anyOf": [item, _list(item) | _bounds("Items", kind)]}
    if isinstance(kind, Rows):
        return _list(_mapping(kind.keys, definitions))
    if isinstance(kind, Mapping):
        mapping = _mapping(kind.keys, definitions)
        return {"anyOf": [mapping, kind.instead.schema()]} if kind.instead else mapping
    if isinstance(kind, Named):
        names, values = kind.name, _mapping(kind.keys, definitions)
    elif isinstance(kind, Values):
        names, values = kind.name, _schema(kind.kind, definitions)
    else:
        assert isinstance(kind, Settings)
        return _settings(kind, definitions)
    found = {
        "type": "object",
        "propertyNames": _schema(names, definitions),
        "additionalProperties": values,
    }
    if isinstance(kind, Named):
        found |= _bounds("Properties", kind)
    return found


def _list(item: Any) -> Schema:
    return {"type": "array", "items": item}


def _bounds(what: str, kind: Items | Named) -> Schema:
    """How many there may be."""
    least = {f"min{what}": 1} if kind.empty else {}
    return least | ({f"max{what}": kind.most} if kind.most else {})


def _settings(kind: Settings, definitions: Schema) -> Schema:
    value = _schema(kind.kind, definitions)
    return {
        "type": "object",
        "propertyNames": {
            "pattern": _gateway_kinds.text(_gateway_values.KEYWORD_PATTERN.pattern)["pattern"],
            "not": {"pattern": f"^(?:{'|'.join(kind.refused)})$"},
        },
        "additionalProperties": {"anyOf": [value, _list(value)]},
    }


def schema_text() -> str:
    """The file."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write both anew."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    SCHEMA.write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
