"""Failover: priorities, virtual IPs, keepalived, drain."""

import re
import subprocess

import _gateway_nodes
import pytest
from cases import ADDRESSES
from on_node import SYNC_LINK
from rendered import SITES, block, braces, keepalived_conf, options_of
from salt.exceptions import CommandExecutionError

# --------------------------------------------------------------------------------------------------
# What is planned

REJECTED = {
    # one value, and not several
    "list of intervals": (
        {"failover": {"advert_interval": [1, 2]}},
        "failover:advert_interval",
        "must be one number of seconds, is a list",
    ),
    # DNS and DHCP
    "unit that has to run where it must not": (
        {"follow_virtual_ip": ["nginx"], "health": {"services": ["sshd", "nginx.service"]}},
        "health:services:1",
        "nginx.service runs only where the virtual IP is, so any other node would be at fault",
    ),
    "unit of the formula that does not run everywhere": (
        {"health": {"services": ["gateway-dhcp"]}},
        "health:services:0",
        "gateway-dhcp.service runs only where the virtual IP is, so any other node would be at"
        " fault",
    ),
    "target that always answers": (
        {"health": {"public": {"targets": ["127.0.0.1"]}}},
        "health:public:targets:0",
        "127.0.0.1 is inside 127.0.0.0/8, of which no host has an address",
    ),
    "target that is everybody": (
        {"health": {"internal": {"targets": ["10.77.0.255"]}}},
        "health:internal:targets:0",
        "10.77.0.255 is the broadcast address of 10.77.0.0/24",
    ),
    "what keepalived's check does not see": (
        {"keepalived": {"settings": {"vrrp_strict": True}}},
        "keepalived:settings:vrrp_strict",
        "is not possible: keepalived would drop all that is for a virtual IP, such as DNS",
    ),
    "what would end keepalived": (
        {"keepalived": {"settings": {"vrrp_rt_priority": 50}}},
        "keepalived:settings:vrrp_rt_priority",
        "is not possible: use gateway:failover:realtime_priority",
    ),
    "comment of keepalived's": (
        {"keepalived": {"settings": {"router_id": "gw1!"}}},
        "keepalived:settings:router_id",
        "gw1! has a comment in it (!), which the daemon would leave out",
    ),
    "unit that is none": (
        {"health": {"services": ["nginx.conf"]}},
        "health:services:0",
        "nginx.conf is not the name of a systemd unit such as nginx.service"
        " (service, timer, socket, path, target, mount, automount, swap)",
    ),
    # the rest of the services
    "router id": (
        {"keepalived": {"router_id": 256}},
        "keepalived:router_id",
        "256 is not in 1 to 255",
    ),
}


@pytest.mark.parametrize(("changes", "key", "message"), REJECTED.values(), ids=REJECTED)
def test_rejected(errors, changes, key, message):
    """A mistake is one error, and it names the key of the pillar that is wrong."""
    assert errors(changes) == [f"gateway:{key}: {message}"]


def test_vrrp(plan):
    primary, secondary = plan(node="gw1")["vrrp"], plan(node="gw2")["vrrp"]
    assert secondary == {
        "router_id": 51,
        "priority": 249,
        "advert_interval": 0.1,
        "down_adverts": 3,
        "garp": {"repeat": 5, "delay": 1, "refresh": 0},
        "startup_delay": 1,
        "realtime_priority": 50,
        "instances": [
            {
                "name": "internal",
                "interface": "eth0",
                "virtual_ip": "10.77.0.1",
                "addresses": [],
                "further": [],
                "source": "10.77.0.3",
                "peers": ["10.77.0.2"],
            }
        ],
        "settings": [],
    }
    assert primary["priority"] == 250
    assert primary["router_id"] == 51


def test_public_virtual_ip(plan):
    found = plan({"public:virtual_ip": "198.51.100.1"}, "gw2")
    assert found["vrrp"]["instances"][1] == {
        "name": "public",
        "interface": "eth1",
        "virtual_ip": "198.51.100.1",
        "addresses": [],
        "further": [],
        "source": "198.51.100.3",
        "peers": ["198.51.100.2"],
    }
    # What lives behind the gateway leaves as the virtual IP. A VPN client does not: its tunnel
    # ends on this node, whoever holds the virtual IP.
    assert found["nat"]["sources"] == [
        {"network": "10.77.0.0/24", "to": "198.51.100.1"},
        {"network": "10.8.1.0/24", "to": None},
    ]


