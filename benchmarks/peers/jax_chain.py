"""A handle and points joined in a row, every number by itself: no arrays are left for XLA to move about.

A vector is a list of points, a point a list of coordinates. J is block tridiagonal and symmetric, with blocks
−K₁, …, −K_{P−1} beside the diagonal; it is eliminated from the free end to the handle:

    S_{P−1} = D_{P−1},   T_i = K_{i+1} S_{i+1}⁻¹,   S_i = D_i − T_i K_{i+1}.
"""

from __future__ import annotations

import jax.numpy as jnp

from taichi_sim import System
from taichi_sim.forces import ETA
from taichi_sim.newton import ROUND_OFF

SYMMETRIC = ((0, 1, 2), (1, 3, 4), (2, 4, 5))  # where entry (k, n) of a symmetric 3 × 3 block is kept


class Chain:
    """The forces of a conservative chain in 3D, see `jax_newton`."""

    no_load = ()
    least_shift = 0.0

    def __init__(self, system: System, h: float):
        P = system.points
        assert not system.damping.any() and not system.planes and system.handles == 1 and system.dim == 3
        links = {tuple(sorted(ends)): e for e, ends in enumerate(system.ends.tolist())}
        order = [links[0, P]] + [links[i, i + 1] for i in range(P - 1)]
        assert len(links) == P
        self.P, self.h, self.axes = P, h, system.axes.tolist()
        self.mass, self.gravity = system.mass.tolist(), system.gravity.tolist()
        self.stiffness, self.length = system.stiffness[order].tolist(), system.length[order].tolist()
        self.blend, self.cable = system.blend[order].tolist(), system.unilateral[order].tolist()
        eps = float(jnp.finfo(jnp.float64).eps)
        self.tolerance = (
            ROUND_OFF * eps * 4 * max(self.stiffness) * sum(self.length)
        )  # as `Mechanics.assemble`, at rest

    def move(self, p, a):
        """Actions are handle velocities along axes of space."""
        drive = [sum(e * y for e, y in zip(row, a, strict=True) if e) for row in self.axes]
        return [y + self.h * w for y, w in zip(p, drive, strict=True)]

    def worst(self, r):
        worst = jnp.abs(r[0][0])
        for y in [y for point in r for y in point][1:]:
            worst = jnp.maximum(worst, jnp.abs(y))
        return worst / self.tolerance

    def assemble(self, u, x, v, p, c0, lag):
        inertia = (c0 / self.h) ** 2
        phi, r, D, K = 0.0, [], [], []
        for i in range(self.P):
            above = p if i == 0 else x[i - 1]
            span = [y - z for y, z in zip(x[i], above, strict=True)]
            energy, pull, stiff = self._spring(i, span)
            push = [self.mass[i] * inertia * y for y in u[i]]
            load = [self.mass[i] * g for g in self.gravity]
            phi = phi + energy
            for k in range(3):
                phi = phi + (0.5 * push[k] - load[k]) * u[i][k]
            r.append([push[k] - load[k] + pull[k] for k in range(3)])
            D.append([y + self.mass[i] * inertia * (n in (0, 3, 5)) for n, y in enumerate(stiff)])
            K.append(stiff)
            if i > 0:
                r[i - 1] = [y - z for y, z in zip(r[i - 1], pull, strict=True)]
                D[i - 1] = [y + z for y, z in zip(D[i - 1], stiff, strict=True)]
        return phi, phi, lag, r, (D, K)

    def solve(self, parts, b, shift=0.0):
        D, K = parts
        P = self.P
        inverse, T = [None] * P, [None] * P
        inverse[P - 1] = _inverse(D[P - 1])
        y = [list(point) for point in b]
        for i in range(P - 2, -1, -1):
            T[i] = _product(K[i + 1], inverse[i + 1])
            TK = [sum(T[i][k][o] * K[i + 1][SYMMETRIC[o][n]] for o in range(3)) for k in range(3) for n in range(k, 3)]
            inverse[i] = _inverse([d - t for d, t in zip(D[i], TK, strict=True)])
            y[i] = [y[i][k] + sum(T[i][k][o] * y[i + 1][o] for o in range(3)) for k in range(3)]
        out = [_times(inverse[0], y[0])]
        for i in range(1, P):
            own = _times(inverse[i], y[i])
            out.append([own[k] + sum(T[i - 1][o][k] * out[i - 1][o] for o in range(3)) for k in range(3)])
        return out

    def pull_back(self, parts, g, c0):
        """J is symmetric and nothing depends on v: −∂G/∂x̃ᵀλ = M c₀²/h² λ − g."""
        adjoint = self.solve(parts, g)
        inertia = (c0 / self.h) ** 2
        gx = [
            [m * inertia * y - z for y, z in zip(row, given, strict=True)]
            for m, row, given in zip(self.mass, adjoint, g, strict=True)
        ]
        zero = [[jnp.zeros_like(y) for y in row] for row in g]
        return gx, zero, _times(parts[1][0], adjoint[0])

    def _spring(self, e, span):
        """Energy, pull on the lower point, and K as its six numbers."""
        k, blend = self.stiffness[e], self.blend[e]
        length = jnp.sqrt(span[0] * span[0] + span[1] * span[1] + span[2] * span[2] + ETA * ETA)
        back = 1.0 / length
        n = [y * back for y in span]
        stretch = length - self.length[e]
        energy, tension, slope = 0.5 * k * stretch * stretch, k * stretch, k
        if self.cable[e]:
            s = jnp.maximum(stretch + blend, 0.0)
            soft = stretch < blend
            energy = jnp.where(soft, k / (12.0 * blend) * s * s * s, energy + k * blend * blend / 6.0)
            tension = jnp.where(soft, k / (4.0 * blend) * s * s, tension)
            slope = jnp.where(soft, k / (2.0 * blend) * s, k)
        across = tension * back
        along = slope - across
        pairs = [(k, n) for k in range(3) for n in range(k, 3)]
        return energy, [tension * y for y in n], [along * n[a] * n[b] + (across if a == b else 0.0) for a, b in pairs]


def _times(S, b):
    return [sum(S[SYMMETRIC[k][n]] * b[n] for n in range(3)) for k in range(3)]


def _product(A, B):
    return [[sum(A[SYMMETRIC[k][o]] * B[SYMMETRIC[o][n]] for o in range(3)) for n in range(3)] for k in range(3)]


def _inverse(S):
    """Of a symmetric block, by its cofactors."""
    a, b, c, d, e, f = S
    A, B, C = d * f - e * e, c * e - b * f, b * e - c * d
    back = 1.0 / (a * A + b * B + c * C)
    return [y * back for y in (A, B, C, a * f - c * c, b * c - a * e, a * d - b * b)]
