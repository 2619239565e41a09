"""The value of what remains of a rollout, ½ sᵀPs with s = [z, q, v, x, π] of `riccati`, carried back over one step.

    q = c₁ x + c₂ x₋₁,   z = c₁ v + c₂ v₋₁,   x₁ = T_q q + T_z z + T_π π + T_a a,   v₁ = (c₀ x₁ + q)/h,   π₁ = π + h a

Two substitutions: all of s₁ but x₁ is a sum of multiples of x₁, q, x, v, π and a, which `part` does entry by entry;
then `insert` puts in x₁, by products of D × D blocks: 4.5 D³ multiplications a step where nothing dissipates.
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
        """P is n × n, of which the upper triangle is used."""

        def __init__(self, mechanics):
            self.mech = mechanics
            self.D, self.n = mechanics.D, 4 * mechanics.D + mechanics.m
            self.coordinates = loops.range(self.D)

        @ti.func
        def times(self, left: ti.template(), i: int, right: ti.template(), out: ti.template()):
            """out = row i of leftᵀ right, both D × D."""
            for j in each(self.coordinates):
                out[j] = 0.0
            for k in range(self.D):
                y = left[k * self.D + i]
                for j in each(self.coordinates):
                    out[j] = out[j] + y * right[k * self.D + j]

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
            # In: of s₁, out: without x₁
            P: ti.template(),
            # Out
            xx: ti.template(),
            xq: ti.template(),
            xv: ti.template(),
            xx0: ti.template(),
            xp: ti.template(),
        ):
            """P with s₁ in terms of x₁, q, x, v and π₁: blocks with x₁ go into their own places, others into P's."""
            D, n, m = ti.static(self.D, self.n, self.mech.m)
            A, B = c0 / h, 1.0 / h  # v₁ = A x₁ + B q
            Z, Q, V, X, H = ti.static(0, D, 2 * D, 3 * D, 4 * D)
            for i in range(D):
                for j in range(i, D):
                    ij, ji = i * n + j, j * n + i
                    zz, qq, vv = P[Z * n + ij + Z], P[Q * n + ij + Q], P[V * n + ij + V]
                    zq, qz, zv, vz = P[Z * n + ij + Q], P[Z * n + ji + Q], P[Z * n + ij + V], P[Z * n + ji + V]
                    zx, xz, qv, vq = P[Z * n + ij + X], P[Z * n + ji + X], P[Q * n + ij + V], P[Q * n + ji + V]
                    qx, Xq = P[Q * n + ij + X], P[Q * n + ji + X]
                    # with all that x₁ moves beside it (left) and all that v₁ moves (right)
                    place = P[X * n + ij + X] + C1 * (qx + Xq) + C1 * C1 * qq
                    speed = vv + C1 * (zv + vz) + C1 * C1 * zz
                    across = P[V * n + ji + X] + C1 * (xz + qv) + C1 * C1 * qz
                    across_t = P[V * n + ij + X] + C1 * (zx + vq) + C1 * C1 * zq
                    speed_q, speed_q_t = vq + C1 * zq, qv + C1 * qz
                    speed_z, speed_z_t = vz + C1 * zz, zv + C1 * zz
                    both = place + A * (across + across_t) + A * A * speed
                    xx[i * D + j] = both
                    xx[j * D + i] = both
                    xq[i * D + j] = B * (across + A * speed)
                    xq[j * D + i] = B * (across_t + A * speed)
                    xx0[i * D + j] = C2 * (Xq + C1 * qq + A * speed_q)
                    xx0[j * D + i] = C2 * (qx + C1 * qq + A * speed_q_t)
                    xv[i * D + j] = C2 * (xz + C1 * qz + A * speed_z)
                    xv[j * D + i] = C2 * (zx + C1 * zq + A * speed_z_t)
                    P[Q * n + ij + Q] = B * B * speed
                    P[Q * n + ij + X] = B * C2 * speed_q
                    P[Q * n + ji + X] = B * C2 * speed_q_t
                    P[Q * n + ij + V] = B * C2 * speed_z
                    P[Q * n + ji + V] = B * C2 * speed_z_t
                    P[V * n + ij + V] = C2 * C2 * zz
                    P[V * n + ij + X] = C2 * C2 * zq
                    P[V * n + ji + X] = C2 * C2 * qz
                    P[X * n + ij + X] = C2 * C2 * qq
                for c in ti.static(range(m)):
                    at = i * n + H + c
                    z, q = P[Z * n + at], P[Q * n + at]
                    speed = P[V * n + at] + C1 * z
                    xp[i * m + c] = P[X * n + at] + C1 * q + A * speed
                    P[Q * n + at] = B * speed
                    P[V * n + at] = C2 * z
                    P[X * n + at] = C2 * q

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
            xv: ti.template(),
            xx0: ti.template(),
            xp: ti.template(),
            # Scratch
            row: ti.template(),
            product: ti.template(),
            product_q: ti.template(),
            product_p: ti.template(),
            product_a: ti.template(),
            # In: what `part` left, out: M_ss
            P: ti.template(),
            # Out: M_as
            mixed: ti.template(),
        ):
            """x₁ = T_q q + T_z z + T_π π + T_a a, put into what `part` left. Returns M_aa, without R.

            Where nothing is damped a acts through π₁ = π + h a alone, so that all of its derivatives are h times π's.
            """
            D, n, m = ti.static(self.D, self.n, self.mech.m)
            Q, V, X, H = ti.static(D, 2 * D, 3 * D, 4 * D)
            A = c0 / h
            for i in range(D):  # what x₁ is multiplied with, as sums over z, π, a (and q)
                self.times(xx, i, map_z, row)
                for j in each(self.coordinates):
                    product[i * D + j] = row[j]
                if ti.static(self.mech.dissipative):
                    self.times(xx, i, map_q, row)
                    for j in each(self.coordinates):
                        product_q[i * D + j] = row[j] + xq[i * D + j]
                by_p = self.thin(xx, D, i, map_p)
                for c in ti.static(range(m)):
                    product_p[i * m + c] = by_p[c] + xp[i * m + c]
                if ti.static(self.mech.damped):
                    by_a = self.thin(xx, D, i, map_a)
                    for c in ti.static(range(m)):
                        product_a[i * m + c] = by_a[c] + h * xp[i * m + c]
            for i in range(D):
                self.times(map_z, i, product, row)
                for j in each(self.coordinates):
                    P[i * n + j] = row[j]
                if ti.static(self.mech.dissipative):
                    self.times(map_z, i, product_q, row)
                    for j in each(self.coordinates):
                        P[i * n + Q + j] = row[j]
                    self.times(map_q, i, product_q, row)
                    for j in range(i, D):
                        P[(Q + i) * n + Q + j] = P[(Q + i) * n + Q + j] + row[j]
                    self.times(xq, i, map_q, row)
                    for j in range(i, D):
                        P[(Q + i) * n + Q + j] = P[(Q + i) * n + Q + j] + row[j]
                    self.times(map_q, i, xv, row)
                    for j in each(self.coordinates):
                        P[(Q + i) * n + V + j] = P[(Q + i) * n + V + j] + row[j]
                    self.times(map_q, i, xx0, row)
                    for j in each(self.coordinates):
                        P[(Q + i) * n + X + j] = P[(Q + i) * n + X + j] + row[j]
                else:
                    self.times(map_z, i, xq, row)
                    for j in each(self.coordinates):
                        P[i * n + Q + j] = A * P[i * n + j] + row[j]
                self.times(map_z, i, xv, row)
                for j in each(self.coordinates):
                    P[i * n + V + j] = row[j]
                    if ti.static(not self.mech.dissipative):
                        P[(Q + i) * n + V + j] = P[(Q + i) * n + V + j] + A * row[j]
                self.times(map_z, i, xx0, row)
                for j in each(self.coordinates):
                    P[i * n + X + j] = row[j]
                    if ti.static(not self.mech.dissipative):
                        P[(Q + i) * n + X + j] = P[(Q + i) * n + X + j] + A * row[j]
                if ti.static(self.mech.damped):
                    act_z, act_q = self.thin(map_z, D, i, product_a), self.thin(map_q, D, i, product_a)
                    act_q += self.thin(xq, D, i, map_a)
                    act_v, act_x = self.thin(xv, D, i, map_a), self.thin(xx0, D, i, map_a)
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
                by_v, by_x = self.thin(xv, D, i, map_p), self.thin(xx0, D, i, map_p)
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
