# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""KL weights by step: callables of the number of steps done, to be set as ``loss_fn.kl_weight``.

Each is a weight beside the KL divergence's share in a batch, KL / num_train per example: 1 is the ELBO. ``step`` counts
from 0.
"""
import math
from typing import Callable, Optional

from mxnet.gluon.contrib.estimator.event_handler import BatchBegin, TrainBegin

from ._mxnet.checks import check_count, check_fraction, check_not_negative

__all__ = ['blundell', 'linear', 'cyclical', 'KLWeightHandler']

STEP = '_kl_weight_step'


class _Written(int):
    """A step that a handler of this process gave to an optimizer. One that was loaded is an int."""

    def __reduce__(self):
        return int, (int(self),)

    def __deepcopy__(self, memo):
        return self


def _step(step):
    if check_not_negative('step', step) != int(step):
        raise ValueError('step must be a whole number of at least 0 (saw: %r)' % (step,))
    return int(step)


def blundell(num_batches: int) -> Callable[[int], float]:
    r"""Most of the KL divergence in the first batches of an epoch (Blundell et al. 2015, section 3.4).

    .. math:: M \pi_i, \quad \pi_i = \frac{2^{M - i}}{2^M - 1}, \quad i = 1, \ldots, M

    The paper's pi_i is the share of the whole KL divergence in batch i of M; as a weight beside the 1 / M of every
    batch it is M pi_i, whose mean over an epoch is 1. Batches are taken to be of one size.

    Parameters
    ----------
    num_batches : int
        Number of batches M in an epoch, at least 1.

    Returns
    -------
    callable
        step -> weight

    Raises
    ------
    ValueError
        If ``num_batches`` is less than 1.
    """
    num_batches = check_count('num_batches', num_batches)

    def weight(step):
        i = _step(step) % num_batches + 1
        # 2^(M - i) / (2^M - 1) = 2^-i / (1 - 2^-M), which does not overflow
        return num_batches * math.ldexp(1., -i) / (1 - math.ldexp(1., -num_batches))

    return weight


def linear(num_steps: int, start: float = 0.0) -> Callable[[int], float]:
    """Warm-up: from ``start`` at step 0 in equal steps to 1 at ``num_steps``, and 1 after that.

    Parameters
    ----------
    num_steps : int
        At least 1.
    start : float, default 0.0
        Between 0 and 1, both included.

    Returns
    -------
    callable
        step -> weight

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    num_steps, start = check_count('num_steps', num_steps), check_fraction('start', start, closed=True)
    return lambda step: start + (1 - start) * min(_step(step) / num_steps, 1.)


def cyclical(cycle: int, ramp: float = 0.5) -> Callable[[int], float]:
    """Cyclical annealing: in each cycle linearly from 0 to 1 during its first part, then 1 for the rest.

    Parameters
    ----------
    cycle : int
        Steps in a cycle, at least 1.
    ramp : float, default 0.5
        Part of the cycle in which the weight rises, between 0 and 1, both included.

    Returns
    -------
    callable
        step -> weight

    Raises
    ------
    ValueError
        If an argument is outside its range.

    References
    ----------
    Fu et al.: Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing. NAACL 2019, eq. 6.
    """
    cycle, ramp = check_count('cycle', cycle), check_fraction('ramp', ramp, closed=True)

    def weight(step):
        done = (_step(step) % cycle) / cycle
        return 1. if done >= ramp else done / ramp

    return weight


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
            raise TypeError('schedule must be a callable of the step (saw: %r)' % (schedule,))
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
        self._step, self._given = _step(value), True

    def train_begin(self, estimator, *args, **kwargs):
        if not hasattr(estimator.loss, 'kl_weight'):
            raise TypeError("the Estimator's loss must be a BBBLoss (saw: %r)" % (estimator.loss,))
        self._optimizer = estimator.trainer.optimizer
        if self._given:     # once: what is loaded from now on is later
            self._given = False
            setattr(self._optimizer, STEP, _Written(self._step))

    def batch_begin(self, estimator, *args, **kwargs):
        # Not the optimizer's count of updates, which also counts those before the schedule began. MXNet saves a
        # Trainer's states with its optimizer and all attributes of that, and loading them puts another in its place.
        optimizer = estimator.trainer.optimizer
        there = getattr(optimizer, STEP, None)
        if there is not None and not isinstance(there, _Written):
            self._step = there
        elif there is None and (optimizer is not self._optimizer or optimizer is self._wrote_to):
            estimator.logger.warning('KLWeightHandler: the states that were loaded are of training without it; its '
                                     'schedule goes on from step %d', self._step)
        self._optimizer = self._wrote_to = optimizer
        estimator.loss.kl_weight = self.schedule(self._step)
        self._step += 1
        setattr(optimizer, STEP, _Written(self._step))
