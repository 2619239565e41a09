"""A d × d block: where its entries are, reading and writing it, its factors."""

import taichi as ti
import torch

from . import runtime


def entries(d: int, symmetric: bool) -> list[list[int]]:
    """[k][n]: the column of a diagonal block's entry (k, n)."""
    kept = [(k, n) for k in range(d) for n in range(k if symmetric else 0, d)]
    return [[kept.index((k, n) if (k, n) in kept else (n, k)) for n in range(d)] for k in range(d)]


@ti.data_oriented
class Blocks:
    """Factors of single d × d blocks, numbers of a kind: `split`."""

    def __init__(self, d: int, kind):
        self.d, self.kind = d, kind
        wide = kind is float and runtime.dtype() == torch.float64
        self.split = self._split_once if wide else self._split

    @ti.func
    def _split(self, y: ti.template()):
        """y ← L below, U above and the inverse pivots on the diagonal, of y = L U. 1 if all are positive, else −1."""
        sign = 1.0
        for k in ti.static(range(self.d)):
            sign = ti.select(y[k, k] > 0, sign, -1.0)
            y[k, k] = ti.cast(1.0, self.kind) / y[k, k]
            for n in ti.static(range(k + 1, self.d)):
                y[n, k] = y[n, k] * y[k, k]
                for o in ti.static(range(k + 1, self.d)):
                    y[n, o] = y[n, o] - y[n, k] * y[k, o]
        return sign

    @ti.func
    def _split_once(self, y: ti.template()):
        """The same with one division, where numbers of the size of a pivot to the power 2^d − 1 have room.

        Without divisions elimination leaves mₖ = pₖ m₀ … mₖ₋₁ for the pivot pₖ, with its relative error.
        """
        before = ti.Vector.one(self.kind, self.d + 1)  # m₀ … mₖ₋₁
        sign = 1.0
        for k in ti.static(range(self.d)):
            sign = ti.select(y[k, k] > 0, sign, -1.0)
            before[k + 1] = before[k] * y[k, k]
            for n in ti.static(range(k + 1, self.d)):
                for o in ti.static(range(k + 1, self.d)):
                    y[n, o] = y[k, k] * y[n, o] - y[n, k] * y[k, o]
        inverse = ti.cast(1.0, self.kind) / before[self.d]  # of before[k + 1]
        for back in ti.static(range(self.d)):
            k = ti.static(self.d - 1 - back)
            own = inverse * before[k]  # 1/mₖ
            inverse = inverse * y[k, k]
            y[k, k] = before[k] * own
            for n in ti.static(range(k + 1, self.d)):
                y[n, k] = y[n, k] * own
                y[k, n] = y[k, n] * inverse
        return sign


@ti.func
def block(J: ti.template(), at: ti.template(), lane: int, d: ti.template()):
    y = ti.Matrix.zero(J.kind, d, d)
    for k in ti.static(range(d)):
        for n in ti.static(range(d)):
            y[k, n] = J[at, k * d + n, lane]
    return y


@ti.func
def put(y: ti.template(), J: ti.template(), at: ti.template(), lane: int, d: ti.template()):
    for k in ti.static(range(d)):
        for n in ti.static(range(d)):
            J[at, k * d + n, lane] = y[k, n]


@ti.func
def add(
    y: ti.template(),
    L: ti.template(),
    i: ti.template(),
    U: ti.template(),
    j: ti.template(),
    lane: int,
    d: ti.template(),
):
    """y ← y + L_i U_j"""
    for n in ti.static(range(d)):
        for o in ti.static(range(d)):
            for k in ti.static(range(d)):
                y[n, o] = y[n, o] + L[i, n * d + k, lane] * U[j, k * d + o, lane]
