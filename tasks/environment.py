"""The tasks as Gymnasium environments: batches on the simulator's device, or one at a time in NumPy.

>>> import gymnasium
>>> import tasks.environment  # registers Pods/Rope3D-Stop-v0 and all other tasks
>>> envs = gymnasium.make_vec("Pods/Rope3D-Stop-v0", num_envs=64)  # torch tensors
>>> env = gymnasium.make("Pods/Rope3D-Stop-v0")  # NumPy arrays

Gymnasium itself imports the module named before a colon: `gymnasium.make("tasks.environment:Pods/Rope3D-Stop-v0")`.
For a batch in NumPy:

>>> from gymnasium.wrappers.vector import ArrayConversion
>>> envs = ArrayConversion(envs, env_xp=torch, target_xp=numpy)
"""

from __future__ import annotations

import dataclasses
import functools

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

import taichi_sim
from taichi_sim import State, Status
from taichi_sim.errors import InputError, expect

from . import make, names
from .task import FAR, Task

EPISODES = 10  # purpose of the start states drawn here, see learner.seeds


class VectorEnvironment(gymnasium.vector.VectorEnv):
    """`num_envs` episodes of a task side by side, each at its own time; torch tensors on the simulator's device.

    observation: (num_envs, n_s) float32, `Task.observe` of the row after the step
    action: (num_envs, m) m/s, clipped to ±limit; anything `torch.as_tensor` takes, NaN raises `InputError`
    reward: (num_envs,), the term of `Task.rewards` for that row and action; their sum over an episode is the return
    terminated: always False. truncated: after N steps, or where the simulator's step failed. A failed step repeats
        the row before it; `info["status"]` (num_envs,) tells, see `taichi_sim.Status`. Observations and rewards of
        what went astray are clipped to ±1000 m, 1000 m/s and −1000

    With autoreset_mode SAME_STEP an episode that ends begins again in the same step: the observation is the new
    start's, `info["final_obs"]` (num_envs, n_s) holds the last one where `info["_final_obs"]`, and
    `info["final_info"]` its status. With DISABLED the caller resets what has ended, `InputError` otherwise.

    No gradient flows through here: `Simulator.step` and `Simulator.rollout` are the differentiable way.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}
    render_mode = None

    def __init__(
        self,
        task: Task | str,
        num_envs: int = 1,
        N: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    ):
        """task: one of `tasks.names()`, or a Task, whose horizon stands.

        N: horizon in steps, by default the task's. Taichi is started by a task's name if it is not running.
        """
        expect(isinstance(num_envs, int) and num_envs >= 1, "num_envs", "at least one environment", num_envs)
        expect(isinstance(task, str) or N is None, "N", "None beside a Task, which has a horizon", N)
        known = (AutoresetMode.SAME_STEP, AutoresetMode.DISABLED)
        mode = next((m for m in known if autoreset_mode in (m, m.value)), None)
        expect(mode is not None, "autoreset_mode", "SAME_STEP or DISABLED", autoreset_mode)
        self.metadata = self.metadata | {"autoreset_mode": mode}
        self.task = _task(task, N) if isinstance(task, str) else task
        self.num_envs = num_envs
        limit, m, n = self.task.limit, self.task.system.actions, self.task.observation_size
        self.single_action_space = Box(-limit, limit, (m,), np.float32)
        self.single_observation_space = Box(-np.inf, np.inf, (n,), np.float32)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        device = self.task.simulator.device
        self._state: State | None = None
        self._steps = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self._over = torch.zeros(num_envs, dtype=torch.bool, device=device)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin new episodes; returns the observations of all environments and an empty info.

        seed: determines every start state from now on, later resets' included; without one they go on as they were
        options: {"reset_mask": (num_envs,) bool} resets these environments only; {"start": State} gives the start
            states of the episodes that begin, with a history if they have one
        """
        super().reset(seed=seed)
        options = options or {}
        for name in options:
            expect(name in ("reset_mask", "start"), "options", "reset_mask or start", repr(name))
        mask = self._mask(options.get("reset_mask"))
        n = int(mask.sum())
        start = options.get("start")
        if start is not None:
            expect(isinstance(start, State), 'options["start"]', "a State", type(start).__name__)
            expect(len(start) == n, 'options["start"]', f"{n} start states", len(start))
            start = self.task.simulator.begin(start, 1).start  # checked
        self._begin(mask, self._draw(n) if start is None else start)
        return self._observe(), {}

    def step(self, actions):
        """One step of every environment: observation, reward, terminated, truncated, info; see the class."""
        expect(self._state is not None, "step", "a reset before the first step", "none")
        expect(
            not bool(self._over.any()), "step", "a reset of the episodes that have ended", f"{int(self._over.sum())}"
        )
        a = self._check_actions(actions)
        with torch.no_grad():
            self._state, status = self.task.simulator.step(self._state, a)
            self._steps += 1
            last = self._steps >= self.task.N
            reward = self.task.step_reward(self._state, a, last).nan_to_num(-FAR).clamp(min=-FAR)
            observation = self._observe()
        truncated = last | (status != Status.OK)
        info = {"status": status, "_status": torch.ones_like(truncated)}
        if bool(truncated.any()):
            if self.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP:
                info |= {"final_obs": observation, "_final_obs": truncated.clone()}
                info |= {"final_info": {"status": status.clone(), "_status": truncated.clone()}}
                info |= {"_final_info": truncated.clone()}
                self._begin(truncated, self._draw(int(truncated.sum())))
                observation = self._observe()
            else:
                self._over = truncated.clone()
        return observation, reward, torch.zeros_like(truncated), truncated, info

    # Inside

    def _observe(self) -> torch.Tensor:
        state = self._state
        return self.task.observe(state.x, state.v, state.p).clamp(-FAR, FAR).float()

    def _draw(self, n: int) -> State:
        return self.task.start((EPISODES, int(self.np_random.integers(2**63))), n)

    def _begin(self, mask: torch.Tensor, start: State):
        """Put the environments under `mask` at `start`, which has a row for each."""
        if bool(mask.all()):
            self._state = start
        else:
            fields = {f.name: getattr(self._state, f.name).clone() for f in dataclasses.fields(State)}
            for name, tensor in fields.items():
                tensor[mask] = getattr(start, name)
            self._state = State(**fields)
        self._steps = self._steps.masked_fill(mask, 0)
        self._over = self._over & ~mask

    def _mask(self, mask) -> torch.Tensor:
        if mask is None:
            return torch.ones_like(self._over)
        mask = torch.as_tensor(mask, device=self._over.device)
        good = mask.dtype == torch.bool and mask.shape == self._over.shape and bool(mask.any())
        expect(good, 'options["reset_mask"]', f"({self.num_envs},) bool, not all False", mask)
        expect(self._state is not None or bool(mask.all()), 'options["reset_mask"]', "all True at first", mask)
        return mask

    def _check_actions(self, actions) -> torch.Tensor:
        """(num_envs, m) of the simulator's dtype within ±limit."""
        simulator = self.task.simulator
        a = torch.as_tensor(actions).detach().to(simulator.device, simulator.dtype)
        expect(a.shape == self.action_space.shape, "actions", self.action_space.shape, tuple(a.shape))
        if bool(a.isnan().any()):
            raise InputError(f"actions: expected numbers, got nan at {tuple(a.isnan().nonzero()[0].tolist())}")
        return a.clamp(-self.task.limit, self.task.limit)


