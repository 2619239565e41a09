"""The derivatives of a rollout: adjoint, forward and full Jacobian, against the rollout and each other."""

import gc
import weakref

import pytest
import systems
import torch
from systems import HANDLED

from taichi_sim import State, Trajectory, runtime
from taichi_sim.verification import taylor_rate

NAMES = (*HANDLED, "damped_pendulum", "free_pair")
FIELDS = ("x", "v", "p", "x_prev", "v_prev")
B, N = 8, 20


def loss(trajectory, seed=50):
    """(B,) Σ ½ w (y − y*)² over all positions, velocities and handle positions, with random w > 0 and y*."""
    total = 0.0
    for n, rows in enumerate((trajectory.x, trajectory.v, trajectory.p)):
        weight = systems.random(1, *rows.shape[1:], seed=seed + 2 * n).abs()
        goal = systems.random(1, *rows.shape[1:], seed=seed + 2 * n + 1)
        total = total + (0.5 * weight * (rows - goal) ** 2).flatten(1).sum(1)
    return total


def directional(simulator, which, first):
    """f(ε), the loss of B rollouts with input `which` moved by ε in a random direction, and f′(0) by autograd."""
    start = systems.start(simulator, B, first=first)
    inputs = {name: getattr(start, name) for name in FIELDS} | {"a": systems.actions(simulator, B, N)}
    direction = systems.random(*inputs[which].shape, seed=70)

    def rollout(values):
        copies = len(values["x"]) // B
        state = State(*(values[name] for name in FIELDS), start.first.repeat(copies))
        return simulator.rollout(state, values["a"])

    def f(eps):
        copies = {name: value.repeat(len(eps), *[1] * (value.ndim - 1)) for name, value in inputs.items()}
        step = (eps.reshape(-1, *[1] * direction.ndim) * direction).flatten(0, 1)
        trajectory = rollout(copies | {which: copies[which] + step})
        assert trajectory.ok.all()
        return loss(trajectory).reshape(-1, B)

    wanted = inputs[which].clone().requires_grad_()
    loss(rollout(inputs | {which: wanted})).sum().backward()
    return f, (wanted.grad * direction).flatten(1).sum(1)


def assert_taylor(f, derivative):
    rate = taylor_rate(f, derivative)
    assert abs(rate - 2.0) <= 0.05, f"Taylor rate {rate}"


def tangents(simulator, trajectory, seed=80, start=True):
    """A random tangent of actions and start."""
    da = systems.random(*trajectory.a.shape, seed=seed)
    if not start:
        return da, None
    fields = {
        name: systems.random(*getattr(trajectory.start, name).shape, seed=seed + 1 + n) for n, name in enumerate(FIELDS)
    }
    if trajectory.start.first.any():
        fields |= {"x_prev": torch.zeros_like(fields["x"]), "v_prev": torch.zeros_like(fields["v"])}
    return da, State(**fields, first=trajectory.start.first)


@pytest.mark.parametrize("name", [name for name in NAMES if name in HANDLED or name == "damped_pendulum"])
def test_gradient_by_actions_leaves_a_second_order_remainder(simulator, name):
    assert_taylor(*directional(simulator(name), "a", first=True))


@pytest.mark.parametrize(
    ("name", "which"), [(n, w) for n in NAMES for w in ("x", "v", "p") if not (n == "free_pair" and w == "p")]
)
def test_gradient_by_start_leaves_a_second_order_remainder(simulator, name, which):
    assert_taylor(*directional(simulator(name), which, first=True))


@pytest.mark.parametrize("which", FIELDS)
@pytest.mark.parametrize("name", ("damped_pendulum", "double"))
def test_gradient_by_start_with_history_leaves_a_second_order_remainder(simulator, name, which):
    assert_taylor(*directional(simulator(name), which, first=False))


def test_taylor_rate_exposes_a_gradient_off_by_a_thousandth(simulator):
    f, derivative = directional(simulator("damped_pendulum"), "a", first=True)
    assert abs(taylor_rate(f, 1.001 * derivative) - 2.0) > 0.05


