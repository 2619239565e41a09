"""PPO and SAC of Stable-Baselines3 on our environments: their numbers, beginnings, improvement, and resumed runs."""

import dataclasses

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import Logger

from learner import LEARNERS, baselines, ppo, sac, seeds
from learner.policy import Policy
from learner.rollouts import closed_loop
from learner.run import Run
from taichi_sim import InputError

N = 20
PPO = ppo.Config(epochs=4, k=8, window=10, passes=4, minibatches=2, rate=1e-3)
SAC = sac.Config(epochs=4, k=8, updates=1, batch=64, buffer=8 * 50, warmup=5)
CONFIGS = {"ppo": PPO, "sac": SAC}
NETWORKS = {"ppo": ppo, "sac": sac}


def model_of(learner, made, scale=1.0, seed=0, **changes):
    """An untrained learner, its environments at start states of their own."""
    config = dataclasses.replace(CONFIGS[learner], seed=seed, **changes)
    policy = Policy(made, seed)
    model = NETWORKS[learner].model_of(made, config, policy, scale)
    model.set_logger(Logger(None, []))
    model.env.begin(made.start((9, seed), config.k), seed)
    return model, policy


def observe(made, rows):
    return made.observe(rows.x, rows.v, rows.p).float()


# Beginnings


@pytest.mark.parametrize("learner", CONFIGS)
def test_the_learners_begin_with_the_policy_of_all_learners(task, learner):
    """Without noise they act as `Policy` does, up to float32's rounding of ±1 to the limit and back."""
    made = task("double3d-origin", N, limit=0.6)
    model, policy = model_of(learner, made, seed=3)
    start = made.start((9,), 500)
    seen = made.observe(start.x, start.v, start.p).float()
    actions, _ = model.predict(seen.numpy(), deterministic=True)
    expected = policy(seen).detach().numpy()
    assert np.abs(expected).max() > 0.03
    np.testing.assert_allclose(0.6 * actions, expected, rtol=0, atol=1e-7)
    other, _ = model_of(learner, made, seed=4)[0].predict(seen.numpy(), deterministic=True)
    assert np.abs(0.6 * other - expected).max() > 0.03


@pytest.mark.parametrize("learner", CONFIGS)
def test_exploration_begins_with_the_standard_deviation_asked_for(task, learner):
    made = task("pendulum3d-stop", N)
    model, _ = model_of(learner, made, std=0.05)
    torch.manual_seed(0)
    seen = np.repeat(model.env.reset()[:1], 4000, 0)
    actions, mean = (model.predict(seen, deterministic=still)[0] for still in (False, True))
    assert np.abs((actions - mean).std(0) / 0.05 - 1).max() < 0.05


