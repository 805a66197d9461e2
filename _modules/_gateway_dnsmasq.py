"""What DNS and DHCP have in common: dnsmasq's keywords, and those that are the formula's own."""

import re

import _gateway_values as values

_DNSMASQ_PATTERN = re.compile(rf"(?:[ !#-~]|{values.QUOTED_PATTERN.pattern})*")


def dnsmasq_setting(value: object) -> str:
    """Unlike other daemons, dnsmasq takes quotes (in pairs), braces and backslashes."""
    if value is True:
        return ""
    text = values.setting_text(value)
    if len(text) > values.LONGEST_SETTING:
        raise ValueError(f"{values.show(text)} is longer than {values.LONGEST_SETTING} characters")
    if not _DNSMASQ_PATTERN.fullmatch(text):
        raise ValueError(
            f"{values.show(text)} has a character that dnsmasq cannot have here (line breaks,"
            " anything but ASCII), or a double quote without its second"
        )
    if " #" in values.QUOTED_PATTERN.sub("", text):
        raise ValueError(
            f"{values.show(text)} has a comment in it ( #), which dnsmasq would leave out"
        )
    return text


# What dnsmasq's check lets through, and then it does not start, does not serve or serves twice.
_DNSMASQ_OWN = {
    "bind-interfaces": "the virtual IP comes and goes, and the formula has bind-dynamic for it",
    "conf-script": "the check of a new configuration would run it",
    "enable-ubus": "dnsmasq has to be built for it, and is not",
    "group": "it runs as its own user and group",
    "no-daemon": "it would keep root's rights",
    "user": "it runs as its own user and group",
}
_DNS_OWN = {
    **_DNSMASQ_OWN,
    "port": "clients and the firewall know port 53",
    "servers-file": "the formula has one; use server",
}
_DHCP_OWN = {
    **_DNSMASQ_OWN,
    "dhcp-alternate-port": "clients and the firewall know port 67",
    "dhcp-leasefile": "the leases are in /var/lib/gateway/dhcp.leases",
    "port": "this one serves no DNS",
}
_DHCP_WORDS = re.compile(r"dhcp-.*|pxe-.*|tag-if|no-ping|bootp-dynamic|read-ethers|leasefile-ro")
_DNS_WORDS = re.compile(
    r"address|all-servers|auth-.*|bogus-.*|cache-.*|caa-record|cname|dnssec|domain-needed|filter-.*"
    r"|host-record|local|localise-queries|log-queries|mx-host|naptr-record|neg-ttl|no-resolv"
    r"|ptr-record|rebind-.*|resolv-file|rev-server|server|servers-file|srv-host|stop-dns-rebind"
    r"|strict-order|synth-domain|txt-record"
)


def refuse_dns(keyword: str) -> str | None:
    if _DHCP_WORDS.fullmatch(keyword):
        return "it is of DHCP, which is another process: gateway:dhcp:settings"
    return _DNS_OWN.get(keyword)


def refuse_dhcp(keyword: str) -> str | None:
    if _DNS_WORDS.fullmatch(keyword):
        return "it is of DNS, which is another process: gateway:dns:settings"
    return _DHCP_OWN.get(keyword)
