// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// How many threads an operator may use.
#ifndef BBB_LAYERS_NATIVE_THREADS_H_
#define BBB_LAYERS_NATIVE_THREADS_H_

#include <cstdint>

namespace bbb_layers {

// As many as MXNet gives its own operators, but no more than there are pieces of work; 1 in a forked process, where
// libgomp's threads are gone.
int threads(int64_t pieces);

}  // namespace bbb_layers

#endif  // BBB_LAYERS_NATIVE_THREADS_H_
