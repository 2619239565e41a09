"""Sparse block factors without pivoting, in place, over the pattern of an `Elimination`.

J is a `Group` of d × d blocks: `diagonal` (P rows), and for each edge (i, j) of the elimination `upper`, J's block
(i, j), and `lower`, its block (j, i). Entry (k, n) of a block is column k·d + n of its row. Where J is symmetric there
is no `lower`, and `diagonal` has the entries n ≥ k alone, see `entries`.

Pivots, the diagonal of U or D, are stored inverted. A symmetric J is positive definite exactly when all are positive; a
J with positive definite symmetric part has positive pivots too, so they tell when the Newton direction can be trusted.
"""

import functools

import taichi as ti

from .blocks import Blocks, add, block, put
from .elimination import Elimination
from .loops import Loops
from .variables import Tables


class Pivots:
    """The tables of an elimination that both kinds of factors follow."""

    def __init__(self, loops: Loops, elimination: Elimination, tables: Tables):
        order, later, edge = elimination.order, elimination.later, elimination.edge
        starts, others, edges, places, rows, fill = [0], [], [], [], [], []
        for i in order:
            for n, j in enumerate(later[i]):
                others.append(j)
                edges.append(edge[i, j])
                places.append(n)
                rows.append(len(fill) - n - 1)
                fill += [edge[j, k] for k in later[i][n + 1 :]]
            starts.append(len(others))
        self.steps, self.last = loops.range(len(order)), len(order) - 1
        self.order = tables.add(order)
        self.starts = tables.add(starts)  # pivot s meets entries starts[s] … starts[s+1] of:
        self.others = tables.add(others)  # the points eliminated after it that it touches,
        self.edges = tables.add(edges)  # their blocks in its row and column,
        self.place = tables.add(places)  # how many come before,
        self.rows = tables.add(rows)  # and rows[e] + m, where edge e meets the m-th, m > e, in:
        self.fill = tables.add(fill)  # the blocks that their product is subtracted from
        self.width = max(map(len, later))


