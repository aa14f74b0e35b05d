// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// The functions that GCC calls for the loops of this library that run on several threads, in place of libgomp.
//
// ThreadSanitizer must see how threads wait for each other. It does not see that in libgomp, which is not compiled for
// it and waits by system calls of its own. Every loop then looks as if its threads went on while its results are read.
// Here each loop starts threads of its own and joins them, which ThreadSanitizer understands.
#include <thread>
#include <vector>

namespace {

thread_local int most = 3, place = 0, team = 1;

}  // namespace

extern "C" {

void omp_set_num_threads(int count) { most = count; }
int omp_get_max_threads() { return most; }
int omp_get_num_threads() { return team; }
int omp_get_thread_num() { return place; }

// Runs body(data) on `count` threads, of which the calling thread is the first.
void GOMP_parallel(void (*body)(void*), void* data, unsigned count, unsigned) {
  const auto member = [=](int number) {
    place = number;
    team = static_cast<int>(count);
    body(data);
    place = 0;
    team = 1;
  };
  std::vector<std::thread> others;
  for (unsigned number = 1; number < count; ++number) others.emplace_back(member, static_cast<int>(number));
  member(0);
  for (std::thread& other : others) other.join();
}

}  // extern "C"
