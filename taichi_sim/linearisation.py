"""Each step of stored rows as a linear map, for the recursions that run over them.

    δx₁ = T_q δq + T_z δz + T_π δπ + T_a δa,    q = c₁ x₀ + c₂ x₋₁,  z = c₁ v₀ + c₂ v₋₁,  π the actuated handles,
    δv₁ = (c₀ δx₁ + δq)/h,    δπ₁ = δπ + h δa,

with T_q = c₀/h T_z where nothing dissipates and T_a = h T_π where nothing is damped; neither is stored then.
"""

import functools

import taichi as ti

from .loops import Loops, Rows
from .mechanics import BDF2
from .newton import OK

C1, C2 = BDF2[1:]  # of every step but a first one, so of each that follows another


@functools.cache
def linearisation(loops: Loops):
    each = loops.each

    @ti.data_oriented
    class Linearisation:
        """T_z, T_q (D × D), T_π and T_a (D × m) of every step, one step or one rollout a thread."""

        def __init__(self, step, last: bool):
            self.step = step
            self.mech = step.mech
            self.newton = step.newton
            D, m = self.mech.D, self.mech.m
            sizes = {"z": D * D, "q": D * D if self.mech.dissipative else 0}
            sizes |= {"p": D * m, "a": D * m if self.mech.damped else 0}
            self.size, at = sum(sizes.values()), 0
            for name, size in sizes.items():
                setattr(self, name, Rows(at, self.size, last))
                at += size

        @ti.func
        def read(
            self,
            # In
            maps: ti.template(),
            b: int,
            t: int,
            # Out
            z: ti.template(),
            q: ti.template(),
            p: ti.template(),
            a: ti.template(),
        ):
            """The maps of step t, from memory."""
            D, m = ti.static(self.mech.D, self.mech.m)
            zs, qs, ps, as_ = self.z[maps, b, t], self.q[maps, b, t], self.p[maps, b, t], self.a[maps, b, t]
            for n in range(D * D):
                z[n] = zs[n]
                if ti.static(self.mech.dissipative):
                    q[n] = qs[n]
            for n in range(D * m):
                p[n] = ps[n]
                if ti.static(self.mech.damped):
                    a[n] = as_[n]

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
            work: ti.types.ndarray(ndim=2),
            # In: steps of a rollout that a thread goes through; all of them, where it has scratch in memory
            steps: int,
            # Out
            maps: ti.types.ndarray(ndim=2),
        ):
            ti.loop_config(block_dim=32)
            for i in range(x.shape[0] * (a.shape[1] // steps)):
                b = i % x.shape[0]
                if status[b, a.shape[1] - 1] == OK:
                    for n in range(steps):
                        t = i // x.shape[0] * steps + n
                        self.linearise(work, b, t, h, t == 0 and first[b] != 0, a, x, v, p, maps)

        @ti.func
        def linearise(
            self,
            # In
            work: ti.template(),
            b: int,
            t: int,
            h: float,
            start: int,
            a: ti.template(),
            x: ti.template(),
            v: ti.template(),
            p: ti.template(),
            # Out
            maps: ti.template(),
        ):
            """Solves with unit vectors, after one factorisation."""
            D, m = ti.static(self.mech.D, self.mech.m)
            zs, qs, ps, as_ = self.z[maps, b, t], self.q[maps, b, t], self.p[maps, b, t], self.a[maps, b, t]
            J, Z, C, F = self.step.J[work, b], self.step.Z[work, b], self.step.C[work, b], self.step.F[work, b]
            c0, _, _ = self.newton.coefficients(start)
            self.step.factor(work, b, t, c0, h, a, x, v, p, J, Z, C, F)
            kinds = ti.static(2 if self.mech.dissipative else 1)
            for column in range(kinds * D + (2 * m if self.mech.damped else m)):
                q, none = self.step.x0[work, b], self.step.x1[work, b]
                z = self.step.v0[work, b]
                rx, rv = self.step.dx[work, b], self.step.dv[work, b]
                rp, rw = self.step.dp[work, b], self.step.dw[work, b]
                for n in each(self.mech.coordinates):
                    z[n], q[n], none[n] = 0.0, 0.0, 0.0
                    if column == n:
                        z[n] = 1.0
                    if ti.static(self.mech.dissipative):
                        if column == D + n:
                            q[n] = 1.0
                for n in each(self.mech.handle_coordinates):
                    rp[n], rw[n] = 0.0, 0.0
                for row, col, e in ti.static(self.mech.drives):
                    if column == kinds * D + col:
                        rp[row] = rp[row] + e
                    if column == kinds * D + m + col:
                        rp[row] = rp[row] + h * e
                        rw[row] = rw[row] + e
                self.step.forward(c0, 1.0, 0.0, h, J, Z, C, F, q, none, z, none, rp, rw, rx, rv)
                for n in each(self.mech.coordinates):
                    if column < D:
                        zs[n * D + column] = rx[n]
                    elif column < kinds * D:
                        qs[n * D + column - D] = rx[n]
                    elif column < kinds * D + m:
                        ps[n * m + column - kinds * D] = rx[n]
                    else:
                        as_[n * m + column - kinds * D - m] = rx[n]

    return Linearisation
