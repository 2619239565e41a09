"""The Gymnasium environments: the simulator's numbers, Gymnasium's conventions."""

import gc
import os
import pathlib
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
import stable_baselines3.common.env_checker
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import ArrayConversion

import tasks
from taichi_sim import InputError, Status
from tasks.environment import EPISODES, Environment, VectorEnvironment

ROOT = pathlib.Path(__file__).parent.parent
N = 12


def random_actions(made, B, N, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (B, N, made.system.actions)
    return scale * made.limit * (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1)


def play(env, actions, **reset):
    """Observations (B, N+1, n_s), rewards (B, N), truncations (B, N) and the last info of B episodes."""
    seen, rewards, ends = [env.reset(**reset)[0]], [], []
    for t in range(actions.shape[1]):
        observation, reward, terminated, truncated, info = env.step(actions[:, t])
        assert not terminated.any()
        seen.append(observation)
        rewards.append(reward)
        ends.append(truncated)
    return torch.stack(seen, 1), torch.stack(rewards, 1), torch.stack(ends, 1), info


# The simulator's numbers


@pytest.mark.parametrize("name", ("pendulum2d-stop", "double3d-origin", "rope3d-origin"))
def test_an_episode_is_the_open_loop_rollout_of_its_actions(task, name):
    """Rows bit for bit, each reward and their sum to round-off."""
    made, start = task(name, N), task(name, N).start((9,), 5)
    actions = random_actions(made, 5, N)
    seen, rewards, _, info = play(VectorEnvironment(made, 5), actions, options={"start": start})
    rows = made.simulator.rollout(start, actions)
    observed = made.observe(rows.x, rows.v, rows.p).float()
    assert torch.equal(seen[:, :-1], observed[:, :-1]) and torch.equal(info["final_obs"], observed[:, -1])
    torch.testing.assert_close(rewards, made.rewards(rows), rtol=1e-14, atol=0)
    torch.testing.assert_close(rewards.sum(1), made.returns(rows), rtol=1e-14, atol=0)
    assert seen.dtype == torch.float32 and seen.shape == (5, N + 1, made.observation_size)


def test_a_terminal_reward_comes_with_the_last_step_alone(task):
    last = tasks.Quadratic(w_p=1.0, w_x=1.0, w_v=0.2, w_a=0.05)
    made = task("pendulum2d-origin", N, reward=tasks.Terminal(last, prox=1e-3))
    start, actions = made.start((9,), 3), random_actions(made, 3, N)
    rewards = play(VectorEnvironment(made, 3), actions, options={"start": start})[1]
    assert (rewards[:, :-1] == 0).all() and (rewards[:, -1] < 0).all()
    torch.testing.assert_close(rewards, made.rewards(made.simulator.rollout(start, actions)), rtol=1e-14, atol=0)


def test_one_environment_and_many_agree_bit_for_bit(task):
    made = task("pendulum3d-origin", N)
    start, actions = made.start((9,), 4), random_actions(made, 4, N)
    seen, rewards, ends, info = play(VectorEnvironment(made, 4), actions, options={"start": start})
    seen[:, -1] = info["final_obs"]
    alone = Environment(made)
    for b in range(4):
        observation, _ = alone.reset(options={"start": start[b : b + 1]})
        assert np.array_equal(observation, seen[b, 0].numpy())
        for t in range(N):
            observation, reward, terminated, truncated, info = alone.step(actions[b, t].numpy())
            assert np.array_equal(observation, seen[b, t + 1].numpy()) and reward == rewards[b, t].item()
            assert (terminated, truncated, info) == (False, bool(ends[b, t]), {"status": 0})


def test_actions_beyond_the_limit_are_clipped_and_nan_is_refused_before_a_step(task):
    made = task("pendulum3d-stop", N)
    start, actions = made.start((9,), 2), random_actions(made, 2, N - 1, scale=3.0)
    clipped = play(VectorEnvironment(made, 2), actions.clamp(-made.limit, made.limit), options={"start": start})
    env = VectorEnvironment(made, 2)
    far = play(env, actions, options={"start": start})
    assert (actions.abs() > made.limit).any() and torch.equal(far[0], clipped[0]) and torch.equal(far[1], clipped[1])
    bad = actions[:, 0].clone()
    bad[1, 0] = torch.nan
    with pytest.raises(InputError, match=r"actions: expected numbers, got nan at \(1, 0\)"):
        env.step(bad)
    assert env.step(actions[:, 0])[3].all()  # step N: the refused one was not counted
    with pytest.raises(InputError, match=r"actions: expected \(2, 2\), got \(2,\)"):
        env.step(actions[0, 0])


def test_no_gradient_flows_through_an_environment(task):
    made = task("pendulum2d-stop", N)
    env = VectorEnvironment(made, 2)
    env.reset(seed=0)
    observation, reward, *_ = env.step(torch.zeros(2, 1, requires_grad=True))
    assert not observation.requires_grad and not reward.requires_grad


# Ends of episodes


def test_the_horizon_is_a_truncation_and_the_next_episode_begins_in_the_same_step(task):
    made = task("pendulum2d-stop", N)
    env, actions = VectorEnvironment(made, 3), random_actions(made, 3, N)
    seen, _, ends, info = play(env, actions, seed=4)
    assert not ends[:, :-1].any() and ends[:, -1].all()
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert info["_final_obs"].all() and not torch.equal(info["final_obs"], seen[:, -1])
    assert info["final_info"]["status"].tolist() == [0, 0, 0] and info["_final_info"].all()
    numbers = np.random.default_rng(np.random.SeedSequence(4)).integers(2**63, size=2)
    first, second = (made.start((EPISODES, int(number)), 3) for number in numbers)
    for state, row in ((first, seen[:, 0]), (second, seen[:, -1])):
        assert torch.equal(made.observe(state.x, state.v, state.p).float(), row)


def test_environments_at_different_times_end_and_begin_each_at_its_own(task):
    """Two of four begin again after 5 steps; each episode is then the rollout of its own start and actions."""
    made = task("pendulum2d-stop", N)
    env, actions = VectorEnvironment(made, 4), random_actions(made, 4, N + 5)
    start, again = made.start((9,), 4), made.start((10,), 2)
    mask = np.array([False, True, False, True])
    env.reset(options={"start": start})
    for t in range(5):
        env.step(actions[:, t])
    observation, info = env.reset(options={"reset_mask": mask, "start": again})
    assert info == {}
    rows = made.simulator.rollout(start, actions[:, :N])
    late = made.simulator.rollout(again, actions[mask, 5 : N + 5])
    whole, part = (made.observe(r.x, r.v, r.p).float() for r in (rows, late))
    assert torch.equal(observation[~mask], whole[~mask, 5]) and torch.equal(observation[mask], part[:, 0])
    for t in range(5, N + 5):
        observation, reward, _, truncated, info = env.step(actions[:, t])
        ends = ~mask if t == N - 1 else mask if t == N + 4 else np.zeros(4, dtype=bool)
        assert truncated.tolist() == ends.tolist() and ("final_obs" in info) == bool(ends.any())
        final = info["final_obs"] if ends.any() else observation
        assert torch.equal(final[mask], part[:, t - 4])
        if ends.any():
            assert info["_final_obs"].tolist() == ends.tolist()
            assert not torch.equal(observation[ends], final[ends]) and torch.equal(observation[~ends], final[~ends])
        if t < N:
            assert torch.equal(final[~mask], whole[~mask, t + 1])
            torch.testing.assert_close(reward[~mask], made.rewards(rows)[~mask, t], rtol=1e-14, atol=0)


def test_a_failed_step_truncates_its_own_episode_with_a_finite_reward(task):
    made = task("pendulum2d-stop", N)
    start = made.start((9,), 3)
    start.x[1] = 1e155  # its square is not a float64
    env, actions = VectorEnvironment(made, 3), random_actions(made, 3, N)
    first, _ = env.reset(options={"start": start})
    observation, reward, terminated, truncated, info = env.step(actions[:, 0])
    assert truncated.tolist() == [False, True, False] and not terminated.any()
    assert info["status"].tolist() == info["final_info"]["status"].tolist()
    assert info["status"].tolist() == [0, Status.NON_FINITE, 0]
    assert reward.isfinite().all() and torch.equal(info["final_obs"][1], first[1])
    assert observation.isfinite().all()


def test_without_autoreset_what_has_ended_must_be_reset(task):
    made = task("pendulum2d-stop", 1)
    env = VectorEnvironment(made, 2, autoreset_mode=AutoresetMode.DISABLED)
    actions = torch.zeros(2, 1)
    with pytest.raises(InputError, match="step: expected a reset before the first step"):
        env.step(actions)
    env.reset(seed=0)
    observation, _, _, truncated, info = env.step(actions)
    assert truncated.all() and "final_obs" not in info
    env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(InputError, match="step: expected a reset of the episodes that have ended, got 1"):
        env.step(actions)
    observation_now, _ = env.reset(options={"reset_mask": np.array([False, True])})
    assert env.step(actions)[3].all() and not torch.equal(observation_now, observation)
    alone = Environment(made)
    alone.reset(seed=0)
    alone.step(np.zeros(1, np.float32))
    with pytest.raises(InputError, match="step: expected a reset"):
        alone.step(np.zeros(1, np.float32))


# Seeds and options


def test_a_seed_determines_every_later_start(task):
    made = task("pendulum3d-stop", 2)

    def starts(seed):
        env, seen = VectorEnvironment(made, 3), []
        for reset in (env.reset(seed=seed), env.reset(), env.reset(options={"reset_mask": np.array([1, 0, 1]) > 0})):
            seen.append(reset[0])
        for _ in range(4):
            seen.append(env.step(torch.zeros(3, 2))[0])
        return torch.stack(seen)

    assert torch.equal(starts(5), starts(5)) and not torch.equal(starts(5), starts(6))
    assert not torch.equal(starts(5)[0], starts(5)[1])
    one, _ = Environment(made).reset(seed=5)
    assert np.array_equal(one, starts(5)[0, 0].numpy())
    assert not torch.equal(VectorEnvironment(made, 3).reset()[0], VectorEnvironment(made, 3).reset()[0])


@pytest.mark.parametrize("options, message", [
    ({"mask": 1}, "options: expected reset_mask or start, got 'mask'"),
    ({"reset_mask": np.zeros(2, bool)}, r'options\["reset_mask"\]: expected \(2,\) bool, not all False'),
    ({"reset_mask": np.ones(3, bool)}, r'options\["reset_mask"\]: expected \(2,\) bool'),
    ({"reset_mask": np.ones(2)}, r'options\["reset_mask"\]: expected \(2,\) bool'),
    ({"reset_mask": np.array([True, False])}, r'options\["reset_mask"\]: expected all True at first'),
    ({"start": 3}, r'options\["start"\]: expected a State, got int'),
])  # fmt: skip
def test_a_wrong_option_is_named_with_what_was_expected(task, options, message):
    with pytest.raises(InputError, match=message):
        VectorEnvironment(task("pendulum2d-stop", N), 2).reset(options=options)


def test_a_wrong_argument_is_named_with_what_was_expected(task):
    made = task("pendulum2d-stop", N)
    with pytest.raises(InputError, match=r'options\["start"\]: expected 2 start states, got 3'):
        VectorEnvironment(made, 2).reset(options={"start": made.start(0, 3)})
    with pytest.raises(InputError, match=r"start.x: expected \(2, 1, 2\), got \(2, 2, 3\)"):
        VectorEnvironment(made, 2).reset(options={"start": task("double3d-stop").start(0, 2)})
    for arguments, message in (
        ({"num_envs": 0}, "num_envs: expected at least one environment, got 0"),
        ({"N": 3}, "N: expected None beside a Task"),
        ({"autoreset_mode": AutoresetMode.NEXT_STEP}, "autoreset_mode: expected SAME_STEP or DISABLED"),
    ):
        with pytest.raises(InputError, match=message):
            VectorEnvironment(made, **arguments)
    with pytest.raises(InputError, match="the nearest is 'rope3d-stop'"):
        VectorEnvironment("rope3-stop")


# Gymnasium


def test_the_checkers_of_gymnasium_and_of_stable_baselines_pass(task):
    """They warn of nothing but that observations have no bounds and that actions are in m/s, not within ±1."""
    task("pendulum2d-stop")
    env = gymnasium.make("Pods/Pendulum2D-Stop-v0").unwrapped
    gc.collect()  # what earlier tests left open warns when it is collected
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env)
        stable_baselines3.common.env_checker.check_env(env)
    known = ("minimum value is -infinity", "maximum value is infinity", "symmetric and normalized")
    assert [str(w.message) for w in caught if not any(part in str(w.message) for part in known)] == []


