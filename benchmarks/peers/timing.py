"""Timing side by side: the candidates take turns, so that a busy machine is busy for all of them."""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """One simulator with one setting on one problem, compiled and checked.

    forward: runs all rollouts; returns x_N (B, P, d)
    gradient: runs them and gives dL/da of L = Σ_t ‖x_t − x*‖², t = 1…N; None if the simulator has no gradients
    error: m, see `problem`
    compiled: s, the first call of `forward` and of `gradient`, less the second
    """

    system: str
    simulator: str
    setting: str
    error: float
    steps: int
    compiled: float
    forward: Callable
    gradient: Callable | None = None


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of each run."""

    forward: list[float]
    gradient: list[float]


def seconds(run: Callable) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def compile_seconds(*runs: Callable) -> float:
    """What the first calls took longer than the second ones."""
    return sum(max(0.0, seconds(run) - seconds(run)) for run in runs)


def measure(candidates: list[Candidate], runs: int) -> list[Times]:
    """`runs` runs of each, one after the other, then the next run."""
    found = [Times([], []) for _ in candidates]
    for _ in range(runs):
        for candidate, times in zip(candidates, found, strict=True):
            gc.collect()
            times.forward.append(seconds(candidate.forward))
            if candidate.gradient is not None:
                times.gradient.append(seconds(candidate.gradient))
    return found


def middle(values: list[float]) -> tuple[float, float]:
    """Median and half the distance between the quartiles."""
    if len(values) < 2:
        return values[0], 0.0
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return median, (high - low) / 2
