# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Workarounds for MXNet and NumPy, and the helpers for them that every other subpackage needs.

Nothing here knows that layers can be Bayesian. This subpackage imports only MXNet and NumPy, and every other one may
import it. A server of MXNet's kvstore imports :mod:`bbb_layers.optimizer`, which uses this subpackage, while
``import mxnet`` is still running. Therefore ``arrays`` and ``checks`` do not import ``mxnet.gluon``.
"""
