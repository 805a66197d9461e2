"""The journal of leases: no address twice, in any history."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "gateway/leases/files"))

import pytest
from lease_world import World


@pytest.mark.parametrize("seed", range(40))
def test_no_address_twice(seed):
    world = World(seed)
    world.run(120)
    print(world.given, world.excused)
    assert world.collisions == [], "\n".join([f"seed {seed}", *world.history[-60:]])
