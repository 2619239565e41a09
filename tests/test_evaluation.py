"""The five metrics against plain NumPy, and the best known costs that the optimality gap is measured by."""

import dataclasses

import numpy as np
import pytest
import systems
import torch

import tasks
from learner import evaluation, reference
from learner.objective import cost_gradient, projected_gradient
from learner.policy import Policy
from learner.reference import Reference, optimise

N, STATES = 40, 6
every_task = pytest.mark.parametrize("name", tasks.names())


class Replay:
    """A policy that plays stored actions (B, N, m), then stands still."""

    def __init__(self, actions):
        self.actions, self.t = actions, 0

    def __call__(self, observation):
        self.t += 1
        return self.actions[:, self.t - 1] if self.t <= self.actions.shape[1] else torch.zeros_like(self.actions[:, 0])


class Broken:
    """A policy that sends one rollout's handles to infinity from step `at` on."""

    def __init__(self, policy, index, at=0):
        self.policy, self.index, self.at, self.t = policy, index, at, 0

    def __call__(self, observation):
        actions = self.policy(observation).double()
        actions[self.index] = torch.where(torch.tensor(self.t >= self.at), 1e200, actions[self.index])
        self.t += 1
        return actions


def metrics_by_hand(task, policy, states):
    """One step after the other through `Simulator.step`, then NumPy, on the rollouts `states` of the first STATES."""
    state, x, v, p, a = task.test_states(STATES), [], [], [], []
    home, goal = task.system.home, task.goal.numpy()
    actuated = task.system.axes.any(1)
    for _ in range(task.N + 10):
        handles = (state.p.numpy() - home).reshape(STATES, -1)[:, actuated]
        parts = (handles, (state.x.numpy() - goal).reshape(STATES, -1), state.v.numpy().reshape(STATES, -1))
        with torch.no_grad():
            action = policy(torch.as_tensor(np.concatenate(parts, 1))).double()
        state, _ = task.simulator.step(state, action)
        for rows, row in ((x, state.x), (v, state.v), (p, state.p), (a, action)):
            rows.append(row.numpy()[states])
    x, v, p, a = (np.stack(rows, 1) for rows in (x, v, p, a))
    w = task.reward
    squares = [(y[:, : task.N] ** 2).reshape(len(states), -1).sum(1) for y in (p - home, x - goal, v, a)]
    value = -np.array([w.w_p, w.w_x, w.w_v, w.w_a]) @ squares
    kinetic = 0.5 * (task.system.mass * (v[:, task.N :] ** 2).sum(-1)).sum(-1)
    hand = (a[:, : task.N] @ task.system.axes.T).reshape(len(states), task.N, -1, task.system.dim)
    far = np.linalg.norm(x[:, max(task.N - 10, 0) : task.N] - goal, axis=-1)
    return value, {
        "return": value.mean(),
        "return_std": value.std(),
        "terminal_kinetic_energy": kinetic.mean(),
        "final_distance": far.mean() if w.w_x > 0 else None,
        "handle_speed": np.linalg.norm(hand, axis=-1).mean(),
    }


@pytest.mark.parametrize(
    ("name", "steps"),
    (("pendulum2d-stop", N), ("pendulum3d-origin", N), ("double3d-origin", N), ("pendulum2d-origin", 4)),
)
def test_the_metrics_are_those_of_plain_numpy(task, name, steps):
    made = task(name, steps)
    policy = Policy(made, 0)
    value, by_hand = metrics_by_hand(made, policy, np.arange(STATES))
    best = Reference(torch.as_tensor(-value / 1.25), None, torch.arange(STATES) % 2 == 0, None)
    found = evaluation.evaluate(made, policy, best, STATES)
    for metric, number in by_hand.items():
        assert found[metric] == (number if number is None else pytest.approx(number, rel=1e-11)), metric
    assert found["optimality_gap"] == pytest.approx(0.25, rel=1e-9) and found["better_than_reference"] == 0
    assert (found["failed"], found["states"], found["task"]) == (0, STATES, name)
    assert found["task_digest"] == made.digest() and found["reference_converged"] == 0.5
    assert evaluation.evaluate(made, policy, None, STATES)["optimality_gap"] is None


def test_the_policy_acts_on_after_the_horizon(task):
    """Terminal kinetic energy: the same policy up to the horizon, another one after it, and only that metric moves."""
    made = task("pendulum2d-origin", N)
    actions = systems.random(STATES, N + 10, 1, seed=4, scale=0.3)
    other = actions.clone()
    other[:, N:] += 0.2
    one, two = (evaluation.evaluate(made, Replay(a), None, STATES) for a in (actions, other))
    assert {name for name in one if one[name] != two[name]} == {"terminal_kinetic_energy"}


