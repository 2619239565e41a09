"""pods video and plot: looking at what policies do."""

from __future__ import annotations

import sys
from pathlib import Path

import taichi_sim
from taichi_sim.errors import InputError, expect

from .runs import open_run, policy_of, start_as, task_of


def video(options):
    import imageio.v3

    from viz import video
    from viz.encoder import check

    size, states = _size(options.size), _states(options.states)
    expect(options.at is None or options.at >= 0, "at", "seconds >= 0", options.at)
    still = Path(options.output).suffix == ".png"
    expect(still == (options.at is not None), "at", "--at SECONDS with a .png, and only there", options.output)
    if not still:
        check(options.output, size)
    task, performers = _performers(options)
    performances = [video.Performance(name, act(task.test_states(max(states) + 1)[states])) for name, act in performers]
    film = video.Film(task, performances, size, options.fps, options.speed)
    if still:
        from viz.renderer import Renderer

        with Renderer(size, options.renderer, _notice) as renderer:
            image = film.image(min(round(options.at * options.fps / options.speed), film.frames - 1), renderer)
        try:
            imageio.v3.imwrite(options.output, image)
        except OSError as error:
            raise InputError(
                f"output: expected a place to write to, got {options.output} ({error.strerror})"
            ) from error
    else:
        with _Frames(film.frames) as progress:
            video.write(film, options.output, options.renderer, _notice, progress.show)
    print(f"written to {options.output}")


def _performers(options):
    """The task, and (name, rollout of start states) of each run, of no motion for a task's name, and of the best."""
    import tasks
    from learner import reference
    from learner.rollouts import closed_loop

    runs = [open_run(path) for path in options.runs if path not in tasks.names()]
    named = {run.config["task"] for run in runs} | {path for path in options.runs if path in tasks.names()}
    expect(len(named) == 1, "RUN", "runs of one task", ", ".join(sorted(named)))
    if runs:
        horizons = {run.config["horizon"] for run in runs}
        expect(len(horizons) == 1, "RUN", "runs of one horizon", ", ".join(map(str, sorted(horizons))))
        start_as(runs[0], options)
        task = task_of(runs[0])
    else:
        taichi_sim.init(options.device, options.precision)
        task = tasks.make(*named)
    performers = []
    for path in options.runs:
        if path in tasks.names():
            performers.append(("no motion", lambda start: task.simulator.rollout(start, _still(task, start))))
        else:
            run = runs[len([name for name, _ in performers if name != "no motion"])]
            policy = policy_of(run, task)
            performers.append((_name(run, runs), lambda start, policy=policy: closed_loop(task, policy, start)))
    if options.best:
        known = reference.load(task)
        expect(known is not None, "best", f"known actions for {task.name} as it is now", "none, see `pods reference`")
        states = _states(options.states)
        actions = known.actions[states].to(task.simulator.device, task.simulator.dtype)
        performers.append(("best known", lambda start: task.simulator.rollout(start, actions)))
    return task, performers


def _still(task, start):
    import torch

    return torch.zeros_like(task.simulator.begin(start, task.N).a)


def _name(run, runs):
    """The learner if that tells the runs apart, else the folder."""
    learners = [other.config["learner"] for other in runs]
    return run.config["learner"] if len(set(learners)) == len(learners) else run.path.resolve().name


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    expect(len(parts) == 2 and all(p.isdecimal() for p in parts), "size", "WIDTHxHEIGHT, like 1280x720", repr(text))
    return int(parts[0]), int(parts[1])


def _states(text: str) -> list[int]:
    from tasks import TEST_STATES

    parts = text.split(",")
    good = all(p.strip().isdecimal() and int(p) < TEST_STATES for p in parts)
    expect(good, "states", f"numbers of test states, 0 to {TEST_STATES - 1}, like 0,3", repr(text))
    return [int(p) for p in parts]


def _notice(line: str):
    print(f"pods: {line}", file=sys.stderr)


class _Frames:
    """A progress bar on a terminal, nothing elsewhere."""

    def __init__(self, frames: int):
        from rich.progress import Progress

        self._bar = Progress(disable=not sys.stdout.isatty(), transient=True)
        self._job = self._bar.add_task("frames", total=frames)

    def __enter__(self):
        self._bar.start()
        return self

    def show(self, frame: int):
        self._bar.update(self._job, completed=frame + 1)

    def __exit__(self, *_):
        self._bar.stop()
