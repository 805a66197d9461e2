"""VPN servers: plan and status."""

import os
import socket
import threading
import time
from contextlib import suppress

import _gateway_machine
import _gateway_vpn
import pytest
from on_node import PRIVATE_KEY, SECRET_TEXT

# --------------------------------------------------------------------------------------------------
# What is planned

REJECTED = {
    "unknown key": (
        {"vpn:servers:main:prot": "udp"},
        "vpn:servers:main:prot",
        'unknown key; did you mean "proto"?',
    ),
    "unknown node in subnets": (
        {"vpn:servers:main:subnets": {"gw3": "10.8.9.0/24"}},
        "vpn:servers:main:subnets:gw3",
        'unknown key; did you mean "gw2"?',
    ),
    # networks
    "network without a prefix length": (
        {"vpn:servers:main:network": "10.8.0.0"},
        "vpn:servers:main:network",
        "10.8.0.0 has no prefix length; write it as in 10.77.0.0/24",
    ),
    "VPN overlaps the internal network": (
        {"vpn:servers:main:network": "10.77.0.0/16"},
        "vpn:servers:main:network",
        "10.77.0.0/16 overlaps 10.77.0.0/24 of gateway:internal:network",
    ),
    "VPN overlaps the public network": (
        {"vpn:servers:main:network": "198.51.0.0/16"},
        "vpn:servers:main:network",
        "198.51.0.0/16 overlaps 198.51.100.0/24 of gateway:public:network",
    ),
    "VPN servers overlap": (
        {"vpn:servers:second": {"network": "10.8.128.0/17", "port": 1195}},
        "vpn:servers:second:network",
        "10.8.128.0/17 overlaps 10.8.0.0/16 of gateway:vpn:servers:main:network",
    ),
    # VPN blocks
    "too many nodes for the prefix": (
        {"vpn:servers:main:network": "10.8.0.0/24"},
        "vpn:servers:main:network",
        "10.8.0.0/24 has room for 1 subnet of /24; node gw2 has id 2:"
        " a network of /23 or prefix 25 would do",
    ),
    "id too high for the prefix": (
        {"vpn:servers:main:network": "10.8.0.0/23", "nodes:gw2:id": 5},
        "vpn:servers:main:network",
        "10.8.0.0/23 has room for 2 subnets of /24; node gw2 has id 5:"
        " a network of /21 or prefix 26 would do",
    ),
    "id too high for any prefix": (
        {
            "vpn:servers:main:network": "10.8.0.0/28",
            "vpn:servers:main:prefix": 28,
            "nodes:gw2:id": 5,
        },
        "vpn:servers:main:network",
        "10.8.0.0/28 has room for 1 subnet of /28; node gw2 has id 5: a network of /25 would do",
    ),
    "prefix shorter than the network": (
        {"vpn:servers:main:network": "10.8.0.0/25"},
        "vpn:servers:main:prefix",
        "a /24 does not fit into 10.8.0.0/25: a network of /23 or prefix 26 would do",
    ),
    "prefix that OpenVPN refuses": (
        {"vpn:servers:main:prefix": 30},
        "vpn:servers:main:prefix",
        "30 is not in 16 to 29",
    ),
    "subnet outside the server's network": (
        {"vpn:servers:main:subnets": {"gw2": "10.9.0.0/24"}},
        "vpn:servers:main:subnets:gw2",
        "10.9.0.0/24 is not inside 10.8.0.0/16",
    ),
    "subnet of another node": (
        {"vpn:servers:main:subnets": {"gw2": "10.8.0.128/25"}},
        "vpn:servers:main:subnets:gw2",
        "10.8.0.128/25 overlaps 10.8.0.0/24 of node gw1",
    ),
    "subnet too small": (
        {"vpn:servers:main:subnets": {"gw2": "10.8.9.0/30"}},
        "vpn:servers:main:subnets:gw2",
        "10.8.9.0/30 is not a /16 to /29",
    ),
    # one value, and not several
    "list for one number": (
        {"vpn:servers:main:prefix": [24, 25]},
        "vpn:servers:main:prefix",
        "must be one whole number, is a list",
    ),
    # DNS and DHCP
    "route to everything": (
        {"vpn:servers:main:routes": ["0.0.0.0/0"]},
        "vpn:servers:main:routes:0",
        "0.0.0.0/0 is everything; use full_tunnel",
    ),
    "route that holds the server": (
        {"vpn:servers:main:routes": ["172.16.0.0/16", "198.51.100.2/32"]},
        "vpn:servers:main:routes:1",
        "198.51.100.2/32 holds 198.51.100.2, where clients find gw1: their tunnel would lead into"
        " itself",
    ),
    "route that holds where clients find a node": (
        {"nodes:gw2:remote": "203.0.113.9", "vpn:servers:main:routes": "203.0.113.0/24"},
        "vpn:servers:main:routes",
        "203.0.113.0/24 holds 203.0.113.9, where clients find gw2: their tunnel would lead into"
        " itself",
    ),
    "route that holds the public virtual IP": (
        {
            "public:virtual_ip": "198.51.100.10",
            "vpn:servers:main:routes": ["198.51.100.8/29"],
        },
        "vpn:servers:main:routes:0",
        "198.51.100.8/29 holds 198.51.100.10, where clients find the virtual IP: their tunnel would"
        " lead into itself",
    ),
    "word in capitals": (
        {"vpn:servers:main:proto": "UDP"},
        "vpn:servers:main:proto",
        'UDP is none of udp, tcp; did you mean "udp"?',
    ),
    "VPN server with two ports": (
        {"vpn:servers:main:port": [1194, 443]},
        "vpn:servers:main:port",
        "must be one whole number, is a list; another one is another server of gateway:vpn:servers",
    ),
    "VPN server with both protocols": (
        {"vpn:servers:main:proto": "both"},
        "vpn:servers:main:proto",
        "both is none of udp, tcp; another one is another server of gateway:vpn:servers",
    ),
    "comment in a setting": (
        {"vpn:servers:main:settings": {"setenv": "name value # why"}},
        "vpn:servers:main:settings:setenv",
        "name value # why has a comment in it (#), which the daemon would leave out",
    ),
    "same port of two servers": (
        {"vpn:servers:second": {"network": "10.9.0.0/16"}},
        "vpn:servers:second:port",
        "port 1194/udp is taken already, by gateway:vpn:servers:main:port",
    ),
    # names
    "server name": (
        {"vpn:servers:Main": {}},
        "vpn:servers:Main",
        "Main is not a server name (small letters, digits, hyphens)",
    ),
    "server name too long for a device": (
        {"vpn:servers:headquarters": {}},
        "vpn:servers:headquarters",
        "headquarters is longer than 11 characters",
    ),
    # forwards
    "port of a VPN server": (
        {"vpn:servers:main:port": -1},
        "vpn:servers:main:port",
        "-1 is not in 1 to 65535",
    ),
    # the rest of the firewall
    "full tunnel": (
        {"vpn:servers:main:full_tunnel": "yes"},
        "vpn:servers:main:full_tunnel",
        "must be true or false, is text (yes)",
    ),
    # the rest of the services
    "value of a setting": (
        {"vpn:servers:main:settings": {"push": {"route": 1}}},
        "vpn:servers:main:settings:push",
        "must be text, a number, true, or a list of these; is a mapping",
    ),
    **{
        f"network of no hosts: {network}": (
            {"vpn:servers:main:network": network},
            "vpn:servers:main:network",
            f"{network} overlaps {other}, of which no host has an address",
        )
        for network, other in {
            "127.0.0.0/16": "127.0.0.0/8",
            "224.0.0.0/16": "224.0.0.0/4",
            "240.0.0.0/16": "240.0.0.0/4",
            "0.0.0.0/16": "0.0.0.0/8",
            "169.254.0.0/16": "169.254.0.0/16",
            "126.0.0.0/7": "127.0.0.0/8",
        }.items()
    },
    "device that is there already": (
        {"nodes:gw2:internal_interface": "vpn-main"},
        "vpn:servers:main",
        "its device would be vpn-main, an interface of gw2 already",
    ),
}


