"""The sparse block factors: their pattern holds all fill-in, and they solve what numpy.linalg.solve solves."""

import functools

import numpy as np
import pytest
import taichi as ti
import torch
from systems import LAST

from taichi_sim.elimination import Elimination
from taichi_sim.ldl import block_ldl
from taichi_sim.loops import ABREAST, ALONE, LOOPED, STRAIGHT, UNROLLED, UNROLLED_UPDATES
from taichi_sim.lu import Pivots, block_lu
from taichi_sim.runtime import compiled_quickly
from taichi_sim.variables import Group, Scratch

CHAIN = (5, [(0, 1), (1, 2), (2, 3), (3, 4)])
RING = (5, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)])
STAR = (5, [(0, 1), (0, 2), (0, 3), (0, 4)])
APART = (4, [(0, 1)])


def random_graph(seed, points=6, share=0.4):
    rng = np.random.default_rng(seed)
    return points, [(i, j) for i in range(points) for j in range(i) if rng.random() < share]


def cloth(side):
    """A square grid with edges to the next point in rows, columns and diagonals, and to the next but one."""
    steps = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0))
    return side**2, [
        (i * side + j, (i + down) * side + j + right)
        for i in range(side)
        for j in range(side)
        for down, right in steps
        if i + down < side and 0 <= j + right < side
    ]


GRAPHS = {"chain": CHAIN, "ring": RING, "star": STAR, "apart": APART} | {
    f"random{n}": random_graph(n) for n in range(3)
}
SMALL = tuple(GRAPHS)
GRAPHS["cloth"] = cloth(5)


def matrix(points, edges, d, seed, symmetric):
    """A random block matrix of the graph whose symmetric part is positive definite; symmetric on demand."""
    rng = np.random.default_rng(seed)
    A = np.zeros((points * d, points * d))
    for i, j in [*edges, *((j, i) for i, j in edges)]:
        A[i * d : i * d + d, j * d : j * d + d] = rng.standard_normal((d, d))
    for i in range(points):
        A[i * d : i * d + d, i * d : i * d + d] = rng.standard_normal((d, d))
    if symmetric:
        A = A + A.T
    return A + (0.1 - np.linalg.eigvalsh(0.5 * (A + A.T))[0]) * np.eye(len(A))


@pytest.mark.parametrize("graph", [*GRAPHS.values(), *(random_graph(n, 12, 0.25) for n in range(3, 20))])
def test_pattern_holds_every_entry_of_the_dense_factors(graph):
    """Gaussian elimination of a full NumPy matrix in the given order makes no entry outside the pattern, and each
    block of the pattern holds one."""
    points, edges = graph
    elimination = Elimination.of(points, edges)
    assert sorted(elimination.order) == list(range(points))
    A = matrix(points, edges, 1, 0, symmetric=False)
    A = A[np.ix_(elimination.order, elimination.order)]
    for k in range(points):
        A[k + 1 :, k] /= A[k, k]
        A[k + 1 :, k + 1 :] -= np.outer(A[k + 1 :, k], A[k, k + 1 :])
    filled = {(elimination.order[a], elimination.order[b]) for a, b in zip(*np.nonzero(A), strict=True)}
    edges = set(elimination.edge)
    assert filled == {(i, i) for i in range(points)} | edges | {(j, i) for i, j in edges}
    assert list(elimination.edge.values()) == list(range(len(edges)))
    assert elimination.blocks == len(filled)


def test_later_lists_the_neighbours_still_to_be_eliminated():
    for points, edges in GRAPHS.values():
        elimination = Elimination.of(points, edges)
        rank = {i: n for n, i in enumerate(elimination.order)}
        for i in range(points):
            after = [j for i_, j in elimination.edge if i_ == i]
            assert list(elimination.later[i]) == sorted(after, key=rank.get)
            assert all(rank[j] > rank[i] for j in after)


@pytest.mark.parametrize("graph", (CHAIN, STAR, APART))
def test_trees_have_no_fill_in(graph):
    points, edges = graph
    assert Elimination.of(points, edges).blocks == points + 2 * len(edges)


def test_ring_fills_in():
    points, edges = RING
    assert Elimination.of(points, edges).blocks == points + 2 * len(edges) + 2 * (points - 3)


