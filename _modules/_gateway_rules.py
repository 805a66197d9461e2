"""The firewall's compiler: from one node's plan to what iptables-restore and ipset restore read.

A library in plain Python, like ``_gateway_plan``. Chains of ours are called GATEWAY- and, where a
built-in chain leads to them, its name; the jumps are made where the rules are loaded. The others
are called from these: DNAT has the forwards, SOURCES drops who has an address of the inside and
comes from elsewhere, INSIDE accepts what stays inside, BRANCH what a network behind a client sends
there, EGRESS what is listed of what leaves.
"""

import hashlib
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network
from itertools import product
from typing import Any

# Tables in the order in which they are loaded; the same chains in both families, empty or not.
CHAINS = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "FORWARD", "POSTROUTING"),
    "nat": ("PREROUTING", "POSTROUTING", "DNAT"),
    "filter": ("INPUT", "FORWARD", "OUTPUT", "SOURCES", "INSIDE", "BRANCH", "EGRESS"),
}
PREFIX = "GATEWAY-"
# A value for local use (RFC 2474 section 6, pool 2): "a peer has sent this on already".
PASSED_ON = "0x3f"
# What the loader's `ip rule` asks for: a packet without it is not forwarded, and without our rules
# none has it. One bit, so that marks of others have the rest.
MARK = "0x40000000"
# Another one: "from the public side to the inside, and table filter has not judged it yet"; also
# "a forged source", where it is not known yet whether the frame is only passed on by a bridge.
UNJUDGED = "0x20000000"

VRRP = "112"  # IANA's protocol number
# RFC 9568 section 5.1.1.3: a packet that a router has passed on is not from the peer.
ADVERT_TTL = 255
# So many members of a group may come in by SSH where there are no sets.
CLOSED_MEMBERS = 200
# multiport(8 of iptables-extensions): 15 ports, and a range counts as two.
MULTIPORT = 15
# IPSET_MAXNAMELEN is 32 with the closing zero.
SET_NAME_LENGTH = 31

# RFC 1812 section 4.3: the errors that a router has to hear, and the echo that it has to answer.
ICMP = ("3", "11", "12")
ECHO = "8"
# RFC 4890 section 4.4: errors and echo from anywhere; from the link only neighbour discovery (141
# and 142 are its inverse), multicast listeners, its secure form, and multicast routers. What a
# router says of itself (134) is heard where the pillar wants it.
ICMP6 = ("1", "2", "3", "4")
ECHO6 = "128"
ADVERTISEMENT = "134"
DISCOVERY = ("133", ADVERTISEMENT, "135", "136", "141", "142")
ICMP6_LINK = (*DISCOVERY, "130", "131", "132", "143", "148", "149", "151", "152", "153")

_UNJUDGED = f"-m mark --mark {UNJUDGED}/{UNJUDGED}"
_Plan = dict[str, Any]


def ruleset(plan: _Plan, bridges: Sequence[str] = ()) -> dict[str, str]:
    """The node's firewall as texts for ipset restore (``sets``) and iptables-restore (``v4``,
    ``v6``), and what is in force where those cannot be loaded (``closed4``, ``closed6``).

    ``bridges`` are those of the node's interfaces that are bridges whose frames pass iptables on
    their way from port to port (``br_netfilter``). The match for these frames makes the kernel load
    that module, so it is in no rule where there are none.

    A comment line before rules says where they come from, by pillar key where the pillar has them.
    """
    return {
        "sets": "".join(_sets(plan)),
        "v4": _Family(plan, 4, bridges).text(),
        "v6": _Family(plan, 6, bridges).text(),
        "closed4": _Closed(plan, 4, bridges).text(),
        "closed6": _Closed(plan, 6, bridges).text(),
    }


def lets_in(plan: _Plan, address: str, port: int, to: str) -> bool:
    """Whether ``address``, on the public side, may open TCP connections to this port of the node,
    at its address ``to``.

    True also where it cannot be told: the pillar has lines of iptables for a chain on the way.
    """
    firewall = plan["firewall"]
    version = ip_address(address).version
    chains = ("PREROUTING", "INPUT")
    if any(raw["family"] == version and raw["chain"] in chains for raw in firewall["raw"]):
        return True
    if _leads_on(plan, address, port, to):
        return False
    for rule in firewall["input"]:
        if rule["proto"] not in (None, "both", "tcp", "6"):
            continue
        if rule["to"] and not any(_is_from(plan, end, to) for end in rule["to"]):
            continue
        if rule["ports"] and not any(_holds(ports, port) for ports in rule["ports"]):
            continue
        if not rule["from"] or any(_is_from(plan, source, address) for source in rule["from"]):
            return bool(rule["action"] == "accept")
    ssh = firewall["ssh"]
    return port == ssh["port"] and any(_is_from(plan, source, address) for source in ssh["from"])


