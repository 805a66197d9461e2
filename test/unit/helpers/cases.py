"""What the planner's tests share."""

SECRET = "c2VjcmV0c2VjcmV0c2VjcmV0"


def pem(label, body=SECRET):
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"


ADDRESSES = {
    "public:virtual_ip": "198.51.100.10",
    "public:addresses": ["198.51.100.11", "198.51.100.12"],
}
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
