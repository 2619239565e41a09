"""One improvement of action sequences: gradient, directions under velocity limits, line search."""

import dataclasses

import numpy as np
import pytest
import scipy.optimize
import systems
import torch

import tasks
from learner import directions
from learner.improvement import WORTH, improve
from learner.line_search import ABREAST, HALVINGS, ROWS, line_search
from learner.objective import cost_gradient, held_actions, hessian_product, projected_gradient
from learner.policy import Policy
from learner.rollouts import closed_loop
from taichi_sim import Trajectory

B, N = 8, 40
FIND = {"first order": directions.steepest_descent, "second order": directions.gauss_newton}
both_orders = pytest.mark.parametrize("find", FIND.values(), ids=FIND)


def rollouts(task, scale=0.3, B=B, seed=0) -> Trajectory:
    """Random actions, some of them at the limits."""
    actions = systems.random(B, task.N, task.system.actions, seed=seed, scale=scale).clamp(-task.limit, task.limit)
    return task.simulator.rollout(task.start((8, seed), B), actions)


def dense(task, rows):
    """Ĥ = SᵀQS + R (B, N·m, N·m) from the full Jacobian (paper, A.4)."""
    q, r = task.curvature(task.N)
    S = task.simulator.jacobian(rows).reshape(len(rows), -1, task.N * task.system.actions)
    return S.transpose(1, 2) @ (q.reshape(1, -1, 1) * S) + torch.diag_embed(r.reshape(1, -1))


def poisoned(task, rows, index):
    """The same rollouts, but `index` starts with a velocity whose square overflows, and fails."""
    start = dataclasses.replace(rows.start, v=rows.start.v.clone())
    start.v[index] = 1e200
    return task.simulator.rollout(start, rows.a)


def equal(one: Trajectory, other: Trajectory):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ROWS)


# The cost's derivatives


@pytest.mark.parametrize("name", ("pendulum2d-stop", "pendulum2d-origin", "double3d-origin"))
def test_cost_gradient_is_autograd_through_the_rollout(task, name):
    made = task(name, N)
    rows = rollouts(made)
    a = rows.a.clone().requires_grad_()
    (-made.returns(made.simulator.rollout(rows.start, a))).sum().backward()
    g = cost_gradient(made, rows)
    assert g.abs().amax((1, 2)).min() > 0.01
    assert (g - a.grad).norm() <= 1e-13 * a.grad.norm()


@pytest.mark.parametrize("name", ("pendulum2d-stop", "pendulum2d-origin", "pendulum3d-origin"))
def test_hessian_product_is_the_dense_gauss_newton_matrix(task, name):
    made = task(name, N)
    rows = rollouts(made)
    delta = systems.random(*rows.a.shape, seed=3)
    product, exact = hessian_product(made, rows, delta), dense(made, rows) @ delta.reshape(B, -1, 1)
    assert (product.reshape(B, -1, 1) - exact).norm() <= 1e-12 * exact.norm()


def test_a_failed_rollout_has_no_gradient_and_changes_no_other(task):
    made = task("pendulum2d-stop", N)
    rows = rollouts(made)
    bad = poisoned(made, rows, 3)
    keep = torch.arange(B) != 3
    assert torch.equal(bad.ok, keep)
    g = cost_gradient(made, bad)
    assert (g[3] == 0).all() and torch.equal(g[keep], cost_gradient(made, rows)[keep])


# Directions


def test_gauss_newton_without_active_limits_solves_the_dense_system(task):
    """‖Ĥδ + g‖ ≤ 1e-10 ‖g‖ and δ to 1e-8 of −Ĥ⁻¹g, with and without damping."""
    made = task("pendulum2d-stop", N, limit=1e3)
    rows = rollouts(made)
    g, H = cost_gradient(made, rows).reshape(B, -1, 1), dense(made, rows)
    for damping in (None, torch.linspace(0.0, 2.0, B, dtype=torch.float64)):
        bent = H if damping is None else H + damping[:, None, None] * torch.eye(N)
        step = directions.gauss_newton(made, rows, damping).step.reshape(B, -1, 1)
        exact = torch.linalg.solve(bent, -g)
        assert ((bent @ step + g).norm(dim=1) <= 1e-10 * g.norm(dim=1)).all()
        assert torch.linalg.cond(bent).max() <= 1e6
        assert ((step - exact).norm(dim=1) <= 1e-8 * exact.norm(dim=1)).all()


