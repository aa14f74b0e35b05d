# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The uncertainty of a network's predictions, computed from draws and split by its source."""
from typing import Any, NamedTuple, Union

import numpy as np
from mxnet import ndarray

from .._mxnet.annotations import Array
from .._mxnet.arrays import as_kind_of
from .._mxnet.checks import check_array, check_fraction, check_positive, check_probabilities

__all__ = ['Uncertainty', 'Interval', 'uncertainty', 'gaussian_uncertainty', 'credible_interval']


# Any stands for NDArrays or numpy arrays, depending on what the function was given.
class Uncertainty(NamedTuple):
    """Predictive mean, and its uncertainty: ``total`` = ``aleatoric`` + ``epistemic``.

    Attributes
    ----------
    mean : NDArray or numpy array
        Predictive mean.
    total : NDArray or numpy array
        Uncertainty of the prediction.
    aleatoric : NDArray or numpy array
        The part that comes from noise in the data. More data does not reduce it.
    epistemic : NDArray or numpy array
        The part that comes from disagreement between the draws. More data reduces it.
    """
    mean: Any
    total: Any
    aleatoric: Any
    epistemic: Any


class Interval(NamedTuple):
    """The two ends of an interval.

    Attributes
    ----------
    lower : NDArray or numpy array
    upper : NDArray or numpy array
    """
    lower: Any
    upper: Any


def uncertainty(probs: Array) -> Uncertainty:
    r"""Uncertainty of a classification, split by its source.

    .. math:: \bar p = \frac{1}{S} \sum_s p_s, \quad
        \underbrace{H[\bar p]}_{\text{total}} = \underbrace{\frac{1}{S} \sum_s H[p_s]}_{\text{aleatoric}}
        + \underbrace{I[y; w]}_{\text{epistemic}}, \quad H[p] = -\sum_k p_k \log p_k

    with 0 log 0 = 0. All is computed in float64, whatever the dtype of ``probs``.

    Parameters
    ----------
    probs : NDArray or numpy array, shape (num_samples, batch_size, ..., classes)
        Class probabilities (not logits), with the draws of the weights along the first axis.

    Returns
    -------
    Uncertainty
        ``mean`` contains the predictive probabilities, shape (batch_size, ..., classes). ``total``, ``aleatoric`` and
        ``epistemic`` are in nats per example, at least 0, shape (batch_size, ...). They are NDArrays in the dtype and
        on the context of ``probs``, or numpy arrays in its dtype, whichever ``probs`` is; for integers, in float64.

    Raises
    ------
    ValueError
        If ``probs`` has fewer than three axes, is empty or NaN, or does not contain probabilities: a value is negative,
        or a sum over the classes differs from 1 by more than 1e-3 (2e-2 for float16).
    TypeError
        If ``probs`` is not an array.

    References
    ----------
    Houlsby, Huszar, Ghahramani, Lengyel: Bayesian Active Learning for Classification and Preference Learning. 2011,
    equation 2. Depeweg, Hernandez-Lobato, Doshi-Velez, Udluft: Decomposition of Uncertainty in Bayesian Deep Learning
    for Efficient and Risk-sensitive Learning. ICML 2018, section 3.
    """
    draws = check_probabilities('probs', probs, 'num_samples, batch_size, ..., classes')
    mean = draws.mean(axis=0)
    total, aleatoric = _entropy(mean), _entropy(draws).mean(axis=0)
    # Rounding can make the difference slightly negative.
    return Uncertainty(*(_like(probs, value) for value in (mean, total, aleatoric, np.maximum(total - aleatoric, 0))))


