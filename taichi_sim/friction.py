"""Coulomb friction as a smooth function of the slip velocity and the load, after Geilinger et al. 2020 (ADD).

With v_t the velocity along the plane, s = ‖v_t‖, F = μ f_n and c = k_t h, friction pushes with

    f = F tanh(c s / F) v_t / s        against the slip,

so it is never above F, is c v_t for a slow slip, and has the derivatives of a smooth function wherever F > 0 or
s > 0. A point at rest on an incline of angle θ therefore creeps, at s = (F/c) atanh(tan θ / μ).

No branches and no calls of a mathematical library, for SIMD: with e = exp(−2z), tanh z = (1 − e)/(1 + e).
"""

import math

import taichi as ti
from taichi.lang import impl

SERIES = 0.03  # below this z = c s / F, where the closed forms cancel, a series is exact to 1e-13
SATURATED = 40.0  # above it tanh z is 1
LEAST = 1e-150  # m/s, a slip of zero for divisions

_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # the first has 32 bits
_EXP = [1.0 / math.factorial(n) for n in range(13, -1, -1)]
_ATANH = [1.0 / (2 * n + 1) for n in range(17, -1, -1)]


@ti.func
def exponential(x):
    """eˣ for −87 ≤ x ≤ 0, to an ulp or two: 2ⁿ e^f with |f| ≤ ½ ln 2, Taylor to f¹³."""
    wide = ti.static(impl.get_runtime().default_fp == ti.f64)
    bits, bias, integer = ti.static((52, 1023, ti.i64) if wide else (23, 127, ti.i32))
    shift = ti.cast(1.5 * 2.0**bits, float)  # added to a number it leaves the nearest integer in the low bits
    n = x * 1.4426950408889634 + shift
    power = ti.bit_cast((ti.bit_cast(n, integer) + bias) << bits, float)
    n -= shift
    f = x - n * _LN2_HIGH - n * _LN2_LOW
    y = 0.0 * x
    for c in ti.static(_EXP):
        y = y * f + c
    return y * power


@ti.func
def half_log(e):
    """ln(½ + ½e) for 0 ≤ e ≤ 1, from 2 atanh r = ln((1 + r)/(1 − r))."""
    r = (e - 1.0) / (e + 3.0)
    square = r * r
    y = 0.0 * e
    for c in ti.static(_ATANH):
        y = y * square + c
    return 2.0 * r * y


@ti.func
def coulomb(slip, limit, c):
    """f, a, b and D of  ∂f/∂v_t = a I + b v̂ v̂ᵀ  and  ∂f/∂F = D, at v_t = `slip` and F = `limit`, and ψ."""
    F = ti.select(limit > 0.0, limit, 1.0)
    s = slip.norm()
    z = c * s / F
    e = exponential(-2.0 * ti.min(z, SATURATED))
    t = (1.0 - e) / (1.0 + e)
    sech2 = 4.0 * e / ((1.0 + e) * (1.0 + e))
    slow = z < SERIES
    y = z * z
    inverse = 1.0 / ti.max(s, LEAST)
    near = c * (1.0 - y / 3.0 + 2.0 / 15.0 * y * y - 17.0 / 315.0 * y * y * y)
    across = ti.select(slow, near, F * t * inverse)
    near = c * y * (-2.0 / 3.0 + 8.0 / 15.0 * y - 34.0 / 105.0 * y * y)
    along = ti.select(slow, near, c * sech2 - across)
    turn = ti.select(slow, -along / F, (t - z * sech2) * inverse)  # z·v̂ = c·slip/F
    pushes = ti.select(limit > 0.0, 1.0, 0.0)
    psi = pushes * (F * F / c * (z + half_log(e)))
    across *= pushes
    return across * slip, across, pushes * along, pushes * turn * slip, psi


@ti.func
def dissipation(slip, limit, c):
    """ψ(v_t) with ∂ψ/∂v_t = f at a fixed F:  (F²/c) ln cosh(c s / F)."""
    F = ti.select(limit > 0.0, limit, 1.0)
    z = c * slip.norm() / F
    psi = F * F / c * (z + half_log(exponential(-2.0 * ti.min(z, SATURATED))))
    return ti.select(limit > 0.0, psi, 0.0)
