"""The firewall on a node: what it keeps out, what else is there, its place in the order."""

import json
import re
from pathlib import Path

import _gateway_rules
import pytest
from on_node import HEALTHY, LOADED, firewall_says

# --------------------------------------------------------------------------------------------------
# How a node is doing


@pytest.mark.parametrize(
    ("client", "refused"), [("10.77.0.10", False), ("203.0.113.9", False), ("203.0.113.7", True)]
)
def test_nobody_applies_over_ssh_what_keeps_them_out(
    module, node, break_pillar, monkeypatch, client, refused
):
    break_pillar({"firewall": {"ssh": {"from": "203.0.113.9"}}})
    assert module.validate() == []
    monkeypatch.setenv("SSH_CONNECTION", f"{client} 50000 198.51.100.2 22")
    expected = (
        f"gateway:firewall:ssh:from: you are here by SSH from {client} on the public side, and the"
        " new rules would not let you in again; add that address"
    )
    assert module.validate() == ([expected] if refused else [])


def test_nobody_applies_over_ssh_to_a_forwarded_port(module, node, break_pillar, monkeypatch):
    """Whoever is let in by a rule does not reach this node by a port that leads to a host."""
    monkeypatch.setenv("SSH_CONNECTION", "203.0.113.9 50000 198.51.100.2 443")
    break_pillar({"firewall": {"input": [{"from": "203.0.113.9", "ports": 443}]}})
    assert len(module.validate()) == 1
    break_pillar({"firewall": {"input": [{"from": "203.0.113.9", "ports": 443}]}, "nat": ...})
    assert module.validate() == []
    drop = {"from": "203.0.113.9", "to": "198.51.100.2", "action": "drop"}
    rules = [drop, {"from": "203.0.113.9", "ports": 443}]
    break_pillar({"firewall": {"input": rules}, "nat": ...})
    assert len(module.validate()) == 1


UFW = (Path(__file__).parent / "foreign/ufw-reject.save").read_text()
REFUSES = "on this node ufw (iptables-{}: table filter, chain ufw-reject-input, "
MINE = {"family": "inet", "name": "mine"}
CHAIN = {
    "family": "inet",
    "table": "mine",
    "name": "x",
    "hook": "forward",
    "type": "filter",
    "policy": "drop",
}


def test_another_firewall_that_refuses_what_we_accept(module, node):
    assert module.status()["problems"] == []
    node.tools["iptables-nft-save"] = UFW
    found = module.validate()
    assert found[0].startswith(REFUSES.format("nft"))
    assert module.validate(warnings=False) == found
    assert module.status()["problems"] == found


def test_a_table_of_somebodys_own_is_looked_at(module, node):
    asked = []

    def nft(arguments):
        asked.append(arguments)
        items = [{"table": MINE}] if arguments == ["-j", "list", "tables"] else [{"chain": CHAIN}]
        return json.dumps({"nftables": items})

    node.tools["nft"] = nft
    (found,) = module.validate()
    assert found.startswith("on this node nft: table inet mine, chain x, policy drop refuses ")
    assert asked == [["-j", "list", "tables"], ["-j", "list", "table", "inet", "mine"]]


def test_legacy_is_asked_where_it_has_tables(module, node, tmp_path):
    """Only then: asking would load its modules into the kernel."""
    node.tools["iptables-legacy-save"] = UFW
    assert module.validate() == []
    (tmp_path / "legacy_tables").write_text("filter\n")
    assert module.status()["problems"][0].startswith(REFUSES.format("legacy"))


@pytest.mark.parametrize(
    ("kept", "program", "nft", "expected"),
    [
        (None, "xtables-nft-multi", "", "legacy"),  # all rules are there
        (None, "xtables-nft-multi", "*filter\n-A INPUT -i x\nCOMMIT\n", "nft"),
        (None, "xtables-legacy-multi", "*filter\n-A INPUT -i x\nCOMMIT\n", "legacy"),
        ("nft", "xtables-legacy-multi", "", "nft"),
        ("legacy", "xtables-nft-multi", "*filter\n-A INPUT -i x\nCOMMIT\n", "legacy"),
    ],
)
def test_which_iptables_ours_are_in(module, node, tmp_path, tool, kept, program, nft, expected):
    """In ours, what comes behind our jump is not asked any more; in the other one all of it is."""
    tool(program, "")
    (tmp_path / "bin/iptables").symlink_to(program)
    node.tools |= {"iptables-nft-save": nft, "iptables-legacy-save": UFW}
    (tmp_path / "legacy_tables").write_text("filter\n")
    if kept:
        (tmp_path / "backend").write_text(f"{kept}\n")
    assert ("before our rules" in module.validate()[0]) == (expected == "legacy")


