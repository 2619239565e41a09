"""One source for all sizes of system.

The kernels of a small system are unrolled: every loop over its points and springs is written out by the compiler,
index tables are constants, vectors live in registers. That is fast, and takes minutes to compile beyond about ten
points. A large system gets loops over tables in memory, and vectors in a scratch tensor. Each class of kernels is
written once, inside a function of a `Loops`, with

    for n in each(coordinates): …       ti.static(range(…)), or ti.ndrange((0, …))
    i = known(table[e])                 an index at compile time, or one read at run time
    x = slot[work, b]                   a local vector, or a window of the scratch tensor `work`

and made for both values of `Loops`. The arithmetic and its order are the same.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import taichi as ti
from taichi.lang import impl

UNROLLED_UPDATES = 30  # of the elimination's blocks, the largest number that is unrolled


@dataclasses.dataclass(frozen=True)
class Loops:
    """What `each`, `known` and `span` mean. Taichi looks at the names in a loop's header, so that `each` has to be
    ti.static or ti.ndrange itself."""

    unrolled: bool
    each: Callable
    known: Callable
    span: Callable

    def table(self, values):
        """Numbers that kernels look up, a list of integers or an array: a list, or a Taichi field."""
        if self.unrolled:
            return list(values)
        array = values if isinstance(values, np.ndarray) else np.array(values, dtype=np.int32)
        kind = float if array.dtype == np.float64 else ti.i32
        field = ti.field(kind, max(len(array), 1))
        if len(array):
            field.from_numpy(array.astype(np.int32) if kind is ti.i32 else array)
        return field

    def range(self, n: int):
        """0 … n − 1 for `each`."""
        return range(n) if self.unrolled else (0, n)


@ti.func
def _pair(low, high):
    return low, high


UNROLLED = Loops(True, ti.static, ti.static, range)
LOOPED = Loops(False, ti.ndrange, ti.i32, _pair)


@ti.data_oriented
class View:
    """Numbers of rollout b in a scratch tensor, from `at` on, indexed like a vector."""

    def __init__(self, work, b, at, last):
        self.work, self.b, self.at, self.last = work, b, at, last

    def __getitem__(self, n):
        where = (self.at + n, self.b) if self.last else (self.b, self.at + n)
        return impl.subscript(impl.get_runtime().compiling_callable.ast_builder(), self.work, *where)


class Slot:
    """A vector of n numbers per rollout, local or at a fixed place of a scratch tensor (there it starts undefined)."""

    def __init__(self, n: int, at: int, loops: Loops, last: bool):
        self.n, self.at, self.unrolled, self.last = max(n, 1), at, loops.unrolled, last

    def __getitem__(self, where):
        work, b = where
        return ti.Vector.zero(float, self.n) if self.unrolled else View(work, b, self.at, self.last)


class Rows:
    """A vector in each of a rollout's rows of `stride` numbers, in memory: rows[work, b, t]."""

    def __init__(self, at: int, stride: int, last: bool):
        self.at, self.stride, self.last = at, stride, last

    def __getitem__(self, where):
        work, b, t = where
        return View(work, b, t * self.stride + self.at, self.last)


class Scratch:
    """Hands out the slots of one scratch tensor: (B, size) on a CPU, (size, B) on a GPU, where neighbouring threads
    then touch neighbouring numbers."""

    def __init__(self, loops: Loops, last: bool):
        self.loops, self.last, self.size = loops, last, 0

    def slot(self, n: int) -> Slot:
        slot = Slot(n, self.size, self.loops, self.last)
        if not self.loops.unrolled:
            self.size += slot.n
        return slot
