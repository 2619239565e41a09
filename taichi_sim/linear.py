"""The linearised step: what a stored row says about its neighbours, forwards and backwards.

With q = c₁ x₀ + c₂ x₋₁, J = ∂G/∂x₁ and Z = ∂G/∂v₁ without inertia, the implicit function theorem at the
converged row gives

    J δx₁ = −(M c₀/h² + Z/h) δq − M/h (c₁ δv₀ + c₂ δv₋₁) + C δp₁ + F δw,    δv₁ = (c₀ δx₁ + δq)/h,

and the adjoint is its transpose. J is factored at the row itself, never taken from Newton's iterations.
"""

import functools

import taichi as ti

from .loops import Loops, Scratch


@functools.cache
def linear_step(loops: Loops):
    each, known = loops.each, loops.known

    @ti.data_oriented
    class LinearStep:
        """Taichi functions shared by every sweep."""

        def __init__(self, newton, scratch: Scratch):
            self.newton = newton
            self.mech = newton.mech
            self.lu = newton.lu
            D, Hd = self.mech.D, self.mech.H * self.mech.d
            self.u, self.x, self.v, self.r, self.scale = newton.trial, newton.x, newton.v, newton.r, newton.scale
            self.p, self.w, self.lag = newton.p, newton.w, newton.lag
            self.J, self.Z, self.C, self.F = newton.J, newton.Z, newton.C, newton.F
            # Tangents of rows t and t−1, of p₁ and w, and what comes of them; or cotangents
            self.x0, self.x1, self.v0, self.v1, self.dx, self.dv = (scratch.slot(D) for _ in range(6))
            self.dp, self.dw = scratch.slot(Hd), scratch.slot(Hd)

        @ti.func
        def factor(
            self,
            # In: the row t+1 and the action that led to it
            work: ti.template(),
            b: ti.template(),
            t: int,
            c0: float,
            h: float,
            a: ti.template(),
            x: ti.template(),
            v: ti.template(),
            p: ti.template(),
            # Out
            J: ti.template(),
            Z: ti.template(),
            C: ti.template(),
            F: ti.template(),
        ):
            """J, factored, and Z, C, F at row t+1 (laid out as in `Mechanics`)."""
            us, xs, vs = self.u[work, b], self.x[work, b], self.v[work, b]
            ps, ws = self.p[work, b], self.w[work, b]
            r, scale, lag = self.r[work, b], self.scale[work, b], self.lag[work, b]
            for n in each(self.mech.coordinates):
                us[n] = 0.0
                xs[n] = x[b, t + 1, n]
                vs[n] = v[b, t + 1, n]
            for n in each(self.mech.handle_coordinates):
                ps[n] = p[b, t + 1, n]
                ws[n] = 0.0
            for row, col, e in ti.static(self.mech.drives):
                ws[row] = ws[row] + e * a[b, t, col]
            self.mech.assemble(us, xs, vs, ps, ws, c0, h, lag, lag, r, scale, J, Z, C, F)
            self.lu.factor(J)

        @ti.func
        def forward(
            self,
            # In
            c0: float,
            c1: float,
            c2: float,
            h: float,
            J: ti.template(),
            Z: ti.template(),
            C: ti.template(),
            F: ti.template(),
            x0: ti.template(),
            x1: ti.template(),
            v0: ti.template(),
            v1: ti.template(),
            dp: ti.template(),
            dw: ti.template(),
            # Out
            dx: ti.template(),
            dv: ti.template(),
        ):
            """δx₁ and δv₁ from the tangents of rows t (0) and t−1 (1), of p₁ and of the handle velocity."""
            for n in each(self.mech.coordinates):
                q = c1 * x0[n] + c2 * x1[n]
                dx[n] = -self.mech.mass[n // self.mech.d] / h * (c0 / h * q + c1 * v0[n] + c2 * v1[n])
                dv[n] = q / h
            if ti.static(self.mech.dissipative):
                for s in each(self.mech.dissipating):
                    at = known(s * self.mech.dd)
                    i = known(self.mech.block_rows[s] * self.mech.d)
                    j = known(self.mech.block_columns[s] * self.mech.d)
                    for k in ti.static(range(self.mech.d)):
                        for n in ti.static(range(self.mech.d)):
                            dx[i + k] = dx[i + k] - Z[at + k * self.mech.d + n] * dv[j + n]
            for held in each(self.mech.held):
                e = known(held + self.mech.inner_count)
                i = known(self.mech.first[e] * self.mech.d)
                j = known(self.mech.second[e] * self.mech.d)
                for k in ti.static(range(self.mech.d)):
                    for n in ti.static(range(self.mech.d)):
                        at = known(held * self.mech.dd + k * self.mech.d + n)
                        dx[i + k] = dx[i + k] + C[at] * dp[j + n]
                        if ti.static(self.mech.damped):
                            dx[i + k] = dx[i + k] + F[at] * dw[j + n]
            self.lu.solve(J, dx)
            for n in each(self.mech.coordinates):
                dv[n] = dv[n] + c0 / h * dx[n]

        @ti.func
        def backward(
            self,
            # In
            c0: float,
            h: float,
            J: ti.template(),
            Z: ti.template(),
            C: ti.template(),
            F: ti.template(),
            gx: ti.template(),
            gv: ti.template(),
            # Out
            adjoint: ti.template(),
            gq: ti.template(),
            gp: ti.template(),
            gw: ti.template(),
        ):
            """λ = J⁻ᵀ(x̄ + c₀/h v̄) and the cotangents of q, p₁ and the handle velocity (gp, gw are added to)."""
            for n in each(self.mech.coordinates):
                adjoint[n] = gx[n] + c0 / h * gv[n]
            self.lu.solve_transposed(J, adjoint)
            for n in each(self.mech.coordinates):
                gq[n] = gv[n] / h - self.mech.mass[n // self.mech.d] * c0 / (h * h) * adjoint[n]
            if ti.static(self.mech.dissipative):
                for s in each(self.mech.dissipating):
                    at = known(s * self.mech.dd)
                    i = known(self.mech.block_rows[s] * self.mech.d)
                    j = known(self.mech.block_columns[s] * self.mech.d)
                    for k in ti.static(range(self.mech.d)):
                        for n in ti.static(range(self.mech.d)):
                            gq[j + n] = gq[j + n] - Z[at + k * self.mech.d + n] / h * adjoint[i + k]
            for held in each(self.mech.held):
                e = known(held + self.mech.inner_count)
                i = known(self.mech.first[e] * self.mech.d)
                j = known(self.mech.second[e] * self.mech.d)
                for k in ti.static(range(self.mech.d)):
                    for n in ti.static(range(self.mech.d)):
                        at = known(held * self.mech.dd + k * self.mech.d + n)
                        gp[j + n] = gp[j + n] + C[at] * adjoint[i + k]
                        if ti.static(self.mech.damped):
                            gw[j + n] = gw[j + n] + F[at] * adjoint[i + k]

    return LinearStep
