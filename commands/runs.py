"""Run folders, as the commands open them."""

from __future__ import annotations

import argparse
import json

import taichi_sim
from taichi_sim.errors import expect


def open_run(path):
    """The run at `path`, with the fields that `train` wrote into its config.json."""
    from learner import LEARNERS
    from learner.run import Run

    run = Run.open(path)
    fields = {"task": str, "horizon": int, "learner": str, "config": dict, "definition": dict, "environment": dict}
    _expect_fields(run.config, fields, f"{run.path}/config.json")
    expect(run.config["learner"] in LEARNERS, "learner", f"one of {', '.join(LEARNERS)}", repr(run.config["learner"]))
    where = {"device_type": str, "precision": str, "threads": int}
    _expect_fields(run.config["environment"], where, f"{run.path}/config.json, environment")
    return run


def _expect_fields(values: dict, fields: dict[str, type], where: str):
    for name, kind in fields.items():
        found = values.get(name)
        expect(type(found) is kind, f"{where}, {name}", kind.__name__, repr(found)[:80])


def begin(options):
    """Start Taichi and set torch's threads, as the flags of every command say."""
    import torch

    expect(options.threads is None or options.threads >= 1, "threads", "a number >= 1", options.threads)
    taichi_sim.init(options.device, options.precision, options.threads)
    if options.threads is not None:
        torch.set_num_threads(options.threads)


def begin_as(run, options):
    """`begin` with the run's precision, and its kind of device and threads unless others are asked for."""
    where = run.config["environment"]
    values = {"precision": where["precision"], "threads": options.threads or where["threads"]}
    if options.device == "auto":
        values["device"] = where["device_type"]
    begin(argparse.Namespace(**vars(options) | values))


def task_of(run):
    import tasks

    task = tasks.make(run.config["task"], run.config["horizon"])
    same = json.loads(json.dumps(task.definition())) == run.config["definition"]
    expect(same, f"{run.path}/config.json", f"today's definition of {task.name}", "another one")
    return task


def policy_of(run, task):
    from learner.files import load_module
    from learner.policy import Policy

    tensors, _ = run.load()
    policy = Policy(task, run.config["config"]["seed"])
    load_module(policy, "policy", tensors)
    return policy
