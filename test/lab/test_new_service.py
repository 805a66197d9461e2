"""A service that is added by its own files (test/exporter) works, and goes without a trace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import checks
import pytest
import with_exporter
from conftest import GATEWAYS, converge, have_formula, ok, wait_for_primary
from lab import Lab
from test_clean import LEFT
from test_upgrade import differences, inventory

pytestmark = pytest.mark.long
PORT = 9100


@pytest.fixture
def formula(site: Lab, tmp_path: Path) -> Iterator[Lab]:
    """The site with a formula that has the exporter, not applied yet."""
    with_exporter.make(tmp_path)
    have_formula(site.host("master"), folder=tmp_path)
    yield site
    have_formula(site.host("master"))
    converge(site)


def numbers(lab: Lab, host: str, address: str) -> str:
    """What the exporter at an address says to a host, without the comment."""
    page = checks.http(lab.host(host), f"http://{address}:{PORT}/metrics")
    return page.partition("\n")[2]


def answers(lab: Lab, name: str) -> bool:
    """Whether a gateway's exporter answers on the virtual IP within some seconds, and on its own
    address; and no other's."""
    wanted = f'gateway_info{{node="{name}"}} 1'
    found = checks.eventually(
        lambda: numbers(lab, "backend01", checks.VIRTUAL_IP), lambda page: page == wanted, 10
    )
    pages = [numbers(lab, "backend01", address) for address in checks.INTERNAL.values()]
    return bool([found, *pages] == [wanted, *(wanted if n == name else "" for n in GATEWAYS)])


def test_an_exporter(formula: Lab) -> None:
    before = {name: inventory(formula, name) for name in GATEWAYS}
    ok(formula.apply())
    assert answers(formula, "gw1")
    for address in (checks.PUBLIC["gw1"], checks.VIRTUAL_IP):  # not for the public side
        assert numbers(formula, "laptop", address) == ""
    status = formula.salt("gw*", "gateway.status")
    assert {name: status[name]["services"]["gateway-exporter"] for name in GATEWAYS} == {
        "gw1": "running",
        "gw2": "dead",
    }
    assert [status[name]["problems"] for name in GATEWAYS] == [[], []]
    again = formula.apply()
    assert [checks.changes(again[name]) for name in GATEWAYS] == [{}, {}]

    formula.salt("gw1", "gateway.drain")
    try:
        assert answers(formula, "gw2")
    finally:
        formula.salt("gw1", "gateway.undrain")
    wait_for_primary(formula)
    assert answers(formula, "gw1")

    ok(formula.apply(sls="gateway.exporter.clean"))
    assert numbers(formula, "backend01", checks.VIRTUAL_IP) == ""
    have_formula(formula.host("master"))
    ok(formula.apply())
    left = {name: differences(before[name], inventory(formula, name)) for name in GATEWAYS}
    assert left == dict.fromkeys(GATEWAYS, ([], []))
    for name in GATEWAYS:
        found = formula.host(name).run(LEFT, check=False).stdout.splitlines()
        # Of what a unit has read there is a note until a reboot, or a clean of all.
        assert [line for line in found if "exporter" in line and "/read/" not in line] == []


def test_clean_knows_it(formula: Lab) -> None:
    ok(formula.apply("gw2"), "gw2")
    assert "gateway-exporter" in formula.host("gw2").run(LEFT, check=False).stdout
    ok(formula.apply("gw2", "gateway.clean"), "gw2")
    assert formula.host("gw2").run(LEFT, check=False).stdout == ""
