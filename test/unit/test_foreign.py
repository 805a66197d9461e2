"""What other firewalls refuse, by the words of the real ones (test/unit/foreign)."""

import json
import re
from pathlib import Path

import _gateway_foreign
import _gateway_foreign_nft
import pytest

TEXTS = Path(__file__).parent / "foreign"
LINK = {
    "public:virtual_ip": "198.51.100.10",
    "nodes:gw1:sync": "10.78.0.1",
    "nodes:gw2:sync": "10.78.0.2",
    "state_sync": {"interface": "eth2"},
}
VRRP = {"VRRP of the peer 10.77.0.3", "VRRP of the peer 198.51.100.3"}
STATE_SYNC = {"state sync of the peer"}
LEASES = {"what gw2 tells of leases"}
SYNC = STATE_SYNC | LEASES  # over the link of the nodes' own
INTERNAL = {"DHCP", "DNS", "time"}
VPN = {"the VPN (udp port 1194)"}
OWN = {"the answers to this node's own questions"}
INPUT = VRRP | SYNC | INTERNAL | VPN
THROUGH = {
    "what clients of VPN server main send to the internal network",
    "the way to the internet",
}
BACK = {"the answers of the internet"}
OUTPUT = {
    "VRRP to the peer 10.77.0.3",
    "VRRP to the peer 198.51.100.3",
    "state sync to the peer",
    "what this node tells gw2 of leases",
}
ANSWERS = {"its own answers"}
OURS = "-A {0} -j GATEWAY-{0}\n"


def text(name):
    return (TEXTS / name).read_text()


@pytest.fixture
def find(plan):
    """What is said of a node with a public virtual IP, and state sync over a link of its own."""
    site = plan(LINK)

    def found(save="", *nft, backend="nft", legacy=""):
        return _gateway_foreign.refusals(site, backend, {"nft": save, "legacy": legacy}, list(nft))

    return found


def refused(sentences):
    """What is refused, of all sentences."""
    found = re.findall(r" refuses? (.+), (?:before our|whatever our)", "\n".join(sentences))
    return {word for words in found for word in words.split(", ")}


def ruleset(*rules, hook="INPUT", policy="ACCEPT", ours=False, table="filter"):
    """An iptables-save of one built-in chain, ours last if it is there."""
    chains = f":{hook} {policy} [0:0]\n:MORE - [0:0]\n" + (f":GATEWAY-{hook} - [0:0]\n" * ours)
    lines = "".join(f"-A {rule if rule[0] == 'M' else f'{hook} {rule}'}\n" for rule in rules)
    return f"*{table}\n{chains}{lines}{OURS.format(hook) * ours}COMMIT\n"


# --------------------------------------------------------------------------------------------------
# Those that are to be met


def test_ufw_that_rejects(find):
    rejecting, broadcast = find(text("ufw-reject.save"))
    assert rejecting == (
        "on this node ufw (iptables-nft: table filter, chain ufw-reject-input, rule -j REJECT"
        " --reject-with icmp-port-unreachable) refuses VRRP of the peer 10.77.0.3, VRRP of the peer"
        " 198.51.100.3, state sync of the peer, what gw2 tells of leases, DNS, time, the VPN (udp"
        " port 1194), before our rules are asked: `ufw disable`, and write its rules as"
        " gateway:firewall:input and forward"
    )
    assert "chain ufw-skip-to-policy-input, " in broadcast
    assert refused([broadcast]) == {"DHCP"}


def test_ufw_that_denies_gets_in_the_way_of_broadcasts_only(find):
    """Its policy is not asked: ours come before."""
    assert refused(find(text("ufw-deny.save"))) == {"DHCP"}


def test_ufw_in_the_other_iptables(find):
    """Both are asked: the policies count as well."""
    found = find("", legacy=text("ufw-deny.save"))
    assert refused(found) == INPUT | THROUGH
    assert all("ufw (iptables-legacy: table filter, " in line for line in found)
    assert all("whatever our rules say" in line for line in found)
    legacy = find("", legacy=text("ufw-deny.save"), backend="legacy")
    assert refused(legacy) == {"DHCP"}


