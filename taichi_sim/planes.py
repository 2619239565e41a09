"""What a plane adds to the equations of a step, see `mechanics`."""

import functools

import taichi as ti

from .loops import Loops


@functools.cache
def planes(loops: Loops):
    side, known = loops.side, loops.known

    @ti.data_oriented
    class Planes:
        """Part of `Mechanics`."""

        @ti.func
        def touch(
            self,
            i: ti.template(),
            plane: ti.template(),
            y: ti.template(),
            residual: ti.template(),
            part: ti.template(),
        ):
            """Add a plane's contact with point i."""
            touching = 0
            at = known(i * self.K + plane)
            for lane in side(self.lanes):
                place = ti.Vector.zero(float, self.d)
                for k in ti.static(range(self.d)):
                    place[k] = y.x[i, k, lane]
                energy, push, K, load, slope, reach = self.forces.contact(plane, place)
                if ti.static(residual):
                    y.phi[lane] = y.phi[lane] + energy
                    y.size[lane] = y.size[lane] + (energy + load * place.norm())
                    y.scale[i, lane] = y.scale[i, lane] + (load + slope * reach)
                for k in ti.static(range(self.d)):
                    if ti.static(residual):
                        y.r[i, k, lane] = y.r[i, k, lane] + push[k]
                    for n in ti.static(range(k if self.lu.symmetric else 0, self.d)):
                        at_kn = ti.static(self.at[k][n])
                        y.diagonal[i, at_kn, lane] = y.diagonal[i, at_kn, lane] + ti.cast(K[k, n], y.upper.kind)
                if ti.static(self.forces.friction[plane] > 0.0):
                    part.load[lane], part.slope[lane], part.reach[lane] = load, slope, reach
                    touching += ti.cast(load > 0.0, ti.i32)
                if ti.static(self.rough and residual):
                    touching += ti.cast(y.load[at, lane] > 0.0, ti.i32)
                    y.load_now[at, lane] = load
            if ti.static(self.forces.friction[plane] > 0.0):
                if touching > 0:
                    self.rub(i, plane, at, y, residual, part)

        @ti.func
        def rub(
            self,
            i: ti.template(),
            plane: ti.template(),
            at: ti.template(),
            y: ti.template(),
            residual: ti.template(),
            part: ti.template(),
        ):
            """Add a plane's friction with point i."""
            for lane in side(self.lanes):
                place = ti.Vector.zero(float, self.d)
                speed = ti.Vector.zero(float, self.d)
                for k in ti.static(range(self.d)):
                    place[k] = y.x[i, k, lane]
                    speed[k] = y.v[i, k, lane]
                force, K, Z, grain, slip, now = self.forces.rub(
                    plane, speed, y.h[lane], part.load[lane], part.slope[lane], part.reach[lane]
                )
                if ti.static(residual):
                    part.lost[lane] = part.lost[lane] + self.forces.dissipated(plane, slip, y.h[lane], y.load[at, lane])
                    part.lost_now[lane] = part.lost_now[lane] + now
                    y.size[lane] = y.size[lane] + force.norm() * place.norm()
                    y.scale[i, lane] = y.scale[i, lane] + grain
                for k in ti.static(range(self.d)):
                    if ti.static(residual):
                        y.r[i, k, lane] = y.r[i, k, lane] + force[k]
                    for n in ti.static(range(self.d)):
                        there = ti.static(k * self.d + n)
                        J = K[k, n] + y.rate[lane] * Z[k, n]
                        y.diagonal[i, there, lane] = y.diagonal[i, there, lane] + ti.cast(J, y.upper.kind)
                        if ti.static(not residual):
                            y.Z[i, there, lane] = y.Z[i, there, lane] + ti.cast(Z[k, n], y.upper.kind)

    return Planes
