"""Seconds from a process's start to a task's first gradient, with an empty and with a filled cache of kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

PROGRAM = """
import json, sys, time
began = time.perf_counter()
import torch, taichi_sim, tasks
imported = time.perf_counter()
taichi_sim.init(sys.argv[2], sys.argv[3])
task = tasks.make(sys.argv[1])
simulator = task.simulator
shape = (2, task.N, task.system.actions)
actions = torch.zeros(shape, dtype=simulator.dtype, device=simulator.device, requires_grad=True)
simulator.rollout(simulator.start(2), actions).x.square().sum().backward()
actions.grad.sum().item()
print(json.dumps([imported - began, time.perf_counter() - imported]))
"""


def startup(task: str, device: str, precision: str) -> dict[str, float]:
    """`import`, and `cold` and `warm`: from there to the first gradient of a rollout, Taichi's start included."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"XDG_CACHE_HOME": cache}
        command = [sys.executable, "-c", PROGRAM, task, device, precision]
        (imported, cold), (_, warm) = (
            json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
            for _ in range(2)
        )
    return {"import": imported, "cold": cold, "warm": warm}
