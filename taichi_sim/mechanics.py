"""Forces of one rollout at one instant: residual, Jacobian and potential of the implicit step.

One step solves G(x₁) = 0 with

    v₁ = (c₀ x₁ + c₁ x₀ + c₂ x₋₁) / h,      G = M (c₀ v₁ + c₁ v₀ + c₂ v₋₁) / h − f(x₁, v₁, p₁, w),

w the handles' velocity and f gravity, springs, their damping, contact and friction. The unknown is u = x₁ − x̃, the
displacement from the force-free position x̃, so that the inertia term is M c₀² u / h² without cancellation.
"""

import functools

import numpy as np
import taichi as ti

from .elimination import Elimination
from .energy import softness
from .forces import Forces
from .loops import Group, Loops, Scratch
from .lu import block_lu
from .system import System

# c₀, c₁, c₂ of the backward differentiation formulas
BDF1 = (1.0, -1.0, 0.0)
BDF2 = (1.5, -2.0, 0.5)


@functools.cache
def mechanics(loops: Loops):
    each, side, known = loops.each, loops.side, loops.known

    @ti.data_oriented
    class Mechanics:
        """The equations of motion of one `System` as Taichi functions.

        Coordinate k of point i is x[i, k, lane], and so for u, v and r; of handle j p[j, k, lane] and w[j, k, lane].
        Blocks of d × d, J[s, k·d + n, lane] entry (k, n) of block s: J = ∂G/∂x₁ over the pattern of the elimination,
        Z = ∂G/∂v₁ without inertia over those of its blocks where anything dissipates, the first ones; C and F, a block
        for each spring that ends at a handle, of −∂G/∂p and −∂G/∂w.
        """

        def __init__(self, system: System):
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

            # Springs between points first, then those that end at a handle, which is their second node.
            P = self.P
            ends = [(i, j) if i < P else (j, i) for i, j in system.ends.tolist()]
            inner = [e for e, (_, j) in enumerate(ends) if j < P]
            held = [e for e, (_, j) in enumerate(ends) if j >= P]
            order = inner + held
            self.elimination = Elimination.of(P, [ends[e] for e in inner])
            block = self.elimination.block
            self.blocks, self.couplings = len(block), len(held)
            self.first = tables.add([ends[e][0] for e in order])
            self.second = tables.add([ends[e][1] - (0 if e in inner else P) for e in order])
            self.stiffness = tables.add(system.stiffness[order])
            self.length = tables.add(system.length[order])
            self.blend = tables.add(system.blend[order])
            self.damping = tables.add(system.damping[order])
            soft = softness(system.stiffness, np.where(system.unilateral, system.blend, np.inf))
            self.soft = tables.add(soft[order])
            self.cable = tables.add(system.unilateral[order].astype(int).tolist())
            self.diagonal = tables.add([block[i, i] for i in range(P)])
            self.ahead = tables.add([block[ends[e]] for e in inner])
            self.behind = tables.add([block[ends[e][::-1]] for e in inner])
            self.block_rows = tables.add([i for i, _ in block])
            self.block_columns = tables.add([j for _, j in block])

            self.all_points = loops.range(P)
            self.all_handles = loops.range(self.H)
            self.dampers = loops.range(len(ends) if self.damped else 0)
            self.loads = loops.range(P * self.K if self.rough else 0)
            self.all_blocks = loops.range(self.blocks)
            # Z's blocks that are not zero: friction's are the diagonal ones, which come first
            self.dissipating_count = self.blocks if self.damped else P if self.rough else 0
            self.dissipating = loops.range(self.dissipating_count)
            self.inner = loops.range(len(inner))
            self.held = loops.range(len(held))
            self.inner_count = len(inner)

            self.lu = block_lu(loops)(self.elimination, self.d, tables)
            tables.fill(self)
            self.lanes = loops.abreast()
            # What a spring adds; dissipation's sums; c₀²/h²
            blocks = {name: loops.local(1, self.dd) for name in ("K", "J", "Z")}
            scalars = {name: loops.scalar() for name in ("grain", "lost", "lost_now", "inertia")}
            self.part = Group(force=loops.local(1, self.d), **blocks, **scalars)

        def variables(self, scratch: Scratch) -> Group:
            """What `assemble` reads and writes, of each lane.

            In: displacement u, positions x and velocities v of the points, p and w of the handles, `rate` = c₀/h, and
            what dissipation is measured with: n and share of each damper in `lag`, normal forces in `load`.
            Out: residual r, its round-off's scale, blocks, potentials phi and phi_now and their round-off `size`,
            and dissipation's measures now.
            """
            d, springs = self.d, self.inner_count + self.couplings
            dampers, rough = (springs if self.damped else 0), (self.P * self.K if self.rough else 0)
            rows = {name: scratch.slot(self.P, d) for name in ("u", "x", "v", "r")}
            rows |= {name: scratch.slot(self.H, d) for name in ("p", "w")}
            rows |= {name: scratch.slot(dampers, d + 1) for name in ("lag", "lag_now")}
            rows |= {name: scratch.slot(rough) for name in ("load", "load_now")}
            scalars = {name: self.loops.scalar() for name in ("rate", "phi", "phi_now", "size")}
            return Group(scale=scratch.slot(self.P), **rows, **scalars) | self.blocks_of(scratch.slot)

        def blocks_of(self, slot) -> Group:
            """J, Z, C and F, each declared by slot(rows, width)."""
            F = self.couplings if self.damped else 0
            sizes = {"J": self.blocks, "Z": self.dissipating_count, "C": self.couplings, "F": F}
            return Group(**{name: slot(n, self.dd) for name, n in sizes.items()})

        @ti.func
        def constants(self, e: ti.template()):
            """A spring's stiffness, rest length, blend, `soft` (see `energy`), damping, and whether it is a cable."""
            cable = ti.cast(known(self.cable[e]), ti.i32)
            return self.stiffness[e], self.length[e], self.blend[e], self.soft[e], self.damping[e], cable

        @ti.func
        def assemble(self, y: ti.template(), h: float):
            """G, ∂G/∂x₁ and their kin; y: see `variables`.

            scale[i] bounds the terms whose sum is the residual of point i, so that eps·scale is its round-off.
            Φ(u) = Σ ½ m c₀²/h² ‖u‖² − m g·u + Σ E + h/c₀ Σ ψ(v₁), ψ the dissipation of dampers with the directions in
            `lag` and of friction with the loads in `load`. Where those are the ones at u itself, the gradient of Φ is
            G. phi_now is Φ with these.
            """
            part = self.part[0]
            for lane in side(self.lanes):
                y.phi[lane], y.size[lane], part.lost[lane], part.lost_now[lane] = 0.0, 0.0, 0.0, 0.0
                part.inertia[lane] = y.rate[lane] * y.rate[lane]
            for s in each(self.all_blocks):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.dd)):
                        y.J[s, k, lane] = 0.0
            for s in each(self.dissipating):
                for lane in side(self.lanes):
                    for k in ti.static(range(self.dd)):
                        y.Z[s, k, lane] = 0.0
            for i in each(self.all_points):
                block = known(self.diagonal[i])
                mass = ti.cast(self.mass[i], float)
                for lane in side(self.lanes):
                    grain = 0.0
                    for k in ti.static(range(self.d)):
                        u = y.u[i, k, lane]
                        push = mass * part.inertia[lane] * u
                        load = mass * self.gravity[k]
                        y.r[i, k, lane] = push - load
                        y.J[block, k * (self.d + 1), lane] = mass * part.inertia[lane]
                        y.phi[lane] = y.phi[lane] + (0.5 * push - load) * u
                        y.size[lane] = y.size[lane] + (ti.abs(0.5 * push * u) + ti.abs(load * u))
                        grain += ti.abs(push) + ti.abs(load)
                    y.scale[i, lane] = grain
                for plane in ti.static(range(self.K)):
                    for lane in side(self.lanes):
                        self.touch(i, block, plane, lane, y, part, h)
            for e in each(self.inner):
                i = known(self.first[e])
                j = known(self.second[e])
                self.pull(e, y.x, y.v, y.x, y.v, i, j, y, part)
                self.add(i, 1.0, y, part)
                self.add(j, -1.0, y, part)
                self.couple(known(self.diagonal[i]), 1.0, y, part)
                self.couple(known(self.diagonal[j]), 1.0, y, part)
                self.couple(known(self.ahead[e]), -1.0, y, part)
                self.couple(known(self.behind[e]), -1.0, y, part)
            for held in each(self.held):
                e = known(held + self.inner_count)
                i = known(self.first[e])
                j = known(self.second[e])
                self.pull(e, y.x, y.v, y.p, y.w, i, j, y, part)
                self.add(i, 1.0, y, part)
                self.couple(known(self.diagonal[i]), 1.0, y, part)
                for lane in side(self.lanes):
                    for k in ti.static(range(self.dd)):
                        y.C[held, k, lane] = part.K[0, k, lane]
                        if ti.static(self.damped):
                            y.F[held, k, lane] = part.Z[0, k, lane]
            for lane in side(self.lanes):
                y.phi_now[lane] = y.phi[lane]
                if ti.static(self.dissipative):
                    y.size[lane] = y.size[lane] + (part.lost[lane] + part.lost_now[lane]) / y.rate[lane]
                    y.phi_now[lane] = y.phi[lane] + part.lost_now[lane] / y.rate[lane]
                    y.phi[lane] = y.phi[lane] + part.lost[lane] / y.rate[lane]

        @ti.func
        def touch(
            self,
            i: ti.template(),
            block: ti.template(),
            plane: ti.template(),
            lane: int,
            y: ti.template(),
            part: ti.template(),
            h: float,
        ):
            """Add a plane's contact with point i."""
            place = ti.Vector.zero(float, self.d)
            speed = ti.Vector.zero(float, self.d)
            for k in ti.static(range(self.d)):
                place[k] = y.x[i, k, lane]
                if ti.static(self.rough):
                    speed[k] = y.v[i, k, lane]
            load_before = 0.0
            if ti.static(self.rough):
                load_before = y.load[known(i * self.K + plane), lane]
            energy, push, K, Z, grain, load, old, new = self.forces.contact(plane, place, speed, h, load_before)
            if ti.static(self.rough):
                y.load_now[known(i * self.K + plane), lane] = load
            part.lost[lane] = part.lost[lane] + old
            part.lost_now[lane] = part.lost_now[lane] + new
            y.phi[lane] = y.phi[lane] + energy
            y.size[lane] = y.size[lane] + (energy + push.norm() * place.norm())
            y.scale[i, lane] = y.scale[i, lane] + grain
            for k in ti.static(range(self.d)):
                y.r[i, k, lane] = y.r[i, k, lane] + push[k]
                for n in ti.static(range(self.d)):
                    at = ti.static(k * self.d + n)
                    y.J[block, at, lane] = y.J[block, at, lane] + (K[k, n] + y.rate[lane] * Z[k, n])
                    if ti.static(self.rough):
                        y.Z[block, at, lane] = y.Z[block, at, lane] + Z[k, n]

        @ti.func
        def pull(
            self,
            # In: spring e from point i to number j of `ends`, which move at `speeds`
            e: ti.template(),
            x: ti.template(),
            v: ti.template(),
            ends: ti.template(),
            speeds: ti.template(),
            i: ti.template(),
            j: ti.template(),
            # Energy added to
            y: ti.template(),
            # Out: the rest
            part: ti.template(),
        ):
            """A spring's force on its first end and its derivatives."""
            stiffness, rest, blend, soft, damping, cable = self.constants(e)
            for lane in side(self.lanes):
                span = ti.Vector.zero(float, self.d)
                rate = ti.Vector.zero(float, self.d)
                reach = 0.0
                for k in ti.static(range(self.d)):
                    near, far = x[i, k, lane], ends[j, k, lane]
                    span[k] = near - far
                    reach += ti.abs(near) + ti.abs(far)
                    if ti.static(self.damped):
                        rate[k] = v[i, k, lane] - speeds[j, k, lane]
                energy, force, K, Z, strength, stiff = self.forces.spring(
                    stiffness, rest, blend, soft, damping, cable, span, rate
                )
                y.phi[lane] = y.phi[lane] + energy
                y.size[lane] = y.size[lane] + (energy + strength * reach)
                part.grain[lane] = strength + stiff * reach
                for k in ti.static(range(self.d)):
                    part.force[0, k, lane] = force[k]
                    for n in ti.static(range(self.d)):
                        at = ti.static(k * self.d + n)
                        part.K[0, at, lane] = K[k, n]
                        if ti.static(self.damped):
                            part.J[0, at, lane] = K[k, n] + y.rate[lane] * Z[k, n]
                            part.Z[0, at, lane] = Z[k, n]
                if ti.static(self.damped):
                    # ½ c s (rate·n)² with the direction n and share s of `lag`, and with those of now
                    n, share = self.forces.engaged(rest, blend, cable, span)
                    speed, speed_before = rate.dot(n), 0.0
                    for k in ti.static(range(self.d)):
                        speed_before += y.lag[e, k, lane] * rate[k]
                        y.lag_now[e, k, lane] = n[k]
                    y.lag_now[e, self.d, lane] = share
                    part.lost[lane] = part.lost[lane] + 0.5 * damping * y.lag[e, self.d, lane] * speed_before**2
                    part.lost_now[lane] = part.lost_now[lane] + 0.5 * damping * share * speed**2

        @ti.func
        def add(self, i: ti.template(), sign: ti.template(), y: ti.template(), part: ti.template()):
            """A spring's force to point i."""
            for lane in side(self.lanes):
                y.scale[i, lane] = y.scale[i, lane] + part.grain[lane]
                for k in ti.static(range(self.d)):
                    y.r[i, k, lane] = y.r[i, k, lane] + sign * part.force[0, k, lane]

        @ti.func
        def couple(self, block: ti.template(), sign: ti.template(), y: ti.template(), part: ti.template()):
            """A spring's derivatives to a block of J and Z."""
            for lane in side(self.lanes):
                for k in ti.static(range(self.dd)):
                    if ti.static(self.damped):
                        y.J[block, k, lane] = y.J[block, k, lane] + sign * part.J[0, k, lane]
                        y.Z[block, k, lane] = y.Z[block, k, lane] + sign * part.Z[0, k, lane]
                    else:
                        y.J[block, k, lane] = y.J[block, k, lane] + sign * part.K[0, k, lane]

    return Mechanics