def test_one_apply_asks_for_the_others_once(module, node, break_pillar):
    asked = []

    def save(arguments):
        asked.append(arguments)
        return ""

    node.tools["iptables-nft-save"] = save
    assert [module.validate(warnings=False) for _ in range(3)] == [[], [], []]
    assert len(asked) == 1
    assert module.validate(__pub_fun="gateway.validate") == []  # a person
    assert len(asked) == 2
    module.status()
    assert len(asked) == 3
    break_pillar({})  # the next apply
    module.validate(warnings=False)
    assert len(asked) == 4


def test_ruleset_of_this_node_and_of_another(module, node):
    for name, peer in ((None, "10.77.0.3"), ("gw2", "10.77.0.2")):
        rules = module.ruleset(node=name)
        assert list(rules) == ["sets", "v4", "v6", "closed4", "closed6"]
        assert re.search(rf"-s {peer} .*-p 112 .*-j ACCEPT", rules["v4"])


def test_frames_that_pass_iptables_on_a_bridge(module, node, tmp_path):
    """Their rules come with the next apply after br_netfilter; until then the status says so."""
    (tmp_path / "net/eth0/bridge").mkdir()
    (tmp_path / "rules").write_text(module.ruleset()["v4"])
    assert "physdev" not in module.ruleset()["v4"]
    assert module.status()["problems"] == []
    (tmp_path / "bridge_filter").mkdir()
    assert "-i eth0 -o eth0 -m physdev" in module.ruleset()["v4"]
    assert "-i eth1 -o eth1 -m physdev" not in module.ruleset()["v4"]
    assert "physdev" not in module.ruleset(node="gw2")["v4"]
    assert module.status()["problems"] == [
        "frames from port to port of eth0 pass iptables since the last apply (br_netfilter was"
        " loaded, as Docker does it), and the firewall refuses them: apply again"
    ]
    (tmp_path / "rules").write_text(module.ruleset()["v4"])
    assert module.status()["problems"] == []


def test_a_closed_node_is_one_problem(module, node):
    """The health monitor and the loader say the same."""
    said = "the firewall rules are not in force, nothing is forwarded: ipset is gone"
    node.health.write_text(json.dumps(HEALTHY | {"penalty": 254, "faults": [said]}))
    firewall_says(loaded=False, closed="ipset is gone")(node)
    assert module.status()["problems"] == [said]


def test_status_of_a_loader_of_an_older_version(module, node):
    old = {"backend": "nft", "loaded": True, "drift": False, "pending": False}
    node.tools["/usr/lib/gateway/firewall"] = json.dumps(old)
    assert module.status()["firewall"] == LOADED | {"gate": False}


# --------------------------------------------------------------------------------------------------
# What is written

# What lets packets in, sends them on, or takes the virtual IP.
BEHIND_THE_FIREWALL = ("kernel", "ntp", "openvpn", "dnsmasq", "keepalived", "conntrackd")


@pytest.mark.parametrize("sls", ["gateway", *(f"gateway.{name}" for name in BEHIND_THE_FIREWALL)])
def test_the_firewall_comes_first_and_its_failure_is_the_end(render, sls):
    """Each alone, too: nothing is opened on a node without rules."""
    low = [chunk for chunk in render("link of their own", sls).low if chunk["fun"] != "nop"]
    firewall = [chunk for chunk in low if chunk["__sls__"] == "gateway.firewall"]
    assert low[: len(firewall)] == firewall
    assert all(chunk["failhard"] is True for chunk in firewall)
    assert [chunk["__id__"] for chunk in firewall][-3:-1] != []
    names = [chunk["name"] for chunk in firewall]
    assert names.index("gateway-firewall-guard") == len(names) - 1


def test_a_setting_of_somebody_elses_does_not_switch_forwarding_off_at_boot(root):
    """The loader switches it on, and a file in sysctl.d may say the opposite."""
    unit = (root / "gateway/firewall/files/gateway-firewall.service.jinja").read_text()
    after = re.findall(r"(?m)^After=(.*)", unit)
    assert "systemd-sysctl.service" in " ".join(after).split()


def test_the_firewall_goes_last(render):
    """Forwarding before the rules, and the guard before both: it would put them back."""
    ids = list(render("example", "gateway.clean").ids)
    order = ["kernel settings are as they were", "no firewall guard", "no firewall rules of ours"]
    assert sorted(order, key=ids.index) == order


def test_the_gate_asks_for_the_mark_that_the_rules_set(root):
    loader = (root / "gateway/firewall/files/firewall").read_text()
    assert f"\nmark={_gateway_rules.MARK} " in loader
