"""Nodes as other systems make them: the network managed by ifupdown, by NetworkManager, and by
netplan with systemd-resolved, as Ubuntu has it. The manager brings the cards up at each boot."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import checks
import pytest
from conftest import converge, ok, snapshot, wait_for_primary
from lab import Host, Lab, ProbeResult
from test_clean import LEFT, kernel

pytestmark = pytest.mark.long

INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get -qqy --no-install-recommends install"
# The lab gives cards their addresses before a machine boots. A manager is to find them bare.
BARE = """\
[Unit]
DefaultDependencies=no
Before=network-pre.target
Wants=network-pre.target
[Service]
Type=oneshot
ExecStart=sh -c 'for card in eth0 eth1; do ip address flush $card; ip link set $card down; done'
[Install]
WantedBy=sysinit.target
"""
# What the kernel here has no VLANs for is read all the same.
VLANS = {
    "networks": {
        name: {"interface": interface, "network": f"10.{n}.0.0/24", "virtual_ip": f"10.{n}.0.1"}
        for n, name, interface in ((20, "guest", "eth0.20"), (30, "voice", "bond0.30"))
    }
}
CONNECTION = """\
[connection]
id={0}
type=ethernet
interface-name={1}
[ipv4]
method=manual
address1={2}
[ipv6]
method=disabled
"""
NETWORK_MANAGER = {
    f"/etc/NetworkManager/system-connections/{name}.nmconnection": CONNECTION.format(name, *rest)
    for name, *rest in (
        ("lan", "eth0", "10.77.0.2/24"),
        ("wan", "eth1", "198.51.100.2/24,198.51.100.100"),
    )
}
# Without the cards' MAC addresses, by which cloud-init names them: a cable of the lab has none that
# is permanent. It asks DHCP on each card, which what gateway.interfaces says puts an end to.
UBUNTU = {
    "/etc/netplan/50-cloud-init.yaml": """\
# This file is generated from information provided by the datasource.
network:
    version: 2
    ethernets:
        eth0: {dhcp4: true}
        eth1:
            dhcp4: true
            nameservers: {addresses: [198.51.100.100], search: [cloud.example]}
