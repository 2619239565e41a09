"""What a thread of a kernel reads and writes, as `loops` says: tables, local variables, windows of scratch tensors."""

from __future__ import annotations

import weakref

import numpy as np
import taichi as ti
from taichi._lib import core
from taichi.lang import impl
from taichi.lang.expr import Expr
from taichi.lang.matrix import make_matrix


class Tables:
    """Tables of one object: lists, or parts of two Taichi fields that are freed with the object.

    Taichi has room for 512 trees of fields in a process and says nothing when there are more; writing a field takes it
    a kernel.
    """

    def __init__(self, lists: bool):
        self.lists, self.columns = lists, {float: [], ti.i32: []}
        self.fields = {} if lists else {kind: ti.field(kind) for kind in self.columns}

    def add(self, values):
        """A list of integers or an array of floats; to be read by kernels after `fill`."""
        if self.lists:
            return list(values)
        kind = float if isinstance(values, np.ndarray) and values.dtype == np.float64 else ti.i32
        self.columns[kind].append(np.array(values, dtype=np.float64 if kind is float else np.int32))
        return Table(self.fields[kind], sum(map(len, self.columns[kind][:-1])))

    def fill(self, owner):
        if self.lists:
            return
        tree, contents = ti.FieldsBuilder(), []
        for kind, field in self.fields.items():
            array = np.concatenate([np.zeros(1), *self.columns[kind]])
            tree.dense(ti.i, len(array)).place(field)
            contents.append((field, array.astype(np.float64 if kind is float else np.int32)))
        tree = tree.finalize()
        for field, array in contents:
            field.from_numpy(array)
        weakref.finalize(owner, tree.destroy).atexit = False


@ti.data_oriented
class Table:
    """Numbers of a field, from `at` on; number 0 of the field belongs to none."""

    def __init__(self, field, at: int):
        self.field, self.at = field, at + 1

    def __getitem__(self, n):
        return impl.subscript(_builder(), self.field, self.at + n)


def _builder():
    return impl.get_runtime().compiling_callable.ast_builder()


FEW = 2**30 - 1  # numbers of a tensor, half of those that 32 bits can count


@ti.data_oriented
class Vector:
    """A local variable: rows of `width` numbers of each lane or strip, a column an array."""

    def __init__(self, columns: list, width: int, many: int, kind, strip=0):
        self.columns, self.width, self.many, self.kind, self.strip = columns, width, many, kind, strip

    def of(self, strip) -> Vector:
        return self if self.many == 1 else Vector(self.columns, self.width, self.many, self.kind, strip)

    def __getitem__(self, where):
        n, k, lane = _place(where)
        if self.many == 1:
            return impl.subscript(_builder(), self.columns[0], n * self.width + k)
        return impl.subscript(_builder(), self.columns[k], self.strip + (n * self.many + lane))


@ti.data_oriented
class Scalar:
    """A local variable: a number of each lane or strip."""

    def __init__(self, array, many: int, strip=0):
        self.array, self.many, self.strip = array, many, strip

    def of(self, strip) -> Scalar:
        return self if self.many == 1 else Scalar(self.array, self.many, strip)

    def __getitem__(self, lane):
        return impl.subscript(_builder(), self.array, self.strip + lane)


@ti.data_oriented
class View:
    """A `Vector` in a flat tensor: numbers of a rollout, or of its lanes, from `begin` on, `step` apart."""

    def __init__(self, work, begin, step, width: int = 1, lanes: int = 1, kind=float):
        self.work, self.begin, self.step = work, begin, step
        self.width, self.lanes, self.kind = width, lanes, kind

    def of(self, strip) -> View:
        return self

    def __getitem__(self, where):
        n, k, lane = _place(where)
        at = self.begin + ((n * self.width + k) * self.lanes + lane) * self.step
        return impl.subscript(_builder(), self.work, at)


def _place(where) -> tuple:
    """Row, column and lane of x[n, k, lane], x[n, lane] or x[n]."""
    if not isinstance(where, tuple):
        return where, 0, 0
    return where if len(where) == 3 else (where[0], 0, where[1])


class Local:
    """Declares a `Vector`, or a `Scalar` for no rows.

    It is zero to begin with where a thread has one rollout and its loops are unrolled, and undefined where all of a
    large system's or of several lanes are declared.
    """

    def __init__(self, n: int, width: int, loops, many: int, kind):
        self.n, self.width, self.many, self.kind = n, width, many, kind
        self.zero = many == 1 and (loops.unrolled or not loops.own)

    def __getitem__(self, where):
        if self.n == 0:
            return Scalar(_declared(self.many, self.kind, self.zero), self.many)
        if self.many == 1:
            return Vector([_declared(self.n * self.width, self.kind, self.zero)], self.width, 1, self.kind)
        columns = [_declared(self.n * self.many, self.kind, False) for _ in range(self.width)]
        return Vector(columns, self.width, self.many, self.kind)


