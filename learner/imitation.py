"""Fitting the policy to improved actions (Eq. 7)."""

from __future__ import annotations

import dataclasses

import torch

from taichi_sim import Trajectory
from tasks import Task

from . import seeds

# Samples differentiated at a time. On a CPU a step on 600,000 samples takes 2.4 s in pieces of 4,096, whose activations
# stay in the cache, and 4.6 s in one (two cores); a GPU wants large pieces.
PIECE = {"cpu": 4096, "cuda": 2**18}


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """What the policy is fitted to, float32.

    observations: (n, n_s)    actions: (n, m)
    """

    observations: torch.Tensor
    actions: torch.Tensor

    @staticmethod
    def of(task: Task, trajectory: Trajectory) -> Samples:
        """Every (row t, action t) of the rollouts that did not fail."""
        rows = trajectory[trajectory.ok]
        observations = task.observe(rows.x[:, :-1], rows.v[:, :-1], rows.p[:, :-1])
        return Samples(observations.flatten(0, 1).float(), rows.a.flatten(0, 1).float())

    @staticmethod
    def joined(parts: list[Samples]) -> Samples:
        return Samples(torch.cat([p.observations for p in parts]), torch.cat([p.actions for p in parts]))

    def __len__(self):
        return len(self.actions)


def imitate(policy, optimiser, samples: Samples, steps: int, batch: int, rates, seed: int, epoch: int) -> float:
    """`steps` gradient steps on L = mean ½‖π(o) − a‖² over `batch` samples each (0: over all of them).

    `rates` yields the learning rate of each step. Returns the mean loss. Which samples are taken is a function of
    (seed, epoch) alone.
    """
    generator = torch.Generator().manual_seed(seeds.number(seeds.BATCHES, seed, epoch))
    piece = PIECE[samples.actions.device.type]
    total = 0.0
    for _, rate in zip(range(steps), rates, strict=False):
        for group in optimiser.param_groups:
            group["lr"] = rate
        chosen = samples
        if 0 < batch < len(samples):
            index = torch.randint(len(samples), (batch,), generator=generator).to(samples.actions.device)
            chosen = Samples(samples.observations[index], samples.actions[index])
        optimiser.zero_grad()
        for rows in torch.arange(len(chosen)).split(piece):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            error = policy(chosen.observations[part]) - chosen.actions[part]
            loss = 0.5 * error.square().sum() / len(chosen)
            loss.backward()
            total += loss.item()
        optimiser.step()
    return total / max(steps, 1)
