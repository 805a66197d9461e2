"""What the unit tests share: the site of pillar.example, and ways to change it."""

import copy
import importlib.util
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import gateway_plan
import hypothesis
import pytest
import yaml

ROOT = Path(__file__).parents[2]

# The same examples on every run, so that a failure is never a matter of luck. A longer search:
# pytest --hypothesis-profile=thorough
hypothesis.settings.register_profile(
    "quick", deadline=None, database=None, derandomize=True, max_examples=60
)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("quick")

Pillar = dict[str, Any]
Edit = Callable[[dict[str, Any]], Pillar]


def put(pillar: Pillar, path: str, value: Any) -> None:
    """Set one value, or remove it (``...``); ``path`` is a pillar key: ``nat:forwards:0:port``."""
    place: Any = pillar
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(":")]
    for key in parents:
        place = place.setdefault(key, {}) if isinstance(place, dict) else place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value


@pytest.fixture(scope="session")
def load() -> Callable[[str], ModuleType]:
    """Load a file as Salt's loader does, by its path: modules and states share their names."""

    def loaded(path: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(path.replace("/", "_"), ROOT / path)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return loaded


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a command of the test's own into PATH, before those of the machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(name: str, script: str) -> None:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    return make


@pytest.fixture
def iptables(
    tool: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """iptables-save and iptables-restore in PATH, and the file that holds their tables."""
    state = tmp_path / "iptables.json"
    monkeypatch.setenv("FAKE_IPTABLES", str(state))
    fake = shlex.quote(str(ROOT / "test/unit/fake_iptables.py"))
    for name in ("iptables-save", "iptables-restore"):
        tool(name, f'exec {shlex.quote(sys.executable)} -S {fake} {name} "$@"')
    return state


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the formula."""
    return ROOT


@pytest.fixture(scope="session")
def example() -> Pillar:
    """The site of pillar.example; not to be changed."""
    pillar = yaml.safe_load((ROOT / "pillar.example").read_text(encoding="utf-8"))
    site: Pillar = pillar["gateway"]
    return site


@pytest.fixture
def edit(example: Pillar) -> Edit:
    """The example's pillar with some values changed, by their keys."""

    def edited(changes: dict[str, Any]) -> Pillar:
        pillar = copy.deepcopy(example)
        for path, value in changes.items():
            put(pillar, path, copy.deepcopy(value))
        return pillar

    return edited


@pytest.fixture
def errors(edit: Edit) -> Callable[[dict[str, Any]], list[str]]:
    """What is wrong with the example after some changes."""
    return lambda changes: gateway_plan.read(edit(changes))[1]


@pytest.fixture
def plan(edit: Edit) -> Callable[..., dict[str, Any]]:
    """A node's plan in the example after some changes."""

    def planned(changes: dict[str, Any] | None = None, node: str = "gw1") -> dict[str, Any]:
        site, found = gateway_plan.read(edit(changes or {}))
        assert site, found
        return gateway_plan.plan(site, node)

    return planned
