"""A task's scene and the camera that shows all of it."""

from __future__ import annotations

import numpy as np
import torch

from tasks import Task

from .camera import Camera
from .scene import Scene

SEED, STARTS = (2, 0), 64  # of the start states that set how large the scene is
FLAT, HANGING, LYING = (0.0, 0.08), (0.55, 0.15), (0.6, 0.5)  # rad, azimuth and elevation by kind of system


def scene(task: Task, performer, points: torch.Tensor | None = None) -> Scene:
    """Copies of `task`'s system, one for each entry of performer (C,), each with room for `points` (n, d), by default
    those of some start states, and for the goal.
    """
    if points is None:
        start = task.start(SEED, STARTS)
        points = torch.cat((start.x.flatten(0, 1), start.p.flatten(0, 1)))
    goal, home = task.goal.cpu().double(), torch.as_tensor(task.system.home.copy())
    every = torch.cat((points.cpu().double(), goal, home))
    low, high = every.amin(0), every.amax(0)
    margin = 0.03 * (high - low).norm()
    return Scene(task.system, goal.numpy(), (low - margin).numpy(), (high + margin).numpy(), performer)


def camera(task: Task, scene: Scene, aspect: float, headroom: float = 0.0, margin: float = 0.0) -> Camera:
    """Flat systems from the front, hanging ones from a little above and aside, what lies on a plane from above.

    headroom, margin: shares of the picture's height and width that stay free at the top and on the left
    """
    angles = LYING if task.system.planes else (FLAT if task.system.dim == 2 else HANGING)
    up = np.array([0.0, 0.0, (scene.high - scene.low)[2] * headroom / (1 - headroom)])
    return Camera.fitting(scene.low, scene.high + up, aspect * (1 - margin), *angles).shifted(aspect * margin / 2)
