"""One implicit step: Newton's method with a line search, a shift and continuation in the handles' motion."""

import functools

import taichi as ti

from .loops import Loops, Scratch
from .lu import block_lu
from .mechanics import BDF1, BDF2
from .trajectory import Status

EVALUATIONS = 400  # of the residual, per step, continuation included
ROUND_OFF = 16.0  # the tolerance is this many times eps · scale, see Mechanics.assemble
SUFFICIENT = 1e-4  # of the linear prediction must be gained (Armijo)
SMALLEST_ALPHA = 1e-9
SMALLEST_ADVANCE = 1.0 / 64.0  # of the handles' motion, in continuation
LARGEST_SHIFT = 1e6  # of the Jacobian's diagonal, relative to its largest entry
PATIENCE = 30  # linear solves with the lagged potential

# Taichi knows no enumerations.
OK, NOT_CONVERGED, NON_FINITE, NOT_RUN = (int(s) for s in Status)


@functools.cache
def newton(loops: Loops):
    each, known = loops.each, loops.known

    @ti.data_oriented
    class Newton:
        """Solves G(x₁) = 0 for one rollout and one step, to round-off or to a `Status` that says why not.

        The line search is on the incremental potential. Dampers and friction enter it with the directions and loads
        of the last iterate, with which its gradient is the residual there; since that potential changes from iterate
        to iterate, halving the residual is accepted as well, and after `PATIENCE` solves the search starts again on
        the residual norm. (On that alone 3 in 1,000 steps of a cloth pushed about on its table ended in a local
        minimum; on the potential alone 1 in 3,000 steps of damped cables went round in circles.) The Jacobian's
        diagonal is shifted only while a pivot is not positive or its direction not downhill. If all that fails, the
        handles are moved a part of their way first, and the whole way from there: the equation finally solved, and so
        the row and its derivatives, are the same.
        """

        def __init__(self, mechanics, scratch: Scratch, eps: float):
            self.mech = mechanics
            self.lu = block_lu(loops)(mechanics.elimination, mechanics.d)
            self.eps = eps
            D, Hd, E = mechanics.D, mechanics.H * mechanics.d, mechanics.blocks * mechanics.dd
            self.x, self.v, self.r, self.du, self.trial, self.settled = (scratch.slot(D) for _ in range(6))
            self.p, self.w, self.scale = scratch.slot(Hd), scratch.slot(Hd), scratch.slot(mechanics.P)
            self.J, self.Z = scratch.slot(E), scratch.slot(E if mechanics.dissipative else 0)
            self.lag, self.now = scratch.slot(mechanics.lagged), scratch.slot(mechanics.lagged)
            self.C = scratch.slot(mechanics.couplings * mechanics.dd)
            self.F = scratch.slot(mechanics.couplings * mechanics.dd)

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
            work: ti.template(),
            b: ti.template(),
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
            x, v, r, du = self.x[work, b], self.v[work, b], self.r[work, b], self.du[work, b]
            trial, settled = self.trial[work, b], self.settled[work, b]
            p, w, scale = self.p[work, b], self.w[work, b], self.scale[work, b]
            J, Z, C, F = self.J[work, b], self.Z[work, b], self.C[work, b], self.F[work, b]
            lag, now = self.lag[work, b], self.now[work, b]
            for n in each(self.mech.lagging):
                lag[n] = 0.0
            for n in each(self.mech.coordinates):
                trial[n] = u[n]
                settled[n] = u[n]

            status = NOT_CONVERGED
            solves, evaluations, running, fresh = 0, 0, 1, 1
            alpha, slope, merit0, worst0, shift = 1.0, 0.0, 0.0, 0.0, 0.0
            goal, reached, advance = 1.0, 0.0, 1.0  # shares of the handles' motion
            strict, begun, square, square0, steepness = 0, 0, 0.0, 0.0, 0.0  # strict: on the residual norm

            while running == 1:
                evaluations += 1
                for n in each(self.mech.handle_coordinates):
                    w[n] = goal * drive[n]
                    p[n] = p0[n] + h * w[n]
                for n in each(self.mech.coordinates):
                    x[n] = x_free[n] + trial[n]
                    v[n] = v_free[n] + c0 / h * trial[n]
                merit, own, size = self.mech.assemble(trial, x, v, p, w, c0, h, lag, now, r, scale, J, Z, C, F)
                worst, square, grains = 0.0, 0.0, 0.0
                bulk = 0.0  # of all that must be finite: max() and the branches of a cable's energy pass over NaN
                for n in each(self.mech.handle_coordinates):
                    bulk += ti.abs(p[n])
                for n in each(self.mech.coordinates):
                    grain = ROUND_OFF * self.eps * scale[known(n // self.mech.d)]
                    bulk += ti.abs(r[n]) + grain
                    worst = ti.max(worst, ti.abs(r[n]) / grain)
                    if ti.static(self.mech.dissipative):
                        square += 0.5 * r[n] * r[n]
                        grains += grain * grain
                finite = (ti.abs(merit) < ti.math.inf) and (ti.abs(own) < ti.math.inf) and (bulk < ti.math.inf)
                failed = False
                better = merit <= merit0 + SUFFICIENT * alpha * slope + 16.0 * self.eps * size
                if ti.static(self.mech.dissipative):
                    better = better or worst <= 0.5 * worst0
                    if strict == 1:
                        better = square <= square0 + SUFFICIENT * alpha * steepness + grains

                if finite and (fresh == 1 or better):
                    for n in each(self.mech.coordinates):
                        u[n] = trial[n]
                    if worst <= 1.0:
                        if goal == 1.0:
                            status = OK
                            running = 0
                        else:
                            for n in each(self.mech.coordinates):
                                settled[n] = u[n]
                            reached = goal
                            goal = ti.min(1.0, reached + advance)
                            fresh, strict, begun = 1, 0, solves
                            shift = 0.0
                    else:
                        merit0, worst0, square0 = own, worst, square
                        for n in each(self.mech.lagging):
                            lag[n] = now[n]
                        stiffest = 0.0
                        for i in each(self.mech.all_points):
                            for k in ti.static(range(self.mech.d)):
                                at = known(self.mech.diagonal[i] * self.mech.dd + k * (self.mech.d + 1))
                                stiffest = ti.max(stiffest, ti.abs(J[at]))
                                J[at] = J[at] + shift
                        for n in each(self.mech.coordinates):
                            du[n] = -r[n]
                        pivot = self.lu.factor(J)
                        downhill = False
                        if pivot > 0.0:
                            solves += 1
                            self.lu.solve(J, du)
                            slope, steepness = 0.0, 0.0
                            for n in each(self.mech.coordinates):
                                slope += r[n] * du[n]
                                if ti.static(self.mech.dissipative):
                                    steepness -= r[n] * (r[n] + shift * du[n])  # rᵀJ du, as (J + shift) du = −r
                            downhill = slope < 0.0
                            if strict == 1:
                                downhill = steepness < 0.0
                        if downhill:
                            alpha = 1.0
                            fresh = 0
                            shift = 0.0
                            for n in each(self.mech.coordinates):
                                trial[n] = u[n] + du[n]
                        else:
                            shift = ti.max(4.0 * shift, 1e-3 * stiffest)
                            fresh = 1
                            failed = not (shift < LARGEST_SHIFT * stiffest)
                        if ti.static(self.mech.dissipative):
                            failed = failed or (strict == 0 and solves - begun >= PATIENCE)
                elif fresh == 1:
                    failed = True
                else:
                    alpha *= 0.5
                    for n in each(self.mech.coordinates):
                        trial[n] = u[n] + alpha * du[n]
                    failed = alpha < SMALLEST_ALPHA

                if evaluations >= EVALUATIONS:
                    running = 0
                elif failed:
                    again = True
                    if ti.static(self.mech.dissipative):
                        strict = 1 - strict
                    if strict == 0:
                        advance *= 0.5
                        goal = reached + advance
                        again = advance >= SMALLEST_ADVANCE
                    if again:
                        for n in each(self.mech.coordinates):
                            trial[n] = settled[n]
                            u[n] = settled[n]
                        fresh, begun = 1, solves
                        shift = 0.0
                    else:
                        running = 0
                        if not finite:
                            status = NON_FINITE
            return status, solves

    return Newton
