"""Spring energies: value, first and second derivative with respect to the elongation δ = l − L, side by side.

Bilateral:  E = ½ k δ².
Unilateral (a cable), twice continuously differentiable between slack and taut:
    E = 0                        δ ≤ −ε
    E = k (δ + ε)³ / 12 ε        |δ| < ε
    E = ½ k δ² + k ε² / 6        δ ≥ ε
"""

import taichi as ti


@ti.func
def larger(a, b):
    """The larger number, a where b is NaN: one SIMD instruction, where ti.max takes three to pass over NaN in both."""
    return ti.select(b > a, b, a)


@ti.func
def bilateral(delta, stiffness):
    """E, E′, E″ of a spring that pulls and pushes."""
    return 0.5 * stiffness * delta * delta, stiffness * delta, stiffness


def softness(stiffness, blend):
    """k/4ε, of a cable's force between slack and taut."""
    return stiffness / (4.0 * blend)


@ti.func
def unilateral(delta, stiffness, blend, soft):
    """E, E′, E″ of a cable with `soft` = k/4ε; exactly zero for δ ≤ −ε. No branches and no divisions, for SIMD."""
    s = larger(0.0, delta + blend)
    taut = delta >= blend
    above = 0.5 * stiffness * delta * delta + (1.0 / 6.0) * stiffness * blend * blend
    energy = ti.select(taut, above, (1.0 / 3.0) * soft * s * s * s)
    tension = ti.select(taut, stiffness * delta, soft * s * s)
    slope = ti.select(taut, stiffness, 2.0 * soft * s)
    return energy, tension, slope


@ti.func
def engagement(delta, blend):
    """s, s′ of the share of a cable's damping that acts: 0 slack, 1 taut, a cubic between (C¹)."""
    scale = 0.5 / blend
    z = ti.min(ti.max(scale * (delta + blend), 0.0), 1.0)
    return z * z * (3.0 - 2.0 * z), 6.0 * scale * z * (1.0 - z)
