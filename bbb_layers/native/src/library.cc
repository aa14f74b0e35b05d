// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// The functions that MXNet calls for the library as a whole: MXNet's lib_api.cc with two corrections, and the version
// check.
#include "errors.h"

// MXNet 1.9.1 never frees the memory that _opCallMutateInputs of lib_api.cc returns, so each call of an operator would
// leak. _msgSize and _msgGet hand over the texts of errors, see errors.h.
#define _opCallMutateInputs bbb_layers_unused_opCallMutateInputs
#define _msgSize bbb_layers_unused_msgSize
#define _msgGet bbb_layers_unused_msgGet
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"     // in MXNet's file
#include "src/lib_api.cc"
#pragma GCC diagnostic pop
#undef _opCallMutateInputs
#undef _msgSize
#undef _msgGet

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

// How many texts MXNet can read in this thread: 1 after an operator failed here, and 0 once MXNet has read the text.
extern "C" int _msgSize() { return bbb_layers::unread_error().empty() ? 0 : 1; }

extern "C" void _msgGet(int, const char** text) {
  thread_local std::string read;      // MXNet copies it immediately
  read.swap(bbb_layers::unread_error());
  bbb_layers::unread_error().clear();
  *text = read.c_str();
}

// MXNet calls this when it loads the library, with its version as major * 10000 + minor * 100 + patch. Only one version
// fits, because another version may free the memory that the function above returns.
mxnet::ext::MXReturnValue initialize(int version) {
  if (version == 10901) return mxnet::ext::MX_SUCCESS;
  bbb_layers::unread_error() = "MXNet must be 1.9.1 (saw: " + std::to_string(version) + ")";
  return mxnet::ext::MX_FAIL;
}
