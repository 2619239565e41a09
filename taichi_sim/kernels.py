"""Which kernels a system gets, with their scratch memory."""

from __future__ import annotations

import dataclasses

import taichi as ti
import torch

from . import runtime
from .arguments import expect_countable
from .box import boxed_step
from .conjugate import conjugate_gradients
from .elimination import Elimination
from .launch import Kernel
from .linear import linear_step
from .linearisation import linearisation
from .loops import ABREAST, ALONE, LOOPED, STRAIGHT, UNROLLED, UNROLLED_UPDATES, Loops
from .mechanics import mechanics
from .newton import direction_kind, newton
from .riccati import riccati
from .rollout import rollout
from .sensitivity import sensitivity
from .system import System
from .variables import Scratch

MOST_STRAIGHT = 180  # numbers in a Jacobian's blocks up to which LLVM tells the addresses of a whole phase apart
MOST_BLOCKS = 1000  # of a Jacobian whose kernels have several lanes
BLOCK = 32  # rollouts that a thread of a CPU takes at a time
PART = 2**22  # bytes of linearised steps that a thread of a CPU makes before it uses them: its share of a cache


class Kernels:
    """The kernels of one system and time step on the device that `taichi_sim.init` chose.

    loops: how they go through rollouts and points, see `loops`; by default what suits system and device. Gauss–Newton
        steps have one rollout a thread in any case
    scratch, scratch_of_one: memory of the former and the latter        quick: of Newton's directions
    steps_apart: whether a thread for each step of a rollout pays
    in_parts: whether rollouts are linearised in parts that a cache holds
    """

    def __init__(self, system: System, h: float, loops: Loops | None):
        gpu = runtime.torch_device().type == "cuda"
        one = UNROLLED if _small(system) else ALONE if _fits(system) else LOOPED
        if gpu:
            one = dataclasses.replace(one, last=True)
        if loops is None:
            loops = one if gpu or not _fits(system) else STRAIGHT if _straight(system) else ABREAST
        elif loops.many == 1:
            one = loops
        self.scratch = Scratch(loops)
        self.scratch_of_one = self.scratch if one is loops else Scratch(one)
        self.quick = Scratch(loops, float if _small(system) else direction_kind(system, h), second=True)
        self.steps_apart, self.in_parts = loops.own and loops.last, not loops.last
        self._nothing = torch.empty(1, dtype=runtime.dtype(), device=runtime.torch_device())

        step = self._step(system, loops, self.scratch)
        step_of_one = step if one is loops else self._step(system, one, self.scratch_of_one)
        solver = newton(loops)(step.mech, self.scratch, self.quick, torch.finfo(runtime.dtype()).eps)
        self.rollout = rollout(loops)(solver, self.scratch)
        self.linearisation = linearisation(loops)(step)
        self.riccati = riccati(one)(self.linearisation)
        self.boxed = boxed_step(one)(self.riccati)
        self.cg = conjugate_gradients(one)(step_of_one)
        sweeps = sensitivity(loops)(step)
        self.many = sweeps.many  # columns of a Jacobian that a thread makes

        self.run = Kernel(self.rollout.run, quickly=loops.many > 1)
        self.vjp, self.jvp, self.jacobian = Kernel(sweeps.vjp), Kernel(sweeps.jvp), Kernel(sweeps.jacobian)
        self.linearise, self.solve_riccati = Kernel(self.linearisation.run), Kernel(self.riccati.solve)
        self.solve_boxed, self.solve_cg = Kernel(self.boxed.solve), Kernel(self.cg.solve)

    @property
    def quick_dtype(self) -> torch.dtype:
        return torch.float32 if self.quick.kind == ti.f32 else runtime.dtype()

    def _step(self, system: System, loops: Loops, scratch: Scratch):
        """The linearised step for one kind of loops."""
        return linear_step(loops)(mechanics(loops)(system, self.quick.kind), scratch)

    def part(self, B: int, N: int) -> int:
        """Of B rollouts of N steps, how many are linearised at a time: on a GPU all, on a CPU what a cache holds."""
        if not self.in_parts:
            return B
        rollout = N * self.linearisation.size * runtime.dtype().itemsize
        many = min(B, max(1, PART // (rollout * BLOCK)) * BLOCK * ti.cfg.cpu_max_num_threads)
        expect_countable(many, 2 * N * max(self.linearisation.size, self.boxed.row))  # see `variables.FEW`
        return many

    def allocate(self, B: int, size: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Numbers for a kernel's use, `size` a rollout; the same tensor each time where there are none."""
        if size == 0:
            return self._nothing
        expect_countable(B, size)
        return torch.empty(B * size, dtype=dtype or runtime.dtype(), device=runtime.torch_device())


def _small(system: System) -> bool:
    """Whether the elimination has so few block updates that unrolled kernels compile in seconds."""
    return _elimination(system).updates <= UNROLLED_UPDATES


def _straight(system: System) -> bool:
    """Whether the phases of a step are short and have no branches, as friction has."""
    kinds = 2 if system.damping.any() else 1  # of blocks: J's, and Z's
    numbers = kinds * _elimination(system).blocks * system.dim**2
    return _small(system) and not system.friction.any() and numbers <= MOST_STRAIGHT


def _fits(system: System) -> bool:
    """Whether a thread's memory can hold the Jacobians of its lanes, and Taichi declare them within seconds."""
    return _elimination(system).blocks <= MOST_BLOCKS


def _elimination(system: System) -> Elimination:
    return Elimination.of(system.points, [tuple(e) for e in system.ends.tolist() if max(e) < system.points])
