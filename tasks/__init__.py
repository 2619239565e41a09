"""The control problems of the paper, by name.

>>> import tasks
>>> tasks.names()[:2]
['double3d-origin', 'double3d-stop']
"""

import dataclasses

from taichi_sim.errors import InputError, expect

from . import cable, cloth, double, pendulum, rope
from .reward import Quadratic, Terminal
from .shake import Lift, Shake
from .task import FAR, TEST_SEED, TEST_STATES, Task

__all__ = ["FAR", "TEST_SEED", "TEST_STATES", "Lift", "Quadratic", "Shake", "Task", "Terminal", "make", "names"]

_MAKERS = {**pendulum.TASKS, **double.TASKS, **cable.TASKS, **rope.TASKS, **cloth.TASKS}


def names() -> list[str]:
    """The names that `make` knows, sorted."""
    return sorted(_MAKERS)


def make(name: str, N: int | None = None) -> Task:
    """The task called `name`, with a horizon of N steps if given. Raises `InputError` naming the nearest task."""
    if name not in _MAKERS:
        import difflib

        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.0)
        raise InputError(f"task: expected one of {', '.join(names())}, got {name!r}; the nearest is {near[0]!r}")
    task = _MAKERS[name]()
    if N is None:
        return task
    expect(isinstance(N, int) and N >= 1, "N", "a horizon of at least one step", N)
    return dataclasses.replace(task, N=N)
