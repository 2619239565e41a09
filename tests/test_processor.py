"""For whichever CPU LLVM optimises kernels, their bits are the same."""

import os
import pathlib
import platform
import subprocess
import sys

import pytest

from taichi_sim import processor

PROGRAM = """
import hashlib, sys
import systems, torch
import taichi_sim
from taichi_sim import Simulator, processor
taichi_sim.init("cpu", threads=1)
if processor.name() is not None:
    processor.introduce(sys.argv[1])
    assert processor.name() == sys.argv[1]
bits = hashlib.sha256()
for name in ("pendulum", "rope"):
    simulator = Simulator(systems.SYSTEMS[name](), 0.02)
    rows = simulator.rollout(systems.start(simulator, 13), systems.actions(simulator, 13, 20))
    g = simulator.vjp(rows, *(systems.random(*y.shape, seed=61) for y in (rows.x, rows.v, rows.p)))
    assert rows.ok.all() and rows.x.diff(dim=1).abs().max() > 1e-3
    for tensor in (rows.x, rows.v, rows.p, rows.iterations, g.x, g.v, g.p, g.a, simulator.jacobian(rows)):
        bits.update(tensor.numpy().tobytes())
print(bits.hexdigest())
"""
HERE = pathlib.Path(__file__).parent


def bits(known, home):
    paths = os.pathsep.join((str(HERE), str(HERE.parent)))
    environment = os.environ | {"PYTHONPATH": paths, "XDG_CACHE_HOME": str(home / known)}
    command = [sys.executable, "-c", PROGRAM, known]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("known", processor.NAMES)
def test_kernels_made_for_another_cpu_have_the_same_bits(tmp_path, known):
    assert bits(known, tmp_path) == bits(processor.UNKNOWN, tmp_path)


def test_the_name_is_found_where_it_is_looked_for():
    assert (processor.name() is not None) == (sys.platform == "linux" and platform.machine() == "x86_64")


@pytest.mark.parametrize("taken", ("znver3", processor.UNKNOWN))
def test_only_a_cpu_that_llvm_does_not_know_is_told_another_name(tmp_path, taken):
    """Whatever CPU this is: LLVM is made to take it for `taken` first."""
    program = """
import sys
import taichi_sim
from taichi_sim import processor
found = processor.name() is not None
if found:
    processor.introduce(sys.argv[1])
better = processor.better_name()
taichi_sim.init("cpu")
print(found, better, processor.name())
"""
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", program, taken]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found, better, told = done.stdout.split()
    if found == "True":
        assert (better in processor.NAMES) == (taken == processor.UNKNOWN and wide())
        assert told == (taken if better == "None" else better)


def wide():
    """Whether this CPU has the instructions of one of `NAMES`."""
    text = pathlib.Path("/proc/cpuinfo").read_text()
    return any(all(f" {word} " in text.replace("\n", " ") for word in needs) for needs in processor.NAMES.values())
