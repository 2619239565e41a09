"""Newton's directions in float32: where they are taken, and that nothing but speed depends on them."""

import numpy as np
import pytest
import systems
import taichi as ti
import torch

import tasks
from taichi_sim import Builder, Simulator
from taichi_sim import newton as method
from taichi_sim.mechanics import condition
from taichi_sim.newton import direction_kind

H = 0.02
NAMES = ("pendulum", "double", "rope", "graph")


def jacobian(system, x, h):
    """M c₀²/h² + Σ of the springs' stiffness matrices at x (points and handles, d), those that push left out."""
    d, P = system.dim, system.points
    J = np.zeros((len(x) * d, len(x) * d))
    for (i, j), k, length in zip(system.ends, system.stiffness, system.length, strict=True):
        span = x[i] - x[j]
        size = np.linalg.norm(span)
        n = span / size
        across = max(k * (1 - length / size), 0.0)
        K = across * np.eye(d) + (k - across) * np.outer(n, n)
        for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
            J[a * d : a * d + d, b * d : b * d + d] += sign * K
    J = J[: P * d, : P * d]
    return J + np.diag(np.repeat(2.25 * system.mass / h**2, d))


@pytest.mark.parametrize("name", NAMES)
def test_condition_is_a_bound_of_the_jacobians(name):
    """At rest and at a hundred random states, stretched up to three times and pressed."""
    system, rng = systems.SYSTEMS[name](), np.random.default_rng(0)
    rest = np.concatenate((system.rest, system.home))
    for n in range(100):
        x = rest * (1 + 2 * rng.random()) + n / 100 * 0.2 * rng.standard_normal(rest.shape)
        assert 1 < np.linalg.cond(jacobian(system, x, H)) <= condition(system, H)


def grid(stiffness=30.0):
    """A cloth hung from a handle, without a table: J is symmetric."""
    b = Builder("grid", dim=3)
    points = b.grid((0, 0, 0), (0.1, 0, 0), (0, 0.1, 0), 5, 5, 0.1, stiffness, 10.0, 3.0)
    b.spring(b.handle((0, 0, 0), axes="xyz"), points[0][0], 100.0, length=0.0)
    b.spring(b.handle((0.4, 0, 0), axes="xyz"), points[4][0], 100.0, length=0.0)
    return b.build()


def cloth():
    return tasks.make("cloth-lay").system


def test_a_large_system_has_directions_in_float32_unless_it_is_stiff(simulator):
    assert direction_kind(cloth(), H) == direction_kind(grid(), H) == ti.f32
    assert direction_kind(grid(stiffness=1e5), H) is float


@pytest.mark.parametrize("system", (grid, cloth))
def test_rows_are_those_of_exact_directions(simulator, monkeypatch, system):
    """To what convergence to round-off leaves, with at most 2 % more solves; with a table and without."""
    system = system()
    rows = []
    for largest in (method.LARGEST_CONDITION, 0.0):
        monkeypatch.setattr(method, "LARGEST_CONDITION", largest)
        sim = Simulator(system, H)
        rows.append(sim.rollout(systems.start(sim, 16), systems.actions(sim, 16, 20)))
    quick, exact = rows
    assert quick.ok.all() and exact.ok.all()
    for field in ("x", "v"):
        assert torch.allclose(getattr(quick, field), getattr(exact, field), rtol=1e-9, atol=1e-10)
    assert not torch.equal(quick.x, exact.x)
    assert quick.iterations.sum() <= 1.02 * exact.iterations.sum()
