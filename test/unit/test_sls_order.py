"""What comes before what, what a clean takes back, and where secrets are."""

import json
from pathlib import PurePath
from typing import Any

import pytest
from rendered import KEY_TEXT, SITES, SLSES, TLS_SECRET, WRONG_SITE, is_service, needed

# --------------------------------------------------------------------------------------------------
# Order

# What is removed, and what must have been done before, for what runs may still read it; where.
NOT_BEFORE: dict[str, tuple[tuple[str, Any, str], str, list[str]]] = {
    "revocation list": (
        ("example", {}, "gateway.openvpn"),
        "no openvpn revocation list of ours",
        [
            "openvpn configuration of main",
            "openvpn server main",
            "no other openvpn servers of ours",
        ],
    ),
    "revocation list of servers that have left": (
        ("minimal", None, "gateway.openvpn"),
        "no openvpn revocation list of ours",
        ["no other openvpn servers of ours"],
    ),
    "programs and clients of servers that have left": (
        ("example", None, "gateway.openvpn.clean"),
        "openvpn files are gone",
        ["no openvpn servers of ours"],
    ),
    "event unit": (
        ("example", None, "gateway.follow"),
        "nobody tells a Salt master",
        ["follower unit", "follower service"],
    ),
    "kernel modules": (
        ("example", None, "gateway.kernel"),
        "no kernel modules",
        ["kernel settings"],
    ),
    "kernel modules of a clean": (
        ("example", None, "gateway.kernel.clean"),
        "no kernel modules",
        ["kernel settings are as they were"],
    ),
    "the other NTP server": (
        ("ntpsec", None, "gateway.ntp"),
        "chrony configuration is as it was",
        ["ntp package", "ntp service"],
    ),
    "check of NTPsec": (
        ("ntpsec", None, "gateway.ntp.clean"),
        "ntp files are gone",
        ["ntpsec configuration is as it was"],
    ),
    "unit settings of keepalived": (
        ("example", None, "gateway.keepalived.clean"),
        "keepalived unit settings are gone",
        ["keepalived is stopped"],
    ),
}


@pytest.mark.parametrize(("where", "removal", "first"), NOT_BEFORE.values(), ids=NOT_BEFORE)
def test_what_a_running_configuration_names_goes_after_the_new_one(render, where, removal, first):
    each_site, changes, sls = where
    found = render(each_site, sls, changes=changes)
    assert set(first) <= needed(found, removal)


@pytest.mark.parametrize("sls", [*SLSES, *(f"{sls}.clean" for sls in SLSES)])
@pytest.mark.parametrize("name", SITES)
def test_nothing_is_removed_whatever_came_of_the_rest(render, name, sls):
    # The follower puts back what is in the file.
    deliberate = {"routes file is gone"}
    for chunk in render(name, sls).low:
        if chunk["fun"] == "absent" and chunk["__id__"] not in deliberate:
            assert chunk.get("require"), chunk["__id__"]


@pytest.mark.parametrize("name", ["example", "VPN clients"])
def test_what_an_openvpn_server_reads_is_there_first(render, name):
    """A configuration that names what is not there would keep the server down after a reboot."""
    found = render(name, "gateway.openvpn")
    first = needed(found, "openvpn configuration of main")
    assert {"openvpn clients of main", "openvpn notes of who is connected"} <= first
    assert ("openvpn revocation list" in first) is (name == "VPN clients")
    assert "openvpn configuration of main" in needed(found, "openvpn server main")


def test_a_node_without_a_certificate(render):
    """The VPN says why, and its servers are left alone. All else is applied as ever."""
    refusal = {"vpn:pki": {"error": "the certificate of gw1 is revoked"}}
    found, usual = render("example", changes=refusal), render("example")
    assert found.ids["openvpn certificates"]["fun"] == "refused"
    assert found.ids["openvpn certificates"]["errors"] == [
        "gateway:vpn:pki:error: the certificate of gw1 is revoked"
    ]
    assert usual.ids.keys() - found.ids.keys() == {
        "no openvpn revocation list of ours",
        "openvpn configuration of main",
        "openvpn server main",
        "openvpn unit settings of main",
    }

    def others(low):
        return [chunk | {"order": 0} for chunk in low if chunk["__sls__"] != "gateway.openvpn"]

    assert others(found.low) == others(usual.low)
    # Nobody waits for the VPN but what comes last, and the plan that is noted after that.
    waits = [
        chunk["__id__"]
        for chunk in others(found.low)
        if {"sls": "gateway.openvpn*"} in chunk.get("require", [])
        or any(found.ids[i]["__sls__"] == "gateway.openvpn" for i in needed(found, chunk["__id__"]))
    ]
    assert waits == ["nothing of older versions"]


