"""The documentation: links lead somewhere, examples are right, commands are there."""

import ast
import copy
import re
import shlex
from pathlib import Path

import _gateway_iptables
import _gateway_plan
import _gateway_reader
import _gateway_rules
import pytest
import yaml

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
REFERENCE = ROOT / "docs/pillar.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *PAGES]
MOST_LINES = 200  # of README.md, which is a door

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]*)\)")
KEY_TABLE = "| key | type or values | default | meaning |"


def name(path):
    return str(path.relative_to(ROOT))


def without_code(text):
    return SPAN.sub("code", FENCE.sub("", text))


def fences(path, language):
    """The code blocks of a page in this language, as (line, text)."""
    text = path.read_text()
    for found in FENCE.finditer(text):
        indent, said, block = found.groups()
        if said == language:
            lines = (line.removeprefix(indent) for line in block.splitlines(keepends=True))
            yield text.count("\n", 0, found.start()) + 1, "".join(lines)


def code(path):
    """What is said in code: lines of blocks, and spans of the text."""
    text = path.read_text()
    for found in FENCE.finditer(text):
        yield from found[3].splitlines()
    for found in SPAN.finditer(FENCE.sub("", text)):
        yield " ".join(found[1].split())


# --------------------------------------------------------------------------------------------------
# Links


