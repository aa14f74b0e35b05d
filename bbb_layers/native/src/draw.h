// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// The draw of the weights, their KL term, and the gradients of both, on raw float32 arrays.
//
// The reference for the formulas is bbb_layers/posterior/gaussian.py and bbb_layers/posterior/priors.py.
#ifndef BBB_LAYERS_NATIVE_DRAW_H_
#define BBB_LAYERS_NATIVE_DRAW_H_

#include <cstdint>

namespace bbb_layers {

// The results for mu, rho and the noise eps: kDraw gives mu + sigma * eps; kSplit gives mu and sigma * eps; kSpread
// gives mu and sigma^2.
enum class Kind { kDraw, kSplit, kSpread };

// The prior whose KL divergence is computed: none; a Gaussian, in closed form; or a mixture of Gaussians with mean 0,
// at the draw. kPair is a mixture of two Gaussians, and kMixture is a mixture of any number.
enum class PriorKind { kNone, kGaussian, kPair, kMixture };

struct Prior {
  PriorKind kind = PriorKind::kNone;
  // The Gaussian's mean, 1 / standard deviation, and log(standard deviation) - 1 / 2.
  float mean = 0.f, precision_root = 0.f, constant = 0.f;
  // For a mixture: 1 / narrowest standard deviation. For each of its components, from the widest to the narrowest:
  // `constants` has log(weight * density at 0) + the constant of the entropy, and `ratios` has
  // (narrowest / standard deviation)^2.
  float narrowest_inverse = 0.f;
  const float* constants = nullptr;
  const float* ratios = nullptr;
  int components = 0;
  // For a mixture of two: the numbers of the second component minus those of the first.
  float constant_gap = 0.f, ratio_gap = 0.f;
};

// Arrays of `size` numbers. For Kind::kDraw, `first` is the draw and `second` is null.
struct DrawArrays {
  const float* mu;
  const float* rho;
  float* first;
  float* second;
  int64_t size;
};

// `mu`, `rho`, `first` and `second` are the arrays of the forward. The others are gradients; `kl_gradient` is the
// gradient of the KL term.
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

// Makes a draw and returns its KL term in nats; without a prior, the KL term is 0.
double draw(Kind kind, const Prior& prior, uint64_t seed, const DrawArrays& arrays);

// The gradients of a draw that was made with the same seed.
void draw_backward(Kind kind, const Prior& prior, uint64_t seed, const DrawGradients& arrays);

// Stores the posterior mean in place of a draw, without noise and KL term; `second` becomes 0.
void posterior_mean(const DrawArrays& arrays);

// The gradients of posterior_mean. The gradient of rho is 0.
void posterior_mean_backward(const DrawGradients& arrays);

// Standard normal noise: the same noise that draw makes from the same seed.
void noise(uint64_t seed, float* values, int64_t size);

}  // namespace bbb_layers

#endif  // BBB_LAYERS_NATIVE_DRAW_H_
