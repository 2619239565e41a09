"""How times grow with rollouts, steps and points: exponents of power laws, and a plot of them."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch

import tasks
from taichi_sim import Simulator, equilibrium
from tasks import Task, cloth
from viz import figures

from .operations import FORWARD, Operations
from .report import Row, table
from .timing import measure

NAMES = (FORWARD, "vjp", "jvp", "cg")
SHARES = (0.5, 1.0, 2.0)  # of the task's horizon
ROLLOUTS = 32
COORDINATES = 4096  # of all rollouts' points, at least: with fewer a launch takes as long as what it runs
SIDES = (4, 5, 7, 10)  # of a cloth of the same extent and mass, in points
AXES = {"operation": "rollouts", "horizon": "steps", "points": "points"}


def horizons(name: str, runs: int, preset: str) -> list[Row]:
    """`NAMES` for horizons half as long as the task's, and up to twice."""
    of, calls = {}, {}
    for share in SHARES:
        task = tasks.make(name, N=int(share * tasks.make(name).N))
        many = max(1, COORDINATES // (ROLLOUTS * task.system.points * task.system.dim)) * ROLLOUTS
        of[task.N] = task, many
        calls |= {(task.N, operation): run for operation, run in Operations(task, many, preset).calls(NAMES).items()}
    timings = measure(calls, runs, task.simulator.device)
    rows = ((*of[N], operation, timing) for (N, operation), timing in timings.items())
    return [Row.of(task, "horizon", operation, many, timing) for task, many, operation, timing in rows]


def points(runs: int) -> list[Row]:
    """Forward and adjoint of cloths of ever more points, 20 steps with random actions from rest."""
    rows, N = [], 20
    for side in SIDES:
        system = cloth.system(side, spacing=cloth.SPACING * (cloth.SIDE - 1) / (side - 1))
        simulator = Simulator(system, cloth.H)
        start = simulator.start(ROLLOUTS, x=equilibrium(system))
        uniform = torch.rand(ROLLOUTS, N, system.actions, generator=torch.Generator().manual_seed(0))
        actions = (0.5 * cloth.LIMIT * (2 * uniform - 1)).to(simulator.device, simulator.dtype)
        trajectory = simulator.rollout(start, actions)
        ones = torch.ones_like(trajectory.x)
        calls = {
            FORWARD: functools.partial(simulator.rollout, start, actions),
            "vjp": functools.partial(simulator.vjp, trajectory, ones),
        }
        solves = trajectory.iterations.double().mean().item()
        for name, timing in measure(calls, runs, simulator.device).items():
            task = Task("cloth", system, cloth.H, N, cloth.LIMIT, None, None)
            rows.append(Row.of(task, "points", name, ROLLOUTS, timing, solves if name == FORWARD else None))
    return rows


def exponent(rows: list[Row], axis: str) -> float:
    """p of  seconds ∝ axisᵖ, by least squares over the logarithms."""
    return np.polyfit(np.log([getattr(row, axis) for row in rows]), np.log([row.median for row in rows]), 1)[0]


def groups(rows: list[Row], kind: str) -> dict[tuple[str, str], list[Row]]:
    """(task, operation) -> rows along the axis of `kind`, where there are at least two."""
    found = {}
    for row in rows:
        if row.kind == kind and row.operation in NAMES:
            found.setdefault((row.task, row.operation), []).append(row)
    return {key: some for key, some in found.items() if len({getattr(row, AXES[kind]) for row in some}) > 1}


def report(rows: list[Row]) -> list[str]:
    """Markdown: exponents, a row a task and axis."""
    lines = []
    for kind, axis in AXES.items():
        found = groups(rows, kind)
        for task in dict.fromkeys(task for task, _ in found):
            powers = (exponent(found[task, n], axis) if (task, n) in found else None for n in NAMES)
            lines.append([task, axis, *("" if power is None else f"{power:.2f}" for power in powers)])
    return ["## Growth: p of seconds ∝ axisᵖ", "", *table(["task", "axis", *NAMES], lines), ""] if lines else []


def draw(rows: list[Row], stem: Path) -> list[Path]:
    """A panel an axis, a line a task and operation."""
    kinds = [kind for kind in AXES if groups(rows, kind)]
    if not kinds:
        return []
    figure = figures.new_figure(4.0 * len(kinds), 4.2)
    grid = figure.subplots(1, len(kinds), squeeze=False)[0]
    names = sorted({row.task for row in rows})
    for kind, axes in zip(kinds, grid, strict=True):
        for (task, operation), some in groups(rows, kind).items():
            some = sorted(some, key=lambda row: getattr(row, AXES[kind]))
            axes.plot(
                [getattr(row, AXES[kind]) for row in some],
                [row.median for row in some],
                color=figures.COLOURS[names.index(task) % len(figures.COLOURS)],
                linestyle=figures.STYLES[NAMES.index(operation)],
                label=f"{task} {operation}",
            )
        axes.set(xscale="log", yscale="log", xlabel=AXES[kind], ylabel="seconds")
        measured = sorted({getattr(row, AXES[kind]) for some in groups(rows, kind).values() for row in some})
        axes.set_xticks(measured, [str(value) for value in measured])
        axes.tick_params(axis="x", which="minor", labelbottom=False)
        axes.grid(alpha=0.3)
    lines = {line.get_label(): line for axes in grid for line in axes.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=4, fontsize="x-small")
    return figures.save(figure, stem)
