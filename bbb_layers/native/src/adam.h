// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// Adam (Kingma and Ba 2015) on raw float32 arrays.
#ifndef BBB_LAYERS_NATIVE_ADAM_H_
#define BBB_LAYERS_NATIVE_ADAM_H_

#include <cstdint>
#include <vector>

namespace bbb_layers {

// The settings that all arrays of a step share. Gradients are not clipped if clip_gradient is below 0 or NaN.
struct AdamSettings {
  float beta1, beta2, epsilon, rescale_grad, clip_gradient;
};

// One Parameter: four arrays of `size` numbers, which must not overlap. The learning rate includes the bias
// corrections.
struct AdamArrays {
  float* weight;
  const float* grad;
  float* mean;
  float* var;
  int64_t size;
  float lr, wd;
};

// One step:
//   g = clip(rescale_grad * grad + wd * weight)
//   mean = beta1 * mean + (1 - beta1) * g
//   var = beta2 * var + (1 - beta2) * g^2
//   weight = weight - lr * mean / (sqrt(var) + epsilon)
// The operations have the order of MXNet's adam_update (src/operator/optimizer_op-inl.h, AdamUpdateKernel), and none of
// them are contracted, so that every instruction set rounds as MXNet does.
void adam(const AdamSettings& settings, const std::vector<AdamArrays>& parameters);

}  // namespace bbb_layers

#endif  // BBB_LAYERS_NATIVE_ADAM_H_
