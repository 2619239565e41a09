"""Where one looks from; which pixel shows a point."""

from __future__ import annotations

import dataclasses

import numpy as np

NEAR, FAR = 0.01, 200.0  # m, in front of the eye
STEEPEST = 1.55  # rad, elevation that still has an up


@dataclasses.dataclass(frozen=True)
class Camera:
    """A perspective camera that looks at `target`; the z axis points up in the picture.

    target: (3,) m
    distance: m, of the eye from the target
    azimuth, elevation: rad; at 0, 0 the eye looks along +y
    fov: degrees, vertical
    """

    target: tuple[float, float, float]
    distance: float
    azimuth: float = 0.0
    elevation: float = 0.0
    fov: float = 35.0

    @property
    def eye(self) -> np.ndarray:
        """(3,) m"""
        a, e = self.azimuth, self.elevation
        away = np.array([np.sin(a) * np.cos(e), -np.cos(a) * np.cos(e), np.sin(e)])
        return np.asarray(self.target) + self.distance * away

    @staticmethod
    def fitting(low, high, aspect: float, azimuth: float = 0.0, elevation: float = 0.0) -> Camera:
        """The camera that has the box from `low` to `high` (3,) just in the picture, `aspect` times as wide as high."""
        low, high = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
        corners = np.array(np.meshgrid(*np.stack((low, high), 1))).reshape(3, -1).T
        camera = Camera(tuple((low + high) / 2), 1.0, azimuth, elevation)
        right, up, ahead = camera._frame()
        offset = corners - camera.target
        tangent = np.tan(np.radians(camera.fov) / 2)
        reach = np.maximum(np.abs(offset @ up) / tangent, np.abs(offset @ right) / (aspect * tangent))
        return dataclasses.replace(camera, distance=float((reach - offset @ ahead).max()))

    def orbit(self, azimuth: float, elevation: float) -> Camera:
        """Turned around the target by so many radians."""
        steep = float(np.clip(self.elevation + elevation, -STEEPEST, STEEPEST))
        return dataclasses.replace(self, azimuth=self.azimuth + azimuth, elevation=steep)

    def zoom(self, factor: float) -> Camera:
        return dataclasses.replace(self, distance=float(np.clip(self.distance * factor, 10 * NEAR, FAR / 4)))

    def at(self, target) -> Camera:
        return dataclasses.replace(self, target=tuple(float(c) for c in target))

    def shifted(self, share: float) -> Camera:
        """Moved to the left, so that what was in the middle lies right of it by `share` of the picture's height."""
        height = 2 * self.distance * np.tan(np.radians(self.fov) / 2)
        return self.at(np.asarray(self.target) - share * height * self._frame()[0])

    def project(self, points: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (n, 2), x right and y down, of points (n, 3), and their depth (n,) m, in a picture of `size`."""
        right, up, ahead = self._frame()
        offset = np.asarray(points) - self.eye
        depth = offset @ ahead
        scale = size[1] / (2 * np.tan(np.radians(self.fov) / 2) * np.maximum(depth, NEAR))
        return np.stack((size[0] / 2 + scale * (offset @ right), size[1] / 2 - scale * (offset @ up)), -1), depth

    def _frame(self):
        """Unit vectors to the right, up and ahead."""
        a, e = self.azimuth, self.elevation
        right = np.array([np.cos(a), np.sin(a), 0.0])
        ahead = -np.array([np.sin(a) * np.cos(e), -np.cos(a) * np.cos(e), np.sin(e)])
        return right, np.cross(right, ahead), ahead
