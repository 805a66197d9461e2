"""No text of the pillar breaks out of the line of a file where it ends up."""

from functools import reduce

import pytest
from cases import EVERYTHING


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
