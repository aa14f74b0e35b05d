# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What training takes: the loss and its likelihoods, KL schedules, handlers, the optimizer, metrics of the loss.

This room imports ``prediction``, ``forward``, ``posterior``, ``native`` and ``_mxnet``.
"""
