"""The Gauss–Newton step within bounds on the actions: a quadratic programme a rollout, solved where the rollout is.

min ½ δᵀ(Ĥ + μ) δ + g·δ  with  |a + δ| ≤ limit, by projected Newton steps (Bertsekas 1982, SIAM J. Control Optim. 20):
actions near a bound whose model gradient points outward go there, a Riccati recursion solves for the others, and the
path to its solution is clipped to the box and shortened until the model falls. "Near" is MARGIN at first and shrinks:
an action just inside a bound (a tanh never quite reaches it) would be clipped after the shortest way, and what is left
of the others' step need not go downhill. It ends where the model's projected gradient is below `goal`: the optimality
conditions of the bounded problem.
"""

import functools

import taichi as ti

from .loops import Loops
from .trajectory import OK
from .variables import Rows

ITERATIONS = 12
HALVINGS = 12
SUFFICIENT = 1e-4  # of the linear prediction must be gained (Armijo)
AT = 1e-9  # of the limit: an action so near its bound is at it
MARGIN, SHRINK = 1e-2, 0.2  # of the limit: an action so near goes to its bound; times SHRINK in each iteration


@functools.cache
def boxed_step(loops: Loops):
    @ti.data_oriented
    class BoxedStep:
        """One thread a rollout, from the first iteration to the last."""

        def __init__(self, riccati):
            self.riccati = riccati
            self.maps = riccati.maps
            self.mech = riccati.mech
            D, m = self.mech.D, self.mech.m
            self.row = 2 * D + m
            self.weighted = Rows(0, self.row, loops.last, few=True)  # Q δs of each row, as [x, v, π]

        @ti.func
        def product(
            self,
            # In
            b: int,
            h: float,
            first: int,
            maps: ti.template(),
            # Scratch
            store: ti.template(),
            rows: ti.template(),
            # In
            q: ti.template(),
            r: ti.template(),
            damping: ti.template(),
            delta: ti.template(),
            # Out
            image: ti.template(),
        ):
            """image = (SᵀQS + R + μ) delta, one sweep forwards and one back."""
            D, m = ti.static(self.mech.D, self.mech.m)
            V, X, H = ti.static(2 * D, 3 * D, 4 * D)
            map_z, map_q = self.riccati.map_z[store, b], self.riccati.map_q[store, b]
            map_p, map_a = self.riccati.map_p[store, b], self.riccati.map_a[store, b]
            state, lin, row = self.riccati.changes[store, b], self.riccati.linear[store, b], self.riccati.row[store, b]
            N, bq = delta.shape[1], b % q.shape[0]
            act = ti.Vector.zero(float, max(m, 1))
            for n in range(H + m):
                state[n], lin[n] = 0.0, 0.0
            for t in range(N):
                c0, c1, c2 = self.mech.coefficients(t == 0 and first != 0)
                self.maps.read(maps, b, t, N, map_z, map_q, map_p, map_a)
                for k in ti.static(range(m)):
                    act[k] = delta[b, t, k]
                self.maps.advance(c0, c1, c2, h, map_z, map_q, map_p, map_a, act, row, state)
                weighted = self.weighted[rows, b, t, N]
                for n in range(D):
                    weighted[n] = q[bq, t, m + n] * state[n]
                    weighted[D + n] = q[bq, t, m + D + n] * state[V + n]
                for k in ti.static(range(m)):
                    weighted[V + k] = q[bq, t, k] * state[H + k]
            for back in range(N):
                t = N - 1 - back
                c0, c1, c2 = self.mech.coefficients(t == 0 and first != 0)
                self.maps.read(maps, b, t, N, map_z, map_q, map_p, map_a)
                weighted = self.weighted[rows, b, t, N]
                for n in range(D):
                    lin[X + n] = lin[X + n] + weighted[n]
                    lin[V + n] = lin[V + n] + weighted[D + n]
                for k in ti.static(range(m)):
                    lin[H + k] = lin[H + k] + weighted[V + k]
                by = self.maps.pull(c0, h, map_z, map_q, map_p, map_a, row, lin)
                for k in ti.static(range(m)):
                    image[b, t, k] = by[k] + (r[b % r.shape[0], t, k] + damping[b]) * delta[b, t, k]

        @ti.kernel
        def solve(
            self,
            # In
            h: float,
            first: ti.types.ndarray(ndim=1),
            status: ti.types.ndarray(ndim=2),
            maps: ti.types.ndarray(ndim=1),
            # Scratch
            store: ti.types.ndarray(ndim=1),
            rows: ti.types.ndarray(ndim=1),
            free: ti.types.ndarray(ndim=3),
            gains: ti.types.ndarray(ndim=1),
            slope: ti.types.ndarray(ndim=3),
            newton: ti.types.ndarray(ndim=3),
            trial: ti.types.ndarray(ndim=3),
            bent: ti.types.ndarray(ndim=3),
            # In
            a: ti.types.ndarray(ndim=3),
            limit: float,
            goal: ti.types.ndarray(ndim=1),
            g: ti.types.ndarray(ndim=3),
            q: ti.types.ndarray(ndim=3),
            r: ti.types.ndarray(ndim=3),
            damping: ti.types.ndarray(ndim=1),
            # In: zeros, out: δ, (Ĥ + μ) δ and how many recursions it took
            step: ti.types.ndarray(ndim=3),
            image: ti.types.ndarray(ndim=3),
            iterations: ti.types.ndarray(ndim=1),
        ):
            m = ti.static(self.mech.m)
            ti.loop_config(block_dim=32)
            for b in range(g.shape[0]):
                N = g.shape[1]
                running = status[b, N - 1] == OK
                margin = ti.cast(MARGIN, float)
                while running:
                    left = 0.0  # of the model's projected gradient, squared
                    for t in range(N):
                        for k in ti.static(range(m)):
                            y, at = g[b, t, k] + image[b, t, k], a[b, t, k] + step[b, t, k]
                            room = limit - at if y < 0.0 else limit + at
                            slope[b, t, k] = y
                            free[b, t, k] = 0 if room <= margin * limit else 1
                            if room > AT * limit:
                                left += y * y
                    running = left > goal[b] * goal[b] and iterations[b] < ITERATIONS
                    if running:
                        iterations[b] = iterations[b] + 1
                        self.riccati.recursion(
                            b, h, first[b], maps, store, slope, q, r, damping, free, newton, gains, False, gains
                        )
                        for t in range(N):
                            for k in ti.static(range(m)):
                                if free[b, t, k] == 0:
                                    at = a[b, t, k] + step[b, t, k]
                                    newton[b, t, k] = (limit if slope[b, t, k] < 0.0 else -limit) - at
                        margin = ti.max(SHRINK * margin, AT)
                        running = False
                        alpha, halvings = 1.0, 0
                        while not running and halvings < HALVINGS:
                            value, predicted = 0.0, 0.0
                            for t in range(N):
                                for k in ti.static(range(m)):
                                    old = step[b, t, k]
                                    to = a[b, t, k] + old + alpha * newton[b, t, k]
                                    new = ti.min(ti.max(to, -limit), limit) - a[b, t, k]
                                    trial[b, t, k] = new
                                    value -= old * (g[b, t, k] + 0.5 * image[b, t, k])
                                    predicted += slope[b, t, k] * (new - old)
                            self.product(b, h, first[b], maps, store, rows, q, r, damping, trial, bent)
                            for t in range(N):
                                for k in ti.static(range(m)):
                                    value += trial[b, t, k] * (g[b, t, k] + 0.5 * bent[b, t, k])
                            if predicted < 0.0 and value <= SUFFICIENT * predicted:
                                running = True
                                for t in range(N):
                                    for k in ti.static(range(m)):
                                        step[b, t, k] = trial[b, t, k]
                                        image[b, t, k] = bent[b, t, k]
                            alpha *= 0.5
                            halvings += 1

    return BoxedStep
