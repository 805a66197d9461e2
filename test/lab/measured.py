#!/usr/bin/env python3
"""The tables of docs/measurements.md: `make measurements` writes what was measured last into it.

A bench, and the whole fault matrix, print their figures as a table and keep it in out/measured. The
page has a table between `<!-- measured: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from engine import OUT

KEPT = OUT / "measured"
PAGE = Path(__file__).resolve().parents[2] / "docs/measurements.md"
TABLE = re.compile(r"(<!-- measured: (\S+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def machine() -> str:
    """What this is measured on: "2 cores of CPU, Linux 6.1.0"."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((text.split(": ")[1] for text in lines if text.startswith("model name")), "?")
    return f"{os.cpu_count()} cores of {model}, Linux {platform.release().split('-')[0]}"


def row(cells: Iterable[str]) -> str:
    """One line of a table."""
    return f"| {' | '.join(cells)} |\n"


def keep(name: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, and keep it for `make measurements`, with the machine."""
    lines = row(columns) + f"|{'---|' * len(columns)}\n" + "".join(map(row, rows))
    print(f"\n{name}\n{lines}", flush=True)
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{name}.md").write_text(f"{lines}\nMeasured on {machine()}.\n", encoding="utf-8")


def written(page: str, tables: dict[str, str]) -> str:
    """The page with these tables, by name, in their places. Raises ValueError for a table that has
    none."""
    unknown = tables.keys() - {name for _, name, _ in TABLE.findall(page)}
    if unknown:
        raise ValueError(f"the page has no place for {', '.join(sorted(unknown))}")

    def place(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        return f"{begin}{tables[name]}{end}" if name in tables else match[0]

    return TABLE.sub(place, page)


def main() -> None:
    tables = {path.stem: path.read_text(encoding="utf-8") for path in sorted(KEPT.glob("*.md"))}
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")
    print(f"docs/measurements.md: {', '.join(tables) or 'nothing was measured here'}")


if __name__ == "__main__":
    main()
