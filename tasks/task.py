"""What is to be controlled: a system, how it starts, what is rewarded, what the policy sees."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json

import torch

from taichi_sim import Simulator, State, System, Trajectory, equilibrium
from taichi_sim.errors import expect

from .reward import Quadratic, Terminal
from .shake import Lift, Shake

TEST_SEED = (0,)  # of the test states; no training uses it
TEST_STATES = 1000
FAR = 1e3  # m, m/s: a rollout that fails may have been beyond; networks are spared that


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A control problem: N steps of h seconds, actions within ±limit m/s, maximise the sum of `reward`."""

    name: str
    system: System
    h: float
    N: int
    limit: float
    reward: Quadratic | Terminal
    shake: Shake | Lift

    @functools.cached_property
    def simulator(self) -> Simulator:
        return Simulator(self.system, self.h)

    @functools.cached_property
    def goal(self) -> torch.Tensor:
        """x* (P, d) m: the static solution with the handles at home."""
        return equilibrium(self.system)

    @functools.cached_property
    def _home(self) -> torch.Tensor:
        return torch.as_tensor(self.system.home.copy()).to(self.simulator.device, self.simulator.dtype)

    @functools.cached_property
    def _axes(self) -> torch.Tensor:
        return torch.as_tensor(self.system.axes.copy()).to(self.simulator.device, self.simulator.dtype)

    @property
    def observation_size(self) -> int:
        return self.system.state_size

    def start(self, seed, B: int) -> State:
        """B start states; `seed` is an int or a sequence of ints. start(seed, B)[:b] equals start(seed, b)."""
        expect(isinstance(B, int) and B >= 1, "B", "at least one start state", B)
        velocity = self.shake.motion(self.system, self.h, seed, B)
        simulator = self.simulator
        motion = torch.as_tensor(velocity).to(simulator.device, simulator.dtype)
        rows = simulator.rollout(simulator.start(B, x=self.goal), motion)
        expect(bool(rows.ok.all()), f"{self.name}.shake", "a motion the simulator can follow", "failed steps")
        return State.start(rows.x[:, -1].contiguous(), rows.v[:, -1].contiguous(), rows.p[:, -1].contiguous())

    def test_states(self, B: int = TEST_STATES) -> State:
        """The first B of the 1,000 states on which every learner is judged."""
        return self.start(TEST_SEED, B)

    def observe(self, x, v, p) -> torch.Tensor:
        """(..., n_s): [actuated handle coordinates from home, positions from the goal, velocities]."""
        handle = (p - self._home).flatten(-2) @ self._axes
        return torch.cat((handle, (x - self.goal).flatten(-2), v.flatten(-2)), -1)

    def rewards(self, trajectory: Trajectory) -> torch.Tensor:
        """(B, N) rewards r(row t+1, a[:, t]) of the horizon; row 0 is not counted, nor is what comes after row N."""
        rows = (rows[:, 1 : self.N + 1] for rows in (trajectory.x, trajectory.v, trajectory.p))
        return self.row_rewards(*rows, trajectory.a[:, : self.N])

    def row_rewards(self, x, v, p, a) -> torch.Tensor:
        """(B, N) rewards of rows x, v (B, N, P, d), p (B, N, H, d) and of the actions a (B, N, m) that led there."""
        return self.reward(x - self.goal, v, p - self._home, a)

    def cost_slopes(self, trajectory: Trajectory) -> tuple[torch.Tensor, ...]:
        """∂(−V)/∂x, ∂v, ∂p and ∂a, shaped like the trajectory's; zero where a row or an action is not counted."""
        counted = [slice(1, self.N + 1)] * 3 + [slice(0, self.N)]
        rows = [getattr(trajectory, name).detach() for name in ("x", "v", "p", "a")]
        slopes = tuple(torch.empty_like(row) for row in rows)
        for slope, those in zip(slopes, counted, strict=True):
            slope[:, : those.start], slope[:, those.stop :] = 0.0, 0.0
        x, v, p, a = (row[:, those] for row, those in zip(rows, counted, strict=True))
        out = [slope[:, those] for slope, those in zip(slopes, counted, strict=True)]
        self.reward.slopes(x - self.goal, v, p - self._home, a, out)
        return slopes

    def step_reward(self, state: State, a: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """(B,) reward r(state, a) of single steps with actions a (B, m) that led to `state`.

        last: (B,) bool, whether it is the horizon's last step
        """
        return self.reward.step(state.x - self.goal, state.v, state.p - self._home, a, last)

    def returns(self, trajectory: Trajectory) -> torch.Tensor:
        """(B,) the sum of the rewards, −inf for a failed rollout."""
        V = self.rewards(trajectory).sum(1)
        return torch.where(trajectory.ok, V, -torch.inf)

    def curvature(self, N: int):
        """Q (1, N, n_s), R (1, N, m) of the cost −V on the simulator's device."""
        s = self.system
        q, r = self.reward.curvature(N, s.actions, s.points * s.dim)
        return tuple(y.to(self.simulator.device, self.simulator.dtype).contiguous() for y in (q, r))

    def definition(self) -> dict:
        """Everything that sets what a policy's return on the test states is."""
        return {
            "name": self.name,
            "system": self.system.digest(),
            "h": self.h,
            "N": self.N,
            "limit": self.limit,
            "reward": {"kind": type(self.reward).__name__, **dataclasses.asdict(self.reward)},
            "shake": dataclasses.asdict(self.shake),
        }

    def digest(self) -> str:
        """A hash of `definition`, the key of files that belong to this very task."""
        return hashlib.sha256(json.dumps(self.definition(), sort_keys=True).encode()).hexdigest()
