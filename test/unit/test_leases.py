"""The journal of leases: no address twice, in any history."""

from collections import Counter

import pytest
from lease_world import CORNERS, World


def play(seed, acts=100):
    """A whole history, which has to keep every promise; return the world."""
    world = World(seed)
    world.run(acts)
    faults = world.heal()
    story = "\n".join([f"seed {seed} {world.rare}", *world.history[-80:]])
    assert (world.collisions, world.refused, faults) == ([], [], []), story
    for cause in world.excused:
        if not cause.startswith("refused"):
            assert CORNERS[cause] & set(world.rare), f"{cause} cannot be\n{story}"
    return world


@pytest.mark.parametrize("first", range(0, 1000, 50))
def test_no_address_twice(first):
    """In 1,000 histories; pytest -rP prints what was excused, by the corners of internals.md."""
    excused: Counter[str] = Counter()
    given: Counter[bool] = Counter()
    for seed in range(first, first + 50):
        world = play(seed)
        excused.update(world.excused)
        given.update(world.given)
    print(dict(excused), dict(given))
    # Both are much of what happens.
    assert given[True] > 1000
    assert given[False] > 1000
