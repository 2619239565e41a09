"""Forces that set in: contact planes with friction, and the switch of a cable from slack to taut.

A point at depth δ = −gap bears the load f_n = k (δ + ε)²/4ε for |δ| < ε and k δ above, and friction resists the slip
v_t, s = ‖v_t‖, with F tanh(c s / F), F = μ f_n and c = k_t h.
"""

import dataclasses
import functools

import numpy as np
import pytest
import systems
import taichi as ti
import torch

from taichi_sim import Builder, Simulator
from taichi_sim.builder import GRAVITY
from taichi_sim.friction import SATURATED, SERIES, coulomb
from taichi_sim.verification import adjoint_mismatch, taylor_rate_of_input

pytestmark = pytest.mark.usefixtures("simulator")  # it starts Taichi

H, MASS, K, BLEND, MU, TANGENTIAL = 0.016, 0.05, 400.0, 5e-4, 0.4, 100.0
C = TANGENTIAL * H
PULL = 20.0  # N/m, of the spring between a point and its handle
SHARES = {2: (0.3, 0.9, 2.0), 3: (0.1, 0.6, 0.9, 2.0)}  # tan θ / μ of the inclines; the last does not hold a point
FAR = 20.0  # m, from the origin to each incline


def normal_force(depth, k=K, blend=BLEND):
    """f_n at `depth` δ; real or complex."""
    curved = k * (depth + blend) ** 2 / (4 * blend)
    return np.where(depth.real >= blend, k * depth, np.where(depth.real > -blend, curved, 0.0))


