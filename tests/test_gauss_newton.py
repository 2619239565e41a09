"""The Gauss–Newton step against the dense Ĥ = SᵀQS + R + μI, and against least squares in plain NumPy."""

import functools

import numpy as np
import pytest
import systems
import torch

from taichi_sim import Builder, InputError, Simulator, State

B, N = 6, 12
NAMES = (
    "oscillator",
    "pendulum",
    "damped_pendulum",
    "double",
    "rope",
    "net",
)
ITERATIVE = ("oscillator", "damped_pendulum", "rope")  # kernels take long to compile


def problem(simulator, first=True, per_rollout=True, damping=True, seed=0):
    """A trajectory, random g, Q ≥ 0 and R > 0 and damping ≥ 0."""
    sim, m = simulator, simulator.system.actions
    trajectory = sim.rollout(systems.start(sim, B, seed, first), systems.actions(sim, B, N, seed))
    assert trajectory.ok.all()
    copies = B if per_rollout else 1
    g = systems.random(B, N, m, seed=seed + 20)
    q = systems.random(copies, N, sim.system.state_size, seed=seed + 21).abs()
    r = systems.random(copies, N, m, seed=seed + 22).abs() + 0.1
    mu = systems.random(B, seed=seed + 23).abs() if damping else torch.zeros(B, dtype=torch.float64)
    return trajectory, g, q, r, mu


def dense(simulator, trajectory, q, r, mu):
    """Ĥ (B, N·m, N·m)."""
    S = simulator.jacobian(trajectory)
    S = S.flatten(3).flatten(1, 2)
    R = torch.diag_embed(r.reshape(len(r), -1) + mu[:, None])
    return S.transpose(1, 2) @ (q.reshape(len(q), -1, 1) * S) + R


def solve(simulator, method, *arguments, **more):
    """By the recursion, or by conjugate gradients to 1e-12."""
    if method == "riccati":
        return simulator.gauss_newton_riccati(*arguments, **more)
    return simulator.gauss_newton_cg(*arguments, **more, tolerance=1e-12)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((name, "riccati") for name in NAMES),
        pytest.param("graph", "riccati", marks=pytest.mark.slow),
        *((name, "cg") for name in ITERATIVE),
    ],
)
def test_step_solves_the_dense_system(simulator, name, method):
    """‖Ĥδa + g‖ ≤ 1e-10 ‖g‖, and δa to 1e-8 of the dense solution where cond(Ĥ) ≤ 1e6."""
    sim = simulator(name)
    for first, per_rollout, effort in ((True, True, 1.0), (False, False, 1.0), (True, True, 1e-4)):
        trajectory, g, q, r, mu = problem(sim, first, per_rollout)
        r, mu = effort * r, effort * mu
        H = dense(sim, trajectory, q, r, mu)
        da = solve(sim, method, trajectory, g, q, r, mu).da.reshape(B, -1, 1)
        flat = g.reshape(B, -1, 1)
        assert ((H @ da + flat).norm(dim=1) <= 1e-10 * flat.norm(dim=1)).all()
        exact = torch.linalg.solve(H, -flat)
        error = (da - exact).norm(dim=1) / exact.norm(dim=1)
        tame = torch.linalg.cond(H) <= 1e6
        assert tame.any() and error[tame].max() <= 1e-8


def test_damping_defaults_to_none(simulator):
    sim = simulator("double")
    trajectory, g, q, r, mu = problem(sim, damping=False)
    assert torch.equal(sim.gauss_newton(trajectory, g, q, r).da, sim.gauss_newton(trajectory, g, q, r, mu).da)


