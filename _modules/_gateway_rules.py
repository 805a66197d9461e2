"""The firewall's compiler: from one node's plan to what iptables-restore and ipset restore read.

A library in plain Python, like ``_gateway_plan``. ``POLICY`` says what each chain consists of, from
top to bottom, and ``CLOSED`` what is in force where that cannot be loaded (both at the end). A part
writes some rules of a chain. Parts of one service stand in its room, ``_gateway_nat`` and
``_gateway_sync``, and those of the VPN in ``_gateway_vpn_rules``; the others here.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import _gateway_leases
import _gateway_nat
import _gateway_policy
import _gateway_sync
import _gateway_vpn_rules
from _gateway_iptables import (
    PREFIX,
    Gateway,
    Members,
    Pen,
    Policy,
    bridged,
    ipv4,
    joined,
    raw,
    write,
    write_sets,
)

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
    log = plan["firewall"]["log"]
    return {
        "sets": "".join(write_sets(plan)),
        "v4": write(Gateway(plan, 4, bridges, log), POLICY),
        "v6": write(Gateway(plan, 6, bridges, log), POLICY),
        "closed4": write(Gateway(plan, 4, bridges, log=False), CLOSED),
        "closed6": write(Gateway(plan, 6, bridges, log=False), CLOSED),
    }


# --------------------------------------------------------------------------------------------------
# What several chains have


def _common(pen: Pen, gateway: Gateway) -> None:
    pen.note("What belongs to a connection that was allowed.")
    pen.add("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")


def _invalid(pen: Pen, gateway: Gateway) -> None:
    pen.add("-m conntrack --ctstate INVALID -j DROP")


def _adverts(gateway: Gateway) -> list[str]:
    """Matches for what a peer says in the election."""
    return [
        f"-i {instance['interface']} -s {peer} -d {instance['source']} -p {VRRP}"
        f" -m ttl --ttl-eq {ADVERT_TTL}"
        for instance in gateway.plan["vrrp"]["instances"]
        for peer in instance["peers"]
    ]


# --------------------------------------------------------------------------------------------------
# Table raw: before connection tracking


@ipv4
def _untracked_adverts(pen: Pen, gateway: Gateway) -> None:
    pen.note("A full conntrack table must not stop VRRP.")
    for advert in _adverts(gateway):
        pen.add(advert, "-j CT --notrack")


@ipv4
def _untracked_own_adverts(pen: Pen, gateway: Gateway) -> None:
    pen.add(f"-p {VRRP} -j CT --notrack")


def _honest(pen: Pen, gateway: Gateway) -> None:
    if gateway.firewall["spoof_protection"]:
        pen.note("Nobody sends from an address that is on another side (BCP 38).")
        pen.add(f"-j {PREFIX}FORGED")


def _forged(pen: Pen, gateway: Gateway) -> None:
    """Every packet goes through this chain. With sixty networks it matters that an honest one, and
    what comes from the internet before all, leaves it early."""
    if not gateway.firewall["spoof_protection"]:
        return
    sides = (gateway.public, *gateway.inside)
    for interface in sides:
        pen.add(f"-i {interface} -m rpfilter -j RETURN")
    for interface in sides:
        forged = "-j DROP"
        if interface in gateway.bridges:
            forged = f"-j MARK --set-xmark {UNJUDGED}/{UNJUDGED}"
        pen.add(f"-i {interface}", forged)


# --------------------------------------------------------------------------------------------------
# Table mangle: marks, circles and the size of segments


def _seen(pen: Pen, gateway: Gateway) -> None:
    pen.note("Only what these rules have seen may be forwarded.")
    pen.add(f"-j MARK --set-xmark {MARK}/{MARK}")


def _mark_unjudged(pen: Pen, gateway: Gateway) -> None:
    for bridge in gateway.bridges:
        pen.add(f"-i {bridge} {_UNJUDGED} -j DROP")
    # A flush of table filter alone would let everything in.
    pen.note("Nothing gets in that table filter has not judged.")
    pen.add(f"-i {gateway.public} -j {PREFIX}UNJUDGED")


def _unjudged(pen: Pen, gateway: Gateway) -> None:
    """All but what is for an interface of somebody else's. As short for a packet as ``_forged``."""
    pen.add(f"-j MARK --set-xmark {UNJUDGED}/{UNJUDGED}")
    for interface in gateway.inside:
        pen.add(f"-o {interface} -j RETURN")
    pen.add(f"-j MARK --set-xmark 0x0/{UNJUDGED}")


