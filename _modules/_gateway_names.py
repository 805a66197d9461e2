"""What rules may name: hosts, servers, clients, groups, sides; and what that stands for."""

from collections.abc import Callable
from ipaddress import IPv4Network

import _gateway_kinds as kinds
import _gateway_values as values
from _gateway_keys import Items, Kind
from _gateway_reader import Reader, Section
from _gateway_site import (
    Host,
    LocalNetwork,
    Network,
    Node,
    Target,
    VpnServer,
)

GROUP = kinds.matching(
    "[a-z][a-z0-9_-]{0,31}", "a group name (small letters, digits, _ and -)", "name"
)
# What a name stands for is said elsewhere in the pillar, so this parses nothing: ``Names`` does.
_END = Kind(values.string, "end", lambda: {"type": "string", "minLength": 1})
EMPTY_IS_ALL = "is empty; leave it out if any will do"
MEMBERS = Items(_END, "list")
ADDRESSES_ONLY = "ends: hosts, groups, addresses"


def ends(words: str = "[ends](#ends)", empty: str = EMPTY_IS_ALL) -> Items:
    """What a rule may name: one end, or several. None would match everything, where its author may
    have meant nothing."""
    return Items(_END, words, empty)


def claim_aliases(reader: Reader, aliases: dict[str, str], domain: str | None) -> None:
    """By path. `www` and `www.` + the site's domain are the same name."""
    for path, alias in aliases.items():
        reader.claim("host name", alias.removesuffix(f".{domain}"), path)


def own_names(
    internal: Network,
    public: Network,
    networks: tuple[LocalNetwork, ...],
    nodes: tuple[Node, ...],
) -> set[str]:
    """What the gateways are called, and the virtual IPs."""
    own = {name for node in nodes for name in (node.name.lower(), node.label, *node.aliases)}
    aliases = {*internal.aliases, *public.aliases}
    aliases |= {alias for network in networks for alias in network.aliases}
    return {name for name in own | aliases if name}


class Names:
    """What a rule of the firewall may name, and what the names of the pillar stand for."""

    ZONES = ("internal", "public", "vpn")

    def __init__(
        self,
        reader: Reader,
        hosts: tuple[Host, ...],
        domain: str | None,
        own: set[str],
        servers: tuple[VpnServer, ...],
        clients: dict[str, tuple[str, ...]],
        local: dict[str, tuple[IPv4Network, ...]],
    ) -> None:
        self.reader = reader
        self.domain = domain
        self.own = {self.short(name) for name in own}
        self.clients = clients
        self.local = local
        self.hosts = {
            self.short(name): host
            for host in hosts
            for name in (host.name, *host.aliases)
            if not name.startswith("*.")
        }
        self.groups: dict[str, tuple[str, ...]] = {}
        self.kinds: dict[str, list[str]] = {}
        for zone in self.ZONES:
            # Without a VPN server "vpn" names no address at all. A rule must not read that as
            # "any".
            if zone != "vpn" or servers:
                self._learn(zone, "zone")
        for network in local:
            if network not in self.ZONES:
                self._learn(network, "zone")
        for server in servers:
            self._learn(server.name, "server")
        for client in clients:
            self._learn(client, "client")

    def short(self, name: str) -> str:
        """A name of the site's domain without it: as an alias and in a rule both are the same."""
        return name.removesuffix(f".{self.domain}")

    def _learn(self, name: str, kind: str) -> None:
        self.kinds.setdefault(name, []).append(kind)

    def read_groups(self, firewall: Section) -> None:
        """Read ``groups``: lists of networks, hosts, VPN clients and other groups, in any order."""
        section = firewall.section("groups")
        for name in sorted(section.values, key=values.safe_repr):
            try:
                group = GROUP.parse(name)
                if group in self.kinds or group in self.hosts:
                    raise ValueError("this is the name of something else that rules can name")
            except ValueError as error:
                self.reader.fault(section.at(name), error)
                continue
            self.groups[group] = ()
        members = {group: self._read_members(section, group) for group in self.groups}
        for group in self.groups:
            self._learn(group, "group")
            found = self._reached(members, group)
            if ("group", group) in found:
                self.reader.fault(section.at(group), "contains itself")
                members[group] = ()  # once for all the groups of the circle
            else:
                networks = {each for kind, name in found for each in self._addresses(kind, name)}
                self.groups[group] = tuple(sorted(networks))

    def _addresses(self, kind: str, name: str) -> tuple[str, ...]:
        """Those of a group's member; none of a group in it, whose members are members too."""
        if kind == "network":
            return (name,)
        if kind == "host":
            return tuple(map(str, self.hosts[name].ips))
        if kind == "zone":
            return tuple(map(str, self.local[name]))
        return self.clients[name] if kind == "client" else ()

    def _read_members(self, section: Section, group: str) -> tuple[tuple[str, str], ...]:
        def parse(value: object) -> tuple[str, str]:
            text = values.string(value).lower()
            if text in self.groups:
                return "group", text
            if text in self.kinds:
                target = self.target("client", "local")(text)
                return target.kind, target.name
            if self.short(text) in self.hosts:
                return "host", self.short(text)
            network = self._network(text)
            if network.endswith("/0"):
                raise ValueError(f"{network} is everything; leave the group out of the rule")
            return "network", network

        return section.get(group, parse)  # type: ignore[no-any-return]

    def _reached(
        self, members: dict[str, tuple[tuple[str, str], ...]], start: str
    ) -> set[tuple[str, str]]:
        """What a group has in itself and in its groups, those included, as (kind, name)."""
        found: set[tuple[str, str]] = set()
        left = [start]
        while left:
            new = set(members[left.pop()]) - found
            found |= new
            left += [name for kind, name in new if kind == "group"]
        return found

    def _network(self, text: str) -> str:
        try:
            return values.any_network(text)
        except ValueError:
            if "/" in text or ":" in text or text.replace(".", "").isdigit():
                raise
        if text == "vpn":
            raise ValueError("this site has no VPN server")
        if self.short(text) in self.own:
            raise ValueError(f"{text} is the gateway itself; a rule may name its address")
        hint = values.did_you_mean(text, [*self.hosts, *self.groups, *self.kinds])
        raise ValueError(f"there is nothing called {values.show(text)}{hint}")

    def target(self, *kinds: str) -> Callable[[object], Target]:
        """A parser of what a rule names, which has to be of one of these kinds. ``local`` are of
        the zones those that are networks behind the pair."""

        def parse(value: object) -> Target:
            text = values.string(value).lower()
            found = list(self.kinds.get(text, []))
            if found and self.short(text) in self.hosts:
                found.append("host")
            if len(found) > 1:
                raise ValueError(f"{text} is a {' and a '.join(found)}; rename one of them")
            if not found:
                host = self.hosts.get(self.short(text))
                if host and host.further_ips:
                    return Target("host", host.name)
                return Target("network", str(host.ip) if host else self._network(text))
            if found[0] not in kinds and not ("local" in kinds and text in self.local):
                raise ValueError(f"{text} is a {found[0]}; here it must be {_either(kinds)}")
            if found[0] == "client" and not self.clients[text]:
                raise ValueError(f"client {text} has neither id nor networks, so no fixed address")
            return Target(found[0], text)

        return parse


def _either(kinds: tuple[str, ...]) -> str:
    names = {
        "zone": "internal, public, vpn, one of the networks",
        "server": "a VPN server",
        "client": "a VPN client",
        "group": "a group",
    }
    named = [names[kind] for kind in kinds if kind in names]
    return ", ".join([*named, "a host, or addresses such as 10.77.0.0/24"])