def slug(title):
    """GitHub's name of a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


def anchors(text):
    """The names of all headings of a page; of two with the same title the second has a number."""
    found: dict[str, int] = {}
    for title in re.findall(r"^#{1,6} +(.+?)(?: +#+)?$", FENCE.sub("", text), re.MULTILINE):
        first = slug(title)
        count = found[first] = found.get(first, -1) + 1
        if count:
            found[f"{first}-{count}"] = 0
    return set(found)


def test_names_of_headings_are_github_s():
    text = "# A, b: `c` & d\n## gateway:nodes:NODE\n## 1:1 NAT\n## a_b-c\n# Twice\n# Twice\n"
    text += "```\n# No heading\n```\n# [A link](x.md) in it\n"
    assert anchors(text) == {
        *("a-b-c--d", "gatewaynodesnode", "11-nat", "a_b-c", "twice", "twice-1", "a-link-in-it")
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_somewhere(path):
    wrong = []
    for link in LINK.findall(without_code(path.read_text())):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        there = target.is_relative_to(ROOT) and target.exists()
        if there and anchor:
            there = target.suffix == ".md" and anchor in anchors(target.read_text())
        if not there:
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_no_link_is_of_a_kind_that_is_not_checked(path):
    """Brackets without a target are text, and a target with a space is no link."""
    text = without_code(path.read_text())
    assert re.findall(r"\]\[|^\[[^\]]+\]:|<a |\]\([^)]*\s[^)]*\)", text, re.MULTILINE) == []


def test_the_readme_leads_to_every_page():
    linked = {link.partition("#")[0] for link in LINK.findall(without_code(README.read_text()))}
    assert PAGES
    assert {name(path) for path in PAGES} - linked == set()
    assert {"CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"} - linked == set()


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", [README, *PAGES], ids=name)
def test_a_page_has_one_title_and_closed_blocks(path):
    text = path.read_text()
    outside = FENCE.sub("", text)
    assert "```" not in outside
    assert len(re.findall(r"^# ", outside, re.MULTILINE)) == 1
    assert text.startswith("# ")


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_rows_of_a_table_have_as_many_cells(path):
    """GitHub leaves out what is too much; a pipe in code has a backslash there."""
    tables = re.findall(r"(?:^\|.*\n)+", FENCE.sub("", path.read_text()), re.MULTILINE)
    for table in tables:
        head, line, *rows = ([*re.split(r"(?<!\\)\|", row)] for row in table.splitlines())
        assert set(line[1:-1]) == {"---"}
        assert [row for row in rows if len(row) != len(head)] == []


@pytest.mark.parametrize("path", [README, ROOT / "CONTRIBUTING.md", *PAGES], ids=name)
def test_files_of_the_repository_are_there(path):
    spans = SPAN.findall(FENCE.sub("", path.read_text()))
    paths = {
        span for span in spans if re.fullmatch(r"(_modules|_states|docs|gateway|test)/\S*", span)
    }
    made = {"test/lab/out", "test/lab/out/demo.json", "gateway/DOMAIN/vrrp"}
    assert {span for span in paths - made if not (ROOT / span).exists()} == set()
    files = {span for span in spans if re.fullmatch(r"\w+\.(jinja|py|yaml|yml)", span)}
    assert {span for span in files if not any(ROOT.glob(f"[!.]*/**/{span}"))} == set()


def test_every_module_has_its_place_in_the_answers():
    """Who looks for where something is decided is led to each of them."""
    text = (ROOT / "docs/internals.md").read_text()
    answers = text.partition("## Where is what decided?")[2].partition("\n## ")[0]
    modules = {path.name for path in ROOT.glob("_modules/*.py")}
    states = {f"_states/{path.name}" for path in ROOT.glob("_states/*.py")}
    assert {each for each in modules | states if f"`{each}`" not in answers} == set()


def test_every_chain_is_named():
    """In the table of what is ours on a node, each in the row of its table."""
    text = (ROOT / "docs/internals.md").read_text()
    rows = {
        table: set(re.findall(r"`GATEWAY-([A-Z]+)`", row))
        for table, row in re.findall(r"^\| (?:.*, )?(raw|mangle|nat|filter) \|(.*)$", text, re.M)
    }
    assert rows == {table: set(chains) for table, chains in _gateway_iptables.CHAINS.items()}


# --------------------------------------------------------------------------------------------------
# Examples

EXAMPLE = yaml.safe_load((ROOT / "pillar.example").read_text())["gateway"]


def merged(base, over):
    """``over`` merged over ``base``, as Salt merges pillars."""
    result = copy.deepcopy(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


BLOCKS = {
    f"{name(path)}:{line}": block for path in DOCUMENTS for line, block in fences(path, "yaml")
}
PILLARS = {
    where: block for where, block in BLOCKS.items() if re.search(r"^gateway:", block, re.MULTILINE)
}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_yaml_is_yaml(block):
    assert isinstance(yaml.safe_load(block), dict)


@pytest.mark.parametrize("block", PILLARS.values(), ids=PILLARS)
def test_pillars_are_right(read_pillar, block):
    """Each is a whole site, or something to merge over pillar.example."""
    pillar = yaml.safe_load(block)
    assert list(pillar) == ["gateway"]
    whole = {"domain", "nodes", "internal", "public"} <= pillar["gateway"].keys()
    wanted = pillar["gateway"] if whole else merged(EXAMPLE, pillar["gateway"])
    site, errors = read_pillar(wanted)
    assert errors == []
    assert site
    for node in wanted["nodes"]:
        _gateway_rules.ruleset(_gateway_plan.plan(site, node))


def test_there_are_examples():
    """What is not marked as YAML is not looked at."""
    assert len(PILLARS) >= 12
    for path in DOCUMENTS:
        for _, block in fences(path, ""):
            assert not re.search(r"^gateway:", block, re.MULTILINE)


def test_the_second_example():
    (block,) = (block for block in PILLARS.values() if "# second example\n" in block)
    site, errors = _gateway_plan.read(yaml.safe_load(block)["gateway"])
    assert errors == []
    assert site
    for node in ("gw1", "gw2"):
        found = _gateway_plan.plan(site, node)
        assert found["sync"]["enabled"]
        assert [server["name"] for server in found["vpn"]["servers"]] == ["hotel", "main"]


# --------------------------------------------------------------------------------------------------
# The reference of the pillar

RICH = {
    "networks": {
        "guest": {
            "interface": "eth0.20",
            "network": "10.20.0.0/24",
            "virtual_ip": "10.20.0.1",
            "dhcp": {"pool": "10.20.0.50-10.20.0.99"},
        }
    },
    "routes": [{"network": "10.60.0.0/16", "via": "10.77.0.254"}],
    "dhcp": {"boot": {"file": "a.0", "server": "10.77.0.9"}},
    "state_sync": {"interface": "eth3"},
    "public": {"virtual_ip": "198.51.100.10", "addresses": ["198.51.100.11"]},
    "nodes": {
        "gw1": {"sync": "10.78.0.2", "pki": {"certificate": "/a", "key": "/b"}},
        "gw2": {"sync": "10.78.0.3", "pki": {"certificate": "/a", "key": "/b"}},
    },
    "vpn": {
        "servers": {"main": {"auth": {"pam": "openvpn"}}},
        "clients": {"alice": {"id": 5}},
        "pki": {"auth_token": "/etc/openvpn/pki/auth-token.key"},
    },
    "firewall": {
        "egress": "deny",
        "input": [{"ports": 22}],
        "forward": [{"ports": 22}],
        "egress_allowed": [{"ports": 22}],
    },
    "nat": {
        "one_to_one": [{"address": "198.51.100.11", "to": "backend01"}],
        "outbound": [{"snat": "none"}],
        "forwards": [{"port": 443, "to": "backend01", "address": "198.51.100.10"}],
    },
}
NAMES = {
    "networks": "NETWORK",
    "nodes": "NODE",
    "servers": "SERVER",
    "clients": "CLIENT",
    "hosts": "HOST",
}
OF_RULES = {"limit", "log"}  # which outbound refuses with a reason of its own


def section_of(path):
    """The heading under which the keys of a mapping of the pillar stand."""
    parts = [part for part in path.split(":") if not part.isdigit()]
    for number, part in enumerate(parts[:-1]):
        if part in NAMES and not (part == "servers" and parts[number - 1] == "ntp"):
            parts[number + 1] = NAMES[part]
    return ":".join(parts)


def documented():
    """The keys of the reference, by heading."""
    found = {}
    for part in re.split(r"^## ", REFERENCE.read_text(), flags=re.MULTILINE)[1:]:
        title, _, text = part.partition("\n")
        if KEY_TABLE in text:
            rows = text.split(KEY_TABLE)[1].split("\n\n")[0].splitlines()[2:]
            found[title] = [row.split("|")[1].strip(" `") for row in rows]
    return found


def raw_chains():
    """The chains that take lines of iptables, by table, as the reference has them."""
    rows = re.findall(r"^\| `(\w+)` \| ((?:`[A-Z]+`(?:, )?)+) \|$", REFERENCE.read_text(), re.M)
    return {table: set(SPAN.findall(names)) for table, names in rows}


def test_the_reference_has_every_key_and_no_other(monkeypatch):
    known: dict[str, set[str]] = {}
    record = _gateway_reader.Section.record

    def noted(section, key):
        known.setdefault(section_of(section.path), set()).add(key)
        return record(section, key)

    monkeypatch.setattr(_gateway_reader.Section, "record", noted)
    site, errors = _gateway_plan.read(merged(EXAMPLE, RICH))
    assert errors == []
    assert site
    rules = known["gateway:firewall:input"]
    assert known.pop("gateway:firewall:forward") == rules
    assert known.pop("gateway:firewall:egress_allowed") == rules - {"action"}
    known["gateway:nat:outbound"] -= OF_RULES
    # What the reference says of them is that they are as those of the internal network.
    further = known.pop("gateway:networks:NETWORK:dhcp")
    assert further == known["gateway:dhcp"] - {"settings", "key"}
    assert known.pop("gateway:vpn:servers:SERVER:subnets") == {"gw1", "gw2"}
    chains = raw_chains()
    for family in ("raw", "raw6"):
        assert known.pop(f"gateway:firewall:{family}") == chains.keys()
        for table in chains:
            assert known.pop(f"gateway:firewall:{family}:{table}") == chains[table]
    assert {title: set(keys) for title, keys in documented().items()} == known


def test_tables_of_keys_look_the_same():
    tables = re.findall(r"^\| key \|.*$", REFERENCE.read_text(), re.MULTILINE)
    assert set(tables) == {KEY_TABLE}
    for title, keys in documented().items():
        assert len(keys) == len(set(keys)), title


# --------------------------------------------------------------------------------------------------
# Commands


def functions():
    """What users call, with the names of its arguments."""
    found = {}
    for module in ("gateway", "gateway_pki"):
        for node in ast.parse((ROOT / f"_modules/{module}.py").read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                arguments = {each.arg for each in (*node.args.args, *node.args.kwonlyargs)}
                found[f"{module}.{node.name.rstrip('_')}"] = arguments
    return found


FUNCTIONS = functions()
SLS = {
    f"gateway.{'.'.join(path.relative_to(ROOT / 'gateway').with_suffix('').parts)}".removesuffix(
        ".init"
    )
    for path in (ROOT / "gateway").glob("**/*.sls")
}
NAMED = re.compile(r"(?<![\w./-])(gateway(?:_pki)?(?:\.[a-z_]+)+)(?![\w/-])")


def told(line):
    """What a line of code calls, as (before, name, behind)."""
    for found in NAMED.finditer(line):
        yield line[: found.start()], found[1], line[found.end() :]


def is_file(found):
    """gateway.py, gateway.conf: files that are called so."""
    return found.rpartition(".")[2] in ("conf", "py", "service", "sls")


def faults(line):
    """What of a line of code is not there."""
    for before, found, behind in told(line):
        if is_file(found):
            continue
        applied = re.search(r"state\.apply (?:[^;&|]* )?$", before)
        called = re.search(r"\bsalt(?:-\w+)?\b[^;&|]*$|\[['\"]$", before)
        if applied:
            possible = SLS
        elif called:
            possible = FUNCTIONS
        else:
            possible = SLS | FUNCTIONS.keys()
        if found not in possible:
            yield found
        elif found in FUNCTIONS and not applied:
            command = re.split(r"[;&|>#]|\]\(", behind)[0].replace("[", " ").replace("]", " ")
            for word in re.findall(r"(?:^|\s)(\w+)=", command):
                if word not in FUNCTIONS[found]:
                    yield f"{found} {word}="


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_functions_and_sls_that_are_named_are_there(path):
    assert [fault for line in code(path) for fault in faults(line)] == []


def test_commands_are_recognised():
    """The tests of commands look at them: what is wrong in one is found."""
    right = [
        "salt 'gw*' gateway.status",
        "salt-run salt.cmd gateway_pki.profile alice file=/root/alice.ovpn",
        "salt 'gw*' state.apply gateway.firewall test=True",
        "gateway.openvpn.clean",
        "gateway.drain [force=True]",
        "pki: {{ salt['gateway_pki.pillar']('example', opts.id) | tojson }}",
        "/etc/systemd/system/keepalived.service.d/gateway.conf",
        "gateway/DOMAIN/vrrp",
    ]
    wrong = {
        "salt 'gw*' gateway.state": ["gateway.state"],
        "salt 'gw*' gateway.firewall": ["gateway.firewall"],
        "salt 'gw*' state.apply gateway.status": ["gateway.status"],
        "salt-run salt.cmd gateway_pki.profile alice path=/root/x": ["gateway_pki.profile path="],
        "gateway_pki.make": ["gateway_pki.make"],
        "salt['gateway.plans']()": ["gateway.plans"],
    }
    assert [fault for line in right for fault in faults(line)] == []
    assert {line: list(faults(line)) for line in wrong} == wrong


def test_every_function_is_documented():
    pages = "\n".join(path.read_text() for path in PAGES)
    missing = [each for each in FUNCTIONS if not re.search(rf"^\| [^|]*`{each}[` ]", pages, re.M)]
    assert missing == []


def targets():
    """The targets of the Makefile."""
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def made(line):
    """The targets that a line of code has make make."""
    for found in re.findall(r"(?<![\w-])make((?: +[A-Za-z][\w=-]*)+)", line):
        yield from (word for word in found.split() if "=" not in word)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_targets_of_make_are_there(path):
    assert {word for line in code(path) for word in made(line)} - targets() == set()


def test_every_target_is_documented():
    internals = (ROOT / "docs/internals.md").read_text()
    rows = set(re.findall(r"^\| `make ([\w-]+)[` ]", internals, re.MULTILINE))
    assert targets() - rows == {"help"}


def test_every_command_is_run_or_has_a_reason(load):
    """The lab runs them (test/lab/test_docs.py)."""
    documented = load("test/lab/documented.py")
    blocks = documented.blocks()
    commands = [command for block in blocks for command in block.commands]
    assert len(commands) > 30
    assert set(documented.NOT_RUN) <= set(commands)
    assert all(documented.NOT_RUN.values())
    run = [command for block in blocks for command in block.runnable]
    assert {command.split()[0] for command in run} <= set(documented.PROGRAMS)


@pytest.mark.parametrize("path", [README, *PAGES], ids=name)
def test_commands_are_marked_as_shell(path):
    """What is marked otherwise is not run."""
    programs = r"\s*[$#]?\s*(salt(-\w+)?|ssh|scp|systemctl|apt(-get)?|docker|make|git|cp|tar)\s"
    for found in FENCE.finditer(path.read_text()):
        if found[2] != "sh":
            # A dash, as in what make demo prints, is no prompt.
            assert not re.search(f"^{programs}", found[3], re.MULTILINE), found[3]


def test_lines_of_shell_can_be_read():
    """A quote that is not closed would take the reader's next lines."""
    for path in DOCUMENTS:
        for language in ("sh", "bash"):
            for _, block in fences(path, language):
                if block.startswith("#!"):
                    continue
                for line in block.splitlines():
                    shlex.split(line, comments=True)