def _drop_unjudged(pen: Pen, gateway: Gateway) -> None:
    pen.add(f"{_UNJUDGED} -j DROP")


def _segments(pen: Pen, gateway: Gateway) -> None:
    """Errors that say "too large" are lost on many ways, and then a download hangs."""
    pen.note("TCP segments that fit into the uplink, and into a tunnel.")
    mss = gateway.firewall["mss"]
    clamps = ["-j TCPMSS --clamp-mss-to-pmtu"]
    if mss:
        # A clamp never makes it larger; a fixed size only replaces what is larger.
        clamps.append(f"-m tcpmss --mss {mss + 1}:65535 -j TCPMSS --set-mss {mss}")
    for device, way, clamp in product((gateway.public, *gateway.devices), ("-i", "-o"), clamps):
        pen.add(f"{way} {device} -p tcp --tcp-flags SYN,RST SYN", clamp)


# --------------------------------------------------------------------------------------------------
# Table filter, INPUT: what is for the node itself


def _forged_on_bridges(pen: Pen, gateway: Gateway) -> None:
    for bridge in gateway.bridges if gateway.firewall["spoof_protection"] else []:
        pen.note("A forged source (table raw).")
        pen.add(f"-i {bridge} {_UNJUDGED} -j DROP")


def _election(pen: Pen, gateway: Gateway) -> None:
    pen.note("The node itself, and the election of the primary.")
    pen.add("-i lo -j ACCEPT")
    if gateway.version == 4:
        for advert in _adverts(gateway):
            pen.add(advert, "-j ACCEPT")
        pen.add(f"-p {VRRP} -j DROP")


def _icmp(pen: Pen, gateway: Gateway) -> None:
    pen.note("ICMP that a router has to hear.")
    kinds = [f"-p icmp --icmp-type {kind}" for kind in ICMP]
    if gateway.version == 6:
        kinds = [f"-p ipv6-icmp --icmpv6-type {kind}" for kind in ICMP6]
    for interface, kind in product((*gateway.inside, gateway.public), kinds):
        pen.add(f"-i {interface} {kind} -j ACCEPT")
    if gateway.version == 4:
        return
    believed = [gateway.public] if gateway.plan["public"]["accept_ra"] else []
    links = (*gateway.trusted, *gateway.untrusted, gateway.public)
    for interface, kind in product(links, ICMP6_LINK):
        if kind == ADVERTISEMENT and interface not in believed:
            continue
        # Routers do not pass on link-local addresses, nor anything with all of its hops left.
        local = "-m hl --hl-eq 255" if kind in DISCOVERY else "-s fe80::/10"
        pen.add(f"-i {interface} -p ipv6-icmp --icmpv6-type {kind} {local}", "-j ACCEPT")


@ipv4
def _no_internal_addresses(pen: Pen, gateway: Gateway) -> None:
    pen.note("The public side knows no internal addresses.")
    for network in (*gateway.local_networks, *gateway.vpn_networks):
        pen.refuse("drop", f"-i {gateway.public} -d {network}")


def _input_rules(pen: Pen, gateway: Gateway) -> None:
    for rule in gateway.firewall["input"]:
        pen.rule(rule)


def _services(pen: Pen, gateway: Gateway) -> None:
    for opening in gateway.plan["openings"]:
        if opening["version"] not in (0, gateway.version):
            continue
        pen.note(f"The gateway's own: {opening['what']}.")
        service = f"-p {opening['proto']} --dport {opening['port']}"
        for zone in opening["from"]:
            for source in _zone(zone, gateway):
                pen.add(f"{source} {service} -j ACCEPT")