def test_ufw_after_us_is_in_front_after_a_boot(find):
    """Its jumps are put behind ours. Ours, loaded anew, is put behind its."""
    save = text("ufw-reject.save")
    first = save.replace("-A INPUT -j", OURS.format("INPUT") + "-A INPUT -j", 1)
    found = find(first.replace("*filter\n", "*filter\n:GATEWAY-INPUT - [0:0]\n"))
    assert refused(found) == INPUT
    assert all("will, when our rules are loaded anew (at a boot), refuse" in line for line in found)
    last = save.replace("COMMIT", OURS.format("INPUT") + "COMMIT")
    assert find(last.replace("*filter\n", "*filter\n:GATEWAY-INPUT - [0:0]\n")) == find(save)


def test_firewalld_in_nftables(find):
    found = find("", text("firewalld.json"))
    assert refused(found) == INPUT | THROUGH
    assert all(
        line.startswith("on this node firewalld (nft: table inet firewalld, chain filter_")
        and line.endswith(": `systemctl disable --now firewalld`, and write its rules as"
                          " gateway:firewall:input and forward")
        for line in found
    )  # fmt: skip


def test_firewalld_in_iptables(find):
    """Ours come before; if somebody has put ours behind its, it is named."""
    save = text("firewalld.save")
    assert find(save) == []
    behind = save.replace("COMMIT", OURS.format("INPUT") + "COMMIT")
    found = find(behind.replace("*filter\n", "*filter\n:GATEWAY-INPUT - [0:0]\n"))
    assert refused(found) == INPUT
    assert all(line.startswith("on this node firewalld (") for line in found)


def test_a_table_of_somebodys_own(find):
    """What test/unit/foreign/own.nft lets through, and what it does not."""
    assert find("", text("own.json")) == [
        "on this node nft: table inet mine, chain input, policy drop refuses state sync of the"
        " peer, what gw2 tells of leases, whatever our rules say: let it pass there too, by plain"
        " rules, or delete the table where it is loaded from and write its rules as"
        " gateway:firewall:input and forward"
    ]


@pytest.mark.parametrize("save", ["docker.save", "none"])
def test_who_is_in_nobodys_way(find, save):
    """Docker, libvirt and fail2ban, with policies of DROP, before us and with us."""
    save = text(save) if save != "none" else ""
    assert find(save, text("harmless.json")) == []
    chains = "*filter\n:GATEWAY-INPUT - [0:0]\n:GATEWAY-FORWARD - [0:0]\n"
    jumps = OURS.format("INPUT") + OURS.format("FORWARD")
    assert find(save.replace("*filter\n", chains).replace("COMMIT", f"{jumps}COMMIT", 1)) == []


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("hook", ["INPUT", "FORWARD"])
def test_a_policy_of_drop_does_not_matter_where_ours_accept(find, hook, ours):
    assert find(ruleset(hook=hook, policy="DROP", ours=ours)) == []


def test_a_policy_of_drop_matters_where_ours_do_not_accept(find):
    assert refused(find(ruleset(hook="OUTPUT", policy="DROP", ours=True))) == OUTPUT | ANSWERS
    assert refused(find(ruleset(policy="DROP", table="mangle"))) == INPUT | OWN
    arriving = find(ruleset(hook="PREROUTING", policy="DROP", table="raw", ours=True))
    assert refused(arriving) == INPUT | THROUGH | OWN


