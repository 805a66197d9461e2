"""Packets through the firewall of sites by chance, and what docs/firewall.md says of each.

FLOWS_SEED=7 makes other sites; FLOWS_PILLARS=1000 more of them.
"""

from __future__ import annotations

import os
from random import Random
from typing import Any

import _gateway_plan
import _gateway_rules
import pillars
import pytest
import yaml
from machine import Machine
from oracle import Oracle
from world import World, namespace

SEED = os.environ.get("FLOWS_SEED", "1")
PILLARS = int(os.environ.get("FLOWS_PILLARS", "200"))
PACKETS = 50


def site(rng: Random) -> tuple[Machine, dict[str, Any]]:
    """A node of a valid pillar, and its plan."""
    for _ in range(100):
        pillar = pillars.pillar(rng)
        found, _errors = _gateway_plan.read(pillar)
        if found:
            machine = pillars.machine(rng, pillar)
            return machine, _gateway_plan.plan(found, machine.name)
    raise AssertionError("the planner refuses all of these pillars")


@pytest.mark.parametrize("number", range(PILLARS), ids=lambda number: f"{SEED}-{number}")
def test_flows(number: int) -> None:
    rng = Random(f"{SEED}-{number}")
    machine, plan = site(rng)
    aim, oracle = pillars.Aim(rng, machine), Oracle(machine)
    # What is routed fares alike with the rules for bridges (test_bridge.py has what is not).
    bridges = ((), (), (machine.internal,), (machine.internal, machine.public))[number % 4]
    wrong = []
    with namespace():
        world = World(machine, plan, _gateway_rules.ruleset(plan, bridges))
        try:
            for _ in range(PACKETS):
                packet = aim.packet()
                right = oracle.says(packet)
                real = world.does(packet, right)
                if real != right:
                    wrong.append(f"{packet}\n    should be {right}\n    is        {real}")
                elif world.passed and oracle.has_answer(packet, world.passed):
                    lost = world.loses_answer(packet)
                    wrong += [f"{packet}\n    {right}, but {lost}"] if lost else []
        finally:
            world.close()
    if wrong:
        text = yaml.safe_dump({"gateway": machine.pillar}, sort_keys=False)
        again = f"FLOWS_SEED={SEED} make flows PYTEST_ARGS='-k [{SEED}-{number}]'"
        pytest.fail("\n".join([text, str(machine), *wrong, again]), pytrace=False)
