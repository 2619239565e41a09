"""The forward kernel: B rollouts side by side, one thread each, any number of steps in one launch."""

import taichi as ti

from .newton import NOT_RUN, OK, Newton


@ti.data_oriented
class Rollout:
    """Fills rows t0+1 … t1 of a trajectory from its rows up to t0 and actions t0 … t1−1.

    Called once for an open-loop rollout and step by step for a closed loop; the arithmetic is the same.
    """

    def __init__(self, newton: Newton):
        self.newton = newton
        self.mech = newton.mech

    @ti.kernel
    def run(
        self,
        # In
        h: float,
        t0: int,
        t1: int,
        first: ti.types.ndarray(ndim=1),
        x_prev: ti.types.ndarray(ndim=3),
        v_prev: ti.types.ndarray(ndim=3),
        a: ti.types.ndarray(ndim=3),
        # In: rows up to t0, out: the rest
        x: ti.types.ndarray(ndim=4),
        v: ti.types.ndarray(ndim=4),
        p: ti.types.ndarray(ndim=4),
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
                    outcome, solves = self.step(b, t, h, first, x_prev, v_prev, a, x, v, p)
                if outcome != OK:
                    for i in ti.static(range(self.mech.P)):
                        for k in ti.static(range(self.mech.d)):
                            x[b, t + 1, i, k] = x[b, t, i, k]
                            v[b, t + 1, i, k] = v[b, t, i, k]
                    for j in ti.static(range(self.mech.H)):
                        for k in ti.static(range(self.mech.d)):
                            p[b, t + 1, j, k] = p[b, t, j, k]
                status[b, t] = outcome
                iterations[b, t] = solves

    @ti.func
    def step(
        self,
        b: int,
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
        x_free = ti.Matrix.zero(float, self.mech.P, self.mech.d)
        v_free = ti.Matrix.zero(float, self.mech.P, self.mech.d)
        u = ti.Matrix.zero(float, self.mech.P, self.mech.d)
        p0 = ti.Matrix.zero(float, self.mech.nH, self.mech.d)
        drive = ti.Matrix.zero(float, self.mech.nH, self.mech.d)
        start = t == 0 and first[b] != 0
        c0, c1, c2 = self.newton.coefficients(start)
        for i in ti.static(range(self.mech.P)):
            for k in ti.static(range(self.mech.d)):
                x1, v1 = x_prev[b, i, k], v_prev[b, i, k]
                if t > 0:
                    x1, v1 = x[b, t - 1, i, k], v[b, t - 1, i, k]
                x0, v0 = x[b, t, i, k], v[b, t, i, k]
                if start:
                    x1, v1 = x0, v0
                v_free[i, k] = -(c1 * v0 + c2 * v1) / c0
                x_free[i, k] = (h * v_free[i, k] - c1 * x0 - c2 * x1) / c0
                u[i, k] = h / c0 * (2.0 * v0 - v1 - v_free[i, k])  # as if the acceleration stayed
        for j in ti.static(range(self.mech.H)):
            for k in ti.static(range(self.mech.d)):
                p0[j, k] = p[b, t, j, k]
        for row, col in ti.static(self.mech.drives):
            drive[row // self.mech.d, row % self.mech.d] += ti.static(self.mech.axes[row][col]) * a[b, t, col]

        status, solves = self.newton.solve(x_free, v_free, p0, drive, c0, h, u)
        if status == OK:
            for i in ti.static(range(self.mech.P)):
                for k in ti.static(range(self.mech.d)):
                    x[b, t + 1, i, k] = x_free[i, k] + u[i, k]
                    v[b, t + 1, i, k] = v_free[i, k] + c0 / h * u[i, k]
            for j in ti.static(range(self.mech.H)):
                for k in ti.static(range(self.mech.d)):
                    p[b, t + 1, j, k] = p0[j, k] + h * drive[j, k]
        return status, solves
