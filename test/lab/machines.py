"""Machines of the internal network that ask for addresses by DHCP and sleep between."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lab import Host, LabError, first_line

PROGRAM = "/usr/local/lib/lab/dhcp_machines.py"


def mac(number: int) -> str:
    """The hardware address of a machine."""
    return f"02:00:00:07:{number >> 8:02x}:{number & 255:02x}"


@dataclass(frozen=True)
class Answer:
    """What came of a question: `address` is "" for who was refused, and None for who was not
    answered."""

    mac: str
    address: str | None
    server: str
    seconds: float


class Machines:
    """Machines behind one network card, numbered as a test likes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.names: dict[int, str] = {}  # what each calls itself
        self.leases: dict[int, Answer] = {}  # the last lease of each

    def do(
        self, what: str, numbers: Iterable[int], seconds: float = 5, server: str = ""
    ) -> dict[int, Answer]:
        """Have machines do something (see dhcp_machines.py), together; what came of it. New ones
        take an address of this server, where one is named."""
        numbers = list(numbers)
        request = {
            "do": what,
            "machines": [self._machine(what, number, server) for number in numbers],
            "seconds": seconds,
        }
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise LabError("the machines have ended")
        answers = dict(zip(numbers, (Answer(**each) for each in json.loads(line)), strict=True))
        for number, answer in answers.items():
            if answer.address:
                self.leases[number] = answer
            elif answer.address == "" or what in ("release", "decline"):
                self.leases.pop(number, None)
        return answers

    def _machine(self, what: str, number: int, server: str) -> dict[str, str]:
        machine = {"mac": mac(number), "name": self.names.get(number, ""), "server": server}
        if what != "new":
            known = self.leases[number]
            machine |= {"address": known.address or "", "server": known.server}
        return machine


@contextmanager
def machines(host: Host, card: str = "eth0") -> Iterator[Machines]:
    """Have machines behind a host's network card."""
    process = host.spawn(["python3", PROGRAM, card])
    try:
        first_line(process, "machines")
        yield Machines(process)
    finally:
        process.communicate(timeout=30)
