"""Sparse block LU without pivoting, in place, over the pattern of an `Elimination`.

J = L U with L unit lower triangular in elimination order; the diagonal of U is stored inverted. A symmetric J
is positive definite exactly when all pivots are positive; a J with positive definite symmetric part has
positive pivots too, so they tell when the Newton direction can be trusted.
"""

import functools

import taichi as ti

from .elimination import Elimination
from .loops import Loops, Tables


@functools.cache
def block_lu(loops: Loops):
    each, side, known = loops.each, loops.side, loops.known

    @ti.data_oriented
    class BlockLU:
        """Factor and solve with blocks of d × d: J[s, k·d + n, lane] is entry (k, n) of block s, and b[i, k, lane]."""

        def __init__(self, elimination: Elimination, d: int, tables: Tables):
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
            self.order = tables.add(order)
            self.diagonal = tables.add([block[i, i] for i in order])
            self.starts = tables.add(starts)  # pivot s meets entries starts[s] … starts[s+1] of:
            self.others = tables.add(others)  # the points eliminated after it that it touches,
            self.upper = tables.add(upper)  # their blocks in its row
            self.lower = tables.add(lower)  # and in its column,
            self.rows = tables.add(rows)  # and where the blocks start in `fill` that the product updates
            self.fill = tables.add(fill)
            self.span = loops.span
            self.lanes = loops.abreast()
            self.pivot, self.low, self.less = (loops.local(1, self.dd) for _ in range(3))
            self.y = loops.local(1, d)

        @ti.func
        def factor(self, J: ti.template(), smallest: ti.template()):
            """Overwrite J by its factors; `smallest` is the smallest pivot."""
            pivot, low, less = self.pivot[0], self.low[0], self.less[0]
            for lane in side(self.lanes):
                smallest[lane] = ti.cast(ti.math.inf, float)
            for s in each(self.steps):
                here = known(self.diagonal[s])
                for lane in side(self.lanes):
                    y = self.block(J, here, lane)
                    for k in ti.static(range(self.d)):
                        smallest[lane] = ti.min(smallest[lane], y[k, k])
                        if ti.math.isnan(y[k, k]):
                            smallest[lane] = -1.0
                        y[k, k] = 1.0 / y[k, k]
                        for n in ti.static(range(k + 1, self.d)):
                            y[n, k] = y[n, k] * y[k, k]
                            for o in ti.static(range(k + 1, self.d)):
                                y[n, o] = y[n, o] - y[n, k] * y[k, o]
                    self.put(y, pivot, 0, lane)
                    self.put(y, J, here, lane)
                for e in each(self.span(self.starts[s], self.starts[s + 1])):
                    up = known(self.upper[e])
                    for lane in side(self.lanes):
                        y = self.block(J, up, lane)
                        for k in ti.static(range(self.d)):
                            for n in ti.static(range(k + 1, self.d)):
                                for o in ti.static(range(self.d)):
                                    y[n, o] = y[n, o] - pivot[0, n * self.d + k, lane] * y[k, o]
                        self.put(y, J, up, lane)
                for e in each(self.span(self.starts[s], self.starts[s + 1])):
                    down = known(self.lower[e])
                    for lane in side(self.lanes):
                        y = self.block(J, down, lane)
                        for n in ti.static(range(self.d)):
                            for k in ti.static(range(self.d)):
                                y[n, k] = y[n, k] * pivot[0, k * (self.d + 1), lane]
                                for o in ti.static(range(k + 1, self.d)):
                                    y[n, o] = y[n, o] - y[n, k] * pivot[0, k * self.d + o, lane]
                        self.put(y, low, 0, lane)
                        self.put(y, J, down, lane)
                    for f in each(self.span(self.starts[s], self.starts[s + 1])):
                        up = known(self.upper[f])
                        at = known(self.fill[self.rows[e] + f - self.starts[s]])
                        for lane in side(self.lanes):
                            y = self.block(J, at, lane)
                            for n in ti.static(range(self.d)):
                                for o in ti.static(range(self.d)):
                                    for k in ti.static(range(self.d)):
                                        y[n, o] = y[n, o] - low[0, n * self.d + k, lane] * J[up, k * self.d + o, lane]
                            self.put(y, less, 0, lane)
                        for lane in side(self.lanes):
                            for k in ti.static(range(self.dd)):
                                J[at, k, lane] = less[0, k, lane]

        @ti.func
        def block(self, J: ti.template(), at: ti.template(), lane: int):
            y = ti.Matrix.zero(float, self.d, self.d)
            for k in ti.static(range(self.d)):
                for n in ti.static(range(self.d)):
                    y[k, n] = J[at, k * self.d + n, lane]
            return y

        @ti.func
        def put(self, y: ti.template(), J: ti.template(), at: ti.template(), lane: int):
            for k in ti.static(range(self.d)):
                for n in ti.static(range(self.d)):
                    J[at, k * self.d + n, lane] = y[k, n]

        @ti.func
        def solve(self, J: ti.template(), b: ti.template()):
            """b ← J⁻¹ b with the factors in J."""
            y = self.y[0]
            for s in each(self.steps):
                here = known(self.diagonal[s])
                row = known(self.order[s])
                for lane in side(self.lanes):
                    for k in ti.static(range(self.d)):
                        y[0, k, lane] = b[row, k, lane]
                    for k in ti.static(range(self.d)):
                        for n in ti.static(range(k + 1, self.d)):
                            y[0, n, lane] = y[0, n, lane] - J[here, n * self.d + k, lane] * y[0, k, lane]
                        b[row, k, lane] = y[0, k, lane]
                for e in each(self.span(self.starts[s], self.starts[s + 1])):
                    other = known(self.others[e])
                    down = known(self.lower[e])
                    for lane in side(self.lanes):
                        for n in ti.static(range(self.d)):
                            z = b[other, n, lane]
                            for k in ti.static(range(self.d)):
                                z = z - J[down, n * self.d + k, lane] * y[0, k, lane]
                            b[other, n, lane] = z
            for back in each(self.steps):
                s = known(self.pivots - 1 - back)
                here = known(self.diagonal[s])
                row = known(self.order[s])
                for lane in side(self.lanes):
                    for k in ti.static(range(self.d)):
                        y[0, k, lane] = b[row, k, lane]
                for e in each(self.span(self.starts[s], self.starts[s + 1])):
                    other = known(self.others[e])
                    up = known(self.upper[e])
                    for lane in side(self.lanes):
                        for k in ti.static(range(self.d)):
                            for n in ti.static(range(self.d)):
                                y[0, k, lane] = y[0, k, lane] - J[up, k * self.d + n, lane] * b[other, n, lane]
                for lane in side(self.lanes):
                    for low in ti.static(range(self.d)):
                        k = ti.static(self.d - 1 - low)
                        for n in ti.static(range(k + 1, self.d)):
                            y[0, k, lane] = y[0, k, lane] - J[here, k * self.d + n, lane] * y[0, n, lane]
                        y[0, k, lane] = y[0, k, lane] * J[here, k * self.d + k, lane]
                        b[row, k, lane] = y[0, k, lane]

        @ti.func
        def solve_transposed(self, J: ti.template(), b: ti.template()):
            """b ← J⁻ᵀ b with the factors in J."""
            y = self.y[0]
            for s in each(self.steps):
                here = known(self.diagonal[s])
                row = known(self.order[s])
                for lane in side(self.lanes):
                    for k in ti.static(range(self.d)):
                        y[0, k, lane] = b[row, k, lane]
                    for k in ti.static(range(self.d)):
                        y[0, k, lane] = y[0, k, lane] * J[here, k * self.d + k, lane]
                        for n in ti.static(range(k + 1, self.d)):
                            y[0, n, lane] = y[0, n, lane] - J[here, k * self.d + n, lane] * y[0, k, lane]
                        b[row, k, lane] = y[0, k, lane]
                for e in each(self.span(self.starts[s], self.starts[s + 1])):
                    other = known(self.others[e])
                    up = known(self.upper[e])
                    for lane in side(self.lanes):
                        for n in ti.static(range(self.d)):
                            z = b[other, n, lane]
                            for k in ti.static(range(self.d)):
                                z = z - J[up, k * self.d + n, lane] * y[0, k, lane]
                            b[other, n, lane] = z
            for back in each(self.steps):
                s = known(self.pivots - 1 - back)
                here = known(self.diagonal[s])
                row = known(self.order[s])
                for lane in side(self.lanes):
                    for k in ti.static(range(self.d)):
                        y[0, k, lane] = b[row, k, lane]
                for e in each(self.span(self.starts[s], self.starts[s + 1])):
                    other = known(self.others[e])
                    down = known(self.lower[e])
                    for lane in side(self.lanes):
                        for k in ti.static(range(self.d)):
                            for n in ti.static(range(self.d)):
                                y[0, k, lane] = y[0, k, lane] - J[down, n * self.d + k, lane] * b[other, n, lane]
                for lane in side(self.lanes):
                    for low in ti.static(range(self.d)):
                        k = ti.static(self.d - 1 - low)
                        for n in ti.static(range(k + 1, self.d)):
                            y[0, k, lane] = y[0, k, lane] - J[here, n * self.d + k, lane] * y[0, n, lane]
                        b[row, k, lane] = y[0, k, lane]

    return BlockLU
