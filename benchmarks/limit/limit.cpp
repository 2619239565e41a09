// The functions that Python calls: groups of LANES rollouts of one model, dealt out to threads.
#include <atomic>
#include <memory>
#include <thread>
#include <vector>
#if defined(ROPE)
#include "rope.h"
using Model = Rope;
#elif defined(CLOTH)
#include "cloth.h"
using Model = Cloth;
#endif
#include "sweep.h"

constexpr int D = Model::D, Hd = 3 * Model::H, M = Model::M;

template <class Work> static void share(int groups, int threads, Work work) {
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

static Rows rows_of(int g, int N, double *a, double *x, double *v, double *p, int *status, int *solves) {
  const long row = (long)g * (N + 1), step = (long)g * N;
  return {(vec *)a + step * M,  (vec *)x + row * D,     (vec *)v + row * D,
          (vec *)p + row * Hd,  status + step * LANES,  solves + step * LANES};
}

// Arrays are (groups, rows, numbers, LANES) and aligned to a vec, see Rows and Cotangents.
extern "C" {
int lanes() { return LANES; }

void rollout(int groups, int N, int threads, double *a, double *x, double *v, double *p, int *status, int *solves) {
  share(groups, threads, [=](Model &model, int g) { roll(model, N, rows_of(g, N, a, x, v, p, status, solves)); });
}

void adjoint(int groups, int N, int threads, double *a, double *x, double *v, double *p, int *status, int *solves,
             double *gx, double *gv, double *gp, double *gx0, double *gv0, double *gp0, double *ga) {
  share(groups, threads, [=](Model &model, int g) {
    const long row = (long)g * (N + 1);
    Cotangents cotangents = {(vec *)gx + row * D,  (vec *)gv + row * D,  (vec *)gp + row * Hd,
                             (vec *)gx0 + g * D,   (vec *)gv0 + g * D,   (vec *)gp0 + g * Hd,
                             (vec *)ga + (long)g * N * M};
    back(model, N, rows_of(g, N, a, x, v, p, status, solves), cotangents);
  });
}
}