def test_further_addresses_move_with_the_virtual_ip(plan):
    internal, public = plan(ADDRESSES, "gw2")["vrrp"]["instances"]
    assert internal["addresses"] == []
    assert public["addresses"] == ["198.51.100.11", "198.51.100.12"]


# --------------------------------------------------------------------------------------------------
# How a node is doing


def test_what_is_not_told_to_the_peer(module, node, break_pillar):
    """Nothing of the node's own, on whichever interface; tunnels are in their network already."""
    break_pillar(SYNC_LINK)
    node.addresses["docker0"] = ["172.17.0.1"]
    node.addresses["eth0"].append("10.99.0.2")
    planned = module.plan()["sync"]["ignored"]
    assert module.sync_ignored() == [*planned, "10.99.0.2", "172.17.0.1"]
    # A virtual IP that has left the pillar is there until keepalived hears of it.
    node.addresses["eth5"] = ["10.20.0.2/24", "10.20.0.1/32"]
    node.keepalived.write_text("        10.20.0.1/32 dev eth5\n")
    assert module.sync_ignored() == [*planned, "10.20.0.2", "10.99.0.2", "172.17.0.1"]


def test_virtual_ips_on_two_nodes(module, node, break_pillar):
    break_pillar({"public:virtual_ip": "198.51.100.1", "state_sync": False})
    node.apply()
    status = module.status()
    assert [instance["role"] for instance in status["vrrp"].values()] == ["MASTER", "BACKUP"]
    assert status["problems"] == ["the virtual IPs are not on one node"]
    node.addresses["eth1"].append("198.51.100.1")
    assert module.status()["problems"] == []


@pytest.mark.parametrize(
    ("deaf", "lost", "targets", "expected"),
    [
        ([], 0, [], []),
        ([], 1, [], []),
        (["eth0"], 0, [], ["internal side (10.77.0.3 on eth0), only elsewhere: nothing moves"]),
        (["eth0"], 0, ["10.77.0.9"], ["internal side (10.77.0.3 on eth0)"]),
        (["eth1"], 0, ["10.77.0.9"], ["public side (198.51.100.3 on eth1), only elsewhere"]),
        (["eth0", "eth1"], 0, [], []),
    ],
)
def test_a_peer_that_is_heard_on_one_side_only(
    module, node, break_pillar, deaf, lost, targets, expected
):
    """Where the peer is off, nothing is to be said: it is missing among the answers."""
    left = [0]

    def ping(arguments):
        assert arguments[:-2] == ["-q", "-n", "-c", "1", "-W", "1", "-I"]
        left[0] -= 1
        return 1 if left[0] == 0 or arguments[-2] in deaf else "1 packets transmitted, 1 received"

    node.tools["ping"] = ping
    node.addresses["eth1"].append("198.51.100.1/32")
    assert module.status()["problems"] == []  # one election, so the network itself decides
    both = {"public:virtual_ip": "198.51.100.1", "state_sync": False}
    break_pillar({**both, "health:internal:targets": targets})
    node.apply()
    left[0] = lost
    problems = module.status()["problems"]
    assert len(problems) == len(expected)
    for problem, beginning in zip(problems, expected, strict=True):
        assert problem.startswith(f"gw2 is not heard on the {beginning}")
        assert problem.endswith("targets would say it)" if ", only" in beginning else " on eth0)")


def test_drain_and_undrain(module, takeover):
    assert module.drain() == "this node is drained"
    assert takeover.drained.exists()
    assert not takeover.draining.exists()
    assert "openvpn-server@gateway-main" not in takeover.running
    takeover.running.remove("gateway-dhcp")
    [problem] = module.status()["problems"]
    assert problem.startswith("this node is drained since 2")
    assert module.drain() == "this node is drained already"
    assert module.undrain() == "this node is in service again"
    assert "openvpn-server@gateway-main" in takeover.running
    assert not takeover.drained.exists()
    assert module.undrain() == "this node is not drained"


def test_drain_without_a_peer(module, takeover):
    takeover.peer = False
    with pytest.raises(CommandExecutionError, match="no healthy peer took the virtual IP"):
        module.drain()
    assert not takeover.drained.exists()
    assert not takeover.draining.exists()
    assert "openvpn-server@gateway-main" in takeover.running
    module.drain(force=True)
    assert takeover.drained.exists()