@pytest.mark.parametrize("name", (*NAMES, pytest.param("graph", marks=pytest.mark.slow)))
def test_held_actions_stay_and_the_rest_solves_its_own_system(simulator, name):
    """δa = 0 where held; (Ĥδa + g) = 0 where free; the gains of held actions are zero."""
    sim = simulator(name)
    trajectory, g, q, r, mu = problem(sim)
    H = dense(sim, trajectory, q, r, mu)
    free = systems.random(B, N, sim.system.actions, seed=30) > -0.3
    assert free.any() and not free.all()
    step = sim.gauss_newton_riccati(trajectory, g, q, r, mu, free)
    residual = (H @ step.da.reshape(B, -1, 1)).reshape(g.shape) + g
    assert (step.da[~free] == 0).all() and (step.gains[~free] == 0).all()
    assert residual[free].abs().max() <= 1e-10 * g.norm()
    everything_held = sim.gauss_newton_riccati(trajectory, g, q, r, mu, torch.zeros_like(free))
    assert (everything_held.da == 0).all()


@pytest.mark.parametrize("name", ("damped_pendulum", "double", "net"))
def test_boxed_step_meets_the_optimality_conditions(simulator, name):
    """|a + δa| ≤ limit, (Ĥδa + g) zero inside the box and pointing outward at its faces; image = Ĥδa."""
    sim = simulator(name)
    trajectory, g, q, r, mu = problem(sim)
    limit, H = trajectory.a.abs().max().item(), dense(sim, trajectory, q, r, mu)
    goal = 1e-10 * g.flatten(1).norm(dim=1)
    found = sim.gauss_newton_boxed(trajectory, limit, goal, g, q, r, mu)
    image = (H @ found.da.reshape(B, -1, 1)).reshape(g.shape)
    assert (found.image - image).norm() <= 1e-12 * image.norm()
    at, slope = trajectory.a + found.da, g + image
    low, high = at <= -limit * (1 - 1e-9), at >= limit * (1 - 1e-9)
    assert at.abs().max() <= limit * (1 + 1e-15)
    assert 0.05 < (low | high).double().mean() < 0.95
    small = goal[:, None, None] + 1e-13 * g.norm()
    assert (slope.abs() <= small)[~(low | high)].all()
    assert (slope >= -small)[low].all() and (slope <= small)[high].all()


def test_round_off_does_not_grow_over_many_steps(simulator):
    """The step of 300 actions, times Ĥ, is −g: a recursion that lets P become unsymmetric ends in NaN."""
    sim, count, steps = simulator("double"), 9, 300
    trajectory = sim.rollout(systems.start(sim, count), systems.actions(sim, count, steps))
    g, r = (systems.random(count, steps, sim.system.actions, seed=seed) for seed in (30, 31))
    q = systems.random(1, steps, sim.system.state_size, seed=32).abs()
    model = (g, q, r.abs() + 0.1)
    step = sim.gauss_newton_boxed(trajectory, 1e6, 1e-9 * g.flatten(1).norm(dim=1), *model)
    assert trajectory.ok.all() and (step.iterations == 1).all()
    assert ((step.image + g).norm(dim=(1, 2)) <= 1e-9 * g.norm(dim=(1, 2))).all()
    assert (step.da - sim.gauss_newton_riccati(trajectory, *model).da).abs().max() < 1e-9


@pytest.mark.parametrize("name", ("damped_pendulum", "double"))
def test_boxed_step_far_from_its_bounds_is_the_recursions(simulator, name):
    sim = simulator(name)
    trajectory, g, q, r, mu = problem(sim)
    goal = 1e-10 * g.flatten(1).norm(dim=1)
    free, boxed = (
        sim.gauss_newton_riccati(trajectory, g, q, r, mu),
        sim.gauss_newton_boxed(trajectory, 1e6, goal, g, q, r, mu),
    )
    assert (boxed.iterations == 1).all() and (boxed.da - free.da).abs().max() <= 1e-12 * free.da.abs().max()


