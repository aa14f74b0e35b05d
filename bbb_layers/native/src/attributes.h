// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// Attributes of operators, which arrive as strings.
#ifndef BBB_LAYERS_NATIVE_ATTRIBUTES_H_
#define BBB_LAYERS_NATIVE_ATTRIBUTES_H_

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <unordered_map>
#include <vector>

#include "mxnet/lib_api.h"

namespace bbb_layers {

using Attributes = std::unordered_map<std::string, std::string>;

// The attribute as it is; std::invalid_argument if there is none.
const std::string& text(const Attributes& attributes, const char* name);

// A whole number of at least 0; std::invalid_argument if there is none.
int64_t integer(const Attributes& attributes, const char* name);

// `count` float32 numbers, written as the hexadecimal digits of their bytes: exact, and without a decimal point, which
// locales differ in. std::invalid_argument if there are not as many.
std::vector<float> floats(const Attributes& attributes, const char* name, size_t count);

// MX_SUCCESS after `body`; MX_FAIL, with a message, where it throws: MXNet must see no exception.
template <typename Body>
mxnet::ext::MXReturnValue guarded(const Body& body) {
  try {
    body();
    return mxnet::ext::MX_SUCCESS;
  } catch (const std::exception& error) {
    MX_ERROR_MSG << error.what();
    return mxnet::ext::MX_FAIL;
  }
}

}  // namespace bbb_layers

#endif  // BBB_LAYERS_NATIVE_ATTRIBUTES_H_