@pytest.mark.parametrize("name", ("pendulum2d-stop", "pendulum2d-origin", "pendulum3d-stop"))
@pytest.mark.parametrize("limit", (0.1, 0.4))
def test_gauss_newton_with_active_limits_minimises_the_model_in_the_box(task, name, limit):
    """The optimality conditions of  min g·δ + ½ δᵀĤδ,  |a + δ| ≤ limit,  and no more than SciPy's minimum."""
    made = task(name, N, limit=limit)
    rows = rollouts(made)
    g, H = cost_gradient(made, rows).reshape(B, -1), dense(made, rows)
    found = directions.gauss_newton(made, rows)
    step, a = found.step.reshape(B, -1), rows.a.reshape(B, -1)
    slope = g + (H @ step[..., None])[..., 0]
    at, inside = a + step, 1e-9 * limit
    assert at.abs().max() <= limit * (1 + 1e-15)
    low, high = at <= -limit + inside, at >= limit - inside
    active = (low | high).double().mean()
    assert 0.05 < active < 0.95, f"{active:.0%} of the actions at a limit tell nothing"
    small = 1e-8 * g.norm(dim=1, keepdim=True)
    assert (slope.abs() <= small)[~(low | high)].all()
    assert (slope >= -small)[low].all() and (slope <= small)[high].all()
    for b in range(B):
        factor = np.linalg.cholesky(H[b].numpy()).T  # g·δ + ½ δᵀĤδ = ½‖Lᵀδ + L⁻¹g‖² + constant
        target = -np.linalg.solve(factor.T, g[b].numpy())
        bounds = (-limit - a[b].numpy() - 1e-15, limit - a[b].numpy() + 1e-15)
        best = scipy.optimize.lsq_linear(factor, target, bounds, method="bvls", tol=1e-15).x
        mine, theirs = (y @ (g[b].numpy() + 0.5 * H[b].numpy() @ y) for y in (step[b].numpy(), best))
        assert mine <= theirs + 1e-9 * abs(theirs) and mine < 0


@pytest.mark.parametrize("name", ("pendulum2d-stop", "rope3d-stop"))
def test_actions_just_inside_their_limits_do_not_stop_the_others(task, name):
    """What a saturated tanh gives: 1e-2 to 1e-6 of the limit away from it. Every rollout finds a step, and gains."""
    made = task(name, 50)
    B, m = 32, made.system.actions
    push = 8 * systems.random(B, 50, m, seed=3).cumsum(1)
    rows = made.simulator.rollout(made.start(3, B), made.limit * torch.tanh(push / 4))
    room = 1 - rows.a.abs() / made.limit
    assert rows.ok.all() and ((room > 1e-9) & (room < 1e-2)).double().mean() > 0.2
    found = directions.gauss_newton(made, rows)
    assert (found.slope < 0).all()
    assert (line_search(made, rows, found).gain > 0).all()


@both_orders
@pytest.mark.parametrize("limit", (0.1, 1.0))
def test_directions_go_downhill_and_stay_within_the_limits(task, find, limit):
    made = task("pendulum3d-origin", N, limit=limit)
    rows = rollouts(made)
    found, g = find(made, rows), cost_gradient(made, rows)
    assert (found.slope < 0).all()
    assert torch.allclose(found.slope, (g * found.step).sum((1, 2)), rtol=1e-12, atol=0)
    for alpha in (0.25, 1.0):
        assert (rows.a + alpha * found.step).abs().max() <= limit * (1 + 1e-15)