@pytest.mark.parametrize("name", ("oscillator", "damped_pendulum", "double", "rope"))
def test_curvature_is_the_schur_complement_of_the_later_actions(simulator, name):
    """M_aa(t) = Ĥ_tt − Ĥ_tl Ĥ_ll⁻¹ Ĥ_lt, l the actions after t: they react optimally, those before are fixed."""
    sim, m = simulator(name), simulator(name).system.actions
    trajectory, g, q, r, mu = problem(sim)
    H = dense(sim, trajectory, q, r, mu)
    curvature = sim.gauss_newton_riccati(trajectory, g, q, r, mu).curvature
    for t in range(N):
        now, later = slice(t * m, (t + 1) * m), slice((t + 1) * m, None)
        schur = H[:, now, now] - H[:, now, later] @ torch.linalg.solve(H[:, later, later], H[:, later, now])
        assert (curvature[:, t] - schur).norm() <= 1e-10 * schur.norm()


@pytest.mark.parametrize("name", ("oscillator", "damped_pendulum", "double", "rope"))
def test_gains_answer_a_deviation_as_the_minimiser_would(simulator, name):
    """Move δa_0 off its optimum; δa_t + K_t (δs_t − δs_t*) then minimises over the other actions."""
    sim, m = simulator(name), simulator(name).system.actions
    trajectory, g, q, r, mu = problem(sim, first=False)
    H = dense(sim, trajectory, q, r, mu)
    step = sim.gauss_newton_riccati(trajectory, g, q, r, mu)
    axes = torch.as_tensor(sim.system.axes.copy())

    def states(da, t):
        """δs_t = [x, x₋₁, v, v₋₁, π] when the actions change by da."""
        dx, dv, dp = (rows.flatten(2) for rows in sim.jvp(trajectory, da))
        return torch.cat([dx[:, t], dx[:, t - 1], dv[:, t], dv[:, t - 1], dp[:, t] @ axes], 1)

    da = step.da.clone()
    da[:, 0] += systems.random(B, m, seed=40)
    for t in range(1, N):
        da[:, t] = step.da[:, t] + torch.einsum("bmn,bn->bm", step.gains[:, t], states(da, t) - states(step.da, t))
    rest = H[:, m:, m:]
    fixed = g.reshape(B, -1, 1)[:, m:] + H[:, m:, :m] @ da[:, 0, :, None]
    exact = torch.linalg.solve(rest, -fixed).reshape(B, N - 1, m)
    assert (da[:, 1:] - step.da[:, 1:]).norm() > 1e-2 * step.da.norm()
    assert (da[:, 1:] - exact).norm() <= 1e-9 * exact.norm()


def matrices(system, h):
    """M, K, G, c of an affine system, M ẍ = −K x + G p + c, from its springs of rest length 0; ⊗ I_d throughout."""
    P, d = system.points, system.dim
    laplacian = np.zeros((P + system.handles,) * 2)
    for (i, j), k in zip(system.ends, system.stiffness, strict=True):
        laplacian[[i, j], [i, j]] += k
        laplacian[[i, j], [j, i]] -= k
    eye = np.eye(d)
    mass = np.kron(np.diag(system.mass), eye)
    load = np.kron(system.mass, system.gravity)
    return mass, np.kron(laplacian[:P, :P], eye), -np.kron(laplacian[:P, P:], eye), load


def affine_rows(system, h, x0, v0, p0, a):
    """x, v, p of every row by the scheme, in NumPy: (M c₀²/h² + K) x₁ = G p₁ + c − M (c₀ q/h + c₁ v₀ + c₂ v₋₁)/h,
    q = c₁ x₀ + c₂ x₋₁, v₁ = (c₀ x₁ + q)/h."""
    mass, K, G, load = matrices(system, h)
    x, v, p = [x0], [v0], [p0]
    for t in range(len(a)):
        c0, c1, c2 = (1.5, -2.0, 0.5) if t else (1.0, -1.0, 0.0)
        q = c1 * x[-1] + c2 * x[-2 if t else -1]
        p.append(p[-1] + h * system.axes @ a[t])
        force = G @ p[-1] + load - mass @ (c0 / h * q + c1 * v[-1] + c2 * v[-2 if t else -1]) / h
        x.append(np.linalg.solve(mass * c0 * c0 / h**2 + K, force))
        v.append((c0 * x[-1] + q) / h)
    return np.array(x), np.array(v), np.array(p)


