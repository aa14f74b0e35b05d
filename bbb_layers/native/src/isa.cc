// Licensed under the Apache License, Version 2.0; see the file LICENSE.
#include "isa.h"

#include <cstdlib>
#include <cstring>

namespace bbb_layers {
namespace {

Isa supported() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  // These functions also ask whether the operating system saves the registers.
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")) {
    return Isa::kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::kAvx2;
#endif
  return Isa::kBaseline;
}

Isa chosen() {
  const Isa best = supported();
  const char* wanted = std::getenv("BBB_LAYERS_ISA");
  if (wanted == nullptr) return best;
  Isa most = Isa::kAvx512;
  if (std::strcmp(wanted, "sse2") == 0) most = Isa::kBaseline;
  if (std::strcmp(wanted, "avx2") == 0) most = Isa::kAvx2;
  return most < best ? most : best;
}

}  // namespace

Isa isa() {
  static const Isa value = chosen();
  return value;
}

}  // namespace bbb_layers

// Python calls this function by ctypes.
extern "C" __attribute__((visibility("default"))) const char* bbb_layers_isa() {
  switch (bbb_layers::isa()) {
    case bbb_layers::Isa::kAvx512: return "avx512";
    case bbb_layers::Isa::kAvx2: return "avx2";
    default: return "sse2";
  }
}
