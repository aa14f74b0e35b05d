# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Gluon's layers with a posterior: a mixin, and the layers that it makes.

``block`` is the mixin, ``estimators`` say how the noise of the weights reaches a layer's output, and ``linear`` and
``recurrent`` have the layers. ``transposed`` and ``np_recurrent`` mend Gluon's own layers where theirs fail. This room
imports ``forward``, ``posterior`` and ``_mxnet``.
"""
