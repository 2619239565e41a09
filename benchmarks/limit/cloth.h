// A cloth above a table: springs without sides, contact with friction, J eliminated in the simulator's own order.
//
// Springs are bilateral, so that with α = k − k L / l the pull is α span and K = α I + γ span spanᵀ, γ = (k − α) / l².
#pragma once
#include <cmath>
#define LANES 4  // the factors of eight rollouts are too large for the first cache
#include "lanes.h"
#include "systems.h"

#ifndef SYMMETRIC
#define SYMMETRIC 1
#endif

struct Cloth {
  static constexpr int P = cloth::POINTS, H = cloth::HANDLES, M = cloth::ACTIONS, D = 3 * P;
  static constexpr int S = cloth::SPRINGS, HELD = cloth::HELD, E = cloth::ENTRIES;
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
  bool symmetric;  // whether the factors are Cholesky's
  vec pivots[P][9], upper[E][9], lower[E][9];

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

  // a = −K of the spring along an entry of the factors, or zero where there is only fill-in
  INLINE void coupling(int f, vec *a) const {
    const int e = cloth::spring[f];
    if (e < 0) {
      UNROLL for (int k = 0; k < 9; k++) a[k] = vec{};
      return;
    }
    UNROLL for (int k = 0; k < 3; k++) {
      vec bent = -gamma[e] * span[e][k];
      UNROLL for (int o = 0; o < 3; o++) a[3 * k + o] = bent * span[e][o];
      a[4 * k] -= alpha[e];
    }
  }

  // The inverse of a block; returns where its pivots are positive.
  static INLINE mask invert(const vec *a, vec *s) {
    vec c0 = a[4] * a[8] - a[5] * a[7], c1 = a[5] * a[6] - a[3] * a[8], c2 = a[3] * a[7] - a[4] * a[6];
    vec last = a[0] * a[4] - a[1] * a[3], whole = a[0] * c0 + a[1] * c1 + a[2] * c2, scale = reciprocal(whole);
    s[0] = c0 * scale, s[3] = c1 * scale, s[6] = c2 * scale;
    s[1] = (a[2] * a[7] - a[1] * a[8]) * scale, s[2] = (a[1] * a[5] - a[2] * a[4]) * scale;
    s[4] = (a[0] * a[8] - a[2] * a[6]) * scale, s[5] = (a[2] * a[3] - a[0] * a[5]) * scale;
    s[7] = (a[1] * a[6] - a[0] * a[7]) * scale, s[8] = last * scale;
    return (a[0] > 0.0) & (last > 0.0) & (whole > 0.0);
  }

  // Factors J + shift I; returns the lanes in which it has a pivot that is not positive. Block by block, each with all
  // its products in registers (left-looking): a row of U and a column of L at a time.
  mask factor(double c0, vec shift = vec{}) {
    vec sides[P][6];
    diagonals(c0, shift, sides);
    symmetric = SYMMETRIC && !rough && factor_cholesky(sides);
    return symmetric ? mask{} : factor_lu(sides);
  }

  // J = L U: pivots hold the inverse diagonal blocks of U, `lower` is L and `upper` is U
  __attribute__((noinline)) mask factor_lu(vec (*sides)[6]) {
    mask positive = ~mask{};
    for (int s = 0; s < P; s++) {
      const int i = cloth::order[s];
      const vec *q = sides[i];
      vec d[9] = {q[0], q[1], q[2], q[1], q[3], q[4], q[2], q[4], q[5]};
      if (touches[i]) d[2] += contact[i].turn[0], d[5] += contact[i].turn[1];
      for (int at = cloth::above[s]; at < cloth::above[s + 1]; at++) {
        const int f = cloth::column[at];
        subtract(lower[f], upper[f], d);
      }
      positive &= invert(d, pivots[s]);
      for (int f = cloth::starts[s]; f < cloth::starts[s + 1]; f++) {
        vec a[9], b[9];
        coupling(f, a);
        UNROLL for (int k = 0; k < 9; k++) b[k] = a[k];
        for (int at = cloth::products[f]; at < cloth::products[f + 1]; at++) {
          const int one = cloth::left[at], other = cloth::right[at];
          subtract(lower[one], upper[other], a);
          subtract(lower[other], upper[one], b);
        }
        UNROLL for (int k = 0; k < 9; k++) upper[f][k] = a[k];
        UNROLL for (int k = 0; k < 3; k++)
          UNROLL for (int o = 0; o < 3; o++)
            lower[f][3 * k + o] =
                b[3 * k] * pivots[s][o] + b[3 * k + 1] * pivots[s][3 + o] + b[3 * k + 2] * pivots[s][6 + o];
      }
    }
    return ~positive;
  }

  // a −= L U
  static INLINE void subtract(const vec *l, const vec *u, vec *a) {
    UNROLL for (int o = 0; o < 3; o++)
      UNROLL for (int k = 0; k < 3; k++)
        UNROLL for (int n = 0; n < 3; n++) a[3 * k + n] -= l[3 * k + o] * u[3 * o + n];
  }

