// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// One chunk of a draw, for the instruction set that the compiler is set to, with vectors of BBB_WIDTH numbers.
//
// Each of the files draw_<instruction set>.cc includes this header once. Everything here has internal linkage, so that
// the linker cannot replace a function for one instruction set by the same function for another. For the same reason
// this header uses no templates of the standard library.
#ifndef BBB_LAYERS_NATIVE_DRAW_KERNELS_H_
#define BBB_LAYERS_NATIVE_DRAW_KERNELS_H_

#include "draw_chunk.h"
#include "noise.h"
#include "vectors.h"

namespace bbb_layers {
namespace {

// The smallest sigma, and the rho of the pruned weights that fill up a block, as in bbb_layers/posterior/gaussian.py.
constexpr float kSigmaFloor = 1.1754944e-38f, kPrunedRho = -1e30f;
// Beyond this distance, in units of the prior's sigma, the square of a weight is constant, as in
// bbb_layers/posterior/densities.py.
constexpr float kFarthest = 1e18f;

// Noise for the first `size` numbers of a chunk, rounded up to a multiple of kBlock.
template <int N>
BBB_INLINE void noise_blocks(uint64_t seed, int64_t chunk, float* values, int64_t size) {
  const Seeds seeds(seed, chunk);
  for (int lane = 0; lane < kLanes; lane += N) {
    Generators<N> generators(seeds, lane);
    for (int64_t start = lane; start - lane < size; start += kBlock) {
      Float<N> cosine, sine;
      generators.normal(&cosine, &sine);
      store<N>(values + start, cosine);
      store<N>(values + start + kLanes, sine);
    }
  }
}

template <int N>
BBB_INLINE void noise_chunk(uint64_t seed, int64_t chunk, float* values, int64_t size) {
  const int64_t whole = size / kBlock * kBlock;
  if (size == whole) {
    noise_blocks<N>(seed, chunk, values, size);
  } else {
    float all[kChunk];
    noise_blocks<N>(seed, chunk, all, whole + kBlock);
    for (int64_t i = 0; i < size; ++i) values[i] = all[i];
  }
}

// What follows from rho for a weight.
template <int N> struct Sigma {
  Float<N> exponential_, sigma, alive;
  Int<N> floored, positive;

  BBB_INLINE explicit Sigma(Float<N> rho) {
    const Float<N> least = splat<N>(kLeastExponent), one = splat<N>(1.f), zero = {};
    const Float<N> above = at_least<N>(rho, zero), negative_size = rho - above - above;     // NaN for infinity
    floored = negative_size < least;
    positive = rho > zero;
    exponential_ = exponential<N>(at_least<N>(negative_size, least));
    const Float<N> softplus = above + log1p<N>(exponential_);
    floored = floored & ~positive;
    sigma = floored ? splat<N>(kSigmaFloor) : softplus;
    alive = rho < splat<N>(kPrunedBelow) ? zero : one;
  }
};

template <int N> BBB_INLINE Float<N> clipped(Float<N> z) {
  return at_most<N>(at_least<N>(z, splat<N>(-kFarthest)), splat<N>(kFarthest));
}

BBB_INLINE constexpr bool sampled(PriorKind kind) { return kind == PriorKind::kMixture || kind == PriorKind::kPair; }

// The part of the KL term that needs no logarithm. The KL term is this part - log(sigma) - log(`inside`).
template <int N, PriorKind prior_kind>
BBB_INLINE Float<N> kl_term(const Prior& prior, Float<N> mean, Float<N> sigma, Float<N> weight, Float<N>* inside) {
  *inside = splat<N>(1.f);
  if (prior_kind == PriorKind::kGaussian) {
    const Float<N> z = clipped<N>((mean - prior.mean) * prior.precision_root);
    const Float<N> s = clipped<N>(sigma * prior.precision_root);
    return (z * z * 0.5f + s * s * 0.5f) + prior.constant;
  }
  const Float<N> z = clipped<N>(weight * prior.narrowest_inverse), square = z * z * 0.5f;
  Float<N> most = prior.constants[0] - square * prior.ratios[0];
  if (prior_kind == PriorKind::kPair) {
    const Float<N> gap = prior.constant_gap - square * prior.ratio_gap, zero = {};
    *inside = exponential<N>(at_least<N>(-absolute<N>(gap), splat<N>(kLeastExponent))) + 1.f;
    most += at_least<N>(gap, zero);
  } else if (prior.components > 1) {
    for (int k = 1; k < prior.components; ++k) {
      const Float<N> other = prior.constants[k] - square * prior.ratios[k];
      most = at_least<N>(most, other);
    }
    Float<N> sum = {};
    for (int k = 0; k < prior.components; ++k) {
      const Float<N> gap = (prior.constants[k] - square * prior.ratios[k]) - most;
      sum += exponential<N>(at_least<N>(gap, splat<N>(kLeastExponent)));
    }
    *inside = sum;
  }
  return -most;
}

// The draws of those vectors of a chunk that are at the same place in their blocks, and the sum of their KL terms.
template <int N, bool drawn, PriorKind prior_kind> class Drawing {
 public:
  BBB_INLINE Drawing() : total_(Float<N>{}) {}

  BBB_INLINE void step(Kind kind, const Prior& prior, const float* eps, const DrawArrays& arrays) {
    const Float<N> mu = load<N>(arrays.mu);
    const Sigma<N> of(load<N>(arrays.rho));
    const Float<N> mean = mu * of.alive, deviation = of.sigma * load<N>(eps);
    Float<N> weight;
    if (drawn) {
      weight = (mu + deviation) * of.alive;
      store<N>(arrays.first, weight);
    } else {
      store<N>(arrays.first, mean);
      store<N>(arrays.second, (kind == Kind::kSplit ? deviation : of.sigma * of.sigma) * of.alive);
      weight = mean + deviation * of.alive;
    }
    if (prior_kind == PriorKind::kNone) return;
    const Float<N> pruned = 1.f - of.alive, sigma = of.sigma + pruned;
    Float<N> inside;
    // A pruned weight counts 0 times, but NaN remains NaN.
    total_ += kl_term<N, prior_kind>(prior, mean, sigma, weight, &inside) * of.alive;
    product_.times(sigma, inside * of.alive + pruned);
  }

  BBB_INLINE void result(float* totals, float* mantissas, int32_t* exponents) const {
    for (int i = 0; i < N; ++i) {
      totals[i] = total_[i];
      mantissas[i] = product_.mantissa()[i];
      exponents[i] = product_.exponent()[i];
    }
  }

 private:
  Float<N> total_;
  Product<N> product_;
};

template <int N, bool drawn, PriorKind prior_kind>
BBB_INLINE double draw_chunk(Kind kind, const Prior& prior, uint64_t seed, int64_t chunk, const DrawArrays& arrays) {
  float eps[kChunk];
  if (drawn || kind == Kind::kSplit || sampled(prior_kind)) {
    noise_blocks<N>(seed, chunk, eps, arrays.size);
  } else {
    for (float& value : eps) value = 0.f;
  }
  Drawing<N, drawn, prior_kind> drawings[kBlock / N];
  const int64_t whole = arrays.size / kBlock * kBlock, rest = arrays.size - whole;
  for (int64_t start = 0; start < whole; start += kBlock) {
#pragma GCC unroll 8
    for (int i = 0; i < kBlock; i += N) {
      drawings[i / N].step(kind, prior, eps + start + i, part(arrays, start + i, N));
    }
  }
  if (rest > 0) {     // the block is filled up with pruned weights, which count nothing
    float buffers[4][kBlock];
    for (int i = 0; i < kBlock; ++i) {
      buffers[0][i] = i < rest ? arrays.mu[whole + i] : 0.f;
      buffers[1][i] = i < rest ? arrays.rho[whole + i] : kPrunedRho;
    }
    const DrawArrays last = {buffers[0], buffers[1], buffers[2], buffers[3], kBlock};
    for (int i = 0; i < kBlock; i += N) drawings[i / N].step(kind, prior, eps + whole + i, part(last, i, N));
    for (int i = 0; i < rest; ++i) {
      arrays.first[whole + i] = buffers[2][i];
      if (!drawn) arrays.second[whole + i] = buffers[3][i];
    }
  }
  if (prior_kind == PriorKind::kNone) return 0.;
  float totals[kBlock], mantissas[kBlock];
  int32_t exponents[kBlock];
  for (int i = 0; i < kBlock; i += N) drawings[i / N].result(totals + i, mantissas + i, exponents + i);
  double total = 0., mantissa = 1., exponent = 0.;
  for (int i = 0; i < kBlock; ++i) {
    total += totals[i];
    mantissa *= mantissas[i];
    exponent += exponents[i];
  }
  return total - (__builtin_log(mantissa) + exponent * 0.69314718055994531);
}

// The gradients of the KL term. `z * weighted / inside` is the gradient with respect to the mean or the weight, and `s`
// is the gradient with respect to sigma, without the part of log(sigma).
template <int N, PriorKind prior_kind> struct KLGradient {
  Float<N> z, s, inside, weighted;

  BBB_INLINE KLGradient(const Prior& prior, Float<N> mean, Float<N> sigma, Float<N> weight) {
    inside = splat<N>(1.f);
    s = weighted = Float<N>{};
    if (prior_kind == PriorKind::kGaussian) {
      z = within((mean - prior.mean) * prior.precision_root);
      s = within(sigma * prior.precision_root) * prior.precision_root;
      weighted = splat<N>(prior.precision_root);
    } else if (sampled(prior_kind)) {
      const Float<N> far = weight * prior.narrowest_inverse;
      const Float<N> near = clipped<N>(far), square = near * near * 0.5f;
      z = within(far);
      const Float<N> first = prior.constants[0] - square * prior.ratios[0];
      const Float<N> least = splat<N>(kLeastExponent), one = splat<N>(1.f);
      if (prior.components == 1) {
        weighted = splat<N>(prior.ratios[0]);
      } else if (prior_kind == PriorKind::kPair) {
        const Float<N> gap = prior.constant_gap - square * prior.ratio_gap, zero = {};
        const Float<N> share = exponential<N>(at_least<N>(-absolute<N>(gap), least));
        inside = share + 1.f;
        weighted = (gap > zero ? share : one) * prior.ratios[0] + (gap > zero ? one : share) * prior.ratios[1];
      } else {
        Float<N> most = first;
        for (int k = 1; k < prior.components; ++k) {
          const Float<N> other = prior.constants[k] - square * prior.ratios[k];
          most = at_least<N>(most, other);
        }
        inside = Float<N>{};
        for (int k = 0; k < prior.components; ++k) {
          const Float<N> gap = (prior.constants[k] - square * prior.ratios[k]) - most;
          const Float<N> share = exponential<N>(at_least<N>(gap, least));
          inside += share;
          weighted += share * prior.ratios[k];
        }
      }
      weighted *= prior.narrowest_inverse;
    }
  }

  // z, or 0 where clipped(z) is constant.
  static BBB_INLINE Float<N> within(Float<N> z) {
    const Float<N> zero = {};
    return absolute<N>(z) > splat<N>(kFarthest) ? zero : z;
  }
};

template <int N, bool drawn, PriorKind prior_kind>
BBB_INLINE void step_backward(Kind kind, const Prior& prior, const float* noise, const DrawGradients& arrays) {
  const Float<N> eps = load<N>(noise), mu = load<N>(arrays.mu), zero = {}, one = splat<N>(1.f);
  const Sigma<N> of(load<N>(arrays.rho));
  const Float<N> mean = mu * of.alive;
  const Float<N> first = load<N>(arrays.first_gradient);
  Float<N> weight = {}, mean_gradient = first, sigma_gradient = {};
  if (drawn) {
    weight = load<N>(arrays.first);
    sigma_gradient = first * eps;
  } else {
    const Float<N> second = load<N>(arrays.second_gradient);
    if (kind == Kind::kSplit) {
      weight = mean + load<N>(arrays.second);
      sigma_gradient = second * eps;
    } else {
      weight = mean + of.sigma * eps * of.alive;
      sigma_gradient = 2.f * (second * of.sigma);
    }
  }
  // One division is enough, because sigmoid(rho), 1 / sigma and 1 / inside have a common denominator.
  const Float<N> numerator = of.positive ? one : of.exponential_, sum = of.exponential_ + 1.f;
  Float<N> slope;
  if (prior_kind == PriorKind::kNone) {
    slope = numerator / sum;
  } else {
    const Float<N> pruned = 1.f - of.alive, sigma = of.sigma + pruned;
    const KLGradient<N, prior_kind> gradient(prior, mean, sigma, weight);
    const Float<N> inverse = 1.f / ((sum * sigma) * gradient.inside);
    const Float<N> rest = (numerator * gradient.inside) * inverse;      // sigmoid / sigma
    slope = rest * sigma;
    const Float<N> scale = arrays.kl_gradient * (gradient.weighted * ((sum * sigma) * inverse));
    const Float<N> of_weight = gradient.z * scale;
    mean_gradient += of_weight;
    if (prior_kind == PriorKind::kGaussian) {
      sigma_gradient += arrays.kl_gradient * gradient.s;
    } else {
      sigma_gradient += of_weight * eps;
    }
    sigma_gradient *= slope;
    sigma_gradient -= arrays.kl_gradient * rest;
    slope = one;
  }
  store<N>(arrays.mu_gradient, mean_gradient * of.alive);
  const Float<N> all = sigma_gradient * slope * of.alive;
  store<N>(arrays.rho_gradient, of.floored ? zero : all);
}

template <int N, bool drawn, PriorKind prior_kind>
BBB_INLINE void draw_backward_chunk(Kind kind, const Prior& prior, uint64_t seed, int64_t chunk,
                                    const DrawGradients& arrays) {
  float eps[kChunk];
  if (drawn || kind == Kind::kSplit || sampled(prior_kind)) {
    noise_blocks<N>(seed, chunk, eps, arrays.size);
  } else {
    for (float& value : eps) value = 0.f;
  }
  const int64_t whole = arrays.size / kBlock * kBlock, rest = arrays.size - whole;
#pragma GCC unroll 2
  for (int64_t start = 0; start < whole; start += N) {
    step_backward<N, drawn, prior_kind>(kind, prior, eps + start, part(arrays, start, N));
  }
  if (rest == 0) return;
  float buffers[8][kBlock] = {};
  const float* const from[] = {arrays.mu, arrays.rho, arrays.first, arrays.second, arrays.first_gradient,
                               arrays.second_gradient};
  for (int k = 0; k < 6; ++k) {
    for (int i = 0; from[k] != nullptr && i < rest; ++i) buffers[k][i] = from[k][whole + i];
  }
  const DrawGradients last = {buffers[0], buffers[1], buffers[2], buffers[3], buffers[4], buffers[5],
                              arrays.kl_gradient, buffers[6], buffers[7], kBlock};
  for (int i = 0; i < kBlock; i += N) {
    step_backward<N, drawn, prior_kind>(kind, prior, eps + whole + i, part(last, i, N));
  }
  for (int i = 0; i < rest; ++i) {
    arrays.mu_gradient[whole + i] = buffers[6][i];
    arrays.rho_gradient[whole + i] = buffers[7][i];
  }
}

template <int N, bool drawn>
BBB_INLINE double draw_with(Kind kind, const Prior& prior, uint64_t seed, int64_t chunk, const DrawArrays& arrays) {
  switch (prior.kind) {
    case PriorKind::kGaussian: return draw_chunk<N, drawn, PriorKind::kGaussian>(kind, prior, seed, chunk, arrays);
    case PriorKind::kPair: return draw_chunk<N, drawn, PriorKind::kPair>(kind, prior, seed, chunk, arrays);
    case PriorKind::kMixture: return draw_chunk<N, drawn, PriorKind::kMixture>(kind, prior, seed, chunk, arrays);
    default: return draw_chunk<N, drawn, PriorKind::kNone>(kind, prior, seed, chunk, arrays);
  }
}

template <int N>
double draw_any(Kind kind, const Prior& prior, uint64_t seed, int64_t chunk, const DrawArrays& arrays) {
  return kind == Kind::kDraw ? draw_with<N, true>(kind, prior, seed, chunk, arrays)
                             : draw_with<N, false>(kind, prior, seed, chunk, arrays);
}

template <int N, bool drawn>
BBB_INLINE void draw_backward_with(Kind kind, const Prior& prior, uint64_t seed, int64_t chunk,
                                   const DrawGradients& arrays) {
  switch (prior.kind) {
    case PriorKind::kGaussian:
      return draw_backward_chunk<N, drawn, PriorKind::kGaussian>(kind, prior, seed, chunk, arrays);
    case PriorKind::kPair:
      return draw_backward_chunk<N, drawn, PriorKind::kPair>(kind, prior, seed, chunk, arrays);
    case PriorKind::kMixture:
      return draw_backward_chunk<N, drawn, PriorKind::kMixture>(kind, prior, seed, chunk, arrays);
    default:
      return draw_backward_chunk<N, drawn, PriorKind::kNone>(kind, prior, seed, chunk, arrays);
  }
}

template <int N>
void draw_backward_any(Kind kind, const Prior& prior, uint64_t seed, int64_t chunk, const DrawGradients& arrays) {
  kind == Kind::kDraw ? draw_backward_with<N, true>(kind, prior, seed, chunk, arrays)
                      : draw_backward_with<N, false>(kind, prior, seed, chunk, arrays);
}

DrawKernels kernels() { return {draw_any<BBB_WIDTH>, draw_backward_any<BBB_WIDTH>, noise_chunk<BBB_WIDTH>}; }

}  // namespace
}  // namespace bbb_layers

#endif  // BBB_LAYERS_NATIVE_DRAW_KERNELS_H_
