"""The forward kernel: B rollouts side by side, one thread each, any number of steps in one launch."""

import functools

import taichi as ti

from .loops import Loops, Scratch
from .newton import NOT_RUN, OK


@functools.cache
def rollout(loops: Loops):
    each = loops.each

    @ti.data_oriented
    class Rollout:
        """Fills rows t0+1 … t1 of a trajectory from its rows up to t0 and actions t0 … t1−1.

        Called once for an open-loop rollout and step by step for a closed loop; the arithmetic is the same. Rows of
        x and v are flat (P·d), rows of p (H·d).
        """

        def __init__(self, newton, scratch: Scratch):
            self.newton = newton
            self.mech = newton.mech
            D, Hd = self.mech.D, self.mech.H * self.mech.d
            self.x_free, self.v_free, self.u = (scratch.slot(D) for _ in range(3))
            self.p0, self.drive = scratch.slot(Hd), scratch.slot(Hd)

        @ti.kernel
        def run(
            self,
            # In
            h: float,
            t0: int,
            t1: int,
            first: ti.types.ndarray(ndim=1),
            x_prev: ti.types.ndarray(ndim=2),
            v_prev: ti.types.ndarray(ndim=2),
            a: ti.types.ndarray(ndim=3),
            # In: rows up to t0, out: the rest
            x: ti.types.ndarray(ndim=3),
            v: ti.types.ndarray(ndim=3),
            p: ti.types.ndarray(ndim=3),
            # Scratch
            work: ti.types.ndarray(ndim=2),
            # Out
            status: ti.types.ndarray(ndim=2),
            iterations: ti.types.ndarray(ndim=2),
        ):
            ti.loop_config(block_dim=32)
            for b in range(x.shape[0]):
                for t in range(t0, t1):
                    outcome, solves = NOT_RUN, 0
                    healthy = True
                    if t > 0:
                        healthy = status[b, t - 1] == OK
                    if healthy:
                        outcome, solves = self.step(work, b, t, h, first, x_prev, v_prev, a, x, v, p)
                    if outcome != OK:
                        for n in each(self.mech.coordinates):
                            x[b, t + 1, n] = x[b, t, n]
                            v[b, t + 1, n] = v[b, t, n]
                        for n in each(self.mech.handle_coordinates):
                            p[b, t + 1, n] = p[b, t, n]
                    status[b, t] = outcome
                    iterations[b, t] = solves

        @ti.func
        def step(
            self,
            work: ti.template(),
            b: ti.template(),
            t: int,
            h: float,
            first: ti.template(),
            x_prev: ti.template(),
            v_prev: ti.template(),
            a: ti.template(),
            x: ti.template(),
            v: ti.template(),
            p: ti.template(),
        ):
            """Row t+1 from rows t and t−1; returns status and linear solves."""
            x_free, v_free, u = self.x_free[work, b], self.v_free[work, b], self.u[work, b]
            p0, drive = self.p0[work, b], self.drive[work, b]
            start = t == 0 and first[b] != 0
            c0, c1, c2 = self.newton.coefficients(start)
            for n in each(self.mech.coordinates):
                x1, v1 = x_prev[b, n], v_prev[b, n]
                if t > 0:
                    x1, v1 = x[b, t - 1, n], v[b, t - 1, n]
                x0, v0 = x[b, t, n], v[b, t, n]
                if start:
                    x1, v1 = x0, v0
                free = -(c1 * v0 + c2 * v1) / c0
                v_free[n] = free
                x_free[n] = (h * free - c1 * x0 - c2 * x1) / c0
                u[n] = h / c0 * (2.0 * v0 - v1 - free)  # as if the acceleration stayed
            for n in each(self.mech.handle_coordinates):
                p0[n] = p[b, t, n]
                drive[n] = 0.0
            for row, col, e in ti.static(self.mech.drives):
                drive[row] = drive[row] + e * a[b, t, col]

            status, solves = self.newton.solve(work, b, x_free, v_free, p0, drive, c0, h, u)
            if status == OK:
                for n in each(self.mech.coordinates):
                    x[b, t + 1, n] = x_free[n] + u[n]
                    v[b, t + 1, n] = v_free[n] + c0 / h * u[n]
                for n in each(self.mech.handle_coordinates):
                    p[b, t + 1, n] = p0[n] + h * drive[n]
            return status, solves

    return Rollout
