"""States of a node's network: kernel settings, routes, systemd-networkd, the virtual IP, and what
follows it."""

import glob
import importlib
import json
import os
import re
import tempfile
import time

import _gateway_state as state
from salt.exceptions import CommandExecutionError

# Without this a long-running minion keeps the library that it loaded first.
if os.stat(state.__file__).st_mtime_ns != state.WRITTEN:
    importlib.reload(state)

# Marks the routes that are ours. Not taken in iproute2's rt_protos.
ROUTE_PROTOCOL = "119"
# Marks our rules beside those of the firewall's gate, which have 119, and stand before them.
RULE_PROTOCOL = "121"
RULE_PREFERENCE = "121"
MAIN = "254"  # the number of the main table
NETWORKD = "/etc/systemd/network"
NETWORKD_FOLDERS = ("/etc", "/run", "/usr/local/lib", "/usr/lib")
NETWORKD_LINKS = "/run/systemd/netif/links"  # what networkd itself tells networkctl
INTERFACES = "/sys/class/net"
FOLLOWERS = "gateway-follow.conf"
ORIGINALS = "kernel.json"  # what the kernel's settings were before the formula; in STATE_FOLDER


# --------------------------------------------------------------------------------------------------
# Kernel settings


def _kernel_value(key):
    text = state.read(f"{state.PROC_SYS}/{key}")
    if text is None:
        # Settings of a kernel module are not there before the run that loads it.
        if __opts__["test"] and key.startswith("net/netfilter/"):
            return None
        raise CommandExecutionError(f"the kernel has no setting {key}")
    return text.strip()


def _set_kernel(values):
    for key, value in values.items():
        with open(f"{state.PROC_SYS}/{key}", "w", encoding="utf-8") as file:
            file.write(value)


def _kernel_file(settings):
    return f"# {state.OURS}.\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())


def kernel_settings(name, settings, forwarding_file, forwarding):
    """
    Kernel settings in the file ``name``, for the next boot, and in the kernel, now. What they were
    before is kept: ``kernel_settings_restored`` brings it back, and so does this state for settings
    that are not wanted any more.

    name
        The file, in /etc/sysctl.d.
    settings
        Mapping of a path below /proc/sys to its value, as text. Those of IPv6 may be missing.
    forwarding_file, forwarding
        Settings that let the node forward, in a file that the loader of the firewall's rules
        applies at boot when these are in force.
    """
    # IPv6 may be off, for the kernel or for an interface: then there is nothing to set.
    settings = {
        key: value
        for key, value in settings.items()
        if not key.startswith("net/ipv6/") or os.path.exists(f"{state.PROC_SYS}/{key}")
    }
    texts = {name: _kernel_file(settings), forwarding_file: _kernel_file(forwarding)}
    settings = settings | forwarding
    try:
        live = {key: _kernel_value(key) for key in settings}
    except CommandExecutionError as error:
        return state.failed(name, str(error))
    originals = _originals()
    kept = {key: originals.get(key, value) for key, value in live.items()}
    unwanted = {key: value for key, value in originals.items() if key not in settings}
    values = _value_changes(settings, live) | _value_changes(unwanted)
    right = {path: state.read(path) == text for path, text in texts.items()}
    changes = values | _kernel_file_changes(right | {_originals_path(): kept == originals})

    def act():
        # A setting is forgotten only after it has its original value, so that the next run can
        # finish a killed one.
        if _originals_path() in changes:
            state.write_json(_originals_path(), originals | kept)
        for path, text in texts.items():
            if path in changes:
                state.write(path, text)
        _set_kernel({key: change["new"] for key, change in values.items()})
        if unwanted:
            state.write_json(_originals_path(), kept)

    return state.result(
        __opts__, name, changes, "Kernel settings set.", "Kernel settings would be set.", act
    )


def _originals_path():
    return f"{state.STATE_FOLDER}/{ORIGINALS}"


def _originals():
    """What the kernel's settings of ours were before the formula, as {path: value}."""
    return json.loads(state.read(_originals_path()) or "{}")


def _value_changes(wanted, live=None):
    """What the kernel has otherwise, as {path: {old, new}}. Without ``live`` it is asked; a setting
    that is gone with its interface is passed over."""
    if live is None:
        live = {
            key: (state.read(f"{state.PROC_SYS}/{key}") or value).strip()
            for key, value in wanted.items()
        }
    return {
        key: {"old": live[key], "new": value} for key, value in wanted.items() if live[key] != value
    }


