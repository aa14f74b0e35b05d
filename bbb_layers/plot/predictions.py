# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Pictures of predictions and of how sure they are."""
import reprlib
import textwrap
from typing import Optional, Sequence, Tuple, Union

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure, FigureBase, SubFigure

from .._mxnet.annotations import ArrayLike
from .._mxnet.checks import check_count
from .common import STYLES, array, axes, check, check_length, finish, finite, in_unit_interval, texts, vector

__all__ = ['plot_reliability', 'plot_entropy', 'plot_regression', 'plot_images']


def plot_reliability(confidence: ArrayLike, accuracy: ArrayLike, count: ArrayLike, ax: Optional[Axes] = None) -> Axes:
    r"""Reliability diagram: how often predictions are right, against how sure they are, in bins of confidence.

    The legend has the expected calibration error, over the bins b with n_b of the n inputs:

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n} |\mathrm{accuracy}_b - \mathrm{confidence}_b|

    Parameters
    ----------
    confidence : array, shape (bins,)
        Mean confidence of the predictions in each bin, between 0 and 1. Where ``count`` is 0, neither this nor
        ``accuracy`` is looked at, and both may be NaN.
    accuracy : array, shape (bins,)
        The fraction of them that is right.
    count : array, shape (bins,)
        How many there are; written above each bin.
    ax : matplotlib Axes, default that of a new figure

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If an array is empty or not one-dimensional, the lengths differ, a count is negative or not finite or all are 0,
        or a confidence or accuracy is not between 0 and 1.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks. ICML 2017, section 2.
    """
    confidence = vector('confidence', confidence, 'confidence', 'bin')
    accuracy, count = (vector(name, values, name, 'bin', 'confidence', len(confidence))
                       for name, values in (('accuracy', accuracy), ('count', count)))
    check('count', count, np.isfinite(count) & (count >= 0), 'finite and at least 0')
    if not count.any():
        raise ValueError('count must be positive in some bin (saw: %d bins with 0)' % len(count))
    filled = np.flatnonzero(count)
    confidence = in_unit_interval('confidence', confidence[filled])
    accuracy = in_unit_interval('accuracy', accuracy[filled])
    order = np.argsort(confidence, kind='stable')
    confidence, accuracy, count = confidence[order], accuracy[order], count[filled][order]
    error = np.average(abs(accuracy - confidence), weights=count)
    ax = axes(ax)
    ax.plot([0, 1], [0, 1], color='0.4', linestyle='--', label='perfect calibration')
    ax.vlines(confidence, confidence, accuracy, color='C1', alpha=0.5, linewidth=6, label=f'gap (ECE {error:.4f})')
    ax.plot(confidence, accuracy, marker='o', markersize=4, label='bins (numbers above: inputs in each)')
    # Numbers that would touch are moved apart, to at most 1.
    steps = 0.028 * np.arange(len(count))
    places = np.maximum.accumulate(confidence - steps) + steps
    for place, number in zip(np.minimum(places, 1 - steps[::-1]), count):
        ax.text(place, 1.04, f'{number:,.0f}', rotation=90, ha='center', va='bottom', fontsize=8)
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.25), yticks=np.linspace(0, 1, 6), xlabel='mean confidence of the bin',
           ylabel='accuracy (fraction of inputs that are classified correctly)')
    # In the corner that is free, but below the numbers.
    ax.legend(loc='best', bbox_to_anchor=(0, 0, 1, 0.82))
    return ax


def plot_entropy(in_distribution: ArrayLike, out_of_distribution: ArrayLike, ax: Optional[Axes] = None,
                 labels: Sequence[str] = ('in distribution', 'out of distribution'),
                 bins: Union[int, Sequence[float]] = 40) -> Axes:
    """Densities of the predictive entropy of two kinds of inputs, on the same bins.

    Parameters
    ----------
    in_distribution : array, shape (n,)
        Predictive entropy of inputs like those of the training, in nats.
    out_of_distribution : array, shape (m,)
        That of others.
    ax : matplotlib Axes, default that of a new figure
    labels : pair of str
    bins : int or sequence, default 40
        As ``Axes.hist`` takes it, for the two together; edges are in nats.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If an array is empty, not one-dimensional or not finite, has no value in the bins, or ``labels`` are not two.
    """
    entropies = [finite(name, vector(name, values, 'entropy', 'input')) for name, values in (
        ('in_distribution', in_distribution), ('out_of_distribution', out_of_distribution))]
    labels = texts('labels', labels, 2, 'one name per kind of inputs')
    edges = np.histogram_bin_edges(np.concatenate(entropies), bins)
    counts = [np.histogram(values, edges)[0] for values in entropies]
    if not all(count.any() for count in counts):
        raise ValueError(f'bins must hold some of both kinds of inputs (saw: {reprlib.repr(bins)})')
    ax = axes(ax)
    for index, (count, label) in enumerate(zip(counts, labels)):
        color = 'C%d' % index
        ax.stairs(count / count.sum() / np.diff(edges), edges, fill=True, facecolor=to_rgba(color, 0.3),
                  edgecolor=color, linewidth=1.5, linestyle=STYLES[index], hatch=(None, '///')[index],
                  label='{}: {} inputs'.format(label, format(count.sum(), ',')))
    return finish(ax, 'predictive entropy (nats)', 'density of the inputs (1 / nat)')