def test_drain_of_the_secondary(module, takeover):
    takeover.addresses["eth0"].remove("10.77.0.1/32")
    with pytest.raises(CommandExecutionError, match="no other node answers on the virtual IP"):
        module.drain()
    takeover.tools["ping"] = "1 received"
    assert module.drain() == "this node is drained"


# --------------------------------------------------------------------------------------------------
# What is written


@pytest.mark.parametrize("name", SITES)
def test_keepalived(render, name):
    for node in ("gw1",) if name == "minimal" else ("gw1", "gw2"):
        found = render(name, node=node)
        tree = keepalived_conf(found)
        settings = options_of(block(tree, "global_defs"))
        assert settings["vrrp_version"] == ["3"]  # what knows tenths of a second
        vrrp = found.plan["vrrp"]
        names = [header[1] for header, _ in tree if header[0] == "vrrp_instance"]
        assert names == [instance["name"] for instance in vrrp["instances"]]
        for instance in vrrp["instances"]:
            body = block(tree, "vrrp_instance", instance["name"])
            given = options_of(body)
            assert given["state"] == ["BACKUP"]
            assert given["interface"] == [instance["interface"]]
            assert given["virtual_router_id"] == [str(vrrp["router_id"])]
            assert given["priority"] == [str(vrrp["priority"])]
            assert given["advert_int"] == ["0.1"]
            # In a sync group it is the group that tracks.
            grouped = len(names) > 1
            assert any(words[0] == "track_file" for words, _ in body) is not grouped
            assert block(body, "virtual_ipaddress") == [
                ([f"{instance['virtual_ip']}/32", "dev", instance["interface"]], None)
            ]
            # Without a peer to send to it would multicast, which harms nobody.
            assert ("unicast_src_ip" in given) == bool(instance["peers"])
            if instance["peers"]:
                assert given["unicast_src_ip"] == [instance["source"]]
                peers = [words for words, _ in block(body, "unicast_peer")]
                assert peers == [[peer, "min_ttl", "255"] for peer in instance["peers"]]
            assert ("dont_track_primary" in given) == (instance["name"] == "public")


@pytest.mark.parametrize(("seconds", "written"), [(0, None), (30, ["30"])])
def test_keepalived_listens_first(render, seconds, written):
    """It takes no 0 there."""
    found = render("example", changes={"failover": {"startup_delay": seconds}})
    settings = options_of(block(keepalived_conf(found), "global_defs"))
    assert settings.get("vrrp_startup_delay") == written


def test_keepalived_nodes_are_each_others_peers(render):
    bodies = [
        block(keepalived_conf(render("example", node=node)), "vrrp_instance", "internal")
        for node in ("gw1", "gw2")
    ]
    one, other = map(options_of, bodies)
    own = ["min_ttl", "255"]
    assert block(bodies[0], "unicast_peer") == [([*other["unicast_src_ip"], *own], None)]
    assert block(bodies[1], "unicast_peer") == [([*one["unicast_src_ip"], *own], None)]
    assert one["virtual_router_id"] == other["virtual_router_id"]
    assert int(one["priority"][0]) > int(other["priority"][0]) > 200


def test_keepalived_moves_both_addresses_together(render):
    tree = keepalived_conf(render("public virtual IP"))
    group = block(block(tree, "vrrp_sync_group", "gateway"), "group")
    assert group == [(["internal"], None), (["public"], None)]
    group = block(tree, "vrrp_sync_group", "gateway")
    assert (["sync_group_tracking_weight"], None) in group
    assert block(group, "track_file") == [(["penalty"], None)]
    assert not [header for header, _ in keepalived_conf(render("example")) if "sync" in header[0]]


def test_keepalived_gets_a_further_election_without_the_group_first(render):
    """Else both would begin anew; of its own each loses what is wrong with the node."""
    found = render("public virtual IP")
    states = list(found.ids)
    first, then = "keepalived elections side by side", "keepalived configuration"
    assert states.index(first) < states.index(then)
    assert found.ids[first]["addresses"] == ["10.77.0.1", "198.51.100.1"]
    assert found.ids[first]["patience"] == found.plan["health"]["takeover"]
    (text,) = found.apart
    apart, together = braces(text), keepalived_conf(found)
    assert not [header for header, _ in apart if "sync" in header[0]]
    for name in ("internal", "public"):
        alone = block(apart, "vrrp_instance", name)
        assert block(alone, "track_file") == [(["penalty"], None)]
        rest = [entry for entry in alone if entry[0] != ["track_file"]]
        assert rest == block(together, "vrrp_instance", name)
    assert first not in render("example").ids


