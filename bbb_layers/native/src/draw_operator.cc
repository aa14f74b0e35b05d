// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// The draw, and noise alone, as operators of MXNet.
//
// _bbb_layers_draw has the inputs mu, rho and, if its attribute `switched` is 1, a switch. The switch is one number. It
// is 1 exactly in predict mode, where the posterior mean takes the place of the draw. The switch is the Dropout of a 1,
// because an operator of a library cannot see the mode.
//
// The outputs are the draw, or two arrays for the other kinds; the KL term, shape (1,); and the seed, shape (4,), from
// which backward makes the noise again. Keeping the noise would cost memory, and MXNet would make an array of zeros as
// its gradient. The seed is four whole numbers below 2^16, which float32 represents exactly.
//
// MXNet tells the operator neither which kind of write is asked for (grad_req), nor shapes that are only partly known.
// The code that builds the graph takes care of both, see bbb_layers/forward/draw.py.
#include <stdexcept>
#include <string>
#include <vector>

#include "attributes.h"
#include "draw.h"
#include "operators.h"

namespace bbb_layers {
namespace {

constexpr int kSeedParts = 4;

// The attributes, parsed.
struct Settings {
  Kind kind;
  bool switched;
  Prior prior;
  std::vector<float> numbers;   // `prior` points into it

  explicit Settings(const Attributes& attributes) {
    kind = static_cast<Kind>(choice(attributes, "kind", {"draw", "split", "spread"}));
    switched = integer(attributes, "switched", 1) == 1;
    prior.kind = static_cast<PriorKind>(choice(attributes, "prior", {"none", "gaussian", "pair", "mixture"}));
    if (prior.kind == PriorKind::kGaussian) {
      numbers = floats(attributes, "numbers", 3);
      prior.mean = numbers[0];
      prior.precision_root = numbers[1];
      prior.constant = numbers[2];
    } else if (prior.kind != PriorKind::kNone) {
      prior.components = count(attributes, "components");
      if (prior.kind == PriorKind::kPair && prior.components != 2) {
        bad("components", text(attributes, "components"), "2 for a pair");
      }
      const size_t components = prior.components;
      numbers = floats(attributes, "numbers", 2 * components + 3);
      prior.narrowest_inverse = numbers[0];
      prior.constant_gap = numbers[1];
      prior.ratio_gap = numbers[2];
      prior.constants = numbers.data() + 3;
      prior.ratios = numbers.data() + 3 + components;
    }
  }

  Settings(const Settings&) = delete;
  Settings& operator=(const Settings&) = delete;

  // How many outputs have the shape of mu.
  size_t parts() const { return kind == Kind::kDraw ? 1 : 2; }
  size_t inputs() const { return switched ? 3 : 2; }
  size_t outputs() const { return parts() + 2; }

