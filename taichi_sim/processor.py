"""What Taichi's LLVM takes the CPU for, and what it is told instead.

Taichi 1.7.4 optimises kernels for the CPU that LLVM 15, of 2022, recognises by its model number. One that it does not
know, such as an AMD EPYC of 2024, is "generic" to it: 128-bit registers. Of one with AVX-512 it uses half of each
register, as was best for the first of them, whose clock fell with more. (Machine code is then made with every
instruction that the CPU reports, whatever its name.) Another name, told to the optimiser, makes loops over lanes as
wide as the registers: a step of the rope takes 0.36 instead of 0.75 µs on the EPYC, 0.48 instead of 0.58 on a Xeon of
2023. The arithmetic, and so every bit, is the same (`tests/test_machine_code.py`).

Taichi has no setting for it. `introduce` overwrites the first bytes of the function that tells the name, see `patches`.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from pathlib import Path

from . import patches

FUNCTION = b"_ZN4llvm3sys14getHostCPUNameEv"
UNKNOWN = "generic"
# Names with the instructions, as /proc/cpuinfo lists them, of CPUs that are better off with it. LLVM 15 uses whole
# registers of AVX-512 in code for the first alone; the last of its instructions came with CPUs that keep their clock.
WIDE, WIDE_NEEDS = "knl", {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_vbmi2"}
HALF, HALF_NEEDS = "haswell", {"avx2", "fma", "bmi2"}


class _String(ctypes.Structure):
    """llvm::StringRef."""

    _fields_ = (("begin", ctypes.c_void_p), ("size", ctypes.c_size_t))


def name() -> str | None:
    """What LLVM takes this CPU for; None where its function is not found."""
    if (at := _function()) is None:
        return None
    found = ctypes.CFUNCTYPE(_String)(at)()
    return ctypes.string_at(found.begin, found.size).decode()


def _function() -> int | None:
    found = patches.function(FUNCTION)
    return found and found[0]


def better_name() -> str | None:
    """The name with which kernels become faster than with `name`, if there is one."""
    if (taken := name()) is None:
        return None
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    has = next((set(line.split(":")[1].split()) for line in lines if line.startswith("flags")), set())
    if has >= WIDE_NEEDS:
        return WIDE
    return HALF if taken == UNKNOWN and has >= HALF_NEEDS else None


@functools.cache
def _kept(text: bytes):
    return ctypes.create_string_buffer(text)


def introduce(known: str):
    """Have kernels that are compiled from now on optimised for the CPU `known`; nothing where the system forbids it.

    After ti.init, so that machine code keeps the real CPU.
    """
    at, begin = _function(), ctypes.addressof(_kept(known.encode()))
    # mov rax, begin; mov edx, size; ret
    code = b"\x48\xb8" + struct.pack("<Q", begin) + b"\xba" + struct.pack("<I", len(known)) + b"\xc3"
    patches.overwrite(at, code)
