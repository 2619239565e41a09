"""Run by test_killed.py: python save_for_ever.py FOLDER KILLS. Forks, before Taichi starts, what saves until killed."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from learner.run import Run


def save_for_ever(run):
    """As a training without epochs in between: a row, a checkpoint, from where the folder is."""
    _, state = run.load() if run.checkpoints() else ({}, {"epoch": 0})
    run.rewind(state["epoch"])
    epoch = state["epoch"]
    while True:
        epoch += 1
        run.log({"epoch": epoch, "seconds": 0.5 * epoch, "return": -1.0 / epoch})
        run.save(epoch, {"weights": torch.full((200, 200), float(epoch)), "epoch": torch.tensor(epoch)}, {})


def check(run):
    """The folder opens; its newest checkpoint is whole; no row is lost below it, none is double."""
    run = Run.open(run.path)
    rows = [row["epoch"] for row in run.rows()]
    assert rows == list(range(1, len(rows) + 1)), rows
    if not run.checkpoints():
        return 0
    tensors, state = run.load()
    epoch = state["epoch"]
    assert epoch == int(run.checkpoints()[-1].stem) == tensors["epoch"] and (tensors["weights"] == epoch).all()
    assert len(rows) in (epoch, epoch + 1) and 1 <= len(run.checkpoints()) <= 3
    return epoch


if __name__ == "__main__":
    run, generator, last = Run.create(Path(sys.argv[1]), {}), random.Random(0), 0
    for _ in range(int(sys.argv[2])):
        child = os.fork()
        if child == 0:
            save_for_ever(Run.open(run.path))
        time.sleep(generator.uniform(0.001, 0.1))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        epoch = check(run)
        assert epoch >= last
        last = epoch
    print(last)