 private:
  static int choice(const Attributes& attributes, const char* name, const std::vector<std::string>& choices) {
    const std::string& value = text(attributes, name);
    for (size_t i = 0; i < choices.size(); ++i) {
      if (value == choices[i]) return static_cast<int>(i);
    }
    bad(name, value, "another");
  }
};

void check(const MXTensor& tensor, const char* name, int64_t size) {
  const std::string constraint = violated_by(tensor);
  if (!constraint.empty()) throw std::invalid_argument(std::string(name) + " " + constraint);
  if (tensor.size() != size) {
    throw std::invalid_argument(std::string(name) + " must have " + std::to_string(size) + " numbers (saw: " +
                                std::to_string(tensor.size()) + ")");
  }
}

void check_counts(const std::vector<MXTensor>& in, const std::vector<MXTensor>& out, size_t in_count,
                  size_t out_count) {
  if (in.size() != in_count || out.size() != out_count) {
    throw std::invalid_argument("there must be " + std::to_string(in_count) + " inputs and " +
                                std::to_string(out_count) + " outputs");
  }
}

void put_seed(uint64_t seed, MXTensor* tensor) {
  for (int i = 0; i < kSeedParts; ++i) tensor->data<float>()[i] = static_cast<float>(seed >> (16 * i) & 0xffff);
}

uint64_t get_seed(MXTensor* tensor) {
  uint64_t seed = 0;
  for (int i = 0; i < kSeedParts; ++i) seed |= static_cast<uint64_t>(tensor->data<float>()[i]) << (16 * i);
  return seed;
}

// The seed comes from MXNet's own random numbers, so that mx.random.seed holds here too.
uint64_t new_seed(const OpResource& resource) {
  mxnet::ext::mx_cpu_rand_t& generator = *resource.get_cpu_rand_states();
  const uint64_t high = generator();
  const uint64_t low = generator();
  return high << 32 | low;
}

MXReturnValue parse(const Attributes& attributes, int* inputs, int* outputs) {
  return guarded([&] {
    const Settings settings(attributes);
    *inputs = static_cast<int>(settings.inputs());
    *outputs = static_cast<int>(settings.outputs());
  });
}

MXReturnValue types(const Attributes&, std::vector<int>* in, std::vector<int>* out) {
  return guarded([&] {
    for (int& type : *in) {
      const std::string constraint = type == -1 ? std::string() : violated_by_type(type);     // -1: not yet known
      if (!constraint.empty()) throw std::invalid_argument("mu and rho " + constraint);
      type = mxnet::ext::kFloat32;
    }
    for (int& type : *out) type = mxnet::ext::kFloat32;
  });
}

MXReturnValue shapes(const Attributes& attributes, Shapes* in, Shapes* out) {
  return guarded([&] {
    const Settings settings(attributes);
    const std::vector<unsigned int> mu = in->at(0);
    for (unsigned int size : mu) {
      if (size == static_cast<unsigned int>(-1)) throw std::invalid_argument("the shape of mu must be known");
    }
    if (in->at(1) != mu) throw std::invalid_argument("rho must have the shape of mu");
    if (settings.switched) in->at(2) = {1};
    for (size_t i = 0; i < settings.parts(); ++i) out->at(i) = mu;
    out->at(settings.parts()) = {1};
    out->at(settings.parts() + 1) = {kSeedParts};
  });
}

bool predicting(const Settings& settings, std::vector<MXTensor>* in, size_t place) {
  return settings.switched && *in->at(place).data<float>() == 1.f;
}

MXReturnValue forward(const Attributes& attributes, std::vector<MXTensor>* in, std::vector<MXTensor>* out,
                      const OpResource& resource) {
  return guarded([&] {
    const Settings settings(attributes);
    const size_t parts = settings.parts();
    check_counts(*in, *out, settings.inputs(), settings.outputs());
    const int64_t size = in->at(0).size();
    check(in->at(0), "mu", size);
    check(in->at(1), "rho", size);
    if (settings.switched) check(in->at(2), "switch", 1);
    for (size_t i = 0; i < parts; ++i) check(out->at(i), "draw", size);
    check(out->at(parts), "KL term", 1);
    check(out->at(parts + 1), "seed", kSeedParts);

    const DrawArrays arrays = {in->at(0).data<float>(), in->at(1).data<float>(), out->at(0).data<float>(),
                               parts == 2 ? out->at(1).data<float>() : nullptr, size};
    if (predicting(settings, in, 2)) {
      posterior_mean(arrays);
      *out->at(parts).data<float>() = 0.f;
      put_seed(0, &out->at(parts + 1));
    } else {
      const uint64_t seed = new_seed(resource);
      *out->at(parts).data<float>() = static_cast<float>(draw(settings.kind, settings.prior, seed, arrays));
      put_seed(seed, &out->at(parts + 1));
    }
  });
}

MXReturnValue backward(const Attributes& attributes, std::vector<MXTensor>* in, std::vector<MXTensor>* out,
                       const OpResource&) {
  return guarded([&] {
    const Settings settings(attributes);
    const size_t parts = settings.parts(), outputs = settings.outputs(), inputs = settings.inputs();
    check_counts(*in, *out, 2 * outputs + inputs, inputs);
    MXTensor* const gradients = in->data();
    MXTensor* const values = gradients + outputs;
    MXTensor* const results = values + inputs;
    const int64_t size = values[0].size();
    check(values[0], "mu", size);
    check(values[1], "rho", size);
    for (size_t i = 0; i < parts; ++i) {
      check(gradients[i], "gradient of the draw", size);
      check(results[i], "draw", size);
    }
    check(gradients[parts], "gradient of the KL term", 1);
    check(results[parts + 1], "seed", kSeedParts);
    std::vector<float> unwanted[2];
    float* wanted[2];
    for (size_t i = 0; i < 2; ++i) {
      check(out->at(i), "gradient", size);
      wanted[i] = out->at(i).data<float>();
      if (wanted[i] == nullptr) {     // a gradient that is not needed may come without memory
        unwanted[i].resize(size);
        wanted[i] = unwanted[i].data();
      }
    }

    const DrawGradients arrays = {values[0].data<float>(), values[1].data<float>(), results[0].data<float>(),
                                  parts == 2 ? results[1].data<float>() : nullptr, gradients[0].data<float>(),
                                  parts == 2 ? gradients[1].data<float>() : nullptr, *gradients[parts].data<float>(),
                                  wanted[0], wanted[1], size};
    if (predicting(settings, in, outputs + 2)) {
      posterior_mean_backward(arrays);
    } else {
      draw_backward(settings.kind, settings.prior, get_seed(&results[parts + 1]), arrays);
    }
    if (settings.switched && out->at(2).data_ptr != nullptr) *out->at(2).data<float>() = 0.f;
  });
}

// The input of _bbb_layers_noise only gives the shape. Its numbers are not read.
MXReturnValue noise_parse(const Attributes&, int* inputs, int* outputs) {
  *inputs = *outputs = 1;
  return mxnet::ext::MX_SUCCESS;
}

MXReturnValue noise_shapes(const Attributes&, Shapes* in, Shapes* out) {
  return guarded([&] { *out = *in; });
}

MXReturnValue noise_forward(const Attributes&, std::vector<MXTensor>*, std::vector<MXTensor>* out,
                            const OpResource& resource) {
  return guarded([&] {
    check(out->at(0), "noise", out->at(0).size());
    noise(new_seed(resource), out->at(0).data<float>(), out->at(0).size());
  });
}

}  // namespace
}  // namespace bbb_layers

REGISTER_OP(_bbb_layers_draw)
    .setForward(bbb_layers::forward, "cpu")
    .setBackward(bbb_layers::backward, "cpu")
    .setParseAttrs(bbb_layers::parse)
    .setInferType(bbb_layers::types)
    .setInferShape(bbb_layers::shapes);

REGISTER_OP(_bbb_layers_noise)
    .setForward(bbb_layers::noise_forward, "cpu")
    .setParseAttrs(bbb_layers::noise_parse)
    .setInferType(bbb_layers::types)
    .setInferShape(bbb_layers::noise_shapes);
