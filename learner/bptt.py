"""BPTT: the policy's weights follow the gradient of the whole episode's return, through simulator and network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from tasks import Task

from . import seeds, settings
from .policy import Policy
from .rollouts import differentiable, resting_cost
from .run import Run
from .settings import setting
from .training import Training, cosine, pack, unpack


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.Config):
    """Settings of backpropagation through time."""

    steps: int = setting(4, "gradient steps an epoch, each on its share of the k rollouts", 1)
    rate: float = setting(1e-3, "Adam's learning rate at the start", 1e-9, 1.0)
    rate_end: float = setting(1e-5, "and at the end, along a cosine", 0.0, 1.0)
    clip: float = setting(1.0, "largest norm of a gradient, whose cost is in units of that without motion", 1e-9)


PRESETS = {
    "paper": {"epochs": 1000},
    "cpu": {"epochs": 200, "k": 128, "steps": 2, "clip": 0.1},
}


def loss(task: Task, policy, start) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cost −V of `start`'s rollouts that do not fail, as a function of the policy's weights; their returns."""
    rewards, _, _, ok = differentiable(task, policy, start, task.N)
    returns = rewards.sum(1)[ok]
    return -returns.mean(), returns.detach()


def train(task: Task, config: Config, run: Run, on_epoch: Callable[[dict], None] = lambda row: None) -> Policy:
    """Train a policy, from the run's newest checkpoint if it has one; returns it."""
    training = Training(task, config, run, on_epoch)
    policy = Policy(task, config.seed)
    optimiser = torch.optim.Adam(policy.parameters(), lr=config.rate, fused=True)
    unpack("policy", training.tensors, policy, optimiser)
    scale = task.N * resting_cost(task)

    for epoch in training.epochs():
        start = task.start(seeds.starts(config.seed, epoch), config.k)
        returns, norms = [], []
        for step, rows in enumerate(torch.arange(config.k).tensor_split(config.steps)):
            optimiser.param_groups[0]["lr"] = cosine(config, epoch + step / config.steps)
            optimiser.zero_grad()
            cost, values = loss(task, policy, start[rows])
            training.expect_few(len(rows) - len(values), len(rows))
            training.lap("rollout")
            (cost / scale).backward()
            norms.append(torch.nn.utils.clip_grad_norm_(policy.parameters(), config.clip).item())
            optimiser.step()
            returns.append(values)
            training.lap("backward")
        returns = torch.cat(returns)
        training.end_epoch(
            policy,
            config.k * task.N,
            returns,
            config.k - len(returns),
            gradient=sum(norms) / len(norms),
            tensors=pack("policy", policy, optimiser),
        )
    return policy
