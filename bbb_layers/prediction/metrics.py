# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Metrics of predicted probabilities and of scores; :mod:`bbb_layers.metrics` says what they have in common."""
from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from mxnet import metric

from .._mxnet.annotations import Array
from .._mxnet.checks import check_array, check_count, check_probabilities

__all__ = ['EpochMetric', 'ExpectedCalibrationError', 'Reliability', 'BrierScore', 'MonteCarloNLL',
           'OutOfDistributionAUROC']

_Names = Optional[List[str]]


class Reliability(NamedTuple):
    """The data of a reliability diagram; each array has shape (num_bins,).

    Attributes
    ----------
    confidence : numpy array
        Mean confidence of the examples in each bin; NaN for a bin without examples.
    accuracy : numpy array
        Fraction of the examples in each bin that are classified correctly; NaN for a bin without examples.
    count : numpy array
        Number of examples in each bin.
    """
    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray       # type: ignore[assignment]  # a tuple has a method of this name


class EpochMetric(metric.EvalMetric):
    """A metric that is a function of sums over all examples.

    ``_statistic(labels, preds)`` returns the sums for one pair of arrays and the number of examples in it, and
    ``_value`` computes the metric from the sums over all pairs and the number of all examples.
    """

    def __init__(self, name, output_names, label_names, **config):
        super().__init__(name, output_names=output_names, label_names=label_names, has_global_stats=True, **config)

    def update(self, labels: Union[Array, Sequence[Array]], preds: Union[Array, Sequence[Array]]) -> None:
        """Add examples.

        Parameters
        ----------
        labels, preds : NDArray or numpy array, or two lists of such arrays, of equal length
            The documentation of the class says which shapes and values they must have.

        Raises
        ------
        ValueError, TypeError
            If they have other shapes or values. No examples are added then.
        """
        labels, preds = ([x] if not isinstance(x, (list, tuple)) else x for x in (labels, preds))
        if len(labels) != len(preds):
            raise ValueError(f'preds must be as many arrays as labels, {len(labels)} (saw: {len(preds)})')
        # The statistics are collected in a list, so that all pairs are checked before the first one is added.
        for statistic, count in [self._statistic(label, pred) for label, pred in zip(labels, preds)]:
            self.sum_metric += statistic
            self.global_sum_metric += statistic
            self.num_inst += count
            self.global_num_inst += count

    def get(self) -> Tuple[str, float]:
        """The metric since the last ``reset`` or ``reset_local``, as (name, float); NaN before any ``update``."""
        return self.name, self._value(self.sum_metric, self.num_inst) if self.num_inst else float('nan')

    def get_global(self) -> Tuple[str, float]:
        """The metric since the last ``reset``, as (name, float); NaN before any ``update``."""
        return self.name, self._value(self.global_sum_metric, self.global_num_inst) if self.global_num_inst else (
            float('nan'))

    def _value(self, statistic, count):
        return float(statistic / count)


class _ClassMetric(EpochMetric):
    """A metric of class probabilities.

    ``_sum(labels, preds)`` computes the sums from labels of shape (n,) and predictions of shape (draws, n, classes).
    """

    def __init__(self, name, output_names, label_names, logits, **config):
        super().__init__(name, output_names, label_names, logits=logits, **config)
        self.logits = logits

    def _statistic(self, labels, preds):
        labels = check_array('labels', labels)
        preds = (check_array if self.logits else check_probabilities)('preds', preds, '..., batch_size, classes')
        largest = preds.max(axis=-1)
        if np.isinf(largest).any():
            raise ValueError('preds must be logits of which the largest of each example is finite '
                             f'(saw: {float(largest[np.isinf(largest)][0])})')
        if not {preds.shape[:-1], preds.shape[1:-1]} & _shapes(labels):
            raise ValueError(f'preds must have the shape of labels, {labels.shape}, and an axis of classes after it; '
                             f'before it, it may have one of draws (saw: shape {preds.shape})')
        num_classes = preds.shape[-1]
        return self._sum(_classes(labels, num_classes), preds.reshape(-1, labels.size, num_classes)), labels.size

    def _probs(self, preds):
        """Mean probabilities over the draws, shape (n, classes)."""
        return (np.exp(_log_softmax(preds)) if self.logits else preds).mean(axis=0)


