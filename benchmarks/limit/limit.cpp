// The functions that Python calls: groups of LANES rollouts, dealt out to threads.
#include <atomic>
#include <memory>
#include <thread>
#include <vector>
#include "cloth.h"
#include "rope.h"
#include "sweep.h"

template <class Model, class Work> static void share(int groups, int threads, Work work) {
  std::atomic<int> next{0};
  auto run = [&] {
    auto model = std::make_unique<Model>();
    for (int g; (g = next++) < groups;) work(*model, g);
  };
  std::vector<std::thread> others;
  for (int n = 1; n < threads; n++) others.emplace_back(run);
  run();
  for (auto &other : others) other.join();
}

template <class Model> static Rows<Model> rows_of(int g, int N, double *a, double *x, double *v, double *p, int *status,
                                                  int *solves) {
  constexpr int D = Model::D, Hd = 3 * Model::H;
  return {(vec *)a + g * N * Model::M,   (vec *)x + g * (N + 1) * D,     (vec *)v + g * (N + 1) * D,
          (vec *)p + g * (N + 1) * Hd,   status + g * N * LANES,         solves + g * N * LANES};
}

// Arrays are (groups, rows, numbers, LANES), aligned to a vec; see Rows and Cotangents.
#define FUNCTIONS(name, Model)                                                                                      \
  extern "C" void name##_rollout(int groups, int N, int threads, double *a, double *x, double *v, double *p,        \
                                 int *status, int *solves) {                                                       \
    share<Model>(groups, threads, [=](Model &model, int g) {                                                        \
      roll(model, N, rows_of<Model>(g, N, a, x, v, p, status, solves));                                             \
    });                                                                                                             \
  }                                                                                                                 \
  extern "C" void name##_adjoint(int groups, int N, int threads, double *a, double *x, double *v, double *p,        \
                                 int *status, int *solves, double *gx, double *gv, double *gp, double *gx0,         \
                                 double *gv0, double *gp0, double *ga) {                                            \
    share<Model>(groups, threads, [=](Model &model, int g) {                                                        \
      constexpr int D = Model::D, Hd = 3 * Model::H;                                                                \
      const int R = N + 1;                                                                                          \
      adjoint(model, N, rows_of<Model>(g, N, a, x, v, p, status, solves),                                           \
              Cotangents<Model>{(vec *)gx + g * R * D, (vec *)gv + g * R * D, (vec *)gp + g * R * Hd,               \
                                (vec *)gx0 + g * D, (vec *)gv0 + g * D, (vec *)gp0 + g * Hd,                        \
                                (vec *)ga + g * N * Model::M});                                                     \
    });                                                                                                             \
  }

FUNCTIONS(rope, Rope)
FUNCTIONS(cloth, Cloth)
extern "C" int lanes() { return LANES; }
