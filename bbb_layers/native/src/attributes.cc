// Licensed under the Apache License, Version 2.0; see the file LICENSE.
#include "attributes.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace bbb_layers {
namespace {

int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

void bad(const char* name, const std::string& value, const std::string& constraint) {
  // The value comes from Python in UTF-8, and Python cannot read an error that ends within a letter.
  size_t end = std::min<size_t>(value.size(), 80);
  while (end > 0 && end < value.size() && (static_cast<unsigned char>(value[end]) & 0xc0) == 0x80) --end;
  throw std::invalid_argument(std::string(name) + " must be " + constraint + " (saw: '" + value.substr(0, end) + "')");
}

const std::string& text(const Attributes& attributes, const char* name) {
  const auto found = attributes.find(name);
  if (found == attributes.end()) throw std::invalid_argument(std::string(name) + " must be given (saw: nothing)");
  return found->second;
}

int64_t integer(const Attributes& attributes, const char* name, int64_t most) {
  const std::string& value = text(attributes, name);
  if (value.empty() || value.size() > 18 || value.find_first_not_of("0123456789") != std::string::npos) {
    bad(name, value, "a whole number of at least 0");
  }
  const int64_t number = std::stoll(value);
  if (number > most) bad(name, value, "at most " + std::to_string(most));
  return number;
}

int count(const Attributes& attributes, const char* name) {
  const int64_t number = integer(attributes, name, 1048576);
  if (number < 1) bad(name, text(attributes, name), "at least 1");
  return static_cast<int>(number);
}

std::vector<float> floats(const Attributes& attributes, const char* name, size_t count) {
  const std::string& value = text(attributes, name);
  // This comes before memory is asked for, because the count can be an attribute too, of any size.
  const size_t digits = 2 * sizeof(float);
  if (value.size() % digits != 0 || value.size() / digits != count) {
    bad(name, value, std::to_string(digits * count) + " hexadecimal digits");
  }
  std::vector<unsigned char> bytes(count * sizeof(float));
  for (size_t i = 0; i < bytes.size(); ++i) {
    const int high = digit(value[2 * i]), low = digit(value[2 * i + 1]);
    if (high < 0 || low < 0) bad(name, value, "hexadecimal digits, in lower case");
    bytes[i] = static_cast<unsigned char>(16 * high + low);
  }
  std::vector<float> numbers(count);
  if (count > 0) std::memcpy(numbers.data(), bytes.data(), bytes.size());
  return numbers;
}

}  // namespace bbb_layers
