"""A square of cloth, held by its corners, to be laid flat on a table."""

from taichi_sim import Builder

from .reward import Quadratic
from .shake import Lift
from .task import Task

SIDE = 5  # points
MASS = 0.1  # kg together, paper table 2
SPACING = 0.1  # m between neighbours
STRETCH, SHEAR, BEND = 100.0, 30.0, 1.0  # N/m
GRIP = 100.0  # N/m, of the springs of no length between the grips and the corners
TABLE = 400.0  # N/m
TABLE_BLEND = 1e-3  # m
FRICTION = 0.4
TANGENTIAL = 100.0  # N/m: a point that lies still creeps, at 1 cm/s friction is at 3/4 of its limit

H, STEPS = 0.016, 60  # paper A.2
LIMIT = 1.0  # m/s: the way down takes up to a third of the horizon


def system(side: int = SIDE, spacing: float = SPACING):
    """The paper's cloth, or a finer one; the grips are free in 3D."""
    b = Builder("cloth", 3)
    half = spacing * (side - 1) / 2
    grid = b.grid((-half, -half, 0.0), (spacing, 0.0, 0.0), (0.0, spacing, 0.0), side, side, MASS, STRETCH, SHEAR, BEND)
    for i, x in ((0, -half), (-1, half)):
        for j, y in ((0, -half), (-1, half)):
            b.spring(b.handle((x, y, 0.0), axes="xyz"), grid[i][j], GRIP, length=0.0)
    b.plane((0.0, 0.0, 1.0), 0.0, TABLE, TABLE_BLEND, FRICTION, TANGENTIAL)
    return b.build()


def task() -> Task:
    reward = Quadratic(w_p=1.0, w_x=1.0, w_v=0.02, w_a=0.01)
    return Task("cloth-lay", system(), H, STEPS, LIMIT, reward, Lift())


TASKS = {"cloth-lay": task}
