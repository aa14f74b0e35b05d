# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""An Estimator's curves and histograms of its weights, for TensorBoard."""
import math
from typing import Any, List

import numpy as np
from mxnet.gluon.contrib.estimator.event_handler import EpochEnd, TrainBegin
from mxnet.metric import EvalMetric

from ._mxnet.arrays import value_of
from .posterior import gaussian
from .posterior.parameters import bayesian

__all__ = ['SummaryHandler']


class SummaryHandler(TrainBegin, EpochEnd):
    r"""Estimator handler that hands metrics and histograms to a summary writer at the end of each epoch.

    The writer is the user's, for instance ``mxboard.SummaryWriter``; of it, only ``add_scalar(tag, value, step)`` and
    ``add_histogram(tag, values, step)`` are used, so that others with these, such as tensorboardX's, serve as well. The
    step is the number of updates that the Trainer has done, which also goes on where training is resumed. Histograms
    are, for each Parameter, those of sigma and of the signal-to-noise ratio in decibels,

    .. math:: 20 \log_{10} \frac{|\mu|}{\sigma}

    both without weights that are pruned, the second also without those whose mu is 0.

    Parameters
    ----------
    writer : object
        Closing it is left to the user.
    metrics : list of EvalMetric
        Such as ``estimator.train_metrics + estimator.val_metrics``.
    histograms : bool, default True
        Whether to write histograms.

    Raises
    ------
    TypeError
        If ``writer`` has not the two methods, or ``metrics`` is no list of metrics.
    ValueError
        When training begins, if the network has no Bayesian layer and ``histograms`` is set.
    """

    def __init__(self, writer: Any, metrics: List[EvalMetric], histograms: bool = True):
        for method in ('add_scalar', 'add_histogram'):
            if not callable(getattr(writer, method, None)):
                raise TypeError('writer must have the method %s (saw: %r)' % (method, writer))
        if not isinstance(metrics, list) or not all(isinstance(metric, EvalMetric) for metric in metrics):
            raise TypeError('metrics must be a list of EvalMetric (saw: %r)' % (metrics,))
        self.writer, self.metrics, self.histograms = writer, metrics, bool(histograms)
        # After those that compute the metrics.
        self.priority = math.inf

    def train_begin(self, estimator, *args, **kwargs):
        if self.histograms:
            bayesian(estimator.net)

    def epoch_end(self, estimator, *args, **kwargs):
        step = estimator.trainer.optimizer.num_update
        for metric in self.metrics:
            for name, value in metric.get_name_value():
                self.writer.add_scalar(name.replace(' ', '/'), float(value), step)
        if not self.histograms:
            return
        for rho in bayesian(estimator.net):
            mu, sigma = (values.asnumpy().ravel() for values in gaussian.moments(value_of(rho.mu), value_of(rho)))
            mu, sigma = mu[sigma > 0], sigma[sigma > 0]
            ratios = abs(mu[mu != 0]) / sigma[mu != 0]
            for name, values in (('sigma', sigma), ('signal_to_noise_dB', 20 * np.log10(ratios))):
                if values.size:
                    self.writer.add_histogram('%s/%s' % (rho.mu.name, name), values, step)
