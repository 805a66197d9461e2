"""The commands of README.md and docs: every line of a block that is marked as shell.

The lab's test_docs.py runs them as they are written, each block on the Salt master, but for those
that are told here with the reason. A unit test looks whether it can run all the others.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[2]
PAGES = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
# What a line that is run begins with.
PROGRAMS = (
    *("salt", "salt-call", "salt-key", "salt-run", "salt-ssh"),
    *("cp", "install", "scp", "ssh", "tar"),
)
NOT_RUN = {
    "git clone https://git.example.com/gateway-formula.git /srv/formulas/gateway-formula": (
        "the lab has no way out, and the address is an example"
    ),
    "docker image rm $(docker image ls --format '{{.Repository}}:{{.Tag}}' 'gateway-lab*')": (
        "it is for the machine that the lab is on, and removes what the lab is made of"
    ),
}
_BLOCK = re.compile(r"^( *)```sh\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A block of commands, each a line without its comment, and where it stands."""

    place: str
    commands: tuple[str, ...]

    @property
    def runnable(self) -> list[str]:
        return [command for command in self.commands if command not in NOT_RUN]


def blocks() -> list[Block]:
    """All blocks in the order of the pages. A script that is shown is none."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in _BLOCK.finditer(text):
            if block[2].lstrip().startswith("#!"):
                continue
            lines = [re.sub(r"(^|\s+)# .*", "", line).strip() for line in block[2].splitlines()]
            line = text.count("\n", 0, block.start()) + 1
            found.append(Block(f"{page.name}:{line}", tuple(filter(None, lines))))
    return found
