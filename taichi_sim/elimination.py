"""The order of a sparse block factorisation, found once per system in NumPy-free Python."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Elimination:
    """Block pattern of J = ∂G/∂x with fill-in, and the order in which its points are eliminated.

    order: the points, first eliminated first: by least degree or by least fill-in, whichever needs less work
    later: per point, its neighbours that are eliminated after it, in that order, fill-in included
    edge: (i, j), i eliminated before j -> number of the blocks (i, j) and (j, i) in storage
    """

    order: tuple[int, ...]
    later: tuple[tuple[int, ...], ...]
    edge: dict[tuple[int, int], int]

    @staticmethod
    def of(points: int, edges) -> Elimination:
        """Eliminate the graph of `points` vertices joined by `edges`."""

        def degree(near, i):
            return (len(near[i]),)

        def fill_in(near, i):
            rest = near[i]
            return len(rest) * (len(rest) - 1) - sum(len(near[j] & rest) for j in rest), len(rest)

        choices = [_eliminate(points, edges, rule) for rule in (degree, fill_in)]
        order, later = min(choices, key=lambda choice: sum(len(rest) ** 2 for rest in choice[1]))
        rank = {i: n for n, i in enumerate(order)}
        later = tuple(tuple(sorted(rest, key=rank.get)) for rest in later)
        pairs = [(i, j) for i in order for j in later[i]]
        return Elimination(tuple(order), later, {pair: n for n, pair in enumerate(pairs)})

    @property
    def blocks(self) -> int:
        """d × d blocks of J that can be other than zero."""
        return len(self.order) + 2 * len(self.edge)

    @property
    def updates(self) -> int:
        """Block products that a factorisation subtracts."""
        return sum(len(rest) ** 2 for rest in self.later)


def _eliminate(points: int, edges, rule):
    """Order and later neighbours when the vertex with the least rule(neighbours, vertex) always comes next.

    Of several such, one that waits for the shortest chain of earlier ones: a CPU computes those of two chains at once.
    """
    near = {i: set() for i in range(points)}
    height = dict.fromkeys(near, 0)
    for i, j in edges:
        near[i].add(j)
        near[j].add(i)
    order, later = [], [()] * points
    while near:
        pivot = min(near, key=lambda i: (*rule(near, i), height[i], i))
        rest = near.pop(pivot)
        for i in rest:
            near[i] |= rest - {i}
            near[i].discard(pivot)
            height[i] = max(height[i], height[pivot] + 1)
        order.append(pivot)
        later[pivot] = tuple(rest)
    return order, later
