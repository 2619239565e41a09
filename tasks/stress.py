"""Does every step of a task converge, and is what it calls converged so? Many random rollouts at the velocity limit."""

from __future__ import annotations

import dataclasses

import torch

from taichi_sim import Status
from taichi_sim.residual import step_residual

from .task import Task

HOLDS = (1, 4, 16, 64)  # steps over which an action stays; the longest push a payload far away
SEED = 6  # first word of the seeds; no training and no test state uses it


@dataclasses.dataclass(frozen=True)
class Report:
    """steps: how many were taken
    failed: how many of them have another status than OK
    false: how many are called converged although the equations, evaluated a second time, are off by more than round-off
    not_finite: NaN or infinite numbers in the rows
    iterations: mean and largest number of linear solves a step
    """

    steps: int
    failed: int
    false: int
    not_finite: int
    iterations: tuple[float, int]

    @property
    def clean(self) -> bool:
        return self.failed == self.false == self.not_finite == 0


def stress(task: Task, steps: int, B: int = 128) -> Report:
    """At least `steps` steps from start states as in training, each action ±limit at random, held for 1 to 64 steps."""
    taken = failed = false = not_finite = solves = most = 0
    m, simulator = task.system.actions, task.simulator
    for n in range(-(-steps // (B * task.N))):
        generator = torch.Generator().manual_seed(n)
        hold = HOLDS[n % len(HOLDS)]
        signs = 2.0 * torch.randint(0, 2, (B, -(-task.N // hold), m), generator=generator).double() - 1.0
        actions = (task.limit * signs).repeat_interleave(hold, 1)[:, : task.N].to(simulator.device, simulator.dtype)
        rows = simulator.rollout(task.start((SEED, n), B), actions.contiguous())
        tried, good = rows.status != Status.NOT_RUN, rows.status == Status.OK
        G, bound = step_residual(simulator, rows)
        taken += int(tried.sum())
        failed += int((tried & ~good).sum())
        false += int((good & ~(G <= bound).all(-1)).sum())
        not_finite += sum(int((~torch.isfinite(t)).sum()) for t in (rows.x, rows.v, rows.p))
        solves += int(rows.iterations.sum())
        most = max(most, int(rows.iterations.max()))
    return Report(taken, failed, false, not_finite, (solves / taken, most))
