// Licensed under the Apache License, Version 2.0; see the file LICENSE.
#include "threads.h"

#include <unistd.h>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace bbb_layers {
namespace {

const pid_t loaded_in = getpid();

}  // namespace

int threads(int64_t pieces) {
#if defined(_OPENMP)
  // MXNet sets this number for each thread of its engine.
  const int64_t most = omp_get_max_threads();
  if (pieces > 1 && most > 1 && getpid() == loaded_in) return static_cast<int>(most < pieces ? most : pieces);
#endif
  (void)pieces;
  return 1;
}

}  // namespace bbb_layers
