"""kitchen.yml, its tests and its page say the same. Running it is `make kitchen`."""

import ast
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
KITCHEN = (ROOT / "kitchen.yml").read_text()
CONFIG = yaml.safe_load(KITCHEN)  # what Ruby has to say stands in comments and in texts
PAGE = (ROOT / "docs/kitchen.md").read_text()
LAB = (ROOT / "test/lab/engine.py").read_text()
SUITES = [suite["name"] for suite in CONFIG["suites"]]


def find(pattern, text):
    """The pattern's first group in the text, of which ^ and $ mean lines."""
    match = re.search(pattern, text, re.MULTILINE)
    assert match, pattern
    return match[1]


def rows(title):
    """The rows of the page's table whose first column has this title, by their first cell."""
    table = find(rf"^\| {title} \|.*\n\|-.*\n((?:\|.*\n)+)", PAGE)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    return {row[0].strip("`"): row[1:] for row in cells}


def merged(base, more):
    """`more` over `base`, as Kitchen and Salt merge mappings."""
    both = {**base, **more}
    for key in base.keys() & more.keys():
        if isinstance(base[key], dict) and isinstance(more[key], dict):
            both[key] = merged(base[key], more[key])
    return both


def salt_versions():
    """The versions of Salt as kitchen.yml reads them, with its own patterns."""
    line, pair = re.findall(r"[\[(]/(.+?)/[\])]", KITCHEN)
    return dict(re.findall(pair, find(f"({line})", LAB)))


def test_kitchen_reads_the_versions_that_the_lab_has():
    tree = ast.parse(LAB)
    (pinned,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "SALT_VERSIONS"
    )
    assert salt_versions() == pinned


def test_the_page_has_every_platform_and_suite():
    debians = find(r"%w\[([\d ]+)\]", KITCHEN).split()
    platforms = {
        f"debian-{debian}-salt-{series}"
        for debian, series in itertools.product(debians, salt_versions())
    }
    assert set(rows("platform")) == platforms
    assert list(rows("suite")) == SUITES
    heading = find(r"^\| platform \|(.*)\|$", PAGE)
    assert [cell.strip(" `") for cell in heading.split("|")][-len(SUITES) :] == SUITES


def test_each_suite_has_its_tests():
    text = (ROOT / "test/integration/conftest.py").read_text()
    left_out = ast.literal_eval(find(r"^collect_ignore = ({[^}]*})\[SUITE\]", text))
    assert list(left_out) == SUITES
    for file in itertools.chain(*left_out.values()):
        assert (ROOT / "test/integration" / file).exists()


@pytest.mark.parametrize("name", SUITES)
def test_pillars_of_suites_are_right(read_pillar, name):
    (suite,) = (suite for suite in CONFIG["suites"] if suite["name"] == name)
    provisioner = merged(CONFIG["provisioner"], suite.get("provisioner", {}))
    pillar: dict[str, Any] = {}
    for file in provisioner["pillars"]["top.sls"]["base"]["gw*"]:
        path = provisioner["pillars_from_files"].get(f"{file}.sls")
        more = yaml.safe_load((ROOT / path).read_text()) if path else None
        pillar = merged(pillar, more or provisioner["pillars"][f"{file}.sls"])
    site, errors = read_pillar(pillar["gateway"])
    assert errors == []
    assert bool(site.public.virtual_ip) == (name == "pair-full")


def test_hooks_and_files_are_there():
    hooks = CONFIG["lifecycle"]
    site = (ROOT / "test/kitchen/site").read_text()
    for hook in hooks.values():
        path, command = hook.split()
        assert (ROOT / path).stat().st_mode & 0o100
        assert f"\n{command}() {{" in site
    assert (ROOT / CONFIG["driver"]["dockerfile"]).exists()
    assert (ROOT / CONFIG["driver"]["run_command"].replace("/srv/", "")).stat().st_mode & 0o100


def test_what_the_formula_installs_lies_ready_as_in_the_lab():
    packages = r"--download-only install \\\n +([a-z -]+)\n?"
    kitchen = find(packages, (ROOT / "test/kitchen/Dockerfile").read_text()).split()
    lab = find(packages, (ROOT / "test/lab/Dockerfile").read_text()).split()
    assert kitchen == lab


def test_the_page_names_the_gems_versions():
    gems = dict(re.findall(r'^gem "([\w-]+)", "([\d.]+)"', (ROOT / "Gemfile").read_text(), re.M))
    assert gems.keys() == {"test-kitchen", "kitchen-docker", "kitchen-salt"}
    said = rows("part")
    assert said["Test Kitchen"][0] == gems["test-kitchen"]
    assert said["kitchen-salt"][0] == gems["kitchen-salt"]
    assert f"has {gems['kitchen-docker']}" in said["kitchen-docker"][0]