@pytest.mark.parametrize("name", ("oscillator", "net"))
def test_one_step_solves_the_linear_quadratic_problem(simulator, name):
    """min Σ ½ q·(s − s*)² + ½ r·a² over an affine system: one step from zero actions ends at the minimiser, which
    dense least squares finds without the simulator."""
    sim, steps = simulator(name), 30
    system, m = sim.system, sim.system.actions
    rng = np.random.default_rng(0)
    x0 = system.rest.ravel() + 0.1 * rng.standard_normal(system.rest.size)
    v0, p0 = rng.standard_normal(x0.size), system.home.ravel()
    q, goal = rng.random((steps, system.state_size)), rng.standard_normal((steps, system.state_size))
    r = 0.05 + rng.random((steps, m))

    def states(a):
        x, v, p = affine_rows(system, sim.h, x0, v0, p0, a)
        return np.concatenate([p[1:] @ system.axes, x[1:], v[1:]], 1).ravel()

    free = states(np.zeros((steps, m)))
    S = np.array([states(e.reshape(steps, m)) - free for e in np.eye(steps * m)]).T
    A = np.concatenate([np.sqrt(q.ravel())[:, None] * S, np.diag(np.sqrt(r.ravel()))])
    b = np.concatenate([np.sqrt(q.ravel()) * (goal.ravel() - free), np.zeros(r.size)])
    best = np.linalg.lstsq(A, b)[0].reshape(steps, m)

    def tensor(array, *shape):
        return torch.as_tensor(array.copy()).reshape(shape)

    def cost(a):
        trajectory = sim.rollout(start, a)
        x, v, p = (rows[:, 1:].flatten(2) for rows in (trajectory.x, trajectory.v, trajectory.p))
        s = torch.cat([p @ torch.as_tensor(system.axes.copy()), x, v], 2)
        return trajectory, 0.5 * (Q * (s - torch.as_tensor(goal)) ** 2).sum() + 0.5 * (R * a**2).sum()

    P, d = system.points, system.dim
    start = sim.start(1, x=tensor(x0, P, d), v=tensor(v0, P, d), p=tensor(p0, system.handles, d))
    Q, R = torch.as_tensor(q)[None], torch.as_tensor(r)[None]
    a = torch.zeros(1, steps, m, dtype=torch.float64, requires_grad=True)
    trajectory, before = cost(a)
    before.backward()
    da = sim.gauss_newton(trajectory, a.grad, Q, R).da
    assert np.linalg.norm(da[0].numpy() - best) <= 1e-9 * np.linalg.norm(best)
    a = da.clone().requires_grad_()
    _, after = cost(a)
    after.backward()
    assert after < before and a.grad.norm() <= 1e-10 * before.item()


@pytest.mark.parametrize("name", ("oscillator", "net"))
def test_rollout_of_a_linear_system_equals_plain_numpy(simulator, name):
    sim = simulator(name)
    start, a = systems.start(sim, 2), systems.actions(sim, 2, 40)
    trajectory = sim.rollout(start, a)
    for b in range(2):
        x, v, p = affine_rows(
            sim.system, sim.h, *(getattr(start, n)[b].numpy().ravel() for n in ("x", "v", "p")), a[b].numpy()
        )
        assert np.abs(trajectory.x[b].flatten(1).numpy() - x).max() < 1e-12
        assert np.abs(trajectory.v[b].flatten(1).numpy() - v).max() < 1e-11
        assert np.abs(trajectory.p[b].flatten(1).numpy() - p).max() < 1e-14


