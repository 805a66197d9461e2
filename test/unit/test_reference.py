"""The reference of the pillar and its schema are made from the records of keys."""

import re

import jsonschema
import pytest


@pytest.fixture(scope="session")
def reference(load):
    return load("docs/reference.py")


def test_the_page_is_made_from_the_records(reference):
    """`make docs` makes it anew."""
    text = reference.PAGE.read_text(encoding="utf-8")
    assert reference.page(text) == text


def test_the_schema_is_made_from_the_records(reference):
    """`make docs` makes it anew."""
    assert reference.SCHEMA.read_text(encoding="utf-8") == reference.schema_text()


def test_the_page_needs_a_heading_for_all_keys_and_keys_for_each(reference):
    text = reference.PAGE.read_text(encoding="utf-8")
    start, end = text.index("## gateway:dns\n"), text.index("## gateway:ntp\n")
    with pytest.raises(ValueError, match=r"no heading with a table of keys for gateway:dns$"):
        reference.page(text[:start] + text[end:])
    with pytest.raises(ValueError, match=r"there are no keys of gateway:dnss$"):
        reference.page(text.replace("## gateway:dns\n", "## gateway:dnss\n"))


def test_the_schema_is_a_schema(reference):
    jsonschema.Draft7Validator.check_schema(reference.schema())


def patterns(schema):
    if isinstance(schema, dict):
        yield from (value for key, value in schema.items() if key == "pattern")
        schema = list(schema.values())
    if isinstance(schema, list):
        for each in schema:
            yield from patterns(each)


def test_its_patterns_are_what_javascript_reads_too(reference):
    """As it does with its flag u: no groups with a name, no flags, no escapes of other letters."""
    found = set(patterns(reference.schema()))
    assert found
    for pattern in found:
        assert pattern.startswith("^")
        assert pattern.endswith("$")
        assert "(?P" not in pattern
        assert not re.search(r"\(\?[a-zA-Z-]", pattern)
        assert set(re.findall(r"\\(.)", pattern)) <= set(r"nrsSux.[]\*"), pattern
