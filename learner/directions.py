"""Where to move the actions of each rollout: steepest descent (Eq. 6) or Gauss–Newton (Eq. 13–14).

Everything is stated for the cost −V. The paper's Eq. 14 ascends V with a matrix Ĥ that is positive definite only
as the Hessian of the cost: Ĥ δa = −∇(cost).
"""

from __future__ import annotations

import dataclasses

import torch

from taichi_sim import Trajectory
from taichi_sim.box import AT, HALVINGS, ITERATIONS, MARGIN, SHRINK, SUFFICIENT
from tasks import Task

from .objective import cost_gradient, held_actions, hessian_product, projected_gradient

# Of the model's projected gradient, relative to the one at δ = 0: where a solve is direct, and where it is iterative.
# An iteration improves rope and cloth as much with 0.3 as with 1e-6, in a sixth to a twelfth of the time, and in half
# that of 0.03 (benchmarks/directions.py).
EXACT, TRUNCATED = 1e-9, 0.3
ROUND_OFF = 1e-13  # of the gradient
SHARE = 0.2  # of the model's gradient that an iterative solve leaves, see `gauss_newton`


@dataclasses.dataclass(frozen=True, eq=False)
class Direction:
    """Actions + α·step lie within the limits for 0 ≤ α ≤ 1.

    step: (B, N, m) m/s
    slope: (B,) derivative of the cost along it, ≤ 0
    """

    step: torch.Tensor
    slope: torch.Tensor


def steepest_descent(task: Task, trajectory: Trajectory) -> Direction:
    """−∇(cost), projected; at α = 1 the action that changes most changes by the whole velocity limit (Eq. 6)."""
    g = cost_gradient(task, trajectory)
    step = -projected_gradient(trajectory.a, g, task.limit)
    largest = step.abs().amax((1, 2), keepdim=True).clamp(min=torch.finfo(g.dtype).tiny)
    step = (trajectory.a + step * (task.limit / largest)).clamp(-task.limit, task.limit) - trajectory.a
    return Direction(step, (g * step).sum((1, 2)))


def gauss_newton(
    task: Task, trajectory: Trajectory, damping: torch.Tensor | None = None, tolerance: float | None = None
) -> Direction:
    """argmin over a + δ within ±limit of the model  g·δ + ½ δᵀ(Ĥ + damping) δ  (Eq. 14 with bounds).

    It ends where the model's projected gradient is below `tolerance` times what it was: the optimality conditions of
    the bounded problem. Where a solve is direct, that is done by `Simulator.gauss_newton_boxed`, to 1e-9; where it is
    iterative, by the same projected Newton steps here, to 0.3, which makes this a truncated Newton step (Nocedal &
    Wright 2006, section 7.1).
    """
    simulator = task.simulator
    if tolerance is None:
        tolerance = EXACT if simulator.direct else TRUNCATED
    q, r = task.curvature(trajectory.a.shape[1])
    g = cost_gradient(task, trajectory)
    damping = torch.zeros_like(g[:, 0, 0]) if damping is None else damping
    goal = tolerance * projected_gradient(trajectory.a, g, task.limit).flatten(1).norm(dim=1)
    goal += ROUND_OFF * g.flatten(1).norm(dim=1)
    if simulator.direct:
        step = simulator.gauss_newton_boxed(trajectory, task.limit, goal, g, q, r, damping).da
    else:
        step = _projected_newton(task, trajectory, goal, g, q, r, damping)
    return Direction(step, (g * step).sum((1, 2)))


def _projected_newton(task, trajectory, goal, g, q, r, damping):
    """As `taichi_sim.box`, by conjugate gradients that leave a fifth of the model's gradient each time."""
    step, image = torch.zeros_like(g), torch.zeros_like(g)  # δ and (Ĥ + damping) δ
    open_ = torch.nonzero(trajectory.ok).flatten()
    for iteration in range(ITERATIONS):
        actions = trajectory.a[open_] + step[open_]
        model_slope = projected_gradient(actions, g[open_] + image[open_], task.limit)
        todo = model_slope.flatten(1).norm(dim=1) > goal[open_]
        open_ = open_[todo]
        if not len(open_):
            break
        rows, slope = trajectory.only(open_), (g + image)[open_]
        margin = max(MARGIN * SHRINK**iteration, AT)
        near = held_actions(actions[todo], slope, task.limit, margin)
        newton = task.simulator.gauss_newton_cg(rows, slope, q, r, damping[open_], ~near, SHARE).da
        newton = torch.where(near, -slope.sign() * task.limit - actions[todo], newton)
        found, moved, product = _shorten(task, rows, step[open_], newton, g[open_], image[open_], damping[open_])
        open_ = open_[found]
        step[open_], image[open_] = moved[found], product[found]
    return step


def _shorten(task, rows, step, newton, g, image, damping):
    """Clip step + α·newton to the box, α = 1, ½, … until the model falls; whether it did, the step and its image."""
    value = (step * (g + 0.5 * image)).sum((1, 2))
    slope = g + image
    step, image = step.clone(), image.clone()
    found = torch.zeros(len(g), dtype=torch.bool, device=g.device)
    for halvings in range(HALVINGS):
        open_ = torch.nonzero(~found).flatten()
        if not len(open_):
            break
        actions, old, bend = rows.a[open_], step[open_], damping[open_, None, None]
        trial = (actions + old + 0.5**halvings * newton[open_]).clamp(-task.limit, task.limit) - actions
        product = hessian_product(task, rows.only(open_), trial) + bend * trial
        predicted = (slope[open_] * (trial - old)).sum((1, 2))
        good = (trial * (g[open_] + 0.5 * product)).sum((1, 2)) <= value[open_] + SUFFICIENT * predicted
        good &= predicted < 0
        took = open_[good]
        step[took], image[took], found[took] = trial[good], product[good], True
    return found, step, image
