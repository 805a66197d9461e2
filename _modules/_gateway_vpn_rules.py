"""The firewall's parts about the VPN: where its clients come from, how those inside reach each
other, and the ways to the clients of a peer."""

from itertools import product

from _gateway_iptables import PREFIX, Gateway, Pen, ipv4

# A value for local use (RFC 2474 section 6, pool 2): "a peer has sent this on already".
PASSED_ON = "0x3f"


@ipv4
def only_from_inside(pen: Pen, gateway: Gateway) -> None:
    """Nobody elsewhere has an address of the inside, whatever the routes say."""
    pen.note("Nobody elsewhere has an address of the inside.")
    for local in gateway.local:
        for network in local["all"]:
            pen.refuse("drop", f"! -i {local['interface']} -s {network}")
    for network in (*gateway.vpn_networks, *gateway.client_networks):
        pen.add(f"-s {network} -j {PREFIX}SOURCES")


@ipv4
def sources(pen: Pen, gateway: Gateway) -> None:
    """Where those of the VPN come from (chain SOURCES)."""
    if not gateway.devices:
        return
    pen.note("Clients of this node, and what is behind them.")
    for device in gateway.devices:
        pen.add(f"-i {device} -j RETURN")
    if gateway.plan["routes"]:
        pen.note("Those of a peer, which sends them on.")
    for route in gateway.plan["routes"]:
        pen.add(f"-i {gateway.internal} -s {route['destination']} -j RETURN")
    pen.note("Nobody else.")
    pen.refuse("drop")


@ipv4
def inside(pen: Pen, gateway: Gateway) -> None:
    """The ways that lead to somebody inside (chain INSIDE)."""
    if not gateway.devices:
        return
    pen.note("Not out of the other interfaces, whatever the routes say.")
    for interface in (*gateway.trusted, *gateway.devices):
        pen.add(f"-o {interface} -j ACCEPT")


@ipv4
def branch(pen: Pen, gateway: Gateway) -> None:
    """Where a network behind a client may go (chain BRANCH)."""
    if not (gateway.devices and gateway.client_networks):
        return
    pen.note("Where a network behind a client may go.")
    for network in (*_trusted(gateway), *gateway.vpn_networks, *gateway.client_networks):
        pen.add(f"-d {network} -j {PREFIX}INSIDE")


def servers(pen: Pen, gateway: Gateway) -> None:
    """What clients of each server may do (filter FORWARD)."""
    # Clients of a peer come in by the internal interface, so in IPv4 it takes their addresses
    # (chain SOURCES has asked for the way that they came). With IPv6 they have none yet.
    v4 = gateway.version == 4
    accept = f"-j {PREFIX}INSIDE" if v4 else "-j ACCEPT"
    trusted = [local for local in gateway.local if local["trusted"]]
    to_servers = [f"-d {network}" for network in gateway.vpn_networks]
    if not v4:
        to_servers = [f"-o {device}" for device in gateway.devices]
    for server in gateway.plan["vpn"]["servers"]:
        clients = f"-s {server['network']}" if v4 else f"-i {server['device']}"
        to_clients = f"-d {server['network']}" if v4 else f"-o {server['device']}"
        pen.note(f"VPN server {server['name']}.")
        if server["full_tunnel"] and gateway.firewall["egress"] == "allow":
            pen.add(clients, f"-o {gateway.public}", "-j ACCEPT")
        for local in trusted:
            for to_local in gateway.to_local(local):
                pen.add(clients, to_local, accept)
            for from_local in gateway.from_local(local):
                pen.add(from_local, to_clients, accept)
        for to_server in to_servers:
            pen.add(clients, to_server, accept)


@ipv4
def behind_clients(pen: Pen, gateway: Gateway) -> None:
    """What networks behind clients may do (filter FORWARD)."""
    for network in gateway.client_networks:
        pen.note(f"{network}, behind a VPN client.")
        pen.add(f"-s {network} ! -d {network} -j {PREFIX}BRANCH")
        pen.add(f"-d {network} -j {PREFIX}TOBRANCH")


@ipv4
def to_branch(pen: Pen, gateway: Gateway) -> None:
    """Who may send to networks behind clients (chain TOBRANCH)."""
    if not (gateway.devices and gateway.client_networks):
        return
    pen.note("Who may go to a network behind a client.")
    for other in (*_trusted(gateway), *gateway.vpn_networks):
        pen.add(f"-s {other} -j {PREFIX}INSIDE")


def _trusted(gateway: Gateway) -> list[str]:
    """The addresses of the internal network and of those with its rights."""
    return [each for local in gateway.local if local["trusted"] for each in local["all"]]


def trusted(pen: Pen, gateway: Gateway) -> None:
    """The internal network and those with its rights reach each other (filter FORWARD)."""
    if len(gateway.trusted) == 1:
        return
    pen.note("Networks with the same rights.")
    for local in gateway.local:
        for source in gateway.from_local(local) if local["trusted"] else []:
            pen.add(source, f"-j {PREFIX}TRUSTED")


def into_trusted(pen: Pen, gateway: Gateway) -> None:
    """The ways that lead to one of them (chain TRUSTED)."""
    if len(gateway.trusted) == 1:
        return
    pen.note("From one of them to another.")
    for local in gateway.local:
        for to_local in gateway.to_local(local) if local["trusted"] else []:
            out = f"-o {local['interface']}" if gateway.version == 4 else ""
            pen.add(to_local, out, "-j ACCEPT")


