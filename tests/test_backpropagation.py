"""BPTT and SHAC: gradients through simulator and policy, TD(λ), and what they learn."""

import pytest
import torch

from learner import bptt, shac
from learner.policy import Policy
from learner.returns import td_lambda
from learner.rollouts import closed_loop, differentiable, resting_cost
from learner.run import Run
from taichi_sim import InputError
from taichi_sim.verification import taylor_rate_of_input
from tasks import Quadratic, Terminal

N = 40


def law(made, K):
    """A feedback law in double precision, so that differences of its returns are good to 1e-14."""

    def act(observation):
        return made.limit * torch.tanh(observation @ K)

    return act


def gains(made):
    n, m = made.observation_size, made.system.actions
    return torch.linspace(-0.6, 0.8, n * m, dtype=torch.float64).view(n, m)


def rates(value, K):
    """Of the Taylor remainders of `value` (a scalar of K) along four directions."""
    return taylor_rate_of_input(lambda moved: torch.stack([value(k) for k in moved]), K[None])


@pytest.mark.parametrize("name", ("pendulum2d-stop", "double3d-origin"))
def test_bptt_has_the_gradient_of_the_closed_loop(task, name):
    made = task(name, 12)
    start = made.start(3, 4)
    rate = rates(lambda K: bptt.loss(made, law(made, K), start)[0], gains(made))
    assert rate == pytest.approx(2.0, abs=0.05)


def test_shac_has_the_gradient_of_its_window_and_of_what_its_critic_says_of_the_rest(task):
    """From the middle of an episode, history included."""
    made = task("pendulum3d-origin", N)
    weights = torch.linspace(0.1, 1.0, made.observation_size, dtype=torch.float64)

    def critic(observation):
        return -(weights * observation.square()).sum(-1)

    begin = made.simulator.rollout(made.start(3, 4), 0.2 * torch.ones(4, 5, 2, dtype=torch.float64)).state(5)
    rate = rates(
        lambda K: shac.actor_loss(made, law(made, K), critic, begin, 12, 0.97, 0.3)[0],
        gains(made),
    )
    assert rate == pytest.approx(2.0, abs=0.05)


def test_the_loss_of_shac_is_the_discounted_return_and_the_value_after_it(task):
    made = task("pendulum2d-origin", N)
    begin, zero = made.start(3, 2), lambda o: torch.zeros(len(o), 1, dtype=torch.float64)
    found = shac.actor_loss(made, zero, lambda o: o[:, 0] + 7.0, begin, 3, 0.5, 2.0)
    loss, rewards, seen, after, ok = found
    rows = made.simulator.rollout(begin, torch.zeros(2, N, 1, dtype=torch.float64))
    r = made.rewards(rows)[:, :3] / 2.0
    assert torch.equal(rewards, r) and bool(ok.all())
    value = made.observe(rows.x, rows.v, rows.p)[:, 3, 0] + 7.0
    expected = -(r[:, 0] + 0.5 * r[:, 1] + 0.25 * r[:, 2] + 0.125 * value).mean() / 3
    assert loss.item() == pytest.approx(expected.item(), rel=1e-14)
    assert torch.equal(after.x, rows.x[:, 3]) and torch.equal(after.x_prev, rows.x[:, 2])
    assert torch.equal(seen, made.observe(rows.x, rows.v, rows.p)[:, :4])


def test_the_differentiable_loop_is_the_closed_loop(task):
    """The same rows, bit for bit, as without a graph."""
    made = task("double3d-stop", N)
    policy, start = Policy(made, 0), made.start(3, 16)
    rows = closed_loop(made, policy, start)
    rewards, seen, after, ok = differentiable(made, policy, start, N)
    assert torch.equal(rewards, made.rewards(rows)) and torch.equal(ok, rows.ok)
    assert torch.equal(seen, made.observe(rows.x, rows.v, rows.p))
    assert torch.equal(after.x, rows.x[:, -1]) and torch.equal(after.v_prev, rows.v[:, -2])


def test_a_failed_rollout_hands_no_gradient_back_and_leaves_the_others_alone(task):
    made = task("pendulum2d-stop", N)
    start, K = made.start(3, 4), gains(made).requires_grad_()
    wild = start.x.clone()
    wild[1] = 1e200
    broken = type(start)(wild, start.v, start.p, wild, start.v_prev, start.first)
    loss, returns = bptt.loss(made, law(made, K), broken)
    kept = [0, 2, 3]
    other, healthy = bptt.loss(made, law(made, K), start[kept])
    assert len(returns) == 3 and torch.allclose(returns, healthy, rtol=1e-12)
    gradient, same = (torch.autograd.grad(value, K)[0] for value in (loss, other))
    assert torch.isfinite(gradient).all() and torch.allclose(gradient, same, rtol=1e-12)


