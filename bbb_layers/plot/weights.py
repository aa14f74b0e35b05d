# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Pictures of the posterior over the weights, and of what pruning them costs."""
import math
from typing import Optional, Sequence, Union

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, StrMethodFormatter
from mxnet.gluon import Block

from .._mxnet.annotations import ArrayLike
from .._mxnet.checks import check_fraction, check_positive
from ..networks.pruning import signal_to_noise
from .common import STYLES, array, axes, check_length, finish, finite, in_unit_interval, texts, vector

__all__ = ['plot_posterior', 'plot_signal_to_noise', 'plot_pruning_curve']

#: More weights than this have no legend, which would fill the picture.
MAX_LEGEND = 12


def plot_posterior(mu: Union[float, ArrayLike], sigma: Union[float, ArrayLike], ax: Optional[Axes] = None,
                   labels: Optional[Sequence[str]] = None) -> Axes:
    r"""Posterior density of one weight or several, each up to four standard deviations from its mean.

    .. math:: q(w) = \frac{1}{\sqrt{2 \pi} \sigma} \exp\left(-\frac{(w - \mu)^2}{2 \sigma^2}\right)

    Parameters
    ----------
    mu : float, or array of shape (weights,)
        Means, finite.
    sigma : float, or array of shape (weights,)
        Standard deviations, positive and finite; a pruned weight, which has 0, has no density.
    ax : matplotlib Axes, default that of a new figure
    labels : sequence of str, length weights, default the means and standard deviations
        For the legend, which more than 12 weights do not have.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If ``mu`` is not finite, ``sigma`` is not positive and finite, or ``mu``, ``sigma`` and ``labels`` differ in
        length.
    """
    mu, sigma = (np.atleast_1d(array(name, values)) for name, values in (('mu', mu), ('sigma', sigma)))
    mu = finite('mu', vector('mu', mu, 'mean', 'weight'))
    sigma = vector('sigma', sigma, 'standard deviation', 'weight', 'mu', len(mu))
    sigma = np.array([check_positive('sigma', value) for value in sigma.tolist()])
    if labels is None:
        # The full words have room in one column only.
        form = 'mean %.4g, standard deviation %.4g' if len(mu) == 1 else r'$\mu$ = %.3g, $\sigma$ = %.3g'
        labels = [form % moments for moments in zip(mu, sigma)]
    labels = texts('labels', labels, len(mu), 'one name per weight')
    deviations = np.linspace(-4, 4, 201)
    density = np.exp(-0.5 * deviations ** 2) / math.sqrt(2 * math.pi)
    ax = axes(ax)
    for index, label in enumerate(labels):
        ax.plot(mu[index] + sigma[index] * deviations, density / sigma[index], STYLES[index % 4],
                label=label if len(labels) <= MAX_LEGEND else None)
    return finish(ax, 'value of the weight', 'posterior density', columns=1 if len(mu) == 1 else 2)


