"""What is timed of a task: its rollouts, their derivatives, and the parts of a PODS epoch."""

from __future__ import annotations

from collections.abc import Callable

import torch

from learner.directions import SHARE, gauss_newton
from learner.graphs import adam
from learner.imitation import Samples, imitate, schedule
from learner.line_search import line_search
from learner.objective import cost_gradient
from learner.pods import PRESETS, Config
from learner.policy import Policy
from learner.rollouts import closed_loop
from taichi_sim import runtime
from tasks import Task

SEED = (9,)  # of the start states; no training and no test uses it
LARGEST_JACOBIAN = 2**30  # bytes
LARGEST_STATE = 100  # numbers in the Riccati recursion's state; beyond, one direction takes half a minute
# What each is a multiple of; always measured
FORWARD = "forward"
JACOBIANS = ("jacobian", "jacobian bound")
NAMES = (FORWARD, "closed loop", "vjp", "jvp", *JACOBIANS, "riccati", "cg", "direction", "line search", "imitation")


class Operations:
    """Calls on `rollouts` rollouts of a task with actions drawn uniformly within the limits, anew at every step.

    rows: the trajectory that derivatives are taken at        improvable: the policy's rollouts, which epochs begin with
    """

    def __init__(self, task: Task, rollouts: int, preset: str):
        self.task, self.rollouts = task, rollouts
        self.start = task.start(SEED, rollouts)
        simulator, m = task.simulator, task.system.actions
        generator = torch.Generator().manual_seed(0)
        actions = task.limit * (2 * torch.rand(rollouts, task.N, m, generator=generator, dtype=torch.float64) - 1)
        self.actions = actions.to(simulator.device, simulator.dtype)
        self.rows = simulator.rollout(self.start, self.actions)
        self.policy = Policy(task, seed=0)
        self.improvable = closed_loop(task, self.policy, self.start)
        self.config = Config(**PRESETS[preset] | {"k": rollouts})

    def calls(self, names) -> dict[str, Callable[[], object]]:
        """The operations of these names that this task has."""
        every = {name: getattr(self, f"_{name.replace(' ', '_')}")() for name in names}
        return {name: call for name, call in every.items() if call is not None}

    def counted(self, name: str) -> int:
        """Rollouts that an operation works on."""
        return min(self.rollouts, self._jacobians) if name in JACOBIANS else self.rollouts

    @property
    def _jacobians(self) -> int:
        s, N = self.task.system, self.task.N
        return max(1, LARGEST_JACOBIAN // (N * s.state_size * N * s.actions * self.rows.x.element_size()))

    def _forward(self):
        return lambda: self.task.simulator.rollout(self.start, self.actions)

    def _closed_loop(self):
        return lambda: closed_loop(self.task, self.policy, self.start)

    def _vjp(self):
        gx, gv, gp = (torch.ones_like(rows) for rows in (self.rows.x, self.rows.v, self.rows.p))
        return lambda: self.task.simulator.vjp(self.rows, gx, gv, gp)

    def _jvp(self):
        return lambda: self.task.simulator.jvp(self.rows, self.actions)

    def _jacobian(self):
        few = self.rows[: self._jacobians]
        return lambda: self.task.simulator.jacobian(few)

    def _jacobian_bound(self):
        """Of its bandwidth: numbers of its size, written into fresh memory."""
        shape = self.task.simulator.jacobian(self.rows[: self._jacobians]).shape
        return lambda: runtime.zeros(*shape).fill_(0.0)

    def _model(self):
        """Arguments of a Gauss–Newton step."""
        return self.improvable, cost_gradient(self.task, self.improvable), *self.task.curvature(self.task.N)

    def _riccati(self):
        if 4 * self.task.system.points * self.task.system.dim > LARGEST_STATE:
            return None
        model, simulator = self._model(), self.task.simulator
        solve = simulator.gauss_newton if simulator.direct else simulator.gauss_newton_riccati
        return lambda: solve(*model)

    def _cg(self):
        model = self._model()
        return lambda: self.task.simulator.gauss_newton_cg(*model, tolerance=SHARE)

    def _direction(self):
        return lambda: gauss_newton(self.task, self.improvable)

    def _line_search(self):
        direction = gauss_newton(self.task, self.improvable)
        return lambda: line_search(self.task, self.improvable, direction)

    def _imitation(self):
        samples, c = Samples.of(self.task, self.improvable), self.config
        policy = Policy(self.task, seed=0)
        optimiser = adam(policy.parameters(), c.rate)
        return lambda: imitate(policy, optimiser, samples, c.steps, c.batch, schedule(c, 0), 0, 0)
