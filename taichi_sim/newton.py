"""One implicit step: Newton's method with a line search, a shift and continuation in the handles' motion."""

import taichi as ti

from .lu import BlockLU
from .mechanics import BDF1, BDF2, Mechanics
from .trajectory import Status

EVALUATIONS = 400  # of the residual, per step, continuation included
ROUND_OFF = 16.0  # the tolerance is this many times eps · scale, see Mechanics.assemble
SUFFICIENT = 1e-4  # of the linear prediction must be gained (Armijo)
SMALLEST_ALPHA = 1e-9
SMALLEST_ADVANCE = 1.0 / 64.0  # of the handles' motion, in continuation

# Taichi knows no enumerations.
OK, NOT_CONVERGED, NON_FINITE, NOT_RUN = (int(s) for s in Status)


@ti.data_oriented
class Newton:
    """Solves G(x₁) = 0 for one rollout and one step, to round-off or to a `Status` that says why not.

    The line search is on the incremental potential; where damping makes the forces non-conservative, on the
    residual norm. The Jacobian's diagonal is shifted only while it is not positive definite. If that fails, the
    handles are moved a part of their way first, and the whole way from there: the equation finally solved, and so
    the row and its derivatives, are the same.
    """

    def __init__(self, mechanics: Mechanics, eps: float):
        self.mech = mechanics
        self.lu = BlockLU(mechanics.elimination, mechanics.d)
        self.eps = eps

    @ti.func
    def coefficients(self, first):
        """c₀, c₁, c₂ of this step's difference formula."""
        c0, c1, c2 = BDF2
        if first:
            c0, c1, c2 = BDF1
        return c0, c1, c2

    @ti.func
    def solve(
        self,
        # In
        x_free: ti.template(),
        v_free: ti.template(),
        p0: ti.template(),
        drive: ti.template(),
        c0: float,
        h: float,
        # In: guess, out: solution
        u: ti.template(),
    ):
        """u with G(x̃ + u) = 0, handles going from p0 at velocity `drive`. Returns status and linear solves."""
        x = ti.Matrix.zero(float, self.mech.P, self.mech.d)
        v = ti.Matrix.zero(float, self.mech.P, self.mech.d)
        p = ti.Matrix.zero(float, self.mech.nH, self.mech.d)
        w = ti.Matrix.zero(float, self.mech.nH, self.mech.d)
        r = ti.Matrix.zero(float, self.mech.P, self.mech.d)
        du = ti.Matrix.zero(float, self.mech.P, self.mech.d)
        trial = u
        settled = u
        scale = ti.Vector.zero(float, self.mech.P)
        J = ti.Matrix.zero(float, self.mech.blocks * self.mech.d, self.mech.d)
        Z = ti.Matrix.zero(float, self.mech.blocks * self.mech.d, self.mech.d)
        C = ti.Matrix.zero(float, self.mech.nC * self.mech.d, self.mech.d)
        F = ti.Matrix.zero(float, self.mech.nC * self.mech.d, self.mech.d)

        status = NOT_CONVERGED
        solves, evaluations, running, fresh = 0, 0, 1, 1
        alpha, slope, merit0, shift = 1.0, 0.0, 0.0, 0.0
        goal, reached, advance = 1.0, 0.0, 1.0  # shares of the handles' motion

        while running == 1:
            evaluations += 1
            for j in ti.static(range(self.mech.H)):
                for k in ti.static(range(self.mech.d)):
                    w[j, k] = goal * drive[j, k]
                    p[j, k] = p0[j, k] + h * w[j, k]
            for i in ti.static(range(self.mech.P)):
                for k in ti.static(range(self.mech.d)):
                    x[i, k] = x_free[i, k] + trial[i, k]
                    v[i, k] = v_free[i, k] + c0 / h * trial[i, k]
            phi, size = self.mech.assemble(trial, x, v, p, w, c0, h, r, scale, J, Z, C, F)
            worst, merit, noise = 0.0, phi, 16.0 * self.eps * size
            if ti.static(self.mech.damped):
                merit, noise = 0.0, 0.0
            bulk = 0.0  # of all that must be finite: max() and the branches of a cable's energy pass over NaN
            for j in ti.static(range(self.mech.H)):
                for k in ti.static(range(self.mech.d)):
                    bulk += ti.abs(p[j, k])
            for i in ti.static(range(self.mech.P)):
                for k in ti.static(range(self.mech.d)):
                    bulk += ti.abs(r[i, k]) + scale[i]
                    worst = ti.max(worst, ti.abs(r[i, k]) / (ROUND_OFF * self.eps * scale[i]))
                    if ti.static(self.mech.damped):
                        merit += 0.5 * r[i, k] * r[i, k]
                        noise += ti.pow(ROUND_OFF * self.eps * scale[i], 2)
            finite = (ti.abs(merit) < ti.math.inf) and (ti.abs(phi) < ti.math.inf) and (bulk < ti.math.inf)
            failed = False

            if finite and (fresh == 1 or merit <= merit0 + SUFFICIENT * alpha * slope + noise):
                u = trial
                if worst <= 1.0:
                    if goal == 1.0:
                        status = OK
                        running = 0
                    else:
                        settled = u
                        reached = goal
                        goal = ti.min(1.0, reached + advance)
                        fresh = 1
                        shift = 0.0
                else:
                    merit0 = merit
                    stiffest = 0.0
                    for i in ti.static(range(self.mech.P)):
                        for k in ti.static(range(self.mech.d)):
                            row = ti.static(self.mech.elimination.block[i, i] * self.mech.d + k)
                            stiffest = ti.max(stiffest, ti.abs(J[row, k]))
                            J[row, k] += shift
                            du[i, k] = -r[i, k]
                    pivot = self.lu.factor(J)
                    if pivot > 0.0:
                        solves += 1
                        self.lu.solve(J, du)
                        slope = 0.0
                        for i in ti.static(range(self.mech.P)):
                            for k in ti.static(range(self.mech.d)):
                                if ti.static(self.mech.damped):
                                    slope -= r[i, k] * r[i, k]
                                else:
                                    slope += r[i, k] * du[i, k]
                        alpha = 1.0
                        fresh = 0
                        shift = 0.0
                        trial = u + du
                    else:
                        shift = ti.max(4.0 * shift, 1e-3 * stiffest)
                        fresh = 1
                        failed = not (shift < ti.math.inf)
            elif fresh == 1:
                failed = True
            else:
                alpha *= 0.5
                trial = u + alpha * du
                failed = alpha < SMALLEST_ALPHA

            if evaluations >= EVALUATIONS:
                running = 0
            elif failed:
                advance *= 0.5
                if advance < SMALLEST_ADVANCE:
                    running = 0
                    if not finite:
                        status = NON_FINITE
                else:
                    goal = reached + advance
                    trial = settled
                    u = settled
                    fresh = 1
                    shift = 0.0
        return status, solves
