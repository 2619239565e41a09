"""Tables and figures of the runs of an experiment."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from string import ascii_uppercase

from taichi_sim.errors import InputError

from .experiments import EXPERIMENTS, PAPER, PAPER_COLUMNS, Entry

LEVEL = 1.05  # times a cost: where a learner counts as having got there
# Of the figures with a panel for each task: what is drawn, and its title
PANELS = {
    "fig4": ("return", "cost −V"),
    "fig8": ("terminal_kinetic_energy", "terminal kinetic energy [J]"),
    "fig9": ("final_distance", "final distance [m]"),
    "fig10": ("handle_speed", "mean handle speed [m/s]"),
}


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run: evaluation.json, config.json and log.csv by column."""

    entry: Entry
    evaluation: dict
    config: dict
    log: dict[str, list[float]]


def read(entry: Entry, folder: Path) -> Result | None:
    """None where the run is not finished."""
    from learner.run import Run

    path = entry.path(folder)
    if not (path / "evaluation.json").exists():
        return None
    run = Run.open(path)
    rows = run.rows()
    log = {name: [row[name] for row in rows] for name in rows[0]}
    return Result(entry, json.loads((path / "evaluation.json").read_text()), run.config, log)


def write_results(name: str, listed: list[Entry], folder: Path, output: Path) -> list[Path]:
    """OUTPUT/NAME.csv, NAME.md and the figure, if the experiment has one."""
    from learner.files import write

    found = [result for entry in listed if (result := read(entry, folder)) is not None]
    if not found:
        return []
    missing = [entry for entry in listed if entry not in {result.entry for result in found}]
    try:
        output.mkdir(parents=True, exist_ok=True)
        write(output / f"{name}.csv", rows(found).encode())
        write(output / f"{name}.md", report(name, found, missing).encode())
    except OSError as error:
        raise InputError(f"output: expected a folder to write to, got {output} ({error.strerror})") from error
    return [output / f"{name}.md", output / f"{name}.csv", *draw(name, found, folder, output)]


def rows(found: list[Result]) -> str:
    """CSV, a row a run."""
    text = io.StringIO()
    fields = ("return", "return_std", "optimality_gap", "terminal_kinetic_energy", "final_distance", "handle_speed")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ("task", "horizon", "learner", "seed", *fields, "failed", "seconds", "samples", "epochs", "k", "threads")
    )
    for r in found:
        values = ["" if r.evaluation[f] is None else f"{r.evaluation[f]:.6g}" for f in fields]
        last = [f"{r.log['seconds'][-1]:.1f}", int(r.log["samples"][-1]), int(r.log["epoch"][-1])]
        about = [r.config["config"]["k"], r.config["environment"]["threads"]]
        entry = [r.entry.task, r.config["horizon"], r.entry.variant.label, r.entry.seed]
        table.writerow((*entry, *values, r.evaluation["failed"], *last, *about))
    return text.getvalue()


def report(name: str, found: list[Result], missing: list[Entry]) -> str:
    """Markdown: a table for each question, a row a task and a column a learner."""
    labels = [v.label for v in EXPERIMENTS[name].variants if v.label in {r.entry.variant.label for r in found}]
    cells = {}
    for r in found:
        cells.setdefault((r.entry.task, r.entry.variant.label), []).append(r)
    names = sorted({task for task, _ in cells})

    def table(title, cell):
        lines = [f"## {title}", "", *_row(["task", *labels]), *_row(["---"] * (1 + len(labels)))]
        for task in names:
            lines += _row([task, *(cell(cells[task, label]) if (task, label) in cells else "" for label in labels)])
        return [*lines, ""]

    machines = dict(zip(dict.fromkeys(map(_machine, found)), ascii_uppercase, strict=False))
    seeds = ", ".join(map(str, sorted({r.entry.seed for r in found})))
    lines = [f"# {EXPERIMENTS[name].title}", "", f"{len(found)} runs, seeds {seeds}.", ""]
    lines += [*(f"- {letter}: {machine}" for machine, letter in machines.items()), ""]
    lines += table("Return: mean over test states and seeds ± deviation over test states [over seeds]", _returns)
    if any(r.evaluation["optimality_gap"] is not None for r in found):
        lines += table("Optimality gap: cost above the best known, mean over seeds (worst)", _gaps)
    column, title = PANELS.get(name, ("return", ""))
    if column != "return":
        title = f"{title[0].upper()}{title[1:]}: mean over test states and seeds"
        lines += table(title, lambda rs: f"{statistics.mean(r.evaluation[column] for r in rs):.2g}")
    if len(machines) > 1:
        lines += table("Machine", lambda rs: ", ".join(sorted({machines[_machine(r)] for r in rs})))
    lines += table("Seconds of training, million simulated steps", _effort)
    lines += table(f"Seconds until within {LEVEL - 1:.0%} of its lowest cost", lambda rs: _seconds(rs, _lowest))
    if any(label == "sac" for label in labels):
        level = {task: _end(found) for (task, label), found in cells.items() if label == "sac"}
        lines += table(
            f"Seconds until within {LEVEL - 1:.0%} of SAC's cost at the end",
            lambda rs: _seconds(rs, lambda r: level[r.entry.task]) if rs[0].entry.task in level else "",
        )
    if name == "table1":
        lines += _paper(cells)
    if name == "tuning":
        lines += _settings(found)
    changed = [f"- {r.entry}: {', '.join(other)}" for r in found if (other := _changed(r))]
    if changed:
        lines += ["## Run with what is no longer set", "", *changed, ""]
    if missing:
        lines += ["## Not run", "", *(f"- {entry}" for entry in missing), ""]
    return "\n".join(lines)