def _leads_on(plan: _Plan, address: str, port: int, to: str) -> bool:
    """Whether table nat leads the connection to a host behind the node."""
    nat, usual = plan["nat"], plan["public"]["virtual_ip"]
    if any(entry["address"] == to for entry in nat["one_to_one"]):
        return True
    if ip_address(to).version == 6:
        return False
    return any(
        # Without a virtual IP a forward has the node's own address.
        (forward["address"] or usual or to) == to
        and forward["proto"] == "tcp"
        and _holds(forward["ports"], port)
        and (not forward["from"] or any(_is_from(plan, end, address) for end in forward["from"]))
        for forward in nat["forwards"]
    )


def _holds(ports: str, port: int) -> bool:
    first, _, last = ports.partition(":")
    return int(first) <= port <= int(last or first)


def _is_from(plan: _Plan, source: dict[str, Any], address: str) -> bool:
    """Whether an end of a rule means this address of the public side."""
    if "group" in source:
        members = plan["firewall"]["groups"][source["group"]]
        return any(_is_in(address, member) for member in members["v4"] + members["v6"])
    if "address" in source:
        return "interface" not in source and _is_in(address, source["address"])
    return bool(source["interface"] == plan["public"]["interface"])


def _is_in(address: str, network: str) -> bool:
    return ip_address(address) in ip_network(network)


# --------------------------------------------------------------------------------------------------
# Groups


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _set_name(group: str, members: list[str], version: int) -> str:
    """A name that changes with the members: rules and the set that they mean change together."""
    digest = _digest(group, *members)
    room = SET_NAME_LENGTH - len(f"gateway--{digest}-{version}")
    return f"gateway-{group[:room]}-{digest}-{version}"


def _set_names(plan: _Plan, version: int) -> dict[str, str]:
    """The sets of one family, by group; a group that has nobody there has none."""
    return {
        group: _set_name(group, families[f"v{version}"], version)
        for group, families in plan["firewall"]["groups"].items()
        if families[f"v{version}"]
    }


def _sets(plan: _Plan) -> Iterator[str]:
    for group, families in plan["firewall"]["groups"].items():
        for version, family in ((4, "inet"), (6, "inet6")):
            members = families[f"v{version}"]
            if not members:
                continue
            name = _set_name(group, members, version)
            yield f"# gateway:firewall:groups:{group}\n"
            yield f"create {name} hash:net family {family} maxelem {max(len(members), 64)}\n"
            yield from (f"add {name} {member}\n" for member in members)


# --------------------------------------------------------------------------------------------------
# Rules


def _ports(ports: list[str]) -> Iterator[str]:
    """Matches for these destination ports, as few as may be."""
    if len(ports) == 1:
        yield f"--dport {ports[0]}"
        return
    chunk: list[str] = []
    size = 0
    for port in ports:
        weight = 2 if ":" in port else 1
        if size + weight > MULTIPORT:
            yield f"-m multiport --dports {','.join(chunk)}"
            chunk, size = [], 0
        chunk.append(port)
        size += weight
    yield f"-m multiport --dports {','.join(chunk)}"


def _protocols(proto: str | None, version: int) -> list[str]:
    if proto is None:
        return [""]
    if proto == "both":
        return ["-p tcp", "-p udp"]
    if version == 6 and proto == "icmp":
        return ["-p ipv6-icmp"]
    return [f"-p {proto}"]


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


