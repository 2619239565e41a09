"""Sweeps over stored rows: adjoint (vjp), forward (jvp) and the full Jacobian ds/da (paper, appendix A.4).

A rollout with a failed step has zero derivatives.
"""

import functools

import taichi as ti

from .loops import Loops
from .trajectory import OK


@functools.cache
def sensitivity(loops: Loops):
    each, through, across = loops.each, loops.through, loops.across

    @ti.data_oriented
    class Sensitivity:
        """The three sweeps; a thread has its lanes' rollouts, every product in a fixed order."""

        def __init__(self, step):
            self.step = step
            self.mech = step.mech
            self.many, self.all_lanes, self.strips = loops.many, loops.all_lanes(), loops.strips()

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
            work: ti.types.ndarray(ndim=1),
            # In: ∂L/∂rows
            gx: ti.types.ndarray(ndim=3),
            gv: ti.types.ndarray(ndim=3),
            gp: ti.types.ndarray(ndim=3),
            # Out: dL/dstart, dL/da
            gx_start: ti.types.ndarray(ndim=2),
            gv_start: ti.types.ndarray(ndim=2),
            gp_start: ti.types.ndarray(ndim=2),
            gx_prev: ti.types.ndarray(ndim=2),
            gv_prev: ti.types.ndarray(ndim=2),
            ga: ti.types.ndarray(ndim=3),
        ):
            d = ti.static(self.mech.d)
            N = a.shape[1]
            ti.loop_config(block_dim=32)
            for group in range((x.shape[0] + self.many - 1) // self.many):
                y = self.step.variables[work, group]
                self.step.begin(y, group, status)
                for strip in through(self.strips):
                    self.step.clear(y[strip])
                for back in range(N):
                    t = N - 1 - back
                    self.step.difference(y, t, h, first)
                    self.step.read(y, t, a, x, v, p)
                    for i in each(self.mech.all_points):
                        for lane in across(self.all_lanes):
                            for k in ti.static(range(d)):
                                y.x0[i, k, lane] = y.x0[i, k, lane] + gx[y.rollout[lane], t + 1, i * d + k]
                                y.v0[i, k, lane] = y.v0[i, k, lane] + gv[y.rollout[lane], t + 1, i * d + k]
                    for j in each(self.mech.all_handles):
                        for lane in across(self.all_lanes):
                            for k in ti.static(range(d)):
                                y.dp[j, k, lane] = y.dp[j, k, lane] + gp[y.rollout[lane], t + 1, j * d + k]
                                y.dw[j, k, lane] = 0.0
                    for strip in through(self.strips):
                        self.step.factor(y[strip])
                    for strip in through(self.strips):
                        self.step.backward(y[strip], y[strip])
                    for lane in across(self.all_lanes):
                        if y.inside[lane] == 1:
                            b = y.rollout[lane]
                            for col in ti.static(range(self.mech.m)):
                                ga[b, t, col] = 0.0
                            for row, col, e in ti.static(self.mech.drives):
                                part = e * (h * y.dp[row // d, row % d, lane] + y.dw[row // d, row % d, lane])
                                ga[b, t, col] = ga[b, t, col] + ti.select(y.healthy[lane] == 1, part, 0.0)
                for lane in across(self.all_lanes):
                    if y.inside[lane] == 1:
                        b, healthy = y.rollout[lane], y.healthy[lane] == 1
                        for i in each(self.mech.all_points):
                            for k in ti.static(range(d)):
                                n = i * d + k
                                gx_start[b, n] = ti.select(healthy, y.x0[i, k, lane] + gx[b, 0, n], 0.0)
                                gv_start[b, n] = ti.select(healthy, y.v0[i, k, lane] + gv[b, 0, n], 0.0)
                                gx_prev[b, n] = ti.select(healthy, y.x1[i, k, lane], 0.0)
                                gv_prev[b, n] = ti.select(healthy, y.v1[i, k, lane], 0.0)
                        for j in each(self.mech.all_handles):
                            for k in ti.static(range(d)):
                                n = j * d + k
                                gp_start[b, n] = ti.select(healthy, y.dp[j, k, lane] + gp[b, 0, n], 0.0)

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
            work: ti.types.ndarray(ndim=1),
            # In
            da: ti.types.ndarray(ndim=3),
            dx_prev: ti.types.ndarray(ndim=2),
            dv_prev: ti.types.ndarray(ndim=2),
            # In: row 0, out: the rest
            dx: ti.types.ndarray(ndim=3),
            dv: ti.types.ndarray(ndim=3),
            dp: ti.types.ndarray(ndim=3),
        ):
            d = ti.static(self.mech.d)
            N = a.shape[1]
            ti.loop_config(block_dim=32)
            for group in range((x.shape[0] + self.many - 1) // self.many):
                y = self.step.variables[work, group]
                self.step.begin(y, group, status)
                for i in each(self.mech.all_points):
                    for lane in across(self.all_lanes):
                        b = y.rollout[lane]
                        for k in ti.static(range(d)):
                            n = i * d + k
                            y.x0[i, k, lane], y.v0[i, k, lane] = dx[b, 0, n], dv[b, 0, n]
                            y.x1[i, k, lane], y.v1[i, k, lane] = dx_prev[b, n], dv_prev[b, n]
                for j in each(self.mech.all_handles):
                    for lane in across(self.all_lanes):
                        for k in ti.static(range(d)):
                            y.dp[j, k, lane] = dp[y.rollout[lane], 0, j * d + k]
                for t in range(N):
                    self.step.difference(y, t, h, first)
                    self.step.read(y, t, a, x, v, p)
                    for j in each(self.mech.all_handles):
                        for lane in across(self.all_lanes):
                            for k in ti.static(range(d)):
                                y.dw[j, k, lane] = 0.0
                    for row, col, e in ti.static(self.mech.drives):
                        for lane in across(self.all_lanes):
                            there = y.dw[row // d, row % d, lane]
                            y.dw[row // d, row % d, lane] = there + e * da[y.rollout[lane], t, col]
                    for j in each(self.mech.all_handles):
                        for lane in across(self.all_lanes):
                            for k in ti.static(range(d)):
                                y.dp[j, k, lane] = y.dp[j, k, lane] + h * y.dw[j, k, lane]
                    for strip in through(self.strips):
                        self.step.factor(y[strip])
                    for strip in through(self.strips):
                        self.step.forward(y[strip], y[strip])
                        self.step.advance(y[strip])
                    for lane in across(self.all_lanes):
                        if y.inside[lane] == 1:
                            b, healthy = y.rollout[lane], y.healthy[lane] == 1
                            for i in each(self.mech.all_points):
                                for k in ti.static(range(d)):
                                    dx[b, t + 1, i * d + k] = ti.select(healthy, y.dx[i, k, lane], 0.0)
                                    dv[b, t + 1, i * d + k] = ti.select(healthy, y.dv[i, k, lane], 0.0)
                            for j in each(self.mech.all_handles):
                                for k in ti.static(range(d)):
                                    dp[b, t + 1, j * d + k] = ti.select(healthy, y.dp[j, k, lane], 0.0)

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
            work: ti.types.ndarray(ndim=1),
            # In: zeros, out: ds/da with rows [actuated p, x, v] of row t+1, flat; an element has the columns of as many
            # actions as lanes
            S: ti.types.ndarray(dtype=ti.types.vector(loops.many, float), ndim=1),
        ):
            d, m, D, many = ti.static(self.mech.d, self.mech.m, self.mech.D, self.many)
            N = a.shape[1]
            groups = (N * m + many - 1) // many
            stride = (m + 2 * D) * groups
            ti.loop_config(block_dim=32)
            for b in range(x.shape[0]):
                y = self.step.variables[work, b]
                healthy = status[b, status.shape[1] - 1] == OK
                self.step.alone(y, b)
                for t in range(N):
                    done = 0
                    if healthy:
                        self.step.difference(y, t, h, first)
                        self.step.read(y, t, a, x, v, p)
                        for strip in through(self.strips):
                            self.step.factor(y[strip])
                        done = ((t + 1) * m + many - 1) // many
                    for group in range(done):
                        here = (b * N + t) * stride + group
                        if t < 2:
                            for strip in through(self.strips):
                                self.step.clear(y[strip])
                        for i in each(self.mech.all_points):
                            for k in ti.static(range(d)):
                                at = here + (m + i * d + k) * groups - stride
                                if t > 0:
                                    x0, v0 = S[at], S[at + D * groups]
                                    for lane in ti.static(range(many)):
                                        y.x0[i, k, lane], y.v0[i, k, lane] = x0[lane], v0[lane]
                                if t > 1:
                                    x1, v1 = S[at - stride], S[at - stride + D * groups]
                                    for lane in ti.static(range(many)):
                                        y.x1[i, k, lane], y.v1[i, k, lane] = x1[lane], v1[lane]
                        for j in each(self.mech.all_handles):
                            for lane in across(self.all_lanes):
                                for k in ti.static(range(d)):
                                    y.dp[j, k, lane], y.dw[j, k, lane] = 0.0, 0.0
                        for row, col, e in ti.static(self.mech.drives):
                            for lane in across(self.all_lanes):
                                column = group * many + lane
                                moves = ti.raw_mod(column, m) == col and column < (t + 1) * m
                                part = ti.select(moves, e, 0.0)
                                now = ti.select(column >= t * m, part, 0.0)
                                y.dp[row // d, row % d, lane] = y.dp[row // d, row % d, lane] + h * part
                                y.dw[row // d, row % d, lane] = y.dw[row // d, row % d, lane] + now
                        for axis in ti.static(range(m)):
                            moved = ti.Vector.zero(float, many)
                            for row, col, e in ti.static(self.mech.drives):
                                if ti.static(col == axis):
                                    for lane in ti.static(range(many)):
                                        moved[lane] = moved[lane] + e * y.dp[row // d, row % d, lane]
                            S[here + axis * groups] = moved
                        for strip in through(self.strips):
                            self.step.forward(y[strip], y[strip])
                        for i in each(self.mech.all_points):
                            for k in ti.static(range(d)):
                                at = here + (m + i * d + k) * groups
                                S[at] = ti.Vector([y.dx[i, k, lane] for lane in range(many)])
                                S[at + D * groups] = ti.Vector([y.dv[i, k, lane] for lane in range(many)])

    return Sensitivity
