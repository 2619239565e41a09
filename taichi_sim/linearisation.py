"""Each step of stored rows as a linear map, for the recursions that run over them.

    δx₁ = T_q δq + T_z δz + T_π δπ + T_a δa,    q = c₁ x₀ + c₂ x₋₁,  z = c₁ v₀ + c₂ v₋₁,  π the actuated handles,
    δv₁ = (c₀ δx₁ + δq)/h,    δπ₁ = δπ + h δa,

with T_q = c₀/h T_z where nothing dissipates and T_a = h T_π where nothing is damped; neither is stored then.
"""

import functools

import taichi as ti

from .loops import ALONE, Loops
from .mechanics import BDF2
from .variables import Rows

C1, C2 = BDF2[1:]  # of every step but a first one, so of each that follows another


@functools.cache
def linearisation(loops: Loops):
    each, through, across = loops.each, loops.through, loops.across

    @ti.data_oriented
    class Linearisation:
        """T_z, T_q (D × D), T_π and T_a (D × m) of every step; a thread has one step or all of its lanes' rollouts."""

        def __init__(self, step):
            self.step = step
            self.mech = step.mech
            D, m = self.mech.D, self.mech.m
            sizes = {"z": D * D, "q": D * D if self.mech.dissipative else 0}
            sizes |= {"p": D * m, "a": D * m if self.mech.damped else 0}
            self.size, at = sum(sizes.values()), 0
            for name, size in sizes.items():
                setattr(self, name, Rows(at, self.size, loops.last, few=True))
                at += size
            self.row = ALONE.local(max(D, m))

        @ti.func
        def read(
            self,
            # In
            maps: ti.template(),
            b: int,
            t: int,
            N: int,
            # Out
            z: ti.template(),
            q: ti.template(),
            p: ti.template(),
            a: ti.template(),
        ):
            """The maps of step t, from memory."""
            D, m = ti.static(self.mech.D, self.mech.m)
            zs, qs = self.z[maps, b, t, N], self.q[maps, b, t, N]
            ps, as_ = self.p[maps, b, t, N], self.a[maps, b, t, N]
            self.copy(zs, z, D)
            self.copy(ps, p, m)
            if ti.static(self.mech.dissipative):
                self.copy(qs, q, D)
            if ti.static(self.mech.damped):
                self.copy(as_, a, m)

        @ti.func
        def copy(self, tensor: ti.template(), out: ti.template(), width: ti.template()):
            """D rows from memory, on a CPU by way of a variable that little else uses.

            Of one with more than a hundred uses, as `out` is, LLVM thinks that a store to it may move the tensor, and
            looks up its address anew for every number.
            """
            if ti.static(loops.last):
                for n in range(self.mech.D * width):
                    out[n] = tensor[n]
            else:
                row = self.row[0]
                for i in range(self.mech.D):
                    for j in range(width):
                        row[j] = tensor[i * width + j]
                    for j in range(width):
                        out[i * width + j] = row[j]

        @ti.func
        def advance(
            self,
            # In
            c0: float,
            c1: float,
            c2: float,
            h: float,
            z: ti.template(),
            q: ti.template(),
            p: ti.template(),
            a: ti.template(),
            act: ti.template(),
            # Scratch
            row: ti.template(),
            # In: δ[x, x₋₁, v, v₋₁, π] of row t, out: of row t+1
            state: ti.template(),
        ):
            """One step of the linearised rollout, under the change `act` of the action."""
            D, m = ti.static(self.mech.D, self.mech.m)
            V, W, H = ti.static(2 * D, 3 * D, 4 * D)
            for k in range(D):
                y = 0.0
                for j in range(D):
                    past = c1 * state[j] + c2 * state[D + j]
                    speed = c1 * state[V + j] + c2 * state[W + j]
                    if ti.static(self.mech.dissipative):
                        y += z[k * D + j] * speed + q[k * D + j] * past
                    else:
                        y += z[k * D + j] * (speed + c0 / h * past)
                for j in ti.static(range(m)):
                    if ti.static(self.mech.damped):
                        y += p[k * m + j] * state[H + j] + a[k * m + j] * act[j]
                    else:
                        y += p[k * m + j] * (state[H + j] + h * act[j])
                row[k] = y
            for k in range(D):
                x, v = state[k], state[V + k]
                state[V + k] = (c0 * row[k] + c1 * x + c2 * state[D + k]) / h
                state[k], state[D + k], state[W + k] = row[k], x, v
            for j in ti.static(range(m)):
                state[H + j] = state[H + j] + h * act[j]

        @ti.func
        def pull(
            self,
            # In
            c0: float,
            h: float,
            z: ti.template(),
            q: ti.template(),
            p: ti.template(),
            a: ti.template(),
            # Scratch
            row: ti.template(),
            # In: by [z, q, v, x, π] of row t+1, out: of row t
            lin: ti.template(),
        ):
            """The transpose of `advance`, in the variables of `riccati`. Returns the derivatives by a."""
            D, m = ti.static(self.mech.D, self.mech.m)
            Q, V, X, H = ti.static(D, 2 * D, 3 * D, 4 * D)
            for k in range(D):
                late, before = lin[k], lin[Q + k]
                speed = lin[V + k] + C1 * late
                row[k] = lin[X + k] + C1 * before + c0 / h * speed
                lin[Q + k] = speed / h
                lin[V + k] = C2 * late
                lin[X + k] = C2 * before
            for k in range(D):
                y, w = 0.0, 0.0
                for j in range(D):
                    y += z[j * D + k] * row[j]
                    if ti.static(self.mech.dissipative):
                        w += q[j * D + k] * row[j]
                if ti.static(not self.mech.dissipative):
                    w = c0 / h * y
                lin[k] = y
                lin[Q + k] = lin[Q + k] + w
            act = ti.Vector.zero(float, max(m, 1))
            for k in ti.static(range(m)):
                act[k] = h * lin[H + k]
                y, w = 0.0, 0.0
                for j in range(D):
                    y += p[j * m + k] * row[j]
                    if ti.static(self.mech.damped):
                        w += a[j * m + k] * row[j]
                if ti.static(not self.mech.damped):
                    w = h * y
                act[k] += w
                lin[H + k] = lin[H + k] + y
            return act

        @ti.kernel
        def run(
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
            # In: steps of a rollout that a thread goes through; all of them, where it has scratch in memory
            steps: int,
            # Out
            maps: ti.types.ndarray(ndim=1),
        ):
            groups = (x.shape[0] + self.step.many - 1) // self.step.many
            ti.loop_config(block_dim=32)
            for n in range(groups * (a.shape[1] // steps)):
                y = self.step.variables[work, n % groups]
                self.step.begin(y, n % groups, status)
                for past in range(steps):
                    t = n // groups * steps + past
                    self.step.difference(y, t, h, first)
                    self.step.read(y, t, a, x, v, p)
                    for strip in through(self.step.strips):
                        self.step.factor(y[strip])
                    self.solve(y, t, a.shape[1], h, maps)

        @ti.func
        def solve(self, y: ti.template(), t: int, N: int, h: float, maps: ti.template()):
            """The maps of step t, column by column, from its factors."""
            D, d, m = ti.static(self.mech.D, self.mech.d, self.mech.m)
            kinds = ti.static(2 if self.mech.dissipative else 1)
            for lane in across(self.step.all_lanes):
                y.c1[lane], y.c2[lane] = 1.0, 0.0
            for column in range(kinds * D + (2 * m if self.mech.damped else m)):
                for strip in through(self.step.strips):
                    self.step.clear(y[strip])
                for i in each(self.mech.all_points):
                    for lane in across(self.step.all_lanes):
                        for k in ti.static(range(d)):
                            y.v0[i, k, lane] = ti.select(column == i * d + k, 1.0, 0.0)
                            if ti.static(self.mech.dissipative):
                                y.x0[i, k, lane] = ti.select(column == D + i * d + k, 1.0, 0.0)
                for row, col, e in ti.static(self.mech.drives):
                    for lane in across(self.step.all_lanes):
                        j, k = ti.static(row // d, row % d)
                        if column == kinds * D + col:
                            y.dp[j, k, lane] = e
                        if column == kinds * D + m + col:
                            y.dp[j, k, lane] = h * e
                            y.dw[j, k, lane] = e
                for strip in through(self.step.strips):
                    self.step.forward(y[strip], y[strip])
                for lane in across(self.step.all_lanes):
                    if y.inside[lane] == 1 and y.healthy[lane] == 1:
                        b = y.rollout[lane]
                        zs, qs = self.z[maps, b, t, N], self.q[maps, b, t, N]
                        ps, as_ = self.p[maps, b, t, N], self.a[maps, b, t, N]
                        for i in each(self.mech.all_points):
                            for k in ti.static(range(d)):
                                n = i * d + k
                                if column < D:
                                    zs[n * D + column] = y.dx[i, k, lane]
                                elif column < kinds * D:
                                    qs[n * D + column - D] = y.dx[i, k, lane]
                                elif column < kinds * D + m:
                                    ps[n * m + column - kinds * D] = y.dx[i, k, lane]
                                else:
                                    as_[n * m + column - kinds * D - m] = y.dx[i, k, lane]

    return Linearisation
