// A chain of cables below one handle: J is block tridiagonal and symmetric.
#pragma once
#include <cmath>
#include "lanes.h"
#include "systems.h"

struct Rope {
  static constexpr int P = rope::POINTS, H = 1, M = rope::ACTIONS, D = 3 * P;
  static constexpr double STEP = rope::STEP;
  static constexpr const int *DRIVEN = rope::driven;
  static constexpr bool dissipative = false;
  static constexpr double mass(int i) { return rope::masses[i]; }
  static constexpr int MIDDLE = P / 2;

  // K = α I + β n nᵀ of cable i, from point i−1 (or the handle) to point i; S, the inverse pivots
  static constexpr double stiffest = 0.0;  // unused: no shift
  vec n[P][3], alpha[P], beta[P], S[P][6];

  // Tension of cable i at the elongation `span`; sets n, α, β.
  INLINE vec pull(int i, const vec *span) {
    vec square = span[0] * span[0] + span[1] * span[1] + span[2] * span[2] + ETA * ETA;
    vec inverse = reciprocal_root(square);
    vec stretch = square * inverse - rope::length[i];
    vec s = max(stretch + rope::blend[i], vec{});
    mask taut = stretch >= rope::blend[i];
    vec slope = select(taut, all(rope::stiffness[i]), s * (rope::stiffness[i] / (2 * rope::blend[i])));
    vec tension = select(taut, stretch * rope::stiffness[i], s * s * (rope::stiffness[i] / (4 * rope::blend[i])));
    UNROLL for (int k = 0; k < 3; k++) n[i][k] = span[k] * inverse;
    alpha[i] = tension * inverse;
    beta[i] = slope - alpha[i];
    return tension;
  }

  // r = −G; returns the lanes where an entry is above its round-off.
  INLINE mask residual(double c0, const vec *u, const vec *x, const vec *, const vec *p, vec *r) {
    const double inertia = c0 * c0 / (STEP * STEP);
    vec before[3] = {p[0], p[1], p[2]};
    vec reach_before = abs(p[0]) + abs(p[1]) + abs(p[2]);
    vec grain[P];
    UNROLL for (int i = 0; i < P; i++) {
      vec span[3], reach = vec{};
      UNROLL for (int k = 0; k < 3; k++) {
        span[k] = x[3 * i + k] - before[k];
        reach += abs(x[3 * i + k]);
        before[k] = x[3 * i + k];
      }
      vec tension = pull(i, span);
      vec fine = tension + (beta[i] + alpha[i] + alpha[i]) * (reach + reach_before);
      grain[i] = fine;
      UNROLL for (int k = 0; k < 3; k++) {
        vec push = u[3 * i + k] * (rope::masses[i] * inertia);
        double load = rope::masses[i] * rope::gravity[k];
        vec force = tension * n[i][k];
        r[3 * i + k] = load - push - force;
        grain[i] += abs(push) + std::abs(load);
        if (i) r[3 * i - 3 + k] += force;
      }
      if (i) grain[i - 1] += fine;
      reach_before = reach;
    }
    mask rough = mask{};
    UNROLL for (int i = 0; i < P; i++) {
      vec bound = grain[i] * ROUND_OFF;
      UNROLL for (int k = 0; k < 3; k++) rough |= ~(abs(r[3 * i + k]) <= bound);
    }
    return rough;
  }

  INLINE void linearise(const vec *x, const vec *, const vec *p) {
    UNROLL for (int i = 0; i < P; i++) {
      vec span[3];
      UNROLL for (int k = 0; k < 3; k++) span[k] = x[3 * i + k] - (i ? x[3 * i - 3 + k] : p[k]);
      pull(i, span);
    }
  }

  // y = K z of cable e
  INLINE void couple(int e, const vec *z, vec *y) const {
    vec along = beta[e] * (n[e][0] * z[0] + n[e][1] * z[1] + n[e][2] * z[2]);
    UNROLL for (int k = 0; k < 3; k++) y[k] = alpha[e] * z[k] + along * n[e][k];
  }

  static INLINE void multiply(const vec *s, const vec *b, vec *y) {
    y[0] = s[0] * b[0] + s[1] * b[1] + s[2] * b[2];
    y[1] = s[1] * b[0] + s[3] * b[1] + s[4] * b[2];
    y[2] = s[2] * b[0] + s[4] * b[1] + s[5] * b[2];
  }

  // A symmetric 3 × 3 inverse with one division
  static INLINE void invert(const vec *a, vec *s) {
    vec c0 = a[3] * a[5] - a[4] * a[4], c1 = a[2] * a[4] - a[1] * a[5], c2 = a[1] * a[4] - a[2] * a[3];
    vec scale = reciprocal(a[0] * c0 + a[1] * c1 + a[2] * c2);
    s[0] = c0 * scale, s[1] = c1 * scale, s[2] = c2 * scale;
    s[3] = (a[0] * a[5] - a[2] * a[2]) * scale;
    s[4] = (a[1] * a[2] - a[0] * a[4]) * scale;
    s[5] = (a[0] * a[3] - a[1] * a[1]) * scale;
  }

