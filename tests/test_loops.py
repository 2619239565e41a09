"""Kernels with unrolled loops and kernels with loops over memory are the same computation."""

import functools

import pytest
import systems
import torch

import tasks
from taichi_sim import Simulator

B, N = 16, 10
NAMES = ("pendulum", "double", "rope", "free_pair")
ROWS = ("x", "v", "p", "status", "iterations")


@functools.cache
def looped(name):
    return Simulator(systems.SYSTEMS[name](), 0.02, unrolled=False)


@pytest.fixture
def both(simulator):
    """both(name, sweep): the tensors that `sweep(simulator, trajectory)` gives, unrolled and looped, in pairs."""

    def pairs(name, sweep, first=False):
        found = []
        for sim in (simulator(name, 0.02), looped(name)):
            rows = sim.rollout(systems.start(sim, B, first=first), systems.actions(sim, B, N))
            assert rows.ok.all() and rows.x.diff(dim=1).abs().max() > 1e-3
            found.append(sweep(sim, rows))
        return list(zip(*found, strict=True))

    return pairs


def model(sim):
    """g, Q ≥ 0 and R > 0 of a Gauss–Newton step."""
    m, n = sim.system.actions, sim.system.state_size
    g, q, r = (systems.random(B, N, width, seed=60 + k) for k, width in enumerate((m, n, m)))
    return g, q.abs(), r.abs() + 0.1


@pytest.mark.parametrize("first", (True, False))
@pytest.mark.parametrize("name", NAMES)
def test_unrolled_and_looped_rollouts_have_the_same_bits(both, name, first):
    pairs = both(name, lambda _, rows: [getattr(rows, field) for field in ROWS], first)
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_unrolled_and_looped_adjoints_have_the_same_bits(both, name):
    def sweep(sim, rows):
        g = sim.vjp(rows, *(systems.random(*y.shape, seed=61) for y in (rows.x, rows.v, rows.p)))
        return [g.x, g.v, g.p, g.x_prev, g.v_prev, g.a]

    assert all(torch.equal(*pair) for pair in both(name, sweep))


@pytest.mark.parametrize("name", NAMES)
def test_unrolled_and_looped_tangents_have_the_same_bits(both, name):
    def sweep(sim, rows):
        tangent = systems.start(sim, B, seed=70, first=False)
        return [*sim.jvp(rows, systems.random(*rows.a.shape, seed=62), tangent), sim.jacobian(rows)]

    assert all(torch.equal(*pair) for pair in both(name, sweep))


@pytest.mark.parametrize("name", ("damped_pendulum",))
def test_unrolled_and_looped_gauss_newton_steps_have_the_same_bits(both, name):
    def sweep(sim, rows):
        direct, iterative = sim.gauss_newton_riccati(rows, *model(sim)), sim.gauss_newton_cg(rows, *model(sim))
        boxed = sim.gauss_newton_boxed(rows, 2.0, torch.full((B,), 1e-9, dtype=torch.float64), *model(sim))
        return [
            boxed.da,
            boxed.image,
            boxed.iterations,
            direct.da,
            direct.gains,
            direct.curvature,
            iterative.da,
            iterative.image,
            iterative.iterations,
        ]

    pairs = both(name, sweep)
    assert all(torch.equal(*pair) for pair in pairs) and all(pair[0].abs().max() > 0 for pair in pairs)


def test_small_systems_are_unrolled_by_default_and_the_cloth_is_not(simulator):
    def unrolled(system, choice=None):
        return Simulator(system, 0.02, choice)._scratch.loops.unrolled

    small, cloth = tasks.make("double3d-origin").system, tasks.make("cloth-lay").system
    assert unrolled(small) and not unrolled(cloth)
    assert not unrolled(small, False) and unrolled(systems.graph(), True)


def test_unrolled_kernels_need_no_scratch_and_looped_ones_do(simulator):
    assert simulator("rope")._scratch.size == 0 < looped("rope")._scratch.size
