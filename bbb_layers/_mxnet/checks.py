# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of arguments. The error of each check names the argument, its value and the constraint."""
import math
import numbers
import sys

import numpy as np
from mxnet.ndarray import NDArray

__all__ = ['check_positive', 'check_finite', 'check_not_negative', 'check_fraction', 'check_count', 'check_array',
           'check_probabilities', 'check_numbers', 'is_one_of', 'check_dtype', 'normal']


def _number(name, value, kind=numbers.Real):
    if not isinstance(value, kind) or isinstance(value, bool):
        what = 'an integer' if kind is numbers.Integral else 'a number'
        raise TypeError(f'{name} must be {what} (saw: {value!r})')
    return value


def _float(name, value):
    try:
        value = float(_number(name, value))
    except OverflowError:       # the integer is larger than every float
        return math.inf if value > 0 else -math.inf
    return normal(value)


def normal(value):
    """``value``, a float, or 0 if it is subnormal: MXNet's operators refuse to read subnormal numbers."""
    return 0. if abs(value) < sys.float_info.min else value


def check_positive(name, value):
    """``value`` as a float if it is positive and finite; otherwise ValueError, or TypeError if it is not a number.

    Numbers that are too small or too large for a normal float32 count as 0 or infinite, because most networks compute
    in float32.
    """
    value = _float(name, value)
    if not 1.2e-38 < value < 3.4e38:
        raise ValueError(f'{name} must be positive and finite (saw: {value!r})')
    return value


def check_finite(name, value):
    """``value`` as a float, if it is finite."""
    value = _float(name, value)
    if not math.isfinite(value):
        raise ValueError(f'{name} must be finite (saw: {value!r})')
    return value


def check_not_negative(name, value):
    """``value`` as a float, if it is finite and at least 0."""
    value = _float(name, value)
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f'{name} must be finite and at least 0 (saw: {value!r})')
    return value


def check_fraction(name, value, closed=False):
    """``value`` as a float, if it is between 0 and 1; the two bounds are allowed only if ``closed``."""
    value = _float(name, value)
    if not (0 <= value <= 1 if closed else 0 < value < 1):
        bounds = 'both included' if closed else 'both excluded'
        raise ValueError(f'{name} must be between 0 and 1, {bounds} (saw: {value!r})')
    return value


def check_count(name, value):
    """``value`` as an int, if it is a whole number of at least 1."""
    value = int(_number(name, value, numbers.Integral))
    if value < 1:
        raise ValueError(f'{name} must be at least 1 (saw: {value!r})')
    if value >= 2 ** 31:        # too many for MXNet, and too many to wait for
        raise ValueError(f'{name} must be below 2 ** 31 (saw: {value!r})')
    return value


def check_array(name, value, axes='batch_size, ...'):
    """``value``, an NDArray or a numpy array, as a numpy array of float64, if it has these ``axes`` and no NaN."""
    array = value.asnumpy() if isinstance(value, NDArray) else value
    if not isinstance(array, np.ndarray) or array.dtype.kind not in 'biuf':
        seen = getattr(array, 'dtype', type(array).__name__)
        raise TypeError(f'{name} must be an NDArray or a numpy array of numbers (saw: {seen})')
    if array.ndim < sum(axis != '...' for axis in axes.split(', ')) or not array.size:
        raise ValueError(f'{name} must have the shape ({axes}) and not be empty (saw: shape {array.shape})')
    array = array.astype(np.float64)
    if np.isnan(array).any():
        raise ValueError(f'{name} must not be NaN (saw: {np.isnan(array).sum()} of {array.size} values)')
    return array


def check_probabilities(name, value, axes):
    """The result of :func:`check_array` for ``value``, if it holds probabilities over the last axis."""
    probs = check_array(name, value, axes)
    demand = f'{name} must be probabilities, not logits'
    if (probs < 0).any():
        raise ValueError(f'{demand}: at least 0 (saw: {float(probs.min())})')
    # The sums of a float32 softmax are off by 3e-6 for 300,000 classes, those of a float16 softmax by 5e-3 for 10 to
    # 1,000 classes.
    sums = probs.sum(axis=-1)
    wrong = sums[~(abs(sums - 1) <= (2e-2 if value.dtype == np.float16 else 1e-3))]
    if wrong.size:
        raise ValueError(f'{demand}: with sum 1 over the last axis (saw: {float(wrong[0])})')
    return probs


def check_numbers(name, values, check):
    """The tuple of the results of ``check`` for each of ``values``."""
    if isinstance(values, (str, bytes, dict)) or not hasattr(values, '__iter__') or getattr(values, 'ndim', 1) == 0:
        raise TypeError(f'{name} must be a sequence of numbers (saw: {values!r})')
    return tuple(check(name, value) for value in values)


def is_one_of(value, choices):
    """Whether ``value`` is one of ``choices``, which are strings or None; ``value`` may have any type."""
    return isinstance(value, (str, type(None))) and value in choices


def check_dtype(what, dtype, allowed=('float32', 'float64')):
    """``dtype`` as a numpy.dtype if it is one of ``allowed``; otherwise ValueError, or TypeError if it is no dtype."""
    try:
        known = np.dtype(dtype)
    except (TypeError, ValueError) as error:
        if not is_one_of(dtype, ('bfloat16',)):     # a dtype that numpy does not know
            raise TypeError(f'dtype of {what} must be a dtype (saw: {dtype!r}; {error})') from None
        known = None
    if known is None or known not in [np.dtype(name) for name in allowed]:
        raise ValueError(f'dtype of {what} must be {", ".join(allowed[:-1])} or {allowed[-1]} '
                         f'(saw: {dtype if known is None else known})')
    return known
