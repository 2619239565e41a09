"""A disk that is full or read-only, and memory that is gone: what is said, and that the last checkpoint is whole."""

import resource
import subprocess
import time

import pytest
from processes import ENVIRONMENT, PODS, pods, refused

from learner.run import Run
from taichi_sim import InputError

TINY = ("--k", "8", "--steps", "2", "--batch", "64", "--horizon", "20", "--epochs", "100000", "--run", "run")


@pytest.fixture
def training(tmp_path):
    """start(arguments) -> a process that has trained for two epochs at least."""
    processes = []

    def start(*arguments):
        command = [*PODS, "train", "pendulum2d-stop", *TINY, *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        # Large pieces of memory go back to the system when they are freed, so that the next one must be asked for.
        environment = ENVIRONMENT | {"MALLOC_MMAP_THRESHOLD_": "100000"}
        processes.append(subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes))
        while len(list((tmp_path / "run" / "checkpoints").glob("0*"))) < 2:
            assert processes[0].poll() is None, processes[0].stderr.read()
            time.sleep(0.02)
        return processes[0]

    yield start
    for process in processes:
        process.kill()


def test_a_full_disk_in_the_middle_of_a_save_leaves_the_checkpoint_before(tmp_path, training):
    """From then on no file of the process may grow beyond 100 kB: a checkpoint has some 800."""
    process = training()
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    _, said = process.communicate(timeout=30)
    assert process.returncode == 2 and said.count("\n") == 1
    assert said.startswith("pods: run/checkpoints/") and "expected a place for" in said and "File too large" in said
    run = Run.open(tmp_path / "run")
    _, state = run.load()
    rows = run.rows()
    assert state["epoch"] == int(run.checkpoints()[-1].stem) and len(rows) in (state["epoch"], state["epoch"] + 1)
    assert not list(run.path.rglob("*.tmp"))
    refused(*_stopped(pods("train", "--resume", "run", "--k", "9", cwd=tmp_path)), "--k")  # it opens


def _stopped(done):
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("place", ("/proc/run", "/sys/run"))
def test_a_place_that_cannot_be_written_is_named_at_the_start(tmp_path, place):
    began = time.monotonic()
    done = pods("train", "pendulum2d-stop", *TINY[:-1], place, cwd=tmp_path)
    refused(done.returncode, done.stdout, done.stderr, f"{place}/config.json: expected a place for")
    assert time.monotonic() - began < 15  # five seconds on an idle machine, most of them imports


def test_a_row_that_cannot_be_logged_ends_the_training(tmp_path):
    run = Run.create(tmp_path / "run", {})
    run._log = open("/dev/full", "a")
    with pytest.raises(InputError, match="log.csv: expected room for a row, got 'No space left on device'"):
        run.log({"epoch": 1})


def test_memory_that_is_gone_is_told_with_a_size_that_fits(tmp_path, training):
    """Once it may not map any more memory, an epoch's tensors cannot be had: what is free by then is far smaller."""
    process = training("--k", "20000")
    resource.prlimit(process.pid, resource.RLIMIT_AS, (2**20, resource.RLIM_INFINITY))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2 and said.count("\n") == 1, said
    assert said.startswith("pods: memory: expected room for 20000 rollouts") and "--k " in said
    suggested = int(said.rpartition("--k ")[2].split()[0])
    assert 0 < suggested < 20000
    run = Run.open(tmp_path / "run")
    _, state = run.load()
    assert state["epoch"] >= 2 and len(run.rows()) in (state["epoch"], state["epoch"] + 1)
