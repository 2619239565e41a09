"""Forces of one rollout at one instant: residual, Jacobian and potential of the implicit step.

One step solves G(x₁) = 0 with

    v₁ = (c₀ x₁ + c₁ x₀ + c₂ x₋₁) / h,      G = M (c₀ v₁ + c₁ v₀ + c₂ v₋₁) / h − f(x₁, v₁, p₁, w),

w the handles' velocity and f gravity, springs and their damping. The unknown is u = x₁ − x̃, the displacement
from the force-free position x̃, so that the inertia term is M c₀² u / h² without cancellation.

Index tables are compile-time constants, so every loop over points and springs unrolls and one rollout lives
in registers.
"""

import taichi as ti

from .elimination import Elimination
from .energy import bilateral, engagement, unilateral
from .system import System

# l = √(‖d‖² + η²): a spring of zero length keeps a finite force and derivative. At l = 0.1 m the length is
# off by 5e-12 m.
ETA = 1e-6

# c₀, c₁, c₂ of the backward differentiation formulas
BDF1 = (1.0, -1.0, 0.0)
BDF2 = (1.5, -2.0, 0.5)


@ti.data_oriented
class Mechanics:
    """The equations of motion of one `System` as Taichi functions over local variables.

    Local matrices are laid out as: u, x, v, r (P, d) per point; p, w (H, d) per handle; J (blocks·d, d) with
    block (i, j) at rows [block·d, block·d + d); C, F (couplings·d, d) the blocks of −∂G/∂p and −∂G/∂w for each
    spring that ends at a handle; Z like J, ∂G/∂v₁ without inertia (zero where nothing is damped).
    """

    def __init__(self, system: System):
        self.P, self.d, self.H, self.m = system.points, system.dim, system.handles, system.actions
        self.nH = max(self.H, 1)  # Taichi has no matrix without rows
        self.mass = system.mass.tolist()
        self.gravity = system.gravity.tolist()
        self.stiffness = system.stiffness.tolist()
        self.length = system.length.tolist()
        self.blend = system.blend.tolist()
        self.damping = system.damping.tolist()
        self.cable = system.unilateral.tolist()
        self.damped = bool(system.damping.any())
        self.axes = system.axes.tolist()
        self.drives = [(row, col) for row, line in enumerate(self.axes) for col, e in enumerate(line) if e != 0.0]

        # Each spring as (point, other node, whether that is a handle): a handle always comes second.
        P = self.P
        self.ends = [(i, j) if i < P else (j, i) for i, j in system.ends.tolist()]
        self.to_handle = [j >= P for _, j in self.ends]
        handle_springs = [e for e, held in enumerate(self.to_handle) if held]
        self.coupling = {e: n for n, e in enumerate(handle_springs)}
        self.couplings = [(e, self.ends[e][0], self.ends[e][1] - P) for e in handle_springs]
        self.nC = max(len(handle_springs), 1)

        self.elimination = Elimination.of(
            P, [ij for ij, held in zip(self.ends, self.to_handle, strict=True) if not held]
        )
        self.blocks = len(self.elimination.block)
        self.placed = [(n, i, j) for (i, j), n in self.elimination.block.items()]

    def placement(self, e):
        """Where a spring's stiffness goes: (block, sign) pairs."""
        i, j = self.ends[e]
        block = self.elimination.block
        if self.to_handle[e]:
            return ((block[i, i], 1.0),)
        return ((block[i, i], 1.0), (block[j, j], 1.0), (block[i, j], -1.0), (block[j, i], -1.0))

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
        if ti.static(self.cable[e]):
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
        if ti.static(self.damping[e] > 0.0):
            share, share_slope = 1.0, 0.0
            if ti.static(self.cable[e]):
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
        # Out
        r: ti.template(),
        scale: ti.template(),
        J: ti.template(),
        Z: ti.template(),
        C: ti.template(),
        F: ti.template(),
    ):
        """G, ∂G/∂x₁ and their kin at positions x with displacement u; returns potential and its round-off.

        scale[i] bounds the terms whose sum is the residual of point i, so that eps·scale is its round-off.
        Φ(u) = Σ ½ m c₀²/h² ‖u‖² − m g·u + Σ E has gradient G when nothing is damped.
        """
        inertia = c0 * c0 / (h * h)
        phi, size = 0.0, 0.0
        for n in ti.static(range(self.blocks * self.d)):
            for k in ti.static(range(self.d)):
                J[n, k] = 0.0
                if ti.static(self.damped):
                    Z[n, k] = 0.0
        for i in ti.static(range(self.P)):
            block = ti.static(self.elimination.block[i, i] * self.d)
            scale[i] = 0.0
            for k in ti.static(range(self.d)):
                push = self.mass[i] * inertia * u[i, k]
                load = self.mass[i] * self.gravity[k]
                r[i, k] = push - load
                J[block + k, k] = self.mass[i] * inertia
                phi += (0.5 * push - load) * u[i, k]
                size += ti.abs(0.5 * push * u[i, k]) + ti.abs(load * u[i, k])
                scale[i] += ti.abs(push) + ti.abs(load)
        for e in ti.static(range(len(self.ends))):
            i, j = ti.static(self.ends[e])
            span = ti.Vector.zero(float, self.d)
            rate = ti.Vector.zero(float, self.d)
            reach = 0.0
            for k in ti.static(range(self.d)):
                if ti.static(self.to_handle[e]):
                    span[k] = x[i, k] - p[j - self.P, k]
                    rate[k] = v[i, k] - w[j - self.P, k]
                    reach += ti.abs(x[i, k]) + ti.abs(p[j - self.P, k])
                else:
                    span[k] = x[i, k] - x[j, k]
                    rate[k] = v[i, k] - v[j, k]
                    reach += ti.abs(x[i, k]) + ti.abs(x[j, k])
            energy, pull, K, D, stiff = self.spring(e, span, rate)
            grain = pull.norm() + stiff * reach
            phi += energy
            size += energy + pull.norm() * reach
            scale[i] += grain
            if ti.static(not self.to_handle[e]):
                scale[j] += grain
            for k in ti.static(range(self.d)):
                r[i, k] += pull[k]
                if ti.static(not self.to_handle[e]):
                    r[j, k] -= pull[k]
                for n in ti.static(range(self.d)):
                    a = K[k, n] + c0 / h * D[k, n]
                    for row, sign in ti.static(self.placement(e)):
                        J[row * self.d + k, n] += sign * a
                        if ti.static(self.damped):
                            Z[row * self.d + k, n] += sign * D[k, n]
                    if ti.static(self.to_handle[e]):
                        C[self.coupling[e] * self.d + k, n] = K[k, n]
                        F[self.coupling[e] * self.d + k, n] = D[k, n]
        return phi, size
