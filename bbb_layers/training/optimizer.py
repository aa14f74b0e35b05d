# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Adam that updates all Parameters in one operator."""
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

#: Tells the steps of a process apart, whatever the optimizer and the thread.
_STEPS = itertools.count()
#: So many groups of Parameters, such as one for each context, are remembered.
_MOST_GROUPS = 64


def _fusable(weight, grad, state):
    """Whether the native operator serves these arrays: float32, dense, in CPU memory of any kind, in one shape."""
    if not (isinstance(state, tuple) and len(state) == 2):
        return False
    arrays = (weight, grad) + state
    return weight.size > 0 and all(
        array.dtype == np.float32 and array.stype == 'default' and array.shape == weight.shape
        and array.context.device_type.startswith('cpu') for array in arrays)


class _Group:
    """The arrays of Parameters that are updated together, sorted out for the native operators.

    Parameters
    ----------
    weights, grads : sequences of NDArray
    states : sequence of (mean, variance)

    Attributes
    ----------
    fused : list of int
        Places of the Parameters that the native operator updates, those that may need settling first.
    rest : list of int
        Places of the others.
    """

    def __init__(self, weights, grads, states):
        self._arrays = self._flat(weights, grads, states)
        fusable = [_fusable(*arrays) for arrays in zip(weights, grads, states)]
        # What oneDNN keeps in a layout of its own are weights of two dimensions and more.
        settling = [place for place, can in enumerate(fusable) if can and len(weights[place].shape) > 1]
        self.fused = settling + [place for place, can in enumerate(fusable) if can and len(weights[place].shape) <= 1]
        self.rest = [place for place, can in enumerate(fusable) if not can]
        self._inputs = classic([array for place in self.fused
                                for array in (weights[place], weights[place], grads[place]) + states[place]])
        self._settled = classic([weights[place] for place in settling])
        self._shaped_like_them = classic([states[place][0] for place in settling])

    @staticmethod
    def _flat(weights, grads, states):
        arrays = list(weights) + list(grads)
        for state in states:
            arrays.extend(state if isinstance(state, tuple) else [state])
        return arrays

    def is_of(self, weights, grads, states):
        """Whether it was made of the very same arrays."""
        arrays = self._flat(weights, grads, states)
        return len(arrays) == len(self._arrays) and all(map(operator.is_, arrays, self._arrays))

    def update(self, lrs, wds, settings):
        """Update the fused ones; the learning rates and weight decays are in the order of ``fused``."""
        step, settings = next(_STEPS), native.floats(settings)
        # As one operation of the engine's: a forward in predict mode that came between the two, from another thread,
        # could change a weight's layout after the first had seen it.
        with engine.bulk(2):
            native.operator(ndarray, '_bbb_layers_adam')(
                *self._inputs, parameters=len(self.fused), step=step, lrs=native.floats(lrs), wds=native.floats(wds),
                settings=settings)
            if self._settled:
                native.operator(ndarray, '_bbb_layers_adam_settle')(
                    *self._shaped_like_them, weights=len(self._settled), step=step, out=self._settled)


@Optimizer.register
class FusedAdam(Adam):
    r"""Adam that updates all Parameters in one operator: ``gluon.Trainer(params, 'fusedadam', {...})``.

    It has the arguments of MXNet's :class:`~mxnet.optimizer.Adam`, its learning rates, weight decays and schedules, and
    on x86-64 it rounds as that one does:

    .. math::
        g &= \mathrm{clip}(\text{rescale\_grad} \cdot \text{grad} + \lambda w) \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        w &\leftarrow w - \eta \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \frac{m}{\sqrt{v} + \epsilon}

    with the learning rate eta and the weight decay lambda of each Parameter. The operator is native, see
    :mod:`bbb_layers.native`. What it does not serve is updated by MXNet's own: everything where there is no compiler,
    and Parameters that are not float32, not on CPU, or have sparse gradients.

    :func:`~bbb_layers.checkpoint.load_checkpoint` loads states of ``'adam'`` into a Trainer with ``'fusedadam'``, and
    the other way round. ``Trainer.load_states`` is MXNet's, and replaces the Trainer's optimizer by the one in the
    file. If that is ``'adam'`` and the Trainer was made with ``'fusedadam'``, the next step raises an AssertionError
    without a message: convert the file first, by :func:`~bbb_layers.convert_trainer_states`. States of ``'fusedadam'``
    load into a Trainer with ``'adam'``, which then updates one Parameter at a time by this class.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon, lazy_update, **kwargs
        Those of :class:`~mxnet.optimizer.Adam`.

    References
    ----------
    Kingma, Ba: Adam: A Method for Stochastic Optimization. ICLR 2015, end of section 2.
    """

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
        # While recording, MXNet's operator says that it must not be.
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
        """Update one Parameter or several, float16 ones by their float32 copies if ``multi_precision`` is set."""
        if isinstance(index, (list, tuple)) and self.multi_precision and any(w.dtype == np.float16 for w in weight):
            for each in zip(index, weight, grad, state):
                super().update_multi_precision(*each)
        elif isinstance(index, (list, tuple)):
            self.update(index, weight, grad, state)
        else:
            super().update_multi_precision(index, weight, grad, state)

    def _group(self, weights, grads, states):
        """The group of these arrays, the one that was made for them if they come again."""
        if len(weights) == 1:   # by a kvstore, which makes new NDArrays of the same arrays each time
            return _Group(weights, grads, states)
        group = self._groups.get(id(weights[0]))
        if group is None or not group.is_of(weights, grads, states):
            if len(self._groups) >= _MOST_GROUPS:
                self._groups.clear()
            group = self._groups[id(weights[0])] = _Group(weights, grads, states)
        return group

    def _rates(self, index, weight, grad, state, rest):
        """The learning rates with the bias corrections, of all but ``rest``, which are updated here.

        The updates are counted in the order in which Adam does it, since the learning rate depends on the counts so
        far where there is a schedule.
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
        """The factor of the learning rate that corrects the biases of mean and variance."""
        count = self._index_update_count[index]
        return math.sqrt(1. - self.beta2 ** count) / (1. - self.beta1 ** count)

    def __getstate__(self):
        state = super().__getstate__()
        del state['_groups']
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        self._groups = {}


#: Name for the Trainer -> class, of optimizers that have the same states and compute the same updates.
ADAMS = {'adam': Adam, 'fusedadam': FusedAdam}
