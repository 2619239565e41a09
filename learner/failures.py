"""Rollouts that failed, kept in a file so that they can be simulated again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from taichi_sim import State, Trajectory
from taichi_sim.errors import expect
from tasks import Task

from .files import check_tensor, read_tensors, write_tensors

MOST = 100  # rollouts in a file


def store(path: Path, task: Task, rows: Trajectory):
    """Write where the failed ones of `rows` started and what was done, the first `MOST` of them."""
    failed = rows[~rows.ok][:MOST]
    tensors = {f"start/{f.name}": getattr(failed.start, f.name) for f in dataclasses.fields(State)}
    tensors |= {"actions": failed.a, "status": failed.status}
    write_tensors(path, tensors, {"task": task.name, "digest": task.digest()})


def replay(path: Path, task: Task) -> tuple[Trajectory, Trajectory]:
    """The rollouts of a file as they are now, and as they were: of those, actions, start and status only."""
    tensors, state = read_tensors(path)
    expect(
        state.get("digest") == task.digest(), str(path), f"rollouts of {task.name} as it is", "of another definition"
    )
    B = len(tensors.get("start/first", ()))
    expect(B >= 1, str(path), "at least one rollout", B)
    rows = task.simulator.begin(task.simulator.start(B), task.N)
    like = {f"start/{f.name}": getattr(rows.start, f.name) for f in dataclasses.fields(State)}
    like |= {"actions": rows.a, "status": rows.status}
    for name, tensor in like.items():
        found = tensors.get(name)
        expect(found is not None, f"{path}: {name}", "a tensor", "none")
        # what is not finite may be why a rollout failed
        check_tensor(f"{path}: {name}", found.nan_to_num() if name == "actions" else found, tensor)
        like[name] = found.to(tensor.device)
    start = State(**{f.name: like[f"start/{f.name}"] for f in dataclasses.fields(State)})
    rows = task.simulator.begin(start, task.N)
    for t in range(task.N):
        rows.a[:, t] = like["actions"][:, t]
        task.simulator.advance(rows, t)
    return rows, dataclasses.replace(rows, status=like["status"])
