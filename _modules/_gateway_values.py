"""Single values of the pillar: what each kind of them must look like, and the words of errors.

A parser returns the value, or raises ValueError with what is wrong with it.
"""

import difflib
import re
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network
from typing import Any

DNS_PORT = 53
# No host can have an address in these networks: RFC 6890 section 2.2.2, RFC 5771 section 3.
NO_HOSTS = tuple(map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4")))
LOOPBACK = IPv4Network("127.0.0.0/8")
LINK_LOCAL = IPv4Network("169.254.0.0/16")  # no router passes it on: RFC 3927 section 2.7
LONGEST_SETTING = 900
LONGEST_UNIT = 200  # systemd's limit is 255, a file's name too, and ours has a suffix
LONGEST_NAME = 253  # of a name in DNS, without the dot at its end: RFC 1035 section 2.3.4
# IFNAMSIZ is 16 with the closing zero; a tunnel is called DEVICE_PREFIX + the server's name.
DEVICE_NAME_LENGTH = 15
DEVICE_PREFIX = "vpn-"
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
LABEL_PATTERN = re.compile(_LABEL)
_DOMAIN_PATTERN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
INTERFACE_PATTERN = re.compile(r"(?!(?:lo|all|default)$)[A-Za-z0-9][A-Za-z0-9._-]*")
MINION_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MAC_PATTERN = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
NUMBER_PATTERN = re.compile(r"-?[1-9][0-9]{0,9}|0")
DECIMAL_PATTERN = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,4})?")
KEYWORD_PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
PATH_PATTERN = re.compile(r"/[A-Za-z0-9._+@/-]+")
_UNIT_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.-]*(?:@[A-Za-z0-9:_.-]+)?\.([a-z]+)")
# Kinds of systemd units that can follow the virtual IP, and kinds that can be active.
FOLLOWING = ("service", "timer", "socket", "path", "target")
ACTIVE = (*FOLLOWING, "mount", "automount", "swap")
# Printable ASCII without what ends or opens something in a daemon's configuration file: quotes,
# braces, backslashes.
PLAIN = r"[ !#-&(-\[\]-_a-z|~]"
_SETTING_PATTERN = re.compile(rf"{PLAIN}*")
# A quoted text of dnsmasq's: printable ASCII, in which a backslash escapes the next character. A
# quote directly behind the closing one does not open another text.
QUOTED_PATTERN = re.compile(r'"(?:[ !#-\[\]-~]|\\[ -~])*"(?!")')
# What YAML's types are called in messages; a bool is an int too, so it comes first.
_KINDS: tuple[tuple[Any, str], ...] = (
    (bool, "true or false"),
    ((int, float), "a number"),
    (str, "text"),
    (dict, "a mapping"),
    (list, "a list"),
    (type(None), "empty"),
)
# A suggestion compares a word with every choice: too slow for each typo among 10,000 hosts.
_MOST_CHOICES = 1000


def show(value: object, longest: int = 60) -> str:
    """A value as an error message shows it: short and on one line."""
    if isinstance(value, (dict, list, tuple, set)):
        return kind(value)
    # Only quotes make a space at the end visible.
    clear = isinstance(value, str) and value.isprintable() and value and value == value.strip()
    text = str(value) if clear else safe_repr(value)
    return text if len(text) <= longest else text[: longest - 3] + "..."


