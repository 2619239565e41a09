"""The Gauss–Newton step by a Riccati recursion: O(N) per rollout, feedback gains included.

Minimises ½ δaᵀ Ĥ δa + gᵀ δa over the free actions, Ĥ = SᵀQS + R + μI with S = ds/da and diagonal Q, R, without
forming S: it is the linear-quadratic problem along the stored rows. BDF2 looks two rows back, so its state is

    s = [x, x₋₁, v, v₋₁, π]        (n = 4·P·d + m, π the actuated handle coordinates),
    x₁ = T_q (c₁ x + c₂ x₋₁) + T_z (c₁ v + c₂ v₋₁) + T_π π + T_a a,
    v₁ = (c₀ x₁ + c₁ x + c₂ x₋₁)/h,   π₁ = π + h a,

T_q = c₀/h T_z where nothing dissipates. The backward pass is (Bryson & Ho 1975, section 5)

    M = [A B]ᵀ (P + Q) [A B],   K = −M_aa⁻¹ M_as,   k = −M_aa⁻¹ (g + Bᵀ l),
    P ← M_ss + M_saᵀ K,         l ← Aᵀ l + M_saᵀ k,

the forward pass δa = k + K δs. Held actions have zero rows in K and k.
"""

import functools

import taichi as ti

from .loops import LOOPED, Loops, Scratch
from .newton import OK


