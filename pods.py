"""pods: learn control policies from a differentiable simulator, from the command line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path

import taichi_sim
from taichi_sim.errors import InputError, expect


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line and exits with 2."""

    def error(self, message):
        self.exit(2, f"pods: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return options.run_command(options) or 0
    except InputError as error:
        print(f"pods: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\npods: interrupted", file=sys.stderr)
        return 130


def _parser() -> Parser:
    parser = Parser(prog="pods", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name, function, help, device=True):
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(run_command=function)
        if device:
            sub.add_argument("--device", default="auto", help="auto (CUDA if there is one), cpu or cuda")
            sub.add_argument("--precision", default="float64", help="of the physics: float64 or float32")
        return sub

    command("list", list_tasks, "List the tasks.", device=False)

    sub = command("train", train, "Train a policy, or go on with a run that was cut off (--resume RUN).")
    sub.add_argument("task", nargs="?", metavar="TASK", help="a task's name, see `pods list`")
    sub.add_argument("--learner", help="pods (second order, the default) or pods1 (first order)")
    sub.add_argument("--preset", help="paper, cpu (for two cores), or auto (the default): paper on CUDA, else cpu")
    sub.add_argument("--horizon", type=_integer, help="steps of a rollout, instead of the task's")
    sub.add_argument("--run", metavar="FOLDER", help="the run folder to make (default: runs/TASK-LEARNER-sSEED)")
    sub.add_argument("--resume", metavar="RUN", help="a run folder to go on with")
    _add_settings(sub)

    sub = command("evaluate", evaluate, "Evaluate a run's policy on the task's 1,000 test states.")
    sub.add_argument("run", metavar="RUN", help="a run folder")

    sub = command("reference", reference, "Make or improve the best known cost of each test state of a task.")
    sub.add_argument("task", metavar="TASK", help="a task's name, see `pods list`")
    sub.add_argument("--motions", type=_integer, default=1, help="random motions to begin from (default 1)")
    sub.add_argument("--policy", action="append", default=[], metavar="RUN", help="a run whose rollouts to begin from")

    sub.add_argument("--iterations", type=_integer, default=160, help="from each beginning, at most (default 160)")

    sub = command("baseline", baseline, "What no motion, a plain LQR and the best known actions cost.")
    sub.add_argument("task", metavar="TASK", help="a task's name, see `pods list`")

    sub = command("check-gradients", check_gradients, "Check a task's derivatives by Taylor remainders.")
    sub.add_argument("task", metavar="TASK", help="a task's name, see `pods list`")
    sub.add_argument("--horizon", type=_integer, help="steps of a rollout, instead of the task's")
    sub.add_argument("--states", type=_integer, default=16, help="test states to check (default 16)")

    sub = command(
        "doctor", doctor, "Check this machine: versions, devices, Vulkan, precision and a 5-second self-test."
    )
    sub.add_argument("--stress", metavar="TASK", help="instead: random rollouts of a task at the velocity limit")
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


def list_tasks(options):
    from rich.table import Table

    import tasks
    from learner import reference as best

    table = Table("task", "points", "actions", "observation", "horizon", "reference", title="Tasks")
    for name in tasks.names():
        task = tasks.make(name)
        known = best.load(task)
        cost = "-" if known is None else f"{known.cost.mean():.4g}"
        s = task.system
        table.add_row(
            name, str(s.points), str(s.actions), str(task.observation_size), f"{task.N} × {task.h * 1e3:g} ms", cost
        )
    _console().print(table)


def train(options):
    from learner import LEARNERS, reference, settings
    from learner.evaluation import evaluate as judge
    from learner.memory import plan
    from learner.run import write_json
    from viz.curves import learning_curve

    run = _create_run(options) if options.resume is None else _reopen_run(options)
    kind, _, run_training = LEARNERS[run.config["learner"]]
    config, task = settings.from_dict(kind, run.config["config"]), _task_of(run)
    about = f"{run.config['learner']}, {config.k} rollouts an epoch, {config.epochs} epochs"
    print(f"{task.name}: {about} -> {run.path}")
    print(f"memory: {plan(task, config.k)}", flush=True)
    with _Progress(config.epochs) as progress:
        policy = run_training(task, config, run, on_epoch=progress.show)
    result = judge(task, policy, reference.load(task))
    result["training_seconds"] = run.rows()[-1]["seconds"]
    write_json(run.path / "evaluation.json", result)
    learning_curve(run.path)
    _show_evaluation(result)


def _create_run(options):
    """A new run folder for `pods train TASK`; Taichi is started."""
    import tasks
    from learner import LEARNERS, settings
    from learner.run import Run, environment

    learner, preset = options.learner or "pods", options.preset or "auto"
    expect(options.task is not None, "TASK", "a task's name or --resume RUN", "neither")
    expect(learner in LEARNERS, "learner", f"one of {', '.join(LEARNERS)}", repr(learner))
    task = tasks.make(options.task, options.horizon)
    taichi_sim.init(options.device, options.precision)
    kind, presets, _ = LEARNERS[learner]
    if preset == "auto":
        preset = "cpu" if taichi_sim.runtime.torch_device().type == "cpu" else "paper"
    expect(preset in presets, "preset", f"auto, {', '.join(presets)}", repr(preset))
    config = settings.from_dict(kind, presets[preset] | _chosen(options, kind))
    about = {"task": task.name, "horizon": task.N, "learner": learner, "preset": preset}
    about |= {"config": dataclasses.asdict(config), "definition": task.definition(), "environment": environment()}
    return Run.create(options.run or _new_folder(f"runs/{task.name}-{learner}-s{config.seed}"), about)


def _reopen_run(options):
    """The run folder of `pods train --resume RUN`, whose settings stand; Taichi is started."""
    from learner import LEARNERS

    run = _open_run(options.resume)
    known = run.config["task"]
    expect(options.task in (None, known), "TASK", f"{known!r}, as in {run.path}", repr(options.task))
    given = [name for name in ("learner", "preset", "horizon", "run") if getattr(options, name) is not None]
    given += _chosen(options, LEARNERS[run.config["learner"]][0])
    expect(not given, "resume", f"no other flags, since {run.path}/config.json has them", f"--{' --'.join(given)}")
    _start_as(run, options)
    return run


def _chosen(options, kind) -> dict:
    """The settings of a learner that were given as flags."""
    values = {field.name: getattr(options, f"set_{field.name}") for field in dataclasses.fields(kind)}
    return {name: value for name, value in values.items() if value is not None}


def evaluate(options):
    from learner import reference
    from learner.evaluation import evaluate as judge
    from learner.run import write_json

    run = _open_run(options.run)
    _start_as(run, options)
    task = _task_of(run)
    result = judge(task, _policy_of(run, task), reference.load(task))
    rows = run.rows()
    result["training_seconds"] = rows[-1]["seconds"] if rows else None
    write_json(run.path / "evaluation.json", result)
    _show_evaluation(result)


def reference(options):
    import tasks
    from learner import reference as best

    tasks.make(options.task)
    runs = [_open_run(path) for path in options.policy]
    taichi_sim.init(options.device, options.precision)
    task = tasks.make(options.task)
    for run in runs:
        expect(
            run.config["task"] == task.name, "policy", f"a run of {task.name}", f"{run.path}, of {run.config['task']}"
        )
    policies = [_policy_of(run, task) for run in runs]
    expect(options.iterations >= 1, "iterations", "a number >= 1", options.iterations)
    settings = (policies, options.motions, options.iterations, lambda line: print(line, flush=True))
    best.store(task, best.improve(task, best.load(task), *settings))
    print(f"stored in {best.path(task)}")


def baseline(options):
    import torch

    import tasks
    from learner import lqr
    from learner import reference as best

    tasks.make(options.task)
    taichi_sim.init(options.device, options.precision)
    task = tasks.make(options.task)
    start, known = task.test_states(), best.load(task)
    rest = task.simulator.rollout(start, torch.zeros_like(task.simulator.begin(start, task.N).a))
    print(f"{task.name}: mean cost on {len(start)} test states")
    for name, cost in (
        ("no motion", -task.returns(rest)),
        ("plain LQR", -task.returns(lqr.closed_loop(task, start))),
        ("best known", None if known is None else known.cost),
    ):
        print(f"  {name:11} {'-' if cost is None else f'{cost.mean():.4g} ± {cost.std():.4g}'}")
    if known is not None:
        print(f"  {known.converged.double().mean():.1%} of the best known are converged")


def check_gradients(options):
    import tasks
    from tasks.verification import MISMATCH, RATE_ERROR, check_derivatives

    tasks.make(options.task, options.horizon)
    taichi_sim.init(options.device, options.precision)
    rates, mismatch = check_derivatives(tasks.make(options.task, options.horizon), options.states)
    for name, rate in rates.items():
        print(f"return by {name:8}  Taylor rate, worst of {options.states} states: {rate:.4f}  (2 is right)")
    print(f"adjoint against forward sweep, relative mismatch: {mismatch:.1e}")
    return 0 if all(abs(rate - 2) <= RATE_ERROR for rate in rates.values()) and mismatch <= MISMATCH else 1


def doctor(options):
    from taichi_sim.doctor import examine

    if options.stress is not None:
        return _stress(options)
    return 0 if examine(options.device, options.precision, print) else 1


def _stress(options):
    import tasks
    from tasks.stress import stress

    tasks.make(options.stress)
    expect(options.steps >= 1, "steps", "a number >= 1", options.steps)
    taichi_sim.init(options.device, options.precision)
    found = stress(tasks.make(options.stress), options.steps)
    print(f"{options.stress}: {found.steps} random steps at the velocity limit")
    print(f"  not converged          {found.failed}")
    print(f"  falsely converged      {found.false}")
    print(f"  numbers not finite     {found.not_finite}")
    print(f"  linear solves a step   {found.iterations[0]:.2f}, at most {found.iterations[1]}")
    return 0 if found.clean else 1


def _open_run(path):
    """The run at `path`, with the fields that `train` wrote into its config.json."""
    from learner import LEARNERS
    from learner.run import Run

    run = Run.open(path)
    fields = {"task": str, "horizon": int, "learner": str, "config": dict, "definition": dict, "environment": dict}
    for name, kind in fields.items():
        found = run.config.get(name)
        expect(isinstance(found, kind), f"{run.path}/config.json, {name}", kind.__name__, repr(found))
    expect(run.config["learner"] in LEARNERS, "learner", f"one of {', '.join(LEARNERS)}", repr(run.config["learner"]))
    for name in ("device_type", "precision", "threads"):
        expect(name in run.config["environment"], f"{run.path}/config.json, environment", f"a {name}", "none")
    return run


def _start_as(run, options):
    """Start Taichi with the run's precision, on the device asked for or the run's own kind."""
    where = run.config["environment"]
    taichi_sim.init(where["device_type"] if options.device == "auto" else options.device, where["precision"])
    import torch

    torch.set_num_threads(where["threads"])


def _task_of(run):
    import tasks

    task = tasks.make(run.config["task"], run.config["horizon"])
    same = json.loads(json.dumps(task.definition())) == run.config["definition"]
    expect(same, f"{run.path}/config.json", f"today's definition of {task.name}", "another one")
    return task


def _policy_of(run, task):
    from learner.policy import Policy

    tensors, _ = run.load()
    policy = Policy(task, run.config["config"]["seed"])
    policy.load_state_dict({k.removeprefix("policy/"): t for k, t in tensors.items() if k.startswith("policy/")})
    return policy


def _new_folder(stem: str) -> Path:
    path, n = Path(stem), 1
    while path.exists():
        n += 1
        path = Path(f"{stem}-{n}")
    return path


def _console():
    from rich.console import Console

    return Console(soft_wrap=False)


def _show_evaluation(result: dict):
    from rich.table import Table

    table = Table("metric", "value", title=f"{result['task']} on {result['states']} test states")

    def line(name, value, form, unit=""):
        table.add_row(name, "-" if value is None else f"{value:{form}} {unit}".strip())

    table.add_row("return", f"{result['return']:.4f} ± {result['return_std']:.4f}")
    line("optimality gap", result["optimality_gap"], ".2%")
    line("terminal kinetic energy", result["terminal_kinetic_energy"], ".2e", "J")
    line("final distance", result["final_distance"], ".2e", "m")
    line("mean handle speed", result["handle_speed"], ".4f", "m/s")
    line("failed rollouts", result["failed"], "d")
    line("training time", result.get("training_seconds"), ".1f", "s")
    _console().print(table)


class _Progress:
    """Epoch, return and seconds per phase: a live line on a terminal, plain lines elsewhere."""

    def __init__(self, epochs: int):
        self.epochs, self._bar, self._job, self._told = epochs, None, None, 0.0

    def __enter__(self):
        if sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[line]}"), TimeRemainingColumn())
            self._bar = Progress(*columns)
            self._bar.start()
            self._job = self._bar.add_task("train", total=self.epochs, line="starting")
        return self

    def show(self, row: dict):
        phases = " ".join(f"{k.removeprefix('seconds_')} {v:.2f}" for k, v in row.items() if k.startswith("seconds_"))
        line = f"return {row['return']:.4f} → {row['return_improved']:.4f}  seconds: {phases}"
        if self._bar is not None:
            self._bar.update(self._job, completed=row["epoch"], line=line)
        elif row["epoch"] in (1, self.epochs) or time.monotonic() - self._told > 2.0:
            self._told = time.monotonic()
            print(f"epoch {row['epoch']:4.0f}/{self.epochs}  {line}", flush=True)

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.stop()


if __name__ == "__main__":
    sys.exit(main())
