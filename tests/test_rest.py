"""Where systems rest, against SciPy on a potential energy written here, and what internal forces conserve."""

import dataclasses

import numpy as np
import pytest
import scipy.optimize
import systems
import torch

from taichi_sim import Builder, Simulator, equilibrium
from taichi_sim.builder import GRAVITY
from taichi_sim.mechanics import BDF1, BDF2

pytestmark = pytest.mark.usefixtures("simulator")  # it starts Taichi


def smooth(delta, k, blend):
    """Energy and force of a cable stretched by δ, or of a plane pressed by δ, as `energy` says; real or complex."""
    blend = np.where(blend > 0, blend, 1.0)
    curved, taut = np.abs(delta.real) < blend, delta.real >= blend
    energy = np.where(curved, k * (delta + blend) ** 3 / (12 * blend), 0.5 * k * delta**2 + k * blend**2 / 6)
    force = np.where(curved, k * (delta + blend) ** 2 / (4 * blend), k * delta)
    return np.where(curved | taut, energy, 0.0), np.where(curved | taut, force, 0.0)


def potential(system, x):
    """The energy of springs, planes and gravity, points at x (P, d) and handles at home; its gradient (P, d)."""
    s = system
    nodes = np.concatenate((x, s.home))
    i, j = s.ends.T
    span = nodes[i] - nodes[j]
    length = np.sqrt((span**2).sum(1) + 1e-12)  # η² = 1e-12 m²
    delta = length - s.length
    pulls, pushes = smooth(delta, s.stiffness, s.blend), (0.5 * s.stiffness * delta**2, s.stiffness * delta)
    energy, tension = (np.where(s.unilateral, one, other) for one, other in zip(pulls, pushes, strict=True))
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
    """x (P, d) of a least energy near `guess`, by SciPy: forces vanish, and any move takes energy."""
    shape = system.rest.shape

    def energy(x):
        return potential(system, x.reshape(shape))[0]

    def gradient(x):
        return potential(system, x.reshape(shape))[1].ravel()

    def hessian(x):
        return np.stack([gradient(x + 1e-30j * e).imag / 1e-30 for e in np.eye(x.size)])

    near = scipy.optimize.minimize(energy, guess.ravel(), jac=gradient, hess=hessian, method="trust-exact").x
    x = scipy.optimize.root(gradient, near, jac=hessian, tol=1e-14).x
    assert np.abs(gradient(x)).max() <= 1e-12
    assert np.linalg.eigvalsh(hessian(x))[0] > 1.0  # N/m
    return x.reshape(shape)


def assert_stays(simulator, x, p):
    start = simulator.start(1, x=x, p=p)
    rows = simulator.rollout(start, torch.zeros(1, 100, simulator.system.actions, dtype=torch.float64))
    assert rows.ok.all()
    assert (rows.x - rows.x[:, :1]).abs().max() <= 1e-12
    assert rows.v.abs().max() <= 1e-12


def test_rope_rests_where_scipy_finds_it(task):
    rope = task("rope3d-stop")
    s = rope.system
    x = rest(s, s.rest + systems.random(s.points, 3, seed=3, scale=0.02).numpy())
    assert np.abs(rope.goal.numpy() - x).max() <= 1e-10
    assert_stays(rope.simulator, rope.goal, s.home.copy())


@pytest.mark.parametrize("lift", (0.0, 10.0))
def test_cloth_rests_where_scipy_finds_it(task, lift):
    """Lying on the table, and hanging from its four grips `lift` m above it."""
    cloth = task("cloth-lay")
    s = dataclasses.replace(cloth.system, offset=cloth.system.offset - lift)
    goal = equilibrium(s) if lift else cloth.goal
    guess = s.rest + systems.random(s.points, 3, seed=4, scale=0.005).numpy()
    guess[:, 2] -= 0.0 if lift == 0 else 0.03 * (2 - ((s.rest / 0.2) ** 2)[:, :2].sum(1))
    assert np.abs(goal.numpy() - rest(s, guess)).max() <= 1e-10
    depth = s.offset[0] - goal[:, 2].numpy()
    assert (depth < -1.0).all() if lift else (depth > -s.contact_blend[0]).all()
    up = torch.tensor([0.0, 0.0, lift], dtype=torch.float64)
    assert_stays(cloth.simulator, goal + up, torch.as_tensor(s.home.copy()) + up)


@pytest.mark.parametrize(("g", "rows", "columns"), ((GRAVITY, 4, 3), (0.0, 2, 2)))
def test_free_cloth_moves_by_its_springs_whose_sum_and_torque_vanish(g, rows, columns):
    """f = M (c₀ v₁ + c₁ v₀ + c₂ v₋₁)/h − M g is what the springs pull with; Σ f = 0, Σ x × f = 0, and the momentum
    grows by M g h a step. Random stretch and velocities."""
    b = Builder("free cloth", 3, gravity=g)
    b.grid((0.0, 0.0, 0.0), (0.1, 0.0, 0.0), (0.0, 0.1, 0.0), rows, columns, 0.1, 100.0, 30.0, 1.0)
    s, h, B, N = b.build(), 0.016, 4, 40
    sim = Simulator(s, h)
    x = torch.as_tensor(s.rest.copy()) + systems.random(B, s.points, 3, seed=1, scale=0.03)
    start = sim.start(B, x=x, v=systems.random(B, s.points, 3, seed=2))
    trajectory = sim.rollout(start, torch.zeros(B, N, 0, dtype=torch.float64))
    assert trajectory.ok.all()
    x, v = trajectory.x.numpy(), trajectory.v.numpy()

    def difference(y):
        first = BDF1[0] * y[:, 1:2] + BDF1[1] * y[:, :1]
        return np.concatenate((first, BDF2[0] * y[:, 2:] + BDF2[1] * y[:, 1:-1] + BDF2[2] * y[:, :-2]), 1)

    m = s.mass[:, None]
    momentum, weight = (m * v).sum(2), s.mass.sum() * s.gravity
    assert np.abs(difference(momentum) - h * weight).max() <= 4e-15
    assert np.abs(momentum - momentum[:, :1] - h * weight * np.arange(N + 1)[:, None]).max() <= 4e-15
    force = m * difference(v) / h - m * s.gravity
    assert np.abs(force).max() > 1.0
    assert np.abs(force.sum(2)).max() <= 1e-13
    assert np.abs(np.cross(x[:, 1:], force).sum(2)).max() <= 1e-12
    springs = np.array([[-potential(s, row)[1] for row in rollout[1:]] for rollout in x]) - m * s.gravity
    assert np.abs(force - springs).max() <= 5e-11
