"""Forces of one rollout at one instant: residual, Jacobian and potential of the implicit step.

One step solves G(x₁) = 0 with

    v₁ = (c₀ x₁ + c₁ x₀ + c₂ x₋₁) / h,      G = M (c₀ v₁ + c₁ v₀ + c₂ v₋₁) / h − f(x₁, v₁, p₁, w),

w the handles' velocity and f gravity, springs, their damping, contact and friction. The unknown is u = x₁ − x̃, the
displacement from the force-free position x̃, so that the inertia term is M c₀² u / h² without cancellation.
"""

import functools

import numpy as np
import taichi as ti

from .blocks import entries
from .elimination import Elimination
from .energy import softness
from .forces import Forces
from .ldl import block_ldl
from .loops import Loops
from .lu import Pivots, block_lu
from .planes import planes
from .springs import springs
from .system import System
from .variables import Group, Scratch

# c₀, c₁, c₂ of the backward differentiation formulas
BDF1 = (1.0, -1.0, 0.0)
BDF2 = (1.5, -2.0, 0.5)


def condition(system: System, h: float) -> float:
    """A bound of cond(J) for springs that pull and planes that push, by sums of the entries of its rows."""
    inertia = system.mass / h**2
    ends = system.ends.T
    stiff = np.zeros(system.points + system.handles)
    for end in ends:
        np.add.at(stiff, end, 2.0 * (system.stiffness + BDF2[0] / h * system.damping))
    contact = (1.0 + system.friction) * system.contact_stiffness + BDF2[0] * system.tangential_stiffness
    largest = BDF2[0] ** 2 * inertia + stiff[: system.points] + contact.sum()
    return float(largest.max() / inertia.min())


