// One group of rollouts, forwards and backwards, for any model: the difference formula, Newton's method, the adjoint.
//
// A Model has sizes P, H, M, D = 3P; residual, factor and solve for Newton's method; linearise, factor_exactly,
// solve_transposed, dissipate and pull_back for the adjoint. Rows of a group lie one after the other, LANES rollouts
// next to each other: x, v (N+1, D), p (N+1, 3H), a (N, M). The handles' axes are driven one by one.
#pragma once
#include <cmath>
#include "lanes.h"

static constexpr int ITERATIONS = 100;
static constexpr double FIRST_SHIFT = 1e-3, LARGEST_SHIFT = 1e9;

struct Formula {
  double c0, c1, c2;
};
static constexpr Formula BDF1 = {1.0, -1.0, 0.0}, BDF2 = {1.5, -2.0, 0.5};

struct Rows {
  const vec *a;
  vec *x, *v, *p;
  int *status, *solves;  // (N, LANES): 0 is converged, 1 not, 3 not run
};

// G(x̃ + u) = 0 from the guess in u; returns the lanes that did not get there and counts linear solves. Full steps: of
// the simulator's safeguards only the shift of the diagonal is needed here, where J is not positive definite.
template <class Model>
static INLINE mask newton(Model &model, double c0, const vec *x_free, const vec *v_free, const vec *p, vec *u,
                          mask run, mask *solves) {
  constexpr int D = Model::D;
  alignas(64) vec x[D], v[D], r[D];
  mask lost{};
  for (int it = 0;; it++) {
    for (int n = 0; n < D; n++) {
      x[n] = x_free[n] + u[n];
      if (Model::dissipative) v[n] = v_free[n] + u[n] * (c0 / Model::STEP);
    }
    run &= model.residual(c0, u, x, v, p, r);
    if (!any(run) || it == ITERATIONS) return run | lost;
    mask indefinite = run & model.factor(c0);
    for (vec shift{}; any(indefinite); indefinite = run & model.factor(c0, shift)) {
      shift = select(indefinite, max(4.0 * shift, FIRST_SHIFT * model.stiffest + vec{}), shift);
      mask hopeless = indefinite & ~(shift <= LARGEST_SHIFT);
      lost |= hopeless;
      run &= ~hopeless;
    }
    model.solve(r);
    *solves -= run;
    for (int n = 0; n < D; n++) u[n] += select(run, r[n], vec{});
  }
}

template <class Model> static void roll(Model &model, int N, Rows rows) {
  constexpr int D = Model::D, Hd = 3 * Model::H;
  alignas(64) vec x_free[D], v_free[D], u[D], x0[D], v0[D], x1[D], v1[D], p[Hd];
  for (int n = 0; n < D; n++) x0[n] = x1[n] = rows.x[n], v0[n] = v1[n] = rows.v[n];
  for (int n = 0; n < Hd; n++) p[n] = rows.p[n];
  mask healthy = ~mask{};
  for (int t = 0; t < N; t++) {
    const auto [c0, c1, c2] = t == 0 ? BDF1 : BDF2;
    for (int n = 0; n < D; n++) {
      vec free = (c1 * v0[n] + c2 * v1[n]) * (-1 / c0);
      v_free[n] = free;
      x_free[n] = (Model::STEP * free - c1 * x0[n] - c2 * x1[n]) * (1 / c0);
      u[n] = (Model::STEP / c0) * (2.0 * v0[n] - v1[n] - free);  // as if the acceleration stayed
    }
    vec p0[Hd];
    for (int n = 0; n < Hd; n++) p0[n] = p[n];
    UNROLL for (int n = 0; n < Model::M; n++) p[Model::DRIVEN[n]] += Model::STEP * rows.a[t * Model::M + n];
    mask solves{};
    mask lost = newton(model, c0, x_free, v_free, p, u, healthy, &solves);
    for (int l = 0; l < LANES; l++) {
      rows.status[t * LANES + l] = healthy[l] ? (lost[l] ? 1 : 0) : 3;
      rows.solves[t * LANES + l] = solves[l];
    }
    healthy &= ~lost;
    vec *x = rows.x + (t + 1) * D, *v = rows.v + (t + 1) * D, *q = rows.p + (t + 1) * Hd;
    for (int n = 0; n < D; n++) {
      x1[n] = x0[n], v1[n] = v0[n];
      x0[n] = select(healthy, x_free[n] + u[n], x0[n]);
      v0[n] = select(healthy, v_free[n] + u[n] * (c0 / Model::STEP), v0[n]);
      x[n] = x0[n], v[n] = v0[n];
    }
    for (int n = 0; n < Hd; n++) q[n] = p[n] = select(healthy, p[n], p0[n]);
  }
}

struct Cotangents {
  const vec *x, *v, *p;       // ∂L/∂rows
  vec *x0, *v0, *p0, *a;      // dL/d(row 0), dL/d(actions)
};

// With q = c₁ x₀ + c₂ x₋₁: λ = J⁻ᵀ(x̄ + c₀/h v̄), q̄ = v̄/h − (M c₀/h² + Zᵀ/h) λ and p̄ += Cᵀ λ, row by row from the last.
template <class Model> static void back(Model &model, int N, Rows rows, Cotangents g) {
  constexpr int D = Model::D, Hd = 3 * Model::H;
  alignas(64) vec gx[D] = {}, gv[D] = {}, gx1[D] = {}, gv1[D] = {}, b[D], q[D], gp[Hd] = {};
  mask bad{};
  for (int l = 0; l < LANES; l++) bad[l] = -(long long)(rows.status[(N - 1) * LANES + l] != 0);
  for (int t = N - 1; t >= 0; t--) {
    const auto [c0, c1, c2] = t == 0 ? BDF1 : BDF2;
    const vec *x = rows.x + (t + 1) * D, *v = rows.v + (t + 1) * D;
    model.linearise(x, v, rows.p + (t + 1) * Hd);
    model.factor_exactly(c0);
    for (int n = 0; n < D; n++) {
      gx[n] += g.x[(t + 1) * D + n];
      gv[n] += g.v[(t + 1) * D + n];
      b[n] = gx[n] + (c0 / Model::STEP) * gv[n];
    }
    model.solve_transposed(b);
    const double inertia = c0 / (Model::STEP * Model::STEP);
    for (int n = 0; n < D; n++) q[n] = gv[n] * (1 / Model::STEP) - b[n] * (Model::mass(n / 3) * inertia);
    model.dissipate(b, q);
    for (int n = 0; n < D; n++) {
      vec z = b[n] * (Model::mass(n / 3) / Model::STEP);
      gx[n] = gx1[n] + c1 * q[n], gx1[n] = c2 * q[n];
      gv[n] = gv1[n] - c1 * z, gv1[n] = -c2 * z;
    }
    for (int n = 0; n < Hd; n++) gp[n] += g.p[(t + 1) * Hd + n];
    model.pull_back(b, gp);
    for (int n = 0; n < Model::M; n++) g.a[t * Model::M + n] = select(bad, vec{}, Model::STEP * gp[Model::DRIVEN[n]]);
  }
  for (int n = 0; n < D; n++) {
    g.x0[n] = select(bad, vec{}, gx[n] + g.x[n]);
    g.v0[n] = select(bad, vec{}, gv[n] + g.v[n]);
  }
  for (int n = 0; n < Hd; n++) g.p0[n] = select(bad, vec{}, gp[n] + g.p[n]);
}
