# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Whole networks in, whole networks or tables out.

Plain copies and draws, conversion from plain networks, priors of a network, ranking and pruning, sparse layers, and a
table of what has a posterior. This room imports ``layers``, ``posterior`` and ``_mxnet``.
"""
