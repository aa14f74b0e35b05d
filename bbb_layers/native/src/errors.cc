// Licensed under the Apache License, Version 2.0; see the file LICENSE.
#include "errors.h"

namespace bbb_layers {

std::string& unread_error() {
  thread_local std::string text;
  return text;
}

}  // namespace bbb_layers
