"""Rollouts as a video: several performers side by side, at the speed at which they happened."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import torch

from taichi_sim import Trajectory
from taichi_sim.errors import expect
from tasks import Task

from . import stage
from .encoder import Encoder
from .overlay import LINES, annotated
from .renderer import Renderer
from .scene import PERFORMERS

TRAIL = 0.8  # s
HOLD = 0.5  # s, of the last row


@dataclasses.dataclass(frozen=True, eq=False)
class Performance:
    """Who acted, and K rollouts of it; all performances of a video have the same start states."""

    name: str
    rows: Trajectory


class Film:
    """The frames of a video.

    Copies of the system stand in rows, a performer's K rollouts in its colour. `speed` 1 is real time.
    """

    def __init__(self, task: Task, performances: list[Performance], size, fps: float = 30.0, speed: float = 1.0):
        expect(len(performances) >= 1, "performances", "at least one", 0)
        check(size, fps, speed)
        self.task, self.performances, self.size, self.fps, self.speed = task, performances, size, fps, speed
        count = len(performances[0].rows)
        expect(all(len(p.rows) == count for p in performances), "performances", f"{count} rollouts each", "others")
        self._x, self._p = (np.concatenate([getattr(p.rows, f).double().cpu() for p in performances]) for f in "xp")
        visited = torch.cat([torch.as_tensor(rows).flatten(0, 2) for rows in (self._x, self._p)])
        self.scene = stage.scene(task, np.repeat(np.arange(len(performances)), count), visited)
        headroom = (3.0 + len(performances)) / LINES
        self.camera = stage.camera(task, self.scene, size[0] / size[1], headroom)
        self._metrics = [_metrics(task, p.rows) for p in performances]
        self.steps = self._x.shape[1] - 1
        self.frames = int(self.steps * task.h / speed * fps + 1e-9) + 1 + int(HOLD * fps)

    def row(self, frame: int) -> float:
        """The row of the rollouts, between rows too, that a frame shows."""
        return min(frame / self.fps * self.speed / self.task.h, self.steps)

    def picture(self, frame: int):
        """What the scene looks like, positions between rows interpolated."""
        row = self.row(frame)
        t = min(int(row), self.steps - 1)
        part = row - t
        x, p = ((1 - part) * rows[:, t] + part * rows[:, t + 1] for rows in (self._x, self._p))
        first = max(0, t - int(TRAIL / self.task.h))
        path = np.concatenate((self._x[:, first : t + 1].mean(2), x.mean(1)[:, None]), 1)
        length = int(TRAIL / self.task.h) + 2
        padded = np.concatenate((np.repeat(path[:, :1], length - path.shape[1], 1), path), 1)
        return self.scene.picture(x, p, trails=[padded])

    def image(self, frame: int, renderer: Renderer) -> np.ndarray:
        """(height, width, 3) uint8"""
        t = round(self.row(frame))
        shown = 3 if self.task.reward.w_x > 0 else 2
        table = [(None, ("", "cost", "kinetic energy", "distance")[: 1 + shown])]
        for n, (performance, (cost, kinetic, far)) in enumerate(zip(self.performances, self._metrics, strict=True)):
            values = (f"{cost[t]:.3f}", f"{kinetic[t]:.1e} J", f"{100 * far[t]:.1f} cm")
            table.append((PERFORMERS[n % len(PERFORMERS)], (performance.name, *values[:shown])))
        drawn = renderer.draw(self.picture(frame), self.camera)
        clock = f"{self.row(frame) * self.task.h:.2f} s" + ("" if self.speed == 1 else f"   × {self.speed:g}")
        return annotated(drawn, self.task.name, clock, table)


def check(size: tuple[int, int], fps: float, speed: float):
    """Raise `InputError` if no film can be made so; for before the work."""
    expect(all(n >= 64 for n in size), "size", "at least 64x64", f"{size[0]}x{size[1]}")
    for name, value in (("fps", fps), ("speed", speed)):
        expect(math.isfinite(value) and value > 0, name, "a number > 0", value)


def write(film: Film, path: str | Path, renderer: str = "auto", notice=print, progress=lambda frame: None):
    """Make the video; `progress(frame)` is called after each. Its memory does not grow with the length."""
    with Encoder(path, film.size, film.fps) as encoder, Renderer(film.size, renderer, notice) as pen:
        for frame in range(film.frames):
            encoder.write(film.image(frame, pen))
            progress(frame)


def _metrics(task: Task, rows: Trajectory):
    """Cost so far, kinetic energy J and mean distance from the goal m of each row, means over the rollouts: (N+1,)."""
    cost = torch.cat((rows.a.new_zeros(len(rows), 1), -task.rewards(rows).cumsum(1)), 1)
    mass = torch.as_tensor(task.system.mass.copy()).to(rows.v)
    kinetic = 0.5 * (mass * rows.v.square().sum(-1)).sum(-1)
    far = (rows.x - task.goal).norm(dim=-1).mean(-1)
    return tuple(y.mean(0).double().cpu().numpy() for y in (cost, kinetic, far))
