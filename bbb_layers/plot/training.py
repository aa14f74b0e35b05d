# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Pictures of the training."""
import reprlib
import typing
from collections.abc import Mapping
from typing import Optional

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .._mxnet.annotations import ArrayLike
from .common import STYLES, axes, finish, in_unit_interval, vector

__all__ = ['plot_training', 'plot_accuracy']


def plot_training(series: typing.Mapping[str, ArrayLike], ax: Optional[Axes] = None,
                  ylabel: str = 'loss (nats per example)', xlabel: str = 'epoch') -> Axes:
    """Curves of training: what was measured after epochs (or steps) 1, 2, ...

    Parameters
    ----------
    series : dict
        Name for the legend -> values, shape (epochs,); the lengths may differ. Values that are not finite, such as
        those of epochs in which nothing was measured, are left out.
    ax : matplotlib Axes, default that of a new figure
    ylabel, xlabel : str
        What the values are, in which unit, and what they are counted by.

    Returns
    -------
    Axes

    Raises
    ------
    TypeError
        If ``series`` is not a dict.
    ValueError
        If ``series`` is empty, or one of it is empty, not one-dimensional or without any finite value.
    """
    if not isinstance(series, Mapping):
        raise TypeError(f'series must be a dict of name -> values (saw: {reprlib.repr(series)})')
    if not series:
        raise ValueError(f'series must have at least one curve (saw: {series!r})')
    curves = {}
    for label, values in series.items():
        name = f'series[{label!r}]'
        values = vector(name, values, 'value', xlabel)
        if not np.isfinite(values).any():
            raise ValueError(f'{name} must have a finite value (saw: {reprlib.repr(values.tolist())})')
        curves[label] = values
    ax = axes(ax)
    for index, (label, values) in enumerate(curves.items()):
        measured = np.flatnonzero(np.isfinite(values))
        # Without the markers, a single epoch would be invisible; with them, thousands of steps would be a smear.
        ax.plot(measured + 1, values[measured], STYLES[index % 4], label=label, markersize=4,
                marker='os^D'[index % 4] if len(measured) <= 50 else None)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return finish(ax, xlabel, ylabel, columns=2)


def plot_accuracy(train: ArrayLike, test: Optional[ArrayLike] = None, ax: Optional[Axes] = None) -> Axes:
    """Accuracy after each epoch.

    Parameters
    ----------
    train : array, shape (epochs,)
        Training accuracy after epochs 1, 2, ..., as fractions between 0 and 1.
    test : array, shape (epochs,), default None
        Test accuracy after the same epochs.
    ax : matplotlib Axes, default that of a new figure

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If an array is empty or not one-dimensional, the two differ in length, or a value is not between 0 and 1.
    """
    train = vector('train', train, 'accuracy', 'epoch')
    curves = {'training': in_unit_interval('train', train)}
    if test is not None:
        curves['test'] = in_unit_interval('test', vector('test', test, 'accuracy', 'epoch', 'train', len(train)))
    return plot_training(curves, ax, ylabel='accuracy (fraction of images that are classified correctly)')
