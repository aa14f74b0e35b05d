# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Predictions of many draws: making them, taking them apart, and measuring them.

``draws`` and ``monte_carlo`` run a network under draws of its weights, ``parts`` splits the uncertainty of the result,
and ``metrics`` measures predicted probabilities. This room imports ``networks``, ``posterior`` and ``_mxnet``.
"""