@functools.cache
def riccati(loops: Loops):
    each = loops.each

    @ti.data_oriented
    class Riccati:
        """One thread a rollout; P and its products live in a scratch tensor `store` of their own."""

        def __init__(self, step, scratch: Scratch):
            self.step = step
            self.mech = step.mech
            self.newton = step.newton
            D, m = self.mech.D, self.mech.m
            self.D, self.n, self.w = D, 4 * D + m, 4 * D + 2 * m  # w columns of [A B]
            n, w = self.n, self.w
            self.tq, self.tz = scratch.slot(D), scratch.slot(D)
            store = Scratch(LOOPED, scratch.last)
            self.value, self.image, self.hessian = store.slot(n * n), store.slot(n * w), store.slot(w * w)
            self.linear, self.linear_image, self.changes = store.slot(n), store.slot(w), store.slot(n)
            self.map_q, self.map_z = store.slot(D * D if self.mech.dissipative else 0), store.slot(D * D)
            self.map_pi, self.map_a = store.slot(D * m), store.slot(D * m)
            self.store = store.size

        @ti.func
        def linearise(
            self,
            # In
            work: ti.template(),
            store: ti.template(),
            b: ti.template(),
            t: int,
            c0: float,
            h: float,
            a: ti.template(),
            x: ti.template(),
            v: ti.template(),
            p: ti.template(),
        ):
            """T_q, T_z, T_π and T_a of step t, column by column, into `store`."""
            map_q, map_z = self.map_q[store, b], self.map_z[store, b]
            map_pi, map_a = self.map_pi[store, b], self.map_a[store, b]
            J, Z, C, F = self.step.J[work, b], self.step.Z[work, b], self.step.C[work, b], self.step.F[work, b]
            self.step.factor(work, b, t, c0, h, a, x, v, p, J, Z, C, F)
            kinds = ti.static(2 if self.mech.dissipative else 1)  # z, and q apart only where T_q ≠ c₀/h T_z
            for column in range(kinds * self.D + 2 * self.mech.m):
                q, none = self.step.x0[work, b], self.step.x1[work, b]
                z = self.step.v0[work, b]
                rx, rv = self.step.dx[work, b], self.step.dv[work, b]
                rp, rw = self.step.dp[work, b], self.step.dw[work, b]
                for n in each(self.mech.coordinates):
                    z[n], q[n], none[n] = 0.0, 0.0, 0.0
                    if column == n:
                        z[n] = 1.0
                    if ti.static(self.mech.dissipative):
                        if column == self.D + n:
                            q[n] = 1.0
                for n in each(self.mech.handle_coordinates):
                    rp[n], rw[n] = 0.0, 0.0
                for row, col, e in ti.static(self.mech.drives):
                    if column == kinds * self.D + col:
                        rp[row] = rp[row] + e
                    if column == kinds * self.D + self.mech.m + col:
                        rp[row] = rp[row] + h * e
                        rw[row] = rw[row] + e
                self.step.forward(c0, 1.0, 0.0, h, J, Z, C, F, q, none, z, none, rp, rw, rx, rv)
                for n in each(self.mech.coordinates):
                    if column < self.D:
                        map_z[n * self.D + column] = rx[n]
                    elif column < kinds * self.D:
                        map_q[n * self.D + column - self.D] = rx[n]
                    elif column < kinds * self.D + self.mech.m:
                        map_pi[n * self.mech.m + column - kinds * self.D] = rx[n]
                    else:
                        map_a[n * self.mech.m + column - kinds * self.D - self.mech.m] = rx[n]

        @ti.func
        def pull(
            self,
            # In
            work: ti.template(),
            store: ti.template(),
            b: ti.template(),
            y: ti.template(),
            stride: int,
            offset: int,
            c0: float,
            c1: float,
            c2: float,
            h: float,
            # Out
            out: ti.template(),
            at: int,
        ):
            """out[at …] = [A B]ᵀ (y[offset], y[offset + stride], …)."""
            D, m = ti.static(self.D, self.mech.m)
            map_q, map_z = self.map_q[store, b], self.map_z[store, b]
            map_pi, map_a = self.map_pi[store, b], self.map_a[store, b]
            tq, tz = self.tq[work, b], self.tz[work, b]
            ends = ti.Vector.zero(float, 2 * max(m, 1))
            for n in each(self.mech.coordinates):
                tq[n], tz[n] = 0.0, 0.0
            for j in range(D):
                e = y[offset + j * stride] + c0 / h * y[offset + (2 * D + j) * stride]
                for n in each(self.mech.coordinates):
                    tz[n] = tz[n] + map_z[j * D + n] * e
                    if ti.static(self.mech.dissipative):
                        tq[n] = tq[n] + map_q[j * D + n] * e
                for k in ti.static(range(m)):
                    ends[k] = ends[k] + map_pi[j * m + k] * e
                    ends[m + k] = ends[m + k] + map_a[j * m + k] * e
            for n in each(self.mech.coordinates):
                q = y[offset + (2 * D + n) * stride] / h
                if ti.static(self.mech.dissipative):
                    q += tq[n]
                else:
                    q += c0 / h * tz[n]
                out[at + n] = c1 * q + y[offset + (D + n) * stride]
                out[at + D + n] = c2 * q
                out[at + 2 * D + n] = c1 * tz[n] + y[offset + (3 * D + n) * stride]
                out[at + 3 * D + n] = c2 * tz[n]
            for k in ti.static(range(m)):
                out[at + 4 * D + k] = ends[k] + y[offset + (4 * D + k) * stride]
                out[at + 4 * D + m + k] = ends[m + k] + h * y[offset + (4 * D + k) * stride]

        @ti.kernel
        def solve(
            self,
            # In
            h: float,
            first: ti.types.ndarray(ndim=1),
            a: ti.types.ndarray(ndim=3),
            x: ti.types.ndarray(ndim=3),
            v: ti.types.ndarray(ndim=3),
            p: ti.types.ndarray(ndim=3),
            status: ti.types.ndarray(ndim=2),
            # Scratch
            work: ti.types.ndarray(ndim=2),
            store: ti.types.ndarray(ndim=2),
            # In
            g: ti.types.ndarray(ndim=3),
            q: ti.types.ndarray(ndim=3),
            r: ti.types.ndarray(ndim=3),
            damping: ti.types.ndarray(ndim=1),
            free: ti.types.ndarray(ndim=3),
            # Out: step and gains; curvature is M_aa before actions are held
            da: ti.types.ndarray(ndim=3),
            gains: ti.types.ndarray(ndim=4),
            curvature: ti.types.ndarray(ndim=4),
        ):
            D, n, w, m = ti.static(self.D, self.n, self.w, self.mech.m)
            ti.loop_config(block_dim=32)
            for b in range(x.shape[0]):
                N = a.shape[1]
                healthy = status[b, N - 1] == OK
                value, image, hessian = self.value[store, b], self.image[store, b], self.hessian[store, b]
                linear, linear_image = self.linear[store, b], self.linear_image[store, b]
                for i in range(n * n):
                    value[i] = 0.0
                for i in range(n):
                    linear[i] = 0.0
                for back in range(N):
                    t = N - 1 - back
                    if healthy:
                        start = t == 0 and first[b] != 0
                        c0, c1, c2 = self.newton.coefficients(start)
                        self.linearise(work, store, b, t, c0, h, a, x, v, p)
                        bq = b % q.shape[0]
                        for i in range(D):
                            value[i * (n + 1)] = value[i * (n + 1)] + q[bq, t, m + i]
                            at = (2 * D + i) * (n + 1)
                            value[at] = value[at] + q[bq, t, m + D + i]
                        for i in range(m):
                            at = (4 * D + i) * (n + 1)
                            value[at] = value[at] + q[bq, t, i]
                        for i in range(n):  # P [A B]: P is symmetric, so its row i gives row i of the product
                            self.pull(work, store, b, value, 1, i * n, c0, c1, c2, h, image, i * w)
                        for c in range(w):
                            self.pull(work, store, b, image, w, c, c0, c1, c2, h, hessian, c * w)
                        self.pull(work, store, b, linear, 1, 0, c0, c1, c2, h, linear_image, 0)
                        for i in range(m):
                            for j in range(m):
                                y = hessian[(n + i) * w + n + j]
                                if i == j:
                                    y += r[b % r.shape[0], t, i] + damping[b]
                                curvature[b, t, i, j] = y
                                if free[b, t, i] == 0 or free[b, t, j] == 0:
                                    y = float(i == j)
                                hessian[(n + i) * w + n + j] = y
                        # Cholesky factor of M_aa in place, lower triangle
                        for i in range(m):
                            for j in range(i + 1):
                                y = hessian[(n + i) * w + n + j]
                                for k in range(j):
                                    y -= hessian[(n + i) * w + n + k] * hessian[(n + j) * w + n + k]
                                if i == j:
                                    hessian[(n + i) * w + n + j] = ti.sqrt(y)
                                else:
                                    hessian[(n + i) * w + n + j] = y / hessian[(n + j) * w + n + j]
                        # K and k by two triangular solves, column n of the right-hand side being the linear term
                        for c in range(n + 1):
                            for i in range(m):
                                y = 0.0
                                if free[b, t, i] != 0:
                                    if c < n:
                                        y = -hessian[(n + i) * w + c]
                                    else:
                                        y = -(g[b, t, i] + linear_image[n + i])
                                for k in range(i):
                                    z = da[b, t, k]
                                    if c < n:
                                        z = gains[b, t, k, c]
                                    y -= hessian[(n + i) * w + n + k] * z
                                y /= hessian[(n + i) * w + n + i]
                                if c < n:
                                    gains[b, t, i, c] = y
                                else:
                                    da[b, t, i] = y
                            for low in range(m):
                                i = m - 1 - low
                                y = da[b, t, i]
                                if c < n:
                                    y = gains[b, t, i, c]
                                for k in range(i + 1, m):
                                    z = da[b, t, k]
                                    if c < n:
                                        z = gains[b, t, k, c]
                                    y -= hessian[(n + k) * w + n + i] * z
                                y /= hessian[(n + i) * w + n + i]
                                if c < n:
                                    gains[b, t, i, c] = y
                                else:
                                    da[b, t, i] = y
                        for i in range(n):
                            y = linear_image[i]
                            for k in range(m):
                                y += hessian[(n + k) * w + i] * da[b, t, k]
                            linear[i] = y
                            for j in range(i + 1):
                                z = 0.5 * (hessian[i * w + j] + hessian[j * w + i])
                                for k in range(m):
                                    z += hessian[(n + k) * w + i] * gains[b, t, k, j]
                                value[i * n + j] = z
                                value[j * n + i] = z
                    else:
                        for i in range(m):
                            da[b, t, i] = 0.0
                # δa = k + K δs along the linearised rows
                changes = self.changes[store, b]
                for i in range(n):
                    changes[i] = 0.0
                for t in range(N):
                    if healthy:
                        start = t == 0 and first[b] != 0
                        c0, c1, c2 = self.newton.coefficients(start)
                        for i in range(m):
                            y = da[b, t, i]
                            for j in range(n):
                                y += gains[b, t, i, j] * changes[j]
                            da[b, t, i] = y
                        x0, x1, v0, v1 = (
                            self.step.x0[work, b],
                            self.step.x1[work, b],
                            self.step.v0[work, b],
                            self.step.v1[work, b],
                        )
                        rx, rv = self.step.dx[work, b], self.step.dv[work, b]
                        rp, rw = self.step.dp[work, b], self.step.dw[work, b]
                        J, Z = self.step.J[work, b], self.step.Z[work, b]
                        C, F = self.step.C[work, b], self.step.F[work, b]
                        self.step.factor(work, b, t, c0, h, a, x, v, p, J, Z, C, F)
                        for i in each(self.mech.coordinates):
                            x0[i], x1[i] = changes[i], changes[D + i]
                            v0[i], v1[i] = changes[2 * D + i], changes[3 * D + i]
                        for i in each(self.mech.handle_coordinates):
                            rp[i], rw[i] = 0.0, 0.0
                        for k in ti.static(range(m)):
                            changes[4 * D + k] = changes[4 * D + k] + h * da[b, t, k]
                        for row, col, e in ti.static(self.mech.drives):
                            rp[row] = rp[row] + e * changes[4 * D + col]
                            rw[row] = rw[row] + e * da[b, t, col]
                        self.step.forward(c0, c1, c2, h, J, Z, C, F, x0, x1, v0, v1, rp, rw, rx, rv)
                        for i in each(self.mech.coordinates):
                            changes[i], changes[D + i] = rx[i], x0[i]
                            changes[2 * D + i], changes[3 * D + i] = rv[i], v0[i]

    return Riccati
