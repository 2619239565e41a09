"""Any system in JAX, with arrays over its springs and one dense Jacobian, factored by LAPACK: what suits a cloth.

Vectors are (P, d). Sums over the springs of a point are gathers from tables made once in NumPy, padded with a spring
that is zero: XLA's scatters go number by number on a CPU.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import lu_factor, lu_solve

from taichi_sim import System
from taichi_sim.forces import ETA
from taichi_sim.friction import SERIES
from taichi_sim.newton import ROUND_OFF


class Dense:
    """The forces of a system without dampers, see `jax_newton`."""

    def __init__(self, system: System, h: float):
        assert not system.damping.any()
        P, S = system.points, system.springs
        ends = np.sort(system.ends, 1)  # handles are numbered last
        self.system, self.h, self.P, self.d = system, h, P, system.dim
        self.ends = ends
        self.no_load = jnp.zeros((P, system.planes))
        near = [[(e, 1.0 if ends[e, 0] == i else -1.0) for e in range(S) if i in ends[e]] for i in range(P)]
        widest = max(map(len, near))
        padded = [row + [(S, 0.0)] * (widest - len(row)) for row in near]
        self.springs_of = np.array([[e for e, _ in row] for row in padded])
        self.signs = np.array([[sign for _, sign in row] for row in padded])[..., None]
        # Block (i, j) of J: the diagonal's P blocks first, then −K of each spring, then zero.
        table = np.full((P, P), P + S)
        table[np.arange(P), np.arange(P)] = np.arange(P)
        for e, (i, j) in enumerate(ends):
            if j < P:
                table[i, j] = table[j, i] = P + e
        self.table = table
        self.held = np.flatnonzero(ends[:, 1] >= P)
        eps = float(jnp.finfo(jnp.float64).eps)
        grain = system.stiffness.max() * np.ptp(np.concatenate((system.rest, system.home)), 0).sum()
        self.least_shift = 1e-3 * system.stiffness.max()
        self.tolerance = ROUND_OFF * eps * 4 * grain

    def move(self, p, a):
        return p + self.h * (self.system.axes @ a).reshape(p.shape)

    def worst(self, r):
        return jnp.abs(r).max() / self.tolerance

    def assemble(self, u, x, v, p, c0, lag):
        s = self.system
        inertia = (s.mass * (c0 / self.h) ** 2)[:, None]
        weight = s.mass[:, None] * s.gravity
        eye = jnp.eye(self.d)
        nodes = jnp.concatenate((x, p))
        span = nodes[self.ends[:, 0]] - nodes[self.ends[:, 1]]
        length = jnp.sqrt((span * span).sum(-1) + ETA * ETA)
        n = span / length[:, None]
        energy, tension, slope = _pull(length - s.length, s.stiffness, s.blend, s.unilateral)
        across = tension / length
        K = (slope - across)[:, None, None] * n[:, :, None] * n[:, None, :] + across[:, None, None] * eye
        padded = jnp.concatenate((K, jnp.zeros((1, self.d, self.d))))
        pulls = jnp.concatenate((tension[:, None] * n, jnp.zeros((1, self.d))))
        r = inertia * u - weight + (self.signs * pulls[self.springs_of]).sum(1)
        diagonal = padded[self.springs_of].sum(1) + inertia[..., None] * eye
        phi = ((0.5 * inertia * u - weight) * u).sum() + energy.sum()
        Z = jnp.zeros_like(diagonal)
        lost = lost_now = 0.0
        loads = []
        for plane in range(s.planes):
            energy, force, KC, ZC, load, old, new = self._contact(plane, x, v, lag[:, plane])
            phi, r, Z = phi + energy.sum(), r + force, Z + ZC
            diagonal = diagonal + KC + c0 / self.h * ZC
            lost, lost_now = lost + old.sum(), lost_now + new.sum()
            loads.append(load)
        now = jnp.stack(loads, -1) if loads else lag
        J = jnp.concatenate((diagonal, -padded))[self.table]
        J = J.transpose(0, 2, 1, 3).reshape(self.P * self.d, self.P * self.d)
        return phi + self.h / c0 * lost, phi + self.h / c0 * lost_now, now, r, (J, Z, K[self.held])

    def solve(self, parts, b, shift=0.0):
        factors = lu_factor(parts[0] + shift * jnp.eye(b.size), check_finite=False)
        return lu_solve(factors, b.reshape(-1), check_finite=False).reshape(b.shape)

    def pull_back(self, parts, g, c0):
        """With Jᵀλ = g:  −∂G/∂x̃ᵀλ = M c₀²/h² λ + c₀/h Zᵀλ − g,  −∂G/∂ṽᵀλ = −Zᵀλ,  and Kλ at the handles."""
        J, Z, C = parts
        factors = lu_factor(J, check_finite=False)
        adjoint = lu_solve(factors, g.reshape(-1), trans=1, check_finite=False).reshape(g.shape)
        s = self.system
        drag = jnp.einsum("pkn,pk->pn", Z, adjoint)
        gx = (s.mass * (c0 / self.h) ** 2)[:, None] * adjoint + c0 / self.h * drag - g
        ends = self.ends[self.held]
        at = jnp.einsum("ekn,ek->en", C, adjoint[ends[:, 0]])
        gp = jnp.zeros((s.handles, self.d)).at[ends[:, 1] - self.P].add(at)
        return gx, -drag, gp

    def _contact(self, plane, x, v, load_before):
        """As `Mechanics.contact`, for all points: energies, forces, their derivatives, loads, ψ before and now."""
        s = self.system
        n = jnp.asarray(s.normal[plane])
        energy, load, slope = _pull(s.offset[plane] - x @ n, s.contact_stiffness[plane], s.contact_blend[plane], True)
        mu, c = s.friction[plane], s.tangential_stiffness[plane] * self.h
        slip = v - (v @ n)[:, None] * n
        square = (slip * slip).sum(-1)
        speed = jnp.sqrt(jnp.maximum(square, 1e-300))
        limit = mu * load
        touching = limit > 0
        safe = jnp.where(touching, limit, 1.0)
        z = c * speed / safe
        t = jnp.tanh(z)
        y = z * z
        small = z < SERIES
        across = jnp.where(small, c * (1 - y / 3 + 2 / 15 * y**2 - 17 / 315 * y**3), safe * t / speed)
        along = jnp.where(small, c * y * (-2 / 3 + 8 / 15 * y - 34 / 105 * y**2), c * (1 - t * t) - across)
        turn = jnp.where(small, -along / safe, (t - z * (1 - t * t)) / speed)[:, None] * slip
        across, along = jnp.where(touching, across, 0.0), jnp.where(touching, along, 0.0)
        turn = jnp.where(touching[:, None], turn, 0.0)
        heading = slip / speed[:, None]
        force = across[:, None] * slip - load[:, None] * n
        nn = jnp.outer(n, n)
        Z = across[:, None, None] * (jnp.eye(self.d) - nn) + along[:, None, None] * (
            heading[:, :, None] * heading[:, None, :]
        )
        K = slope[:, None, None] * nn - mu * slope[:, None, None] * turn[:, :, None] * n
        return energy, force, K, Z, load, _dissipation(speed, mu * load_before, c), _dissipation(speed, limit, c)


def _pull(stretch, k, blend, cable):
    """E, E′, E″ of springs and cables, see `taichi_sim.energy`."""
    blend = jnp.where(jnp.asarray(cable), blend, 1.0)
    s = jnp.maximum(stretch + blend, 0.0)
    soft = (stretch < blend) & jnp.asarray(cable)
    whole = 0.5 * k * stretch**2 + jnp.where(jnp.asarray(cable), k * blend**2 / 6.0, 0.0)
    energy = jnp.where(soft, k * s**3 / (12.0 * blend), whole)
    return energy, jnp.where(soft, k * s**2 / (4.0 * blend), k * stretch), jnp.where(soft, k * s / (2.0 * blend), k)


def _dissipation(speed, limit, c):
    z = c * speed / jnp.where(limit > 0, limit, 1.0)
    return jnp.where(limit > 0, limit**2 / c * (z + jnp.log(0.5 + 0.5 * jnp.exp(-2.0 * z))), 0.0)
