# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Prediction with many draws of the weights, the uncertainty of the predictions, and metrics.

``draws`` and ``monte_carlo`` run a network under draws of its weights, ``parts`` splits the uncertainty of the
predictions by its source, and ``metrics`` measures predicted probabilities. This subpackage imports only ``networks``,
``posterior`` and ``_mxnet``.
"""
