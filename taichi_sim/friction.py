"""Coulomb friction as a smooth function of the slip velocity and the load, after Geilinger et al. 2020 (ADD).

With v_t the velocity along the plane, s = ‖v_t‖, F = μ f_n and c = k_t h, friction pushes with

    f = F tanh(c s / F) v_t / s        against the slip,

so it is never above F, is c v_t for a slow slip, and has the derivatives of a smooth function wherever F > 0 or
s > 0. A point at rest on an incline of angle θ therefore creeps, at s = (F/c) atanh(tan θ / μ).
"""

import taichi as ti

SERIES = 0.03  # below this z = c s / F, where the closed forms cancel, a series is exact to 1e-13
SATURATED = 40.0  # above it tanh z is 1


@ti.func
def coulomb(slip, limit, c):
    """f, a, b and D of  ∂f/∂v_t = a I + b v̂ v̂ᵀ  and  ∂f/∂F = D, at v_t = `slip` and F = `limit`."""
    force, turn = 0.0 * slip, 0.0 * slip
    across, along = 0.0, 0.0
    if limit > 0.0:
        s = slip.norm()
        z = c * s / limit
        if z < SERIES:
            y = z * z
            across = c * (1.0 - y / 3.0 + 2.0 / 15.0 * y * y - 17.0 / 315.0 * y * y * y)
            along = c * y * (-2.0 / 3.0 + 8.0 / 15.0 * y - 34.0 / 105.0 * y * y)
            force = across * slip
            turn = -along / limit * slip  # z·v̂ = c·slip/F
        else:
            t, sech2 = 1.0, 0.0
            if z < SATURATED:
                t = ti.tanh(z)
                sech2 = 1.0 - t * t
            across = limit * t / s
            along = c * sech2 - across
            force = across * slip
            turn = t / s * slip
            if z < SATURATED:
                turn = (t - z * sech2) / s * slip
    return force, across, along, turn


@ti.func
def dissipation(slip, limit, c):
    """ψ(v_t) with ∂ψ/∂v_t = f at a fixed F:  (F²/c) ln cosh(c s / F)."""
    psi = 0.0
    if limit > 0.0:
        z = c * slip.norm() / limit
        psi = limit * limit / c * (z + ti.log(0.5 + 0.5 * ti.exp(-2.0 * z)))
    return psi
