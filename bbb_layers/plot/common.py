# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the pictures share: reading arrays, checking them, a new Axes, labels and legend."""
import math
import reprlib
from typing import Any, List, Optional

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes

__all__ = ['STYLES', 'axes', 'finish', 'array', 'vector', 'check', 'check_length', 'finite', 'in_unit_interval',
           'texts']

#: Beside the colours, for those who cannot tell them apart and for print without them.
STYLES = '-', '--', '-.', ':'


def axes(ax: Optional[Axes]) -> Axes:
    """``ax``, or that of a new figure if it is None."""
    if ax is None:
        return pyplot.subplots(layout='constrained')[1]
    if not isinstance(ax, Axes):
        raise TypeError(f'ax must be a matplotlib Axes (saw: {ax!r})')
    return ax


def finish(ax: Axes, xlabel: str, ylabel: str, columns: int = 1) -> Axes:
    """Label ``ax``, and put its legend above all that is drawn: the y axis grows by the height of the legend."""
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    handles = ax.get_legend_handles_labels()[0]
    if handles:
        scale = ax.yaxis.get_transform()
        low, high = scale.transform(ax.get_ylim())
        inches = 0.2 + 0.21 * math.ceil(len(handles) / columns)
        share = min(inches * ax.figure.dpi / ax.bbox.height, 0.6)
        # auto: what the caller draws later may move the limits again.
        ax.set_ylim(top=float(scale.inverted().transform(low + (high - low) / (1 - share))), auto=True)
        ax.legend(loc='upper center', ncol=columns, framealpha=1)
    return ax


def array(name: str, values: Any) -> np.ndarray:
    """``values`` as numpy array of float64."""
    try:
        if isinstance(values, (list, tuple)):
            values = [getattr(value, 'asnumpy', lambda value=value: value)() for value in values]
        return np.asarray(values.asnumpy() if hasattr(values, 'asnumpy') else values, dtype='float64')
    except (TypeError, ValueError):
        raise TypeError(f'{name} must be an array of numbers (saw: {reprlib.repr(values)})') from None


def vector(name: str, values: Any, what: str, per: str, other: Optional[str] = None,
           length: Optional[int] = None) -> np.ndarray:
    """``values`` as numpy array of shape (n,): one ``what`` for each ``per``, ``length`` of them as in ``other``."""
    values = array(name, values)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or not values.size:
        raise ValueError(f'{name} must be one {what} per {per}, shape ({per}s,) (saw: shape {values.shape!r})')
    if other is not None:
        check_length(name, values, length, f'as many {per}s as {other}')
    return values


def check(name: str, values: np.ndarray, holds: np.ndarray, constraint: str) -> np.ndarray:
    """ValueError with the first of ``values`` that does not hold."""
    if not holds.all():
        raise ValueError(f'{name} must be {constraint} (saw: {float(values[~holds][0])!r})')
    return values


def check_length(name, values, length, what):
    if isinstance(values, str) or not hasattr(values, '__len__'):
        raise TypeError(f'{name} must be a sequence (saw: {values!r})')
    if len(values) != length:
        raise ValueError('%s must have %s, %d (saw: %d)' % (name, what, length, len(values)))


def finite(name: str, values: np.ndarray) -> np.ndarray:
    return check(name, values, np.isfinite(values), 'finite')


def in_unit_interval(name: str, values: np.ndarray) -> np.ndarray:
    return check(name, values, (values >= 0) & (values <= 1), 'between 0 and 1')


def texts(name: str, values: Any, length: int, what: str) -> List[str]:
    """``values`` as a list of ``length`` str."""
    check_length(name, values, length, what)
    return [f'{value}' for value in (values.asnumpy() if hasattr(values, 'asnumpy') else values)]
