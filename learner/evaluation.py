"""How good a policy is: one function for every learner, on the task's 1,000 test states."""

from __future__ import annotations

import torch

from taichi_sim import Trajectory
from taichi_sim.errors import expect
from tasks import TEST_STATES, Task

from .reference import Reference
from .rollouts import closed_loop

AFTER = 10  # steps after the horizon over which the terminal kinetic energy is averaged, the policy still acting
LAST = 10  # rows over which the final distance is averaged


def metrics(task: Task, rows: Trajectory) -> dict[str, torch.Tensor]:
    """(B,) each, of rollouts of N + `AFTER` steps.

    return: Σ r over the horizon
    terminal_kinetic_energy: J, mean over the 10 steps after the horizon (paper, figure 8)
    final_distance: m, mean over points and the last 10 rows, or all of fewer, of ‖x − x*‖ (figure 9)
    handle_speed: m/s, mean ‖E a‖ over handles and the horizon (figure 10)
    """
    horizon = task.N + 1
    mass = torch.as_tensor(task.system.mass.copy()).to(rows.v.device, rows.v.dtype)
    kinetic = 0.5 * (mass * rows.v.square().sum(-1)).sum(-1)
    axes = torch.as_tensor(task.system.axes.copy()).to(rows.a.device, rows.a.dtype)
    handle = (rows.a[:, : task.N] @ axes.T).unflatten(-1, task.system.home.shape).norm(dim=-1)
    far = (rows.x[:, max(1, horizon - LAST) : horizon] - task.goal).norm(dim=-1)
    return {
        "return": task.rewards(rows).sum(1),
        "terminal_kinetic_energy": kinetic[:, horizon:].mean(1),
        "final_distance": far.mean((1, 2)),
        "handle_speed": handle.mean((1, 2)),
    }


def evaluate(task: Task, policy, reference: Reference | None = None, states: int = TEST_STATES) -> dict:
    """The means of `metrics` of a policy (a function of observations) on the first `states` test states, and

    return_std: spread of the returns over the states
    final_distance: None where the reward ignores x
    optimality_gap: (mean cost − mean best known cost) / mean best known cost; None without a reference
    failed: rollouts with a step that did not converge; the means are over the others
    better_than_reference: states on which the policy costs less than the best known actions
    """
    rows = closed_loop(task, policy, task.test_states(states), task.N + AFTER)
    ok = rows.ok
    expect(bool(ok.any()), "policy", "a rollout that does not fail", f"{states} failed ones")
    found = metrics(task, rows[ok])
    result = {
        "task": task.name,
        "task_digest": task.digest(),
        "states": states,
        "failed": int((~ok).sum()),
        "return_std": found["return"].std(correction=0).item(),
        **{name: values.mean().item() for name, values in found.items()},
        "optimality_gap": None,
        "better_than_reference": None,
    }
    if task.reward.w_x == 0:
        result["final_distance"] = None
    if reference is not None:
        cost, best = -found["return"], reference.cost[:states].to(ok.device)[ok]
        result["optimality_gap"] = (cost.mean() / best.mean() - 1).item()
        result["better_than_reference"] = int((cost < best * (1 - 1e-9)).sum())
        result["reference_converged"] = reference.converged[:states].double().mean().item()
    return result
