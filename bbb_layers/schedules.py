# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""KL weights by step: callables of the number of steps done. Set ``loss_fn.kl_weight`` to the value for each step.

The weight multiplies the share of the KL divergence in a batch, which is KL / num_train per example. With a weight of
1, the loss is the negative ELBO. ``step`` counts from 0.
"""
from .training.handlers import KLWeightHandler
from .training.schedules import blundell, cyclical, linear

__all__ = ['blundell', 'linear', 'cyclical', 'KLWeightHandler']
