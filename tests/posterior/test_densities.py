# Licensed under the Apache License, Version 2.0; see the file LICENSE.
import math
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest

from bbb_layers.posterior.densities import student_t_log_normalizer

PI = Decimal('3.14159265358979323846264338327950288419716939937510582097494')
#: The Bernoulli numbers B_2, B_4, ..., B_20.
BERNOULLI = [Fraction(*pair) for pair in [(1, 6), (-1, 30), (1, 42), (-1, 30), (5, 66), (-691, 2730), (7, 6),
                                          (-3617, 510), (43867, 798), (-174611, 330)]]


def log_gamma(z):
    """The logarithm of the gamma function of a positive Decimal to 30 digits, by Stirling's series beyond 100."""
    shift = Decimal(0)
    while z < 100:
        shift -= z.ln()
        z += 1
    series = sum(Decimal(number.numerator) / number.denominator / (2 * k * (2 * k - 1)) / z ** (2 * k - 1)
                 for k, number in enumerate(BERNOULLI, 1))
    return shift + (z - Decimal('0.5')) * z.ln() - z + (2 * PI).ln() / 2 + series


@pytest.mark.parametrize('z,exact', [(1, 0), (5, math.log(24)), (0.5, math.log(math.pi) / 2), (171, math.lgamma(171))])
def test_log_gamma_of_this_file(z, exact):
    with localcontext() as context:
        context.prec = 50
        assert float(log_gamma(Decimal(z))) == pytest.approx(exact, rel=1e-15, abs=1e-15)


@pytest.mark.parametrize('df', [1e-3, 1., 2., 3., 30., 1e3, 1e5, 999998., 999999., 999999.5, 1e6, 1000001., 1e7, 1e9,
                                1e12, 1e15])
def test_student_t_log_normalizer(df):
    """Catches a wrong term of the series for many degrees of freedom, and digits that are lost where it serves.

    At 1e6 the series' term is 2.5e-7.
    """
    with localcontext() as context:
        context.prec = 50
        exact = log_gamma(Decimal(df) / 2 + Decimal('0.5')) - log_gamma(Decimal(df) / 2) - (Decimal(df) * PI).ln() / 2
        error = abs(float(Decimal(student_t_log_normalizer(df)) - exact))
    # Below 1e6 the value is the difference of two numbers that are as large as this and rounded to 53 bits.
    size = max(10., abs(math.lgamma(df / 2))) if df < 1e6 else 20.
    assert error < 4 * 2. ** -53 * size
