"""What DNS and DHCP have in common: dnsmasq's keywords, and those that are the formula's own."""

import os
import re

import _gateway_kinds as kinds
import _gateway_machine
import _gateway_values as values
from _gateway_keys import not_possible
from _gateway_machine import Here, Plan

_DNSMASQ_PATTERN = re.compile(rf"(?:[ !#-~]|{values.QUOTED_PATTERN.pattern})*")
# Keywords that name a file or folder which dnsmasq reads again while it runs.
READ_BY_DNSMASQ = (
    *("addn-hosts", "hostsdir", "resolv-file", "tftp-root"),
    *("dhcp-hostsfile", "dhcp-optsfile", "dhcp-optsdir"),
)


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


# A space before # is the beginning of a comment outside of quotes.
_QUOTED = values.QUOTED_PATTERN.pattern
SETTING = kinds.setting(
    dnsmasq_setting,
    rf"(?=[^\n]{{0,{values.LONGEST_SETTING}}}$)(?:[!#-~]|{_QUOTED}| (?!(?:{_QUOTED})*#))*",
)


# `dnsmasq --test` accepts these, and then dnsmasq does not start, does not serve, or serves twice.
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
    "dhcp-hostsdir": "the formula has one; use dhcp-hostsfile",
    "dhcp-leasefile": "the leases are in a database that both nodes have",
    "dhcp-script": "the formula has one, which keeps the leases",
    "dhcp-luascript": "the formula has a dhcp-script, which keeps the leases",
    "dhcp-scriptuser": "the formula's script runs as root",
    "leasefile-ro": "the formula has it",
    "no-ping": "the formula has it",
    "port": "this one serves no DNS",
}
_DHCP_WORDS = "dhcp-.*|pxe-.*|tag-if|no-ping|bootp-dynamic|read-ethers|leasefile-ro"
_DNS_WORDS = (
    "address|all-servers|auth-.*|bogus-.*|cache-.*|caa-record|cname|dnssec|domain-needed|filter-.*"
    "|host-record|local|localise-queries|log-queries|mx-host|naptr-record|neg-ttl|no-resolv"
    "|ptr-record|rebind-.*|resolv-file|rev-server|server|servers-file|srv-host|stop-dns-rebind"
    "|strict-order|synth-domain|txt-record"
)


DNS_REFUSED = not_possible(
    {_DHCP_WORDS: "it is of DHCP, which is another process: gateway:dhcp:settings", **_DNS_OWN}
)
DHCP_REFUSED = not_possible(
    {_DNS_WORDS: "it is of DNS, which is another process: gateway:dns:settings", **_DHCP_OWN}
)


def warnings(plan: Plan, here: Here) -> list[str]:
    """Files that dnsmasq shall read and cannot: it goes on without them, only its log says so."""
    found = []
    for part in ("dns", "dhcp"):
        for keyword, value in plan[part]["settings"]:
            path = value.split(",")[0]
            if keyword in READ_BY_DNSMASQ and path.startswith("/"):
                key = f"gateway:{part}:settings:{keyword}"
                fault = _dnsmasq_fault(path)
                found += [f"{key}: {fault}"] if fault else []
    return found


def _dnsmasq_fault(path: str) -> str | None:
    """Why dnsmasq has nothing of a file; it reads files when it has dropped its privileges."""
    if not os.path.exists(path):
        return f"{path} is not there on this node"
    if _gateway_machine.out_of_sight(path):
        return _gateway_machine.out_of_sight(path, "dnsmasq's")
    dnsmasq = ("setpriv", "--reuid=dnsmasq", "--regid=nogroup", "--clear-groups")
    # The user is not there before the package is installed.
    if _gateway_machine.succeeds(*dnsmasq, "true") and not _gateway_machine.succeeds(
        *dnsmasq, "test", "-r", path
    ):
        return f"user dnsmasq may not read {path}"
    return None
