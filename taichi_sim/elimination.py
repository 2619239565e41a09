"""The order of a sparse block LU factorisation, found once per system in NumPy-free Python."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Elimination:
    """Block pattern of J = ∂G/∂x with fill-in, and the order in which its points are eliminated.

    order: the points, first eliminated first (minimum degree)
    later: per point, its neighbours that are eliminated after it, fill-in included
    block: (i, j) -> row of the block in storage; holds (i, j) and (j, i)
    """

    order: tuple[int, ...]
    later: tuple[tuple[int, ...], ...]
    block: dict[tuple[int, int], int]

    @staticmethod
    def of(points: int, edges) -> Elimination:
        """Eliminate the graph of `points` vertices joined by `edges`, the least connected vertex first."""
        near = {i: set() for i in range(points)}
        for i, j in edges:
            near[i].add(j)
            near[j].add(i)
        order, later = [], [()] * points
        while near:
            pivot = min(near, key=lambda i: (len(near[i]), i))
            rest = near.pop(pivot)
            for i in rest:
                near[i] |= rest - {i}
                near[i].discard(pivot)
            order.append(pivot)
            later[pivot] = tuple(sorted(rest))
        pairs = [(i, i) for i in range(points)]
        for i in order:
            pairs += [pair for j in later[i] for pair in ((i, j), (j, i))]
        return Elimination(tuple(order), tuple(later), {pair: n for n, pair in enumerate(pairs)})
