"""What the simulator's methods want of their arguments."""

from __future__ import annotations

import dataclasses

import torch

from .errors import InputError, expect
from .system import System
from .trajectory import State, Trajectory


def expect_countable(B: int, size: int):
    """Taichi's indices have 32 bits: beyond them kernels would write somewhere else."""
    expect(B * size < 2**31, "rollouts", f"at most {(2**31 - 1) // max(size, 1)} side by side, {size} numbers each", B)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Checks of tensors for one system: each returns what kernels can use, contiguous, or raises `InputError`."""

    system: System
    device: torch.device
    dtype: torch.dtype

    def tensor(self, name: str, tensor, shape: tuple, finite: bool = True) -> torch.Tensor:
        """Of this shape, where None stands for any number."""
        expect(isinstance(tensor, torch.Tensor), name, "a torch.Tensor", type(tensor).__name__)
        fits = tensor.ndim == len(shape) and all(n in (None, have) for n, have in zip(shape, tensor.shape, strict=True))
        wanted = f"({', '.join('N' if n is None else str(n) for n in shape)})"
        expect(fits, name, wanted, tuple(tensor.shape))
        expect(tensor.dtype == self.dtype, name, self.dtype, tensor.dtype)
        expect(tensor.device.type == self.device.type, name, f"a tensor on {self.device.type}", tensor.device.type)
        if finite and tensor.numel() > 0 and not torch.stack(tensor.aminmax()).isfinite().all():  # NaN comes through
            bad = tuple((~torch.isfinite(tensor)).nonzero()[0].tolist())
            raise InputError(f"{name}: expected finite numbers, got {tensor[bad].item()} at {bad}")
        return tensor.contiguous()

    def start(self, start) -> State:
        expect(isinstance(start, State), "start", "a State", type(start).__name__)
        B, P, H, d = len(start), self.system.points, self.system.handles, self.system.dim
        expect(B >= 1, "start", "at least one rollout", B)
        first = start.first
        expect(
            first.dtype == torch.bool and first.shape == (B,),
            "start.first",
            f"({B},) bool",
            f"{tuple(first.shape)} {first.dtype}",
        )
        expect(
            first.device.type == self.device.type, "start.first", f"a tensor on {self.device.type}", first.device.type
        )
        shapes = {"x": (B, P, d), "v": (B, P, d), "p": (B, H, d), "x_prev": (B, P, d), "v_prev": (B, P, d)}
        fields = {name: self.tensor(f"start.{name}", getattr(start, name), shape) for name, shape in shapes.items()}
        return State(first=first, **fields)

    def rows(self, trajectory) -> list[torch.Tensor]:
        """Actions, x, v and p of a trajectory, without their history; it may have failed."""
        expect(isinstance(trajectory, Trajectory), "trajectory", "a Trajectory", type(trajectory).__name__)
        s, (B, N, _) = self.system, trajectory.a.shape
        rows = {"x": (s.points, s.dim), "v": (s.points, s.dim), "p": (s.handles, s.dim)}
        shapes = {"a": (B, N, s.actions)} | {name: (B, N + 1, *shape) for name, shape in rows.items()}
        return [
            self.tensor(f"trajectory.{name}", getattr(trajectory, name).detach(), shape, finite=False)
            for name, shape in shapes.items()
        ]

    def weights(self, name: str, tensor, shape: tuple) -> torch.Tensor:
        """As `tensor`, one row for all rollouts allowed."""
        shared = isinstance(tensor, torch.Tensor) and tensor.ndim == 3 and tensor.shape[0] == 1
        return self.tensor(name, tensor, (1, *shape[1:]) if shared else shape)

    def model(self, shape: tuple, g, q, r, damping, free):
        """g, q, r, damping and free actions of a Gauss–Newton step."""
        B, N, m = shape  # of the actions
        g = self.tensor("g", g, (B, N, m))
        q = self.weights("q", q, (B, N, self.system.state_size))
        r = self.weights("r", r, (B, N, m))
        expect(bool((q >= 0).all()), "q", "second derivatives of the cost >= 0", q.min().item())
        expect(bool((r > 0).all()), "r", "second derivatives of the cost > 0", r.min().item())
        damping = torch.zeros_like(g[:, 0, 0]) if damping is None else self.tensor("damping", damping, (B,))
        free = torch.ones_like(g, dtype=torch.bool) if free is None else free
        expect(
            isinstance(free, torch.Tensor) and free.dtype == torch.bool, "free", "a bool tensor", type(free).__name__
        )
        expect(free.shape == g.shape and free.device == g.device, "free", tuple(g.shape), tuple(free.shape))
        return g, q, r, damping, free.to(torch.int32).contiguous()
