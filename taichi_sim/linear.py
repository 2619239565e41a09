"""The linearised step: what a stored row says about its neighbours, forwards and backwards.

With q = c₁ x₀ + c₂ x₋₁, J = ∂G/∂x₁ and Z = ∂G/∂v₁ without inertia, the implicit function theorem at the
converged row gives

    J δx₁ = −(M c₀/h² + Z/h) δq − M/h (c₁ δv₀ + c₂ δv₋₁) + C δp₁ + F δw,    δv₁ = (c₀ δx₁ + δq)/h,

and the adjoint is its transpose. J is factored at the row itself, never taken from Newton's iterations.
"""

import functools

import taichi as ti

from .loops import Loops
from .trajectory import OK
from .variables import Group, Scratch


@functools.cache
def linear_step(loops: Loops):
    each, side, across, known = loops.each, loops.side, loops.across, loops.known

    @ti.data_oriented
    class LinearStep:
        """Taichi functions shared by every sweep; y: `variables`, blocks: J, factored, Z, C and F of a row.

        Tangents x0, v0 of row t, x1, v1 of row t−1, dp of p₁ and dw of w give dx, dv of row t+1. Cotangents x0, v0 of
        row t+1 give the adjoint dx, the cotangent dv/h of q, and are added to dp and dw.
        """

        def __init__(self, mechanics, scratch: Scratch):
            self.mech = mechanics
            self.lu = mechanics.lu
            self.many, self.all_lanes = loops.many, loops.all_lanes()
            self.strips, self.lanes = loops.strips(), loops.abreast()
            d = self.mech.d
            rows = {name: scratch.slot(self.mech.P, d) for name in ("x0", "x1", "v0", "v1", "dx", "dv")}
            rows |= {name: scratch.slot(self.mech.H, d) for name in ("dp", "dw")}
            scalars = {name: scratch.scalar() for name in ("c1", "c2", "frequency", "sign")}  # frequency: 1/h
            scalars |= {name: scratch.scalar(ti.i32) for name in ("rollout", "inside", "healthy")}
            blocks = self.mech.couplings_of(scratch.slot)
            self.variables = self.mech.variables(scratch, scratch) | blocks | Group(**rows, **scalars)

        @ti.func
        def begin(self, y: ti.template(), group: int, status: ti.template()):
            """Which rollouts the lanes are; beyond the last one they repeat it, and are not `inside`."""
            for lane in across(self.all_lanes):
                b = ti.min(group * self.many + lane, status.shape[0] - 1)
                y.rollout[lane] = b
                y.inside[lane] = ti.cast(group * self.many + lane < status.shape[0], ti.i32)
                y.healthy[lane] = ti.cast(status[b, status.shape[1] - 1] == OK, ti.i32)

        @ti.func
        def alone(self, y: ti.template(), b: int):
            """All lanes are rollout b."""
            for lane in across(self.all_lanes):
                y.rollout[lane] = b

        @ti.func
        def difference(self, y: ti.template(), t: int, h: float, first: ti.template()):
            """The difference formula of step t."""
            for lane in across(self.all_lanes):
                c0, c1, c2 = self.mech.coefficients(t == 0 and first[y.rollout[lane]] != 0)
                y.rate[lane], y.c1[lane], y.c2[lane] = c0 / h, c1, c2
                y.h[lane], y.frequency[lane] = h, 1.0 / h

        @ti.func
        def clear(self, y: ti.template()):
            """No tangents or cotangents."""
            for i in each(self.mech.all_points):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d)):
                        y.x0[i, k, lane], y.x1[i, k, lane], y.v0[i, k, lane], y.v1[i, k, lane] = 0.0, 0.0, 0.0, 0.0
            for j in each(self.mech.all_handles):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d)):
                        y.dp[j, k, lane], y.dw[j, k, lane] = 0.0, 0.0

        @ti.func
        def read(
            self,
            y: ti.template(),
            # In
            t: int,
            a: ti.template(),
            x: ti.template(),
            v: ti.template(),
            p: ti.template(),
        ):
            """Row t+1 and the action that led to it."""
            d = ti.static(self.mech.d)
            for i in each(self.mech.all_points):
                for lane in across(self.all_lanes):
                    for k in ti.static(range(d)):
                        y.x[i, k, lane] = x[y.rollout[lane], t + 1, i * d + k]
                        if ti.static(self.mech.dissipative):
                            y.v[i, k, lane] = v[y.rollout[lane], t + 1, i * d + k]
            for j in each(self.mech.all_handles):
                for lane in across(self.all_lanes):
                    for k in ti.static(range(d)):
                        y.p[j, k, lane] = p[y.rollout[lane], t + 1, j * d + k]
                        y.w[j, k, lane] = 0.0
            for row, col, e in ti.static(self.mech.drives):
                for lane in across(self.all_lanes):
                    y.w[row // d, row % d, lane] = y.w[row // d, row % d, lane] + e * a[y.rollout[lane], t, col]

        @ti.func
        def factor(self, y: ti.template()):
            """The blocks of y at the row read, J factored."""
            self.mech.linearise(y)
            self.lu.factor(y, y.sign)

        @ti.func
        def forward(self, y: ti.template(), blocks: ti.template()):
            """dx and dv."""
            d = ti.static(self.mech.d)
            for i in each(self.mech.all_points):
                mass = ti.cast(self.mech.mass[i], float)
                for lane in side(self.lanes):
                    for k in ti.static(range(d)):
                        q = y.c1[lane] * y.x0[i, k, lane] + y.c2[lane] * y.x1[i, k, lane]
                        z = y.c1[lane] * y.v0[i, k, lane] + y.c2[lane] * y.v1[i, k, lane]
                        y.dx[i, k, lane] = -mass * y.frequency[lane] * (y.rate[lane] * q + z)
                        y.dv[i, k, lane] = y.frequency[lane] * q
            if ti.static(self.mech.dissipative):
                for i in each(self.mech.all_points):
                    for lane in side(self.lanes):
                        for k in ti.static(range(d)):
                            for n in ti.static(range(d)):
                                y.dx[i, k, lane] = y.dx[i, k, lane] - blocks.Z[i, k * d + n, lane] * y.dv[i, n, lane]
            if ti.static(self.mech.damped):
                for edge in each(self.mech.all_edges):
                    i = known(self.mech.edge_first[edge])
                    j = known(self.mech.edge_second[edge])
                    self.cross(blocks.Z_apart, edge, y.dv, j, y.dx, i)
                    self.cross(blocks.Z_apart, edge, y.dv, i, y.dx, j)
            for held in each(self.mech.held):
                e = known(held + self.mech.inner_count)
                i = known(self.mech.first[e])
                j = known(self.mech.second[e])
                for lane in side(self.lanes):
                    for k in ti.static(range(d)):
                        for n in ti.static(range(d)):
                            y.dx[i, k, lane] = y.dx[i, k, lane] + blocks.C[held, k * d + n, lane] * y.dp[j, n, lane]
                            if ti.static(self.mech.damped):
                                y.dx[i, k, lane] = y.dx[i, k, lane] + blocks.F[held, k * d + n, lane] * y.dw[j, n, lane]
            self.lu.solve(blocks, y.dx)
            for i in each(self.mech.all_points):
                for lane in side(self.lanes):
                    for k in ti.static(range(d)):
                        y.dv[i, k, lane] = y.dv[i, k, lane] + y.rate[lane] * y.dx[i, k, lane]

        @ti.func
        def cross(
            self,
            Z: ti.template(),
            edge: ti.template(),
            z: ti.template(),
            j: ti.template(),
            y: ti.template(),
            i: ti.template(),
        ):
            """y_i ← y_i − Z z_j with the block of an edge, which is symmetric."""
            d = ti.static(self.mech.d)
            for lane in side(self.lanes):
                for k in ti.static(range(d)):
                    for n in ti.static(range(d)):
                        y[i, k, lane] = y[i, k, lane] - Z[edge, k * d + n, lane] * z[j, n, lane]

        @ti.func
        def advance(self, y: ti.template()):
            """Tangents of rows t+1 and t take the places of those of rows t and t−1."""
            for i in each(self.mech.all_points):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d)):
                        y.x1[i, k, lane], y.v1[i, k, lane] = y.x0[i, k, lane], y.v0[i, k, lane]
                        y.x0[i, k, lane], y.v0[i, k, lane] = y.dx[i, k, lane], y.dv[i, k, lane]

        @ti.func
        def backward(self, y: ti.template(), blocks: ti.template()):
            """λ = J⁻ᵀ(x̄ + c₀/h v̄); x0, v0 and x1, v1 become cotangents of rows t and t−1, from later rows so far."""
            d = ti.static(self.mech.d)
            for i in each(self.mech.all_points):
                for lane in side(self.lanes):
                    for k in ti.static(range(d)):
                        y.dx[i, k, lane] = y.x0[i, k, lane] + y.rate[lane] * y.v0[i, k, lane]
            self.lu.solve_transposed(blocks, y.dx)
            for i in each(self.mech.all_points):
                mass = ti.cast(self.mech.mass[i], float)
                for lane in side(self.lanes):
                    for k in ti.static(range(d)):
                        y.dv[i, k, lane] = y.v0[i, k, lane] - mass * y.rate[lane] * y.dx[i, k, lane]
            if ti.static(self.mech.dissipative):
                for i in each(self.mech.all_points):
                    for lane in side(self.lanes):
                        for k in ti.static(range(d)):
                            for n in ti.static(range(d)):
                                y.dv[i, n, lane] = y.dv[i, n, lane] - blocks.Z[i, k * d + n, lane] * y.dx[i, k, lane]
            if ti.static(self.mech.damped):
                for edge in each(self.mech.all_edges):
                    i = known(self.mech.edge_first[edge])
                    j = known(self.mech.edge_second[edge])
                    self.cross(blocks.Z_apart, edge, y.dx, j, y.dv, i)
                    self.cross(blocks.Z_apart, edge, y.dx, i, y.dv, j)
            for held in each(self.mech.held):
                e = known(held + self.mech.inner_count)
                i = known(self.mech.first[e])
                j = known(self.mech.second[e])
                for lane in side(self.lanes):
                    for k in ti.static(range(d)):
                        for n in ti.static(range(d)):
                            y.dp[j, n, lane] = y.dp[j, n, lane] + blocks.C[held, k * d + n, lane] * y.dx[i, k, lane]
                            if ti.static(self.mech.damped):
                                y.dw[j, n, lane] = y.dw[j, n, lane] + blocks.F[held, k * d + n, lane] * y.dx[i, k, lane]
            for i in each(self.mech.all_points):
                mass = ti.cast(self.mech.mass[i], float)
                for lane in side(self.lanes):
                    for k in ti.static(range(d)):
                        z, w = mass * y.frequency[lane] * y.dx[i, k, lane], y.frequency[lane] * y.dv[i, k, lane]
                        y.x0[i, k, lane] = y.x1[i, k, lane] + y.c1[lane] * w
                        y.x1[i, k, lane] = y.c2[lane] * w
                        y.v0[i, k, lane] = y.v1[i, k, lane] - y.c1[lane] * z
                        y.v1[i, k, lane] = -y.c2[lane] * z

    return LinearStep
