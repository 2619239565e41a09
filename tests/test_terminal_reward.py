"""A reward given only at the last step (the paper's discussion) goes the same way as any other."""

import systems
import torch

import tasks
from learner.directions import gauss_newton, steepest_descent
from learner.evaluation import evaluate
from learner.line_search import line_search
from learner.pods import Config, train
from learner.rollouts import closed_loop
from learner.run import Run
from tasks.verification import check_derivatives

LAST = tasks.Quadratic(w_p=1.0, w_x=1.0, w_v=0.2, w_a=0.05)


def terminal(task, N=80):
    return task("pendulum2d-origin", N=N, reward=tasks.Terminal(LAST, prox=1e-3))


def rollout(made, B=16):
    actions = systems.random(B, made.N, 1, seed=3, scale=0.1)
    return made.simulator.rollout(made.start((9, 1), B), actions)


def test_only_the_last_step_is_rewarded(task):
    made = terminal(task)
    rows = rollout(made)
    rewards, every = made.rewards(rows), task("pendulum2d-origin", N=80, reward=LAST).rewards(rows)
    assert (rewards[:, :-1] == 0).all() and torch.equal(rewards[:, -1], every[:, -1])


def test_derivatives_of_a_terminal_reward_hold(task):
    rates, mismatch = check_derivatives(terminal(task), 8)
    assert all(abs(rate - 2) <= 0.05 for rate in rates.values()), rates
    assert mismatch <= 1e-12


def test_curvature_is_the_hessian_of_the_last_state_and_a_proximal_term(task):
    q, r = terminal(task).curvature(80)
    full, _ = task("pendulum2d-origin", N=80, reward=LAST).curvature(80)
    assert (q[:, :-1] == 0).all() and torch.equal(q[:, -1], full[:, -1]) and (r == 2e-3).all()


def test_gauss_newton_reaches_the_goal_at_the_end_and_steepest_descent_gets_better(task):
    """Ten second-order steps end a thousand times closer (in cost) than the rollouts began, none ever getting worse."""
    made = terminal(task)
    for find, least in ((gauss_newton, 1e3), (steepest_descent, 1.5)):
        rows = rollout(made)
        before = -made.returns(rows)
        for _ in range(10):
            step = line_search(made, rows, find(made, rows))
            assert (step.gain >= 0).all()
            rows = step.trajectory
        assert before.mean() / -made.returns(rows).mean() >= least


def test_a_policy_is_trained_and_judged_by_it(task, tmp_path):
    """Eight epochs divide the cost by five or more; the steps that an evaluation adds are not rewarded."""
    made = terminal(task)
    run = Run.create(tmp_path / "run", {})
    policy = train(made, Config(epochs=8, k=32, steps=40, batch=1024, memory=4), run, gauss_newton)
    log = run.rows()
    assert log[0]["return"] / log[-1]["return"] >= 5
    alone = made.returns(closed_loop(made, policy, made.test_states(64))).mean().item()
    assert evaluate(made, policy, states=64)["return"] == alone
