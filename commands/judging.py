"""pods list, evaluate, reference and baseline."""

from __future__ import annotations

from taichi_sim.errors import expect

from .report import console, show_evaluation
from .runs import begin, begin_as, open_run, policy_of, task_of


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
    console().print(table)


def evaluate(options):
    from learner import reference
    from learner.evaluation import evaluate as judge
    from learner.files import write_json

    run = open_run(options.run)
    begin_as(run, options)
    task = task_of(run)
    result = judge(task, policy_of(run, task), reference.load(task))
    rows = run.rows()
    result["training_seconds"] = rows[-1]["seconds"] if rows else None
    write_json(run.path / "evaluation.json", result)
    show_evaluation(result)


def reference(options):
    import tasks
    from learner import reference as best

    tasks.make(options.task)
    runs = [open_run(path) for path in options.policy]
    begin(options)
    task = tasks.make(options.task)
    for run in runs:
        expect(
            run.config["task"] == task.name, "policy", f"a run of {task.name}", f"{run.path}, of {run.config['task']}"
        )
    policies = [policy_of(run, task) for run in runs]
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
    begin(options)
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