def test_every_task_is_registered_once():
    ours = {name for name in gymnasium.registry if name.startswith("Pods/")}
    assert ours == {f"Pods/{name.title()}-v0" for name in tasks.names()} and len(ours) == 11
    assert {"Pods/Rope3D-Stop-v0", "Pods/Cloth-Lay-v0", "Pods/Pendulum2D-Origin-v0"} <= ours


def test_a_fresh_process_makes_environments_by_name():
    """Warnings are errors there: nothing is registered twice, nothing is missing from the metadata."""
    code = """
import sys
import gymnasium
envs = gymnasium.make_vec("tasks.environment:Pods/Pendulum3D-Stop-v0", num_envs=3, N=4)
assert envs.reset(seed=1)[0].shape == (3, 8) and envs.task.N == 4 and envs.spec.id == "Pods/Pendulum3D-Stop-v0"
env = gymnasium.make("Pods/Pendulum3D-Stop-v0", N=4)
observation, _ = env.reset(seed=1)
assert (observation == envs.reset(seed=1)[0][0].numpy()).all()
assert [env.step(env.action_space.sample())[3] for _ in range(4)] == [False, False, False, True]
sys.modules["tasks.environment"].register()
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_the_tasks_imports_no_gymnasium():
    code = "import sys, tasks; assert 'gymnasium' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0


def test_array_conversion_gives_numpy(task):
    made = task("pendulum3d-stop", 2)
    actions = np.full((3, 2), 0.25, np.float32)
    plain, env = VectorEnvironment(made, 3), ArrayConversion(VectorEnvironment(made, 3), env_xp=torch, target_xp=np)
    assert np.array_equal(env.reset(seed=3)[0], plain.reset(seed=3)[0].numpy())
    for _ in range(2):
        results, expected = env.step(actions), plain.step(torch.from_numpy(actions))
        for result, tensor in zip(results[:4], expected[:4], strict=True):
            assert isinstance(result, np.ndarray) and np.array_equal(result, tensor.numpy())
    assert np.array_equal(results[4]["final_obs"], expected[4]["final_obs"].numpy())
    assert results[4]["_final_obs"].dtype == bool and results[4]["final_info"]["status"].tolist() == [0, 0, 0]


def test_gymnasiums_own_batch_of_single_environments_agrees(task):
    made = task("pendulum2d-stop", 3)
    batch = gymnasium.vector.SyncVectorEnv([lambda: Environment(made)] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    ours = VectorEnvironment(made, 2)
    start = made.start((9,), 2)
    ours.reset(options={"start": start})
    for env, b in zip(batch.envs, range(2), strict=True):
        env.reset(options={"start": start[b : b + 1]})
    for _ in range(3):
        actions = np.full((2, 1), 0.125, np.float32)
        theirs, mine = batch.step(actions), ours.step(actions)
        assert np.array_equal(theirs[1], mine[1].numpy())
        for result, tensor in zip(theirs[2:4], mine[2:4], strict=True):
            assert np.array_equal(result, tensor.numpy())
    assert theirs[4].keys() - {"status", "_status"} == mine[4].keys() - {"status", "_status"}
    assert np.array_equal(np.stack(theirs[4]["final_obs"]), mine[4]["final_obs"].numpy())
    assert theirs[4]["final_info"].keys() == mine[4]["final_info"].keys()
