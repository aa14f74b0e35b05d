// Licensed under the Apache License, Version 2.0; see the file LICENSE.
#include "operators.h"

namespace bbb_layers {

std::string violated_by_type(int type) {
  return type == mxnet::ext::kFloat32 ? std::string() : "must be float32 (saw: " + std::to_string(type) + ")";
}

std::string violated_by(const MXTensor& tensor) {
  const std::string constraint = violated_by_type(tensor.dtype);
  if (!constraint.empty()) return constraint;
  return tensor.stype == mxnet::ext::kDefaultStorage ? std::string() : "must be dense";
}

}  // namespace bbb_layers
