#!/usr/bin/env python3
"""Whether the unit tests notice a wrong line: `make mutants`, or

    .venv/bin/python test/mutants.py --count 300 --seed 1

Each mutant is one small change of one line, out of a fixed list, in a copy of the repository. It is
killed if a unit test fails, or does not end. A first run finds out how long each test takes, and
which lines of Python it runs: a mutant meets only the tests that run its line, the quickest first.
A line that no test runs survives at once. Those that survive are printed, with the share that was
killed; test/mutants.md has those that may. By hand: 300 take half an hour on two cores.
"""

from __future__ import annotations

import argparse
import ast
import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tokenize
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import Queue

import coverage

ROOT = Path(__file__).resolve().parents[1]
PLANNER = " ".join(
    f"test_{room}.py"
    for room in (
        *("plan", "plan_properties", "plan_texts", "nodes", "interfaces", "failover", "vpn"),
        *("clients", "openvpn", "pem", "policy", "nat", "hosts", "dns", "dhcp", "ntp", "kernel"),
        *("routes", "follow", "sync", "firewall", "module", "status", "sls", "sls_order"),
        *("networks", "networks_properties", "leases_plan"),
    )
)
PLANNER += " test_health.py:plan|errors"
COMPILER = (
    "test_rules.py test_rules_closed.py test_rules_networks.py test_rules_texts.py test_networks.py"
    " test_networks_properties.py"
)
LOADER = "test_firewall_loader.py test_firewall_trial.py test_firewall_closed.py"
# A file's own tests. Of tests with words behind a colon, those that say one of them.
TESTED = {
    **{
        f"_modules/{path.name}": PLANNER  # the rooms, and what they share
        for path in sorted((ROOT / "_modules").glob("_gateway_*.py"))
    },
    **dict.fromkeys(
        [f"_modules/_gateway_{name}.py" for name in ("rules", "iptables", "vpn_rules")],
        f"{COMPILER} test_sync.py test_clients.py test_plan_properties.py",
    ),
    **{
        f"_modules/_gateway_{name}.py": f"{PLANNER} {COMPILER}"  # with rules of their own
        for name in ("nat", "sync", "policy")
    },
    **{
        f"_modules/{path.name}": "test_foreign.py"
        for path in (ROOT / "_modules").glob("_gateway_foreign*.py")
    },
    "_modules/_gateway_leases.py": "test_leases_plan.py",
    "_modules/gateway.py": PLANNER,
    "_modules/_gateway_status.py": PLANNER,
    **{
        f"_modules/_gateway_{name}.py": "test_pki_module.py"
        for name in ("authorities", "master", "profile")
    },
    "_modules/_gateway_ca.py": "test_pki.py test_pki_module.py",
    "_modules/_gateway_files.py": "test_pki.py test_pki_module.py",
    "_modules/_gateway_x509.py": "test_pki.py test_pki_module.py",
    "_modules/gateway_pki.py": "test_pki_module.py",
    "_states/_gateway_state.py": (
        "test_states.py test_states_network.py test_states_service.py test_states_openvpn.py"
        " test_states_firewall.py"
    ),
    "_states/_gateway_crl.py": "test_states_openvpn.py",
    "_states/_gateway_vpn_client_files.py": "test_states_openvpn.py test_openvpn.py",
    "_states/gateway.py": "test_states.py",
    "_states/gateway_firewall.py": "test_states_firewall.py",
    "_states/gateway_network.py": "test_states_network.py",
    "_states/gateway_openvpn.py": "test_states_openvpn.py",
    "_states/gateway_service.py": "test_states_service.py",
    "gateway/firewall/files/firewall": LOADER,
    "gateway/firewall/files/firewall-guard": "test_firewall_guard.py",
    "gateway/follow/files/follow": "test_follow_script.py",
    "gateway/follow/files/follow-decisions": "test_follow_script.py test_deciders.py",
    "gateway/follow/files/follow-tell": "test_follow_tell.py",
    "gateway/leases/files/lease-event": "test_lease_orders.py:script",
    "gateway/leases/files/lease_facts.py": "test_lease_journal.py test_leases.py",
    "gateway/leases/files/lease_journal.py": (
        "test_lease_journal.py test_lease_beliefs.py test_leases.py"
    ),
    "gateway/leases/files/lease_orders.py": "test_lease_orders.py test_lease_names.py",
    "gateway/leases/files/lease_requests.py": "test_lease_requests.py",
    "gateway/openvpn/files/vpn-routes": "test_vpn_routes.py",
    "gateway/openvpn/files/vpn-session": "test_vpn_session.py",
    "gateway/conntrackd/files/sync": "test_sync.py",
    "gateway/health/files/health": "test_health.py",
    "gateway/health/files/health-decisions": "test_health.py test_deciders.py",
}
# Both ways where a pair has two.
C_LIKE = (
    (" == ", " != "),
    (" != ", " == "),
    (" < ", " <= "),
    (" <= ", " < "),
    (" > ", " >= "),
    (" >= ", " > "),
    (" + ", " - "),
    (" - ", " + "),
    (" && ", " || "),
    (" || ", " && "),
    ("continue", "break"),
)
AWK = (*C_LIKE, ("!new", "new"), ("!(", "("))
PERL = (
    *C_LIKE,
    ("next", "last"),
    (" eq ", " ne "),
    (" ne ", " eq "),
    (" unless ", " if "),
    (" if ", " unless "),
    (" and ", " or "),
    (" or ", " and "),
    ("!$", "$"),
)
PYTHON = (
    *C_LIKE[:8],
    (" and ", " or "),
    (" or ", " and "),
    (" not in ", " in "),
    (" in ", " not in "),
    (" is not ", " is "),
    ("not ", ""),
    ("True", "False"),
    ("False", "True"),
    ("min(", "max("),
    ("max(", "min("),
    ("any(", "all("),
    ("all(", "any("),
    ("continue", "break"),
)
# In texts too: they are what iptables is told.
RULES = (
    ("ACCEPT", "DROP"),
    ("DROP", "ACCEPT"),
    ("-s ", "-d "),
    ("-d ", "-s "),
    ("-i ", "-o "),
    ("-o ", "-i "),
)
SHELL = (
    (" -eq ", " -ne "),
    (" -ne ", " -eq "),
    (" -lt ", " -le "),
    (" -gt ", " -ge "),
    (" -ge ", " -gt "),
    (" = ", " != "),
    (" != ", " = "),
    (" && ", " || "),
    (" || ", " && "),
    ("! ", ""),
    (" -n ", " -z "),
    (" -z ", " -n "),
    ("exit 0", "exit 1"),
    ("exit 1", "exit 0"),
    ("return 0", "return 1"),
    ("return 1", "return 0"),
    (" + ", " - "),
    (" - ", " + "),
    *RULES[:2],
)
NUMBER = re.compile(r"(?<![\w.\"'&<>${-])\d+(?![\w.\"'<>\\])")
# Of a script: lines whose numbers tell nothing apart. What is true, or has failed, is any number
# but 0; messages; names of attempts. And lines that only make Perl or the shell stricter.
NO_NUMBER = re.compile(r" = 1\b|\b(return|exit|result=|failed=)|echo \"|^ *for \w+ in [{\d]")
STRICT = re.compile(r"\s*(use (strict|warnings);|set -e?u$|local( \w+)+$)")
NOT_FOUND = 4  # pytest's exit code
CHECKS = {"sh": ["sh", "-n"], "bash": ["bash", "-n"], "perl": ["perl", "-c"]}


