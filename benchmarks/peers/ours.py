"""This project's simulator: BDF2 at the task's time step, Newton to round-off, the adjoint for the gradient."""

from __future__ import annotations

import torch

import tasks

from .problem import REFINEMENT, Problem, rms
from .timing import Candidate, compile_seconds


def compile_forward(task: tasks.Task) -> float:
    """Seconds, for a task whose simulator is new."""
    simulator = task.simulator
    start, still = simulator.start(1), torch.zeros(1, 1, task.system.actions, dtype=simulator.dtype)
    return compile_seconds(lambda: simulator.rollout(start, still))


def candidate(problem: Problem, compiled: float) -> Candidate:
    """`compiled`: seconds that the forward kernel took, which the start states needed already."""
    simulator = problem.task.simulator

    def rollout():
        rows = simulator.rollout(problem.start, problem.actions)
        assert rows.ok.all()
        return rows

    def forward():
        return rollout().x[:, -1].numpy()

    compiled += compile_seconds(lambda: gradient(problem))
    error = rms(problem.few.refined(1), problem.few.refined(REFINEMENT))
    setting = f"BDF2 {1e3 * problem.task.h:g} ms, {rollout().iterations.double().mean():.1f} solves"
    return Candidate(problem.name, "this", setting, error, problem.steps, compiled, forward, lambda: gradient(problem))


def gradient(problem: Problem) -> torch.Tensor:
    """dL/da (B, N, m) of L = Σ_t ‖x_t − x*‖², t = 1…N."""
    simulator = problem.task.simulator
    rows = simulator.rollout(problem.start, problem.actions)
    gx = 2 * (rows.x - problem.task.goal)
    gx[:, 0] = 0
    return simulator.vjp(rows, gx).a
