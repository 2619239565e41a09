"""Sparse block LU without pivoting, in place, over the pattern of an `Elimination`.

J = L U with L unit lower triangular in elimination order; the diagonal of U is stored inverted. A symmetric J
is positive definite exactly when all pivots are positive; a J with positive definite symmetric part has
positive pivots too, so they tell when the Newton direction can be trusted.
"""

import functools

import taichi as ti

from .elimination import Elimination
from .loops import Loops


@functools.cache
def block_lu(loops: Loops):
    each, known = loops.each, loops.known

    @ti.data_oriented
    class BlockLU:
        """Factor and solve with blocks of d × d; J is a vector of blocks, entry (k, n) of block s at s·d² + k·d + n."""

        def __init__(self, elimination: Elimination, d: int):
            self.d, self.dd = d, d * d
            order, later, block = elimination.order, elimination.later, elimination.block
            starts, upper, lower, others, rows, fill = [0], [], [], [], [], []
            for i in order:
                for j in later[i]:
                    others.append(j)
                    upper.append(block[i, j])
                    lower.append(block[j, i])
                    rows.append(len(fill))
                    fill += [block[j, k] for k in later[i]]
                starts.append(len(others))
            self.steps, self.pivots = loops.range(len(order)), len(order)
            self.order = loops.table(order)
            self.diagonal = loops.table([block[i, i] for i in order])
            self.starts = loops.table(starts)  # pivot s meets entries starts[s] … starts[s+1] of:
            self.others = loops.table(others)  # the points eliminated after it that it touches,
            self.upper = loops.table(upper)  # their blocks in its row
            self.lower = loops.table(lower)  # and in its column,
            self.rows = loops.table(rows)  # and where the blocks start in `fill` that the product updates
            self.fill = loops.table(fill)
            self.span = loops.span

        @ti.func
        def factor(self, J: ti.template()):
            """Overwrite J by its factors; returns the smallest pivot."""
            smallest = ti.cast(ti.math.inf, float)
            pivot = ti.Matrix.zero(float, self.d, self.d)
            low = ti.Matrix.zero(float, self.d, self.d)
            for s in each(self.steps):
                here = known(self.diagonal[s] * self.dd)
                for k in ti.static(range(self.d)):
                    for n in ti.static(range(self.d)):
                        pivot[k, n] = J[here + k * self.d + n]
                for k in ti.static(range(self.d)):
                    y = pivot[k, k]
                    smallest = ti.min(smallest, y)
                    if ti.math.isnan(y):
                        smallest = -1.0
                    pivot[k, k] = 1.0 / y
                    for n in ti.static(range(k + 1, self.d)):
                        pivot[n, k] = pivot[n, k] * pivot[k, k]
                        for o in ti.static(range(k + 1, self.d)):
                            pivot[n, o] = pivot[n, o] - pivot[n, k] * pivot[k, o]
                for k in ti.static(range(self.d)):
                    for n in ti.static(range(self.d)):
                        J[here + k * self.d + n] = pivot[k, n]
                for e in each(self.span(self.starts[s], self.starts[s + 1])):
                    up = known(self.upper[e] * self.dd)
                    for k in ti.static(range(self.d)):
                        for n in ti.static(range(k + 1, self.d)):
                            for o in ti.static(range(self.d)):
                                J[up + n * self.d + o] = J[up + n * self.d + o] - pivot[n, k] * J[up + k * self.d + o]
                for e in each(self.span(self.starts[s], self.starts[s + 1])):
                    down = known(self.lower[e] * self.dd)
                    for n in ti.static(range(self.d)):
                        for k in ti.static(range(self.d)):
                            low[n, k] = J[down + n * self.d + k]
                        for k in ti.static(range(self.d)):
                            low[n, k] = low[n, k] * pivot[k, k]
                            for o in ti.static(range(k + 1, self.d)):
                                low[n, o] = low[n, o] - low[n, k] * pivot[k, o]
                            J[down + n * self.d + k] = low[n, k]
                    for f in each(self.span(self.starts[s], self.starts[s + 1])):
                        up = known(self.upper[f] * self.dd)
                        at = known(self.fill[self.rows[e] + f - self.starts[s]] * self.dd)
                        for n in ti.static(range(self.d)):
                            for o in ti.static(range(self.d)):
                                y = J[at + n * self.d + o]
                                for k in ti.static(range(self.d)):
                                    y = y - low[n, k] * J[up + k * self.d + o]
                                J[at + n * self.d + o] = y
            return smallest

        @ti.func
        def solve(self, J: ti.template(), b: ti.template()):
            """b ← J⁻¹ b with the factors in J."""
            y = ti.Vector.zero(float, self.d)
            for s in each(self.steps):
                here = known(self.diagonal[s] * self.dd)
                row = known(self.order[s] * self.d)
                for k in ti.static(range(self.d)):
                    y[k] = b[row + k]
                for k in ti.static(range(self.d)):
                    for n in ti.static(range(k + 1, self.d)):
                        y[n] = y[n] - J[here + n * self.d + k] * y[k]
                for k in ti.static(range(self.d)):
                    b[row + k] = y[k]
                for e in each(self.span(self.starts[s], self.starts[s + 1])):
                    other = known(self.others[e] * self.d)
                    down = known(self.lower[e] * self.dd)
                    for n in ti.static(range(self.d)):
                        z = b[other + n]
                        for k in ti.static(range(self.d)):
                            z = z - J[down + n * self.d + k] * y[k]
                        b[other + n] = z
            for back in each(self.steps):
                s = known(self.pivots - 1 - back)
                here = known(self.diagonal[s] * self.dd)
                row = known(self.order[s] * self.d)
                for k in ti.static(range(self.d)):
                    y[k] = b[row + k]
                for e in each(self.span(self.starts[s], self.starts[s + 1])):
                    other = known(self.others[e] * self.d)
                    up = known(self.upper[e] * self.dd)
                    for k in ti.static(range(self.d)):
                        for n in ti.static(range(self.d)):
                            y[k] = y[k] - J[up + k * self.d + n] * b[other + n]
                for low in ti.static(range(self.d)):
                    k = ti.static(self.d - 1 - low)
                    for n in ti.static(range(k + 1, self.d)):
                        y[k] = y[k] - J[here + k * self.d + n] * y[n]
                    y[k] = y[k] * J[here + k * self.d + k]
                for k in ti.static(range(self.d)):
                    b[row + k] = y[k]

        @ti.func
        def solve_transposed(self, J: ti.template(), b: ti.template()):
            """b ← J⁻ᵀ b with the factors in J."""
            y = ti.Vector.zero(float, self.d)
            for s in each(self.steps):
                here = known(self.diagonal[s] * self.dd)
                row = known(self.order[s] * self.d)
                for k in ti.static(range(self.d)):
                    y[k] = b[row + k]
                for k in ti.static(range(self.d)):
                    y[k] = y[k] * J[here + k * self.d + k]
                    for n in ti.static(range(k + 1, self.d)):
                        y[n] = y[n] - J[here + k * self.d + n] * y[k]
                for k in ti.static(range(self.d)):
                    b[row + k] = y[k]
                for e in each(self.span(self.starts[s], self.starts[s + 1])):
                    other = known(self.others[e] * self.d)
                    up = known(self.upper[e] * self.dd)
                    for n in ti.static(range(self.d)):
                        z = b[other + n]
                        for k in ti.static(range(self.d)):
                            z = z - J[up + k * self.d + n] * y[k]
                        b[other + n] = z
            for back in each(self.steps):
                s = known(self.pivots - 1 - back)
                here = known(self.diagonal[s] * self.dd)
                row = known(self.order[s] * self.d)
                for k in ti.static(range(self.d)):
                    y[k] = b[row + k]
                for e in each(self.span(self.starts[s], self.starts[s + 1])):
                    other = known(self.others[e] * self.d)
                    down = known(self.lower[e] * self.dd)
                    for k in ti.static(range(self.d)):
                        for n in ti.static(range(self.d)):
                            y[k] = y[k] - J[down + n * self.d + k] * b[other + n]
                for low in ti.static(range(self.d)):
                    k = ti.static(self.d - 1 - low)
                    for n in ti.static(range(k + 1, self.d)):
                        y[k] = y[k] - J[here + n * self.d + k] * y[n]
                for k in ti.static(range(self.d)):
                    b[row + k] = y[k]

    return BlockLU
