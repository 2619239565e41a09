"""How far the kernels are from the fastest code for a rope and a cloth: python -m benchmarks.limit [--tasks rope …].

The limit is C++ for these two systems alone, LANES rollouts in each vector register, with the same energies, formula,
predictor and convergence criterion; g++ builds it for the machine at hand. Newton's directions for the cloth come from
factors in float32, residuals and derivatives from float64. Both get the same start states and
actions (uniform within the task's limit, new ones every step) and must give the same rows and gradients. Cotangents of
the rows are independent normal numbers.
"""

import argparse
import time

import numpy as np
import torch

import taichi_sim
import tasks

from .library import Limit, build

TASKS = {"rope": "rope3d-stop", "cloth": "cloth-lay"}
START, SEED = (7,), 1
# Rollouts of the cloth amplify what the convergence criterion leaves: with a tolerance 16 times smaller, the worst of
# 1,024 rollouts is 3e-9 from the simulator's, whether directions are exact or not.
AGREE, WORST = 1e-9, 1e-7  # relative to the largest entry: 99 % of the rollouts, and all


def inputs(task: tasks.Task, B: int):
    """Start states, random actions (B, N, m) and what makes cotangents."""
    generator = torch.Generator().manual_seed(SEED)
    shape = (B, task.N, task.system.actions)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    return task.start(START, B), task.limit * (2 * uniform - 1), generator


def deviation(found: dict, wanted, numbers: Limit) -> np.ndarray:
    """(B,) the largest difference in any array of a rollout, relative to that array's largest entry in the batch."""
    worst = np.zeros(numbers.B)
    for name, array in found.items():
        like = getattr(wanted, name).numpy().reshape(numbers.B, -1)
        apart = np.abs(numbers.apart(array).reshape(numbers.B, -1) - like).max(1)
        worst = np.maximum(worst, apart / np.abs(like).max())
    return worst


def measure(name: str, B: int, runs: int, threads: int, double: bool) -> list[dict]:
    """A row of the table for each sweep and implementation: seconds of each run, and what they have in common."""
    task = tasks.make(TASKS[name])
    start, actions, generator = inputs(task, B)
    simulator = task.simulator
    limit = Limit(build(name, task, ["-DDOUBLE"] if double else []), task, start, actions, threads)
    rows = simulator.rollout(start, actions)
    g = {k: torch.randn(getattr(rows, k).shape, generator=generator, dtype=torch.float64) for k in "xvp"}
    cotangents = [limit.interleaved(rows.numpy()) for rows in g.values()]
    gradient = simulator.vjp(rows, g["x"], g["v"], g["p"])
    limit.rollout()
    limit.adjoint(*cotangents)
    assert rows.ok.all(), f"{name}: {(~rows.ok).sum()} rollouts of the simulator did not converge"
    assert not limit.status.any(), f"{name}: {(limit.status != 0).sum()} steps of the C++ did not converge or run"
    apart = deviation(limit.rows, rows, limit), deviation(limit.gradient, gradient, limit)
    for what, each in zip(("rows", "gradients"), apart, strict=True):
        most, worst = np.quantile(each, 0.99), each.max()
        assert most < AGREE and worst < WORST, f"{name}: {what} deviate by {most:.1e} (99 %), {worst:.1e} (all)"

    clock = time.process_time if threads == 1 else time.perf_counter  # one thread: whatever else the machine does
    seconds = [[], [], [], []]
    for _ in range(runs):
        calls = (
            lambda: simulator.rollout(start, actions),
            limit.rollout,
            lambda: simulator.vjp(rows, g["x"], g["v"], g["p"]),
            lambda: limit.adjoint(*cotangents),
        )
        for call, spent in zip(calls, seconds, strict=True):
            begun = clock()
            call()
            spent.append(clock() - begun)
    solves = rows.iterations.double().mean().item(), limit.solves.mean(), 1, 1
    kinds = ("forward", "Taichi"), ("forward", "C++"), ("adjoint", "Taichi"), ("adjoint", "C++")
    return [
        {
            "task": name,
            "sweep": sweep,
            "by": by,
            "us": 1e6 * np.array(spent) / (B * task.N),
            "solves": n,
            "apart": d.max(),
        }
        for (sweep, by), spent, n, d in zip(
            kinds, seconds, solves, (apart[0], apart[0], apart[1], apart[1]), strict=True
        )
    ]


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limit", description=__doc__.split(":")[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--B", type=int, default=1024, help="rollouts")
    parser.add_argument("--runs", type=int, default=7, help="of each, interleaved")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--double", action="store_true", help="factor the cloth's J in float64 for Newton's method too")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    taichi_sim.init("cpu", threads=chosen.threads)
    head = ("task", "sweep", "by", "µs a step", "spread", "steps/s", "linear solves", "largest deviation", "ratio")
    print("| " + " | ".join(head) + " |\n" + "| --- " * len(head) + "|")
    for name in chosen.tasks:
        rows = measure(name, chosen.B, chosen.runs, chosen.threads, chosen.double)
        for ours, best in zip(rows[::2], rows[1::2], strict=True):
            for row in (ours, best):
                us = np.median(row["us"])
                ratio = us / np.median(best["us"])
                spread = f"{row['us'].min():.3f} to {row['us'].max():.3f}"
                figures = (
                    f"{us:.3f} | {spread} | {1e6 / us:,.0f} | {row['solves']:.2f} | {row['apart']:.0e} | {ratio:.2f}"
                )
                print(f"| {row['task']} | {row['sweep']} | {row['by']} | {figures} |", flush=True)
