"""Linearised rollouts, and linear-Gaussian controllers under a KL constraint, against dense linear algebra."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.linalg
import systems
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from learner import gps, linear_gaussian, linearisation
from learner.linear_gaussian import Controllers, Model, constrained_controllers, optimal_controllers, outcome
from learner.objective import cost_gradient
from learner.policy import Policy
from learner.rollouts import closed_loop
from taichi_sim import State

N = 40


# Linearisation


def moved(simulator, state, ds):
    """The state with ds (B, n) added."""
    x, x_prev, v, v_prev, handle = ds.split(4 * [state.x[0].numel()] + [simulator.system.actions], 1)
    axes = torch.as_tensor(simulator.system.axes.copy())
    parts = {"x": x, "x_prev": x_prev, "v": v, "v_prev": v_prev, "p": handle @ axes.T}
    fields = {name: getattr(state, name) + part.view(getattr(state, name).shape) for name, part in parts.items()}
    return State(first=state.first, **fields)


@pytest.mark.parametrize("name", ("damped_pendulum", "double", "net"))
@pytest.mark.parametrize("first", (True, False))
def test_dynamics_are_the_finite_differences_of_a_step(simulator, name, first):
    """Central differences of `Simulator.step` by every number of the state, past included, and by every action."""
    sim, steps, eps = simulator(name), 3, 1e-5
    rows = sim.rollout(systems.start(sim, 4, 0, first), systems.actions(sim, 4, steps, 0))
    assert rows.ok.all()
    AB = linearisation.dynamics(sim, rows)
    n, m = AB.shape[2], sim.system.actions
    for t in range(steps):
        for column in range(n + m):
            ends = []
            for sign in (1.0, -1.0):
                ds, da = torch.zeros(4, n).double(), torch.zeros(4, m).double()
                (ds if column < n else da)[:, column % n if column < n else column - n] = sign * eps
                state = moved(sim, rows.state(t), ds)
                end = sim.rollout(state, (rows.a[:, t] + da)[:, None])
                ends.append(linearisation.state_vector(sim, end, 1))
            found = AB[:, t, :, column]
            difference = (ends[0] - ends[1]) / (2 * eps)
            assert (found - difference).abs().max() < 1e-6 * max(1.0, difference.abs().max())


def test_the_gain_of_a_linear_policy_is_its_matrix(task):
    """With π(o) = G o: columns of positions, velocities and handles, none of the past."""
    made = task("pendulum3d-origin", 5)
    G = systems.random(made.system.actions, made.observation_size, seed=3)
    rows = closed_loop(made, lambda o: o @ G.T, made.start(1, 3))
    handle, x, v = G.split((2, 3, 3), 1)
    expected = torch.cat((x, 0 * x, v, 0 * v, handle), 1)
    gain = linearisation.policy_gain(made, lambda o: o @ G.T, rows)
    assert gain.shape == (3, 5, 2, 14) and (gain - expected).abs().max() < 1e-14


# Controllers


def random_model(B=3, N=6, n=5, m=2, bound=math.inf):
    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    generator = torch.Generator().manual_seed(0)
    root = draw(m, m)
    covariance = 0.1 * torch.eye(m).double() + 0.1 * root @ root.T
    bounds = torch.full((2, B, N, m), bound, dtype=torch.float64)
    curvature = draw(1, N, n).square(), draw(1, N, m).square() + 0.1
    return Model(
        torch.cat((0.5 * draw(B, N, n, n), draw(B, N, n, m)), -1), draw(B, N, n), draw(B, N, m), *curvature,
        draw(B, N, m, n), covariance, -bounds[0], bounds[1],
    )  # fmt: skip


def actions_of(model, K, k, C):
    """Mean (B, N·m) and covariance of all actions where a_t = K s + k + ξ, ξ ~ N(0, C), and ds/da (B, N, n, N·m)."""
    B, N, m = k.shape
    response, S = torch.zeros(B, model.A.shape[-1], N * m).double(), []
    mean, state = torch.zeros(B, N, m).double(), torch.zeros(B, model.A.shape[-1]).double()
    spread, caused = torch.zeros(B, N * m, N * m).double(), torch.zeros(B, model.A.shape[-1], N * m).double()
    for t in range(N):
        own = torch.zeros(m, N * m).double()
        own[:, t * m : (t + 1) * m] = torch.eye(m)
        now = K[:, t] @ caused + own  # da_t/dξ
        spread[:, t * m : (t + 1) * m] = now
        caused = model.A[:, t] @ caused + model.B[:, t] @ now
        mean[:, t] = (K[:, t] @ state[..., None])[..., 0] + k[:, t]
        state = (model.A[:, t] @ state[..., None] + model.B[:, t] @ mean[:, t, :, None])[..., 0]
        response = model.A[:, t] @ response + model.B[:, t] @ own
        S.append(response)
    noise = torch.stack([torch.block_diag(*C[b]) for b in range(B)])
    return mean.flatten(1), spread @ noise @ spread.mT, torch.stack(S, 1)


def dense(model, eta):
    """The best Gaussian over all actions: precision Λ̄ + H/η, mean −Λ⁻¹g/η; and g, H, the policy's Gaussian."""
    B, N, m = model.g_a.shape
    zero, constant = torch.zeros_like(model.g_a), model.covariance.expand(B, N, m, m)
    _, policy, S = actions_of(model, model.gain, zero, constant)
    H = (S.mT @ (model.q[..., None] * S)).sum(1) + torch.diag_embed(model.r.flatten(1))
    g = (S.mT @ model.g_s[..., None])[..., 0].sum(1) + model.g_a.flatten(1)
    best = torch.linalg.inv(torch.linalg.inv(policy) + H / eta[:, None, None])
    mean = -(best @ g[..., None])[..., 0] / eta[:, None]
    return mean, best, g, H, policy


