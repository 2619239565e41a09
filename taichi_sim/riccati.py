"""The Gauss–Newton step by a Riccati recursion: O(N) per rollout, feedback gains included.

Minimises ½ δaᵀ Ĥ δa + gᵀ δa over the free actions, Ĥ = SᵀQS + R + μI with S = ds/da and diagonal Q, R, without
forming S: it is the linear-quadratic problem along the stored rows. BDF2 looks two rows back, so its state is

    s = [x, x₋₁, v, v₋₁, π]        (n = 4·P·d + m, π the actuated handle coordinates),
    x₁ = T [s; a],   v₁ = (c₀ x₁ + c₁ x₀ + c₂ x₋₁)/h,   π₁ = π + h a,

and the backward pass is (Bryson & Ho 1975, section 5)

    M = [A B]ᵀ (P + Q) [A B],   K = −M_aa⁻¹ M_as,   k = −M_aa⁻¹ (g + Bᵀ l),
    P ← M_ss + M_saᵀ K,         l ← Aᵀ l + M_saᵀ k,

the forward pass δa = k + K δs. Held actions have zero rows in K and k.
"""

import taichi as ti

from .linear import LinearStep
from .newton import OK


@ti.data_oriented
class Riccati:
    """One thread a rollout; P and its products live in a scratch tensor (B, `scratch`)."""

    def __init__(self, step: LinearStep):
        self.step = step
        self.mech = step.mech
        self.newton = step.newton
        self.D = self.mech.P * self.mech.d
        self.n = 4 * self.D + self.mech.m
        self.w = self.n + self.mech.m  # columns of [A B]
        n, w = self.n, self.w
        sizes = {"value": n * n, "map": self.D * w, "image": n * w, "hessian": w * w, "lin": n, "lins": w}
        self.at, self.scratch = {}, 0
        for name, size in sizes.items():
            self.at[name] = self.scratch
            self.scratch += size

    @ti.func
    def image(
        self,
        work: ti.template(),
        b: int,
        base: int,
        stride: int,
        other: int,
        c: int,
        c0: float,
        c1: float,
        c2: float,
        h: float,
    ):
        """Entry c of [A B]ᵀ y, y the n numbers at work[b, base + i·stride + other]."""
        D, n = ti.static(self.D, self.n)
        total = 0.0
        for j in range(D):
            y = work[b, base + j * stride + other] + c0 / h * work[b, base + (2 * D + j) * stride + other]
            total += work[b, self.at["map"] + j * self.w + c] * y
        if c < D:
            total += c1 / h * work[b, base + (2 * D + c) * stride + other] + work[b, base + (D + c) * stride + other]
        elif c < 2 * D:
            total += c2 / h * work[b, base + (D + c) * stride + other]
        elif c < 3 * D:
            total += work[b, base + (D + c) * stride + other]
        elif c >= n:
            total += h * work[b, base + (c - self.mech.m) * stride + other]
        elif c >= 4 * D:
            total += work[b, base + c * stride + other]
        return total

    @ti.func
    def linearise(
        self,
        work: ti.template(),
        b: int,
        t: int,
        c0: float,
        c1: float,
        c2: float,
        h: float,
        a: ti.template(),
        x: ti.template(),
        v: ti.template(),
        p: ti.template(),
    ):
        """The map T of step t, column by column, into `work`."""
        J, Z, C, F = self.step.factor(b, t, c0, h, a, x, v, p)
        for c in range(self.w):
            x0 = ti.Matrix.zero(float, self.mech.P, self.mech.d)
            x1 = ti.Matrix.zero(float, self.mech.P, self.mech.d)
            v0 = ti.Matrix.zero(float, self.mech.P, self.mech.d)
            v1 = ti.Matrix.zero(float, self.mech.P, self.mech.d)
            rx = ti.Matrix.zero(float, self.mech.P, self.mech.d)
            rv = ti.Matrix.zero(float, self.mech.P, self.mech.d)
            rp = ti.Matrix.zero(float, self.mech.nH, self.mech.d)
            rw = ti.Matrix.zero(float, self.mech.nH, self.mech.d)
            for i in ti.static(range(self.mech.P)):
                for k in ti.static(range(self.mech.d)):
                    at = ti.static(i * self.mech.d + k)
                    x0[i, k] = float(c == at)
                    x1[i, k] = float(c == self.D + at)
                    v0[i, k] = float(c == 2 * self.D + at)
                    v1[i, k] = float(c == 3 * self.D + at)
            for row, col in ti.static(self.mech.drives):
                if c == 4 * self.D + col:
                    rp[row // self.mech.d, row % self.mech.d] += self.mech.axes[row][col]
                if c == self.n + col:
                    rp[row // self.mech.d, row % self.mech.d] += h * self.mech.axes[row][col]
                    rw[row // self.mech.d, row % self.mech.d] += self.mech.axes[row][col]
            self.step.forward(c0, c1, c2, h, J, Z, C, F, x0, x1, v0, v1, rp, rw, rx, rv)
            for i in ti.static(range(self.mech.P)):
                for k in ti.static(range(self.mech.d)):
                    work[b, self.at["map"] + (i * self.mech.d + k) * self.w + c] = rx[i, k]

    @ti.kernel
    def solve(
        self,
        # In
        h: float,
        first: ti.types.ndarray(ndim=1),
        a: ti.types.ndarray(ndim=3),
        x: ti.types.ndarray(ndim=4),
        v: ti.types.ndarray(ndim=4),
        p: ti.types.ndarray(ndim=4),
        status: ti.types.ndarray(ndim=2),
        g: ti.types.ndarray(ndim=3),
        q: ti.types.ndarray(ndim=3),
        r: ti.types.ndarray(ndim=3),
        damping: ti.types.ndarray(ndim=1),
        free: ti.types.ndarray(ndim=3),
        # Scratch
        work: ti.types.ndarray(ndim=2),
        # Out: step and gains; curvature is M_aa before actions are held
        da: ti.types.ndarray(ndim=3),
        gains: ti.types.ndarray(ndim=4),
        curvature: ti.types.ndarray(ndim=4),
    ):
        D, n, w, m = ti.static(self.D, self.n, self.w, self.mech.m)
        VALUE, IMAGE = ti.static(self.at["value"], self.at["image"])
        HESS, LIN, LINS = ti.static(self.at["hessian"], self.at["lin"], self.at["lins"])
        ti.loop_config(block_dim=32)
        for b in range(x.shape[0]):
            N = a.shape[1]
            healthy = status[b, N - 1] == OK
            for i in range(n * n):
                work[b, VALUE + i] = 0.0
            for i in range(n):
                work[b, LIN + i] = 0.0
            for back in range(N):
                t = N - 1 - back
                if healthy:
                    start = t == 0 and first[b] != 0
                    c0, c1, c2 = self.newton.coefficients(start)
                    self.linearise(work, b, t, c0, c1, c2, h, a, x, v, p)
                    bq = b % q.shape[0]
                    for i in range(D):
                        work[b, VALUE + i * (n + 1)] = work[b, VALUE + i * (n + 1)] + q[bq, t, m + i]
                        work[b, VALUE + (2 * D + i) * (n + 1)] = (
                            work[b, VALUE + (2 * D + i) * (n + 1)] + q[bq, t, m + D + i]
                        )
                    for i in range(m):
                        work[b, VALUE + (4 * D + i) * (n + 1)] = work[b, VALUE + (4 * D + i) * (n + 1)] + q[bq, t, i]
                    # P [A B], row by row: P is symmetric, so row i of the product is the image of row i of P
                    for i in range(n):
                        for c in range(w):
                            work[b, IMAGE + i * w + c] = self.image(work, b, VALUE + i * n, 1, 0, c, c0, c1, c2, h)
                    for c in range(w):
                        for e in range(c + 1):
                            y = self.image(work, b, IMAGE, w, e, c, c0, c1, c2, h)
                            work[b, HESS + c * w + e] = y
                            work[b, HESS + e * w + c] = y
                        work[b, LINS + c] = self.image(work, b, LIN, 1, 0, c, c0, c1, c2, h)
                    for i in range(m):
                        for j in range(m):
                            y = work[b, HESS + (n + i) * w + n + j]
                            if i == j:
                                y += r[b % r.shape[0], t, i] + damping[b]
                            curvature[b, t, i, j] = y
                            if free[b, t, i] == 0 or free[b, t, j] == 0:
                                y = float(i == j)
                            work[b, HESS + (n + i) * w + n + j] = y
                    # Cholesky factor of M_aa in place, lower triangle
                    for i in range(m):
                        for j in range(i + 1):
                            y = work[b, HESS + (n + i) * w + n + j]
                            for k in range(j):
                                y -= work[b, HESS + (n + i) * w + n + k] * work[b, HESS + (n + j) * w + n + k]
                            if i == j:
                                work[b, HESS + (n + i) * w + n + j] = ti.sqrt(y)
                            else:
                                work[b, HESS + (n + i) * w + n + j] = y / work[b, HESS + (n + j) * w + n + j]
                    # K and k by two triangular solves, column n of the right-hand side being the linear term
                    for c in range(n + 1):
                        for i in range(m):
                            y = 0.0
                            if free[b, t, i] != 0:
                                if c < n:
                                    y = -work[b, HESS + c * w + n + i]
                                else:
                                    y = -(g[b, t, i] + work[b, LINS + n + i])
                            for k in range(i):
                                z = da[b, t, k]
                                if c < n:
                                    z = gains[b, t, k, c]
                                y -= work[b, HESS + (n + i) * w + n + k] * z
                            y /= work[b, HESS + (n + i) * w + n + i]
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
                                y -= work[b, HESS + (n + k) * w + n + i] * z
                            y /= work[b, HESS + (n + i) * w + n + i]
                            if c < n:
                                gains[b, t, i, c] = y
                            else:
                                da[b, t, i] = y
                    for i in range(n):
                        y = work[b, LINS + i]
                        for k in range(m):
                            y += work[b, HESS + i * w + n + k] * da[b, t, k]
                        work[b, LIN + i] = y
                        for j in range(i + 1):
                            z = work[b, HESS + i * w + j]
                            for k in range(m):
                                z += work[b, HESS + i * w + n + k] * gains[b, t, k, j]
                            work[b, VALUE + i * n + j] = z
                            work[b, VALUE + j * n + i] = z
                else:
                    for i in range(m):
                        da[b, t, i] = 0.0
            # δa = k + K δs along the linearised rows; δs in LIN, its successor in LINS
            for i in range(n):
                work[b, LIN + i] = 0.0
            for t in range(N):
                if healthy:
                    start = t == 0 and first[b] != 0
                    c0, c1, c2 = self.newton.coefficients(start)
                    for i in range(m):
                        y = da[b, t, i]
                        for j in range(n):
                            y += gains[b, t, i, j] * work[b, LIN + j]
                        da[b, t, i] = y
                    self.linearise(work, b, t, c0, c1, c2, h, a, x, v, p)
                    for i in range(D):
                        y = 0.0
                        for j in range(n):
                            y += work[b, self.at["map"] + i * w + j] * work[b, LIN + j]
                        for j in range(m):
                            y += work[b, self.at["map"] + i * w + n + j] * da[b, t, j]
                        work[b, LINS + i] = y
                    for i in range(D):
                        x0, x1, v0 = work[b, LIN + i], work[b, LIN + D + i], work[b, LIN + 2 * D + i]
                        x2 = work[b, LINS + i]
                        work[b, LIN + i] = x2
                        work[b, LIN + D + i] = x0
                        work[b, LIN + 2 * D + i] = (c0 * x2 + c1 * x0 + c2 * x1) / h
                        work[b, LIN + 3 * D + i] = v0
                    for i in range(m):
                        work[b, LIN + 4 * D + i] = work[b, LIN + 4 * D + i] + h * da[b, t, i]
