"""A live simulation with hands on it: what the viewer shows and what its keys do. Knows no window."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from taichi_sim import State
from taichi_sim.errors import expect
from tasks import TEST_STATES, Task

ROWS = 5000  # of history, for scrubbing
PUSH = 0.8  # m/s, what a push adds to every point's velocity
REACH = 0.05  # m, of one step of the target
SPEEDS = tuple(2.0**n for n in range(-5, 3))
SEED = 3  # of the start states that "new" draws
LATE = 0.1  # s, how much simulated time one picture may catch up


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One instant of all copies: x, v (C, P, d), p (C, H, d), cost so far (C,), status (C,)."""

    x: np.ndarray
    v: np.ndarray
    p: np.ndarray
    cost: np.ndarray
    status: np.ndarray


class Session:
    """K rollouts of each performer, side by side, from the same start states, going on until reset.

    performers: (name, policy) each; a policy maps observations (B, n_s) to actions (B, m), None does nothing.
    The state may be changed from outside at any step: a push, a hand that drives, another start, another target.
    """

    def __init__(self, task: Task, performers, count: int = 1, state: int = 0):
        expect(len(performers) >= 1, "performers", "at least one", 0)
        expect(isinstance(count, int) and 1 <= count <= TEST_STATES, "count", f"1 to {TEST_STATES} rollouts", count)
        self.task, self.performers, self.count = task, performers, count
        self.performer = np.repeat(np.arange(len(performers)), count)
        self.playing, self.policy_on, self.trails, self.speed = True, True, True, 1.0
        self.hand = np.zeros(task.system.actions)  # m/s, where not zero it replaces the policy's action
        self.target = np.zeros(task.system.dim)  # m, how far the goal is moved
        self.scrub: int | None = None  # the row of history that is shown instead of the last
        self.state, self._draws = 0, 0
        self.reset(state)

    # Time

    def reset(self, state: int | None = None):
        """Start again from test states state, state + 1, …; None: from states drawn anew."""
        n = self.count
        if state is None:
            self._draws += 1
            start, self.start = self.task.start((SEED, self._draws), n), f"new state {self._draws}"
        else:
            self.state = state % (TEST_STATES - n + 1)
            start, self.start = self.task.test_states(self.state + n)[self.state :], f"test state {self.state}"
        copies = torch.arange(n).repeat(len(self.performers)).to(start.x.device)
        self._state = start[copies]
        zero = np.zeros(len(copies))
        self.history = [self._row(zero, zero.astype(int))]
        self.dropped, self._owed, self.scrub = 0, 0.0, None

    def next_state(self):
        """Start again from the test states after those shown."""
        self.reset(self.state + self.count)

    def elapse(self, seconds: float) -> int:
        """Simulate what happens in so many seconds of the watcher's time; returns the steps made."""
        if not self.playing or self.scrub is not None:
            return 0
        self._owed = min(self._owed + seconds * self.speed, max(LATE, self.task.h))
        steps = int(self._owed / self.task.h)
        self._owed -= steps * self.task.h
        for _ in range(steps):
            self.step()
        return steps

    @torch.no_grad()
    def step(self):
        """One time step. Copies whose step fails stay where they are and carry the status."""
        state, task = self._state, self.task
        shift = torch.as_tensor(self.target).to(state.x)
        observation = task.observe(state.x - shift, state.v, state.p - shift)
        action = torch.zeros(len(state), task.system.actions, dtype=state.x.dtype, device=state.x.device)
        for n, (_, policy) in enumerate(self.performers):
            rows = slice(n * self.count, (n + 1) * self.count)
            if policy is not None and self.policy_on:
                action[rows] = policy(observation[rows]).to(action)
        hand = torch.as_tensor(self.hand).to(action)
        action = torch.where(hand != 0, hand, action).clamp(-task.limit, task.limit)
        rows = task.simulator.begin(state, 1)  # as in a learner's rollout: an action that is not finite gets a status
        rows.a[:, 0] = action
        task.simulator.advance(rows, 0)
        self._state, status = rows.state(1), rows.status[:, 0]
        now = self._state
        home = torch.as_tensor(task.system.home.copy()).to(now.p)
        each = (now.x - shift - task.goal.to(now.x), now.v, now.p - shift - home)
        reward = task.reward(*(y[:, None] for y in each), action[:, None])[:, 0]
        last = self.history[-1]
        self.history.append(self._row(last.cost - reward.double().cpu().numpy(), status.cpu().numpy()))
        if len(self.history) > ROWS:
            del self.history[0]
            self.dropped += 1

    # Hands

    def push(self, direction):
        """Give every point PUSH m/s along `direction` (d,)."""
        direction = np.asarray(direction, dtype=float)
        unit = direction / max(np.linalg.norm(direction), 1e-12)
        kick = torch.as_tensor(PUSH * unit).to(self._state.v)
        self._state = State.start(self._state.x, self._state.v + kick, self._state.p)
        self._owed = 0.0

    def move_target(self, direction):
        """Move the goal by REACH along `direction` (d,), as far as a handle can go that way."""
        axes = self.task.system.axes.reshape(self.task.system.handles, self.task.system.dim, -1)
        free = np.abs(axes).sum((0, 2)) > 0
        for plane in range(self.task.system.planes):
            free &= self.task.system.normal[plane] == 0  # a table stays where it is
        self.target = self.target + REACH * np.where(free, direction, 0.0)

    def change_speed(self, factor: float):
        self.speed = float(np.clip(self.speed * factor, SPEEDS[0], SPEEDS[-1]))

    # What there is to see

    @property
    def shown(self) -> int:
        """The row of `history` that is shown."""
        last = len(self.history) - 1
        return last if self.scrub is None else max(0, min(self.scrub, last))

    @property
    def time(self) -> float:
        return (self.shown + self.dropped) * self.task.h

    def trail(self, seconds: float) -> np.ndarray:
        """(C, T, d) the path of the middle of each copy's points."""
        first = max(0, self.shown - int(seconds / self.task.h))
        path = [row.x.mean(1) for row in self.history[first : self.shown + 1]]
        return np.stack([path[0]] * (2 - len(path)) + path, 1)

    def metrics(self) -> list[dict]:
        """For each performer, means over its copies: cost so far, kinetic energy J, distance m, failed copies."""
        row, system = self.history[self.shown], self.task.system
        kinetic = 0.5 * (system.mass * (row.v**2).sum(-1)).sum(-1)
        goal = self.task.goal.double().cpu().numpy() + self.target
        far = np.linalg.norm(row.x - goal, axis=-1).mean(-1)
        parts = [np.flatnonzero(self.performer == n) for n in range(len(self.performers))]
        values = (row.cost, kinetic, far)
        found = [[float(y[part].mean()) for y in values] + [int((row.status[part] != 0).sum())] for part in parts]
        return [dict(zip(("cost", "kinetic", "distance", "failed"), f, strict=True)) for f in found]

    def _row(self, cost, status) -> Row:
        arrays = (getattr(self._state, name).double().cpu().numpy().copy() for name in ("x", "v", "p"))
        return Row(*arrays, cost, status)

    @property
    def horizon(self) -> float:
        """s, after which a learner's rollout would end."""
        return self.task.N * self.task.h

    @property
    def length(self) -> int:
        return len(self.history) - 1
