"""The live simulation that a viewer shows: its time, its performers, hands, pushes and targets."""

import numpy as np
import pytest
import torch
from watched import moved

from learner.policy import Policy
from learner.rollouts import closed_loop
from taichi_sim import InputError, State, Status
from viz import session as live
from viz.session import Session

H = 0.024


def test_chained_steps_are_the_rollout_of_the_learner(pendulum, policy):
    s = Session(pendulum, [("policy", policy), ("still", None)], count=2, state=5)
    for _ in range(30):
        s.step()
    start = pendulum.test_states(7)[5:]
    still = torch.zeros(1, dtype=start.x.dtype)
    for n, act in enumerate((policy, lambda o: still)):
        rows, mine = closed_loop(pendulum, act, start), slice(2 * n, 2 * n + 2)
        for name in ("x", "v", "p"):
            seen = np.stack([getattr(row, name)[mine] for row in s.history], 1)
            assert np.array_equal(seen, getattr(rows, name).numpy())
        cost = -pendulum.rewards(rows).cumsum(1).numpy()
        assert np.allclose(np.stack([row.cost[mine] for row in s.history[1:]], 1), cost, rtol=1e-12)
        kinetic = 0.5 * 0.05 * rows.v[:, -1].square().sum((-2, -1)).mean()
        distance = (rows.x[:, -1] - pendulum.goal).norm(dim=-1).mean()
        expected = {"cost": cost[:, -1].mean(), "kinetic": kinetic, "distance": distance, "failed": 0}
        assert s.metrics()[n] == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-12)
    assert s.time == pytest.approx(30 * H) and s.horizon == pytest.approx(30 * H)


def test_time_goes_on_as_fast_as_the_watchers(pendulum):
    s = Session(pendulum, [("still", None)])
    assert s.elapse(3.5 * H) == 3 and s.elapse(0.6 * H) == 1 and s.elapse(0.3 * H) == 0 and s.length == 4
    assert s.elapse(60.0) == int(live.LATE / H)  # what a slow picture missed is not made up for
    s.change_speed(0.5)
    before = s.length
    assert sum(s.elapse(H / 2) for _ in range(40)) in (9, 10, 11) and before + 9 <= s.length <= before + 11
    for _ in range(20):
        s.change_speed(0.5)
    assert s.speed == live.SPEEDS[0]
    for _ in range(20):
        s.change_speed(2.0)
    assert s.speed == live.SPEEDS[-1]


def test_nothing_happens_in_a_pause_or_while_the_past_is_shown(pendulum):
    s = Session(pendulum, [("still", None)])
    s.playing = False
    assert s.elapse(1.0) == 0 and s.length == 0
    s.playing, s.scrub = True, 0
    assert s.elapse(1.0) == 0 and s.length == 0
    s.scrub = None
    assert s.elapse(H * 1.01) == 1 and s.length == 1


def test_starting_again_repeats_and_starting_anew_does_not(pendulum, policy):
    s = Session(pendulum, [("policy", policy)], count=2, state=3)

    def run():
        for _ in range(10):
            s.step()
        return np.stack([row.x for row in s.history])

    first = run()
    s.reset(3)
    assert s.length == 0 and s.history[0].cost.tolist() == [0, 0] and np.array_equal(run(), first)
    starts = [first[0]]
    for _ in range(2):
        s.reset()
        starts.append(s.history[0].x)
    s.reset(3)
    s.next_state()
    assert s.start == "test state 5" and np.array_equal(s.history[0].x, pendulum.test_states(7)[5:].x.numpy())
    starts.append(s.history[0].x)
    assert len({start.tobytes() for start in starts}) == 4
    judged = pendulum.test_states().x.numpy()
    assert not any((judged[:, None] == start).all((2, 3)).any() for start in starts[1:3])


def test_all_performers_start_alike(pendulum, policy):
    s = Session(pendulum, [("policy", policy), ("still", None), ("again", policy)], count=2)
    s.reset()
    x = s.history[0].x.reshape(3, 2, 1, 2)
    assert np.array_equal(x[0], x[1]) and np.array_equal(x[0], x[2]) and not np.array_equal(x[0, 0], x[0, 1])


def test_a_hand_drives_only_where_it_moves_and_within_the_limit(task):
    made = task("pendulum3d-stop", 30)
    s = Session(made, [("policy", Policy(made, 0))])
    s.step()
    alone = moved(s)
    assert (np.abs(alone) > 1e-3).all()
    s.reset(0)
    s.hand = np.array([0.3, 0.0])
    s.step()
    assert moved(s) == pytest.approx([0.3, alone[1]], abs=1e-12)
    s.reset(0)
    s.hand = np.array([0.0, -50.0])
    s.step()
    assert moved(s) == pytest.approx([alone[0], -made.limit], abs=1e-12)
    s.reset(0)
    s.hand, s.policy_on = np.zeros(2), False
    s.step()
    assert moved(s) == pytest.approx([0.0, 0.0], abs=1e-15)


