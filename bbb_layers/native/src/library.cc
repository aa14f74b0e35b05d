// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// The functions that MXNet calls for the library as a whole: MXNet's lib_api.cc with a correction, and the version
// check.

// MXNet 1.9.1 never frees the memory that _opCallMutateInputs of lib_api.cc returns, so each call of an operator would
// leak.
#define _opCallMutateInputs bbb_layers_unused_opCallMutateInputs
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"     // in MXNet's file
#include "src/lib_api.cc"
#pragma GCC diagnostic pop
#undef _opCallMutateInputs

extern "C" int _opCallMutateInputs(mxnet::ext::mutateInputs_t mutate, const char* const* keys,
                                   const char* const* values, int count, int** indices, int* size) {
  thread_local std::vector<int> found;    // MXNet copies it immediately
  std::unordered_map<std::string, std::string> attributes;
  for (int i = 0; i < count; ++i) attributes[keys[i]] = values[i];
  found.clear();
  const int status = mutate(attributes, &found);
  *indices = found.data();
  *size = static_cast<int>(found.size());
  return status;
}

// MXNet calls this when it loads the library, with its version as major * 10000 + minor * 100 + patch. Only one version
// fits, because another version may free the memory that the function above returns.
mxnet::ext::MXReturnValue initialize(int version) {
  if (version == 10901) return mxnet::ext::MX_SUCCESS;
  MX_ERROR_MSG << "MXNet must be 1.9.1 (saw: " << version << ")";
  return mxnet::ext::MX_FAIL;
}
