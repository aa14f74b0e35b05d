// Licensed under the Apache License, Version 2.0; see the file LICENSE.
#if defined(__x86_64__)

#include <cstdint>

#include "draw_chunk.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#endif
#define BBB_WIDTH 16
#include "draw_kernels.h"

namespace bbb_layers {

DrawKernels draw_avx512() { return kernels(); }

}  // namespace bbb_layers

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif  // defined(__x86_64__)
