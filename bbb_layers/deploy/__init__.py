# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Files that run trained networks outside of MXNet.

This subpackage imports ``checkpoint``, ``networks`` and ``_mxnet``. It imports the package onnx inside of functions
only, because onnx is an optional dependency.
"""
