"""PODS (paper, Algorithm 1): roll out, improve every action sequence, imitate; repeat."""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from collections.abc import Callable

import torch

from taichi_sim import InputError
from tasks import Task

from . import seeds, settings
from .directions import gauss_newton, steepest_descent
from .imitation import Samples, imitate
from .line_search import Improvement, line_search
from .memory import plan
from .policy import Policy
from .rollouts import closed_loop
from .run import Run
from .settings import setting

DIRECTIONS = {"pods": gauss_newton, "pods1": steepest_descent}


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of PODS; the defaults are the paper's where it gives them."""

    epochs: int = setting(100, "policy updates", 1)
    k: int = setting(4000, "start states, and so rollouts, an epoch", 1)
    steps: int = setting(50, "gradient steps on the imitation loss an epoch", 1)
    batch: int = setting(0, "samples a gradient step sees, 0 for all", 0)
    memory: int = setting(1, "epochs whose improved rollouts are imitated, the newest included", 1)
    rate: float = setting(1e-3, "Adam's learning rate at the start", 1e-9, 1.0)
    rate_end: float = setting(1e-5, "and at the end, along a cosine", 0.0, 1.0)
    failures: float = setting(0.1, "share of rollouts that may fail in an epoch before the run stops", 0.0, 1.0)
    seed: int = setting(0, "of weights, start states and batches", 0, 2**31 - 1)

    def __post_init__(self):
        settings.check(self)


VALIDATION_STATES = 128

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
    policy = Policy(task, config.seed)
    optimiser = torch.optim.Adam(policy.parameters(), lr=config.rate)
    memory: list[Samples] = []
    first, elapsed = 0, 0.0
    if run.checkpoints():
        first, elapsed, memory = _restore(run, policy, optimiser)
    run.rewind(first)
    memory_plan = plan(task, config.k)
    validation = task.start(seeds.VALIDATION_SEED, VALIDATION_STATES)

    for epoch in range(first, config.epochs):
        clock = _Clock(task.simulator.device)
        start = task.start(seeds.starts(config.seed, epoch), config.k)
        played = closed_loop(task, policy, start)
        failed = int((~played.ok).sum())
        if failed > config.failures * config.k:
            raise InputError(
                f"failures: expected at most {config.failures:.0%} of rollouts, got {failed} of {config.k}"
            )
        before = task.simulator.rollout(start[played.ok], played.a[played.ok])
        clock.lap("rollout")
        parts = []
        for rows in torch.arange(len(before)).split(memory_plan.chunk):
            direction = find_direction(task, before[rows])
            clock.lap("direction")
            parts.append(line_search(task, before[rows], direction))
            clock.lap("line_search")
        better = Improvement.joined(parts)
        memory = [*memory, Samples.of(task, better.trajectory)][-config.memory :]
        rates = _cosine(config, epoch)
        loss = imitate(policy, optimiser, Samples.joined(memory), config.steps, config.batch, rates, config.seed, epoch)
        clock.lap("imitation")
        unseen = task.returns(closed_loop(task, policy, validation))
        unseen = unseen[unseen > -torch.inf]
        clock.lap("validation")

        elapsed += sum(clock.laps.values())
        ok = before.ok
        row = {
            "epoch": epoch + 1,
            "samples": (epoch + 1) * config.k * task.N,
            "seconds": elapsed,
            "return": better.value_before[ok].mean().item(),
            "return_std": better.value_before[ok].std(correction=0).item(),
            "return_improved": better.value[ok].mean().item(),
            "return_validation": unseen.mean().item(),
            "return_validation_std": unseen.std(correction=0).item(),
            "smallest_improvement": better.gain[ok].min().item(),
            "share_improved": (better.alpha > 0).double().mean().item(),
            "mean_alpha": better.alpha.mean().item(),
            "failed": failed,
            "loss": loss,
            **{f"seconds_{name}": seconds for name, seconds in clock.laps.items()},
        }
        run.log(row)
        _store(run, epoch + 1, policy, optimiser, memory, elapsed)
        on_epoch(row)
    return policy


def _cosine(config: Config, epoch: int):
    """The learning rate of each imitation step of an epoch."""
    total = config.epochs * config.steps
    for step in range(epoch * config.steps, (epoch + 1) * config.steps):
        yield config.rate_end + (config.rate - config.rate_end) * 0.5 * (1 + math.cos(math.pi * step / total))


def _store(run: Run, epoch: int, policy, optimiser, memory: list[Samples], elapsed: float):
    tensors = {f"policy/{name}": tensor for name, tensor in policy.state_dict().items()}
    for (name, _), moments in zip(policy.named_parameters(), optimiser.state.values(), strict=True):
        tensors |= {f"adam/{name}/{key}": tensor for key, tensor in moments.items()}
    for n, samples in enumerate(memory):
        tensors |= {f"memory/{n:03d}/observations": samples.observations, f"memory/{n:03d}/actions": samples.actions}
    run.save(epoch, tensors, {"seconds": elapsed, "memory": len(memory)})


def _restore(run: Run, policy, optimiser):
    tensors, state = run.load()
    policy.load_state_dict(
        {name.removeprefix("policy/"): t for name, t in tensors.items() if name.startswith("policy/")}
    )
    device = policy.limit.device
    for name, parameter in policy.named_parameters():
        moments = {key: tensors[f"adam/{name}/{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        optimiser.state[parameter] = {key: t if key == "step" else t.to(device) for key, t in moments.items()}
    memory = [
        Samples(tensors[f"memory/{n:03d}/observations"].to(device), tensors[f"memory/{n:03d}/actions"].to(device))
        for n in range(state["memory"])
    ]
    return state["epoch"], state["seconds"], memory


class _Clock:
    """Seconds per phase; waits for the device so that a phase is charged for its own work."""

    def __init__(self, device: torch.device):
        self.device, self.laps, self._last = device, collections.defaultdict(float), time.perf_counter()

    def lap(self, name: str):
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.laps[name] += now - self._last
        self._last = now
