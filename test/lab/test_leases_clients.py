"""Leases of real DHCP clients: dhclient, systemd-networkd, udhcpc and dhcpcd.

Each is in a network namespace of the backend with a card in the internal network. Those that no
image of a machine has, the gateways' image for tests has in a folder (Dockerfile).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import checks
import pytest
from conftest import GATEWAYS, converge, ok
from further import Station
from lab import LAB_NAME, Lab, on_switch, run
from test_failover import primary_cut_off
from test_leases import forget, in_sync, known, names

PLACE = "asker"  # the network namespace
MAC = "02:00:00:08:00:01"
SQUATTER = "squatter"  # one that uses an address that nobody has given it
FIRMWARE = "00:4c:4c:45:44:00:31"  # what a machine calls itself when it boots from the network
SYSTEM = "ff:08:00:00:01:00:04:6c:61:62"  # and what its system does
NAME = "notebook"
HOME = "/run/asker"  # what a client keeps, and its programs
PROGRAMS = "/opt/dhcp-clients"
WITHIN = 20.0  # seconds until a client has asked again; the slowest tries the dead node first
# A client asks its server again after 4 s, and all servers after 8 s.
TIMES = {"lease_time": "2m", "settings": {"dhcp-option": ["option:T1,4", "option:T2,8"]}}
SET_ADDRESS = f"""#!/bin/sh
# What dhclient (reason) and udhcpc ($1) call.
case "${{reason:-$1}}" in
PREINIT) ip link set eth0 up ;;
BOUND|RENEW|REBIND|REBOOT) ip -4 address replace "$new_ip_address/24" dev eth0 ;;
bound|renew) ip -4 address replace "$ip/24" dev eth0 ;;
EXPIRE|RELEASE|STOP|FAIL|deconfig) ip -4 address flush dev eth0 ;;
esac
case "${{reason:-$1}}" in
BOUND|RENEW|REBIND|REBOOT) echo "$new_dhcp_server_identifier" > {HOME}/server ;;
bound|renew) echo "$serverid" > {HOME}/server ;;
esac
"""


class Client:
    """A machine's DHCP client. `identifier`: hexadecimal, or "" for what it sends by itself."""

    name = ""
    gives_back = True  # when it is told to, it says so to its server

    def __init__(self, lab: Lab, identifier: str = "", host_name: str = NAME) -> None:
        self.lab, self.identifier, self.host_name = lab, identifier, host_name
        self.station = Station(PLACE)
        self.home = lab.host("backend01")

    def address(self) -> str:
        """What it has now, "" for none."""
        shown = self.station.run("ip -brief -4 address show dev eth0").stdout.split()
        return shown[2].partition("/")[0] if len(shown) > 2 else ""

    def has(self, wanted: str = "", seconds: float = 15) -> str:
        """Its address when it has one, or the wanted one."""
        return str(
            checks.eventually(self.address, lambda now: now and now in (wanted or now), seconds)
        )

    def start(self) -> None:
        """Switch it on."""
        raise NotImplementedError

    def stop(self) -> None:
        """Switch it off as a power failure does: it tells nobody, and its disk stays."""
        raise NotImplementedError

    def again(self) -> None:
        """Have it renew or rebind, where it does not soon enough by itself."""

    def release(self) -> None:
        raise NotImplementedError

    def off(self) -> None:
        """Without power it has no address."""
        self.stop()
        self.station.run("ip -4 address flush dev eth0")

    def reboot(self) -> None:
        self.off()
        self.start()


class Dhclient(Client):
    name = "dhclient"

    def _command(self, *more: str) -> list[str]:
        files = ["-cf", f"{HOME}/dhclient.conf", "-lf", f"{HOME}/leases", "-pf", f"{HOME}/pid"]
        return ["dhclient", "-4", *more, "-sf", f"{HOME}/set-address", *files, "eth0"]

    def start(self) -> None:
        lines = [f'send host-name "{self.host_name}";', "initial-interval 1;", "timeout 20;"]
        if self.identifier:
            lines.append(f"send dhcp-client-identifier {self.identifier};")
        self.home.write(f"{HOME}/dhclient.conf", "\n".join(lines) + "\n")
        self.station.run(self._command("-1", "-nw"))

    def stop(self) -> None:
        self.station.run(f"kill -9 $(cat {HOME}/pid)")

    def release(self) -> None:
        self.station.run(self._command("-r"))


