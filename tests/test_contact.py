"""Contact planes and their friction against closed forms: inclines, a dropped point, a dragged cloth, derivatives.

A point at depth δ = −gap bears the load f_n = k (δ + ε)²/4ε for |δ| < ε and k δ above, and friction resists the slip
v_t, s = ‖v_t‖, with F tanh(c s / F), F = μ f_n and c = k_t h.
"""

import functools

import numpy as np
import pytest
import systems
import taichi as ti
import torch

import tasks
from taichi_sim import Builder, Simulator
from taichi_sim.builder import GRAVITY
from taichi_sim.friction import SATURATED, SERIES, coulomb
from taichi_sim.verification import adjoint_mismatch, taylor_rate_of_input

pytestmark = pytest.mark.usefixtures("simulator")  # it starts Taichi

H, MASS, K, BLEND, MU, TANGENTIAL = 0.016, 0.05, 400.0, 5e-4, 0.4, 100.0
PULL = 20.0  # N/m
C = TANGENTIAL * H
SHARES = {2: (0.3, 0.9, 2.0), 3: (0.1, 0.6, 0.9, 2.0)}  # tan θ / μ of the inclines; the last does not hold a point
FAR = 20.0  # m, from the origin to each incline


def normal_force(depth, k=K, blend=BLEND):
    """f_n at `depth` δ; real or complex."""
    curved = k * (depth + blend) ** 2 / (4 * blend)
    return np.where(depth.real >= blend, k * depth, np.where(depth.real > -blend, curved, 0.0))


