"""vpn-routes: routes to the networks behind VPN clients."""

import os
import re
import subprocess
import time
from types import SimpleNamespace

import pytest
from rendered import SITES

pytestmark = pytest.mark.scripts


@pytest.fixture
def vpn_routes(root, tmp_path, tool):
    """The script on a node with two VPN servers, and what it has `ip` do."""
    done = tmp_path / "done"
    done.touch()
    tool(
        "ip",
        'case "$*" in *show*) echo "10.9.9.0/25 dev vpn-old scope link"; '
        f"echo >>{tmp_path}/shown;; *) cat >>{done};; esac",
    )
    text = (root / "gateway/openvpn/files/vpn-routes").read_text()
    script = tmp_path / "vpn-routes"
    script.write_text(
        text.replace("/run/gateway", f"{tmp_path}/run/gateway").replace("/etc/", f"{tmp_path}/etc/")
    )
    for server in ("main", "two"):
        (tmp_path / f"run/gateway-{server}/sessions").mkdir(parents=True)
    networks = tmp_path / "etc/gateway/vpn-networks"
    networks.parent.mkdir(parents=True)
    networks.write_text(
        "# comment\n"
        "10.50.0.0/25 branch\n10.50.0.128/25 branch\n"
        "10.60.0.1/32 host\n10.60.0.1/32 ou_Jörg Doe\n"
    )

    def run_it(count, meanwhile=None):
        process = subprocess.Popen(["perl", script], stderr=subprocess.PIPE, text=True)
        try:
            end = time.monotonic() + 10
            while meanwhile and time.monotonic() < end:
                if done.read_text():
                    meanwhile()
                    break
                time.sleep(0.05)
            while done.read_text().count("\n") < count and time.monotonic() < end:
                time.sleep(0.05)
        finally:
            process.kill()
        assert process.communicate()[1] == ""
        return sorted(done.read_text().splitlines())

    return SimpleNamespace(run=run_it, notes=tmp_path / "run", folder=tmp_path, networks=networks)


def test_routes_to_networks_of_who_is_connected(vpn_routes):
    (vpn_routes.notes / "gateway-main/sessions/10.8.0.5").write_text("7 branch\n")
    (vpn_routes.notes / "gateway-main/sessions/10.8.0.6").write_text("8 nobody\n")
    (vpn_routes.notes / "gateway-two/sessions/10.9.0.5").write_text("9 ou/Jörg Doe\n")
    assert vpn_routes.run(4) == [
        "route del 10.9.9.0/25 dev vpn-old proto 120",
        "route replace 10.50.0.0/25 dev vpn-main proto 120",
        "route replace 10.50.0.128/25 dev vpn-main proto 120",
        "route replace 10.60.0.1 dev vpn-two proto 120",
    ]


def test_the_kernel_is_asked_when_somebody_comes_and_seldom_else(vpn_routes):
    shown = vpn_routes.folder / "shown"

    def come():
        time.sleep(1.6)
        assert len(shown.read_text().splitlines()) == 1
        (vpn_routes.notes / "gateway-two/sessions/10.9.0.5").write_text("9 host\n")

    start = time.monotonic()
    assert "route replace 10.60.0.1 dev vpn-two proto 120" in vpn_routes.run(3, come)
    assert time.monotonic() - start < 4.5  # not at the next look without a reason, after five
    assert len(shown.read_text().splitlines()) == 2


def test_networks_that_come_to_a_client_who_is_connected(vpn_routes):
    """With an apply, which puts another file in the place of the old one."""

    def apply():
        new = vpn_routes.folder / "new"
        new.write_text("10.70.0.0/25 branch\n10.70.0.128/25 branch\n")
        new.replace(vpn_routes.networks)

    (vpn_routes.notes / "gateway-main/sessions/10.8.0.5").write_text("7 branch\n")
    # The stand-in for `ip` always shows the same routes.
    assert vpn_routes.run(6, apply) == [
        *("route del 10.9.9.0/25 dev vpn-old proto 120" for _ in range(2)),
        *(
            f"route replace {network} dev vpn-main proto 120"
            for network in ("10.50.0.0/25", "10.50.0.128/25", "10.70.0.0/25", "10.70.0.128/25")
        ),
    ]


