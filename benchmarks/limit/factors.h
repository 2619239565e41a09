// Sparse factors of the cloth's J, in the simulator's own elimination order, of numbers `num`: `vec`, or `single`.
#pragma once
#include "lanes.h"
#include "systems.h"

template <class Model, class num> struct Factors {
  static constexpr int P = cloth::POINTS, E = cloth::ENTRIES;
  bool symmetric;  // whether the factors are Cholesky's
  num pivots[P][9], upper[E][9], lower[E][9];

  // a = −K of the spring along an entry of the factors, or zero where there is only fill-in
  static INLINE void coupling(const Model &model, int f, num *a) {
    const int e = cloth::spring[f];
    if (e < 0) {
      UNROLL for (int k = 0; k < 9; k++) a[k] = num{};
      return;
    }
    num alpha = narrow<num>(model.alpha[e]), gamma = narrow<num>(model.gamma[e]), span[3];
    UNROLL for (int k = 0; k < 3; k++) span[k] = narrow<num>(model.span[e][k]);
    UNROLL for (int k = 0; k < 3; k++) {
      num bent = -gamma * span[k];
      UNROLL for (int o = 0; o < 3; o++) a[3 * k + o] = bent * span[o];
      a[4 * k] -= alpha;
    }
  }

  // The inverse of a block; returns where its pivots are positive.
  static INLINE mask invert(const num *a, num *s) {
    num c0 = a[4] * a[8] - a[5] * a[7], c1 = a[5] * a[6] - a[3] * a[8], c2 = a[3] * a[7] - a[4] * a[6];
    num last = a[0] * a[4] - a[1] * a[3], whole = a[0] * c0 + a[1] * c1 + a[2] * c2, scale = reciprocal(whole);
    s[0] = c0 * scale, s[3] = c1 * scale, s[6] = c2 * scale;
    s[1] = (a[2] * a[7] - a[1] * a[8]) * scale, s[2] = (a[1] * a[5] - a[2] * a[4]) * scale;
    s[4] = (a[0] * a[8] - a[2] * a[6]) * scale, s[5] = (a[2] * a[3] - a[0] * a[5]) * scale;
    s[7] = (a[1] * a[6] - a[0] * a[7]) * scale, s[8] = last * scale;
    return (widen(a[0]) > 0.0) & (widen(last) > 0.0) & (widen(whole) > 0.0);
  }

  // Factors the J that `sides` and the springs of `model` make up; returns the lanes with a pivot that is not positive.
  // Block by block, each with all its products in registers (left-looking): a row of U and a column of L at a time.
  mask factor(const Model &model, const vec (*sides)[6]) {
    symmetric = !model.rough && factor_cholesky(model, sides);
    return symmetric ? mask{} : factor_lu(model, sides);
  }

  // J = L U: pivots hold the inverse diagonal blocks of U, `lower` is L and `upper` is U
  __attribute__((noinline)) mask factor_lu(const Model &model, const vec (*sides)[6]) {
    mask positive = ~mask{};
    for (int s = 0; s < P; s++) {
      const int i = cloth::order[s];
      num q[6];
      UNROLL for (int k = 0; k < 6; k++) q[k] = narrow<num>(sides[i][k]);
      num d[9] = {q[0], q[1], q[2], q[1], q[3], q[4], q[2], q[4], q[5]};
      if (model.touches[i]) {
        d[2] += narrow<num>(model.contact[i].turn[0]);
        d[5] += narrow<num>(model.contact[i].turn[1]);
      }
      for (int at = cloth::above[s]; at < cloth::above[s + 1]; at++) {
        const int f = cloth::column[at];
        subtract(lower[f], upper[f], d);
      }
      positive &= invert(d, pivots[s]);
      for (int f = cloth::starts[s]; f < cloth::starts[s + 1]; f++) {
        num a[9], b[9];
        coupling(model, f, a);
        UNROLL for (int k = 0; k < 9; k++) b[k] = a[k];
        // Two loops: eighteen accumulators in one would spill.
        for (int at = cloth::products[f]; at < cloth::products[f + 1]; at++)
          subtract(lower[cloth::left[at]], upper[cloth::right[at]], a);
        for (int at = cloth::products[f]; at < cloth::products[f + 1]; at++)
          subtract(lower[cloth::right[at]], upper[cloth::left[at]], b);
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
  static INLINE void subtract(const num *l, const num *u, num *a) {
    UNROLL for (int o = 0; o < 3; o++)
      UNROLL for (int k = 0; k < 3; k++)
        UNROLL for (int n = 0; n < 3; n++) a[3 * k + n] -= l[3 * k + o] * u[3 * o + n];
  }

  // J = Rᵀ R: pivots hold the diagonal blocks of R, their diagonal inverted, `upper` the others. False where J is
  // indefinite: springs under pressure.
  __attribute__((noinline)) bool factor_cholesky(const Model &model, const vec (*sides)[6]) {
    mask positive = ~mask{};
    for (int s = 0; s < P; s++) {
      num d[6];
      UNROLL for (int k = 0; k < 6; k++) d[k] = narrow<num>(sides[cloth::order[s]][k]);
      for (int at = cloth::above[s]; at < cloth::above[s + 1]; at++) {
        const num *u = upper[cloth::column[at]];
        UNROLL for (int o = 0; o < 3; o++) {
          d[0] -= u[3 * o] * u[3 * o], d[1] -= u[3 * o] * u[3 * o + 1], d[2] -= u[3 * o] * u[3 * o + 2];
          d[3] -= u[3 * o + 1] * u[3 * o + 1], d[4] -= u[3 * o + 1] * u[3 * o + 2];
          d[5] -= u[3 * o + 2] * u[3 * o + 2];
        }
      }
      num *R = pivots[s];
      R[0] = reciprocal_root(d[0]);
      R[1] = d[1] * R[0], R[2] = d[2] * R[0];
      num second = d[3] - R[1] * R[1];
      R[3] = reciprocal_root(second);
      R[4] = (d[4] - R[1] * R[2]) * R[3];
      num third = d[5] - R[2] * R[2] - R[4] * R[4];
      R[5] = reciprocal_root(third);
      positive &= (widen(d[0]) > 0.0) & (widen(second) > 0.0) & (widen(third) > 0.0);
      if (any(~positive)) return false;
      for (int f = cloth::starts[s]; f < cloth::starts[s + 1]; f++) {
        num a[9];
        coupling(model, f, a);
        for (int at = cloth::products[f]; at < cloth::products[f + 1]; at++) {
          const num *l = upper[cloth::left[at]], *u = upper[cloth::right[at]];
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
  static INLINE void take(const num *A, const num *y, num *b) {
    UNROLL for (int o = 0; o < 3; o++) UNROLL for (int k = 0; k < 3; k++) b[k] -= A[3 * k + o] * y[o];
  }
  static INLINE void take_transposed(const num *A, const num *y, num *b) {
    UNROLL for (int o = 0; o < 3; o++) UNROLL for (int k = 0; k < 3; k++) b[k] -= A[3 * o + k] * y[o];
  }

  // b ← J⁻¹ b, or J⁻ᵀ b
  template <bool transposed> void solve(vec *b) const {
    num y[3 * P];
    for (int n = 0; n < 3 * P; n++) y[n] = narrow<num>(b[n]);
    symmetric ? solve_cholesky(y) : solve_lu<transposed>(y);
    for (int n = 0; n < 3 * P; n++) b[n] = widen(y[n]);
  }

  template <bool transposed> void solve_lu(num *b) const {
    num y[3], z[3];
    for (int s = 0; s < P; s++) {
      num *mine = b + 3 * cloth::order[s];
      const num *d = pivots[s];
      if (transposed) {
        UNROLL for (int k = 0; k < 3; k++) y[k] = d[k] * mine[0] + d[3 + k] * mine[1] + d[6 + k] * mine[2];
        UNROLL for (int k = 0; k < 3; k++) mine[k] = y[k];
      } else {
        UNROLL for (int k = 0; k < 3; k++) y[k] = mine[k];
      }
      for (int f = cloth::starts[s]; f < cloth::starts[s + 1]; f++) {
        num *other = b + 3 * cloth::other[f];
        transposed ? take_transposed(upper[f], y, other) : take(lower[f], y, other);
      }
    }
    for (int s = P - 1; s >= 0; s--) {
      num *mine = b + 3 * cloth::order[s];
      const num *d = pivots[s];
      UNROLL for (int k = 0; k < 3; k++) z[k] = mine[k];
      for (int f = cloth::starts[s]; f < cloth::starts[s + 1]; f++) {
        const num *other = b + 3 * cloth::other[f];
        transposed ? take_transposed(lower[f], other, z) : take(upper[f], other, z);
      }
      UNROLL for (int k = 0; k < 3; k++)
        mine[k] = transposed ? z[k] : d[3 * k] * z[0] + d[3 * k + 1] * z[1] + d[3 * k + 2] * z[2];
    }
  }

  void solve_cholesky(num *b) const {
    num y[3];
    for (int s = 0; s < P; s++) {
      num *mine = b + 3 * cloth::order[s];
      const num *R = pivots[s];
      y[0] = mine[0] * R[0];
      y[1] = (mine[1] - R[1] * y[0]) * R[3];
      y[2] = (mine[2] - R[2] * y[0] - R[4] * y[1]) * R[5];
      UNROLL for (int k = 0; k < 3; k++) mine[k] = y[k];
      for (int f = cloth::starts[s]; f < cloth::starts[s + 1]; f++)
        take_transposed(upper[f], y, b + 3 * cloth::other[f]);
    }
    for (int s = P - 1; s >= 0; s--) {
      num *mine = b + 3 * cloth::order[s];
      const num *R = pivots[s];
      UNROLL for (int k = 0; k < 3; k++) y[k] = mine[k];
      for (int f = cloth::starts[s]; f < cloth::starts[s + 1]; f++) take(upper[f], b + 3 * cloth::other[f], y);
      mine[2] = y[2] * R[5];
      mine[1] = (y[1] - R[4] * mine[2]) * R[3];
      mine[0] = (y[0] - R[1] * mine[1] - R[2] * mine[2]) * R[0];
    }
  }
};
