"""The tasks: what the paper says of them, where they start, what they reward, and that their derivatives hold."""

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import systems
import torch

import tasks
from learner import policy, reference, seeds
from taichi_sim import InputError
from tasks.verification import check_derivatives

# Paper table 2, but for 18 and 32, where it says 10 and 34: observation, actions, mass
SIZES = {
    "pendulum2d": (5, 1, 0.05),
    "pendulum3d": (8, 2, 0.05),
    "double3d": (14, 2, 0.1),
    "cable2d": (18, 2, 0.2),
    "rope3d": (32, 2, 0.25),
    "cloth": (162, 12, 0.1),
}
PAYLOADS = [family for family in SIZES if family != "cloth"]
NAMES = [*(f"{family}-{goal}" for family in PAYLOADS for goal in ("stop", "origin")), "cloth-lay"]
every_task = pytest.mark.parametrize("name", NAMES)
every_system = pytest.mark.parametrize("first", [*(f"{family}-stop" for family in PAYLOADS), "cloth-lay"])


def random_rollout(task, B=6, seed=0):
    actions = systems.random(B, task.N, task.system.actions, seed=seed, scale=0.5).clamp(-task.limit, task.limit)
    return task.simulator.rollout(task.start((9, seed), B), actions)


def test_the_eleven_tasks_are_there_and_no_other():
    assert tasks.names() == sorted(NAMES)


@every_task
def test_sizes_mass_and_horizon_are_those_of_the_paper(task, name):
    observation, actions, mass = SIZES[name.rpartition("-")[0]]
    made, system = task(name), task(name).system
    assert (made.observation_size, system.actions) == (observation, actions)
    assert system.mass.sum() == pytest.approx(mass, rel=1e-15)
    assert (made.N, made.h) == ((60, 0.016) if name == "cloth-lay" else (150, 0.024))
    rows = made.simulator.start(3)
    assert made.observe(rows.x, rows.v, rows.p).shape == (3, observation)


@pytest.mark.parametrize("family", PAYLOADS)
def test_stop_tasks_reward_rest_alone_and_origin_tasks_the_place_too(task, family):
    stop, origin = task(f"{family}-stop").reward, task(f"{family}-origin").reward
    assert stop.w_p == stop.w_x == 0 and stop.w_v > 0 and stop.w_a > 0
    assert min(dataclasses.astuple(origin)) > 0


def test_a_wrong_name_is_answered_with_the_nearest():
    with pytest.raises(
        InputError, match="task: expected one of .*got 'pendulum2d-stpo'; the nearest is 'pendulum2d-stop'"
    ):
        tasks.make("pendulum2d-stpo")
    with pytest.raises(InputError, match="the nearest is"):
        tasks.make("")


def test_another_horizon_changes_nothing_else():
    short, full = tasks.make("double3d-origin", N=50), tasks.make("double3d-origin")
    assert short.N == 50 and short.definition() == full.definition() | {"N": 50}
    for wrong in (0, -3, 2.5, "50"):
        with pytest.raises(InputError, match="N: expected a horizon of at least one step"):
            tasks.make("double3d-origin", N=wrong)


# Start states


@every_system
def test_the_first_starts_of_many_are_those_of_few(task, first):
    made = task(first)
    many, few = made.start((5, 1), 40), made.start((5, 1), 7)
    for field in dataclasses.fields(few):
        assert torch.equal(getattr(many, field.name)[:7], getattr(few, field.name))


@every_system
def test_starts_are_reachable_and_their_energies_vary_widely(task, first):
    """From every test state the simulator goes on. A payload's kinetic energy while nobody moves has a standard
    deviation near its mean or above, and its 95th percentile is 20 times the 5th or more; a cloth hangs 10 to 30 cm
    up."""
    made = task(first)
    start, system = made.test_states(), made.system
    still = torch.zeros(len(start), made.N, system.actions, dtype=torch.float64)
    rows = made.simulator.rollout(start, still)
    assert rows.ok.all() and start.first.all()
    if first == "cloth-lay":
        low, high = start.p[..., -1].mean(1).aminmax()
        assert 0.1 <= low < 0.102 and 0.298 < high <= 0.3
        return
    energy = (0.5 * torch.as_tensor(system.mass.copy()) * rows.v.square().sum(-1)).sum(-1).mean(1)
    low, high = np.quantile(energy.numpy(), (0.05, 0.95))
    assert energy.std() >= 0.9 * energy.mean() and high >= 20 * low > 0


