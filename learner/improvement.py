"""Improving rollouts (paper, Algorithm 1): a direction and a line search, and again where that is worth it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from taichi_sim import Trajectory
from tasks import Task

from .directions import Direction
from .line_search import ROWS, Improvement, line_search

WORTH = 1e-3  # of its cost: a rollout that gained less is not improved again


def improve(
    task: Task,
    trajectory: Trajectory,
    find_direction: Callable[[Task, Trajectory], Direction],
    most: int,
    lap: Callable[[str], None] = lambda phase: None,
) -> Improvement:
    """At most `most` directions and line searches; only the rollouts that gained more than `WORTH` go on.

    lap: called with "direction" and "line_search" after each
    Returns values and rows of the last, α of the first.
    """

    def once(rows: Trajectory) -> Improvement:
        direction = find_direction(task, rows)
        lap("direction")
        found = line_search(task, rows, direction)
        lap("line_search")
        return found

    best = again = once(trajectory)
    open_ = torch.arange(len(trajectory), device=best.value.device)
    for _ in range(most - 1):
        open_ = open_[again.gain > WORTH * again.value.abs()]
        if not len(open_):
            break
        again = once(best.trajectory[open_])
        for name in ROWS:
            getattr(best.trajectory, name)[open_] = getattr(again.trajectory, name)
        best.value[open_] = again.value
    return best
