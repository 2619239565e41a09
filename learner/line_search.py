"""How far to go: a backtracking line search for every rollout by itself."""

from __future__ import annotations

import dataclasses

import torch

from taichi_sim import Trajectory
from tasks import Task

from .directions import SUFFICIENT, Direction

HALVINGS = 12
ROWS = ("x", "v", "p", "a", "status", "iterations")  # what an improvement changes of a trajectory


@dataclasses.dataclass(frozen=True, eq=False)
class Improvement:
    """Each rollout at the first α that gained enough; the old rollout where none did.

    trajectory: B rollouts
    value, value_before: (B,) returns V; value ≥ value_before, −inf where the rollout failed
    alpha: (B,), 0 where nothing better was found
    """

    trajectory: Trajectory
    value: torch.Tensor
    value_before: torch.Tensor
    alpha: torch.Tensor

    @staticmethod
    def joined(parts: list[Improvement]) -> Improvement:
        values = (torch.cat([getattr(p, name) for p in parts]) for name in ("value", "value_before", "alpha"))
        return Improvement(Trajectory.joined([p.trajectory for p in parts]), *values)

    @property
    def gain(self) -> torch.Tensor:
        """V(ā) − V(π) (B,), zero for rollouts that failed before."""
        return torch.where(self.value_before > -torch.inf, self.value - self.value_before, 0.0)


def line_search(task: Task, trajectory: Trajectory, direction: Direction) -> Improvement:
    """Try α = 1, ½, ¼, … until V rises by a share of what the slope predicts (Armijo).

    Only rollouts still without an α are simulated again; a failed rollout has V = −inf and is never taken.
    """
    best = dataclasses.replace(trajectory, **{name: getattr(trajectory, name).clone() for name in ROWS})
    before = task.returns(trajectory)
    value, alpha = before.clone(), torch.zeros_like(before)
    open_ = torch.nonzero(trajectory.ok & (direction.slope < 0)).flatten()
    for halvings in range(HALVINGS):
        if not len(open_):
            break
        size = 0.5**halvings
        actions = (trajectory.a[open_] + size * direction.step[open_]).clamp(-task.limit, task.limit)
        trial = task.simulator.rollout(trajectory.start[open_], actions)
        trial_value = task.returns(trial)
        good = trial_value > before[open_] - SUFFICIENT * size * direction.slope[open_]
        took = open_[good]
        for name in ROWS:
            getattr(best, name)[took] = getattr(trial, name)[good]
        value[took], alpha[took] = trial_value[good], size
        open_ = open_[~good]
    return Improvement(best, value, before, alpha)
