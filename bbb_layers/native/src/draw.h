// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// The draw of the weights, their KL term, and the gradients of both, on raw float32 arrays.
//
// The formulae are those of bbb_layers/posterior.py and bbb_layers/priors.py, which are the reference.
#ifndef BBB_LAYERS_NATIVE_DRAW_H_
#define BBB_LAYERS_NATIVE_DRAW_H_

#include <cstdint>

namespace bbb_layers {

// What is made of mu, rho and the noise: draw mu + sigma * eps; split mu and sigma * eps; spread mu and sigma^2.
enum class Kind { kDraw, kSplit, kSpread };

// The prior whose KL divergence is computed: none; a Gaussian, in closed form; a mixture of Gaussians with mean 0, on
// the draw, of two or of any number.
enum class PriorKind { kNone, kGaussian, kPair, kMixture };

struct Prior {
  PriorKind kind = PriorKind::kNone;
  // The Gaussian's mean, 1 / standard deviation, and log(standard deviation) - 1 / 2.
  float mean = 0.f, precision_root = 0.f, constant = 0.f;
  // The mixture's 1 / narrowest standard deviation; and for each component, from the widest to the narrowest, the log
  // of its density at 0 times its weight, with the entropy's constant added, and (narrowest / standard deviation)^2.
  float narrowest_inverse = 0.f;
  const float* constants = nullptr;
  const float* ratios = nullptr;
  int components = 0;
  // Of a mixture of two: the second's numbers less the first's.
  float constant_gap = 0.f, ratio_gap = 0.f;
};

// Arrays of `size` numbers. `second` is null for Kind::kDraw, whose `first` is the draw.
struct DrawArrays {
  const float* mu;
  const float* rho;
  float* first;
  float* second;
  int64_t size;
};

// `first` and `second` are those of the forward, the others gradients; kl_gradient is that of the KL term.
struct DrawGradients {
  const float* mu;
  const float* rho;
  const float* first;
  const float* second;
  const float* first_gradient;
  const float* second_gradient;
  float kl_gradient;
  float* mu_gradient;
  float* rho_gradient;
  int64_t size;
};

// Draws, and returns the KL term in nats, 0 without a prior.
double draw(Kind kind, const Prior& prior, uint64_t seed, const DrawArrays& arrays);

// The gradients of a draw that was made with the same seed.
void draw_backward(Kind kind, const Prior& prior, uint64_t seed, const DrawGradients& arrays);

// The posterior mean in place of the draw, without noise and KL term; `second` is 0.
void posterior_mean(const DrawArrays& arrays);

// The gradients of posterior_mean: rho's is 0.
void posterior_mean_backward(const DrawGradients& arrays);

// Standard normal noise, that which draw makes of the same seed.
void noise(uint64_t seed, float* values, int64_t size);

}  // namespace bbb_layers

#endif  // BBB_LAYERS_NATIVE_DRAW_H_
