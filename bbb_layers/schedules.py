# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""KL weights by step: callables of the number of steps done, to be set as ``loss_fn.kl_weight``.

Each is a weight beside the KL divergence's share in a batch, KL / num_train per example: 1 is the ELBO. ``step`` counts
from 0.
"""
from .training.handlers import KLWeightHandler
from .training.schedules import blundell, cyclical, linear

__all__ = ['blundell', 'linear', 'cyclical', 'KLWeightHandler']
