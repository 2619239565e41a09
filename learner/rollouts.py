"""The policy in the loop, without and with derivatives."""

from __future__ import annotations

import torch

from taichi_sim import State, Status, Trajectory
from tasks import Task

from .policy import SCALE_SEED, SCALE_STATES


@torch.no_grad()
def closed_loop(task: Task, policy, start: State, N: int | None = None) -> Trajectory:
    """N steps (default: the task's horizon) of a[:, t] = policy(observation of row t)."""
    rows = task.simulator.begin(start, task.N if N is None else N)
    for t in range(rows.a.shape[1]):
        rows.a[:, t] = policy(task.observe(rows.x[:, t], rows.v[:, t], rows.p[:, t]))
        task.simulator.advance(rows, t)
    return rows


def differentiable(task: Task, act, state: State, N: int) -> tuple[torch.Tensor, torch.Tensor, State, torch.Tensor]:
    """N closed-loop steps from `state`, with a graph through the simulator's adjoint and through `act`.

    act: observations (B, n_s) -> actions (B, m)

    Returns rewards (B, N), observations (B, N+1, n_s), the state after the last step, and ok (B,). A rollout with a
    failed step is not ok; it repeats its last good row and hands no gradient back.
    """
    rows, actions, seen = [], [], [task.observe(state.x, state.v, state.p)]
    ok = torch.ones(len(state), dtype=torch.bool, device=state.x.device)
    for _ in range(N):
        actions.append(act(seen[-1]).to(state.x.dtype))
        state, status = task.simulator.step(state, actions[-1])
        ok = ok & (status == Status.OK)
        rows.append(state)
        seen.append(task.observe(state.x, state.v, state.p))
    x, v, p = (torch.stack([getattr(row, name) for row in rows], 1) for name in ("x", "v", "p"))
    return task.row_rewards(x, v, p, torch.stack(actions, 1)), torch.stack(seen, 1), state, ok


@torch.no_grad()
def resting_cost(task: Task) -> float:
    """Mean cost of a step while the handles stand still: the unit of learners that want rewards of order one."""
    start = task.start(SCALE_SEED, SCALE_STATES)
    rows = task.simulator.begin(start, task.N)
    for t in range(task.N):
        task.simulator.advance(rows, t)
    return -task.rewards(rows)[rows.ok].mean().item()