@pytest.mark.parametrize("ours", [False, True])
def test_what_the_pillar_lets_out_counts_before_it_is_loaded(plan, ours):
    lines = ["-p vrrp -j ACCEPT", "-d 10.77.0.0/24 -j ACCEPT"]
    save = ruleset(hook="OUTPUT", policy="DROP", ours=ours)

    def found(*raw):
        site = plan(LINK | {"firewall": {"raw": {"filter": {"OUTPUT": list(raw)}}}})
        return refused(_gateway_foreign.refusals(site, "nft", {"nft": save, "legacy": ""}, []))

    told = {"what this node tells gw2 of leases"}
    assert found(*lines) == {"state sync to the peer"} | told
    lines.append("-o eth2 -p udp --dport 3780 -j ACCEPT")
    assert found(*lines) == told
    assert found(*lines, "-o eth2 -p tcp --dport 3781 -j ACCEPT") == set()
    # What our own chain refuses, the pillar wants.
    assert found("-j DROP") == set()


def test_everything_there_is_can_be_refused(find):
    """Each of the packets is looked at."""
    chains = ["input", "forward", "output"]
    assert refused(find("", *(table(chain, "drop") for chain in chains))) == (
        INPUT | THROUGH | BACK | OWN | OUTPUT | ANSWERS
    )


def test_what_the_site_does_not_have_is_not_asked_for(plan):
    changes = {"vpn": ..., "dhcp": {"enabled": False}, "firewall": {"egress": "deny"}}
    site = plan(changes)
    texts = [table(chain, "drop") for chain in ("input", "forward", "output")]
    found = _gateway_foreign.refusals(site, "nft", {"nft": "", "legacy": ""}, texts)
    assert (
        refused(found)
        == {
            "VRRP of the peer 10.77.0.3",
            "VRRP to the peer 10.77.0.3",
            "DNS",
            "time",
        }
        | OWN
        | ANSWERS
    )


# --------------------------------------------------------------------------------------------------
# Rules of iptables