def test_controllers_are_the_best_gaussian_over_all_actions():
    """The dynamics are deterministic, so p and π̄ are Gaussians of the N·m actions, where E[c] + η D_KL is minimised by
    one matrix inversion. Means, covariances, D_KL (by torch.distributions) and costs agree with those of the backward
    and the forward pass."""
    model, eta = random_model(), torch.tensor([0.03, 1.0, 40.0], dtype=torch.float64)
    mean, covariance, g, H, policy = dense(model, eta)
    controllers = optimal_controllers(model, eta)
    found_mean, found_covariance, _ = actions_of(model, controllers.K, controllers.k, controllers.C)
    assert torch.allclose(found_mean, mean, rtol=1e-8, atol=1e-10)
    assert torch.allclose(found_covariance, covariance, rtol=1e-7, atol=1e-10)
    result = outcome(model, controllers)
    exact = kl_divergence(MultivariateNormal(mean, covariance), MultivariateNormal(0 * mean, policy))
    assert torch.allclose(result.kl, exact, rtol=1e-8)
    change = (g * mean).sum(1) + 0.5 * (mean * (H @ mean[..., None])[..., 0]).sum(1)
    assert torch.allclose(result.gain, -change, rtol=1e-8)
    assert torch.allclose(result.cost, change + 0.5 * (H * covariance).sum((1, 2)), rtol=1e-8)


def test_the_divergence_of_one_step_is_that_of_two_normal_distributions():
    """N(1, 4) from N(0, 9): ½ (1/9 + 4/9 − 1 + log 9/4)."""
    one = torch.ones(1, 1, 1).double()
    zero, free = 0 * one, math.inf * one
    model = Model(
        torch.cat((zero, one), -1)[:, :, None], zero, zero, zero, one, zero[..., None], 9 * one[0], -free, free
    )
    result = outcome(model, Controllers(zero[..., None], one, 4 * one[..., None]))
    assert result.kl.item() == pytest.approx(0.5 * (5 / 9 - 1 + math.log(9 / 4)), rel=1e-12)


def test_without_a_constraint_the_gains_of_a_long_horizon_solve_the_discrete_riccati_equation():
    n, m, steps = 4, 2, 300
    draw = np.random.default_rng(0).standard_normal
    A, B, q, r = draw((n, n)), draw((n, m)), draw(n) ** 2, draw(m) ** 2 + 0.1
    X = scipy.linalg.solve_discrete_are(A, B, np.diag(q), np.diag(r))
    expected = -np.linalg.solve(np.diag(r) + B.T @ X @ B, B.T @ X @ A)
    given = {"AB": np.hstack((A, B)), "q": q, "r": r}
    t = {name: torch.as_tensor(y)[None, None].expand(1, steps, *y.shape) for name, y in given.items()}
    zero, far = torch.zeros(1, steps, m).double(), torch.full((1, steps, m), math.inf).double()
    model = Model(
        **t, g_s=0 * t["q"], g_a=zero, gain=torch.ones(1, steps, m, n).double(), covariance=torch.eye(m).double(),
        lower=-far, upper=far,
    )  # fmt: skip
    K = optimal_controllers(model, torch.tensor([1e-12]).double()).K[0, 0].numpy()
    assert np.abs(K - expected).max() < 1e-8


