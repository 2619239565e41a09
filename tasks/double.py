"""Two payloads in space: a stiff cable to the first, a stiff bilateral spring between the two."""

import functools

from taichi_sim import Builder

from . import pendulum
from .task import Shake, Task

MASS = 0.05  # kg each, paper table 2 says 100 g together
LENGTH = 0.3  # m each
STIFFNESS = 2000.0  # N/m: the upper cable carries both masses and stretches by 0.5 mm


def system():
    b = Builder("double3d", 3)
    handle = b.handle((0.0, 0.0, 0.0), axes="xy")
    upper = b.point((0.0, 0.0, -LENGTH), MASS)
    lower = b.point((0.0, 0.0, -2 * LENGTH), MASS)
    b.cable(handle, upper, STIFFNESS, blend=pendulum.BLEND)
    b.spring(upper, lower, STIFFNESS)
    return b.build()


def task(goal: str) -> Task:
    reward = {"stop": pendulum.STOP, "origin": pendulum.ORIGIN}[goal]
    return Task(f"double3d-{goal}", system(), pendulum.H, pendulum.STEPS, pendulum.LIMIT, reward, Shake())


TASKS = {f"double3d-{g}": functools.partial(task, g) for g in ("stop", "origin")}
