"""Guided policy search: sampling, the S-step, the step size and the loop."""

import dataclasses
import math

import pytest
import systems
import torch
from test_learning import poisoned, timeless
from torch.distributions import MultivariateNormal, kl_divergence

from learner import gps
from learner.linear_gaussian import constrained_controllers
from learner.policy import Policy
from learner.rollouts import closed_loop
from learner.run import Run

N = 40
SMALL = gps.Config(epochs=4, k=8, steps=10, batch=64, memory=2)


# Sampling


@pytest.fixture(scope="module")
def problem(task):
    """The untrained policy's rollouts on pendulum3d-stop and their linearisation."""
    made = task("pendulum3d-stop", N)
    policy = Policy(made, 0)
    rows = closed_loop(made, policy, made.start(5, 32))
    return made, rows, gps.model(made, policy, (0.3 * made.limit) ** 2 * torch.eye(2).double(), rows)


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