@dataclass(frozen=True)
class Mutant:
    """One line of a file, and what it becomes."""

    path: str
    line: int
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}\n- {self.before.strip()}\n+ {self.after.strip()}"

    def text(self, text: str) -> str:
        """The file as it becomes."""
        lines = text.splitlines(keepends=True)
        lines[self.line - 1] = self.after
        return "".join(lines)


def replaced(line: str, pairs: tuple[tuple[str, str], ...], code: str) -> list[str]:
    """What a line becomes; `code` is the line with blanks for what is none."""
    return [
        line[: match.start()] + new + line[match.end() :]
        for old, new in pairs
        for match in re.finditer(re.escape(old), code)
    ]


def counted(line: str, code: str) -> list[str]:
    """The line with one more where it has a number."""
    return [
        line[: match.start()] + str(int(match[0]) + 1) + line[match.end() :]
        for match in NUMBER.finditer(code)
    ]


# --- Python --------------------------------------------------------------------------------------


def without_texts(text: str) -> list[str]:
    """The lines, with blanks for what is in texts and comments."""
    lines = [list(line) for line in text.splitlines()]
    names = ("STRING", "COMMENT", "FSTRING_MIDDLE")
    kinds = {getattr(tokenize, name) for name in names if hasattr(tokenize, name)}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in kinds:
            for row in range(token.start[0], token.end[0] + 1):
                first = token.start[1] if row == token.start[0] else 0
                last = token.end[1] if row == token.end[0] else len(lines[row - 1])
                lines[row - 1][first:last] = '"' * (last - first)
    return ["".join(line) for line in lines]


