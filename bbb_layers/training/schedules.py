# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""KL weights as functions of the step; :mod:`bbb_layers.schedules` says what they are."""
import math
from typing import Callable

from .._mxnet.checks import check_count, check_fraction, check_not_negative

__all__ = ['blundell', 'linear', 'cyclical', 'check_step']


def check_step(step: float, name: str = 'step') -> int:
    """``step`` as an int, if it is a whole number of at least 0; otherwise ValueError or TypeError, with ``name``."""
    if check_not_negative(name, step) != int(step):
        raise ValueError(f'{name} must be a whole number of at least 0 (saw: {step!r})')
    return int(step)


def blundell(num_batches: int) -> Callable[[int], float]:
    r"""Schedule with most of the KL divergence in the first batches of an epoch (Blundell et al. 2015, section 3.4).

    .. math:: M \pi_i, \quad \pi_i = \frac{2^{M - i}}{2^M - 1}, \quad i = 1, \ldots, M

    In the paper, pi_i is the share of the whole KL divergence that batch i of M has. In this package every batch
    already has the share 1 / M, so that the weight is M pi_i; its mean over an epoch is 1. All batches are assumed to
    have the same size.

    Parameters
    ----------
    num_batches : int
        Number of batches M in an epoch, at least 1.

    Returns
    -------
    callable
        step -> weight

    Raises
    ------
    ValueError
        If ``num_batches`` is less than 1.
    """
    num_batches = check_count('num_batches', num_batches)

    def weight(step):
        i = check_step(step) % num_batches + 1
        # 2^(M - i) / (2^M - 1) = 2^-i / (1 - 2^-M), which does not overflow
        return num_batches * math.ldexp(1., -i) / (1 - math.ldexp(1., -num_batches))

    return weight


def linear(num_steps: int, start: float = 0.0) -> Callable[[int], float]:
    """Warm-up: the weight rises linearly from ``start`` at step 0 to 1 at step ``num_steps``, and stays 1 after it.

    Parameters
    ----------
    num_steps : int
        Number of steps in which the weight rises, at least 1.
    start : float, default 0.0
        Weight at step 0, between 0 and 1, both included.

    Returns
    -------
    callable
        step -> weight

    Raises
    ------
    ValueError
        If an argument is outside its range.
    """
    num_steps, start = check_count('num_steps', num_steps), check_fraction('start', start, closed=True)
    return lambda step: start + (1 - start) * min(check_step(step) / num_steps, 1.)


def cyclical(cycle: int, ramp: float = 0.5) -> Callable[[int], float]:
    """Cyclical annealing: in the first part of each cycle the weight rises linearly from 0 to 1, then it stays 1.

    Parameters
    ----------
    cycle : int
        Steps in a cycle, at least 1.
    ramp : float, default 0.5
        Fraction of the cycle in which the weight rises, between 0 and 1, both included.

    Returns
    -------
    callable
        step -> weight

    Raises
    ------
    ValueError
        If an argument is outside its range.

    References
    ----------
    Fu et al.: Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing. NAACL 2019, eq. 6.
    """
    cycle, ramp = check_count('cycle', cycle), check_fraction('ramp', ramp, closed=True)

    def weight(step):
        done = (check_step(step) % cycle) / cycle
        return 1. if done >= ramp else done / ramp

    return weight
