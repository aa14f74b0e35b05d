# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Pictures. Each function draws on a matplotlib Axes and returns it; showing or saving it is the caller's affair.

This module needs matplotlib, the package without it does not: ``pip install 'bbb-layers[plot]'``.
"""
import math

import numpy as np
from matplotlib import pyplot
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from .checks import check_positive
from .prune import signal_to_noise

__all__ = ['plot_accuracy', 'plot_posterior', 'plot_signal_to_noise']


def plot_accuracy(train, test=None, ax=None):
    """Accuracy after each epoch.

    Parameters
    ----------
    train : sequence of float, shape (epochs,)
        Training accuracy after epochs 1, 2, ..., as fractions between 0 and 1.
    test : sequence of float, shape (epochs,), default None
        Test accuracy after the same epochs.
    ax : matplotlib Axes, default that of a new figure

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a sequence is empty or not one-dimensional, the two differ in length, or a value is not between 0 and 1.
    """
    curves = {'training': _fractions('train', train)}
    if test is not None:
        curves['test'] = _fractions('test', test)
        if len(curves['test']) != len(curves['training']):
            raise ValueError('test must have as many epochs as train, %d (saw: %d)' % (
                len(curves['training']), len(curves['test'])))
    ax = _axes(ax)
    for label, values in curves.items():
        # Without the markers, a single epoch would be invisible.
        ax.plot(range(1, len(values) + 1), values, marker='o', markersize=4, label=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.set_xlabel('epoch')
    ax.set_ylabel('accuracy (fraction of images that are classified correctly)')
    ax.legend()
    return ax


def plot_posterior(mu, sigma, ax=None):
    r"""Posterior density of one weight, up to four standard deviations from its mean.

    .. math:: q(w) = \frac{1}{\sqrt{2 \pi} \sigma} \exp\left(-\frac{(w - \mu)^2}{2 \sigma^2}\right)

    Parameters
    ----------
    mu : float
        Mean, finite.
    sigma : float
        Standard deviation, positive and finite; a pruned weight, which has 0, has no density.
    ax : matplotlib Axes, default that of a new figure

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If ``mu`` is not finite, or ``sigma`` is not positive and finite.
    """
    mu, sigma = float(mu), check_positive('sigma', sigma)
    if not math.isfinite(mu):
        raise ValueError('mu must be finite (saw: %r)' % mu)
    deviations = np.linspace(-4, 4, 201)
    density = np.exp(-0.5 * deviations ** 2) / (math.sqrt(2 * math.pi) * sigma)
    ax = _axes(ax)
    ax.plot(mu + sigma * deviations, density, label='mean %.4g, standard deviation %.4g' % (mu, sigma))
    ax.set_xlabel('value of the weight')
    ax.set_ylabel('posterior density')
    # Above the curve, and not beside it: the bell fills the Axes.
    ax.set_ylim(0, 1.2 * density.max())
    ax.legend(loc='upper center')
    return ax


def plot_signal_to_noise(net, ax=None, bins=100):
    r"""Histogram of the signal-to-noise ratio of all weights of a network, biases included, in decibels.

    .. math:: 20 \log_{10} \frac{|\mu|}{\sigma}

    (20 and not 10, since mean and standard deviation are amplitudes.) Weights with ratio 0, which are those that are
    pruned, have no logarithm and are left out; the legend says how many there are.

    Parameters
    ----------
    net : Block
    ax : matplotlib Axes, default that of a new figure
    bins : int or sequence, default 100
        As ``Axes.hist`` takes it; edges are in decibels.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If ``net`` has no Bayesian layer, or a mu or sigma is NaN.
    DeferredInitializationError, RuntimeError
        If ``net`` is not initialized yet.

    References
    ----------
    Blundell, Cornebise, Kavukcuoglu, Wierstra: Weight Uncertainty in Neural Networks. ICML 2015, section 5.1.
    """
    ratios = np.concatenate([ratio.asnumpy().ravel() for ratio in signal_to_noise(net).values()]).astype('float64')
    alive = ratios[ratios > 0]
    label = '{:,} weights'.format(alive.size)
    if alive.size < ratios.size:
        label += ', without {:,} that are pruned or exactly 0'.format(ratios.size - alive.size)
    ax = _axes(ax)
    ax.hist(20 * np.log10(alive), bins=bins, label=label)
    ax.set_xlabel(r'signal-to-noise ratio, $20\,\log_{10}(|\mu|\,/\,\sigma)$ (dB)')
    ax.set_ylabel('number of weights')
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.yaxis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))
    ax.margins(y=0.15)      # room for the legend above the bars
    ax.legend(loc='upper left')
    return ax


def _axes(ax):
    return pyplot.subplots(layout='constrained')[1] if ax is None else ax


def _fractions(name, values):
    values = np.asarray(values, dtype='float64')
    if values.ndim != 1 or not values.size:
        raise ValueError('%s must be one accuracy per epoch, shape (epochs,) (saw: shape %r)' % (name, values.shape))
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError('%s must be between 0 and 1 (saw: %r)' % (name, values[~((values >= 0) & (values <= 1))][0]))
    return values