class Udhcpc(Client):
    name = "udhcpc"

    def start(self) -> None:
        last = self.home.run(f"cat {HOME}/last", check=False).stdout.strip()
        # It is in /bin on Debian 12, and in /usr/bin on 13.
        folders = ":".join(f"{HOME}/programs/{folder}" for folder in ("bin", "usr/bin"))
        command = ["env", f"PATH={folders}:/usr/sbin:/usr/bin:/sbin:/bin", "busybox", "udhcpc"]
        command += ["-b", "-i", "eth0", "-t", "10"]
        command += ["-T", "1", "-A", "1", "-s", f"{HOME}/set-address", "-p", f"{HOME}/pid"]
        command += ["-a", *(["-r", last] if last else [])]
        command += ["-x", f"hostname:{self.host_name}"] if self.host_name else []
        command += ["-x", f"0x3d:{self.identifier.replace(':', '')}"] if self.identifier else []
        self.station.run(command)

    def stop(self) -> None:
        # After a reboot it asks anew, for this address.
        self.home.write(f"{HOME}/last", self.address())
        self.station.run(f"kill -9 $(cat {HOME}/pid)")

    def again(self) -> None:
        self.station.run(f"kill -USR1 $(cat {HOME}/pid)")

    def release(self) -> None:
        self.station.run(f"kill -USR2 $(cat {HOME}/pid)")


class Dhcpcd(Client):
    name = "dhcpcd"

    def _command(self, *more: str) -> str:
        # It keeps its files where no option says another place.
        mounts = "".join(
            f"mkdir -p {HOME}/{each} /{each}/dhcpcd; mount --bind {HOME}/{each} /{each}/dhcpcd; "
            for each in ("run", "var/lib")
        )
        words = [f"{HOME}/programs/usr/sbin/dhcpcd", "-4", "-f", f"{HOME}/dhcpcd.conf", *more]
        return f"{mounts} exec {' '.join(words)} eth0"

    def _run(self, *more: str) -> None:
        self.station.run(["unshare", "--mount", "sh", "-c", self._command(*more)])

    def start(self) -> None:
        lines = [f"hostname {self.host_name}", "duid", f"script {HOME}/nothing", "nodelay"]
        if self.identifier:
            lines[1] = f"clientid {self.identifier}"
        self.home.write(f"{HOME}/nothing", "#!/bin/sh\n", 0o755)
        self.home.write(f"{HOME}/dhcpcd.conf", "\n".join(lines) + "\n")
        self._run("-b")

    def stop(self) -> None:
        pids = f"ip netns pids {PLACE} | xargs -r ps -o pid=,args= | awk '/dhcpcd/ {{print $1}}'"
        self.home.run(f"kill -9 $({pids}); rm -rf {HOME}/run")

    def again(self) -> None:
        self._run("-n")

    def release(self) -> None:
        self._run("-k")


class Networkd(Client):
    name = "systemd-networkd"
    gives_back = False  # no DHCPRELEASE comes when it stops (252, 257)

    def start(self) -> None:
        lines = ["[Match]", "Name=eth0", "[Network]", "DHCP=ipv4", "LinkLocalAddressing=no"]
        lines += [
            "IPv6AcceptRA=no",
            "[DHCPv4]",
            f"Hostname={self.host_name}",
            "UseDNS=no",
            "UseHostname=no",
            "UseNTP=no",
        ]
        if self.identifier:
            lines.append("ClientIdentifier=mac")
        self.home.write("/run/systemd/network/10-asker.network", "\n".join(lines) + "\n")
        # udev of the host does not know the card, and is not asked where /sys cannot be written.
        # The socket's is the one by which it hears of cards.
        place = f"NetworkNamespacePath=/run/netns/{PLACE}\n"
        units = "/run/systemd/system/systemd-networkd"
        self.home.write(f"{units}.service.d/asker.conf", f"[Service]\nReadOnlyPaths=/sys\n{place}")
        self.home.write(f"{units}.socket.d/asker.conf", f"[Socket]\n{place}")
        self.home.run("systemctl daemon-reload; systemctl start systemd-networkd")

    def reboot(self) -> None:
        """It keeps no lease over a reboot; when its cable was out it asks as who does."""
        on_switch(f"link set {PLACE}-eth0 down")
        checks.eventually(self.address, lambda now: not now, 10)
        on_switch(f"link set {PLACE}-eth0 up")

    def again(self) -> None:
        self.station.run("networkctl renew eth0")

    def release(self) -> None:
        self.home.run("systemctl stop systemd-networkd.socket systemd-networkd")


CLIENTS = (Dhclient, Udhcpc, Dhcpcd, Networkd)


def take_programs(lab: Lab) -> None:
    """The backend gets the clients that its image has not."""
    gw1, backend = lab.host("gw1"), lab.host("backend01")
    run(
        [
            "sh",
            "-c",
            f"docker exec {gw1.container} tar -C {PROGRAMS} -c . |"
            f" docker exec -i {backend.container} sh -c"
            f" 'mkdir -p {HOME}/programs && tar -C {HOME}/programs -x'",
        ]
    )


