"""A rope in space: five masses in a row on elastic cables."""

import functools

from taichi_sim import Builder

from . import pendulum
from .task import Shake, Task

MASSES, MASS = 5, 0.05  # kg each, paper table 2 says 250 g together
LENGTH = 0.1  # m each
STIFFNESS = 300.0  # N/m: resting, the cables are stretched by 1.6 mm (the lowest) to 8 mm
BLEND = 1.3e-3  # m, below that stretch


def system():
    b = Builder("rope3d", 3)
    handle = b.handle((0.0, 0.0, 0.0), axes="xy")
    masses = [b.point((0.0, 0.0, -LENGTH * (n + 1)), MASS) for n in range(MASSES)]
    b.chain([handle, *masses], stiffness=STIFFNESS, blend=BLEND)
    return b.build()


def task(goal: str) -> Task:
    reward = {"stop": pendulum.STOP, "origin": pendulum.ORIGIN}[goal]
    return Task(f"rope3d-{goal}", system(), pendulum.H, pendulum.STEPS, pendulum.LIMIT, reward, Shake(speed=(0.1, 0.8)))


TASKS = {f"rope3d-{g}": functools.partial(task, g) for g in ("stop", "origin")}
