# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Gluon's layers with a posterior: a mixin, and the layers that are made with it.

``block`` has the mixin, ``estimators`` says how the noise of the weights reaches a layer's output, and ``linear`` and
``recurrent`` have the layers. ``transposed`` and ``np_recurrent`` repair Gluon's own layers where MXNet 1.9.1 fails.
This subpackage imports ``forward``, ``posterior`` and ``_mxnet``.
"""
