"""What the epochs of every learner have in common: clock, time limit, validation, log rows, checkpoints."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn

from taichi_sim import Trajectory
from taichi_sim.errors import InputError, expect
from tasks import Task

from . import failures, seeds
from .evaluation import AFTER, metrics
from .files import check_tensor, integer, load_module, number
from .policy import Policy
from .rollouts import closed_loop
from .run import Run
from .settings import Config

VALIDATION_STATES = 128


class Training:
    """The course of one training: `for epoch in training.epochs(): …; training.end_epoch(…)`.

    tensors, state: of the newest checkpoint; empty where there is none and the training begins
    """

    def __init__(self, task: Task, config: Config, run: Run, on_epoch: Callable[[dict], None]):
        config.check_task(task)
        run.lock()
        self.task, self.config, self.run, self.on_epoch = task, config, run, on_epoch
        self.tensors, self.state = run.load() if run.checkpoints() else ({}, {})
        self._first = integer(self.state, "epoch") if self.state else 0
        self._seconds = number(self.state, "seconds") if self.state else 0.0
        self._samples = integer(self.state, "samples") if self.state else 0
        self._validation = task.start(seeds.VALIDATION_SEED, VALIDATION_STATES)
        run.rewind(self._first)

    def epochs(self) -> Iterator[int]:
        """The epochs still to come, until all are done or the time is over."""
        for epoch in range(self._first, self.config.epochs):
            if 0 < 60 * self.config.minutes <= self._seconds:
                break
            self._epoch, self._laps, self._last = epoch, collections.defaultdict(float), time.perf_counter()
            yield epoch

    def tensor(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """`name` from the checkpoint, on the device of `like`, whose shape and dtype it must have."""
        found = self.tensors.get(name)
        expect(found is not None, name, "a tensor in the checkpoint", "none")
        check_tensor(name, found, like)
        return found.to(like.device)

    def lap(self, phase: str):
        """Charge the time since the last lap to `phase`; waits for the device, so that each pays for its own work."""
        if self.task.simulator.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self._laps[phase] += now - self._last
        self._last = now

    def expect_few_failures(self, rows: Trajectory):
        """Raise `InputError` if more failed than the setting `failures` tolerates, and leave those in a file."""
        failed, path = int((~rows.ok).sum()), self.run.path / "failures.safetensors"
        if failed > self.config.failures * len(rows):
            failures.store(path, self.task, rows)
            self.expect_few(failed, len(rows), f"; {path} has them, see pods doctor --failures")

    def expect_few(self, failed: int, rollouts: int, where: str = ""):
        """`expect_few_failures` of learners that keep no trajectories; their run fails in the same way when resumed."""
        share = self.config.failures
        if failed > share * rollouts:
            raise InputError(f"failures: expected at most {share:.0%} of rollouts, got {failed} of {rollouts}{where}")

    def end_epoch(self, policy: Policy, samples: int, returns: torch.Tensor, failed: int, **rest):
        """Validate, log and save. `seconds` count no validation: it would cost learners with short epochs most.

        samples: simulated steps that went into this epoch's update
        returns: (B,) of the rollouts of this epoch that did not fail
        rest: further columns of log.csv; `tensors` and `state` go into the checkpoint beside the policy
        """
        tensors, state = rest.pop("tensors", {}), rest.pop("state", {})
        rows = closed_loop(self.task, policy, self._validation, self.task.N + AFTER)
        unseen = metrics(self.task, rows[rows.ok])
        self.lap("validation")
        self._seconds += sum(seconds for phase, seconds in self._laps.items() if phase != "validation")
        self._samples += samples
        row = {
            "epoch": self._epoch + 1,
            "samples": self._samples,
            "seconds": self._seconds,
            "return": returns.mean().item(),
            "return_std": returns.std(correction=0).item(),
            "failed": failed,
            "failed_validation": int((~rows.ok).sum()),
            **{f"{name}_validation": values.mean().item() for name, values in unseen.items()},
            **{f"{name}_validation_std": values.std(correction=0).item() for name, values in unseen.items()},
            **rest,
            **{f"seconds_{phase}": seconds for phase, seconds in self._laps.items()},
        }
        self.run.log(row)
        tensors = {f"policy/{name}": tensor for name, tensor in policy.state_dict().items()} | tensors
        self.run.save(self._epoch + 1, tensors, {"seconds": self._seconds, "samples": self._samples, **state})
        self.on_epoch(row)


def pack(name: str, module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The tensors of a module and of its Adam, for a checkpoint."""
    tensors = {f"{name}/{key}": tensor for key, tensor in module.state_dict().items()}
    for key, parameter in module.named_parameters():
        for moment, tensor in optimiser.state[parameter].items():
            tensors[f"adam/{name}/{key}/{moment}"] = tensor
    return tensors


def unpack(name: str, tensors: dict[str, torch.Tensor], module: nn.Module, optimiser: torch.optim.Optimizer):
    """Undo `pack`; nothing where `tensors` is empty. Raises `InputError` where they do not fit the module."""
    if not tensors:
        return
    load_module(module, name, tensors)
    for key, parameter in module.named_parameters():
        moments = {moment: tensors.get(f"adam/{name}/{key}/{moment}") for moment in ("step", "exp_avg", "exp_avg_sq")}
        for moment, tensor in moments.items():
            expect(tensor is not None, f"adam/{name}/{key}/{moment}", "a tensor in the checkpoint", "none")
            like = torch.zeros(()) if moment == "step" else parameter
            check_tensor(f"adam/{name}/{key}/{moment}", tensor, like)
        on_device = optimiser.defaults["capturable"] or optimiser.defaults["fused"]  # where Adam keeps its step
        near = {k for k in moments if k != "step" or on_device}
        optimiser.state[parameter] = {k: t.to(parameter.device) if k in near else t for k, t in moments.items()}


def cosine(config, epoch: float) -> float:
    """The learning rate at a time in epochs: from `rate` to `rate_end` along half a cosine."""
    return config.rate_end + (config.rate - config.rate_end) * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))
