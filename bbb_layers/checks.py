# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checks of arguments: each names the argument, its value and the constraint."""
import math
import numbers

__all__ = ['check_positive', 'check_finite', 'check_not_negative', 'check_fraction', 'check_count']


def _number(name, value, kind=numbers.Real):
    if not isinstance(value, kind) or isinstance(value, bool):
        what = 'an integer' if kind is numbers.Integral else 'a number'
        raise TypeError('%s must be %s (saw: %r)' % (name, what, value))
    return value


def check_positive(name, value):
    """``value`` as a float, if it is positive and finite; else ValueError, or TypeError for what is no number.

    Numbers that float32 has no normal form of count as 0 and infinite: most networks compute in it.
    """
    value = float(_number(name, value))
    if not 1.2e-38 < value < 3.4e38:
        raise ValueError('%s must be positive and finite (saw: %r)' % (name, value))
    return value


def check_finite(name, value):
    """``value`` as a float, if it is finite."""
    value = float(_number(name, value))
    if not math.isfinite(value):
        raise ValueError('%s must be finite (saw: %r)' % (name, value))
    return value


def check_not_negative(name, value):
    """``value`` as a float, if it is finite and at least 0."""
    value = float(_number(name, value))
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError('%s must be finite and at least 0 (saw: %r)' % (name, value))
    return value


def check_fraction(name, value, closed=False):
    """``value`` as a float, if it is between 0 and 1, these two included only if ``closed``."""
    value = float(_number(name, value))
    if not (0 <= value <= 1 if closed else 0 < value < 1):
        raise ValueError('%s must be between 0 and 1, %s (saw: %r)' % (
            name, 'both included' if closed else 'both excluded', value))
    return value


def check_count(name, value):
    """``value`` as an int, if it is a whole number of at least 1."""
    value = int(_number(name, value, numbers.Integral))
    if value < 1:
        raise ValueError('%s must be at least 1 (saw: %r)' % (name, value))
    return value
