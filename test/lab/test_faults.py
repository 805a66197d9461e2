"""Everything that is broken on purpose: the rows of faults.py and faults_further.py, played and
judged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict

import checks
import crowd
import faults
import faults_further
import further
import measured
import play
import pytest
from conftest import GATEWAYS
from lab import OUT, Lab, LabError

ROWS = sorted(
    (*faults.FAULTS, *faults_further.FAULTS),
    key=lambda fault: list(faults.SITES).index(fault.site),
)


class Matrix:
    """The lab with the site of the last row, and what came of the rows so far."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.site = ""  # as the last row left it: whole; "" if it did not
        self.outcomes: list[play.Outcome] = []
        self.cards: crowd.Cards = {}
        self.cables = ExitStack()

    def visit(self, site: str) -> None:
        """Have a whole site of this kind."""
        if site == self.site:
            return
        stage = faults.Stage(self.lab, faults.SITES[site], faults.CARDS.get(site, {}))
        self.repair()
        self.plug(stage.cards)
        self.lab.set_pillar({"gateway": stage.pillar})
        results = self.lab.apply()
        for name in GATEWAYS:
            assert checks.failures(results.get(name, "no answer")) == {}, name
        assert play.wait_whole(stage, 60) == ""
        self.site = site

    def plug(self, cards: crowd.Cards) -> None:
        """Have these cards in further networks and no others, and a crowd where there are some."""
        if cards == self.cards:
            return
        self.cables.close()
        self.cards = cards
        if cards:
            self.cables.enter_context(self.lab.further(cards))
            self.cables.enter_context(crowd.crowd(cards))
            self.cables.enter_context(further.known_outside(self.lab))

    def repair(self) -> None:
        """Undo what a row that failed half-way may have left."""
        for name in GATEWAYS:
            host = self.lab.host(name)
            if not host.pid:
                host.start()
        for undo in faults.REPAIRS:
            undo(faults.Stage(self.lab, {}))
        self.lab.wait_minions()


@pytest.fixture(scope="module")
def matrix(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Matrix]:
    matrix = Matrix(lab)
    yield matrix
    tell = request.config.pluginmanager.getplugin("terminalreporter").write_line
    tell("")
    for text in (play.header(), *map(play.line, matrix.outcomes)):
        tell(text)
    done = [asdict(outcome) for outcome in matrix.outcomes]
    (OUT / "faults.json").write_text(json.dumps(done, indent=1))
    if len(done) == len(ROWS):
        measured.keep("faults", play.DOCUMENTED, map(play.documented, matrix.outcomes))
    lab.set_pillar({})
    lab.apply()
    matrix.plug({})


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=fault.name, marks=[] if fault.core else [pytest.mark.long])
        for fault in ROWS
    ],
)
def test_fault(matrix: Matrix, fault: faults.Fault, capsys: pytest.CaptureFixture[str]) -> None:
    matrix.visit(fault.site)
    matrix.site, site = "", matrix.site
    try:
        outcome = play.play(matrix.lab, fault)
    except LabError as error:
        outcome = play.Outcome(fault.name, fault.site, failed=[f"could not be played: {error}"])
    if outcome.whole:
        matrix.site = site
    matrix.outcomes.append(outcome)
    with capsys.disabled():
        print(f"\n{play.line(outcome)}", end=" ")
    assert outcome.failed == []
