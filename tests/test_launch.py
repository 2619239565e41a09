"""Kernels launched without Taichi's own call: the same code, with the numbers, tensors and memory it is given."""

import gc

import pytest
import systems
import torch

from taichi_sim.launch import Kernel, Launch
from taichi_sim.runtime import compiled_quickly

B, N = 5, 12
ROWS = ("x", "v", "p", "status", "iterations")


def played(sim):
    """Rows that a simulator has made, and empty ones with the same start and actions."""
    whole = sim.rollout(systems.start(sim, B, first=False), systems.actions(sim, B, N))
    rows = sim.begin(whole.start, N)
    rows.a[:] = whole.a
    return whole, rows


def same(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ROWS)


def test_a_launch_does_what_taichis_own_call_does(simulator):
    sim = simulator("double")
    whole, rows = played(sim)
    h, t0, _, *tensors = sim._prepared(rows)._kept
    with compiled_quickly():
        sim._kernels.rollout.run(h, t0, N, *tensors)
    assert same(rows, whole)


def test_a_prepared_launch_takes_other_numbers_each_time(simulator):
    sim = simulator("double")
    whole, rows = played(sim)
    launch = sim._prepared(rows)
    for t in range(N):
        launch(t0=t, t1=t + 1)
    assert same(rows, whole)
    with pytest.raises(KeyError):
        launch(t2=1)


def test_rows_that_two_time_steps_advance_have_each_its_own(simulator):
    """The launch that is kept for the rows is of the first simulator; both share the kernels."""
    fast, slow = simulator("double", 0.02), simulator("double", 0.001)
    _, rows = played(fast)
    fast.advance(rows, 0)
    moved = (rows.p[:, 1] - rows.p[:, 0]).clone()
    slow.advance(rows, 0)
    assert torch.allclose(rows.p[:, 1] - rows.p[:, 0], moved / 20, rtol=1e-12, atol=0) and moved.abs().max() > 0


def test_a_launch_is_kept_as_long_as_its_rows(simulator):
    sim = simulator("double")
    _, rows = played(sim)
    sim.advance(rows, 0)
    kept = sim._launches[rows]
    sim.advance(rows, 1)
    assert sim._launches[rows] is kept
    count = len(sim._launches)
    del rows
    gc.collect()
    assert len(sim._launches) == count - 1


def test_a_kernel_is_compiled_for_each_kind_of_arguments(simulator):
    sim = simulator("double")
    kernel, arguments = Kernel(sim._kernels.rollout.run), sim._prepared(played(sim)[1])._kept
    Launch(kernel, arguments)
    Launch(kernel, arguments)
    assert len(kernel._compiled) == 1
    single = (a.float() if isinstance(a, torch.Tensor) and a.dtype == torch.float64 else a for a in arguments)
    Launch(kernel, tuple(single))
    assert len(kernel._compiled) == 2
