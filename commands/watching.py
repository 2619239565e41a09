"""pods view, video and plot: looking at what policies do."""

from __future__ import annotations

import sys
from pathlib import Path

from taichi_sim.errors import InputError, expect

from .runs import begin, begin_as, open_run, policy_of, task_of


def video(options):
    import imageio.v3

    from viz import video
    from viz.encoder import check, check_place
    from viz.renderer import KINDS

    size, states = _size(options.size), _states(options.states)
    expect(options.at is None or options.at >= 0, "at", "seconds >= 0", options.at)
    still = Path(options.output).suffix == ".png"
    expect(still == (options.at is not None), "at", "--at SECONDS with a .png, and only there", options.output)
    video.check(size, options.fps, options.speed)
    expect(options.renderer in KINDS, "renderer", f"one of {', '.join(KINDS)}", repr(options.renderer))
    check_place(options.output) if still else check(options.output, size)
    task, policies = _policies(options)
    film = video.Film(task, _performances(task, policies, states, options.best), size, options.fps, options.speed)
    if still:
        from viz.renderer import Renderer

        with Renderer(size, options.renderer, _notice) as renderer:
            image = film.image(min(round(options.at * options.fps / options.speed), film.frames - 1), renderer)
        try:
            Path(options.output).parent.mkdir(parents=True, exist_ok=True)
            imageio.v3.imwrite(options.output, image)
        except OSError as error:
            raise InputError(
                f"output: expected a place to write to, got {options.output} ({error.strerror})"
            ) from error
    else:
        with _Frames(film.frames) as progress:
            video.write(film, options.output, options.renderer, _notice, progress.show)
    print(f"written to {options.output}")


def view(options):
    from tasks import TEST_STATES
    from viz.session import Session
    from viz.viewer import Viewer, Window

    size = _size(options.size)
    expect(1 <= options.count <= TEST_STATES, "count", f"1 to {TEST_STATES} rollouts", options.count)
    last = TEST_STATES - options.count
    expect(0 <= options.state <= last, "state", f"a test state from 0 to {last}", options.state)
    task, policies = _policies(options)
    window = Window(size)
    folder = Path(options.runs[0]) if Path(options.runs[0]).is_dir() else Path()
    Viewer(Session(task, policies, options.count, options.state), size, folder).run(window)


def plot(options):
    from viz.encoder import check_folder

    check_folder(Path(options.output), options.output)
    if options.runs[0] == "jacobian":
        return _plot_jacobian(options)
    from learner import reference
    from viz import figures

    logs = [figures.Log.read(path) for path in options.runs]
    folder = Path(options.output)
    written = figures.learning_curves(logs, folder / "learning")
    if any(log.evaluation is not None for log in logs):
        written += figures.metrics(logs, folder / "metrics")
    if len({log.task for log in logs}) == 1:
        states = _states(str(options.state))
        task, policies = _policies(options)
        best = options.best and reference.load(task) is not None
        performances = _performances(task, policies, states, best)
        written += figures.trajectories(task, [(p.name, p.rows) for p in performances], folder / "trajectory")
    print("\n".join(f"written to {path}" for path in written))


def _plot_jacobian(options):
    """|ds/da| along the best known rollout of a test state, or along no motion if none is known."""
    import torch

    import tasks
    from learner import reference
    from viz import figures

    expect(len(options.runs) == 2, "TASK", "pods plot jacobian TASK", " ".join(options.runs))
    tasks.make(options.runs[1])
    (state,) = _states(str(options.state))
    begin(options)
    task = tasks.make(options.runs[1])
    start, known = task.test_states(state + 1)[state:], reference.load(task)
    actions = torch.zeros_like(task.simulator.begin(start, task.N).a)
    if known is not None:
        actions = known.actions[state : state + 1].to(actions)
    S = task.simulator.jacobian(task.simulator.rollout(start, actions))[0].double().cpu().numpy()
    written = figures.jacobian(task, S, Path(options.output) / f"jacobian-{task.name}")
    print("\n".join(f"written to {path}" for path in written))


def _policies(options):
    """The task, and (name, policy) of each run, None for the policy of a task's name."""
    import tasks

    runs = {path: open_run(path) for path in options.runs if path not in tasks.names()}
    named = {run.config["task"] for run in runs.values()} | {path for path in options.runs if path in tasks.names()}
    expect(len(named) == 1, "RUN", "runs of one task", ", ".join(sorted(named)))
    horizons = {run.config["horizon"] for run in runs.values()}
    expect(len(horizons) <= 1, "RUN", "runs of one horizon", ", ".join(map(str, sorted(horizons))))
    if runs:
        first = next(iter(runs.values()))
        begin_as(first, options)
        task = task_of(first)
    else:
        begin(options)
        task = tasks.make(*named)
    learners = [run.config["learner"] for run in runs.values()]
    policies = []
    for path in options.runs:
        if path in runs:
            run = runs[path]
            unique = learners.count(run.config["learner"]) == 1
            name = run.config["learner"] if unique else run.path.resolve().name
            policies.append((name, policy_of(run, task)))
        else:
            policies.append(("no motion", None))
    return task, policies


def _performances(task, policies, states: list[int], best: bool):
    """A rollout of each policy from the test states, and of the best known actions if asked for."""
    import torch

    from learner import reference
    from learner.rollouts import closed_loop
    from viz.video import Performance

    start = task.test_states(max(states) + 1)[states]
    still = torch.zeros(task.system.actions, dtype=start.x.dtype, device=start.x.device)
    performances = [Performance(n, closed_loop(task, policy or (lambda o: still), start)) for n, policy in policies]
    if best:
        known = reference.load(task)
        expect(known is not None, "best", f"known actions for {task.name} as it is now", "none, see `pods reference`")
        performances.append(Performance("best known", task.simulator.rollout(start, known.actions[states].to(start.x))))
    return performances


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    expect(len(parts) == 2 and all(p.isdecimal() for p in parts), "size", "WIDTHxHEIGHT, like 1280x720", repr(text))
    expect(all(int(p) >= 64 for p in parts), "size", "at least 64x64", text)
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
