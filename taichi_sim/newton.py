"""One implicit step: Newton's method with a line search, a shift and continuation in the handles' motion."""

import functools

import taichi as ti

from .energy import larger
from .globalisation import EVALUATIONS, globalisation
from .loops import Loops
from .mechanics import condition
from .system import System
from .trajectory import NOT_CONVERGED
from .variables import Group, Scratch

ROUND_OFF = 16.0  # the tolerance is this many times eps · scale, see Mechanics.assemble
LARGEST_CONDITION = 1e3  # of a Jacobian whose directions are in float32


def direction_kind(system: System, h: float):
    """Kind of the numbers that the directions of a large system are computed with.

    In float32 they are off by about cond(J)·2⁻²⁴ of their length, so that near the solution each iteration leaves that
    share of the error, or the square of the error: as many iterations, and half the memory and arithmetic. (A small
    system has little of either to save, and where its cables are slack a second iteration to pay.)
    """
    return ti.f32 if condition(system, h) <= LARGEST_CONDITION else float


@functools.cache
def newton(loops: Loops):
    each, through, side = loops.each, loops.through, loops.side

    @ti.data_oriented
    class Newton(globalisation(loops)):
        """Solves G(x₁) = 0 of one step for each lane, to round-off or to a `Status` that says why not.

        Lanes go on together until the last is done. What one does never depends on another: a lane that has no use for
        an evaluation or a factorisation takes part in it and keeps what it has.
        """

        def __init__(self, mechanics, scratch: Scratch, quick: Scratch, eps: float):
            self.mech = mechanics
            self.lu = mechanics.quick_lu
            self.inexact = quick.kind is not float  # directions that leave more than round-off of the error
            self.eps = eps
            self.strips, self.lanes = loops.strips(), loops.abreast()
            names = ("x_free", "v_free", "solution", "settled")
            rows = {name: scratch.slot(mechanics.P, mechanics.d) for name in names}
            rows |= {name: scratch.slot(mechanics.H, mechanics.d) for name in ("p0", "drive")}
            rows["step"] = quick.slot(mechanics.P, mechanics.d)
            numbers = "alpha slope steepness merit0 worst0 square0 lifted shift goal reached advance"
            found = "excess worst square grains bulk stiffest sign"
            scalars = {name: scratch.scalar() for name in (*numbers.split(), *found.split())}
            flags = "running evaluations fresh strict begun finite failed take arrive seek stuck go settle back reset"
            scalars |= {name: scratch.scalar(ti.i32) for name in ("status", "solves", *flags.split())}
            self.variables = mechanics.variables(scratch, quick) | Group(**rows, **scalars)

        @ti.func
        def solve(self, y: ti.template(), prepared: int):
            """Solve for u with G(x̃ + u) = 0, handles going from p0 at velocity `drive`, see `prepare` too.

            In: x_free = x̃ and v_free, its velocity; p0, drive, h, `rate`; a guess in `solution`; `status` NOT_CONVERGED
            of lanes to solve. Out: `solution`, `status` and the linear `solves` that it took.
            """
            active = prepared
            while active > 0:
                seeking, stuck, lifting = 0, 0, 0
                for strip in through(self.strips):
                    seeks, halts, lifts = self.attempt(y[strip])
                    seeking += seeks
                    stuck += halts
                    lifting += lifts
                if stuck > 0:
                    for strip in through(self.strips):
                        self.turn(y[strip])
                if seeking > 0:
                    if lifting > 0:
                        for strip in through(self.strips):
                            self.shift(y[strip])
                    stuck = 0
                    for strip in through(self.strips):
                        stuck += self.seek(y[strip])
                    if stuck > 0:
                        for strip in through(self.strips):
                            self.lift(y[strip])
                active, troubled = 0, 0
                for strip in through(self.strips):
                    goes, fails = self.count(y[strip])
                    active += goes
                    troubled += fails
                if troubled > 0:
                    active = 0
                    for strip in through(self.strips):
                        active += self.recover(y[strip])

        @ti.func
        def prepare(self, y: ti.template()):
            """Begin from the guess in `solution`. Returns how many lanes there are to solve."""
            active = 0
            for lane in side(self.lanes):
                y.running[lane] = ti.cast(y.status[lane] == NOT_CONVERGED, ti.i32)
                active += y.running[lane]
                y.solves[lane], y.evaluations[lane], y.fresh[lane], y.strict[lane], y.begun[lane] = 0, 0, 1, 0, 0
                y.alpha[lane], y.slope[lane], y.steepness[lane], y.lifted[lane] = 1.0, 0.0, 0.0, 0.0
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
            return active

        @ti.func
        def attempt(self, y: ti.template()):
            """Evaluate the trial u and judge it. Returns how many lanes need a direction, are stuck, need a shift."""
            self.evaluate(y)
            seeking, stuck, lifting = 0, 0, 0
            for lane in side(self.lanes):
                self.judge(y, lane)
                seeking += y.seek[lane] + (y.arrive[lane] if ti.static(self.inexact) else 0)
                stuck += y.stuck[lane]
                y.shift[lane] = 0.0
                lifting += ti.cast(y.lifted[lane] > 0.0, ti.i32)
            for i in each(self.mech.all_points):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d)):
                        y.solution[i, k, lane] = ti.select(y.take[lane] == 1, y.u[i, k, lane], y.solution[i, k, lane])
            for n in each(self.mech.dampers):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d + 1)):
                        y.lag[n, k, lane] = ti.select(y.seek[lane] == 1, y.lag_now[n, k, lane], y.lag[n, k, lane])
            for n in each(self.mech.loads):
                for lane in side(self.lanes):
                    y.load[n, lane] = ti.select(y.seek[lane] == 1, y.load_now[n, lane], y.load[n, lane])
            return seeking, stuck, lifting

        @ti.func
        def count(self, y: ti.template()):
            """How many lanes go on, and how many of them have failed."""
            active, troubled = 0, 0
            for lane in side(self.lanes):
                spent = ti.cast(y.evaluations[lane] >= EVALUATIONS, ti.i32)
                troubled += y.running[lane] * ti.max(spent, y.failed[lane])
                active += y.running[lane]
            return active, troubled

        @ti.func
        def polish(self, y: ti.template()):
            """One more direction for lanes that have arrived, which brings them from the tolerance to round-off."""
            for i in each(self.mech.all_points):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d)):
                        better = y.solution[i, k, lane] - ti.cast(y.step[i, k, lane], float)
                        taken = (y.arrive[lane] == 1) & (y.sign[lane] > 0.0)
                        y.solution[i, k, lane] = ti.select(taken, better, y.solution[i, k, lane])

        @ti.func
        def evaluate(self, y: ti.template()):
            """The equations at u, and how far they are from being solved."""
            for j in each(self.mech.all_handles):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d)):
                        y.w[j, k, lane] = y.goal[lane] * y.drive[j, k, lane]
                        y.p[j, k, lane] = y.p0[j, k, lane] + y.h[lane] * (y.goal[lane] * y.drive[j, k, lane])
            for i in each(self.mech.all_points):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d)):
                        y.x[i, k, lane] = y.x_free[i, k, lane] + y.u[i, k, lane]
                        if ti.static(self.mech.dissipative):
                            y.v[i, k, lane] = y.v_free[i, k, lane] + y.rate[lane] * y.u[i, k, lane]
            self.mech.assemble(y)
            for lane in side(self.lanes):
                y.excess[lane], y.worst[lane], y.square[lane], y.grains[lane] = -1.0, 0.0, 0.0, 0.0
                y.bulk[lane] = 0.0  # of all that must be finite: a comparison and a cable's energy pass over NaN
            for j in each(self.mech.all_handles):
                for lane in side(self.lanes):
                    y.bulk[lane] = y.bulk[lane] + y.reach_p[j, lane]
            for i in each(self.mech.all_points):
                for lane in side(self.lanes):
                    grain, largest = ROUND_OFF * self.eps * y.scale[i, lane], 0.0
                    y.bulk[lane] = y.bulk[lane] + grain  # not finite where a term of the residual is not
                    for k in ti.static(range(self.mech.d)):
                        r = y.r[i, k, lane]
                        largest = larger(largest, ti.abs(r))
                        if ti.static(self.mech.dissipative):
                            y.square[lane] = y.square[lane] + 0.5 * r * r
                            y.grains[lane] = y.grains[lane] + grain * grain
                    y.excess[lane] = larger(y.excess[lane], largest - grain)
                    if ti.static(self.mech.dissipative):
                        y.worst[lane] = larger(y.worst[lane], largest / grain)

        @ti.func
        def seek(self, y: ti.template()):
            """Newton's direction for the lanes that seek one, the slopes along it, and the iterate at its end.

            Returns how many of them are stuck.
            """
            for lane in side(self.lanes):
                y.slope[lane] = ti.select(y.seek[lane] == 1, 0.0, y.slope[lane])
                y.steepness[lane] = ti.select(y.seek[lane] == 1, 0.0, y.steepness[lane])
            for i in each(self.mech.all_points):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d)):
                        y.step[i, k, lane] = ti.cast(y.r[i, k, lane], y.step.kind)
            self.lu.factor(y, y.sign)
            self.lu.solve(y, y.step)
            for i in each(self.mech.all_points):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d)):
                        r, back = y.r[i, k, lane], ti.cast(y.step[i, k, lane], float)  # J⁻¹ r
                        y.u[i, k, lane] = ti.select(y.seek[lane] == 1, y.solution[i, k, lane] - back, y.u[i, k, lane])
                        y.slope[lane] = y.slope[lane] - ti.select(y.seek[lane] == 1, r * back, 0.0)
                        if ti.static(self.mech.dissipative):  # rᵀJ times the direction, as (J + shift) back = r
                            fall = r * (r - y.shift[lane] * back)
                            y.steepness[lane] = y.steepness[lane] - ti.select(y.seek[lane] == 1, fall, 0.0)
            stuck = 0
            for lane in side(self.lanes):
                self.choose(y, lane)
                stuck += y.stuck[lane]
            if ti.static(self.inexact):
                self.polish(y)
            return stuck

        @ti.func
        def shift(self, y: ti.template()):
            """Add `lifted` times its largest entry to the diagonal."""
            for lane in side(self.lanes):
                y.stiffest[lane] = 0.0
            for i in each(self.mech.all_points):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d)):
                        pivot = ti.cast(y.diagonal[i, self.mech.at[k][k], lane], float)
                        y.stiffest[lane] = larger(y.stiffest[lane], ti.abs(pivot))
            for lane in side(self.lanes):
                y.shift[lane] = y.lifted[lane] * y.stiffest[lane]
            for i in each(self.mech.all_points):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.mech.d)):
                        pivot = y.diagonal[i, self.mech.at[k][k], lane]
                        y.diagonal[i, self.mech.at[k][k], lane] = pivot + ti.cast(y.shift[lane], y.step.kind)

    return Newton
