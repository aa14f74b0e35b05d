// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// What all operators of this library share: MXNet's types for them, their errors, and the checks of their arrays.
#ifndef BBB_LAYERS_NATIVE_OPERATORS_H_
#define BBB_LAYERS_NATIVE_OPERATORS_H_

#include <exception>
#include <string>
#include <vector>

#include "errors.h"
#include "mxnet/lib_api.h"

namespace bbb_layers {

using mxnet::ext::MXReturnValue;
using mxnet::ext::MXTensor;
using mxnet::ext::OpResource;
using Shapes = std::vector<std::vector<unsigned int>>;

// Runs `body` and returns MX_SUCCESS. If `body` throws, the message is given to MXNet and MX_FAIL is returned, because
// no exception may reach MXNet.
template <typename Body>
MXReturnValue guarded(const Body& body) {
  try {
    body();
    return mxnet::ext::MX_SUCCESS;
  } catch (const std::exception& error) {
    unread_error() = error.what();
    return mxnet::ext::MX_FAIL;
  }
}

// The constraint that an array violates, such as "must be float32 (saw: 1)"; empty if the array is float32 and dense.
std::string violated_by_type(int type);
std::string violated_by(const MXTensor& tensor);

}  // namespace bbb_layers

#endif  // BBB_LAYERS_NATIVE_OPERATORS_H_