def friction(slip, limit):
    """−F tanh(c s / F) v_t / s (..., d) for slip ≠ 0; real or complex."""
    s = np.sqrt((slip**2).sum(-1, keepdims=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(limit.real > 0, -limit * np.tanh(C * s / limit) * slip / s, 0.0)


def derivative(f, at):
    """∂f/∂at (n, ·, ·) of f (n, ·) by complex steps, exact to round-off."""
    steps = 1e-30j * np.eye(at.shape[-1])
    return np.stack([f(at + step).imag / 1e-30 for step in steps], -1)


def tensor(values):
    return torch.as_tensor(np.array(values, dtype=float))


def rollout(sim, N, x, v=None):
    """Healthy rollouts of one point, which nothing drives, from x and v (B, d); their x and v (B, N+1, d)."""
    x = tensor(x)[:, None]
    start = sim.start(len(x), x=x, v=None if v is None else tensor(v)[:, None])
    trajectory = sim.rollout(start, torch.zeros(len(x), N, sim.system.actions, dtype=torch.float64))
    assert trajectory.ok.all()
    return trajectory.x[:, :, 0].numpy(), trajectory.v[:, :, 0].numpy()


# Points


@functools.cache
def trough(dim):
    """A point in a trough of inclines, all tangent to a circle of radius FAR, as a simulator; angles θ (K,), unit
    normals (K, d) and downhill directions (K, d)."""
    b = Builder("trough", dim)
    b.point(np.zeros(dim), MASS)
    theta = np.arctan(MU * np.array(SHARES[dim]))
    azimuth = np.array([1.0]) if dim == 2 else np.array([np.cos(0.7), np.sin(0.7)])
    normals = np.array([np.append(np.sin(t) * azimuth, np.cos(t)) for t in theta])
    downhill = np.array([np.append(np.cos(t) * azimuth, -np.sin(t)) for t in theta])
    for n in normals:
        b.plane(n, -FAR, K, BLEND, MU, TANGENTIAL)
    return Simulator(b.build(), H), theta, normals, downhill


@pytest.mark.parametrize("dim", (2, 3))
def test_point_creeps_down_an_incline_at_the_speed_of_the_tanh_law(dim):
    """μ f_n tanh(c s / μ f_n) = m g sin θ at s = (μ f_n / c) atanh(tan θ / μ), f_n = m g cos θ."""
    sim, *inclines = trough(dim)
    theta, normals, downhill = (part[:-1] for part in inclines)
    load = MASS * GRAVITY * np.cos(theta)
    x, v = rollout(sim, 350, -(FAR + load / K)[:, None] * normals)
    creep = (MU * load / C * np.arctanh(np.tan(theta) / MU))[:, None] * downhill
    speed = np.linalg.norm(creep, axis=1)
    assert (np.linalg.norm(v[:, -1] - creep, axis=1) <= 1e-8 * speed).all()
    assert (np.linalg.norm(x[:, -1] - x[:, -2] - H * creep, axis=1) <= 1e-8 * H * speed).all()


@pytest.mark.parametrize("way", (1, -1))
@pytest.mark.parametrize("dim", (2, 3))
def test_point_sliding_fast_accelerates_at_the_rate_of_coulombs_law(dim, way):
    """v̇ = g (sin θ − μ cos θ) down, g (sin θ + μ cos θ) while it slides up: tanh z is 1 to round-off for z > 19."""
    sim, *inclines = trough(dim)
    theta, n, down = (part[-1] for part in inclines)
    load = MASS * GRAVITY * np.cos(theta)
    _, v = rollout(sim, 15, [-(FAR + load / K) * n], [way * 6.0 * down])
    assert (C * (way * v[0] @ down) / (MU * load) > 19).all()
    rate = GRAVITY * (np.sin(theta) - way * MU * np.cos(theta)) * down
    assert np.abs(np.diff(v[0], axis=0) / H - rate).max() <= 1e-8 * np.linalg.norm(rate)


@pytest.mark.parametrize("mass", (0.004, 0.01, 0.1))
def test_dropped_point_rests_at_the_depth_where_the_smoothed_law_bears_it(mass):
    """k (δ + ε)²/4ε = m g for m g < k ε, with δ < 0 for m g < k ε/4; else k δ = m g. Long BDF2 steps damp."""
    b = Builder("dropped", 2)
    b.point((0.0, 0.01), mass)
    b.plane((0.0, 1.0), 0.0, K, BLEND)
    load = mass * GRAVITY
    depth = load / K if load >= K * BLEND else 2 * np.sqrt(load * BLEND / K) - BLEND
    x, v = rollout(Simulator(b.build(), H), 1000, [[0.0, 0.01]])
    assert abs(x[0, -1, 1] + depth) <= 1e-15
    assert np.abs(v[0, -1]).max() <= 1e-14


# The laws


@ti.kernel
def _coulomb(slip: ti.types.ndarray(ndim=2), limit: ti.types.ndarray(ndim=1), c: float, out: ti.types.ndarray(ndim=2)):
    for i in range(slip.shape[0]):
        force, across, along, turn, psi = coulomb(ti.Vector([slip[i, 0], slip[i, 1]]), limit[i], c)
        for k in ti.static(range(2)):
            out[i, k] = force[k]
            out[i, 2 + k] = turn[k]
        out[i, 4], out[i, 5], out[i, 6] = across, along, psi


def coulombs(slip, limit):
    """force (n, 2), ∂force/∂slip (n, 2, 2), ∂force/∂limit (n, 2) and ψ (n,) at `slip` (n, 2) and `limit` (n,)."""
    out = torch.zeros(len(slip), 7, dtype=torch.float64)
    _coulomb(torch.as_tensor(slip), torch.as_tensor(limit), C, out)
    out = out.numpy()
    heading = slip / np.maximum(np.linalg.norm(slip, axis=1), 1e-150)[:, None]
    by_slip = out[:, 4, None, None] * np.eye(2) + out[:, 5, None, None] * heading[:, :, None] * heading[:, None]
    return out[:, :2], by_slip, out[:, 2:4], out[:, 6]


def test_friction_and_its_derivatives_are_those_of_the_tanh_law():
    """For slips from 1e-6 to 10 m/s and loads from 1e-6 to 10 N: z = c s / F from 4e-7 to 4e7. The force is F at
    most, its derivative by v_t is min(c, F/s) and that by F min(1, z), up to factors near 1."""
    speed, load = (g.ravel() for g in np.meshgrid(np.geomspace(1e-6, 10, 113), np.geomspace(1e-6, 10, 29)))
    limit, angle = MU * load, 0.3 + np.arange(len(speed))
    z = C * speed / limit
    assert all(part.sum() > 500 for part in (z < SERIES, (z > SERIES) & (z < SATURATED), z > SATURATED))
    slip = speed[:, None] * np.stack((np.cos(angle), np.sin(angle)), 1)
    force, by_slip, by_limit, psi = coulombs(slip, limit)
    size = np.minimum(C, limit / speed)
    assert (np.linalg.norm(force, axis=1) <= (1 + 1e-15) * limit).all()
    assert (np.linalg.norm(force + friction(slip, limit[:, None]), axis=1) <= 2e-13 * size * speed).all()
    exact = -derivative(lambda slip: friction(slip, limit[:, None]), slip)
    assert (np.linalg.norm(by_slip - exact, axis=(1, 2)) <= 2e-13 * size).all()
    exact = -derivative(lambda limit: friction(slip, limit), limit[:, None])[..., 0]
    assert (np.linalg.norm(by_limit - exact, axis=1) <= 2e-13 * np.minimum(1, z)).all()
    exact = limit**2 / C * (z + np.log1p(np.exp(-2 * z)) - np.log(2))
    assert (np.abs(psi - exact) <= 1e-15 * limit**2 / C * (1 + z)).all()


@pytest.mark.parametrize("edge", (SERIES, SATURATED))
def test_friction_and_its_derivatives_are_continuous_where_the_formula_changes(edge):
    limit = np.repeat((1e-6, 1e-3, 10.0), 2)
    z = edge * np.tile((1 - 1e-14, 1 + 1e-14), 3)
    slip = (z * limit / C)[:, None] * np.array([0.6, -0.8])
    sizes = (limit * min(1, edge), np.full(6, C * min(1, 1 / edge)), np.full(6, min(1, edge)))
    for part, size in zip(coulombs(slip, limit)[:3], sizes, strict=True):
        below, above = part[::2].reshape(3, -1), part[1::2].reshape(3, -1)
        assert (np.abs(above - below).max(1) <= 2e-13 * size[::2]).all()


def test_friction_is_zero_without_load_and_linear_at_no_slip():
    force, by_slip, by_limit, psi = coulombs(np.array([[0.0, 0.0], [1e-6, 0.0], [3.0, -4.0]]), np.zeros(3))
    assert (force == 0).all() and (by_slip == 0).all() and (by_limit == 0).all() and (psi == 0).all()
    force, by_slip, by_limit, psi = coulombs(np.zeros((1, 2)), np.ones(1))
    assert (force == 0).all() and (by_slip == C * np.eye(2)).all() and (by_limit == 0).all() and (psi == 0).all()


# The step through contact


@functools.cache
def dragged_point():
    """A point on an incline in 3D, pulled by a handle through a spring of rest length 0."""
    b = Builder("dragged point", 3)
    b.spring(b.handle((0.0, 0.0, 0.0), axes="xyz"), b.point((0.0, 0.0, 0.0), MASS), PULL, length=0.0)
    b.plane((1.0, -2.0, 10.0), 0.0, K, BLEND, MU, TANGENTIAL)
    return Simulator(b.build(), H)


def test_step_solves_the_contact_law_and_has_its_derivatives():
    """The first step, v₁ = (x₁ − x₀)/h and m (v₁ − v₀)/h = m g − k x₁ + f(x₁, v₁) with f = f_n n − F tanh(z) v_t/s,
    is explicit backwards: from any x₁, v₁ back to x₀, v₀. There J = m/h² + k − ∂f/∂x − ∂f/∂v/h and

        ∂x₁/∂x₀ = J⁻¹ (m/h² − ∂f/∂v/h),   ∂x₁/∂v₀ = J⁻¹ m/h;

    for points apart, in the blend and pressed, that slip at 1e-6 to 10 m/s.
    """
    sim = dragged_point()
    n, eye = sim.system.normal[0], np.eye(3)
    speed, depth = np.geomspace(1e-6, 10, 29), np.array([-5e-3, -0.7 * BLEND, 0.2 * BLEND, 3e-3, 2e-2])
    speed, depth = (g.ravel() for g in np.meshgrid(speed, depth))
    x1, v1 = (systems.random(len(depth), 3, seed=seed, scale=0.1).numpy() for seed in (1, 2))
    x1, v1 = x1 - (x1 @ n + depth)[:, None] * n, v1 - (v1 @ n)[:, None] * n
    v1 *= (speed / np.linalg.norm(v1, axis=1))[:, None]
    v1 += systems.random(len(depth), 1, seed=3, scale=0.1).numpy() * n  # in and out, which friction must not see

    def force(x, v):
        load = normal_force(-x @ n)[:, None]
        return load * n + friction(v - (v @ n)[:, None] * n, MU * load)

    x0, v0 = x1 - H * v1, v1 - H / MASS * (MASS * sim.system.gravity - PULL * x1 + force(x1, v1))
    start = sim.start(len(depth), x=tensor(x0)[:, None], v=tensor(v0)[:, None])
    trajectory = sim.rollout(start, torch.zeros(len(depth), 1, 3, dtype=torch.float64))
    assert trajectory.ok.all()
    assert np.abs(trajectory.x[:, 1, 0].numpy() - x1).max() <= 1e-14
    assert np.abs(trajectory.v[:, 1, 0].numpy() - v1).max() <= 1e-12
    by_x, by_v = derivative(lambda x: force(x, v1), x1), derivative(lambda v: force(x1, v), v1)
    inverse = np.linalg.inv((MASS / H**2 + PULL) * eye - by_x - by_v / H)
    for k in range(3):
        gx = torch.zeros_like(trajectory.x)
        gx[:, 1, 0, k] = 1.0
        found = sim.vjp(trajectory, gx=gx)
        for gradient, right in ((found.x, MASS / H**2 * eye - by_v / H), (found.v, MASS / H * eye)):
            exact = (inverse @ right)[:, k]
            error = np.linalg.norm(gradient[:, 0].numpy() - exact, axis=1)
            assert (error <= 1e-12 * np.linalg.norm(exact, axis=1)).all()


@pytest.mark.parametrize("name", ("point", "cloth"))
def test_gradient_through_sliding_contact_is_right(task, name):
    """By the actions, of a point and of a cloth pressed down and pushed sideways, which stick and slide on the way."""
    sim, B, N = dragged_point() if name == "point" else task("cloth-lay").simulator, 2, 12
    s = sim.system
    way = systems.random(B, 1, 1, 3, seed=3)
    way = 0.6 * way / way.norm(dim=-1, keepdim=True)
    way[..., 2] = -0.2
    way = way * torch.linspace(1.0, 0.5, N, dtype=torch.float64)[:, None, None]
    a = (way + systems.random(B, N, s.handles, 3, seed=4, scale=0.05)).flatten(2)
    x = torch.as_tensor(s.rest.copy()) + systems.random(B, s.points, 3, seed=5, scale=1e-3)
    start = sim.start(B, x=x, v=systems.random(B, s.points, 3, seed=6, scale=0.1))
    rows = sim.rollout(start, a)
    assert rows.ok.all()
    depth, v, n = s.offset[0] - rows.x.numpy() @ s.normal[0], rows.v.numpy(), s.normal[0]
    slip = np.linalg.norm(v - (v @ n)[..., None] * n, axis=-1)
    load = normal_force(depth, s.contact_stiffness[0], s.contact_blend[0])
    assert ((load > 0) & (C * slip > MU * load)).mean() > 0.3  # slides
    assert ((load > 0) & (C * slip < MU * load)).mean() > 0.1  # sticks
    weight, goal = (systems.random(2, N, s.points, 3, seed=seed) for seed in (7, 8))

    def value(a):
        moved = sim.rollout(start[torch.arange(B).repeat(len(a) // B)], a)
        assert moved.ok.all()
        return (0.5 * weight.abs() * (torch.stack((moved.x, moved.v), 1)[:, :, 1:] - goal) ** 2).flatten(1).sum(1)

    generator = torch.Generator().manual_seed(0)
    assert abs(taylor_rate_of_input(value, a, generator) - 2.0) <= 0.05
    assert adjoint_mismatch(sim, rows, generator).max() <= 1e-12


def test_cloth_dragged_over_the_table_is_held_back_by_mu_times_its_load(task):
    """The grips at velocity u for 4.8 s: by then all points move at u, at which friction is at its limit, and the
    grips' springs pull with μ f_n along u, f_n the weight less what they bear of it."""
    cloth, u, N = task("cloth-lay"), np.array([0.12, 0.05, 0.0]), 300
    s, sim = cloth.system, cloth.simulator
    corners, k = np.array([(min(e), k) for e, k in zip(s.ends, s.stiffness, strict=True) if max(e) >= s.points]).T
    a = tensor(u).repeat(1, N, s.handles)
    trajectory = sim.rollout(sim.start(1, x=cloth.goal, v=tensor(u)), a)
    assert trajectory.ok.all()
    x, v, p = (rows[0, -1].numpy() for rows in (trajectory.x, trajectory.v, trajectory.p))
    load = normal_force(-x[:, 2], s.contact_stiffness[0], s.contact_blend[0])
    assert np.abs(v - u).max() <= 1e-3 * np.linalg.norm(u)
    assert (np.tanh(C * np.linalg.norm(v, axis=1) / (MU * load)) > 0.9999).all()
    grip = (k[:, None] * (p - x[corners.astype(int)])).sum(0)
    assert abs(s.mass.sum() * GRAVITY - grip[2] - load.sum()) <= 1e-6 * load.sum()
    wanted = s.friction[0] * load.sum() * u[:2] / np.linalg.norm(u)
    assert np.linalg.norm(grip[:2] - wanted) <= 0.002 * np.linalg.norm(wanted)


# A cable from slack to taut


def throw(sim, inputs):
    """The pendulum from x and v with actions a, `inputs` (B, 4 + N): its stretch (B, N+1), a loss of its rows (B,)
    and that loss's gradient by the inputs."""
    inputs = inputs.clone().requires_grad_()
    B, N = len(inputs), inputs.shape[1] - 4
    start = dataclasses.replace(sim.start(B), x=inputs[:, None, :2], v=inputs[:, None, 2:4])
    trajectory = sim.rollout(start, inputs[:, 4:, None])
    assert trajectory.ok.all()
    weight, goal = (systems.random(2, N, 1, 2, seed=seed) for seed in (7, 8))
    rows = torch.stack((trajectory.x, trajectory.v), 1)[:, :, 1:]
    loss = (0.5 * weight.abs() * (rows - goal) ** 2).flatten(1).sum(1)
    (gradient,) = torch.autograd.grad(loss.sum(), inputs)
    stretch = (trajectory.x - trajectory.p)[:, :, 0].norm(dim=-1) - sim.system.length[0]
    return stretch.detach(), loss.detach(), gradient


def thrown(N, speed=2.0):
    """Upwards, so that the cable is slack for 20 steps of 0.02 s."""
    return torch.tensor([[0.1, -0.485, 0.0, speed] + [0.1] * N], dtype=torch.float64)


def test_gradient_across_the_switch_equals_finite_differences(simulator):
    """Slack, taut, slack, taut, slack: central differences over ±1e-6 in each input."""
    sim, inputs, step = simulator("pendulum", 0.02), thrown(40), 1e-6
    stretch, _, gradient = throw(sim, inputs)
    assert (torch.diff((stretch[0] > 0).int()) != 0).sum() == 4 and (stretch[0, 1:].abs() > 5e-5).all()
    moves = step * torch.eye(inputs.shape[1], dtype=torch.float64)
    central = (throw(sim, inputs + moves)[1] - throw(sim, inputs - moves)[1]) / (2 * step)
    assert (central - gradient[0]).norm() <= 1e-7 * gradient.norm()


@pytest.mark.parametrize("edge", (-1, 1))
def test_gradient_is_continuous_across_the_switch(simulator, edge):
    """With the speed θ at which row 21 has the stretch ±ε, gradients at θ ± q differ by O(q)."""
    sim, row, N = simulator("pendulum", 0.02), 21, 23
    target = edge * sim.system.blend[0]

    def stretch(speed):
        return throw(sim, thrown(N, speed))[0][0, row] - target

    low, high = 2.0, 2.2
    assert stretch(low) > 0 > stretch(high)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if stretch(middle) > 0 else (low, middle)
    differences = []
    for n in range(8):
        q = 1e-6 * 2.0**-n
        at, _, gradient = throw(sim, torch.cat((thrown(N, low - q), thrown(N, low + q))))
        assert at[0, row] > target > at[1, row]
        differences.append(((gradient[1] - gradient[0]).norm() / gradient.norm()).item())
    assert np.abs(np.log2(np.array(differences[:-1]) / differences[1:]) - 1).max() <= 0.05