def test_without_a_constraint_the_mean_is_the_gauss_newton_step(task):
    """As η → 0 the controllers' gains and mean are those of the simulator's own Riccati recursion."""
    made = task("pendulum3d-origin", N)
    policy = Policy(made, 0)
    rows = closed_loop(made, policy, made.start(2, 4))
    far = torch.full_like(rows.a, math.inf)
    model = gps.model(made, policy, 0.01 * torch.eye(2).double(), rows)
    model = dataclasses.replace(model, lower=-far, upper=far)
    controllers = optimal_controllers(model, torch.full((4,), 1e-9).double())
    step = made.simulator.gauss_newton_riccati(rows, cost_gradient(made, rows), *made.curvature(N))
    mean = actions_of(model, controllers.K, controllers.k, controllers.C)[0].view(4, N, 2)
    assert (controllers.K - step.gains).abs().max() < 1e-5 * step.gains.abs().max()
    assert (mean - step.da).abs().max() < 1e-5 * step.da.abs().max()


def test_actions_at_a_bound_satisfy_the_optimality_conditions_and_do_not_react():
    """One step with three actions: k solves min ½kᵀQk + qᵀk within ±0.3."""
    model = random_model(B=200, N=1, n=4, m=3, bound=0.3)
    eta = torch.full((200,), 0.5).double()
    controllers = optimal_controllers(model, eta)
    k, B, W = controllers.k[:, 0], model.B[:, 0], torch.linalg.inv(model.covariance)
    Q = B.mT @ torch.diag(model.q[0, 0]) @ B + torch.diag(model.r[0, 0]) + 0.5 * W
    slope = model.g_a[:, 0] + (B.mT @ model.g_s[:, 0, :, None])[..., 0] + (Q @ k[..., None])[..., 0]
    held = k.abs() == 0.3
    assert 0.1 < held.double().mean() < 0.9 and k.abs().max() <= 0.3
    assert slope[~held].abs().max() < 1e-12 and (slope[held] * k[held]).max() <= 0
    assert (controllers.K[:, 0][held] == 0).all() and (controllers.K[:, 0][~held].abs().amax(-1) > 0).all()


@pytest.fixture(scope="module")
def problem(task):
    """The untrained policy's rollouts on pendulum3d-stop and their linearisation."""
    made = task("pendulum3d-stop", N)
    policy = Policy(made, 0)
    rows = closed_loop(made, policy, made.start(5, 32))
    return made, rows, gps.model(made, policy, (0.3 * made.limit) ** 2 * torch.eye(2).double(), rows)


@pytest.mark.parametrize("kl", (0.003, 0.1, 1.0, 3.0))
def test_the_divergence_of_every_rollout_meets_its_constraint(problem, kl):
    """Within 10 % of ε, from guesses of η far too small and far too large."""
    _, _, model = problem
    for guess in (1e-6, 1e6):
        controllers, result, eta = constrained_controllers(model, kl * N, torch.full((32,), guess).double())
        assert (result.kl / (kl * N) - 1).abs().max() < 0.1
        again = optimal_controllers(model, eta)
        assert all(torch.allclose(getattr(again, y), getattr(controllers, y), atol=1e-10) for y in ("K", "k", "C"))
        assert torch.allclose(outcome(model, again).kl, result.kl, rtol=1e-8)


def test_where_the_divergence_jumps_across_its_limit_it_stays_below():
    """Feedback goes where an action reaches its bound, and D_KL jumps. With 2 % less η it is above the limit."""
    model = random_model(B=300, bound=0.3)
    _, result, eta = constrained_controllers(model, 5.0, torch.ones(300).double())
    error = result.kl / 5.0 - 1
    jumps = error < -0.1
    assert error.max() < 0.1 and 0 < jumps.sum() < 60
    assert (outcome(model, optimal_controllers(model, 0.98 * eta)).kl[jumps] > 5.0).all()


def test_a_constraint_that_cannot_be_active_leaves_the_least_multiplier(problem):
    _, _, model = problem
    _, result, eta = constrained_controllers(model, 1000.0 * N, torch.ones(32).double())
    assert torch.allclose(eta, torch.full_like(eta, linear_gaussian.ETA_LEAST), rtol=1e-12)
    assert (result.kl < 1000.0 * N).all()
