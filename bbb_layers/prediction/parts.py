# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What draws of a network's predictions say: how uncertain it is, and why."""
from typing import Any, NamedTuple, Union

import numpy as np
from mxnet import ndarray

from .._mxnet.annotations import Array
from .._mxnet.arrays import as_kind_of
from .._mxnet.checks import check_array, check_fraction, check_positive, check_probabilities

__all__ = ['Uncertainty', 'Interval', 'uncertainty', 'gaussian_uncertainty', 'credible_interval']


# Any: NDArrays or numpy arrays, as the function was given.
class Uncertainty(NamedTuple):
    """Predictive mean, and its uncertainty: ``total`` = ``aleatoric`` + ``epistemic``.

    Attributes
    ----------
    mean : NDArray or numpy array
        Predictive mean.
    total : NDArray or numpy array
        Its uncertainty.
    aleatoric : NDArray or numpy array
        The part that is noise in the data, which more data does not reduce.
    epistemic : NDArray or numpy array
        The part in which the draws disagree, which it does.
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

    with 0 log 0 = 0. Computed in float64, whatever the dtype.

    Parameters
    ----------
    probs : NDArray or numpy array, shape (num_samples, batch_size, ..., classes)
        Class probabilities, one draw of the weights after the other; not logits.

    Returns
    -------
    Uncertainty
        ``mean``: predictive probabilities, shape (batch_size, ..., classes). ``total``, ``aleatoric``, ``epistemic``:
        nats per example, none below 0, shape (batch_size, ...). NDArrays in the dtype and on the context of ``probs``,
        or numpy arrays in its dtype; for integers, in float64.

    Raises
    ------
    ValueError
        If ``probs`` has fewer than three axes, is empty or NaN, or is no probabilities: negative, or with a sum over
        the classes that is off 1 by more than 1e-3.
    TypeError
        If ``probs`` is no array.

    References
    ----------
    Houlsby, Huszar, Ghahramani, Lengyel: Bayesian Active Learning for Classification and Preference Learning. 2011,
    equation 2. Depeweg, Hernandez-Lobato, Doshi-Velez, Udluft: Decomposition of Uncertainty in Bayesian Deep Learning
    for Efficient and Risk-sensitive Learning. ICML 2018, section 3.
    """
    draws = check_probabilities('probs', probs, 'num_samples, batch_size, ..., classes')
    mean = draws.mean(axis=0)
    total, aleatoric = _entropy(mean), _entropy(draws).mean(axis=0)
    # Rounding alone can take the difference below 0.
    return Uncertainty(*(_like(probs, value) for value in (mean, total, aleatoric, np.maximum(total - aleatoric, 0))))


def gaussian_uncertainty(mean: Array, variance: Union[Array, float]) -> Uncertainty:
    r"""Uncertainty of a regression, split by its source.

    .. math:: \bar m = \frac{1}{S} \sum_s m_s, \quad
        \mathrm{Var}[y] = \underbrace{\frac{1}{S} \sum_s v_s}_{\text{aleatoric}}
        + \underbrace{\frac{1}{S} \sum_s (m_s - \bar m)^2}_{\text{epistemic}}

    Computed in float64, whatever the dtype.

    Parameters
    ----------
    mean : NDArray or numpy array, shape (num_samples, batch_size, ...)
        Predicted means, one draw of the weights after the other.
    variance : NDArray or numpy array in the shape of ``mean``, or float
        Predicted variances, at least 0; or one known variance of the noise, positive. In squared units of the target;
        the square of a standard deviation sigma, not sigma.

    Returns
    -------
    Uncertainty
        ``mean``, in units of the target; ``total``, ``aleatoric``, ``epistemic``: variances, in squared units of it.
        All of shape (batch_size, ...): NDArrays in the dtype and on the context of ``mean``, or numpy arrays in its
        dtype; for integers, in float64.

    Raises
    ------
    ValueError
        If ``mean`` has fewer than two axes, is empty or not finite; if ``variance`` has another shape, is negative or
        not finite, or is a number that is not positive.
    TypeError
        If ``mean`` is no array, or ``variance`` neither an array nor a number.

    References
    ----------
    Depeweg, Hernandez-Lobato, Doshi-Velez, Udluft: Decomposition of Uncertainty in Bayesian Deep Learning for Efficient
    and Risk-sensitive Learning. ICML 2018, section 3.
    """
    means = _finite('mean', mean, 'num_samples, batch_size, ...')
    if isinstance(variance, (ndarray.NDArray, np.ndarray)):
        variances = _finite('variance', variance, 'num_samples, batch_size, ...')
        if variances.shape != means.shape:
            raise ValueError(f'variance must be a number or have the shape of mean, {means.shape} (saw: shape {variances.shape})')
        if (variances < 0).any():
            raise ValueError(f'variance must be at least 0 (saw: {variances.min()!r})')
    else:
        variances = np.full_like(means, check_positive('variance', variance))
    aleatoric, epistemic = variances.mean(axis=0), means.var(axis=0)
    return Uncertainty(*(_like(mean, value) for value in (
        means.mean(axis=0), aleatoric + epistemic, aleatoric, epistemic)))


def credible_interval(draws: Array, level: float = 0.95) -> Interval:
    r"""Central credible interval: as much probability below it as above.

    .. math:: [Q((1 - \text{level}) / 2), \; Q((1 + \text{level}) / 2)]

    with the quantiles Q of the draws, linearly interpolated between two of them. Draws of a network's mean give an
    interval for the mean; for one of the target, add the noise to them.

    Parameters
    ----------
    draws : NDArray or numpy array, shape (num_samples, ...)
        What the weights were drawn for: predictions, or the weights themselves.
    level : float, default 0.95
        Probability of the interval, between 0 and 1, both excluded. The ends need about 10 / (1 - level) draws.

    Returns
    -------
    Interval
        ``lower`` and ``upper``, in units of ``draws``, shape (...): NDArrays in the dtype and on the context of
        ``draws`` (where no axis is left, of shape (1,)), or numpy arrays in its dtype; for integers, in float64.

    Raises
    ------
    ValueError
        If ``draws`` has no axis, is empty or not finite, or ``level`` is outside its range.
    TypeError
        If ``draws`` is no array, or ``level`` no number.

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
    # Rounded to more than 1, a probability has a negative one.
    return np.maximum(entropy, 0)


def _finite(name, value, axes):
    array = check_array(name, value, axes)
    if not np.isfinite(array).all():
        raise ValueError(f'{name} must be finite (saw: {array[~np.isfinite(array)][0]!r})')
    return array


def _like(original, value):
    """``value`` as an array of the kind of ``original``."""
    dtype = np.dtype(original.dtype)
    value = np.asarray(value, dtype if dtype.kind == 'f' else np.float64)
    if isinstance(original, ndarray.NDArray):
        return as_kind_of(original, ndarray.array(value, ctx=original.context, dtype=value.dtype))
    return value
