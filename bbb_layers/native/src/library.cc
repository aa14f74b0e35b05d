// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// What MXNet asks of the library as a whole: its own lib_api.cc, mended, and the version check.

// MXNet 1.9.1 never frees what lib_api.cc's _opCallMutateInputs returns: each call of an operator would leak.
#define _opCallMutateInputs bbb_layers_unused_opCallMutateInputs
#include "src/lib_api.cc"
#undef _opCallMutateInputs

extern "C" int _opCallMutateInputs(mxnet::ext::mutateInputs_t mutate, const char* const* keys,
                                   const char* const* values, int count, int** indices, int* size) {
  thread_local std::vector<int> found;    // MXNet copies it at once
  std::unordered_map<std::string, std::string> attributes;
  for (int i = 0; i < count; ++i) attributes[keys[i]] = values[i];
  found.clear();
  const int status = mutate(attributes, &found);
  *indices = found.data();
  *size = static_cast<int>(found.size());
  return status;
}

// MXNet calls this when it loads the library, with its version as major * 10000 + minor * 100 + patch. Only one fits:
// another may free what the function above returns.
mxnet::ext::MXReturnValue initialize(int version) {
  if (version == 10901) return mxnet::ext::MX_SUCCESS;
  MX_ERROR_MSG << "MXNet must be 1.9.1 (saw: " << version << ")";
  return mxnet::ext::MX_FAIL;
}
