"""The kernels of a semi-implicit time step in Warp, float32, one thread a point.

    v ← v + dt (f(x, v, p)/m + g),      x ← x + dt v

with the forces of `taichi_sim`: springs and cables gathered from a table of each point's neighbours, so that there
are no atomics, and planes with friction. Every row is written once, as tapes want it.
"""

from __future__ import annotations

import functools

import numpy as np
import warp as wp

from taichi_sim import System
from taichi_sim.forces import ETA


class Tables:
    """The springs of every point, one after the other: point i has those from starts[i] to starts[i+1]."""

    def __init__(self, system: System):
        starts, other, number = [0], [], []
        for i in range(system.points):
            for e, ends in enumerate(system.ends.tolist()):
                if i in ends:
                    other.append(ends[0] + ends[1] - i)
                    number.append(e)
            starts.append(len(other))
        floats = np.stack((system.stiffness, system.length, system.unilateral * system.blend), 1)[number]
        self.starts = wp.array(np.array(starts, dtype=np.int32))
        self.other = wp.array(np.array(other, dtype=np.int32))
        self.springs = wp.array(floats.astype(np.float32), dtype=wp.vec3)
        self.mass = wp.array(system.mass.astype(np.float32))


@wp.func
def tension(stretch: float, k: float, blend: float):
    """E′ of a spring, or of a cable if it has a blend."""
    pull = k * stretch
    if blend > 0.0 and stretch < blend:
        pull = 0.0
        if stretch > -blend:
            pull = k * (stretch + blend) * (stretch + blend) / (4.0 * blend)
    return pull


@wp.kernel
def move(h: float, p: wp.array(dtype=wp.vec3), w: wp.array(dtype=wp.vec3), out: wp.array(dtype=wp.vec3)):
    i = wp.tid()
    out[i] = p[i] + h * w[i]


@wp.kernel
def add_distance(x: wp.array2d(dtype=wp.vec3), goal: wp.array(dtype=wp.vec3), loss: wp.array(dtype=float)):
    """A partial sum for each rollout: a float32 sum over everything would lose too much."""
    b = wp.tid()
    for i in range(goal.shape[0]):
        away = x[b, i] - goal[i]
        wp.atomic_add(loss, b, wp.dot(away, away))


@functools.cache
def substep(P: int, planes: tuple):
    """Compiled for P points and `planes`, each (normal, offset, stiffness, blend, μ, k_t h) as numbers."""
    floor = planes[0] if planes else ((0.0, 0.0, 1.0), 0.0, 0.0, 1.0, 0.0, 0.0)
    normal = wp.vec3(*floor[0])
    offset, stiffness, blend, friction, tangential = (wp.float32(y) for y in floor[1:])
    touches = len(planes)
    assert touches <= 1
    eta = ETA * ETA

    @wp.kernel(module="unique")
    def kernel(
        dt: float,
        kick: float,
        since: float,
        gravity: wp.vec3,
        starts: wp.array(dtype=int),
        other: wp.array(dtype=int),
        springs: wp.array(dtype=wp.vec3),
        mass: wp.array(dtype=float),
        p: wp.array2d(dtype=wp.vec3),
        w: wp.array2d(dtype=wp.vec3),
        x: wp.array2d(dtype=wp.vec3),
        v: wp.array2d(dtype=wp.vec3),
        x_out: wp.array2d(dtype=wp.vec3),
        v_out: wp.array2d(dtype=wp.vec3),
    ):
        """`since` s after the row, with velocities taken on by `kick` and positions by dt."""
        b, i = wp.tid()
        here = x[b, i]
        speed = v[b, i]
        f = wp.vec3(0.0, 0.0, 0.0)
        for n in range(starts[i], starts[i + 1]):
            j = other[n]
            there = wp.vec3(0.0, 0.0, 0.0)
            if j < wp.static(P):
                there = x[b, j]
            else:
                there = p[b, j - wp.static(P)] + since * w[b, j - wp.static(P)]
            span = here - there
            spring = springs[n]
            length = wp.sqrt(wp.dot(span, span) + wp.static(eta))
            f = f - tension(length - spring[1], spring[0], spring[2]) / length * span
        if wp.static(touches > 0):
            depth = wp.static(offset) - wp.dot(wp.static(normal), here)
            load = tension(depth, wp.static(stiffness), wp.static(blend))
            if load > 0.0:
                slip = speed - wp.dot(speed, wp.static(normal)) * wp.static(normal)
                limit = wp.static(friction) * load
                s = wp.sqrt(wp.dot(slip, slip) + 1.0e-20)
                f = f + load * wp.static(normal) - limit * wp.tanh(wp.static(tangential) * s / limit) / s * slip
        after = speed + kick * (f / mass[i] + gravity)
        v_out[b, i] = after
        x_out[b, i] = here + dt * after

    return kernel
