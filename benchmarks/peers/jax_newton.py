"""The implicit step and its rollout in JAX, for one rollout; `jax_peer` makes a batch of it.

A model (see `jax_chain`, `jax_dense`) knows the forces; its vectors are pytrees of whatever shape it likes:

    assemble(u, x, v, p, c0, lag)       Φ under the loads `lag` and under its own, these, r = G, and parts of J = ∂G/∂x₁
    worst(r)                            ‖r‖∞ over the tolerance
    solve(parts, b, shift)              (J + shift)⁻¹ b; without a shift where J is always positive definite
    pull_back(parts, g, c0)             λ = J⁻ᵀ g, and the cotangents −∂Gᵀλ of x̃, ṽ and p₁
    move(p, a)                          p + h E a
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree import map as each

from taichi_sim.globalisation import SUFFICIENT
from taichi_sim.mechanics import BDF1, BDF2

LIMIT = 60  # evaluations of the residual
EPS = float(jnp.finfo(jnp.float64).eps)


def total(tree):
    """The sum of all numbers in it."""
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(tree))


def root(model, h: float):
    """u(x̃, ṽ, p₁) with G = 0, differentiated by the implicit function theorem."""

    def evaluate(u, x_free, v_free, p, c0, lag):
        x = each(jnp.add, x_free, u)
        v = each(lambda free, y: free + c0 / h * y, v_free, u)
        return model.assemble(u, x, v, p, c0, lag)

    def newton(x_free, v_free, p, c0, guess):
        """Each turn evaluates `trial`; if it is good enough a new direction starts there, else α is halved.

        A direction that is not downhill is not gone; the next turn shifts the diagonal.
        """

        def running(state):
            return ~state["done"] & (state["turn"] < LIMIT)

        def body(state):
            trial, du, alpha = state["trial"], state["du"], state["alpha"]
            merit, own, now, r, parts = evaluate(trial, x_free, v_free, p, c0, state["lag"])
            worst = model.worst(r)
            bound = state["merit"] + SUFFICIENT * alpha * state["slope"] + 16 * EPS * jnp.abs(own)
            good = (merit <= bound) | (worst <= 0.5 * state["worst"])
            done = good & (worst <= 1.0)
            fresh = each(jnp.negative, model.solve(parts, r, state["shift"]))
            slope = total(each(jnp.multiply, r, fresh))
            downhill = slope < 0.0
            alpha = jnp.where(good, 1.0, 0.5 * alpha)
            fresh = each(lambda y: jnp.where(downhill & ~done, y, 0.0), fresh)
            after = each(lambda t, new, old: t + jnp.where(good, new, -alpha * old), trial, fresh, du)

            def kept(new, old):
                return jnp.where(good, new, old)

            return {
                "trial": after,
                "du": each(kept, fresh, du),
                "alpha": alpha,
                "slope": kept(jnp.where(downhill, slope, 0.0), state["slope"]),
                "shift": jnp.where(good & ~downhill, jnp.maximum(4.0 * state["shift"], model.least_shift), 0.0),
                "merit": kept(own, state["merit"]),
                "worst": kept(worst, state["worst"]),
                "lag": each(kept, now, state["lag"]),
                "done": done,
                "turn": state["turn"] + 1,
            }

        zero = 0.0 * total(guess)  # so that a batched guess makes the whole state batched
        state = {
            "trial": guess,
            "du": each(jnp.zeros_like, guess),
            "alpha": 1.0 + zero,
            "slope": zero,
            "shift": zero,
            "merit": jnp.inf + zero,
            "worst": jnp.inf + zero,
            "lag": each(lambda y: y + zero, model.no_load),
            "done": zero > 1.0,
            "turn": 0,
        }
        state = lax.while_loop(running, body, state)
        return state["trial"], state["done"], state["turn"]

    @jax.custom_vjp
    def solve(x_free, v_free, p, c0, guess):
        return newton(x_free, v_free, p, c0, guess)

    def forward(x_free, v_free, p, c0, guess):
        u, done, turns = newton(x_free, v_free, p, c0, guess)
        return (u, done, turns), (u, x_free, v_free, p, c0)

    def backward(kept, cotangents):
        u, x_free, v_free, p, c0 = kept
        *_, parts = evaluate(u, x_free, v_free, p, c0, model.no_load)
        gx_free, gv_free, gp = model.pull_back(parts, cotangents[0], c0)
        return gx_free, gv_free, gp, jnp.zeros_like(c0), each(jnp.zeros_like, u)

    solve.defvjp(forward, backward)
    return solve


def rollout(model, h: float):
    """(x₀, v₀, p₀, a (N, m)) -> rows 1…N of x, whether all steps converged, and the evaluations of the residual."""
    solve = root(model, h)

    def run(x0, v0, p0, a):
        def step(carry, given):
            x, v, x_old, v_old, p = carry
            action, (c0, c1, c2) = given
            v_free = each(lambda y0, y1: -(c1 * y0 + c2 * y1) / c0, v, v_old)
            x_free = each(lambda f, y0, y1: (h * f - c1 * y0 - c2 * y1) / c0, v_free, x, x_old)
            guess = each(lambda y0, y1, f: h / c0 * (2.0 * y0 - y1 - f), v, v_old, v_free)
            p = model.move(p, action)
            u, done, turns = solve(x_free, v_free, p, c0, lax.stop_gradient(guess))
            x1 = each(jnp.add, x_free, u)
            v1 = each(lambda f, y: f + c0 / h * y, v_free, u)
            return (x1, v1, x, v, p), (x1, *lax.stop_gradient((done, turns)))

        N = jax.tree.leaves(a)[0].shape[0]
        formulas = jnp.array([BDF1] + [BDF2] * (N - 1)).T
        _, (x, done, turns) = lax.scan(step, (x0, v0, x0, v0, p0), (a, tuple(formulas)))
        return x, done.all(), turns

    return run
