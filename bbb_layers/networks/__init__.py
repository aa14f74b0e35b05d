# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Functions that take a whole network, and return a whole network or a table.

They make plain copies and draws, convert plain networks, set the priors of a network, rank and prune its weights, make
its layers sparse, and list which Parameters have a posterior. This subpackage imports ``layers``, ``posterior`` and
``_mxnet``.
"""