@pytest.mark.parametrize(
    ("rule", "caught"),
    [
        ("", INPUT | OWN),
        ("-i eth0", {"VRRP of the peer 10.77.0.3"} | INTERNAL),
        ("-i eth+", INPUT | OWN),
        ("! -i eth0", {"VRRP of the peer 198.51.100.3"} | SYNC | VPN | OWN),
        ("-s 10.77.0.0/24", {"VRRP of the peer 10.77.0.3", "DNS", "time"}),
        ("-s 10.77.0.99/32", set()),
        ("! -s 10.77.0.99/32", INPUT - {"DNS", "time"} | OWN),
        ("! -s 10.0.0.0/8", {"VRRP of the peer 198.51.100.3", "DHCP"} | VPN | OWN),
        ("-d 10.77.0.1/32", {"DNS"}),
        ("-p vrrp", VRRP),
        ("-p 112", VRRP),
        ("-p tcp", {"DNS"} | LEASES),
        ("! -p udp", VRRP | {"DNS"} | LEASES),
        ("-p ospf", set()),
        ("-p udp -m udp --dport 67", {"DHCP"}),
        ("-p udp -m udp --sport 68", {"DHCP"}),
        ("-p udp -m udp --sport 1024:65535 --dport 1:100", {"DNS"}),
        ("-p udp -m udp --sport 1024:2000", set()),
        ("-p udp -m udp ! --sport 1:1023", STATE_SYNC | VPN | {"DNS", "time"}),
        ("-p udp -m udp ! --sport 1:1024", set()),
        ("-p udp -m udp ! --sport 65535", {"DHCP"} | OWN),
        ("-p udp -m udp ! --dport 1:60000", set()),
        ("-p udp -m multiport --dports 67,120:130", {"DHCP", "time"}),
        ("-p udp -m multiport ! --dports 53,67,123,1194", STATE_SYNC),
        ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN", {"DNS"} | LEASES),
        ("-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN", set()),
        ("-m conntrack --ctstate NEW", INTERNAL | VPN | LEASES),
        ("-m state --state NEW,ESTABLISHED", INTERNAL | VPN | LEASES | OWN),
        ("-m conntrack ! --ctstate ESTABLISHED", INPUT),
        ("-m conntrack --ctstate INVALID,DNAT", set()),
        ("-m addrtype --dst-type BROADCAST", {"DHCP"}),
        ("-m addrtype ! --dst-type LOCAL", {"DHCP"}),
        ("-m addrtype --src-type LOCAL", set()),
        ("-m addrtype --src-type UNICAST", (INPUT | OWN) - {"DHCP"}),
        ("-m addrtype --dst-type LOCAL --limit-iface-in", set()),
        ("-m pkttype --pkt-type broadcast", {"DHCP"}),
        ("-m iprange --src-range 10.77.0.2-10.77.0.4", {"VRRP of the peer 10.77.0.3"}),
        ("-m iprange --dst-range 10.77.0.1-10.77.0.1", {"DNS"}),
        ("-p vrrp -m ttl --ttl-eq 255", VRRP),
        ("-p vrrp -m ttl --ttl-eq 254", set()),
        ("-p vrrp -m ttl --ttl-gt 254", VRRP),
        ("-p vrrp -m ttl --ttl-gt 255", set()),
        ("-m ttl --ttl-gt 10", INPUT | OWN),
        ("-p vrrp -m ttl --ttl-lt 255", set()),
        ('-i eth2 -m comment --comment "x -j ACCEPT \\"y\\""', SYNC),
        ('-i eth2 -m comment --comment "-x"', SYNC),
        # What nobody here understands matches nothing, in no sense.
        ("-m mark --mark 0x1", set()),
        ("-m mark ! --mark 0x1", set()),
        ("-m socket", set()),
        ("-m limit --limit 3/min", set()),
        ("-m set ! --match-set bad src", set()),
        ("-s 10.77.0.0/255.0.255.0", set()),
        ("-p udp -m udp --dport domain", set()),
        ("! -f", INPUT | OWN),
    ],
)  # fmt: skip
def test_matches_of_iptables(find, rule, caught):
    """As the rule that drops, and as the one that accepts before everything else is dropped."""
    for target in ("DROP", "REJECT --reject-with tcp-reset"):
        assert refused(find("", legacy=ruleset(f"{rule} -j {target}".strip()))) == caught
    passing = [f"{rule} -j ACCEPT".strip(), "-p tcp -m mark --mark 1"]
    found = refused(find("", legacy=ruleset(*passing, policy="DROP")))
    # DNS is two packets: that one of them is refused is enough.
    assert found - {"DNS"} == (INPUT | OWN) - caught - {"DNS"}


@pytest.mark.parametrize(
    ("rules", "caught"),
    [
        (["-j MORE", "MORE -i eth2 -j DROP"], SYNC),
        (["-j MORE", "-i eth2 -j DROP", "MORE -j RETURN", "MORE -j DROP"], SYNC),
        (["-j MORE", "-j DROP", "MORE -j ACCEPT"], set()),
        (["-j MORE", "-i eth2 -j DROP", "MORE -i eth9 -j ACCEPT"], SYNC),
        (["-g MORE", "-j DROP", "MORE -i eth9 -j DROP"], set()),
        (["-g MORE", "-j DROP", "MORE -i eth2 -j DROP"], SYNC),
        (["-j LOG --log-prefix \"x -j DROP\"", "-i eth2 -j DROP"], SYNC),
        (["-j NFQUEUE --queue-num 0", "-j DROP"], set()),
        (["-i eth2 -j RETURN", "-j DROP"], (INPUT | OWN) - SYNC),
    ],
)  # fmt: skip
def test_the_way_through_chains_of_iptables(find, rules, caught):
    assert refused(find("", legacy=ruleset(*rules))) == caught


def test_what_the_node_sends_has_a_source_of_its_own(find):
    for rule, caught in {"": OUTPUT | ANSWERS, "! ": set()}.items():
        save = ruleset(f"-m addrtype {rule}--src-type LOCAL -j DROP", hook="OUTPUT")
        assert refused(find("", legacy=save)) == caught


