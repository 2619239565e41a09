"""The public face of the simulator: torch tensors in, torch tensors out, on the same memory."""

from __future__ import annotations

import functools
import math
import weakref

import torch

from . import memory, runtime
from .arguments import Arguments, expect_countable
from .errors import InputError, expect
from .kernels import Kernels
from .launch import Launch
from .loops import Loops
from .system import System
from .trajectory import GaussNewtonStep, Gradient, State, Trajectory
from .variables import Scratch

LARGEST_RICCATI = 40  # numbers in its state up to which `gauss_newton` is the recursion, see benchmarks/directions.py
_empty = functools.partial(torch.empty_like, memory_format=torch.contiguous_format)


class Simulator:
    """Implicit, differentiable rollouts of one `System` with time step `h` seconds.

    Tensors live on `device` with `dtype`, both set by `taichi_sim.init`. Contiguous tensors are used where they
    lie, others are copied first. Everything else about an argument that does not fit raises `InputError` before
    a kernel runs.
    """

    def __init__(self, system: System, h: float, loops: Loops | None = None):
        """loops: how kernels go through rollouts and points, see `loops`; by default what suits system and device."""
        expect(isinstance(system, System), "system", "a System", type(system).__name__)
        expect(isinstance(h, int | float) and math.isfinite(h) and h > 0, "h", "a time step > 0 s", h)
        self.system, self.h = system, float(h)
        self.device, self.dtype = runtime.torch_device(), runtime.dtype()
        self._arguments = Arguments(system, self.device, self.dtype)
        self._kernels = Kernels(system, self.h, loops)
        self._launches = weakref.WeakKeyDictionary()  # of `advance`, by trajectory
        self._warm = False

    def start(self, B: int, x=None, v=None, p=None) -> State:
        """B start states; x, v, p default to the system as built, at rest, and broadcast to (B, ·, d)."""
        rest, home = torch.as_tensor(self.system.rest.copy()), torch.as_tensor(self.system.home.copy())
        values = (rest if x is None else x, torch.zeros_like(rest) if v is None else v, home if p is None else p)
        shapes = (rest.shape, rest.shape, home.shape)
        tensors = []
        for name, value, shape in zip(("x", "v", "p"), values, shapes, strict=True):
            tensor = torch.as_tensor(value).to(self.device, self.dtype)
            try:
                tensors.append(tensor.expand(B, *shape).contiguous())
            except RuntimeError:
                raise InputError(
                    f"{name}: expected ({B}, {', '.join(map(str, shape))}), got {tuple(tensor.shape)}"
                ) from None
        return State.start(*tensors)

    # Forward

    def rollout(self, start: State, actions: torch.Tensor) -> Trajectory:
        """N steps from `start` with `actions` (B, N, m); differentiable where an input requires grad.

        The gradient is the adjoint of the converged steps. Failed rollouts have zero gradient, see `Status`.
        """
        start = self._arguments.start(start)
        actions = self._arguments.tensor("actions", actions, (len(start), None, self.system.actions))
        expect(actions.shape[1] >= 1, "actions", "at least one step", tuple(actions.shape))
        inputs = (start.x, start.v, start.p, start.x_prev, start.v_prev, actions)
        if torch.is_grad_enabled() and any(i.requires_grad for i in inputs):
            self._warm_up()
            x, v, p, status, iterations = _Rollout.apply(self, start.first, *inputs)
            return Trajectory(x, v, p, actions, status, iterations, start)
        trajectory = self._begin(start.detach(), actions.detach())
        self._prepared(trajectory)(t1=actions.shape[1])
        return trajectory

    def step(self, state: State, action: torch.Tensor) -> tuple[State, torch.Tensor]:
        """One step with `action` (B, m): the next state, history included, and the status (B,).

        Chained steps equal `rollout`, bit for bit.
        """
        action = self._arguments.tensor("action", action, (len(state), self.system.actions))
        trajectory = self.rollout(state, action[:, None])
        return trajectory.state(1), trajectory.status[:, 0]

    def begin(self, start: State, N: int) -> Trajectory:
        """An empty trajectory of N steps for a closed loop: write a[:, t], then call `advance(trajectory, t)`."""
        start = self._arguments.start(start.detach())
        return self._begin(start, torch.zeros(len(start), N, self.system.actions, dtype=self.dtype, device=self.device))

    def advance(self, trajectory: Trajectory, t: int):
        """Fill row t+1 from row t and a[:, t], in place. A rollout whose action is not finite gets a status."""
        expect(0 <= t < trajectory.a.shape[1], "t", f"a step from 0 to {trajectory.a.shape[1] - 1}", t)
        launch = self._launches.get(trajectory)
        if launch is None:
            launch = self._launches[trajectory] = self._prepared(trajectory)
        launch(h=self.h, t0=t, t1=t + 1)

    # Sensitivities

    def vjp(self, trajectory: Trajectory, gx=None, gv=None, gp=None) -> Gradient:
        """dL/d(start, actions) from ∂L/∂x (B, N+1, P, d), ∂L/∂v, ∂L/∂p, by one adjoint sweep.

        L's own dependence on the actions is not included: add ∂L/∂a.
        """
        rows = []
        for name, g, like in (("gx", gx, trajectory.x), ("gv", gv, trajectory.v), ("gp", gp, trajectory.p)):
            given = torch.zeros_like(like) if g is None else g
            rows.append(self._arguments.tensor(name, given, like.shape, finite=False))
        starts = [_empty(getattr(trajectory.start, name)) for name in ("x", "v", "p", "x_prev", "v_prev")]
        ga = _empty(trajectory.a)
        flat = [r.flatten(2) for r in rows] + [s.flatten(1) for s in starts]
        self._kernels.vjp(*self._rows(trajectory), *flat, ga)
        return Gradient(*starts, ga)

    def jvp(self, trajectory: Trajectory, da: torch.Tensor, start: State | None = None):
        """δx, δv, δp of every row, shaped like the trajectory, for δa (B, N, m) and tangents of the start."""
        da = self._arguments.tensor("da", da, trajectory.a.shape)
        rows = (trajectory.x, trajectory.v, trajectory.p)
        start = State.start(*(torch.zeros_like(row[:, 0]) for row in rows)) if start is None else start
        start = self._arguments.start(start)
        dx, dv, dp = (_empty(row) for row in rows)
        dx[:, 0], dv[:, 0], dp[:, 0] = start.x, start.v, start.p
        flat = (start.x_prev.flatten(1), start.v_prev.flatten(1), dx.flatten(2), dv.flatten(2), dp.flatten(2))
        self._kernels.jvp(*self._rows(trajectory), da, *flat)
        return dx, dv, dp

    def jacobian(self, trajectory: Trajectory) -> torch.Tensor:
        """ds/da (B, N, n_s, N, m), block lower triangular; rows [actuated p, x, v] of row t+1 (paper, A.4)."""
        B, N, m = trajectory.a.shape
        many = self._kernels.many
        groups = -(-N * m // many)
        expect_countable(B, N * self.system.state_size * groups * many)
        S = runtime.zeros(B, N, self.system.state_size, groups, many)
        self._kernels.jacobian(*self._rows(trajectory), S.flatten(0, 3))
        return S.flatten(3)[..., : N * m].unflatten(-1, (N, m))

    def gauss_newton(self, trajectory: Trajectory, g, q, r, damping=None, free=None, tolerance=1e-10):
        """argmin ½ δaᵀĤδa + gᵀδa with Ĥ = SᵀQS + R + damping·I (paper, Eq. 13), by the faster of two methods.

        g: (B, N, m), the cost's total derivative by the actions
        q: (1 or B, N, n_s) ≥ 0, the cost's second derivatives by [actuated p, x, v] of row t+1
        r: (1 or B, N, m) > 0, by the actions        damping: (B,) ≥ 0
        free: (B, N, m) bool; where False, δa = 0
        tolerance: of ‖Ĥδa + g‖/‖g‖ over the free actions, where the method is iterative

        A rollout with a failed step gets δa = 0.
        """
        if self.direct:
            return self._riccati(trajectory, g, q, r, damping, free, feedback=False)
        return self.gauss_newton_cg(trajectory, g, q, r, damping, free, tolerance)

    @property
    def direct(self) -> bool:
        """Whether `gauss_newton` is the Riccati recursion: the faster one for small systems, see benchmarks/."""
        return self._kernels.riccati.n <= LARGEST_RICCATI

    def gauss_newton_riccati(self, trajectory: Trajectory, g, q, r, damping=None, free=None) -> GaussNewtonStep:
        """`gauss_newton` by a Riccati recursion, O(N n³): exact, with gains and curvature."""
        return self._riccati(trajectory, g, q, r, damping, free, feedback=True)

    def gauss_newton_boxed(self, trajectory: Trajectory, limit: float, goal, g, q, r, damping=None) -> GaussNewtonStep:
        """`gauss_newton` with |a + δa| ≤ limit, by recursions, see `box`.

        goal: (B,), the norm of the model's projected gradient at which a rollout is done
        """
        expect(limit > 0, "limit", "a bound > 0 m/s", limit)
        g, q, r, damping, free = self._arguments.model(trajectory.a.shape, g, q, r, damping, None)
        B, N, m = g.shape
        goal = self._arguments.tensor("goal", goal, (B,))
        step, image, a = torch.zeros_like(g), torch.zeros_like(g), trajectory.a.detach().contiguous()
        iterations = torch.zeros(B, dtype=torch.int32, device=self.device)
        kernels = self._kernels
        for part, linear in self._linear(trajectory):
            count = len(g[part])
            slope, newton, trial, bent = (torch.empty_like(g[part]) for _ in range(4))
            gains = kernels.allocate(count, N * m * kernels.riccati.n)
            scratch = (kernels.allocate(count, N * kernels.boxed.row), free[part], gains, slope, newton, trial, bent)
            model = _of(part, B, goal, g, q, r, damping)
            out = (step[part], image[part], iterations[part])
            kernels.solve_boxed(*linear, *scratch, a[part], float(limit), *model, *out)
        return GaussNewtonStep(step, image=image, iterations=iterations)

    def gauss_newton_cg(
        self, trajectory: Trajectory, g, q, r, damping=None, free=None, tolerance=1e-10, limit=10_000
    ) -> GaussNewtonStep:
        """`gauss_newton` by at most `limit` conjugate gradient iterations, each O(N) in time; memory O(N)."""
        expect(0 < tolerance < 1, "tolerance", "a number between 0 and 1", tolerance)
        g, q, r, damping, free = self._arguments.model(trajectory.a.shape, g, q, r, damping, free)
        B, N, _ = g.shape
        da, image = torch.zeros_like(g), torch.zeros_like(g)
        iterations = torch.zeros(B, dtype=torch.int32, device=self.device)
        kernels = self._kernels
        rows = self._rows(trajectory, kernels.scratch_of_one)
        store = kernels.allocate(-(-B // kernels.cg.many), kernels.cg.store(N) * kernels.cg.many)
        kernels.solve_cg(*rows, store, g, q, r, damping, free, float(tolerance), int(limit), da, image, iterations)
        return GaussNewtonStep(da, iterations=iterations, image=image)

    def bytes_per_gradient(self, N: int) -> int:
        """The memory of N steps' rows and cotangents, of the gradient by start and actions, and of kernels' scratch."""
        return memory.of_gradient(self.system, self._kernels, N)

    def bytes_per_rollout(self, N: int) -> int:
        """The memory that a rollout of N steps takes through a Gauss–Newton step, for choosing a batch that fits."""
        return memory.of_improvement(self.system, self._kernels, N, self.direct)

    # Inside

    def _riccati(self, trajectory: Trajectory, g, q, r, damping, free, feedback: bool) -> GaussNewtonStep:
        """With `feedback` also gains and curvature, of which there are many times as many numbers as actions."""
        g, q, r, damping, free = self._arguments.model(trajectory.a.shape, g, q, r, damping, free)
        B, N, m = g.shape
        n, many = self._kernels.riccati.n, self._kernels.part(B, N)
        expect_countable(many, N * m * n)
        da, kept = torch.zeros_like(g), B if feedback else many
        gains, curvature = g.new_zeros(kept, N, m, n), g.new_zeros(kept, N, m, m)
        for part, linear in self._linear(trajectory):
            own = part if feedback else slice(len(g[part]))
            model = _of(part, B, g, q, r, damping, free)
            self._kernels.solve_riccati(*linear, *model, da[part], gains[own].flatten(), curvature[own])
        return GaussNewtonStep(da, gains, curvature) if feedback else GaussNewtonStep(da)

    def _linear(self, trajectory: Trajectory):
        """Parts of the rollouts, each with what the recursions take first: h, whether a step is the first, status,
        linearised steps, scratch."""
        B, N, _ = trajectory.a.shape
        kernels = self._kernels
        many = kernels.part(B, N)
        store, maps = (kernels.allocate(many, n) for n in (kernels.riccati.store, N * kernels.linearisation.size))
        for begin in range(0, B, many):
            part = slice(begin, begin + many)
            h, first, *_, status, _ = rows = self._rows(trajectory[part])
            kernels.linearise(*rows, 1 if kernels.steps_apart else N, maps)
            yield part, (h, first, status, maps, store)

    def _begin(self, start: State, actions: torch.Tensor) -> Trajectory:
        B, N, _ = actions.shape
        expect_countable(B, (N + 1) * max(start.x[0].numel(), start.p[0].numel()))

        def rows(first):
            tensor = torch.empty(B, N + 1, *first.shape[1:], dtype=self.dtype, device=self.device)
            tensor[:, 0] = first
            return tensor

        counts = torch.zeros(2, B, N, dtype=torch.int32, device=self.device)
        return Trajectory(rows(start.x), rows(start.v), rows(start.p), actions, counts[0], counts[1], start)

    def _prepared(self, trajectory: Trajectory) -> Launch:
        """The rollout's kernel on these rows, from row 0 on. It keeps their memory and its own, not the trajectory."""
        start, kernels, B = trajectory.start, self._kernels, len(trajectory)
        rows = (trajectory.x.flatten(), trajectory.v.flatten(), trajectory.p.flatten())
        past = (start.first.contiguous().view(torch.uint8), start.x_prev.flatten(1), start.v_prev.flatten(1))
        work = kernels.allocate(B, kernels.scratch.size)
        quick = kernels.allocate(B, kernels.quick.size, kernels.quick_dtype)
        counts = (trajectory.status, trajectory.iterations)
        return Launch(kernels.run, (self.h, 0, 0, *past, trajectory.a, *rows, work, quick, *counts))

    def _rows(self, trajectory: Trajectory, scratch: Scratch | None = None):
        """What every sweep takes first: h, the rows and scratch, by default that of rollouts."""
        a, *rows = self._arguments.rows(trajectory)
        flat = (row.flatten(2) for row in rows)
        work = self._kernels.allocate(len(trajectory), (scratch or self._kernels.scratch).size)
        first, status = trajectory.start.first.contiguous().view(torch.uint8), trajectory.status.contiguous()
        return self.h, first, a, *flat, status, work

    def _warm_up(self):
        """Compile the adjoint now: torch runs CUDA backwards on a thread of its own, where Taichi cannot."""
        if self.device.type == "cuda" and not self._warm:
            zero = torch.zeros(1, 1, self.system.actions, dtype=self.dtype, device=self.device)
            self.vjp(self.rollout(self.start(1), zero))
            self._warm = True


def _of(part: slice, B: int, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """A part of B rollouts; one row for all of them stays."""
    return [tensor[part] if len(tensor) == B else tensor for tensor in tensors]


class _Rollout(torch.autograd.Function):
    """Ties `Simulator.rollout` to its adjoint."""

    @staticmethod
    def forward(ctx, simulator, first, x, v, p, x_prev, v_prev, actions):
        trajectory = simulator._begin(State(x, v, p, x_prev, v_prev, first).detach(), actions.detach())
        simulator._prepared(trajectory)(t1=actions.shape[1])
        # Saved by torch, not on ctx: outputs held there keep themselves alive for ever.
        ctx.simulator, ctx.first = simulator, first
        ctx.save_for_backward(x_prev, v_prev, actions, trajectory.x, trajectory.v, trajectory.p, trajectory.status)
        ctx.mark_non_differentiable(trajectory.status, trajectory.iterations)
        return trajectory.x, trajectory.v, trajectory.p, trajectory.status, trajectory.iterations

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gx, gv, gp, *_):
        x_prev, v_prev, a, *rows, status = (tensor.detach() for tensor in ctx.saved_tensors)
        start = State(rows[0][:, 0], rows[1][:, 0], rows[2][:, 0], x_prev, v_prev, ctx.first)
        g = ctx.simulator.vjp(Trajectory(*rows, a, status, status, start), gx, gv, gp)
        return None, None, g.x, g.v, g.p, g.x_prev, g.v_prev, g.a
