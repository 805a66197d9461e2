"""Whole configurations, to be read: `make golden` writes them anew, and the diff is to be read."""

import shutil

import _gateway_rules
import pytest


@pytest.mark.parametrize("name", ["example", "rich", "networks"])
def test_whole_configurations(render, root, request, name):
    """What gw1 gets, file by file, and its firewall."""
    found = render(name)
    made = {
        chunk["name"].lstrip("/"): found.files[chunk["name"]]
        for chunk in found.low
        if chunk["fun"] == "checked_file" or chunk.get("template") == "jinja"
        if not chunk["name"].startswith(("/var/lib/gateway/", "/etc/systemd/"))
        if chunk["name"] in found.files
    }
    made |= {
        f"{folder[1:]}/{name}": text
        for folder, files in found.clients.items()
        for name, text in files.items()
    }
    made |= {
        f"firewall/{part}": text
        for part, text in _gateway_rules.ruleset(found.plan).items()
        if text
    }
    folder = root / "test/unit/golden" / name
    if request.config.getoption("golden"):
        shutil.rmtree(folder, ignore_errors=True)
        for path, text in made.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    rendered_once = {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert made == rendered_once