def _zone(zone: str, gateway: Gateway) -> list[str]:
    """Matches for those who may come in to a service (``opening`` of _gateway_machine)."""
    if zone == "inside":
        return [f"-i {interface}" for interface in (*gateway.trusted, *gateway.devices)]
    if zone == "new hosts":
        return [f"-i {local['interface']} -s 0.0.0.0" for local in gateway.local]
    if zone == "public":
        return [f"-i {gateway.public}"]
    # Clients of a peer's VPN come in by the internal interface too: this is not for them.
    trusted = zone == "hosts"
    return [
        joined(source, own)
        for local in gateway.local
        if local["trusted"] is trusted
        for source in gateway.from_local(local)
        for own in (_own(gateway, local) if zone == "others there" else [""])
    ]


def _own(gateway: Gateway, local: _Plan) -> list[str]:
    """Matches for the gateway's addresses in a network. Those of IPv6 are not in the pillar."""
    if gateway.version == 4:
        return [f"-d {local['virtual_ip']}", f"-d {local['address']}"]
    return ["-m addrtype --dst-type LOCAL --limit-iface-in"]


def _only_there(pen: Pen, gateway: Gateway) -> None:
    for local in gateway.local:
        if local["isolated"]:
            pen.add(f"-i {local['interface']} -j {PREFIX}ISOLATED")


def _isolated(pen: Pen, gateway: Gateway) -> None:
    """From an isolated network the gateway has the addresses that it has there (chain ISOLATED)."""
    isolated = [local for local in gateway.local if local["isolated"]]
    if not isolated:
        return
    pen.note("The gateway has no other address there.")
    for local in isolated:
        for own in _own(gateway, local):
            pen.add(f"-i {local['interface']} {own} -j RETURN")
    if gateway.version == 4:
        pen.note("DHCP asks everybody there.")
        pen.add("-m addrtype --dst-type BROADCAST --limit-iface-in -j RETURN")
    pen.refuse("drop")


def _echo(pen: Pen, gateway: Gateway) -> None:
    echo = f"-p icmp --icmp-type {ECHO}"
    if gateway.version == 6:
        echo = f"-p ipv6-icmp --icmpv6-type {ECHO6}"
    for interface in (*gateway.inside, gateway.public):
        pen.add(f"-i {interface} {echo} -j ACCEPT")


def _ssh(gateway: Gateway) -> str:
    return f"-p tcp --dport {gateway.firewall['ssh']['port']}"


def _echo_and_ssh(pen: Pen, gateway: Gateway) -> None:
    pen.note("Echo, and what may come by SSH from elsewhere.")
    _echo(pen, gateway)
    _ssh_from_outside(pen, gateway)


def _ssh_from_outside(pen: Pen, gateway: Gateway, members: Members | None = None) -> None:
    for target in gateway.firewall["ssh"]["from"]:
        for source in gateway.end(target, "s", members):
            pen.add(f"-i {gateway.public} {source} {_ssh(gateway)} -j ACCEPT")


def _own_dhcp(pen: Pen, gateway: Gateway) -> None:
    dhcp = f"-i {gateway.public} -p udp --sport 67 --dport 68"
    if gateway.version == 6:
        dhcp = f"-i {gateway.public} -s fe80::/10 -p udp --sport 547 --dport 546"
    if gateway.version == 6 or not gateway.plan["node"]["public"]:
        pen.note("The node's own address, where it gets it by DHCP.")
        pen.add(dhcp, "-j ACCEPT")


def _no_other_input(pen: Pen, gateway: Gateway) -> None:
    pen.note("Nothing else of these sides.")
    for interface in gateway.inside:
        pen.refuse("reject", f"-i {interface}")
    pen.refuse("drop", f"-i {gateway.public}")


# --------------------------------------------------------------------------------------------------
# Table filter, FORWARD: what passes


def _judge(pen: Pen, gateway: Gateway) -> None:
    pen.note("Judged from here on (table mangle).")
    pen.add(f"-i {gateway.public} -j MARK --set-xmark 0x0/{UNJUDGED}")


