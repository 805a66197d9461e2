"""The kinds of single values that keys of the pillar have: parser, words and JSON schema in one.

The schema's patterns are what JavaScript and Python read alike, and as strict as the parser. What a
parser looks up elsewhere in the pillar they cannot say.
"""

import re
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network
from typing import Any

import _gateway_values as values
from _gateway_keys import Items, Kind

# --------------------------------------------------------------------------------------------------
# Patterns


def digits(lowest: int, highest: int) -> str:
    """The whole numbers of a range, as they are written without needless zeros."""
    low, high = str(lowest), str(highest)
    if len(low) == len(high):
        return _digits(low, high)
    longer = 10 ** len(low)
    return f"{_digits(low, str(longer - 1))}|{digits(longer, highest)}"


def _digits(low: str, high: str) -> str:
    """The same of numbers of one length."""
    if not low:
        return ""
    first, last, rest, parts = int(low[0]), int(high[0]), len(low) - 1, []
    if first == last:
        return f"{first}{_group(_digits(low[1:], high[1:]))}"
    if int(low[1:] or 0):
        parts.append(f"{first}{_group(_digits(low[1:], '9' * rest))}")
        first += 1
    if high[1:] != "9" * rest:
        parts.append(f"{last}{_group(_digits('0' * rest, high[1:]))}")
        last -= 1
    if first <= last:
        head = f"[{first}-{last}]" if first < last else str(first)
        parts.append(head + "[0-9]" * rest)
    return "|".join(parts)


def _group(pattern: str) -> str:
    return f"(?:{pattern})" if "|" in pattern else pattern


_OCTET = f"(?:{digits(0, 255)})"
ADDRESS_PATTERN = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
PORT_PATTERN = f"(?:{digits(1, 65535)})"


def inside(networks: Iterable[IPv4Network]) -> str:
    """How addresses begin that are in one of these networks, of /4 to /16."""
    return "|".join(_inside(network) for network in networks)


def _inside(network: IPv4Network) -> str:
    octets = str(network.network_address).split(".")
    whole, bits = divmod(network.prefixlen, 8)
    if bits:
        first = int(octets[whole])
        octets[whole] = f"(?:{digits(first, first + (256 >> bits) - 1)})"
        whole += 1
    return "".join(rf"{octet}\." for octet in octets[:whole])


def within(networks: Iterable[IPv4Network]) -> str:
    """How a network begins that is inside one of these."""
    return "|".join(
        rf"(?:{_inside(network)})[0-9.]+/(?!(?:{'|'.join(map(_mask, range(network.prefixlen)))})$)"
        for network in networks
    )


def _mask(length: int) -> str:
    """A prefix length; Python also takes what the older notations make of it."""
    network = IPv4Network((0, length))
    masks = {str(network.netmask)} | ({str(network.hostmask)} if 0 < length < 32 else set())
    return f"(?:0*{length}|{'|'.join(map(re.escape, sorted(masks)))})"


def _multiples(step: int) -> str:
    """The octets that are a multiple of a power of two; that they are octets is seen elsewhere."""
    if step == 2:
        return "[0-9]*[02468]"
    if step == 4:
        return "(?:[048]|[0-9]*(?:[02468][048]|[13579][26]))"
    return f"(?:{'|'.join(map(str, range(0, 256, step)))})"


def network_pattern(lengths: range) -> str:
    """Networks of these prefix lengths, without host bits."""
    found = []
    for length in lengths:
        whole, bits = divmod(length, 8)
        octets = ["[0-9]+"] * whole + [_multiples(256 >> bits)] * bool(bits)
        octets += ["0"] * (4 - len(octets))
        found.append(r"\.".join(octets) + f"/{_mask(length)}")
    return f"(?={ADDRESS_PATTERN}/)(?:{'|'.join(found)})"


def overlapping(networks: Iterable[IPv4Network]) -> str:
    """How a network begins that overlaps one of these, of /4 to /16."""
    found = []
    for network in networks:
        found.append(_inside(network))
        for length in range(network.prefixlen):
            around = network.supernet(new_prefix=length)
            found.append(f"{re.escape(str(around.network_address))}/{_mask(length)}$")
    return "|".join(dict.fromkeys(found))


def any_case(pattern: str) -> str:
    """The same of words of small letters."""
    return "".join(f"[{each}{each.upper()}]" if each.isalpha() else each for each in pattern)


def text(pattern: str, what: str = "", longest: int | None = None) -> dict[str, Any]:
    """The schema of a text that matches as a whole. ``what`` it is, for an editor's message."""
    found: dict[str, Any] = {"type": "string", "pattern": rf"^(?:{pattern})(?!\n)$"}
    if longest:
        found["maxLength"] = longest
    if what:
        found["patternErrorMessage"] = f"is not {what}"  # of YAML's and JSON's language servers
    return found


# --------------------------------------------------------------------------------------------------
# Kinds


def matching(pattern: str, what: str, words: str = "text") -> Kind:
    """A text; ``what`` it is says the error."""
    return Kind(values.matching(re.compile(pattern), what), words, lambda: text(pattern, what))


SECONDS = "{} to {} s"


def whole(lowest: int, highest: int, words: str = "{} to {}", parse: Any = None) -> Kind:
    """A whole number, which may be text, as Jinja gives it."""
    return Kind(
        parse or values.whole(lowest, highest),
        words.format(lowest, highest),
        lambda: number_or_text(lowest, highest, digits(lowest, highest)),
    )


