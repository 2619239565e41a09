"""Kernels of a CPU that multiply and add in one instruction (FMA), rounded once.

C compilers do so unless told otherwise, and every CPU since 2013 can. Taichi's machine code for CPUs has none: it asks
LLVM for them together with assumptions that would be wrong here, that no number is NaN or infinite. LLVM makes them by
itself where its `TargetOptions::AllowFPOpFusion` is Fast. That member has its default, Standard, from the constructor
of `JITTargetMachineBuilder`: `fuse` overwrites the instruction that loads it, see `patches`. Each operation is at least
as exact as without, and a result has other last bits.
"""

import ctypes
import re
import struct

from . import patches

FUNCTION = b"_ZN4llvm3orc23JITTargetMachineBuilderC1ENS_6TripleE"
MEMBERS = struct.pack("<4i", 0, 0, 1, 0)  # LoopAlignment, FloatABIType Default, AllowFPOpFusion Standard, ThreadModel
# movaps xmm0, MEMBERS, at a distance of its own in the wheel of each Python version; movups [rbx + 0xd0], xmm0
LOAD, STORE = rb"\x0f\x28\x05.{4}", bytes.fromhex("0f1183d0000000")
# xorps xmm0, xmm0; nop: the same with Fast = 0
FAST = bytes.fromhex("0f57c0 0f1f4000")


def fused() -> bool:
    """Whether processes that start Taichi from now on get such kernels."""
    return patches.find(FUNCTION, re.escape(FAST + STORE)) is not None


def fuse() -> bool:
    """Have kernels made so after the next ti.init, where it can be done; whether they will."""
    at = patches.find(FUNCTION, LOAD + re.escape(STORE))
    if at is not None and _loaded(at) == MEMBERS:
        patches.overwrite(at, FAST)
    return fused()


def _loaded(at: int) -> bytes:
    """What the instruction there loads: its address is relative to the next one's."""
    (distance,) = struct.unpack("<i", ctypes.string_at(at + 3, 4))
    return ctypes.string_at(at + 7 + distance, len(MEMBERS))
