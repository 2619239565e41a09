"""Guided policy search: linearisation, controllers under a KL constraint, the S-step, and the loop."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.linalg
import systems
import torch
from test_learning import Cut, equal, poisoned, timeless
from torch.distributions import MultivariateNormal, kl_divergence

from learner import gps, linear_gaussian, linearisation
from learner.linear_gaussian import Controllers, Model, constrained_controllers, optimal_controllers, outcome
from learner.policy import Policy
from learner.rollouts import closed_loop
from learner.run import Run
from taichi_sim import State

N = 40
SMALL = gps.Config(epochs=4, k=8, steps=10, batch=64, memory=2)


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
    from learner.objective import cost_gradient

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


def test_a_short_step_gains_what_the_model_expects_in_the_simulator(problem):
    """Small ε and Σ̄: the cost of the controllers' true rollouts falls by the model's gain within 3 %."""
    made, rows, model = problem
    model = dataclasses.replace(model, covariance=1e-4 * made.limit**2 * torch.eye(2).double())
    controllers, result, _ = constrained_controllers(model, 0.05 * N, torch.ones(32).double())
    quiet = dataclasses.replace(controllers, C=1e-12 * controllers.C)
    visited, means = gps.sample(made, rows, quiet, torch.Generator().manual_seed(0))
    gain = (made.returns(visited) - made.returns(rows)).mean()
    assert gain > 0 and result.gain.mean().item() == pytest.approx(gain.item(), rel=0.03)
    assert (visited.a - means).abs().max() < 1e-6


def test_samples_spread_like_their_covariance_and_stay_within_the_limit(problem):
    made, rows, model = problem
    controllers, _, _ = constrained_controllers(model, 0.1 * N, torch.ones(32).double())
    visited, means = gps.sample(made, rows, controllers, torch.Generator().manual_seed(0))
    assert max(visited.a.abs().max(), means.abs().max()) <= made.limit
    inside = (visited.a.abs() < made.limit).all(-1) & (means.abs() < 0.2 * made.limit).all(-1)
    white = torch.linalg.solve(torch.linalg.cholesky(controllers.C), (visited.a - means)[..., None])[..., 0]
    assert inside.sum() > 300 and white[inside].square().mean().item() == pytest.approx(1.0, abs=0.15)


# S-step and step size


def divergence(covariance, C):
    """Mean D_KL(N(0, covariance) ‖ N(0, C))."""
    zero = torch.zeros(len(covariance)).double()
    return kl_divergence(MultivariateNormal(zero, covariance), MultivariateNormal(zero, C)).mean()


def test_the_covariance_minimises_the_mean_divergence_from_the_controllers():
    """Σ̄ = (mean C⁻¹)⁻¹ is where the derivative vanishes. With a minimum between its eigenvalues, the smallest one is at
    the minimum, and no covariance that is larger still, in any direction, is better."""
    root = systems.random(4, 5, 3, 3, seed=8)
    C = root @ root.mT + 0.1 * torch.eye(3)
    precision = torch.linalg.inv(C)
    best = gps.fitted_covariance(precision, 0.0).requires_grad_()
    assert torch.allclose(best, torch.linalg.inv(precision.mean((0, 1))), rtol=1e-12)
    (slope,) = torch.autograd.grad(divergence(best, C), best)
    assert slope.abs().max() < 1e-10
    assert divergence(best, C) < min(divergence(1.01 * best, C), divergence(0.99 * best, C))

    values = torch.linalg.eigvalsh(best.detach())
    least = (0.5 * (values[0] + values[1])).sqrt().item()
    bounded = gps.fitted_covariance(precision, least).requires_grad_()
    found = torch.linalg.eigvalsh(bounded.detach())
    assert found[0].item() == pytest.approx(least**2) and torch.allclose(found[1:], values[1:])
    (slope,) = torch.autograd.grad(divergence(bounded, C), bounded)
    assert torch.linalg.eigvalsh(0.5 * (slope + slope.T))[0] > -1e-10


def test_targets_weigh_rollouts_alike_and_directions_by_their_precision(problem):
    made, rows, model = problem
    controllers, _, _ = constrained_controllers(model, 0.3 * N, torch.ones(32).double())
    precision = torch.linalg.inv(controllers.C)
    samples = gps.targets(made, rows, rows.a, precision)
    weights = samples.weights.double().unflatten(0, (32, N))
    assert torch.allclose(weights.diagonal(dim1=2, dim2=3).mean((1, 2)), torch.ones(32).double(), atol=1e-6)
    ratio = weights[3, 7] / precision[3, 7]
    assert torch.allclose(ratio, ratio[0, 0].expand(2, 2), rtol=1e-4)
    policy = Policy(made, 1)
    error = (policy(samples.observations) - samples.actions).double()
    expected = 0.5 * sum(e @ w @ e for e, w in zip(error, samples.weights.double(), strict=True))
    assert samples.loss(policy).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_next_step_size_maximises_the_gain_that_was_measured():
    """Where the true gain is 3ε − 2ε², one adjustment from any ε goes to its maximum, at ε = ¾."""
    for kl in (0.3, 0.75, 1.4):
        assert gps.adjusted(kl, 3 * kl, 3 * kl - 2 * kl**2) == pytest.approx(0.75)
    assert gps.adjusted(0.5, 1.0, 1.2) == 5.0 and gps.adjusted(0.5, 1.0, -99.0) == 0.05
    assert gps.adjusted(0.5, -1.0, 0.0) == 0.05
    assert gps.adjusted(gps.KL_MOST, 1.0, 1.0) == gps.KL_MOST


# The loop


def test_it_improves_the_return_on_fresh_states(task, tmp_path):
    """Five epochs of 32 rollouts bring the mean cost on 200 new states below half the untrained policy's."""
    made, few = task("pendulum2d-stop", N), {"epochs": 5, "k": 32, "steps": 40, "batch": 512, "memory": 4}
    config = gps.Config(**few, kl=1.0, std=0.5, kl_least=1.0, std_least=0.2)
    run, fresh, told = Run.create(tmp_path / "run", {}), made.start((77,), 200), []

    def cost(policy):
        return -made.returns(closed_loop(made, policy, fresh)).mean().item()

    policy = gps.train(made, config, run, on_epoch=told.append)
    assert cost(policy) < 0.5 * cost(Policy(made, 0))
    rows = run.rows()
    assert rows == told and [row["epoch"] for row in rows] == list(range(1, 6))
    for row in rows:
        assert row["expected"] > 0 and row["kl"] <= 1.1 * row["kl_limit"] and row["loss"] > 0 and row["failed"] == 0
    for row, after in zip(rows, rows[1:], strict=False):
        assert after["kl_limit"] == max(1.0, gps.adjusted(row["kl_limit"], row["expected"], row["actual"]))
        assert 0.2 <= after["std"] * (1 + 1e-9) and after["std"] <= row["std"] < 0.5


