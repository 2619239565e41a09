"""Rewards: functions of a row and the action that led to it, with their second derivatives."""

from __future__ import annotations

import dataclasses

import torch


@dataclasses.dataclass(frozen=True)
class Quadratic:
    """r = −w_p‖p‖² − w_x‖x − x*‖² − w_v‖v‖² − w_a‖a‖² (paper, Eq. 15), p from the handles' home.

    w_p, w_x: 1/m²    w_v, w_a: s²/m²
    """

    w_p: float
    w_x: float
    w_v: float
    w_a: float

    def __call__(self, x, v, p, a):
        """(B, N) from rows 1…N: x − x* and v (B, N, P, d), p (B, N, H, d), and actions (B, N, m)."""
        p, x, v = (_Square.apply(y.flatten(-2)) for y in (p, x, v))
        return -self.w_p * p - self.w_x * x - self.w_v * v - self.w_a * _Square.apply(a)

    def step(self, x, v, p, a, last):
        """(B,) of single steps: x, v (B, P, d), p (B, H, d), a (B, m), last (B,) bool, whether they end an episode."""
        return self(x[:, None], v[:, None], p[:, None], a[:, None])[:, 0]

    def slopes(self, x, v, p, a, out):
        """Minus the first derivatives by x, v, p and a, arguments as for a call, into `out`, of their shapes.

        Autograd's, in a third of the passes over memory.
        """
        for y, weight, slope in zip((x, v, p, a), (self.w_x, self.w_v, self.w_p, self.w_a), out, strict=True):
            torch.mul(y, 2 * weight, out=slope)

    def curvature(self, N: int, actions: int, coordinates: int):
        """Q (1, N, n_s) and R (1, N, m): minus the second derivatives by [actuated p, x, v] and by a."""
        weights = [self.w_p] * actions + [self.w_x] * coordinates + [self.w_v] * coordinates
        state = 2 * torch.tensor(weights, dtype=torch.float64)
        return state.expand(1, N, -1), torch.full((1, N, actions), 2 * self.w_a, dtype=torch.float64)


@dataclasses.dataclass(frozen=True)
class Terminal:
    """The rewards of `last` at the last step and nothing before: where an episode ends is all that counts.

    Earlier actions then have no curvature of their own. `prox` (s²/m²) stands in for it in R, for every action: it
    shortens Gauss–Newton steps and changes neither the reward nor its gradient.
    """

    last: Quadratic
    prox: float

    @property
    def w_x(self) -> float:
        return self.last.w_x

    def __call__(self, x, v, p, a):
        """(B, N), zero but for the last column; arguments as for `Quadratic`."""
        final = self.last(x[:, -1:], v[:, -1:], p[:, -1:], a[:, -1:])
        return torch.cat((torch.zeros_like(final).expand(-1, a.shape[1] - 1), final), 1)

    def step(self, x, v, p, a, last):
        """(B,) zero but where `last`; arguments as for `Quadratic`."""
        return torch.where(last, self.last.step(x, v, p, a, last), 0.0)

    def slopes(self, x, v, p, a, out):
        """As of `Quadratic`, zero but for the last column."""
        for slope in out:
            slope[:, :-1] = 0.0
        self.last.slopes(*(y[:, -1:] for y in (x, v, p, a)), [slope[:, -1:] for slope in out])

    def curvature(self, N: int, actions: int, coordinates: int):
        """Q (1, N, n_s) and R (1, N, m) as of `Quadratic`, Q zero but for the last row."""
        q, r = self.last.curvature(N, actions, coordinates)
        q = torch.cat((torch.zeros_like(q[:, 1:]), q[:, :1]), 1)
        return q, torch.full_like(r, 2 * self.prox)


class _Square(torch.autograd.Function):
    """‖y‖² of each row: one pass over the numbers, where `y.square().sum(-1)` is two and takes twice the time."""

    @staticmethod
    def forward(ctx, y):
        ctx.save_for_backward(y)
        return torch.linalg.vector_norm(y, dim=-1).square()

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return 2 * g[..., None] * y
