"""What there is to see at one instant: plain arrays in metres, the same for every renderer."""

from __future__ import annotations

import dataclasses

import numpy as np

SIDES = 8  # of a tube


@dataclasses.dataclass(frozen=True, eq=False)
class Balls:
    """centres: (n, 3) m    radius: m    colours: (n, 3) in 0…1"""

    centres: np.ndarray
    radius: float
    colours: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Tubes:
    """ends: (n, 2, 3) m    radius: m    colours: (n, 3)"""

    ends: np.ndarray
    radius: float
    colours: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Boxes:
    """centres: (n, 3) m    half: (3,) m, half their extent    colours: (n, 3)"""

    centres: np.ndarray
    half: np.ndarray
    colours: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Surface:
    """vertices: (n, 3) m    triangles: (k, 3) int    colours: (n, 3)"""

    vertices: np.ndarray
    triangles: np.ndarray
    colours: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Lines:
    """ends: (n, 2, 3) m    width: pixels of a picture 720 pixels high    colours: (n, 3)"""

    ends: np.ndarray
    width: float
    colours: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """Everything in the scene. `floors` lie below all else: a renderer without a depth buffer draws them first."""

    floors: tuple[Surface, ...]
    floor_lines: tuple[Lines, ...]
    balls: tuple[Balls, ...]
    tubes: tuple[Tubes, ...]
    boxes: tuple[Boxes, ...]
    surfaces: tuple[Surface, ...]
    lines: tuple[Lines, ...]


def tube_mesh(tubes: Tubes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (n·2·SIDES, 3), normals, colours, and triangles (n·2·SIDES, 3) of the tubes."""
    start, along = tubes.ends[:, 0], tubes.ends[:, 1] - tubes.ends[:, 0]
    axis = along / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-12)
    helper = np.where(np.abs(axis[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    one = np.cross(axis, helper)
    one /= np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-12)
    other = np.cross(axis, one)
    angle = 2 * np.pi * np.arange(SIDES) / SIDES
    out = one[:, None] * np.cos(angle)[:, None] + other[:, None] * np.sin(angle)[:, None]
    rings = start[:, None, None] + along[:, None, None] * np.array([0.0, 1.0])[:, None, None]
    vertices = rings + tubes.radius * out[:, None]
    normals = np.broadcast_to(out[:, None], vertices.shape)
    n = np.arange(SIDES)
    after = (n + 1) % SIDES
    pattern = np.concatenate([np.stack((n, after, n + SIDES), 1), np.stack((after, after + SIDES, n + SIDES), 1)])
    triangles = (2 * SIDES * np.arange(len(start))[:, None, None] + pattern).reshape(-1, 3)
    return vertices.reshape(-1, 3), normals.reshape(-1, 3), np.repeat(tubes.colours, 2 * SIDES, 0), triangles


def box_mesh(boxes: Boxes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (n·24, 3), normals, colours, and triangles (n·12, 3); each face has its own vertices."""
    corners, normals = [], []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            normal = np.zeros(3)
            normal[axis] = sign
            for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
                corner = normal.copy()
                corner[(axis + 1) % 3], corner[(axis + 2) % 3] = u, v
                corners.append(corner)
                normals.append(normal)
    n = len(boxes.centres)
    vertices = boxes.centres[:, None] + np.array(corners) * boxes.half
    faces = 4 * np.arange(6)[:, None, None] + np.array([[0, 1, 2], [0, 2, 3]])
    triangles = (24 * np.arange(n)[:, None, None] + faces.reshape(-1, 3)).reshape(-1, 3)
    return vertices.reshape(-1, 3), np.tile(normals, (n, 1)), np.repeat(boxes.colours, 24, 0), triangles


def vertex_normals(surface: Surface) -> np.ndarray:
    """(n, 3) unit normals, the triangles' weighted by area."""
    a, b, c = (surface.vertices[surface.triangles[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    normals = np.zeros_like(surface.vertices)
    for k in range(3):
        np.add.at(normals, surface.triangles[:, k], face)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def joined_mesh(picture: Picture) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (n, 3), normals, colours, and triangles (k, 3) of everything in the picture that has a surface."""
    surfaces = picture.floors + picture.surfaces
    parts = [(s.vertices, vertex_normals(s), s.colours, s.triangles) for s in surfaces]
    parts += [tube_mesh(tubes) for tubes in picture.tubes] + [box_mesh(boxes) for boxes in picture.boxes]
    first = np.cumsum([0, *(len(part[0]) for part in parts)])
    vertices, normals, colours = (np.concatenate([part[k] for part in parts]) for k in range(3))
    return vertices, normals, colours, np.concatenate([part[3] + n for part, n in zip(parts, first, strict=False)])
