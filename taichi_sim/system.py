"""A mechanical system as data: mass points, handles, the springs between them and planes to lie on.

Nodes are numbered points first, then handles: node i < P is point i, node P + j is handle j. The last
coordinate axis points up. All units are SI.
"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from .errors import InputError, expect

CONTACT = ("normal", "offset", "contact_stiffness", "contact_blend", "friction", "tangential_stiffness")


@dataclasses.dataclass(frozen=True, eq=False)
class System:
    """Mass points joined to each other and to moving handles by springs, above planes. Made by `Builder`.

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
    normal: (K, d), unit normals of the contact planes, which touch every point
    offset: (K,) m; a point's gap to a plane is normal · x − offset
    contact_stiffness: (K,) N/m, of the normal force on a point with a negative gap
    contact_blend: (K,) m, half width ε of its transition between apart and touching
    friction: (K,), Coulomb's coefficient μ
    tangential_stiffness: (K,) N/m, k_t: up to μ f_n friction resists a slip of h‖v_t‖ with k_t h‖v_t‖
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
    normal: np.ndarray
    offset: np.ndarray
    contact_stiffness: np.ndarray
    contact_blend: np.ndarray
    friction: np.ndarray
    tangential_stiffness: np.ndarray

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
            ("normal", np.float64, (None, None)),
            ("offset", np.float64, (None,)),
            ("contact_stiffness", np.float64, (None,)),
            ("contact_blend", np.float64, (None,)),
            ("friction", np.float64, (None,)),
            ("tangential_stiffness", np.float64, (None,)),
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
        P, d, H, S, K = self.points, self.dim, self.handles, self.springs, self.planes

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
            ("normal", (K, d)),
            *((name, (K,)) for name in ("contact_stiffness", "contact_blend", "friction", "tangential_stiffness")),
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
        every("normal", np.abs(np.linalg.norm(self.normal, axis=1) - 1) < 1e-12, "a normal of length 1")
        every("contact_stiffness", self.contact_stiffness > 0, "stiffness > 0 N/m")
        every("contact_blend", self.contact_blend > 0, "a blend width > 0 m")
        every("friction", self.friction >= 0, "a coefficient of friction >= 0")
        slides = (self.friction == 0) | (self.tangential_stiffness > 0)
        slides &= self.tangential_stiffness >= 0
        every("tangential_stiffness", slides, "stiffness > 0 N/m where there is friction")
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
    def planes(self) -> int:
        return self.offset.shape[0]

    @property
    def state_size(self) -> int:
        """n_s = m + 2·P·d: actuated handle coordinates, positions, velocities."""
        return self.actions + 2 * self.points * self.dim

    def conservative(self) -> System:
        """The same system without damping and friction, which rests where this one does."""
        return dataclasses.replace(self, damping=0 * self.damping, friction=0 * self.friction)

    def digest(self) -> str:
        """A hash of everything that can change the motion (not of the name or the drawing)."""
        sha = hashlib.sha256()
        for field in dataclasses.fields(self):
            if field.name not in ("name", "triangles") and (field.name not in CONTACT or self.planes):
                sha.update(field.name.encode() + getattr(self, field.name).tobytes())
        return sha.hexdigest()
