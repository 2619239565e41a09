"""pods: learn control policies from a differentiable simulator, from the command line."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys

LONGEST = 600  # characters of a message


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line and exits with 2."""

    def error(self, message):
        self.exit(2, f"pods: {_one_line(message)}\n")


def _one_line(message) -> str:
    """Whatever a file or a flag put into it: no control characters, and its middle left out where it is too long."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(message))
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


def main(arguments: list[str] | None = None) -> int:
    from commands.signals import Terminated, raise_on_signals

    raise_on_signals()
    try:
        return _run(arguments)
    except KeyboardInterrupt as stop:
        return _stopped("interrupted", stop, 130)
    except Terminated as stop:
        return _stopped("terminated", stop, 143)
    except BrokenPipeError:  # whoever read the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(arguments: list[str] | None) -> int:
    from taichi_sim.errors import InputError, OutOfMemory

    options = _parser().parse_args(arguments)
    try:
        return options.run_command(options) or 0
    except InputError as error:
        print(f"pods: {_one_line(error)}", file=sys.stderr, flush=True)
        if isinstance(error, OutOfMemory):
            sys.stdout.flush()
            os._exit(2)  # what Taichi and torch do at exit asks for memory, and aborts where there is none
        return 2


def _stopped(how: str, stop: BaseException, code: int) -> int:
    print(f"pods: {'; '.join((how, *stop.args))}", file=sys.stderr)
    return code


def _parser() -> Parser:
    from commands import benchmarking, checking, judging, reproducing, training, watching

    parser = Parser(prog="pods", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name, function, help, device=True):
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(run_command=function)
        if device:
            sub.add_argument("--device", default="auto", help="auto (CUDA if there is one), cpu or cuda")
            sub.add_argument("--precision", default="float64", help="of the physics: float64 or float32")
            sub.add_argument("--threads", type=_integer, help="of the CPU, for simulator and network (default: all)")
        return sub

    command("list", judging.list_tasks, "List the tasks.", device=False)

    sub = command("train", training.train, "Train a policy, or go on with a run that was cut off (--resume RUN).")
    sub.add_argument("task", nargs="?", metavar="TASK", help="a task's name, see `pods list`")
    sub.add_argument("--learner", help="pods (second order, the default), pods1 (first), bptt, shac, gps, ppo or sac")
    sub.add_argument("--preset", help="paper, cpu (for two cores), or auto (the default): paper on CUDA, else cpu")
    sub.add_argument("--horizon", type=_integer, help="steps of a rollout, instead of the task's")
    sub.add_argument("--run", metavar="FOLDER", help="the run folder to make (default: runs/TASK-LEARNER-sSEED)")
    sub.add_argument("--resume", metavar="RUN", help="a run folder to go on with")
    sub.add_argument("--video", action="store_true", help="add a short video to the run folder at the end")
    _add_settings(sub)

    sub = command("evaluate", judging.evaluate, "Evaluate a run's policy on the task's 1,000 test states.")
    sub.add_argument("run", metavar="RUN", help="a run folder")

    sub = command("reference", judging.reference, "Make or improve the best known cost of each test state of a task.")
    sub.add_argument("task", metavar="TASK", help="a task's name, see `pods list`")
    sub.add_argument("--motions", type=_integer, default=1, help="random motions to begin from (default 1)")
    sub.add_argument("--policy", action="append", default=[], metavar="RUN", help="a run whose rollouts to begin from")
    sub.add_argument("--iterations", type=_integer, default=160, help="from each beginning, at most (default 160)")

    sub = command("baseline", judging.baseline, "What no motion, a plain LQR and the best known actions cost.")
    sub.add_argument("task", metavar="TASK", help="a task's name, see `pods list`")

    sub = command("reproduce", reproducing.reproduce, "Run the paper's experiments and write their tables and figures.")
    sub.add_argument("experiment", metavar="EXPERIMENT", help="table1, fig3, fig4, fig6, fig8, fig9, fig10 or all")
    sub.add_argument("--tasks", metavar="LIST", help="some of the experiment's tasks, like pendulum2d-stop,cloth-lay")
    sub.add_argument("--learners", metavar="LIST", help="some of the experiment's learners, like pods-500,sac")
    sub.add_argument("--seeds", default="0,1,2", metavar="LIST", help="(default 0,1,2)")
    sub.add_argument("--budget-minutes", type=_number, help="of training for each run, instead of the preset's epochs")
    sub.add_argument("--preset", help="paper, cpu, or auto (the default), as for pods train")
    sub.add_argument("--jobs", type=_integer, default=1, help="runs side by side (default 1)")
    sub.add_argument("--report", action="store_true", help="run nothing, write what the runs that are done tell")
    sub.add_argument("--runs", default="runs/reproduce", metavar="FOLDER", help="of the runs (default runs/reproduce)")
    sub.add_argument("-o", "--output", default="results", metavar="FOLDER", help="of the tables (default results)")

    sub = command("bench", benchmarking.bench, "Time rollouts, derivatives, epochs and the first gradient.")
    sub.add_argument("--tasks", metavar="LIST", help="(default: one of each system)")
    sub.add_argument("--rollouts", default="64,512,4096", metavar="LIST", help="side by side (default 64,512,4096)")
    sub.add_argument("--operations", metavar="LIST", help="some of forward, closed loop, vjp, jvp, ... (default: all)")
    sub.add_argument("--runs", type=_integer, default=5, help="of each operation (default 5)")
    sub.add_argument("--quick", action="store_true", help="operations only: no epochs, first gradients or growth")
    sub.add_argument("--compare", metavar="OLD.csv", help="an older bench.csv: say what changed")
    sub.add_argument("-o", "--output", default="bench", metavar="FOLDER", help="of tables and plot (default bench)")

    sub = command("view", watching.view, "Open a window on a live simulation, with policies in the loop.")
    sub.add_argument("runs", nargs="+", metavar="RUN", help="run folders of one task, or a task's name for no motion")
    sub.add_argument("--count", type=_integer, default=1, help="rollouts of each run side by side (default 1)")
    sub.add_argument("--state", type=_integer, default=0, help="test state to start from (default 0)")
    sub.add_argument("--size", default="1280x720", help="of the window (default 1280x720)")

    sub = command(
        "video", watching.video, "Film rollouts from test states: an .mp4, a .gif, or one .png (--at SECONDS)."
    )
    sub.add_argument("runs", nargs="+", metavar="RUN", help="run folders of one task, or a task's name for no motion")
    sub.add_argument("-o", "--output", required=True, metavar="FILE", help="the .mp4, .gif or .png to write")
    sub.add_argument("--best", action="store_true", help="show the best known actions beside the runs")
    sub.add_argument("--states", default="0", metavar="LIST", help="test states to start from, like 0,3,7 (default 0)")
    sub.add_argument("--size", default="1280x720", help="of the picture (default 1280x720)")
    sub.add_argument("--fps", type=_number, default=30.0, help="frames a second (default 30)")
    sub.add_argument("--speed", type=_number, default=1.0, help="times real time (default 1)")
    sub.add_argument("--at", type=_number, metavar="SECONDS", help="the moment that a .png shows")
    sub.add_argument("--renderer", default="auto", help="auto (Vulkan if it works), vulkan or plain (matplotlib)")

    sub = command("plot", watching.plot, "Figures of runs, or `pods plot jacobian TASK`: the magnitudes of ds/da.")
    sub.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or: jacobian TASK")
    sub.add_argument("-o", "--output", default="figures", metavar="FOLDER", help="where to write (default figures)")
    sub.add_argument("--state", type=_integer, default=0, help="test state of trajectory and jacobian (default 0)")
    sub.add_argument("--no-best", dest="best", action="store_false", help="draw no best known trajectory")

    sub = command("check-gradients", checking.check_gradients, "Check a task's derivatives by Taylor remainders.")
    sub.add_argument("task", metavar="TASK", help="a task's name, see `pods list`")
    sub.add_argument("--horizon", type=_integer, help="steps of a rollout, instead of the task's")
    sub.add_argument("--states", type=_integer, default=16, help="test states to check (default 16)")

    sub = command(
        "doctor", checking.doctor, "Check this machine: versions, devices, Vulkan, precision and a 5-second self-test."
    )
    sub.add_argument("--stress", metavar="TASK", help="instead: random rollouts of a task at the velocity limit")
    sub.add_argument("--failures", metavar="RUN", help="instead: the rollouts that stopped a run, simulated again")
    sub.add_argument("--steps", type=_integer, default=100_000, help="of those rollouts (default 100000)")
    return parser


def _integer(text):
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected an integer, got {text!r}") from None


def _number(text):
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None


def _add_settings(parser):
    """A flag for each setting of each learner; what is not given comes from the preset."""
    from learner import LEARNERS

    group = parser.add_argument_group("settings", "defaults are the paper's; a preset may change them")
    seen = set()
    for config, _, _ in LEARNERS.values():
        for field in dataclasses.fields(config):
            if field.name not in seen:
                seen.add(field.name)
                kind = {int: _integer, float: _number}.get(type(field.default), str)
                flag, text = f"--{field.name.replace('_', '-')}", f"{field.metadata['help']} (default {field.default})"
                group.add_argument(
                    flag, dest=f"set_{field.name}", type=kind, metavar=kind.__name__.strip("_").upper(), help=text
                )


if __name__ == "__main__":
    sys.exit(main())