def _declared(n: int, kind, zero: bool) -> Expr:
    """A local array.

    Without `zero`, an assignment that never runs gives it its type. Taichi drops that before it writes thousands of
    zeros out one by one, which LLVM would take minutes to digest.
    """
    here = core.DebugInfo(impl.get_runtime().get_current_src_info())
    zeros = make_matrix([Expr(0)] * n, impl.get_runtime().default_fp if kind is float else kind)
    builder = _builder()
    if zero:
        return Expr(builder.expr_var(zeros.ptr, here))
    array = Expr(builder.expr_alloca(here))
    builder.begin_frontend_if(Expr(0).ptr, here)
    builder.begin_frontend_if_true()
    builder.expr_assign(array.ptr, zeros.ptr, here)
    builder.pop_scope()
    builder.begin_frontend_if_false()
    builder.pop_scope()
    return array


class Group:
    """Variables declared together: `y = group[work, b]`, then y.name[…]."""

    def __init__(self, **slots):
        self.slots = slots

    def __or__(self, other: Group) -> Group:
        return Group(**self.slots, **other.slots)

    def __getitem__(self, where):
        return Names({name: slot[where] for name, slot in self.slots.items()})


@ti.data_oriented
class Names:
    """What a `Group` declared."""

    def __init__(self, variables: dict):
        self.__dict__.update(variables)

    def __getitem__(self, strip) -> Names:
        if isinstance(strip, int):
            return self  # the only one
        return Names({name: variable.of(strip) for name, variable in self.__dict__.items()})


class Slot:
    """n rows of `width` numbers per rollout, local or at a fixed place of a scratch tensor (there undefined).

    Of two scratch tensors slot[work, quick, b] belongs to the one of its kind.
    """

    def __init__(self, n: int, width: int, at: int, scratch: Scratch):
        self.width, self.at, self.scratch = width, at, scratch
        loops = scratch.loops
        self.local = Local(max(n, 1), width, loops, loops.many, scratch.kind) if loops.own else None

    def __getitem__(self, where):
        if self.local is not None:
            return self.local[where]
        *works, b = where
        work, scratch = works[self.scratch.second], self.scratch
        if scratch.loops.last:
            B = impl.expr_init(ti.raw_div(work.shape[0], scratch.size))
            return View(work, impl.expr_init(self.at * B + b), B, self.width, kind=scratch.kind)
        return View(work, impl.expr_init(b * scratch.size + self.at), 1, self.width, kind=scratch.kind)


class Rows:
    """A vector in each of the N rows of a rollout, of `stride` numbers, in memory: rows[work, b, t, N].

    With lanes, those of b are all the lanes of a thread, side by side.

    few: whether a CPU has at most `FEW` numbers of them. LLVM then knows that they follow each other in memory: that
        32 bits do not begin anew between them
    """

    def __init__(self, at: int, stride: int, last: bool, width: int = 1, lanes: int = 1, few: bool = False):
        self.at, self.stride, self.last, self.width, self.lanes = at, stride, last, width, lanes
        self.few = few

    def __getitem__(self, where):
        work, b, t, N = where
        if self.last:
            B = impl.expr_init(ti.raw_div(work.shape[0], N * self.stride * self.lanes))
            begin, step = (t * self.stride + self.at) * self.lanes * B + b, B
        else:
            begin, step = ((b * N + t) * self.stride + self.at) * self.lanes, 1
            if self.few:
                begin = begin & FEW
        return View(work, impl.expr_init(begin), step, self.width, self.lanes)


class Scratch:
    """Hands out the slots of one scratch tensor, B × size or, with rollouts last, size × B.

    It is flat: each access to a tensor of several dimensions reads their sizes again.

    kind: of its numbers; second: whether it is the second of two
    """

    def __init__(self, loops, kind=float, second: bool = False):
        self.loops, self.kind, self.second, self.size = loops, kind, second, 0

    def scalar(self, kind=float) -> Local:
        """One number of each lane, x[lane], that outlives a phase; always a local variable."""
        return Local(0, 1, self.loops, self.loops.many, kind)

    def slot(self, n: int, width: int = 1) -> Slot:
        slot = Slot(n, width, self.size, self)
        if slot.local is None:
            self.size += max(n, 1) * width
        return slot
