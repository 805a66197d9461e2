"""What a node's interfaces file should hold, by `gateway.interfaces`."""

import re
from ipaddress import IPv4Address, ip_network
from typing import Any

import _gateway_interface_files
import jinja2
import pytest
import yaml
from rendered import SITES
from salt.exceptions import SaltInvocationError

ROUTER = IPv4Address("198.51.100.254")
HEADING = (
    "# gw1{}, as gateway.interfaces says. Virtual IPs do not belong here: keepalived adds them.\n"
)
GUEST = {"interface": "eth0.20", "network": "10.20.0.0/24", "virtual_ip": "10.20.0.1"}
SITE: dict[str, Any] = {
    "networks": {
        "guest": GUEST,
        "voice": {"interface": "vlan30", "network": "10.30.0.0/23", "virtual_ip": "10.30.0.1"},
    },
    "public:virtual_ip": "198.51.100.1",
    "public:addresses": ["198.51.100.11"],
    "state_sync": {"interface": "bond0.40"},
    "nodes:gw1:sync": "10.78.0.1",
    "nodes:gw2:sync": "10.78.0.2",
}
IFUPDOWN = (
    HEADING.format("")
    + """\
# It takes the place of what /etc/network/interfaces has for these interfaces.
# VLANs take the package vlan.

# bond0: only VLANs of it
auto bond0
iface bond0 inet manual
    # The cards of it: bond-slaves CARD CARD

# eth0: the internal network
auto eth0
iface eth0 inet static
    address 10.77.0.2/24

# eth1: the public side
auto eth1
iface eth1 inet static
    address 198.51.100.2/24
    gateway 198.51.100.254

# vlan30: network voice
auto vlan30
iface vlan30 inet static
    address 10.30.0.2/23
    # Its card: vlan-raw-device CARD

# bond0.40: the nodes' own link
auto bond0.40
iface bond0.40 inet static
    address 10.78.0.1/30

# eth0.20: network guest
auto eth0.20
iface eth0.20 inet static
    address 10.20.0.2/24
"""
)
NETWORKD = {
    "bond0.network": """\
# The .netdev file of bond0, and what it consists of, are yours.
# If you have a .network file of it, put the last lines there instead.
[Match]
Name=bond0

[Link]
RequiredForOnline=no

[Network]
LinkLocalAddressing=no
IPv6AcceptRA=no
VLAN=bond0.40
""",
    "eth0.network": """\
[Match]
Name=eth0

[Network]
Address=10.77.0.2/24
IPv6AcceptRA=no
VLAN=eth0.20
""",
    "eth1.network": """\
[Match]
Name=eth1

[Network]
Address=198.51.100.2/24
Gateway=198.51.100.254
IPv6AcceptRA=no
""",
    "vlan30.netdev": """\
# The .network file of its card needs, in [Network]: VLAN=vlan30
[NetDev]
Name=vlan30
Kind=vlan

[VLAN]
Id=30
""",
    "vlan30.network": """\
[Match]
Name=vlan30

[Link]
RequiredForOnline=no

[Network]
Address=10.30.0.2/23
IPv6AcceptRA=no
""",
    "bond0.40.netdev": """\
[NetDev]
Name=bond0.40
Kind=vlan

[VLAN]
Id=40
""",
    "bond0.40.network": """\
[Match]
Name=bond0.40

[Link]
RequiredForOnline=no

[Network]
Address=10.78.0.1/30
IPv6AcceptRA=no
""",
    "eth0.20.netdev": """\
[NetDev]
Name=eth0.20
Kind=vlan

[VLAN]
Id=20
""",
    "eth0.20.network": """\
[Match]
Name=eth0.20

[Link]
RequiredForOnline=no

[Network]
Address=10.20.0.2/24
IPv6AcceptRA=no
""",
}
NETPLAN = (
    HEADING.format("")
    + """\
network:
  version: 2
  ethernets:
    eth0: # the internal network
      addresses: [10.77.0.2/24]
      dhcp4: false
      accept-ra: false
    eth1: # the public side
      addresses: [198.51.100.2/24]
      routes: [{to: default, via: 198.51.100.254}]
      dhcp4: false
      accept-ra: false
  bonds:
    bond0: {} # only VLANs of it
  vlans:
    # vlan30: # network voice
    #   id: 30
    #   link: CARD
    #   addresses: [10.30.0.2/23]
    #   dhcp4: false
    #   accept-ra: false
    #   optional: true # a boot does not wait for its cable
    bond0.40: # the nodes' own link
      id: 40
      link: bond0
      addresses: [10.78.0.1/30]
      dhcp4: false
      accept-ra: false
      optional: true # a boot does not wait for its cable
    eth0.20: # network guest
      id: 20
      link: eth0
      addresses: [10.20.0.2/24]
      dhcp4: false
      accept-ra: false
      optional: true # a boot does not wait for its cable
"""
)


