"""Random graphs of springs, cables and dampers, in the plane and in space, with and without a table and handles: every
step converges or says why not, and every derivative is right."""

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import taichi_sim
from taichi_sim import Builder, InputError, Simulator, State, Status
from taichi_sim.verification import adjoint_mismatch

N, B = 6, 3
MISMATCH = 1e-9  # of ⟨w, S u⟩ and ⟨Sᵀw, u⟩
CENTRAL = 1e-6  # of a derivative by central differences, relative
OPTIONS = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}

numbers = st.integers(-50, 50).map(lambda n: n / 100)  # m
stiffnesses = st.integers(0, 40).map(lambda n: 10 ** (n / 10))  # N/m, 1 to 10,000


@st.composite
def systems(draw, most):
    """(dim, points [(position, mass)], handles [(position, axes)], edges [(i, j, kind, stiffness, damping)], table)."""
    dim = draw(st.sampled_from((2, 3)))
    place = st.tuples(*[numbers] * dim)
    points = draw(st.lists(st.tuples(place, st.integers(1, 50).map(lambda n: n / 100)), min_size=1, max_size=most))
    axes = ("x", "xy", "y") if dim == 2 else ("x", "xy", "xyz", "z")
    handles = draw(st.lists(st.tuples(place, st.sampled_from(axes)), max_size=2))
    ends = st.integers(0, len(points) + len(handles) - 1)
    edge = st.tuples(ends, ends, st.sampled_from(("spring", "cable")), stiffnesses, st.sampled_from((0.0, 0.0, 0.2)))
    edges = draw(st.lists(edge, max_size=most + 4))
    good = {(min(e[:2]), max(e[:2])): e for e in edges if e[0] != e[1] and min(e[:2]) < len(points)}
    return dim, points, handles, tuple(good.values()), draw(st.booleans())


def built(described):
    dim, points, handles, edges, table = described
    b = Builder("random", dim=dim)
    nodes = [b.point(position, mass) for position, mass in points]
    nodes += [b.handle(position, axes=axes) for position, axes in handles]
    for i, j, kind, stiffness, damping in edges:
        if kind == "spring":
            b.spring(nodes[i], nodes[j], stiffness, damping=damping)
        else:
            b.cable(nodes[i], nodes[j], stiffness, damping=damping)
    if table:
        up = (0.0,) * (dim - 1) + (1.0,)
        b.plane(up, -0.55, stiffness=500.0, blend=1e-3, friction=0.3, tangential=50.0)
    return b.build()


def check(simulator, generator):
    """Rollouts from random states near rest: statuses, and derivatives of those that did not fail."""
    s = simulator.system

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    begin = simulator.start(B)
    start = State.start(begin.x + 0.02 * random(B, s.points, s.dim), 0.3 * random(B, s.points, s.dim), begin.p.clone())
    actions = 0.3 * random(B, N, s.actions)
    rows = simulator.rollout(start, actions)
    assert {int(y) for y in rows.status.unique()} <= {int(y) for y in Status}
    for name in ("x", "v", "p"):
        assert torch.isfinite(getattr(rows, name)).all()
    for row, status in zip(rows.x, rows.status, strict=True):  # a failed step repeats the row before it
        for t in (status != Status.OK).nonzero().flatten().tolist():
            assert torch.equal(row[t + 1], row[t])
    good = rows[rows.ok]
    if not len(good):
        return 0
    weights = [random(*r.shape[1:]) for r in (good.x, good.v, good.p)]

    def value(x, v, a):
        moved = simulator.rollout(State.start(x, v, good.start.p), a)
        assert moved.ok.all()
        parts = zip(weights, (moved.x, moved.v, moved.p), strict=True)
        return sum((weight * y).flatten(1).sum(1) + 0.1 * y.square().flatten(1).sum(1) for weight, y in parts)

    inputs = [good.start.x, good.start.v, good.a]
    leaves = [y.clone().requires_grad_() for y in inputs]
    gradient = torch.autograd.grad(value(*leaves).sum(), leaves)
    along = [random(*y.shape) for y in inputs]
    slope = sum((g * d).flatten(1).sum(1) for g, d in zip(gradient, along, strict=True))
    errors = []
    for n in range(4, 22, 2):  # the remainder falls like ε², until round-off: the best of these is small
        ahead, behind = (
            value(*(y + sign * 2.0**-n * d for y, d in zip(inputs, along, strict=True))) for sign in (1, -1)
        )
        errors.append(((ahead - behind) / 2.0 ** (1 - n) - slope).abs())
    size = slope.abs() + sum(g.abs().flatten(1).sum(1) for g in gradient)
    assert (torch.stack(errors).amin(0) <= CENTRAL * size).all()
    if s.actions:
        assert adjoint_mismatch(simulator, good, generator).max() < MISMATCH
    return len(good)


@settings(max_examples=5, **OPTIONS)
@given(systems(4))
@example((2, [((0.0, 0.0), 0.1)], [], (), False))  # a free point, no handles
@example((3, [((0.0, 0.0, 0.0), 0.1), ((0.0, 0.0, 0.0), 0.1)], [], ((0, 1, "spring", 100.0, 0.0),), True))  # length 0
def test_random_systems_step_or_say_why_not_and_their_derivatives_are_right(described):
    judge(described)


@pytest.mark.slow
@settings(max_examples=40, **OPTIONS)
@given(systems(12))
def test_many_random_systems_step_or_say_why_not_and_their_derivatives_are_right(described):
    judge(described)


def judge(described):
    """Each system is compiled anew, which takes most of the time."""
    taichi_sim.init("cpu")
    try:
        system = built(described)
    except InputError as error:
        assert "expected" in str(error)
        return
    check(Simulator(system, 0.02), torch.Generator().manual_seed(0))
