// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// Runs the kernels of the native operators without MXNet and Python, for test_compilers.py.
//
// It prints the instruction set, a hash of the bits of all results of each kind, and the sum of all KL terms. The
// inputs are made by whole numbers alone, so that they are the same on every machine.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>

#include "adam.h"
#include "draw.h"

extern "C" const char* bbb_layers_isa();

namespace {

using bbb_layers::Kind;
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

  void print(const char* name) const { std::printf("%s %016llx\n", name, static_cast<unsigned long long>(value_)); }

 private:
  uint64_t value_ = 0xcbf29ce484222325u;
};

// Numbers from -8 to 8 times `scale`, a power of two; the first ones are special if `special`.
Floats numbers(int64_t size, float scale, bool special = false) {
  static uint64_t state = 1;
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
__attribute__((noinline)) void spoil_stack() {
  volatile unsigned char bytes[1 << 16];
  for (volatile unsigned char& byte : bytes) byte = 0xff;
}

std::vector<Prior> priors() {
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

void draws() {
  Hash noises, results, gradients;
  double kl = 0.;
  uint64_t seed = 12345;
  for (int64_t size : {1, 7, 16, 31, 32, 33, 2048, 2049, 40001}) {
    Floats eps(size);
    bbb_layers::noise(++seed, eps.data(), size);
    noises.add(eps);
    for (Kind kind : {Kind::kDraw, Kind::kSplit, Kind::kSpread}) {
      for (const Prior& prior : priors()) {
        // A NaN or an infinity among the inputs would leave nothing of the KL term.
        for (bool special : {false, true}) {
          const Floats mu = numbers(size, 0.5f, special && size % 2 == 0), rho = numbers(size, 1.f, special);
          const bool one = kind == Kind::kDraw;
          Floats first(size), second(one ? 0 : size), mu_gradient(size), rho_gradient(size);
          const Floats first_slope = numbers(size, 1.f), second_slope = numbers(size, 1.f);
          float* const other = one ? nullptr : second.data();
          spoil_stack();
          const double term = bbb_layers::draw(kind, prior, ++seed, {mu.data(), rho.data(), first.data(), other, size});
          if (!special) kl += term;
          results.add(first);
          results.add(second);
          spoil_stack();
          bbb_layers::draw_backward(kind, prior, seed, {mu.data(), rho.data(), first.data(), other, first_slope.data(),
                                                        one ? nullptr : second_slope.data(), 0.25f, mu_gradient.data(),
                                                        rho_gradient.data(), size});
          gradients.add(mu_gradient);
          gradients.add(rho_gradient);
        }
      }
    }
  }
  noises.print("noise");
  results.print("draws");
  gradients.print("gradients");
  std::printf("kl %.17g\n", kl);
}

void steps() {
  Hash hash;
  for (float clip : {-1.f, 0.5f}) {
    for (int64_t size : {1, 5, 17, 70, 16384, 16385}) {
      Floats weight = numbers(size, 1.f), mean(size), var(size);
      for (int step = 0; step < 3; ++step) {
        const Floats grad = numbers(size, step == 1 ? 0x1p-60f : 1.f, step == 2);
        bbb_layers::adam({0.9f, 0.999f, 1e-8f, 0.5f, clip},
                         {{weight.data(), grad.data(), mean.data(), var.data(), size, 0.1f, 0.01f}});
      }
      hash.add(weight);
      hash.add(mean);
      hash.add(var);
    }
  }
  hash.print("adam");
}

}  // namespace

int main() {
  std::printf("isa %s\n", bbb_layers_isa());
  draws();
  steps();
  return 0;
}
