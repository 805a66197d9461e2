"""The rows of the fault matrix about further networks behind the pair."""

from __future__ import annotations

import checks
import crowd
import further
from faults import (
    ANNOUNCED_MS,
    CUT,
    HEAL_MS,
    MANY,
    PROBED_MS,
    SOON_MS,
    UNCUT,
    Fault,
    Must,
    Stage,
    Step,
    apply,
    cards,
    is_on,
    on,
    pause,
    power_off,
    power_on,
    taken_by,
    vanishes,
    void,
)
from lab import LabError

# A card of a further network, and what leads to and from it beside its address.
GUEST = further.CARDS["guest"]["card"]


def new_card(name: str, card: str) -> Step:
    """Give a gateway a card of a further network anew, as at its boot."""
    return lambda stage: stage.lab.plug_more(name, card)


def unchanged(name: str, command: str) -> tuple[Step, Step]:
    """Two steps: what a command says on a host is noted, and is soon the same again."""
    noted: list[str] = []

    def note(stage: Stage) -> None:
        noted[:] = [stage.lab.host(name).run(command).stdout]

    def compare(stage: Stage) -> None:
        found = checks.eventually(
            lambda: stage.lab.host(name).run(command).stdout, lambda now: now == noted[0], 10
        )
        if found != noted[0]:
            raise LabError(f"{command} on {name}:\n{noted[0]}is now\n{found}")

    return note, compare


def leases_in(network: str) -> Step:
    """See to it that there are leases to be had in a further network."""
    return lambda stage: void(crowd.lease(network))


WAYS = unchanged("gw1", "ip rule show; ip route show table all proto 119 | sort")

FAULTS: tuple[Fault, ...] = (
    Fault(
        "a network's cable pulled on the primary",
        (cards("unplug", "gw1", GUEST), pause(2), is_on("gw2")),
        Must(moves=2, further_ms=SOON_MS),
        mends=(cards("plug", "gw1", GUEST),),
        site="networks",
        core=True,
    ),
    Fault(
        "a network's cable pulled on both",
        (cards("unplug", "gw1", GUEST), cards("unplug", "gw2", GUEST)),
        Must(dead=("guest",)),
        mends=(cards("plug", "gw1", GUEST), cards("plug", "gw2", GUEST)),
        seconds=5,
        site="networks",
    ),
    Fault(
        "a network's interface deleted on the primary, and made anew",
        (on("gw1", f"ip link delete {GUEST}"), pause(2), is_on("gw2")),
        Must(moves=2, further_ms=SOON_MS),
        mends=(new_card("gw1", GUEST),),
        before=(WAYS[0],),
        after=(taken_by("gw1"), WAYS[1], leases_in("guest")),
        site="networks",
    ),
    Fault(
        "the switch cuts one network off, with targets",
        (cards("isolate", "gw1", GUEST), pause(10), is_on("gw2")),
        Must(moves=2, further_ms=PROBED_MS + 1500),
        mends=(cards("rejoin", "gw1", GUEST),),
        before=(
            apply({"networks": {"guest": {"targets": [crowd.address(further.CARDS["guest"])]}}}),
        ),
        after=(apply(),),
        site="networks",
    ),
    Fault(
        "the switch cuts one network off, without targets",
        (cards("isolate", "gw1", GUEST),),
        Must(dead=("guest",)),
        mends=(cards("rejoin", "gw1", GUEST),),
        seconds=10,
        site="networks",
    ),
    Fault(
        "two networks lost on the primary, one on its peer",
        (
            cards("unplug", "gw2", GUEST),
            pause(1),
            cards("unplug", "gw1", "eth4", "eth5"),
            pause(2),
            is_on("gw2"),
        ),
        Must(moves=2, further_ms=SOON_MS, dead=("guest",)),
        mends=(cards("plug", "gw1", "eth4", "eth5"), cards("plug", "gw2", GUEST)),
        site="networks",
    ),
    Fault("primary vanishes, further networks", CUT, vanishes(), mends=UNCUT, site="networks"),
    Fault(
        "primary loses power, further networks",
        (power_off("gw1"),),
        vanishes(parted=False),
        mends=(power_on("gw1"),),
        site="networks",
    ),
    Fault(
        "primary vanishes, further networks, fast",
        CUT,
        vanishes("fast"),
        mends=UNCUT,
        site="networks, fast",
    ),
    Fault(
        f"primary vanishes, {MANY} further networks",
        CUT,
        vanishes(announced_ms=ANNOUNCED_MS),
        mends=UNCUT,
        site="many networks",
    ),
    Fault(
        f"keepalived stopped, {MANY} further networks",
        (on("gw1", "systemctl stop keepalived"),),
        Must(heal_ms=HEAL_MS, moves=2),
        mends=(on("gw1", "systemctl start keepalived"),),
        site="many networks",
    ),
)
