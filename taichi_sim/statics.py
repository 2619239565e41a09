"""Where a system rests."""

from __future__ import annotations

import torch

from .errors import InputError
from .simulator import Simulator
from .system import System
from .trajectory import State, Status

STILL = 1e-10  # m, the largest move of a point that counts as none
STEPS = 200


def equilibrium(system: System, guess: torch.Tensor | None = None, h: float = 1.0) -> torch.Tensor:
    """A stable rest position x* (P, d) m of `system` with its handles at home, nearest to `guess`.

    Implicit Euler steps of `h` seconds from rest, the velocity dropped after each, without damping and friction, which
    do not act on what rests: every step lowers the potential energy, and points stop where forces vanish. Raises
    `InputError` if nothing comes to rest (a free point falls for ever).
    """
    simulator = Simulator(system.conservative(), h)
    state = simulator.start(1, x=guess)
    still = torch.zeros(1, 1, system.actions, dtype=simulator.dtype, device=simulator.device)
    tolerance = max(STILL, 100 * torch.finfo(simulator.dtype).eps)
    for _ in range(STEPS):
        rows = simulator.rollout(state, still)
        if rows.status.item() != Status.OK:
            break
        moved = (rows.x[:, 1] - rows.x[:, 0]).abs().max().item()
        state = State.start(rows.x[:, 1].contiguous(), torch.zeros_like(state.v), state.p)
        if moved < tolerance:
            return state.x[0]
    raise InputError(
        f"{system.name}: expected a system that can come to rest, got one still moving after {STEPS} steps"
    )