def safe_repr(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # Python refuses to print whole numbers of more than 4,300 digits.
        return "a huge number"


def kind(value: object) -> str:
    for kind, name in _KINDS:
        if isinstance(value, kind):
            return name
    return f"a {type(value).__name__}"


def one(value: object, what: str) -> None:
    """Raises ValueError where there are several values, or none, and one is wanted."""
    if value is None or isinstance(value, (dict, list, tuple, set, frozenset)):
        raise ValueError(f"must be {what}, is {kind(value)}")


def string(value: object) -> str:
    one(value, "one text")
    if not isinstance(value, str):
        raise ValueError(f"must be text, is {kind(value)} ({show(value)}); put it in quotes")
    return value


def matching(pattern: re.Pattern[str], what: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if not pattern.fullmatch(string(value)):
            raise ValueError(f"{show(value)} is not {what}")
        return str(value)

    return parse


def _lower(parse: Callable[[object], str]) -> Callable[[object], str]:
    return lambda value: parse(string(value).lower())


def whole(lowest: int, highest: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        one(value, "one whole number")
        if isinstance(value, str) and NUMBER_PATTERN.fullmatch(value):  # as Jinja gives it
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"must be a whole number, is {kind(value)} ({show(value)})")
        if not lowest <= value <= highest:
            raise ValueError(f"{show(value)} is not in {lowest} to {highest}")
        return value

    return parse


def one_of(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        one(value, f"one of {', '.join(choices)}")
        if value not in choices or not isinstance(value, str):
            hint = did_you_mean(value, choices)
            raise ValueError(f"{show(value)} is none of {', '.join(choices)}{hint}")
        return value

    return parse


def boolean(value: object) -> bool:
    one(value, "true or false")
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, is {kind(value)} ({show(value)})")
    return value


def address(value: object) -> IPv4Address:
    address, slash, _ = string(value).partition("/")
    try:
        found = IPv4Address(address)
    except ValueError as error:
        raise ValueError(f"{show(value)} is not an IPv4 address") from error
    if slash:
        raise ValueError(f"{show(value)} is to be written without prefix length: {found}")
    return found


def host_address(value: object, no_hosts: tuple[IPv4Network, ...] = NO_HOSTS) -> IPv4Address:
    """An address that a host may have."""
    parsed = address(value)
    for network in no_hosts:
        if parsed in network:
            raise ValueError(f"{parsed} is inside {network}, of which no host has an address")
    return parsed


def network(value: object) -> IPv4Network:
    text = string(value)
    try:
        network = IPv4Network(text, strict=False)
    except ValueError as error:
        raise ValueError(f"{show(value)} is not an IPv4 network such as 10.77.0.0/24") from error
    if "/" not in text:
        raise ValueError(f"{text} has no prefix length; write it as in 10.77.0.0/24")
    if IPv4Address(text.split("/")[0]) != network.network_address:
        raise ValueError(f"{text} has host bits set; the network is {network}")
    return network


def host_network(value: object, no_hosts: tuple[IPv4Network, ...] = NO_HOSTS) -> IPv4Network:
    """A network whose addresses hosts may have."""
    parsed = network(value)
    for other in no_hosts:
        if parsed.overlaps(other):
            raise ValueError(f"{parsed} overlaps {other}, of which no host has an address")
    return parsed


def inside_network(value: object) -> IPv4Network:
    """A network that the gateways route."""
    return host_network(value, (*NO_HOSTS, LINK_LOCAL))


def mac(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(f"YAML read a number ({show(value)}); put the MAC address in quotes")
    text = string(value).lower().replace("-", ":")
    if not _MAC_PATTERN.fullmatch(text):
        raise ValueError(f"{show(value)} is not a MAC address such as 02:00:00:00:00:10")
    if int(text[:2], 16) & 1:
        raise ValueError(f"{text} is a group address; no host has it")
    return text


label = _lower(matching(LABEL_PATTERN, "a host name (letters, digits and inner hyphens)"))


def _without_dot(text: str) -> str:
    """The way out for a name as it is written where all names are."""
    bare = text.removesuffix(".")
    if text == bare or not _DOMAIN_PATTERN.fullmatch(bare.lower()):
        return ""
    return f"; write it without the dot at its end: {show(bare)}"


def dns_name(value: object) -> str:
    text = string(value).lower()
    if len(text) > LONGEST_NAME or not _DOMAIN_PATTERN.fullmatch(text):
        raise ValueError(f"{show(value)} is not a domain name{_without_dot(text)}")
    if text.rsplit(".", 1)[-1].isdigit():
        raise ValueError(f"{show(value)} is not a domain name: its last label is a number")
    return text


def alias(value: object) -> str:
    """A name, or ``*.NAME`` for all names below it."""
    text = string(value)
    return f"*.{dns_name(text[2:])}" if text.startswith("*.") else dns_name(text)


def full_name(name: str, domain: str | None) -> str:
    """As DNS has it: a name without a dot is one of the site's domain."""
    return name if "." in name.removeprefix("*.") else f"{name}.{domain}"


def any_network(value: object) -> str:
    """A network or an address of either family, as text without needless prefix length."""
    text = string(value)
    try:
        if "%" in text:  # an interface's name would follow, and Python takes any text for one
            raise ValueError
        network = ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError(f"{show(value)} is not an address or network") from error
    if ip_address(text.split("/")[0]) != network.network_address:
        raise ValueError(f"{text} has host bits set; the network is {network}")
    alone = network.prefixlen == network.max_prefixlen
    return str(network.network_address if alone else network)


port = whole(1, 65535)


def ports(value: object) -> tuple[int, int]:
    """A port, or a range as in 8000-8100: the first and the last."""
    if not isinstance(value, str):
        return port(value), port(value)
    first, dash, last = value.partition("-")
    last = last if dash else first
    if not (NUMBER_PATTERN.fullmatch(first) and NUMBER_PATTERN.fullmatch(last)):
        raise ValueError(f"{show(value)} is neither a port nor a range such as 8000-8100")
    ports = port(first), port(last)
    if ports[0] > ports[1]:
        raise ValueError(f"{show(value)} ends before it begins")
    return ports


def server_address(value: object) -> str:
    """An upstream server: an address or a name."""
    text = string(value)
    if re.match(r"[0-9.]+/", text):
        return str(address(text))
    for parse in (IPv4Address, dns_name):
        try:
            found = str(parse(text))
        except ValueError:
            continue
        return str(host_address(found)) if parse is IPv4Address else found
    kinds = "neither an IPv4 address nor a domain name"
    raise ValueError(f"{show(value)} is {kinds}{_without_dot(text)}")


def interface(value: object) -> str:
    text = string(value)
    if len(text) > DEVICE_NAME_LENGTH:
        raise ValueError(f"{show(value)} is longer than {DEVICE_NAME_LENGTH} characters")
    return matching(INTERFACE_PATTERN, "an interface name")(text)


keyword = matching(KEYWORD_PATTERN, "a keyword")
# A daemon takes this for the beginning of a comment, and ignores the rest of the line.
_COMMENT_MARKS = re.compile(r"(?:^| )[#;]")


def setting_text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"must be text, a number, true, or a list of these; is {kind(value)}")
    return str(value)


def setting(value: object, marks: re.Pattern[str] = _COMMENT_MARKS) -> str:
    if value is True:  # a keyword that stands alone
        return ""
    text = setting_text(value)
    found = marks.search(text)
    if found:
        raise ValueError(
            f"{show(text)} has a comment in it ({found[0].strip()}), which the daemon would leave"
            " out"
        )
    if not _SETTING_PATTERN.fullmatch(text):
        raise ValueError(
            f"{show(value)} has a character that a configuration file cannot hold here"
            " (line breaks, quotes, braces, backslashes, anything but ASCII)"
        )
    return text


def unit(value: object, kinds: tuple[str, ...] = ACTIVE) -> str:
    """The full name of a systemd unit. One without a dot is a service, as for systemctl."""
    text = string(value)
    unit = text if "." in text else f"{text}.service"
    found = _UNIT_PATTERN.fullmatch(unit)
    if not found or found[1] not in kinds:
        raise ValueError(
            f"{show(text)} is not the name of a systemd unit such as nginx.service"
            f" ({', '.join(kinds)})"
        )
    if len(unit) > LONGEST_UNIT:
        raise ValueError(f"{show(text)} is longer than {LONGEST_UNIT} characters")
    return unit


def no_host(ip: IPv4Address, network: IPv4Network) -> str | None:
    """Why no host in the network can have this address; None if one can."""
    if ip not in network:
        return f"{ip} is not inside {network}"
    if network.prefixlen < 31 and ip == network.network_address:
        return f"{ip} is the address of the network {network} itself"
    if network.prefixlen < 31 and ip == network.broadcast_address:
        return f"{ip} is the broadcast address of {network}"
    return None


def did_you_mean(word: object, choices: Any) -> str:
    if len(choices) > _MOST_CHOICES:
        return ""
    lower = {str(choice).lower(): choice for choice in choices}
    close = difflib.get_close_matches(show(word).lower(), list(lower), n=1)
    return f'; did you mean "{lower[close[0]]}"?' if close else ""


class Networks:
    """Many networks, of which one that holds an address is found without asking each. Where one is
    not known (None), it cannot be said of an address that it is in none (``are_known``)."""

    def __init__(self, networks: Iterable[IPv4Network | None]) -> None:
        found = list(networks)
        self.all = [network for network in found if network]
        self.are_known = len(self.all) == len(found)
        # By length of the prefix, and by the prefix as a number.
        self._known: dict[int, dict[int, IPv4Network]] = {}
        for network in self.all:
            prefix = int(network.network_address) >> 32 - network.prefixlen
            self._known.setdefault(network.prefixlen, {}).setdefault(prefix, network)

    def holding(self, ip: IPv4Address | None) -> IPv4Network | None:
        """The network that an address is in; one of them where they overlap."""
        number = int(ip) if ip else 0
        found = (known.get(number >> 32 - length) for length, known in self._known.items())
        return next(filter(None, found), None) if ip else None


EVERYTHING = ("zone", "server", "client", "group")
