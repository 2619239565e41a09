"""Rows of `pods bench` as CSV and Markdown, and what changed since older ones."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

from taichi_sim.errors import InputError, expect

from .operations import FORWARD
from .timing import Timing


@dataclasses.dataclass(frozen=True)
class Row:
    """One operation on `rollouts` rollouts of `steps` steps; the fields of `Timing` in s and MiB.

    kind: "operation", "epoch", "startup", or "horizon" and "points", which are for growth only
    iterations: linear solves a step of Newton's method, or of conjugate gradients a rollout
    """

    task: str
    kind: str
    operation: str
    points: int
    steps: int
    rollouts: int
    median: float
    least: float
    most: float
    runs: int
    peak: float | None = None
    iterations: float | None = None

    @staticmethod
    def of(task, kind: str, operation: str, rollouts: int, timing: Timing, iterations: float | None = None) -> Row:
        about = (task.name, kind, operation, task.system.points, task.N, rollouts)
        return Row(*about, *dataclasses.astuple(timing), iterations)

    @property
    def key(self) -> tuple:
        return self.task, self.kind, self.operation, self.points, self.steps, self.rollouts

    @property
    def each(self) -> float:
        """Seconds a step of one rollout."""
        return self.median / (self.rollouts * self.steps)


def to_csv(rows: list[Row]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(field.name for field in dataclasses.fields(Row))
    for row in rows:
        values = dataclasses.astuple(row)
        table.writerow("" if v is None else f"{v:.6g}" if isinstance(v, float) else v for v in values)
    return text.getvalue()


def from_csv(path: Path) -> list[Row]:
    """Raises `InputError` where the file is not one that `to_csv` wrote."""
    fields = dataclasses.fields(Row)
    try:
        with open(path, newline="") as file:
            found = list(csv.DictReader(file))
        convert = {"str": str, "int": int, "float": float, "float | None": lambda word: float(word) if word else None}
        return [Row(**{f.name: convert[f.type](row[f.name]) for f in fields}) for row in found]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"compare: expected a CSV file of pods bench, got {path} ({error})") from error


def table(head, lines) -> list[str]:
    rows = [head, ["---"] * len(head), *lines]
    return ["| " + " | ".join(map(str, row)) + " |" for row in rows]


def markdown(rows: list[Row], about: str, changes: list[str]) -> str:
    """A table of operations for each number of rollouts, then epochs, memory and first gradients."""
    lines = ["# Speed", "", about, ""]
    operations = [row for row in rows if row.kind == "operation"]
    for rollouts in sorted({row.rollouts for row in operations if row.operation == FORWARD}):
        lines += _multiples([row for row in operations if row.rollouts == rollouts], operations, rollouts)
    lines += _epochs(rows) + _startup(rows) + changes
    return "\n".join(lines)


def _spread(row: Row) -> str:
    return f"±{50 * (row.most - row.least) / row.median:.0f} %"


def _multiples(rows: list[Row], operations: list[Row], rollouts: int) -> list[str]:
    names = list(dict.fromkeys(row.operation for row in operations if row.operation != FORWARD))
    head = ["task", "million steps/s", "µs a step", "Newton", *(f"{name} ×" for name in names), "MiB", "a direction's"]
    lines = []
    for task in dict.fromkeys(row.task for row in rows):
        found = {row.operation: row for row in operations if row.task == task and row.rollouts <= rollouts}
        forward = next(row for row in rows if row.task == task and row.operation == FORWARD)
        words = [task, f"{1e-6 / forward.each:.3g}", f"{1e6 * forward.each:.3g} {_spread(forward)}"]
        words.append("" if forward.iterations is None else f"{forward.iterations:.2f}")
        for name in names:
            row = found.get(name)
            words.append("" if row is None else f"{row.each / forward.each:.3g} {_spread(row)}")
        peaks = (found.get(name) for name in (FORWARD, "direction"))
        words += ["" if row is None or row.peak is None else f"{row.peak:.0f}" for row in peaks]
        lines.append(words)
    told = "Medians; the other operations as multiples of the open-loop rollout a step and rollout; ± half the range."
    return [f"## {rollouts} rollouts", "", told, "", *table(head, lines), ""]


def _epochs(rows: list[Row]) -> list[str]:
    found = {row.key: row for row in rows if row.kind == "epoch"}
    lines = []
    for row in found.values():
        if row.operation == "epoch":
            rest = next(r for r in found.values() if (r.task, r.rollouts) == row.key[::5] and r.operation != "epoch")
            share = rest.median / row.median
            lines.append([row.task, row.rollouts, f"{row.median:.3g} {_spread(row)}", f"{share:.1%}"])
    told = "By `pods train`'s own code, preset for this device; what is neither a kernel nor the network."
    head = ["task", "k", "seconds an epoch", "the rest"]
    return ["## Epochs of PODS", "", told, "", *table(head, lines), ""] if lines else []


def _startup(rows: list[Row]) -> list[str]:
    found = {(row.task, row.operation): row.median for row in rows if row.kind == "startup"}
    lines = [
        [task, *(f"{found[task, name]:.1f}" for name in ("import", "cold", "warm"))]
        for task in dict.fromkeys(task for task, _ in found)
    ]
    head = ["task", "import [s]", "no cache [s]", "cache filled [s]"]
    return ["## First gradient, from import on", "", *table(head, lines), ""] if lines else []


def changes(rows: list[Row], old: list[Row]) -> list[str]:
    """Markdown: time now / time then of what both have."""
    before = {row.key: row for row in old}
    both = [(row, before[row.key]) for row in rows if row.key in before]
    expect(len(both) > 0, "compare", "a file with some of these measurements", "none")
    lines = [
        [
            a.task,
            a.operation,
            a.rollouts,
            a.steps,
            f"{b.median:.4g} s",
            f"{a.median:.4g} s",
            f"{a.median / b.median:.2f}",
        ]
        for a, b in both
    ]
    return [
        "## Changes",
        "",
        *table(["task", "operation", "rollouts", "steps", "then [s]", "now [s]", "ratio"], lines),
        "",
    ]
