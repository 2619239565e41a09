"""Which Gauss–Newton method suits which task: python benchmarks/directions.py [TASK ...].

From rest, the cost is lowered by ITERATIONS steps, each with a direction by the Riccati recursion (exact) or by
truncated conjugate gradients, and a line search.
"""

import sys
import time

import torch

import taichi_sim
import tasks
from learner.directions import EXACT, TRUNCATED, gauss_newton
from learner.line_search import line_search
from taichi_sim import Simulator

ITERATIONS, B = 8, 32
METHODS = (("riccati", EXACT), ("cg", 1e-2), ("cg", 0.03), ("cg", 0.1), ("cg", TRUNCATED))


class Direct(Simulator):
    direct = True


class Iterative(Simulator):
    direct = False


def measure(task: tasks.Task, method: str, tolerance: float):
    """Milliseconds in directions a rollout and iteration, and the mean cost after each iteration."""
    task.simulator.__class__ = {"riccati": Direct, "cg": Iterative}[method]  # instead of the one it would pick
    start = task.start((5,), B)
    rows = task.simulator.rollout(start, torch.zeros_like(task.simulator.begin(start, task.N).a))
    gauss_newton(task, rows[:2], tolerance=tolerance)  # compiles
    seconds, costs = 0.0, []
    for _ in range(ITERATIONS):
        begun = time.perf_counter()
        direction = gauss_newton(task, rows, tolerance=tolerance)
        seconds += time.perf_counter() - begun
        step = line_search(task, rows, direction)
        rows = step.trajectory
        costs.append(-step.value.mean().item())
    return 1e3 * seconds / (ITERATIONS * B), costs


def main(names):
    torch.set_num_threads(1)
    taichi_sim.init("cpu", threads=1)
    print("| task | state | method | tolerance | ms a direction | cost after 2, 4, 8 |\n" + "| --- " * 6 + "|")
    for name in names:
        for method, tolerance in METHODS:
            task = tasks.make(name)
            n = 4 * task.system.points * task.system.dim + task.system.actions
            if method == "riccati" and n > 100:
                continue  # half a minute a direction
            each, costs = measure(task, method, tolerance)
            after = ", ".join(f"{costs[i]:.4g}" for i in (1, 3, 7))
            print(f"| {name} | {n} | {method} | {tolerance:g} | {each:.2f} | {after} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or [name for name in tasks.names() if not name.endswith("-origin")])
