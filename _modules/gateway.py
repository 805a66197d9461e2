"""
What the gateway formula computes from the site's pillar, and how a node is doing.

Each function works from the command line, from Jinja and over salt-ssh.
"""

import contextlib
import gc
import os
from ipaddress import IPv4Address

import _gateway_libraries
import salt.pillar
import salt.utils.args
from salt.exceptions import CommandExecutionError, SaltException, SaltInvocationError

_gateway_libraries.forget_changed()

import _gateway_applied
import _gateway_drain
import _gateway_firewall
import _gateway_interface_files
import _gateway_interfaces
import _gateway_leases
import _gateway_nodes
import _gateway_pem
import _gateway_plan
import _gateway_rules
import _gateway_status
import _gateway_sync

# The files that the formula has in _states: a part of them is not enough.
STATES = (
    *("_gateway_crl", "_gateway_state", "_gateway_vpn_client_files", "gateway"),
    *("gateway_firewall", "gateway_network", "gateway_openvpn", "gateway_service"),
)
# What salt-ssh has on a node is in a folder of this name.
SALT_SSH_FOLDER = "running_data"
WITHOUT_PILLAR = (
    "gateway: missing, because salt-ssh gives no pillar to a function that is called by itself;"
    " it does with: salt-ssh ... state.single module.run name=gateway...."
)


def _called(kwargs):
    """Prepare a call. Raises CommandExecutionError where the pillar does not render."""
    errors = _refreshed(kwargs)
    if errors:
        raise CommandExecutionError("\n".join(["The pillar has errors:", *errors]))


def _refreshed(kwargs):
    """
    What keeps the pillar from being rendered. When the call came from the master, it is asked for
    again: the minion has it from its start or the last refresh, and a person who has just edited it
    means the new one.
    """
    unknown = salt.utils.args.clean_kwargs(**kwargs)
    if unknown:
        raise SaltInvocationError(f"unknown argument: {', '.join(unknown)}")
    if "__pub_fun" in kwargs and __opts__.get("__cli") == "salt-minion":
        compiler = salt.pillar.get_pillar(
            __opts__,
            dict(__grains__),
            __opts__["id"],
            saltenv=__opts__.get("saltenv"),
            pillarenv=__opts__.get("pillarenv"),
        )
        __context__["gateway.pillar"] = compiler.compile_pillar()
    return list(__context__.get("gateway.pillar", __pillar__).get("_errors", []))


def _in_force(kwargs):
    """
    This node's plan, and what keeps the pillar from being used. While something does, the plan is
    the one that was applied last, or has not more than its digest where that is not known.
    """
    try:
        errors = _refreshed(kwargs)
    except SaltInvocationError:
        raise
    except SaltException as error:
        errors = [f"the Salt master gives no pillar: {error}"]
    if not errors:
        site, errors = _site()
        errors = errors or _gateway_nodes.check_node(site, __opts__["id"])
    if not errors:
        return plan(), []
    applied = _gateway_applied.last()
    if "node" in applied:
        return applied, errors
    why = "the whole formula was never applied on this node"
    if applied["digest"]:
        why = "what was applied last is not known: an older version of the formula kept no plan"
    return applied, [*errors, why]


def _pillar():
    # Not pillar.get: Salt 3008 masks what that returns.
    return __context__.get("gateway.pillar", __pillar__).get("gateway")


def _site():
    """The site and its errors, read once for each pillar: an apply asks many times."""
    pillar = _pillar()
    cached = __context__.get("gateway.site")
    if cached is None or cached[0] is not pillar:
        with _no_garbage():
            cached = (pillar, *_gateway_plan.read(pillar))
        if pillar is None and os.path.basename(__opts__.get("root_dir") or "") == SALT_SSH_FOLDER:
            cached = (pillar, None, [WITHOUT_PILLAR])
        __context__["gateway.site"] = cached
        __context__["gateway.plans"] = {}
        __context__["gateway.kept"] = {}
    return cached[1], cached[2]


