"""Kernels of a CPU that multiply and add in one instruction (FMA), rounded once.

C compilers do so unless told otherwise, and every CPU since 2013 can. Taichi's machine code for CPUs has none: it asks
LLVM for them together with assumptions that would be wrong here, that no number is NaN or infinite. LLVM makes them by
itself where its `TargetOptions::AllowFPOpFusion` is Fast. That member has its default, Standard, from the constructor
of `JITTargetMachineBuilder`: `fuse` overwrites the instruction that loads it, see `patches`. Each operation is at least
as exact as without, and a result has other last bits.
"""

from . import patches

FUNCTION = b"_ZN4llvm3orc23JITTargetMachineBuilderC1ENS_6TripleE"
# movaps xmm0, {LoopAlignment 0, FloatABIType Default, AllowFPOpFusion Standard = 1, ThreadModel POSIX}
STANDARD = bytes.fromhex("0f280579ffd7fe")
# xorps xmm0, xmm0; nop: the same with Fast = 0
FAST = bytes.fromhex("0f57c0 0f1f4000")


def fused() -> bool:
    """Whether processes that start Taichi from now on get such kernels."""
    return patches.find(FUNCTION, FAST) is not None


def fuse() -> bool:
    """Have kernels made so after the next ti.init, where it can be done; whether they will."""
    if not fused() and (at := patches.find(FUNCTION, STANDARD)) is not None:
        patches.overwrite(at, FAST)
    return fused()
