# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Training: the loss and its likelihoods, KL schedules, handlers, the optimizer, and metrics of the loss.

This subpackage imports only ``prediction``, ``forward``, ``posterior``, ``native`` and ``_mxnet``.
"""
