"""A stiff frame of four masses, slung from two handles by elastic cables."""

import functools

from taichi_sim import Builder

from . import pendulum
from .task import Shake, Task

MASS = 0.05  # kg each, paper table 2 says 200 g together
WIDTH, HEIGHT = 0.2, 0.1  # m, of the frame
SPREAD, DEPTH = 0.3, 0.45  # m, of the handles left and right of the middle, of the frame's middle below them
FRAME = 2000.0  # N/m, inside the frame
STIFFNESS = 40.0  # N/m: resting, each cable is stretched by 13 mm
BLEND = 8e-3  # m, below that stretch


def system():
    b = Builder("cable2d", 2)
    corners = [(x, y) for x in (-WIDTH / 2, WIDTH / 2) for y in (HEIGHT / 2 - DEPTH, -HEIGHT / 2 - DEPTH)]
    frame = [b.point(corner, MASS) for corner in corners]
    for n, one in enumerate(frame):
        for other in frame[n + 1 :]:
            b.spring(one, other, FRAME)
    for side, (upper, lower) in ((-SPREAD, frame[:2]), (SPREAD, frame[2:])):
        handle = b.handle((side, 0.0), axes="x")
        b.cable(handle, upper, STIFFNESS, blend=BLEND)
        b.cable(handle, lower, STIFFNESS, blend=BLEND)
    return b.build()


def task(goal: str) -> Task:
    reward = {"stop": pendulum.STOP, "origin": pendulum.ORIGIN}[goal]
    return Task(
        f"cable2d-{goal}", system(), pendulum.H, pendulum.STEPS, pendulum.LIMIT, reward, Shake(speed=(0.1, 0.8))
    )


TASKS = {f"cable2d-{g}": functools.partial(task, g) for g in ("stop", "origin")}