  // J = Rᵀ R: pivots hold the diagonal blocks of R, their diagonal inverted, `upper` the others. False where J is
  // indefinite: springs under pressure.
  __attribute__((noinline)) bool factor_cholesky(vec (*sides)[6]) {
    mask positive = ~mask{};
    for (int s = 0; s < P; s++) {
      vec d[6];
      UNROLL for (int k = 0; k < 6; k++) d[k] = sides[cloth::order[s]][k];
      for (int at = cloth::above[s]; at < cloth::above[s + 1]; at++) {
        const vec *u = upper[cloth::column[at]];
        UNROLL for (int o = 0; o < 3; o++) {
          d[0] -= u[3 * o] * u[3 * o], d[1] -= u[3 * o] * u[3 * o + 1], d[2] -= u[3 * o] * u[3 * o + 2];
          d[3] -= u[3 * o + 1] * u[3 * o + 1], d[4] -= u[3 * o + 1] * u[3 * o + 2];
          d[5] -= u[3 * o + 2] * u[3 * o + 2];
        }
      }
      vec *R = pivots[s];
      R[0] = reciprocal_root(d[0]);
      R[1] = d[1] * R[0], R[2] = d[2] * R[0];
      vec second = d[3] - R[1] * R[1];
      R[3] = reciprocal_root(second);
      R[4] = (d[4] - R[1] * R[2]) * R[3];
      vec third = d[5] - R[2] * R[2] - R[4] * R[4];
      R[5] = reciprocal_root(third);
      positive &= (d[0] > 0.0) & (second > 0.0) & (third > 0.0);
      if (any(~positive)) return false;
      for (int f = cloth::starts[s]; f < cloth::starts[s + 1]; f++) {
        vec a[9];
        coupling(f, a);
        for (int at = cloth::products[f]; at < cloth::products[f + 1]; at++) {
          const vec *l = upper[cloth::left[at]], *u = upper[cloth::right[at]];
          UNROLL for (int o = 0; o < 3; o++)
            UNROLL for (int k = 0; k < 3; k++)
              UNROLL for (int n = 0; n < 3; n++) a[3 * k + n] -= l[3 * o + k] * u[3 * o + n];
        }
        UNROLL for (int n = 0; n < 3; n++) {
          a[n] = a[n] * R[0];
          a[3 + n] = (a[3 + n] - R[1] * a[n]) * R[3];
          a[6 + n] = (a[6 + n] - R[2] * a[n] - R[4] * a[3 + n]) * R[5];
        }
        UNROLL for (int k = 0; k < 9; k++) upper[f][k] = a[k];
      }
    }
    return true;
  }

  // b −= A y and b −= Aᵀ y
  static INLINE void take(const vec *A, const vec *y, vec *b) {
    UNROLL for (int o = 0; o < 3; o++) UNROLL for (int k = 0; k < 3; k++) b[k] -= A[3 * k + o] * y[o];
  }
  static INLINE void take_transposed(const vec *A, const vec *y, vec *b) {
    UNROLL for (int o = 0; o < 3; o++) UNROLL for (int k = 0; k < 3; k++) b[k] -= A[3 * o + k] * y[o];
  }

  // b ← J⁻¹ b, or J⁻ᵀ b
  INLINE void solve(vec *b) const { symmetric ? solve_cholesky(b) : solve_lu<false>(b); }
  INLINE void solve_transposed(vec *b) const { symmetric ? solve_cholesky(b) : solve_lu<true>(b); }

  template <bool transposed> void solve_lu(vec *b) const {
    vec y[3], z[3];
    for (int s = 0; s < P; s++) {
      vec *mine = b + 3 * cloth::order[s];
      const vec *d = pivots[s];
      if (transposed) {
        UNROLL for (int k = 0; k < 3; k++) y[k] = d[k] * mine[0] + d[3 + k] * mine[1] + d[6 + k] * mine[2];
        UNROLL for (int k = 0; k < 3; k++) mine[k] = y[k];
      } else {
        UNROLL for (int k = 0; k < 3; k++) y[k] = mine[k];
      }
      for (int f = cloth::starts[s]; f < cloth::starts[s + 1]; f++) {
        vec *other = b + 3 * cloth::other[f];
        transposed ? take_transposed(upper[f], y, other) : take(lower[f], y, other);
      }
    }
    for (int s = P - 1; s >= 0; s--) {
      vec *mine = b + 3 * cloth::order[s];
      const vec *d = pivots[s];
      UNROLL for (int k = 0; k < 3; k++) z[k] = mine[k];
      for (int f = cloth::starts[s]; f < cloth::starts[s + 1]; f++) {
        const vec *other = b + 3 * cloth::other[f];
        transposed ? take_transposed(lower[f], other, z) : take(upper[f], other, z);
      }
      UNROLL for (int k = 0; k < 3; k++)
        mine[k] = transposed ? z[k] : d[3 * k] * z[0] + d[3 * k + 1] * z[1] + d[3 * k + 2] * z[2];
    }
  }

  void solve_cholesky(vec *b) const {
    vec y[3];
    for (int s = 0; s < P; s++) {
      vec *mine = b + 3 * cloth::order[s];
      const vec *R = pivots[s];
      y[0] = mine[0] * R[0];
      y[1] = (mine[1] - R[1] * y[0]) * R[3];
      y[2] = (mine[2] - R[2] * y[0] - R[4] * y[1]) * R[5];
      UNROLL for (int k = 0; k < 3; k++) mine[k] = y[k];
      for (int f = cloth::starts[s]; f < cloth::starts[s + 1]; f++)
        take_transposed(upper[f], y, b + 3 * cloth::other[f]);
    }
    for (int s = P - 1; s >= 0; s--) {
      vec *mine = b + 3 * cloth::order[s];
      const vec *R = pivots[s];
      UNROLL for (int k = 0; k < 3; k++) y[k] = mine[k];
      for (int f = cloth::starts[s]; f < cloth::starts[s + 1]; f++) take(upper[f], b + 3 * cloth::other[f], y);
      mine[2] = y[2] * R[5];
      mine[1] = (y[1] - R[4] * mine[2]) * R[3];
      mine[0] = (y[0] - R[1] * mine[1] - R[2] * mine[2]) * R[0];
    }
  }

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
