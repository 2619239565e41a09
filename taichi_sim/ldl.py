"""J = L D Lᵀ of a symmetric J, in place; see `lu`."""

import functools

import taichi as ti

from .blocks import Blocks, block, entries, put
from .loops import Loops
from .lu import Pivots


@functools.cache
def block_ldl(loops: Loops):
    each, side, known, span = loops.each, loops.side, loops.known, loops.span

    @ti.data_oriented
    class BlockLDL(Blocks):
        """J = L D Lᵀ with L unit lower triangular in the order of elimination and D diagonal.

        With A = l δ lᵀ a pivot block, `diagonal` keeps δ⁻¹ and l, and `upper` the blocks U = δ⁻¹ B, B = l⁻¹ J, of its
        row; J's block (j, k) loses U_jᵀ B_k.
        """

        symmetric = True

        def __init__(self, pivots: Pivots, d: int, kind=float):
            super().__init__(d, kind)
            self.dd = d * d
            self.at = entries(d, symmetric=True)
            self.pivots, self.lanes = pivots, loops.abreast()
            self.pivot, self.y = loops.local(1, d * (d + 1) // 2, kind), loops.local(1, d, kind)
            self.left = loops.local(1, self.dd, kind)
            self.row = loops.local(pivots.width, self.dd, kind)

        @ti.func
        def factor(self, J: ti.template(), sign: ti.template()):
            """Overwrite J by its factors; `sign` becomes 1 where all pivots are positive, else −1."""
            pivot, above, left = self.pivot[0], self.row[0], self.left[0]
            for lane in side(self.lanes):
                sign[lane] = 1.0
            for s in each(self.pivots.steps):
                i = known(self.pivots.order[s])
                for lane in side(self.lanes):
                    y = ti.Matrix.zero(self.kind, self.d, self.d)
                    for k in ti.static(range(self.d)):
                        for n in ti.static(range(self.d)):
                            y[k, n] = J.diagonal[i, self.at[k][n], lane]
                    sign[lane] = ti.select(self.split(y) > 0.0, sign[lane], -1.0)
                    for k in ti.static(range(self.d)):
                        for n in ti.static(range(k, self.d)):
                            pivot[0, self.at[k][n], lane] = y[n, k]
                            J.diagonal[i, self.at[k][n], lane] = y[n, k]
                for e in each(span(self.pivots.starts[s], self.pivots.starts[s + 1])):
                    j = known(self.pivots.others[e])
                    edge = known(self.pivots.edges[e])
                    at = known(self.pivots.place[e])
                    for lane in side(self.lanes):
                        y = block(J.upper, edge, lane, self.d)
                        for k in ti.static(range(self.d)):
                            for n in ti.static(range(k + 1, self.d)):
                                for o in ti.static(range(self.d)):
                                    y[n, o] = y[n, o] - pivot[0, self.at[k][n], lane] * y[k, o]
                        if ti.static(self.pivots.width > 1):
                            put(y, above, at, lane, self.d)
                        z = ti.Matrix.zero(self.kind, self.d, self.d)
                        for k in ti.static(range(self.d)):
                            for n in ti.static(range(self.d)):
                                z[k, n] = pivot[0, self.at[k][k], lane] * y[k, n]
                        put(z, J.upper, edge, lane, self.d)
                        for n in ti.static(range(self.d)):
                            for o in ti.static(range(n, self.d)):
                                x = J.diagonal[j, self.at[n][o], lane]
                                for k in ti.static(range(self.d)):
                                    x = x - z[k, n] * y[k, o]
                                J.diagonal[j, self.at[n][o], lane] = x
                if ti.static(self.pivots.width > 1):
                    for e in each(span(self.pivots.starts[s], self.pivots.starts[s + 1])):
                        row = known(self.pivots.edges[e])
                        for lane in side(self.lanes):
                            put(block(J.upper, row, lane, self.d), left, 0, lane, self.d)
                        for f in each(span(e + 1, self.pivots.starts[s + 1])):
                            edge = known(self.pivots.fill[self.pivots.rows[e] + self.pivots.place[f]])
                            there = known(self.pivots.place[f])
                            for lane in side(self.lanes):
                                y = block(J.upper, edge, lane, self.d)
                                for n in ti.static(range(self.d)):
                                    for o in ti.static(range(self.d)):
                                        for k in ti.static(range(self.d)):
                                            product = left[0, k * self.d + n, lane] * above[there, k * self.d + o, lane]
                                            y[n, o] = y[n, o] - product
                                put(y, J.upper, edge, lane, self.d)

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
                            y[0, n, lane] = y[0, n, lane] - J.diagonal[i, self.at[k][n], lane] * y[0, k, lane]
                        b[i, k, lane] = y[0, k, lane] * J.diagonal[i, self.at[k][k], lane]
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
                                y[0, k, lane] = y[0, k, lane] - J.upper[edge, k * self.d + n, lane] * b[j, n, lane]
                for lane in side(self.lanes):
                    for low in ti.static(range(self.d)):
                        k = ti.static(self.d - 1 - low)
                        for n in ti.static(range(k + 1, self.d)):
                            y[0, k, lane] = y[0, k, lane] - J.diagonal[i, self.at[k][n], lane] * y[0, n, lane]
                        b[i, k, lane] = y[0, k, lane]

        @ti.func
        def solve_transposed(self, J: ti.template(), b: ti.template()):
            """b ← J⁻ᵀ b, which is J⁻¹ b."""
            self.solve(J, b)

    return BlockLDL
