"""OpenVPN's configuration, the files of clients, and units."""

import re
import shlex

import pytest
from rendered import KEY_TEXT, TLS_SECRET, lines, needed, pem_text

# --------------------------------------------------------------------------------------------------
# keepalived


def test_no_openvpn_server_is_started_on_a_drained_node(render):
    """And its unit would not let anybody else do it."""
    found = render("example", stubs={"file.file_exists": lambda path: True})
    assert found.ids["openvpn server main"]["start"] is False
    assert render("example").ids["openvpn server main"]["start"] is True
    [unit] = [text for name, text in found.files.items() if "openvpn-server@" in name]
    assert "ConditionPathExists=!/var/lib/gateway/drained\n" in unit


# --------------------------------------------------------------------------------------------------
# OpenVPN


def openvpn_files(node, server="main"):
    """Options as lists of words, and the inline files by their tags."""
    found: list[list[str]] = []
    inline: dict[str, list[str]] = {}
    tag = None
    for line in node.files[f"/etc/openvpn/server/gateway-{server}.conf"].splitlines():
        opened = re.fullmatch(r"<([a-z-]+)>", line)
        if tag and line == f"</{tag}>":
            tag = None
        elif tag:
            inline[tag].append(line)
        elif opened:
            tag = opened[1]
            inline[tag] = []
        elif not line.startswith("#"):
            found.append(shlex.split(line))
    assert tag is None
    assert all(found)
    return found, {key: "\n".join(lines) + "\n" for key, lines in inline.items()}


def test_openvpn(render):
    found, inline = openvpn_files(render("example", node="gw2"))
    assert inline == {}
    for line in [
        "port 1194",
        "proto udp",
        "dev vpn-main",
        "dev-type tun",
        "topology subnet",
        "server 10.8.1.0 255.255.255.0 nopool",
        "ifconfig-pool 10.8.1.128 10.8.1.254",
        "client-config-dir /etc/gateway/openvpn/main",
        "management /run/gateway-main/control/management unix",
        "explicit-exit-notify 2",
        "ca /etc/openvpn/pki/ca.crt",
        "cert /etc/openvpn/pki/server.crt",
        "key /etc/openvpn/pki/server.key",
        "tls-crypt /etc/openvpn/pki/tls-crypt.key",
    ]:
        assert line.split() in found
    pushes = [words[1] for words in found if words[0] == "push"]
    assert pushes == [
        "route 10.77.0.0 255.255.255.0",
        "route 10.8.0.0 255.255.0.0",
        "dhcp-option DNS 10.77.0.1",
        "dhcp-option DOMAIN example.internal",
    ]
    names = [words[0] for words in found if words[0] != "push"]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["on", "0x1f"])
def test_openvpn_server_whose_name_looks_like_something_else(render, name):
    server = {"network": "10.9.0.0/16", "port": 443}
    found, _ = openvpn_files(render("example", changes={f"vpn:servers:{name}": server}), name)
    assert ["port", "443"] in found


def test_openvpn_full_tunnel(render):
    found, _ = openvpn_files(render("further addresses"))
    pushes = [words[1] for words in found if words[0] == "push"]
    assert pushes.count("redirect-gateway def1 ipv6") == pushes.count("block-ipv6") == 1
    # Those that do not know what they are pushed are answered here.
    assert ["block-ipv6"] in found
    found, _ = openvpn_files(render("example"))
    assert ["block-ipv6"] not in found


def test_openvpn_over_tcp(render):
    found, _ = openvpn_files(render("VPN servers"), "second")
    assert ["proto", "tcp-server"] in found
    # What only UDP has: OpenVPN refuses it here.
    assert not {"explicit-exit-notify", "multihome"} & {words[0] for words in found}


def test_openvpn_with_text_from_the_pillar(render):
    found, inline = openvpn_files(render("PEM"))
    assert list(inline) == ["ca", "cert", "key", "tls-crypt"]
    assert inline["key"] == pem_text("PRIVATE KEY", KEY_TEXT)
    assert inline["tls-crypt"] == pem_text("OpenVPN Static key V1", TLS_SECRET)
    assert inline["cert"] == pem_text("CERTIFICATE", "Y2VydGlmaWNhdGU=")
    assert inline["ca"] == pem_text("CERTIFICATE", "Y2E=")
    assert not {"ca", "cert", "key", "tls-crypt"} & {words[0] for words in found}


def test_openvpn_with_text_and_paths(render):
    found, inline = openvpn_files(render("PEM", node="gw2"))
    assert list(inline) == ["ca", "tls-crypt"]
    assert ["cert", "/etc/gw2.crt"] in found
    assert ["key", "/etc/gw2.key"] in found


