"""The public face of the simulator: torch tensors in, torch tensors out, on the same memory."""

from __future__ import annotations

import dataclasses
import math
import weakref

import taichi as ti
import torch

from . import runtime
from .box import boxed_step
from .conjugate import conjugate_gradients
from .elimination import Elimination
from .errors import InputError, expect
from .launch import Kernel, Launch
from .linear import linear_step
from .linearisation import linearisation
from .loops import ABREAST, ALONE, LOOPED, UNROLLED, UNROLLED_UPDATES, Loops, Scratch
from .mechanics import mechanics
from .newton import direction_kind, newton
from .riccati import riccati
from .rollout import rollout
from .sensitivity import sensitivity
from .system import System
from .trajectory import State, Trajectory

MOST_BLOCKS = 1000  # of a Jacobian whose kernels have several lanes
LARGEST_RICCATI = 40  # numbers in its state up to which `gauss_newton` is the recursion, see benchmarks/directions.py


@dataclasses.dataclass(frozen=True, eq=False)
class Gradient:
    """dL/d(start, actions) of a scalar L; shapes of `State` and of the actions."""

    x: torch.Tensor
    v: torch.Tensor
    p: torch.Tensor
    x_prev: torch.Tensor
    v_prev: torch.Tensor
    a: torch.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class GaussNewtonStep:
    """The minimiser of ½ δaᵀĤδa + gᵀδa and what the method says on the way.

    da: (B, N, m) m/s
    gains: (B, N, m, n), K of δa = k + K δs with s = [x, x₋₁, v, v₋₁, π] along the rollout; Riccati only
    curvature: (B, N, m, m), second derivative of the remaining cost by a_t when later actions react optimally;
        Riccati only
    image: (B, N, m), Ĥ δa; conjugate gradients and boxed steps only
    iterations: (B,) int32, of conjugate gradients, or recursions of a boxed step
    """

    da: torch.Tensor
    gains: torch.Tensor | None = None
    curvature: torch.Tensor | None = None
    image: torch.Tensor | None = None
    iterations: torch.Tensor | None = None


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
        one = UNROLLED if _small(system) else ALONE if _fits(system) else LOOPED
        if loops is None:
            loops = one if self.device.type == "cuda" or not _fits(system) else ABREAST
        elif loops.lanes == 1:
            one = loops
        last = self.device.type == "cuda"
        self._scratch = Scratch(loops, last)
        self._scratch_of_one = self._scratch if one is loops else Scratch(one, last)
        self._steps_apart = loops.own and self._scratch.last  # whether a thread for each step of a rollout pays
        kind = float if _small(system) else direction_kind(system, self.h)
        self._quick = Scratch(loops, last, kind, second=True)
        step = self._step(loops, self._scratch)
        step_of_one = step if one is loops else self._step(one, self._scratch_of_one)
        solver = newton(loops)(step.mech, self._scratch, self._quick, torch.finfo(self.dtype).eps)
        self._rollout = rollout(loops)(solver, self._scratch)
        self._sensitivity = sensitivity(loops)(step)
        self._linearisation = linearisation(loops)(step, self._scratch.last)
        self._riccati = riccati(one)(self._linearisation, self._scratch_of_one)
        self._boxed = boxed_step(one)(self._riccati, self._scratch_of_one)
        self._cg = conjugate_gradients(one)(step_of_one, self._scratch_of_one)
        self._run = Kernel(self._rollout.run, quickly=loops.lanes > 1)
        self._vjp, self._jvp = Kernel(self._sensitivity.vjp), Kernel(self._sensitivity.jvp)
        self._jacobian = Kernel(self._sensitivity.jacobian)
        self._linearise = Kernel(self._linearisation.run)
        self._solve_riccati, self._solve_boxed = Kernel(self._riccati.solve), Kernel(self._boxed.solve)
        self._solve_cg = Kernel(self._cg.solve)
        self._launches = weakref.WeakKeyDictionary()  # of `advance`, by trajectory
        self._nothing = torch.empty(1, 1, dtype=self.dtype, device=self.device)
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
        start, actions = (
            self._check_start(start),
            self._check("actions", actions, (len(start), None, self.system.actions)),
        )
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
        action = self._check("action", action, (len(state), self.system.actions))
        trajectory = self.rollout(state, action[:, None])
        return trajectory.state(1), trajectory.status[:, 0]

    def begin(self, start: State, N: int) -> Trajectory:
        """An empty trajectory of N steps for a closed loop: write a[:, t], then call `advance(trajectory, t)`."""
        start = self._check_start(start.detach())
        return self._begin(start, torch.zeros(len(start), N, self.system.actions, dtype=self.dtype, device=self.device))

    def advance(self, trajectory: Trajectory, t: int):
        """Fill row t+1 from row t and a[:, t], in place. A rollout whose action is not finite gets a status."""
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
            rows.append(torch.zeros_like(like) if g is None else self._check(name, g, like.shape, finite=False))
        start = trajectory.start
        starts = [torch.empty_like(s) for s in (start.x, start.v, start.p, start.x_prev, start.v_prev)]
        ga = torch.empty_like(trajectory.a)
        flat = [r.flatten(2) for r in rows] + [s.flatten(1) for s in starts]
        self._vjp(*self._rows(trajectory, self._scratch), *flat, ga)
        return Gradient(*starts, ga)

    def jvp(self, trajectory: Trajectory, da: torch.Tensor, start: State | None = None):
        """δx, δv, δp of every row, shaped like the trajectory, for δa (B, N, m) and tangents of the start."""
        da = self._check("da", da, trajectory.a.shape)
        dx, dv, dp = (torch.zeros_like(rows) for rows in (trajectory.x, trajectory.v, trajectory.p))
        dx_prev, dv_prev = torch.zeros_like(trajectory.start.x), torch.zeros_like(trajectory.start.v)
        if start is not None:
            start = self._check_start(start)
            dx[:, 0], dv[:, 0], dp[:, 0] = start.x, start.v, start.p
            dx_prev, dv_prev = start.x_prev, start.v_prev
        flat = (dx_prev.flatten(1), dv_prev.flatten(1), dx.flatten(2), dv.flatten(2), dp.flatten(2))
        self._jvp(*self._rows(trajectory, self._scratch), da, *flat)
        return dx, dv, dp

    def jacobian(self, trajectory: Trajectory) -> torch.Tensor:
        """ds/da (B, N, n_s, N, m), block lower triangular; rows [actuated p, x, v] of row t+1 (paper, A.4)."""
        B, N, m = trajectory.a.shape
        many = self._sensitivity.many
        groups = -(-N * m // many)
        _expect_countable(B, N * self.system.state_size * groups * many)
        S = runtime.zeros(B, N, self.system.state_size, groups, many)
        self._jacobian(*self._rows(trajectory, self._scratch), S.flatten(0, 3))
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
            return self.gauss_newton_riccati(trajectory, g, q, r, damping, free)
        return self.gauss_newton_cg(trajectory, g, q, r, damping, free, tolerance)

    @property
    def direct(self) -> bool:
        """Whether `gauss_newton` is the Riccati recursion: the faster one for small systems, see benchmarks/."""
        return self._riccati.n <= LARGEST_RICCATI

    def gauss_newton_riccati(self, trajectory: Trajectory, g, q, r, damping=None, free=None) -> GaussNewtonStep:
        """`gauss_newton` by a Riccati recursion, O(N n³): exact, and with feedback gains."""
        g, q, r, damping, free = self._check_model(trajectory, g, q, r, damping, free)
        B, N, m = trajectory.a.shape
        da = torch.zeros_like(g)
        gains = torch.zeros(B, N, m, self._riccati.n, dtype=self.dtype, device=self.device)
        curvature = torch.zeros(B, N, m, m, dtype=self.dtype, device=self.device)
        self._solve_riccati(*self._linear(trajectory), g, q, r, damping, free, da, gains, curvature)
        return GaussNewtonStep(da, gains, curvature)

    def gauss_newton_boxed(self, trajectory: Trajectory, limit: float, goal, g, q, r, damping=None) -> GaussNewtonStep:
        """`gauss_newton` with |a + δa| ≤ limit, by recursions, see `box`.

        goal: (B,), the norm of the model's projected gradient at which a rollout is done
        """
        expect(limit > 0, "limit", "a bound > 0 m/s", limit)
        g, q, r, damping, free = self._check_model(trajectory, g, q, r, damping, None)
        B, N, m = g.shape
        goal = self._check("goal", goal, (B,))
        step, image, slope, newton, trial, bent = (torch.zeros_like(g) for _ in range(6))
        gains = torch.empty(B, N, m, self._riccati.n, dtype=self.dtype, device=self.device)
        iterations = torch.zeros(B, dtype=torch.int32, device=self.device)
        rows, a = self._memory(B, N * self._boxed.row), trajectory.a.detach().contiguous()
        scratch = (rows, free, gains, slope, newton, trial, bent)
        problem = (a, float(limit), goal, g, q, r, damping)
        self._solve_boxed(*self._linear(trajectory), *scratch, *problem, step, image, iterations)
        return GaussNewtonStep(step, image=image, iterations=iterations)

    def gauss_newton_cg(
        self, trajectory: Trajectory, g, q, r, damping=None, free=None, tolerance=1e-10, limit=10_000
    ) -> GaussNewtonStep:
        """`gauss_newton` by at most `limit` conjugate gradient iterations, each O(N) in time; memory O(N)."""
        expect(0 < tolerance < 1, "tolerance", "a number between 0 and 1", tolerance)
        g, q, r, damping, free = self._check_model(trajectory, g, q, r, damping, free)
        B, N, _ = g.shape
        da, image = torch.zeros_like(g), torch.zeros_like(g)
        iterations = torch.zeros(B, dtype=torch.int32, device=self.device)
        store = self._memory(-(-B // self._cg.many), self._cg.store(N) * self._cg.many)
        settings = (g, q, r, damping, free, float(tolerance), int(limit))
        self._solve_cg(*self._rows(trajectory, self._scratch_of_one), store, *settings, da, image, iterations)
        return GaussNewtonStep(da, iterations=iterations, image=image)

    def bytes_per_gradient(self, N: int) -> int:
        """The memory of N steps' rows and cotangents, of the gradient by start and actions, and of kernels' scratch."""
        s, bits = self.system, torch.finfo(self.dtype).bits
        row, start = (2 * s.points + s.handles) * s.dim, (4 * s.points + s.handles) * s.dim
        numbers = 2 * (N + 1) * row + N * s.actions + start + self._scratch.size
        single = 32 if self._quick.kind == ti.f32 else bits
        counts = 2 * 32 * N  # status and iterations
        return (bits * numbers + single * self._quick.size + counts) // 8

    def bytes_per_rollout(self, N: int) -> int:
        """The memory that a rollout of N steps takes through a Gauss–Newton step, for choosing a batch that fits."""
        s = self.system
        rows = (N + 1) * (2 * s.points * s.dim + s.handles * s.dim) + N * (s.actions + 1)
        copies = 8  # trajectory, its trial in the line search, their cotangents and tangents, rewards' intermediates
        method = self._cg.store(N)
        if self.direct:
            numbers = self._linearisation.size + self._boxed.row + s.actions * (self._riccati.n + 8)
            method = self._riccati.store + N * numbers
        return (copies * rows + self._scratch_of_one.size + method) * torch.finfo(self.dtype).bits // 8

    # Inside

    def _step(self, loops: Loops, scratch: Scratch):
        """The linearised step for one kind of `loops`."""
        return linear_step(loops)(mechanics(loops)(self.system, self._quick.kind), scratch)

    def _linear(self, trajectory: Trajectory):
        """What the recursions take first: h, whether a step is the first, status, linearised steps, scratch."""
        B, N, _ = trajectory.a.shape
        store, maps = self._memory(B, self._riccati.store), self._memory(B, N * self._linearisation.size)
        h, first, *_, status, _ = rows = self._rows(trajectory, self._scratch)
        self._linearise(*rows, 1 if self._steps_apart else N, maps)
        return h, first, status, maps, store

    def _memory(self, B: int, size: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Numbers for a kernel's use, `size` a rollout; the same tensor each time where there are none."""
        if size == 0:
            return self._nothing
        _expect_countable(B, size)
        shape = (size, B) if self._scratch.last else (B, size)
        return torch.empty(shape, dtype=dtype or self.dtype, device=self.device)

    def _check_model(self, trajectory, g, q, r, damping, free):
        """The arguments of a Gauss–Newton step as kernels want them."""
        B, N, m = trajectory.a.shape
        g = self._check("g", g, (B, N, m))
        q = self._check_weights("q", q, (B, N, self.system.state_size))
        r = self._check_weights("r", r, (B, N, m))
        expect(bool((q >= 0).all()), "q", "second derivatives of the cost >= 0", q.min().item())
        expect(bool((r > 0).all()), "r", "second derivatives of the cost > 0", r.min().item())
        damping = torch.zeros_like(g[:, 0, 0]) if damping is None else self._check("damping", damping, (B,))
        free = torch.ones_like(g, dtype=torch.bool) if free is None else free
        expect(
            isinstance(free, torch.Tensor) and free.dtype == torch.bool, "free", "a bool tensor", type(free).__name__
        )
        expect(free.shape == g.shape and free.device == g.device, "free", tuple(g.shape), tuple(free.shape))
        return g, q, r, damping, free.to(torch.int32).contiguous()

    def _begin(self, start: State, actions: torch.Tensor) -> Trajectory:
        B, N, _ = actions.shape
        _expect_countable(B, (N + 1) * max(start.x[0].numel(), start.p[0].numel()))

        def rows(first):
            tensor = torch.empty(B, N + 1, *first.shape[1:], dtype=self.dtype, device=self.device)
            tensor[:, 0] = first
            return tensor

        counts = torch.zeros(2, B, N, dtype=torch.int32, device=self.device)
        return Trajectory(rows(start.x), rows(start.v), rows(start.p), actions, counts[0], counts[1], start)

    def _prepared(self, trajectory: Trajectory) -> Launch:
        """The rollout's kernel on these rows, from row 0 on. It keeps their memory and its own, not the trajectory."""
        start = trajectory.start
        rows = (trajectory.x.flatten(2), trajectory.v.flatten(2), trajectory.p.flatten(2))
        past = (start.first.contiguous().view(torch.uint8), start.x_prev.flatten(1), start.v_prev.flatten(1))
        work = self._memory(len(trajectory), self._scratch.size)
        single = torch.float32 if self._quick.kind == ti.f32 else self.dtype
        quick = self._memory(len(trajectory), self._quick.size, single)
        counts = (trajectory.status, trajectory.iterations)
        return Launch(self._run, (self.h, 0, 0, *past, trajectory.a, *rows, work, quick, *counts))

    def _rows(self, trajectory: Trajectory, scratch: Scratch):
        """What every sweep takes first: h, the rows and scratch."""
        flat = (trajectory.x.flatten(2), trajectory.v.flatten(2), trajectory.p.flatten(2))
        rows = (r.detach().contiguous() for r in (trajectory.a, *flat, trajectory.status))
        work = self._memory(len(trajectory), scratch.size)
        return self.h, trajectory.start.first.contiguous().view(torch.uint8), *rows, work

    def _check_start(self, start: State) -> State:
        expect(isinstance(start, State), "start", "a State", type(start).__name__)
        B, P, H, d = len(start), self.system.points, self.system.handles, self.system.dim
        expect(B >= 1, "start", "at least one rollout", B)
        first = start.first
        expect(
            first.dtype == torch.bool and first.shape == (B,),
            "start.first",
            f"({B},) bool",
            f"{tuple(first.shape)} {first.dtype}",
        )
        expect(
            first.device.type == self.device.type, "start.first", f"a tensor on {self.device.type}", first.device.type
        )
        shapes = {"x": (B, P, d), "v": (B, P, d), "p": (B, H, d), "x_prev": (B, P, d), "v_prev": (B, P, d)}
        fields = {name: self._check(f"start.{name}", getattr(start, name), shape) for name, shape in shapes.items()}
        return State(first=first, **fields)

    def _check_weights(self, name, tensor, shape) -> torch.Tensor:
        """As `_check`, one row for all rollouts allowed."""
        shared = isinstance(tensor, torch.Tensor) and tensor.ndim == 3 and tensor.shape[0] == 1
        return self._check(name, tensor, (1, *shape[1:]) if shared else shape)

    def _check(self, name, tensor, shape, finite=True) -> torch.Tensor:
        expect(isinstance(tensor, torch.Tensor), name, "a torch.Tensor", type(tensor).__name__)
        fits = tensor.ndim == len(shape) and all(n in (None, have) for n, have in zip(shape, tensor.shape, strict=True))
        wanted = f"({', '.join('N' if n is None else str(n) for n in shape)})"
        expect(fits, name, wanted, tuple(tensor.shape))
        expect(tensor.dtype == self.dtype, name, self.dtype, tensor.dtype)
        expect(tensor.device.type == self.device.type, name, f"a tensor on {self.device.type}", tensor.device.type)
        if finite and not torch.isfinite(tensor).all():
            bad = tuple((~torch.isfinite(tensor)).nonzero()[0].tolist())
            raise InputError(f"{name}: expected finite numbers, got {tensor[bad].item()} at {bad}")
        return tensor.contiguous()

    def _warm_up(self):
        """Compile the adjoint now: torch runs CUDA backwards on a thread of its own, where Taichi cannot."""
        if self.device.type == "cuda" and not self._warm:
            zero = torch.zeros(1, 1, self.system.actions, dtype=self.dtype, device=self.device)
            self.vjp(self.rollout(self.start(1), zero))
            self._warm = True


def _expect_countable(B: int, size: int):
    """Taichi's indices have 32 bits: beyond them kernels would write somewhere else."""
    expect(B * size < 2**31, "rollouts", f"at most {(2**31 - 1) // max(size, 1)} side by side, {size} numbers each", B)


def _small(system: System) -> bool:
    """Whether the elimination has so few block updates that unrolled kernels compile in seconds."""
    return _elimination(system).updates <= UNROLLED_UPDATES


def _fits(system: System) -> bool:
    """Whether a thread's memory can hold the Jacobians of its lanes, and Taichi declare them within seconds."""
    return _elimination(system).blocks <= MOST_BLOCKS


def _elimination(system: System) -> Elimination:
    return Elimination.of(system.points, [tuple(e) for e in system.ends.tolist() if max(e) < system.points])


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
