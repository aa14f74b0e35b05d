// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// What the programs share that run the kernels without MXNet: the inputs, and a hash of the results.
//
// The inputs are made by whole numbers alone, so that they are the same on every machine.
#ifndef BBB_LAYERS_TESTS_NATIVE_INPUTS_H_
#define BBB_LAYERS_TESTS_NATIVE_INPUTS_H_

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>

#include "draw.h"

extern "C" const char* bbb_layers_isa();

namespace {

using bbb_layers::Prior;
using bbb_layers::PriorKind;
using Floats = std::vector<float>;

// FNV-1a over the bits of the numbers. Which NaN a NaN is depends on the processor.
class Hash {
 public:
  void add(const Floats& values) {
    for (float value : values) {
      uint32_t bits = 0x7fc00000u;
      if (value == value) std::memcpy(&bits, &value, sizeof(bits));
      for (int shift = 0; shift < 32; shift += 8) value_ = (value_ ^ (bits >> shift & 0xff)) * 0x100000001b3u;
    }
  }

  uint64_t value() const { return value_; }
  void print(const char* name) const { std::printf("%s %016llx\n", name, static_cast<unsigned long long>(value_)); }

 private:
  uint64_t value_ = 0xcbf29ce484222325u;
};

// The state of numbers(), of each thread its own.
inline uint64_t& number_state() {
  thread_local uint64_t state = 1;
  return state;
}

// Numbers from -8 to 8 times `scale`, a power of two; the first ones are special if `special`.
inline Floats numbers(int64_t size, float scale, bool special = false) {
  uint64_t& state = number_state();
  Floats values(size);
  for (float& value : values) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    value = static_cast<float>(static_cast<int32_t>(state >> 40) - (1 << 23)) * 0x1p-20f * scale;
  }
  const float infinity = std::numeric_limits<float>::infinity();
  const float specials[] = {-1e30f, 0.f, -0.f, 200.f, -200.f, infinity, -infinity,
                            std::numeric_limits<float>::quiet_NaN(), 1e-40f, 3e38f};
  for (size_t i = 0; special && i < sizeof(specials) / sizeof(float) && i < values.size(); ++i) values[i] = specials[i];
  return values;
}

// Leaves NaN in the memory that the next call takes for its own variables. No result may depend on it.
__attribute__((noinline, unused)) void spoil_stack() {
  volatile unsigned char bytes[1 << 16];
  for (volatile unsigned char& byte : bytes) byte = 0xff;
}

inline std::vector<Prior> priors() {
  static const float pair[] = {0.2f, 5.3f, 6.25e-6f, 1.f}, three[] = {-1.5f, -0.4f, 2.3f, 0.0025f, 0.01f, 1.f};
  Prior none, gaussian, two, mixture;
  gaussian.kind = PriorKind::kGaussian;
  gaussian.mean = 0.3f;
  gaussian.precision_root = 2.5f;
  gaussian.constant = -1.4162908f;
  two.kind = PriorKind::kPair;
  two.narrowest_inverse = 400.f;
  two.constants = pair;
  two.ratios = pair + 2;
  two.components = 2;
  two.constant_gap = pair[1] - pair[0];
  two.ratio_gap = pair[3] - pair[2];
  mixture.kind = PriorKind::kMixture;
  mixture.narrowest_inverse = 10.f;
  mixture.constants = three;
  mixture.ratios = three + 3;
  mixture.components = 3;
  return {none, gaussian, two, mixture};
}

}  // namespace

#endif  // BBB_LAYERS_TESTS_NATIVE_INPUTS_H_
