# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Gluon losses that are negative log likelihoods: in nats, summed over all axes but the batch's, constants included."""
import math
from typing import Any, Optional

from mxnet import initializer
from mxnet.gluon.loss import Loss

from .arrays import classic, gluon_kind
from .checks import check_positive
from .densities import HALF_LOG_2PI, half_square, student_t_log_normalizer
from .posterior import rho_from_sigma, sigma_from_rho

__all__ = ['CategoricalNLLLoss', 'GaussianNLLLoss', 'HeteroscedasticGaussianNLLLoss', 'StudentTNLLLoss',
           'BernoulliNLLLoss', 'PoissonNLLLoss']


class _NLLLoss(Loss):
    """A loss whose subclass defines ``_nll(F, pred, label)``, element by element, on classic arrays."""

    def hybrid_forward(self, F, pred, label, sample_weight=None, **params):
        nll = self._nll(F, *classic((pred, label)), **classic(params))
        if sample_weight is not None:
            # Not broadcast_mul: a weight that is larger than the loss would repeat it, and the sum would count that.
            nll = nll * F.broadcast_like(classic(sample_weight), nll)
        if self._weight is not None:
            nll = nll * self._weight
        return gluon_kind(F.sum(nll, axis=self._batch_axis, exclude=True))


class CategoricalNLLLoss(_NLLLoss):
    r"""Negative log likelihood of class labels, given logits.

    .. math:: L_n = -\sum_{p} \log \mathrm{softmax}(z_{np})_{y_{np}}

    with p over the output positions. ``gluon.loss.SoftmaxCrossEntropyLoss`` is the same for one position, but
    averages over several, which is not a log likelihood.

    Parameters
    ----------
    axis : int, default -1
        The axis of the classes.
    weight : float, default None
        Global scalar weight for the loss.
    batch_axis : int, default 0
        The axis of the mini-batch.

    Inputs:
        - **pred**: logits, e.g. shape (batch_size, classes) or (batch_size, positions, classes)
        - **label**: class indices, in the shape of ``pred`` without ``axis`` (or with size 1 there)
        - **sample_weight**: weights that broadcast to the shape of ``label`` with size 1 at ``axis``

    Outputs:
        - **loss**: shape (batch_size,), nats per example
    """

    def __init__(self, axis: int = -1, weight: Optional[float] = None, batch_axis: int = 0, **kwargs: Any):
        super(CategoricalNLLLoss, self).__init__(weight, batch_axis, **kwargs)
        self._axis = axis

    def _nll(self, F, pred, label):
        return -F.pick(F.log_softmax(pred, axis=self._axis), label, axis=self._axis, keepdims=True)


class GaussianNLLLoss(_NLLLoss):
    r"""Negative log likelihood of a Gaussian with one standard deviation.

    .. math:: L_n = \sum_i \frac{(y_{ni} - \hat y_{ni})^2}{2 \sigma^2} + \log\sigma + \frac{1}{2}\log 2\pi

    ``gluon.loss.L2Loss`` has neither the constants nor the sum over outputs.

    Parameters
    ----------
    sigma : float, default 1.0
        Standard deviation of the noise, positive and finite; where it starts, if learnable.
    learnable : bool, default False
        Whether sigma is a Parameter, positive through softplus. It belongs to this loss: initialize it with
        ``loss_fn.initialize()``, and give ``loss_fn.collect_params()`` to a Trainer as well as the network's.
    weight : float, default None
        Global scalar weight for the loss.
    batch_axis : int, default 0
        The axis of the mini-batch.

    Inputs:
        - **pred**: means, any shape
        - **label**: targets, with as many elements
        - **sample_weight**: weights that broadcast to the shape of ``pred``

    Outputs:
        - **loss**: shape (batch_size,), nats per example

    Raises
    ------
    ValueError
        If ``sigma`` is not positive and finite.
    """

    def __init__(self, sigma: float = 1.0, learnable: bool = False, weight: Optional[float] = None, batch_axis: int = 0,
                 **kwargs: Any):
        super(GaussianNLLLoss, self).__init__(weight, batch_axis, **kwargs)
        _add_scale(self, 'sigma', sigma, learnable)

    def _nll(self, F, pred, label, rho=None):
        error, log_scale = _scaled(F, self, F.reshape_like(label, pred) - pred, rho)
        return half_square(error) + log_scale + HALF_LOG_2PI


