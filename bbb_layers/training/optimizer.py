# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Adam that updates all Parameters in one operator."""
import contextlib
import gc
import itertools
import math
import operator
from typing import Any

import numpy as np
from mxnet import autograd, engine, ndarray
from mxnet.optimizer import Adam, Optimizer

from .. import native
from .._mxnet.arrays import classic

__all__ = ['FusedAdam']

#: Gives each step in this process a number of its own, across all optimizers and threads.
_STEPS = itertools.count()
#: At most this many groups of Parameters, such as one for each context, are remembered.
_MOST_GROUPS = 64


@contextlib.contextmanager
def _one_operation(operators):
    """Make the operators that are called in this context, ``operators`` in number, one operation of MXNet's engine.

    The engine ends the operation early if an array is freed in between. Python frees arrays at any moment if they are
    in a reference cycle, as those of a discarded Block are; its search for such cycles waits until the context ends.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        with engine.bulk(operators):
            yield
    finally:
        if enabled:
            gc.enable()


def _fusable(weight, grad, state):
    """Whether the native operator can update these arrays: float32, dense, in CPU memory of any kind, in one shape."""
    if not (isinstance(state, tuple) and len(state) == 2):
        return False
    arrays = (weight, grad) + state
    return weight.size > 0 and all(
        array.dtype == np.float32 and array.stype == 'default' and array.shape == weight.shape
        and array.context.device_type.startswith('cpu') for array in arrays)


class _Group:
    """The arrays of Parameters that are updated together, arranged for the native operators.

    Parameters
    ----------
    weights, grads : sequences of NDArray
    states : sequence of (mean, variance)

    Attributes
    ----------
    fused : list of int
        Places of the Parameters that the native operator updates. Parameters that may need settling come first.
    rest : list of int
        Places of the other Parameters.
    """

    def __init__(self, weights, grads, states):
        self._arrays = self._flat(weights, grads, states)
        fusable = [_fusable(*arrays) for arrays in zip(weights, grads, states)]
        # oneDNN may keep weights of two or more dimensions in a layout of its own. The first operator cannot write to
        # such a weight; its new values wait for the second operator, which settles them in the usual layout.
        settling = [place for place, can in enumerate(fusable) if can and len(weights[place].shape) > 1]
        self.fused = settling + [place for place, can in enumerate(fusable) if can and len(weights[place].shape) <= 1]
        self.rest = [place for place, can in enumerate(fusable) if not can]
        self._inputs = classic([array for place in self.fused
                                for array in (weights[place], weights[place], grads[place]) + states[place]])
        self._settled, self._shaped_like_them = (self._inputs[first:5 * len(settling):5] for first in (0, 3))

    @staticmethod
    def _flat(weights, grads, states):
        arrays = list(weights) + list(grads)
        for state in states:
            arrays.extend(state if isinstance(state, tuple) else [state])
        return arrays

    def is_of(self, weights, grads, states):
        """Whether this group was made of the very same arrays."""
        arrays = self._flat(weights, grads, states)
        return len(arrays) == len(self._arrays) and all(map(operator.is_, arrays, self._arrays))

    def update(self, lrs, wds, settings):
        """Update the Parameters in ``fused``; the learning rates and weight decays are in the order of ``fused``."""
        step, settings = next(_STEPS), native.floats(settings)
        # The two operators run as one operation of the engine. Otherwise a forward in predict mode, from another
        # thread, could run between them and change the layout of a weight after the first operator has seen it.
        with _one_operation(2):
            native.operator(ndarray, '_bbb_layers_adam')(
                *self._inputs, parameters=len(self.fused), step=step, lrs=native.floats(lrs), wds=native.floats(wds),
                settings=settings)
            if self._settled:
                native.operator(ndarray, '_bbb_layers_adam_settle')(
                    *self._shaped_like_them, weights=len(self._settled), step=step, out=self._settled)


@Optimizer.register
class FusedAdam(Adam):
    r"""Adam that updates all Parameters in one operator: ``gluon.Trainer(params, 'fusedadam', {...})``.

    It has the arguments, learning rates, weight decays and schedules of MXNet's :class:`~mxnet.optimizer.Adam`, and on
    x86-64 it rounds as MXNet's Adam does:

    .. math::
        g &= \mathrm{clip}(\text{rescale\_grad} \cdot \text{grad} + \lambda w) \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        w &\leftarrow w - \eta \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \frac{m}{\sqrt{v} + \epsilon}

    with the learning rate eta and the weight decay lambda of each Parameter. The operator is native, see
    :mod:`bbb_layers.native`. Where it cannot be used, MXNet's own operator does the update: for Parameters that are not
    float32, are not on the CPU, or have sparse gradients, and for all Parameters if there is no compiler.

    :func:`~bbb_layers.checkpoint.load_checkpoint` loads states of ``'adam'`` into a Trainer with ``'fusedadam'``, and
    the other way round. MXNet's ``Trainer.load_states``, however, replaces the Trainer's optimizer by the optimizer in
    the file. If the file has ``'adam'`` and the Trainer was made with ``'fusedadam'``, the next step raises an
    AssertionError without a message: convert the file first, with :func:`~bbb_layers.convert_trainer_states`. States of
    ``'fusedadam'`` can be loaded into a Trainer with ``'adam'``, which then uses this class and updates one Parameter
    at a time.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon, lazy_update, **kwargs
        The arguments of :class:`~mxnet.optimizer.Adam`.

    References
    ----------
    Kingma, Ba: Adam: A Method for Stochastic Optimization. ICLR 2015, end of section 2.
    """

    _adds = True    # see bbb_layers/posterior/updates.py

    def __init__(self, learning_rate: float = 0.001, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8,
                 lazy_update: bool = True, **kwargs: Any):
        super().__init__(learning_rate=learning_rate, beta1=beta1, beta2=beta2, epsilon=epsilon,
                         lazy_update=lazy_update, **kwargs)
        self.aggregate_num = 2 ** 31 - 1    # so that MXNet hands over all Parameters at once
        self._groups = {}

    def update(self, index, weight, grad, state):
        """Update one Parameter, or all of them if the arguments are sequences."""
        if not isinstance(index, (list, tuple)):
            index, weight, grad, state = [index], [weight], [grad], [state]
        # While a graph is recorded, MXNet's operator is called, because it raises an error that says so.
        if autograd.is_recording() or not native.available():
            for each in zip(index, weight, grad, state):
                super().update(*each)
            return
        group = self._group(weight, grad, state)
        lrs = self._rates(index, weight, grad, state, group.rest)
        if group.fused:
            wds = self._get_wds(index)
            settings = (self.beta1, self.beta2, self.epsilon, self.rescale_grad, self.clip_gradient or -1.)
            group.update([lrs[place] for place in group.fused], [wds[place] for place in group.fused], settings)

    def update_multi_precision(self, index, weight, grad, state):
        """Update one Parameter or several; if ``multi_precision`` is set, float16 ones by their float32 copies."""
        if isinstance(index, (list, tuple)) and self.multi_precision and any(w.dtype == np.float16 for w in weight):
            for each in zip(index, weight, grad, state):
                super().update_multi_precision(*each)
        elif isinstance(index, (list, tuple)):
            self.update(index, weight, grad, state)
        else:
            super().update_multi_precision(index, weight, grad, state)

    def _group(self, weights, grads, states):
        """The group of these arrays; if the arrays come again, the group that was made for them is used again."""
        if len(weights) == 1:   # this call is from a kvstore, which makes new NDArrays of the same arrays each time
            return _Group(weights, grads, states)
        group = self._groups.get(id(weights[0]))
        if group is None or not group.is_of(weights, grads, states):
            if len(self._groups) >= _MOST_GROUPS:
                self._groups.clear()
            group = self._groups[id(weights[0])] = _Group(weights, grads, states)
        return group

    def _rates(self, index, weight, grad, state, rest):
        """The learning rates with the bias corrections. The Parameters in ``rest`` have none; they are updated here.

        The updates are counted in the order in which Adam counts them, since with a schedule the learning rate depends
        on the counts so far.
        """
        if not rest and len({self._index_update_count.get(i, self.begin_num_update) for i in index}) == 1:
            self._update_count(index)
            correction = self._correction(index[0])
            return [lr * correction for lr in self._get_lrs(index)]
        rest, lrs = set(rest), []
        for place, i in enumerate(index):
            if place in rest:
                super().update(i, weight[place], grad[place], state[place])
                lrs.append(None)
            else:
                self._update_count(i)
                lrs.append(self._get_lr(i) * self._correction(i))
        return lrs

    def _correction(self, index):
        """The factor of the learning rate that corrects the biases of the estimated mean and variance."""
        count = self._index_update_count[index]
        return math.sqrt(1. - self.beta2 ** count) / (1. - self.beta1 ** count)

    def __getstate__(self):
        state = super().__getstate__()
        del state['_groups']
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        self._groups = {}


#: Name for the Trainer -> class, for the optimizers that have the same states and compute the same updates.
ADAMS = {'adam': Adam, 'fusedadam': FusedAdam}
