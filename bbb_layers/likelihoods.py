# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Gluon losses that are negative log likelihoods: in nats, summed over all axes but the batch's."""
from mxnet.gluon.loss import Loss, _apply_weighting

__all__ = ['CategoricalNLLLoss']


class CategoricalNLLLoss(Loss):
    r"""Negative log likelihood of class labels, given logits.

    .. math:: L_n = -\sum_{p} \log \mathrm{softmax}(z_{np})_{y_{np}}

    with p over the output positions. ``gluon.loss.SoftmaxCrossEntropyLoss`` is the same for one position, but
    averages over several, which is not a log likelihood.

    Parameters
    ----------
    axis : int, default -1
        The axis of the classes.
    weight : float or None
        Global scalar weight for the loss.
    batch_axis : int, default 0

    Inputs:
        - **pred**: logits, e.g. shape (batch_size, classes) or (batch_size, positions, classes)
        - **label**: class indices, in the shape of ``pred`` without ``axis`` (or with size 1 there)
        - **sample_weight**: weights that broadcast to the shape of ``label`` with size 1 at ``axis``

    Outputs:
        - **loss**: shape (batch_size,), nats per example
    """

    def __init__(self, axis=-1, weight=None, batch_axis=0, **kwargs):
        super(CategoricalNLLLoss, self).__init__(weight, batch_axis, **kwargs)
        self._axis = axis

    def hybrid_forward(self, F, pred, label, sample_weight=None):
        nll = -F.pick(F.log_softmax(pred, axis=self._axis), label, axis=self._axis, keepdims=True)
        return F.sum(_apply_weighting(F, nll, self._weight, sample_weight), axis=self._batch_axis, exclude=True)
