"""Taichi's library in this process's memory: where its functions are, and other machine code in their place.

For what Taichi has no setting, in `processor`, `alignment` and `contraction`. It is done where all is as it was when
this was written: Taichi 1.7.4 on Linux and x86-64, with symbols in its library, and memory that the system lets a
process write to. Otherwise kernels are as right, and slower.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
import re
import struct
import sys

import numpy as np
import taichi as ti
from taichi._lib import core

TAICHI = (1, 7, 4)
SYMBOLS = 2  # type of the section of an ELF file that has them
SYMBOL = np.dtype([("name", "<u4"), ("about", "<u4"), ("address", "<u8"), ("size", "<u8")])


@functools.cache
def function(name: bytes) -> tuple[int, int] | None:
    """Address and size of the function with this mangled name, by the symbols in the library (an ELF file)."""
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
                place = data.find(b"\0" + name + b"\0", first, first + long) + 1 - first
                symbols = np.frombuffer(data[begin : begin + length], SYMBOL)
                (found,) = np.nonzero(symbols["name"] == place)
                if place > 0 and len(found) == 1:
                    return loaded + int(symbols["address"][found[0]]), int(symbols["size"][found[0]])
    return None


def find(name: bytes, code: bytes) -> int | None:
    """The address of the only place where the function has this code, a regular expression."""
    if (found := function(name)) is None:
        return None
    at, size = found
    places = list(re.finditer(code, ctypes.string_at(at, size), re.DOTALL))
    return at + places[0].start() if len(places) == 1 else None


def overwrite(at: int, code: bytes):
    """Put machine code at an address; nothing where the system forbids it."""
    page = at - at % mmap.PAGESIZE
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    if protect(page, at + len(code) - page, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) == 0:
        ctypes.memmove(at, code, len(code))
        protect(page, at + len(code) - page, mmap.PROT_READ | mmap.PROT_EXEC)
