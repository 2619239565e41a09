"""A plain LQR about rest at the goal: the yardstick that needs no learning."""

from __future__ import annotations

import torch

from taichi_sim import State, Trajectory
from tasks import Task

SETTLED = 600  # steps of the Riccati recursion; by then the gains no longer change


def gains(task: Task) -> torch.Tensor:
    """K (m, n) of a = K s, s = [x − x*, x₋₁ − x*, v, v₋₁, π]: the infinite-horizon LQR of the linearised task."""
    simulator, m = task.simulator, task.system.actions
    still = torch.zeros(1, SETTLED, m, dtype=simulator.dtype, device=simulator.device)
    rest = simulator.rollout(simulator.start(1, x=task.goal), still)
    return simulator.gauss_newton_riccati(rest, still, *task.curvature(SETTLED)).gains[0, 0]


def closed_loop(task: Task, start: State) -> Trajectory:
    """The task's horizon under the LQR, clipped to the limits."""
    K = gains(task)
    rows = task.simulator.begin(start, task.N)
    for t in range(task.N):
        past = max(t - 1, 0)
        position = [(rows.x[:, s] - task.goal).flatten(1) for s in (t, past)]
        velocity = [rows.v[:, s].flatten(1) for s in (t, past)]
        handle = task.observe(rows.x[:, t], rows.v[:, t], rows.p[:, t])[:, : task.system.actions]
        rows.a[:, t] = (torch.cat((*position, *velocity, handle), 1) @ K.T).clamp(-task.limit, task.limit)
        task.simulator.advance(rows, t)
    return rows