""",
    "/etc/cloud/cloud.cfg": "preserve_hostname: false\nmanage_etc_hosts: true\n",
    "/etc/network/interfaces.d/50-cloud-init": "auto eth0\niface eth0 inet dhcp\n",
}
# Milliseconds. The monitor sees that the uplink is gone, and the peer takes over; each takes longer
# where much else runs. Without that it would be the two seconds for which the uplink is away.
UPLINK = 1000
# What the manager has, and whom the node asks for names.
THEIRS = """
find /etc/netplan /etc/cloud /etc/network/interfaces.d /etc/ufw -type f -exec sha256sum {} +
readlink /etc/resolv.conf; grep -v '^#' /run/systemd/resolve/resolv.conf
/usr/lib/systemd/systemd-networkd-wait-online --timeout=30
networkctl --no-legend list 'eth*' | awk '{ $1 = ""; print }' # the first is a number of this boot's
"""


@contextmanager
def managed(lab: Lab, packages: str, files: dict[str, str], units: str = "") -> Iterator[Host]:
    """A new gw1, booted with a network that these packages manage; afterwards one without them."""
    gw1 = lab.host("gw1")
    lab.renew("gw1")
    try:
        gw1.run(f"{INSTALL} {packages} >/dev/null", timeout=180)
        for path, text in files.items():
            gw1.write(path, text, 0o600)
        gw1.write("/etc/systemd/system/lab-bare.service", BARE)
        gw1.run(f"systemctl -q enable lab-bare {units}")
        gw1.restart()
        lab.wait_minions(180)
        yield gw1
    finally:
        lab.set_pillar({})
        lab.renew("gw1")
        converge(lab)


def told(lab: Lab, kind: str) -> dict[str, str]:
    """What gateway.interfaces says for gw1, by the names of the files."""
    answer = lab.salt("gw1", "gateway.interfaces", kind, f"router={checks.INTERNET}")["gw1"]
    assert isinstance(answer, dict), answer
    return answer


@contextmanager
def told_of_vlans(lab: Lab, kind: str) -> Iterator[dict[str, str]]:
    """The same for a site with VLANs, in files below /tmp/told of gw1."""
    lab.set_pillar({"gateway": VLANS})
    files = told(lab, kind)
    lab.set_pillar({})
    for path, text in files.items():
        lab.host("gw1").write(f"/tmp/told{path}", text, 0o600)
    yield files
    lab.host("gw1").run("rm -r /tmp/told")


def under_probe(lab: Lab, command: str) -> ProbeResult:
    """What became of the datagrams through the gateway while a command ran on gw1, and until gw1
    has the virtual IP and the routes, as before."""
    gw1 = lab.host("gw1")
    with lab.probe() as probe:
        time.sleep(0.5)
        gw1.run(command)
        time.sleep(3)
        wait_for_primary(lab)
        assert gw1.run("ip -4 route show proto 119").stdout.startswith("10.8.1.0/24 via")
        time.sleep(1)
    print(f"{command}: {[round(outage.ms) for outage in probe.result.all_outages]} ms")
    return probe.result


def well(lab: Lab) -> None:
    """gw1 is in charge and in good health, and an apply has nothing to do."""
    wait_for_primary(lab)
    assert lab.salt("gw1", "gateway.status")["gw1"]["problems"] == []
    assert checks.changes(ok(lab.apply("gw1"), "gw1")["gw1"]) == {}


def test_ifupdown(site: Lab) -> None:
    """Who takes a card down hands over to the peer; when it is back, so is all that was there."""
    with managed(site, "ifupdown", told(site, "ifupdown")) as gw1:
        ok(site.apply("gw1"), "gw1")
        well(site)
        with told_of_vlans(site, "ifupdown") as [path]:
            query = f"ifquery -i /tmp/told{path}"
            assert gw1.run(f"{query} --list -a").stdout.split() == [
                *("lo", "bond0", "eth0", "eth1", "bond0.30", "eth0.20")
            ]
            assert "address: 10.20.0.2\n" in gw1.run(f"{query} eth0.20").stdout
        for command, limit in (
            ("systemctl restart networking", 400),
            ("ifdown eth0; sleep 1; ifup eth0", 400),
            ("ifdown eth1; sleep 2; ifup eth1", UPLINK),
        ):
            assert under_probe(site, command).longest_outage_ms() <= limit, command
        # Who wants to lose nothing drains the node.
        with site.probe() as probe:
            time.sleep(0.5)
            assert site.salt("gw1", "gateway.drain")
            gw1.run("systemctl restart networking; sleep 2")
            assert site.salt("gw1", "gateway.undrain")
            wait_for_primary(site)
        assert probe.result.outages() == []
        well(site)


def test_networkmanager(site: Lab) -> None:
    """It takes nothing away unless it is told to bring a connection up anew."""
    with managed(site, "network-manager", NETWORK_MANAGER):
        ok(site.apply("gw1"), "gw1")
        well(site)
        for command in (
            "systemctl restart NetworkManager",
            "nmcli connection reload; nmcli general reload",
        ):
            result = under_probe(site, command)
            assert result.received == result.sent, command
        for command, limit in (
            ("nmcli device reapply eth0; nmcli device reapply eth1", 400),
            ("nmcli connection up lan", 400),
            ("nmcli connection up wan", UPLINK),
        ):
            assert under_probe(site, command).longest_outage_ms() <= limit, command
        well(site)


def test_ubuntu(site: Lab) -> None:
    packages = "apparmor netplan.io systemd-resolved ufw"
    files = UBUNTU | told(site, "netplan")
    with managed(site, packages, files, "systemd-networkd systemd-resolved") as gw1:
        # A container has no udev, which netplan tells of new rules.
        gw1.run("ln -s /usr/bin/true /usr/local/sbin/udevadm")
        before, theirs = snapshot(site, "gw1"), gw1.run(THEIRS).stdout
        assert "nameserver 198.51.100.100" in theirs
        site.set_pillar({"gateway": {"dns": {"forwarders": []}}})
        predicted = checks.changes(ok(site.apply(test=True))["gw1"])
        done = checks.changes(ok(site.apply())["gw1"])
        assert predicted.keys() <= done.keys()
        well(site)
        names_are_found(site, gw1)
        netplan_takes_nothing_away(site, gw1)

        gw1.restart()
        site.wait_minions(180)
        well(site)
        names_are_found(site, gw1)
        assert gw1.run(THEIRS).stdout.splitlines() == theirs.splitlines()
        vlans_are_read(site, gw1)

        ok(site.apply("gw1", "gateway.clean"), "gw1")
        left = gw1.run(LEFT, check=False).stdout.splitlines()
        # What somebody has written as gateway.interfaces says is theirs.
        assert [line for line in left if line not in files] == []
        assert kernel(snapshot(site, "gw1")) == kernel(before)
        assert gw1.run(THEIRS).stdout.splitlines() == theirs.splitlines()


def vlans_are_read(lab: Lab, gw1: Host) -> None:
    """By netplan, and by networkd, which says what it does not know."""
    with told_of_vlans(lab, "netplan"):
        gw1.run("netplan generate --root-dir /tmp/told")
        made = gw1.run("cat /tmp/told/run/systemd/network/*-eth0.20.netdev").stdout
        assert "Kind=vlan\n\n[VLAN]\nId=20\n" in made
    with told_of_vlans(lab, "networkd") as files:
        began = gw1.run("date +%s").stdout.strip()
        # Those of netplan come before ours, and stay in force.
        gw1.run("install -m 644 -t /run/systemd/network /tmp/told/etc/systemd/network/*")
        gw1.run("networkctl reload; sleep 1")
        said = gw1.run(f"journalctl -u systemd-networkd --since @{began} -o cat").stdout
        gw1.run("rm /run/systemd/network/50-gateway-*; networkctl reload")
    assert "/etc/systemd/network/50-gateway-eth0.20.netdev" in files
    assert [line for line in said.splitlines() if "50-gateway" in line] == []


def names_are_found(lab: Lab, gw1: Host) -> None:
    """By hosts and by the node, each by its own server. Ours asks the servers that resolved asks,
    and not resolved."""
    assert gw1.run("getent hosts www.example.net").stdout.split()[0] == checks.INTERNET
    gw1.run("systemctl stop systemd-resolved; systemctl restart gateway-dns")
    try:
        backend, server = lab.host("backend01"), checks.INTERNAL["gw1"]
        for name, address in (
            ("www.example.net", checks.INTERNET),
            ("www.example.internal", checks.BACKEND),
        ):
            ask = partial(checks.resolve, backend, name, server)
            assert checks.eventually(ask, address.__eq__, 10) == address
    finally:
        gw1.run("systemctl start systemd-resolved")


def netplan_takes_nothing_away(lab: Lab, gw1: Host) -> None:
    """Neither by itself nor by what it does when something has changed."""
    began = gw1.run("date +%s").stdout.strip()
    # To reconfigure an interface, older ones take its own addresses away for some 30 ms, whatever
    # KeepConfiguration says. The peer takes over.
    version = int(gw1.run("systemctl --version").stdout.split()[1])
    netplan = 5 if version >= 257 else 400
    for command, limit in (
        ("netplan apply", netplan),
        ("systemctl restart systemd-networkd", 5),
        ("sed -i s/cloud.example/other.example/ /etc/netplan/*.yaml; netplan apply", netplan),
        ("sed -i s/other.example/cloud.example/ /etc/netplan/*.yaml; netplan apply", netplan),
    ):
        assert under_probe(lab, command).longest_outage_ms() <= limit, command
    said = gw1.run(f"journalctl -u keepalived --since @{began} -o cat").stdout
    assert "BACKUP" not in said or version < 257