def _kernel_file_changes(right):
    """What is wrong with files of which it is known whether their text is right."""
    changes = {}
    for path, same in right.items():
        wrong = "written"
        if same:
            wrong = state.folder_changes(__opts__, __running__, path) | state.access(path, 0o644)
        if wrong:
            changes[path] = wrong
    return changes


def kernel_settings_restored(name, forwarding_file):
    """
    The files of ``kernel_settings`` are gone and the kernel has the values of before them. Settings
    of interfaces that are gone are passed over.

    name, forwarding_file
        As for ``kernel_settings``.
    """
    originals = _originals()
    values = _value_changes(originals)
    files = (forwarding_file, name, _originals_path())
    changes = values | {path: "removed" for path in files if os.path.exists(path)}

    def act():
        _set_kernel({key: change["new"] for key, change in values.items()})
        state.remove(*files)

    return state.result(
        __opts__, name, changes, "Restored.", "Kernel settings would be restored.", act
    )


# --------------------------------------------------------------------------------------------------
# Routes


def _live_routes():
    """The kernel's routes, with whole destinations, the numbers of their protocols, and of their
    tables (None: the main one)."""
    output = state.run(__salt__, "ip", "-N", "-json", "-4", "route", "show", "table", "all")
    return [
        route
        | {
            "dst": route["dst"] if "/" in route["dst"] else f"{route['dst']}/32",
            "table": int(route["table"]) if route.get("table", MAIN) != MAIN else None,
        }
        for route in json.loads(output or "[]")
    ]


def _live_rules():
    """The kernel's rules of ours: interface and number of the table of each. An interface may have
    two, where somebody has put an older one back."""
    output = state.run(__salt__, "ip", "-N", "-json", "-4", "rule", "show")
    rules = [
        rule for rule in json.loads(output or "[]") if str(rule.get("protocol")) == RULE_PROTOCOL
    ]
    return {(rule["iif"], int(rule["table"])) for rule in rules}


def _place(destination, table):
    """How a route is called in what the state says."""
    return f"{destination} in table {table}" if table else destination


def routes(name, routes, ways_back=()):
    """
    The kernel has these routes, marked with our protocol number, and no others with that number.
    A route of somebody else's to the same destination is an error, and stays.

    routes
        List of mappings with ``destination`` and ``via``.
    ways_back
        List of mappings with ``interface``, ``table`` and ``routes``: what the table of that number
        has, where the kernel looks first for what comes in by that interface.
    """
    wanted = {(route["destination"], None): route["via"] for route in routes}
    for way in ways_back:
        wanted |= {(each["destination"], way["table"]): each["via"] for each in way["routes"]}
    wanted_rules = {(way["interface"], way["table"]) for way in ways_back}
    try:
        found = _live_routes()
        live_rules = _live_rules()
    except CommandExecutionError as error:
        return state.failed(name, str(error))
    live = _ours(found)
    foreign = sorted(
        destination
        for destination, table in wanted.keys() - live.keys()
        if table is None and any((r["dst"], r["table"]) == (destination, None) for r in found)
    )
    if foreign:
        lines = [f"There is a route to {key} already that is not ours." for key in foreign]
        return state.failed(name, "\n".join(lines))
    places = sorted(live.keys() | wanted.keys(), key=lambda place: (place[1] or 0, place[0]))
    moved = {key: (live.get(key), wanted.get(key)) for key in places}
    moved = {key: pair for key, pair in moved.items() if pair[0] != pair[1]}
    stale, missing = sorted(live_rules - wanted_rules), sorted(wanted_rules - live_rules)
    changes = {
        **{_place(*key): {"old": old, "new": new} for key, (old, new) in moved.items()},
        **{
            f"from {interface}": {
                "old": dict(stale).get(interface),
                "new": dict(missing).get(interface),
            }
            for interface, _ in [*stale, *missing]
        },
    }

    def act():
        # A rule after what it leads to, and gone before that.
        lines = [_rule("del", *rule) for rule in stale]
        for (destination, table), (old, via) in moved.items():
            verb = "del" if via is None else "replace" if old else "add"
            way = f" via {via}" if via else ""
            where = f" table {table}" if table else ""
            lines.append(f"route {verb} {destination}{way}{where} proto {ROUTE_PROTOCOL}")
        lines += [_rule("add", *rule) for rule in missing]
        # At once: with many networks there are hundreds.
        try:
            text = "\n".join(lines) + "\n"
            state.run(__salt__, "ip", "-4", "-force", "-batch", "-", stdin=text)
        except CommandExecutionError:
            # The follower may have put back meanwhile what is added here.
            if (_ours(_live_routes()), _live_rules()) != (wanted, wanted_rules):
                raise

    return state.result(__opts__, name, changes, "Routes set.", "Routes would be set.", act)


