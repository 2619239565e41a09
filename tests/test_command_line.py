"""`pods` as people run it: real processes, their exit codes, what they say and what they leave behind."""

import csv
import json
import os
import pathlib
import subprocess
import sys
import time

import matplotlib.image
import pytest

import tasks

ROOT = pathlib.Path(__file__).parent.parent
PODS = [sys.executable, str(ROOT / "pods.py")]
ENVIRONMENT = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
TINY = ["--horizon", "20", "--k", "8", "--steps", "2"]
COMMANDS = ("train", "evaluate", "list", "reference", "baseline", "check-gradients", "doctor")


def pods(*arguments, cwd, command=PODS):
    return subprocess.run(
        [*command, *map(str, arguments)], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )


def log(run):
    with open(run / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two epochs, and what the process said."""
    folder = tmp_path_factory.mktemp("train")
    return folder / "run", pods("train", "pendulum2d-stop", *TINY, "--epochs", 2, "--run", "run", cwd=folder)


def refused(done, *message):
    """Exit code 2, nothing but one line, and that line says it."""
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("pods: ") and done.stderr.count("\n") == 1 and done.stderr.endswith("\n")
    for part in message:
        assert part in done.stderr


TRAIN = ("train", "pendulum2d-stop")


@pytest.mark.parametrize("arguments, message", [
    ((), ("required: COMMAND",)),
    (("trian",), ("invalid choice: 'trian'", "train")),
    (("train",), ("TASK: expected a task's name or --resume RUN, got neither",)),
    (("train", "pendulum2d-stpo"), ("got 'pendulum2d-stpo'; the nearest is 'pendulum2d-stop'",)),
    ((*TRAIN, "--learner", "sarsa"), ("learner: expected one of pods, pods1, bptt, shac, gps, ppo, sac, got 'sarsa'",)),
    ((*TRAIN, "--preset", "huge"), ("preset: expected auto, paper, cpu, got 'huge'",)),
    ((*TRAIN, "--k", "0"), ("k: expected int >= 1, got 0",)),
    ((*TRAIN, "--rate", "2"), ("rate: expected float >= 1e-09 and <= 1.0, got 2.0",)),
    ((*TRAIN, "--rate", "fast"), ("argument --rate: expected a number, got 'fast'",)),
    ((*TRAIN, "--horizon", "0"), ("N: expected a horizon of at least one step, got 0",)),
    ((*TRAIN, "--device", "cuda"), ("device: expected a CUDA device that PyTorch can use, got none",)),
    ((*TRAIN, "--precision", "float16"), ("precision: expected one of ['float32', 'float64'], got 'float16'",)),
    ((*TRAIN, "--run", "taken"), ("run: expected a new folder, got taken, which is not empty",)),
    (("train", "--resume", "taken"), ("run: expected a run folder with a config.json, got taken",)),
    (("evaluate", "nowhere"), ("run: expected a run folder with a config.json, got nowhere",)),
])  # fmt: skip
def test_a_mistake_is_answered_in_one_line(tmp_path, arguments, message):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    refused(pods(*arguments, cwd=tmp_path), *message)
    assert [path.name for path in tmp_path.rglob("*")] == ["taken", "mine.txt"]


def without(name):
    def damage(config):
        return json.dumps({key: value for key, value in json.loads(config).items() if key != name})

    return damage


def another_task(config):
    return config.replace('"w_v": 1.0', '"w_v": 2.0')


DAMAGE = {
    "torn": (lambda config: config[: len(config) // 2], "config.json: expected JSON, got something else"),
    "no version": (without("version"), "expected layout version 1, got None"),
    "no learner": (without("learner"), "config.json, learner: expected str, got None"),
    "no environment": (without("environment"), "config.json, environment: expected dict, got None"),
    "no threads": (lambda config: config.replace('"threads"', '"x"'), "environment, threads: expected int, got None"),
    "another learner": (
        lambda config: config.replace('"learner": "pods"', '"learner": "x"'),
        "learner: expected one of",
    ),
    "a wrong setting": (lambda config: config.replace('"k": 8', '"k": "8"'), "k: expected int >= 1, got '8'"),
    "another task": (another_task, "expected today's definition of pendulum2d-stop, got another one"),
}


@pytest.mark.parametrize("damage, message", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_config_is_answered_in_one_line(trained, tmp_path, damage, message):
    path = tmp_path / "run" / "config.json"
    path.parent.mkdir()
    path.write_text(damage((trained[0] / "config.json").read_text()))
    refused(pods("train", "--resume", "run", cwd=tmp_path), message)


def test_flags_that_a_resumed_run_would_ignore_are_refused(trained):
    run = trained[0]
    done = pods("train", "--resume", run.name, "--k", "16", "--preset", "cpu", cwd=run.parent)
    refused(done, f"resume: expected no other flags, since {run.name}/config.json has them, got --preset --k")


@pytest.mark.parametrize("command", ("", *COMMANDS))
def test_help_is_there(tmp_path, command):
    done = pods(*[command] * bool(command), "--help", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "" and f"usage: pods {command}" in done.stdout
    if not command:
        assert all(f"\n    {name}" in done.stdout for name in COMMANDS)


def test_the_installed_command_lists_the_tasks(tmp_path):
    done = pods("list", cwd=tmp_path, command=[str(pathlib.Path(sys.executable).with_name("pods"))])
    assert done.returncode == 0 and done.stderr == ""
    assert [name for name in tasks.names() if f" {name} " not in done.stdout] == []


def test_gradients_are_checked_from_the_command_line(tmp_path):
    done = pods("check-gradients", "pendulum2d-stop", "--horizon", 20, "--states", 2, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert len(done.stdout.splitlines()) == 5 and done.stdout.count("(2 is right)") == 4


# A run


def test_training_leaves_a_whole_run_folder_and_plain_lines(trained):
    run, done = trained
    assert done.returncode == 0 and done.stderr == ""
    assert "\x1b" not in done.stdout and "\r" not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0] == "pendulum2d-stop: pods, 8 rollouts an epoch, 2 epochs -> run"
    assert lines[1].startswith("memory: 8 rollouts need ") and lines[1].endswith(" available: improved at once")
    assert all(lines[n + 1].startswith(f"epoch    {n}/2  return -") for n in (1, 2))
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    checkpoints = {f"checkpoints/00000{n}.safetensors" for n in (1, 2)}
    assert files == {".lock", "config.json", "log.csv", "evaluation.json", "curve.png"} | checkpoints
    config = json.loads((run / "config.json").read_text())
    assert (config["task"], config["horizon"], config["learner"]) == ("pendulum2d-stop", 20, "pods")
    assert (config["config"]["k"], config["config"]["steps"], config["config"]["epochs"]) == (8, 2, 2)
    assert set(config["environment"]) >= {"device", "precision", "threads", "python", "torch", "taichi", "numpy"}
    rows = log(run)
    assert [row["epoch"] for row in rows] == ["1", "2"] and all(float(row["return"]) < 0 for row in rows)
    result = json.loads((run / "evaluation.json").read_text())
    assert result["return"] < 0 and (result["failed"], result["states"]) == (0, tasks.TEST_STATES)
    assert f"{result['return']:.4f}" in done.stdout


def test_the_learning_curve_is_a_picture(trained):
    picture = matplotlib.image.imread(trained[0] / "curve.png")[..., :3]
    assert min(picture.shape[:2]) >= 300
    coloured = picture.max(-1) - picture.min(-1) > 0.3
    assert picture.mean() > 0.5 and coloured.mean() > 1e-3  # lines on a light ground


def test_evaluating_a_run_gives_the_numbers_of_its_training(trained):
    run, _ = trained
    before = json.loads((run / "evaluation.json").read_text())
    done = pods("evaluate", "run", cwd=run.parent)
    assert done.returncode == 0 and f"{before['return']:.4f}" in done.stdout
    assert json.loads((run / "evaluation.json").read_text()) == before


def test_resuming_a_finished_run_trains_no_further(trained):
    run, _ = trained
    before, checkpoint = log(run), (run / "checkpoints" / "000002.safetensors").read_bytes()
    done = pods("train", "--resume", "run", cwd=run.parent)
    assert done.returncode == 0 and "epoch " not in done.stdout
    assert log(run) == before and (run / "checkpoints" / "000002.safetensors").read_bytes() == checkpoint


def test_a_second_process_is_kept_out_of_a_run(tmp_path):
    """While one trains, --resume of its folder is refused; once that is gone, killed, it is not."""
    arguments = ["train", "pendulum2d-stop", *map(str, TINY), "--epochs", "100000", "--run", "run"]
    process = subprocess.Popen([*PODS, *arguments], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    try:
        while not (tmp_path / "run/log.csv").exists():
            assert process.poll() is None
            time.sleep(0.05)
        refused(
            second := pods("train", "--resume", "run", cwd=tmp_path),
            "run: expected a folder that no other process trains in, got run",
        )
        assert second.stdout == "" and process.poll() is None
    finally:
        process.kill()
        process.wait()
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["config"]["epochs"] = len(log(tmp_path / "run")) + 1
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    assert pods("train", "--resume", "run", cwd=tmp_path).returncode == 0


def test_a_reader_that_has_had_enough_ends_a_command_quietly(tmp_path):
    """`pods … | head`: no traceback, and the exit code of a process ended by a closed pipe."""
    command = [*PODS, "reproduce", "fig3", "--report", "--runs", "none"]
    process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=60)) == (b"", 141)
