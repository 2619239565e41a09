"""pods bench: what it writes, and what it makes of an older file. How long anything takes is not tested."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import pytest
from processes import PODS

from benchmarks import growth, memory, operations, report, timing
from benchmarks.epochs import epochs
from benchmarks.startup import PROGRAM
from taichi_sim.errors import InputError
from taichi_sim.launch import Launch

ROOT = pathlib.Path(__file__).parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def pods(*arguments, cwd):
    return subprocess.run([*PODS, *arguments], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def row(task="rope3d-stop", kind="operation", operation="forward", rollouts=64, seconds=1.0, steps=150):
    return report.Row(task, kind, operation, 5, steps, rollouts, seconds, seconds, seconds, 5)


def test_a_bench_writes_what_a_later_one_compares_itself_with(tmp_path):
    flags = ("bench", "--quick", "--tasks", "pendulum2d-stop", "--rollouts", "2,4", "--runs", "2")
    first = pods(*flags, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    rows = report.from_csv(tmp_path / "bench/bench.csv")
    assert {r.operation for r in rows} == set(operations.NAMES)
    assert {(r.task, r.kind, r.points, r.steps, r.runs) for r in rows} == {("pendulum2d-stop", "operation", 1, 150, 2)}
    assert all(0 < r.least <= r.median <= r.most for r in rows)
    assert all(r.iterations >= 1 for r in rows if r.operation == "forward")
    second = pods(*flags, "--operations", "vjp", "--compare", "bench/bench.csv", "-o", "again", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    changes = (tmp_path / "again/bench.md").read_text().partition("## Changes")[2]
    assert changes.count("| pendulum2d-stop |") == 4  # forward and vjp, 2 and 4 rollouts
    assert (tmp_path / "bench/growth.png").stat().st_size > 1000


@pytest.mark.parametrize(
    "flags, said",
    [
        (("--tasks", "pendulum9d"), "pendulum9d"),
        (("--operations", "flight"), "flight"),
        (("--rollouts", "64,many"), "many"),
        (("--rollouts", ""), "rollouts"),
        (("--runs", "0"), "runs"),
        (("--compare", "nowhere.csv"), "nowhere.csv"),
    ],
)
def test_wrong_input_is_one_line(flags, said, tmp_path):
    done = pods("bench", *flags, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "bench").exists()


def test_rows_survive_the_file(tmp_path):
    rows = [row(), dataclasses.replace(row(operation="vjp"), peak=1.5, iterations=4.25)]
    (tmp_path / "bench.csv").write_text(report.to_csv(rows))
    assert report.from_csv(tmp_path / "bench.csv") == rows


def test_changes_are_ratios_of_the_same_measurement():
    old = [row(seconds=2.0), row(rollouts=512)]
    (line,) = (line for line in report.changes([row(seconds=1.0)], old) if "rope3d" in line)
    assert line.endswith("| 2 s | 1 s | 0.50 |")
    with pytest.raises(InputError, match="compare"):
        report.changes([row(rollouts=8)], old)


def test_the_exponent_of_a_power_law():
    rows = [row(rollouts=B, seconds=3.0 * B**1.25) for B in (64, 512, 4096)]
    assert growth.exponent(rows, "rollouts") == pytest.approx(1.25)
    assert growth.groups(rows[:1], "operation") == {}


def test_the_table_states_multiples_of_the_forward_rollout():
    rows = [row(seconds=2.0), row(operation="vjp", seconds=1.0), row(operation="jacobian", rollouts=16, seconds=5.0)]
    text = report.markdown(rows, "here", [])
    (line,) = (line for line in text.splitlines() if line.startswith("| rope3d-stop"))
    assert "| 0.5 ±0 % | 10 ±0 % |" in line


def test_median_and_range():
    found = timing.Timing.of([3.0, 1.0, 2.0, 5.0, 4.0])
    assert (found.median, found.least, found.most, found.runs) == (3.0, 1.0, 5.0, 5)


def test_memory_is_that_of_the_operation(task):
    import torch

    took = timing.peak_memory(lambda: torch.ones(2**25).sum(), torch.device("cpu"))
    assert 100 < took < 160


def test_an_epoch_is_taken_apart_and_the_simulator_left_as_it_was(task):
    made, call = task("pendulum2d-stop", 5), Launch.__call__
    found = epochs(made, 4, 2, "cpu")
    assert 0 < found["epoch rest"].median < found["epoch"].median and found["epoch"].runs == 2
    assert Launch.__call__ is call


@pytest.mark.parametrize("level", (None, "warn"))
def test_a_first_gradient_leaves_its_kernels_for_the_next_process(tmp_path, level):
    """With Taichi's log level in the environment as well."""
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)} | ({"TI_LOG_LEVEL": level} if level else {})
    command = [sys.executable, "-c", PROGRAM, "pendulum2d-stop", "cpu", "float64"]
    subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)
    assert len(list(tmp_path.rglob("*.tic"))) >= 2  # rollout and adjoint


@pytest.mark.parametrize("task", ("pendulum2d-stop", "cloth-lay"))
def test_the_memory_of_a_gradient_is_as_predicted(task):
    """By how much a real process grows."""
    taken, predicted = memory.measured(task, 1000)
    assert predicted == pytest.approx(taken, rel=0.1)
