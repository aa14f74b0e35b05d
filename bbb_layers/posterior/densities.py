# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Functions that the log densities of priors and likelihoods share."""
import math

__all__ = ['HALF_LOG_2PI', 'half_square', 'student_t_log_normalizer']

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def half_square(z):
    """z^2 / 2 of an NDArray or Symbol; it is finite for every z that is not NaN, and constant beyond |z| = 1e18."""
    return z.clip(-1e18, 1e18).square() * 0.5


def student_t_log_normalizer(df):
    """Log density at 0 of Student's t distribution with scale 1."""
    half = df / 2
    # Beyond 1e6 the difference of the two lgamma values would lose its digits. The next term of the series is
    # 1 / (192 half^3).
    ratio = math.lgamma(half + 0.5) - math.lgamma(half) if df < 1e6 else 0.5 * math.log(half) - 1 / (8 * half)
    return ratio - 0.5 * math.log(df * math.pi)
