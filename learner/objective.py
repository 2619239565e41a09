"""Derivatives of the cost −V of rollouts by the actions."""

from __future__ import annotations

import torch

from taichi_sim import Trajectory
from taichi_sim.box import AT
from tasks import Task


def cost_gradient(task: Task, trajectory: Trajectory) -> torch.Tensor:
    """d(−V)/da (B, N, m), Eq. 5: the partial derivatives, then one adjoint sweep.

    Zero for failed rollouts.
    """
    gx, gv, gp, ga = task.cost_slopes(trajectory)
    adjoint = task.simulator.vjp(trajectory, gx, gv, gp).a
    return torch.where(trajectory.ok[:, None, None], adjoint + ga, 0.0)


def hessian_product(task: Task, trajectory: Trajectory, delta: torch.Tensor) -> torch.Tensor:
    """Ĥ δ = SᵀQSδ + Rδ (B, N, m), Eq. 13 times δ, by one forward and one adjoint sweep."""
    simulator, system = task.simulator, task.system
    q, r = task.curvature(delta.shape[1])
    dx, dv, dp = simulator.jvp(trajectory, delta)
    qp, qx, qv = q.split((system.actions, system.points * system.dim, system.points * system.dim), -1)
    dx[:, 1:] *= qx.unflatten(-1, dx.shape[2:])  # row 0, the start, stays zero
    dv[:, 1:] *= qv.unflatten(-1, dv.shape[2:])
    axes = torch.as_tensor(system.axes.copy()).to(dp.device, dp.dtype)
    dp[:, 1:] = (dp[:, 1:].flatten(2) @ axes * qp @ axes.T).unflatten(-1, dp.shape[2:])
    return simulator.vjp(trajectory, dx, dv, dp).a + r * delta


def held_actions(actions: torch.Tensor, g: torch.Tensor, limit: float, margin: float = AT) -> torch.Tensor:
    """(B, N, m) bool, where an action is at its limit, to `margin` of it, and −g points outward."""
    near = (1 - margin) * limit
    return ((actions <= -near) & (g > 0)) | ((actions >= near) & (g < 0))


def projected_gradient(actions: torch.Tensor, g: torch.Tensor, limit: float) -> torch.Tensor:
    """The part of the cost gradient g that can be followed downhill within ±limit; zero at a constrained optimum."""
    return torch.where(held_actions(actions, g, limit), 0.0, g)
