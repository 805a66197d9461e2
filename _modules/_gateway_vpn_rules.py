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
    pen.refuse("drop", f"! -i {gateway.internal} -s {gateway.network}")
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
    for interface in gateway.inside:
        pen.add(f"-o {interface} -j ACCEPT")


@ipv4
def branch(pen: Pen, gateway: Gateway) -> None:
    """Where a network behind a client may go (chain BRANCH)."""
    if not (gateway.devices and gateway.client_networks):
        return
    pen.note("Where a network behind a client may go.")
    for network in (gateway.network, *gateway.vpn_networks, *gateway.client_networks):
        pen.add(f"-d {network} -j {PREFIX}INSIDE")


def servers(pen: Pen, gateway: Gateway) -> None:
    """What clients of each server may do (filter FORWARD)."""
    # Clients of a peer come in by the internal interface, so in IPv4 it takes their addresses
    # (chain SOURCES has asked for the way that they came). With IPv6 they have none yet.
    v4 = gateway.version == 4
    accept = f"-j {PREFIX}INSIDE" if v4 else "-j ACCEPT"
    to_internal = f"-d {gateway.network}" if v4 else f"-o {gateway.internal}"
    to_servers = [f"-d {network}" for network in gateway.vpn_networks]
    if not v4:
        to_servers = [f"-o {device}" for device in gateway.devices]
    for server in gateway.plan["vpn"]["servers"]:
        clients = f"-s {server['network']}" if v4 else f"-i {server['device']}"
        to_clients = f"-d {server['network']}" if v4 else f"-o {server['device']}"
        pen.note(f"VPN server {server['name']}.")
        if server["full_tunnel"] and gateway.firewall["egress"] == "allow":
            pen.add(clients, f"-o {gateway.public}", "-j ACCEPT")
        pen.add(clients, to_internal, accept)
        pen.add(gateway.from_internal, to_clients, accept)
        for to_server in to_servers:
            pen.add(clients, to_server, accept)


@ipv4
def behind_clients(pen: Pen, gateway: Gateway) -> None:
    """What networks behind clients may do (filter FORWARD)."""
    for network in gateway.client_networks:
        pen.note(f"{network}, behind a VPN client.")
        pen.add(f"-s {network} ! -d {network} -j {PREFIX}BRANCH")
        for other in (gateway.network, *gateway.vpn_networks):
            pen.add(f"-s {other} -d {network} -j {PREFIX}INSIDE")


@ipv4
def untracked_one_way(pen: Pen, gateway: Gateway) -> None:
    """A connection of which this node sees half is not tracked (raw PREROUTING)."""
    routes = gateway.plan["routes"]
    if not routes:
        return
    pen.note("From here to a client of a peer's VPN this node sees one direction only.")
    for route in routes:
        way = f"-i {gateway.internal} -s {gateway.network} -d {route['destination']}"
        pen.add(way, "-j CT --notrack")
    # The other direction is seen here where the client is; which node has it is not known. What
    # is for the node itself it sees in both directions.
    for network, device in product(gateway.client_networks, gateway.devices):
        way = f"-i {device} -s {network} -d {gateway.network}"
        pen.add(way, "-m addrtype ! --dst-type LOCAL -j CT --notrack")


@ipv4
def accepted_one_way(pen: Pen, gateway: Gateway) -> None:
    """What is not tracked for that reason passes (filter FORWARD)."""
    pen.note("The one direction that this node sees (table raw).")
    for route in gateway.plan["routes"]:
        way = f"-i {gateway.internal} -o {gateway.internal} -d {route['destination']}"
        pen.add(way, "-m conntrack --ctstate UNTRACKED -j ACCEPT")


@ipv4
def no_circles(pen: Pen, gateway: Gateway) -> None:
    """Two nodes that each believe a client at the other would send its packets to and fro."""
    if not (gateway.plan["routes"] and gateway.devices):
        return
    for network in gateway.client_networks:
        pen.note(f"{network} is behind a client, here or at the peer.")
        passed_on = f"-m dscp --dscp {PASSED_ON}"
        pen.add(f"-i {gateway.internal} -o {gateway.internal} -d {network}", passed_on, "-j DROP")
        pen.add(f"-o {gateway.internal} -d {network} -j DSCP --set-dscp {PASSED_ON}")
        for device in gateway.devices:
            pen.add(f"-o {device} -d {network}", passed_on, "-j DSCP --set-dscp 0")
