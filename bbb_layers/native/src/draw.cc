// Licensed under the Apache License, Version 2.0; see the file LICENSE.
#include "draw.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "draw_chunk.h"
#include "isa.h"
#include "threads.h"

namespace bbb_layers {
namespace {

DrawKernels chosen() {
  switch (isa()) {
#if defined(__x86_64__)
    case Isa::kAvx512: return draw_avx512();
    case Isa::kAvx2: return draw_avx2();
#endif
    default: return draw_baseline();
  }
}

// Calls body(chunk, start, size) for all chunks, on several threads.
template <typename Body> void for_chunks(int64_t size, const Body& body) {
  const int64_t count = (size + kChunk - 1) / kChunk;
  const int team = threads(count);
  (void)team;   // unused without OpenMP
#if defined(_OPENMP)
#pragma omp parallel for schedule(static) num_threads(team) if (team > 1)
#endif
  for (int64_t chunk = 0; chunk < count; ++chunk) {
    body(chunk, chunk * kChunk, std::min(kChunk, size - chunk * kChunk));
  }
}

}  // namespace

double draw(Kind kind, const Prior& prior, uint64_t seed, const DrawArrays& arrays) {
  const DrawKernels kernels = chosen();
  std::vector<double> terms((arrays.size + kChunk - 1) / kChunk);
  for_chunks(arrays.size, [&](int64_t chunk, int64_t start, int64_t size) {
    terms[chunk] = kernels.draw(kind, prior, seed, chunk, part(arrays, start, size));
  });
  double total = 0.;
  for (double term : terms) total += term;
  return total;
}

void draw_backward(Kind kind, const Prior& prior, uint64_t seed, const DrawGradients& arrays) {
  const DrawKernels kernels = chosen();
  for_chunks(arrays.size, [&](int64_t chunk, int64_t start, int64_t size) {
    kernels.backward(kind, prior, seed, chunk, part(arrays, start, size));
  });
}

void posterior_mean(const DrawArrays& arrays) {
  for_chunks(arrays.size, [&](int64_t, int64_t start, int64_t size) {
    const float* __restrict mu = arrays.mu + start;
    const float* __restrict rho = arrays.rho + start;
    float* __restrict first = arrays.first + start;
    for (int64_t i = 0; i < size; ++i) first[i] = mu[i] * (rho[i] < kPrunedBelow ? 0.f : 1.f);
    if (arrays.second != nullptr) std::memset(arrays.second + start, 0, size * sizeof(float));
  });
}

void posterior_mean_backward(const DrawGradients& arrays) {
  for_chunks(arrays.size, [&](int64_t, int64_t start, int64_t size) {
    for (int64_t i = start; i < start + size; ++i) {
      arrays.mu_gradient[i] = arrays.first_gradient[i] * (arrays.rho[i] < kPrunedBelow ? 0.f : 1.f);
      arrays.rho_gradient[i] = 0.f;
    }
  });
}

void noise(uint64_t seed, float* values, int64_t size) {
  const DrawKernels kernels = chosen();
  for_chunks(size, [&](int64_t chunk, int64_t start, int64_t count) {
    kernels.noise(seed, chunk, values + start, count);
  });
}

}  // namespace bbb_layers
