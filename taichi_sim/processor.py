"""What Taichi's LLVM takes a CPU for, where it does not know it.

Taichi 1.7.4 optimises kernels for the CPU that LLVM 15, of 2022, recognises by its model number. One that it
does not know, such as an AMD EPYC of 2024, is "generic" to it: 128-bit registers. (Machine code is then made with every
instruction that the CPU reports, whatever its name.) A name that LLVM knows, with the same registers, told to the
optimiser, makes loops over lanes as wide as the registers: 0.75 → 0.36 µs a step of the rope, 36 → 15.5 of the cloth.
The arithmetic, and so every bit, is the same (`tests/test_processor.py`).

Taichi has no setting for it. `introduce` overwrites the first bytes of the function that tells the name, in this
process's memory. It does so only if all is as it was when this was written; otherwise kernels are as right, and slower.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
import struct
import sys
from pathlib import Path

import numpy as np
import taichi as ti
from taichi._lib import core

TAICHI = (1, 7, 4)
FUNCTION = b"_ZN4llvm3sys14getHostCPUNameEv"
UNKNOWN = "generic"
# By instructions, as /proc/cpuinfo lists them. Of CPUs with AVX-512, it is only in the first's code that LLVM 15 uses
# whole registers.
NAMES = {"knl": {"avx512f", "avx512dq", "avx512bw", "avx512vl"}, "haswell": {"avx2", "fma", "bmi2"}}
SYMBOLS = 2  # type of the section of an ELF file that has them
SYMBOL = np.dtype([("name", "<u4"), ("about", "<u4"), ("address", "<u8"), ("size", "<u8")])


class _String(ctypes.Structure):
    """llvm::StringRef."""

    _fields_ = (("begin", ctypes.c_void_p), ("size", ctypes.c_size_t))


def name() -> str | None:
    """What LLVM takes this CPU for; None where its function is not found."""
    if (at := _function()) is None:
        return None
    found = ctypes.CFUNCTYPE(_String)(at)()
    return ctypes.string_at(found.begin, found.size).decode()


def better_name() -> str | None:
    """Of a CPU that LLVM does not know: the widest of `NAMES` that has no instruction which this one lacks, if any."""
    if name() != UNKNOWN:
        return None
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    has = next((set(line.split(":")[1].split()) for line in lines if line.startswith("flags")), set())
    return next((known for known, needs in NAMES.items() if needs <= has), None)


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
    page = at - at % mmap.PAGESIZE
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if protect(page, at + len(code) - page, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) == 0:
        ctypes.memmove(at, code, len(code))
        protect(page, at + len(code) - page, mmap.PROT_READ | mmap.PROT_EXEC)


@functools.cache
def _function() -> int | None:
    """The address of `FUNCTION` in this process, by the symbols in Taichi's library (an ELF file)."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or ti.__version__ != TAICHI:
        return None
    path = core.__file__
    loaded = ctypes.c_size_t.from_address(ctypes.CDLL(path)._handle).value  # link_map.l_addr of the GNU C library
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        (table,), (size, count) = struct.unpack_from("<Q", data, 40), struct.unpack_from("<HH", data, 58)
        sections = [struct.unpack_from("<IIQQQQI", data, table + n * size) for n in range(count)]
        for _, kind, _, _, begin, length, texts in sections:
            if kind == SYMBOLS:
                *_, first, long, _ = sections[texts]
                place = data.find(b"\0" + FUNCTION + b"\0", first, first + long) + 1 - first
                symbols = np.frombuffer(data[begin : begin + length], SYMBOL)
                (found,) = np.nonzero(symbols["name"] == place)
                if place > 0 and len(found) == 1:
                    return loaded + int(symbols["address"][found[0]])
    return None
