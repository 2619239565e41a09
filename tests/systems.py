"""Small systems for the tests and random states of them."""

import dataclasses

import numpy as np
import torch

from taichi_sim import Builder, State, runtime
from taichi_sim.loops import LOOPED

LAST = dataclasses.replace(LOOPED, name="looped, rollouts last", last=True)  # memory as on a GPU


def oscillator():
    """One point on a spring of rest length 0: exactly linear, ω = 5 rad/s, no gravity."""
    b = Builder("oscillator", dim=2, gravity=0.0)
    b.spring(b.handle((0.0, 0.0), axes="xy"), b.point((0.3, -0.2), mass=0.2), stiffness=5.0, length=0.0)
    return b.build()


def damped_oscillator():
    """The oscillator with a dashpot along the spring."""
    b = Builder("damped oscillator", dim=2, gravity=0.0)
    hand, load = b.handle((0.0, 0.0), axes="xy"), b.point((0.3, -0.2), mass=0.2)
    b.spring(hand, load, stiffness=5.0, length=0.0, damping=0.3)
    return b.build()


def net():
    """Three points and two handles, every spring of rest length 0, with gravity: affine, and coupled."""
    b = Builder("net", dim=2)
    left, right = b.handle((-0.2, 0.0), axes="xy"), b.handle((0.2, 0.0), axes="x")
    one, two, three = b.point((-0.1, -0.2), mass=0.1), b.point((0.1, -0.3), mass=0.2), b.point((0.0, -0.4), mass=0.15)
    for i, j, stiffness in (
        (left, one, 30.0),
        (right, two, 20.0),
        (one, two, 10.0),
        (two, three, 15.0),
        (three, one, 5.0),
    ):
        b.spring(i, j, stiffness=stiffness, length=0.0)
    return b.build()


def spring_pendulum():
    """A load on a soft bilateral spring: nonlinear, and no mode is faster than 20 rad/s."""
    b = Builder("spring pendulum", dim=2)
    b.spring(b.handle((0.0, 0.0), axes="x"), b.point((0.0, -0.5), mass=0.05), stiffness=20.0)
    return b.build()


def damped_pendulum():
    """The spring pendulum with a dashpot along the spring."""
    b = Builder("damped pendulum", dim=2)
    b.spring(b.handle((0.0, 0.0), axes="x"), b.point((0.0, -0.5), mass=0.05), stiffness=20.0, damping=0.2)
    return b.build()


def shared_axes():
    """The spring pendulum whose handle three actions move: x, y and both at once."""
    axes = np.array([[1.0, 0.0, 0.5], [0.0, 2.0, -0.5]])
    return dataclasses.replace(spring_pendulum(), name="shared axes", axes=axes)


def pendulum():
    """A load of 50 g on a stiff cable."""
    b = Builder("pendulum", dim=2)
    b.cable(b.handle((0.0, 0.0), axes="x"), b.point((0.0, -0.5), mass=0.05), stiffness=1000.0)
    return b.build()


def double():
    """Two loads in 3D: a stiff cable, then a stiff damped spring between the loads."""
    b = Builder("double", dim=3)
    hand, upper, lower = (
        b.handle((0, 0, 0), axes="xy"),
        b.point((0, 0, -0.3), mass=0.05),
        b.point((0, 0, -0.6), mass=0.05),
    )
    b.cable(hand, upper, stiffness=1000.0)
    b.spring(upper, lower, stiffness=1000.0, damping=0.2)
    return b.build()


def rope():
    """Five points on elastic cables."""
    b = Builder("rope", dim=2)
    hand = b.handle((0.0, 0.0), axes="xy")
    b.chain([hand] + [b.point((0.0, -0.1 * (i + 1)), mass=0.05) for i in range(5)], stiffness=1000.0)
    return b.build()


def graph():
    """A ring of four points, hung from two handles, and a branch on a damped cable: fills in when eliminated."""
    b = Builder("graph", dim=2)
    left, right = b.handle((-0.2, 0.0), axes="x"), b.handle((0.2, 0.0), axes="xy")
    ring = [b.point(at, mass=0.05) for at in ((-0.2, -0.3), (0.0, -0.4), (0.2, -0.3), (0.0, -0.2))]
    tail = b.point((0.0, -0.7), mass=0.1)
    for i, j in zip(ring, ring[1:] + ring[:1], strict=True):
        b.spring(i, j, stiffness=300.0, damping=0.1)
    b.cable(left, ring[0], stiffness=500.0)
    b.cable(right, ring[2], stiffness=500.0, damping=0.1)
    b.cable(ring[1], tail, stiffness=500.0, damping=0.1, blend=5e-4)
    return b.build()


def free_point():
    """A point that nothing holds: a system without handles, springs and actions."""
    b = Builder("free point", dim=2)
    b.point((0.0, 0.0), mass=0.3)
    return b.build()


def free_pair():
    """Two points joined by a damped spring and held by nothing."""
    b = Builder("free pair", dim=2)
    b.spring(b.point((0.0, 0.0), mass=0.3), b.point((0.2, 0.1), mass=0.1), stiffness=50.0, damping=0.1)
    return b.build()


SYSTEMS = {
    f.__name__: f
    for f in (
        oscillator,
        damped_oscillator,
        net,
        spring_pendulum,
        damped_pendulum,
        shared_axes,
        pendulum,
        double,
        rope,
        graph,
        free_point,
        free_pair,
    )
}
HANDLED = ("oscillator", "pendulum", "double", "rope", "graph")


def random(*shape, seed, scale=1.0):
    """Normal numbers in the simulator's precision, the same ones in every process."""
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(runtime.dtype())


def start(simulator, B, seed=0, first=True) -> State:
    """Random starts as they come: points off by 1 cm, moving at 0.5 m/s, handles off by 1 cm.

    With `first` False they have a history that fits no rollout: earlier positions and velocities are random too.
    """
    P, H, d = simulator.system.points, simulator.system.handles, simulator.system.dim
    state = simulator.start(B)
    x, v = state.x + random(B, P, d, seed=seed, scale=0.01), random(B, P, d, seed=seed + 1, scale=0.5)
    p = state.p + random(B, H, d, seed=seed + 2, scale=0.01)
    if first:
        return State.start(x, v, p)
    x_prev = x - simulator.h * v + random(B, P, d, seed=seed + 3, scale=1e-3)
    v_prev = v + random(B, P, d, seed=seed + 4, scale=0.05)
    return State(x, v, p, x_prev, v_prev, torch.zeros(B, dtype=torch.bool))


def actions(simulator, B, N, seed=0):
    """Random handle velocities of 0.3 m/s."""
    return random(B, N, simulator.system.actions, seed=seed + 10, scale=0.3)