def friction(slip, limit, c=C):
    """−F tanh(c s / F) v_t / s (..., d) for slip ≠ 0; real or complex."""
    s = np.sqrt((slip**2).sum(-1, keepdims=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(limit.real > 0, -limit * np.tanh(c * s / limit) * slip / s, 0.0)


def complex_step(f, at, axis):
    """∂f/∂at[..., axis], exact to round-off."""
    moved = at.astype(complex)
    moved[..., axis] += 1e-30j
    return f(moved).imag / 1e-30


def rollout(sim, a, x=None, v=None):
    """B healthy rollouts; x and v as NumPy."""
    options = {name: None if value is None else torch.as_tensor(value) for name, value in (("x", x), ("v", v))}
    trajectory = sim.rollout(sim.start(len(a), **options), a)
    assert trajectory.ok.all()
    return trajectory.x.numpy(), trajectory.v.numpy()


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


def no_actions(B, N):
    return torch.zeros(B, N, 0, dtype=torch.float64)


@pytest.mark.parametrize("dim", (2, 3))
def test_point_creeps_down_an_incline_at_the_speed_of_the_tanh_law(dim):
    """μ f_n tanh(c s / μ f_n) = m g sin θ at s = (μ f_n / c) atanh(tan θ / μ), f_n = m g cos θ."""
    sim, theta, normals, downhill = (part if n == 0 else part[:-1] for n, part in enumerate(trough(dim)))
    load = MASS * GRAVITY * np.cos(theta)
    x = -(FAR + load / K)[:, None, None] * normals[:, None]
    x, v = rollout(sim, no_actions(len(theta), 350), x)
    creep = (MU * load / C * np.arctanh(np.tan(theta) / MU))[:, None] * downhill
    error = np.linalg.norm(v[:, -1, 0] - creep, axis=1) / np.linalg.norm(creep, axis=1)
    print("creep", error)
    assert error.max() <= 1e-8
    assert np.abs(x[:, -1, 0] - x[:, -2, 0] - H * creep).max() <= 1e-8 * H


@pytest.mark.parametrize("dim", (2, 3))
@pytest.mark.parametrize("way", (1, -1))
def test_point_sliding_fast_accelerates_at_the_rate_of_coulombs_law(dim, way):
    """v̇ = g (sin θ − μ cos θ) down, g (sin θ + μ cos θ) while it slides up: tanh z is 1 to round-off for z > 19."""
    sim, theta, n, t = (part if n == 0 else part[-1] for n, part in enumerate(trough(dim)))
    load = MASS * GRAVITY * np.cos(theta)
    x, v = rollout(sim, no_actions(1, 15), -(FAR + load / K) * n, way * 6.0 * t)
    assert (C * (way * v[0, :, 0] @ t) / (MU * load) > 19).all()
    rate = np.diff(v[0, :, 0], axis=0) / H
    wanted = GRAVITY * (np.sin(theta) - way * MU * np.cos(theta)) * t
    print("slide", np.abs(rate - wanted).max() / np.linalg.norm(wanted))
    assert np.abs(rate - wanted).max() <= 1e-8 * np.linalg.norm(wanted)


@pytest.mark.parametrize("mass", (0.004, 0.01, 0.1))
def test_dropped_point_rests_at_the_depth_where_the_smoothed_law_bears_it(mass):
    """k (δ + ε)²/4ε = m g for m g < k ε, with δ < 0 for m g < k ε/4; else k δ = m g."""
    b = Builder("dropped", 2)
    b.point((0.0, 0.01), mass)
    b.plane((0.0, 1.0), 0.0, K, BLEND)
    load = mass * GRAVITY
    depth = load / K if load >= K * BLEND else 2 * np.sqrt(load * BLEND / K) - BLEND
    x, v = rollout(Simulator(b.build(), H), no_actions(1, 1000))
    print("drop", depth, abs(x[0, -1, 0, 1] + depth), abs(v[0, -1]).max())
    assert abs(x[0, -1, 0, 1] + depth) <= 1e-12
    assert np.abs(v[0, -1]).max() <= 1e-12


# The law


@ti.kernel
def _coulomb(slip: ti.types.ndarray(ndim=2), limit: ti.types.ndarray(ndim=1), c: float, out: ti.types.ndarray(ndim=2)):
    for i in range(slip.shape[0]):
        force, across, along, turn = coulomb(ti.Vector([slip[i, 0], slip[i, 1]]), limit[i], c)
        for k in ti.static(range(2)):
            out[i, k] = force[k]
            out[i, 2 + k] = turn[k]
        out[i, 4], out[i, 5] = across, along


def coulombs(slip, limit, c=C):
    """force (n, 2), ∂force/∂slip (n, 2, 2) and ∂force/∂limit (n, 2) at `slip` (n, 2) and `limit` (n,)."""
    out = torch.zeros(len(slip), 6, dtype=torch.float64)
    _coulomb(torch.as_tensor(slip), torch.as_tensor(limit), c, out)
    out = out.numpy()
    heading = slip / np.maximum(np.linalg.norm(slip, axis=1), 1e-150)[:, None]
    by_slip = out[:, 4, None, None] * np.eye(2) + out[:, 5, None, None] * heading[:, :, None] * heading[:, None]
    return out[:, :2], by_slip, out[:, 2:4]


def slips(z, limit):
    """Slip velocities (n, 2) in various directions with c s / F = z."""
    angle = 0.3 + np.arange(len(z))
    return (z * limit / C)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)


def test_friction_and_its_derivatives_are_those_of_the_tanh_law():
    """Against complex steps, for slips from 1e-6 to 10 m/s and loads from 1e-6 to 10 N: z from 4e-7 to 4e7."""
    speed, load = (g.ravel() for g in np.meshgrid(np.geomspace(1e-6, 10, 113), np.geomspace(1e-6, 10, 29)))
    limit = MU * load
    z = C * speed / limit
    assert z.min() < 1e-6 and z.max() > 1e7 and ((z > SERIES) & (z < SATURATED)).sum() > 500
    slip = slips(z, limit)
    force, by_slip, by_limit = coulombs(slip, limit)
    size = np.minimum(C, limit / speed)
    exact = -friction(slip, limit[:, None])
    print("force", (np.linalg.norm(force - exact, axis=1) / (size * speed)).max())
    for k in range(2):
        e = np.abs(by_slip[:, :, k] + complex_step(lambda s: friction(s, limit[:, None]), slip, k)).max(1) / size
        print("by slip", e.max(), z[e.argmax()])
    e = by_limit + complex_step(lambda F: friction(slip, F), limit[:, None], 0)
    e = np.abs(e).max(1) / np.minimum(1, z)
    print("by limit", e.max(), z[e.argmax()])
    e = np.linalg.norm(force, axis=1) / limit - 1
    print("above", e.max())


def test_friction_is_continuous_where_its_formulas_change():
    for edge in (SERIES, SATURATED):
        for limit in (1e-6, 1e-3, 10.0):
            z = edge * np.array([1 - 1e-14, 1 + 1e-14])
            slip = z[:, None] * limit / C * np.array([0.6, -0.8])
            for name, part in zip(("force","slip","limit"), coulombs(slip, np.full(2, limit))):
                print(edge, limit, name, np.abs(np.diff(part, axis=0)).max() / np.abs(part).max())


def test_unloaded_point_feels_no_friction():
    force, by_slip, by_limit = coulombs(np.array([[0.0, 0.0], [1e-6, 0.0], [3.0, -4.0]]), np.zeros(3))
    assert (force == 0).all() and (by_slip == 0).all() and (by_limit == 0).all()
    force, by_slip, by_limit = coulombs(np.zeros((1, 2)), np.ones(1))
    assert (force == 0).all() and (by_slip == C * np.eye(2)).all() and (by_limit == 0).all()


# The step through contact


@functools.cache
def dragged_point():
    """A point on an incline in 3D, pulled by a handle through a spring of rest length 0; the incline's normal."""
    b = Builder("dragged point", 3)
    b.spring(b.handle((0.0, 0.0, 0.0), axes="xyz"), b.point((0.0, 0.0, 0.0), MASS), PULL, length=0.0)
    b.plane((1.0, -2.0, 10.0), 0.0, K, BLEND, MU, TANGENTIAL)
    system = b.build()
    return Simulator(system, H), system.normal[0]


def contact_force(x, v):
    """On the dragged point, by plane and friction; real or complex."""
    n = dragged_point()[1]
    load = normal_force(-(x @ n))[:, None]
    return load * n + friction(v - (v @ n)[:, None] * n, MU * load)


def test_step_solves_the_law_and_has_its_derivatives():
    """From rows x₀, v₀, with v₁ = (x₁ − x₀)/h, the first step solves m (v₁ − v₀)/h = m g − k x₁ + f(x₁, v₁), so that
    with D_x, D_v the derivatives of f, by complex steps, J = m/h² + k − D_x − D_v/h gives

        ∂x₁/∂x₀ = J⁻¹ (m/h² − D_v/h),   ∂x₁/∂v₀ = J⁻¹ m/h.
    """
    sim, n = dragged_point()
    speed, depth = np.geomspace(1e-6, 10, 29), np.array([-5e-3, -0.7 * BLEND, 0.2 * BLEND, 3e-3, 2e-2])
    speed, depth = (g.ravel() for g in np.meshgrid(speed, depth))
    x1, v1 = (systems.random(len(depth), 3, seed=seed, scale=0.1).numpy() for seed in (1, 2))
    x1, v1 = x1 - ((x1 @ n) + depth)[:, None] * n, v1 - (v1 @ n)[:, None] * n
    v1 *= (speed / np.linalg.norm(v1, axis=1))[:, None]
    x0 = x1 - H * v1
    v0 = v1 - H / MASS * (MASS * sim.system.gravity - PULL * x1 + contact_force(x1, v1))
    start = sim.start(len(depth), x=torch.as_tensor(x0)[:, None], v=torch.as_tensor(v0)[:, None])
    trajectory = sim.rollout(start, torch.zeros(len(depth), 1, 3, dtype=torch.float64))
    assert trajectory.ok.all()
    print("step", np.abs(trajectory.x[:, 1, 0].numpy() - x1).max(), np.abs(trajectory.v[:, 1, 0].numpy() - v1).max())
    Dx = np.stack([complex_step(lambda x: contact_force(x, v1), x1, k) for k in range(3)], 2)
    Dv = np.stack([complex_step(lambda v: contact_force(x1, v), v1, k) for k in range(3)], 2)
    eye = np.eye(3)
    J = (MASS / H**2 + PULL) * eye - Dx - Dv / H
    for k in range(3):
        gx = torch.zeros_like(trajectory.x)
        gx[:, 1, :, k] = 1.0
        gradient = sim.vjp(trajectory, gx=gx)
        row = np.linalg.inv(J)[:, k]
        for found, right in ((gradient.x, MASS / H**2 * eye - Dv / H), (gradient.v, MASS / H * np.broadcast_to(eye, Dv.shape))):
            wanted = np.einsum("bi,bij->bj", row, right)
            print("step", k, (np.abs(found[:, 0].numpy() - wanted).max(1) / np.abs(wanted).max(1)).max())


def drag(name):
    """Simulator, starts (B, ...) and actions (B, N, m) that press and pull a point over its incline, or the cloth's
    grips down onto the table and sideways; B = 2."""
    N = 12
    sim = dragged_point()[0] if name == "point" else cloth().simulator
    d, H_ = 3, sim.system.handles
    t = torch.linspace(0, 1, N, dtype=torch.float64)[:, None, None]
    way = systems.random(2, 1, 1, d, seed=3)
    way = 0.6 * way / way.norm(dim=-1, keepdim=True)
    way[..., 2] = -0.2
    a = (way * (1 - 0.5 * t) + systems.random(2, N, H_, d, seed=4, scale=0.05)).flatten(2)
    x = torch.as_tensor(sim.system.rest.copy())[None] + systems.random(2, sim.system.points, d, seed=5, scale=1e-3)
    v = systems.random(2, sim.system.points, d, seed=6, scale=0.1)
    return sim, sim.start(2, x=x, v=v), a


@pytest.mark.parametrize("name", ("point", "cloth"))
def test_gradient_through_sliding_contact_is_right(name):
    sim, start, a = drag(name)
    rows = sim.rollout(start, a)
    assert rows.ok.all()
    s = sim.system
    n = s.normal[0]
    depth = s.offset[0] - rows.x.numpy() @ n
    v = rows.v.numpy()
    slip = np.linalg.norm(v - (v @ n)[..., None] * n, axis=-1)
    limit = MU * normal_force(depth, s.contact_stiffness[0], s.contact_blend[0])
    touching = depth > -s.contact_blend[0]
    print(name, "touching", touching.mean(), "sliding", (touching & (slip > limit / C)).mean(), "sticking", (touching & (slip < limit / C)).mean())
    weight, goal = (systems.random(2, 12, s.points, 3, seed=seed) for seed in (7, 8))

    def value(a):
        copies = len(a) // len(start)
        many = start[torch.arange(len(start)).repeat(copies)]
        t = sim.rollout(many, a)
        assert t.ok.all()
        rows = torch.stack((t.x[:, 1:], t.v[:, 1:]), 1)
        return (0.5 * weight.abs() * (rows - goal) ** 2).flatten(1).sum(1)

    generator = torch.Generator().manual_seed(0)
    print("rate", taylor_rate_of_input(value, a, generator))
    print("mismatch", adjoint_mismatch(sim, rows, generator))


# Cloth


@functools.cache
def cloth():
    return tasks.make("cloth-lay")


@pytest.mark.parametrize("SP", (.5,1,2,4))
def test_cloth_dragged_over_the_table_is_held_back_by_mu_times_its_load(SP):
    task = cloth()
    s = task.system
    sim = task.simulator
    corners = [min(e) for e in s.ends[s.ends.max(1) >= s.points].tolist()]
    u = np.array([0.12, 0.05, 0.0]) * SP
    N = 300
    a = torch.as_tensor(np.tile(u, 4)).expand(1, N, 12).contiguous()
    trajectory = sim.rollout(sim.start(1, x=task.goal, v=torch.as_tensor(u)), a)
    assert trajectory.ok.all()
    x, v, p = (r[0].numpy() for r in (trajectory.x, trajectory.v, trajectory.p))
    grip = (100.0 * (p - x[:, corners])).sum(1)
    load = normal_force(-x[..., 2], blend=1e-3).sum(1)
    for t in (0, 1,10,50,100,200,250,290, 299,300):
        f = normal_force(-x[t, :, 2], blend=1e-3)
        slip = np.linalg.norm(v[t, :, :2], axis=1)
        print(t, grip[t], np.linalg.norm(grip[t,:2])/(MU*load[t]), load[t], s.mass.sum()*GRAVITY-grip[t,2], np.tanh(C*slip/(MU*f)).min(), np.abs(v[t]-u).max())
