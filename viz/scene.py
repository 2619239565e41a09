"""How a system is drawn: from positions to a `Picture`."""

from __future__ import annotations

import math

import numpy as np
import torch

from taichi_sim import System
from taichi_sim.residual import spring_tension

from .picture import Balls, Boxes, Lines, Picture, Surface, Tubes

CELL = 0.1  # m, of the ground grid
SEGMENTS = 8  # of a drawn cable
FLOOR, GRID, TABLE = (0.93, 0.93, 0.92), (0.80, 0.80, 0.79), (0.80, 0.74, 0.66)
HANDLE, RAIL, GOAL, CONTACT = (0.20, 0.20, 0.22), (0.55, 0.55, 0.57), (0.10, 0.60, 0.30), (0.95, 0.45, 0.05)
PUSH, SLACK, PULL = np.array([0.20, 0.35, 0.85]), np.array([0.62, 0.62, 0.64]), np.array([0.75, 0.10, 0.10])
PERFORMERS = ((0.12, 0.47, 0.71), (0.90, 0.60, 0.00), (0.00, 0.62, 0.45), (0.80, 0.47, 0.65), (0.35, 0.34, 0.55))


def lifted(points: np.ndarray) -> np.ndarray:
    """(..., 3) of (..., d): a system in two dimensions lies in the plane y = 0, its second axis up."""
    if points.shape[-1] == 3:
        return points
    return np.stack((points[..., 0], np.zeros_like(points[..., 0]), points[..., 1]), -1)


