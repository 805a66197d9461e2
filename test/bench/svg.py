"""One kind of picture: measured times as dots on a logarithmic axis, a row for each series."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT = 860, 150, 620  # the axis is between LEFT and RIGHT
NOTHING = LEFT + 14  # where a time of 0 is, which a logarithm does not have
FIRST = LEFT + 56  # where the axis begins
LOWEST, HIGHEST = 1.0, 10_000.0  # ms
TICKS = {1: "1 ms", 10: "10 ms", 100: "100 ms", 1_000: "1 s", 10_000: "10 s"}
ROW, HEAD, TOP = 38, 34, 74
# Without variables, which not every viewer knows.
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; }
.title { font-size: 17px; font-weight: 600; } .head { font-weight: 600; }
.quiet { font-size: 12px; }
.end { text-anchor: end; } .middle { text-anchor: middle; }
.dot { fill-opacity: 0.45; } .mark { stroke-width: 2; }
.paper { fill: #ffffff; } text { fill: #1f2328; } .quiet { fill: #59636e; }
.line { stroke: #d1d9e0; } .dot { fill: #0969da; } .mark { stroke: #bc4c00; }
@media (prefers-color-scheme: dark) {
.paper { fill: #0d1117; } text { fill: #f0f6fc; } .quiet { fill: #9198a1; }
.line { stroke: #3d444d; } .dot { fill: #4493f8; } .mark { stroke: #f0883e; }
}
"""


@dataclass(frozen=True)
class Row:
    """A series: which group it belongs to, its name, its values and two percentiles in ms."""

    group: str
    name: str
    values: list[float]
    p50: float
    p95: float


def place(ms: float) -> float:
    """Return where on the axis a time is."""
    if ms <= 0:
        return NOTHING
    share = math.log(min(max(ms, LOWEST), HIGHEST) / LOWEST) / math.log(HIGHEST / LOWEST)
    return FIRST + share * (RIGHT - FIRST)


def text(x: float, y: float, what: str, style: str = "") -> str:
    """Return a text; `style` is a class of STYLE."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}">{escape(what)}</text>'


def upright(x: float, top: float, bottom: float, style: str) -> str:
    """Return a line from top to bottom."""
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" class="{style}"/>'


def drawn(row: Row, y: float) -> list[str]:
    """Return one row: a dot for each value, scattered a little, the marks and their figures."""
    parts = [text(LEFT - 8, y + 4, row.name, "end")]
    for number, value in enumerate(row.values):
        scatter = (number * 0.618034 % 1 - 0.5) * (ROW - 16)
        parts.append(f'<circle cx="{place(value):.1f}" cy="{y + scatter:.1f}" r="3" class="dot"/>')
    marks = (row.p50, row.p95, max(row.values))
    for value, x, half in zip(marks, (690, 760, 830), (14, 11, 8), strict=True):
        parts.append(upright(place(value), y - half, y + half, "mark"))
        parts.append(text(x, y + 4, f"{value:.0f}", "end"))
    return parts


def dots(title: str, subtitle: str, rows: list[Row]) -> str:
    """Return the picture as SVG. It follows the reader's choice of light or dark."""
    body: list[str] = []
    y = TOP
    for group, members in groupby(rows, lambda row: row.group):
        body.append(text(16, y + 20, group, "head"))
        y += HEAD
        for row in members:
            body += drawn(row, y + ROW / 2)
            y += ROW
    bottom = y + 6
    grid = [upright(place(ms), TOP, bottom, "line") for ms in (0, *TICKS)]
    names = [text(place(ms), bottom + 18, name, "quiet middle") for ms, name in TICKS.items()]
    names.append(text(NOTHING, bottom + 18, "0", "quiet middle"))
    runs = max((len(row.values) for row in rows), default=0)
    heads = [
        text(x, TOP - 8, name, "quiet end")
        for x, name in ((690, "p50, ms"), (760, "p95, ms"), (830, "worst, ms"))
    ]
    note = (
        f"{runs} runs a row, each a dot, at 0 where nothing was lost; "
        "long, middle and short mark: p50, p95, worst; logarithmic axis"
    )
    height = bottom + 48
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
            f' role="img" aria-label="{escape(title)}">',
            f"<style>{STYLE}</style>",
            f'<rect width="{WIDTH}" height="{height}" class="paper"/>',
            text(16, 26, title, "title"),
            text(16, 46, subtitle, "quiet"),
            *heads,
            *grid,
            *body,
            *names,
            text(16, bottom + 40, note, "quiet"),
            "</svg>\n",
        ]
    )
