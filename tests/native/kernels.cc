// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// Runs the kernels of the native operators without MXNet and Python, for test_compilers.py.
//
// It prints the instruction set, a hash of the bits of all results of each kind, and the sum of all KL terms.
#include <cstdint>
#include <cstdio>

#include "adam.h"
#include "draw.h"
#include "inputs.h"

namespace {

using bbb_layers::Kind;

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
