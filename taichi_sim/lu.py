"""Sparse block LU without pivoting, in place, unrolled over the pattern of an `Elimination`.

J = L U with L unit lower triangular in elimination order; the diagonal of U is stored inverted. A symmetric J
is positive definite exactly when all pivots are positive; a J with positive definite symmetric part has
positive pivots too, so they tell when the Newton direction can be trusted.
"""

import taichi as ti

from .elimination import Elimination


@ti.data_oriented
class BlockLU:
    """Factor and solve with blocks of d × d; J is a local (blocks·d, d) matrix, right-hand sides (P, d)."""

    def __init__(self, elimination: Elimination, d: int):
        order = elimination.order
        # Scalar rows in elimination order, each with its position in storage; entries are (row, column) pairs.
        self.rows = [(i, k) for i in order for k in range(d)]
        rank = {row: n for n, row in enumerate(self.rows)}
        block = elimination.block

        def entry(a, b):
            (i, k), (j, n) = self.rows[a], self.rows[b]
            return (block[i, j] * d + k, n)

        def after(a):
            i, k = self.rows[a]
            return [rank[i, n] for n in range(k + 1, d)] + sorted(
                rank[j, n] for j in elimination.later[i] for n in range(d)
            )

        # One tuple per pivot: its entry, then (L entry, [(U entry, target entry), ...]) for each later row.
        self.pivots = [
            (
                entry(a, a),
                tuple((entry(b, a), tuple((entry(a, c), entry(b, c)) for c in after(a))) for b in after(a)),
            )
            for a in range(len(self.rows))
        ]
        self.below = [tuple((self.rows[b], entry(b, a), entry(a, b)) for b in after(a)) for a in range(len(self.rows))]
        self.backward = [(self.rows[a], entry(a, a), self.below[a]) for a in reversed(range(len(self.rows)))]
        self.forward = [(self.rows[a], entry(a, a), self.below[a]) for a in range(len(self.rows))]

    @ti.func
    def factor(self, J: ti.template()):
        """Overwrite J by its factors; returns the smallest pivot."""
        smallest = ti.cast(ti.math.inf, float)
        for pivot, targets in ti.static(self.pivots):
            d = J[pivot[0], pivot[1]]
            smallest = ti.min(smallest, d)
            if ti.math.isnan(d):
                smallest = -1.0
            inverse = 1.0 / d
            J[pivot[0], pivot[1]] = inverse
            for low, updates in ti.static(targets):
                factor = J[low[0], low[1]] * inverse
                J[low[0], low[1]] = factor
                for up, at in ti.static(updates):
                    J[at[0], at[1]] -= factor * J[up[0], up[1]]
        return smallest

    @ti.func
    def solve(self, J: ti.template(), b: ti.template()):
        """b ← J⁻¹ b with the factors in J."""
        for row, _, below in ti.static(self.forward):
            for other, low, _ in ti.static(below):
                b[other[0], other[1]] -= J[low[0], low[1]] * b[row[0], row[1]]
        for row, pivot, below in ti.static(self.backward):
            for other, _, up in ti.static(below):
                b[row[0], row[1]] -= J[up[0], up[1]] * b[other[0], other[1]]
            b[row[0], row[1]] *= J[pivot[0], pivot[1]]

    @ti.func
    def solve_transposed(self, J: ti.template(), b: ti.template()):
        """b ← J⁻ᵀ b with the factors in J."""
        for row, pivot, below in ti.static(self.forward):
            b[row[0], row[1]] *= J[pivot[0], pivot[1]]
            for other, _, up in ti.static(below):
                b[other[0], other[1]] -= J[up[0], up[1]] * b[row[0], row[1]]
        for row, _, below in ti.static(self.backward):
            for other, low, _ in ti.static(below):
                b[row[0], row[1]] -= J[low[0], low[1]] * b[other[0], other[1]]
