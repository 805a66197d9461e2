#!/usr/bin/env python3
"""Whether the unit tests notice a wrong line: `make mutants`, or

    .venv/bin/python test/mutants.py --count 300 --seed 1

Each mutant is one small change of one line, out of a fixed list, in a copy of the repository. It is
killed if a unit test of its file fails, or does not end. Those that survive are printed, with the
share that was killed. By hand: 300 take hours.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).resolve().parents[1]
# What a file's own tests are, the quickest first.
TESTED = {
    "_modules/gateway_plan.py": ("test_plan.py", "test_plan_vpn.py", "test_plan_properties.py"),
    "_modules/gateway_rules.py": ("test_rules.py", "test_plan_vpn.py", "test_plan_properties.py"),
    "_modules/gateway_foreign.py": ("test_foreign.py",),
    "_modules/gateway.py": ("test_module.py",),
    "_modules/gateway_ca.py": ("test_pki.py", "test_pki_module.py"),
    "_modules/gateway_pki.py": ("test_pki_module.py",),
    "_states/gateway.py": ("test_states.py",),
    "gateway/firewall/files/firewall": ("test_scripts.py",),
    "gateway/firewall/files/firewall-guard": ("test_scripts.py",),
    "gateway/health/files/health": ("test_health.py",),
}
SECONDS = 900  # of which a test that still runs has found an endless loop
# Both ways where a pair has two.
PYTHON = (
    (" == ", " != "),
    (" != ", " == "),
    (" < ", " <= "),
    (" <= ", " < "),
    (" > ", " >= "),
    (" >= ", " > "),
    (" and ", " or "),
    (" or ", " and "),
    (" not in ", " in "),
    (" in ", " not in "),
    (" is not ", " is "),
    (" + ", " - "),
    (" - ", " + "),
    ("not ", ""),
    ("True", "False"),
    ("False", "True"),
    ("min(", "max("),
    ("max(", "min("),
    ("any(", "all("),
    ("all(", "any("),
    ("ACCEPT", "DROP"),
    ("DROP", "ACCEPT"),
    ("-s ", "-d "),
    ("-d ", "-s "),
    ("-i ", "-o "),
    ("-o ", "-i "),
    ("continue", "break"),
)
SHELL = (
    (" -eq ", " -ne "),
    (" -ne ", " -eq "),
    (" -lt ", " -le "),
    (" -gt ", " -ge "),
    (" = ", " != "),
    (" != ", " = "),
    (" && ", " || "),
    (" || ", " && "),
    ("! ", ""),
    (" -n ", " -z "),
    (" -z ", " -n "),
    ("ACCEPT", "DROP"),
    ("DROP", "ACCEPT"),
    ("exit 0", "exit 1"),
    ("exit 1", "exit 0"),
    ("return 0", "return 1"),
    ("return 1", "return 0"),
    (" + ", " - "),
    (" - ", " + "),
)
NUMBER = re.compile(r"(?<![\w.\"'-])\d+(?![\w.\"'])")


@dataclass(frozen=True)
class Mutant:
    """One line of a file, and what it becomes."""

    path: str
    line: int
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}\n- {self.before.strip()}\n+ {self.after.strip()}"


def code_lines(path: str, text: str) -> list[int]:
    """Numbers of the lines that do something: no comment, docstring, definition or import."""
    lines = text.splitlines()
    if not path.endswith(".py"):
        return [
            number
            for number, line in enumerate(lines, 1)
            if line.strip() and not line.strip().startswith("#")
        ]
    found: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.stmt) and not is_text:
            last = node.body[0].lineno - 1 if hasattr(node, "body") else node.end_lineno
            found |= set(range(node.lineno, max(node.lineno, last or 0) + 1))
    words = ("#", "def ", "class ", "import ", "from ", "@", '"""')
    return sorted(
        n for n in found if lines[n - 1].strip() and not lines[n - 1].lstrip().startswith(words)
    )


def mutations(path: str, text: str) -> list[Mutant]:
    """Every mutant of a file that is still Python, where it was."""
    lines = text.splitlines(keepends=True)
    python = path.endswith(".py")
    found = []
    for number in code_lines(path, text):
        line = lines[number - 1]
        wanted = [
            line[: match.start()] + new + line[match.end() :]
            for old, new in (PYTHON if python else SHELL)
            for match in re.finditer(re.escape(old), line)
        ]
        wanted += [
            line[: match.start()] + str(int(match[0]) + 1) + line[match.end() :]
            for match in NUMBER.finditer(line)
        ]
        indent = line[: len(line) - len(line.lstrip())]
        wanted.append(f"{indent}{'pass' if python else ':'}\n")
        for after in wanted:
            changed = "".join([*lines[: number - 1], after, *lines[number:]])
            if python:
                try:
                    ast.parse(changed)
                except SyntaxError:
                    continue
            if after != line:
                found.append(Mutant(path, number, line, after))
    return found


def is_killed(mutant: Mutant, copy: Path) -> bool:
    """Whether a test fails in this copy of the repository while the line is wrong."""
    path = copy / mutant.path
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    lines[mutant.line - 1] = mutant.after
    path.write_text("".join(lines), encoding="utf-8")
    tests = [f"test/unit/{name}" for name in TESTED[mutant.path]]
    command = [sys.executable, "-m", "pytest", "-xq", "-p", "no:cacheprovider", *tests]
    run = subprocess.Popen(
        command,
        cwd=copy,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return run.wait(SECONDS) != 0
    except subprocess.TimeoutExpired:
        return True
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        path.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--file", action="append", choices=TESTED, help="of these files only")
    options = parser.parse_args()
    everything = [
        mutant
        for path in options.file or TESTED
        for mutant in mutations(path, (ROOT / path).read_text(encoding="utf-8"))
    ]
    sample = random.Random(options.seed).sample(everything, min(options.count, len(everything)))
    print(f"{len(sample)} of {len(everything)} mutants, seed {options.seed}", flush=True)
    survivors: list[Mutant] = []
    with tempfile.TemporaryDirectory() as folder:
        copies: Queue[Path] = Queue()
        for number in range(os.cpu_count() or 1):
            copy = Path(folder, str(number))
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".venv", ".git", "out"))
            copies.put(copy)

        def judge(mutant: Mutant) -> None:
            copy = copies.get()
            try:
                if not is_killed(mutant, copy):
                    survivors.append(mutant)
                    print(f"\nsurvives: {mutant}", flush=True)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(copies.qsize()) as pool:
            for _ in pool.map(judge, sample):
                print(".", end="", flush=True)
    killed = len(sample) - len(survivors)
    print(f"\n{killed} of {len(sample)} killed: {100 * killed / len(sample):.1f} %")


if __name__ == "__main__":
    main()