def test_a_push_gives_every_point_the_same_velocity(task):
    made = task("double3d-stop", 30)
    s = Session(made, [("still", None)], count=2)
    for _ in range(5):
        s.step()
    at = s.history[-1]
    s.push((0.0, 3.0, 0.0))
    s.step()
    kick = torch.tensor([0.0, live.PUSH, 0.0], dtype=torch.float64)
    x, v, p = (torch.as_tensor(y) for y in (at.x, at.v, at.p))
    rows = made.simulator.rollout(State.start(x, v + kick, p), torch.zeros(2, 1, 2, dtype=torch.float64))
    for name in ("x", "v"):
        assert np.array_equal(getattr(s.history[-1], name), getattr(rows, name)[:, 1].numpy())


def test_a_moved_target_is_a_moved_world(pendulum):
    """Seen from the target, everything is as if the system had started as far on the other side."""

    def towards_the_goal(observation):
        return (-4.0 * observation[:, :1]).clamp(-pendulum.limit, pendulum.limit)

    s = Session(pendulum, [("policy", towards_the_goal)], count=2)
    s.move_target((1.0, 0.0))
    s.move_target((1.0, 0.0))
    assert s.target.tolist() == [2 * live.REACH, 0.0]
    for _ in range(30):
        s.step()
    start, shift = pendulum.test_states(2), torch.tensor([2 * live.REACH, 0.0], dtype=torch.float64)
    rows = closed_loop(pendulum, towards_the_goal, State.start(start.x - shift, start.v, start.p - shift))
    unmoved = closed_loop(pendulum, towards_the_goal, start)
    seen = torch.as_tensor(np.stack([row.x for row in s.history], 1))
    assert (seen - (rows.x + shift)).abs().max() < 1e-10
    assert (seen - unmoved.x).abs().max() > 0.05
    assert np.allclose(s.history[-1].cost, -pendulum.returns(rows).numpy(), rtol=1e-10)
    distance = (rows.x[:, -1] - pendulum.goal).norm(dim=-1).mean().item()
    assert s.metrics()[0]["distance"] == pytest.approx(distance, rel=1e-9)


def test_a_target_moves_only_where_a_handle_can_follow(pendulum, task):
    s = Session(pendulum, [("still", None)])
    s.move_target((1.0, -1.0))
    assert s.target.tolist() == [live.REACH, 0.0]  # a rail
    s = Session(task("cloth-lay", 5), [("still", None)])
    s.move_target((1.0, -1.0, 1.0))
    assert s.target.tolist() == [live.REACH, -live.REACH, 0.0]  # a table


def test_history_forgets_the_oldest_rows_and_shows_the_others(pendulum, monkeypatch):
    monkeypatch.setattr(live, "ROWS", 10)
    s, seen = Session(pendulum, [("still", None)]), []
    for _ in range(25):
        seen.append(s.history[-1])
        s.step()
    seen.append(s.history[-1])
    assert s.history == seen[-10:] and s.time == pytest.approx(25 * H)
    for scrub, row in ((0, 16), (4, 20), (-3, 16), (99, 25)):
        s.scrub = scrub
        assert s.time == pytest.approx(row * H) and s.metrics()[0]["cost"] == seen[row].cost[0]
        path = s.trail(2 * H)
        expected = [r.x.mean(1) for r in seen[max(16, row - 2) : row + 1]]
        assert np.array_equal(path, np.stack([expected[0]] * (2 - len(expected)) + expected, 1))


def test_a_failed_step_is_told_and_harms_nobody_else(pendulum, policy):
    s = Session(pendulum, [("broken", lambda o: o[:, :1] * torch.nan), ("policy", policy)], count=2)
    alone = Session(pendulum, [("policy", policy)], count=2)
    for n in range(5):
        s.step()
        alone.step()
        row = s.history[-1]
        assert (row.status[:2] != Status.OK).all() and (row.status[2:] == Status.OK).all()
        assert np.array_equal(row.x[:2], s.history[0].x[:2]) and np.array_equal(row.x[2:], alone.history[-1].x)
        assert [m["failed"] for m in s.metrics()] == [2, 0] and s.length == n + 1


@pytest.mark.parametrize("performers, count, message", [
    ([], 1, "performers: expected at least one"),
    ([("still", None)], 0, "count: expected 1 to 1000 rollouts, got 0"),
    ([("still", None)], 1001, "count: expected 1 to 1000 rollouts, got 1001"),
])  # fmt: skip
def test_a_session_refuses_what_it_cannot_show(pendulum, performers, count, message):
    with pytest.raises(InputError, match=message):
        Session(pendulum, performers, count)
