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
    """What a reliability diagram shows, each of shape (num_bins,).

    Attributes
    ----------
    confidence : numpy array
        Mean confidence of the examples in every bin, NaN where there are none.
    accuracy : numpy array
        The fraction of them that is right, NaN where there are none.
    count : numpy array
        Their number.
    """
    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray       # type: ignore[assignment]  # tuples have a method of this name


class EpochMetric(metric.EvalMetric):
    """A function of sums over all examples; ``_statistic`` gives those of one pair of arrays, and their number."""

    def __init__(self, name, output_names, label_names, **config):
        super().__init__(name, output_names=output_names, label_names=label_names,
                                           has_global_stats=True, **config)

    def update(self, labels: Union[Array, Sequence[Array]], preds: Union[Array, Sequence[Array]]) -> None:
        """Add examples.

        Parameters
        ----------
        labels, preds : NDArray or numpy array, or lists of as many of them
            Shapes and values as the class says.

        Raises
        ------
        ValueError, TypeError
            If they are not that. Nothing is added then.
        """
        labels, preds = ([x] if not isinstance(x, (list, tuple)) else x for x in (labels, preds))
        if len(labels) != len(preds):
            raise ValueError('preds must be as many arrays as labels, %d (saw: %d)' % (len(labels), len(preds)))
        # A list, for all pairs to be checked before the first is added.
        for statistic, count in [self._statistic(label, pred) for label, pred in zip(labels, preds)]:
            self.sum_metric += statistic
            self.global_sum_metric += statistic
            self.num_inst += count
            self.global_num_inst += count

    def get(self) -> Tuple[str, float]:
        """The metric since the last ``reset`` or ``reset_local``: (name, float), NaN before any ``update``."""
        return self.name, self._value(self.sum_metric, self.num_inst) if self.num_inst else float('nan')

    def get_global(self) -> Tuple[str, float]:
        """The metric since the last ``reset``: (name, float), NaN before any ``update``."""
        return self.name, self._value(self.global_sum_metric, self.global_num_inst) if self.global_num_inst else (
            float('nan'))

    def _value(self, statistic, count):
        return float(statistic / count)


class _ClassMetric(EpochMetric):
    """A metric of class probabilities; ``_sum`` gives the sums from labels (n,) and predictions (draws, n, classes)."""

    def __init__(self, name, output_names, label_names, logits, **config):
        super().__init__(name, output_names, label_names, logits=logits, **config)
        self.logits = logits

    def _statistic(self, labels, preds):
        labels = check_array('labels', labels)
        preds = (check_array if self.logits else check_probabilities)('preds', preds, '..., batch_size, classes')
        largest = preds.max(axis=-1)
        if np.isinf(largest).any():
            raise ValueError(f'preds must be logits of which the largest of each example is finite (saw: {largest[np.isinf(largest)][0]!r})')
        if not {preds.shape[:-1], preds.shape[1:-1]} & _shapes(labels):
            raise ValueError(f'preds must have the shape of labels, {labels.shape}, and an axis of classes after it; before it, it '
                             f'may have one of draws (saw: shape {preds.shape})')
        num_classes = preds.shape[-1]
        return self._sum(_classes(labels, num_classes), preds.reshape(-1, labels.size, num_classes)), labels.size

    def _probs(self, preds):
        """Mean probabilities over the draws, shape (n, classes)."""
        return (np.exp(_log_softmax(preds)) if self.logits else preds).mean(axis=0)


@metric.register
@metric.alias('ece')
class ExpectedCalibrationError(_ClassMetric):
    r"""How far confidence is from accuracy.

    .. math:: \mathrm{ECE} = \sum_{m=1}^M \frac{|B_m|}{n} |\mathrm{acc}(B_m) - \mathrm{conf}(B_m)|

    with the n examples sorted into M bins of equal width by their confidence, the largest of their probabilities:
    B_m has those in ((m - 1) / M, m / M]. Between 0 and 1; the smaller the better.

    Parameters
    ----------
    num_bins : int, default 15
        Number of bins M, at least 1.
    logits : bool, default False
        Whether predictions are logits instead of probabilities.
    name : str, default 'ece'
    output_names, label_names : list of str, default None
        As of MXNet's metrics.

    Inputs:
        - **labels**: class indices, shape (batch_size,) or (batch_size, 1)
        - **preds**: probabilities, or logits if ``logits``, shape (batch_size, classes) or
          (num_samples, batch_size, classes); of draws, the mean of the probabilities is taken

    Raises
    ------
    ValueError
        If ``num_bins`` is less than 1; by ``update``, for labels that are no class indices, predictions that are NaN
        or no probabilities, and shapes that do not match.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks. ICML 2017, equation 3.
    """

    def __init__(self, num_bins: int = 15, logits: bool = False, name: str = 'ece', output_names: _Names = None,
                 label_names: _Names = None):
        self.num_bins = check_count('num_bins', num_bins)
        super().__init__(name, output_names, label_names, logits, num_bins=num_bins)

    def reliability(self) -> Reliability:
        """What a reliability diagram shows, of the examples that ``get`` is about.

        Returns
        -------
        Reliability
            ``confidence``, ``accuracy`` (both NaN for a bin without examples) and ``count``: numpy arrays of shape
            (num_bins,), with bin m between m / num_bins and (m + 1) / num_bins.
        """
        confidence, correct, count = np.zeros((3, self.num_bins)) + self.sum_metric
        total = np.where(count > 0, count, np.nan)
        return Reliability(confidence / total, correct / total, count.astype(np.int64))

    def _sum(self, labels, preds):
        probs = self._probs(preds)
        confidence = probs.max(axis=-1)
        # The quotients are the closest floats to the edges, the multiples of 1 / num_bins are not.
        bins = np.searchsorted(np.arange(1, self.num_bins) / self.num_bins, confidence, side='left')
        return np.stack([np.bincount(bins, weights, self.num_bins) for weights in (
            confidence, probs.argmax(axis=-1) == labels, np.ones(len(labels)))])

    def _value(self, statistic, count):
        confidence, correct, _ = statistic
        return float(abs(correct - confidence).sum() / count)