@functools.cache
def solver(factors, loops, name, d, kind=float):
    """solve(A, b) -> A⁻¹b, A⁻ᵀb, the sign of the pivots, for a batch of matrices (B, n, n) and vectors (B, n)."""
    points, edges = GRAPHS[name]
    elimination = Elimination.of(points, edges)
    assert not loops.unrolled or sum(len(later) ** 2 for later in elimination.later) <= UNROLLED_UPDATES  # minutes else
    tables, scratch, dd = loops.tables(), Scratch(loops, kind), d * d
    lu = factors(loops)(Pivots(loops, elimination, tables), d, kind)
    tables.fill(lu)
    each, through, across, many = loops.each, loops.through, loops.across, loops.many
    strips, lanes = loops.strips(), loops.all_lanes()
    kept = [k * d + n for k in range(d) for n in range(k if lu.symmetric else 0, d)]  # of a diagonal block
    count = len(elimination.edge)
    blocks = {"diagonal": scratch.slot(points, len(kept)), "upper": scratch.slot(count, dd)}
    if not lu.symmetric:
        blocks["lower"] = scratch.slot(count, dd)
    blocks = Group(**blocks)
    vectors = Group(u=scratch.slot(points, d), w=scratch.slot(points, d), sign=scratch.scalar())
    rows, pairs = loops.range(points), loops.range(count)

    @ti.kernel
    def run(
        J: ti.types.ndarray(ndim=2), b: ti.types.ndarray(ndim=2), work: ti.types.ndarray(ndim=1),
        x: ti.types.ndarray(ndim=2), y: ti.types.ndarray(ndim=2), pivot: ti.types.ndarray(ndim=1),
    ):  # fmt: skip
        for group in range((J.shape[0] + many - 1) // many):
            A, z = blocks[work, group], vectors[work, group]
            for lane in across(lanes):
                n = ti.min(group * many + lane, J.shape[0] - 1)
                for i in each(rows):
                    for k in ti.static(range(len(kept))):
                        A.diagonal[i, k, lane] = ti.cast(J[n, i * dd + kept[k]], kind)
                for i in each(pairs):
                    for k in ti.static(range(dd)):
                        A.upper[i, k, lane] = ti.cast(J[n, (points + i) * dd + k], kind)
                        if ti.static(not lu.symmetric):
                            A.lower[i, k, lane] = ti.cast(J[n, (points + count + i) * dd + k], kind)
                for i in each(rows):
                    for k in ti.static(range(d)):
                        z.u[i, k, lane] = ti.cast(b[n, i * d + k], kind)
                        z.w[i, k, lane] = ti.cast(b[n, i * d + k], kind)
            for strip in through(strips):
                mine, vector = A[strip], z[strip]
                lu.factor(mine, vector.sign)
                lu.solve(mine, vector.u)
                lu.solve_transposed(mine, vector.w)
            for lane in across(lanes):
                n = group * many + lane
                if n < J.shape[0]:
                    pivot[n] = z.sign[lane]
                    for i in each(rows):
                        for k in ti.static(range(d)):
                            x[n, i * d + k] = z.u[i, k, lane]
                            y[n, i * d + k] = z.w[i, k, lane]

    def solve(A, b):
        B = len(A)
        J = np.zeros((B, elimination.blocks * dd))
        numbered = {(i, i): i for i in range(points)}
        for (i, j), n in elimination.edge.items():
            numbered |= {(i, j): points + n, (j, i): points + count + n}
        for (i, j), n in numbered.items():
            J[:, n * dd : n * dd + dd] = A[:, i * d : i * d + d, j * d : j * d + d].reshape(B, dd)
        b = torch.as_tensor(b)
        numbers = torch.float32 if kind == ti.f32 else torch.float64
        work = torch.full((B * max(scratch.size, 1),), torch.nan, dtype=numbers)
        x, y, pivot = torch.empty_like(b), torch.empty_like(b), torch.empty(B, dtype=torch.float64)
        with compiled_quickly():
            run(torch.as_tensor(J), b, work, x, y, pivot)
        return x.numpy(), y.numpy(), pivot.numpy()

    return solve


def systems_of_equations(points, edges, d, symmetric):
    """Twenty matrices, symmetric or in turn not, and right-hand sides."""
    A = np.array([matrix(points, edges, d, seed, symmetric or seed % 2 == 0) for seed in range(20)])
    return A, np.random.default_rng(1).standard_normal((20, points * d))


KINDS = (UNROLLED, STRAIGHT, LOOPED, ALONE, ABREAST)
CASES = [*((name, 2) for name in SMALL), ("chain", 3), ("ring", 3)]


@pytest.mark.parametrize("factors", (block_lu, block_ldl))
@pytest.mark.parametrize(
    ("loops", "name", "d"),
    [
        *((loops, name, d) for loops in KINDS for name, d in CASES),
        *((loops, "cloth", 3) for loops in (LOOPED, LAST, ABREAST)),
    ],
    ids=str,
)
def test_factors_solve_like_numpy(simulator, factors, loops, name, d):
    """For symmetric and unsymmetric matrices, direct and transposed, to 1e-13 · cond; all pivots are positive."""
    A, b = systems_of_equations(*GRAPHS[name], d, factors is block_ldl)
    x, y, pivot = solver(factors, loops, name, d)(A, b)
    for found, exact in (
        (x, np.linalg.solve(A, b[..., None])),
        (y, np.linalg.solve(A.transpose(0, 2, 1), b[..., None])),
    ):
        error = np.linalg.norm(found - exact[..., 0], axis=1) / np.linalg.norm(exact[..., 0], axis=1)
        assert (error <= 1e-13 * np.linalg.cond(A)).all()
    assert (pivot > 0).all()


@pytest.mark.parametrize("loops", KINDS, ids=str)
@pytest.mark.parametrize("factors", (block_lu, block_ldl))
def test_factors_in_float32_are_off_by_its_round_off(simulator, factors, loops):
    """By 1e-6 · cond at most, and by more than factors in float64 are."""
    A, b = systems_of_equations(*GRAPHS["ring"], 3, factors is block_ldl)
    x, y, _ = solver(factors, loops, "ring", 3, kind=ti.f32)(A, b)
    for found, matrix in ((x, A), (y, A.transpose(0, 2, 1))):
        exact = np.linalg.solve(matrix, b[..., None])[..., 0]
        error = np.linalg.norm(found - exact, axis=1) / np.linalg.norm(exact, axis=1)
        assert (error <= 1e-6 * np.linalg.cond(A)).all() and error.max() > 1e-9


@pytest.mark.parametrize(("kind", "power"), ((float, 120), (ti.f32, 50)), ids=("float64", "float32"))
@pytest.mark.parametrize("factors", (block_lu, block_ldl))
def test_large_and_small_stiffness_is_solved_as_exactly(simulator, factors, kind, power):
    """Of 2ⁿA for A every number is the same but for a power of two, unless one has no room."""
    A, b = systems_of_equations(*GRAPHS["ring"], 3, factors is block_ldl)
    solve = solver(factors, ABREAST, "ring", 3, kind)
    x, y, pivot = solve(A, b)
    for n in (-power, power):
        scaled = solve(2.0**n * A, b)
        for found, plain in zip(scaled, (2.0**-n * x, 2.0**-n * y, pivot), strict=True):
            assert np.array_equal(found, plain)


@pytest.mark.parametrize("factors", (block_lu, block_ldl))
@pytest.mark.parametrize("loops", KINDS, ids=str)
def test_a_matrix_that_is_not_positive_definite_shows_in_its_pivots(simulator, factors, loops):
    """A symmetric matrix with a negative eigenvalue has a pivot ≤ 0 (Sylvester); NaN counts as such."""
    points, edges = RING
    A = np.array([matrix(points, edges, 2, seed, symmetric=True) for seed in range(20)])
    A[10:] -= 0.2 * np.eye(points * 2)  # the smallest eigenvalue was 0.1
    A[0, 0, 0] = np.nan
    _, _, pivot = solver(factors, loops, "ring", 2)(A, np.ones((20, points * 2)))
    assert (pivot[1:10] > 0).all() and (pivot[10:] <= 0).all() and pivot[0] <= 0