@metric.register
@metric.alias('ece')
class ExpectedCalibrationError(_ClassMetric):
    r"""Expected calibration error: the mean distance between confidence and accuracy.

    .. math:: \mathrm{ECE} = \sum_{m=1}^M \frac{|B_m|}{n} |\mathrm{acc}(B_m) - \mathrm{conf}(B_m)|

    where the n examples are sorted into M bins of equal width by their confidence, which is the largest of their class
    probabilities: bin B_m contains the examples with a confidence in ((m - 1) / M, m / M]. The error is between 0 and
    1; smaller is better.

    Parameters
    ----------
    num_bins : int, default 15
        Number of bins M, at least 1.
    logits : bool, default False
        Whether predictions are logits instead of probabilities.
    name : str, default 'ece'
    output_names, label_names : list of str, default None
        As in MXNet's metrics.

    Inputs:
        - **labels**: class indices, shape (batch_size,) or (batch_size, 1)
        - **preds**: probabilities, or logits if ``logits`` is set, shape (batch_size, classes) or
          (num_samples, batch_size, classes); in the second case the probabilities are averaged over the draws

    Raises
    ------
    ValueError
        If ``num_bins`` is less than 1. ``update`` raises it if labels are not class indices, predictions are NaN or not
        probabilities, or the shapes do not match.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks. ICML 2017, equation 3.
    """

    def __init__(self, num_bins: int = 15, logits: bool = False, name: str = 'ece', output_names: _Names = None,
                 label_names: _Names = None):
        self.num_bins = check_count('num_bins', num_bins)
        super().__init__(name, output_names, label_names, logits, num_bins=num_bins)

    def reliability(self) -> Reliability:
        """The data of a reliability diagram of the examples since the last ``reset`` or ``reset_local``.

        Returns
        -------
        Reliability
            ``confidence``, ``accuracy`` (both NaN for a bin without examples) and ``count``: numpy arrays of shape
            (num_bins,). The bin at index m reaches from m / num_bins to (m + 1) / num_bins.
        """
        confidence, correct, count = np.zeros((3, self.num_bins)) + self.sum_metric
        total = np.where(count > 0, count, np.nan)
        return Reliability(confidence / total, correct / total, count.astype(np.int64))

    def _sum(self, labels, preds):
        probs = self._probs(preds)
        confidence = probs.max(axis=-1)
        # The edges are computed as quotients, which are the floats closest to them; multiples of 1 / num_bins are not.
        bins = np.searchsorted(np.arange(1, self.num_bins) / self.num_bins, confidence, side='left')
        return np.stack([np.bincount(bins, weights, self.num_bins) for weights in (
            confidence, probs.argmax(axis=-1) == labels, np.ones(len(labels)))])

    def _value(self, statistic, count):
        confidence, correct, _ = statistic
        return float(abs(correct - confidence).sum() / count)


@metric.register
@metric.alias('brier')
class BrierScore(_ClassMetric):
    r"""Brier score: the squared error of the probabilities of all classes.

    .. math:: \frac{1}{n} \sum_n \sum_k (p_{nk} - 1[y_n = k])^2

    The score is a mean over the examples of a sum over the classes. It is between 0 and 2; smaller is better. With two
    classes it is twice the squared error of the probability of one class. The inputs, and the errors that ``update``
    raises, are those of :class:`ExpectedCalibrationError`.

    Parameters
    ----------
    logits : bool, default False
        Whether predictions are logits instead of probabilities.
    name : str, default 'brier'
    output_names, label_names : list of str, default None
        As in MXNet's metrics.

    References
    ----------
    Brier: Verification of Forecasts Expressed in Terms of Probability. Monthly Weather Review 78, 1950, equation 2.
    """

    def __init__(self, logits: bool = False, name: str = 'brier', output_names: _Names = None,
                 label_names: _Names = None):
        super().__init__(name, output_names, label_names, logits)

    def _sum(self, labels, preds):
        error = self._probs(preds)
        error[np.arange(len(labels)), labels] -= 1
        return np.square(error).sum()


