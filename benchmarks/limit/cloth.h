// A cloth above a table: springs without sides, contact with friction, J eliminated in the simulator's own order.
//
// Springs are bilateral, so that with α = k − k L / l the pull is α span and K = α I + γ span spanᵀ, γ = (k − α) / l².
#pragma once
#include <cmath>
#include "factors.h"
#include "lanes.h"
#include "systems.h"

#ifdef DOUBLE
using direction_type = vec;
#else
using direction_type = single;
#endif

struct Cloth {
  static constexpr int P = cloth::POINTS, H = cloth::HANDLES, M = cloth::ACTIONS, D = 3 * P;
  static constexpr int S = cloth::SPRINGS, HELD = cloth::HELD;
  static constexpr double STEP = cloth::STEP;
  static constexpr const int *DRIVEN = cloth::driven;
  static constexpr bool dissipative = true;
  static constexpr double mass(int i) { return cloth::masses[i]; }

  struct Contact {
    vec slope, turn[2], drag[3];  // ∂push/∂z: (turn, slope); ∂push/∂v: xx, xy, yy
  };

  vec span[S][3], alpha[S], gamma[S];
  vec stiffest;  // entry of J's diagonal
  Contact contact[P];
  bool touches[P];
  bool rough;  // whether a point of a lane touches the table: J is symmetric otherwise
  // Newton's directions need not be exact to converge as fast: float32 halves their cost.
  Factors<Cloth, direction_type> direction;
  Factors<Cloth, vec> exact;

  // Sets span, α and γ of spring e; returns its length.
  INLINE vec stretch(int e, const vec *a, const vec *b) {
    vec square = all(ETA * ETA);
    UNROLL for (int k = 0; k < 3; k++) {
      span[e][k] = a[k] - b[k];
      square += span[e][k] * span[e][k];
    }
    vec inverse = reciprocal_root(square);
    alpha[e] = cloth::stiffness[e] - (cloth::stiffness[e] * cloth::length[e]) * inverse;
    gamma[e] = (cloth::stiffness[e] - alpha[e]) * (inverse * inverse);
    return square * inverse;
  }

  // The table's push on point i, against r, and its round-off; sets `contact`.
  INLINE vec touch(int i, const vec *x, const vec *v, vec *push) {
    constexpr double k = cloth::contact_stiffness, blend = cloth::contact_blend;
    constexpr double mu = cloth::friction, c = cloth::tangential_stiffness * STEP;
    Contact &out = contact[i];
    vec depth = cloth::offset - x[2];
    vec s = max(depth + blend, vec{});
    mask full = depth >= blend, loaded = s > 0.0;
    vec load = select(full, depth * k, s * s * (k / (4 * blend)));
    vec slope = select(full, all(k), s * (k / (2 * blend)));
    vec limit = select(loaded, mu * load, all(1.0));
    vec square = v[0] * v[0] + v[1] * v[1];
    vec inverse = reciprocal_root(max(square, all(1e-290)));
    vec speed = square * inverse, per_limit = reciprocal(limit);
    vec z = c * speed * per_limit;
    vec decay = exponential(max(-2.0 * z, all(-80.0)));
    vec half = reciprocal(1.0 + decay);
    vec t = (1.0 - decay) * half, sech2 = 4.0 * decay * half * half, y = z * z;
    mask slow = z < 0.03;  // there the closed forms cancel, and a series is exact to 1e-13
    vec across = select(slow, c * (1.0 + y * (-1.0 / 3 + y * (2.0 / 15 - 17.0 / 315 * y))), limit * t * inverse);
    vec along = select(slow, c * y * (-2.0 / 3 + y * (8.0 / 15 - 34.0 / 105 * y)), c * sech2 - across);
    vec lag = select(slow, -along * per_limit, (t - z * sech2) * inverse);
    mask grips = loaded & (load > 0.0);
    across = select(grips, across, vec{});
    along = select(grips, along, vec{}) * inverse * inverse;
    lag = select(grips, mu * slope * lag, vec{});
    push[0] = across * v[0], push[1] = across * v[1], push[2] = -load;
    out.slope = slope;
    out.turn[0] = -lag * v[0], out.turn[1] = -lag * v[1];
    out.drag[0] = across + along * v[0] * v[0], out.drag[1] = along * v[0] * v[1];
    out.drag[2] = across + along * v[1] * v[1];
    vec grain = load + slope * (std::abs(cloth::offset) + abs(x[2]));
    vec fast = square + v[2] * v[2];
    return grain * (1.0 + mu) + across * fast * reciprocal_root(max(fast, all(1e-290)));
  }

