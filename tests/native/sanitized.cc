// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// Runs the kernels and the parser of attributes where a fault of memory, undefined behaviour or a data race could hide.
// .ci/sanitize.py compiles it for the sanitizers of the compiler, together with the library's own files.
//
//   sanitized edges          sizes, alignments, special numbers, several threads, attributes that are wrong
//   sanitized threads TIMES  two threads, each with its own arrays, TIMES times
//   sanitized FAULT          one fault on purpose, which the sanitizer must notice: overrun, overwrite, misaligned,
//                            race (of two callers) or shared (within the threads of one call)
//
// Where a sanitizer finds nothing, the results are compared: neither the alignment nor the number of threads may change
// a bit of them, and nothing in front of an array may be written to.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "adam.h"
#include "attributes.h"
#include "draw.h"
#include "inputs.h"

namespace {

using bbb_layers::AdamArrays;
using bbb_layers::AdamSettings;
using bbb_layers::Attributes;
using bbb_layers::Kind;

constexpr Kind kKinds[] = {Kind::kDraw, Kind::kSplit, Kind::kSpread};
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
// Also where a kernel changes from one formula to another: rho of a pruned weight, and the least exponent.
constexpr float kSpecials[] = {kNaN, kInfinity, -kInfinity, 0.f, -0.f, -1e30f, -1e29f, 1e-40f, -1e-45f, 1.1754944e-38f,
                               3.4028235e38f, -3.4028235e38f, -87.3365f, -87.34f, 88.f, -104.f, 1e18f, -1e19f};

void require(bool condition, const std::string& what) {
  if (condition) return;
  std::printf("wrong: %s\n", what.c_str());
  std::exit(1);
}

// `size` numbers which are special, each beside each other if `stride` grows from array to array.
Floats specials(int64_t size, int64_t stride) {
  const int64_t count = sizeof(kSpecials) / sizeof(float);
  Floats values(size);
  for (int64_t i = 0; i < size; ++i) values[i] = kSpecials[i / stride % count];
  return values;
}

// An array that ends where its memory ends, so that AddressSanitizer sees the first number read or written behind it.
// It begins `offset` numbers after the beginning, as a slice of an array of MXNet may do.
class Array {
 public:
  Array(const Floats& values, int64_t offset) : memory_(new float[offset + values.size()]), offset_(offset),
                                                size_(static_cast<int64_t>(values.size())) {
    std::fill(memory_.get(), memory_.get() + offset, kFront);
    std::copy(values.begin(), values.end(), data());
  }

  float* data() const { return memory_.get() + offset_; }

  Floats values() const {
    for (int64_t i = 0; i < offset_; ++i) require(memory_[i] == kFront, "a number in front of an array has changed");
    return Floats(data(), data() + size_);
  }

