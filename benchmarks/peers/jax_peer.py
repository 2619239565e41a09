"""JAX, jitted and vmapped: the very step of this project, with the implicit-function derivative.

Tried on one core with AVX-512, by processor time, in multiples of our time for the same rollouts:

    rope      tridiagonal by hand, 64 rollouts vmapped at a time        5.3 (4.4 in another run)
              … 256 at once 8.6;  LLVM vectors of 256 instead of 512 bits 5.4;  optimisation barriers no better
              dense J by hand: Cholesky 6.5, jnp.linalg.solve 9.5, lu_factor 11.0
              dense J by jacfwd 14.5, by jax.hessian 16.3, both with lu_factor
    double    tridiagonal 128 at a time 2.0, 64 at a time 2.0;  dense 8.9
    cloth     dense LU, rollouts one by one 1.9, 4 or 8 vmapped 2.1, 64 vmapped 3.4

A while_loop under vmap goes on until the last of its rollouts has converged, which is why small chunks win; they must
fill the vector units, unless the time goes into LAPACK anyway, as for the cloth. Friction makes the cloth's J
unsymmetric, so that Cholesky is none of its choices.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from . import ours
from .jax_chain import Chain
from .jax_dense import Dense
from .jax_newton import rollout
from .problem import Problem
from .timing import Candidate, compile_seconds

jax.config.update("jax_enable_x64", True)
CHUNKS = {"rope": 64, "double": 128, "cloth": 1}


def shared(threads: int) -> NamedSharding:
    """A batch divided among as many devices."""
    return NamedSharding(jax.make_mesh((threads,), ("rollouts",)), P("rollouts"))


def functions(problem: Problem, model, chunk: int, threads: int = 1):
    """Jitted forward and gradient of arrays whose batch comes first; `chunk` rollouts are vmapped, chunks in turn.

    Every thread is a device with its share of the batch, so that none waits for another within a step.
    """
    scalars = isinstance(model, Chain)
    run = rollout(model, problem.task.h)
    goal = problem.task.goal.numpy()

    def one(x, v, p, a):
        if scalars:
            x, v, p = ([[y[i, k] for k in range(3)] for i in range(len(y))] for y in (x, v, p))
            p, a = p[0], [a[:, k] for k in range(a.shape[1])]
        rows, ok, turns = run(x, v, p, a)
        if scalars:
            distance = sum(jnp.sum((y - goal[i, k]) ** 2) for i, row in enumerate(rows) for k, y in enumerate(row))
            last = jnp.stack([jnp.stack([y[-1] for y in row]) for row in rows])
        else:
            distance, last = jnp.sum((rows - goal) ** 2), rows[-1]
        return distance, (last, ok, turns)

    def chunked(f):
        def run(*given):
            return lax.map(lambda row: f(*row), given, batch_size=None if chunk == 1 else chunk)

        each = shared(threads)
        return jax.shard_map(run, mesh=each.mesh, in_specs=each.spec, out_specs=each.spec, check_vma=False)

    def loss(a, x, v, p):
        return one(x, v, p, a)

    def gradient(x, v, p, a):
        slope, (_, ok, _) = jax.grad(loss, has_aux=True)(a, x, v, p)
        return slope, ok

    return jax.jit(chunked(lambda *given: one(*given)[1])), jax.jit(chunked(gradient))


def candidates(problem: Problem, reference: Candidate, threads: int) -> list[Candidate]:
    system, h = problem.task.system, problem.task.h
    model = Dense(system, h) if problem.name == "cloth" else Chain(system, h)
    return [candidate(problem, reference, model, CHUNKS[problem.name], threads)]


def candidate(problem: Problem, reference: Candidate, model, chunk: int, threads: int) -> Candidate:
    forward_of, gradient_of = functions(problem, model, chunk, threads)
    given = (problem.start.x, problem.start.v, problem.start.p, problem.actions)
    given = [jax.device_put(y.numpy(), shared(threads)) for y in given]

    def forward():
        last, ok, _ = jax.block_until_ready(forward_of(*given))
        assert ok.all()
        return np.asarray(last)

    def gradient():
        slope, ok = jax.block_until_ready(gradient_of(*given))
        assert ok.all()
        return np.asarray(slope)

    compiled = compile_seconds(forward, gradient)
    off = np.abs(forward() - reference.forward()).max()
    assert off < 1e-9, f"rows are {off:.1e} m from ours"
    exact = ours.gradient(problem).numpy()
    off = np.abs(gradient() - exact).max((1, 2)) / np.abs(exact).max((1, 2))
    # Where a cable is about to go slack the derivative changes so fast that round-off in the rows shows.
    assert np.median(off) < 1e-8 and off.max() < 1e-4, f"the gradient is {np.median(off):.1e}, {off.max():.1e} off"
    turns = np.asarray(forward_of(*given)[2])
    name = "tridiagonal" if isinstance(model, Chain) else "dense LU"
    setting = f"same step, {name}, {min(chunk, len(problem.start))} vmapped, {turns.mean():.1f} evaluations"
    return Candidate(problem.name, "JAX", setting, reference.error, problem.steps, compiled, forward, gradient)