@pytest.mark.parametrize("method", ("riccati", "cg"))
def test_a_failed_rollout_has_no_step(simulator, method):
    sim = simulator("damped_pendulum")
    trajectory, g, q, r, mu = problem(sim)
    a = trajectory.a.clone()
    a[2, 5] = 1e200
    poisoned = sim.rollout(trajectory.start, a)
    assert poisoned.ok.tolist() == [b != 2 for b in range(B)]
    healthy, step = (solve(sim, method, t, g, q, r, mu) for t in (trajectory, poisoned))
    keep = [0, 1, 3, 4, 5]
    for rows in ("da", "gains") if method == "riccati" else ("da", "image", "iterations"):
        mine, theirs = getattr(step, rows), getattr(healthy, rows)
        assert (mine[2] == 0).all() and torch.equal(mine[keep], theirs[keep])


# Conjugate gradients


@pytest.mark.parametrize("name", ITERATIVE)
def test_conjugate_gradients_hold_what_is_held_and_know_the_image_of_their_step(simulator, name):
    sim = simulator(name)
    trajectory, g, q, r, mu = problem(sim)
    H = dense(sim, trajectory, q, r, mu)
    free = systems.random(B, N, sim.system.actions, seed=30) > -0.3
    step = solve(sim, "cg", trajectory, g, q, r, mu, free)
    image = (H @ step.da.reshape(B, -1, 1)).reshape(g.shape)
    assert (step.da[~free] == 0).all() and (image + g)[free].abs().max() <= 1e-10 * g.norm()
    assert (step.image - image).norm() <= 1e-12 * (H.norm(dim=(1, 2)) * step.da.flatten(1).norm(dim=1)).norm()
    still = sim.gauss_newton_cg(trajectory, g, q, r, mu, torch.zeros_like(free))
    assert (still.da == 0).all() and (still.image == 0).all() and (still.iterations == 0).all()


def test_conjugate_gradients_stop_at_their_tolerance_and_limit(simulator):
    """At 0.1 the free residual is at most a tenth of the free gradient, in fewer iterations than at 1e-12."""
    sim = simulator("rope")
    trajectory, g, q, r, mu = problem(sim)
    free = systems.random(B, N, sim.system.actions, seed=30) > -0.3
    exact = solve(sim, "cg", trajectory, g, q, r, mu, free)
    rough = sim.gauss_newton_cg(trajectory, g, q, r, mu, free, tolerance=0.1)
    residual = ((dense(sim, trajectory, q, r, mu) @ rough.da.reshape(B, -1, 1)).reshape(g.shape) + g) * free
    assert (residual.flatten(1).norm(dim=1) <= 0.1 * (g * free).flatten(1).norm(dim=1)).all()
    assert (rough.iterations < exact.iterations).all() and (rough.iterations >= 1).all()
    for limit in (0, 1, 3):
        cut = sim.gauss_newton_cg(trajectory, g, q, r, mu, free, tolerance=1e-12, limit=limit)
        assert (cut.iterations == limit).all() and bool((cut.da != 0).any()) == (limit > 0)
    slack = sim.gauss_newton_cg(trajectory, g, q, r, mu, free, tolerance=1e-12, limit=int(exact.iterations.max()))
    assert torch.equal(slack.da, exact.da)


@pytest.mark.parametrize("tolerance", (0.0, 1.0, -0.1, float("nan"), float("inf")))
def test_a_tolerance_outside_0_to_1_is_refused(simulator, tolerance):
    sim = simulator("oscillator")
    trajectory, g, q, r, mu = problem(sim)
    with pytest.raises(InputError, match="tolerance: expected a number between 0 and 1, got"):
        sim.gauss_newton_cg(trajectory, g, q, r, mu, tolerance=tolerance)


def test_memory_of_conjugate_gradients_grows_linearly_with_the_horizon(simulator):
    for name in ("rope", "damped_pendulum", "double"):
        cg = simulator(name)._kernels.cg
        assert cg.store(1) > 0 and all(cg.store(2 * N) == 2 * cg.store(N) for N in (1, 50, 1000))


