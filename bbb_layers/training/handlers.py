# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Handlers for Gluon's Estimator: the KL schedule, and curves and histograms for TensorBoard."""
import math
from typing import Any, Callable, List, Optional

import numpy as np
from mxnet.gluon.contrib.estimator.event_handler import BatchBegin, EpochEnd, TrainBegin
from mxnet.metric import EvalMetric
from mxnet.optimizer import Optimizer

from .._mxnet.arrays import value_of
from ..posterior.gaussian import moments
from ..posterior.parameters import bayesian
from .schedules import check_step

__all__ = ['KLWeightHandler', 'SummaryHandler', 'STEP', 'set_loaded_step']

#: Attribute of an optimizer: the next step of the KL schedule. MXNet saves a Trainer's states with all attributes of
#: its optimizer, and loading them puts another optimizer in its place.
STEP = '_kl_weight_step'
#: Attribute of an optimizer whose step was written by a handler of this process, and not loaded.
_WRITTEN = '_kl_weight_step_was_written'


class _WrittenHere:
    """The value of that attribute. A copy of the optimizer has it too; in a file, None stands in its place."""

    def __reduce__(self):
        return type(None), ()

    def __deepcopy__(self, memo):
        return self


def set_loaded_step(optimizer: Optimizer, step: Optional[int]) -> None:
    """Let ``optimizer`` have a step of the KL schedule that was loaded; None stands for states without a schedule."""
    for name in (STEP, _WRITTEN):
        vars(optimizer).pop(name, None)
    if step is not None:
        setattr(optimizer, STEP, step)


def _write(optimizer, step):
    setattr(optimizer, STEP, step)
    setattr(optimizer, _WRITTEN, _WrittenHere())


class KLWeightHandler(TrainBegin, BatchBegin):
    """Estimator handler that sets the loss's ``kl_weight`` before each training batch.

    Training that is continued by another ``fit`` continues the schedule, if the handler is the same. So does training
    that is resumed, with a new handler in a new process: the step stands in the Trainer's states, which MXNet's
    CheckpointHandler saves and loads (``resume_from_checkpoint=True``), as do ``Trainer.save_states`` and
    ``load_states``, and those of ``bbb_layers.checkpoint``. Where they were loaded before ``fit``, a ``step`` that is
    given counts instead.

    Parameters
    ----------
    schedule : callable
        step -> weight, such as ``linear(1000)``.
    step : int, default that of states which were loaded, else 0
        The step to start from.

    Raises
    ------
    TypeError
        If ``schedule`` is not callable, or, when training begins, the Estimator's loss has no ``kl_weight``.
    """

    def __init__(self, schedule: Callable[[int], float], step: Optional[int] = None):
        if not callable(schedule):
            raise TypeError(f'schedule must be a callable of the step (saw: {schedule!r})')
        self.schedule = schedule
        self.step = step or 0
        self._given = step is not None
        self._optimizer = self._wrote_to = None
        # Before a CheckpointHandler's ``train_begin``, which may load other states.
        self.priority = -math.inf

    @property
    def step(self) -> int:
        """The next step; one that is set counts as one that is given."""
        return self._step

    @step.setter
    def step(self, value: int) -> None:
        self._step, self._given = check_step(value), True

    def train_begin(self, estimator, *args, **kwargs):
        if not hasattr(estimator.loss, 'kl_weight'):
            raise TypeError(f"the Estimator's loss must be a BBBLoss (saw: {estimator.loss!r})")
        self._optimizer = estimator.trainer.optimizer
        if self._given:     # once: what is loaded from now on is later
            self._given = False
            _write(self._optimizer, self._step)

    def batch_begin(self, estimator, *args, **kwargs):
        # The optimizer's own count of updates would not do: it also counts those before the schedule began.
        optimizer = estimator.trainer.optimizer
        there = getattr(optimizer, STEP, None)
        if there is None:
            if optimizer is not self._optimizer or optimizer is self._wrote_to:
                estimator.logger.warning('KLWeightHandler: the states that were loaded are of training without it; '
                                         'its schedule goes on from step %d', self._step)
        elif getattr(optimizer, _WRITTEN, None) is None:
            self._step = there
        self._optimizer = self._wrote_to = optimizer
        estimator.loss.kl_weight = self.schedule(self._step)
        self._step += 1
        _write(optimizer, self._step)


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
                raise TypeError(f'writer must have the method {method} (saw: {writer!r})')
        if not isinstance(metrics, list) or not all(isinstance(metric, EvalMetric) for metric in metrics):
            raise TypeError(f'metrics must be a list of EvalMetric (saw: {metrics!r})')
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
            mu, sigma = (values.asnumpy().ravel() for values in moments(value_of(rho.mu), value_of(rho)))
            mu, sigma = mu[sigma > 0], sigma[sigma > 0]
            ratios = abs(mu[mu != 0]) / sigma[mu != 0]
            for name, values in (('sigma', sigma), ('signal_to_noise_dB', 20 * np.log10(ratios))):
                if values.size:
                    self.writer.add_histogram(f'{rho.mu.name}/{name}', values, step)