class Scene:
    """C copies of a system side by side, each at its place and with the colour of its performer.

    goal: (P, d) m, drawn as crosses
    low, high: (d,) m, the box in which one copy moves
    performer: (C,) int, who acts in each copy, sorted, each in equally many
    """

    def __init__(self, system: System, goal, low, high, performer):
        self.system, self.goal = system, np.asarray(goal, dtype=float)
        box = lifted(np.stack((np.asarray(low, dtype=float), np.asarray(high, dtype=float))))
        self.size = float(np.linalg.norm(box[1] - box[0]))
        performer = np.asarray(performer)
        self.colours = np.array(PERFORMERS)[performer % len(PERFORMERS)]
        self.places = _places(performer, box[1] - box[0], flat=system.dim == 2)
        self.low, self.high = box[0] + self.places.min(0), box[1] + self.places.max(0)
        weight = float(system.mass.sum() * np.linalg.norm(system.gravity))
        self._load = max(weight / max(system.handles, 1), 1e-9)  # N, what is drawn half way to the full colour
        self._cloth = len(system.triangles) > 0
        drawn = np.ones(system.springs, dtype=bool)
        if self._cloth:
            shortest = system.length[system.length > 0].min()
            drawn = (system.length < 1.01 * shortest) & (system.length > 0)
        self._drawn = np.flatnonzero(drawn)
        held = system.ends.max(1) >= system.points
        self._grips = np.flatnonzero(self._cloth & held)
        self._floors, self._floor_lines = self._ground()
        self._rail_lines = Lines(self._rails(), 1.5, np.tile(RAIL, (len(self._rails()), 1)))

    def picture(self, x, p, trails=(), target=0.0) -> Picture:
        """What rows x (C, P, d) and p (C, H, d) look like; m.

        trails: paths (C, T, d) of points, drawn as lines
        target: (d,) m, by how much the goal is moved
        """
        x, p = torch.as_tensor(x).double().cpu(), torch.as_tensor(p).double().cpu()
        tension = spring_tension(self.system, x, p).numpy()
        x, p = x.numpy(), p.numpy()
        nodes = np.concatenate((lifted(x), lifted(p)), 1) + self.places[:, None]
        P, r = self.system.points, 0.012 * self.size
        masses = Balls(nodes[:, :P].reshape(-1, 3), (0.35 if self._cloth else 1.0) * r, np.repeat(self.colours, P, 0))
        touching = self._touching(x)
        contacts = Balls(nodes[:, :P][touching], 0.45 * r, np.tile(CONTACT, (int(touching.sum()), 1)))
        handles = nodes[:, P:].reshape(-1, 3)
        box = Boxes(handles, r * np.array([1.0, 1.0, 0.6]), np.tile(HANDLE, (len(handles), 1)))
        strings, wires = self._springs(nodes, tension, r)
        lines = [wires, self._goal(r, target)]
        for path in trails:
            lines.append(self._trail(np.asarray(path)))
        surfaces = ()
        if self._cloth:
            triangles = self.system.triangles + P * np.arange(len(nodes))[:, None, None]
            surface = Surface(nodes[:, :P].reshape(-1, 3), triangles.reshape(-1, 3), np.repeat(self.colours, P, 0))
            surfaces = (surface,)
        return Picture(self._floors, self._floor_lines, (masses, contacts), strings, (box,), surfaces, tuple(lines))

    def middle(self, x) -> np.ndarray:
        """(3,) m, the middle of all points x (C, P, d) in the scene."""
        return (lifted(np.asarray(x)).mean(1) + self.places).mean(0)

    # Parts

    def _springs(self, nodes, tension, r):
        """Cables and springs as tubes, slack ones hanging, with rails; a cloth's grips as tubes, threads as lines."""
        at, ends = self._drawn, self.system.ends
        colours = _by_tension(tension / self._load)
        if self._cloth:
            wires = Lines(nodes[:, ends[at]].reshape(-1, 2, 3), 1.5, colours[:, at].reshape(-1, 3))
            grips = nodes[:, ends[self._grips]].reshape(-1, 2, 3)
            return (Tubes(grips, 0.2 * r, colours[:, self._grips].reshape(-1, 3)),), wires
        a, b = nodes[:, ends[at, 0]], nodes[:, ends[at, 1]]
        path = _hanging(a, b, np.where(self.system.unilateral[at], self.system.length[at], 0.0))
        pieces = np.stack((path[:, :, :-1], path[:, :, 1:]), -2)
        tubes = Tubes(pieces.reshape(-1, 2, 3), 0.3 * r, np.repeat(colours[:, at], SEGMENTS, 1).reshape(-1, 3))
        return (tubes,), self._rail_lines

    def _rails(self):
        """A stretch of the axis along which a handle moves, if it moves along one."""
        s, half = self.system, 0.6 * (self.high[0] - self.low[0]) / max(1, len({*self.places[:, 0]}))
        axes = s.axes.reshape(s.handles, s.dim, -1)
        single = [h for h in range(s.handles) if (np.abs(axes[h]).sum(0) > 0).sum() == 1]
        if not single:
            return np.zeros((0, 2, 3))
        along = lifted(np.stack([axes[h][:, np.abs(axes[h]).sum(0) > 0][:, 0] for h in single]))
        middle = lifted(s.home[single])[None] + self.places[:, None]
        return np.stack((middle - half * along, middle + half * along), 2).reshape(-1, 2, 3)

    def _goal(self, r, target):
        """A cross at the goal of each point."""
        middle = (lifted(self.goal + target) + self.places[:, None]).reshape(-1, 1, 1, 3)
        arms = (0.7 if self._cloth else 1.6) * r * np.array([[[-1, 0, 0], [1, 0, 0]], [[0, 0, -1], [0, 0, 1]]])
        if self._cloth:
            arms = arms[..., [0, 2, 1]]
        ends = (middle + arms).reshape(-1, 2, 3)
        return Lines(ends, 2.0, np.tile(GOAL, (len(ends), 1)))

    def _trail(self, path):
        points = lifted(path) + self.places[:, None]
        ends = np.stack((points[:, :-1], points[:, 1:]), 2).reshape(-1, 2, 3)
        return Lines(ends, 1.5, np.repeat(0.5 * self.colours + 0.5, points.shape[1] - 1, 0))

    def _touching(self, x):
        """(C, P) bool, which points press on a plane."""
        s = self.system
        touching = np.zeros(x.shape[:2], dtype=bool)
        for n in range(s.planes):
            touching |= x @ s.normal[n] - s.offset[n] < s.contact_blend[n]
        return touching

    def _ground(self):
        """The contact planes, or a floor below everything, with a grid of `CELL`."""
        s, middle = self.system, (self.low + self.high) / 2
        half = math.ceil((0.5 * np.linalg.norm((self.high - self.low)[:2]) + 0.1 * self.size) / CELL) * CELL
        if s.planes:
            grounds = [(lifted(s.normal[n]), s.offset[n], TABLE) for n in range(s.planes)]
        else:
            grounds = [(np.array([0.0, 0.0, 1.0]), self.low[2] - 0.08 * self.size, FLOOR)]
        surfaces, lines = [], []
        for normal, offset, colour in grounds:
            one = np.cross(normal, [0.0, 1.0, 0.0] if abs(normal[1]) < 0.9 else [1.0, 0.0, 0.0])
            one /= np.linalg.norm(one)
            other = np.cross(normal, one)
            centre = middle - (middle @ normal - offset) * normal
            centre = centre - (centre @ one % CELL) * one - (centre @ other % CELL) * other
            below = centre - 0.004 * self.size * normal  # so that grid and flat cloth are not hidden
            corners = below + half * np.array([-one - other, one - other, one + other, other - one])
            surfaces.append(Surface(corners, np.array([[0, 1, 2], [0, 2, 3]]), np.tile(colour, (4, 1))))
            t = np.arange(-half, half + CELL / 2, CELL)[:, None, None]
            grid = [np.stack((-u, u), 0) * half + w * t for u, w in ((one, other), (other, one))]
            ends = centre - 0.002 * self.size * normal + np.concatenate(grid)
            shade = np.asarray(GRID) if colour is FLOOR else 0.9 * np.asarray(colour)
            lines.append(Lines(ends, 1.0, np.tile(shade, (len(ends), 1))))
        return tuple(surfaces), tuple(lines)


