"""Spring energies: value, first and second derivative with respect to the elongation δ = l − L, side by side.

Bilateral:  E = ½ k δ².
Unilateral (a cable), twice continuously differentiable between slack and taut:
    E = 0                        δ ≤ −ε
    E = k (δ + ε)³ / 12 ε        |δ| < ε
    E = ½ k δ² + k ε² / 6        δ ≥ ε
"""

import taichi as ti


@ti.func
def bilateral(delta, stiffness):
    """E, E′, E″ of a spring that pulls and pushes."""
    return 0.5 * stiffness * delta * delta, stiffness * delta, stiffness


@ti.func
def unilateral(delta, stiffness, blend):
    """E, E′, E″ of a cable; exactly zero for δ ≤ −ε."""
    energy, tension, slope = 0.0, 0.0, 0.0
    if delta >= blend:
        energy = 0.5 * stiffness * delta * delta + stiffness * blend * blend / 6.0
        tension = stiffness * delta
        slope = stiffness
    elif delta > -blend:
        s = delta + blend
        energy = stiffness * s * s * s / (12.0 * blend)
        tension = stiffness * s * s / (4.0 * blend)
        slope = stiffness * s / (2.0 * blend)
    return energy, tension, slope


@ti.func
def engagement(delta, blend):
    """s, s′ of the share of a cable's damping that acts: 0 slack, 1 taut, a cubic between (C¹)."""
    share, slope = 0.0, 0.0
    if delta >= blend:
        share = 1.0
    elif delta > -blend:
        z = (delta + blend) / (2.0 * blend)
        share = z * z * (3.0 - 2.0 * z)
        slope = 6.0 * z * (1.0 - z) / (2.0 * blend)
    return share, slope
