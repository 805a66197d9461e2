"""The exporter in all its parts. It runs among the formula's unit tests, in a copy with it."""

import _gateway_machine
import _gateway_plan
import _gateway_rules
import _gateway_status
import pytest
from _gateway_machine import Here

UNIT = "/etc/systemd/system/gateway-exporter.service"


def test_it_is_in_the_plan(plan):
    planned = plan()
    assert planned["exporter"] == {"port": 9100}
    assert {"unit": "gateway-exporter", "watched": False, "where": "primary", "drained": False} in (
        planned["units"]
    )


def test_it_is_let_in_from_the_inside_alone(plan):
    found = _gateway_rules.ruleset(plan())
    rules = [line for line in found["v4"].splitlines() if "9100" in line]
    assert rules == [
        f"-A GATEWAY-INPUT -i {interface} -p tcp --dport 9100 -j ACCEPT"
        for interface in ("eth0", "vpn-main")
    ]
    assert "9100" in found["v6"]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"follow_virtual_ip": ["gateway-exporter"]},
            "gateway:follow_virtual_ip:0: gateway-exporter.service is the formula's own",
        ),
        (
            {"health:services": ["gateway-exporter"]},
            "gateway:health:services:0: gateway-exporter.service runs only where the virtual IP is,"
            " so any other node would be at fault",
        ),
        (
            {"vpn:servers:main:port": 9100, "vpn:servers:main:proto": "tcp"},
            "gateway:vpn:servers:main:port: port 9100/tcp is the gateway's own already, for the"
            " exporter",
        ),
    ],
    ids=["follows already", "not on each node", "its port"],
)
def test_the_pillar_cannot_take_it_for_somebody_else_s(errors, changes, error):
    assert errors(changes) == [error]


def test_it_is_rendered(render):
    found = render("example")
    assert 'gateway_info{node="gw1"} 1' in found.files["/etc/gateway/exporter/metrics"]
    assert "/etc/gateway/exporter 9100" in found.files[UNIT]
    assert found.ids["exporter service"]["target"] == "gateway-virtual-ip.target"
    assert found.ids["exporter package"]["pkgs"] == ["python3"]


def test_clean_takes_it_away(render):
    for sls in ("gateway.clean", "gateway.exporter.clean"):
        low = render("example", sls).low
        assert {"gateway-exporter", UNIT, "/etc/gateway/exporter"} <= {
            chunk["name"] for chunk in low
        }


@pytest.mark.parametrize(
    ("role", "now", "problem"),
    [
        ("MASTER", "running", None),
        ("MASTER", "dead", "service gateway-exporter is dead"),
        ("BACKUP", "dead", None),
        ("BACKUP", "running", "service gateway-exporter is running"),
    ],
)
def test_status_looks_at_it(plan, monkeypatch, role, now, problem):
    states = {"gateway-dhcp": "running" if role == "MASTER" else "dead", "gateway-exporter": now}
    monkeypatch.setattr(
        _gateway_machine,
        "service_states",
        lambda names: dict.fromkeys(names, "running") | states,
    )
    facts, problems = _gateway_status._units(plan(), Here(links={}, role=role, drained=False))
    assert facts["services"]["gateway-exporter"] == now
    expected = [f"{problem} while this node is {role}"] if problem else []
    assert [text for text in problems if "exporter" in text] == expected


def test_the_planner_is_the_copy_s():
    assert "_gateway_exporter" in [room.__name__ for room in _gateway_plan.ROOMS]
