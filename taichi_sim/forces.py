"""Forces of one spring and of one plane on one point, with their derivatives, energies and round-off."""

import taichi as ti

from .energy import bilateral, engagement, softness, unilateral
from .friction import LEAST, coulomb, dissipation
from .system import System

# l = √(‖d‖² + η²): a spring of zero length keeps a finite force and derivative. At l = 0.1 m the length is
# off by 5e-12 m.
ETA = 1e-6


@ti.data_oriented
class Forces:
    """Taichi functions of a `System`'s springs and planes."""

    def __init__(self, system: System):
        self.d, self.damped = system.dim, bool(system.damping.any())
        self.normal = system.normal.tolist()  # planes are few, so always unrolled
        self.offset = system.offset.tolist()
        self.contact_stiffness = system.contact_stiffness.tolist()
        self.contact_blend = system.contact_blend.tolist()
        self.contact_soft = softness(system.contact_stiffness, system.contact_blend).tolist()
        self.friction = system.friction.tolist()
        self.tangential = system.tangential_stiffness.tolist()

    @ti.func
    def spring(
        self,
        stiffness: float,
        rest: float,
        blend: float,
        soft: float,
        damping: float,
        cable: int,
        span: ti.template(),
        rate: ti.template(),
    ):
        """Energy, pull on the first end towards the second, its derivatives K (by span) and Z (by rate), and sizes.

        span = x_i − x_j and rate = v_i − v_j; the force on i is −pull. K has a damping part that makes it
        unsymmetric. `strength` is the pull's size; `stiff` bounds the entries of K, for the round-off in the pull.
        """
        length = ti.sqrt(span.dot(span) + ETA * ETA)
        inverse = 1.0 / length
        n = inverse * span
        stretch = length - rest
        energy, tension, slope = 0.0, 0.0, 0.0
        if cable != 0:
            energy, tension, slope = unilateral(stretch, stiffness, blend, soft)
        else:
            energy, tension, slope = bilateral(stretch, stiffness)
        across = inverse * tension
        pull = tension * n
        strength = ti.abs(tension)
        K = (slope - across) * n.outer_product(n)
        for k in ti.static(range(self.d)):
            K[k, k] += across
        stiff = slope + ti.abs(across)
        Z = ti.Matrix.zero(float, self.d, self.d)
        if ti.static(self.damped):
            share, share_slope = 1.0, 0.0
            if cable != 0:
                share, share_slope = engagement(stretch, blend)
            c = damping
            speed = rate.dot(n)
            turn = inverse * (rate - speed * n)  # ∂speed/∂span
            nn = n.outer_product(n)
            pull += c * share * speed * n
            strength = ti.abs(tension + c * share * speed)
            Z = c * share * nn
            K += c * ((share_slope - share * inverse) * speed * nn + share * n.outer_product(turn))
            for k in ti.static(range(self.d)):
                K[k, k] += c * share * speed * inverse
        return energy, pull, K, Z, strength, stiff

    @ti.func
    def engaged(self, rest: float, blend: float, cable: int, span: ti.template()):
        """Direction of a spring and the share of its damping that acts."""
        length = ti.sqrt(span.dot(span) + ETA * ETA)
        share = 1.0
        if cable != 0:
            share, _ = engagement(length - rest, blend)
        return (1.0 / length) * span, share

    @ti.func
    def contact(self, plane: ti.template(), x: ti.template()):
        """A plane's energy at a point, −its force, that force's derivative, load and its slope, and the size of the
        terms in the depth. The normal force is a cable's tension at the elongation −gap."""
        n = ti.Vector(self.normal[plane])
        reach = ti.abs(self.offset[plane])
        depth = ti.cast(self.offset[plane], float)
        for k in ti.static(range(self.d)):
            depth -= n[k] * x[k]
            reach += ti.abs(n[k] * x[k])
        energy, load, slope = unilateral(
            depth, self.contact_stiffness[plane], self.contact_blend[plane], self.contact_soft[plane]
        )
        return energy, -load * n, slope * n.outer_product(n), load, slope, reach

    @ti.func
    def rub(self, plane: ti.template(), v: ti.template(), h: float, load: float, slope: float, reach: float):
        """Friction, its derivatives K (by x) and Z (by v), round-off, the slip velocity, and ψ.

        Friction depends on the load, so K is unsymmetric.
        """
        n = ti.Vector(self.normal[plane])
        mu = self.friction[plane]
        slip = v - v.dot(n) * n
        force, across, along, turn, psi = coulomb(slip, mu * load, self.tangential[plane] * h)
        heading = slip / ti.max(slip.norm(), LEAST)
        Z = across * (ti.Matrix.identity(float, self.d) - n.outer_product(n))
        Z += along * heading.outer_product(heading)
        K = -mu * slope * turn.outer_product(n)
        grain = mu * (load + slope * reach) + across * v.norm()
        return force, K, Z, grain, slip, psi

    @ti.func
    def dissipated(self, plane: ti.template(), slip: ti.template(), h: float, load: float):
        """ψ under another load."""
        return dissipation(slip, self.friction[plane] * load, self.tangential[plane] * h)
