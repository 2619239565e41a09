"""The value of what remains of a rollout, ½ sᵀPs with s = [z, q, v, x, π] of `riccati`, carried back over one step.

    q = c₁ x + c₂ x₋₁,   z = c₁ v + c₂ v₋₁,   x₁ = T_q q + T_z z + T_π π + T_a a,   v₁ = (c₀ x₁ + q)/h,   π₁ = π + h a

Two substitutions: all of s₁ but x₁ is a sum of multiples of x₁, q, x, v, π and a, which `part` does entry by entry;
then `insert` puts in x₁, by products of a D × D block with one and with four side by side: 5 D³ multiplications a step
where nothing dissipates.
"""

import functools

import taichi as ti

from .linearisation import C1, C2
from .loops import Loops


@functools.cache
def value_function(loops: Loops):
    each = loops.each

    @ti.data_oriented
    class ValueFunction:
        """P is n × n and symmetric."""

        def __init__(self, mechanics):
            self.mech = mechanics
            self.D, self.n = mechanics.D, 4 * mechanics.D + mechanics.m
            self.coordinates = loops.range(self.D)

        @ti.func
        def times(
            self,
            # In
            left: ti.template(),
            i: int,
            right: ti.template(),
            width: ti.template(),
            # Out
            out: ti.template(),
        ):
            """out = row i of leftᵀ right, D × D and D × width, a multiple of D."""
            D, blocks = ti.static(self.D, width // self.D)
            for block in ti.static(range(blocks)):
                for j in each(self.coordinates):
                    out[block * D + j] = 0.0
            for k in range(D):
                y = left[k * D + i]
                for block in ti.static(range(blocks)):
                    for j in each(self.coordinates):
                        out[block * D + j] = out[block * D + j] + y * right[k * width + block * D + j]

        @ti.func
        def thin(self, left: ti.template(), width: ti.template(), i: int, right: ti.template()):
            """Row i of leftᵀ right, D × width and D × m."""
            m = ti.static(self.mech.m)
            total = ti.Vector.zero(float, max(m, 1))
            for k in range(self.D):
                y = left[k * width + i]
                for c in ti.static(range(m)):
                    total[c] = total[c] + y * right[k * m + c]
            return total

        @ti.func
        def part(
            self,
            # In
            c0: float,
            h: float,
            # In: of s₁, but for Kᵀ M; out: without x₁, the upper triangle
            P: ti.template(),
            # In: gains and M_as of the step after
            K: ti.template(),
            M: ti.template(),
            # Out
            xx: ti.template(),
            xq: ti.template(),
            beside: ti.template(),
            xp: ti.template(),
        ):
            """P + KᵀM with s₁ in terms of x₁, q, x, v and π₁: blocks with x₁ go into their own places, others into P's.

            Those of v and x go into `beside`, see `insert`.
            """
            D, n, m = ti.static(self.D, self.n, self.mech.m)
            A, B = c0 / h, 1.0 / h  # v₁ = A x₁ + B q
            Q, V, X, H = ti.static(D, 2 * D, 3 * D, 4 * D)
            for i in range(D):
                z, q, v, x = i * n, (Q + i) * n, (V + i) * n, (X + i) * n
                kz, kq = ti.Vector.zero(float, max(m, 1)), ti.Vector.zero(float, max(m, 1))
                kv, kx = ti.Vector.zero(float, max(m, 1)), ti.Vector.zero(float, max(m, 1))
                for c in ti.static(range(m)):
                    kz[c], kq[c] = K[c * n + i], K[c * n + Q + i]
                    kv[c] = K[c * n + V + i] + C1 * kz[c]
                    kx[c] = K[c * n + X + i] + C1 * kq[c] + A * kv[c]
                for j in each(self.coordinates):
                    zz, zq, zv, zx = P[z + j], P[z + Q + j], P[z + V + j], P[z + X + j]
                    qz, qq, qv, qx = P[q + j], P[q + Q + j], P[q + V + j], P[q + X + j]
                    # what v₁ is multiplied with, then what x₁ is, before their own columns are added
                    speed_z, speed_q = P[v + j] + C1 * zz, P[v + Q + j] + C1 * zq
                    speed_v, speed_x = P[v + V + j] + C1 * zv, P[v + X + j] + C1 * zx
                    place_z, place_q = P[x + j] + C1 * qz + A * speed_z, P[x + Q + j] + C1 * qq + A * speed_q
                    place_v, place_x = P[x + V + j] + C1 * qv + A * speed_v, P[x + X + j] + C1 * qx + A * speed_x
                    for c in ti.static(range(m)):
                        mz, mq, mv, mx = M[c * n + j], M[c * n + Q + j], M[c * n + V + j], M[c * n + X + j]
                        speed_z, speed_q, speed_v = speed_z + kv[c] * mz, speed_q + kv[c] * mq, speed_v + kv[c] * mv
                        place_z, place_q = place_z + kx[c] * mz, place_q + kx[c] * mq
                        place_v, place_x = place_v + kx[c] * mv, place_x + kx[c] * mx
                        zz, zq, qq = zz + kz[c] * mz, zq + kz[c] * mq, qq + kq[c] * mq
                    across = place_v + C1 * place_z
                    xx[i * D + j] = place_x + C1 * place_q + A * across
                    xq[i * D + j] = B * across
                    beside[i * H + V + j] = C2 * place_z
                    beside[i * H + X + j] = C2 * place_q
                    P[x + X + j] = C2 * C2 * qq
                    P[v + V + j] = C2 * C2 * zz
                    P[v + X + j] = C2 * C2 * zq
                    P[q + Q + j] = B * B * (speed_v + C1 * speed_z)
                    P[q + V + j] = B * C2 * speed_z
                    P[q + X + j] = B * C2 * speed_q
                for c in ti.static(range(m)):
                    zp, qp = P[z + H + c], P[q + H + c]
                    speed_p = P[v + H + c] + C1 * zp
                    place_p = P[x + H + c] + C1 * qp + A * speed_p
                    for e in ti.static(range(m)):
                        mp = M[e * n + H + c]
                        zp, qp = zp + kz[e] * mp, qp + kq[e] * mp
                        speed_p, place_p = speed_p + kv[e] * mp, place_p + kx[e] * mp
                    xp[i * m + c] = place_p
                    P[x + H + c] = C2 * qp
                    P[v + H + c] = C2 * zp
                    P[q + H + c] = B * speed_p
            for i in ti.static(range(m)):
                for c in ti.static(range(i, m)):
                    at = ti.static((H + i) * n + H + c)
                    for e in ti.static(range(m)):
                        P[at] = P[at] + K[e * n + H + i] * M[e * n + H + c]

        @ti.func
        def insert(
            self,
            # In
            c0: float,
            h: float,
            map_z: ti.template(),
            map_q: ti.template(),
            map_p: ti.template(),
            map_a: ti.template(),
            xx: ti.template(),
            xq: ti.template(),
            beside: ti.template(),
            xp: ti.template(),
            # Scratch
            row: ti.template(),
            product_p: ti.template(),
            product_a: ti.template(),
            # In: what `part` left, out: M_ss, the upper triangle
            P: ti.template(),
            # Out: M_as
            mixed: ti.template(),
        ):
            """x₁ = T_q q + T_z z + T_π π + T_a a, put into what `part` left. Returns M_aa, without R.

            Where nothing is damped a acts through π₁ = π + h a alone, so that all of its derivatives are h times π's.
            `beside` is D × 4D: what x₁ is multiplied with, as sums over z and q, and v and x. Its products with T_zᵀ
            are whole rows of P.
            """
            D, n, m = ti.static(self.D, self.n, self.mech.m)
            Q, V, X, H = ti.static(D, 2 * D, 3 * D, 4 * D)
            A = c0 / h
            for i in range(D):
                self.times(xx, i, map_z, D, row)
                for j in each(self.coordinates):
                    beside[i * H + j] = row[j]
                    beside[i * H + Q + j] = A * row[j] + xq[i * D + j]
                if ti.static(self.mech.dissipative):
                    self.times(xx, i, map_q, D, row)
                    for j in each(self.coordinates):
                        beside[i * H + Q + j] = row[j] + xq[i * D + j]
                by_p = self.thin(xx, D, i, map_p)
                for c in ti.static(range(m)):
                    product_p[i * m + c] = by_p[c] + xp[i * m + c]
                if ti.static(self.mech.damped):
                    by_a = self.thin(xx, D, i, map_a)
                    for c in ti.static(range(m)):
                        product_a[i * m + c] = by_a[c] + h * xp[i * m + c]
            for i in range(D):
                self.times(map_z, i, beside, H, row)
                for block in ti.static(range(4)):
                    for j in each(self.coordinates):
                        P[i * n + block * D + j] = row[block * D + j]
                if ti.static(self.mech.dissipative):
                    self.times(map_q, i, beside, H, row)
                    for block in ti.static(range(1, 4)):
                        for j in each(self.coordinates):
                            at = (Q + i) * n + block * D + j
                            P[at] = P[at] + row[block * D + j]
                    self.times(xq, i, map_q, D, row)
                    for j in each(self.coordinates):
                        P[(Q + i) * n + Q + j] = P[(Q + i) * n + Q + j] + row[j]
                else:
                    for block in ti.static((2, 3)):
                        for j in each(self.coordinates):
                            at = (Q + i) * n + block * D + j
                            P[at] = P[at] + A * row[block * D + j]
                if ti.static(self.mech.damped):
                    act_z, act_q = self.thin(map_z, D, i, product_a), self.thin(map_q, D, i, product_a)
                    act_q += self.thin(xq, D, i, map_a)
                    act_v, act_x = self.thin(beside, H, V + i, map_a), self.thin(beside, H, X + i, map_a)
                    for c in ti.static(range(m)):
                        mixed[c * n + i] = act_z[c]
                        mixed[c * n + Q + i] = h * P[(Q + i) * n + H + c] + act_q[c]
                        mixed[c * n + V + i] = h * P[(V + i) * n + H + c] + act_v[c]
                        mixed[c * n + X + i] = h * P[(X + i) * n + H + c] + act_x[c]
                by_z = self.thin(map_z, D, i, product_p)
                by_q = self.thin(xq, D, i, map_p)
                if ti.static(self.mech.dissipative):
                    by_q += self.thin(map_q, D, i, product_p)
                else:
                    by_q += A * by_z
                by_v, by_x = self.thin(beside, H, V + i, map_p), self.thin(beside, H, X + i, map_p)
                for c in ti.static(range(m)):
                    P[i * n + H + c] = by_z[c]
                    P[(Q + i) * n + H + c] = P[(Q + i) * n + H + c] + by_q[c]
                    P[(V + i) * n + H + c] = P[(V + i) * n + H + c] + by_v[c]
                    P[(X + i) * n + H + c] = P[(X + i) * n + H + c] + by_x[c]
                    if ti.static(not self.mech.damped):
                        for block in ti.static(range(4)):
                            mixed[c * n + block * D + i] = h * P[(block * D + i) * n + H + c]
            if ti.static(not self.mech.dissipative):
                for i in range(D):
                    for j in range(i, D):
                        y = A * (P[i * n + Q + j] + P[j * n + Q + i]) - A * A * P[i * n + j]
                        P[(Q + i) * n + Q + j] = P[(Q + i) * n + Q + j] + y

            corner = ti.Matrix.zero(float, max(m, 1), max(m, 1))
            for i in ti.static(range(m)):  # a's own part needs π's as it was
                for c in ti.static(range(m)):
                    y = P[ti.static((H + min(i, c)) * n + H + max(i, c))]
                    corner[i, c] = h * h * y
                    mixed[c * n + H + i] = h * y
            for i in ti.static(range(m)):
                by_p, lean = self.thin(map_p, m, i, product_p), self.thin(xp, m, i, map_p)
                for c in ti.static(range(i, m)):
                    at = ti.static((H + i) * n + H + c)
                    P[at] = P[at] + by_p[c] + lean[c]
                if ti.static(self.mech.damped):
                    by_a, by_pa = self.thin(map_a, m, i, product_a), self.thin(map_p, m, i, product_a)
                    lean_a = self.thin(xp, m, i, map_a)
                    for c in ti.static(range(m)):
                        corner[i, c] += by_a[c] + h * lean_a[c]
                        mixed[c * n + H + i] = mixed[c * n + H + i] + by_pa[c] + lean_a[c]
            if ti.static(not self.mech.damped):
                for i in ti.static(range(m)):
                    for c in ti.static(range(m)):
                        y = P[ti.static((H + min(i, c)) * n + H + max(i, c))]
                        corner[i, c] = h * h * y
                        mixed[c * n + H + i] = h * y
            return corner

    return ValueFunction
