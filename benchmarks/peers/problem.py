"""What every simulator is given, and how far from a fine solution its answer may be.

Start states as in training, an action drawn anew at every step, uniform within the task's limit, over the task's own
horizon of N steps of h: what a policy gradient pays for. The error of a simulator is, with n = ERROR_STEPS,

    E = √ mean ‖x_n − x*_n‖²        over ERROR_ROLLOUTS rollouts and their points,

with x*_n from the same simulator at a much smaller time step, the actions held over each h as before. It is not taken
at the horizon: driven like that, undamped stiff springs are chaotic, and after 40 steps (double pendulum, cloth) to 100
steps (rope) a 16 times finer step is no nearer to a 64 times finer one than h itself. There a simulator must only be as
far from our fine solution as we are, within a factor DRIFT: what is unstable, or gains energy, is not.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import torch

import tasks
from taichi_sim import Simulator, State

TASKS = {"rope": "rope3d-stop", "double": "double3d-stop", "cloth": "cloth-lay"}
SEED = 17  # first word of the seeds
ERROR_ROLLOUTS, ERROR_STEPS = 64, 10
REFINEMENT = 64  # of our own time step, for our own fine solution
DRIFT = 2.0


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """B rollouts of `task` from `start` with `actions` (B, N, m) m/s."""

    name: str
    task: tasks.Task
    start: State
    actions: torch.Tensor

    @staticmethod
    def of(name: str, B: int, task: tasks.Task | None = None) -> Problem:
        task = task or tasks.make(TASKS[name])
        draws = np.random.default_rng((SEED, 1)).random((B, task.N, task.system.actions))
        return Problem(name, task, task.start((SEED, 0), B), torch.as_tensor(task.limit * (2 * draws - 1)))

    @property
    def steps(self) -> int:
        return self.actions.shape[0] * self.actions.shape[1]

    def first(self, B: int, N: int | None = None) -> Problem:
        """Of the first B rollouts, and of N steps of them if given."""
        return dataclasses.replace(self, start=self.start[:B], actions=self.actions[:B, :N].contiguous())

    @functools.cached_property
    def few(self) -> Problem:
        """On which E is measured."""
        return self.first(ERROR_ROLLOUTS, ERROR_STEPS)

    @functools.cached_property
    def long(self) -> Problem:
        """On which is seen what becomes of a simulator until the horizon."""
        return self.first(ERROR_ROLLOUTS)

    @functools.cached_property
    def far(self) -> tuple[np.ndarray, float]:
        """x_N of `long` at h/16, and how far from that we are at h."""
        fine = self.long.refined(16)
        return fine, rms(self.long.refined(1), fine)

    def settled(self, ends: np.ndarray) -> bool:
        """Whether a simulator that puts the points of `long` at `ends` (B, P, d) is as near as any can be."""
        fine, near = self.far
        return rms(ends, fine) <= DRIFT * near

    def moved(self, change) -> Problem:
        """With other actions."""
        return dataclasses.replace(self, actions=self.actions + torch.as_tensor(change))

    @functools.cached_property
    def handles(self) -> np.ndarray:
        """(B, N+1, H, d) m, where the handles are at every row; between rows they move at constant velocity."""
        velocity = self.actions.numpy() @ self.task.system.axes.T
        moved = self.task.h * np.cumsum(velocity, 1).reshape(*velocity.shape[:2], *self.task.system.home.shape)
        p0 = self.start.p.numpy()[:, None]
        return np.concatenate((p0, p0 + moved), 1)

    def refined(self, factor: int) -> np.ndarray:
        """(B, P, d) m, x_N of our simulator at the time step h/factor.

        Friction grows with k_t h‖v‖ up to its limit, so that k_t has to grow as h shrinks for it to stay the same.
        """
        system = self.task.system
        system = dataclasses.replace(system, tangential_stiffness=factor * system.tangential_stiffness)
        rows = Simulator(system, self.task.h / factor).rollout(self.start, self.actions.repeat_interleave(factor, 1))
        assert rows.ok.all()
        return rows.x[:, -1].numpy()


def rms(x, y) -> float:
    """√ mean ‖x − y‖² of positions (B, P, d); inf if any is not a number."""
    error = float(np.sqrt(np.mean(np.sum((np.asarray(x, dtype=float) - np.asarray(y, dtype=float)) ** 2, -1))))
    return error if np.isfinite(error) else float("inf")
