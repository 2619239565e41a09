"""The same numbers whatever the batch, the chunks, the strides, the threads and the process; and on torch's memory."""

import functools
import os
import pathlib
import subprocess
import sys

import pytest
import run_and_save
import systems
import torch

from taichi_sim import Simulator, State
from taichi_sim.loops import LOOPED

HERE = pathlib.Path(__file__).parent
B, N = 64, 20
ROWS = ("x", "v", "p", "status", "iterations")


def evaluate(simulator, start, a, g, q, r):
    """Rows, gradient and Gauss–Newton steps as one list of tensors with the batch first."""
    trajectory = simulator.rollout(start, a)
    gradient = simulator.vjp(trajectory, trajectory.x.clone(), trajectory.v.clone())
    step = simulator.gauss_newton_riccati(trajectory, g, q, r)
    iterative = simulator.gauss_newton_cg(trajectory, g, q, r)
    return [getattr(trajectory, rows) for rows in ROWS] + [
        gradient.a, gradient.x, gradient.v, gradient.p, step.da, step.gains, step.curvature,
        iterative.da, iterative.image, iterative.iterations, simulator.jacobian(trajectory),
        *simulator.jvp(trajectory, g),
    ]  # fmt: skip


def inputs(simulator, first):
    m, n = simulator.system.actions, simulator.system.state_size
    g, q, r = (systems.random(B, N, width, seed=width) for width in (m, n, m))
    return systems.start(simulator, B, first=first), systems.actions(simulator, B, N), g, q.abs(), r.abs() + 0.1


@functools.cache
def looped(name):
    """Kernels whose vectors lie in scratch memory, side by side with those of other rollouts."""
    return Simulator(systems.SYSTEMS[name](), 0.02, LOOPED)


@pytest.mark.parametrize("first", (True, False))
@pytest.mark.parametrize("name", ("pendulum", "double", "damped_pendulum looped"))
def test_batch_and_chunks_do_not_change_a_bit(simulator, name, first):
    sim = looped(name.removesuffix(" looped")) if name.endswith("looped") else simulator(name)
    data = inputs(sim, first)
    whole = evaluate(sim, *data)
    for rows in (slice(0, 1), slice(41, 42), slice(0, 50), slice(50, 64), torch.arange(63, -1, -1)):
        for part, all_ in zip(evaluate(sim, *(tensor[rows] for tensor in data)), whole, strict=True):
            assert torch.equal(part, all_[rows])


def test_strides_do_not_change_a_bit(simulator):
    sim = simulator("double")
    start, *rest = inputs(sim, first=False)
    whole = evaluate(sim, start, *rest)

    def strided(tensor):
        """The same numbers with the axes laid out in reverse."""
        other = tensor.permute(*reversed(range(tensor.ndim))).contiguous().permute(*reversed(range(tensor.ndim)))
        assert not other.is_contiguous()
        return other

    fields = {name: strided(getattr(start, name)) for name in ("x", "v", "x_prev", "v_prev")}
    every_other = start.p.repeat_interleave(2, 0)[::2]
    scattered = State(**fields, p=every_other, first=start.first.repeat_interleave(2, 0)[::2])
    assert not every_other.is_contiguous()
    for part, all_ in zip(evaluate(sim, scattered, *(strided(tensor) for tensor in rest)), whole, strict=True):
        assert torch.equal(part, all_)


def test_a_sweep_leaves_its_inputs_alone(simulator):
    sim = simulator("double")
    trajectory = sim.rollout(systems.start(sim, 3), systems.actions(sim, 3, N))
    gx, gv, gp = torch.ones_like(trajectory.x), torch.ones_like(trajectory.v), torch.ones_like(trajectory.p)
    before = [tensor.clone() for tensor in (trajectory.a, trajectory.x, trajectory.v, trajectory.p)]
    sim.vjp(trajectory, gx, gv, gp)
    sim.jvp(trajectory, trajectory.a)
    assert all((g == 1).all() for g in (gx, gv, gp))
    for mine, old in zip((trajectory.a, trajectory.x, trajectory.v, trajectory.p), before, strict=True):
        assert torch.equal(mine, old)


def test_kernels_write_into_the_memory_torch_holds(simulator):
    sim = simulator("pendulum")
    a = systems.actions(sim, 3, N)
    trajectory = sim.rollout(systems.start(sim, 3), a)
    assert trajectory.a.data_ptr() == a.data_ptr()
    closed = sim.begin(trajectory.start, N)
    seen = [
        rows.numpy() for rows in (closed.x, closed.v, closed.p, closed.status, closed.iterations)
    ]  # the same memory
    closed.a.numpy()[:] = a.numpy()
    for t in range(N):
        sim.advance(closed, t)
    for memory, rows in zip(seen, ROWS, strict=True):
        assert (torch.from_numpy(memory) == getattr(trajectory, rows)).all()


def run(tmp_path, threads, precision):
    """Outputs of a fresh process."""
    path = tmp_path / f"{threads}-{precision}.pt"
    subprocess.run(
        [sys.executable, "-W", "ignore", HERE / "run_and_save.py", str(threads), precision, path],
        check=True,
        env=os.environ | {"PYTHONPATH": str(HERE.parent)},
        timeout=180,
    )
    return torch.load(path)


@pytest.fixture(scope="module")
def here(simulator):
    return run_and_save.outputs()


@pytest.mark.parametrize("threads", (1, 2))
def test_threads_and_processes_do_not_change_a_bit(here, tmp_path, threads):
    there = run(tmp_path, threads, "float64")
    assert here.keys() == there.keys()
    for name in here:
        assert torch.equal(here[name], there[name]), name


def test_float32_converges_and_agrees_with_float64(here, tmp_path):
    """Same starts and actions, rounded (eps = 1.2e-7). The soft pendulum keeps five digits in its rows and four in
    its gradients; stiff cables that switch between slack and taut amplify rounding, and keep three in their rows.
    """
    there = run(tmp_path, 1, "float32")

    def error(name):
        return float((there[name].double() - here[name]).norm() / here[name].norm())

    for found in there.values():
        if found.is_floating_point():
            assert found.dtype == torch.float32 and torch.isfinite(found).all()
    for name in ("pendulum", "double", "damped_pendulum"):
        assert (there[f"{name} status"] == 0).all()
        assert error(f"{name} p") <= 2e-7
        assert error(f"{name} x") <= 1e-3
    assert error("damped_pendulum x") <= 1e-5 and error("damped_pendulum v") <= 1e-5
    assert all(error(f"damped_pendulum gradient {of}") <= 1e-4 for of in ("x", "v", "p", "a"))
