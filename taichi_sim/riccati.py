"""The Gauss–Newton step by a Riccati recursion: O(N) per rollout, feedback gains included.

Minimises ½ δaᵀ Ĥ δa + gᵀ δa over the free actions, Ĥ = SᵀQS + R + μI with S = ds/da and diagonal Q, R, without
forming S: it is the linear-quadratic problem along the stored rows (Bryson & Ho 1975, section 5). BDF2 looks two rows
back, and what a step from row t needs of them is, with the coefficients c of that step,

    s = [z, q, v, x, π],    q = c₁ x + c₂ x₋₁,    z = c₁ v + c₂ v₋₁        (n = 4·P·d + m, π the actuated handles),
    x₁ = T_q q + T_z z + T_π π + T_a a,    v₁ = (c₀ x₁ + q)/h,    π₁ = π + h a,

T_q = c₀/h T_z where nothing dissipates, T_a = h T_π where nothing is damped. The value ½ sᵀPs + lᵀs of what remains is
carried from row t+1 to row t by two substitutions: all of s₁ but x₁ is a sum of multiples of x₁, q, x, v, π and a,
then x₁ is the sum above, see `value`. Then

    K = −M_aa⁻¹ M_as,   k = −M_aa⁻¹ (g + M_a),   P ← M_ss + M_saᵀ K,   l ← M_s + M_saᵀ k,

and the forward pass is δa = k + K δs. Held actions have zero rows in K and k.
"""

import functools

import taichi as ti

from .loops import Loops
from .trajectory import OK
from .value import value_function
from .variables import Scratch


@ti.func
def cholesky(A: ti.template(), n: ti.template()):
    """A ← its Cholesky factor, in the lower triangle, with the reciprocals of its diagonal."""
    for i in ti.static(range(n)):
        for j in ti.static(range(i + 1)):
            y = A[i, j]
            for k in ti.static(range(j)):
                y -= A[i, k] * A[j, k]
            if ti.static(i == j):
                A[i, j] = 1.0 / ti.sqrt(y)
            else:
                A[i, j] = y * A[j, j]


@ti.func
def cholesky_solve(L: ti.template(), y, n: ti.template()):
    """(L Lᵀ)⁻¹ y, L as `cholesky` left it."""
    for i in ti.static(range(n)):
        for k in ti.static(range(i)):
            y[i] -= L[i, k] * y[k]
        y[i] *= L[i, i]
    for low in ti.static(range(n)):
        i = ti.static(n - 1 - low)
        for k in ti.static(range(i + 1, n)):
            y[i] -= L[k, i] * y[k]
        y[i] *= L[i, i]
    return y


