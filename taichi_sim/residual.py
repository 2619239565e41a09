"""The step equations evaluated a second time, in torch and in another way than the kernels do: is "converged" true?"""

from __future__ import annotations

import torch

from .forces import ETA
from .mechanics import BDF1, BDF2
from .newton import ROUND_OFF
from .simulator import Simulator
from .system import System
from .trajectory import Trajectory


def step_residual(simulator: Simulator, trajectory: Trajectory) -> tuple[torch.Tensor, torch.Tensor]:
    """‖G‖∞ (B, N, P) N of every step's equations (see `mechanics`) and the round-off that it may have (B, N, P).

    The velocities come from the rows themselves, so their rounding, times the damping and the slope of friction, is in
    the bound.
    """
    s, h = simulator.system, simulator.h
    eps = torch.finfo(simulator.dtype).eps

    def constant(array):
        return torch.as_tensor(array.copy()).to(simulator.device, simulator.dtype)

    x, v, p, a = trajectory.x, trajectory.v, trajectory.p, trajectory.a
    v_older = torch.cat((trajectory.start.v_prev[:, None], v[:, :-2]), 1)
    first = torch.zeros_like(trajectory.status, dtype=torch.bool)
    first[:, 0] = trajectory.start.first
    c0, c1, c2 = (torch.where(first, one, two)[..., None, None].to(x) for one, two in zip(BDF1, BDF2, strict=True))
    mass = constant(s.mass)[:, None]
    terms = [mass * c * rows / h for c, rows in ((c0, v[:, 1:]), (c1, v[:, :-1]), (c2, v_older))]
    weight = mass * constant(s.gravity)
    G = sum(terms) - weight
    bound = sum(t.abs() for t in terms).sum(-1) + weight.abs().sum(-1)

    nodes = torch.cat((x[:, 1:], p[:, 1:]), 2)
    speeds = torch.cat((v[:, 1:], (a @ constant(s.axes).T).unflatten(-1, s.home.shape)), 2)
    ends = torch.as_tensor(s.ends.copy()).long().to(simulator.device)
    i, j = ends[:, 0], ends[:, 1]
    span, rate = nodes[:, :, i] - nodes[:, :, j], speeds[:, :, i] - speeds[:, :, j]
    length = (span.square().sum(-1) + ETA**2).sqrt()
    n = span / length[..., None]
    k, blend, cable = constant(s.stiffness), constant(s.blend), constant(s.unilateral).bool()
    tension, slope, share = _pull(length - constant(s.length), k, blend, cable)
    damping = constant(s.damping) * share
    pull = (tension + damping * (rate * n).sum(-1))[..., None] * n
    reach = nodes[:, :, i].abs().sum(-1) + nodes[:, :, j].abs().sum(-1)
    swiftness = speeds[:, :, i].abs().sum(-1) + speeds[:, :, j].abs().sum(-1)
    grain = pull.norm(dim=-1) + (slope + tension.abs() / length) * reach
    grain = grain + constant(s.damping) * (swiftness + c0[..., 0] / h * reach)
    P = s.points
    G, bound = (torch.cat((t, t.new_zeros(*t.shape[:2], s.handles, *t.shape[3:])), 2) for t in (G, bound))
    G = G.index_add(2, i, pull).index_add(2, j, -pull)[:, :, :P]
    bound = bound.index_add(2, i, grain).index_add(2, j, grain)[:, :, :P]

    for plane in range(s.planes):
        normal, mu, kt = constant(s.normal[plane]), float(s.friction[plane]), float(s.tangential_stiffness[plane]) * h
        depth = float(s.offset[plane]) - x[:, 1:] @ normal
        stiffness, width = depth.new_tensor([s.contact_stiffness[plane], s.contact_blend[plane]])
        load, slope, _ = _pull(depth, stiffness, width, torch.ones_like(depth, dtype=torch.bool))
        slip = v[:, 1:] - (v[:, 1:] @ normal)[..., None] * normal
        speed = slip.norm(dim=-1)
        limit = mu * load
        drag = limit * torch.tanh(kt * speed / limit.clamp(min=1e-300))
        G = G - load[..., None] * normal + (drag / speed.clamp(min=1e-300))[..., None] * slip
        reach = x[:, 1:].abs().sum(-1) + abs(float(s.offset[plane]))
        bound = bound + (1 + mu) * (load + slope * reach)
        bound = bound + kt * (limit > 0) * (v[:, 1:].abs().sum(-1) + c0[..., 0] / h * reach)
    return G.abs().amax(-1), (ROUND_OFF + 4.0) * eps * bound


def spring_tension(system: System, x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """(..., S) N, the elastic pull of each spring, negative where it pushes; x (..., P, d), p (..., H, d) m."""
    nodes = torch.cat((x, p), -2)
    i, j = torch.as_tensor(system.ends.copy()).long().to(x.device).unbind(1)
    length = ((nodes[..., i, :] - nodes[..., j, :]).square().sum(-1) + ETA**2).sqrt()
    fields = ("length", "stiffness", "blend", "unilateral")
    rest, k, blend, cable = (torch.as_tensor(getattr(system, f).copy()).to(x.device) for f in fields)
    return _pull(length - rest, k, blend, cable)[0]


def _pull(stretch, k, blend, cable):
    """Tension, its slope, and the share of damping that acts, of springs and cables."""
    z = ((stretch + blend) / (2 * blend.clamp(min=1e-300))).clamp(0.0, 1.0)
    soft = cable & (z < 1)
    tension = torch.where(soft, k * blend * z**2, k * stretch)
    slope = torch.where(soft, k * z, k.expand_as(stretch))
    return tension, slope, torch.where(soft, z**2 * (3 - 2 * z), 1.0)
