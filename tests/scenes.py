"""Cameras and rows to draw."""

import numpy as np
import pytest

from taichi_sim import Builder

SIZE = (480, 270)
ANGLES = [(0.0, 0.0), (0.7, 0.4), (-2.5, -1.2), (3.0, 1.5)]
every_angle = pytest.mark.parametrize("azimuth, elevation", ANGLES)


def hung(dim=3):
    """A point on a cable of 0.5 m, taut and slack within 0.1 mm."""
    b = Builder("hung", dim)
    home = (0.0,) * dim
    b.cable(b.handle(home, axes="x"), b.point((*home[1:], -0.5), mass=0.05), stiffness=1000.0, blend=1e-4)
    return b.build()


def copies(row, n):
    return np.repeat(row[None], n, 0)