  // r = −G; returns the lanes where an entry is above its round-off.
  INLINE mask residual(double c0, const vec *u, const vec *x, const vec *v, const vec *p, vec *r) {
    const double inertia = c0 * c0 / (STEP * STEP);
    vec reach[P], grain[P];
    rough = false;
    for (int i = 0; i < P; i++) {
      const double m = cloth::masses[i];
      grain[i] = reach[i] = vec{};
      UNROLL for (int k = 0; k < 3; k++) {
        vec push = u[3 * i + k] * (m * inertia);
        r[3 * i + k] = m * cloth::gravity[k] - push;
        grain[i] += abs(push) + std::abs(m * cloth::gravity[k]);
        reach[i] += abs(x[3 * i + k]);
      }
      touches[i] = any(x[3 * i + 2] < cloth::offset + cloth::contact_blend);
      if (touches[i]) {
        vec push[3];
        rough = true;
        grain[i] += touch(i, x + 3 * i, v + 3 * i, push);
        UNROLL for (int k = 0; k < 3; k++) r[3 * i + k] -= push[k];
      }
    }
    for (int e = 0; e < S; e++) {
      const int i = cloth::first[e], j = cloth::second[e];
      const bool held = e >= S - HELD;
      const vec *end = held ? p + 3 * j : x + 3 * j;
      vec length = stretch(e, x + 3 * i, end);
      vec pull[3], size = abs(alpha[e]), far = reach[i];
      far += held ? abs(end[0]) + abs(end[1]) + abs(end[2]) : reach[j];
      UNROLL for (int k = 0; k < 3; k++) {
        pull[k] = alpha[e] * span[e][k];
        r[3 * i + k] -= pull[k];
      }
      vec fine = size * length + (cloth::stiffness[e] + size) * far;
      grain[i] += fine;
      if (!held) {
        UNROLL for (int k = 0; k < 3; k++) r[3 * j + k] += pull[k];
        grain[j] += fine;
      }
    }
    mask high = mask{};
    for (int i = 0; i < P; i++) {
      vec bound = grain[i] * ROUND_OFF;
      UNROLL for (int k = 0; k < 3; k++) high |= ~(abs(r[3 * i + k]) <= bound);
    }
    return high;
  }

  INLINE void linearise(const vec *x, const vec *v, const vec *p) {
    rough = false;
    for (int i = 0; i < P; i++) {
      touches[i] = any(x[3 * i + 2] < cloth::offset + cloth::contact_blend);
      vec push[3];
      if (touches[i]) touch(i, x + 3 * i, v + 3 * i, push), rough = true;
    }
    for (int e = 0; e < S; e++)
      stretch(e, x + 3 * cloth::first[e], (e < S - HELD ? x : p) + 3 * cloth::second[e]);
  }

  // Diagonal blocks of J: xx, xy, xz, yy, yz, zz, without what makes them unsymmetric
  INLINE void diagonals(double c0, vec shift, vec (*a)[6]) {
    for (int i = 0; i < P; i++) {
      const vec inertia = shift + cloth::masses[i] * c0 * c0 / (STEP * STEP);
      a[i][0] = a[i][3] = a[i][5] = inertia;
      a[i][1] = a[i][2] = a[i][4] = vec{};
      if (touches[i]) {
        const Contact &c = contact[i];
        a[i][0] += (c0 / STEP) * c.drag[0], a[i][1] += (c0 / STEP) * c.drag[1], a[i][3] += (c0 / STEP) * c.drag[2];
        a[i][5] += c.slope;
      }
    }
    for (int e = 0; e < S; e++) {
      vec K[6], bent[3];
      UNROLL for (int k = 0; k < 3; k++) bent[k] = gamma[e] * span[e][k];
      K[0] = alpha[e] + bent[0] * span[e][0], K[1] = bent[0] * span[e][1], K[2] = bent[0] * span[e][2];
      K[3] = alpha[e] + bent[1] * span[e][1], K[4] = bent[1] * span[e][2];
      K[5] = alpha[e] + bent[2] * span[e][2];
      UNROLL for (int k = 0; k < 6; k++) a[cloth::first[e]][k] += K[k];
      if (e < S - HELD) UNROLL for (int k = 0; k < 6; k++) a[cloth::second[e]][k] += K[k];
    }
    stiffest = vec{};
    for (int i = 0; i < P; i++) for (int k : {0, 3, 5}) stiffest = max(stiffest, abs(a[i][k] - shift));
  }

  // Factors J + shift I for Newton's direction; returns the lanes in which it has a pivot that is not positive.
  mask factor(double c0, vec shift = vec{}) {
    vec sides[P][6];
    diagonals(c0, shift, sides);
    return direction.factor(*this, sides);
  }
  void solve(vec *b) const { direction.template solve<false>(b); }

  void factor_exactly(double c0) {
    vec sides[P][6];
    diagonals(c0, vec{}, sides);
    exact.factor(*this, sides);
  }
  void solve_transposed(vec *b) const { exact.template solve<true>(b); }

  // q −= Zᵀ λ / h
  INLINE void dissipate(const vec *adjoint, vec *q) const {
    for (int i = 0; i < P; i++)
      if (touches[i]) {
        const vec *Z = contact[i].drag, *y = adjoint + 3 * i;
        q[3 * i] -= (Z[0] * y[0] + Z[1] * y[1]) * (1 / STEP);
        q[3 * i + 1] -= (Z[1] * y[0] + Z[2] * y[1]) * (1 / STEP);
      }
  }

  // Cotangents of the handles: gp += Cᵀ λ
  INLINE void pull_back(const vec *adjoint, vec *gp) const {
    for (int e = S - HELD; e < S; e++) {
      const vec *y = adjoint + 3 * cloth::first[e];
      vec along = gamma[e] * (span[e][0] * y[0] + span[e][1] * y[1] + span[e][2] * y[2]);
      UNROLL for (int k = 0; k < 3; k++) gp[3 * cloth::second[e] + k] += alpha[e] * y[k] + along * span[e][k];
    }
  }
};