def _ours(routes):
    """Where our routes lead, by destination and table."""
    return {
        # A route without a gateway is not from this state, but it has our number.
        (route["dst"], route["table"]): route.get("gateway") or f"dev {route.get('dev')}"
        for route in routes
        if route.get("protocol") == ROUTE_PROTOCOL
    }


def _rule(verb, interface, table):
    """A line for `ip -batch`."""
    return (
        f"rule {verb} pref {RULE_PREFERENCE} iif {interface} lookup {table}"
        f" protocol {RULE_PROTOCOL}"
    )


# --------------------------------------------------------------------------------------------------
# systemd-networkd


def _networkd_file(interface):
    """The .network file by which systemd-networkd manages an interface; None if it does not."""
    index = (state.read(f"{INTERFACES}/{interface}/ifindex") or "").strip()
    link = state.read_foreign(f"{NETWORKD_LINKS}/{index}") if index else None
    found = re.search(r"(?m)^NETWORK_FILE=(.+)$", link or "")
    return found[1] if found and found[1] != "/dev/null" else None


def _networkd_keeps(file):
    """What a .network file and its drop-ins say of KeepConfiguration, but for ours."""
    folders = [f"{root}/systemd/network" for root in NETWORKD_FOLDERS]
    base = os.path.basename(file)
    dropped = {}
    for folder in reversed(folders):
        for path in glob.glob(f"{folder}/{glob.escape(base)}.d/*.conf"):
            dropped[os.path.basename(path)] = path
    dropped.pop("gateway.conf", None)
    keeps = "no"
    for path in (file, *(dropped[key] for key in sorted(dropped))):
        for value in re.findall(r"(?m)^\s*KeepConfiguration\s*=\s*(\S*)", state.read(path) or ""):
            keeps = value.lower() or "no"
    return keeps


def networkd(name, interfaces):
    """
    systemd-networkd leaves addresses and routes of others alone: the file ``name`` says so for
    routes, and for each interface that it manages a drop-in below its .network file for addresses.
    It reads them when it starts, which is left to others: nothing is lost meanwhile.

    name
        The file, in /etc/systemd/networkd.conf.d.
    interfaces
        Names of interfaces; none: there are no such files.
    """
    wanted = {}
    for file in filter(None, map(_networkd_file, interfaces)):
        # "static" would be less than what the user has asked for.
        more = _networkd_keeps(file) in ("yes", "true", "1", "on", "y", "t", "dhcp", "dynamic")
        path = f"{NETWORKD}/{os.path.basename(file)}.d/gateway.conf"
        wanted[path] = (
            f"# {state.OURS}.\n[Network]\nKeepConfiguration={'yes' if more else 'static'}\n"
        )
    if wanted:
        wanted[name] = (
            f"# {state.OURS}.\n[Network]\n"
            "ManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n"
        )
    live = {path: state.read(path) for path in glob.glob(f"{NETWORKD}/*.network.d/gateway.conf")}
    live[name] = state.read(name)
    changes = state.file_changes(__opts__, __running__, wanted, live)

    def act():
        for path in changes:
            state.change_file(path, wanted)

    return state.result(__opts__, name, changes, "Files written.", "Files would be written.", act)


# --------------------------------------------------------------------------------------------------
# What follows the virtual IP


