"""The Gauss–Newton step by conjugate gradients: memory O(N) per rollout, whatever the system's size.

Solves (SᵀQS + R + μI) δa = −g over the free actions, S = ds/da and diagonal Q, R. A product with S is a forward sweep
over the rows, one with Sᵀ an adjoint sweep; both use the factors of every row's J, made once. The preconditioner is
R + μI (Nocedal & Wright 2006, algorithm 5.3).
"""

import functools

import taichi as ti

from .loops import Loops, Rows, Scratch
from .newton import OK


@functools.cache
def conjugate_gradients(loops: Loops):
    each = loops.each

    @ti.data_oriented
    class ConjugateGradients:
        """One thread a rollout; `store` holds the factors and the tangents of all its rows."""

        def __init__(self, step, scratch: Scratch):
            self.step = step
            self.mech = step.mech
            self.newton = step.newton
            mech = self.mech
            J, C = mech.blocks * mech.dd, mech.couplings * mech.dd
            Z = {True: J, False: mech.P * mech.dd if mech.rough else 0}[mech.damped]
            sizes = {"J": J, "Z": Z, "C": C, "F": C if mech.damped else 0, "x": mech.D, "v": mech.D, "pi": mech.m}
            sizes |= {"residual": mech.m, "direction": mech.m, "bent": mech.m}
            self.row = sum(sizes.values())
            at = 0
            for name, size in sizes.items():
                setattr(self, name, Rows(at, self.row, scratch.last))
                at += size

        def store(self, N: int) -> int:
            """Numbers that a rollout of N steps needs in `store`."""
            return N * self.row

        @ti.func
        def factor(
            self,
            # In
            work: ti.template(),
            store: ti.template(),
            b: ti.template(),
            h: float,
            first: int,
            a: ti.template(),
            x: ti.template(),
            v: ti.template(),
            p: ti.template(),
        ):
            """J, factored, Z, C and F of every row, into `store`."""
            for t in range(a.shape[1]):
                c0, c1, c2 = self.newton.coefficients(t == 0 and first != 0)
                J, Z, C, F = self.step.J[work, b], self.step.Z[work, b], self.step.C[work, b], self.step.F[work, b]
                self.step.factor(work, b, t, c0, h, a, x, v, p, J, Z, C, F)
                Js, Zs, Cs, Fs = (
                    self.J[store, b, t],
                    self.Z[store, b, t],
                    self.C[store, b, t],
                    self.F[store, b, t],
                )
                for n in each(self.mech.entries):
                    Js[n] = J[n]
                for n in each(self.mech.dissipation_entries):
                    Zs[n] = Z[n]
                for n in each(self.mech.coupling_entries):
                    Cs[n] = C[n]
                    if ti.static(self.mech.damped):
                        Fs[n] = F[n]

        @ti.func
        def product(
            self,
            # In
            work: ti.template(),
            store: ti.template(),
            b: ti.template(),
            h: float,
            first: int,
            q: ti.template(),
            r: ti.template(),
            damping: ti.template(),
            N: int,
        ):
            """bent = (SᵀQS + R + μI) direction."""
            m, D = ti.static(self.mech.m, self.mech.D)
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
            for n in each(self.mech.handle_coordinates):
                rp[n] = 0.0
            pi = ti.Vector.zero(float, max(m, 1))
            for t in range(N):
                c0, c1, c2 = self.newton.coefficients(t == 0 and first != 0)
                J, Z = self.J[store, b, t], self.Z[store, b, t]
                C, F = self.C[store, b, t], self.F[store, b, t]
                for n in each(self.mech.handle_coordinates):
                    rw[n] = 0.0
                y = self.direction[store, b, t]
                for row, col, e in ti.static(self.mech.drives):
                    rw[row] = rw[row] + e * y[col]
                for n in each(self.mech.handle_coordinates):
                    rp[n] = rp[n] + h * rw[n]
                self.step.forward(c0, c1, c2, h, J, Z, C, F, x0, x1, v0, v1, rp, rw, rx, rv)
                xs, vs, ps = (
                    self.x[store, b, t],
                    self.v[store, b, t],
                    self.pi[store, b, t],
                )
                bq = b % q.shape[0]
                for n in each(self.mech.coordinates):
                    x1[n], v1[n] = x0[n], v0[n]
                    x0[n], v0[n] = rx[n], rv[n]
                    xs[n] = q[bq, t, m + n] * rx[n]
                    vs[n] = q[bq, t, m + D + n] * rv[n]
                for k in ti.static(range(m)):
                    pi[k] = pi[k] + h * y[k]
                    ps[k] = q[bq, t, k] * pi[k]
            # The weighted tangents are the cotangents of the rows
            for n in each(self.mech.coordinates):
                x0[n], x1[n], v0[n], v1[n] = 0.0, 0.0, 0.0, 0.0
            for n in each(self.mech.handle_coordinates):
                rp[n] = 0.0
            for k in ti.static(range(m)):
                pi[k] = 0.0
            for back in range(N):
                t = N - 1 - back
                c0, c1, c2 = self.newton.coefficients(t == 0 and first != 0)
                J, Z = self.J[store, b, t], self.Z[store, b, t]
                C, F = self.C[store, b, t], self.F[store, b, t]
                xs, vs, ps = (
                    self.x[store, b, t],
                    self.v[store, b, t],
                    self.pi[store, b, t],
                )
                for n in each(self.mech.coordinates):  # x0, v0: of row t+1; x1, v1: of row t, from later rows so far
                    x0[n] = x0[n] + xs[n]
                    v0[n] = v0[n] + vs[n]
                for n in each(self.mech.handle_coordinates):
                    rw[n] = 0.0
                self.step.backward(c0, h, J, Z, C, F, x0, v0, rx, rv, rp, rw)
                for n in each(self.mech.coordinates):
                    z = self.mech.mass[n // self.mech.d] / h * rx[n]
                    x0[n], x1[n] = x1[n] + c1 * rv[n], c2 * rv[n]
                    v0[n], v1[n] = v1[n] - c1 * z, -c2 * z
                y, out = self.direction[store, b, t], self.bent[store, b, t]
                for k in ti.static(range(m)):
                    pi[k] = pi[k] + ps[k]
                    out[k] = (r[b % r.shape[0], t, k] + damping[b]) * y[k] + h * pi[k]
                for row, col, e in ti.static(self.mech.drives):
                    out[col] = out[col] + e * (h * rp[row] + rw[row])

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
            work: ti.types.ndarray(ndim=2),
            store: ti.types.ndarray(ndim=2),
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
            for b in range(x.shape[0]):
                N = a.shape[1]
                energy, square = 0.0, 0.0  # of the residual, in the preconditioner's metric and plain
                for t in range(N):
                    residual, direction = self.residual[store, b, t], self.direction[store, b, t]
                    for k in ti.static(range(m)):
                        y = 0.0
                        if free[b, t, k] != 0 and status[b, N - 1] == OK:
                            y = -g[b, t, k]
                        z = y / (r[b % r.shape[0], t, k] + damping[b])
                        residual[k], direction[k] = y, z
                        da[b, t, k], image[b, t, k] = 0.0, 0.0
                        energy += y * z
                        square += y * y
                goal = tolerance * tolerance * square
                steps = 0
                if square > 0.0:
                    self.factor(work, store, b, h, first[b], a, x, v, p)
                while square > goal and steps < limit:
                    steps += 1
                    self.product(work, store, b, h, first[b], q, r, damping, N)
                    curvature = 0.0
                    for t in range(N):
                        direction, bent = self.direction[store, b, t], self.bent[store, b, t]
                        for k in ti.static(range(m)):
                            curvature += direction[k] * bent[k]
                    alpha, before = energy / curvature, energy
                    energy, square = 0.0, 0.0
                    for t in range(N):
                        residual = self.residual[store, b, t]
                        direction, bent = self.direction[store, b, t], self.bent[store, b, t]
                        for k in ti.static(range(m)):
                            da[b, t, k] = da[b, t, k] + alpha * direction[k]
                            image[b, t, k] = image[b, t, k] + alpha * bent[k]
                            if free[b, t, k] != 0:
                                residual[k] = residual[k] - alpha * bent[k]
                            square += residual[k] * residual[k]
                            energy += residual[k] * residual[k] / (r[b % r.shape[0], t, k] + damping[b])
                    for t in range(N):
                        residual, direction = self.residual[store, b, t], self.direction[store, b, t]
                        for k in ti.static(range(m)):
                            z = residual[k] / (r[b % r.shape[0], t, k] + damping[b])
                            direction[k] = z + energy / before * direction[k]
                iterations[b] = steps

    return ConjugateGradients
