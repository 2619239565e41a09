"""Large tensors of a CPU lie in pages of 2 MiB wherever the system has them."""

import pathlib
import subprocess
import sys

import pytest

# The flags of the mapping that a tensor lies in: "hg" is madvise(MADV_HUGEPAGE)
PROGRAM = """
import torch, taichi_sim
from taichi_sim import runtime
taichi_sim.init("cpu")
tensor, inside = {tensor}, False
for line in open("/proc/self/smaps"):
    first, *rest = line.split()
    if not first.endswith(":"):
        begin, end = (int(part, 16) for part in first.split("-"))
        inside = begin <= tensor.data_ptr() < end
    elif inside and first == "VmFlags:":
        print("hg" in rest)
"""


@pytest.mark.parametrize("tensor", ("torch.ones(2**23)", "runtime.zeros(2**22)"))
def test_large_tensors_ask_for_large_pages(tensor):
    run = [sys.executable, "-c", PROGRAM.format(tensor=tensor)]
    done = subprocess.run(run, cwd=pathlib.Path(__file__).parent.parent, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(pathlib.Path("/sys/kernel/mm/transparent_hugepage").exists())]
