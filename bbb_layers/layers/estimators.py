# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How the noise of the weights reaches a layer's output.

An estimator is a function of

F, x
    as in ``hybrid_forward``
linear(x, weights)
    the Gluon layer's own operator, without activation; weights is a dict name -> array
take(kind)
    a dict name -> what ``kind``, a ``bbb_layers.posterior.gaussian.Kind``, makes of each Parameter's posterior; it
    makes each KL term only once, and makes all uses of a Parameter in one forward agree
example_shape(F, array)
    an array of size 1 along the axes of positions, where one weight serves several positions, and of the size of
    ``array`` along the other axes

and returns the output before the activation. The outputs of all estimators have the same expectation, and are the
output for the posterior mean in predict mode.
"""
from ..posterior.gaussian import Kind, noise_like

__all__ = ['ESTIMATORS', 'sample', 'local', 'flipout']

# The floor is far below any variance that matters, and the square root's derivative there is still finite in float32.
_VARIANCE_FLOOR = 1e-30


def sample(F, x, linear, take, example_shape):
    r"""One draw of the weights for the whole batch (Blundell et al. 2015, section 3.2).

    .. math:: y_n = W x_n + b, \quad W, b \sim q
    """
    return linear(x, take(Kind.DRAW))


def local(F, x, linear, take, example_shape):
    r"""Local reparameterization: noise on each output, with the variance that the weights give to the output.

    .. math:: y_{nj} = \mu_j^T x_n + \sqrt{(\sigma_j^2)^T x_n^2} \; \epsilon_{nj}

    The estimator is exact for one position per example. Where one weight serves several positions (convolutions, Dense
    with ``flatten=False``), each output has the right marginal distribution, but the outputs of one example are drawn
    independently, while with a draw of the weights they would depend on each other. If the KL divergence has no closed
    form for the prior, the KL term takes a separate draw of the weights.

    Kingma, Salimans, Welling: Variational Dropout and the Local Reparameterization Trick. NIPS 2015, eq. 6.
    """
    parts = take(Kind.SPREAD)
    mean = linear(x, {name: part[0] for name, part in parts.items()})
    variance = linear(F.square(x), {name: part[1] for name, part in parts.items()})
    # Without the floor, an output without variance (an input of zeros, a border) would have gradient 0 * inf = NaN.
    return mean + F.sqrt(F.maximum(variance, _VARIANCE_FLOOR)) * noise_like(F, mean)


def flipout(F, x, linear, take, example_shape):
    r"""Flipout: one draw of the weights, whose deviation from the mean gets random signs for each example.

    .. math:: y_n = \bar W x_n + (\Delta W (x_n \odot s_n) + \Delta b) \odot r_n, \quad
        s_n, r_n \sim \{-1, 1\}

    The draws of different examples are uncorrelated. Each example has one sign for each input feature and one for each
    output feature (in a convolution, for each channel). The signs are the same at all positions of the example.

    Wen, Vicol, Ba, Tran, Grosse: Flipout. ICLR 2018, eq. 4.
    """
    parts = take(Kind.SPLIT)
    mean = linear(x, {name: part[0] for name, part in parts.items()})
    flipped = F.broadcast_mul(x, _signs(F, example_shape(F, x)))
    deviation = linear(flipped, {name: part[1] for name, part in parts.items()})
    return mean + F.broadcast_mul(deviation, _signs(F, example_shape(F, mean)))


def _signs(F, like):
    return F.BlockGrad(2 * (F.random.uniform_like(F.BlockGrad(like)) < 0.5) - 1)


ESTIMATORS = {function.__name__: function for function in (sample, local, flipout)}
