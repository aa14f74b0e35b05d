# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""One forward: how the weights are drawn, and how the KL terms get from the layers to the loss.

``draw`` makes the weights that a layer requests, ``frames`` keeps one draw and one KL term for each Parameter, and
``tap`` takes the terms out of a cached graph. This subpackage imports ``posterior``, ``native`` and ``_mxnet``.
"""
