"""The Gauss–Newton step by conjugate gradients: memory O(N) per rollout, whatever the system's size.

Solves (SᵀQS + R + μI) δa = −g over the free actions, S = ds/da and diagonal Q, R. A product with S is a forward sweep
over the rows, one with Sᵀ an adjoint sweep; both use the factors of every row's J, made once. The preconditioner is
R + μI (Nocedal & Wright 2006, algorithm 5.3).
"""

import functools

import taichi as ti

from .loops import Loops
from .variables import Group, Rows


@functools.cache
def conjugate_gradients(loops: Loops):
    each, side = loops.each, loops.side

    @ti.data_oriented
    class ConjugateGradients:
        """A thread has its lanes' rollouts; `store` holds the factors and the tangents of all their rows.

        Lanes go on together until the last has arrived; one that has does not move any more.
        """

        def __init__(self, step):
            self.step = step
            self.mech = step.mech
            self.many, self.lanes = loops.many, loops.abreast()
            P, d, m = self.mech.P, self.mech.d, self.mech.m
            at = 0

            def rows(n: int, width: int) -> tuple:
                nonlocal at
                at += n * width
                return at - n * width, width

            blocks = self.mech.jacobian(rows) | self.mech.couplings_of(rows)
            places = blocks.slots | {"x": rows(P, d), "v": rows(P, d), "pi": rows(1, m)}
            places |= {name: rows(1, m) for name in ("residual", "direction", "bent")}
            self.row = at
            self.rows = Group(**{name: Rows(n, at, loops.last, w, loops.lanes) for name, (n, w) in places.items()})
            names = ("energy", "square", "goal", "alpha", "before")
            scalars = {name: loops.scalar() for name in names}
            scalars |= {name: loops.scalar(ti.i32) for name in ("of_q", "of_r")}  # which weights a rollout has
            self.variables = Group(handle=loops.local(1, max(m, 1)), **scalars)
            self.steps = loops.scalar(ti.i32)

        def store(self, N: int) -> int:
            """Numbers that a rollout of N steps needs in `store`."""
            return N * self.row

        @ti.func
        def keep(self, y: ti.template(), row: ti.template()):
            """The blocks of y, J factored, into `row`."""
            dd = ti.static(self.mech.dd)
            self.copy(y.diagonal, self.mech.all_points, self.mech.width, row.diagonal)
            self.copy(y.upper, self.mech.all_edges, dd, row.upper)
            self.copy(y.C, self.mech.held, dd, row.C)
            if ti.static(self.mech.dissipative):
                self.copy(y.lower, self.mech.all_edges, dd, row.lower)
                self.copy(y.Z, self.mech.all_points, dd, row.Z)
            if ti.static(self.mech.damped):
                self.copy(y.Z_apart, self.mech.all_edges, dd, row.Z_apart)
                self.copy(y.F, self.mech.held, dd, row.F)

        @ti.func
        def copy(self, one: ti.template(), rows: ti.template(), width: ti.template(), other: ti.template()):
            for n in each(rows):
                for lane in side(self.lanes):
                    for k in ti.static(range(width)):
                        other[n, k, lane] = one[n, k, lane]

        @ti.func
        def product(
            self,
            # Scratch
            y: ti.template(),
            z: ti.template(),
            store: ti.template(),
            # In
            group: int,
            h: float,
            first: ti.template(),
            q: ti.template(),
            r: ti.template(),
            damping: ti.template(),
            N: int,
        ):
            """bent = (SᵀQS + R + μI) direction."""
            m, d, D = ti.static(self.mech.m, self.mech.d, self.mech.D)
            self.step.clear(y)
            for lane in side(self.lanes):
                for k in ti.static(range(m)):
                    z.handle[0, k, lane] = 0.0
            for t in range(N):
                self.step.difference(y, t, h, first)
                row = self.rows[store, group, t, N]
                for j in each(self.mech.all_handles):
                    for lane in side(self.lanes):
                        for k in ti.static(range(d)):
                            y.dw[j, k, lane] = 0.0
                for n, col, e in ti.static(self.mech.drives):
                    for lane in side(self.lanes):
                        there = y.dw[n // d, n % d, lane]
                        y.dw[n // d, n % d, lane] = there + e * row.direction[0, col, lane]
                for j in each(self.mech.all_handles):
                    for lane in side(self.lanes):
                        for k in ti.static(range(d)):
                            y.dp[j, k, lane] = y.dp[j, k, lane] + h * y.dw[j, k, lane]
                self.step.forward(y, row)
                self.step.advance(y)
                for i in each(self.mech.all_points):
                    for lane in side(self.lanes):
                        b = z.of_q[lane]
                        for k in ti.static(range(d)):
                            row.x[i, k, lane] = q[b, t, m + i * d + k] * y.dx[i, k, lane]
                            row.v[i, k, lane] = q[b, t, m + D + i * d + k] * y.dv[i, k, lane]
                for lane in side(self.lanes):
                    for k in ti.static(range(m)):
                        z.handle[0, k, lane] = z.handle[0, k, lane] + h * row.direction[0, k, lane]
                        row.pi[0, k, lane] = q[z.of_q[lane], t, k] * z.handle[0, k, lane]
            # The weighted tangents are the cotangents of the rows
            self.step.clear(y)
            for lane in side(self.lanes):
                for k in ti.static(range(m)):
                    z.handle[0, k, lane] = 0.0
            for back in range(N):
                t = N - 1 - back
                self.step.difference(y, t, h, first)
                row = self.rows[store, group, t, N]
                for i in each(self.mech.all_points):
                    for lane in side(self.lanes):
                        for k in ti.static(range(d)):
                            y.x0[i, k, lane] = y.x0[i, k, lane] + row.x[i, k, lane]
                            y.v0[i, k, lane] = y.v0[i, k, lane] + row.v[i, k, lane]
                for j in each(self.mech.all_handles):
                    for lane in side(self.lanes):
                        for k in ti.static(range(d)):
                            y.dw[j, k, lane] = 0.0
                self.step.backward(y, row)
                for lane in side(self.lanes):
                    b = y.rollout[lane]
                    for k in ti.static(range(m)):
                        z.handle[0, k, lane] = z.handle[0, k, lane] + row.pi[0, k, lane]
                        own = (r[z.of_r[lane], t, k] + damping[b]) * row.direction[0, k, lane]
                        row.bent[0, k, lane] = own + h * z.handle[0, k, lane]
                    for n, col, e in ti.static(self.mech.drives):
                        part = e * (h * y.dp[n // d, n % d, lane] + y.dw[n // d, n % d, lane])
                        row.bent[0, col, lane] = row.bent[0, col, lane] + part

        @ti.kernel
        def solve(
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
            store: ti.types.ndarray(ndim=1),
            # In
            g: ti.types.ndarray(ndim=3),
            q: ti.types.ndarray(ndim=3),
            r: ti.types.ndarray(ndim=3),
            damping: ti.types.ndarray(ndim=1),
            free: ti.types.ndarray(ndim=3),
            tolerance: float,
            limit: int,
            # Out: the step, Ĥ times it, and iterations
            da: ti.types.ndarray(ndim=3),
            image: ti.types.ndarray(ndim=3),
            iterations: ti.types.ndarray(ndim=1),
        ):
            m = ti.static(self.mech.m)
            ti.loop_config(block_dim=32)
            for group in range((x.shape[0] + self.many - 1) // self.many):
                N = a.shape[1]
                y, z, steps = self.step.variables[work, group], self.variables[0], self.steps[0]
                self.step.begin(y, group, status)
                for lane in side(self.lanes):
                    z.energy[lane], z.square[lane], steps[lane] = 0.0, 0.0, 0  # energy: in the preconditioner's metric
                    z.of_q[lane], z.of_r[lane] = y.rollout[lane] % q.shape[0], y.rollout[lane] % r.shape[0]
                for t in range(N):
                    row = self.rows[store, group, t, N]
                    for lane in side(self.lanes):
                        b = y.rollout[lane]
                        for k in ti.static(range(m)):
                            left = 0.0
                            if free[b, t, k] != 0 and y.healthy[lane] == 1:
                                left = -g[b, t, k]
                            down = left / (r[z.of_r[lane], t, k] + damping[b])
                            row.residual[0, k, lane], row.direction[0, k, lane] = left, down
                            z.energy[lane] = z.energy[lane] + left * down
                            z.square[lane] = z.square[lane] + left * left
                            if y.inside[lane] == 1:
                                da[b, t, k], image[b, t, k] = 0.0, 0.0
                active = 0
                for lane in side(self.lanes):
                    z.goal[lane] = tolerance * tolerance * z.square[lane]
                    active += ti.cast(z.square[lane] > z.goal[lane], ti.i32)
                if active > 0:
                    for t in range(N):
                        self.step.difference(y, t, h, first)
                        self.step.read(y, t, a, x, v, p)
                        self.step.factor(y)
                        self.keep(y, self.rows[store, group, t, N])
                done = 0
                while active > 0 and done < limit:
                    done += 1
                    self.product(y, z, store, group, h, first, q, r, damping, N)
                    for lane in side(self.lanes):
                        z.alpha[lane] = 0.0
                    for t in range(N):
                        row = self.rows[store, group, t, N]
                        for lane in side(self.lanes):
                            for k in ti.static(range(m)):
                                z.alpha[lane] = z.alpha[lane] + row.direction[0, k, lane] * row.bent[0, k, lane]
                    for lane in side(self.lanes):
                        if z.square[lane] > z.goal[lane]:
                            z.alpha[lane] = z.energy[lane] / z.alpha[lane]
                            z.before[lane] = z.energy[lane]
                            z.energy[lane], z.square[lane] = 0.0, 0.0
                            steps[lane] = done
                        else:
                            z.alpha[lane], z.before[lane] = 0.0, 0.0
                    for t in range(N):
                        row = self.rows[store, group, t, N]
                        for lane in side(self.lanes):
                            if z.before[lane] > 0.0:
                                b = y.rollout[lane]
                                for k in ti.static(range(m)):
                                    if y.inside[lane] == 1:
                                        da[b, t, k] = da[b, t, k] + z.alpha[lane] * row.direction[0, k, lane]
                                        image[b, t, k] = image[b, t, k] + z.alpha[lane] * row.bent[0, k, lane]
                                    left = row.residual[0, k, lane]
                                    if free[b, t, k] != 0:
                                        left = left - z.alpha[lane] * row.bent[0, k, lane]
                                    row.residual[0, k, lane] = left
                                    z.square[lane] = z.square[lane] + left * left
                                    z.energy[lane] = z.energy[lane] + left * left / (r[z.of_r[lane], t, k] + damping[b])
                    for t in range(N):
                        row = self.rows[store, group, t, N]
                        for lane in side(self.lanes):
                            if z.before[lane] > 0.0:
                                b = y.rollout[lane]
                                for k in ti.static(range(m)):
                                    down = row.residual[0, k, lane] / (r[z.of_r[lane], t, k] + damping[b])
                                    past = z.energy[lane] / z.before[lane] * row.direction[0, k, lane]
                                    row.direction[0, k, lane] = down + past
                    active = 0
                    for lane in side(self.lanes):
                        active += ti.cast(z.square[lane] > z.goal[lane], ti.i32)
                for lane in side(self.lanes):
                    if y.inside[lane] == 1:
                        iterations[y.rollout[lane]] = steps[lane]

    return ConjugateGradients
