"""One source for all sizes of system and both kinds of machine.

The kernels of a small system are unrolled: every loop over its points and springs is written out by the compiler,
index tables are constants, vectors live in registers. A larger system gets loops over tables in memory, and vectors in
local memory, which caches hold, or, if that is too large for a thread, in a scratch tensor. On a GPU a thread has one
rollout. On a CPU it has `LANES` rollouts side by side, loops over which LLVM turns into SIMD instructions: an unrolled
phase of a step, such as the solution of its equations, lies in one such loop as a whole, so that what it computes stays
in registers until the next phase; elsewhere such loops are the innermost. Each class of kernels is written once, inside
a function of a `Loops`, with

    for i in each(points): …            ti.static(range(…)), or ti.ndrange((0, …))
    for strip in through(strips): …     the same for the strips of a thread's rollouts, around each phase
    for lane in side(lanes): …          the same for the lanes of a strip
    for lane in across(all_lanes): …    the same for all lanes of a thread, where tensors are read or written
    i = known(table[e])                 an index at compile time, or one read at run time
    y = group[work, b]                  local variables, or windows of the scratch tensor `work`
    y[strip]                            those of a strip
    y.x[i, k, lane]                     column k of row i of x; k is known at compile time
    y.scale[i, lane], y.phi[lane]       where there is one column, or one number

and made for each value of `Loops`. The arithmetic and its order are the same for every rollout.

LLVM makes SIMD of a loop over lanes only if it sees that they do not touch each other, and computes addresses anew for
every index. So, of a variable that an innermost loop writes, it uses one row only, or rows known at compile time;
several columns of it cost no more than one, since each column is an array of its own. Tables are read before the loop.
A loop over strips has no branches that only some of them take, and touches no tensors: those LLVM reads faster by
loops that do nothing else.
"""

import dataclasses
from collections.abc import Callable

import taichi as ti

from .variables import Local, Tables

UNROLLED_UPDATES = 30  # of the elimination's blocks, the largest number that is unrolled
LANES = 8  # rollouts of a CPU's thread: two registers of AVX2 in float64, one of AVX-512


@ti.func
def _pair(low, high):
    return low, high


@dataclasses.dataclass(frozen=True)
class Loops:
    """What `each`, `through`, `side`, `across`, `known` and `span` mean. Taichi looks at the names in a loop's header,
    so that the first four have to be ti.static or ti.ndrange themselves.

    unrolled: whether loops over points, springs and their like are written out
    own: whether vectors are a thread's own variables, not windows of a scratch tensor
    many: rollouts of a thread, in as many strips of one lane where loops are unrolled, else in one strip of as many
    last: whether such tensors have rollouts as their last axis: a GPU's neighbouring threads then touch neighbours
    """

    name: str
    unrolled: bool
    own: bool
    many: int = 1
    last: bool = False

    def __str__(self):
        return self.name

    @property
    def each(self) -> Callable:
        return ti.static if self.unrolled else ti.ndrange

    @property
    def known(self) -> Callable:
        return ti.static if self.unrolled else ti.i32

    @property
    def span(self) -> Callable:
        return range if self.unrolled else _pair

    @property
    def through(self) -> Callable:
        return ti.ndrange if self.unrolled and self.many > 1 else ti.static

    @property
    def side(self) -> Callable:
        return ti.static if self.lanes == 1 else ti.ndrange

    @property
    def across(self) -> Callable:
        return ti.static if self.many == 1 else ti.ndrange

    @property
    def lanes(self) -> int:
        """Of a strip."""
        return 1 if self.unrolled else self.many

    def range(self, n: int):
        """0 … n − 1 for `each`."""
        return range(n) if self.unrolled else (0, n)

    def strips(self):
        """The strips of a thread, for `through`."""
        return _numbers(self.many // self.lanes)

    def abreast(self):
        """The lanes of a strip, for `side`."""
        return _numbers(self.lanes)

    def all_lanes(self):
        """The lanes of a thread, for `across`."""
        return _numbers(self.many)

    def tables(self) -> Tables:
        """Numbers that kernels look up."""
        return Tables(self.unrolled)

    def scalar(self, kind=float) -> Local:
        """One number of each lane, x[lane], a local variable of one phase."""
        return Local(0, 1, self, self.lanes, kind)

    def local(self, n: int = 1, width: int = 1, kind=float) -> Local:
        """n rows of `width` numbers of each lane that are always local variables, of one phase."""
        return Local(max(n, 1), width, self, self.lanes, kind)


def _numbers(n: int):
    return range(1) if n == 1 else (0, n)


UNROLLED = Loops("unrolled", unrolled=True, own=True)
STRAIGHT = Loops("straight", unrolled=True, own=True, many=LANES)
LOOPED = Loops("looped", unrolled=False, own=False)
ALONE = Loops("alone", unrolled=False, own=True)
ABREAST = Loops("abreast", unrolled=False, own=True, many=LANES)