@contextmanager
def plugged_in(lab: Lab, name: str = PLACE, mac: str = MAC) -> Iterator[None]:
    """A network namespace of the backend with a card in the internal network."""
    home = lab.host("backend01")
    end = f"{name}-eth0"
    home.run(f"ip netns add {name}; ip -n {name} link set lo up")
    try:
        on_switch(
            f"link add {end} type veth peer name {end} address {mac} netns {home.pid}",
            f"link set {end} master lan addrgenmode none up",
        )
        home.run(f"ip link set {end} netns {name} name eth0; ip -n {name} link set eth0 up")
        yield
    finally:
        run(["ip", "-n", LAB_NAME, "link", "del", end], check=False)
        home.run(f"ip netns pids {name} | xargs -r kill -9; ip netns del {name}", check=False)


@pytest.fixture(scope="module")
def quick(lab: Lab) -> Iterator[Lab]:
    """Clients ask again within seconds."""
    converge(lab)
    lab.set_pillar({"gateway": {"dhcp": TIMES}})
    ok(lab.apply())
    yield lab
    lab.set_pillar({})
    converge(lab)


@pytest.fixture
def place(quick: Lab) -> Iterator[Lab]:
    """Where a client can be; afterwards no lease is left."""
    in_sync(quick)
    backend = quick.host("backend01")
    take_programs(quick)
    backend.write(f"{HOME}/set-address", SET_ADDRESS, 0o755)
    with plugged_in(quick):
        yield quick
        # It would be started anew.
        backend.run("systemctl stop systemd-networkd.socket systemd-networkd")
    settings = "/run/systemd/network /run/systemd/system/systemd-networkd.*.d"
    backend.run(f"rm -rf {HOME} {settings}; systemctl daemon-reload")
    forget(quick)


def holders(lab: Lab, node: str) -> dict[str, str]:
    """From which node each lease is, as a node knows: nodes by addresses."""
    return {each["address"]: each["node"] for each in lab.salt(node, "gateway.leases")[node]}


def asks_again(client: Client, lab: Lab, node: str, address: str) -> str:
    """Have it ask again; its address when this node has renewed its lease."""
    client.again()
    served_by = checks.eventually(
        lambda: holders(lab, node).get(address), lambda now: now == node, WITHIN
    )
    assert served_by == node
    return client.address()


@pytest.mark.long
@pytest.mark.parametrize("kind", CLIENTS, ids=lambda kind: kind.name)
def test_a_client_keeps_its_address_and_its_name(place: Lab, kind: type[Client]) -> None:
    """While gw1 serves, dies and is back, whether it asks again or begins anew."""
    client = kind(place)
    client.start()
    address = client.has()
    assert address
    ask = partial(names, place, f"{NAME}.example.internal", address)
    there = [(address, f"{NAME}.example.internal.")] * 2
    assert checks.eventually(ask, lambda now: now == there, 1) == there
    with primary_cut_off(place):
        assert asks_again(client, place, "gw2", address) == address
        client.reboot()
        assert client.has(address, WITHIN) == address
        assert asks_again(client, place, "gw2", address) == address
    in_sync(place)
    assert asks_again(client, place, "gw1", address) == address
    client.reboot()
    assert client.has(address, WITHIN) == address
    assert checks.eventually(ask, lambda now: now == there, 1) == there
    client.release()
    if not client.gives_back:
        return
    gone = [("", "")] * 2
    assert checks.eventually(ask, lambda now: now == gone, 2) == gone
    for name in GATEWAYS:
        assert address not in known(place, name)


@pytest.mark.long
def test_a_machine_with_two_identifiers(place: Lab) -> None:
    """Its firmware and its system are two clients. Each gets an address and keeps it, and the name
    is where the machine is now."""
    firmware = Udhcpc(place, FIRMWARE)
    firmware.start()
    booting = firmware.has()
    firmware.off()
    system = Dhclient(place, SYSTEM)
    system.start()
    address = system.has()
    assert booting
    assert address not in ("", booting)
    ask = partial(names, place, f"{NAME}.example.internal", address)
    there = [(address, f"{NAME}.example.internal.")] * 2
    assert checks.eventually(ask, lambda now: now == there, 1) == there
    for name in GATEWAYS:
        both = {each: mac for each, mac in known(place, name).items() if mac == MAC}
        assert both == {booting: MAC, address: MAC}
    with primary_cut_off(place):
        assert asks_again(system, place, "gw2", address) == address
        system.off()
        firmware.start()
        assert firmware.has(booting, WITHIN) == booting
        firmware.off()
        system.start()
        assert system.has(address, WITHIN) == address


@pytest.mark.long
def test_an_address_that_somebody_uses_is_declined(place: Lab) -> None:
    """Somebody who has no lease of it; the client gets another one."""
    client = Udhcpc(place)
    client.start()
    first = client.has()
    client.release()
    assert checks.eventually(lambda: known(place, "gw2"), lambda now: first not in now, 5)
    client.off()
    with plugged_in(place, SQUATTER, "02:00:00:08:00:02"):
        Station(SQUATTER).run(f"ip address add {first}/24 dev eth0")
        client.start()
        second = client.has(seconds=WITHIN)
        assert second not in ("", first)
        for name in GATEWAYS:
            assert known(place, name).get(second) == MAC
            assert first not in known(place, name)
