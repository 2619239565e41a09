"""Are a task's derivatives right? The return by every input, and the adjoint against the forward sweep."""

from __future__ import annotations

import torch

from taichi_sim import State
from taichi_sim.verification import adjoint_mismatch, taylor_rate_of_input

from .task import Task

RATE_ERROR = 0.05  # a Taylor rate of 2 ± this is right
MISMATCH = 1e-12  # of the two sweeps, relative, in float64


def motion(task: Task, start: State, generator: torch.Generator) -> torch.Tensor:
    """(B, N, m) actions at which to check: a slow and smooth swing. White noise, or a swing at the payload's own
    frequency, would throw stiff cables slack. Above a plane the handles also go home in the first half of the horizon,
    so that points touch and slide in the second."""
    t = task.h * torch.arange(task.N, device=start.x.device, dtype=start.x.dtype)[:, None]
    phase = torch.rand(len(start), 1, task.system.actions, generator=generator, dtype=torch.float64).to(t)
    swing = 0.3 * task.limit * torch.sin(2 * torch.pi * (0.3 * t + phase))
    if task.system.planes:
        half = task.N // 2
        away = task.observe(start.x, start.v, start.p)[:, None, : task.system.actions]
        swing[:, :half] -= away / (half * task.h)
    return swing.clamp(-task.limit, task.limit)


def check_derivatives(task: Task, states: int) -> tuple[dict[str, float], float]:
    """On the first `states` test states: the Taylor rate farthest from 2 of the return by x, v, p of the start and by
    the actions, and the largest relative mismatch of adjoint and forward sweep."""
    start, simulator = task.test_states(states), task.simulator
    generator = torch.Generator().manual_seed(0)
    swing = motion(task, start, generator)
    inputs = {"x": start.x, "v": start.v, "p": start.p, "actions": swing}

    def rate(name):
        def value(moved):
            copies = len(moved) // states
            many = {key: t.repeat(copies, *[1] * (t.ndim - 1)) for key, t in inputs.items()} | {name: moved}
            state = State.start(many["x"], many["v"], many["p"])
            return task.rewards(simulator.rollout(state, many["actions"])).sum(1)

        return taylor_rate_of_input(value, inputs[name], generator)

    rates = {name: rate(name) for name in inputs}
    return rates, adjoint_mismatch(simulator, simulator.rollout(start, swing), generator).max().item()