@functools.cache
def riccati(loops: Loops):
    @ti.data_oriented
    class Riccati:
        """One thread a rollout. `maps` come from `Linearisation`."""

        def __init__(self, linearisation):
            self.maps = linearisation
            self.mech = linearisation.mech
            D, m = self.mech.D, self.mech.m
            self.value_function = value_function(loops)(self.mech)
            self.D, self.n = D, 4 * D + m
            Dq = D * D if self.mech.dissipative else 0
            Da = D * m if self.mech.damped else 0
            store = Scratch(loops)
            self.row = store.slot(4 * D)
            self.P, self.linear = store.slot(self.n * self.n), store.slot(self.n)
            self.xx, self.xq, self.xp = store.slot(D * D), store.slot(D * D), store.slot(D * m)  # x₁ beside x₁, q, π
            self.beside = store.slot(4 * D * D)
            self.product_p, self.product_a = store.slot(D * m), store.slot(Da)
            self.mixed, self.gain = store.slot(self.n * m), store.slot(self.n * m)  # M_as, K
            self.map_z, self.map_q = store.slot(D * D), store.slot(Dq)
            self.map_p, self.map_a = store.slot(D * m), store.slot(Da)
            self.changes = store.slot(self.n)
            self.store = store.size

        @ti.func
        def recursion(
            self,
            # In
            b: int,
            h: float,
            first: int,
            maps: ti.template(),
            # Scratch
            store: ti.template(),
            # In
            g: ti.template(),
            q: ti.template(),
            r: ti.template(),
            damping: ti.template(),
            free: ti.template(),
            # Out: step and gains; if `whole`, also curvature, which is M_aa before actions are held
            da: ti.template(),
            gains: ti.template(),
            whole: ti.template(),
            curvature: ti.template(),
        ):
            D, n, m = ti.static(self.D, self.n, self.mech.m)
            V, X, H = ti.static(2 * D, 3 * D, 4 * D)
            P, lin, row = self.P[store, b], self.linear[store, b], self.row[store, b]
            xx, xq, xp, beside = self.xx[store, b], self.xq[store, b], self.xp[store, b], self.beside[store, b]
            mixed, K = self.mixed[store, b], self.gain[store, b]
            product_p, product_a = self.product_p[store, b], self.product_a[store, b]
            map_z, map_q = self.map_z[store, b], self.map_q[store, b]
            map_p, map_a = self.map_p[store, b], self.map_a[store, b]
            N = g.shape[1]
            for i in range(n * n):
                P[i] = 0.0
            for i in range(n):
                lin[i] = 0.0
            for i in range(n * m):
                K[i], mixed[i] = 0.0, 0.0
            for back in range(N):
                t = N - 1 - back
                c0, c1, c2 = self.mech.coefficients(t == 0 and first != 0)
                self.maps.read(maps, b, t, N, map_z, map_q, map_p, map_a)
                bq = b % q.shape[0]
                for i in range(D):
                    at = (X + i) * (n + 1)
                    P[at] = P[at] + q[bq, t, m + i]
                    at = (V + i) * (n + 1)
                    P[at] = P[at] + q[bq, t, m + D + i]
                for i in range(m):
                    at = (H + i) * (n + 1)
                    P[at] = P[at] + q[bq, t, i]
                self.value_function.part(c0, h, P, K, mixed, xx, xq, beside, xp)
                factor = self.value_function.insert(
                    c0, h, map_z, map_q, map_p, map_a, xx, xq, beside, xp, row, product_p, product_a, P, mixed
                )
                slope = self.maps.pull(c0, h, map_z, map_q, map_p, map_a, row, lin)
                for i in ti.static(range(m)):
                    factor[i, i] = factor[i, i] + (r[b % r.shape[0], t, i] + damping[b])
                    if ti.static(whole):
                        for j in ti.static(range(m)):
                            curvature[b, t, i, j] = factor[i, j]
                acting = ti.Vector.zero(float, max(m, 1))
                for i in ti.static(range(m)):
                    acting[i] = ti.cast(free[b, t, i], float)
                    if free[b, t, i] == 0:
                        for j in ti.static(range(m)):
                            factor[i, j], factor[j, i] = 0.0, 0.0
                        factor[i, i] = 1.0
                cholesky(factor, m)
                k = ti.Vector.zero(float, max(m, 1))
                for i in ti.static(range(m)):
                    if free[b, t, i] != 0:
                        k[i] = -(g[b, t, i] + slope[i])
                k = cholesky_solve(factor, k, m)
                for i in ti.static(range(m)):
                    da[b, t, i] = k[i]
                for i in range(n):
                    y = lin[i]
                    column = ti.Vector.zero(float, max(m, 1))
                    for c in ti.static(range(m)):
                        y += mixed[c * n + i] * k[c]
                        column[c] = -mixed[c * n + i] * acting[c]
                    lin[i] = y
                    column = cholesky_solve(factor, column, m)
                    for c in ti.static(range(m)):
                        K[c * n + i] = column[c]
                for i in range(H):  # `insert` has made the upper triangle; the next `part` adds M_saᵀ K
                    for j in range(i):
                        P[i * n + j] = P[j * n + i]
                for c in ti.static(range(m)):  # by x, x₋₁, v, v₋₁, π
                    at = ((b * N + t) * m + c) * n
                    for i in range(D):
                        y, z = K[c * n + D + i], K[c * n + i]
                        gains[at + i] = c1 * y + K[c * n + X + i]
                        gains[at + D + i] = c2 * y
                        gains[at + V + i] = c1 * z + K[c * n + V + i]
                        gains[at + X + i] = c2 * z
                    for i in range(H, n):
                        gains[at + i] = K[c * n + i]
            # δa = k + K δs along the linearised rows
            changes = self.changes[store, b]
            for i in range(n):
                changes[i] = 0.0
            for t in range(N):
                c0, c1, c2 = self.mech.coefficients(t == 0 and first != 0)
                self.maps.read(maps, b, t, N, map_z, map_q, map_p, map_a)
                act = ti.Vector.zero(float, max(m, 1))
                for i in ti.static(range(m)):
                    y = da[b, t, i]
                    at = ((b * N + t) * m + i) * n
                    for j in range(n):
                        y += gains[at + j] * changes[j]
                    da[b, t, i] = y
                    act[i] = y
                self.maps.advance(c0, c1, c2, h, map_z, map_q, map_p, map_a, act, row, changes)

        @ti.kernel
        def solve(
            self,
            # In
            h: float,
            first: ti.types.ndarray(ndim=1),
            status: ti.types.ndarray(ndim=2),
            maps: ti.types.ndarray(ndim=1),
            # Scratch
            store: ti.types.ndarray(ndim=1),
            # In
            g: ti.types.ndarray(ndim=3),
            q: ti.types.ndarray(ndim=3),
            r: ti.types.ndarray(ndim=3),
            damping: ti.types.ndarray(ndim=1),
            free: ti.types.ndarray(ndim=3),
            # In: zeros, out: see `recursion`; nothing for rollouts with a failed step
            da: ti.types.ndarray(ndim=3),
            gains: ti.types.ndarray(ndim=1),
            curvature: ti.types.ndarray(ndim=4),
        ):
            ti.loop_config(block_dim=32)
            for b in range(g.shape[0]):
                if status[b, g.shape[1] - 1] == OK:
                    self.recursion(b, h, first[b], maps, store, g, q, r, damping, free, da, gains, True, curvature)

    return Riccati
