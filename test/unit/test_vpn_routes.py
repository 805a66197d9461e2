"""vpn-routes: routes to the networks behind VPN clients."""

import os
import subprocess
import time
from types import SimpleNamespace

import pytest

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
