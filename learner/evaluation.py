"""How good a policy is: one function for every learner, on the task's 1,000 test states."""

from __future__ import annotations

import torch

from taichi_sim.errors import expect
from tasks import TEST_STATES, Task

from .reference import Reference
from .rollouts import closed_loop

AFTER = 10  # steps after the horizon over which the terminal kinetic energy is averaged, the policy still acting
LAST = 10  # rows over which the final distance is averaged


def evaluate(task: Task, policy, reference: Reference | None = None, states: int = TEST_STATES) -> dict:
    """The five metrics of a policy (a function of observations) on the first `states` test states.

    return, return_std: of Σ r over the horizon
    terminal_kinetic_energy: J, mean over the 10 steps after the horizon (paper, figure 8)
    final_distance: m, mean over points and the last 10 rows of ‖x − x*‖; None where the reward ignores x
    handle_speed: m/s, mean ‖E a‖ over handles (figure 10)
    optimality_gap: (mean cost − mean best known cost) / mean best known cost; None without a reference
    failed: rollouts with a step that did not converge; the means are over the others
    better_than_reference: states on which the policy costs less than the best known actions
    """
    rows = closed_loop(task, policy, task.test_states(states), task.N + AFTER)
    ok = rows.ok
    expect(bool(ok.any()), "policy", "a rollout that does not fail", f"{states} failed ones")
    horizon = task.N + 1
    mass = torch.as_tensor(task.system.mass.copy()).to(rows.v.device, rows.v.dtype)
    kinetic = 0.5 * (mass * rows.v.square().sum(-1)).sum(-1)
    axes = torch.as_tensor(task.system.axes.copy()).to(rows.a.device, rows.a.dtype)
    handle = (rows.a[:, : task.N] @ axes.T).unflatten(-1, task.system.home.shape).norm(dim=-1)
    value = task.rewards(rows).sum(1)
    result = {
        "task": task.name,
        "task_digest": task.digest(),
        "states": states,
        "failed": int((~ok).sum()),
        "return": value[ok].mean().item(),
        "return_std": value[ok].std(correction=0).item(),
        "terminal_kinetic_energy": kinetic[ok, horizon:].mean().item(),
        "final_distance": None,
        "handle_speed": handle[ok].mean().item(),
        "optimality_gap": None,
        "better_than_reference": None,
    }
    if task.reward.w_x > 0:
        far = (rows.x[:, horizon - LAST : horizon] - task.goal).norm(dim=-1)
        result["final_distance"] = far[ok].mean().item()
    if reference is not None:
        best = reference.cost[:states].to(value.device)
        result["optimality_gap"] = ((-value[ok]).mean() / best[ok].mean() - 1).item()
        result["better_than_reference"] = int((-value[ok] < best[ok] * (1 - 1e-9)).sum())
        result["reference_converged"] = reference.converged[:states].double().mean().item()
    return result
