"""The forward kernel: B rollouts side by side, any number of steps in one launch."""

import functools

import taichi as ti

from .loops import Group, Loops, Rows, Scratch
from .trajectory import NOT_CONVERGED, NOT_RUN, OK


@functools.cache
def rollout(loops: Loops):
    each, side = loops.each, loops.side

    @ti.data_oriented
    class Rollout:
        """Fills rows t0+1 … t1 of a trajectory from its rows up to t0 and actions t0 … t1−1.

        Called once for an open-loop rollout and step by step for a closed loop; the arithmetic is the same. x, v
        (B, N+1, P, d) and p (B, N+1, H, d) are flat: a store through three indices takes a CPU twice the instructions.
        Lanes beyond the last rollout repeat it and write nothing.
        """

        def __init__(self, newton, scratch: Scratch):
            self.newton = newton
            self.mech = newton.mech
            self.many, self.lanes = loops.lanes, loops.abreast()
            d = self.mech.d
            self.points, self.handles = Rows(0, self.mech.D, False, d), Rows(0, self.mech.H * d, False, d)
            names = ("x0", "x1", "v0", "v1", "x_free", "v_free")  # 0: of row t, 1: of row t − 1
            rows = {name: scratch.slot(self.mech.P, self.mech.d) for name in names}
            rows |= {name: scratch.slot(self.mech.H, self.mech.d) for name in ("p0", "drive")}
            scalars = {name: loops.scalar() for name in ("past", "inverse_rate")}  # c₂/c₀, h/c₀
            scalars |= {name: loops.scalar(ti.i32) for name in ("rollout", "status", "solves")}
            self.variables = newton.variables | Group(**rows, **scalars)

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
            x: ti.types.ndarray(ndim=1),
            v: ti.types.ndarray(ndim=1),
            p: ti.types.ndarray(ndim=1),
            # Scratch, that of Newton's directions too
            work: ti.types.ndarray(ndim=1),
            quick: ti.types.ndarray(ndim=1),
            # Out
            status: ti.types.ndarray(ndim=2),
            iterations: ti.types.ndarray(ndim=2),
        ):
            d = ti.static(self.mech.d)
            ti.loop_config(block_dim=32)
            for group in range((status.shape[0] + self.many - 1) // self.many):
                B, rows = status.shape[0], status.shape[1] + 1
                y = self.variables[work, quick, group]
                for lane in side(self.lanes):
                    y.rollout[lane] = ti.min(group * self.many + lane, B - 1)
                    y.status[lane] = OK
                    if t0 > 0:
                        y.status[lane] = status[y.rollout[lane], t0 - 1]
                for i in each(self.mech.all_points):
                    for lane in side(self.lanes):
                        b = y.rollout[lane]
                        x0, v0 = self.points[x, b, t0, rows], self.points[v, b, t0, rows]
                        for k in ti.static(range(d)):
                            y.x0[i, k, lane], y.v0[i, k, lane] = x0[i, k, 0], v0[i, k, 0]
                            y.x1[i, k, lane], y.v1[i, k, lane] = x_prev[b, i * d + k], v_prev[b, i * d + k]
                        if t0 > 0:
                            x1, v1 = self.points[x, b, t0 - 1, rows], self.points[v, b, t0 - 1, rows]
                            for k in ti.static(range(d)):
                                y.x1[i, k, lane], y.v1[i, k, lane] = x1[i, k, 0], v1[i, k, 0]
                for j in each(self.mech.all_handles):
                    for lane in side(self.lanes):
                        p0 = self.handles[p, y.rollout[lane], t0, rows]
                        for k in ti.static(range(d)):
                            y.p0[j, k, lane] = p0[j, k, 0]
                for t in range(t0, t1):
                    self.step(y, t, h, first, a)
                    for lane in side(self.lanes):
                        if group * self.many + lane < B:
                            b = y.rollout[lane]
                            x0, v0 = self.points[x, b, t + 1, rows], self.points[v, b, t + 1, rows]
                            p0 = self.handles[p, b, t + 1, rows]
                            for i in each(self.mech.all_points):
                                for k in ti.static(range(d)):
                                    x0[i, k, 0] = y.x0[i, k, lane]
                                    v0[i, k, 0] = y.v0[i, k, lane]
                            for j in each(self.mech.all_handles):
                                for k in ti.static(range(d)):
                                    p0[j, k, 0] = y.p0[j, k, lane]
                            status[b, t] = y.status[lane]
                            iterations[b, t] = y.solves[lane]

        @ti.func
        def step(
            self,
            # In: rows t and t−1 and the status of row t; out: rows t+1 and t and the status of this step
            y: ti.template(),
            # In
            t: int,
            h: float,
            first: ti.template(),
            a: ti.template(),
        ):
            """Row t+1; a rollout that has failed stays where it is."""
            d = ti.static(self.mech.d)
            for lane in side(self.lanes):
                c0, _, c2 = self.mech.coefficients(t == 0 and first[y.rollout[lane]] != 0)
                y.rate[lane], y.past[lane], y.inverse_rate[lane] = c0 / h, c2 / c0, h / c0
                y.status[lane] = ti.select(y.status[lane] == OK, NOT_CONVERGED, NOT_RUN)
            if t == 0:
                for i in each(self.mech.all_points):
                    for lane in side(self.lanes):
                        if first[y.rollout[lane]] != 0:
                            for k in ti.static(range(d)):
                                y.x1[i, k, lane], y.v1[i, k, lane] = y.x0[i, k, lane], y.v0[i, k, lane]
            for i in each(self.mech.all_points):
                for lane in side(self.lanes):
                    for k in ti.static(range(d)):
                        x0, x1, v0, v1 = y.x0[i, k, lane], y.x1[i, k, lane], y.v0[i, k, lane], y.v1[i, k, lane]
                        # As c₁ = −c₀ − c₂: what rests stays where it is, to the bit
                        free = v0 + y.past[lane] * (v0 - v1)
                        y.v_free[i, k, lane] = free
                        y.x_free[i, k, lane] = x0 + (y.past[lane] * (x0 - x1) + y.inverse_rate[lane] * free)
                        # As if the acceleration stayed
                        y.solution[i, k, lane] = y.inverse_rate[lane] * (2.0 * v0 - v1 - free)
            for j in each(self.mech.all_handles):
                for lane in side(self.lanes):
                    for k in ti.static(range(d)):
                        y.drive[j, k, lane] = 0.0
            for row, col, e in ti.static(self.mech.drives):
                for lane in side(self.lanes):
                    at = y.drive[row // d, row % d, lane]
                    y.drive[row // d, row % d, lane] = at + e * a[y.rollout[lane], t, col]

            self.newton.solve(y, y.x_free, y.v_free, y.p0, y.drive, h, y.status, y.solves)
            for i in each(self.mech.all_points):
                for lane in side(self.lanes):
                    for k in ti.static(range(d)):
                        x0, v0, u = y.x0[i, k, lane], y.v0[i, k, lane], y.solution[i, k, lane]
                        good = y.status[lane] == OK
                        y.x0[i, k, lane] = ti.select(good, y.x_free[i, k, lane] + u, x0)
                        y.v0[i, k, lane] = ti.select(good, y.v_free[i, k, lane] + y.rate[lane] * u, v0)
                        y.x1[i, k, lane], y.v1[i, k, lane] = x0, v0
            for j in each(self.mech.all_handles):
                for lane in side(self.lanes):
                    for k in ti.static(range(d)):
                        there = y.p0[j, k, lane] + h * y.drive[j, k, lane]
                        y.p0[j, k, lane] = ti.select(y.status[lane] == OK, there, y.p0[j, k, lane])

    return Rollout
