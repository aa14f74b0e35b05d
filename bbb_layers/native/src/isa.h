// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// The instruction set, which is chosen when the library runs and not when it is compiled.
#ifndef BBB_LAYERS_NATIVE_ISA_H_
#define BBB_LAYERS_NATIVE_ISA_H_

// A kernel is written once, as a BBB_INLINE function. One function per instruction set, marked with its target, calls
// the kernel, and the compiler inlines and vectorizes the kernel separately in each of these functions.
#define BBB_INLINE inline __attribute__((always_inline))
#if defined(__x86_64__)
#define BBB_AVX2 __attribute__((target("avx2,fma")))
#define BBB_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#endif

namespace bbb_layers {

// kBaseline is the instruction set that every processor of the architecture has: SSE2 on x86-64.
enum class Isa { kBaseline, kAvx2, kAvx512 };

// The best instruction set that the processor and the operating system have. If the environment variable BBB_LAYERS_ISA
// (sse2, avx2 or avx512) is set at the first call, it is the upper limit.
Isa isa();

}  // namespace bbb_layers

#endif  // BBB_LAYERS_NATIVE_ISA_H_
