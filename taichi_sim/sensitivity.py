"""Sweeps over stored rows: adjoint (vjp), forward (jvp) and the full Jacobian ds/da (paper, appendix A.4).

A rollout with a failed step has zero derivatives.
"""

import taichi as ti

from .linear import LinearStep
from .newton import OK


@ti.data_oriented
class Sensitivity:
    """The three sweeps; one thread a rollout, every product in a fixed order."""

    def __init__(self, step: LinearStep):
        self.step = step
        self.mech = step.mech
        self.newton = step.newton

    @ti.kernel
    def vjp(
        self,
        # In
        h: float,
        first: ti.types.ndarray(ndim=1),
        a: ti.types.ndarray(ndim=3),
        x: ti.types.ndarray(ndim=4),
        v: ti.types.ndarray(ndim=4),
        p: ti.types.ndarray(ndim=4),
        status: ti.types.ndarray(ndim=2),
        # In: ∂L/∂rows, out: row 0 holds dL/dstart
        gx: ti.types.ndarray(ndim=4),
        gv: ti.types.ndarray(ndim=4),
        gp: ti.types.ndarray(ndim=4),
        # Out
        gx_prev: ti.types.ndarray(ndim=3),
        gv_prev: ti.types.ndarray(ndim=3),
        ga: ti.types.ndarray(ndim=3),
    ):
        ti.loop_config(block_dim=32)
        for b in range(x.shape[0]):
            N = a.shape[1]
            healthy = status[b, N - 1] == OK
            for step in range(N):
                t = N - 1 - step
                rx = ti.Matrix.zero(float, self.mech.P, self.mech.d)
                rv = ti.Matrix.zero(float, self.mech.P, self.mech.d)
                adjoint = ti.Matrix.zero(float, self.mech.P, self.mech.d)
                rq = ti.Matrix.zero(float, self.mech.P, self.mech.d)
                rp = ti.Matrix.zero(float, self.mech.nH, self.mech.d)
                rw = ti.Matrix.zero(float, self.mech.nH, self.mech.d)
                if healthy:
                    start = t == 0 and first[b] != 0
                    c0, c1, c2 = self.newton.coefficients(start)
                    for i in ti.static(range(self.mech.P)):
                        for k in ti.static(range(self.mech.d)):
                            rx[i, k] = gx[b, t + 1, i, k]
                            rv[i, k] = gv[b, t + 1, i, k]
                    for j in ti.static(range(self.mech.H)):
                        for k in ti.static(range(self.mech.d)):
                            rp[j, k] = gp[b, t + 1, j, k]
                    J, Z, C, F = self.step.factor(b, t, c0, h, a, x, v, p)
                    self.step.backward(c0, h, J, Z, C, F, rx, rv, adjoint, rq, rp, rw)
                    for i in ti.static(range(self.mech.P)):
                        for k in ti.static(range(self.mech.d)):
                            z = self.mech.mass[i] / h * adjoint[i, k]
                            gx[b, t, i, k] = gx[b, t, i, k] + c1 * rq[i, k]
                            gv[b, t, i, k] = gv[b, t, i, k] - c1 * z
                            if t > 0:
                                gx[b, t - 1, i, k] = gx[b, t - 1, i, k] + c2 * rq[i, k]
                                gv[b, t - 1, i, k] = gv[b, t - 1, i, k] - c2 * z
                            else:
                                gx_prev[b, i, k] = c2 * rq[i, k]
                                gv_prev[b, i, k] = -c2 * z
                    for j in ti.static(range(self.mech.H)):
                        for k in ti.static(range(self.mech.d)):
                            gp[b, t, j, k] = gp[b, t, j, k] + rp[j, k]
                for col in ti.static(range(self.mech.m)):
                    ga[b, t, col] = 0.0
                for row, col in ti.static(self.mech.drives):
                    j, k = ti.static(row // self.mech.d, row % self.mech.d)
                    ga[b, t, col] = ga[b, t, col] + self.mech.axes[row][col] * (h * rp[j, k] + rw[j, k])
            if not healthy:
                for i in ti.static(range(self.mech.P)):
                    for k in ti.static(range(self.mech.d)):
                        gx[b, 0, i, k] = 0.0
                        gv[b, 0, i, k] = 0.0
                        gx_prev[b, i, k] = 0.0
                        gv_prev[b, i, k] = 0.0
                for j in ti.static(range(self.mech.H)):
                    for k in ti.static(range(self.mech.d)):
                        gp[b, 0, j, k] = 0.0

    @ti.kernel
    def jvp(
        self,
        # In
        h: float,
        first: ti.types.ndarray(ndim=1),
        a: ti.types.ndarray(ndim=3),
        x: ti.types.ndarray(ndim=4),
        v: ti.types.ndarray(ndim=4),
        p: ti.types.ndarray(ndim=4),
        status: ti.types.ndarray(ndim=2),
        da: ti.types.ndarray(ndim=3),
        dx_prev: ti.types.ndarray(ndim=3),
        dv_prev: ti.types.ndarray(ndim=3),
        # In: row 0, out: the rest
        dx: ti.types.ndarray(ndim=4),
        dv: ti.types.ndarray(ndim=4),
        dp: ti.types.ndarray(ndim=4),
    ):
        ti.loop_config(block_dim=32)
        for b in range(x.shape[0]):
            N = a.shape[1]
            healthy = status[b, N - 1] == OK
            for t in range(N):
                x0 = ti.Matrix.zero(float, self.mech.P, self.mech.d)
                x1 = ti.Matrix.zero(float, self.mech.P, self.mech.d)
                v0 = ti.Matrix.zero(float, self.mech.P, self.mech.d)
                v1 = ti.Matrix.zero(float, self.mech.P, self.mech.d)
                rx = ti.Matrix.zero(float, self.mech.P, self.mech.d)
                rv = ti.Matrix.zero(float, self.mech.P, self.mech.d)
                rp = ti.Matrix.zero(float, self.mech.nH, self.mech.d)
                rw = ti.Matrix.zero(float, self.mech.nH, self.mech.d)
                if healthy:
                    start = t == 0 and first[b] != 0
                    c0, c1, c2 = self.newton.coefficients(start)
                    for i in ti.static(range(self.mech.P)):
                        for k in ti.static(range(self.mech.d)):
                            x0[i, k] = dx[b, t, i, k]
                            v0[i, k] = dv[b, t, i, k]
                            if t > 0:
                                x1[i, k] = dx[b, t - 1, i, k]
                                v1[i, k] = dv[b, t - 1, i, k]
                            else:
                                x1[i, k] = dx_prev[b, i, k]
                                v1[i, k] = dv_prev[b, i, k]
                    for row, col in ti.static(self.mech.drives):
                        rw[row // self.mech.d, row % self.mech.d] += self.mech.axes[row][col] * da[b, t, col]
                    for j in ti.static(range(self.mech.H)):
                        for k in ti.static(range(self.mech.d)):
                            rp[j, k] = dp[b, t, j, k] + h * rw[j, k]
                    J, Z, C, F = self.step.factor(b, t, c0, h, a, x, v, p)
                    self.step.forward(c0, c1, c2, h, J, Z, C, F, x0, x1, v0, v1, rp, rw, rx, rv)
                for i in ti.static(range(self.mech.P)):
                    for k in ti.static(range(self.mech.d)):
                        dx[b, t + 1, i, k] = rx[i, k]
                        dv[b, t + 1, i, k] = rv[i, k]
                for j in ti.static(range(self.mech.H)):
                    for k in ti.static(range(self.mech.d)):
                        dp[b, t + 1, j, k] = rp[j, k]

    @ti.kernel
    def jacobian(
        self,
        # In
        h: float,
        first: ti.types.ndarray(ndim=1),
        a: ti.types.ndarray(ndim=3),
        x: ti.types.ndarray(ndim=4),
        v: ti.types.ndarray(ndim=4),
        p: ti.types.ndarray(ndim=4),
        status: ti.types.ndarray(ndim=2),
        # In: zeros, out: ds/da with rows [actuated p, x, v] of row t+1
        S: ti.types.ndarray(ndim=5),
    ):
        ti.loop_config(block_dim=32)
        for b in range(x.shape[0]):
            N = a.shape[1]
            if status[b, N - 1] == OK:
                for t in range(N):
                    start = t == 0 and first[b] != 0
                    c0, c1, c2 = self.newton.coefficients(start)
                    J, Z, C, F = self.step.factor(b, t, c0, h, a, x, v, p)
                    for column in range((t + 1) * self.mech.m):
                        cause, axis = column // self.mech.m, column % self.mech.m
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
                                at = self.mech.m + i * self.mech.d + k
                                if t > cause:
                                    x0[i, k] = S[b, t - 1, at, cause, axis]
                                    v0[i, k] = S[b, t - 1, at + self.mech.P * self.mech.d, cause, axis]
                                if t > cause + 1:
                                    x1[i, k] = S[b, t - 2, at, cause, axis]
                                    v1[i, k] = S[b, t - 2, at + self.mech.P * self.mech.d, cause, axis]
                        for row, col in ti.static(self.mech.drives):
                            if col == axis:
                                rp[row // self.mech.d, row % self.mech.d] += h * self.mech.axes[row][col]
                                if t == cause:
                                    rw[row // self.mech.d, row % self.mech.d] += self.mech.axes[row][col]
                        self.step.forward(c0, c1, c2, h, J, Z, C, F, x0, x1, v0, v1, rp, rw, rx, rv)
                        S[b, t, axis, cause, axis] = h
                        for i in ti.static(range(self.mech.P)):
                            for k in ti.static(range(self.mech.d)):
                                at = self.mech.m + i * self.mech.d + k
                                S[b, t, at, cause, axis] = rx[i, k]
                                S[b, t, at + self.mech.P * self.mech.d, cause, axis] = rv[i, k]
