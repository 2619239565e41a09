"""What PPO and SAC share: Stable-Baselines3 on the environments of `tasks`, with the networks of `Policy`.

An epoch is one episode of each of k environments side by side, from start states that are a function of (seed,
epoch). Stable-Baselines3 draws from the global generators of torch and NumPy, which every epoch seeds anew, so that no
environment and no generator needs to be in a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from taichi_sim import State, Status
from tasks import Task
from tasks.environment import VectorEnvironment

from . import seeds
from .policy import Policy
from .training import Training, cosine


class Episodes(VecEnv):
    """k episodes of a task for Stable-Baselines3: NumPy arrays, actions within ±1 in units of the task's limit.

    Rewards are multiplied by `scale`. An episode that ends by the horizon is told as truncated, with its last
    observation, so that its value is bootstrapped; the environment then waits for `begin` and `reset`. One whose step
    fails is truncated in the same way and begins again at once.

    returns: (k,) the sums of the true rewards of the episodes begun last by `begin`; failed: (k,) bool, which of them
    """

    def __init__(self, task: Task, k: int, scale: float):
        self.environment = VectorEnvironment(task, k, autoreset_mode=AutoresetMode.DISABLED)
        self._limit, self._scale, self._nothing = np.float32(task.limit), scale, [{}] * k
        one = np.ones(task.system.actions, np.float32)
        super().__init__(k, self.environment.single_observation_space, Box(-one, one))

    def begin(self, start: State, seed: int):
        """Set where the next `reset` starts; `seed` determines where failed episodes begin again."""
        self._next, self._seed = start, seed

    def reset(self) -> np.ndarray:
        self.returns = torch.zeros(self.num_envs, dtype=torch.float64)
        self.failed = torch.zeros(self.num_envs, dtype=torch.bool)
        observation, _ = self.environment.reset(seed=self._seed, options={"start": self._next})
        return observation.cpu().numpy()

    def step_async(self, actions: np.ndarray):
        self._actions = torch.from_numpy(self._limit * actions)

    def step_wait(self):
        observation, reward, _, truncated, info = self.environment.step(self._actions)
        reward, truncated, status = reward.cpu(), truncated.cpu(), info["status"].cpu()
        self.returns += torch.where(self.failed, 0.0, reward)
        failed, infos = status != Status.OK, self._nothing
        if bool(truncated.any()):
            last = observation.cpu().numpy()
            infos = [
                {"terminal_observation": row, "TimeLimit.truncated": True} if end else {}
                for row, end in zip(last, truncated, strict=True)
            ]
        if bool(failed.any()):
            self.failed |= failed
            observation, _ = self.environment.reset(options={"reset_mask": failed})
        rewards = (self._scale * reward).float().numpy()
        return observation.cpu().numpy(), rewards, truncated.numpy(), infos

    def close(self):
        self.environment.close()

    def get_attr(self, attr_name, indices=None):
        return [getattr(self.environment, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name, value, indices=None):
        raise NotImplementedError("the environments of a batch have no attributes of their own")

    def env_method(self, method_name, *method_args, indices=None, **method_kwargs):
        raise NotImplementedError("the environments of a batch have no methods of their own")

    def env_is_wrapped(self, wrapper_class, indices=None):
        return [False for _ in self._get_indices(indices)]


class Whitening(BaseFeaturesExtractor):
    """`Policy.whitened`, a constant of the task."""

    def __init__(self, observation_space, policy: Policy):
        super().__init__(observation_space, len(policy.mean))
        self._whitened = policy.whitened

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self._whitened(observation)


class Laps(BaseCallback):
    """Tells the clock of a training which of its time goes into rollouts and which into updates."""

    def __init__(self, training: Training):
        super().__init__()
        self._training = training

    def _on_rollout_start(self):
        self._training.lap("update")

    def _on_rollout_end(self):
        self._training.lap("rollout")

    def _on_step(self) -> bool:
        return True


def copy_layers(source: Iterable[nn.Linear], target: Iterable[nn.Linear]):
    """Give the layers of `target` the weights of `source`."""
    for one, other in zip(source, target, strict=True):
        other.load_state_dict(one.state_dict())


def play(model: BaseAlgorithm, training: Training, epoch: int):
    """One epoch: `model` acts and learns until its k episodes have ended; what it says of it is in `model.logger`."""
    task, config, episodes = training.task, training.config, model.env
    number = seeds.number(seeds.NOISE, config.seed, epoch)
    torch.manual_seed(number)
    np.random.seed(seeds.number(seeds.REPLAY, config.seed, epoch) % 2**32)
    model.action_space.seed(number % 2**32)
    episodes.begin(task.start(seeds.starts(config.seed, epoch), config.k), number)
    model.lr_schedule = lambda progress: cosine(config, epoch)
    model.set_logger(Logger(None, []))  # writes nothing
    model.num_timesteps = epoch * config.k * task.N
    model._last_obs = None  # so that `learn` resets the episodes
    training.lap("rollout")
    model.learn(config.k * task.N, Laps(training), log_interval=None, reset_num_timesteps=False)
    training.lap("update")
    training.expect_few(int(episodes.failed.sum()), config.k)
