"""FORMULA, which Salt's package manager reads (spm), says what README, changelog and code do."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
FORMULA = yaml.safe_load((ROOT / "FORMULA").read_text())


def test_it_has_what_spm_needs_to_build_and_to_install():
    assert {"name", "version", "release", "summary", "description"} <= FORMULA.keys()


def test_its_folder_is_the_sls_that_users_apply():
    """spm installs what begins with it, and what begins with an underscore."""
    assert FORMULA["name"] == FORMULA["top_level_dir"] == "gateway"
    assert (ROOT / FORMULA["top_level_dir"] / "init.sls").exists()
    names = {path.name for path in ROOT.iterdir() if not path.name.startswith(("__", "."))}
    installed = {name for name in names if name.startswith(("_", FORMULA["top_level_dir"]))}
    assert installed == {"_modules", "_states", "gateway"}
    assert "state.apply gateway" in README


def test_its_version_is_the_last_of_the_changelog():
    version = f"{FORMULA['version']}-{FORMULA['release']}"
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [heading for heading in headings if heading != "Unreleased"]
    assert released[0] == version


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_its_salt_is_the_oldest_that_is_supported(page):
    [(oldest, _)] = set(re.findall(r"Salt (\d{4}) to (\d{4})", (ROOT / page).read_text()))
    assert str(FORMULA["minimum_version"]) == oldest


def test_its_systems_are_those_of_the_services():
    families = FORMULA["os_family"].split(", ")
    for path in ROOT.glob("gateway/*/os.yaml"):
        assert list(yaml.safe_load(path.read_text())) == families, path
    for system in FORMULA["os"].split(", "):
        assert system in README
