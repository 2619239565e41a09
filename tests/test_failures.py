"""Rollouts that fail in the middle of a training: isolated, counted, and kept where they stop it."""

import dataclasses

import pytest
import torch

from learner import LEARNERS, failures, pods
from learner.rollouts import closed_loop
from learner.run import Run
from taichi_sim import InputError, State, Status
from tasks import Task

N, K = 20, 40
CONFIG = pods.Config(epochs=2, k=K, steps=2, batch=64)


class Faulty(Task):
    """Some start states of a training lie so far away that forces overflow; `broken` says which."""

    broken = ()

    def start(self, seed, B):
        start = super().start(seed, B)
        rows = [row for row in self.broken if B == K]
        x = start.x.clone()
        x[rows] = 1e200
        return State(x, start.v, start.p, x, start.v_prev, start.first)


@pytest.fixture
def faulty(task):
    def make(*broken):
        made = task("pendulum3d-stop", N)
        fields = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}
        other = Faulty(**fields)
        other.__dict__.update(simulator=made.simulator, goal=made.goal, broken=broken)
        return other

    return make


@pytest.mark.parametrize("learner", ("pods", "pods1", "bptt", "gps", "shac", "ppo", "sac"))
def test_training_goes_on_without_a_rollout_that_fails(faulty, tmp_path, learner):
    kind = LEARNERS[learner][0]
    names = {f.name for f in dataclasses.fields(kind)}
    small = {"steps": 2, "window": 10, "passes": 1, "updates": 1, "batch": 64, "minibatches": 2, "warmup": 5}
    config = kind(epochs=2, k=K, **{name: value for name, value in small.items() if name in names})
    run = Run.create(tmp_path / "run", {})
    policy = LEARNERS[learner][2](faulty(3), config, run)
    assert [row["failed"] for row in run.rows()] == [1, 1]
    assert all(torch.isfinite(tensor).all() for tensor in policy.state_dict().values())
    for row in run.rows():
        assert all(abs(value) < 1e9 for value in row.values())


def test_the_other_rollouts_do_not_notice(faulty):
    """In a batch of 4,000 with one that overflows, bit for bit as with it healthy: open loop, adjoint, directions."""
    made = faulty()
    start = Task.start(made, 5, 4000)
    actions = 0.3 * torch.sin(torch.linspace(0, 9, 4000 * N * 2, dtype=torch.float64)).view(4000, N, 2)
    x = start.x.clone()
    x[1234] = 1e200
    ill = State(x, start.v, start.p, x, start.v_prev, start.first)
    healthy, sick = (made.simulator.rollout(s, actions) for s in (start, ill))
    others = torch.arange(4000) != 1234
    assert healthy.ok.all() and sick.status[1234, 0] == Status.NON_FINITE and torch.equal(sick.ok, others)
    for name in ("x", "v", "p", "status", "iterations"):
        assert torch.equal(getattr(healthy, name)[others], getattr(sick, name)[others])
    steps = [pods.gauss_newton(made, rows) for rows in (healthy[1200:1300], sick[1200:1300])]
    assert torch.equal(steps[0].step[others[1200:1300]], steps[1].step[others[1200:1300]])
    assert (steps[1].step[34] == 0).all()


def test_too_many_failures_stop_the_run_and_are_kept(faulty, tmp_path):
    """Six of forty, where a tenth may: the last checkpoint stands, and the file has the six to simulate again."""
    made, run = faulty(), Run.create(tmp_path / "run", {})

    def infect(row):
        made.__dict__["broken"] = (1, 5, 9, 20, 21, 39)

    message = "failures: expected at most 10% of rollouts, got 6 of 40; .*failures.safetensors has them"
    with pytest.raises(InputError, match=message):
        LEARNERS["pods"][2](made, CONFIG, run, on_epoch=infect)
    assert len(run.rows()) == 1 and run.load()[1]["epoch"] == 1
    now, then = failures.replay(run.path / "failures.safetensors", made)
    assert len(now) == 6 and torch.equal(now.status, then.status) and not now.ok.any()
    assert (now.start.x == 1e200).all()
    with pytest.raises(InputError, match="expected rollouts of"):
        failures.replay(run.path / "failures.safetensors", dataclasses.replace(made, limit=0.5))


def test_a_policy_that_says_nothing_finite_fails_everywhere_and_is_kept_too(faulty, tmp_path):
    made = faulty()

    def silent(observation):
        return torch.full((len(observation), 2), torch.nan)

    rows = closed_loop(made, silent, made.start(1, 8))
    assert (rows.status[:, 0] == Status.NON_FINITE).all() and not rows.ok.any()
    failures.store(tmp_path / "failures.safetensors", made, rows)
    now, then = failures.replay(tmp_path / "failures.safetensors", made)
    assert torch.equal(now.status, then.status)
