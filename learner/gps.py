"""Mirror-descent guided policy search with true dynamics (Montgomery & Levine 2016, NeurIPS, Algorithm 1).

The global policy π̄ = N(π(o), Σ̄) has a network for its mean and one covariance. Start states are drawn anew every epoch,
so each rollout has a local policy p of its own: linear-Gaussian controllers near the rollout of π.

C-step: dynamics, policy and cost are linearised along the rollouts, by the simulator's derivatives where the paper has
regression, and p minimises the expected cost subject to D_KL(p ‖ π̄) ≤ ε, see `linear_gaussian`.
S-step: the controllers act in the simulator, with their noise; π is fitted to their mean actions μ at the states these
rollouts visit, and Σ̄ to their covariances C,

    min_π  mean ½ (π(o) − μ)ᵀ W (π(o) − μ),   W ∝ C⁻¹,        Σ̄ = (mean C⁻¹)⁻¹.

Step size: ε follows from the gain that was expected and the gain that was found, see `adjusted`.

Limits of the actions: a local policy's mean along the linearised rollout keeps to them (`optimal_controllers`); its
actions in the simulator and the μ are clipped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from taichi_sim import Trajectory
from tasks import Task

from . import seeds, settings
from .files import number
from .graphs import adam
from .imitation import Samples, imitate, remember, remembered, schedule
from .linear_gaussian import Controllers, Model, Outcome, constrained_controllers
from .linearisation import cost_curvature, cost_gradients, dynamics, policy_gain, state_vector
from .policy import Policy
from .rollouts import closed_loop
from .run import Run
from .settings import setting
from .training import Training, pack, unpack

MEMORY = 2**30  # bytes that the linearised rollouts of one chunk may take; constant, so that runs repeat bit for bit
COPIES = 2  # of the dynamics: of all rollouts, and of those whose search goes on
STRETCH = (0.1, 10.0)  # of ε from one epoch to the next
KL_MOST = 100.0  # nats a step: controllers are no longer held near the policy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.Config):
    """Settings of guided policy search."""

    k: int = setting(1000, "rollouts an epoch, side by side, each with controllers of its own", 1)
    kl: float = setting(0.3, "nats a step by which controllers may leave the policy in the first epoch", 1e-6, 1e6)
    std: float = setting(0.3, "of the first policy's actions, a share of their limit", 1e-6, 10.0)
    kl_least: float = setting(0.3, "nats a step below which this limit never falls", 1e-9, 1e6)
    std_least: float = setting(0.05, "of the policy's actions at least, a share of their limit", 1e-9, 10.0)
    steps: int = setting(50, "gradient steps on the supervised loss an epoch", 1)
    batch: int = setting(0, "samples a gradient step sees, 0 for all", 0)
    memory: int = setting(1, "epochs whose controllers are fitted, the newest included", 1)
    rate: float = setting(1e-3, "Adam's learning rate at the start", 1e-9, 1.0)
    rate_end: float = setting(1e-5, "and at the end, along a cosine", 0.0, 1.0)


PRESETS = {
    "paper": {},
    "cpu": {"epochs": 30, "k": 128, "steps": 60, "batch": 4096, "memory": 2},
}


@dataclasses.dataclass(frozen=True, eq=False)
class Targets(Samples):
    """Mean actions of controllers, float32.

    weights: (n, m, m), W
    """

    weights: torch.Tensor

    def loss(self, policy) -> torch.Tensor:
        """Σ ½ (π(o) − μ)ᵀ W (π(o) − μ)."""
        error = policy(self.observations) - self.actions
        return 0.5 * (error[:, :, None] * self.weights * error[:, None, :]).sum()


def train(task: Task, config: Config, run: Run, on_epoch: Callable[[dict], None] = lambda row: None) -> Policy:
    """Train a policy, from the run's newest checkpoint if it has one; returns it.

    on_epoch: called with each row that is added to log.csv
    """
    training = Training(task, config, run, on_epoch)
    policy = Policy(task, config.seed)
    optimiser = adam(policy.parameters(), config.rate)
    unpack("policy", training.tensors, policy, optimiser)
    n, m = task.observation_size, task.system.actions
    memory = remembered(Targets, training, observations=(n,), actions=(m,), weights=(m, m))
    covariance = (config.std * task.limit) ** 2 * torch.eye(m, dtype=task.simulator.dtype, device=policy.limit.device)
    kl, guess = config.kl, 1.0
    if training.tensors:
        covariance = training.tensor("covariance", covariance)
        kl, guess = number(training.state, "kl"), number(training.state, "eta")

    for epoch in training.epochs():
        start = task.start(seeds.starts(config.seed, epoch), config.k)
        played = closed_loop(task, policy, start)
        ok = played.ok
        failed = int((~ok).sum())
        training.expect_few_failures(played)
        played = played[ok]
        training.lap("rollout")
        parts = []
        for rows in torch.arange(len(played)).split(chunk(task)):
            problem = model(task, policy, covariance, played[rows])
            training.lap("linearisation")
            parts.append(constrained_controllers(problem, kl * task.N, torch.full((len(rows),), guess).to(covariance)))
            training.lap("controllers")
        controllers, state, eta = joined(parts)
        generator = torch.Generator().manual_seed(seeds.number(seeds.NOISE, config.seed, epoch))
        visited, means = sample(task, played, controllers, generator)
        training.lap("sampling")
        precision = torch.linalg.inv(controllers.C)
        memory = [*memory, targets(task, visited, means, precision)][-config.memory :]
        rates = schedule(config, epoch)
        loss = imitate(policy, optimiser, Targets.joined(memory), config.steps, config.batch, rates, config.seed, epoch)
        covariance = fitted_covariance(precision, config.std_least * task.limit)
        training.lap("imitation")
        again = closed_loop(task, policy, start[ok])
        value, value_after = task.returns(played), task.returns(again)
        expected, actual = state.gain.mean().item(), (value_after - value)[again.ok].mean().item()
        followed = task.returns(visited)[visited.ok].mean().item()
        kl, kl_limit = max(adjusted(kl, expected, actual), config.kl_least), kl
        guess = eta.log().mean().exp().item()
        training.lap("step_size")
        training.end_epoch(
            policy,
            3 * config.k * task.N,
            value,
            failed,
            return_controllers=followed,
            expected=expected,
            actual=actual,
            kl=state.kl.mean().item() / task.N,
            kl_limit=kl_limit,
            eta=guess,
            std=covariance.diagonal().mean().sqrt().item() / task.limit,
            loss=loss,
            tensors=pack("policy", policy, optimiser) | {"covariance": covariance} | remember(memory),
            state={"kl": kl, "eta": guess},
        )
    return policy


def adjusted(kl: float, expected: float, actual: float) -> float:
    """The next ε from how much the mean cost should have fallen and how much it did (paper, section 4.2).

    expected: gain of the controllers' means in the linear-quadratic model
    actual: gain of the policy's own rollouts from the same start states, after the S-step

    For small steps the model is right and its gain is aε; what linearisation and supervised learning cost grows like
    ε². Both coefficients of the true gain aε − bε² follow from a = expected/ε, b = (expected − actual)/ε²; it is
    largest at

        ε* = a/2b = ε/2 · expected/(expected − actual).

    ε changes at most tenfold, and stays bounded.
    """
    least, most = STRETCH
    short = max(expected - actual, 1e-300)
    stretch = min(max(0.5 * max(expected, 0.0) / short, least), most)
    return min(kl * stretch, KL_MOST)


def fitted_covariance(precision: torch.Tensor, least: float) -> torch.Tensor:
    """argmin over Σ̄ ⪰ least² I of the mean D_KL(N(·, Σ̄) ‖ N(·, C)): (mean C⁻¹)⁻¹ with larger eigenvalues where needed.

    precision: (B, N, m, m), C⁻¹

    The minimum keeps the constraint on D_KL meaningful: C is never larger than Σ̄, and without one the covariance
    shrinks every epoch until the mean cannot move any more.
    """
    values, vectors = torch.linalg.eigh(precision.mean((0, 1)))
    return vectors * (1 / values).clamp(min=least**2) @ vectors.T


def chunk(task: Task) -> int:
    """How many rollouts are linearised side by side."""
    D, m = task.system.points * task.system.dim, task.system.actions
    n = 4 * D + m
    each = COPIES * task.N * n * (n + 3 * m) * torch.finfo(task.simulator.dtype).bits // 8
    return max(1, MEMORY // each)


def model(task: Task, policy, covariance: torch.Tensor, trajectory: Trajectory) -> Model:
    """Dynamics, cost and the policy with its `covariance` (m, m), linearised along its own rollouts."""
    AB = dynamics(task.simulator, trajectory)
    g_s, g_a = cost_gradients(task, trajectory)
    q, r = cost_curvature(task, trajectory.a.shape[1])
    gain = policy_gain(task, policy, trajectory)
    lower, upper = -task.limit - trajectory.a, task.limit - trajectory.a
    return Model(AB, g_s, g_a, q, r, gain, covariance, lower, upper)


def joined(parts: list[tuple]) -> tuple[Controllers, Outcome, torch.Tensor]:
    """What `constrained_controllers` gave for several chunks, as if for one."""
    merged = []
    for kind, column in zip((Controllers, Outcome), zip(*parts, strict=True), strict=False):
        merged.append(kind(*(torch.cat([getattr(y, f.name) for y in column]) for f in dataclasses.fields(kind))))
    return *merged, torch.cat([eta for _, _, eta in parts])


@torch.no_grad()
def sample(task: Task, near: Trajectory, controllers: Controllers, generator: torch.Generator):
    """Rollouts of a = ā + K δs + k + ξ, ξ ~ N(0, C), clipped to the limit, and the clipped means (B, N, m)."""
    rows = task.simulator.begin(near.start, near.a.shape[1])
    means = torch.empty_like(rows.a)
    white = torch.randn(rows.a.shape, generator=generator, dtype=torch.float64).to(rows.a)
    noise = (torch.linalg.cholesky(controllers.C) @ white[..., None])[..., 0]
    for t in range(rows.a.shape[1]):
        away = state_vector(task.simulator, rows, t) - state_vector(task.simulator, near, t)
        mean = near.a[:, t] + controllers.k[:, t] + (controllers.K[:, t] @ away[..., None])[..., 0]
        means[:, t] = mean.clamp(-task.limit, task.limit)
        rows.a[:, t] = (mean + noise[:, t]).clamp(-task.limit, task.limit)
        task.simulator.advance(rows, t)
    return rows, means


def targets(task: Task, visited: Trajectory, means: torch.Tensor, precision: torch.Tensor) -> Targets:
    """Every (row t, mean action t) of the rollouts that did not fail, with weights W = C⁻¹ / (mean over t of tr C⁻¹/m).

    So each rollout counts the same, and learning rates do not depend on Σ̄. C⁻¹ itself would be largest where
    controllers have little to gain: there the constraint lets η, and with it C, become small.
    """
    seen = Samples.of(task, dataclasses.replace(visited, a=means))
    scale = precision.diagonal(dim1=2, dim2=3).mean((1, 2))[:, None, None, None]
    return Targets(seen.observations, seen.actions, (precision / scale)[visited.ok].flatten(0, 1).float())
