"""A mechanical system as data: mass points, handles and the springs between them.

Nodes are numbered points first, then handles: node i < P is point i, node P + j is handle j. The last
coordinate axis points up. All units are SI.
"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from .errors import InputError, expect

GRAVITY = 9.81  # m/s^2


@dataclasses.dataclass(frozen=True, eq=False)
class System:
    """Mass points joined to each other and to moving handles by springs. Made by `Builder`.

    name: what error messages and files call it
    rest: (P, d) m, positions of the points as built; the first guess for equilibria
    mass: (P,) kg
    home: (H, d) m, handle positions as built
    axes: (H·d, m), the matrix E of  p[t+1] = p[t] + h · E a[t]
    ends: (S, 2) the two nodes of each spring
    stiffness: (S,) N/m
    length: (S,) m, rest length
    unilateral: (S,) bool, True for a cable, which pulls but never pushes
    blend: (S,) m, half width ε of a cable's transition between slack and taut
    damping: (S,) N·s/m, along the spring
    gravity: (d,) m/s^2
    triangles: (T, 3) nodes of each face to draw
    """

    name: str
    rest: np.ndarray
    mass: np.ndarray
    home: np.ndarray
    axes: np.ndarray
    ends: np.ndarray
    stiffness: np.ndarray
    length: np.ndarray
    unilateral: np.ndarray
    blend: np.ndarray
    damping: np.ndarray
    gravity: np.ndarray
    triangles: np.ndarray

    def __post_init__(self):
        for name, dtype, shape in (
            ("rest", np.float64, (None, None)),
            ("mass", np.float64, (None,)),
            ("home", np.float64, (None, None)),
            ("axes", np.float64, (None, None)),
            ("ends", np.int32, (None, 2)),
            ("stiffness", np.float64, (None,)),
            ("length", np.float64, (None,)),
            ("unilateral", np.bool_, (None,)),
            ("blend", np.float64, (None,)),
            ("damping", np.float64, (None,)),
            ("gravity", np.float64, (None,)),
            ("triangles", np.int32, (None, 3)),
        ):
            array = np.array(getattr(self, name), dtype=dtype)
            fits = array.ndim == len(shape) and all(
                n in (None, have) for n, have in zip(shape, array.shape, strict=False)
            )
            expect(fits, f"{self.name}.{name}", f"shape {shape}", array.shape)
            expect(np.isfinite(array).all(), f"{self.name}.{name}", "finite numbers", array.tolist())
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        self._check()

    def _check(self):
        P, d, H, S = self.points, self.dim, self.handles, self.springs

        def every(field, good, expected):
            bad = np.flatnonzero(~np.asarray(good))
            if bad.size:
                found = f"{getattr(self, field)[bad[0]]} at index {bad[0]}"
                raise InputError(f"{self.name}.{field}: expected {expected}, got {found}")

        expect(P >= 1, f"{self.name}.rest", "at least one point", P)
        expect(d in (2, 3), f"{self.name}.rest", "points in 2 or 3 dimensions", d)
        for field, shape in (
            ("mass", (P,)),
            ("home", (H, d)),
            ("gravity", (d,)),
            ("axes", (H * d, self.actions)),
            *((name, (S,)) for name in ("stiffness", "length", "unilateral", "blend", "damping")),
        ):
            found = getattr(self, field).shape
            expect(found == shape, f"{self.name}.{field}", f"shape {shape}", found)
        every("mass", self.mass > 0, "mass > 0 kg")
        every("stiffness", self.stiffness > 0, "stiffness > 0 N/m")
        every("length", self.length >= 0, "rest length >= 0 m")
        every("damping", self.damping >= 0, "damping >= 0 N·s/m")
        every("blend", ~self.unilateral | (self.blend > 0), "a blend width > 0 m for each cable")
        every("ends", ((self.ends >= 0) & (self.ends < P + H)).all(1), f"nodes in 0..{P + H - 1}")
        every("ends", self.ends[:, 0] != self.ends[:, 1], "two different nodes")
        every("ends", (self.ends < P).any(1), "at least one mass point, not two handles")
        every("triangles", ((self.triangles >= 0) & (self.triangles < P + H)).all(1), f"nodes in 0..{P + H - 1}")

    @property
    def points(self) -> int:
        return self.rest.shape[0]

    @property
    def dim(self) -> int:
        return self.rest.shape[1]

    @property
    def handles(self) -> int:
        return self.home.shape[0]

    @property
    def actions(self) -> int:
        """m, the number of actuated handle coordinates."""
        return self.axes.shape[1]

    @property
    def springs(self) -> int:
        return self.ends.shape[0]

    @property
    def state_size(self) -> int:
        """n_s = m + 2·P·d: actuated handle coordinates, positions, velocities."""
        return self.actions + 2 * self.points * self.dim

    def digest(self) -> str:
        """A hash of everything that can change the motion (not of the name or the drawing)."""
        sha = hashlib.sha256()
        for field in dataclasses.fields(self):
            if field.name not in ("name", "triangles"):
                sha.update(field.name.encode() + getattr(self, field.name).tobytes())
        return sha.hexdigest()


class Builder:
    """Collects points, handles and springs, and builds a `System`.

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
        self._springs, self._triangles = [], []

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
        )

    def _join(self, a, b, stiffness, length, damping, unilateral, blend):
        length = self._distance(a, b) if length is None else length
        self._springs.append((a, b, stiffness, length, damping, unilateral, blend))
        return len(self._springs) - 1

    def _position(self, node):
        kind, index = node
        return (self._points if kind == "point" else self._handles)[index]

    def _distance(self, a, b):
        return float(np.linalg.norm(self._position(a) - self._position(b)))

    def _vector(self, what, position):
        vector = np.asarray(position, dtype=float)
        expect(vector.shape == (self.dim,), f"{self.name}.{what} position", f"{self.dim} numbers", position)
        return vector