# --------------------------------------------------------------------------------------------------
# Clean

CLEANS = [f"{sls}.clean" for sls in SLSES]
RESTORED = {"folder_gone", "drop_in_gone", "original_restored", "kernel_settings_restored"}


@pytest.mark.parametrize("sls", SLSES)
@pytest.mark.parametrize("name", SITES)
def test_clean_takes_back_all_that_was_written(render, compiler, name, sls):
    """By the names of files and units; what the lab shows is that it does."""
    done = render(name, sls).low
    # An SLS alone brings the follower along, for others to use too.
    done = [chunk for chunk in done if sls == "gateway" or chunk["__sls__"] == sls]
    undone = render(name, f"{sls}.clean").low
    removed = {chunk["name"] for chunk in undone if chunk["fun"] in {"absent", *RESTORED}}
    stopped = {chunk["name"] for chunk in undone if is_service(chunk, "off")}
    rendered_once = {"chrony", "ntpsec"}  # the distribution's, with its own configuration again
    for chunk in done:
        if "openvpn-server@" in chunk["name"] or chunk["name"].startswith("/etc/openvpn/"):
            continue  # by gateway_openvpn.servers_only
        if chunk["fun"] == "folder" and sls != "gateway":
            continue  # what is in it is the user's
        if chunk["fun"] in ("file", "folder", "checked_file", "kernel_settings"):
            folders = [str(parent) for parent in PurePath(chunk["name"]).parents]
            assert removed & {chunk["name"], *folders}
        elif is_service(chunk):
            assert chunk["name"] in stopped | rendered_once
    called = {(chunk["state"], chunk["fun"]) for chunk in undone}
    for make, unmake in {
        ("gateway_firewall", "loaded"): "loaded",
        ("gateway", "original_kept"): "original_restored",
        ("gateway_network", "kernel_settings"): "kernel_settings_restored",
        ("gateway_openvpn", "servers_only"): "servers_only",
        ("gateway_network", "routes"): "routes",
        ("gateway_network", "followers"): "followers",
        ("gateway_network", "networkd"): "networkd",
    }.items():
        if any((chunk["state"], chunk["fun"]) == make for chunk in done):
            assert (make[0], unmake) in called
    for chunk in undone:
        for argument in ("routes", "ways_back", "instances", "ruleset", "units", "interfaces"):
            assert not chunk.get(argument)


@pytest.mark.parametrize("sls", SLSES)
def test_what_leaves_the_pillar_leaves_the_machine(render, sls):
    """An apply without networks and DHCP, of a node that had them."""
    changes = {"dhcp": {"enabled": False}}
    now = render("example", sls, changes=changes).low
    for chunk in render("networks", sls).low:
        if chunk["__id__"] in {other["__id__"] for other in now}:
            continue
        if chunk["fun"] in ("file", "checked_file"):
            assert [other for other in now if is_absent(other, chunk["name"])], chunk["name"]
        if is_service(chunk):
            assert [
                other
                for other in now
                if is_service(other, "off") and other["name"] == chunk["name"]
            ], chunk["name"]


def is_absent(chunk, name):
    return (chunk["state"], chunk["fun"], chunk["name"]) == ("file", "absent", name)


@pytest.mark.parametrize("sls", CLEANS)
def test_clean_works_with_a_wrong_pillar(render, sls):
    wrong = render("example", sls, changes=WRONG_SITE)
    assert [chunk["name"] for chunk in wrong.low] == [
        chunk["name"] for chunk in render("example", sls).low
    ]


# --------------------------------------------------------------------------------------------------
# Secrets


@pytest.mark.parametrize("node", ["gw1", "gw2"])
def test_secrets_are_in_one_file_and_in_no_state(render, node):
    found = render("PEM", node=node)
    secrets = [KEY_TEXT, TLS_SECRET] if node == "gw1" else [TLS_SECRET]
    conf = "/etc/openvpn/server/gateway-main.conf"
    for secret in secrets:
        assert secret not in json.dumps([found.low, found.plan])
        assert [name for name, text in found.files.items() if secret in text] == [conf]
    assert found.ids["openvpn configuration of main"]["mode"] == "0600"


@pytest.mark.parametrize("node", ["gw1", "gw2"])
def test_secrets_are_in_no_diff(render, node):
    """The second node's key is a path; but the text of the tls-crypt key is in the file."""
    found = render("PEM", node=node)
    assert found.ids["openvpn configuration of main"]["show_changes"] is False


def test_a_diff_is_shown_where_it_holds_no_secret(render):
    assert render("example").ids["openvpn configuration of main"]["show_changes"] is True