def followers(name, units):
    """
    These units run while the target ``name`` is active, and only then: drop-ins bind them to it.
    Units that were bound before and are not listed any more stay as they are.

    units
        List of names of systemd units.
    """
    wanted = {f"{state.UNITS}/{unit}.d/{FOLLOWERS}": _drop_in(name) for unit in units}
    # Written last: a killed run has not finished binding what is not in it.
    bond = f"{state.UNITS}/{name}.d/{FOLLOWERS}"
    if units:
        lines = "".join(f"Wants={unit}\n" for unit in units)
        wanted[bond] = f"# {state.OURS}.\n[Unit]\n{lines}"
    live = {path: state.read(path) for path in [*glob.glob(f"{state.UNITS}/*.d/{FOLLOWERS}"), bond]}
    changes = state.file_changes(__opts__, __running__, wanted, live)
    bound = re.findall(r"(?m)^Wants=(.+)$", live[bond] or "")

    def act():
        for path in changes:
            if path != bond:
                state.change_file(path, wanted)
        _bind(
            name,
            [
                unit
                for unit in units
                if unit not in bound
                or changes.get(f"{state.UNITS}/{unit}.d/{FOLLOWERS}") == "written"
            ],
        )
        if bond in changes:
            state.change_file(bond, wanted)
            state.run(__salt__, "systemctl", "daemon-reload")

    return state.result(__opts__, name, changes, "Files written.", "Files would be written.", act)


def _drop_in(target):
    """What binds a unit to the target."""
    return (
        f"# {state.OURS}: runs where the virtual IP is.\n"
        # Not BindsTo: a unit that the distribution starts at boot would start the target.
        f"[Unit]\nRequisite={target}\nPartOf={target}\nAfter={target}\n"
    )


def _bind(target, units):
    """Units that have a new drop-in run if the target is active, and do not run if it is not."""
    if units:
        state.run(__salt__, "systemctl", "daemon-reload")
    for unit in units:
        if not _active(target) and _active(unit):
            state.run(__salt__, "systemctl", "stop", unit)
        # The virtual IP may have come meanwhile. Elsewhere the drop-in refuses the start.
        if _active(target):
            state.run(__salt__, "systemctl", "start", "--no-block", unit)


def _active(unit):
    command = ["systemctl", "is-active", "--quiet", unit]
    return not __salt__["cmd.retcode"](command, python_shell=False, ignore_retcode=True)


# --------------------------------------------------------------------------------------------------
# The election of the virtual IP's holder


def election_added(name, source, check, service, addresses, patience):
    """
    keepalived holds an election on a further side, apart from the one that it holds already. In one
    group with a new election the old one would begin anew: nobody would have the virtual IP, and it
    could move. When both have found the same holder, they can be made a group for nothing.

    source
        The template of keepalived's configuration, which has no group where ``alone`` is true.
    check
        Command that gets the name of the new file as its last argument and fails if it is wrong.
    service
        keepalived's unit.
    addresses
        The virtual IPs, one of each side.
    patience
        Seconds in which they have come together if the new side works.
    """
    current = state.read(name) or ""
    # There is no election of ours to keep, or the group exists already.
    if state.OURS not in current or "vrrp_sync_group" in current:
        return state.unchanged(name)

    try:
        (unit,) = state.show_units(__salt__, [service])
        # Only a node that holds an address can lose one.
        changes = (
            {"elections": "held apart at first"}
            if state.is_active(unit) and _held(addresses)
            else {}
        )
    except CommandExecutionError as error:
        return state.failed(name, str(error))

    def act():
        with tempfile.TemporaryDirectory() as folder:
            new = state.render(__salt__, __env__, f"{folder}/new", source, {"alone": True})
            state.run(__salt__, *state.isolated(name, check, see_network=True).split(), new)
            state.write(name, state.read(new))
        try:
            state.run(__salt__, "systemctl", "reload", service)
            _wait_for_one_holder(addresses, patience)
        finally:
            state.write(name, current)  # what comes for good is for the next state to write

    done = "The elections have the same holder."
    return state.result(
        __opts__, name, changes, done, "The elections would be held apart at first.", act
    )


def _held(addresses):
    """Those of the addresses that this node has."""
    links = json.loads(state.run(__salt__, "ip", "-json", "-4", "address", "show"))
    live = {item.get("local") for link in links for item in link.get("addr_info", [])}
    return live & set(addresses)


def _wait_for_one_holder(addresses, patience):
    """Return when this node has all of the addresses or none, at the latest after ``patience``
    seconds."""
    end = time.monotonic() + patience
    while time.monotonic() < end and len(_held(addresses)) not in (0, len(addresses)):
        time.sleep(0.1)