  // a −= K S K of cable e and the inverse pivot s on its other side
  INLINE void eliminate(int e, const vec *s, vec *a) const {
    vec w[3], t[3];
    multiply(s, n[e], w);
    vec half = 0.5 * beta[e] * (n[e][0] * w[0] + n[e][1] * w[1] + n[e][2] * w[2]);
    UNROLL for (int k = 0; k < 3; k++) t[k] = beta[e] * (alpha[e] * w[k] + half * n[e][k]);
    vec square = alpha[e] * alpha[e];
    int at = 0;
    UNROLL for (int k = 0; k < 3; k++)
      UNROLL for (int o = k; o < 3; o++, at++) a[at] -= square * s[at] + n[e][k] * t[o] + t[k] * n[e][o];
  }

  INLINE void pivot(int i, double inertia, vec *a) const {
    const bool last = i == P - 1;
    const int j = last ? i : i + 1;
    vec mine[3], next[3];
    UNROLL for (int k = 0; k < 3; k++) mine[k] = beta[i] * n[i][k], next[k] = beta[j] * n[j][k];
    vec stiff = alpha[i] + rope::masses[i] * inertia;
    if (!last) stiff += alpha[j];
    int at = 0;
    UNROLL for (int k = 0; k < 3; k++)
      UNROLL for (int o = k; o < 3; o++, at++) {
        a[at] = mine[k] * n[i][o];
        if (!last) a[at] += next[k] * n[j][o];
        if (k == o) a[at] += stiff;
      }
  }

  // From both ends to the middle: two chains of dependent operations run side by side. A cable only pulls, so that J
  // is positive definite.
  INLINE mask factor(double c0, vec = vec{}) {
    const double inertia = c0 * c0 / (STEP * STEP);
    vec a[6];
    UNROLL for (int back = 0; back < P - MIDDLE; back++) {
      if (back < MIDDLE) {
        int i = back;
        pivot(i, inertia, a);
        if (i) eliminate(i, S[i - 1], a);
        invert(a, S[i]);
      }
      int i = P - 1 - back;
      if (i > MIDDLE) {
        pivot(i, inertia, a);
        if (i < P - 1) eliminate(i + 1, S[i + 1], a);
        invert(a, S[i]);
      }
    }
    pivot(MIDDLE, inertia, a);
    if (MIDDLE) eliminate(MIDDLE, S[MIDDLE - 1], a);
    if (MIDDLE < P - 1) eliminate(MIDDLE + 1, S[MIDDLE + 1], a);
    invert(a, S[MIDDLE]);
    return mask{};
  }

  // b ← J⁻¹ b
  INLINE void solve(vec *b) const {
    vec y[3], z[3];
    UNROLL for (int i = 0; i < MIDDLE; i++) {
      multiply(S[i], b + 3 * i, z);
      couple(i + 1, z, y);
      UNROLL for (int k = 0; k < 3; k++) b[3 * i + k] = z[k], b[3 * i + 3 + k] += y[k];
    }
    UNROLL for (int i = P - 1; i > MIDDLE; i--) {
      multiply(S[i], b + 3 * i, z);
      couple(i, z, y);
      UNROLL for (int k = 0; k < 3; k++) b[3 * i + k] = z[k], b[3 * i - 3 + k] += y[k];
    }
    multiply(S[MIDDLE], b + 3 * MIDDLE, z);
    UNROLL for (int k = 0; k < 3; k++) b[3 * MIDDLE + k] = z[k];
    UNROLL for (int i = MIDDLE - 1; i >= 0; i--) {
      couple(i + 1, b + 3 * i + 3, y);
      multiply(S[i], y, z);
      UNROLL for (int k = 0; k < 3; k++) b[3 * i + k] += z[k];
    }
    UNROLL for (int i = MIDDLE + 1; i < P; i++) {
      couple(i, b + 3 * i - 3, y);
      multiply(S[i], y, z);
      UNROLL for (int k = 0; k < 3; k++) b[3 * i + k] += z[k];
    }
  }
  INLINE void factor_exactly(double c0) { factor(c0); }
  INLINE void solve_transposed(vec *b) const { solve(b); }

  INLINE void dissipate(const vec *, vec *) const {}

  // Cotangent of the handle: gp += Cᵀ λ
  INLINE void pull_back(const vec *adjoint, vec *gp) const {
    vec y[3];
    couple(0, adjoint, y);
    UNROLL for (int k = 0; k < 3; k++) gp[k] += y[k];
  }
};
