# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The ground floor: what works around MXNet and NumPy, and what every other room needs of them.

Nothing here knows that layers can be Bayesian. It imports MXNet and NumPy alone, and every room may import it.
:mod:`bbb_layers.optimizer` uses it too, and a server of MXNet's kvstore imports that module while ``import mxnet`` is
still running: so ``arrays`` and ``checks`` do not import ``mxnet.gluon``.
"""
