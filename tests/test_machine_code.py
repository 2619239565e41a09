"""For whichever CPU LLVM optimises kernels, and wherever their arrays lie, their bits are the same."""

import os
import pathlib
import platform
import re
import subprocess
import sys

import pytest

from taichi_sim import alignment, processor

PROGRAM = """
import hashlib, sys
import systems, torch
import taichi_sim
from taichi_sim import Simulator, alignment, processor
known, aligned = sys.argv[1], sys.argv[2] == "aligned"
if not aligned:
    alignment.align_arrays = lambda: False
taichi_sim.init("cpu", threads=1)
if processor.name() is not None:
    processor.introduce(known)
    assert processor.name() == known
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
CPUINFO = pathlib.Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""


def bits(home, known, aligned="aligned"):
    paths = os.pathsep.join((str(HERE), str(HERE.parent)))
    environment = os.environ | {"PYTHONPATH": paths, "XDG_CACHE_HOME": str(home / f"{known}-{aligned}")}
    command = [sys.executable, "-c", PROGRAM, known, aligned]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "made", ((processor.WIDE,), (processor.HALF,), (processor.UNKNOWN, "anywhere")), ids=lambda made: made[-1]
)
def test_kernels_made_otherwise_have_the_same_bits(tmp_path, plain, made):
    """For another CPU, or with arrays that may lie across cache lines."""
    assert bits(tmp_path, *made) == plain


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return bits(tmp_path_factory.mktemp("plain"), processor.UNKNOWN)


def test_local_arrays_begin_on_a_cache_line(tmp_path):
    """By the code that LLVM gets, where Taichi's is what it was written for, as in the wheel for Linux."""
    program = """
import taichi as ti
import torch
import taichi_sim
from taichi_sim import alignment, loops, patches
taichi_sim.init("cpu")
config = ti.lang.impl.get_runtime().prog.config()
config.print_kernel_llvm_ir, config.offline_cache = True, False
rows = loops.ABREAST.local(5)
@ti.kernel
def last(n: int, y: ti.types.ndarray(ndim=1)):
    for b in range(y.shape[0]):
        row = rows[0]
        for i in range(n):
            row[i, b] = y[b]
        y[b] = row[n - 1, b]
last(5, torch.zeros(3, dtype=torch.float64))
print(patches.function(alignment.FUNCTION) is not None)
"""
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "XDG_CACHE_HOME": str(tmp_path)}
    (tmp_path / "program.py").write_text(program)  # Taichi reads a kernel's source
    command = [sys.executable, "program.py"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    code = "".join(file.read_text() for file in tmp_path.glob("*.ll"))
    assert (f"alloca [40 x double], align {alignment.LINE}" in code) == ("True" in done.stdout)


def test_products_and_sums_are_fused(tmp_path):
    """(1 + ε)² − (1 + 2ε) is ε² where it is rounded once; after a product that is rounded first it is 0."""
    program = """
import taichi as ti
import torch
import taichi_sim
from taichi_sim import contraction
taichi_sim.init("cpu")
@ti.kernel
def difference(a: ti.types.ndarray(ndim=1), b: ti.types.ndarray(ndim=1), y: ti.types.ndarray(ndim=1)):
    for i in range(a.shape[0]):
        y[i] = a[i] * a[i] - b[i]
small = 2.0**-30
y = torch.empty(5, dtype=torch.float64)
difference(torch.full_like(y, 1 + small), torch.full_like(y, 1 + 2 * small), y)
assert (y == (small**2 if contraction.fused() else 0.0)).all(), y
print(contraction.fused())
"""
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "XDG_CACHE_HOME": str(tmp_path)}
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, "program.py"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout.split() == ["True"]) == (sys.platform == "linux" and platform.machine() == "x86_64")


def test_the_name_is_found_where_it_is_looked_for():
    assert (processor.name() is not None) == (sys.platform == "linux" and platform.machine() == "x86_64")


@pytest.mark.parametrize("taken", ("znver3", processor.UNKNOWN))
def test_a_cpu_is_told_another_name_where_that_has_its_instructions(tmp_path, taken):
    """Whatever CPU this is: LLVM is made to take it for `taken` first."""
    program = """
import sys
import taichi_sim
from taichi_sim import processor
found = processor.name() is not None
if found:
    processor.introduce(sys.argv[1])
taichi_sim.init("cpu")
print(found, processor.name())
"""
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", program, taken]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found, told = done.stdout.split()
    if found == "True":
        half = taken == processor.UNKNOWN and has(processor.HALF_NEEDS)
        assert told == (processor.WIDE if has(processor.WIDE_NEEDS) else processor.HALF if half else taken)


def has(instructions) -> bool:
    """Whether this CPU has all these."""
    return all(re.search(rf"^flags\b.* {i}( |$)", CPUINFO, re.MULTILINE) for i in instructions)
