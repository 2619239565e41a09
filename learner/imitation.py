"""Fitting the policy to improved actions (Eq. 7)."""

from __future__ import annotations

import dataclasses

import torch

from taichi_sim import Trajectory
from tasks import Task

from . import seeds
from .graphs import replayed, set_rate
from .training import Training, cosine

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
        rows = trajectory.only(torch.nonzero(trajectory.ok).flatten())
        observations = task.observe(rows.x[:, :-1], rows.v[:, :-1], rows.p[:, :-1])
        return Samples(observations.flatten(0, 1).float(), rows.a.flatten(0, 1).float())

    @classmethod
    def joined(cls, parts: list[Samples]) -> Samples:
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in dataclasses.fields(cls)))

    def loss(self, policy) -> torch.Tensor:
        """Σ ½‖π(o) − a‖²."""
        return 0.5 * (policy(self.observations) - self.actions).square().sum()

    def __len__(self):
        return len(self.actions)

    def __getitem__(self, rows) -> Samples:
        """The samples selected by a slice, a mask or an index tensor."""
        return type(self)(*(getattr(self, f.name)[rows] for f in dataclasses.fields(self)))


def imitate(policy, optimiser, samples: Samples, steps: int, batch: int, rates, seed: int, epoch: int) -> float:
    """`steps` gradient steps on L, the mean of `Samples.loss` over `batch` samples each (0: over all of them).

    `rates` yields the learning rate of each step. Returns the mean loss. Which samples are taken is a function of
    (seed, epoch) alone.
    """
    generator = torch.Generator().manual_seed(seeds.number(seeds.BATCHES, seed, epoch))
    device = samples.actions.device
    total = torch.zeros((), dtype=torch.float64, device=device)
    some, piece = 0 < batch < len(samples), PIECE[device.type]
    count = batch if some else len(samples)
    index = torch.empty(count, dtype=torch.int64, device=device)

    def step():
        chosen = samples[index] if some else samples
        optimiser.zero_grad()
        for first in range(0, count, piece):
            loss = chosen[first : first + piece].loss(policy) / count
            loss.backward()
            total.add_(loss.detach())
        optimiser.step()

    step = replayed(step, device)
    for _, rate in zip(range(steps), rates, strict=False):
        set_rate(optimiser, rate)
        if some:
            index.copy_(torch.randint(len(samples), (batch,), generator=generator), non_blocking=True)
        step()
    return total.item() / max(steps, 1)


def schedule(config, epoch: int):
    """The learning rate of each imitation step of an epoch."""
    return (cosine(config, epoch + step / config.steps) for step in range(config.steps))


def remember(memory: list[Samples]) -> dict[str, torch.Tensor]:
    """The samples of several epochs as tensors for a checkpoint."""
    fields = [(n, f.name) for n, samples in enumerate(memory) for f in dataclasses.fields(samples)]
    return {f"memory/{n:03d}/{name}": getattr(memory[n], name) for n, name in fields}


def remembered(kind: type[Samples], training: Training, **sizes: tuple[int, ...]) -> list[Samples]:
    """What `remember` put into the training's checkpoint; `sizes`: of one sample's numbers, by field."""
    memory, device = [], training.task.simulator.device
    for n in sorted({name.split("/")[1] for name in training.tensors if name.startswith("memory/")}):
        rows = len(training.tensors.get(f"memory/{n}/actions", ()))
        fields = {name: torch.empty(rows, *size, device=device) for name, size in sizes.items()}
        memory.append(kind(**{name: training.tensor(f"memory/{n}/{name}", like) for name, like in fields.items()}))
    return memory
