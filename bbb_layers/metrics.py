# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""MXNet metrics of probabilistic predictions.

All metrics accumulate in float64 over the whole epoch, so the split of the epoch into batches does not change the
result. An ``update`` that raises an error does not change the metric. ``mx.metric.create`` knows each metric by the
name of its class and by its default ``name``.

Unless stated otherwise, the last axis of the predictions is the classes. The axes before it have the shape of the
labels, or this shape with an additional first axis of draws: (batch_size, classes) or
(num_samples, batch_size, classes). Labels may have a last axis of size 1.

:class:`NLL`, :class:`KL` and :class:`ELBO` read what a :class:`~bbb_layers.BBBLoss` has just computed, in an Estimator
or in your own training loop. The copies that an Estimator makes of them for validation read the same loss. If the
Estimator has another ``val_loss``, give it ``val_metrics`` that read the ``val_loss``. MXNet's EarlyStoppingHandler and
CheckpointHandler take ``mode='auto'`` for 'max' whatever the metric: pass ``mode='min'`` for :class:`NLL` and
:class:`KL`, and for most other metrics here.
"""
from .prediction.metrics import (BrierScore, ExpectedCalibrationError, MonteCarloNLL, OutOfDistributionAUROC,
                                 Reliability)
from .training.loss_metrics import ELBO, KL, NLL

__all__ = ['ExpectedCalibrationError', 'Reliability', 'BrierScore', 'MonteCarloNLL', 'OutOfDistributionAUROC', 'NLL',
           'KL', 'ELBO']