class HeteroscedasticGaussianNLLLoss(_NLLLoss):
    r"""Negative log likelihood of a Gaussian whose mean and variance the network gives.

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

    def __init__(self, weight: Optional[float] = None, batch_axis: int = 0, **kwargs: Any):
        super(HeteroscedasticGaussianNLLLoss, self).__init__(weight, batch_axis, **kwargs)

    def _nll(self, F, pred, label):
        mean, log_variance = pred
        error = F.reshape_like(label, mean) - mean
        # The error is divided before it is squared, and by a number that float32 can hold: 0 * inf would be NaN.
        scaled = error * F.exp((-0.5 * log_variance).clip(-80, 80))
        return half_square(scaled) + 0.5 * log_variance + HALF_LOG_2PI


class StudentTNLLLoss(_NLLLoss):
    r"""Negative log likelihood of Student's t distribution: regression with outliers.

    .. math:: L_n = \sum_i \frac{\nu + 1}{2} \log\left(1 + \frac{(y_{ni} - \hat y_{ni})^2}{\nu s^2}\right)
        + \log s + \log\frac{\Gamma(\nu / 2) \sqrt{\nu \pi}}{\Gamma((\nu + 1) / 2)}

    Inputs and outputs are those of :class:`GaussianNLLLoss`.

    Parameters
    ----------
    df : float, default 3.0
        Degrees of freedom nu, positive and finite.
    scale : float, default 1.0
        Scale s, positive and finite; where it starts, if learnable.
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

    def __init__(self, df: float = 3.0, scale: float = 1.0, learnable: bool = False, weight: Optional[float] = None,
                 batch_axis: int = 0, **kwargs: Any):
        super(StudentTNLLLoss, self).__init__(weight, batch_axis, **kwargs)
        self._df = check_positive('df', df)
        _add_scale(self, 'scale', scale, learnable)

    def _nll(self, F, pred, label, rho=None):
        error, log_scale = _scaled(F, self, F.reshape_like(label, pred) - pred, rho)
        nll = (self._df + 1) / 2 * F.log1p(half_square(error) * (2 / self._df)) + log_scale
        return nll - student_t_log_normalizer(self._df)


class BernoulliNLLLoss(_NLLLoss):
    r"""Negative log likelihood of binary labels, given logits.

    .. math:: L_n = \sum_i \log(1 + e^{z_{ni}}) - y_{ni} z_{ni}

    ``gluon.loss.SigmoidBinaryCrossEntropyLoss`` is the same for one output, but averages over several.

    Parameters
    ----------
    weight : float, default None
        Global scalar weight for the loss.
    batch_axis : int, default 0
        The axis of the mini-batch.

    Inputs:
        - **pred**: logits z, any shape
        - **label**: 0 or 1, or probabilities, with as many elements
        - **sample_weight**: weights that broadcast to the shape of ``pred``

    Outputs:
        - **loss**: shape (batch_size,), nats per example
    """

    def __init__(self, weight: Optional[float] = None, batch_axis: int = 0, **kwargs: Any):
        super(BernoulliNLLLoss, self).__init__(weight, batch_axis, **kwargs)

    def _nll(self, F, pred, label):
        return sigma_from_rho(F, pred) - F.reshape_like(label, pred) * pred


class PoissonNLLLoss(_NLLLoss):
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
        - **label**: counts, with as many elements
        - **sample_weight**: weights that broadcast to the shape of ``pred``

    Outputs:
        - **loss**: shape (batch_size,), nats per example
    """

    def __init__(self, weight: Optional[float] = None, batch_axis: int = 0, **kwargs: Any):
        super(PoissonNLLLoss, self).__init__(weight, batch_axis, **kwargs)

    def _nll(self, F, pred, label):
        label = F.reshape_like(label, pred)
        return F.exp(pred) - label * pred + F.gammaln(label + 1)


def _add_scale(loss, name, scale, learnable):
    """Give ``loss`` one scale, a number or a Parameter."""
    loss._scale = check_positive(name, scale)
    loss.rho = None
    if learnable:
        with loss.name_scope():
            loss.rho = loss.params.get('rho', shape=(1,), wd_mult=0.,
                                       init=initializer.Constant(rho_from_sigma(loss._scale)))


def _scaled(F, loss, error, rho):
    """``error`` / scale, and the scale's logarithm, both in the shape of ``error``."""
    if rho is None:
        return error * (1 / loss._scale), F.zeros_like(error) + math.log(loss._scale)
    # One value in as many axes as ``error`` has, whose number is unknown while this is traced.
    scale = F.broadcast_mul(F.ones_like(F.reshape(error, shape=(-1,))), sigma_from_rho(F, rho))
    scale = F.reshape_like(scale, error)
    return error / scale, F.log(scale)