class Environment(gymnasium.Env):
    """One episode of a task at a time, as `VectorEnvironment` of one; NumPy arrays, `reset` and `step` as there.

    observation: (n_s,) float32    action: (m,) m/s    info: {"status": int} after a step
    """

    metadata = {"render_modes": []}
    render_mode = None

    def __init__(self, task: Task | str, N: int | None = None):
        self._batch = VectorEnvironment(task, 1, N, AutoresetMode.DISABLED)
        self.task = self._batch.task
        self.action_space = self._batch.single_action_space
        self.observation_space = self._batch.single_observation_space

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        """Begin an episode; options: {"start": State of one} gives its start state."""
        super().reset(seed=seed)
        self._batch.np_random = self.np_random
        observation, info = self._batch.reset(options=options)
        return observation[0].cpu().numpy(), info

    def step(self, action):
        observation, reward, terminated, truncated, info = self._batch.step(np.asarray(action)[None])
        status = {"status": int(info["status"][0])}
        return observation[0].cpu().numpy(), float(reward[0]), bool(terminated[0]), bool(truncated[0]), status


@functools.cache
def _task(name: str, N: int | None) -> Task:
    """Shared by all environments of a process, so that a system is compiled once."""
    if not taichi_sim.runtime.started():
        taichi_sim.init("auto")
    return make(name, N)


def register():
    """Make Gymnasium know every task: rope3d-stop as Pods/Rope3D-Stop-v0. Does nothing a second time."""
    for name in names():
        if (id := f"Pods/{name.title()}-v0") not in gymnasium.registry:
            here = "tasks.environment"
            gymnasium.register(
                id,
                entry_point=f"{here}:Environment",
                vector_entry_point=f"{here}:VectorEnvironment",
                kwargs={"task": name},
            )


register()
