"""The sparse block LU: its pattern holds all fill-in, and it solves what numpy.linalg.solve solves."""

import numpy as np
import pytest
import taichi as ti
import torch

from taichi_sim.elimination import Elimination
from taichi_sim.lu import BlockLU

CHAIN = (5, [(0, 1), (1, 2), (2, 3), (3, 4)])
RING = (5, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)])
STAR = (5, [(0, 1), (0, 2), (0, 3), (0, 4)])
APART = (4, [(0, 1)])


def random_graph(seed, points=6, share=0.4):
    rng = np.random.default_rng(seed)
    return points, [(i, j) for i in range(points) for j in range(i) if rng.random() < share]


GRAPHS = {"chain": CHAIN, "ring": RING, "star": STAR, "apart": APART} | {
    f"random{n}": random_graph(n) for n in range(3)
}


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
    assert filled == set(elimination.block)
    assert sorted(elimination.block.values()) == list(range(len(elimination.block)))


def test_later_lists_the_neighbours_still_to_be_eliminated():
    for points, edges in GRAPHS.values():
        elimination = Elimination.of(points, edges)
        rank = {i: n for n, i in enumerate(elimination.order)}
        for i in range(points):
            after = {j for i_, j in elimination.block if i_ == i and rank[j] > rank[i]}
            assert set(elimination.later[i]) == after


@pytest.mark.parametrize("graph", (CHAIN, STAR, APART))
def test_trees_have_no_fill_in(graph):
    points, edges = graph
    assert len(Elimination.of(points, edges).block) == points + 2 * len(edges)


def test_ring_fills_in():
    points, edges = RING
    assert len(Elimination.of(points, edges).block) == points + 2 * len(edges) + 2 * (points - 3)


def solver(points, edges, d):
    """solve(A, b) -> A⁻¹b, A⁻ᵀb, smallest pivot, for a batch of matrices (B, n, n) and vectors (B, n)."""
    elimination = Elimination.of(points, edges)
    lu, blocks = BlockLU(elimination, d), len(elimination.block)

    @ti.kernel
    def run(
        J: ti.types.ndarray(ndim=3), b: ti.types.ndarray(ndim=3), x: ti.types.ndarray(ndim=3),
        y: ti.types.ndarray(ndim=3), pivot: ti.types.ndarray(ndim=1),
    ):  # fmt: skip
        for n in range(J.shape[0]):
            A = ti.Matrix.zero(float, blocks * d, d)
            u = ti.Matrix.zero(float, points, d)
            w = ti.Matrix.zero(float, points, d)
            for i in ti.static(range(blocks * d)):
                for k in ti.static(range(d)):
                    A[i, k] = J[n, i, k]
            for i in ti.static(range(points)):
                for k in ti.static(range(d)):
                    u[i, k] = b[n, i, k]
                    w[i, k] = b[n, i, k]
            pivot[n] = lu.factor(A)
            lu.solve(A, u)
            lu.solve_transposed(A, w)
            for i in ti.static(range(points)):
                for k in ti.static(range(d)):
                    x[n, i, k] = u[i, k]
                    y[n, i, k] = w[i, k]

    def solve(A, b):
        J = np.zeros((len(A), blocks * d, d))
        for (i, j), n in elimination.block.items():
            J[:, n * d : n * d + d] = A[:, i * d : i * d + d, j * d : j * d + d]
        b = torch.as_tensor(b).reshape(len(A), points, d).contiguous()
        x, y, pivot = torch.empty_like(b), torch.empty_like(b), torch.empty(len(A), dtype=torch.float64)
        run(torch.as_tensor(J), b, x, y, pivot)
        return x.flatten(1).numpy(), y.flatten(1).numpy(), pivot.numpy()

    return solve


@pytest.mark.parametrize(("name", "d"), [*((name, 2) for name in GRAPHS), ("chain", 3), ("ring", 3)])
def test_lu_solves_like_numpy(simulator, name, d):
    """For symmetric and unsymmetric matrices, direct and transposed, to 1e-13 · cond; all pivots are positive."""
    points, edges = GRAPHS[name]
    A = np.array([matrix(points, edges, d, seed, symmetric=seed % 2 == 0) for seed in range(20)])
    b = np.random.default_rng(1).standard_normal((20, points * d))
    x, y, pivot = solver(points, edges, d)(A, b)
    for found, exact in (
        (x, np.linalg.solve(A, b[..., None])),
        (y, np.linalg.solve(A.transpose(0, 2, 1), b[..., None])),
    ):
        error = np.linalg.norm(found - exact[..., 0], axis=1) / np.linalg.norm(exact[..., 0], axis=1)
        assert (error <= 1e-13 * np.linalg.cond(A)).all()
    assert (pivot > 0).all()


def test_a_matrix_that_is_not_positive_definite_shows_in_its_pivots(simulator):
    """A symmetric matrix with a negative eigenvalue has a pivot ≤ 0 (Sylvester); NaN counts as such."""
    points, edges = RING
    A = np.array([matrix(points, edges, 2, seed, symmetric=True) for seed in range(20)])
    A[10:] -= 0.2 * np.eye(points * 2)  # the smallest eigenvalue was 0.1
    A[0, 0, 0] = np.nan
    _, _, pivot = solver(points, edges, 2)(A, np.ones((20, points * 2)))
    assert (pivot[1:10] > 0).all() and (pivot[10:] <= 0).all() and pivot[0] <= 0
