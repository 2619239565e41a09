"""The linearised step: what a stored row says about its neighbours, forwards and backwards.

With q = c₁ x₀ + c₂ x₋₁, J = ∂G/∂x₁ and Z = ∂G/∂v₁ without inertia, the implicit function theorem at the
converged row gives

    J δx₁ = −(M c₀/h² + Z/h) δq − M/h (c₁ δv₀ + c₂ δv₋₁) + C δp₁ + F δw,    δv₁ = (c₀ δx₁ + δq)/h,

and the adjoint is its transpose. J is factored at the row itself, never taken from Newton's iterations.
"""

import taichi as ti

from .newton import Newton


@ti.data_oriented
class LinearStep:
    """Taichi functions on local variables, shared by every sweep."""

    def __init__(self, newton: Newton):
        self.newton = newton
        self.mech = newton.mech
        self.lu = newton.lu

    @ti.func
    def factor(
        self,
        # In: the row t+1 and the action that led to it
        b: int,
        t: int,
        c0: float,
        h: float,
        a: ti.template(),
        x: ti.template(),
        v: ti.template(),
        p: ti.template(),
    ):
        """J, factored, and Z, C, F at row t+1 (laid out as in `Mechanics`)."""
        J = ti.Matrix.zero(float, self.mech.blocks * self.mech.d, self.mech.d)
        Z = ti.Matrix.zero(float, self.mech.blocks * self.mech.d, self.mech.d)
        C = ti.Matrix.zero(float, self.mech.nC * self.mech.d, self.mech.d)
        F = ti.Matrix.zero(float, self.mech.nC * self.mech.d, self.mech.d)
        xs = ti.Matrix.zero(float, self.mech.P, self.mech.d)
        vs = ti.Matrix.zero(float, self.mech.P, self.mech.d)
        ps = ti.Matrix.zero(float, self.mech.nH, self.mech.d)
        ws = ti.Matrix.zero(float, self.mech.nH, self.mech.d)
        u = ti.Matrix.zero(float, self.mech.P, self.mech.d)
        r = ti.Matrix.zero(float, self.mech.P, self.mech.d)
        scale = ti.Vector.zero(float, self.mech.P)
        for i in ti.static(range(self.mech.P)):
            for k in ti.static(range(self.mech.d)):
                xs[i, k] = x[b, t + 1, i, k]
                vs[i, k] = v[b, t + 1, i, k]
        for j in ti.static(range(self.mech.H)):
            for k in ti.static(range(self.mech.d)):
                ps[j, k] = p[b, t + 1, j, k]
        for row, col in ti.static(self.mech.drives):
            ws[row // self.mech.d, row % self.mech.d] += self.mech.axes[row][col] * a[b, t, col]
        self.mech.assemble(u, xs, vs, ps, ws, c0, h, r, scale, J, Z, C, F)
        self.lu.factor(J)
        return J, Z, C, F

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
        dx0: ti.template(),
        dx1: ti.template(),
        dv0: ti.template(),
        dv1: ti.template(),
        dp: ti.template(),
        dw: ti.template(),
        # Out
        dx: ti.template(),
        dv: ti.template(),
    ):
        """δx₁ and δv₁ from the tangents of rows t (0) and t−1 (1), of p₁ and of the handle velocity."""
        for i in ti.static(range(self.mech.P)):
            for k in ti.static(range(self.mech.d)):
                q = c1 * dx0[i, k] + c2 * dx1[i, k]
                dx[i, k] = -self.mech.mass[i] / h * (c0 / h * q + c1 * dv0[i, k] + c2 * dv1[i, k])
                dv[i, k] = q / h
        if ti.static(self.mech.damped):
            for block, i, j in ti.static(self.mech.placed):
                for k in ti.static(range(self.mech.d)):
                    for n in ti.static(range(self.mech.d)):
                        dx[i, k] -= Z[block * self.mech.d + k, n] * dv[j, n]
        for c in ti.static(range(len(self.mech.couplings))):
            _, i, j = ti.static(self.mech.couplings[c])
            for k in ti.static(range(self.mech.d)):
                for n in ti.static(range(self.mech.d)):
                    dx[i, k] += C[c * self.mech.d + k, n] * dp[j, n]
                    if ti.static(self.mech.damped):
                        dx[i, k] += F[c * self.mech.d + k, n] * dw[j, n]
        self.lu.solve(J, dx)
        for i in ti.static(range(self.mech.P)):
            for k in ti.static(range(self.mech.d)):
                dv[i, k] += c0 / h * dx[i, k]

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
        for i in ti.static(range(self.mech.P)):
            for k in ti.static(range(self.mech.d)):
                adjoint[i, k] = gx[i, k] + c0 / h * gv[i, k]
        self.lu.solve_transposed(J, adjoint)
        for i in ti.static(range(self.mech.P)):
            for k in ti.static(range(self.mech.d)):
                gq[i, k] = gv[i, k] / h - self.mech.mass[i] * c0 / (h * h) * adjoint[i, k]
        if ti.static(self.mech.damped):
            for block, i, j in ti.static(self.mech.placed):
                for k in ti.static(range(self.mech.d)):
                    for n in ti.static(range(self.mech.d)):
                        gq[j, n] -= Z[block * self.mech.d + k, n] / h * adjoint[i, k]
        for c in ti.static(range(len(self.mech.couplings))):
            _, i, j = ti.static(self.mech.couplings[c])
            for k in ti.static(range(self.mech.d)):
                for n in ti.static(range(self.mech.d)):
                    gp[j, n] += C[c * self.mech.d + k, n] * adjoint[i, k]
                    if ti.static(self.mech.damped):
                        gw[j, n] += F[c * self.mech.d + k, n] * adjoint[i, k]
