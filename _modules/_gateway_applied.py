"""The plan that was applied last, and what is another one since."""

import json
from typing import Any

import _gateway_machine
import _gateway_pem
import _gateway_plan
from _gateway_machine import Facts, Plan

APPLIED = "/var/lib/gateway/applied"  # the plan; older versions wrote its digest alone
# What plans of older versions do not have, and status and drain look at.
LATER: Plan = {
    "networks": [],
    "inside_routes": [],
    "ways_back": [],
    "leases": {"enabled": False},
}


def status(wanted: Plan | None) -> tuple[Facts, list[str]]:
    """``digest`` and ``formula``. ``wanted`` is the pillar's plan; None while that is wrong."""
    applied = last()
    facts = {
        "digest": {"applied": applied["digest"], "pillar": wanted and wanted["digest"]},
        "formula": {"applied": applied.get("formula"), "version": _gateway_plan.VERSION},
    }
    return facts, _not_applied(applied, wanted) if wanted else []


def _not_applied(applied: Plan, wanted: Plan) -> list[str]:
    """What of the formula and the pillar is not what was applied last."""
    if not applied["digest"]:
        return ["the whole formula was never applied on this node"]
    if applied.get("formula") != wanted["formula"]:
        before = applied.get("formula") or "a version that did not say which"
        # The other version may read the same pillar differently, so the two plans cannot be
        # compared.
        return [f"the formula is {wanted['formula']}, and {before} was applied last: apply it"]
    hashes = [_material_hashes(plan) for plan in (applied, wanted)]
    newer = [
        words
        for name, words in _gateway_pem.EXPIRING.items()
        if name in hashes[1] and hashes[0].get(name) != hashes[1][name]
    ]
    differences = [f"{words} is not the one that was applied last: apply it" for words in newer]
    parts = [
        name
        for name in wanted
        if name != "digest" and _without_hashes(applied, name) != _without_hashes(wanted, name)
    ]
    if applied["digest"] != wanted["digest"] and (parts or not newer):
        here = (
            f", in {', '.join(sorted(parts))}" if parts else ", in nothing that is about this node"
        )
        differences.append(f"the pillar is not what was last applied{here}")
    return differences


def _material_hashes(plan: Plan) -> dict[str, str]:
    pki = plan.get("vpn", {}).get("pki", {})
    return {name: material["hash"] for name, material in pki.items() if "hash" in material}


def _without_hashes(plan: Plan, part: str) -> Any:
    planned = plan.get(part)
    if part != "vpn" or not planned:
        return planned
    pki = {
        name: {key: value for key, value in material.items() if key != "hash"}
        for name, material in planned.get("pki", {}).items()
    }
    return planned | {"pki": pki}


def last() -> Plan:
    """The plan that was applied last as a whole; of an older version its digest alone."""
    text = _gateway_machine.text(APPLIED)
    try:
        plan = json.loads(text or "")
    except ValueError:
        plan = None
    if not isinstance(plan, dict) or "digest" not in plan:
        return {"digest": text or None}
    return LATER | plan
