"""Sweeps over stored rows: adjoint (vjp), forward (jvp) and the full Jacobian ds/da (paper, appendix A.4).

A rollout with a failed step has zero derivatives.
"""

import functools

import taichi as ti

from .loops import Loops
from .newton import OK


@functools.cache
def sensitivity(loops: Loops):
    each = loops.each

    @ti.data_oriented
    class Sensitivity:
        """The three sweeps; one thread a rollout, every product in a fixed order."""

        def __init__(self, step):
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
            x: ti.types.ndarray(ndim=3),
            v: ti.types.ndarray(ndim=3),
            p: ti.types.ndarray(ndim=3),
            status: ti.types.ndarray(ndim=2),
            # Scratch
            work: ti.types.ndarray(ndim=2),
            # In: ∂L/∂rows, out: row 0 holds dL/dstart
            gx: ti.types.ndarray(ndim=3),
            gv: ti.types.ndarray(ndim=3),
            gp: ti.types.ndarray(ndim=3),
            # Out
            gx_prev: ti.types.ndarray(ndim=2),
            gv_prev: ti.types.ndarray(ndim=2),
            ga: ti.types.ndarray(ndim=3),
        ):
            ti.loop_config(block_dim=32)
            for b in range(x.shape[0]):
                N = a.shape[1]
                healthy = status[b, N - 1] == OK
                for back in range(N):
                    t = N - 1 - back
                    for col in ti.static(range(self.mech.m)):
                        ga[b, t, col] = 0.0
                    if healthy:
                        rx, rv = self.step.x0[work, b], self.step.v0[work, b]
                        adjoint, rq = self.step.dx[work, b], self.step.dv[work, b]
                        rp, rw = self.step.dp[work, b], self.step.dw[work, b]
                        J, Z = self.step.J[work, b], self.step.Z[work, b]
                        C, F = self.step.C[work, b], self.step.F[work, b]
                        start = t == 0 and first[b] != 0
                        c0, c1, c2 = self.newton.coefficients(start)
                        for n in each(self.mech.coordinates):
                            rx[n] = gx[b, t + 1, n]
                            rv[n] = gv[b, t + 1, n]
                        for n in each(self.mech.handle_coordinates):
                            rp[n] = gp[b, t + 1, n]
                            rw[n] = 0.0
                        self.step.factor(work, b, t, c0, h, a, x, v, p, J, Z, C, F)
                        self.step.backward(c0, h, J, Z, C, F, rx, rv, adjoint, rq, rp, rw)
                        for n in each(self.mech.coordinates):
                            z = self.mech.mass[n // self.mech.d] / h * adjoint[n]
                            gx[b, t, n] = gx[b, t, n] + c1 * rq[n]
                            gv[b, t, n] = gv[b, t, n] - c1 * z
                            if t > 0:
                                gx[b, t - 1, n] = gx[b, t - 1, n] + c2 * rq[n]
                                gv[b, t - 1, n] = gv[b, t - 1, n] - c2 * z
                            else:
                                gx_prev[b, n] = c2 * rq[n]
                                gv_prev[b, n] = -c2 * z
                        for n in each(self.mech.handle_coordinates):
                            gp[b, t, n] = gp[b, t, n] + rp[n]
                        for row, col, e in ti.static(self.mech.drives):
                            ga[b, t, col] = ga[b, t, col] + e * (h * rp[row] + rw[row])
                if not healthy:
                    for n in each(self.mech.coordinates):
                        gx[b, 0, n] = 0.0
                        gv[b, 0, n] = 0.0
                        gx_prev[b, n] = 0.0
                        gv_prev[b, n] = 0.0
                    for n in each(self.mech.handle_coordinates):
                        gp[b, 0, n] = 0.0

        @ti.kernel
        def jvp(
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
            # In
            da: ti.types.ndarray(ndim=3),
            dx_prev: ti.types.ndarray(ndim=2),
            dv_prev: ti.types.ndarray(ndim=2),
            # In: row 0, out: the rest
            dx: ti.types.ndarray(ndim=3),
            dv: ti.types.ndarray(ndim=3),
            dp: ti.types.ndarray(ndim=3),
        ):
            ti.loop_config(block_dim=32)
            for b in range(x.shape[0]):
                N = a.shape[1]
                healthy = status[b, N - 1] == OK
                for t in range(N):
                    x0, x1, v0, v1 = (
                        self.step.x0[work, b],
                        self.step.x1[work, b],
                        self.step.v0[work, b],
                        self.step.v1[work, b],
                    )
                    rx, rv = self.step.dx[work, b], self.step.dv[work, b]
                    rp, rw = self.step.dp[work, b], self.step.dw[work, b]
                    if healthy:
                        J, Z = self.step.J[work, b], self.step.Z[work, b]
                        C, F = self.step.C[work, b], self.step.F[work, b]
                        start = t == 0 and first[b] != 0
                        c0, c1, c2 = self.newton.coefficients(start)
                        for n in each(self.mech.coordinates):
                            x0[n] = dx[b, t, n]
                            v0[n] = dv[b, t, n]
                            if t > 0:
                                x1[n] = dx[b, t - 1, n]
                                v1[n] = dv[b, t - 1, n]
                            else:
                                x1[n] = dx_prev[b, n]
                                v1[n] = dv_prev[b, n]
                        for n in each(self.mech.handle_coordinates):
                            rw[n] = 0.0
                        for row, col, e in ti.static(self.mech.drives):
                            rw[row] = rw[row] + e * da[b, t, col]
                        for n in each(self.mech.handle_coordinates):
                            rp[n] = dp[b, t, n] + h * rw[n]
                        self.step.factor(work, b, t, c0, h, a, x, v, p, J, Z, C, F)
                        self.step.forward(c0, c1, c2, h, J, Z, C, F, x0, x1, v0, v1, rp, rw, rx, rv)
                    else:
                        for n in each(self.mech.coordinates):
                            rx[n] = 0.0
                            rv[n] = 0.0
                        for n in each(self.mech.handle_coordinates):
                            rp[n] = 0.0
                    for n in each(self.mech.coordinates):
                        dx[b, t + 1, n] = rx[n]
                        dv[b, t + 1, n] = rv[n]
                    for n in each(self.mech.handle_coordinates):
                        dp[b, t + 1, n] = rp[n]

        @ti.kernel
        def jacobian(
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
            # In: zeros, out: ds/da with rows [actuated p, x, v] of row t+1
            S: ti.types.ndarray(ndim=5),
        ):
            ti.loop_config(block_dim=32)
            for b in range(x.shape[0]):
                N = a.shape[1]
                if status[b, N - 1] == OK:
                    for t in range(N):
                        J, Z = self.step.J[work, b], self.step.Z[work, b]
                        C, F = self.step.C[work, b], self.step.F[work, b]
                        start = t == 0 and first[b] != 0
                        c0, c1, c2 = self.newton.coefficients(start)
                        self.step.factor(work, b, t, c0, h, a, x, v, p, J, Z, C, F)
                        for column in range((t + 1) * self.mech.m):
                            cause, axis = column // self.mech.m, column % self.mech.m
                            x0, x1, v0, v1 = (
                                self.step.x0[work, b],
                                self.step.x1[work, b],
                                self.step.v0[work, b],
                                self.step.v1[work, b],
                            )
                            rx, rv = self.step.dx[work, b], self.step.dv[work, b]
                            rp, rw = self.step.dp[work, b], self.step.dw[work, b]
                            for n in each(self.mech.coordinates):
                                x0[n], x1[n], v0[n], v1[n] = 0.0, 0.0, 0.0, 0.0
                                at = self.mech.m + n
                                if t > cause:
                                    x0[n] = S[b, t - 1, at, cause, axis]
                                    v0[n] = S[b, t - 1, at + self.mech.D, cause, axis]
                                if t > cause + 1:
                                    x1[n] = S[b, t - 2, at, cause, axis]
                                    v1[n] = S[b, t - 2, at + self.mech.D, cause, axis]
                            for n in each(self.mech.handle_coordinates):
                                rp[n], rw[n] = 0.0, 0.0
                            for row, col, e in ti.static(self.mech.drives):
                                if col == axis:
                                    rp[row] = rp[row] + h * e
                                    if t == cause:
                                        rw[row] = rw[row] + e
                            self.step.forward(c0, c1, c2, h, J, Z, C, F, x0, x1, v0, v1, rp, rw, rx, rv)
                            S[b, t, axis, cause, axis] = h
                            for n in each(self.mech.coordinates):
                                S[b, t, self.mech.m + n, cause, axis] = rx[n]
                                S[b, t, self.mech.m + self.mech.D + n, cause, axis] = rv[n]

    return Sensitivity
