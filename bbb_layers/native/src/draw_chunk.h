// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// What draw.cc and the kernels for each instruction set share.
#ifndef BBB_LAYERS_NATIVE_DRAW_CHUNK_H_
#define BBB_LAYERS_NATIVE_DRAW_CHUNK_H_

#include <cstdint>

#include "draw.h"
#include "isa.h"

namespace bbb_layers {

// Random numbers are made in blocks (see noise.h), and each thread works on whole chunks.
constexpr int kLanes = 16;
constexpr int kBlock = 2 * kLanes;
constexpr int64_t kChunk = 64 * kBlock;

// A weight with a smaller rho was pruned, as in bbb_layers/posterior/gaussian.py.
constexpr float kPrunedBelow = -1e29f;

namespace {     // each file has its own copy, since each is compiled for its own instruction set

// An array from `start` on; null for an array that is null.
BBB_INLINE const float* offset(const float* array, int64_t start) { return array == nullptr ? nullptr : array + start; }
BBB_INLINE float* offset(float* array, int64_t start) { return array == nullptr ? nullptr : array + start; }

// `size` numbers of each array, from `start` on.
BBB_INLINE DrawArrays part(const DrawArrays& arrays, int64_t start, int64_t size) {
  return {arrays.mu + start, arrays.rho + start, arrays.first + start, offset(arrays.second, start), size};
}

BBB_INLINE DrawGradients part(const DrawGradients& arrays, int64_t start, int64_t size) {
  return {arrays.mu + start, arrays.rho + start, arrays.first + start, offset(arrays.second, start),
          arrays.first_gradient + start, offset(arrays.second_gradient, start), arrays.kl_gradient,
          arrays.mu_gradient + start, arrays.rho_gradient + start, size};
}

}  // namespace

// Functions that work on the chunk at the given place. The arrays are the chunk's.
struct DrawKernels {
  double (*draw)(Kind kind, const Prior& prior, uint64_t seed, int64_t chunk, const DrawArrays& arrays);
  void (*backward)(Kind kind, const Prior& prior, uint64_t seed, int64_t chunk, const DrawGradients& arrays);
  void (*noise)(uint64_t seed, int64_t chunk, float* values, int64_t size);
};

DrawKernels draw_baseline();
#if defined(__x86_64__)
DrawKernels draw_avx2();
DrawKernels draw_avx512();
#endif

}  // namespace bbb_layers

#endif  // BBB_LAYERS_NATIVE_DRAW_CHUNK_H_
