# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The Monte Carlo mean of a network's predictions, as a block."""
from typing import Any, Optional

from mxnet import autograd, ndarray
from mxnet.gluon import Block

from .._mxnet.arrays import classic, gluon_kind
from .._mxnet.checks import check_count, is_one_of
from .._mxnet.contexts import computed_on, moved_to
from .._mxnet.precision import widened
from .._mxnet.tree import leaves
from ..networks.plain import PlainCopy
from ..posterior.parameters import bayesian

__all__ = ['MonteCarlo']


class MonteCarlo(Block):
    r"""The Monte Carlo mean of a Bayesian network's predictions, for instance for an Estimator's validation.

    .. math:: \log \frac{1}{S} \sum_s \mathrm{softmax}(f(x; w_s)), \quad w_s \sim q

    Every forward draws anew. BatchNorm and Dropout are in predict mode. The network is a child, and its Parameters
    are those of this block; it is not changed, and may be trained between the forwards:
    ``Estimator(net, loss, val_net=MonteCarlo(net), ...)``.

    Parameters
    ----------
    net : Block
        With one output.
    num_samples : int, default 32
        Number of draws S.
    link : {'softmax', 'sigmoid', None}, default 'softmax'
        What the outputs of ``net`` are, and how they are averaged. 'softmax': logits of classes along ``axis``; the
        mean of their probabilities is returned as log probabilities, which are logits too, so that losses and metrics
        that take logits take these. 'sigmoid': logits of independent labels; the logit of the mean probability is
        returned. None: the mean of the outputs.
    axis : int, default -1
        The axis of classes.

    Inputs:
        - as ``net`` takes them

    Outputs:
        - **out**: the shape of the output of ``net``, and its dtype, or float32 where that is float16 or bfloat16

    Raises
    ------
    ValueError
        If ``net`` has no Bayesian layer or a mu or sigma is not finite, ``num_samples`` is less than 1, or ``link`` is
        none of the above.
    TypeError
        If ``net`` has several outputs.
    RuntimeError
        If it runs under ``autograd.record()``: the mean has no gradient.
    """

    _draws = True       # says to predict and others that this is not a network to draw from

    def __init__(self, net: Block, num_samples: int = 32, link: Optional[str] = 'softmax', axis: int = -1,
                 **kwargs: Any):
        if not is_one_of(link, ('softmax', 'sigmoid', None)):
            raise ValueError(f"link must be 'softmax', 'sigmoid' or None (saw: {link!r})")
        self._num_samples = check_count('num_samples', num_samples)
        self._link, self._axis = link, axis
        bayesian(net)
        super().__init__(**kwargs)
        self.net = net

    def forward(self, *inputs):
        if autograd.is_recording():
            raise RuntimeError('MonteCarlo has no gradient: train net itself, and call this outside autograd.record()')
        plain = PlainCopy(self.net)     # anew, since anything in the network may have changed
        outputs = []
        first = next(leaves(inputs), None)
        if first is not None:
            inputs = moved_to(computed_on(first.context), inputs)
        with autograd.predict_mode():
            for _ in plain.draws(self._num_samples):
                output = plain.net(*inputs)
                if not isinstance(output, ndarray.NDArray):
                    raise TypeError(f'net of MonteCarlo must have one output (saw: {type(output).__name__})')
                # A copy, since a static graph writes its next output into the same memory.
                outputs.append(widened(classic(output).copy()))
        stacked = ndarray.stack(*outputs)
        if self._link is None:
            return gluon_kind(stacked.mean(axis=0))
        if self._link == 'softmax':
            return gluon_kind(_log_mean_exp(stacked.log_softmax(axis=self._axis + (self._axis >= 0))))
        return gluon_kind(_log_mean_exp(_log_sigmoid(stacked)) - _log_mean_exp(_log_sigmoid(-stacked)))


def _log_mean_exp(array):
    """Over the first axis."""
    most = array.max(axis=0, keepdims=True).clip(-3e38, 3e38)       # -inf - -inf would be NaN
    return ndarray.broadcast_sub(array, most).exp().mean(axis=0).log() + most[0]


def _log_sigmoid(array):
    return -(-array).relu() - (-array.abs()).exp().log1p()
