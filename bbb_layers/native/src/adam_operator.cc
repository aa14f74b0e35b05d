// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// Adam as two operators of MXNet.
//
// _bbb_layers_adam updates any number of Parameters. For each Parameter its inputs are weight, weight, gradient, mean
// and variance; it changes the first weight, the mean and the variance in place.
//
// A second operator is needed because of oneDNN. After a forward in predict mode, a weight may be in memory in a layout
// of oneDNN's, until some time after the next forward in train mode. MXNet gives an operator of a library a copy of
// such a weight in the usual layout, and discards what the operator writes there. A weight that is among the inputs
// twice then arrives as two different copies, by which the operator recognizes this case. The new values of the weight
// wait for _bbb_layers_adam_settle, which has the weight as its output: for an output that is not also an input, MXNet
// returns to the usual layout and hands over the memory itself.
#include <cstring>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "adam.h"
#include "attributes.h"
#include "operators.h"

namespace bbb_layers {
namespace {

constexpr int kArrays = 5;
const char* const kNames[kArrays] = {"weight", "weight", "gradient", "mean", "variance"};

// New values of weights that are in a layout of oneDNN's: (step, place of the weight in the step) -> values.
class Waiting {
 public:
  void put(int64_t step, int64_t place, std::vector<float>&& values) {
    std::lock_guard<std::mutex> lock(mutex_);
    values_[{step, place}] = std::move(values);
  }

  // Moves the values out of this object; returns false if it has none.
  bool take(int64_t step, int64_t place, std::vector<float>* values) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = values_.find({step, place});
    if (found == values_.end()) return false;
    *values = std::move(found->second);
    values_.erase(found);
    return true;
  }

 private:
  std::mutex mutex_;
  std::map<std::pair<int64_t, int64_t>, std::vector<float>> values_;
};

Waiting& waiting() {
  static Waiting* const instance = new Waiting;   // never destroyed: the engine may outlive static objects
  return *instance;
}

[[noreturn]] void wrong(size_t input, const std::string& constraint) {
  throw std::invalid_argument(std::string(kNames[input % kArrays]) + " of Parameter " +
                              std::to_string(input / kArrays) + " " + constraint);
}

void check_float(const MXTensor& tensor, size_t input) {
  const std::string constraint = violated_by(tensor);
  if (!constraint.empty()) wrong(input, constraint);
}

MXReturnValue parse(const Attributes& attributes, int* inputs, int* outputs) {
  return guarded([&] {
    *inputs = kArrays * count(attributes, "parameters");
    *outputs = 1;
  });
}

MXReturnValue types(const Attributes&, std::vector<int>* in, std::vector<int>* out) {
  return guarded([&] {
    for (size_t i = 0; i < in->size(); ++i) {
      const std::string constraint = violated_by_type((*in)[i]);
      if (!constraint.empty()) wrong(i, constraint);
    }
    for (int& type : *out) type = mxnet::ext::kFloat32;
  });
}

MXReturnValue shapes(const Attributes&, Shapes* in, Shapes* out) {
  return guarded([&] {
    for (size_t i = 0; i < in->size(); ++i) {
      if ((*in)[i] != (*in)[i - i % kArrays]) wrong(i, "must have the weight's shape");
    }
    out->at(0) = {1};
  });
}

MXReturnValue mutated(const Attributes& attributes, std::vector<int>* indices) {
  return guarded([&] {
    const int parameters = count(attributes, "parameters");
    for (int i = 0; i < parameters; ++i) {
      for (int array : {0, 3, 4}) indices->push_back(kArrays * i + array);
    }
  });
}

MXReturnValue forward(const Attributes& attributes, std::vector<MXTensor>* in, std::vector<MXTensor>* out,
                      const OpResource&) {
  return guarded([&] {
    const size_t parameters = count(attributes, "parameters");
    const int64_t step = integer(attributes, "step");
    if (in->size() != kArrays * parameters) throw std::invalid_argument("there must be 5 arrays for each Parameter");
    const std::vector<float> lrs = floats(attributes, "lrs", parameters), wds = floats(attributes, "wds", parameters);
    const std::vector<float> values = floats(attributes, "settings", 5);
    const AdamSettings settings = {values[0], values[1], values[2], values[3], values[4]};
    for (size_t i = 0; i < in->size(); ++i) {
      check_float((*in)[i], i);
      if ((*in)[i].shape != (*in)[i - i % kArrays].shape) wrong(i, "must have the weight's shape");
    }

    std::vector<AdamArrays> arrays;
    std::vector<std::pair<size_t, std::vector<float>>> elsewhere;
    for (size_t i = 0; i < parameters; ++i) {
      MXTensor* const tensors = in->data() + kArrays * i;
      arrays.push_back({tensors[0].data<float>(), tensors[2].data<float>(), tensors[3].data<float>(),
                        tensors[4].data<float>(), tensors[0].size(), lrs[i], wds[i]});
      if (tensors[0].data_ptr != tensors[1].data_ptr) elsewhere.emplace_back(i, std::vector<float>());
    }
    for (auto& entry : elsewhere) {
      AdamArrays& moved = arrays[entry.first];
      entry.second.assign(moved.weight, moved.weight + moved.size);
      moved.weight = entry.second.data();
    }
    adam(settings, arrays);
    *out->at(0).data<float>() = static_cast<float>(elsewhere.size());
    for (auto& entry : elsewhere) waiting().put(step, static_cast<int64_t>(entry.first), std::move(entry.second));
  });
}

// The outputs of _bbb_layers_adam_settle are the weights. Its inputs are arrays in the shapes of the weights, because
// MXNet asks for the shapes of outputs even where it has them. The numbers in the inputs are not read.
MXReturnValue settle_parse(const Attributes& attributes, int* inputs, int* outputs) {
  return guarded([&] {
    *inputs = *outputs = count(attributes, "weights");
  });
}

MXReturnValue settle_types(const Attributes&, std::vector<int>* in, std::vector<int>* out) {
  return guarded([&] { *out = *in; });
}

MXReturnValue settle_shapes(const Attributes&, Shapes* in, Shapes* out) {
  return guarded([&] { *out = *in; });
}

MXReturnValue settle_forward(const Attributes& attributes, std::vector<MXTensor>*, std::vector<MXTensor>* out,
                             const OpResource&) {
  return guarded([&] {
    const int64_t step = integer(attributes, "step");
    std::vector<float> values;
    for (size_t i = 0; i < out->size(); ++i) {
      MXTensor& weight = (*out)[i];
      if (!waiting().take(step, static_cast<int64_t>(i), &values)) continue;
      check_float(weight, kArrays * i);
      if (static_cast<size_t>(weight.size()) != values.size()) wrong(kArrays * i, "must have the shape it had");
      std::memcpy(weight.data_ptr, values.data(), values.size() * sizeof(float));
    }
  });
}

}  // namespace
}  // namespace bbb_layers

REGISTER_OP(_bbb_layers_adam)
    .setForward(bbb_layers::forward, "cpu")
    .setParseAttrs(bbb_layers::parse)
    .setInferType(bbb_layers::types)
    .setInferShape(bbb_layers::shapes)
    .setMutateInputs(bbb_layers::mutated);

REGISTER_OP(_bbb_layers_adam_settle)
    .setForward(bbb_layers::settle_forward, "cpu")
    .setParseAttrs(bbb_layers::settle_parse)
    .setInferType(bbb_layers::settle_types)
    .setInferShape(bbb_layers::settle_shapes);
