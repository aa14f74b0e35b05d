# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Gluon losses that are negative log likelihoods: in nats, summed over all axes but the batch axis, with constants."""
import math
from typing import Any, Dict, Optional

import numpy as np
from mxnet import autograd, initializer
from mxnet.base import MXNetError
from mxnet.gluon.loss import Loss
from mxnet.ndarray import NDArray

from .._mxnet.arrays import classic, gluon_kind
from .._mxnet.checks import check_finite, check_positive
from ..posterior.densities import HALF_LOG_2PI, half_square, student_t_log_normalizer
from ..posterior.gaussian import rho_from_sigma, sigma_from_rho

__all__ = ['NLLLoss', 'CategoricalNLLLoss', 'GaussianNLLLoss', 'HeteroscedasticGaussianNLLLoss', 'StudentTNLLLoss',
           'BernoulliNLLLoss', 'PoissonNLLLoss']


class NLLLoss(Loss):
    """Base class of the losses; a subclass defines ``_nll(F, pred, label)``, element by element, on classic arrays."""

    #: Whether this class, without its subclasses, is known to compute the same as a graph.
    _same_as_graph = False
    #: Whether :func:`~bbb_layers.to_bayesian` leaves blocks of this class unchanged.
    _stays_plain = True

    def _made_with(self) -> Dict[str, Any]:
        """Name of an argument of the constructor -> its value, for all that a checkpoint compares."""
        return {'weight': self._weight, 'batch_axis': self._batch_axis}

    def hybrid_forward(self, F, pred, label, sample_weight=None, **params):
        nll = self._nll(F, *classic((pred, label)), **classic(params))
        if sample_weight is not None:
            # broadcast_mul would repeat the loss along axes where the weight is larger, and the sum would count it
            # several times.
            nll = weighted(F, nll, F.broadcast_like(classic(sample_weight), nll))
        if self._weight is not None:
            nll = nll * self._weight
        return gluon_kind(F.sum(nll, axis=self._batch_axis, exclude=True))

    def check_call(self, pred: Any, label: Any, sample_weight: Any = None) -> None:
        """Raise ValueError if the arguments of a call cannot be right; this base class accepts what MXNet accepts."""


def weighted(F, nll, weight):
    """``nll * weight``, and 0 where ``weight`` is 0, also where ``nll`` is infinite."""
    return F.where(weight == 0, F.zeros_like(nll), nll * weight)


