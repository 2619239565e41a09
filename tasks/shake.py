"""How start states are made: at rest at the goal, then the handles move, then the rollout begins."""

from __future__ import annotations

import dataclasses

import numpy as np

from taichi_sim import System


@dataclasses.dataclass(frozen=True)
class Shake:
    """The handles move smoothly and at random.

    Each of the m axes follows  A/√m · Σ_j sin(2π f_j t + φ_j)/J  with A uniform in `speed`, f_j in `frequency`, φ_j
    in 0…2π; A is drawn once a rollout, so that some starts are almost at rest and some swing wildly.
    """

    steps: int = 75
    speed: tuple[float, float] = (0.1, 1.2)  # m/s
    frequency: tuple[float, float] = (0.1, 1.0)  # Hz
    waves: int = 3

    def motion(self, system: System, h: float, seed, B: int) -> np.ndarray:
        """(B, steps, m) m/s; the first rows of many are those of few."""
        m = system.actions
        draws = np.random.default_rng(seed).random((B, 1 + 2 * m * self.waves))
        speed = self.speed[0] + draws[:, 0] * (self.speed[1] - self.speed[0])
        waves = draws[:, 1:].reshape(B, 2, 1, m, self.waves)
        f = self.frequency[0] + waves[:, 0] * (self.frequency[1] - self.frequency[0])
        t = h * np.arange(self.steps)[:, None, None]
        return speed[:, None, None] / np.sqrt(m) * np.sin(2 * np.pi * (f * t + waves[:, 1])).mean(-1)


@dataclasses.dataclass(frozen=True)
class Lift:
    """The handles, all free in 3D, are lifted together to a random pose.

    Seen from their middle they turn by angles uniform in ±`yaw` and ±`tilt`, come closer by a factor uniform in
    `shrink` and move sideways by up to ±`shift` and up by `height`, all along 10 τ³ − 15 τ⁴ + 6 τ⁵, τ = t/(steps·h).
    """

    steps: int = 75
    height: tuple[float, float] = (0.1, 0.3)  # m
    shift: float = 0.15  # m
    yaw: float = 0.5  # rad
    tilt: float = 0.3  # rad
    shrink: tuple[float, float] = (0.85, 1.0)

    def motion(self, system: System, h: float, seed, B: int) -> np.ndarray:
        """(B, steps, m) m/s; the first rows of many are those of few."""
        draws = np.random.default_rng(seed).random((B, 7))
        sideways, (yaw, roll, pitch) = self.shift * (2 * draws[:, :2] - 1), (2 * draws[:, 2:5] - 1).T
        up = self.height[0] + draws[:, 5:6] * (self.height[1] - self.height[0])
        shrink = self.shrink[0] + draws[:, 6] * (self.shrink[1] - self.shrink[0])
        tau = np.linspace(0.0, 1.0, self.steps + 1)
        share = (tau**3 * (10 - 15 * tau + 6 * tau**2))[:, None]
        middle = system.home.mean(0)
        arms = system.home - middle
        turn = _rotation(yaw[:, None] * self.yaw * share.T, 2, 0, 1)
        turn = turn @ _rotation(roll[:, None] * self.tilt * share.T, 0, 1, 2)
        turn = turn @ _rotation(pitch[:, None] * self.tilt * share.T, 1, 2, 0)
        size = 1 + (shrink[:, None, None] - 1) * share
        place = middle + np.concatenate((sideways, up), 1)[:, None] * share
        handles = place[:, :, None] + size[..., None] * np.einsum("btij,hj->bthi", turn, arms)
        return np.diff(handles, axis=1).reshape(B, self.steps, -1) / h @ system.axes


def _rotation(angle, axis, one, other):
    """(..., 3, 3) about `axis`, from axis `one` to axis `other`."""
    matrix = np.zeros((*angle.shape, 3, 3))
    matrix[..., axis, axis] = 1.0
    matrix[..., one, one] = matrix[..., other, other] = np.cos(angle)
    matrix[..., other, one], matrix[..., one, other] = np.sin(angle), -np.sin(angle)
    return matrix
