"""PPO (Schulman et al. 2017) by Stable-Baselines3, on the policy, starts and clock of all learners."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import stable_baselines3
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from taichi_sim.errors import expect
from tasks import Task

from . import seeds, settings
from .baselines import Episodes, Whitening, copy_layers, play
from .policy import WIDTH, Policy
from .rollouts import resting_cost
from .run import Run
from .settings import setting
from .training import Training, pack, unpack


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.Config):
    """Settings of PPO."""

    window: int = setting(30, "steps of each environment between PPO's updates, a divisor of the horizon", 1)
    passes: int = setting(10, "over the window's samples in an update of PPO", 1)
    minibatches: int = setting(8, "of a pass, a divisor of k x window", 1)
    rate: float = setting(3e-4, "Adam's learning rate at the start", 1e-9, 1.0)
    rate_end: float = setting(1e-5, "and at the end, along a cosine", 0.0, 1.0)
    gamma: float = setting(0.99, "discount of the reward of a step", 0.0, 1.0)
    trace: float = setting(0.95, "lambda of generalised advantage estimation", 0.0, 1.0)
    clip: float = setting(0.2, "of the probability ratio", 1e-9)
    entropy: float = setting(0.0, "weight of the policy's entropy in PPO's loss", 0.0)
    std: float = setting(0.5, "of the exploration at the start, in units of the limit", 1e-9)
    reward_scale: float = setting(0.1, "reward of an uncontrolled step, as the learner sees it", 1e-9)

    def check_task(self, task: Task):
        expect(task.N % self.window == 0, "window", f"a divisor of the horizon of {task.N} steps", self.window)
        samples = self.k * self.window
        expect(samples % self.minibatches == 0, "minibatches", f"a divisor of {samples} samples", self.minibatches)
        expect(samples > self.minibatches, "minibatches", f"fewer than {samples}, the samples", self.minibatches)


PRESETS = {
    "paper": {"minibatches": 32},
    "cpu": {"epochs": 30, "k": 128, "gamma": 0.98, "std": 0.3},
}


class Gaussian(ActorCriticPolicy):
    """a ~ N(tanh(MLP), σ²) in units of the limit, σ free of the state; the value is an MLP of the same shape."""

    def _get_action_dist_from_latent(self, latent_pi: torch.Tensor):
        return self.action_dist.proba_distribution(torch.tanh(self.action_net(latent_pi)), self.log_std)


def actor_layers(model: stable_baselines3.PPO) -> list[nn.Linear]:
    """The layers of the mean before its tanh, as in `Policy.layers`."""
    first, _, second, _ = model.policy.mlp_extractor.policy_net
    return [first, second, model.policy.action_net]


def model_of(task: Task, config: Config, policy: Policy, scale: float) -> stable_baselines3.PPO:
    """A PPO whose mean action is that of `policy`; rewards are multiplied by `scale`."""
    torch.manual_seed(seeds.number(seeds.NETWORKS, config.seed, 0))
    networks = {
        "net_arch": [WIDTH, WIDTH],
        "activation_fn": nn.ReLU,
        "log_std_init": math.log(config.std),
        "features_extractor_class": Whitening,
        "features_extractor_kwargs": {"policy": policy},
    }
    model = stable_baselines3.PPO(
        Gaussian,
        Episodes(task, config.k, scale),
        n_steps=config.window,
        batch_size=config.k * config.window // config.minibatches,
        n_epochs=config.passes,
        gamma=config.gamma,
        gae_lambda=config.trace,
        clip_range=config.clip,
        ent_coef=config.entropy,
        policy_kwargs=networks,
        device=policy.limit.device,
    )
    copy_layers(policy.layers, actor_layers(model))
    return model


def train(task: Task, config: Config, run: Run, on_epoch: Callable[[dict], None] = lambda row: None) -> Policy:
    """Train a policy, from the run's newest checkpoint if it has one; returns it, which acts by the mean.

    Seeds torch's and NumPy's global generators. on_epoch: called with each row that is added to log.csv
    """
    training = Training(task, config, run, on_epoch)
    policy = Policy(task, config.seed)
    model = model_of(task, config, policy, config.reward_scale / resting_cost(task))
    unpack("ppo", training.tensors, model.policy, model.policy.optimizer)
    copy_layers(actor_layers(model), policy.layers)

    for epoch in training.epochs():
        play(model, training, epoch)
        copy_layers(actor_layers(model), policy.layers)
        said = model.logger.name_to_value
        training.end_epoch(
            policy,
            config.k * task.N,
            model.env.returns[~model.env.failed],
            int(model.env.failed.sum()),
            std=model.policy.log_std.exp().mean().item(),
            kl=float(said["train/approx_kl"]),
            clipped=float(said["train/clip_fraction"]),
            value_loss=float(said["train/value_loss"]),
            explained_variance=float(said["train/explained_variance"]),
            tensors=pack("ppo", model.policy, model.policy.optimizer),
        )
    return policy
