"""Implicit, differentiable simulation of mass-spring systems in Taichi, on torch tensors.

>>> import taichi_sim
>>> taichi_sim.init("cpu")  # once per process
"""

import os

os.environ.setdefault("ENABLE_TAICHI_HEADER_PRINT", "0")

from .builder import Builder
from .errors import InputError  # noqa: E402
from .runtime import init  # noqa: E402
from .simulator import Simulator  # noqa: E402
from .statics import equilibrium  # noqa: E402
from .system import System  # noqa: E402
from .trajectory import GaussNewtonStep, Gradient, State, Status, Trajectory  # noqa: E402

__all__ = [
    "Builder",
    "GaussNewtonStep",
    "Gradient",
    "InputError",
    "Simulator",
    "State",
    "Status",
    "System",
    "Trajectory",
    "equilibrium",
    "init",
]