def test_a_note_that_is_none_does_no_harm(vpn_routes):
    """OpenVPN, which has no privileges, can put anything there: it is not followed, waited for, or
    read to its end."""
    notes = vpn_routes.notes / "gateway-main/sessions"
    (vpn_routes.folder / "outside").write_text("7 branch\n")
    (notes / "link").symlink_to(vpn_routes.folder / "outside")
    os.mkfifo(notes / "pipe")
    (notes / "folder").mkdir()
    (notes / "large").touch()
    os.truncate(notes / "large", 1 << 40)
    (notes / "path").write_text("7 ../two/host\n")
    (notes / "none").touch()
    (vpn_routes.notes / "gateway-two/sessions/10.9.0.5").write_text("9 host\n")
    assert vpn_routes.run(2) == [
        "route del 10.9.9.0/25 dev vpn-old proto 120",
        "route replace 10.60.0.1 dev vpn-two proto 120",
    ]


# Own addresses, and a host of each network.
INTERFACES = {
    "eth0": ("10.77.0.2/24", "10.77.0.10"),
    "eth0.20": ("10.20.0.7/24", "10.20.0.60"),
    "eth3": ("10.30.0.2/24", "10.30.0.11"),
    "eth4": ("203.0.113.18/28", "203.0.113.20"),
    "vpn-main": ("10.8.0.1/24", "10.8.0.6"),
    "vpn-second": ("10.9.0.1/24", "10.9.0.6"),
}
PEERS = {"eth0": "10.77.0.3", "eth0.20": "10.20.0.3", "eth3": "10.30.0.3", "eth4": "203.0.113.19"}
LOCAL = list(PEERS)


