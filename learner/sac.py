"""SAC (Haarnoja et al. 2018) by Stable-Baselines3, on the policy, starts and clock of all learners."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import stable_baselines3
import torch
from torch import nn

from taichi_sim.errors import expect
from tasks import Task

from . import seeds, settings
from .baselines import Episodes, Whitening, copy_layers, play
from .files import integer, load_module
from .policy import WIDTH, Policy
from .rollouts import resting_cost
from .run import Run
from .settings import setting
from .training import Training, pack, unpack

# Of the replay buffer
STORED = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.Config):
    """Settings of SAC."""

    k: int = setting(64, "rollouts an epoch, side by side", 1)
    updates: int = setting(4, "gradient steps of SAC after each step of the k environments", 1)
    batch: int = setting(256, "samples a gradient step sees", 1)
    buffer: int = setting(200_000, "samples that the replay buffer holds, the newest", 1)
    warmup: int = setting(10, "random steps of each environment at the very beginning", 0)
    rate: float = setting(1e-3, "Adam's learning rate at the start", 1e-9, 1.0)
    rate_end: float = setting(1e-5, "and at the end, along a cosine", 0.0, 1.0)
    gamma: float = setting(0.99, "discount of the reward of a step", 0.0, 1.0)
    tau: float = setting(0.005, "share by which the target critics follow the critics", 1e-9, 1.0)
    temperature: float = setting(0.01, "weight of the entropy at the start, then tuned", 1e-9)
    target_entropy: float = setting(-2.0, "per action, towards which the temperature is tuned")
    std: float = setting(0.3, "of the exploration at the start, in units of the limit", 1e-9)
    reward_scale: float = setting(0.1, "reward of an uncontrolled step, as the learner sees it", 1e-9)

    def check_task(self, task: Task):
        expect(self.warmup < task.N, "warmup", f"fewer steps than the horizon's {task.N}", self.warmup)
        expect(self.buffer >= self.k, "buffer", f"room for a step of {self.k} environments", self.buffer)


PRESETS = {
    "paper": {},
    "cpu": {"epochs": 22, "updates": 2},
}


def actor_layers(model: stable_baselines3.SAC) -> list[nn.Linear]:
    """The layers of the mean before its tanh, as in `Policy.layers`."""
    first, _, second, _ = model.actor.latent_pi
    return [first, second, model.actor.mu]


def model_of(task: Task, config: Config, policy: Policy, scale: float) -> stable_baselines3.SAC:
    """A SAC whose deterministic action is that of `policy`; rewards are multiplied by `scale`."""
    torch.manual_seed(seeds.number(seeds.NETWORKS, config.seed, 0))
    networks = {
        "net_arch": [WIDTH, WIDTH],
        "features_extractor_class": Whitening,
        "features_extractor_kwargs": {"policy": policy},
    }
    model = stable_baselines3.SAC(
        "MlpPolicy",
        Episodes(task, config.k, scale),
        learning_rate=config.rate,
        buffer_size=config.buffer,
        learning_starts=config.warmup * config.k,
        batch_size=config.batch,
        tau=config.tau,
        gamma=config.gamma,
        gradient_steps=config.updates,
        ent_coef=f"auto_{config.temperature}",
        target_entropy=config.target_entropy * task.system.actions,
        policy_kwargs=networks,
        device=policy.limit.device,
    )
    copy_layers(policy.layers, actor_layers(model))
    nn.init.zeros_(model.actor.log_std.weight)
    nn.init.constant_(model.actor.log_std.bias, math.log(config.std))
    return model


def train(task: Task, config: Config, run: Run, on_epoch: Callable[[dict], None] = lambda row: None) -> Policy:
    """Train a policy, from the run's newest checkpoint if it has one; returns it, which acts without noise.

    Seeds torch's and NumPy's global generators. on_epoch: called with each row that is added to log.csv
    """
    training = Training(task, config, run, on_epoch)
    policy = Policy(task, config.seed)
    model = model_of(task, config, policy, config.reward_scale / resting_cost(task))
    if training.tensors:
        _restore(model, training)
    copy_layers(actor_layers(model), policy.layers)

    for epoch in training.epochs():
        play(model, training, epoch)
        copy_layers(actor_layers(model), policy.layers)
        said, buffer = model.logger.name_to_value, model.replay_buffer
        training.end_epoch(
            policy,
            config.k * task.N,
            model.env.returns[~model.env.failed],
            int(model.env.failed.sum()),
            temperature=float(said["train/ent_coef"]),
            actor_loss=float(said["train/actor_loss"]),
            critic_loss=float(said["train/critic_loss"]),
            tensors=_tensors(model),
            state={"buffer_position": buffer.pos, "buffer_full": buffer.full},
        )
    return policy


def _tensors(model: stable_baselines3.SAC) -> dict[str, torch.Tensor]:
    """All that a checkpoint holds beside the policy and the place in the replay buffer."""
    temperature, buffer = model.ent_coef_optimizer.state[model.log_ent_coef], model.replay_buffer
    return (
        pack("actor", model.actor, model.actor.optimizer)
        | pack("critic", model.critic, model.critic.optimizer)
        | {f"target/{name}": tensor for name, tensor in model.critic_target.state_dict().items()}
        | {"temperature/log": model.log_ent_coef}
        | {f"adam/temperature/{name}": tensor for name, tensor in temperature.items()}
        | {f"replay/{name}": torch.from_numpy(getattr(buffer, name)[: buffer.size()]) for name in STORED}
    )


def _restore(model: stable_baselines3.SAC, training: Training):
    """Undo `_tensors`."""
    unpack("actor", training.tensors, model.actor, model.actor.optimizer)
    unpack("critic", training.tensors, model.critic, model.critic.optimizer)
    load_module(model.critic_target, "target", training.tensors)
    log = model.log_ent_coef
    log.data.copy_(training.tensor("temperature/log", log))
    like = {"step": torch.zeros(()), "exp_avg": log, "exp_avg_sq": log}
    moments = {name: training.tensor(f"adam/temperature/{name}", tensor) for name, tensor in like.items()}
    model.ent_coef_optimizer.state[log] = moments
    buffer = model.replay_buffer
    position, full = integer(training.state, "buffer_position"), training.state.get("buffer_full")
    expect(type(full) is bool, "buffer_full", "true or false in the checkpoint", repr(full))
    expect(position < buffer.buffer_size, "buffer_position", f"below {buffer.buffer_size}", position)
    rows = buffer.buffer_size if full else position
    for name in STORED:
        place = getattr(buffer, name)[:rows]
        place[...] = training.tensor(f"replay/{name}", torch.from_numpy(place)).numpy()
    buffer.pos, buffer.full = position, full