@pytest.mark.parametrize("first", (True, False))
@pytest.mark.parametrize("name", NAMES)
def test_adjoint_and_forward_sweep_are_transposes(simulator, name, first):
    """|⟨w, S u⟩ − ⟨Sᵀw, u⟩| ≤ 1e-12 (‖w‖‖S u‖ + ‖Sᵀw‖‖u‖), u of actions and start together."""
    sim = simulator(name)
    trajectory = sim.rollout(systems.start(sim, B, first=first), systems.actions(sim, B, N))
    assert trajectory.ok.all()
    da, start = tangents(sim, trajectory)
    image = sim.jvp(trajectory, da, start)
    w = [systems.random(*rows.shape, seed=90 + n) for n, rows in enumerate(image)]
    back = sim.vjp(trajectory, *w)
    u = [da] + [getattr(start, name) for name in FIELDS]
    v = [back.a] + [getattr(back, name) for name in FIELDS]

    def flat(parts):
        return torch.cat([part.flatten(1) for part in parts], 1)

    w, image, u, v = flat(w), flat(image), flat(u), flat(v)
    size = w.norm(dim=1) * image.norm(dim=1) + v.norm(dim=1) * u.norm(dim=1)
    mismatch = ((w * image).sum(1) - (v * u).sum(1)).abs() / size
    assert mismatch.max() <= 1e-12


def test_rows_may_lie_in_any_order_in_memory(simulator):
    sim = simulator("double")
    rows = sim.rollout(systems.start(sim, B), systems.actions(sim, B, N))

    def strided(y):
        return y.transpose(0, 1).contiguous().transpose(0, 1)

    other = Trajectory(
        *(strided(getattr(rows, name)) for name in ("x", "v", "p", "a", "status", "iterations")),
        State(*(strided(getattr(rows.start, name)) for name in FIELDS), rows.start.first),
    )
    assert not other.x.is_contiguous() and not other.a.is_contiguous()
    da, g = systems.random(B, N, sim.system.actions, seed=3), [torch.ones_like(y) for y in (rows.x, rows.v, rows.p)]
    for one, two in zip(sim.jvp(rows, da), sim.jvp(other, strided(da)), strict=True):
        assert torch.equal(one, two)
    one, two = sim.vjp(rows, *g), sim.vjp(other, *map(strided, g))
    assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in (*FIELDS, "a"))
    assert torch.equal(sim.jacobian(rows), sim.jacobian(other))


@pytest.mark.parametrize("name", (*HANDLED, "damped_pendulum", "shared_axes"))
def test_jacobian_times_actions_equals_forward_sweep(simulator, name):
    sim = simulator(name)
    trajectory = sim.rollout(systems.start(sim, B), systems.actions(sim, B, N))
    da, _ = tangents(sim, trajectory, start=False)
    S = sim.jacobian(trajectory)
    dx, dv, dp = (rows[:, 1:].flatten(2) for rows in sim.jvp(trajectory, da))
    axes = torch.as_tensor(sim.system.axes.copy())
    rows = torch.cat([dp @ axes, dx, dv], 2)  # Eᵀ δp: the actuated coordinates
    error = torch.einsum("btsum,bum->bts", S, da) - rows
    assert error.abs().max() <= 1e-13 * torch.einsum("btsum,bum->bts", S.abs(), da.abs()).max()


def test_a_jacobian_in_large_pages_has_the_same_bits(simulator):
    sim = simulator("double")
    trajectory = sim.rollout(systems.start(sim, 16), systems.actions(sim, 16, 120))
    S = sim.jacobian(trajectory)
    assert S.untyped_storage().nbytes() > runtime.HUGE > sim.jacobian(trajectory[:2]).untyped_storage().nbytes()
    assert torch.equal(S[:2], sim.jacobian(trajectory[:2])) and torch.equal(S[14:], sim.jacobian(trajectory[14:]))


@pytest.mark.parametrize("name", ("oscillator", "double", "graph"))
def test_jacobian_is_block_lower_triangular(simulator, name):
    sim = simulator(name)
    trajectory = sim.rollout(systems.start(sim, 3), systems.actions(sim, 3, N))
    S = sim.jacobian(trajectory)
    m = sim.system.actions
    assert S.shape == (3, N, m + 2 * sim.system.points * sim.system.dim, N, m)
    for t in range(N):
        assert (S[:, t, :, t + 1 :] == 0).all()
        assert (S[:, t, :, t] != 0).any()


@pytest.mark.parametrize("name", ("spring_pendulum", "damped_pendulum"))
def test_gradcheck_of_rollout(simulator, name):
    sim = simulator(name)
    start, a = systems.start(sim, 2), systems.actions(sim, 2, 4)

    def f(x, v, p, a):
        trajectory = sim.rollout(State(x, v, p, x.detach(), v.detach(), start.first), a)
        return trajectory.x, trajectory.v, trajectory.p

    inputs = [tensor.clone().requires_grad_() for tensor in (start.x, start.v, start.p, a)]
    assert torch.autograd.gradcheck(f, inputs, nondet_tol=0.0)


