"""MuJoCo: mass points on slide joints, springs as spatial tendons, the handle a mocap body, `mujoco.rollout`.

A cable is a tendon with springlength="0 L", which pulls beyond L and does nothing below: the same stiffness as ours,
without the blend, so that its fine solution is its own. Tendon springs are explicit in the integrators Euler,
implicit (which is implicit in velocity) and RK4; `discrete`, since MuJoCo 3.13, is linearly implicit in their
stiffness too. What of a handle's motion within a time step an integrator is shown, its position at the beginning,
middle or end, is one more thing to choose. Each gets the choice and the largest time step with which it is as
accurate as we are. mujoco.batch, new in 3.17, does the same 3 to 4 % faster.
"""

from __future__ import annotations

import itertools

import mujoco
import numpy as np
from mujoco.rollout import Rollout

from taichi_sim import System

from .problem import Problem, rms
from .timing import Candidate, compile_seconds

INTEGRATORS = ("Euler", "implicitfast", "implicit", "discrete", "RK4")
MOMENTS = (0.0, 0.5, 1.0)  # of a time step, when the handle is looked at
SUBSTEPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128)
FINE = ("RK4", 0.5, 512)
UNUSED = ("constraint", "contact", "warmstart", "sensor", "damper", "autoreset")
CONTROL = mujoco.mjtState.mjSTATE_MOCAP_POS.value


def model(system: System, dt: float, integrator: str) -> mujoco.MjModel:
    """The system as a MuJoCo model; everything that a chain of springs has no use for is switched off."""
    assert not system.planes and not system.damping.any()
    bodies, tendons = [], []
    for j in range(system.handles):
        bodies.append(f'<body name="h{j}" mocap="true"><site name="n{system.points + j}"/></body>')
    for i, mass in enumerate(system.mass.tolist()):
        joints = "".join(f'<joint type="slide" axis="{axis}"/>' for axis in ("1 0 0", "0 1 0", "0 0 1"))
        inertial = f'<inertial pos="0 0 0" mass="{mass!r}" diaginertia="1 1 1"/>'  # nothing turns
        bodies.append(f'<body>{joints}{inertial}<site name="n{i}"/></body>')
    for (i, j), k, length, cable in zip(
        system.ends.tolist(),
        system.stiffness.tolist(),
        system.length.tolist(),
        system.unilateral.tolist(),
        strict=True,
    ):
        slack = f"0 {length!r}" if cable else f"{length!r} {length!r}"
        ends = f'<site site="n{i}"/><site site="n{j}"/>'
        tendons.append(f'<spatial stiffness="{k!r}" springlength="{slack}">{ends}</spatial>')
    off = " ".join(f'{flag}="disable"' for flag in UNUSED)
    gravity = " ".join(map(repr, system.gravity.tolist()))
    return mujoco.MjModel.from_xml_string(f"""
<mujoco>
  <option timestep="{dt!r}" gravity="{gravity}" integrator="{integrator}">
    <flag {off}/>
  </option>
  <worldbody>{"".join(bodies)}</worldbody>
  <tendon>{"".join(tendons)}</tendon>
</mujoco>""")


mujoco.set_mju_user_warning(lambda message: None)  # of settings that are unstable, which are tried as well


class Batch:
    """All rollouts of a problem with `count` time steps in each h."""

    def __init__(self, problem: Problem, integrator: str, moment: float, count: int, threads: int):
        task = problem.task
        self.model = model(task.system, task.h / count, integrator)
        self.data = [mujoco.MjData(self.model) for _ in range(threads)]
        self.pool = Rollout(nthread=threads if threads > 1 else 0)
        B, N, _ = problem.actions.shape
        P, d = task.system.rest.shape
        rows = problem.handles
        share = ((np.arange(count) + moment) / count)[:, None, None]
        between = rows[:, :-1, None] + share * (rows[:, 1:] - rows[:, :-1])[:, :, None]
        self.handles = np.ascontiguousarray(between.reshape(B, N * count, -1))
        start = problem.start
        time = np.zeros((B, 1))
        self.start = np.concatenate((time, start.x.reshape(B, -1).numpy(), start.v.reshape(B, -1).numpy()), 1)
        self.shape = (B, P, d)
        self.out = np.empty((B, N * count, self.start.shape[1]))

    def __call__(self) -> np.ndarray:
        rows, _ = self.pool.rollout(
            self.model, self.data, self.start, self.handles, control_spec=CONTROL, state=self.out
        )
        B, P, d = self.shape
        return rows[:, -1, 1 : 1 + P * d].reshape(self.shape)


def candidates(problem: Problem, reference: Candidate, threads: int) -> list[Candidate]:
    """One of each integrator that can be as accurate as the reference, the fastest setting of it."""
    fine = Batch(problem.few, *FINE, threads)()
    half = Batch(problem.few, *FINE[:2], FINE[2] // 2, threads)()
    assert rms(fine, half) < 0.1 * reference.error, "MuJoCo's fine solution is not fine enough"
    found = []
    for integrator in INTEGRATORS:
        for count, moment in itertools.product(SUBSTEPS, MOMENTS):
            error = rms(Batch(problem.few, integrator, moment, count, threads)(), fine)
            if error <= reference.error and problem.settled(Batch(problem.long, integrator, moment, count, threads)()):
                found.append(candidate(problem, integrator, moment, count, error, threads))
                break
        else:
            print(f"{problem.name}: MuJoCo {integrator} is never as accurate, {error:.1e} m at {count} steps per h")
    return found


def candidate(problem, integrator, moment, count, error, threads) -> Candidate:
    batch = Batch(problem, integrator, moment, count, threads)
    looked = {0.0: "beginning", 0.5: "middle", 1.0: "end"}[moment]
    setting = f"{integrator}, {1e3 * problem.task.h / count:.3g} ms ({count} per h), handle at {looked}"
    return Candidate(problem.name, "MuJoCo", setting, error, problem.steps, compile_seconds(batch), batch)
