"""SHAC (Xu et al., Accelerated Policy Learning with Parallel Differentiable Simulation, ICLR 2022).

Gradients go through short windows of an episode; a critic stands for what comes after. Rollouts stand at different
times of their episodes, so that every window shows all of them.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable

import torch
from torch import nn

from taichi_sim import State
from taichi_sim.errors import expect
from tasks import Quadratic, Task

from . import seeds, settings
from .files import load_module
from .policy import WIDTH, Policy
from .returns import td_lambda
from .rollouts import differentiable, resting_cost
from .run import Run
from .settings import setting
from .training import Training, cosine, pack, unpack


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.Config):
    """Settings of SHAC; the defaults are the paper's where it gives one value for all its tasks."""

    window: int = setting(32, "steps of a window; shorter where that does not divide the horizon", 1)
    gamma: float = setting(0.99, "discount", 0.0, 1.0)
    trace: float = setting(0.95, "λ of the TD(λ) returns", 0.0, 1.0)
    rate: float = setting(2e-3, "the actor's learning rate at the start", 1e-9, 1.0)
    critic_rate: float = setting(2e-3, "the critic's; both fall along a cosine", 1e-9, 1.0)
    rate_end: float = setting(1e-5, "both at the end", 0.0, 1.0)
    passes: int = setting(16, "of the critic's regression over a window", 1)
    minibatches: int = setting(4, "in each pass", 1)
    smoothing: float = setting(0.2, "share of the target critic that stays, a window", 0.0, 1.0)
    clip: float = setting(1.0, "largest norm of a gradient", 1e-9)
    std: float = setting(0.37, "of the noise before the tanh, at the start; then it is learned", 1e-9, 10.0)

    def check_task(self, task: Task):
        expect(isinstance(task.reward, Quadratic), "task", "a reward that each step has its share of", task.reward)


PRESETS = {
    "paper": {"epochs": 1000, "k": 256},
    "cpu": {"epochs": 150, "k": 64, "passes": 2, "minibatches": 2},
}


class Noise(nn.Module):
    """limit · tanh(z + σ ε): z (B, m) of the policy, ε (B, m) standard normal, σ (m,) learned."""

    def __init__(self, task: Task, std: float):
        super().__init__()
        self.log_std = nn.Parameter(torch.full((task.system.actions,), std, device=task.simulator.device).log())

    def forward(self, policy: Policy, observation: torch.Tensor, epsilon: torch.Tensor) -> torch.Tensor:
        return policy.limit * torch.tanh(policy.unsquashed(observation) + self.log_std.exp() * epsilon)


class Critic(nn.Module):
    """V (...,), in units of `scale`, of observations (..., n_s) whitened as the policy's."""

    def __init__(self, policy: Policy, seed: int):
        super().__init__()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seeds.number(seeds.NETWORKS, seed, 0))
            sizes = (policy.mean.shape[0], WIDTH, WIDTH)
            layers = [f(a, b) for a, b in zip(sizes, sizes[1:], strict=False) for f in (nn.Linear, _smooth)]
            self.layers = nn.Sequential(*layers, nn.Linear(WIDTH, 1)).to(policy.mean.device)
        self._whitened = policy.whitened  # a constant of the task, no parameter of the critic

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.layers(self._whitened(observation)).squeeze(-1)


def _smooth(_, width: int) -> nn.Module:
    return nn.Sequential(nn.ELU(), nn.LayerNorm(width))


def window(config: Config, N: int) -> int:
    """The steps of a window: the most that `config` allows and that divide the horizon."""
    return max(steps for steps in range(1, config.window + 1) if N % steps == 0)


def actor_loss(task: Task, act, critic: Critic, state: State, steps: int, gamma: float, scale: float):
    """−1/(B h) Σ_i [Σ_{t<h} γᵗ r_t + γʰ V(s_h)] (Eq. 5) of the windows of B rollouts from `state` that do not fail.

    act: observations (B, n_s) -> actions (B, m)    steps: h    scale: the cost that is one unit of V

    Returns the loss, rewards (B, h) and observations (B, h+1, n_s) in units of V and without gradient, the state
    after the window, and ok (B,).
    """
    rewards, seen, after, ok = differentiable(task, act, state, steps)
    rewards = rewards / scale
    discounts = gamma ** torch.arange(steps, device=rewards.device)
    objective = (discounts * rewards).sum(1) + gamma**steps * critic(seen[:, -1])
    loss = -objective[ok].mean() / steps
    return loss, rewards.detach(), seen.detach(), after.detach(), ok