@pytest.mark.parametrize("at", (0, N // 2, N + 3))
def test_a_rollout_that_fails_is_counted_and_the_means_are_over_the_others(task, at):
    """At once, on the way, or in the ten steps after the horizon."""
    made = task("pendulum3d-origin", N)
    policy, others = Policy(made, 0), np.array([0, 1, 3, 4, 5])
    value, by_hand = metrics_by_hand(made, policy, others)
    cost = torch.ones(STATES, dtype=torch.float64)
    cost[torch.as_tensor(others)] = torch.as_tensor(-value)
    best = Reference(cost, None, torch.ones(STATES, dtype=torch.bool), None)
    found = evaluation.evaluate(made, Broken(policy, 2, at), best, STATES)
    assert found["failed"] == 1
    for metric, number in by_hand.items():
        assert found[metric] == pytest.approx(number, rel=1e-11), metric
    assert found["optimality_gap"] == pytest.approx(0.0, abs=1e-11)


# Best known costs


@pytest.fixture(scope="session")
def known(task):
    """pendulum2d-stop over 40 steps, optimised from rest."""
    made = task("pendulum2d-stop", N)
    return made, optimise(made, made.test_states(STATES), torch.zeros(STATES, N, 1, dtype=torch.float64))


def test_an_optimised_state_is_converged_and_costs_what_its_actions_cost(known):
    made, best = known
    rows = made.simulator.rollout(made.test_states(STATES), best.actions.double())
    assert best.actions.dtype == torch.float32 and best.actions.abs().max() <= made.limit
    assert torch.equal(best.cost, -made.returns(rows)) and best.converged.all()
    still = made.simulator.rollout(made.test_states(STATES), torch.zeros_like(rows.a))
    left = projected_gradient(rows.a, cost_gradient(made, rows), made.limit).flatten(1).norm(dim=1)
    assert (left <= 1e-5 * cost_gradient(made, still).flatten(1).norm(dim=1)).all()
    assert (best.cost < -made.returns(still)).all()


def test_no_small_change_of_optimised_actions_costs_less(known):
    made, best = known
    start, a = made.test_states(STATES), best.actions.double()
    change = systems.random(20, STATES, N, 1, seed=5)
    for size in (1e-3, 1e-2):
        moved = (a + size * change).clamp(-made.limit, made.limit).flatten(0, 1)
        many = start[torch.arange(STATES).repeat(20)]
        cost = -made.returns(made.simulator.rollout(many, moved)).view(20, STATES)
        assert (cost > best.cost).all()


def test_the_references_own_actions_have_no_gap(known):
    made, best = known
    found = evaluation.evaluate(made, Replay(best.actions), best, STATES)
    assert abs(found["optimality_gap"]) <= 1e-14
    assert found["better_than_reference"] == 0 and found["reference_converged"] == 1.0


def test_merging_takes_the_cheaper_entry_of_each_state_whole():
    def entries(cost, mark):
        n = len(cost)
        return Reference(
            torch.tensor(cost, dtype=torch.float64),
            torch.full((n, 3, 2), float(mark)),
            torch.full((n,), bool(mark)),
            torch.full((n,), mark, dtype=torch.int32),
        )

    nan, inf = float("nan"), float("inf")
    old, new = entries([1.0, 3.0, 2.0, 5.0, 7.0], 0), entries([2.0, 1.0, 2.0, nan, inf], 1)
    best, won = reference._merge(old, new)
    assert won == 1 and best.cost.tolist() == [1.0, 1.0, 2.0, 5.0, 7.0]
    for field in (best.actions[:, 0, 0], best.converged, best.origin):
        assert field.tolist() == [0, 1, 0, 0, 0]


def test_several_beginnings_cost_no_more_than_each_and_a_reference_only_improves(task, monkeypatch):
    """Six states in chunks of four, from rest, a motion and a policy: the best of the three, or better.

    What was stored goes in with costs too good to be true, as another build may have left them.
    """
    monkeypatch.setattr(reference, "TEST_STATES", 6)
    monkeypatch.setattr(reference, "CHUNK", 4)
    made = task("pendulum2d-stop", 25)
    policy, said = Policy(made, 0), []
    start = made.test_states(6)
    first = reference.improve(made, None, [], 0)
    stale = dataclasses.replace(first, cost=torch.zeros_like(first.cost))
    second = reference.improve(made, stale, [policy], 1, report=said.append)
    alone = [
        optimise(made, start, actions[:6]).cost
        for _, _, actions in reference.beginnings(made, start, None, [policy], 1)
    ]
    assert len(alone) == 3 and torch.equal(first.cost, alone[0])
    assert (second.cost <= torch.stack(alone).amin(0)).all() and (second.cost <= first.cost).all()
    assert set(second.origin.tolist()) <= {0, 1, 2} and (first.origin == 0).all()
    rows = made.simulator.rollout(start, second.actions.double())
    assert torch.equal(second.cost, -made.returns(rows))
    assert [line.partition(":")[0] for line in said] == ["as stored", "random motion 0", "policy 0"]


def test_a_stored_reference_is_found_again_by_the_very_same_task_only(known, tmp_path, monkeypatch):
    made, best = known
    monkeypatch.setattr(reference, "FOLDER", tmp_path / "references")
    assert reference.load(made) is None
    reference.store(made, best)
    found = reference.load(made)
    for field in dataclasses.fields(Reference):
        assert torch.equal(getattr(found, field.name), getattr(best, field.name))
    for other in (dataclasses.replace(made, limit=0.5), dataclasses.replace(made, N=N + 1)):
        assert other.name == made.name and reference.load(other) is None
    path = reference.path(made)
    path.write_bytes(path.read_bytes()[:100])
    assert reference.load(made) is None


@every_task
def test_shipped_costs_are_those_of_their_actions_to_round_off(task, name):
    """Last bits are a machine's: of a sine, a sum, a product that is added. A swing of 150 steps makes up to 5e-10 of
    them in the cost of one of the 1,000 states, 1e-12 in a mean.
    """
    made, best = task(name), reference.load(task(name))
    assert best is not None, "no reference of this very task is shipped"
    assert len(best.cost) == len(best.actions) == tasks.TEST_STATES
    rows = made.simulator.rollout(made.test_states(20), best.actions[:20].double())
    cost, stored = -made.returns(rows), best.cost[:20]
    assert torch.allclose(cost, stored, rtol=1e-9, atol=0) and (cost - stored).mean().abs() <= 1e-12 * stored.mean()
    assert best.actions.abs().max() <= torch.tensor(made.limit, dtype=torch.float32)


@every_task
def test_shipped_references_are_converged(task, name):
    best = reference.load(task(name))
    assert best is not None, "no reference of this very task is shipped"
    assert best.converged.double().mean() >= 0.9
