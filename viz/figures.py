"""Figures for papers, each as PNG and SVG, readable in grey: line styles and hatches tell learners apart too."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np

from taichi_sim import Trajectory
from taichi_sim.errors import InputError, expect
from tasks import Task

STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
COLOURS = ("#1f77b4", "#e69900", "#009e73", "#cc79a7", "#59568c", "#d62728", "#7f7f7f")
HATCHES = ("", "//", "..", "xx", "\\\\", "oo", "++")
METRICS = {
    "terminal_kinetic_energy": "terminal kinetic energy [J]",
    "final_distance": "final distance [m]",
    "handle_speed": "mean handle speed [m/s]",
}
VALIDATION = tuple(f"{name}_validation{end}" for name in METRICS for end in ("", "_std"))
PIXELS = 1000  # a jacobian is drawn with at most so many rows and columns


@dataclasses.dataclass(frozen=True, eq=False)
class Log:
    """What figures need of a run folder: log.csv by column, `METRICS` of evaluation.json, None before the end."""

    task: str
    label: str
    seed: int
    columns: dict[str, np.ndarray]
    evaluation: dict | None

    @staticmethod
    def read(run: str | Path, label: str | None = None) -> Log:
        """`label`: what figures call it, if not by its learner's name."""
        run = Path(run)
        try:
            config = json.loads((run / "config.json").read_text())
            with open(run / "log.csv", newline="") as file:
                rows = list(csv.DictReader(file))
            names = ["epoch", "samples", "seconds", "return_validation", "return_validation_std"]
            names += [name for name in VALIDATION if name in rows[0]]
            columns = {name: np.array([float(row[name]) for row in rows]) for name in names}
            path = run / "evaluation.json"
            found = json.loads(path.read_text()) if path.exists() else None
            evaluation = found if found is None else {name: found[name] and float(found[name]) for name in METRICS}
            log = Log(config["task"], label or config["learner"], config["config"]["seed"], columns, evaluation)
        except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(f"run: expected a run folder with config.json and log.csv, got {run} ({error})") from error
        expect(len(rows) > 0, "run", "a log.csv with at least one epoch", str(run))
        return log


