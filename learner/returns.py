"""Targets for a critic from rewards and values along a window of a rollout."""

from __future__ import annotations

import torch


def td_lambda(rewards: torch.Tensor, values: torch.Tensor, discount: float, trace: float) -> torch.Tensor:
    """TD(λ) returns (B, h): G_t = r_t + γ [(1 − λ) V(s_{t+1}) + λ G_{t+1}], G_h = V(s_h).

    rewards: (B, h), r_t of the step from row t to row t+1
    values: (B, h+1), V of rows 0…h. A window ends where its episode does: a time limit is no terminal state, so the
        value of the last row is always counted
    discount, trace: γ, λ (Sutton and Barto 2018, section 12.1)
    """
    G, targets = values[:, -1], []
    for t in reversed(range(rewards.shape[1])):
        G = rewards[:, t] + discount * ((1 - trace) * values[:, t + 1] + trace * G)
        targets.append(G)
    return torch.stack(targets[::-1], 1)
