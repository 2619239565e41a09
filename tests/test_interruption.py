"""Ctrl-C and SIGTERM, to real processes: what is said, how fast, and that runs go on."""

import csv
import signal
import subprocess
import time

import pytest
from processes import ENVIRONMENT, PODS, pods

TINY = ("--k", "8", "--steps", "2", "--batch", "64", "--horizon", "20")
SIGNALS = ((signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"))


def start(*arguments, cwd):
    return subprocess.Popen(
        [*PODS, *arguments],
        cwd=cwd,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore Ctrl-C
    )


def end(process, number, limit=10.0):
    """Send a signal; exit code, stderr and the seconds until the end."""
    began = time.monotonic()
    process.send_signal(number)
    try:
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    took = time.monotonic() - began
    assert took < limit
    return process.returncode, said.strip()


def until(process, first):
    """Read lines until one starts so."""
    for line in process.stdout:
        if line.startswith(first):
            return
    raise AssertionError(process.stderr.read())


def epochs(run):
    with open(run / "log.csv", newline="") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def saved(run):
    return int(max((run / "checkpoints").glob("*.safetensors")).stem)


@pytest.mark.parametrize("number, code, word", SIGNALS)
def test_an_interrupted_training_says_what_is_saved_and_goes_on(tmp_path, number, code, word):
    """After the first epoch, and again after --resume: every epoch is logged once."""
    run = tmp_path / "run"
    process = start("train", "pendulum2d-stop", *TINY, "--epochs", "100000", "--run", "run", cwd=tmp_path)
    until(process, "epoch    1/100000")
    found = end(process, number)
    n = saved(run)
    line = "pods: {}; epochs saved: {}; go on with: pods train --resume run"
    assert n >= 1 and found == (code, line.format(word, n))
    process = start("train", "--resume", "run", cwd=tmp_path)
    until(process, "epoch ")
    found = end(process, number)
    after = epochs(run)
    assert found == (code, line.format(word, saved(run))) and len(after) - saved(run) in (0, 1)
    assert len(after) > n and after == list(range(1, len(after) + 1))


@pytest.mark.parametrize("number, code, word", SIGNALS)
def test_a_signal_while_python_still_imports_gets_one_line_too(tmp_path, number, code, word):
    process = start("list", cwd=tmp_path)
    while "torch" not in (maps := open(f"/proc/{process.pid}/maps").read()):  # loading: import has only begun
        assert process.poll() is None and maps
    assert end(process, number) == (code, f"pods: {word}")


def test_a_signal_in_the_middle_of_a_large_epoch_is_answered_within_ten_seconds(tmp_path):
    """k = 4000 of the system whose rollouts take longest: minutes of an epoch, where 20 s are past compilation."""
    process = start("train", "cloth-lay", "--k", "4000", "--run", "run", cwd=tmp_path)
    until(process, "memory: ")
    time.sleep(20)
    assert process.poll() is None and not (tmp_path / "run/log.csv").exists()
    code, said = end(process, signal.SIGINT)
    assert code == 130 and said == "pods: interrupted; epochs saved: 0; go on with: pods train --resume run"
    assert pods("train", "--resume", "run", "--k", "3", cwd=tmp_path).returncode == 2  # the folder opens


def test_a_second_signal_ends_the_process_at_once(tmp_path):
    """Stopped in the middle of what the first one started, by the operating system: no line, no wait."""
    code = (
        "import signal, time\n"
        "from commands.signals import raise_on_signals\n"
        "raise_on_signals()\n"
        "try:\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    print('first', flush=True)\n"
        "    sum(range(10**12))\n"  # as deaf as a kernel: one instruction of Python
    )
    process = subprocess.Popen(
        [PODS[0], "-c", code], cwd=PODS[1].rpartition("/")[0], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "first\n"
    returned, said = end(process, signal.SIGINT, limit=1.0)
    assert returned == -signal.SIGINT and said == ""
