"""Newton's method over random rollouts at the velocity limit, the whole number by `pods doctor --stress TASK`."""

import dataclasses

import pytest
import systems
import torch

import tasks
from taichi_sim import Status
from taichi_sim.residual import step_residual
from tasks.stress import stress

ONE_OF_EACH = ("pendulum2d-stop", "pendulum3d-stop", "double3d-stop", "cable2d-stop", "rope3d-stop", "cloth-lay")


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_random_step_at_the_limit_converges_and_truly_so(task, name):
    report = stress(task(name), 8_000, B=32)
    assert report.steps >= 8_000 and report.clean, report


@pytest.mark.slow
@pytest.mark.parametrize("name", tasks.names())
def test_every_one_of_a_hundred_thousand_random_steps_converges_and_truly_so(task, name):
    report = stress(task(name), 100_000)
    assert report.steps >= 100_000 and report.clean, report


@pytest.mark.parametrize("name", ("cable2d-stop", "cloth-lay"))
def test_a_row_moved_by_a_billionth_is_found_out(task, name):
    """The second evaluation of the step equations notices what round-off does not explain, in x, v and p."""
    made = task(name)
    actions = systems.random(4, made.N, made.system.actions, seed=5, scale=0.3)
    rows = made.simulator.rollout(made.start((9, 2), 4), actions)
    G, bound = step_residual(made.simulator, rows)
    assert (rows.status == Status.OK).all() and (G <= bound).all()
    for field in ("x", "v", "p"):
        moved = {field: getattr(rows, field) + 1e-9 * (torch.arange(made.N + 1) == 7)[:, None, None]}
        G, bound = step_residual(made.simulator, dataclasses.replace(rows, **moved))
        assert (G > bound).any(-1)[:, 6].all()


def test_a_failed_step_is_counted(task):
    """Steps after it are not."""
    made = task("pendulum2d-stop", N=20, limit=1e300)
    report = stress(made, 640, B=32)
    assert not report.clean and report.failed == 32 and report.steps < 640 and report.not_finite == 0
