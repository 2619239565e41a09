"""What makes Newton's method arrive from anywhere: a line search, a shift and continuation in the handles' motion.

The line search is on the incremental potential. Dampers and friction enter it with the directions and loads
of the last iterate, with which its gradient is the residual there; since that potential changes from iterate
to iterate, halving the residual is accepted as well, and after `PATIENCE` solves the search starts again on
the residual norm. (On that alone 3 in 1,000 steps of a cloth pushed about on its table ended in a local
minimum; on the potential alone 1 in 3,000 steps of damped cables went round in circles.) The Jacobian's
diagonal is shifted only while a pivot is not positive or its direction not downhill. If all that fails, the
handles are moved a part of their way first, and the whole way from there: the equation finally solved, and so
the row and its derivatives, are the same.
"""

import functools

import taichi as ti

from .loops import Loops
from .trajectory import NON_FINITE, OK

EVALUATIONS = 400  # of the residual, per step, continuation included
SUFFICIENT = 1e-4  # of the linear prediction must be gained (Armijo)
SMALLEST_ALPHA = 1e-9
SMALLEST_ADVANCE = 1.0 / 64.0  # of the handles' motion, in continuation
SMALLEST_SHIFT, LARGEST_SHIFT = 1e-3, 1e6  # of the Jacobian's diagonal, relative to its largest entry
PATIENCE = 30  # linear solves with the lagged potential


@functools.cache
def globalisation(loops: Loops):
    each, side = loops.each, loops.side

    @ti.data_oriented
    class Globalisation:
        """What each lane of a `Newton` decides, and its ways out where a direction or a trial is no good."""

        @ti.func
        def judge(self, y: ti.template(), lane: int):
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
                    y.square[lane] <= y.square0[lane] + SUFFICIENT * y.alpha[lane] * y.steepness[lane] + y.grains[lane]
                )
                better = ti.select(y.strict[lane] == 1, smaller, better)
            running = y.running[lane]
            taken = running * ti.cast(good & (better | (y.fresh[lane] == 1)), ti.i32)
            solved = ti.cast(y.excess[lane] <= 0.0, ti.i32)
            arrived = taken * solved * ti.cast(y.goal[lane] == 1.0, ti.i32)
            seeks = taken * (1 - solved)
            y.evaluations[lane] = y.evaluations[lane] + running
            y.finite[lane] = ti.select(running == 1, ti.cast(good, ti.i32), y.finite[lane])
            y.take[lane], y.seek[lane], y.stuck[lane] = taken, seeks, running - arrived - seeks
            y.failed[lane] = 0
            y.running[lane], y.arrive[lane] = running - arrived, arrived
            y.status[lane] = ti.select(arrived == 1, OK, y.status[lane])
            y.merit0[lane] = ti.select(seeks == 1, y.phi_now[lane], y.merit0[lane])
            if ti.static(self.mech.dissipative):
                y.worst0[lane] = ti.select(seeks == 1, y.worst[lane], y.worst0[lane])
                y.square0[lane] = ti.select(seeks == 1, y.square[lane], y.square0[lane])

        @ti.func
        def turn(self, y: ti.template()):
            """A lane that is stuck has solved a part of the handles' motion, goes back half its way, or has failed."""
            for lane in side(self.lanes):
                y.settle[lane], y.back[lane] = 0, 0
                if y.stuck[lane] == 1:
                    if y.take[lane] == 1:
                        y.settle[lane] = 1
                        y.reached[lane] = y.goal[lane]
                        y.goal[lane] = ti.min(1.0, y.reached[lane] + y.advance[lane])
                        y.fresh[lane], y.strict[lane], y.begun[lane] = 1, 0, y.solves[lane]
                        y.lifted[lane] = 0.0
                    elif y.fresh[lane] == 1:
                        y.failed[lane] = 1
                    else:
                        y.alpha[lane] = 0.5 * y.alpha[lane]
                        y.back[lane] = 1
                        y.failed[lane] = ti.cast(y.alpha[lane] < SMALLEST_ALPHA, ti.i32)
            for i in each(self.mech.all_points):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d)):
                        shorter = y.solution[i, k, lane] + 0.5 * (y.u[i, k, lane] - y.solution[i, k, lane])
                        y.settled[i, k, lane] = ti.select(y.settle[lane] == 1, y.u[i, k, lane], y.settled[i, k, lane])
                        y.u[i, k, lane] = ti.select(y.back[lane] == 1, shorter, y.u[i, k, lane])

        @ti.func
        def choose(self, y: ti.template(), lane: int):
            """Whether a lane that seeks goes along its direction; else it is stuck."""
            falls = y.slope[lane] < 0.0
            if ti.static(self.mech.dissipative):
                falls = ti.select(y.strict[lane] == 1, y.steepness[lane] < 0.0, falls)
            found = y.seek[lane] * ti.cast(y.sign[lane] > 0.0, ti.i32)
            goes = found * ti.cast(falls, ti.i32)
            y.solves[lane] = y.solves[lane] + found
            y.go[lane], y.stuck[lane] = goes, y.seek[lane] - goes
            y.alpha[lane] = ti.select(goes == 1, 1.0, y.alpha[lane])
            y.lifted[lane] = ti.select(goes == 1, 0.0, y.lifted[lane])
            y.fresh[lane] = ti.select(goes == 1, 0, y.fresh[lane])
            if ti.static(self.mech.dissipative):
                lost = ti.cast(y.solves[lane] - y.begun[lane] >= PATIENCE, ti.i32)
                y.failed[lane] = ti.max(y.failed[lane], y.seek[lane] * (1 - y.strict[lane]) * lost)

        @ti.func
        def lift(self, y: ti.template()):
            """A lane that is stuck without a direction tries again from where it is, with a shift or a larger one."""
            for lane in side(self.lanes):
                if y.stuck[lane] == 1:
                    y.lifted[lane] = ti.max(4.0 * y.lifted[lane], SMALLEST_SHIFT)
                    y.fresh[lane] = 1
                    y.failed[lane] = ti.max(y.failed[lane], ti.cast(y.lifted[lane] >= LARGEST_SHIFT, ti.i32))
            for i in each(self.mech.all_points):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d)):
                        y.u[i, k, lane] = ti.select(y.stuck[lane] == 1, y.solution[i, k, lane], y.u[i, k, lane])

        @ti.func
        def recover(self, y: ti.template()):
            """A lane that has failed begins again from where it last settled, or gives up. Returns how many go on."""
            active, resetting = 0, 0
            for lane in side(self.lanes):
                y.reset[lane] = 0
                if y.running[lane] == 1:
                    self.conclude(y, lane)
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
        def conclude(self, y: ti.template(), lane: int):
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
                    y.reset[lane], y.fresh[lane], y.begun[lane], y.lifted[lane] = 1, 1, y.solves[lane], 0.0
                else:
                    y.running[lane] = 0
                    if y.finite[lane] == 0:
                        y.status[lane] = NON_FINITE

    return Globalisation