@pytest.mark.parametrize(("changes", "key", "message"), REJECTED.values(), ids=REJECTED)
def test_rejected(errors, changes, key, message):
    """A mistake is one error, and it names the key of the pillar that is wrong."""
    assert errors(changes) == [f"gateway:{key}: {message}"]


def test_vpn_and_routes(plan):
    found = plan(node="gw2")
    assert found["vpn"]["servers"] == [
        {
            "name": "main",
            "instance": "gateway-main",
            "device": "vpn-main",
            "port": 1194,
            "proto": "udp",
            "network": "10.8.0.0/16",
            "subnet": "10.8.1.0/24",
            "subnet_address": "10.8.1.0",
            "netmask": "255.255.255.0",
            "address": "10.8.1.1",
            "pushes": [
                "route 10.77.0.0 255.255.255.0",
                "route 10.8.0.0 255.255.0.0",
                "dhcp-option DNS 10.77.0.1",
                "dhcp-option DOMAIN example.internal",
            ],
            "full_tunnel": False,
            "block_ipv6": False,
            "routes": [],
            "dynamic": True,
            "dynamic_range": ["10.8.1.128", "10.8.1.254"],
            "auth": None,
            "clients": [],
            "client_pushes": [],
            "settings": [],
        }
    ]
    assert found["routes"] == [{"destination": "10.8.0.0/24", "via": "10.77.0.2"}]


