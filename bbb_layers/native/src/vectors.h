// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// Vectors of N float32 numbers, by the compiler's vector types, and the functions of vectors that the draw needs.
//
// All functions consist of single operations that every instruction set rounds in the same way, so that the results do
// not depend on the instruction set.
#ifndef BBB_LAYERS_NATIVE_VECTORS_H_
#define BBB_LAYERS_NATIVE_VECTORS_H_

#include <cstdint>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "isa.h"

// All functions that take vectors are inlined, so the convention by which vectors would be passed does not matter.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace bbb_layers {
namespace {     // each file has its own copy, since each is compiled for its own instruction set

template <int N>
struct Vectors;

#define BBB_VECTORS(N)                                                                        \
  template <>                                                                                 \
  struct Vectors<N> {                                                                         \
    typedef float Float __attribute__((vector_size(4 * N)));                                  \
    typedef int32_t Int __attribute__((vector_size(4 * N)));                                  \
    typedef uint32_t Uint __attribute__((vector_size(4 * N)));                                \
    typedef float Unaligned __attribute__((vector_size(4 * N), aligned(4), may_alias));       \
    typedef uint32_t UnalignedUint __attribute__((vector_size(4 * N), aligned(4), may_alias)); \
  };
BBB_VECTORS(4)
BBB_VECTORS(8)
BBB_VECTORS(16)
#undef BBB_VECTORS

template <int N> using Float = typename Vectors<N>::Float;
template <int N> using Int = typename Vectors<N>::Int;
template <int N> using Uint = typename Vectors<N>::Uint;

template <int N> BBB_INLINE Float<N> load(const float* from) {
  return *reinterpret_cast<const typename Vectors<N>::Unaligned*>(from);
}

template <int N> BBB_INLINE void store(float* to, Float<N> value) {
  *reinterpret_cast<typename Vectors<N>::Unaligned*>(to) = value;
}

template <int N> BBB_INLINE Float<N> splat(float value) { return value - Float<N>{}; }

template <int N> BBB_INLINE Float<N> as_float(Int<N> bits) { return reinterpret_cast<Float<N>>(bits); }
template <int N> BBB_INLINE Int<N> as_int(Float<N> value) { return reinterpret_cast<Int<N>>(value); }

// The larger and the smaller of two numbers. Where x is NaN, the result is NaN. For known widths the instruction is
// written by hand, because compilers make two instructions of the general form.
template <int N> BBB_INLINE Float<N> at_least(Float<N> x, Float<N> low) { return x < low ? low : x; }
template <int N> BBB_INLINE Float<N> at_most(Float<N> x, Float<N> high) { return x > high ? high : x; }
#if defined(__SSE2__)
template <> BBB_INLINE Float<4> at_least<4>(Float<4> x, Float<4> low) { return _mm_max_ps(low, x); }
template <> BBB_INLINE Float<4> at_most<4>(Float<4> x, Float<4> high) { return _mm_min_ps(high, x); }
#endif
#if defined(__AVX2__)
template <> BBB_INLINE Float<8> at_least<8>(Float<8> x, Float<8> low) { return _mm256_max_ps(low, x); }
template <> BBB_INLINE Float<8> at_most<8>(Float<8> x, Float<8> high) { return _mm256_min_ps(high, x); }
#endif
#if defined(__AVX512F__)
template <> BBB_INLINE Float<16> at_least<16>(Float<16> x, Float<16> low) { return _mm512_max_ps(low, x); }
template <> BBB_INLINE Float<16> at_most<16>(Float<16> x, Float<16> high) { return _mm512_min_ps(high, x); }
#endif

template <int N> BBB_INLINE Float<N> absolute(Float<N> x) { return as_float<N>(as_int<N>(x) & 0x7fffffff); }

template <int N> BBB_INLINE Float<N> square_root(Float<N> x) {
  Float<N> root;
  for (int i = 0; i < N; ++i) root[i] = __builtin_sqrtf(x[i]);
  return root;
}

// Polynomials are evaluated by Estrin's scheme, in which fewer operations have to wait for the result of another.

// exp(kLeastExponent) is about the smallest normal float32.
constexpr float kLeastExponent = -87.3365f;

// exp(x) for x from kLeastExponent to 0, and NaN for NaN; exactly 1 for 0; relative error below 2e-7.
template <int N> BBB_INLINE Float<N> exponential(Float<N> x) {
  const float magic = 12582912.f;     // after its addition the low bits hold the whole number
  const Float<N> shifted = x * 1.44269504f + magic;
  const Float<N> whole = shifted - magic;
  const Float<N> r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  const Float<N> r2 = r * r;
  const Float<N> low = r * 0.166665778f + 0.5f, high = r * 8.36314075e-3f + 4.16668542e-2f;
  const Float<N> p = (low + (high + r2 * 1.39012805e-3f) * r2) * r2 + r + 1.f;
  return as_float<N>(as_int<N>(p) + (as_int<N>(shifted) << 23));
}

// log(1 + t) for t from 0 to 1; relative error below 3e-7.
template <int N> BBB_INLINE Float<N> log1p(Float<N> t) {
  const Float<N> t2 = t * t, t4 = t2 * t2;
  const Float<N> p0 = t * -0.499974042f + 0.999999821f, p2 = t * -0.244954497f + 0.332754761f;
  const Float<N> p4 = t * -0.10768117f + 0.177452043f, p6 = t * -8.53909645e-3f + 4.40892391e-2f;
  return t * ((p0 + p2 * t2) + (p4 + p6 * t2) * t4);
}

// log(x) for positive, normal, finite x; absolute error below 1e-7 where the result is small.
template <int N> BBB_INLINE Float<N> logarithm(Float<N> x) {
  const int32_t root_half = 0x3f3504f3;
  const Int<N> bits = as_int<N>(x) - root_half;
  const Float<N> exponent = __builtin_convertvector(bits >> 23, Float<N>);
  const Float<N> f = as_float<N>((bits & 0x7fffff) + root_half) - 1.f;
  const Float<N> f2 = f * f, f4 = f2 * f2;
  const Float<N> p0 = f * 0.333336651f - 0.5f, p2 = f * 0.199725538f - 0.250013947f;
  const Float<N> p4 = f * 0.148203075f - 0.165812492f, p6 = f * 8.90183449e-2f - 0.142126679f;
  const Float<N> p = (p0 + p2 * f2) + (p4 + p6 * f2) * f4;
  return (p * f2 + exponent * -2.12194440e-4f) + f + exponent * 0.693359375f;
}

// A product of positive numbers as mantissa and exponent, which cannot overflow. The logarithm of the product is the
// sum of the logarithms of its factors.
template <int N> class Product {
 public:
  BBB_INLINE Product() : mantissa_(splat<N>(1.f)), exponent_(Int<N>{}) {}

  // Multiply by x, which is at least the smallest normal number, and by y, which is from 1 to 2^100.
  BBB_INLINE void times(Float<N> x, Float<N> y) {
    mantissa_ *= taken_apart(x) * y;
    mantissa_ = taken_apart(mantissa_);
  }

  BBB_INLINE Float<N> mantissa() const { return mantissa_; }
  BBB_INLINE Int<N> exponent() const { return exponent_; }

 private:
  Float<N> mantissa_;     // from 1 to 2
  Int<N> exponent_;

  BBB_INLINE Float<N> taken_apart(Float<N> x) {
    const Int<N> bits = as_int<N>(x);
    exponent_ += (bits >> 23) - 127;
    return as_float<N>((bits & 0x7fffff) | 0x3f800000);
  }
};

}  // namespace
}  // namespace bbb_layers

#endif  // BBB_LAYERS_NATIVE_VECTORS_H_