def statements(text: str) -> dict[int, tuple[range, bool]]:
    """Of each line that does something: the lines of its statement, and if it is in a function."""
    found: dict[int, tuple[range, bool]] = {}

    def walk(node: ast.AST, inside: bool) -> None:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_import = isinstance(node, ast.Import | ast.ImportFrom)
        is_function = isinstance(node, ast.FunctionDef)
        if isinstance(node, ast.stmt) and not is_text and not is_import:
            last = node.body[0].lineno - 1 if hasattr(node, "body") else node.end_lineno
            lines = range(node.lineno, max(node.lineno, last or 0) + 1)
            if not is_function and not isinstance(node, ast.ClassDef):
                found.update(dict.fromkeys(lines, (lines, inside)))
        for child in ast.iter_child_nodes(node):
            walk(child, inside or is_function)

    walk(ast.parse(text), False)
    return found


def of_python(path: str, text: str) -> list[Mutant]:
    lines, words = text.splitlines(keepends=True), without_texts(text)
    found = []
    for number in sorted(statements(text)):
        line = lines[number - 1]
        code = words[number - 1]
        if not code.strip('" \n'):
            continue
        wanted = replaced(line, PYTHON, code) + replaced(line, RULES, line) + counted(line, code)
        wanted.append(line[: len(line) - len(line.lstrip())] + "pass\n")
        found += [Mutant(path, number, line, after) for after in wanted if after != line]
    return found


# --- scripts -------------------------------------------------------------------------------------


def of_script(path: str, text: str) -> list[Mutant]:
    """The same of a script, of which programs of awk and what commands are fed are parts."""
    found = []
    end = ""
    is_perl = "perl" in text.splitlines()[0]
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        code = re.sub(r"(^|\s)#.*", lambda match: " " * len(match[0]), line.rstrip("\n"))
        if end and re.match(end, line):
            end = ""
        if not code.strip() or STRICT.match(code):
            continue
        wanted = replaced(line, PERL if is_perl else AWK if end else SHELL, code)
        if not NO_NUMBER.search(code):
            wanted += counted(line, code)
        if code.count("{") == code.count("}"):
            indent = line[: len(line) - len(line.lstrip())]
            wanted.append("\n" if end else f"{indent}{';' if is_perl else ':'}\n")
        found += [Mutant(path, number, line, after) for after in wanted if after != line]
        if code.endswith(("awk '", "\" '")) and not is_perl:
            end = r"\s*.*}'"
        elif "<<EOF" in code:
            end = "EOF"
    return found


def mutations(path: str) -> list[Mutant]:
    text = (ROOT / path).read_text(encoding="utf-8")
    return of_python(path, text) if path.endswith(".py") else of_script(path, text)


def is_written_well(mutant: Mutant) -> bool:
    """Whether it is Python, or a script, at all: what is none would be killed by anything."""
    text = mutant.text((ROOT / mutant.path).read_text(encoding="utf-8"))
    if mutant.path.endswith(".py"):
        try:
            ast.parse(text)
        except SyntaxError:
            return False
        return True
    shell = text.splitlines()[0].rsplit("/", 1)[1]
    done = subprocess.run(CHECKS[shell], input=text, text=True, capture_output=True, check=False)
    return done.returncode == 0


# --- tests ---------------------------------------------------------------------------------------


def files_of(path: str) -> list[str]:
    return [f"test/unit/{tests.partition(':')[0]}" for tests in TESTED[path].split()]


def own_tests(path: str) -> set[str]:
    """The functions of a file's tests, with their file, as pytest names them."""
    found = set()
    for name, tests in zip(files_of(path), TESTED[path].split(), strict=True):
        words = re.compile(tests.partition(":")[2])
        text = (ROOT / name).read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            if words.search(ast.get_source_segment(text, node) or ""):
                found.add(f"{name}::{node.name}")
    return found


def is_of(test: str, functions: set[str]) -> bool:
    return test.partition("[")[0] in functions