class _Family:
    """The rules of one address family, chain by chain."""

    def __init__(self, plan: _Plan, version: int, bridges: Sequence[str]) -> None:
        self.plan = plan
        self.bridges = bridges
        self.version = version
        self.firewall = plan["firewall"]
        self.set_names = _set_names(plan, version)
        self.internal = plan["internal"]["interface"]
        self.public = plan["public"]["interface"]
        self.network = plan["internal"]["network"]
        self.vpn_networks = [server["network"] for server in plan["vpn"]["servers"]]
        self.client_networks = plan["vpn"]["networks"]
        self.devices = [server["device"] for server in plan["vpn"]["servers"]]
        self.inside = [self.internal, *self.devices]
        self.chains: dict[tuple[str, str], list[str]] = {
            (table, chain): [] for table, chains in CHAINS.items() for chain in chains
        }
        self._fill()

    def _fill(self) -> None:
        self._raw_table()
        self._mangle()
        self._nat()
        self._input()
        self._forward()
        self._lines("filter", "OUTPUT")
        self._within()

    def text(self) -> str:
        lines = []
        for table, chains in CHAINS.items():
            lines.append(f"*{table}")
            lines += [f":{PREFIX}{chain} - [0:0]" for chain in chains]
            for chain in chains:
                lines += self.chains[table, chain]
            lines.append("COMMIT")
        return "\n".join(lines) + "\n"

    # What all chains are made with

    def _note(self, table: str, chain: str, text: str) -> None:
        self.chains[table, chain].append(f"# {text}")

    def _add(self, table: str, chain: str, *parts: str) -> None:
        self.chains[table, chain].append(_joined(f"-A {PREFIX}{chain}", *parts))

    def _lines(self, table: str, chain: str) -> None:
        """The pillar's own lines of iptables for this chain."""
        for raw in self.firewall["raw"]:
            if (raw["family"], raw["table"], raw["chain"]) == (self.version, table, chain):
                self._note(table, chain, raw["key"])
                self._add(table, chain, raw["line"])

    def _ends(self, targets: list[dict[str, Any]], side: str) -> list[str]:
        """Matches for the sources ("s") or destinations ("d") that this family has; [""]: any."""
        if not targets:
            return [""]
        # What several names stand for may be the same.
        return list(dict.fromkeys(end for target in targets for end in self._end(target, side)))

    def _end(self, target: dict[str, Any], side: str) -> list[str]:
        if "group" in target:
            name = self.set_names.get(target["group"])
            if not name:
                return []
            return [f"-m set --match-set {name} {'src' if side == 's' else 'dst'}"]
        address = target.get("address")
        version = target.get("family") or (address and (6 if ":" in address else 4))
        if version and version != self.version:
            return []
        interface = target.get("interface")
        return [
            _joined(
                f"-{'i' if side == 's' else 'o'} {interface}" if interface else "",
                f"-{side} {address}" if address else "",
            )
        ]

    def _matches(self, rule: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """What the rule matches: its protocol and the rest, for each combination that it takes."""
        sources = self._ends(rule["from"], "s")
        destinations = self._ends(rule["to"], "d")
        protocols = _protocols(rule["proto"], self.version)
        ports = list(_ports(rule["ports"])) if rule["ports"] else [""]
        comment = f'-m comment --comment "{rule["comment"]}"' if rule["comment"] else ""
        for proto, *rest in product(protocols, sources, destinations, ports):
            yield proto, _joined(*rest, comment)

    def _rule(self, chain: str, rule: dict[str, Any], *more: str) -> None:
        """A rule of the pillar's vocabulary in table filter."""
        self._note("filter", chain, rule["key"])
        place = rule["key"].removeprefix("gateway:firewall:").replace("_allowed", "")
        # Per source address: one that asks too often must not lock out the others. The kernel keeps
        # the rate by this name: a new rate needs a new one.
        limit = ""
        if rule["limit"]:
            limit = (
                f"-m hashlimit --hashlimit-upto {rule['limit']} --hashlimit-mode srcip"
                f" --hashlimit-name gateway-{_digest(rule['key'], rule['limit'])}"
            )
        for proto, match in self._matches(rule):
            if rule["log"]:
                self._log(chain, f"{place} {rule['action']}", proto, match, *more)
            if rule["action"] == "reject":
                self._reject(chain, proto, match, limit, *more)
            else:
                target = f"-j {rule['action'].upper()}"
                self._add("filter", chain, proto, match, limit, *more, target)
            if limit:
                self._add("filter", chain, proto, match, *more, "-j DROP")

    def _log(self, chain: str, what: str, *match: str) -> None:
        # The kernel takes 29 characters.
        prefix = f"gateway {what}"[:27] + ": "
        rate = f"-m limit --limit {self.firewall['log_limit']}"
        self._add("filter", chain, *match, rate, f'-j LOG --log-prefix "{prefix}"')

    def _reject(self, chain: str, proto: str, *match: str) -> None:
        """Say no at once: a reset for TCP, an ICMP error for the rest (RFC 4890 section 4.3.2)."""
        say = "icmp-admin-prohibited" if self.version == 4 else "icmp6-adm-prohibited"
        if proto in ("", "-p tcp"):
            self._add("filter", chain, "-p tcp", *match, "-j REJECT --reject-with tcp-reset")
        if proto != "-p tcp":
            self._add("filter", chain, proto, *match, f"-j REJECT --reject-with {say}")

    def _refuse(self, chain: str, what: str, how: str, *match: str) -> None:
        """The end of a chain for some packets: logged if wished, and dropped or rejected."""
        if self.firewall["log"]:
            self._log(chain, what, *match)
        if how == "reject":
            self._reject(chain, "", *match)
        else:
            self._add("filter", chain, *match, "-j DROP")

    def _only_from_inside(self, chain: str, what: str) -> None:
        """Nobody elsewhere has an address of the inside, whatever the routes say."""
        if self.version == 6:
            return
        self._note("filter", chain, "Nobody elsewhere has an address of the inside.")
        self._refuse(chain, what, "drop", f"! -i {self.internal} -s {self.network}")
        for network in (*self.vpn_networks, *self.client_networks):
            self._add("filter", chain, f"-s {network} -j {PREFIX}SOURCES")

    def _within(self) -> None:
        """Where those of the VPN come from, and the ways that lead to somebody inside."""
        if self.version == 6 or not self.devices:
            return
        self._note("filter", "SOURCES", "Clients of this node, and what is behind them.")
        for device in self.devices:
            self._add("filter", "SOURCES", f"-i {device} -j RETURN")
        if self.plan["routes"]:
            self._note("filter", "SOURCES", "Those of a peer, which sends them on.")
        for route in self.plan["routes"]:
            back = f"-i {self.internal} -s {route['destination']} -j RETURN"
            self._add("filter", "SOURCES", back)
        self._note("filter", "SOURCES", "Nobody else.")
        self._refuse("SOURCES", "source", "drop")
        self._note("filter", "INSIDE", "Not out of the other interfaces, whatever the routes say.")
        for interface in self.inside:
            self._add("filter", "INSIDE", f"-o {interface} -j ACCEPT")
        if self.client_networks:
            self._note("filter", "BRANCH", "Where a network behind a client may go.")
            for network in (self.network, *self.vpn_networks, *self.client_networks):
                self._add("filter", "BRANCH", f"-d {network} -j {PREFIX}INSIDE")

    # The tables

    def _untracked(self) -> None:
        if self.version == 4:
            self._note("raw", "PREROUTING", "A full conntrack table must not stop VRRP.")
            for advert in self._adverts():
                self._add("raw", "PREROUTING", advert, "-j CT --notrack")
            self._add("raw", "OUTPUT", f"-p {VRRP} -j CT --notrack")
            self._sync_raw()

    def _raw_table(self) -> None:
        self._untracked()
        self._lines("raw", "PREROUTING")
        self._lines("raw", "OUTPUT")
        if self.firewall["spoof_protection"]:
            self._note(
                "raw",
                "PREROUTING",
                "Nobody sends from an address that is on another side (BCP 38).",
            )
            for interface in (*self.inside, self.public):
                forged = "-j DROP"
                if interface in self.bridges:
                    forged = f"-j MARK --set-xmark {UNJUDGED}/{UNJUDGED}"
                self._add("raw", "PREROUTING", f"-i {interface} -m rpfilter --invert", forged)
        if self.version == 6:
            return
        if self.plan["routes"]:
            self._note(
                "raw",
                "PREROUTING",
                "From here to a client of a peer's VPN this node sees one direction only.",
            )
        for route in self.plan["routes"]:
            self._add(
                "raw",
                "PREROUTING",
                f"-i {self.internal} -s {self.network} -d {route['destination']} -j CT --notrack",
            )
        # The other direction is seen here where the client is; which node has it is not known. What
        # is for the node itself it sees in both directions.
        for network in self.client_networks if self.plan["routes"] else []:
            for device in self.devices:
                self._add(
                    "raw",
                    "PREROUTING",
                    f"-i {device} -s {network} -d {self.network}",
                    "-m addrtype ! --dst-type LOCAL -j CT --notrack",
                )

    def _adverts(self) -> list[str]:
        """Matches for what a peer says in the election."""
        return [
            f"-i {instance['interface']} -s {peer} -d {instance['source']} -p {VRRP}"
            f" -m ttl --ttl-eq {ADVERT_TTL}"
            for instance in self.plan["vrrp"]["instances"]
            for peer in instance["peers"]
        ]

    def _sync_raw(self) -> None:
        """The peer's address on the link is on no other side, whether the link is up or not."""
        sync = self.plan["sync"]
        if not sync["enabled"]:
            return
        link, address, peer = sync["interface"], sync["address"], sync["peer"]
        message = f"-p udp --dport {sync['port']}"
        self._note("raw", "PREROUTING", "State sync: the link, and nobody tracks its messages.")
        self._add("raw", "PREROUTING", f"! -i {link} -s {peer} -j DROP")
        self._add(
            "raw", "PREROUTING", f"-i {link} -s {peer} -d {address} {message} -j CT --notrack"
        )
        self._note("raw", "OUTPUT", "State sync: without the link it goes nowhere.")
        self._add("raw", "OUTPUT", f"! -o {link} -d {peer} {message} -j DROP")
        self._add("raw", "OUTPUT", f"-o {link} -s {address} -d {peer} {message} -j CT --notrack")

    def _bridged(self, table: str, chain: str, target: str) -> None:
        """Frames from port to port of a bridge are no business of a router's."""
        for bridge in self.bridges:
            ways = f"-o {bridge}" if chain == "POSTROUTING" else f"-i {bridge} -o {bridge}"
            self._note(table, chain, f"What {bridge} itself passes on.")
            self._add(table, chain, f"{ways} -m physdev --physdev-is-bridged -j {target}")

    def _mangle(self) -> None:
        self._bridged("mangle", "FORWARD", "RETURN")
        self._bridged("mangle", "POSTROUTING", "RETURN")
        for bridge in self.bridges:
            self._add("mangle", "FORWARD", f"-i {bridge} {_UNJUDGED} -j DROP")
        # A flush of table filter alone would let everything in.
        self._note("mangle", "FORWARD", "Nothing gets in that table filter has not judged.")
        for interface in self.inside:
            way = f"-i {self.public} -o {interface}"
            self._add("mangle", "FORWARD", f"{way} -j MARK --set-xmark {UNJUDGED}/{UNJUDGED}")
        self._add("mangle", "POSTROUTING", f"{_UNJUDGED} -j DROP")
        for chain in CHAINS["mangle"]:
            self._lines("mangle", chain)
        self._note("mangle", "PREROUTING", "Only what these rules have seen may be forwarded.")
        self._add("mangle", "PREROUTING", f"-j MARK --set-xmark {MARK}/{MARK}")
        if self.version == 4 and self.plan["routes"] and self.devices:
            self._no_circles()
        self._segments()

    def _segments(self) -> None:
        """Errors that say "too large" are lost on many ways, and then a download hangs."""
        self._note("mangle", "FORWARD", "TCP segments that fit into the uplink, and into a tunnel.")
        mss = self.firewall["mss"]
        clamps = ["-j TCPMSS --clamp-mss-to-pmtu"]
        if mss:
            # A clamp never makes it larger; a fixed size only replaces what is larger.
            clamps.append(f"-m tcpmss --mss {mss + 1}:65535 -j TCPMSS --set-mss {mss}")
        for device, direction, clamp in product((self.public, *self.devices), ("-i", "-o"), clamps):
            first = f"{direction} {device} -p tcp --tcp-flags SYN,RST SYN"
            self._add("mangle", "FORWARD", first, clamp)

    def _no_circles(self) -> None:
        """Two nodes that each believe a client at the other would send its packets to and fro."""
        for network in self.client_networks:
            self._note("mangle", "FORWARD", f"{network} is behind a client, here or at the peer.")
            back = f"-i {self.internal} -o {self.internal} -d {network}"
            passed_on = f"-m dscp --dscp {PASSED_ON}"
            self._add("mangle", "FORWARD", f"{back} {passed_on} -j DROP")
            out = f"-o {self.internal} -d {network} -j DSCP --set-dscp {PASSED_ON}"
            self._add("mangle", "FORWARD", out)
            for device in self.devices:
                arrived = f"-o {device} -d {network} {passed_on} -j DSCP --set-dscp 0"
                self._add("mangle", "FORWARD", arrived)

    def _nat(self) -> None:
        self._lines("nat", "PREROUTING")
        self._lines("nat", "POSTROUTING")
        if self.version == 6:
            return
        self._forwards()
        self._bridged("nat", "POSTROUTING", "RETURN")
        self._note("nat", "POSTROUTING", "The node's own traffic keeps its address.")
        self._add("nat", "POSTROUTING", "-m addrtype --src-type LOCAL -j RETURN")
        self._note("nat", "POSTROUTING", "A host that reaches a neighbour by a public address.")
        self._add(
            "nat",
            "POSTROUTING",
            f"-s {self.network} -o {self.internal} -m conntrack --ctstate DNAT",
            f"-j SNAT --to-source {self.plan['internal']['virtual_ip']}",
        )
        for network in self.client_networks if self.plan["routes"] else []:
            # Elsewhere than at the node itself the answer would pass untracked.
            self._note("nat", "POSTROUTING", f"{network}, behind a client, asks by a forward.")
            self._add(
                "nat",
                "POSTROUTING",
                f"-s {network} -o {self.internal} -m conntrack --ctstate DNAT",
                f"-j SNAT --to-source {self.plan['node']['internal']}",
            )
        nat = self.plan["nat"]
        out = f"-o {self.public}"
        for rule in nat["outbound"]:
            self._note("nat", "POSTROUTING", rule["key"])
            # There a packet has no interface any more that it came from.
            sources = [{**source, "interface": None} for source in rule["from"]]
            for proto, match in self._matches({**rule, "from": sources}):
                self._add("nat", "POSTROUTING", proto, match, out, _snat(rule["action"]))
        for entry in nat["one_to_one"]:
            self._note("nat", "POSTROUTING", entry["key"])
            self._add("nat", "POSTROUTING", f"-s {entry['ip']}", out, _snat(entry["address"]))
        self._note("nat", "POSTROUTING", "Who lives behind the gateway.")
        for source in nat["sources"]:
            snat = _snat(source["to"] or "masquerade")
            self._add("nat", "POSTROUTING", f"-s {source['network']}", out, snat)

    def _forwards(self) -> None:
        nat = self.plan["nat"]
        for bridge in self.bridges:
            # Whether it will be passed on or routed is not known here.
            self._note("nat", "PREROUTING", f"A bridge may bring what is for the peer's {bridge}.")
            elsewhere = "-m physdev --physdev-is-in -m addrtype ! --dst-type LOCAL"
            self._add("nat", "PREROUTING", f"-i {bridge} {elsewhere} -j RETURN")
        self._note("nat", "PREROUTING", "Forwards are for the three sides.")
        for interface in (self.public, *self.inside):
            self._add("nat", "PREROUTING", f"-i {interface} -j {PREFIX}DNAT")
        for entry in nat["one_to_one"]:
            self._note("nat", "DNAT", entry["key"])
            match = f"-d {entry['address']}"
            self._add("nat", "DNAT", match, f"-j DNAT --to-destination {entry['ip']}")
        usual = self.plan["public"]["virtual_ip"]
        for forward in nat["forwards"]:
            if forward["address"] != usual:
                self._forward_port(forward, f"-d {forward['address']}")
        self._note("nat", "DNAT", "Forwards of the usual public address.")
        for match in self._not_usual():
            self._add("nat", "DNAT", match, "-j RETURN")
        for forward in nat["forwards"]:
            if forward["address"] == usual:
                self._forward_port(forward)

    def _not_usual(self) -> list[str]:
        """What is not for the address on which forwards listen: the virtual IP or the node's."""
        address = self.plan["public"]["virtual_ip"] or self.plan["node"]["public"]
        if address:
            return [f"! -d {address}"]
        # By DHCP: an address of the public interface. Who asks from inside does not come by it:
        # there it is any of the node's addresses but those of the inside.
        inside = [self.network, *self.vpn_networks]
        return [
            f"-i {self.public} -m addrtype ! --dst-type LOCAL --limit-iface-in",
            "-m addrtype ! --dst-type LOCAL",
            *(f"-d {network}" for network in inside),
        ]

    def _forward_port(self, forward: dict[str, Any], *match: str) -> None:
        self._note("nat", "DNAT", forward["key"])
        first = forward["ports"].split(":")[0]
        to = forward["to_ports"].replace(":", "-")
        if "-" in to:
            to += f"/{first}"  # port for port, not any of the range
        comment = f'-m comment --comment "{forward["comment"] or forward["to"]}"'
        for source in self._ends(forward["from"], "s"):
            self._add(
                "nat",
                "DNAT",
                source,
                *match,
                f"-p {forward['proto']} --dport {forward['ports']}",
                comment,
                f"-j DNAT --to-destination {forward['ip']}:{to}",
            )

    def _common(self, chain: str) -> None:
        self._note("filter", chain, "What belongs to a connection that was allowed.")
        self._add("filter", chain, "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")

    def _election(self) -> None:
        chain = "INPUT"
        for bridge in self.bridges if self.firewall["spoof_protection"] else []:
            self._note("filter", chain, "A forged source (table raw).")
            self._add("filter", chain, f"-i {bridge} {_UNJUDGED} -j DROP")
        self._sync()
        self._note("filter", chain, "The node itself, and the election of the primary.")
        self._add("filter", chain, "-i lo -j ACCEPT")
        if self.version == 4:
            for advert in self._adverts():
                self._add("filter", chain, advert, "-j ACCEPT")
            self._add("filter", chain, f"-p {VRRP} -j DROP")
            self._link_only()

    def _input(self) -> None:
        chain = "INPUT"
        self._election()
        self._lines("filter", chain)
        self._common(chain)
        self._icmp()
        self._add("filter", chain, "-m conntrack --ctstate INVALID -j DROP")
        if self.version == 4:
            self._note("filter", chain, "The public side knows no internal addresses.")
            for network in (self.network, *self.vpn_networks):
                self._refuse(chain, "input", "drop", f"-i {self.public} -d {network}")
        self._only_from_inside(chain, "input")
        for rule in self.firewall["input"]:
            self._rule(chain, rule)
        self._services()
        self._note("filter", chain, "Nothing else of these three sides.")
        for interface in self.inside:
            self._refuse(chain, "input", "reject", f"-i {interface}")
        self._refuse(chain, "input", "drop", f"-i {self.public}")

    def _sync(self) -> None:
        """Before the node's own packets: programs on it must not speak for the peer either."""
        sync = self.plan["sync"]
        if not sync["enabled"]:
            return
        self._note("filter", "INPUT", "State sync: what the peer tells on the link, nobody else.")
        message = f"-p udp --dport {sync['port']}"
        if self.version == 4:
            link = f"-i {sync['interface']} -s {sync['peer']} -d {sync['address']}"
            self._add("filter", "INPUT", link, message, "-j ACCEPT")
        self._add("filter", "INPUT", message, "-j DROP")

    def _link_only(self) -> None:
        sync = self.plan["sync"]
        if sync["enabled"]:
            self._note("filter", "INPUT", "No other side knows the address on the link.")
            unknown = f"! -i {sync['interface']} -d {sync['address']}"
            self._refuse("INPUT", "input", "drop", unknown)

    def _icmp(self) -> None:
        chain = "INPUT"
        self._note("filter", chain, "ICMP that a router has to hear.")
        what = [f"-p icmp --icmp-type {kind}" for kind in ICMP]
        if self.version == 6:
            what = [f"-p ipv6-icmp --icmpv6-type {kind}" for kind in ICMP6]
        for interface, each in product((*self.inside, self.public), what):
            self._add("filter", chain, f"-i {interface} {each} -j ACCEPT")
        if self.version == 4:
            return
        believed = [self.public] if self.plan["public"]["accept_ra"] else []
        for interface, kind in product((self.internal, self.public), ICMP6_LINK):
            if kind == ADVERTISEMENT and interface not in believed:
                continue
            # Routers do not pass on link-local addresses, nor anything with all of its hops left.
            local = "-m hl --hl-eq 255" if kind in DISCOVERY else "-s fe80::/10"
            match = f"-i {interface} -p ipv6-icmp --icmpv6-type {kind} {local}"
            self._add("filter", chain, match, "-j ACCEPT")

    @property
    def _ssh(self) -> str:
        return f"-p tcp --dport {self.firewall['ssh']['port']}"

    def _services(self) -> None:
        for opening in self.plan["openings"]:
            if opening["version"] not in (0, self.version):
                continue
            self._note("filter", "INPUT", f"The gateway's own: {opening['what']}.")
            service = f"-p {opening['proto']} --dport {opening['port']}"
            for zone in opening["from"]:
                for source in self._zone(zone):
                    self._add("filter", "INPUT", f"{source} {service} -j ACCEPT")
        self._note("filter", "INPUT", "Echo, and what may come by SSH from elsewhere.")
        self._echo()
        self._ssh_from_outside()
        self._own_dhcp()

    def _zone(self, zone: str) -> list[str]:
        """Matches for those who may come in to a service (``opening`` of _gateway_node)."""
        if zone == "inside":
            return [f"-i {interface}" for interface in self.inside]
        if zone == "new hosts":
            return [f"-i {self.internal} -s 0.0.0.0"]
        if zone == "public":
            return [f"-i {self.public}"]
        # Clients of a peer's VPN come in by the internal interface too: this is not for them.
        return [f"-i {self.internal}" + (f" -s {self.network}" if self.version == 4 else "")]

    def _echo(self) -> None:
        echo = f"-p icmp --icmp-type {ECHO}"
        if self.version == 6:
            echo = f"-p ipv6-icmp --icmpv6-type {ECHO6}"
        for interface in (*self.inside, self.public):
            self._add("filter", "INPUT", f"-i {interface} {echo} -j ACCEPT")

    def _ssh_from_outside(self) -> None:
        for network in self.firewall["ssh"]["from"]:
            for source in self._end(network, "s"):
                self._add("filter", "INPUT", f"-i {self.public} {source} {self._ssh} -j ACCEPT")

    def _own_dhcp(self) -> None:
        chain = "INPUT"
        dhcp = f"-i {self.public} -p udp --sport 67 --dport 68"
        if self.version == 6:
            dhcp = f"-i {self.public} -s fe80::/10 -p udp --sport 547 --dport 546"
        if self.version == 6 or not self.plan["node"]["public"]:
            self._note("filter", chain, "The node's own address, where it gets it by DHCP.")
            self._add("filter", chain, dhcp, "-j ACCEPT")

    def _forward(self) -> None:
        chain = "FORWARD"
        self._note("filter", chain, "Judged from here on (table mangle).")
        self._add("filter", chain, f"-i {self.public} -j MARK --set-xmark 0x0/{UNJUDGED}")
        if self.version == 4:
            self._note("filter", chain, "The one direction that this node sees (table raw).")
            for route in self.plan["routes"]:
                self._add(
                    "filter",
                    chain,
                    f"-i {self.internal} -o {self.internal} -d {route['destination']}",
                    "-m conntrack --ctstate UNTRACKED -j ACCEPT",
                )
        self._lines("filter", chain)
        self._bridged("filter", chain, "ACCEPT")
        self._common(chain)
        self._note("filter", chain, "NAT cannot translate it: it would leave with a wrong address.")
        self._add("filter", chain, "-m conntrack --ctstate INVALID -j DROP")
        self._only_from_inside(chain, "forward")
        for rule in self.firewall["forward"]:
            self._rule(chain, rule)
        if self.version == 4:
            self._forwarded()
        self._outward()
        self._note("filter", chain, "Nothing else from, or into, these three sides.")
        for interface in self.inside:
            self._refuse(chain, "forward", "reject", f"-i {interface}")
        self._refuse(chain, "forward", "drop", f"-i {self.public}")
        for interface in self.inside:
            self._refuse(chain, "forward", "drop", f"-o {interface}")
        if self.plan["sync"]["enabled"]:
            self._note("filter", chain, "The link of state sync ends here.")
            for end in ("-i", "-o"):
                self._refuse(chain, "forward", "drop", f"{end} {self.plan['sync']['interface']}")

    def _forwarded(self) -> None:
        """Connections that table nat has led to a host."""
        chain = "FORWARD"
        self._note("filter", chain, "Port forwards; who may use one was decided in table nat.")
        for entry in self.plan["nat"]["one_to_one"]:
            # It translates; what may come in through it is for forward rules to say.
            self._refuse(
                chain,
                "forward",
                "drop",
                f"-i {self.public} -m conntrack --ctstate DNAT --ctorigdst {entry['address']}",
            )
        # Those of the VPN may go there anyway.
        for interface in (self.public, self.internal):
            match = f"-i {interface} -o {self.internal} -m conntrack --ctstate DNAT"
            self._add("filter", chain, match, "-j ACCEPT")

    def _outward(self) -> None:
        """What those behind the gateway may do by themselves."""
        chain = "FORWARD"
        internal = f"-i {self.internal}" + (f" -s {self.network}" if self.version == 4 else "")
        out = f"-o {self.public}"
        if self.firewall["egress"] == "allow":
            self._note("filter", chain, "The internet.")
            self._add("filter", chain, internal, out, "-j ACCEPT")
        if self.firewall["egress_allowed"]:
            # They may name any address, and are for who lives behind the gateway all the same.
            self._note("filter", chain, "What may leave.")
            for interface in self.inside:
                self._add("filter", chain, f"-i {interface} {out} -j {PREFIX}EGRESS")
        for rule in self.firewall["egress_allowed"]:
            self._rule("EGRESS", rule)
        # Clients of a peer come in by the internal interface, so in IPv4 it takes their addresses
        # (chain SOURCES has asked for the way that they came). With IPv6 they have none yet.
        v4 = self.version == 4
        accept = f"-j {PREFIX}INSIDE" if v4 else "-j ACCEPT"
        to_internal = f"-d {self.network}" if v4 else f"-o {self.internal}"
        for server in self.plan["vpn"]["servers"]:
            clients = f"-s {server['network']}" if v4 else f"-i {server['device']}"
            to_clients = f"-d {server['network']}" if v4 else f"-o {server['device']}"
            self._note("filter", chain, f"VPN server {server['name']}.")
            if server["full_tunnel"] and self.firewall["egress"] == "allow":
                self._add("filter", chain, clients, out, "-j ACCEPT")
            self._add("filter", chain, clients, to_internal, accept)
            self._add("filter", chain, internal, to_clients, accept)
            for other in self.vpn_networks if v4 else self.devices:
                self._add("filter", chain, clients, f"-d {other}" if v4 else f"-o {other}", accept)
        for network in self.client_networks if v4 else []:
            self._note("filter", chain, f"{network}, behind a VPN client.")
            self._add("filter", chain, f"-s {network} ! -d {network} -j {PREFIX}BRANCH")
            for other in (self.network, *self.vpn_networks):
                self._add("filter", chain, f"-s {other} -d {network} {accept}")


class _Closed(_Family):
    """What is in force where the rules cannot be loaded: nothing is forwarded, and the node hears
    its peer, the answers to what it asks itself, SSH from where it may come, and echo. It needs no
    sets, no NAT, no log and no lines of the pillar's: what was wrong with the rules must not be in
    it."""

    def _fill(self) -> None:
        self.firewall = {**self.firewall, "log": False}
        self.longest: int | None = None
        self._untracked()
        chain = "INPUT"
        self._election()
        self._common(chain)
        self._icmp()
        self._only_from_inside(chain, "input")
        self._within()
        self._note("filter", chain, "Whoever may repair it.")
        for rule in self.firewall["input"]:
            self._ssh_of(rule)
        for interface in self.inside:
            self._add("filter", chain, f"-i {interface} {self._ssh} -j ACCEPT")
        self.longest = CLOSED_MEMBERS
        self._ssh_from_outside()
        self._echo()
        self._own_dhcp()
        for interface in (*self.inside, self.public):
            self._add("filter", chain, f"-i {interface} -j DROP")
        for bridge in self.bridges:
            # What is routed has met the gate.
            self._note("filter", "FORWARD", f"What {bridge} itself passes on.")
            self._add("filter", "FORWARD", f"-i {bridge} -o {bridge} -j ACCEPT")
        self._note("filter", "FORWARD", "A gateway without its rules passes nothing on.")
        self._add("filter", "FORWARD", "-j DROP")

    def _ssh_of(self, rule: dict[str, Any]) -> None:
        """What a rule of the pillar's says of SSH, without its rate."""
        port, accepts = self.firewall["ssh"]["port"], rule["action"] == "accept"
        if rule["proto"] not in (None, "both", "tcp", "6"):
            return
        if rule["ports"] and not any(_holds(ports, port) for ports in rule["ports"]):
            return
        # Whom a rule refuses is refused; some of those whom it accepts are enough.
        self.longest = CLOSED_MEMBERS if accepts else None
        for source, to in product(self._ends(rule["from"], "s"), self._ends(rule["to"], "d")):
            target = f"-j {'ACCEPT' if accepts else 'DROP'}"
            self._add("filter", "INPUT", source, to, self._ssh, target)

    def _end(self, target: dict[str, Any], side: str) -> list[str]:
        if "group" not in target:
            return super()._end(target, side)
        members = self.firewall["groups"][target["group"]][f"v{self.version}"]
        return [f"-{side} {member}" for member in members[: self.longest]]


def _snat(action: str) -> str:
    if action == "masquerade":
        return "-j MASQUERADE"
    return "-j RETURN" if action == "none" else f"-j SNAT --to-source {action}"