class CategoricalNLLLoss(NLLLoss):
    r"""Negative log likelihood of class labels, given logits.

    .. math:: L_n = -\sum_{p} \log \mathrm{softmax}(z_{np})_{y_{np}}

    where p runs over the output positions. ``gluon.loss.SoftmaxCrossEntropyLoss`` is the same for one position, but
    averages over several positions, and an average is not a log likelihood.

    A label that is no class has probability 0, and therefore an infinite loss and no gradient. In predict mode, such a
    label raises ValueError. In train mode no step waits to look at the labels; :meth:`BBBLoss.check_finite` raises
    instead. Where ``sample_weight`` is 0, the label can have any value.

    Parameters
    ----------
    axis : int, default -1
        The axis of the classes.
    weight : float, default None
        Global scalar weight for the loss.
    batch_axis : int, default 0
        The axis of the mini-batch.
    ignore_label : float, default None
        A label, such as -1, that marks positions that add nothing to the loss.

    Inputs:
        - **pred**: logits, e.g. shape (batch_size, classes) or (batch_size, positions, classes)
        - **label**: class indices, in the shape of ``pred`` without ``axis`` (or with size 1 there)
        - **sample_weight**: weights that broadcast to the shape of ``label`` with size 1 at ``axis``

    Outputs:
        - **loss**: shape (batch_size,), nats per example

    Raises
    ------
    TypeError, ValueError
        If ``ignore_label`` is not a finite number. A call raises ValueError if ``label`` or ``sample_weight`` has
        another shape, such as the shape of one-hot labels, and, in predict mode, if a label is not a whole number from
        0 to classes - 1.
    """

    _same_as_graph = True

    def __init__(self, axis: int = -1, weight: Optional[float] = None, batch_axis: int = 0,
                 ignore_label: Optional[float] = None, **kwargs: Any):
        super().__init__(weight, batch_axis, **kwargs)
        self._axis = axis
        self._ignore_label = None if ignore_label is None else check_finite('ignore_label', ignore_label)

    def _made_with(self):
        return dict(super()._made_with(), axis=self._axis, ignore_label=self._ignore_label)

    def forward(self, pred, label, *sample_weight):
        if isinstance(pred, NDArray) and not autograd.is_training():
            self.check_call(pred, label, *sample_weight)
        try:
            return super().forward(pred, label, *sample_weight)
        except MXNetError:
            if isinstance(pred, NDArray):       # MXNet's message is about the shapes that its operators saw
                self.check_call(pred, label, *sample_weight)
            raise

    def _nll(self, F, pred, label):
        nll = -F.pick(F.log_softmax(pred, axis=self._axis), label, axis=self._axis, keepdims=True)
        # For a label that is no class, pick takes the nearest class, so that the label must be compared with the
        # classes. They are counted in float32, because float16 cannot hold every whole number beyond 2048.
        classes = F.cast(F.contrib.arange_like(F.BlockGrad(pred), axis=self._axis), dtype='float32')
        classes = F.contrib.arange_like(classes)
        label = F.reshape_like(F.cast(label, dtype='float32'), nll)
        nll = F.where(F.take(classes, label, mode='clip') == label, nll, F.BlockGrad(nll) + math.inf)
        if self._ignore_label is None:
            return nll
        return F.where(label == self._ignore_label, F.zeros_like(nll), nll)

    def check_call(self, pred, label, sample_weight=None):
        """Raise ValueError if a shape is wrong, or, in predict mode, a label is no class.

        Parameters
        ----------
        pred, label, sample_weight : NDArray
            The arguments of a call of this loss.
        """
        axis = self._axis % len(pred.shape)
        num_classes, positions = pred.shape[axis], pred.shape[:axis] + pred.shape[axis + 1:]
        kept = pred.shape[:axis] + (1,) + pred.shape[axis + 1:]
        if label.shape not in (positions, kept):
            hint = ''
            if label.shape == pred.shape:
                hint = f'; of one-hot labels, take label.argmax(axis={self._axis})'
            for other in range(1, len(pred.shape)):
                if other != axis and label.shape == pred.shape[:other] + pred.shape[other + 1:]:
                    hint = f'; if the classes are at axis {other} of pred, give axis={other}'
            raise ValueError(f'label must be class indices in the shape {positions}, that of pred without the axis of '
                             f'classes (saw: shape {label.shape}{hint})')
        weight = None if sample_weight is None else sample_weight.asnumpy()
        if weight is not None:
            if weight.ndim != len(kept) or any(one not in (1, other) for one, other in zip(weight.shape, kept)):
                hint = f'; take sample_weight.expand_dims(axis={self._axis})' if weight.shape == positions else ''
                raise ValueError(f'sample_weight must have the shape {kept}, or 1 in place of some of these sizes '
                                 f'(saw: shape {weight.shape}{hint})')
        if autograd.is_training():      # reading the label would wait for it, since MXNet may still be computing it
            return
        labels = label.asnumpy().reshape(kept).astype('float64')
        wrong = ~np.isin(labels, np.arange(num_classes))
        if self._ignore_label is not None:
            wrong &= labels != self._ignore_label
        if weight is not None:
            wrong &= np.broadcast_to(weight, kept) != 0
        if wrong.any():
            hint = ('; give ignore_label for positions without a class' if self._ignore_label is None
                    else f', or ignore_label, {self._ignore_label:g}')
            raise ValueError(f'label must be whole numbers from 0 to {num_classes - 1}{hint} '
                             f'(saw: {float(labels[wrong][0])!r})')


