# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""MXNet metrics of probabilistic predictions.

All accumulate in float64 over the whole epoch: how it is split into batches changes nothing. An ``update`` that raises
leaves a metric as it was. ``mx.metric.create`` knows each by the name of its class and by its default ``name``.

Where not said otherwise, the classes are the last axis of the predictions, and predictions have either the shape of the
labels before that axis, or one axis more in front of it, of draws: (batch_size, classes) or
(num_samples, batch_size, classes). Labels may have a last axis of size 1.

:class:`NLL`, :class:`KL` and :class:`ELBO` read what a :class:`~bbb_layers.BBBLoss` has just computed, in an Estimator
or in a loop of one's own. The copies that an Estimator makes of them for validation read the same loss; where it has
another ``val_loss``, give it ``val_metrics`` of that one. MXNet's EarlyStoppingHandler and CheckpointHandler take
``mode='auto'`` for 'max' whatever the metric: for the first two, and most others here, say ``mode='min'``.
"""
from .prediction.metrics import (BrierScore, ExpectedCalibrationError, MonteCarloNLL, OutOfDistributionAUROC,
                                 Reliability)
from .training.loss_metrics import ELBO, KL, NLL

__all__ = ['ExpectedCalibrationError', 'Reliability', 'BrierScore', 'MonteCarloNLL', 'OutOfDistributionAUROC', 'NLL',
           'KL', 'ELBO']