def _no_invalid(pen: Pen, gateway: Gateway) -> None:
    pen.note("NAT cannot translate it: it would leave with a wrong address.")
    _invalid(pen, gateway)


def _forward_rules(pen: Pen, gateway: Gateway) -> None:
    for rule in gateway.firewall["forward"]:
        pen.rule(rule)


def _egress(pen: Pen, gateway: Gateway) -> None:
    """What those behind the gateway may do by themselves."""
    out = f"-o {gateway.public}"
    if gateway.firewall["egress"] == "allow":
        pen.note("The internet.")
        for local in gateway.local:
            for source in gateway.from_local(local):
                pen.add(source, out, "-j ACCEPT")
    if gateway.firewall["egress_allowed"]:
        # They may name any address, and are for who lives behind the gateway all the same.
        pen.note("What may leave.")
        for interface in gateway.inside:
            pen.add(f"-i {interface} {out} -j {PREFIX}EGRESS")


def _egress_rules(pen: Pen, gateway: Gateway) -> None:
    for rule in gateway.firewall["egress_allowed"]:
        pen.rule(rule)


def _no_other_forward(pen: Pen, gateway: Gateway) -> None:
    pen.note("Nothing else from, or into, these sides.")
    for interface in gateway.inside:
        pen.refuse("reject", f"-i {interface}")
    pen.refuse("drop", f"-i {gateway.public}")
    for interface in gateway.inside:
        pen.refuse("drop", f"-o {interface}")


# --------------------------------------------------------------------------------------------------
# The closed node. It needs no sets, no NAT, no log and no lines of the pillar's: what was wrong
# with the rules must not be in it.


def _members(gateway: Gateway, most: int | None) -> Members:
    """Matches for a group's members one by one, for ``most`` of them at most."""

    def members(group: str, side: str) -> list[str]:
        addresses = gateway.firewall["groups"][group][f"v{gateway.version}"]
        return [f"-{side} {address}" for address in addresses[:most]]

    return members


def _repair(pen: Pen, gateway: Gateway) -> None:
    pen.note("Whoever may repair it.")
    for rule in gateway.firewall["input"]:
        _ssh_of_rule(pen, gateway, rule)
    for interface in (*gateway.trusted, *gateway.devices):
        pen.add(f"-i {interface} {_ssh(gateway)} -j ACCEPT")
    _ssh_from_outside(pen, gateway, _members(gateway, CLOSED_MEMBERS))


def _ssh_of_rule(pen: Pen, gateway: Gateway, rule: _Plan) -> None:
    """What a rule of the pillar's says of SSH, without its rate."""
    if not _gateway_policy.is_about(rule, gateway.firewall["ssh"]["port"]):
        return
    accepts = rule["action"] == "accept"
    # Whom a rule refuses is refused; some of those whom it accepts are enough.
    members = _members(gateway, CLOSED_MEMBERS if accepts else None)
    sources, to = (
        gateway.ends(rule[key], side, members) for key, side in (("from", "s"), ("to", "d"))
    )
    for match in product(sources, to):
        pen.add(*match, _ssh(gateway), f"-j {'ACCEPT' if accepts else 'DROP'}")


def _closed_input(pen: Pen, gateway: Gateway) -> None:
    for interface in (*gateway.inside, gateway.public):
        pen.add(f"-i {interface} -j DROP")


def _closed_forward(pen: Pen, gateway: Gateway) -> None:
    for bridge in gateway.bridges:
        # What is routed has met the gate.
        pen.note(f"What {bridge} itself passes on.")
        pen.add(f"-i {bridge} -o {bridge} -j ACCEPT")
    pen.note("A gateway without its rules passes nothing on.")
    pen.add("-j DROP")


# --------------------------------------------------------------------------------------------------
# The policy: what each chain consists of, from top to bottom

_FROM_INSIDE: Policy = {
    ("filter", "SOURCES"): (_gateway_vpn_rules.sources,),
    ("filter", "INSIDE"): (_gateway_vpn_rules.inside,),
    ("filter", "BRANCH"): (_gateway_vpn_rules.branch,),
}