def test_steepest_descent_follows_the_projected_gradient(task):
    """Inside the box −g, scaled so that the largest change is the limit; held actions do not move."""
    made = task("pendulum3d-origin", N, limit=0.4)
    rows = rollouts(made)
    g = cost_gradient(made, rows)
    step = directions.steepest_descent(made, rows).step
    held = held_actions(rows.a, g, made.limit)
    outward = (rows.a.abs() >= made.limit) & (g * rows.a < 0)
    assert held.any() and torch.equal(held, outward) and (step[held] == 0).all()
    free = projected_gradient(rows.a, g, made.limit)
    scale = made.limit / free.abs().amax((1, 2), keepdim=True)
    clipped = (rows.a + step).abs() >= made.limit * (1 - 1e-12)
    assert torch.allclose(step[~clipped], (-scale * free)[~clipped], rtol=1e-12, atol=1e-16)
    assert ((-scale * free).abs() >= step.abs() - 1e-15).all() and (step * g <= 0).all()


# Line search


@both_orders
@pytest.mark.parametrize("name", ("pendulum2d-stop", "double3d-origin"))
def test_no_rollout_gets_worse_and_what_comes_back_was_simulated(task, find, name):
    made = task(name, N)
    start = made.start((8, 1), 32)
    for rows in (rollouts(made, B=32, seed=1), closed_loop(made, Policy(made, 0), start)):
        before = [getattr(rows, field).clone() for field in ROWS]
        better = line_search(made, rows, find(made, rows))
        assert (better.value >= better.value_before).all() and (better.gain >= 0).all()
        assert (better.value > better.value_before)[better.alpha > 0].all() and (better.alpha > 0).double().mean() > 0.9
        assert torch.equal(better.value_before, made.returns(rows))
        assert equal(made.simulator.rollout(rows.start, better.trajectory.a), better.trajectory)
        assert torch.equal(better.value, made.returns(better.trajectory))
        assert better.trajectory.a.abs().max() <= made.limit
        assert all(torch.equal(getattr(rows, field), old) for field, old in zip(ROWS, before, strict=True))


def test_an_uphill_or_empty_direction_leaves_every_rollout_as_it_was(task):
    made = task("pendulum2d-origin", N)
    rows = rollouts(made)
    down = directions.gauss_newton(made, rows)
    up = directions.Direction(-down.step, down.slope)  # a wrong sign, told as if it were right
    none = directions.Direction(torch.zeros_like(down.step), torch.zeros_like(down.slope))
    for wrong in (up, none):
        kept = line_search(made, rows, wrong)
        still = kept.alpha == 0
        assert still.all() and (kept.gain == 0).all() and equal(kept.trajectory, rows)


@both_orders
def test_rollouts_without_a_better_alpha_are_kept_bit_for_bit(task, find):
    """Half of the rollouts get a direction that leads nowhere; the others do not notice."""
    made = task("pendulum2d-stop", N)
    rows = rollouts(made)
    right = find(made, rows)
    odd = torch.arange(B) % 2 == 1
    mixed = directions.Direction(torch.where(odd[:, None, None], -right.step, right.step), right.slope)
    found, alone = line_search(made, rows, mixed), line_search(made, rows, right)
    assert (found.alpha[odd] == 0).all() and equal(found.trajectory[odd], rows[odd])
    assert (found.alpha[~odd] > 0).all() and equal(found.trajectory[~odd], alone.trajectory[~odd])
    assert torch.equal(found.alpha[~odd], alone.alpha[~odd])


@both_orders
def test_a_failed_rollout_is_kept_out_and_changes_no_other(task, find):
    made = task("pendulum2d-stop", N)
    rows = rollouts(made)
    bad, keep = poisoned(made, rows, 3), torch.arange(B) != 3
    found, healthy = line_search(made, bad, find(made, bad)), line_search(made, rows, find(made, rows))
    assert found.value[3] == -torch.inf and found.alpha[3] == 0 and found.gain[3] == 0
    assert equal(found.trajectory[3:4], bad[3:4])
    for name in ("value", "value_before", "alpha"):
        assert torch.equal(getattr(found, name)[keep], getattr(healthy, name)[keep])
    assert equal(found.trajectory[keep], healthy.trajectory[keep])