def side_by_side(logs: list[Log], at: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Columns (runs, places) at the same epochs, samples or seconds: those of the first run that all have passed."""
    own = [log.columns[at] for log in logs]
    begin, end = max(places[0] for places in own), min(places[-1] for places in own)
    where = own[0][(own[0] >= begin) & (own[0] <= end)]
    columns = logs[0].columns
    return where, {
        name: np.stack([np.interp(where, places, log.columns[name]) for places, log in zip(own, logs, strict=True)])
        for name in columns
    }


def learning_curves(logs: list[Log], stem: Path) -> list[Path]:
    """Cost −V on unseen start states against epochs, samples and training time: a row a task, a line a learner.

    Of several seeds the mean, half their standard deviation shaded; of one, half that over its start states, upwards.
    """
    from matplotlib.ticker import EngFormatter

    tasks = sorted({log.task for log in logs})
    figure = new_figure(10.0, 0.4 + 2.8 * len(tasks))
    grid = figure.subplots(len(tasks), 3, squeeze=False, sharey="row")
    for task, row in zip(tasks, grid, strict=True):
        for n, learner in enumerate(_learners(logs)):
            group = [log for log in logs if (log.task, log.label) == (task, learner)]
            if not group:
                continue
            label = learner if len(group) == 1 else f"{learner}, {len(group)} seeds"
            for axes, name in zip(row, ("epoch", "samples", "seconds"), strict=True):
                at, column = side_by_side(group, name)
                cost = -column["return_validation"].mean(0)
                spread = column["return_validation"].std(0) if len(group) > 1 else column["return_validation_std"][0]
                low = np.maximum(cost - spread / 2, cost / 10) if len(group) > 1 else cost
                style = {"color": COLOURS[n % len(COLOURS)]}
                axes.fill_between(at, low, cost + spread / 2, alpha=0.15, linewidth=0, **style)
                axes.plot(at, cost, linestyle=STYLES[n % len(STYLES)], label=label, **style)
        for axes, name in zip(row, ("epochs", "simulated steps", "training time [s]"), strict=True):
            axes.set(yscale="log", xlabel=name)
            axes.grid(alpha=0.3)
        row[0].set(ylabel="cost −V", title=task)
        row[1].xaxis.set_major_formatter(EngFormatter(sep=""))
        row[2].legend(fontsize="small")
    return save(figure, stem)


def metrics(logs: list[Log], stem: Path) -> list[Path]:
    """Terminal kinetic energy, final distance and handle speed (paper, figures 8, 9, 10): bars by task and learner.

    Bars are means over seeds; the lines on them go from the least to the greatest seed.
    """
    judged = [log for log in logs if log.evaluation is not None]
    expect(len(judged) > 0, "run", "at least one finished run, with an evaluation.json", "none")
    tasks, learners = sorted({log.task for log in judged}), _learners(judged)
    figure = new_figure(max(8.0, 0.9 * len(tasks) * len(learners)), 3.6)
    names = [name for name in METRICS if any(log.evaluation[name] is not None for log in judged)]
    for axes, name in zip(figure.subplots(1, len(names)), names, strict=True):
        for n, learner in enumerate(learners):
            at, values = [], []
            for k, task in enumerate(tasks):
                group = [log.evaluation[name] for log in judged if (log.task, log.label) == (task, learner)]
                if group and None not in group:
                    at.append(k + (n - (len(learners) - 1) / 2) * 0.8 / len(learners))
                    values.append((np.mean(group), np.min(group), np.max(group)))
            if at:
                mean, low, high = np.array(values).T
                style = {"color": COLOURS[n % len(COLOURS)], "hatch": HATCHES[n % len(HATCHES)], "edgecolor": "white"}
                axes.bar(at, mean, 0.8 / len(learners), yerr=(mean - low, high - mean), label=learner, **style)
        axes.set(title=METRICS[name], yscale="linear" if name == "handle_speed" else "log")
        axes.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right", fontsize="small")
        axes.grid(alpha=0.3, axis="y")
    figure.axes[-1].legend(fontsize="small")
    return save(figure, stem)


def trajectories(task: Task, performances: list[tuple[str, Trajectory]], stem: Path) -> list[Path]:
    """Handle, payload, speed and actions over time, of the first rollout of each (name, rows)."""
    figure = new_figure(8.0, 8.4)
    panels = figure.subplots(4, 1, sharex=True)
    axes_names = "xyz"[: task.system.dim] if task.system.dim == 3 else "xz"
    mass = task.system.mass / task.system.mass.sum()
    for n, (name, rows) in enumerate(performances):
        x, v, p, a = (getattr(rows, k)[0].double().cpu().numpy() for k in ("x", "v", "p", "a"))
        t, style = task.h * np.arange(len(x)), STYLES[n % len(STYLES)]
        handle, payload = p.mean(1), np.einsum("tpd,p->td", x, mass)
        goal = np.einsum("pd,p->d", task.goal.double().cpu().numpy(), mass)
        for k, axis in enumerate(axes_names):
            colour = {"color": COLOURS[k], "linestyle": style}
            panels[0].plot(t, handle[:, k], label=f"{axis}, {name}", **colour)
            panels[1].plot(t, payload[:, k] - goal[k], **colour)
        panels[2].plot(t, np.sqrt((v**2).sum(-1) @ mass), color="black", linestyle=style, label=name)
        for k in range(a.shape[1]):
            panels[3].step(t[:-1], a[:, k], where="post", color=COLOURS[k % len(COLOURS)], linestyle=style, linewidth=1)
    names = ("handles, mean [m]", "payload from goal [m]", "payload speed, rms [m/s]", "actions [m/s]")
    for axes, name in zip(panels, names, strict=True):
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    panels[3].axhline(task.limit, color="0.6", linewidth=0.8)
    panels[3].axhline(-task.limit, color="0.6", linewidth=0.8)
    panels[3].set_xlabel("time [s]")
    panels[0].set_title(task.name)
    for axes in panels[[0, 2]]:
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return save(figure, stem)


def jacobian(task: Task, S: np.ndarray, stem: Path) -> list[Path]:
    """|ds/da| of one rollout, S (N, n_s, N, m), on a logarithmic scale (paper, figure 7), and one of its blocks.

    Of a matrix with more entries than pixels, each pixel shows the largest of its entries.
    """
    from matplotlib.colors import LogNorm

    N, n_s, _, m = S.shape
    whole = np.abs(S.reshape(N * n_s, N * m))
    norm = LogNorm(1e-6 * whole.max(), whole.max())
    figure = new_figure(10.0, 5.4)
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    picture = left.imshow(
        _pooled(whole), norm=norm, cmap="viridis", extent=(0, N, N, 0), aspect="auto", interpolation="nearest"
    )
    left.set(
        xlabel="action a_t, step t", ylabel="state s_t, step t", title=f"ds/da of {task.name}: {N * n_s} × {N * m}"
    )
    last, first = N - 1, N // 2
    right.imshow(np.abs(S[last, :, first]), norm=norm, cmap="viridis", aspect="auto", interpolation="nearest")
    right.set_xticks(range(m))
    right.set(title=f"∂s_{last + 1}/∂a_{first}", xlabel="action", ylabel="handle, positions, velocities")
    figure.colorbar(picture, ax=[left, right], label="magnitude; white is zero")
    return save(figure, stem)


def _pooled(matrix: np.ndarray) -> np.ndarray:
    for axis in (0, 1):
        step = -(-matrix.shape[axis] // PIXELS)
        starts = np.arange(0, matrix.shape[axis], step)
        matrix = np.maximum.reduceat(matrix, starts, axis=axis)
    return np.where(matrix > 0, matrix, np.nan)


def _learners(logs: list[Log]) -> list[str]:
    return sorted({log.label for log in logs})


def new_figure(width: float, height: float):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure, stem: Path) -> list[Path]:
    """STEM.png and STEM.svg."""
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "svg")]
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for path in paths:
            figure.savefig(path, dpi=150)
    except OSError as error:
        raise InputError(f"output: expected a folder to write to, got {stem.parent} ({error.strerror})") from error
    return paths