def plot_signal_to_noise(net: Block, ax: Optional[Axes] = None, bins: Union[int, Sequence[float]] = 100,
                         cut: Optional[float] = None, kind: str = 'histogram') -> Axes:
    r"""Signal-to-noise ratio of all weights of a network, biases included, in decibels, and where pruning would cut.

    .. math:: 20 \log_{10} \frac{|\mu|}{\sigma}

    (20 and not 10, since mean and standard deviation are amplitudes.) Weights with ratio 0, which are those that are
    pruned, have no logarithm and are left out; the legend says how many there are. The cumulative distribution counts
    them, as ``prune`` does.

    Parameters
    ----------
    net : Block
    ax : matplotlib Axes, default that of a new figure
    bins : int or sequence, default 100
        As ``Axes.hist`` takes it; edges are in decibels.
    cut : float, default None
        The fraction of all weights that ``prune(net, cut)`` would prune, between 0 and 1: a vertical line at the lowest
        ratio that it would keep, or at the highest one if it would keep none.
    kind : {'histogram', 'density', 'cumulative'}, default 'histogram'
        The number of weights in each bin, their share of the weights drawn per decibel, or the share of all weights, in
        %, that have at most a ratio, at the edges of the bins.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If ``net`` has no Bayesian layer, a mu or sigma is NaN or a ratio infinite; if ``cut`` is outside its range,
        less than the fraction of weights with ratio 0, or given although there are no others; if ``kind`` is unknown.
    DeferredInitializationError, RuntimeError
        If ``net`` is not initialized yet.

    References
    ----------
    Blundell, Cornebise, Kavukcuoglu, Wierstra: Weight Uncertainty in Neural Networks. ICML 2015, section 5.1, figure 3.
    """
    ylabels = {'histogram': 'number of weights', 'density': 'density of the weights (1 / dB)',
               'cumulative': 'weights with at most this ratio (%)'}
    if kind not in ylabels:
        raise ValueError('kind must be one of {} (saw: {!r})'.format(', '.join(ylabels), kind))
    ratios = np.concatenate([ratio.asnumpy().ravel() for ratio in signal_to_noise(net).values()]).astype('float64')
    ratios = np.sort(finite('signal-to-noise ratios of net', ratios))
    zeros = int((ratios == 0).sum())
    alive = 20 * np.log10(ratios[zeros:])
    edges = np.histogram_bin_edges(alive, bins)
    if cut is not None:
        # 1e-9: as in prune
        count = int(math.floor(ratios.size * check_fraction('cut', cut, closed=True) + 1e-9))
        if count < zeros or not alive.size:
            raise ValueError('cut must be at least %d / %d, the weights of net that are pruned or exactly 0, and None '
                             'if these are all (saw: %r)' % (zeros, ratios.size, cut))
        lowest_kept = alive[min(count - zeros, alive.size - 1)]
    label = f'{alive.size:,} weights'
    if zeros:
        label += (', and' if kind == 'cumulative' else ', without') + f' {zeros:,} that are pruned or exactly 0'
    ax = axes(ax)
    if kind == 'cumulative':
        ax.plot(edges, 100 * (zeros + np.searchsorted(alive, edges, side='right')) / ratios.size, label=label)
        ax.set_yticks(range(0, 101, 20))
    else:
        heights = np.histogram(alive, edges)[0]
        if kind == 'density':
            heights = heights / np.diff(edges) / max(heights.sum(), 1)
        ax.bar(edges[:-1], heights, np.diff(edges), align='edge', label=label)
    if kind == 'histogram':
        ax.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.yaxis.set_major_formatter(StrMethodFormatter('{x:,.0f}'))
    if cut is not None:
        ax.axvline(lowest_kept, color='C3', linestyle='--',
                   label=f'cut: {100 * cut:.4g} % of all weights are below {lowest_kept:.3g} dB')
    return finish(ax, r'signal-to-noise ratio, $20\,\log_{10}(|\mu|\,/\,\sigma)$ (dB)', ylabels[kind])


def plot_pruning_curve(fractions: ArrayLike, values: ArrayLike, ax: Optional[Axes] = None,
                       ylabel: str = 'test accuracy %', baseline: Optional[float] = None) -> Axes:
    """What pruning costs: a value for each fraction of the weights that is pruned.

    The axis shows the square root of the weights that are left, so that 95 %, 98 % and 100 % stay apart; its ticks are
    the given fractions, as far as there is room for them.

    Parameters
    ----------
    fractions : array, shape (n,)
        Fractions of the weights that are pruned, between 0 and 1, in any order.
    values : array, shape (n,)
        What was measured with them, such as the test accuracy in %.
    ax : matplotlib Axes, default that of a new figure
    ylabel : str, default 'test accuracy %'
    baseline : float, default None
        The value without pruning: a horizontal line.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If an array is empty or not one-dimensional, the two differ in length, a fraction is not between 0 and 1, or a
        value or ``baseline`` is not finite.
    """
    fractions = in_unit_interval('fractions', vector('fractions', fractions, 'fraction', 'value'))
    values = finite('values', vector('values', values, 'value', 'fraction', 'fractions', len(fractions)))
    if baseline is not None:
        height = finite('baseline', array('baseline', baseline).ravel())
        check_length('baseline', height, 1, 'a single value')
    order = np.argsort(fractions, kind='stable')
    percent = 100 * fractions[order]
    ax = axes(ax)
    ax.set_xscale('function', functions=(_root_from_100, lambda root: 100 + np.sign(root) * root ** 2))
    ax.plot(percent, values[order], marker='o', markersize=4, label=None if baseline is None else 'pruned')
    if baseline is not None:
        ax.axhline(height[0], color='C1', linestyle='--', label=f'not pruned: {height[0]:.4g}')
    ticks, room = [], 0.065 * np.ptp(_root_from_100(percent))
    for value in np.unique(percent)[::-1]:      # from the end where pruning hurts
        if not ticks or _root_from_100(ticks[-1]) - _root_from_100(value) >= room:
            ticks.append(value)
    ax.set_xticks(ticks, [f'{tick:.4g}' for tick in ticks])
    return finish(ax, 'weights pruned (%), on the scale of the square root of those left', ylabel, columns=2)


def _root_from_100(percent):
    """The square root of what is missing to 100 %, negative. Odd about 100: the margin of the axis is beyond it."""
    return np.sign(percent - 100) * np.sqrt(abs(percent - 100))
