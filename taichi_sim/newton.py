"""One implicit step: Newton's method with a line search, a shift and continuation in the handles' motion."""

import functools

import taichi as ti

from .loops import Group, Loops, Scratch
from .mechanics import condition
from .system import System
from .trajectory import Status

EVALUATIONS = 400  # of the residual, per step, continuation included
ROUND_OFF = 16.0  # the tolerance is this many times eps · scale, see Mechanics.assemble
SUFFICIENT = 1e-4  # of the linear prediction must be gained (Armijo)
SMALLEST_ALPHA = 1e-9
SMALLEST_ADVANCE = 1.0 / 64.0  # of the handles' motion, in continuation
LARGEST_SHIFT = 1e6  # of the Jacobian's diagonal, relative to its largest entry
LARGEST_CONDITION = 1e3  # of a Jacobian whose directions are in float32
PATIENCE = 30  # linear solves with the lagged potential

# Taichi knows no enumerations.
OK, NOT_CONVERGED, NON_FINITE, NOT_RUN = (int(s) for s in Status)


def direction_kind(system: System, h: float):
    """Kind of the numbers that the directions of a large system are computed with.

    In float32 they are off by about cond(J)·2⁻²⁴ of their length, so that near the solution each iteration leaves that
    share of the error, or the square of the error: as many iterations, and half the memory and arithmetic. (A small
    system has little of either to save, and where its cables are slack a second iteration to pay.)
    """
    return ti.f32 if condition(system, h) <= LARGEST_CONDITION else float