class GaussianNLLLoss(NLLLoss):
    r"""Negative log likelihood of a Gaussian with one standard deviation.

    .. math:: L_n = \sum_i \frac{(y_{ni} - \hat y_{ni})^2}{2 \sigma^2} + \log\sigma + \frac{1}{2}\log 2\pi

    ``gluon.loss.L2Loss`` has neither the constants nor the sum over outputs.

    Parameters
    ----------
    sigma : float, default 1.0
        Standard deviation of the noise, positive and finite; its initial value if ``learnable`` is set.
    learnable : bool, default False
        Whether sigma is a Parameter; softplus keeps it positive. The Parameter belongs to this loss: initialize it with
        ``loss_fn.initialize()``, and give a Trainer both the network's Parameters and ``loss_fn.collect_params()``.
    weight : float, default None
        Global scalar weight for the loss.
    batch_axis : int, default 0
        The axis of the mini-batch.

    Inputs:
        - **pred**: means, any shape
        - **label**: targets, with as many elements as ``pred``
        - **sample_weight**: weights that broadcast to the shape of ``pred``

    Outputs:
        - **loss**: shape (batch_size,), nats per example

    Raises
    ------
    ValueError
        If ``sigma`` is not positive and finite.
    """

    _same_as_graph = True

    def __init__(self, sigma: float = 1.0, learnable: bool = False, weight: Optional[float] = None, batch_axis: int = 0,
                 **kwargs: Any):
        super().__init__(weight, batch_axis, **kwargs)
        _add_scale(self, 'sigma', sigma, learnable)

    def _made_with(self):
        # Training changes a learnable sigma, which is a Parameter.
        fixed = {} if self._fixed_scale is None else {'sigma': self._fixed_scale}
        return dict(super()._made_with(), **fixed)

    def _nll(self, F, pred, label, rho=None):
        error, log_scale = _scaled(F, self, F.reshape_like(label, pred) - pred, rho)
        return half_square(error) + log_scale + HALF_LOG_2PI


class HeteroscedasticGaussianNLLLoss(NLLLoss):
    r"""Negative log likelihood of a Gaussian whose mean and variance the network predicts.

    .. math:: L_n = \sum_i \frac{(y_{ni} - \hat y_{ni})^2}{2 e^{s_{ni}}} + \frac{s_{ni}}{2} + \frac{1}{2}\log 2\pi

    Parameters
    ----------
    weight : float, default None
        Global scalar weight for the loss.
    batch_axis : int, default 0
        The axis of the mini-batch.

    Inputs:
        - **pred**: a list of two arrays of one shape: means, and logarithms s of the variances
        - **label**: targets, with as many elements as the means
        - **sample_weight**: weights that broadcast to the shape of the means

    Outputs:
        - **loss**: shape (batch_size,), nats per example
    """

    _same_as_graph = True

    def __init__(self, weight: Optional[float] = None, batch_axis: int = 0, **kwargs: Any):
        super().__init__(weight, batch_axis, **kwargs)

    def _nll(self, F, pred, label):
        mean, log_variance = pred
        error = F.reshape_like(label, mean) - mean
        # The error is divided before it is squared, and by a number that float32 can hold, because 0 * inf is NaN.
        scaled = error * F.exp((-0.5 * log_variance).clip(-80, 80))
        return half_square(scaled) + 0.5 * log_variance + HALF_LOG_2PI


class StudentTNLLLoss(NLLLoss):
    r"""Negative log likelihood of Student's t distribution: regression with outliers.

    .. math:: L_n = \sum_i \frac{\nu + 1}{2} \log\left(1 + \frac{(y_{ni} - \hat y_{ni})^2}{\nu s^2}\right)
        + \log s + \log\frac{\Gamma(\nu / 2) \sqrt{\nu \pi}}{\Gamma((\nu + 1) / 2)}

    Inputs and outputs are those of :class:`GaussianNLLLoss`.

    Parameters
    ----------
    df : float, default 3.0
        Degrees of freedom nu, positive and finite.
    scale : float, default 1.0
        Scale s, positive and finite; its initial value if ``learnable`` is set.
    learnable : bool, default False
        Whether the scale is a Parameter; see :class:`GaussianNLLLoss`.
    weight : float, default None
        Global scalar weight for the loss.
    batch_axis : int, default 0
        The axis of the mini-batch.

    Raises
    ------
    ValueError
        If ``df`` or ``scale`` is not positive and finite.
    """

    _same_as_graph = True

    def __init__(self, df: float = 3.0, scale: float = 1.0, learnable: bool = False, weight: Optional[float] = None,
                 batch_axis: int = 0, **kwargs: Any):
        super().__init__(weight, batch_axis, **kwargs)
        self._df = check_positive('df', df)
        _add_scale(self, 'scale', scale, learnable)

    def _made_with(self):
        # Training changes a learnable scale, which is a Parameter.
        fixed = {} if self._fixed_scale is None else {'scale': self._fixed_scale}
        return dict(super()._made_with(), df=self._df, **fixed)

    def _nll(self, F, pred, label, rho=None):
        error, log_scale = _scaled(F, self, F.reshape_like(label, pred) - pred, rho)
        nll = (self._df + 1) / 2 * F.log1p(half_square(error) * (2 / self._df)) + log_scale
        return nll - student_t_log_normalizer(self._df)


