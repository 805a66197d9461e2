"""The tables of docs/measurements.md."""

import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "lab"))

import measured

PAGE = (
    "# A\n<!-- measured: a -->\n| old |\n<!-- end -->\nText.\n<!-- measured: b -->\n<!-- end -->\n"
)


def test_a_table_is_printed_and_kept_for_the_page(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(measured, "KEPT", tmp_path / "measured")
    monkeypatch.setattr(measured, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(measured, "machine", lambda: "a machine")
    measured.PAGE.write_text(PAGE)
    measured.keep("a", ["x", "y"], [["1", "2"], ["3", "4"]])
    table = "| x | y |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n"
    assert table in capsys.readouterr().out
    measured.main()
    new = PAGE.replace("| old |\n", f"{table}\nMeasured on a machine.\n")
    assert measured.PAGE.read_text() == new
    measured.main()
    assert measured.PAGE.read_text() == new


def test_a_table_without_a_place_is_an_error():
    with pytest.raises(ValueError, match=r"no place for c, d$"):
        measured.written(PAGE, {"d": "", "a": "", "c": ""})


def test_each_table_that_is_kept_has_a_place():
    root = measured.PAGE.parents[1]
    sources = [*root.glob("test/bench/*.py"), root / "test/lab/test_faults.py"]
    kept = {
        name for path in sources for name in re.findall(r'keep\(\s*"([^"]+)"', path.read_text())
    }
    places = [name for _, name, _ in measured.TABLE.findall(measured.PAGE.read_text())]
    assert kept == set(places)
    assert len(places) == len(kept)
