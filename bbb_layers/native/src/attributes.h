// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// The attributes of operators, which arrive as strings.
#ifndef BBB_LAYERS_NATIVE_ATTRIBUTES_H_
#define BBB_LAYERS_NATIVE_ATTRIBUTES_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace bbb_layers {

using Attributes = std::unordered_map<std::string, std::string>;

// Throws std::invalid_argument, with the beginning of the value.
[[noreturn]] void bad(const char* name, const std::string& value, const std::string& constraint);

// The text of the attribute; std::invalid_argument if it is missing.
const std::string& text(const Attributes& attributes, const char* name);

// The attribute as a whole number from 0 to `most`; std::invalid_argument if it is missing or anything else.
constexpr int64_t kMostInteger = 999999999999999999;
int64_t integer(const Attributes& attributes, const char* name, int64_t most = kMostInteger);

// The attribute as a whole number from 1 to 1048576; otherwise std::invalid_argument. It is for the number of arrays or
// of components: MXNet and this library take memory for as many as an attribute says, before anything compares it with
// what is there, and MXNet dies of an operator without outputs.
int count(const Attributes& attributes, const char* name);

// `count` float32 numbers, written as the hexadecimal digits of their bytes. This form is exact, and it has no decimal
// point, which differs between locales. std::invalid_argument if there is another number of digits.
std::vector<float> floats(const Attributes& attributes, const char* name, size_t count);

}  // namespace bbb_layers

#endif  // BBB_LAYERS_NATIVE_ATTRIBUTES_H_