@functools.cache
def newton(loops: Loops):
    each, side = loops.each, loops.side

    @ti.data_oriented
    class Newton:
        """Solves G(x₁) = 0 of one step for each lane, to round-off or to a `Status` that says why not.

        The line search is on the incremental potential. Dampers and friction enter it with the directions and loads
        of the last iterate, with which its gradient is the residual there; since that potential changes from iterate
        to iterate, halving the residual is accepted as well, and after `PATIENCE` solves the search starts again on
        the residual norm. (On that alone 3 in 1,000 steps of a cloth pushed about on its table ended in a local
        minimum; on the potential alone 1 in 3,000 steps of damped cables went round in circles.) The Jacobian's
        diagonal is shifted only while a pivot is not positive or its direction not downhill. If all that fails, the
        handles are moved a part of their way first, and the whole way from there: the equation finally solved, and so
        the row and its derivatives, are the same.

        Lanes go on together until the last is done. What one does never depends on another: a lane that has no use for
        an evaluation or a factorisation takes part in it and keeps what it has.
        """

        def __init__(self, mechanics, scratch: Scratch, quick: Scratch, eps: float):
            self.mech = mechanics
            self.lu = mechanics.quick_lu
            self.eps = eps
            self.lanes = loops.abreast()
            rows = {name: scratch.slot(mechanics.P, mechanics.d) for name in ("solution", "settled", "du")}
            rows["step"] = quick.slot(mechanics.P, mechanics.d)
            numbers = "alpha slope steepness merit0 worst0 square0 shift goal reached advance"
            found = "worst square grains bulk stiffest pivot"
            scalars = {name: loops.scalar() for name in (*numbers.split(), *found.split())}
            flags = "running evaluations fresh strict begun finite failed take seek stuck go settle back reset"
            scalars |= {name: loops.scalar(ti.i32) for name in flags.split()}
            self.variables = mechanics.variables(scratch, quick) | Group(**rows, **scalars)

        @ti.func
        def solve(
            self,
            # In: `rate` and, in `solution`, a guess; out: the solution
            y: ti.template(),
            # In
            x_free: ti.template(),
            v_free: ti.template(),
            p0: ti.template(),
            drive: ti.template(),
            h: float,
            # In: NOT_CONVERGED for lanes to solve, out: their status and linear solves
            status: ti.template(),
            solves: ti.template(),
        ):
            """u with G(x̃ + u) = 0, handles going from p0 at velocity `drive`."""
            active = 0
            for lane in side(self.lanes):
                y.running[lane] = ti.cast(status[lane] == NOT_CONVERGED, ti.i32)
                active += y.running[lane]
                solves[lane], y.evaluations[lane], y.fresh[lane], y.strict[lane], y.begun[lane] = 0, 0, 1, 0, 0
                y.alpha[lane], y.slope[lane], y.steepness[lane], y.shift[lane] = 1.0, 0.0, 0.0, 0.0
                y.merit0[lane], y.worst0[lane], y.square0[lane] = 0.0, 0.0, 0.0
                y.goal[lane], y.reached[lane], y.advance[lane] = 1.0, 0.0, 1.0  # shares of the handles' motion
            for n in each(self.mech.dampers):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d + 1)):
                        y.lag[n, k, lane] = 0.0
            for n in each(self.mech.loads):
                for lane in side(self.lanes):
                    y.load[n, lane] = 0.0
            for i in each(self.mech.all_points):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d)):
                        y.u[i, k, lane] = y.solution[i, k, lane]
                        y.settled[i, k, lane] = y.solution[i, k, lane]

            while active > 0:
                self.evaluate(y, x_free, v_free, p0, drive, h)
                seeking, stuck, troubled = 0, 0, 0
                for lane in side(self.lanes):
                    self.judge(y, lane, status)
                    seeking += y.seek[lane]
                    stuck += y.stuck[lane]
                for i in each(self.mech.all_points):
                    for lane in side(self.lanes):
                        for k in ti.static(range(self.mech.d)):
                            y.solution[i, k, lane] = ti.select(y.take[lane] == 1, y.u[i, k, lane], y.solution[i, k, lane])
                if stuck > 0:
                    self.turn(y, solves)
                if seeking > 0:
                    self.seek(y)
                    stuck = 0
                    for lane in side(self.lanes):
                        self.choose(y, lane, solves)
                        stuck += y.stuck[lane]
                    if stuck > 0:
                        for lane in side(self.lanes):
                            if y.stuck[lane] == 1:
                                y.shift[lane] = ti.max(4.0 * y.shift[lane], 1e-3 * y.stiffest[lane])
                                y.fresh[lane] = 1
                                within = ti.cast(y.shift[lane] < LARGEST_SHIFT * y.stiffest[lane], ti.i32)
                                y.failed[lane] = ti.max(y.failed[lane], 1 - within)
                    for i in each(self.mech.all_points):
                        for lane in side(self.lanes):
                            for k in ti.static(range(self.mech.d)):
                                whole = y.solution[i, k, lane] + y.du[i, k, lane]
                                y.u[i, k, lane] = ti.select(y.go[lane] == 1, whole, y.u[i, k, lane])
                active = 0
                for lane in side(self.lanes):
                    spent = ti.cast(y.evaluations[lane] >= EVALUATIONS, ti.i32)
                    troubled += y.running[lane] * ti.max(spent, y.failed[lane])
                    active += y.running[lane]
                if troubled > 0:
                    active = self.recover(y, status, solves)

        @ti.func
        def evaluate(
            self,
            y: ti.template(),
            x_free: ti.template(),
            v_free: ti.template(),
            p0: ti.template(),
            drive: ti.template(),
            h: float,
        ):
            """The equations at u, and how far they are from being solved."""
            for j in each(self.mech.all_handles):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d)):
                        y.w[j, k, lane] = y.goal[lane] * drive[j, k, lane]
                        y.p[j, k, lane] = p0[j, k, lane] + h * (y.goal[lane] * drive[j, k, lane])
            for i in each(self.mech.all_points):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d)):
                        y.x[i, k, lane] = x_free[i, k, lane] + y.u[i, k, lane]
                        if ti.static(self.mech.dissipative):
                            y.v[i, k, lane] = v_free[i, k, lane] + y.rate[lane] * y.u[i, k, lane]
            self.mech.assemble(y, h)
            for lane in side(self.lanes):
                y.worst[lane], y.square[lane], y.grains[lane] = 0.0, 0.0, 0.0
                y.bulk[lane] = 0.0  # of all that must be finite: max() and a cable's energy pass over NaN
            for j in each(self.mech.all_handles):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d)):
                        y.bulk[lane] = y.bulk[lane] + ti.abs(y.p[j, k, lane])
            for i in each(self.mech.all_points):
                for lane in side(self.lanes):
                    grain, largest = ROUND_OFF * self.eps * y.scale[i, lane], 0.0
                    for k in ti.static(range(self.mech.d)):
                        r = y.r[i, k, lane]
                        y.bulk[lane] = y.bulk[lane] + (ti.abs(r) + grain)
                        largest = ti.max(largest, ti.abs(r))
                        if ti.static(self.mech.dissipative):
                            y.square[lane] = y.square[lane] + 0.5 * r * r
                            y.grains[lane] = y.grains[lane] + grain * grain
                    y.worst[lane] = ti.max(y.worst[lane], largest / grain)

        @ti.func
        def judge(self, y: ti.template(), lane: int, status: ti.template()):
            """Whether a lane takes its trial, and then has arrived or seeks a direction; else it is stuck."""
            good = (ti.abs(y.phi[lane]) < ti.math.inf) & (ti.abs(y.phi_now[lane]) < ti.math.inf)
            good = good & (y.bulk[lane] < ti.math.inf)
            better = (
                y.phi[lane]
                <= y.merit0[lane] + SUFFICIENT * y.alpha[lane] * y.slope[lane] + 16.0 * self.eps * y.size[lane]
            )
            if ti.static(self.mech.dissipative):
                better = better | (y.worst[lane] <= 0.5 * y.worst0[lane])
                smaller = (
                    y.square[lane]
                    <= y.square0[lane] + SUFFICIENT * y.alpha[lane] * y.steepness[lane] + y.grains[lane]
                )
                better = ti.select(y.strict[lane] == 1, smaller, better)
            running = y.running[lane]
            taken = running * ti.cast(good & (better | (y.fresh[lane] == 1)), ti.i32)
            solved = ti.cast(y.worst[lane] <= 1.0, ti.i32)
            arrived = taken * solved * ti.cast(y.goal[lane] == 1.0, ti.i32)
            seeks = taken * (1 - solved)
            y.evaluations[lane] = y.evaluations[lane] + running
            y.finite[lane] = ti.select(running == 1, ti.cast(good, ti.i32), y.finite[lane])
            y.take[lane], y.seek[lane], y.stuck[lane] = taken, seeks, running - arrived - seeks
            y.failed[lane] = 0
            y.running[lane] = running - arrived
            status[lane] = ti.select(arrived == 1, OK, status[lane])
            y.merit0[lane] = ti.select(seeks == 1, y.phi_now[lane], y.merit0[lane])
            if ti.static(self.mech.dissipative):
                y.worst0[lane] = ti.select(seeks == 1, y.worst[lane], y.worst0[lane])
                y.square0[lane] = ti.select(seeks == 1, y.square[lane], y.square0[lane])

        @ti.func
        def turn(self, y: ti.template(), solves: ti.template()):
            """A lane that is stuck has solved a part of the handles' motion, goes back half its way, or has failed."""
            for lane in side(self.lanes):
                y.settle[lane], y.back[lane] = 0, 0
                if y.stuck[lane] == 1:
                    if y.take[lane] == 1:
                        y.settle[lane] = 1
                        y.reached[lane] = y.goal[lane]
                        y.goal[lane] = ti.min(1.0, y.reached[lane] + y.advance[lane])
                        y.fresh[lane], y.strict[lane], y.begun[lane] = 1, 0, solves[lane]
                        y.shift[lane] = 0.0
                    elif y.fresh[lane] == 1:
                        y.failed[lane] = 1
                    else:
                        y.alpha[lane] = 0.5 * y.alpha[lane]
                        y.back[lane] = 1
                        y.failed[lane] = ti.cast(y.alpha[lane] < SMALLEST_ALPHA, ti.i32)
            for i in each(self.mech.all_points):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d)):
                        shorter = y.solution[i, k, lane] + y.alpha[lane] * y.du[i, k, lane]
                        y.settled[i, k, lane] = ti.select(
                            y.settle[lane] == 1, y.u[i, k, lane], y.settled[i, k, lane]
                        )
                        y.u[i, k, lane] = ti.select(y.back[lane] == 1, shorter, y.u[i, k, lane])

        @ti.func
        def seek(self, y: ti.template()):
            """Newton's direction for the lanes that seek one, and the slopes along it."""
            for n in each(self.mech.dampers):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d + 1)):
                        y.lag[n, k, lane] = ti.select(y.seek[lane] == 1, y.lag_now[n, k, lane], y.lag[n, k, lane])
            for n in each(self.mech.loads):
                for lane in side(self.lanes):
                    y.load[n, lane] = ti.select(y.seek[lane] == 1, y.load_now[n, lane], y.load[n, lane])
            for lane in side(self.lanes):
                y.stiffest[lane] = 0.0
                y.slope[lane] = ti.select(y.seek[lane] == 1, 0.0, y.slope[lane])
                y.steepness[lane] = ti.select(y.seek[lane] == 1, 0.0, y.steepness[lane])
            for i in each(self.mech.all_points):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d)):
                        pivot = y.diagonal[i, self.mech.at[k][k], lane]
                        y.stiffest[lane] = ti.max(y.stiffest[lane], ti.cast(ti.abs(pivot), float))
                        y.diagonal[i, self.mech.at[k][k], lane] = pivot + ti.cast(y.shift[lane], y.step.kind)
                        y.step[i, k, lane] = ti.cast(-y.r[i, k, lane], y.step.kind)
            self.lu.factor(y, y.pivot)
            self.lu.solve(y, y.step)
            for i in each(self.mech.all_points):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d)):
                        r, du = y.r[i, k, lane], ti.cast(y.step[i, k, lane], float)
                        y.du[i, k, lane] = ti.select(y.seek[lane] == 1, du, y.du[i, k, lane])
                        y.slope[lane] = y.slope[lane] + ti.select(y.seek[lane] == 1, r * du, 0.0)
                        if ti.static(self.mech.dissipative):  # rᵀJ du, as (J + shift) du = −r
                            fall = r * (r + y.shift[lane] * du)
                            y.steepness[lane] = y.steepness[lane] - ti.select(y.seek[lane] == 1, fall, 0.0)

        @ti.func
        def choose(self, y: ti.template(), lane: int, solves: ti.template()):
            """Whether a lane that seeks goes along its direction; else it is stuck, and shifts the Jacobian's diagonal."""
            falls = y.slope[lane] < 0.0
            if ti.static(self.mech.dissipative):
                falls = ti.select(y.strict[lane] == 1, y.steepness[lane] < 0.0, falls)
            found = y.seek[lane] * ti.cast(y.pivot[lane] > 0.0, ti.i32)
            goes = found * ti.cast(falls, ti.i32)
            solves[lane] = solves[lane] + found
            y.go[lane], y.stuck[lane] = goes, y.seek[lane] - goes
            y.alpha[lane] = ti.select(goes == 1, 1.0, y.alpha[lane])
            y.shift[lane] = ti.select(goes == 1, 0.0, y.shift[lane])
            y.fresh[lane] = ti.select(goes == 1, 0, y.fresh[lane])
            if ti.static(self.mech.dissipative):
                lost = ti.cast(solves[lane] - y.begun[lane] >= PATIENCE, ti.i32)
                y.failed[lane] = ti.max(y.failed[lane], y.seek[lane] * (1 - y.strict[lane]) * lost)

        @ti.func
        def recover(self, y: ti.template(), status: ti.template(), solves: ti.template()):
            """A lane that has failed begins again from where it last settled, or gives up. Returns how many go on."""
            active, resetting = 0, 0
            for lane in side(self.lanes):
                y.reset[lane] = 0
                if y.running[lane] == 1:
                    self.conclude(y, lane, status, solves)
                active += y.running[lane]
                resetting += y.reset[lane]
            if resetting > 0:
                for i in each(self.mech.all_points):
                    for lane in side(self.lanes):
                        for k in ti.static(range(self.mech.d)):
                            y.u[i, k, lane] = ti.select(y.reset[lane] == 1, y.settled[i, k, lane], y.u[i, k, lane])
                            y.solution[i, k, lane] = ti.select(
                                y.reset[lane] == 1, y.settled[i, k, lane], y.solution[i, k, lane]
                            )
            return active

        @ti.func
        def conclude(self, y: ti.template(), lane: int, status: ti.template(), solves: ti.template()):
            """Whether a lane begins again from where it last settled, or gives up."""
            if y.evaluations[lane] >= EVALUATIONS:
                y.running[lane] = 0
            elif y.failed[lane] == 1:
                again = True
                if ti.static(self.mech.dissipative):
                    y.strict[lane] = 1 - y.strict[lane]
                if y.strict[lane] == 0:
                    y.advance[lane] = 0.5 * y.advance[lane]
                    y.goal[lane] = y.reached[lane] + y.advance[lane]
                    again = y.advance[lane] >= SMALLEST_ADVANCE
                if again:
                    y.reset[lane], y.fresh[lane], y.begun[lane], y.shift[lane] = 1, 1, solves[lane], 0.0
                else:
                    y.running[lane] = 0
                    if y.finite[lane] == 0:
                        status[lane] = NON_FINITE

    return Newton
