"""Ask health-decisions and follow-decisions, the real ones, by the thousand (test/unit/decider)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
STEP = 50  # hundredths of a second between two looks
# Of a site of two nodes with two further networks.
PENALTIES = {"cold": 2, "uplink": 4, "fault": 8, "drained": 20, "draining": 3, "network": 4}
NETWORKS = ("guest", "dmz")
CLOSED = 254
PREEMPT = 4  # steps in good health until a node is warm

# What is kept of a node, as the shell assigns it.
HEALTH = (
    "is_cold=$is_cold since=$since was_holder=$was_holder last_downs=$last_downs last=$last"
    + "".join(
        f" {name}=("
        + " ".join(f"${{{name}[{each}]+[{each}]=${{{name}[{each}]}}}}" for each in NETWORKS)
        + ")"
        for name in ("lost_since", "lost_last", "lost_reason")
    )
)
CONTEST = (
    "unheard=$unheard unheard_for=$unheard_for contested=$contested contest_seen=$contest_seen"
)
JUDGED = "misses=([x]=${misses[x]:-0}) reasons=(${reasons[x]+[x]=${reasons[x]}})"
FOLLOW = (
    "role=$role before=$before since=$since over=$over again=$again asked='$asked'"
    " interval=$interval due=(${due[hooks]+[hooks]=${due[hooks]}})"
    " delay=(${delay[hooks]+[hooks]=${delay[hooks]}})"
)


# The states of a node's workers, which of them have found something bad, and what they report.
Workers = tuple[tuple[str, ...], tuple[bool, ...], str]
# Who judges, and what.
WORKERS = (("service", "service"), ("target", "target"), ("target", "uplink target"))
NO_CONTEST = "unheard=0 unheard_for=1000 contested=0 contest_seen=-999999"
NO_REPORTS = (False, False, False), "fault_reports=() problem_reports=()"
NEW_WORKERS = ("misses=() reasons=()",) * 3


def losses(networks: Iterable[str]) -> str:
    """What a monitor that starts knows of networks that are lost."""
    return " ".join(
        f"{name}=({' '.join(f'[{each}]={value}' for each in networks)})"
        for name, value in (("lost_since", 0), ("lost_last", 0), ("lost_reason", ""))
    )


class Decider:
    """One process that answers for all nodes of all histories."""

    def __init__(self, script: Path, settings: str, folder: Path, **questions: tuple[str, str]):
        words = [word for name, pair in questions.items() for word in (name, *pair)]
        self.table = folder / f"{script.name}.table"
        self.errors = (folder / f"{script.name}.errors").open("w+")
        self.process = subprocess.Popen(
            ["bash", ROOT / "test/unit/decider", script, settings, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self.said: list[tuple[str, str, list[str], list[str]]] | None = None

    def ask(self, name: str, common: str, rows: list[str]) -> list[list[str]]:
        """For each row what the answer says, cut at `|`."""
        if not rows:
            return []
        assert self.process.stdin
        assert self.process.stdout
        self.table.write_text("\n".join([common, *rows, ""]), encoding="utf-8")
        self.process.stdin.write(f"{name} {self.table}\n")
        self.process.stdin.flush()
        answers = [self.process.stdout.readline() for _ in rows]
        assert answers[-1], self.complaints()
        if self.said is not None:
            self.said.append((name, common, rows, answers))
        return [answer.rstrip("\n").split("|") for answer in answers]

    def complaints(self) -> str:
        self.errors.seek(0)
        return self.errors.read()

    def close(self) -> None:
        self.process.communicate()
        assert self.complaints() == ""
        self.errors.close()


class Deciders:
    """The real decisions: of the monitor and of the follower."""

    def __init__(self, folder: Path, broken: str = "") -> None:
        """``broken``: limits or functions that a test puts in the place of the real ones."""
        penalties = " ".join(f"{name}={number}" for name, number in PENALTIES.items())
        self.health = Decider(
            ROOT / "gateway/health/files/health-decisions",
            f"{penalties} preempt_delay={PREEMPT * STEP // 100} advert={STEP * 8 // 10} patience=0"
            " internal=eth0 public=eth1 internal_lost= public_lost= public_carrier=1"
            " is_draining=no draining_since=0 closed_why= downs=0 networks_counted=1 own=' '"
            f" networks=({' '.join(f'{name} {name}0 own-{name} ip-{name}' for name in NETWORKS)});"
            " declare -A misses reasons;"
            f" {broken}",
            folder,
            decide=("decide", f"{HEALTH}|$penalty"),
            contest=("holder=$was_holder; decide_contest", CONTEST),
            # What keepalived reads from the start on.
            prepare=("decide_penalty", "$penalty"),
            service=('judge x "$HEALTH_SERVICE_MISSES" $hit bad', f"{JUDGED}|$settled"),
            target=('judge x "$HEALTH_TARGET_MISSES" $hit bad', f"{JUDGED}|$settled"),
        )
        self.follow = Decider(
            ROOT / "gateway/follow/files/follow-decisions",
            f"declare -A due delay told; {broken}",
            folder,
            decide=(
                "decide_role; decide_contest; decide_calls hooks",
                f"{FOLLOW}|$role $since|${{asked%% *}}|${{calls[*]}}",
            ),
            begin=('begin "$noted_role" "$noted_since"; asked= interval=0', FOLLOW),
        )
        self.judged: dict[tuple[str, str, bool], list[str]] = {}
        self.worked: dict[tuple[Workers, tuple[bool, ...], bool], Workers] = {}
        self.prepared: dict[tuple[bool, bool], int] = {}
        self.begun: dict[str, str] = {}

    def judge(self, kind: str, state: str, is_hit: bool) -> list[str]:
        key = (kind, state, is_hit)
        if key not in self.judged:
            row = f"{state} settled=yes hit={0 if is_hit else 1}"
            [self.judged[key]] = self.health.ask(kind, "", [row])
        return self.judged[key]

    def work(self, workers: Workers, hits: tuple[bool, ...], is_even: bool) -> Workers:
        """A step of the workers, each of which has a hit or a miss."""
        key = (workers, hits, is_even)
        if key not in self.worked:
            states, bad, _ = workers
            after, reports = list(states), list(bad)
            for number, (kind, _) in enumerate(WORKERS):
                if kind == "target" or is_even:
                    after[number], settled = self.judge(kind, states[number], hits[number])
                    if settled == "yes":
                        reports[number] = after[number].endswith("=bad)")
            faults = "service " * reports[0] + "target" * reports[1]
            text = f"fault_reports=({faults}) problem_reports=({'target' * reports[2]})"
            self.worked[key] = tuple(after), tuple(reports), text
        return self.worked[key]

    def begin(self, notes: str) -> str:
        """A follower that starts, with what an earlier one has noted."""
        if notes not in self.begun:
            role, _, since = notes.partition(" ")
            row = f"noted_role='{role}' noted_since='{since}'"
            [[self.begun[notes]]] = self.follow.ask("begin", "", [row])
        return self.begun[notes]

    def prepare(self, is_drained: bool, is_closed: bool) -> int:
        key = is_drained, is_closed
        if key not in self.prepared:
            row = (
                f"is_cold=yes faults=() problems=() lost=0 {word('is_drained', is_drained)}"
                f" {word('is_closed', is_closed)}"
            )
            [[penalty]] = self.health.ask("prepare", "", [row])
            self.prepared[key] = int(penalty)
        return self.prepared[key]

    def close(self) -> None:
        self.health.close()
        self.follow.close()


def word(name: str, value: bool) -> str:
    return f"{name}={'yes' if value else 'no'}"