 private:
  static constexpr float kFront = 12345.f;
  std::unique_ptr<float[]> memory_;
  int64_t offset_, size_;
};

void use_threads(int count) {
#if defined(_OPENMP)
  omp_set_num_threads(count);
#else
  (void)count;
#endif
}

// The priors of kernels.cc, mixtures of one and of seven components, and numbers at the ends of float32.
std::vector<Prior> all_priors() {
  static const float one[] = {-1.4f, 1.f};
  static const float seven[] = {-3.f, -2.f, -1.f, 0.f, 1.f, 2.f, 3.f, 1e-30f, 1e-4f, 1e-3f, 0.01f, 0.1f, 0.5f, 1.f};
  std::vector<Prior> all = priors();
  Prior single = all.back(), many = all.back(), narrow = all[1], far = all[2];
  single.constants = one;
  single.ratios = one + 1;
  single.components = 1;
  many.constants = seven;
  many.ratios = seven + 7;
  many.components = 7;
  narrow.mean = -3e38f;
  narrow.precision_root = 1e38f;
  far.narrowest_inverse = 3e38f;
  all.insert(all.end(), {single, many, narrow, far});
  return all;
}

// What a draw reads: its arrays, and the gradients of its results.
struct Inputs {
  Floats mu, rho, first_slope, second_slope;
  float kl_slope;
};

Inputs plain(int64_t size) {
  return {numbers(size, 0.5f), numbers(size, 1.f), numbers(size, 1.f), numbers(size, 1.f), 0.25f};
}

Inputs special(int64_t size, float kl_slope) {
  return {specials(size, 1), specials(size, 18), specials(size, 7), specials(size, 5), kl_slope};
}

// A hash of all results of a draw, of its gradients, and of the same in predict mode.
uint64_t drawn(Kind kind, const Prior& prior, const Inputs& inputs, int64_t offset) {
  const int64_t size = static_cast<int64_t>(inputs.mu.size());
  const bool one = kind == Kind::kDraw;
  const Floats nothing(size, 7.f);
  const Array mu(inputs.mu, offset), rho(inputs.rho, (offset + 1) % 4), first_slope(inputs.first_slope, offset);
  const Array second_slope(inputs.second_slope, (offset + 2) % 4), first(nothing, (offset + 3) % 4);
  const Array second(nothing, offset), mu_gradient(nothing, (offset + 1) % 4), rho_gradient(nothing, offset);
  float* const other = one ? nullptr : second.data();
  const bbb_layers::DrawArrays arrays = {mu.data(), rho.data(), first.data(), other, size};
  const bbb_layers::DrawGradients gradients = {
      mu.data(), rho.data(), first.data(), other, first_slope.data(), one ? nullptr : second_slope.data(),
      inputs.kl_slope, mu_gradient.data(), rho_gradient.data(), size};
  Hash hash;
  const auto add = [&] {
    for (const Array* array : {&mu, &rho, &first, &second, &mu_gradient, &rho_gradient}) hash.add(array->values());
  };
  const double term = bbb_layers::draw(kind, prior, 99, arrays);
  hash.add({static_cast<float>(term)});
  bbb_layers::draw_backward(kind, prior, 99, gradients);
  add();
  bbb_layers::posterior_mean(arrays);
  bbb_layers::posterior_mean_backward(gradients);
  add();
  return hash.value();
}

// A hash of three steps. The second Parameter has another size, and the third one is the first once more.
uint64_t stepped(const AdamSettings& settings, int64_t size, bool special, int64_t offset) {
  const int64_t sizes[] = {size, size / 2 + 1};
  std::vector<Array> arrays;
  for (int64_t count : sizes) {
    arrays.emplace_back(special ? specials(count, 1) : numbers(count, 1.f), offset);
    arrays.emplace_back(special ? specials(count, 18) : numbers(count, 1.f), (offset + 1) % 4);
    arrays.emplace_back(special ? specials(count, 7) : Floats(count), (offset + 2) % 4);
    arrays.emplace_back(special ? specials(count, 5) : Floats(count), (offset + 3) % 4);
  }
  std::vector<AdamArrays> parameters;
  for (int i = 0; i < 2; ++i) {
    parameters.push_back({arrays[4 * i].data(), arrays[4 * i + 1].data(), arrays[4 * i + 2].data(),
                          arrays[4 * i + 3].data(), sizes[i], 0.1f, 0.01f});
  }
  for (int step = 0; step < 3; ++step) {
    bbb_layers::adam(settings, parameters);
    if (step == 1) parameters.push_back(parameters[0]);
  }
  Hash hash;
  for (const Array& array : arrays) hash.add(array.values());
  return hash.value();
}

// The same on several alignments and numbers of threads.
template <typename Run> void equal(const char* what, int64_t size, const Run& run) {
  use_threads(1);
  const uint64_t expected = run(0);
  for (int64_t offset = 1; offset < 4; ++offset) {
    use_threads(offset == 2 ? 1 : 3);
    require(run(offset) == expected, std::string(what) + " of " + std::to_string(size) + " numbers, offset " +
                                     std::to_string(offset));
  }
}

void edges_of_draws() {
  // Around the widths of vectors (4, 8, 16), blocks of noise (32) and chunks (2048).
  for (int64_t size : {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 2047, 2048, 2049, 4096, 6177}) {
    equal("noise", size, [&](int64_t offset) {
      const Array values{Floats(size), offset};
      bbb_layers::noise(5, values.data(), size);
      Hash hash;
      hash.add(values.values());
      return hash.value();
    });
    const Inputs all[] = {plain(size), special(size, -1.5f), special(size, kNaN), special(size, kInfinity)};
    for (Kind kind : kKinds) {
      for (const Prior& prior : all_priors()) {
        for (const Inputs& inputs : all) {
          equal("draw", size, [&](int64_t offset) { return drawn(kind, prior, inputs, offset); });
        }
      }
    }
  }
}

void edges_of_steps() {
  bbb_layers::adam({0.9f, 0.999f, 1e-8f, 1.f, -1.f}, {});
  // Around the widths of vectors and what a thread updates at a time (16384).
  for (int64_t size : {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 324, 16383, 16384, 16385, 40000}) {
    for (float clip : {-1.f, 0.f, 0.5f, kInfinity, kNaN}) {
      for (bool special : {false, true}) {
        // numbers() goes on from call to call.
        const uint64_t from = number_state();
        for (const AdamSettings& settings : {AdamSettings{0.9f, 0.999f, 1e-8f, 0.5f, clip},
                                             AdamSettings{0.f, 1.f, 0.f, kInfinity, clip}}) {
          equal("Adam", size, [&](int64_t offset) {
            number_state() = from;
            return stepped(settings, size, special, offset);
          });
        }
      }
    }
  }
}

// Calls body(), which must raise std::invalid_argument; its message must not grow with the attribute.
template <typename Body> void refused(const std::string& what, const Body& body) {
  try {
    body();
  } catch (const std::invalid_argument& error) {
    require(std::strlen(error.what()) < 250, "the message of " + what.substr(0, 80) + " is too long");
    return;
  }
  require(false, what.substr(0, 80) + " was not refused");
}

void edges_of_attributes() {
  const std::string huge(1 << 22, '1'), zeros(18, '0'), nul("1\0" "2", 3);
  for (const char* good : {"0", "7", "000000000000000007", "999999999999999999"}) {
    require(bbb_layers::integer({{"n", good}}, "n") == std::atoll(good), good);
  }
  for (const std::string& bad : {std::string(), std::string("-1"), std::string("+1"), std::string("1.5"),
                                 std::string("1e3"), std::string(" 1"), std::string("1 "), std::string("0x10"),
                                 std::string("nan"), std::string("None"), std::string("\xff"), nul, huge,
                                 std::string("9999999999999999999"), std::string("18446744073709551616")}) {
    refused("integer '" + bad + "'", [&] { bbb_layers::integer({{"n", bad}}, "n"); });
  }
  require(bbb_layers::integer({{"n", "8"}}, "n", 8) == 8, "8, where 8 is allowed");
  refused("integer above the limit", [] { bbb_layers::integer({{"n", "9"}}, "n", 8); });
  refused("integer that is missing", [] { bbb_layers::integer(Attributes(), "n"); });
  refused("text that is missing", [] { bbb_layers::text({{"m", ""}}, "n"); });

  const Floats read = bbb_layers::floats({{"x", "0000803f000000c00000807f"}}, "x", 3);
  const unsigned char bytes[] = {0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0, 0, 0, 0x80, 0x7f};
  require(std::memcmp(read.data(), bytes, sizeof(bytes)) == 0, "1, -2 and infinity");
  require(bbb_layers::floats({{"x", ""}}, "x", 0).empty(), "no numbers");
  const std::pair<std::string, size_t> wrong[] = {
      {"", 1}, {"0", 0}, {"0000803", 1}, {"0000803f0", 1}, {"0000803f", 0}, {"0000803f", 2}, {"0000803F", 1},
      {"0000803g", 1}, {"-000803f", 1}, {"0x00803f", 1}, {"\xff\xfe\x80\x81\xff\xfe\x80\x81", 1},
      {std::string(8, '\0'), 1}, {huge, 1}, {huge + "g", (huge.size() + 1) / 8},
      {huge.substr(1) + "g", huge.size() / 8},
      // Counts for which there is no memory, or whose number of bytes does not fit into 64 bits.
      {"", size_t{1} << 40}, {"", size_t{1} << 61}, {"", size_t{1} << 62}, {"", ~size_t{0}},
      {"0000803f", (size_t{1} << 61) + 1}, {"0000803f", ~size_t{0}}};
  for (const auto& each : wrong) {
    refused("'" + each.first.substr(0, 20) + "' as " + std::to_string(each.second) + " numbers",
            [&] { bbb_layers::floats({{"x", each.first}}, "x", each.second); });
  }
  refused("numbers that are missing", [] { bbb_layers::floats(Attributes(), "x", 1); });
}

// What one of two threads does over and over; 0 and 1 stand for the threads.
uint64_t work(int thread) {
  number_state() = 17 + thread;
  const int64_t size = 6177 + thread;
  const Inputs inputs = plain(size);
  uint64_t hash = 0;
  for (Kind kind : kKinds) {
    for (const Prior& prior : priors()) hash = 31 * hash + drawn(kind, prior, inputs, thread);
  }
  Floats noise(size);
  bbb_layers::noise(thread, noise.data(), size);
  Hash of_noise;
  of_noise.add(noise);
  return 31 * (31 * hash + of_noise.value()) +
         stepped({0.9f, 0.999f, 1e-8f, 0.5f, thread - 0.5f}, 40000 + thread, false, thread);
}

void two_threads(int times) {
  // Nothing of the library has been called yet, so that both threads come first where something is set up once.
  uint64_t found[2] = {0, 0};
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 2; ++thread) {
    threads.emplace_back([&found, thread, times] {
      const uint64_t first = work(thread);
      for (int i = 1; i < times; ++i) require(work(thread) == first, "the results of a thread");
      found[thread] = first;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int thread = 0; thread < 2; ++thread) require(found[thread] == work(thread), "the results of two threads");
}

// One fault, in the library's own code.
void fault(const std::string& name) {
  const int64_t size = 64;
  const Floats ones(4 * size, 1.f);
  const AdamSettings settings = {0.9f, 0.999f, 1e-8f, 1.f, -1.f};
  if (name == "overrun") {
    const Array mu(Floats(size), 0), rho(ones, 0), first(ones, 0);
    bbb_layers::draw(Kind::kDraw, Prior(), 1, {mu.data(), rho.data(), first.data(), nullptr, size + 1});
  } else if (name == "overwrite") {
    const Array mu(ones, 0), rho(ones, 0), first(Floats(size), 0);
    bbb_layers::draw(Kind::kDraw, Prior(), 1, {mu.data(), rho.data(), first.data(), nullptr, 2 * size});
  } else if (name == "misaligned") {
    const Array weight(ones, 0), grad(ones, 0), mean(ones, 0), var(ones, 0);
    float* const between = reinterpret_cast<float*>(reinterpret_cast<char*>(weight.data()) + 1);
    bbb_layers::adam(settings, {{between, grad.data(), mean.data(), var.data(), size, 0.1f, 0.f}});
  } else if (name == "race" || name == "shared") {
    const int64_t many = 40000;
    const Array weight(Floats(many), 0), other(Floats(many), 0), grad(Floats(many), 0), mean(Floats(many), 0);
    const Array var(Floats(many), 0), third(Floats(many), 0);
    const AdamArrays all = {weight.data(), grad.data(), mean.data(), var.data(), many, 0.1f, 0.f};
    if (name == "shared") {     // two Parameters with one mean, which is against the rules
      bbb_layers::adam(settings, {all, {other.data(), grad.data(), mean.data(), third.data(), many, 0.1f, 0.f}});
    } else {
      std::thread thread([&] { bbb_layers::adam(settings, {all}); });
      bbb_layers::adam(settings, {all});
      thread.join();
    }
  } else {
    std::printf("unknown: %s\n", name.c_str());
    std::exit(2);
  }
}

}  // namespace

int main(int count, char** arguments) {
  const std::string name = count > 1 ? arguments[1] : "";
  if (name == "edges") {
    edges_of_attributes();
    edges_of_draws();
    edges_of_steps();
  } else if (name == "threads") {
    two_threads(count > 2 ? std::atoi(arguments[2]) : 1);
  } else {
    fault(name);
  }
  std::printf("isa %s\n", bbb_layers_isa());
  return 0;
}