class BernoulliNLLLoss(NLLLoss):
    r"""Negative log likelihood of binary labels, given logits.

    .. math:: L_n = \sum_i \log(1 + e^{z_{ni}}) - y_{ni} z_{ni}

    ``gluon.loss.SigmoidBinaryCrossEntropyLoss`` is the same for one output, but averages over several outputs.

    Parameters
    ----------
    weight : float, default None
        Global scalar weight for the loss.
    batch_axis : int, default 0
        The axis of the mini-batch.

    Inputs:
        - **pred**: logits z, any shape
        - **label**: 0 or 1, or probabilities, with as many elements as ``pred``
        - **sample_weight**: weights that broadcast to the shape of ``pred``

    Outputs:
        - **loss**: shape (batch_size,), nats per example
    """

    _same_as_graph = True

    def __init__(self, weight: Optional[float] = None, batch_axis: int = 0, **kwargs: Any):
        super().__init__(weight, batch_axis, **kwargs)

    def _nll(self, F, pred, label):
        return sigma_from_rho(F, pred) - F.reshape_like(label, pred) * pred


class PoissonNLLLoss(NLLLoss):
    r"""Negative log likelihood of counts, given the logarithms of their rates.

    .. math:: L_n = \sum_i e^{z_{ni}} - y_{ni} z_{ni} + \log y_{ni}!

    ``gluon.loss.PoissonNLLLoss`` returns the mean over the batch, and approximates the last term.

    Parameters
    ----------
    weight : float, default None
        Global scalar weight for the loss.
    batch_axis : int, default 0
        The axis of the mini-batch.

    Inputs:
        - **pred**: logarithms z of the rates, any shape
        - **label**: counts, with as many elements as ``pred``
        - **sample_weight**: weights that broadcast to the shape of ``pred``

    Outputs:
        - **loss**: shape (batch_size,), nats per example
    """

    _same_as_graph = True

    def __init__(self, weight: Optional[float] = None, batch_axis: int = 0, **kwargs: Any):
        super().__init__(weight, batch_axis, **kwargs)

    def _nll(self, F, pred, label):
        label = F.reshape_like(label, pred)
        return F.exp(pred) - label * pred + F.gammaln(label + 1)


def _add_scale(loss, name, scale, learnable):
    """Give ``loss`` a scale: a fixed number, or a Parameter if ``learnable`` is set."""
    scale = check_positive(name, scale)
    loss._fixed_scale = None if learnable else scale
    loss.rho = None
    if learnable:
        with loss.name_scope():
            loss.rho = loss.params.get('rho', shape=(1,), wd_mult=0., init=initializer.Constant(rho_from_sigma(scale)))


def _scaled(F, loss, error, rho):
    """``error`` divided by the scale, and the logarithm of the scale, both in the shape of ``error``."""
    if rho is None:
        return error * (1 / loss._fixed_scale), F.zeros_like(error) + math.log(loss._fixed_scale)
    # The scale is one value, and must get as many axes as ``error``, whose number is unknown while this is traced.
    scale = F.broadcast_mul(F.ones_like(F.reshape(error, shape=(-1,))), sigma_from_rho(F, rho))
    scale = F.reshape_like(scale, error)
    return error / scale, F.log(scale)