POLICY: Policy = {
    ("raw", "PREROUTING"): (
        _untracked_adverts,
        _gateway_sync.untracked_from_peer,
        raw,
        _honest,
        _gateway_vpn_rules.untracked_one_way,
    ),
    ("raw", "FORGED"): (_forged,),
    ("raw", "OUTPUT"): (_untracked_own_adverts, _gateway_sync.untracked_to_peer, raw),
    ("raw", "ONEWAY"): (_gateway_vpn_rules.one_way_of_trusted,),
    ("raw", "OTHERS"): (_gateway_vpn_rules.one_way_of_others,),
    ("raw", "BRANCH"): (_gateway_vpn_rules.one_way_of_branches,),
    ("mangle", "PREROUTING"): (raw, _seen),
    ("mangle", "FORWARD"): (
        bridged("RETURN"),
        _mark_unjudged,
        raw,
        _gateway_vpn_rules.behind_a_client,
        _segments,
    ),
    ("mangle", "UNJUDGED"): (_unjudged,),
    ("mangle", "POSTROUTING"): (bridged("RETURN"), _drop_unjudged, raw),
    ("mangle", "CIRCLES"): (_gateway_vpn_rules.no_circles,),
    ("nat", "PREROUTING"): (raw, _gateway_nat.to_forwards),
    ("nat", "POSTROUTING"): (
        raw,
        ipv4(bridged("RETURN")),
        _gateway_nat.neighbours,
        _gateway_nat.outbound,
    ),
    ("nat", "DNAT"): (_gateway_nat.one_to_one, _gateway_nat.forwards),
    ("filter", "INPUT"): (
        _forged_on_bridges,
        _gateway_sync.from_peer,
        _gateway_leases.from_peers,
        _election,
        _gateway_sync.nobody_else,
        raw,
        _common,
        _icmp,
        _invalid,
        _no_internal_addresses,
        _gateway_vpn_rules.only_from_inside,
        _input_rules,
        _only_there,
        _services,
        _echo_and_ssh,
        _own_dhcp,
        _no_other_input,
    ),
    ("filter", "FORWARD"): (
        _judge,
        _gateway_vpn_rules.accepted_one_way,
        raw,
        bridged("ACCEPT"),
        _common,
        _no_invalid,
        _gateway_vpn_rules.only_from_inside,
        _forward_rules,
        _gateway_nat.forwarded,
        _egress,
        _gateway_vpn_rules.trusted,
        _gateway_vpn_rules.servers,
        _gateway_vpn_rules.behind_clients,
        _no_other_forward,
        _gateway_sync.nothing_passes,
    ),
    ("filter", "OUTPUT"): (raw,),
    ("filter", "ISOLATED"): (_isolated,),
    ("filter", "EGRESS"): (_egress_rules,),
    ("filter", "TOBRANCH"): (_gateway_vpn_rules.to_branch,),
    ("filter", "TRANSLATED"): (_gateway_nat.translated,),
    ("filter", "LOCAL"): (_gateway_nat.into_local,),
    ("filter", "TRUSTED"): (_gateway_vpn_rules.into_trusted,),
    ("filter", "HAIRPIN"): (_gateway_vpn_rules.hairpin,),
    **_FROM_INSIDE,
}

CLOSED: Policy = {
    ("raw", "PREROUTING"): (_untracked_adverts, _gateway_sync.untracked_from_peer),
    ("raw", "OUTPUT"): (_untracked_own_adverts, _gateway_sync.untracked_to_peer),
    ("filter", "INPUT"): (
        _forged_on_bridges,
        _gateway_sync.from_peer,
        _gateway_leases.from_peers,
        _election,
        _gateway_sync.nobody_else,
        _common,
        _icmp,
        _gateway_vpn_rules.only_from_inside,
        _repair,
        _echo,
        _own_dhcp,
        _closed_input,
    ),
    ("filter", "FORWARD"): (_closed_forward,),
    **_FROM_INSIDE,
}
