"""Putting a `System` together."""

from __future__ import annotations

import math

import numpy as np

from .errors import expect
from .system import System

GRAVITY = 9.81  # m/s^2


class Builder:
    """Collects points, handles, springs and planes, and builds a `System`.

    >>> b = Builder("pendulum", dim=2)
    >>> hand = b.handle((0.0, 0.0), axes="x")
    >>> load = b.point((0.0, -0.5), mass=0.05)
    >>> _ = b.cable(hand, load, stiffness=1000.0)
    >>> b.build().actions
    1
    """

    def __init__(self, name: str, dim: int, gravity: float = GRAVITY):
        expect(dim in (2, 3), f"{name}.dim", "2 or 3", dim)
        self.name, self.dim = name, dim
        self.gravity = np.zeros(dim)
        self.gravity[-1] = -gravity
        self._points, self._mass, self._handles, self._actuated = [], [], [], []
        self._springs, self._triangles, self._planes = [], [], []

    def point(self, position, mass: float):
        """Add a mass point at `position` (d,) m of `mass` kg; returns its node."""
        self._points.append(self._vector("point", position))
        self._mass.append(mass)
        return ("point", len(self._points) - 1)

    def handle(self, position, axes: str = ""):
        """Add a handle at `position`; each of `axes` ("x", "xy", ...) becomes one action. Returns its node."""
        names = "xyz"[: self.dim]
        expect(all(c in names for c in axes), f"{self.name}.handle axes", f"letters of {names!r}", repr(axes))
        self._handles.append(self._vector("handle", position))
        handle = len(self._handles) - 1
        self._actuated += [(handle, names.index(c)) for c in axes]
        return ("handle", handle)

    def spring(self, a, b, stiffness: float, length: float | None = None, damping: float = 0.0):
        """Add a bilateral spring, E = ½ k (l − L)². `length` defaults to the distance as built."""
        return self._join(a, b, stiffness, length, damping, False, 0.0)

    def cable(
        self, a, b, stiffness: float, length: float | None = None, damping: float = 0.0, blend: float | None = None
    ):
        """Add a unilateral spring, smooth between slack and taut over ±`blend` m.

        `blend` defaults to 1e-4 of the rest length: choose it below the stretch mg/k under the resting load,
        so that a hanging load lies in the linear part.
        """
        length = self._distance(a, b) if length is None else length
        return self._join(a, b, stiffness, length, damping, True, 1e-4 * length if blend is None else blend)

    def chain(self, nodes, **cable):
        """Join consecutive `nodes` by cables with the arguments of `cable`; returns the springs' indices."""
        return [self.cable(a, b, **cable) for a, b in zip(nodes, nodes[1:], strict=False)]

    def grid(self, corner, along, across, rows: int, columns: int, mass: float, stretch, shear, bend):
        """A rectangular cloth of rows × columns points, `mass` kg in all, and its faces to draw.

        corner: (d,) m, of point (0, 0); the others lie at corner + i·along + j·across
        stretch, shear, bend: N/m, of the springs to the next point in a row or column, to the next on both diagonals,
            and to the next but one in a row or column
        Returns the nodes as rows of columns.
        """
        corner, along, across = (np.asarray(v, dtype=float) for v in (corner, along, across))
        nodes = [
            [self.point(corner + i * along + j * across, mass / (rows * columns)) for j in range(columns)]
            for i in range(rows)
        ]
        for stiffness, steps in ((stretch, ((0, 1), (1, 0))), (shear, ((1, 1), (1, -1))), (bend, ((0, 2), (2, 0)))):
            for i, row in enumerate(nodes):
                for j, node in enumerate(row):
                    for down, right in steps:
                        if i + down < rows and 0 <= j + right < columns:
                            self.spring(node, nodes[i + down][j + right], stiffness)
        for i in range(rows - 1):
            for j in range(columns - 1):
                a, b, c, e = nodes[i][j], nodes[i][j + 1], nodes[i + 1][j], nodes[i + 1][j + 1]
                self.triangle(a, b, c)
                self.triangle(b, e, c)
        return nodes

    def plane(self, normal, offset: float, stiffness: float, blend: float, friction: float = 0.0, tangential=0.0):
        """Add the half space normal · x ≥ offset, in which points stay: a table, an incline, a wall.

        A point with gap g = normal · x − offset is pushed out by a normal force that is, up to sign, a cable's tension
        at the elongation −g (see `energy.unilateral`), and held by Coulomb friction made smooth (see `friction`).
        `tangential` is k_t in N/m.
        """
        normal = self._vector("plane normal", normal)
        length = _norm(normal)
        expect(length > 0, f"{self.name}.plane normal", "a vector of length > 0", normal.tolist())
        self._planes.append((normal / length, offset, stiffness, blend, friction, tangential))

    def triangle(self, a, b, c):
        """Add a face to draw."""
        self._triangles.append((a, b, c))

    def build(self) -> System:
        """Check everything and return the frozen `System`; raises `InputError` naming the field."""
        P = len(self._points)
        axes = np.zeros((len(self._handles) * self.dim, len(self._actuated)))
        for column, (handle, axis) in enumerate(self._actuated):
            axes[handle * self.dim + axis, column] = 1.0

        def number(node):
            return node[1] + (P if node[0] == "handle" else 0)

        columns = list(zip(*self._springs, strict=True)) or [()] * 7
        planes = list(zip(*self._planes, strict=True)) or [()] * 6
        return System(
            name=self.name,
            rest=np.reshape(self._points, (-1, self.dim)),
            mass=np.array(self._mass, dtype=float),
            home=np.reshape(np.array(self._handles, dtype=float), (-1, self.dim)),
            axes=axes,
            ends=np.reshape(
                [(number(a), number(b)) for a, b in zip(columns[0], columns[1], strict=True)], (-1, 2)
            ).astype(int),
            stiffness=columns[2],
            length=columns[3],
            damping=columns[4],
            unilateral=columns[5],
            blend=columns[6],
            gravity=self.gravity,
            triangles=np.reshape([[number(n) for n in t] for t in self._triangles], (-1, 3)).astype(int),
            normal=np.reshape(np.array(planes[0], dtype=float), (-1, self.dim)),
            offset=planes[1],
            contact_stiffness=planes[2],
            contact_blend=planes[3],
            friction=planes[4],
            tangential_stiffness=planes[5],
        )

    def _join(self, a, b, stiffness, length, damping, unilateral, blend):
        length = self._distance(a, b) if length is None else length
        self._springs.append((a, b, stiffness, length, damping, unilateral, blend))
        return len(self._springs) - 1

    def _position(self, node):
        kind, index = node
        return (self._points if kind == "point" else self._handles)[index]

    def _distance(self, a, b):
        return _norm(self._position(a) - self._position(b))

    def _vector(self, what, position):
        vector = np.asarray(position, dtype=float)
        expect(vector.shape == (self.dim,), f"{self.name}.{what} position", f"{self.dim} numbers", position)
        return vector


def _norm(vector) -> float:
    """‖vector‖, the same on every machine: NumPy's is BLAS's, whose last bit, and `System.digest`, are a CPU's."""
    return math.sqrt(math.fsum(x * x for x in vector.tolist()))