@functools.cache
def mechanics(loops: Loops):
    each, side, known = loops.each, loops.side, loops.known

    @ti.data_oriented
    class Mechanics(springs(loops), planes(loops)):
        """The equations of motion of one `System` as Taichi functions.

        Coordinate k of point i is x[i, k, lane], and so for u, v and r; of handle j p[j, k, lane] and w[j, k, lane].
        J = ∂G/∂x₁ has the blocks `diagonal`, `upper` and `lower` (see `lu`); it is symmetric where nothing dissipates.
        Z = ∂G/∂v₁ without inertia has a block Z[i] for each point, and one for both blocks of an edge, Z_apart[edge],
        where springs are damped. C and F have a block for each spring that ends at a handle, of −∂G/∂p and −∂G/∂w.
        """

        def __init__(self, system: System, quick=float):
            """quick: kind of the numbers in the factors for Newton's directions."""
            self.loops = loops
            tables = loops.tables()
            self.P, self.d, self.H, self.m = system.points, system.dim, system.handles, system.actions
            self.D, self.dd = self.P * self.d, self.d**2
            self.K = system.planes
            self.damped = bool(system.damping.any())
            self.rough = bool(system.friction.any())
            self.dissipative = self.damped or self.rough
            self.gravity = system.gravity.tolist()
            self.forces = Forces(system)
            self.mass = tables.add(system.mass)

            axes = system.axes.tolist()
            drives = [(row, col, e) for row, line in enumerate(axes) for col, e in enumerate(line) if e != 0.0]
            self.drives = drives  # few, so always unrolled

            # Springs between points first, and of those the only one or the first of its edge; last come those that
            # end at a handle, which is their second node.
            P = self.P
            ends = [(i, j) if i < P else (j, i) for i, j in system.ends.tolist()]
            inner = [e for e, (_, j) in enumerate(ends) if j < P]
            held = [e for e, (_, j) in enumerate(ends) if j >= P]
            self.elimination = Elimination.of(P, [ends[e] for e in inner])
            number = self.elimination.edge
            of = {e: number[ends[e] if ends[e] in number else ends[e][::-1]] for e in inner}
            begin = list({of[e]: e for e in reversed(inner)}.values())[::-1]
            inner = begin + [e for e in inner if e not in begin]
            order = inner + held
            self.couplings, self.edge_count = len(held), len(number)
            self.first = tables.add([ends[e][0] for e in order])
            self.second = tables.add([ends[e][1] - (0 if e in inner else P) for e in order])
            self.stiffness = tables.add(system.stiffness[order])
            self.length = tables.add(system.length[order])
            self.blend = tables.add(system.blend[order])
            self.damping = tables.add(system.damping[order])
            soft = softness(system.stiffness, np.where(system.unilateral, system.blend, np.inf))
            self.soft = tables.add(soft[order])
            self.cable = tables.add(system.unilateral[order].astype(int).tolist())
            self.edge = tables.add([of[e] for e in inner])
            fill_in = [edge for edge in number.values() if edge not in of.values()]
            self.fill_in = tables.add(fill_in)
            self.edge_first = tables.add([i for i, _ in number])
            self.edge_second = tables.add([j for _, j in number])

            self.all_points = loops.range(P)
            self.all_handles = loops.range(self.H)
            self.all_edges = loops.range(self.edge_count)
            self.fill_ins = loops.range(len(fill_in))
            self.dampers = loops.range(len(ends) if self.damped else 0)
            self.loads = loops.range(P * self.K if self.rough else 0)
            self.begin = loops.range(len(begin))
            self.begin_count, self.repeats = len(begin), loops.range(len(inner) - len(begin))
            self.held = loops.range(len(held))
            self.inner_count = len(inner)

            pivots = Pivots(loops, self.elimination, tables)
            factors = block_lu(loops) if self.dissipative else block_ldl(loops)
            self.lu, self.quick_lu = factors(pivots, self.d), factors(pivots, self.d, quick)
            self.at = entries(self.d, self.lu.symmetric)
            self.width = self.at[-1][-1] + 1  # of a diagonal block
            tables.fill(self)
            self.lanes = loops.abreast()
            # What a spring does to its second end, what a plane does to a point, dissipation's sums; c₀²/h²
            names = ("grain", "load", "slope", "reach", "lost", "lost_now", "inertia")
            self.part = Group(force=loops.local(1, self.d), **{name: loops.scalar() for name in names})

        @property
        def blocks(self) -> int:
            """Of J, fill-in included."""
            return self.elimination.blocks

        def variables(self, scratch: Scratch, of_blocks: Scratch) -> Group:
            """What `assemble` reads and writes, of each lane; J's blocks are of the second scratch.

            In: displacement u, positions x and velocities v of the points, p and w of the handles, h, `rate` = c₀/h,
            and what dissipation is measured with: n and share of each damper in `lag`, normal forces in `load`.
            Out: residual r, its round-off's scale, J, potentials phi and phi_now and their round-off `size`, and
            dissipation's measures now.
            """
            d, rough = self.d, self.P * self.K if self.rough else 0
            dampers = self.inner_count + self.couplings if self.damped else 0
            rows = {name: scratch.slot(self.P, d) for name in ("u", "x", "v", "r")}
            rows |= {name: scratch.slot(self.H, d) for name in ("p", "w")}
            rows |= {name: scratch.slot(dampers, d + 1) for name in ("lag", "lag_now")}
            rows |= {name: scratch.slot(rough) for name in ("load", "load_now")}
            rows["beside"] = self.loops.local(1, self.width, of_blocks.kind)  # a spring's blocks of its second end
            rows["Z_beside"] = self.loops.local(1, self.dd, of_blocks.kind)
            scalars = {name: scratch.scalar() for name in ("h", "rate", "phi", "phi_now", "size")}
            sums = {"scale": scratch.slot(self.P), "reach": scratch.slot(self.P), "reach_p": scratch.slot(self.H)}
            return Group(**sums, **rows, **scalars) | self.jacobian(of_blocks.slot)

        def jacobian(self, slot) -> Group:
            """The blocks of J, declared by slot(rows, width)."""
            blocks = {"diagonal": slot(self.P, self.width), "upper": slot(self.edge_count, self.dd)}
            if self.dissipative:
                blocks["lower"] = slot(self.edge_count, self.dd)
            return Group(**blocks)

        def couplings_of(self, slot) -> Group:
            """The blocks of Z, C and F."""
            blocks = {"C": slot(self.couplings, self.dd)}
            if self.dissipative:
                blocks["Z"] = slot(self.P, self.dd)
            if self.damped:
                blocks |= {"Z_apart": slot(self.edge_count, self.dd), "F": slot(self.couplings, self.dd)}
            return Group(**blocks)

        @ti.func
        def coefficients(self, first):
            """c₀, c₁, c₂ of a step's difference formula."""
            c0, c1, c2 = BDF2
            if first:
                c0, c1, c2 = BDF1
            return c0, c1, c2

        @ti.func
        def assemble(self, y: ti.template()):
            """G, J and the potential; y: see `variables`.

            scale[i] bounds the terms whose sum is the residual of point i, so that eps·scale is its round-off.
            Φ(u) = Σ ½ m c₀²/h² ‖u‖² − m g·u + Σ E + h/c₀ Σ ψ(v₁), ψ the dissipation of dampers with the directions in
            `lag` and of friction with the loads in `load`. Where those are the ones at u itself, the gradient of Φ is
            G. phi_now is Φ with these.
            """
            part = self.part[0]
            for lane in side(self.lanes):
                y.phi[lane], y.size[lane], part.lost[lane], part.lost_now[lane] = 0.0, 0.0, 0.0, 0.0
                part.inertia[lane] = y.rate[lane] * y.rate[lane]
            for i in each(self.all_points):
                mass = ti.cast(self.mass[i], float)
                for lane in side(self.lanes):
                    grain, reach = 0.0, 0.0
                    inertia = mass * part.inertia[lane]
                    for k in ti.static(range(self.d)):
                        u = y.u[i, k, lane]
                        push = inertia * u
                        energy = 0.5 * push * u
                        reach += ti.abs(y.x[i, k, lane])
                        grain += ti.abs(push)
                        if ti.static(self.gravity[k] == 0.0):
                            y.r[i, k, lane] = push
                            y.phi[lane] = y.phi[lane] + energy
                            y.size[lane] = y.size[lane] + energy
                        else:
                            load = mass * self.gravity[k]
                            grain += ti.abs(load)
                            y.r[i, k, lane] = push - load
                            y.phi[lane] = y.phi[lane] + (energy - load * u)
                            y.size[lane] = y.size[lane] + (energy + ti.abs(load * u))
                    y.scale[i, lane], y.reach[i, lane] = grain, reach
            for j in each(self.all_handles):
                for lane in side(self.lanes):
                    reach = 0.0
                    for k in ti.static(range(self.d)):
                        reach += ti.abs(y.p[j, k, lane])
                    y.reach_p[j, lane] = reach
            self.act(y, True, part)
            for lane in side(self.lanes):
                y.phi_now[lane] = y.phi[lane]
                if ti.static(self.dissipative):
                    y.size[lane] = y.size[lane] + (part.lost[lane] + part.lost_now[lane]) / y.rate[lane]
                    y.phi_now[lane] = y.phi[lane] + part.lost_now[lane] / y.rate[lane]
                    y.phi[lane] = y.phi[lane] + part.lost[lane] / y.rate[lane]

        @ti.func
        def linearise(self, y: ti.template()):
            """J, Z, C and F alone."""
            part = self.part[0]
            for lane in side(self.lanes):
                part.inertia[lane] = y.rate[lane] * y.rate[lane]
            self.act(y, False, part)

        @ti.func
        def act(self, y: ti.template(), residual: ti.template(), part: ti.template()):
            """J, of springs, planes and inertia, and with `residual` what those add to r and Φ, else Z, C and F."""
            for n in each(self.fill_ins):
                edge = known(self.fill_in[n])
                for lane in side(self.lanes):
                    for k in ti.static(range(self.dd)):
                        y.upper[edge, k, lane] = ti.cast(0.0, y.upper.kind)
                        if ti.static(self.dissipative):
                            y.lower[edge, k, lane] = ti.cast(0.0, y.upper.kind)
                        if ti.static(self.damped and not residual):
                            y.Z_apart[edge, k, lane] = ti.cast(0.0, y.upper.kind)
            for i in each(self.all_points):
                mass = ti.cast(self.mass[i], float)
                for lane in side(self.lanes):
                    for k in ti.static(range(self.width)):
                        y.diagonal[i, k, lane] = ti.cast(0.0, y.upper.kind)
                    for k in ti.static(range(self.d)):
                        y.diagonal[i, self.at[k][k], lane] = ti.cast(mass * part.inertia[lane], y.upper.kind)
                    if ti.static(self.dissipative and not residual):
                        for k in ti.static(range(self.dd)):
                            y.Z[i, k, lane] = ti.cast(0.0, y.upper.kind)
                for plane in ti.static(range(self.K)):
                    self.touch(i, plane, y, residual, part)
            for e in each(self.begin):
                j = known(self.second[e])
                self.pull(e, y.x, y.v, y.reach, j, known(self.edge[e]), True, False, y, residual, part)
                self.pull_back(j, y, residual, part)
            if ti.static(self.inner_count > self.begin_count):
                for again in each(self.repeats):
                    e = known(again + self.begin_count)
                    j = known(self.second[e])
                    self.pull(e, y.x, y.v, y.reach, j, known(self.edge[e]), True, True, y, residual, part)
                    self.pull_back(j, y, residual, part)
            for held in each(self.held):
                e = known(held + self.inner_count)
                self.pull(e, y.p, y.w, y.reach_p, known(self.second[e]), held, False, False, y, residual, part)

    return Mechanics
