"""Two thousand command lines with one thing wrong: one line that says so, exit code 2, and nothing else happens."""

import contextlib
import io
import os

import numpy as np
import pytest

import pods

CASES = 2000
INTEGERS = ("--k", "--epochs", "--horizon", "--steps", "--seed", "--memory", "--batch", "--threads")
NUMBERS = ("--rate", "--minutes", "--failures", "--gamma", "--clip")
# What people mistype, what programs leave behind, and what would run if text were evaluated.
WORDS = (
    "", " ", "-", "--", "one", "1e", "0x10", "1_0_", "1,5", "١٢x", "nan", "inf", "-inf", "1e400", "-1e400", "None",
    "[]", "__import__('os').system('touch mark')", "$(touch mark)", "`touch mark`", "; touch mark", "{0.__class__}",
    "%s%n", "../../../etc/passwd", "/dev/null", "a\nb", "a\0b", "a" * 5000, "\udcff", "😀", "-9", "true", "1.5.2",
    "9" * 5000,
)  # fmt: skip
LEARNER = {"--gamma": "shac", "--clip": "shac", "--memory": "pods", "--batch": "pods", "--steps": "pods"}


def no_integer(word):
    with contextlib.suppress(ValueError):
        int(word)
        return False
    return True


def no_number(word):
    with contextlib.suppress(ValueError):
        return not np.isfinite(float(word))
    return True


def generated(random):
    """A command line with one mistake."""

    def pick(values):
        return values[int(random.integers(len(values)))]

    def garbled():
        letters = [chr(int(random.integers(1, 0x3000))) for _ in range(int(random.integers(1, 12)))]
        return pick(WORDS) if random.random() < 0.5 else "".join(letters)

    kind = int(random.integers(10))
    train = ["train", "pendulum2d-stop", "--run", "made"]
    if kind == 0:
        word = garbled()
        return [*train, pick(INTEGERS), word if no_integer(word) else "x" + word]
    if kind == 1:
        flag, word = pick(NUMBERS), garbled()
        return [*train, "--learner", LEARNER.get(flag, "pods"), flag, word if no_number(word) else "x" + word]
    if kind == 2:
        flag = pick(INTEGERS)
        return [*train, "--learner", LEARNER.get(flag, "pods"), flag, str(-int(random.integers(1, 2**40)))]
    if kind == 3:
        return ["train", "x" + garbled(), "--run", "made"]
    if kind == 4:
        return [*train, "--" + "zz" + garbled(), "1"]
    if kind == 5:
        return [*train, pick(("--learner", "--preset", "--device", "--precision")), "x" + garbled()]
    if kind == 6:
        return [*train, pick((*INTEGERS, *NUMBERS, "--learner"))]
    if kind == 7:
        command = pick(("evaluate", "view", "video", "plot", "check-gradients", "baseline", "reference", "reproduce"))
        return [command, "x" + garbled(), *(("-o", "made.mp4") if command == "video" else ())]
    if kind == 8:
        place = pick(("a\0b", "a" * 5000, "/proc/made", "/dev/null/made"))
        known = pick(("train", "video", "plot"))
        rest = {"train": ("--run", place), "video": ("-o", f"{place}.mp4"), "plot": ("-o", place)}[known]
        return [known, *(("jacobian",) if known == "plot" else ()), "pendulum2d-stop", *rest]
    return [pick(("x", "")) + garbled(), *train[1:]]


@pytest.fixture
def main(task, tmp_path, monkeypatch):
    """main(arguments) -> exit code, what went to stdout and what to stderr; in an empty folder."""
    task("pendulum2d-stop")  # Taichi runs, as float64 on the CPU
    monkeypatch.chdir(tmp_path)

    def run(arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = pods.main(arguments)
            except SystemExit as end:
                code = end.code
        return code, out.getvalue(), err.getvalue()

    return run


def test_every_mistake_is_answered_in_one_line_and_nothing_is_made(main):
    random = np.random.default_rng(0)
    for _ in range(CASES):
        arguments = generated(random)
        code, out, err = main(arguments)
        assert code == 2 and out == "", (arguments, code, out)
        assert err.startswith("pods: ") and err.count("\n") == 1 and err.endswith("\n"), (arguments, err)
        assert len(err) < 1000, (arguments, err)
    assert os.listdir() == []
