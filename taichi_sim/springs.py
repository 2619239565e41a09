"""What a spring adds to the equations of a step, see `mechanics`."""

import functools

import taichi as ti

from .loops import Loops


@functools.cache
def springs(loops: Loops):
    side, known = loops.side, loops.known

    @ti.data_oriented
    class Springs:
        """Part of `Mechanics`."""

        @ti.func
        def constants(self, e: ti.template()):
            """A spring's stiffness, rest length, blend, `soft` (see `energy`), damping, and whether it is a cable."""
            cable = ti.cast(known(self.cable[e]), ti.i32)
            return self.stiffness[e], self.length[e], self.blend[e], self.soft[e], self.damping[e], cable

        @ti.func
        def pull(
            self,
            # In: spring e to number j of `ends`, which move at `speeds`, with `reaches` from the origin
            e: ti.template(),
            ends: ti.template(),
            speeds: ti.template(),
            reaches: ti.template(),
            j: ti.template(),
            # In: its edge, and whether another spring has begun that; or its number among those that end at handles
            edge: ti.template(),
            inner: ti.template(),
            again: ti.template(),
            # Added to, but for the second end
            y: ti.template(),
            # In: whether to add to more than the blocks
            residual: ti.template(),
            # Out: what comes to the second end
            part: ti.template(),
        ):
            """A spring's force and its derivatives."""
            i = known(self.first[e])
            stiffness, rest, blend, soft, damping, cable = self.constants(e)
            for lane in side(self.lanes):
                span = ti.Vector.zero(float, self.d)
                rate = ti.Vector.zero(float, self.d)
                for k in ti.static(range(self.d)):
                    span[k] = y.x[i, k, lane] - ends[j, k, lane]
                    if ti.static(self.damped):
                        rate[k] = y.v[i, k, lane] - speeds[j, k, lane]
                energy, force, K, Z, strength, stiff = self.forces.spring(
                    stiffness, rest, blend, soft, damping, cable, span, rate
                )
                if ti.static(residual):
                    reach = y.reach[i, lane] + reaches[j, lane]
                    y.phi[lane] = y.phi[lane] + energy
                    y.size[lane] = y.size[lane] + (energy + strength * reach)
                    grain = strength + stiff * reach
                    y.scale[i, lane] = y.scale[i, lane] + grain
                    if ti.static(inner):
                        part.grain[lane] = grain
                for k in ti.static(range(self.d)):
                    if ti.static(residual):
                        y.r[i, k, lane] = y.r[i, k, lane] + force[k]
                        if ti.static(inner):
                            part.force[0, k, lane] = force[k]
                    for n in ti.static(range(self.d)):
                        there = ti.static(k * self.d + n)
                        whole = K[k, n]
                        if ti.static(self.damped):
                            whole += y.rate[lane] * Z[k, n]
                        J, drag = ti.cast(whole, y.upper.kind), ti.cast(Z[k, n], y.upper.kind)
                        if ti.static(self.damped and not residual):
                            y.Z[i, there, lane] = y.Z[i, there, lane] + drag
                        if ti.static(n >= k or not self.lu.symmetric):
                            y.diagonal[i, self.at[k][n], lane] = y.diagonal[i, self.at[k][n], lane] + J
                            if ti.static(inner):
                                y.beside[0, self.at[k][n], lane] = J
                        if ti.static(inner and self.damped and not residual):
                            y.Z_beside[0, there, lane] = drag
                        if ti.static(inner and again):
                            y.upper[edge, there, lane] = y.upper[edge, there, lane] - J
                            if ti.static(self.dissipative):
                                y.lower[edge, there, lane] = y.lower[edge, there, lane] - J
                            if ti.static(self.damped and not residual):
                                y.Z_apart[edge, there, lane] = y.Z_apart[edge, there, lane] - drag
                        elif ti.static(inner):
                            y.upper[edge, there, lane] = -J
                            if ti.static(self.dissipative):
                                y.lower[edge, there, lane] = -J
                            if ti.static(self.damped and not residual):
                                y.Z_apart[edge, there, lane] = -drag
                        elif ti.static(not residual):
                            y.C[edge, there, lane] = ti.cast(K[k, n], y.upper.kind)
                            if ti.static(self.damped):
                                y.F[edge, there, lane] = drag
                if ti.static(self.damped and residual):
                    # ½ c s (rate·n)² with the direction n and share s of `lag`, and with those of now
                    n, share = self.forces.engaged(rest, blend, cable, span)
                    speed, speed_before = rate.dot(n), 0.0
                    for k in ti.static(range(self.d)):
                        speed_before += y.lag[e, k, lane] * rate[k]
                        y.lag_now[e, k, lane] = n[k]
                    y.lag_now[e, self.d, lane] = share
                    part.lost[lane] = part.lost[lane] + 0.5 * damping * y.lag[e, self.d, lane] * speed_before**2
                    part.lost_now[lane] = part.lost_now[lane] + 0.5 * damping * share * speed**2

        @ti.func
        def pull_back(self, j: ti.template(), y: ti.template(), residual: ti.template(), part: ti.template()):
            """What `pull` left for a spring's second end."""
            for lane in side(self.lanes):
                if ti.static(residual):
                    y.scale[j, lane] = y.scale[j, lane] + part.grain[lane]
                    for k in ti.static(range(self.d)):
                        y.r[j, k, lane] = y.r[j, k, lane] - part.force[0, k, lane]
                for k in ti.static(range(self.width)):
                    y.diagonal[j, k, lane] = y.diagonal[j, k, lane] + y.beside[0, k, lane]
                if ti.static(self.damped and not residual):
                    for k in ti.static(range(self.dd)):
                        y.Z[j, k, lane] = y.Z[j, k, lane] + y.Z_beside[0, k, lane]

    return Springs