def _settings(found: list[Result]) -> list[str]:
    """What each run set otherwise than the first of its learner; epochs follow from the budget."""
    lines, first = ["## Settings", ""], {}
    for r in found:
        settings = {key: value for key, value in r.config["config"].items() if key not in ("epochs", "seed")}
        base = first.setdefault(r.entry.variant.learner, settings)
        changed = {key: value for key, value in settings.items() if base is settings or value != base[key]}
        lines.append(f"- {r.entry.variant.label}: {', '.join(f'{key} {value:g}' for key, value in changed.items())}")
    return [*lines, ""]


def _changed(r: Result) -> list[str]:
    """What a run had otherwise than it would have today."""
    import tasks

    ran = {"improvements": 1} | r.config["config"]  # which runs without the setting had
    other = [f"{name} {ran.get(name)}" for name, value in r.entry.variant.settings if ran.get(name) != value]
    today = json.loads(json.dumps(tasks.make(r.entry.task, r.entry.horizon).definition()))
    return other + (["another definition of the task"] if r.config["definition"] != today else [])


def _row(words) -> list[str]:
    return ["| " + " | ".join(words) + " |"]


def _machine(r: Result) -> str:
    """What a run ran on."""
    where = r.config["environment"]
    return (
        f"{where['device_type']} ({where['device']}), {where['threads']} thread(s) a run, torch {where['torch']}, "
        f"Taichi {where['taichi']}, Python {where['python']}, physics in {where['precision']}"
    )


def _returns(results: list[Result]) -> str:
    values = [r.evaluation["return"] for r in results]
    spread = statistics.mean(r.evaluation["return_std"] for r in results)
    over = f" [{statistics.stdev(values):.3f}, n={len(values)}]" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f} ± {spread:.2f}{over}"


def _gaps(results: list[Result]) -> str:
    gaps = [r.evaluation["optimality_gap"] for r in results]
    if None in gaps:
        return ""
    return f"{statistics.mean(gaps):.2%}" + (f" ({max(gaps):.2%})" if len(gaps) > 1 else "")


def _effort(results: list[Result]) -> str:
    seconds, samples = (statistics.mean(r.log[name][-1] for r in results) for name in ("seconds", "samples"))
    return f"{seconds:.0f} s, {samples / 1e6:.2f}"


def _lowest(r: Result) -> float:
    """The lowest cost on unseen states; not that at the end, which a run that diverged reaches at once."""
    return min(-v for v in r.log["return_validation"])


def _end(results: list[Result]) -> float:
    """The cost on unseen states at the end, mean over seeds."""
    return -statistics.mean(r.log["return_validation"][-1] for r in results)


def _reached(results: list[Result], level: Callable[[Result], float]) -> float | None:
    """Seconds, mean over seeds, until −V on unseen states is first within `LEVEL` of `level`; None if one never is."""
    times = []
    for r in results:
        cost = LEVEL * level(r)
        there = (s for s, v in zip(r.log["seconds"], r.log["return_validation"], strict=True) if -v <= cost)
        times.append(next(there, None))
    return None if None in times else statistics.mean(times)


def _seconds(results: list[Result], level: Callable[[Result], float]) -> str:
    reached = _reached(results, level)
    return "never" if reached is None else f"{reached:.0f}"


def _paper(cells) -> list[str]:
    head = [
        "## Beside the paper",
        "",
        "Relative to pods-4000: cost, and time until within 5% of the own lowest cost; in brackets the paper's cost "
        "and total time. The paper's reward weights are not published, so absolute values do not compare; order and "
        "ratio do. Its cable and rope rows do not say which goal they had; they stand beside both.",
        "",
        *_row(["task", *PAPER_COLUMNS]),
        *_row(["---"] * (1 + len(PAPER_COLUMNS))),
    ]
    lines = []
    for task in sorted({task for task, _ in cells}):
        figures = PAPER.get(task) or PAPER.get(task.rpartition("-")[0])
        if figures is None or (task, "pods-4000") not in cells:
            continue
        cost, took = _cost_and_time(cells[task, "pods-4000"])
        words = [task]
        for column, value, hours in zip(PAPER_COLUMNS, *figures, strict=True):
            ours = _cost_and_time(cells[task, column]) if (task, column) in cells else None
            words.append("-" if ours is None else f"{ours[0] / cost:.2f}, {ours[1] / took:.2g} ×")
            words[-1] += f" ({value / figures[0][1]:.2f}, {hours / figures[1][1]:.2g} ×)"
        lines += _row(words)
    return [*head, *lines, ""] if lines else []


def _cost_and_time(results: list[Result]) -> tuple[float, float]:
    return statistics.mean(-r.evaluation["return"] for r in results), _reached(results, _lowest)


def draw(name: str, found: list[Result], folder: Path, output: Path) -> list[Path]:
    from viz import experiments, figures

    logs = [figures.Log.read(r.entry.path(folder), r.entry.variant.label) for r in found]
    if name in ("fig3", "fig6"):
        return figures.learning_curves(logs, output / name)
    return experiments.panels(logs, *PANELS[name], output / name) if name in PANELS else []