def test_without_shaking_a_start_rests_at_the_goal(task):
    made = task("double3d-stop", shake=tasks.Shake(speed=(0.0, 0.0)))
    start = made.start(3, 4)
    assert (start.x - made.goal).abs().max() < 1e-12 and start.v.abs().max() < 1e-12 and (start.p == 0).all()


def test_every_purpose_has_random_numbers_of_its_own(task):
    """The first word of a seed tells test states, observation scale and the training's streams apart."""
    fixed = [tasks.TEST_SEED, policy.SCALE_SEED, seeds.VALIDATION_SEED]
    purposes = [*(seed[0] for seed in fixed), seeds.STARTS, seeds.BATCHES, seeds.MOTIONS]
    assert len(set(purposes)) == len(purposes)
    grid = list(itertools.product(range(4), range(4)))
    streams = [*fixed, *(seeds.starts(*at) for at in grid)]
    starts = {task("pendulum2d-stop").start(seed, 1).x.numpy().tobytes() for seed in streams}
    assert len(starts) == len(streams)
    assert len({seeds.number(seeds.BATCHES, *at) for at in grid}) == len(grid)


def test_no_training_start_is_a_test_state(task):
    made = task("pendulum2d-stop")
    known = {row.numpy().tobytes() for row in made.test_states().x}
    assert len(known) == tasks.TEST_STATES
    for seed, epoch in itertools.product(range(3), range(3)):
        assert known.isdisjoint(row.numpy().tobytes() for row in made.start(seeds.starts(seed, epoch), 200).x)


# Rewards


@every_task
def test_resting_at_the_goal_costs_nothing(task, name):
    made = task(name)
    still = torch.zeros(1, made.N, made.system.actions, dtype=torch.float64)
    rows = made.simulator.rollout(made.simulator.start(1, x=made.goal), still)
    assert rows.ok.all() and (rows.x - made.goal).abs().max() < 1e-9
    assert made.rewards(rows).abs().max() < 1e-12


@every_task
def test_rewards_are_equation_15(task, name):
    made, w = task(name), task(name).reward
    rows = random_rollout(made)
    x, v, p, a = (getattr(rows, rows_of).numpy() for rows_of in ("x", "v", "p", "a"))
    found = made.rewards(rows).numpy()
    assert found.shape == a.shape[:2]
    for b, t in itertools.product(range(len(a)), range(made.N)):
        far, high = x[b, t + 1] - made.goal.numpy(), p[b, t + 1] - made.system.home
        cost = w.w_p * np.sum(high**2) + w.w_x * np.sum(far**2) + w.w_v * np.sum(v[b, t + 1] ** 2)
        assert found[b, t] == pytest.approx(-cost - w.w_a * np.sum(a[b, t] ** 2), rel=1e-13)


def test_the_return_sums_the_rewards_of_every_row_but_the_first_and_is_minus_infinity_after_a_failure(task):
    made = task("double3d-origin", N=20)
    rows = random_rollout(made)
    value = made.returns(rows)
    assert torch.equal(value, made.rewards(rows).sum(1)) and torch.isfinite(value).all()
    moved = copy.deepcopy(rows)
    for first in (moved.x, moved.v, moved.p):
        first[:, 0] += 1.0
    assert torch.equal(made.returns(moved), value)
    moved.status[2, -1] = 1
    assert made.returns(moved)[2] == -torch.inf and torch.equal(made.returns(moved)[3:], value[3:])


@every_task
def test_observations_are_handles_from_home_points_from_the_goal_and_velocities(task, name):
    made = task(name)
    rows = random_rollout(made, B=2)
    actuated = made.system.axes.any(1)
    p, x, v = (tensor.flatten(2).numpy() for tensor in (rows.p, rows.x - made.goal, rows.v))
    by_hand = np.concatenate([(p - made.system.home.ravel())[..., actuated], x, v], -1)
    assert np.array_equal(made.observe(rows.x, rows.v, rows.p).numpy(), by_hand)