def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(task, tmp_path):
    """Weights, Adam's moments, memory, covariance, step size and log: equal bit for bit."""
    made = task("pendulum2d-stop", N)

    def stop(row):
        if row["epoch"] == 2:
            raise Cut

    whole, cut = Run.create(tmp_path / "whole", {}), Run.create(tmp_path / "cut", {})
    gps.train(made, SMALL, whole)
    with pytest.raises(Cut):
        gps.train(made, SMALL, cut, on_epoch=stop)
    again = Run.open(cut.path)
    gps.train(made, SMALL, again)
    assert timeless(again) == timeless(whole) and len(timeless(whole)) == 4
    (tensors, state), (other, other_state) = whole.load(), again.load()
    assert equal(tensors, other) and "covariance" in tensors and "memory/001/weights" in tensors
    assert all(state[name] == other_state[name] for name in ("kl", "eta", "epoch", "samples"))


def test_a_run_repeats_and_another_seed_is_another_run(task, tmp_path):
    made = task("pendulum2d-stop", N)
    logs = []
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        run = Run.create(tmp_path / name, {})
        gps.train(made, dataclasses.replace(SMALL, epochs=2, seed=seed), run)
        logs.append(timeless(run))
    assert logs[0] == logs[1] and logs[0][1]["return"] != logs[2][1]["return"]


def test_linearising_in_chunks_changes_nothing_but_round_off(task, tmp_path, monkeypatch):
    made = task("pendulum2d-stop", N)
    runs = []
    for name, bytes_ in (("whole", gps.MEMORY), ("parts", 3 * gps.MEMORY // gps.chunk(made) + 1)):
        monkeypatch.setattr(gps, "MEMORY", bytes_)
        runs.append(Run.create(tmp_path / name, {}))
        gps.train(made, dataclasses.replace(SMALL, epochs=1), runs[-1])
    assert gps.chunk(made) == 3
    whole, parts = (run.rows()[0] for run in runs)
    for name in ("return", "return_controllers", "expected", "kl", "eta", "std"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-9)


def test_training_goes_on_without_the_rollouts_that_fail(task, tmp_path):
    made, run = poisoned(task("pendulum2d-stop", N), 1), Run.create(tmp_path / "run", {})
    policy = gps.train(made, dataclasses.replace(SMALL, epochs=2, failures=0.2), run)
    assert [row["failed"] for row in run.rows()] == [1, 1]
    assert all(math.isfinite(y) for row in run.rows() for y in row.values())
    assert all(torch.isfinite(tensor).all() for tensor in policy.state_dict().values())
