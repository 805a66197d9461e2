"""The records of the pillar's keys: what a value is, what it is without one, and a line of help.

The planner reads with these records; ``docs/reference.py`` makes the tables of ``docs/pillar.md``
and ``docs/pillar.schema.json`` of them.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

REQUIRED: Any = object()  # a default: the key has to be there
EMPTY: Any = ()  # a default: a list or mapping without anything


class Kind(NamedTuple):
    """A single value. ``parse`` returns it or raises ValueError; ``words`` are for the reference,
    none where the key is always refused. ``schema`` makes its JSON schema, which nothing on a
    minion asks for; ``name`` is its name there where many keys share it."""

    parse: Callable[[Any], Any]
    words: str
    schema: Callable[[], Any]
    name: str = ""


class Items(NamedTuple):
    """A list of single values, for which one may stand alone. ``empty``: why none is wrong.
    ``most``: how many there can be, which the room checks."""

    kind: Kind
    words: str
    empty: str = ""
    most: int | None = None


class Mapping(NamedTuple):
    """Keys of its own. ``instead`` is what may stand there that is no mapping. ``table``: whether
    the reference has a table of its keys."""

    keys: dict[str, "Key"]
    words: str = "mapping"
    instead: Kind | None = None
    table: bool = True


class Named(NamedTuple):
    """Mappings of one shape by names, which the reference calls ``title``. ``empty`` and ``most``
    as above."""

    title: str
    name: Kind
    keys: dict[str, "Key"]
    empty: str = ""
    most: int | None = None
    words: str = "mapping"


class Rows(NamedTuple):
    """A list of mappings of one shape. ``table`` as above."""

    keys: dict[str, "Key"]
    words: str = "list of mappings"
    table: bool = True


class Values(NamedTuple):
    """Single values, or lists of them, by names."""

    name: Kind
    kind: Kind | Items
    words: str

    @property
    def keys(self) -> "EveryName":
        return EveryName(self.kind)


class Settings(NamedTuple):
    """A daemon's keywords, each with a value or a list of them. ``refused`` are patterns of those
    that are not possible, with the words of the error."""

    kind: Kind
    refused: dict[str, str]
    words: str = "[settings](#settings)"

    @property
    def keys(self) -> "EveryName":
        return EveryName(self.kind)

    def refusal(self, keyword: str) -> str | None:
        """Why there cannot be such a keyword; None where there can."""
        matching = (why for pattern, why in self.refused.items() if re.fullmatch(pattern, keyword))
        return next(matching, None)


class Key(NamedTuple):
    """A key of the pillar. ``default`` is what it has where it is missing; ``said`` says that in
    the reference where the value does not. ``more``: where further values go if there are many."""

    name: str
    kind: Any  # one of the classes above
    default: Any
    help: str
    said: str = ""
    more: str = ""

    @property
    def single(self) -> bool:
        """Whether there is only one of what it is called after."""
        return not isinstance(self.kind, (Items, Named, Rows))


def by_name(*records: Key) -> dict[str, Key]:
    """The records of one mapping, in the order of the reference."""
    return {record.name: record for record in records}


def not_possible(reasons: dict[str, str]) -> dict[str, str]:
    """For ``Settings``: keywords, or patterns of them, each with the reason."""
    return {pattern: f"is not possible: {reason}" for pattern, reason in reasons.items()}


class EveryName(dict[str, Key]):
    """The records of a mapping of ``Values``: there is one for every name."""

    def __init__(self, kind: Kind | Items) -> None:
        super().__init__()
        self.kind = kind

    def __missing__(self, name: str) -> Key:
        return Key(name, self.kind, EMPTY if isinstance(self.kind, Items) else None, "")

    def __contains__(self, name: object) -> bool:
        return True
