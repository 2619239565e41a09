"""The best known cost of each test state, by trajectory optimisation from several beginnings.

A reference only ever improves: whatever finds a cheaper rollout of a test state replaces that state's entry.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from taichi_sim import State, Trajectory
from tasks import TEST_STATES, Task

from . import seeds
from .directions import gauss_newton
from .files import write
from .line_search import line_search
from .objective import cost_gradient, projected_gradient

FOLDER = Path(__file__).parent / "references"
TOLERANCE = 1e-5  # ‖projected gradient‖ relative to the gradient without motion, for a state to count as converged
ITERATIONS = 160
CHUNK = 500  # rollouts optimised side by side


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """cost: (1000,) float64, what `actions` cost, to round-off
    actions: (1000, N, m) float32
    converged: (1000,) bool, whether the projected gradient is below tolerance
    origin: (1000,) int32, which beginning led there: 0 rest, 1 a random motion, 2 a policy's rollout
    """

    cost: torch.Tensor
    actions: torch.Tensor
    converged: torch.Tensor
    origin: torch.Tensor


def path(task: Task) -> Path:
    return FOLDER / f"{task.name}.safetensors"


def load(task: Task) -> Reference | None:
    """The shipped reference of `task`, None if there is none or it belongs to another definition of the task."""
    try:
        with safe_open(path(task), "pt") as file:
            if file.metadata().get("digest") != task.digest():
                return None
            return Reference(**{field.name: file.get_tensor(field.name) for field in dataclasses.fields(Reference)})
    except (FileNotFoundError, SafetensorError):
        return None


def store(task: Task, reference: Reference):
    tensors = {field.name: getattr(reference, field.name) for field in dataclasses.fields(Reference)}
    metadata = {"digest": task.digest(), "task": json.dumps(task.definition(), sort_keys=True)}
    write(path(task), save(tensors, metadata))


def improve(
    task: Task,
    old: Reference | None,
    policies=(),
    motions: int = 1,
    iterations: int = ITERATIONS,
    report=lambda line: None,
) -> Reference:
    """Optimise every test state from `old` or from rest, `motions` random motions and each policy's rollouts.

    The actions of `old` are simulated first: its costs are those of this simulator, whatever build stored them.
    """
    start = task.test_states()
    best = old and _costed(task, start, old)
    for name, origin, actions in beginnings(task, start, old, policies, motions):
        found = [
            optimise(task, start[part], actions[part], iterations) for part in torch.arange(TEST_STATES).split(CHUNK)
        ]
        new = Reference(
            torch.cat([f.cost for f in found]),
            torch.cat([f.actions for f in found]),
            torch.cat([f.converged for f in found]),
            torch.full((TEST_STATES,), origin, dtype=torch.int32) if origin is not None else best.origin,
        )
        best, won = _merge(best, new)
        share = best.converged.double().mean().item()
        report(f"{name}: {won} states improved, mean cost {best.cost.mean():.6g}, {share:.1%} converged")
    return best


def beginnings(task: Task, start: State, old: Reference | None, policies, motions: int):
    """(name, origin, actions (1000, N, m)) to optimise from."""
    from .rollouts import closed_loop

    simulator, m = task.simulator, task.system.actions
    if old is not None:
        yield "as stored", None, old.actions.to(simulator.device, simulator.dtype)
    else:
        yield "rest", 0, torch.zeros(TEST_STATES, task.N, m, dtype=simulator.dtype, device=simulator.device)
    for n in range(motions):
        generator = np.random.default_rng((seeds.MOTIONS, n))
        phase, amplitude = generator.random((2, TEST_STATES, 1, m))
        t = np.arange(task.N)[:, None] * task.h
        wave = task.limit * amplitude * np.sin(2 * np.pi * (0.7 * t + phase)) * np.exp(-t)
        yield f"random motion {n}", 1, torch.as_tensor(wave).to(simulator.device, simulator.dtype)
    for n, policy in enumerate(policies):
        yield f"policy {n}", 2, closed_loop(task, policy, start).a


def optimise(task: Task, start: State, actions: torch.Tensor, iterations: int = ITERATIONS) -> Reference:
    """Gauss–Newton with line search, `iterations` times or until the projected gradient vanishes.

    Damping grows only where that stalls.
    """
    simulator = task.simulator
    still = simulator.rollout(start, torch.zeros_like(actions))
    scale = cost_gradient(task, still).flatten(1).norm(dim=1)
    rows = simulator.rollout(start, actions)
    damping = torch.zeros_like(scale)
    open_ = torch.nonzero(rows.ok).flatten()
    parts = {name: getattr(rows, name) for name in ("x", "v", "p", "a", "status", "iterations")}
    for _ in range(iterations):
        left = _projected(task, rows[open_]) > 0.1 * TOLERANCE * scale[open_]
        open_ = open_[left & (damping[open_] < 1e6)]
        if not len(open_):
            break
        here = rows[open_]
        step = line_search(task, here, gauss_newton(task, here, damping[open_]))
        for name, tensor in parts.items():
            tensor[open_] = getattr(step.trajectory, name)
        poor, eased = step.alpha < 0.2, damping[open_] / 4
        eased = torch.where(eased < 1e-6, 0.0, eased)
        damping[open_] = torch.where(poor, (damping[open_] * 4).clamp(min=1e-3), eased)
    rounded = simulator.rollout(start, rows.a.float().to(simulator.dtype))
    return Reference(
        -task.returns(rounded).double().cpu(),
        rounded.a.float().cpu(),
        (_projected(task, rounded) <= TOLERANCE * scale).cpu() & rounded.ok.cpu(),
        torch.zeros(len(scale), dtype=torch.int32),
    )


def _projected(task: Task, rows: Trajectory) -> torch.Tensor:
    return projected_gradient(rows.a, cost_gradient(task, rows), task.limit).flatten(1).norm(dim=1)


def _costed(task: Task, start: State, old: Reference) -> Reference:
    parts = torch.arange(TEST_STATES).split(CHUNK)
    actions = old.actions.to(task.simulator.device, task.simulator.dtype)
    costs = [-task.returns(task.simulator.rollout(start[part], actions[part])).double().cpu() for part in parts]
    return dataclasses.replace(old, cost=torch.cat(costs))


def _merge(old: Reference | None, new: Reference) -> tuple[Reference, int]:
    """The cheaper entry of each state, and how many are new."""
    if old is None:
        return new, len(new.cost)
    take = new.cost < old.cost
    pick = {}
    for field in dataclasses.fields(Reference):
        a, b = getattr(new, field.name), getattr(old, field.name)
        pick[field.name] = torch.where(take.view(-1, *[1] * (a.ndim - 1)), a, b)
    return Reference(**pick), int(take.sum())