@pytest.fixture
def files(plan):
    def found(kind, changes=None, router=ROUTER, node="gw1"):
        return _gateway_interface_files.files(plan(changes, node=node), kind, router)

    return found


def text_of(files):
    """All of it without comments."""
    lines = "\n".join(files.values()).splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("#"))


def test_ifupdown(files):
    assert files("ifupdown", SITE) == {"/etc/network/interfaces.d/gateway": IFUPDOWN}


def test_networkd(files):
    found = files("networkd", SITE)
    assert {
        path.removeprefix("/etc/systemd/network/50-gateway-"): text.partition("\n")[2]
        for path, text in found.items()
    } == NETWORKD
    heading = HEADING.format(": eth0.20, network guest")
    assert found["/etc/systemd/network/50-gateway-eth0.20.network"].startswith(heading)


def test_netplan(files):
    assert files("netplan", SITE) == {"/etc/netplan/60-gateway.yaml": NETPLAN}


@pytest.mark.parametrize("kind", _gateway_interface_files.KINDS)
@pytest.mark.parametrize("site", ["example", "networks", "link of their own", "further addresses"])
@pytest.mark.parametrize("node", ["gw1", "gw2"])
def test_every_address_of_the_node_and_no_other(files, plan, kind, site, node):
    """Of the virtual IPs none."""
    planned = plan(SITES[site], node=node)
    text = text_of(files(kind, SITES[site], None, node))
    own = {planned["node"][side] for side in ("internal", "public", "sync")} - {None}
    own |= {network["address"] for network in planned["networks"]}
    for address in own:
        assert f"{address}/" in text
    assert text.count("/") == len(own)
    if kind == "netplan":
        yaml.safe_load(text)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("ifupdown", "    # The default route: gateway ROUTER"),
        ("networkd", "# The default route: Gateway=ROUTER"),
        ("netplan", "      # The default route: routes: [{to: default, via: ROUTER}]"),
    ],
)
def test_the_default_route_is_not_in_the_pillar(files, kind, line):
    text = "\n".join(files(kind, router=None).values())
    assert line in text.splitlines()
    assert "default" not in text_of({"": text})


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("ifupdown", ["iface eth1 inet dhcp"]),
        ("networkd", ["DHCP=ipv4"]),
        ("netplan", ["dhcp4: true"]),
    ],
)
def test_a_public_address_by_dhcp(files, kind, words):
    """It brings the default route."""
    changes = {"nodes:gw1:public": ..., "nodes:gw1:remote": "gw1.example.com"}
    text = "\n".join(files(kind, changes).values())
    for word in words:
        assert word in text
    assert str(ROUTER) not in text
    assert "ROUTER" not in text


@pytest.mark.parametrize("kind", _gateway_interface_files.KINDS)
def test_an_address_without_a_prefix_length(files, kind):
    """A wrong one would be worse than none."""
    text = "\n".join(files(kind, {"public:network": ...}).values())
    assert "# 198.51.100.2 belongs here. Its prefix length is not known:" in text
    assert "198.51.100.2" not in text_of({"": text})
    assert "dhcp" not in text_of({"": text}).replace("dhcp4: false", "")