def test_a_server_pushes_no_route_to_its_own_subnet(plan):
    changes = {"nodes:gw2": ..., "vpn:servers:main:network": "10.8.0.0/24"}
    [server] = plan(changes)["vpn"]["servers"]
    assert server["pushes"][:-2] == ["route 10.77.0.0 255.255.255.0"]


def test_override_of_a_subnet(plan):
    changes = {"vpn:servers:main:subnets": {"gw2": "10.8.128.0/20"}}
    [server] = plan(changes, "gw2")["vpn"]["servers"]
    assert (server["subnet"], server["address"]) == ("10.8.128.0/20", "10.8.128.1")
    assert server["netmask"] == "255.255.240.0"
    assert plan(changes, "gw1")["routes"] == [{"destination": "10.8.128.0/20", "via": "10.77.0.3"}]
    assert plan(changes, "gw1")["vpn"]["servers"][0]["subnet"] == "10.8.0.0/24"


# --------------------------------------------------------------------------------------------------
# How a node is doing

TOKEN = (
    f"-----BEGIN OpenVPN auth-token server key-----\n{SECRET_TEXT}\n"
    "-----END OpenVPN auth-token server key-----\n"
)


def test_vpn_subnets(module, node, break_pillar):
    second = {"network": "10.9.0.0/16", "prefix": 24, "port": 1195, "proto": "tcp"}
    break_pillar({"vpn:servers:second": second, "vpn:servers:main:subnets": {"gw2": "10.8.9.0/24"}})
    assert module.vpn_subnets() == {
        "main": {"gw1": "10.8.0.0/24", "gw2": "10.8.9.0/24"},
        "second": {"gw1": "10.9.0.0/24", "gw2": "10.9.1.0/24"},
    }
    break_pillar({"vpn": ...})
    assert module.vpn_subnets() == {}


def test_a_pam_service_that_is_not_there(module, node, break_pillar, monkeypatch, tmp_path):
    monkeypatch.setattr(_gateway_vpn, "PAM", (str(tmp_path / "etc"), str(tmp_path / "lib")))
    break_pillar({"vpn:servers:main:auth": {"pam": "openvpn"}, "vpn:pki:auth_token": TOKEN})
    assert module.validate() == [
        f"gateway:vpn:servers:main:auth:pam: {tmp_path}/etc/openvpn is not there on this node;"
        " nobody gets in"
    ]
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/openvpn").touch()
    assert module.validate() == []


def test_who_is_connected(module, node, monkeypatch, tmp_path):
    """As OpenVPN says through its management socket; who is not let in yet has no address."""
    monkeypatch.chdir(tmp_path)  # a path that is short enough for a socket
    monkeypatch.setattr(_gateway_vpn, "MANAGEMENT", "{instance}")
    rows = [">INFO:hello", "TITLE\tOpenVPN", "HEADER\tCLIENT_LIST\tCommon Name"]
    for name, address in [("alice", "10.8.0.5"), ("alice", "10.8.0.130"), ("UNDEF", "")]:
        rows.append(f"CLIENT_LIST\t{name}\t192.0.2.1:5000\t{address}\t\t1")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("gateway-main")
        listener.listen()

        def answer():
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(100) == b"status 3\n"
                connection.sendall("\r\n".join([*rows, "END", ""]).encode())
                connection.recv(1)

        server = threading.Thread(target=answer)
        server.start()
        found = module.status()["vpn"]["main"]["clients"]
        server.join()
    assert found == {"alice": ["10.8.0.5", "10.8.0.130"]}


