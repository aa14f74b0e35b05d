// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// What draw.cc and the kernels for each instruction set have in common.
#ifndef BBB_LAYERS_NATIVE_DRAW_CHUNK_H_
#define BBB_LAYERS_NATIVE_DRAW_CHUNK_H_

#include <cstdint>

#include "draw.h"

namespace bbb_layers {

// Random numbers come in blocks, as noise.h says, and threads work on chunks.
constexpr int kLanes = 16;
constexpr int kBlock = 2 * kLanes;
constexpr int64_t kChunk = 64 * kBlock;

// Functions that work on the chunk with the given place; the arrays are the chunk's.
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
