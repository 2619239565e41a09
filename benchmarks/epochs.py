"""Whole epochs of PODS, by the learner itself, and what of their time is physics, network and the rest."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from learner.directions import gauss_newton
from learner.pods import PRESETS, Config, train
from learner.policy import Policy
from learner.run import Run
from taichi_sim.launch import Launch
from tasks import Task

from .timing import Timing, synchronize


def epochs(task: Task, k: int, runs: int, preset: str) -> dict[str, Timing]:
    """`epoch`: from log row to log row, checkpoint included; `epoch rest`: without kernels, policy and imitation."""
    config = Config(**PRESETS[preset] | {"k": k, "epochs": runs + 1})
    stamps, spent = [], []
    with tempfile.TemporaryDirectory() as folder, _clock(task) as clock:
        run = Run.create(Path(folder, "run"), {})

        def on_epoch(row: dict):
            stamps.append(time.perf_counter())
            spent.append(clock["seconds"] + row["seconds_imitation"])
            clock["seconds"] = 0.0

        train(task, config, run, gauss_newton, on_epoch)
    whole = [b - a for a, b in zip(stamps, stamps[1:], strict=False)]
    rest = [seconds - busy for seconds, busy in zip(whole, spent[1:], strict=True)]
    return {"epoch": Timing.of(whole), "epoch rest": Timing.of(rest)}


@contextlib.contextmanager
def _clock(task: Task) -> Iterator[dict[str, float]]:
    """Counts the seconds inside the simulator's kernels and the policy's forward passes outside imitation."""
    clock, device = {"seconds": 0.0}, task.simulator.device
    launch, hooks = Launch.__call__, []

    def timed(self, **numbers):
        begun = time.perf_counter()
        launch(self, **numbers)
        synchronize(device)
        clock["seconds"] += time.perf_counter() - begun

    def before(module, _):
        if isinstance(module, Policy):
            clock["begun"] = time.perf_counter()

    def after(module, *_):
        if isinstance(module, Policy) and not torch.is_grad_enabled():  # imitation is counted by its own lap
            synchronize(device)
            clock["seconds"] += time.perf_counter() - clock["begun"]

    try:
        Launch.__call__ = timed
        hooks.append(nn.modules.module.register_module_forward_pre_hook(before))
        hooks.append(nn.modules.module.register_module_forward_hook(after))
        yield clock
    finally:
        Launch.__call__ = launch
        for hook in hooks:
            hook.remove()
