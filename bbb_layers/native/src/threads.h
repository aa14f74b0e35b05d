// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// How many threads an operator may use.
#ifndef BBB_LAYERS_NATIVE_THREADS_H_
#define BBB_LAYERS_NATIVE_THREADS_H_

#include <cstdint>

namespace bbb_layers {

// The number of threads that MXNet gives its own operators, but at most the number of pieces of work. In a forked
// process it is 1, because libgomp's threads do not exist there.
int threads(int64_t pieces);

}  // namespace bbb_layers

#endif  // BBB_LAYERS_NATIVE_THREADS_H_