@contextlib.contextmanager
def _no_garbage():
    """A large site is many objects, all of them wanted. While they come, Python would look through
    all that Salt has, again and again, for some that are not."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _valid_site():
    site, errors = _site()
    if errors:
        raise CommandExecutionError("\n".join(["The pillar of this site is wrong:", *errors]))
    return site


def validate(warnings=True, **kwargs):
    """
    Everything that is wrong with the site's pillar, and with this node's place in it: an interface
    that is not there, a network that is not reached, a virtual IP that the node has by itself,
    another firewall that refuses what the gateway lives from.

    warnings
        Also name what keeps nothing else from being applied: what is wrong with the VPN's
        certificates, keys and programs on this node, what of them ends within 30 days, files that
        dnsmasq shall read and cannot, where links, addresses, routes and resolv.conf do not go with
        the pillar, units of the pillar that are not there, routes that no rule lets VPN clients
        use, and a missing word on state sync or on internal targets.

    Returns a list of ``pillar:key: what is wrong``; an empty one when all is good. From the command
    line, ``salt`` and ``salt-call`` exit with 1 where it is not empty.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' gateway.validate
        salt 'gw*' gateway.validate warnings=False
    """
    by_a_person = "__pub_fun" in kwargs
    faults = _refreshed(kwargs) or _faults_of_the_pillar(by_a_person, warnings)
    if by_a_person:
        __context__["retcode"] = 1 if faults else 0
    return faults


def _faults_of_the_pillar(by_a_person, warnings):
    site, errors = _site()
    if errors:
        return errors
    errors = _gateway_nodes.check_node(site, __opts__["id"])
    if errors:
        return errors
    planned = plan()
    kept = {} if by_a_person else __context__["gateway.kept"]  # an apply asks many times
    here = _gateway_status.look_by_pillar(planned, site, _pillar(), kept)
    errors = _gateway_status.errors(planned, here)
    if not warnings:
        return errors
    return [*errors, *_gateway_status.warnings(planned, here, forecasts=True)]


def has_states(**kwargs):
    """
    Whether the formula's states, all of them, are where Salt looks for them. They may not be where
    its modules are: over salt-ssh, or where a minion could not fetch them. Nothing may be applied
    then.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' gateway.has_states
    """
    unknown = salt.utils.args.clean_kwargs(**kwargs)
    if unknown:
        raise SaltInvocationError(f"unknown argument: {', '.join(unknown)}")
    folders = [
        *(f"{folder}/states" for folder in __opts__.get("module_dirs") or []),
        *(__opts__.get("states_dirs") or []),
        f"{__opts__['extension_modules']}/states",
    ]
    return any(all(os.path.exists(f"{folder}/{name}.py") for name in STATES) for folder in folders)


def prepared(supported=True, **kwargs):
    """
    What an apply has to know of this node before its first state, in one answer: ``lacking`` (the
    formula's states are not here), ``errors`` (what ``validate`` says without warnings), ``plan``,
    ``ruleset`` and ``resolver`` (the file with the DNS servers that the node asks: resolv.conf, or
    systemd-resolved's list where that names only its stub), which are empty where one of the former
    is not. For gateway/map.jinja.

    supported
        Whether the formula knows this node's system. On another one nothing is looked at, and there
        is neither an error nor a plan.

    CLI Example:

    .. code-block:: bash

        salt gw1 gateway.prepared
    """
    lacking = not has_states(**kwargs)
    known = supported and not lacking
    errors = validate(warnings=False, **kwargs) if known else []
    good = known and not errors
    return {
        "lacking": lacking,
        "errors": errors,
        "plan": plan() if good else {},
        "ruleset": ruleset() if good else {},
        "resolver": _gateway_interfaces.resolver_file() if good else "",
    }


def plan(node=None, **kwargs):
    """
    What a node of the site is to be, as a mapping; nothing in it is secret.

    node
        Minion id of a node; this minion's own by default.

    Raises CommandExecutionError with every error when the pillar is wrong.

    CLI Example:

    .. code-block:: bash

        salt gw1 gateway.plan
        salt gw1 gateway.plan node=gw2
    """
    _called(kwargs)
    site = _valid_site()
    name = node or __opts__["id"]
    plans = __context__["gateway.plans"]
    if name not in plans:
        try:
            with _no_garbage():
                plans[name] = _gateway_plan.plan(site, name)
        except ValueError as error:
            raise CommandExecutionError(str(error)) from error
    return plans[name]


def digest(**kwargs):
    """
    A short hash of the site, 16 hexadecimal digits: the same on every node with the same pillar.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' gateway.digest
    """
    _called(kwargs)
    return _valid_site().digest


def vpn_subnets(**kwargs):
    """
    Every node's VPN subnets, as ``{server: {node: subnet}}``.

    CLI Example:

    .. code-block:: bash

        salt gw1 gateway.vpn_subnets
    """
    _called(kwargs)
    subnets = {}
    for node in _valid_site().nodes:
        for server in plan(node.name)["vpn"]["servers"]:
            subnets.setdefault(server["name"], {})[node.name] = server["subnet"]
    return subnets


def routes(node=None, **kwargs):
    """
    A node's routes to the VPN subnets of its peers, as a list of ``{destination, via}``.

    node
        Minion id of a node; this minion's own by default.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' gateway.routes
    """
    _called(kwargs)
    return plan(node)["routes"]


def ruleset(node=None, **kwargs):
    """
    A node's firewall as ``{sets, v4, v6}``: what ipset restore, iptables-restore and
    ip6tables-restore read. Comment lines name the pillar key that the rules after them come from.

    node
        Minion id of a node; this minion's own by default. Where an interface of this minion's is a
        bridge whose frames pass iptables, there are rules that let them pass.

    CLI Example:

    .. code-block:: bash

        salt gw1 gateway.ruleset
    """
    _called(kwargs)
    planned = plan(node)
    here = planned["node"]["name"] == __opts__["id"]
    # What another node's interfaces are is not known here.
    return _gateway_rules.ruleset(planned, _gateway_firewall.bridges(planned) if here else [])


def interfaces(kind=None, router=None, node=None, **kwargs):
    """
    What a node's interfaces file should hold: texts by the paths of their files, for the internal
    interface, the public one, those of further networks and the nodes' own link, with the VLANs
    among them. The formula writes none of it: paste it, or have it written by a state of yours. The
    virtual IPs are never in it. What the pillar does not know is said in comments of the text: the
    default route, say, and what ``vlan20`` is on. DNS servers of the node are yours.

    kind
        ``ifupdown``, ``networkd`` or ``netplan``. Without it all of them, as ``{kind: {path:
        text}}``.
    router
        The router of the node's default route, on the public side. Without it there is a comment
        where it belongs. An address by DHCP has its own.
    node
        Minion id of a node; this minion's own by default.

    Raises SaltInvocationError for another kind, and for a router that is no IPv4 address.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' gateway.interfaces netplan
        salt gw1 gateway.interfaces networkd router=198.51.100.254
    """
    _called(kwargs)
    kinds = _gateway_interface_files.KINDS
    if kind not in (None, *kinds):
        raise SaltInvocationError(f"kind: {kind} is not one of {', '.join(kinds)}")
    try:
        address = None if router is None else IPv4Address(str(router))
    except ValueError:
        raise SaltInvocationError(f"router: {router} is not an IPv4 address") from None
    planned = plan(node)
    if kind:
        return _gateway_interface_files.files(planned, kind, address)
    return {each: _gateway_interface_files.files(planned, each, address) for each in kinds}


def sync_ignored(**kwargs):
    """
    Addresses and networks whose connections are no business of the peer's: those of the plan, and
    this node's addresses on interfaces that the pillar does not know. Empty without state sync.

    CLI Example:

    .. code-block:: bash

        salt gw1 gateway.sync_ignored
    """
    _called(kwargs)
    return _gateway_sync.ignored(plan())


def pem(material, **kwargs):
    """
    A certificate or key from the pillar, for the templates: PEM text without a last line break.

    material
        A key of ``vpn:pki``, such as ``certificate`` or ``tls_crypt``.

    Raises CommandExecutionError when called from a command line: a key would be shown and logged.
    """
    if "__pub_fun" in kwargs:
        raise CommandExecutionError("gateway.pem is for templates: it would show a key")
    value = _pillar()
    # Not from __pillar__[...]: Salt 3008 copies the whole pillar for that, and it is read again.
    for key in plan()["vpn"]["pki"][material]["pillar"][1:]:
        value = value[key]
    text = _gateway_pem.pem_blocks(value).strip()
    if not text:
        raise CommandExecutionError(f"there is no PEM text for {material} in the pillar")
    return text


def lease_key(**kwargs):
    """
    The secret ``dhcp:key`` of the pillar, for the template; empty without one.

    Raises CommandExecutionError when called from a command line: it would be shown and logged.
    """
    if "__pub_fun" in kwargs:
        raise CommandExecutionError("gateway.lease_key is for a template: it would show a key")
    key = _valid_site().dhcp.key
    return key.text if key else ""


def leases(network=None, **kwargs):
    """
    Who has which address by DHCP, as this node knows it; it is the same on both.

    network
        Only those of this network: ``internal``, or one of ``networks``.

    Returns a list, in the order of the addresses: ``address``, ``mac``, ``name`` (as the client
    said it), ``network``, ``since``, ``until`` (empty: for ever) and ``node`` (which gave it, or
    renewed it last). Raises CommandExecutionError where gateway-leases does not answer, and for a
    network that the site does not have.

    CLI Example:

    .. code-block:: bash

        salt gw1 gateway.leases
        salt gw1 gateway.leases network=guest
    """
    plan, _ = _in_force(kwargs)
    if network and network not in _gateway_leases.networks(plan).values():
        raise CommandExecutionError(f"{network} is no network of this site")
    listing = _asked("list")
    leases = _gateway_leases.shown(plan, listing["leases"])
    return [lease for lease in leases if network in (None, lease["network"])]


def lease_end(address, **kwargs):
    """
    End a lease, on both nodes: its name goes from DNS, and the address can be given to another
    machine.

    The client is not told. It goes on using the address until it asks to renew the lease, which may
    be in half the lease time; if nobody else has the address then, it gets it again. So end the
    lease of a machine that is gone, or that is off.

    address
        Whose lease.

    Returns a text: who had the lease, until when, and the warning. Raises CommandExecutionError
    where nobody has one, or gateway-leases does not answer.

    CLI Example:

    .. code-block:: bash

        salt gw1 gateway.lease_end 10.77.0.123
    """
    plan, _ = _in_force(kwargs)
    ended = _asked("end", str(address))
    (lease,) = _gateway_leases.shown(plan, [ended["lease"]])
    who = f"{lease['mac']} ({lease['name']})" if lease["name"] else lease["mac"]
    until = f"until {lease['until']}" if lease["until"] else "for ever"
    return (
        f"{lease['address']} of {who} was leased {until}; that is over. The client is not told:"
        " while it is on, it uses the address until it asks to renew the lease"
    )


def _asked(*question):
    answer = _gateway_leases.ask(*question)
    if "error" in answer:
        raise CommandExecutionError(answer["error"])
    return answer


def drain(force=False, **kwargs):
    """
    Take this node out of service, for maintenance: the virtual IPs go to a peer and no packet is
    lost, its VPN servers stop and tell their clients, who then use the other gateway. It stays so
    through reboots and applies until ``gateway.undrain``.

    Nothing is changed unless a peer in good health takes the virtual IPs. While this node is
    drained it has them only if there is nobody else.

    While the pillar is wrong it goes by what was applied last.

    force
        Drain it also where no peer takes over.

    Returns what was done. Raises CommandExecutionError when no peer took the virtual IPs, or, where
    another node has them, that node does not answer.

    CLI Example:

    .. code-block:: bash

        salt gw1 gateway.drain
        salt gw1 gateway.drain force=True
    """
    health, units = _to_drain(kwargs)
    if _gateway_drain.drained_since() is not None:
        return "this node is drained already"
    try:
        _gateway_drain.drain(health, force)
    except ValueError as error:
        raise CommandExecutionError(str(error)) from error
    for unit in units:
        __salt__["service.stop"](unit)
    return "this node is drained"


def undrain(**kwargs):
    """
    Put a drained node into service again. It gets the virtual IPs back as a node does that comes
    back: after ``failover:preempt_delay``, if it is the better one and there is ``preempt``.

    CLI Example:

    .. code-block:: bash

        salt gw1 gateway.undrain
    """
    _, units = _to_drain(kwargs)
    if _gateway_drain.drained_since() is None:
        return "this node is not drained"
    _gateway_drain.undrain()
    for unit in units:
        __salt__["service.start"](unit)
    return "this node is in service again"


def _to_drain(kwargs):
    """What a drain has to know: ``virtual_ip`` and ``takeover``, and the VPN servers' units."""
    planned, errors = _in_force(kwargs)
    try:
        health = {key: planned["health"][key] for key in ("virtual_ip", "takeover")}
        return health, [unit["unit"] for unit in planned["units"] if unit["drained"]]
    except KeyError:
        message = "\n".join(["The pillar of this site is wrong:", *errors])
        raise CommandExecutionError(message) from None


def status(**kwargs):
    """
    How this node is doing, as a mapping: ``vrrp`` (role and virtual IPs as the kernel has them),
    ``health`` (what its priority loses, and why; since when it is drained), ``services``,
    ``routes``, ``firewall`` (which iptables; whether rules are loaded, changed by hand, wait for
    their confirmation), ``sync`` (whether the peer is heard, how many connections it was told of,
    and told us of), ``vpn`` (tunnel addresses, and who is connected), ``ntp``, ``digest`` (of what
    was last applied, and of the pillar) and ``formula`` (the version that was last applied, and
    that of the modules here). ``problems`` lists what a person should look at. While the pillar is
    wrong, the node is judged by what was applied last, and the pillar's errors are the first
    problems.

    CLI Example:

    .. code-block:: bash

        salt 'gw*' gateway.status
    """
    planned, errors = _in_force(kwargs)
    if not errors:
        here = _gateway_status.look_by_pillar(planned, _valid_site(), _pillar())
        return _gateway_status.status(planned, here, [])
    title = "the pillar cannot be used, so this is judged by what was applied last"
    try:
        here = _gateway_status.look(planned)
        return _gateway_status.status(planned, here, [*errors, title])
    except (KeyError, TypeError):
        # There is none, or it is of a version of the formula that had other plans.
        return _gateway_status.status_without_plan(__opts__["id"], errors)