@pytest.mark.parametrize("talk", ["endless", "slow", "short"])
def test_who_is_connected_is_asked_for_a_while(module, node, monkeypatch, tmp_path, talk):
    """Whoever has taken over OpenVPN, which has no privileges, shall not hold up the status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_gateway_vpn, "MANAGEMENT", "{instance}")
    monkeypatch.setattr(_gateway_vpn, "MANAGEMENT_SECONDS", 30 if talk == "endless" else 0.5)
    monkeypatch.setattr(_gateway_vpn, "MANAGEMENT_SIZE", 100_000)
    text = {"endless": 20_000 * b"x", "slow": b"x\n", "short": b"CLIENT_LIST\nEND\n"}[talk]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("gateway-main")
        listener.listen()

        def answer():
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                while True:
                    connection.sendall(text)
                    time.sleep(0.05)

        server = threading.Thread(target=answer)
        server.start()
        begin = time.monotonic()
        assert module.status()["vpn"]["main"]["clients"] == {}
        assert time.monotonic() - begin < 3
        server.join()


@pytest.mark.parametrize("home", ["/root", "/home/alice", "/run/user/0"])
def test_what_openvpn_s_unit_does_not_see(module, node, break_pillar, monkeypatch, home):
    there = _gateway_machine.file_text
    monkeypatch.setattr(
        _gateway_machine, "file_text", lambda path: PRIVATE_KEY if home in path else there(path)
    )
    break_pillar({"vpn:pki:key": f"{home}/server.key"})
    [fault] = module.validate()
    assert fault == (
        f"gateway:vpn:pki:key: {home}/server.key is in a home directory, and OpenVPN's unit sees"
        " none; put it elsewhere"
    )


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        ({"up": "/root/up dev"}, False),
        ({"dh": "/home/alice/dh.pem"}, False),
        ({"push": ["route 192.0.2.0 255.255.255.0"], "setenv": "HOME /root/x"}, True),
        ({"log-append": "/var/log/openvpn.log"}, True),
    ],
)
def test_files_of_settings_that_openvpn_s_unit_does_not_see(module, break_pillar, settings, seen):
    break_pillar({"vpn:servers:main:settings": settings})
    [(keyword, value)] = list(settings.items())[:1]
    path = "" if seen else value.split()[0]
    fault = f"{path} is in a home directory, and OpenVPN's unit sees none; put it elsewhere"
    key = f"gateway:vpn:servers:main:settings:{keyword}"
    assert module.validate() == ([] if seen else [f"{key}: {fault}"])


def test_a_program_of_settings_that_openvpn_calls_as_nobody(module, node, break_pillar, tmp_path):
    break_pillar({"vpn:servers:main:settings": {"learn-address": f"{tmp_path}/learn it"}})
    key = "gateway:vpn:servers:main:settings:learn-address"
    assert module.validate() == [f"{key}: {tmp_path}/learn is not there on this node"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask as somebody else")
@pytest.mark.parametrize(
    ("file", "folder", "text", "good"),
    [
        (0o755, 0o755, "#!/bin/sh\n", True),
        (0o711, 0o711, "\x7fELF", True),
        (0o711, 0o755, "#!/bin/sh\n", False),  # the shell could not read it
        (0o644, 0o755, "#!/bin/sh\n", False),
        (0o700, 0o755, "#!/bin/sh\n", False),
        (0o755, 0o700, "#!/bin/sh\n", False),
        (None, 0o755, "", False),
    ],
)
def test_a_program_that_openvpn_calls_as_nobody(
    module, node, break_pillar, tmp_path, file, folder, text, good
):
    path = tmp_path / "folder/check"
    path.parent.mkdir()
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_mode & 0o001 == 0:
            parent.chmod(0o755)
    if file:
        path.write_text(text)
        path.chmod(file)
    path.parent.chmod(folder)
    break_pillar({"vpn:servers:main:auth": {"script": str(path)}, "vpn:pki:auth_token": TOKEN})
    key = "gateway:vpn:servers:main:auth:script"
    why = f"user nobody, as whom OpenVPN calls it, may not execute {path}"
    why = why if file else f"{path} is not there on this node"
    assert module.validate() == ([] if good else [f"{key}: {why}"])


def test_a_program_that_openvpn_cannot_see(module, break_pillar, monkeypatch, tmp_path):
    path = tmp_path / "check"
    path.write_text("#!/bin/sh\n")
    monkeypatch.setattr(os.path, "realpath", lambda name: name.replace(str(path), "/root/x"))
    break_pillar({"vpn:servers:main:auth": {"script": str(path)}, "vpn:pki:auth_token": TOKEN})
    said = "is in a home directory, and OpenVPN's unit sees none; put it elsewhere"
    assert module.validate() == [f"gateway:vpn:servers:main:auth:script: {path} {said}"]


def test_the_routes_to_networks_behind_clients(module, node, break_pillar):
    """Where there are such networks, somebody has to bring their routes."""
    assert "gateway-vpn-routes" not in module.status()["services"]
    break_pillar({"vpn:clients": {"branch": {"networks": ["10.50.0.0/24"]}}})
    node.routes.append({"dst": "10.50.0.0/24", "gateway": "10.77.0.3", "protocol": "119"})
    node.running.remove("gateway-vpn-routes")
    node.apply()
    assert module.status()["problems"] == ["service gateway-vpn-routes is dead"]