def test_critics_see_white_observations_and_come_from_the_seed_alone(task):
    made = task("pendulum2d-stop", N)

    def weights(seed):
        torch.manual_seed(99)
        models = {name: model_of(name, made, seed=seed)[0].policy.state_dict() for name in CONFIGS}
        return {f"{name}/{key}": tensor for name in models for key, tensor in models[name].items()}

    one, same, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(one[name], same[name]) for name in one)
    critics = [name for name in one if ("critic" in name or "value" in name) and name.endswith("weight")]
    assert len(critics) == 3 + 2 * 6 and not any(torch.equal(one[name], other[name]) for name in critics)
    extractor = model_of("sac", made)[0].critic.features_extractor
    policy = Policy(made, 0)
    row = torch.randn(5, made.observation_size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(extractor(row), (row - policy.mean) @ policy.whiten)


# The adapter


def test_episodes_are_open_loop_rollouts_in_units_of_the_limit(task):
    """Observations bit for bit, scaled rewards, true returns; the end is told as a truncation with its last row."""
    made = task("pendulum3d-stop", 6, limit=0.5)
    episodes, start = baselines.Episodes(made, 4, scale=0.25), made.start((9,), 4)
    actions = torch.rand(4, 6, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rows = made.simulator.rollout(start, 0.5 * actions.double())
    seen, rewards = observe(made, rows).numpy(), 0.25 * made.rewards(rows).float().numpy()
    episodes.begin(start, 0)
    assert np.array_equal(episodes.reset(), seen[:, 0])
    for t in range(6):
        observation, reward, done, infos = episodes.step(actions[:, t].numpy())
        assert np.array_equal(observation, seen[:, t + 1]) and reward.dtype == np.float32
        np.testing.assert_allclose(reward, rewards[:, t], rtol=1e-6)
        assert done.tolist() == [t == 5] * 4 and len(infos) == 4
        assert t == 5 or infos == [{}] * 4
    for info, last in zip(infos, seen[:, -1], strict=True):
        assert info["TimeLimit.truncated"] and np.array_equal(info["terminal_observation"], last)
    torch.testing.assert_close(episodes.returns, made.returns(rows), rtol=1e-14, atol=0)
    assert not episodes.failed.any()


def test_a_failed_episode_is_truncated_and_another_begins(task):
    made = task("pendulum2d-stop", 6)
    start, actions = made.start((9,), 3), np.zeros((3, 1), np.float32)
    start.x[1] = 1e155

    def first_steps(seed):
        episodes = baselines.Episodes(made, 3, scale=1.0)
        episodes.begin(start, seed)
        episodes.reset()
        results = [episodes.step(actions) for _ in range(6)]
        return episodes, results

    episodes, results = first_steps(0)
    assert results[0][2].tolist() == [False, True, False] and results[5][2].tolist() == [True, False, True]
    assert not any(result[2].any() for result in results[1:5])
    assert results[0][3][1]["TimeLimit.truncated"] and results[0][3][0] == {}
    assert all(np.isfinite(observation).all() for observation, *_ in results)
    assert episodes.failed.tolist() == [False, True, False]
    alone = made.simulator.rollout(start[[0, 2]], torch.zeros(2, 6, 1, dtype=torch.float64))
    torch.testing.assert_close(episodes.returns[[0, 2]], made.returns(alone), rtol=1e-14, atol=0)
    assert np.array_equal(first_steps(0)[1][5][0], results[5][0])
    assert not np.array_equal(first_steps(1)[1][5][0], results[5][0])


@pytest.mark.parametrize("window", (3, 6))
def test_advantages_of_ppo_bootstrap_where_a_window_and_where_the_horizon_ends(task, window):
    """GAE by hand: A_t = δ_t + γλ A_{t+1}, δ_t = r_t + γ V(row t+1) − V(row t), to the end of the window; the row at
    the horizon counts with its value, since the pendulum does not stop there."""
    made, gamma, trace = task("pendulum2d-stop", 6), 0.9, 0.8
    model, _ = model_of("ppo", made, scale=0.5, k=4, window=window, minibatches=1, gamma=gamma, trace=trace)
    _, callback = model._setup_learn(24)
    start, actions = made.start((9, 0), 4), []
    for first in range(0, 6, window):
        model.collect_rollouts(model.env, callback, model.rollout_buffer, window)
        buffer = model.rollout_buffer
        actions.append(torch.from_numpy(buffer.actions.copy()).transpose(0, 1).clamp(-1, 1))
        played = made.limit * torch.cat(actions, 1).double()
        rows = made.simulator.rollout(start, played)
        seen, reward = observe(made, rows)[:, first:], 0.5 * made.rewards(rows)[:, first:]
        with torch.no_grad():
            values = model.policy.predict_values(seen.flatten(0, 1)).view(4, window + 1).double()
        advantage, later = torch.zeros(4, window, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
        for t in reversed(range(window)):
            later = reward[:, t] + gamma * values[:, t + 1] - values[:, t] + gamma * trace * later
            advantage[:, t] = later
        found = torch.from_numpy(buffer.advantages).T.double()
        assert advantage.abs().min() > 1e-4
        torch.testing.assert_close(found, advantage, rtol=1e-4, atol=1e-6)


def test_the_replay_buffer_holds_no_terminations_and_the_last_rows_of_episodes(task):
    made = task("pendulum2d-stop", 6)
    model, _ = model_of("sac", made, scale=0.5, k=4, warmup=2)
    model.learn(24, log_interval=None, reset_num_timesteps=False)
    buffer = model.replay_buffer
    actions = torch.from_numpy(buffer.actions[:6]).transpose(0, 1)
    rows = made.simulator.rollout(made.start((9, 0), 4), (made.limit * actions).double())
    seen = observe(made, rows)
    assert torch.allclose(torch.from_numpy(buffer.observations[:6]).transpose(0, 1), seen[:, :-1], atol=1e-6)
    assert torch.allclose(torch.from_numpy(buffer.next_observations[:6]).transpose(0, 1), seen[:, 1:], atol=1e-6)
    np.testing.assert_allclose(buffer.rewards[:6].T, 0.5 * made.rewards(rows), rtol=1e-5, atol=1e-7)
    assert (buffer.dones[:6].sum(0) == 1).all() and (buffer.dones[5] == 1).all()
    np.random.seed(0)
    assert (buffer.sample(200).dones == 0).all()


# Training


@pytest.mark.parametrize("learner", CONFIGS)
def test_the_log_tells_true_undiscounted_returns_of_the_epochs_own_episodes(task, tmp_path, learner, monkeypatch):
    """Those of the open-loop rollouts of the actions played from the starts of (seed, epoch), unscaled."""
    made, played = task("pendulum2d-stop", N), []
    step = baselines.VectorEnvironment.step

    def watched(environment, actions):
        played.append(actions.double().clamp(-made.limit, made.limit))
        return step(environment, actions)

    monkeypatch.setattr(baselines.VectorEnvironment, "step", watched)
    rows = train(learner, made, tmp_path / "run").rows()
    assert len(played) == 4 * N
    for epoch, row in enumerate(rows):
        actions = torch.stack(played[epoch * N : (epoch + 1) * N], 1)
        value = made.returns(made.simulator.rollout(made.start(seeds.starts(0, epoch), 8), actions))
        assert row["return"] == pytest.approx(value.mean().item(), rel=1e-12)
        assert row["return_std"] == pytest.approx(value.std(correction=0).item(), rel=1e-12)
        assert row["samples"] == 8 * N * (epoch + 1)


class Cut(Exception):
    pass


def train(learner, made, path, cut=None, config=None):
    """The run of a training that is cut off after `cut` epochs."""

    def stop(row):
        if row["epoch"] == cut:
            raise Cut

    run = Run.create(path, {})
    try:
        LEARNERS[learner][2](made, config or CONFIGS[learner], run, on_epoch=stop)
    except Cut:
        pass
    return run


def timeless(run):
    return [{name: y for name, y in row.items() if not name.startswith("seconds")} for row in run.rows()]


def equal(these, those):
    return these.keys() == those.keys() and all(torch.equal(these[name], those[name]) for name in these)


@pytest.mark.parametrize("learner", CONFIGS)
def test_the_policy_kept_is_the_actor_that_learnt(task, tmp_path, learner):
    made = task("pendulum2d-stop", N)
    tensors, _ = train(learner, made, tmp_path / "run", config=dataclasses.replace(CONFIGS[learner], epochs=1)).load()
    names = {
        "ppo": ("ppo/mlp_extractor.policy_net.0", "ppo/mlp_extractor.policy_net.2", "ppo/action_net"),
        "sac": ("actor/latent_pi.0", "actor/latent_pi.2", "actor/mu"),
    }[learner]
    untrained = Policy(made, 0).state_dict()
    for n, name in enumerate(names):
        for kind in ("weight", "bias"):
            kept = tensors[f"policy/layers.{n}.{kind}"]
            assert torch.equal(kept, tensors[f"{name}.{kind}"])
            assert not torch.equal(kept, untrained[f"layers.{n}.{kind}"])


@pytest.mark.parametrize("learner, epochs", (("ppo", 8), ("sac", 7)))
def test_a_few_epochs_halve_the_cost_on_fresh_states(task, tmp_path, learner, epochs):
    """On 200 new starts the mean cost falls below half of the untrained policy's and half of that of no motion."""
    made = task("pendulum2d-stop", 80)
    config = {
        "ppo": ppo.Config(epochs=epochs, k=32, window=40, minibatches=4, rate=3e-3),
        "sac": sac.Config(epochs=epochs, k=32, updates=2, batch=64, rate=3e-3),
    }[learner]
    run = Run.create(tmp_path / "run", {})
    policy = LEARNERS[learner][2](made, config, run)
    start = made.start((77,), 200)

    def cost(policy):
        return -made.returns(closed_loop(made, policy, start)).mean().item()

    still = -made.returns(made.simulator.rollout(start, torch.zeros(200, 80, 1, dtype=torch.float64))).mean().item()
    untrained, trained = cost(Policy(made, 0)), cost(policy)
    assert trained < 0.5 * untrained and trained < 0.5 * still
    rows = run.rows()
    assert [row["samples"] for row in rows] == [32 * 80 * n for n in range(1, epochs + 1)]
    assert rows[-1]["return"] > rows[0]["return"] and all(row["failed"] == 0 for row in rows)
    laps = [name for name in rows[0] if name.startswith("seconds_") and name != "seconds_validation"]
    trained = sum(row[name] for row in rows for name in laps)
    assert rows[-1]["seconds"] == pytest.approx(trained, rel=1e-9) and rows[0]["seconds_update"] > 0


@pytest.mark.parametrize("learner, changes, message", [
    ("ppo", {"window": 15}, "window: expected a divisor of the horizon of 20 steps, got 15"),
    ("ppo", {"minibatches": 7}, "minibatches: expected a divisor of 80 samples, got 7"),
    ("ppo", {"minibatches": 80}, "minibatches: expected fewer than 80, the samples, got 80"),
    ("sac", {"warmup": 20}, "warmup: expected fewer steps than the horizon's 20, got 20"),
    ("sac", {"buffer": 7}, "buffer: expected room for a step of 8 environments, got 7"),
])  # fmt: skip
def test_a_setting_that_does_not_fit_the_task_is_named(task, learner, changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONFIGS[learner], **changes).check_task(task("pendulum2d-stop", N))