def plot_regression(x: ArrayLike, mean: ArrayLike, lower: ArrayLike, upper: ArrayLike, ax: Optional[Axes] = None,
                    data: Optional[Tuple[ArrayLike, ArrayLike]] = None, draws: Optional[ArrayLike] = None,
                    truth: Optional[ArrayLike] = None) -> Axes:
    """Predictive distribution over one input variable: its mean and a credible band, in the units of the caller.

    Parameters
    ----------
    x : array, shape (n,)
        Inputs, in any order.
    mean, lower, upper : array, shape (n,)
        Mean of the prediction at each input, and the ends of its credible interval.
    ax : matplotlib Axes, default that of a new figure
    data : pair of arrays, each of shape (m,), default None
        Inputs and outputs that were observed: points.
    draws : array, shape (k, n), default None
        Predictions of k draws of the weights: thin lines.
    truth : array, shape (n,), default None
        The true function at each input.

    Returns
    -------
    Axes

    Raises
    ------
    TypeError
        If ``data`` is not a pair.
    ValueError
        If an array is empty or not finite, the shapes do not match, or ``lower`` is above ``upper``.
    """
    x = finite('x', vector('x', x, 'number', 'input'))
    mean, lower, upper = (finite(name, vector(name, values, 'number', 'input', 'x', len(x)))
                          for name, values in (('mean', mean), ('lower', lower), ('upper', upper)))
    if truth is not None:
        truth = finite('truth', vector('truth', truth, 'number', 'input', 'x', len(x)))
    check('lower', lower, lower <= upper, 'at most upper')
    if draws is not None:
        draws = array('draws', draws)
        draws = draws[:, :, 0] if draws.ndim == 3 and draws.shape[2] == 1 else draws
        if draws.ndim != 2 or not len(draws) or draws.shape[1] != len(x):
            raise ValueError('draws must have shape (draws, %d), one number per input (saw: shape %r)' % (
                len(x), draws.shape))
        finite('draws', draws)
    if data is not None:
        check_length('data', data, 2, 'inputs and outputs')
        inputs, outputs = (finite(name, vector(name, values, 'number', 'observation')) for name, values in zip(
            ('data[0]', 'data[1]'), data))
        check_length('data[1]', outputs, len(inputs), 'as many observations as data[0]')
    order = np.argsort(x, kind='stable')
    x = x[order]
    ax = axes(ax)
    ax.fill_between(x, lower[order], upper[order], color='C0', alpha=0.25, linewidth=0, label='credible band')
    if draws is not None:
        lines = ax.plot(x, draws.T[order], color='C2', linewidth=0.6, alpha=0.6)
        lines[0].set_label('draws')
    if truth is not None:
        ax.plot(x, truth[order], color='black', linestyle='--', label='truth')
    ax.plot(x, mean[order], color='C0', linewidth=2, label='mean')
    if data is not None:
        ax.plot(inputs, outputs, color='C3', linestyle='none', marker='o', markersize=4, label='data')
    return finish(ax, 'input', 'output', columns=3)


def plot_images(images: ArrayLike, titles: Optional[Sequence[str]] = None, columns: int = 5,
                fig: Union[Figure, SubFigure, None] = None) -> np.ndarray:
    """A grid of small images, filled row by row, such as those that a network is least sure of.

    Parameters
    ----------
    images : array, shape (n, h, w), (n, 1, h, w), (n, h, w, 3) or (n, 3, h, w)
        Grey ones are drawn from black at the lowest value of all to white at the highest one. The colours of RGB ones
        are between 0 and 1, or, if they are integers or one is above 1, between 0 and 255.
    titles : sequence of str, length n, default None
        Broken into lines where they are wider than their image's share of the figure.
    columns : int, default 5
    fig : matplotlib Figure or SubFigure, default a new one, whose size depends on the number of images

    Returns
    -------
    numpy array of Axes, shape (rows, columns)
        Those without an image are invisible.

    Raises
    ------
    TypeError
        If ``images`` are no numbers, ``columns`` is no integer or ``fig`` is no figure.
    ValueError
        If ``images`` are empty, not finite or in another shape, an RGB value is outside its range, ``titles`` are not
        as many, or ``columns`` is less than 1.
    """
    integers = np.issubdtype(getattr(images, 'dtype', np.float64), np.integer)
    images = array('images', images)
    shape = images.shape
    if images.ndim == 4 and (shape[1] == 1 or shape[1] == 3 != shape[3]):
        images = np.moveaxis(images, 1, 3)
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if not images.size or not (images.ndim == 3 or images.ndim == 4 and images.shape[3] == 3):
        raise ValueError('images must have shape (n, h, w), (n, 1, h, w), (n, h, w, 3) or (n, 3, h, w), with at least '
                         f'one pixel (saw: shape {shape!r})')
    finite('images', images)
    if images.ndim == 4:
        top = 255 if integers or images.max() > 1 else 1
        images = check('images', images, (images >= 0) & (images <= top), 'between 0 and %d' % top) / top
    titles = [''] * len(images) if titles is None else texts('titles', titles, len(images), 'one per image')
    columns = min(check_count('columns', columns), len(images))
    rows = -(-len(images) // columns)
    if fig is None:
        fig = pyplot.figure(figsize=(1.3 * columns, (1.6 if any(titles) else 1.3) * rows), layout='constrained')
    elif not isinstance(fig, FigureBase):
        raise TypeError(f'fig must be a matplotlib Figure or SubFigure (saw: {fig!r})')
    grid = fig.subplots(rows, columns, squeeze=False)
    characters = max(int(fig.bbox.width / fig.dpi / columns / 0.08), 1)
    for ax in grid.ravel():
        ax.set_axis_off()
    for ax, image, title in zip(grid.ravel(), images, titles):
        ax.imshow(image, cmap='gray', vmin=images.min(), vmax=images.max(), interpolation='nearest')
        ax.set_title('\n'.join(textwrap.fill(line, characters) for line in title.split('\n')), fontsize=9)
    for ax in grid.ravel()[len(images):]:
        ax.set_visible(False)
    return grid