def test_openvpn_instances_that_stay(render):
    state = "no other openvpn servers of ours"
    assert render("example").ids[state]["instances"] == ["gateway-main"]
    assert render("minimal").ids[state]["instances"] == []
    assert list(render("minimal", "gateway.openvpn").ids)[-2] == state


def client_files(node, server="main"):
    """The files of a server's clients, as the state writes them."""
    return node.clients[f"/etc/gateway/openvpn/{server}"]


def test_openvpn_clients(render):
    found = client_files(render("VPN clients", node="gw2"))
    assert {name: text.splitlines()[1:] for name, text in found.items()} == {
        "alice": [
            "ifconfig-push 10.8.1.5 255.255.255.0",
            'push "route 10.50.0.0 255.255.255.0"',
            'push "route 192.0.2.0 255.255.255.0"',
        ],
        "branch": [
            "ifconfig-push 10.8.1.9 255.255.255.0",
            "iroute 10.50.0.0 255.255.255.0",
        ],
        "gone": ["disable", 'push "route 10.50.0.0 255.255.255.0"'],
        "DEFAULT": ['push "route 10.50.0.0 255.255.255.0"'],
    }
    assert client_files(render("example")) == {}
    odd = {"vpn:clients": {'ou/Pat "{x}" Doe': {"disabled": True}}}
    assert client_files(render("example", changes=odd)) == {
        'ou_Pat "{x}" Doe': "# Managed by Salt (gateway).\ndisable\n"
    }


def test_networks_behind_clients_are_known_before_the_clients_files_are_new(render):
    """An older version's script has them from these files, and would take the routes away."""
    found = render("VPN clients")
    assert lines(found, "/etc/gateway/vpn-networks") == [
        "10.50.0.0/25 branch",
        "10.50.0.128/25 branch",
    ]
    assert "openvpn networks behind clients" in needed(found, "openvpn routes service")
    states = list(found.ids)
    assert states.index("openvpn routes service") < states.index("openvpn clients of main")
    assert "/etc/gateway/vpn-networks" not in render("example").files
    absent = {chunk["name"] for chunk in render("example").low if chunk["fun"] == "absent"}
    assert "/etc/gateway/vpn-networks" in absent


def test_openvpn_knows_nothing_of_its_clients(render):
    """What it is started with is the same with and without them."""
    path = "/etc/openvpn/server/gateway-main.conf"
    some = render("example", changes={"vpn:clients": {"alice": {"id": 5, "pushes": ["x"]}}})
    assert render("example").files[path] == some.files[path]


def test_openvpn_with_passwords(render):
    found, inline = openvpn_files(render("VPN clients"))
    assert ["auth-user-pass-verify", "/usr/local/bin/check", "via-file"] in found
    assert ["auth-gen-token", "3600"] in found
    assert ["crl-verify", "/etc/gateway/openvpn/crl.pem"] in found
    assert ["ccd-exclusive"] in found
    assert inline["auth-gen-token-secret"] == pem_text("OpenVPN auth-token server key", KEY_TEXT)
    changes = {"vpn:servers:main:auth": {"pam": "vpn"}, "vpn:pki:auth_token": "/etc/token"}
    found, _ = openvpn_files(render("example", changes=changes))
    pam = ["plugin", "openvpn-plugin-auth-pam.so", "vpn login USERNAME password PASSWORD"]
    assert pam in found
    assert ["auth-gen-token-secret", "/etc/token"] in found
    session = "/usr/lib/gateway/vpn-session /run/gateway-main/sessions"
    assert ["client-connect", session] in found
    changes |= {"vpn:servers:main:auth": {"pam": "vpn", "same_name": True}}
    found, _ = openvpn_files(render("example", changes=changes))
    assert ["client-connect", f"{session} same-name"] in found
    assert ["client-disconnect", session] in found


def test_openvpn_revocation_list_on_the_node(render):
    found = render("example", changes={"vpn:pki:crl": "/srv/crl.pem"})
    assert ["crl-verify", "/etc/gateway/openvpn/crl.pem"] in openvpn_files(found)[0]
    state = found.ids["openvpn revocation list"]
    assert (state["path"], state["ca"]) == ("/srv/crl.pem", "/etc/openvpn/pki/ca.crt")
    assert found.ids["openvpn sessions of main"]["crl"] == {"path": "/srv/crl.pem"}


# --------------------------------------------------------------------------------------------------
# dnsmasq, NTP, settings


def test_settings_of_openvpn_that_are_pushed(render):
    changes = {"vpn:servers:main:settings": {"push": ["route 192.0.2.0 255.255.255.0", "ping 3"]}}
    found, _ = openvpn_files(render("example", changes=changes))
    assert [words[1:] for words in found if words[0] == "push"][-2:] == [
        ["route 192.0.2.0 255.255.255.0"],
        ["ping 3"],
    ]
