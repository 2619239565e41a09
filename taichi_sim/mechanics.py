"""Forces of one rollout at one instant: residual, Jacobian and potential of the implicit step.

One step solves G(x₁) = 0 with

    v₁ = (c₀ x₁ + c₁ x₀ + c₂ x₋₁) / h,      G = M (c₀ v₁ + c₁ v₀ + c₂ v₋₁) / h − f(x₁, v₁, p₁, w),

w the handles' velocity and f gravity, springs, their damping, contact and friction. The unknown is u = x₁ − x̃, the
displacement from the force-free position x̃, so that the inertia term is M c₀² u / h² without cancellation.
"""

import functools

import taichi as ti

from .elimination import Elimination
from .energy import bilateral, engagement, unilateral
from .friction import coulomb, dissipation
from .loops import Loops
from .system import System

# l = √(‖d‖² + η²): a spring of zero length keeps a finite force and derivative. At l = 0.1 m the length is
# off by 5e-12 m.
ETA = 1e-6

# c₀, c₁, c₂ of the backward differentiation formulas
BDF1 = (1.0, -1.0, 0.0)
BDF2 = (1.5, -2.0, 0.5)


@functools.cache
def mechanics(loops: Loops):
    each, known = loops.each, loops.known

    @ti.data_oriented
    class Mechanics:
        """The equations of motion of one `System` as Taichi functions.

        Vectors: u, x, v, r hold coordinate k of point i at i·d + k; p, w coordinate k of handle j at j·d + k.
        Blocks of d × d, entry (k, n) of block s at s·d² + k·d + n: J = ∂G/∂x₁ and Z = ∂G/∂v₁ without inertia, both
        over the pattern of the elimination (Z is left alone where nothing dissipates); C and F, a block for each
        spring that ends at a handle, of −∂G/∂p and −∂G/∂w.
        """

        def __init__(self, system: System):
            self.loops = loops
            self.P, self.d, self.H, self.m = system.points, system.dim, system.handles, system.actions
            self.D, self.dd = self.P * self.d, self.d**2
            self.K = system.planes
            self.damped = bool(system.damping.any())
            self.rough = bool(system.friction.any())
            self.dissipative = self.damped or self.rough
            self.gravity = system.gravity.tolist()
            self.mass = loops.table(system.mass)

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
            self.first = loops.table([ends[e][0] for e in order])
            self.second = loops.table([ends[e][1] - (0 if e in inner else P) for e in order])
            self.stiffness = loops.table(system.stiffness[order])
            self.length = loops.table(system.length[order])
            self.blend = loops.table(system.blend[order])
            self.damping = loops.table(system.damping[order])
            self.cable = loops.table(system.unilateral[order].astype(int).tolist())
            self.diagonal = loops.table([block[i, i] for i in range(P)])
            self.ahead = loops.table([block[ends[e]] for e in inner])
            self.behind = loops.table([block[ends[e][::-1]] for e in inner])
            self.block_rows = loops.table([i for i, _ in block])
            self.block_columns = loops.table([j for _, j in block])

            self.normal = system.normal.tolist()  # planes are few, so always unrolled
            self.offset = system.offset.tolist()
            self.contact_stiffness = system.contact_stiffness.tolist()
            self.contact_blend = system.contact_blend.tolist()
            self.friction = system.friction.tolist()
            self.tangential = system.tangential_stiffness.tolist()

            # What dissipation is measured with: n and s of each damped spring, then the load of each point and plane
            self.loads_at = len(ends) * (self.d + 1) if self.damped else 0
            self.lagged = self.loads_at + (P * self.K if self.rough else 0)
            self.lagging = loops.range(self.lagged)
            self.all_points = loops.range(P)
            self.coordinates = loops.range(self.D)
            self.handle_coordinates = loops.range(self.H * self.d)
            self.entries = loops.range(self.blocks * self.dd)
            self.coupling_entries = loops.range(self.couplings * self.dd)
            # Z's blocks that are not zero: friction's are the diagonal ones, which come first
            dissipating = self.blocks if self.damped else P if self.rough else 0
            self.dissipating = loops.range(dissipating)
            self.dissipation_entries = loops.range(dissipating * self.dd)
            self.inner = loops.range(len(inner))
            self.held = loops.range(len(held))
            self.inner_count = len(inner)

        @ti.func
        def spring(self, e: ti.template(), span: ti.template(), rate: ti.template()):
            """Energy, pull on the first end towards the second, its derivatives K (by span) and Z (by rate).

            span = x_i − x_j and rate = v_i − v_j; the force on i is −pull. K has a damping part that makes it
            unsymmetric. `stiff` bounds the entries of K, for the round-off in the pull.
            """
            length = ti.sqrt(span.dot(span) + ETA * ETA)
            n = span / length
            stretch = length - self.length[e]
            energy, tension, slope = 0.0, 0.0, 0.0
            if known(self.cable[e]):
                energy, tension, slope = unilateral(stretch, self.stiffness[e], self.blend[e])
            else:
                energy, tension, slope = bilateral(stretch, self.stiffness[e])
            across = tension / length
            pull = tension * n
            K = (slope - across) * n.outer_product(n)
            for k in ti.static(range(self.d)):
                K[k, k] += across
            stiff = slope + ti.abs(across)
            Z = ti.Matrix.zero(float, self.d, self.d)
            if ti.static(self.damped):
                share, share_slope = 1.0, 0.0
                if known(self.cable[e]):
                    share, share_slope = engagement(stretch, self.blend[e])
                c = self.damping[e]
                speed = rate.dot(n)
                turn = (rate - speed * n) / length  # ∂speed/∂span
                nn = n.outer_product(n)
                pull += c * share * speed * n
                Z = c * share * nn
                K += c * ((share_slope - share / length) * speed * nn + share * n.outer_product(turn))
                for k in ti.static(range(self.d)):
                    K[k, k] += c * share * speed / length
            return energy, pull, K, Z, stiff

        @ti.func
        def engaged(self, e: ti.template(), span: ti.template()):
            """Direction of a spring and the share of its damping that acts."""
            length = ti.sqrt(span.dot(span) + ETA * ETA)
            share = 1.0
            if known(self.cable[e]):
                share, _ = engagement(length - self.length[e], self.blend[e])
            return span / length, share

        @ti.func
        def damp(
            self,
            # In
            e: ti.template(),
            span: ti.template(),
            rate: ti.template(),
            lag: ti.template(),
            # Out
            now: ti.template(),
        ):
            """½ c s (rate·n)² with the direction n and share s of `lag`, and with those of now, which go into `now`."""
            n, share = self.engaged(e, span)
            speed, speed_before = 0.0, 0.0
            for k in ti.static(range(self.d)):
                at = known(e * (self.d + 1) + k)
                now[at] = n[k]
                speed += n[k] * rate[k]
                speed_before += lag[at] * rate[k]
            at = known(e * (self.d + 1) + self.d)
            now[at] = share
            return 0.5 * self.damping[e] * lag[at] * speed_before**2, 0.5 * self.damping[e] * share * speed**2

        @ti.func
        def contact(self, plane: ti.template(), x: ti.template(), v: ti.template(), h: float, load_before: float):
            """A plane's energy at a point, −its force, that force's derivatives K (by x) and Z (by v), round-off, the
            load, and friction's ψ under the load `load_before` and under this one.

            The normal force is a cable's tension at the elongation −gap. Friction depends on it, so K is unsymmetric.
            """
            n = ti.Vector(self.normal[plane])
            reach = ti.abs(self.offset[plane])
            depth = ti.cast(self.offset[plane], float)
            for k in ti.static(range(self.d)):
                depth -= n[k] * x[k]
                reach += ti.abs(n[k] * x[k])
            energy, load, slope = unilateral(depth, self.contact_stiffness[plane], self.contact_blend[plane])
            old, new = 0.0, 0.0
            push = -load * n
            K = slope * n.outer_product(n)
            Z = ti.Matrix.zero(float, self.d, self.d)
            grain = load + slope * reach
            if ti.static(self.friction[plane] > 0.0):
                mu, c = self.friction[plane], self.tangential[plane] * h
                slip = v - v.dot(n) * n
                force, across, along, turn = coulomb(slip, mu * load, c)
                push += force
                heading = slip / ti.max(slip.norm(), 1e-150)
                Z = across * (ti.Matrix.identity(float, self.d) - n.outer_product(n))
                Z += along * heading.outer_product(heading)
                K -= mu * slope * turn.outer_product(n)
                grain += mu * (load + slope * reach) + across * v.norm()
                old, new = dissipation(slip, mu * load_before, c), dissipation(slip, mu * load, c)
            return energy, push, K, Z, grain, load, old, new

        @ti.func
        def assemble(
            self,
            # In
            u: ti.template(),
            x: ti.template(),
            v: ti.template(),
            p: ti.template(),
            w: ti.template(),
            c0: float,
            h: float,
            lag: ti.template(),
            # Out
            now: ti.template(),
            r: ti.template(),
            scale: ti.template(),
            J: ti.template(),
            Z: ti.template(),
            C: ti.template(),
            F: ti.template(),
        ):
            """G, ∂G/∂x₁ and their kin at positions x with displacement u; returns potentials and their round-off.

            scale[i] bounds the terms whose sum is the residual of point i, so that eps·scale is its round-off.
            Φ(u) = Σ ½ m c₀²/h² ‖u‖² − m g·u + Σ E + h/c₀ Σ ψ(v₁), ψ the dissipation of dampers with the directions and
            of friction with the loads in `lag`. Where those are the ones at u itself, which go into `now`, the
            gradient of Φ is G. The second potential returned is Φ with these.
            """
            inertia = c0 * c0 / (h * h)
            phi, size, lost, lost_now = 0.0, 0.0, 0.0, 0.0
            for n in each(self.entries):
                J[n] = 0.0
                if ti.static(self.dissipative):
                    Z[n] = 0.0
            for i in each(self.all_points):
                block = known(self.diagonal[i] * self.dd)
                grain = 0.0
                for k in ti.static(range(self.d)):
                    at = known(i * self.d + k)
                    push = self.mass[i] * inertia * u[at]
                    load = self.mass[i] * self.gravity[k]
                    r[at] = push - load
                    J[block + k * (self.d + 1)] = self.mass[i] * inertia
                    phi += (0.5 * push - load) * u[at]
                    size += ti.abs(0.5 * push * u[at]) + ti.abs(load * u[at])
                    grain += ti.abs(push) + ti.abs(load)
                for plane in ti.static(range(self.K)):
                    place = ti.Vector.zero(float, self.d)
                    speed = ti.Vector.zero(float, self.d)
                    for k in ti.static(range(self.d)):
                        place[k] = x[i * self.d + k]
                        speed[k] = v[i * self.d + k]
                    load_before = 0.0
                    if ti.static(self.rough):
                        load_before = lag[self.loads_at + i * self.K + plane]
                    energy, push, K, D, rough, load, old, new = self.contact(plane, place, speed, h, load_before)
                    if ti.static(self.rough):
                        now[self.loads_at + i * self.K + plane] = load
                    lost += old
                    lost_now += new
                    phi += energy
                    size += energy + push.norm() * place.norm()
                    grain += rough
                    for k in ti.static(range(self.d)):
                        r[i * self.d + k] = r[i * self.d + k] + push[k]
                        for n in ti.static(range(self.d)):
                            at = known(block + k * self.d + n)
                            J[at] = J[at] + (K[k, n] + c0 / h * D[k, n])
                            if ti.static(self.rough):
                                Z[at] = Z[at] + D[k, n]
                scale[i] = grain
            for e in each(self.inner):
                i = known(self.first[e])
                j = known(self.second[e])
                span = ti.Vector.zero(float, self.d)
                rate = ti.Vector.zero(float, self.d)
                reach = 0.0
                for k in ti.static(range(self.d)):
                    span[k] = x[i * self.d + k] - x[j * self.d + k]
                    rate[k] = v[i * self.d + k] - v[j * self.d + k]
                    reach += ti.abs(x[i * self.d + k]) + ti.abs(x[j * self.d + k])
                energy, pull, K, D, stiff = self.spring(e, span, rate)
                if ti.static(self.damped):
                    old, new = self.damp(e, span, rate, lag, now)
                    lost += old
                    lost_now += new
                grain = pull.norm() + stiff * reach
                phi += energy
                size += energy + pull.norm() * reach
                scale[i] = scale[i] + grain
                scale[j] = scale[j] + grain
                ii = known(self.diagonal[i] * self.dd)
                jj = known(self.diagonal[j] * self.dd)
                ij = known(self.ahead[e] * self.dd)
                ji = known(self.behind[e] * self.dd)
                for k in ti.static(range(self.d)):
                    r[i * self.d + k] = r[i * self.d + k] + pull[k]
                    r[j * self.d + k] = r[j * self.d + k] - pull[k]
                    for n in ti.static(range(self.d)):
                        at = ti.static(k * self.d + n)
                        a = K[k, n] + c0 / h * D[k, n]
                        J[ii + at] = J[ii + at] + a
                        J[jj + at] = J[jj + at] + a
                        J[ij + at] = J[ij + at] - a
                        J[ji + at] = J[ji + at] - a
                        if ti.static(self.damped):
                            Z[ii + at] = Z[ii + at] + D[k, n]
                            Z[jj + at] = Z[jj + at] + D[k, n]
                            Z[ij + at] = Z[ij + at] - D[k, n]
                            Z[ji + at] = Z[ji + at] - D[k, n]
            for held in each(self.held):
                e = known(held + self.inner_count)
                i = known(self.first[e])
                j = known(self.second[e])
                span = ti.Vector.zero(float, self.d)
                rate = ti.Vector.zero(float, self.d)
                reach = 0.0
                for k in ti.static(range(self.d)):
                    span[k] = x[i * self.d + k] - p[j * self.d + k]
                    rate[k] = v[i * self.d + k] - w[j * self.d + k]
                    reach += ti.abs(x[i * self.d + k]) + ti.abs(p[j * self.d + k])
                energy, pull, K, D, stiff = self.spring(e, span, rate)
                if ti.static(self.damped):
                    old, new = self.damp(e, span, rate, lag, now)
                    lost += old
                    lost_now += new
                grain = pull.norm() + stiff * reach
                phi += energy
                size += energy + pull.norm() * reach
                scale[i] = scale[i] + grain
                ii = known(self.diagonal[i] * self.dd)
                for k in ti.static(range(self.d)):
                    r[i * self.d + k] = r[i * self.d + k] + pull[k]
                    for n in ti.static(range(self.d)):
                        at = ti.static(k * self.d + n)
                        J[ii + at] = J[ii + at] + (K[k, n] + c0 / h * D[k, n])
                        C[held * self.dd + at] = K[k, n]
                        if ti.static(self.damped):
                            Z[ii + at] = Z[ii + at] + D[k, n]
                            F[held * self.dd + at] = D[k, n]
            size += h / c0 * (lost + lost_now)
            return phi + h / c0 * lost, phi + h / c0 * lost_now, size

    return Mechanics
