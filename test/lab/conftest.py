"""The lab as pytest sees it: one for the whole run, the example's site again after each test."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import checks
import pki
import pytest
from lab import REPOSITORY, Host, Lab

GATEWAYS = tuple(checks.INTERNAL)
# Its unit ends the first process alone.
END_MINION = "systemctl stop salt-minion; systemctl kill --signal=KILL --kill-who=all salt-minion"
# What this formula may touch, and what the kernel has. Counters, times and leases aside.
SNAPSHOT = """
find /etc /usr/lib/gateway /usr/lib/systemd /var/lib/gateway -type f -not -path '/etc/salt/*' \
    -not -name 'leases.db*' -exec sha256sum {} + 2>/dev/null | sort -k2
find /etc/systemd/system /etc/gateway -type l -printf '%p -> %l\n' 2>/dev/null | sort
dpkg-query -W -f '${Package} ${Status}\n'
systemctl list-units --plain --no-legend --type=service,target --state=active | cut -d' ' -f1 |
    grep -vE '^(user|session|packagekit|pcscd|salt|run-|apt-)' | sort
{ iptables-save; ip6tables-save; ipset save; } 2>/dev/null | sed -e '/^#/d' -e 's/\\[[0-9:]*\\]//'
ip rule show; ip -6 rule show
ip -brief -4 address | sed 's/@if[0-9]*//; s/  */ /g'; ip -4 route show table all | sort
grep -r . /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/*/src_valid_mark \
    /proc/sys/net/ipv4/ip_nonlocal_bind \
    /proc/sys/net/ipv4/conf/*/rp_filter /proc/sys/net/ipv4/conf/*/*_redirects \\
    /proc/sys/net/ipv4/conf/*/arp_ignore /proc/sys/net/ipv4/conf/*/arp_announce
"""


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab that is up, with the example's site and certificates where it expects them."""
    beyond = any(not item.get_closest_marker("core") for item in request.session.items)
    with Lab(tests=beyond).visit() as lab:
        pki.distribute(lab)
        yield lab


@pytest.fixture
def site(lab: Lab) -> Lab:
    """The example's site, applied; gw1 has the virtual IP and the backend its lease."""
    converge(lab)
    return lab


@pytest.fixture
def masterless(site: Lab) -> Iterator[Host]:
    """gw1, which can apply the site's pillar without a master."""
    with pki.masterless(site, "gw1"):
        yield site.host("gw1")


@pytest.fixture
def pillar(site: Lab) -> Iterator[Callable[..., dict[str, Any]]]:
    """Merge something over the site's pillar and apply it; afterwards all is as it was."""

    def change(gateway: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        site.set_pillar({"gateway": gateway})
        return site.apply(**kwargs)

    yield change
    site.set_pillar({})
    converge(site)


def converge(lab: Lab) -> None:
    """Apply where something is amiss, until nothing is."""
    status = lab.salt("gw*", "gateway.status")
    if any(not isinstance(status.get(name), dict) or status[name]["problems"] for name in GATEWAYS):
        results = lab.apply()
        for name in GATEWAYS:
            assert checks.failures(results.get(name, "no answer")) == {}
    wait_for_primary(lab)
    ready = checks.eventually(
        lambda: checks.http(lab.host("backend01"), f"http://{checks.INTERNET}/"), bool, 30
    )
    assert ready == "internet saw 198.51.100.2"


def wait_for_primary(lab: Lab) -> None:
    """Return when the virtual IP is on gw1, and only there."""
    assert checks.eventually(lambda: checks.holders(lab), lambda on: on == ["gw1"], 30) == ["gw1"]


@contextmanager
def secondary_in_charge(lab: Lab) -> Iterator[None]:
    """The virtual IP is on gw2 while gw1 lives."""
    lab.host("gw1").run("systemctl stop keepalived")
    try:
        assert checks.eventually(lambda: checks.holders(lab), lambda on: on == ["gw2"], 5) == [
            "gw2"
        ]
        yield
    finally:
        lab.host("gw1").run("systemctl start keepalived")
        wait_for_primary(lab)


def have_formula(host: Host, commit: str = "", folder: Path | None = None) -> None:
    """Have the formula as it was at a commit in a host's file_roots, as it is in a folder, or as it
    is here."""
    folders = ("_modules", "_states", "gateway")
    make = f"for f in {' '.join(folders)}; do ln -s /srv/repo/$f .; done"
    text = ""
    if commit or folder:
        command = ["git", "-C", str(REPOSITORY), "archive", commit, *folders]
        if folder:
            command = ["tar", "-C", str(folder), "-c", *folders]
        archive = subprocess.run(command, check=True, capture_output=True).stdout
        make, text = "base64 -d | tar -x", base64.b64encode(archive).decode()
    host.run(f"cd /srv/formula && rm -rf {' '.join(folders)} && {{ {make}; }}", input=text)


def snapshot(lab: Lab, name: str) -> list[str]:
    """Everything on a gateway that the formula could have changed, as lines of text."""
    return lab.host(name).run(SNAPSHOT).stdout.splitlines()


def ok(results: dict[str, Any], *names: str) -> dict[str, Any]:
    """Assert that no state failed on these gateways, and return the results."""
    for name in names or GATEWAYS:
        assert checks.failures(results.get(name, "no answer")) == {}, name
    return results
