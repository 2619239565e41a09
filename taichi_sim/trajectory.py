"""What goes into the simulator and what comes out."""

from __future__ import annotations

import dataclasses
import enum

import torch

from .errors import expect


class Status(enum.IntEnum):
    """How one step of one rollout ended."""

    OK = 0
    NOT_CONVERGED = 1
    NON_FINITE = 2
    NOT_RUN = 3

    @property
    def sentence(self) -> str:
        return {
            Status.OK: "the residual of the step is below its round-off tolerance",
            Status.NOT_CONVERGED: "Newton's method found no solution of the step, not even by continuation",
            Status.NON_FINITE: "the state or its forces overflowed",
            Status.NOT_RUN: "an earlier step of this rollout failed; the row repeats the last good one",
        }[self]


# Taichi knows no enumerations.
OK, NOT_CONVERGED, NON_FINITE, NOT_RUN = (int(s) for s in Status)


@dataclasses.dataclass(frozen=True, eq=False)
class State:
    """Where B rollouts stand. With `first` the step is BDF1 and needs no past; else it is BDF2.

    x, v: (B, P, d) m, m/s        p: (B, H, d) m
    x_prev, v_prev: (B, P, d)     one step earlier, ignored where `first`
    first: (B,) bool
    """

    x: torch.Tensor
    v: torch.Tensor
    p: torch.Tensor
    x_prev: torch.Tensor
    v_prev: torch.Tensor
    first: torch.Tensor

    @staticmethod
    def start(x: torch.Tensor, v: torch.Tensor, p: torch.Tensor) -> State:
        """A state without history."""
        return State(x, v, p, x, v, torch.ones(x.shape[0], dtype=torch.bool, device=x.device))

    def __len__(self):
        return self.x.shape[0]

    def __getitem__(self, rows) -> State:
        """The rollouts selected by a slice, a mask or an index tensor."""
        return State(*(getattr(self, f.name)[rows] for f in dataclasses.fields(self)))

    def detach(self) -> State:
        return State(*(getattr(self, f.name).detach() for f in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True, eq=False)
class Trajectory:
    """B rollouts of N steps.

    x, v: (B, N+1, P, d) m, m/s   p: (B, N+1, H, d) m   a: (B, N, m) m/s
    status: (B, N) int32, see `Status`     iterations: (B, N) int32, Newton iterations spent
    start: the `State` of row 0
    """

    x: torch.Tensor
    v: torch.Tensor
    p: torch.Tensor
    a: torch.Tensor
    status: torch.Tensor
    iterations: torch.Tensor
    start: State

    def __len__(self):
        return self.x.shape[0]

    @property
    def ok(self) -> torch.Tensor:
        """(B,) bool, whether every step of the rollout converged."""
        return (self.status == Status.OK).all(1)

    def state(self, t: int) -> State:
        """The state at row t (0 ≤ t ≤ N), history included, from which a rollout can go on."""
        N = self.a.shape[1]
        expect(0 <= t <= N, "t", f"a row from 0 to {N}", t)
        if t == 0:
            return self.start
        first = torch.zeros_like(self.start.first)
        return State(self.x[:, t], self.v[:, t], self.p[:, t], self.x[:, t - 1], self.v[:, t - 1], first)

    @staticmethod
    def joined(parts: list[Trajectory]) -> Trajectory:
        """The rollouts of all parts, in order."""
        names = ("x", "v", "p", "a", "status", "iterations")
        rows = (torch.cat([getattr(part, name) for part in parts]) for name in names)
        start = (torch.cat([getattr(part.start, f.name) for part in parts]) for f in dataclasses.fields(State))
        return Trajectory(*rows, State(*start))

    def only(self, rollouts: torch.Tensor) -> Trajectory:
        """The rollouts of these ascending numbers; this trajectory itself, no copy, if they are all."""
        return self if len(rollouts) == len(self) else self[rollouts]

    def __getitem__(self, rows) -> Trajectory:
        """The rollouts selected by a slice, a mask or an index tensor."""
        return Trajectory(
            *(getattr(self, name)[rows] for name in ("x", "v", "p", "a", "status", "iterations")), self.start[rows]
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Gradient:
    """dL/d(start, actions) of a scalar L; shapes of `State` and of the actions."""

    x: torch.Tensor
    v: torch.Tensor
    p: torch.Tensor
    x_prev: torch.Tensor
    v_prev: torch.Tensor
    a: torch.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class GaussNewtonStep:
    """The minimiser of ½ δaᵀĤδa + gᵀδa and what the method says on the way.

    da: (B, N, m) m/s
    gains: (B, N, m, n), K of δa = k + K δs with s = [x, x₋₁, v, v₋₁, π] along the rollout
    curvature: (B, N, m, m), second derivative of the remaining cost by a_t when later actions react optimally;
        both of `Simulator.gauss_newton_riccati` only
    image: (B, N, m), Ĥ δa; conjugate gradients and boxed steps only
    iterations: (B,) int32, of conjugate gradients, or recursions of a boxed step
    """

    da: torch.Tensor
    gains: torch.Tensor | None = None
    curvature: torch.Tensor | None = None
    image: torch.Tensor | None = None
    iterations: torch.Tensor | None = None