# TD(λ)


def test_td_lambda_is_the_mean_of_the_k_step_returns():
    """Against its definition, (1 − λ) Σ_k λ^{k−1} G^{(k)} + λ^{h−t−1} G^{(h−t)}, Sutton and Barto 2018, Eq. 12.3."""
    generator = torch.Generator().manual_seed(0)
    r, v = torch.randn(3, 6, generator=generator), torch.randn(3, 7, generator=generator)
    gamma, lam, h = 0.9, 0.7, 6
    expected = torch.zeros(3, h)
    for t in range(h):
        ahead = [sum(gamma**j * r[:, t + j] for j in range(k)) + gamma**k * v[:, t + k] for k in range(1, h - t + 1)]
        expected[:, t] = (1 - lam) * sum(lam**k * G for k, G in enumerate(ahead[:-1])) + lam ** (h - t - 1) * ahead[-1]
    assert torch.allclose(td_lambda(r, v, gamma, lam), expected, rtol=1e-5)


def test_td_lambda_by_hand():
    """Two steps with γ = ½: with λ = 0 one-step targets, with λ = 1 the discounted sum, in between both."""
    r, v = torch.tensor([[1.0, 2.0]]), torch.tensor([[10.0, 20.0, 40.0]])
    assert td_lambda(r, v, 0.5, 0.0).tolist() == [[1 + 10, 2 + 20]]
    assert td_lambda(r, v, 0.5, 1.0).tolist() == [[1 + 0.5 * 22, 22]]
    assert td_lambda(r, v, 0.5, 0.5).tolist() == [[1 + 0.5 * (0.5 * 20 + 0.5 * 22), 22]]


# Learning


def cost(made, policy):
    return -made.returns(closed_loop(made, policy, made.start((77,), 200))).mean().item()


def test_bptt_learns(task, tmp_path):
    """24 gradient steps on 16 rollouts each: less than half the untrained policy's cost on 200 new states."""
    made, config = task("pendulum2d-stop", N), bptt.Config(epochs=6, k=64, steps=4)
    policy = bptt.train(made, config, Run.create(tmp_path / "run", {}))
    assert cost(made, policy) < 0.5 * cost(made, Policy(made, 0))


def test_shac_learns(task, tmp_path):
    """Twelve windows of ten steps of 64 rollouts: less than half the untrained policy's cost on 200 new states."""
    made = task("pendulum2d-stop", N)
    config = shac.Config(epochs=3, k=64, window=10, passes=4)
    run = Run.create(tmp_path / "run", {})
    policy = shac.train(made, config, run)
    assert cost(made, policy) < 0.5 * cost(made, Policy(made, 0))
    assert all(row["critic_loss"] > 0 and row["gradient"] > 0 for row in run.rows())


def test_a_critic_of_a_still_system_learns_the_geometric_series(task, tmp_path):
    """With a reward that is −c wherever the system is, V = −c/(1 − γ), time limits notwithstanding."""
    made = task("pendulum2d-stop", N)
    policy = Policy(made, 0)
    critic, target = shac.Critic(policy, 0), shac.Critic(policy, 0).requires_grad_(False)
    adam = torch.optim.Adam(critic.parameters(), lr=2e-3)
    config = shac.Config(gamma=0.8, trace=0.9, passes=4)
    start = made.start(5, 64)
    rows = made.simulator.rollout(start, torch.zeros(64, 10, 1, dtype=torch.float64))
    seen, rewards = made.observe(rows.x, rows.v, rows.p), torch.full((64, 10), -0.4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        shac.fit(critic, adam, target, rewards, seen, config, generator)
        target.load_state_dict(critic.state_dict())
    assert critic(seen).mean().item() == pytest.approx(-0.4 / 0.2, rel=0.02)


def test_windows_divide_the_horizon_and_terminal_rewards_are_refused(task, tmp_path):
    assert [shac.window(shac.Config(window=most), 150) for most in (32, 1, 150, 149)] == [30, 1, 150, 75]
    last = Terminal(Quadratic(w_p=0.0, w_x=1.0, w_v=1.0, w_a=0.0), prox=0.01)
    made = task("pendulum2d-stop", N, reward=last)
    with pytest.raises(InputError, match="reward"):
        shac.train(made, shac.Config(epochs=1, k=4), Run.create(tmp_path / "run", {}))


def test_the_unit_of_cost_is_that_of_a_step_without_motion(task):
    made = task("pendulum2d-stop", N)
    assert 0 < resting_cost(made) < 10
    double = task("pendulum2d-stop", N, reward=Quadratic(w_p=0.0, w_x=0.0, w_v=2.0, w_a=0.1))
    assert resting_cost(double) == pytest.approx(2 * resting_cost(made), rel=1e-12)
