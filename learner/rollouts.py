"""The policy in the loop."""

from __future__ import annotations

import torch

from taichi_sim import State, Trajectory
from tasks import Task


@torch.no_grad()
def closed_loop(task: Task, policy, start: State, N: int | None = None) -> Trajectory:
    """N steps (default: the task's horizon) of a[:, t] = policy(observation of row t)."""
    rows = task.simulator.begin(start, task.N if N is None else N)
    for t in range(rows.a.shape[1]):
        rows.a[:, t] = policy(task.observe(rows.x[:, t], rows.v[:, t], rows.p[:, t]))
        task.simulator.advance(rows, t)
    return rows