# A connection of which a node sees half: a client of a peer's VPN reaches a host directly, from the
# peer, and the host answers by its router, this node. A host reaches a network behind a router by
# its own router, this node, and is answered directly. Such packets come in by the interface by
# which they leave.


@ipv4
def untracked_one_way(pen: Pen, gateway: Gateway) -> None:
    """It is not tracked (raw PREROUTING)."""
    plan = gateway.plan
    if plan["routes"] or plan["inside_routes"]:
        pen.note("Of these connections this node sees one direction only.")
    clients = plan["vpn"]["networks"] if plan["routes"] else []
    others = [each["destination"] for each in plan["routes"]]
    # What is for a router of another network passes this node in both directions.
    own = [f"-i {each['interface']} -d {each['destination']}" for each in plan["inside_routes"]]
    for match in (*(f"-d {each}" for each in others), *own):
        pen.add(match, f"-j {PREFIX}ONEWAY")
    known = [f"-d {each}" for each in others if each not in clients]
    for match in (*known, *own) if gateway.untrusted else ():
        pen.add(match, f"-j {PREFIX}OTHERS")
    # The other direction is seen here where the client is; which node has it is not known.
    for network, device in product(gateway.client_networks, gateway.devices):
        if plan["routes"]:
            pen.add(f"-i {device} -s {network} -j {PREFIX}BRANCH")


@ipv4
def one_way_of_trusted(pen: Pen, gateway: Gateway) -> None:
    """What these hosts send there (chain ONEWAY)."""
    _untracked(pen, gateway, trusted=True)


@ipv4
def one_way_of_others(pen: Pen, gateway: Gateway) -> None:
    """What the hosts of other networks send there (chain OTHERS). To a network behind a client it
    is tracked: the node that has the client sees both directions, and judges them by its rules."""
    _untracked(pen, gateway, trusted=False)


def _untracked(pen: Pen, gateway: Gateway, trusted: bool) -> None:
    interfaces = gateway.trusted if trusted else gateway.untrusted
    if not interfaces or not _knows_one_way(gateway):
        return
    pen.note("What comes from where it belongs.")
    for local in gateway.local:
        for source in gateway.from_local(local) if local["trusted"] is trusted else []:
            pen.add(source, "-j CT --notrack")


def _knows_one_way(gateway: Gateway) -> bool:
    """Whether there are connections of which this node sees half."""
    return bool(gateway.plan["routes"] or gateway.plan["inside_routes"])


@ipv4
def one_way_of_branches(pen: Pen, gateway: Gateway) -> None:
    """What networks behind clients send to trusted ones (chain BRANCH of table raw). What is for
    the node itself it sees in both directions."""
    if not (gateway.client_networks and gateway.plan["routes"]):
        return
    pen.note("To whoever may answer by the peer.")
    for network in _trusted(gateway):
        pen.add(f"-d {network}", "-m addrtype ! --dst-type LOCAL -j CT --notrack")


@ipv4
def accepted_one_way(pen: Pen, gateway: Gateway) -> None:
    """It passes: who gets it judges it, or it stays in its network (filter FORWARD)."""
    plan = gateway.plan
    destinations = [each["destination"] for each in (*plan["routes"], *plan["inside_routes"])]
    if destinations:
        pen.note("The one direction that this node sees (table raw).")
    for destination in destinations:
        pen.add(f"-d {destination} -j {PREFIX}HAIRPIN")


@ipv4
def hairpin(pen: Pen, gateway: Gateway) -> None:
    """What leaves by the interface by which it has come (chain HAIRPIN)."""
    if not _knows_one_way(gateway):
        return
    pen.note("Back by the interface that it came in by.")
    for local in gateway.local:
        way = f"-i {local['interface']} -o {local['interface']}"
        if local["trusted"]:
            pen.add(way, "-m conntrack --ctstate UNTRACKED -j ACCEPT")
            continue
        for network in local["all"]:
            pen.add(way, f"-s {network}", "-j ACCEPT")


@ipv4
def behind_a_client(pen: Pen, gateway: Gateway) -> None:
    """What goes to a network behind a client, which is here or at a peer (mangle FORWARD)."""
    if not (gateway.plan["routes"] and gateway.devices):
        return
    for network in gateway.client_networks:
        pen.note(f"{network} is behind a client, here or at the peer.")
        pen.add(f"-d {network} -j {PREFIX}CIRCLES")


@ipv4
def no_circles(pen: Pen, gateway: Gateway) -> None:
    """Two nodes that each believe a client at the other would send its packets to and fro (chain
    CIRCLES)."""
    if not (gateway.plan["routes"] and gateway.devices and gateway.client_networks):
        return
    pen.note("Once to a peer, and not back.")
    passed_on = f"-m dscp --dscp {PASSED_ON}"
    for local in gateway.local:
        interface = local["interface"]
        pen.add(f"-i {interface} -o {interface}", passed_on, "-j DROP")
        pen.add(f"-o {interface} -j DSCP --set-dscp {PASSED_ON}")
    for device in gateway.devices:
        pen.add(f"-o {device}", passed_on, "-j DSCP --set-dscp 0")
