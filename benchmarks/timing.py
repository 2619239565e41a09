"""Wall times of several operations, taken in turn so that a drifting machine is as slow for one as for another."""

from __future__ import annotations

import dataclasses
import gc
import math
import statistics
import time
from collections.abc import Callable, Hashable
from pathlib import Path

import torch


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one run: median, least and most of `runs`.

    peak: MiB that the operation took on top of what was there; None where the system does not tell
    """

    median: float
    least: float
    most: float
    runs: int
    peak: float | None = None

    @staticmethod
    def of(seconds: list[float], peak: float | None = None) -> Timing:
        return Timing(statistics.median(seconds), min(seconds), max(seconds), len(seconds), peak)


def measure(operations: dict[Hashable, Callable], runs: int, device: torch.device) -> dict[Hashable, Timing]:
    """Each operation once for compilation and memory, then `runs` rounds of all of them."""
    peaks = {name: peak_memory(run, device) for name, run in operations.items()}
    seconds = {name: [] for name in operations}
    for _ in range(runs):
        for name, run in operations.items():
            if device.type == "cpu" and peaks[name]:
                _fetch(peaks[name])
            seconds[name].append(once(run, device))
    return {name: Timing.of(seconds[name], peaks[name]) for name in operations}


def once(run: Callable[[], object], device: torch.device) -> float:
    """Seconds until `run` is done, on the device too."""
    synchronize(device)
    begun = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - begun


def _fetch(size: float):
    """Touch `size` MiB of free memory.

    What a virtual machine frees its host may take back within seconds, and giving it again takes longer than to
    compute what is written there: a Jacobian of 415 MB 1.1 s instead of 0.11.
    """
    torch.zeros(math.ceil(size * 2**20), dtype=torch.uint8)


def synchronize(device: torch.device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_memory(run: Callable[[], object], device: torch.device) -> float | None:
    """MiB: on CUDA what torch allocates, on a CPU the growth of the process's resident memory (Linux only)."""
    run()  # compiled code is not the operation's
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is the present from now on
        before = _resident("VmRSS")
        run()
        return max(0.0, _resident("VmHWM") - before)
    except (OSError, StopIteration):
        return None


def _resident(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