@pytest.mark.parametrize("kind", ["networkd", "netplan"])
def test_router_advertisements_where_the_pillar_wants_them(files, kind):
    """networkd reads them itself, whatever the kernel's setting is."""
    yes, no = {"networkd": ("AcceptRA=yes", "AcceptRA=no")}.get(kind, ("ra: true", "ra: false"))
    text = "\n".join(files(kind, {"public:accept_ra": True}).values())
    assert (text.count(yes), text.count(no)) == (1, 1)


@pytest.mark.parametrize(
    ("name", "vlan", "on"),
    [
        ("eth0.20", 20, "eth0"),
        ("enp0s31f6.4094", 4094, "enp0s31f6"),
        ("bond0.0020", 20, "bond0"),
        ("eth7.20.30", 30, "eth7.20"),
        ("vlan7", 7, None),
        ("eth0", None, None),
        ("eth0.0", None, None),
        ("eth0.4095", None, None),
        ("vlan", None, None),
        ("guest20", None, None),
    ],
)
def test_what_a_name_says_of_a_vlan(files, name, vlan, on):
    changes: dict[str, Any] = {"networks": {"guest": {**GUEST, "interface": name}}}
    if name == "eth0":
        changes["internal:interface"] = "eth9"
    found = files("networkd", changes)
    folder = "/etc/systemd/network/50-gateway-"
    netdev = found.get(f"{folder}{name}.netdev", "")
    assert (f"Id={vlan}\n" in netdev) is (vlan is not None)
    assert (f"VLAN={name}" in found.get(f"{folder}{on}.network", "")) is (on is not None)
    if name == "eth7.20.30":  # and what that is on
        assert "Id=20\n" in found[f"{folder}eth7.20.netdev"]
        assert "VLAN=eth7.20\n" in found[f"{folder}eth7.network"]


@pytest.mark.parametrize(
    ("own", "peer", "length"),
    [
        ("10.78.0.1", "10.78.0.2", 30),
        ("10.78.0.3", "10.78.0.4", 29),
        ("10.78.0.4", "10.78.0.5", 29),  # no host has the first address of a network
        ("10.78.0.1", "10.78.0.9", 28),
    ],
)
def test_the_nodes_own_link_holds_both_ends(files, own, peer, length):
    """The pillar has no network for it."""
    changes = SITE | {"nodes:gw1:sync": own, "nodes:gw2:sync": peer}
    assert (
        f"address {own}/{length}\n"
        in files("ifupdown", changes)["/etc/network/interfaces.d/gateway"]
    )
    network = ip_network(f"{own}/{length}", strict=False)
    assert {own, peer} <= {str(host) for host in network.hosts()}


# --------------------------------------------------------------------------------------------------
# The function


def test_one_kind_or_all_of_them(module, node):
    everything = module.interfaces(router="198.51.100.254")
    assert list(everything) == ["ifupdown", "networkd", "netplan"]
    for kind, texts in everything.items():
        assert module.interfaces(kind, router="198.51.100.254") == texts
    assert module.interfaces("netplan", node="gw2") != module.interfaces("netplan")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"kind": "interfaces"}, "kind: interfaces is not one of ifupdown, networkd, netplan"),
        ({"router": "198.51.100"}, "router: 198.51.100 is not an IPv4 address"),
        ({"router": 3325256958}, "router: 3325256958 is not an IPv4 address"),
    ],
)
def test_wrong_arguments(module, node, arguments, error):
    with pytest.raises(SaltInvocationError, match=error):
        module.interfaces(**arguments)


def test_a_state_that_writes_them(module, node, root):
    """As the page about it has it."""
    page = (root / "docs/getting-started.md").read_text()
    [sls] = re.findall(r"(?s)```jinja\n(# /srv/salt/interfaces.sls\n.*?)```", page)
    text = jinja2.Template(sls).render(salt={"gateway.interfaces": module.interfaces})
    states = yaml.safe_load(text)
    files = module.interfaces("netplan", router="198.51.100.254")
    assert list(states) == list(files)
    for path, state in states.items():
        [arguments] = state.values()
        assert arguments[0] == {"contents": files[path]}