def number_or_text(lowest: float, highest: float, pattern: str) -> dict[str, Any]:
    """The schema of a number in a range, or a text in its place."""
    kind = "integer" if isinstance(lowest, int) else "number"
    found = {"type": [kind, "string"], "minimum": lowest, "maximum": highest}
    return found | {"pattern": text(pattern)["pattern"]}


def one_of(*choices: str) -> Kind:
    """One of some words."""
    words = ", ".join(f"`{choice}`" for choice in choices)
    return Kind(values.one_of(*choices), words, lambda: {"enum": list(choices)})


def either(parse: Callable[[Any], Any], words: str, *schemas: Callable[[], Any]) -> Kind:
    """What one of these schemas describes."""
    return Kind(parse, words, lambda: {"anyOf": [schema() for schema in schemas]})


def refused(reason: str) -> Kind:
    """A key that is known elsewhere, and why it cannot stand here."""

    def parse(value: object) -> None:
        raise ValueError(reason)

    return Kind(parse, "", lambda: False)


BOOLEAN = Kind(values.boolean, "true, false", lambda: {"type": "boolean"})
TEXT = Kind(values.string, "text", lambda: {"type": "string"})
_AN_ADDRESS = "an IPv4 address"
_A_NETWORK = "an IPv4 network such as 10.77.0.0/24"
ADDRESS = Kind(values.address, "address", lambda: text(ADDRESS_PATTERN, _AN_ADDRESS), "address")
HOST_ADDRESS = Kind(
    values.host_address,
    "address",
    lambda: text(f"(?!{inside(values.NO_HOSTS)}){ADDRESS_PATTERN}", f"{_AN_ADDRESS} of a host"),
    "host_address",
)


def _network(parse: Callable[[Any], Any], name: str, apart: tuple[IPv4Network, ...] = ()) -> Kind:
    def schema() -> dict[str, Any]:
        nowhere = f"(?!{overlapping(apart)})" if apart else ""
        return text(nowhere + network_pattern(range(33)), _A_NETWORK)

    return Kind(parse, "network", schema, name)


NETWORK = _network(values.network, "network")
HOST_NETWORK = _network(values.host_network, "host_network", values.NO_HOSTS)
INSIDE_NETWORK = _network(
    values.inside_network, "inside_network", (*values.NO_HOSTS, values.LINK_LOCAL)
)
MAC = Kind(
    values.mac,
    "text",
    lambda: text(
        "[0-9A-Fa-f][02468ACEace](?:[:-][0-9A-Fa-f]{2}){5}", "a host's MAC address, in quotes"
    ),
)
_LABEL = values.LABEL_PATTERN.pattern.replace("a-z", "A-Za-z")
LABEL = Kind(values.label, "name", lambda: text(_LABEL, "a host name"))
_NAME = rf"(?=[^\n]{{1,{values.LONGEST_NAME}}}$)(?:{_LABEL}\.)*(?![0-9]+$){_LABEL}"
NAME = Kind(values.dns_name, "name", lambda: text(_NAME, "a domain name"), "name")
ALIAS = Kind(values.alias, "alias", lambda: text(rf"(?:\*\.)?{_NAME}", "a name or *.NAME"), "alias")
ALIASES = Items(ALIAS, "list of aliases")
SERVER = either(values.server_address, "address or name", HOST_ADDRESS.schema, NAME.schema)
INTERFACE = Kind(
    values.interface,
    "interface",
    lambda: text(
        values.INTERFACE_PATTERN.pattern, "an interface's name", values.DEVICE_NAME_LENGTH
    ),
    "interface",
)
PORT = whole(1, 65535, parse=values.port)
PORTS = Kind(
    values.ports,
    "port, range",
    lambda: number_or_text(1, 65535, f"{PORT_PATTERN}(?:-{PORT_PATTERN})?"),
    "ports",
)
# xt_comment holds at most 255 characters.
COMMENT = matching(
    f"{values.PLAIN}{{1,200}}", "a comment (ASCII without quotes, braces, backslashes)"
)
# The kernel accepts at most 10,000 a second.
RATE = matching(
    "[1-9][0-9]{0,3}/(?:second|minute|hour|day)",
    "a rate such as 10/minute (second, minute, hour, day)",
    "rate",
)
PATH = matching(values.PATH_PATTERN.pattern, "an absolute path", "absolute path")


def unit_pattern(kinds: tuple[str, ...]) -> str:
    """The full name of a unit, or that of a service without its end."""

    def name(more: str, longest: int) -> str:
        part = f"[A-Za-z0-9:_{more}-]"
        return rf"(?=[^\n]{{1,{longest}}}$)[A-Za-z0-9]{part}*(?:@{part}+)?"

    bare = name("", values.LONGEST_UNIT - len(".service"))
    return rf"{bare}|{name('.', values.LONGEST_UNIT)}\.(?:{'|'.join(kinds)})"


UNIT = Kind(
    values.unit, "unit", lambda: text(unit_pattern(values.ACTIVE), "the name of a systemd unit")
)


def setting(parse: Callable[[Any], Any], pattern: str) -> Kind:
    """What may stand behind a daemon's keyword; ``true`` is nothing."""
    return either(
        parse,
        "text",
        lambda: {"const": True},
        lambda: {"type": "number"},
        lambda: text(pattern, "a text that this daemon reads as it is"),
    )


# Without what begins a comment.
SETTING_PATTERN = rf"(?![#;])(?![^\n]* [#;]){values.PLAIN}*"
SETTING = setting(values.setting, SETTING_PATTERN)
