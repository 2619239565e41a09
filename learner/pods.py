"""PODS (paper, Algorithm 1): roll out, improve every action sequence, imitate; repeat."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from tasks import Task

from . import seeds, settings
from .directions import gauss_newton, steepest_descent
from .graphs import adam
from .imitation import Samples, imitate, remember, remembered, schedule
from .improvement import improve
from .line_search import Improvement
from .memory import plan
from .policy import Policy
from .rollouts import closed_loop
from .run import Run
from .settings import setting
from .training import Training, pack, unpack

DIRECTIONS = {"pods": gauss_newton, "pods1": steepest_descent}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.Config):
    """Settings of PODS; the defaults are the paper's where it gives them."""

    improvements: int = setting(1, "directions and line searches of a rollout in an epoch, at most", 1)
    steps: int = setting(50, "gradient steps on the imitation loss an epoch", 1)
    batch: int = setting(0, "samples a gradient step sees, 0 for all", 0)
    memory: int = setting(1, "epochs whose improved rollouts are imitated, the newest included", 1)
    rate: float = setting(1e-3, "Adam's learning rate at the start", 1e-9, 1.0)
    rate_end: float = setting(1e-5, "and at the end, along a cosine", 0.0, 1.0)


PRESETS = {
    "paper": {},
    "cpu": {"epochs": 60, "k": 128, "steps": 60, "batch": 4096, "memory": 4},
}


def train(
    task: Task, config: Config, run: Run, find_direction: Callable, on_epoch: Callable[[dict], None] = lambda row: None
) -> Policy:
    """Train a policy, from the run's newest checkpoint if it has one; returns it.

    find_direction: `gauss_newton` or `steepest_descent`, see `directions`
    on_epoch: called with each row that is added to log.csv
    """
    training = Training(task, config, run, on_epoch)
    policy = Policy(task, config.seed)
    optimiser = adam(policy.parameters(), config.rate)
    unpack("policy", training.tensors, policy, optimiser)
    sizes = {"observations": (task.observation_size,), "actions": (task.system.actions,)}
    memory = remembered(Samples, training, **sizes)
    memory_plan = plan(task, config.k)

    for epoch in training.epochs():
        start = task.start(seeds.starts(config.seed, epoch), config.k)
        played = closed_loop(task, policy, start)
        failed = int((~played.ok).sum())
        training.expect_few_failures(played)
        training.lap("rollout")
        parts = []
        for rows in torch.nonzero(played.ok).flatten().split(memory_plan.chunk):
            parts.append(improve(task, played.only(rows), find_direction, config.improvements, training.lap))
        better = Improvement.joined(parts)
        memory = [*memory, Samples.of(task, better.trajectory)][-config.memory :]
        rates = schedule(config, epoch)
        loss = imitate(policy, optimiser, Samples.joined(memory), config.steps, config.batch, rates, config.seed, epoch)
        training.lap("imitation")
        ok = better.value_before > -torch.inf
        training.end_epoch(
            policy,
            config.k * task.N,
            better.value_before[ok],
            failed,
            return_improved=better.value[ok].mean().item(),
            smallest_improvement=better.gain[ok].min().item(),
            share_improved=(better.alpha > 0).double().mean().item(),
            mean_alpha=better.alpha.mean().item(),
            loss=loss,
            tensors=pack("policy", policy, optimiser) | remember(memory),
        )
    return policy
