"""The forward kernel: B rollouts side by side, any number of steps in one launch."""

import functools

import taichi as ti

from .loops import Loops
from .trajectory import NOT_CONVERGED, NOT_RUN, OK
from .variables import Group, Rows, Scratch


@functools.cache
def rollout(loops: Loops):
    each, through, side, across = loops.each, loops.through, loops.side, loops.across

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
            self.many, self.all_lanes = loops.many, loops.all_lanes()
            self.strips, self.lanes = loops.strips(), loops.abreast()
            d = self.mech.d
            self.points, self.handles = Rows(0, self.mech.D, False, d), Rows(0, self.mech.H * d, False, d)
            # 0: of row t, 1: of row t − 1
            rows = {name: scratch.slot(self.mech.P, self.mech.d) for name in ("x0", "x1", "v0", "v1")}
            scalars = {name: scratch.scalar() for name in ("past", "inverse_rate")}  # c₂/c₀, h/c₀
            scalars |= {name: scratch.scalar(ti.i32) for name in ("rollout", "inside", "first")}
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
            ti.loop_config(block_dim=32)
            for group in range((status.shape[0] + self.many - 1) // self.many):
                y = self.variables[work, quick, group]
                self.read(y, group, t0, first, x_prev, v_prev, x, v, p, status)
                for t in range(t0, t1):
                    self.drive(y, t, h, a)
                    active = 0
                    for strip in through(self.strips):
                        self.extrapolate(y[strip])
                        active += self.newton.prepare(y[strip])
                    self.newton.solve(y, active)
                    for strip in through(self.strips):
                        self.advance(y[strip])
                    self.write(y, t, x, v, p, status, iterations)

        @ti.func
        def read(
            self,
            y: ti.template(),
            group: int,
            t: int,
            first: ti.template(),
            x_prev: ti.template(),
            v_prev: ti.template(),
            x: ti.template(),
            v: ti.template(),
            p: ti.template(),
            status: ti.template(),
        ):
            """Rows t and t−1 of a group of rollouts, one a lane."""
            d = ti.static(self.mech.d)
            B, rows = status.shape[0], status.shape[1] + 1
            for lane in across(self.all_lanes):
                b = ti.min(group * self.many + lane, B - 1)
                y.rollout[lane], y.inside[lane] = b, ti.cast(group * self.many + lane < B, ti.i32)
                y.first[lane], y.status[lane] = 0, OK
                if t > 0:
                    y.status[lane] = status[b, t - 1]
                else:
                    y.first[lane] = ti.cast(first[b] != 0, ti.i32)
            for i in each(self.mech.all_points):
                for lane in across(self.all_lanes):
                    b = y.rollout[lane]
                    x0, v0 = self.points[x, b, t, rows], self.points[v, b, t, rows]
                    for k in ti.static(range(d)):
                        y.x0[i, k, lane], y.v0[i, k, lane] = x0[i, k, 0], v0[i, k, 0]
                        y.x1[i, k, lane], y.v1[i, k, lane] = x_prev[b, i * d + k], v_prev[b, i * d + k]
                    if t > 0:
                        x1, v1 = self.points[x, b, t - 1, rows], self.points[v, b, t - 1, rows]
                        for k in ti.static(range(d)):
                            y.x1[i, k, lane], y.v1[i, k, lane] = x1[i, k, 0], v1[i, k, 0]
                    if y.first[lane] == 1:
                        for k in ti.static(range(d)):
                            y.x1[i, k, lane], y.v1[i, k, lane] = y.x0[i, k, lane], y.v0[i, k, lane]
            for j in each(self.mech.all_handles):
                for lane in across(self.all_lanes):
                    p0 = self.handles[p, y.rollout[lane], t, rows]
                    for k in ti.static(range(d)):
                        y.p0[j, k, lane] = p0[j, k, 0]

        @ti.func
        def drive(self, y: ti.template(), t: int, h: float, a: ti.template()):
            """The difference formula of step t and the handles' velocity in it; a rollout that has failed stops."""
            d = ti.static(self.mech.d)
            for lane in across(self.all_lanes):
                c0, _, c2 = self.mech.coefficients(y.first[lane] == 1)
                y.h[lane] = h
                y.rate[lane], y.past[lane], y.inverse_rate[lane] = c0 / h, c2 / c0, h / c0
                y.status[lane] = ti.select(y.status[lane] == OK, NOT_CONVERGED, NOT_RUN)
                y.first[lane] = 0
            for j in each(self.mech.all_handles):
                for lane in across(self.all_lanes):
                    for k in ti.static(range(d)):
                        y.drive[j, k, lane] = 0.0
            for row, col, e in ti.static(self.mech.drives):
                for lane in across(self.all_lanes):
                    at = y.drive[row // d, row % d, lane]
                    y.drive[row // d, row % d, lane] = at + e * a[y.rollout[lane], t, col]

        @ti.func
        def extrapolate(self, y: ti.template()):
            """Where points would be without forces, and a first guess of how far from there they are."""
            d = ti.static(self.mech.d)
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

        @ti.func
        def advance(self, y: ti.template()):
            """From row t to row t+1; a rollout that has failed stays where it is."""
            d = ti.static(self.mech.d)
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
                        there = y.p0[j, k, lane] + y.h[lane] * y.drive[j, k, lane]
                        y.p0[j, k, lane] = ti.select(y.status[lane] == OK, there, y.p0[j, k, lane])

        @ti.func
        def write(
            self,
            y: ti.template(),
            t: int,
            x: ti.template(),
            v: ti.template(),
            p: ti.template(),
            status: ti.template(),
            iterations: ti.template(),
        ):
            """Row t+1."""
            rows = status.shape[1] + 1
            for lane in across(self.all_lanes):
                if y.inside[lane] == 1:
                    b = y.rollout[lane]
                    x0, v0 = self.points[x, b, t + 1, rows], self.points[v, b, t + 1, rows]
                    p0 = self.handles[p, b, t + 1, rows]
                    for i in each(self.mech.all_points):
                        for k in ti.static(range(self.mech.d)):
                            x0[i, k, 0] = y.x0[i, k, lane]
                            v0[i, k, 0] = y.v0[i, k, lane]
                    for j in each(self.mech.all_handles):
                        for k in ti.static(range(self.mech.d)):
                            p0[j, k, 0] = y.p0[j, k, lane]
                    status[b, t] = y.status[lane]
                    iterations[b, t] = y.solves[lane]

    return Rollout