def train(task: Task, config: Config, run: Run, on_epoch: Callable[[dict], None] = lambda row: None) -> Policy:
    """Train a policy, from the run's newest checkpoint if it has one; returns it.

    An epoch is an episode of each of the k rollouts, and so N/h windows. Each rollout starts anew once in it.
    """
    training = Training(task, config, run, on_epoch)
    policy, noise = Policy(task, config.seed), Noise(task, config.std)
    critic = Critic(policy, config.seed)
    target = copy.deepcopy(critic).requires_grad_(False)
    betas = (0.7, 0.95)  # the paper's
    actor_adam = torch.optim.Adam([*policy.parameters(), *noise.parameters()], lr=config.rate, betas=betas, fused=True)
    critic_adam = torch.optim.Adam(critic.parameters(), lr=config.critic_rate, betas=betas, fused=True)
    unpack("policy", training.tensors, policy, actor_adam)
    unpack("noise", training.tensors, noise, actor_adam)
    unpack("critic", training.tensors, critic, critic_adam)
    scale = resting_cost(task)
    h = window(config, task.N)
    windows = task.N // h
    # Rollout i starts anew in window group[i] of every epoch.
    group = torch.arange(config.k, device=task.simulator.device) % windows
    begin = task.start(seeds.starts(config.seed, 0), config.k)
    state, so_far = begin, torch.zeros_like(begin.x[:, 0, 0])  # so_far: returns of the running episodes,
    counted = torch.zeros_like(so_far, dtype=torch.bool)  # where those have been seen from their start and do not fail
    if training.tensors:
        load_module(target, "target", training.tensors)
        names = [f.name for f in dataclasses.fields(State)]
        state = State(*(training.tensor(f"state/{name}", getattr(begin, name)) for name in names))
        so_far, counted = training.tensor("so_far", so_far), training.tensor("counted", counted)

    for epoch in training.epochs():
        begin = task.start(seeds.starts(config.seed, epoch), config.k)
        generator = torch.Generator().manual_seed(seeds.number(seeds.NOISE, config.seed, epoch))
        epsilon = torch.randn(config.k, task.N, task.system.actions, generator=generator).to(so_far.device)
        returns, losses, norms, failed = [], [], [], torch.zeros_like(so_far, dtype=torch.bool)
        for w in range(windows):
            new = group == w
            state, so_far, counted = _restarted(state, begin, new), so_far.masked_fill(new, 0.0), counted | new
            actor_adam.param_groups[0]["lr"] = cosine(config, epoch + w / windows)
            critic_adam.param_groups[0]["lr"] = actor_adam.param_groups[0]["lr"] * config.critic_rate / config.rate
            part = iter(epsilon[:, w * h : (w + 1) * h].unbind(1))
            act = functools.partial(_noisy, policy, noise, part)
            loss, rewards, seen, state, ok = actor_loss(task, act, target, state, h, config.gamma, scale)
            training.lap("rollout")
            actor_adam.zero_grad()
            loss.backward()
            norms.append(nn.utils.clip_grad_norm_([*policy.parameters(), *noise.parameters()], config.clip).item())
            actor_adam.step()
            training.lap("backward")
            losses.append(fit(critic, critic_adam, target, rewards[ok], seen[ok], config, generator))
            for slow, fast in zip(target.parameters(), critic.parameters(), strict=True):
                slow.lerp_(fast.detach(), 1 - config.smoothing)
            training.lap("critic")
            so_far = torch.where(ok, so_far + scale * rewards.sum(1), so_far)
            counted, failed = counted & ok, failed | ~ok
            returns.append(so_far[(group == (w + 1) % windows) & counted])
        training.expect_few(int(failed.sum()), config.k)
        training.end_epoch(
            policy,
            config.k * task.N,
            torch.cat(returns),
            int(failed.sum()),
            critic_loss=sum(losses) / len(losses),
            gradient=sum(norms) / len(norms),
            std=noise.log_std.exp().mean().item(),
            tensors={
                **pack("policy", policy, actor_adam),
                **pack("noise", noise, actor_adam),
                **pack("critic", critic, critic_adam),
                **{f"target/{name}": tensor for name, tensor in target.state_dict().items()},
                **{f"state/{f.name}": getattr(state, f.name) for f in dataclasses.fields(State)},
                "so_far": so_far,
                "counted": counted,
            },
        )
    return policy


def _noisy(policy: Policy, noise: Noise, epsilon, observation: torch.Tensor) -> torch.Tensor:
    return noise(policy, observation, next(epsilon))


def fit(critic: Critic, adam, target: Critic, rewards, seen, config: Config, generator) -> float:
    """`passes` over a window in minibatches, towards the TD(λ) returns of the target critic; the mean loss."""
    with torch.no_grad():
        returns = td_lambda(rewards, target(seen), config.gamma, config.trace).flatten().float()
    inputs, total = seen[:, :-1].flatten(0, 1), 0.0
    for _ in range(config.passes):
        order = torch.randperm(len(inputs), generator=generator).to(inputs.device)
        for rows in order.tensor_split(config.minibatches):
            loss = (critic(inputs[rows]) - returns[rows]).square().mean()
            adam.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(critic.parameters(), config.clip)
            adam.step()
            total += loss.item()
    return total / (config.passes * config.minibatches)


def _restarted(state: State, begin: State, which: torch.Tensor) -> State:
    """`state`, but `begin` for the rollouts in the mask `which`."""
    fields = (f.name for f in dataclasses.fields(State))
    pairs = ((getattr(begin, name), getattr(state, name)) for name in fields)
    return State(*(torch.where(which.view(-1, *[1] * (new.ndim - 1)), new, old) for new, old in pairs))