def _hanging(a: np.ndarray, b: np.ndarray, length: np.ndarray) -> np.ndarray:
    """(…, SEGMENTS + 1, 3) a parabola of that length (…,) from a to b (…, 3), a straight line if they are farther."""
    s = np.linspace(0.0, 1.0, SEGMENTS + 1)
    chord = a[..., None, :] + (b - a)[..., None, :] * s[:, None]
    down = -4 * (s * (1 - s))[:, None] * np.array([0.0, 0.0, 1.0])
    low, high = np.zeros(a.shape[:-1]), np.broadcast_to(length, a.shape[:-1])
    for _ in range(24):
        sag = (low + high) / 2
        path = chord + sag[..., None, None] * down
        short = np.linalg.norm(np.diff(path, axis=-2), axis=-1).sum(-1) < length
        low, high = np.where(short, sag, low), np.where(short, high, sag)
    return chord + low[..., None, None] * down


def _by_tension(share: np.ndarray) -> np.ndarray:
    """Grey at no load, red where it pulls, blue where it pushes; full colour at twice the load."""
    strength = np.clip(np.abs(share) / 2, 0.0, 1.0)[..., None] ** 0.5
    return SLACK + strength * (np.where(share[..., None] > 0, PULL, PUSH) - SLACK)


def _places(performer: np.ndarray, size: np.ndarray, flat: bool) -> np.ndarray:
    """(C, 3) where the copies stand, in rows, upright if the system is flat, else on the ground.

    Several performers of several rollouts get a row each; else the rows are those that fill a wide picture best.
    """
    step, count = 1.15 * size, len(performer)
    depth = step[2] if flat else step[1]
    each = count // len(np.unique(performer))
    columns = each
    if each in (1, count):
        columns = max(range(1, count + 1), key=lambda c: min(16 / (c * step[0]), 9 / (math.ceil(count / c) * depth)))
    column, row = np.arange(count) % columns, np.arange(count) // columns
    rows = math.ceil(count / columns)
    across = (column - (columns - 1) / 2) * step[0]
    if flat:
        return np.stack((across, np.zeros(count), ((rows - 1) / 2 - row) * step[2]), -1)
    return np.stack((across, (row - (rows - 1) / 2) * step[1], np.zeros(count)), -1)