@metric.register
@metric.alias('brier')
class BrierScore(_ClassMetric):
    r"""Squared error of the probabilities of all classes.

    .. math:: \frac{1}{n} \sum_n \sum_k (p_{nk} - 1[y_n = k])^2

    Mean over the examples, sum over the classes: between 0 and 2, the smaller the better. With two classes it is twice
    the squared error of the probability of one of them. Inputs, and what ``update`` raises, are as of
    :class:`ExpectedCalibrationError`.

    Parameters
    ----------
    logits : bool, default False
        Whether predictions are logits instead of probabilities.
    name : str, default 'brier'
    output_names, label_names : list of str, default None
        As of MXNet's metrics.

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

    In nats, mean over the examples. Predictions without draws have the plain negative log likelihood. It is computed
    from the logarithms: logits whose probabilities underflow give what they should. Where all draws give the true class
    a probability of 0, it is infinite, as it should be; no small constant hides that. From probabilities in float32
    that happens beyond about 100 nats: then use logits. Inputs, and what ``update`` raises, are as of
    :class:`ExpectedCalibrationError`, but that the mean over the draws is the one above.

    Parameters
    ----------
    logits : bool, default False
        Whether predictions are logits instead of probabilities.
    name : str, default 'mc-nll'
    output_names, label_names : list of str, default None
        As of MXNet's metrics.

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
    r"""How well a score tells examples from out of the distribution: the area under the ROC curve.

    .. math:: P(s_{\text{out}} > s_{\text{in}}) + \frac{1}{2} P(s_{\text{out}} = s_{\text{in}})

    over all pairs of an example from out of the distribution and one from within. 1 is perfect, 1/2 is chance; NaN if
    there were no examples of one kind. Where an Estimator's handlers monitor it, they need ``mode='max'``.

    All scores are kept until ``reset``: 16 bytes for each example.

    Parameters
    ----------
    name : str, default 'ood-auroc'
    output_names, label_names : list of str, default None
        As of MXNet's metrics.

    Inputs:
        - **labels**: 1 for out of the distribution, 0 for within, shape (batch_size,) or (batch_size, 1)
        - **preds**: scores, neither logits nor probabilities, that are larger for what is more likely out of the
          distribution, such as ``total`` or ``epistemic`` of :func:`~bbb_layers.uncertainty`; shape (batch_size,) or
          (batch_size, 1). Infinite ones are as good as any

    Raises
    ------
    ValueError
        By ``update``, for labels that are neither 0 nor 1, scores that are NaN, and shapes that do not match.

    References
    ----------
    Hendrycks, Gimpel: A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks.
    ICLR 2017, section 2. Hanley, McNeil: The Meaning and Use of the Area under a Receiver Operating Characteristic
    (ROC) Curve. Radiology 143, 1982, has the equality with the rank statistic.
    """

    def __init__(self, name: str = 'ood-auroc', output_names: _Names = None, label_names: _Names = None):
        super().__init__(name, output_names, label_names)

    def reset(self) -> None:
        """Forget all examples."""
        super().reset()
        self.sum_metric, self.global_sum_metric = [], []

    def reset_local(self) -> None:
        """Forget the examples that ``get`` is about, but not those of ``get_global``."""
        super().reset_local()
        self.sum_metric = []

    def _statistic(self, labels, preds):
        labels, preds = check_array('labels', labels), check_array('preds', preds)
        if not _shapes(labels) & _shapes(preds):
            raise ValueError(f'preds must be one score for each of labels, shape {labels.shape} (saw: shape {preds.shape})')
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
    """The shape of ``array``, and that without a last axis of size 1."""
    return {array.shape, array.shape[:-1] if array.ndim > 1 and array.shape[-1] == 1 else array.shape}


def _classes(labels, num_classes):
    """``labels`` as integers, shape (n,)."""
    wrong = labels[(labels != np.floor(labels)) | (labels < 0) | (labels >= num_classes)]
    if wrong.size:
        raise ValueError('labels must be whole numbers from 0 to %d (saw: %r)' % (num_classes - 1, wrong[0]))
    return labels.astype(np.int64).ravel()


def _log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
