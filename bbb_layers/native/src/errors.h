// Licensed under the Apache License, Version 2.0; see the file LICENSE.
// The text of an error on its way from an operator to MXNet.
#ifndef BBB_LAYERS_NATIVE_ERRORS_H_
#define BBB_LAYERS_NATIVE_ERRORS_H_

#include <string>

namespace bbb_layers {

// The error of this thread that MXNet has not read yet; empty if there is none. MXNet reads the text in the thread in
// which the operator failed. MXNet's own store, behind MX_ERROR_MSG, is one for all threads and has no lock: two threads
// that fail at the same time could read each other's text, and it keeps all texts for ever.
std::string& unread_error();

}  // namespace bbb_layers

#endif  // BBB_LAYERS_NATIVE_ERRORS_H_
