"""A copy of the formula with one service more: what CONTRIBUTING.md says about adding one.

Beside this file lies what the service brings: its room in `_modules`, its folder in `gateway`, and
its test. In the formula itself it takes an import and a line in ROOMS, and a line in the order.
"""

from __future__ import annotations

import shutil
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
FORMULA = (
    *("_modules", "_states", "gateway", "test/unit", "docs", "pillar.example", "pyproject.toml"),
)
OWN = ("_modules", "gateway")


def make(folder: Path) -> None:
    """Copy the formula with its unit tests into a folder that is there, and add the service."""
    unwanted = shutil.ignore_patterns("__pycache__")
    for name in FORMULA:
        source, copy = REPOSITORY / name, folder / name
        if source.is_dir():
            shutil.copytree(source, copy, ignore=unwanted)
        else:
            shutil.copy(source, copy)
    for name in OWN:
        shutil.copytree(HERE / name, folder / name, ignore=unwanted, dirs_exist_ok=True)
    shutil.copy(HERE / "test_exporter.py", folder / "test/unit")
    planner = folder / "_modules/_gateway_plan.py"
    _insert(planner, "import _gateway_exporter\n", after="import _gateway_dns\n")
    _insert(planner, "    _gateway_exporter,\n", after="    _gateway_dhcp,\n")
    _insert(folder / "gateway/services.yaml", "- exporter\n", after="- dnsmasq\n")


def _insert(path: Path, line: str, after: str) -> None:
    text = path.read_text()
    assert text.count(after) == 1, (path, after)
    path.write_text(text.replace(after, after + line))