def test_ours_come_behind_jumps_only(find):
    """The place of a new jump, as the loader's."""
    assert find(ruleset("-j DROP")) == []
    assert find(ruleset("-p udp -j LOG", "-j MORE", "MORE -j DROP")) == []
    assert refused(find(ruleset("-j MORE", "-j DROP", "MORE -i eth2 -j DROP"))) == SYNC
    bridge = ruleset("-i docker0 -j ACCEPT", "-i br-1 -j ACCEPT", "-j MORE", "MORE -j DROP")
    assert refused(find(bridge)) == INPUT | OWN
    # Where it is already, it is asked where it is.
    assert refused(find(ruleset("-j DROP", ours=True))) == INPUT | OWN


def test_counters_make_no_difference(find):
    save = re.sub(r"(?m)^-A", "[12:345] -A", text("ufw-reject.save"))
    assert find(save) == find(text("ufw-reject.save"))


# --------------------------------------------------------------------------------------------------
# Rules of nftables


def table(hook="input", policy="accept", *rules, sets=(), **chains):
    """What nft prints of a table: one base chain, and more chains without a hook."""
    where = {"family": "inet", "table": "x"}
    items = [{"set": where | {"name": name, "elem": elem}} for name, elem in dict(sets).items()]
    base = where | {"name": hook, "type": "filter", "hook": hook, "prio": 0, "policy": policy}
    items += [{"chain": base}, *({"chain": where | {"name": name}} for name in chains)]
    for name, content in {hook: rules, **chains}.items():
        for handle, expr in enumerate(content):
            items.append({"rule": where | {"chain": name, "handle": handle, "expr": expr}})
    return json.dumps({"nftables": items})


def match(left, right, op="=="):
    return {"match": {"op": op, "left": left, "right": right}}


def meta(key):
    return {"meta": {"key": key}}


def load(protocol, key):
    return {"payload": {"protocol": protocol, "field": key}}


STATE = {"ct": {"key": "state"}}
SET_10 = {"set": [{"prefix": {"addr": "10.0.0.0", "len": 8}}, "0.0.0.0"]}
SYN = {"&": [load("tcp", "flags"), ["syn", "ack"]]}
DROP, ACCEPT, REJECT = {"drop": None}, {"accept": None}, {"reject": {"type": "icmpx"}}