@pytest.mark.parametrize("terminal", (False, True))
@every_task
def test_slopes_of_the_cost_are_autograds(task, name, terminal):
    """To the bit, rows beyond the horizon and before the first step included."""
    made = task(name, 5)
    if terminal:
        made = task(name, 5, reward=tasks.Terminal(made.reward, prox=1e-3))
    actions = systems.random(2, 8, made.system.actions, seed=3).clamp(-made.limit, made.limit)
    rows = made.simulator.rollout(made.start((8, 1), 2), actions)
    leaves = {n: getattr(rows, n).clone().requires_grad_() for n in ("x", "v", "p", "a")}
    (-made.rewards(dataclasses.replace(rows, **leaves)).sum()).backward()
    slopes = made.cost_slopes(rows)
    for slope, leaf in zip(slopes, leaves.values(), strict=True):
        assert torch.equal(slope, leaf.grad) and slope[:, -3:].abs().max() == 0
    assert slopes[1].abs().max() > 0 and slopes[3].abs().max() > 0


@every_task
def test_curvature_is_minus_the_hessian_of_the_reward(task, name):
    """To the last bit or two: weights go through no shorter format."""
    made, system = task(name), task(name).system
    m, D = system.actions, system.points * system.dim
    axes = torch.as_tensor(system.axes.copy())

    def reward(s, a):
        p, x, v = s.split((m, D, D))
        by_point = (system.points, system.dim)
        return made.reward(x.view(by_point), v.view(by_point), (axes @ p).view(-1, system.dim), a)

    at = systems.random(system.state_size, seed=1), systems.random(m, seed=2)
    (ss, sa), (_, aa) = torch.autograd.functional.hessian(reward, at)
    q, r = made.curvature(made.N)
    assert q.shape == (1, made.N, system.state_size) and r.shape == (1, made.N, m) and not sa.any()
    for t in (0, made.N - 1):
        assert torch.allclose(torch.diag(q[0, t]), -ss, rtol=1e-15, atol=0)
        assert torch.allclose(torch.diag(r[0, t]), -aa, rtol=1e-15, atol=0)


@every_task
def test_doing_nothing_costs_at_least_five_times_the_best_known(task, name):
    made, best = task(name), reference.load(task(name))
    assert best is not None, "no reference of this very task is shipped"
    still = torch.zeros(tasks.TEST_STATES, made.N, made.system.actions, dtype=torch.float64)
    idle = -made.returns(made.simulator.rollout(made.test_states(), still)).mean()
    assert idle >= 5 * best.cost.mean()


# Derivatives


@pytest.mark.parametrize("N", (50, None))
@every_task
def test_derivatives_of_the_return_hold(task, name, N):
    """Taylor rates by actions, x, v and p, on 16 states (4 of the cloth), and ⟨w, S u⟩ = ⟨Sᵀw, u⟩."""
    rates, mismatch = check_derivatives(task(name, N), 4 if name == "cloth-lay" else 16)
    assert rates.keys() == {"actions", "x", "v", "p"}
    assert all(abs(rate - 2) <= 0.05 for rate in rates.values()), rates
    assert mismatch <= 1e-12


# Definition


def test_the_digest_belongs_to_what_sets_a_return_and_to_no_name_of_a_system():
    made = tasks.make("pendulum2d-origin")
    reward, shake, system = made.reward, made.shake, made.system
    others = [dataclasses.replace(reward, **{w: 2 * getattr(reward, w)}) for w in ("w_p", "w_x", "w_v", "w_a")]
    changed = [dataclasses.replace(made, reward=other) for other in others]
    changed += [dataclasses.replace(made, **{field: 2 * getattr(made, field)}) for field in ("h", "N", "limit")]
    changed += [dataclasses.replace(made, shake=dataclasses.replace(shake, steps=76))]
    changed += [dataclasses.replace(made, system=dataclasses.replace(system, mass=2 * system.mass))]
    assert len({made.digest(), *(other.digest() for other in changed)}) == 1 + len(changed)
    renamed = dataclasses.replace(made, system=dataclasses.replace(system, name="another"))
    assert renamed.digest() == made.digest() == tasks.make("pendulum2d-origin").digest()