def test_the_method_follows_the_size_of_the_state(simulator):
    for name, direct in (("pendulum", True), ("double", True), ("rope", False)):
        sim = simulator(name)
        trajectory, g, q, r, mu = problem(sim)
        step = sim.gauss_newton(trajectory, g, q, r, mu)
        assert sim.direct == direct == (step.image is None)
        assert step.gains is None and step.curvature is None


# Contact and friction


@functools.cache
def cloth():
    """A square of 3 × 3 points on a rough table, held by a grip at each corner."""
    b = Builder("small cloth", dim=3)
    grid = b.grid((-0.1, -0.1, 0.0), (0.1, 0.0, 0.0), (0.0, 0.1, 0.0), 3, 3, 0.1, stretch=100.0, shear=30.0, bend=1.0)
    for i, x, axes in ((0, -0.1, "x"), (-1, 0.1, "xz")):
        for j, y in ((0, -0.1), (-1, 0.1)):
            b.spring(b.handle((x, y, 0.0), axes=axes), grid[i][j], stiffness=100.0, length=0.0)
    b.plane((0.0, 0.0, 1.0), 0.0, stiffness=400.0, blend=1e-3, friction=0.4, tangential=100.0)
    return Simulator(b.build(), 0.016)


def dragged(simulator, N):
    """Pressed on the table by its grips, 1 cm below it, and dragged along x at about 0.5 m/s."""
    start = simulator.start(B)
    down = torch.tensor([0.0, 0.0, 0.01], dtype=torch.float64)
    x = start.x + systems.random(B, 9, 3, seed=90, scale=2e-3) - 0.3 * down
    start = State.start(x, systems.random(B, 9, 3, seed=91, scale=0.05), start.p - down)
    a = systems.random(B, N, simulator.system.actions, seed=92, scale=0.1)
    a[..., [0, 1, 2, 4]] += 0.5  # the x axes of the four grips
    return simulator.rollout(start, a)


@pytest.mark.parametrize("method", ("riccati", "cg"))
def test_step_of_a_cloth_dragged_over_a_table_solves_the_dense_system(simulator, method):
    """With points that slide, that stick and that hang in the air, actions that are held, and damping."""
    sim, N = cloth(), 8
    trajectory, s = dragged(sim, N), sim.system
    assert trajectory.ok.all()
    load = s.contact_stiffness[0] * (-trajectory.x[:, 1:, :, 2]).clamp(min=0.0)
    slip = s.tangential_stiffness[0] * sim.h * trajectory.v[:, 1:, :, :2].norm(dim=-1) / (s.friction[0] * load)
    touching = load > 0
    assert (slip[touching] > 3).any() and (slip[touching] < 0.5).any() and not touching.all()
    m = s.actions
    g, mu = systems.random(B, N, m, seed=93), systems.random(B, seed=94).abs()
    q, r = systems.random(B, N, s.state_size, seed=95).abs(), systems.random(B, N, m, seed=96).abs() + 0.1
    free = systems.random(B, N, m, seed=97) > -0.8
    assert free.any() and not free.all()
    H = dense(sim, trajectory, q, r, mu)
    for mask in (torch.ones_like(free), free):
        step = solve(sim, method, trajectory, g, q, r, mu, mask)
        image = (H @ step.da.reshape(B, -1, 1)).reshape(g.shape)
        for b in range(B):
            on = mask[b].flatten()
            exact = torch.linalg.solve(H[b][on][:, on], -g[b].flatten()[on])
            assert torch.linalg.cond(H[b]) <= 1e6
            assert (image + g)[b][mask[b]].norm() <= 1e-10 * g[b][mask[b]].norm()
            assert (step.da[b].flatten()[on] - exact).norm() <= 1e-8 * exact.norm()
        assert (step.da[~mask] == 0).all()
        if method == "cg":
            assert (step.image - image).norm() <= 1e-12 * image.norm()
