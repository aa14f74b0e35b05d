// Licensed under the Apache License, Version 2.0; see the file LICENSE.
#include "adam.h"

#include <algorithm>
#include <cmath>

#include "isa.h"
#include "threads.h"

namespace bbb_layers {
namespace {

// How many numbers a thread updates at a time: enough to make the cost of starting a thread small.
constexpr int64_t kPiece = 1 << 14;

template <bool clipped>
BBB_INLINE void update(const AdamSettings& settings, const AdamArrays& arrays) {
  float* __restrict weight = arrays.weight;
  const float* __restrict grad = arrays.grad;
  float* __restrict mean = arrays.mean;
  float* __restrict var = arrays.var;
  const float beta1 = settings.beta1, beta2 = settings.beta2, epsilon = settings.epsilon;
  const float rescale = settings.rescale_grad, clip = settings.clip_gradient, lr = arrays.lr, wd = arrays.wd;
  const float rest1 = 1.f - beta1, rest2 = 1.f - beta2;
  const int64_t size = arrays.size;
  for (int64_t i = 0; i < size; ++i) {
    float g = grad[i] * rescale + weight[i] * wd;
    if (clipped) g = g > clip ? clip : g < -clip ? -clip : g;     // NaN stays NaN
    mean[i] = beta1 * mean[i] + rest1 * g;
    var[i] = beta2 * var[i] + rest2 * g * g;
    weight[i] = weight[i] - lr * mean[i] / (std::sqrt(var[i]) + epsilon);
  }
}

BBB_INLINE void update_either(const AdamSettings& settings, const AdamArrays& arrays) {
  if (settings.clip_gradient >= 0.f) {
    update<true>(settings, arrays);
  } else {
    update<false>(settings, arrays);
  }
}

using Update = void (*)(const AdamSettings&, const AdamArrays&);

void update_baseline(const AdamSettings& settings, const AdamArrays& arrays) { update_either(settings, arrays); }
#if defined(__x86_64__)
BBB_AVX2 void update_avx2(const AdamSettings& settings, const AdamArrays& arrays) { update_either(settings, arrays); }
BBB_AVX512 void update_avx512(const AdamSettings& settings, const AdamArrays& arrays) {
  update_either(settings, arrays);
}
#endif

Update chosen() {
  switch (isa()) {
#if defined(__x86_64__)
    case Isa::kAvx512: return update_avx512;
    case Isa::kAvx2: return update_avx2;
#endif
    default: return update_baseline;
  }
}

// Whether a Parameter is in the list twice. Its updates must then run one after the other.
bool repeated(const std::vector<AdamArrays>& parameters) {
  std::vector<const float*> weights;
  for (const AdamArrays& arrays : parameters) weights.push_back(arrays.weight);
  std::sort(weights.begin(), weights.end());
  return std::adjacent_find(weights.begin(), weights.end()) != weights.end();
}

}  // namespace

void adam(const AdamSettings& settings, const std::vector<AdamArrays>& parameters) {
  std::vector<AdamArrays> pieces;
  for (const AdamArrays& arrays : parameters) {
    for (int64_t start = 0; start < arrays.size; start += kPiece) {
      pieces.push_back({arrays.weight + start, arrays.grad + start, arrays.mean + start, arrays.var + start,
                        std::min(kPiece, arrays.size - start), arrays.lr, arrays.wd});
    }
  }
  const Update run = chosen();
  const int64_t count = static_cast<int64_t>(pieces.size());
  int team = threads(count);
  if (team > 1 && repeated(parameters)) team = 1;
  (void)team;   // unused without OpenMP
#if defined(_OPENMP)
#pragma omp parallel for schedule(static) num_threads(team) if (team > 1)
#endif
  for (int64_t i = 0; i < count; ++i) run(settings, pieces[i]);
}

}  // namespace bbb_layers
