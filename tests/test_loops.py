"""Kernels unrolled, with loops over scratch memory, in both orders, or local variables, and with lanes do the same.

To round-off: which products and sums LLVM fuses depends on what stands around them.
"""

import dataclasses
import functools

import pytest
import systems
import torch
from systems import LAST

import tasks
from taichi_sim import Builder, Simulator
from taichi_sim.loops import ABREAST, ALONE, LOOPED, STRAIGHT, UNROLLED

B, N = 13, 10  # three of sixteen lanes have no rollout
NAMES = ("pendulum", "double", "rope", "free_pair")
KINDS = dict.fromkeys(NAMES, (UNROLLED, STRAIGHT, LOOPED, ABREAST))
KINDS["rope"] += (LAST,)
UNROLLED_LAST = dataclasses.replace(UNROLLED, last=True)
SMALL = (UNROLLED, UNROLLED_LAST, STRAIGHT, LOOPED, LAST, ALONE, ABREAST)
KINDS |= dict.fromkeys(("pendulum", "damped_pendulum"), SMALL)  # others compile for long
ROUND_OFF = 1e-12  # relative to a tensor's largest number
ROWS = ("x", "v", "p", "status", "iterations")


@functools.cache
def made(name, loops):
    return Simulator(systems.SYSTEMS[name](), 0.02, loops)


@pytest.fixture
def same(simulator):
    """same(name, sweep): whether `sweep(simulator, trajectory)` gives the same with all kinds of loops."""

    def compare(name, sweep, first=False):
        found = []
        for loops in KINDS[name]:
            sim = made(name, loops)
            rows = sim.rollout(systems.start(sim, B, first=first), systems.actions(sim, B, N))
            assert rows.ok.all() and rows.x.diff(dim=1).abs().max() > 1e-3
            found.append(sweep(sim, rows))
        return all(_near(one, other) for one, *rest in zip(*found, strict=True) for other in rest)

    return compare


def _near(one, other):
    if not one.is_floating_point():  # an iteration more, where a residual is as large as its tolerance
        return (one - other).abs().max() <= 1 and torch.equal(one > 0, other > 0)
    if not one.numel():
        return True
    return (one - other).abs().max() <= ROUND_OFF * one.abs().max()


def model(sim):
    """g, Q ≥ 0 and R > 0 of a Gauss–Newton step."""
    m, n = sim.system.actions, sim.system.state_size
    g, q, r = (systems.random(B, N, width, seed=60 + k) for k, width in enumerate((m, n, m)))
    return g, q.abs(), r.abs() + 0.1


@pytest.mark.parametrize("first", (True, False))
@pytest.mark.parametrize("name", NAMES)
def test_rollouts_are_the_same(same, name, first):
    assert same(name, lambda _, rows: [getattr(rows, field) for field in ROWS], first)


@pytest.mark.parametrize("name", NAMES)
def test_adjoints_are_the_same(same, name):
    def sweep(sim, rows):
        g = sim.vjp(rows, *(systems.random(*y.shape, seed=61) for y in (rows.x, rows.v, rows.p)))
        return [g.x, g.v, g.p, g.x_prev, g.v_prev, g.a]

    assert same(name, sweep)


@pytest.mark.parametrize("name", NAMES)
def test_tangents_are_the_same(same, name):
    def sweep(sim, rows):
        tangent = systems.start(sim, B, seed=70, first=False)
        return [*sim.jvp(rows, systems.random(*rows.a.shape, seed=62), tangent), sim.jacobian(rows)]

    assert same(name, sweep)


@pytest.mark.parametrize("name", ("damped_pendulum",))
def test_gauss_newton_steps_are_the_same(same, name):
    def sweep(sim, rows):
        direct, iterative = sim.gauss_newton_riccati(rows, *model(sim)), sim.gauss_newton_cg(rows, *model(sim))
        boxed = sim.gauss_newton_boxed(rows, 2.0, torch.full((B,), 1e-9, dtype=torch.float64), *model(sim))
        found = [boxed.da, boxed.image, boxed.iterations, direct.da, direct.gains, direct.curvature]
        found += [iterative.da, iterative.image, iterative.iterations]
        assert all(tensor.abs().max() > 0 for tensor in found)
        return found

    assert same(name, sweep)


@pytest.mark.parametrize("loops", (STRAIGHT, ABREAST), ids=str)
def test_a_lane_that_fails_leaves_the_others_alone(simulator, loops):
    """Rollouts beside one that breaks down keep their bits; the broken one says so."""
    sim = made("rope", loops)
    start, actions = systems.start(sim, 8), systems.actions(sim, 8, N)
    whole = sim.rollout(start, actions)
    actions[3, 4] = torch.nan
    rows = sim.begin(start, N)
    rows.a[:] = actions
    for t in range(N):
        sim.advance(rows, t)
    others = [0, 1, 2, 4, 5, 6, 7]
    assert rows.status[3].tolist() == [0] * 4 + [2] + [3] * 5
    for field in ROWS:
        assert torch.equal(getattr(rows, field)[others], getattr(whole, field)[others])
    assert torch.equal(rows.x[3, :5], whole.x[3, :5]) and torch.isfinite(rows.x).all()


def test_a_cpu_has_lanes_unless_the_system_is_too_large(simulator):
    """Around whole phases where those are unrolled and have no branches."""

    def kind(system):
        return Simulator(system, 0.02)._kernels.scratch.loops

    cloth = tasks.make("cloth-lay").system
    large = Builder("large cloth", dim=3)
    large.grid((0.0, 0.0, 0.0), (0.1, 0.0, 0.0), (0.0, 0.1, 0.0), 10, 10, 0.1, stretch=100.0, shear=30.0, bend=1.0)
    assert kind(cloth) is ABREAST and kind(large.build()) is LOOPED
    rough = Builder("rough", dim=2)
    rough.point((0.0, 0.0), mass=0.3)
    rough.plane((0.0, 1.0), 0.0, stiffness=400.0, blend=1e-3, friction=0.4, tangential=100.0)
    assert kind(tasks.make("rope3d-stop").system) is STRAIGHT and kind(rough.build()) is ABREAST


def test_only_looped_kernels_need_scratch_memory(simulator):
    assert made("rope", UNROLLED)._kernels.scratch.size == made("rope", STRAIGHT)._kernels.scratch.size == 0
    assert made("rope", LOOPED)._kernels.scratch.size > 0