def gaussian_uncertainty(mean: Array, variance: Union[Array, float]) -> Uncertainty:
    r"""Uncertainty of a regression, split by its source.

    .. math:: \bar m = \frac{1}{S} \sum_s m_s, \quad
        \mathrm{Var}[y] = \underbrace{\frac{1}{S} \sum_s v_s}_{\text{aleatoric}}
        + \underbrace{\frac{1}{S} \sum_s (m_s - \bar m)^2}_{\text{epistemic}}

    All is computed in float64, whatever the dtype of ``mean``.

    Parameters
    ----------
    mean : NDArray or numpy array, shape (num_samples, batch_size, ...)
        Predicted means, with the draws of the weights along the first axis.
    variance : NDArray or numpy array in the shape of ``mean``, or float
        Predicted variances, at least 0, or one known variance of the noise, positive. The unit is the squared unit of
        the target: give the square of a standard deviation sigma, not sigma itself.

    Returns
    -------
    Uncertainty
        ``mean`` is in units of the target. ``total``, ``aleatoric`` and ``epistemic`` are variances, in squared units
        of the target. All have shape (batch_size, ...), and are NDArrays in the dtype and on the context of the
        argument ``mean``, or numpy arrays in its dtype, whichever it is; for integers, in float64.

    Raises
    ------
    ValueError
        If ``mean`` has fewer than two axes, is empty or not finite; if ``variance`` has another shape, is negative or
        not finite, or is a number that is not positive.
    TypeError
        If ``mean`` is not an array, or ``variance`` is neither an array nor a number.

    References
    ----------
    Depeweg, Hernandez-Lobato, Doshi-Velez, Udluft: Decomposition of Uncertainty in Bayesian Deep Learning for Efficient
    and Risk-sensitive Learning. ICML 2018, section 3.
    """
    means = _finite('mean', mean, 'num_samples, batch_size, ...')
    if isinstance(variance, (ndarray.NDArray, np.ndarray)):
        variances = _finite('variance', variance, 'num_samples, batch_size, ...')
        if variances.shape != means.shape:
            raise ValueError(f'variance must be a number or have the shape of mean, {means.shape} '
                             f'(saw: shape {variances.shape})')
        if (variances < 0).any():
            raise ValueError(f'variance must be at least 0 (saw: {float(variances.min())})')
    else:
        variances = np.full_like(means, check_positive('variance', variance))
    aleatoric, epistemic = variances.mean(axis=0), means.var(axis=0)
    return Uncertainty(*(_like(mean, value) for value in (
        means.mean(axis=0), aleatoric + epistemic, aleatoric, epistemic)))


def credible_interval(draws: Array, level: float = 0.95) -> Interval:
    r"""Central credible interval: the probability below it equals the probability above it.

    .. math:: [Q((1 - \text{level}) / 2), \; Q((1 + \text{level}) / 2)]

    where Q are the quantiles of the draws, interpolated linearly between two neighbouring draws. Draws of a network's
    mean give an interval for the mean; for an interval of the target, add the noise to the draws.

    Parameters
    ----------
    draws : NDArray or numpy array, shape (num_samples, ...)
        Draws of predictions, or of the weights themselves.
    level : float, default 0.95
        Probability of the interval, between 0 and 1, both excluded. To estimate the ends, about 10 / (1 - level) draws
        are needed.

    Returns
    -------
    Interval
        ``lower`` and ``upper``, in units of ``draws``, shape (...). They are NDArrays in the dtype and on the context
        of ``draws`` (of shape (1,) if no axis is left), or numpy arrays in its dtype, whichever ``draws`` is; for
        integers, in float64.

    Raises
    ------
    ValueError
        If ``draws`` has no axis, is empty or not finite, or ``level`` is outside its range.
    TypeError
        If ``draws`` is not an array, or ``level`` is not a number.

    References
    ----------
    Gelman, Carlin, Stern, Dunson, Vehtari, Rubin: Bayesian Data Analysis. 3rd edition 2013, section 2.3.
    """
    level = check_fraction('level', level)
    ends = np.quantile(_finite('draws', draws, 'num_samples, ...'), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Interval(*(_like(draws, end) for end in ends))


def _entropy(probs):
    """Entropy over the last axis, in nats."""
    entropy = -(probs * np.log(np.where(probs > 0, probs, 1))).sum(axis=-1)
    # A probability that rounding has made larger than 1 would give a negative entropy.
    return np.maximum(entropy, 0)


def _finite(name, value, axes):
    array = check_array(name, value, axes)
    if not np.isfinite(array).all():
        raise ValueError(f'{name} must be finite (saw: {float(array[~np.isfinite(array)][0])})')
    return array


def _like(original, value):
    """``value`` as an array of the kind, dtype and context of ``original``; in float64 if ``original`` is integer."""
    dtype = np.dtype(original.dtype)
    value = np.asarray(value, dtype if dtype.kind == 'f' else np.float64)
    if isinstance(original, ndarray.NDArray):
        return as_kind_of(original, ndarray.array(value, ctx=original.context, dtype=value.dtype))
    return value
