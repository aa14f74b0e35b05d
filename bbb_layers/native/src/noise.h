// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// Standard normal noise that depends neither on the number of threads nor on the instruction set.
//
// The numbers are cut into chunks. Every chunk has its own 16 generators, xoshiro128++ (Blackman and Vigna 2021), which
// splitmix64 seeds from the operator's seed and the chunk's place. For a block of 32 numbers, each generator makes two
// random words, from which the transform of Box and Muller (1958) makes two numbers. The block is 16 times r cos, then
// 16 times r sin.
#ifndef BBB_LAYERS_NATIVE_NOISE_H_
#define BBB_LAYERS_NATIVE_NOISE_H_

#include <cstdint>

#include "draw_chunk.h"
#include "vectors.h"

namespace bbb_layers {
namespace {

// The states of a chunk's generators. Each word is stored for all lanes before the next word.
struct Seeds {
  uint32_t words[4][kLanes];

  Seeds(uint64_t seed, int64_t chunk) {
    uint64_t state = mixed(seed + kStep * mixed(static_cast<uint64_t>(chunk)));
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int word = 0; word < 4; word += 2) {
        const uint64_t bits = mixed(state += kStep);
        words[word][lane] = static_cast<uint32_t>(bits);
        words[word + 1][lane] = static_cast<uint32_t>(bits >> 32);
      }
    }
  }

 private:
  static constexpr uint64_t kStep = 0x9e3779b97f4a7c15u;

  static uint64_t mixed(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
};

// N of the 16 generators.
template <int N> class Generators {
 public:
  BBB_INLINE Generators(const Seeds& seeds, int lane)
      : a_(word(seeds, 0, lane)), b_(word(seeds, 1, lane)), c_(word(seeds, 2, lane)), d_(word(seeds, 3, lane)) {}

  // The next two numbers of each generator. Both factors are never 0, NaN or infinite; |r| is at most 6.7.
  BBB_INLINE void normal(Float<N>* cosine, Float<N>* sine) {
    const Int<N> first = next() >> 1, second = next();
    // Uniform from 2^-32 to 1, with all the digits near 0 that float32 has.
    const Float<N> uniform = (__builtin_convertvector(first & 0x7fffffff, Float<N>) + 0.5f) * 0x1p-31f;
    const Float<N> radius = square_root<N>(-2.f * logarithm<N>(uniform));
    // An angle within an eighth of a turn; two more bits choose the quadrant.
    const Float<N> x = __builtin_convertvector(second & ~3, Float<N>) * 0x1p-32f;
    const Float<N> square = x * x;
    const Float<N> fourth = square * square;
    const Float<N> s = x * ((square * -0.64596349f + 1.57079637f) +
                            (square * -4.60165786e-3f + 7.9680033e-2f) * fourth);
    const Float<N> c = (square * -1.23370051f + 1.f) +
                       ((square * -2.08651312e-2f + 0.253669769f) + fourth * 9.16031713e-4f) * fourth;
    const Int<N> swapped = -(second & 1), sign = second << 30 & static_cast<int32_t>(0x80000000);
    const Float<N> signed_radius = as_float<N>(as_int<N>(radius) ^ sign);
    *cosine = signed_radius * (swapped ? s : c);
    *sine = signed_radius * (swapped ? c : s);
  }

 private:
  Uint<N> a_, b_, c_, d_;

  static BBB_INLINE Uint<N> word(const Seeds& seeds, int word, int lane) {
    return *reinterpret_cast<const typename Vectors<N>::UnalignedUint*>(seeds.words[word] + lane);
  }

  template <int bits> static BBB_INLINE Uint<N> rotated(Uint<N> x) { return (x << bits) | (x >> (32 - bits)); }

  BBB_INLINE Int<N> next() {
    const Uint<N> sum = a_ + d_, result = rotated<7>(sum) + a_, shifted = b_ << 9;
    c_ ^= a_;
    d_ ^= b_;
    b_ ^= c_;
    a_ ^= d_;
    c_ ^= shifted;
    d_ = rotated<11>(d_);
    return reinterpret_cast<Int<N>>(result);
  }
};

}  // namespace
}  // namespace bbb_layers

#endif  // BBB_LAYERS_NATIVE_NOISE_H_
