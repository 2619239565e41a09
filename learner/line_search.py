"""How far to go: a backtracking line search for every rollout by itself."""

from __future__ import annotations

import dataclasses

import torch

from taichi_sim import Trajectory
from tasks import Task

from .directions import SUFFICIENT, Direction

HALVINGS = 12
ABREAST = {"cpu": 1, "cuda": HALVINGS}  # of them, the most that are tried at once
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
        if len(parts) == 1:
            return parts[0]
        values = (torch.cat([getattr(p, name) for p in parts]) for name in ("value", "value_before", "alpha"))
        return Improvement(Trajectory.joined([p.trajectory for p in parts]), *values)

    @property
    def gain(self) -> torch.Tensor:
        """V(ā) − V(π) (B,), zero for rollouts that failed before."""
        return torch.where(self.value_before > -torch.inf, self.value - self.value_before, 0.0)


def line_search(task: Task, trajectory: Trajectory, direction: Direction) -> Improvement:
    """The first of α = 1, ½, ¼, … with which V rises by a share of what the slope predicts (Armijo).

    Only rollouts still without an α are simulated again, on a GPU with as many α at once as leave it no more rollouts
    than there are: there a few take as long as all. A failed rollout has V = −inf and is never taken.
    """
    before = task.returns(trajectory)
    value, alpha = before.clone(), torch.zeros_like(before)
    open_ = torch.nonzero(trajectory.ok & (direction.slope < 0)).flatten()
    best = None if 0 < len(open_) == len(trajectory) else _copy(trajectory)
    sizes = 0.5 ** torch.arange(HALVINGS, dtype=alpha.dtype, device=alpha.device)
    while len(open_) and len(sizes):
        many = min(len(trajectory) // len(open_), ABREAST[alpha.device.type])
        tried, sizes = sizes[:many], sizes[many:]
        rows, size = open_.repeat(len(tried)), tried.repeat_interleave(len(open_))
        actions = (trajectory.a[rows] + size[:, None, None] * direction.step[rows]).clamp(-task.limit, task.limit)
        trial = task.simulator.rollout(trajectory.start[rows], actions)
        trial_value = task.returns(trial)
        good = trial_value > before[rows] - SUFFICIENT * size * direction.slope[rows]
        good = good.view(len(tried), len(open_))
        found, first = good.any(0), good.int().argmax(0)
        took, its = open_[found], (first * len(open_) + torch.arange(len(open_), device=first.device))[found]
        if best is None:  # all have tried, and most of them take it
            best, lost = dataclasses.replace(trial, start=trajectory.start), torch.nonzero(~found).flatten()
            _put(best, lost, trajectory, lost)
        else:
            _put(best, took, trial, its)
        value[took], alpha[took] = trial_value[its], size[its]
        open_ = open_[~found]
    return Improvement(best, value, before, alpha)


def _copy(trajectory: Trajectory) -> Trajectory:
    return dataclasses.replace(trajectory, **{name: getattr(trajectory, name).clone() for name in ROWS})


def _put(best: Trajectory, places: torch.Tensor, other: Trajectory, rows: torch.Tensor):
    """Overwrite rollouts of `best` by those of `other`."""
    for name in ROWS:
        getattr(best, name)[places] = getattr(other, name)[rows]