class Tests:
    """What the first run has found out: how long each test takes, and which lines it runs."""

    def __init__(self, paths: list[str], copy: Path) -> None:
        files = sorted({name for path in paths for name in files_of(path)})
        cores = str(os.cpu_count() or 1)
        command = [sys.executable, "-m", "pytest", "-q", "-vv", "--durations=0", *files]
        command += ["-n", cores, "--dist=worksteal", "-p", "no:cacheprovider"]
        command += ["--cov=_modules", "--cov=_states", "--cov=gateway/leases/files"]
        command += ["--cov-context=test", "--cov-report="]
        done = subprocess.run(command, cwd=copy, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            sys.exit(f"{done.stdout}\nThe tests fail without any mutant.")
        self.seconds: dict[str, float] = defaultdict(float)
        for match in re.finditer(r"^([\d.]+)s (?:call|setup|teardown) +(.+)$", done.stdout, re.M):
            self.seconds[match[2]] += float(match[1])
        self.own = {path: own_tests(path) for path in paths}
        self.statements = {
            path: statements((ROOT / path).read_text(encoding="utf-8"))
            for path in paths
            if path.endswith(".py")
        }
        data = coverage.CoverageData(str(copy / ".coverage"))
        data.read()
        self.runs = {path: data.contexts_by_lineno(str(copy / path)) for path in self.statements}

    def of(self, mutant: Mutant) -> list[str]:
        """The tests that may notice a mutant, the quickest first."""
        own = self.own[mutant.path]
        if mutant.path in self.statements:
            lines, in_function = self.statements[mutant.path][mutant.line]
            contexts = {run for line in lines for run in self.runs[mutant.path].get(line, [])}
            # What is run at an import may be seen anywhere.
            if in_function and "" not in contexts:
                tests = {run.rpartition("|")[0] for run in contexts}
                # What a fixture has made, other tests of its file may have used.
                made = {run.partition("::")[0] for run in contexts if run.endswith("|setup")}
                tests |= {test for test in self.seconds if test.partition("::")[0] in made}
                return sorted((t for t in tests if is_of(t, own)), key=self.seconds.__getitem__)
        return sorted((t for t in self.seconds if is_of(t, own)), key=self.seconds.__getitem__)


def is_killed(mutant: Mutant, tests: list[str], seconds: list[float], copy: Path) -> bool:
    """Whether a test fails in this copy of the repository while the line is wrong."""
    if not tests:
        return False
    path = copy / mutant.path
    text = path.read_text(encoding="utf-8")
    path.write_text(mutant.text(text), encoding="utf-8")
    try:
        code = run_tests(tests, seconds, copy)
        # Where the line is what tests are made of, they may have other names.
        if code == NOT_FOUND:
            code = run_tests(files_of(mutant.path), seconds, copy)
        return code != 0
    finally:
        path.write_text(text, encoding="utf-8")


def run_tests(tests: list[str], seconds: list[float], copy: Path) -> int:
    """pytest's exit code; in a test that takes five times as long as any, something is endless."""
    # Each in a line of a file: there may be more than a command can have.
    names = copy / "tests"
    names.write_text("\n".join(tests), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-xq", "-p", "no:cacheprovider", f"@{names}"]
    command += ["-o", f"faulthandler_timeout={60 + 5 * max(seconds)}"]
    command += ["-o", "faulthandler_exit_on_timeout=true"]
    run = subprocess.Popen(
        command,
        cwd=copy,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return run.wait(60 + 5 * sum(seconds))
    except subprocess.TimeoutExpired:
        return 1
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--file", action="append", choices=TESTED, help="of these files only")
    options = parser.parse_args()
    paths = options.file or list(TESTED)
    everything = [mutant for path in paths for mutant in mutations(path)]
    random.Random(options.seed).shuffle(everything)
    sample = list(islice(filter(is_written_well, everything), options.count))
    print(f"{len(sample)} of {len(everything)} mutants, seed {options.seed}", flush=True)
    survivors: list[Mutant] = []
    with tempfile.TemporaryDirectory() as folder:
        copies: Queue[Path] = Queue()
        for number in range(os.cpu_count() or 1):
            copy = Path(folder, str(number))
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".venv", ".git", "out"))
            copies.put(copy)
        tests = Tests(paths, copy)

        def judge(mutant: Mutant) -> None:
            copy = copies.get()
            try:
                meant = tests.of(mutant)
                seconds = [tests.seconds[test] for test in meant]
                if not is_killed(mutant, meant, seconds, copy):
                    survivors.append(mutant)
                    print(f"\nsurvives {len(meant)} tests: {mutant}", flush=True)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(copies.qsize()) as pool:
            for _ in pool.map(judge, sample):
                print(".", end="", flush=True)
    killed = len(sample) - len(survivors)
    print(f"\n{killed} of {len(sample)} killed: {100 * killed / len(sample):.1f} %. The others:")
    for mutant in sorted(survivors, key=lambda mutant: (mutant.path, mutant.line)):
        print(mutant)


if __name__ == "__main__":
    main()
