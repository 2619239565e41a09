"""Bytes that a rollout of N steps takes, predicted."""

from __future__ import annotations

import torch

from . import runtime
from .kernels import Kernels
from .system import System

# Trajectory, its trial in the line search, their cotangents and tangents, rewards' intermediates
COPIES = 8
VECTORS = 8  # of all actions, in a bounded step


def of_gradient(system: System, kernels: Kernels, N: int) -> int:
    """Rows and cotangents, the gradient by start and actions, and kernels' scratch."""
    start = (4 * system.points + system.handles) * system.dim
    numbers = 2 * (N + 1) * _row(system) + N * system.actions + start + kernels.scratch.size
    counts = 2 * N * torch.int32.itemsize  # status and iterations
    return runtime.dtype().itemsize * numbers + kernels.quick_dtype.itemsize * kernels.quick.size + counts


def of_improvement(system: System, kernels: Kernels, N: int, direct: bool) -> int:
    """A Gauss–Newton step, `direct` or by conjugate gradients, and a line search.

    What a CPU needs for a part of the rollouts, however many there are, is not counted.
    """
    rows = (N + 1) * _row(system) + N * (system.actions + 1)
    method = VECTORS * N * system.actions if direct else kernels.cg.store(N)
    if direct and not kernels.in_parts:
        step = kernels.linearisation.size + kernels.boxed.row + system.actions * kernels.riccati.n
        method += kernels.riccati.store + N * step
    return (COPIES * rows + kernels.scratch_of_one.size + method) * runtime.dtype().itemsize


def _row(system: System) -> int:
    return (2 * system.points + system.handles) * system.dim
