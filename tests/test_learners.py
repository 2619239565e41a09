"""What holds for every learner: the same beginning, the same log, runs that repeat and that go on."""

import csv
import dataclasses

import numpy as np
import pytest
import torch

from learner import LEARNERS
from learner.policy import Policy
from learner.run import Run

N = 20
# Small enough for a test, large enough for every part of a learner to run.
SETTINGS = {
    "pods": {"k": 4, "steps": 3, "batch": 16, "memory": 2},
    "pods1": {"k": 4, "steps": 3, "batch": 16, "memory": 2},
    "bptt": {"k": 4, "steps": 2},
    "shac": {"k": 4, "window": 10, "passes": 2, "minibatches": 2},
    "gps": {"k": 4, "steps": 3, "batch": 16, "memory": 2},
    "ppo": {"k": 4, "window": 10, "passes": 2, "minibatches": 2},
    "sac": {"k": 4, "updates": 1, "batch": 16, "buffer": 150, "warmup": 5},
}
COLUMNS = ["epoch", "samples", "seconds", "return", "return_std", "failed", "failed_validation"]
COLUMNS += [
    f"{name}_validation{end}"
    for end in ("", "_std")
    for name in ("return", "terminal_kinetic_energy", "final_distance", "handle_speed")
]


class Cut(Exception):
    pass


def config(learner, **changes):
    kind, presets, _ = LEARNERS[learner]
    assert presets.keys() == {"paper", "cpu"} and all(kind(**preset) for preset in presets.values())
    return kind(**{"epochs": 4, **SETTINGS[learner], **changes})


def train(learner, task, path, on_epoch=lambda row: None, **changes):
    made = task("pendulum3d-origin", N)
    run = Run.open(path) if path.exists() else Run.create(path, {})
    return LEARNERS[learner][2](made, config(learner, **changes), run, on_epoch=on_epoch), run


def equal(these: dict, those: dict):
    return these.keys() == those.keys() and all(torch.equal(these[name], those[name]) for name in these)


def timeless(run):
    return [{name: y for name, y in row.items() if not name.startswith("seconds")} for row in run.rows()]


def test_every_learner_is_tested():
    assert SETTINGS.keys() == LEARNERS.keys()


@pytest.mark.parametrize("learner", LEARNERS)
def test_every_learner_begins_with_the_same_weights(task, tmp_path, learner):
    """A learning rate of 1e-9 moves no weight by more than a millionth."""
    rates = {f.name: 1e-9 for f in dataclasses.fields(LEARNERS[learner][0]) if f.name in ("rate", "rate_end")}
    policy, _ = train(learner, task, tmp_path / "run", epochs=1, seed=5, **rates)
    for name, tensor in Policy(task("pendulum3d-origin", N), 5).state_dict().items():
        assert (policy.state_dict()[name] - tensor).abs().max() < 1e-6, name


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(task, tmp_path, learner):
    """Every tensor of the last checkpoint and every row but its seconds: equal bit for bit; so is a second run."""

    def stop(row):
        if row["epoch"] == 2:
            raise Cut

    policy, whole = train(learner, task, tmp_path / "whole")
    torch.manual_seed(99)  # what the global generators did before must not matter
    np.random.seed(99)
    with pytest.raises(Cut):
        train(learner, task, tmp_path / "cut", stop)
    again, cut = train(learner, task, tmp_path / "cut")
    assert equal(policy.state_dict(), again.state_dict())
    assert equal(whole.load()[0], cut.load()[0]) and timeless(whole) == timeless(cut)
    assert whole.load()[1].keys() == cut.load()[1].keys() and len(timeless(cut)) == 4


@pytest.mark.parametrize("learner", LEARNERS)
def test_every_log_begins_with_the_same_columns(task, tmp_path, learner):
    told = []
    _, run = train(learner, task, tmp_path / "run", told.append, epochs=2)
    assert run.rows() == told
    with open(run.path / "log.csv") as file:
        head = next(csv.reader(file))
    assert head[: len(COLUMNS)] == COLUMNS
    first, second = told
    assert first["epoch"] == 1 and second["epoch"] == 2 and second["samples"] == 2 * first["samples"] > 0
    assert 0 < first["seconds"] < second["seconds"] and first["failed"] == 0
    laps = [name for name in first if name.startswith("seconds_")]
    assert "seconds_validation" in laps and first["seconds_validation"] > 0  # which is not training
    trained = sum(row[name] for row in told for name in laps if name != "seconds_validation")
    assert second["seconds"] == pytest.approx(trained, rel=1e-9)


@pytest.mark.parametrize("learner", ("pods", "sac"))
def test_no_epoch_begins_after_the_time_is_over(task, tmp_path, learner):
    """A limit below the time of an epoch leaves one epoch, and the resumed run adds none."""
    _, run = train(learner, task, tmp_path / "run", minutes=1e-9)
    assert [row["epoch"] for row in run.rows()] == [1]
    train(learner, task, tmp_path / "run", lambda row: pytest.fail("went on"), minutes=1e-9)
