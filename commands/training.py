"""pods train."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import taichi_sim
from taichi_sim.errors import OutOfMemory, expect

from .report import Progress, show_evaluation
from .runs import begin, begin_as, open_run, task_of
from .signals import Terminated

VIDEO_PATIENCE = 600.0  # s for the video after a training


def train(options):
    from learner import LEARNERS, reference, settings
    from learner.evaluation import evaluate as judge
    from learner.files import write_json
    from learner.memory import plan
    from learner.pods import DIRECTIONS
    from viz.curves import learning_curve

    run = _create_run(options) if options.resume is None else _reopen_run(options)
    run.lock()
    kind, _, run_training = LEARNERS[run.config["learner"]]
    config, task = settings.from_dict(kind, run.config["config"]), task_of(run)
    about = f"{run.config['learner']}, {config.k} rollouts an epoch, {config.epochs} epochs"
    print(f"{task.name}: {about} -> {run.path}")
    if run.config["learner"] in DIRECTIONS:
        print(f"memory: {plan(task, config.k)}", flush=True)
    try:
        with Progress(config.epochs) as progress:
            policy = run_training(task, config, run, on_epoch=progress.show)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        said = f"expected room for {config.k} rollouts an epoch, got an allocation that failed"
        less = f"a new run needs less with --k {max(1, config.k // 2)}"
        if run.config["learner"] in DIRECTIONS:
            less = f"a new run fits with --k {max(1, min(config.k // 2, plan(task, config.k).fits))}"
        raise OutOfMemory(f"memory: {said}; epochs saved: {run.saved}; {less}") from error
    except (KeyboardInterrupt, Terminated) as stop:
        stop.args = (f"epochs saved: {run.saved}; go on with: pods train --resume {run.path}",)
        raise
    best = reference.load(task)
    result = judge(task, policy, best)
    result["training_seconds"] = run.rows()[-1]["seconds"]
    write_json(run.path / "evaluation.json", result)
    learning_curve(run.path)
    show_evaluation(result)
    if options.video:
        _film(run, best is not None)


def _out_of_memory(error: Exception) -> bool:
    """torch tells of it by a RuntimeError on a CPU, Taichi by another one."""
    import torch

    words = ("can't allocate memory", "out of memory", "Failed to allocate", "Cannot allocate memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in str(error) for word in words)


def _film(run, known: bool):
    """RUN/video.mp4, made in a process of its own: whatever happens there, the run is whole."""
    command = [sys.executable, str(Path(__file__).parents[1] / "pods.py"), "video", str(run.path), "--device", "cpu"]
    command += ["--best"] if known else []
    try:
        done = subprocess.run(
            [*command, "--size", "640x360", "-o", str(run.path / "video.mp4")],
            capture_output=True,
            text=True,
            timeout=VIDEO_PATIENCE,
        )
        said = done.stderr.strip().rpartition("\n")[2].removeprefix("pods: ") if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        done, said = None, str(error)
    if done is not None and done.returncode == 0:
        print(f"video: {run.path / 'video.mp4'}")
    else:
        print(f"pods: no video: {said}", file=sys.stderr)


def _create_run(options):
    """A new run folder for `pods train TASK`; Taichi is started."""
    import tasks
    from learner import LEARNERS, settings
    from learner.run import Run, environment

    learner, preset = options.learner or "pods", options.preset or "auto"
    expect(options.task is not None, "TASK", "a task's name or --resume RUN", "neither")
    expect(learner in LEARNERS, "learner", f"one of {', '.join(LEARNERS)}", repr(learner))
    task = tasks.make(options.task, options.horizon)
    begin(options)
    kind, presets, _ = LEARNERS[learner]
    if preset == "auto":
        preset = "cpu" if taichi_sim.runtime.torch_device().type == "cpu" else "paper"
    expect(preset in presets, "preset", f"auto, {', '.join(presets)}", repr(preset))
    config = settings.from_dict(kind, presets[preset] | _chosen(options, kind))
    config.check_task(task)
    about = {"task": task.name, "horizon": task.N, "learner": learner, "preset": preset}
    about |= {"config": dataclasses.asdict(config), "definition": task.definition(), "environment": environment()}
    return Run.create(options.run or _new_folder(f"runs/{task.name}-{learner}-s{config.seed}"), about)


def _reopen_run(options):
    """The run folder of `pods train --resume RUN`, whose settings stand; Taichi is started."""
    from learner import LEARNERS

    run = open_run(options.resume)
    known = run.config["task"]
    expect(options.task in (None, known), "TASK", f"{known!r}, as in {run.path}", repr(options.task))
    given = [name for name in ("learner", "preset", "horizon", "run", "threads") if getattr(options, name) is not None]
    given += _chosen(options, LEARNERS[run.config["learner"]][0])
    expect(not given, "resume", f"no other flags, since {run.path}/config.json has them", f"--{' --'.join(given)}")
    begin_as(run, options)
    return run


def _chosen(options, kind) -> dict:
    """The settings of a learner that were given as flags."""
    values = {field.name: getattr(options, f"set_{field.name}") for field in dataclasses.fields(kind)}
    return {name: value for name, value in values.items() if value is not None}


def _new_folder(stem: str) -> Path:
    path, n = Path(stem), 1
    while path.exists():
        n += 1
        path = Path(f"{stem}-{n}")
    return path
