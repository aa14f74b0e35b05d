# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The translations of MXNet's operators into ONNX's, in predict mode, with MXNet's numbers for every batch size."""
