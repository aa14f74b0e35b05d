# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Metrics of what a BBBLoss computed; :mod:`bbb_layers.metrics` says what all metrics have in common."""
import copy
from typing import Dict, List, Optional, Sequence, Union

import numpy as np
from mxnet import metric
from mxnet.context import Context

from .._mxnet.annotations import Array
from .._mxnet.contexts import computed_on
from .._mxnet.tree import leaves
from ..prediction.metrics import EpochMetric
from .loss import BBBLoss

__all__ = ['NLL', 'KL', 'ELBO']

_Names = Optional[List[str]]


class _LossMetric(EpochMetric):
    """A mean over the examples of what a BBBLoss computed; ``_of_call`` gives its sum over those of one call.

    Its name is by default that of the class, in lower case.
    """

    def __init__(self, loss: BBBLoss, name: Optional[str] = None, output_names: _Names = None,
                 label_names: _Names = None):
        if not isinstance(loss, BBBLoss):
            raise TypeError(f'loss must be a BBBLoss (saw: {loss!r})')
        self._loss = loss
        self._seen: Dict[Context, tuple] = {}
        super().__init__(type(self).__name__.lower() if name is None else name, output_names,
                                          label_names)

    def update(self, labels: Union[Array, Sequence[Array], None], preds: Union[Array, Sequence[Array]]) -> None:
        """Add the examples of the loss's last call on each context of ``preds``.

        Parameters
        ----------
        labels : NDArray or list of NDArray
            Not looked at.
        preds : NDArray or list of NDArray
            The network's outputs, one for each context.

        Raises
        ------
        RuntimeError
            If the loss was not called on such a context since the last ``update``. Nothing is added then.
        """
        contexts = [computed_on(pred.context) for pred in leaves([preds])]
        calls = {context: self._loss._calls.get(context, ()) for context in contexts}
        for context, call in calls.items():
            if not call or call is self._seen.get(context):
                raise RuntimeError(f'{type(self).__name__} must be updated after each call of its loss on the context of preds (saw: no '
                                   f'new call on {context})')
        self._seen.update(calls)
        for nll, kl, num_train in calls.values():
            statistic = self._of_call(nll.asnumpy().astype(np.float64), kl.asnumpy().item(), num_train)
            self.sum_metric += statistic
            self.global_sum_metric += statistic
            self.num_inst += nll.size
            self.global_num_inst += nll.size

    def __deepcopy__(self, memo):
        # An Estimator copies the training metrics for validation, which has the same loss.
        new = copy.copy(self)
        new._seen = dict(self._seen)
        return new


@metric.register
class NLL(_LossMetric):
    r"""Mean of the negative log likelihood that a BBBLoss computed, in nats per example.

    In train mode under the draw of each batch, in predict mode at the posterior mean; weighted as the loss's ``weight``
    and ``sample_weight`` say.

    Parameters
    ----------
    loss : BBBLoss
    name : str, default 'nll'
    output_names, label_names : list of str, default None
        As of MXNet's metrics.

    Raises
    ------
    TypeError
        If ``loss`` is no BBBLoss.
    """

    def _of_call(self, nll, kl, num_train):
        return nll.sum()


@metric.register
class KL(_LossMetric):
    r"""Mean over the examples of the KL divergence that a BBBLoss computed for their batch, in nats per data set.

    It is the whole network's, without ``kl_weight``, in train and in predict mode. In both, that of a prior without a
    closed form is estimated by one draw of the weights for each batch.

    Parameters
    ----------
    loss : BBBLoss
    name : str, default 'kl'
    output_names, label_names : list of str, default None
        As of MXNet's metrics.

    Raises
    ------
    TypeError
        If ``loss`` is no BBBLoss.
    """

    def _of_call(self, nll, kl, num_train):
        return kl * nll.size


@metric.register
class ELBO(_LossMetric):
    r"""Evidence lower bound from what a BBBLoss computed, in nats per example: the larger the better.

    .. math:: \frac{1}{n} \sum_n \log p(y_n | x_n, w) - \frac{1}{N} KL[q(w) \| p(w)]

    It is -NLL - KL / ``num_train`` with the values of :class:`NLL` and :class:`KL`, and unlike the loss does not depend
    on ``kl_weight``. Each call of the loss counts with the ``num_train`` that it had. Times ``num_train`` it estimates
    the bound of the data set. In predict mode the likelihood is that of the posterior mean, and it no bound.

    Parameters
    ----------
    loss : BBBLoss
    name : str, default 'elbo'
    output_names, label_names : list of str, default None
        As of MXNet's metrics.

    Raises
    ------
    TypeError
        If ``loss`` is no BBBLoss.

    References
    ----------
    Blundell, Cornebise, Kavukcuoglu, Wierstra: Weight Uncertainty in Neural Networks. ICML 2015, eq. 1.
    """

    def _of_call(self, nll, kl, num_train):
        return -nll.sum() - nll.size * kl / num_train
