"""NVIDIA Warp: semi-implicit Euler with `wp.Tape` gradients, as in Newton's SolverSemiImplicit.

Newton's own springs push as well as pull and divide by their length, so that it has neither the rope's cables nor the
cloth's grips of no length; these are its equations with our forces, in one kernel instead of three. The first velocity
update may go half a time step only, after which velocities lie between the positions (leapfrog): a choice that costs
nothing and that makes it second order where stability leaves room for that. Launches are recorded once and replayed
as a graph. Warp runs a CPU kernel on one thread.

Unlike us and JAX it computes in float32, its default. Its fine solution was ours to 5e-6 m (rope) and 1e-4 m (double
pendulum, cloth); the run stops if it is not to a fifth of our error.
"""

from __future__ import annotations

import itertools

import numpy as np
import warp as wp

from .problem import ERROR_STEPS, REFINEMENT, Problem, rms
from .timing import Candidate, compile_seconds
from .warp_kernels import Tables, add_distance, move, substep

wp.config.log_level = wp.LOG_ERROR
SUBSTEPS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64, 96, 128, 192, 256)
FINE = (256, True)


class Batch:
    """All rollouts of a problem with `count` time steps in each h."""

    def __init__(self, problem: Problem, count: int, leapfrog: bool, taped: bool):
        task, system = problem.task, problem.task.system
        self.problem, self.count, self.leapfrog = problem, count, leapfrog
        self.h, self.dt = task.h, task.h / count
        self.B, self.N, _ = problem.actions.shape
        self.P, self.H = system.points, system.handles
        planes = zip(
            system.normal.tolist(),
            system.offset.tolist(),
            system.contact_stiffness.tolist(),
            system.contact_blend.tolist(),
            system.friction.tolist(),
            (system.tangential_stiffness * task.h).tolist(),
            strict=True,
        )
        self.kernel = substep(self.P, tuple((tuple(n), *rest) for n, *rest in planes))
        self.tables = Tables(system)
        self.gravity = wp.vec3(*system.gravity.tolist())
        self.goal = self.vectors(task.goal.numpy())
        velocity = (problem.actions.numpy() @ system.axes.T).reshape(self.B, self.N, self.H, 3)
        self.w = [self.vectors(velocity[:, t], taped) for t in range(self.N)]
        start = problem.start
        # With a tape every row is kept; without one, two take turns.
        rows = self.N * count + 1 if taped else 2
        self.x, self.v = ([self.vectors(y.numpy(), taped) for _ in range(rows)] for y in (start.x, start.v))
        self.first = self.vectors(start.x.numpy()), self.vectors(start.v.numpy())
        self.p = [self.vectors(start.p.numpy(), taped) for _ in range(self.N + 1 if taped else 2)]
        self.p_first = self.vectors(start.p.numpy())
        self.loss = wp.zeros(self.B, dtype=float, requires_grad=taped)
        self.tape = wp.Tape() if taped else None
        wp.load_module(self.kernel.module)
        with wp.ScopedCapture() as capture:
            self.record()
        self.graph = capture.graph

    @staticmethod
    def vectors(values, taped=False):
        return wp.array(np.ascontiguousarray(values, dtype=np.float32), dtype=wp.vec3, requires_grad=taped)

    def record(self):
        if self.tape is None:
            wp.copy(self.x[0], self.first[0])
            wp.copy(self.v[0], self.first[1])
            wp.copy(self.p[0], self.p_first)
            self.launch()
            return
        self.loss.zero_()
        with self.tape:
            self.launch()
        for inputs in (*self.w, self.x[0], self.v[0], self.p[0]):  # other gradients are consumed on the way back
            inputs.grad.zero_()
        self.loss.grad.fill_(1.0)
        self.tape.backward()

    def launch(self):
        t = self.tables
        fixed = (self.gravity, t.starts, t.other, t.springs, t.mass)
        last = len(self.x), len(self.p)
        for n in range(self.N):
            p = self.p[n % last[1]]
            for k in range(self.count):
                now, after = (n * self.count + k) % last[0], (n * self.count + k + 1) % last[0]
                kick = 0.5 * self.dt if self.leapfrog and n == k == 0 else self.dt
                wp.launch(
                    self.kernel,
                    (self.B, self.P),
                    [self.dt, kick, k * self.dt, *fixed, p, self.w[n], self.x[now], self.v[now]],
                    [self.x[after], self.v[after]],
                )
            if self.tape is not None:
                wp.launch(add_distance, self.B, [self.x[after], self.goal], [self.loss])
            flat = [self.B * self.H, [self.h, p.flatten(), self.w[n].flatten()]]
            wp.launch(move, *flat, [self.p[(n + 1) % last[1]].flatten()])

    def forward(self) -> np.ndarray:
        wp.capture_launch(self.graph)
        return self.x[self.N * self.count % len(self.x)].numpy()

    def gradient(self) -> np.ndarray:
        """dL/da (B, N, m): the tape's derivative by the handles' velocities, along the axes that actions drive."""
        wp.capture_launch(self.graph)
        slopes = np.stack([w.grad.numpy() for w in self.w], 1)
        return slopes.reshape(self.B, self.N, -1) @ self.problem.task.system.axes


def candidates(problem: Problem, reference: Candidate, threads: int) -> list[Candidate]:
    """The largest time step with which it is as accurate as the reference."""
    compiled = compile_seconds(lambda: Batch(problem.few, 1, True, taped=True))
    fine = Batch(problem.few, *FINE, taped=False).forward()
    half = Batch(problem.few, FINE[0] // 2, FINE[1], taped=False).forward()
    assert rms(fine, half) < 0.1 * reference.error, "Warp's fine solution is not fine enough"
    ours = problem.few.refined(REFINEMENT)
    assert rms(fine, ours) < 0.2 * reference.error, "Warp's fine solution is not ours"
    for count, leapfrog in itertools.product(SUBSTEPS, (True, False)):
        error = rms(Batch(problem.few, count, leapfrog, taped=False).forward(), fine)
        if error <= reference.error and problem.settled(Batch(problem.long, count, leapfrog, taped=False).forward()):
            return [candidate(problem, count, leapfrog, error, compiled)]
    print(f"{problem.name}: Warp is never as accurate, {error:.1e} m at {count} steps per h")
    return []


def candidate(problem: Problem, count: int, leapfrog: bool, error: float, compiled: float) -> Candidate:
    plain, taped = (Batch(problem, count, leapfrog, taped) for taped in (False, True))
    check(problem.first(8, ERROR_STEPS), count, leapfrog)
    name = "leapfrog" if leapfrog else "semi-implicit Euler"
    setting = f"{name}, {1e3 * problem.task.h / count:.3g} ms ({count} per h), float32, 1 thread"
    return Candidate(problem.name, "Warp", setting, error, problem.steps, compiled, plain.forward, taped.gradient)


def check(problem: Problem, count: int, leapfrog: bool):
    """The gradient against the change of the loss along it, and against itself when it is taken again."""
    batch = Batch(problem, count, leapfrog, taped=True)
    slope = batch.gradient()
    assert (slope == batch.gradient()).all()
    way = slope / np.abs(slope).max(axis=(1, 2), keepdims=True)
    losses = []
    for s in (-1e-3, 1e-3):
        batch = Batch(problem.moved(s * way), count, leapfrog, taped=True)
        batch.forward()
        losses.append(batch.loss.numpy().astype(float))
    off = np.median(np.abs((losses[1] - losses[0]) / 2e-3 / (slope * way).sum((1, 2)) - 1))
    assert off < 1e-2, f"Warp's gradient is {off:.1e} off"
