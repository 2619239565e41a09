"""Where systems rest, against SciPy on a potential energy written here, and what internal forces conserve."""

import dataclasses
import functools

import numpy as np
import pytest
import scipy.optimize
import systems
import torch
from test_contact import cloth

import tasks
from taichi_sim import Builder, Simulator, equilibrium
from taichi_sim.builder import GRAVITY
from taichi_sim.mechanics import BDF1, BDF2

pytestmark = pytest.mark.usefixtures("simulator")  # it starts Taichi


def smooth(delta, k, blend):
    """Energy and force of a cable stretched by δ, or of a plane pressed by δ, as in `energy`; real or complex."""
    curved, taut = np.abs(delta.real) < blend, delta.real >= blend
    blend = np.where(blend > 0, blend, 1.0)
    energy = np.where(curved, k * (delta + blend) ** 3 / (12 * blend), 0.5 * k * delta**2 + k * blend**2 / 6)
    force = np.where(curved, k * (delta + blend) ** 2 / (4 * blend), k * delta)
    return np.where(curved | taut, energy, 0.0), np.where(curved | taut, force, 0.0)


def potential(system, x):
    """Energy of gravity, springs and planes with the points at x (P, d), the handles at home; its gradient (P, d)."""
    s = system
    nodes = np.concatenate((x, s.home))
    i, j = s.ends.T
    span = nodes[i] - nodes[j]
    length = np.sqrt((span**2).sum(1) + 1e-12)
    delta = length - s.length
    energy, tension = smooth(delta, s.stiffness, s.blend)
    energy, tension = np.where(s.unilateral, energy, 0.5 * s.stiffness * delta**2), np.where(s.unilateral, tension, s.stiffness * delta)
    pull = (tension / length)[:, None] * span
    gradient = np.zeros_like(nodes)
    np.add.at(gradient, i, pull)
    np.add.at(gradient, j, -pull)
    gradient = gradient[: s.points] - s.mass[:, None] * s.gravity
    energy = energy.sum() - (s.mass[:, None] * s.gravity * x).sum()
    for n, offset, k, blend in zip(s.normal, s.offset, s.contact_stiffness, s.contact_blend, strict=True):
        pressed, load = smooth(offset - x @ n, k, blend)
        energy += pressed.sum()
        gradient -= load[:, None] * n
    return energy, gradient


def rest(system, guess):
    """x (P, d) of least energy near `guess`, by SciPy."""
    shape = system.rest.shape

    def energy(x):
        return potential(system, x.reshape(shape))[0]

    def gradient(x):
        return potential(system, x.reshape(shape))[1].ravel()

    def hessian(x):
        return np.stack([gradient(x + 1e-30j * e).imag / 1e-30 for e in np.eye(x.size)])

    least = scipy.optimize.minimize(energy, guess.ravel(), jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-9, "maxiter": 2000})
    root = scipy.optimize.root(gradient, least.x, jac=hessian, tol=1e-14)
    print(least.message, least.nit, root.message, np.abs(root.fun).max(), np.abs(root.x-least.x).max(), np.linalg.eigvalsh(hessian(root.x))[:4])
    return root.x.reshape(shape)


@functools.cache
def free_cloth(g):
    b = Builder("free cloth", 3, gravity=g)
    if g:
        b.grid((0.0, 0.0, 0.0), (0.1, 0.0, 0.0), (0.0, 0.1, 0.0), 4, 3, 0.1, 100.0, 30.0, 1.0)
    else:
        b.grid((0.0, 0.0, 0.0), (0.1, 0.0, 0.0), (0.0, 0.1, 0.0), 2, 2, 0.1, 100.0, 30.0, 1.0)
    return Simulator(b.build(), 0.016)


@pytest.mark.parametrize("g", (GRAVITY, 0.0))
def test_free_cloth(g):
    sim = free_cloth(g)
    s, h, N = sim.system, sim.h, 40
    x, v = sim.start(4).x + systems.random(4, s.points, 3, seed=1, scale=0.03), systems.random(4, s.points, 3, seed=2)
    trajectory = sim.rollout(sim.start(4, x=x, v=v), torch.zeros(4, N, 0, dtype=torch.float64))
    assert trajectory.ok.all()
    x, v = trajectory.x.numpy(), trajectory.v.numpy()
    m = s.mass[:, None]
    def bdf(rows):
        first = BDF1[0] * rows[:, 1:2] + BDF1[1] * rows[:, :1]
        return np.concatenate((first, BDF2[0] * rows[:, 2:] + BDF2[1] * rows[:, 1:-1] + BDF2[2] * rows[:, :-2]), 1)

    momentum = (m * v).sum(2)
    print("momentum", np.abs(bdf(momentum) - m.sum() * s.gravity * h).max(), np.abs(momentum).max())
    print("momentum closed", np.abs(momentum - momentum[:, :1] - m.sum() * s.gravity * h * np.arange(N + 1)[:, None]).max())
    force = m * bdf(v) / h - m * s.gravity
    print("sum", np.abs(force.sum(2)).max(), np.abs(force).max())
    print("torque", np.abs(np.cross(x[:, 1:], force).sum(2)).max(), np.abs(np.cross(x[:, 1:], force)).max())
    wanted = np.array([[-potential(s, row)[1] for row in rows[1:]] for rows in x]) - m * s.gravity
    print("law", np.abs(force - wanted).max())


def test_rope(task):
    t = task("rope3d-stop")
    s = t.system
    x = rest(s, s.rest + systems.random(5, 3, seed=3, scale=0.02).numpy())
    print("rope", np.abs(t.goal.numpy() - x).max())
    r = t.simulator.rollout(t.simulator.start(1, x=t.goal), torch.zeros(1, 100, 2, dtype=torch.float64))
    print("moves", (r.x - r.x[:, :1]).abs().max(), r.v.abs().max())


@pytest.mark.parametrize("drop", (10.0, 0.0))
def test_cloth(drop):
    t = cloth()
    s = dataclasses.replace(t.system, offset=t.system.offset - drop)
    goal = equilibrium(s) if drop else t.goal
    print(s.rest[:,2].min(), goal[:, 2])
    for seed in range(3):
        bowl = ((s.rest / 0.2) ** 2 - 1)[:, :2].sum(1)
        guess = s.rest + systems.random(s.points, 3, seed=seed, scale=0.005).numpy()
        if drop: guess[:, 2] += 0.03 * bowl
        x = rest(s, guess)
        print("cloth", np.abs(goal.numpy() - x).max())
    up = torch.tensor([0, 0, drop])
    start = t.simulator.start(1, x=goal + up, p=torch.as_tensor(s.home.copy()) + up)
    r = t.simulator.rollout(start, torch.zeros(1, 100, 12, dtype=torch.float64))
    print("moves", (r.x - r.x[:, :1]).abs().max(), r.v.abs().max())