def test_keepalived_moves_further_addresses_without_announcing_them(render):
    """Adverts that differ, as they do while one node is applied, would make two masters."""
    body = block(keepalived_conf(render("further addresses")), "vrrp_instance", "public")
    assert [words[0] for words, _ in block(body, "virtual_ipaddress")] == ["198.51.100.1/32"]
    assert block(body, "virtual_ipaddress_excluded") == [
        (["198.51.100.11/32", "dev", "eth1"], None),
        (["198.51.100.12/32", "dev", "eth1"], None),
    ]
    assert (
        "virtual_ipaddress_excluded"
        not in render("example").files["/etc/keepalived/keepalived.conf"]
    )


def test_keepalived_does_not_watch_further_networks(render):
    """What it watches ends the election when it is lost: no virtual IP anywhere. And it would not
    start where an interface is missing."""
    found = keepalived_conf(render("networks", node="gw2"))
    assert "dynamic_interfaces" in options_of(block(found, "global_defs"))
    body = block(found, "vrrp_instance", "internal")
    assert [" ".join(words) for words, _ in block(body, "virtual_ipaddress_excluded")] == [
        "203.0.113.17/32 dev eth5 no_track",
        "10.20.0.1/32 dev eth0.20 no_track",
        "10.30.0.1/32 dev eth3 no_track",
    ]
    assert "dynamic_interfaces" not in render("example").files["/etc/keepalived/keepalived.conf"]


def test_keepalived_follows_the_monitor(render):
    found = render("example")
    tree = keepalived_conf(found)
    # Both FIFOs are theirs who are named before.
    words = [header[0] for header, _ in block(tree, "global_defs")]
    assert words.index("script_user") < words.index("vrrp_notify_fifo")
    health = found.files["/usr/lib/gateway/health"]
    [fifo] = options_of(block(tree, "global_defs"))["notify_fifo"]
    [path] = options_of(block(tree, "track_file", "penalty"))["file"]
    assert fifo == path.replace("penalty", "health.fifo")
    assert f"run=$root{path.removesuffix('/penalty')} " in health
    # While it starts a process it says nothing, and a busy machine takes seconds for that.
    text = found.files["/etc/keepalived/keepalived.conf"]
    assert not re.search(r"(?m)^\s*(vrrp_script|track_script|notify(_(?!fifo)\w+)?)\b", text)


@pytest.mark.parametrize(
    ("name", "peers", "announced"),
    [
        ("minimal", [], ["192.168.7.254"]),
        ("example", ["10.77.0.3", "198.51.100.3"], ["10.77.0.1"]),
        (
            "further addresses",
            ["10.77.0.3", "198.51.100.3"],
            ["10.77.0.1", "198.51.100.1", "198.51.100.11", "198.51.100.12"],
        ),
        (
            "three nodes",
            ["10.77.0.3", "10.77.0.4", "198.51.100.3", "198.51.100.4"],
            ["10.77.0.1"],
        ),
    ],
)
def test_what_the_monitor_reads(render, name, peers, announced):
    found = render(name)
    text = found.files["/etc/gateway/health.conf"]
    show = f'{text}\necho "${{peers[*]}}|${{announced[*]}}|$cold $uplink $fault $drained"'
    answer = subprocess.run(["bash", "-euc", show], capture_output=True, text=True, check=True)
    found_peers, own, lost = answer.stdout.split("|")
    assert found_peers.split() == peers
    assert own.split()[1::2] == announced
    penalties = found.plan["health"]["penalties"]
    assert lost.split() == [str(penalties[state]) for state in _gateway_nodes.PENALTIES]
    # Where the monitor has not run yet, the node is cold.
    keepalived_conf = found.files["/etc/keepalived/keepalived.conf"]
    assert f"    init_file -{penalties['cold']}\n" in keepalived_conf


def test_settings_of_keepalived_are_global(render):
    tree = keepalived_conf(render("settings"))
    assert options_of(block(tree, "global_defs"))["number"] == ["1.5"]
    assert options_of(block(tree, "vrrp_instance", "internal"))["virtual_router_id"] == ["7"]
