"""What runs for contributors elsewhere calls the targets of make that are here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def targets():
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def called(command):
    """The targets that a command line of make names."""
    words = command.partition("make ")[2].split()
    return {word for word in words if re.fullmatch(r"[a-z-]+", word)}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_targets_of_make(path):
    jobs = yaml.safe_load(path.read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands
    for command in commands:
        assert called(command)
        assert called(command) <= targets()


def test_all_pythons_are_checked():
    """Those that CONTRIBUTING.md names, from the oldest to the newest."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (pythons_named,) = re.findall(r"Python is 3\.(\d+) to 3\.(\d+)", text)
    first, last = map(int, pythons_named)
    check = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text())
    pythons = check["jobs"]["unit"]["strategy"]["matrix"]["python"]
    assert pythons == [f"3.{minor}" for minor in range(first, last + 1)]


def test_hooks_call_targets_of_make():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert hooks
    for hook in hooks:
        command = hook["entry"].partition(" PYTEST_ARGS")[0]
        assert called(command)
        assert called(command) <= targets()


def test_dependabot_finds_what_is_pinned():
    updates = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
    folders = {update["package-ecosystem"]: update["directory"] for update in updates}
    assert (ROOT / folders["pip"].strip("/") / "requirements.txt").exists()
    for line in (ROOT / "test/requirements.txt").read_text().splitlines():
        requirement = line.partition("#")[0].strip()
        assert not requirement or re.fullmatch(r"[\w.-]+==[\w.]+", requirement), line


def pins(path):
    """Package and version of each line ``package==version``."""
    return dict(re.findall(r"(?m)^([\w.-]+)==([\w.]+)", (ROOT / path).read_text()))


def test_a_version_is_the_same_wherever_it_is_pinned():
    """What the unit tests and the lab's machines have both; Salt's versions are engine.py's."""
    tests, lab = pins("test/requirements.txt"), pins("test/lab/files/constraints.txt")
    engine = (ROOT / "test/lab/engine.py").read_text()
    series = dict(re.findall(r'"(\d{4})": "(\d{4}\.\d+)"', engine))
    assert len(series) == 3
    assert tests["salt"] == series["3008"]
    assert {name for name in tests.keys() & lab.keys() if tests[name] != lab[name]} == set()
    getting_started = (ROOT / "docs/getting-started.md").read_text()
    assert all(version in getting_started for version in series.values())


@pytest.mark.parametrize(
    ("variable", "value", "there"),
    [("DEBIAN", "14", "12, 13"), ("SALT_SERIES", "3005", "3006, 3007, 3008")],
)
def test_the_lab_says_which_systems_it_has(variable, value, there):
    done = subprocess.run(
        [sys.executable, ROOT / "test/lab/lab.py", "up"],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], variable: value},
    )
    assert (done.returncode, done.stderr) == (1, f"{variable}={value} is not one of {there}\n")