@pytest.mark.parametrize(
    ("found", "caught"),
    [
        (match(meta("iifname"), "eth0"), {"VRRP of the peer 10.77.0.3"} | INTERNAL),
        (match(meta("iif"), "eth0"), {"VRRP of the peer 10.77.0.3"} | INTERNAL),
        (match(meta("iifname"), "eth*"), INPUT | OWN),
        (match(meta("iifname"), {"set": ["eth2", "lo"]}), SYNC),
        (match(meta("iifname"), {"set": ["eth0", "eth1"]}, "!="), SYNC),
        (match(meta("oifname"), "eth0", "!="), set()),
        (match(meta("l4proto"), "vrrp"), VRRP),
        (match(meta("l4proto"), 112), VRRP),
        (match(load("ip", "protocol"), {"set": ["udp", "tcp"]}, "!="), VRRP),
        (match(meta("nfproto"), "ipv4"), INPUT | OWN),
        (match(meta("nfproto"), "ipv6"), set()),
        (match(meta("pkttype"), "broadcast"), {"DHCP"}),
        (match(load("ip", "saddr"), SET_10), INPUT - VPN - {"VRRP of the peer 198.51.100.3"}),
        (match(load("ip", "saddr"), SET_10, "!="), VPN | OWN | {"VRRP of the peer 198.51.100.3"}),
        (match(load("ip", "saddr"), {"range": ["10.77.0.3", "10.77.0.5"]}),
         {"VRRP of the peer 10.77.0.3"}),
        (match(load("ip", "saddr"), {"range": ["10.77.0.255", "10.77.1.5"]}, "!="),
         INPUT - {"DNS", "time"} | OWN),
        (match(load("ip", "saddr"), {"range": ["10.76.0.9", "10.77.0.0"]}, "!="),
         INPUT - {"DNS", "time"} | OWN),
        (match(load("ip", "daddr"), "10.77.0.1"), {"DNS"}),
        (match(load("ip6", "daddr"), "fe80::", "!="), set()),
        (match(load("udp", "dport"), 67), {"DHCP"}),
        (match(load("th", "dport"), {"set": [{"range": [60, 70]}, 123]}), {"DHCP", "time"}),
        (match(load("udp", "sport"), 68), {"DHCP"}),
        (match(load("udp", "dport"), {"range": [1, 1500]}, "!="), STATE_SYNC),
        (match(load("tcp", "dport"), 1, "!="), {"DNS"} | LEASES),
        (match(load("ip", "ttl"), 255), VRRP),
        (match(STATE, "new", "in"), INTERNAL | VPN | LEASES),
        (match(STATE, ["new", "untracked"], "in"), INPUT),
        (match(STATE, {"set": ["established", "related"]}), OWN),
        (match(STATE, "invalid", "in"), set()),
        (match({"ct": {"key": "status"}}, "dnat", "in"), set()),
        (match({"fib": {"result": "type", "flags": ["daddr"]}}, "local", "!="), {"DHCP"}),
        (match({"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, False), set()),
        (match(SYN, "syn"), {"DNS"} | LEASES),
        (match(load("tcp", "flags"), "syn", "in"), {"DNS"} | LEASES),
        (match(load("ip", "saddr"), "@few"), {"VRRP of the peer 10.77.0.3"} | SYNC),
        (match(load("ip", "saddr"), "@unknown", "!="), set()),
        (match({"concat": [meta("iifname"), load("udp", "dport")]},
               {"set": [{"concat": ["eth0", 67]}, {"concat": ["eth1", 123]}]}), {"DHCP"}),
        (match({"concat": [meta("iifname"), load("udp", "dport")]},
               {"set": [{"concat": ["eth1", 1194]}]}, "!="), STATE_SYNC | INTERNAL),
        (match({"concat": [meta("iifname"), load("udp", "dport")]}, {"set": ["eth0"]}), set()),
        (match({"&": [load("ip", "dscp"), 3]}, 1, "!="), set()),
        (match(load("ip", "saddr"), {"set": [{"unknown": 1}]}, "!="), set()),
        (match(load("udp", "dport"), {"range": ["domain", "ntp"]}), set()),
        (match(meta("mark"), 1, "!="), set()),
        (match({"ct": {"key": "zone"}}, 1, "!="), set()),
        (match(load("udp", "dport"), 1, "<"), set()),
        ({"limit": {"rate": 1, "per": "second"}}, set()),
        ({"xt": {"type": "match", "name": "addrtype"}}, set()),
        ({"counter": {"packets": 0, "bytes": 0}}, INPUT | OWN),
        ({"log": {"prefix": "x"}}, INPUT | OWN),
    ],
)  # fmt: skip
def test_matches_of_nftables(find, found, caught):
    few = {"few": ["10.77.0.3", {"elem": {"val": "10.78.0.2", "timeout": 60}}]}
    for verdict in (DROP, REJECT):
        assert refused(find("", table("input", "accept", [found, verdict], sets=few))) == caught
    passed = refused(find("", table("input", "drop", [found, ACCEPT], sets=few)))
    assert passed - {"DNS"} == (INPUT | OWN) - caught - {"DNS"}


JUMP = [{"jump": {"target": "more"}}]
MAP = {"set": [["eth2", DROP], ["eth9", ACCEPT]]}


@pytest.mark.parametrize(
    ("rules", "more", "caught"),
    [
        ([JUMP, [DROP]], [[match(meta("iifname"), "eth2"), {"return": None}], [ACCEPT]], SYNC),
        ([[{"goto": {"target": "more"}}], [DROP]], [], set()),
        ([JUMP], [[match(meta("iifname"), "eth2"), DROP]], SYNC),
        ([[{"vmap": {"key": meta("iifname"), "data": MAP}}]], [], SYNC),
        ([[{"vmap": {"key": meta("iifname"), "data": "@places"}}]], [], SYNC),
        ([[{"vmap": {"key": load("tcp", "dport"), "data": {"set": [[67, DROP]]}}}]], [], set()),
        ([[{"vmap": {"key": meta("mark"), "data": MAP}}]], [], set()),
        ([[{"vmap": {"key": meta("iifname"), "data": "@unknown"}}]], [], set()),
        ([[{"queue": {"num": 1}}], [DROP]], [], set()),
        ([[{"something": "new"}, DROP]], [], set()),
        ([[{"match": {}}, DROP]], [], set()),
    ],
)  # fmt: skip
def test_the_way_through_chains_of_nftables(find, rules, more, caught):
    text = table("input", "accept", *rules, sets={"places": MAP["set"]}, more=more)
    assert refused(find("", text)) == caught


@pytest.mark.parametrize(("last", "caught"), [("10.1.2.3", False), ("10.77.0.3", True)])
def test_a_list_of_banned_addresses_is_read_once_for_all_packets(find, monkeypatch, last, caught):
    """Such lists have tens of thousands, and each apply looks."""
    read = []
    parse = _gateway_foreign_nft.ip_address

    def count(text):
        read.append(text)
        return parse(text)

    monkeypatch.setattr(_gateway_foreign_nft, "ip_address", count)
    banned = [{"elem": {"val": f"192.0.2.{n}", "timeout": 600}} for n in range(100)]
    rule = [match(load("ip", "saddr"), "@banned"), DROP]
    text = table("input", "accept", rule, sets={"banned": [*banned, {"elem": {"val": last}}]})
    assert bool(refused(find("", text))) is caught
    assert len(read) == 101


@pytest.mark.parametrize(
    ("hook", "caught"),
    [
        ("prerouting", INPUT | THROUGH | OWN),
        ("input", INPUT | OWN),
        ("forward", THROUGH | BACK),
        ("output", OUTPUT | ANSWERS),
        ("postrouting", set()),
        ("ingress", set()),
    ],
)
def test_hooks_of_nftables(find, hook, caught):
    assert refused(find("", table(hook, "drop"))) == caught
    assert refused(find("", table(hook, "accept", [DROP]))) == caught


def test_the_internet_has_its_port(find):
    for key, caught in {"dport": {"the way to the internet"}, "sport": BACK}.items():
        rule = [match(load("tcp", key), 443), DROP]
        assert refused(find("", table("forward", "accept", rule))) == caught


def test_whose_a_table_is():
    def listing(*tables):
        return json.dumps({"nftables": [{"metainfo": {}}, *({"table": t} for t in tables)]})

    def of(family, name):
        return {"family": family, "name": name, "handle": 1}

    save = "# Generated by iptables-save\n*nat\nCOMMIT\n*filter\nCOMMIT\n"
    tables = [of("ip", "filter"), of("ip6", "filter"), of("ip", "nat"), of("bridge", "x")]
    assert _gateway_foreign_nft.foreign_tables(listing(*tables), save) == []
    assert _gateway_foreign_nft.foreign_tables(
        listing(of("inet", "filter"), of("ip", "mine")), save
    ) == [
        ("inet", "filter"),
        ("ip", "mine"),
    ]
    # Where iptables cannot make sense of it, or is not there.
    strange = "# Table `filter' is incompatible, use 'nft' tool.\n"
    for other in (strange, ""):
        assert _gateway_foreign_nft.foreign_tables(listing(of("ip", "filter")), other) == [
            ("ip", "filter")
        ]
    for nothing in ("", "Error: no", "{}"):
        assert _gateway_foreign_nft.foreign_tables(nothing, save) == []


def test_strange_texts_are_no_reason_to_fail(find):
    assert find("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT\n-A INPUT -j\nCOMMIT\n", "no", "{}") == []