@functools.cache
def block_lu(loops: Loops):
    each, side, known, span = loops.each, loops.side, loops.known, loops.span

    @ti.data_oriented
    class BlockLU(Blocks):
        """J = L U, L unit lower triangular in the order of elimination."""

        symmetric = False

        def __init__(self, pivots: Pivots, d: int, kind=float):
            super().__init__(d, kind)
            self.dd = d * d
            self.pivots, self.lanes = pivots, loops.abreast()
            self.pivot, self.y = loops.local(1, self.dd, kind), loops.local(1, d, kind)
            self.row, self.column = (loops.local(pivots.width, self.dd, kind) for _ in range(2))  # of U and L
            # The negative of a block of each; LLVM would copy the block itself in a call, which waits for its stores
            self.up, self.low = (loops.local(1, self.dd, kind) for _ in range(2))

        @ti.func
        def factor(self, J: ti.template(), sign: ti.template()):
            """Overwrite J by its factors; `sign` becomes 1 where all pivots are positive, else −1."""
            pivot, above, left = self.pivot[0], self.row[0], self.column[0]
            up, low = self.up[0], self.low[0]
            for lane in side(self.lanes):
                sign[lane] = 1.0
            for s in each(self.pivots.steps):
                i = known(self.pivots.order[s])
                for lane in side(self.lanes):
                    y = block(J.diagonal, i, lane, self.d)
                    sign[lane] = ti.select(self.split(y) > 0.0, sign[lane], -1.0)
                    put(y, pivot, 0, lane, self.d)
                    put(y, J.diagonal, i, lane, self.d)
                for e in each(span(self.pivots.starts[s], self.pivots.starts[s + 1])):
                    edge = known(self.pivots.edges[e])
                    at = known(self.pivots.place[e])
                    for lane in side(self.lanes):
                        y = block(J.upper, edge, lane, self.d)
                        for k in ti.static(range(self.d)):
                            for n in ti.static(range(k + 1, self.d)):
                                for o in ti.static(range(self.d)):
                                    y[n, o] = y[n, o] - pivot[0, n * self.d + k, lane] * y[k, o]
                        put(y, above, at, lane, self.d)
                        put(y, J.upper, edge, lane, self.d)
                    for lane in side(self.lanes):
                        y = block(J.lower, edge, lane, self.d)
                        for n in ti.static(range(self.d)):
                            for k in ti.static(range(self.d)):
                                y[n, k] = y[n, k] * pivot[0, k * (self.d + 1), lane]
                                for o in ti.static(range(k + 1, self.d)):
                                    y[n, o] = y[n, o] - y[n, k] * pivot[0, k * self.d + o, lane]
                        put(y, left, at, lane, self.d)
                        put(y, J.lower, edge, lane, self.d)
                for e in each(span(self.pivots.starts[s], self.pivots.starts[s + 1])):
                    j = known(self.pivots.others[e])
                    here = known(self.pivots.place[e])
                    for lane in side(self.lanes):
                        L = block(left, here, lane, self.d)
                        U = block(above, here, lane, self.d)
                        put(-L, low, 0, lane, self.d)
                        put(-U, up, 0, lane, self.d)
                        y = block(J.diagonal, j, lane, self.d)
                        for n in ti.static(range(self.d)):
                            for o in ti.static(range(self.d)):
                                for k in ti.static(range(self.d)):
                                    y[n, o] = y[n, o] - L[n, k] * U[k, o]
                        put(y, J.diagonal, j, lane, self.d)
                    for f in each(span(e + 1, self.pivots.starts[s + 1])):
                        edge = known(self.pivots.fill[self.pivots.rows[e] + self.pivots.place[f]])
                        there = known(self.pivots.place[f])
                        for lane in side(self.lanes):
                            y = block(J.upper, edge, lane, self.d)
                            add(y, low, 0, above, there, lane, self.d)
                            put(y, J.upper, edge, lane, self.d)
                        for lane in side(self.lanes):
                            y = block(J.lower, edge, lane, self.d)
                            add(y, left, there, up, 0, lane, self.d)
                            put(y, J.lower, edge, lane, self.d)

        @ti.func
        def solve(self, J: ti.template(), b: ti.template()):
            """b ← J⁻¹ b with the factors in J."""
            y = self.y[0]
            for s in each(self.pivots.steps):
                i = known(self.pivots.order[s])
                for lane in side(self.lanes):
                    for k in ti.static(range(self.d)):
                        y[0, k, lane] = b[i, k, lane]
                    for k in ti.static(range(self.d)):
                        for n in ti.static(range(k + 1, self.d)):
                            y[0, n, lane] = y[0, n, lane] - J.diagonal[i, n * self.d + k, lane] * y[0, k, lane]
                        b[i, k, lane] = y[0, k, lane]
                for e in each(span(self.pivots.starts[s], self.pivots.starts[s + 1])):
                    j = known(self.pivots.others[e])
                    edge = known(self.pivots.edges[e])
                    for lane in side(self.lanes):
                        for n in ti.static(range(self.d)):
                            z = b[j, n, lane]
                            for k in ti.static(range(self.d)):
                                z = z - J.lower[edge, n * self.d + k, lane] * y[0, k, lane]
                            b[j, n, lane] = z
            for back in each(self.pivots.steps):
                s = known(self.pivots.last - back)
                i = known(self.pivots.order[s])
                for lane in side(self.lanes):
                    for k in ti.static(range(self.d)):
                        y[0, k, lane] = b[i, k, lane]
                for e in each(span(self.pivots.starts[s], self.pivots.starts[s + 1])):
                    j = known(self.pivots.others[e])
                    edge = known(self.pivots.edges[e])
                    for lane in side(self.lanes):
                        for k in ti.static(range(self.d)):
                            for n in ti.static(range(self.d)):
                                y[0, k, lane] = y[0, k, lane] - J.upper[edge, k * self.d + n, lane] * b[j, n, lane]
                for lane in side(self.lanes):
                    for low in ti.static(range(self.d)):
                        k = ti.static(self.d - 1 - low)
                        for n in ti.static(range(k + 1, self.d)):
                            y[0, k, lane] = y[0, k, lane] - J.diagonal[i, k * self.d + n, lane] * y[0, n, lane]
                        y[0, k, lane] = y[0, k, lane] * J.diagonal[i, k * self.d + k, lane]
                        b[i, k, lane] = y[0, k, lane]

        @ti.func
        def solve_transposed(self, J: ti.template(), b: ti.template()):
            """b ← J⁻ᵀ b with the factors in J."""
            y = self.y[0]
            for s in each(self.pivots.steps):
                i = known(self.pivots.order[s])
                for lane in side(self.lanes):
                    for k in ti.static(range(self.d)):
                        y[0, k, lane] = b[i, k, lane]
                    for k in ti.static(range(self.d)):
                        y[0, k, lane] = y[0, k, lane] * J.diagonal[i, k * self.d + k, lane]
                        for n in ti.static(range(k + 1, self.d)):
                            y[0, n, lane] = y[0, n, lane] - J.diagonal[i, k * self.d + n, lane] * y[0, k, lane]
                        b[i, k, lane] = y[0, k, lane]
                for e in each(span(self.pivots.starts[s], self.pivots.starts[s + 1])):
                    j = known(self.pivots.others[e])
                    edge = known(self.pivots.edges[e])
                    for lane in side(self.lanes):
                        for n in ti.static(range(self.d)):
                            z = b[j, n, lane]
                            for k in ti.static(range(self.d)):
                                z = z - J.upper[edge, k * self.d + n, lane] * y[0, k, lane]
                            b[j, n, lane] = z
            for back in each(self.pivots.steps):
                s = known(self.pivots.last - back)
                i = known(self.pivots.order[s])
                for lane in side(self.lanes):
                    for k in ti.static(range(self.d)):
                        y[0, k, lane] = b[i, k, lane]
                for e in each(span(self.pivots.starts[s], self.pivots.starts[s + 1])):
                    j = known(self.pivots.others[e])
                    edge = known(self.pivots.edges[e])
                    for lane in side(self.lanes):
                        for k in ti.static(range(self.d)):
                            for n in ti.static(range(self.d)):
                                y[0, k, lane] = y[0, k, lane] - J.lower[edge, n * self.d + k, lane] * b[j, n, lane]
                for lane in side(self.lanes):
                    for low in ti.static(range(self.d)):
                        k = ti.static(self.d - 1 - low)
                        for n in ti.static(range(k + 1, self.d)):
                            y[0, k, lane] = y[0, k, lane] - J.diagonal[i, n * self.d + k, lane] * y[0, n, lane]
                        b[i, k, lane] = y[0, k, lane]

    return BlockLU
