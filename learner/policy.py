"""The policy network of the paper (A.3)."""

from __future__ import annotations

import torch
from torch import nn

from tasks import FAR, Task

WIDTH = 256
SCALE_STATES = 256  # rollouts from which the scale of the observations is taken
SCALE_SEED = (1, 0)  # of those rollouts; no training and no test uses it
FLOOR = 1e-2  # smallest variance that is scaled up to 1, relative to the largest


class Policy(nn.Module):
    """a = limit · tanh(MLP(W (o − mean))): 2 × 256 ReLU, deterministic, float32.

    W whitens the observations: (W Wᵀ)⁻¹ is their covariance over uncontrolled rollouts. An observation holds
    handle and payload positions, whose difference carries the swing; unscaled, that difference is the last thing
    gradient descent learns. mean and W are constants of the task, the same for every learner and seed.
    """

    def __init__(self, task: Task, seed: int):
        super().__init__()
        n, m = task.observation_size, task.system.actions
        generator = torch.Generator().manual_seed(seed)
        sizes = (n, WIDTH, WIDTH, m)
        self.layers = nn.ModuleList(nn.Linear(a, b, device="cpu") for a, b in zip(sizes, sizes[1:], strict=False))
        for layer in self.layers:
            bound = layer.in_features**-0.5
            with torch.no_grad():
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-bound, bound, generator=generator)
        mean, whiten = _observation_scale(task)
        self.register_buffer("mean", mean.float())
        self.register_buffer("whiten", whiten.float())
        self.register_buffer("limit", torch.tensor(float(task.limit)))
        self.to(task.simulator.device)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """(..., n_s) any dtype -> actions (..., m) float32, within ±limit."""
        return self.limit * torch.tanh(self.unsquashed(observation))

    def unsquashed(self, observation: torch.Tensor) -> torch.Tensor:
        """What goes into the tanh."""
        *hidden, last = self.layers  # a slice of them would be a new module
        y = self.whitened(observation)
        for layer in hidden:
            y = torch.relu(layer(y))
        return last(y)

    def whitened(self, observation: torch.Tensor) -> torch.Tensor:
        """What goes into the first layer: W (o − mean), float32, with o clipped to ±`FAR`."""
        return (observation.clamp(-FAR, FAR).float() - self.mean) @ self.whiten


def _observation_scale(task: Task):
    simulator = task.simulator
    start = task.start(SCALE_SEED, SCALE_STATES)
    still = torch.zeros(SCALE_STATES, task.N, task.system.actions, dtype=simulator.dtype, device=simulator.device)
    rows = simulator.rollout(start, still)
    observations = task.observe(rows.x, rows.v, rows.p)[rows.ok].flatten(0, 1).double().cpu()
    mean = observations.mean(0)
    covariance = (observations - mean).T @ (observations - mean) / len(observations)
    values, vectors = torch.linalg.eigh(covariance)
    # Directions that hardly vary (the stretch of a stiff cable) must not be blown up to noise.
    return mean, vectors / values.clamp(min=FLOOR * values.max()).sqrt()
