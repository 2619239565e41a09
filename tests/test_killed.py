"""SIGKILL at random moments: the run folder always opens, and what goes on ends as if nothing had happened."""

import json
import pathlib
import random
import subprocess
import sys
import time

import pytest
import torch
from processes import ENVIRONMENT, PODS, pods

from learner.run import Run

HERE = pathlib.Path(__file__).parent
EPOCHS = 24
TRAIN = ("train", "pendulum2d-stop", "--k", "8", "--steps", "20", "--batch", "64", "--memory", "3", "--horizon", "20")


def killed_while_saving(folder, kills):
    command = [sys.executable, HERE / "save_for_ever.py", folder, str(kills)]
    environment = ENVIRONMENT | {"PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_twenty_kills_while_saving_leave_a_folder_that_opens(tmp_path):
    assert killed_while_saving(tmp_path / "run", 20) > 20


@pytest.mark.slow
def test_two_hundred_kills_while_saving_leave_a_folder_that_opens(tmp_path):
    assert killed_while_saving(tmp_path / "run", 200) > 200


def train_and_kill(folder, kills, seed=0):
    """Train, killed so often at a random moment after it has gone on by an epoch at least; then to the end."""
    generator, run = random.Random(seed), folder / "run"
    arguments = [*TRAIN, "--epochs", str(EPOCHS), "--run", "run"]
    for _ in range(kills):
        rows = len(Run.open(run).rows()) if (run / "config.json").exists() else 0
        process = subprocess.Popen([*PODS, *arguments], cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        while not (run / "log.csv").exists() or len(Run.open(run).rows()) <= rows:
            if process.poll() is not None:
                break
            time.sleep(0.002)
        time.sleep(generator.uniform(0.0, 0.2))
        process.kill()
        process.wait()
        found = [row["epoch"] for row in Run.open(run).rows()]
        assert found == list(range(1, len(found) + 1))
        if len(found) >= EPOCHS - 2:
            break
        arguments = ["train", "--resume", "run"]
    assert pods("train", "--resume", "run", cwd=folder).returncode == 0
    return Run.open(run)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same training, left alone."""
    folder = tmp_path_factory.mktemp("whole")
    assert pods(*TRAIN, "--epochs", EPOCHS, "--run", "run", cwd=folder).returncode == 0
    return Run.open(folder / "run")


def compare(run, whole):
    """Every tensor of the last checkpoint, every row but its seconds, and the evaluation: equal bit for bit."""
    (tensors, state), (others, _) = run.load(), whole.load()
    assert state["epoch"] == EPOCHS and tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    rows, expected = (
        [{k: y for k, y in row.items() if not k.startswith("seconds")} for row in r.rows()] for r in (run, whole)
    )
    assert rows == expected and len(rows) == EPOCHS
    found, wanted = (json.loads((r.path / "evaluation.json").read_text()) for r in (run, whole))
    assert {**found, "training_seconds": 0} == {**wanted, "training_seconds": 0}


def test_a_training_that_is_killed_ends_as_if_it_had_not_been(tmp_path, whole):
    compare(train_and_kill(tmp_path, 4), whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_a_training_that_is_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path, whole, seed):
    compare(train_and_kill(tmp_path, 8, seed), whole)
