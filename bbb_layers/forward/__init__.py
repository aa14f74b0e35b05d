# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What happens in one forward: drawing the weights, and the way of the KL terms from the layers to the loss.

``draw`` serves a layer's request for weights, ``frames`` keeps one draw and one KL term for each Parameter, and ``tap``
leads the terms out of a cached graph. This room imports ``posterior``, ``native`` and ``_mxnet``.
"""
