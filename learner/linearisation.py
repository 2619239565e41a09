"""Dynamics, policy and cost along rollouts, in the state that BDF2 needs: s = [x, x₋₁, v, v₋₁, π].

x, v are point coordinates (D = P·d numbers each), x₋₁, v₋₁ those one row earlier, π the actuated handle coordinates
(m numbers): n = 4D + m in all, as in `GaussNewtonStep.gains`.
"""

from __future__ import annotations

import torch

from taichi_sim import Simulator, State, Trajectory
from taichi_sim.mechanics import BDF2
from tasks import Task


def state_vector(simulator: Simulator, trajectory: Trajectory, t: int) -> torch.Tensor:
    """s of row t (B, n)."""
    state = trajectory.state(t)
    parts = (state.x, state.x_prev, state.v, state.v_prev)
    return torch.cat((*(part.flatten(1) for part in parts), state.p.flatten(1) @ _axes(simulator)), 1)


def dynamics(simulator: Simulator, trajectory: Trajectory) -> torch.Tensor:
    """[A B] (B, N, n, n + m) of δs_{t+1} = A_t δs_t + B_t δa_t: derivatives of the converged steps.

    Every row becomes a rollout of one step, and forward sweeps with unit tangents give the columns. The past enters a
    BDF step by c₁ x + c₂ x₋₁ and c₁ v + c₂ v₋₁ alone, so its columns are c₂/c₁ times those of the present; in the
    first step (BDF1) they are zero.
    """
    B, N, m = trajectory.a.shape
    D = trajectory.x[0, 0].numel()
    n = 4 * D + m
    steps = _single_steps(trajectory)
    none = steps.start
    zeros = State(*(torch.zeros_like(y) for y in (none.x, none.v, none.p, none.x, none.v)), first=none.first)
    still, axes = torch.zeros_like(steps.a), _axes(simulator)
    AB = torch.zeros(B * N, n, n + m, dtype=trajectory.x.dtype, device=trajectory.x.device)

    def fill(column, da, start):
        dx, dv, dp = simulator.jvp(steps, da, start)
        AB[:, :D, column], AB[:, 2 * D : 3 * D, column] = dx[:, 1].flatten(1), dv[:, 1].flatten(1)
        AB[:, 4 * D :, column] = dp[:, 1].flatten(1) @ axes

    for i in range(D):
        for column, name in ((i, "x"), (2 * D + i, "v")):
            tangent = getattr(zeros, name).flatten(1)
            tangent[:, i] = 1.0
            fill(column, still, zeros)
            tangent[:, i] = 0.0
    for j in range(m):
        zeros.p.flatten(1)[:] = axes[:, j]
        fill(4 * D + j, still, zeros)
    zeros.p.zero_()
    for j in range(m):
        still[:, 0, j] = 1.0
        fill(n + j, still, zeros)
        still[:, 0, j] = 0.0

    past = torch.where(none.first, 0.0, BDF2[2] / BDF2[1])[:, None, None]
    AB[:, :, D : 2 * D] = past * AB[:, :, :D]
    AB[:, :, 3 * D : 4 * D] = past * AB[:, :, 2 * D : 3 * D]
    one = torch.arange(D, device=AB.device)
    AB[:, D + one, one] = AB[:, 3 * D + one, 2 * D + one] = 1.0
    return AB.unflatten(0, (B, N))


def policy_gain(task: Task, policy, trajectory: Trajectory) -> torch.Tensor:
    """dπ/ds (B, N, m, n) at rows 0…N−1 by autograd through the observation; the policy does not look back."""
    rows = [getattr(trajectory, name)[:, :-1].detach().requires_grad_() for name in ("x", "v", "p")]
    with torch.enable_grad():
        actions = policy(task.observe(*rows))
    gain = []
    for j in range(actions.shape[-1]):
        g = torch.autograd.grad(actions[..., j].sum(), rows, retain_graph=True, materialize_grads=True)
        gain.append(_into_state(task.simulator, *g))
    return torch.stack(gain, 2)


def cost_gradients(task: Task, trajectory: Trajectory) -> tuple[torch.Tensor, torch.Tensor]:
    """∂c/∂s (B, N, n) of rows 1…N and ∂c/∂a (B, N, m) of the cost c = −r."""
    gx, gv, gp, ga = task.cost_slopes(trajectory)
    return _into_state(task.simulator, gx[:, 1:], gv[:, 1:], gp[:, 1:]), ga


def cost_curvature(task: Task, N: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Diagonals of ∂²c/∂s² (1, N, n) of rows 1…N and ∂²c/∂a² (1, N, m)."""
    q, r = task.curvature(N)
    D, m = task.system.points * task.system.dim, task.system.actions
    qp, qx, qv = q.split((m, D, D), -1)
    return torch.cat((qx, torch.zeros_like(qx), qv, torch.zeros_like(qv), qp), -1), r


def _into_state(simulator, gx, gv, gp):
    """Derivatives by rows of x, v and p, as derivatives by s."""
    gx, gv = gx.flatten(2), gv.flatten(2)
    return torch.cat((gx, torch.zeros_like(gx), gv, torch.zeros_like(gv), gp.flatten(2) @ _axes(simulator)), -1)


def _axes(simulator: Simulator) -> torch.Tensor:
    """(H·d, m): which coordinate of the handles each action drives."""
    return torch.as_tensor(simulator.system.axes.copy()).to(simulator.device, simulator.dtype)


def _single_steps(trajectory: Trajectory) -> Trajectory:
    """B·N rollouts of one step each; the first step of a rollout without history stays one."""
    start = trajectory.start
    pairs = (torch.stack((rows[:, :-1], rows[:, 1:]), 2) for rows in (trajectory.x, trajectory.v, trajectory.p))
    x, v, p = (pair.flatten(0, 1) for pair in pairs)
    before = (
        torch.cat((first[:, None], rows[:, :-2]), 1).flatten(0, 1)
        for first, rows in ((start.x_prev, trajectory.x), (start.v_prev, trajectory.v))
    )
    first = torch.zeros_like(trajectory.status, dtype=torch.bool)
    first[:, 0] = start.first
    state = State(x[:, 0], v[:, 0], p[:, 0], *before, first.flatten())
    counts = (rows.reshape(-1, 1) for rows in (trajectory.status, trajectory.iterations))
    return Trajectory(x, v, p, trajectory.a.reshape(-1, 1, trajectory.a.shape[2]), *counts, state)
