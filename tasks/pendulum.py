"""A payload on a stiff cable from one handle, in the plane and in space."""

import functools

from taichi_sim import Builder

from .reward import Quadratic
from .task import Shake, Task

MASS = 0.05  # kg, paper table 2
LENGTH = 0.5  # m: a period of 1.42 s, 2.5 of them in the horizon of 3.6 s
STIFFNESS = 1000.0  # N/m: the load stretches the cable by 0.5 mm, 0.1 % of its length
BLEND = 4e-4  # m, just below that stretch: resting is taut, and slackening is as smooth as that allows

H, STEPS = 0.024, 150  # paper A.2
LIMIT = 0.6  # m/s, a brisk arm; payloads swing at up to 3 m/s, and the limit binds in 4 of 5 test states or more

STOP = Quadratic(w_p=0.0, w_x=0.0, w_v=1.0, w_a=0.05)
ORIGIN = Quadratic(w_p=1.0, w_x=1.0, w_v=0.2, w_a=0.05)


def system(dim: int):
    """One mass point below one handle that moves along every horizontal axis."""
    b = Builder(f"pendulum{dim}d", dim)
    up = (0.0,) * (dim - 1)
    handle = b.handle((*up, 0.0), axes="xy"[: dim - 1])
    b.cable(handle, b.point((*up, -LENGTH), MASS), STIFFNESS, blend=BLEND)
    return b.build()


def task(dim: int, goal: str) -> Task:
    reward = {"stop": STOP, "origin": ORIGIN}[goal]
    return Task(f"pendulum{dim}d-{goal}", system(dim), H, STEPS, LIMIT, reward, Shake())


TASKS = {f"pendulum{d}d-{g}": functools.partial(task, d, g) for d in (2, 3) for g in ("stop", "origin")}