@metric.register
@metric.alias('mc-nll')
class MonteCarloNLL(_ClassMetric):
    r"""Negative log likelihood of the posterior predictive distribution, estimated by draws of the weights.

    .. math:: -\frac{1}{n} \sum_n \log \frac{1}{S} \sum_s p_s(y_n)

    The metric is in nats, as a mean over the examples. For predictions without an axis of draws it is the plain
    negative log likelihood. It is computed from logarithms, so that logits whose probabilities underflow give the
    correct result. If all draws give the true class a probability of 0, the metric is infinite, as it should be; no
    small constant hides this. For probabilities in float32 it happens beyond about 100 nats: use logits there. The
    inputs, and the errors that ``update`` raises, are those of :class:`ExpectedCalibrationError`, except that the
    draws are averaged as in the formula above.

    Parameters
    ----------
    logits : bool, default False
        Whether predictions are logits instead of probabilities.
    name : str, default 'mc-nll'
    output_names, label_names : list of str, default None
        As in MXNet's metrics.

    References
    ----------
    Blundell, Cornebise, Kavukcuoglu, Wierstra: Weight Uncertainty in Neural Networks. ICML 2015, section 3, has the
    expectation that the draws estimate.
    """

    def __init__(self, logits: bool = False, name: str = 'mc-nll', output_names: _Names = None,
                 label_names: _Names = None):
        super().__init__(name, output_names, label_names, logits)

    def _sum(self, labels, preds):
        with np.errstate(divide='ignore'):
            log_probs = _log_softmax(preds) if self.logits else np.log(preds)
        log_probs = log_probs[:, np.arange(len(labels)), labels]
        return (np.log(len(log_probs)) - np.logaddexp.reduce(log_probs, axis=0)).sum()


@metric.register
@metric.alias('ood-auroc')
class OutOfDistributionAUROC(EpochMetric):
    r"""Area under the ROC curve: how well a score separates out-of-distribution from in-distribution examples.

    .. math:: P(s_{\text{out}} > s_{\text{in}}) + \frac{1}{2} P(s_{\text{out}} = s_{\text{in}})

    over all pairs of an out-of-distribution example and an in-distribution example. 1 is perfect and 1/2 is chance; the
    metric is NaN if one of the two kinds has no examples. Handlers of an Estimator that monitor it need ``mode='max'``.

    All scores are kept until ``reset``, which takes 16 bytes for each example.

    Parameters
    ----------
    name : str, default 'ood-auroc'
    output_names, label_names : list of str, default None
        As in MXNet's metrics.

    Inputs:
        - **labels**: 1 for out-of-distribution and 0 for in-distribution examples, shape (batch_size,) or
          (batch_size, 1)
        - **preds**: scores (neither logits nor probabilities) that are larger for examples that are more likely out of
          distribution, such as ``total`` or ``epistemic`` of :func:`~bbb_layers.uncertainty`; shape (batch_size,) or
          (batch_size, 1). Infinite scores are allowed

    Raises
    ------
    ValueError
        ``update`` raises it if labels are neither 0 nor 1, scores are NaN, or the shapes do not match.

    References
    ----------
    Hendrycks, Gimpel: A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks.
    ICLR 2017, section 2. Hanley, McNeil: The Meaning and Use of the Area under a Receiver Operating Characteristic
    (ROC) Curve. Radiology 143, 1982, shows that the area equals the rank statistic.
    """

    def __init__(self, name: str = 'ood-auroc', output_names: _Names = None, label_names: _Names = None):
        super().__init__(name, output_names, label_names)

    def reset(self) -> None:
        """Forget all examples."""
        super().reset()
        self.sum_metric, self.global_sum_metric = [], []

    def reset_local(self) -> None:
        """Forget the examples that ``get`` counts, but keep the examples that ``get_global`` counts."""
        super().reset_local()
        self.sum_metric = []

    def _statistic(self, labels, preds):
        labels, preds = check_array('labels', labels), check_array('preds', preds)
        if not _shapes(labels) & _shapes(preds):
            raise ValueError(f'preds must be one score for each of labels, shape {labels.shape} '
                             f'(saw: shape {preds.shape})')
        return [(_classes(labels, 2), preds.ravel())], labels.size

    def _value(self, statistic, count):
        labels, scores = (np.concatenate(arrays) for arrays in zip(*statistic))
        inside, outside = np.sort(scores[labels == 0]), scores[labels == 1]
        if not (inside.size and outside.size):
            return float('nan')
        below = np.searchsorted(inside, outside, side='left').sum()
        up_to = np.searchsorted(inside, outside, side='right').sum()
        return float((below + up_to) / (2 * inside.size * outside.size))


def _shapes(array):
    """The shape of ``array``, and, if its last axis has size 1, also the shape without this axis."""
    return {array.shape, array.shape[:-1] if array.ndim > 1 and array.shape[-1] == 1 else array.shape}


def _classes(labels, num_classes):
    """``labels`` as integers, shape (n,)."""
    wrong = labels[(labels != np.floor(labels)) | (labels < 0) | (labels >= num_classes)]
    if wrong.size:
        raise ValueError(f'labels must be whole numbers from 0 to {num_classes - 1} (saw: {float(wrong[0])})')
    return labels.astype(np.int64).ravel()


def _log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