def test_a_trial_that_fails_is_not_taken(task):
    """A step so long that its rollout overflows is halved like one that gained too little."""
    made = task("pendulum2d-stop", N, limit=1e300)
    rows = rollouts(task("pendulum2d-stop", N))
    found = directions.gauss_newton(made, rows)
    far = torch.zeros_like(found.step)
    far[2, 7] = 1e250
    assert not made.simulator.rollout(rows.start, rows.a + far)[2:3].ok.any()
    better = line_search(made, rows, directions.Direction(found.step + far, found.slope))
    assert better.alpha[2] == 0 and better.trajectory.ok.all() and (better.alpha[torch.arange(B) != 2] > 0).all()
    assert equal(better.trajectory[2:3], rows[2:3])


def test_one_gauss_newton_step_solves_a_linear_quadratic_task(simulator):
    """A point on a spring of rest length 0 under a quadratic reward: α = 1, and the second step's gradient is 1e-9 of
    the first."""
    sim = simulator("oscillator")
    reward = tasks.Quadratic(w_p=0.3, w_x=1.0, w_v=0.2, w_a=0.05)
    made = tasks.Task("oscillator", sim.system, sim.h, 60, 1e3, reward, tasks.Shake())
    made.__dict__["simulator"] = sim
    rows = made.simulator.rollout(made.start(1, B), torch.zeros(B, made.N, 2, dtype=torch.float64))
    first = cost_gradient(made, rows).flatten(1).norm(dim=1)
    better = line_search(made, rows, directions.gauss_newton(made, rows))
    assert (better.alpha == 1).all() and first.min() > 0.01
    assert (cost_gradient(made, better.trajectory).flatten(1).norm(dim=1) <= 1e-9 * first).all()


def test_several_sizes_at_once_find_the_same_as_one_after_the_other(task, monkeypatch):
    """Bit for bit, with from one to all of the sizes in a launch; of the rollouts some need three halvings."""
    made = task("pendulum2d-stop", 150)
    rows = made.simulator.rollout(
        made.start(3, 16), systems.actions(made.simulator, 16, made.N, seed=4).clamp(-0.6, 0.6)
    )
    direction = directions.steepest_descent(made, rows)
    one = line_search(made, rows, direction)
    assert one.alpha.min() <= 0.25 and one.alpha.max() == 1
    launched, rollout = [], made.simulator.rollout
    monkeypatch.setattr(made.simulator, "rollout", lambda start, a: launched.append(len(a)) or rollout(start, a))
    monkeypatch.setitem(ABREAST, "cpu", HALVINGS)
    found = line_search(made, rows, direction)
    assert equal(found.trajectory, one.trajectory) and torch.equal(found.value, one.value)
    assert torch.equal(found.alpha, one.alpha) and len(launched) == 2 and max(launched) <= len(rows)


# Several improvements


@both_orders
def test_improving_again_is_the_same_as_improving_what_was_improved(task, find):
    """By hand: a rollout stops after the first gain below its share; others do not notice, bit for bit."""
    made = task("pendulum2d-origin", N)
    rows, laps = rollouts(made), []
    found = improve(made, rows, find, 4, laps.append)
    stopped = 0
    for b in range(B):
        here = first = line_search(made, rows[b : b + 1], find(made, rows[b : b + 1]))
        for _ in range(3):
            if here.gain.item() <= WORTH * here.value.abs().item():
                stopped += 1
                break
            here = line_search(made, here.trajectory, find(made, here.trajectory))
        assert equal(found.trajectory[b : b + 1], here.trajectory)
        assert found.value[b] == here.value and found.value_before[b] == first.value_before
        assert found.alpha[b] == first.alpha
    assert stopped < B and laps == ["direction", "line_search"] * 4
    assert torch.equal(made.returns(made.simulator.rollout(rows.start, found.trajectory.a)), found.value)


def test_a_failed_rollout_is_not_improved_again(task):
    made = task("pendulum2d-stop", N)
    bad = poisoned(made, rollouts(made), 3)
    found = improve(made, bad, directions.gauss_newton, 3)
    assert not found.trajectory.ok[3] and found.value[3] == -torch.inf and found.gain[3] == 0
    assert equal(found.trajectory[3:4], bad[3:4]) and (found.gain[[0, 1, 2, 4, 5, 6, 7]] > 0).all()