@pytest.mark.parametrize("name", ("spring_pendulum", "damped_pendulum"))
def test_gradcheck_of_step(simulator, name):
    sim = simulator(name)
    start, a = systems.start(sim, 2, first=False), systems.actions(sim, 2, 1)[:, 0]

    def f(*inputs):
        state, _ = sim.step(State(*inputs[:5], start.first), inputs[5])
        return tuple(getattr(state, name) for name in FIELDS)

    inputs = [getattr(start, name).clone().requires_grad_() for name in FIELDS] + [a.requires_grad_()]
    assert torch.autograd.gradcheck(f, inputs, nondet_tol=0.0)


@pytest.mark.parametrize("name", ("damped_pendulum", "double"))
def test_chained_steps_have_the_gradient_of_the_rollout(simulator, name):
    sim = simulator(name)
    gradients = []
    for chained in (False, True):
        start, a = systems.start(sim, B), systems.actions(sim, B, N).requires_grad_()
        x, v = start.x.requires_grad_(), start.v.requires_grad_()
        state = State(x, v, start.p, x.detach(), v.detach(), start.first)
        if chained:
            xs, vs = [x], [v]
            for t in range(N):
                state, _ = sim.step(state, a[:, t])
                xs.append(state.x)
                vs.append(state.v)
            xs, vs = torch.stack(xs, 1), torch.stack(vs, 1)
        else:
            trajectory = sim.rollout(state, a)
            xs, vs = trajectory.x, trajectory.v
        ((xs**2).sum() + (vs**2).sum()).backward()
        gradients.append([a.grad, x.grad, v.grad])
    for whole, chained in zip(*gradients, strict=True):
        assert (whole - chained).norm() <= 1e-12 * whole.norm()


@pytest.mark.parametrize("name", ("pendulum", "double", "graph"))
def test_closed_loop_chained_steps_and_rollout_have_the_same_bits(simulator, name):
    sim = simulator(name)
    start, a = systems.start(sim, B), systems.actions(sim, B, N)
    whole = sim.rollout(start, a)
    closed = sim.begin(start, N)
    state = start
    for t in range(N):
        closed.a[:, t] = a[:, t]
        sim.advance(closed, t)
        state, status = sim.step(state, a[:, t])
        assert (status == whole.status[:, t]).all()
        assert all((getattr(state, r) == getattr(whole, r)[:, t + 1]).all() for r in ("x", "v", "p"))
    for rows in ("a", "x", "v", "p", "status", "iterations"):
        assert torch.equal(getattr(closed, rows), getattr(whole, rows))


@pytest.mark.parametrize("name", ("pendulum", "double", "graph"))
def test_rollout_from_a_later_row_continues_the_trajectory(simulator, name):
    sim = simulator(name)
    start, a = systems.start(sim, B), systems.actions(sim, B, N)
    whole = sim.rollout(start, a)
    for t in (1, N // 2):
        rest = sim.rollout(whole.state(t), a[:, t:])
        for rows in ("x", "v", "p"):
            assert torch.equal(getattr(rest, rows), getattr(whole, rows)[:, t:])


def test_gradient_of_a_split_rollout_flows_through_the_history(simulator):
    """dL/da of N steps in two windows, the second from `state(t)` of the first, equals that of one rollout."""
    sim = simulator("double")
    start, gradients = systems.start(sim, B), []
    for split in (False, True):
        a = systems.actions(sim, B, N).requires_grad_()
        trajectory = sim.rollout(start, a[:, : N // 2] if split else a)
        if split:
            trajectory = sim.rollout(trajectory.state(N // 2), a[:, N // 2 :])
        (trajectory.x[:, -1] ** 2).sum().backward()
        gradients.append(a.grad)
    assert (gradients[0] - gradients[1]).norm() <= 1e-12 * gradients[0].norm()


def test_a_dropped_differentiable_rollout_frees_its_rows(simulator):
    sim = simulator("pendulum")
    gc.collect()
    gc.disable()  # the memory must not wait for the garbage collector
    try:
        trajectory = sim.rollout(systems.start(sim, 2), systems.actions(sim, 2, 3).requires_grad_())
        rows = weakref.ref(trajectory.x)
        trajectory.x.sum().backward()
        del trajectory
        assert rows() is None
    finally:
        gc.enable()
