"""How this node is doing: the sum of what the rooms say, whichever there are.

Each door is a function of a room that takes the plan and the node at this moment (``Here``):

- ``errors``: what is wrong with the node beside its pillar. Nothing is applied then.
- ``forecasts``: what ``gateway.status`` would say in its own words once the node runs.
- ``warnings``: what else a person should see to; it keeps nothing from being applied.
- ``status``: facts, by their keys in ``gateway.status`` (rooms may share one), and problems.

While no plan is known, a room has ``status_without_plan`` if it can say something all the same, and
``UNKNOWN`` has the facts that it cannot.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import _gateway_applied
import _gateway_drain
import _gateway_failover
import _gateway_interfaces
import _gateway_machine
import _gateway_plan
from _gateway_machine import Facts, Here, Plan
from _gateway_site import Site


def look(plan: Plan) -> Here:
    """This node now. The pillar is not asked: it may be wrong, and the plan an older one."""
    links = _gateway_machine.links()
    addresses = _gateway_machine.addresses_of(links)
    return Here(
        links=links,
        role=_gateway_failover.role(plan["internal"]["virtual_ip"], addresses),
        drained=_gateway_drain.drained_since() is not None,
    )


def look_by_pillar(
    plan: Plan, site: Site, pillar: Mapping[str, Any], kept: dict[str, Any] | None = None
) -> Here:
    """This node now, with what its plan and its pillar are. Whatever is in ``kept`` is not looked
    at again."""
    return replace(
        look(plan),
        site=site,
        interface_keys=_gateway_interfaces.interface_keys(plan, pillar),
        address_keys=_gateway_interfaces.address_keys(plan, pillar),
        kept={} if kept is None else kept,
    )


def errors(plan: Plan, here: Here) -> list[str]:
    """Why nothing may be applied on this node, each as ``pillar:key: what is wrong``."""
    return [error for errors in _gateway_plan.doors("errors") for error in errors(plan, here)]


def warnings(plan: Plan, here: Here, forecasts: bool) -> list[str]:
    """What a person should see to, each as ``pillar:key: what is wrong``; room by room."""
    said = []
    for room in _gateway_plan.ROOMS:
        if forecasts and hasattr(room, "forecasts"):
            said += room.forecasts(plan, here)
        if hasattr(room, "warnings"):
            said += room.warnings(plan, here)
    return said


def status(plan: Plan, here: Here, errors: list[str]) -> dict[str, Any]:
    """What ``gateway.status`` returns. ``errors`` are the pillar's: then the plan is an older one
    that was applied last."""
    said = [
        _units(plan, here),
        # Who has the virtual IP and why comes before what that rests on.
        *(status(plan, here) for status in reversed(_gateway_plan.doors("status"))),
        _gateway_applied.status(None if errors else plan),
    ]
    return {
        "node": plan["node"]["name"],
        **_facts(facts for facts, _ in said),
        "problems": _once(
            [
                *errors,
                *(problem for _, problems in said for problem in problems),
                *([] if errors else warnings(plan, here, forecasts=False)),
            ]
        ),
    }


def status_without_plan(node: str, errors: list[str]) -> dict[str, Any]:
    """As far as it can be told of a node without knowing what it is to be."""
    said = [
        *(status() for status in reversed(_gateway_plan.doors("status_without_plan"))),
        _gateway_applied.status(None),
    ]
    unknown: list[Facts] = [getattr(room, "UNKNOWN", {}) for room in _gateway_plan.ROOMS]
    return {
        "node": node,
        **_facts([{"services": {}}, *unknown, *(facts for facts, _ in said)]),
        "problems": _once([*errors, *(problem for _, problems in said for problem in problems)]),
    }


def _units(plan: Plan, here: Here) -> tuple[Facts, list[str]]:
    """The formula's own units, of which a drain stops some."""
    units = [unit for unit in plan["units"] if not (here.drained and unit["drained"])]
    states = _gateway_machine.service_states([unit["unit"] for unit in units])
    problems = []
    for unit in units:
        everywhere, state = unit["where"] == "all", states[unit["unit"]]
        if (state == "running") != (everywhere or here.role == "MASTER"):
            where = "" if everywhere else f" while this node is {here.role}"
            problems.append(f"service {unit['unit']} is {state}{where}")
    return {"services": states}, problems


def _facts(parts: Iterable[Facts]) -> Facts:
    merged: Facts = {}
    for part in parts:
        for key, facts in part.items():
            merged[key] = merged.get(key, {}) | facts
    return merged


def _once(problems: list[str]) -> list[str]:
    """The health monitor and a room may say the same."""
    return list(dict.fromkeys(problems))
