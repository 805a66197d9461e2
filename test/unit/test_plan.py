"""The planner, by example. What holds for every site is in test_plan_properties.py."""

import re
from functools import reduce

import _gateway_nodes
import _gateway_plan
import pytest

SECRET = "c2VjcmV0c2VjcmV0c2VjcmV0"


def pem(label, body=SECRET):
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"


# --------------------------------------------------------------------------------------------------
# What is rejected: a change of the example (`...` removes a key), where the error is, what it says

ADDRESSES = {
    "public:virtual_ip": "198.51.100.10",
    "public:addresses": ["198.51.100.11", "198.51.100.12"],
}
REJECTED = {
    "unknown key": (
        {"vpn:servers:main:prot": "udp"},
        "vpn:servers:main:prot",
        'unknown key; did you mean "proto"?',
    ),
    "unknown key at the top": ({"host": {}}, "host", 'unknown key; did you mean "hosts"?'),
    "unknown key like no other": ({"nodes:gw1:xyz": 1}, "nodes:gw1:xyz", "unknown key"),
    "unknown key in a list": (
        {"nat:forwards:0:destination": "backend01"},
        "nat:forwards:0:destination",
        "unknown key",
    ),
    "unknown node in subnets": (
        {"vpn:servers:main:subnets": {"gw3": "10.8.9.0/24"}},
        "vpn:servers:main:subnets:gw3",
        'unknown key; did you mean "gw2"?',
    ),
    "key that is no text": (
        {"hosts": {7: {"ip": "10.77.0.7"}}, "nat": ...},
        "hosts:7",
        "must be text, is a number (7); put it in quotes",
    ),
    # missing
    "missing domain": ({"domain": ...}, "domain", "missing"),
    "missing section": ({"public": ...}, "public", "missing"),
    "missing virtual IP": ({"internal:virtual_ip": ...}, "internal:virtual_ip", "missing"),
    "missing id": ({"nodes:gw2:id": ...}, "nodes:gw2:id", "missing"),
    "missing address": ({"hosts:backend01:ip": ...}, "hosts:backend01:ip", "missing"),
    "missing target": ({"nat:forwards:0:to": ...}, "nat:forwards:0:to", "missing"),
    "missing key": ({"vpn:pki:ca": ...}, "vpn:pki:ca", "missing; a VPN server needs it"),
    "missing key of one node": (
        {"vpn:pki:key": ..., "nodes:gw1:pki": {"key": "/etc/gw1.key"}},
        "vpn:pki:key",
        "missing, and gateway:nodes:gw2:pki:key is not there either",
    ),
    "no nodes": ({"nodes": {}}, "nodes", "a site needs at least one node"),
    "no nodes key": ({"nodes": ...}, "nodes", "a site needs at least one node"),
    # wrong type
    "empty mapping": ({"dhcp": None}, "dhcp", "must be a mapping, is empty"),
    "list for a mapping": ({"nodes:gw1": []}, "nodes:gw1", "must be a mapping, is a list"),
    "mapping for a list": (
        {"dns:forwarders": {}},
        "dns:forwarders",
        "must be a list, is a mapping",
    ),
    "number for text": (
        {"internal:interface": 0},
        "internal:interface",
        "must be text, is a number (0); put it in quotes",
    ),
    "text for a number": (
        {"nat:forwards:0:to_port": "0443"},
        "nat:forwards:0:to_port",
        "must be a whole number, is text (0443)",
    ),
    "fraction": (
        {"nodes:gw1:id": 1.5},
        "nodes:gw1:id",
        "must be a whole number, is a number (1.5)",
    ),
    "truth for a number": (
        {"nodes:gw1:id": True},
        "nodes:gw1:id",
        "must be a whole number, is true or false (True)",
    ),
    "text for truth": (
        {"dhcp:enabled": "no"},
        "dhcp:enabled",
        "must be true or false, is text (no)",
    ),
    # addresses
    "malformed address": (
        {"hosts:backend01:ip": "10.77.0.310"},
        "hosts:backend01:ip",
        "10.77.0.310 is not an IPv4 address",
    ),
    "node outside its network": (
        {"nodes:gw2:internal": "10.78.0.3"},
        "nodes:gw2:internal",
        "10.78.0.3 is not inside 10.77.0.0/24",
    ),
    "public address outside its network": (
        {"nodes:gw2:public": "198.51.101.3"},
        "nodes:gw2:public",
        "198.51.101.3 is not inside 198.51.100.0/24",
    ),
    "virtual IP outside its network": (
        {"internal:virtual_ip": "10.78.0.1"},
        "internal:virtual_ip",
        "10.78.0.1 is not inside 10.77.0.0/24",
    ),
    "virtual IP of a node": (
        {"internal:virtual_ip": "10.77.0.3"},
        "nodes:gw2:internal",
        "address 10.77.0.3 is taken already, by gateway:internal:virtual_ip",
    ),
    "public virtual IP of a node": (
        {"public:virtual_ip": "198.51.100.2"},
        "nodes:gw1:public",
        "address 198.51.100.2 is taken already, by gateway:public:virtual_ip",
    ),
    "public virtual IP outside its network": (
        {"public:virtual_ip": "192.0.2.1"},
        "public:virtual_ip",
        "192.0.2.1 is not inside 198.51.100.0/24",
    ),
    "public virtual IP without a network": (
        {"public": {"interface": "eth1", "virtual_ip": "198.51.100.1"}},
        "public:network",
        "missing; a public virtual IP needs it",
    ),
    "public virtual IP without a node's address": (
        {"public:virtual_ip": "198.51.100.1", "nodes:gw2:public": ...},
        "nodes:gw2:public",
        "missing; a public virtual IP needs it on each node",
    ),
    "network's own address": (
        {"nodes:gw1:internal": "10.77.0.0"},
        "nodes:gw1:internal",
        "10.77.0.0 is the address of the network 10.77.0.0/24 itself",
    ),
    "broadcast address": (
        {"hosts:backend01:ip": "10.77.0.255"},
        "hosts:backend01:ip",
        "10.77.0.255 is the broadcast address of 10.77.0.0/24",
    ),
    "reservation outside the internal network": (
        {"hosts:cam": {"ip": "10.78.0.9", "mac": "02:00:00:00:00:09"}},
        "hosts:cam:ip",
        "10.78.0.9 is not inside 10.77.0.0/24",
    ),
    # networks
    "malformed network": (
        {"public:network": "198.51.100.0/33"},
        "public:network",
        "198.51.100.0/33 is not an IPv4 network such as 10.77.0.0/24",
    ),
    "network with host bits": (
        {"internal:network": "10.77.0.1/24"},
        "internal:network",
        "10.77.0.1/24 has host bits set; the network is 10.77.0.0/24",
    ),
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
    "public overlaps the internal network": (
        {
            "public:network": "10.77.0.128/25",
            "nodes:gw1:public": "10.77.0.201",
            "nodes:gw2:public": "10.77.0.202",
        },
        "public:network",
        "10.77.0.128/25 overlaps 10.77.0.0/24 of gateway:internal:network",
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
    # duplicates
    "same id": (
        {"nodes:gw2:id": 1},
        "nodes:gw2:id",
        "id 1 is taken already, by gateway:nodes:gw1:id",
    ),
    "same priority": (
        {"nodes:gw2:priority": 250},
        "nodes:gw2:priority",
        "priority 250 is taken already, by gateway:nodes:gw1:priority",
    ),
    "same address of nodes": (
        {"nodes:gw2:public": "198.51.100.2"},
        "nodes:gw2:public",
        "address 198.51.100.2 is taken already, by gateway:nodes:gw1:public",
    ),
    "host with a node's address": (
        {"hosts:backend01:ip": "10.77.0.2"},
        "hosts:backend01:ip",
        "address 10.77.0.2 is taken already, by gateway:nodes:gw1:internal;"
        " a name for it is one of gateway:nodes:gw1:aliases",
    ),
    "host with the virtual IP": (
        {"hosts:gateway": {"ip": "10.77.0.1"}},
        "hosts:gateway:ip",
        "address 10.77.0.1 is taken already, by gateway:internal:virtual_ip;"
        " a name for it is one of gateway:internal:aliases",
    ),
    "host with the public virtual IP": (
        {**ADDRESSES, "hosts:gateway": {"ip": "198.51.100.10"}},
        "hosts:gateway:ip",
        "address 198.51.100.10 is taken already, by gateway:public:virtual_ip;"
        " a name for it is one of gateway:public:aliases",
    ),
    "host with an address of its own at a node": (
        {"hosts:gateway": {"ip": "198.51.100.2"}},
        "hosts:gateway:ip",
        "address 198.51.100.2 is taken already, by gateway:nodes:gw1:public",
    ),
    "same MAC address in a list": (
        {"hosts:backend01:mac": ["02:00:00:00:00:10", "02:00:00:00:00:11", "02-00-00-00-00-10"]},
        "hosts:backend01:mac:2",
        "MAC address 02:00:00:00:00:10 is taken already, by gateway:hosts:backend01:mac:0",
    ),
    "too many MAC addresses": (
        {"hosts:backend01:mac": [f"02:00:00:00:01:{n:02}" for n in range(17)]},
        "hosts:backend01:mac",
        "17 of them; a host has at most 16",
    ),
    "alias of a node and a host": (
        {"nodes:gw2:aliases": ["www"]},
        "hosts:backend01:aliases:0",
        "host name www is taken already, by gateway:nodes:gw2:aliases:0",
    ),
    "alias of the virtual IP and a node": (
        {"internal:aliases": "gw1.example.internal"},
        "nodes:gw1",
        "host name gw1 is taken already, by gateway:internal:aliases",
    ),
    "wildcard of two": (
        {"nodes:gw2:aliases": ["*.apps"], "hosts:backend01:aliases": ["*.apps.example.internal"]},
        "hosts:backend01:aliases:0",
        "host name *.apps is taken already, by gateway:nodes:gw2:aliases:0",
    ),
    "wildcard alone": (
        {"hosts:backend01:aliases": ["*"]},
        "hosts:backend01:aliases:0",
        "* is not a domain name",
    ),
    "wildcard within": (
        {"hosts:backend01:aliases": ["a.*.b"]},
        "hosts:backend01:aliases:0",
        "a.*.b is not a domain name",
    ),
    "alias of no public virtual IP": (
        {"public:aliases": ["www2"]},
        "public:aliases:0",
        "is a name for gateway:public:virtual_ip, and there is none",
    ),
    "alias too long with the domain": (
        {"domain": ".".join(["d" * 61] * 4), "internal:aliases": ["*.apps"]}
        | {"nodes:gw1:aliases": [], "hosts": {}, "nat": {}},
        "internal:aliases:0",
        "*.apps.dddddddddddddddddddddddddddddd... has 254 characters; DNS takes 253",
    ),
    # one value, and not several
    "list for one text": (
        {"internal:interface": ["eth0", "eth2"]},
        "internal:interface",
        "must be one text, is a list",
    ),
    "list for one number": (
        {"vpn:servers:main:prefix": [24, 25]},
        "vpn:servers:main:prefix",
        "must be one whole number, is a list",
    ),
    "list for one of some": (
        {"nat:forwards:0:proto": ["tcp", "udp"]},
        "nat:forwards:0:proto",
        "must be one of tcp, udp, both, is a list",
    ),
    "list of protocols": (
        {"firewall": {"input": [{"proto": ["tcp", "udp"], "ports": 53}]}},
        "firewall:input:0:proto",
        "must be one protocol (both is tcp and udp), is a list",
    ),
    "list for truth": (
        {"dhcp:enabled": [True]},
        "dhcp:enabled",
        "must be true or false, is a list",
    ),
    "list of intervals": (
        {"failover": {"advert_interval": [1, 2]}},
        "failover:advert_interval",
        "must be one number of seconds, is a list",
    ),
    "nothing for a text": (
        {"internal:interface": None},
        "internal:interface",
        "must be one text, is empty",
    ),
    "two pools": (
        {"dhcp:pool": ["10.77.0.100-10.77.0.109", "10.77.0.120-10.77.0.129"]},
        "dhcp:pool",
        "must be one text, is a list; further ranges are dhcp-range lines of gateway:dhcp:settings",
    ),
    "two public virtual IPs": (
        {"public:virtual_ip": ["198.51.100.10", "198.51.100.11"]},
        "public:virtual_ip",
        "must be one text, is a list; further ones are gateway:public:addresses",
    ),
    "pools": (
        {"dhcp:pools": []},
        "dhcp:pools",
        'unknown key; there is only one "pool";'
        " further ranges are dhcp-range lines of gateway:dhcp:settings",
    ),
    "interfaces": (
        {"internal:interfaces": []},
        "internal:interfaces",
        'unknown key; there is only one "interface"',
    ),
    "public2": ({"public2": {}}, "public2", 'unknown key; there is only one "public"'),
    "vpn_2": (
        {"vpn_2": {}},
        "vpn_2",
        'unknown key; there is only one "vpn"; further servers are gateway:vpn:servers',
    ),
    "hosts2, of which there may be many": (
        {"hosts2": {}},
        "hosts2",
        'unknown key; did you mean "hosts"?',
    ),
    "wildcard in a rule": (
        {"hosts:backend01:aliases": ["*.apps"]}
        | {"firewall": {"input": [{"from": "*.apps", "action": "drop"}]}},
        "firewall:input:0:from",
        "there is nothing called *.apps",
    ),
    "macs, of which there may be some": (
        {"hosts:backend01:macs": []},
        "hosts:backend01:macs",
        'unknown key; did you mean "mac"?',
    ),
    "ports of a forward": (
        {"nat:forwards:0:ports": [1]},
        "nat:forwards:0:ports",
        'unknown key; did you mean "port"?',
    ),
    **{
        f"{key} with a prefix length": (
            {key: f"{address}/24"},
            key,
            f"{address}/24 is to be written without prefix length: {address}",
        )
        for key, address in {
            "internal:virtual_ip": "10.77.0.1",
            "nodes:gw1:remote": "198.51.100.2",
            "hosts:backend01:ip": "10.77.0.10",
        }.items()
    },
    # DNS and DHCP
    "forwarder that is the virtual IP": (
        {"dns:forwarders": ["198.51.100.100", "10.77.0.1#53"]},
        "dns:forwarders:1",
        "10.77.0.1 is the gateway itself",
    ),
    "forwarder that is a node": (
        {"dns:forwarders": ["198.51.100.3#53"]},
        "dns:forwarders:0",
        "198.51.100.3 is the gateway itself",
    ),
    "port of a forwarder": (
        {"dns:forwarders": ["127.0.0.1#0"]},
        "dns:forwarders:0",
        "0 is not in 1 to 65535; a forwarder is an address, or ADDRESS#PORT",
    ),
    "no port of a forwarder": (
        {"dns:forwarders": ["127.0.0.1#"]},
        "dns:forwarders:0",
        "must be a whole number, is text (''); a forwarder is an address, or ADDRESS#PORT",
    ),
    "DHCP's keyword for DNS": (
        {"dns:settings": {"dhcp-range": "10.77.0.200,10.77.0.210"}},
        "dns:settings:dhcp-range",
        "is not possible: it is of DHCP, which is another process: gateway:dhcp:settings",
    ),
    "DNS's keyword for DHCP": (
        {"dhcp:settings": {"address": "/a.example/10.77.0.20"}},
        "dhcp:settings:address",
        "is not possible: it is of DNS, which is another process: gateway:dns:settings",
    ),
    "port of DNS": (
        {"dns:settings": {"port": 5353}},
        "dns:settings:port",
        "is not possible: clients and the firewall know port 53",
    ),
    "DNSSEC that trusts nobody": (
        {"dns:settings": {"dnssec": True}},
        "dns:settings:dnssec",
        "needs trust-anchor or conf-file: /usr/share/dnsmasq-base/trust-anchors.conf",
    ),
    "zone without a server": (
        {"dns:settings": {"auth-zone": "example.org"}},
        "dns:settings:auth-zone",
        "needs auth-server",
    ),
    "program that a check would run": (
        {"dns:settings": {"conf-script": "/bin/true"}},
        "dns:settings:conf-script",
        "is not possible: the check of a new configuration would run it",
    ),
    "what the check does not see": (
        {"dhcp:settings": {"bind-interfaces": True}},
        "dhcp:settings:bind-interfaces",
        "is not possible: the virtual IP comes and goes, and the formula has bind-dynamic for it",
    ),
    "lease that dnsmasq makes longer": (
        {"dhcp:lease_time": 60},
        "dhcp:lease_time",
        "60 is not in 2m to 7101w, nor infinite",
    ),
    "lease that dnsmasq cannot count": (
        {"dhcp:lease_time": "7102w"},
        "dhcp:lease_time",
        "7102w is not in 2m to 7101w, nor infinite",
    ),
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
    "name with a dot at its end": (
        {"hosts:backend01:aliases": ["www.Company.example."]},
        "hosts:backend01:aliases:0",
        "www.Company.example. is not a domain name; write it without the dot at its end:"
        " www.company.example",
    ),
    "server with a dot at its end": (
        {"ntp:servers": ["pool.ntp.org."]},
        "ntp:servers:0",
        "pool.ntp.org. is neither an IPv4 address nor a domain name; write it without the dot at"
        " its end: pool.ntp.org",
    ),
    "space that nobody sees": (
        {"nodes:gw1:internal": "10.77.0.2 "},
        "nodes:gw1:internal",
        "'10.77.0.2 ' is not an IPv4 address",
    ),
    "forward to a node by its full name": (
        {"nat:forwards:0:to": "gw2.example.internal"},
        "nat:forwards:0:to",
        "gw2 is the gateway itself; what reaches it is for input rules",
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
    "rule for a node by its name": (
        {"firewall:input": [{"from": "GW2.example.internal"}]},
        "firewall:input:0:from",
        "gw2.example.internal is the gateway itself; a rule may name its address",
    ),
    "rule for the virtual IP by its name": (
        {"internal:aliases": ["gateway"], "firewall:groups": {"own": ["gateway"]}},
        "firewall:groups:own:0",
        "gateway is the gateway itself; a rule may name its address",
    ),
    "client and host of one name": (
        {
            "vpn:clients": {"backend01.example.internal": {"id": 5}},
            "firewall:input": [{"from": "backend01.example.internal"}],
        },
        "firewall:input:0:from",
        "backend01.example.internal is a client and a host; rename one of them",
    ),
    "forwarder that is nobody": (
        {"dns:forwarders": ["0.0.0.0"]},
        "dns:forwarders:0",
        "0.0.0.0 is inside 0.0.0.0/8, of which no host has an address; a forwarder is an address,"
        " or ADDRESS#PORT",
    ),
    "time from itself": (
        {"ntp:servers": ["127.0.0.1"]},
        "ntp:servers:0",
        "127.0.0.1 is inside 127.0.0.0/8, of which no host has an address",
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
    "public address that no host has": (
        {"public:network": ..., "nodes:gw1:public": "127.0.0.1"},
        "nodes:gw1:public",
        "127.0.0.1 is inside 127.0.0.0/8, of which no host has an address",
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
    "what chrony's check does not see, in any case": (
        {"ntp:settings": {"Port": 0}},
        "ntp:settings:Port",
        "is not possible: clients and the firewall know port 123",
    ),
    "for what systemd would wait": (
        {"ntp:settings": {"pidfile": "/tmp/pid"}},
        "ntp:settings:pidfile",
        "is not possible: systemd waits for the distribution's",
    ),
    "comment in a setting": (
        {"vpn:servers:main:settings": {"setenv": "name value # why"}},
        "vpn:servers:main:settings:setenv",
        "name value # why has a comment in it (#), which the daemon would leave out",
    ),
    "comment at the beginning of a setting": (
        {"ntp:settings": {"server": ";192.0.2.1"}},
        "ntp:settings:server",
        ";192.0.2.1 has a comment in it (;), which the daemon would leave out",
    ),
    "comment of keepalived's": (
        {"keepalived": {"settings": {"router_id": "gw1!"}}},
        "keepalived:settings:router_id",
        "gw1! has a comment in it (!), which the daemon would leave out",
    ),
    "quote without its second": (
        {"dns:settings": {"txt-record": 'a.example,"v=spf1'}},
        "dns:settings:txt-record",
        'a.example,"v=spf1 has a character that dnsmasq cannot have here (line breaks, anything'
        " but ASCII), or a double quote without its second",
    ),
    "second quote that is hidden": (
        {"dns:settings": {"txt-record": 'a.example,"v=spf1\\"'}},
        "dns:settings:txt-record",
        'a.example,"v=spf1\\" has a character that dnsmasq cannot have here (line breaks, anything'
        " but ASCII), or a double quote without its second",
    ),
    "quote behind a second quote": (
        {"dns:settings": {"txt-record": 'a.example,"v""spf1"'}},
        "dns:settings:txt-record",
        'a.example,"v""spf1" has a character that dnsmasq cannot have here (line breaks, anything'
        " but ASCII), or a double quote without its second",
    ),
    "comment of dnsmasq's": (
        {"dns:settings": {"txt-record": 'a.example,"#" #,x'}},
        "dns:settings:txt-record",
        'a.example,"#" #,x has a comment in it ( #), which dnsmasq would leave out',
    ),
    "line that dnsmasq would break": (
        {"dns:settings": {"txt-record": "x" * 901}},
        "dns:settings:txt-record",
        f"{'x' * 57}... is longer than 900 characters",
    ),
    "settings without DHCP": (
        {"dhcp": {"settings": {"log-dhcp": True}}, "hosts:backend01:mac": ...},
        "dhcp:settings",
        "means nothing without DHCP; it is on with a pool, a host's mac or enabled",
    ),
    "unit that is none": (
        {"health": {"services": ["nginx.conf"]}},
        "health:services:0",
        "nginx.conf is not the name of a systemd unit such as nginx.service"
        " (service, timer, socket, path, target, mount, automount, swap)",
    ),
    "same MAC address": (
        {"hosts:cam": {"ip": "10.77.0.11", "mac": "02-00-00-00-00-10"}},
        "hosts:cam:mac",
        "MAC address 02:00:00:00:00:10 is taken already, by gateway:hosts:backend01:mac",
    ),
    "same host name in other letters": (
        {"hosts:Backend01": {"ip": "10.77.0.11"}},
        "hosts:backend01",
        "host name backend01 is taken already, by gateway:hosts:Backend01",
    ),
    "host called as a node": (
        {"hosts:gw2": {"ip": "10.77.0.11"}},
        "hosts:gw2",
        "host name gw2 is taken already, by gateway:nodes:gw2",
    ),
    "alias of another host": (
        {"hosts:cam": {"ip": "10.77.0.11", "aliases": ["tv", "www"]}},
        "hosts:cam:aliases:1",
        "host name www is taken already, by gateway:hosts:backend01:aliases:0",
    ),
    "alias of another host, in full": (
        {"hosts:cam": {"ip": "10.77.0.11", "aliases": ["www.example.internal"]}},
        "hosts:cam:aliases:0",
        "host name www is taken already, by gateway:hosts:backend01:aliases:0",
    ),
    "same port of two servers": (
        {"vpn:servers:second": {"network": "10.9.0.0/16"}},
        "vpn:servers:second:port",
        "port 1194/udp is taken already, by gateway:vpn:servers:main:port",
    ),
    "forward of a VPN server's port": (
        {"nat:forwards:0": {"port": 1194, "proto": "udp", "to": "backend01"}},
        "nat:forwards:0:port",
        "port 1194/udp is taken already, by gateway:vpn:servers:main:port",
    ),
    "two forwards of one port": (
        {"nat:forwards": [{"port": 443, "to": "backend01"}, {"port": 443, "to": "www"}]},
        "nat:forwards:1:port",
        "port 443/tcp is taken already, by gateway:nat:forwards:0:port",
    ),
    # names
    "host name": (
        {"hosts:back_end": {"ip": "10.77.0.11"}},
        "hosts:back_end",
        "back_end is not a host name (letters, digits and inner hyphens)",
    ),
    "host name of 64 characters": (
        {f"hosts:{'a' * 64}": {"ip": "10.77.0.11"}},
        "hosts:" + "a" * 64,
        f"{'a' * 57}... is not a host name (letters, digits and inner hyphens)",
    ),
    "alias": (
        {"hosts:backend01:aliases": ["www", "-"]},
        "hosts:backend01:aliases:1",
        "- is not a domain name",
    ),
    "domain": ({"domain": "example..internal"}, "domain", "example..internal is not a domain name"),
    "domain of 254 characters": (
        {"domain": "a." * 126 + "aa"},
        "domain",
        f"{'a.' * 28}a... is not a domain name",
    ),
    "domain that is a number": (
        {"domain": "10.8"},
        "domain",
        "10.8 is not a domain name: its last label is a number",
    ),
    "minion id": ({"nodes:g w": {}}, "nodes:g w", "g w is not a minion id"),
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
    "interface name too long": (
        {"internal:interface": "enp0s31f6-vlan77"},
        "internal:interface",
        "enp0s31f6-vlan77 is longer than 15 characters",
    ),
    "interface name": (
        {"nodes:gw1:public_interface": "eth1;reboot"},
        "nodes:gw1:public_interface",
        "eth1;reboot is not an interface name",
    ),
    "one interface for both sides": (
        {"nodes:gw2:public_interface": "eth0"},
        "nodes:gw2:public_interface",
        "eth0 is the internal interface already",
    ),
    "MAC address": (
        {"hosts:backend01:mac": "02:00:00:00:00"},
        "hosts:backend01:mac",
        "02:00:00:00:00 is not a MAC address such as 02:00:00:00:00:10",
    ),
    "MAC address without quotes": (
        {"hosts:backend01:mac": 1555200010},
        "hosts:backend01:mac",
        "YAML read a number (1555200010); put the MAC address in quotes",
    ),
    "MAC address of a group": (
        {"hosts:backend01:mac": "01:00:5e:00:00:01"},
        "hosts:backend01:mac",
        "01:00:5e:00:00:01 is a group address; no host has it",
    ),
    # forwards
    "forward to an unknown host": (
        {"nat:forwards:0:to": "backend02"},
        "nat:forwards:0:to",
        'there is no host backend02 in gateway:hosts; did you mean "backend01"?',
    ),
    "forward to what is neither": (
        {"nat:forwards:0:to": "10.77.0.300"},
        "nat:forwards:0:to",
        "10.77.0.300 is neither an IPv4 address nor a domain name",
    ),
    "forward out of the internal network": (
        {"nat:forwards:0:to": "10.78.0.10"},
        "nat:forwards:0:to",
        "10.78.0.10 is not inside 10.77.0.0/24",
    ),
    "forward to a host elsewhere": (
        {"hosts:far": {"ip": "192.0.2.9"}, "nat:forwards:0:to": "far"},
        "nat:forwards:0:to",
        "far (192.0.2.9) is not inside 10.77.0.0/24",
    ),
    "port 0": ({"nat:forwards:0:port": 0}, "nat:forwards:0:port", "0 is not in 1 to 65535"),
    "port 65536": (
        {"nat:forwards:0:to_port": 65536},
        "nat:forwards:0:to_port",
        "65536 is not in 1 to 65535",
    ),
    "port of a VPN server": (
        {"vpn:servers:main:port": -1},
        "vpn:servers:main:port",
        "-1 is not in 1 to 65535",
    ),
    "protocol": (
        {"nat:forwards:0:proto": "ucp"},
        "nat:forwards:0:proto",
        'ucp is none of tcp, udp, both; did you mean "udp"?',
    ),
    "forward without a port": ({"nat:forwards:0:port": ...}, "nat:forwards:0:port", "missing"),
    "forward of no port": ({"nat:forwards:0:port": []}, "nat:forwards:0:port", "missing"),
    "port that is no number": (
        {"nat:forwards:0:port": "https"},
        "nat:forwards:0:port",
        "https is neither a port nor a range such as 8000-8100",
    ),
    "port in a list": (
        {"nat:forwards:0:port": [80, 0]},
        "nat:forwards:0:port:1",
        "0 is not in 1 to 65535",
    ),
    "ports the wrong way round": (
        {"nat:forwards:0:port": "81-80"},
        "nat:forwards:0:port",
        "81-80 ends before it begins",
    ),
    "range to ports that there are not": (
        {"nat:forwards:0": {"port": ["80-90", "100-110"], "to": "www", "to_port": 65530}},
        "nat:forwards:0:to_port",
        "the range goes beyond 65535",
    ),
    "range with another forward's port": (
        {"nat:forwards": [{"port": 443, "to": "www"}, {"port": "400-500", "to": "www"}]},
        "nat:forwards:1:port",
        "port 443/tcp is taken already, by gateway:nat:forwards:0:port",
    ),
    "both protocols of a port, one of them taken": (
        {"nat:forwards:0": {"port": 1194, "to": "www", "proto": "both"}},
        "nat:forwards:0:port",
        "port 1194/udp is taken already, by gateway:vpn:servers:main:port",
    ),
    "two forwards of one port and address": (
        {
            **ADDRESSES,
            "nat:forwards": [
                {"port": 80, "to": "www", "address": ["198.51.100.10", "198.51.100.11"]},
                {"port": 80, "to": "backend01", "address": "198.51.100.11"},
            ],
        },
        "nat:forwards:1:port",
        "port 80/tcp of 198.51.100.11 is taken already, by gateway:nat:forwards:0:port",
    ),
    "forward of SSH's port": (
        {"nat:forwards:0:port": 22, "firewall": {"ssh": {"from": "192.0.2.1"}}},
        "firewall:ssh",
        "port 22/tcp is taken already, by gateway:nat:forwards:0:port",
    ),
    "forward of an address that is not ours": (
        {**ADDRESSES, "nat:forwards:0:address": "198.51.100.99"},
        "nat:forwards:0:address",
        "198.51.100.99 is not among gateway:public:addresses",
    ),
    "wrong address beside a right forward": (
        {
            "nat:forwards": [
                {"port": 443, "to": "www"},
                {"port": 443, "to": "www", "address": "198.51.100.300"},
            ],
        },
        "nat:forwards:1:address",
        "198.51.100.300 is not an IPv4 address",
    ),
    "forward of no address": (
        {**ADDRESSES, "nat:forwards:0:address": []},
        "nat:forwards:0:address",
        "is empty; leave it out for the virtual IP",
    ),
    "forward for nobody": (
        {"nat:forwards:0:from": []},
        "nat:forwards:0:from",
        "is empty; leave it out if any will do",
    ),
    "forward for a zone": (
        {"nat:forwards:0:from": "public"},
        "nat:forwards:0:from",
        "public is a zone; here it must be a group, a host or a network",
    ),
    "comment": (
        {"nat:forwards:0:comment": "the customer's"},
        "nat:forwards:0:comment",
        "the customer's is not a comment (ASCII without quotes, braces, backslashes)",
    ),
    # 1:1
    "1:1 without an address": (
        {"nat:one_to_one": [{"to": "www"}]},
        "nat:one_to_one:0:address",
        "missing",
    ),
    "1:1 to nobody": (
        {**ADDRESSES, "nat:one_to_one": [{"address": "198.51.100.11"}]},
        "nat:one_to_one:0:to",
        "missing",
    ),
    "1:1 with the virtual IP": (
        {**ADDRESSES, "nat:one_to_one": [{"address": "198.51.100.10", "to": "www"}]},
        "nat:one_to_one:0:address",
        "198.51.100.10 is not among gateway:public:addresses",
    ),
    "1:1 of one address twice": (
        {
            **ADDRESSES,
            "nat:one_to_one": [
                {"address": "198.51.100.11", "to": "www"},
                {"address": "198.51.100.11", "to": "10.77.0.9"},
            ],
        },
        "nat:one_to_one:1:address",
        "1:1 address 198.51.100.11 is taken already, by gateway:nat:one_to_one:0:address",
    ),
    "1:1 of one host twice": (
        {
            **ADDRESSES,
            "nat:one_to_one": [
                {"address": "198.51.100.11", "to": "www"},
                {"address": "198.51.100.12", "to": "backend01"},
            ],
        },
        "nat:one_to_one:1:to",
        "1:1 host 10.77.0.10 is taken already, by gateway:nat:one_to_one:0:to",
    ),
    "forward of a 1:1 address": (
        {
            **ADDRESSES,
            "nat:one_to_one": [{"address": "198.51.100.11", "to": "www"}],
            "nat:forwards:0:address": "198.51.100.11",
        },
        "nat:forwards:0:address",
        "198.51.100.11 stands for one host already",
    ),
    # outbound
    "outbound without an address": (
        {"nat:outbound": [{"from": "internal"}]},
        "nat:outbound:0:snat",
        "missing",
    ),
    "outbound with another's address": (
        {"nat:outbound": [{"snat": "198.51.100.11"}]},
        "nat:outbound:0:snat",
        "198.51.100.11 is not among gateway:public:addresses; it may also be masquerade or none",
    ),
    "outbound with a word": (
        {"nat:outbound": [{"snat": "no"}]},
        "nat:outbound:0:snat",
        "no is not an IPv4 address; it may also be masquerade or none",
    ),
    "outbound from outside": (
        {"nat:outbound": [{"snat": "none", "from": ["internal", "public"]}]},
        "nat:outbound:0:from",
        "what leaves does not come from the public side",
    ),
    "outbound to a side": (
        {"nat:outbound": [{"snat": "none", "to": "public"}]},
        "nat:outbound:0:to",
        "public is a zone; here it must be a group, a host or a network",
    ),
    "outbound with a log": (
        {"nat:outbound": [{"snat": "none", "log": True}]},
        "nat:outbound:0:log",
        "is not for address translation",
    ),
    "outbound with a limit": (
        {"nat:outbound": [{"snat": "none", "limit": "1/day"}]},
        "nat:outbound:0:limit",
        "is not for address translation",
    ),
    "outbound with an action": (
        {"nat:outbound": [{"snat": "none", "action": "drop"}]},
        "nat:outbound:0:action",
        "unknown key",
    ),
    # further public addresses
    "further address outside its network": (
        {**ADDRESSES, "public:addresses:1": "198.51.101.12"},
        "public:addresses:1",
        "198.51.101.12 is not inside 198.51.100.0/24",
    ),
    "further address of a node": (
        {**ADDRESSES, "public:addresses:1": "198.51.100.3"},
        "nodes:gw2:public",
        "address 198.51.100.3 is taken already, by gateway:public:addresses:1",
    ),
    "further addresses without a virtual IP": (
        {"public:addresses": ["198.51.100.11"]},
        "public:virtual_ip",
        "missing; further public addresses move with it",
    ),
    # groups
    "group name": (
        {"firewall": {"groups": {"Admins": []}}},
        "firewall:groups:Admins",
        "Admins is not a group name (small letters, digits, _ and -)",
    ),
    "group called as a side": (
        {"firewall": {"groups": {"vpn": []}}},
        "firewall:groups:vpn",
        "this is the name of something else that rules can name",
    ),
    "group called as a VPN server": (
        {"firewall": {"groups": {"main": []}}},
        "firewall:groups:main",
        "this is the name of something else that rules can name",
    ),
    "group called as an alias": (
        {"firewall": {"groups": {"www": []}}},
        "firewall:groups:www",
        "this is the name of something else that rules can name",
    ),
    "group that is no list": (
        {"firewall": {"groups": {"admins": {"192.0.2.1": None}}}},
        "firewall:groups:admins",
        "must be a list, is a mapping",
    ),
    "group of unknown hosts": (
        {"firewall": {"groups": {"admins": ["backend01", "backend02"]}}},
        "firewall:groups:admins:1",
        'there is nothing called backend02; did you mean "backend01"?',
    ),
    "group of everything": (
        {"firewall": {"groups": {"admins": ["::/0"]}}},
        "firewall:groups:admins:0",
        "::/0 is everything; leave the group out of the rule",
    ),
    "group in itself": (
        {"firewall": {"groups": {"admins": ["admins"]}}},
        "firewall:groups:admins",
        "contains itself",
    ),
    "groups in a circle": (
        {"firewall": {"groups": {"a": ["b"], "b": ["c", "192.0.2.1"], "c": ["a"], "d": ["a"]}}},
        "firewall:groups:a",
        "contains itself",
    ),
    # what a rule names
    "unknown name": (
        {"firewall": {"forward": [{"from": "intern"}]}},
        "firewall:forward:0:from",
        'there is nothing called intern; did you mean "internal"?',
    ),
    "unknown name in a list": (
        {"firewall": {"forward": [{"to": ["internal", "x"]}]}},
        "firewall:forward:0:to:1",
        "there is nothing called x",
    ),
    "VPN where there is none": (
        {"vpn": ..., "firewall": {"input": [{"from": "vpn"}]}},
        "firewall:input:0:from",
        "this site has no VPN server",
    ),
    "name of two things": (
        {"hosts:main": {"ip": "10.77.0.11"}, "firewall": {"input": [{"from": "main"}]}},
        "firewall:input:0:from",
        "main is a server and a host; rename one of them",
    ),
    "number for a name": (
        {"firewall": {"input": [{"from": 10}]}},
        "firewall:input:0:from",
        "must be text, is a number (10); put it in quotes",
    ),
    "malformed address in a rule": (
        {"firewall": {"input": [{"from": "10.77.0.310"}]}},
        "firewall:input:0:from",
        "10.77.0.310 is not an address or network",
    ),
    "malformed IPv6 network in a rule": (
        {"firewall": {"input": [{"from": "2001:db8::/129"}]}},
        "firewall:input:0:from",
        "2001:db8::/129 is not an address or network",
    ),
    "IPv6 address with a zone": (
        {"firewall": {"input": [{"from": "fe80::1%eth0"}]}},
        "firewall:input:0:from",
        "fe80::1%eth0 is not an address or network",
    ),
    "network in a rule with host bits": (
        {"firewall": {"input": [{"from": "2001:db8::1/64"}]}},
        "firewall:input:0:from",
        "2001:db8::1/64 has host bits set; the network is 2001:db8::/64",
    ),
    "nobody in a rule": (
        {"firewall": {"input": [{"from": []}]}},
        "firewall:input:0:from",
        "is empty; leave it out if any will do",
    ),
    "no destination in a rule": (
        {"firewall": {"forward": [{"to": []}]}},
        "firewall:forward:0:to",
        "is empty; leave it out if any will do",
    ),
    "no ports in a rule": (
        {"firewall": {"forward": [{"ports": []}]}},
        "firewall:forward:0:ports",
        "is empty; leave it out if any will do",
    ),
    "side as the destination of input": (
        {"firewall": {"input": [{"to": "public"}]}},
        "firewall:input:0:to",
        "public is a zone; here it must be a group, a host or a network",
    ),
    "VPN server as the source of SSH": (
        {"firewall": {"ssh": {"from": "main"}}},
        "firewall:ssh:from",
        "main is a server; here it must be a group, a host or a network",
    ),
    # the rest of a rule
    "rule that is no mapping": (
        {"firewall": {"input": ["ssh"]}},
        "firewall:input:0",
        "must be a mapping, is text",
    ),
    "rules that are no list": (
        {"firewall": {"forward": {"to": "www"}}},
        "firewall:forward",
        "must be a list, is a mapping",
    ),
    "action": (
        {"firewall": {"input": [{"action": "allow"}]}},
        "firewall:input:0:action",
        "allow is none of accept, drop, reject",
    ),
    "protocol of a rule": (
        {"firewall": {"input": [{"proto": "TCP/IP"}]}},
        "firewall:input:0:proto",
        "TCP/IP is not a protocol such as tcp, udp, both, icmp or esp",
    ),
    "number of a protocol": (
        {"firewall": {"input": [{"proto": 256}]}},
        "firewall:input:0:proto",
        "256 is not in 1 to 255",
    ),
    "ports of what has none": (
        {"firewall": {"input": [{"proto": "icmp", "ports": 8}]}},
        "firewall:input:0:ports",
        "only tcp, udp and both have ports",
    ),
    "port of a rule": (
        {"firewall": {"input": [{"ports": [22, "80-"]}]}},
        "firewall:input:0:ports:1",
        "80- is neither a port nor a range such as 8000-8100",
    ),
    "limit": (
        {"firewall": {"input": [{"limit": "10/fortnight"}]}},
        "firewall:input:0:limit",
        "10/fortnight is not a rate such as 10/minute (second, minute, hour, day)",
    ),
    "limit of a refusal": (
        {"firewall": {"forward": [{"limit": "10/minute", "action": "drop"}]}},
        "firewall:forward:0:limit",
        "is for accept, not for drop",
    ),
    "limit that the kernel does not take": (
        {"firewall": {"log_limit": "10001/second"}},
        "firewall:log_limit",
        "10001/second is not a rate such as 10/minute (second, minute, hour, day)",
    ),
    "log of a rule": (
        {"firewall": {"input": [{"log": "yes"}]}},
        "firewall:input:0:log",
        "must be true or false, is text (yes)",
    ),
    "comment of a rule": (
        {"firewall": {"input": [{"comment": ""}]}},
        "firewall:input:0:comment",
        "'' is not a comment (ASCII without quotes, braces, backslashes)",
    ),
    "key of a rule": (
        {"firewall": {"input": [{"port": 22}]}},
        "firewall:input:0:port",
        'unknown key; did you mean "ports"?',
    ),
    # the rest of the firewall
    "egress": (
        {"firewall": {"egress": "denied"}},
        "firewall:egress",
        'denied is none of allow, deny; did you mean "deny"?',
    ),
    "allowed where all is": (
        {"firewall": {"egress_allowed": [{"to": "192.0.2.1"}]}},
        "firewall:egress_allowed",
        "means nothing without egress: deny",
    ),
    "allowed with an action": (
        {"firewall": {"egress": "deny", "egress_allowed": [{"action": "accept"}]}},
        "firewall:egress_allowed:0:action",
        "unknown key",
    ),
    "allowed from outside": (
        {"firewall": {"egress": "deny", "egress_allowed": [{"from": "public"}]}},
        "firewall:egress_allowed:0:from",
        "what leaves does not come from the public side",
    ),
    "time to confirm": (
        {"firewall": {"confirm_timeout": 4}},
        "firewall:confirm_timeout",
        "4 is not in 5 to 600",
    ),
    "spoof protection": (
        {"firewall": {"spoof_protection": 1}},
        "firewall:spoof_protection",
        "must be true or false, is a number (1)",
    ),
    "segment size": ({"firewall": {"mss": 1500}}, "firewall:mss", "1500 is not in 536 to 1460"),
    "SSH's port": (
        {"firewall": {"ssh": {"port": 0}}},
        "firewall:ssh:port",
        "0 is not in 1 to 65535",
    ),
    "full tunnel": (
        {"vpn:servers:main:full_tunnel": "yes"},
        "vpn:servers:main:full_tunnel",
        "must be true or false, is text (yes)",
    ),
    "raw line": (
        {"firewall": {"raw": {"filter": {"INPUT": ["-p 47 -j ACCEPT", "ACCEPT"]}}}},
        "firewall:raw:filter:INPUT:1",
        "ACCEPT is not the rest of an iptables rule such as -s 192.0.2.1 -j DROP",
    ),
    "raw line in a chain that there is not": (
        {"firewall": {"raw": {"filter": {"PREROUTING": []}}}},
        "firewall:raw:filter:PREROUTING",
        "unknown key",
    ),
    "raw line in a table that there is not": (
        {"firewall": {"raw6": {"security": {}}}},
        "firewall:raw6:security",
        "unknown key",
    ),
    "raw lines that are no list": (
        {"firewall": {"raw6": {"nat": {"PREROUTING": None}}}},
        "firewall:raw6:nat:PREROUTING",
        "must be a list, is empty",
    ),
    # the rest of the services
    "upstream address": (
        {"dns:forwarders": ["198.51.100.100", "resolver"]},
        "dns:forwarders:1",
        "resolver is not an IPv4 address; a forwarder is an address, or ADDRESS#PORT",
    ),
    **{
        f"{key}, which is {server}": (
            {**changes, key: ["198.51.100.100", server]},
            f"{key}:1",
            f"{server} is the gateway itself",
        )
        for key, server, changes in (
            ("dns:forwarders", "10.77.0.1", {}),
            ("dns:forwarders", "198.51.100.3", {}),
            ("dns:forwarders", "198.51.100.11", ADDRESSES),
            ("ntp:servers", "10.77.0.2", {}),
            ("health:public:targets", "198.51.100.10", ADDRESSES),
            ("health:internal:targets", "10.77.0.3", {}),
        )
    },
    "upstream server": (
        {"ntp:servers": ["198.51.100.1000"]},
        "ntp:servers:0",
        "198.51.100.1000 is neither an IPv4 address nor a domain name",
    ),
    "provider": (
        {"ntp:provider": "ntpd"},
        "ntp:provider",
        'ntpd is none of chrony, ntpsec; did you mean "ntpsec"?',
    ),
    "router id": (
        {"keepalived": {"router_id": 256}},
        "keepalived:router_id",
        "256 is not in 1 to 255",
    ),
    "id": ({"nodes:gw2:id": 0}, "nodes:gw2:id", "0 is not in 1 to 200"),
    "no range": (
        {"dhcp:pool": "10.77.0.100"},
        "dhcp:pool",
        "10.77.0.100 is not a range such as 10.77.0.100-10.77.0.199",
    ),
    "range the wrong way round": (
        {"dhcp:pool": "10.77.0.9-10.77.0.8"},
        "dhcp:pool",
        "10.77.0.9-10.77.0.8 ends before it begins",
    ),
    "range outside the internal network": (
        {"dhcp:pool": "10.77.0.200-10.77.1.20"},
        "dhcp:pool",
        "10.77.1.20 is not inside 10.77.0.0/24",
    ),
    "range with a gateway in it": (
        {"dhcp:pool": "10.77.0.3-10.77.0.20"},
        "dhcp:pool",
        "holds 10.77.0.3 of gateway:nodes:gw2:internal",
    ),
    "lease time": (
        {"dhcp:lease_time": "12 hours"},
        "dhcp:lease_time",
        "12 hours is not a time such as 30m, 12h or infinite",
    ),
    "settings": (
        {"dns:settings": ["cache-size=1"]},
        "dns:settings",
        "must be a mapping, is a list",
    ),
    "keyword of a setting": (
        {"dns:settings": {"cache size": 1}},
        "dns:settings:cache size",
        "cache size is not a keyword",
    ),
    "value of a setting": (
        {"vpn:servers:main:settings": {"push": {"route": 1}}},
        "vpn:servers:main:settings:push",
        "must be text, a number, true, or a list of these; is a mapping",
    ),
    "key that is no path": (
        {"vpn:pki:key": "server.key"},
        "vpn:pki:key",
        "is neither an absolute path nor PEM text"
        " (PRIVATE KEY or EC PRIVATE KEY or RSA PRIVATE KEY)",
    ),
    "certificate for a key": (
        {"nodes:gw1:pki": {"key": pem("CERTIFICATE")}},
        "nodes:gw1:pki:key",
        "is neither an absolute path nor PEM text"
        " (PRIVATE KEY or EC PRIVATE KEY or RSA PRIVATE KEY)",
    ),
    "second certificate that is broken": (
        {"vpn:pki:ca": pem("CERTIFICATE") + "-----BEGIN CERTIFICATE-----\nc2Vj"},
        "vpn:pki:ca",
        "is neither an absolute path nor PEM text (CERTIFICATE)",
    ),
    "certificate with a key beside it": (
        {"vpn:pki:ca": pem("CERTIFICATE") + pem("PRIVATE KEY")},
        "vpn:pki:ca",
        "is neither an absolute path nor PEM text (CERTIFICATE)",
    ),
    "address of a node in the internal network": (
        {"public:network": ..., "nodes:gw1:public": "10.77.0.9"},
        "nodes:gw1:public",
        "10.77.0.9 is inside 10.77.0.0/24 of gateway:internal:network",
    ),
    "address of a node in a VPN network": (
        {"public:network": ..., "nodes:gw1:public": "10.8.200.9"},
        "nodes:gw1:public",
        "10.8.200.9 is inside 10.8.0.0/16 of gateway:vpn:servers:main:network",
    ),
    "address of a node in a client's network": (
        {"public:network": ..., "vpn:clients": {"branch": {"networks": ["198.51.100.2/31"]}}}
        | {"nodes:gw2:public": "203.0.113.3"},
        "nodes:gw1:public",
        "198.51.100.2 is inside 198.51.100.2/31 of gateway:vpn:clients:branch:networks:0",
    ),
    "link in a VPN network": (
        {
            "public:virtual_ip": "198.51.100.10",
            "state_sync": {"interface": "eth3"},
            "nodes:gw1:sync": "10.8.78.2",
            "nodes:gw2:sync": "10.78.0.3",
        },
        "nodes:gw1:sync",
        "10.8.78.2 is inside 10.8.0.0/16 of gateway:vpn:servers:main:network",
    ),
    "host at an address of a VPN": (
        {"hosts:alice": {"ip": "10.8.0.5"}},
        "hosts:alice:ip",
        "10.8.0.5 is inside 10.8.0.0/16 of VPN server main, which has clients and no hosts"
        " (gateway:vpn:clients)",
    ),
    "host at the broadcast address": (
        {"hosts:other": {"ip": "10.77.0.255"}},
        "hosts:other:ip",
        "10.77.0.255 is the broadcast address of 10.77.0.0/24",
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
    "internal network of no hosts": (
        {"internal:network": "169.254.1.0/24"},
        "internal:network",
        "169.254.1.0/24 overlaps 169.254.0.0/16, of which no host has an address",
    ),
    "public network of no hosts": (
        {"public:network": "240.0.0.0/24"},
        "public:network",
        "240.0.0.0/24 overlaps 240.0.0.0/4, of which no host has an address",
    ),
    "device that is there already": (
        {"nodes:gw2:internal_interface": "vpn-main"},
        "vpn:servers:main",
        "its device would be vpn-main, an interface of gw2 already",
    ),
    "loopback for a side": (
        {"internal:interface": "lo"},
        "internal:interface",
        "lo is not an interface name",
    ),
    "word of the kernel for an interface": (
        {"nodes:gw1:public_interface": "all"},
        "nodes:gw1:public_interface",
        "all is not an interface name",
    ),
    "name too long with the domain": (
        {"domain": ".".join(["d" * 61] * 4), "hosts:backend01:aliases": []},
        "hosts:backend01",
        "backend01.ddddddddddddddddddddddddddd... has 257 characters; DNS takes 253",
    ),
    **{
        f"forward to {to}": (
            {"nat:forwards:0:to": to},
            "nat:forwards:0:to",
            message,
        )
        for to, message in {
            "10.77.0.1": "10.77.0.1 is the gateway itself; what reaches it is for input rules",
            "10.77.0.3": "10.77.0.3 is the gateway itself; what reaches it is for input rules",
            "GW2": "gw2 is the gateway itself; what reaches it is for input rules",
            "10.77.0.0": "10.77.0.0 is the address of the network 10.77.0.0/24 itself",
            "10.77.0.255": "10.77.0.255 is the broadcast address of 10.77.0.0/24",
        }.items()
    },
    "forward to an alias of the virtual IP": (
        {"internal:aliases": ["router"], "nat:forwards:0:to": "router"},
        "nat:forwards:0:to",
        "router is the gateway itself; what reaches it is for input rules",
    ),
    "1:1 to a node": (
        {**ADDRESSES, "nat:one_to_one": [{"address": "198.51.100.11", "to": "10.77.0.2"}]},
        "nat:one_to_one:0:to",
        "10.77.0.2 is the gateway itself; what reaches it is for input rules",
    ),
    "key of a node for the whole site": (
        {"nodes:gw1:pki": {"ca": "/etc/ca.crt"}},
        "nodes:gw1:pki:ca",
        "unknown key",
    ),
}


@pytest.mark.parametrize(("changes", "key", "message"), REJECTED.values(), ids=REJECTED)
def test_rejected(errors, changes, key, message):
    """A mistake is one error, and it names the key of the pillar that is wrong."""
    assert errors(changes) == [f"gateway:{key}: {message}"]


@pytest.mark.parametrize(
    ("pillar", "expected"),
    [
        (None, ["gateway: missing; see pillar.example"]),
        ("gw1", ["gateway: must be a mapping, is text"]),
        ([], ["gateway: must be a mapping, is a list"]),
        (
            {},
            [
                "gateway:domain: missing",
                "gateway:internal: missing",
                "gateway:public: missing",
                "gateway:nodes: a site needs at least one node",
            ],
        ),
    ],
    ids=["nothing", "text", "list", "empty"],
)
def test_rejected_as_a_whole(pillar, expected):
    assert _gateway_plan.read(pillar) == (None, expected)


SECTIONS = [
    "nodes:gw1",
    "nodes:gw1:pki",
    "internal",
    "public",
    "vpn",
    "vpn:servers:main",
    "vpn:servers:main:subnets",
    "vpn:pki",
    "hosts:backend01",
    "nat",
    "nat:forwards:0",
    "firewall",
    "firewall:ssh",
    "firewall:raw:filter",
    "firewall:raw6",
    "dhcp",
    "dns",
    "ntp",
    "keepalived",
]


@pytest.mark.parametrize("section", SECTIONS)
def test_unknown_keys_are_found_everywhere(errors, section):
    assert errors({f"{section}:qqq": 1}) == [f"gateway:{section}:qqq: unknown key"]


def test_names_too_long_to_show_are_still_told_apart(errors):
    one, other = "n" * 100 + "1", "n" * 100 + "2"
    shown = "gateway:nodes:" + "n" * 77 + "..."
    changes = {f"nodes:{one}": {"id": 3, "internal": "10.77.0.9"}}
    assert errors(changes) == []
    assert errors({**changes, f"nodes:{other}": {"id": 4, "internal": "10.77.0.9"}}) == [
        f"{shown}:internal: address 10.77.0.9 is taken already, by {shown}:internal"
    ]


def test_all_errors_at_once(errors):
    assert errors(
        {
            "domain": "-",
            "internal:virtual_ip": "10.77.0.2",
            "nodes:gw2:id": 1,
            "vpn:servers:main:port": 0,
            "vpn:servers:main:settings": {"verb": {}, "push": ["a", "b\n", "}"]},
            "hosts:backend01:ip": "10.78.0.10",
            "hosts:backend01:mac": "02:00",
            "dns:forwarder": [],
            "zone": 1,
        }
    ) == [
        "gateway:domain: - is not a domain name",
        "gateway:nodes:gw1:internal: address 10.77.0.2 is taken already,"
        " by gateway:internal:virtual_ip",
        "gateway:nodes:gw2:id: id 1 is taken already, by gateway:nodes:gw1:id",
        "gateway:vpn:servers:main:port: 0 is not in 1 to 65535",
        "gateway:vpn:servers:main:settings:push:1: 'b\\n' has a character that a configuration"
        " file cannot hold here (line breaks, quotes, braces, backslashes, anything but ASCII)",
        "gateway:vpn:servers:main:settings:push:2: } has a character that a configuration"
        " file cannot hold here (line breaks, quotes, braces, backslashes, anything but ASCII)",
        "gateway:vpn:servers:main:settings:verb: must be text, a number, true, or a list of"
        " these; is a mapping",
        "gateway:hosts:backend01:mac: 02:00 is not a MAC address such as 02:00:00:00:00:10",
        "gateway:nat:forwards:0:to: backend01 (10.78.0.10) is not inside 10.77.0.0/24",
        'gateway:dns:forwarder: unknown key; did you mean "forwarders"?',
        "gateway:zone: unknown key",
    ]


# --------------------------------------------------------------------------------------------------
# What cannot reach a configuration file

EVERYTHING = {  # each key whose value is text, on top of the example
    "nodes:gw1:remote": "vpn1.example.org",
    "nodes:gw1:internal_interface": "lan0",
    "nodes:gw1:public_interface": "wan0",
    "nodes:gw1:pki": {"certificate": "/etc/gw1.crt", "key": "/etc/gw1.key"},
    **ADDRESSES,
    "vpn:servers:main:subnets": {"gw2": "10.8.99.0/24"},
    "vpn:servers:main:settings": {"cipher": "AES-256-GCM", "push": ["route 192.0.2.0"]},
    "firewall": {
        "log_limit": "5/second",
        "mss": "pmtu",
        "ssh": {"from": ["admins", "203.0.113.9"]},
        "egress": "deny",
        "egress_allowed": [{"to": "192.0.2.1", "ports": "80-90", "comment": "updates"}],
        "groups": {"admins": ["192.0.2.0/24", "backend01", "2001:db8::/32", "more"], "more": []},
        "input": [{"from": "vpn", "proto": "icmp", "limit": "3/minute"}],
        "forward": [{"from": ["public", "main"], "to": ["www"], "comment": "a web server"}],
    },
    "nat:forwards:0": {
        "port": "8000-8010",
        "proto": "both",
        "to": "backend01",
        "from": "192.0.2.7",
        "address": "198.51.100.11",
        "comment": "a range",
    },
    "nat:one_to_one": [{"address": "198.51.100.12", "to": "10.77.0.20"}],
    "nat:outbound": [{"from": "internal", "snat": "198.51.100.11", "comment": "mail"}],
    "dhcp:lease_time": "1h",
    "dhcp:settings": {"dhcp-option": ["option:mtu,1400"]},
    "dns:settings": {"address": "/test/192.0.2.1"},
    "ntp:servers": ["198.51.100.100", "ntp.example.org"],
    "ntp:provider": "chrony",
    "ntp:settings": {"maxdistance": "3"},
    "keepalived": {"settings": {"vrrp_startup_delay": "5"}},
}


def texts(value, path=""):
    """The key of each text in a pillar, and the text."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            yield from texts(item, f"{path}:{key}".removeprefix(":"))


@pytest.mark.parametrize(
    "bad",
    list("\n\r\t\0\"'`{}\\\x7f\u2028\u00e9\U0001f512"),
    ids=ascii,
)
def test_no_text_breaks_out(edit, read_pillar, bad):
    """At the end, the start or in the middle of any text of the pillar: it is an error."""
    for path, text in texts(edit(EVERYTHING)):
        if path.startswith(("dhcp:settings", "dns:settings")) and bad in "'`{}\\":
            continue  # just a character for dnsmasq
        for broken in (text + bad, bad + text, text[:1] + bad + text[1:]):
            site, errors = read_pillar(edit({**EVERYTHING, path: broken}))
            assert site is None, path
            assert all(error.isprintable() for error in errors)


@pytest.mark.parametrize("bad", list("\n\r\t\0\x7f\u2028\u00e9\U0001f512"), ids=ascii)
def test_no_raw_line_breaks_out(errors, bad):
    """It may have quotes, like any line of iptables; but it is one line."""
    line = "-p 47 -j ACCEPT"
    for broken in (line + bad, bad + line, line[:2] + bad + line[2:]):
        [error] = errors({"firewall": {"raw": {"filter": {"INPUT": [broken]}}}})
        assert error.startswith("gateway:firewall:raw:filter:INPUT:0: ")
        assert error.isprintable()


def test_no_zone_breaks_out(errors):
    """Python takes any text for the zone of an IPv6 address."""
    broken = "fe80::1%\n-A INPUT -j ACCEPT"
    firewall = {"ssh": {"from": broken}, "input": [{"to": broken}], "groups": {"a": [broken]}}
    found = errors({"firewall": firewall, "nat:forwards:0:from": [broken, broken + "/64"]})
    assert len(found) == 5
    assert all("is not an address or network" in error for error in found)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("nodes", {"id": 3, "internal": "10.77.0.4", "public": "198.51.100.4"}),
        ("hosts", {"ip": "10.77.0.11"}),
        ("vpn:servers", {"network": "10.9.0.0/16", "port": 1195}),
        ("dns:settings", "1"),
        ("firewall:groups", []),
    ],
    ids=["nodes", "hosts", "servers", "settings", "groups"],
)
@pytest.mark.parametrize("bad", list("\n \"'{}/:\\\u00e9"), ids=ascii)
def test_no_name_breaks_out(edit, read_pillar, where, value, bad):
    def read(name):
        pillar = edit({"dns:settings": {}, "firewall:groups": {}})
        reduce(dict.__getitem__, where.split(":"), pillar)[name] = value
        return read_pillar(pillar)

    assert read("ab")[1] == []
    for broken in ("ab" + bad, bad + "ab", "a" + bad + "b"):
        site, [error] = read(broken)
        assert site is None
        assert error.isprintable()


# --------------------------------------------------------------------------------------------------
# What is planned


BOUNDS = {
    "keepalived:router_id": (1, 255),
    "nodes:gw2:id": (1, 200),
    "nodes:gw2:priority": (1, 254),
    "failover:down_adverts": (2, 100),
    "failover:garp_repeat": (1, 20),
    "failover:garp_delay": (0, 60),
    "failover:garp_refresh": (0, 3600),
    "failover:startup_delay": (0, 60),
    "failover:realtime_priority": (0, 99),
    "failover:preempt_delay": (0, 3600),
    "firewall:mss": (536, 1460),
    "firewall:confirm_timeout": (5, 600),
    "firewall:ssh:port": (1, 65535),
    "nat:forwards:0:port": (1, 65535),
    "vpn:servers:main:port": (1, 65535),
    "vpn:servers:main:prefix": (16, 29),
    "vpn:servers:main:auth:token_lifetime": (600, 31_536_000),
}


@pytest.mark.parametrize("key", BOUNDS)
def test_bounds(errors, key):
    low, high = BOUNDS[key]

    def said(number):
        pam = {"vpn:servers:main:auth": {"pam": "openvpn"}} if "auth" in key else {}
        return [line for line in errors(pam | {key: number}) if line.startswith(f"gateway:{key}:")]

    for number in (low, high):
        assert not any("is not in" in line for line in said(number))
    for number in (low - 1, high + 1):
        assert said(number)[0].startswith(f"gateway:{key}: {number} is not in {low} to {high}")


@pytest.mark.parametrize(
    ("value", "good"),
    [(0.01, True), (40, True), (0.29, True), (0.009, False), (40.01, False), (0.015, False)],
)
def test_seconds_between_adverts(errors, value, good):
    assert (errors({"failover:advert_interval": value}) == []) is good


def test_every_wrong_keyword_of_the_settings_is_named(errors):
    found = errors({"dns:settings": {"a b": 1, "c d": 1}})
    assert [line.split(": ")[0] for line in found] == [
        "gateway:dns:settings:a b",
        "gateway:dns:settings:c d",
    ]


def test_ports_that_are_wrong_are_not_taken_either(errors):
    two = {"network": "10.9.0.0/16", "port": 0}
    found = errors({"vpn:servers:main:port": 0, "vpn:servers:two": two})
    assert [line.split(": ")[0] for line in found] == [
        "gateway:vpn:servers:main:port",
        "gateway:vpn:servers:two:port",
    ]


def test_the_longest_names_of_interfaces(plan):
    """Linux takes 15 characters."""
    server = {"network": "10.9.0.0/16", "port": 1195}
    found = plan({"internal:interface": 15 * "x", f"vpn:servers:{11 * 'x'}": server})
    assert [each["device"] for each in found["vpn"]["servers"]] == ["vpn-main", "vpn-" + 11 * "x"]


def test_node(plan):
    found = plan(node="gw2")
    assert found["node"] == {
        "name": "gw2",
        "id": 2,
        "internal": "10.77.0.3",
        "public": "198.51.100.3",
        "sync": None,
        "remote": "198.51.100.3",
    }
    assert found["peers"] == [
        {"name": "gw1", "id": 1, "internal": "10.77.0.2", "public": "198.51.100.2"}
    ]
    assert found["internal"] == {
        "interface": "eth0",
        "network": "10.77.0.0/24",
        "netmask": "255.255.255.0",
        "virtual_ip": "10.77.0.1",
    }
    assert found["public"]["interface"] == "eth1"
    assert found["public"]["virtual_ip"] is None


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
                "source": "10.77.0.3",
                "peers": ["10.77.0.2"],
            }
        ],
        "settings": [],
    }
    assert primary["priority"] == 250
    assert primary["router_id"] == 51


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


def test_nat(plan):
    assert plan(node="gw2")["nat"] == {
        "sources": [
            {"network": "10.77.0.0/24", "to": None},
            {"network": "10.8.1.0/24", "to": None},
        ],
        "outbound": [],
        "one_to_one": [],
        "forwards": [
            {
                "key": "gateway:nat:forwards:0",
                "proto": "tcp",
                "ports": [443, 443],
                "to": "backend01",
                "ip": "10.77.0.10",
                "to_ports": [443, 443],
                "from": [],
                "address": None,
                "comment": None,
            }
        ],
    }


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("backend01", ("backend01", "10.77.0.10")),
        ("WWW", ("www", "10.77.0.10")),
        ("10.77.0.99", ("10.77.0.99", "10.77.0.99")),
    ],
    ids=["host", "alias", "address"],
)
def test_forward_targets(plan, to, expected):
    forward = {"port": 25, "proto": "udp", "to": to, "to_port": 2525}
    [found] = plan({"nat:forwards": [forward]})["nat"]["forwards"]
    assert (found["to"], found["ip"]) == expected
    assert (found["ports"], found["proto"], found["to_ports"]) == (
        [25, 25],
        "udp",
        [2525, 2525],
    )


def test_one_port_of_two_protocols(plan):
    forwards = [{"port": 53, "proto": proto, "to": "backend01"} for proto in ("udp", "tcp")]
    found = plan({"nat:forwards": forwards})["nat"]["forwards"]
    assert [forward["proto"] for forward in found] == ["udp", "tcp"]


def test_forwards_of_several_ports_protocols_and_addresses(plan):
    forward = {
        "port": [80, "8000-8010"],
        "to": "www",
        "to_port": 9000,
        "proto": "both",
        "address": ["198.51.100.10", "198.51.100.11"],
        "from": ["backend01", "2001:db8::/32"],
        "comment": "all of them",
    }
    found = plan({**ADDRESSES, "nat:forwards": [forward]})["nat"]["forwards"]
    assert [[each[key] for key in ("ports", "to_ports", "proto", "address")] for each in found] == [
        [ports, to_ports, proto, address]
        for ports, to_ports in (([80, 80], [9000, 9000]), ([8000, 8010], [9000, 9010]))
        for proto in ("tcp", "udp")
        for address in ("198.51.100.10", "198.51.100.11")
    ]
    for each in found:
        assert each["key"] == "gateway:nat:forwards:0"
        assert each["from"] == [{"address": "10.77.0.10"}, {"address": "2001:db8::/32"}]
        assert each["comment"] == "all of them"


def test_one_to_one_and_outbound(plan):
    found = plan(
        {
            **ADDRESSES,
            "nat:one_to_one": [{"address": "198.51.100.12", "to": "www"}],
            "nat:outbound": [
                {"from": "internal", "to": "192.0.2.0/24", "snat": "none"},
                {"from": "backend01", "snat": "198.51.100.11", "ports": 25},
            ],
        }
    )["nat"]
    assert found["one_to_one"] == [
        {
            "key": "gateway:nat:one_to_one:0",
            "address": "198.51.100.12",
            "to": "www",
            "ip": "10.77.0.10",
        }
    ]
    exception, mail = found["outbound"]
    assert (exception["action"], mail["action"]) == ("none", "198.51.100.11")
    assert exception["to"] == [{"address": "192.0.2.0/24"}]
    assert (mail["from"], mail["proto"], mail["ports"]) == (
        [{"address": "10.77.0.10"}],
        "tcp",
        [[25, 25]],
    )


def test_firewall_without_any(plan):
    assert plan()["firewall"] == {
        "confirm_timeout": 30,
        "spoof_protection": True,
        "log": False,
        "log_limit": "5/second",
        "mss": None,
        "ssh": {"port": 22, "from": []},
        "egress": "allow",
        "egress_allowed": [],
        "groups": {},
        "input": [],
        "forward": [],
        "raw": [],
    }


def test_firewall_rules(plan):
    firewall = {
        "input": [{"from": "vpn", "ports": [22, "80-90"], "limit": "3/minute"}],
        "forward": [{"to": ["WWW", "friends"], "proto": 47, "log": True, "comment": "a tunnel"}],
        "groups": {"friends": ["192.0.2.0/24"]},
    }
    found = plan({"firewall": firewall})["firewall"]
    assert found["input"] == [
        {
            "key": "gateway:firewall:input:0",
            "from": [{"address": "10.8.0.0/16"}, {"interface": "vpn-main", "family": 6}],
            "to": [],
            "proto": "tcp",
            "ports": [[22, 22], [80, 90]],
            "action": "accept",
            "limit": "3/minute",
            "log": False,
            "comment": None,
        }
    ]
    assert found["forward"] == [
        {
            "key": "gateway:firewall:forward:0",
            "from": [],
            "to": [{"address": "10.77.0.10"}, {"group": "friends"}],
            "proto": "47",
            "ports": [],
            "action": "accept",
            "limit": None,
            "log": True,
            "comment": "a tunnel",
        }
    ]


SECOND_TARGETS = [{"address": "10.9.0.0/16"}, {"interface": "vpn-second", "family": 6}]
VPN_TARGETS = [{"address": "10.8.0.0/16"}, {"interface": "vpn-main", "family": 6}]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("public", [{"interface": "wan0"}]),
        (
            "internal",
            [
                {"interface": "lan0", "address": "10.77.0.0/24"},
                {"interface": "lan0", "family": 6},
            ],
        ),
        ("main", VPN_TARGETS),
        ("vpn", [*VPN_TARGETS, *SECOND_TARGETS]),
        ("Backend01", [{"address": "10.77.0.10"}]),
        ("www", [{"address": "10.77.0.10"}]),
        ("friends", [{"group": "friends"}]),
        ("192.0.2.1/32", [{"address": "192.0.2.1"}]),
        ("2001:DB8:0::/48", [{"address": "2001:db8::/48"}]),
    ],
)
def test_what_a_name_stands_for(plan, name, expected):
    changes = {
        "nodes:gw2:internal_interface": "lan0",
        "nodes:gw2:public_interface": "wan0",
        "vpn:servers:second": {"network": "10.9.0.0/16", "port": 1195},
        "firewall": {"groups": {"friends": []}, "forward": [{"from": name}, {"to": name}]},
    }
    one, other = plan(changes, "gw2")["firewall"]["forward"]
    assert one["from"] == other["to"] == expected


def test_groups(plan):
    """Groups of groups, in any order; nothing twice; each family for itself."""
    groups = {
        "all": ["one", "two", "192.0.2.1", "Backend01"],
        "one": ["192.0.2.1/32", "2001:db8::/64", "two"],
        "two": ["WWW", "2001:db8:0:0::/64", "203.0.113.0/24"],
        "none": [],
    }
    networks = ["10.77.0.10", "203.0.113.0/24"]
    assert plan({"firewall": {"groups": groups}})["firewall"]["groups"] == {
        "all": {"v4": ["10.77.0.10", "192.0.2.1", "203.0.113.0/24"], "v6": ["2001:db8::/64"]},
        "none": {"v4": [], "v6": []},
        "one": {"v4": ["10.77.0.10", "192.0.2.1", "203.0.113.0/24"], "v6": ["2001:db8::/64"]},
        "two": {"v4": networks, "v6": ["2001:db8::/64"]},
    }


def test_egress_is_for_who_may_go_out_anyway(plan):
    """The internal network, and the clients of full tunnels; unless the rule names somebody."""
    firewall = {"egress": "deny", "egress_allowed": [{"ports": 443}, {"from": "www", "ports": 80}]}
    changes = {
        "firewall": firewall,
        "vpn:servers:second": {"network": "10.9.0.0/16", "port": 1195, "full_tunnel": True},
    }
    found = plan(changes)
    one, other = found["firewall"]["egress_allowed"]
    assert [target.get("address") for target in one["from"]] == [
        "10.77.0.0/24",
        None,
        "10.9.0.0/16",
        None,
    ]
    assert other["from"] == [{"address": "10.77.0.10"}]
    main, second = found["vpn"]["servers"]
    assert "redirect-gateway def1 ipv6" in second["pushes"]
    assert "redirect-gateway def1 ipv6" not in main["pushes"]


def test_raw_lines(plan):
    firewall = {
        "raw": {"filter": {"INPUT": ["-p 47 -j ACCEPT", '-m comment --comment "x" -j DROP']}},
        "raw6": {"mangle": {"POSTROUTING": ["-j MARK --set-mark 7"]}},
    }
    found = plan({"firewall": firewall})["firewall"]["raw"]
    assert [(raw["family"], raw["table"], raw["chain"], raw["line"]) for raw in found] == [
        (4, "filter", "INPUT", "-p 47 -j ACCEPT"),
        (4, "filter", "INPUT", '-m comment --comment "x" -j DROP'),
        (6, "mangle", "POSTROUTING", "-j MARK --set-mark 7"),
    ]
    assert [raw["key"] for raw in found] == [
        "gateway:firewall:raw:filter:INPUT:0",
        "gateway:firewall:raw:filter:INPUT:1",
        "gateway:firewall:raw6:mangle:POSTROUTING:0",
    ]


def test_mss(plan):
    assert plan({"firewall": {"mss": "pmtu"}})["firewall"]["mss"] is None
    assert plan({"firewall": {"mss": 1300}})["firewall"]["mss"] == 1300


def test_dhcp(plan):
    assert plan({"hosts:printer": {"ip": "10.77.0.11"}})["dhcp"] == {
        "enabled": True,
        "pool": ["10.77.0.100", "10.77.0.199"],
        "lease_time": "12h",
        "router": "10.77.0.1",
        "dns": ["10.77.0.1"],
        "ntp": ["10.77.0.2", "10.77.0.3"],
        "reservations": [
            {
                "name": "backend01.example.internal",
                "ip": "10.77.0.10",
                "macs": ["02:00:00:00:00:10"],
            }
        ],
        "settings": [],
    }


@pytest.mark.parametrize(
    ("changes", "enabled"),
    [
        ({"dhcp": ...}, True),
        ({"hosts:backend01:mac": ...}, True),
        ({"dhcp": ..., "hosts:backend01:mac": ...}, False),
        ({"dhcp:enabled": False}, False),
    ],
    ids=["reservations", "a range", "neither", "switched off"],
)
def test_dhcp_where_there_is_something_to_give(plan, changes, enabled):
    assert plan(changes)["dhcp"]["enabled"] is enabled


def test_dns(plan):
    changes = {"hosts:mail": {"ip": "192.0.2.25", "aliases": ["mx.example.org"]}}
    assert plan(changes, "gw2")["dns"] == {
        "listen": ["10.77.0.3", "10.77.0.1"],
        "forwarders": ["198.51.100.100"],
        "records": [
            {"ip": "10.77.0.2", "names": ["gw1.example.internal", "gw1"]},
            {"ip": "10.77.0.3", "names": ["gw2.example.internal", "gw2"]},
            {
                "ip": "10.77.0.10",
                "names": ["backend01.example.internal", "www.example.internal", "backend01", "www"],
            },
            {"ip": "192.0.2.25", "names": ["mail.example.internal", "mx.example.org", "mail"]},
        ],
        "public_domain": False,
        "wildcards": [],
        "own": ["mx.example.org"],
        "outside": ["mx.example.org"],
        "settings": [],
    }


def test_names_of_what_is_the_formula_s_own(plan):
    changes = {
        **ADDRESSES,
        "internal:aliases": "gateway",
        "public:aliases": ["vpn", "vpn.example.org"],
        "nodes:gw2:aliases": ["spare", "*.gw2"],
    }
    dns = plan(changes)["dns"]
    assert [record for record in dns["records"] if "gw1" not in record["names"]][:3] == [
        {
            "ip": "10.77.0.3",
            "names": ["gw2.example.internal", "spare.example.internal", "gw2", "spare"],
        },
        {"ip": "10.77.0.1", "names": ["gateway.example.internal", "gateway"]},
        {"ip": "198.51.100.10", "names": ["vpn.example.internal", "vpn.example.org", "vpn"]},
    ]
    assert dns["wildcards"] == [{"name": "gw2.example.internal", "ip": "10.77.0.3"}]


def test_a_node_whose_minion_id_is_no_name_has_aliases(plan):
    changes = {"nodes:gw_3": {"id": 3, "internal": "10.77.0.4", "aliases": ["third"]}}
    assert plan(changes)["dns"]["records"][2] == {
        "ip": "10.77.0.4",
        "names": ["third.example.internal", "third"],
    }


def test_who_is_asked_for_names_that_are_ours(plan):
    """Nobody; but others may have what is below one that is not in the site's domain."""
    aliases = [
        *(
            "www",
            "company.example",
            "a.company.example",
            "apps.company.example",
            "b.example.internal",
            "example.internal",
        ),
        *("*.apps.company.example", "x.apps.company.example", "*.apps", "*.old.example"),
    ]
    dns = plan({"hosts:backend01:aliases": aliases})["dns"]
    assert dns["wildcards"] == [
        {"name": "apps.company.example", "ip": "10.77.0.10"},
        {"name": "apps.example.internal", "ip": "10.77.0.10"},
        {"name": "old.example", "ip": "10.77.0.10"},
    ]
    assert dns["own"] == ["company.example", "a.company.example", "apps.company.example"]
    assert dns["outside"] == ["company.example", "a.company.example"]
    assert not [name for record in dns["records"] for name in record["names"] if "*" in name]


def test_a_domain_that_exists_outside(plan):
    changes = {"dns:public_domain": True, "hosts:backend01:aliases": ["example.internal", "*.apps"]}
    dns = plan(changes)["dns"]
    names = [f"{name}.example.internal" for name in ("gw1", "gw2", "backend01")]
    assert dns["public_domain"] is True
    assert dns["own"] == dns["outside"] == [*names, "example.internal"]


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("127.0.0.1#5335", "127.0.0.1#5335"),
        ("198.51.100.100#53", "198.51.100.100"),
        ("10.77.0.2#5335", "10.77.0.2#5335"),
    ],
)
def test_forwarders_with_a_port(plan, server, expected):
    assert plan({"dns:forwarders": [server]})["dns"]["forwarders"] == [expected]


def test_machines_with_several_cards(plan):
    macs = ["02:00:00:00:00:10", "02:00:00:00:00:11"]
    [reservation] = plan({"hosts:backend01:mac": macs})["dhcp"]["reservations"]
    assert reservation["macs"] == macs


def test_numbers_as_text(plan):
    """As Jinja gives them."""
    changes = {
        "nodes:gw2:id": "2",
        "vpn:servers:main:port": "1195",
        "nat:forwards:0": {"port": ["443", "8000-8001"], "to": "backend01", "to_port": "8443"},
        "firewall": {"ssh": {"port": "23"}, "input": [{"proto": "47"}], "mss": "1300"},
        "failover": {"advert_interval": "0.2"},
        "dhcp:lease_time": 3600,
    }
    found = plan(changes)
    as_numbers = {
        "nodes:gw2:id": 2,
        "vpn:servers:main:port": 1195,
        "nat:forwards:0": {"port": [443, "8000-8001"], "to": "backend01", "to_port": 8443},
        "firewall": {"ssh": {"port": 23}, "input": [{"proto": 47}], "mss": 1300},
        "failover": {"advert_interval": 0.2},
        "dhcp:lease_time": "3600",
    }
    assert found == plan(as_numbers)


def test_a_single_value_for_a_list(plan):
    one = {
        "dns:forwarders": "198.51.100.100",
        "ntp:servers": "ntp.example.org",
        "hosts:backend01:aliases": "www",
        "health": {"public": {"targets": "198.51.100.100"}},
        "firewall": {"groups": {"admins": "192.0.2.0/24"}, "raw": {"filter": {"INPUT": "-p 47"}}},
        "vpn:servers:main:routes": "192.0.2.0/24",
    }
    many = {
        "dns:forwarders": ["198.51.100.100"],
        "ntp:servers": ["ntp.example.org"],
        "hosts:backend01:aliases": ["www"],
        "health": {"public": {"targets": ["198.51.100.100"]}},
        "firewall": {
            "groups": {"admins": ["192.0.2.0/24"]},
            "raw": {"filter": {"INPUT": ["-p 47"]}},
        },
        "vpn:servers:main:routes": ["192.0.2.0/24"],
    }
    found, expected = plan(one), plan(many)
    raw = found["firewall"]["raw"][0].pop("key"), expected["firewall"]["raw"][0].pop("key")
    assert raw == ("gateway:firewall:raw:filter:INPUT", "gateway:firewall:raw:filter:INPUT:0")
    del found["digest"], expected["digest"]  # it has the keys
    assert found == expected


@pytest.mark.parametrize("part", ["dns", "dhcp"])
@pytest.mark.parametrize(
    "value",
    [
        '0,"Boot"',
        'a.example,"v=spf1 -all"',
        '"a \\" #b"',
        "Boot\\x64\\wdsnbp.com",
        "it's",
        "${net0}",
    ],
)
def test_what_dnsmasq_takes_is_let_through(plan, part, value):
    found = plan({f"{part}:settings": {"enable-tftp": value}})
    assert found[part]["settings"] == [["enable-tftp", value]]


def test_ntp(plan):
    servers = ["198.51.100.100", "ntp.example.org", "ntp1"]
    assert plan({"ntp:servers": servers}, "gw2")["ntp"] == {
        "provider": "chrony",
        "servers": [
            {"address": "198.51.100.100", "pool": False},
            {"address": "ntp.example.org", "pool": True},
            {"address": "ntp1", "pool": True},
        ],
        "peers": ["10.77.0.2"],
        "allow": ["10.77.0.0/24", "10.8.0.0/16"],
        "settings": [],
    }


def test_kernel(plan):
    whole = plan({"nodes:gw1:public_interface": "wan0.7"})
    # Apart: not before the rules are in force.
    assert whole["forwarding"] == {"net/ipv4/ip_forward": "1"}
    found = whole["kernel"]
    assert "net/ipv4/ip_forward" not in found
    assert found["net/ipv4/conf/all/rp_filter"] == "2"
    assert found["net/ipv4/conf/wan0.7/send_redirects"] == "0"
    assert "net/ipv4/conf/eth1/send_redirects" not in found


def test_only_the_card_that_has_an_address_answers_for_it(plan):
    """The larger one of `all` and the interface's counts: `all` would be for everybody's."""
    link = {
        "public:virtual_ip": "198.51.100.10",
        "state_sync": {"interface": "eth3"},
        "nodes:gw1:sync": "10.78.0.1",
        "nodes:gw2:sync": "10.78.0.2",
    }
    for changes, interfaces in (({}, ("eth0", "eth1")), (link, ("eth0", "eth1", "eth3"))):
        found = plan(changes)["kernel"]
        arp = {name: value for name, value in found.items() if "/arp_" in name}
        assert arp == {
            f"net/ipv4/conf/{interface}/{name}": value
            for interface in interfaces
            for name, value in (("arp_ignore", "1"), ("arp_announce", "2"))
        }


def test_routers_of_ipv6_are_not_believed(plan):
    """None inside, ever; none outside, unless the pillar wants it."""
    inside, outside = (f"net/ipv6/conf/{side}/accept_ra" for side in ("eth0", "eth1"))
    for changes, expected in (({}, "0"), ({"public:accept_ra": False}, "0")):
        found = plan(changes)["kernel"]
        assert (found[inside], found[outside]) == ("0", expected)
    found = plan({"public:accept_ra": True})
    assert found["kernel"][inside] == "0"
    assert outside not in found["kernel"]
    assert found["public"]["accept_ra"] is True


def test_public_virtual_ip(plan):
    found = plan({"public:virtual_ip": "198.51.100.1"}, "gw2")
    assert found["vrrp"]["instances"][1] == {
        "name": "public",
        "interface": "eth1",
        "virtual_ip": "198.51.100.1",
        "addresses": [],
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


def test_without_what_is_optional(plan):
    found = plan(
        {
            **dict.fromkeys(("vpn", "hosts", "nat", "dhcp", "dns", "ntp", "nodes:gw2"), ...),
            **dict.fromkeys(("nodes:gw1:public", "public:network"), ...),
        }
    )
    assert found["node"]["public"] is None
    assert found["node"]["remote"] is None
    assert found["peers"] == found["routes"] == found["nat"]["forwards"] == []
    assert found["vpn"] == {"error": None, "pki": {}, "networks": [], "servers": []}
    assert found["dhcp"]["enabled"] is False


def test_overrides_of_a_node(plan):
    changes = {
        "nodes:gw2:priority": 254,
        "nodes:gw2:internal_interface": "lan0",
        "nodes:gw2:public_interface": "wan0",
        "nodes:gw2:remote": "vpn2.example.org",
        "nodes:gw2:public": ...,
        "keepalived": {"router_id": 7},
    }
    one, two = plan(changes, "gw1"), plan(changes, "gw2")
    assert (one["vrrp"]["priority"], two["vrrp"]["priority"]) == (249, 250)
    assert (two["internal"]["interface"], two["public"]["interface"]) == ("lan0", "wan0")
    assert (one["internal"]["interface"], one["public"]["interface"]) == ("eth0", "eth1")
    assert two["vrrp"]["instances"][0]["interface"] == "lan0"
    assert two["node"]["remote"] == "vpn2.example.org"
    assert two["vrrp"]["router_id"] == one["vrrp"]["router_id"] == 7


def test_ids_give_the_order_not_names(plan):
    changes = {"nodes:a": {"id": 3, "internal": "10.77.0.4"}}
    found = plan(changes)
    assert [peer["name"] for peer in found["peers"]] == ["gw2", "a"]
    assert found["dhcp"]["ntp"] == ["10.77.0.2", "10.77.0.3", "10.77.0.4"]


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


@pytest.mark.parametrize(
    ("key", "where"),
    [
        ("keepalived:settings", "vrrp"),
        ("dns:settings", "dns"),
        ("dhcp:settings", "dhcp"),
        ("ntp:settings", "ntp"),
        ("vpn:servers:main:settings", "vpn"),
    ],
)
def test_settings(plan, key, where):
    """Keywords in their order in the alphabet; a list is one keyword several times."""
    found = plan({key: {"sndbuf": 0, "bare": True, "push": ["route 192.0.2.0", "x"], "ratio": 0.5}})
    section = found["vpn"]["servers"][0] if where == "vpn" else found[where]
    assert section["settings"] == [
        ["bare", ""],
        ["push", "route 192.0.2.0"],
        ["push", "x"],
        ["ratio", "0.5"],
        ["sndbuf", "0"],
    ]


@pytest.mark.parametrize("file", ["conf-file", "conf-dir"])
def test_another_file_may_have_what_a_setting_needs(plan, file):
    settings = {"dnssec": True, file: "/usr/share/dnsmasq-base/trust-anchors.conf"}
    assert ["dnssec", ""] in plan({"dns:settings": settings})["dns"]["settings"]


def test_full_names_of_hosts(plan):
    """Whether a name is written with the site's domain or without is the same everywhere."""
    found = plan(
        {
            "hosts:backend01:aliases": ["www.example.internal", "www.company.example"],
            "nat:forwards": [
                {"port": 443, "to": "www"},
                {"port": 80, "to": "backend01.example.internal"},
                {"port": 81, "to": "WWW.company.example"},
            ],
            "firewall:groups": {"web": ["www"]},
            "firewall:forward": [{"from": "backend01.example.internal", "to": "www"}],
        }
    )
    assert {forward["ip"] for forward in found["nat"]["forwards"]} == {"10.77.0.10"}
    assert found["firewall"]["groups"]["web"]["v4"] == ["10.77.0.10"]
    (rule,) = found["firewall"]["forward"]
    assert rule["from"] == rule["to"] == [{"address": "10.77.0.10"}]


def test_units_that_follow(plan):
    assert plan()["follow"]["units"] == []
    units = ["nginx.service", "vm@web.01.service", "report.timer", "app.socket", "my.target"]
    assert plan({"follow_virtual_ip": units})["follow"]["units"] == units
    assert plan({"follow_virtual_ip": "nginx"})["follow"]["units"] == ["nginx.service"]


def test_units_that_have_to_run(plan):
    units = ["nginx", "vm@web.01.service", "srv-data.mount"]
    health = plan({"health": {"services": units}})["health"]
    assert health["services"][-3:] == ["nginx.service", "vm@web.01.service", "srv-data.mount"]


@pytest.mark.parametrize(("value", "seconds"), [(None, 60), (0, 0), (10, 10), (86400, 86400)])
def test_how_often_executables_are_called_again(plan, value, seconds):
    changes = {} if value is None else {"failover:reassert": value}
    assert plan(changes)["follow"]["reassert"] == seconds


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        ("nginx.servce", "is not the name of a systemd unit"),
        ("vm@.service", "is not the name of a systemd unit"),
        ("../x.service", "is not the name of a systemd unit"),
        ("a b.service", "is not the name of a systemd unit"),
        ("x.mount", "is not the name of a systemd unit"),
        (7, "must be text"),
        ("x" * 200 + ".service", "is longer than 200 characters"),
        ("keepalived.service", "is the formula's own"),
        ("keepalived", "is the formula's own"),
        ("gateway-dns.service", "is the formula's own"),
        ("openvpn-server@gateway-main.service", "is the formula's own"),
        ("conntrackd.service", "is the formula's own"),
        ("chrony.service", "is the formula's own"),
        ("chronyd.service", "is the formula's own"),
        ("ntpsec.service", "is the formula's own"),
        ("gateway-virtual-ip.target", "is the formula's own"),
    ],
)
def test_units_that_cannot_follow(errors, unit, message):
    [error] = errors({"follow_virtual_ip": [unit]})
    assert error.startswith("gateway:follow_virtual_ip:0: ")
    assert message in error


def test_units_that_follow_twice(errors):
    assert errors({"follow_virtual_ip": ["a.service", "a.service"]}) == [
        "gateway:follow_virtual_ip:1: unit a.service is taken already,"
        " by gateway:follow_virtual_ip:0"
    ]


SYNCED = {
    "public:virtual_ip": "198.51.100.10",
    "state_sync": {"interface": "eth3"},
    "nodes:gw1:sync": "10.78.0.2",
    "nodes:gw2:sync": "10.78.0.3",
}
BY_DHCP = "the DHCP client of a node without a public address in the pillar"


@pytest.mark.parametrize(
    ("port", "proto", "service", "changes"),
    [
        (53, "udp", "DNS", {}),
        (53, "tcp", "DNS", {}),
        (123, "udp", "time", {}),
        (323, "udp", "time", {}),
        (67, "udp", "DHCP", {}),
        (68, "udp", BY_DHCP, {"nodes:gw2:public": ...}),
        (3780, "udp", "state sync", SYNCED),
        (22, "tcp", "SSH", {}),
        (2222, "tcp", "SSH", {"firewall": {"ssh": {"port": 2222}}}),
    ],
)
def test_ports_of_the_gateway_itself(errors, port, proto, service, changes):
    """A VPN server listens on all addresses: it would take them, or not start."""
    server = {"vpn:servers:main:port": port, "vpn:servers:main:proto": proto}
    assert errors({**server, **changes}) == [
        "gateway:vpn:servers:main:port:"
        f" port {port}/{proto} is the gateway's own already, for {service}"
    ]


@pytest.mark.parametrize(
    ("port", "proto", "changes"),
    [
        (53, "udp", {"nat:forwards": []}),
        (3780, "udp", {}),  # no state sync
        (67, "udp", {"dhcp:enabled": False}),
        (68, "udp", {}),
        (22, "udp", {}),
        (22, "tcp", {"firewall": {"ssh": {"port": 2222}}}),
    ],
)
def test_ports_that_nobody_else_uses(errors, port, proto, changes):
    """On the public address a port of the gateway's own may lead to a host, as ever."""
    forwards = [{"port": port, "proto": "both", "to": "www"}]
    assert errors({"nat:forwards": forwards}) == []
    if port != 53:
        server = {"vpn:servers:main:port": port, "vpn:servers:main:proto": proto}
        assert errors({**server, **changes}) == []


def test_ssh_that_is_open_to_the_public_side_has_its_port(errors):
    server = {"vpn:servers:main:port": 22, "vpn:servers:main:proto": "tcp"}
    assert errors({**server, "firewall": {"ssh": {"from": "192.0.2.1"}}}) == [
        "gateway:firewall:ssh: port 22/tcp is taken already, by gateway:vpn:servers:main:port"
    ]


def test_names_that_dns_just_takes(errors):
    """253 characters are the longest; with a dot in it a name stands alone."""
    domain = ".".join([*["d" * 60] * 3, "d" * 59])
    found = errors({"domain": domain, "hosts:backend01:aliases": ["a" * 10, "a.example.org"]})
    assert found == []
    found = errors({"domain": domain, "hosts:backend01:aliases": ["a" * 11]})
    assert [error.split(": ")[0] for error in found] == ["gateway:hosts:backend01:aliases:0"]
    found = errors({"domain": domain, "nodes:gateway-one": {"id": 9, "internal": "10.77.0.9"}})
    assert [error.split(": ")[0] for error in found] == ["gateway:nodes:gateway-one"]


def test_public_networks_of_the_link(errors):
    """Between two routers such a network is usual, and nobody routes it."""
    changes = {"public:network": "169.254.9.0/24"}
    changes |= {f"nodes:gw{n}:public": f"169.254.9.{n}" for n in (1, 2)}
    assert errors(changes) == []


def test_unknown_node(example):
    site, _ = _gateway_plan.read(example)
    assert site
    message = 'gateway:nodes: this minion, gw3, is not among them (gw1, gw2); did you mean "gw2"?'
    assert _gateway_nodes.check_node(site, "gw1") == []
    assert _gateway_nodes.check_node(site, "gw3") == [message]
    with pytest.raises(ValueError, match="this minion, gw3, is not among them"):
        _gateway_plan.plan(site, "gw3")


# --------------------------------------------------------------------------------------------------
# The digest


def test_both_nodes_have_one_digest(plan):
    one, two = plan(node="gw1"), plan(node="gw2")
    assert one["digest"] == two["digest"]
    assert len(one["digest"]) == 16


def test_no_change_escapes_the_digest(plan):
    changes = {
        **EVERYTHING,
        "public:virtual_ip": "198.51.100.1",
        "public:addresses": [],
        "domain": "example.org",
        "nodes:gw1:internal": "10.77.0.4",
        "nodes:gw1:public": "198.51.100.9",
        "nodes:gw1:priority": 200,
        "internal:virtual_ip": "10.77.0.5",
        "vpn:pki:ca": "/etc/other.crt",
        "vpn:servers:main:proto": "tcp",
        "hosts:backend01:mac": "02:00:00:00:00:11",
        "hosts:backend01:aliases": [],
        "nat:forwards": [],
        "nat:forwards:0:to_port": 8443,
        "nat:forwards:0:comment": "the shop",
        "vpn:servers:main:full_tunnel": True,
        "firewall:log": True,
        "firewall:mss": 1300,
        "firewall:egress": "deny",
        "firewall:spoof_protection": False,
        "firewall:confirm_timeout": 60,
        "firewall:groups:admins": ["192.0.2.1"],
        "firewall:input": [{"proto": "esp"}],
        "firewall:forward": [{"proto": "esp"}],
        "firewall:ssh:port": 2222,
        "firewall:raw:filter:INPUT": ["-p 47 -j ACCEPT"],
        "firewall:raw6:filter:INPUT": ["-p 47 -j ACCEPT"],
        "dhcp:pool": "10.77.0.100-10.77.0.198",
        "dhcp:enabled": False,
        "dns:forwarders": [],
        "ntp:provider": "ntpsec",
        "follow_virtual_ip": ["app.service"],
    }
    digests = {plan(ADDRESSES)["digest"]}
    digests |= {plan({**ADDRESSES, key: value})["digest"] for key, value in changes.items()}
    assert len(digests) == 1 + len(changes)


# --------------------------------------------------------------------------------------------------
# Keys and certificates


def test_keys_as_paths(plan):
    changes = {"nodes:gw2:pki": {"certificate": "/etc/gw2.crt", "key": "/etc/gw2.key"}}
    assert plan(changes, "gw2")["vpn"]["pki"] == {
        "ca": {"path": "/etc/openvpn/pki/ca.crt"},
        "certificate": {"path": "/etc/gw2.crt"},
        "key": {"path": "/etc/gw2.key"},
        "tls_crypt": {"path": "/etc/openvpn/pki/tls-crypt.key"},
    }
    assert plan(changes, "gw1")["vpn"]["pki"]["key"] == {"path": "/etc/openvpn/pki/server.key"}


def test_keys_as_text(plan, edit):
    """A plan says where in the pillar the text is; it never has the text."""
    changes = {
        "vpn:pki": {
            "ca": pem("CERTIFICATE") * 2,
            "certificate": pem("CERTIFICATE"),
            "key": pem("PRIVATE KEY"),
            "tls_crypt": "#\n# 2048 bit OpenVPN static key\n#\n" + pem("OpenVPN Static key V1"),
        },
        "nodes:gw2:pki": {"key": pem("EC PRIVATE KEY").replace("\n", "\r\n")},
    }
    found = plan(changes, "gw2")["vpn"]["pki"]
    # Of what is public it says which text it is.
    hashes = {name: found[name].pop("hash") for name in ("ca", "certificate")}
    assert all(re.fullmatch("[0-9a-f]{16}", text) for text in hashes.values())
    assert found == {
        "ca": {"pillar": ["gateway", "vpn", "pki", "ca"]},
        "certificate": {"pillar": ["gateway", "vpn", "pki", "certificate"]},
        "key": {"pillar": ["gateway", "nodes", "gw2", "pki", "key"]},
        "tls_crypt": {"pillar": ["gateway", "vpn", "pki", "tls_crypt"]},
    }
    site, _ = _gateway_plan.read(edit(changes))
    assert site
    assert [node.pki["key"].text for node in site.nodes if node.pki] == [pem("EC PRIVATE KEY")]
    for shown in (repr(site), str(site), repr(plan(changes)), repr(plan(changes, "gw2"))):
        assert SECRET not in shown
    assert plan({**changes, "vpn:pki:ca": pem("CERTIFICATE")})["digest"] != site.digest
    assert plan({**changes, "nodes:gw2:pki": {}})["digest"] != site.digest


def test_a_certificate_for_each_node_and_one_digest(plan):
    """In each node's pillar its own, as gateway_pki.pillar has it."""
    texts = {
        "vpn:pki:certificate": pem("CERTIFICATE"),
        "vpn:pki:key": pem("PRIVATE KEY"),
    }
    others = {name: text.replace(SECRET, SECRET[::-1]) for name, text in texts.items()}
    digest = plan(texts, "gw1")["digest"]
    assert plan(others, "gw2")["digest"] == digest
    assert plan()["digest"] != digest


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("nothing was issued to gw1", "nothing was issued to gw1"),
        ("first\nsecond", r"'first\nsecond'"),
        ("", "''"),
    ],
)
def test_no_certificate_and_why(plan, errors, error, message):
    """It is the VPN's matter alone. Nothing else of its keys is said to be missing then."""
    changes = {"vpn:pki": {"error": error}}
    assert errors(changes) == []
    found, usual = plan(changes), plan()
    assert found["vpn"] == usual["vpn"] | {"error": message, "pki": {}}
    parts = usual.keys() - {"vpn", "digest"}
    assert {part: found[part] for part in parts} == {part: usual[part] for part in parts}
    # Which node has none is no part of the site.
    assert plan({"vpn:pki": {"error": "another"}})["digest"] == found["digest"]


def test_a_reason_that_is_no_text(errors):
    message = "must be text, is a number (7); put it in quotes"
    assert errors({"vpn:pki:error": 7}) == [f"gateway:vpn:pki:error: {message}"]


@pytest.mark.parametrize(
    "broken",
    [
        pem("PRIVATE KEY")[:-2],
        pem("PRIVATE KEY").replace("\n", " "),
        pem("PRIVATE KEY", SECRET + '"'),
        pem("PRIVATE KEY", ""),
        pem("PUBLIC KEY"),
        SECRET,
        [pem("PRIVATE KEY")],
        {SECRET: None},
    ],
    ids=[
        "cut off",
        "folded",
        "with a quote",
        "empty",
        "other",
        "bare",
        "list",
        "mapping",
    ],
)
@pytest.mark.parametrize("where", ["vpn:pki:key", "vpn:pki:tls_crypt", "nodes:gw2:pki"])
def test_errors_never_show_a_key(errors, where, broken):
    found = errors({where: {"key": broken} if where.startswith("nodes") else broken})
    assert len(found) == 1
    assert "is neither an absolute path nor PEM text" in found[0]
    assert SECRET not in found[0]
