"""How many rollouts fit into memory side by side."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from tasks import Task

SHARE = 0.5  # of the available memory that rollouts may take
# Bytes. On a CPU: then a kernel runs for seconds, a few at most, and Ctrl-C, which waits for its end, is heard. On a
# GPU: then no tensor has more numbers than Taichi's 32 bits can count.
LAUNCH = {"cpu": 2**28, "cuda": 2**33}


@dataclasses.dataclass(frozen=True)
class Plan:
    """k rollouts are improved `chunk` at a time.

    per_rollout, available: bytes, the first predicted
    """

    k: int
    chunk: int
    per_rollout: int
    available: int

    @property
    def fits(self) -> int:
        """How many rollouts would be improved at once without a shortage."""
        return int(SHARE * self.available) // self.per_rollout

    def __str__(self):
        need, have = self.k * self.per_rollout / 2**20, self.available / 2**20
        parts = "at once" if self.chunk == self.k else f"{self.chunk} at a time"
        return f"{self.k} rollouts need {need:,.1f} MiB of {have:,.0f} available: improved {parts}"


def plan(task: Task, k: int, available: int | None = None) -> Plan:
    """The largest chunk whose improvement takes at most half of the `available` bytes (default: what is free now).

    On a CPU it is also small enough for kernels of seconds. An improvement is simulated open loop, where a rollout's
    bits do not depend on its neighbours: the chunk changes no bit.
    """
    free = _available(task.simulator.device) if available is None else available
    each = task.simulator.bytes_per_rollout(task.N)
    most = min(int(SHARE * free), LAUNCH[task.simulator.device.type])
    return Plan(k, max(1, min(k, most // each)), each, free)


def _available(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/meminfo has no MemAvailable")