@pytest.fixture
def kernel(root, tmp_path, render):
    """gw1 of a site with further networks and networks behind clients, as the kernel has it."""
    if os.geteuid() != 0:
        pytest.skip("only root has a network of its own")
    found = render(
        "networks",
        changes={
            **SITES["networks"],
            "vpn:clients": {"branch": {"id": 9, "networks": ["10.60.0.0/24", "10.61.0.6/31"]}},
            "vpn:servers:second": {"network": "10.9.0.0/16", "port": 1195},
        },
    )
    etc = tmp_path / "etc/gateway"
    etc.mkdir(parents=True)
    for name in ("routes", "vpn-networks"):
        (etc / name).write_text(found.files[f"/etc/gateway/{name}"])
    for server in ("main", "second"):
        (tmp_path / f"run/gateway-{server}/sessions").mkdir(parents=True)
    script = tmp_path / "vpn-routes"
    text = (root / "gateway/openvpn/files/vpn-routes").read_text()
    script.write_text(
        text.replace("/run/gateway", f"{tmp_path}/run/gateway").replace("/etc/", f"{tmp_path}/etc/")
    )
    holder = subprocess.Popen(["unshare", "--net", "sleep", "60"])
    inside = ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
    end = time.monotonic() + 4
    while os.readlink(f"/proc/{holder.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
        assert time.monotonic() < end
        time.sleep(0.01)

    def run(text, *options):
        command = [*inside, "ip", *options, "-batch", "-"]
        return subprocess.run(
            command, input=text, capture_output=True, text=True, check=True
        ).stdout

    for number, (interface, (address, _)) in enumerate(INTERFACES.items()):
        run(
            f"link add {interface} type veth peer name peer{number}\n"
            f"link set peer{number} up\nlink set {interface} up\n"
            f"address add {address} dev {interface}\n"
        )
    subprocess.run([*inside, "sysctl", "-qw", "net.ipv4.ip_forward=1"], check=True)
    run((etc / "routes").read_text(), "-force")
    process = subprocess.Popen([*inside, "perl", script])

    def way(interface, destination):
        """Where a packet of a network's host goes."""
        source = INTERFACES[interface][1]
        said = run(f"route get {destination} from {source} iif {interface}\n")
        found = re.search(r" from \S+ (?:via (\S+) )?dev (\S+)", said)
        assert found, said
        return found[2] if found[1] is None else f"{found[2]} {found[1]}"

    def wait(expected):
        """``expected``: of each way, by interface and destination."""
        end = time.monotonic() + 8
        while (ways := {each: way(*each) for each in expected}) != expected:
            assert time.monotonic() < end, ways
            time.sleep(0.05)

    yield SimpleNamespace(
        wait=wait,
        way=way,
        run=run,
        routes=etc / "routes",
        unit=found.files["/etc/systemd/system/gateway-vpn-routes.service"],
        process=process,
        connect=lambda server: (tmp_path / f"run/gateway-{server}/sessions/10.8.0.9").write_text(
            "7 branch\n"
        ),
        leave=lambda server: (tmp_path / f"run/gateway-{server}/sessions/10.8.0.9").unlink(),
    )
    for each in (process, holder):
        each.kill()
        each.wait()


BEHIND = ("10.60.0.9", "10.60.0.201", "10.61.0.7")
HERE = {(interface, behind): "vpn-main" for interface in LOCAL for behind in BEHIND}
BY_THE_PEER = {(interface, behind): f"{interface} {PEERS[interface]}" for interface, behind in HERE}


def test_ways_between_all_networks_and_those_behind_clients(kernel):
    """For a host of a further network a client is where it is for an internal one: here,
    or at the peer, whose address in that network is the next hop."""
    own = {(interface, "10.8.0.6"): "vpn-main" for interface in LOCAL}
    peers = {(interface, "10.8.1.6"): f"{interface} {PEERS[interface]}" for interface in LOCAL}
    others = {
        (came, INTERFACES[goes][1]): goes for came in INTERFACES for goes in LOCAL if came != goes
    }
    router = {(interface, "10.50.0.9"): "eth0 10.77.0.254" for interface in LOCAL}
    always = {**own, **peers, **others, **router}
    kernel.wait({**always, **BY_THE_PEER})
    kernel.connect("main")
    kernel.wait({**always, **HERE})
    # From the clients' side the way to the peer's clients is the internal network.
    kernel.wait(
        {("vpn-main", "10.8.1.6"): "eth0 10.77.0.3", ("vpn-second", "10.60.0.9"): "vpn-main"}
    )
    kernel.leave("main")
    kernel.wait({**always, **BY_THE_PEER})
    assert kernel.run("route show table all proto 120") == ""


def test_a_client_that_comes_by_another_server(kernel):
    kernel.connect("main")
    kernel.wait(HERE)
    kernel.leave("main")
    kernel.connect("second")
    kernel.wait(dict.fromkeys(HERE, "vpn-second"))


def test_a_way_back_that_comes_while_a_client_is_connected(kernel):
    text = kernel.routes.read_text()
    table = next(
        word for line in text.splitlines() if "iif eth3" in line for word in [line.split()[7]]
    )
    kernel.routes.write_text(
        "".join(line for line in text.splitlines(keepends=True) if table not in line)
    )
    kernel.connect("main")
    kernel.wait({way: to for way, to in HERE.items() if way[0] != "eth3"})
    assert kernel.run(f"route show table {table} proto 120") == ""
    new = kernel.routes.with_name("new")
    new.write_text(text)
    new.replace(kernel.routes)
    kernel.wait(HERE)
    kernel.routes.unlink()
    end = time.monotonic() + 4
    while kernel.run(f"route show table {table} proto 120"):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert "10.60.0.0/25 dev vpn-main" in kernel.run("route show proto 120")


def test_nothing_stays_when_it_is_stopped(kernel):
    kernel.connect("main")
    kernel.wait(HERE)
    kernel.process.kill()
    kernel.process.wait()
    [command] = re.findall(r"(?m)^ExecStopPost=-ip (.+)$", kernel.unit)
    kernel.run(command)
    kernel.wait(BY_THE_PEER)
